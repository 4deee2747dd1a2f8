//! What lies between a tunnel's outer IP header and the packet: nothing (IP in IP), GRE (RFC 2784), or UDP with GUE
//! (draft-ietf-intarea-gue), VXLAN (RFC 7348) or Geneve (RFC 8926).
//!
//! The source port carries the flow's hash, so that receivers spread tunnels over their queues; VXLAN and Geneve carry
//! Ethernet, so the packet gets a header of that, too.

use network_types::eth::EthHdr;
use network_types::udp::UdpHdr;

use lb_common::addr::PROTO_UDP;
use lb_common::backend::Tunnel;
use lb_common::service::{FORWARD_GENEVE, FORWARD_GRE, FORWARD_GUE, FORWARD_GUE0, FORWARD_IPIP, FORWARD_VXLAN};
use lb_ebpf::packet::Packet;

use super::encap::Outer;
use crate::family::Family;
use crate::settings;

const PROTO_GRE: u8 = 47;

/// Where flows' source ports begin: the dynamic ports (RFC 6335 §6), of which there are 2^14.
const FIRST_SOURCE_PORT: u16 = 0xc000;

/// The source of inner Ethernet headers: locally administered, and nobody's.
const INNER_SOURCE: [u8; 6] = [0x02, b's', b'l', b'u', b'i', b'c'];

/// A kind of tunnel.
#[derive(Clone, Copy)]
pub struct Shim {
    /// As services say it.
    forward: u8,
    /// Between the outer IP header and the inner one.
    pub length: usize,
}

impl Shim {
    /// IP in IP.
    pub const NONE: Self = Self { forward: FORWARD_IPIP, length: 0 };

    /// `None`: no tunnel with anything between its headers, or one that this program was not loaded with.
    #[inline(always)]
    pub fn of(forward: u8) -> Option<Self> {
        const UDP: usize = UdpHdr::LEN;
        let length = if settings::gre() != 0 && forward == FORWARD_GRE {
            4
        } else if settings::gue() != 0 && forward == FORWARD_GUE {
            UDP
        } else if settings::gue() != 0 && forward == FORWARD_GUE0 {
            UDP + 4
        } else if settings::overlay() != 0 && (forward == FORWARD_VXLAN || forward == FORWARD_GENEVE) {
            UDP + 8 + EthHdr::LEN
        } else {
            return None;
        };
        Some(Self { forward, length })
    }

    /// There is a UDP header in it.
    #[inline(always)]
    pub fn is_udp(self) -> bool {
        self.length >= UdpHdr::LEN
    }

    /// What the outer header calls it, around a packet of family `I`.
    #[inline(always)]
    pub fn protocol<I: Family>(self) -> u8 {
        match self.forward {
            FORWARD_IPIP => I::PROTOCOL,
            FORWARD_GRE => PROTO_GRE,
            _ => PROTO_UDP,
        }
    }

    /// Writes it behind an outer header of family `O`. `sum`: what the inner packet adds up to, if that is known.
    #[inline(always)]
    pub fn write<I: Family, O: Family>(
        self,
        packet: Packet,
        outer: &Outer<O::Address>,
        tunnel: &Tunnel,
        sum: Option<u64>,
    ) -> bool {
        let at = EthHdr::LEN + O::HEADER;
        match self.forward {
            FORWARD_IPIP => true,
            FORWARD_GRE => {
                let Some(gre) = packet.header::<[u8; 4]>(at) else { return false };
                // No flags, version 0.
                gre.set_u16::<0>(0);
                gre.set_u16::<2>(I::ETHERTYPE);
                true
            }
            _ => self.write_udp::<I, O>(packet, outer, tunnel, sum),
        }
    }

    #[inline(always)]
    fn write_udp<I: Family, O: Family>(
        self,
        packet: Packet,
        outer: &Outer<O::Address>,
        tunnel: &Tunnel,
        sum: Option<u64>,
    ) -> bool {
        const CHECK: usize = 6;
        const AFTER: usize = UdpHdr::LEN;
        let at = EthHdr::LEN + O::HEADER;
        let source = (FIRST_SOURCE_PORT | outer.hash as u16 & !FIRST_SOURCE_PORT).to_be();
        let ports = u32::from_ne_bytes(pair(source, tunnel.port));
        let length = u32::from_ne_bytes(pair((outer.payload as u16).to_be(), 0));
        let mut written = u64::from(ports) + u64::from(length);

        match self.forward {
            FORWARD_GUE => {}
            FORWARD_GUE0 => {
                let Some(gue) = packet.header::<[u8; 4]>(at + AFTER) else { return false };
                // Version 0, no control message, no optional fields, no flags.
                let word = u32::from_ne_bytes([0, I::PROTOCOL, 0, 0]);
                gue.set_u32::<0>(word);
                written += u64::from(word);
            }
            _ => {
                let Some(header) = packet.header::<[u8; 8 + EthHdr::LEN]>(at + AFTER) else { return false };
                // VXLAN: the VNI is valid. Geneve: version 0, no options, no flags, Ethernet inside.
                let first = match self.forward {
                    FORWARD_VXLAN => u32::from_ne_bytes([0x08, 0, 0, 0]),
                    _ => u32::from_ne_bytes([0, 0, 0x65, 0x58]),
                };
                let [a, b, c, d, e, f] = tunnel.inner_mac;
                let [g, h, i, j, k, l] = INNER_SOURCE;
                let words = [
                    first,
                    tunnel.vni,
                    u32::from_ne_bytes([a, b, c, d]),
                    u32::from_ne_bytes([e, f, g, h]),
                    u32::from_ne_bytes([i, j, k, l]),
                ];
                header.set_u32::<0>(words[0]);
                header.set_u32::<4>(words[1]);
                header.set_u32::<8>(words[2]);
                header.set_u32::<12>(words[3]);
                header.set_u32::<16>(words[4]);
                header.set_u16::<20>(I::ETHERTYPE);
                for word in words {
                    written += u64::from(word);
                }
                written += u64::from(I::ETHERTYPE);
            }
        }
        let Some(udp) = packet.header::<UdpHdr>(at) else { return false };
        udp.set_u32::<0>(ports);
        udp.set_u32::<4>(length);
        if let Some(sum) = sum {
            udp.set_u16::<CHECK>(O::outer_checksum(outer, sum + written));
        }
        true
    }
}

/// Two words in the order in which they lie in a packet.
#[inline(always)]
const fn pair(first: u16, second: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d]
}
