//! Traffic that is not for a service: whatever it is, the host gets it byte for byte as it came.

use super::super::world::*;
use super::super::{Case, case};
use super::from_router;
use crate::packet::{Mac, Packet, arp, ethernet, icmpv6, ipv4, ipv6, raw, tcp, udp};

/// Bytes that would be ports 40000 → 443 if anybody took them for TCP.
const LIKE_PORTS: [u8; 8] = [0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1];

pub fn cases() -> Vec<Case> {
    [link(), icmp_and_others(), elsewhere(), hidden(), odd()].concat()
}

/// A frame from the router that the host must get untouched.
fn passes(name: &str, packet: impl Into<Packet>) -> Case {
    case(name).enters(LAN, packet)
}

/// Below IP.
fn link() -> Vec<Case> {
    let lldp = [0x02, 0x07, 0x04, 2, 0, 0, 0, 0, 9, 0x04, 0x05, 0x05, b'e', b't', b'h', b'0', 0x06, 0x02, 0, 120, 0, 0];
    vec![
        passes(
            "an ARP request for the VIP is the host's",
            (ethernet(ROUTER_MAC, Mac::BROADCAST) / arp(ROUTER_MAC, SELF_LAN4, VIP4)).padded(60, 0),
        ),
        passes("an ARP reply is the host's", {
            let mut reply = arp(ROUTER_MAC, CLIENT4, SELF_LAN4);
            reply.operation = 2;
            reply.target_mac = LAN_MAC;
            ethernet(ROUTER_MAC, LAN_MAC) / reply
        }),
        passes(
            "LLDP is the host's",
            ethernet(ROUTER_MAC, Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e])).ethertype(0x88cc) / raw(lldp),
        ),
        passes("an 802.3 frame with a length and an LLC header, spanning tree, is the host's", {
            ethernet(ROUTER_MAC, Mac([0x01, 0x80, 0xc2, 0, 0, 0])).ethertype(38) / raw([0x42; 46])
        }),
        passes("an EtherType nobody knows is the host's", from_router().ethertype(0x88b5) / raw([7; 46])),
        case("a frame that is an Ethernet header for IPv4 and nothing else is the host's")
            .enters_as_bytes(LAN, Packet::from(from_router().ethertype(0x0800)).bytes()),
        case("a frame that is an Ethernet header for IPv6 and nothing else is the host's")
            .enters_as_bytes(LAN, Packet::from(from_router().ethertype(0x86dd)).bytes()),
        case("a runt of one IPv4 byte is the host's")
            .enters_as_bytes(LAN, (from_router().ethertype(0x0800) / raw([0x45])).bytes()),
        passes(
            "a service's packet in PPPoE is not looked into",
            from_router().ethertype(0x8864)
                / raw([0x11, 0, 0, 1, 0, 42, 0, 0x21])
                / ipv4(CLIENT4, VIP4)
                / tcp(40_000, 443),
        ),
    ]
}

/// IP, but neither TCP nor UDP, though addressed to the VIP.
fn icmp_and_others() -> Vec<Case> {
    let mut cases = vec![
        passes(
            "an ICMP echo whose identifier and sequence look like the service's ports is the host's",
            from_router() / ipv4(CLIENT4, VIP4).protocol(1) / raw(LIKE_PORTS),
        ),
        passes("a neighbour solicitation for the VIP is the host's to answer", {
            let option = [1, 1, 2, 0, 0, 0, 0, 1];
            ethernet(ROUTER_MAC, Mac([0x33, 0x33, 0xff, 0, 0, 0x10]))
                / ipv6(NEAR_CLIENT6, VIP6).hop_limit(255)
                / icmpv6(135, 0)
                / [&VIP6.octets()[..], &option].concat()
        }),
        passes(
            "a neighbour advertisement is the host's",
            from_router()
                / ipv6(NEAR_CLIENT6, SELF_DC6).hop_limit(255)
                / icmpv6(136, 0).rest([0x60, 0, 0, 0])
                / NEAR_CLIENT6.octets().to_vec(),
        ),
        passes("a router advertisement is the host's", {
            from_router() / ipv6(NEAR_CLIENT6, VIP6).hop_limit(255) / icmpv6(134, 0) / vec![0; 8]
        }),
    ];
    for (name, protocol) in [
        ("GRE", 47),
        ("SCTP", 132),
        ("ESP", 50),
        ("IGMP", 2),
        ("OSPF", 89),
        ("VRRP", 112),
        ("DCCP", 33),
        ("UDP-Lite", 136),
    ] {
        cases.push(passes(
            &format!("{name} to the VIP is the host's, whatever its first bytes look like"),
            from_router() / ipv4(CLIENT4, VIP4).protocol(protocol) / raw(LIKE_PORTS),
        ));
        cases.push(passes(
            &format!("{name} over IPv6 to the VIP is the host's, whatever its first bytes look like"),
            from_router() / ipv6(CLIENT6, VIP6).next_header(protocol) / raw(LIKE_PORTS),
        ));
    }
    cases
}

