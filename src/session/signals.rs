//! The signals that are meant for the command.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::io::{Errno, read};
use rustix::process::Signal;

use crate::sys::{SignalSet, ignores_signal, set_blocked_signals, signalfd};

/// What somebody sends who wants the command to end, or to take notice.
const PASSED_ON: [Signal; 6] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// Holds those signals back from ending this process, so that each is answered at the right moment.
#[derive(Debug)]
pub struct Signals {
    queue: OwnedFd,
}

/// A signal came before there was a command to pass it on to.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted(pub Signal);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by signal {} before the command ran; nothing is left behind", self.0.as_raw())
    }
}

impl std::error::Error for Interrupted {}

impl Signals {
    /// Blocks the signals, but for those that the caller wants ignored, as `nohup` does.
    ///
    /// # Errors
    /// The kernel's, for want of descriptors.
    pub fn block() -> Result<Self> {
        let wanted: Vec<_> = PASSED_ON.into_iter().filter(|signal| !ignores_signal(*signal).unwrap_or(false)).collect();
        let set = SignalSet::of(&wanted);
        // A copy over «ulimit -f» is to fail with an error, which can be told.
        let blocked: Vec<_> = wanted.iter().copied().chain([Signal::XFSZ]).collect();
        set_blocked_signals(SignalSet::of(&blocked)).context("cannot block signals")?;
        let queue = signalfd(set).context("cannot make a descriptor for signals")?;
        Ok(Self { queue })
    }

    /// An error when a signal has come.
    ///
    /// # Errors
    /// [`Interrupted`], or the kernel's.
    pub fn check_interrupt(&self) -> Result<()> {
        match self.take()? {
            Some(received) => Err(Interrupted(received.signal).into()),
            None => Ok(()),
        }
    }

    /// The next signal that another process sent us. One that the kernel sends for a key of the terminal or a hang-up has
    /// reached the command by itself.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take_from_outside(&self) -> Result<Option<Signal>> {
        Ok(self.take()?.filter(|received| !received.from_kernel).map(|received| received.signal))
    }

    fn take(&self) -> Result<Option<Received>> {
        // struct signalfd_siginfo: 128 bytes, led by the number, an errno and the code.
        const SI_KERNEL: i32 = 0x80;
        let mut info = [0u8; 128];
        match read(&self.queue, &mut info) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno).context("cannot read a signal"),
        }
        let [a, b, c, d, _, _, _, _, e, f, g, h, ..] = info;
        Ok(Signal::from_named_raw(i32::from_ne_bytes([a, b, c, d]))
            .map(|signal| Received { signal, from_kernel: i32::from_ne_bytes([e, f, g, h]) == SI_KERNEL }))
    }
}

struct Received {
    signal: Signal,
    from_kernel: bool,
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
