//! The whole sandbox as data: decided before any process exists, printed by `--dry-run`, obeyed by the child.

mod etc_files;
mod filesystem;
mod host_paths;
mod root;
mod step;
mod store_view;

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use linux_raw_sys::general;

pub use self::step::{Access, CommandTerminal, Step};
use crate::caller::Caller;
use crate::failed_build::{FailedBuild, Preparation};
use crate::nix::Settings;
use crate::sandbox::seccomp::SystemCallFilter;
use crate::sys::{ADDR_NO_RANDOMIZE, PER_LINUX32};

/// User id of the builder in the sandbox, as Nix has it.
pub const SANDBOX_UID: u32 = 1000;
/// Group id of the builder in the sandbox, as Nix has it.
pub const SANDBOX_GID: u32 = 100;

/// The copy of the kept build directory in a scratch directory.
pub const BUILD: &str = "build";
/// Beside it, if the build left something of its outputs: copies of that, in what becomes the sandbox's store.
pub const OUTPUTS: &str = "outputs";
/// The mode of the sandbox's store, as Nix makes it: a build may add to it, and take nothing away that it did not add.
pub const STORE_MODE: u32 = 0o1775;

/// What the shell does in the sandbox after `source /build`: take the build's environment, then become the command.
const ENTER_SCRIPT: &str = r#"/env-vars; exec "$@""#;
/// The same where there is no `env-vars`: stdenv makes the environment anew. Its functions can be commands.
const STDENV_SCRIPT: &str = r#"if [ -e "${NIX_ATTRS_SH_FILE-}" ]; then source "$NIX_ATTRS_SH_FILE"; fi; source "$stdenv/setup"; if [ "$(type -t -- "$1")" = function ]; then "$@"; else exec "$@"; fi"#;
/// The same for a shell: it reads stdenv itself, since functions do not outlive an `exec`, from a descriptor that it closes. Only an
/// interactive one has an rcfile, and only another a `BASH_ENV`. An error is not to end it, nor its end to be taken for the build's.
const STDENV_SHELL_SCRIPT: &str = r#"exec 9<<<'exec 9<&-; unset BASH_ENV; if [ -e "${NIX_ATTRS_SH_FILE-}" ]; then source "$NIX_ATTRS_SH_FILE"; fi; source "$stdenv/setup"; set +eu; trap - EXIT'; BASH_ENV=/dev/fd/9 exec "$@" --rcfile /dev/fd/9"#;
/// The same for a build without stdenv, whose environment the shell has from the start. It counts itself in one more variable.
const PLAIN_SCRIPT: &str = r#"unset SHLVL; exec "$@""#;

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

    /// All but the network's: what Nix gives a fixed-output derivation.
    pub fn with_hosts_network() -> Self {
        Self(Self::all().0 & !general::CLONE_NEWNET)
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
    /// `SHELL -c SCRIPT -- COMMAND ARG...`, with SHELL itself where there is no command.
    fn in_build_shell(build: &FailedBuild, command: &[impl AsRef<OsStr>]) -> Result<Self> {
        let shell: Vec<&OsStr> =
            [build.shell.path.as_os_str()].into_iter().chain(build.shell.applet.as_deref()).collect();
        let script = match build.environment.preparation {
            Preparation::EnvVars => format!("source {}{ENTER_SCRIPT}", quoted(&build.build_directory)),
            Preparation::Stdenv if command.is_empty() => STDENV_SHELL_SCRIPT.into(),
            Preparation::Stdenv => STDENV_SCRIPT.into(),
            Preparation::Nothing => PLAIN_SCRIPT.into(),
        };
        let script = ["-c", &script, "--"].map(OsStr::new);
        let command = if command.is_empty() { shell.clone() } else { command.iter().map(AsRef::as_ref).collect() };
        let variables = build.environment.variables.iter();
        Ok(Self {
            program: c_string(build.shell.path.as_os_str())?,
            arguments: shell.into_iter().chain(script).chain(command).map(c_string).collect::<Result<_>>()?,
            environment: variables
                .map(|(name, value)| c_string(OsStr::from_bytes(&[name, &b"="[..], value].concat())))
                .collect::<Result<_>>()?,
        })
    }
}

