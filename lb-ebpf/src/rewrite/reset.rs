//! The answer to a TCP segment that has no connection any more: RST, made of the segment itself (RFC 9293 §3.10.7.1).
//!
//! A segment with ACK is answered with the sequence number it expects next, and nothing else; one without is answered
//! with sequence number 0 and an ACK of all it took. The sender believes no other. The trap is to answer a RST: two
//! nodes that do would never stop.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;

use lb_common::addr::PROTO_TCP;
use lb_common::csum::{self, fold};
use lb_ebpf::packet::Packet;

use crate::parse::IP;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

const TTL: u8 = 64;

/// Of a TCP header, in network order as loaded.
struct Answer {
    ports: u32,
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
}

impl Answer {
    /// To the segment at `l4`, which ends `length` bytes after the beginning of the IP header.
    #[inline(always)]
    fn to(packet: Packet, l4: usize, length: usize) -> Option<Self> {
        const SEQUENCE: usize = offset_of!(TcpHdr, seq);
        const ACKNOWLEDGMENT: usize = offset_of!(TcpHdr, ack_seq);
        let tcp = packet.header::<TcpHdr>(l4)?;
        let flags = tcp.u8::<13>();
        let header = usize::from(tcp.u8::<12>() >> 4) * 4;
        let end = l4 - IP + header;
        if flags & RST != 0 || header < TcpHdr::LEN || end > length {
            return None;
        }
        let ports = tcp.u32::<0>().rotate_left(16);
        let sequence = tcp.u32::<SEQUENCE>();
        if flags & ACK != 0 {
            return Some(Self { ports, sequence: tcp.u32::<ACKNOWLEDGMENT>(), acknowledgment: 0, flags: RST });
        }
        let taken = (length - end) as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let acknowledgment = u32::from_be(sequence).wrapping_add(taken).to_be();
        Some(Self { ports, sequence: 0, acknowledgment, flags: RST | ACK })
    }

    /// Writes the whole header; `pseudo` is the sum of the addresses.
    #[inline(always)]
    fn write(&self, packet: Packet, l4: usize, pseudo: u64) -> bool {
        const LENGTH: u8 = TcpHdr::LEN as u8;
        let Some(tcp) = packet.header::<TcpHdr>(l4) else { return false };
        let rest = u32::from_ne_bytes([(LENGTH / 4) << 4, self.flags, 0, 0]);
        let sum = pseudo
            + u64::from(u32::from_ne_bytes([0, PROTO_TCP, 0, LENGTH]))
            + u64::from(self.ports)
            + u64::from(self.sequence)
            + u64::from(self.acknowledgment)
            + u64::from(rest);
        tcp.set_u32::<0>(self.ports);
        tcp.set_u32::<{ offset_of!(TcpHdr, seq) }>(self.sequence);
        tcp.set_u32::<{ offset_of!(TcpHdr, ack_seq) }>(self.acknowledgment);
        tcp.set_u32::<12>(rest);
        tcp.set_u16::<{ offset_of!(TcpHdr, check) }>(!fold(sum));
        tcp.set_u16::<{ offset_of!(TcpHdr, urg_ptr) }>(0);
        true
    }
}

/// Turns what is behind the Ethernet header into the answer to its segment; `length` is the IP packet's. False: it has
/// none, and what is left of the frame is not to be sent.
#[cold]
#[inline(never)]
pub fn ipv4(packet: Packet, l4: usize, length: usize) -> bool {
    const SOURCE: usize = offset_of!(Ipv4Hdr, src_addr);
    const DESTINATION: usize = offset_of!(Ipv4Hdr, dst_addr);
    const LENGTH: usize = Ipv4Hdr::LEN + TcpHdr::LEN;
    let Some(answer) = Answer::to(packet, l4, length) else { return false };
    let Some(header) = packet.header::<Ipv4Hdr>(IP) else { return false };
    let (source, destination) = (header.u32::<DESTINATION>(), header.u32::<SOURCE>());
    if !packet.cut(IP + LENGTH) {
        return false;
    }
    let Some(header) = packet.header::<Ipv4Hdr>(IP) else { return false };
    let first = u32::from_ne_bytes([0x45, 0, 0, LENGTH as u8]);
    let second = u32::from_ne_bytes([0, 0, 0x40, 0]);
    let third = u32::from_ne_bytes([TTL, PROTO_TCP, 0, 0]);
    header.set_u32::<0>(first);
    header.set_u32::<4>(second);
    header.set_u16::<8>(third as u16);
    header.set_u16::<{ offset_of!(Ipv4Hdr, check) }>(csum::ipv4_header([first, second, third, source, destination]));
    header.set_u32::<SOURCE>(source);
    header.set_u32::<DESTINATION>(destination);
    answer.write(packet, IP + Ipv4Hdr::LEN, u64::from(source) + u64::from(destination))
}

/// As [`ipv4`].
#[cold]
#[inline(never)]
pub fn ipv6(packet: Packet, l4: usize, length: usize) -> bool {
    const SOURCE: usize = offset_of!(Ipv6Hdr, src_addr);
    const DESTINATION: usize = offset_of!(Ipv6Hdr, dst_addr);
    let Some(answer) = Answer::to(packet, l4, length) else { return false };
    if !packet.cut(IP + Ipv6Hdr::LEN + TcpHdr::LEN) {
        return false;
    }
    let Some(header) = packet.header::<Ipv6Hdr>(IP) else { return false };
    macro_rules! swap {
        ($($word:literal)*) => {
            0 $(+ {
                let (source, destination) = (header.u32::<{ SOURCE + $word }>(), header.u32::<{ DESTINATION + $word }>());
                header.set_u32::<{ SOURCE + $word }>(destination);
                header.set_u32::<{ DESTINATION + $word }>(source);
                u64::from(source) + u64::from(destination)
            })*
        };
    }
    let pseudo: u64 = swap!(0 4 8 12);
    header.set_u32::<0>(u32::from_ne_bytes([0x60, 0, 0, 0]));
    header.set_u32::<4>(u32::from_ne_bytes([0, TcpHdr::LEN as u8, PROTO_TCP, TTL]));
    answer.write(packet, IP + Ipv6Hdr::LEN, pseudo)
}
