//! The node all golden cases run on: two links, a router, backends behind them, and one service per behaviour.
//!
//! ```text
//!   clients ── router ──┐                         ┌── backends 10.0.0.0/24, 2001:db8:d::/64
//!   192.0.2.1, fe80::1  ├── lan ── Sluice ── dc ──┤
//!   on-link client ─────┘   10              20    └── gateway 10.0.0.1 to more backends
//!   one-armed backends
//! ```
//!
//! The maps are written here as the controller would write them. The kernel's own routes and neighbours exist
//! beside them, for the packets that take the slow path.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use lb_common::addr::{Endpoint4, Endpoint6, PROTO_TCP, PROTO_UDP, words6};
use lb_common::backend::{BACKEND_ALIVE, BACKEND_V6, Backend, BackendRoute, State, Tunnel};
use lb_common::flow::FlowPolicy;
use lb_common::hash::HashKey;
use lb_common::ring::{CLASSES, Row, rows};
use lb_common::route::{
    Neighbour4, Neighbour6, NextHop, ROUTE_ASK_KERNEL, ROUTE_GATEWAY, ROUTE_ON_LINK, Route, UNTAGGED, tag,
};
use lb_common::service::{CLAMP, FORWARD_IPIP, FORWARD_NAT, Reverse4, Reverse6, Service};

use sluice::model::{Listen, Ports, Prefix, Protocol};

use super::cases::modes::{MODES, Mode, PROTOCOLS};
use super::cases::{needle_rows, services};
use crate::packet::Mac;
use crate::progrun::{Program, Settings, netns, wide};

/// Interface indices.
pub const LAN: u32 = 10;
pub const DC: u32 = 20;
/// Exists, but is not in the device map, and the kernel does not forward what comes in there.
pub const OFF_MAP: u32 = 30;
/// What the device map holds unless a case narrows it.
pub const DEVICES: [u32; 2] = [LAN, DC];

pub const LAN_MAC: Mac = Mac::local(0x10);
pub const DC_MAC: Mac = Mac::local(0x20);
pub const ROUTER_MAC: Mac = Mac::local(0x01);
pub const ROUTER2_MAC: Mac = Mac::local(0x02);
pub const NEAR_CLIENT_MAC: Mac = Mac::local(0x77);
pub const KERNEL_CLIENT_MAC: Mac = Mac::local(0x78);
pub const B1_MAC: Mac = Mac::local(0xb1);
pub const B2_MAC: Mac = Mac::local(0xb2);
pub const ARM_MAC: Mac = Mac::local(0xba);
pub const GATEWAY_MAC: Mac = Mac::local(0xd1);
/// Known to the kernel only.
pub const SLOW_MAC: Mac = Mac::local(0x51);

const fn v6(a: u16, b: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, a, 0, 0, 0, 0, b)
}

/// Sluice's own addresses.
pub const SELF_LAN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const SELF_DC4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const SELF_DC6: Ipv6Addr = v6(0xd, 2);

/// A client behind the router, one on the link, one the maps do not know but the kernel does.
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const CLIENT6: Ipv6Addr = v6(0xc, 7);
pub const NEAR_CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
pub const NEAR_CLIENT6: Ipv6Addr = v6(0x1a, 0x77);
pub const KERNEL_CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 78);
pub const KERNEL_CLIENT6: Ipv6Addr = v6(0x1a, 0x78);
/// On the link, and nobody knows its MAC.
pub const SILENT_CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 79);
pub const SILENT_CLIENT6: Ipv6Addr = v6(0x1a, 0x79);
/// Whose TCP packets the kernel routes to [`SLOW`] by a rule of their own: through the gateway, and nowhere if it is asked
/// about port 1.
pub const RULED_CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
pub const RULED_CLIENT6: Ipv6Addr = v6(0xc, 8);
/// In a prefix with a route of its own, by the second router.
pub const SPECIFIC_CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);
pub const SPECIFIC_CLIENT6: Ipv6Addr = v6(0xcc, 7);
/// Behind a gateway whose MAC the controller does not know yet.
pub const PENDING_CLIENT4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 7);
/// In a prefix that the controller leaves to the kernel, which refuses it.
pub const FORBIDDEN_CLIENT4: Ipv4Addr = Ipv4Addr::new(100, 65, 0, 7);
pub const FORBIDDEN_CLIENT6: Ipv6Addr = v6(0xf0b, 7);

