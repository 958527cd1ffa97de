//! Which build the caller means: by its directory, by what it was to make, or the last one that failed.

use std::ffi::{OsStr, OsString};
use std::fs::FileType;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use super::say::{printable, say};
use super::table::{age, seconds_since_1970};
use crate::caller::Caller;
use crate::failed_build::FailedBuild;
use crate::kept_build::{KeptBuild, NoEnvVars};
use crate::kept_build_name::KeptBuildName;
use crate::kept_builds::{self, KeptDirectory, Standing, ToldFailures};
use crate::nix::evaluation::{derivation_of_attribute, derivation_of_installable};
use crate::nix::store::Store;
use crate::nix::{Settings, package_name};

/// How many kept directories are opened in search of one.
const LOOKED_AT: usize = 200;

/// What the caller has said of the build.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted<'a> {
    /// A directory, a derivation, an output, an installable or a name; with `attribute` the file that has it.
    pub(super) argument: Option<&'a Path>,
    /// The attribute that makes it.
    pub(super) attribute: Option<&'a OsStr>,
    /// The root of the store that was built in.
    pub(super) store_root: Option<&'a Path>,
    /// Whether only the derivation is wanted, and no kept directory.
    pub(super) fresh: bool,
}

/// What that leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A kept build directory, or a derivation that has none.
    Build(Named),
    /// Nothing yet.
    Missing(Missing),
}

/// A build, and what is known of it besides.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// The kept build directory, or the derivation.
    pub(super) path: PathBuf,
    /// The derivation that was built in a directory: what the caller has asked for, or what Nix has said.
    pub(super) derivation: Option<PathBuf>,
}

/// A build of which there is no kept directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// What the caller calls it.
    pub(super) name: String,
    /// The command that builds it.
    pub(super) command: Vec<OsString>,
    /// What else there is to know: a sentence's end.
    remark: String,
}

/// The same, before it is looked up what is known of it.
enum Place {
    Build(PathBuf),
    /// A directory, and the derivation that the caller means.
    Kept(PathBuf, PathBuf),
    Missing(Missing),
}

impl Missing {
    /// That there is none, and what to do.
    pub(super) fn sentence(&self) -> String {
        let words: Vec<_> = self.command.iter().map(|word| quoted(word)).collect();
        format!(
            "there is no kept build directory of {}{}; «nix-build-shell build -- {}» builds it, and opens it if it fails",
            self.name,
            self.remark,
            words.join(" ")
        )
    }
}

