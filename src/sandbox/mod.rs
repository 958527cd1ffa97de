//! Starts a sandbox: the parent's half. It decides and explains; the child only obeys.

mod bpf;
mod cgroup;
mod child;
pub mod clone3;
mod forerunner;
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
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Error, Result, anyhow};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, send, shutdown, socketpair};
use rustix::process::{Gid, Pid, Signal, Uid, kill_process_group};
use rustix::thread::set_thread_groups;

use self::cgroup::Cgroup;
pub use self::cgroup::{Controllers, Usage};
use self::child::Descriptors;
use self::clone3::Child;
use self::forerunner::{First, Forerunner};
pub use self::id_mapped_mount::IdMappedMount;
pub use self::join::join;
pub(crate) use self::message::Order;
use self::message::{Message, receive};
pub use self::namespaces::NamespaceHandles;
pub use self::refusal::NoOverlay;
use crate::caller::Caller;
use crate::plan::{IdMaps, Namespaces, Plan, PlannedLimits, steps_ahead, steps_of_every_sandbox};
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

/// The namespaces of a sandbox, in the making. Dropping it ends that, and leaves nothing.
pub struct Groundwork {
    namespaces: Namespaces,
    id_maps: IdMaps,
    forerunner: Forerunner,
    channel: OwnedFd,
    childs_channel: OwnedFd,
    maps: Result<()>,
}

impl Groundwork {
    /// Begins to make `namespaces` for `caller`, and the root in them, on another core where there is one, while this process goes on to
    /// find out what else the sandbox is to look like.
    ///
    /// # Errors
    /// Where the kernel refuses a user namespace: one sentence, with the remedy.
    pub fn begin(namespaces: Namespaces, caller: &Caller) -> Result<Self> {
        let mut groundwork = Self::start(namespaces, IdMaps::of(caller), First::Root)?;
        groundwork.forerunner.do_ahead(steps_ahead(caller)?);
        groundwork.map_ids_and_let_go_on();
        Ok(groundwork)
    }

    fn start(namespaces: Namespaces, id_maps: IdMaps, first: First) -> Result<Self> {
        standard_descriptors::check()?;
        drop_supplementary_groups()?;
        // The children of whom ignores SIGCHLD have no status, and their numbers are free for others as soon as they end.
        sys::reset_signal(Signal::CHILD.as_raw().cast_unsigned()).context("cannot reset a signal")?;
        let (channel, childs_channel) = channel()?;
        let forerunner = Forerunner::start(namespaces, first, &childs_channel)?;
        Ok(Self { namespaces, id_maps, forerunner, channel, childs_channel, maps: Ok(()) })
    }

    /// Without its maps the child is nobody and may do nothing.
    fn map_ids(&mut self) {
        self.maps = id_map::write(self.forerunner.pid(), &self.id_maps);
        self.forerunner.settle_ids();
    }

    fn map_ids_and_let_go_on(&mut self) {
        self.map_ids();
        if self.maps.is_ok() {
            self.maps = let_go_on(&self.channel);
        }
    }

    /// Creates the processes that `plan` describes on this ground, and returns when the command has been executed, or somebody has
    /// killed them. Ground that was made for another sandbox is given up for new.
    ///
    /// # Errors
    /// One sentence that names the step, the kernel's answer, the likely cause and the remedy. Nothing is left then.
    pub fn build(mut self, plan: &Plan) -> Result<Sandbox> {
        if !self.suits(plan) {
            drop(self);
            return start(plan);
        }
        let cgroup = self.publish(plan)?;
        self.await_sandbox(plan, cgroup)
    }

