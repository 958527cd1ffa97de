//! Tables as `list` and `sessions` print them, and what stands in them.

use std::time::{SystemTime, UNIX_EPOCH};

/// The rows, a line each, with their columns below each other.
pub(super) fn columns<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> String {
    let lines: Vec<_> = rows.into_iter().collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(&widths).map(|(word, width)| format!("{word:width$}"));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A moment as programs write it; one before 1970 is 1970.
pub(super) fn seconds_since_1970(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Bytes as a person reads them.
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB"];
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if amount < 10.0 && unit > 0 {
        format!("{amount:.1} {}", units[unit])
    } else {
        format!("{amount:.0} {}", units[unit])
    }
}

/// How long ago, as a person says it.
pub(super) fn age(seconds: u64) -> String {
    let of = |amount: u64, unit: &str| format!("{amount} {unit}{} ago", if amount == 1 { "" } else { "s" });
    match seconds {
        0..60 => "just now".into(),
        60..3600 => of(seconds / 60, "minute"),
        3600..86400 => of(seconds / 3600, "hour"),
        _ => of(seconds / 86400, "day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_said_as_people_say_them() {
        let sizes = [0, 4096, 1_000_000, 5_000_000, 50_000_000, 3 << 30, 5000 << 30].map(size);
        assert_eq!(sizes, ["0 KiB", "4 KiB", "977 KiB", "4.8 MiB", "48 MiB", "3.0 GiB", "5000 GiB"]);
        let ages = [0, 59, 60, 7199, 7200, 86_400, 400 * 86_400].map(age);
        let said = ["just now", "just now", "1 minute ago", "1 hour ago", "2 hours ago", "1 day ago", "400 days ago"];
        assert_eq!(ages[3], "1 hour ago");
        assert_eq!(ages, said);
    }
}
