//! IPv6 (RFC 8200), without extension headers: a packet that has any carries no ports we can see.

use core::mem::offset_of;

use network_types::ip::Ipv6Hdr;

use lb_ebpf::packet::Packet;

use super::{IP, Ip, l4};

/// Offset of the L4 header in the frame.
const L4: usize = IP + Ipv6Hdr::LEN;

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
pub fn parse(packet: Packet) -> Option<Ip<[u32; 4]>> {
    let header = packet.header::<Ipv6Hdr>(IP)?;
    // Version, traffic class, flow label.
    let first_word = u32::from_be(header.u32::<{ offset_of!(Ipv6Hdr, vcf) }>());
    let protocol = header.u8::<{ offset_of!(Ipv6Hdr, next_hdr) }>();
    if first_word >> 28 != 6 || !l4::balanced(protocol) {
        return None;
    }
    let payload = usize::from(u16::from_be(header.u16::<{ offset_of!(Ipv6Hdr, payload_len) }>()));
    if payload < l4::PORTS {
        return None;
    }
    Some(Ip {
        source: address!(header, src_addr),
        destination: address!(header, dst_addr),
        protocol,
        l4: L4,
        ports: l4::ports(packet, L4)?,
        length: Ipv6Hdr::LEN + payload,
        class: (first_word >> 20) as u8,
        hops: header.u8::<{ offset_of!(Ipv6Hdr, hop_limit) }>(),
        fragmented: false,
    })
}
