//! What a store path is called: `HASH-NAME`, directly in the store directory.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How many characters of Nix's base 32 the hash has.
const HASH_LENGTH: usize = 32;
/// Nix's limit for what follows the hash and its dash.
const NAME_LENGTH_LIMIT: usize = 211;

/// Whether a file name can be that of a store path: 32 characters of Nix's base 32, a dash, and a name of at most 211 harmless
/// characters that is not `.` or `..` and does not begin with one of them and a dash, as Nix's [manual] has it.
///
/// [manual]: https://nix.dev/manual/nix/latest/protocols/store-path
pub fn is_store_name(name: &[u8]) -> bool {
    name.split_at_checked(HASH_LENGTH + 1).is_some_and(|(hash, name)| {
        hash.strip_suffix(b"-").is_some_and(|hash| hash.iter().copied().all(is_base_32))
            && (1..=NAME_LENGTH_LIMIT).contains(&name.len())
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte))
            && !matches!(name, b"." | b"..")
            && !name.starts_with(b".-")
            && !name.starts_with(b"..-")
    })
}

/// The digits and the small letters, but for `e`, `o`, `t` and `u`.
fn is_base_32(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'd' | b'f'..=b'n' | b'p'..=b's' | b'v'..=b'z')
}

/// Whether `path` is a store path of the store directory `directory`, and not a file in one.
pub(super) fn is_store_path(directory: &Path, path: &Path) -> bool {
    let directory = directory.as_os_str().as_bytes();
    let below = path.as_os_str().as_bytes().strip_prefix(directory).and_then(|rest| rest.strip_prefix(b"/"));
    below.is_some_and(is_store_name)
}

/// What follows the hash and the dash in a store path's last component; for a derivation `NAME.drv`.
pub(super) fn name_without_hash(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.get(HASH_LENGTH + 1..)
}

/// How many bytes of a path in the store directory `directory` come before what follows the hash and the dash.
pub(super) fn length_before_name(directory: &Path) -> usize {
    directory.as_os_str().len() + 1 + HASH_LENGTH + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    fn is_valid(name: &str) -> bool {
        is_store_name(format!("{HASH}-{name}").as_bytes())
    }

    #[test]
    fn a_store_name_is_a_hash_a_dash_and_a_name() {
        assert!(is_valid("hello-2.12.drv"));
        assert!(is_valid("x+-._?=Y") && is_valid(".hidden") && is_valid("...") && is_valid("..x-"));
        for name in ["", "a b", "a/b", "ä", "a'b", "$(x)", ".", "..", ".-x", "..-x", "a\0"] {
            assert!(!is_valid(name), "{name:?}");
        }
        for whole in ["", "-", HASH, &HASH[1..], "0123456789abcdfghijklmnpqrsvwxyz_hello"] {
            assert!(!is_store_name(whole.as_bytes()), "{whole:?}");
        }
    }

    #[test]
    fn the_hash_is_of_nix_s_base_32() {
        for letter in "eoutA-.é".chars() {
            let name = format!("{letter}{}-hello", &HASH[letter.len_utf8()..]);
            assert!(!is_store_name(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_name_has_211_characters_at_most() {
        assert!(is_valid(&"x".repeat(211)));
        assert!(!is_valid(&"x".repeat(212)));
    }

    #[test]
    fn a_store_path_is_directly_in_the_store_directory() {
        let store = Path::new("/nix/store");
        let named = |prefix: &str| format!("{prefix}{HASH}-hello");
        assert!(is_store_path(store, Path::new(&named("/nix/store/"))));
        for path in ["/nix/store/x/", "/nix/store/../", "/nix/storex/", "/nix/store", ""].map(named) {
            assert!(!is_store_path(store, Path::new(&path)), "{path}");
        }
        assert!(!is_store_path(store, Path::new(&format!("/nix/store/{HASH}-hello/bin"))));
    }
}
