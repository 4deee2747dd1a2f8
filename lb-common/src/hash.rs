//! The keyed hash that places a flow on a ring.
//!
//! Multilinear over 32-bit words (Lemire & Kaser, "Strongly universal string hashing is fast", 2014): the sum
//! of a secret 64-bit key and one secret-times-word product per word, modulo 2^64; its upper half is strongly
//! universal. A 32-bit finaliser (murmur3's) then spreads it, so that every bit may serve as a row index.
//!
//! The key is a secret of the fleet. With an unkeyed hash or a CRC anyone can aim all their flows at one row.
//! Words are hashed in the byte order they are loaded from the packet, on little-endian machines; nodes of
//! different byte order would disagree, and the program is only built for little-endian BPF.

use crate::flow::{Flow4, Flow6};

/// 64-bit multipliers: one offset and one per word of the longest flow, with two to spare.
pub const KEY_WORDS: usize = 12;

/// The expanded secret.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u64; KEY_WORDS]);

impl core::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

/// Where key words come from: a plain array in the controller and in tests, load-time constants in the program.
pub trait Key {
    fn word(&self, i: usize) -> u64;
}

impl Key for HashKey {
    #[inline(always)]
    fn word(&self, i: usize) -> u64 {
        self.0[i]
    }
}

/// murmur3's 32-bit finaliser.
#[inline(always)]
pub const fn finalise(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[inline(always)]
fn term(key: &impl Key, i: usize, word: u32) -> u64 {
    key.word(i).wrapping_mul(word as u64)
}

/// The sum over the addresses alone.
#[inline(always)]
fn addresses4(key: &impl Key, f: &Flow4) -> u64 {
    key.word(0).wrapping_add(term(key, 1, f.source)).wrapping_add(term(key, 2, f.destination))
}

/// As [`addresses4`].
#[inline(always)]
fn addresses6(key: &impl Key, f: &Flow6) -> u64 {
    key.word(0)
        .wrapping_add(term(key, 1, f.source[0]))
        .wrapping_add(term(key, 2, f.source[1]))
        .wrapping_add(term(key, 3, f.source[2]))
        .wrapping_add(term(key, 4, f.source[3]))
        .wrapping_add(term(key, 5, f.destination[0]))
        .wrapping_add(term(key, 6, f.destination[1]))
        .wrapping_add(term(key, 7, f.destination[2]))
        .wrapping_add(term(key, 8, f.destination[3]))
}

/// Hash of an IPv4 flow. The protocol is not a word: each protocol has a ring of its own.
#[inline(always)]
pub fn flow4(key: &impl Key, f: &Flow4) -> u32 {
    finalise((addresses4(key, f).wrapping_add(term(key, 3, f.ports)) >> 32) as u32)
}

/// Hash of an IPv6 flow.
#[inline(always)]
pub fn flow6(key: &impl Key, f: &Flow6) -> u32 {
    finalise((addresses6(key, f).wrapping_add(term(key, 9, f.ports)) >> 32) as u32)
}

/// Hash of an IPv4 client of a VIP, whatever the ports: that of a flow whose ports are 0.
#[inline(always)]
pub fn client4(key: &impl Key, f: &Flow4) -> u32 {
    finalise((addresses4(key, f) >> 32) as u32)
}

/// As [`client4`].
#[inline(always)]
pub fn client6(key: &impl Key, f: &Flow6) -> u32 {
    finalise((addresses6(key, f) >> 32) as u32)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn key(seed: u64) -> HashKey {
        let mut x = seed;
        HashKey(core::array::from_fn(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            x ^ (x >> 29)
        }))
    }

    /// Sequential clients and ports are what real traffic looks like and what weak hashes clump on.
    #[test]
    fn sequential_flows_spread_evenly_over_rows() {
        let key = key(42);
        let mut rows = [0u32; 1024];
        for client in 0..256u32 {
            for port in 0..400u16 {
                let ports = u32::from_ne_bytes([((40_000 + port) >> 8) as u8, (40_000 + port) as u8, 0x01, 0xbb]);
                let f = Flow4 {
                    source: u32::from_ne_bytes([10, 0, 0, client as u8]),
                    destination: u32::from_ne_bytes([203, 0, 113, 10]),
                    ports,
                    protocol: 6,
                };
                rows[crate::ring::row_index(flow4(&key, &f), 10) as usize] += 1;
            }
        }
        // 102,400 flows over 1,024 rows: chi-square with 1,023 degrees of freedom is below 1,170 at p = 0.001.
        let chi: f64 = rows.iter().map(|&n| (f64::from(n) - 100.0).powi(2) / 100.0).sum();
        assert!(chi < 1_170.0, "chi-square {chi}");
    }

    /// All nodes of a fleet must agree, whatever version they run: these were computed elsewhere, from the paper.
    #[test]
    fn a_flow_s_hash_never_changes() {
        let key = key(42);
        let f = Flow4 { source: 0x0a0b_0c0d, destination: 0xcb00_710a, ports: 0x9c40_01bb, protocol: 6 };
        assert_eq!(flow4(&key, &f), 0xe50d_e886);
        assert_eq!(client4(&key, &f), 0x3a95_b19c);
        let f = Flow6 {
            source: [0x2001_0db8, 0x1111_2222, 0x3333_4444, 0x5555_6666],
            destination: [0x2001_0db9, 0x7777_8888, 0x9999_aaaa, 0xbbbb_cccc],
            ports: 0x9c40_01bb,
            protocol: 6,
        };
        assert_eq!(flow6(&key, &f), 0xc854_e231);
        assert_eq!(client6(&key, &f), 0xe9a6_a5db);
    }

    #[test]
    fn every_word_of_a_flow_counts() {
        let key = key(7);
        let base = Flow6 { source: [1, 2, 3, 4], destination: [5, 6, 7, 8], ports: 9, protocol: 6 };
        let h = flow6(&key, &base);
        for i in 0..9 {
            let mut f = base;
            match i {
                0..=3 => f.source[i] ^= 1,
                4..=7 => f.destination[i - 4] ^= 1,
                _ => f.ports ^= 1,
            }
            assert_ne!(flow6(&key, &f), h, "word {i}");
        }
    }

    #[test]
    fn a_client_is_its_addresses_and_not_its_ports() {
        let key = key(7);
        let four = Flow4 { source: 1, destination: 2, ports: 3, protocol: 6 };
        assert_eq!(client4(&key, &four), client4(&key, &Flow4 { ports: 4, protocol: 17, ..four }));
        assert_ne!(client4(&key, &four), client4(&key, &Flow4 { source: 4, ..four }));
        assert_ne!(client4(&key, &four), client4(&key, &Flow4 { destination: 4, ..four }));
        // The program says "ports 0" on its way for steady rows.
        assert_eq!(client4(&key, &four), flow4(&key, &Flow4 { ports: 0, ..four }));
        let six = Flow6 { source: [1, 2, 3, 4], destination: [5, 6, 7, 8], ports: 9, protocol: 6 };
        assert_eq!(client6(&key, &six), flow6(&key, &Flow6 { ports: 0, ..six }));
        assert_eq!(client6(&key, &six), client6(&key, &Flow6 { ports: 4, protocol: 17, ..six }));
        for i in 0..4 {
            let (mut source, mut destination) = (six, six);
            source.source[i] ^= 1;
            destination.destination[i] ^= 1;
            assert_ne!(client6(&key, &six), client6(&key, &source), "word {i}");
            assert_ne!(client6(&key, &six), client6(&key, &destination), "word {i}");
        }
    }

    #[test]
    fn another_key_is_another_placement() {
        let f = Flow4 { source: 1, destination: 2, ports: 3, protocol: 6 };
        assert_ne!(flow4(&key(1), &f), flow4(&key(2), &f));
    }

    #[test]
    fn a_key_never_prints() {
        assert_eq!(std::format!("{:?}", key(1)), "HashKey(secret)");
    }
}
