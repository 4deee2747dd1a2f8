//! IPv6 extension headers (RFC 8200 §4): stepped over, up to a number and a length that no honest packet exceeds.

use lb_common::addr::{PROTO_TCP, PROTO_UDP};
use lb_ebpf::packet::Packet;

use super::{FIRST, LATER, WHOLE};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Most headers that are stepped over, and the last byte where the L4 header may start.
const MOST: usize = 8;
pub const FURTHEST: usize = 310;

/// Where the L4 header is and what it is; or what is known of a later fragment, which has none.
#[derive(Clone, Copy)]
pub struct Chain(u64);

impl Chain {
    #[inline(always)]
    const fn new(protocol: u8, l4: usize, piece: u8, id: u32) -> Self {
        Self(protocol as u64 | (l4 as u64) << 8 | (piece as u64) << 24 | (id as u64) << 32)
    }

    /// [`FRAGMENT`] for a later fragment.
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        self.0 as u8
    }

    /// Offset in the frame of the L4 header, or of what a later fragment carries. At most 511, and the verifier sees that.
    #[inline(always)]
    pub const fn l4(self) -> usize {
        (self.0 >> 8) as usize & 0x1ff
    }

    /// [`WHOLE`], [`FIRST`] or [`LATER`].
    #[inline(always)]
    pub const fn piece(self) -> u8 {
        (self.0 >> 24) as u8 & 3
    }

    /// What all fragments of a packet have in common.
    #[inline(always)]
    pub const fn id(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The packet does not begin with ports, and may have them behind other headers.
#[inline(always)]
pub const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Steps over the headers from `at` on, the first of which is `next`. `None`: no L4 header that we know of is behind them, or
/// the packet is still on its way to somewhere else.
#[inline(always)]
pub fn walk(packet: Packet, next: u8, at: usize) -> Option<Chain> {
    match step_over(packet, next, at) {
        0 => None,
        chain => Some(Chain(chain)),
    }
}

#[cold]
#[inline(never)]
fn step_over(packet: Packet, first: u8, start: usize) -> u64 {
    let packet = packet.opaque();
    let (mut next, mut at) = (first, start);
    let (mut piece, mut id) = (WHOLE, 0);
    for _ in 0..=MOST {
        if next == PROTO_TCP || next == PROTO_UDP {
            return Chain::new(next, at, piece, id).0;
        }
        if !is_extension(next) {
            return 0;
        }
        let Some(header) = packet.header::<[u8; 8]>(at) else { return 0 };
        let kind = next;
        next = header.u8::<0>();
        if kind == FRAGMENT {
            let place = u16::from_be(header.u16::<2>());
            id = header.u32::<4>();
            at += 8;
            if place & 0xfff8 != 0 {
                return Chain::new(FRAGMENT, at, LATER, id).0;
            }
            // One that is neither followed nor following (RFC 6946) is a whole packet.
            if place & 1 != 0 {
                piece = FIRST;
            }
        } else {
            // Segments left: the destination is not the last one, and the checksum not for it.
            if kind == ROUTING && header.u8::<3>() != 0 {
                return 0;
            }
            at += (usize::from(header.u8::<1>()) + 1) * 8;
        }
        if at > FURTHEST {
            return 0;
        }
    }
    0
}
