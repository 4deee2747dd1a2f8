//! Services that listen on more than single endpoints, and who gets what several of them could.
//!
//! Of the two links in the golden world none has anything to do with where they listen, so what no service has passes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::addr::{PROTO_TCP, PROTO_UDP};
use lb_common::counters::DropReason;
use lb_common::service::{FORWARD_DSR_L2, FORWARD_NAT};

use super::super::world::*;
use super::super::{Case, case};
use super::{from_router, to_dc, to_lan};
use crate::packet::{Packet, ethernet, icmp, icmpv6, ipv4, ipv6, tcp, udp};

/// A service of the golden world, of both families.
#[derive(Clone, Copy, Debug)]
pub struct Wide {
    pub id: u32,
    pub address4: Ipv4Addr,
    pub length4: u8,
    pub address6: Ipv6Addr,
    pub length6: u8,
    pub first: u16,
    pub last: u16,
    pub protocols: &'static [u8],
    pub forward: u8,
    pub backend: u16,
}

const fn net4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 5, host)
}

const fn net6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xf0f, 0, 0, 0, 0, host)
}

/// Where several listen.
const VIP: u8 = 20;
const BOTH: &[u8] = &[PROTO_TCP, PROTO_UDP];

/// One port in the middle of [`RANGE`].
pub const EXACT: Wide = Wide { id: 45, first: 8050, last: 8050, forward: FORWARD_DSR_L2, backend: ARM, ..RANGE };
/// 8000 to 8100 of one address, by NAT.
pub const RANGE: Wide = Wide {
    id: 44,
    address4: net4(VIP),
    length4: 32,
    address6: net6(VIP as u16),
    length6: 128,
    first: 8000,
    last: 8100,
    protocols: BOTH,
    forward: FORWARD_NAT,
    backend: B1,
};
/// Any port of the same address, TCP only.
const ANY: Wide =
    Wide { id: 46, first: 0, last: u16::MAX, protocols: &[PROTO_TCP], forward: FORWARD_DSR_L2, backend: B2, ..RANGE };
/// One port of eight addresses around it.
const FEW: Wide =
    Wide { id: 47, address4: net4(16), length4: 29, address6: net6(16), length6: 125, first: 443, last: 443, ..NET };
/// Hundred ports of all addresses around it.
const NET: Wide = Wide {
    id: 48,
    address4: net4(0),
    length4: 24,
    address6: net6(0),
    length6: 112,
    first: 400,
    last: 499,
    protocols: BOTH,
    forward: FORWARD_DSR_L2,
    backend: B2,
};
/// A range in the range of [`NET`].
const NARROW_RANGE: Wide = Wide { id: 49, first: 450, last: 460, backend: B1, ..NET };

/// All but [`EXACT`], which is found as any other endpoint.
pub const WIDE: [Wide; 5] = [RANGE, ANY, FEW, NET, NARROW_RANGE];

/// Who gets a packet.
#[derive(Clone, Copy)]
enum To {
    Service(Wide),
    Host,
}

