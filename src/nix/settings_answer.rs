//! Reads what Nix answers when it is asked for its settings: a JSON object that has an object with a `value` for each.
//!
//! Aliases never appear in it as names, and an `extra-` setting only in Nix 2.3 and before.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::sandbox_paths::{SandboxPath, by_target};
use super::settings::{SandboxMode, Settings};
use super::tmpfs_size::TmpfsSize;

/// What a Nix that is one static program has as the source of `/bin/sh`: a shell in the program itself, which nobody else can run.
const EMBEDDED_SHELL: &str = "__embedded_sandbox_shell__";

/// Reads the answer. A setting that is missing has its default: older versions do not have them all. One that makes no sense has
/// it too, and is told in [`Settings::assumption`].
///
/// # Errors
/// Text that is not what Nix writes.
pub fn read_answer(text: &[u8]) -> Result<Settings> {
    let settings: BTreeMap<String, Setting> =
        serde_json::from_slice(text).context("Nix's answer is not the JSON that it writes")?;
    if !settings.contains_key("sandbox") {
        bail!("Nix's answer has no setting «sandbox»");
    }
    let default = Settings::default();
    let mut answer = Answer { settings, misunderstood: Vec::new() };
    let mut sandbox_paths = answer.sandbox_paths("sandbox-paths");
    sandbox_paths.extend(answer.sandbox_paths("extra-sandbox-paths"));
    let mut settings = Settings {
        sandbox: answer.read("sandbox", default.sandbox, sandbox_mode),
        sandbox_paths: by_target(sandbox_paths),
        sandbox_build_dir: answer.read("sandbox-build-dir", default.sandbox_build_dir, place),
        sandbox_dev_shm_size: answer.read("sandbox-dev-shm-size", default.sandbox_dev_shm_size, size),
        filter_syscalls: answer.read("filter-syscalls", default.filter_syscalls, boolean),
        allow_new_privileges: answer.read("allow-new-privileges", default.allow_new_privileges, boolean),
        impersonate_linux_26: answer.read("impersonate-linux-26", default.impersonate_linux_26, boolean),
        use_cgroups: answer.read("use-cgroups", default.use_cgroups, boolean),
        allowed_impure_host_deps: answer.read("allowed-impure-host-deps", default.allowed_impure_host_deps, |value| {
            Some(words(value)?.into_iter().map(PathBuf::from).collect())
        }),
        system_features: answer
            .read("system-features", default.system_features, |value| Some(words(value)?.into_iter().collect())),
        build_users_group: answer.read("build-users-group", default.build_users_group, string),
        cores: answer.read("cores", default.cores, number),
        builders: answer.read("builders", default.builders, string),
        max_jobs: answer.read("max-jobs", default.max_jobs, |value| Some(number(value))),
        build_dir: answer.read("build-dir", default.build_dir, optional_place),
        ssl_cert_file: answer.read("ssl-cert-file", default.ssl_cert_file, optional_place),
        store: answer.read("store", default.store, store_url),
        assumption: None,
    };
    if !answer.misunderstood.is_empty() {
        let misunderstood = answer.misunderstood.join("; ");
        settings.assumption = Some(format!("Nix's defaults are assumed for what is not understood: {misunderstood}"));
    }
    Ok(settings)
}

/// Everything else in the object describes the setting.
#[derive(Deserialize)]
struct Setting {
    #[serde(default)]
    value: Value,
}

struct Answer {
    settings: BTreeMap<String, Setting>,
    misunderstood: Vec<String>,
}

impl Answer {
    fn read<T>(&mut self, name: &str, default: T, understand: impl FnOnce(&Value) -> Option<T>) -> T {
        let Some(Setting { value }) = self.settings.get(name) else {
            return default;
        };
        understand(value).unwrap_or_else(|| {
            self.misunderstood.push(format!("{name} is {value}"));
            default
        })
    }

