//! A program that takes memory, in a leaf or in a task.

use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};

use crate::tree::SUBTREE;
use crate::{Checked, MIB};

/// What a task reads again and again.
const FILE: &str = "/tmp/file";
const FILE_MIB: u64 = 80;

/// Starts a process that joins `leaf` and takes memory there.
pub(crate) fn start(leaf: &str, mib: u64, how: &str) -> Result<Child, Box<dyn std::error::Error>> {
    let child = Command::new("/proc/self/exe")
        .args(["hog", leaf, &mib.to_string(), how])
        .spawn()?;
    Ok(child)
}

pub(crate) fn in_leaf(leaf: &str, mib: u64, how: &str) -> ExitCode {
    let joined = SUBTREE.open().and_then(|tree| tree.join(leaf));
    match joined {
        Ok(()) => take(mib, how),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Takes `mib` of memory and keeps it. It ends by its signal, or if it is `orderly` by its handler of that with code 7;
/// a `deaf` one ignores it. A `busy` one goes on to take and give back a little, one that `reads` goes through a file of
/// 80 MiB again and again, one that `forks` starts 40 others.
pub(crate) fn take(mib: u64, how: &str) -> ExitCode {
    if listen(how).is_err() {
        return ExitCode::FAILURE;
    }
    if how == "forks" {
        let another = || {
            Command::new("/proc/self/exe")
                .args(["take", "1", "waits"])
                .spawn()
        };
        let refused = (0..40).filter(|_| another().is_err()).count();
        return ExitCode::from(u8::try_from(refused).unwrap_or(u8::MAX));
    }
    let mut held = Vec::new();
    for _ in 0..mib {
        held.push(vec![1_u8; MIB as usize]);
    }
    if how == "reads" && write_file().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        match how {
            "reads" => {
                let read =
                    fs::File::open(FILE).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
                if !read.is_ok_and(|bytes| bytes == FILE_MIB * MIB) {
                    return ExitCode::FAILURE;
                }
            }
            "busy" => {
                std::thread::sleep(Duration::from_millis(5));
                // In memory, and charged anew each time.
                if fs::write("/tmp/busy", &held[0]).is_err() {
                    return ExitCode::FAILURE;
                }
            }
            _ => std::thread::sleep(Duration::from_secs(1)),
        }
        black_box(&held);
    }
}

fn write_file() -> io::Result<()> {
    let mut file = fs::File::create(FILE)?;
    let piece = vec![1_u8; MIB as usize];
    (0..FILE_MIB).try_for_each(|_| file.write_all(&piece))
}

fn listen(how: &str) -> Checked {
    extern "C" fn end_in_order(_signal: i32) {
        let words = b"saved\n";
        // SAFETY: `write` and `_exit` may be called in a signal handler; the words live as long as the program.
        unsafe {
            libc::write(1, words.as_ptr().cast(), words.len());
            libc::_exit(7)
        };
    }
    let handler = match how {
        "orderly" => SigHandler::Handler(end_in_order),
        "deaf" => SigHandler::SigIgn,
        _ => return Ok(()),
    };
    // SAFETY: the handler calls nothing but what may be called in one.
    unsafe { signal(Signal::SIGTERM, handler) }?;
    Ok(())
}
