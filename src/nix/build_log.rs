//! The log of a derivation's last build, as Nix keeps it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use bzip2::bufread::MultiBzDecoder;
use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::log_text::as_shown;
use super::store::Store;
use crate::quiet_open::open_quietly;

/// As many lines as Nix shows of a failed build (`log-lines`, before 2.19 always).
const LAST_LINES: usize = 10;
/// More than any build says. What is read costs no memory, but it costs time: a second for some fifty MiB.
const SIZE_LIMIT: u64 = 1 << 30;
/// As much as is looked at of a line: its end, since that is what a progress bar shows.
const LINE_LIMIT: usize = 64 << 10;
/// What a line for Nix itself begins with.
const FOR_NIX: &[u8] = b"@nix ";
/// What stdenv says at each phase since 2023.
const RUNNING_PHASE: &[u8] = b"Running phase: ";
/// What stdenv says at the end of `unpackPhase`.
const SOURCE_ROOT: &[u8] = b"source root is ";

/// What the log of a derivation's last build tells.
///
/// A later build of the same derivation takes the log's place: [`written`](Self::written) says how old it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildLog {
    path: PathBuf,
    written: SystemTime,
    is_whole: bool,
    phases: Vec<String>,
    source_root: Option<String>,
    last_lines: Vec<String>,
}

impl BuildLog {
    /// Reads the log of `derivation`, a path as the store has it. `None` where there is none: Nix was told to keep no logs
    /// (`keep-build-log`), or the build was made elsewhere.
    ///
    /// Nix has it at `drvs/XX/REST` in the store's [log directory](Store::log_directory), where `XX` are the first two characters
    /// of the derivation's file name, usually with `.bz2` behind it (`compress-build-log`).
    ///
    /// # Errors
    /// A log that the caller may not read, or that is no log.
    pub fn of(store: &Store, derivation: &Path) -> Result<Option<Self>> {
        for path in places(store.log_directory(), derivation) {
            let file = match open_quietly(CWD, &path, OFlags::NONBLOCK) {
                Ok(file) => file,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(errno) => return Err(anyhow!("cannot open the build's log {}: {errno}", path.display())),
            };
            let file = File::from(file);
            let status = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
            if !status.is_file() {
                bail!("{} is not a regular file, so it is no build's log", path.display());
            }
            let written = status.modified().context("this system knows no time of a file's last change")?;
            let file = BufReader::with_capacity(128 << 10, file);
            let is_compressed = path.extension() == Some("bz2".as_ref());
            let read = if is_compressed { Reading::of(MultiBzDecoder::new(file)) } else { Reading::of(file) };
            let mut read = read.with_context(|| format!("cannot read the build's log {}", path.display()))?;
            // Compressed, even nothing takes some bytes.
            read.is_cut |= is_compressed && status.len() == 0;
            return Ok(Some(read.into_log(path, written)));
        }
        Ok(None)
    }

    /// What such a text says.
    ///
    /// # Errors
    /// None, where reading has none.
    #[cfg(fuzzing)]
    pub fn read(text: impl Read, path: PathBuf, written: SystemTime) -> std::io::Result<Self> {
        Ok(Reading::of(text)?.into_log(path, written))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When Nix wrote the last of it: at the end of the build.
    pub fn written(&self) -> SystemTime {
        self.written
    }

    /// Whether its end was read: a build that runs has none yet, and of more than a GiB of text the rest is passed over.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The phases that were begun, in their order.
    pub fn phases(&self) -> &[String] {
        &self.phases
    }

    /// The phase that was begun last, in which a build that failed did so. `None` where there was no phase, or the end of the log is
    /// not known.
    pub fn failed_phase(&self) -> Option<&str> {
        self.phases.last().map(String::as_str).filter(|_| self.is_whole)
    }

    /// The directory that `unpackPhase` made, relative to the build directory, as stdenv tells it.
    pub fn source_root(&self) -> Option<&str> {
        self.source_root.as_deref()
    }

    /// The last ten lines, or all where there are fewer, as a terminal shows them. What was said to Nix (`@nix`) is not among them.
    /// Control characters are: they are to be escaped by who prints them.
    pub fn last_lines(&self) -> &[String] {
        &self.last_lines
    }
}

/// Where Nix looks for a log, in its order: in a directory for two characters, then where it was before 2013.
fn places(logs: &Path, derivation: &Path) -> Vec<PathBuf> {
    let name = derivation.file_name().unwrap_or_default();
    let (directory, rest) = name.as_bytes().split_at_checked(2).unwrap_or_default();
    let part = |bytes| std::ffi::OsStr::from_bytes(bytes);
    let drvs = logs.join("drvs");
    [drvs.join(part(directory)).join(part(rest)), drvs.join(name)]
        .into_iter()
        .flat_map(|plain| {
            let mut compressed = plain.clone().into_os_string();
            compressed.push(".bz2");
            [plain, compressed.into()]
        })
        .collect()
}

/// What a line that begins with `@nix` says; of all that can be said only this matters here.
#[derive(Deserialize)]
struct Message {
    action: String,
    phase: Option<String>,
}

/// What has been read of a log so far.
#[derive(Default)]
struct Reading {
    is_cut: bool,
    marked_phases: Vec<String>,
    announced_phases: Vec<String>,
    source_root: Option<String>,
    last_lines: VecDeque<Vec<u8>>,
}

impl Reading {
    /// Reads all that there is, holding no more than a few lines of it. What cannot be decompressed any more is the end.
    fn of(text: impl Read) -> std::io::Result<Self> {
        let mut reader = BufReader::with_capacity(64 << 10, text.take(SIZE_LIMIT));
        let mut reading = Self::default();
        let mut line = Vec::new();
        let mut has_begun = false;
        loop {
            let piece = match reader.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // As long as a build runs, Nix may not have written a whole block.
                Err(error) if !has_begun && error.kind() != ErrorKind::UnexpectedEof => return Err(error),
                Err(_) => {
                    reading.is_cut = true;
                    break;
                }
            };
            if piece.is_empty() {
                break;
            }
            has_begun = true;
            let newline = piece.iter().position(|byte| *byte == b'\n');
            let part = &piece[..newline.unwrap_or(piece.len())];
            line.extend_from_slice(part);
            if line.len() > 2 * LINE_LIMIT {
                line.drain(..line.len() - LINE_LIMIT);
            }
            let used = newline.map_or(part.len(), |newline| newline + 1);
            reader.consume(used);
            if newline.is_some() {
                reading.add(&mut line);
            }
        }
        if !line.is_empty() {
            reading.add(&mut line);
        }
        reading.is_cut |= reader.get_ref().limit() == 0;
        Ok(reading)
    }

