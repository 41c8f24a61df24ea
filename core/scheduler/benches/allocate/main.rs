//! How fast tasks are placed, and how full the machines get: the search alone, whole decisions, and what a large
//! cluster at rest and tasks without room cost. One JSON line a figure.
//!
//! `TW_TRACES=DIR` names a folder with the Google 2011 files; without it only made-up machines and tasks are used.
//! Names of parts after `--` (`trace`, `scale`, `decisions`, `rest`, `waiting`) run these alone.

mod chance;
mod choosy;
mod decisions;
mod peers;
mod rest;
mod scale;
mod trace;
mod waiting;

use std::io::Write;

fn main() {
    tw_allocator::begin();
    let parts: [(&str, fn()); 5] = [
        ("trace", trace::run),
        ("scale", scale::run),
        ("decisions", decisions::run),
        ("rest", rest::run),
        ("waiting", waiting::run),
    ];
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &str| asked.iter().any(|arg| arg == name);
    let any = parts.iter().any(|(name, _)| named(name));
    let chosen = parts.iter().filter(|(name, _)| !any || named(name));
    chosen.for_each(|(_, run)| run());
}

pub(crate) fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("someone reads");
}
