//! Paths of the host that the sandbox has: Nix's own, the derivation's, and the caller's.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Wishes;
use crate::nix::derivation::Derivation;
use crate::nix::sandbox_paths::impure_host_deps;
use crate::nix::{SandboxPath, Settings};

/// Where Nix shows the certificates of `ssl-cert-file` to a build that has the network.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A path of the host in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPath {
    /// Where it is, here and there.
    pub path: SandboxPath,
    /// Whether it can be written to.
    pub access: HostAccess,
}

/// Whether a build can write to a path of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAccess {
    /// As Nix lets it: where the builder owns it.
    AsWithNix,
    /// It cannot.
    ReadOnly,
    /// As the caller can.
    Writable,
}

/// Nix's own sandbox paths, then the caller's.
pub(super) fn host_paths(
    settings: &Settings,
    wishes: &Wishes,
    derivation: Option<&Derivation>,
    has_network: bool,
) -> Result<Vec<HostPath>> {
    let requested = derivation.and_then(|derivation| derivation.variable("__impureHostDeps")).unwrap_or_default();
    let requested = String::from_utf8_lossy(requested);
    let of_derivation = impure_host_deps(requested.split_ascii_whitespace(), &settings.allowed_impure_host_deps)?;
    let certificates = settings.ssl_cert_file.iter().filter(|_| has_network).map(|file| SandboxPath {
        target: CERTIFICATES.into(),
        // A link would lead to nothing.
        source: file.canonicalize().unwrap_or(file.clone()),
        optional: true,
    });
    let of_nix = certificates.chain(settings.sandbox_paths.iter().cloned()).chain(of_derivation);
    let all = [
        (of_nix.collect::<Vec<_>>(), HostAccess::AsWithNix),
        (wishes.bind.clone(), HostAccess::ReadOnly),
        (wishes.bind_writable.clone(), HostAccess::Writable),
    ];
    // As for Nix, the last of equal targets counts.
    let mut by_target = BTreeMap::new();
    for (paths, access) in all {
        by_target.extend(paths.into_iter().map(|path| (path.target.clone(), HostPath { path, access })));
    }
    Ok(by_target.into_values().collect())
}
