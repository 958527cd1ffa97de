//! What Nix knows of a build: its derivation.

mod aterm;
pub mod derivation;
