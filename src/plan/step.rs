//! One thing that the child does: a system call or a few, with everything they need already in the kernel's form.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::RawFd;

use rustix::thread::CpuSet;

use super::{SANDBOX_GID, SANDBOX_UID};
use crate::limits::{counted, size};
use crate::sandbox::seccomp::SystemCallFilter;
use crate::sys::{PER_LINUX32, UNAME26};

/// How a process calls what is mounted on its own root directory. An absolute path begins below that; who goes up to the root, from itself
/// or by `..` in a path or a link, comes into it, as at every mount point: see [`path_resolution(7)`].
///
/// [`path_resolution(7)`]: https://man7.org/linux/man-pages/man7/path_resolution.7.html
pub(super) const NEW_ROOT: &str = "/..";

/// Whether a mount can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing below it can be changed, not even a mode or a time.
    ReadOnly,
    /// As the files' own modes allow.
    ReadWrite,
    /// As the mount is that the source is in.
    AsSource,
}

/// The pseudo-terminal that the command gets in place of the caller's terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandTerminal {
    /// Which of the descriptors 0, 1 and 2 lead to the caller's terminal. The first always does.
    pub replaces: [bool; 3],
    /// Whether the command begins in the foreground of its terminal, as one that may read from it.
    pub in_foreground: bool,
}

