//! What a child does when the kernel signals it: it says where it was, and ends.
//!
//! A spec that uses up its processor time, or makes a call that is denied, is told so twice: the first signal is
//! passed to the handler in Python, which names the line and column; if the interpreter is too deep in one
//! operation to run that, the second ends it from here. So does a fault, such as a stack that is full or a clock
//! that is read behind the library's back.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use pyo3::ffi;

use crate::frame::{self, Kind};
use crate::seal::{NOTES_IN, NOTES_OUT, SOCKET};
use crate::{clock, host};

/// The time between the signal for Python and the one that ends the child, in milliseconds of processor time.
const SECOND_SIGNAL_MS: u64 = 250;
const STACK_BYTES: usize = 64 * 1024;
const NOTES_BYTES_MAX: usize = 16 * 1024;
const EXIT_CODE: i32 = 72;

unsafe extern "C" {
    /// Writes the interpreter's stack as text, from any state it is in; what its own fault handler calls.
    fn _Py_DumpTraceback(descriptor: libc::c_int, thread: *mut ffi::PyThreadState);
}

static TOLD: AtomicBool = AtomicBool::new(false);

/// Installs the handlers and starts the count of processor time. A sealed child cannot undo either.
pub(crate) fn catch(cpu_ms: u64) -> io::Result<()> {
    stand_on_another_stack()?;
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
    let fault = SigAction::new(SigHandler::SigAction(on_fault), flags, SigSet::all());
    let told = SigAction::new(SigHandler::SigAction(on_told), flags, SigSet::all());
    // SAFETY: both handlers call only what may be called in one, and write to memory that is theirs.
    unsafe {
        for signal in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGABRT,
        ] {
            sigaction(signal, &fault)?;
        }
        sigaction(Signal::SIGPROF, &told)?;
        sigaction(Signal::SIGSYS, &told)?;
    }
    let timer = libc::itimerval {
        it_interval: time_value(SECOND_SIGNAL_MS),
        it_value: time_value(cpu_ms),
    };
    // SAFETY: the pointer leads to a complete value, and the old one is not asked for.
    match unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the handlers a stack of their own, for the child's may be full.
fn stand_on_another_stack() -> io::Result<()> {
    let memory = Box::leak(Box::new([MaybeUninit::<u8>::uninit(); STACK_BYTES]));
    let stack = libc::stack_t {
        ss_sp: memory.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: STACK_BYTES,
    };
    // SAFETY: the memory is never given back, and nothing else uses it.
    match unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn time_value(ms: u64) -> libc::timeval {
    libc::timeval {
        tv_sec: (ms / 1000) as libc::time_t,
        tv_usec: (ms % 1000 * 1000) as libc::suseconds_t,
    }
}

/// Passes the first signal on; the second ends the process.
extern "C" fn on_told(
    signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    if TOLD.swap(true, Ordering::Relaxed) {
        end(signal, false);
    }
    // SAFETY: documented to be callable from a signal handler, without the interpreter's lock.
    unsafe { ffi::PyErr_SetInterruptEx(signal) };
}

extern "C" fn on_fault(
    signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    end(signal, signal == libc::SIGSEGV && read_the_clock(context));
}

/// Sends where the interpreter is and ends the process.
fn end(signal: libc::c_int, clock: bool) -> ! {
    let mut notes = [0; NOTES_BYTES_MAX];
    notes[0] = signal as u8;
    notes[1] = clock.into();
    // SAFETY: the interpreter's own function for this situation, on a pipe that does not block; then a read
    // into a buffer of this function.
    let length = unsafe {
        _Py_DumpTraceback(NOTES_IN, ffi::PyGILState_GetThisThreadState());
        libc::read(NOTES_OUT, notes[2..].as_mut_ptr().cast(), notes.len() - 2)
    };
    let length = 2 + usize::try_from(length).unwrap_or(0);
    let _ = frame::write(SOCKET, Kind::Fault, &notes[..length]);
    host::leave(EXIT_CODE)
}

/// Says whether the instruction at fault is one that reads the processor's time stamp counter, or stands where
/// the kernel's own way to the clock was.
#[cfg(target_arch = "x86_64")]
fn read_the_clock(context: *mut libc::c_void) -> bool {
    const RDTSC: [u8; 2] = [0x0f, 0x31];
    const RDTSCP: [u8; 3] = [0x0f, 0x01, 0xf9];
    /// Where the library and the interpreter can be: below the kernel's half, above the first page.
    const PROGRAM: std::ops::Range<usize> = 0x1000..0x7fff_ffff_f000;
    // SAFETY: the kernel hands over a complete context.
    let at = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs }
        [libc::REG_RIP as usize] as usize;
    if clock::is_behind(at) {
        return true;
    }
    // SAFETY: an instruction that faulted when it ran was fetched from memory that can be read; a jump to
    // nowhere faults a second time here, with the signal blocked, which ends the process.
    PROGRAM.contains(&at)
        && unsafe {
            let bytes = (at as *const [u8; 3]).read_unaligned();
            bytes[..2] == RDTSC || bytes == RDTSCP
        }
}

#[cfg(not(target_arch = "x86_64"))]
fn read_the_clock(_context: *mut libc::c_void) -> bool {
    false
}
