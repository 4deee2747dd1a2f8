//! Tidying up: which flows may be forgotten, which rows have become simpler, which backend ids nobody names any more.
//!
//! ```text
//! Scan::begin ──► every entry of the flow tables: see ──► Remove: by compare-and-swap on the state that was seen
//!  (all words,                     │                          │
//!   the second)                    ▼ Keep                     ▼ outcome
//!                             Scan::end ──► Findings: words to write in place, ids that may rest, figures
//! ```
//!
//! It saves memory and lookups. That no connection moves never depends on it running.
//!
//! The trap is that a scan takes a while. An entry may be written behind its back, into a part of the table that it has
//! passed, so a row is only judged if no flow of its can have been written down since the scan began: it was at rest
//! then, and has the same word still. And an entry may be touched between being looked at and being removed, so it is
//! removed by compare-and-swap from the state that was looked at, and is there still if that fails.

use lb_common::flow::{FlowState, Life};
use lb_common::ring::{KIND_MOVING, Row, filter_bit, row_index};
use lb_common::rows::{Timeouts, is_expired};

use super::Rewrite;

/// A ring at the moment when the scan begins.
#[derive(Clone, Copy, Debug)]
pub struct Ring<'a> {
    pub words: &'a [Row],
    pub tcp: bool,
}

/// A written-down flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Index of its ring in what the scan began with; `None` if its service or ring is gone.
    pub ring: Option<usize>,
    /// By the ring's key. One that was written down by another key has to be hashed anew.
    pub hash: u32,
    pub service: u32,
    pub state: FlowState,
}

/// What is asked about the present while the scan goes on.
pub trait Present {
    /// The live word of a row; `None` if the ring is gone or has another size by now.
    fn word(&self, ring: usize, row: usize) -> Option<Row>;
    /// The life that a backend id lives, or has lived last; `None` for an id of nobody.
    fn life(&self, id: u16) -> Option<Life>;
    /// Those that the program goes by: a longer one makes flows live that were about to expire.
    fn timeouts(&self, ring: usize) -> Timeouts;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Try to, and tell [`Scan::outcome`].
    Remove,
}

/// How many flows of a backend were seen since a given second: those that are left, for one that is being drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    pub backend: u16,
    pub since: u32,
    pub flows: u64,
}

/// What one walk over the flow tables has seen so far.
#[derive(Clone, Debug)]
pub struct Scan {
    began: u32,
    rings: Vec<Tracked>,
    named: Ids,
    entries: Vec<u64>,
    watches: Vec<Watch>,
    /// Entries to be removed whose outcome was not told yet.
    awaited: usize,
}

#[derive(Clone, Debug)]
struct Tracked {
    log2: u32,
    tcp: bool,
    /// Both empty if all rows were steady: nothing will become of those.
    words: Vec<Row>,
    /// What the filter of each row would be; 0 if none of its flows is left.
    filters: Vec<u64>,
}

impl Scan {
    /// Begins in second `now`. `services` is how many service ids there are; of `watches`, `flows` is to be 0.
    pub fn begin(rings: &[Ring<'_>], services: usize, watches: Vec<Watch>, now: u32) -> Self {
        let mut named = Ids::default();
        let track = |ring: &Ring<'_>| {
            ring.words.iter().for_each(|word| named.add_word(*word));
            let words = if ring.words.iter().all(|word| word.is_steady()) { Vec::new() } else { ring.words.to_vec() };
            Tracked { log2: ring.words.len().trailing_zeros(), tcp: ring.tcp, filters: vec![0; words.len()], words }
        };
        let rings = rings.iter().map(track).collect();
        Self { began: now, rings, named, entries: vec![0; services], watches, awaited: 0 }
    }

    /// To be shown every entry once. `now` is the present second.
    #[inline]
    pub fn see(&mut self, entry: &Entry, present: &impl Present, now: u32) -> Verdict {
        if self.is_removable(entry, present, now) {
            self.awaited += 1;
            Verdict::Remove
        } else {
            self.keep(entry);
            Verdict::Keep
        }
    }

    /// Whether an entry that was to be removed is gone. If somebody else was faster it is not, whatever it is now.
    pub fn outcome(&mut self, entry: &Entry, removed: bool) {
        self.awaited -= 1;
        if !removed {
            self.keep(entry);
        }
    }

