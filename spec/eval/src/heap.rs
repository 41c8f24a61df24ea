//! The heap of a sealed child: what a spec allocates comes from fresh memory in one piece.
//!
//! The interpreter's own allocator would serve a child from the gaps of the zygote's pools, each in a page that the
//! kernel has to copy first. Here the pages are new, close together, and made by one system call. Nothing that the
//! zygote allocated is ever given back: a child ends within milliseconds, and giving back copies a page, too.
//!
//! Blocks of up to [`SMALL_BYTES_MAX`] come from pages that hold one size each; larger ones have a header with their
//! size. What does not fit comes from the interpreter's allocator.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ptr;

use anyhow::Context;
use pyo3::ffi;

/// Bytes of the region, of which a small spec uses a tenth. Pages that are not used cost nothing.
const REGION_BYTES: usize = 4 << 20;
/// The part of it for small blocks.
const SMALL_REGION_BYTES: usize = 3 << 20;
/// What a spec of a few jobs needs; made at once, which takes half the time that a fault for each page would.
const SMALL_EXPECTED_BYTES: usize = 256 << 10;
const LARGE_EXPECTED_BYTES: usize = 128 << 10;

const PAGE_BYTES: usize = 4096;
const PAGES: usize = SMALL_REGION_BYTES / PAGE_BYTES;
/// What the interpreter expects of every block.
const ALIGNMENT: usize = 16;
const SMALL_BYTES_MAX: usize = 512;
const SMALL_CLASSES: usize = SMALL_BYTES_MAX / ALIGNMENT;
/// Large blocks are rounded up to powers of two, from 1 KiB to 256 KiB.
const LARGE_BYTES_MAX: usize = 256 << 10;
const LARGE_CLASSES: usize = 9;

/// A block that was given back, which holds the next one.
struct Free {
    next: *mut Free,
}

/// Before each large block.
#[repr(C, align(16))]
struct Header {
    class: usize,
}

/// Blocks of one size.
#[derive(Clone, Copy)]
struct Class {
    free: *mut Free,
    /// The part of its page that was never used: addresses.
    unused: (usize, usize),
}

struct Heap {
    /// Where the region begins; 0 before there is one.
    start: usize,
    /// The next page for small blocks, by its number, and the next large block.
    page: usize,
    large: usize,
    small_classes: [Class; SMALL_CLASSES],
    large_free: [*mut Free; LARGE_CLASSES],
    /// The class of each page.
    class_of_page: [u8; PAGES],
    /// Whether blocks are laid out from the end of each page to its start.
    is_reversed: bool,
    /// Whether the interpreter's allocator has made a block for this child.
    has_others: bool,
    before: ffi::PyMemAllocatorEx,
}

/// A process has one, and one thread that uses it.
struct Cell(UnsafeCell<Heap>);

// SAFETY: the interpreter calls its allocators with its lock held, and a child has one thread.
unsafe impl Sync for Cell {}

static HEAP: Cell = Cell(UnsafeCell::new(Heap {
    start: 0,
    page: 0,
    large: 0,
    small_classes: [Class {
        free: ptr::null_mut(),
        unused: (0, 0),
    }; SMALL_CLASSES],
    large_free: [ptr::null_mut(); LARGE_CLASSES],
    class_of_page: [0; PAGES],
    is_reversed: false,
    has_others: false,
    before: ffi::PyMemAllocatorEx {
        ctx: ptr::null_mut(),
        malloc: None,
        calloc: None,
        realloc: None,
        free: None,
    },
}));

