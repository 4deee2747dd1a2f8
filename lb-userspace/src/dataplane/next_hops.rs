//! Gives next hops an index in the kernel's array.
//!
//! An entry is never changed while a packet may hold its index: a next hop with another MAC is another entry.
//! An index nobody refers to any more rests for a while before it is used again, because a packet that read it
//! just before may still be on its way through the program.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use lb_common::route::NextHop;

/// A packet is through the program in microseconds; this is for everything slower than we can imagine.
const REST: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct NextHops {
    index: HashMap<NextHop, u32>,
    resting: VecDeque<(Instant, u32)>,
    fresh: u32,
    room: u32,
}

impl NextHops {
    /// Indices 1 to `room` - 1; 0 means "unknown".
    pub fn new(room: u32) -> Self {
        Self { index: HashMap::new(), resting: VecDeque::new(), fresh: 1, room }
    }

    /// As an earlier controller left them in the kernel. Indices nobody has rest first: its program may still have read
    /// them.
    pub fn resume(room: u32, hops: impl IntoIterator<Item = (u32, NextHop)>, now: Instant) -> Self {
        let mut resumed = Self::new(room);
        let mut taken = BTreeSet::new();
        for (index, hop) in hops {
            resumed.fresh = resumed.fresh.max(index + 1);
            if let Entry::Vacant(entry) = resumed.index.entry(hop) {
                entry.insert(index);
                taken.insert(index);
            }
        }
        resumed.resting.extend((1..resumed.fresh).filter(|i| !taken.contains(i)).map(|i| (now, i)));
        resumed
    }

    /// The hop's index if it has one.
    pub fn get(&self, hop: &NextHop) -> Option<u32> {
        self.index.get(hop).copied()
    }

    /// Gives the hop an index; the caller writes the entry before anything refers to it. `None` when all are
    /// taken: the packet path then asks the kernel.
    pub fn insert(&mut self, hop: NextHop, now: Instant) -> Option<u32> {
        if let Some(index) = self.get(&hop) {
            return Some(index);
        }
        let index = match self.resting.front() {
            Some(&(since, index)) if now.duration_since(since) >= REST => {
                self.resting.pop_front();
                index
            }
            _ if self.fresh < self.room => {
                self.fresh += 1;
                self.fresh - 1
            }
            _ => return None,
        };
        self.index.insert(hop, index);
        Some(index)
    }

    /// Lets go of every hop that `used` does not name, once nothing in the kernel refers to it.
    pub fn retain(&mut self, used: impl Fn(&NextHop) -> bool, now: Instant) {
        let resting = &mut self.resting;
        self.index.retain(|hop, index| {
            let keep = used(hop);
            if !keep {
                resting.push_back((now, *index));
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(n: u8) -> NextHop {
        NextHop { destination_mac: [n; 6], ifindex: 1, ..NextHop::default() }
    }

    #[test]
    fn the_same_hop_has_the_same_index_and_never_zero() {
        let now = Instant::now();
        let mut hops = NextHops::new(4);
        let a = hops.insert(hop(1), now).unwrap();
        assert_ne!(a, 0);
        assert_eq!(hops.insert(hop(1), now), Some(a));
        assert_ne!(hops.insert(hop(2), now), Some(a));
    }

    #[test]
    fn what_an_earlier_controller_wrote_keeps_its_index_and_what_lies_between_rests() {
        let now = Instant::now();
        let mut hops = NextHops::resume(6, [(2, hop(1)), (4, hop(2)), (5, hop(2))], now);
        assert_eq!((hops.get(&hop(1)), hops.get(&hop(2))), (Some(2), Some(4)));
        assert_eq!(hops.insert(hop(3), now), None, "1, 3 and the second of two alike rest");
        let later = now + REST;
        assert_eq!([3, 4, 5].map(|n| hops.insert(hop(n), later)), [Some(1), Some(3), Some(5)]);
    }

    #[test]
    fn an_index_rests_before_it_is_used_again() {
        let now = Instant::now();
        let mut hops = NextHops::new(2);
        let a = hops.insert(hop(1), now).unwrap();
        hops.retain(|_| false, now);
        assert_eq!(hops.insert(hop(2), now), None, "full while it rests");
        assert_eq!(hops.insert(hop(2), now + REST), Some(a));
    }
}
