//! Tidying up tracked flows: which are over, how many there are, and how many the kernel pushed out.
//!
//! The table is LRU, and who is pushed out tells nobody. So a walk over it compares: who was written down, is not there
//! and was not removed by us has been pushed out. Program and controller agree on one word for each service and address
//! family ([`lb_common::flow::FlowUse`]): an insertion adds to it, a removal of ours takes from it, and a walk takes
//! from it those that it found to be gone.
//!
//! The trap is that flows are written down while the walk goes on, and that it sees some of them. Whoever compares with
//! the wrong moment finds people pushed out who never were there. So those said to be pushed out are at most those that
//! the word had when the walk began and that it did not meet; the others are found by the next one.

use std::collections::{HashMap, HashSet};

use lb_common::flow::{FlowState, Life};
use lb_common::rows::{Timeouts, is_expired};

use crate::rows::sweep::{Verdict, Watch};

/// Of a service: IPv4's and IPv6's.
pub type ByFamily = [u64; 2];

/// A tracked flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// A hash of its key, with no collisions to speak of.
    pub key: u64,
    pub service: u32,
    /// Index of its address family.
    pub family: usize,
    pub tcp: bool,
    /// Those that the program goes by; `None` if its service is gone or tracks no flows.
    pub timeouts: Option<Timeouts>,
    /// The table of rows' flows has it as well.
    pub twice: bool,
    pub state: FlowState,
}

/// Who was there, and in which second it was last seen: what the next walk asks for to tell ages.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    flows: HashMap<u64, (u32, u32)>,
    began: u32,
}

/// One walk over the tables of tracked flows.
#[derive(Debug)]
pub struct Walk {
    /// By service: what its words said when the walk began, less what it has removed.
    expected: Vec<ByFamily>,
    present: Vec<ByFamily>,
    named: HashSet<u16>,
    watches: Vec<Watch>,
    /// Of the walk before; whoever is met is taken out.
    before: Option<Memory>,
    now: Option<Memory>,
}

/// What came of it.
#[derive(Debug)]
pub struct Findings {
    /// By service.
    pub present: Vec<ByFamily>,
    /// To be added to the words.
    pub corrections: Vec<(u32, usize, i64)>,
    pub evicted: Vec<Evicted>,
    pub named: HashSet<u16>,
    pub watches: Vec<Watch>,
    pub memory: Option<Memory>,
}

/// Flows of a service that were pushed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    pub service: u32,
    pub flows: u64,
    /// The youngest of them was silent for so many seconds at most; `None` if nobody can tell.
    pub youngest: Option<u32>,
}

impl Walk {
    /// Begins in second `now`. `words` are what the words said before. `remember`: so that the next walk can tell ages.
    pub fn begin(words: Vec<ByFamily>, watches: Vec<Watch>, before: Option<Memory>, remember: bool, now: u32) -> Self {
        Self {
            present: vec![[0; 2]; words.len()],
            expected: words,
            named: HashSet::new(),
            watches,
            before,
            now: remember.then(|| Memory { flows: HashMap::new(), began: now }),
        }
    }

    /// Whether somebody wants to know how many flows its backend has.
    pub fn counts(&self, state: FlowState) -> bool {
        self.watches.iter().any(|watch| watch.backend == state.life().backend())
    }

    /// To be shown every entry once. `life` is the one that a backend id lives, or has lived last, `now` the second.
    pub fn see(&mut self, entry: &Entry, life: impl Fn(u16) -> Option<Life>, now: u32) -> Verdict {
        if is_removable(entry, life, now) {
            return Verdict::Remove;
        }
        self.keep(entry);
        Verdict::Keep
    }

    /// Whether an entry that was to be removed is gone.
    pub fn outcome(&mut self, entry: &Entry, removed: bool) {
        if !removed {
            self.keep(entry);
            return;
        }
        if let Some(expected) = self.expected.get_mut(entry.service as usize) {
            expected[entry.family] = expected[entry.family].saturating_sub(1);
        }
        self.met(entry);
    }

    fn met(&mut self, entry: &Entry) {
        if let Some(before) = &mut self.before {
            before.flows.remove(&entry.key);
        }
    }

    fn keep(&mut self, entry: &Entry) {
        self.met(entry);
        if let Some(present) = self.present.get_mut(entry.service as usize) {
            present[entry.family] += 1;
        }
        if !entry.state.is_taken() {
            return;
        }
        let backend = entry.state.life().backend();
        self.named.insert(backend);
        for watch in self.watches.iter_mut().filter(|_| !entry.twice) {
            watch.flows += u64::from(watch.backend == backend && entry.state.last() >= watch.since);
        }
        if let Some(memory) = &mut self.now {
            memory.flows.insert(entry.key, (entry.state.last(), entry.service));
        }
    }

