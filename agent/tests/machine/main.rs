//! Real tasks in real sandboxes and cgroups. Needs root.

mod agent;
mod cgroup;
mod common;
mod controller;
mod counters;
mod disk;
mod endurance;
mod escape;
mod exec;
mod faults;
mod helper;
mod hooks;
mod image;
mod machine;
mod memory;
mod restart;
mod sandbox;
mod volume;
