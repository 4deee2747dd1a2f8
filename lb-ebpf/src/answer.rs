//! What Sluice says itself: answers to echo requests for service addresses, and to packets that are too big for their way.
//!
//! Both are made of the packet they answer, from its IP header on; [`crate::verdict::Stop::Answer`] sends the frame back to
//! who sent it. Neither is longer than that packet.
//!
//! The trap is to answer what is not to be answered (RFC 1122 §3.2.2): an error, a later fragment, and what we are not
//! asked.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::csum::{Delta, fold};
use lb_ebpf::packet::Packet;

use crate::budget;
use crate::maps::{ANSWER_BUDGET, VIPS4, VIPS6};
use crate::parse::IP;
use crate::parse::icmp::{HEADER, PROTO_ICMP, PROTO_ICMPV6};
use crate::parse::ipv6::address;

const TTL: u8 = 64;
/// Offset of the checksum in an ICMP header.
const CHECK: usize = 2;

/// Turns an echo request for a service address into its answer (RFC 792). The service that has the address, or 0.
#[cold]
#[inline(never)]
pub fn echo4(packet: Packet) -> u32 {
    let packet = packet.opaque();
    const SOURCE: usize = offset_of!(Ipv4Hdr, src_addr);
    const DESTINATION: usize = offset_of!(Ipv4Hdr, dst_addr);
    const HEADER_CHECK: usize = offset_of!(Ipv4Hdr, check);
    /// Request and code.
    const REQUEST: u16 = 0x0800_u16.to_be();
    let Some(ip) = packet.header::<Ipv4Hdr>(IP) else { return 0 };
    let Some(icmp) = packet.header::<[u8; HEADER]>(IP + Ipv4Hdr::LEN) else { return 0 };
    let length = usize::from(u16::from_be(ip.u16::<{ offset_of!(Ipv4Hdr, tot_len) }>()));
    // Options and fragments are the host's.
    if ip.u8::<0>() != 0x45
        || ip.u8::<{ offset_of!(Ipv4Hdr, proto) }>() != PROTO_ICMP
        || ip.u16::<{ offset_of!(Ipv4Hdr, frags) }>() & 0x3fff_u16.to_be() != 0
        || icmp.u16::<0>() != REQUEST
        || length < Ipv4Hdr::LEN + HEADER
        || IP + length > packet.len()
    {
        return 0;
    }
    let (source, destination) = (ip.u32::<DESTINATION>(), ip.u32::<SOURCE>());
    // SAFETY: elements are freed after a grace period; the controller never writes in place.
    let Some(&service) = (unsafe { VIPS4.get(source) }) else { return 0 };
    ip.set_u32::<SOURCE>(source);
    ip.set_u32::<DESTINATION>(destination);
    // Time to live and protocol are one word of the checksum.
    const LIFE: usize = offset_of!(Ipv4Hdr, ttl);
    let life = ip.u16::<LIFE>();
    let new_life = u16::from_ne_bytes([TTL, PROTO_ICMP]);
    ip.set_u16::<LIFE>(new_life);
    ip.set_u16::<HEADER_CHECK>(Delta::new().word16(life, new_life).apply(ip.u16::<HEADER_CHECK>()));
    icmp.set_u16::<0>(0);
    // An answer may be nothing but zeroes, which add up to zero; then only this zero makes all ones of them.
    let check = match Delta::new().word16(REQUEST, 0).apply(icmp.u16::<CHECK>()) {
        0 => 0xffff,
        check => check,
    };
    icmp.set_u16::<CHECK>(check);
    service
}

/// Two addresses change places.
macro_rules! swap6 {
    ($ip:ident) => {
        swap6!($ip, 8 12 16 20)
    };
    ($ip:ident, $($word:literal)*) => {$(
        let (source, destination) = ($ip.u32::<{ $word }>(), $ip.u32::<{ $word + 16 }>());
        $ip.set_u32::<{ $word }>(destination);
        $ip.set_u32::<{ $word + 16 }>(source);
    )*};
}

