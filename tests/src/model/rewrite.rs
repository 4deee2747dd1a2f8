//! How frames change: every byte that differs afterwards is written here.

use std::net::IpAddr;

use super::Family;
use lb_common::addr::PROTO_UDP;

use super::checksum::{keep, keep_ipv4, keep_part, keep_transport};
use super::read::{Datagram, ETHERNET, Piece};
use super::world::{NextHop, Tag, octets};
use crate::packet::checksum::{checksum as from_zero, pseudo4, pseudo6};

/// Puts another address and port in place of the destination's or the source's, and takes a hop.
pub fn translate(frame: &[u8], packet: &Datagram, end: End, address: IpAddr, port: u16) -> Vec<u8> {
    let mut out = frame.to_vec();
    let (source_at, destination_at) = match packet.family {
        Family::V4 => (ETHERNET + 12, ETHERNET + 16),
        _ => (ETHERNET + 8, ETHERNET + 24),
    };
    let (address_at, port_at) = match end {
        End::Source => (source_at, packet.l4),
        End::Destination => (destination_at, packet.l4 + 2),
    };
    let address = octets(address);
    out[address_at..address_at + address.len()].copy_from_slice(&address);
    if packet.piece != Piece::Later {
        out[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
    }
    take_hop(frame, &mut out, packet.family);
    keep_transport(frame, &mut out);
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// One hop less to live (RFC 791 §3.2, RFC 8200 §3).
fn take_hop(before: &[u8], after: &mut [u8], family: Family) {
    match family {
        Family::V4 => {
            after[ETHERNET + 8] -= 1;
            keep_ipv4(before, after);
        }
        _ => after[ETHERNET + 7] -= 1,
    }
}

/// The packet as it is, but for a hop.
pub fn hop(frame: &[u8], packet: &Datagram) -> Vec<u8> {
    let mut out = frame.to_vec();
    take_hop(frame, &mut out, packet.family);
    out
}

/// The answer to a TCP segment that has no connection any more (RFC 9293 §3.10.7.1), if its header is whole. The caller
/// sees to it that it is no RST.
pub fn reset(frame: &[u8], packet: &Datagram) -> Option<Vec<u8>> {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    let tcp = &frame[packet.l4..ETHERNET + packet.length];
    let header = usize::from(tcp[12] >> 4) * 4;
    if header < 20 || header > tcp.len() {
        return None;
    }
    let mut answer = Vec::new();
    answer.extend(packet.destination_port.to_be_bytes());
    answer.extend(packet.source_port.to_be_bytes());
    let flags = if tcp[13] & ACK != 0 {
        // The sequence number that the sender says it expects next.
        answer.extend(&tcp[8..12]);
        answer.extend([0; 4]);
        RST
    } else {
        // SEG.SEQ + SEG.LEN, of which SYN and FIN take one each (§3.4).
        let sequence = tcp[4..8].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let ends = u32::from(tcp[13] & SYN != 0) + u32::from(tcp[13] & FIN != 0);
        let taken = (tcp.len() - header) as u32 + ends;
        answer.extend([0; 4]);
        answer.extend(sequence.wrapping_add(taken).to_be_bytes());
        RST | ACK
    };
    // Five words; no window, no urgent pointer, the checksum comes last.
    answer.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    let mut ip = Vec::new();
    let (source, destination) = (packet.destination, packet.source);
    let pseudo = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            // 40 bytes, DF and so no identification (RFC 6864 §4.1), a TTL of its own.
            ip.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, packet.protocol, 0, 0]);
            ip.extend([s.octets(), d.octets()].concat());
            let sum = from_zero(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            pseudo4(s, d, packet.protocol, answer.len())
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            ip.extend([0x60, 0, 0, 0, 0, 20, packet.protocol, 64]);
            ip.extend([s.octets(), d.octets()].concat());
            pseudo6(s, d, packet.protocol, answer.len())
        }
        _ => unreachable!("one packet has one family"),
    };
    let sum = from_zero(&[&pseudo[..], &answer].concat());
    answer[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(back(frame, &[ip, answer].concat()))
}

