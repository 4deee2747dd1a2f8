//! Routing tables: longest prefix first, then metric, then what is alive, as the kernel decides.
//!
//! What cannot be decided without the packet (type of service, source prefixes, several next hops) or is not ours
//! to imitate (encapsulating routes) is marked `ask_kernel`: a wrong guess is worse than a slow answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
    RouteVia,
};

use super::{Error, rtnl};
use crate::model::Prefix;

/// The three tables of a host without policy routing, in the order they are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    Local,
    Main,
    Default,
}

impl Table {
    pub const ALL: [Self; 3] = [Self::Local, Self::Main, Self::Default];

    fn from_id(id: u32) -> Option<Self> {
        match id {
            255 => Some(Self::Local),
            254 => Some(Self::Main),
            253 => Some(Self::Default),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    Unicast,
    /// Delivered to this host.
    Local,
    /// Blackhole, unreachable or prohibit: goes nowhere, and no other route is tried.
    Unreachable,
    /// This table has no answer; the next one is asked.
    Throw,
    /// Broadcast, multicast and whatever else is not forwarded to one next hop.
    Other,
}

/// One way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    pub ifindex: u32,
    /// `None`: the destination itself is on the link. An IPv4 route may have an IPv6 gateway (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// The kernel does not use it.
    pub dead: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub kind: RouteKind,
    /// One, or several that share the traffic.
    pub hops: Vec<Hop>,
    /// The source address the administrator prefers.
    pub source: Option<IpAddr>,
    /// The smaller, the better. (IPv6 says 1024 where nobody said anything.)
    pub metric: u32,
    /// The path's MTU where the route sets one.
    pub mtu: Option<u32>,
    /// `RT_SCOPE_*`; IPv4 only.
    pub scope: u8,
    /// Applies only to packets of this type of service; 0 for all.
    pub tos: u8,
    /// Has conditions or actions we do not imitate.
    pub ask_kernel: bool,
}

impl Route {
    /// A plain unicast route.
    pub fn unicast(ifindex: u32, gateway: Option<IpAddr>, metric: u32) -> Self {
        Self {
            kind: RouteKind::Unicast,
            hops: vec![Hop { ifindex, gateway, dead: false }],
            source: None,
            metric,
            mtu: None,
            scope: if gateway.is_some() { super::addr::SCOPE_UNIVERSE } else { super::addr::SCOPE_LINK },
            tos: 0,
            ask_kernel: false,
        }
    }

    /// A route of another kind.
    pub fn of_kind(kind: RouteKind) -> Self {
        Self { kind, hops: Vec::new(), ..Self::unicast(0, None, 0) }
    }
}

/// Host bits set to zero.
pub fn prefix(address: IpAddr, length: u8) -> Prefix {
    let address = match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    };
    Prefix { address, length }
}

/// One family's part of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Per prefix, best first; the kernel's own order among equals.
    routes: BTreeMap<Prefix, Vec<Route>>,
    /// How many prefixes there are of each length, so that a look-up tries only those.
    lengths: BTreeMap<u8, usize>,
}

impl RouteTable {
    pub fn insert(&mut self, prefix: Prefix, route: Route) {
        let same = self.routes.entry(prefix).or_default();
        if same.is_empty() {
            *self.lengths.entry(prefix.length).or_default() += 1;
        }
        let at = same.partition_point(|r| r.metric <= route.metric);
        same.insert(at, route);
    }

    fn remove(&mut self, prefix: Prefix, at: usize) {
        let Some(same) = self.routes.get_mut(&prefix) else { return };
        same.remove(at);
        if same.is_empty() {
            self.routes.remove(&prefix);
            if let Some(n) = self.lengths.get_mut(&prefix.length) {
                *n -= 1;
                if *n == 0 {
                    self.lengths.remove(&prefix.length);
                }
            }
        }
    }

    /// Routes to `destination`, longest prefix first, best first within a prefix.
    pub fn matching(&self, destination: IpAddr) -> impl Iterator<Item = (Prefix, &[Route])> {
        self.lengths.keys().rev().filter_map(move |&length| {
            let prefix = prefix(destination, length);
            self.routes.get(&prefix).map(|routes| (prefix, routes.as_slice()))
        })
    }

