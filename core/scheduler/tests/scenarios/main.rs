//! Scenarios on a small cluster whose agents do at once what they are told.

mod allowances;
mod cluster;
mod constraints;
mod control;
mod daemons;
mod drains;
mod jobs;
mod once;
mod orders;
mod outages;
mod priorities;
mod remedies;
mod runs;
mod scaling;
mod surge;
mod updates;
