//! What the kernel's maps will take, before they exist.
//!
//! Tables that are allocated whole at start are where balancers eat gigabytes without a word, so `sluice check` says
//! the figure. Map types, keys, values and flags are read from the embedded object itself; only what depends on the
//! configuration — how many entries, how many rings — is added here. The formulas are those of the kernel's
//! `map_mem_usage` (kernel/bpf/{hashtab,arraymap,lpm_trie}.c), without its few hundred bytes per map.

use std::net::IpAddr;

use aya_obj::generated::bpf_map_type::{self, *};
use lb_common::ring;
use serde::Serialize;

use crate::control::desired;
use crate::control::leaving::Leaving;
use crate::dataplane::{Sizes, object};
use crate::exit::{Exit, Failure};
use crate::model::Model;
use crate::ring::{Member, class_for};

/// `struct htab_elem` before the key, `struct bucket`, `struct lpm_trie_node` before the data.
const HASH_ELEMENT: u64 = 48;
const HASH_BUCKET: u64 = 16;
const TRIE_NODE: u64 = 40;
const PAGE: u64 = 4096;

#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// Taken as soon as `sluice run` has applied the file.
    pub bytes: u64,
    /// Taken when the tables that follow the network (routes, neighbours) are full as well.
    pub bytes_at_most: u64,
    /// Per-CPU counters exist once for each of these.
    pub cpus: u64,
    pub maps: Vec<MapMemory>,
}

#[derive(Clone, Debug, Serialize)]
pub struct MapMemory {
    pub name: String,
    pub entries: u64,
    pub bytes: u64,
    pub bytes_at_most: u64,
}

/// For this host and this configuration.
pub fn estimate(model: &Model) -> Result<Estimate, Failure> {
    let unreadable = |e: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("the XDP program in this binary cannot be read: {e}"))
            .hint("the binary was built without it; build again with `cargo xtask build`")
    };
    let cpus = aya::util::nr_cpus().map_err(|(_, e)| unreadable(&e))? as u64;
    let object = aya_obj::Object::parse(object::LOAD_BALANCER).map_err(|e| unreadable(&e))?;
    let sizes = Sizes::new(model, desired::features(model, &Leaving::default()));
    let mut maps = Vec::new();
    for (name, map) in &object.maps {
        let shape = Shape {
            kind: map.map_type().try_into().map_err(|_| unreadable(&format!("map {name} is of an unknown type")))?,
            key: map.key_size().into(),
            value: map.value_size().into(),
            entries: sizes.entries(name).unwrap_or(map.max_entries()).into(),
            flags: map.map_flags(),
        };
        let (bytes, bytes_at_most) = shape.bytes(cpus);
        maps.push(MapMemory { name: name.clone(), entries: shape.entries, bytes, bytes_at_most });
    }
    maps.extend(rings(model));
    maps.sort_by(|a, b| b.bytes_at_most.cmp(&a.bytes_at_most).then_with(|| a.name.cmp(&b.name)));
    Ok(Estimate {
        bytes: maps.iter().map(|map| map.bytes).sum(),
        bytes_at_most: maps.iter().map(|map| map.bytes_at_most).sum(),
        cpus,
        maps,
    })
}

/// One array per service, protocol and address family in use.
fn rings(model: &Model) -> Vec<MapMemory> {
    let mut rings = Vec::new();
    for service in &model.services {
        for v4 in [true, false] {
            if !service.listen.iter().any(|listen| listen.is_ipv4() == v4) {
                continue;
            }
            let of_family = |address: IpAddr| address.is_ipv4() == v4;
            let members: Vec<Member> = service
                .backends
                .iter()
                .filter(|backend| of_family(backend.address))
                .map(|backend| Member::new(backend.address, backend.port.unwrap_or(0), backend.weight))
                .collect();
            let rows = u64::from(ring::rows(class_for(&members)));
            let bytes = rows * size_of::<ring::Row>() as u64 + PAGE;
            for protocol in &service.protocols {
                let family = if v4 { "ipv4" } else { "ipv6" };
                let name = format!("ring {} {family}/{}", service.name, protocol.name());
                rings.push(MapMemory { name, entries: rows, bytes, bytes_at_most: bytes });
            }
        }
    }
    rings
}

