//! The variables that every builder gets, whatever its derivation.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The variables that Nix gives to every builder, as names and values, in the order in which Nix sets them. `NIX_BUILD_CORES`,
/// which depends on a setting, is not among them.
#[derive(Clone, Copy, Debug)]
pub struct BaseVariables<'a> {
    /// A derivation's own variables replace them.
    pub defaults: [(&'static str, &'a [u8]); 3],
    /// They replace a derivation's own, and `impureEnvVars` may name them.
    pub of_build_directory: [(&'static str, &'a [u8]); 6],
    /// They replace everything.
    pub of_output: [(&'static str, &'a [u8]); 2],
}

impl<'a> BaseVariables<'a> {
    /// Those of a build that sees its store and its build directory by these names.
    pub fn of(store: &'a Path, build_directory: &'a Path) -> Self {
        let top = build_directory.as_os_str().as_bytes();
        Self {
            defaults: [
                ("PATH", b"/path-not-set"),
                ("HOME", b"/homeless-shelter"),
                ("NIX_STORE", store.as_os_str().as_bytes()),
            ],
            of_build_directory: ["NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"].map(|name| (name, top)),
            of_output: [("NIX_LOG_FD", b"2"), ("TERM", b"xterm-256color")],
        }
    }

    /// All of them, as an environment: what a shell starts with that reads the derivation's own from `env-vars`.
    pub fn all(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let all = self.defaults.into_iter().chain(self.of_build_directory).chain(self.of_output);
        all.map(|(name, value)| (name.into(), value.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_in_the_order_in_which_nix_sets_them() {
        let all = BaseVariables::of("/gnu/store".as_ref(), "/top".as_ref()).all();
        let lines = all.iter().map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()));
        let expected = "PATH=/path-not-set HOME=/homeless-shelter NIX_STORE=/gnu/store NIX_BUILD_TOP=/top TMPDIR=/top \
                        TEMPDIR=/top TMP=/top TEMP=/top PWD=/top NIX_LOG_FD=2 TERM=xterm-256color";
        assert_eq!(lines.collect::<Vec<_>>().join(" "), expected);
    }
}