impl Wanted<'_> {
    /// The build of a command that does not build by itself.
    ///
    /// # Errors
    /// There is none: one sentence with the command that makes it.
    pub(super) fn existing(&self) -> Result<Named> {
        match self.find()? {
            Target::Build(named) => Ok(named),
            Target::Missing(missing) => bail!(missing.sentence()),
        }
    }

    /// The build. What was not named is told. A kept build directory of a name wins over all else that it could mean, and so does any
    /// other directory or file where nothing was kept of a build that is called like it.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn find(&self) -> Result<Target> {
        match self.place()? {
            Place::Build(path) => Ok(Target::Build(Named { derivation: self.told_derivation(&path), path })),
            Place::Kept(path, derivation) => Ok(Target::Build(Named { path, derivation: Some(derivation) })),
            Place::Missing(missing) => Ok(Target::Missing(missing)),
        }
    }

    fn place(&self) -> Result<Place> {
        if let Some(attribute) = self.attribute {
            return self.by_attribute(attribute, self.argument);
        }
        let Some(argument) = self.argument else {
            return self.newest().map(Place::Build);
        };
        match argument.symlink_metadata() {
            Ok(metadata) => self.by_path(argument, metadata.file_type()),
            Err(_) if argument.as_os_str().as_bytes().contains(&b'#') => self.by_installable(argument),
            Err(_) if is_name(argument) => self.by_name(argument),
            Err(_) => self.by_store_path(argument),
        }
    }

    fn by_path(&self, path: &Path, kind: FileType) -> Result<Place> {
        if path.extension() == Some("drv".as_ref()) && !path.is_dir() {
            return self.by_store_path(path);
        }
        // A `result` leads into the store.
        if kind.is_symlink() || path.starts_with("/nix") || self.store_root.is_some() {
            let real = path.canonicalize().unwrap_or_default();
            if real.starts_with(self.store()?.physical_directory()) {
                return self.by_store_path(&real);
            }
        }
        if is_name(path) && !looks_kept(path) {
            let named = self.by_name(path)?;
            if !matches!(named, Place::Missing(_)) {
                let shown = path.display();
                say(format_args!("that is the build {shown}; ./{shown} is no kept build directory"));
                return Ok(named);
            }
        }
        Ok(Place::Build(path.to_owned()))
    }

    /// A derivation or an output, or something in one. Any other path is for the message that there is no such directory.
    fn by_store_path(&self, path: &Path) -> Result<Place> {
        let store = self.store()?;
        let below = path.strip_prefix(store.physical_directory()).or_else(|_| path.strip_prefix(store.directory()));
        let Some(name) = below.ok().and_then(|below| below.components().next()) else {
            return Ok(Place::Build(path.to_owned()));
        };
        let path = store.directory().join(name);
        if !store.is_store_path(&path) {
            return Ok(Place::Build(path));
        }
        if path.extension() == Some("drv".as_ref()) {
            // Without a directory the derivation itself can be entered.
            return Ok(match self.kept_directory_of(&path)? {
                Some(kept) => Place::Kept(kept, path),
                None => Place::Build(store.physical(&path)),
            });
        }
        let shown = path.display();
        let mut records = store.open()?;
        let makers = records.derivers_of_output(&path)?;
        let is_built = records.is_valid(&path)?;
        drop(records);
        for derivation in &makers {
            if let Some(kept) = self.kept_directory_of(derivation)? {
                return Ok(Place::Kept(kept, derivation.clone()));
            }
        }
        let derivation =
            makers.first().with_context(|| format!("the store has no derivation (any more) that makes {shown}"))?;
        if self.fresh {
            return Ok(Place::Build(store.physical(derivation)));
        }
        let mut missing = self.missing(path.as_os_str(), realise(derivation));
        if is_built {
            missing.remark = ", which is built".into();
        }
        Ok(Place::Missing(missing))
    }

    fn by_installable(&self, installable: &Path) -> Result<Place> {
        let derivation = derivation_of_installable(installable.as_os_str(), &self.store()?)?;
        let command = ["nix", "build"].iter().map(OsString::from).chain([installable.into()]).collect();
        self.by_derivation(&derivation, installable.as_os_str(), command)
    }

    fn by_attribute(&self, attribute: &OsStr, file: Option<&Path>) -> Result<Place> {
        let file_or_default = file.unwrap_or(Path::new("./default.nix"));
        if !file_or_default.exists() && !file_or_default.as_os_str().as_bytes().starts_with(b"<") {
            bail!("there is no {} to look up {} in", file_or_default.display(), attribute.display());
        }
        let derivation = derivation_of_attribute(attribute, file_or_default, &self.store()?)?;
        let mut command = vec!["nix-build".into()];
        command.extend(file.map(OsString::from));
        command.extend(["-A".into(), attribute.to_owned()]);
        self.by_derivation(&derivation, attribute, command)
    }

    fn by_derivation(&self, derivation: &Path, name: &OsStr, command: Vec<OsString>) -> Result<Place> {
        if let Some(kept) = self.kept_directory_of(derivation)? {
            return Ok(Place::Kept(kept, derivation.to_owned()));
        }
        if self.fresh {
            return Ok(Place::Build(self.store()?.physical(derivation)));
        }
        Ok(Place::Missing(self.missing(name, command)))
    }

    /// A name is that of a derivation, with or without its version.
    fn by_name(&self, name: &Path) -> Result<Place> {
        let name = name.as_os_str();
        let found = self.newest_called(name)?;
        if let Some(kept) = &found {
            tell(kept);
        }
        match found.map(|kept| kept.path) {
            Some(kept) if self.fresh => {
                let build = kept_builds::open(
                    &kept,
                    &Settings::in_force(),
                    self.store_root,
                    self.told_derivation(&kept).as_deref(),
                )?;
                let derivation = build.derivation.context("its derivation is not known")?;
                Ok(Place::Build(build.store.physical(&derivation.path)))
            }
            Some(kept) => Ok(Place::Build(kept)),
            None => Ok(Place::Missing(self.missing(name, command_for(name)))),
        }
    }

    /// The newest kept directory of a build with this name.
    fn newest_called(&self, name: &OsStr) -> Result<Option<KeptDirectory>> {
        self.newest_that(|kept, build| {
            let of_derivation = build.and_then(|build| build.derivation.as_ref().map(|derivation| derivation.name()));
            let known = of_derivation.or_else(|| kept.name.derivation().map(str::as_bytes));
            known.is_some_and(|known| known == name.as_bytes() || package_name(known) == name.as_bytes())
        })
    }

    fn missing(&self, name: &OsStr, command: Vec<OsString>) -> Missing {
        Missing { name: printable(&name.display().to_string()), command, remark: String::new() }
    }

    fn kept_directory_of(&self, derivation: &Path) -> Result<Option<PathBuf>> {
        if self.fresh {
            return Ok(None);
        }
        let name = KeptBuildName::of_derivation(derivation);
        let found = self.newest_that(|kept, build| {
            (kept.name == KeptBuildName::Number || Some(&kept.name) == name.as_ref())
                && build.and_then(|build| build.derivation.as_ref()).is_some_and(|found| found.path == derivation)
        })?;
        Ok(found.map(|kept| {
            tell(&kept);
            kept.path
        }))
    }

    /// The newest kept directory of which this is true. A build that cannot be opened has only its directory.
    fn newest_that(
        &self,
        is_wanted: impl Fn(&KeptDirectory, Option<&FailedBuild>) -> bool,
    ) -> Result<Option<KeptDirectory>> {
        let settings = Settings::in_force();
        let told = ToldFailures::of(&Caller::current());
        for kept in self.kept(&settings)? {
            let build = self.open(&kept, &settings, &told).ok();
            if is_wanted(&kept, build.as_ref()) {
                return Ok(Some(kept));
            }
        }
        Ok(None)
    }

    /// The newest kept directory that can be opened.
    fn newest(&self) -> Result<PathBuf> {
        if self.fresh {
            bail!("--fresh wants to know of which derivation");
        }
        let settings = Settings::in_force();
        let told = ToldFailures::of(&Caller::current());
        let mut complaint = None;
        for kept in self.kept(&settings)? {
            match self.open(&kept, &settings, &told) {
                Ok(_) => {
                    tell(&kept);
                    return Ok(kept.path);
                }
                Err(error) => complaint = complaint.or(Some(error)),
            }
        }
        match complaint {
            Some(error) => Err(error.context(
                "no kept build directory can be opened («nix-build-shell list» shows them); of the newest one",
            )),
            None => bail!(
                "which directory? There is no kept one: give the one that Nix names after «keeping build directory», or build with \
                 «nix-build-shell build -- nix-build»; see «nix-build-shell --help»"
            ),
        }
    }

    fn open(&self, kept: &KeptDirectory, settings: &Settings, told: &ToldFailures) -> Result<FailedBuild> {
        let derivation = told.about(kept).and_then(|told| self.unless_gone(&told.derivation));
        kept_builds::open(&kept.path, settings, self.store_root, derivation.as_deref())
    }

    fn kept(&self, settings: &Settings) -> Result<impl Iterator<Item = KeptDirectory>> {
        let found = kept_builds::find(settings, &self.store()?, &Caller::current());
        Ok(found.into_iter().filter(|kept| kept.standing == Standing::Kept).take(LOOKED_AT))
    }

    fn store(&self) -> Result<Store> {
        Store::chosen(self.store_root)
    }

    /// What Nix has said was built in a directory: its name may be that of several derivations, or of none.
    fn told_derivation(&self, path: &Path) -> Option<PathBuf> {
        self.unless_gone(&ToldFailures::about_path(path, &Caller::current())?.derivation)
    }

    /// A derivation, unless the store does not have it any more: then the directory is all there is to go by.
    fn unless_gone(&self, derivation: &Path) -> Option<PathBuf> {
        let is_there = self.store().ok()?.physical(derivation).exists();
        is_there.then(|| derivation.to_owned())
    }
}

