//! A Nix for tests: a script that counts its calls, and surroundings that lead to it and to nothing of the machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::surroundings::Surroundings;

/// The shortest answer that a Nix could give.
pub const ANSWER: &str = r#"{"sandbox": {"value": true}, "cores": {"value": 7}}"#;

/// A directory with `bin/nix`, and with places for configuration files and for the cache.
pub struct FakeNix {
    directory: tempfile::TempDir,
    pub surroundings: Surroundings,
}

impl FakeNix {
    /// One that writes `answer`.
    pub fn new(answer: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let below = |name: &str| directory.path().join(name);
        for name in ["bin", "home", "etc"] {
            fs::create_dir(below(name)).unwrap();
        }
        fs::write(below("bin/nix.answer"), answer).unwrap();
        let mut path = below("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let surroundings = Surroundings {
            variables: vec![
                ("PATH".into(), path),
                ("HOME".into(), below("home").into()),
                ("XDG_CACHE_HOME".into(), below("cache").into()),
                ("XDG_CONFIG_DIRS".into(), below("etc/xdg").into()),
            ],
            usual_program_directories: Vec::new(),
            system_configuration_directory: below("etc"),
            time_limit: Duration::from_secs(60),
            is_root: false,
        };
        let nix = Self { directory, surroundings };
        nix.run_in_script("cat \"$0.answer\"");
        nix
    }

    /// Has it carry out `commands` after the call is counted.
    pub fn run_in_script(&self, commands: &str) {
        // Written by another process: the kernel executes no file that is open for writing, and a process that another test
        // starts at this moment would hold ours open for a while.
        let written = Command::new("sh")
            .args(["-c", "printf '%s' \"$2\" > \"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(self.directory().join("bin/nix"))
            .arg(format!("#!/bin/sh\necho \"$*\" >> \"$0.calls\"\n{commands}\n"))
            .status();
        assert!(written.unwrap().success());
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn cache_file(&self) -> PathBuf {
        self.directory().join("cache/nix-build-shell/settings.json")
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.directory().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn prepend_to_path(&mut self, directory: &Path) {
        let (_, path) = &mut self.surroundings.variables[0];
        *path = std::env::join_paths([directory.into()].into_iter().chain(std::env::split_paths(path))).unwrap();
    }

    /// The arguments of every call so far.
    pub fn calls(&self) -> Vec<String> {
        self.written("calls").lines().map(String::from).collect()
    }

    /// What the script wrote to `$0.NAME`.
    pub fn written(&self, name: &str) -> String {
        fs::read_to_string(self.directory().join(format!("bin/nix.{name}"))).unwrap_or_default()
    }
}