/// As [`echo4`] (RFC 4443 §4).
#[cold]
#[inline(never)]
pub fn echo6(packet: Packet) -> u32 {
    let packet = packet.opaque();
    const REQUEST: u16 = 0x8000_u16.to_be();
    const REPLY: u16 = 0x8100_u16.to_be();
    let Some(ip) = packet.header::<Ipv6Hdr>(IP) else { return 0 };
    let Some(icmp) = packet.header::<[u8; HEADER]>(IP + Ipv6Hdr::LEN) else { return 0 };
    let length = usize::from(u16::from_be(ip.u16::<{ offset_of!(Ipv6Hdr, payload_len) }>()));
    if ip.u8::<0>() >> 4 != 6
        || ip.u8::<{ offset_of!(Ipv6Hdr, next_hdr) }>() != PROTO_ICMPV6
        || icmp.u16::<0>() != REQUEST
        || length < HEADER
        || IP + Ipv6Hdr::LEN + length > packet.len()
    {
        return 0;
    }
    // SAFETY: as above.
    let Some(&service) = (unsafe { VIPS6.get(address!(ip, dst_addr)) }) else { return 0 };
    swap6!(ip);
    ip.set_u8::<{ offset_of!(Ipv6Hdr, hop_limit) }>(TTL);
    icmp.set_u16::<0>(REPLY);
    icmp.set_u16::<CHECK>(Delta::new().word16(REQUEST, REPLY).apply(icmp.u16::<CHECK>()));
    service
}

/// Most errors one CPU sends per second: every new path is told of at once, and a flood of packets that are too big is not
/// answered by another one.
const ERRORS_PER_SECOND: u64 = 1000;

/// Takes one of the errors that may be sent in this second.
#[inline(always)]
fn may_tell() -> bool {
    budget::spend(ANSWER_BUDGET.get_ptr_mut(0), ERRORS_PER_SECOND)
}

/// Moves the first so many words of the IP packet `by` bytes back, and adds them up. The last one comes first, because the
/// two places overlap.
#[inline(always)]
fn move_back(packet: Packet, words: usize, by: usize) -> Option<u64> {
    let mut sum = 0;
    let mut left = words;
    while left > 0 {
        left -= 1;
        let from = IP + (left & 0x1ff) * 4;
        let word = packet.header::<[u8; 4]>(from)?.u32::<0>();
        packet.header::<[u8; 4]>(from + by)?.set_u32::<0>(word);
        sum += u64::from(word);
    }
    Some(sum)
}

/// The smallest MTU there is (RFC 791 §3.2, RFC 8200 §5).
const LEAST_MTU4: usize = 68;
const LEAST_MTU6: usize = 1280;

/// Turns a packet into the answer that it is too big for its way by so many bytes (RFC 1191 §4): the
/// header and eight bytes of what follows. False: there is none to be sent, and the frame is as it was.
#[cold]
#[inline(never)]
pub fn too_big4(packet: Packet, excess: u32) -> bool {
    tell4(packet, excess as usize).is_some()
}

