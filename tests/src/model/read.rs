//! Packets taken apart, byte by byte as the RFCs draw them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::addr::{PROTO_TCP, PROTO_UDP};

use super::Family;
use super::world::Endpoint;

/// Where the IP header starts, behind no VLAN tag.
pub const ETHERNET: usize = 14;

/// An IP packet that carries the ports of TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub family: Family,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    /// Offset in the frame of the TCP or UDP header, or of what a later fragment carries.
    pub l4: usize,
    /// Header and payload as the IP header says; what follows in the frame is padding.
    pub length: usize,
    /// ToS or traffic class.
    pub class: u8,
    /// TTL or hop limit.
    pub hops: u8,
    pub piece: Piece,
    /// What all fragments of a packet have in common, if it is one.
    pub identification: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Piece {
    Whole,
    /// The first fragment of several.
    First,
    /// Another one: it has no ports of its own.
    Later,
    /// An ICMP error about a packet with ports. It is read as a packet of the same flow in the other direction: its
    /// source, ports and protocol are such a packet's, `l4` is the quoted header's place, and `identification` that of the
    /// ICMP header.
    Error,
}

pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from(*bytes.get(at)?) << 8 | u16::from(*bytes.get(at + 1)?))
}

/// The family by the frame's EtherType.
pub fn family(frame: &[u8]) -> Family {
    match be16(frame, 12) {
        Some(0x0800) => Family::V4,
        Some(0x86dd) => Family::V6,
        _ => Family::Other,
    }
}

/// The frame without its VLAN tags (IEEE 802.1Q, 802.1ad), and how many it had: two at most, with IP behind them.
pub fn untagged(frame: &[u8]) -> (Vec<u8>, usize) {
    let is_tag = |at| matches!(be16(frame, at), Some(0x8100 | 0x88a8));
    let tags = match (is_tag(12), is_tag(16)) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    match be16(frame, 12 + 4 * tags) {
        Some(0x0800 | 0x86dd) => ([&frame[..12], &frame[12 + 4 * tags..]].concat(), tags),
        _ => (frame.to_vec(), 0),
    }
}

/// `None` where there are no ports to look a service up by. A later fragment has none.
pub fn datagram(frame: &[u8]) -> Option<Datagram> {
    part(frame).filter(|packet| packet.piece != Piece::Later)
}

/// As [`datagram`]; a later fragment comes with ports of 0, and in IPv6 with no protocol.
pub fn part(frame: &[u8]) -> Option<Datagram> {
    match family(frame) {
        Family::V4 => v4(frame),
        Family::V6 => v6(frame),
        Family::Other => None,
    }
}

/// RFC 791 §3.1.
fn v4(frame: &[u8]) -> Option<Datagram> {
    let ip = frame.get(ETHERNET..)?;
    let (version, header) = (ip.first()? >> 4, usize::from(ip.first()? & 0x0f) * 4);
    let (source, destination) = (address4(ip, 12)?, address4(ip, 16)?);
    let (flags_and_offset, length) = (be16(ip, 6)?, usize::from(be16(ip, 2)?));
    let piece = match (flags_and_offset & 0x1fff, flags_and_offset & 0x2000 != 0) {
        (0, false) => Piece::Whole,
        (0, true) => Piece::First,
        _ => Piece::Later,
    };
    // Protocol 0 is nobody's in IPv4.
    if version != 4 || header < 20 || ip[9] == 0 {
        return None;
    }
    let partial = Datagram {
        class: ip[1],
        hops: ip[8],
        identification: u32::from(be16(ip, 4)?),
        ..transport(frame, ip[9], ETHERNET + header, piece)?
    };
    let datagram = Datagram { family: Family::V4, source, destination, length, ..partial };
    datagram.has_ports().then_some(datagram)
}

/// RFC 8200 §3.
fn v6(frame: &[u8]) -> Option<Datagram> {
    let ip = frame.get(ETHERNET..)?;
    let (source, destination) = (address6(ip, 8)?, address6(ip, 24)?);
    if ip[0] >> 4 != 6 {
        return None;
    }
    let Chain { protocol, l4, piece, identification } = chain(frame, ip[6], ETHERNET + 40)?;
    let partial = Datagram {
        class: ip[0] << 4 | ip[1] >> 4,
        hops: ip[7],
        identification,
        ..transport(frame, protocol, l4, piece)?
    };
    let length = 40 + usize::from(be16(ip, 4)?);
    let datagram = Datagram { family: Family::V6, source, destination, length, ..partial };
    datagram.has_ports().then_some(datagram)
}

