//! IPv4 (RFC 791), with options.

use core::mem::offset_of;

use network_types::ip::Ipv4Hdr;

use lb_ebpf::packet::Packet;

use super::{IP, l4};

/// An IPv4 packet that carries TCP or UDP ports. Addresses and ports in network order.
pub struct Ipv4 {
    pub source: u32,
    pub destination: u32,
    pub protocol: u8,
    /// Offset of the L4 header in the frame.
    pub l4: usize,
    pub ports: l4::Ports,
    /// The total length field: header and payload, without Ethernet padding.
    pub length: usize,
    pub tos: u8,
    pub ttl: u8,
    /// The first fragment of several; later ones have no ports and are not parsed.
    pub fragmented: bool,
}

/// The more-fragments bit and the fragment offset, in network order.
const MORE_FRAGMENTS: u16 = 0x2000_u16.to_be();
const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

/// `None`: no ports to look a service up by.
#[inline(always)]
pub fn parse(packet: Packet) -> Option<Ipv4> {
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
    Some(Ipv4 {
        source: header.u32::<{ offset_of!(Ipv4Hdr, src_addr) }>(),
        destination: header.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(),
        protocol,
        l4,
        ports: l4::ports(packet, l4)?,
        length,
        tos: header.u8::<{ offset_of!(Ipv4Hdr, tos) }>(),
        ttl: header.u8::<{ offset_of!(Ipv4Hdr, ttl) }>(),
        fragmented: fragment & MORE_FRAGMENTS != 0,
    })
}

impl Ipv4 {
    /// The whole packet is in the frame, and the packet holds its whole L4 header. Checked only once the packet
    /// is known to be for a service: anyone else's odd packets are none of our business.
    #[inline(always)]
    pub fn complete(&self, packet: Packet) -> bool {
        IP + self.length <= packet.len() && self.length >= self.l4 - IP + l4::header_length(self.protocol)
    }
}
