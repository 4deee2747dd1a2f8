//! One walk over the flows that are written down, a batch at a time, so that whoever walks can do other things between.
//!
//! [`crate::rows::sweep`] judges, and [`crate::tracked`] those in the tables of tracked flows, which come second: what a
//! row names may be written there while the walk goes on, and what no row names any more may not; this reads, removes and
//! writes. Entries are read in batches by system call, and the packet path does not wait for it; those to be removed are
//! handed to a program in the kernel that looks once more and removes in one step. A sweep frees memory and makes rows
//! simpler; nothing depends on when it runs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Instant;

use lb_common::flow::{Flow4, Flow6, FlowEntry, Life};
use lb_common::ring::Row;
use lb_common::rows::Timeouts;

use crate::rows::sweep::{Entry, Findings, Present, Ring, Scan, Verdict, Watch};
use crate::tracked::{self, ByFamily, Evicted, Memory};

use super::Dataplane;
use super::clock;
use super::error::DataplaneError;
use super::flows::{Cursor, Key, Table};
use super::halves::Halves;
use super::maps::Maps;
use super::shape::Shape;
use super::tables::RingId;

/// Entries from which on two threads read a table.
const LARGE: u32 = 1 << 16;

/// A walk under way.
#[derive(Debug)]
pub struct Sweep {
    scan: Scan,
    rings: Vec<RingId>,
    index: HashMap<RingId, usize>,
    cursor: Cursor,
    /// Reads the table that the cursor is at the beginning of.
    halves: Option<Halves>,
    began: Instant,
    /// By service id: the entries it was said to have, less what has been removed.
    expected: Vec<u64>,
    /// For the second part of the walk.
    watches: Vec<Watch>,
    tracked: Option<tracked::Walk>,
}

/// What walks over the tables of tracked flows have found out.
#[derive(Debug, Default)]
pub(super) struct Tracking {
    memory: Option<Memory>,
    hasher: RandomState,
    /// By service, since this controller runs.
    evicted: BTreeMap<u32, Evictions>,
    /// The last walk found some.
    evicting: bool,
    /// Flows were removed otherwise than by a walk, since the one under way began.
    disturbed: bool,
}

/// Tracked flows of a service that the kernel pushed out, as far as walks have found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    pub flows: u64,
    /// When some were found last: how many seconds the youngest of them had been silent, at most.
    pub youngest: Option<u32>,
}

impl Tracking {
    pub(super) fn disturb(&mut self) {
        self.disturbed = true;
    }

    /// The id is somebody else's now.
    pub(super) fn forget(&mut self, service: u32) {
        self.evicted.remove(&service);
    }
}

/// What it came to.
#[derive(Debug)]
pub struct Swept {
    pub began: Instant,
    pub findings: Findings,
    /// Backends that rows refer to by way of the ring before theirs.
    before: BTreeSet<u16>,
    /// By service id.
    tracked: Vec<ByFamily>,
    /// Backends of tracked flows; `None`: nobody can tell.
    tracked_named: Option<HashSet<u16>>,
}

impl Swept {
    /// No row and no entry names the backend, since before the sweep began.
    pub fn is_unnamed(&self, backend: u16) -> bool {
        self.findings.is_unnamed(backend, 0)
            && !self.before.contains(&backend)
            && self.tracked_named.as_ref().is_some_and(|named| !named.contains(&backend))
    }

    /// Entries of a service that are left, in all tables.
    pub fn entries(&self, service: u32) -> u64 {
        let tracked = self.tracked.get(service as usize).map_or(0, |tracked| tracked.iter().sum());
        self.findings.entries.get(service as usize).copied().unwrap_or(0) + tracked
    }

    /// All entries that are left: those of rows, and tracked ones.
    pub fn total(&self) -> (u64, u64) {
        (self.findings.entries.iter().sum(), self.tracked.iter().flatten().sum())
    }
}

struct Now<'a> {
    maps: &'a Maps,
    rings: &'a [RingId],
}

impl Present for Now<'_> {
    fn word(&self, ring: usize, row: usize) -> Option<Row> {
        self.maps.rings.word(*self.rings.get(ring)?, row)
    }

    fn life(&self, id: u16) -> Option<Life> {
        self.maps.life(id)
    }

    fn timeouts(&self, ring: usize) -> Timeouts {
        self.rings.get(ring).map_or(Timeouts { opening: u32::MAX, idle: u32::MAX }, |id| self.maps.timeouts(*id))
    }
}

impl Dataplane {
    /// Begins a walk; `watches` are backends whose flows are to be counted.
    pub fn begin_sweep(&self, watches: Vec<Watch>) -> Sweep {
        let maps = &self.maps;
        let snapshot: BTreeMap<RingId, Vec<Row>> = maps.rings.snapshot();
        let rings: Vec<RingId> = snapshot.keys().copied().collect();
        let shown: Vec<Ring<'_>> = snapshot.iter().map(|(id, words)| Ring { words, tcp: id.is_tcp() }).collect();
        let services = maps.service_slots();
        Sweep {
            scan: Scan::begin(&shown, services, watches.clone(), clock::seconds()),
            index: rings.iter().enumerate().map(|(index, id)| (*id, index)).collect(),
            rings,
            cursor: Cursor::default(),
            halves: None,
            began: Instant::now(),
            expected: (0..services as u32).map(|service| maps.flow_use(service).entries).collect(),
            watches,
            tracked: None,
        }
    }

