//! Limits that the caller sets to a sandbox, as they are written on the command line.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What all processes of a sandbox may use together. Nothing where nobody has set a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Processes and threads of the command and all that it starts.
    pub processes: Option<u32>,
    /// Processors.
    pub processors: Option<Processors>,
}

/// A number of processors, to the thousandth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processors {
    thousandths: u32,
}

/// The most that anybody has.
const MOST_PROCESSORS: f64 = 100_000.0;
/// Suffixes of a size and how often each is 1024-fold.
const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
/// Suffixes of a duration, in seconds, as of `sleep(1)` and `timeout(1)`.
const SPANS: [(char, f64); 4] = [('s', 1.0), ('m', 60.0), ('h', 3600.0), ('d', 86_400.0)];

impl Limits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Those of `self` that `others` does not have.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self {
            memory: self.memory.filter(|_| others.memory.is_none()),
            processes: self.processes.filter(|_| others.processes.is_none()),
            processors: self.processors.filter(|_| others.processors.is_none()),
        }
    }

    /// In words, after `before`; nothing where there are none.
    pub fn words(&self, before: &str) -> String {
        let memory = self.memory.map(|bytes| format!("{} of memory", size(bytes)));
        let processes = self.processes.map(|number| counted(number, "process", "es"));
        let processors = self.processors.map(|number| number.to_string());
        let all: Vec<_> = [memory, processes, processors].into_iter().flatten().collect();
        match all.split_last() {
            None => String::new(),
            Some((last, [])) => format!("{before}{last}"),
            Some((last, others)) => format!("{before}{} and {last}", others.join(", ")),
        }
    }

    /// Reads a size: digits with K, M, G or T behind them, which are powers of 1024, and perhaps iB or B.
    ///
    /// # Errors
    /// What is none, or is nothing.
    pub fn parse_memory(text: &str) -> Result<u64> {
        let number = text.strip_suffix("iB").or_else(|| text.strip_suffix('B')).unwrap_or(text);
        let unit =
            number.chars().last().and_then(|last| UNITS.iter().find(|(unit, _)| last.eq_ignore_ascii_case(unit)));
        let digits = if unit.is_some() { &number[..number.len() - 1] } else { number };
        let factor = 1u64 << unit.map_or(0, |(_, bits)| *bits);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let bytes = digits.parse::<u64>().ok().filter(|_| is_number).and_then(|number| number.checked_mul(factor));
        match bytes {
            Some(0) => bail!("with no memory nothing runs"),
            Some(bytes) if i64::try_from(bytes).is_ok() => Ok(bytes),
            _ => bail!("a size is digits with K, M, G or T behind them, such as 512M"),
        }
    }

    /// Reads a number of processes.
    ///
    /// # Errors
    /// What is none, or is nothing.
    pub fn parse_processes(text: &str) -> Result<u32> {
        // The sandbox's init is one more, and the kernel knows no larger number than that of PIDs.
        match text.parse::<u32>() {
            Ok(0) => bail!("with no process nothing runs"),
            Ok(number) if number < 1 << 22 => Ok(number),
            _ => bail!("a number of processes has digits only, and is below 4194304"),
        }
    }

    /// Reads a number of processors, such as 2 or 1.5.
    ///
    /// # Errors
    /// What is none, or is nothing.
    pub fn parse_processors(text: &str) -> Result<Processors> {
        let number = decimal(text).context("a number of processors is one such as 2 or 1.5")?;
        // The kernel takes no less than a hundredth.
        if !(0.01..=MOST_PROCESSORS).contains(&number) {
            bail!("a number of processors is at least 0.01");
        }
        Ok(Processors { thousandths: (number * 1000.0).round() as u32 })
    }

    /// Reads a duration as `timeout(1)` has it: a number, with s, m, h or d behind it; without, seconds.
    ///
    /// # Errors
    /// What is none, or is no time at all.
    pub fn parse_duration(text: &str) -> Result<Duration> {
        let what = "a duration is a number with s, m, h or d behind it, such as 90s or 1.5h";
        let span = text.chars().last().and_then(|last| SPANS.iter().find(|(span, _)| *span == last));
        let digits = if span.is_some() { &text[..text.len() - 1] } else { text };
        let seconds = decimal(digits).context(what)? * span.map_or(1.0, |(_, seconds)| *seconds);
        let duration = Duration::try_from_secs_f64(seconds).ok().context(what)?;
        if duration.is_zero() {
            bail!("in no time at all nothing runs");
        }
        Ok(duration)
    }
}

