//! Small numbers for things with names: service ids, backend ids, ring slots.
//!
//! A number that was given back rests before somebody else gets it: a packet may still be on its way through the
//! program with the old meaning, and a counter may still be read under it. Where rows and entries of flows name the
//! number, it also waits for a scan of all of them, begun after it was given back, that did not meet it. The same owner
//! coming back meanwhile gets its old number.

mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Longer than any packet stays in the program, any scrape stays in a pipeline.
pub const REST: Duration = Duration::from_secs(60);

/// What has to be over before a number is given to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rests {
    /// A while.
    Time,
    /// A while, and a scan that does not meet it.
    TimeAndScan,
}

/// Given back, and not to be had yet.
#[derive(Clone, Copy, Debug)]
struct Resting {
    number: u32,
    since: Instant,
    /// Somebody may still know it.
    named: bool,
}

/// Hands out numbers from `first` to `last`.
#[derive(Clone, Debug)]
pub struct Pool<K> {
    rests: Rests,
    taken: BTreeMap<K, u32>,
    /// Given back, by whom.
    resting: BTreeMap<K, Resting>,
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

pub use saved::SavedPool;

/// Every number is taken or resting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

impl<K: Ord + Clone> Pool<K> {
    pub fn new(rests: Rests, first: u32, last: u32) -> Self {
        Self {
            rests,
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
        if let Some(Resting { number, .. }) = self.resting.remove(key) {
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
        let Self { taken, resting, longest, rests, .. } = self;
        let named = *rests == Rests::TimeAndScan;
        taken.retain(|key, number| {
            let kept = keep(key);
            if !kept {
                resting.insert(key.clone(), Resting { number: *number, since: now, named });
                longest.get_or_insert(now);
            }
            kept
        });
    }

    /// A scan that began then did not meet the numbers that `named` does not know.
    pub fn scanned(&mut self, began: Instant, named: impl Fn(u32) -> bool) {
        for resting in self.resting.values_mut().filter(|r| r.since < began) {
            resting.named &= named(resting.number);
        }
    }

    /// Some number waits for a scan.
    pub fn waits_for_scan(&self) -> bool {
        self.resting.values().any(|r| r.named)
    }

    /// Frees what has rested long enough. Looks at all of them, but only when there is something to find.
    fn wake(&mut self, now: Instant) {
        let rested = |since: Instant| now.duration_since(since) >= REST;
        if !self.longest.is_some_and(rested) {
            return;
        }
        let free = &mut self.free;
        self.resting.retain(|_, resting| {
            let awake = rested(resting.since) && !resting.named;
            if awake {
                free.insert(resting.number);
            }
            !awake
        });
        self.longest = self.resting.values().map(|r| r.since).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_before_another_owner_gets_it() {
        let now = Instant::now();
        let mut pool = Pool::new(Rests::Time, 1, 2);
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
        let mut pool = Pool::new(Rests::TimeAndScan, 1, 9);
        pool.give(&"a", now).unwrap();
        pool.give(&"b", now).unwrap();
        pool.retain(|_| false, now);
        assert_eq!(pool.give(&"b", now), Ok(Given { number: 2, fresh: false }));
    }

    #[test]
    fn a_number_that_is_named_somewhere_waits_for_a_scan_begun_after_it_was_given_back() {
        let now = Instant::now();
        let (before, after) = (now - REST, now + REST);
        let mut pool = Pool::new(Rests::TimeAndScan, 1, 1);
        pool.give(&"a", before).unwrap();
        pool.retain(|_| false, now);
        assert!(pool.waits_for_scan());
        assert_eq!(pool.give(&"b", after), Err(Exhausted), "no scan yet");
        pool.scanned(now, |_| false);
        assert_eq!(pool.give(&"b", after), Err(Exhausted), "the scan began too early to say");
        pool.scanned(after, |number| number == 1);
        assert_eq!(pool.give(&"b", after), Err(Exhausted), "the scan met it");
        pool.scanned(after, |_| false);
        assert!(!pool.waits_for_scan());
        assert_eq!(pool.give(&"b", after), Ok(Given { number: 1, fresh: true }));
    }
}
