//! The maps, their typed handles, and the one function that changes them.
//!
//! Write order is fixed, so that every packet in between finds a whole way: first what others refer to (next
//! hops, backends, rings, routes), then services, then the removal of what nobody refers to any more, in
//! reverse. What was written is remembered entry by entry, so a failure half-way leaves us knowing exactly what
//! the kernel holds, and the next apply finishes the work.

mod groups;
mod read_back;

use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd as _;
use std::time::Instant;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, DevMapHash, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf};

use lb_common::addr::{Endpoint4, Endpoint6};
use lb_common::backend::{BACKEND_ALIVE, Backend};
use lb_common::counters::{BackendCounters, FlowCounters, ServiceCounters, TrackedCounters};
use lb_common::flow::{FORGET_AT_ONCE, FlowEntry, FlowPolicy, FlowUse, Forget, Life};
use lb_common::ring::CLASSES;
use lb_common::route::{Neighbour4, Neighbour6, NextHop, ROUTE_ASK_KERNEL, ROUTE_GATEWAY, ROUTE_ON_LINK, Route, Vlan};
use lb_common::service::{Reverse4, Reverse6, Service};

use crate::rows::Standing;
use crate::tracked::ByFamily;

use super::error::DataplaneError;
use super::events::Events;
use super::flows::{self, Table};
use super::loader::{BLOCKS_PER_SERVICE, Sizes};
use super::next_hops::NextHops;
use super::rings::{self, Rings};
use super::tables::{RingId, RouteTo, Tables, VipPrefix};
use super::{clock, stats, sys};
use groups::Groups;

/// Every map of the load balancer, by its name in the object.
pub const NAMES: [&str; 45] = [
    "SERVICES4",
    "SERVICES6",
    "PREFIXES4",
    "PREFIXES6",
    "PORTS",
    "REVERSE4",
    "REVERSE6",
    "BACKENDS",
    "NEXT_HOPS",
    "RINGS_10",
    "RINGS_12",
    "RINGS_14",
    "RINGS_17",
    "RINGS_20",
    "FLOWS4",
    "FLOWS6",
    "TRACKED4",
    "TRACKED6",
    "FRAGMENTS4",
    "FRAGMENTS6",
    "FLOW_POLICIES",
    "FLOW_USES",
    "FORGET",
    "FLOW_SCRATCH",
    "ROUTES4",
    "ROUTES6",
    "NEIGHBOURS4",
    "NEIGHBOURS6",
    "LOCAL4",
    "LOCAL6",
    "VIPS4",
    "VIPS6",
    "VLANS",
    "DEVICES",
    "SERVICE_COUNTERS",
    "BACKEND_COUNTERS",
    "FLOW_COUNTERS",
    "TRACKED_COUNTERS",
    "EVENTS",
    "EVENT_BUDGET",
    "CLOCK",
    "FIB",
    "FRONT",
    "ANSWER_BUDGET",
    "AYA_LOGS",
];
/// Mirrored routes and neighbours the maps have room for.
pub const MAX_ROUTES: usize = 4096;
pub const MAX_NEIGHBOURS: usize = 16_384;
pub const MAX_LOCAL: usize = 4096;
const MAX_DEVICES: usize = 256;
pub const MAX_VLANS: usize = 1024;

/// 8-byte words per backend record.
const BACKEND_WORDS: usize = size_of::<Backend>() / 8;
/// The same of a policy; [`FlowPolicy::moving`] has one of its own.
const POLICY_WORDS: usize = size_of::<FlowPolicy>() / 8;
const MOVING_WORD: usize = std::mem::offset_of!(FlowPolicy, moving) / 8;
const USE_WORDS: usize = size_of::<FlowUse>() / 8;
pub(super) const FORGET_WORDS: usize = size_of::<Forget>() / 8;
const REFUSED_WORD: usize = std::mem::offset_of!(FlowUse, refused) / 8;
/// IPv6's is the next one.
const TRACKED_WORD: usize = std::mem::offset_of!(FlowUse, tracked4) / 8;

