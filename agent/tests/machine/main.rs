//! Real tasks in real sandboxes and cgroups. Needs root.

mod agent;
mod cgroup;
mod common;
mod controller;
mod exec;
mod helper;
mod memory;
mod sandbox;