    fn is_removable(&self, entry: &Entry, present: &impl Present, now: u32) -> bool {
        if !entry.state.is_taken() {
            return true;
        }
        let Some((index, ring)) = entry.ring.and_then(|index| Some((index, self.rings.get(index)?))) else {
            return true;
        };
        let life = entry.state.life();
        // A backend that is down keeps its flows: it may come back.
        if is_expired(entry.state, ring.tcp, now, present.timeouts(index)) || present.life(life.backend()) != Some(life)
        {
            return true;
        }
        let row = row_index(entry.hash, ring.log2) as usize;
        let then = ring.words.get(row);
        let word = present.word(index, row);
        match (then, word) {
            // Nobody asks for it, and should the row move it would be wrong.
            (None, Some(word)) => word.is_steady(),
            (Some(then), Some(word)) if *then == word && self.is_at_rest(word) => {
                word.is_steady() || life.backend() == word.owner()
            }
            _ => false,
        }
    }

    /// No flow of the row was written down since the scan began, by any CPU's clock, if it has this word since then.
    const fn is_at_rest(&self, word: Row) -> bool {
        word.kind() != KIND_MOVING || self.began > word.until() + 1
    }

    fn keep(&mut self, entry: &Entry) {
        let life = entry.state.life();
        if let Some(count) = self.entries.get_mut(entry.service as usize) {
            *count += 1;
        }
        // One that was vacant has been claimed meanwhile, for a backend that the row named.
        if entry.state.is_taken() {
            self.named.add(life.backend());
            for watch in &mut self.watches {
                watch.flows += u64::from(watch.backend == life.backend() && entry.state.last() >= watch.since);
            }
        }
        if let Some(ring) = entry.ring.and_then(|ring| self.rings.get_mut(ring))
            && let Some(filter) = ring.filters.get_mut(row_index(entry.hash, ring.log2) as usize)
        {
            *filter |= filter_bit(entry.hash);
        }
    }

    /// All entries were seen. `live` are the rings' words now, `None` for a ring that is gone or has another size;
    /// `busy` says that a change of any of them was planned and is not yet swapped in and settled.
    pub fn end(mut self, live: &[Option<&[Row]>], busy: bool) -> Findings {
        let trusted = !busy && self.awaited == 0;
        let mut rewrites = Vec::new();
        for (index, (ring, live)) in self.rings.iter().zip(live).enumerate() {
            let live = live.unwrap_or_default();
            live.iter().for_each(|word| self.named.add_word(*word));
            if !trusted || ring.words.len() != live.len() {
                continue;
            }
            for (row, (&from, &then)) in live.iter().zip(&ring.words).enumerate() {
                if from != then || from.is_steady() || !self.is_at_rest(from) {
                    continue;
                }
                let to = match ring.filters[row] {
                    0 => Row::steady(from.owner()),
                    filter => Row::exceptions(from.owner(), filter),
                };
                if to != from {
                    rewrites.push((index, Rewrite { row, from, to }));
                }
            }
        }
        Findings {
            rewrites,
            entries: self.entries,
            watches: self.watches,
            began: self.began,
            named: if trusted { Some(self.named) } else { None },
        }
    }
}

/// What came of a scan.
#[derive(Debug)]
pub struct Findings {
    /// By index of the ring: rows that have become simpler.
    pub rewrites: Vec<(usize, Rewrite)>,
    /// By service id: entries in the tables. Those written while the scan was on are in it or not.
    pub entries: Vec<u64>,
    pub watches: Vec<Watch>,
    began: u32,
    named: Option<Ids>,
}

impl Findings {
    /// Whether no row and no entry names this id. `left` is the second in which it had left the last ring; only a scan
    /// that began after it can tell.
    pub fn is_unnamed(&self, id: u16, left: u32) -> bool {
        self.began > left && self.named.as_ref().is_some_and(|named| !named.contains(id))
    }
}

/// A set of backend ids.
#[derive(Clone, Debug)]
struct Ids(Box<[u64]>);

impl Default for Ids {
    fn default() -> Self {
        Self(vec![0; (1 << 16) / 64].into())
    }
}

impl Ids {
    #[inline]
    fn add(&mut self, id: u16) {
        self.0[usize::from(id) / 64] |= 1 << (id % 64);
    }

    /// A word of kind moving names its `settled` for as long as it stands, though its time may be over: a packet may be
    /// at it this moment.
    #[inline]
    fn add_word(&mut self, word: Row) {
        self.add(word.owner());
        if word.kind() == KIND_MOVING {
            self.add(word.settled());
        }
    }

    fn contains(&self, id: u16) -> bool {
        self.0[usize::from(id) / 64] & 1 << (id % 64) != 0
    }
}

#[cfg(test)]
mod tests {
    use lb_common::flow::{PHASE_CLOSING, PHASE_ESTABLISHED, PHASE_OPENING};

    use super::*;

