//! Many starts at the same time: how many a second, how long the slowest wait, and whether anything fails or is left.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::candidates::{bubblewrap, find_in_path, whole_store};
use crate::fixture::Fixture;

/// How many start at a time.
const CROWDS: [usize; 4] = [1, 2, 8, 64];
/// How many there are in all, of each program.
const STARTS: usize = 1000;

/// Measures them, and returns the table.
///
/// # Errors
/// One start that failed, or what is left.
pub fn table(fixture: &Fixture) -> Result<String> {
    let mut table = String::from("| at a time | program | starts a second | median | 99th percentile |\n");
    table += "| --------: | ------- | --------------: | -----: | --------------: |\n";
    let before = entries(fixture.directory())?;
    for crowd in CROWDS {
        let ours = || {
            let mut command = whole_store(fixture, &fixture.kept);
            Box::new(move || run(&mut command)) as Call
        };
        add_row(&mut table, "nix-build-shell", crowd, &ours)?;
        let left: Vec<_> = entries(fixture.directory())?.into_iter().filter(|name| !before.contains(name)).collect();
        ensure!(left.is_empty(), "{crowd} starts at a time have left {left:?}");
        if let Some(bwrap) = find_in_path("bwrap") {
            let theirs = || {
                let theirs = bubblewrap::Call::of_noop(&bwrap, fixture);
                let mut theirs = theirs.expect("a call that has been made before can be made again");
                Box::new(move || run(theirs.command()?)) as Call
            };
            add_row(&mut table, "bubblewrap", crowd, &theirs)?;
        }
    }
    Ok(table)
}

/// One start, again and again.
type Call = Box<dyn FnMut() -> Result<()>>;

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn add_row(table: &mut String, name: &str, crowd: usize, calls: &(dyn Fn() -> Call + Sync)) -> Result<()> {
    let begin = Instant::now();
    let mut times = start_all(crowd, calls).with_context(|| format!("{crowd} at a time of {name}"))?;
    let a_second = times.len() as f64 / begin.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let (median, worst) = (at(0.5), at(0.99));
    writeln!(table, "| {crowd} | {name} | {a_second:.0} | {median:.1} ms | {worst:.1} ms |")?;
    Ok(())
}

/// So many threads, each of which starts one after the other until all have been started.
fn start_all(crowd: usize, calls: &(dyn Fn() -> Call + Sync)) -> Result<Vec<Duration>> {
    let started = AtomicUsize::new(0);
    let work = || {
        let mut times = Vec::new();
        let mut call = calls();
        while started.fetch_add(1, Ordering::Relaxed) < STARTS / CROWDS.len() {
            let begin = Instant::now();
            call()?;
            times.push(begin.elapsed());
        }
        anyhow::Ok(times)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..crowd).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().expect("no thread panics")?);
        }
        Ok(all)
    })
}

fn entries(directory: &Path) -> Result<Vec<std::ffi::OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}
