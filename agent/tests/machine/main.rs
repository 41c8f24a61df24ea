//! Real tasks in real sandboxes and cgroups. Needs root.

mod agent;
mod cgroup;
mod common;
mod controller;
mod disk;
mod endurance;
mod exec;
mod faults;
mod helper;
mod hooks;
mod machine;
mod memory;
mod restart;
mod sandbox;
mod volume;
