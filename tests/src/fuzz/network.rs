//! The network every fuzzed world lives in: the kernel's own links, routes and neighbours, which do not change, and
//! the addresses that worlds and packets are made of.
//!
//! ```text
//!   clients ── router ── lan ──┐          ┌── dc ── backends 10.0.0.0/24, 2001:db8:d::/64, gateway to more
//!        192.0.2.0/24     10   │  Sluice  │   20
//!                              └──────────┴── wan ── 198.18.0.0/24: IPv4 is forwarded, IPv6 is not
//!                                         │   40
//!                                         └── off: not up, nothing is forwarded
//!                                             30
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::model::kernel::{Kernel, Link, Neighbour, Route, Way};
use crate::model::world::Prefix;
use crate::packet::Mac;
use crate::progrun::netns;

pub const LAN: u32 = 10;
pub const DC: u32 = 20;
pub const OFF: u32 = 30;
pub const WAN: u32 = 40;
pub const INTERFACES: [u32; 4] = [LAN, DC, OFF, WAN];

pub fn mac(interface: u32) -> Mac {
    Mac::local(interface as u8)
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// `2001:db8:a::b`.
const fn v6(a: u16, b: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, a, 0, 0, 0, 0, b))
}

/// An address of `2001:db8:a::/64` of which no word is zero or another's. In short addresses a word that is forgotten or
/// mixed up with its neighbour makes no difference.
const fn long6(a: u16, b: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, a, 0, 0x1234 ^ a, 0x5678 ^ b, 0x9abc, b))
}

const fn prefix(address: IpAddr, length: u8) -> Prefix {
    Prefix { address, length }
}

pub fn kernel() -> Kernel {
    let link = |index, name, mtu, up: bool, addresses: &[Prefix]| Link {
        index,
        name,
        mac: mac(index),
        mtu,
        up,
        forwards4: up,
        forwards6: up && index != WAN,
        addresses: addresses.to_vec(),
    };
    let links = vec![
        link(LAN, "lan", 1500, true, &[prefix(v4(192, 0, 2, 2), 24), prefix(v6(0x1a, 2), 64)]),
        link(DC, "dc", 2000, true, &[prefix(v4(10, 0, 0, 2), 24), prefix(v6(0xd, 2), 64)]),
        link(OFF, "off", 1500, false, &[]),
        link(WAN, "wan", 9000, true, &[prefix(v4(198, 18, 0, 2), 24), prefix(v6(0x18, 2), 64)]),
    ];
    let gateway = |gateway, interface| Way::Gateway { gateway, interface };
    let routes = [
        (v4(10, 13, 0, 0), 16, Way::Narrow { gateway: v4(10, 0, 0, 1), interface: DC, mtu: 1300 }),
        (v4(10, 14, 0, 0), 16, gateway(v4(10, 0, 0, 99), DC)),
        (v4(10, 66, 0, 0), 16, Way::Refused("unreachable")),
        (v4(10, 67, 0, 0), 16, Way::Refused("blackhole")),
        (v4(10, 68, 0, 0), 16, Way::Refused("prohibit")),
        (v4(100, 64, 0, 0), 16, gateway(v4(192, 0, 2, 1), LAN)),
        (v4(100, 64, 5, 0), 24, Way::Refused("unreachable")),
        (v4(172, 16, 0, 0), 12, gateway(v4(198, 18, 0, 1), WAN)),
        (v4(172, 20, 0, 0), 16, Way::Link { interface: WAN }),
        (v6(0xd13, 0), 64, Way::Narrow { gateway: v6(0xd, 1), interface: DC, mtu: 1300 }),
        (v6(0xd14, 0), 64, gateway(v6(0xd, 0x99), DC)),
        (v6(0xd66, 0), 64, Way::Refused("unreachable")),
        (v6(0xd67, 0), 64, Way::Refused("blackhole")),
        (v6(0xd68, 0), 64, Way::Refused("prohibit")),
        (v6(0x64, 0), 48, gateway(v6(0x1a, 1), LAN)),
        (v6(0x172, 0), 48, gateway(v6(0x18, 1), WAN)),
    ];
    let neighbours = [
        (v4(192, 0, 2, 1), LAN, 0x01),
        (v4(192, 0, 2, 50), LAN, 0x50),
        (v4(192, 0, 2, 78), LAN, 0x78),
        (v4(10, 0, 0, 1), DC, 0xd1),
        (v4(10, 0, 0, 11), DC, 0xb1),
        (v4(10, 0, 0, 12), DC, 0xb2),
        (v4(198, 18, 0, 1), WAN, 0x18),
        (v6(0x1a, 1), LAN, 0x01),
        (v6(0x1a, 0x50), LAN, 0x50),
        (v6(0x1a, 0x78), LAN, 0x78),
        (v6(0xd, 1), DC, 0xd1),
        (v6(0xd, 0x11), DC, 0xb1),
        (v6(0xd, 0x12), DC, 0xb2),
        (v6(0x18, 1), WAN, 0x18),
    ];
    Kernel::new(
        links,
        routes.map(|(address, length, way)| Route { prefix: prefix(address, length), way }).to_vec(),
        neighbours.map(|(address, interface, mac)| Neighbour { address, interface, mac: Mac::local(mac) }).to_vec(),
    )
}

