//! Where a Nix store is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{self, Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use percent_encoding::percent_decode;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::nix_store_command::NixStoreCommand;
use super::store_database::{CannotOpen, StoreDatabase, WhoCan};
use super::store_path::is_store_path;
use super::store_records::{Source, StoreRecords};

/// Where a store is on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    #[serde(with = "crate::os_text")]
    directory: PathBuf,
    #[serde(with = "crate::os_text")]
    physical_directory: PathBuf,
    #[serde(with = "crate::os_text")]
    state_directory: PathBuf,
    #[serde(with = "crate::os_text")]
    log_directory: PathBuf,
    /// What to give nix-store's `--store`; nothing for the store that it uses by itself.
    #[serde(with = "crate::os_text::optional")]
    url: Option<OsString>,
}

impl Store {
    /// The store that Nix's own commands would use: `NIX_REMOTE` with its `root`, `real`, `store`, `state` and `log` as in
    /// [local stores], `NIX_STORE_DIR`, `NIX_STATE_DIR`, `NIX_LOG_DIR`, and else `/nix/store`.
    ///
    /// A `NIX_REMOTE` on another machine is passed over: what was built there was not kept here.
    ///
    /// [local stores]: https://nix.dev/manual/nix/latest/store/types/local-store
    ///
    /// # Errors
    /// When one of these variables has a value that Nix would not take either.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// The store below `root`, or where there is no such wish the one of the environment.
    ///
    /// # Errors
    /// As of [`in_root`](Self::in_root) and [`from_environment`](Self::from_environment).
    pub fn chosen(root: Option<&Path>) -> Result<Self> {
        root.map_or_else(Self::from_environment, Self::in_root)
    }

    /// The store of `nix-build --store ROOT`: its directory is `ROOT/nix/store`, and its paths begin with `/nix/store`. The
    /// environment has no say in it.
    ///
    /// # Errors
    /// When `root` is empty, or is relative and there is no working directory.
    pub fn in_root(root: &Path) -> Result<Self> {
        let root = absolute(root).with_context(|| format!("the root {root:?} of a store is no path"))?;
        Ok(Self {
            directory: DEFAULT_DIRECTORY.into(),
            physical_directory: root.join("nix/store"),
            state_directory: root.join("nix/var/nix"),
            log_directory: root.join(LOGS_BELOW_ROOT),
            url: Some(root.into()),
        })
    }

    /// The store directory as store paths have it, `/nix/store` almost everywhere.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The store directory as this machine has it.
    pub fn physical_directory(&self) -> &Path {
        &self.physical_directory
    }

    /// Where Nix keeps the database and the roots of the garbage collector, as this machine has it.
    pub fn state_directory(&self) -> &Path {
        &self.state_directory
    }

    /// Where Nix keeps the logs of builds, as this machine has it: `NIX_LOG_DIR`, or `/nix/var/log/nix`; for a store below a root of its
    /// own, there.
    pub fn log_directory(&self) -> &Path {
        &self.log_directory
    }

