//! The settings under which Nix builds: `nix.conf(5)`, as the installed Nix understands it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::nix_program::NixProgram;
use super::sandbox_paths::{SandboxPath, store_sources};
use super::settings_answer::read_answer;
use super::settings_cache::SettingsCache;
use super::surroundings::Surroundings;
use super::tmpfs_size::TmpfsSize;

/// The setting `sandbox`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxMode {
    /// Every build is in a sandbox.
    Enabled,
    /// Every build, but for fixed-output derivations and those with the attribute `__noChroot`.
    Relaxed,
    /// No build is.
    Disabled,
}

/// What of Nix's settings decides how a sandbox looks.
///
/// They are those of the caller's Nix: a daemon has its own, and takes the user's over from trusted users only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `sandbox`.
    pub sandbox: SandboxMode,
    /// `sandbox-paths` and `extra-sandbox-paths`: one path a target, in the order of the targets.
    pub sandbox_paths: Vec<SandboxPath>,
    /// `sandbox-build-dir`: where the build directory is in the sandbox.
    pub sandbox_build_dir: PathBuf,
    /// `sandbox-dev-shm-size`.
    pub sandbox_dev_shm_size: TmpfsSize,
    /// `filter-syscalls`: whether builds are kept from making set-user-ID files and setting extended attributes.
    pub filter_syscalls: bool,
    /// `allow-new-privileges`: whether set-user-ID programs work.
    pub allow_new_privileges: bool,
    /// `impersonate-linux-26`: whether the kernel calls itself 2.6.
    pub impersonate_linux_26: bool,
    /// `use-cgroups`: whether each build has a control group of its own.
    pub use_cgroups: bool,
    /// `allowed-impure-host-deps`: see [`impure_host_deps`](super::sandbox_paths::impure_host_deps).
    pub allowed_impure_host_deps: Vec<PathBuf>,
    /// `system-features`: what derivations may require; see [`has_feature`](Self::has_feature).
    pub system_features: BTreeSet<String>,
    /// `build-users-group`: builds run as its members where it is not empty, and only if Nix runs as root. Nix tells other users
    /// that it is empty.
    pub build_users_group: String,
    /// `cores`: what a build has in `NIX_BUILD_CORES`; 0 is as many as there are.
    pub cores: u32,
    /// `builders`: the machines that build besides this one, or `@` and a file that names them.
    pub builders: String,
    /// `max-jobs`: how many builds run at once on this machine; with 0 none does. Nothing where it is not known.
    pub max_jobs: Option<u32>,
    /// `build-dir`: where build directories are made, if not at the default place.
    pub build_dir: Option<PathBuf>,
    /// `ssl-cert-file`: the certificates that a build with the network finds; versions without the setting show none.
    pub ssl_cert_file: Option<PathBuf>,
    /// `store`: the URL of the store, or `auto`.
    pub store: String,
    /// What is not known but assumed, and why: one sentence for the user.
    pub assumption: Option<String>,
}

impl Default for Settings {
    /// The defaults that Nix's manual names, those of a Nix on this machine's processors being unknown.
    fn default() -> Self {
        Self {
            sandbox: SandboxMode::Enabled,
            sandbox_paths: Vec::new(),
            sandbox_build_dir: "/build".into(),
            sandbox_dev_shm_size: TmpfsSize::default(),
            filter_syscalls: true,
            allow_new_privileges: false,
            impersonate_linux_26: false,
            use_cgroups: false,
            allowed_impure_host_deps: Vec::new(),
            system_features: ["benchmark", "big-parallel", "kvm", "nixos-test"].map(String::from).into(),
            build_users_group: String::new(),
            cores: 0,
            builders: "@/etc/nix/machines".into(),
            max_jobs: None,
            build_dir: None,
            ssl_cert_file: None,
            store: "auto".into(),
            assumption: None,
        }
    }
}

impl Settings {
    /// The settings that the installed Nix has, asked or remembered.
    ///
    /// Nix is asked once; then the answer comes from a file in the user's cache directory, for as long as no configuration file,
    /// no environment variable that counts, nor Nix itself is another. Where there is no Nix, or it fails, its defaults are
    /// assumed, and [`assumption`](Self::assumption) says so.
    pub fn in_force() -> Self {
        Self::under(&Surroundings::of_process())
    }

