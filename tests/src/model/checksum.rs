//! Checksums by what they are for, not by how they are updated.
//!
//! A receiver adds up everything a checksum covers, the checksum included, in one's complement; all ones means
//! "undamaged" (RFC 1071 §1). A translation must leave that sum as it was: then an undamaged packet stays undamaged,
//! and a damaged one stays damaged by as much. So the right checksum after a change is the one value that makes the
//! receiver's sum what it was before — found here by adding up whole packets from zero, where the program applies
//! differences (RFC 1624).

use std::net::IpAddr;
use std::ops::Range;

use lb_common::addr::{PROTO_TCP, PROTO_UDP};

use super::Family;
use super::read::{self, Datagram, ETHERNET, Piece, be16};
use crate::packet::checksum::{pseudo4, pseudo6, sum};

/// What a receiver adds up for TCP or UDP: the pseudo header and the segment.
fn segment(frame: &[u8], packet: &Datagram) -> u16 {
    let segment = &frame[packet.l4..ETHERNET + packet.length];
    let pseudo = match (packet.source, packet.destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => pseudo4(s, d, packet.protocol, segment.len()),
        (IpAddr::V6(s), IpAddr::V6(d)) => pseudo6(s, d, packet.protocol, segment.len()),
        _ => unreachable!("one packet has one family"),
    };
    // The pseudo header is a whole number of words, so the two sums may be added.
    add(sum(&pseudo), sum(segment))
}

/// One's complement addition.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    // Cannot overflow again: a sum that did is at most fffe.
    sum + u16::from(carry)
}

/// One's complement numbers have two zeroes; as numbers they are one.
fn number(x: u16) -> u32 {
    u32::from(x) % 0xffff
}

/// The field that turns the sum `without` it into `wanted`, as the number 0 to fffe.
fn field(wanted: u16, without: u16) -> u16 {
    ((0xffff + number(wanted) - number(without)) % 0xffff) as u16
}

fn set(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Sets the checksum at `at` in `after` so that it is as right or wrong as in `before`, over the same bytes. Computed
/// sums are written as 0 to fffe (RFC 1624 §3: only the sum of nothing but zeroes is ffff, and no header is that).
pub fn keep(before: &[u8], after: &mut [u8], covered: Range<usize>, at: usize) {
    let wanted = sum(&before[covered.clone()]);
    set(after, at, 0);
    let value = field(wanted, sum(&after[covered]));
    set(after, at, value);
}

/// As [`keep`], for the IPv4 header.
pub fn keep_ipv4(before: &[u8], after: &mut [u8]) {
    let header = usize::from(before[ETHERNET] & 0x0f) * 4;
    keep(before, after, ETHERNET..ETHERNET + header, ETHERNET + 10);
}

/// As [`keep_ipv4`] for TCP and UDP, over whole segments. A UDP checksum of zero means "none" (RFC 768) and stays;
/// one that comes out as zero is sent as ffff.
pub fn keep_transport(before: &[u8], after: &mut [u8]) {
    let (Some(old), Some(new)) = (read::datagram(before), read::datagram(after)) else { return };
    if is_unsummed(before, &old) {
        return;
    }
    let wanted = segment(before, &old);
    set(after, new.checksum_at(), 0);
    let value = match field(wanted, segment(after, &new)) {
        0 if new.protocol == PROTO_UDP => 0xffff,
        value => value,
    };
    set(after, new.checksum_at(), value);
}

/// As [`keep`], of a checksum of which only a part of what it covers is there: `was` became `is`. That of UDP is none, or
/// is not sent as zero.
pub fn keep_part(was: &[u8], is: &[u8], frame: &mut [u8], at: usize, udp: bool) {
    let Some(before) = be16(frame, at) else { return };
    if udp && before == 0 {
        return;
    }
    let value = match field(add(sum(was), before), sum(is)) {
        0 if udp => 0xffff,
        value => value,
    };
    set(frame, at, value);
}

/// The packet's UDP has no checksum.
pub fn is_unsummed(frame: &[u8], packet: &Datagram) -> bool {
    packet.protocol == PROTO_UDP && be16(frame, packet.checksum_at()) == Some(0)
}

/// The packet with checksums of its own that are right, whatever they were.
pub fn rightly_summed(frame: &[u8], packet: &Datagram) -> Vec<u8> {
    let mut right = frame.to_vec();
    if packet.family == Family::V4 {
        let header = ETHERNET..ETHERNET + usize::from(frame[ETHERNET] & 0x0f) * 4;
        set(&mut right, ETHERNET + 10, 0);
        let value = field(0xffff, sum(&right[header]));
        set(&mut right, ETHERNET + 10, value);
    }
    set(&mut right, packet.checksum_at(), 0);
    let value = field(0xffff, segment(&right, packet));
    set(&mut right, packet.checksum_at(), value);
    right[ETHERNET..ETHERNET + packet.length].to_vec()
}

/// One checksum of a packet, as a receiver would judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    Ipv4(bool),
    Transport(bool),
    Icmp(bool),
    /// UDP without a checksum.
    None,
}

impl Judged {
    pub const fn is_right(self) -> bool {
        matches!(self, Self::Ipv4(true) | Self::Transport(true) | Self::Icmp(true))
    }
}

