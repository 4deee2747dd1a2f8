//! Fragments: the first one teaches where its packet goes, the rest follow.
//!
//! A later fragment has no ports, so nothing about it says whose it is but what all fragments of a packet have in
//! common: addresses, identification and, in IPv4, protocol (RFC 791 §3.2, RFC 8200 §4.5). One that comes before its first,
//! or whose first went through another node, is nobody's: it passes.
//!
//! These are functions of their own in the object, because whole packets must not pay for them with stack.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::flow::{FRAGMENT_TIME, Flow4, Flow6, Fragments};
use lb_ebpf::packet::Packet;

use crate::clock;
use crate::maps::{FRAGMENTS4, FRAGMENTS6};
use crate::parse::IP;
use crate::parse::ipv6::address;

/// `bpf_map_update_elem` of linux/bpf.h: whether there is one or not.
const BPF_ANY: u64 = 0;

#[inline(always)]
fn key4(packet: Packet, id: u32) -> Option<Flow4> {
    let ip = packet.opaque().header::<Ipv4Hdr>(IP)?;
    Some(Flow4 {
        source: ip.u32::<{ offset_of!(Ipv4Hdr, src_addr) }>(),
        destination: ip.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(),
        ports: id,
        protocol: u32::from(ip.u8::<{ offset_of!(Ipv4Hdr, proto) }>()),
    })
}

#[inline(always)]
fn key6(packet: Packet, id: u32) -> Option<Flow6> {
    let ip = packet.opaque().header::<Ipv6Hdr>(IP)?;
    Some(Flow6 { source: address!(ip, src_addr), destination: address!(ip, dst_addr), ports: id, protocol: 0 })
}

macro_rules! fragments {
    ($teach:ident, $find:ident, $key:ident, $map:ident) => {
        /// Writes down what the first fragment told, as [`Fragments::pack`] makes it. Not written down, the rest passes.
        #[cold]
        #[inline(never)]
        pub fn $teach(packet: Packet, id: u32, what: u64) {
            if let Some(key) = $key(packet, id) {
                let _ = $map.insert(&key, &Fragments { what, until: clock::now() + FRAGMENT_TIME }, BPF_ANY);
            }
        }

        /// What the first fragment told, if it came lately; 0 if not.
        #[cold]
        #[inline(never)]
        pub fn $find(packet: Packet, id: u32) -> u64 {
            let Some(key) = $key(packet, id) else { return 0 };
            // SAFETY: an element may become another packet's while it is read; then this is taken for that one's.
            match unsafe { $map.get(&key) } {
                Some(first) if clock::now() < first.until => first.what,
                _ => 0,
            }
        }
    };
}

fragments!(teach4, find4, key4, FRAGMENTS4);
fragments!(teach6, find6, key6, FRAGMENTS6);
