//! What the program's maps and load-time constants hold, in people's words: addresses are addresses, ports are
//! numbers, and a table is a list.
//!
//! A world need not make sense. Rings may be missing, name backends that cannot exist, next hops may be empty: the
//! program must have an answer to those too. What a world does keep is what the maps' types enforce (one entry per
//! key), that families do not mix (a service, its rings' backends and their tunnel sources, what is written down of its
//! flows) unless all its services tunnel and tunnels may cross, and that a ring's owners are backends that are there or ids beyond the table.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use lb_common::ring::CLASSES;

use super::flow::{Flow, Key};
use crate::packet::Mac;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    pub settings: Settings,
    pub services: Vec<Service>,
    /// Services that listen on prefixes and ranges of ports: one for each protocol and address family.
    #[serde(default)]
    pub wide: Vec<Wide>,
    pub rings: Vec<Ring>,
    pub backends: Vec<Backend>,
    pub replies: Vec<Reply>,
    pub next_hops: Vec<Indexed>,
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
    /// This host's own addresses.
    pub own: Vec<IpAddr>,
    /// Interfaces that take redirected frames.
    pub devices: Vec<u32>,
    #[serde(default)]
    pub vlans: Vec<Vlan>,
    /// Addresses whose echo requests are answered, and the service they are counted for.
    #[serde(default)]
    pub vips: Vec<(IpAddr, u32)>,
    /// How services' flows are written down; none for a service that is not here.
    #[serde(default)]
    pub policies: Vec<Policy>,
    /// What is written down of flows whose rows are not steady, before the first packet.
    #[serde(default)]
    pub entries: Vec<Entry>,
    /// What backend hosts were told: VIPs whose packets they take out of tunnels.
    #[serde(default)]
    pub unwrapped: Vec<IpAddr>,
}

/// Load-time constants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub ipv4: bool,
    pub ipv6: bool,
    pub nat: bool,
    pub ipip: bool,
    #[serde(default)]
    pub dsr_l2: bool,
    #[serde(default)]
    pub gre: bool,
    #[serde(default)]
    pub gue: bool,
    /// VXLAN and Geneve.
    #[serde(default)]
    pub overlay: bool,
    /// Tunnels may be of the other address family than what is in them.
    #[serde(default)]
    pub crossing: bool,
    #[serde(default)]
    pub tracking: bool,
    #[serde(default)]
    pub packets: Packets,
    /// Services that listen on more than single endpoints are looked for.
    #[serde(default)]
    pub wildcards: bool,
    /// Entries of flows that each family has room for.
    #[serde(default)]
    pub room: u32,
    pub log: bool,
    pub hash_key: [u64; 12],
    /// Bits of the outer IPv4 source that vary with the flow.
    pub tunnel_mask4: Ipv4Addr,
    /// The same for the last four octets of the outer IPv6 source.
    pub tunnel_mask6: Ipv4Addr,
}

/// What the program knows to do with packets that are more than TCP or UDP in one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    pub vlan: bool,
    pub extensions: bool,
    pub fragments: bool,
    pub icmp: bool,
    pub echo: bool,
    pub too_big: bool,
    pub clamp: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: u8,
}

/// One VIP endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub at: Endpoint,
    pub id: u32,
    pub class: u8,
    pub slot: u32,
    /// `FORWARD_NAT`, `FORWARD_IPIP`, or a number the program does not know.
    pub forward: u8,
    /// Its flows are written down whatever their row.
    #[serde(default)]
    pub tracked: bool,
    /// The addresses alone choose the row.
    #[serde(default)]
    pub by_client: bool,
    /// The MSS of its connections is lowered to what the way to the backend takes.
    #[serde(default)]
    pub clamps: bool,
    /// The ring that its own takes the place of.
    #[serde(default)]
    pub before: Option<Before>,
}

/// What a service listens on beside single endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wide {
    /// Of its `at`, the address is of the family and the protocol counts.
    pub service: Service,
    pub listens: Vec<Listen>,
}

/// Addresses that begin alike, and ports from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    pub prefix: Prefix,
    pub first: u16,
    pub last: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    pub class: u8,
    pub slot: u32,
    /// The addresses alone chose its rows.
    pub by_client: bool,
}

