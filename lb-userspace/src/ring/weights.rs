//! How many rows each weight is worth: largest-remainder apportionment, decided before any row is.
//!
//! The trap is to let turns decide shares. Maglev's populate loop gives every member one row per turn, so 10:1
//! comes out 50:50 unless each member stops at a quota computed beforehand.

use std::cmp::Reverse;

/// Row quotas for members with these weights, all positive and no more of them than rows. They add up to
/// `rows` exactly, and equal remainders favour the member listed first, so the caller's order must be the same
/// everywhere.
///
/// A member whose exact share is less than one row gets one; the others share the rest, each within one row of
/// its exact share of it.
pub fn quotas(weights: &[u32], rows: u32) -> Vec<u32> {
    assert!(weights.len() <= rows as usize, "more members than rows");
    assert!(weights.iter().all(|&w| w > 0), "members without weight have no quota");
    let mut quotas = vec![1; weights.len()];

    // From the lightest on: who is worth less than a row of what is left keeps the one it has.
    let mut ascending: Vec<usize> = (0..weights.len()).collect();
    ascending.sort_by_key(|&i| (weights[i], i));
    let mut total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
    let mut left = rows;
    let mut tiny = 0;
    for &i in &ascending {
        if u128::from(weights[i]) * u128::from(left) >= u128::from(total) {
            break;
        }
        total -= u64::from(weights[i]);
        left -= 1;
        tiny += 1;
    }

    let mut sharing = ascending.split_off(tiny);
    let exact = |i: usize| u128::from(weights[i]) * u128::from(left);
    let mut given = 0;
    for &i in &sharing {
        let whole = exact(i) / u128::from(total);
        quotas[i] = u32::try_from(whole).expect("a share is no more than all rows");
        given += quotas[i];
    }
    sharing.sort_by_key(|&i| (Reverse(exact(i) % u128::from(total)), i));
    for &i in sharing.iter().take((left - given) as usize) {
        quotas[i] += 1;
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_are_proportional_and_complete() {
        let table: [(&[u32], u32, &[u32]); 9] = [
            (&[10, 1], 1024, &[931, 93]),
            (&[1, 10], 1024, &[93, 931]),
            (&[1], 1024, &[1024]),
            (&[7, 7, 7], 1024, &[342, 341, 341]),
            (&[100, 100, 5], 1024, &[500, 499, 25]),
            (&[1, u32::MAX], 1024, &[1, 1023]),
            (&[1, 1, u32::MAX, u32::MAX], 1024, &[1, 1, 511, 511]),
            (&[3, 2, 1, 1], 4, &[1, 1, 1, 1]),
            (&[u32::MAX; 3], 1 << 20, &[349_526, 349_525, 349_525]),
        ];
        for (weights, rows, expected) in table {
            assert_eq!(quotas(weights, rows), expected, "weights {weights:?} over {rows} rows");
        }
    }

    proptest! {
        #[test]
        fn nobody_is_a_row_off_and_nobody_is_left_out(
            weights in prop::collection::vec(prop_oneof![1u32..20, 1u32..100_000, any::<u32>().prop_map(|w| w.max(1))], 1..200),
            log2 in 8u32..18,
        ) {
            let rows = 1u32 << log2;
            let quotas = quotas(&weights, rows);
            prop_assert_eq!(quotas.iter().sum::<u32>(), rows);
            prop_assert!(quotas.iter().all(|&q| q > 0));

            // Set the members aside whose share is below one row; the others are exact among themselves.
            let mut sharing: Vec<usize> = (0..weights.len()).collect();
            let (mut left, mut total);
            loop {
                left = rows - (weights.len() - sharing.len()) as u32;
                total = sharing.iter().map(|&i| f64::from(weights[i])).sum::<f64>();
                let before = sharing.len();
                sharing.retain(|&i| f64::from(weights[i]) * f64::from(left) >= total);
                if sharing.len() == before { break }
            }
            for (i, &q) in quotas.iter().enumerate() {
                if sharing.contains(&i) {
                    let exact = f64::from(weights[i]) * f64::from(left) / total;
                    prop_assert!((f64::from(q) - exact).abs() < 1.0 + 1e-6, "{} rows for {exact}", q);
                } else {
                    prop_assert_eq!(q, 1);
                }
            }
        }
    }
}
