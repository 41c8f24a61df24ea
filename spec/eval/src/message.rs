//! What travels on the control socket and the status pipe. `tw-spec` holds the other side of each.

use serde::{Deserialize, Serialize};

/// The version of what the two sides say; they are of one build, so any difference is an error.
pub(crate) const PROTOCOL: u32 = 5;

/// The first datagram from the zygote: it is ready.
#[derive(Debug, Serialize)]
pub(crate) struct Hello<'a> {
    pub(crate) protocol: u32,
    /// The version of this program.
    pub(crate) version: &'a str,
    /// The version of the interpreter, as `3.11.2`.
    pub(crate) python: &'a str,
    /// Whether the kernel enforces Landlock besides seccomp.
    pub(crate) landlock: bool,
    /// The file that the interpreter was loaded from.
    pub(crate) library: &'a str,
}

/// One datagram to the zygote: a child was given its job, and the next one is to be made. Of a child to be made, two
/// descriptors come along: its socket, and the pipe on which the zygote says how it ended.
#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    pub(crate) begun: Option<Begun>,
    pub(crate) make: Option<Make>,
}

/// A child's time counts from now.
#[derive(Debug, Deserialize)]
pub(crate) struct Begun {
    pub(crate) child: u64,
    /// Time in milliseconds after which it is killed.
    pub(crate) wall_ms: u64,
}

/// A child that is to wait for its job.
#[derive(Debug, Deserialize)]
pub(crate) struct Make {
    /// The parent's number for it.
    pub(crate) child: u64,
    pub(crate) limits: Limits,
    /// Whether it is to do one job after the other; where that cannot be, none is made.
    pub(crate) is_kept: bool,
}

/// What a child may use.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Limits {
    /// Processor time in milliseconds after which the child ends with an error that names its line.
    pub(crate) cpu_ms: u64,
    /// Address space in bytes.
    pub(crate) memory_bytes: u64,
}

/// What a child does: the first frame on its socket, and the only one that it does not ask for.
#[derive(Debug, Deserialize)]
pub(crate) struct Job {
    /// What is run: `spec`, `test` or `policy`; or `compile`, which runs no file.
    pub(crate) role: String,
    /// The file, relative to the repository's root.
    pub(crate) path: String,
    /// Whether the places of a value include the definitions that it refers to.
    pub(crate) references: bool,
}

/// What the zygote writes to the status pipe, on a line of its own, before it answers a call that the seal
/// does not allow.
#[derive(Debug, Serialize)]
pub(crate) struct Denied {
    /// The number of the system call.
    pub(crate) denied: i32,
    /// Its third argument.
    pub(crate) argument: u64,
}

/// What the zygote writes to the status pipe, on a line of its own, when a kept child is as it was made, and waits.
#[derive(Debug, Serialize)]
pub(crate) struct Rested {
    pub(crate) rested: bool,
}

/// What the zygote writes to the status pipe when a child is gone: the last line.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Ended {
    /// The exit code, if it exited.
    pub(crate) exit_code: Option<i32>,
    /// The signal that killed it, if one did.
    pub(crate) signal: Option<i32>,
    /// Whether the zygote killed it at its deadline.
    pub(crate) deadline: bool,
}
