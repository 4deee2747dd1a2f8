//! A snapshot of the host's network, and the questions the controller asks it.
//!
//! Plain data and pure functions: everything here can be tested without a kernel. Where the answer depends on more
//! than the destination — policy rules, several next hops, conditions on routes — it is "ask the kernel", never a
//! guess.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::route::{NextHop, UNTAGGED, Vlan, tag};

use super::addr::{self, Address};
use super::link::Link;
use super::neigh::Neighbour;
use super::route::{Hop, Route, RouteKind, RouteTable, Table, prefix};
use crate::model::Prefix;

/// Where packets to a destination go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// To this host.
    Local,
    /// The destination is a neighbour on this interface.
    OnLink {
        ifindex: u32,
    },
    Gateway {
        ifindex: u32,
        gateway: IpAddr,
    },
    /// No route, or one that refuses.
    Unreachable,
    /// It depends on more than we know here; see [`super::route::ask_kernel`].
    AskKernel,
}

/// A route as the packet path can use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteView {
    Gateway { ifindex: u32, gateway: IpAddr },
    OnLink { ifindex: u32 },
    AskKernel,
}

/// The routes to mirror into the packet path's tries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataplaneRoutes {
    /// In prefix order, IPv4 first; no prefix twice.
    pub routes: Vec<(Prefix, RouteView)>,
    /// How many IPv4 and IPv6 routes there are, for a family that has more than the limit: its only entry in
    /// `routes` is then a default route to ask the kernel.
    pub over_limit: [Option<usize>; 2],
}

/// What we know of the host's network. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetState {
    pub(super) links: Arc<BTreeMap<u32, Link>>,
    /// In the kernel's order: source selection depends on it.
    pub(super) addresses: Arc<Vec<Address>>,
    /// By family (IPv4, IPv6), then by [`Table`].
    pub(super) tables: Arc<[[RouteTable; 3]; 2]>,
    pub(super) neighbours: Arc<BTreeMap<(u32, IpAddr), Neighbour>>,
    /// By family: policy rules beyond the kernel's own exist.
    pub(super) policy_rules: [bool; 2],
}

fn family(ip: IpAddr) -> usize {
    usize::from(ip.is_ipv6())
}

/// What the tables say about a destination.
enum Found<'a> {
    Local,
    Via(&'a Route, Hop),
    Unreachable,
    AskKernel,
}

/// What one prefix's routes say.
enum Choice<'a> {
    Found(Found<'a>),
    /// Nothing here is alive; a shorter prefix may be.
    None,
    NextTable,
}

impl NetState {
    pub fn insert_link(&mut self, link: Link) {
        Arc::make_mut(&mut self.links).insert(link.index, link);
    }

    pub fn insert_address(&mut self, address: Address) {
        Arc::make_mut(&mut self.addresses).push(address);
    }

    pub fn insert_route(&mut self, table: Table, prefix: Prefix, route: Route) {
        Arc::make_mut(&mut self.tables)[family(prefix.address)][table as usize].insert(prefix, route);
    }

    pub fn insert_neighbour(&mut self, ifindex: u32, ip: IpAddr, neighbour: Neighbour) {
        Arc::make_mut(&mut self.neighbours).insert((ifindex, ip), neighbour);
    }

    /// Says whether a family has policy rules beyond the kernel's own; nothing is then decided here.
    pub fn set_policy_rules(&mut self, ipv4: bool, ipv6: bool) {
        self.policy_rules = [ipv4, ipv6];
    }

