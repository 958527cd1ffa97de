//! The heap's first pages, mapped at once: each that is mapped at its first use is a fault, and a start uses nearly all of them.

use rustix::param::page_size;

use crate::sys;

/// Maps what the allocator has of the heap already.
pub fn map_all() {
    let first = Box::new(0u8);
    let begin = (&raw const *first).addr() & !(page_size() - 1);
    let size = sys::end_of_heap().saturating_sub(begin);
    // Elsewhere than the heap it can only be where the allocator is another one.
    if size <= LARGEST {
        sys::map_for_writing(begin, size);
    }
}

/// More than the C library asks for at first.
const LARGEST: usize = 256 << 10;
