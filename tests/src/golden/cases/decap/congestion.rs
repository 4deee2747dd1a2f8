//! The ECN field after what was outside is gone.

use super::super::super::world::DC;
use super::super::super::{Case, case};
use super::{FAMILIES, Tunnel, from_sluice};

/// RFC 6040 §4.2, figure 4, row by row. By inner field: what comes of it with an outer field of Not-ECT, ECT(1),
/// ECT(0), CE. `None` is not unwrapped.
const TABLE: [(u8, [Option<u8>; 4]); 4] = [
    (0, [Some(0), Some(0), Some(0), None]),
    (1, [Some(1), Some(1), Some(1), Some(3)]),
    (2, [Some(2), Some(1), Some(2), Some(3)]),
    (3, [Some(3), Some(3), Some(3), Some(3)]),
];

const NAMES: [&str; 4] = ["not ECN capable", "ECT(1)", "ECT(0)", "CE"];

/// With different DSCPs beside them, of which the client's stays.
const CLIENTS: u8 = 0xb8;
const OURS: u8 = 0x28;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (inner, outer, families) in FAMILIES {
        let [ip, others @ ..] = Tunnel::plain(inner);
        for (inside, results) in TABLE {
            for (outside, result) in (0u8..).zip(results) {
                let (o, i) = (NAMES[usize::from(outside)], NAMES[usize::from(inside)]);
                let case = case(format!("decap, {families}: {o} outside, {i} inside"))
                    .enters(DC, ip.around(outer, OURS | outside, inner.inner(CLIENTS | inside)));
                cases.push(match result {
                    Some(ecn) => case.unwrapped(from_sluice() / inner.inner(CLIENTS | ecn)),
                    None => case.ignored(),
                });
            }
        }
        // Headers in between change nothing (RFC 9601).
        for tunnel in others {
            let name = tunnel.name;
            cases.push(
                case(format!("decap, {families} by {name}: a congestion mark outside is carried inside"))
                    .enters(DC, tunnel.around(outer, OURS | 3, inner.inner(CLIENTS | 2)))
                    .unwrapped(from_sluice() / inner.inner(CLIENTS | 3)),
            );
        }
    }
    cases
}
