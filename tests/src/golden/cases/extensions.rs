//! IPv6 extension headers (RFC 8200 §4): the ports are behind them.

use lb_common::counters::DropReason;

use super::super::world::*;
use super::super::{Case, case};
use super::{from_router, to_dc, to_lan};
use crate::packet::{Extension, Ipv6, ethernet, ipv6, tcp, udp};

/// A routing header of type 2 or 4, with so many segments left.
fn routing(kind: u8, left: u8) -> Extension {
    Extension::Options { kind: 43, data: vec![kind, left, 0, 0, 0, 0] }
}

fn with(ip: Ipv6, extensions: &[Extension]) -> Ipv6 {
    extensions.iter().fold(ip, |ip, extension| ip.extension(extension.clone()))
}

/// Destination options of so many bytes, header and all.
fn long(bytes: usize) -> Extension {
    let mut header = vec![0; bytes];
    header[1] = (bytes / 8 - 1) as u8;
    Extension::Raw { kind: 60, bytes: header }
}

pub fn cases() -> Vec<Case> {
    let hop_by_hop = Extension::hop_by_hop;
    let options = || Extension::destination_options(6);
    let mut cases = Vec::new();
    for (name, extensions) in [
        ("hop-by-hop options", vec![hop_by_hop()]),
        ("destination options", vec![options()]),
        ("a routing header that is done", vec![routing(2, 0)]),
        ("a segment routing header that is done", vec![routing(4, 0)]),
        ("hop-by-hop, routing and destination options", vec![hop_by_hop(), routing(2, 0), options()]),
        ("eight headers", vec![options(); 8]),
        ("256 bytes of headers", vec![long(128), long(128)]),
    ] {
        let [asks, answers] = [VIP6, backend6(B1)].map(|to| with(ipv6(CLIENT6, to), &extensions));
        let [from_backend, from_vip] = [backend6(B1), VIP6].map(|from| with(ipv6(from, CLIENT6), &extensions));
        cases.extend([
            case(format!("TCP behind {name} is translated"))
                .enters(LAN, from_router() / asks.clone() / tcp(40_000, 443) / "hello")
                .leaves(DC, to_dc(B1_MAC) / answers.clone().hop_limit(63) / tcp(40_000, 443) / "hello")
                .forwarded(WEB.id + ID6, B1 + V6),
            case(format!("UDP behind {name} is translated"))
                .enters(LAN, from_router() / asks / udp(40_000, 53) / "query")
                .leaves(DC, to_dc(B1_MAC) / answers.hop_limit(63) / udp(40_000, 53) / "query")
                .forwarded(DNS.id + ID6, B1 + V6),
            case(format!("a reply behind {name} is translated back"))
                .enters(DC, ethernet(B1_MAC, DC_MAC) / from_backend / tcp(443, 40_000) / "hello")
                .leaves(LAN, to_lan(ROUTER_MAC) / from_vip.hop_limit(63) / tcp(443, 40_000) / "hello")
                .replied(WEB.id + ID6, B1 + V6),
        ]);
    }
    for (name, extensions) in [
        ("nine headers are the host's", vec![options(); 9]),
        ("264 bytes of headers are the host's", vec![long(128), long(136)]),
        ("a routing header with segments left is the host's", vec![routing(4, 1)]),
        (
            "an authentication header is the host's",
            vec![Extension::Raw { kind: 51, bytes: vec![0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0] }],
        ),
        ("a mobility header is the host's", vec![Extension::Raw { kind: 135, bytes: vec![59, 0, 0, 0, 0, 0, 0, 0] }]),
    ] {
        cases.push(
            case(format!("a packet with {name}"))
                .enters(LAN, from_router() / with(ipv6(CLIENT6, VIP6), &extensions) / tcp(40_000, 443)),
        );
    }
    cases.extend([
        case("a packet without a next header is the host's").enters(
            LAN,
            from_router() / ipv6(CLIENT6, VIP6).extension(hop_by_hop()).next_header(59) / tcp(40_000, 443),
        ),
        case("a length that ends inside the headers is the host's").enters(
            LAN,
            from_router() / ipv6(CLIENT6, VIP6).extension(options()).payload_length(10) / tcp(40_000, 443),
        ),
        case("a length that ends inside the TCP header behind them is truncated")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).extension(options()).payload_length(20) / tcp(40_000, 443))
            .dropped(WEB.id + ID6, DropReason::Truncated),
        case("bytes of destination options are not taken for ports").enters(LAN, {
            let like_ports = Extension::Raw { kind: 60, bytes: vec![0x9c, 0, 0x01, 0xbb, 0, 0, 0, 1] };
            from_router() / ipv6(CLIENT6, VIP6).extension(like_ports) / tcp(40_000, 22)
        }),
    ]);
    cases
}