use To::{Host, Service};

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (protocol, name) in [(PROTO_TCP, "TCP"), (PROTO_UDP, "UDP")] {
        let any = if protocol == PROTO_TCP { Service(ANY) } else { Host };
        let rest = if protocol == PROTO_TCP { Service(ANY) } else { Service(FEW) };
        for (what, host, port, to) in [
            ("the first port of a range", VIP, 8000, Service(RANGE)),
            ("a port in the middle of a range", VIP, 8064, Service(RANGE)),
            ("the last port of a range", VIP, 8100, Service(RANGE)),
            ("an endpoint in the middle of a range that another service has", VIP, 8050, Service(EXACT)),
            ("the port before a range", VIP, 7999, any),
            ("the port behind a range", VIP, 8101, any),
            ("the lowest port", VIP, 1, any),
            ("the highest port", VIP, 65_535, any),
            ("a port that one address and a prefix have", VIP, 443, rest),
            ("a prefix's first address", 16, 443, Service(FEW)),
            ("a prefix's last address", 23, 443, Service(FEW)),
            ("the address before a prefix that is in another one", 15, 443, Service(NET)),
            ("the address behind a prefix that is in another one", 24, 443, Service(NET)),
            ("a port that only the outer one of two prefixes has", 16, 444, Service(NET)),
            ("the first port of an outer prefix", 21, 400, Service(NET)),
            ("the last port of an outer prefix", 21, 499, Service(NET)),
            ("the first port of a range in a range", 21, 450, Service(NARROW_RANGE)),
            ("the last port of a range in a range", 200, 460, Service(NARROW_RANGE)),
            ("the port before a range in a range", 200, 449, Service(NET)),
            ("the port behind a range in a range", 200, 461, Service(NET)),
            ("the first address of a network", 0, 400, Service(NET)),
            ("the last address of a network", 255, 499, Service(NET)),
            ("a network's address at the port before its range", 0, 399, Host),
            ("a network's address at the port behind its range", 255, 500, Host),
        ] {
            let gets = match to {
                Service(_) => "is its service's",
                Host => "that nobody has is the host's",
            };
            cases.push(to4(&format!("IPv4: {name} to {what} {gets}"), protocol, net4(host), port, to));
            cases.push(to6(
                &format!("IPv6: {name} to {what} {gets}"),
                protocol,
                net6(if host == 255 { 0xffff } else { host.into() }),
                port,
                to,
            ));
        }
        let (below4, above4) = (Ipv4Addr::new(198, 18, 4, 255), Ipv4Addr::new(198, 18, 6, 0));
        let (below6, above6) = (
            Ipv6Addr::new(0x2001, 0xdb8, 0xf0e, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff),
            Ipv6Addr::new(0x2001, 0xdb8, 0xf0f, 0, 0, 0, 1, 0),
        );
        for (what, v4, v6) in [("before", below4, below6), ("behind", above4, above6)] {
            let sentence = format!("{name} to the address {what} a network is the host's");
            cases.push(to4(&format!("IPv4: {sentence}"), protocol, v4, 443, Host));
            cases.push(to6(&format!("IPv6: {sentence}"), protocol, v6, 443, Host));
        }
    }
    [cases, replies(), odd()].concat()
}

fn segment(protocol: u8, from: u16, to: u16) -> Packet {
    if protocol == PROTO_TCP { tcp(from, to).into() } else { udp(from, to).into() }
}

/// A client's packet over IPv4, and what becomes of it.
fn to4(name: &str, protocol: u8, address: Ipv4Addr, port: u16, to: To) -> Case {
    let sent = segment(protocol, 40_000, port);
    let enters = case(name).enters(LAN, from_router() / ipv4(CLIENT4, address) / sent.clone());
    let Service(wide) = to else { return enters };
    let link = if wide.backend == ARM { to_lan(ARM_MAC) } else { to_dc(mac(wide.backend)) };
    let interface = if wide.backend == ARM { LAN } else { DC };
    let destination = if wide.forward == FORWARD_NAT { backend4(wide.backend) } else { address };
    enters.leaves(interface, link / ipv4(CLIENT4, destination).ttl(63) / sent).forwarded(wide.id, wide.backend)
}

/// As [`to4`].
fn to6(name: &str, protocol: u8, address: Ipv6Addr, port: u16, to: To) -> Case {
    let sent = segment(protocol, 40_000, port);
    let enters = case(name).enters(LAN, from_router() / ipv6(CLIENT6, address) / sent.clone());
    let Service(wide) = to else { return enters };
    let link = if wide.backend == ARM { to_lan(ARM_MAC) } else { to_dc(mac(wide.backend)) };
    let interface = if wide.backend == ARM { LAN } else { DC };
    let destination = if wide.forward == FORWARD_NAT { backend6(wide.backend) } else { address };
    enters
        .leaves(interface, link / ipv6(CLIENT6, destination).hop_limit(63) / sent)
        .forwarded(wide.id + ID6, wide.backend + V6)
}

