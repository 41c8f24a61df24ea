//! The v2 part of the cgroup contract on a real cgroup2: the tree itself, and tasks of an agent on it.
//!
//! This machine may have no v2 controllers, so the test boots a kernel that has: this program is also the
//! first process of a small virtual machine (qemu, without KVM) with the agent and the helper in it, where it
//! runs the contract and says on the serial line how that went. Where qemu or a kernel is missing it says so and
//! passes. It shows what is right, not how fast: emulation is about eight times slower.

#[path = "../machine/common.rs"]
#[allow(dead_code, reason = "shared with the tests of the machine itself")]
mod common;
#[path = "../machine/controller.rs"]
#[allow(dead_code, reason = "shared with the tests of the machine itself")]
mod controller;
#[path = "../machine/cores.rs"]
mod cores;
mod guest;
mod hog;
mod host;
mod initramfs;
#[path = "../machine/machine.rs"]
#[allow(dead_code, reason = "shared with the tests of the machine itself")]
mod machine;
mod tasks;
mod tree;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

type Checked = Result<(), Box<dyn Error>>;

const MIB: u64 = 1 << 20;

/// What begins the lines that the virtual machine says of its checks.
const OK: &str = "CONTRACT ok";
const FAILED: &str = "CONTRACT failed";
const NOT_RUN: &str = "CONTRACT not run";
/// Said last.
const END: &str = "CONTRACT end";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        ["hog", leaf, mib, how] => hog::in_leaf(leaf, mib.parse().unwrap_or(1), how),
        ["take", mib, how] => hog::take(mib.parse().unwrap_or(1), how),
        ["checks"] => guest::run_checks(),
        _ if std::process::id() == 1 => guest::init(),
        _ => host::run(),
    }
}

fn print(text: &str) {
    // A closed standard output changes nothing of the outcome.
    let _written = std::io::stdout().write_all(text.as_bytes());
}

fn ensure(holds: bool, what: impl Into<String>) -> Checked {
    match holds {
        true => Ok(()),
        false => Err(what.into().into()),
    }
}