/// What the kernel holds, as far as it came from [`Tables`].
#[derive(Debug, Default)]
struct Written {
    services4: BTreeMap<Endpoint4, Service>,
    services6: BTreeMap<Endpoint6, Service>,
    prefixes4: BTreeMap<VipPrefix<[u8; 4]>, u32>,
    prefixes6: BTreeMap<VipPrefix<[u8; 16]>, u32>,
    groups: Groups,
    reverse4: BTreeMap<Endpoint4, Reverse4>,
    reverse6: BTreeMap<Endpoint6, Reverse6>,
    backends: BTreeMap<u16, Backend>,
    policies: BTreeMap<u32, FlowPolicy>,
    routes4: BTreeMap<(u8, [u8; 4]), Route>,
    routes6: BTreeMap<(u8, [u8; 16]), Route>,
    neighbours4: BTreeMap<Neighbour4, NextHop>,
    neighbours6: BTreeMap<Neighbour6, NextHop>,
    local4: BTreeMap<u32, u32>,
    local6: BTreeMap<[u32; 4], u32>,
    vips4: BTreeMap<u32, u32>,
    vips6: BTreeMap<[u32; 4], u32>,
    vlans: BTreeMap<u32, Vlan>,
    devices: BTreeMap<u32, ()>,
}

/// Owns every map.
pub struct Maps {
    services4: HashMap<MapData, Endpoint4, Service>,
    services6: HashMap<MapData, Endpoint6, Service>,
    prefixes4: LpmTrie<MapData, [u8; 4], u32>,
    prefixes6: LpmTrie<MapData, [u8; 16], u32>,
    ports: LpmTrie<MapData, u64, u32>,
    reverse4: HashMap<MapData, Endpoint4, Reverse4>,
    reverse6: HashMap<MapData, Endpoint6, Reverse6>,
    backends: sys::Words,
    next_hops: Array<MapData, NextHop>,
    pub(super) rings: Rings,
    pub(super) flows4: MapData,
    pub(super) flows6: MapData,
    pub(super) tracked4: MapData,
    pub(super) tracked6: MapData,
    policies: sys::Words,
    uses: sys::Words,
    pub(super) forget: sys::Words,
    routes4: LpmTrie<MapData, [u8; 4], Route>,
    routes6: LpmTrie<MapData, [u8; 16], Route>,
    neighbours4: HashMap<MapData, Neighbour4, NextHop>,
    neighbours6: HashMap<MapData, Neighbour6, NextHop>,
    local4: HashMap<MapData, u32, u32>,
    local6: HashMap<MapData, [u32; 4], u32>,
    vips4: HashMap<MapData, u32, u32>,
    vips6: HashMap<MapData, [u32; 4], u32>,
    vlans: HashMap<MapData, u32, Vlan>,
    devices: DevMapHash<MapData>,
    service_counters: PerCpuArray<MapData, ServiceCounters>,
    backend_counters: PerCpuArray<MapData, BackendCounters>,
    flow_counters: PerCpuArray<MapData, FlowCounters>,
    tracked_counters: PerCpuArray<MapData, TrackedCounters>,
    clock: Array<MapData, u64>,
    events: Option<Events>,
    sizes: Sizes,
    hops: NextHops,
    written: Written,
    /// Backends that are down, and since which second.
    down_since: BTreeMap<u16, u32>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").field("sizes", &self.sizes).field("written", &self.written).finish_non_exhaustive()
    }
}

pub(super) fn take<T: TryFrom<Map, Error = MapError>>(object: &mut Ebpf, name: &str) -> Result<T, DataplaneError> {
    let failed = |why: String| DataplaneError::Map { name: name.to_owned(), why };
    let map = object.take_map(name).ok_or_else(|| failed("it is not in the object".into()))?;
    T::try_from(map).map_err(|e| failed(e.to_string()))
}

fn take_data(object: &mut Ebpf, name: &str) -> Result<MapData, DataplaneError> {
    let failed = |why: &str| DataplaneError::Map { name: name.to_owned(), why: why.to_owned() };
    match object.take_map(name) {
        Some(Map::ArrayOfMaps(data) | Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data)) => Ok(data),
        Some(_) => Err(failed("it is of another type")),
        None => Err(failed("it is not in the object")),
    }
}

fn map_words(object: &mut Ebpf, name: &str, words: usize) -> Result<sys::Words, DataplaneError> {
    sys::Words::map(take_data(object, name)?.fd().as_fd(), words)
        .map_err(|e| DataplaneError::Map { name: name.to_owned(), why: format!("mapping it: {e}") })
}

