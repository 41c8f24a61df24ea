//! The service from outside: a real server in a folder of its own, callers through the one client, and an
//! agent that is played by the test.

mod access;
mod agents;
mod control;
mod jobs;
mod packages;
mod pages;
mod recovery;
mod sessions;
mod support;
