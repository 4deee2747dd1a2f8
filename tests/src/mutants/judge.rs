//! Whether the tests notice what is wrong with the objects in a directory: quick ones first, up to the first that does.
//!
//! A process for each mutant, because a fault may take its tester with it, and because objects are replaced once.

use std::path::Path;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::fuzz::random::Random;
use crate::fuzz::rig::Rig;
use crate::fuzz::{fixture, scenario};
use crate::golden;
use crate::golden::world::World;
use crate::progrun::{Refused, Settings, objects};

/// No seed of the suite's own runs.
const SEED: u64 = 11;
/// Worlds and packets in each, of which most mutants do not survive the first. Few and large ones: the verifier takes longer
/// over a world's program than the packets take.
const FIRST: std::ops::Range<u64> = 0..1;
/// What the rest must survive: 96,000 packets.
const REST: std::ops::Range<u64> = 1..9;
const PACKETS: usize = 12_000;

/// Golden tests that load many programs: those that tell something about a mutant come last,
const COSTLY: [&str; 1] = ["what a setting switches off passes untouched"];
/// and what the verifier says of programs nobody runs here tells nothing.
const LEFT_OUT: [&str; 1] = ["every combination of load-time settings passes the verifier"];

/// What the tests say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// All is well.
    Survives,
    /// This test failed.
    Caught(String),
    /// The verifier refused a program.
    Refused,
}

impl Judgement {
    /// For whoever started the process; what caught it is on standard output.
    pub fn tell(&self) -> ExitCode {
        match self {
            Self::Survives => ExitCode::SUCCESS,
            Self::Caught(by) => {
                println!("{by}");
                ExitCode::from(CAUGHT)
            }
            Self::Refused => ExitCode::from(REFUSED),
        }
    }

    /// What [`Judgement::tell`] told; `None` if the process ended otherwise.
    pub(super) fn told(code: Option<i32>, said: &str) -> Option<Self> {
        match code? {
            0 => Some(Self::Survives),
            code if code == i32::from(CAUGHT) => Some(Self::Caught(said.trim().to_owned())),
            code if code == i32::from(REFUSED) => Some(Self::Refused),
            _ => None,
        }
    }
}

const CAUGHT: u8 = 10;
const REFUSED: u8 = 11;

/// Judges the objects in a directory, on one CPU. Once per process.
pub fn judge(directory: &Path, cpu: usize) -> Result<Judgement> {
    objects::replace(directory)?;
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot stay on one CPU")?;
    for stage in [first, packets, fixtures, rest, costly] {
        // In a thread each: they make network namespaces of their own.
        let done = thread::spawn(stage).join().map_err(|_| anyhow!("a test panicked"))?;
        match done {
            Ok(Judgement::Survives) => {}
            Err(why) if why.downcast_ref::<Refused>().is_some() => return Ok(Judgement::Refused),
            done => return done,
        }
    }
    Ok(Judgement::Survives)
}

fn first() -> Result<Judgement> {
    fuzz(FIRST)
}

fn rest() -> Result<Judgement> {
    fuzz(REST)
}

fn fuzz(worlds: std::ops::Range<u64>) -> Result<Judgement> {
    let mut rig = Rig::new()?;
    for world in worlds {
        let scenario = scenario::generate(&mut Random::part(SEED, world), &rig.kernel, PACKETS);
        if rig.check(&scenario)?.is_some() {
            return Ok(Judgement::Caught(format!("fuzz: world {world} of seed {SEED}")));
        }
    }
    Ok(Judgement::Survives)
}

fn fixtures() -> Result<Judgement> {
    let mut rig = Rig::new()?;
    for (name, fixture) in fixture::all()? {
        if rig.locate(&fixture.scenario)?.is_some() {
            return Ok(Judgement::Caught(format!("fuzz fixture: {name}")));
        }
    }
    Ok(Judgement::Survives)
}

fn packets() -> Result<Judgement> {
    golden(|name| !COSTLY.contains(&name) && !LEFT_OUT.contains(&name))
}

fn costly() -> Result<Judgement> {
    golden(|name| COSTLY.contains(&name))
}

fn golden(wanted: impl Fn(&str) -> bool) -> Result<Judgement> {
    let settings = Settings::everything();
    let mut world = World::furnished(&settings)?;
    for test in golden::all(&settings).into_iter().filter(|test| wanted(&test.name)) {
        if let Err(why) = (test.run)(&mut world) {
            return match why.downcast::<Refused>() {
                Ok(refused) => Err(refused.into()),
                Err(_) => Ok(Judgement::Caught(format!("golden: {}", test.name))),
            };
        }
    }
    Ok(Judgement::Survives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_are_treated_apart_exist() {
        let names: Vec<String> = golden::all(&Settings::everything()).into_iter().map(|test| test.name).collect();
        for name in COSTLY.iter().chain(&LEFT_OUT) {
            assert!(names.iter().any(|n| n == name), "no golden test is called {name:?}");
        }
    }
}
