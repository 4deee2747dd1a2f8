//! The packets of a case: what the wrapper is told to make, and the same written by the packet builders.
//!
//! Both must agree on how a flow's number becomes addresses, ports and the fields that keep the checksums right;
//! `tests/ebpf/src/wrapper.rs` says how. That they do is asserted in every run: what `ref/noop` sends is compared
//! with what is built here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::addr::PROTO_UDP;

use crate::packet::{Ipv4, Ipv6, Mac, Packet, ethernet, ipv4, ipv6, tcp, udp};

/// Every frame is this long, so that all cases have the wrapper's cost in common.
pub const FRAME_LENGTH: usize = 80;

/// As `SPREAD` in the wrapper.
const SPREAD: u64 = 0x9e37_79b1;

/// Where later fragments begin.
const LATER_OFFSET: u16 = 1480;

pub const ROUTER: Mac = Mac::local(0xf1);
pub const SLUICE: Mac = Mac::local(0xf2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// A segment in the middle of a connection.
    Tcp,
    /// The first segment of a connection, with a client's usual options.
    Syn,
    Udp,
    /// The first of two fragments of a UDP packet.
    First,
    /// The second one.
    Later,
}

/// Packets from one sender, or from many clients, to one destination.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Of flow 0; see [`Traffic::sender`].
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
    pub l4: L4,
    /// A power of two, up to 2^20.
    pub flows: u32,
    /// The VLAN that frames are tagged with.
    pub vlan: Option<u16>,
}

/// Who sends a flow's packets.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    pub address: IpAddr,
    pub port: u16,
    /// Complement of the varying bytes: the address's last two, and the port.
    complement: [u8; 4],
}

impl Sender {
    fn identification(&self) -> u16 {
        u16::from_be_bytes([self.complement[0], self.complement[1]])
    }
}

/// What the wrapper is loaded with; offsets into the frame, words as loaded from it.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    pub words: [u32; 20],
    pub flow_mask: u64,
    pub client_offset: u64,
    pub client_word: u32,
    pub ports_offset: u64,
    pub ports_word: u32,
    pub complement_offset: u64,
    pub id_offset: u64,
}

impl Traffic {
    /// The flow that the wrapper's packet of this number belongs to.
    pub fn flow_of(&self, number: u64) -> u32 {
        (number.wrapping_mul(SPREAD) & u64::from(self.flows - 1)) as u32
    }

    pub fn sender(&self, flow: u32) -> Sender {
        let [low, high] = (flow as u16).to_le_bytes();
        let (address, port) = self.source;
        let vary = |bytes: [u8; 2]| [bytes[0] | low, bytes[1] | high];
        let address = match address {
            IpAddr::V4(a) => {
                let [a, b, c, d] = a.octets();
                let [c, d] = vary([c, d]);
                IpAddr::from([a, b, c, d])
            }
            IpAddr::V6(a) => {
                let mut octets = a.octets();
                [octets[14], octets[15]] = vary([octets[14], octets[15]]);
                IpAddr::from(octets)
            }
        };
        let port = port | (flow >> 16) as u16;
        let [p, q] = port.to_be_bytes();
        Sender { address, port, complement: [!low, !high, !p, !q] }
    }

