//! Lives with a running sandbox: terminal, signals, and its end.

mod ending;
mod guardian;
mod on_terminal;
mod relay;
mod signals;
mod terminal;

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use self::ending::Deadline;
pub use self::ending::Ending;
use self::on_terminal::OnTerminal;
pub use self::signals::{Interrupted, Received, Signals};
pub use self::terminal::Terminal;
use crate::sandbox::Sandbox;

/// Waits for the end of `sandbox`, and until then passes on the signals that reach us and, where the command was given a terminal in
/// place of `terminal`, what goes from one to the other. What still runs after `time_limit` is ended.
///
/// # Errors
/// The kernel's. `terminal` is as it was.
pub fn wait(
    sandbox: &mut Sandbox,
    signals: &Signals,
    terminal: Option<Terminal>,
    time_limit: Option<Duration>,
) -> Result<Ending> {
    let deadline = Deadline::after(time_limit);
    match (terminal, sandbox.take_terminal()) {
        (Some(terminal), Some(master)) => OnTerminal::begin(sandbox, signals, terminal, master)?.wait(deadline),
        _ => wait_beside(sandbox, signals, deadline),
    }
}

/// The same for a command that has the caller's own descriptors. It is in no process group of the caller's, so what the kernel sends to
/// that, for a key of his terminal, is passed on to the command's; and when we are stopped, so is it.
fn wait_beside(sandbox: &mut Sandbox, signals: &Signals, deadline: Deadline) -> Result<Ending> {
    let job_control = Signals::block_job_control()?;
    loop {
        let mut events = [
            PollFd::new(sandbox.changes(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(job_control.as_fd(), PollFlags::IN),
        ];
        wait_for_any(&mut events, deadline)?;
        let [changed, signalled, controlled] = events.map(|event| !event.revents().is_empty());
        if changed {
            return sandbox.wait().map(Ending::Exited);
        }
        if deadline.is_over() {
            sandbox.end();
            return Ok(Ending::TimedOut);
        }
        if signalled && let Some(received) = signals.take()? {
            pass_on(sandbox, received)?;
        }
        if controlled && let Some(received) = job_control.take()? {
            match received.signal {
                Signal::TSTP => {
                    sandbox.send_signal_to_group(Signal::TSTP)?;
                    job_control.stop_alone()?;
                    sandbox.send_signal_to_group(Signal::CONT)?;
                }
                Signal::CONT => sandbox.send_signal_to_group(Signal::CONT)?,
                // The caller's terminal has a new size, and the command has none.
                _ => {}
            }
        }
    }
}

/// Waits for the end of a `sandbox` in which nobody has anything to do. What still runs after `time_limit` is ended, and so it is as soon as
/// somebody wants us to end: nothing in it can hold that up.
///
/// # Errors
/// [`Interrupted`]; the kernel's.
pub fn wait_unattended(sandbox: &mut Sandbox, signals: &Signals, time_limit: Duration) -> Result<Ending> {
    let deadline = Deadline::after(Some(time_limit));
    loop {
        let mut events =
            [PollFd::new(sandbox.changes(), PollFlags::IN), PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        wait_for_any(&mut events, deadline)?;
        let [changed, signalled] = events.map(|event| !event.revents().is_empty());
        if changed {
            return sandbox.wait().map(Ending::Exited);
        }
        if deadline.is_over() {
            sandbox.end();
            return Ok(Ending::TimedOut);
        }
        if signalled
            && let Some(Received { signal, .. }) = signals.take()?
            && ![Signal::USR1, Signal::USR2].contains(&signal)
        {
            sandbox.end();
            bail!(Interrupted(signal));
        }
    }
}

/// What another process sends is meant for the command; what the kernel sends, for a key or a hang-up, for the whole job.
fn pass_on(sandbox: &Sandbox, Received { signal, from_kernel }: Received) -> Result<()> {
    if from_kernel { sandbox.send_signal_to_group(signal) } else { sandbox.send_signal(signal) }
}

/// Waits until one of the events is there, or the deadline.
fn wait_for_any(events: &mut [PollFd<'_>], deadline: Deadline) -> Result<()> {
    match poll(events, deadline.left().as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).context("cannot wait for the sandbox"),
    }
}
