//! From the namespaces to the command: how a sandbox comes to be.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Error, Result, anyhow};
use rustix::process::{Gid, Signal, Uid};

use super::cgroup::Cgroup;
use super::child::Descriptors;
use super::forerunner::{First, Forerunner};
use super::{
    NamespaceHandles, Sandbox, channel, drop_supplementary_groups, give_up, hear, id_map, let_go_on, refusal,
    standard_descriptors,
};
use crate::caller::Caller;
use crate::plan::{IdMaps, Namespaces, Plan, steps_ahead, steps_of_every_sandbox};
use crate::sys;

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

impl<'a> Launch<'a> {
    /// What it is launched by.
    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// Lets the command be executed, and returns when it has been, or somebody has killed the processes.
    ///
    /// # Errors
    /// As of [`Groundwork::build`].
    pub fn go(self) -> Result<Sandbox> {
        if self.groundwork.maps.is_ok() {
            // Without its maps the forerunner would take this for the word that they are there.
            let_go_on(&self.groundwork.channel)?;
        }
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
