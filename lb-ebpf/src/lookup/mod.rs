//! Which backend: the flow's row on the service's ring.

use core::arch::asm;

use lb_common::backend::Backend;
use lb_common::counters::DropReason;
use lb_common::ring::{self, CLASSES, Row};
use lb_common::service::Service;

use crate::maps::{BACKENDS, RINGS_10, RINGS_12, RINGS_14, RINGS_17, RINGS_20};

/// The word of the flow's row. One arm per class, so that each lookup names one map and the kernel inlines it.
///
/// Left alone, the compiler merges the arms' second halves into one call for all five maps, which no kernel inlines.
/// So each arm ends in an instruction-less instruction of its own.
#[inline(always)]
fn row(service: &Service, hash: u32) -> Option<Row> {
    macro_rules! ring {
        ($map:ident, $class:literal) => {{
            let mut word = *$map.get_value(service.ring, &ring::row_index(hash, CLASSES[$class]))?;
            // SAFETY: a comment.
            unsafe { asm!(concat!("/* {0}: a row of class ", $class, " */"), inout(reg) word, options(nomem, nostack)) };
            word
        }};
    }
    Some(Row(match service.class {
        0 => ring!(RINGS_10, 0),
        1 => ring!(RINGS_12, 1),
        2 => ring!(RINGS_14, 2),
        3 => ring!(RINGS_17, 3),
        4 => ring!(RINGS_20, 4),
        _ => return None,
    }))
}

/// The backend for a flow with this hash, and its id.
#[inline(always)]
pub fn backend(service: &Service, hash: u32) -> Result<(u16, &'static Backend), DropReason> {
    let row = row(service, hash).ok_or(DropReason::NoRing)?;
    match row.owner() {
        0 => Err(DropReason::NoBackend),
        id => match BACKENDS.get(u32::from(id)) {
            Some(backend) => Ok((id, backend)),
            None => Err(DropReason::Internal),
        },
    }
}
