//! What a tunnel puts around a packet: an outer IP header (RFC 2003, RFC 2473), and between it and the packet nothing,
//! GRE (RFC 2784), or UDP with GUE (draft-ietf-intarea-gue), VXLAN (RFC 7348) or Geneve (RFC 8926).
//!
//! The outer UDP checksum over IPv6 (RFC 8200 §8.1) is that of a packet whose own checksums are right: the program does
//! not read the payload. So it is summed here over a copy of the packet in which they are.

use std::net::IpAddr;

use lb_common::addr::PROTO_UDP;
use lb_common::service::{FORWARD_GENEVE, FORWARD_GRE, FORWARD_GUE, FORWARD_GUE0, FORWARD_IPIP, FORWARD_VXLAN};

use super::Family;
use super::checksum::{is_unsummed, rightly_summed};
use super::read::{Datagram, ETHERNET, Piece};
use super::world::{Backend, Settings, octets};
use crate::packet::checksum::{checksum as from_zero, pseudo6};

/// A way to tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    IpInIp,
    Gre,
    /// The packet follows the UDP header.
    Gue,
    /// It follows a header of GUE's own.
    GueHeader,
    Vxlan,
    Geneve,
}

impl Kind {
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::IpInIp, "IP in IP"),
        (Self::Gre, "GRE"),
        (Self::Gue, "GUE variant 1"),
        (Self::GueHeader, "GUE variant 0"),
        (Self::Vxlan, "VXLAN"),
        (Self::Geneve, "Geneve"),
    ];

    /// How a service forwards, if it does so by a tunnel.
    pub const fn of(forward: u8) -> Option<Self> {
        Some(match forward {
            FORWARD_IPIP => Self::IpInIp,
            FORWARD_GRE => Self::Gre,
            FORWARD_GUE => Self::Gue,
            FORWARD_GUE0 => Self::GueHeader,
            FORWARD_VXLAN => Self::Vxlan,
            FORWARD_GENEVE => Self::Geneve,
            _ => return None,
        })
    }

    /// The program was loaded with it.
    pub const fn is_on(self, settings: &Settings) -> bool {
        match self {
            Self::IpInIp => settings.ipip,
            Self::Gre => settings.gre,
            Self::Gue | Self::GueHeader => settings.gue,
            Self::Vxlan | Self::Geneve => settings.overlay,
        }
    }

    const fn is_udp(self) -> bool {
        matches!(self, Self::Gue | Self::GueHeader | Self::Vxlan | Self::Geneve)
    }

    /// What follows the outer IP header, or the UDP header where there is one.
    fn shim(self, inner: Family, backend: &Backend) -> Vec<u8> {
        let (ethertype, protocol): ([u8; 2], u8) = match inner {
            Family::V4 => ([0x08, 0x00], 4),
            _ => ([0x86, 0xdd], 41),
        };
        let [_, network @ ..] = backend.network.to_be_bytes();
        let ethernet = [&backend.inner_mac.0[..], b"\x02sluic", &ethertype].concat();
        match self {
            Self::IpInIp | Self::Gue => Vec::new(),
            // No flags, version 0.
            Self::Gre => [[0, 0], ethertype].concat(),
            // Version 0, no control message, no fields, no flags.
            Self::GueHeader => vec![0, protocol, 0, 0],
            // Of the flags only I: the network's number is valid. A byte after it is reserved.
            Self::Vxlan => [&[0x08, 0, 0, 0], &network[..], &[0], &ethernet].concat(),
            // Version 0, no options, no flags; Ethernet (0x6558) follows.
            Self::Geneve => [&[0, 0, 0x65, 0x58], &network[..], &[0], &ethernet].concat(),
        }
    }
}

/// A packet that is to be put into a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel<'a> {
    pub kind: Kind,
    pub packet: &'a Datagram,
    pub source: IpAddr,
    pub backend: &'a Backend,
    pub hash: u32,
}

