//! Destination NAT, clients to backends: the destination and at most one port change, TTL loses one, nothing
//! else does (RFC 3022 §4.1, RFC 1812 §5.3.1).

use super::super::world::*;
use super::super::{Case, case};
use super::{from_router, to_dc, to_lan};
use crate::packet::transport::{ACK, FIN, PSH, RST, SYN};
use crate::packet::{ethernet, ipv4, ipv6, tcp, udp};

const GET: &str = "GET / HTTP/1.1\r\n\r\n";

pub fn cases() -> Vec<Case> {
    [forwards(), ports(), ways_out(), flags(), headers()].concat()
}

fn forwards() -> Vec<Case> {
    vec![
        case("NAT, TCP over IPv4: a client's packet reaches the backend")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 443) / GET)
            .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / tcp(40_000, 443) / GET)
            .forwarded(WEB.id, B1),
        case("NAT, UDP over IPv4: a client's packet reaches the backend")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 53) / "query")
            .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / udp(40_000, 53) / "query")
            .forwarded(DNS.id, B1),
        case("NAT, TCP over IPv6: a client's packet reaches the backend")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 443) / GET)
            .leaves(DC, to_dc(B1_MAC) / ipv6(CLIENT6, backend6(B1)).hop_limit(63) / tcp(40_000, 443) / GET)
            .forwarded(WEB.id + ID6, B1 + V6),
        case("NAT, UDP over IPv6: a client's packet reaches the backend")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 53) / "query")
            .leaves(DC, to_dc(B1_MAC) / ipv6(CLIENT6, backend6(B1)).hop_limit(63) / udp(40_000, 53) / "query")
            .forwarded(DNS.id + ID6, B1 + V6),
    ]
}

fn ports() -> Vec<Case> {
    vec![
        case("NAT, TCP over IPv4: the backend's own port replaces the one asked for")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 80) / GET)
            .leaves(DC, to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B2)).ttl(63) / tcp(40_000, 8080) / GET)
            .forwarded(SITE.id, B2),
        case("NAT, UDP over IPv4: the backend's own port replaces the one asked for")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 5353) / "query")
            .leaves(DC, to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B3)).ttl(63) / udp(40_000, 53) / "query")
            .forwarded(MDNS.id, B3),
        case("NAT, TCP over IPv6: the backend's own port replaces the one asked for")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 80) / GET)
            .leaves(DC, to_dc(B2_MAC) / ipv6(CLIENT6, backend6(B2)).hop_limit(63) / tcp(40_000, 8080) / GET)
            .forwarded(SITE.id + ID6, B2 + V6),
        case("NAT, UDP over IPv6: the backend's own port replaces the one asked for")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 5353) / "query")
            .leaves(DC, to_dc(B2_MAC) / ipv6(CLIENT6, backend6(B3)).hop_limit(63) / udp(40_000, 53) / "query")
            .forwarded(MDNS.id + ID6, B3 + V6),
        case("NAT: a client whose source port is the service's is no backend")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(443, 443))
            .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / tcp(443, 443))
            .forwarded(WEB.id, B1),
        case("NAT: a backend may be a client of another service")
            .enters(LAN, from_router() / ipv4(backend4(B2), VIP4) / tcp(8080, 443))
            .leaves(DC, to_dc(B1_MAC) / ipv4(backend4(B2), backend4(B1)).ttl(63) / tcp(8080, 443))
            .forwarded(WEB.id, B1),
    ]
}

fn ways_out() -> Vec<Case> {
    vec![
        case("NAT over IPv4: a backend on the client's link is reached by XDP_TX")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 8443) / GET)
            .leaves(LAN, to_lan(ARM_MAC) / ipv4(CLIENT4, backend4(ARM)).ttl(63) / tcp(40_000, 8443) / GET)
            .forwarded(ARMED.id, ARM),
        case("NAT over IPv6: a backend on the client's link is reached by XDP_TX")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 8443) / "datagram")
            .leaves(LAN, to_lan(ARM_MAC) / ipv6(CLIENT6, backend6(ARM)).hop_limit(63) / udp(40_000, 8443) / "datagram")
            .forwarded(ARMED_UDP.id + ID6, ARM + V6),
        case("NAT: whether it is XDP_TX depends on where the packet came in")
            .enters(DC, ethernet(GATEWAY_MAC, DC_MAC) / ipv4(CLIENT4, VIP4) / tcp(40_000, 8443))
            .leaves(LAN, to_lan(ARM_MAC) / ipv4(CLIENT4, backend4(ARM)).ttl(63) / tcp(40_000, 8443))
            .forwarded(ARMED.id, ARM),
        case("NAT over IPv4: a backend behind a gateway gets the gateway's MAC and its own address")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 8001))
            .leaves(DC, to_dc(GATEWAY_MAC) / ipv4(CLIENT4, backend4(FAR)).ttl(63) / tcp(40_000, 8001))
            .forwarded(DISTANT.id, FAR),
        case("NAT over IPv6: a backend behind a gateway gets the gateway's MAC and its own address")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 8001))
            .leaves(DC, to_dc(GATEWAY_MAC) / ipv6(CLIENT6, backend6(FAR)).hop_limit(63) / tcp(40_000, 8001))
            .forwarded(DISTANT.id + ID6, FAR + V6),
    ]
}

