//! The size of `/dev/shm`, as Nix's setting `sandbox-dev-shm-size` has it and the kernel wants it.

use std::fmt;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// A value of the mount option `size=` of [`tmpfs(5)`]: bytes, optionally with a suffix (`k`, `m`, `g`, …), or a percentage of the
/// machine's memory.
///
/// [`tmpfs(5)`]: https://man7.org/linux/man-pages/man5/tmpfs.5.html
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TmpfsSize(String);

impl TmpfsSize {
    /// Checks a value of `sandbox-dev-shm-size`. Nix hands it to the kernel as it is, and so do we.
    ///
    /// # Errors
    /// What no kernel takes, or would take for something else: anything but decimal digits and at most one suffix.
    pub fn parse(text: &str) -> Result<Self> {
        let number = text.strip_suffix(SUFFIXES).unwrap_or(text);
        // u64 alone would let a leading plus pass.
        if !number.bytes().all(|byte| byte.is_ascii_digit()) || number.parse::<u64>().is_err() {
            bail!("{text:?} is no size of a tmpfs: it has to be digits, with k, m, g or % behind them");
        }
        Ok(Self(text.to_owned()))
    }

    /// The value for `size=`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the kernel's `memparse` multiplies by, and the percent sign that tmpfs adds.
const SUFFIXES: [char; 13] = ['k', 'K', 'm', 'M', 'g', 'G', 't', 'T', 'p', 'P', 'e', 'E', '%'];

impl Default for TmpfsSize {
    /// Nix's default: half of the memory.
    fn default() -> Self {
        Self("50%".into())
    }
}

impl fmt::Display for TmpfsSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TmpfsSize {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<TmpfsSize> for String {
    fn from(size: TmpfsSize) -> Self {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_takes_stays_as_it_is() {
        for text in ["50%", "0", "1073741824", "64k", "64K", "512m", "2G", "1t"] {
            assert_eq!(TmpfsSize::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let too_large = "99999999999999999999";
        for text in ["", "%", "k", "50%%", "50k%", "-1", "+1", "0x10", "1.5g", "1g,mode=777", "50 %", "half", too_large]
        {
            let error = TmpfsSize::parse(text).unwrap_err().to_string();
            assert!(error.contains("no size of a tmpfs"), "{text}: {error}");
        }
    }
}