/// Where IPv6 extension headers end, and what they say of fragments.
struct Chain {
    protocol: u8,
    l4: usize,
    piece: Piece,
    identification: u32,
}

/// RFC 8200 §4: hop-by-hop options (0), routing (43), fragment (44) and destination options (60), eight headers or 256
/// bytes of them. A packet with segments left (§4.4) has another destination than the one in its header.
fn chain(frame: &[u8], first: u8, at: usize) -> Option<Chain> {
    let mut chain = Chain { protocol: first, l4: at, piece: Piece::Whole, identification: 0 };
    let mut headers = 0;
    while matches!(chain.protocol, 0 | 43 | 44 | 60) {
        let header = frame.get(chain.l4..chain.l4 + 8)?;
        headers += 1;
        let kind = std::mem::replace(&mut chain.protocol, header[0]);
        if kind == 44 {
            chain.identification = u32::from_be_bytes(header[4..8].try_into().ok()?);
            let place = be16(header, 2)?;
            chain.l4 += 8;
            if place >> 3 != 0 {
                return Some(Chain { protocol: 0, piece: Piece::Later, ..chain });
            }
            // Neither followed nor following: a whole packet (RFC 6946).
            if place & 1 != 0 {
                chain.piece = Piece::First;
            }
        } else {
            if kind == 43 && header[3] != 0 {
                return None;
            }
            chain.l4 += (usize::from(header[1]) + 1) * 8;
        }
        if headers > 8 || chain.l4 > ETHERNET + 40 + 256 {
            return None;
        }
    }
    Some(chain)
}

/// An ICMP error (RFC 792, RFC 4443 §3) about a packet with ports, which went from whom the error goes to; with
/// `extensions`, IPv6 extension headers of that packet are followed.
pub fn error(frame: &[u8], extensions: bool) -> Option<Datagram> {
    let ip = frame.get(ETHERNET..)?;
    let (family, icmp, length, class, hops) = match family(frame) {
        Family::V4 => {
            let (version, header) = (ip.first()? >> 4, usize::from(ip.first()? & 0x0f) * 4);
            let whole = be16(ip, 6)? & 0x3fff == 0;
            let errors = ip.get(9)? == &1 && matches!(frame.get(ETHERNET + header)?, 3 | 11 | 12);
            (version == 4 && header >= 20 && ip.len() >= 20 && whole && errors).then_some(())?;
            (Family::V4, ETHERNET + header, usize::from(be16(ip, 2)?), ip[1], ip[8])
        }
        Family::V6 => {
            let errors = *ip.get(6)? == 58 && matches!(frame.get(ETHERNET + 40)?, 1..=4);
            (ip[0] >> 4 == 6 && errors).then_some(())?;
            (Family::V6, ETHERNET + 40, 40 + usize::from(be16(ip, 4)?), ip[0] << 4 | ip[1] >> 4, ip[7])
        }
        Family::Other => return None,
    };
    let quoted = frame.get(icmp + 8..)?;
    let (sender, receiver, protocol, l4) = match family {
        Family::V4 => {
            let header = usize::from(quoted.first()? & 0x0f) * 4;
            let first = be16(quoted, 6)? & 0x1fff == 0;
            (quoted[0] >> 4 == 4 && header >= 20 && quoted.len() >= 20 && first).then_some(())?;
            (address4(quoted, 12)?, address4(quoted, 16)?, quoted[9], icmp + 8 + header)
        }
        _ => {
            let (sender, receiver) = (address6(quoted, 8)?, address6(quoted, 24)?);
            (quoted[0] >> 4 == 6).then_some(())?;
            let at = icmp + 8 + 40;
            let chain = chain(frame, quoted[6], at)?;
            (chain.piece != Piece::Later && (extensions || chain.l4 == at)).then_some(())?;
            (sender, receiver, chain.protocol, chain.l4)
        }
    };
    let to = if family == Family::V4 { address4(ip, 16)? } else { address6(ip, 24)? };
    (to == sender && ETHERNET + length >= l4 + 4).then_some(())?;
    let quote = transport(frame, protocol, l4, Piece::Whole)?;
    Some(Datagram {
        family,
        source: receiver,
        destination: to,
        source_port: quote.destination_port,
        destination_port: quote.source_port,
        length,
        class,
        hops,
        piece: Piece::Error,
        identification: icmp as u32,
        ..quote
    })
}

