//! TCP (RFC 9293 §3.1) and UDP (RFC 768): ports first, the rest only for packets of a service.

use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use lb_common::addr::{PROTO_TCP, PROTO_UDP};
use lb_ebpf::packet::Packet;

/// Both protocols begin with the same four bytes.
pub const PORTS: usize = 4;

/// Source and destination port, in network order.
#[derive(Clone, Copy)]
pub struct Ports {
    pub source: u16,
    pub destination: u16,
    /// Both as one word, for the hash.
    pub word: u32,
}

#[inline(always)]
pub fn balanced(protocol: u8) -> bool {
    protocol == PROTO_TCP || protocol == PROTO_UDP
}

#[inline(always)]
pub fn header_length(protocol: u8) -> usize {
    if protocol == PROTO_TCP { TcpHdr::LEN } else { UdpHdr::LEN }
}

#[inline(always)]
pub fn ports(packet: Packet, l4: usize) -> Option<Ports> {
    let bytes: *mut [u8; 4] = packet.at(l4)?;
    // SAFETY: bounds checked by `at`.
    let bytes = unsafe { *bytes };
    Some(Ports {
        source: u16::from_ne_bytes([bytes[0], bytes[1]]),
        destination: u16::from_ne_bytes([bytes[2], bytes[3]]),
        word: u32::from_ne_bytes(bytes),
    })
}

const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The packet asks to open a TCP connection.
#[inline(always)]
pub fn opens(packet: Packet, protocol: u8, l4: usize) -> bool {
    if protocol != PROTO_TCP {
        return false;
    }
    match packet.at::<[u8; 1]>(l4 + TCP_FLAGS) {
        // SAFETY: bounds checked by `at`.
        Some(flags) => unsafe { (*flags)[0] & (SYN | ACK) == SYN },
        None => false,
    }
}
