//! Lengths that lie. What counts is the IP header's length: bytes after it are Ethernet's padding and belong to
//! nobody; a frame that ends before it is truncated.

use lb_common::counters::DropReason;
use lb_common::hash::HashKey;

use super::super::oracle::hash6;
use super::super::world::*;
use super::super::{Case, case};
use super::tunnel::{outer4, outer6};
use super::{from_router, to_dc};
use crate::packet::{ipv4, ipv6, tcp, udp};

pub fn cases(key: &HashKey) -> Vec<Case> {
    [padding(key), too_long(), too_short(), l4()].concat()
}

fn padding(key: &HashKey) -> Vec<Case> {
    let hash = hash6(key, (CLIENT6, 40_000), (VIP6, 444));
    // 14 + 20 + 20 bytes, padded to Ethernet's least, and not with zeroes.
    let noise = [0xa5; 6];
    vec![
        case("NAT: Ethernet padding is neither counted nor summed")
            .enters(LAN, (from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 80)).padded(60, 0xa5))
            .leaves(DC, (to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B2)).ttl(63) / tcp(40_000, 8080)).trailer(&noise))
            .forwarded(SITE.id, B2),
        case("NAT: bytes after an IPv6 packet are neither counted nor summed")
            .enters(LAN, (from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 5353)).trailer(&noise))
            .leaves(DC, (to_dc(B2_MAC) / ipv6(CLIENT6, backend6(B3)).hop_limit(63) / udp(40_000, 53)).trailer(&noise))
            .forwarded(MDNS.id + ID6, B3 + V6),
        case("4in4: Ethernet padding stays outside the tunnel")
            .enters(LAN, (from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 444)).padded(60, 0xa5))
            .leaves(
                DC,
                (to_dc(B1_MAC) / outer4(T1, 0) / ipv4(CLIENT4, VIP4).ttl(63) / tcp(40_000, 444)).trailer(&noise),
            )
            .forwarded(TUNNEL.id, T1),
        case("6in6: bytes after the packet stay outside the tunnel")
            .enters(LAN, (from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 444)).trailer(&noise))
            .leaves(
                DC,
                (to_dc(B1_MAC) / outer6(T1, 0, hash) / ipv6(CLIENT6, VIP6).hop_limit(63) / tcp(40_000, 444))
                    .trailer(&noise),
            )
            .forwarded(TUNNEL.id + ID6, T1 + V6),
    ]
}

fn too_long() -> Vec<Case> {
    vec![
        case("an IPv4 total length of one more than the frame holds is truncated")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).total_length(41) / tcp(40_000, 443))
            .dropped(WEB.id, DropReason::Truncated),
        case("an IPv4 total length of 65,535 is truncated")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).total_length(65_535) / udp(40_000, 53) / "query")
            .dropped(DNS.id, DropReason::Truncated),
        case("an IPv6 payload length of one more than the frame holds is truncated")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).payload_length(21) / tcp(40_000, 443))
            .dropped(WEB.id + ID6, DropReason::Truncated),
        case("an IPv6 payload length of 65,535 is truncated")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).payload_length(65_535) / udp(40_000, 53) / "query")
            .dropped(DNS.id + ID6, DropReason::Truncated),
        case("a length that lies is not tunnelled either")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).total_length(41) / tcp(40_000, 444))
            .dropped(TUNNEL.id, DropReason::Truncated),
    ]
}

fn too_short() -> Vec<Case> {
    // The checksum a sender of the shorter datagram would have sent is the checksum of the shorter datagram.
    let short = |packet: crate::packet::Packet| packet.trailer(b"lost");
    vec![
        case("an IPv4 total length shorter than the frame ends the packet there")
            .enters(LAN, short(from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 5353) / "kept"))
            .leaves(DC, short(to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B3)).ttl(63) / udp(40_000, 53) / "kept"))
            .forwarded(MDNS.id, B3),
        case("an IPv4 total length that ends inside the TCP header is truncated, whatever follows")
            .enters(
                LAN,
                from_router() / ipv4(CLIENT4, VIP4).total_length(39) / tcp(40_000, 443) / "more than enough bytes",
            )
            .dropped(WEB.id, DropReason::Truncated),
        case("an IPv4 total length that ends inside the UDP header is truncated, whatever follows")
            .enters(
                LAN,
                from_router() / ipv4(CLIENT4, VIP4).total_length(27) / udp(40_000, 53) / "more than enough bytes",
            )
            .dropped(DNS.id, DropReason::Truncated),
        case("an IPv6 payload length that ends inside the TCP header is truncated, whatever follows")
            .enters(
                LAN,
                from_router() / ipv6(CLIENT6, VIP6).payload_length(19) / tcp(40_000, 443) / "more than enough bytes",
            )
            .dropped(WEB.id + ID6, DropReason::Truncated),
        case("an IPv6 payload length that ends inside the UDP header is truncated, whatever follows")
            .enters(
                LAN,
                from_router() / ipv6(CLIENT6, VIP6).payload_length(7) / udp(40_000, 53) / "more than enough bytes",
            )
            .dropped(DNS.id + ID6, DropReason::Truncated),
        case("IPv4 options that leave no room for the TCP header are truncated")
            .enters(LAN, {
                from_router() / ipv4(CLIENT4, VIP4).options(&[1; 40]).total_length(60 + 19) / tcp(40_000, 443)
            })
            .dropped(WEB.id, DropReason::Truncated),
    ]
}

/// Lengths of TCP and UDP themselves are between the two ends; nothing here depends on them.
fn l4() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, length) in [("longer than its packet", 99), ("shorter than its header", 3), ("of zero", 0)] {
        cases.push(
            case(format!("a UDP length {name} is the receiver's business"))
                .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 5353).length(length) / "query")
                .leaves(
                    DC,
                    to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B3)).ttl(63) / udp(40_000, 53).length(length) / "query",
                )
                .forwarded(MDNS.id, B3),
        );
    }
    for (name, words) in [("beyond its packet", 15), ("inside its own header", 2)] {
        cases.push(
            case(format!("a TCP data offset {name} is the receiver's business"))
                .enters(
                    LAN,
                    from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 80).with(|t| t.data_offset = Some(words)) / "x",
                )
                .leaves(
                    DC,
                    to_dc(B2_MAC)
                        / ipv4(CLIENT4, backend4(B2)).ttl(63)
                        / tcp(40_000, 8080).with(|t| t.data_offset = Some(words))
                        / "x",
                )
                .forwarded(SITE.id, B2),
        );
    }
    cases
}
