//! Rings and rows: where a flow's row is, and what its word says. [`crate::rows`] decides by it.
//!
//! A ring is 2^k rows of one `u64`, reached by the top k bits of the flow's hash. Rings live in arrays of one
//! fixed size per class, because the kernel inlines the lookup only when all inner maps are alike.
//!
//! ```text
//!  63  62 61                          32 31           16 15            0
//! +------+------------------------------+---------------+---------------+
//! | kind |            until             |    settled    |     owner     |
//! +------+------------------------------+---------------+---------------+
//! ```
//!
//! A steady row has all upper 48 bits zero, so "steady" is one compare. `until` counts whole seconds on the data
//! plane's clock. In a row of kind *exceptions*, `settled` and `until` together are a filter of 46 bits instead.
//! A *moving* row whose `until` has come is one of kind exceptions whose filter says yes to everything.

/// log2 of the row count per ring class. A ring's class is an index into this table.
pub const CLASSES: [u32; 5] = [10, 12, 14, 17, 20];

/// A `kind` of 0: the row's owner takes every packet.
pub const KIND_STEADY: u64 = 0;
/// The row's owner changed less than one idle timeout ago.
pub const KIND_MOVING: u64 = 1;
/// The timeout has passed, some written-down flows still live elsewhere.
pub const KIND_EXCEPTIONS: u64 = 2;

/// Rows in a ring of this class.
pub const fn rows(class: usize) -> u32 {
    1 << CLASSES[class]
}

/// The row of a flow: the top k bits of its hash.
#[inline(always)]
pub const fn row_index(hash: u32, log2: u32) -> u32 {
    hash >> (32 - log2)
}

/// Largest `until`.
pub const UNTIL_MAX: u32 = (1 << 30) - 1;

/// Bits of an exceptions row's filter.
pub const FILTER_BITS: u32 = 46;
const FILTER_MASK: u64 = (1 << FILTER_BITS) - 1;

/// The one bit that a flow has in an exceptions row's filter, from the lower half of its hash: the upper half chose
/// the row.
#[inline(always)]
pub const fn filter_bit(hash: u32) -> u64 {
    1 << (((hash & 0xffff) * FILTER_BITS) >> 16)
}

/// One row's word.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row(pub u64);

impl Row {
    /// A row that belongs to `owner` alone; 0 is "no backend".
    #[inline(always)]
    pub const fn steady(owner: u16) -> Self {
        Self(owner as u64)
    }

    /// A row that belongs to `owner` now, and whose flows of before that are not written down belong to `settled`.
    #[inline(always)]
    pub const fn moving(owner: u16, settled: u16, until: u32) -> Self {
        Self(owner as u64 | (settled as u64) << 16 | (until as u64 & UNTIL_MAX as u64) << 32 | KIND_MOVING << 62)
    }

    /// A row that belongs to `owner`, but for flows that `filter` (46 bits, see [`filter_bit`]) says yes to.
    #[inline(always)]
    pub const fn exceptions(owner: u16, filter: u64) -> Self {
        Self(owner as u64 | (filter & FILTER_MASK) << 16 | KIND_EXCEPTIONS << 62)
    }

    #[inline(always)]
    pub const fn owner(self) -> u16 {
        self.0 as u16
    }

    /// Of a moving row: the backend that flows belong to which began before and are not written down; 0 for none.
    #[inline(always)]
    pub const fn settled(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Of a moving row: the second from which on it does not move any more.
    #[inline(always)]
    pub const fn until(self) -> u32 {
        (self.0 >> 32) as u32 & UNTIL_MAX
    }

    /// Of a row of kind exceptions: its filter.
    #[inline(always)]
    pub const fn filter(self) -> u64 {
        self.0 >> 16 & FILTER_MASK
    }

    /// Flows that show a packet now are written down.
    #[inline(always)]
    pub const fn is_moving(self, now: u32) -> bool {
        self.kind() == KIND_MOVING && now < self.until()
    }

    /// The same row with another `until`.
    #[inline(always)]
    pub const fn with_until(self, until: u32) -> Self {
        Self::moving(self.owner(), self.settled(), until)
    }

    #[inline(always)]
    pub const fn kind(self) -> u64 {
        self.0 >> 62
    }

    #[inline(always)]
    pub const fn is_steady(self) -> bool {
        self.0 <= u16::MAX as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_row_is_its_owner_and_nothing_else() {
        for owner in [0u16, 1, 2, 0x7fff, 0xffff] {
            let row = Row::steady(owner);
            assert!(row.is_steady());
            assert_eq!(row.kind(), KIND_STEADY);
            assert_eq!(row.owner(), owner);
        }
        assert!(!Row(1 << 16).is_steady());
        assert!(!Row(KIND_MOVING << 62).is_steady());
    }

    #[test]
    fn a_moving_row_keeps_its_parts_apart() {
        for (owner, settled, until) in [(1, 2, 3), (0xffff, 0, UNTIL_MAX), (0, 0xffff, 0), (5, 5, 1 << 29)] {
            let row = Row::moving(owner, settled, until);
            assert_eq!((row.owner(), row.settled(), row.until(), row.kind()), (owner, settled, until, KIND_MOVING));
            assert!(!row.is_steady());
            assert!(!row.is_moving(until), "its time has come");
            assert!(until == 0 || row.is_moving(until - 1));
            assert_eq!(row.with_until(7), Row::moving(owner, settled, 7));
        }
    }

    #[test]
    fn an_exceptions_row_has_a_filter_and_no_time() {
        for filter in [0, 1, FILTER_MASK, 1 << 45] {
            let row = Row::exceptions(9, filter);
            assert_eq!((row.owner(), row.filter(), row.kind()), (9, filter, KIND_EXCEPTIONS));
            assert!(!row.is_steady() && !row.is_moving(0));
        }
    }

    #[test]
    fn every_filter_bit_serves_as_many_hashes() {
        let mut counts = [0u32; FILTER_BITS as usize];
        for hash in 0..=0xffff_u32 {
            let bit = filter_bit(0xabcd_0000 | hash);
            assert_eq!(bit.count_ones(), 1);
            counts[bit.trailing_zeros() as usize] += 1;
        }
        assert!(counts.iter().all(|n| (1424..=1425).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_class_is_a_power_of_two_of_rows_and_no_hash_is_beyond_them() {
        assert_eq!([0, 1, 2, 3, 4].map(rows), [1_024, 4_096, 16_384, 131_072, 1_048_576]);
        for (class, log2) in CLASSES.into_iter().enumerate() {
            assert_eq!(row_index(u32::MAX, log2), rows(class) - 1);
        }
    }

    #[test]
    fn the_row_is_the_top_bits() {
        assert_eq!(row_index(0xffff_ffff, 10), 1023);
        assert_eq!(row_index(0x0000_0001, 20), 0);
        assert_eq!(row_index(0x8000_0000, 14), 1 << 13);
    }
}
