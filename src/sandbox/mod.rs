//! A running sandbox: the parent's half. It decides and explains; the child only obeys.

mod bpf;
mod cgroup;
mod child;
pub mod clone3;
mod forerunner;
mod groundwork;
mod id_map;
mod id_mapped_mount;
mod init;
mod join;
mod landlock;
mod loopback;
mod message;
mod namespaces;
mod read_only;
mod refusal;
pub mod seccomp;
mod standard_descriptors;

use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, send, shutdown, socketpair};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::set_thread_groups;

use self::cgroup::Cgroup;
pub use self::cgroup::{Controllers, Usage};
use self::clone3::Child;
use self::forerunner::Forerunner;
pub use self::groundwork::{Groundwork, Launch, start, start_joinable};
pub use self::id_mapped_mount::IdMappedMount;
pub use self::join::join;
pub(crate) use self::message::Order;
use self::message::{Message, receive};
pub use self::namespaces::NamespaceHandles;
pub use self::refusal::NoOverlay;
use crate::plan::{Plan, PlannedLimits};
use crate::sys;

/// A sandbox whose command runs. Dropping it kills every process in it, and waits until the kernel has taken it down.
#[derive(Debug)]
pub struct Sandbox {
    first: Child,
    channel: OwnedFd,
    terminal: Option<OwnedFd>,
    root: Option<OwnedFd>,
    /// Where others are to join.
    namespaces: Option<NamespaceHandles>,
    limits: PlannedLimits,
    as_pid_1: bool,
    reaped: bool,
    /// What has created it: it has ended, and its memory is freed when there is time for that.
    forerunner: Option<Forerunner>,
    /// Where the plan wants one of its own; why it has none, where the kernel refused what it should grant. Goes last.
    cgroup: Option<Result<Cgroup>>,
}

/// What can happen to the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has ended, and with it every other process of the sandbox: with this exit status, or 128+n for the signal n.
    Ended(u8),
    /// This signal has stopped it. Only of a command that has a terminal of the sandbox's own this is told.
    Stopped(i32),
}

/// The two ends of what this process and the child talk through: ours and the child's.
fn channel() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("cannot make a socket to talk to the sandbox")
}

/// The byte that the child waits for.
fn let_go_on(channel: &OwnedFd) -> Result<()> {
    match send(channel, &[0], SendFlags::NOSIGNAL) {
        // A child that has failed already does not listen, but it has told.
        Ok(_) | Err(Errno::PIPE) => Ok(()),
        Err(errno) => Err(errno).context("cannot talk to the sandbox"),
    }
}

/// The end of the channel ends a child that still waits for the byte.
fn give_up(channel: &OwnedFd) -> Result<()> {
    shutdown(channel, Shutdown::Write).context("cannot talk to the sandbox")
}

/// The caller's other groups give no right in a build. Only root may drop them; the README says what others see.
fn drop_supplementary_groups() -> Result<()> {
    match set_thread_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(errno).context("cannot drop the supplementary groups"),
    }
}

/// What the child, or the forerunner, has to tell, and the descriptor that came with it; nothing if they were killed.
fn hear(channel: &OwnedFd) -> Result<Option<(Message, Option<OwnedFd>)>> {
    let mut bytes = [0; Message::SIZE];
    loop {
        match receive(channel.as_fd(), &mut bytes) {
            Ok((0, _)) => return Ok(None),
            Ok((_, descriptor)) => return Ok(Some((Message::from_bytes(bytes), descriptor))),
            // A child that failed early leaves our byte unread, and the kernel tells us so once, before its last message.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(errno) => return Err(errno).context("cannot hear from the sandbox"),
        }
    }
}

impl Sandbox {
    /// A first process that has just been created, to be ended when this value goes.
    fn of(first: Child, channel: OwnedFd, plan: &Plan) -> Self {
        let (as_pid_1, limits) = (plan.as_pid_1, plan.limits.clone());
        Self {
            first,
            channel,
            terminal: None,
            root: None,
            namespaces: None,
            limits,
            as_pid_1,
            reaped: false,
            forerunner: None,
            cgroup: None,
        }
    }

    /// Waits until the command has been executed.
    fn await_command(&mut self, plan: &Plan) -> Result<()> {
        loop {
            match hear(&self.channel)? {
                Some((Message::Terminal, master)) => self.terminal = master,
                Some((Message::Root, root)) => self.root = root,
                Some((Message::NoRoom, _)) => {}
                Some((message, _)) if let Some(error) = refusal::of_start(plan, message) => return Err(error),
                // Without a word the child became the command, or was killed, perhaps with it: `wait` tells.
                _ => return Ok(()),
            }
        }
    }

    fn let_go_on(&self) -> Result<()> {
        let_go_on(&self.channel)
    }

