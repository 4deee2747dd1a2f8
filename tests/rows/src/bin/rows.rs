//! `cargo xtask rows` runs this: random histories of the small world, until a flow moves.

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use clap::Parser;
use lb_tests_rows::broken::Broken;
use lb_tests_rows::exhaustive::{self, Explored};
use lb_tests_rows::fixture::{self, Fixture};
use lb_tests_rows::{History, find, run, shrink};

/// Runs random histories of rows, flows and backends; stops at the first in which a flow moves.
#[derive(Debug, Parser)]
struct Arguments {
    /// Stop after as many steps
    #[arg(long, value_name = "N", default_value_t = 20_000_000)]
    steps: u64,
    /// Where random numbers start; the same seed is the same run
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Go through everything that can happen in as many steps instead; 8 take some minutes
    #[arg(long, value_name = "STEPS", conflicts_with_all = ["steps", "seed"])]
    depth: Option<usize>,
    /// Look for histories that tell broken rules from kept ones, where the fixtures do not do that any more
    #[arg(long)]
    renew: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { steps, seed, depth, renew } = Arguments::parse();
    if let Some(depth) = depth {
        return explore(depth);
    }
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = seed.unwrap_or_else(now);
    println!("seed {seed}");
    if renew {
        let fixtures = fixture::all("broken")?;
        for (rule, broken) in Broken::ALL {
            if fixtures.iter().any(|(name, fixture)| *name == broken.name() && fixture.tells()) {
                continue;
            }
            let Some((world, history)) = find(seed, Some(broken), 20_000) else {
                println!("rule {rule}, {broken:?}: not found, the fixture stays as it is");
                continue;
            };
            let fixture = Fixture::new(shrink::shrink(history));
            fixture::save("broken", &broken.name(), &fixture)?;
            println!("rule {rule}, {broken:?}: world {world}, {} steps", fixture.history.steps.len());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    let (tally, found) = run(seed, steps);
    let took = started.elapsed().as_secs_f64();
    println!("{tally}{took:>12.1}  seconds");
    let Some((world, history)) = found else {
        println!("\nno flow moved");
        return Ok(ExitCode::SUCCESS);
    };
    tell(&format!("{seed}-{world}"), history)?;
    Ok(ExitCode::FAILURE)
}

fn explore(depth: usize) -> anyhow::Result<ExitCode> {
    for case in exhaustive::cases() {
        let started = Instant::now();
        let explored = exhaustive::explore(&case, depth);
        let Explored { states, transitions, found } = explored;
        let took = started.elapsed().as_secs_f64();
        println!("{}, {depth} steps: {transitions} transitions from {states} states, {took:.1} s", case.name);
        if let Some((_, steps)) = found {
            tell(&case.name.replace(' ', "-"), exhaustive::history(&case, steps))?;
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("\nno flow moved");
    Ok(ExitCode::SUCCESS)
}

fn tell(name: &str, history: History) -> anyhow::Result<()> {
    let fixture = Fixture::new(shrink::shrink(history));
    println!("\n{}, {} steps:\n", fixture.found, fixture.history.steps.len());
    for line in &fixture.story {
        println!("{line}");
    }
    let path = fixture::save("found", name, &fixture)?;
    println!("\nkept in {}", path.display());
    Ok(())
}