    /// Nix 2.8, Nix 2.26 and Lix tell the words of the setting; later versions tell an object: the targets, each with its `source`
    /// and whether it is `optional`.
    fn sandbox_paths(&mut self, name: &str) -> Vec<SandboxPath> {
        let Some(Setting { value }) = self.settings.get(name) else {
            return Vec::new();
        };
        let paths: Vec<Result<SandboxPath>> = match value {
            Value::Object(paths) => paths
                .iter()
                .filter(|(_, path)| path.get("source").and_then(Value::as_str) != Some(EMBEDDED_SHELL))
                .map(|(target, path)| divided_path(target, path))
                .collect(),
            _ => match words(value) {
                Some(words) => words
                    .iter()
                    .filter(|word| word.split_once('=').map(|(_, source)| source) != Some(EMBEDDED_SHELL))
                    .map(SandboxPath::parse)
                    .collect(),
                None => vec![Err(anyhow::anyhow!("{name} is {value}"))],
            },
        };
        let (understood, misunderstood): (Vec<_>, Vec<_>) = paths.into_iter().partition(Result::is_ok);
        self.misunderstood.extend(misunderstood.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")));
        // As Nix does: a sandbox has a /proc of its own.
        understood.into_iter().flatten().filter(|path| path.source != Path::new("/proc")).collect()
    }
}

fn divided_path(target: &str, path: &Value) -> Result<SandboxPath> {
    let wrong = |reason: &dyn Display| format!("{target:?} in sandbox-paths is no sandbox path: {reason}");
    let source = path.get("source").and_then(Value::as_str).with_context(|| wrong(path))?;
    let optional = path.get("optional").and_then(Value::as_bool).unwrap_or(false);
    SandboxPath::new(Path::new(target), Path::new(source), optional).map_err(|reason| anyhow::anyhow!(wrong(&reason)))
}

/// `relaxed` is a string beside two booleans; Nix 2.3 has strings for all three.
fn sandbox_mode(value: &Value) -> Option<SandboxMode> {
    if value.as_str() == Some("relaxed") {
        return Some(SandboxMode::Relaxed);
    }
    Some(if boolean(value)? { SandboxMode::Enabled } else { SandboxMode::Disabled })
}

fn boolean(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| value.as_str()?.parse().ok())
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().map_or_else(|| value.as_str()?.parse().ok(), |number| number.try_into().ok())
}

fn string(value: &Value) -> Option<String> {
    value.as_str().map(String::from)
}

/// A list, or a string as it stands in `nix.conf`.
fn words(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(words) => words.iter().map(string).collect(),
        Value::String(words) => Some(words.split_ascii_whitespace().map(String::from).collect()),
        _ => None,
    }
}

fn size(value: &Value) -> Option<TmpfsSize> {
    TmpfsSize::parse(value.as_str()?).ok()
}

/// A path as a place in the sandbox; every sandbox path has one.
fn place(value: &Value) -> Option<PathBuf> {
    let path = Path::new(value.as_str()?);
    Some(SandboxPath::new(path, path, false).ok()?.target)
}

fn optional_place(value: &Value) -> Option<Option<PathBuf>> {
    match value {
        Value::Null => Some(None),
        Value::String(path) if path.is_empty() => Some(None),
        _ => place(value).map(Some),
    }
}