    /// All entries were seen. `words` are what the words say now.
    pub fn end(self, words: &[ByFamily], now: u32) -> Findings {
        let (mut corrections, mut evicted) = (Vec::new(), Vec::new());
        let mut vanished: HashMap<u32, (u64, u32)> = HashMap::new();
        for (last, service) in self.before.iter().flat_map(|before| before.flows.values()) {
            let (count, youngest) = vanished.entry(*service).or_default();
            *count += 1;
            *youngest = (*youngest).max(*last);
        }
        for (service, (present, expected)) in self.present.iter().zip(&self.expected).enumerate() {
            let mut flows = 0;
            for family in 0..2 {
                let word = words.get(service).map_or(0, |word| word[family]);
                if present[family] > word {
                    // Somebody has forgotten to count: a table that was taken over.
                    corrections.push((service as u32, family, (present[family] - word) as i64));
                } else if present[family] < expected[family] {
                    let gone = expected[family] - present[family];
                    corrections.push((service as u32, family, -(gone as i64)));
                    flows += gone;
                }
            }
            if flows > 0 {
                let service = service as u32;
                let youngest = self.before.as_ref().map(|before| {
                    let (known, last) = vanished.get(&service).copied().unwrap_or_default();
                    let interval = now.saturating_sub(before.began);
                    let of_known = if known > 0 { now.saturating_sub(last) } else { u32::MAX };
                    // More than the walk before knew: they came and went since.
                    if flows > known { of_known.min(interval) } else { of_known }
                });
                evicted.push(Evicted { service, flows, youngest });
            }
        }
        Findings {
            present: self.present,
            corrections,
            evicted,
            named: self.named,
            watches: self.watches,
            memory: self.now,
        }
    }
}

fn is_removable(entry: &Entry, lives: impl Fn(u16) -> Option<Life>, now: u32) -> bool {
    let Some(timeouts) = entry.timeouts.filter(|_| entry.state.is_taken()) else { return true };
    let life = entry.state.life();
    // A backend that is down keeps its flows: it may come back.
    is_expired(entry.state, entry.tcp, now, timeouts) || lives(life.backend()) != Some(life)
}

#[cfg(test)]
mod tests {
    use lb_common::flow::{PHASE_ESTABLISHED, PHASE_OPENING};

    use super::*;

    const NOW: u32 = 1_000;
    const TIMEOUTS: Timeouts = Timeouts { opening: 6, idle: 30 };

    /// Backends 1 to 3 live their first life; 4 is nobody's id.
    fn life(id: u16) -> Option<Life> {
        (1..4).contains(&id).then(|| Life::new(id, 1))
    }

    fn of(backend: u16, last: u32) -> FlowState {
        FlowState::new(Life::new(backend, 1), PHASE_ESTABLISHED, last)
    }

    /// A flow of service 1 on backend 2.
    fn flow(key: u64, last: u32) -> Entry {
        Entry { key, service: 1, family: 0, tcp: true, timeouts: Some(TIMEOUTS), twice: false, state: of(2, last) }
    }

    fn begin(word: u64, before: Option<Memory>, now: u32) -> Walk {
        Walk::begin(vec![[0; 2], [word, 0]], Vec::new(), before, true, now)
    }

    /// A walk over these flows, all of them kept.
    fn walk(word: u64, flows: &[Entry], before: Option<Memory>, now: u32) -> Findings {
        let mut walk = begin(word, before, now);
        for flow in flows {
            assert_eq!(walk.see(flow, life, now), Verdict::Keep);
        }
        walk.end(&[[0; 2], [word, 0]], now)
    }

    #[test]
    fn only_what_is_over_is_removed() {
        use Verdict::{Keep, Remove};
        let opening = |silent| FlowState::new(Life::new(2, 1), PHASE_OPENING, NOW - silent);
        for (name, state, verdict) in [
            ("silent for as long as it may be", of(2, NOW - 30), Keep),
            ("silent for longer", of(2, NOW - 31), Remove),
            ("a SYN that may be sent again", opening(6), Keep),
            ("a SYN that nobody answered", opening(7), Remove),
            ("an earlier life", FlowState::new(Life::new(2, 0), 1, NOW), Remove),
            ("nobody's id", of(4, NOW), Remove),
            ("being removed", FlowState::LEAVING, Remove),
            ("vacant", FlowState::VACANT, Remove),
        ] {
            assert_eq!(begin(1, None, NOW).see(&Entry { state, ..flow(1, NOW) }, life, NOW), verdict, "{name}");
        }
        let alone = Entry { timeouts: None, ..flow(1, NOW) };
        assert_eq!(begin(1, None, NOW).see(&alone, life, NOW), Remove, "its service tracks no flows");
        let datagram = Entry { tcp: false, state: opening(30), ..flow(1, NOW) };
        assert_eq!(begin(1, None, NOW).see(&datagram, life, NOW), Keep, "datagrams do not open");
    }

