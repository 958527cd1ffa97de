//! What Nix there is.

use super::{Fact, in_words};
use crate::nix::store::Store;
use crate::nix::{SandboxMode, Settings, TmpfsSize, version_of_nix};

pub(super) fn facts(settings: &Settings) -> [Fact; 3] {
    [version(), database(), in_force(settings)]
}

fn version() -> Fact {
    match version_of_nix() {
        Ok(Some((path, version))) => Fact::there("Nix", format!("{version}, {}", path.display())),
        Ok(None) => {
            Fact::dispensable("Nix", "there is no «nix» in PATH, nor where it usually is; its defaults are assumed")
        }
        Err(error) => Fact::dispensable("Nix", in_words(&error)),
    }
}

/// It is asked for something that no store has.
fn database() -> Fact {
    let asked = Store::from_environment().and_then(|store| {
        let mut records = store.open()?;
        records.derivations_named("there-is-no-such-name").map(|_| records.source())
    });
    // Without it a derivation, and the closure that it could see, cannot be found.
    Fact::needed("store database", asked)
}

/// Those that shape a sandbox; what Nix has by default is not worth a word, but for the build directory.
fn in_force(settings: &Settings) -> Fact {
    const SUBJECT: &str = "settings";
    let default = Settings::default();
    let mut words = vec![
        match settings.sandbox {
            SandboxMode::Enabled => "sandbox = true".to_owned(),
            SandboxMode::Relaxed => "sandbox = relaxed".to_owned(),
            SandboxMode::Disabled => "sandbox = false (the builds had none)".to_owned(),
        },
        format!("sandbox-build-dir = {}", settings.sandbox_build_dir.display()),
    ];
    if !settings.sandbox_paths.is_empty() {
        let paths: Vec<_> = settings.sandbox_paths.iter().map(|path| path.target.to_string_lossy()).collect();
        words.push(format!("sandbox-paths = {}", paths.join(" ")));
    }
    let switches = [
        ("filter-syscalls", settings.filter_syscalls, default.filter_syscalls),
        ("allow-new-privileges", settings.allow_new_privileges, default.allow_new_privileges),
        ("impersonate-linux-26", settings.impersonate_linux_26, default.impersonate_linux_26),
        ("use-cgroups", settings.use_cgroups, default.use_cgroups),
    ];
    words
        .extend(switches.iter().filter(|(_, now, usual)| now != usual).map(|(name, now, _)| format!("{name} = {now}")));
    if settings.sandbox_dev_shm_size != TmpfsSize::default() {
        words.push(format!("sandbox-dev-shm-size = {}", settings.sandbox_dev_shm_size));
    }
    if settings.build_users_group.is_empty() {
        words.push("no build-users-group".into());
    } else {
        words.push(format!("build-users-group = {}", settings.build_users_group));
    }
    match &settings.assumption {
        Some(assumption) => Fact::dispensable(SUBJECT, assumption.clone()),
        None => Fact::there(SUBJECT, words.join(", ")),
    }
}
