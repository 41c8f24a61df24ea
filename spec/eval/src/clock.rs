//! The clock of this program, which stands still in a sealed child.
//!
//! The interpreter reads the clock for its own purposes, even to take a lock that is free, so a sealed child
//! must have one. This program therefore provides the function that everything in it, the interpreter's library
//! included, reads the clock with. Behind it there is nothing: the kernel's pages that tell the time without a
//! system call are unmapped, the processor's counter is a fault to read, and the system call is denied.

use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static STANDS_STILL: AtomicBool = AtomicBool::new(false);

/// Takes the place of the C library's function of this name.
///
/// # Safety
///
/// As for that: `time` must lead to memory that can be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    if STANDS_STILL.load(Ordering::Relaxed) {
        // SAFETY: the caller vouches for the pointer.
        unsafe { time.write(std::mem::zeroed()) };
        return 0;
    }
    // SAFETY: as the caller's call.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int }
}

/// Where the kernel put code and data to tell the time without a system call.
#[derive(Default)]
pub(crate) struct KernelPages(Vec<Range<usize>>);

impl KernelPages {
    /// Finds the pages in this process; children have them at the same addresses.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn find() -> io::Result<KernelPages> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let names = ["[vdso]", "[vvar]", "[vvar_vclock]"];
        let found = maps
            .lines()
            .filter(|line| names.iter().any(|name| line.ends_with(name)));
        let range = |line: &str| {
            // As in `7ffd1000-7ffd2000 r-xp …`.
            let (start, end) = line.split_whitespace().next()?.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            Some(number(start)?..number(end)?)
        };
        Ok(KernelPages(found.filter_map(range).collect()))
    }

    /// Finds none: elsewhere the return from a signal handler goes through these pages.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn find() -> io::Result<KernelPages> {
        Ok(KernelPages::default())
    }
}

/// The pages that have been unmapped.
static GONE: OnceLock<KernelPages> = OnceLock::new();

/// Says whether an instruction at `address` was a way to the clock that is closed. For signal handlers.
pub(crate) fn is_behind(address: usize) -> bool {
    let pages = GONE.get().map_or(&[][..], |pages| &pages.0);
    pages.iter().any(|pages| pages.contains(&address))
}

/// Stops the clock of the calling process for good.
pub(crate) fn stop(pages: KernelPages) -> io::Result<()> {
    const PR_SET_TSC: libc::c_int = 26;
    const PR_TSC_SIGSEGV: libc::c_ulong = 2;
    STANDS_STILL.store(true, Ordering::Relaxed);
    // SAFETY: changes what this process may read, nothing in memory. A processor without the switch refuses,
    // and has no counter that is read this way.
    unsafe { libc::prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0) };
    for pages in &GONE.get_or_init(|| pages).0 {
        // SAFETY: only the C library's own functions lead there. The one that the interpreter calls is this
        // module's; any other is a fault from here on, as it should be.
        if unsafe { libc::munmap(pages.start as *mut libc::c_void, pages.len()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
