//! Has Nix keep what fails, and build on this machine.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::nix::Settings;

/// The variable that every Nix since 2.4 reads, as it does `nix.conf`, and after it.
const NIX_CONFIG: &str = "NIX_CONFIG";

/// The commands that take Nix's own options right behind their names.
const COMMANDS: [&str; 8] =
    ["nix", "nix-build", "nix-store", "nix-shell", "nix-env", "nixos-rebuild", "home-manager", "darwin-rebuild"];

/// Programs that run another one, and the letters and the names of their options that take a word.
const WRAPPERS: [(&str, &str, &[&str]); 7] = [
    (
        "sudo",
        "ugphCDRTrtU",
        &[
            "user",
            "group",
            "prompt",
            "host",
            "close-from",
            "chdir",
            "chroot",
            "command-timeout",
            "role",
            "type",
            "other-user",
        ],
    ),
    ("doas", "uC", &[]),
    ("env", "uC", &["unset", "chdir"]),
    ("nice", "n", &["adjustment"]),
    ("time", "fo", &["format", "output"]),
    ("nohup", "", &[]),
    ("setsid", "", &[]),
];

/// What has Nix keep a build directory, and build where it can be kept. Both the command's options and the environment say it: the
/// environment reaches a Nix that a script or a `Makefile` calls, and the options one behind a sudo that passes no environment on,
/// and a Nix before 2.4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepFailed {
    settings: Vec<(&'static str, &'static str)>,
}

impl KeepFailed {
    /// What it takes with a Nix of these settings. A builder on another machine keeps the directory there, if at all.
    pub fn under(settings: &Settings) -> Self {
        let mut wanted = vec![("keep-failed", "true")];
        if has_builders(&settings.builders) {
            wanted.push(("builders", ""));
            if settings.max_jobs == Some(0) {
                wanted.push(("max-jobs", "auto"));
            }
        }
        Self { settings: wanted }
    }

    /// Whether builders on other machines are passed over.
    pub fn keeps_from_other_machines(&self) -> bool {
        self.settings.len() > 1
    }

    /// The command with the options, if it is one that takes them.
    pub fn added_to(&self, command: &[OsString]) -> Vec<OsString> {
        let mut command = command.to_vec();
        if let Some(position) = position_of_options(&command) {
            command.splice(position..position, self.options());
        }
        command
    }

    fn options(&self) -> Vec<OsString> {
        let one = |(name, value): &(&str, &str)| match *name {
            // nixos-rebuild and its like know the option, and not every one of Nix's settings.
            "keep-failed" => vec!["--keep-failed".into()],
            name => ["--option", name, value].map(OsString::from).to_vec(),
        };
        self.settings.iter().flat_map(one).collect()
    }

    /// The environment variables. What the caller has in `NIX_CONFIG` stays.
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        vec![(NIX_CONFIG.into(), self.added_to_configuration(env::var_os(NIX_CONFIG)))]
    }

    fn added_to_configuration(&self, before: Option<OsString>) -> OsString {
        let mut text = before.unwrap_or_default();
        for (name, value) in &self.settings {
            if !text.is_empty() && !text.as_bytes().ends_with(b"\n") {
                text.push("\n");
            }
            text.push(format!("{name} = {value}\n"));
        }
        text
    }
}

/// Where in a command options of Nix's can stand: behind the name of a command that takes them, whatever other program runs it.
fn position_of_options(command: &[OsString]) -> Option<usize> {
    let mut at = 0;
    loop {
        let name = Path::new(command.get(at)?).file_name()?.to_str()?;
        if COMMANDS.contains(&name) {
            // That takes its first argument for a script unless it is an option, and NIX_CONFIG tells it as well.
            let is_option = |word: &OsString| word.as_bytes().starts_with(b"-");
            let has_script = name == "nix-shell" && command.get(at + 1).is_some_and(|first| !is_option(first));
            return (!has_script).then_some(at + 1);
        }
        let (_, letters, names) = WRAPPERS.iter().find(|(wrapper, ..)| *wrapper == name)?;
        at = after_options(command, at + 1, letters, names);
    }
}