    #[test]
    fn who_is_counted_and_was_not_met_has_been_pushed_out() {
        let found = walk(5, &[flow(1, NOW), flow(2, NOW)], None, NOW);
        assert_eq!(found.evicted, [Evicted { service: 1, flows: 3, youngest: None }]);
        assert_eq!(found.corrections, [(1, 0, -3)]);
        assert_eq!(found.present[1], [2, 0]);
    }

    #[test]
    fn families_are_counted_apart() {
        let mut walk = Walk::begin(vec![[0; 2], [1, 3]], Vec::new(), None, false, NOW);
        walk.see(&flow(1, NOW), life, NOW);
        walk.see(&Entry { family: 1, ..flow(2, NOW) }, life, NOW);
        let found = walk.end(&[[0; 2], [1, 3]], NOW);
        assert_eq!((found.present[1], &*found.corrections), ([1, 1], &[(1, 1, -2)][..]));
        assert!(found.memory.is_none(), "nobody asked for it");
    }

    #[test]
    fn what_we_removed_was_not_pushed_out() {
        for (removed, evicted, present) in [(true, 0, [0, 0]), (false, 0, [1, 0])] {
            let mut walk = begin(1, None, NOW);
            let over = flow(1, NOW - 31);
            assert_eq!(walk.see(&over, life, NOW), Verdict::Remove);
            walk.outcome(&over, removed);
            // The removal took it from the word.
            let found = walk.end(&[[0; 2], [u64::from(!removed), 0]], NOW);
            assert_eq!((found.evicted.len(), found.present[1]), (evicted, present));
            assert!(found.corrections.is_empty());
        }
    }

    #[test]
    fn flows_that_come_while_a_walk_goes_on_make_nobody_look_pushed_out() {
        // Two were there; three come, and the walk sees one of them.
        let mut walk = begin(2, None, NOW);
        for key in 1..=3 {
            walk.see(&flow(key, NOW), life, NOW);
        }
        let found = walk.end(&[[0; 2], [5, 0]], NOW);
        assert!(found.evicted.is_empty() && found.corrections.is_empty());
    }

    #[test]
    fn a_count_that_was_lost_is_found_again() {
        let found = walk(0, &[flow(1, NOW), flow(2, NOW)], None, NOW);
        assert_eq!((&*found.corrections, found.evicted.len()), (&[(1, 0, 2)][..], 0));
    }

    #[test]
    fn ages_are_told_by_what_the_walk_before_saw() {
        let first = walk(3, &[flow(1, NOW - 20), flow(2, NOW - 9), flow(3, NOW)], None, NOW).memory;
        // The one that was silent for 20 s then is gone, 5 s later.
        let second = walk(3, &[flow(2, NOW - 9), flow(3, NOW + 5)], first.clone(), NOW + 5);
        assert_eq!(second.evicted, [Evicted { service: 1, flows: 1, youngest: Some(25) }]);
        // Two are gone: the younger one counts.
        let second = walk(3, &[flow(3, NOW + 5)], first.clone(), NOW + 5);
        assert_eq!(second.evicted, [Evicted { service: 1, flows: 2, youngest: Some(14) }]);
        // More are gone than were known: some came and went within the five seconds between.
        let second = walk(7, &[flow(2, NOW), flow(3, NOW)], first.clone(), NOW + 5);
        assert_eq!(second.evicted, [Evicted { service: 1, flows: 5, youngest: Some(5) }]);
        // Whoever we removed ourselves is no evidence.
        let mut second = begin(3, first, NOW + 12);
        assert_eq!(second.see(&flow(1, NOW - 20), life, NOW + 12), Verdict::Remove);
        second.outcome(&flow(1, NOW - 20), true);
        second.see(&flow(2, NOW - 9), life, NOW + 12);
        let found = second.end(&[[0; 2], [2, 0]], NOW + 12);
        assert_eq!(found.evicted, [Evicted { service: 1, flows: 1, youngest: Some(12) }]);
    }

    #[test]
    fn backends_of_tracked_flows_are_named_and_their_flows_counted_once() {
        let watch = |backend, since| Watch { backend, since, flows: 0 };
        let watches = vec![watch(2, NOW - 5), watch(1, 0)];
        let mut walk = Walk::begin(vec![[0; 2]; 2], watches, None, false, NOW);
        for (key, last) in [(1, NOW), (2, NOW - 5), (3, NOW - 6)] {
            walk.see(&flow(key, last), life, NOW);
        }
        walk.see(&Entry { twice: true, ..flow(4, NOW) }, life, NOW);
        let over = Entry { state: of(3, NOW - 31), ..flow(5, 0) };
        walk.see(&over, life, NOW);
        walk.outcome(&over, true);
        let found = walk.end(&[[0; 2], [4, 0]], NOW);
        assert_eq!(found.watches.iter().map(|watch| watch.flows).collect::<Vec<_>>(), [2, 0]);
        assert_eq!(found.named, HashSet::from([2]));
    }
}
