//! A derivation: what Nix builds, from what, with which program and which environment.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use serde_json::{Map, Value};

use super::aterm;
use super::is_store_name;
use crate::quiet_open::{Unsuitable, read_quietly};

/// Far more than Nix can build: what a derivation passes to its builder has to fit into an environment, or a file or two.
const SIZE_LIMIT: u64 = 100 << 20;
/// The variable that holds the attributes of a derivation with `__structuredAttrs`, as JSON.
const JSON: &[u8] = b"__json";

/// A derivation as the file `HASH-NAME.drv` in the store has it. Names and values are bytes, since neither Nix nor the kernel asks for an
/// encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// Where it is in the store.
    pub path: PathBuf,
    /// What it makes, by name; the most common name is `out`.
    pub outputs: BTreeMap<Vec<u8>, Output>,
    /// The derivations whose outputs it needs, and which outputs of each.
    pub input_derivations: BTreeMap<PathBuf, WantedOutputs>,
    /// The store paths it needs that no derivation makes: sources, and scripts that were written at evaluation.
    pub input_sources: BTreeSet<PathBuf>,
    /// The kind of machine that can build it, such as `x86_64-linux`.
    pub system: Vec<u8>,
    /// The program that builds it, or `builtin:` and a name.
    pub builder: Vec<u8>,
    /// What the builder is given, without its own name in front.
    pub arguments: Vec<Vec<u8>>,
    /// The variables that were written down; see [`BuilderEnvironment`](super::builder_environment::BuilderEnvironment) for those
    /// that the builder gets.
    pub environment: BTreeMap<Vec<u8>, Vec<u8>>,
    structured_attributes: Option<Map<String, Value>>,
}

/// One output of a derivation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The store path; `None` where only the content will tell it (`__contentAddressed`, `__impure`), or where that is so of an
    /// input.
    pub path: Option<PathBuf>,
    /// What the content is addressed with, such as `sha256` or `r:sha256`; empty where the path comes from the inputs.
    pub hash_algorithm: Vec<u8>,
    /// The hash in base 16 that the content must have; empty where it may be any, and `impure` where it may change.
    pub hash: Vec<u8>,
}

/// The outputs of an input derivation that are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedOutputs {
    /// The names of these outputs.
    pub names: BTreeSet<Vec<u8>>,
    /// Of outputs that are derivations themselves (`dynamic-derivations`): what is needed of those.
    pub of_outputs: BTreeMap<Vec<u8>, WantedOutputs>,
}

impl Derivation {
    /// Reads the derivation `path`, a file `HASH-NAME.drv` in a store.
    ///
    /// # Errors
    /// A file that is not there, cannot be read, is larger than 100 MiB, or is no derivation, each in a sentence that names it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_quietly(CWD, path, OFlags::empty(), SIZE_LIMIT).map_err(|reason| match reason {
            Unsuitable::Closed(Errno::NOENT) => anyhow!(
                "there is no derivation {} (any more): what made it, such as «nix-instantiate», makes it again",
                path.display()
            ),
            Unsuitable::Closed(other) => anyhow!("cannot open the derivation {}: {other}", path.display()),
            Unsuitable::Irregular => anyhow!("{} is not a regular file, so it is no derivation", path.display()),
            Unsuitable::TooLarge(size) => anyhow!(
                "{} has {} MiB, and no derivation has more than {} MiB",
                path.display(),
                size >> 20,
                SIZE_LIMIT >> 20
            ),
            Unsuitable::Unreadable(error) => anyhow!("cannot read {}: {error}", path.display()),
        })?;
        Self::parse(path, &text)
    }

    /// Reads the text of a derivation that is at `path` in the store: `Derive(…)`, or `DrvWithVersion("xp-dyn-drv",…)`.
    ///
    /// # Errors
    /// A path that is not a derivation's, text of another form, or structured attributes that are no JSON object.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self> {
        if derivation_name(path).is_none() {
            bail!("{} does not have the name of a derivation, which is HASH-NAME.drv", path.display());
        }
        let text = aterm::parse(text).map_err(|reason| anyhow!("{} {reason}", path.display()))?;
        let structured_attributes = match text.environment.get(JSON) {
            Some(json) => Some(serde_json::from_slice(json).map_err(|reason| {
                anyhow!("{} has structured attributes (__json) that are no JSON object: {reason}", path.display())
            })?),
            None => None,
        };
        Ok(Self {
            path: path.to_owned(),
            outputs: text.outputs,
            input_derivations: text.input_derivations,
            input_sources: text.input_sources.into_iter().collect(),
            system: text.system,
            builder: text.builder,
            arguments: text.arguments,
            environment: text.environment,
            structured_attributes,
        })
    }

    /// The name: that of the file without the hash in front and `.drv` behind.
    pub fn name(&self) -> &[u8] {
        derivation_name(&self.path).unwrap_or_default()
    }

    /// The name without the version: see [`package_name`].
    pub fn package_name(&self) -> &[u8] {
        package_name(self.name())
    }

    /// Whether the content of the output is known beforehand, as of a download: Nix builds it with the network.
    pub fn is_fixed_output(&self) -> bool {
        self.outputs.values().any(|output| !output.hash.is_empty() && output.hash != b"impure")
    }

    /// Whether it is built anew each time (`__impure`), with the network.
    pub fn is_impure(&self) -> bool {
        self.outputs.values().any(|output| output.hash == b"impure")
    }

    /// Whether the builder finds its attributes in files (`__structuredAttrs`), and not in its environment.
    pub fn has_structured_attributes(&self) -> bool {
        self.structured_attributes.is_some()
    }

    /// The attributes of a derivation with `__structuredAttrs`, as they were written down.
    pub fn structured_attributes(&self) -> Option<&Map<String, Value>> {
        self.structured_attributes.as_ref()
    }

    /// The store paths of the outputs that are known beforehand, with their names.
    pub fn output_paths(&self) -> impl Iterator<Item = (&[u8], &Path)> {
        self.outputs.iter().filter_map(|(name, output)| Some((name.as_slice(), output.path.as_deref()?)))
    }

    /// The value of a variable as it was written down, placeholders included.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        self.environment.get(name.as_bytes()).map(Vec::as_slice)
    }

    /// The standard environment that it is built with: `stdenv`, from the structured attributes if it has them.
    pub fn stdenv(&self) -> Option<&[u8]> {
        match &self.structured_attributes {
            Some(attributes) => attributes.get("stdenv")?.as_str().map(str::as_bytes),
            None => self.variable("stdenv"),
        }
    }

    /// Whether Nix builds it by itself, as with `builtin:fetchurl`: there is no process to look at.
    pub fn is_builtin(&self) -> bool {
        self.builder.starts_with(b"builtin:")
    }
}

