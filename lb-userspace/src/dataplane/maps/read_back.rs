//! Reads what the kernel's maps hold, so that the next apply writes the difference and nothing else.
//!
//! After a restart, and all the more after a crash in the middle of an apply, what the kernel holds is not what anybody
//! remembers. So it is asked. Counters, flow entries and buffers are the program's, and stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};

use lb_common::backend::Backend;
use lb_common::flow::FlowPolicy;
use lb_common::ring::CLASSES;
use lb_common::route::NextHop;
use lb_common::service::AFFINITY_SOURCE;

use super::groups::Groups;
use super::{BACKEND_WORDS, Maps, POLICY_WORDS, Written};
use crate::dataplane::error::DataplaneError;
use crate::dataplane::loader::chain;
use crate::dataplane::next_hops::NextHops;
use crate::dataplane::rings::Referred;
use crate::dataplane::tables::{RingId, RingPlace};

impl Maps {
    /// From here on [`Maps::apply`] knows what is there, strays of an apply cut short included.
    /// `idle`: the idle timeouts that moving rows were written with.
    pub(in crate::dataplane) fn read_back(&mut self, idle: &BTreeMap<RingId, u32>) -> Result<(), DataplaneError> {
        let routes4 = self.routes4.iter().map(|entry| entry.map(|(key, v)| ((key.prefix_len() as u8, key.data()), v)));
        let routes6 = self.routes6.iter().map(|entry| entry.map(|(key, v)| ((key.prefix_len() as u8, key.data()), v)));
        let prefixes4 =
            self.prefixes4.iter().map(|entry| entry.map(|(key, group)| ((key.prefix_len() as u8, key.data()), group)));
        let prefixes6 =
            self.prefixes6.iter().map(|entry| entry.map(|(key, group)| ((key.prefix_len() as u8, key.data()), group)));
        let ports =
            self.ports.iter().map(|entry| entry.map(|(key, service)| ((key.prefix_len(), key.data()), service)));
        let written = Written {
            services4: hash("SERVICES4", &self.services4)?,
            services6: hash("SERVICES6", &self.services6)?,
            prefixes4: collect("PREFIXES4", prefixes4)?,
            prefixes6: collect("PREFIXES6", prefixes6)?,
            groups: Groups::resume(collect("PORTS", ports)?.into_iter()),
            reverse4: hash("REVERSE4", &self.reverse4)?,
            reverse6: hash("REVERSE6", &self.reverse6)?,
            backends: self.stored_backends(),
            policies: self.stored_policies(),
            routes4: collect("ROUTES4", routes4)?,
            routes6: collect("ROUTES6", routes6)?,
            neighbours4: hash("NEIGHBOURS4", &self.neighbours4)?,
            neighbours6: hash("NEIGHBOURS6", &self.neighbours6)?,
            local4: hash("LOCAL4", &self.local4)?,
            local6: hash("LOCAL6", &self.local6)?,
            vips4: hash("VIPS4", &self.vips4)?,
            vips6: hash("VIPS6", &self.vips6)?,
            vlans: hash("VLANS", &self.vlans)?,
            devices: collect("DEVICES", self.devices.keys().map(|key| key.map(|i| (i, ()))))?,
        };
        let services4 = written.services4.iter().map(|(key, service)| {
            let protocol = key.as_service().map_or(key.protocol, |(_, protocol)| protocol);
            (protocol, 4, service)
        });
        let services6 = written.services6.iter().map(|(key, service)| {
            let protocol = key.as_service().map_or(key.protocol, |(_, protocol)| protocol);
            (protocol, 6, service)
        });
        let mut referred: BTreeMap<RingId, BTreeSet<Referred>> = BTreeMap::new();
        for (protocol, family, service) in services4.chain(services6) {
            // What is there may be anything, if somebody else wrote it.
            if usize::from(service.class) < CLASSES.len() {
                let id = RingId { service: service.id, protocol, family };
                let before = service.before().filter(|(class, _)| usize::from(*class) < CLASSES.len());
                referred.entry(id).or_default().insert(Referred {
                    place: RingPlace { class: service.class, slot: service.ring },
                    by_source: service.flags & AFFINITY_SOURCE != 0,
                    before: before.map(|(class, slot)| RingPlace { class, slot }),
                });
            }
        }
        self.rings.adopt(&referred, idle)?;
        self.hops = self.stored_hops()?;
        self.written = written;
        Ok(())
    }

    /// The idle timeouts in force.
    pub(in crate::dataplane) fn idle_timeouts(&self) -> BTreeMap<RingId, u32> {
        self.rings.idle_timeouts()
    }

    fn stored_backends(&self) -> BTreeMap<u16, Backend> {
        let mut backends = BTreeMap::new();
        for id in 0..=self.sizes.backends.min(u16::MAX.into()) as u16 {
            let words: [u64; BACKEND_WORDS] =
                std::array::from_fn(|i| self.backends.load(usize::from(id) * BACKEND_WORDS + i));
            if words != [0; BACKEND_WORDS] {
                // SAFETY: `Backend` is `repr(C)`, 64 bytes of integers; any bytes are one.
                backends.insert(id, unsafe { std::mem::transmute::<[u64; BACKEND_WORDS], Backend>(words) });
            }
        }
        backends
    }

    fn stored_policies(&self) -> BTreeMap<u32, FlowPolicy> {
        let mut policies = BTreeMap::new();
        for service in 0..=self.sizes.services {
            let words: [u64; POLICY_WORDS] =
                std::array::from_fn(|i| self.policies.load(service as usize * POLICY_WORDS + i));
            // SAFETY: `FlowPolicy` is `repr(C)`, 64 bytes of integers; any bytes are one.
            let policy = unsafe { std::mem::transmute::<[u64; POLICY_WORDS], FlowPolicy>(words) };
            // Whether rows move is not the configuration's to say.
            let policy = FlowPolicy { moving: 0, ..policy };
            if policy != FlowPolicy::default() {
                policies.insert(service, policy);
            }
        }
        policies
    }

    fn stored_hops(&self) -> Result<NextHops, DataplaneError> {
        let room = self.sizes.backends + 1024;
        let mut hops = Vec::new();
        for index in 1..room {
            let hop = self.next_hops.get(&index, 0).map_err(|e| failed("NEXT_HOPS", &e))?;
            if hop != NextHop::default() {
                hops.push((index, hop));
            }
        }
        Ok(NextHops::resume(room, hops, Instant::now()))
    }
}

fn hash<K: Pod + Ord, V: Pod>(
    name: &'static str,
    map: &HashMap<MapData, K, V>,
) -> Result<BTreeMap<K, V>, DataplaneError> {
    collect(name, map.iter())
}

fn collect<K: Ord, V>(
    name: &'static str,
    entries: impl Iterator<Item = Result<(K, V), MapError>>,
) -> Result<BTreeMap<K, V>, DataplaneError> {
    entries.collect::<Result<_, _>>().map_err(|e| failed(name, &e))
}

fn failed(name: &'static str, error: &MapError) -> DataplaneError {
    DataplaneError::Map { name: name.to_owned(), why: format!("reading it: {}", chain(error)) }
}
