//! IPv4 (RFC 791), with options.

use core::mem::offset_of;

use network_types::ip::Ipv4Hdr;

use lb_ebpf::packet::Packet;

use super::{IP, Ip, l4};

/// The more-fragments bit and the fragment offset, in network order.
const MORE_FRAGMENTS: u16 = 0x2000_u16.to_be();
const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

/// `None`: no ports to look a service up by.
#[inline(always)]
pub fn parse(packet: Packet) -> Option<Ip<u32>> {
    let header = packet.header::<Ipv4Hdr>(IP)?;
    let vihl = header.u8::<{ offset_of!(Ipv4Hdr, vihl) }>();
    let header_length = usize::from(vihl & 0x0f) * 4;
    if vihl >> 4 != 4 || header_length < Ipv4Hdr::LEN {
        return None;
    }
    let fragment = header.u16::<{ offset_of!(Ipv4Hdr, frags) }>();
    let protocol = header.u8::<{ offset_of!(Ipv4Hdr, proto) }>();
    if fragment & FRAGMENT_OFFSET != 0 || !l4::balanced(protocol) {
        return None;
    }
    let length = usize::from(u16::from_be(header.u16::<{ offset_of!(Ipv4Hdr, tot_len) }>()));
    if length < header_length + l4::PORTS {
        return None;
    }
    let l4 = IP + header_length;
    Some(Ip {
        source: header.u32::<{ offset_of!(Ipv4Hdr, src_addr) }>(),
        destination: header.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(),
        protocol,
        l4,
        ports: l4::ports(packet, l4)?,
        length,
        class: header.u8::<{ offset_of!(Ipv4Hdr, tos) }>(),
        hops: header.u8::<{ offset_of!(Ipv4Hdr, ttl) }>(),
        fragmented: fragment & MORE_FRAGMENTS != 0,
    })
}
