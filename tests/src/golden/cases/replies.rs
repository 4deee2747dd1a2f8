//! Replies of NAT backends: the source becomes the VIP again, and each goes to its client by the client's own
//! route — on-link, by a gateway, by a more specific one. Packets for the node itself are nobody's reply.

use super::super::world::*;
use super::super::{Case, case};
use super::to_lan;
use crate::packet::{Ethernet, Packet, ethernet, ipv4, ipv6, tcp, udp};

fn from_b1() -> Ethernet {
    ethernet(B1_MAC, DC_MAC)
}

fn from_b2() -> Ethernet {
    ethernet(B2_MAC, DC_MAC)
}

pub fn cases() -> Vec<Case> {
    [translated(), routed(), for_the_node()].concat()
}

fn translated() -> Vec<Case> {
    vec![
        case("a reply, TCP over IPv4, leaves as the VIP")
            .enters(DC, from_b1() / ipv4(backend4(B1), CLIENT4) / tcp(443, 40_000) / "200 OK")
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63) / tcp(443, 40_000) / "200 OK")
            .replied(WEB.id, B1),
        case("a reply, UDP over IPv4, leaves as the VIP")
            .enters(DC, from_b1() / ipv4(backend4(B1), CLIENT4) / udp(53, 40_000) / "answer")
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63) / udp(53, 40_000) / "answer")
            .replied(DNS.id, B1),
        case("a reply, TCP over IPv6, leaves as the VIP")
            .enters(DC, from_b1() / ipv6(backend6(B1), CLIENT6) / tcp(443, 40_000) / "200 OK")
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv6(VIP6, CLIENT6).hop_limit(63) / tcp(443, 40_000) / "200 OK")
            .replied(WEB.id + ID6, B1 + V6),
        case("a reply, UDP over IPv6, leaves as the VIP")
            .enters(DC, from_b1() / ipv6(backend6(B1), CLIENT6) / udp(53, 40_000) / "answer")
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv6(VIP6, CLIENT6).hop_limit(63) / udp(53, 40_000) / "answer")
            .replied(DNS.id + ID6, B1 + V6),
        case("a reply, TCP over IPv4, gets the port the client asked for back")
            .enters(DC, from_b2() / ipv4(backend4(B2), CLIENT4) / tcp(8080, 40_000) / "200 OK")
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63) / tcp(80, 40_000) / "200 OK")
            .replied(SITE.id, B2),
        case("a reply, UDP over IPv6, gets the port the client asked for back")
            .enters(DC, from_b2() / ipv6(backend6(B3), CLIENT6) / udp(53, 40_000) / "answer")
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv6(VIP6, CLIENT6).hop_limit(63) / udp(5353, 40_000) / "answer")
            .replied(MDNS.id + ID6, B3 + V6),
        case("a reply of a one-armed backend leaves by XDP_TX")
            .enters(LAN, ethernet(ARM_MAC, LAN_MAC) / ipv4(backend4(ARM), CLIENT4) / tcp(8443, 40_000) / "200 OK")
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63) / tcp(8443, 40_000) / "200 OK")
            .replied(ARMED.id, ARM),
        case("a reply of a one-armed IPv6 backend leaves by XDP_TX")
            .enters(LAN, ethernet(ARM_MAC, LAN_MAC) / ipv6(backend6(ARM), CLIENT6) / udp(8443, 40_000) / "answer")
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv6(VIP6, CLIENT6).hop_limit(63) / udp(8443, 40_000) / "answer")
            .replied(ARMED_UDP.id + ID6, ARM + V6),
        case("a backend's SYN+ACK is a reply and no SYN")
            .enters(DC, from_b1() / ipv4(backend4(B1), CLIENT4).dont_fragment() / tcp(443, 40_000).flags(0x12))
            .leaves(
                LAN,
                to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63).dont_fragment() / tcp(443, 40_000).flags(0x12),
            )
            .replied(WEB.id, B1),
        case("a reply with IPv4 options keeps them")
            .enters(DC, from_b2() / ipv4(backend4(B2), CLIENT4).options(&[0x94, 4, 0, 0]) / tcp(8080, 40_000))
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63).options(&[0x94, 4, 0, 0]) / tcp(80, 40_000))
            .replied(SITE.id, B2),
        case("a reply's UDP checksum of zero stays zero")
            .enters(DC, from_b1() / ipv4(backend4(B1), CLIENT4) / udp(53, 40_000).checksum(0) / "answer")
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63) / udp(53, 40_000).checksum(0) / "answer")
            .replied(DNS.id, B1),
    ]
}