    const NOW: u32 = 1_000;
    const TIMEOUTS: Timeouts = Timeouts { opening: 6, idle: 30 };

    /// Backends 1 to 3 live their first life; 4 is nobody's id.
    struct World<'a>(&'a [Row]);

    impl Present for World<'_> {
        fn word(&self, _: usize, row: usize) -> Option<Row> {
            self.0.get(row).copied()
        }

        fn life(&self, id: u16) -> Option<Life> {
            (1..4).contains(&id).then(|| Life::new(id, 1))
        }

        fn timeouts(&self, _: usize) -> Timeouts {
            TIMEOUTS
        }
    }

    fn begin(words: &[Row], now: u32) -> Scan {
        Scan::begin(&[Ring { words, tcp: true }], 2, Vec::new(), now)
    }

    /// A flow of row 0 of two.
    fn entry(state: FlowState) -> Entry {
        Entry { ring: Some(0), hash: 0x1234, service: 1, state }
    }

    fn of(backend: u16, last: u32) -> FlowState {
        FlowState::new(Life::new(backend, 1), PHASE_ESTABLISHED, last)
    }

    #[test]
    fn only_what_nobody_will_ask_for_is_forgotten() {
        let moving = Row::moving(1, 2, NOW + 9);
        let rest = Row::moving(1, 2, NOW - 2);
        let fresh = of(2, NOW);
        let phase = |phase, silent| FlowState::new(Life::new(2, 1), phase, NOW - silent);
        use Verdict::{Keep, Remove};
        let table = [
            ("silent for as long as it may be", moving, moving, of(2, NOW - 30), Keep),
            ("silent for longer", moving, moving, of(2, NOW - 31), Remove),
            ("a SYN that nobody answered", moving, moving, phase(PHASE_OPENING, 7), Remove),
            ("closing lives as long as others", moving, moving, phase(PHASE_CLOSING, 30), Keep),
            ("an earlier life", moving, moving, FlowState::new(Life::new(2, 0), 1, NOW), Remove),
            ("nobody's id", moving, moving, of(4, NOW), Remove),
            ("vacant", moving, moving, FlowState::VACANT, Remove),
            ("leaving", moving, moving, FlowState::LEAVING, Remove),
            ("the owner's, while the row moves", moving, moving, of(1, NOW), Keep),
            ("the owner's, at rest", rest, rest, of(1, NOW), Remove),
            ("the owner's, among exceptions", Row::exceptions(1, 9), Row::exceptions(1, 9), of(1, NOW), Remove),
            ("the owner's, at rest too late", Row::moving(1, 2, NOW - 1), Row::moving(1, 2, NOW - 1), of(1, NOW), Keep),
            ("the owner's, moving again", rest, Row::moving(1, 2, NOW + 32), of(1, NOW), Keep),
            ("an exception", rest, rest, fresh, Keep),
            ("of a steady row", Row::steady(1), Row::steady(1), fresh, Remove),
            ("of a row that was steady", Row::steady(1), moving, fresh, Keep),
        ];
        for (name, then, word, state, verdict) in table {
            for other in [Row::steady(3), moving] {
                assert_eq!(
                    begin(&[then, other], NOW).see(&entry(state), &World(&[word, other]), NOW),
                    verdict,
                    "{name}"
                );
            }
        }
        let alone = Entry { ring: None, ..entry(fresh) };
        assert_eq!(begin(&[moving; 2], NOW).see(&alone, &World(&[moving; 2]), NOW), Remove, "its ring is gone");
        assert_eq!(begin(&[rest; 2], NOW).see(&entry(of(1, NOW)), &World(&[]), NOW), Keep, "its ring is another");
    }

    #[test]
    fn rows_become_steady_without_entries_and_get_a_filter_with_some() {
        let until = NOW - 2;
        let words = [Row::moving(1, 2, until); 4];
        let hashes = [0x0000_1111, 0x0000_9999, 0x4000_2222, 0x8000_3333];
        let mut scan = begin(&words, NOW);
        let entries = hashes.map(|hash| Entry { hash, ..entry(of(if hash == hashes[3] { 1 } else { 2 }, NOW)) });
        let verdicts = entries.map(|entry| scan.see(&entry, &World(&words), NOW));
        assert_eq!(verdicts, [Verdict::Keep, Verdict::Keep, Verdict::Keep, Verdict::Remove]);
        scan.outcome(&entries[3], true);
        let found = scan.end(&[Some(&words)], false);
        let row = |row: usize, to| (0, Rewrite { row, from: words[row], to });
        let both = filter_bit(hashes[0]) | filter_bit(hashes[1]);
        assert_eq!(
            found.rewrites,
            [
                row(0, Row::exceptions(1, both)),
                row(1, Row::exceptions(1, filter_bit(hashes[2]))),
                row(2, Row::steady(1)),
                row(3, Row::steady(1))
            ]
        );
        assert_eq!(found.entries, [0, 3]);
    }

    #[test]
    fn an_entry_that_would_not_be_removed_is_there_still() {
        let words = [Row::exceptions(1, filter_bit(0x1234)), Row::steady(1)];
        for (removed, left, to) in [(true, 0, Some(Row::steady(1))), (false, 1, None)] {
            let mut scan = begin(&words, NOW);
            assert_eq!(scan.see(&entry(of(2, NOW - 31)), &World(&words), NOW), Verdict::Remove);
            scan.outcome(&entry(of(2, NOW - 31)), removed);
            let found = scan.end(&[Some(&words)], false);
            assert_eq!(found.rewrites.first().map(|(_, rewrite)| rewrite.to), to);
            assert_eq!(found.entries[1], left);
            assert_eq!(found.is_unnamed(2, NOW - 1), removed);
        }
    }

    #[test]
    fn a_scan_that_was_disturbed_changes_nothing() {
        let rest = [Row::moving(1, 2, NOW - 2); 2];
        type Line = (&'static str, [Row; 2], u32, Option<[Row; 2]>, bool, usize);
        let table: [Line; 6] = [
            ("undisturbed", rest, NOW, Some(rest), false, 2),
            ("a change is under way", rest, NOW, Some(rest), true, 0),
            ("a row changed", rest, NOW, Some([rest[0].with_until(NOW - 3), rest[1]]), false, 1),
            ("the ring is gone", rest, NOW, None, false, 0),
            ("began when a CPU might have seen them move", rest, NOW - 1, Some(rest), false, 0),
            ("was steady already", [Row::steady(1); 2], NOW, Some([Row::steady(1); 2]), false, 0),
        ];
        for (name, then, began, live, busy, rewrites) in table {
            let found = begin(&then, began).end(&[live.as_ref().map(|live| &live[..])], busy);
            assert_eq!(found.rewrites.len(), rewrites, "{name}");
        }
        let mut scan = begin(&rest, NOW);
        scan.see(&entry(FlowState::VACANT), &World(&rest), NOW);
        assert!(scan.end(&[Some(&rest)], false).rewrites.is_empty(), "an outcome is not known");
    }

    #[test]
    fn an_id_rests_only_when_neither_row_nor_entry_names_it() {
        let steady = [Row::steady(1); 2];
        let names = |then: [Row; 2], live: [Row; 2], state: FlowState, busy, left| {
            let mut scan = begin(&then, NOW);
            // Of a row that moves: nothing is removed from it.
            let moves = Row::moving(1, 1, NOW + 9);
            scan.see(&entry(state), &World(&[moves; 2]), NOW);
            !scan.end(&[Some(&live)], busy).is_unnamed(3, left)
        };
        let other = of(2, NOW);
        assert!(!names(steady, steady, other, false, NOW - 1), "unnamed");
        assert!(names(steady, steady, other, false, NOW), "the scan began too early");
        assert!(names(steady, steady, other, true, NOW - 1), "a change may name it");
        assert!(names(steady, steady, of(3, NOW), false, NOW - 1), "an entry");
        for word in [Row::steady(3), Row::moving(1, 3, 5), Row::moving(3, 1, 5), Row::exceptions(3, 1)] {
            assert!(names([word, steady[0]], steady, other, false, NOW - 1), "a row, when it began: {word:?}");
            assert!(names(steady, [steady[0], word], other, false, NOW - 1), "a row, when it ended: {word:?}");
        }
        assert!(!names([Row::exceptions(1, 3); 2], steady, other, false, NOW - 1), "a filter names nobody");
    }

    #[test]
    fn flows_seen_since_a_drain_began_are_counted() {
        let words = [Row::moving(1, 2, NOW + 9); 2];
        let watch = |backend, since| Watch { backend, since, flows: 0 };
        let watches = vec![watch(2, NOW - 5), watch(2, NOW - 20), watch(1, 0)];
        let mut scan = Scan::begin(&[Ring { words: &words, tcp: true }], 2, watches, NOW);
        for last in [NOW, NOW - 5, NOW - 6, NOW - 31] {
            scan.see(&entry(of(2, last)), &World(&words), NOW);
        }
        let found = scan.end(&[Some(&words)], false);
        assert_eq!(found.watches.iter().map(|watch| watch.flows).collect::<Vec<_>>(), [2, 3, 0]);
    }
}
