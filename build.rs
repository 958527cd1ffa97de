//! Tells the linker where the program begins: see `src/sandbox/head_start.rs`. Tests of the library begin as every program does, and so
//! does what is built without optimisation: there the compiler calls the C library's `memcpy` for next to nothing, which cannot be
//! called yet.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("OPT_LEVEL").is_ok_and(|level| level != "0") {
        println!("cargo:rustc-link-arg-bins=-Wl,--entry=nix_build_shell_start");
    }
}
