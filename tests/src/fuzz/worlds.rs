//! Random worlds: what a controller may write, and what it never should.
//!
//! Most of a world hangs together, or packets would never get far: services have rings, rings have backends,
//! backends have next hops, NAT backends have entries for replies. Every link of that chain is sometimes missing.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::addr::{PROTO_TCP, PROTO_UDP};
use lb_common::service::{
    FORWARD_DSR_L2, FORWARD_GENEVE, FORWARD_GRE, FORWARD_GUE, FORWARD_GUE0, FORWARD_IPIP, FORWARD_NAT, FORWARD_VXLAN,
};

use super::flows;
use super::network::{
    self, BACKENDS, CLIENTS, DC, INTERFACES, LAN, OFF, PREFIXES, TUNNEL_SOURCES, VIPS, WAN, kernel, mac, of_family,
};
use super::random::Random;
use crate::model::world::{
    BEYOND_BACKENDS, Backend, Before, Endpoint, Indexed, Kind, Listen, Neighbour, NextHop, Orphans, Packets, Policy,
    Prefix, Reply, Ring, Route, Service, Settings, Tag, Vlan, Way, Wide, World,
};
use crate::packet::Mac;

/// Ids that tests' counters have room for.
pub(super) const MOST_BACKENDS: usize = 40;
const MOST_SERVICES: usize = 40;

/// Beyond the table of backends.
pub(super) const NO_SUCH_BACKENDS: [u16; 2] = [BEYOND_BACKENDS, 60_000];
/// Beyond the table of next hops.
const NO_SUCH_HOP: u32 = 5_000;
/// A next hop that is sometimes empty.
const HOPS: u32 = 9;

const TUNNELS: [u8; 6] = [FORWARD_IPIP, FORWARD_GRE, FORWARD_GUE, FORWARD_GUE0, FORWARD_VXLAN, FORWARD_GENEVE];

pub const PORTS: [u16; 7] = [1, 53, 80, 443, 5353, 8080, 65_535];

/// At this second.
pub fn world(random: &mut Random, now: u64) -> World {
    let mut world = World {
        settings: settings(random),
        services: Vec::new(),
        wide: Vec::new(),
        rings: Vec::new(),
        backends: backends(random),
        replies: Vec::new(),
        next_hops: next_hops(random),
        routes: routes(random),
        neighbours: neighbours(random),
        own: own(random),
        devices: random.weighted(&[
            (40, vec![LAN, DC, WAN]),
            // With few devices, a frame that is redirected to the wrong one is seen as dropped.
            (25, vec![DC]),
            (15, vec![LAN]),
            (8, vec![WAN, DC]),
            (7, vec![LAN, OFF]),
            (5, vec![]),
        ]),
        vlans: vlans(random),
        vips: Vec::new(),
        policies: Vec::new(),
        entries: Vec::new(),
        unwrapped: Vec::new(),
    };
    world.rings = rings(random, &world);
    world.services = services(random, &world);
    world.vips = vips(random, &world);
    world.wide = wide(random, &world);
    world.replies = replies(random, &world);
    world.policies = policies(random, &world, now);
    let kinds: Vec<Vec<Kind>> = world.rings.iter().map(|ring| flows::kinds(random, &world, ring, now)).collect();
    world.rings.iter_mut().zip(kinds).for_each(|(ring, kinds)| ring.kinds = kinds);
    world.unwrapped = VIPS.into_iter().filter(|_| random.percent(60)).collect();
    world
}

fn settings(random: &mut Random) -> Settings {
    let all = random.percent(80);
    let mut on = || all || random.percent(70);
    let (ipv4, ipv6, nat, ipip) = (on(), on(), on(), on());
    let (dsr_l2, gre, gue, overlay) = (on(), on(), on(), on());
    let crossing = random.percent(30);
    let tracking = random.percent(60);
    let all_kinds = random.percent(70);
    let mut on = || all_kinds || random.percent(60);
    let packets =
        Packets { vlan: on(), extensions: on(), fragments: on(), icmp: on(), echo: on(), too_big: on(), clamp: on() };
    let wildcards = random.percent(60);
    let mut mask = || match random.below(4) {
        0 | 1 => Ipv4Addr::UNSPECIFIED,
        2 => Ipv4Addr::from_bits(u32::MAX >> random.below(32)),
        _ => Ipv4Addr::BROADCAST,
    };
    let (tunnel_mask4, tunnel_mask6) = (mask(), mask());
    let log = random.percent(5);
    // Some are full soon.
    let room = random.weighted(&[(15, 16), (20, 64), (65, 512)]);
    Settings {
        ipv4,
        ipv6,
        nat,
        ipip,
        dsr_l2,
        gre,
        gue,
        overlay,
        crossing,
        tracking,
        packets,
        wildcards,
        room,
        log,
        hash_key: std::array::from_fn(|_| random.draw()),
        tunnel_mask4,
        tunnel_mask6,
    }
}

