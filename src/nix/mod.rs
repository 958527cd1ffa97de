//! What Nix knows of a build: its derivation, the process that Nix makes of it, and the settings under which it builds.

mod aterm;
mod base32;
pub mod base_variables;
pub mod build_log;
pub mod build_logs;
pub mod builder_environment;
mod configuration_files;
pub mod derivation;
pub mod evaluation;
#[cfg(test)]
mod fake_nix;
mod file_identity;
pub mod installable;
mod log_text;
mod nix_program;
mod nix_store_command;
mod output_paths;
pub mod references_graph;
pub mod sandbox_paths;
pub mod settings;
pub(crate) mod settings_answer;
mod settings_cache;
pub mod store;
mod store_database;
mod store_path;
pub mod store_records;
pub(crate) mod structured_attributes;
mod surroundings;
pub mod tmpfs_size;

pub use self::build_log::BuildLog;
pub use self::derivation::package_name;
pub(crate) use self::log_text::as_shown;
pub use self::nix_program::version_of_nix;
pub use self::sandbox_paths::SandboxPath;
pub use self::settings::{SandboxMode, Settings};
pub use self::store_path::is_store_name;
pub use self::surroundings::usual_program_directories;
pub use self::tmpfs_size::TmpfsSize;
