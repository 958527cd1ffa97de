//! The plan of a process that joins a sandbox which runs already.

use std::ffi::OsStr;

use anyhow::Result;

use super::entry::Entry;
use super::{
    Command, IdMaps, Namespaces, OwnCgroup, Plan, PlannedLimits, Session, Step, add_restrictions, give_up_rights,
};
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::nix::Settings;
use crate::sandbox::NamespaceHandles;

impl Plan {
    /// One more command in the running sandbox of `build`, under the restrictions that the first one has. `settings` are those that
    /// the sandbox was made with, and `namespaces` have to stay open until it is carried out.
    ///
    /// For [`sandbox::join`](crate::sandbox::join).
    ///
    /// # Errors
    /// An argument with a NUL byte in it.
    pub fn for_joining(
        build: &FailedBuild,
        settings: &Settings,
        caller: &Caller,
        namespaces: &NamespaceHandles,
        command: &[impl AsRef<OsStr>],
    ) -> Result<Self> {
        let command: Vec<&OsStr> = command.iter().map(AsRef::as_ref).collect();
        Self::of_joining(build, settings, caller, namespaces, Entry::Command(&command))
    }

    /// The same with one more shell of `session`, which the sandbox was made for.
    ///
    /// # Errors
    /// As of [`for_joining`](Self::for_joining).
    pub fn for_joining_session(
        build: &FailedBuild,
        settings: &Settings,
        caller: &Caller,
        namespaces: &NamespaceHandles,
        session: &Session,
    ) -> Result<Self> {
        Self::of_joining(build, settings, caller, namespaces, Entry::Session(session))
    }

    fn of_joining(
        build: &FailedBuild,
        settings: &Settings,
        caller: &Caller,
        namespaces: &NamespaceHandles,
        entry: Entry<'_>,
    ) -> Result<Self> {
        // Hidden before anything else: from the moment that it can be seen in the sandbox, nobody there may trace it, read the
        // caller's environment in its memory, or get at our executable through it.
        let mut steps = vec![Step::DieWithParent, Step::HideFromCommand, Step::ResetSignals];
        steps.extend(namespaces.in_order().map(|(flag, name, descriptor)| Step::JoinNamespace {
            flag,
            name,
            descriptor,
        }));
        // The parent sees in the meantime whose namespaces they are.
        steps.extend([Step::GoOnInPidNamespace, Step::DieWithParent, Step::AwaitIdMaps, Step::LeaveSessionKeyring]);
        if caller.must_change_ids() {
            // The kernel forgets the death signal when ids change.
            steps.extend([Step::BecomeBuilder, Step::DieWithParent]);
        }
        add_restrictions(&mut steps, build, settings);
        give_up_rights(&mut steps, build)?;
        steps.push(Step::DieWithParent);
        Ok(Self {
            namespaces: Namespaces::none(),
            cgroup: OwnCgroup::Unwanted,
            limits: PlannedLimits::default(),
            id_maps: IdMaps::of(caller),
            steps,
            command: Command::of_entry(build, entry)?,
            as_pid_1: false,
        })
    }

    /// Whether it is one for joining a sandbox that runs already.
    pub fn joins(&self) -> bool {
        self.namespaces == Namespaces::none()
    }
}
