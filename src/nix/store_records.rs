//! What Nix has on record about a store.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::nix_store_command::NixStoreCommand;
use super::store::Store;
use super::store_database::StoreDatabase;

/// What Nix has on record about a store: which paths are valid, what they refer to, what makes them.
///
/// Every path that goes in has to be a store path of that store, and every path that comes out is one. Beside a writer, all
/// answers are about the moment of the opening, and the database keeps its journal for us: drop this soon.
#[derive(Debug)]
pub struct StoreRecords {
    store: Store,
    source: Source,
}

/// Who answers.
#[derive(Debug)]
pub(super) enum Source {
    Database(StoreDatabase),
    NixStore(NixStoreCommand),
}

/// An output of a derivation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Output {
    /// Its name, most often `out`.
    pub name: String,
    /// Its store path, whether it was built or not.
    pub path: PathBuf,
}

/// What Nix has on record about a valid path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: PathBuf,
    /// The SHA-256 of its Nix archive.
    pub nar_hash: [u8; 32],
    /// How many bytes its Nix archive has.
    pub nar_size: u64,
    /// What it refers to, itself included if it does; sorted.
    pub references: Vec<PathBuf>,
    /// What its path was made of, such as `fixed:r:sha256:…`, where that is its content. `nix-store` does not tell.
    pub content_address: Option<String>,
}

impl PathInfo {
    /// The hash of a Nix archive from its text in base 16, with or without `sha256:` in front.
    pub(super) fn nar_hash_of(text: &[u8]) -> Option<[u8; 32]> {
        let (digits, rest) = text.strip_prefix(b"sha256:").unwrap_or(text).as_chunks();
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let bytes = digits.iter().map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok());
        bytes.collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty())?.try_into().ok()
    }
}

/// Store paths that were asked for and that the store does not have, never built or collected as garbage; sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPaths(pub Vec<PathBuf>);

impl InvalidPaths {
    pub(super) fn new(mut paths: Vec<PathBuf>) -> Self {
        paths.sort_unstable();
        paths.dedup();
        Self(paths)
    }
}

impl fmt::Display for InvalidPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(paths) = self;
        let shown = &paths[..paths.len().min(3)];
        let list: Vec<String> = shown.iter().map(|path| path.display().to_string()).collect();
        f.write_str("the store does not have (any more): ")?;
        f.write_str(&list.join(", "))?;
        if paths.len() > shown.len() {
            write!(f, " and {} more", paths.len() - shown.len())?;
        }
        write!(f, "; «nix-store --realise {}» brings back what a substituter has", list.join(" "))
    }
}

impl std::error::Error for InvalidPaths {}

impl StoreRecords {
    pub(super) fn new(store: Store, source: Source) -> Self {
        Self { store, source }
    }

    /// Which source answers, in words: the database, or nix-store and why.
    pub fn source(&self) -> String {
        match &self.source {
            Source::Database(database) => format!("the database {}", database.file().display()),
            Source::NixStore(command) => format!("nix-store, since {}", command.because()),
        }
    }

    /// The valid derivations that make the output `output`, the one that was registered last first. The output itself need not
    /// be valid, unless it is nix-store that answers.
    ///
    /// # Errors
    /// When `output` is no store path, or the records cannot be read.
    pub fn derivers_of_output(&mut self, output: &Path) -> Result<Vec<PathBuf>> {
        self.check([output])?;
        match &mut self.source {
            Source::Database(database) => database.derivers_of_output(output),
            Source::NixStore(command) => command.derivers_of_output(output),
        }
    }

