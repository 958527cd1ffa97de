#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: nix_build_shell_fuzz::tell_at_exit(),
    |text: &[u8]| nix_build_shell::fuzzing::log(text)
);
