//! The table at the end: medians, and their ratios.

use std::fmt;
use std::time::Duration;

/// One thing that was measured.
pub struct Row {
    name: &'static str,
    median: Duration,
    of: Option<&'static str>,
}

/// What a row is to be at most, as a multiple of another.
pub struct Goal {
    pub row: &'static str,
    pub most: f64,
    pub of: &'static str,
}

pub struct Table<'a> {
    rows: Vec<Row>,
    goals: &'a [Goal],
}

impl Row {
    /// The row `name` with these times, to be compared with the row `of`.
    pub fn new(name: &'static str, mut times: Vec<Duration>, of: Option<&'static str>) -> Self {
        times.sort();
        Self { name, median: times.get(times.len() / 2).copied().unwrap_or_default(), of }
    }
}

impl<'a> Table<'a> {
    pub fn new(rows: Vec<Row>, goals: &'a [Goal]) -> Self {
        Self { rows, goals }
    }

    fn ratio(&self, row: &str, of: &str) -> Option<f64> {
        let median = |name| self.rows.iter().find(|row| row.name == name).map(|row| row.median.as_secs_f64());
        Some(median(row)? / median(of)?)
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        writeln!(f, "| {:width$} | {:>10} | {:<}", "a large build directory", "median", "ratio |")?;
        writeln!(f, "| {:-<width$} | ---------: | ---: |", "")?;
        for row in &self.rows {
            let ratio = row.of.and_then(|of| Some(format!("{:.2} × {of}", self.ratio(row.name, of)?)));
            let median = format!("{:.2} ms", row.median.as_secs_f64() * 1e3);
            writeln!(f, "| {:width$} | {median:>10} | {} |", row.name, ratio.unwrap_or_else(|| "–".into()))?;
        }
        writeln!(f)?;
        for Goal { row, most, of } in self.goals {
            if let Some(ratio) = self.ratio(row, of) {
                let verdict = if ratio <= *most { "reached" } else { "missed" };
                writeln!(f, "Goal: {row} at most {most} × {of}; in this run {ratio:.2}, {verdict}.")?;
            }
        }
        Ok(())
    }
}
