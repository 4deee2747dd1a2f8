//! TCP (RFC 9293) and UDP (RFC 768), every field free to lie.

use super::layer::Around;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub source: u16,
    pub destination: u16,
    pub sequence: u32,
    pub acknowledgment: u32,
    /// In 32-bit words; `None`: what the options need.
    pub data_offset: Option<u8>,
    /// CWR ECE URG ACK PSH RST SYN FIN, from the top bit.
    pub flags: u8,
    pub window: u16,
    /// `None`: the right one for the IP header around it.
    pub checksum: Option<u16>,
    pub urgent: u16,
    /// Padded to whole words with end-of-options.
    pub options: Vec<u8>,
}

/// A segment in the middle of a connection (ACK set).
pub fn tcp(source: u16, destination: u16) -> Tcp {
    Tcp {
        source,
        destination,
        sequence: 0x0001_2345,
        acknowledgment: 0x0006_789a,
        data_offset: None,
        flags: ACK,
        window: 502,
        checksum: None,
        urgent: 0,
        options: Vec::new(),
    }
}

impl Tcp {
    /// Changes any field.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// The first segment of a connection, with the options a Linux client sends.
    #[must_use]
    pub fn syn(mut self) -> Self {
        self.flags = SYN;
        self.acknowledgment = 0;
        self.window = 64_240;
        self.options = vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];
        self
    }

    #[must_use]
    pub fn checksum(mut self, checksum: u16) -> Self {
        self.checksum = Some(checksum);
        self
    }

    pub(super) fn encode(&self, around: &Around<'_>, payload: &[u8]) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let words = self.data_offset.unwrap_or(((20 + options.len()) / 4) as u8);
        let mut bytes = Vec::with_capacity(20 + options.len() + payload.len());
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgment.to_be_bytes());
        bytes.extend([words << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.urgent.to_be_bytes());
        bytes.extend(options);
        bytes.extend(payload);
        let sum = self.checksum.unwrap_or_else(|| around.transport_checksum(6, &bytes));
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    pub source: u16,
    pub destination: u16,
    /// `None`: header and payload.
    pub length: Option<u16>,
    /// `None`: the right one for the IP header around it, 0xffff where that is zero. `Some(0)`: the sender
    /// computed none.
    pub checksum: Option<u16>,
}

pub fn udp(source: u16, destination: u16) -> Udp {
    Udp { source, destination, length: None, checksum: None }
}

impl Udp {
    #[must_use]
    pub fn length(mut self, length: u16) -> Self {
        self.length = Some(length);
        self
    }

    #[must_use]
    pub fn checksum(mut self, checksum: u16) -> Self {
        self.checksum = Some(checksum);
        self
    }

    pub(super) fn encode(&self, around: &Around<'_>, payload: &[u8]) -> Vec<u8> {
        let length = self.length.unwrap_or((8 + payload.len()) as u16);
        let mut bytes = Vec::with_capacity(8 + payload.len());
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        let sum = self.checksum.unwrap_or_else(|| match around.transport_checksum(17, &bytes) {
            0 => 0xffff,
            sum => sum,
        });
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::super::{Packet, checksum, ipv4, ipv6};
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1);
    const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 2);

    #[test]
    fn a_checksum_done_by_hand_comes_out() {
        // Pseudo header c000 0201 cb00 710a 0011 000a, UDP 0001 0002 000a 0000, payload 6869:
        // c000+0201+cb00+710a+0011+000a+0001+0002+000a+6869 = 2669c → folds to 669e → complement 9961.
        let bytes = (ipv4(A, B) / udp(1, 2) / "hi").bytes();
        assert_eq!(bytes[26..28], [0x99, 0x61]);
    }

    #[test]
    fn checksums_verify_over_both_versions_and_odd_lengths() {
        for payload in ["", "x", "xy", "xyz"] {
            for (packet, pseudo) in [
                (Packet::from(tcp(1, 2)) / payload, 6u8),
                (Packet::from(udp(1, 2)) / payload, 17),
                (Packet::from(tcp(1, 2).syn()) / payload, 6),
            ] {
                let v4 = (ipv4(A, B) / packet.clone()).bytes();
                let sum = [checksum::pseudo4(A, B, pseudo, v4.len() - 20), v4[20..].to_vec()].concat();
                assert!(checksum::is_valid(&sum));
                let v6 = (ipv6(A6, B6) / packet).bytes();
                let sum = [checksum::pseudo6(A6, B6, pseudo, v6.len() - 40), v6[40..].to_vec()].concat();
                assert!(checksum::is_valid(&sum));
            }
        }
    }

    #[test]
    fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
        // The payload word is chosen so that the sum without it, plus it, is ffff.
        let base = (ipv4(A, B) / udp(1, 2) / vec![0, 0]).bytes();
        let word = u16::from_be_bytes([base[26], base[27]]);
        let bytes = (ipv4(A, B) / udp(1, 2) / word.to_be_bytes().to_vec()).bytes();
        assert_eq!(bytes[26..28], [0xff, 0xff]);
        let none = (ipv4(A, B) / udp(1, 2).checksum(0) / "hi").bytes();
        assert_eq!(none[26..28], [0, 0]);
    }

    #[test]
    fn a_syn_carries_its_options() {
        let bytes = (ipv4(A, B) / tcp(40_000, 443).syn()).bytes();
        assert_eq!(bytes.len(), 20 + 40);
        assert_eq!(bytes[32], 0xa0);
        assert_eq!(bytes[33], SYN);
    }
}
