//! The part of the host's kernel that the slow path asks: which next hop it gives for a packet.
//!
//! Written from how `bpf_fib_lookup` is documented (bpf-helpers(7)) and from the routing of RFC 1812 and RFC 4291:
//! the interface the packet came in by must forward, the longest prefix decides, own, broadcast and anycast
//! addresses are not forwarded to, link-local ones never are, the route's MTU must hold the packet, and the next
//! hop's MAC must be known.
//!
//! The same description makes the real thing: [`Kernel::script`] is what `ip` is told to build a namespace that
//! answers so.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::world::{NextHop, Prefix, longest, octets};
use crate::packet::Mac;

#[derive(Clone, Debug)]
pub struct Kernel {
    links: Vec<Link>,
    /// Those that are added.
    routes: Vec<Route>,
    /// Those that follow from addresses.
    implied: Vec<Route>,
    neighbours: Vec<Neighbour>,
}

#[derive(Clone, Debug)]
pub struct Link {
    pub index: u32,
    pub name: &'static str,
    pub mac: Mac,
    pub mtu: u32,
    pub up: bool,
    /// Packets that come in by it are forwarded, by family.
    pub forwards4: bool,
    pub forwards6: bool,
    pub addresses: Vec<Prefix>,
}

#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub prefix: Prefix,
    pub way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the destination itself, on this link.
    Link {
        interface: u32,
    },
    Gateway {
        gateway: IpAddr,
        interface: u32,
    },
    /// As [`Way::Gateway`], for packets up to an MTU of the route's own.
    Narrow {
        gateway: IpAddr,
        interface: u32,
        mtu: u32,
    },
    /// `unreachable`, `blackhole` or `prohibit`.
    Refused(&'static str),
    /// The host's own, a broadcast or an anycast address. Not listed: follows from the links.
    Local,
}

#[derive(Clone, Copy, Debug)]
pub struct Neighbour {
    pub address: IpAddr,
    pub interface: u32,
    pub mac: Mac,
}

/// What the kernel says about a packet as it will leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Hop(NextHop),
    /// The next hop's MAC is not known.
    NoNeighbour {
        interface: u32,
        address: IpAddr,
    },
    NoRoute,
    /// For a way that takes no more than this.
    TooBig(u32),
    /// The interface it came in by does not forward.
    Disabled,
}

/// Addresses that never leave their link: loopback, multicast and link-local (RFC 4291 §2.5.3, §2.5.6, §2.7).
fn stays_on_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(a) => a.is_loopback() || a.is_multicast() || a.is_unicast_link_local(),
    }
}

/// Routes that follow from addresses: the address itself, what is not forwarded to, the link's prefix.
fn implied(links: &[Link]) -> Vec<Route> {
    let mut routes = Vec::new();
    for link in links.iter().filter(|link| link.up) {
        for own in &link.addresses {
            let whole = octets(own.address).len() as u8 * 8;
            let local = |address: IpAddr| Route { prefix: Prefix { address, length: whole }, way: Way::Local };
            routes.push(local(own.address));
            let (network, last) = ends(*own);
            // The directed broadcast address (RFC 919 §7), or the subnet-router anycast address (RFC 4291 §2.6.1).
            routes.push(local(if own.address.is_ipv4() { last } else { network }));
            let prefix = Prefix { address: network, length: own.length };
            routes.push(Route { prefix, way: Way::Link { interface: link.index } });
        }
    }
    routes
}

impl Kernel {
    pub fn new(links: Vec<Link>, routes: Vec<Route>, neighbours: Vec<Neighbour>) -> Self {
        let implied = implied(&links);
        Self { links, routes, implied, neighbours }
    }

    pub fn links(&self) -> &[Link] {
        &self.links
    }

    fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The next hop for a packet of `length` bytes that came in by `ingress`.
    pub fn ask(&self, ingress: u32, source: IpAddr, destination: IpAddr, length: usize) -> Answer {
        if stays_on_link(source) || stays_on_link(destination) {
            return Answer::NoRoute;
        }
        let forwards = |link: &Link| if destination.is_ipv4() { link.forwards4 } else { link.forwards6 };
        if !self.link(ingress).is_some_and(forwards) {
            return Answer::Disabled;
        }
        let best = [&self.routes, &self.implied].map(|routes| longest(routes, |route| route.prefix, destination));
        let way = best.into_iter().flatten().max_by_key(|route| route.prefix.length).map_or(Way::Local, |r| r.way);
        let (interface, address, narrow) = match way {
            Way::Link { interface } => (interface, destination, None),
            Way::Gateway { gateway, interface } => (interface, gateway, None),
            Way::Narrow { gateway, interface, mtu } => (interface, gateway, Some(mtu)),
            Way::Refused(_) | Way::Local => return Answer::NoRoute,
        };
        let Some(link) = self.link(interface) else { return Answer::NoRoute };
        let mtu = narrow.unwrap_or(link.mtu);
        if length > mtu as usize {
            return Answer::TooBig(mtu);
        }
        match self.neighbours.iter().find(|n| n.interface == interface && n.address == address) {
            // The kernel compared the length already. It tells the MTU in place of the length, so the two cannot be told apart.
            Some(n) => {
                let mtu = if mtu as usize == length { u32::MAX } else { mtu };
                Answer::Hop(NextHop { destination: n.mac, source: link.mac, mtu, interface, tags: [None; 2] })
            }
            None => Answer::NoNeighbour { interface, address },
        }
    }

    /// Commands for `ip -batch` that make this network in an empty namespace. Every link is one end of a pair.
    pub fn script(&self) -> String {
        let mut script = "link set lo up\n".to_owned();
        for Link { index, name, mac, mtu, up, addresses, .. } in &self.links {
            let far = index + 1;
            let _ = writeln!(
                script,
                "link add {name} index {index} address {mac} type veth peer name {name}-far index {far}"
            );
            let _ = writeln!(script, "link set {name} mtu {mtu}");
            if *up {
                let _ = writeln!(script, "link set {name}-far mtu {mtu} up\nlink set {name} up");
            }
            for Prefix { address, length } in addresses {
                let detection = if address.is_ipv6() { " nodad" } else { "" };
                let _ = writeln!(script, "address add {address}/{length} dev {name}{detection}");
            }
        }
        let name = |index: u32| self.link(index).map_or("?", |link| link.name);
        for Neighbour { address, interface, mac } in &self.neighbours {
            let _ = writeln!(script, "neigh add {address} lladdr {mac} dev {} nud permanent", name(*interface));
        }
        for Route { prefix: Prefix { address, length }, way } in &self.routes {
            let (kind, rest) = match way {
                Way::Link { interface } => ("", format!("dev {}", name(*interface))),
                Way::Gateway { gateway, interface } => ("", format!("via {gateway} dev {}", name(*interface))),
                // Locked: forwarding heeds no other route's MTU.
                Way::Narrow { gateway, interface, mtu } => {
                    ("", format!("via {gateway} dev {} mtu lock {mtu}", name(*interface)))
                }
                Way::Refused(kind) => (*kind, String::new()),
                Way::Local => ("local", "dev lo".to_owned()),
            };
            let _ = writeln!(script, "route add {kind} {address}/{length} {rest}");
        }
        script
    }
}

/// The first and the last address of a prefix.
fn ends(prefix: Prefix) -> (IpAddr, IpAddr) {
    match prefix.address {
        IpAddr::V4(a) => {
            let host = u32::MAX.checked_shr(prefix.length.into()).unwrap_or(0);
            (Ipv4Addr::from_bits(a.to_bits() & !host).into(), Ipv4Addr::from_bits(a.to_bits() | host).into())
        }
        IpAddr::V6(a) => {
            let host = u128::MAX.checked_shr(prefix.length.into()).unwrap_or(0);
            (Ipv6Addr::from_bits(a.to_bits() & !host).into(), Ipv6Addr::from_bits(a.to_bits() | host).into())
        }
    }
}
