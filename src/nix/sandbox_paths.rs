//! Host paths that Nix lets into the sandbox besides the store: the setting `sandbox-paths` and its kin.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::{Deserialize, Serialize};

/// A path of the host that is mounted in the sandbox.
///
/// Nix mounts a file or a directory together with what is mounted below it, writable as far as the host's modes permit, and
/// makes a symbolic link again instead of following it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SandboxPath {
    /// Where it is in the sandbox: an absolute path below `/`, without `.` and `..`.
    #[serde(with = "crate::os_text")]
    pub target: PathBuf,
    /// What it is on the host: an absolute path.
    #[serde(with = "crate::os_text")]
    pub source: PathBuf,
    /// Whether the source may be missing; then the sandbox does not have it.
    pub optional: bool,
}

impl SandboxPath {
    /// Reads `PATH`, `TARGET=SOURCE`, or either with a `?` at its very end, which makes it optional.
    ///
    /// As in Nix, the first `=` divides, and of several question marks one is taken: there is no way to write a target that holds
    /// an equals sign.
    ///
    /// # Errors
    /// An empty part, a relative path, or a target that names no place below `/`. Nix does not look, and fails in the build.
    pub fn parse(text: impl AsRef<OsStr>) -> Result<Self> {
        let text = text.as_ref();
        let bytes = text.as_bytes();
        let (bytes, optional) = match bytes.strip_suffix(b"?") {
            Some(rest) => (rest, true),
            None => (bytes, false),
        };
        let (target, source) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (bytes, bytes),
        };
        Self::new(Path::new(OsStr::from_bytes(target)), Path::new(OsStr::from_bytes(source)), optional)
            .map_err(|reason| anyhow!("{text:?} is no sandbox path: {reason}"))
    }

    /// Checks the parts of a sandbox path.
    ///
    /// # Errors
    /// As of [`parse`](Self::parse).
    pub fn new(target: &Path, source: &Path, optional: bool) -> Result<Self> {
        let holds_nul = |path: &Path| path.as_os_str().as_bytes().contains(&0);
        if holds_nul(target) || holds_nul(source) {
            bail!("it holds a NUL byte");
        }
        let target = place_below_root(target)?;
        if !source.is_absolute() {
            bail!("its source {source:?} is not an absolute path; it is PATH, or TARGET=SOURCE");
        }
        Ok(Self { target, source: source.to_owned(), optional })
    }

    /// Reads the value of an option that takes a sandbox path: `--bind TARGET[=SOURCE][?]`.
    pub fn option_value() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(Self::parse)
    }
}

/// A target's path, written in the one way that has no `.`, no doubled and no trailing slash.
fn place_below_root(target: &Path) -> Result<PathBuf> {
    if !target.is_absolute() {
        bail!("its place in the sandbox, {target:?}, is not an absolute path; it is PATH, or TARGET=SOURCE");
    }
    if target.components().any(|part| part == Component::ParentDir) {
        bail!("its place in the sandbox, {target:?}, has «..» in it");
    }
    let place: PathBuf = target.components().collect();
    if place == Path::new("/") {
        bail!("its place in the sandbox is / itself");
    }
    Ok(place)
}

/// One path a target, in the order of the targets: of several, the last one counts, as in Nix.
pub fn by_target(paths: impl IntoIterator<Item = SandboxPath>) -> Vec<SandboxPath> {
    let by_target: BTreeMap<_, _> = paths.into_iter().map(|path| (path.target.clone(), path)).collect();
    by_target.into_values().collect()
}

/// The store paths in `store_dir` that `paths` lead into. Nix mounts the closure of each of them too, at its own place.
///
/// As in Nix, symbolic links are not followed, and a store path that is not valid counts for nothing: its closure is empty.
pub fn store_sources<'a>(paths: impl IntoIterator<Item = &'a SandboxPath>, store_dir: &Path) -> BTreeSet<PathBuf> {
    let store_path = |path: &SandboxPath| match path.source.strip_prefix(store_dir).ok()?.components().next()? {
        Component::Normal(name) => Some(store_dir.join(name)),
        _ => None,
    };
    paths.into_iter().filter_map(store_path).collect()
}

