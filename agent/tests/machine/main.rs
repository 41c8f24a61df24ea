//! Real tasks in real sandboxes and cgroups. Needs root.

mod cgroup;
mod common;
mod exec;
mod helper;
mod sandbox;