/// The newest kept directory of a build that is called `name`, where that is a name and nothing is there that it could name.
pub(super) fn directory_of(name: &Path) -> Option<PathBuf> {
    let is_only_a_name = is_name(name) && name.symlink_metadata().is_err();
    let found = is_only_a_name.then(|| Wanted::default().newest_called(name.as_os_str()).ok())?;
    found?.map(|kept| kept.path)
}

/// Whether something with a name may be what Nix has kept, or a copy of it.
fn looks_kept(path: &Path) -> bool {
    let is_called_so = path.to_str().is_some_and(|name| KeptBuildName::parse(name).is_some());
    let tells_of_build = |kept: KeptBuild| match &kept.env_vars {
        Ok(_) | Err(NoEnvVars::Unreadable(_)) => true,
        Err(NoEnvVars::Missing(_)) => !kept.outputs().is_empty(),
    };
    is_called_so || KeptBuild::open(path).is_ok_and(tells_of_build)
}

fn tell(kept: &KeptDirectory) {
    let ago = seconds_since_1970(SystemTime::now()).saturating_sub(seconds_since_1970(kept.kept_at));
    say(format_args!("opening {}, kept {}", kept.path.display(), age(ago)));
}

/// Whether it can be nothing but a name.
fn is_name(argument: &Path) -> bool {
    let bytes = argument.as_os_str().as_bytes();
    let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    !bytes.is_empty() && !bytes.starts_with(b".") && bytes.iter().copied().all(is_of_names)
}

