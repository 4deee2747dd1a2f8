//! Takes over the arrays that are in the slots, words and all.
//!
//! What a row says of flows on their way (`settled`, `until`) is nowhere else, so no word is written here: a restart
//! goes on where the last controller was, in the middle of a change if need be (rule 10 of docs/design/rows.md).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::maps::MapData;

use lb_common::ring::rows;

use super::{Array, Live, NAMES, Rings};
use crate::dataplane::error::DataplaneError;
use crate::dataplane::loader::chain;
use crate::dataplane::sys;
use crate::dataplane::tables::{Ring, RingId, RingPlace};

/// Arrays found in slots that nobody in the kernel refers to: a ring's own whose services were lost or not written yet,
/// or one that was given up. The first apply tells which.
#[derive(Debug, Default)]
pub(super) struct Left {
    places: BTreeSet<RingPlace>,
    idle: BTreeMap<RingId, u32>,
}

/// What a service in the kernel says of its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Referred {
    pub place: RingPlace,
    pub by_source: bool,
    pub before: Option<RingPlace>,
}

impl Rings {
    /// `referred`: what services in the kernel refer to, two of them while a ring takes another one's place. `idle`: the
    /// idle timeouts that moving rows were written with.
    pub(in crate::dataplane) fn adopt(
        &mut self,
        referred: &BTreeMap<RingId, BTreeSet<Referred>>,
        idle: &BTreeMap<RingId, u32>,
    ) -> Result<(), DataplaneError> {
        self.left = Left { places: self.filled()?, idle: idle.clone() };
        for (id, referred) in referred {
            let filled = |r: &&Referred| self.left.places.contains(&r.place);
            // The last one is the one that takes the place: it says so, or is the larger.
            let mut found: Vec<Referred> = referred.iter().filter(filled).copied().collect();
            found.sort_by_key(|r| (r.before.is_some(), r.place));
            let Some(now) = found.pop() else { continue };
            let array = self.take_left(now.place)?;
            self.take_over(*id, Live::found(array, idle.get(id), now.by_source));
            if let Some(before) = now.before.filter(|place| self.left.places.contains(place)) {
                let array = self.take_left(before)?;
                self.before.insert(*id, array);
                if !found.is_empty() {
                    // Some services do not refer to the new one yet.
                    self.fresh.insert(*id);
                }
            } else if let Some(outgrown) = found.pop() {
                let array = self.take_left(outgrown.place)?;
                self.outgrown.insert(*id, array);
            }
        }
        Ok(())
    }

    /// A slot belongs to one ring, and to no other before it was cleared: what is in it is that ring's.
    pub(in super::super) fn adopt_left(&mut self, next: &BTreeMap<RingId, Ring>) -> Result<(), DataplaneError> {
        for (id, ring) in next {
            if !self.live.contains_key(id) && self.left.places.contains(&ring.place) {
                let array = self.take_left(ring.place)?;
                let live = Live::found(array, self.left.idle.get(id), ring.by_source);
                self.take_over(*id, live);
            }
        }
        Ok(())
    }

    /// What is nobody's when all is written.
    pub(super) fn clear_left(&mut self) -> Result<(), DataplaneError> {
        while let Some(place) = self.left.places.pop_first() {
            let taken = self.live.values().any(|live| live.array.place == place);
            if !taken && let Err(e) = self.clear(place) {
                self.left.places.insert(place);
                return Err(e);
            }
        }
        Ok(())
    }

    fn take_over(&mut self, id: RingId, live: Live) {
        self.live.insert(id, live);
        self.restless.insert(id);
        self.unsure.insert(id, 0);
    }

    fn take_left(&mut self, place: RingPlace) -> Result<Array, DataplaneError> {
        let array = Array::in_slot(&self.outer[usize::from(place.class)], place)?;
        self.left.places.remove(&place);
        Ok(array)
    }

    /// Slots that have an array.
    fn filled(&self) -> Result<BTreeSet<RingPlace>, DataplaneError> {
        let mut filled = BTreeSet::new();
        for (class, outer) in self.outer.iter().enumerate() {
            let failed = |why: String| DataplaneError::Map { name: NAMES[class].to_owned(), why };
            let slots = outer.info().map_err(|e| failed(chain(&e)))?.max_entries();
            for slot in 0..slots {
                if sys::lookup_u32(outer.fd().as_fd(), slot).map_err(|e| failed(e.to_string()))?.is_some() {
                    filled.insert(RingPlace { class: class as u8, slot });
                }
            }
        }
        Ok(filled)
    }

    /// The idle timeouts in force.
    pub(in crate::dataplane) fn idle_timeouts(&self) -> BTreeMap<RingId, u32> {
        self.live.iter().map(|(id, live)| (*id, live.idle)).collect()
    }
}

impl Live {
    /// As it was found. A timeout that is not known counts as zero: moving rows then move for longer than they must.
    fn found(array: Array, idle: Option<&u32>, by_source: bool) -> Self {
        let owners = Arc::new(array.rows().iter().map(|row| row.owner()).collect());
        let idle = idle.copied().unwrap_or(0);
        Self { array, owners, idle, wanted_idle: idle, by_source }
    }
}

impl Array {
    /// What is in a slot.
    fn in_slot(outer: &MapData, place: RingPlace) -> Result<Self, DataplaneError> {
        let class = usize::from(place.class);
        let failed = |why: String| DataplaneError::Map {
            name: NAMES[class].to_owned(),
            why: format!("opening the ring in slot {}: {why}", place.slot),
        };
        let id = sys::lookup_u32(outer.fd().as_fd(), place.slot).map_err(|e| failed(e.to_string()))?;
        let id = id.ok_or_else(|| failed("it is gone".into()))?;
        let map = MapData::from_id(id).map_err(|e| failed(chain(&e)))?;
        let words =
            sys::Words::map(map.fd().as_fd(), rows(class) as usize).map_err(|e| failed(format!("mapping it: {e}")))?;
        Ok(Self { place, map, words })
    }
}
