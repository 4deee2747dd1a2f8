//! Address and port translation. Checksums change by the difference only (RFC 1624): the payload is never
//! read, so an error it already carries stays detectable at the receiver.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use lb_common::addr::{PROTO_TCP, octets6};
use lb_common::csum::Delta;
use lb_ebpf::packet::Packet;

use crate::parse::IP;

/// Which end of the packet is translated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A client's packet: the VIP becomes the backend.
    Destination,
    /// A backend's reply: the backend becomes the VIP.
    Source,
}

/// Adds a port change and applies the whole difference to the L4 checksum.
#[inline(always)]
fn l4(packet: Packet, offset: usize, protocol: u8, end: End, old: u16, new: u16, addresses: Delta) -> bool {
    let port_offset = if end == End::Destination { 2 } else { 0 };
    let Some(port) = packet.at::<[u8; 2]>(offset + port_offset) else { return false };
    // SAFETY: bounds checked by `at`.
    unsafe { *port = new.to_ne_bytes() };
    let delta = addresses.word16(old, new);
    if protocol == PROTO_TCP {
        let Some(field) = packet.at::<[u8; 2]>(offset + offset_of!(TcpHdr, check)) else { return false };
        // SAFETY: bounds checked by `at`.
        unsafe { *field = delta.apply(u16::from_ne_bytes(*field)).to_ne_bytes() };
    } else {
        let Some(field) = packet.at::<[u8; 2]>(offset + offset_of!(UdpHdr, check)) else { return false };
        // SAFETY: bounds checked by `at`.
        unsafe { *field = delta.apply_udp(u16::from_ne_bytes(*field)).to_ne_bytes() };
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
pub fn ipv4(packet: Packet, offset: usize, protocol: u8, end: End, old: Side<u32>, new: Side<u32>) -> bool {
    let Some(header) = packet.at::<Ipv4Hdr>(IP) else { return false };
    // SAFETY: bounds checked by `at`; no other reference into the packet is alive.
    let header = unsafe { &mut *header };
    let before = u16::from_ne_bytes([header.ttl, header.proto]);
    header.ttl -= 1;
    let after = u16::from_ne_bytes([header.ttl, header.proto]);
    let address = Delta::new().word32(old.addr, new.addr);
    match end {
        End::Destination => header.dst_addr = new.addr.to_ne_bytes(),
        End::Source => header.src_addr = new.addr.to_ne_bytes(),
    }
    header.check = address.word16(before, after).apply(u16::from_ne_bytes(header.check)).to_ne_bytes();
    l4(packet, offset, protocol, end, old.port, new.port, address)
}

/// Translates one end of an IPv6 packet and takes one from its hop limit, which must be above 1.
#[inline(always)]
pub fn ipv6(packet: Packet, offset: usize, protocol: u8, end: End, old: Side<[u32; 4]>, new: Side<[u32; 4]>) -> bool {
    let Some(header) = packet.at::<Ipv6Hdr>(IP) else { return false };
    // SAFETY: as above.
    let header = unsafe { &mut *header };
    header.hop_limit -= 1;
    match end {
        End::Destination => header.dst_addr = octets6(new.addr),
        End::Source => header.src_addr = octets6(new.addr),
    }
    l4(packet, offset, protocol, end, old.port, new.port, Delta::new().words128(old.addr, new.addr))
}
