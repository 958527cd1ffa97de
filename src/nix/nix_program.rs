//! The installed Nix: finds it, and asks it for its settings.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, MemfdFlags, memfd_create, stat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::file_identity::FileIdentity;
use super::surroundings::Surroundings;
use crate::sys::reset_signal;

/// The two names of the command that tells the settings: since Nix 2.20 (Lix and Determinate Nix have it too), and before. The
/// later Nix knows the old one as well, with a warning.
const COMMANDS: [&[&str]; 2] = [&["config", "show"], &["show-config"]];

/// What every name is called with. The experimental feature is named as a setting and not by its own option, since Nix 2.3, which
/// does not have the feature, passes over a setting that it does not know.
const ARGUMENTS: [&str; 4] = ["--json", "--option", "extra-experimental-features", "nix-command"];

/// More than any answer: Nix 2.8 writes 39 KiB, most of it descriptions.
const OUTPUT_LIMIT: u64 = 8 << 20;

/// A program called `nix`.
#[derive(Debug, PartialEq, Eq)]
pub struct NixProgram {
    /// Where it was found.
    pub path: PathBuf,
    /// Which one it was then.
    pub identity: FileIdentity,
}

impl NixProgram {
    /// Looks in `PATH`, then where Nix usually is.
    pub fn find(surroundings: &Surroundings) -> Option<Self> {
        let path = surroundings.get("PATH").unwrap_or_default();
        let usual = surroundings.usual_program_directories.iter().cloned();
        // What a relative entry leads to depends on where somebody stands.
        std::env::split_paths(path).filter(|directory| directory.is_absolute()).chain(usual).find_map(|directory| {
            let path = directory.join("nix");
            let status = stat(&path).ok()?;
            let is_program =
                FileType::from_raw_mode(status.st_mode) == FileType::RegularFile && status.st_mode & 0o111 != 0;
            is_program.then(|| Self { identity: FileIdentity::of_status(&status), path })
        })
    }

    /// What Nix says its settings are: JSON, the same under either name.
    ///
    /// # Errors
    /// Nix cannot be started, takes too long, or fails under both names; with Nix's own words.
    pub fn show_settings(&self, surroundings: &Surroundings) -> Result<Vec<u8>> {
        let deadline = Instant::now() + surroundings.time_limit;
        let mut complaint = String::new();
        for command in COMMANDS {
            let answer = self.run(command, &ARGUMENTS, surroundings, deadline)?;
            if answer.status.success() {
                return Ok(answer.output);
            }
            complaint = format!("«{} {}» {}", self.path.display(), command.join(" "), answer.failure());
            if answer.status.signal().is_some() {
                break;
            }
        }
        bail!(complaint)
    }

    /// What it says that it is, in one line.
    ///
    /// # Errors
    /// As of [`show_settings`](Self::show_settings).
    fn version(&self, surroundings: &Surroundings) -> Result<String> {
        let answer = self.run(&["--version"], &[], surroundings, Instant::now() + surroundings.time_limit)?;
        if !answer.status.success() {
            bail!("«{} --version» {}", self.path.display(), answer.failure());
        }
        Ok(printable(String::from_utf8_lossy(&answer.output).trim()))
    }

    fn run(
        &self,
        command: &[&str],
        arguments: &[&str],
        surroundings: &Surroundings,
        deadline: Instant,
    ) -> Result<Answer> {
        // Files, not pipes: whatever Nix writes, and whoever holds them open afterwards, nobody has to wait.
        let (mut output, mut errors) = (memory_file()?, memory_file()?);
        let shown = self.path.display();
        // Where it is ignored, as callers may leave it, a process that has ended cannot be waited for.
        reset_signal(Signal::CHILD.as_raw() as u32).context("cannot reset a signal")?;
        let mut child = Command::new(&self.path)
            .args(command)
            .args(arguments)
            .env_clear()
            .envs(surroundings.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot duplicate a descriptor")?)
            .stderr(errors.try_clone().context("cannot duplicate a descriptor")?)
            .spawn()
            .with_context(|| format!("cannot start {shown}"))?;
        let in_time = wait_until(Pid::from_child(&child), deadline);
        if !matches!(in_time, Ok(true)) {
            // An error only says that it has ended already.
            let _ = child.kill();
        }
        let status = child.wait().with_context(|| format!("cannot wait for {shown}"))?;
        if !in_time.with_context(|| format!("cannot wait for {shown}"))? {
            let (command, seconds) = (command.join(" "), surroundings.time_limit.as_secs());
            bail!("«{shown} {command}» did not end within {seconds} seconds");
        }
        Ok(Answer { status, output: contents(&mut output)?, errors: contents(&mut errors)? })
    }
}

/// Where the installed Nix is, and what it says that it is; nothing where there is none.
///
/// # Errors
/// It cannot be started, takes too long, or fails.
pub fn version_of_nix() -> Result<Option<(PathBuf, String)>> {
    let surroundings = Surroundings::of_process();
    let Some(program) = NixProgram::find(&surroundings) else { return Ok(None) };
    let version = program.version(&surroundings)?;
    Ok(Some((program.path, version)))
}

/// What Nix did.
struct Answer {
    status: ExitStatus,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Answer {
    /// Why it failed: the last error that it wrote, since the ones before say where, in several lines.
    fn failure(&self) -> String {
        let errors = String::from_utf8_lossy(&self.errors);
        let lines = || errors.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "error:");
        let line = lines().rfind(|line| line.starts_with("error:")).or_else(|| lines().next_back());
        let line = line.map(|line| line.strip_prefix("error:").unwrap_or(line).trim());
        match (line, self.status.signal()) {
            (_, Some(signal)) => format!("was ended by signal {signal}"),
            (Some(line), _) => format!("failed: {}", printable(line)),
            (None, _) => format!("failed with {}", self.status),
        }
    }
}

/// A line of somebody else's for a message of ours.
fn printable(line: &str) -> String {
    const LONGEST: usize = 300;
    line.chars().filter(|character| !character.is_control()).take(LONGEST).collect()
}

fn memory_file() -> Result<File> {
    Ok(memfd_create("nix-settings", MemfdFlags::CLOEXEC).context("cannot make a file in memory")?.into())
}

fn contents(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.take(OUTPUT_LIMIT).read_to_end(&mut bytes))
        .map_err(|error| anyhow!("cannot read what Nix wrote: {error}"))?;
    Ok(bytes)
}

