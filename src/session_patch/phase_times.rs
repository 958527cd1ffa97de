//! When phases ran in a session, as its shell has noted it.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::tree::{Entry, Moment};
use crate::scratch::Scratch;

/// Spans of time. Untrusted code may have written them, which gains nothing: its own files are said to be its own.
#[derive(Debug, Default)]
pub(super) struct PhaseTimes {
    spans: Vec<Span>,
    /// The paths, below the build directory, of what was written before and between them; nothing where that is not known.
    typed: Option<HashSet<Vec<u8>>>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: Moment,
    end: Moment,
    /// Whether nobody could type meanwhile, and it is known what was written before.
    is_alone: bool,
}

impl PhaseTimes {
    /// Those of the session in `scratch`, whose build directory is `top` in the sandbox.
    pub fn of(scratch: &Scratch, top: &Path) -> Self {
        let times = Self::parse(&scratch.phase_times_of_session().unwrap_or_default());
        times.with_typed(scratch.typed_between_phases().as_deref(), top)
    }

    /// Reads lines of `begin SHELL TIME [alone]` and `end SHELL TIME`, where TIME is seconds since 1970, perhaps with a fraction, which has
    /// the locale's point. What is none, or has no end, is passed over.
    pub fn parse(text: &[u8]) -> Self {
        let mut begun = HashMap::new();
        let mut spans = Vec::new();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split(' ');
            let (Some(what), Some(shell), Some(time)) = (words.next(), words.next(), words.next()) else { continue };
            match (what, moment(time)) {
                ("begin", Some((start, _))) => {
                    begun.insert(shell.to_owned(), (start, words.next() == Some("alone")));
                }
                ("end", Some((_, end))) => {
                    spans.extend(begun.remove(shell).map(|(start, is_alone)| Span { start, end, is_alone }));
                }
                _ => {}
            }
        }
        Self { spans, typed: None }
    }

    /// With the list of what was written before and between phases, absolute paths with a zero byte behind each.
    fn with_typed(mut self, list: Option<&[u8]>, top: &Path) -> Self {
        let top = [top.as_os_str().as_bytes(), b"/"].concat();
        let below = |path: &[u8]| path.strip_prefix(top.as_slice()).map(<[u8]>::to_vec);
        self.typed = list.map(|list| list.split(|byte| *byte == 0).filter_map(below).collect());
        self
    }

    /// Whether phases alone have made what is at `path`: it changed last while one ran, and was not there before as somebody's. What was
    /// unpacked by a phase bears an old time, but no process can set the time of its last change.
    pub fn made(&self, path: &[u8], entry: &Entry) -> bool {
        self.typed.as_ref().is_some_and(|typed| !typed.contains(path))
            && self.spans.iter().any(|span| span.is_alone && span.contains(entry.changed))
    }

    /// Whether a phase ran at a time that a file bears.
    pub fn contains(&self, moment: Moment) -> bool {
        self.spans.iter().any(|span| span.contains(moment))
    }
}

impl Span {
    fn contains(&self, moment: Moment) -> bool {
        self.start <= moment && moment <= self.end
    }
}

/// The earliest and the latest moment that is meant.
fn moment(time: &str) -> Option<(Moment, Moment)> {
    let (seconds, fraction) = time.split_once(['.', ',']).map_or((time, None), |(whole, part)| (whole, Some(part)));
    let seconds: i64 = seconds.parse().ok().filter(|seconds| (0..i64::MAX / 2).contains(seconds))?;
    let Some(fraction) = fraction else {
        return Some(((seconds, 0), (seconds + 1, 0)));
    };
    let micros: i64 = fraction.parse().ok().filter(|_| fraction.len() == 6)?;
    let nanos = micros * 1000;
    Some(((seconds, nanos), (seconds, nanos + 999)))
}

#[cfg(test)]
mod tests {
    use super::super::tree::Kind;
    use super::*;

    #[test]
    fn what_lies_between_begin_and_end_is_a_phases() {
        let times = PhaseTimes::parse(b"begin 7 100.500000\nbegin 8 200,005000\nend 7 101.250000\nend 8 200,006000\n");
        assert!(times.contains((100, 500_000_000)) && times.contains((101, 250_000_500)));
        assert!(times.contains((200, 5_000_000)) && times.contains((200, 6_000_000)));
        assert!(!times.contains((100, 499_999_999)) && !times.contains((101, 251_000_000)));
    }

    #[test]
    fn a_bash_without_fractions_means_whole_seconds() {
        let times = PhaseTimes::parse(b"begin 7 100\nend 7 100\n");
        assert!(times.contains((100, 0)) && times.contains((100, 999_999_999)) && !times.contains((101, 1)));
    }

    #[test]
    fn what_has_no_end_and_what_is_no_time_is_passed_over() {
        for text in
            ["begin 7 100.000000\n", "end 7 100.000000\n", "begin 7 -1\nend 7 99999999999999999999\n", "begin\n\n\0"]
        {
            assert!(PhaseTimes::parse(text.as_bytes()).spans.is_empty(), "{text}");
        }
        // The shell that was interrupted has begun again.
        let times = PhaseTimes::parse(b"begin 7 100.000000\nbegin 7 200.000000\nend 7 201.000000\n");
        assert!(!times.contains((100, 500_000_000)) && times.contains((200, 500_000_000)));
    }

    #[test]
    fn what_phases_alone_have_made_nobody_has_typed() {
        let text = b"begin 7 100.500000 alone\nend 7 101.000000\nbegin 7 200.000000\nend 7 201.000000\n";
        let times = |list| PhaseTimes::parse(text).with_typed(list, Path::new("/build"));
        let entry = |seconds| {
            let changed = (seconds, 0);
            Entry { kind: Kind::File, executable: false, size: 1, modified: (1, 0), changed, inode: 1 }
        };
        let list: &[u8] = b"/build/typed.c\0/buildings/other.c\0";
        assert!(times(Some(list)).made(b"made.c", &entry(101)) && times(Some(list)).made(b"other.c", &entry(101)));
        assert!(!times(Some(list)).made(b"typed.c", &entry(101)) && !times(Some(list)).made(b"made.c", &entry(102)));
        // Somebody could type meanwhile, or nobody knows what was there before.
        assert!(!times(Some(list)).made(b"made.c", &entry(200)) && !times(None).made(b"made.c", &entry(101)));
    }
}
