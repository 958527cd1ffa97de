//! What `scripts/fuzz` feeds: each reader of what comes from a build or from Nix, with all that is done to what it has read. Not in the
//! program.

use std::path::Path;
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::env_vars::EnvVars;
use crate::nix::build_log::BuildLog;
use crate::nix::derivation::Derivation;
use crate::nix::{settings_answer, structured_attributes as attributes};

/// Reads `env-vars`.
pub fn env_vars(text: &[u8]) {
    if let Ok(variables) = EnvVars::parse(text) {
        variables.get("out");
    }
}

/// Reads a derivation.
pub fn derivation(text: &[u8]) {
    let path = Path::new("/nix/store/00000000000000000000000000000000-fuzzed.drv");
    if let Ok(derivation) = Derivation::parse(path, text) {
        derivation.output_paths().for_each(drop);
        derivation.is_fixed_output();
        derivation.is_impure();
        derivation.package_name();
        if let Some(found) = derivation.structured_attributes() {
            write(found);
        }
    }
}

/// Reads `.attrs.json`, and writes it and `.attrs.sh` as Nix does.
pub fn structured_attributes(text: &[u8]) {
    if let Ok(found) = serde_json::from_slice::<Map<String, Value>>(text) {
        write(&found);
    }
}

fn write(found: &Map<String, Value>) {
    attributes::json_text(found);
    attributes::shell_text(found);
}

/// Reads what Nix says of its settings.
pub fn settings(text: &[u8]) {
    if let Ok(settings) = settings_answer::read_answer(text) {
        settings.store_sources(Path::new("/nix/store"));
    }
}

/// Reads a build's log.
pub fn log(text: &[u8]) {
    if let Ok(log) = BuildLog::read(text, "/log".into(), SystemTime::UNIX_EPOCH) {
        (log.phases(), log.failed_phase(), log.source_root(), log.last_lines());
    }
}