    pub(super) fn under(surroundings: &Surroundings) -> Self {
        let Some(program) = NixProgram::find(surroundings) else {
            return Self::assumed("there is no «nix» in PATH, nor where it usually is");
        };
        let cache = SettingsCache::new(surroundings);
        if let Some(settings) = cache.as_ref().and_then(|cache| cache.read(&program)) {
            return settings;
        }
        // Before Nix reads them: a file that is changed meanwhile is a changed file to the next run.
        let sources = cache.as_ref().and_then(|cache| cache.sources(surroundings, &program));
        let answer = program.show_settings(surroundings).and_then(|answer| read_answer(&answer));
        let settings = match answer {
            Ok(settings) => settings,
            Err(error) => return Self::assumed(&format!("{error:#}")),
        };
        if let (Some(cache), Some(sources)) = (cache, sources) {
            cache.write(sources, &settings);
        }
        settings
    }

    fn assumed(reason: &str) -> Self {
        Self { assumption: Some(format!("Nix's default settings are assumed: {reason}")), ..Self::default() }
    }

    /// Whether builds may require the feature `name`: with `kvm` they have `/dev/kvm`.
    pub fn has_feature(&self, name: &str) -> bool {
        self.system_features.contains(name)
    }

    /// The store paths in `store_dir` whose closures Nix mounts for the sake of [`sandbox_paths`](Self::sandbox_paths).
    pub fn store_sources(&self, store_dir: &Path) -> BTreeSet<PathBuf> {
        store_sources(&self.sandbox_paths, store_dir)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::nix::fake_nix::{ANSWER, FakeNix};

    fn asks_again(nix: &FakeNix, why: &str) {
        let before = nix.calls().len();
        assert_eq!(Settings::under(&nix.surroundings).cores, 7);
        assert_eq!(nix.calls().len(), before + 1, "{why}");
        assert_eq!(Settings::under(&nix.surroundings).cores, 7);
        assert_eq!(nix.calls().len(), before + 1, "{why}, and once is enough");
    }

    #[test]
    fn a_remembered_answer_runs_no_process() {
        let nix = FakeNix::new(ANSWER);
        let asked = Settings::under(&nix.surroundings);
        assert_eq!(nix.calls().len(), 1);
        assert_eq!(asked.cores, 7);
        for _ in 0..3 {
            assert_eq!(Settings::under(&nix.surroundings), asked);
        }
        assert_eq!(nix.calls().len(), 1);
        let file = fs::metadata(nix.cache_file()).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_changed_configuration_file_is_noticed() {
        let nix = FakeNix::new(ANSWER);
        asks_again(&nix, "nothing is remembered");
        nix.write("etc/nix.conf", "sandbox = true\n!include more.conf\n");
        asks_again(&nix, "the system's file is new");
        nix.write("etc/more.conf", "include deeper/still.conf\n");
        asks_again(&nix, "an included file is new");
        nix.write("etc/deeper/still.conf", "cores = 7\n");
        asks_again(&nix, "what is included there is new");
        nix.write("etc/deeper/still.conf", "cores = 8\n");
        asks_again(&nix, "its content is another");
        nix.write("home/.config/nix/nix.conf", "");
        asks_again(&nix, "the user's file is new");
        fs::remove_file(nix.directory().join("etc/more.conf")).unwrap();
        asks_again(&nix, "an included file is gone");
    }

    #[test]
    fn a_changed_nix_is_noticed() {
        let mut nix = FakeNix::new(ANSWER);
        asks_again(&nix, "nothing is remembered");
        nix.run_in_script("cat \"$0.answer\" # a newer version");
        asks_again(&nix, "another program");
        let elsewhere = nix.directory().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(nix.directory().join("bin/nix"), elsewhere.join("nix")).unwrap();
        fs::copy(nix.directory().join("bin/nix.answer"), elsewhere.join("nix.answer")).unwrap();
        nix.prepend_to_path(&elsewhere);
        Settings::under(&nix.surroundings);
        assert_eq!(fs::read_to_string(elsewhere.join("nix.calls")).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_changed_environment_is_noticed() {
        let mut nix = FakeNix::new(ANSWER);
        asks_again(&nix, "nothing is remembered");
        let included = nix.directory().join("included.conf");
        for (name, value) in [
            ("NIX_CONFIG", "cores = 7".to_owned()),
            ("NIX_CONFIG", format!("include {}", included.display())),
            ("NIX_REMOTE", "daemon".to_owned()),
            ("XDG_CONFIG_HOME", nix.directory().join("home/other").display().to_string()),
            ("NIX_USER_CONF_FILES", format!("{0}/a.conf:{0}/b.conf", nix.directory().display())),
        ] {
            nix.surroundings.variables.retain(|(known, _)| known != name);
            nix.surroundings.variables.push((name.into(), value.into()));
            asks_again(&nix, name);
        }
        nix.write("included.conf", "cores = 7");
        asks_again(&nix, "the variable includes a file");
        nix.write("b.conf", "cores = 7");
        asks_again(&nix, "the variable names a file");
        nix.surroundings.variables.push(("NIX_BUILD_TOP".into(), "/tmp/nix-shell-1".into()));
        let before = nix.calls().len();
        Settings::under(&nix.surroundings);
        assert_eq!(nix.calls().len(), before, "a variable that means nothing here");
    }

    #[test]
    fn a_cache_file_that_is_not_ours_is_replaced() {
        let nix = FakeNix::new(ANSWER);
        asks_again(&nix, "nothing is remembered");
        let file = nix.cache_file();
        let good = fs::read_to_string(&file).unwrap();
        for bad in ["", "{}", &good[..good.len() - 1], &good.replace("0.", "9."), &" ".repeat(300 << 10)] {
            fs::write(&file, bad).unwrap();
            asks_again(&nix, "corrupt");
        }
        // What nobody may believe, although it would be believed otherwise.
        let lie = good.replace("\"cores\":7", "\"cores\":9");
        assert_ne!(lie, good);
        fs::write(&file, &lie).unwrap();
        assert_eq!(Settings::under(&nix.surroundings).cores, 9);
        fs::set_permissions(&file, Permissions::from_mode(0o622)).unwrap();
        asks_again(&nix, "others may write it");
        let elsewhere = nix.directory().join("elsewhere");
        fs::write(&elsewhere, &lie).unwrap();
        fs::remove_file(&file).unwrap();
        symlink(&elsewhere, &file).unwrap();
        asks_again(&nix, "a symbolic link");
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), lie);
        fs::remove_file(&file).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RWXU).unwrap();
        asks_again(&nix, "a fifo");
    }

    #[test]
    fn without_a_place_to_remember_nix_is_asked_each_time() {
        let asked_twice = |nix: &FakeNix, why: &str| {
            let before = nix.calls().len();
            for _ in 0..2 {
                assert_eq!(Settings::under(&nix.surroundings).cores, 7);
            }
            assert_eq!(nix.calls().len(), before + 2, "{why}");
        };
        let nix = FakeNix::new(ANSWER);
        nix.write("cache", "a file where the directory should be");
        asked_twice(&nix, "a file is in the way");

        let nix = FakeNix::new(ANSWER);
        let directory = nix.cache_file().parent().unwrap().to_owned();
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        asked_twice(&nix, "others may write there");

        let mut nix = FakeNix::new(ANSWER);
        nix.surroundings.variables.push(("NIX_CONF_DIR".into(), "relative".into()));
        asked_twice(&nix, "a relative path");

        // There, others could lead root's writing elsewhere; in /tmp the sticky bit keeps them from it.
        let mut nix = FakeNix::new(ANSWER);
        nix.surroundings.is_root = true;
        fs::set_permissions(nix.directory(), Permissions::from_mode(0o777)).unwrap();
        asked_twice(&nix, "root, in a directory of everybody's");
        assert!(!nix.directory().join("cache").exists());
    }

    #[test]
    fn two_runs_at_once_do_not_disturb_each_other() {
        let nix = FakeNix::new(ANSWER);
        let runs = || (0..5).for_each(|_| assert_eq!(Settings::under(&nix.surroundings).cores, 7));
        std::thread::scope(|scope| [scope.spawn(runs), scope.spawn(runs)].map(|run| run.join().unwrap()));
        let calls = nix.calls().len();
        assert!((1..=2).contains(&calls), "{calls} calls");
        let directory = nix.cache_file().parent().unwrap().read_dir().unwrap();
        assert_eq!(directory.count(), 1);
    }

    #[test]
    fn where_nix_is_missing_or_fails_its_defaults_are_assumed_and_told() {
        let mut nix = FakeNix::new(ANSWER);
        nix.run_in_script("echo 'error: no luck' >&2; exit 1");
        let settings = Settings::under(&nix.surroundings);
        let told = settings.assumption.clone().unwrap();
        assert!(told.starts_with("Nix's default settings are assumed: «") && told.ends_with("» failed: no luck"));
        assert_eq!(settings, Settings { assumption: Some(told), ..Settings::default() });
        nix.run_in_script("cat \"$0.answer\"");
        asks_again(&nix, "a failure is not remembered");
        nix.run_in_script("echo '[]'");
        assert!(Settings::under(&nix.surroundings).assumption.unwrap().contains("not the JSON"));
        nix.surroundings.variables.clear();
        let told = Settings::under(&nix.surroundings).assumption.unwrap();
        assert_eq!(told, "Nix's default settings are assumed: there is no «nix» in PATH, nor where it usually is");
    }
}
