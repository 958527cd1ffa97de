//! Where a build writes its outputs, and the placeholders that stand for them in its derivation.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use sha2::{Digest, Sha256};

use super::base32;
use super::derivation::{Derivation, Output};

/// A slash and the 52 digits of a SHA-256.
const PLACEHOLDER_LENGTH: usize = 53;

/// Where the build writes each output, by name. A path that only the content tells is replaced by the one that Nix makes up for
/// the time of the build, of the derivation's path and the output's name. (For an `__impure` derivation Nix draws a path at random,
/// another at each build; here it gets one in the same way as the others.)
///
/// # Errors
/// Outputs whose paths depend on inputs that are not built: Nix builds another derivation in place of this one then.
pub(super) fn paths_in_build(derivation: &Derivation, store: &Path) -> Result<BTreeMap<Vec<u8>, PathBuf>> {
    let path = |(name, output): (&Vec<u8>, &Output)| {
        let path = match &output.path {
            Some(path) => path.clone(),
            None if output.hash_algorithm.is_empty() => bail!(
                "{} is not what Nix built: the path of its output {} depends on the content of its inputs, so Nix made another \
                 derivation of the same name when they were built; give that one",
                derivation.path.display(),
                name.escape_ascii()
            ),
            None => made_up_path(derivation, store, name)?,
        };
        Ok((name.clone(), path))
    };
    derivation.outputs.iter().map(path).collect()
}

/// `makeFallbackPath` of Nix: a store path that nothing else has.
fn made_up_path(derivation: &Derivation, store: &Path, output: &[u8]) -> Result<PathBuf> {
    let file_name =
        derivation.path.file_name().ok_or_else(|| anyhow!("{} has no name", derivation.path.display()))?.as_bytes();
    let suffix = if output == b"out" { [b"", &b""[..]] } else { [b"-", output] };
    let name = [derivation.name(), &suffix.concat()].concat();
    let no_hash = "0".repeat(64);
    let parts =
        [b"rewrite", file_name, b"name", output, b"sha256", no_hash.as_bytes(), store.as_os_str().as_bytes(), &name];
    let fingerprint = Sha256::digest(parts.join(&b':'));
    let mut hash = [0; 20];
    for (index, byte) in fingerprint.iter().enumerate() {
        hash[index % 20] ^= byte;
    }
    let mut path = store.join(base32::encode(&hash)).into_os_string();
    path.push("-");
    path.push(OsStr::from_bytes(&name));
    Ok(path.into())
}

/// What stands for outputs in a derivation, since their paths depend on all that it says (`builtins.placeholder`).
pub(super) struct Placeholders<'a>(BTreeMap<Vec<u8>, &'a Path>);

impl<'a> Placeholders<'a> {
    /// Those of the outputs in `paths`.
    pub fn of(paths: &'a BTreeMap<Vec<u8>, PathBuf>) -> Self {
        Self(paths.iter().map(|(name, path)| (placeholder(name).into_bytes(), path.as_path())).collect())
    }

    /// `text` with the paths of the outputs in place of the placeholders; those of other outputs stay, as with Nix.
    pub fn replaced_in(&self, text: &[u8]) -> Vec<u8> {
        let mut replaced = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(slash) = rest.iter().position(|byte| *byte == b'/') {
            replaced.extend_from_slice(&rest[..slash]);
            rest = &rest[slash..];
            let path = rest.get(..PLACEHOLDER_LENGTH).and_then(|candidate| self.0.get(candidate));
            let length = if let Some(path) = path {
                replaced.extend_from_slice(path.as_os_str().as_bytes());
                PLACEHOLDER_LENGTH
            } else {
                replaced.push(b'/');
                1
            };
            rest = &rest[length..];
        }
        replaced.extend_from_slice(rest);
        replaced
    }
}

fn placeholder(output: &[u8]) -> String {
    let hash = Sha256::digest([b"nix-output:", output].concat());
    format!("/{}", base32::encode(&hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As «nix-instantiate --eval -E 'builtins.placeholder "out"'» prints it.
    const OUT: &str = "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9";

    fn replaced(text: &str) -> String {
        let paths = BTreeMap::from([(b"out".to_vec(), PathBuf::from("/nix/store/o"))]);
        String::from_utf8(Placeholders::of(&paths).replaced_in(text.as_bytes())).unwrap()
    }

    #[test]
    fn placeholders_become_paths_wherever_they_stand() {
        assert_eq!(placeholder(b"out"), OUT);
        assert_eq!(replaced(OUT), "/nix/store/o");
        assert_eq!(
            replaced(&format!("-I{OUT}/include:/{OUT}{OUT}/")),
            "-I/nix/store/o/include://nix/store/o/nix/store/o/"
        );
    }

    #[test]
    fn what_is_no_placeholder_stays() {
        let other = placeholder(b"dev");
        for text in ["", "/", "//", "/usr/bin", &OUT[1..], &OUT[..52], &other, &"é/".repeat(60)] {
            assert_eq!(replaced(text), text);
        }
    }

    #[test]
    fn outputs_that_wait_for_inputs_are_refused() {
        let text = br#"Derive([("out","","","")],[],[],"x86_64-linux","/b",[],[])"#;
        let path = "/nix/store/4givwlbr4gah9ibn89gly939cjg8q5q1-hello.drv";
        let derivation = Derivation::parse(path.as_ref(), text).unwrap();
        let message = paths_in_build(&derivation, "/nix/store".as_ref()).unwrap_err().to_string();
        assert!(message.contains("is not what Nix built"), "{message}");
    }
}