    /// Begins its second part: over the tables of tracked flows.
    fn begin_tracked(&mut self, watches: Vec<Watch>) -> tracked::Walk {
        let words = self.maps.tracked_words();
        let (room4, room6) = (u64::from(self.options.sizes.tracked4), u64::from(self.options.sizes.tracked6));
        let count = |family: usize| words.iter().map(|word| word[family]).sum::<u64>();
        // Ages are told by who was there before: worth the memory as soon as somebody may be pushed out.
        let remember = self.tracking.evicting || count(0) > room4 / 2 || count(1) > room6 / 2;
        let before = self.tracking.memory.take();
        self.tracking.disturbed = false;
        tracked::Walk::begin(words, watches, before, remember, clock::seconds())
    }

    /// Walks over the next batch; whether there is more.
    pub fn continue_sweep(&mut self, sweep: &mut Sweep) -> Result<bool, DataplaneError> {
        if sweep.cursor.table() == Table::Tracked {
            return self.continue_tracked(sweep);
        }
        let batch = self.read_on(&mut sweep.cursor, &mut sweep.halves)?;
        let now = clock::seconds();
        let present = Now { maps: &self.maps, rings: &sweep.rings };
        let (mut removable, mut judged) = (Vec::new(), Vec::new());
        let show = |(key, entry): &(Key, FlowEntry)| {
            let (ring, hash) = (sweep.index.get(&key.ring(entry.service)).copied(), self.place_of(key, entry));
            Entry { ring, hash, service: entry.service, state: entry.state }
        };
        let shown: Vec<Entry> = batch.iter().map(show).collect();
        for (entry, shown) in batch.iter().zip(shown) {
            if sweep.scan.see(&shown, &present, now) == Verdict::Remove {
                removable.push(*entry);
                judged.push(shown);
            }
        }
        let outcomes = self.forget(Table::Rows, &removable)?;
        for ((entry, removed), (key, _)) in judged.iter().zip(outcomes).zip(&removable) {
            // Two threads may both have read it, and it was removed already.
            let gone = removed || self.maps.flow(Table::Rows, key)?.is_none();
            sweep.scan.outcome(entry, gone);
            if removed && let Some(expected) = sweep.expected.get_mut(entry.service as usize) {
                *expected = expected.wrapping_sub(1);
            }
        }
        if sweep.cursor.is_done() {
            sweep.cursor = Cursor::new(Table::Tracked);
            sweep.tracked = Some(self.begin_tracked(std::mem::take(&mut sweep.watches)));
        }
        Ok(true)
    }

