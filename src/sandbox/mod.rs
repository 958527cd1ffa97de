//! Starts a sandbox: the parent's half. It decides and explains; the child only obeys.

mod child;
pub mod clone3;
mod id_map;
mod loopback;
mod refusal;

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::set_thread_groups;

use self::child::Message;
use self::clone3::Child;
use crate::plan::Plan;

/// A sandbox whose command runs. Dropping it kills every process in it, and waits until the kernel has taken it down.
#[derive(Debug)]
pub struct Sandbox {
    init: Child,
    channel: OwnedFd,
    reaped: bool,
}

/// Creates the processes that `plan` describes and returns when the command has been executed.
///
/// # Errors
/// One sentence that names the step, the kernel's answer, the likely cause and the remedy. Nothing is left then.
pub fn start(plan: &Plan) -> Result<Sandbox> {
    drop_supplementary_groups()?;
    let (ours, childs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("cannot make a socket to talk to the sandbox")?;
    let init = child::spawn(plan, &childs, &ours).map_err(refusal::of_namespaces)?;
    // From here on dropping the sandbox ends the child.
    let sandbox = Sandbox { init, channel: ours, reaped: false };
    drop(childs);
    let mapped = id_map::write(sandbox.init.pid, plan);
    match &mapped {
        // A child that has failed already does not listen, but it has told.
        Ok(()) => match send(&sandbox.channel, &[0], SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::PIPE) => {}
            Err(errno) => return Err(errno).context("cannot talk to the sandbox"),
        },
        // The end of the channel ends the child.
        Err(_) => shutdown(&sandbox.channel, Shutdown::Write).context("cannot talk to the sandbox")?,
    }
    match (hear(&sandbox.channel)?, mapped) {
        (Some(Message::Failed(report)), _) => Err(refusal::of_step(plan, report)),
        (Some(_), _) => Ok(sandbox),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => bail!(
            "the sandbox was killed before the command ran; if memory was short, the kernel's log («sudo dmesg») says so"
        ),
    }
}

/// The caller's other groups give no right in a build. Only root may drop them; the README says what others see.
fn drop_supplementary_groups() -> Result<()> {
    match set_thread_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(errno).context("cannot drop the supplementary groups"),
    }
}

/// What the child has to tell; nothing if it was killed.
fn hear(channel: &OwnedFd) -> Result<Option<Message>> {
    let mut bytes = [0; Message::SIZE];
    loop {
        match recv(channel, &mut bytes, RecvFlags::empty()) {
            Ok((0, _)) => return Ok(None),
            Ok(_) => return Ok(Some(Message::from_bytes(bytes))),
            // A child that failed early leaves our byte unread, and the kernel tells us so once, before its last message.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(errno) => return Err(errno).context("cannot hear from the sandbox"),
        }
    }
}

impl Sandbox {
    /// A descriptor that becomes readable when the command has ended.
    pub fn end_of_command(&self) -> &OwnedFd {
        &self.channel
    }

    /// Sends `signal` to the command, through the sandbox's first process.
    ///
    /// # Errors
    /// None when the sandbox has ended already.
    pub fn send_signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.init.pidfd, signal) {
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
        if let Some(Message::Ended(status)) = hear(&self.channel)? {
            return Ok(status);
        }
        // Only SIGKILL ends the first process without a word.
        self.reap()?;
        Ok(128 + Signal::KILL.as_raw() as u8)
    }

    fn reap(&mut self) -> Result<()> {
        let pidfd = WaitId::PidFd(self.init.pidfd.as_fd());
        retry_on_intr(|| waitid(pidfd.clone(), WaitIdOptions::EXITED)).context("cannot wait for the sandbox")?;
        self.reaped = true;
        Ok(())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.reaped {
            // Errors would only say that it has ended; there is nobody to tell.
            let _ = pidfd_send_signal(&self.init.pidfd, Signal::KILL);
            let _ = self.reap();
        }
    }
}
