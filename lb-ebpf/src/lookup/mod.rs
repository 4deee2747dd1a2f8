//! Which backend: the flow's row on the service's ring, and where that does not say, what [`flows`] knows.

pub mod flows;
pub mod fragments;
pub mod wildcard;

use core::arch::asm;

use lb_common::backend::Backend;
use lb_common::counters::DropReason;
use lb_common::ring::{self, CLASSES, Row};
use lb_common::rows;
use lb_common::service::{Service, TRACKED};

use crate::atomic::Word;
use crate::maps::{BACKENDS, RINGS_10, RINGS_12, RINGS_14, RINGS_17, RINGS_20};
use crate::settings;

/// The word of the flow's row, and where it is. One arm per class, so that each lookup names one map and the kernel
/// inlines it.
///
/// Left alone, the compiler merges the arms' second halves into one call for all five maps, which no kernel inlines.
/// So each arm ends in an instruction-less instruction of its own.
#[inline(always)]
fn row(service: &Service, hash: u32) -> Option<(Row, Word)> {
    macro_rules! ring {
        ($map:ident, $class:literal) => {{
            let place = $map.get_value_ptr_mut(service.ring, &ring::row_index(hash, CLASSES[$class]))?;
            // SAFETY: inner arrays are freed after a grace period; rows are words that everybody changes atomically.
            let place = unsafe { Word::new(place) };
            let mut word = place.load();
            // SAFETY: a comment.
            unsafe { asm!(concat!("/* {0}: a row of class ", $class, " */"), inout(reg) word, options(nomem, nostack)) };
            (Row(word), place)
        }};
    }
    Some(match service.class {
        0 => ring!(RINGS_10, 0),
        1 => ring!(RINGS_12, 1),
        2 => ring!(RINGS_14, 2),
        3 => ring!(RINGS_17, 3),
        4 => ring!(RINGS_20, 4),
        _ => return None,
    })
}

/// The service's flows are tracked.
#[inline(always)]
pub fn is_tracked(service: &Service) -> bool {
    settings::tracking() != 0 && service.flags & TRACKED != 0
}

/// The id of the backend for a flow with this hash, 0 being nobody's, or [`flows::ORPHAN_TO_TELL`]. `look_up` is asked where
/// the row alone does not say, and about flows that are tracked; it is told whose the flow is by the row alone.
#[inline(always)]
pub fn backend(
    service: &Service,
    hash: u32,
    look_up: impl FnOnce(Option<u16>, Word) -> u32,
) -> Result<u32, DropReason> {
    let (row, place) = row(service, hash).ok_or(DropReason::NoRing)?;
    match rows::by_row_alone(row, hash) {
        Some(owner) if !is_tracked(service) => Ok(u32::from(owner)),
        alone => match look_up(alone, place) {
            flows::ORPHAN_TO_DROP => Err(DropReason::BackendDown),
            flows::CONTRADICTION => Err(DropReason::Internal),
            answer => Ok(answer),
        },
    }
}

/// The backend of this id.
#[inline(always)]
pub fn by_id(id: u32) -> Result<&'static Backend, DropReason> {
    match id {
        0 => Err(DropReason::NoBackend),
        id => BACKENDS.get(id).ok_or(DropReason::Internal),
    }
}
