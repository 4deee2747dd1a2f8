//! Packets of a service that cannot be forwarded: each dropped for one named reason, counted once.

use lb_common::counters::DropReason;

use super::super::world::*;
use super::super::{Case, case};
use super::from_router;
use crate::packet::{ethernet, ipv4, ipv6, tcp, udp};

pub fn cases() -> Vec<Case> {
    [hop_count(), pool(), size(), way_out()].concat()
}

fn hop_count() -> Vec<Case> {
    let mut cases = Vec::new();
    for ttl in [0, 1] {
        cases.push(
            case(format!("a TTL of {ttl} is ttl_exceeded"))
                .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).ttl(ttl) / tcp(40_000, 443))
                .dropped(WEB.id, DropReason::TtlExceeded),
        );
        cases.push(
            case(format!("a hop limit of {ttl} is ttl_exceeded"))
                .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).hop_limit(ttl) / udp(40_000, 53))
                .dropped(DNS.id + ID6, DropReason::TtlExceeded),
        );
        cases.push(
            case(format!("a TTL of {ttl} is not tunnelled either"))
                .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).ttl(ttl) / tcp(40_000, 444))
                .dropped(TUNNEL.id, DropReason::TtlExceeded),
        );
        cases.push(
            case(format!("a hop limit of {ttl} is not tunnelled either"))
                .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).hop_limit(ttl) / tcp(40_000, 444))
                .dropped(TUNNEL.id + ID6, DropReason::TtlExceeded),
        );
        cases.push(
            case(format!("a reply's TTL of {ttl} is ttl_exceeded"))
                .enters(DC, ethernet(B1_MAC, DC_MAC) / ipv4(backend4(B1), CLIENT4).ttl(ttl) / tcp(443, 40_000))
                .dropped(WEB.id, DropReason::TtlExceeded),
        );
        cases.push(
            case(format!("a reply's hop limit of {ttl} is ttl_exceeded"))
                .enters(DC, ethernet(B1_MAC, DC_MAC) / ipv6(backend6(B1), CLIENT6).hop_limit(ttl) / tcp(443, 40_000))
                .dropped(WEB.id + ID6, DropReason::TtlExceeded),
        );
        cases.push(
            case(format!("a TTL of {ttl} on the node's own traffic is the host's business"))
                .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).ttl(ttl) / tcp(40_000, 22)),
        );
    }
    cases
}

fn pool() -> Vec<Case> {
    [
        ("a service whose pool is empty drops as no_backend", 9001, EMPTY.id, DropReason::NoBackend),
        ("a service without a ring drops as no_ring", RINGLESS_PORT, RINGLESS_ID, DropReason::NoRing),
        ("a service of an unknown ring class drops as no_ring", CLASSLESS_PORT, CLASSLESS_ID, DropReason::NoRing),
        ("a ring that names an impossible backend drops as internal", 9011, BROKEN.id, DropReason::Internal),
        (
            "a service with an unknown way of forwarding drops as internal",
            MODELESS_PORT,
            MODELESS_ID,
            DropReason::Internal,
        ),
    ]
    .into_iter()
    .flat_map(|(name, port, id, reason)| {
        [
            case(name).enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, port).syn()).dropped(id, reason),
            case(format!("{name}, over IPv6 too"))
                .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, port).syn())
                .dropped(id + ID6, reason),
        ]
    })
    .collect()
}

fn size() -> Vec<Case> {
    let data = |payload: usize| vec![0x5a; payload];
    vec![
        case("4in4: one byte more than the link takes with the outer header is too_big")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 9009) / data(NARROW_MTU - 20 - 28 + 1))
            .dropped(TIGHT_TUNNEL.id, DropReason::TooBig),
        case("NAT: one byte more than the link takes is too_big")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 9008) / data(NARROW_MTU - 28 + 1))
            .dropped(TIGHT.id, DropReason::TooBig),
    ]
}

fn way_out() -> Vec<Case> {
    vec![
        case("an interface outside the device map is not_redirectable")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 9010))
            .dropped(MAROONED.id, DropReason::NotRedirectable),
        case("an interface outside the device map is not_redirectable over IPv6 too")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 9010))
            .dropped(MAROONED.id + ID6, DropReason::NotRedirectable),
        case("4in4: a driver without room for the outer header is no_headroom")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 444))
            .behind_metadata(204)
            .dropped(TUNNEL.id, DropReason::NoHeadroom),
        case("6in6: a driver without room for the outer header is no_headroom")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 444))
            .behind_metadata(204)
            .dropped(TUNNEL.id + ID6, DropReason::NoHeadroom),
        case("NAT needs no headroom")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 443))
            .behind_metadata(204)
            .leaves(DC, ethernet(DC_MAC, B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / tcp(40_000, 443))
            .forwarded(WEB.id, B1),
    ]
}
