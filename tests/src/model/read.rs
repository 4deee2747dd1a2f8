//! Packets taken apart, byte by byte as the RFCs draw them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::addr::{PROTO_TCP, PROTO_UDP};

use super::Family;
use super::world::Endpoint;

/// Where the IP header starts. VLAN tags are other EtherTypes.
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
    /// Offset of the TCP or UDP header in the frame.
    pub l4: usize,
    /// Header and payload as the IP header says; what follows in the frame is padding.
    pub length: usize,
    /// ToS or traffic class.
    pub class: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// The first fragment of several.
    pub fragmented: bool,
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

/// `None` where there are no ports to look a service up by.
pub fn datagram(frame: &[u8]) -> Option<Datagram> {
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
    let (more, offset) = (flags_and_offset & 0x2000 != 0, flags_and_offset & 0x1fff);
    if version != 4 || header < 20 || offset != 0 {
        return None;
    }
    let partial =
        Datagram { class: ip[1], hops: ip[8], fragmented: more, ..transport(frame, ip[9], ETHERNET + header)? };
    let datagram = Datagram { family: Family::V4, source, destination, length, ..partial };
    datagram.has_ports().then_some(datagram)
}

/// RFC 8200 §3. Extension headers are not followed: a packet that has one carries no ports we can see.
fn v6(frame: &[u8]) -> Option<Datagram> {
    let ip = frame.get(ETHERNET..)?;
    let (source, destination) = (address6(ip, 8)?, address6(ip, 24)?);
    if ip[0] >> 4 != 6 {
        return None;
    }
    let partial = Datagram {
        class: ip[0] << 4 | ip[1] >> 4,
        hops: ip[7],
        fragmented: false,
        ..transport(frame, ip[6], ETHERNET + 40)?
    };
    let length = 40 + usize::from(be16(ip, 4)?);
    let datagram = Datagram { family: Family::V6, source, destination, length, ..partial };
    datagram.has_ports().then_some(datagram)
}

pub(super) fn address4(ip: &[u8], at: usize) -> Option<IpAddr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?).into())
}

pub(super) fn address6(ip: &[u8], at: usize) -> Option<IpAddr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?).into())
}

/// The ports, which TCP (RFC 9293 §3.1) and UDP (RFC 768) both start with; the rest is filled in by the caller.
fn transport(frame: &[u8], protocol: u8, l4: usize) -> Option<Datagram> {
    if protocol != PROTO_TCP && protocol != PROTO_UDP {
        return None;
    }
    Some(Datagram {
        family: Family::Other,
        source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        protocol,
        source_port: be16(frame, l4)?,
        destination_port: be16(frame, l4 + 2)?,
        l4,
        length: 0,
        class: 0,
        hops: 0,
        fragmented: false,
    })
}

impl Datagram {
    /// The IP header's length leaves room for the ports.
    fn has_ports(&self) -> bool {
        ETHERNET + self.length >= self.l4 + 4
    }

    /// The frame holds the whole packet, and the packet its whole TCP or UDP header (without TCP options).
    pub fn is_complete(&self, frame: &[u8]) -> bool {
        let header = if self.protocol == PROTO_TCP { 20 } else { 8 };
        let end = ETHERNET + self.length;
        end <= frame.len() && self.l4 + header <= end
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
        self.protocol == PROTO_TCP && flags & SYN != 0 && flags & ACK == 0
    }

    /// Where the checksum of TCP or UDP is in the frame.
    pub fn checksum_at(&self) -> usize {
        self.l4 + if self.protocol == PROTO_TCP { 16 } else { 6 }
    }
}