    /// The frame of a flow as it comes in.
    pub fn frame(&self, flow: u32) -> Vec<u8> {
        let sender = self.sender(flow);
        let ethernet = match self.vlan {
            Some(id) => ethernet(ROUTER, SLUICE).vlan(id),
            None => ethernet(ROUTER, SLUICE),
        };
        let packet = match (sender.address, self.destination.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet / self.v4(&sender, source, destination, [sender.port, self.destination.1])
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ethernet / self.v6(&sender, source, destination, [sender.port, self.destination.1])
            }
            _ => unreachable!("the two ends of a case are of one family"),
        };
        let bytes = packet.bytes();
        assert_eq!(bytes.len(), FRAME_LENGTH);
        bytes
    }

    /// The flow's IPv4 packet between these ends, with a TTL of 64.
    pub fn v4(&self, sender: &Sender, source: Ipv4Addr, destination: Ipv4Addr, ports: [u16; 2]) -> Packet {
        self.v4_with(sender, source, destination, ports, |ip| ip)
    }

    /// As [`Traffic::v4`], with other fields of the IP header changed.
    pub fn v4_with(
        &self,
        sender: &Sender,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        ports: [u16; 2],
        change: impl FnOnce(Ipv4) -> Ipv4,
    ) -> Packet {
        let ip = change(ipv4(source, destination).identification(sender.identification()));
        let ip = match self.l4 {
            L4::First => ip.protocol(PROTO_UDP).fragment(0, true),
            L4::Later => ip.protocol(PROTO_UDP).fragment(LATER_OFFSET, false),
            L4::Tcp | L4::Syn | L4::Udp => ip,
        };
        ip / self.segment(sender, ports, 20)
    }

    /// As [`Traffic::v4`], for IPv6.
    pub fn v6(&self, sender: &Sender, source: Ipv6Addr, destination: Ipv6Addr, ports: [u16; 2]) -> Packet {
        self.v6_with(sender, source, destination, ports, |ip| ip)
    }

    /// As [`Traffic::v4_with`], for IPv6.
    pub fn v6_with(
        &self,
        sender: &Sender,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        ports: [u16; 2],
        change: impl FnOnce(Ipv6) -> Ipv6,
    ) -> Packet {
        change(ipv6(source, destination)) / self.segment(sender, ports, 40)
    }

    /// The L4 header and a payload that fills the frame.
    fn segment(&self, sender: &Sender, [source, destination]: [u16; 2], ip_length: usize) -> Packet {
        let payload = |l4_length: usize| vec![0x5a; FRAME_LENGTH - self.l2() - ip_length - l4_length];
        let sequence = u32::from_be_bytes(sender.complement);
        match self.l4 {
            L4::Tcp => tcp(source, destination).with(|t| t.sequence = sequence) / payload(20),
            L4::Syn => tcp(source, destination).syn().with(|t| t.sequence = sequence) / payload(40),
            L4::Udp => {
                let mut data = payload(8);
                data[..4].copy_from_slice(&sender.complement);
                udp(source, destination) / data
            }
            // What is written into a frame goes to the same places, whatever they are called here.
            L4::First | L4::Later => {
                let mut data = payload(0);
                data[..2].copy_from_slice(&source.to_be_bytes());
                data[2..4].copy_from_slice(&destination.to_be_bytes());
                data[4..8].copy_from_slice(&sender.complement);
                data.into()
            }
        }
    }

    /// Where the IP header starts.
    fn l2(&self) -> usize {
        14 + if self.vlan.is_some() { 4 } else { 0 }
    }

    pub fn template(&self) -> Template {
        let frame = self.frame(0);
        let word = |at: usize| u32::from_ne_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
        let ip = self.l2();
        let (l4, client, id) = match self.source.0 {
            IpAddr::V4(_) => (ip + 20, ip + 12, ip as u64 + 4),
            IpAddr::V6(_) => (ip + 40, ip + 20, 0),
        };
        let complement = if self.l4 == L4::Udp { l4 + 8 } else { l4 + 4 };
        Template {
            // Ethernet's 14 bytes, two of nothing, the rest.
            words: std::array::from_fn(|i| match i {
                0..3 => word(4 * i),
                3 => u32::from(u16::from_ne_bytes([frame[12], frame[13]])),
                _ => word(14 + 4 * (i - 4)),
            }),
            flow_mask: u64::from(self.flows - 1),
            client_offset: client as u64,
            client_word: word(client),
            ports_offset: l4 as u64,
            ports_word: word(l4),
            complement_offset: complement as u64,
            id_offset: id,
        }
    }
}
