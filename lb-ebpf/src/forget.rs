//! Removes flows that are written down, on the controller's behalf, who runs this by `BPF_PROG_TEST_RUN`: attached to
//! nothing, it meets no packet.
//!
//! Looking and removing must be one step. A packet may touch an entry between the two, and a touched entry is not the
//! one that was to be removed; so its state is swapped for `LEAVING` first, which succeeds only if nobody was faster and
//! keeps everybody off, and then its element is deleted.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use lb_common::flow::{FORGET_AT_ONCE, FORGET_TRACKED, Flow4, Flow6, FlowEntry, FlowState, FlowUse, Forget};

use crate::atomic::Word;
use crate::maps::{FLOW_USES, FLOWS4, FLOWS6, FORGET, TRACKED4, TRACKED6};

const TRACKED_V4: u32 = FORGET_TRACKED + 4;
const TRACKED_V6: u32 = FORGET_TRACKED + 6;

#[xdp]
pub fn forget(_ctx: XdpContext) -> u32 {
    for line in 0..FORGET_AT_ONCE as u32 {
        let Some(line) = FORGET.get_ptr_mut(line) else { break };
        // SAFETY: array elements live as long as the program; the controller waits for us before it touches them.
        let line = unsafe { &mut *line };
        line.gone = match line.family {
            4 => remove4(line),
            6 => remove6(line),
            TRACKED_V4 => remove_tracked4(line),
            TRACKED_V6 => remove_tracked6(line),
            _ => break,
        };
    }
    xdp_action::XDP_PASS
}

/// Takes the element out of everybody's reach, if its state is what it was. `count` is where its service's are counted.
#[inline(always)]
fn claim(element: *mut FlowEntry, state: FlowState, count: impl FnOnce(*mut FlowUse) -> *mut u64) -> bool {
    // SAFETY: elements are part of the map's memory for as long as the map lives, and aligned to 8.
    let word = unsafe { Word::new(&raw mut (*element).state.0) };
    if !word.swap(state.0, FlowState::LEAVING.0) {
        return false;
    }
    // SAFETY: as above; nobody changes the service of an element that has been claimed.
    let service = unsafe { (*element).service };
    if let Some(uses) = FLOW_USES.get_ptr_mut(service) {
        // SAFETY: array elements live as long as the program, aligned; everybody changes the word atomically.
        unsafe { Word::new(count(uses)) }.add(u64::MAX);
    }
    true
}

macro_rules! remove {
    ($name:ident, $flow:ty, $map:ident, $count:ident) => {
        #[inline(always)]
        fn $name(line: &Forget) -> u32 {
            // SAFETY: a line begins with the flow, IPv4 ones in its first 16 bytes, and all of it is made of words.
            let flow = unsafe { &*(&raw const line.flow).cast::<$flow>() };
            let Some(element) = $map.get_ptr_mut(flow) else { return 0 };
            // SAFETY: `claim` gives a pointer to an element of the array.
            let claimed = claim(element, line.state, |uses| unsafe { &raw mut (*uses).$count });
            u32::from(claimed && $map.remove(flow).is_ok())
        }
    };
}

remove!(remove4, Flow4, FLOWS4, entries);
remove!(remove6, Flow6, FLOWS6, entries);
// An element may be pushed out and be another flow's before it is claimed. Only the same state lets that pass, and no
// flow is written down with one that is worth removing.
remove!(remove_tracked4, Flow4, TRACKED4, tracked4);
remove!(remove_tracked6, Flow6, TRACKED6, tracked6);
