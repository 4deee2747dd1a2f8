//! The decapsulator on backend hosts: what is around the inner packet goes, if that is for a listed VIP; everything
//! else is the host's, untouched.

mod congestion;
mod left_alone;
mod unwrapped;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice::dataplane::decap::Tunnels;

use super::super::world::{B1_MAC, CLIENT4, CLIENT6, DC_MAC, T1, VIP4, VIP6};
use super::super::{Case, Sweep};
use super::{outer4, outer6};
use crate::packet::{Ethernet, Packet, ethernet, ipv4, ipv6, raw, tcp, udp};

/// What the decapsulator in these cases was told to unwrap.
pub const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];

/// In [`elsewhere`], where it was told to look.
pub const ELSEWHERE: Tunnels = Tunnels { gue_port: 5555, vxlan_port: 8472, geneve_port: 6082, vni: Some(0x01_0203) };

/// Neither VIP nor known to anybody.
const OTHER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x11);

pub fn cases() -> Vec<Case> {
    [unwrapped::cases(), congestion::cases(), left_alone::cases()].concat()
}

/// Cases of a decapsulator with other settings.
pub fn elsewhere() -> Vec<Case> {
    [unwrapped::elsewhere(), left_alone::elsewhere()].concat()
}

pub fn sweeps() -> Vec<Sweep> {
    left_alone::sweeps()
}

/// The Ethernet header of what Sluice sends.
fn from_sluice() -> Ethernet {
    ethernet(DC_MAC, B1_MAC)
}

/// Inside and outside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

use Family::{V4, V6};

/// Inner and outer family, and what that is called.
const FAMILIES: [(Family, Family, &str); 4] = [(V4, V4, "4in4"), (V6, V6, "6in6"), (V4, V6, "4in6"), (V6, V4, "6in4")];

impl Family {
    /// RFC 2003 §3.1, RFC 2473 §5.1.
    const fn protocol(self) -> u8 {
        match self {
            V4 => 4,
            V6 => 41,
        }
    }

    const fn ethertype(self) -> [u8; 2] {
        match self {
            V4 => [0x08, 0x00],
            V6 => [0x86, 0xdd],
        }
    }

    /// What Sluice sends to the backend, with this ToS or traffic class.
    fn outer(self, protocol: u8, class: u8) -> Packet {
        match self {
            V4 => outer4(T1, class).protocol(protocol).into(),
            V6 => outer6(T1, class, 0x12345).next_header(protocol).into(),
        }
    }

    /// A packet of a client's for a VIP.
    fn inner(self, class: u8) -> Packet {
        match self {
            V4 => ipv4(CLIENT4, VIP4).ttl(63).tos(class) / tcp(40_000, 444) / "hello",
            V6 => ipv6(CLIENT6, VIP6).hop_limit(63).traffic_class(class) / udp(40_000, 444) / "hello",
        }
    }

    /// As [`Family::inner`], for an address that was not listed.
    fn unlisted(self) -> Packet {
        match self {
            V4 => ipv4(CLIENT4, OTHER4) / tcp(40_000, 444),
            V6 => ipv6(CLIENT6, OTHER6) / tcp(40_000, 444),
        }
    }
}

const GRE: u8 = 47;
const UDP: u8 = 17;

/// What is between the outer IP header and the inner packet.
#[derive(Clone)]
struct Tunnel {
    name: &'static str,
    /// The outer header's protocol or next header field.
    protocol: u8,
    /// Of the UDP header, if there is one.
    port: Option<u16>,
    header: Vec<u8>,
}

impl Tunnel {
    fn new(name: &'static str, protocol: u8, port: Option<u16>, parts: &[&[u8]]) -> Self {
        Self { name, protocol, port, header: parts.concat() }
    }

    /// Of every kind that Sluice sends, with a packet of this family in it.
    fn plain(inner: Family) -> [Self; 7] {
        // Never that of the network the packet is for: RFC 7348 §5 has it name the virtual machines' own.
        let frame = &[&[2, 0, 0, 0, 0xee, 1, 2, 0, 0, 0, 0xee, 2][..], &inner.ethertype()].concat();
        let network = &[0x01, 0x02, 0x03, 0];
        [
            Self::new("IP in IP", inner.protocol(), None, &[]),
            Self::new("GRE", GRE, None, &[&[0, 0], &inner.ethertype()]),
            Self::new("GUE", UDP, Some(6080), &[&[0, inner.protocol(), 0, 0]]),
            Self::new("GUE without a header", UDP, Some(6080), &[]),
            Self::new("VXLAN", UDP, Some(4789), &[&[0x08, 0, 0, 0], network, frame]),
            Self::new("Geneve with Ethernet", UDP, Some(6081), &[&[0, 0, 0x65, 0x58], network, frame]),
            Self::new("Geneve", UDP, Some(6081), &[&[0, 0], &inner.ethertype(), network]),
        ]
    }

    /// The one of this name.
    fn named(name: &str, inner: Family) -> Self {
        Self::plain(inner).into_iter().find(|tunnel| tunnel.name == name).expect("a kind of tunnel")
    }

    /// All of it in front of `inner`. Over IPv4 without a checksum, over IPv6 with the right one.
    fn around(&self, outer: Family, class: u8, inner: impl Into<Packet>) -> Packet {
        self.below(outer, outer.outer(self.protocol, class), inner)
    }

    /// As [`Tunnel::around`], below this IP header.
    fn below(&self, outer: Family, header: impl Into<Packet>, inner: impl Into<Packet>) -> Packet {
        let mut packet = from_sluice() / header.into();
        if let Some(port) = self.port {
            let udp = udp(0xc123, port);
            packet = packet / if outer == V4 { udp.checksum(0) } else { udp };
        }
        if !self.header.is_empty() {
            packet = packet / raw(self.header.clone());
        }
        packet / inner.into()
    }
}
