//! The oracle of the rows: random histories, and all short ones, of a small world in which no flow may move.
//!
//! Packets are decided by `lb_common::rows`, which the program runs too, and the controller is made of `sluice::rows`
//! and nothing else ([`controller`]). What is made up is everything around them: clocks that are late, two CPUs in one
//! decision, two arrays in use, tables that are full, backends that come and go ([`world`], [`cpu`]). Against it all
//! stands what the clients remember ([`clients`]).
//!
//! The trap of an oracle is that it may be blind. So every rule is also broken on purpose ([`broken`]), and each of
//! these faults must be found.

pub mod broken;
pub mod clients;
pub mod controller;
pub mod cpu;
pub mod exhaustive;
pub mod fixture;
pub mod random;
pub mod shrink;
pub mod step;
pub mod tally;
pub mod world;

use lb_common::rows::Orphans;

use broken::Broken;
use clients::Violation;
use random::Random;
use step::{Habits, Step};
use tally::Tally;
use world::{Settings, World};

/// Steps in one world.
pub const STEPS: usize = 2000;

/// A world and what happens to it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct History {
    pub settings: Settings,
    pub steps: Vec<Step>,
}

impl History {
    /// The `n`-th of a run.
    pub fn draw(seed: u64, n: u64, broken: Option<Broken>) -> Self {
        let mut random = Random::part(seed, n);
        let settings = Settings {
            quota: random.pick(&[1000, 1000, 4]),
            orphans: random.weighted(&[(80, Orphans::Reselect), (20, Orphans::Tell)]),
            late: random.percent(20),
            dies_in_swaps: random.percent(20),
            slow_removal: random.percent(20),
            only: None,
            broken,
        };
        let habits = Habits { refuse: random.pick(&[0, 0, 10]), windows: random.percent(50) };
        Self { settings, steps: step::draw(&mut random, STEPS, habits) }
    }

    /// Runs until something is wrong.
    pub fn run(&self) -> (Option<(usize, Violation)>, Tally) {
        let mut world = World::new(self.settings);
        for (index, step) in self.steps.iter().enumerate() {
            world.step(*step);
            if let Some(violation) = world.violations.first() {
                return (Some((index, *violation)), world.tally);
            }
        }
        (None, world.tally)
    }

    /// What happens, line by line.
    pub fn story(&self) -> Vec<String> {
        let mut world = World::new(self.settings);
        world.story = Some(Vec::new());
        for step in &self.steps {
            world.step(*step);
            if !world.violations.is_empty() {
                break;
            }
        }
        world.story.unwrap_or_default()
    }
}

/// Histories one after another until as many steps are done, or something is wrong.
pub fn run(seed: u64, steps: u64) -> (Tally, Option<(u64, History)>) {
    let mut total = Tally::default();
    for n in 0.. {
        let history = History::draw(seed, n, None);
        let (found, tally) = history.run();
        total += tally;
        if found.is_some() {
            return (total, Some((n, history)));
        }
        if total.steps >= steps {
            break;
        }
    }
    (total, None)
}

/// The first history in which something is wrong.
pub fn find(seed: u64, broken: Option<Broken>, worlds: u64) -> Option<(u64, History)> {
    (0..worlds).map(|n| (n, History::draw(seed, n, broken))).find(|(_, history)| history.run().0.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flow_moves() {
        let (tally, found) = run(20, 3_000_000);
        let found = found.map(|(world, history)| (world, shrink::shrink(history).story()));
        assert_eq!(found, None);
        // A run that did not get somewhere proves nothing about it.
        let rare = [
            tally.into_the_dead,
            tally.migrated_away,
            tally.ended_in_swap,
            tally.died_in_swap,
            tally.too_early,
            tally.flapped,
            tally.killed,
        ];
        let missing = tally.missing();
        assert!(missing.len() <= rare.iter().filter(|count| **count == 0).count(), "never: {missing:?}");
        assert!(rare.iter().sum::<u64>() * 100_000 < tally.checked * 100, "{tally}");
    }

    #[test]
    fn no_flow_moves_whatever_happens_in_seven_steps() {
        for case in exhaustive::cases() {
            let explored = exhaustive::explore(&case, 7);
            let story = explored.found.map(|(_, steps)| exhaustive::history(&case, steps).story());
            assert_eq!(story, None, "{}", case.name);
            assert!(explored.states > 500_000, "{}: {} states", case.name, explored.states);
        }
    }

    #[test]
    fn what_was_found_once_is_not_found_again() {
        for (name, fixture) in fixture::all("found").unwrap() {
            assert_eq!(fixture.history.run().0, None, "{name}: {}", fixture.found);
        }
    }

    #[test]
    fn every_rule_that_is_broken_makes_a_flow_move_and_none_that_is_kept() {
        let fixtures = fixture::all("broken").unwrap();
        for (rule, broken) in Broken::ALL {
            let (_, fixture) = fixtures.iter().find(|(name, _)| *name == broken.name()).unwrap();
            let mut history = fixture.history.clone();
            assert_eq!(history.settings.broken, Some(broken));
            let found = history.run().0.map(|(_, violation)| format!("{violation:?}"));
            assert_eq!(found.as_ref(), Some(&fixture.found), "rule {rule}: {broken:?} is not noticed");
            history.settings.broken = None;
            assert_eq!(history.run().0, None, "{broken:?}");
        }
        assert_eq!(fixtures.len(), Broken::ALL.len());
        for rule in 1..=10 {
            assert!(Broken::ALL.iter().any(|(number, _)| *number == rule), "rule {rule} is never broken");
        }
    }

    #[test]
    fn the_specification_names_every_broken_rule() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/design/rows.md");
        let text = std::fs::read_to_string(path).unwrap();
        let told: Vec<(u8, String)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
            .map(|(name, rest)| (rest.split(' ').next().unwrap().parse().unwrap(), name.to_owned()))
            .collect();
        assert_eq!(told, Broken::ALL.map(|(rule, broken)| (rule, broken.name())));
    }

    #[test]
    fn broken_rules_are_found_by_chance_too() {
        // What two CPUs do within microseconds, or a controller that dies within a swap, takes longer to meet.
        let rare = [
            Broken::InsertOverwrites,
            Broken::ReplaceOverwrites,
            Broken::ReturnsAtOnce,
            Broken::TwoOwners,
            Broken::RestartForgetsRefusals,
            Broken::BeforeRemembers,
            Broken::BeforeEnds,
            Broken::ScansByOldTimeouts,
        ];
        for (rule, broken) in Broken::ALL.into_iter().filter(|(_, broken)| !rare.contains(broken)) {
            assert!(find(20, Some(broken), 3_000).is_some(), "rule {rule}: {broken:?}");
        }
    }
}
