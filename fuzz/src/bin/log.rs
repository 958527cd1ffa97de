#![no_main]

use libfuzzer_sys::fuzz_target;
use nix_build_shell_fuzz as _;

fuzz_target!(|text: &[u8]| nix_build_shell::fuzzing::log(text));
