//! The one place where time is read: whole seconds since boot, or the test's own.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

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

/// As [`seconds`], up to one tick of the kernel behind, and cheaper: for every packet of a row that is not steady. All
/// CPUs see the same second.
#[inline(always)]
pub fn coarse_seconds() -> u32 {
    if settings::test_clock() != 0 {
        return CLOCK.get(0).copied().unwrap_or(0) as u32;
    }
    // SAFETY: no arguments, no side effects.
    unsafe { (bpf_ktime_get_coarse_ns() / 1_000_000_000) as u32 }
}
