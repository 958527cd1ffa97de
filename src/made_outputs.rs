//! What a resumed build has made.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::kept_build::KeptBuild;
use crate::nix::derivation::Derivation;
use crate::nix::store::Store;

/// As many entries of an output as are named.
const MOST_NAMES: usize = 8;

/// The outputs of a derivation, as a sandbox has left them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeOutputs(Vec<MadeOutput>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct MadeOutput {
    name: String,
    path: PathBuf,
    /// What there is; nothing where it was not made.
    content: Option<String>,
}

impl MadeOutputs {
    /// Looks for the outputs of `derivation` in the directory `made`, each under its store path's name. Where a path is known only to the
    /// build, its variables tell it.
    pub fn of(derivation: &Derivation, kept: Option<&KeptBuild>, store: &Store, made: &Path) -> Self {
        let outputs = derivation.outputs.iter().filter_map(|(name, output)| {
            let name = String::from_utf8_lossy(name).into_owned();
            let told = || kept?.variable(&name).map(|path| PathBuf::from(OsStr::from_bytes(path)));
            let path = output.path.clone().or_else(told).filter(|path| store.is_store_path(path))?;
            let content = content_of(&made.join(path.file_name()?));
            Some(MadeOutput { name, path, content })
        });
        Self(outputs.collect())
    }

    /// The names of the outputs that were not made.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|output| output.content.is_none()).map(|output| output.name.as_str())
    }

    /// The outputs that were made, one a line: the path and what is in it.
    pub fn lines(&self) -> Vec<String> {
        let line = |output: &MadeOutput| Some(format!("{}: {}", output.path.display(), output.content.as_ref()?));
        self.0.iter().filter_map(line).collect()
    }
}

/// In a few words what is at `path`, which untrusted code has made: nothing is followed or opened but a directory.
fn content_of(path: &Path) -> Option<String> {
    let status = path.symlink_metadata().ok()?;
    if status.is_symlink() {
        let target = fs::read_link(path).unwrap_or_default();
        return Some(format!("a link to {}", target.display()));
    }
    if !status.is_dir() {
        return Some(format!("a file of {} bytes", status.len()));
    }
    Some(list(path).unwrap_or_else(|error| format!("a directory that cannot be listed: {}", error.kind())))
}

fn list(directory: &Path) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(entry.file_name().display().to_string() + slash);
    }
    names.sort();
    let more = names.len().saturating_sub(MOST_NAMES);
    names.truncate(MOST_NAMES);
    Ok(match (names.is_empty(), more) {
        (true, _) => "an empty directory".into(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{}, and {more} more", names.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const HASH: &str = "00000000000000000000000000000000";

    #[test]
    fn each_output_has_a_line_and_what_is_missing_a_name() {
        let outputs: Vec<_> = ["bin", "empty", "file", "link", "many", "none"]
            .iter()
            .map(|name| format!(r#"("{name}","/nix/store/{HASH}-{name}","","")"#))
            .collect();
        let text = format!(r#"Derive([{},("later","","r:sha256","")],[],[],"x","/b",[],[])"#, outputs.join(","));
        let derivation = Derivation::parse(format!("/nix/store/{HASH}-x.drv").as_ref(), text.as_bytes()).unwrap();
        let made = tempfile::tempdir().unwrap();
        let path = |name: &str| made.path().join(format!("{HASH}-{name}"));
        fs::create_dir_all(path("bin").join("bin")).unwrap();
        fs::write(path("bin").join("a file"), "").unwrap();
        fs::create_dir(path("empty")).unwrap();
        fs::write(path("file"), "12345").unwrap();
        symlink("/etc/passwd", path("link")).unwrap();
        fs::create_dir(path("many")).unwrap();
        (0..11).for_each(|number| fs::write(path("many").join(format!("{number:02}")), "").unwrap());
        let store = Store::in_root(made.path()).unwrap();
        let outputs = MadeOutputs::of(&derivation, None, &store, made.path());
        assert_eq!(outputs.missing().collect::<Vec<_>>(), ["none"]);
        let lines = outputs.lines().join("\n").replace(&format!("/nix/store/{HASH}-"), "");
        assert_eq!(
            lines,
            "bin: a file, bin/\nempty: an empty directory\nfile: a file of 5 bytes\nlink: a link to /etc/passwd\n\
             many: 00, 01, 02, 03, 04, 05, 06, 07, and 3 more"
        );
    }
}
