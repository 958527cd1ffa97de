//! The signals that are meant for the command, and those of job control.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::io::{Errno, read};
use rustix::process::{Signal, getpid, kill_current_process_group, kill_process};

use crate::sys::{SignalSet, ignores_signal, set_blocked_signals, signalfd};

/// What somebody sends who wants the command to end, or to take notice.
const PASSED_ON: [Signal; 6] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// What tells of a terminal that has a new size, is to be given back, or may be ours again.
const JOB_CONTROL: [Signal; 3] = [Signal::WINCH, Signal::TSTP, Signal::CONT];

/// Holds signals back from ending or stopping this process, so that each is answered at the right moment.
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
        let set = unless_ignored(&PASSED_ON);
        // A copy over «ulimit -f» is to fail with an error, which can be told.
        set_blocked_signals(set.and(SignalSet::of(&[Signal::XFSZ]))).context("cannot block signals")?;
        Self::queue(set)
    }

    /// Blocks the signals of job control too. One who ignores SIGTSTP is not to be stopped by it.
    ///
    /// # Errors
    /// The kernel's, for want of descriptors.
    pub(super) fn block_job_control() -> Result<Self> {
        let set = unless_ignored(&JOB_CONTROL);
        change_blocked_signals(|before| before.and(set))?;
        Self::queue(set)
    }

    /// Blocks the one that tells of a terminal's new size.
    ///
    /// # Errors
    /// The kernel's, for want of descriptors.
    pub fn block_window_changes() -> Result<Self> {
        let set = SignalSet::of(&[Signal::WINCH]);
        change_blocked_signals(|before| before.and(set))?;
        Self::queue(set)
    }

    fn queue(set: SignalSet) -> Result<Self> {
        Ok(Self { queue: signalfd(set).context("cannot make a descriptor for signals")? })
    }

    /// Stops this process as `signal` stops one that it is sent to: with its process group where a key sends it, alone by SIGSTOP.
    /// Returns, once it was continued, true; at once and false where the kernel does not stop it, since no shell would ever continue
    /// it. Of signals of job control that came meanwhile nothing is told.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn stop(&self, signal: Signal) -> Result<bool> {
        self.stop_by(signal, || {
            if signal == Signal::STOP { kill_process(getpid(), signal) } else { kill_current_process_group(signal) }
        })
    }

    /// Stops this process alone, as SIGTSTP does; the rest as of [`stop`](Self::stop).
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn stop_alone(&self) -> Result<bool> {
        self.stop_by(Signal::TSTP, || kill_process(getpid(), Signal::TSTP))
    }

    fn stop_by(&self, signal: Signal, send: impl FnOnce() -> rustix::io::Result<()>) -> Result<bool> {
        while self.take()?.is_some() {}
        send().context("cannot stop this process")?;
        // Here it stops, if not before.
        let before = change_blocked_signals(|before| before.without(SignalSet::of(&[signal])))?;
        change_blocked_signals(|_| before)?;
        let mut was_continued = false;
        while let Some(received) = self.take()? {
            was_continued |= received.signal == Signal::CONT;
        }
        Ok(was_continued)
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

    /// The next signal, and who sent it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&self) -> Result<Option<Received>> {
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

/// A signal that has come.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Which one.
    pub signal: Signal,
    /// For a key of the terminal or a hang-up, and not from another process.
    pub from_kernel: bool,
}

/// Those that the caller does not want ignored.
fn unless_ignored(signals: &[Signal]) -> SignalSet {
    let wanted: Vec<_> = signals.iter().copied().filter(|signal| !ignores_signal(*signal).unwrap_or(false)).collect();
    SignalSet::of(&wanted)
}

/// Returns those that were blocked before.
fn change_blocked_signals(change: impl FnOnce(SignalSet) -> SignalSet) -> Result<SignalSet> {
    let before = set_blocked_signals(SignalSet::ALL).context("cannot block signals")?;
    set_blocked_signals(change(before)).context("cannot block signals")?;
    Ok(before)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
