//! What a program does before everything else.
//!
//! The standard library does the same on its way to a `main` of Rust's, and more: to tell an overflow of the stack from other faults it
//! has the C library look the stack up in `/proc/self/maps`, and maps another. Our `main` is C's, so that no start has to wait for that.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Result;
use rustix::process::Signal;
use rustix::stdio::{stderr, stdin, stdout};

use crate::sys::ignore_signal;

/// Opens those of the descriptors 0, 1 and 2 that the caller has closed, so that no file of ours takes their place, and lets writing to
/// what nobody reads any more be an error and not the end.
///
/// # Errors
/// The kernel's: there is no `/dev/null`.
pub fn prepare_process() -> Result<()> {
    let mut descriptors =
        [stdin(), stdout(), stderr()].map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::empty()));
    poll(&mut descriptors, Some(&Timespec::default()))?;
    for descriptor in descriptors {
        if descriptor.revents().contains(PollFlags::NVAL) {
            // It gets the lowest free number, which is this one, and stays open.
            let null = openat(CWD, c"/dev/null", OFlags::RDWR, Mode::empty())?;
            std::mem::forget(null);
        }
    }
    ignore_signal(Signal::PIPE)
}
