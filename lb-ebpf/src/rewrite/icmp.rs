//! ICMP errors on their way to whom they concern: the quoted packet becomes the one that its sender had sent, and the
//! error is addressed to that sender. Checksums change by the difference, as in [`super::nat`], those of the quoted packet,
//! too, as far as it is quoted.
//!
//! Functions of their own in the object: errors are rare, and have many fields.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;

use lb_common::addr::PROTO_UDP;
use lb_common::csum::Delta;
use lb_ebpf::packet::Packet;

use super::nat::End;
use super::ttl;
use crate::parse::IP;
use crate::parse::icmp::{HEADER, QUOTED};

/// Offset of the checksum in an ICMP header.
const CHECK: usize = 2;
const UDP_CHECK: usize = 6;
const TCP_CHECK: usize = offset_of!(TcpHdr, check);
/// As much of a TCP header as has the checksum in it.
const SUMMED: usize = TCP_CHECK + 2;

/// Where the parts of an error are in the frame, whose packet it quotes, and which end of that changes.
#[inline(always)]
pub fn place(icmp: usize, l4: usize, length: usize, protocol: u8, end: End) -> u64 {
    let sent_by_vip = match end {
        End::Destination => 1,
        End::Source => 0,
    };
    icmp as u64 | (l4 as u64) << 12 | (length as u64) << 24 | u64::from(protocol) << 40 | sent_by_vip << 48
}

#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    #[inline(always)]
    fn icmp(self) -> usize {
        self.0 as usize & 0x1ff
    }

    #[inline(always)]
    fn l4(self) -> usize {
        (self.0 >> 12) as usize & 0x1ff
    }

    /// Of the whole IP packet.
    #[inline(always)]
    fn length(self) -> usize {
        (self.0 >> 24) as usize & 0xffff
    }

    #[inline(always)]
    fn is_udp(self) -> bool {
        (self.0 >> 40) as u8 == PROTO_UDP
    }

    /// The quoted packet is from the VIP to a client, and the VIP becomes the backend; else it is from a client to a backend,
    /// which becomes the VIP.
    #[inline(always)]
    fn is_from_vip(self) -> bool {
        self.0 >> 48 != 0
    }
}

/// Changes the quoted port and the checksum after it, given what changes of the addresses. Returns what changed of the
/// message.
#[inline(always)]
fn l4(packet: Packet, place: Place, port: u16, addresses: Delta) -> Option<Delta> {
    let quoted = packet.header::<[u8; QUOTED]>(place.l4())?;
    let old = if place.is_from_vip() {
        let old = quoted.u16::<0>();
        quoted.set_u16::<0>(port);
        old
    } else {
        let old = quoted.u16::<2>();
        quoted.set_u16::<2>(port);
        old
    };
    let message = Delta::new().word16(old, port);
    let delta = addresses.word16(old, port);
    if place.is_udp() {
        let before = quoted.u16::<UDP_CHECK>();
        let after = delta.apply_udp(before);
        quoted.set_u16::<UDP_CHECK>(after);
        return Some(message.word16(before, after));
    }
    if place.l4() + SUMMED > IP + place.length() {
        return Some(message);
    }
    let tcp = packet.header::<[u8; SUMMED]>(place.l4())?;
    let before = tcp.u16::<TCP_CHECK>();
    let after = delta.apply(before);
    tcp.set_u16::<TCP_CHECK>(after);
    Some(message.word16(before, after))
}

/// Puts an address and a port in the place of the VIP's or a backend's. `place` as [`place`] makes it.
#[cold]
#[inline(never)]
pub fn ipv4(packet: Packet, around: u64, new: &u32, port: u16) -> bool {
    error4(packet, Place(around), *new, port).is_some()
}

