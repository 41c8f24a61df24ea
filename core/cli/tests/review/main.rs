//! What a reviewer reads: a history of realistic edits in all formats, what people do wrong, and what git itself shows.
//!
//! Needs `tw-eval` beside `tw`: `cargo build --workspace --bins`.

mod bad_input;
mod edits;
mod git_diff;
mod history;
mod recipes;
mod repository;