/// None, most of the time; one or two.
fn tags(random: &mut Random) -> [Option<Tag>; 2] {
    let mut tag = || Some(Tag { vlan: random.u16() & 0x0fff, service: random.percent(30) });
    let both = [tag(), tag()];
    match random.below(10) {
        0..7 => [None; 2],
        7 | 8 => [both[0], None],
        _ => both,
    }
}

/// Most addresses of services.
fn vips(random: &mut Random, world: &World) -> Vec<(IpAddr, u32)> {
    let mut vips: Vec<(IpAddr, u32)> = Vec::new();
    for service in &world.services {
        if random.percent(90) && vips.iter().all(|(vip, _)| *vip != service.at.address) {
            vips.push((service.at.address, service.id));
        }
    }
    vips
}

/// What some of the kernel's interfaces stand for.
fn vlans(random: &mut Random) -> Vec<Vlan> {
    let mut vlans = Vec::new();
    for interface in [LAN, DC, WAN] {
        if random.percent(20) {
            vlans.push(Vlan { interface, on: random.pick(&[LAN, DC, WAN]), tags: tags(random) });
        }
    }
    vlans
}

fn hop(random: &mut Random) -> NextHop {
    let interface = random.weighted(&[(45, DC), (35, LAN), (12, WAN), (8, OFF)]);
    let mtu = random.weighted(&[(68, 1500), (6, 1400), (6, 1280), (5, 576), (2, 60), (4, 3000), (8, 9000), (1, 0)]);
    NextHop { destination: Mac::local(random.byte()), source: mac(interface), mtu, interface, tags: tags(random) }
}

fn next_hops(random: &mut Random) -> Vec<Indexed> {
    let mut hops = Vec::new();
    for index in 1..HOPS {
        if random.percent(85) {
            hops.push(Indexed { index, hop: hop(random) });
        }
    }
    if random.percent(50) {
        hops.push(Indexed { index: HOPS, hop: NextHop { interface: 0, ..hop(random) } });
    }
    hops
}

/// An index of a next hop, most likely of one that is there.
fn hop_index(random: &mut Random) -> u32 {
    let index = random.between(1, HOPS as usize - 1) as u32;
    random.weighted(&[(65, index), (25, 0), (7, HOPS), (3, NO_SUCH_HOP)])
}

/// `count` numbers from 1 to `most`, each once.
fn distinct(random: &mut Random, count: usize, most: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (1..=most).collect();
    (0..count).map(|_| numbers.remove(random.below(numbers.len()))).collect()
}

fn backends(random: &mut Random) -> Vec<Backend> {
    let count = random.between(4, 16);
    let ids = distinct(random, count, MOST_BACKENDS);
    let each = ids.into_iter().enumerate().map(|(i, id)| {
        let address = random.pick(&of_family(&BACKENDS, i % 2 == 1));
        let (port, network) = (random.u16(), random.u32() & 0xff_ffff);
        Backend {
            id: id as u16,
            address,
            port: if random.percent(50) { 0 } else { random.pick(&PORTS) },
            next_hop: hop_index(random),
            tunnel_source: random.pick(&of_family(&TUNNEL_SOURCES, address.is_ipv6())),
            tunnel_port: random.weighted(&[(50, 4_789), (40, port), (5, 0), (5, u16::MAX)]),
            network: random.weighted(&[(80, network), (10, 0), (10, 0xff_ffff)]),
            inner_mac: Mac::local(random.byte()),
        }
    });
    each.collect()
}

