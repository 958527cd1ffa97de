//! `nix-build-shell BUILD_DIR [COMMAND [ARG]...]`: see `--help`, or the README.

use std::env;
use std::process::ExitCode;

use nix_build_shell::Allocator;
use nix_build_shell::cli::{Invocation, say_error, show_usage};
use nix_build_shell::session::Interrupted;

/// Exit status of our own errors, out of the way of a command's; `env(1)`, `timeout(1)` and `docker run` do the same.
const OWN_ERROR: u8 = 125;

/// Without memory there is one sentence, too.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().collect();
    let status = match Invocation::of_command_line(&arguments) {
        Ok((invocation, ahead)) => invocation.run(ahead).unwrap_or_else(|error| report(&error)),
        Err(usage) => {
            if show_usage(&usage) {
                OWN_ERROR
            } else {
                0
            }
        }
    };
    ExitCode::from(status)
}

fn report(error: &anyhow::Error) -> u8 {
    say_error(error);
    match error.downcast_ref() {
        Some(Interrupted(signal)) => 128 + signal.as_raw() as u8,
        None => OWN_ERROR,
    }
}
