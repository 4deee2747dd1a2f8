//! ICMP (RFC 792) and ICMPv6 (RFC 4443, RFC 4861).

use super::layer::Around;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    version: Version,
    pub kind: u8,
    pub code: u8,
    /// The four bytes after the checksum: identifier and sequence, MTU, or unused.
    pub rest: [u8; 4],
    /// `None`: the right one; ICMPv6 sums a pseudo header, ICMP does not.
    pub checksum: Option<u16>,
}

/// An ICMP message; echo request is 8, code 0.
pub fn icmp(kind: u8, code: u8) -> Icmp {
    Icmp { version: Version::V4, kind, code, rest: [0; 4], checksum: None }
}

/// An ICMPv6 message; echo request is 128, neighbour solicitation 135, both code 0.
pub fn icmpv6(kind: u8, code: u8) -> Icmp {
    Icmp { version: Version::V6, kind, code, rest: [0; 4], checksum: None }
}

impl Icmp {
    #[must_use]
    pub fn rest(mut self, rest: [u8; 4]) -> Self {
        self.rest = rest;
        self
    }

    pub(super) fn protocol(&self) -> u8 {
        match self.version {
            Version::V4 => 1,
            Version::V6 => 58,
        }
    }

    pub(super) fn encode(&self, around: &Around<'_>, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.code, 0, 0];
        bytes.extend(self.rest);
        bytes.extend(payload);
        let sum = self.checksum.unwrap_or_else(|| match self.version {
            Version::V4 => super::checksum::checksum(&bytes),
            Version::V6 => around.transport_checksum(58, &bytes),
        });
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::super::{checksum, ipv4, ipv6};
    use super::*;

    #[test]
    fn an_echo_sums_itself_and_a_solicitation_its_pseudo_header_too() {
        let echo = (ipv4(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST) / icmp(8, 0).rest([0, 1, 0, 2]) / "ping!").bytes();
        assert_eq!(echo[9], 1);
        assert!(checksum::is_valid(&echo[20..]));

        let (a, b) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
        let solicitation = (ipv6(a, b).hop_limit(255) / icmpv6(135, 0) / vec![7; 16]).bytes();
        assert_eq!(solicitation[6], 58);
        assert!(!checksum::is_valid(&solicitation[40..]));
        let sum = [checksum::pseudo6(a, b, 58, 24), solicitation[40..].to_vec()].concat();
        assert!(checksum::is_valid(&sum));
    }
}