pub const VIP4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const VIP6: Ipv6Addr = v6(0xf, 0x10);

/// Backends, by id.
pub const B1: u16 = 1;
pub const B2: u16 = 2;
/// One-armed: on the link the clients come in on.
pub const ARM: u16 = 3;
/// Behind the gateway on `dc`.
pub const FAR: u16 = 4;
/// Tunnel ends.
pub const T1: u16 = 5;
pub const TARM: u16 = 6;
/// No next hop in the maps: the kernel knows one, knows only the link, refuses.
pub const SLOW: u16 = 7;
pub const SILENT: u16 = 8;
pub const UNREACHABLE: u16 = 9;
/// Behind a next hop of MTU 1400.
pub const NARROW: u16 = 10;
/// Behind a next hop on an interface that takes no redirects.
pub const STRANDED: u16 = 11;
/// No next hop in the maps, and the kernel's route has MTU 1300.
pub const SLOW_NARROW: u16 = 12;
/// Like [`B2`], on yet another port.
pub const B3: u16 = 13;
/// Tells tunnels more than its address.
pub const WIRE: u16 = 14;
/// IPv6 backends have these ids plus this.
pub const V6: u16 = 50;
/// In a VLAN, and in a VLAN in another one.
pub const IN_VLAN: u16 = 15;
pub const IN_TWO: u16 = 16;
/// Beyond the backends map.
pub const NO_SUCH_BACKEND: u16 = 60_000;

/// The address of a backend, by its IPv4 id.
pub const fn backend4(id: u16) -> Ipv4Addr {
    match id {
        ARM => Ipv4Addr::new(192, 0, 2, 50),
        TARM => Ipv4Addr::new(192, 0, 2, 51),
        FAR => Ipv4Addr::new(10, 7, 0, 4),
        UNREACHABLE => Ipv4Addr::new(10, 66, 0, 9),
        SLOW_NARROW => Ipv4Addr::new(10, 13, 0, 12),
        _ => Ipv4Addr::new(10, 0, 0, 10 + id as u8),
    }
}

/// As [`backend4`], by the same id.
pub const fn backend6(id: u16) -> Ipv6Addr {
    match id {
        ARM => v6(0x1a, 0x50),
        TARM => v6(0x1a, 0x51),
        // No word of it is also one of the VIP's.
        FAR => Ipv6Addr::new(0xfd07, 0xd7, 0xa, 0xb, 0xc, 0xd, 0xe, 4),
        UNREACHABLE => v6(0xd66, 9),
        SLOW_NARROW => v6(0xd13, 12),
        _ => v6(0xd, 0x10 + id),
    }
}

/// What tunnels to [`WIRE`] are told.
pub const TUNNEL_PORT: u16 = 6_789;
pub const TUNNEL_NETWORK: u32 = 0x01_0203;
pub const INNER_MAC: Mac = Mac([2, 0x11, 0x22, 0x33, 0x44, 0x55]);

pub const TUNNEL_SOURCE4: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);
pub const TUNNEL_SOURCE6: Ipv6Addr = v6(0x7, 0);

/// One service: its counters' id (IPv6's is [`ID6`] more), its endpoint at both VIPs, and where its ring leads.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    pub id: u32,
    pub port: u16,
    pub protocol: u8,
    pub forward: u8,
    /// Every row's owner, 0 for none.
    pub backend: u16,
    /// The port packets reach the backend on, 0 for the client's choice.
    pub backend_port: u16,
}

/// IPv6 services have their IPv4 sibling's id plus this.
pub const ID6: u32 = 50;

const fn nat(id: u32, port: u16, protocol: u8, backend: u16) -> Listener {
    Listener { id, port, protocol, forward: FORWARD_NAT, backend, backend_port: 0 }
}