/// The first word from `at` on that is no option of a wrapper's, no word that one takes, and no variable.
fn after_options(command: &[OsString], mut at: usize, letters: &str, names: &[&str]) -> usize {
    while let Some(word) = command.get(at).map(|word| word.as_bytes()) {
        let takes_next = match word {
            b"--" => return at + 1,
            [b'-', b'-', name @ ..] => names.iter().any(|known| known.as_bytes() == name),
            // Of letters in one word the last one may take the next word.
            [b'-', .., last] => letters.as_bytes().contains(last),
            _ if is_assignment(OsStr::from_bytes(word)) => false,
            _ => return at,
        };
        at += if takes_next { 2 } else { 1 };
    }
    at
}

fn is_assignment(word: &OsStr) -> bool {
    word.as_bytes().iter().position(|byte| *byte == b'=').is_some_and(|equals| {
        equals > 0 && word.as_bytes()[..equals].iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
    })
}

/// Whether the setting `builders` names a machine: by itself, or in a file that it names.
fn has_builders(setting: &str) -> bool {
    let is_entry = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    setting.split([';', '\n']).map(str::trim).any(|entry| match entry.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).is_ok_and(|text| text.lines().any(is_entry)),
        None => is_entry(entry),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under(builders: &str, max_jobs: Option<u32>) -> KeepFailed {
        KeepFailed::under(&Settings { builders: builders.into(), max_jobs, ..Settings::default() })
    }

    fn added(command: &str) -> String {
        let words: Vec<_> = command.split(' ').map(OsString::from).collect();
        let words = under("", None).added_to(&words);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_option_stands_behind_the_command() {
        for (command, expected) in [
            ("nix-build -A hello", "nix-build --keep-failed -A hello"),
            ("nix build .#hello", "nix --keep-failed build .#hello"),
            (
                "/run/current-system/sw/bin/nix-store -r /x.drv",
                "/run/current-system/sw/bin/nix-store --keep-failed -r /x.drv",
            ),
            ("home-manager switch", "home-manager --keep-failed switch"),
            ("sudo nixos-rebuild switch", "sudo nixos-rebuild --keep-failed switch"),
            ("sudo -u nix -E -- nix-build x", "sudo -u nix -E -- nix-build --keep-failed x"),
            ("sudo -Eu nix env -u A B=c nix build", "sudo -Eu nix env -u A B=c nix --keep-failed build"),
            ("sudo --user nix --group=x nix-build", "sudo --user nix --group=x nix-build --keep-failed"),
            ("nix-shell -A hello", "nix-shell --keep-failed -A hello"),
            ("nix-shell", "nix-shell --keep-failed"),
            ("nice -n 10 time nix-build", "nice -n 10 time nix-build --keep-failed"),
        ] {
            assert_eq!(added(command), expected);
        }
    }

    #[test]
    fn other_commands_stay_as_they_are() {
        for command in [
            "make nix-build",
            "sudo -u nix make",
            "sudo -u nix",
            "nix-eval-jobs x",
            "sh -c nix-build",
            "sudo",
            "nix-shell ./script -x",
            "sudo nix-shell ./script",
        ] {
            assert_eq!(added(command), command);
        }
    }

    #[test]
    fn builders_on_other_machines_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("machines");
        let named = format!("@{}", file.display());
        assert!(!under(&named, None).keeps_from_other_machines(), "there is no such file");
        std::fs::write(&file, "# nobody\n\n").unwrap();
        assert!(!under(&named, Some(0)).keeps_from_other_machines());
        std::fs::write(&file, "# somebody\nssh://other x86_64-linux\n").unwrap();
        for builders in [named.as_str(), "ssh://other", "@/nowhere ; ssh://other"] {
            let passed_over = under(builders, Some(4));
            assert_eq!(passed_over.options(), ["--keep-failed", "--option", "builders", ""]);
        }
        assert_eq!(under("ssh://other", Some(0)).options()[4..], ["--option", "max-jobs", "auto"]);
    }

    #[test]
    fn what_the_caller_has_configured_stays() {
        let configured = |before: Option<&str>| under("", None).added_to_configuration(before.map(OsString::from));
        assert_eq!(configured(None), "keep-failed = true\n");
        assert_eq!(configured(Some("cores = 2")), "cores = 2\nkeep-failed = true\n");
        assert_eq!(configured(Some("cores = 2\n")), "cores = 2\nkeep-failed = true\n");
        let local = under("x", None).added_to_configuration(None);
        assert_eq!(local, "keep-failed = true\nbuilders = \n");
    }
}
