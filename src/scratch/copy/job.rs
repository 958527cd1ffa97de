//! What the threads that copy a tree have in common: what is left to do, whether to stop, and the words for what went wrong.

use std::ffi::CStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use rustix::fs::{Gid, Stat, Uid};
use rustix::io::Errno;

use super::hard_links::HardLinks;
use super::level::Level;
use super::listing::Name;
use super::{Failure, How, Unreadable, owner_of_copy};
use crate::owner::Owner;

/// How often a thread that has nothing to do looks up.
const PATIENCE: Duration = Duration::from_millis(50);

/// Entries of a directory that are to be copied.
pub(super) struct Work {
    pub level: Arc<Level>,
    pub names: Vec<Name>,
}

/// The copying of one tree.
pub(super) struct Job<'a> {
    kept: &'a Path,
    pub unreadable: Unreadable,
    /// Whom the copy is given to, where that is not us.
    pub owner: Option<(Uid, Gid)>,
    pub links: HardLinks<'a>,
    most_bytes: Option<u64>,
    bytes_on_disk: AtomicU64,
    /// How many entries were begun.
    pub entries: AtomicU64,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// How many threads want something to do for which nothing is in the queue.
    hungry: AtomicUsize,
    stopped: AtomicBool,
}

struct Queue {
    work: Vec<Work>,
    workers: usize,
    idle: usize,
    failure: Option<Failure>,
}

impl<'a> Job<'a> {
    pub fn new(kept: &'a Path, how: &How<'a>) -> Self {
        Self {
            kept,
            unreadable: how.unreadable,
            owner: owner_of_copy(how.caller),
            links: HardLinks::new(how.scratch),
            most_bytes: how.most_bytes,
            bytes_on_disk: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            queue: Mutex::new(Queue { work: Vec::new(), workers: 1, idle: 0, failure: None }),
            changed: Condvar::new(),
            hungry: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A thread that panics ends the program.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add_worker(&self) {
        self.lock().workers += 1;
    }

    pub fn remove_worker(&self) {
        self.lock().workers -= 1;
        self.changed.notify_all();
    }

    /// Whether a thread waits for a share of what another has to do.
    pub fn is_anybody_hungry(&self) -> bool {
        self.hungry.load(Ordering::Relaxed) > 0
    }

    pub fn offer(&self, work: Work) {
        let mut queue = self.lock();
        queue.work.push(work);
        self.note_hunger(&queue);
        self.changed.notify_one();
    }

    /// Waits for something to do; nothing when all is done, or one has failed. Meanwhile `look_up` is called.
    pub fn take(&self, look_up: impl Fn() -> Result<(), Failure>) -> Result<Option<Work>, Failure> {
        let mut queue = self.lock();
        queue.idle += 1;
        loop {
            if self.is_stopped() || (queue.work.is_empty() && queue.idle == queue.workers) {
                self.changed.notify_all();
                return Ok(None);
            }
            if let Some(work) = queue.work.pop() {
                queue.idle -= 1;
                self.note_hunger(&queue);
                return Ok(Some(work));
            }
            self.note_hunger(&queue);
            queue = self.changed.wait_timeout(queue, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
            look_up()?;
        }
    }

    fn note_hunger(&self, queue: &Queue) {
        self.hungry.store(queue.idle.saturating_sub(queue.work.len()), Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Has every thread stop, for this reason if it is the first.
    pub fn fail(&self, failure: Failure) {
        self.lock().failure.get_or_insert(failure);
        self.stopped.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// What is left to do when all threads have ended.
    pub fn end(&self) -> Result<(), Failure> {
        if let Some(failure) = self.lock().failure.take() {
            return Err(failure);
        }
        self.links.end().map_err(Failure::Other)
    }

    /// Counts the bytes of a file that is about to be copied.
    pub fn count_bytes(&self, status: &Stat) -> Result<(), Failure> {
        let Some(most) = self.most_bytes else { return Ok(()) };
        let bytes = u64::try_from(status.st_blocks).unwrap_or(0) * 512;
        let before = self.bytes_on_disk.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > most { Err(Failure::TooMuch) } else { Ok(()) }
    }

    pub fn cannot_read_top(&self, errno: Errno) -> Failure {
        anyhow!("cannot read {}: {errno}", self.kept.display()).into()
    }

    /// The entry `name` is none that can be copied.
    pub fn is_a_device(&self, level: &Level, name: &CStr) -> Failure {
        anyhow!("{} is a device, which no build can make; remove it", level.path_to(self.kept, name).display()).into()
    }

    pub fn has_changed(&self, level: &Level, name: &CStr) -> Failure {
        anyhow!("{} changed while it was copied", level.path_to(self.kept, name).display()).into()
    }

    /// The entry `name` may not be read.
    pub fn may_not_read(&self, level: &Level, name: &CStr, status: &Stat) -> Failure {
        anyhow!(
            "you may not read {}, which belongs to {}: call nix-build-shell with sudo, or leave such files out with --ignore-unreadable",
            level.path_to(self.kept, name).display(),
            Owner::of(status)
        )
        .into()
    }

    /// The entry `name`, or the directory itself, cannot be copied.
    pub fn cannot_copy(&self, level: &Level, name: Option<&CStr>, errno: Errno) -> Failure {
        let path = name.map_or_else(|| level.path(self.kept), |name| level.path_to(self.kept, name));
        let cause = match errno {
            Errno::INVAL if self.owner.is_some() => " (the user who called sudo is not known in this user namespace)",
            Errno::FBIG => " (it is larger than the limit «ulimit -f»)",
            Errno::MFILE => " (its directories are nested too deeply for the limit «ulimit -Hn»)",
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR => " (it changed while it was copied)",
            _ => "",
        };
        anyhow!("cannot copy {}: {errno}{cause}", path.display()).into()
    }

    /// The same, where it is the copy that resists.
    pub fn cannot_write(&self, level: &Level, name: Option<&CStr>, errno: Errno) -> Failure {
        match errno {
            Errno::NOSPC | Errno::DQUOT => Failure::NoRoom(errno),
            _ => self.cannot_copy(level, name, errno),
        }
    }
}
