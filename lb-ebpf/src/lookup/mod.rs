//! Which backend: the flow's row on the service's ring.

use lb_common::backend::Backend;
use lb_common::counters::DropReason;
use lb_common::ring::{self, CLASSES, Decision, Row};
use lb_common::service::Service;

use crate::maps::{BACKENDS, RINGS_10, RINGS_12, RINGS_14, RINGS_17, RINGS_20};

/// The word of the flow's row. One arm per class, so that each lookup names one map and is inlined.
#[inline(always)]
fn row(service: &Service, hash: u32) -> Option<Row> {
    let index = |class: usize| ring::row_index(hash, CLASSES[class]);
    let word = match service.class {
        0 => RINGS_10.get_value(service.ring, &index(0)),
        1 => RINGS_12.get_value(service.ring, &index(1)),
        2 => RINGS_14.get_value(service.ring, &index(2)),
        3 => RINGS_17.get_value(service.ring, &index(3)),
        4 => RINGS_20.get_value(service.ring, &index(4)),
        _ => None,
    };
    word.map(|word| Row(*word))
}

/// The backend for a flow with this hash, and its id.
#[inline(always)]
pub fn backend(service: &Service, hash: u32) -> Result<(u16, &'static Backend), DropReason> {
    let row = row(service, hash).ok_or(DropReason::NoRing)?;
    match ring::decide(row) {
        Decision::NoBackend => Err(DropReason::NoBackend),
        Decision::Backend(id) => match BACKENDS.get(u32::from(id)) {
            Some(backend) => Ok((id, backend)),
            None => Err(DropReason::Internal),
        },
    }
}
