//! Somebody changes a directory while it is copied, or removed: what he puts in the way of it is never followed.
//!
//! One kind of test has another thread swap entries all the time. The other swaps one in the worst moment, after it was looked at and
//! before it is opened: there the walks call [`before_open`].

use std::ffi::CStr;
use std::fs;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, mknodat, openat, renameat_with};
use tempfile::TempDir;

use super::DIRECTORY;
use super::copy::{Failure, How, Source, Unreadable, copy_entries, copy_tree};
use super::remove::{remove_on_all_cores, remove_tree};
use crate::caller::Caller;

/// How often each thing is done while it is disturbed.
const ROUNDS: usize = 100;
/// More files than one thread copies before it calls for others.
const MANY: usize = 700;
/// Entries of which one is swapped, enough for each thread to get some.
const SWAPPABLE: u32 = 200;
/// How long one thread waits for the others to come to an entry, and to open a fifo.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Something that is put in the place of an entry between the look at it and its opening.
struct Swap {
    /// How the names of the entries begin: of this test alone.
    prefix: &'static str,
    /// What is put there; the entry comes here.
    aside: PathBuf,
    /// The thread that waits for another to come to such an entry.
    waits: Option<ThreadId>,
    is_done: Mutex<bool>,
    done: Condvar,
}

static SWAPS: Mutex<Vec<Arc<Swap>>> = Mutex::new(Vec::new());

fn swaps() -> MutexGuard<'static, Vec<Arc<Swap>>> {
    SWAPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a walk has looked at the entry `name` of `directory`, and opens it next.
pub(crate) fn before_open(directory: impl AsFd, name: &CStr) {
    let name = name.to_string_lossy();
    let Some(swap) = swaps().iter().find(|swap| name.starts_with(swap.prefix)).cloned() else { return };
    let mut is_done = swap.is_done.lock().unwrap();
    if swap.waits == Some(thread::current().id()) {
        let _ = swap.done.wait_timeout_while(is_done, PATIENCE / SWAPPABLE, |is_done| !*is_done).unwrap();
    } else if !*is_done {
        renameat_with(directory, &*name, CWD, &swap.aside, RenameFlags::EXCHANGE).unwrap();
        *is_done = true;
        swap.done.notify_all();
    }
}

/// Has one entry whose name begins with `prefix` swapped for what is at `aside`, in this thread or in another of those that `work` starts.
fn while_one_is_swapped<T>(prefix: &'static str, aside: &Path, in_another: bool, work: impl FnOnce() -> T) -> T {
    // On one core there is no other thread.
    let has_others = thread::available_parallelism().map_or(1, NonZero::get) > 1;
    let waits = (in_another && has_others).then(|| thread::current().id());
    let swap = Swap { prefix, aside: aside.to_owned(), waits, is_done: Mutex::new(false), done: Condvar::new() };
    let swap = Arc::new(swap);
    swaps().push(Arc::clone(&swap));
    let result = work();
    swaps().retain(|other| other.prefix != prefix);
    assert!(*swap.is_done.lock().unwrap(), "no thread came to an entry that it could swap");
    result
}

/// Whatever is swapped.
#[derive(Clone, Copy, Debug)]
enum Kind {
    File,
    Directory,
}

/// A directory with entries of a kind that may be swapped.
fn fill(directory: &Path, prefix: &str, kind: Kind) {
    fs::create_dir(directory).unwrap();
    for number in 0..SWAPPABLE {
        let entry = directory.join(format!("{prefix}{number}"));
        match kind {
            Kind::File => fs::write(entry, "plain").unwrap(),
            Kind::Directory => {
                fs::create_dir(&entry).unwrap();
                fs::write(entry.join("file"), "plain").unwrap();
            }
        }
    }
}

/// Copies the entries `names` of `kept`, with nothing but words for an answer where it fails.
fn copy(kept: &Path, names: &[&CStr], target: &Path) -> Result<(), String> {
    let handle = openat(CWD, kept, DIRECTORY, Mode::empty()).unwrap();
    let into = openat(CWD, target, DIRECTORY, Mode::empty()).unwrap();
    let scratch = openat(CWD, target.parent().unwrap(), DIRECTORY, Mode::empty()).unwrap();
    let source = Source { path: kept, handle: &handle };
    let how = How {
        caller: &Caller::current(),
        unreadable: Unreadable::Fail,
        most_bytes: None,
        check_interrupt: &|| Ok(()),
        progress: None,
        scratch: &scratch,
    };
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let copied =
        if names.is_empty() { copy_tree(&source, None, into, &how) } else { copy_entries(&source, &names, into, &how) };
    copied.map(drop).map_err(|failure| match failure {
        Failure::Other(error) => error.to_string(),
        other => panic!("{other:?}"),
    })
}

/// Opens the fifo in `directory` after a while, so that who waits for that does not wait for ever. The answer is whether one has waited.
fn waited_for_fifo(directory: &Path, is_over: &Receiver<()>) -> bool {
    let _ = is_over.recv_timeout(PATIENCE);
    let is_fifo = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_fifo());
    let mut fifos = fs::read_dir(directory).unwrap().flatten().filter(is_fifo);
    // It cannot be opened so unless somebody reads.
    fifos.any(|fifo| openat(CWD, fifo.path(), OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).is_ok())
}

