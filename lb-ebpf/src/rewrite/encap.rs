//! IP in IP: 4in4 (RFC 2003) and 6in6 (RFC 2473).
//!
//! As the tunnel's entry we are a hop: the inner TTL or hop limit loses one (RFC 2003 §3.1). ToS and traffic
//! class are copied, which is what RFC 6040 wants of ECN at the ingress. The outer IPv4 header sets DF — too
//! big is answered for here, not by fragments on the way — and with DF its id may be zero (RFC 6864 §4.1).

use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::addr::octets6;
use lb_common::csum::{self, Delta};
use lb_ebpf::packet::Packet;

use crate::parse::IP;

const PROTO_IPIP: u8 = 4;
const PROTO_IPV6: u8 = 41;
const OUTER_TTL: u8 = 64;

/// Takes one from the inner TTL, then puts an IPv4 header in front. `length` is the inner packet's.
/// False when there is no headroom. The Ethernet header is left unwritten.
#[inline(always)]
pub fn ipv4(packet: Packet, source: u32, destination: u32, tos: u8, length: usize) -> bool {
    let Some(inner) = packet.at::<Ipv4Hdr>(IP) else { return false };
    // SAFETY: bounds checked by `at`.
    let inner = unsafe { &mut *inner };
    let before = u16::from_ne_bytes([inner.ttl, inner.proto]);
    inner.ttl -= 1;
    let after = u16::from_ne_bytes([inner.ttl, inner.proto]);
    inner.check = Delta::new().word16(before, after).apply(u16::from_ne_bytes(inner.check)).to_ne_bytes();

    if !packet.move_head(-(Ipv4Hdr::LEN as i32)) {
        return false;
    }
    let Some(outer) = packet.at::<Ipv4Hdr>(EthHdr::LEN) else { return false };
    let total = ((length + Ipv4Hdr::LEN) as u16).to_be_bytes();
    let words = [
        u32::from_ne_bytes([0x45, tos, total[0], total[1]]),
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([OUTER_TTL, PROTO_IPIP, 0, 0]),
        source,
        destination,
    ];
    // SAFETY: bounds checked by `at`.
    unsafe {
        *outer = Ipv4Hdr {
            vihl: 0x45,
            tos,
            tot_len: total,
            id: [0, 0],
            frags: [0x40, 0],
            ttl: OUTER_TTL,
            proto: PROTO_IPIP,
            check: csum::ipv4_header(words).to_ne_bytes(),
            src_addr: source.to_ne_bytes(),
            dst_addr: destination.to_ne_bytes(),
        };
    }
    true
}

/// As [`ipv4`], with an IPv6 header. The flow label carries the flow's hash (RFC 6438), so that routers and
/// receivers spread tunnels by flow.
#[inline(always)]
pub fn ipv6(
    packet: Packet,
    source: [u32; 4],
    destination: [u32; 4],
    inner_first_word: [u8; 4],
    length: usize,
    hash: u32,
) -> bool {
    let Some(inner) = packet.at::<Ipv6Hdr>(IP) else { return false };
    // SAFETY: bounds checked by `at`.
    unsafe { (*inner).hop_limit -= 1 };

    if !packet.move_head(-(Ipv6Hdr::LEN as i32)) {
        return false;
    }
    let Some(outer) = packet.at::<Ipv6Hdr>(EthHdr::LEN) else { return false };
    let label = (hash & 0x000f_ffff).to_be_bytes();
    // SAFETY: bounds checked by `at`.
    unsafe {
        *outer = Ipv6Hdr {
            vcf: [inner_first_word[0], (inner_first_word[1] & 0xf0) | label[1], label[2], label[3]],
            payload_len: (length as u16).to_be_bytes(),
            next_hdr: PROTO_IPV6,
            hop_limit: OUTER_TTL,
            src_addr: octets6(source),
            dst_addr: octets6(destination),
        };
    }
    true
}