const fn ipip(id: u32, port: u16, protocol: u8, backend: u16) -> Listener {
    Listener { id, port, protocol, forward: FORWARD_IPIP, backend, backend_port: 0 }
}

/// NAT, the backend listens on the same port.
pub const WEB: Listener = nat(1, 443, PROTO_TCP, B1);
/// NAT, the backend listens on another port.
pub const SITE: Listener = Listener { backend_port: 8080, ..nat(2, 80, PROTO_TCP, B2) };
pub const DNS: Listener = nat(3, 53, PROTO_UDP, B1);
pub const MDNS: Listener = Listener { backend_port: 53, ..nat(4, 5353, PROTO_UDP, B3) };
/// NAT to one-armed backends.
pub const ARMED: Listener = nat(5, 8443, PROTO_TCP, ARM);
pub const ARMED_UDP: Listener = nat(6, 8443, PROTO_UDP, ARM);
/// IP in IP.
pub const TUNNEL: Listener = ipip(7, 444, PROTO_TCP, T1);
pub const TUNNEL_UDP: Listener = ipip(8, 444, PROTO_UDP, T1);
pub const TUNNEL_ARMED: Listener = ipip(9, 445, PROTO_TCP, TARM);
/// Behind a gateway.
pub const DISTANT: Listener = nat(10, 8001, PROTO_TCP, FAR);
/// The pool is empty.
pub const EMPTY: Listener = nat(11, 9001, PROTO_TCP, 0);
/// The slow path.
pub const ASKING: Listener = nat(12, 9003, PROTO_TCP, SLOW);
pub const ASKING_TUNNEL: Listener = ipip(13, 9004, PROTO_UDP, SLOW);
pub const WAITING: Listener = nat(14, 9005, PROTO_TCP, SILENT);
pub const CUT_OFF: Listener = nat(15, 9006, PROTO_TCP, UNREACHABLE);
pub const ASKING_NARROW: Listener = nat(16, 9007, PROTO_UDP, SLOW_NARROW);
/// A small MTU.
pub const TIGHT: Listener = nat(17, 9008, PROTO_UDP, NARROW);
pub const TIGHT_TUNNEL: Listener = ipip(18, 9009, PROTO_UDP, NARROW);
/// The way out takes no redirects.
pub const MAROONED: Listener = nat(19, 9010, PROTO_TCP, STRANDED);
/// The ring names a backend that cannot exist.
pub const BROKEN: Listener = nat(20, 9011, PROTO_TCP, NO_SUCH_BACKEND);

/// In VLANs.
pub const TRUNK: Listener = nat(37, 9040, PROTO_TCP, IN_VLAN);
pub const TRUNK_TUNNEL: Listener = ipip(38, 9041, PROTO_TCP, IN_TWO);
/// A small MTU, and TCP, whose MSS is lowered.
pub const CLAMPED: Listener = nat(39, 9042, PROTO_TCP, NARROW);
pub const CLAMPED_TUNNEL: Listener = ipip(18, 9043, PROTO_TCP, NARROW);

const LISTENERS: [Listener; 24] = [
    TRUNK,
    TRUNK_TUNNEL,
    CLAMPED,
    CLAMPED_TUNNEL,
    WEB,
    SITE,
    DNS,
    MDNS,
    ARMED,
    ARMED_UDP,
    TUNNEL,
    TUNNEL_UDP,
    TUNNEL_ARMED,
    DISTANT,
    EMPTY,
    ASKING,
    ASKING_TUNNEL,
    WAITING,
    CUT_OFF,
    ASKING_NARROW,
    TIGHT,
    TIGHT_TUNNEL,
    MAROONED,
    BROKEN,
];