/// As [`translate`], of an error: the packet that it quotes changes at that end, and the error goes to who sent that, or
/// comes from who was to get it.
pub fn translate_error(frame: &[u8], packet: &Datagram, end: End, address: IpAddr, port: u16) -> Vec<u8> {
    let mut out = frame.to_vec();
    let icmp = packet.identification as usize;
    let quoted = icmp + 8;
    let (source_at, destination_at) = if packet.family == Family::V4 { (12, 16) } else { (8, 24) };
    // A client's error is about a packet from the VIP, a backend's about one to the backend.
    let (address_at, port_at) = match end {
        End::Destination => (quoted + source_at, packet.l4),
        End::Source => (quoted + destination_at, packet.l4 + 2),
    };
    let new = octets(address);
    let (addresses, ports) = (address_at..address_at + new.len(), port_at..port_at + 2);
    let old = frame[addresses.clone()].to_vec();
    out[addresses].copy_from_slice(&new);
    out[ports.clone()].copy_from_slice(&port.to_be_bytes());
    if packet.family == Family::V4 {
        let header = usize::from(frame[quoted] & 0x0f) * 4;
        keep(frame, &mut out, quoted..quoted + header, quoted + 10);
    }
    let (was, is) = ([&old[..], &frame[ports.clone()]].concat(), [&new[..], &out[ports]].concat());
    if packet.protocol == PROTO_UDP {
        keep_part(&was, &is, &mut out, packet.l4 + 6, true);
    } else if packet.l4 + 18 <= ETHERNET + packet.length {
        keep_part(&was, &is, &mut out, packet.l4 + 16, false);
    }
    // Routers on the way keep their address.
    let outer = match end {
        End::Destination => Some(ETHERNET + destination_at),
        End::Source => Some(ETHERNET + source_at).filter(|at| frame[*at..at + old.len()] == old),
    };
    if let Some(at) = outer {
        out[at..at + new.len()].copy_from_slice(&new);
    }
    take_hop(frame, &mut out, packet.family);
    let message = icmp + 4..ETHERNET + packet.length;
    let pseudo = |frame: &[u8]| match packet.family {
        Family::V4 => Vec::new(),
        _ => frame[ETHERNET + 8..ETHERNET + 40].to_vec(),
    };
    let was = [pseudo(frame), frame[message.clone()].to_vec()].concat();
    let is = [pseudo(&out), out[message].to_vec()].concat();
    keep_part(&was, &is, &mut out, icmp + 2, false);
    out
}

/// The answer to an echo request.
pub fn echo(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    let is_v4 = frame[ETHERNET] >> 4 == 4;
    let (icmp, source, length) = if is_v4 { (20, 12, 4) } else { (40, 8, 16) };
    let (icmp, source) = (ETHERNET + icmp, ETHERNET + source);
    let destination = source + length;
    out[source..destination].copy_from_slice(&frame[destination..destination + length]);
    out[destination..destination + length].copy_from_slice(&frame[source..destination]);
    out[ETHERNET + if is_v4 { 8 } else { 7 }] = 64;
    if is_v4 {
        keep_ipv4(frame, &mut out);
    }
    out[icmp] = if is_v4 { 0 } else { 129 };
    let (was, is) = (frame[icmp..icmp + 2].to_vec(), out[icmp..icmp + 2].to_vec());
    keep_part(&was, &is, &mut out, icmp + 2, false);
    // All of it may be zero, whose checksum is ffff (RFC 1624 §3).
    if is_v4 && out[icmp + 2..icmp + 4] == [0, 0] {
        out[icmp + 2..icmp + 4].copy_from_slice(&[0xff, 0xff]);
    }
    back(frame, &out[ETHERNET..])
}

