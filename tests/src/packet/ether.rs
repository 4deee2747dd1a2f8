//! Ethernet, VLAN tags (IEEE 802.1Q, 802.1ad) and ARP (RFC 826).

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// A locally administered unicast address that is easy to tell apart in a dump.
    pub const fn local(n: u8) -> Self {
        Self([0x02, 0, 0, 0, 0, n])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2 && !part.starts_with('+')))
            .collect();
        let six = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        six.map(Self).ok_or_else(|| format!("`{text}` is no MAC address"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A VLAN tag: the tag protocol (0x8100 or 0x88a8) and the tag control word (priority, DEI, VLAN id).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub protocol: u16,
    pub control: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ethernet {
    pub source: Mac,
    pub destination: Mac,
    /// Outermost first.
    pub tags: Vec<Tag>,
    /// `None`: what the next layer is.
    pub ethertype: Option<u16>,
}

/// A frame from `source` to `destination`.
pub fn ethernet(source: Mac, destination: Mac) -> Ethernet {
    Ethernet { source, destination, tags: Vec::new(), ethertype: None }
}

impl Ethernet {
    #[must_use]
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = Some(ethertype);
        self
    }

    /// Adds an 802.1Q tag inside those already there.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.tags.push(Tag { protocol: 0x8100, control: id });
        self
    }

    /// Adds an 802.1ad service tag inside those already there.
    #[must_use]
    pub fn service_vlan(mut self, id: u16) -> Self {
        self.tags.push(Tag { protocol: 0x88a8, control: id });
        self
    }

    pub(super) fn encode(&self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(14 + payload.len());
        bytes.extend(self.destination.0);
        bytes.extend(self.source.0);
        for tag in &self.tags {
            bytes.extend(tag.protocol.to_be_bytes());
            bytes.extend(tag.control.to_be_bytes());
        }
        bytes.extend(self.ethertype.unwrap_or(ethertype).to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

/// ARP for IPv4 over Ethernet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target_mac: Mac,
    pub target: Ipv4Addr,
}

/// "Who has `target`? Tell `sender`."
pub fn arp(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Arp {
    Arp { operation: 1, sender_mac, sender, target_mac: Mac([0; 6]), target }
}

impl Arp {
    pub(super) fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 1, 8, 0, 6, 4];
        bytes.extend(self.operation.to_be_bytes());
        bytes.extend(self.sender_mac.0);
        bytes.extend(self.sender.octets());
        bytes.extend(self.target_mac.0);
        bytes.extend(self.target.octets());
        bytes.extend(payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, raw};
    use super::*;

    #[test]
    fn tags_sit_between_the_addresses_and_the_ethertype() {
        let frame = ethernet(Mac::local(1), Mac::local(2)).service_vlan(7).vlan(0x123).ethertype(0x0800) / raw([9]);
        assert_eq!(frame.bytes(), [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xa8, 0, 7, 0x81, 0, 0x01, 0x23, 8, 0, 9]);
    }

    #[test]
    fn a_mac_address_reads_back_as_it_is_written() {
        let mac = Mac([2, 0, 0xff, 0x1a, 0, 9]);
        assert_eq!(Mac::try_from(String::from(mac)), Ok(mac));
        for text in
            ["", "02:00:ff:1a:00", "02:00:ff:1a:00:09:01", "2:00:ff:1a:00:09", "0g:00:ff:1a:00:09", "+2:00:ff:1a:00:09"]
        {
            assert!(Mac::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_arp_request_has_the_layout_of_rfc_826() {
        let request = arp(Mac::local(1), Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let frame = ethernet(Mac::local(1), Mac::BROADCAST) / request;
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1,
            10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
        ];
        assert_eq!(frame.bytes(), expected);
        let padded: Packet = frame.padded(60, 0xa5);
        assert_eq!(padded.bytes().len(), 60);
        assert_eq!(padded.bytes()[42..], [0xa5; 18]);
    }
}
