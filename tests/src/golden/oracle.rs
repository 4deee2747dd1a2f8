//! The flow hash, written a second time from its definition, to predict rows and tunnel sources.
//!
//! Multilinear hashing (Lemire & Kaser 2014): key words k0…kn, message words m1…mn of 32 bits each,
//! h = (k0 + Σ ki·mi mod 2^64) div 2^32; then murmur3's finaliser. Words are the packet's bytes read as
//! little-endian 32-bit numbers: source, destination, then both ports as one word.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_common::hash::HashKey;

fn hash(key: &HashKey, message: &[u8]) -> u32 {
    let mut sum = u128::from(key.0[0]);
    for (word, k) in message.chunks_exact(4).zip(&key.0[1..]) {
        let m = word.iter().rev().fold(0u128, |m, byte| m << 8 | u128::from(*byte));
        sum += u128::from(*k) * m;
    }
    let mut h = ((sum >> 32) % (1 << 32)) as u32;
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

fn ports(source: u16, destination: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    [a, b, c, d]
}

/// The hash of an IPv4 flow from a client's (address, port) to a VIP's.
pub fn hash4(key: &HashKey, client: (Ipv4Addr, u16), vip: (Ipv4Addr, u16)) -> u32 {
    hash(key, &[client.0.octets(), vip.0.octets(), ports(client.1, vip.1)].concat())
}

/// As [`hash4`] for IPv6.
pub fn hash6(key: &HashKey, client: (Ipv6Addr, u16), vip: (Ipv6Addr, u16)) -> u32 {
    hash(key, &[&client.0.octets()[..], &vip.0.octets(), &ports(client.1, vip.1)].concat())
}

/// The row of a hash on a ring of 2^`log2` rows: its top bits.
pub fn row(hash: u32, log2: u32) -> u32 {
    ((u64::from(hash) << log2) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use lb_common::addr::words6;
    use lb_common::flow::{Flow4, Flow6};
    use lb_common::hash::{flow4, flow6};
    use lb_common::ring::row_index;

    use super::*;
    use crate::progrun::Settings;

    #[test]
    fn the_oracle_and_the_product_agree() {
        let key = Settings::everything().hash_key;
        for i in 0..2_000u32 {
            let n = i.wrapping_mul(2_654_435_761);
            let (client, vip) = (Ipv4Addr::from(n), Ipv4Addr::new(203, 0, 113, i as u8));
            let (port, vip_port) = (n as u16, 443 + i as u16);
            let word = u32::from_ne_bytes(ports(port, vip_port));
            let [source, destination] = [client, vip].map(|a| u32::from_ne_bytes(a.octets()));
            let flow = Flow4 { source, destination, ports: word, protocol: 6 };
            let hash = hash4(&key, (client, port), (vip, vip_port));
            assert_eq!(hash, flow4(&key, &flow));
            for log2 in [10, 14, 20] {
                assert_eq!(row(hash, log2), row_index(hash, log2));
            }

            let client = Ipv6Addr::from(u128::from(n) << 77 | u128::from(i));
            let vip = Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(n));
            let [source, destination] = [client, vip].map(|a| words6(a.octets()));
            let flow = Flow6 { source, destination, ports: word, protocol: 17 };
            assert_eq!(hash6(&key, (client, port), (vip, vip_port)), flow6(&key, &flow));
        }
    }
}