/// Rings for VIPs of each family; [`services`] finds a ring's by its slot's parity. Where tunnels cross, its backends are of
/// both families.
fn rings(random: &mut Random, world: &World) -> Vec<Ring> {
    let mut rings: Vec<Ring> = Vec::new();
    for slot in 0..random.between(3, 12) as u32 {
        let pool = world.pool(is_ipv6(slot));
        let large = rings.iter().any(|ring| ring.class >= 3);
        // A large ring costs megabytes: one to a world.
        let class = if large || random.percent(80) { random.below(3) } else { random.between(3, 4) };
        // A pattern whose length has no factor in common with the number of rows: a wrong row is a wrong owner.
        let length = random.pick(&[1, 3, 7, 13, 31]);
        let empty = random.percent(4);
        let owners = (0..length).map(|_| match random.below(20) {
            _ if empty || pool.is_empty() => 0,
            0 if random.percent(60) => 0,
            1 if random.percent(30) => random.pick(&NO_SUCH_BACKENDS),
            _ => random.pick(&pool),
        });
        let owners = owners.collect();
        rings.push(Ring { class: class as u8, slot, owners, kinds: Vec::new() });
    }
    rings
}

pub(super) fn is_ipv6(slot: u32) -> bool {
    slot % 2 == 1
}

fn services(random: &mut Random, world: &World) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for id in distinct_services(random) {
        let at = Endpoint {
            address: random.pick(&VIPS),
            port: random.pick(&PORTS),
            protocol: random.pick(&[PROTO_TCP, PROTO_UDP]),
        };
        if services.iter().any(|s| s.at == at) {
            continue;
        }
        services.push(service(random, world, id, at));
    }
    services
}

/// What there is to say of one, beside where it listens.
fn service(random: &mut Random, world: &World, id: u32, at: Endpoint) -> Service {
    let place = |ring: &Ring| (ring.class, ring.slot);
    let rings: Vec<&Ring> = world.rings.iter().filter(|r| is_ipv6(r.slot) == at.address.is_ipv6()).collect();
    let (class, slot) = match random.below(40) {
        0 => (random.below(5) as u8, 100),
        1 => (random.pick(&[5, 200, 255]), 0),
        _ if rings.is_empty() => (0, 101),
        _ => place(random.pick(&rings)),
    };
    let tunnel = random.pick(&TUNNELS);
    // Where a VIP may have backends of the other family, only tunnels lead to them.
    let forward = match world.settings.crossing {
        true => random.weighted(&[(97, tunnel), (1, 0), (1, 9), (1, 255)]),
        false => {
            let (nat, dsr) = (FORWARD_NAT, FORWARD_DSR_L2);
            random.weighted(&[(38, nat), (12, FORWARD_IPIP), (12, dsr), (34, tunnel), (2, 0), (1, 9), (1, 255)])
        }
    };
    let tracked = random.percent(50);
    let before = random.percent(40).then(|| {
        let (class, slot) = if rings.is_empty() || random.percent(8) { (0, 102) } else { place(random.pick(&rings)) };
        Before { class, slot, by_client: random.percent(30) }
    });
    Service { at, id, class, slot, forward, tracked, by_client: random.percent(25), clamps: random.percent(60), before }
}

/// Services that listen on prefixes and ranges of ports: around VIPs, so that they overlap with others and each other.
fn wide(random: &mut Random, world: &World) -> Vec<Wide> {
    let mut all: Vec<Wide> = Vec::new();
    for _ in 0..random.below(7) {
        let at = Endpoint { address: random.pick(&VIPS), port: 0, protocol: random.pick(&[PROTO_TCP, PROTO_UDP]) };
        let id = random.between(1, MOST_SERVICES) as u32;
        let is_ipv6 = at.address.is_ipv6();
        let one = |w: &Wide| (w.service.id, w.service.at.protocol, w.service.at.address.is_ipv6());
        if all.iter().any(|w| one(w) == (id, at.protocol, is_ipv6)) {
            continue;
        }
        let mut listens = Vec::new();
        for _ in 0..random.between(1, 4) {
            let new = listen(random, is_ipv6);
            // Nothing would tell which of the two comes first.
            let like = |l: &Listen| {
                let alike = (l.prefix, l.last - l.first) == (new.prefix, new.last - new.first);
                alike && l.first <= new.last && new.first <= l.last
            };
            let others = all.iter().filter(|w| w.service.at.protocol == at.protocol).flat_map(|w| &w.listens);
            if !others.chain(&listens).any(like) {
                listens.push(new);
            }
        }
        all.push(Wide { service: service(random, world, id, at), listens });
    }
    all
}

