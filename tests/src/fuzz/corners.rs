//! Checksums steered to their corners: the two zeroes, and what is next to them, where carries add up to one more. A
//! random sum is there once in 65,536 packets; here it is made so, on the way in or on the way out, without making a
//! right checksum wrong or a wrong one right.
//!
//! A word of the packet that nobody reads (payload, or the IPv4 identification) is raised by what the checksum is to
//! lose. Raising a word by x lowers the checksum by x, in one's complement.

use super::random::Random;
use crate::model::read::{self, ETHERNET, be16};
use crate::model::{Arrival, Family, Kernel, State, World, process};
use lb_common::addr::PROTO_UDP;

/// One's complement addition.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

fn raise(frame: &mut [u8], at: usize, by: u16) {
    let value = add(be16(frame, at).unwrap_or_default(), by);
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Changes a frame so that one of its checksums is at a corner when it comes in, or when it leaves.
pub fn steer(random: &mut Random, world: &World, kernel: &Kernel, arrival: &mut Arrival) {
    let frame = &mut arrival.frame;
    let Some(packet) = read::datagram(frame).filter(|p| p.is_complete(frame)) else { return };
    let header = packet.family == Family::V4 && random.percent(40);
    let (field, spare) = if header {
        (ETHERNET + 10, ETHERNET + 4)
    } else {
        // The last whole word of the segment, if it is payload.
        let segment = packet.length - (packet.l4 - ETHERNET);
        let word = packet.l4 + (segment / 2 - 1) * 2;
        if word < packet.checksum_at() + 2 {
            return;
        }
        (packet.checksum_at(), word)
    };
    let sum = be16(frame, field).unwrap_or_default();
    let is_udp = !header && packet.protocol == PROTO_UDP;
    if is_udp && sum == 0 {
        return;
    }
    let value = if random.percent(50) {
        sum
    } else {
        let outcome = process(world, kernel, &mut State::default(), 0, arrival);
        if !outcome.verdict.is_sent() || outcome.trace.answered {
            return;
        }
        // In a tunnel the checksums are those of the inner packet.
        let moved = outcome.frame.len() - arrival.frame.len();
        be16(&outcome.frame, field + moved).unwrap_or_default()
    };
    let target = random.weighted(&[(5, 0), (1, 1), (1, 0xfffe), (1, 0xfffd), (1, 0xfffc), (1, 0xfffb), (1, 0x8000)]);
    let lose = add(value, !target);
    let frame = &mut arrival.frame;
    raise(frame, spare, lose);
    raise(frame, field, !lose);
    let sum = be16(frame, field).unwrap_or_default();
    // Both representations of zero are seen on wires; of UDP's only one is a sum.
    if sum == 0 && (is_udp || random.percent(30)) {
        frame[field..field + 2].fill(0xff);
    } else if sum == 0xffff && !is_udp && random.percent(70) {
        frame[field..field + 2].fill(0);
    }
}
