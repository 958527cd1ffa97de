//! The whole sandbox as data: decided before any process exists, printed by `--dry-run`, obeyed by the child.

mod entry;
mod etc_files;
mod filesystem;
mod host_paths;
mod joining;
mod limits;
mod own_cgroup;
mod root;
mod step;
mod store_view;

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use linux_raw_sys::general;

use self::entry::Entry;
pub use self::entry::Session;
pub use self::limits::PlannedLimits;
pub use self::own_cgroup::OwnCgroup;
pub use self::step::{Access, CommandTerminal, Step};
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::nix::Settings;
use crate::sandbox::seccomp::SystemCallFilter;
use crate::sys::{ADDR_NO_RANDOMIZE, PER_LINUX32, UNAME26};

/// User id of the builder in the sandbox, as Nix has it.
pub const SANDBOX_UID: u32 = 1000;
/// Group id of the builder in the sandbox, as Nix has it.
pub const SANDBOX_GID: u32 = 100;

/// The copy of the kept build directory in a scratch directory.
pub const BUILD: &str = "build";
/// Beside it, where that is the upper layer of an overlay: what the kernel needs for its work.
pub const OVERLAY_WORK: &str = "work";
/// Beside them: where the lower layer is mounted, if it has no path of its own.
pub const OVERLAY_LOWER: &str = "lower";
/// Beside it, if the build left something of its outputs: copies of that, in what becomes the sandbox's store.
pub const OUTPUTS: &str = "outputs";
/// Beside them, for a session: a directory of its own, which can be written to.
pub const SESSION: &str = "session";
/// The mode of the sandbox's store, as Nix makes it: a build may add to it, and take nothing away that it did not add.
pub const STORE_MODE: u32 = 0o1775;

/// The kinds of namespaces that the child is created in: `CLONE_NEW*` flags of [`clone(2)`].
///
/// [`clone(2)`]: https://man7.org/linux/man-pages/man2/clone.2.html
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces(u32);

impl Namespaces {
    /// Each flag with the name of its kind, as `/proc/sys/user/max_NAME_namespaces` spells it.
    pub const KINDS: [(u32, &'static str); 7] = [
        (general::CLONE_NEWUSER, "user"),
        (general::CLONE_NEWNS, "mnt"),
        (general::CLONE_NEWPID, "pid"),
        (general::CLONE_NEWIPC, "ipc"),
        (general::CLONE_NEWUTS, "uts"),
        (general::CLONE_NEWNET, "net"),
        (general::CLONE_NEWCGROUP, "cgroup"),
    ];

    /// All seven: what Nix gives a build that has no network.
    pub fn all() -> Self {
        Self(Self::KINDS.iter().fold(0, |flags, (flag, _)| flags | flag))
    }

    /// None: the process stays in its parent's, or joins others.
    pub fn none() -> Self {
        Self(0)
    }

    /// All but the network's: what Nix gives a fixed-output derivation.
    pub fn with_hosts_network() -> Self {
        Self(Self::all().0 & !general::CLONE_NEWNET)
    }

    /// The one that owns all the others.
    pub const USER: Self = Self(general::CLONE_NEWUSER);
    /// The one that takes the kernel longest.
    pub const NETWORK: Self = Self(general::CLONE_NEWNET);
    /// Those whose content is settled when the sandbox's first process is created: it, and the cgroup that is the root.
    pub const OF_PROCESS: Self = Self(general::CLONE_NEWPID | general::CLONE_NEWCGROUP);

    /// Those of `self` that are not in `others`.
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether a network of its own is among them.
    pub fn isolate_network(self) -> bool {
        self.0 & general::CLONE_NEWNET != 0
    }

    /// The flags as `clone3` takes them.
    pub fn bits(self) -> u64 {
        u64::from(self.0)
    }

    /// The names of the kinds that are in it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::KINDS.into_iter().filter(move |(flag, _)| self.0 & flag != 0).map(|(_, name)| name)
    }
}

/// One id inside the sandbox and the id that it is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// The id that the sandbox sees.
    pub inside: u32,
    /// The id that the host sees.
    pub outside: u32,
}

impl fmt::Display for IdMap {
    /// In the form of `/proc/PID/uid_map`; see [`user_namespaces(7)`].
    ///
    /// [`user_namespaces(7)`]: https://man7.org/linux/man-pages/man7/user_namespaces.7.html
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} 1", self.inside, self.outside)
    }
}