    /// The valid derivations whose store path is `HASH-NAME.drv`, the one that was registered last first.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn derivations_named(&mut self, name: &str) -> Result<Vec<PathBuf>> {
        match &mut self.source {
            Source::Database(database) => database.derivations_named(name),
            Source::NixStore(command) => command.derivations_named(name),
        }
    }

    /// The outputs of a derivation, sorted by name. There are none on record where the derivation is not valid, or where it is
    /// addressed by its content and not built.
    ///
    /// # Errors
    /// When `derivation` is no store path, or the records cannot be read.
    pub fn output_paths_of(&mut self, derivation: &Path) -> Result<Vec<Output>> {
        self.check([derivation])?;
        let mut outputs: Vec<_> = self.outputs_of_all(&[derivation])?.into_iter().map(|(_, output)| output).collect();
        outputs.sort();
        Ok(outputs)
    }

    /// Whether `path` is valid: complete, and all that it refers to as well.
    ///
    /// # Errors
    /// When `path` is no store path, or the records cannot be read.
    pub fn is_valid(&mut self, path: &Path) -> Result<bool> {
        self.check([path])?;
        match &mut self.source {
            Source::Database(database) => database.is_valid(path),
            Source::NixStore(command) => command.is_valid(path),
        }
    }

    /// The store paths `roots` and everything that they refer to, over however many steps, sorted, each once.
    ///
    /// # Errors
    /// [`InvalidPaths`] when some of `roots` are not valid; besides, when one is no store path, or the records cannot be read.
    pub fn closure(&mut self, roots: &[impl AsRef<Path>]) -> Result<Vec<PathBuf>> {
        let roots: Vec<&Path> = roots.iter().map(AsRef::as_ref).collect();
        self.check(roots.iter().copied())?;
        match &mut self.source {
            Source::Database(database) => database.closure(&roots),
            Source::NixStore(command) => command.closure(&roots),
        }
    }

    /// What is on record about each of `paths`, in their order.
    ///
    /// # Errors
    /// [`InvalidPaths`] when some of them are not valid; besides, when one is no store path, or the records cannot be read.
    pub fn path_infos(&mut self, paths: &[impl AsRef<Path>]) -> Result<Vec<PathInfo>> {
        let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
        self.check(paths.iter().copied())?;
        match &mut self.source {
            Source::Database(database) => database.path_infos(&paths),
            Source::NixStore(command) => command.path_infos(&paths),
        }
    }

    /// What a build finds in its store: the closure of its input sources and of the wanted outputs of its input derivations,
    /// which are given as (store path of the derivation, names of the outputs).
    ///
    /// # Errors
    /// As [`closure`](Self::closure); and when a wanted output is not on record, one sentence that names it.
    pub fn input_closure(
        &mut self,
        sources: &[impl AsRef<Path>],
        inputs: &[(impl AsRef<Path>, impl AsRef<[String]>)],
    ) -> Result<Vec<PathBuf>> {
        let derivations: Vec<&Path> = inputs.iter().map(|(derivation, _)| derivation.as_ref()).collect();
        self.check(derivations.iter().copied())?;
        let mut outputs = self.outputs_of_all(&derivations)?;
        outputs.sort_unstable();
        let mut roots: Vec<PathBuf> = sources.iter().map(|source| source.as_ref().to_owned()).collect();
        for (derivation, wanted) in inputs {
            let derivation = derivation.as_ref();
            let begin = outputs.partition_point(|(of, _)| of.as_path() < derivation);
            let known = outputs[begin..].iter().take_while(|(of, _)| of == derivation).map(|(_, output)| output);
            for name in wanted.as_ref() {
                match known.clone().find(|output| output.name == *name) {
                    Some(output) => roots.push(output.path.clone()),
                    None if known.clone().next().is_some() => {
                        bail!("the input derivation {} has no output «{name}» on record", derivation.display())
                    }
                    None if self.is_valid(derivation)? => bail!(
                        "where the output «{name}» of the input derivation {} is, is not on record: it is addressed by its content",
                        derivation.display()
                    ),
                    None => return Err(InvalidPaths::new(vec![derivation.to_owned()]).into()),
                }
            }
        }
        self.closure(&roots)
    }

    fn outputs_of_all(&mut self, derivations: &[&Path]) -> Result<Vec<(PathBuf, Output)>> {
        match &mut self.source {
            Source::Database(database) => database.outputs_of_all(derivations),
            Source::NixStore(command) => command.outputs_of_all(derivations),
        }
    }

    fn check<'a>(&self, paths: impl IntoIterator<Item = &'a Path>) -> Result<()> {
        for path in paths {
            if !self.store.is_store_path(path) {
                bail!("{path:?} is no store path in {}", self.store.directory().display());
            }
        }
        Ok(())
    }
}
