//! What decides which Nix is found and what it answers, taken from the process once and passed on.

use std::env;
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::geteuid;
use rustix::thread::sched_getaffinity;

/// The environment variables that Nix is told, and the places on this machine that Nix has by convention.
#[derive(Debug)]
pub struct Surroundings {
    /// In the order of the environment, and only those that Nix may look at.
    pub variables: Vec<(OsString, OsString)>,
    /// Where a Nix may be that is not in `PATH`.
    pub usual_program_directories: Vec<PathBuf>,
    /// Where the system's `nix.conf` is when `NIX_CONF_DIR` does not say otherwise.
    pub system_configuration_directory: PathBuf,
    /// How long Nix may take to tell its settings; it takes a tenth of a second.
    pub time_limit: Duration,
    /// Whether we have rights that others may want to borrow.
    pub is_root: bool,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let usual = ["/run/current-system/sw/bin", "/nix/var/nix/profiles/default/bin"];
        let mut surroundings = Self {
            variables: env::vars_os().filter(|(name, _)| is_for_nix(name.as_bytes())).collect(),
            usual_program_directories: usual.map(PathBuf::from).to_vec(),
            system_configuration_directory: "/etc/nix".into(),
            time_limit: Duration::from_secs(10),
            is_root: geteuid().is_root(),
        };
        // Under sudo the home directory may be another's, and so would be the programs in it.
        if let Some(home) = surroundings.own_home().map(Path::to_owned) {
            let profiles = [home.join(".nix-profile/bin"), home.join(".local/state/nix/profile/bin")];
            surroundings.usual_program_directories.extend(profiles);
        }
        surroundings.usual_program_directories.push("/usr/bin".into());
        surroundings
    }

    /// The value of an environment variable, of those that Nix may look at.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }

    /// A directory that an environment variable names; as everywhere, relative ones count for nothing.
    pub fn directory(&self, name: &str) -> Option<&Path> {
        self.get(name).map(Path::new).filter(|path| path.is_absolute())
    }

    /// The caller's home directory; none where it belongs to somebody else, which Nix does not accept either.
    pub fn own_home(&self) -> Option<&Path> {
        let is_own = |home: &&Path| rustix::fs::stat(*home).is_ok_and(|status| status.st_uid == geteuid().as_raw());
        self.directory("HOME").filter(is_own)
    }

    /// One number for all that Nix's answer depends on and that is in no file. A number does not betray the access tokens that
    /// `NIX_CONFIG` may hold.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for name in DECISIVE_VARIABLES {
            self.get(name).hash(&mut hasher);
        }
        // The defaults of `system-features` and `cores`.
        access("/dev/kvm", Access::READ_OK | Access::WRITE_OK).is_ok().hash(&mut hasher);
        sched_getaffinity(None).map_or(0, |cpus| cpus.count()).hash(&mut hasher);
        hasher.finish()
    }
}

/// Where Nix's own programs usually are, and those of the profiles of whom this process belongs to.
pub fn usual_program_directories() -> Vec<PathBuf> {
    Surroundings::of_process().usual_program_directories
}

/// The variables that name a configuration file or give a setting its value. Others that start like them, such as
/// `NIX_BUILD_TOP` in a shell of Nix's, change often and mean nothing here.
const DECISIVE_VARIABLES: [&str; 11] = [
    "HOME",
    "NIX_CONFIG",
    "NIX_CONFIG_HOME",
    "NIX_CONF_DIR",
    "NIX_REMOTE",
    "NIX_STATE_DIR",
    "NIX_STORE",
    "NIX_STORE_DIR",
    "NIX_USER_CONF_FILES",
    "XDG_CONFIG_DIRS",
    "XDG_CONFIG_HOME",
];

/// `PATH` is among them for a `nix` that is a script.
fn is_for_nix(name: &[u8]) -> bool {
    [&b"HOME"[..], b"USER", b"LOGNAME", b"PATH"].contains(&name)
        || name.starts_with(b"NIX_")
        || name.starts_with(b"XDG_")
}
