//! The rings the kernel has: their arrays, and every way their rows change.
//!
//! A row is written in one of two ways. A change of owners builds a new array and swaps the slot of the outer map, so
//! that every packet sees the ring before or the ring after. A correction of single rows is a compare-and-swap in the
//! array that is in use, because the program writes there too: it makes rows move for longer when it has to refuse an
//! entry. The trap is the time between: what the program writes into the array that is being replaced must reach the
//! one that replaces it. [`crate::rows`] says what to write; this says when.

mod adopt;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::maps::MapData;

use lb_common::ring::{CLASSES, KIND_MOVING, Row, rows};

use crate::rows::plan::{Change, plan, split};
use crate::rows::recovery::recovered;
use crate::rows::timeout::{may_lower, raise};
use crate::rows::{Facts, Standing};

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
}

/// What is known outside when rows change.
pub(super) trait Outside {
    /// The second it is, on the data plane's clock.
    fn now(&self) -> u32;
    /// The second in which a service last refused an entry; 0 for never.
    fn refused(&self, service: u32) -> u32;
    fn standing(&self, backend: u16) -> Standing;
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
}

impl Rings {
    pub(super) fn new(outer: [MapData; CLASSES.len()]) -> Self {
        Self { outer, live: BTreeMap::new(), outgrown: BTreeMap::new(), left: adopt::Left::default() }
    }

    /// First: an array for every ring that has none, and a larger one for every ring that has outgrown its own. Its
    /// rows say what the rows they come from say, so no flow notices which of the two it meets.
    pub(super) fn publish(&mut self, next: &BTreeMap<RingId, Ring>) -> Result<(), DataplaneError> {
        self.adopt_left(next)?;
        let mut fresh = Vec::new();
        for (id, ring) in next {
            let words: Vec<Row> = match self.live.get(id) {
                None => ring.owners.iter().map(|owner| Row::steady(*owner)).collect(),
                Some(live) if live.array.place.class == ring.place.class => continue,
                Some(live) => split(&live.array.rows(), CLASSES[usize::from(ring.place.class)]),
            };
            fresh.push((*id, Array::new(ring.place, &words)?));
        }
        self.install(fresh.iter().map(|(_, array)| array))?;
        for (id, array) in fresh {
            let target = &next[&id];
            match self.live.remove(&id) {
                None => {
                    let live = Live { array, owners: Arc::clone(&target.owners), idle: target.idle };
                    self.live.insert(id, live);
                }
                Some(live) => {
                    let owners = Arc::new(array.rows().iter().map(|row| row.owner()).collect());
                    self.outgrown.insert(id, live.array);
                    self.live.insert(id, Live { array, owners, idle: live.idle });
                }
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
        self.merge_outgrown()?;
        let mut changed: BTreeSet<RingId> = next
            .iter()
            .filter(|(id, ring)| {
                let live = &self.live[id];
                !Arc::ptr_eq(&live.owners, &ring.owners) && live.owners != ring.owners
            })
            .map(|(id, _)| *id)
            .collect();
        // One slow round would do no harm; a second one is for rings whose rows ran out of time meanwhile.
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
        self.install(ready.iter().map(|(_, _, array)| array))?;
        // The call has waited for every packet that might have read the old arrays.
        let now = outside.now();
        for (id, change, array) in ready {
            let Some(live) = self.live.get_mut(&id) else { continue };
            let old = std::mem::replace(&mut live.array, array);
            for correction in change.settle(&old.rows(), outside.refused(id.service), now) {
                live.array.correct(correction.row, |row| correction.apply(row));
            }
        }
        Ok(late)
    }

    /// What the program wrote into arrays that were outgrown while services still referred to them.
    fn merge_outgrown(&mut self) -> Result<(), DataplaneError> {
        if self.outgrown.is_empty() {
            return Ok(());
        }
        // Putting an array where it is already waits for the packets that have found the old one.
        let ids: Vec<RingId> = self.outgrown.keys().copied().collect();
        self.install(ids.iter().filter_map(|id| self.live.get(id)).map(|live| &live.array))?;
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

    /// A timeout that is raised gives moving rows the difference before the program is told of it; one that is lowered
    /// waits until no row moves.
    pub(super) fn follow_timeouts(&mut self, next: &BTreeMap<RingId, Ring>, outside: &dyn Outside) {
        for (id, ring) in next {
            let Some(live) = self.live.get_mut(id) else { continue };
            let now = outside.now();
            if ring.idle > live.idle {
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

    /// Last: what nobody refers to any more.
    pub(super) fn prune(&mut self, next: &BTreeMap<RingId, Ring>) -> Result<(), DataplaneError> {
        self.clear_left()?;
        while let Some((id, array)) = self.outgrown.pop_first() {
            if let Err(e) = self.clear(array.place) {
                self.outgrown.insert(id, array);
                return Err(e);
            }
        }
        let gone: Vec<RingId> = self.live.keys().filter(|id| !next.contains_key(id)).copied().collect();
        for id in gone {
            self.clear(self.live[&id].array.place)?;
            self.live.remove(&id);
        }
        Ok(())
    }

    /// Before a backend that was down counts as up again: see rule 4 of docs/design/rows.md.
    pub(super) fn recovered(&mut self, backend: u16, down_since: u32, outside: &dyn Outside) {
        for (id, live) in &self.live {
            loop {
                let rewrites = recovered(&live.array.rows(), backend, outside.refused(id.service), down_since);
                if rewrites.is_empty() {
                    break;
                }
                for rewrite in rewrites {
                    // One that fails was pushed by the program: it is found again.
                    let _ = live.array.words.exchange(rewrite.row, rewrite.from.0, rewrite.to.0);
                }
            }
        }
    }

    /// The idle timeout in force for a ring.
    pub(super) fn idle(&self, id: RingId) -> Option<u32> {
        self.live.get(&id).map(|live| live.idle)
    }

    pub(super) fn places(&self) -> impl Iterator<Item = (RingId, RingPlace)> + '_ {
        self.live.iter().map(|(id, live)| (*id, live.array.place))
    }

    /// The rows of every ring, as they are now.
    pub(super) fn snapshot(&self) -> BTreeMap<RingId, Vec<Row>> {
        self.live.iter().map(|(id, live)| (*id, live.array.rows())).collect()
    }

    /// Changes one row in place, if it still says what it said.
    pub(super) fn rewrite(&self, id: RingId, row: usize, from: Row, to: Row) -> bool {
        self.live.get(&id).is_some_and(|live| live.array.words.exchange(row, from.0, to.0))
    }

    pub(super) fn kinds(&self, id: RingId, now: u32) -> Kinds {
        let mut kinds = Kinds::default();
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
