//! The data plane's clock, as the controller reads it.
//!
//! The program reads the coarse clock, which lags behind by a tick. So a second that begins here begins there a few
//! milliseconds later, never earlier; the margins of [`lb_common::rows`] are whole seconds.

use nix::time::{ClockId, clock_gettime};

/// Whole seconds of `CLOCK_MONOTONIC`.
pub fn seconds() -> u32 {
    // Only a clock that does not exist has an error to give.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.tv_sec() as u32)
}