#[inline(always)]
fn tell4(packet: Packet, excess: usize) -> Option<()> {
    let packet = packet.opaque();
    const SOURCE: usize = offset_of!(Ipv4Hdr, src_addr);
    const DESTINATION: usize = offset_of!(Ipv4Hdr, dst_addr);
    const ADDED: usize = Ipv4Hdr::LEN + HEADER;
    const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
    let ip = packet.header::<Ipv4Hdr>(IP)?;
    let quote = usize::from(ip.u8::<0>() & 0x0f) * 4 + 8;
    let length = usize::from(u16::from_be(ip.u16::<{ offset_of!(Ipv4Hdr, tot_len) }>()));
    let mtu = length.wrapping_sub(excess);
    if ip.u16::<{ offset_of!(Ipv4Hdr, frags) }>() & DONT_FRAGMENT == 0
        || !(LEAST_MTU4..length).contains(&mtu)
        || length < ADDED + quote
        || !may_tell()
    {
        return None;
    }
    let (source, destination) = (ip.u32::<DESTINATION>(), ip.u32::<SOURCE>());
    let sum = move_back(packet, quote / 4, ADDED)?;
    if !packet.cut(IP + ADDED + quote) {
        return None;
    }
    let ip = packet.header::<[u8; ADDED]>(IP)?;
    let [high, low] = ((ADDED + quote) as u16).to_be_bytes();
    let first = u32::from_ne_bytes([0x45, 0, high, low]);
    let second = u32::from_ne_bytes([0, 0, 0x40, 0]);
    let third = u32::from_ne_bytes([TTL, PROTO_ICMP, 0, 0]);
    ip.set_u32::<0>(first);
    ip.set_u32::<4>(second);
    let check = lb_common::csum::ipv4_header([first, second, third, source, destination]);
    ip.set_u16::<8>(third as u16);
    ip.set_u16::<10>(check);
    ip.set_u32::<SOURCE>(source);
    ip.set_u32::<DESTINATION>(destination);
    // Destination unreachable: fragmentation needed.
    let kind = u32::from_ne_bytes([3, 4, 0, 0]);
    let [high, low] = (mtu as u16).to_be_bytes();
    let rest = u32::from_ne_bytes([0, 0, high, low]);
    ip.set_u32::<20>(kind);
    ip.set_u32::<24>(rest);
    ip.set_u16::<22>(!fold(sum + u64::from(kind) + u64::from(rest)));
    Some(())
}

/// As [`too_big4`] (RFC 4443 §3.2): as much as fits into what every link takes.
#[cold]
#[inline(never)]
pub fn too_big6(packet: Packet, excess: u32) -> bool {
    tell6(packet, excess as usize).is_some()
}

#[inline(always)]
fn tell6(packet: Packet, excess: usize) -> Option<()> {
    let packet = packet.opaque();
    const ADDED: usize = Ipv6Hdr::LEN + HEADER;
    const QUOTE: usize = LEAST_MTU6 - ADDED;
    let ip = packet.header::<Ipv6Hdr>(IP)?;
    let length = Ipv6Hdr::LEN + usize::from(u16::from_be(ip.u16::<{ offset_of!(Ipv6Hdr, payload_len) }>()));
    let mtu = length.wrapping_sub(excess);
    // What is longer than that is longer than the answer.
    if !(LEAST_MTU6..length).contains(&mtu) || !may_tell() {
        return None;
    }
    let sum = move_back(packet, QUOTE / 4, ADDED)?;
    if !packet.cut(IP + LEAST_MTU6) {
        return None;
    }
    let quoted = packet.header::<Ipv6Hdr>(IP + ADDED)?;
    let ip = packet.header::<[u8; ADDED]>(IP)?;
    ip.set_u32::<0>(u32::from_ne_bytes([0x60, 0, 0, 0]));
    let [high, low] = ((HEADER + QUOTE) as u16).to_be_bytes();
    ip.set_u32::<4>(u32::from_ne_bytes([high, low, PROTO_ICMPV6, TTL]));
    let mut pseudo =
        u64::from(u32::from_ne_bytes([0, 0, high, low])) + u64::from(u32::from_ne_bytes([0, 0, 0, PROTO_ICMPV6]));
    macro_rules! address {
        ($($word:literal)*) => {$(
            let (source, destination) = (quoted.u32::<{ $word + 16 }>(), quoted.u32::<{ $word }>());
            ip.set_u32::<{ $word }>(source);
            ip.set_u32::<{ $word + 16 }>(destination);
            pseudo += u64::from(source) + u64::from(destination);
        )*};
    }
    address!(8 12 16 20);
    let kind = u32::from_ne_bytes([2, 0, 0, 0]);
    let rest = (mtu as u32).to_be();
    ip.set_u32::<40>(kind);
    ip.set_u32::<44>(rest);
    ip.set_u16::<42>(!fold(sum + pseudo + u64::from(kind) + u64::from(rest)));
    Some(())
}
