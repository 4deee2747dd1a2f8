//! How frames change: every byte that differs afterwards is written here.

use std::net::IpAddr;

use super::Family;
use super::checksum::{keep_ipv4, keep_transport};
use super::read::{Datagram, ETHERNET};
use super::world::{NextHop, octets};
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
    out[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
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
    // Back to who sent it.
    Some([&frame[6..12], &frame[..6], &frame[12..14], &ip, &answer].concat())
}

/// The Ethernet header towards a next hop.
pub fn address(frame: &mut [u8], hop: &NextHop, family: Family) {
    frame[..6].copy_from_slice(&hop.destination.0);
    frame[6..12].copy_from_slice(&hop.source.0);
    frame[12..14].copy_from_slice(if family == Family::V4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
}
