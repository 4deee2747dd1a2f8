//! How often something may be done in a second, by each CPU: what a flood of packets asks for must not become another one.

use crate::clock;

/// This CPU's account: the second it is for, and how much was spent in it. `None`, as a map may answer, allows nothing.
#[inline(always)]
pub fn spend(account: Option<*mut [u64; 2]>, most: u64) -> bool {
    let Some(account) = account else { return false };
    // SAFETY: per-CPU memory of our own, and XDP is not preempted by XDP on the same CPU.
    let [second, spent] = unsafe { &mut *account };
    let now = u64::from(clock::seconds());
    if *second != now {
        (*second, *spent) = (now, 0);
    }
    if *spent >= most {
        return false;
    }
    *spent += 1;
    true
}