/// Keeps a region for the heaps of children; nothing of it is touched in the zygote. With `is_reversed`, blocks have
/// another order in memory.
pub(crate) fn reserve(is_reversed: bool) -> anyhow::Result<()> {
    // SAFETY: a new mapping of memory, at a place that the kernel chooses.
    let region = unsafe {
        libc::mmap(
            ptr::null_mut(),
            REGION_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if region == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).context("memory for the heaps of children");
    }
    // SAFETY: the zygote has one thread, and no allocator of this module is in use yet.
    let heap = unsafe { &mut *HEAP.0.get() };
    heap.start = region as usize;
    heap.large = heap.start + SMALL_REGION_BYTES;
    heap.is_reversed = is_reversed;
    Ok(())
}

/// In a child: lets the interpreter allocate from the region from here on.
pub(crate) fn enter() {
    // SAFETY: the child has one thread, which holds the interpreter's lock; the allocators that are replaced stay in
    // use for what they have made.
    unsafe {
        let heap = &mut *HEAP.0.get();
        for (offset, bytes) in [
            (0, SMALL_EXPECTED_BYTES),
            (SMALL_REGION_BYTES, LARGE_EXPECTED_BYTES),
        ] {
            // An old kernel refuses; then there is a fault for each page.
            libc::madvise(
                (heap.start + offset) as *mut c_void,
                bytes,
                libc::MADV_POPULATE_WRITE,
            );
        }
        ffi::PyMem_GetAllocator(
            ffi::PyMemAllocatorDomain::PYMEM_DOMAIN_OBJ,
            &mut heap.before,
        );
        let mut own = ffi::PyMemAllocatorEx {
            ctx: ptr::null_mut(),
            malloc: Some(malloc),
            calloc: Some(calloc),
            realloc: Some(realloc),
            free: Some(free),
        };
        ffi::PyMem_SetAllocator(ffi::PyMemAllocatorDomain::PYMEM_DOMAIN_OBJ, &mut own);
        ffi::PyMem_SetAllocator(ffi::PyMemAllocatorDomain::PYMEM_DOMAIN_MEM, &mut own);
    }
}

/// The heap, for one call of the interpreter.
fn heap() -> &'static mut Heap {
    // SAFETY: see `Cell`; no function of this module keeps the reference beyond its call, and none calls back into
    // the interpreter other than its own allocator, which does not come here.
    unsafe { &mut *HEAP.0.get() }
}

extern "C" fn malloc(_context: *mut c_void, bytes: usize) -> *mut c_void {
    let heap = heap();
    match heap.allocate(bytes) {
        Some(block) => block as *mut c_void,
        // SAFETY: the interpreter's own function with its own context.
        None => heap
            .before
            .malloc
            .map_or(ptr::null_mut(), |malloc| malloc(heap.before.ctx, bytes)),
    }
}

extern "C" fn calloc(_context: *mut c_void, count: usize, bytes: usize) -> *mut c_void {
    let Some(all) = count.checked_mul(bytes) else {
        return ptr::null_mut();
    };
    let block = malloc(ptr::null_mut(), all);
    if !block.is_null() {
        // SAFETY: the block has this many bytes.
        unsafe { ptr::write_bytes(block.cast::<u8>(), 0, all) };
    }
    block
}

extern "C" fn realloc(_context: *mut c_void, block: *mut c_void, bytes: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(ptr::null_mut(), bytes);
    }
    let heap = heap();
    let Some(held) = heap.capacity(block as usize) else {
        return heap.before.realloc.map_or(ptr::null_mut(), |realloc| {
            realloc(heap.before.ctx, block, bytes)
        });
    };
    if bytes <= held && bytes > held / 2 {
        return block;
    }
    let moved = malloc(ptr::null_mut(), bytes);
    if !moved.is_null() {
        // SAFETY: both blocks have at least this many bytes and are not the same.
        unsafe { ptr::copy_nonoverlapping(block.cast::<u8>(), moved.cast(), held.min(bytes)) };
        free(ptr::null_mut(), block);
    }
    moved
}

extern "C" fn free(_context: *mut c_void, block: *mut c_void) {
    let heap = heap();
    if block.is_null() || heap.give_back(block as usize) || !heap.has_others {
        return;
    }
    if let Some(free) = heap.before.free {
        free(heap.before.ctx, block);
    }
}