/// Judges every checksum of a frame from the outside in, through tunnels, recomputing each from zero.
pub fn audit(frame: &[u8]) -> Vec<Judged> {
    let mut judged = Vec::new();
    let (frame, _) = read::untagged(frame);
    let mut packet = frame.get(ETHERNET..).unwrap_or_default().to_vec();
    let mut family = read::family(&frame);
    loop {
        let (header, length, next) = match family {
            Family::V4 if packet.len() >= 20 => {
                let header = usize::from(packet[0] & 0x0f) * 4;
                (header, usize::from(packet[2]) << 8 | usize::from(packet[3]), packet[9])
            }
            Family::V6 if packet.len() >= 40 => {
                (40, 40 + (usize::from(packet[4]) << 8 | usize::from(packet[5])), packet[6])
            }
            _ => return judged,
        };
        if header < 20 || length < header || length > packet.len() {
            return judged;
        }
        packet.truncate(length);
        if family == Family::V4 {
            judged.push(Judged::Ipv4(sum(&packet[..header]) == 0xffff));
        }
        match next {
            4 | 41 => {
                family = if next == 4 { Family::V4 } else { Family::V6 };
                packet.drain(..header);
            }
            1 if family == Family::V4 => {
                let whole = be16(&packet, 6).is_some_and(|flags| flags & 0x3fff == 0);
                if whole && packet.len() >= header + 8 {
                    judged.push(Judged::Icmp(sum(&packet[header..]) == 0xffff));
                }
                return judged;
            }
            58 if family == Family::V6 => {
                if packet.len() >= header + 8 {
                    let length = (packet.len() - header) as u32;
                    let pseudo = [&packet[8..40], &length.to_be_bytes(), &[0, 0, 0, 58]].concat();
                    judged.push(Judged::Icmp(add(sum(&pseudo), sum(&packet[header..])) == 0xffff));
                }
                return judged;
            }
            PROTO_TCP | PROTO_UDP | 0 | 43 | 44 | 60 => {
                // The reader wants a frame; any Ethernet header will do.
                let ethertype: [u8; 2] = if family == Family::V4 { [8, 0] } else { [0x86, 0xdd] };
                let frame = [&[0; 12][..], &ethertype, &packet].concat();
                // A fragment's checksum is over more than there is.
                let whole = |d: &Datagram| d.piece == Piece::Whole && d.is_complete(&frame);
                if let Some(datagram) = read::datagram(&frame).filter(whole) {
                    judged.push(match be16(&frame, datagram.checksum_at()) {
                        Some(0) if datagram.protocol == PROTO_UDP => Judged::None,
                        _ => Judged::Transport(segment(&frame, &datagram) == 0xffff),
                    });
                }
                return judged;
            }
            _ => return judged,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::packet::{Mac, Packet, ethernet, ipv4, tcp, udp};

    const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
    const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);

    fn frame(destination: Ipv4Addr, l4: impl Into<Packet>) -> Vec<u8> {
        (ethernet(Mac::local(1), Mac::local(2)) / ipv4(CLIENT, destination) / l4.into() / "payload").bytes()
    }

    #[test]
    fn a_right_checksum_stays_right_and_becomes_the_builders() {
        for (before, expected) in [
            (frame(VIP, tcp(1, 443)), frame(BACKEND, tcp(1, 8443))),
            (frame(VIP, udp(1, 53)), frame(BACKEND, udp(1, 5353))),
        ] {
            // The new packet with the old checksums, as a careless translator would leave it.
            let mut after = expected.clone();
            let at = read::datagram(&before).expect("a packet with ports").checksum_at();
            for field in [24, at] {
                after[field..field + 2].copy_from_slice(&before[field..field + 2]);
            }
            keep_ipv4(&before, &mut after);
            keep_transport(&before, &mut after);
            assert_eq!(after, expected);
            assert_eq!(audit(&after), [Judged::Ipv4(true), Judged::Transport(true)]);
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_and_none_stays_none() {
        let before = frame(VIP, tcp(1, 443).checksum(0x1234));
        let mut after = frame(BACKEND, tcp(1, 443).checksum(0x1234));
        keep_transport(&before, &mut after);
        assert_eq!(audit(&after), [Judged::Ipv4(true), Judged::Transport(false)]);
        let damage = |frame: &[u8]| number(segment(frame, &read::datagram(frame).expect("a packet with ports")));
        assert_eq!(damage(&before), damage(&after));

        let before = frame(VIP, udp(1, 53).checksum(0));
        let mut after = frame(BACKEND, udp(1, 53).checksum(0));
        keep_transport(&before, &mut after);
        assert_eq!(audit(&after), [Judged::Ipv4(true), Judged::None]);
    }

    #[test]
    fn an_audit_looks_into_tunnels() {
        let inner = ipv4(CLIENT, VIP).checksum(7) / tcp(1, 443) / "payload";
        let frame = ethernet(Mac::local(1), Mac::local(2)) / ipv4(CLIENT, BACKEND) / inner;
        assert_eq!(audit(&frame.bytes()), [Judged::Ipv4(true), Judged::Ipv4(false), Judged::Transport(true)]);
    }
}