/// A service whose slot holds no ring.
pub const RINGLESS_ID: u32 = 30;
pub const RINGLESS_PORT: u16 = 9002;
const RINGLESS_SLOT: u32 = 127;
/// A service of a ring class that does not exist.
pub const CLASSLESS_ID: u32 = 31;
pub const CLASSLESS_PORT: u16 = 9012;
/// Services of one-row rings, one per class: id and port are these plus the class.
pub const NEEDLE_ID: u32 = 32;
pub const NEEDLE_PORT: u16 = 9020;
/// A service with a way of forwarding that no program knows.
pub const MODELESS_ID: u32 = 40;
pub const MODELESS_PORT: u16 = 9030;

/// Next hops, by index.
pub const HOP_B1: u32 = 1;
pub const HOP_B2: u32 = 2;
const HOP_ARM: u32 = 3;
pub const HOP_GATEWAY: u32 = 4;
const HOP_NARROW: u32 = 5;
const HOP_STRANDED: u32 = 6;
const HOP_ROUTER: u32 = 7;
const HOP_ROUTER2: u32 = 8;

const HOP_IN_VLAN: u32 = 9;
const HOP_IN_TWO: u32 = 10;

/// The VLAN of [`IN_VLAN`], and that of [`IN_TWO`] inside it.
pub const OUTER_VLAN: u16 = 100;
pub const INNER_VLAN: u16 = 0xabc;

/// MTU of [`HOP_NARROW`].
pub const NARROW_MTU: usize = 1400;
/// MTU of the kernel's route to [`SLOW_NARROW`]. Locked: forwarding heeds no other route's MTU.
pub const SLOW_MTU: usize = 1300;

#[derive(Debug)]
pub struct World {
    pub program: Program,
    pub key: HashKey,
}

