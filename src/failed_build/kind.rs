//! Whose Nix made a build.

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use crate::kept_build::KeptBuild;
use crate::nix::Settings;
use crate::nix::store::Store;
use crate::owner::is_build_user;

/// The two kinds of Nix, whose sandboxes differ in what belongs to the builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum Kind {
    /// Builds run as users of their own: what Nix has made for them is not theirs to write
    MultiUser,
    /// Builds run as the owner of the store
    SingleUser,
}

/// What the owner of the kept directory tells; without one, whether this machine's Nix builds as other users.
pub(super) fn kind_of(kept: Option<&KeptBuild>, settings: &Settings, store: &Store) -> Kind {
    let is_multi_user = match kept.map(|kept| fstat(&kept.handle)) {
        Some(Ok(status)) => is_build_user(status.st_uid, &settings.build_users_group),
        _ => store.state_directory().join("daemon-socket/socket").exists(),
    };
    if is_multi_user { Kind::MultiUser } else { Kind::SingleUser }
}
