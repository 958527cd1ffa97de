//! `nix-build-shell BUILD_DIR [COMMAND [ARG]...]`: see `--help`, or the README.

#![cfg_attr(target_env = "gnu", no_main)]

use std::env;
use std::process::exit;

use nix_build_shell::cli::{Invocation, say_error, show_usage};
use nix_build_shell::session::Interrupted;
use nix_build_shell::{Allocator, prepare_process};

/// Exit status of our own errors, out of the way of a command's; `env(1)`, `timeout(1)` and `docker run` do the same.
const OWN_ERROR: u8 = 125;

/// Without memory there is one sentence, too.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Where the C library begins us. Of others than GNU's the standard library does not learn the arguments unless it is there first.
#[cfg(target_env = "gnu")]
#[unsafe(no_mangle)]
extern "C" fn main() -> std::ffi::c_int {
    // What was printed is written out by this, as after a `main` of Rust's.
    exit(run().into())
}

#[cfg(not(target_env = "gnu"))]
fn main() {
    exit(run().into())
}

fn run() -> u8 {
    if let Err(errno) = prepare_process() {
        return report(&anyhow::Error::new(errno).context("cannot prepare standard input, output and error"));
    }
    let arguments: Vec<_> = env::args_os().collect();
    match Invocation::of_command_line(&arguments) {
        Ok((invocation, ahead)) => invocation.run(ahead).unwrap_or_else(|error| report(&error)),
        Err(usage) if show_usage(&usage) => OWN_ERROR,
        Err(_) => 0,
    }
}

fn report(error: &anyhow::Error) -> u8 {
    say_error(error);
    match error.downcast_ref() {
        Some(Interrupted(signal)) => 128 + signal.as_raw() as u8,
        None => OWN_ERROR,
    }
}
