//! Runs a command that builds with Nix, and finds out what it kept of what failed.
//!
//! The command is the caller's, with all that it shows: it has his standard input, his standard output and his process group, so that
//! keys and job control do what they do without us. What goes to standard error is carried there byte for byte, and read on the way:
//! that is where Nix names the directories that it keeps. Nix has no other format that would show the same.

mod keep_failed;
mod messages;
mod output;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

pub use self::keep_failed::KeepFailed;
pub use self::messages::Failure;
use self::messages::Messages;
use self::output::Output;
use crate::session::Signals;
use crate::sys::{SignalSet, reset_signal, set_blocked_signals, unblock_signals_of};

/// Which signals end a build that somebody does not want any more.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// How a command ended, and what it said of builds.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status, or 128+n where the signal n ended it.
    pub status: u8,
    /// Whether somebody wanted it to end.
    pub is_interrupted: bool,
    /// The directories that Nix said it keeps, in its order.
    pub kept: Vec<PathBuf>,
    /// The derivations whose builders Nix said have failed, in its order.
    pub failures: Vec<Failure>,
}

/// Runs `command`, with `keep_failed`, to its end.
///
/// A signal that reaches us while it runs goes to it. One that a key sends has reached it by itself.
///
/// # Errors
/// It cannot be started, or the kernel has no descriptors left.
pub fn run(command: &[OsString], keep_failed: &KeepFailed) -> Result<Outcome> {
    let signals = Signals::block()?;
    let window = Signals::block_window_changes()?;
    let outcome = Running::start(command, keep_failed).and_then(|running| running.wait(&signals, &window));
    // What comes from now on is for us.
    set_blocked_signals(SignalSet::EMPTY).context("cannot unblock signals")?;
    outcome
}

/// A command that runs.
struct Running {
    child: std::process::Child,
    output: Option<Output>,
    messages: Messages,
    is_interrupted: bool,
}

impl Running {
    fn start(command: &[OsString], keep_failed: &KeepFailed) -> Result<Self> {
        let command = keep_failed.added_to(command);
        let (program, arguments) = command.split_first().context("there is no command to run")?;
        // Where it is ignored, as callers may leave it, a process that has ended cannot be waited for.
        reset_signal(Signal::CHILD.as_raw() as u32).context("cannot reset a signal")?;
        let (output, ends) = Output::open().context("cannot make what the command is to write to")?;
        let mut started = Command::new(program);
        started.args(arguments).envs(keep_failed.variables()).stderr(ends.errors);
        if let Some(end) = ends.output {
            started.stdout(end);
        }
        unblock_signals_of(&mut started);
        let child = started.spawn().map_err(|error| cannot_run(program, &error))?;
        Ok(Self { child, output: Some(output), messages: Messages::default(), is_interrupted: false })
    }

    fn wait(mut self, signals: &Signals, window: &Signals) -> Result<Outcome> {
        let cannot_wait = "cannot wait for the command";
        let pid = Pid::from_child(&self.child);
        let end = pidfd_open(pid, PidfdFlags::empty()).context(cannot_wait)?;
        loop {
            let mut events = vec![
                PollFd::new(&end, PollFlags::IN),
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(window.as_fd(), PollFlags::IN),
            ];
            events.extend(self.output.as_ref().map(|output| PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)));
            match poll(&mut events, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context(cannot_wait),
            }
            let happened: Vec<_> = events.iter().map(|event| !event.revents().is_empty()).collect();
            drop(events);
            if happened[1]
                && let Some(received) = signals.take()?
            {
                self.is_interrupted |= ENDING.contains(&received.signal);
                // A hang-up the kernel tells no one but the leader of the session.
                if !received.from_kernel || received.signal == Signal::HUP {
                    // A command of another user, as sudo's, does not take it from us, and ends with the terminal.
                    let _ = kill_process(pid, received.signal);
                }
            }
            if happened[2] && window.take()?.is_some() && self.output.as_ref().is_some_and(Output::take_over_size) {
                // The kernel told it before its terminal had the new size, and nobody else knows of that terminal.
                let _ = kill_process(pid, Signal::WINCH);
            }
            let was_ended = happened[0];
            if was_ended || happened.get(3) == Some(&true) {
                self.carry(was_ended);
            }
            if was_ended {
                break;
            }
        }
        let status = self.child.wait().context(cannot_wait)?;
        let ended_by = status.signal();
        let (kept, failures) = self.messages.end();
        Ok(Outcome {
            status: ended_by.map_or_else(|| status.code().unwrap_or(1) as u8, |signal| 128 + signal as u8),
            is_interrupted: self.is_interrupted,
            kept,
            failures,
        })
    }

    /// Carries what is there, and when the command has ended all that it wrote.
    fn carry(&mut self, all: bool) {
        while let Some(output) = &mut self.output {
            match output.carry() {
                Ok([]) => break,
                Ok(bytes) => self.messages.read(bytes),
                // There is nothing more to read, or nobody to show it to: then the command is to notice.
                Err(_) => self.output = None,
            }
            if !all {
                break;
            }
        }
    }
}

fn cannot_run(program: &std::ffi::OsStr, error: &std::io::Error) -> anyhow::Error {
    let shown = program.display();
    match error.kind() {
        std::io::ErrorKind::NotFound => anyhow!("there is no command {shown} to build with"),
        std::io::ErrorKind::PermissionDenied => anyhow!("{shown} is not a program that you may execute"),
        _ => anyhow!("cannot run {shown}: {error}"),
    }
}
