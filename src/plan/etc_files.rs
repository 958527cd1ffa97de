//! The three files that Nix puts into `/etc` of a build without network, to the byte.

use super::{SANDBOX_GID, SANDBOX_UID};
use crate::kept_build::BUILD_DIR;

/// A file directly below `/etc`.
pub(super) struct EtcFile {
    pub name: &'static str,
    pub content: String,
}

/// `/etc/group`, `/etc/passwd` and `/etc/hosts`.
pub(super) fn all() -> [EtcFile; 3] {
    [
        EtcFile { name: "group", content: format!("root:x:0:\nnixbld:!:{SANDBOX_GID}:\nnogroup:x:65534:\n") },
        EtcFile {
            name: "passwd",
            content: format!(
                "root:x:0:0:Nix build user:{BUILD_DIR}:/noshell\n\
                 nixbld:x:{SANDBOX_UID}:{SANDBOX_GID}:Nix build user:{BUILD_DIR}:/noshell\n\
                 nobody:x:65534:65534:Nobody:/:/noshell\n"
            ),
        },
        EtcFile { name: "hosts", content: "127.0.0.1 localhost\n::1 localhost\n".into() },
    ]
}