    /// Whether policy rules keep us from deciding anything for IPv4 and IPv6.
    pub fn policy_rules(&self) -> [bool; 2] {
        self.policy_rules
    }

    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The interface of this name; the error names those that exist.
    pub fn link_by_name(&self, name: &str) -> Result<&Link, super::Error> {
        let names = || self.links().map(|l| l.name.clone()).collect();
        self.links().find(|l| l.name == name).ok_or_else(|| super::link::no_such(name, names()))
    }

    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Every address that is this host.
    pub fn local_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|a| a.ip)
    }

    pub fn neighbour(&self, ifindex: u32, ip: IpAddr) -> Option<&Neighbour> {
        self.neighbours.get(&(ifindex, ip))
    }

    /// Every known neighbour with the interface it is on.
    pub fn neighbours(&self) -> impl Iterator<Item = (u32, IpAddr, &Neighbour)> {
        self.neighbours.iter().map(|((ifindex, ip), n)| (*ifindex, *ip, n))
    }

    fn is_live(&self, hop: &Hop) -> bool {
        // A carrier that is gone does not matter here: the kernel marks such hops dead only where
        // `ignore_routes_with_linkdown` is set.
        !hop.dead && self.link(hop.ifindex).is_some_and(|l| l.up)
    }

    /// The hop to take when several share the traffic: the first that lives, one that answers before one that does
    /// not.
    fn pick(&self, destination: IpAddr, route: &Route) -> Option<Hop> {
        let live = || route.hops.iter().filter(|h| self.is_live(h));
        let answers =
            |h: &&Hop| !self.neighbour(h.ifindex, h.gateway.unwrap_or(destination)).is_some_and(Neighbour::is_failed);
        live().find(answers).or_else(|| live().next()).copied()
    }

    fn choose<'a>(&self, destination: IpAddr, routes: &'a [Route]) -> Choice<'a> {
        if routes.iter().any(|r| r.ask_kernel || r.tos != 0) {
            return Choice::Found(Found::AskKernel);
        }
        for (i, route) in routes.iter().enumerate() {
            return match route.kind {
                RouteKind::Local => Choice::Found(Found::Local),
                RouteKind::Unreachable => Choice::Found(Found::Unreachable),
                RouteKind::Throw => Choice::NextTable,
                RouteKind::Other => Choice::Found(Found::AskKernel),
                RouteKind::Unicast if route.hops.is_empty() => Choice::Found(Found::AskKernel),
                RouteKind::Unicast => {
                    let Some(hop) = self.pick(destination, route) else { continue };
                    // IPv4 takes the first of equals; IPv6 prefers the router that answers (RFC 4191 section 3.2),
                    // and changes its mind.
                    let rival = |r: &Route| r.metric == route.metric && r.hops.iter().any(|h| self.is_live(h));
                    match destination.is_ipv6() && routes[i + 1..].iter().any(rival) {
                        true => Choice::Found(Found::AskKernel),
                        false => Choice::Found(Found::Via(route, hop)),
                    }
                }
            };
        }
        Choice::None
    }

    fn find(&self, destination: IpAddr) -> Found<'_> {
        let limited = matches!(destination, IpAddr::V4(ip) if ip.is_broadcast());
        if self.policy_rules[family(destination)]
            || destination.is_multicast()
            || destination.is_unspecified()
            || limited
        {
            return Found::AskKernel;
        }
        'tables: for table in Table::ALL {
            for (_, routes) in self.tables[family(destination)][table as usize].matching(destination) {
                match self.choose(destination, routes) {
                    Choice::Found(found) => return found,
                    Choice::None => {}
                    Choice::NextTable => continue 'tables,
                }
            }
        }
        Found::Unreachable
    }

    /// Where packets to `destination` go. Where several next hops share the traffic, this is one of them.
    pub fn resolve(&self, destination: IpAddr) -> Resolution {
        match self.find(destination) {
            Found::Local => Resolution::Local,
            Found::Via(_, Hop { ifindex, gateway: Some(gateway), .. }) => Resolution::Gateway { ifindex, gateway },
            Found::Via(_, Hop { ifindex, gateway: None, .. }) => Resolution::OnLink { ifindex },
            Found::Unreachable => Resolution::Unreachable,
            Found::AskKernel => Resolution::AskKernel,
        }
    }

    /// The interface of the default route, of IPv4 before IPv6; where several share the traffic, of one of them.
    pub fn default_route(&self) -> Option<&Link> {
        let any = [IpAddr::from([0; 4]), IpAddr::from([0; 16])].map(|any| prefix(any, 0));
        let tables = any.iter().flat_map(|p| [Table::Main, Table::Default].map(|table| (p, table)));
        tables
            .flat_map(|(p, table)| {
                self.tables[family(p.address)][table as usize].iter().take_while(move |(q, _)| q == p)
            })
            .flat_map(|(_, routes)| routes.iter().flat_map(|route| &route.hops))
            .find_map(|hop| self.link(hop.ifindex).filter(|_| self.is_live(hop)))
    }

    /// The neighbour that packets to `destination` are handed to, as (interface, address).
    fn neighbour_for(&self, destination: IpAddr) -> Option<(u32, IpAddr)> {
        match self.resolve(destination) {
            Resolution::OnLink { ifindex } => Some((ifindex, destination)),
            Resolution::Gateway { ifindex, gateway } => Some((ifindex, gateway)),
            Resolution::Local | Resolution::Unreachable | Resolution::AskKernel => None,
        }
    }

    /// The frame header for a neighbour: its MAC address, ours, and the link's MTU. `None` while its MAC address is
    /// not known, and on links without MAC addresses.
    pub fn hop(&self, ifindex: u32, neighbour: IpAddr) -> Option<NextHop> {
        let link = self.link(ifindex).filter(|l| l.up)?;
        let Vlan { ifindex, tags } = self.below(link)?;
        Some(NextHop {
            destination_mac: self.neighbour(link.index, neighbour)?.usable_mac()?,
            source_mac: link.mac?,
            mtu: link.mtu,
            ifindex,
            tags,
        })
    }

    /// The interface that a link's frames leave by, and the tags they have there. `None` for a third VLAN on two others.
    fn below(&self, link: &Link) -> Option<Vlan> {
        let (mut tags, mut link) = (Vec::new(), link);
        while let Some(vlan) = link.vlan {
            if tags.len() == 2 {
                return None;
            }
            tags.insert(0, tag(vlan.id, vlan.service));
            link = self.link(vlan.on)?;
        }
        let tags = match tags[..] {
            [] => [UNTAGGED; 2],
            [only] => [only, UNTAGGED],
            [outer, inner, ..] => [outer, inner],
        };
        Some(Vlan { ifindex: link.index, tags })
    }

    /// Every interface that is a VLAN, and what it stands for.
    pub fn vlans(&self) -> impl Iterator<Item = (u32, Vlan)> {
        self.links().filter(|link| link.vlan.is_some()).filter_map(|link| Some((link.index, self.below(link)?)))
    }

    /// The frame header for packets to `destination`, with the smaller of the link's and the route's MTU.
    pub fn next_hop(&self, destination: IpAddr) -> Option<NextHop> {
        let Found::Via(route, hop) = self.find(destination) else { return None };
        let mut next = self.hop(hop.ifindex, hop.gateway.unwrap_or(destination))?;
        next.mtu = route.mtu.map_or(next.mtu, |mtu| mtu.min(next.mtu));
        Some(next)
    }

    /// The neighbour to resolve, when that is all that is missing on the way to `destination`.
    pub fn missing_neighbour(&self, destination: IpAddr) -> Option<(u32, IpAddr)> {
        let (ifindex, ip) = self.neighbour_for(destination)?;
        let link = self.link(ifindex)?;
        let resolves = link.up && link.mac.is_some() && !link.no_arp && !link.loopback;
        let known = self.neighbour(ifindex, ip).is_some_and(|n| n.usable_mac().is_some());
        (resolves && !known).then_some((ifindex, ip))
    }

    /// The address this host would use as source towards `destination`: the route's own preference, else what the
    /// kernel would choose. Never a VIP we manage: those are of scope host or deprecated. `None` when it cannot be
    /// known here (see [`super::route::ask_kernel`]) or there is no such address.
    pub fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        let Found::Via(route, hop) = self.find(destination) else { return None };
        if let Some(source) = route.source {
            return Some(source);
        }
        match destination {
            IpAddr::V4(_) => {
                let gateway = match hop.gateway {
                    Some(IpAddr::V4(ip)) => Some(ip),
                    _ => None,
                };
                addr::source4(&self.addresses, hop.ifindex, route.scope, gateway).map(IpAddr::V4)
            }
            IpAddr::V6(ip) => addr::source6(&self.addresses, hop.ifindex, ip).map(IpAddr::V6),
        }
    }

    fn view(&self, prefix: Prefix, routes: &[Route]) -> Option<RouteView> {
        // Any address of the prefix will do: whether a neighbour answers only matters where hops share the traffic,
        // and those are the kernel's.
        Some(match self.choose(prefix.address, routes) {
            Choice::None => return None,
            Choice::Found(Found::Via(route, hop)) if route.hops.len() == 1 && self.has_mac(hop.ifindex) => {
                match hop.gateway {
                    Some(gateway) => RouteView::Gateway { ifindex: hop.ifindex, gateway },
                    None => RouteView::OnLink { ifindex: hop.ifindex },
                }
            }
            _ => RouteView::AskKernel,
        })
    }

    fn has_mac(&self, ifindex: u32) -> bool {
        self.link(ifindex).is_some_and(|l| l.mac.is_some() && !l.loopback && !l.no_arp)
    }

    /// The routes to mirror into the packet path's tries, at most `limit` of each family. Local and multicast routes
    /// are left out: what matches none of these is the kernel's business anyway.
    pub fn routes_for_dataplane(&self, limit: usize) -> DataplaneRoutes {
        let mut out = DataplaneRoutes::default();
        for (family, any) in [(0, IpAddr::from([0; 4])), (1, IpAddr::from([0; 16]))] {
            let default = prefix(any, 0);
            let [_, main, last] = &self.tables[family];
            if self.policy_rules[family] {
                out.routes.push((default, RouteView::AskKernel));
                continue;
            }
            let mirrored = main.iter().filter(|(p, _)| !p.address.is_multicast());
            let mut views: Vec<_> = mirrored.filter_map(|(p, routes)| Some((p, self.view(p, routes)?))).collect();
            // Table default is asked only for what table main does not answer, so its longer prefixes must not win.
            if !last.is_empty() && views.first().is_none_or(|(p, _)| *p != default) {
                views.insert(0, (default, RouteView::AskKernel));
            }
            if views.len() > limit {
                out.over_limit[family] = Some(views.len());
                views = vec![(default, RouteView::AskKernel)];
            }
            out.routes.append(&mut views);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn net(text: &str) -> Prefix {
        let (ip, length) = text.split_once('/').expect("a prefix");
        prefix(ip.parse().expect("an address"), length.parse().expect("a length"))
    }

    fn via(ifindex: u32, gateway: &str, metric: u32) -> Route {
        Route::unicast(ifindex, Some(ip(gateway)), metric)
    }

    /// Two links; 10.0.`n`.0/24 and fd00:`n`::/64 on link `n`; default through 10.0.1.254 and fd00:1::fe.
    fn host() -> NetState {
        let mut state = NetState::default();
        for n in [1, 2] {
            state.insert_link(Link::ethernet(n, &format!("eth{n}"), OURS));
            state.insert_route(Table::Main, net(&format!("10.0.{n}.0/24")), Route::unicast(n, None, 0));
            state.insert_route(Table::Main, net(&format!("fd00:{n}::/64")), Route::unicast(n, None, 256));
            let own = net(&format!("10.0.{n}.1/32"));
            state.insert_route(Table::Local, own, Route::of_kind(RouteKind::Local));
        }
        state.insert_route(Table::Main, net("0.0.0.0/0"), via(1, "10.0.1.254", 0));
        state.insert_route(Table::Main, net("::/0"), via(1, "fd00:1::fe", 1024));
        state
    }

    fn gateway(ifindex: u32, gateway: &str) -> Resolution {
        Resolution::Gateway { ifindex, gateway: ip(gateway) }
    }

    #[test]
    fn the_longest_prefix_wins_then_the_metric_then_who_was_first() {
        let mut state = host();
        state.insert_route(Table::Main, net("192.0.2.0/24"), via(2, "10.0.2.9", 20));
        state.insert_route(Table::Main, net("192.0.2.0/24"), via(2, "10.0.2.8", 10));
        state.insert_route(Table::Main, net("192.0.2.0/24"), via(2, "10.0.2.7", 10));
        state.insert_route(Table::Main, net("192.0.2.77/32"), via(1, "10.0.1.7", 99));
        for (destination, expected) in [
            ("10.0.1.1", Resolution::Local),
            ("10.0.1.2", Resolution::OnLink { ifindex: 1 }),
            ("10.0.2.2", Resolution::OnLink { ifindex: 2 }),
            ("192.0.2.1", gateway(2, "10.0.2.8")),
            ("192.0.2.77", gateway(1, "10.0.1.7")),
            ("8.8.8.8", gateway(1, "10.0.1.254")),
            ("fd00:2::9", Resolution::OnLink { ifindex: 2 }),
            ("2a00::1", gateway(1, "fd00:1::fe")),
            ("224.0.0.5", Resolution::AskKernel),
            ("255.255.255.255", Resolution::AskKernel),
            ("ff02::1", Resolution::AskKernel),
        ] {
            assert_eq!(state.resolve(ip(destination)), expected, "{destination}");
        }
    }

    #[test]
    fn the_default_route_is_that_of_ipv4_before_ipv6_and_its_link_is_up() {
        let named = |state: &NetState| state.default_route().map(|link| link.name.clone());
        let mut state = host();
        assert_eq!(named(&state).as_deref(), Some("eth1"));
        state.insert_route(Table::Main, net("0.0.0.0/0"), via(2, "10.0.2.254", 100));
        assert_eq!(named(&state).as_deref(), Some("eth1"), "its metric is better");
        state.insert_link(Link { up: false, ..Link::ethernet(1, "eth1", OURS) });
        assert_eq!(named(&state).as_deref(), Some("eth2"), "the other's link is down");
        let mut state = NetState::default();
        state.insert_link(Link::ethernet(3, "eth3", OURS));
        state.insert_route(Table::Main, net("10.0.0.0/8"), via(3, "10.0.3.254", 0));
        state.insert_route(Table::Main, net("0.0.0.0/1"), via(3, "10.0.3.254", 0));
        assert_eq!(named(&state), None, "no default route");
        state.insert_route(Table::Main, net("::/0"), via(3, "fd00:3::fe", 1024));
        assert_eq!(named(&state).as_deref(), Some("eth3"));
    }

    #[test]
    fn refusing_routes_refuse_and_dead_ones_are_passed_over() {
        let mut state = host();
        state.insert_route(Table::Main, net("192.0.2.0/24"), Route::of_kind(RouteKind::Unreachable));
        state.insert_route(Table::Main, net("198.51.100.0/24"), Route::of_kind(RouteKind::Throw));
        let mut dead = via(2, "10.0.2.9", 1);
        dead.hops[0].dead = true;
        state.insert_route(Table::Main, net("203.0.113.0/24"), dead);
        state.insert_route(Table::Main, net("203.0.113.0/25"), via(9, "10.9.9.9", 1));
        assert_eq!(state.resolve(ip("192.0.2.1")), Resolution::Unreachable);
        assert_eq!(
            state.resolve(ip("198.51.100.1")),
            Resolution::Unreachable,
            "thrown out of main, and no table is left"
        );
        assert_eq!(state.resolve(ip("203.0.113.1")), gateway(1, "10.0.1.254"), "down to the default");
        state.insert_route(Table::Default, net("0.0.0.0/0"), via(2, "10.0.2.254", 0));
        assert_eq!(state.resolve(ip("198.51.100.1")), gateway(2, "10.0.2.254"));
        state.insert_link(Link { up: false, ..Link::ethernet(1, "eth1", OURS) });
        assert_eq!(state.resolve(ip("8.8.8.8")), gateway(2, "10.0.2.254"), "the first default's link is down");
    }

    #[test]
    fn equal_ipv6_routes_and_policy_rules_are_the_kernels_business() {
        let mut state = host();
        state.insert_route(Table::Main, net("::/0"), via(2, "fd00:2::fe", 1024));
        assert_eq!(state.resolve(ip("2a00::1")), Resolution::AskKernel, "the kernel prefers the router that answers");
        state.insert_link(Link { up: false, ..Link::ethernet(2, "eth2", OURS) });
        assert_eq!(state.resolve(ip("2a00::1")), gateway(1, "fd00:1::fe"), "one of them is down");
        state.set_policy_rules(true, false);
        assert_eq!(state.resolve(ip("10.0.1.1")), Resolution::AskKernel);
        assert_eq!(state.resolve(ip("2a00::1")), gateway(1, "fd00:1::fe"));
        let routes = state.routes_for_dataplane(100).routes;
        let v4: Vec<_> = routes.iter().filter(|(p, _)| p.address.is_ipv4()).collect();
        assert_eq!(v4, [&(net("0.0.0.0/0"), RouteView::AskKernel)]);
    }

    #[test]
    fn of_several_next_hops_one_that_answers_is_taken() {
        let mut state = host();
        let mut shared = via(1, "10.0.1.7", 0);
        for (ifindex, gateway) in [(1, "10.0.1.8"), (2, "10.0.2.8")] {
            shared.hops.push(Hop { ifindex, gateway: Some(ip(gateway)), dead: false });
        }
        state.insert_route(Table::Main, net("192.0.2.0/24"), shared);
        assert_eq!(state.resolve(ip("192.0.2.1")), gateway(1, "10.0.1.7"));
        state.insert_neighbour(1, ip("10.0.1.7"), Neighbour::failed());
        assert_eq!(state.resolve(ip("192.0.2.1")), gateway(1, "10.0.1.8"));
        state.insert_link(Link { up: false, ..Link::ethernet(1, "eth1", OURS) });
        assert_eq!(state.resolve(ip("192.0.2.1")), gateway(2, "10.0.2.8"));
        let routes = state.routes_for_dataplane(100).routes;
        assert!(routes.contains(&(net("192.0.2.0/24"), RouteView::AskKernel)), "replies spread over all of them");
    }

    #[test]
    fn a_next_hop_needs_a_usable_mac_and_says_whose_is_missing() {
        let mut state = host();
        let destination = ip("8.8.8.8");
        let router = ip("10.0.1.254");
        assert_eq!(state.next_hop(destination), None);
        assert_eq!(state.missing_neighbour(destination), Some((1, router)));
        state.insert_neighbour(1, router, Neighbour::failed());
        assert_eq!(state.missing_neighbour(destination), Some((1, router)));
        state.insert_neighbour(1, router, Neighbour::reachable(THEIRS));
        let next_hop =
            NextHop { destination_mac: THEIRS, source_mac: OURS, mtu: 1500, ifindex: 1, ..NextHop::default() };
        assert_eq!(state.next_hop(destination), Some(next_hop));
        assert_eq!(state.missing_neighbour(destination), None);
        // The route's own MTU counts where it is smaller.
        for (mtu, expected) in [(1280, 1280), (9000, 1500)] {
            let mut route = via(1, "10.0.1.254", 0);
            route.mtu = Some(mtu);
            state.insert_route(Table::Main, prefix(ip("8.8.4.0"), if mtu == 1280 { 24 } else { 25 }), route);
            assert_eq!(state.next_hop(ip("8.8.4.4")).map(|n| n.mtu), Some(expected));
        }
        // Neither of these is missing anything ARP could find.
        for destination in ["10.0.1.1", "224.0.0.1"] {
            assert_eq!(state.missing_neighbour(ip(destination)), None, "{destination}");
            assert_eq!(state.next_hop(ip(destination)), None, "{destination}");
        }
        state.insert_link(Link { mac: None, no_arp: true, ..Link::ethernet(3, "tun0", OURS) });
        state.insert_route(Table::Main, net("192.0.2.0/24"), Route::unicast(3, None, 0));
        assert_eq!(state.resolve(ip("192.0.2.1")), Resolution::OnLink { ifindex: 3 });
        assert_eq!(state.missing_neighbour(ip("192.0.2.1")), None);
        assert_eq!(state.next_hop(ip("192.0.2.1")), None);
        assert!(state.routes_for_dataplane(100).routes.contains(&(net("192.0.2.0/24"), RouteView::AskKernel)));
    }

    #[test]
    fn mirrored_routes_are_the_effective_ones() {
        let mut state = host();
        let on = |ifindex| Some(RouteView::OnLink { ifindex });
        let by = |ifindex, gateway| Some(RouteView::Gateway { ifindex, gateway: ip(gateway) });
        state.insert_route(Table::Main, net("10.0.2.0/24"), via(1, "10.0.1.5", 7));
        state.insert_route(Table::Main, net("192.0.2.0/24"), Route::of_kind(RouteKind::Unreachable));
        state.insert_route(Table::Main, net("203.0.113.0/24"), via(9, "10.9.9.9", 1));
        state.insert_route(Table::Main, net("224.0.0.0/4"), Route::unicast(1, None, 0));
        for (prefix, expected) in [
            ("0.0.0.0/0", by(1, "10.0.1.254")),
            ("10.0.1.0/24", on(1)),
            ("10.0.2.0/24", on(2)),
            // A hole must stay a hole.
            ("192.0.2.0/24", Some(RouteView::AskKernel)),
            // Its link is gone: the next shorter prefix speaks.
            ("203.0.113.0/24", None),
            ("224.0.0.0/4", None),
            ("10.0.1.1/32", None),
            ("fd00:1::/64", on(1)),
            ("::/0", by(1, "fd00:1::fe")),
        ] {
            let routes = state.routes_for_dataplane(100).routes;
            let found: Vec<_> = routes.iter().filter(|(p, _)| *p == net(prefix)).map(|(_, v)| *v).collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{prefix}");
        }
        state.insert_link(Link { up: false, ..Link::ethernet(2, "eth2", OURS) });
        let routes = state.routes_for_dataplane(100).routes;
        let second = routes.iter().find(|(p, _)| *p == net("10.0.2.0/24")).map(|(_, v)| *v);
        assert_eq!(second, by(1, "10.0.1.5"), "the second best when the best is down");
    }

    #[test]
    fn too_many_routes_are_left_to_the_kernel_and_that_is_said() {
        let mut state = host();
        for n in 0..10 {
            state.insert_route(Table::Main, net(&format!("198.18.{n}.0/24")), via(1, "10.0.1.9", 0));
        }
        let all = state.routes_for_dataplane(13);
        assert_eq!(all.over_limit, [None, None]);
        assert_eq!(all.routes.len(), 13 + 3);
        let limited = state.routes_for_dataplane(12);
        assert_eq!(limited.over_limit, [Some(13), None]);
        assert_eq!(limited.routes[0], (net("0.0.0.0/0"), RouteView::AskKernel));
        assert_eq!(limited.routes.len(), 1 + 3, "the other family is not affected");
    }

    #[test]
    fn table_default_never_wins_over_table_main() {
        let mut state = NetState::default();
        state.insert_link(Link::ethernet(1, "eth1", OURS));
        state.insert_route(Table::Main, net("10.0.0.0/8"), Route::unicast(1, None, 0));
        state.insert_route(Table::Default, net("10.0.1.0/24"), via(1, "10.0.0.9", 0));
        assert_eq!(state.resolve(ip("10.0.1.1")), Resolution::OnLink { ifindex: 1 });
        let expected =
            [(net("0.0.0.0/0"), RouteView::AskKernel), (net("10.0.0.0/8"), RouteView::OnLink { ifindex: 1 })];
        assert_eq!(state.routes_for_dataplane(10).routes, expected);
    }
}