#[inline(always)]
fn error4(packet: Packet, place: Place, new: u32, port: u16) -> Option<()> {
    let packet = packet.opaque();
    const SOURCE: usize = offset_of!(Ipv4Hdr, src_addr);
    const DESTINATION: usize = offset_of!(Ipv4Hdr, dst_addr);
    const HEADER_CHECK: usize = offset_of!(Ipv4Hdr, check);
    let inner = packet.header::<Ipv4Hdr>(place.icmp() + HEADER)?;
    let old = if place.is_from_vip() {
        let old = inner.u32::<SOURCE>();
        inner.set_u32::<SOURCE>(new);
        old
    } else {
        let old = inner.u32::<DESTINATION>();
        inner.set_u32::<DESTINATION>(new);
        old
    };
    let address = Delta::new().word32(old, new);
    let before = inner.u16::<HEADER_CHECK>();
    let after = address.apply(before);
    inner.set_u16::<HEADER_CHECK>(after);
    let quoted = l4(packet, place, port, address)?;
    let icmp = packet.header::<[u8; HEADER]>(place.icmp())?;
    icmp.set_u16::<CHECK>(address.word16(before, after).and(quoted).apply(icmp.u16::<CHECK>()));

    let outer = packet.header::<Ipv4Hdr>(IP)?;
    let delta = ttl::less4(&outer, Delta::new());
    let delta = if place.is_from_vip() {
        outer.set_u32::<DESTINATION>(new);
        delta.and(address)
    } else if outer.u32::<SOURCE>() == old {
        outer.set_u32::<SOURCE>(new);
        delta.and(address)
    } else {
        // From a router on the way, whose address is its own.
        delta
    };
    outer.set_u16::<HEADER_CHECK>(delta.apply(outer.u16::<HEADER_CHECK>()));
    Some(())
}

/// As [`ipv4`].
#[cold]
#[inline(never)]
pub fn ipv6(packet: Packet, around: u64, new: &[u32; 4], port: u16) -> bool {
    error6(packet, Place(around), new, port).is_some()
}

/// Replaces an address in a header and returns what it was.
macro_rules! replace {
    ($header:ident, $at:expr, $new:ident) => {{
        let old = [
            $header.u32::<{ $at }>(),
            $header.u32::<{ $at + 4 }>(),
            $header.u32::<{ $at + 8 }>(),
            $header.u32::<{ $at + 12 }>(),
        ];
        $header.set_u32::<{ $at }>($new[0]);
        $header.set_u32::<{ $at + 4 }>($new[1]);
        $header.set_u32::<{ $at + 8 }>($new[2]);
        $header.set_u32::<{ $at + 12 }>($new[3]);
        old
    }};
}

#[inline(always)]
fn error6(packet: Packet, place: Place, new: &[u32; 4], port: u16) -> Option<()> {
    let packet = packet.opaque();
    const SOURCE: usize = offset_of!(Ipv6Hdr, src_addr);
    const DESTINATION: usize = offset_of!(Ipv6Hdr, dst_addr);
    let inner = packet.header::<Ipv6Hdr>(place.icmp() + HEADER)?;
    let old = if place.is_from_vip() { replace!(inner, SOURCE, new) } else { replace!(inner, DESTINATION, new) };
    let address = Delta::new().words128(old, *new);
    let quoted = l4(packet, place, port, address)?;

    let outer = packet.header::<Ipv6Hdr>(IP)?;
    ttl::less6(&outer);
    // The checksum is over the addresses of the outer header, too.
    let message = address.and(quoted);
    let message = if place.is_from_vip() {
        let _ = replace!(outer, DESTINATION, new);
        message.and(address)
    } else if outer.u32::<SOURCE>() == old[0]
        && outer.u32::<{ SOURCE + 4 }>() == old[1]
        && outer.u32::<{ SOURCE + 8 }>() == old[2]
        && outer.u32::<{ SOURCE + 12 }>() == old[3]
    {
        let _ = replace!(outer, SOURCE, new);
        message.and(address)
    } else {
        message
    };
    let icmp = packet.header::<[u8; HEADER]>(place.icmp())?;
    icmp.set_u16::<CHECK>(message.apply(icmp.u16::<CHECK>()));
    Some(())
}