impl Maps {
    /// Takes every map out of a loaded object.
    pub(super) fn take(object: &mut Ebpf, sizes: &Sizes) -> Result<Self, DataplaneError> {
        let services = sizes.services as usize + 1;
        let backends = map_words(object, "BACKENDS", (sizes.backends as usize + 1) * BACKEND_WORDS)?;
        let mut rings = Vec::with_capacity(CLASSES.len());
        for name in rings::NAMES {
            rings.push(take_data(object, name)?);
        }
        let rings = rings.try_into().map_err(|_| DataplaneError::Map { name: "RINGS".into(), why: "count".into() })?;
        Ok(Self {
            services4: take(object, "SERVICES4")?,
            services6: take(object, "SERVICES6")?,
            prefixes4: take(object, "PREFIXES4")?,
            prefixes6: take(object, "PREFIXES6")?,
            ports: take(object, "PORTS")?,
            reverse4: take(object, "REVERSE4")?,
            reverse6: take(object, "REVERSE6")?,
            backends,
            next_hops: take(object, "NEXT_HOPS")?,
            rings: Rings::new(rings),
            flows4: take_data(object, "FLOWS4")?,
            flows6: take_data(object, "FLOWS6")?,
            tracked4: take_data(object, "TRACKED4")?,
            tracked6: take_data(object, "TRACKED6")?,
            policies: map_words(object, "FLOW_POLICIES", services * POLICY_WORDS)?,
            uses: map_words(object, "FLOW_USES", services * USE_WORDS)?,
            forget: map_words(object, "FORGET", FORGET_AT_ONCE * FORGET_WORDS)?,
            routes4: take(object, "ROUTES4")?,
            routes6: take(object, "ROUTES6")?,
            neighbours4: take(object, "NEIGHBOURS4")?,
            neighbours6: take(object, "NEIGHBOURS6")?,
            local4: take(object, "LOCAL4")?,
            local6: take(object, "LOCAL6")?,
            vips4: take(object, "VIPS4")?,
            vips6: take(object, "VIPS6")?,
            vlans: take(object, "VLANS")?,
            devices: take(object, "DEVICES")?,
            service_counters: take(object, "SERVICE_COUNTERS")?,
            backend_counters: take(object, "BACKEND_COUNTERS")?,
            flow_counters: take(object, "FLOW_COUNTERS")?,
            tracked_counters: take(object, "TRACKED_COUNTERS")?,
            clock: take(object, "CLOCK")?,
            events: Some(Events::new(take::<RingBuf<MapData>>(object, "EVENTS")?)),
            sizes: *sizes,
            hops: NextHops::new(sizes.backends + 1024),
            written: Written::default(),
            down_since: BTreeMap::new(),
        })
    }