    /// Every prefix with its routes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &[Route])> {
        self.routes.iter().map(|(prefix, routes)| (*prefix, routes.as_slice()))
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Takes over one event. False when the event alone does not tell what the table looks like now, and the table
    /// has to be read again: replacements do not say what they replaced, equal metrics not in which order they
    /// stand, and IPv6 reports next hops of one route one by one.
    pub fn apply(&mut self, event: &RouteEvent) -> bool {
        let same = self.routes.get(&event.prefix).map_or(&[][..], Vec::as_slice);
        let rival = |r: &&Route| r.metric == event.route.metric && r.tos == event.route.tos;
        let plain = event.route.hops.len() <= 1;
        let mut rivals = same.iter().filter(rival);
        match (event.change, rivals.next(), rivals.next()) {
            (Change::Added, None, _) if plain => self.insert(event.prefix, event.route.clone()),
            (Change::Added, Some(known), None) if *known == event.route => {}
            (Change::Removed, Some(known), None) if plain && *known == event.route => {
                let at = same.iter().position(|r| r == &event.route).unwrap_or_default();
                self.remove(event.prefix, at);
            }
            _ => return false,
        }
        true
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    /// Added in place of another.
    Replaced,
    Removed,
}

/// One route message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEvent {
    pub change: Change,
    pub table: Table,
    pub prefix: Prefix,
    pub route: Route,
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn via(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(ip) => Some((*ip).into()),
        RouteVia::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// What a route message says; `None` for tables and families that are none of our business.
pub(super) fn decode(message: &RouteMessage) -> Option<(Table, Prefix, Route)> {
    use netlink_packet_route::AddressFamily;

    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    // Cloned entries are what the kernel learned for single destinations (redirects, path MTU), not routes.
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut destination = unspecified;
    let mut hop = Hop { ifindex: 0, gateway: None, dead: header.flags.contains(RouteFlags::Dead) };
    let mut hops = Vec::new();
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local | RouteType::Anycast => RouteKind::Local,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteKind::Unreachable,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::Other,
    };
    let mut route = Route {
        scope: header.scope.into(),
        tos: header.tos,
        ask_kernel: header.source_prefix_length > 0,
        ..Route::of_kind(kind)
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Destination(address) => destination = plain(address)?,
            RouteAttribute::Oif(ifindex) => hop.ifindex = *ifindex,
            RouteAttribute::Gateway(address) => hop.gateway = plain(address),
            RouteAttribute::Via(address) => hop.gateway = via(address),
            RouteAttribute::PrefSource(address) => route.source = plain(address),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|m| match m {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => route.ask_kernel = true,
            RouteAttribute::MultiPath(several) => {
                for one in several {
                    let gateway = one.attributes.iter().find_map(|a| match a {
                        RouteAttribute::Gateway(address) => plain(address),
                        RouteAttribute::Via(address) => via(address),
                        _ => None,
                    });
                    let encapsulates = |a: &RouteAttribute| matches!(a, RouteAttribute::EncapType(_));
                    route.ask_kernel |= one.attributes.iter().any(encapsulates);
                    hops.push(Hop {
                        ifindex: one.interface_index,
                        gateway,
                        dead: one.flags.contains(RouteNextHopFlags::Dead),
                    });
                }
            }
            _ => {}
        }
    }
    if hops.is_empty() && hop.ifindex != 0 {
        hops.push(hop);
    }
    route.hops = hops;
    Some((Table::from_id(table)?, prefix(destination, header.destination_prefix_length), route))
}

/// What a route message that came as an event changes.
pub(super) fn decode_event(removed: bool, flags: u16, message: &RouteMessage) -> Option<RouteEvent> {
    let (table, prefix, route) = decode(message)?;
    let change = match (removed, flags & NLM_F_REPLACE != 0) {
        (true, _) => Change::Removed,
        (false, true) => Change::Replaced,
        (false, false) => Change::Added,
    };
    Some(RouteEvent { change, table, prefix, route })
}

pub(super) fn dump(socket: &mut rtnl::Socket) -> std::io::Result<Vec<(Table, Prefix, Route)>> {
    socket.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()), |m| match m.parse()? {
        RouteNetlinkMessage::NewRoute(message) => decode(&message),
        _ => None,
    })
}

/// The kernel's own answer for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is this host.
    Local,
    Via {
        ifindex: u32,
        gateway: Option<IpAddr>,
        source: Option<IpAddr>,
    },
    /// No route, or one that refuses.
    Unreachable,
}

