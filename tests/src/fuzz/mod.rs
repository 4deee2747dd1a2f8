//! The differential fuzzer: random packets in random worlds, by the loaded program and by the reference model
//! (`model`), which must agree about everything — verdict, bytes, counters, events, rows, and what is written down of
//! flows.
//!
//! A run is a row of [`scenario`]s, each a random world and some thousand packets. All of it follows from the seed:
//! the same seed is the same run. On a difference the scenario is shrunk, shown, and saved as a fixture that the
//! suite replays from then on.
//!
//! The trap of a fuzzer is to look busy. [`coverage`] says which verdicts and drop reasons were reached and on whose
//! behalf, and what became of flows on which rows; a run of many packets that missed one fails.

pub mod corners;
pub mod coverage;
pub mod fixture;
pub mod flows;
pub mod judge;
mod maps;
pub mod mutate;
pub mod network;
pub mod packets;
pub use lb_tests_rows::random;
pub mod rig;
pub mod scenario;
pub mod shrink;
mod words;
pub mod worlds;

use std::time::{Duration, Instant};

use anyhow::Result;

use coverage::Coverage;
use fixture::Fixture;
use judge::Difference;
use random::Random;
use rig::Rig;
use scenario::Scenario;

/// Packets in one world: enough to spend a budget of events, few enough to see many worlds.
const PACKETS_PER_WORLD: u64 = 4_000;

/// Runs of at least this many packets must have reached everything that can be. Not of so many seconds: a machine that is
/// busy with something else gets less far in them.
pub const MANY: u64 = 200_000;

/// A finding is worth this long a search for a small example.
const PATIENCE: Duration = Duration::from_secs(120);

const REPORT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub seed: u64,
    /// The run ends with the world in which either is used up.
    pub time: Option<Duration>,
    pub packets: Option<u64>,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ending {
    Agreed,
    /// Program and model disagree; all was said on standard output.
    Differs,
    /// They agree, but packets did not get everywhere.
    Uncovered,
}

/// Runs, tells how it goes on standard error, and what came of it on standard output.
pub fn run(options: &Options) -> Result<Ending> {
    let Options { seed, time, packets } = *options;
    println!("seed {seed}");
    let mut rig = Rig::new()?;
    let mut coverage = Coverage::default();
    let started = Instant::now();
    let mut told = started;
    let mut worlds = 0;
    while time.is_none_or(|time| started.elapsed() < time) && packets.is_none_or(|most| coverage.packets < most) {
        let left = packets.map_or(u64::MAX, |most| most - coverage.packets);
        let mut random = Random::part(seed, worlds);
        let scenario = scenario::generate(&mut random, &rig.kernel, PACKETS_PER_WORLD.min(left) as usize);
        if let Some(difference) = rig.run(&scenario, &mut coverage)? {
            finding(&mut rig, seed, worlds, scenario, &difference)?;
            return Ok(Ending::Differs);
        }
        worlds += 1;
        if told.elapsed() >= REPORT {
            told = Instant::now();
            eprintln!("{}", progress(&coverage, worlds, started.elapsed()));
        }
    }
    let took = started.elapsed();
    println!("{}\n\n{}\n", progress(&coverage, worlds, took), coverage.table());
    for excuse in Coverage::excuses() {
        println!("`.`: {excuse}");
    }
    let long = coverage.packets >= MANY;
    let complaints = coverage.complaints();
    for complaint in &complaints {
        println!("{complaint}");
    }
    if !long && !complaints.is_empty() {
        println!("(so short a run need not reach everything)");
    }
    Ok(if complaints.is_empty() || !long { Ending::Agreed } else { Ending::Uncovered })
}

fn progress(coverage: &Coverage, worlds: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let rate = coverage.packets as f64 / seconds;
    format!("{} packets in {worlds} worlds without a difference, {seconds:.0} s, {rate:.0} packets/s", coverage.packets)
}

/// Shows a difference, makes it small and keeps it.
fn finding(rig: &mut Rig, seed: u64, world: u64, mut scenario: Scenario, difference: &Difference) -> Result<()> {
    println!("\nprogram and model differ in world {world}, step {}:\n\n{difference}", difference.step);
    eprintln!("shrinking it, at most {} s", PATIENCE.as_secs());
    scenario.steps.truncate(difference.step + 1);
    let small = shrink::shrink(scenario, PATIENCE, &mut |candidate| {
        Ok(rig.check(candidate)?.is_some_and(|found| found.kinds == difference.kinds))
    })?;
    // A difference that does not come again still leaves its scenario behind.
    let found = rig.locate(&small)?.map_or_else(
        || difference.findings.clone(),
        |difference| {
            println!("\nat its smallest:\n\n{difference}");
            difference.findings
        },
    );
    let summary = shrink::summary(&small);
    let path = fixture::save(&format!("seed-{seed}-world-{world}"), &Fixture { found, scenario: small })?;
    println!("{summary}\nsaved: {}\nagain: cargo xtask fuzz --seed {seed}", path.display());
    Ok(())
}
