//! The first process of the sandbox, while the command runs. It is still the child: the same rules bind it, system calls only.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::process::{self, Pid, Signal, WaitOptions, WaitStatus};
use rustix::stdio::stdin;
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use super::child::tell;
use super::message::{Message, Order};
use crate::sys::{self, SignalOrigin};

/// PID 1 of the sandbox, or whoever joined it with a command of his own: passes on what the parent signals and reaps what is left
/// to it. Returns the command's exit status, or 128+n for the signal n.
pub(super) fn serve(command: Pid, channel: &OwnedFd, has_terminal: bool) -> u8 {
    let mut init = Init { command, channel, has_terminal, foreground: None };
    loop {
        let Ok(received) = sys::wait_for_signal() else {
            continue;
        };
        if received.number == Signal::CHILD.as_raw() {
            if let Some(status) = init.reap() {
                return status;
            }
        } else if received.number == Signal::CONT.as_raw() && received.origin == SignalOrigin::Parent {
            init.obey_orders();
        } else if let Some(signal) = Signal::from_named_raw(received.number) {
            init.pass_on(signal, received.origin);
        }
    }
}

struct Init<'a> {
    command: Pid,
    channel: &'a OwnedFd,
    /// Whether this process leads the session of a terminal of the sandbox's own. Then it does a shell's part for its one job, the
    /// command.
    has_terminal: bool,
    /// The process group that had the terminal when we took it; the command's own where there is none.
    foreground: Option<Pid>,
}

impl Init<'_> {
    /// Passes a signal on that is meant for the command. It may have ended in this moment; SIGCHLD tells.
    fn pass_on(&self, signal: Signal, origin: SignalOrigin) {
        match origin {
            SignalOrigin::Parent => _ = process::kill_process(self.command, signal),
            // The terminal has hung up, and only the leader of its session is told: the rest is up to us.
            SignalOrigin::Kernel => self.signal_group(signal),
            // The command itself has no business with PID 1.
            SignalOrigin::Other => {}
        }
    }

    fn obey_orders(&mut self) {
        let mut bytes = [0; Order::SIZE];
        while let Ok((Order::SIZE, _)) = recv(self.channel, &mut bytes, RecvFlags::DONTWAIT) {
            match Order::from_bytes(bytes) {
                Some(Order::Signal(signal)) => self.signal_group(signal),
                Some(Order::Foreground) => {
                    self.give_terminal();
                    self.signal_group(Signal::CONT);
                }
                Some(Order::Background) => {
                    if let Ok(group) = tcgetpgrp(stdin())
                        && group != process::getpid()
                    {
                        self.foreground = Some(group);
                        self.take_terminal();
                    }
                    self.signal_group(Signal::CONT);
                }
                None => {}
            }
        }
    }

    /// Gives the terminal back to the process group that had it, if it is with us.
    fn give_terminal(&mut self) {
        if tcgetpgrp(stdin()) != Ok(process::getpid()) {
            return;
        }
        let given = self.foreground.take().is_some_and(|group| tcsetpgrp(stdin(), group).is_ok());
        if !given && let Some(group) = self.group_of_command() {
            let _ = tcsetpgrp(stdin(), group);
        }
    }

    /// Puts this process, whose number is that of its group, into the foreground. SIGTTOU is blocked, so it may.
    fn take_terminal(&self) {
        let _ = tcsetpgrp(stdin(), process::getpid());
    }

    /// None where the command has joined the first process's own group: to signal that would be to signal everybody.
    fn group_of_command(&self) -> Option<Pid> {
        process::getpgid(Some(self.command)).ok().filter(|group| *group != process::getpid())
    }

    fn signal_group(&self, signal: Signal) {
        let _ = match self.group_of_command() {
            Some(group) => process::kill_process_group(group, signal),
            None => process::kill_process(self.command, signal),
        };
    }

    /// Reaps every process that has ended; the status of the command once it is among them. Tells if the command was stopped.
    fn reap(&mut self) -> Option<u8> {
        let options = if self.has_terminal { WaitOptions::NOHANG | WaitOptions::UNTRACED } else { WaitOptions::NOHANG };
        let mut outcome = None;
        while let Ok(Some((pid, status))) = process::wait(options) {
            if pid != self.command {
                continue;
            }
            match status.stopping_signal() {
                Some(signal) => {
                    self.foreground = None;
                    self.take_terminal();
                    tell(self.channel, Message::Stopped(signal));
                }
                None => outcome = exit_status(status),
            }
        }
        outcome
    }
}

/// As a shell has it.
fn exit_status(status: WaitStatus) -> Option<u8> {
    let by_signal = status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or(by_signal).map(|code| code as u8)
}

/// Kills every other process of the PID namespace and reaps those that are our children, or become it when their parents end. Only
/// for PID 1: the kernel ends with it those that have joined.
pub(super) fn end_all_others() {
    loop {
        match process::wait(WaitOptions::NOHANG) {
            // A process that is just being created gets no signal, so it is sent again after each that was reaped.
            Ok(None) => {
                sys::kill_all_others();
                let _ = process::wait(WaitOptions::empty());
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
