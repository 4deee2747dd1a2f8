//! The IPv6 header and extension headers (RFC 8200), every field free to lie.

use std::net::Ipv6Addr;

/// An extension header, without the next-header byte that chains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop (0), routing (43), destination options (60) and whatever else has their shape: the data after
    /// the length byte, padded with PadN to whole 8-byte units.
    Options { kind: u8, data: Vec<u8> },
    /// Fragment (44): offset in bytes, more to come, identification.
    Fragment { offset: u16, more: bool, identification: u32 },
    /// Anything, as it is: the first byte is overwritten with the next header.
    Raw { kind: u8, bytes: Vec<u8> },
}

impl Extension {
    /// Hop-by-hop options holding only padding.
    pub fn hop_by_hop() -> Self {
        Self::Options { kind: 0, data: Vec::new() }
    }

    /// Destination options with `length` bytes of padding option data.
    pub fn destination_options(length: usize) -> Self {
        Self::Options { kind: 60, data: pad_option(length) }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Options { kind, .. } | Self::Raw { kind, .. } => *kind,
            Self::Fragment { .. } => 44,
        }
    }

    fn encode(&self, next: u8) -> Vec<u8> {
        match self {
            Self::Options { data, .. } => {
                let mut bytes = vec![next, 0];
                bytes.extend(data);
                let padding = bytes.len().next_multiple_of(8) - bytes.len();
                bytes.extend(pad_option(padding));
                bytes[1] = (bytes.len() / 8 - 1) as u8;
                bytes
            }
            Self::Fragment { offset, more, identification } => {
                assert!(offset.is_multiple_of(8), "fragments start at multiples of 8 bytes");
                let mut bytes = vec![next, 0];
                bytes.extend((offset | u16::from(*more)).to_be_bytes());
                bytes.extend(identification.to_be_bytes());
                bytes
            }
            Self::Raw { bytes, .. } => {
                let mut bytes = bytes.clone();
                if let Some(first) = bytes.first_mut() {
                    *first = next;
                }
                bytes
            }
        }
    }
}

/// `length` bytes of padding options: Pad1 for one byte, PadN otherwise (RFC 8200 §4.2).
fn pad_option(length: usize) -> Vec<u8> {
    match length {
        0 => Vec::new(),
        1 => vec![0],
        n => {
            let mut bytes = vec![1, (n - 2) as u8];
            bytes.resize(n, 0);
            bytes
        }
    }
}

/// ```text
/// +-------+---------------+---------------------------------------+
/// |Version| Traffic Class |           Flow Label                  |
/// +-------+---------------+-------+---------------+---------------+
/// |         Payload Length        |  Next Header  |   Hop Limit   |
/// +-------------------------------+---------------+---------------+
/// |                Source Address, Destination Address            |
/// +---------------------------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    pub version: u8,
    pub traffic_class: u8,
    /// 20 bits.
    pub flow_label: u32,
    /// `None`: extension headers and payload.
    pub payload_length: Option<u16>,
    /// Of the last header before the payload; `None`: what the next layer is.
    pub next_header: Option<u8>,
    pub hop_limit: u8,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub extensions: Vec<Extension>,
}

pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr) -> Ipv6 {
    Ipv6 {
        version: 6,
        traffic_class: 0,
        flow_label: 0,
        payload_length: None,
        next_header: None,
        hop_limit: 64,
        source,
        destination,
        extensions: Vec::new(),
    }
}

impl Ipv6 {
    /// Changes any field.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    #[must_use]
    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    #[must_use]
    pub fn traffic_class(mut self, traffic_class: u8) -> Self {
        self.traffic_class = traffic_class;
        self
    }

    #[must_use]
    pub fn flow_label(mut self, flow_label: u32) -> Self {
        self.flow_label = flow_label;
        self
    }

    #[must_use]
    pub fn payload_length(mut self, length: u16) -> Self {
        self.payload_length = Some(length);
        self
    }

    #[must_use]
    pub fn next_header(mut self, next: u8) -> Self {
        self.next_header = Some(next);
        self
    }

    #[must_use]
    pub fn extension(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    pub(super) fn encode(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut next = self.next_header.unwrap_or(protocol);
        let mut chain = Vec::new();
        for extension in self.extensions.iter().rev() {
            chain = [extension.encode(next), chain].concat();
            next = extension.kind();
        }
        let length = self.payload_length.unwrap_or((chain.len() + payload.len()) as u16);
        let first =
            u32::from(self.version) << 28 | u32::from(self.traffic_class) << 20 | (self.flow_label & 0x000f_ffff);
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend([next, self.hop_limit]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(chain);
        bytes.extend(payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::raw;
    use super::*;

    #[test]
    fn the_first_word_holds_version_class_and_label() {
        let ip = ipv6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST).traffic_class(0xb8).flow_label(0x12345).hop_limit(9);
        let bytes = (ip / raw([1, 2, 3])).bytes();
        assert_eq!(bytes[..8], [0x6b, 0x81, 0x23, 0x45, 0, 3, 253, 9]);
        assert_eq!(bytes.len(), 43);
    }

    #[test]
    fn extension_headers_chain_and_are_multiples_of_eight_bytes() {
        let ip = ipv6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
            .extension(Extension::hop_by_hop())
            .extension(Extension::destination_options(14))
            .extension(Extension::Fragment { offset: 16, more: true, identification: 0x0102_0304 })
            .next_header(17);
        let bytes = (ip / raw([0xff])).bytes();
        assert_eq!(bytes[4..7], [0, 8 + 16 + 8 + 1, 0]);
        assert_eq!(bytes[40..48], [60, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(bytes[48..52], [44, 1, 1, 12]);
        assert_eq!(bytes[64..72], [17, 0, 0, 17, 1, 2, 3, 4]);
        assert_eq!(bytes[72..], [0xff]);
    }
}
