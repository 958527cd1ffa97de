//! When phases ran in a session, as its shell has noted it.

use std::collections::HashMap;

use super::tree::Moment;

/// Spans of time. Untrusted code may have written them, which gains nothing: its own files are said to be its own.
#[derive(Debug, Default)]
pub(super) struct PhaseTimes(Vec<(Moment, Moment)>);

impl PhaseTimes {
    /// Reads lines of `begin SHELL TIME` and `end SHELL TIME`, where TIME is seconds since 1970, perhaps with a fraction, which has the
    /// locale's point. What is none, or has no end, is passed over.
    pub fn parse(text: &[u8]) -> Self {
        let mut begun = HashMap::new();
        let mut spans = Vec::new();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split(' ');
            let (Some(what), Some(shell), Some(time)) = (words.next(), words.next(), words.next()) else { continue };
            match (what, moment(time)) {
                ("begin", Some((start, _))) => {
                    begun.insert(shell.to_owned(), start);
                }
                ("end", Some((_, end))) => spans.extend(begun.remove(shell).map(|start| (start, end))),
                _ => {}
            }
        }
        Self(spans)
    }

    /// Whether a phase ran at a time that a file bears.
    pub fn contains(&self, moment: Moment) -> bool {
        self.0.iter().any(|(start, end)| *start <= moment && moment <= *end)
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
            assert!(PhaseTimes::parse(text.as_bytes()).0.is_empty(), "{text}");
        }
        // The shell that was interrupted has begun again.
        let times = PhaseTimes::parse(b"begin 7 100.000000\nbegin 7 200.000000\nend 7 201.000000\n");
        assert!(!times.contains((100, 500_000_000)) && times.contains((200, 500_000_000)));
    }
}