/// The ids of a sandbox: one user and one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// The one user id.
    pub uid: IdMap,
    /// The one group id.
    pub gid: IdMap,
}

impl IdMaps {
    /// The builder's, for `caller`.
    pub fn of(caller: &Caller) -> Self {
        Self {
            uid: IdMap { inside: SANDBOX_UID, outside: caller.uid.as_raw() },
            gid: IdMap { inside: SANDBOX_GID, outside: caller.gid.as_raw() },
        }
    }
}

/// The program that the sandbox executes at the end, exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The executable, as a path in the sandbox.
    pub program: CString,
    /// Its arguments, its own name first.
    pub arguments: Vec<CString>,
    /// Its whole environment, `NAME=VALUE` each.
    pub environment: Vec<CString>,
}

/// Everything that has to happen between `clone3` and the command, and what the parent adds to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the child is created in.
    pub namespaces: Namespaces,
    /// The cgroup that it is created in.
    pub cgroup: OwnCgroup,
    /// What the cgroup limits, and what is told of all limits.
    pub limits: PlannedLimits,
    /// The one user id and the one group id.
    pub id_maps: IdMaps,
    /// What the child does, in this order, or has from who creates it.
    pub steps: Vec<Step>,
    /// What it executes then.
    pub command: Command,
    /// Whether it does so itself, as PID 1, and not as the init that has the command for a child.
    pub as_pid_1: bool,
}

/// The directories on the host that a plan needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDirectories {
    /// A directory of the caller's, with [`BUILD`] and perhaps [`OUTPUTS`] and [`SESSION`] in it.
    pub scratch: PathBuf,
    /// Whether [`OUTPUTS`] is there although nothing is copied into it: then what is built outlives the sandbox.
    pub has_outputs: bool,
    /// What the build directory is made of.
    pub build: BuildMount,
}

/// What is mounted as the build directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BuildMount {
    /// The copy: [`BUILD`].
    #[default]
    Copy,
    /// An overlay, whose upper layer is [`BUILD`].
    Overlay {
        /// Its lower layer.
        lower: KeptMount,
    },
    /// The kept directory itself.
    InPlace(KeptMount),
}

/// How the child comes by the kept directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptMount {
    /// By its absolute path.
    Path(PathBuf),
    /// As a detached mount with the owner's ids mapped, which the parent has open.
    IdMapped(RawFd),
}

impl Plan {
    /// The sandbox of `build`, for `caller`, that runs `command` or, where that is empty, the build's shell.
    ///
    /// # Errors
    /// An argument with a NUL byte in it, or a device or another host path that is missing.
    pub fn new(
        build: &FailedBuild,
        settings: &Settings,
        caller: &Caller,
        directories: &HostDirectories,
        command: &[impl AsRef<OsStr>],
    ) -> Result<Self> {
        let command: Vec<&OsStr> = command.iter().map(AsRef::as_ref).collect();
        Self::of_entry(build, settings, caller, directories, Entry::Command(&command))
    }

