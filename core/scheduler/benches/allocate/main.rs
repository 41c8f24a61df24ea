//! How fast tasks are placed, and how full the machines get: the search alone, whole decisions, and what a large
//! cluster costs at rest. One JSON line a figure.
//!
//! `TW_TRACES=DIR` names a folder with the Google 2011 files; without it only made-up machines and tasks are used.

mod chance;
mod decisions;
mod peers;
mod rest;
mod scale;
mod trace;

use std::io::Write;

fn main() {
    trace::run();
    scale::run();
    decisions::run();
    rest::run();
}

pub(crate) fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("someone reads");
}
