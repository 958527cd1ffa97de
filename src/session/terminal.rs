//! The caller's terminal: what it is to us, to have it for ourselves, and to give it back as it was.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::process::getpgrp;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

use super::guardian::{Guardian, are_same};
use crate::plan::CommandTerminal;
use crate::sys::{SignalSet, set_blocked_signals, terminal_number};

/// The terminal on standard input.
#[derive(Debug)]
pub struct Terminal {
    /// An open file of our own where there can be one, so that nobody else's becomes non-blocking.
    device: OwnedFd,
    replaces: [bool; 3],
    in_pipeline: bool,
}

impl Terminal {
    /// `None` where standard input is none; that costs one system call.
    pub fn of_caller() -> Option<Self> {
        let number = terminal_number(stdin()).ok()?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // Who became another user by su(1) may not open it by its name, but may as the terminal that controls him.
        let device = ["/proc/self/fd/0", "/dev/tty"]
            .into_iter()
            .filter_map(|path| open(path, flags, Mode::empty()).ok())
            .find(|device| terminal_number(device.as_fd()) == Ok(number));
        let is_it = |descriptor| terminal_number(descriptor) == Ok(number);
        Some(Self {
            device: device.or_else(|| stdin().try_clone_to_owned().ok())?,
            replaces: [true, is_it(stdout()), is_it(stderr())],
            in_pipeline: is_pipe(stdout()) || is_pipe(stderr()),
        })
    }

    /// What the command gets in its place.
    pub fn for_command(&self) -> CommandTerminal {
        CommandTerminal {
            replaces: self.replaces,
            in_foreground: self.is_to_be_had_at_once() && self.is_in_foreground(),
        }
    }

    /// Beside a command in a pipeline another program, such as less(1), may read from the terminal: it is not ours before the command
    /// wants to read from it.
    pub(super) fn is_to_be_had_at_once(&self) -> bool {
        !self.in_pipeline
    }

    /// Whether we may read from it and set its modes without being stopped for it.
    pub(super) fn is_in_foreground(&self) -> bool {
        // One that does not control us does not ask.
        tcgetpgrp(&self.device).map_or(true, |group| group == getpgrp())
    }

    /// Its size, if it has one still.
    pub(super) fn size(&self) -> Option<Winsize> {
        tcgetwinsize(&self.device).ok()
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn is_pipe(descriptor: BorrowedFd<'_>) -> bool {
    fstat(descriptor)
        .is_ok_and(|status| matches!(FileType::from_raw_mode(status.st_mode), FileType::Fifo | FileType::Socket))
}

/// The caller's terminal in raw mode: every key is a byte for the command's own terminal. Its modes are put back when this value
/// goes, and by a [`Guardian`] when we are killed.
#[derive(Debug)]
pub(super) struct Hold {
    terminal: OwnedFd,
    before: Termios,
    raw: Termios,
    guardian: Option<Guardian>,
}

impl Hold {
    /// Takes the terminal. `None` for one that is gone.
    ///
    /// # Errors
    /// As of [`Guardian::watch`].
    pub(super) fn take(terminal: &Terminal) -> Result<Option<Self>> {
        let (Ok(before), Ok(device)) = (tcgetattr(terminal), terminal.device.try_clone()) else {
            return Ok(None);
        };
        let mut raw = before.clone();
        raw.make_raw();
        let guardian = Guardian::watch(device.as_fd(), &before, &raw)?;
        // From the background this stops us, as it does any program.
        let taken = tcsetattr(&device, OptionalActions::Now, &raw).is_ok();
        Ok(taken.then_some(Self { terminal: device, before, raw, guardian: Some(guardian) }))
    }

    /// Whether nobody else has set its modes since.
    pub(super) fn is_still_ours(&self) -> bool {
        tcgetattr(&self.terminal).is_ok_and(|now| are_same(&now, &self.raw))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Whoever has set its modes after us, as a shell does that has put us into the background, needs them.
        let is_ours = tcgetattr(&self.terminal).map(|now| are_same(&now, &self.raw));
        if is_ours == Ok(false) {
            return;
        }
        // From the background this would stop us. All other signals stay blocked too: one that has come meanwhile would end us before
        // the scratch directory is removed.
        let before = set_blocked_signals(SignalSet::ALL);
        let given_back = is_ours.and_then(|_| tcsetattr(&self.terminal, OptionalActions::Now, &self.before));
        // A terminal that is gone needs nothing put back, and the guardian will see that as well.
        if given_back.is_err()
            && let Some(guardian) = self.guardian.take()
        {
            guardian.act();
        }
        if let Ok(before) = before {
            let _ = set_blocked_signals(before);
        }
    }
}
