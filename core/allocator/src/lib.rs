//! The allocator of `tw`: the controller decides, and the client reads trees, with many small pieces of memory.
//!
//! A program that calls [`begin`] has it. Tasks' helpers and the evaluator's children have not: they are small, many, or
//! copies of one heap.

use std::ffi::{c_int, c_long};

use libmimalloc_sys::mi_option_set;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` in `mimalloc.h`: how many milliseconds free memory is kept.
const PURGE_DELAY: c_int = 15;

/// The allocator's own is a second, in which an evaluation of 10,000 specs piles up a quarter more memory.
const PURGE_DELAY_MS: c_long = 10;

/// Has free memory given back soon. The first thing that a program does, while it has one thread.
pub fn begin() {
    // SAFETY: the option exists, takes any number, and is one word that no other thread writes.
    unsafe { mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) }
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::{PURGE_DELAY, PURGE_DELAY_MS, begin};

    #[test]
    fn the_option_is_the_delay_and_is_set() {
        // SAFETY: as in `begin`.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(delay(), 1000, "the default: has the number moved?");
        begin();
        assert_eq!(delay(), PURGE_DELAY_MS);
    }
}
