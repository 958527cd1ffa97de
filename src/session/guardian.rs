//! Gives the caller's terminal back when this process cannot do so any more.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::sandbox::clone3::{Child, spawn_beside};

/// A process that waits for our end. If that comes without a word, as a SIGKILL does, it puts the terminal's modes back, unless
/// somebody else has changed them since.
#[derive(Debug)]
pub(super) struct Guardian {
    child: Child,
    /// Its other end is the guardian's alone, so it closes when we end.
    lifeline: Option<OwnedFd>,
}

struct Watch {
    before: Termios,
    ours: Termios,
}

impl Guardian {
    /// Watches over `terminal`, whose modes are `before` and will be `ours`.
    ///
    /// # Errors
    /// The kernel's, for want of descriptors or processes.
    pub(super) fn watch(terminal: BorrowedFd<'_>, before: &Termios, ours: &Termios) -> Result<Self> {
        let (theirs, lifeline) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        let watch = Watch { before: before.clone(), ours: ours.clone() };
        let child = spawn_beside([terminal, theirs.as_fd()], &watch, await_end)
            .context("cannot start the process that gives the terminal back if this one is killed")?;
        Ok(Self { child, lifeline: Some(lifeline) })
    }
}

impl Guardian {
    /// Has it give the terminal back now: we could not. It has, when this returns.
    pub(super) fn act(mut self) {
        self.lifeline = None;
    }
}

impl Drop for Guardian {
    /// Dismisses it: the terminal is no longer ours to give back.
    fn drop(&mut self) {
        // One that somebody has killed needs no telling, and one that is reaped by itself cannot be waited for.
        if let Some(lifeline) = &self.lifeline {
            let _ = write(lifeline, &[0]);
        }
        let _ = self.child.wait();
    }
}

/// What the guardian does: system calls only. Its standard input is the terminal, its standard output is no output but its end of the
/// pipe.
fn await_end(watch: &Watch) {
    loop {
        match read(stdout(), &mut [0; 1]) {
            Ok(0) => break,
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
    if tcgetattr(stdin()).is_ok_and(|now| are_same(&now, &watch.ours)) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &watch.before);
    }
}

/// Whether two sets of modes make a terminal behave the same.
pub(super) fn are_same(one: &Termios, other: &Termios) -> bool {
    one.input_modes == other.input_modes
        && one.output_modes == other.output_modes
        && one.control_modes == other.control_modes
        && one.local_modes == other.local_modes
}
