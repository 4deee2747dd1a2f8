//! The program with a world in its maps, as a controller would write it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};

use lb_common::addr::{Endpoint4, Endpoint6, PROTO_TCP, words6};
use lb_common::backend::{BACKEND_ALIVE, BACKEND_V6, Backend, BackendRoute, State as BackendState, Tunnel};
use lb_common::flow::{FlowPolicy, ORPHAN_DROP, ORPHAN_RESELECT, ORPHAN_RESET};
use lb_common::hash::HashKey;
use lb_common::ring::{CLASSES, Row};
use lb_common::route::{
    Neighbour4, Neighbour6, NextHop, ROUTE_ASK_KERNEL, ROUTE_GATEWAY, ROUTE_ON_LINK, Route as RouteValue, UNTAGGED,
    Vlan, tag,
};
use lb_common::service::{AFFINITY_SOURCE, BEFORE_SOURCE, CLAMP, Reverse4, Reverse6, Service as ServiceValue, TRACKED};
use sluice::model::{Listen, Ports, Prefix, Protocol};

use super::network;
use super::words::{row_word, word};
use crate::model::World;
use crate::model::world::{self, Endpoint, Orphans, Packets, Reply, Route, Service, Tag, Way, Wide};
use crate::progrun::{Mapped, Program, Settings, wide};

/// By class and slot: rings in memory, and what they say in the beginning.
pub(super) type Rings = BTreeMap<(u8, u32), (Mapped, Vec<u64>)>;

/// The balancer, and its rings.
pub(super) fn load(world: &World) -> Result<(Program, Rings)> {
    let s = &world.settings;
    let Packets { vlan, extensions, fragments, icmp, echo, too_big, clamp } = s.packets;
    let mut program = Program::load(&Settings {
        ipv4: s.ipv4,
        ipv6: s.ipv6,
        nat: s.nat,
        ipip: s.ipip,
        dsr_l2: s.dsr_l2,
        gre: s.gre,
        gue: s.gue,
        overlay: s.overlay,
        crossing: s.crossing,
        tracking: s.tracking,
        packets: sluice::model::Packets { vlan, extensions, fragments, icmp, echo, too_big, clamp },
        wildcards: s.wildcards,
        log: s.log,
        test_clock: true,
        room_for_flows: s.room.max(1),
        // More than there are packets: nobody is pushed out.
        room_for_tracked: 16_384,
        hash_key: HashKey(s.hash_key),
        tunnel_source_mask4: u32::from_ne_bytes(s.tunnel_mask4.octets()),
        tunnel_source_mask6: u32::from_ne_bytes(s.tunnel_mask6.octets()),
    })?;
    program.set_devices(&world.devices)?;
    for entry in &world.next_hops {
        program.set("NEXT_HOPS", entry.index, next_hop(&entry.hop))?;
        // Index 0 means none, whatever is there.
        program.set("NEXT_HOPS", 0, next_hop(&entry.hop))?;
    }
    for backend in &world.backends {
        program.set("BACKENDS", u32::from(backend.id), record(backend))?;
    }
    let mut rings = BTreeMap::new();
    for class in 0..CLASSES.len() {
        let of_class = world.rings.iter().filter(|r| usize::from(r.class) == class);
        let slots: Vec<u32> = of_class.map(|r| r.slot).collect();
        let mapped = program.set_rings(class, &slots, |slot, row| {
            let ring = world.rings.iter().find(|r| usize::from(r.class) == class && r.slot == slot);
            Row(ring.map_or(0, |ring| row_word(ring.row(row))))
        })?;
        for (slot, ring) in slots.into_iter().zip(mapped) {
            let words = ring.words().iter().map(|word| word.load(Ordering::Relaxed)).collect();
            rings.insert((class as u8, slot), (ring, words));
        }
    }
    for policy in &world.policies {
        let policy_value = FlowPolicy {
            tcp_opening: policy.tcp_opening,
            tcp: policy.tcp,
            udp: policy.udp,
            orphans: match policy.orphans {
                Orphans::Reselect => ORPHAN_RESELECT,
                Orphans::Drop => ORPHAN_DROP,
                Orphans::Reset => ORPHAN_RESET,
            },
            quota: policy.quota,
            moving: u32::from(policy.in_motion),
            clamp: u32::from(policy.clamps),
            new_per_second: policy.new_per_second,
            tracked_quota4: policy.quotas[0],
            tracked_quota6: policy.quotas[1],
            ..FlowPolicy::default()
        };
        program.set("FLOW_POLICIES", policy.service, policy_value)?;
    }
    for service in &world.services {
        insert_service(&mut program, service)?;
    }
    insert_wide(&mut program, &world.wide)?;
    for reply in &world.replies {
        insert_reply(&mut program, reply)?;
    }
    for route in &world.routes {
        insert_route(&mut program, route)?;
    }
    for neighbour in &world.neighbours {
        let (ifindex, hop) = (neighbour.interface, next_hop(&neighbour.hop));
        match neighbour.address {
            IpAddr::V4(a) => program.insert("NEIGHBOURS4", Neighbour4 { ifindex, addr: word(a.octets()) }, hop)?,
            IpAddr::V6(a) => {
                program.insert("NEIGHBOURS6", Neighbour6 { addr: words6(a.octets()), ifindex, pad: 0 }, hop)?;
            }
        }
    }
    for vlan in &world.vlans {
        program.insert("VLANS", vlan.interface, Vlan { ifindex: vlan.on, tags: tags(vlan.tags) })?;
    }
    for (vip, service) in &world.vips {
        match vip {
            IpAddr::V4(a) => program.insert("VIPS4", word(a.octets()), *service)?,
            IpAddr::V6(a) => program.insert("VIPS6", words6(a.octets()), *service)?,
        }
    }
    for own in &world.own {
        match own {
            IpAddr::V4(a) => program.insert("LOCAL4", word(a.octets()), 1u32)?,
            IpAddr::V6(a) => program.insert("LOCAL6", words6(a.octets()), 1u32)?,
        }
    }
    Ok((program, rings))
}

