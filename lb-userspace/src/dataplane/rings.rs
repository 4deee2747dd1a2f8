//! The rings the kernel has: their arrays, and every way their rows change.
//!
//! A row is written in one of two ways. A change of owners builds a new array and swaps the slot of the outer map, so
//! that every packet sees the ring before or the ring after. A correction of single rows is a compare-and-swap in the
//! array that is in use, because the program writes there too: it makes rows move for longer when it has to refuse an
//! entry. The trap is the time between: what the program writes into the array that is being replaced must reach the
//! one that replaces it. [`crate::rows`] says what to write; this says when.

mod adopt;

pub use adopt::Referred;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::maps::MapData;

use lb_common::flow::FlowPolicy;
use lb_common::ring::{CLASSES, KIND_MOVING, Row, row_index, rows};
use lb_common::rows::BEFORE;

use crate::rows::migration;
use crate::rows::plan::{Change, plan, split};
use crate::rows::recovery::recovered;
use crate::rows::timeout::{may_lower, raise, raised};
use crate::rows::{Correction, Facts, Rewrite, Standing};

use super::error::DataplaneError;
use super::sys;
use super::tables::{Ring, RingId, RingOwners, RingPlace};

pub(super) const NAMES: [&str; CLASSES.len()] = ["RINGS_10", "RINGS_12", "RINGS_14", "RINGS_17", "RINGS_20"];

/// `BPF_F_MMAPABLE` of linux/bpf.h.
const MMAPABLE: u32 = 1 << 10;

/// How often a change is planned anew because time or the program overtook it.
const ATTEMPTS: usize = 5;

/// An array of rows in use.
#[derive(Debug)]
struct Array {
    place: RingPlace,
    map: MapData,
    words: sys::Words,
}

#[derive(Debug)]
struct Live {
    array: Array,
    /// What its rows' owners are.
    owners: RingOwners,
    /// The idle timeout that its moving rows were written with.
    idle: u32,
    /// The one it should have.
    wanted_idle: u32,
    by_source: bool,
}

/// What is known outside when rows change.
pub(super) trait Outside {
    /// The second it is, on the data plane's clock.
    fn now(&self) -> u32;
    /// The second in which a service last refused an entry; 0 for never.
    fn refused(&self, service: u32) -> u32;
    /// Rows of the service are about to move.
    fn begins_to_move(&self, service: u32);
    fn standing(&self, backend: u16) -> Standing;
}

/// How a ring comes by an array that it does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    New,
    /// Each row becomes several.
    Split,
    /// Rows have nothing to do with those before: flows that are not written down are where the old ring says.
    Migrate,
}

/// How many rows a ring has of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    pub steady: u32,
    pub moving: u32,
    pub exceptions: u32,
}

#[derive(Debug)]
pub(super) struct Rings {
    outer: [MapData; CLASSES.len()],
    live: BTreeMap<RingId, Live>,
    /// Arrays that a larger one has taken the place of, until no service refers to them.
    outgrown: BTreeMap<RingId, Array>,
    /// What an earlier controller left in slots that no service in the kernel refers to.
    left: adopt::Left,
    /// Arrays that one of another size or hash has taken the place of, until no row refers to them. Their rows are
    /// what they were when that happened.
    before: BTreeMap<RingId, Array>,
    /// Of these, the ones that services do not refer to yet.
    fresh: BTreeSet<RingId>,
    /// Rings that may have rows that are not steady.
    restless: BTreeSet<RingId>,
    /// Rings whose rows may have been pushed by too little since that second: the program did it by another timeout, or
    /// in an array that an earlier controller did not live to copy from.
    unsure: BTreeMap<RingId, u32>,
}

impl Rings {
    pub(super) fn new(outer: [MapData; CLASSES.len()]) -> Self {
        Self {
            outer,
            live: BTreeMap::new(),
            outgrown: BTreeMap::new(),
            left: adopt::Left::default(),
            before: BTreeMap::new(),
            fresh: BTreeSet::new(),
            restless: BTreeSet::new(),
            unsure: BTreeMap::new(),
        }
    }

