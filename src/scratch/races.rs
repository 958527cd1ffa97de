//! Somebody changes a directory while it is copied, or removed: what he puts in the way of it is never followed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use tempfile::TempDir;

use super::copy::{Failure, How, Source, Unreadable, copy_tree};
use super::remove::remove_tree;
use super::{DIRECTORY, openat};
use crate::caller::Caller;

/// How often each thing is done while it is disturbed.
const ROUNDS: usize = 400;
/// The same for what goes on in several threads.
const ROUNDS_ON_ALL_CORES: usize = 40;
/// More files than one thread copies or removes before it calls for others.
const MANY: usize = 700;

/// Ends the swapping when it goes, also because a test has failed.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Has these two names changed for each other, again and again, while `work` goes on.
fn while_swapping(pairs: &[(PathBuf, PathBuf)], work: impl FnOnce()) {
    let ends = AtomicBool::new(false);
    let begun = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ends(&ends);
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                for (one, other) in pairs {
                    // One of them may be removed in this moment.
                    let _ = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
                }
                begun.store(true, Ordering::Relaxed);
            }
        });
        while !begun.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        work();
    });
}

/// A directory outside with a file that is nobody else's business.
fn precious(setting: &Path) -> PathBuf {
    let precious = setting.join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "secret").unwrap();
    precious
}

fn holds_secret(directory: &Path) -> bool {
    walkdir::WalkDir::new(directory)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .any(|entry| fs::read(entry.path()).is_ok_and(|text| text == b"secret"))
}

/// Files in some directories, so many that several threads are at work.
fn fill(directory: &Path, files: usize) {
    for number in 0..files {
        let below = directory.join(format!("many-{}", number % 20));
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(number.to_string()), "plain").unwrap();
    }
}

#[test]
fn a_copy_follows_no_link_and_waits_for_no_fifo_that_is_put_into_its_way() {
    copy_while_swapping(0, ROUNDS);
}

#[test]
fn nor_does_a_copy_by_several_threads() {
    copy_while_swapping(MANY, ROUNDS_ON_ALL_CORES);
}

fn copy_while_swapping(files: usize, rounds: usize) {
    let setting = TempDir::new().unwrap();
    let precious = precious(setting.path());
    let (kept, aside) = (setting.path().join("kept"), setting.path().join("aside"));
    fs::create_dir_all(kept.join("directory")).unwrap();
    fs::create_dir(&aside).unwrap();
    for name in ["file", "other", "directory/file"] {
        fs::write(kept.join(name), "plain").unwrap();
    }
    symlink(&precious, aside.join("directory")).unwrap();
    symlink(precious.join("file"), aside.join("file")).unwrap();
    mknodat(CWD, aside.join("other"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let scratch = openat(CWD, setting.path(), DIRECTORY, Mode::empty()).unwrap();
    let mut pairs = ["directory", "file", "other"].map(|name| (kept.join(name), aside.join(name))).to_vec();
    fill(&kept, files);
    for number in 0..20.min(files) {
        let (file, link) = (kept.join(format!("many-{number}/{number}")), aside.join(number.to_string()));
        symlink(precious.join("file"), &link).unwrap();
        pairs.push((file, link));
    }
    while_swapping(&pairs, || {
        for _ in 0..rounds {
            let target = TempDir::new_in(setting.path()).unwrap();
            let handle = openat(CWD, &kept, DIRECTORY, Mode::empty()).unwrap();
            let source = Source { path: &kept, handle: &handle };
            let into = openat(CWD, target.path(), DIRECTORY, Mode::empty()).unwrap();
            let how = How {
                caller: &Caller::current(),
                unreadable: Unreadable::Fail,
                most_bytes: None,
                check_interrupt: &|| Ok(()),
                progress: None,
                scratch: &scratch,
            };
            // It may give up, in words: what it copies is not there any more.
            if let Err(failure) = copy_tree(&source, None, into, &how) {
                assert!(matches!(failure, Failure::Other(_)), "{failure:?}");
            }
            assert!(!holds_secret(target.path()));
        }
    });
}

#[test]
fn a_removal_follows_no_link_that_is_put_into_its_way() {
    remove_while_swapping(0, ROUNDS);
}

#[test]
fn nor_does_a_removal_by_several_threads() {
    remove_while_swapping(MANY, ROUNDS_ON_ALL_CORES);
}

fn remove_while_swapping(files: usize, rounds: usize) {
    let setting = TempDir::new().unwrap();
    let precious = precious(setting.path());
    for _ in 0..rounds {
        let round = TempDir::new_in(setting.path()).unwrap();
        let (tree, aside) = (round.path().join("tree"), round.path().join("aside"));
        fs::create_dir_all(tree.join("directory/below")).unwrap();
        fs::write(tree.join("directory/file"), "").unwrap();
        fill(&tree.join("directory"), files);
        symlink(&precious, &aside).unwrap();
        let parent = openat(CWD, round.path(), DIRECTORY, Mode::empty()).unwrap();
        let top = openat(&parent, "tree", DIRECTORY, Mode::empty()).unwrap();
        while_swapping(&[(tree.join("directory"), aside)], || {
            // It may give up, in words: another try goes on.
            while remove_tree(&parent, "tree".as_ref(), &top).is_err() {}
        });
        assert!(!tree.exists());
        assert!(holds_secret(&precious));
    }
}