/// Asks the kernel, as `ip route get` does. For a route that is shared by several next hops it answers with one.
pub fn ask_kernel(destination: IpAddr) -> Result<Answer, Error> {
    use netlink_packet_route::AddressFamily;

    let what = || format!("ask the kernel for the route to {destination}");
    let mut socket = rtnl::Socket::open().map_err(Error::kernel(what()))?;
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
        destination_prefix_length: if destination.is_ipv4() { 32 } else { 128 },
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Destination(destination.into()));
    let answer = match socket.get(RouteNetlinkMessage::GetRoute(message)) {
        Ok(Some(RouteNetlinkMessage::NewRoute(answer))) => answer,
        Ok(_) => return Ok(Answer::Unreachable),
        // EINVAL is a blackhole, EACCES prohibit, the others say what they are.
        Err(e) => match e.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES) => {
                return Ok(Answer::Unreachable);
            }
            _ => return Err(Error::kernel(what())(e)),
        },
    };
    let (mut ifindex, mut gateway, mut source) = (0, None, None);
    for attribute in &answer.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = *index,
            RouteAttribute::Gateway(address) => gateway = plain(address),
            RouteAttribute::Via(address) => gateway = via(address),
            RouteAttribute::PrefSource(address) => source = plain(address),
            _ => {}
        }
    }
    Ok(match answer.header.kind {
        RouteType::Local | RouteType::Anycast => Answer::Local,
        RouteType::Unicast => Answer::Via { ifindex, gateway, source },
        _ => Answer::Unreachable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Prefix {
        let (ip, length) = text.split_once('/').expect("a prefix");
        prefix(ip.parse().expect("an address"), length.parse().expect("a length"))
    }

    #[test]
    fn host_bits_are_cut_off() {
        for (address, length, expected) in [
            ("192.0.2.255", 32, "192.0.2.255"),
            ("192.0.2.255", 25, "192.0.2.128"),
            ("192.0.2.255", 0, "0.0.0.0"),
            ("2001:db8::ffff", 128, "2001:db8::ffff"),
            ("2001:db8:ffff::1", 33, "2001:db8:8000::"),
            ("2001:db8::1", 0, "::"),
        ] {
            let cut = prefix(address.parse().expect("an address"), length);
            assert_eq!(cut.address, expected.parse::<IpAddr>().expect("an address"), "{address}/{length}");
        }
    }

    fn event(change: Change, ifindex: u32, metric: u32) -> RouteEvent {
        RouteEvent {
            change,
            table: Table::Main,
            prefix: net("192.0.2.0/24"),
            route: Route::unicast(ifindex, None, metric),
        }
    }

    #[test]
    fn events_that_tell_all_are_taken_over_and_the_others_are_not() {
        use Change::{Added, Removed, Replaced};
        let mut table = RouteTable::default();
        assert!(table.apply(&event(Added, 1, 10)));
        assert!(table.apply(&event(Added, 2, 20)));
        assert!(table.apply(&event(Added, 3, 5)));
        let hops = |t: &RouteTable| {
            let (_, routes) = t.iter().next().expect("a prefix");
            routes.iter().map(|r| r.hops[0].ifindex).collect::<Vec<_>>()
        };
        assert_eq!(hops(&table), [3, 1, 2], "by metric");
        let before = table.clone();
        assert!(table.apply(&event(Added, 1, 10)), "an echo of what a dump has told already");
        assert!(!table.apply(&event(Added, 4, 10)), "before or behind its equal?");
        assert!(!table.apply(&event(Replaced, 4, 10)), "in place of what?");
        assert!(!table.apply(&event(Removed, 4, 10)), "one we do not know");
        let mut several = event(Added, 4, 30);
        several.route.hops.push(Hop { ifindex: 5, gateway: None, dead: false });
        assert!(!table.apply(&several), "next hops come one by one");
        assert_eq!(table, before);
        for (ifindex, metric) in [(1, 10), (3, 5), (2, 20)] {
            assert!(table.apply(&event(Removed, ifindex, metric)));
        }
        assert_eq!(table, RouteTable::default(), "and nothing is left over");
    }

    proptest! {
        /// Against asking every prefix whether it contains the address.
        #[test]
        fn look_ups_find_the_longest_prefix_first(
            nets in proptest::collection::vec((0u32..64, 0u8..=32), 0..40),
            address in 0u32..64,
        ) {
            // Few bits that matter, so that prefixes overlap.
            let spread = |n: u32| Ipv4Addr::from_bits(n << 26 | n << 3 | n & 7).into();
            let nets: std::collections::BTreeSet<Prefix> =
                nets.into_iter().map(|(n, length)| prefix(spread(n), length)).collect();
            let address: IpAddr = spread(address);
            let mut table = RouteTable::default();
            for net in &nets {
                table.insert(*net, Route::unicast(1, None, 0));
            }
            let mut expected: Vec<Prefix> =
                nets.into_iter().filter(|n| prefix(address, n.length) == *n).collect();
            expected.sort_by_key(|n| std::cmp::Reverse(n.length));
            let found: Vec<Prefix> = table.matching(address).map(|(p, _)| p).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
