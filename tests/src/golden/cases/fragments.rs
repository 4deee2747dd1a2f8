//! Fragments. Only the first of a datagram has ports, so balancing it alone would break the datagram: it is
//! dropped and counted for its service. Later ones cannot be told to be for a service and pass.

use lb_common::counters::DropReason;

use super::super::world::*;
use super::super::{Case, case};
use super::from_router;
use crate::packet::{Extension, ethernet, ipv4, ipv6, raw, tcp, udp};

pub fn cases() -> Vec<Case> {
    // Bytes that look like ports 40000 → 53, where a later fragment has payload.
    let like_ports = [0x9c, 0x40, 0x00, 0x35, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut cases = vec![
        case("the first fragment of a service's datagram drops as fragment")
            .enters(LAN, {
                from_router() / ipv4(CLIENT4, VIP4).fragment(0, true) / udp(40_000, 53).checksum(0x1234) / vec![1; 1448]
            })
            .dropped(DNS.id, DropReason::Fragment),
        case("the first fragment of a service's TCP segment drops as fragment")
            .enters(LAN, {
                from_router()
                    / ipv4(CLIENT4, VIP4).fragment(0, true)
                    / tcp(40_000, 443).checksum(0x1234)
                    / vec![1; 1440]
            })
            .dropped(WEB.id, DropReason::Fragment),
        case("the first fragment is not tunnelled either")
            .enters(LAN, {
                from_router()
                    / ipv4(CLIENT4, VIP4).fragment(0, true)
                    / udp(40_000, 444).checksum(0x1234)
                    / vec![1; 1448]
            })
            .dropped(TUNNEL_UDP.id, DropReason::Fragment),
        case("the first fragment of a backend's reply drops as fragment")
            .enters(DC, {
                ethernet(B1_MAC, DC_MAC)
                    / ipv4(backend4(B1), CLIENT4).fragment(0, true)
                    / udp(53, 40_000).checksum(0x1234)
                    / vec![1; 1448]
            })
            .dropped(DNS.id, DropReason::Fragment),
        case("the first fragment of somebody else's datagram passes").enters(LAN, {
            from_router() / ipv4(CLIENT4, VIP4).fragment(0, true) / udp(40_000, 4500).checksum(0x1234) / vec![1; 1448]
        }),
        case("a first fragment too small for a TCP header (RFC 3128) is truncated")
            .enters(
                LAN,
                from_router()
                    / ipv4(CLIENT4, VIP4).fragment(0, true).protocol(6)
                    / raw([0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1]),
            )
            .dropped(WEB.id, DropReason::Truncated),
        case("an IPv6 fragment has no ports we can see and passes").enters(LAN, {
            let fragment = Extension::Fragment { offset: 0, more: true, identification: 7 };
            from_router() / ipv6(CLIENT6, VIP6).extension(fragment) / udp(40_000, 53).checksum(0x1234) / vec![1; 1432]
        }),
        case("an IPv6 atomic fragment (RFC 6946) passes").enters(LAN, {
            let fragment = Extension::Fragment { offset: 0, more: false, identification: 7 };
            from_router() / ipv6(CLIENT6, VIP6).extension(fragment) / udp(40_000, 53) / "query"
        }),
        case("a later IPv6 fragment passes, whatever its payload looks like").enters(LAN, {
            let fragment = Extension::Fragment { offset: 1432, more: false, identification: 7 };
            from_router() / ipv6(CLIENT6, VIP6).extension(fragment).next_header(17) / raw(like_ports)
        }),
    ];
    for (name, offset, more) in
        [("a middle", 1480, true), ("the last", 2960, false), ("the second, at 8 bytes,", 8, true)]
    {
        cases.push(
            case(format!("{name} fragment passes, whatever its payload looks like"))
                .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).fragment(offset, more).protocol(17) / raw(like_ports)),
        );
    }
    for bit in 0..13 {
        cases.push(
            case(format!("a later fragment is told by bit {bit} of its offset alone")).enters(
                LAN,
                from_router() / ipv4(CLIENT4, VIP4).fragment(8 << bit, false).protocol(17) / raw(like_ports),
            ),
        );
    }
    cases
}
