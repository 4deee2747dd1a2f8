//! Small numbers for things with names: service ids, backend ids, ring slots.
//!
//! A number that was given back rests before somebody else gets it: a packet may still be on its way through the
//! program with the old meaning, and a counter may still be read under it. The same owner coming back meanwhile
//! gets its old number.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Longer than any packet stays in the program, any scrape stays in a pipeline.
pub const REST: Duration = Duration::from_secs(60);

/// Hands out numbers from `first` to `last`.
#[derive(Clone, Debug)]
pub struct Pool<K> {
    taken: BTreeMap<K, u32>,
    /// Given back, by whom and when.
    resting: BTreeMap<K, (u32, Instant)>,
    /// When the first of the resting numbers was given back.
    longest: Option<Instant>,
    /// Given back and rested.
    free: BTreeSet<u32>,
    /// The first number nobody has had yet.
    unused: u32,
    last: u32,
}

/// A number, and whether it is the first time this owner has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    pub number: u32,
    pub fresh: bool,
}

/// Every number is taken or resting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

impl<K: Ord + Clone> Pool<K> {
    pub fn new(first: u32, last: u32) -> Self {
        Self {
            taken: BTreeMap::new(),
            resting: BTreeMap::new(),
            longest: None,
            free: BTreeSet::new(),
            unused: first,
            last,
        }
    }

    pub fn get(&self, key: &K) -> Option<u32> {
        self.taken.get(key).copied()
    }

    /// The owner's number, given now if it has none.
    pub fn give(&mut self, key: &K, now: Instant) -> Result<Given, Exhausted> {
        if let Some(number) = self.get(key) {
            return Ok(Given { number, fresh: false });
        }
        if let Some((number, _)) = self.resting.remove(key) {
            self.taken.insert(key.clone(), number);
            return Ok(Given { number, fresh: false });
        }
        self.wake(now);
        let number = match self.free.pop_first() {
            Some(number) => number,
            None if self.unused <= self.last => {
                self.unused += 1;
                self.unused - 1
            }
            None => return Err(Exhausted),
        };
        self.taken.insert(key.clone(), number);
        Ok(Given { number, fresh: true })
    }

    /// Takes back the numbers of all owners that `keep` does not name.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool, now: Instant) {
        let Self { taken, resting, longest, .. } = self;
        taken.retain(|key, number| {
            let kept = keep(key);
            if !kept {
                resting.insert(key.clone(), (*number, now));
                longest.get_or_insert(now);
            }
            kept
        });
    }

    /// Frees what has rested long enough. Looks at all of them, but only when there is something to find.
    fn wake(&mut self, now: Instant) {
        let rested = |since: Instant| now.duration_since(since) >= REST;
        if !self.longest.is_some_and(rested) {
            return;
        }
        let free = &mut self.free;
        self.resting.retain(|_, (number, since)| {
            let awake = rested(*since);
            if awake {
                free.insert(*number);
            }
            !awake
        });
        self.longest = self.resting.values().map(|(_, since)| *since).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_before_another_owner_gets_it() {
        let now = Instant::now();
        let mut pool = Pool::new(1, 2);
        assert_eq!(pool.give(&"a", now), Ok(Given { number: 1, fresh: true }));
        assert_eq!(pool.give(&"b", now), Ok(Given { number: 2, fresh: true }));
        assert_eq!(pool.give(&"c", now), Err(Exhausted));
        pool.retain(|k| *k == "b", now);
        assert_eq!(pool.give(&"c", now), Err(Exhausted), "1 is resting");
        assert_eq!(pool.give(&"c", now + REST), Ok(Given { number: 1, fresh: true }));
    }

    #[test]
    fn an_owner_that_comes_back_soon_gets_its_number_back() {
        let now = Instant::now();
        let mut pool = Pool::new(1, 9);
        pool.give(&"a", now).unwrap();
        pool.give(&"b", now).unwrap();
        pool.retain(|_| false, now);
        assert_eq!(pool.give(&"b", now), Ok(Given { number: 2, fresh: false }));
    }
}
