//! Lets the linker put the functions of a start side by side: see `link/start-up.ld`.

use std::env;
use std::path::Path;

const ORDER: &str = "link/start-up.ld";
/// Set to 0 it leaves them where they are, for a linker that takes no script and is not known here.
const WISH: &str = "NIX_BUILD_SHELL_LINK_ORDER";
/// They take no script, or none that adds to their own; GNU ld and lld do.
const WITHOUT_SCRIPTS: [&str; 3] = ["gold", "mold", "wild"];
/// Where one may be named: by a flag for the compiler or of Nix's wrapper, by its own name, or by what it sets as it replaces another.
const NAMED_IN: [&str; 4] = ["CARGO_ENCODED_RUSTFLAGS", "NIX_CFLAGS_LINK", "RUSTC_LINKER", "MOLD_PATH"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={WISH}");
    let given = |name: &str| env::var(name).unwrap_or_default();
    if given("PROFILE") != "release" || given("CARGO_CFG_TARGET_OS") != "linux" || given(WISH) == "0" {
        return;
    }
    println!("cargo::rerun-if-changed={ORDER}");
    let is_named = |linker: &&str| NAMED_IN.iter().any(|name| given(name).contains(*linker));
    if !WITHOUT_SCRIPTS.iter().any(is_named) {
        println!("cargo::rustc-link-arg-bins=-T{}", Path::new(&given("CARGO_MANIFEST_DIR")).join(ORDER).display());
    }
}