/// An address as a record has it: IPv4 in word 0.
fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(a) => [word(a.octets()), 0, 0, 0],
        IpAddr::V6(a) => words6(a.octets()),
    }
}

fn next_hop(hop: &world::NextHop) -> NextHop {
    NextHop {
        destination_mac: hop.destination.0,
        source_mac: hop.source.0,
        mtu: hop.mtu,
        ifindex: hop.interface,
        tags: tags(hop.tags),
    }
}

fn tags(tags: [Option<Tag>; 2]) -> [u16; 2] {
    tags.map(|it| it.map_or(UNTAGGED, |Tag { vlan, service }| tag(vlan, service)))
}

pub(super) fn record(backend: &world::Backend) -> Backend {
    let flags = if backend.address.is_ipv6() { BACKEND_ALIVE | BACKEND_V6 } else { BACKEND_ALIVE };
    Backend {
        addr: words(backend.address),
        state: BackendState { port: backend.port.to_be(), flags, generation: 1 },
        route: BackendRoute { next_hop: backend.next_hop, reserved: 0 },
        tunnel_source: words(backend.tunnel_source),
        tunnel: Tunnel {
            vni: Tunnel::vni(backend.network),
            port: backend.tunnel_port.to_be(),
            inner_mac: backend.inner_mac.0,
            ..Tunnel::default()
        },
    }
}

fn insert_service(program: &mut Program, service: &Service) -> Result<()> {
    let Endpoint { address, port, protocol } = service.at;
    let value = record_of(service);
    match address {
        IpAddr::V4(a) => program.insert("SERVICES4", Endpoint4::from_host(a.octets(), port, protocol), value),
        IpAddr::V6(a) => program.insert("SERVICES6", Endpoint6::from_host(a.octets(), port, protocol), value),
    }
}

/// Services that are found by prefixes and ranges, as the controller resolves them.
fn insert_wide(program: &mut Program, wide: &[Wide]) -> Result<()> {
    let mut wanted = Vec::new();
    for Wide { service, listens } in wide {
        let Service { at: Endpoint { address, protocol, .. }, id, .. } = *service;
        let value = record_of(service);
        match address {
            IpAddr::V4(_) => program.insert("SERVICES4", Endpoint4::of_service(id, protocol), value)?,
            IpAddr::V6(_) => program.insert("SERVICES6", Endpoint6::of_service(id, protocol), value)?,
        }
        let protocol = if protocol == PROTO_TCP { Protocol::Tcp } else { Protocol::Udp };
        wanted.extend(listens.iter().map(|l| {
            let prefix = Prefix { address: l.prefix.address, length: l.prefix.length };
            (Listen { prefix, ports: Ports { first: l.first, last: l.last } }, protocol, id)
        }));
    }
    wide::insert(program, wanted)
}

fn record_of(service: &Service) -> ServiceValue {
    let Service { id, class, slot, forward, tracked, by_client, clamps, before, .. } = *service;
    let flag = |is: bool, flag: u16| if is { flag } else { 0 };
    ServiceValue {
        id,
        ring: slot,
        class,
        forward,
        flags: flag(tracked, TRACKED)
            | flag(clamps, CLAMP)
            | flag(by_client, AFFINITY_SOURCE)
            | flag(before.is_some_and(|before| before.by_client), BEFORE_SOURCE),
        before: before.map_or(0, |before| ServiceValue::pack_before(before.class, before.slot)),
    }
}

fn insert_reply(program: &mut Program, reply: &Reply) -> Result<()> {
    let Reply { from: Endpoint { address, port, protocol }, wide, vip, port: vip_port, backend, service } = *reply;
    let vip_port = vip_port.to_be();
    match (address, vip) {
        (IpAddr::V4(a), IpAddr::V4(vip)) => {
            let value = Reverse4 { vip: word(vip.octets()), port: vip_port, backend, service, reserved: 0 };
            let exact = Endpoint4::from_host(a.octets(), port, protocol);
            program.insert("REVERSE4", if wide { Endpoint4::any_port(exact.addr, protocol) } else { exact }, value)
        }
        (IpAddr::V6(a), IpAddr::V6(vip)) => {
            let value = Reverse6 { vip: words6(vip.octets()), port: vip_port, backend, service };
            let exact = Endpoint6::from_host(a.octets(), port, protocol);
            program.insert("REVERSE6", if wide { Endpoint6::any_port(exact.addr, protocol) } else { exact }, value)
        }
        _ => bail!("the reply from {address} is of another family than its VIP {vip}"),
    }
}

fn insert_route(program: &mut Program, route: &Route) -> Result<()> {
    // Words that a kind of route does not have lead astray, so that whoever reads them is found out.
    let astray = RouteValue { next_hop: 1, ifindex: network::LAN, ..RouteValue::default() };
    let value = match route.way {
        Way::Gateway(next_hop) => RouteValue { kind: ROUTE_GATEWAY, next_hop, ..astray },
        Way::OnLink(ifindex) => RouteValue { kind: ROUTE_ON_LINK, ifindex, ..astray },
        Way::AskKernel => RouteValue { kind: ROUTE_ASK_KERNEL, ..astray },
    };
    let length = u32::from(route.prefix.length);
    match route.prefix.address {
        IpAddr::V4(a) => program.insert_prefix("ROUTES4", length, a.octets(), value),
        IpAddr::V6(a) => program.insert_prefix("ROUTES6", length, a.octets(), value),
    }
}