impl Heap {
    /// The address of a block; none where the interpreter's allocator must be asked, whose blocks are given back
    /// from then on.
    fn allocate(&mut self, bytes: usize) -> Option<usize> {
        let block = if bytes <= SMALL_BYTES_MAX {
            self.small(bytes.saturating_sub(1) / ALIGNMENT)
        } else if bytes <= LARGE_BYTES_MAX {
            self.large(large_class(bytes))
        } else {
            None
        };
        self.has_others |= block.is_none();
        block
    }

    fn small(&mut self, class: usize) -> Option<usize> {
        let bytes = (class + 1) * ALIGNMENT;
        let blocks = &mut self.small_classes[class];
        if let Some(block) = popped(&mut blocks.free) {
            return Some(block);
        }
        if blocks.unused.1 - blocks.unused.0 < bytes {
            if self.page == PAGES {
                return None;
            }
            let page = self.start + self.page * PAGE_BYTES;
            self.class_of_page[self.page] = class as u8;
            self.page += 1;
            blocks.unused = (page, page + PAGE_BYTES);
        }
        if self.is_reversed {
            blocks.unused.1 -= bytes;
            Some(blocks.unused.1)
        } else {
            blocks.unused.0 += bytes;
            Some(blocks.unused.0 - bytes)
        }
    }

    fn large(&mut self, class: usize) -> Option<usize> {
        if let Some(block) = popped(&mut self.large_free[class]) {
            return Some(block);
        }
        let bytes = size_of::<Header>() + large_bytes(class);
        if self.start + REGION_BYTES - self.large < bytes {
            return None;
        }
        let header = self.large as *mut Header;
        self.large += bytes;
        // SAFETY: inside the region, aligned as all blocks of the region are, and used by nothing else.
        unsafe { header.write(Header { class }) };
        Some(header as usize + size_of::<Header>())
    }

    /// How many bytes a block has; none if it is not of the region.
    fn capacity(&self, block: usize) -> Option<usize> {
        match block.wrapping_sub(self.start) {
            offset if offset < SMALL_REGION_BYTES => {
                let class = self.class_of_page[offset / PAGE_BYTES];
                Some((usize::from(class) + 1) * ALIGNMENT)
            }
            offset if offset < REGION_BYTES => Some(large_bytes(self.class_of_large(block))),
            _ => None,
        }
    }

    fn class_of_large(&self, block: usize) -> usize {
        // SAFETY: every large block has its header before it.
        unsafe { (*(block as *const Header).sub(1)).class }
    }

    /// Takes a block back; says whether it is of the region.
    fn give_back(&mut self, block: usize) -> bool {
        let list = match block.wrapping_sub(self.start) {
            offset if offset < SMALL_REGION_BYTES => {
                let class = self.class_of_page[offset / PAGE_BYTES];
                &mut self.small_classes[usize::from(class)].free
            }
            offset if offset < REGION_BYTES => {
                let class = self.class_of_large(block);
                &mut self.large_free[class]
            }
            _ => return false,
        };
        let freed = block as *mut Free;
        // SAFETY: a block has at least 16 aligned bytes, and whoever had it does not use it any more.
        unsafe { freed.write(Free { next: *list }) };
        *list = freed;
        true
    }
}

/// Takes the first block of a list.
fn popped(list: &mut *mut Free) -> Option<usize> {
    let first = *list;
    if first.is_null() {
        return None;
    }
    // SAFETY: only blocks that were given back are on a list, and each holds the next.
    *list = unsafe { (*first).next };
    Some(first as usize)
}

fn large_class(bytes: usize) -> usize {
    let power = bytes.next_power_of_two().trailing_zeros() as usize;
    power.saturating_sub(10)
}

fn large_bytes(class: usize) -> usize {
    1 << (class + 10)
}