/// TCP and UDP that no service listens for.
fn elsewhere() -> Vec<Case> {
    vec![
        passes("SSH to the VIP's address is the host's", from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 22).syn()),
        passes(
            "another port of the VIP is the host's, over IPv6 too",
            from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 22).syn(),
        ),
        passes(
            "the service's port by the other protocol is the host's: QUIC beside a TCP service",
            from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 443) / "quic",
        ),
        passes(
            "the service's port by the other protocol is the host's: DNS over TCP",
            from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 53),
        ),
        passes(
            "the service's port at another address is the host's",
            from_router() / ipv4(CLIENT4, SELF_LAN4) / tcp(40_000, 443),
        ),
        passes(
            "a packet to a backend's address is routed by the host, not balanced",
            from_router() / ipv4(CLIENT4, backend4(B1)) / tcp(40_000, 443),
        ),
        passes(
            "source and destination are not confused: the VIP as source is not a client's packet",
            from_router() / ipv4(VIP4, CLIENT4) / tcp(443, 40_000),
        ),
        passes(
            "a port in the wrong byte order is another port",
            from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 443u16.swap_bytes()),
        ),
        passes("UDP broadcast is the host's", {
            ethernet(ROUTER_MAC, Mac::BROADCAST)
                / ipv4(CLIENT4, std::net::Ipv4Addr::BROADCAST)
                / udp(68, 67)
                / vec![1; 240]
        }),
    ]
}

/// TCP and UDP for a service, but where the program does not look.
fn hidden() -> Vec<Case> {
    vec![
        passes(
            "a service's packet in somebody's 4in4 tunnel to the VIP is not looked into",
            from_router() / ipv4(CLIENT4, VIP4) / ipv4(CLIENT4, VIP4) / tcp(40_000, 443),
        ),
        passes(
            "a service's packet in somebody's 6in4 tunnel to the VIP is not looked into",
            from_router() / ipv4(CLIENT4, VIP4) / ipv6(CLIENT6, VIP6) / tcp(40_000, 443),
        ),
    ]
}

/// Packets no stack sends.
fn odd() -> Vec<Case> {
    vec![
        passes(
            "IPv4 of version 5 is the host's",
            from_router() / ipv4(CLIENT4, VIP4).with(|ip| ip.version = 5) / tcp(40_000, 443),
        ),
        passes(
            "IPv6 inside an IPv4 EtherType is the host's",
            from_router().ethertype(0x0800) / ipv6(CLIENT6, VIP6) / tcp(40_000, 443),
        ),
        passes(
            "IPv4 inside an IPv6 EtherType is the host's",
            from_router().ethertype(0x86dd) / ipv4(CLIENT4, VIP4) / tcp(40_000, 443),
        ),
        passes(
            "an IPv4 header length of 16 bytes is the host's",
            from_router() / ipv4(CLIENT4, VIP4).with(|ip| ip.header_length = Some(4)) / tcp(40_000, 443),
        ),
        passes(
            "an IPv4 header length of zero is the host's",
            from_router() / ipv4(CLIENT4, VIP4).with(|ip| ip.header_length = Some(0)) / tcp(40_000, 443),
        ),
        passes(
            "an IPv4 header that claims to be longer than the frame is the host's",
            from_router() / ipv4(CLIENT4, VIP4).with(|ip| ip.header_length = Some(15)) / udp(40_000, 53),
        ),
        passes(
            "an IPv4 total length of zero is the host's",
            from_router() / ipv4(CLIENT4, VIP4).total_length(0) / tcp(40_000, 443),
        ),
        passes(
            "an IPv4 total length that ends before the ports is the host's",
            from_router() / ipv4(CLIENT4, VIP4).total_length(23) / tcp(40_000, 443),
        ),
        passes(
            "an IPv6 payload length of zero, a jumbogram, is the host's",
            from_router() / ipv6(CLIENT6, VIP6).payload_length(0) / tcp(40_000, 443),
        ),
        passes(
            "an IPv6 payload length that ends before the ports is the host's",
            from_router() / ipv6(CLIENT6, VIP6).payload_length(3) / tcp(40_000, 443),
        ),
    ]
}
