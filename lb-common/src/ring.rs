//! Rings and rows: which backend a flow belongs to, decided in one place.
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
//! A steady row has all upper 48 bits zero, so "steady" is one compare.

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

    #[inline(always)]
    pub const fn owner(self) -> u16 {
        self.0 as u16
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

/// What a row says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Forward to this backend id.
    Backend(u16),
    /// The pool behind this ring is empty.
    NoBackend,
}

/// The row decision. The program, the tests and the reference oracle all call this.
#[inline(always)]
pub const fn decide(row: Row) -> Decision {
    // Rows are only ever written steady for now; the owner is the answer of every kind that needs no table.
    match row.owner() {
        0 => Decision::NoBackend,
        id => Decision::Backend(id),
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
    fn an_empty_row_has_no_backend() {
        assert_eq!(decide(Row::steady(0)), Decision::NoBackend);
        assert_eq!(decide(Row::steady(7)), Decision::Backend(7));
    }

    #[test]
    fn the_row_is_the_top_bits() {
        assert_eq!(row_index(0xffff_ffff, 10), 1023);
        assert_eq!(row_index(0x0000_0001, 20), 0);
        assert_eq!(row_index(0x8000_0000, 14), 1 << 13);
    }
}