/// Digits, and perhaps a point with digits behind it: a float alone would let more pass.
fn decimal(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(whole) && is_number(fraction)).then(|| text.parse().ok()).flatten()
}

impl Processors {
    /// The quota of `cpu.max` for this period, both in microseconds.
    pub fn quota(self, period: u64) -> u64 {
        u64::from(self.thousandths) * period / 1000
    }

    /// As many whole ones as it takes.
    pub fn whole(self) -> u32 {
        self.thousandths.div_ceil(1000)
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = f64::from(self.thousandths) / 1000.0;
        write!(f, "{number} processor{}", if self.thousandths == 1000 { "" } else { "s" })
    }
}

/// A number of things.
pub(crate) fn counted(number: u32, one: &str, ending: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { ending })
}

/// Bytes as a person reads and writes them.
pub(crate) fn size(bytes: u64) -> String {
    let whole = UNITS.iter().rev().find(|(_, bits)| bytes.is_multiple_of(1 << bits));
    whole.map_or_else(|| format!("{bytes} bytes"), |(unit, bits)| format!("{} {unit}iB", bytes >> bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_said() {
        let read = |text| Limits::parse_memory(text).unwrap();
        assert_eq!([read("512M"), read("2g"), read("64KiB"), read("100B")], [512 << 20, 2 << 30, 64 << 10, 100]);
        assert_eq!([512 << 20, 3 << 40, 1500].map(size), ["512 MiB", "3 TiB", "1500 bytes"]);
        for text in ["", "M", "1.5G", "-1", "+1", "0", "0K", "1Mi", "1KB2", "99999999999T", "9e9", "1 G", "ß"] {
            assert!(Limits::parse_memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn processes_and_processors_are_read_and_said() {
        assert_eq!(Limits::parse_processes("100").unwrap(), 100);
        for text in ["", "0", "-1", "many", "1.5", "99999999"] {
            assert!(Limits::parse_processes(text).is_err(), "{text}");
        }
        let half = Limits::parse_processors("1.5").unwrap();
        assert_eq!((half.quota(100_000), half.whole(), half.to_string()), (150_000, 2, "1.5 processors".into()));
        assert_eq!(Limits::parse_processors("1").unwrap().to_string(), "1 processor");
        for text in ["", "0", "0.001", "-1", "1.", ".5", "inf", "NaN", "1e3", "1,5"] {
            assert!(Limits::parse_processors(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_those_of_timeout() {
        let seconds = |text| Limits::parse_duration(text).unwrap().as_secs_f64();
        assert_eq!(["5", "0.5s", "2m", "1.5h", "1d"].map(seconds), [5.0, 0.5, 120.0, 5400.0, 86400.0]);
        for text in ["", "s", "0", "0s", "-1", "5x", "inf", "1e400", "5 s", "99999999999999999999d", "ß"] {
            assert!(Limits::parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_said_in_one_breath() {
        let all = Limits {
            memory: Some(1 << 30),
            processes: Some(1),
            processors: Some(Limits::parse_processors("2").unwrap()),
        };
        assert_eq!(all.words("at most "), "at most 1 GiB of memory, 1 process and 2 processors");
        let only_memory = all.without(Limits { memory: None, ..all });
        assert_eq!(only_memory.words("at most "), "at most 1 GiB of memory");
        assert_eq!(Limits::default().words("at most "), "");
    }
}