    /// The next entries: by two threads, if the table is one of those that take long.
    fn read_on(
        &self,
        cursor: &mut Cursor,
        halves: &mut Option<Halves>,
    ) -> Result<Vec<(Key, FlowEntry)>, DataplaneError> {
        if halves.is_none()
            && let Some(family) = cursor.begins()
            && thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1)
        {
            let (name, table) = self.maps.flow_table(cursor.table(), family);
            let room = Shape::of(table)?.entries;
            if room >= LARGE && self.expected_in(cursor.table(), family) >= u64::from(LARGE) {
                let (table, middle) = (table.fd().as_fd(), room.next_power_of_two() / 2);
                // No thread to be had: it takes longer.
                *halves = match family {
                    4 => Halves::begin::<Flow4>(name, table, middle).ok(),
                    _ => Halves::begin::<Flow6>(name, table, middle).ok(),
                };
            }
        }
        let Some(both) = halves else { return self.read_flows(cursor) };
        let entries = both.next()?;
        if entries.is_none() {
            *halves = None;
            cursor.pass();
        }
        Ok(entries.unwrap_or_default())
    }

    /// How many flows the table is said to have, or both families of it.
    fn expected_in(&self, table: Table, family: u8) -> u64 {
        match table {
            Table::Rows => (0..self.maps.service_slots() as u32).map(|id| self.maps.flow_use(id).entries).sum(),
            Table::Tracked => self.maps.tracked_words().iter().map(|words| words[usize::from(family == 6)]).sum(),
        }
    }

    fn continue_tracked(&mut self, sweep: &mut Sweep) -> Result<bool, DataplaneError> {
        let Some(walk) = &mut sweep.tracked else { return Ok(false) };
        let batch = self.read_on(&mut sweep.cursor, &mut sweep.halves)?;
        let now = clock::seconds();
        let (mut removable, mut judged) = (Vec::new(), Vec::new());
        for (key, entry) in batch {
            let ring = key.ring(entry.service);
            let family = usize::from(ring.family == 6);
            let policy = self.maps.policy(entry.service);
            let asked = [policy.tracked_quota4, policy.tracked_quota6][family] > 0 && sweep.index.contains_key(&ring);
            let shown = tracked::Entry {
                key: self.tracking.hasher.hash_one((&key, entry.service)),
                service: entry.service,
                family,
                tcp: ring.is_tcp(),
                timeouts: asked.then(|| self.maps.timeouts(ring)),
                twice: walk.counts(entry.state) && self.is_written_down(&key, &entry)?,
                state: entry.state,
            };
            if walk.see(&shown, |id| self.maps.life(id), now) == Verdict::Remove {
                removable.push((key, entry));
                judged.push(shown);
            }
        }
        let outcomes = self.forget(Table::Tracked, &removable)?;
        for ((entry, removed), (key, _)) in judged.iter().zip(outcomes).zip(&removable) {
            // As above; or the kernel has pushed it out.
            if removed || self.maps.flow(Table::Tracked, key)?.is_some() {
                walk.outcome(entry, removed);
            }
        }
        Ok(!sweep.cursor.is_done())
    }

    /// Ends a walk: rows become simpler, counts become right.
    pub fn end_sweep(&mut self, sweep: Sweep) -> Swept {
        let live = self.maps.rings.snapshot();
        let words: Vec<Option<&[Row]>> = sweep.rings.iter().map(|id| live.get(id).map(Vec::as_slice)).collect();
        // Changes are made whole between two batches: none is ever half done here.
        let mut findings = sweep.scan.end(&words, false);
        for (ring, rewrite) in &findings.rewrites {
            // One that has changed since is for the next sweep.
            let _ = self.maps.rings.rewrite(sweep.rings[*ring], rewrite.row, rewrite.from, rewrite.to);
        }
        for (service, (counted, expected)) in findings.entries.iter().zip(&sweep.expected).enumerate() {
            if counted != expected {
                self.maps.correct_entries(service as u32, counted.wrapping_sub(*expected) as i64);
            }
        }
        for service in self.maps.rings.rest(clock::seconds()) {
            self.maps.set_moving(service, false);
        }
        let (tracked, tracked_named) = match sweep.tracked {
            Some(walk) => self.end_tracked(walk, &mut findings.watches),
            None => Default::default(),
        };
        Swept { began: sweep.began, findings, before: self.maps.rings.named_before(), tracked, tracked_named }
    }

    fn end_tracked(&mut self, walk: tracked::Walk, watches: &mut [Watch]) -> (Vec<ByFamily>, Option<HashSet<u16>>) {
        let found = walk.end(&self.maps.tracked_words(), clock::seconds());
        for (watch, tracked) in watches.iter_mut().zip(&found.watches) {
            watch.flows += tracked.flows;
        }
        // Somebody else's removals look like the kernel's, and a table that took another one's place was not walked over.
        let disturbed = std::mem::take(&mut self.tracking.disturbed);
        if !disturbed {
            for (service, family, by) in &found.corrections {
                self.maps.correct_tracked(*service, *family, *by);
            }
            self.tracking.evicting = !found.evicted.is_empty();
            for Evicted { service, flows, youngest } in found.evicted {
                let evicted = self.tracking.evicted.entry(service).or_default();
                *evicted = Evictions { flows: evicted.flows + flows, youngest };
            }
            self.tracking.memory = found.memory;
        }
        (found.present, (!disturbed).then_some(found.named))
    }

    /// Tracked flows of a service that the kernel pushed out since this controller runs.
    pub fn evictions(&self, service: u32) -> Evictions {
        self.tracking.evicted.get(&service).copied().unwrap_or_default()
    }

    /// Whether a sweep has anything to do.
    pub fn wants_sweep(&self) -> bool {
        self.maps.rings.is_restless()
            || (0..self.maps.service_slots() as u32).any(|id| {
                let uses = self.maps.flow_use(id);
                uses.entries > 0 || uses.tracked4 > 0 || uses.tracked6 > 0
            })
    }

    /// Rings that have taken another one's place, and whose rows do not refer to it any more.
    pub fn migrated(&self) -> Vec<RingId> {
        self.maps.rings.migrated(clock::seconds())
    }

    /// Whether a shorter timeout that had to wait may be told to the program: the next [`Dataplane::apply`] does.
    pub fn may_lower(&self) -> bool {
        self.maps.rings.may_lower(clock::seconds())
    }

    /// The last second in which a flow that is not written down may show up and be this backend's; `None` if none can.
    pub fn settled_until(&self, backend: u16) -> Option<u32> {
        self.maps.rings.settled_until(backend, clock::seconds())
    }
}

impl RingId {
    pub(super) const fn is_tcp(self) -> bool {
        self.protocol == lb_common::addr::PROTO_TCP
    }
}

impl Maps {
    /// Those that the packet path goes by.
    pub(super) fn timeouts(&self, id: RingId) -> Timeouts {
        let policy = self.policy(id.service);
        if id.is_tcp() {
            Timeouts { opening: policy.tcp_opening, idle: policy.tcp }
        } else {
            Timeouts { opening: policy.udp, idle: policy.udp }
        }
    }
}
