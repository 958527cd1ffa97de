//! What Nix knows of a build: its derivation, and the process that Nix makes of it.

mod aterm;
mod base32;
pub mod builder_environment;
pub mod derivation;
mod output_paths;
mod structured_attributes;