fn mac(backend: u16) -> crate::packet::Mac {
    if backend == B1 { B1_MAC } else { B2_MAC }
}

/// From a backend that gets the ports of a range by NAT, and has a service of a single port besides.
fn replies() -> Vec<Case> {
    let mut cases = Vec::new();
    for (protocol, name) in [(PROTO_TCP, "TCP"), (PROTO_UDP, "UDP")] {
        for (what, port, is_reply) in [
            ("the first port of a range", 8000, true),
            ("the last port of a range", 8100, true),
            ("the port before a range", 7999, false),
            ("the port behind a range", 8101, false),
            ("a port of the range that is another service's", 8050, false),
        ] {
            let sent = segment(protocol, port, 40_000);
            let (v4, v6) = ((backend4(B1), CLIENT4), (backend6(B1), CLIENT6));
            let becomes = if is_reply { "is a reply, and comes from the VIP" } else { "is no reply" };
            let from4 = case(format!("IPv4: {name} from {what} {becomes}"))
                .enters(DC, ethernet(B1_MAC, DC_MAC) / ipv4(v4.0, v4.1) / sent.clone());
            let from6 = case(format!("IPv6: {name} from {what} {becomes}"))
                .enters(DC, ethernet(B1_MAC, DC_MAC) / ipv6(v6.0, v6.1) / sent.clone());
            if is_reply {
                let (out4, out6) = (ipv4(net4(VIP), v4.1).ttl(63), ipv6(net6(VIP.into()), v6.1).hop_limit(63));
                cases.push(from4.leaves(LAN, to_lan(ROUTER_MAC) / out4 / sent.clone()).replied(RANGE.id, B1));
                cases.push(from6.leaves(LAN, to_lan(ROUTER_MAC) / out6 / sent).replied(RANGE.id + ID6, B1 + V6));
            } else {
                cases.extend([from4, from6]);
            }
        }
    }
    cases.push(
        case("IPv4: a reply of a single port stays one beside a range")
            .enters(DC, ethernet(B1_MAC, DC_MAC) / ipv4(backend4(B1), CLIENT4) / tcp(443, 40_000))
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63) / tcp(443, 40_000))
            .replied(WEB.id, B1),
    );
    cases.push(
        case("IPv4: what a backend of a range sends to the node itself is the host's")
            .enters(DC, ethernet(B1_MAC, DC_MAC) / ipv4(backend4(B1), SELF_DC4) / tcp(8000, 40_000)),
    );
    cases
}

fn odd() -> Vec<Case> {
    vec![
        case("IPv4: a packet to a prefix that would arrive with a TTL of 0 is dropped on behalf of its service")
            .enters(LAN, from_router() / ipv4(CLIENT4, net4(17)).ttl(1) / tcp(40_000, 443))
            .dropped(FEW.id, DropReason::TtlExceeded),
        case("IPv6: a packet to a prefix that would arrive with a hop limit of 0 is dropped on behalf of its service")
            .enters(LAN, from_router() / ipv6(CLIENT6, net6(17)).hop_limit(1) / udp(40_000, 443))
            .dropped(FEW.id + ID6, DropReason::TtlExceeded),
        case("an ICMP echo request to an address of which any port is a service's is the host's")
            .enters(LAN, from_router() / ipv4(CLIENT4, net4(VIP)) / icmp(8, 0).rest([0, 1, 0, 2]) / "ping"),
        case("an ICMPv6 echo request to an address of which any port is a service's is the host's")
            .enters(LAN, from_router() / ipv6(CLIENT6, net6(VIP.into())) / icmpv6(128, 0).rest([0, 1, 0, 2]) / "ping"),
    ]
}

impl Wide {
    pub const fn prefix4(&self) -> (IpAddr, u8) {
        (IpAddr::V4(self.address4), self.length4)
    }

    pub const fn prefix6(&self) -> (IpAddr, u8) {
        (IpAddr::V6(self.address6), self.length6)
    }
}
