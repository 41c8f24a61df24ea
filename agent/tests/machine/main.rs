//! Real tasks in real sandboxes and cgroups. Needs root.

mod agent;
mod cgroup;
mod clock;
mod common;
mod controller;
mod cores;
mod counters;
mod disk;
mod endurance;
mod escape;
mod exec;
mod faults;
mod grants;
mod helper;
mod hooks;
mod identity;
mod image;
mod machine;
mod memory;
mod ordinary;
mod protocol;
mod restart;
mod sandbox;
mod secrets;
mod upgrade;
mod volume;
