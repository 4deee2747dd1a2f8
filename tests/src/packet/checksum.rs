//! The Internet checksum by the book: summed from zero, 16 bits at a time, in wire order.
//!
//! This is deliberately the slow textbook (RFC 1071 §4.1, RFC 8200 §8.1) and nothing else: it is what the
//! program's incremental arithmetic is judged by.

use std::net::{Ipv4Addr, Ipv6Addr};

/// One's complement sum of 16-bit words in network order; an odd last byte is padded with zero on its right.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of `bytes`, whose own checksum field must be zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// Whether `bytes`, checksum field included, carry a valid checksum.
pub fn is_valid(bytes: &[u8]) -> bool {
    sum(bytes) == 0xffff
}

/// The pseudo header of TCP and UDP over IPv4 (RFC 9293 §3.1, RFC 768).
pub fn pseudo4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend([0, protocol]);
    bytes.extend((length as u16).to_be_bytes());
    bytes
}

/// The pseudo header of TCP, UDP and ICMPv6 over IPv6 (RFC 8200 §8.1).
pub fn pseudo6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_of_rfc_1071_comes_out() {
        // RFC 1071 §3: 00 01 f2 03 f4 f5 f6 f7 sums to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2);
        assert_eq!(checksum(&bytes), 0x220d);
    }

    #[test]
    fn a_published_ipv4_header_verifies() {
        // The example header of Wikipedia's "Internet checksum": its field is b861.
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
            0x00, 0xc7,
        ];
        assert!(is_valid(&header));
        let mut zeroed = header;
        zeroed[10..12].fill(0);
        assert_eq!(checksum(&zeroed), 0xb861);
    }

    #[test]
    fn an_odd_byte_is_padded_on_its_right() {
        assert_eq!(sum(&[0x12]), 0x1200);
        assert_eq!(sum(&[0x00, 0x01, 0xff]), 0xff01);
    }

    #[test]
    fn carries_of_long_inputs_are_not_lost() {
        // 32,768 words of ffff: one's complement zero added to itself stays ffff.
        assert_eq!(sum(&vec![0xff; 65_536]), 0xffff);
    }

    #[test]
    fn pseudo_headers_have_the_rfc_layouts() {
        let p4 = pseudo4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(203, 0, 113, 9), 17, 0x1234);
        assert_eq!(p4, [192, 0, 2, 1, 203, 0, 113, 9, 0, 17, 0x12, 0x34]);
        let p6 = pseudo6(Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, 58, 0x0001_0002);
        assert_eq!(p6.len(), 40);
        assert_eq!(p6[15], 1);
        assert_eq!(p6[32..], [0, 1, 0, 2, 0, 0, 0, 58]);
    }
}
