//! Small files of ours with what is to be known later: JSON, with a version.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::caller::Caller;

/// More than any that we write.
const LIMIT: u64 = 1 << 20;
/// The version of what is in the files; to another one we have nothing to say.
const VERSION: u64 = 1;

/// Reads the file `name` of `directory`; nothing where there is none.
///
/// # Errors
/// A file that is none of ours, or one of another version of this program.
pub(crate) fn read<T: DeserializeOwned>(directory: &OwnedFd, name: &str) -> Result<Option<T>> {
    // Without NONBLOCK a fifo of that name would keep us waiting.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno).with_context(|| format!("cannot open {name}")),
    };
    let status = fstat(&file).with_context(|| format!("cannot look at {name}"))?;
    let size = u64::try_from(status.st_size).unwrap_or(u64::MAX);
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile || size > LIMIT {
        bail!("{name} is no file that nix-build-shell has written");
    }
    let mut text = Vec::new();
    File::from(file).take(LIMIT).read_to_end(&mut text).with_context(|| format!("cannot read {name}"))?;
    let mut value: Value = serde_json::from_slice(&text).with_context(|| format!("{name} is damaged"))?;
    let version = value.as_object_mut().and_then(|fields| fields.remove("version"));
    if version.as_ref().and_then(Value::as_u64) != Some(VERSION) {
        bail!("{name} was written by another version of nix-build-shell");
    }
    serde_json::from_value(value).map(Some).with_context(|| format!("{name} is damaged"))
}

/// Writes the file `name` of `directory`, for `caller` alone and with his rights, since the directory is his: who reads it sees the old
/// file or the new one.
///
/// # Errors
/// No room.
pub(crate) fn write(directory: &OwnedFd, name: &str, content: &impl Serialize, caller: &Caller) -> Result<()> {
    let mut value = serde_json::to_value(content).with_context(|| format!("cannot write {name}"))?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("version".into(), VERSION.into());
    }
    caller.with_own_rights(|| replace(directory, name, value.to_string().as_bytes()))?
}

fn replace(directory: &OwnedFd, name: &str, text: &[u8]) -> Result<()> {
    let cannot_write = || format!("cannot write {name}");
    let new = format!(".{name}.new");
    remove(directory, &new)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, new.as_str(), flags, Mode::RUSR | Mode::WUSR).with_context(cannot_write)?;
    let mut file = File::from(file);
    file.write_all(text).with_context(cannot_write)?;
    renameat(directory, new.as_str(), directory, name).with_context(cannot_write)
}

/// Removes the file `name` of `directory`, if there is one.
///
/// # Errors
/// The kernel's.
pub(crate) fn remove(directory: &OwnedFd, name: &str) -> Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("cannot remove {name}")),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::CWD;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        number: u32,
    }

    fn directory() -> (tempfile::TempDir, OwnedFd) {
        let setting = tempfile::tempdir().unwrap();
        let handle = openat(CWD, setting.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (setting, handle)
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let (setting, handle) = directory();
        assert_eq!(read::<Example>(&handle, "file").unwrap(), None);
        for number in [1, 2] {
            write(&handle, "file", &Example { number }, &Caller::current()).unwrap();
            assert_eq!(read(&handle, "file").unwrap(), Some(Example { number }));
        }
        let names: Vec<_> = setting.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        remove(&handle, "file").unwrap();
        assert_eq!(read::<Example>(&handle, "file").unwrap(), None);
    }

    #[test]
    fn what_is_none_of_ours_is_refused() {
        let (setting, handle) = directory();
        let refused = |text: &str| {
            std::fs::write(setting.path().join("file"), text).unwrap();
            read::<Example>(&handle, "file").unwrap_err().to_string()
        };
        assert!(refused("").contains("damaged"));
        assert!(refused("{\"number\": 1}").contains("another version"));
        assert!(refused("{\"number\": 1, \"version\": 2}").contains("another version"));
        assert!(refused("{\"number\": 1, \"version\": 1, \"more\": 1}").contains("damaged"));
        std::os::unix::fs::symlink("file", setting.path().join("link")).unwrap();
        assert!(read::<Example>(&handle, "link").is_err());
        assert!(read::<Example>(&handle, ".").is_err());
    }
}