    /// First: an array for every ring that has none, and another one for every ring that has outgrown its own or is
    /// chosen by another hash. What its rows say is what the rows of the old one say, so no flow notices which of the
    /// two it meets.
    pub(super) fn publish(
        &mut self,
        next: &BTreeMap<RingId, Ring>,
        outside: &dyn Outside,
    ) -> Result<(), DataplaneError> {
        self.remember_refusals(outside);
        let mut fresh = Vec::new();
        for (id, ring) in next {
            let (way, words): (Way, Vec<Row>) = match self.live.get(id) {
                None => (Way::New, ring.owners.iter().map(|owner| Row::steady(*owner)).collect()),
                Some(live) if live.array.place == ring.place => continue,
                Some(live) if live.by_source == ring.by_source && live.array.place.class < ring.place.class => {
                    (Way::Split, split(&live.array.rows(), CLASSES[usize::from(ring.place.class)]))
                }
                Some(live) => {
                    let now = outside.now();
                    for rewrite in migration::extensions(&live.array.rows(), now) {
                        live.array.correct(rewrite.row, |row| {
                            row.is_moving(now).then(|| row.with_until(rewrite.to.until().max(row.until())))
                        });
                    }
                    (Way::Migrate, migration::begin(&ring.owners, live.idle, now))
                }
            };
            fresh.push((*id, way, Array::new(ring.place, &words)?));
        }
        for (id, ..) in fresh.iter().filter(|(_, way, _)| *way == Way::Migrate) {
            outside.begins_to_move(id.service);
        }
        self.install(fresh.iter().map(|(.., array)| array))?;
        for (id, way, array) in fresh {
            let Ring { by_source, idle, .. } = next[&id];
            let owners = Arc::new(array.rows().iter().map(|row| row.owner()).collect());
            let old = self.live.remove(&id);
            let in_force = old.as_ref().map_or(idle, |live| live.idle);
            self.live.insert(id, Live { array, owners, idle: in_force, wanted_idle: idle, by_source });
            match (way, old) {
                (Way::Split, Some(old)) => {
                    self.outgrown.insert(id, old.array);
                }
                (Way::Migrate, Some(old)) => {
                    self.before.insert(id, old.array);
                    self.fresh.insert(id);
                    self.restless.insert(id);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Second, when services refer to the arrays just published: rows get the owners they should have.
    pub(super) fn change(
        &mut self,
        next: &BTreeMap<RingId, Ring>,
        outside: &dyn Outside,
    ) -> Result<(), DataplaneError> {
        self.merge_replaced(outside)?;
        for array in self.before.values() {
            let hold = migration::hold(&array.rows(), outside.now());
            hold.into_iter().for_each(|correction| array.follow(correction));
        }
        let mut changed: BTreeSet<RingId> = next
            .iter()
            .filter(|(id, ring)| {
                let live = &self.live[id];
                !Arc::ptr_eq(&live.owners, &ring.owners) && live.owners != ring.owners
            })
            .map(|(id, _)| *id)
            .collect();
        // Most need one round; a second one is for rings that time or the program overtook. The last is not asked.
        for attempt in 1..=ATTEMPTS {
            let late = self.swap(&changed, next, outside, attempt == ATTEMPTS)?;
            if late.is_empty() {
                break;
            }
            changed = late;
        }
        for (id, ring) in next {
            if let Some(live) = self.live.get_mut(id) {
                live.owners = Arc::clone(&ring.owners);
            }
        }
        Ok(())
    }

    /// Changes the owners of some rings, all in one swap for each size; those that must be planned anew.
    fn swap(
        &mut self,
        changed: &BTreeSet<RingId>,
        next: &BTreeMap<RingId, Ring>,
        outside: &dyn Outside,
        last: bool,
    ) -> Result<BTreeSet<RingId>, DataplaneError> {
        let mut late = BTreeSet::new();
        let mut ready: Vec<(RingId, Change, Array)> = Vec::new();
        for id in changed {
            let live = &self.live[id];
            let standing = |id| outside.standing(id);
            let facts = Facts { idle: live.idle, refused: outside.refused(id.service), standing: &standing };
            let change = plan(&live.array.rows(), &next[id].owners, &facts, outside.now());
            for extension in &change.extensions {
                // If the program was quicker, the change is not good any more, and planned anew.
                let _ = live.array.words.exchange(extension.row, extension.from.0, extension.to.0);
            }
            let array = Array::new(live.array.place, &change.words)?;
            ready.push((*id, change, array));
        }
        // Arrays take their time to build: look again before they count.
        if !last {
            let now = outside.now();
            ready.retain(|(id, change, _)| {
                let live = &self.live[id];
                let standing = |id| outside.standing(id);
                let facts = Facts { idle: live.idle, refused: outside.refused(id.service), standing: &standing };
                let good = change.still_good(&live.array.rows(), &facts, now);
                if !good {
                    late.insert(*id);
                }
                good
            });
        }
        for (id, ..) in &ready {
            outside.begins_to_move(id.service);
            self.restless.insert(*id);
        }
        self.install(ready.iter().map(|(_, _, array)| array))?;
        // The call has waited for every packet that might have read the old arrays.
        let now = outside.now();
        for (id, change, array) in ready {
            let Some(live) = self.live.get_mut(&id) else { continue };
            let old = std::mem::replace(&mut live.array, array);
            let settle = change.settle(&old.rows(), outside.refused(id.service), now);
            settle.into_iter().for_each(|correction| live.array.follow(correction));
            let again = change.settle_again(outside.refused(id.service), now);
            again.into_iter().for_each(|correction| live.array.follow(correction));
        }
        Ok(late)
    }

    /// What the program wrote into arrays that were replaced while services still referred to them.
    fn merge_replaced(&mut self, outside: &dyn Outside) -> Result<(), DataplaneError> {
        if self.outgrown.is_empty() && self.fresh.is_empty() {
            return Ok(());
        }
        // Putting an array where it is already waits for the packets that have found the old one.
        let ids: Vec<RingId> = self.outgrown.keys().chain(&self.fresh).copied().collect();
        self.install(ids.iter().filter_map(|id| self.live.get(id)).map(|live| &live.array))?;
        let now = outside.now();
        for (id, live) in std::mem::take(&mut self.fresh).iter().filter_map(|id| Some((id, self.live.get(id)?))) {
            // Once more for what is refused meanwhile.
            for _ in 0..2 {
                let settle = migration::settle(&live.array.rows(), live.idle, outside.refused(id.service), now);
                settle.into_iter().for_each(|correction| live.array.follow(correction));
            }
        }
        for (id, old) in &self.outgrown {
            let Some(live) = self.live.get(id) else { continue };
            let log2 = CLASSES[usize::from(live.array.place.class)];
            for (row, said) in split(&old.rows(), log2).into_iter().enumerate() {
                live.array.correct(row, |row| {
                    let later = row.kind() == KIND_MOVING && said.kind() == KIND_MOVING && said.until() > row.until();
                    later.then(|| row.with_until(said.until()))
                });
            }
        }
        Ok(())
    }

    /// Before the program is told of timeouts: one that is raised gives moving rows the difference, one that is lowered
    /// waits until no row moves.
    pub(super) fn follow_timeouts(&mut self, next: &BTreeMap<RingId, Ring>, outside: &dyn Outside) {
        for (id, ring) in next {
            let Some(live) = self.live.get_mut(id) else { continue };
            let now = outside.now();
            live.wanted_idle = ring.idle;
            if ring.idle > live.idle {
                self.unsure.entry(*id).or_insert(now);
                let more = ring.idle - live.idle;
                for rewrite in raise(&live.array.rows(), live.idle, ring.idle, now) {
                    // Pushed by the program meanwhile, it needs the difference all the same.
                    live.array
                        .correct(rewrite.row, |row| row.is_moving(now).then(|| row.with_until(row.until() + more)));
                }
                live.idle = ring.idle;
            } else if ring.idle < live.idle && may_lower(&live.array.rows(), now) {
                live.idle = ring.idle;
            }
        }
    }

    /// When the program goes by the timeouts in force: what it refused before counts with them, too.
    fn remember_refusals(&mut self, outside: &dyn Outside) {
        for (id, since) in std::mem::take(&mut self.unsure) {
            let Some(live) = self.live.get(&id) else { continue };
            let (refused, now) = (outside.refused(id.service), outside.now());
            for correction in raised(&live.array.rows(), live.idle, refused, since, now) {
                live.array.correct(correction.row, |row| correction.apply(row));
            }
        }
    }

    /// Last: what nobody refers to any more.
    pub(super) fn prune(&mut self, next: &BTreeMap<RingId, Ring>) -> Result<(), DataplaneError> {
        self.clear_left()?;
        while let Some((id, array)) = self.outgrown.pop_first() {
            if let Err(e) = self.clear(array.place) {
                self.outgrown.insert(id, array);
                return Err(e);
            }
        }
        let done = |id: &RingId| next.get(id).is_none_or(|ring| ring.before.is_none());
        let done: Vec<RingId> = self.before.keys().copied().filter(done).collect();
        for id in done {
            self.clear(self.before[&id].place)?;
            self.before.remove(&id);
        }
        let gone: Vec<RingId> = self.live.keys().filter(|id| !next.contains_key(id)).copied().collect();
        for id in gone {
            self.clear(self.live[&id].array.place)?;
            self.live.remove(&id);
            self.restless.remove(&id);
        }
        Ok(())
    }

    /// Before a backend that was down counts as up again: see rule 4 of docs/design/rows.md.
    pub(super) fn recovered(&mut self, backend: u16, down_since: u32, outside: &dyn Outside) {
        type Forget = fn(&[Row], u16, u32, u32) -> Vec<Rewrite>;
        let live = self.live.iter().map(|(id, live)| (id, &live.array, recovered as Forget));
        // Some services may use one by itself still, if the apply before failed.
        let by_itself = |id: &RingId| self.fresh.contains(id);
        let before = self.before.iter().map(|(id, array)| {
            let forget: Forget = if by_itself(id) { recovered } else { migration::forget };
            (id, array, forget)
        });
        for (id, array, forget) in live.chain(before) {
            loop {
                // Asked first, because reading all rows for each of thousands that come up at once takes seconds.
                let refused = outside.refused(id.service);
                if refused == 0 || refused < down_since {
                    break;
                }
                let rewrites = forget(&array.rows(), backend, refused, down_since);
                if rewrites.is_empty() {
                    break;
                }
                for rewrite in rewrites {
                    // One that fails was pushed by the program: it is found again.
                    let _ = array.words.exchange(rewrite.row, rewrite.from.0, rewrite.to.0);
                }
            }
        }
    }

    /// Flows of these rings that are not written down are not this backend's any more; the services of the rings.
    pub(super) fn unsettle(&self, backend: u16, which: impl Fn(RingId) -> bool) -> BTreeSet<u32> {
        let mut services = BTreeSet::new();
        for (id, live) in self.restless.iter().filter(|id| which(**id)).filter_map(|id| Some((id, self.live.get(id)?)))
        {
            services.insert(id.service);
            let array = &live.array;
            for row in 0..array.words.len() {
                array.correct(row, |row| {
                    let theirs = row.kind() == KIND_MOVING && row.settled() == backend && row.owner() != backend;
                    theirs.then(|| Row::moving(row.owner(), 0, row.until()))
                });
            }
        }
        services
    }

    /// A service's policy with the timeouts that its moving rows were written with, where they are longer.
    pub(super) fn in_force(&self, service: u32, mut policy: FlowPolicy) -> FlowPolicy {
        let of = |protocol, family| RingId { service, protocol, family };
        for (id, live) in self.live.range(of(0, 0)..=of(u8::MAX, u8::MAX)) {
            let idle = if id.is_tcp() { &mut policy.tcp } else { &mut policy.udp };
            *idle = (*idle).max(live.idle);
        }
        policy
    }

    /// Whether some ring waits to be told of a shorter timeout, and may be now.
    pub(super) fn may_lower(&self, now: u32) -> bool {
        self.live.values().any(|live| live.wanted_idle < live.idle && may_lower(&live.array.rows(), now))
    }

    /// The rows of every ring, as they are now.
    pub(super) fn snapshot(&self) -> BTreeMap<RingId, Vec<Row>> {
        self.live.iter().map(|(id, live)| (*id, live.array.rows())).collect()
    }

    /// The row a hash leads to.
    pub(super) fn row(&self, id: RingId, hash: u32) -> Option<Row> {
        let log2 = CLASSES[usize::from(self.live.get(&id)?.array.place.class)];
        self.word(id, row_index(hash, log2) as usize)
    }

    /// One row as it is now; `None` if the ring is gone or has fewer rows.
    pub(super) fn word(&self, id: RingId, row: usize) -> Option<Row> {
        let array = &self.live.get(&id)?.array;
        (row < array.words.len()).then(|| Row(array.words.load(row)))
    }

    /// Backends that rows may still refer to by way of the ring before theirs.
    pub(super) fn named_before(&self) -> BTreeSet<u16> {
        let rows = self.before.values().flat_map(Array::rows);
        rows.flat_map(|row| [Some(row.owner()), (row.kind() == KIND_MOVING).then(|| row.settled())]).flatten().collect()
    }

    /// Rings that have taken the place of another one, and whose rows do not refer to it any more.
    pub(super) fn migrated(&self, now: u32) -> Vec<RingId> {
        let done = |id: &&RingId| self.live.get(id).is_some_and(|live| !migration::refers(&live.array.rows(), now));
        self.before.keys().filter(done).copied().collect()
    }

    /// Whether the rows of a ring are chosen by the addresses alone.
    pub(super) fn is_by_source(&self, id: RingId) -> bool {
        self.live.get(&id).is_some_and(|live| live.by_source)
    }

    /// Whether some row may be anything but steady.
    pub(super) fn is_restless(&self) -> bool {
        !self.restless.is_empty()
    }

    /// Looks which rings are still restless; the services none of whose rows move any more.
    pub(super) fn rest(&mut self, now: u32) -> BTreeSet<u32> {
        let (mut still, mut moving) = (BTreeSet::new(), BTreeSet::new());
        for id in &self.restless {
            let Some(live) = self.live.get(id) else { continue };
            let rows = live.array.rows();
            if rows.iter().any(|row| !row.is_steady()) {
                still.insert(*id);
            }
            // By a clock that lags behind ours, the last second may still be on.
            if rows.iter().any(|row| row.kind() == KIND_MOVING && row.until() >= now) {
                moving.insert(id.service);
            }
        }
        let before = std::mem::replace(&mut self.restless, still);
        before.iter().map(|id| id.service).filter(|service| !moving.contains(service)).collect()
    }

    /// The last second in which a flow that was not written down may show up and be this backend's, if there are rows
    /// whose flows would be.
    pub(super) fn settled_until(&self, backend: u16, now: u32) -> Option<u32> {
        let of_ring = |id: &RingId| {
            let rows = self.live.get(id).map(|live| live.array.rows()).unwrap_or_default();
            let before = self.before.get(id).map(Array::rows).unwrap_or_default();
            let named = before.iter().any(|row| row.owner() == backend || row.settled() == backend);
            let its = move |row: &Row| row.settled() == backend || named && row.settled() == BEFORE;
            rows.into_iter().filter(move |row| row.is_moving(now) && its(row)).map(Row::until).max()
        };
        self.restless.iter().filter_map(of_ring).max()
    }

    /// Changes one row in place, if it still says what it said.
    pub(super) fn rewrite(&self, id: RingId, row: usize, from: Row, to: Row) -> bool {
        self.live.get(&id).is_some_and(|live| live.array.words.exchange(row, from.0, to.0))
    }

    pub(super) fn kinds(&self, id: RingId, now: u32) -> Kinds {
        let mut kinds = Kinds::default();
        if !self.restless.contains(&id) {
            // Not looked at: thousands of rings have millions of rows.
            kinds.steady = self.live.get(&id).map_or(0, |live| live.array.words.len() as u32);
            return kinds;
        }
        for row in self.live.get(&id).iter().flat_map(|live| live.array.rows()) {
            if row.is_steady() {
                kinds.steady += 1;
            } else if row.is_moving(now) {
                kinds.moving += 1;
            } else {
                kinds.exceptions += 1;
            }
        }
        kinds
    }

    /// Puts arrays into their slots, all of one size in one call.
    fn install<'a>(&self, arrays: impl Iterator<Item = &'a Array>) -> Result<(), DataplaneError> {
        let mut by_class: [(Vec<u32>, Vec<_>); CLASSES.len()] = Default::default();
        for array in arrays {
            let (slots, maps) = &mut by_class[usize::from(array.place.class)];
            slots.push(array.place.slot);
            maps.push(array.map.fd().as_fd());
        }
        for (class, (slots, maps)) in by_class.iter().enumerate() {
            sys::set_inner_maps(self.outer[class].fd().as_fd(), slots, maps)
                .map_err(|e| DataplaneError::Write { name: NAMES[class], why: e.to_string() })?;
        }
        Ok(())
    }

    fn clear(&self, place: RingPlace) -> Result<(), DataplaneError> {
        let class = usize::from(place.class);
        match sys::delete(self.outer[class].fd().as_fd(), place.slot) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(DataplaneError::Write { name: NAMES[class], why: e.to_string() })
            }
            _ => Ok(()),
        }
    }
}

impl Array {
    /// A new array with these rows, in no slot yet.
    fn new(place: RingPlace, words: &[Row]) -> Result<Self, DataplaneError> {
        let class = usize::from(place.class);
        let failed = |why: String| DataplaneError::Write { name: NAMES[class], why };
        let count = rows(class);
        assert_eq!(words.len(), count as usize, "a ring of class {class}");
        let template = aya_obj::Map::new_from_params(
            aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
            size_of::<u32>() as u32,
            size_of::<u64>() as u32,
            count,
            MMAPABLE,
        );
        let map = MapData::create(template, "ring", None).map_err(|e| failed(super::loader::chain(&e)))?;
        let mapping =
            sys::Words::map(map.fd().as_fd(), count as usize).map_err(|e| failed(format!("mapping it: {e}")))?;
        for (i, word) in words.iter().enumerate() {
            mapping.store(i, word.0);
        }
        Ok(Self { place, map, words: mapping })
    }

    fn rows(&self) -> Vec<Row> {
        (0..self.words.len()).map(|i| Row(self.words.load(i))).collect()
    }

    fn follow(&self, correction: Correction) {
        self.correct(correction.row, |row| correction.apply(row));
    }

    /// Changes a row in place, however often the program changes it meanwhile.
    fn correct(&self, row: usize, change: impl Fn(Row) -> Option<Row>) {
        loop {
            let word = Row(self.words.load(row));
            match change(word) {
                Some(new) if new != word => {
                    if self.words.exchange(row, word.0, new.0) {
                        return;
                    }
                }
                _ => return,
            }
        }
    }
}