struct Shape {
    kind: bpf_map_type,
    key: u64,
    value: u64,
    entries: u64,
    flags: u32,
}

impl Shape {
    /// At start, and when full.
    fn bytes(&self, cpus: u64) -> (u64, u64) {
        let eight = |n: u64| n.next_multiple_of(8);
        let (key, value, entries) = (eight(self.key), eight(self.value), self.entries);
        let preallocated = self.flags & aya_obj::generated::BPF_F_NO_PREALLOC == 0;
        let mapped = self.flags & aya_obj::generated::BPF_F_MMAPABLE != 0;
        match self.kind {
            BPF_MAP_TYPE_HASH => {
                let buckets = entries.next_power_of_two() * HASH_BUCKET;
                let element = HASH_ELEMENT + key + value;
                // One spare element per CPU, so that a full table can still replace a value.
                let full = buckets + element * (entries + if preallocated { cpus } else { 0 });
                (if preallocated { full } else { buckets }, full)
            }
            // No spares: whoever is pushed out makes room.
            BPF_MAP_TYPE_LRU_HASH => {
                same(entries.next_power_of_two() * HASH_BUCKET + (HASH_ELEMENT + key + value) * entries)
            }
            BPF_MAP_TYPE_DEVMAP_HASH => {
                let buckets = entries.next_power_of_two() * 8;
                (buckets, buckets + 64 * entries)
            }
            // Inner nodes: at worst one for each leaf.
            BPF_MAP_TYPE_LPM_TRIE => (0, 2 * entries * eight(TRIE_NODE + self.key - 4 + self.value)),
            BPF_MAP_TYPE_PERCPU_ARRAY => same(entries * (8 + value * cpus)),
            BPF_MAP_TYPE_ARRAY_OF_MAPS => same(entries * 8),
            BPF_MAP_TYPE_ARRAY if mapped => same((entries * value).next_multiple_of(PAGE) + PAGE),
            BPF_MAP_TYPE_ARRAY => same(entries * value),
            BPF_MAP_TYPE_RINGBUF => same(entries + 3 * PAGE),
            _ => same(entries * (key + value)),
        }
    }
}

fn same(bytes: u64) -> (u64, u64) {
    (bytes, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(services: u32, backends: u32) -> Estimate {
        let text = format!(
            "version: 1\nnode: {{ interfaces: [eth0] }}\nlimits: {{ flows: 1024, services: {services}, backends: {backends} }}\n\
             services:\n  - name: web\n    listen: [203.0.113.10:80, \"[2001:db8::10]:80\"]\n    protocol: [tcp, udp]\n    \
             backends:\n      - address: 10.0.0.1\n      - address: 2001:db8:1::1\n"
        );
        let model = crate::config::parse("test.yaml", &text).unwrap_or_else(|e| panic!("{e}"));
        estimate(&model).unwrap()
    }

    #[test]
    fn every_map_of_the_object_is_in_the_sum() {
        let estimate = of(1024, 8192);
        let object = aya_obj::Object::parse(object::LOAD_BALANCER).unwrap();
        for name in object.maps.keys() {
            assert!(estimate.maps.iter().any(|map| map.name == *name), "{name} is missing");
        }
        for ring in ["ring web ipv4/tcp", "ring web ipv4/udp", "ring web ipv6/tcp", "ring web ipv6/udp"] {
            let map = estimate.maps.iter().find(|map| map.name == ring).unwrap_or_else(|| panic!("{ring} is missing"));
            assert_eq!((map.entries, map.bytes), (1024, 1024 * 8 + PAGE));
        }
        assert_eq!(estimate.bytes, estimate.maps.iter().map(|map| map.bytes).sum::<u64>());
        assert!(estimate.bytes_at_most > estimate.bytes);
    }

    #[test]
    fn limits_are_what_memory_follows() {
        let (small, large) = (of(64, 64), of(1024, 65_534));
        assert!(large.bytes > 4 * small.bytes, "{} is not much more than {}", large.bytes, small.bytes);
        let backends = |estimate: &Estimate| estimate.maps.iter().find(|map| map.name == "BACKENDS").unwrap().bytes;
        assert_eq!(backends(&large), 65_536 * 64 + PAGE);
    }
}
