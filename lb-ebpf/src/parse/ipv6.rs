//! IPv6 (RFC 8200), without extension headers: a packet that has any carries no ports we can see.

use core::mem::offset_of;

use network_types::ip::Ipv6Hdr;

use lb_ebpf::packet::Packet;

use super::{IP, l4};

/// Offset of the L4 header in the frame.
pub const L4: usize = IP + Ipv6Hdr::LEN;

/// An IPv6 packet whose payload is TCP or UDP. Addresses and ports in network order.
pub struct Ipv6 {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub protocol: u8,
    pub ports: l4::Ports,
    /// Header and payload, without Ethernet padding.
    pub length: usize,
    /// Version, traffic class and flow label, in network order.
    pub first_word: u32,
    pub hop_limit: u8,
}

/// The four words of an address that starts `OFFSET` bytes into the header.
macro_rules! address {
    ($header:expr, $field:ident) => {
        [
            $header.u32::<{ offset_of!(Ipv6Hdr, $field) }>(),
            $header.u32::<{ offset_of!(Ipv6Hdr, $field) + 4 }>(),
            $header.u32::<{ offset_of!(Ipv6Hdr, $field) + 8 }>(),
            $header.u32::<{ offset_of!(Ipv6Hdr, $field) + 12 }>(),
        ]
    };
}

/// `None`: no ports to look a service up by.
#[inline(always)]
pub fn parse(packet: Packet) -> Option<Ipv6> {
    let header = packet.header::<Ipv6Hdr>(IP)?;
    let first_word = header.u32::<{ offset_of!(Ipv6Hdr, vcf) }>();
    let protocol = header.u8::<{ offset_of!(Ipv6Hdr, next_hdr) }>();
    if u32::from_be(first_word) >> 28 != 6 || !l4::balanced(protocol) {
        return None;
    }
    let payload = usize::from(u16::from_be(header.u16::<{ offset_of!(Ipv6Hdr, payload_len) }>()));
    if payload < l4::PORTS {
        return None;
    }
    Some(Ipv6 {
        source: address!(header, src_addr),
        destination: address!(header, dst_addr),
        protocol,
        ports: l4::ports(packet, L4)?,
        length: Ipv6Hdr::LEN + payload,
        first_word,
        hop_limit: header.u8::<{ offset_of!(Ipv6Hdr, hop_limit) }>(),
    })
}

impl Ipv6 {
    /// As [`super::ipv4::Ipv4::complete`].
    #[inline(always)]
    pub fn complete(&self, packet: Packet) -> bool {
        IP + self.length <= packet.len() && self.length >= Ipv6Hdr::LEN + l4::header_length(self.protocol)
    }
}
