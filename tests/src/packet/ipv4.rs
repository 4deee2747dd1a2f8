//! The IPv4 header (RFC 791), every field free to lie.

use std::net::Ipv4Addr;

use super::checksum;

/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-------+-------+---------------+-------------------------------+
/// |Version|  IHL  |Type of Service|          Total Length         |
/// +-------+-------+---------------+-----+-------------------------+
/// |         Identification        |Flags|      Fragment Offset    |
/// +---------------+---------------+-----+-------------------------+
/// |  Time to Live |    Protocol   |         Header Checksum       |
/// +---------------+---------------+-------------------------------+
/// |                       Source Address                          |
/// |                    Destination Address                        |
/// |                    Options                    |    Padding    |
/// +-----------------------------------------------+---------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    pub version: u8,
    /// In 32-bit words; `None`: what the options need.
    pub header_length: Option<u8>,
    pub tos: u8,
    /// `None`: header and payload.
    pub total_length: Option<u16>,
    pub identification: u16,
    pub reserved_flag: bool,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// In units of 8 bytes.
    pub fragment_offset: u16,
    pub ttl: u8,
    /// `None`: what the next layer is.
    pub protocol: Option<u8>,
    /// `None`: the right one.
    pub checksum: Option<u16>,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// Padded to whole words with end-of-options.
    pub options: Vec<u8>,
}

pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr) -> Ipv4 {
    Ipv4 {
        version: 4,
        header_length: None,
        tos: 0,
        total_length: None,
        identification: 0x1d0f,
        reserved_flag: false,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: None,
        checksum: None,
        source,
        destination,
        options: Vec::new(),
    }
}

impl Ipv4 {
    /// Changes any field.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    #[must_use]
    pub fn identification(mut self, id: u16) -> Self {
        self.identification = id;
        self
    }

    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = Some(protocol);
        self
    }

    #[must_use]
    pub fn total_length(mut self, length: u16) -> Self {
        self.total_length = Some(length);
        self
    }

    #[must_use]
    pub fn checksum(mut self, checksum: u16) -> Self {
        self.checksum = Some(checksum);
        self
    }

    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// A fragment at `offset` bytes (a multiple of 8), with or without more to come.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        assert!(offset.is_multiple_of(8), "fragments start at multiples of 8 bytes");
        self.fragment_offset = offset / 8;
        self.more_fragments = more;
        self
    }

    pub(super) fn encode(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let header = 20 + options.len();
        let words = self.header_length.unwrap_or((header / 4) as u8);
        let total = self.total_length.unwrap_or((header + payload.len()) as u16);
        let flags = u16::from(self.reserved_flag) << 15
            | u16::from(self.dont_fragment) << 14
            | u16::from(self.more_fragments) << 13
            | self.fragment_offset;
        let mut bytes = vec![self.version << 4 | words, self.tos];
        bytes.extend(total.to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend([self.ttl, self.protocol.unwrap_or(protocol), 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(options);
        let sum = self.checksum.unwrap_or_else(|| checksum::checksum(&bytes));
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, raw, udp};
    use super::*;

    #[test]
    fn a_published_header_is_built_byte_for_byte() {
        let ip = ipv4(Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(192, 168, 0, 199))
            .identification(0)
            .dont_fragment()
            .protocol(17);
        let bytes = (ip / raw(vec![0; 95])).bytes();
        let published = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
            0x00, 0xc7,
        ];
        assert_eq!(bytes[..20], published);
        assert_eq!(bytes.len(), 0x73);
    }

    #[test]
    fn options_are_padded_and_counted() {
        let ip = ipv4(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST).options(&[7, 3, 4]);
        let bytes = Packet::from(ip).bytes();
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[0], 0x46);
        assert_eq!(bytes[20..], [7, 3, 4, 0]);
        assert!(checksum::is_valid(&bytes));
    }

    #[test]
    fn every_lie_is_told_as_given() {
        let ip = ipv4(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST).total_length(9).checksum(0xdead).with(|ip| {
            ip.version = 5;
            ip.header_length = Some(15);
            ip.reserved_flag = true;
        });
        let bytes = (ip.fragment(24, true) / udp(1, 2)).bytes();
        assert_eq!(bytes[0], 0x5f);
        assert_eq!(bytes[2..4], [0, 9]);
        assert_eq!(bytes[6..8], [0xa0, 3]);
        assert_eq!(bytes[10..12], [0xde, 0xad]);
    }
}
