//! Why the kernel refused a sandbox, and what to do about it, in a sentence.

use std::fs;
use std::path::Path;

use anyhow::{Error, anyhow};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::message::{Message, Report};
use crate::plan::{Namespaces, OVERLAY_LOWER, OwnCgroup, Plan, Step};

/// There is no sandbox since its overlay cannot be mounted: in a sentence. A copy would do.
#[derive(Debug)]
pub struct NoOverlay(String);

impl std::fmt::Display for NoOverlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoOverlay {}

const CLOSED_ON_THE_WAY: &str =
    "the sandbox's user may not enter a directory on the way: set TMPDIR to a directory that everybody may enter";

/// Whether a step belongs to the overlay that a copy could take the place of.
fn is_of_overlay(step: &Step) -> bool {
    match step {
        Step::Mount { kind, .. } => kind.as_bytes() == b"overlay",
        Step::AttachMount { target, .. } => target.as_bytes().strip_prefix(b"./") == Some(OVERLAY_LOWER.as_bytes()),
        _ => false,
    }
}

/// Why the namespaces could not be created.
pub(super) fn of_namespaces(errno: Errno) -> Error {
    Machine::here().refused_namespaces(errno)
}

/// Why the sandbox that `plan` describes could not be started, if that is what the message tells.
pub(super) fn of_start(plan: &Plan, message: Message) -> Option<Error> {
    match message {
        Message::Failed(report) => Some(Machine::here().refused_step(plan, report)),
        Message::NoNamespaces(errno) => Some(of_namespaces(errno)),
        Message::NoCgroup(errno) => {
            Some(anyhow!("cannot start the sandbox in a cgroup of its own, so its limits cannot be kept: {errno}"))
        }
        Message::NoForerunner(errno) => {
            Some(anyhow!("cannot let the process that makes the sandbox's namespaces end with this one: {errno}"))
        }
        Message::NoHandover(errno) => Some(anyhow!("cannot hand the sandbox its network namespace: {errno}")),
        Message::NoLoopback(errno) => Some(anyhow!("cannot bring the network interface lo of the sandbox up: {errno}")),
        Message::Terminal
        | Message::Root
        | Message::NoRoom
        | Message::GoesOn(_)
        | Message::Started
        | Message::Stopped(_)
        | Message::Ended(_) => None,
    }
}

/// What the kernel tells of its settings.
struct Machine<'a> {
    proc: &'a Path,
    /// The distributions' switches do not bind root.
    is_root: bool,
}

