//! `nix-build-shell remove`: removes build directories that Nix has kept.

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail};
use clap::Args;

use super::ask::confirm;
use super::say::{print, printable, say, say_error};
use super::sessions::recover;
use super::table::size;
use super::which_build::directory_of;
use crate::caller::Caller;
use crate::disk_usage::DiskUsage;
use crate::kept_builds::{Removable, ToldFailures, Trust};
use crate::kept_session::{Sessions, laid_over};
use crate::nix::Settings;
use crate::scratch::Scratch;

/// Which ones.
#[derive(Debug, Args)]
#[command(override_usage = "nix-build-shell remove [--yes] BUILD_DIR...")]
pub struct Options {
    /// The directories, as Nix named them after «keeping build directory»
    #[arg(value_name = "BUILD_DIR", required = true)]
    pub build_dirs: Vec<PathBuf>,

    /// Remove them without asking
    #[arg(short, long)]
    pub yes: bool,
}

/// Removes them, if somebody at the terminal says so, or `--yes` does. What is no kept build directory stays, and so does everything
/// where one of them cannot be removed.
///
/// # Errors
/// One sentence for each that cannot be removed; the last one is returned.
pub fn run(options: &Options) -> Result<u8> {
    let caller = Caller::current();
    let trust = Trust::of(&caller, &Settings::in_force());
    let (mut removable, mut failures) = (Vec::<Removable>::new(), Vec::new());
    for path in &options.build_dirs {
        match Removable::check(path, &trust) {
            // Named twice, it is removed once.
            Ok(kept) if removable.iter().any(|known| known.path == kept.path) => {}
            Ok(kept) => removable.push(kept),
            Err(error) => failures.push(named_instead(path).unwrap_or(error)),
        }
    }
    refuse(failures)?;
    tell_layers(&removable, &caller)?;
    if !options.yes {
        match confirm(question(&removable)) {
            Some(true) => {}
            Some(false) => {
                print("nothing is removed\n").context(CANNOT_PRINT)?;
                return Ok(1);
            }
            None => bail!("nobody is here to ask whether to remove them: --yes removes them without asking"),
        }
    }
    let mut failures = Vec::new();
    for kept in removable {
        let removed = printable(&format!("removed {}", kept.path.display()));
        match kept.remove() {
            Ok(()) => print(&(removed + "\n")).context(CANNOT_PRINT)?,
            Err(error) => failures.push(error),
        }
    }
    // What is not forgotten now is when something else is told.
    let _ = ToldFailures::forget_what_is_gone(&caller);
    refuse(failures).map(|()| 0)
}

/// Says which sessions are layers over what is to be removed, and so are of no more use then.
fn tell_layers(removable: &[Removable], caller: &Caller) -> Result<()> {
    recover(Scratch::abandoned_sessions(&Scratch::default_parent()), caller);
    let Some(sessions) = Sessions::open(caller)? else { return Ok(()) };
    for Removable { path, .. } in removable {
        for name in laid_over(&sessions, path)? {
            say(format_args!(
                "without {} the session {name}, a layer over it, can neither be entered nor saved as a patch; «nix-build-shell sessions \
                 remove {name}» saves it before",
                path.display()
            ));
        }
    }
    Ok(())
}

/// Of what is only the name of a build: what is wanted of whoever would remove it.
fn named_instead(name: &Path) -> Option<Error> {
    let directory = directory_of(name)?;
    let (name, directory) = (name.display(), directory.display());
    Some(anyhow!(
        "«remove» wants the directory and not the name: the one kept last of {name} is {directory}, which \
         «nix-build-shell remove {directory}» removes"
    ))
}

const CANNOT_PRINT: &str = "cannot print";

/// Says all of the errors but the last one, which becomes the exit status.
fn refuse(mut failures: Vec<Error>) -> Result<()> {
    let last = failures.pop();
    failures.iter().for_each(say_error);
    last.map_or(Ok(()), Err)
}

fn question(removable: &[Removable]) -> String {
    let bytes = removable.iter().map(|kept| DiskUsage::of(&kept.path).bytes).sum();
    let named = match removable {
        [only] => only.path.display().to_string(),
        several => {
            let paths: Vec<_> = several.iter().map(|kept| kept.path.display().to_string()).collect();
            format!("these {}: {},", several.len(), paths.join(", "))
        }
    };
    format!("remove {named} ({})?", size(bytes))
}