impl Tunnel<'_> {
    /// Bytes that are put in front of the packet.
    pub fn adds(&self) -> usize {
        let udp = if self.kind.is_udp() { 8 } else { 0 };
        let ip = if self.source.is_ipv4() { 20 } else { 40 };
        ip + udp + self.kind.shim(self.packet.family, self.backend).len()
    }

    /// The frame with all of that, and a hop less inside. `inner` is the frame that has lost it.
    pub fn around(&self, inner: &[u8]) -> Vec<u8> {
        let Self { kind, packet, source, backend, hash } = *self;
        // Ethernet's padding stays behind the packet, and belongs to no header.
        let (carried, padding) = inner[ETHERNET..].split_at(packet.length);
        let mut payload = kind.shim(packet.family, backend);
        let mut right = payload.clone();
        payload.extend(carried);
        if packet.piece == Piece::Whole {
            right.extend(rightly_summed(inner, packet));
        }
        let protocol = match kind {
            Kind::IpInIp if packet.family == Family::V4 => 4,
            Kind::IpInIp => 41,
            Kind::Gre => 47,
            _ => PROTO_UDP,
        };
        if kind.is_udp() {
            let length = 8 + payload.len() as u16;
            // The dynamic ports (RFC 6335 §6), of which the flow has one.
            let port = 0xc000 | (hash & 0x3fff) as u16;
            let mut udp =
                [port.to_be_bytes(), backend.tunnel_port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
            if let (IpAddr::V6(s), IpAddr::V6(d)) = (source, backend.address)
                // What a fragment adds up to cannot be told from its headers.
                && packet.piece == Piece::Whole
                && !is_unsummed(inner, packet)
            {
                let all = [pseudo6(s, d, PROTO_UDP, usize::from(length)), udp.clone(), right].concat();
                let sum = match from_zero(&all) {
                    0 => 0xffff,
                    sum => sum,
                };
                udp[6..].copy_from_slice(&sum.to_be_bytes());
            }
            payload = [udp, payload].concat();
        }
        let header = self.header(protocol, payload.len());
        [&inner[..ETHERNET], &header, &payload, padding].concat()
    }

    fn header(&self, protocol: u8, length: usize) -> Vec<u8> {
        let mut header = Vec::new();
        match (self.source, self.backend.address) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                // Version and header length; the class of the inner packet (RFC 2003 §3.1, RFC 6040 §4.1 for ECN).
                header.extend([0x45, self.packet.class]);
                header.extend((20 + length as u16).to_be_bytes());
                // With DF set the identification may be zero (RFC 6864 §4.1). A TTL of its own.
                header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
                header.extend([source.octets(), destination.octets()].concat());
                let sum = from_zero(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (source, destination) => {
                // Version, class, and the lower 20 bits of the flow's hash as flow label (RFC 6438).
                let first = 6 << 28 | u32::from(self.packet.class) << 20 | self.hash & 0xf_ffff;
                header.extend(first.to_be_bytes());
                header.extend((length as u16).to_be_bytes());
                header.extend([protocol, 64]);
                header.extend([octets(source), octets(destination)].concat());
            }
        }
        header
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::rewrite;
    use super::*;
    use crate::packet::Mac;

    /// The frame in a tunnel from `source` to `backend`.
    pub(crate) fn into_tunnel(kind: Kind, frame: &[u8], packet: &Datagram, source: IpAddr, backend: IpAddr) -> Vec<u8> {
        let backend = Backend {
            id: 1,
            address: backend,
            port: 0,
            next_hop: 1,
            tunnel_source: source,
            tunnel_port: 4789,
            network: 7,
            inner_mac: Mac::local(9),
        };
        let tunnel = Tunnel { kind, packet, source, backend: &backend, hash: 0x1234_5678 };
        tunnel.around(&rewrite::hop(frame, packet))
    }
}
