//! Takes over the arrays that are in the slots, words and all.
//!
//! What a row says of flows on their way (`settled`, `until`) is nowhere else, so no word is written here: a restart
//! goes on where the last controller was, in the middle of a change if need be (rule 10 of docs/design/rows.md).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::maps::MapData;

use lb_common::ring::{CLASSES, rows};

use super::{Array, Live, NAMES, Rings};
use crate::dataplane::error::DataplaneError;
use crate::dataplane::loader::chain;
use crate::dataplane::sys;
use crate::dataplane::tables::{RingId, RingPlace};

impl Rings {
    /// `referred`: the places that services in the kernel refer to, two while a ring outgrows its own. `idle`: the idle
    /// timeouts that moving rows were written with. Arrays nobody refers to are taken out of their slots.
    pub(in crate::dataplane) fn adopt(
        &mut self,
        referred: &BTreeMap<RingId, BTreeSet<RingPlace>>,
        idle: &BTreeMap<RingId, u32>,
    ) -> Result<(), DataplaneError> {
        let mut in_use = BTreeSet::new();
        for (id, places) in referred {
            let mut arrays = Vec::new();
            for place in places {
                if let Some(array) = Array::in_slot(&self.outer[usize::from(place.class)], *place)? {
                    in_use.insert(*place);
                    arrays.push(array);
                }
            }
            // In order of their sizes: the last one is what the ring has grown to.
            let Some(array) = arrays.pop() else { continue };
            if let Some(outgrown) = arrays.pop() {
                self.outgrown.insert(*id, outgrown);
            }
            let owners = Arc::new(array.rows().iter().map(|row| row.owner()).collect());
            // Unknown, it counts as zero: moving rows then move for longer than they must.
            let idle = idle.get(id).copied().unwrap_or(0);
            self.live.insert(*id, Live { array, owners, idle });
        }
        for class in 0..CLASSES.len() {
            let outer = &self.outer[class];
            let failed = |why: String| DataplaneError::Map { name: NAMES[class].to_owned(), why };
            let slots = outer.info().map_err(|e| failed(chain(&e)))?.max_entries();
            for slot in 0..slots {
                let place = RingPlace { class: class as u8, slot };
                let filled = sys::lookup_u32(outer.fd().as_fd(), slot).map_err(|e| failed(e.to_string()))?.is_some();
                if filled && !in_use.contains(&place) {
                    self.clear(place)?;
                }
            }
        }
        Ok(())
    }

    /// The idle timeouts in force.
    pub(in crate::dataplane) fn idle_timeouts(&self) -> BTreeMap<RingId, u32> {
        self.live.iter().map(|(id, live)| (*id, live.idle)).collect()
    }
}

impl Array {
    /// What is in a slot; `None` if it is empty.
    fn in_slot(outer: &MapData, place: RingPlace) -> Result<Option<Self>, DataplaneError> {
        let class = usize::from(place.class);
        let failed = |why: String| DataplaneError::Map { name: NAMES[class].to_owned(), why };
        let Some(id) = sys::lookup_u32(outer.fd().as_fd(), place.slot).map_err(|e| failed(e.to_string()))? else {
            return Ok(None);
        };
        let map = MapData::from_id(id).map_err(|e| failed(format!("opening the ring in slot {}: {e}", place.slot)))?;
        let words = sys::Words::map(map.fd().as_fd(), rows(class) as usize)
            .map_err(|e| failed(format!("mapping the ring in slot {}: {e}", place.slot)))?;
        Ok(Some(Self { place, map, words }))
    }
}
