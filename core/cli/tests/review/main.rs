//! What a reviewer reads: a history of realistic edits in all formats, what people do wrong, and what git itself shows.
//!
//! Needs `tw-eval` beside `tw`: `cargo build --workspace --bins`.

mod bad_input;
mod edits;
mod git_diff;
mod history;
#[path = "../support/ran.rs"]
mod ran;
mod recipes;
mod repository;
mod secrets;
