//! How a command ends, and when at the latest.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

/// How a command has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this exit status, or 128+n when the signal n ended it.
    Exited(u8),
    /// We have ended it, with all that ran in its sandbox, when its time was over.
    TimedOut,
}

impl Ending {
    /// The status of a time that is over, as of `timeout(1)`.
    const TIMED_OUT: u8 = 124;

    /// The exit status that tells it.
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::TimedOut => Self::TIMED_OUT,
        }
    }
}

/// When a command has to have ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// There is none without a limit, nor with one that no machine will see the end of.
    pub(super) fn after(limit: Option<Duration>) -> Self {
        Self(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    pub(super) fn is_over(self) -> bool {
        self.0.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// How long it is until then, for `ppoll(2)`.
    pub(super) fn left(self) -> Option<Timespec> {
        let left = self.0?.saturating_duration_since(Instant::now());
        Some(Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_comes_once_there_is_one() {
        assert!(!Deadline::after(None).is_over() && Deadline::after(None).left().is_none());
        assert!(!Deadline::after(Some(Duration::MAX)).is_over());
        assert!(!Deadline::after(Some(Duration::from_secs(1000))).is_over());
        let over = Deadline::after(Some(Duration::ZERO));
        assert!(over.is_over());
        assert_eq!(over.left().map(|left| (left.tv_sec, left.tv_nsec)), Some((0, 0)));
        assert_eq!([Ending::Exited(3).status(), Ending::TimedOut.status()], [3, 124]);
    }
}
