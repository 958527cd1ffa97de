//! What a sandbox costs from its start to its end, beside what the kernel alone charges and what bubblewrap takes.
//!
//! `cargo bench` measures all candidates in one run, each with the same no-op as its command, and ends with a table of ratios.
//! Times on a shared machine mean little, and nothing is ever asserted about them; ratios within one run do.
//!
//! `make bench` runs it as an unprivileged user, also for root: around root the sandbox has more walls, and takes longer.

mod candidates;
mod crowd;
mod fixture;
mod memory;
mod race;
mod table;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use criterion::{Criterion, SamplingMode};

use self::candidates::Candidate;
use self::fixture::Fixture;
use self::race::Times;
use self::table::Table;

/// The name of the group in criterion's reports.
const GROUP: &str = "sandbox startup";
/// How often each candidate runs: less than a minute in all.
const ROUNDS: usize = 500;

fn main() -> ExitCode {
    match measure_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sandbox_startup: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all() -> Result<()> {
    let begin = SystemTime::now();
    let output = output_directory();
    let mut criterion = Criterion::default()
        .output_directory(&output)
        .without_plots()
        .sample_size(ROUNDS)
        .nresamples(5000)
        .warm_up_time(Duration::from_nanos(1))
        .configure_from_args();
    let fixture = Fixture::make()?;
    let mut candidates = candidates::all(&fixture)?;
    for candidate in &mut candidates {
        // Whatever is wrong is said once and clearly, before anything is measured.
        (candidate.run)().with_context(|| format!("«{}» does not work here", candidate.name))?;
    }
    if is_measuring() {
        eprintln!("Running {} candidates in turns, {ROUNDS} times each: about a minute", candidates.len());
        let times = race::run(&mut candidates, ROUNDS)?;
        report(&mut criterion, &candidates, times);
        criterion.final_summary();
        let names = candidates.iter().map(|candidate| candidate.name);
        print!("\n{}", Table::read(&output.join(GROUP), names, begin)?);
        println!("\n{}", crowd::table(&fixture)?);
        let peak = memory::peak(&fixture)?;
        println!("Goal: at most 6144 KiB resident with a closure of 1,000 paths; in this run {peak} KiB.");
    } else {
        try_out(&mut criterion, &mut candidates);
    }
    Ok(())
}

/// Hands the times of the race to criterion, for its statistics and its comparison with the run before.
fn report(criterion: &mut Criterion, candidates: &[Candidate<'_>], times: Vec<Times>) {
    let mut group = criterion.benchmark_group(GROUP);
    group.sampling_mode(SamplingMode::Flat);
    for (candidate, times) in candidates.iter().zip(times) {
        let mut times = times.into_iter().cycle();
        group.bench_function(candidate.name, |bencher| {
            // A sample is one round; criterion divides it by the number of iterations again.
            bencher.iter_custom(|iterations| times.next().unwrap_or_default().mul_f64(iterations as f64));
        });
    }
    group.finish();
}

/// Lets criterion run each candidate itself, for `--test` and `--profile-time`.
fn try_out(criterion: &mut Criterion, candidates: &mut [Candidate<'_>]) {
    let mut group = criterion.benchmark_group(GROUP);
    for candidate in candidates {
        // It has worked before; a panic with its message is right for what comes as a surprise.
        group.bench_function(candidate.name, |bencher| {
            bencher.iter(|| (candidate.run)().expect("a candidate goes on to work"));
        });
    }
    group.finish();
}

/// Where criterion writes: `CRITERION_HOME`, or `criterion` in the target directory that this program was built in.
fn output_directory() -> PathBuf {
    match env::var_os("CRITERION_HOME") {
        Some(home) => home.into(),
        None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("criterion"),
    }
}

/// Whether there will be times: `cargo bench` gives `--bench`, while `--test`, or `cargo test`, runs each candidate just once.
fn is_measuring() -> bool {
    let given = |name: &str| env::args().any(|argument| argument == name || argument.starts_with(&format!("{name}=")));
    given("--bench") && !["--test", "--list", "--profile-time"].into_iter().any(given)
}
