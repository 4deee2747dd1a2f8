//! Rings: who owns which row, computed the same on every node.
//!
//! A pool of [`Member`]s becomes a table of 2^k rows, each naming one member; [`lb_common::ring`] says how a
//! flow finds its row. Everything here is pure: the same members, weights and seed give the same ring whatever
//! their order, on every node of a fleet. The trap is anything local creeping in — a backend id, a position in
//! the file, a hash map's iteration order — so members are known by [`Identity`] alone, and every tie is broken
//! by it.
//!
//! [`weights`] decides how many rows each member gets, [`maglev`] decides which.

use std::fmt;
use std::net::IpAddr;

use lb_common::hash::HashKey;
use lb_common::ring::{CLASSES, rows};
use sha2::{Digest, Sha256};

pub mod maglev;
pub mod weights;

pub use maglev::build;

/// Rows a pool wants per member with weight. A member's row count is a whole number, so with 100 rows the
/// rounding costs it at most 1 % of its share.
pub const ROWS_PER_MEMBER: u64 = 100;

/// Rows the lightest member should get, so that its share is off by 1/16 at most.
pub const ROWS_OF_LIGHTEST: u64 = 8;

/// The largest class (2^14 rows, 128 KiB) that weights alone may ask for: a steep weight is no reason to push
/// the ring out of the CPU's L2 cache. Beyond it the lightest members get their one row at least.
pub const CLASS_FOR_WEIGHTS: usize = 2;

/// What makes a backend the same one on every node: where its packets go, never a local id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    pub address: IpAddr,
    /// Host order; 0 where the backend takes whatever port the client used.
    pub port: u16,
}

impl Identity {
    pub const fn new(address: IpAddr, port: u16) -> Self {
        Self { address, port }
    }

    /// Family (4 or 6), address octets, port big-endian: 7 or 19 bytes. Part of what golden vectors fix.
    fn hash_into(&self, hash: &mut Sha256) {
        match self.address {
            IpAddr::V4(a) => {
                hash.update([4]);
                hash.update(a.octets());
            }
            IpAddr::V6(a) => {
                hash.update([6]);
                hash.update(a.octets());
            }
        }
        hash.update(self.port.to_be_bytes());
    }
}

/// One member of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    pub identity: Identity,
    /// Share of the rows relative to the others; 0 gets none.
    pub weight: u32,
}

impl Member {
    pub const fn new(address: IpAddr, port: u16, weight: u32) -> Self {
        Self { identity: Identity::new(address, port), weight }
    }
}

/// The fleet's secret as far as rings need it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u8; 32]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(secret)")
    }
}

impl From<&HashKey> for Seed {
    /// One-way, and apart from the flow hash: SHA-256 over a label and the key's words, little-endian.
    fn from(key: &HashKey) -> Self {
        let mut hash = Sha256::new_with_prefix(b"sluice ring seed 1");
        for word in key.0 {
            hash.update(word.to_le_bytes());
        }
        Self(hash.finalize().into())
    }
}

/// Ring class (index into [`CLASSES`]) for a pool: the smallest with [`ROWS_PER_MEMBER`] rows per member, and
/// with [`ROWS_OF_LIGHTEST`] rows for the lightest as far as [`CLASS_FOR_WEIGHTS`] goes. Members without weight
/// do not count. Up to 10 members have 1,024 rows, 40 have 4,096, 163 have 16,384, 1,310 have 131,072.
///
/// Every member with weight has a row in the class returned: the largest has more rows than there are backend
/// ids. A change of class moves most rows, so a pool should not sit on a threshold and oscillate.
pub fn class_for(members: &[Member]) -> usize {
    let weighted = || members.iter().map(|m| u64::from(m.weight)).filter(|&w| w > 0);
    let Some(lightest) = weighted().min() else { return 0 };
    let (count, total) = (weighted().count() as u64, weighted().sum::<u64>());

    let enough_rows = |class: usize| u64::from(rows(class)) >= ROWS_PER_MEMBER * count;
    let lightest_precise =
        |class: usize| u128::from(rows(class)) * u128::from(lightest) >= u128::from(ROWS_OF_LIGHTEST * total);

    let last = CLASSES.len() - 1;
    let by_count = (0..last).find(|&c| enough_rows(c)).unwrap_or(last);
    let by_weight = (0..CLASS_FOR_WEIGHTS).find(|&c| lightest_precise(c)).unwrap_or(CLASS_FOR_WEIGHTS);
    by_count.max(by_weight)
}

/// How many rows each member has.
pub fn row_counts(ring: &[u16], members: &[Member]) -> Vec<u32> {
    let mut counts = vec![0; members.len()];
    for &owner in ring {
        counts[usize::from(owner)] += 1;
    }
    counts
}

/// What two nodes compare to know that they place flows alike. Shown as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Fingerprint of row → identity. It tells unequal rings apart; it does not resist somebody who forges them.
pub fn fingerprint(ring: &[u16], members: &[Member]) -> Fingerprint {
    let digests: Vec<u64> = members
        .iter()
        .map(|m| {
            let mut hash = Sha256::new_with_prefix(b"sluice ring member 1");
            m.identity.hash_into(&mut hash);
            first_word(hash)
        })
        .collect();
    // Order matters: each step multiplies all earlier ones once more. The odd constant is 2^64 / φ.
    Fingerprint(ring.iter().fold(ring.len() as u64, |sum, &owner| {
        (sum ^ digests[usize::from(owner)]).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    }))
}

/// The first 8 bytes of a hash as a big-endian word.
fn first_word(hash: Sha256) -> u64 {
    hash.finalize().iter().take(8).fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests;