fn routed() -> Vec<Case> {
    vec![
        case("a reply to a client on the link goes straight to its MAC")
            .enters(DC, from_b1() / ipv4(backend4(B1), NEAR_CLIENT4) / tcp(443, 40_000))
            .leaves(LAN, to_lan(NEAR_CLIENT_MAC) / ipv4(VIP4, NEAR_CLIENT4).ttl(63) / tcp(443, 40_000))
            .replied(WEB.id, B1),
        case("a reply to an IPv6 client on the link goes straight to its MAC")
            .enters(DC, from_b1() / ipv6(backend6(B1), NEAR_CLIENT6) / tcp(443, 40_000))
            .leaves(LAN, to_lan(NEAR_CLIENT_MAC) / ipv6(VIP6, NEAR_CLIENT6).hop_limit(63) / tcp(443, 40_000))
            .replied(WEB.id + ID6, B1 + V6),
        case("a reply takes the most specific route to its client")
            .enters(DC, from_b1() / ipv4(backend4(B1), SPECIFIC_CLIENT4) / tcp(443, 40_000))
            .leaves(LAN, to_lan(ROUTER2_MAC) / ipv4(VIP4, SPECIFIC_CLIENT4).ttl(63) / tcp(443, 40_000))
            .replied(WEB.id, B1),
        case("a reply takes the most specific IPv6 route to its client")
            .enters(DC, from_b1() / ipv6(backend6(B1), SPECIFIC_CLIENT6) / tcp(443, 40_000))
            .leaves(LAN, to_lan(ROUTER2_MAC) / ipv6(VIP6, SPECIFIC_CLIENT6).hop_limit(63) / tcp(443, 40_000))
            .replied(WEB.id + ID6, B1 + V6),
    ]
}

fn for_the_node() -> Vec<Case> {
    let passes = |name: &str, packet: Packet| case(name).enters(DC, packet);
    vec![
        passes(
            "the answer to a health check over IPv4 is the node's own",
            from_b1() / ipv4(backend4(B1), SELF_DC4) / tcp(443, 51_000).flags(0x12),
        ),
        passes(
            "the answer to a health check over IPv6 is the node's own",
            from_b1() / ipv6(backend6(B1), SELF_DC6) / tcp(443, 51_000).flags(0x12),
        ),
        passes(
            "the answer to a UDP health check is the node's own",
            from_b1() / ipv4(backend4(B1), SELF_LAN4) / udp(53, 51_000) / "answer",
        ),
        passes(
            "the answer to a health check on the backend's own port is the node's own",
            from_b2() / ipv4(backend4(B2), SELF_DC4) / tcp(8080, 51_000) / "200 OK",
        ),
        passes(
            "a backend's packet to a VIP on a port without service is the node's own",
            from_b1() / ipv4(backend4(B1), VIP4) / tcp(443, 51_000),
        ),
        passes(
            "a backend's packet from a port that serves nothing is not a reply",
            from_b1() / ipv4(backend4(B1), CLIENT4) / tcp(22, 40_000),
        ),
        passes(
            "a backend's packet of the other protocol is not a reply",
            from_b1() / ipv4(backend4(B1), CLIENT4) / udp(443, 40_000),
        ),
        passes(
            "a backend's IPv6 packet of the other protocol is not a reply",
            from_b1() / ipv6(backend6(B1), CLIENT6) / udp(443, 40_000),
        ),
        passes(
            "a tunnel's backend answers its clients itself: its packets are none of ours",
            from_b1() / ipv4(backend4(T1), CLIENT4) / tcp(444, 40_000),
        ),
    ]
}
