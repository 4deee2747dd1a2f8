//! What stands between the outer IP header and the inner packet: nothing (IP in IP), GRE, or UDP with GUE, VXLAN or
//! Geneve in it. Each only in the plain form that Sluice sends. Options, keys, checksums and control messages ask
//! for something that would be ignored here, so packets that have them are left to the host.
//!
//! What the header announces is believed: if the inner packet is none, the host will say so.

use core::mem::offset_of;

use network_types::eth::EthHdr;
use network_types::geneve::GeneveHdr;
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

use lb_common::addr::PROTO_UDP;
use lb_common::decap::ANY_VNI;
use lb_ebpf::packet::Packet;

use crate::outer::Outer;
use crate::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, settings};

const PROTO_IPIP: u8 = 4;
const PROTO_IPV6: u8 = 41;
const PROTO_GRE: u8 = 47;

/// "Transparent Ethernet bridging": an Ethernet header comes first.
const ETHERTYPE_BRIDGING: u16 = 0x6558_u16.to_be();

#[derive(Clone, Copy)]
pub enum Family {
    V4,
    V6,
}

/// The packet inside.
#[derive(Clone, Copy)]
pub struct Inner {
    pub family: Family,
    /// Where its IP header starts in the frame.
    pub at: usize,
}

impl Inner {
    #[inline(always)]
    fn by_protocol(protocol: u8, at: usize) -> Option<Self> {
        match protocol {
            PROTO_IPIP => Some(Self { family: Family::V4, at }),
            PROTO_IPV6 => Some(Self { family: Family::V6, at }),
            _ => None,
        }
    }

    #[inline(always)]
    fn by_ethertype(ethertype: u16, at: usize) -> Option<Self> {
        match ethertype {
            ETHERTYPE_IPV4 => Some(Self { family: Family::V4, at }),
            ETHERTYPE_IPV6 => Some(Self { family: Family::V6, at }),
            _ => None,
        }
    }
}

/// `None` where it is no tunnel of Sluice's.
#[inline(always)]
pub fn find(packet: Packet, outer: &Outer) -> Option<Inner> {
    match outer.protocol {
        PROTO_GRE => gre(packet, outer.end),
        PROTO_UDP => udp(packet, outer),
        // IPv4 in IP (RFC 2003) and IPv6 in IP (RFC 2473, RFC 4213).
        protocol => Inner::by_protocol(protocol, outer.end),
    }
}

/// RFC 2784 §2: flags and version, and the EtherType of what comes next. The first half is 0 where there is no
/// checksum, nor a key or sequence number (RFC 2890).
#[inline(always)]
fn gre(packet: Packet, at: usize) -> Option<Inner> {
    let gre = packet.header::<[u16; 2]>(at)?;
    if gre.u16::<0>() != 0 {
        return None;
    }
    Inner::by_ethertype(gre.u16::<2>(), at + 4)
}

/// The checksum is not verified. It may be 0 over IPv4 (RFC 768) and, for tunnels, over IPv6 (RFC 6935), and where it
/// is not, it guards nothing that is looked at twice: the outer header goes, and the inner packet has checksums of its
/// own (RFC 6936). A packet that damage makes look like one for a VIP meets them at the host.
#[inline(always)]
fn udp(packet: Packet, outer: &Outer) -> Option<Inner> {
    let udp = packet.header::<UdpHdr>(outer.end)?;
    if u32::from(u16::from_be(udp.u16::<{ offset_of!(UdpHdr, len) }>())) != outer.length {
        return None;
    }
    let at = outer.end + UdpHdr::LEN;
    let port = udp.u16::<{ offset_of!(UdpHdr, dst) }>();
    if port == settings::gue_port() {
        gue(packet, at)
    } else if port == settings::vxlan_port() {
        vxlan(packet, at)
    } else if port == settings::geneve_port() {
        geneve(packet, at)
    } else {
        None
    }
}

/// draft-ietf-intarea-gue §3, §4. The first two bits are the variant. Of variant 0, a header of four bytes whose other
/// bits say that it is no control message, has no further fields and no flags. Variant 1 has no header: these are the
/// first bits of the IP version (`fou` in the kernel reads it so, too).
#[inline(always)]
fn gue(packet: Packet, at: usize) -> Option<Inner> {
    let gue = packet.header::<[u8; 4]>(at)?;
    match gue.u8::<0>() {
        0 if gue.u16::<2>() == 0 => Inner::by_protocol(gue.u8::<1>(), at + 4),
        0x40..=0x4f => Some(Inner { family: Family::V4, at }),
        0x60..=0x6f => Some(Inner { family: Family::V6, at }),
        _ => None,
    }
}

/// RFC 7348 §5. Of the flags only I, "the VNI is valid"; others are of extensions that mean something else by the
/// rest. Reserved fields are ignored, as the RFC says.
#[inline(always)]
fn vxlan(packet: Packet, at: usize) -> Option<Inner> {
    const I: u8 = 0x08;
    let vxlan = packet.header::<VxlanHdr>(at)?;
    if vxlan.u8::<{ offset_of!(VxlanHdr, flags) }>() != I || !ours(vxlan.u32::<{ offset_of!(VxlanHdr, vni) }>()) {
        return None;
    }
    ethernet(packet, at + VxlanHdr::LEN)
}

/// RFC 8926 §3.4: version 0, no options; neither a control packet (O) nor one with critical options (C). Reserved
/// fields are ignored.
#[inline(always)]
fn geneve(packet: Packet, at: usize) -> Option<Inner> {
    const O_AND_C: u8 = 0xc0;
    let geneve = packet.header::<GeneveHdr>(at)?;
    if geneve.u8::<{ offset_of!(GeneveHdr, ver_opt_len) }>() != 0
        || geneve.u8::<{ offset_of!(GeneveHdr, o_c_rsvd) }>() & O_AND_C != 0
        || !ours(geneve.u32::<{ offset_of!(GeneveHdr, vni) }>())
    {
        return None;
    }
    let at = at + GeneveHdr::LEN;
    match geneve.u16::<{ offset_of!(GeneveHdr, protocol_type) }>() {
        ETHERTYPE_BRIDGING => ethernet(packet, at),
        ethertype => Inner::by_ethertype(ethertype, at),
    }
}

/// The network, 24 bits with a reserved byte behind them.
#[inline(always)]
fn ours(vni: u32) -> bool {
    let wanted = settings::vni();
    wanted == ANY_VNI || u32::from_be(vni) >> 8 == wanted
}

/// An inner frame, without a VLAN tag.
#[inline(always)]
fn ethernet(packet: Packet, at: usize) -> Option<Inner> {
    Inner::by_ethertype(packet.header::<EthHdr>(at)?.u16::<12>(), at + EthHdr::LEN)
}
