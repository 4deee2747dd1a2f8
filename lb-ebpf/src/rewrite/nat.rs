//! Address and port translation. Checksums change by the difference only (RFC 1624): the payload is never
//! read, so an error it already carries stays detectable at the receiver.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use lb_common::addr::PROTO_TCP;
use lb_common::csum::Delta;
use lb_ebpf::packet::Packet;

use super::ttl;
use crate::parse::{IP, Ip, LATER};
use crate::settings;

/// Which end of the packet is translated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A client's packet: the VIP becomes the backend.
    Destination,
    /// A backend's reply: the backend becomes the VIP.
    Source,
}

/// Adds a port change and applies the whole difference to the L4 checksum. A later fragment has neither.
#[inline(always)]
fn l4<A>(packet: Packet, ip: &Ip<'_, A>, end: End, old: u16, new: u16, addresses: Delta) -> bool {
    if settings::fragments() != 0 && ip.piece.is(LATER) {
        return true;
    }
    let delta = addresses.word16(old, new);
    if ip.protocol == PROTO_TCP {
        const CHECK: usize = offset_of!(TcpHdr, check);
        let Some(tcp) = packet.header::<TcpHdr>(ip.l4) else { return false };
        match end {
            End::Destination => tcp.set_u16::<{ offset_of!(TcpHdr, dest) }>(new),
            End::Source => tcp.set_u16::<{ offset_of!(TcpHdr, source) }>(new),
        }
        tcp.set_u16::<CHECK>(delta.apply(tcp.u16::<CHECK>()));
    } else {
        const CHECK: usize = offset_of!(UdpHdr, check);
        let Some(udp) = packet.header::<UdpHdr>(ip.l4) else { return false };
        match end {
            End::Destination => udp.set_u16::<{ offset_of!(UdpHdr, dst) }>(new),
            End::Source => udp.set_u16::<{ offset_of!(UdpHdr, src) }>(new),
        }
        udp.set_u16::<CHECK>(delta.apply_udp(udp.u16::<CHECK>()));
    }
    true
}

/// An address and a port, in network order.
#[derive(Clone, Copy)]
pub struct Side<A> {
    pub addr: A,
    pub port: u16,
}

/// Translates one end of an IPv4 packet and takes one from its TTL, which must be above 1.
#[inline(always)]
pub fn ipv4(packet: Packet, ip: &Ip<'_, u32>, end: End, old: Side<u32>, new: Side<u32>) -> bool {
    const CHECK: usize = offset_of!(Ipv4Hdr, check);
    let Some(header) = packet.header::<Ipv4Hdr>(IP) else { return false };
    let address = Delta::new().word32(old.addr, new.addr);
    match end {
        End::Destination => header.set_u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(new.addr),
        End::Source => header.set_u32::<{ offset_of!(Ipv4Hdr, src_addr) }>(new.addr),
    }
    let delta = ttl::less4(&header, address);
    header.set_u16::<CHECK>(delta.apply(header.u16::<CHECK>()));
    l4(packet, ip, end, old.port, new.port, address)
}

/// Translates one end of an IPv6 packet and takes one from its hop limit, which must be above 1.
#[inline(always)]
pub fn ipv6(packet: Packet, ip: &Ip<'_, [u32; 4]>, end: End, old: Side<[u32; 4]>, new: Side<[u32; 4]>) -> bool {
    const SOURCE: usize = offset_of!(Ipv6Hdr, src_addr);
    const DESTINATION: usize = offset_of!(Ipv6Hdr, dst_addr);
    let Some(header) = packet.header::<Ipv6Hdr>(IP) else { return false };
    let [a, b, c, d] = new.addr;
    match end {
        End::Destination => {
            header.set_u32::<DESTINATION>(a);
            header.set_u32::<{ DESTINATION + 4 }>(b);
            header.set_u32::<{ DESTINATION + 8 }>(c);
            header.set_u32::<{ DESTINATION + 12 }>(d);
        }
        End::Source => {
            header.set_u32::<SOURCE>(a);
            header.set_u32::<{ SOURCE + 4 }>(b);
            header.set_u32::<{ SOURCE + 8 }>(c);
            header.set_u32::<{ SOURCE + 12 }>(d);
        }
    }
    ttl::less6(&header);
    l4(packet, ip, end, old.port, new.port, Delta::new().words128(old.addr, new.addr))
}