    /// Begins with the processes that `plan`, one that [awaits its build](Plan::awaiting_build), describes on this ground. Ground that was
    /// made for another sandbox is given up, and nothing is begun.
    ///
    /// # Errors
    /// As of [`build`](Self::build).
    pub fn launch(mut self, plan: &Plan) -> Result<Option<Launch<'_>>> {
        if !self.suits(plan) {
            return Ok(None);
        }
        let cgroup = self.publish(plan)?;
        Ok(Some(Launch { groundwork: self, cgroup, plan }))
    }

    fn suits(&self, plan: &Plan) -> bool {
        (self.namespaces, self.id_maps) == (plan.namespaces, plan.id_maps) && self.forerunner.suits(plan)
    }

    fn await_sandbox(self, plan: &Plan, cgroup: Option<Result<Cgroup>>) -> Result<Sandbox> {
        if self.maps.is_ok() && !plan.as_pid_1 {
            // To reap the forerunner now would keep a core from the child. A command that is PID 1 does not tell that it was executed.
            self.forerunner.await_word(&self.channel);
        }
        let (mut sandbox, maps) = self.finish(plan, cgroup)?;
        // What the processes have to tell explains more than what could not be done for them.
        sandbox.await_command(plan)?;
        maps.map(|()| sandbox)
    }

    /// Gives the forerunner the plan, and the cgroup that the plan wants.
    ///
    /// # Errors
    /// There is no cgroup, and it would have to keep limits.
    fn publish(&mut self, plan: &Plan) -> Result<Option<Result<Cgroup>>> {
        let (user, group) = (Uid::from_raw(self.id_maps.uid.outside), Gid::from_raw(self.id_maps.gid.outside));
        let mut limits = plan.limits.in_cgroup;
        limits.processes = limits.processes.map(|number| plan.with_init(number));
        let cgroup = plan.cgroup.parent().map(|parent| Cgroup::create_in(parent, user, group, &limits));
        let cgroup = if limits.is_empty() { cgroup } else { cgroup.transpose()?.map(Ok) };
        let descriptors = Descriptors {
            channel: self.childs_channel.as_raw_fd(),
            parents_channel: self.channel.as_raw_fd(),
            network: self.forerunner.network(),
            cgroup: cgroup.as_ref().and_then(|cgroup| Some(cgroup.as_ref().ok()?.descriptor().as_raw_fd())),
        };
        self.forerunner.publish(plan, descriptors);
        Ok(cgroup)
    }

    /// Waits until the forerunner has ended, and has created the first process. Returns it, and whether the ids are mapped.
    fn finish(self, plan: &Plan, cgroup: Option<Result<Cgroup>>) -> Result<(Sandbox, Result<()>)> {
        let Self { mut forerunner, channel, childs_channel, maps, .. } = self;
        let given_up = if maps.is_err() { give_up(&channel) } else { Ok(()) };
        // The forerunner uses what it was given until it is reaped, so nothing goes before.
        let child = forerunner.reap();
        // The child's copy is the only one now: with it the channel ends.
        drop(childs_channel);
        let Some(first) = child else {
            // Without its maps the forerunner has ended without a word.
            return Err(hear(&channel)?
                .and_then(|(message, _)| refusal::of_start(plan, message))
                .or(maps.err())
                .unwrap_or_else(|| anyhow!("the process that makes the sandbox's namespaces was killed")));
        };
        // A sandbox is worth more than its figures, and the build sees no difference.
        let cgroup = match forerunner.refused_cgroup() {
            Some(errno) => Some(Err(Error::new(errno).context("cannot start the sandbox in a cgroup of its own"))),
            None => cgroup,
        };
        // From here on dropping the sandbox ends the child.
        let mut sandbox = Sandbox::of(first, channel, plan);
        sandbox.cgroup = cgroup;
        sandbox.forerunner = Some(forerunner);
        given_up?;
        Ok((sandbox, maps))
    }
}

/// A sandbox that waits for its build directory. Dropping it ends that, and leaves nothing.
pub struct Launch<'a> {
    // These go in this order: a cgroup can be removed when nobody is in it.
    groundwork: Groundwork,
    cgroup: Option<Result<Cgroup>>,
    plan: &'a Plan,
}

impl Launch<'_> {
    /// Lets the command be executed, and returns when it has been, or somebody has killed the processes.
    ///
    /// # Errors
    /// As of [`Groundwork::build`].
    pub fn go(self) -> Result<Sandbox> {
        let_go_on(&self.groundwork.channel)?;
        self.groundwork.await_sandbox(self.plan, self.cgroup)
    }
}

/// Creates the processes that `plan` describes, where there is nothing to be done meanwhile, and returns when the command has been
/// executed, or somebody has killed them.
///
/// # Errors
/// As of [`Groundwork::begin`] and [`Groundwork::build`].
pub fn start(plan: &Plan) -> Result<Sandbox> {
    let mut groundwork = Groundwork::start(plan.namespaces, plan.id_maps, First::Sandbox)?;
    let cgroup = groundwork.publish(plan)?;
    // While the forerunner creates the first process.
    groundwork.map_ids_and_let_go_on();
    groundwork.await_sandbox(plan, cgroup)
}

/// The same for a sandbox that others are to [`join`]: its namespaces are kept open. `note` writes down where they are, while nothing
/// runs in the sandbox yet.
///
/// # Errors
/// As of [`start`], and what `note` answers.
pub fn start_joinable<T>(plan: &Plan, note: impl FnOnce(&Sandbox) -> Result<T>) -> Result<(Sandbox, T)> {
    // So the first process is in all of them from the beginning, and waits for its ids itself, until they have been written down.
    let mut groundwork = Groundwork::start(plan.namespaces, plan.id_maps, First::Namespaces)?;
    groundwork.forerunner.do_ahead(steps_of_every_sandbox());
    groundwork.map_ids();
    let cgroup = groundwork.publish(plan)?;
    let (mut sandbox, maps) = groundwork.finish(plan, cgroup)?;
    let noted = maps.and_then(|()| {
        // Now, while the first process waits, it has not hidden yet.
        sandbox.namespaces = Some(NamespaceHandles::of_child(sandbox.first.pid, plan.namespaces)?);
        let noted = note(&sandbox)?;
        sandbox.let_go_on().map(|()| noted)
    });
    if noted.is_err() {
        give_up(&sandbox.channel)?;
    }
    // What the processes have to tell explains more than what could not be done for them.
    sandbox.await_command(plan)?;
    noted.map(|noted| (sandbox, noted))
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
