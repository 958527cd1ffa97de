//! The sandbox of a failed Nix build, opened again.
//!
//! [`kept_build`] reads what the build left and [`nix`] what Nix knows of it, [`failed_build`] puts both together, [`scratch`] makes
//! a writable copy, [`plan`] holds the whole sandbox as data, [`sandbox`] starts it, and [`session`] lives with it. [`session_patch`]
//! saves what was changed in it. Data flows in this direction only. `src/main.rs`
//! is the same story in the program's own words.

pub mod additions;
pub mod build_command;
pub mod build_progress;
pub mod build_shell;
pub mod caller;
pub mod cli;
mod descriptor_limit;
mod disk_usage;
pub mod env_vars;
pub mod failed_build;
pub mod failed_log;
pub mod failed_phase;
mod file_times;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod history;
pub mod kept_build;
pub mod kept_build_name;
pub mod kept_builds;
pub mod kept_session;
pub mod limits;
pub mod machine;
pub mod made_outputs;
pub mod nix;
mod os_text;
mod owner;
pub mod phases;
pub mod plan;
mod process_start;
mod quiet_open;
mod record;
pub mod sandbox;
pub mod scratch;
pub mod session;
pub mod session_patch;
pub mod session_shell;
pub mod shell_script;
pub mod start_of_phase;
pub mod state_directory;
mod sys;

pub use self::process_start::prepare_process;
pub use self::sys::Allocator;
