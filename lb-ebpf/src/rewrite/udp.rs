//! The checksum of an outer UDP header, without reading the payload.
//!
//! Over IPv4 it is zero, which means "none" (RFC 768; RFC 7348 §5 and RFC 8926 §3.3 want just that). Over IPv6 receivers
//! refuse zero unless told otherwise (RFC 8200 §8.1), so there it is computed. The inner packet need not be read for it:
//! an IPv4 header adds up to nothing, and TCP or UDP with its pseudo-header adds up to nothing, so all of it adds up to
//! what its pseudo-header lacks. If a checksum inside is wrong, the outer one is, too, and the receiver drops the packet.
//!
//! The trap: a UDP packet whose own checksum is "none" adds up to anything. Its outer checksum is zero (RFC 6935).

use core::mem::offset_of;

use network_types::ip::Ipv6Hdr;
use network_types::udp::UdpHdr;

use lb_common::addr::PROTO_UDP;
use lb_common::csum::fold;
use lb_ebpf::packet::Packet;

use super::encap::Outer;
use crate::parse::extensions::FURTHEST;
use crate::parse::{IP, Ip};
use crate::settings;

/// What [`sum4`] and [`sum6`] say of a packet that can add up to anything.
const ANYTHING: Option<u64> = None;

/// The sum of a pseudo-header without its addresses: a payload's length and protocol.
#[inline(always)]
fn pseudo(protocol: u8, length: usize) -> u64 {
    let [high, low] = (length as u16).to_be_bytes();
    u64::from(u32::from_ne_bytes([0, protocol, high, low]))
}

/// The packet's own checksum is none.
#[inline(always)]
fn unsummed<A>(packet: Packet, ip: &Ip<'_, A>) -> bool {
    const CHECK: usize = offset_of!(UdpHdr, check);
    ip.protocol == PROTO_UDP && packet.header::<UdpHdr>(ip.l4).is_none_or(|udp| udp.u16::<CHECK>() == 0)
}

#[inline(always)]
pub fn sum4(packet: Packet, ip: &Ip<'_, u32>) -> Option<u64> {
    if unsummed(packet, ip) {
        return ANYTHING;
    }
    let addresses = u64::from(ip.source) + u64::from(ip.destination);
    Some(u64::from(!fold(addresses + pseudo(ip.protocol, IP + ip.length - ip.l4))))
}

/// The addresses are in the header and in the pseudo-header, so they cancel each other out.
#[inline(always)]
pub fn sum6(packet: Packet, ip: &Ip<'_, [u32; 4]>) -> Option<u64> {
    if unsummed(packet, ip) {
        return ANYTHING;
    }
    let header = packet.header::<Ipv6Hdr>(IP)?;
    let lacks = !fold(pseudo(ip.protocol, IP + ip.length - ip.l4));
    let sum = u64::from(header.u32::<0>()) + u64::from(header.u32::<4>()) + u64::from(lacks);
    if ip.l4 == IP + Ipv6Hdr::LEN || settings::extensions() == 0 {
        return Some(sum);
    }
    match extensions(packet, ip.l4) {
        0 => None,
        more => Some(sum + more),
    }
}

/// What the extension headers in front of the L4 header at `end` add up to; not 0, as they say what comes next.
#[cold]
#[inline(never)]
fn extensions(packet: Packet, end: usize) -> u64 {
    let packet = packet.opaque();
    let mut sum = 0;
    let mut at = IP + Ipv6Hdr::LEN;
    while at < end && at <= FURTHEST {
        let Some(words) = packet.header::<[u8; 8]>(at) else { return 0 };
        sum += u64::from(words.u32::<0>()) + u64::from(words.u32::<4>());
        at += 8;
    }
    sum
}

#[inline(always)]
pub fn checksum4(_: &Outer<u32>, _: u64) -> u16 {
    0
}

#[inline(always)]
pub fn checksum6(outer: &Outer<[u32; 4]>, sum: u64) -> u16 {
    let mut sum = sum + pseudo(PROTO_UDP, outer.payload);
    for word in outer.source.into_iter().chain(outer.destination) {
        sum += u64::from(word);
    }
    match !fold(sum) {
        0 => 0xffff,
        sum => sum,
    }
}