fn word(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn hop(destination: Mac, source: Mac, ifindex: u32, mtu: usize) -> NextHop {
    NextHop { destination_mac: destination.0, source_mac: source.0, mtu: mtu as u32, ifindex, tags: [UNTAGGED; 2] }
}

// Words that a kind of route does not have lead astray, so that whoever reads them is found out.
const fn gateway(next_hop: u32) -> Route {
    Route { kind: ROUTE_GATEWAY, next_hop, ifindex: LAN, reserved: 0 }
}

const ON_LAN: Route = Route { kind: ROUTE_ON_LINK, next_hop: HOP_ROUTER2, ifindex: LAN, reserved: 0 };
const ASK: Route = Route { kind: ROUTE_ASK_KERNEL, next_hop: HOP_ROUTER2, ifindex: LAN, reserved: 0 };

/// Makes the links, addresses, routes and neighbours the kernel has. Call once, in a private namespace.
///
/// Nothing from [`SLOW`] to [`SLOW`] has a route, so that whoever asks with the destination for a source is found out.
pub fn network() -> Result<()> {
    netns::ip(&format!(
        "link set lo up
         link add lan index {LAN} address {LAN_MAC} type veth peer name lan-far index {lan_far}
         link add dc index {DC} address {DC_MAC} type veth peer name dc-far index {dc_far}
         link add off index {OFF_MAP} type veth peer name off-far index {off_far}
         link set lan up
         link set lan-far up
         link set dc up
         link set dc-far up
         address add {SELF_LAN4}/24 dev lan
         address add {SELF_DC4}/24 dev dc
         address add 2001:db8:1a::2/64 dev lan nodad
         address add {SELF_DC6}/64 dev dc nodad
         neigh add {KERNEL_CLIENT4} lladdr {KERNEL_CLIENT_MAC} dev lan nud permanent
         neigh add {KERNEL_CLIENT6} lladdr {KERNEL_CLIENT_MAC} dev lan nud permanent
         neigh add 192.0.2.1 lladdr {ROUTER_MAC} dev lan nud permanent
         neigh add {slow4} lladdr {SLOW_MAC} dev dc nud permanent
         neigh add {slow6} lladdr {SLOW_MAC} dev dc nud permanent
         neigh add 10.0.0.1 lladdr {GATEWAY_MAC} dev dc nud permanent
         neigh add 2001:db8:d::1 lladdr {GATEWAY_MAC} dev dc nud permanent
         route add unreachable 10.66.0.0/16
         route add unreachable 2001:db8:d66::/64
         route add unreachable 100.65.0.0/16
         route add unreachable 2001:db8:f0b::/64
         route add 100.64.0.0/16 via 192.0.2.1
         route add 10.13.0.0/16 via 10.0.0.1 mtu lock {SLOW_MTU}
         route add 2001:db8:d13::/64 via 2001:db8:d::1 mtu lock {SLOW_MTU}
         rule add pref 1 from {RULED_CLIENT4} ipproto tcp sport 1 lookup 78
         rule add pref 2 from {RULED_CLIENT4} ipproto tcp dport 1 lookup 78
         rule add pref 3 from {RULED_CLIENT4} ipproto tcp lookup 77
         rule add pref 4 from {slow4} lookup 78
         route add unreachable {slow4} table 78
         route add unreachable {slow6} table 78
         route add {slow4} via 10.0.0.1 table 77 metric 1
         route add {slow6} via 2001:db8:d::1 table 77
        ",
        lan_far = LAN + 1,
        dc_far = DC + 1,
        off_far = OFF_MAP + 1,
        slow4 = backend4(SLOW),
        slow6 = backend6(SLOW),
    ))?;
    netns::ip6(&format!(
        // The metric of the route above is where the kernel finds the flow label, if nobody clears it.
        "rule add pref 1 from {RULED_CLIENT6} tos 0x10 lookup 78
         rule add pref 1 from {RULED_CLIENT6} ipproto tcp sport 1 lookup 78
         rule add pref 2 from {RULED_CLIENT6} ipproto tcp dport 1 lookup 78
         rule add pref 3 from {RULED_CLIENT6} ipproto tcp lookup 77
         rule add pref 4 from {slow6} lookup 78
        ",
        slow6 = backend6(SLOW),
    ))?;
    for far in ["lan-far", "dc-far"] {
        netns::receive_redirects(far)?;
    }
    // `bpf_fib_lookup` answers only for interfaces that forward.
    netns::sysctl("ipv4/conf/all/forwarding", "1")?;
    netns::sysctl("ipv6/conf/all/forwarding", "1")?;
    netns::sysctl("ipv4/conf/off/forwarding", "0")?;
    netns::sysctl("ipv6/conf/off/forwarding", "0")
}

impl World {
    /// The world all tests run in, in a network namespace of the calling thread's own.
    pub fn furnished(settings: &Settings) -> Result<Self> {
        netns::enter_private()?;
        network()?;
        let mut world = Self::new(settings)?;
        for class in 0..CLASSES.len() {
            let (row4, row6) = needle_rows(&settings.hash_key, class);
            world.needle(class, row4, row6)?;
        }
        Ok(world)
    }

    /// Loads the program and fills its maps. Needs [`network`].
    pub fn new(settings: &Settings) -> Result<Self> {
        let mut world = Self { program: Program::load(settings)?, key: settings.hash_key };
        world.program.set_devices(&DEVICES)?;
        world.next_hops()?;
        world.backends()?;
        for listener in LISTENERS {
            world.listener(listener)?;
        }
        for mode in MODES {
            world.mode(mode)?;
        }
        world.odd_services()?;
        world.wide_services()?;
        world.routes()?;
        world.program.insert("VIPS4", word(VIP4), WEB.id)?;
        world.program.insert("VIPS6", words6(VIP6.octets()), WEB.id + ID6)?;
        for own in [SELF_LAN4, SELF_DC4, VIP4] {
            world.program.insert("LOCAL4", word(own), 1u32)?;
        }
        for own in [v6(0x1a, 2), SELF_DC6, VIP6] {
            world.program.insert("LOCAL6", words6(own.octets()), 1u32)?;
        }
        Ok(world)
    }

    fn next_hops(&mut self) -> Result<()> {
        for (index, hop) in [
            // Unused, so nobody may take it.
            (0, hop(ROUTER2_MAC, DC_MAC, DC, 1500)),
            (HOP_B1, hop(B1_MAC, DC_MAC, DC, 1500)),
            (HOP_B2, hop(B2_MAC, DC_MAC, DC, 1500)),
            (HOP_ARM, hop(ARM_MAC, LAN_MAC, LAN, 1500)),
            (HOP_GATEWAY, hop(GATEWAY_MAC, DC_MAC, DC, 1500)),
            (HOP_NARROW, hop(B1_MAC, DC_MAC, DC, NARROW_MTU)),
            (HOP_STRANDED, hop(B1_MAC, DC_MAC, OFF_MAP, 1500)),
            (HOP_ROUTER, hop(ROUTER_MAC, LAN_MAC, LAN, 1500)),
            (HOP_ROUTER2, hop(ROUTER2_MAC, LAN_MAC, LAN, 1500)),
            (HOP_IN_VLAN, NextHop { tags: [tag(OUTER_VLAN, false), UNTAGGED], ..hop(B1_MAC, DC_MAC, DC, 1500) }),
            (
                HOP_IN_TWO,
                NextHop { tags: [tag(OUTER_VLAN, true), tag(INNER_VLAN, false)], ..hop(B1_MAC, DC_MAC, DC, 1500) },
            ),
        ] {
            self.program.set("NEXT_HOPS", index, hop)?;
        }
        Ok(())
    }

    fn backends(&mut self) -> Result<()> {
        for (id, next_hop) in [
            (B1, HOP_B1),
            (B2, HOP_B2),
            (B3, HOP_B2),
            (ARM, HOP_ARM),
            (FAR, HOP_GATEWAY),
            (T1, HOP_B1),
            (WIRE, HOP_B1),
            (TARM, HOP_ARM),
            (SLOW, 0),
            (SILENT, 0),
            (UNREACHABLE, 0),
            (NARROW, HOP_NARROW),
            (STRANDED, HOP_STRANDED),
            (SLOW_NARROW, 0),
            (IN_VLAN, HOP_IN_VLAN),
            (IN_TWO, HOP_IN_TWO),
        ] {
            // The backend's port is the port of the one service it serves.
            let port = LISTENERS.iter().find(|l| l.backend == id && l.backend_port != 0).map_or(0, |l| l.backend_port);
            self.backend(id, IpAddr::V4(backend4(id)), port, next_hop)?;
            self.backend(id + V6, IpAddr::V6(backend6(id)), port, next_hop)?;
        }
        Ok(())
    }

    /// Writes a backend.
    pub fn backend(&mut self, id: u16, address: IpAddr, port: u16, next_hop: u32) -> Result<()> {
        let (addr, flags, tunnel_source) = match address {
            IpAddr::V4(a) => ([word(a), 0, 0, 0], BACKEND_ALIVE, [word(TUNNEL_SOURCE4), 0, 0, 0]),
            IpAddr::V6(a) => (words6(a.octets()), BACKEND_ALIVE | BACKEND_V6, words6(TUNNEL_SOURCE6.octets())),
        };
        let backend = Backend {
            addr,
            state: State { port: port.to_be(), flags, generation: 1 },
            route: BackendRoute { next_hop, reserved: 0 },
            tunnel_source,
            tunnel: Tunnel {
                vni: Tunnel::vni(TUNNEL_NETWORK),
                port: TUNNEL_PORT.to_be(),
                inner_mac: INNER_MAC.0,
                ..Tunnel::default()
            },
        };
        self.program.set("BACKENDS", u32::from(id), backend)
    }

    fn listener(&mut self, l: Listener) -> Result<()> {
        let clamps = [CLAMPED.id, CLAMPED_TUNNEL.id].contains(&l.id);
        let flags = if clamps { CLAMP } else { 0 };
        let service = Service { id: l.id, ring: l.id, class: 0, forward: l.forward, flags, ..Service::default() };
        if clamps {
            for id in [l.id, l.id + ID6] {
                self.program.set("FLOW_POLICIES", id, FlowPolicy { clamp: 1, ..FlowPolicy::default() })?;
            }
        }
        self.service4(l.port, l.protocol, service)?;
        self.service6(l.port, l.protocol, Service { id: l.id + ID6, ring: l.id + ID6, ..service })?;
        let all_rows = |owner: u16| (0..rows(0)).map(move |i| (i, Row::steady(owner)));
        let owner6 = if l.backend == 0 || l.backend == NO_SUCH_BACKEND { l.backend } else { l.backend + V6 };
        self.program.set_ring(0, l.id, all_rows(l.backend))?;
        self.program.set_ring(0, l.id + ID6, all_rows(owner6))?;
        if l.forward == FORWARD_NAT && l.backend != 0 && l.backend != NO_SUCH_BACKEND {
            let port = if l.backend_port == 0 { l.port } else { l.backend_port };
            let key = Endpoint4::from_host(backend4(l.backend).octets(), port, l.protocol);
            let vip =
                Reverse4 { vip: word(VIP4), port: l.port.to_be(), backend: l.backend, service: l.id, reserved: 0 };
            self.program.insert("REVERSE4", key, vip)?;
            let key = Endpoint6::from_host(backend6(l.backend).octets(), port, l.protocol);
            let vip = words6(VIP6.octets());
            let vip = Reverse6 { vip, port: l.port.to_be(), backend: owner6, service: l.id + ID6 };
            self.program.insert("REVERSE6", key, vip)?;
        }
        Ok(())
    }

    /// A service of both protocols and families; its rows are [`WIRE`]'s, or those of its twin in the other family.
    fn mode(&mut self, mode: Mode) -> Result<()> {
        let Mode { id, port, forward, crosses, .. } = mode;
        let service = Service { id, ring: id, class: 0, forward, ..Service::default() };
        for protocol in PROTOCOLS {
            self.service4(port, protocol, service)?;
            self.service6(port, protocol, Service { id: id + ID6, ring: id + ID6, ..service })?;
        }
        for (slot, is_v6) in [(id, crosses), (id + ID6, !crosses)] {
            let owner = if is_v6 { WIRE + V6 } else { WIRE };
            self.program.set_ring(0, slot, (0..rows(0)).map(|i| (i, Row::steady(owner))))?;
        }
        Ok(())
    }

    fn service4(&mut self, port: u16, protocol: u8, service: Service) -> Result<()> {
        self.program.insert("SERVICES4", Endpoint4::from_host(VIP4.octets(), port, protocol), service)
    }

    fn service6(&mut self, port: u16, protocol: u8, service: Service) -> Result<()> {
        self.program.insert("SERVICES6", Endpoint6::from_host(VIP6.octets(), port, protocol), service)
    }

    fn odd_services(&mut self) -> Result<()> {
        let ringless =
            Service { id: RINGLESS_ID, ring: RINGLESS_SLOT, class: 0, forward: FORWARD_NAT, ..Service::default() };
        let classless = Service { id: CLASSLESS_ID, class: 200, ..ringless };
        let modeless = Service { id: MODELESS_ID, ring: WEB.id, class: 0, forward: 99, ..ringless };
        for (port, service) in [(RINGLESS_PORT, ringless), (CLASSLESS_PORT, classless), (MODELESS_PORT, modeless)] {
            self.service4(port, PROTO_TCP, service)?;
            self.service6(port, PROTO_TCP, Service { id: service.id + ID6, ..service })?;
        }
        Ok(())
    }

    /// See [`services`].
    fn wide_services(&mut self) -> Result<()> {
        let mut wanted = Vec::new();
        for wide in services::WIDE.iter().chain([&services::EXACT]) {
            let service = Service { id: wide.id, ring: wide.id, class: 0, forward: wide.forward, ..Service::default() };
            let service6 = Service { id: wide.id + ID6, ring: wide.id + ID6, ..service };
            let exact = wide.id == services::EXACT.id;
            for &number in wide.protocols {
                let protocol = if number == PROTO_TCP { Protocol::Tcp } else { Protocol::Udp };
                let (mut key4, mut key6) =
                    (Endpoint4::of_service(service.id, number), Endpoint6::of_service(service6.id, number));
                if exact {
                    key4 = Endpoint4::from_host(wide.address4.octets(), wide.first, number);
                    key6 = Endpoint6::from_host(wide.address6.octets(), wide.first, number);
                } else {
                    for ((address, length), id) in [(wide.prefix4(), service.id), (wide.prefix6(), service6.id)] {
                        let ports = Ports { first: wide.first, last: wide.last };
                        wanted.push((Listen { prefix: Prefix { address, length }, ports }, protocol, id));
                    }
                }
                self.program.insert("SERVICES4", key4, service)?;
                self.program.insert("SERVICES6", key6, service6)?;
                if wide.forward == FORWARD_NAT {
                    let from = Endpoint4::any_port(word(backend4(wide.backend)), number);
                    let vip = word(wide.address4);
                    let to = Reverse4 { vip, port: 0, backend: wide.backend, service: service.id, reserved: 0 };
                    self.program.insert("REVERSE4", from, to)?;
                    let from = Endpoint6::any_port(words6(backend6(wide.backend).octets()), number);
                    let vip = words6(wide.address6.octets());
                    let to = Reverse6 { vip, port: 0, backend: wide.backend + V6, service: service6.id };
                    self.program.insert("REVERSE6", from, to)?;
                }
            }
            self.program.set_ring(0, service.ring, (0..rows(0)).map(|i| (i, Row::steady(wide.backend))))?;
            self.program.set_ring(0, service6.ring, (0..rows(0)).map(|i| (i, Row::steady(wide.backend + V6))))?;
        }
        wide::insert(&mut self.program, wanted)
    }

    fn routes(&mut self) -> Result<()> {
        for (prefix, length, route) in [
            (Ipv4Addr::UNSPECIFIED, 0, gateway(HOP_ROUTER)),
            (Ipv4Addr::new(192, 0, 2, 0), 24, ON_LAN),
            (Ipv4Addr::new(198, 51, 100, 128), 25, gateway(HOP_ROUTER2)),
            (Ipv4Addr::new(100, 64, 0, 0), 16, gateway(0)),
            (Ipv4Addr::new(100, 65, 0, 0), 16, ASK),
        ] {
            self.program.insert_prefix("ROUTES4", length, prefix.octets(), route)?;
        }
        for (prefix, length, route) in [
            (Ipv6Addr::UNSPECIFIED, 0, gateway(HOP_ROUTER)),
            (v6(0x1a, 0), 64, ON_LAN),
            (v6(0xcc, 0), 64, gateway(HOP_ROUTER2)),
            (v6(0xf0b, 0), 64, ASK),
        ] {
            self.program.insert_prefix("ROUTES6", length, prefix.octets(), route)?;
        }
        let near = hop(NEAR_CLIENT_MAC, LAN_MAC, LAN, 1500);
        self.program.insert("NEIGHBOURS4", Neighbour4 { ifindex: LAN, addr: word(NEAR_CLIENT4) }, near)?;
        // The same address on another link is another neighbour.
        let wrong = hop(Mac::local(0xee), DC_MAC, DC, 1500);
        self.program.insert("NEIGHBOURS4", Neighbour4 { ifindex: DC, addr: word(NEAR_CLIENT4) }, wrong)?;
        let key = |ifindex| Neighbour6 { ifindex, addr: words6(NEAR_CLIENT6.octets()), ..Neighbour6::default() };
        self.program.insert("NEIGHBOURS6", key(LAN), near)?;
        self.program.insert("NEIGHBOURS6", key(DC), wrong)
    }

    /// A service of this ring class whose only owned row is the given one.
    pub fn needle(&mut self, class: usize, row4: u32, row6: u32) -> Result<()> {
        let id = NEEDLE_ID + class as u32;
        let port = NEEDLE_PORT + class as u16;
        let service = Service { id, ring: id, class: class as u8, forward: FORWARD_NAT, ..Service::default() };
        self.service4(port, PROTO_TCP, service)?;
        self.service6(port, PROTO_TCP, Service { id: id + ID6, ring: id + ID6, ..service })?;
        self.program.set_ring(class, id, [(row4, Row::steady(B1))])?;
        self.program.set_ring(class, id + ID6, [(row6, Row::steady(B1 + V6))])
    }
}