    /// Where a file in the store is on this machine. Any other path stays as it is.
    pub fn physical(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.directory) {
            Ok(below) => self.physical_directory.join(below),
            Err(_) => path.to_owned(),
        }
    }

    /// What Nix's `--store` is given to use this store; nothing for the one that it uses by itself.
    pub(super) fn url(&self) -> Option<&OsStr> {
        self.url.as_deref()
    }

    /// Whether `path` is named as a store path of this store. Nothing is looked up.
    pub fn is_store_path(&self, path: &Path) -> bool {
        is_store_path(&self.directory, path)
    }

    /// Opens the records of this store: the database, or where that cannot be read, what `nix-store` says of it.
    ///
    /// # Errors
    /// When there is no database, or the file is none of SQLite's, one sentence. That `nix-store` is missing, or cannot answer, shows
    /// at the first question, as does a database of SQLite's that is not Nix's.
    pub fn open(&self) -> Result<StoreRecords> {
        let file = self.state_directory.join("db/db.sqlite");
        let source = match StoreDatabase::open(&file, &self.directory) {
            Ok(database) => Source::Database(database),
            Err(CannotOpen { reason, who_can }) => {
                let url = match who_can {
                    WhoCan::Nix => self.url.clone(),
                    // Asked for a store that does not exist, root's nix-store would make one.
                    WhoCan::Daemon if self.has_daemon() => Some(self.url.clone().unwrap_or("daemon".into())),
                    WhoCan::Daemon | WhoCan::Nobody => bail!(reason),
                };
                Source::NixStore(NixStoreCommand::about(self, url, reason))
            }
        };
        Ok(StoreRecords::new(self.clone(), source))
    }

    /// Whether a Nix daemon serves this store.
    fn has_daemon(&self) -> bool {
        let is_daemon_s =
            |url: &OsString| [&b"daemon"[..], b"unix://"].iter().any(|start| url.as_bytes().starts_with(start));
        match &self.url {
            Some(url) => is_daemon_s(url),
            None => self.state_directory.join("daemon-socket/socket").exists(),
        }
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        // To Nix, an empty variable is none.
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let directory_in = |name: &str| match set(name).map(PathBuf::from) {
            Some(path) if path.is_absolute() => Ok(Some(without_dots(&path))),
            Some(path) => bail!("{name} is {path:?}, and Nix takes only an absolute path"),
            None => Ok(None),
        };
        let directory = directory_in("NIX_STORE_DIR")?;
        let state = directory_in("NIX_STATE_DIR")?;
        let is_default = directory.is_none() && state.is_none();
        let directory = directory.unwrap_or(DEFAULT_DIRECTORY.into());
        let state = state.unwrap_or("/nix/var/nix".into());
        let logs = directory_in("NIX_LOG_DIR")?.unwrap_or(Path::new("/").join(LOGS_BELOW_ROOT));
        let Some(remote) = set("NIX_REMOTE") else {
            let home_store = is_default.then(|| store_in_home(&state, &set)).flatten();
            return home_store.map_or_else(|| Ok(Self::at(directory, state, logs)), |root| Self::in_root(&root));
        };
        Self::from_remote(&remote, Self::at(directory, state, logs))
    }

    fn at(directory: PathBuf, state_directory: PathBuf, log_directory: PathBuf) -> Self {
        Self { physical_directory: directory.clone(), directory, state_directory, log_directory, url: None }
    }

    /// The store that `NIX_REMOTE` names, where `default` is the one that it would be without.
    fn from_remote(remote: &OsStr, default: Self) -> Result<Self> {
        let (base, query) = match remote.as_bytes().iter().position(|byte| *byte == b'?') {
            Some(at) => (&remote.as_bytes()[..at], &remote.as_bytes()[at + 1..]),
            None => (remote.as_bytes(), &b""[..]),
        };
        let path_of = |bytes: Vec<u8>| {
            absolute(Path::new(OsStr::from_bytes(&bytes)))
                .with_context(|| format!("NIX_REMOTE, {remote:?}, has an empty path"))
        };
        let mut root = match base {
            b"auto" | b"local" | b"local://" | b"daemon" => None,
            _ if base.starts_with(b"unix://") => None,
            _ if base.starts_with(b"local://") => Some(path_of(percent_decode(&base[b"local://".len()..]).collect())?),
            _ if base.windows(3).any(|three| three == b"://") => return Ok(default),
            _ if base.contains(&b'/') => Some(path_of(base.to_owned())?),
            _ => bail!("NIX_REMOTE is {remote:?}, which names no store"),
        };
        let (mut real, mut store, mut state, mut log) = (None, None, None, None);
        for parameter in query.split(|byte| *byte == b'&') {
            let Some(equals) = parameter.iter().position(|byte| *byte == b'=') else { continue };
            let wanted = match &parameter[..equals] {
                b"root" => &mut root,
                b"real" => &mut real,
                b"store" => &mut store,
                b"state" => &mut state,
                b"log" => &mut log,
                _ => continue,
            };
            let value: Vec<u8> = percent_decode(&parameter[equals + 1..]).collect();
            if !value.is_empty() {
                *wanted = Some(path_of(value)?);
            }
        }
        let directory = store.unwrap_or(default.directory);
        let (physical_directory, state_directory, log_directory) = match root {
            Some(root) => (root.join("nix/store"), root.join("nix/var/nix"), root.join(LOGS_BELOW_ROOT)),
            None => (directory.clone(), default.state_directory, default.log_directory),
        };
        Ok(Self {
            physical_directory: real.unwrap_or(physical_directory),
            state_directory: state.unwrap_or(state_directory),
            log_directory: log.unwrap_or(log_directory),
            directory,
            url: Some(remote.to_owned()),
        })
    }
}

const DEFAULT_DIRECTORY: &str = "/nix/store";
/// Where Nix keeps the logs below the root of a store, which is `/` for most.
const LOGS_BELOW_ROOT: &str = "nix/var/log/nix";

/// Where Nix is not installed at all, it keeps a store of its own in an ordinary user's home directory, since 2.10.
fn store_in_home(state: &Path, set: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if geteuid().is_root() || state.exists() {
        return None;
    }
    let data = set("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| set("HOME").map(|home| Path::new(&home).join(".local/share")))?;
    Some(data.join("nix/root")).filter(|root| root.is_dir())
}

/// Nix's way to make a path absolute: links are not followed.
fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    path::absolute(path).map(|path| without_dots(&path))
}

fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            clean.pop();
        } else {
            clean.push(component);
        }
    }
    clean
}

#[cfg(test)]
mod tests;