    /// The sandbox of `build`, for `caller`, with an interactive session in it.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub fn for_session(
        build: &FailedBuild,
        settings: &Settings,
        caller: &Caller,
        directories: &HostDirectories,
        session: &Session,
    ) -> Result<Self> {
        Self::of_entry(build, settings, caller, directories, Entry::Session(session))
    }

    /// A sandbox with all namespaces for `caller`, in which these steps are done by its builder, and this command runs: to see whether
    /// they can be.
    pub(crate) fn of_steps(caller: &Caller, inner: Vec<Step>, command: Command) -> Self {
        let mut steps = steps_of_start(caller);
        steps.extend([Step::MakeMountsPrivate, Step::SetUmask(0)]);
        steps.extend(inner);
        steps.extend([Step::JoinNetwork, Step::CloseDescriptors, Step::DieWithParent]);
        Self {
            namespaces: Namespaces::all(),
            cgroup: OwnCgroup::Unwanted,
            limits: PlannedLimits::default(),
            id_maps: IdMaps::of(caller),
            steps,
            command,
            as_pid_1: false,
        }
    }

    fn of_entry(
        build: &FailedBuild,
        settings: &Settings,
        caller: &Caller,
        directories: &HostDirectories,
        entry: Entry<'_>,
    ) -> Result<Self> {
        let mut steps = steps_of_start(caller);
        filesystem::add_steps(&mut steps, build, settings, caller, directories, entry)?;
        add_restrictions(&mut steps, build, settings);
        if !build.has_network {
            // As late as possible, since the network takes longest to make; but before the capability to join it goes.
            steps.push(Step::JoinNetwork);
        }
        give_up_rights(&mut steps, build)?;
        // A parent that died before it was first asked for may have left its bytes in the channel. Now they are read.
        steps.push(Step::DieWithParent);
        Ok(Self {
            namespaces: if build.has_network { Namespaces::with_hosts_network() } else { Namespaces::all() },
            cgroup: OwnCgroup::of(settings),
            limits: PlannedLimits::default(),
            id_maps: IdMaps::of(caller),
            steps,
            command: Command::of_entry(build, entry)?,
            as_pid_1: false,
        })
    }

    /// The same plan for a command that has this terminal in place of the caller's, if it has one, and is PID 1 itself or is not.
    #[must_use]
    pub fn executed(mut self, terminal: Option<CommandTerminal>, as_pid_1: bool) -> Self {
        if let Some(terminal) = terminal {
            for step in &mut self.steps {
                if *step == Step::LeadSession {
                    *step = Step::OpenTerminal(terminal);
                }
            }
        }
        Self { as_pid_1, ..self }
    }

    /// The same plan for a sandbox that is made while its build directory is filled: all that is left to be done then is to go into that,
    /// and to execute the command. See [`Groundwork::launch`](crate::sandbox::Groundwork::launch).
    #[must_use]
    pub fn awaiting_build(mut self) -> Self {
        if let Some(place) = self.steps.iter().position(|step| *step == Step::CloseDescriptors) {
            self.steps.insert(place + 1, Step::AwaitBuild);
        }
        self
    }

    /// The same plan, after which what is in the sandbox's root can be looked at: see
    /// [`Sandbox::take_root`](crate::sandbox::Sandbox::take_root).
    #[must_use]
    pub fn showing_root(mut self) -> Self {
        if let Some(place) = self.steps.iter().position(|step| *step == Step::PivotRoot) {
            self.steps.insert(place + 1, Step::ShowRoot);
        }
        self
    }

    /// Whether the command has a terminal of the sandbox's own, and which.
    pub fn terminal(&self) -> Option<CommandTerminal> {
        self.steps.iter().find_map(|step| match step {
            Step::OpenTerminal(terminal) => Some(*terminal),
            _ => None,
        })
    }
}

/// What every sandbox begins with and every process has from its parent, so that it can be done before there is a plan.
pub(crate) fn steps_of_every_sandbox() -> Vec<Step> {
    vec![
        Step::ResetSignals,
        Step::LeaveSessionKeyring,
        Step::SetHostName(c"localhost".into()),
        Step::SetDomainName(c"(none)".into()),
    ]
}

/// The same with what follows in every sandbox of `caller` whose first process does not have to change its ids before: the root, with all in
/// it that no build has otherwise.
///
/// # Errors
/// None that could be seen: no path in it holds a NUL byte.
pub(crate) fn steps_ahead(caller: &Caller) -> Result<Vec<Step>> {
    let mut steps = steps_of_every_sandbox();
    if !caller.must_change_ids() {
        steps.push(Step::AwaitIdMaps);
        filesystem::begin_root(&mut steps, caller)?;
    }
    Ok(steps)
}

/// What comes before anything that needs an id: where the sandbox is to be joined, the parent writes down meanwhile where it is.
fn steps_of_start(caller: &Caller) -> Vec<Step> {
    let mut steps = vec![Step::DieWithParent];
    steps.extend(steps_of_every_sandbox());
    steps.push(Step::AwaitIdMaps);
    if caller.must_change_ids() {
        steps.push(Step::BecomeBuilder);
        // The kernel forgets the death signal when ids change.
        steps.push(Step::DieWithParent);
    }
    steps
}

