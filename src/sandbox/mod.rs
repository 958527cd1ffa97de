//! Starts a sandbox: the parent's half. It decides and explains; the child only obeys.

mod bpf;
mod child;
pub mod clone3;
mod id_map;
mod init;
mod landlock;
mod loopback;
mod message;
mod refusal;
pub mod seccomp;

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType,
    recvmsg, send, shutdown, socketpair,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::set_thread_groups;

use self::clone3::Child;
use self::message::Message;
pub(crate) use self::message::Order;
use crate::plan::Plan;
use crate::sys;

/// A sandbox whose command runs. Dropping it kills every process in it, and waits until the kernel has taken it down.
#[derive(Debug)]
pub struct Sandbox {
    first: Child,
    channel: OwnedFd,
    terminal: Option<OwnedFd>,
    as_pid_1: bool,
    reaped: bool,
}

/// What can happen to the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has ended, and with it every other process of the sandbox: with this exit status, or 128+n for the signal n.
    Ended(u8),
    /// This signal has stopped it. Only of a command that has a terminal of the sandbox's own this is told.
    Stopped(i32),
}

/// Creates the processes that `plan` describes and returns when the command has been executed, or somebody has killed them.
///
/// # Errors
/// One sentence that names the step, the kernel's answer, the likely cause and the remedy. Nothing is left then.
pub fn start(plan: &Plan) -> Result<Sandbox> {
    drop_supplementary_groups()?;
    let (ours, childs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("cannot make a socket to talk to the sandbox")?;
    if plan.as_pid_1 {
        // Whose parent ignores SIGCHLD has no status.
        sys::reset_signal(Signal::CHILD.as_raw().cast_unsigned()).context("cannot reset a signal")?;
    }
    let first = child::spawn(plan, &childs, &ours).map_err(refusal::of_namespaces)?;
    // From here on dropping the sandbox ends the child.
    let mut sandbox = Sandbox { first, channel: ours, terminal: None, as_pid_1: plan.as_pid_1, reaped: false };
    drop(childs);
    let served = serve(&sandbox, plan);
    if served.is_err() {
        // The end of the channel ends a child that still waits.
        shutdown(&sandbox.channel, Shutdown::Write).context("cannot talk to the sandbox")?;
    }
    loop {
        // What the child has to tell explains more than what the parent could not do for it.
        match hear(&sandbox.channel)? {
            Some((Message::Failed(report), _)) => return Err(refusal::of_step(plan, report)),
            Some((Message::Network, _)) => {}
            Some((Message::Terminal, master)) => sandbox.terminal = master,
            // Without a word it became the command, or was killed, perhaps with it: `wait` tells.
            Some(_) | None => return served.map(|()| sandbox),
        }
    }
}

/// The parent's part of the plan, each followed by a byte that lets the child go on.
fn serve(sandbox: &Sandbox, plan: &Plan) -> Result<()> {
    id_map::write(sandbox.first.pid, plan)?;
    let go_on = || match send(&sandbox.channel, &[0], SendFlags::NOSIGNAL) {
        // A child that has failed already does not listen, but it has told.
        Ok(_) | Err(Errno::PIPE) => Ok(()),
        Err(errno) => Err(errno).context("cannot talk to the sandbox"),
    };
    go_on()?;
    if !plan.namespaces.isolate_network() {
        return Ok(());
    }
    let socket = match hear(&sandbox.channel)? {
        Some((Message::Network, Some(socket))) => socket,
        Some((Message::Failed(report), _)) => return Err(refusal::of_step(plan, report)),
        _ => bail!("the sandbox was killed before it had a network"),
    };
    loopback::raise(&socket).context("cannot bring the network interface lo of the sandbox up")?;
    go_on()
}

/// The caller's other groups give no right in a build. Only root may drop them; the README says what others see.
fn drop_supplementary_groups() -> Result<()> {
    match set_thread_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(errno).context("cannot drop the supplementary groups"),
    }
}

/// What the child has to tell, and the descriptor that came with it; nothing if it was killed.
fn hear(channel: &OwnedFd) -> Result<Option<(Message, Option<OwnedFd>)>> {
    let mut bytes = [0; Message::SIZE];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        match recvmsg(channel, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) if received.bytes == 0 => return Ok(None),
            Ok(_) => {
                let descriptor = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                    _ => None,
                });
                return Ok(Some((Message::from_bytes(bytes), descriptor)));
            }
            // A child that failed early leaves our byte unread, and the kernel tells us so once, before its last message.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(errno) => return Err(errno).context("cannot hear from the sandbox"),
        }
    }
}

impl Sandbox {
    /// A descriptor that becomes readable when the command has changed: [`Sandbox::change`] tells how.
    pub fn changes(&self) -> &OwnedFd {
        // A command that is PID 1 has no channel.
        if self.as_pid_1 { &self.first.pidfd } else { &self.channel }
    }

    /// The master of the terminal that the command was given, for its first caller.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Whether the command is the first process itself, so that nobody is there to take orders.
    pub fn is_command_pid_1(&self) -> bool {
        self.as_pid_1
    }

    /// Gives the first process an order, which only one that serves a command with a terminal of the sandbox's own takes.
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

    /// Waits for the end of the first process. Returns its exit status, or 128+n for the signal n.
    fn reap(&mut self) -> Result<u8> {
        let pidfd = WaitId::PidFd(self.first.pidfd.as_fd());
        let status =
            retry_on_intr(|| waitid(pidfd.clone(), WaitIdOptions::EXITED)).context("cannot wait for the sandbox")?;
        self.reaped = true;
        let by_signal = status.as_ref().and_then(|status| status.terminating_signal()).map(|signal| 128 + signal);
        let code = status.and_then(|status| status.exit_status()).or(by_signal);
        Ok(code.unwrap_or(128 + Signal::KILL.as_raw()) as u8)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.reaped {
            // Errors would only say that it has ended; there is nobody to tell.
            let _ = pidfd_send_signal(&self.first.pidfd, Signal::KILL);
            let _ = self.reap();
        }
    }
}
