//! Real tasks in real sandboxes and cgroups. Needs root.

mod common;
mod helper;
mod sandbox;