impl Machine<'_> {
    fn here() -> Self {
        Self { proc: Path::new("/proc"), is_root: geteuid().is_root() }
    }

    fn refused_namespaces(&self, errno: Errno) -> Error {
        let cause = match errno {
            Errno::NOSPC | Errno::USERS => self.exhausted_namespaces(),
            Errno::PERM | Errno::ACCESS => self.forbidden_namespaces(),
            Errno::NOSYS if self.is_confined() => CONFINED.into(),
            Errno::NOSYS => "the kernel has no clone3: Linux 5.10 or newer is needed".into(),
            Errno::AGAIN => "the limit of processes is reached: see «ulimit -u»".into(),
            Errno::MFILE | Errno::NFILE => "too many files are open: see «ulimit -n»".into(),
            _ => "see user_namespaces(7) for what may forbid them".into(),
        };
        anyhow!("cannot create a sandbox: the kernel refuses new namespaces ({errno}): {cause}")
    }

    /// The kernel's answer was that there are too many.
    fn exhausted_namespaces(&self) -> String {
        let limit = |kind: &&str| self.setting(&format!("user/max_{kind}_namespaces")).as_deref() == Some("0");
        match Namespaces::all().names().find(limit) {
            Some(kind) => {
                format!("user.max_{kind}_namespaces is 0; «sudo sysctl user.max_{kind}_namespaces=15000» allows them")
            }
            None => "the limits user.max_*_namespaces are reached, or user namespaces are nested too deeply".into(),
        }
    }

    /// The kernel's answer was that we may not.
    fn forbidden_namespaces(&self) -> String {
        if !self.is_root && self.setting("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
            "kernel.unprivileged_userns_clone is 0; «sudo sysctl kernel.unprivileged_userns_clone=1» allows them".into()
        } else if self.apparmor_forbids() {
            APPARMOR.into()
        } else if self.is_in_chroot() {
            "in a chroot it never allows them; call nix-build-shell outside of it".into()
        } else if self.is_confined() {
            CONFINED.into()
        } else {
            // The root of a chroot may also be a mount, and then looks like any other.
            "in a chroot it never allows them: call nix-build-shell outside of it; or a security module forbids them, and the \
             kernel's log («sudo dmesg») may say which"
                .into()
        }
    }

    fn refused_step(&self, plan: &Plan, Report { step: number, errno }: Report) -> Error {
        let Some(step) = plan.steps.get(number) else {
            let program = plan.command.program.to_string_lossy();
            let cause = match errno {
                Errno::NOENT => ": the program that it asks for as its interpreter is not there",
                Errno::NOEXEC => ": it is no program for this machine",
                Errno::ACCESS => ": it may not be executed",
                Errno::NOMEM | Errno::AGAIN if plan.limits.words.is_some() => ": the limits leave it no room",
                _ => "",
            };
            return anyhow!("cannot execute the build's shell {program}: {errno}{cause}");
        };
        let may_not = matches!(errno, Errno::PERM | Errno::ACCESS);
        let cause = match (step, errno) {
            (Step::Mount { kind, .. }, Errno::PERM) if kind.as_bytes() == b"proc" => {
                "a container that hides parts of /proc forbids a new one: call nix-build-shell outside of it, or give the \
                 container its whole /proc (for Docker and Podman: --security-opt systempaths=unconfined)"
            }
            (Step::ChangeDirectory(_), Errno::ACCESS) if !plan.steps[..number].contains(&Step::PivotRoot) => {
                CLOSED_ON_THE_WAY
            }
            (Step::JoinNamespace { .. }, Errno::PERM) => {
                "it is not yours: who has called nix-build-shell with sudo joins with sudo as well"
            }
            (Step::GoOnInPidNamespace, Errno::ACCESS) if plan.cgroup != OwnCgroup::Unwanted => {
                "the cgroup that limits the sandbox lets nobody in from here: call it where the session was begun from"
            }
            (Step::GoOnInPidNamespace, Errno::NOMEM | Errno::INVAL) => "the sandbox has just ended",
            _ if may_not && self.apparmor_forbids() => APPARMOR,
            (Step::Bind { .. }, Errno::ACCESS) => CLOSED_ON_THE_WAY,
            (Step::Mount { kind, .. }, Errno::NODEV) if kind.as_bytes() == b"overlay" => {
                "the kernel was built without overlays; --build-dir-mode=copy does without"
            }
            _ if is_of_overlay(step) => {
                "neither the kernel nor the file systems of the two directories may be fit for it; --build-dir-mode=copy does \
                 without, or set TMPDIR to a directory on another file system"
            }
            (Step::JoinNetwork, Errno::PIPE) => "the process that makes it was killed",
            (Step::Bind { .. }, Errno::NOENT) => "the host has no such file",
            (Step::Bind { .. }, Errno::NOSYS) => "the kernel has no mount_setattr: Linux 5.10 or newer is needed",
            (Step::OpenTerminal(_), Errno::IO) => "the terminal on standard input has hung up",
            (Step::FilterSystemCalls(_), Errno::NOSYS) if self.is_confined() => CONFINED,
            (Step::FilterSystemCalls(_), Errno::NOSYS | Errno::INVAL) => {
                "the kernel was built without filters (CONFIG_SECCOMP_FILTER)"
            }
            (Step::CloseDescriptors, Errno::NOSYS) => "the kernel has no close_range: Linux 5.10 or newer is needed",
            (Step::Mount { kind, .. }, Errno::NODEV) if kind.as_bytes() == b"devpts" => {
                "the kernel was built without pseudo-terminals"
            }
            (Step::Mount { .. } | Step::Bind { .. }, Errno::NOSPC) => {
                "the limit of mounts (fs.mount-max) may be reached"
            }
            _ if may_not && self.is_confined() => CONFINED,
            _ => "«--dry-run» shows the step among the others",
        };
        let sentence = anyhow!("cannot {}: {errno}: {cause}", plan.steps[number]);
        if is_of_overlay(step) { Error::new(NoOverlay(sentence.to_string())) } else { sentence }
    }

    fn apparmor_forbids(&self) -> bool {
        !self.is_root && self.setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1")
    }

    /// Whether a seccomp filter is upon us, as in most containers.
    fn is_confined(&self) -> bool {
        let status = fs::read_to_string(self.proc.join("self/status")).unwrap_or_default();
        status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]))
    }

    /// The root of a chroot is no mount, so the table of mounts has none at `/`.
    fn is_in_chroot(&self) -> bool {
        let mounts = fs::read_to_string(self.proc.join("self/mountinfo")).unwrap_or_default();
        let is_root = |line: &str| line.split(' ').nth(4) == Some("/");
        !mounts.is_empty() && !mounts.lines().any(is_root)
    }

    fn setting(&self, name: &str) -> Option<String> {
        let value = fs::read_to_string(self.proc.join("sys").join(name)).ok()?;
        Some(value.trim_end().to_owned())
    }
}

