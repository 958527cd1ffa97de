//! Which configuration files take part in Nix's settings: `nix.conf(5)`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::nix_program::{NixProgram, prefix_of};
use super::surroundings::Surroundings;

/// More than anybody has; a file that includes itself ends here.
const MOST_FILES: usize = 64;
/// More than any configuration file has.
const FILE_LIMIT: u64 = 1 << 20;

/// Every file that Nix reads settings from, or would read if it were there: the system's, the user's, and those that they or
/// `NIX_CONFIG` include. Rather one too many than one too few.
///
/// `None` where that cannot be told: a relative path, whose meaning depends on the working directory; a home directory that Nix
/// looks up elsewhere; too many files.
pub fn configuration_files(surroundings: &Surroundings, program: &NixProgram) -> Option<Vec<PathBuf>> {
    let home = surroundings.own_home()?;
    let mut waiting = VecDeque::from(system_files(surroundings, program));
    waiting.extend(user_files(surroundings, home));
    if let Some(text) = surroundings.get("NIX_CONFIG") {
        waiting.extend(included(text.as_bytes(), Path::new(""), home));
    }
    let mut files = Vec::new();
    while let Some(path) = waiting.pop_front() {
        if !path.is_absolute() || files.len() == MOST_FILES {
            return None;
        }
        if files.contains(&path) {
            continue;
        }
        if let Some(text) = read_file(&path)? {
            waiting.extend(included(&text, path.parent()?, home));
        }
        files.push(path);
    }
    Some(files)
}

/// A Nix that was built from source may look below its own prefix.
fn system_files(surroundings: &Surroundings, program: &NixProgram) -> Vec<PathBuf> {
    let directories = match surroundings.get("NIX_CONF_DIR") {
        Some(directory) if !directory.is_empty() => vec![directory.into()],
        _ => [surroundings.system_configuration_directory.clone()]
            .into_iter()
            .chain(prefix_of(&program.path).map(|prefix| prefix.join("etc/nix")))
            .collect(),
    };
    directories.into_iter().map(|directory| directory.join("nix.conf")).collect()
}

fn user_files(surroundings: &Surroundings, home: &Path) -> Vec<PathBuf> {
    let list = |value| std::env::split_paths(value).filter(|path| !path.as_os_str().is_empty());
    if let Some(files) = surroundings.get("NIX_USER_CONF_FILES") {
        return list(files).collect();
    }
    let directories = surroundings.get("XDG_CONFIG_DIRS").unwrap_or("/etc/xdg".as_ref());
    let configuration = surroundings.get("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    let own = surroundings.get("NIX_CONFIG_HOME").map(|directory| Path::new(directory).join("nix.conf"));
    let shared = [configuration].into_iter().chain(list(directories)).map(|directory| directory.join("nix/nix.conf"));
    own.into_iter().chain(shared).collect()
}

/// The files that a configuration text includes, missing or not, as paths below `directory` where they are relative. Lix knows `~`
/// for the home directory.
fn included(text: &[u8], directory: &Path, home: &Path) -> Vec<PathBuf> {
    let text = String::from_utf8_lossy(text);
    let file = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let path = match (words.next()?, words.next()?, words.next()) {
            ("include" | "!include", path, None) => path,
            _ => return None,
        };
        Some(match path.strip_prefix("~/") {
            Some(below_home) => home.join(below_home),
            None => directory.join(path),
        })
    };
    text.lines().filter_map(file).collect()
}

/// The text of a file that is there; `None` where it is too large to be one.
fn read_file(path: &Path) -> Option<Option<Vec<u8>>> {
    // A fifo would keep us waiting.
    if !path.is_file() {
        return Some(None);
    }
    let Ok(file) = File::open(path) else {
        return Some(None);
    };
    let mut text = Vec::new();
    match file.take(FILE_LIMIT + 1).read_to_end(&mut text) {
        Ok(size) if size as u64 > FILE_LIMIT => None,
        Ok(_) => Some(Some(text)),
        Err(_) => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_found_as_nix_finds_them() {
        let text = b"# include no\nsandbox = true\ninclude a.conf\n  !include\t/etc/b.conf # why\n!include ~/c.conf\n\
                     include = d\nincluded e\ninclude";
        let files = included(text, Path::new("/etc/nix"), Path::new("/home/ada"));
        let expected = ["/etc/nix/a.conf", "/etc/b.conf", "/home/ada/c.conf"].map(PathBuf::from);
        assert_eq!(files, expected);
    }
}
