//! Lives with a running sandbox: terminal, signals, and its end.

mod guardian;
mod on_terminal;
mod relay;
mod signals;
mod terminal;

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use self::on_terminal::OnTerminal;
pub use self::signals::{Interrupted, Received, Signals};
pub use self::terminal::Terminal;
use crate::sandbox::Sandbox;

/// Waits for the end of `sandbox`, and until then passes on the signals that reach us and, where the command was given a terminal in
/// place of `terminal`, what goes from one to the other. Returns the command's exit status, or 128+n when the signal n ended it.
///
/// # Errors
/// The kernel's. `terminal` is as it was.
pub fn wait(sandbox: &mut Sandbox, signals: &Signals, terminal: Option<Terminal>) -> Result<u8> {
    match (terminal, sandbox.take_terminal()) {
        (Some(terminal), Some(master)) => OnTerminal::begin(sandbox, signals, terminal, master)?.wait(),
        _ => wait_beside(sandbox, signals),
    }
}

/// The same for a command that has the caller's own descriptors, in his own process group.
fn wait_beside(sandbox: &mut Sandbox, signals: &Signals) -> Result<u8> {
    loop {
        let mut events =
            [PollFd::new(sandbox.changes(), PollFlags::IN), PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        wait_for_any(&mut events)?;
        let [changed, signalled] = events.map(|event| !event.revents().is_empty());
        if changed {
            return sandbox.wait();
        }
        if signalled && let Some(signal) = signals.take_from_outside()? {
            sandbox.send_signal(signal)?;
        }
    }
}

fn wait_for_any(events: &mut [PollFd<'_>]) -> Result<()> {
    match poll(events, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).context("cannot wait for the sandbox"),
    }
}