const APPARMOR: &str = "Ubuntu's AppArmor restricts them (kernel.apparmor_restrict_unprivileged_userns is 1); «sudo sysctl \
                        kernel.apparmor_restrict_unprivileged_userns=0» lifts that, or call nix-build-shell with sudo";
const CONFINED: &str = "a seccomp filter, as containers have, forbids it; call nix-build-shell outside of the container, or allow \
                        it there (for Docker and Podman: --security-opt seccomp=unconfined)";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    /// A `/proc` with these files in it.
    fn proc_with(files: &[(&str, &str)]) -> TempDir {
        let proc = TempDir::new().unwrap();
        for (name, content) in files {
            let path: PathBuf = proc.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        proc
    }

    fn refused(errno: Errno, files: &[(&str, &str)]) -> String {
        let proc = proc_with(files);
        Machine { proc: proc.path(), is_root: false }.refused_namespaces(errno).to_string()
    }

    #[test]
    fn the_namespaces_that_are_switched_off_are_named() {
        let files = [("sys/user/max_user_namespaces", "5000\n"), ("sys/user/max_net_namespaces", "0\n")];
        assert!(refused(Errno::NOSPC, &files).contains("sudo sysctl user.max_net_namespaces=15000"));
    }

    #[test]
    fn debians_switch_is_named() {
        let files = [("sys/kernel/unprivileged_userns_clone", "0\n")];
        assert!(refused(Errno::PERM, &files).contains("sudo sysctl kernel.unprivileged_userns_clone=1"));
    }

    #[test]
    fn ubuntus_switch_is_named() {
        let files = [("sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")];
        assert!(refused(Errno::ACCESS, &files).contains("apparmor_restrict_unprivileged_userns=0"));
    }

    #[test]
    fn a_seccomp_filter_is_recognised() {
        let files = [("self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n")];
        assert!(refused(Errno::PERM, &files).contains("seccomp=unconfined"));
        assert!(refused(Errno::NOSYS, &files).contains("seccomp=unconfined"));
        assert!(refused(Errno::NOSYS, &[]).contains("Linux 5.10"));
    }

    #[test]
    fn a_chroot_is_recognised_by_a_root_that_is_no_mount() {
        let chroot = [("self/mountinfo", "25 24 0:23 / /proc rw - proc proc rw\n")];
        assert!(refused(Errno::PERM, &chroot).contains("in a chroot it never allows them"));
        assert!(!refused(Errno::PERM, &chroot).contains("security module"));
        let host = [("self/mountinfo", "27 1 254:0 / / rw - ext4 /dev/vda rw\n")];
        assert!(refused(Errno::PERM, &host).contains("security module"));
    }
}
