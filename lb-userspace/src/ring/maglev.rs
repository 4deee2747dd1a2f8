//! Which rows a member gets: Maglev (Eisenbud et al., NSDI 2016, §3.4) with quotas, on a clock.
//!
//! Every member has a permutation of all rows, from its identity and the seed alone, and walks it; a row belongs
//! to whoever comes first, and a member stops at its quota. Two things differ from the paper, and both are traps
//! to whoever changes this:
//!
//! - The table has 2^k rows, not a prime number. `p = offset + j·skip` runs through all of 2^k rows exactly when
//!   `skip` is odd. There are few odd skips, so now and then two members would share one and trail each other all
//!   the way; `(p ^ p >> k/2) · spread`, with another odd number of the member's own, keeps their ways apart.
//! - In the paper a member's turn lasts until it finds a free row, so where everybody stands depends on
//!   everybody's luck, and one member leaving disturbs all. Here the clock never waits: a member of weight `w`
//!   looks at its j-th row at time `j / w`, taken or not. Row and time are a fixed pair for each member, so the
//!   ring is the greedy matching over those times, and a change ripples only through rows that it frees or fills.
//!
//! One of 100 equal members leaving 16,384 rows moves 1.6 % of the rows, of which 1.0 % are its own. Turns that
//! wait move 2.4 %; a weighted rendezvous hash held to the same quotas moves 1.7 % for a hundred times the work.
//! `tests::one_of_a_hundred_leaving_moves_few_rows` keeps the figure.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use lb_common::ring::{CLASSES, rows};
use sha2::{Digest, Sha256};

use super::{Identity, Member, Seed, first_word, weights};

/// Row → index into `members`, for a ring of this class; `None` when no member has weight.
///
/// # Panics
/// With more than 65,536 members: backend ids have 16 bits.
pub fn build(seed: &Seed, class: usize, members: &[Member]) -> Option<Vec<u16>> {
    let walkers = walkers(seed, class, members);
    if walkers.is_empty() { None } else { Some(populate(walkers, rows(class))) }
}

/// A member on its way through its permutation of the rows.
#[derive(Clone, Copy)]
pub(super) struct Walker {
    pub(super) member: u16,
    pub(super) weight: u32,
    /// Rows still to get.
    pub(super) quota: u32,
    /// `p` of the next row it looks at.
    pub(super) position: u32,
    pub(super) skip: u32,
    pub(super) spread: u32,
}

impl Walker {
    /// The row at a position: a bijection of 0..rows, as each of its two steps is.
    pub(super) fn row(&self, position: u32, rows: u32) -> u32 {
        (position ^ (position >> (rows.trailing_zeros() / 2))).wrapping_mul(self.spread) & (rows - 1)
    }
}

/// The members with weight, in the order that breaks ties.
pub(super) fn walkers(seed: &Seed, class: usize, members: &[Member]) -> Vec<Walker> {
    let mut order: Vec<u16> = (0..members.len())
        .filter(|&i| members[i].weight > 0)
        .map(|i| u16::try_from(i).expect("no more members than backend ids"))
        .collect();
    let at = |i: u16| members[usize::from(i)];
    order.sort_by_key(|&i| (at(i).identity, at(i).weight, i));

    let weights: Vec<u32> = order.iter().map(|&i| at(i).weight).collect();
    let quotas = weights::quotas(&weights, rows(class));
    // A pool may list the same address and port twice; each listing walks its own way.
    let mut listing = 0u32;
    let mut previous = None;
    order
        .iter()
        .zip(quotas)
        .map(|(&member, quota)| {
            let Member { identity, weight } = at(member);
            listing = if previous == Some(identity) { listing + 1 } else { 0 };
            previous = Some(identity);
            let (position, skip, spread) = permutation(seed, class, &identity, listing);
            Walker { member, weight, quota, position, skip, spread }
        })
        .collect()
}

/// Offset, odd skip and odd spread of a member's permutation, from disjoint bits of one hash. Golden vectors fix
/// what is hashed and in which order.
fn permutation(seed: &Seed, class: usize, identity: &Identity, listing: u32) -> (u32, u32, u32) {
    let mut hash = Sha256::new_with_prefix(b"sluice ring permutation 1");
    hash.update(seed.0);
    hash.update(CLASSES[class].to_be_bytes());
    hash.update(listing.to_be_bytes());
    identity.hash_into(&mut hash);
    let word = first_word(hash);
    let mask = rows(class) - 1;
    ((word >> 42) as u32 & mask, (word >> 21) as u32 & mask | 1, word as u32 & mask | 1)
}

/// Walkers of one weight; they move at the same times, in the order of their identities.
struct Group {
    walkers: Vec<Walker>,
    weight: u32,
    /// The step they take next, from 1; its time is `step / weight`.
    step: u32,
}

// The heap pops its greatest: the earliest time, and of two at the same time the heavier.
impl Ord for Group {
    fn cmp(&self, other: &Self) -> Ordering {
        let (mine, theirs) =
            (u64::from(self.step) * u64::from(other.weight), u64::from(other.step) * u64::from(self.weight));
        theirs.cmp(&mine).then(self.weight.cmp(&other.weight))
    }
}

impl PartialOrd for Group {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Group {}

/// Lets the walkers go until all have their quotas, which add up to `rows`.
///
/// Work is about 11 looks per row; a bitmap of the free rows stays in the L1 cache, which the ring does not.
fn populate(mut walkers: Vec<Walker>, rows: u32) -> Vec<u16> {
    let mut ring = vec![0; rows as usize];
    let mut free = vec![u64::MAX; rows.div_ceil(64) as usize];

    // Stable, so that walkers of one weight stay in the order of their identities.
    walkers.sort_by_key(|w| w.weight);
    let mut groups: BinaryHeap<Group> = walkers
        .chunk_by(|a, b| a.weight == b.weight)
        .map(|chunk| Group { walkers: chunk.to_vec(), weight: chunk[0].weight, step: 1 })
        .collect();

    while let Some(mut group) = groups.peek_mut() {
        group.walkers.retain_mut(|walker| {
            let row = walker.row(walker.position, rows);
            walker.position = walker.position.wrapping_add(walker.skip) & (rows - 1);
            let (word, bit) = ((row / 64) as usize, 1u64 << (row % 64));
            if free[word] & bit != 0 {
                free[word] &= !bit;
                ring[row as usize] = walker.member;
                walker.quota -= 1;
            }
            walker.quota > 0
        });
        // Ends: after as many steps as there are rows a walker has seen them all.
        if group.walkers.is_empty() {
            PeekMut::pop(group);
        } else {
            group.step += 1;
        }
    }
    ring
}
