//! Where the interpreter keeps its objects: the zygote's in two heaps, a sealed child's in one of its own.
//!
//! A child shares the zygote's memory, and the kernel copies each page that it writes to. The interpreter counts the
//! references to an object in the object itself, so whatever an evaluation uses is written to. Therefore what each
//! evaluation uses lies close together ([`Place::Near`]), apart from what few specs use ([`Place::Far`]). The far heap
//! lies in huge pages, of which a fork copies one entry instead of 512.
//!
//! What a child allocates comes from fresh memory in one piece. From the gaps of the zygote's heaps it would come at the price
//! of a copied page each. A child never gives back what the zygote allocated: it ends within milliseconds, and giving
//! back copies a page, too.
//!
//! Blocks of up to [`SMALL_BYTES_MAX`] come from runs that hold one size each, from the start of a heap upwards; larger
//! ones have a header with their size and come from its end. What does not fit comes from the interpreter's allocator.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr;

use anyhow::Context;
use pyo3::ffi;

const PAGE_BYTES: usize = 4096;
const HUGE_BYTES: usize = 2 << 20;
/// Several times what the zygote's library takes. Pages that are not used cost nothing.
const FAR_BYTES: usize = 24 << 20;
const NEAR_BYTES: usize = 6 << 20;
/// Of which a small spec uses a thirtieth. A child that is kept has no more.
const CHILD_BYTES: usize = 6 << 20;
/// Small blocks of one size lie in runs: pages in the zygote, where all runs are full in the end, and less in a child, which
/// makes few blocks of most sizes.
const ZYGOTE_RUN_BYTES: usize = PAGE_BYTES;
const CHILD_RUN_BYTES: usize = 1024;
const RUNS_MAX: usize = FAR_BYTES / ZYGOTE_RUN_BYTES;
const _: () = assert!(CHILD_BYTES / CHILD_RUN_BYTES <= RUNS_MAX);
/// What a spec of a few jobs needs; made at once, which takes half the time that a fault for each page would.
const SMALL_EXPECTED_BYTES: usize = 112 << 10;
const LARGE_EXPECTED_BYTES: usize = 48 << 10;

/// What the C library, which has all larger blocks, has of its own in a child that is kept.
const MALLOC_EXPECTED_BYTES: usize = 4 << 20;

/// What the interpreter expects of every block.
const ALIGNMENT: usize = 16;
const SMALL_BYTES_MAX: usize = 512;
const SMALL_CLASSES: usize = SMALL_BYTES_MAX / ALIGNMENT;
/// Large blocks are rounded up to a quarter of a power of two.
const LARGE_BYTES_MAX: usize = 256 << 10;
const LARGE_STEPS: usize = 4;
const LARGE_CLASSES: usize =
    LARGE_STEPS * (LARGE_BYTES_MAX.trailing_zeros() - SMALL_BYTES_MAX.trailing_zeros()) as usize;

/// Which heap blocks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// What few specs use.
    Far,
    /// What each evaluation uses.
    Near,
    /// What a child makes.
    Child,
}

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
    /// The part of its run that was never used: addresses.
    unused: (usize, usize),
}

struct Heap {
    start: usize,
    end: usize,
    /// Addresses: where the next run of small blocks begins, and where the last large one does.
    small: usize,
    large: usize,
    run_bytes: usize,
    small_classes: [Class; SMALL_CLASSES],
    large_free: [*mut Free; LARGE_CLASSES],
    /// The class of each run of small blocks.
    class_of_run: [u8; RUNS_MAX],
    /// Whether blocks are laid out from the end of each run to its start.
    is_reversed: bool,
}

/// All heaps of this process.
struct Heaps {
    /// By their places.
    heaps: [Heap; 3],
    place: Place,
    /// Whether the interpreter's allocator has made a block in this process.
    has_others: bool,
    /// Address space that a child without memory lets go of.
    reserve: Range<usize>,
    before: ffi::PyMemAllocatorEx,
}

/// A process has one, and one thread that uses it.
struct Cell(UnsafeCell<Heaps>);

