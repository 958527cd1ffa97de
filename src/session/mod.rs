//! Lives with a running sandbox: terminal, signals, and its end.

mod signals;
mod terminal;

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

pub use self::signals::{Interrupted, Signals};
pub use self::terminal::Terminal;
use crate::sandbox::Sandbox;

/// Waits for the end of `sandbox` and passes on the signals that reach us until then. Returns the command's exit status, or
/// 128+n when the signal n ended it.
pub fn wait(sandbox: &mut Sandbox, signals: &Signals) -> Result<u8> {
    loop {
        let mut events = [
            PollFd::new(sandbox.end_of_command(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        match poll(&mut events, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the sandbox"),
        }
        let [ended, signalled] = events.map(|event| !event.revents().is_empty());
        if ended {
            return sandbox.wait();
        }
        if signalled && let Some(signal) = signals.take_from_outside()? {
            sandbox.send_signal(signal)?;
        }
    }
}
