//! Headers to values, once. Nothing here decides; a packet that cannot be a service's is `None`.

pub mod eth;
pub mod extensions;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod l4;

use lb_ebpf::packet::Packet;

use crate::settings;
use crate::veil::Veil;

pub use eth::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IP};

/// The packet is no fragment.
pub const WHOLE: u8 = 0;
/// The first fragment of several: it has the ports.
pub const FIRST: u8 = 1;
/// A later fragment: it has no L4 header, and what its first one told is in [`crate::lookup::fragments`].
pub const LATER: u8 = 2;

/// An ICMP error about a packet with ports. It is handled as a packet of the same flow in the other direction, so source,
/// ports and protocol are those of such a packet.
pub const ERROR: u8 = 3;

/// Which of these a packet is, from behind a [`Veil`].
#[derive(Clone, Copy)]
pub struct Piece<'v>(&'v Veil);

impl Piece<'_> {
    #[inline(always)]
    pub fn is(self, piece: u8) -> bool {
        self.0.byte::<0>() == piece
    }

    /// Those of the packet, or of the flow that it is about. `None`: they are not there.
    #[inline(always)]
    fn ports(self, packet: Packet, l4: usize, length: usize) -> Option<l4::Ports> {
        if self.is(LATER) && settings::fragments() != 0 {
            return Some(l4::Ports::default());
        }
        if IP + length < l4 + l4::PORTS {
            return None;
        }
        let ports = l4::ports(packet, l4)?;
        Some(if self.is(ERROR) && settings::icmp() != 0 { ports.back() } else { ports })
    }

    /// It has an L4 header of its own.
    #[inline(always)]
    pub fn has_header(self) -> bool {
        self.0.byte::<0>() <= FIRST
    }
}

/// What differs between packets that are handled alike: piece, protocol, and where the L4 header is (below 512). Behind a
/// veil, so that they are one to the verifier.
#[inline(always)]
fn veiled(veil: &mut Veil, piece: u8, protocol: u8, l4: usize) -> (Piece<'_>, u8, usize) {
    // Three numbers in one, wherever their bytes are on this machine.
    let [low, high] = (l4 as u16).to_ne_bytes();
    veil.set(u32::from_ne_bytes([piece, protocol, low, high]));
    (Piece(veil), veil.byte::<1>(), usize::from(veil.half::<1>()) & 0x1ff)
}

/// An IP packet that carries TCP or UDP ports, or a part of one, or is about one. Addresses and ports in network order.
pub struct Ip<'v, A> {
    pub source: A,
    pub destination: A,
    pub protocol: u8,
    /// Offset of the L4 header in the frame, or of what a later fragment carries. Of an error, that of the quoted packet.
    pub l4: usize,
    pub ports: l4::Ports,
    /// Header and payload, without Ethernet padding.
    pub length: usize,
    /// IPv4's ToS, IPv6's traffic class.
    pub class: u8,
    /// TTL or hop limit.
    pub hops: u8,
    pub piece: Piece<'v>,
    /// What all fragments of a packet have in common, if it is one. Of an error, the offset of its ICMP header.
    pub id: u32,
    /// Who got the first fragment, if this is a later one.
    pub follows: u16,
}

impl<A> Ip<'_, A> {
    /// The whole packet is in the frame, and the packet holds its whole L4 header. Checked only once the packet
    /// is known to be for a service: anyone else's odd packets are none of our business.
    #[inline(always)]
    pub fn complete(&self, packet: Packet) -> bool {
        let header = if self.piece.is(LATER) && settings::fragments() != 0 {
            0
        } else if self.piece.is(ERROR) && settings::icmp() != 0 {
            icmp::QUOTED
        } else {
            l4::header_length(self.protocol)
        };
        IP + self.length <= packet.len() && self.length >= self.l4 - IP + header
    }
}
