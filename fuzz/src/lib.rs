//! Watches how much memory a reader takes: at every moment of every run, unlike libFuzzer, which looks at the whole process now and then.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// No input of a few kilobytes is worth more.
const MOST_BYTES: usize = 64 << 20;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST_IN_USE: AtomicUsize = AtomicUsize::new(0);

/// Has the most memory that was in use at once told at the end of all runs.
pub fn tell_at_exit() {
    unsafe extern "C" {
        safe fn atexit(function: extern "C" fn()) -> i32;
    }
    extern "C" fn tell() {
        eprintln!("stat::most_bytes_in_use:         {}", MOST_IN_USE.load(Ordering::Relaxed));
    }
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        atexit(tell);
    });
}

struct Counting;

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST_IN_USE.fetch_max(in_use, Ordering::Relaxed);
        if in_use > MOST_BYTES {
            eprintln!("more than {MOST_BYTES} bytes in use");
            std::process::abort();
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
