//! Copies a kept build directory as `cp -a` would, owned by the caller: alone as long as the tree is small, then on all cores.
//!
//! The directory comes from untrusted code, and may still change: everything is reached by directory descriptor, no symbolic
//! link is followed, and nothing but regular files and directories is opened.

mod content;
mod hard_links;
mod job;
mod level;
mod listing;
mod worker;

use std::ffi::CString;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use anyhow::Error;
use rustix::fs::{Gid, Mode, RawMode, Stat, Uid, fstat};
use rustix::io::Errno;

use self::job::Job;
use self::level::Level;
pub(super) use self::listing::{Line, Listing, count};
use self::worker::Worker;
use crate::caller::Caller;
use crate::descriptor_limit::DescriptorLimit;

/// Entries that are copied before other threads are worth what it takes to start them.
const ALONE: u64 = 500;
/// More threads than this only wait for each other in the file system.
const MOST_THREADS: usize = 16;

/// What to do with a file that the caller may not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Stop, and name it.
    Fail,
    /// Go on without it, and count it.
    LeaveOut,
}

/// Called now and then while a tree is copied; an error from it ends the copy.
pub type CheckInterrupt<'a> = &'a dyn Fn() -> anyhow::Result<()>;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopySummary {
    /// Files, links and directories, the top one left out.
    pub entries: u64,
    /// Bytes in regular files, holes included.
    pub bytes: u64,
    /// Entries that were left out, with all below them, since the caller may not read them.
    pub left_out: u64,
}

/// Why a tree could not be copied.
#[derive(Debug)]
pub(super) enum Failure {
    /// The target cannot take it.
    NoRoom(Errno),
    /// It has more bytes than were to be copied.
    TooMuch,
    /// Anything else, in words.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// What there is to copy, and how.
pub(super) struct Source<'a> {
    /// The directory, as the caller can name it.
    pub path: &'a Path,
    /// The same directory, opened.
    pub handle: &'a OwnedFd,
}

/// How a copy is made.
pub(super) struct How<'a> {
    /// Whose it becomes.
    pub caller: &'a Caller,
    /// What to do with what he may not read.
    pub unreadable: Unreadable,
    /// The most bytes on the disk that are copied; beyond it is [`Failure::TooMuch`].
    pub most_bytes: Option<u64>,
    /// Whether the user wants to stop.
    pub check_interrupt: CheckInterrupt<'a>,
    /// Told now and then how many entries were copied, where it takes long enough to be told.
    pub progress: Option<&'a dyn Fn(u64)>,
    /// The scratch directory, where a copy of files with several names puts them aside.
    pub scratch: &'a OwnedFd,
}

/// Copies everything in `source` into the empty directory `target`, which becomes the builder's `/build`: mode 0700. What was listed
/// already is not listed again.
pub(super) fn copy_tree(
    source: &Source<'_>,
    listing: Option<Listing>,
    target: OwnedFd,
    how: &How<'_>,
) -> Result<CopySummary, Failure> {
    let _limit = DescriptorLimit::raise();
    let job = Job::new(source.path, how);
    let mut worker = Worker::new(&job, Some(how));
    let mut listing = match listing {
        Some(listing) => listing,
        None => Listing::begin(source.handle).map_err(|errno| job.cannot_read_top(errno))?,
    };
    listing.status.st_mode = Mode::RWXU.bits() as RawMode;
    worker.begin(Level::top(listing.directory, target, listing.status), listing.names, listing.reads_on);
    run(&job, worker)
}

/// Copies the entries `names` of `source`, with all that is in them, into the directory `target`, and leaves `target` itself as it is.
pub(super) fn copy_entries(
    source: &Source<'_>,
    names: &[CString],
    target: OwnedFd,
    how: &How<'_>,
) -> Result<CopySummary, Failure> {
    let _limit = DescriptorLimit::raise();
    let job = Job::new(source.path, how);
    let mut worker = Worker::new(&job, Some(how));
    let cannot_read = |errno| job.cannot_read_top(errno);
    let status = fstat(source.handle).map_err(cannot_read)?;
    let handle = rustix::io::dup(source.handle).map_err(cannot_read)?;
    let mut level = Level::top(handle, target, status);
    level.is_finished = true;
    worker.begin(level, names.iter().cloned().map(Into::into).collect(), false);
    run(&job, worker)
}

/// Gives the directory `target`, which becomes the builder's `/build`, what belongs to `source` itself, of which `status` tells.
///
/// # Errors
/// The kernel's.
pub(super) fn finish_top(source: &OwnedFd, target: &OwnedFd, status: &Stat, caller: &Caller) -> rustix::io::Result<()> {
    let mut status = *status;
    status.st_mode = Mode::RWXU.bits() as RawMode;
    worker::finish_opened(source, target, &status, owner_of_copy(caller))
}

/// Whom a copy is given to, where that is not us.
fn owner_of_copy(caller: &Caller) -> Option<(Uid, Gid)> {
    caller.must_change_ids().then_some((caller.uid, caller.gid))
}

fn run(job: &Job<'_>, mut first: Worker<'_, '_>) -> Result<CopySummary, Failure> {
    if first.run_alone(ALONE)? {
        job.end()?;
        return Ok(first.summary);
    }
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
    let summary = thread::scope(|scope| {
        let spawn = || {
            job.add_worker();
            let others = thread::Builder::new().spawn_scoped(scope, || Worker::new(job, None).work());
            // Where there can be no more threads, those that there are do it.
            others.inspect_err(|_| job.remove_worker()).ok()
        };
        let others: Vec<_> = (1..threads).map_while(|_| spawn()).collect();
        let mut summary = first.work();
        for other in others {
            let CopySummary { entries, bytes, left_out } = other.join().unwrap_or_default();
            summary.entries += entries;
            summary.bytes += bytes;
            summary.left_out += left_out;
        }
        summary
    });
    job.end()?;
    Ok(summary)
}
