//! Where the interpreter of the zygote keeps its objects: in huge pages, where the kernel has them.
//!
//! A fork copies one entry for a huge page instead of 512, and the end of a child takes them away as quickly. What a
//! child writes to is still copied in small pages.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ptr;

use anyhow::Context;
use pyo3::ffi;

/// What the interpreter asks for at a time.
const ARENA_BYTES: usize = 1 << 20;
const HUGE_BYTES: usize = 2 << 20;
/// Several times what the zygote's library takes.
const REGION_BYTES: usize = 32 << 20;
const ARENAS: usize = REGION_BYTES / ARENA_BYTES;

/// Which arenas of the region are in use.
struct Region {
    start: usize,
    used: [bool; ARENAS],
}

struct Cell(UnsafeCell<Region>);

// SAFETY: the interpreter asks for arenas with its lock held, and zygote and children have one thread each.
unsafe impl Sync for Cell {}

static REGION: Cell = Cell(UnsafeCell::new(Region {
    start: 0,
    used: [false; ARENAS],
}));

/// Has the interpreter, which is not started yet, keep its objects here.
pub(crate) fn provide() -> anyhow::Result<()> {
    let bytes = REGION_BYTES + HUGE_BYTES;
    let reserved = map(bytes).context("memory for the interpreter")? as usize;
    let start = reserved.next_multiple_of(HUGE_BYTES);
    // SAFETY: the calls are about the mapping that was just made and that nothing uses yet; advice may be refused.
    unsafe {
        libc::munmap(reserved as *mut c_void, start - reserved);
        let end = start + REGION_BYTES;
        libc::munmap(end as *mut c_void, reserved + bytes - end);
        libc::madvise(start as *mut c_void, REGION_BYTES, libc::MADV_HUGEPAGE);
        (*REGION.0.get()).start = start;
        let mut own = ffi::PyObjectArenaAllocator {
            ctx: ptr::null_mut(),
            alloc: Some(allocate),
            free: Some(free),
        };
        ffi::PyObject_SetArenaAllocator(&mut own);
    }
    Ok(())
}

fn map(bytes: usize) -> std::io::Result<*mut c_void> {
    // SAFETY: a new mapping at a place that the kernel chooses.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    match memory {
        libc::MAP_FAILED => Err(std::io::Error::last_os_error()),
        memory => Ok(memory),
    }
}

extern "C" fn allocate(_context: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: see `Cell`.
    let region = unsafe { &mut *REGION.0.get() };
    let unused = (bytes == ARENA_BYTES)
        .then(|| region.used.iter().position(|used| !used))
        .flatten();
    match unused {
        Some(index) => {
            region.used[index] = true;
            (region.start + index * ARENA_BYTES) as *mut c_void
        }
        None => map(bytes).unwrap_or(ptr::null_mut()),
    }
}

extern "C" fn free(_context: *mut c_void, arena: *mut c_void, bytes: usize) {
    // SAFETY: see `Cell`.
    let region = unsafe { &mut *REGION.0.get() };
    match (arena as usize).wrapping_sub(region.start) {
        offset if offset < REGION_BYTES => region.used[offset / ARENA_BYTES] = false,
        // SAFETY: `allocate` has mapped this memory, and the interpreter is done with it.
        _ => drop(unsafe { libc::munmap(arena, bytes) }),
    }
}
