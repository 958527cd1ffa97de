//! Candidates measured in turns, so that whatever else the machine does falls upon all of them alike.
//!
//! Criterion measures one candidate after the other, seconds apart: on a busy machine their ratio then says more about the
//! neighbours than about them. Here every candidate runs once a round, in an order that changes from round to round, and
//! starts on a machine at rest, as it does for a person: the kernel goes on to clean up after a sandbox for some milliseconds,
//! and would take the time from the next one. Criterion gets the times afterwards, and does with them what it does with its
//! own.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::candidates::Candidate;

/// Rounds before the first that counts.
const WARM_UP_ROUNDS: usize = 30;

/// How long the kernel is given to clean up after each run; not measured.
const REST: Duration = Duration::from_millis(10);

/// The times of one candidate, in the order of the rounds that it took part in.
pub type Times = Vec<Duration>;

/// Runs all candidates for so many rounds.
pub fn run(candidates: &mut [Candidate<'_>], rounds: usize) -> Result<Vec<Times>> {
    let mut times = vec![Vec::with_capacity(rounds); candidates.len()];
    for round in 0..WARM_UP_ROUNDS + rounds {
        for index in order(round, candidates.len()) {
            let candidate = &mut candidates[index];
            if round % candidate.one_round_of != 0 {
                continue;
            }
            thread::sleep(REST);
            let begin = Instant::now();
            (candidate.run)().with_context(|| format!("«{}» stopped working", candidate.name))?;
            let elapsed = begin.elapsed();
            if round >= WARM_UP_ROUNDS {
                times[index].push(elapsed);
            }
        }
    }
    Ok(times)
}

/// The candidates' numbers, shuffled by the number of the round: the same in every run.
fn order(round: usize, count: usize) -> Vec<usize> {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let mut order: Vec<_> = (0..count).collect();
    order.sort_by_cached_key(|index| hasher.hash_one((round, index)));
    order
}