/// How a service's flows are written down, by its id. Times are in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub service: u32,
    pub tcp_opening: u32,
    pub tcp: u32,
    pub udp: u32,
    pub orphans: Orphans,
    /// Most entries of flows whose rows are not steady.
    pub quota: u32,
    /// Most tracked flows of IPv4, and of IPv6.
    pub quotas: [u32; 2],
    pub new_per_second: u32,
    /// Replies are looked at, because rows may move.
    pub in_motion: bool,
    /// The MSS in replies is lowered to what the way to the client takes.
    #[serde(default)]
    pub clamps: bool,
    /// The second before the first packet in which a flow was last refused; 0 for never.
    pub refused: u32,
}

/// What becomes of a TCP flow in the middle whose backend is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Orphans {
    #[default]
    Reselect,
    Drop,
    Reset,
}

/// A ring of 2^k rows, given by patterns that repeat: row i belongs to `owners[i % owners.len()]`, 0 being nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    pub class: u8,
    pub slot: u32,
    pub owners: Vec<u16>,
    /// What rows say beside their owners; none: all are steady.
    #[serde(default)]
    pub kinds: Vec<Kind>,
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub owner: u16,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    #[default]
    Steady,
    /// Until that second; flows from before that nobody has written down are `settled`'s.
    Moving {
        settled: u16,
        until: u32,
    },
    Exceptions {
        filter: u64,
    },
}

/// An element of the table of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub flow: Key,
    pub service: u32,
    /// It has become another flow's: its hash is not this one's.
    pub strange: bool,
    pub says: Says,
}

/// What such an element says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Says {
    /// Nothing, and it may be claimed.
    Nothing,
    /// It is about to be removed.
    Leaving,
    Flow(Flow),
}

const fn nobody() -> Mac {
    Mac([0; 6])
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub id: u16,
    pub address: IpAddr,
    /// 0 keeps the client's.
    pub port: u16,
    /// Index into the next hops; 0 for none.
    pub next_hop: u32,
    pub tunnel_source: IpAddr,
    /// What tunnels beside IP in IP and GRE are told: a UDP port, the virtual network and whose frames are in it.
    #[serde(default)]
    pub tunnel_port: u16,
    #[serde(default)]
    pub network: u32,
    #[serde(default = "nobody")]
    pub inner_mac: Mac,
}

/// What a backend's reply is translated back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub from: Endpoint,
    /// From whatever port, which it keeps: those that the VIP has of this service. The ports here are 0.
    #[serde(default)]
    pub wide: bool,
    pub vip: IpAddr,
    pub port: u16,
    pub backend: u16,
    pub service: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    pub destination: Mac,
    pub source: Mac,
    /// The longest IP packet the link takes.
    pub mtu: u32,
    /// 0: there is no next hop here.
    pub interface: u32,
    /// The outer one first.
    #[serde(default)]
    pub tags: [Option<Tag>; 2],
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    pub vlan: u16,
    /// A service provider's (IEEE 802.1ad), not a customer's (802.1Q).
    pub service: bool,
}