fn realise(derivation: &Path) -> Vec<OsString> {
    vec!["nix-store".into(), "--realise".into(), derivation.into()]
}

/// What somebody would type to build a package of this name here.
fn command_for(name: &OsStr) -> Vec<OsString> {
    // Attributes have no version.
    let name = OsStr::from_bytes(package_name(name.as_bytes()));
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    if Path::new("default.nix").exists() {
        [words(&["nix-build", "-A"]), vec![name.to_owned()]].concat()
    } else if Path::new("flake.nix").exists() {
        let mut installable = OsString::from(".#");
        installable.push(name);
        [words(&["nix", "build"]), vec![installable]].concat()
    } else {
        [words(&["nix-build", "<nixpkgs>", "-A"]), vec![name.to_owned()]].concat()
    }
}

/// A word as a shell takes it.
fn quoted(word: &OsStr) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._=/:@%,^".contains(&byte);
    let text = printable(&word.display().to_string());
    // Within a word the mark of a comment is none.
    let plain = word.as_bytes().iter().enumerate().all(|(at, byte)| is_plain(*byte) || (*byte == b'#' && at > 0));
    if plain && !text.is_empty() { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_slash_and_is_no_path() {
        for name in ["hello", "hello-2.12", "gtk+3", "a_b"] {
            assert!(is_name(Path::new(name)), "{name}");
        }
        for other in ["", ".", "./hello", "/tmp/x", "hello/", ".#hello", "~", "a b", "grüße"] {
            assert!(!is_name(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn the_command_can_be_typed_as_it_is_told() {
        let missing = |command: &[&str]| Missing {
            name: "hello".into(),
            command: command.iter().map(OsString::from).collect(),
            remark: String::new(),
        };
        let told = |command: &[&str]| missing(command).sentence();
        assert!(told(&["nix-build", "<nixpkgs>", "-A", "hello"]).contains("build -- nix-build '<nixpkgs>' -A hello»"));
        assert!(told(&["nix", "build", ".#hello"]).contains("build -- nix build .#hello»"));
        assert!(told(&["nix-build", "it's", ""]).contains(r"build -- nix-build 'it'\''s' ''»"));
    }
}