    /// Makes the kernel hold exactly `next`; refused before anything is written when it does not fit.
    pub(super) fn apply(&mut self, next: Tables) -> Result<(), DataplaneError> {
        self.check_room(&next)?;
        let now = Instant::now();

        // What others refer to, first. A hop that finds no room is 0 to its users: they ask the kernel.
        let gateways = next.routes4.values().chain(next.routes6.values()).filter_map(|to| match to {
            RouteTo::Gateway(hop) => *hop,
            _ => None,
        });
        let used: HashSet<NextHop> = next.backends.values().filter_map(|b| b.next_hop).chain(gateways).collect();
        for hop in &used {
            if self.hops.get(hop).is_none()
                && let Some(index) = self.hops.insert(*hop, now)
            {
                self.next_hops.set(index, hop, 0).map_err(|e| write_failed("NEXT_HOPS", &e))?;
            }
        }
        let index_of = |hops: &NextHops, hop: &Option<NextHop>| hop.and_then(|h| hops.get(&h)).unwrap_or(0);
        let backends = next
            .backends
            .iter()
            .map(|(id, b)| {
                let mut record =
                    Backend { addr: b.addr, tunnel_source: b.tunnel_source, tunnel: b.tunnel, ..Backend::default() };
                record.state.port = b.port;
                record.state.flags = b.flags;
                record.state.generation = b.generation;
                record.route.next_hop = index_of(&self.hops, &b.next_hop);
                (*id, record)
            })
            .collect();
        let route = |to: &RouteTo| match to {
            RouteTo::Gateway(hop) => {
                Route { kind: ROUTE_GATEWAY, next_hop: index_of(&self.hops, hop), ..Route::default() }
            }
            RouteTo::OnLink(ifindex) => Route { kind: ROUTE_ON_LINK, ifindex: *ifindex, ..Route::default() },
            RouteTo::AskKernel => Route { kind: ROUTE_ASK_KERNEL, ..Route::default() },
        };
        let routes4 = next.routes4.iter().map(|(prefix, to)| (*prefix, route(to))).collect();
        let routes6 = next.routes6.iter().map(|(prefix, to)| (*prefix, route(to))).collect();
        let local4 = next.local4.iter().map(|a| (*a, 1)).collect();
        let local6 = next.local6.iter().map(|a| (*a, 1)).collect();
        let devices = next.devices.iter().map(|i| (*i, ())).collect();

        let w = &mut self.written;
        let words = &self.backends;
        put(&mut w.devices, &devices, |i, ()| {
            self.devices
                .insert(*i, *i, None, 0)
                .map_err(|e| DataplaneError::Write { name: "DEVICES", why: super::loader::chain(&e) })
        })?;
        self.rings.adopt_left(&next.rings)?;
        let outside = Outside { backends: &w.backends, uses: &self.uses, policies: &self.policies };
        self.rings.follow_timeouts(&next.rings, &outside);
        let is_up = |record: &Backend| record.state.flags & BACKEND_ALIVE != 0;
        for (id, record) in &backends {
            let was_up = w.backends.get(id).is_some_and(is_up);
            if was_up && !is_up(record) {
                self.down_since.insert(*id, clock::seconds());
            } else if !was_up && is_up(record) {
                // Not known since when: as if it had always been.
                let since = self.down_since.remove(id).unwrap_or(0);
                self.rings.recovered(*id, since, &outside);
            }
        }
        put(&mut w.backends, &backends, |id, record| {
            store_backend(words, *id, record);
            Ok(())
        })?;
        let outside = Outside { backends: &w.backends, uses: &self.uses, policies: &self.policies };
        let policies: BTreeMap<u32, FlowPolicy> =
            next.policies.iter().map(|(service, policy)| (*service, self.rings.in_force(*service, *policy))).collect();
        put(&mut w.policies, &policies, |service, policy| {
            store_policy(&self.policies, *service, policy);
            Ok(())
        })?;
        put(&mut w.local4, &local4, |a, v| self.local4.insert(a, v, 0).map_err(|e| write_failed("LOCAL4", &e)))?;
        put(&mut w.local6, &local6, |a, v| self.local6.insert(a, v, 0).map_err(|e| write_failed("LOCAL6", &e)))?;
        put(&mut w.vips4, &next.vips4, |a, s| self.vips4.insert(a, s, 0).map_err(|e| write_failed("VIPS4", &e)))?;
        put(&mut w.vips6, &next.vips6, |a, s| self.vips6.insert(a, s, 0).map_err(|e| write_failed("VIPS6", &e)))?;
        put(&mut w.vlans, &next.vlans, |i, v| self.vlans.insert(i, v, 0).map_err(|e| write_failed("VLANS", &e)))?;
        put(&mut w.neighbours4, &next.neighbours4, |k, v| {
            self.neighbours4.insert(k, v, 0).map_err(|e| write_failed("NEIGHBOURS4", &e))
        })?;
        put(&mut w.neighbours6, &next.neighbours6, |k, v| {
            self.neighbours6.insert(k, v, 0).map_err(|e| write_failed("NEIGHBOURS6", &e))
        })?;
        put(&mut w.routes4, &routes4, |(len, addr), v| {
            let key = Key::new(u32::from(*len), *addr);
            self.routes4.insert(&key, v, 0).map_err(|e| write_failed("ROUTES4", &e))
        })?;
        put(&mut w.routes6, &routes6, |(len, addr), v| {
            let key = Key::new(u32::from(*len), *addr);
            self.routes6.insert(&key, v, 0).map_err(|e| write_failed("ROUTES6", &e))
        })?;
        self.rings.publish(&next.rings, &outside)?;

        // Replies first: the first packet of a service may be answered before the next line runs.
        put(&mut w.reverse4, &next.reverse4, |k, v| {
            self.reverse4.insert(k, v, 0).map_err(|e| write_failed("REVERSE4", &e))
        })?;
        put(&mut w.reverse6, &next.reverse6, |k, v| {
            self.reverse6.insert(k, v, 0).map_err(|e| write_failed("REVERSE6", &e))
        })?;
        put(&mut w.services4, &next.services4, |k, v| {
            self.services4.insert(k, v, 0).map_err(|e| write_failed("SERVICES4", &e))
        })?;
        put(&mut w.services6, &next.services6, |k, v| {
            self.services6.insert(k, v, 0).map_err(|e| write_failed("SERVICES6", &e))
        })?;
        let wanted = || next.prefixes4.values().chain(next.prefixes6.values());
        w.groups
            .add(wanted(), |key, service| self.ports.insert(key, service, 0).map_err(|e| write_failed("PORTS", &e)))?;
        let prefixes4 = next.prefixes4.iter().filter_map(|(prefix, g)| Some((*prefix, w.groups.id(g)?))).collect();
        let prefixes6 = next.prefixes6.iter().filter_map(|(prefix, g)| Some((*prefix, w.groups.id(g)?))).collect();
        put(&mut w.prefixes4, &prefixes4, |(len, addr), group| {
            let key = Key::new(u32::from(*len), *addr);
            self.prefixes4.insert(&key, group, 0).map_err(|e| write_failed("PREFIXES4", &e))
        })?;
        put(&mut w.prefixes6, &prefixes6, |(len, addr), group| {
            let key = Key::new(u32::from(*len), *addr);
            self.prefixes6.insert(&key, group, 0).map_err(|e| write_failed("PREFIXES6", &e))
        })?;

        self.rings.change(&next.rings, &outside)?;

        // Now what nobody refers to, in reverse.
        prune(&mut w.prefixes4, &prefixes4, |(len, addr)| {
            gone(self.prefixes4.remove(&Key::new(u32::from(*len), *addr)), "PREFIXES4")
        })?;
        prune(&mut w.prefixes6, &prefixes6, |(len, addr)| {
            gone(self.prefixes6.remove(&Key::new(u32::from(*len), *addr)), "PREFIXES6")
        })?;
        w.groups.prune(wanted(), |key| gone(self.ports.remove(key), "PORTS"))?;
        prune(&mut w.services4, &next.services4, |k| gone(self.services4.remove(k), "SERVICES4"))?;
        prune(&mut w.services6, &next.services6, |k| gone(self.services6.remove(k), "SERVICES6"))?;
        prune(&mut w.reverse4, &next.reverse4, |k| gone(self.reverse4.remove(k), "REVERSE4"))?;
        prune(&mut w.reverse6, &next.reverse6, |k| gone(self.reverse6.remove(k), "REVERSE6"))?;
        self.rings.prune(&next.rings)?;
        prune(&mut w.routes4, &routes4, |(len, addr)| {
            gone(self.routes4.remove(&Key::new(u32::from(*len), *addr)), "ROUTES4")
        })?;
        prune(&mut w.routes6, &routes6, |(len, addr)| {
            gone(self.routes6.remove(&Key::new(u32::from(*len), *addr)), "ROUTES6")
        })?;
        prune(&mut w.neighbours4, &next.neighbours4, |k| gone(self.neighbours4.remove(k), "NEIGHBOURS4"))?;
        prune(&mut w.neighbours6, &next.neighbours6, |k| gone(self.neighbours6.remove(k), "NEIGHBOURS6"))?;
        prune(&mut w.vips4, &next.vips4, |a| gone(self.vips4.remove(a), "VIPS4"))?;
        prune(&mut w.vips6, &next.vips6, |a| gone(self.vips6.remove(a), "VIPS6"))?;
        prune(&mut w.vlans, &next.vlans, |i| gone(self.vlans.remove(i), "VLANS"))?;
        prune(&mut w.local4, &local4, |a| gone(self.local4.remove(a), "LOCAL4"))?;
        prune(&mut w.local6, &local6, |a| gone(self.local6.remove(a), "LOCAL6"))?;
        prune(&mut w.policies, &next.policies, |service| {
            store_policy(&self.policies, *service, &FlowPolicy::default());
            Ok(())
        })?;
        self.down_since.retain(|id, _| backends.contains_key(id));
        prune(&mut w.backends, &backends, |id| {
            store_backend(words, *id, &Backend::default());
            Ok(())
        })?;
        prune(&mut w.devices, &devices, |i| gone(self.devices.remove(*i), "DEVICES"))?;
        self.hops.retain(|hop| used.contains(hop), now);
        Ok(())
    }

