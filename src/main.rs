//! `nix-build-shell BUILD_DIR [COMMAND [ARG]...]`: see `--help`, or the README.

#![no_main]

use std::env;
use std::ffi::c_int;
use std::process::exit;

use nix_build_shell::cli::{Invocation, say_error, show_usage};
use nix_build_shell::session::Interrupted;
use nix_build_shell::{Allocator, prepare_process};

/// Exit status of our own errors, out of the way of a command's; `env(1)`, `timeout(1)` and `docker run` do the same.
const OWN_ERROR: u8 = 125;

/// Without memory there is one sentence, too.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Where the C library begins us.
#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    // What was printed is written out by this, as after a `main` of Rust's.
    exit(run().into())
}

fn run() -> u8 {
    if let Err(errno) = prepare_process() {
        return report(&anyhow::Error::new(errno).context("cannot open /dev/null in place of a standard descriptor"));
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