/// Waits until the process ends, and tells whether it did before the deadline.
fn wait_until(process: Pid, deadline: Instant) -> rustix::io::Result<bool> {
    let pidfd = pidfd_open(process, PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&left)) {
            Ok(ended) => return Ok(ended > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The directory above the one that a program is in, free of symbolic links: `/usr` for `/bin/nix`.
pub fn prefix_of(program: &Path) -> Option<PathBuf> {
    Some(program.canonicalize().ok()?.parent()?.parent()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::fake_nix::{ANSWER, FakeNix};

    #[test]
    fn either_name_of_the_command_will_do() {
        let nix = FakeNix::new(ANSWER);
        let program = NixProgram::find(&nix.surroundings).unwrap();
        assert_eq!(program.show_settings(&nix.surroundings).unwrap(), ANSWER.as_bytes());
        assert_eq!(nix.calls(), ["config show --json --option extra-experimental-features nix-command"]);

        let old = FakeNix::new(ANSWER);
        old.run_in_script(
            "case $1 in config) echo \"error: 'config' is not a recognised command\" >&2; exit 1;; esac; cat \"$0.answer\"",
        );
        let program = NixProgram::find(&old.surroundings).unwrap();
        assert_eq!(program.show_settings(&old.surroundings).unwrap(), ANSWER.as_bytes());
        assert_eq!(old.calls().len(), 2);
    }

    #[test]
    fn a_failure_is_told_in_nixs_own_last_words() {
        let nix = FakeNix::new(ANSWER);
        let failure = |script: &str| {
            nix.run_in_script(script);
            NixProgram::find(&nix.surroundings).unwrap().show_settings(&nix.surroundings).unwrap_err().to_string()
        };
        let text = [
            "warning: unknown setting foo",
            "error: something about it",
            "error:",
            "   … while reading",
            "   error: syntax error in configuration line",
            "   at somewhere",
        ];
        let text = format!("printf '%s\\n' '{}' >&2; exit 1", text.join("' '"));
        assert!(failure(&text).ends_with("nix show-config» failed: syntax error in configuration line"));
        assert!(failure("exit 3").ends_with("failed with exit status: 3"));
        assert!(failure("echo only this >&2; exit 1").ends_with("failed: only this"));
        assert!(failure("kill -KILL $$").ends_with("nix config show» was ended by signal 9"));
    }

    #[test]
    fn nobody_waits_for_a_nix_that_hangs() {
        let mut nix = FakeNix::new(ANSWER);
        nix.surroundings.time_limit = std::time::Duration::from_millis(50);
        // The process in the background would keep a pipe open.
        nix.run_in_script("sleep 60 & echo $! > \"$0.left\"; exec sleep 60");
        let begin = Instant::now();
        let error = NixProgram::find(&nix.surroundings).unwrap().show_settings(&nix.surroundings).unwrap_err();
        assert!(error.to_string().contains("config show» did not end within"), "{error}");
        assert!(begin.elapsed().as_secs() < 30);
        if let Ok(left) = nix.written("left").trim().parse() {
            let _ = rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL);
        }
    }

    #[test]
    fn nix_has_an_empty_input_and_the_environment_that_is_meant_for_it() {
        let mut nix = FakeNix::new(ANSWER);
        nix.surroundings.variables.push(("NIX_CONFIG".into(), "cores = 3".into()));
        nix.run_in_script("cat > \"$0.input\"; env > \"$0.environment\"; cat \"$0.answer\"");
        NixProgram::find(&nix.surroundings).unwrap().show_settings(&nix.surroundings).unwrap();
        assert_eq!(nix.written("input"), "");
        let environment = nix.written("environment");
        assert!(environment.contains("NIX_CONFIG=cores = 3\n"));
        // Cargo gives every test this one.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some() && !environment.contains("CARGO"));
    }

    #[test]
    fn what_is_no_program_is_passed_over() {
        let mut nix = FakeNix::new(ANSWER);
        let other = nix.directory().join("other");
        std::fs::create_dir_all(other.join("directory/nix")).unwrap();
        std::fs::create_dir(other.join("file")).unwrap();
        std::fs::write(other.join("file/nix"), "not executable").unwrap();
        let search = |path: &str| [("PATH".into(), path.into())].to_vec();
        let other = other.to_str().unwrap();
        let usual = nix.directory().join("bin");
        nix.surroundings.variables = search(&format!("{other}/directory:{other}/file:{other}/missing::."));
        assert_eq!(NixProgram::find(&nix.surroundings), None);
        // It leads there from where the test stands, and nowhere from elsewhere.
        let up = "../".repeat(std::env::current_dir().unwrap().components().count());
        nix.surroundings.variables = search(&format!("{up}{}", usual.display()));
        assert_eq!(NixProgram::find(&nix.surroundings), None);
        nix.surroundings.usual_program_directories = vec![usual.clone()];
        assert_eq!(NixProgram::find(&nix.surroundings).unwrap().path, usual.join("nix"));
    }
}