/// Adds what makes a process one of the sandbox's, once it is inside.
fn add_restrictions(steps: &mut Vec<Step>, build: &FailedBuild, settings: &Settings) {
    let system = build.derivation.as_ref().map(|derivation| derivation.system.as_slice());
    steps.extend([Step::SetUmask(0o022), Step::ForbidCoreDumps, Step::SetPersonality(personality(system, settings))]);
    if !settings.allow_new_privileges {
        steps.push(Step::ForbidNewPrivileges);
    }
    if build.has_network {
        steps.push(Step::ScopeAbstractSockets);
    }
    steps.push(Step::FilterSystemCalls(if settings.filter_syscalls {
        SystemCallFilter::of_build()
    } else {
        SystemCallFilter::of_host()
    }));
    steps.push(Step::HideFromCommand);
}

/// Adds how a process gives up what it has of its parent's, and its rights: the last that it needs those for comes before.
fn give_up_rights(steps: &mut Vec<Step>, build: &FailedBuild) -> Result<()> {
    steps.extend([
        Step::DropCapabilities,
        Step::LeadSession,
        Step::CloseDescriptors,
        Step::ChangeDirectory(c_string(build.build_directory.as_os_str())?),
    ]);
    Ok(())
}

/// As Nix sets it: no address randomisation; for a 32-bit build a machine that says so; with `impersonate-linux-26` a kernel that says
/// it is old, on PCs only.
fn personality(system: Option<&[u8]>, settings: &Settings) -> u32 {
    let is_32_bit: &[&[u8]] = if cfg!(target_arch = "x86_64") {
        &[b"i686-linux"]
    } else {
        &[b"armv7l-linux", b"armv6l-linux", b"armv5tel-linux"]
    };
    // Where the derivation is not known, the build was one for this machine, as nearly all are.
    let is_for_pc =
        system.map_or(cfg!(target_arch = "x86_64"), |system| [&b"i686-linux"[..], b"x86_64-linux"].contains(&system));
    let mut persona = ADDR_NO_RANDOMIZE;
    if system.is_some_and(|system| is_32_bit.contains(&system)) {
        persona |= PER_LINUX32;
    }
    if settings.impersonate_linux_26 && is_for_pc {
        persona |= UNAME26;
    }
    persona
}

impl fmt::Display for Plan {
    /// In words, a step a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces: Vec<_> = self.namespaces.names().collect();
        let namespaces = namespaces.join(", ");
        match &self.cgroup {
            _ if self.joins() => writeln!(f, "create a process that joins the namespaces of a sandbox")?,
            OwnCgroup::Unwanted | OwnCgroup::Existing(_) => {
                writeln!(f, "create a process in new namespaces: {namespaces}")?;
            }
            OwnCgroup::Below(parent) => {
                let limits = self.limits.in_cgroup.words(" with at most ");
                writeln!(f, "make a cgroup in {}{limits}", parent.display())?;
                writeln!(f, "create a process in it and in new namespaces: {namespaces}")?;
            }
            OwnCgroup::Unavailable(reason) => {
                writeln!(f, "make no cgroup, though Nix's use-cgroups is set: {reason}")?;
                writeln!(f, "create a process in new namespaces: {namespaces}")?;
            }
        }
        if !self.joins() {
            let IdMaps { uid, gid } = self.id_maps;
            writeln!(
                f,
                "map user {} to the host's {}, and group {} to {}; no other id",
                uid.inside, uid.outside, gid.inside, gid.outside
            )?;
        }
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "execute{}", if self.as_pid_1 { ", as PID 1," } else { "" })?;
        for argument in &self.command.arguments {
            write!(f, " {:?}", argument.to_string_lossy())?;
        }
        writeln!(f)
    }
}

/// `text` as the kernel takes it.
fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).with_context(|| format!("{text:?} holds a NUL byte, which no argument can"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_old_for_builds_for_pcs_and_only_with_the_setting() {
        let is_old = |system: Option<&str>, impersonate_linux_26| {
            let settings = Settings { impersonate_linux_26, ..Settings::default() };
            personality(system.map(str::as_bytes), &settings) & UNAME26 != 0
        };
        for system in ["x86_64-linux", "i686-linux"] {
            assert!(is_old(Some(system), true));
            assert!(!is_old(Some(system), false));
        }
        for system in ["aarch64-linux", "armv7l-linux", "riscv64-linux"] {
            assert!(!is_old(Some(system), true));
        }
        assert_eq!(is_old(None, true), cfg!(target_arch = "x86_64"));
    }
}
