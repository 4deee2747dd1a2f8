//! IP in IP: 4in4 (RFC 2003) and 6in6 (RFC 2473).
//!
//! As the tunnel's entry we are a hop: the inner TTL or hop limit loses one (RFC 2003 §3.1). ToS and traffic
//! class are copied, which is what RFC 6040 wants of ECN at the ingress. The outer IPv4 header sets DF — too
//! big is answered for here, not by fragments on the way — and with DF its id may be zero (RFC 6864 §4.1).

use core::mem::offset_of;

use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::csum::{self, Delta};
use lb_ebpf::packet::Packet;

use super::ttl;
use crate::parse::IP;

const PROTO_IPIP: u8 = 4;
const PROTO_IPV6: u8 = 41;
const OUTER_TTL: u8 = 64;

/// Takes one from the inner TTL, then puts an IPv4 header in front. `length` is the inner packet's.
/// False when there is no headroom. The Ethernet header is left unwritten.
#[inline(always)]
pub fn ipv4(packet: Packet, source: u32, destination: u32, tos: u8, length: usize) -> bool {
    const CHECK: usize = offset_of!(Ipv4Hdr, check);
    let Some(inner) = packet.header::<Ipv4Hdr>(IP) else { return false };
    let delta = ttl::ipv4(&inner, Delta::new());
    inner.set_u16::<CHECK>(delta.apply(inner.u16::<CHECK>()));

    if !packet.move_head(-(Ipv4Hdr::LEN as i32)) {
        return false;
    }
    let Some(outer) = packet.header::<Ipv4Hdr>(EthHdr::LEN) else { return false };
    let [high, low] = ((length + Ipv4Hdr::LEN) as u16).to_be_bytes();
    let first = u32::from_ne_bytes([0x45, tos, high, low]);
    let second = u32::from_ne_bytes([0, 0, 0x40, 0]);
    let third = u32::from_ne_bytes([OUTER_TTL, PROTO_IPIP, 0, 0]);
    outer.set_u32::<0>(first);
    outer.set_u32::<4>(second);
    outer.set_u16::<8>(third as u16);
    outer.set_u16::<CHECK>(csum::ipv4_header([first, second, third, source, destination]));
    outer.set_u32::<{ offset_of!(Ipv4Hdr, src_addr) }>(source);
    outer.set_u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(destination);
    true
}

/// As [`ipv4`], with an IPv6 header. The flow label carries the flow's hash (RFC 6438), so that routers and
/// receivers spread tunnels by flow.
#[inline(always)]
pub fn ipv6(
    packet: Packet,
    source: [u32; 4],
    destination: [u32; 4],
    inner_first_word: u32,
    length: usize,
    hash: u32,
) -> bool {
    const SOURCE: usize = offset_of!(Ipv6Hdr, src_addr);
    const DESTINATION: usize = offset_of!(Ipv6Hdr, dst_addr);
    let Some(inner) = packet.header::<Ipv6Hdr>(IP) else { return false };
    ttl::ipv6(&inner);

    if !packet.move_head(-(Ipv6Hdr::LEN as i32)) {
        return false;
    }
    let Some(outer) = packet.header::<Ipv6Hdr>(EthHdr::LEN) else { return false };
    let version_and_class = inner_first_word & 0xfff0_0000_u32.to_be();
    let [high, low] = (length as u16).to_be_bytes();
    outer.set_u32::<0>(version_and_class | (hash & 0x000f_ffff).to_be());
    outer.set_u32::<4>(u32::from_ne_bytes([high, low, PROTO_IPV6, OUTER_TTL]));
    outer.set_u32::<SOURCE>(source[0]);
    outer.set_u32::<{ SOURCE + 4 }>(source[1]);
    outer.set_u32::<{ SOURCE + 8 }>(source[2]);
    outer.set_u32::<{ SOURCE + 12 }>(source[3]);
    outer.set_u32::<DESTINATION>(destination[0]);
    outer.set_u32::<{ DESTINATION + 4 }>(destination[1]);
    outer.set_u32::<{ DESTINATION + 8 }>(destination[2]);
    outer.set_u32::<{ DESTINATION + 12 }>(destination[3]);
    true
}
