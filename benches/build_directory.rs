//! What a large build directory costs: until the command's first instruction, and from its end to ours.
//!
//! `cp -a` and `rm -rf` of the same 50,000 small files are the measure of a copy, and an empty directory that of an overlay. Everything
//! is in memory where that can be, as in the other bench, and measured in turns. Nothing is ever asserted about times.

#[path = "build_directory/setting.rs"]
mod setting;
#[path = "build_directory/table.rs"]
mod table;

use std::env;
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::setting::Setting;
use self::table::{Goal, Row, Table};

/// How often what takes a second is done, and what takes a few milliseconds.
const SLOW_ROUNDS: usize = 7;
const QUICK_ROUNDS: usize = 100;
/// How long the kernel is given to clean up after each run; not measured.
const REST: Duration = Duration::from_millis(10);

const CP: &str = "cp -a of 50,000 files";
const COPY: &str = "copied, 50,000 files: to the first instruction";
const RM: &str = "rm -rf of the same";
const COPY_END: &str = "copied, 50,000 files: from the command's exit to ours";
const EMPTY: &str = "overlay, an empty directory: to the first instruction";
const OVERLAY: &str = "overlay, 50,000 files: to the first instruction";
const AUTO: &str = "auto, 50,000 files: to the first instruction";
const OVERLAY_END: &str = "overlay, 50,000 files: from the command's exit to ours";

const GOALS: [Goal; 2] = [Goal { row: COPY, most: 0.7, of: CP }, Goal { row: OVERLAY, most: 1.2, of: EMPTY }];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("build_directory: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // `--test`, or `cargo test`, runs each thing just once.
    let is_measuring =
        env::args().any(|argument| argument == "--bench") && !env::args().any(|argument| argument == "--test");
    let (slow, quick) = if is_measuring { (SLOW_ROUNDS, QUICK_ROUNDS) } else { (1, 1) };
    let setting = Setting::make()?;
    let [mut cp, mut copy, mut rm, mut copy_end] = [const { Vec::new() }; 4];
    let [mut empty, mut overlay, mut auto, mut overlay_end] = [const { Vec::new() }; 4];
    let mut memory = [0; 2];
    for _ in 0..slow {
        let duplicate = setting.directory().join("duplicate");
        cp.push(time(Command::new("cp").arg("-a").arg(&setting.many).arg(&duplicate))?);
        rm.push(time(Command::new("rm").arg("-rf").arg(&duplicate))?);
        let run = start(setting.enter("copy", &setting.many))?;
        copy.push(run.to_first_instruction);
        copy_end.push(run.to_end);
        memory[0] = run.peak_memory;
    }
    for _ in 0..quick {
        let run = start(setting.enter("overlay", &setting.empty))?;
        empty.push(run.to_first_instruction);
        memory[1] = run.peak_memory;
        let run = start(setting.enter("overlay", &setting.many))?;
        overlay.push(run.to_first_instruction);
        overlay_end.push(run.to_end);
        auto.push(start(setting.enter("auto", &setting.many))?.to_first_instruction);
    }
    if !is_measuring {
        return Ok(());
    }
    let rows = [
        Row::new(CP, cp, None),
        Row::new(COPY, copy, Some(CP)),
        Row::new(RM, rm, None),
        Row::new(COPY_END, copy_end, Some(RM)),
        Row::new(EMPTY, empty, None),
        Row::new(OVERLAY, overlay, Some(EMPTY)),
        Row::new(AUTO, auto, Some(EMPTY)),
        Row::new(OVERLAY_END, overlay_end, Some(EMPTY)),
    ];
    print!("\n{}", Table::new(rows.into(), &GOALS));
    println!(
        "Peak memory: {} KiB while 50,000 files are copied, {} KiB with an empty directory.",
        memory[0], memory[1]
    );
    Ok(())
}

fn time(command: &mut Command) -> Result<Duration> {
    thread::sleep(REST);
    let begin = Instant::now();
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(status.success(), "{} ended with {status}", command.get_program().display());
    Ok(begin.elapsed())
}

/// One run of the program with a command that waits.
struct Run {
    to_first_instruction: Duration,
    to_end: Duration,
    /// In KiB.
    peak_memory: u64,
}

fn start(mut command: Command) -> Result<Run> {
    thread::sleep(REST);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn().context("cannot start nix-build-shell")?;
    let mut byte = [0; 1];
    let read = child.stdout.as_mut().context("it has a standard output")?.read(&mut byte)?;
    let to_first_instruction = begin.elapsed();
    let peak_memory = peak_memory(child.id()).unwrap_or(0);
    let end = Instant::now();
    drop(child.stdin.take());
    let status = child.wait()?;
    let to_end = end.elapsed();
    if read != 1 || !status.success() {
        let mut said = String::new();
        child.stderr.as_mut().context("it has a standard error")?.read_to_string(&mut said)?;
        anyhow::bail!("nix-build-shell ended with {status}: {}", said.trim_end());
    }
    Ok(Run { to_first_instruction, to_end, peak_memory })
}

/// The most memory that a process has had: `VmHWM` of `/proc/PID/status`.
fn peak_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
