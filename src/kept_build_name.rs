//! What Nix calls the directories that it builds in, and keeps.

use std::path::Path;

use crate::nix::derivation::derivation_name;

/// The name of a build directory, as Nix has given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptBuildName {
    /// `nix-build-NAME.drv-N`, as Nix before 2.30 and Lix call it: the derivation's name, without `.drv`.
    Derivation(String),
    /// `nix-PID-NUMBER`, as Nix 2.30 and later call it, which names no derivation.
    Number,
}

impl KeptBuildName {
    /// Understands a file's name; `None` for one that Nix gives to no build directory.
    pub fn parse(name: &str) -> Option<Self> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let named = name.strip_prefix("nix-build-").and_then(|rest| rest.rsplit_once(".drv-"));
        if let Some((derivation, number)) = named {
            return (is_number(number) && !derivation.is_empty()).then(|| Self::Derivation(derivation.to_owned()));
        }
        let (process, number) = name.strip_prefix("nix-")?.split_once('-')?;
        (is_number(process) && is_number(number)).then_some(Self::Number)
    }

    /// What versions that name the derivation call a directory of this one; `None` for what is no derivation.
    pub fn of_derivation(derivation: &Path) -> Option<Self> {
        let name = str::from_utf8(derivation_name(derivation)?).ok()?;
        Some(Self::Derivation(name.to_owned()))
    }

    /// The name of the derivation, without `.drv`.
    pub fn derivation(&self) -> Option<&str> {
        match self {
            Self::Derivation(name) => Some(name),
            Self::Number => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_all_versions_are_known_and_no_others() {
        let derivation = |name: &str| Some(KeptBuildName::Derivation(name.into()));
        assert_eq!(KeptBuildName::parse("nix-build-hello-2.12.drv-0"), derivation("hello-2.12"));
        assert_eq!(KeptBuildName::parse("nix-build-a.drv-1.drv-12"), derivation("a.drv-1"));
        assert_eq!(KeptBuildName::parse("nix-3120-2884134157"), Some(KeptBuildName::Number));
        for other in ["nix-build-x.drv", "nix-build-x.drv-", "nix-build-.drv-0", "nix-build-x.drv-0a", "nix-shell-1"] {
            assert_eq!(KeptBuildName::parse(other), None, "{other}");
        }
        for other in ["", "nix-", "nix--1", "nix-1-", "nix-1-x", "nix-shell.Ab1", "build", "nix-12", "nix-1-2-3"] {
            assert_eq!(KeptBuildName::parse(other), None, "{other}");
        }
    }
}
