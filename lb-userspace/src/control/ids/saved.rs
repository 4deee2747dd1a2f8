//! A pool as it is saved for the next controller.

use std::collections::BTreeSet;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Pool;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPool<K> {
    taken: Vec<(K, u32)>,
    /// Given back a while ago; how long ago is not saved.
    resting: Vec<(K, u32)>,
}

impl<K> Default for SavedPool<K> {
    fn default() -> Self {
        Self { taken: Vec::new(), resting: Vec::new() }
    }
}

impl<K: Ord + Clone> Pool<K> {
    pub fn save(&self) -> SavedPool<K> {
        SavedPool {
            taken: self.taken.iter().map(|(key, number)| (key.clone(), *number)).collect(),
            resting: self.resting.iter().map(|(key, resting)| (key.clone(), resting.number)).collect(),
        }
    }

    /// Takes over what an earlier pool gave. Numbers that rested begin their rest anew.
    pub fn restore(&mut self, saved: &SavedPool<K>, now: Instant) {
        let resting: BTreeSet<&K> = saved.resting.iter().map(|(key, _)| key).collect();
        for (key, number) in saved.taken.iter().chain(&saved.resting) {
            self.taken.insert(key.clone(), *number);
        }
        let had: BTreeSet<u32> = self.taken.values().copied().collect();
        if let Some(highest) = had.last() {
            self.free.extend((self.unused..*highest).filter(|number| !had.contains(number)));
            self.unused = self.unused.max(highest + 1);
        }
        self.retain(|key| !resting.contains(key), now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Exhausted, Given, REST, Rests};
    use super::*;

    #[test]
    fn the_next_pool_knows_who_has_what_and_who_had_it() {
        let now = Instant::now();
        let mut pool = Pool::new(Rests::Time, 1, 4);
        for name in ["a", "b", "c", "d"] {
            pool.give(&name.to_owned(), now).unwrap();
        }
        pool.retain(|name| name != "a", now);
        pool.give(&"e".to_owned(), now + REST).unwrap();
        pool.retain(|name| name != "c", now + REST);
        let text = serde_json::to_string(&pool.save()).unwrap();

        let mut next = Pool::new(Rests::Time, 1, 4);
        next.restore(&serde_json::from_str(&text).unwrap(), now);
        for (name, number) in [("b", 2), ("d", 4), ("e", 1), ("c", 3)] {
            assert_eq!(next.give(&name.to_owned(), now), Ok(Given { number, fresh: false }), "{name}");
        }
    }

    #[test]
    fn what_rested_rests_anew_and_what_nobody_has_is_free() {
        let now = Instant::now();
        let saved = SavedPool { taken: vec![("a", 3)], resting: vec![("b", 2)] };
        let mut pool = Pool::new(Rests::Time, 1, 3);
        pool.restore(&saved, now);
        assert_eq!(pool.give(&"c", now), Ok(Given { number: 1, fresh: true }));
        assert_eq!(pool.give(&"d", now), Err(Exhausted));
        assert_eq!(pool.give(&"d", now + REST), Ok(Given { number: 2, fresh: true }));
    }
}