fn listen(random: &mut Random, is_ipv6: bool) -> Listen {
    let address = random.pick(&of_family(&VIPS, is_ipv6));
    let length = if is_ipv6 {
        random.weighted(&[(50, 128), (10, 127), (15, 112), (15, 64), (5, 48), (5, 1)])
    } else {
        random.weighted(&[(50, 32), (10, 31), (15, 24), (15, 28), (5, 8), (5, 1)])
    };
    let prefix = Prefix { address: begins(address, length), length };
    let port = random.pick(&PORTS);
    let around = Listen { prefix, first: port.saturating_sub(random.u16() >> random.below(16)).max(1), last: port };
    let behind = Listen { last: port.saturating_add(random.u16() >> random.below(16)), ..around };
    let one = Listen { prefix, first: port, last: port };
    let any = Listen { prefix, first: 0, last: u16::MAX };
    random.weighted(&[
        (30, any),
        (25, around),
        (35, behind),
        (if length == if is_ipv6 { 128 } else { 32 } { 0 } else { 15 }, one),
    ])
}

/// The address with all but its first bits zero.
fn begins(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() >> (32 - length) << (32 - length)).into(),
        IpAddr::V6(a) => std::net::Ipv6Addr::from_bits(a.to_bits() >> (128 - length) << (128 - length)).into(),
    }
}

/// The address with all but its first bits as those of `host`.
fn with_host(prefix: Prefix, host: u128) -> IpAddr {
    match prefix.address {
        IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() | (host as u32 & !(u32::MAX << (32 - prefix.length)))).into(),
        IpAddr::V6(a) => {
            std::net::Ipv6Addr::from_bits(a.to_bits() | (host & !(u128::MAX << (128 - prefix.length)))).into()
        }
    }
}

/// Somewhere in a prefix and a range, most likely; else just beside one.
fn within(random: &mut Random, listen: &Listen, protocol: u8) -> Endpoint {
    let any = u128::from(random.draw()) << 64 | u128::from(random.draw());
    let host = random.weighted(&[(30, 0), (30, u128::MAX), (40, any)]);
    let address = match listen.prefix.length {
        32 if listen.prefix.address.is_ipv4() => listen.prefix.address,
        128 => listen.prefix.address,
        _ if random.percent(40) => {
            let vips = VIPS.iter().filter(|vip| listen.prefix.contains(**vip)).copied().collect::<Vec<_>>();
            random.pick(&vips)
        }
        _ => with_host(listen.prefix, host),
    };
    let (first, last) = (usize::from(listen.first), usize::from(listen.last));
    let inside = random.between(first, last) as u16;
    let (before, after) = (listen.first.saturating_sub(1), listen.last.saturating_add(1));
    let port = random.weighted(&[(25, listen.first), (25, listen.last), (30, inside), (10, before), (10, after)]);
    Endpoint { address, port, protocol }
}

/// Endpoints that packets may be for.
pub(super) fn targets(random: &mut Random, world: &World) -> Vec<Endpoint> {
    let mut all: Vec<Endpoint> = world.services.iter().map(|s| s.at).collect();
    for wide in &world.wide {
        for listen in &wide.listens {
            all.push(within(random, listen, wide.service.at.protocol));
        }
    }
    all
}

/// Endpoints that replies may be from.
pub(super) fn sources(random: &mut Random, world: &World) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for reply in &world.replies {
        let of_service = |w: &&Wide| (w.service.id, w.service.at.protocol) == (reply.service, reply.from.protocol);
        let listens: Vec<Listen> = world.wide.iter().filter(of_service).flat_map(|w| w.listens.clone()).collect();
        let port = match reply.wide {
            true if listens.is_empty() || random.percent(5) => random.u16(),
            true => {
                let listen = random.pick(&listens);
                within(random, &listen, reply.from.protocol).port
            }
            false => reply.from.port,
        };
        all.push(Endpoint { port, ..reply.from });
    }
    all
}

/// Timeouts that flows live to see, and quotas and gates that some do not pass.
fn policies(random: &mut Random, world: &World, now: u64) -> Vec<Policy> {
    let mut ids: Vec<u32> = world.all_services().map(|s| s.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|_| random.percent(95));
    let policy = |service| Policy {
        service,
        tcp_opening: random.between(1, 4) as u32,
        tcp: if random.percent(70) { random.between(2, 30) as u32 } else { 300 },
        udp: if random.percent(70) { random.below(11) as u32 } else { 100 },
        orphans: random.pick(&[Orphans::Reselect, Orphans::Reselect, Orphans::Drop, Orphans::Reset]),
        quota: random.weighted(&[(7, 0), (9, 3), (9, 30), (75, 10_000)]),
        quotas: [0, 1].map(|_| random.pick(&[0, 1, 5, 10_000, 10_000, 10_000])),
        new_per_second: random.weighted(&[(7, 0), (9, 1), (9, 3), (9, 10), (66, 100_000)]),
        in_motion: random.percent(85),
        clamps: random.percent(60),
        refused: if random.percent(60) { now as u32 - random.below(6) as u32 } else { 0 },
    };
    ids.into_iter().map(policy).collect()
}

