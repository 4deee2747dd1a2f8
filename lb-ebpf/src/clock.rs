//! The one place where time is read: whole seconds since boot, or the test's own.

use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::maps::CLOCK;
use crate::settings;

/// Seconds on the data plane's clock (CLOCK_MONOTONIC).
#[inline(always)]
pub fn seconds() -> u64 {
    if settings::test_clock() != 0 {
        return CLOCK.get(0).copied().unwrap_or(0);
    }
    // SAFETY: no arguments, no side effects.
    unsafe { bpf_ktime_get_ns() / 1_000_000_000 }
}
