//! What is begun before the command line is understood.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;

use crate::caller::Caller;
use crate::plan::Namespaces;
use crate::sandbox::Groundwork;

/// A sandbox in the making, or why there can be none: that is told when nothing else is wrong.
pub type Ahead = Result<Groundwork>;

/// What a start that makes no sandbox, or another than most, has in its command line.
const OTHERWISE: [&str; 7] =
    ["--attr", "--dry-run", "--generate", "--help", "--keep-session", "--network", "--version"];
/// The same in one letter.
const OTHERWISE_SHORT: &[u8] = b"AVh";

/// Begins to make the namespaces of a sandbox, if `arguments` are surely those of a start that needs them: to read them takes as long as a
/// third of the kernel's work. Root begins when all is read, since he drops his supplementary groups for it.
pub(super) fn begin_ahead(arguments: &[OsString]) -> Option<Ahead> {
    let caller = Caller::current();
    let begins = caller.is_ordinary_user() && surely_enters(arguments);
    begins.then(|| Groundwork::begin(Namespaces::all(), &caller))
}

/// Whether somebody wants a command, or a shell, in the sandbox of a build whose path he gives. What looks otherwise may be so as well: then
/// nothing is begun ahead.
fn surely_enters(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1).map(|word| word.as_bytes());
    let is_otherwise = |word: &[u8]| match word {
        [b'-', b'-', ..] => OTHERWISE.iter().any(|option| word.starts_with(option.as_bytes())),
        [b'-', letters @ ..] => letters.iter().any(|letter| OTHERWISE_SHORT.contains(letter)),
        _ => false,
    };
    let is_path = |word: &[u8]| word.contains(&b'/') && !word.starts_with(b"-");
    // A subcommand stands first.
    words.clone().next().is_some_and(|first| first.starts_with(b"-") || is_path(first))
        && words.clone().any(is_path)
        && !words.any(is_otherwise)
}

#[cfg(test)]
mod tests {
    use super::super::Invocation;
    use super::*;

    #[test]
    fn whatever_is_begun_ahead_is_needed() {
        for (line, expected) in [
            ("/tmp/nix-build-x-0 make", true),
            ("./result", true),
            ("-v --store=full /tmp/nix-build-x-0", true),
            ("--store-root /root --as-pid-1 /tmp/nix-build-x-0 true", true),
            ("-c make /tmp/nix-build-x-0", true),
            ("--no-network /tmp/nix-build-x-0 ls -l", true),
            ("--fresh --with nixpkgs#strace /nix/store/x.drv", true),
            ("", false),
            ("nix-build-x-0 cat /etc/passwd", false),
            ("resume /tmp/nix-build-x-0", false),
            ("build -- nix-build ./x.nix", false),
            ("-v x", false),
            ("--store=/x x", false),
            ("--dry-run /tmp/nix-build-x-0 make", false),
            ("--network /tmp/nix-build-x-0 make", false),
            ("--keep-session x /tmp/nix-build-x-0", false),
            ("--keep-session=x /tmp/nix-build-x-0", false),
            ("-A hello ./x.nix", false),
            ("-Ahello ./x.nix", false),
            ("--attr=hello ./x.nix", false),
            ("/tmp/nix-build-x-0 --help", false),
            ("-vh /tmp/nix-build-x-0", false),
            ("-V /tmp/nix-build-x-0", false),
            ("--generate man /tmp/x", false),
        ] {
            let words: Vec<_> =
                ["nix-build-shell"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
            assert_eq!(surely_enters(&words), expected, "{line}");
            if expected {
                let Ok(Invocation::Enter(options)) = Invocation::from_arguments(&words) else { panic!("{line}") };
                assert!(
                    options.makes_ordinary_sandbox() && options.sandbox.namespaces() == Namespaces::all(),
                    "{line}"
                );
            }
        }
    }
}