fn flags() -> Vec<Case> {
    let mut cases = vec![
        case("NAT over IPv4: a SYN is forwarded with its options and counted")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).dont_fragment() / tcp(40_000, 443).syn())
            .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63).dont_fragment() / tcp(40_000, 443).syn())
            .forwarded(WEB.id, B1)
            .counting(WEB.id, "syns"),
        case("NAT over IPv6: a SYN is forwarded with its options and counted")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 443).syn())
            .leaves(DC, to_dc(B1_MAC) / ipv6(CLIENT6, backend6(B1)).hop_limit(63) / tcp(40_000, 443).syn())
            .forwarded(WEB.id + ID6, B1 + V6)
            .counting(WEB.id + ID6, "syns"),
    ];
    for (name, flags) in [
        ("a SYN+ACK opens nothing and is not counted as a SYN", SYN | ACK),
        ("a FIN goes where its connection goes", FIN | ACK),
        ("a RST goes where its connection goes", RST),
        ("a segment without any flag is forwarded", 0),
        ("a segment with every flag but SYN is forwarded", !SYN),
        ("a PSH is forwarded", PSH | ACK),
    ] {
        cases.push(
            case(format!("NAT, TCP: {name}"))
                .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 443).flags(flags))
                .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / tcp(40_000, 443).flags(flags))
                .forwarded(WEB.id, B1),
        );
    }
    // A UDP byte where TCP has its flags must not look like a SYN.
    let zeros_then_syn = vec![SYN; 24];
    cases.push(
        case("NAT, UDP: payload that looks like a SYN flag is not counted")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 53) / zeros_then_syn.clone())
            .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / udp(40_000, 53) / zeros_then_syn)
            .forwarded(DNS.id, B1),
    );
    cases
}

fn headers() -> Vec<Case> {
    // Record route (RFC 791 §3.1), empty, and a router alert (RFC 2113): 12 bytes of options.
    let options = [7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0];
    // All forty bytes there can be.
    let most = [1; 40];
    vec![
        case("NAT: IPv4 options do not hide the ports and stay as they are")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).options(&options) / tcp(40_000, 80) / GET)
            .leaves(DC, to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B2)).ttl(63).options(&options) / tcp(40_000, 8080) / GET)
            .forwarded(SITE.id, B2),
        case("NAT: the longest IPv4 header there is leaves the ports found")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).options(&most) / udp(40_000, 5353) / "query")
            .leaves(DC, to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B3)).ttl(63).options(&most) / udp(40_000, 53) / "query")
            .forwarded(MDNS.id, B3),
        case("NAT: DF, ToS with ECN, and identification stay as they are")
            .enters(
                LAN,
                from_router() / ipv4(CLIENT4, VIP4).tos(0xbb).identification(0xbeef).dont_fragment() / tcp(40_000, 443),
            )
            .leaves(
                DC,
                to_dc(B1_MAC)
                    / ipv4(CLIENT4, backend4(B1)).ttl(63).tos(0xbb).identification(0xbeef).dont_fragment()
                    / tcp(40_000, 443),
            )
            .forwarded(WEB.id, B1),
        case("NAT: traffic class and flow label stay as they are")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).traffic_class(0xbb).flow_label(0xabcde) / tcp(40_000, 443))
            .leaves(
                DC,
                to_dc(B1_MAC)
                    / ipv6(CLIENT6, backend6(B1)).hop_limit(63).traffic_class(0xbb).flow_label(0xabcde)
                    / tcp(40_000, 443),
            )
            .forwarded(WEB.id + ID6, B1 + V6),
        case("NAT: a TTL of 255 becomes 254")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).ttl(255) / udp(40_000, 53))
            .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(254) / udp(40_000, 53))
            .forwarded(DNS.id, B1),
        case("NAT: a TTL of 2 is the last that is forwarded")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).ttl(2) / udp(40_000, 53))
            .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(1) / udp(40_000, 53))
            .forwarded(DNS.id, B1),
        case("NAT: a hop limit of 2 is the last that is forwarded")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).hop_limit(2) / udp(40_000, 53))
            .leaves(DC, to_dc(B1_MAC) / ipv6(CLIENT6, backend6(B1)).hop_limit(1) / udp(40_000, 53))
            .forwarded(DNS.id + ID6, B1 + V6),
    ]
}