/// One thing that the child does between `clone3` and the command.
///
/// Paths without a leading slash are below the new root, which is mounted on the host's and is the working directory until
/// [`Step::PivotRoot`]; with a leading slash they are the host's until then. Where another directory of the host is the working directory
/// for a moment, what is in there has a dot and a slash in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Be killed when the parent dies: `PR_SET_PDEATHSIG`. Ends at once where the parent is dead already.
    DieWithParent,
    /// Join a namespace of a running sandbox: `setns`.
    JoinNamespace {
        /// The kind of namespace, as a flag of `clone3`.
        flag: u32,
        /// The same as `/proc/PID/ns` has it.
        name: &'static str,
        /// The namespace, which the parent has open.
        descriptor: RawFd,
    },
    /// Let a new process go on with the next step, in the PID namespace that was joined, and end.
    GoOnInPidNamespace,
    /// Wait until the parent has written the id maps; before that whoever does it is nobody and may do nothing.
    AwaitIdMaps,
    /// Wait until the parent has filled the build directory.
    AwaitBuild,
    /// Become the mapped user and group, where the child was cloned as another (under sudo). An unmapped id can create no
    /// file. Capabilities stay, since id 0 is not mapped.
    BecomeBuilder,
    /// Wait until the new network namespace is there, in which `lo` is up, and go into it.
    JoinNetwork,
    /// Set the host name.
    SetHostName(CString),
    /// Set the NIS domain name.
    SetDomainName(CString),
    /// Make every mount a slave of the host's, so that none of ours reaches the host. In a new user namespace the kernel has done so.
    KeepMountsFromHost,
    /// Make every mount private, so that none of the host's reaches us any more.
    MakeMountsPrivate,
    /// Set the umask.
    SetUmask(u32),
    /// Mount a new file system.
    Mount {
        /// Its type, such as `tmpfs`.
        kind: CString,
        /// Where.
        target: CString,
        /// Options of the file system's own.
        options: CString,
    },
    /// Show `source`, a file or directory of the host, at `target` too.
    Bind {
        /// A path on the host, or below the new root.
        source: CString,
        /// Where it appears.
        target: CString,
        /// With the mounts below it. A tree with locked mounts can only be bound so.
        recursive: bool,
        /// Read-only takes the mounts below it along.
        access: Access,
    },
    /// Attach a mount that the parent has made: `move_mount`.
    AttachMount {
        /// The mount, which the parent has open.
        descriptor: RawFd,
        /// Where.
        target: CString,
    },
    /// Make a directory.
    MakeDirectory {
        /// Where.
        path: CString,
        /// Its mode.
        mode: u32,
    },
    /// Change the mode of a directory.
    ChangeMode {
        /// Which.
        path: CString,
        /// Its new mode.
        mode: u32,
    },
    /// Make a file with this content.
    MakeFile {
        /// Where.
        path: CString,
        /// Its mode.
        mode: u32,
        /// All that is in it.
        content: Vec<u8>,
    },
    /// Make a symbolic link.
    MakeSymlink {
        /// What it says.
        link: CString,
        /// Where.
        path: CString,
    },
    /// Go into a directory.
    ChangeDirectory(CString),
    /// Make the working directory the root, and let go of the old one: `pivot_root`, detach, `chroot`.
    PivotRoot,
    /// Let a crash leave no core file; the command may raise the limit again, as under Nix.
    ForbidCoreDumps,
    /// Let no process have more data than this, in bytes: `RLIMIT_DATA`. The command cannot raise it again.
    LimitData(u64),
    /// Let there be no more processes than this of the user's in this user namespace: `RLIMIT_NPROC`.
    LimitProcesses(u32),
    /// Run on these processors.
    RunOn(CpuSet),
    /// Set the execution domain: `ADDR_NO_RANDOMIZE`, as Nix does for reproducible builds, and what else it sets for this one.
    SetPersonality(u32),
    /// Allow no user namespace below this one.
    ForbidUserNamespaces,
    /// Leave the caller's session keyring, with its tickets and keys, for an empty one.
    LeaveSessionKeyring,
    /// Gain no privilege by executing a file, whatever its mode: `PR_SET_NO_NEW_PRIVS`.
    ForbidNewPrivileges,
    /// Let this program decide about every system call from now on. Needs [`Step::ForbidNewPrivileges`] before.
    FilterSystemCalls(SystemCallFilter),
    /// Lead a session of its own, which no terminal controls, and with it a process group: whoever is in the caller's could signal all
    /// that are in it, himself included, wherever they run.
    LeadSession,
    /// Make a pseudo-terminal of the sandbox's own with the modes and the size of the caller's terminal, hand its master to the parent,
    /// and become the leader of a session that it controls. Needs `/dev/pts`, and [`Step::PivotRoot`] before.
    OpenTerminal(CommandTerminal),
    /// Hand the root to the parent, so that it can look at what is in it when the sandbox has ended. Needs [`Step::PivotRoot`] before.
    ShowRoot,
    /// Reach no abstract unix socket that was made outside, where the kernel can forbid it: for a build that shares the host's
    /// network. Needs [`Step::ForbidNewPrivileges`] before.
    ScopeAbstractSockets,
    /// Give every signal its default disposition.
    ResetSignals,
    /// Keep our memory, environment and descriptors from the command's eyes: `PR_SET_DUMPABLE`.
    HideFromCommand,
    /// Drop every capability that the user namespace gave.
    DropCapabilities,
    /// Close every descriptor but standard input, output and error.
    CloseDescriptors,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DieWithParent => write!(f, "die with the parent process"),
            Self::JoinNamespace { name, .. } => write!(f, "join the {name} namespace of the sandbox"),
            Self::GoOnInPidNamespace => write!(f, "go on as a process of the sandbox"),
            Self::AwaitIdMaps => write!(f, "wait for the id maps"),
            Self::AwaitBuild => write!(f, "wait until the build directory is filled"),
            Self::BecomeBuilder => {
                write!(f, "become user {SANDBOX_UID} and group {SANDBOX_GID}")
            }
            Self::JoinNetwork => write!(f, "go into the network namespace, in which the interface lo is up"),
            Self::SetHostName(name) => write!(f, "set the host name to {}", words(name)),
            Self::SetDomainName(name) => write!(f, "set the domain name to {}", words(name)),
            Self::KeepMountsFromHost => write!(f, "keep every mount from the host"),
            Self::MakeMountsPrivate => write!(f, "make every mount private to the sandbox"),
            Self::SetUmask(mask) => write!(f, "set the umask to {mask:03o}"),
            Self::Mount { kind, target, options, .. } => {
                write!(f, "mount a new {} on {}", words(kind), inside(target))?;
                if !options.is_empty() {
                    write!(f, " ({})", words(options))?;
                }
                Ok(())
            }
            Self::Bind { source, target, recursive, access } => {
                write!(f, "bind {} on {}", inside(source), inside(target))?;
                if *recursive {
                    write!(f, " with the mounts below it")?;
                }
                match access {
                    Access::ReadOnly => write!(f, ", read-only"),
                    Access::ReadWrite => write!(f, ", writable"),
                    Access::AsSource => Ok(()),
                }
            }
            Self::AttachMount { target, .. } => {
                write!(f, "mount the kept directory, with its owner's files as the builder's, on {}", inside(target))
            }
            Self::MakeDirectory { path, mode } => {
                write!(f, "make the directory {} (mode {mode:04o})", inside(path))
            }
            Self::ChangeMode { path, mode } => {
                write!(f, "change the mode of the directory {} to {mode:04o}", inside(path))
            }
            Self::MakeFile { path, mode, content } => {
                let size = content.len();
                write!(f, "make the file {} (mode {mode:04o}, {size} bytes)", inside(path))
            }
            Self::MakeSymlink { link, path } => {
                write!(f, "make the link {} to {}", inside(path), words(link))
            }
            Self::ChangeDirectory(path) => write!(f, "go to {}", inside(path)),
            Self::PivotRoot => write!(f, "make this the root and let go of the host's"),
            Self::ForbidCoreDumps => write!(f, "limit core files to 0 bytes"),
            Self::LimitData(bytes) => write!(f, "limit the data of each process to {}", size(*bytes)),
            Self::LimitProcesses(number) => write!(f, "limit the processes to {number}, our init among them"),
            Self::RunOn(cores) => write!(f, "run on {}", counted(cores.count(), "processor", "s")),
            Self::SetPersonality(persona) => {
                write!(f, "set the personality to {persona:#x} (no address randomisation")?;
                if persona & PER_LINUX32 != 0 {
                    write!(f, ", a machine of 32 bits")?;
                }
                if persona & UNAME26 != 0 {
                    write!(f, ", a kernel that calls itself 2.6")?;
                }
                write!(f, ")")
            }
            Self::ForbidUserNamespaces => write!(f, "allow no user namespaces in the sandbox"),
            Self::LeaveSessionKeyring => write!(f, "leave the session keyring for an empty one"),
            Self::ForbidNewPrivileges => write!(f, "allow no new privileges"),
            Self::FilterSystemCalls(_) => {
                write!(
                    f,
                    "filter system calls (no set-id bits, no extended attributes, no typing into the terminal, no keys)"
                )
            }
            Self::LeadSession => write!(f, "lead a session of its own, without a terminal"),
            Self::OpenTerminal(CommandTerminal { replaces: [_, output, error], .. }) => {
                let others = match (output, error) {
                    (true, true) => ", output and error",
                    (true, false) => " and output",
                    (false, true) => " and error",
                    (false, false) => "",
                };
                write!(f, "make a terminal of the sandbox's own the standard input{others}")
            }
            Self::ShowRoot => write!(f, "hand the root to the parent process"),
            Self::ScopeAbstractSockets => write!(f, "keep away from the host's abstract unix sockets"),
            Self::ResetSignals => write!(f, "reset every signal's disposition"),
            Self::HideFromCommand => write!(f, "hide our own memory from the command"),
            Self::DropCapabilities => write!(f, "drop every capability"),
            Self::CloseDescriptors => write!(f, "close every descriptor but 0, 1 and 2"),
        }
    }
}

/// A name or path as a person reads it.
fn words(text: &CStr) -> std::borrow::Cow<'_, str> {
    text.to_string_lossy()
}

/// A path as the sandbox will see it: one below the new root gets its slash.
fn inside(path: &CStr) -> String {
    let path = words(path);
    match path.as_ref() {
        "." => "this directory".into(),
        path => match path.strip_prefix(NEW_ROOT) {
            Some("") => "sandbox:/".into(),
            Some(below) if below.starts_with('/') => format!("sandbox:{below}"),
            _ if path.starts_with('/') || path.starts_with("./") => path.into(),
            _ => format!("sandbox:/{path}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_sandbox_is_told_by_its_name_there() {
        for (path, told) in [
            (c"dev/null", "sandbox:/dev/null"),
            (c"/..", "sandbox:/"),
            (c"/../build", "sandbox:/build"),
            (c"/dev/null", "/dev/null"),
            (c"/..x", "/..x"),
            (c"./lower", "./lower"),
            (c".", "this directory"),
        ] {
            assert_eq!(inside(path), told);
        }
    }
}
