//! Whether it is worth while to unpack the sources once more at the end of a session.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::{CWD, OFlags};

use super::content::LARGEST;
use super::doubtful::directories_of;
use super::format::FileChange;
use super::ignored::name_of;
use super::origin::attribute;
use super::products::{is_of_the_builder, is_product, is_tool_directory};
use super::rule::{Rule, Touched, Verdict};
use super::tree::Entry;
use super::unpacked::Unpacked;
use super::{SessionPatch, product_or};
use crate::failed_build::FailedBuild;
use crate::quiet_open::read_quietly;

/// So many files are unpacked in the twinkling of an eye.
const MOST_ENTRIES: usize = 1000;

/// Words of a script that removes or moves files.
const REMOVING: [&[u8]; 5] = [b"rm", b"mv", b"unlink", b"-delete", b"rename"];
/// More than most patches have, in bytes.
const PATCH_LIMIT: u64 = 4 << 20;
/// Parts of the names of scripts that do so with outputs.
const OF_OUTPUTS: [&[u8]; 2] = [b"nstall", b"ixup"];

impl SessionPatch<'_> {
    /// Whether it takes the source as it was unpacked to tell whether something that was changed came with it. That is seldom so: most
    /// files tell it by their times.
    pub(super) fn is_any_doubtful(&self, rule: &Rule<'_>, touched: &[Touched]) -> Result<bool> {
        let origin = rule.origin;
        let is_costly = OnceCell::new();
        let may_be_of_source = |path: &[u8], old: Option<&Entry>, new: Option<&Entry>| {
            origin.contains(path)
                && !is_product(name_of(path))
                && !directories_of(path).any(|directory| is_tool_directory(name_of(directory)))
                && match old {
                    Some(old) => origin.is_guessed(path, old),
                    // The build may have removed what the source has there.
                    None => {
                        origin.may_have_lost(path, &self.before)
                            && [Verdict::Source, Verdict::Older].contains(&rule.judge(path, None, new))
                            && !*is_costly.get_or_init(|| self.is_large() && !removes_files(self.build))
                    }
                }
        };
        // All that there is came into being in the session, and some of it may have been unpacked.
        let is_unpacked = |touched: &Touched| {
            let top = touched.path.split(|byte| *byte == b'/').next().unwrap_or_default();
            touched.path.contains(&b'/') && !is_of_the_builder(top)
        };
        if origin.is_unknown() && touched.iter().any(is_unpacked) {
            return Ok(Unpacked::is_possible(self.build));
        }
        for Touched { path, old, new } in touched {
            let (old, new) = (old.as_ref(), new.as_ref());
            if may_be_of_source(path, old, new)
                && [old, new].iter().flatten().all(|entry| entry.size <= LARGEST)
                && self.change(origin, path, old, new)?.is_some_and(|change| is_written(&change))
            {
                return Ok(Unpacked::is_possible(self.build));
            }
        }
        Ok(false)
    }

    /// Whether what is unpacked at the end would be more than nobody notices.
    fn is_large(&self) -> bool {
        self.is_overlay || self.before.iter().nth(MOST_ENTRIES).is_some() || Unpacked::takes_time(self.build)
    }
}

/// Whether the build says that it removes files, or moves them, before anything is installed: its scripts do, or its patches. What it only
/// calls may do so, too.
pub(super) fn removes_files(build: &FailedBuild) -> bool {
    let Some(derivation) = &build.derivation else { return true };
    let ends_word = |byte: &u8| byte.is_ascii_whitespace() || b";&|(){}\"'\\`".contains(byte);
    let says_so = |text: &[u8]| text.split(ends_word).any(|word| REMOVING.contains(&word));
    let is_late = |name: &[u8]| OF_OUTPUTS.iter().any(|part| name.windows(part.len()).any(|window| window == *part));
    let says_so = |(name, text): (&[u8], &[u8])| !is_late(name) && says_so(text);
    let patches = attribute(build, "patches").unwrap_or_default();
    let patches = patches.split(u8::is_ascii_whitespace).map(|path| Path::new(OsStr::from_bytes(path)));
    let mut patches = patches.filter(|path| build.store.is_store_path(path)).map(|path| build.store.physical(path));
    let removes = |path: PathBuf| {
        let text = read_quietly(CWD, path.as_path(), OFlags::NOFOLLOW, PATCH_LIMIT).unwrap_or_default();
        text.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"+++ /dev/null"))
    };
    patches.any(removes)
        || match derivation.structured_attributes() {
            Some(attributes) => attributes
                .iter()
                .any(|(name, value)| says_so((name.as_bytes(), value.as_str().unwrap_or_default().as_bytes()))),
            None => derivation.environment.iter().any(|(name, text)| says_so((name, text))),
        }
}

/// Whether somebody may have made this change: what only a compiler writes, nobody has.
fn is_written(change: &FileChange) -> bool {
    let (FileChange::Added(version) | FileChange::Deleted(version) | FileChange::Changed { new: version, .. }) = change;
    change.has_text() && product_or(Verdict::Source, version) == Verdict::Source
}