/// Ids of services, some of several endpoints.
fn distinct_services(random: &mut Random) -> Vec<u32> {
    let count = random.between(4, 24);
    let mut ids: Vec<u32> = distinct(random, count, MOST_SERVICES).into_iter().map(|id| id as u32).collect();
    ids.extend(ids.clone().into_iter().filter(|_| random.percent(20)));
    ids
}

fn replies(random: &mut Random, world: &World) -> Vec<Reply> {
    let mut replies: Vec<Reply> = Vec::new();
    let mut add = |reply: Reply| {
        if !replies.iter().any(|r| r.from == reply.from) {
            replies.push(reply);
        }
    };
    for service in world.services.iter().filter(|s| s.forward == FORWARD_NAT) {
        for backend in &world.backends {
            if backend.address.is_ipv6() != service.at.address.is_ipv6() || random.percent(10) {
                continue;
            }
            let port = if backend.port == 0 { service.at.port } else { backend.port };
            add(Reply {
                from: Endpoint { address: backend.address, port, protocol: service.at.protocol },
                wide: false,
                vip: service.at.address,
                port: service.at.port,
                backend: backend.id,
                service: service.id,
            });
        }
    }
    for Wide { service, listens } in world.wide.iter().filter(|w| w.service.forward == FORWARD_NAT) {
        for backend in world.backends.iter().filter(|b| b.address.is_ipv6() == service.at.address.is_ipv6()) {
            // One address, if there is one.
            let Some(listen) = listens.iter().max_by_key(|l| l.prefix.length) else { continue };
            add(Reply {
                from: Endpoint { address: backend.address, port: 0, protocol: service.at.protocol },
                wide: true,
                vip: listen.prefix.address,
                port: 0,
                backend: backend.id,
                service: service.id,
            });
        }
    }
    // Entries that no service explains.
    for _ in 0..random.below(4) {
        let address = random.pick(&[&BACKENDS[..], &CLIENTS[..]].concat());
        // Whose it is said to be must not be of another family: such a flow may be written down.
        let of_family = |id: &u16| world.backend(*id).is_none_or(|b| b.address.is_ipv6() == address.is_ipv6());
        let ids: Vec<u16> = (1..=MOST_BACKENDS as u16).filter(of_family).collect();
        add(Reply {
            from: Endpoint { address, port: random.pick(&PORTS), protocol: random.pick(&[PROTO_TCP, PROTO_UDP]) },
            wide: false,
            vip: random.pick(&network::of_family(&VIPS, address.is_ipv6())),
            port: if random.percent(50) { random.u16().max(1) } else { random.pick(&PORTS) },
            backend: random.pick(&ids),
            service: random.between(1, MOST_SERVICES) as u32,
        });
    }
    replies
}

fn routes(random: &mut Random) -> Vec<Route> {
    let way = |random: &mut Random| match random.below(10) {
        0..5 => Way::Gateway(hop_index(random)),
        5..8 => Way::OnLink(random.pick(&INTERFACES)),
        _ => Way::AskKernel,
    };
    let mut routes = Vec::new();
    for address in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)] {
        if random.percent(70) {
            routes.push(Route { prefix: Prefix { address, length: 0 }, way: way(random) });
        }
    }
    for prefix in PREFIXES {
        if random.percent(40) {
            routes.push(Route { prefix, way: way(random) });
        }
    }
    routes
}

fn neighbours(random: &mut Random) -> Vec<Neighbour> {
    let mut neighbours = Vec::new();
    for interface in INTERFACES {
        for address in CLIENTS {
            if random.percent(30) {
                neighbours.push(Neighbour { interface, address, hop: hop(random) });
            }
        }
    }
    neighbours
}

fn own(random: &mut Random) -> Vec<IpAddr> {
    let mut own: Vec<IpAddr> = kernel().links().iter().flat_map(|l| &l.addresses).map(|p| p.address).collect();
    own.extend(VIPS.iter().filter(|_| random.percent(70)));
    own.extend(CLIENTS.iter().filter(|_| random.percent(5)));
    own.sort();
    own.dedup();
    own
}
