//! Congestion marks (ECN, RFC 3168 §5). Sluice copies the field outwards, so a router on the way may mark congestion on
//! the outer header. That mark is moved inside before the outer header goes (RFC 6040 §4.2, which RFC 9601 extends to
//! tunnels with a header in between); losing it would hide congestion from the sender.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::csum::Delta;
use lb_ebpf::packet::{Header, Packet};

use crate::tunnel::{Family, Inner};

/// The field in ToS and traffic class.
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// Offset of ToS in an IPv4 header.
const TOS: usize = offset_of!(Ipv4Hdr, tos);
/// Offset, in an IPv6 header, of the byte whose upper half is the lower half of the traffic class.
const CLASS_LOW: usize = 1;

#[inline(always)]
pub fn ipv4(ip: &Header<Ipv4Hdr>) -> u8 {
    ip.u8::<TOS>() & ECN
}

#[inline(always)]
pub fn ipv6(ip: &Header<Ipv6Hdr>) -> u8 {
    ip.u8::<CLASS_LOW>() >> 4 & ECN
}

/// Moves the outer header's mark into the inner packet. `None` where it must not be unwrapped.
#[inline(always)]
pub fn carry(packet: Packet, inner: Inner, outer: u8) -> Option<()> {
    match inner.family {
        Family::V4 => mark4(&packet.header(inner.at)?, outer),
        Family::V6 => mark6(&packet.header(inner.at)?, outer),
    }
}

/// The inner ECN field once the outer header is gone (RFC 6040 §4.2, figure 4). `None`: congestion was marked on a
/// packet whose sender does not know ECN. Sluice sends none such, so it is left to the host.
#[inline(always)]
fn ecn(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

#[inline(always)]
fn mark4(inner: &Header<Ipv4Hdr>, outer: u8) -> Option<()> {
    const CHECK: usize = offset_of!(Ipv4Hdr, check);
    // Version, header length and ToS: one word of the checksum.
    let before = inner.u16::<0>();
    let [version, tos] = before.to_ne_bytes();
    let ecn = ecn(tos & ECN, outer)?;
    let after = u16::from_ne_bytes([version, tos & !ECN | ecn]);
    if after != before {
        inner.set_u16::<0>(after);
        inner.set_u16::<CHECK>(Delta::new().word16(before, after).apply(inner.u16::<CHECK>()));
    }
    Some(())
}

#[inline(always)]
fn mark6(inner: &Header<Ipv6Hdr>, outer: u8) -> Option<()> {
    let before = inner.u8::<CLASS_LOW>();
    let ecn = ecn(before >> 4 & ECN, outer)?;
    inner.set_u8::<CLASS_LOW>(before & !(ECN << 4) | ecn << 4);
    Some(())
}