    /// The sandbox's namespaces, where others can [`join`] it.
    pub fn namespaces(&self) -> Option<&NamespaceHandles> {
        self.namespaces.as_ref()
    }

    /// The number of the sandbox's first process.
    pub fn first_process(&self) -> Pid {
        self.first.pid
    }

    /// A descriptor that becomes readable when the command has changed: [`Sandbox::change`] tells how.
    pub fn changes(&self) -> &OwnedFd {
        // A command that is PID 1 has no channel.
        if self.as_pid_1 { &self.first.pidfd } else { &self.channel }
    }

    /// The master of the terminal that the command was given, for its first caller.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// The root that the plan [shows](Plan::showing_root), for its first caller. What is in it stays for as long as it is open, and of what
    /// was mounted in there nothing.
    pub fn take_root(&mut self) -> Option<OwnedFd> {
        self.root.take()
    }

    /// Whether the command is the first process itself, so that nobody is there to take orders.
    pub fn is_command_pid_1(&self) -> bool {
        self.as_pid_1
    }

    /// Gives the first process an order, which one that is the command itself does not take.
    ///
    /// # Errors
    /// None when the sandbox has ended already.
    pub(crate) fn order(&self, order: Order) -> Result<()> {
        match send(&self.channel, &order.to_bytes(), SendFlags::NOSIGNAL) {
            Ok(_) => self.send_signal(Signal::CONT),
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(errno).context("cannot talk to the sandbox"),
        }
    }

    /// Sends `signal` to the command's whole process group, as the kernel does for a key of a terminal.
    ///
    /// # Errors
    /// None when the sandbox has ended already.
    pub fn send_signal_to_group(&self, signal: Signal) -> Result<()> {
        if !self.as_pid_1 {
            return self.order(Order::Signal(signal));
        }
        // It leads its group, and has not been reaped: nobody else has the number.
        match kill_process_group(self.first.pid, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno).context("cannot send a signal to the sandbox"),
        }
    }

    /// Sends `signal` to the command, through the sandbox's first process.
    ///
    /// # Errors
    /// None when the sandbox has ended already.
    pub fn send_signal(&self, signal: Signal) -> Result<()> {
        match sys::send_signal_as_parent(self.first.pidfd.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno).context("cannot send a signal to the sandbox"),
        }
    }

    /// Waits until the command, and with it every other process of the sandbox, has ended. Returns its exit status, or 128+n when
    /// the signal n ended it.
    ///
    /// The kernel may still be taking the namespaces down: dropping the sandbox waits for that.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self) -> Result<u8> {
        loop {
            if let Change::Ended(status) = self.change()? {
                return Ok(status);
            }
        }
    }

    /// What the sandbox has used until now, if its plan wants it in a cgroup of its own.
    ///
    /// # Errors
    /// Why it is in none, against the plan.
    pub fn usage(&self) -> Option<Result<Usage>> {
        Some(match self.cgroup.as_ref()? {
            Ok(cgroup) => cgroup.usage(),
            Err(error) => Err(anyhow!("{error:#}")),
        })
    }

    /// Waits until something happens to the command. The end is the last that does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change(&mut self) -> Result<Change> {
        match hear(&self.channel)? {
            Some((Message::Ended(status), _)) => Ok(Change::Ended(status)),
            Some((Message::Stopped(signal), _)) => Ok(Change::Stopped(signal)),
            // Without a word the first process ends if it is the command, or by SIGKILL.
            _ => self.reap().map(Change::Ended),
        }
    }

    /// Kills every process in it, or of a sandbox that was joined the command, and waits until they have ended.
    pub fn end(&mut self) {
        if !self.reaped {
            self.first.end();
            self.reaped = true;
        }
    }

    /// Does what dropping it does, in a process that ends soon: its memory is left to the kernel, which takes all back at once.
    pub fn end_with_process(mut self) {
        self.end();
        drop(self.cgroup.take());
        mem::forget(self);
    }

    /// What limits it.
    pub fn limits(&self) -> &PlannedLimits {
        &self.limits
    }

    /// The cgroup that the plan wanted, if there is one.
    pub fn cgroup(&self) -> Option<PathBuf> {
        self.cgroup.as_ref().and_then(|cgroup| cgroup.as_ref().ok()?.path())
    }

    /// Waits for the end of the first process. Returns its exit status, or 128+n for the signal n.
    fn reap(&mut self) -> Result<u8> {
        let status = match self.first.wait() {
            // Where the kernel has reaped it nobody knows how it ended.
            Err(Errno::CHILD) => None,
            status => status.context("cannot wait for the sandbox")?,
        };
        self.reaped = true;
        let by_signal = status.as_ref().and_then(|status| status.terminating_signal()).map(|signal| 128 + signal);
        let code = status.and_then(|status| status.exit_status()).or(by_signal);
        Ok(code.unwrap_or(128 + Signal::KILL.as_raw()) as u8)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end();
    }
}
