//! `nix-build-shell list`: the build directories that Nix has kept.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::Args;

use super::say::{print, printable, say};
use super::table::{age, columns, seconds_since_1970, size};
use crate::caller::Caller;
use crate::kept_builds::{self, Description, ToldFailures};
use crate::nix::Settings;
use crate::nix::store::Store;

/// How they are shown.
#[derive(Debug, Args)]
pub struct Options {
    /// List them for programs to read
    #[arg(long)]
    pub json: bool,

    /// The root of the store that was built in, as of «nix-build --store ROOT»
    #[arg(long, value_name = "ROOT")]
    pub store_root: Option<PathBuf>,
}

/// Prints them, the newest first. Whatever is in them, a terminal takes it for text.
///
/// # Errors
/// Standard output's.
pub fn run(options: &Options) -> Result<u8> {
    let settings = Settings::in_force();
    let store = Store::chosen(options.store_root.as_deref())?;
    let caller = Caller::current();
    let told = ToldFailures::of(&caller);
    let describe = |kept| Description::of(kept, &settings, options.store_root.as_deref(), &told);
    let described: Vec<_> = kept_builds::find(&settings, &store, &caller).iter().map(describe).collect();
    let cannot_print = "cannot print the list";
    if options.json {
        print(&(serde_json::to_string_pretty(&described)? + "\n")).context(cannot_print)?;
    } else if described.is_empty() {
        say("there are no kept build directories; «nix-build --keep-failed» keeps one of what fails");
    } else {
        print(&table(&described, seconds_since_1970(SystemTime::now()))).context(cannot_print)?;
        say(sum(&described));
    }
    Ok(0)
}

/// A line for each, below one that names the columns.
fn table(builds: &[Description], now: u64) -> String {
    let head = ["BUILD", "FAILED IN", "STATUS", "KEPT", "SIZE", "ACCESS", "DIRECTORY"].map(String::from);
    let unknown = || "-".to_owned();
    let rows = builds.iter().map(|build| {
        [
            build.name.as_deref().map_or_else(unknown, printable),
            build.failed_phase.as_deref().map_or_else(unknown, printable),
            build.exit_status.map_or_else(unknown, |status| status.to_string()),
            age(now.saturating_sub(build.kept)),
            told_size(build),
            access(build),
            printable(&build.path.join(build.layout).components().collect::<PathBuf>().display().to_string()),
        ]
    });
    columns([head].into_iter().chain(rows))
}

fn told_size(build: &Description) -> String {
    match (build.state, build.size_is_complete) {
        ("kept", true) => size(build.size),
        ("kept", false) => format!("> {}", size(build.size)),
        _ => "-".into(),
    }
}

/// Whether it can be opened, and by whom.
fn access(build: &Description) -> String {
    let owner = printable(&build.owner);
    match (build.state, build.readable, &build.obstacle) {
        ("kept", true, None) => "yes".into(),
        ("kept", false, None) => format!("in part ({owner}'s)"),
        ("kept", _, Some(_)) => format!("no ({owner}'s)"),
        ("unfinished", ..) => "unfinished".into(),
        (state, ..) => format!("{state} ({owner})"),
    }
}

/// How many there are, and what to do with them.
fn sum(builds: &[Description]) -> String {
    let kept = || builds.iter().filter(|build| build.state == "kept");
    let bytes = kept().map(|build| build.size).sum();
    let directories = match kept().count() {
        1 => "1 kept directory".into(),
        count => format!("{count} kept directories"),
    };
    format!(
        "{directories}, {}; «nix-build-shell remove DIRECTORY...» removes what you do not want any more",
        size(bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(name: Option<&str>, state: &'static str) -> Description {
        Description {
            path: "/tmp/nix-1-2".into(),
            name: name.map(String::from),
            derivation: None,
            kept: 1000,
            failed_phase: name.map(|_| "checkPhase\u{1b}".into()),
            exit_status: name.map(|_| 2),
            size: 4096,
            size_is_complete: name.is_some(),
            layout: if name.is_some() { "." } else { "build" },
            owner: "nixbld1".into(),
            state,
            readable: name.is_some(),
            obstacle: None,
        }
    }

    #[test]
    fn each_build_has_a_line() {
        let builds = [build(Some("hello-2.12"), "kept"), build(None, "kept"), build(None, "stranger's")];
        assert_eq!(
            table(&builds, 1000 + 7200),
            "BUILD       FAILED IN         STATUS  KEPT         SIZE     ACCESS                DIRECTORY\n\
             hello-2.12  checkPhase\\u{1b}  2       2 hours ago  4 KiB    yes                   /tmp/nix-1-2\n\
             -           -                 -       2 hours ago  > 4 KiB  in part (nixbld1's)   /tmp/nix-1-2/build\n\
             -           -                 -       2 hours ago  -        stranger's (nixbld1)  /tmp/nix-1-2/build\n"
        );
        assert!(sum(&builds).starts_with("2 kept directories, 8 KiB; "));
        assert!(sum(&builds[..1]).starts_with("1 kept directory, 4 KiB; "));
    }
}
