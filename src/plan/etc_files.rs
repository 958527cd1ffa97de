//! The files that Nix puts into `/etc` of a build, to the byte.

use std::path::Path;

use super::{SANDBOX_GID, SANDBOX_UID};

/// Files of the host that a build finds in its `/etc` if it has the host's network, as far as the host has them.
const NETWORK_FILES: [&str; 3] = ["resolv.conf", "services", "hosts"];

/// A file directly below `/etc`.
pub(super) struct EtcFile {
    pub name: &'static str,
    pub content: String,
}

/// `/etc/group`, `/etc/passwd`, and `/etc/hosts` or, with the host's network, `/etc/nsswitch.conf`.
pub(super) fn written(build_directory: &Path, has_network: bool) -> [EtcFile; 3] {
    let home = build_directory.display();
    [
        EtcFile { name: "group", content: format!("root:x:0:\nnixbld:!:{SANDBOX_GID}:\nnogroup:x:65534:\n") },
        EtcFile {
            name: "passwd",
            content: format!(
                "root:x:0:0:Nix build user:{home}:/noshell\n\
                 nixbld:x:{SANDBOX_UID}:{SANDBOX_GID}:Nix build user:{home}:/noshell\n\
                 nobody:x:65534:65534:Nobody:/:/noshell\n"
            ),
        },
        if has_network {
            // Only these two ask servers; Nix knows of no other sources in a sandbox.
            EtcFile { name: "nsswitch.conf", content: "hosts: files dns\nservices: files\n".into() }
        } else {
            EtcFile { name: "hosts", content: "127.0.0.1 localhost\n::1 localhost\n".into() }
        },
    ]
}

/// The names of the host's files that a build with the host's network finds in `/etc`.
pub(super) fn of_host() -> impl Iterator<Item = &'static str> {
    NETWORK_FILES.into_iter().filter(|name| Path::new("/etc").join(name).exists())
}