    /// Takes a line, and leaves another to be filled.
    fn add(&mut self, line: &mut Vec<u8>) {
        if let Some(json) = line.strip_prefix(FOR_NIX)
            && let Ok(message) = serde_json::from_slice::<serde_json::Value>(json)
        {
            // As for Nix, JSON is a message, and anything else is a line as others.
            if let Ok(Message { action, phase: Some(phase) }) = serde_json::from_value(message)
                && action == "setPhase"
            {
                self.marked_phases.push(phase);
            }
            line.clear();
            return;
        }
        if let Some(phase) = line.strip_prefix(RUNNING_PHASE) {
            self.announced_phases.push(as_shown(phase));
        } else if let Some(root) = line.strip_prefix(SOURCE_ROOT) {
            self.source_root = Some(as_shown(root));
        }
        let unused = if self.last_lines.len() == LAST_LINES { self.last_lines.pop_front() } else { None };
        let mut next = unused.unwrap_or_default();
        next.clear();
        self.last_lines.push_back(std::mem::replace(line, next));
    }

    fn into_log(self, path: PathBuf, written: SystemTime) -> BuildLog {
        // stdenv marks a phase for Nix and announces it to people: where Nix is told, that is all of them.
        let phases = if self.marked_phases.is_empty() { self.announced_phases } else { self.marked_phases };
        BuildLog {
            path,
            written,
            is_whole: !self.is_cut,
            phases,
            source_root: self.source_root,
            last_lines: self.last_lines.iter().map(|line| as_shown(line)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use bzip2::Compression;
    use bzip2::write::BzEncoder;
    use tempfile::TempDir;

    use super::*;

    const DERIVATION: &str = "/nix/store/4givwlbr4gah9ibn89gly939cjg8q5q1-hello-1.0.drv";

    struct Logs {
        root: TempDir,
        store: Store,
    }

    impl Logs {
        fn new() -> Self {
            let root = TempDir::new().unwrap();
            let store = Store::in_root(root.path()).unwrap();
            Self { root, store }
        }

        fn write(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.root.path().join("nix/var/log/nix/drvs").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            path
        }

        fn read(&self) -> Result<Option<BuildLog>> {
            BuildLog::of(&self.store, DERIVATION.as_ref())
        }
    }

    fn compressed(text: &[u8]) -> Vec<u8> {
        let mut encoder = BzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn log(text: &[u8]) -> BuildLog {
        Reading::of(text).unwrap().into_log(PathBuf::new(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn it_is_found_compressed_or_not_in_two_places() {
        let logs = Logs::new();
        assert_eq!(logs.read().unwrap(), None);
        let rest = "givwlbr4gah9ibn89gly939cjg8q5q1-hello-1.0.drv";
        for (name, content) in [
            (format!("4{rest}.bz2"), compressed(b"one\n")),
            (format!("4{rest}"), b"two\n".to_vec()),
            (format!("4g/{}.bz2", &rest[1..]), compressed(b"three\n")),
            (format!("4g/{}", &rest[1..]), b"four\n".to_vec()),
        ] {
            let path = logs.write(&name, &content);
            let log = logs.read().unwrap().unwrap();
            assert_eq!(log.path(), path);
            assert_eq!(log.written(), fs::metadata(&path).unwrap().modified().unwrap());
            assert!(log.is_whole());
            let last = ["one", "two", "three", "four"].map(|word| vec![word.to_owned()]);
            assert!(last.iter().any(|lines| lines == log.last_lines()));
        }
        assert_eq!(logs.read().unwrap().unwrap().last_lines(), ["four"]);
    }

    #[test]
    fn phases_come_from_the_lines_for_nix_once_each() {
        let text =
            b"unpacking\n@nix { \"action\": \"setPhase\", \"phase\": \"unpackPhase\" }\nRunning phase: unpackPhase\n\
            source root is hello\n@nix {\"action\":\"msg\",\"phase\":\"x\"}\n@nix no JSON\nRunning phase: buildPhase\n\
            @nix { \"action\": \"setPhase\", \"phase\": \"buildPhase\" }\ncc\n";
        let log = log(text);
        assert_eq!(log.phases(), ["unpackPhase", "buildPhase"]);
        assert_eq!(log.failed_phase(), Some("buildPhase"));
        assert_eq!(log.source_root(), Some("hello"));
        assert_eq!(
            log.last_lines(),
            [
                "unpacking",
                "Running phase: unpackPhase",
                "source root is hello",
                "@nix no JSON",
                "Running phase: buildPhase",
                "cc"
            ]
        );
    }

    #[test]
    fn without_such_lines_what_stdenv_announces_counts() {
        let log = log(b"Running phase: unpackPhase\nRunning phase: buildPhase\r\nno Running phase: x\n");
        assert_eq!(log.phases(), ["unpackPhase", "buildPhase"]);
        assert_eq!(
            super::Reading::of(&b""[..]).unwrap().into_log(PathBuf::new(), SystemTime::UNIX_EPOCH).phases(),
            [""; 0]
        );
    }

    #[test]
    fn ten_lines_are_kept_the_last_perhaps_without_a_newline() {
        let text: Vec<u8> = (0..50).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
        let shown = |text: &[u8]| log(text).last_lines().to_vec();
        let lines = shown(&[text.as_slice(), b"\nthe \xff end"].concat());
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[0], "line 42");
        assert_eq!(lines[8..], ["", "the \u{fffd} end"]);
        assert_eq!(shown(b"one"), ["one"]);
    }

    #[test]
    fn what_is_long_takes_no_memory() {
        let piece = vec![b'x'; 1 << 20];
        let mut encoder = BzEncoder::new(Vec::new(), Compression::fast());
        for _ in 0..8 {
            encoder.write_all(&piece).unwrap();
        }
        encoder.write_all(b"\rthe end").unwrap();
        let logs = Logs::new();
        logs.write("4g/ivwlbr4gah9ibn89gly939cjg8q5q1-hello-1.0.drv.bz2", &encoder.finish().unwrap());
        let log = logs.read().unwrap().unwrap();
        let [line] = log.last_lines() else { panic!("{} lines", log.last_lines().len()) };
        assert!(line.starts_with("the endxxx"));
        assert!(line.len() <= 2 * LINE_LIMIT);
    }

    #[test]
    fn a_log_that_ends_early_tells_what_it_has_but_not_what_failed() {
        let logs = Logs::new();
        let name = "4g/ivwlbr4gah9ibn89gly939cjg8q5q1-hello-1.0.drv.bz2";
        let text: Vec<u8> = (0..400_000).flat_map(|number| format!("{number}\n").into_bytes()).collect();
        let whole = compressed(&[b"Running phase: unpackPhase\n", text.as_slice()].concat());
        logs.write(name, &whole[..whole.len() / 2]);
        let log = logs.read().unwrap().unwrap();
        assert!(!log.is_whole());
        assert_eq!(log.phases(), ["unpackPhase"]);
        assert_eq!(log.failed_phase(), None);
        assert_eq!(log.last_lines().len(), 10);
        for end in [0, 1, 20, 100] {
            logs.write(name, &compressed(b"Running phase: unpackPhase\n")[..end.min(50)]);
            assert!(!logs.read().unwrap().unwrap().is_whole(), "{end}");
        }
        logs.write(name, &compressed(b""));
        assert!(logs.read().unwrap().unwrap().is_whole());
    }

    #[test]
    fn what_is_no_log_is_refused_in_words() {
        let logs = Logs::new();
        let name = "4g/ivwlbr4gah9ibn89gly939cjg8q5q1-hello-1.0.drv";
        let path = logs.write(&format!("{name}.bz2"), b"hello");
        let message = |logs: &Logs| format!("{:#}", logs.read().unwrap_err());
        assert!(message(&logs).starts_with("cannot read the build's log"), "{}", message(&logs));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(message(&logs).contains("not a regular file"));
    }
}
