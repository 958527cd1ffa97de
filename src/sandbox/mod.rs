//! Starts a sandbox: the parent's half. It decides and explains; the child only obeys.

mod bpf;
mod cgroup;
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

use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType,
    recvmsg, send, shutdown, socketpair,
};
use rustix::process::{Gid, Signal, Uid, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::set_thread_groups;

use self::cgroup::Cgroup;
pub use self::cgroup::Usage;
use self::clone3::Child;
use self::message::Message;
use crate::plan::Plan;
use crate::sys;

/// A sandbox whose command runs. Dropping it kills every process in it, and waits until the kernel has taken it down.
#[derive(Debug)]
pub struct Sandbox {
    init: Child,
    channel: OwnedFd,
    reaped: bool,
    /// Where the plan wants one of its own; why it has none, where the kernel refused what it should grant. Goes last.
    cgroup: Option<Result<Cgroup>>,
}

/// Creates the processes that `plan` describes and returns when the command has been executed, or somebody has killed them.
///
/// # Errors
/// One sentence that names the step, the kernel's answer, the likely cause and the remedy. Nothing is left then.
pub fn start(plan: &Plan) -> Result<Sandbox> {
    drop_supplementary_groups()?;
    let (ours, childs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("cannot make a socket to talk to the sandbox")?;
    let (init, cgroup) = spawn(plan, &childs, &ours)?;
    // From here on dropping the sandbox ends the child.
    let sandbox = Sandbox { init, channel: ours, reaped: false, cgroup };
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
            // Without a word it was killed, perhaps with the command: `wait` tells.
            Some(_) | None => return served.map(|()| sandbox),
        }
    }
}

/// Creates the child, in the cgroup that the plan wants. A sandbox is worth more than its figures, and the build sees no difference:
/// where there can be no such cgroup, the child is created in ours.
fn spawn(plan: &Plan, childs: &OwnedFd, ours: &OwnedFd) -> Result<(Child, Option<Result<Cgroup>>)> {
    let without_cgroup = || child::spawn(plan, None, childs, ours).map_err(refusal::of_namespaces);
    let Some(parent) = plan.cgroup.parent() else {
        return Ok((without_cgroup()?, None));
    };
    let (user, group) = (Uid::from_raw(plan.uid_map.outside), Gid::from_raw(plan.gid_map.outside));
    let cgroup = match Cgroup::create_in(parent, user, group) {
        Ok(cgroup) => cgroup,
        Err(error) => return Ok((without_cgroup()?, Some(Err(error)))),
    };
    match child::spawn(plan, Some(&cgroup), childs, ours) {
        Ok(init) => Ok((init, Some(Ok(cgroup)))),
        Err(errno) => {
            let error = Error::new(errno).context("cannot start the sandbox in a cgroup of its own");
            Ok((without_cgroup()?, Some(Err(error))))
        }
    }
}

/// The parent's part of the plan, each followed by a byte that lets the child go on.
fn serve(sandbox: &Sandbox, plan: &Plan) -> Result<()> {
    id_map::write(sandbox.init.pid, plan)?;
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
    /// A descriptor that becomes readable when the command has ended.
    pub fn end_of_command(&self) -> &OwnedFd {
        &self.channel
    }

    /// Sends `signal` to the command, through the sandbox's first process.
    ///
    /// # Errors
    /// None when the sandbox has ended already.
    pub fn send_signal(&self, signal: Signal) -> Result<()> {
        match sys::send_signal_as_parent(self.init.pidfd.as_fd(), signal) {
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
        if let Some((Message::Ended(status), _)) = hear(&self.channel)? {
            return Ok(status);
        }
        // Only SIGKILL ends the first process without a word.
        self.reap()?;
        Ok(128 + Signal::KILL.as_raw() as u8)
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
