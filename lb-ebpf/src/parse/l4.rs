//! TCP (RFC 9293 §3.1) and UDP (RFC 768): ports first, the rest only for packets of a service.

use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use lb_common::addr::{PROTO_TCP, PROTO_UDP};
use lb_ebpf::packet::Packet;

/// Both protocols begin with the same four bytes.
pub const PORTS: usize = 4;

/// Source and destination port in network order, as the one word that they are in the packet.
#[derive(Clone, Copy, Default)]
pub struct Ports(pub u32);

#[inline(always)]
pub fn balanced(protocol: u8) -> bool {
    protocol == PROTO_TCP || protocol == PROTO_UDP
}

#[inline(always)]
pub fn header_length(protocol: u8) -> usize {
    if protocol == PROTO_TCP { TcpHdr::LEN } else { UdpHdr::LEN }
}

impl Ports {
    #[inline(always)]
    pub fn source(self) -> u16 {
        let [a, b, ..] = self.0.to_ne_bytes();
        u16::from_ne_bytes([a, b])
    }

    #[inline(always)]
    pub fn destination(self) -> u16 {
        let [.., a, b] = self.0.to_ne_bytes();
        u16::from_ne_bytes([a, b])
    }

    /// Of a packet in the other direction.
    #[inline(always)]
    pub fn back(self) -> Self {
        Self(self.0.rotate_left(16))
    }
}

#[inline(always)]
pub fn ports(packet: Packet, l4: usize) -> Option<Ports> {
    Some(Ports(packet.header::<[u8; PORTS]>(l4)?.u32::<0>()))
}

const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The packet opens a TCP connection, in either direction.
#[inline(always)]
pub fn synchronizes(packet: Packet, protocol: u8, l4: usize) -> bool {
    protocol == PROTO_TCP && packet.header::<TcpHdr>(l4).is_some_and(|tcp| tcp.u8::<TCP_FLAGS>() & SYN != 0)
}

/// The packet asks to open a TCP connection.
#[inline(always)]
pub fn opens(packet: Packet, protocol: u8, l4: usize) -> bool {
    if protocol != PROTO_TCP {
        return false;
    }
    match packet.header::<TcpHdr>(l4) {
        Some(tcp) => tcp.u8::<TCP_FLAGS>() & (SYN | ACK) == SYN,
        None => false,
    }
}
