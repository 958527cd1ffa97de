//! The whole sandbox as data: decided before any process exists, printed by `--dry-run`, obeyed by the child.

mod etc_files;
mod filesystem;
mod step;

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use linux_raw_sys::general;

pub use self::step::{Access, Step};
use crate::caller::Caller;
use crate::kept_build::{BUILD_DIR, KeptBuild};
use crate::sandbox::seccomp::SystemCallFilter;
use crate::sys::ADDR_NO_RANDOMIZE;

/// User id of the builder in the sandbox, as Nix has it.
pub const SANDBOX_UID: u32 = 1000;
/// Group id of the builder in the sandbox, as Nix has it.
pub const SANDBOX_GID: u32 = 100;

/// What the shell does in the sandbox: take the build's environment, then become the command.
const ENTER_SCRIPT: &str = r#"source /build/env-vars; exec "$@""#;

/// What Nix gives every builder, before the derivation's own variables: the start of the sandbox's environment.
const BUILDER_ENVIRONMENT: [(&str, &str); 11] = [
    ("PATH", "/path-not-set"),
    ("HOME", "/homeless-shelter"),
    ("NIX_STORE", "/nix/store"),
    ("NIX_BUILD_TOP", BUILD_DIR),
    ("TMPDIR", BUILD_DIR),
    ("TEMPDIR", BUILD_DIR),
    ("TMP", BUILD_DIR),
    ("TEMP", BUILD_DIR),
    ("PWD", BUILD_DIR),
    ("NIX_LOG_FD", "2"),
    ("TERM", "xterm-256color"),
];

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

impl Command {
    /// `SHELL -c 'source /build/env-vars; exec "$@"' -- COMMAND ARG...`, with SHELL itself where there is no command.
    fn in_build_shell(shell: &Path, command: &[impl AsRef<OsStr>]) -> Result<Self> {
        let shell = shell.as_os_str();
        let script = [shell, "-c".as_ref(), ENTER_SCRIPT.as_ref(), "--".as_ref()];
        let command: Vec<&OsStr> =
            if command.is_empty() { vec![shell] } else { command.iter().map(AsRef::as_ref).collect() };
        Ok(Self {
            program: c_string(shell)?,
            arguments: script.into_iter().chain(command).map(c_string).collect::<Result<_>>()?,
            environment: BUILDER_ENVIRONMENT
                .iter()
                .map(|(name, value)| c_string(format!("{name}={value}").as_ref()))
                .collect::<Result<_>>()?,
        })
    }
}

/// Everything that has to happen between `clone3` and the command, and what the parent adds to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the child is created in.
    pub namespaces: Namespaces,
    /// The one user id.
    pub uid_map: IdMap,
    /// The one group id.
    pub gid_map: IdMap,
    /// What the child does, in this order.
    pub steps: Vec<Step>,
    /// What it executes then.
    pub command: Command,
}

/// The directories on the host that a plan needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDirectories {
    /// A directory of the caller's; in the sandbox's mount namespace the new root is mounted on it.
    pub scratch: PathBuf,
    /// The writable copy of the kept build directory, in `scratch`.
    pub build: PathBuf,
}

impl Plan {
    /// The sandbox around `kept`, for `caller`, that runs `command` or, where that is empty, the build's shell.
    ///
    /// # Errors
    /// An argument with a NUL byte in it, or a device that the host lacks.
    pub fn new(
        kept: &KeptBuild,
        caller: &Caller,
        directories: &HostDirectories,
        command: &[impl AsRef<OsStr>],
    ) -> Result<Self> {
        // What needs no id comes first: it is done while the parent writes the id maps.
        let mut steps = vec![
            Step::DieWithParent,
            Step::HandOverNetwork,
            Step::ResetSignals,
            Step::LeaveSessionKeyring,
            Step::SetHostName(c"localhost".into()),
            Step::SetDomainName(c"(none)".into()),
            Step::MakeMountsPrivate,
            Step::AwaitIdMaps,
        ];
        if caller.must_change_ids() {
            steps.push(Step::BecomeBuilder);
            // The kernel forgets the death signal when ids change.
            steps.push(Step::DieWithParent);
        }
        filesystem::add_steps(&mut steps, kept, caller, directories)?;
        steps.extend([
            Step::SetUmask(0o022),
            Step::ForbidCoreDumps,
            Step::SetPersonality(ADDR_NO_RANDOMIZE),
            Step::ForbidNewPrivileges,
            Step::FilterSystemCalls(SystemCallFilter::of_build()),
            Step::HideFromCommand,
            Step::DropCapabilities,
            Step::CloseDescriptors,
            Step::ChangeDirectory(CString::new(BUILD_DIR)?),
            Step::AwaitNetwork,
            // A parent that died before it was first asked for may have left its bytes in the channel. Now they are read.
            Step::DieWithParent,
        ]);
        Ok(Self {
            namespaces: Namespaces::all(),
            uid_map: IdMap { inside: SANDBOX_UID, outside: caller.uid.as_raw() },
            gid_map: IdMap { inside: SANDBOX_GID, outside: caller.gid.as_raw() },
            steps,
            command: Command::in_build_shell(&kept.shell, command)?,
        })
    }
}

impl fmt::Display for Plan {
    /// In words, a step a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces: Vec<_> = self.namespaces.names().collect();
        writeln!(f, "create a process in new namespaces: {}", namespaces.join(", "))?;
        let (uid, gid) = (self.uid_map, self.gid_map);
        writeln!(
            f,
            "map user {} to the host's {}, and group {} to {}; no other id",
            uid.inside, uid.outside, gid.inside, gid.outside
        )?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "execute")?;
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
