//! VLAN tags (IEEE 802.1Q, 802.1ad): a packet's tags are not its next hop's.

use lb_common::counters::DropReason;

use super::super::world::*;
use super::super::{Case, case};
use super::{from_router, outer4, to_dc, to_lan};
use crate::packet::{Ethernet, ethernet, icmp, ipv4, ipv6, raw, tcp, udp};

pub fn cases() -> Vec<Case> {
    [incoming(), outgoing(), passing()].concat()
}

fn one() -> Ethernet {
    from_router().vlan(7)
}

fn two() -> Ethernet {
    from_router().service_vlan(3).vlan(7)
}

/// Frames that come with tags and leave without.
fn incoming() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, link) in [
        ("one VLAN tag", one()),
        ("a service tag alone", from_router().service_vlan(7)),
        ("two VLAN tags", two()),
        ("two customer tags", from_router().vlan(3).vlan(4095)),
    ] {
        cases.extend([
            case(format!("NAT, a TCP packet with {name}"))
                .enters(LAN, link.clone() / ipv4(CLIENT4, VIP4) / tcp(40_000, 443) / "hello")
                .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / tcp(40_000, 443) / "hello")
                .forwarded(WEB.id, B1),
            case(format!("NAT, an IPv6 UDP packet with {name}"))
                .enters(LAN, link.clone() / ipv6(CLIENT6, VIP6) / udp(40_000, 53) / "query")
                .leaves(DC, to_dc(B1_MAC) / ipv6(CLIENT6, backend6(B1)).hop_limit(63) / udp(40_000, 53) / "query")
                .forwarded(DNS.id + ID6, B1 + V6),
            case(format!("4in4, a packet with {name}"))
                .enters(LAN, link.clone() / ipv4(CLIENT4, VIP4) / tcp(40_000, 444) / "hello")
                .leaves(DC, to_dc(B1_MAC) / outer4(T1, 0) / ipv4(CLIENT4, VIP4).ttl(63) / tcp(40_000, 444) / "hello")
                .forwarded(TUNNEL.id, T1),
            case(format!("a reply with {name} is translated back"))
                .enters(
                    DC,
                    Ethernet { source: B1_MAC, destination: DC_MAC, ..link.clone() }
                        / ipv4(backend4(B1), CLIENT4)
                        / tcp(443, 40_000),
                )
                .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63) / tcp(443, 40_000))
                .replied(WEB.id, B1),
            case(format!("a packet with {name} that ends too early is truncated"))
                .enters(LAN, link / ipv4(CLIENT4, VIP4).total_length(60) / tcp(40_000, 443))
                .dropped(WEB.id, DropReason::Truncated),
        ]);
    }
    cases.push(
        case("padding behind a tagged packet stays padding")
            .enters(LAN, (one() / ipv4(CLIENT4, VIP4) / udp(40_000, 53) / "q").padded(64, 0xee))
            .leaves(DC, (to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / udp(40_000, 53) / "q").padded(60, 0xee))
            .forwarded(DNS.id, B1),
    );
    cases.push(
        case("a tag makes room for itself where the driver left none")
            .enters(LAN, two() / ipv4(CLIENT4, VIP4) / tcp(40_000, 443))
            .behind_metadata(216)
            .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / tcp(40_000, 443))
            .forwarded(WEB.id, B1),
    );
    cases
}

/// Frames to next hops in VLANs.
fn outgoing() -> Vec<Case> {
    let inside = || to_dc(B1_MAC).vlan(OUTER_VLAN);
    let inside_both = || to_dc(B1_MAC).service_vlan(OUTER_VLAN).vlan(INNER_VLAN);
    let mut cases = Vec::new();
    for (name, link) in [("no tag", from_router()), ("another tag", one()), ("two other tags", two())] {
        cases.extend([
            case(format!("NAT, from {name} into a VLAN"))
                .enters(LAN, link.clone() / ipv4(CLIENT4, VIP4) / tcp(40_000, 9040) / "hello")
                .leaves(DC, inside() / ipv4(CLIENT4, backend4(IN_VLAN)).ttl(63) / tcp(40_000, 9040) / "hello")
                .forwarded(TRUNK.id, IN_VLAN),
            case(format!("NAT over IPv6, from {name} into a VLAN"))
                .enters(LAN, link.clone() / ipv6(CLIENT6, VIP6) / tcp(40_000, 9040) / "hello")
                .leaves(DC, inside() / ipv6(CLIENT6, backend6(IN_VLAN)).hop_limit(63) / tcp(40_000, 9040) / "hello")
                .forwarded(TRUNK.id + ID6, IN_VLAN + V6),
            case(format!("4in4, from {name} into a VLAN in a VLAN"))
                .enters(LAN, link / ipv4(CLIENT4, VIP4) / tcp(40_000, 9041) / "hello")
                .leaves(
                    DC,
                    inside_both() / outer4(IN_TWO, 0) / ipv4(CLIENT4, VIP4).ttl(63) / tcp(40_000, 9041) / "hello",
                )
                .forwarded(TRUNK_TUNNEL.id, IN_TWO),
        ]);
    }
    cases.extend([
        case("a driver without room for a tag is no_headroom")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 9040))
            .behind_metadata(216)
            .dropped(TRUNK.id, DropReason::NoHeadroom),
        case("a driver with room for an outer header and not for its tags is no_headroom")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 9041))
            .behind_metadata(192)
            .dropped(TRUNK_TUNNEL.id, DropReason::NoHeadroom),
    ]);
    cases
}

/// What is for no service leaves with its tags, byte for byte.
fn passing() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, link) in [("one VLAN tag", one()), ("two VLAN tags", two()), ("three VLAN tags", two().vlan(9))] {
        cases.extend([
            case(format!("SSH with {name} is the host's"))
                .enters(LAN, link.clone() / ipv4(CLIENT4, VIP4) / tcp(40_000, 22).syn()),
            case(format!("SSH over IPv6 with {name} is the host's"))
                .enters(LAN, link.clone() / ipv6(CLIENT6, VIP6) / tcp(40_000, 22).syn()),
            case(format!("ARP with {name} is the host's"))
                .enters(LAN, link.clone() / crate::packet::arp(ROUTER_MAC, SELF_LAN4, VIP4)),
            case(format!("IPv4 with {name} and metadata in front is the host's"))
                .enters(LAN, link.clone() / ipv4(CLIENT4, VIP4) / tcp(40_000, 22))
                .behind_metadata(32),
            case(format!("GRE with {name} is the host's"))
                .enters(LAN, link.clone() / ipv4(CLIENT4, VIP4).protocol(47) / raw([7; 40])),
            case(format!("a frame that ends behind {name} is the host's"))
                .enters_as_bytes(LAN, crate::packet::Packet::from(link.ethertype(0x0800)).bytes()),
        ]);
    }
    cases.push(
        case("a service's packet behind three tags is the host's")
            .enters(LAN, two().vlan(9) / ipv4(CLIENT4, VIP4) / tcp(40_000, 443)),
    );
    cases.push(
        case("an echo request in a VLAN is answered into it")
            .enters(LAN, two() / ipv4(CLIENT4, VIP4) / icmp(8, 0).rest([0, 1, 0, 2]) / "ping")
            .leaves(LAN, {
                let back = ethernet(LAN_MAC, ROUTER_MAC).service_vlan(3).vlan(7);
                back / ipv4(VIP4, CLIENT4) / icmp(0, 0).rest([0, 1, 0, 2]) / "ping"
            })
            .answered()
            .counting(WEB.id, "flows echoes"),
    );
    cases
}
