//! The MSS with which TCP connections open, lowered to what their way takes.

use super::super::world::*;
use super::super::{Case, case};
use super::{from_router, outer4, to_dc, to_lan};
use crate::packet::{Tcp, ethernet, ipv4, ipv6, tcp};

/// A SYN, or the answer to one, with these options.
fn opens(source: u16, destination: u16, flags: u8, options: &[u8]) -> Tcp {
    tcp(source, destination).flags(flags).with(|tcp| tcp.options = options.to_vec())
}

fn mss(value: u16) -> Vec<u8> {
    [&[2, 4][..], &value.to_be_bytes()].concat()
}

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

pub fn cases() -> Vec<Case> {
    // TCP and IP headers take 40 bytes, and 60 over IPv6.
    let (most4, most6) = (NARROW_MTU as u16 - 40, NARROW_MTU as u16 - 60);
    let to_backend = |name: &str, flags: u8, before: &[u8], after: &[u8]| {
        let case = case(format!("NAT: {name}"))
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / opens(40_000, 9042, flags, before))
            .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(NARROW)).ttl(63) / opens(40_000, 9042, flags, after))
            .forwarded(CLAMPED.id, NARROW);
        if flags == SYN { case.counting(CLAMPED.id, "syns") } else { case }
    };
    let behind = |before: &[u8], value: u16, after: &[u8]| [before, &mss(value), after].concat();
    vec![
        to_backend("an MSS that is too large is lowered", SYN, &mss(1460), &mss(most4)),
        to_backend("an MSS that is one too large is lowered", SYN, &mss(most4 + 1), &mss(most4)),
        to_backend("an MSS that fits stays", SYN, &mss(most4), &mss(most4)),
        to_backend("a small MSS stays", SYN, &mss(536), &mss(536)),
        to_backend("no MSS stays none", SYN, &[1, 3, 3, 7], &[1, 3, 3, 7]),
        to_backend(
            "an MSS at an odd place is lowered",
            SYN,
            &behind(&[1], 1460, &[1, 1, 1]),
            &behind(&[1], most4, &[1, 1, 1]),
        ),
        to_backend(
            "an MSS behind other options is lowered",
            SYN,
            &behind(&[4, 2, 3, 3, 7], 1460, &[1, 1, 1]),
            &behind(&[4, 2, 3, 3, 7], most4, &[1, 1, 1]),
        ),
        to_backend(
            "what is behind the end of options is none",
            SYN,
            &behind(&[0, 0, 0, 0], 1460, &[]),
            &behind(&[0, 0, 0, 0], 1460, &[]),
        ),
        to_backend(
            "what is behind an option without a length is none",
            SYN,
            &behind(&[9, 0, 1, 1], 1460, &[]),
            &behind(&[9, 0, 1, 1], 1460, &[]),
        ),
        to_backend("an MSS in a packet that opens nothing stays", 0x10, &mss(1460), &mss(1460)),
        case("NAT over IPv6: an MSS that is too large is lowered")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / opens(40_000, 9042, SYN, &mss(1440)))
            .leaves(DC, {
                to_dc(B1_MAC) / ipv6(CLIENT6, backend6(NARROW)).hop_limit(63) / opens(40_000, 9042, SYN, &mss(most6))
            })
            .forwarded(CLAMPED.id + ID6, NARROW + V6)
            .counting(CLAMPED.id + ID6, "syns"),
        case("4in4: an MSS is lowered to what is left in the tunnel")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / opens(40_000, 9043, SYN, &mss(1460)))
            .leaves(DC, {
                let inner = ipv4(CLIENT4, VIP4).ttl(63) / opens(40_000, 9043, SYN, &mss(most4 - 20));
                to_dc(B1_MAC) / outer4(NARROW, 0) / inner
            })
            .forwarded(CLAMPED_TUNNEL.id, NARROW)
            .counting(CLAMPED_TUNNEL.id, "syns"),
        case("NAT: a backend's MSS is lowered to what the way to the client takes")
            .enters(DC, {
                ethernet(B1_MAC, DC_MAC) / ipv4(backend4(NARROW), CLIENT4) / opens(9042, 40_000, SYN_ACK, &mss(8960))
            })
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63) / opens(9042, 40_000, SYN_ACK, &mss(1460)))
            .replied(CLAMPED.id, NARROW),
        case("a service that does not lower it leaves an MSS alone")
            .enters(
                DC,
                ethernet(B1_MAC, DC_MAC) / ipv4(backend4(B1), CLIENT4) / opens(443, 40_000, SYN_ACK, &mss(8960)),
            )
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63) / opens(443, 40_000, SYN_ACK, &mss(8960)))
            .replied(WEB.id, B1),
    ]
}
