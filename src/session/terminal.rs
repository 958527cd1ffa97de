//! Gives the caller's terminal back as it was.

use rustix::process::{Pid, getpgrp};
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp};

use crate::sys::{SignalSet, set_blocked_signals};

/// The state of the terminal on standard input, put back when this value goes: a shell in the sandbox makes itself the
/// foreground process group, and a program that was killed may leave echo off.
#[derive(Debug)]
pub struct Terminal {
    modes: Termios,
    foreground: Pid,
}

impl Terminal {
    /// Notes the state of the terminal; `None` where standard input is none, or we are in its background.
    pub fn note() -> Option<Self> {
        let modes = tcgetattr(stdin()).ok()?;
        let foreground = tcgetpgrp(stdin()).ok()?;
        (foreground == getpgrp()).then_some(Self { modes, foreground })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // From the background, where the sandbox's shell has put us, the first call would stop us. All others stay blocked too: one
        // that has come meanwhile would end us before the scratch directory is removed.
        let before = set_blocked_signals(SignalSet::ALL);
        // A terminal that is gone needs nothing put back.
        let _ = tcsetpgrp(stdin(), self.foreground);
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.modes);
        if let Ok(before) = before {
            let _ = set_blocked_signals(before);
        }
    }
}
