//! How much memory our program takes at most.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::candidates::exact_store;
use crate::fixture::Fixture;

/// The most that it has been seen to have resident, in KiB, while it opens the sandbox of the build with the largest closure.
///
/// The kernel's own count, `ru_maxrss`, begins with what the process that started it had.
///
/// # Errors
/// It cannot be started, or fails.
pub fn peak(fixture: &Fixture) -> Result<u64> {
    let build = fixture.builds.iter().max_by_key(|build| build.closure).context("there is no build")?;
    let mut child = exact_store(fixture, &build.kept).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        peak = line.trim().trim_end_matches(" kB").parse().unwrap_or(0).max(peak);
        thread::sleep(Duration::from_micros(200));
    };
    ensure!(ended.success(), "the sandbox with {} paths ended with {ended}", build.closure);
    Ok(peak)
}