/// Builds the network in the calling thread's namespace, which must be empty and private.
pub fn build(kernel: &Kernel) -> Result<()> {
    netns::ip(&kernel.script())?;
    netns::sysctl("ipv4/conf/all/forwarding", "1")?;
    netns::sysctl("ipv6/conf/all/forwarding", "1")?;
    for link in kernel.links() {
        for (family, forwards) in [("ipv4", link.forwards4), ("ipv6", link.forwards6)] {
            netns::sysctl(&format!("{family}/conf/{}/forwarding", link.name), if forwards { "1" } else { "0" })?;
        }
    }
    Ok(())
}

/// Addresses of VIPs.
pub const VIPS: [IpAddr; 6] = [
    v4(203, 0, 113, 10),
    v4(203, 0, 113, 11),
    v4(198, 51, 100, 200),
    v6(0xf, 0x10),
    long6(0xf, 0x11),
    long6(0xf00, 0xffff),
];

/// Addresses of backends: the kernel knows their MAC, knows only the link, knows a gateway, refuses them.
pub const BACKENDS: [IpAddr; 22] = [
    v4(10, 0, 0, 11),
    v4(10, 0, 0, 12),
    v4(10, 0, 0, 13),
    v4(192, 0, 2, 50),
    v4(10, 13, 0, 12),
    v4(10, 14, 0, 12),
    v4(10, 66, 0, 9),
    v4(10, 67, 0, 9),
    v4(10, 68, 0, 9),
    v4(172, 16, 3, 4),
    v4(10, 99, 255, 255),
    v6(0xd, 0x11),
    v6(0xd, 0x12),
    long6(0xd, 0x13),
    v6(0x1a, 0x50),
    long6(0xd13, 12),
    v6(0xd14, 12),
    v6(0xd66, 9),
    v6(0xd67, 9),
    v6(0xd68, 9),
    long6(0x172, 4),
    long6(0xffff, 0xffff),
];

/// Addresses of clients, the odd ones too: this host's own, broadcast, multicast, loopback, link-local, nobody's.
pub const CLIENTS: [IpAddr; 38] = [
    v4(198, 51, 100, 7),
    v4(198, 51, 100, 130),
    v4(192, 0, 2, 77),
    v4(192, 0, 2, 78),
    v4(192, 0, 2, 79),
    v4(192, 0, 2, 2),
    v4(192, 0, 2, 0),
    v4(192, 0, 2, 255),
    v4(10, 0, 0, 11),
    v4(10, 13, 0, 1),
    v4(10, 14, 0, 1),
    v4(10, 66, 0, 1),
    v4(100, 64, 0, 7),
    v4(100, 64, 5, 7),
    v4(172, 16, 0, 7),
    v4(172, 20, 0, 7),
    v4(127, 0, 0, 1),
    v4(224, 0, 0, 251),
    v4(255, 255, 255, 255),
    v4(0, 0, 0, 0),
    v6(0xc, 7),
    long6(0xcc, 7),
    v6(0x1a, 0x77),
    v6(0x1a, 0x78),
    long6(0x1a, 0x79),
    v6(0x1a, 2),
    v6(0x1a, 0),
    v6(0xd, 0x11),
    v6(0xd13, 1),
    v6(0xd14, 1),
    long6(0xd66, 1),
    long6(0x64, 7),
    long6(0x172, 7),
    v6(0xd68, 1),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
];

/// Prefixes that routes to clients are made of, beside the default ones.
pub const PREFIXES: [Prefix; 14] = [
    prefix(v4(192, 0, 2, 0), 24),
    prefix(v4(198, 51, 100, 0), 24),
    prefix(v4(198, 51, 100, 128), 25),
    prefix(v4(198, 51, 100, 7), 32),
    prefix(v4(100, 64, 0, 0), 10),
    prefix(v4(10, 0, 0, 0), 8),
    prefix(v4(128, 0, 0, 0), 1),
    prefix(v6(0x1a, 0), 64),
    prefix(v6(0xc, 0), 64),
    prefix(v6(0xc, 7), 128),
    prefix(v6(0xcc, 0), 48),
    prefix(v6(0x64, 0), 47),
    prefix(v6(0, 0), 32),
    prefix(IpAddr::V6(Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0)), 1),
];

pub const TUNNEL_SOURCES: [IpAddr; 4] = [v4(10, 200, 0, 0), v4(10, 0, 0, 2), long6(7, 0), v6(0xd, 2)];

/// Those of a pool that are of one family.
pub fn of_family(pool: &[IpAddr], ipv6: bool) -> Vec<IpAddr> {
    pool.iter().copied().filter(|address| address.is_ipv6() == ipv6).collect()
}
