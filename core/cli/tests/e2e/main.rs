//! The built programs, end to end: real controllers, agents, sandboxes and specs in state folders of their own.
//!
//! Needs root. `cargo build --workspace --bins` builds the programs that stand beside `tw`.

mod all_at_once;
mod authors;
mod cluster;
mod etcd;
mod examples;
mod fairness;
mod faults;
mod following;
mod inside;
mod kills;
mod limits;
mod maintenance;
mod mistakes;
mod once;
mod ordinary;
mod plans;
mod probe;
#[path = "../support/ran.rs"]
mod ran;
mod remotes;
mod replay;
mod repository;
mod secrets;
mod shapes;
mod steering;
mod suggestions;
mod terminal;
