//! The evaluator: one interpreter, and a sealed child of it for each spec.
//!
//! `tw` and the controller start this program with a Unix `SOCK_SEQPACKET` socket as standard input.
//! It brings up an isolated CPython, loads what specs may import, and becomes a zygote: single-threaded,
//! it reads one [`message::Request`] a datagram, forks, seals the child and lets it evaluate one spec over
//! the socket that came with the request. It knows nothing of repositories; the child asks its parent.

mod clock;
mod faults;
mod filter;
mod frame;
mod heap;
mod host;
mod image;
mod interpreter;
mod kept;
mod message;
mod seal;
mod watch;
mod zygote;

use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, bail};

/// What the command line says of the interpreter.
#[derive(Debug, Default)]
struct Options {
    /// Seeds the hashes of text, and with them the order of sets.
    hash_seed: u32,
    /// Small objects to allocate first, which moves everything after them in memory.
    heap_shift: u32,
}

fn main() -> anyhow::Result<()> {
    // SAFETY: there is one thread. The variable was for the loader, and specs have an empty environment.
    unsafe { std::env::remove_var("LD_BIND_NOW") };
    let options = options(std::env::args().skip(1))?;
    let control = control_socket()?;
    let seal = seal::Seal::new().context("cannot prepare the seal of the children")?;
    interpreter::start(options.hash_seed, options.heap_shift != 0)?;
    zygote::run(control, seal, options.heap_shift)
}

fn options(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options::default();
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{name} needs a value"))?;
        let number = value
            .parse()
            .with_context(|| format!("{name} takes a number, not '{value}'"))?;
        match name.as_str() {
            "--hash-seed" => options.hash_seed = number,
            "--heap-shift" => options.heap_shift = number,
            _ => bail!("unknown option '{name}'; there are --hash-seed N and --heap-shift N"),
        }
    }
    Ok(options)
}

/// Takes standard input as the control socket.
fn control_socket() -> anyhow::Result<OwnedFd> {
    use nix::sys::socket::{SockType, getsockopt, sockopt};
    // SAFETY: standard input is open from the start of the program and nothing else in it reads from it.
    let control = unsafe { OwnedFd::from_raw_fd(0) };
    match getsockopt(&control, sockopt::SockType) {
        Ok(SockType::SeqPacket) => Ok(control),
        _ => bail!(
            "tw-eval is started by tw and the controller, with a socket as its standard input; use `tw eval PATH`"
        ),
    }
}
