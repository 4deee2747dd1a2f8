//! A packet as a stack of layers, outermost first, and how the stack becomes bytes.
//!
//! Layers are encoded from the inside out: a header needs the length and protocol of what it carries, and a
//! transport checksum needs the addresses of the IP header around it.

use std::ops::Div;

use super::{Arp, Ethernet, Icmp, Ipv4, Ipv6, Tcp, Udp, checksum};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    Ethernet(Ethernet),
    Arp(Arp),
    Ipv4(Ipv4),
    Ipv6(Ipv6),
    Tcp(Tcp),
    Udp(Udp),
    Icmp(Icmp),
    Raw(Vec<u8>),
}

/// Bytes as they are.
pub fn raw(bytes: impl Into<Vec<u8>>) -> Layer {
    Layer::Raw(bytes.into())
}

/// For raw bytes under IP: "use for experimentation and testing" (RFC 3692).
const PROTOCOL_EXPERIMENT: u8 = 253;
/// For raw bytes under Ethernet: "IEEE Std 802 local experimental".
const ETHERTYPE_EXPERIMENT: u16 = 0x88b5;

impl Layer {
    /// The IP protocol number (IPv6 next header) that announces this layer.
    fn protocol(&self) -> u8 {
        match self {
            Self::Ipv4(_) => 4,
            Self::Ipv6(_) => 41,
            Self::Tcp(_) => 6,
            Self::Udp(_) => 17,
            Self::Icmp(icmp) => icmp.protocol(),
            Self::Ethernet(_) | Self::Arp(_) | Self::Raw(_) => PROTOCOL_EXPERIMENT,
        }
    }

    fn ethertype(&self) -> u16 {
        match self {
            Self::Ipv4(_) => 0x0800,
            Self::Ipv6(_) => 0x86dd,
            Self::Arp(_) => 0x0806,
            _ => ETHERTYPE_EXPERIMENT,
        }
    }
}

/// The IP header around a transport header, as far as its checksum is concerned.
pub(super) struct Around<'a>(Option<&'a Layer>);

impl Around<'_> {
    /// The transport checksum of `segment`, whose checksum field is zero. Without an IP header around it there
    /// is no pseudo header to sum.
    pub(super) fn transport_checksum(&self, protocol: u8, segment: &[u8]) -> u16 {
        let mut bytes = match self.0 {
            Some(Layer::Ipv4(ip)) => checksum::pseudo4(ip.source, ip.destination, protocol, segment.len()),
            Some(Layer::Ipv6(ip)) => checksum::pseudo6(ip.source, ip.destination, protocol, segment.len()),
            _ => Vec::new(),
        };
        bytes.extend(segment);
        checksum::checksum(&bytes)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    layers: Vec<Layer>,
    trailer: Vec<u8>,
}

impl Packet {
    /// The packet's bytes, all lengths and checksums filled in that were not given.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let inner = self.layers.get(i + 1);
            let around = Around(i.checked_sub(1).map(|outer| &self.layers[outer]));
            let protocol = inner.map_or(PROTOCOL_EXPERIMENT, Layer::protocol);
            bytes = match layer {
                Layer::Ethernet(l) => l.encode(inner.map_or(ETHERTYPE_EXPERIMENT, Layer::ethertype), &bytes),
                Layer::Arp(l) => l.encode(&bytes),
                Layer::Ipv4(l) => l.encode(protocol, &bytes),
                Layer::Ipv6(l) => l.encode(protocol, &bytes),
                Layer::Tcp(l) => l.encode(&around, &bytes),
                Layer::Udp(l) => l.encode(&around, &bytes),
                Layer::Icmp(l) => l.encode(&around, &bytes),
                Layer::Raw(l) => [l.as_slice(), &bytes].concat(),
            };
        }
        bytes.extend(&self.trailer);
        bytes
    }

    /// Bytes after the packet that belong to no layer, as Ethernet padding is.
    #[must_use]
    pub fn trailer(mut self, bytes: &[u8]) -> Self {
        self.trailer.extend(bytes);
        self
    }

    /// Pads with `fill` to `length` bytes, as a sender pads to the 60 bytes Ethernet wants. Padding need not be
    /// zero, and tests had better not make it so.
    #[must_use]
    pub fn padded(self, length: usize, fill: u8) -> Self {
        let missing = length.saturating_sub(self.bytes().len());
        self.trailer(&vec![fill; missing])
    }

    /// The bytes of the packet without its first layer: what an encapsulation carries.
    pub fn inner_bytes(&self) -> Vec<u8> {
        Self { layers: self.layers[1..].to_vec(), trailer: Vec::new() }.bytes()
    }
}

impl From<Layer> for Packet {
    fn from(layer: Layer) -> Self {
        Self { layers: vec![layer], trailer: Vec::new() }
    }
}

impl<T: Into<Self>> Div<T> for Packet {
    type Output = Self;

    fn div(mut self, inner: T) -> Self {
        let inner = inner.into();
        self.layers.extend(inner.layers);
        self.trailer.extend(inner.trailer);
        self
    }
}

/// Makes a header type usable as a layer: `into()` a packet, and `header / inner`.
macro_rules! layers {
    ($($header:ident),*) => {$(
        impl From<$header> for Packet {
            fn from(header: $header) -> Self {
                Layer::$header(header).into()
            }
        }

        impl<T: Into<Packet>> Div<T> for $header {
            type Output = Packet;

            fn div(self, inner: T) -> Packet {
                Packet::from(self) / inner
            }
        }
    )*};
}

layers!(Ethernet, Arp, Ipv4, Ipv6, Tcp, Udp, Icmp);

impl<T: Into<Self>> Div<T> for Layer {
    type Output = Packet;

    fn div(self, inner: T) -> Packet {
        Packet::from(self) / Packet::from(inner.into())
    }
}

impl From<&str> for Packet {
    fn from(text: &str) -> Self {
        raw(text.as_bytes()).into()
    }
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Self {
        raw(bytes).into()
    }
}
