//! What a session is called.

use std::fmt;
use std::str::FromStr;

/// More than anybody wants to type.
const LONGEST: usize = 100;

/// A name that is safe to print, and the name of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionName(String);

impl SessionName {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
        let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if text.len() > LONGEST {
            return Err("the name of a session has up to 100 characters");
        }
        if !starts_well || !text.bytes().all(is_plain) {
            return Err("the name of a session starts with a letter or a digit, and has only those and +-._ in it");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word_of_plain_characters() {
        for name in ["fix", "hello-2.12", "x_1+2", "9", &"n".repeat(100)] {
            assert_eq!(name.parse::<SessionName>().unwrap().as_str(), name);
        }
        for name in ["", ".", "..", ".fix", "-fix", "a/b", "../a", "a b", "a\n", "ä", "a\0", &"n".repeat(101)] {
            assert!(name.parse::<SessionName>().is_err(), "{name:?}");
        }
    }
}