/// A URL; or, in the latest versions, its parts.
fn store_url(value: &Value) -> Option<String> {
    let part = |name| value.get(name).and_then(Value::as_str);
    match (value, part("scheme")) {
        (Value::String(url), _) => Some(url.clone()),
        (_, Some(scheme)) => match part("authority").unwrap_or_default() {
            "" if scheme == "auto" => Some(scheme.into()),
            authority => Some(format!("{scheme}://{authority}")),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: &str = "/bin/sh=/nix/store/8hzbz17vcmw97w1wpqpadxhfkj7crcps-busybox/bin/busybox";

    fn read(text: &str) -> Settings {
        read_answer(text.as_bytes()).unwrap()
    }

    fn sandbox_path(text: &str) -> SandboxPath {
        SandboxPath::parse(text).unwrap()
    }

    #[test]
    fn nix_2_8_is_understood() {
        let settings = read(include_str!("fixtures/nix-2.8.json"));
        assert_eq!(settings.assumption, None);
        assert_eq!(settings.sandbox, SandboxMode::Disabled);
        assert_eq!(settings.sandbox_paths, [SHELL, "/dev/fuse?"].map(sandbox_path));
        assert_eq!(settings.sandbox_build_dir, Path::new("/build"));
        assert_eq!(settings.sandbox_dev_shm_size.as_str(), "50%");
        assert!(settings.filter_syscalls && !settings.allow_new_privileges && !settings.use_cgroups);
        assert!(settings.has_feature("kvm") && !settings.has_feature("kv"));
        assert_eq!((settings.build_users_group.as_str(), settings.cores), ("nixbld", 2));
        assert_eq!((settings.build_dir, settings.store.as_str()), (None, "auto"));
        assert!(!settings.impersonate_linux_26);
    }

    #[test]
    fn nix_2_34_is_understood() {
        let settings = read(include_str!("fixtures/nix-2.34.json"));
        assert_eq!(settings.assumption, None);
        assert_eq!(settings.sandbox, SandboxMode::Relaxed);
        assert_eq!(settings.sandbox_paths, [SHELL, "/run/opengl-driver?"].map(sandbox_path));
        assert_eq!(settings.sandbox_build_dir, Path::new("/work/build"));
        assert_eq!(settings.sandbox_dev_shm_size.as_str(), "8g");
        assert!(!settings.filter_syscalls && settings.allow_new_privileges && settings.use_cgroups);
        assert!(settings.impersonate_linux_26 && !settings.has_feature("kvm"));
        assert_eq!(settings.build_dir.as_deref(), Some(Path::new("/var/tmp/builds")));
        assert_eq!(settings.store, "unix:///nix/var/nix/daemon-socket/socket");
    }

    #[test]
    fn lix_is_understood() {
        let settings = read(include_str!("fixtures/lix-2.93.json"));
        assert_eq!(settings.assumption, None);
        assert_eq!(settings.sandbox, SandboxMode::Enabled);
        assert_eq!(settings.sandbox_paths, [sandbox_path("/bin/sh=/nix/store/q3vk5xs7z7pj3zrqn3a-bash/bin/sh")]);
        assert_eq!(settings.allowed_impure_host_deps, [Path::new("/usr/lib")]);
        assert_eq!((settings.cores, settings.store.as_str()), (0, "daemon"));
    }

    #[test]
    fn nix_2_3_has_strings_and_extra_settings() {
        let settings = read(
            r#"{"sandbox": {"value": "relaxed"}, "filter-syscalls": {"value": "false"}, "cores": {"value": "4"},
                "sandbox-paths": {"value": "/a /b=/one"}, "extra-sandbox-paths": {"value": ["/b=/two?"]}}"#,
        );
        assert_eq!(settings.sandbox_paths, [sandbox_path("/a"), sandbox_path("/b=/two?")]);
        assert_eq!((settings.sandbox, settings.filter_syscalls, settings.cores), (SandboxMode::Relaxed, false, 4));
    }

    #[test]
    fn what_nix_does_not_take_from_the_host_is_no_sandbox_path() {
        let list = r#"["/bin/sh=__embedded_sandbox_shell__", "/proc", "/a"]"#;
        let object = r#"{"/bin/sh": {"source": "__embedded_sandbox_shell__"}, "/proc": {"source": "/proc"}, "/a": {"source": "/a"}}"#;
        for value in [list, object] {
            let text = format!(r#"{{"sandbox": {{"value": true}}, "sandbox-paths": {{"value": {value}}}}}"#);
            let settings = read(&text);
            assert_eq!((settings.sandbox_paths, settings.assumption), (vec![sandbox_path("/a")], None));
        }
    }

    #[test]
    fn the_certificates_of_a_build_with_the_network_are_where_the_setting_says() {
        let certificates = |value: &str| {
            read(&format!(r#"{{"sandbox": {{"value": true}}, "ssl-cert-file": {{"value": {value}}}}}"#)).ssl_cert_file
        };
        assert_eq!(certificates("\"/etc/ca.crt\""), Some("/etc/ca.crt".into()));
        assert_eq!(certificates("\"\""), None);
    }

    #[test]
    fn the_parts_of_a_store_url_are_put_together() {
        let store =
            |value: &str| read(&format!(r#"{{"sandbox": {{"value": true}}, "store": {{"value": {value}}}}}"#)).store;
        assert_eq!(store(r#"{"scheme": "auto"}"#), "auto");
        assert_eq!(store(r#"{"scheme": "local", "authority": "/mnt/root", "read-only": true}"#), "local:///mnt/root");
    }

    #[test]
    fn what_is_not_understood_has_its_default_and_is_told() {
        let settings = read(
            r#"{"sandbox": {"value": 3}, "sandbox-dev-shm-size": {"value": "half"}, "use-cgroups": {"value": true},
                "cores": {"value": -1}, "sandbox-paths": {"value": ["bin", "/a"]}, "extra-sandbox-paths": {"value": 5},
                "sandbox-build-dir": {"value": "build"}, "store": {}}"#,
        );
        let told = settings.assumption.clone().unwrap();
        for name in [
            "sandbox is 3",
            "sandbox-dev-shm-size is \"half\"",
            "cores is -1",
            "\"bin\" is no sandbox path",
            "extra-sandbox-paths is 5",
            "sandbox-build-dir is \"build\"",
            "store is null",
        ] {
            assert!(told.contains(name), "{name} in {told}");
        }
        let sandbox_paths = vec![sandbox_path("/a")];
        let expected = Settings { use_cgroups: true, sandbox_paths, assumption: Some(told), ..Settings::default() };
        assert_eq!(settings, expected);
        let settings =
            read(r#"{"sandbox": {"value": true}, "sandbox-paths": {"value": {"/a": "/b", "/c": {"source": "/d"}}}}"#);
        assert!(settings.assumption.unwrap().contains("\"/a\" in sandbox-paths is no sandbox path: \"/b\""));
        assert_eq!(settings.sandbox_paths, [sandbox_path("/c=/d")]);
    }

    #[test]
    fn what_builds_elsewhere_is_known() {
        let jobs =
            |value: &str| read(&format!(r#"{{"sandbox": {{"value": true}}, "max-jobs": {{"value": {value}}}}}"#));
        assert_eq!(
            [jobs("0"), jobs("\"4\""), jobs("\"auto\"")].map(|settings| settings.max_jobs),
            [Some(0), Some(4), None]
        );
        assert_eq!((jobs("0").assumption, jobs("0").builders.as_str()), (None, "@/etc/nix/machines"));
        let settings = read(r#"{"sandbox": {"value": true}, "builders": {"value": "ssh://other"}}"#);
        assert_eq!(settings.builders, "ssh://other");
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "sandbox = true", "[]", "{\"cores\": {\"value\": 1}}", "{\"sandbox\": true}"] {
            assert!(read_answer(text.as_bytes()).is_err(), "{text}");
        }
    }
}