/// A path as a shell reads it: most need no quotes.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.+".contains(&byte));
    if is_plain { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
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
    /// Whether it does so itself, as PID 1, and not as the init that has the command for a child.
    pub as_pid_1: bool,
}

/// The directories on the host that a plan needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDirectories {
    /// A directory of the caller's, with [`BUILD`] and perhaps [`OUTPUTS`] in it; in the sandbox's mount namespace the new root is
    /// mounted on it.
    pub scratch: PathBuf,
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
        // What needs no id comes first: it is done while the parent writes the id maps.
        let mut steps = vec![Step::DieWithParent];
        if !build.has_network {
            steps.push(Step::HandOverNetwork);
        }
        steps.extend([
            Step::ResetSignals,
            Step::LeaveSessionKeyring,
            Step::SetHostName(c"localhost".into()),
            Step::SetDomainName(c"(none)".into()),
            Step::MakeMountsPrivate,
            Step::AwaitIdMaps,
        ]);
        if caller.must_change_ids() {
            steps.push(Step::BecomeBuilder);
            // The kernel forgets the death signal when ids change.
            steps.push(Step::DieWithParent);
        }
        filesystem::add_steps(&mut steps, build, settings, caller, directories)?;
        steps.extend([Step::SetUmask(0o022), Step::ForbidCoreDumps, Step::SetPersonality(personality(build))]);
        if !settings.allow_new_privileges {
            steps.push(Step::ForbidNewPrivileges);
        }
        if build.has_network {
            steps.push(Step::ScopeAbstractSockets);
        }
        steps.push(Step::FilterSystemCalls(if settings.filter_syscalls {
            SystemCallFilter::of_build()
        } else {
            SystemCallFilter::of_terminal()
        }));
        steps.extend([
            Step::HideFromCommand,
            Step::DropCapabilities,
            Step::CloseDescriptors,
            Step::ChangeDirectory(c_string(build.build_directory.as_os_str())?),
        ]);
        if !build.has_network {
            steps.push(Step::AwaitNetwork);
        }
        // A parent that died before it was first asked for may have left its bytes in the channel. Now they are read.
        steps.push(Step::DieWithParent);
        Ok(Self {
            namespaces: if build.has_network { Namespaces::with_hosts_network() } else { Namespaces::all() },
            uid_map: IdMap { inside: SANDBOX_UID, outside: caller.uid.as_raw() },
            gid_map: IdMap { inside: SANDBOX_GID, outside: caller.gid.as_raw() },
            steps,
            command: Command::in_build_shell(build, command)?,
            as_pid_1: false,
        })
    }

    /// The same plan for a command that has this terminal in place of the caller's, if it has one, and is PID 1 itself or is not.
    #[must_use]
    pub fn executed(mut self, terminal: Option<CommandTerminal>, as_pid_1: bool) -> Self {
        if let Some(terminal) = terminal {
            let last = self.steps.iter().position(|step| *step == Step::CloseDescriptors).unwrap_or(self.steps.len());
            self.steps.insert(last, Step::OpenTerminal(terminal));
        }
        Self { as_pid_1, ..self }
    }

    /// Whether the command has a terminal of the sandbox's own, and which.
    pub fn terminal(&self) -> Option<CommandTerminal> {
        self.steps.iter().find_map(|step| match step {
            Step::OpenTerminal(terminal) => Some(*terminal),
            _ => None,
        })
    }
}

/// As Nix sets it: no address randomisation, and for a 32-bit build a kernel that says so.
fn personality(build: &FailedBuild) -> u32 {
    let system = build.derivation.as_ref().map(|derivation| derivation.system.as_slice());
    let is_32_bit: &[&[u8]] = if cfg!(target_arch = "x86_64") {
        &[b"i686-linux"]
    } else {
        &[b"armv7l-linux", b"armv6l-linux", b"armv5tel-linux"]
    };
    if system.is_some_and(|system| is_32_bit.contains(&system)) {
        ADDR_NO_RANDOMIZE | PER_LINUX32
    } else {
        ADDR_NO_RANDOMIZE
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