    fn check_room(&self, next: &Tables) -> Result<(), DataplaneError> {
        let endpoints = self.sizes.services as usize * 4;
        let backends = self.sizes.backends as usize;
        let highest = next.backends.keys().next_back().map_or(0, |id| usize::from(*id) + 1);
        let in_class = |class: usize| next.rings.values().filter(|ring| usize::from(ring.place.class) == class).count();
        let ids = next.services4.values().chain(next.services6.values()).map(|s| s.id as usize + 1).max().unwrap_or(0);
        let mut wanted = vec![
            ("SERVICES4", endpoints, next.services4.len()),
            ("SERVICES6", endpoints, next.services6.len()),
            ("PREFIXES4", endpoints, next.prefixes4.len()),
            ("PREFIXES6", endpoints, next.prefixes6.len()),
            (
                "PORTS",
                endpoints / 4 * BLOCKS_PER_SERVICE as usize,
                groups::blocks(next.prefixes4.values().chain(next.prefixes6.values())),
            ),
            ("SERVICE_COUNTERS", self.sizes.services as usize + 1, ids),
            (
                "FLOW_POLICIES",
                self.sizes.services as usize + 1,
                next.policies.keys().next_back().map_or(0, |id| *id as usize + 1),
            ),
            ("REVERSE4", backends, next.reverse4.len()),
            ("REVERSE6", backends, next.reverse6.len()),
            ("BACKENDS", backends + 1, highest),
            ("ROUTES4", MAX_ROUTES, next.routes4.len()),
            ("ROUTES6", MAX_ROUTES, next.routes6.len()),
            ("NEIGHBOURS4", MAX_NEIGHBOURS, next.neighbours4.len()),
            ("NEIGHBOURS6", MAX_NEIGHBOURS, next.neighbours6.len()),
            ("VIPS4", endpoints, next.vips4.len()),
            ("VIPS6", endpoints, next.vips6.len()),
            ("VLANS", MAX_VLANS, next.vlans.len()),
            ("LOCAL4", MAX_LOCAL, next.local4.len()),
            ("LOCAL6", MAX_LOCAL, next.local6.len()),
            ("DEVICES", MAX_DEVICES, next.devices.len()),
        ];
        wanted.extend(rings::NAMES.iter().enumerate().map(|(class, name)| (*name, endpoints, in_class(class))));
        match wanted.into_iter().find(|(_, room, wanted)| wanted > room) {
            Some((name, room, wanted)) => Err(DataplaneError::Full { name, room, wanted }),
            None => Ok(()),
        }
    }