/// A frame to who sent this one.
fn back(frame: &[u8], ip: &[u8]) -> Vec<u8> {
    [&frame[6..12], &frame[..6], &frame[12..14], ip].concat()
}

/// The answer to a packet that is too big for a way with this MTU: of IPv4 its header and eight bytes (RFC 792), and only
/// if it may not be fragmented; of IPv6 as much as every link takes (RFC 4443 §3.2).
pub fn too_big(frame: &[u8], packet: &Datagram, mtu: usize) -> Option<Vec<u8>> {
    let ip = &frame[ETHERNET..];
    match (packet.source, packet.destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let quote = usize::from(ip[0] & 0x0f) * 4 + 8;
            (ip[6] & 0x40 != 0 && mtu >= 68 && packet.length >= 28 + quote).then_some(())?;
            let mut icmp = vec![3, 4, 0, 0, 0, 0];
            icmp.extend((mtu as u16).to_be_bytes());
            icmp.extend(&ip[..quote]);
            let sum = from_zero(&icmp);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            let length = (20 + icmp.len()) as u16;
            let mut header = vec![0x45, 0];
            header.extend(length.to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
            header.extend([d.octets(), s.octets()].concat());
            let sum = from_zero(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            Some(back(frame, &[header, icmp].concat()))
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            (mtu >= 1280).then_some(())?;
            let mut icmp = vec![2, 0, 0, 0];
            icmp.extend((mtu as u32).to_be_bytes());
            icmp.extend(&ip[..1280 - 48]);
            let sum = from_zero(&[&pseudo6(d, s, 58, icmp.len())[..], &icmp].concat());
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((icmp.len() as u16).to_be_bytes());
            header.extend([58, 64]);
            header.extend([d.octets(), s.octets()].concat());
            Some(back(frame, &[header, icmp].concat()))
        }
        _ => unreachable!("one packet has one family"),
    }
}

/// The MSS option of a SYN (RFC 9293 §3.7.1) lowered to `most`, 88 at least; `None` if there is nothing to lower. Options
/// that are cut short, or say so, hide what is behind them.
pub fn clamp(frame: &[u8], packet: &Datagram, most: usize) -> Option<Vec<u8>> {
    let most = most.max(88);
    let end = packet.l4 + usize::from(frame[packet.l4 + 12] >> 4) * 4;
    let mut at = packet.l4 + 20;
    loop {
        // An MSS takes four bytes, so in less there is none.
        let option = frame.get(at..at + 4).filter(|_| at + 4 <= end)?;
        match (option[0], usize::from(option[1])) {
            (0, _) => return None,
            (1, _) => at += 1,
            (2, 4) if usize::from(option[2]) << 8 | usize::from(option[3]) > most => break,
            (2, 4) | (_, 0 | 1) => return None,
            (_, length) => at += length,
        }
    }
    let mut out = frame.to_vec();
    out[at + 2..at + 4].copy_from_slice(&(most as u16).to_be_bytes());
    // The words of the checksum that the value is in, whether it is one or in two.
    let words = at + 2 - (at - packet.l4) % 2..at + 4 + (at - packet.l4) % 2;
    let (was, is) = (frame[words.clone()].to_vec(), out[words].to_vec());
    keep_part(&was, &is, &mut out, packet.l4 + 16, false);
    Some(out)
}

/// The frame with VLAN tags behind its addresses, the outer one first.
pub fn tagged(frame: &[u8], tags: impl IntoIterator<Item = Tag>) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for Tag { vlan, service } in tags {
        out.extend(if service { [0x88, 0xa8] } else { [0x81, 0x00] });
        out.extend(vlan.to_be_bytes());
    }
    out.extend(&frame[12..]);
    out
}

/// The Ethernet header towards a next hop.
pub fn address(frame: &mut [u8], hop: &NextHop, family: Family) {
    frame[..6].copy_from_slice(&hop.destination.0);
    frame[6..12].copy_from_slice(&hop.source.0);
    frame[12..14].copy_from_slice(if family == Family::V4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
}