// SAFETY: the interpreter calls its allocators with its lock held, and zygote and children have one thread each.
unsafe impl Sync for Cell {}

static HEAPS: Cell = Cell(UnsafeCell::new(Heaps {
    heaps: [const { Heap::empty() }; 3],
    place: Place::Near,
    has_others: false,
    reserve: 0..0,
    before: ffi::PyMemAllocatorEx {
        ctx: ptr::null_mut(),
        malloc: None,
        calloc: None,
        realloc: None,
        free: None,
    },
}));

/// Has the interpreter, which is not started yet, keep its objects here. With `is_reversed`, blocks have another order in
/// memory.
pub(crate) fn provide(is_reversed: bool) -> anyhow::Result<()> {
    let memory = reserve(FAR_BYTES + NEAR_BYTES + CHILD_BYTES)
        .context("memory for the interpreter's objects")?;
    // SAFETY: there is one thread. With a second arena in sight, the C library would ask for the number of processors when
    // a child has no memory left, which the seal forbids.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // SAFETY: there is one thread, no allocator of this module is in use yet, and the advice is about the mapping that was
    // just made; it may be refused.
    unsafe {
        let heaps = &mut *HEAPS.0.get();
        let mut start = memory;
        for (place, bytes, run_bytes) in [
            (Place::Far, FAR_BYTES, ZYGOTE_RUN_BYTES),
            (Place::Near, NEAR_BYTES, ZYGOTE_RUN_BYTES),
            (Place::Child, CHILD_BYTES, CHILD_RUN_BYTES),
        ] {
            let heap = &mut heaps.heaps[place as usize];
            heap.begin(start, bytes);
            heap.run_bytes = run_bytes;
            heap.is_reversed = is_reversed;
            start += bytes;
        }
        libc::madvise(
            memory as *mut c_void,
            FAR_BYTES + NEAR_BYTES,
            libc::MADV_HUGEPAGE,
        );
        ffi::PyMem_GetAllocator(
            ffi::PyMemAllocatorDomain::PYMEM_DOMAIN_OBJ,
            &mut heaps.before,
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
    Ok(())
}

/// Reserves memory that begins with a huge page; returns its address.
fn reserve(bytes: usize) -> std::io::Result<usize> {
    // SAFETY: a new mapping at a place that the kernel chooses, and what is cut off it again is used by nothing.
    unsafe {
        let mapped = libc::mmap(
            ptr::null_mut(),
            bytes + HUGE_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        if mapped == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let mapped = mapped as usize;
        let start = mapped.next_multiple_of(HUGE_BYTES);
        if start > mapped {
            libc::munmap(mapped as *mut c_void, start - mapped);
        }
        let end = start + bytes;
        libc::munmap(end as *mut c_void, mapped + HUGE_BYTES - start);
        Ok(start)
    }
}

/// In the zygote: says where objects are kept from here on.
pub(crate) fn keep(place: Place) {
    heaps().place = place;
}

/// In a child: has it keep its objects apart from here on.
pub(crate) fn enter() {
    let heaps = heaps();
    heaps.place = Place::Child;
    heaps.has_others = false;
    let far = &heaps.heaps[Place::Far as usize];
    heaps.reserve = far.small.next_multiple_of(PAGE_BYTES)..far.large / PAGE_BYTES * PAGE_BYTES;
    let own = &heaps.heaps[Place::Child as usize];
    for (start, bytes) in [
        (own.start, SMALL_EXPECTED_BYTES),
        (own.end - LARGE_EXPECTED_BYTES, LARGE_EXPECTED_BYTES),
    ] {
        // SAFETY: makes pages of memory that was reserved. An old kernel refuses; then there is a fault for each page.
        unsafe { libc::madvise(start as *mut c_void, bytes, libc::MADV_POPULATE_WRITE) };
    }
}

/// In a child that is kept, after [`enter`]: has it need no more memory than it has for most specs, and lets go of what it
/// does not use.
pub(crate) fn settle() {
    let heaps = heaps();
    heaps.reserve = 0..0;
    for place in [Place::Far, Place::Near] {
        let heap = &heaps.heaps[place as usize];
        let unused = heap.small.next_multiple_of(PAGE_BYTES)..heap.large / PAGE_BYTES * PAGE_BYTES;
        if !unused.is_empty() {
            // SAFETY: these pages hold no block, and none is made in the zygote's heaps any more.
            unsafe { libc::munmap(unused.start as *mut c_void, unused.len()) };
        }
    }
    // SAFETY: there is one thread; the block is given back at once, and stays with the C library.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MALLOC_EXPECTED_BYTES as libc::c_int);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::free(libc::malloc(MALLOC_EXPECTED_BYTES - PAGE_BYTES));
    }
}

/// The heaps, for one call of the interpreter.
fn heaps() -> &'static mut Heaps {
    // SAFETY: see `Cell`; no function of this module keeps the reference beyond its call, and none calls back into
    // the interpreter other than its own allocator, which does not come here.
    unsafe { &mut *HEAPS.0.get() }
}

extern "C" fn malloc(_context: *mut c_void, bytes: usize) -> *mut c_void {
    let heaps = heaps();
    match heaps.heaps[heaps.place as usize].allocate(bytes) {
        Some(block) => block as *mut c_void,
        None => {
            heaps.has_others = true;
            let malloc = heaps.before.malloc;
            let block = malloc.map_or(ptr::null_mut(), |malloc| malloc(heaps.before.ctx, bytes));
            if block.is_null() {
                heaps.give_up_reserve();
            }
            block
        }
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
    let heaps = heaps();
    let Some(held) = heaps.capacity(block as usize) else {
        return heaps.before.realloc.map_or(ptr::null_mut(), |realloc| {
            realloc(heaps.before.ctx, block, bytes)
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
    let heaps = heaps();
    if block.is_null() || heaps.give_back(block as usize) || !heaps.has_others {
        return;
    }
    if let Some(free) = heaps.before.free {
        free(heaps.before.ctx, block);
    }
}

impl Heaps {
    /// The heap that a block is of; none if it is of none of them.
    fn of(&mut self, block: usize) -> Option<&mut Heap> {
        self.heaps.iter_mut().find(|heap| heap.holds(block))
    }

    /// In a child that has no memory left: lets go of address space that the zygote has not used, so that there is some for
    /// the words to say so.
    fn give_up_reserve(&mut self) {
        let reserve = std::mem::take(&mut self.reserve);
        if !reserve.is_empty() {
            // SAFETY: these pages hold no block, and none is made in the zygote's heaps any more.
            unsafe { libc::munmap(reserve.start as *mut c_void, reserve.len()) };
        }
    }

    /// How many bytes a block has; none if it is of none of the heaps.
    fn capacity(&mut self, block: usize) -> Option<usize> {
        self.of(block).map(|heap| heap.capacity(block))
    }

    /// Takes a block back, unless it was the zygote's and this is a child; says whether it is of one of the heaps.
    fn give_back(&mut self, block: usize) -> bool {
        let is_zygote = self.place != Place::Child;
        let own = &mut self.heaps[Place::Child as usize];
        if own.holds(block) {
            own.give_back(block);
            return true;
        }
        match self.of(block) {
            Some(heap) if is_zygote => heap.give_back(block),
            Some(_) => {}
            None => return false,
        }
        true
    }
}

impl Heap {
    const fn empty() -> Heap {
        Heap {
            start: 0,
            end: 0,
            small: 0,
            large: 0,
            run_bytes: CHILD_RUN_BYTES,
            small_classes: [Class {
                free: ptr::null_mut(),
                unused: (0, 0),
            }; SMALL_CLASSES],
            large_free: [ptr::null_mut(); LARGE_CLASSES],
            class_of_run: [0; RUNS_MAX],
            is_reversed: false,
        }
    }

    fn begin(&mut self, start: usize, bytes: usize) {
        (self.start, self.end) = (start, start + bytes);
        (self.small, self.large) = (self.start, self.end);
    }

    /// Whether a block is of this heap. What lies between its two parts may belong to others.
    fn holds(&self, block: usize) -> bool {
        (self.start..self.small).contains(&block) || (self.large..self.end).contains(&block)
    }

    /// The address of a block; none where the interpreter's allocator must be asked.
    fn allocate(&mut self, bytes: usize) -> Option<usize> {
        if bytes <= SMALL_BYTES_MAX {
            self.allocate_small(bytes.saturating_sub(1) / ALIGNMENT)
        } else if bytes <= LARGE_BYTES_MAX {
            self.allocate_large(large_class(bytes))
        } else {
            None
        }
    }

    fn allocate_small(&mut self, class: usize) -> Option<usize> {
        let bytes = (class + 1) * ALIGNMENT;
        let blocks = &mut self.small_classes[class];
        if let Some(block) = popped(&mut blocks.free) {
            return Some(block);
        }
        if blocks.unused.1 - blocks.unused.0 < bytes {
            let run = self.small;
            if self.large - run < self.run_bytes {
                return None;
            }
            self.class_of_run[(run - self.start) / self.run_bytes] = class as u8;
            self.small = run + self.run_bytes;
            blocks.unused = (run, self.small);
        }
        if self.is_reversed {
            blocks.unused.1 -= bytes;
            Some(blocks.unused.1)
        } else {
            blocks.unused.0 += bytes;
            Some(blocks.unused.0 - bytes)
        }
    }

    fn allocate_large(&mut self, class: usize) -> Option<usize> {
        if let Some(block) = popped(&mut self.large_free[class]) {
            return Some(block);
        }
        let bytes = size_of::<Header>() + large_bytes(class);
        if self.large - self.small < bytes {
            return None;
        }
        self.large -= bytes;
        let header = self.large as *mut Header;
        // SAFETY: inside the heap, aligned as all blocks of it are, and used by nothing else.
        unsafe { header.write(Header { class }) };
        Some(header as usize + size_of::<Header>())
    }

    /// How many bytes a block of this heap has.
    fn capacity(&self, block: usize) -> usize {
        match self.class_of_small(block) {
            Some(class) => (class + 1) * ALIGNMENT,
            None => large_bytes(class_of_large(block)),
        }
    }

    fn class_of_small(&self, block: usize) -> Option<usize> {
        (block < self.small)
            .then(|| self.class_of_run[(block - self.start) / self.run_bytes].into())
    }

    fn give_back(&mut self, block: usize) {
        let list = match self.class_of_small(block) {
            Some(class) => &mut self.small_classes[class].free,
            None => &mut self.large_free[class_of_large(block)],
        };
        let freed = block as *mut Free;
        // SAFETY: a block has at least 16 aligned bytes, and whoever had it does not use it any more.
        unsafe { freed.write(Free { next: *list }) };
        *list = freed;
    }
}

fn class_of_large(block: usize) -> usize {
    // SAFETY: every large block has its header before it.
    unsafe { (*(block as *const Header).sub(1)).class }
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
    let last = bytes - 1;
    let power = last.ilog2() as usize;
    let step = (last >> (power - LARGE_STEPS.ilog2() as usize)) % LARGE_STEPS;
    LARGE_STEPS * (power - SMALL_BYTES_MAX.ilog2() as usize) + step
}

fn large_bytes(class: usize) -> usize {
    let quarter = (SMALL_BYTES_MAX / LARGE_STEPS) << (class / LARGE_STEPS);
    quarter * (LARGE_STEPS + 1 + class % LARGE_STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_block_has_the_bytes_asked_for_and_at_most_a_quarter_more() {
        for bytes in SMALL_BYTES_MAX + 1..=LARGE_BYTES_MAX {
            let class = large_class(bytes);
            let given = large_bytes(class);
            assert!(class < LARGE_CLASSES, "{bytes}");
            assert!(
                given >= bytes && given <= bytes + bytes / LARGE_STEPS + 1,
                "{bytes}: {given}"
            );
            assert!(class == 0 || large_bytes(class - 1) < bytes, "{bytes}");
            assert_eq!(given % ALIGNMENT, 0);
        }
    }
}