/// An echo request (RFC 792, RFC 4443 §4.1) in one piece without options, and whom it is for.
pub fn echo(frame: &[u8]) -> Option<IpAddr> {
    let ip = frame.get(ETHERNET..)?;
    let (icmp, to, length) = match family(frame) {
        Family::V4 => {
            let plain = *ip.first()? == 0x45 && *ip.get(9)? == 1 && be16(ip, 6)? & 0x3fff == 0;
            (plain && be16(ip, 20)? == 0x0800).then_some(())?;
            (20, address4(ip, 16)?, usize::from(be16(ip, 2)?))
        }
        Family::V6 => {
            (ip.first()? >> 4 == 6 && *ip.get(6)? == 58 && be16(ip, 40)? == 0x8000).then_some(())?;
            (40, address6(ip, 24)?, 40 + usize::from(be16(ip, 4)?))
        }
        Family::Other => return None,
    };
    (ip.len() >= icmp + 8 && length >= icmp + 8 && length <= ip.len()).then_some(to)
}

pub(super) fn address4(ip: &[u8], at: usize) -> Option<IpAddr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?).into())
}

pub(super) fn address6(ip: &[u8], at: usize) -> Option<IpAddr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?).into())
}

/// The ports, which TCP (RFC 9293 §3.1) and UDP (RFC 768) both start with; the rest is filled in by the caller.
fn transport(frame: &[u8], protocol: u8, l4: usize, piece: Piece) -> Option<Datagram> {
    let balanced = protocol == PROTO_TCP || protocol == PROTO_UDP;
    let (source_port, destination_port) = match piece {
        Piece::Later if balanced || protocol == 0 => (0, 0),
        Piece::Whole | Piece::First | Piece::Error if balanced => (be16(frame, l4)?, be16(frame, l4 + 2)?),
        _ => return None,
    };
    Some(Datagram {
        family: Family::Other,
        source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        protocol,
        source_port,
        destination_port,
        l4,
        length: 0,
        class: 0,
        hops: 0,
        piece,
        identification: 0,
    })
}

impl Datagram {
    /// The IP header's length leaves room for the ports, if it has some.
    fn has_ports(&self) -> bool {
        self.piece == Piece::Later || ETHERNET + self.length >= self.l4 + 4
    }

    /// The frame holds the whole packet, and the packet its whole TCP or UDP header (without TCP options).
    pub fn is_complete(&self, frame: &[u8]) -> bool {
        let header = match self.protocol {
            _ if self.piece == Piece::Later => 0,
            // All that has to be quoted (RFC 792).
            _ if self.piece == Piece::Error => 8,
            PROTO_TCP => 20,
            _ => 8,
        };
        let end = ETHERNET + self.length;
        end <= frame.len() && self.l4 + header <= end
    }

    /// There are IPv6 extension headers.
    pub fn has_extensions(&self) -> bool {
        self.family == Family::V6 && self.l4 > ETHERNET + 40 && self.piece != Piece::Error
    }

    pub fn source_endpoint(&self) -> Endpoint {
        Endpoint { address: self.source, port: self.source_port, protocol: self.protocol }
    }

    pub fn destination_endpoint(&self) -> Endpoint {
        Endpoint { address: self.destination, port: self.destination_port, protocol: self.protocol }
    }

    /// A TCP packet with SYN and without ACK opens a connection (RFC 9293 §3.5).
    pub fn opens(&self, frame: &[u8]) -> bool {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        let flags = frame.get(self.l4 + 13).copied().unwrap_or(0);
        let segment = matches!(self.piece, Piece::Whole | Piece::First);
        self.protocol == PROTO_TCP && segment && flags & SYN != 0 && flags & ACK == 0
    }

    /// Where the checksum of TCP or UDP is in the frame.
    pub fn checksum_at(&self) -> usize {
        self.l4 + if self.protocol == PROTO_TCP { 16 } else { 6 }
    }
}