    /// The table of an address family.
    pub(super) const fn flow_table(&self, table: Table, family: u8) -> (&'static str, &MapData) {
        match (table, family) {
            (Table::Rows, 4) => ("FLOWS4", &self.flows4),
            (Table::Rows, _) => ("FLOWS6", &self.flows6),
            (Table::Tracked, 4) => ("TRACKED4", &self.tracked4),
            (Table::Tracked, _) => ("TRACKED6", &self.tracked6),
        }
    }

    /// Puts tables of tracked flows of a newly loaded object, with the flows of the present ones, in their place; the
    /// present ones.
    pub(super) fn exchange_tracked(
        &mut self,
        object: &mut Ebpf,
        names: &[&'static str],
    ) -> Result<Vec<(&'static str, MapData)>, DataplaneError> {
        let mut fresh = Vec::new();
        for name in names {
            fresh.push((*name, take_data(object, name)?));
        }
        for (name, map) in &mut fresh {
            flows::copy(name, self.tracked_mut(name), map)?;
        }
        for (name, map) in &mut fresh {
            std::mem::swap(self.tracked_mut(name), map);
        }
        Ok(fresh)
    }

    /// The opposite.
    pub(super) fn put_back(&mut self, old: Vec<(&'static str, MapData)>) {
        for (name, map) in old {
            *self.tracked_mut(name) = map;
        }
    }

    /// Flows that were written to the old tables since; of tables that are no more, nobody is counted.
    pub(super) fn carry_over(&mut self, old: &[(&'static str, MapData)]) -> Result<(), DataplaneError> {
        for (name, old) in old {
            let new = self.tracked_mut(name);
            flows::copy(name, old, new)?;
            if flows::is_placeholder(new) {
                let family = usize::from(*name == "TRACKED6");
                for (service, words) in self.tracked_words().into_iter().enumerate() {
                    self.correct_tracked(service as u32, family, -(words[family] as i64));
                }
            }
        }
        Ok(())
    }

    fn tracked_mut(&mut self, name: &str) -> &mut MapData {
        if name == "TRACKED4" { &mut self.tracked4 } else { &mut self.tracked6 }
    }

    /// What is written down about a flow.
    pub(super) fn flow(&self, table: Table, key: &flows::Key) -> Result<Option<FlowEntry>, DataplaneError> {
        let ((name, map), bytes) = match key {
            flows::Key::V4(flow) => (self.flow_table(table, 4), flows::bytes(flow)),
            flows::Key::V6(flow) => (self.flow_table(table, 6), flows::bytes(flow)),
        };
        let mut value = [0; size_of::<FlowEntry>()];
        match sys::lookup(map.fd().as_fd(), &bytes, &mut value) {
            Ok(there) => Ok(there.then(|| flows::pod(&value))),
            Err(e) => Err(DataplaneError::Write { name, why: format!("reading it: {e}") }),
        }
    }

    /// The life that a backend id lives.
    pub(super) fn life(&self, id: u16) -> Option<Life> {
        self.written.backends.get(&id).map(|record| record.state.known(id).life)
    }

    /// How a service's flows are written down now.
    pub(super) fn policy(&self, service: u32) -> FlowPolicy {
        self.written.policies.get(&service).copied().unwrap_or_default()
    }

    /// Service ids there is room for, 0 included.
    pub(super) fn service_slots(&self) -> usize {
        self.sizes.services as usize + 1
    }

    pub(super) fn row_kinds(&self, id: RingId) -> rings::Kinds {
        self.rings.kinds(id, clock::seconds())
    }

    pub(super) fn service_counters(&self, id: u32) -> Result<ServiceCounters, DataplaneError> {
        stats::read(&self.service_counters, "SERVICE_COUNTERS", id)
    }

    pub(super) fn backend_counters(&self, id: u16) -> Result<BackendCounters, DataplaneError> {
        stats::read(&self.backend_counters, "BACKEND_COUNTERS", u32::from(id))
    }

    pub(super) fn reset_service_counters(&mut self, id: u32) -> Result<(), DataplaneError> {
        stats::reset(&mut self.service_counters, "SERVICE_COUNTERS", id)
    }

    pub(super) fn reset_backend_counters(&mut self, id: u16) -> Result<(), DataplaneError> {
        stats::reset(&mut self.backend_counters, "BACKEND_COUNTERS", u32::from(id))
    }

    pub(super) fn flow_counters(&self, id: u32) -> Result<FlowCounters, DataplaneError> {
        stats::read(&self.flow_counters, "FLOW_COUNTERS", id)
    }

    pub(super) fn reset_flow_counters(&mut self, id: u32) -> Result<(), DataplaneError> {
        stats::reset(&mut self.flow_counters, "FLOW_COUNTERS", id)
    }

    pub(super) fn tracked_counters(&self, id: u32) -> Result<TrackedCounters, DataplaneError> {
        stats::read(&self.tracked_counters, "TRACKED_COUNTERS", id)
    }

    pub(super) fn reset_tracked_counters(&mut self, id: u32) -> Result<(), DataplaneError> {
        stats::reset(&mut self.tracked_counters, "TRACKED_COUNTERS", id)
    }

    pub(super) fn set_moving(&self, service: u32, moving: bool) {
        set_moving(&self.policies, service, moving);
    }

    pub(super) fn flow_use(&self, service: u32) -> FlowUse {
        let word = |i| self.uses.load(service as usize * USE_WORDS + i);
        FlowUse {
            entries: word(0),
            gate: word(1),
            refused: word(2),
            tracked4: word(TRACKED_WORD),
            tracked6: word(TRACKED_WORD + 1),
            tracked_gate: word(5),
            reserved: [word(6), word(7)],
        }
    }

    pub(super) fn correct_entries(&self, service: u32, by: i64) {
        self.uses.add(service as usize * USE_WORDS, by as u64);
    }

    /// `family`: 0 for IPv4, 1 for IPv6.
    pub(super) fn correct_tracked(&self, service: u32, family: usize, by: i64) {
        self.uses.add(service as usize * USE_WORDS + TRACKED_WORD + family, by as u64);
    }

    /// How many flows each service is said to have tracked, by its id.
    pub(super) fn tracked_words(&self) -> Vec<ByFamily> {
        let words = |service| (self.flow_use(service).tracked4, self.flow_use(service).tracked6).into();
        (0..self.service_slots() as u32).map(words).collect()
    }

    pub(super) fn take_events(&mut self) -> Option<Events> {
        self.events.take()
    }

    /// Sets the time for a program loaded with the test clock.
    pub fn set_test_clock(&mut self, seconds: u64) -> Result<(), DataplaneError> {
        self.clock.set(0, seconds, 0).map_err(|e| write_failed("CLOCK", &e))
    }
}

/// What rings ask about when they change.
struct Outside<'a> {
    backends: &'a BTreeMap<u16, Backend>,
    uses: &'a sys::Words,
    policies: &'a sys::Words,
}

impl rings::Outside for Outside<'_> {
    fn now(&self) -> u32 {
        clock::seconds()
    }

    fn refused(&self, service: u32) -> u32 {
        self.uses.load(service as usize * USE_WORDS + REFUSED_WORD) as u32
    }

    fn begins_to_move(&self, service: u32) {
        set_moving(self.policies, service, true);
    }

    fn standing(&self, backend: u16) -> Standing {
        match self.backends.get(&backend) {
            Some(record) if record.state.flags & BACKEND_ALIVE != 0 => Standing::Up,
            Some(_) => Standing::Down,
            None => Standing::Unknown,
        }
    }
}

fn write_failed(name: &'static str, error: &MapError) -> DataplaneError {
    DataplaneError::Write { name, why: super::loader::chain(error) }
}

/// A removal that found nothing is as good as one that removed.
fn gone(result: Result<(), MapError>, name: &'static str) -> Result<(), DataplaneError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(write_failed(name, &e)),
    }
}

/// Writes entries that are new or different, remembering each as it is written.
fn put<K: Ord + Clone, V: PartialEq + Clone>(
    written: &mut BTreeMap<K, V>,
    next: &BTreeMap<K, V>,
    mut write: impl FnMut(&K, &V) -> Result<(), DataplaneError>,
) -> Result<(), DataplaneError> {
    for (key, value) in next {
        if written.get(key) != Some(value) {
            write(key, value)?;
            written.insert(key.clone(), value.clone());
        }
    }
    Ok(())
}

/// Removes entries that are no longer wanted, forgetting each as it is removed.
fn prune<K: Ord + Clone, V, W>(
    written: &mut BTreeMap<K, V>,
    next: &BTreeMap<K, W>,
    mut remove: impl FnMut(&K) -> Result<(), DataplaneError>,
) -> Result<(), DataplaneError> {
    let stale: Vec<K> = written.keys().filter(|key| !next.contains_key(key)).cloned().collect();
    for key in stale {
        remove(&key)?;
        written.remove(&key);
    }
    Ok(())
}

fn store_backend(words: &sys::Words, id: u16, record: &Backend) {
    let base = usize::from(id) * BACKEND_WORDS;
    // SAFETY: `Backend` is `repr(C)`, 64 bytes of integers without padding (asserted in lb-common's layout).
    let values: [u64; BACKEND_WORDS] = unsafe { std::mem::transmute(*record) };
    for (i, value) in values.into_iter().enumerate() {
        words.store(base + i, value);
    }
}

fn set_moving(policies: &sys::Words, service: u32, moving: bool) {
    policies.store(service as usize * POLICY_WORDS + MOVING_WORD, u64::from(moving));
}

/// All but the word about moving rows.
fn store_policy(words: &sys::Words, service: u32, policy: &FlowPolicy) {
    let base = service as usize * POLICY_WORDS;
    // SAFETY: `FlowPolicy` is `repr(C)`, 64 bytes of integers without padding (asserted in lb-common's layout).
    let values: [u64; POLICY_WORDS] = unsafe { std::mem::transmute(*policy) };
    for (i, value) in values.into_iter().enumerate().filter(|(i, _)| *i != MOVING_WORD) {
        words.store(base + i, value);
    }
}