/// The sandbox paths that a derivation asks for with its attribute `__impureHostDeps`, all optional.
///
/// nixpkgs uses the attribute on macOS only, yet Nix honours it on Linux as well, where `allowed` (the setting
/// `allowed-impure-host-deps`) is empty unless somebody fills it.
///
/// # Errors
/// A path that is not `allowed` or below one that is; with it Nix refuses to build.
pub fn impure_host_deps<'a>(
    requested: impl IntoIterator<Item = &'a str>,
    allowed: &[PathBuf],
) -> Result<Vec<SandboxPath>> {
    let check = |path: &'a str| {
        let path = SandboxPath::new(Path::new(path), Path::new(path), true)
            .map_err(|reason| anyhow!("{path:?} in __impureHostDeps is no sandbox path: {reason}"))?;
        if !allowed.iter().any(|allowed| path.target.starts_with(allowed)) {
            bail!(
                "the derivation asks for {} in __impureHostDeps, which Nix's setting allowed-impure-host-deps does not permit",
                path.target.display()
            );
        }
        Ok(path)
    };
    requested.into_iter().map(check).collect()
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction, Command};

    use super::*;

    fn path(target: &str, source: &str, optional: bool) -> SandboxPath {
        SandboxPath { target: target.into(), source: source.into(), optional }
    }

    #[test]
    fn a_path_stands_for_itself_and_a_question_mark_makes_it_optional() {
        assert_eq!(SandboxPath::parse("/dev/fuse").unwrap(), path("/dev/fuse", "/dev/fuse", false));
        assert_eq!(SandboxPath::parse("/dev/fuse?").unwrap(), path("/dev/fuse", "/dev/fuse", true));
        let shell = "/bin/sh=/nix/store/8hzbz17vcmw97w1wpqpadxhfkj7crcps-busybox/bin/busybox";
        let busybox = &shell["/bin/sh=".len()..];
        assert_eq!(SandboxPath::parse(shell).unwrap(), path("/bin/sh", busybox, false));
        assert_eq!(SandboxPath::parse("/a=/b?").unwrap(), path("/a", "/b", true));
    }

    #[test]
    fn odd_ones_are_divided_as_nix_divides_them() {
        assert_eq!(SandboxPath::parse("/a?=/b").unwrap(), path("/a?", "/b", false));
        assert_eq!(SandboxPath::parse("/a??").unwrap(), path("/a?", "/a?", true));
        assert_eq!(SandboxPath::parse("/a=/b=/c").unwrap(), path("/a", "/b=/c", false));
        assert_eq!(SandboxPath::parse("//a/./b/=/c/../d/").unwrap(), path("/a/b", "/c/../d/", false));
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for (text, reason) in [
            ("", "absolute"),
            ("?", "absolute"),
            ("=", "absolute"),
            ("=/b", "absolute"),
            ("/a=", "source"),
            ("/a=b", "source"),
            ("a=/b", "absolute"),
            ("./a", "absolute"),
            ("/", "/ itself"),
            ("/.//=/b", "/ itself"),
            ("/a/../etc=/b", "«..»"),
            ("/a\0=/b", "NUL"),
        ] {
            let error = SandboxPath::parse(text).unwrap_err().to_string();
            assert!(error.contains("is no sandbox path") && error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_last_path_of_a_target_counts() {
        let paths = ["/z", "/bin/sh=/one", "/a", "/bin/sh=/two?"].map(|text| SandboxPath::parse(text).unwrap());
        assert_eq!(by_target(paths), [path("/a", "/a", false), path("/bin/sh", "/two", true), path("/z", "/z", false)]);
    }

    #[test]
    fn the_store_paths_of_the_sources_are_told_once_each() {
        let paths = [
            "/bin/sh=/nix/store/x-busybox/bin/busybox",
            "/bin/ash=/nix/store/x-busybox/bin/ash",
            "/nix/store/y-file",
            "/all=/nix/store",
            "/out=/nix/store/../var",
            "/nix/storehouse",
            "/dev/fuse",
        ]
        .map(|text| SandboxPath::parse(text).unwrap());
        let sources = store_sources(&paths, Path::new("/nix/store"));
        assert_eq!(sources, BTreeSet::from(["/nix/store/x-busybox".into(), "/nix/store/y-file".into()]));
    }

    #[test]
    fn impure_host_deps_are_optional_and_have_to_be_allowed() {
        let allowed = ["/usr/lib".into(), "/bin/sh".into()];
        let paths = impure_host_deps(["/usr/lib/libSystem.dylib", "/bin/sh"], &allowed).unwrap();
        assert_eq!(paths[0], path("/usr/lib/libSystem.dylib", "/usr/lib/libSystem.dylib", true));
        assert_eq!(paths[1], path("/bin/sh", "/bin/sh", true));
        for refused in ["/usr/library", "/bin", "/usr/lib/../bin"] {
            assert!(impure_host_deps([refused], &allowed).is_err(), "{refused}");
        }
        assert!(impure_host_deps(["/bin/sh"], &[]).is_err());
    }

    #[test]
    fn an_option_takes_the_same_form() {
        let bind = Arg::new("bind").long("bind").action(ArgAction::Append).value_parser(SandboxPath::option_value());
        let command = Command::new("test").arg(bind);
        let read = |value: &str| command.clone().try_get_matches_from(["test", "--bind", value]);
        let matches = read("/data=/srv/my data?").unwrap();
        assert_eq!(matches.get_one::<SandboxPath>("bind"), Some(&path("/data", "/srv/my data", true)));
        assert!(read("data").unwrap_err().to_string().contains("not an absolute path"));
    }
}
