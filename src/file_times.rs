//! The times of files, as Rust compares them.

use std::time::{Duration, SystemTime};

use rustix::fs::{Stat, Statx, StatxFlags};

/// The clock that the times of files go by ticks a hundred times a second, or more often: a file that is written may bear a time that is
/// so far behind.
pub const TICK: Duration = Duration::from_millis(10);

/// When content, mode, names or owner changed last.
pub fn changed(status: &Stat) -> SystemTime {
    time(status.st_ctime, status.st_ctime_nsec)
}

/// When the content changed last, or what somebody has set in place of that.
pub fn modified(status: &Stat) -> SystemTime {
    time(status.st_mtime, status.st_mtime_nsec)
}

/// When the file was made, in seconds since 1970 and nanoseconds: what [`statx(2)`] tells if it was asked for `STATX_BTIME`, and the file
/// system notes it.
///
/// [`statx(2)`]: https://man7.org/linux/man-pages/man2/statx.2.html
pub fn born(status: &Statx) -> Option<(i64, u32)> {
    let is_told = status.stx_mask & StatxFlags::BTIME.bits() != 0;
    is_told.then_some((status.stx_btime.tv_sec, status.stx_btime.tv_nsec))
}

fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(nanoseconds)
}