/// An interface that is a VLAN on another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    pub interface: u32,
    /// Whose frames leave by this one.
    pub on: u32,
    pub tags: [Option<Tag>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexed {
    pub index: u32,
    pub hop: NextHop,
}

/// A route to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub prefix: Prefix,
    pub way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// By the next hop of this index.
    Gateway(u32),
    /// The destination is a neighbour on this interface.
    OnLink(u32),
    AskKernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    pub interface: u32,
    pub address: IpAddr,
    pub hop: NextHop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

/// An address's bytes, in the order they are written.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

impl Prefix {
    /// The address begins with as many bits of the prefix as it is long.
    pub fn contains(&self, address: IpAddr) -> bool {
        let alike = match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        alike >= u32::from(self.length)
    }
}

/// The entry whose prefix is the longest of those that contain the address.
pub fn longest<T>(entries: &[T], prefix: impl Fn(&T) -> Prefix, address: IpAddr) -> Option<&T> {
    entries.iter().filter(|e| prefix(e).contains(address)).max_by_key(|e| prefix(e).length)
}

/// The first backend id that no test's table has room for.
pub const BEYOND_BACKENDS: u16 = 96;

impl Reply {
    /// The port that it leaves from, if it came from this one.
    pub fn port(&self, own: u16) -> u16 {
        if self.wide { own } else { self.port }
    }
}

impl World {
    /// Every ring's owners are backends that are there, nobody, or ids beyond the table.
    pub fn holds_together(&self) -> bool {
        self.rings.iter().all(|ring| ring.owners.iter().all(|id| self.may_own(*id)))
    }

    /// The backends that a VIP of this family may have.
    pub fn pool(&self, ipv6: bool) -> Vec<u16> {
        let may = |b: &&Backend| self.settings.crossing || b.address.is_ipv6() == ipv6;
        self.backends.iter().filter(may).map(|b| b.id).collect()
    }

    pub fn may_own(&self, id: u16) -> bool {
        id == 0 || id >= BEYOND_BACKENDS || self.backend(id).is_some()
    }

    /// One that listens on just this.
    pub fn exact(&self, at: Endpoint) -> Option<&Service> {
        self.services.iter().find(|s| s.at == at)
    }

    /// One that listens on this among others: on the longest prefix, and of those on the fewest ports.
    pub fn wildcard(&self, at: Endpoint) -> Option<(&Service, Listen)> {
        let of_protocol = self.wide.iter().filter(|w| self.settings.wildcards && w.service.at.protocol == at.protocol);
        let all = of_protocol.flat_map(|w| w.listens.iter().map(move |l| (&w.service, *l)));
        let there = all.filter(|(_, l)| l.prefix.contains(at.address) && (l.first..=l.last).contains(&at.port));
        there.min_by_key(|(_, l)| (128 - l.prefix.length, l.last - l.first))
    }

    pub fn service(&self, at: Endpoint) -> Option<&Service> {
        self.exact(at).or_else(|| Some(self.wildcard(at)?.0))
    }

    /// All there are, however they are found.
    pub fn all_services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().chain(self.wide.iter().map(|w| &w.service))
    }

    /// What a packet from there would be translated back to. What a backend sends from a port that is not its service's
    /// at the VIP is no reply.
    pub fn reply(&self, from: Endpoint) -> Option<&Reply> {
        let asked = |r: &Reply| self.service(Endpoint { address: r.vip, ..from });
        self.replies.iter().find(|r| !r.wide && r.from == from).or_else(|| {
            let wide = |r: &&Reply| {
                self.settings.wildcards
                    && r.wide
                    && (r.from.address, r.from.protocol) == (from.address, from.protocol)
                    && asked(r).is_some_and(|s| s.id == r.service)
            };
            self.replies.iter().find(wide)
        })
    }

    pub fn policy(&self, service: u32) -> Policy {
        self.policies.iter().find(|p| p.service == service).copied().unwrap_or_default()
    }

    pub fn backend(&self, id: u16) -> Option<&Backend> {
        self.backends.iter().find(|b| b.id == id)
    }

    /// The ring in a slot, if there is one of a size that exists.
    pub fn ring(&self, class: u8, slot: u32) -> Option<&Ring> {
        self.rings.iter().find(|r| (r.class, r.slot) == (class, slot))
    }

    pub fn next_hop(&self, index: u32) -> Option<NextHop> {
        let entry = self.next_hops.iter().find(|n| n.index == index && index != 0)?;
        Some(entry.hop).filter(|hop| hop.interface != 0)
    }

    pub fn route(&self, destination: IpAddr) -> Option<&Route> {
        longest(&self.routes, |route| route.prefix, destination)
    }

    pub fn neighbour(&self, interface: u32, address: IpAddr) -> Option<NextHop> {
        Some(self.neighbours.iter().find(|n| n.interface == interface && n.address == address)?.hop)
    }
}

impl Ring {
    /// log2 of the number of rows.
    pub fn log2(&self) -> u32 {
        CLASSES[usize::from(self.class)]
    }

    /// What a row says; its owner is 0 for none.
    pub fn row(&self, row: u32) -> Row {
        let row = row as usize;
        Row {
            owner: self.owners.get(row % self.owners.len().max(1)).copied().unwrap_or_default(),
            kind: self.kinds.get(row % self.kinds.len().max(1)).copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_that_matches_wins_and_families_do_not_mix() {
        let prefix = |address: &str, length| Prefix { address: address.parse().expect("an address"), length };
        let entries = [
            prefix("0.0.0.0", 0),
            prefix("10.0.0.0", 8),
            prefix("10.128.0.0", 9),
            prefix("10.128.0.1", 32),
            prefix("2001:db8::", 33),
        ];
        for (address, expected) in [
            ("192.0.2.1", Some(0)),
            ("10.127.255.255", Some(1)),
            ("10.128.0.0", Some(2)),
            ("10.128.0.1", Some(3)),
            ("2001:db8:7fff::", Some(4)),
            ("2001:db8:8000::", None),
        ] {
            let found = longest(&entries, |p| *p, address.parse().expect("an address"));
            assert_eq!(found, expected.map(|i: usize| &entries[i]), "{address}");
        }
    }
}
