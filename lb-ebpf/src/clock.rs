//! The one place where time is read: time since boot (CLOCK_MONOTONIC), or the test's own. It is up to one tick of the
//! kernel behind, which is much cheaper to ask for, and the same for all CPUs.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

use crate::maps::CLOCK;
use crate::settings;

const SECOND: u64 = 1_000_000_000;

/// In nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    if settings::test_clock() != 0 {
        return CLOCK.get(0).copied().unwrap_or(0) * SECOND;
    }
    // SAFETY: no arguments, no side effects.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// In whole seconds. A division, which takes longer than asking.
#[inline(always)]
pub fn seconds() -> u32 {
    if settings::test_clock() != 0 {
        return CLOCK.get(0).copied().unwrap_or(0) as u32;
    }
    // SAFETY: as above.
    unsafe { (bpf_ktime_get_coarse_ns() / SECOND) as u32 }
}
