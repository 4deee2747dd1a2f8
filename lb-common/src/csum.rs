//! Internet checksums, changed incrementally (RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`).
//!
//! Byte order does not matter to a one's complement sum as long as every operand uses the same one (RFC 1071
//! §2.B), so all words here are as loaded from the packet.
//!
//! Two traps. A UDP checksum of zero means "none" (RFC 768): leave it alone, and when a computed one comes out
//! as zero send 0xffff instead. And equation 3, unlike equation 4 of RFC 1141, never turns a valid checksum
//! into the wrong representation of zero, so it must not be "simplified".

/// Folds a 64-bit one's complement sum to 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    // Four 16-bit numbers add up to 18 bits, then to 0x10002 at most, then to 16 bits.
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff) + (sum >> 48);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The difference a replacement makes, to be added up over several fields and applied once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// A 16-bit field goes from `old` to `new`.
    #[inline(always)]
    pub const fn word16(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// A 32-bit field, aligned to 16 bits in the packet, goes from `old` to `new`.
    #[inline(always)]
    pub const fn word32(self, old: u32, new: u32) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// An IPv6 address goes from `old` to `new`.
    #[inline(always)]
    pub const fn words128(self, old: [u32; 4], new: [u32; 4]) -> Self {
        self.word32(old[0], new[0]).word32(old[1], new[1]).word32(old[2], new[2]).word32(old[3], new[3])
    }

    /// Another difference besides.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum field after the replacements.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold((!checksum) as u64 + self.0)
    }

    /// As [`Delta::apply`] for UDP: "none" stays "none", and a computed zero is sent as 0xffff.
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// The checksum of a 20-byte IPv4 header given as five words, its checksum field zero.
#[inline(always)]
pub const fn ipv4_header(words: [u32; 5]) -> u16 {
    !fold(words[0] as u64 + words[1] as u64 + words[2] as u64 + words[3] as u64 + words[4] as u64)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// The checksum from zero, by the book (RFC 1071 §4.1), in wire order.
    fn full(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *state ^ (*state >> 31)
    }

    #[test]
    fn incremental_update_agrees_with_a_full_sum() {
        let mut s = 1u64;
        for _ in 0..20_000 {
            let mut data: Vec<u8> = (0..40).map(|_| random(&mut s) as u8).collect();
            // Make corners common: fields of all zeroes and all ones.
            if random(&mut s).is_multiple_of(3) {
                data[4..8].fill(0);
            }
            if random(&mut s).is_multiple_of(3) {
                data[8..12].fill(0xff);
            }
            let before = full(&data);
            let old = u32::from_ne_bytes(data[4..8].try_into().unwrap());
            let new = match random(&mut s) % 4 {
                0 => 0,
                1 => u32::MAX,
                _ => random(&mut s) as u32,
            };
            data[4..8].copy_from_slice(&new.to_ne_bytes());
            let old16 = u16::from_ne_bytes([data[20], data[21]]);
            let new16 = random(&mut s) as u16;
            data[20..22].copy_from_slice(&new16.to_ne_bytes());
            let got = Delta::new().word32(old, new).word16(old16, new16).apply(before.to_be());
            let want = full(&data);
            // The all-zero packet aside, one's complement zero has one representation on each side.
            assert_eq!(got.to_be(), want, "{data:?}");
        }
    }

    /// One's complement arithmetic is arithmetic modulo 65535, with two zeroes of which a sum of anything is 0xffff.
    #[test]
    fn folding_is_arithmetic_modulo_65535() {
        let mut s = 7u64;
        let corners = [
            0,
            1,
            0xffff,
            0x1_0000,
            0x1_fffe,
            0xffff_ffff,
            0xffff_0000_ffff,
            0x3_fffc,
            // Those that carry once more after they carried.
            0xffff_ffff_0001_0000,
            0xffff_ffff_ffff_0002,
            u64::MAX,
            u64::MAX - 1,
        ];
        let randoms = (0..100_000).map(|i| random(&mut s) >> (i % 64));
        for sum in corners.into_iter().chain(randoms) {
            let expected = if sum == 0 { 0 } else { (sum - 1) % 0xffff + 1 };
            assert_eq!(u64::from(fold(sum)), expected, "{sum:#x}");
        }
    }

    #[test]
    fn udp_none_stays_none_and_zero_is_sent_as_ones() {
        assert_eq!(Delta::new().word16(1, 2).apply_udp(0), 0);
        // A change that makes the sum come out as zero.
        let mut hit = false;
        for c in 1..=u16::MAX {
            let out = Delta::new().word16(0, 1).apply_udp(c);
            assert_ne!(out, 0);
            hit |= out == 0xffff;
        }
        assert!(hit);
    }

    #[test]
    fn the_header_checksum_verifies() {
        let header: [u8; 20] = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8, 0x00,
            0xc7,
        ];
        let words = core::array::from_fn(|i| u32::from_ne_bytes(header[i * 4..i * 4 + 4].try_into().unwrap()));
        assert_eq!(ipv4_header(words).to_ne_bytes(), [0xb8, 0x61]);
    }
}