/// The name without the version, which for Nix begins behind the first dash that no letter follows: `hello` for `hello-2.12`.
pub fn package_name(name: &[u8]) -> &[u8] {
    let begins_version = |pair: &[u8]| pair[0] == b'-' && !pair[1].is_ascii_alphabetic();
    name.windows(2).position(begins_version).map_or(name, |dash| &name[..dash])
}

/// `NAME` of a path `…/HASH-NAME.drv`.
pub fn derivation_name(path: &Path) -> Option<&[u8]> {
    let file_name = path.file_name()?.as_bytes();
    let name = file_name.get(33..)?.strip_suffix(b".drv")?;
    (is_store_name(file_name) && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    const PATH: &str = "/nix/store/4givwlbr4gah9ibn89gly939cjg8q5q1-hello-1.0.drv";

    fn derivation(outputs: &str, builder: &str, environment: &str) -> Result<Derivation> {
        let text = format!(r#"Derive([{outputs}],[],[],"x86_64-linux","{builder}",[],[{environment}])"#);
        Derivation::parse(PATH.as_ref(), text.as_bytes())
    }

    #[test]
    fn name_is_between_hash_and_suffix() {
        assert_eq!(derivation("", "", "").unwrap().name(), b"hello-1.0");
        for path in ["/tmp/hello.drv", "/nix/store/4givwlbr4gah9ibn89gly939cjg8q5q1-.drv", &PATH[..PATH.len() - 4], "/"]
        {
            let message = Derivation::parse(path.as_ref(), b"").unwrap_err().to_string();
            assert!(message.contains("HASH-NAME.drv"), "{message}");
        }
    }

    #[test]
    fn kinds_are_told_by_the_hashes_of_the_outputs() {
        let kind = |output| {
            let derivation = derivation(output, "", "").unwrap();
            let known = derivation.output_paths().count() == 1;
            (derivation.is_fixed_output(), derivation.is_impure(), known)
        };
        assert_eq!(kind(r#"("out","/nix/store/o","","")"#), (false, false, true));
        assert_eq!(kind(r#"("out","/nix/store/o","sha256","e3b0")"#), (true, false, true));
        assert_eq!(kind(r#"("out","","r:sha256","")"#), (false, false, false));
        assert_eq!(kind(r#"("out","","r:sha256","impure")"#), (false, true, false));
        assert_eq!(kind(r#"("out","","","")"#), (false, false, false));
    }

    #[test]
    fn structured_attributes_take_the_place_of_variables() {
        let plain = derivation("", "", r#"("stdenv","/s"),("x","\t")"#).unwrap();
        assert_eq!(
            (plain.stdenv(), plain.variable("x"), plain.variable("y")),
            (Some(&b"/s"[..]), Some(&b"\t"[..]), None)
        );
        assert!(!plain.has_structured_attributes());
        let structured = derivation("", "", r#"("__json","{\"stdenv\":\"/t\"}"),("stdenv","/s")"#).unwrap();
        assert_eq!(structured.stdenv(), Some(&b"/t"[..]));
        assert!(structured.has_structured_attributes());
        for json in ["[]", "{", r#"{\"a\":\"\\ud800\"}"#, &format!("{{\\\"a\\\":{}", "[".repeat(1_000_000))] {
            let message = derivation("", "", &format!(r#"("__json","{json}")"#)).unwrap_err().to_string();
            assert!(message.contains("no JSON object"), "{message}");
        }
    }

    #[test]
    fn a_builtin_is_told_from_a_program() {
        assert!(derivation("", "builtin:fetchurl", "").unwrap().is_builtin());
        assert!(!derivation("", "/nix/store/b/builtin:x", "").unwrap().is_builtin());
    }

    #[test]
    fn files_that_are_no_derivations_are_refused_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(Path::new(PATH).file_name().unwrap());
        let message = || Derivation::read(&path).unwrap_err().to_string();
        assert!(message().contains("there is no derivation"));
        fs::write(&path, "hello").unwrap();
        assert!(message().contains("does not begin with"));
        File::options().write(true).open(&path).unwrap().set_len((101 << 20) + 1).unwrap();
        assert!(message().contains("has 101 MiB, and no derivation has more than 100 MiB"), "{}", message());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(message().contains("not a regular file"));
    }
}
