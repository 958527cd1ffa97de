//! The table at the end: medians, and their ratios to the floor and to bubblewrap.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::candidates::{
    BASH, BASH_IN_BUBBLEWRAP, BUBBLEWRAP, FLOOR, LIBRARY, NIX_SHELL, PROGRAM, PROGRAM_ALONE, SMALL_CLOSURE,
};

const HEAD: [&str; 4] = ["command is a no-op", "median", "× bare clone3", "× bubblewrap"];

/// What was measured, in the order of measuring.
pub struct Table {
    rows: Vec<Row>,
    has_bubblewrap: bool,
}

struct Row {
    name: &'static str,
    /// Nanoseconds.
    median: f64,
}

impl Table {
    /// Reads what criterion wrote below `group` since `begin`; a candidate that was not asked for has no row.
    pub fn read(group: &Path, names: impl Iterator<Item = &'static str>, begin: SystemTime) -> Result<Self> {
        let mut rows = Vec::new();
        let mut has_bubblewrap = false;
        for name in names {
            has_bubblewrap |= name == BUBBLEWRAP;
            let file = group.join(name).join("new/estimates.json");
            if fs::metadata(&file).and_then(|status| status.modified()).is_ok_and(|written| written >= begin) {
                let median = read_median(&file).with_context(|| format!("cannot read {}", file.display()))?;
                rows.push(Row { name, median });
            }
        }
        Ok(Self { rows, has_bubblewrap })
    }

    fn median(&self, name: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.name == name).map(|row| row.median)
    }

    fn ratio(&self, median: f64, to: &str) -> String {
        self.median(to).map_or("–".into(), |to| format!("{:.2}", median / to))
    }

    fn cells(&self) -> Vec<[String; 4]> {
        let row = |Row { name, median }: &Row| {
            let milliseconds = format!("{:.3} ms", median / 1e6);
            [(*name).into(), milliseconds, self.ratio(*median, FLOOR), self.ratio(*median, BUBBLEWRAP)]
        };
        let missing = [BUBBLEWRAP, "not installed", "–", "–"].map(String::from);
        self.rows.iter().map(row).chain((!self.has_bubblewrap).then_some(missing)).collect()
    }

    fn write_goal(&self, f: &mut fmt::Formatter<'_>, name: &str, most: f64, of: &str) -> fmt::Result {
        write!(f, "Goal: {name} at most {most} × {of}")?;
        match (self.median(name), self.median(of)) {
            (Some(median), Some(of)) => {
                let ratio = median / of;
                writeln!(f, "; in this run {ratio:.2}, {}.", if ratio <= most { "reached" } else { "missed" })
            }
            _ => writeln!(f, "; not measured in this run."),
        }
    }
}

fn read_median(file: &Path) -> Result<f64> {
    let estimates: Value = serde_json::from_slice(&fs::read(file)?)?;
    estimates["median"]["point_estimate"].as_f64().context("it tells no median")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = self.cells();
        let mut widths = HEAD.map(|head| head.chars().count());
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let [name, median, floor, bubblewrap] = widths;
        let mut line =
            |[a, b, c, d]: [&str; 4]| writeln!(f, "| {a:<name$} | {b:>median$} | {c:>floor$} | {d:>bubblewrap$} |");
        line(HEAD)?;
        let rule = |width: usize| "-".repeat(width);
        let right = |width: usize| format!("{}:", "-".repeat(width - 1));
        line([&rule(name), &right(median), &right(floor), &right(bubblewrap)])?;
        for [a, b, c, d] in &cells {
            line([a, b, c, d])?;
        }
        writeln!(f)?;
        self.write_goal(f, LIBRARY, 1.3, FLOOR)?;
        self.write_goal(f, PROGRAM, 0.5, BUBBLEWRAP)?;
        self.write_goal(f, PROGRAM_ALONE, 0.35, BUBBLEWRAP)?;
        self.write_goal(f, BASH, 0.5, BASH_IN_BUBBLEWRAP)?;
        self.write_goal(f, BASH, 0.1, NIX_SHELL)?;
        self.write_goal(f, SMALL_CLOSURE, 1.3, PROGRAM_ALONE)
    }
}