/// Copies while an entry becomes something else in the moment before it is opened, by this thread or by another.
fn copy_over_swapped(prefix: &'static str, kind: Kind, put_there: impl Fn(&Path, &Path), in_another: bool) {
    let setting = TempDir::new().unwrap();
    let precious = precious(setting.path());
    let [kept, aside, target] = ["kept", "aside", "target"].map(|name| setting.path().join(name));
    fs::create_dir(&kept).unwrap();
    fs::create_dir(&target).unwrap();
    fs::create_dir(kept.join("many")).unwrap();
    for number in 0..if in_another { MANY } else { 0 } {
        fs::write(kept.join("many").join(number.to_string()), "plain").unwrap();
    }
    fill(&kept.join("swapped"), prefix, kind);
    put_there(&aside, &precious);
    let (ends, end) = mpsc::channel();
    let answer = thread::scope(|scope| {
        let waited = scope.spawn(|| waited_for_fifo(&kept.join("swapped"), &{ end }));
        let names = [c"many", c"swapped"];
        let answer = while_one_is_swapped(prefix, &aside, in_another, || copy(&kept, &names, &target));
        drop(ends);
        assert!(!waited.join().unwrap(), "it has waited for somebody to open the fifo");
        answer
    });
    assert!(!holds_secret(&target));
    assert!(answer.unwrap_err().contains("changed while it was copied"));
}

fn link_to_file(aside: &Path, precious: &Path) {
    symlink(precious.join("file"), aside).unwrap();
}

fn link_to_directory(aside: &Path, precious: &Path) {
    symlink(precious, aside).unwrap();
}

fn fifo(aside: &Path, _: &Path) {
    mknodat(CWD, aside, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

#[test]
fn a_file_that_becomes_a_link_is_not_copied() {
    copy_over_swapped("file-to-link-", Kind::File, link_to_file, false);
}

#[test]
fn a_file_that_becomes_a_link_is_not_copied_by_another_thread() {
    copy_over_swapped("another-file-to-link-", Kind::File, link_to_file, true);
}

#[test]
fn a_file_that_becomes_a_fifo_is_not_waited_for() {
    copy_over_swapped("file-to-fifo-", Kind::File, fifo, false);
}

#[test]
fn a_file_that_becomes_a_fifo_is_not_waited_for_by_another_thread() {
    copy_over_swapped("another-file-to-fifo-", Kind::File, fifo, true);
}

#[test]
fn a_directory_that_becomes_a_link_is_not_copied() {
    copy_over_swapped("directory-to-link-", Kind::Directory, link_to_directory, false);
}

#[test]
fn a_directory_that_becomes_a_link_is_not_copied_by_another_thread() {
    copy_over_swapped("another-directory-to-link-", Kind::Directory, link_to_directory, true);
}

/// Removes a directory while one below it becomes a link in the moment before it is opened, by this thread or by another.
fn remove_over_swapped(prefix: &'static str, in_another: bool) {
    let setting = TempDir::new().unwrap();
    let precious = precious(setting.path());
    let (tree, aside) = (setting.path().join("tree"), setting.path().join("aside"));
    fill(&tree, prefix, Kind::Directory);
    link_to_directory(&aside, &precious);
    let parent = openat(CWD, setting.path(), DIRECTORY, Mode::empty()).unwrap();
    let top = openat(&parent, "tree", DIRECTORY, Mode::empty()).unwrap();
    let remove = || remove_tree(&parent, "tree".as_ref(), &top);
    while_one_is_swapped(prefix, &aside, in_another, || {
        if in_another {
            remove_on_all_cores(&top, &AtomicUsize::new(0));
        } else {
            assert!(remove().is_err());
        }
    });
    assert!(holds_secret(&precious));
    // Nothing is in its way any more: another try takes the link for what it is.
    remove().unwrap();
    assert!(!tree.exists() && holds_secret(&precious));
}

#[test]
fn a_directory_that_becomes_a_link_is_not_emptied() {
    remove_over_swapped("removed-", false);
}

#[test]
fn a_directory_that_becomes_a_link_is_not_emptied_by_another_thread() {
    remove_over_swapped("another-removed-", true);
}

#[test]
fn a_copy_follows_no_link_that_is_put_into_its_way() {
    let setting = TempDir::new().unwrap();
    let precious = precious(setting.path());
    let (kept, aside) = (setting.path().join("kept"), setting.path().join("aside"));
    fs::create_dir_all(kept.join("directory")).unwrap();
    fs::create_dir(&aside).unwrap();
    for name in ["file", "directory/file"] {
        fs::write(kept.join(name), "plain").unwrap();
    }
    link_to_directory(&aside.join("directory"), &precious);
    link_to_file(&aside.join("file"), &precious);
    let pairs = ["directory", "file"].map(|name| (kept.join(name), aside.join(name)));
    while_swapping(&pairs, || {
        for _ in 0..ROUNDS {
            let target = TempDir::new_in(setting.path()).unwrap();
            // It may give up, in words: what it copies is not there any more.
            let _ = copy(&kept, &[], target.path());
            assert!(!holds_secret(target.path()));
        }
    });
}

#[test]
fn a_removal_follows_no_link_that_is_put_into_its_way() {
    let setting = TempDir::new().unwrap();
    let precious = precious(setting.path());
    for _ in 0..ROUNDS {
        let round = TempDir::new_in(setting.path()).unwrap();
        let (tree, aside) = (round.path().join("tree"), round.path().join("aside"));
        fs::create_dir_all(tree.join("directory/below")).unwrap();
        fs::write(tree.join("directory/file"), "").unwrap();
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
