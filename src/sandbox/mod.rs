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
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};
use rustix::thread::set_thread_groups;

use self::child::Message;
use self::clone3::Child;
use crate::plan::Plan;

/// A sandbox whose command runs. Dropping it kills every process in it.
#[derive(Debug)]
pub struct Sandbox {
    init: Child,
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
    let sandbox = Sandbox { init, reaped: false };
    drop(childs);
    let mapped = id_map::write(sandbox.init.pid, plan);
    match &mapped {
        // A child that has failed already does not listen, but it has told.
        Ok(()) => match send(&ours, &[0], SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::PIPE) => {}
            Err(errno) => return Err(errno).context("cannot talk to the sandbox"),
        },
        // The end of the channel ends the child.
        Err(_) => shutdown(&ours, Shutdown::Write).context("cannot talk to the sandbox")?,
    }
    match hear(&ours) {
        Ok(Message::Failed(report)) => Err(refusal::of_step(plan, report)),
        heard => mapped.and(heard).map(|_| sandbox),
    }
}

/// The caller's other groups give no right in a build. Only root may drop them; the README says what others see.
fn drop_supplementary_groups() -> Result<()> {
    match set_thread_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(errno).context("cannot drop the supplementary groups"),
    }
}

/// What the child has to tell.
fn hear(channel: &OwnedFd) -> Result<Message> {
    let mut bytes = [0; Message::SIZE];
    let length = loop {
        match recv(channel, &mut bytes, RecvFlags::empty()) {
            Ok((length, _)) => break length,
            // A child that failed early leaves our byte unread, and the kernel tells us so once, before its last message.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(errno) => return Err(errno).context("cannot hear from the sandbox"),
        }
    };
    if length == 0 {
        bail!(
            "the sandbox was killed before the command ran; if memory was short, the kernel's log («sudo dmesg») says so"
        );
    }
    Ok(Message::from_bytes(bytes))
}

impl Sandbox {
    /// A descriptor that becomes readable when the sandbox has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.init.pidfd
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

    /// Waits until the command, and with it every process of the sandbox, has ended. Returns its exit status, or 128+n when
    /// the signal n ended it.
    pub fn wait(mut self) -> Result<u8> {
        let status = self.reap()?.context("the sandbox ended without a status")?;
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 255,
        };
        Ok(code as u8)
    }

    fn reap(&mut self) -> Result<Option<WaitIdStatus>> {
        let pidfd = WaitId::PidFd(self.init.pidfd.as_fd());
        let status =
            retry_on_intr(|| waitid(pidfd.clone(), WaitIdOptions::EXITED)).context("cannot wait for the sandbox")?;
        self.reaped = true;
        Ok(status)
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
