//! Tells the linker where the program begins: see `src/sandbox/head_start.rs`. The tests begin as every program does.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,--entry=nix_build_shell_start");
}
