//! Removes flows that are written down, on the controller's behalf, who runs this by `BPF_PROG_TEST_RUN`: attached to
//! nothing, it meets no packet.
//!
//! Looking and removing must be one step. A packet may touch an entry between the two, and a touched entry is not the
//! one that was to be removed; so its state is swapped for `LEAVING` first, which succeeds only if nobody was faster and
//! keeps everybody off, and then its element is deleted.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use lb_common::flow::{FORGET_AT_ONCE, Flow4, Flow6, FlowEntry, FlowState, Forget};

use crate::atomic::Word;
use crate::maps::{FLOW_USES, FLOWS4, FLOWS6, FORGET};

#[xdp]
pub fn forget(_ctx: XdpContext) -> u32 {
    for line in 0..FORGET_AT_ONCE as u32 {
        let Some(line) = FORGET.get_ptr_mut(line) else { break };
        // SAFETY: array elements live as long as the program; the controller waits for us before it touches them.
        let line = unsafe { &mut *line };
        line.gone = match line.family {
            4 => remove4(line),
            6 => remove6(line),
            _ => break,
        };
    }
    xdp_action::XDP_PASS
}

/// Takes the element out of everybody's reach, if its state is what it was.
#[inline(always)]
fn claim(element: *mut FlowEntry, state: FlowState) -> bool {
    // SAFETY: elements are part of the map's memory for as long as the map lives, and aligned to 8.
    let word = unsafe { Word::new(&raw mut (*element).state.0) };
    if !word.swap(state.0, FlowState::LEAVING.0) {
        return false;
    }
    // SAFETY: as above; nobody changes the service of an element that has been claimed.
    let service = unsafe { (*element).service };
    if let Some(uses) = FLOW_USES.get_ptr_mut(service) {
        // SAFETY: array elements live as long as the program, aligned; everybody changes the word atomically.
        unsafe { Word::new(&raw mut (*uses).entries) }.add(u64::MAX);
    }
    true
}

#[inline(always)]
fn remove4(line: &Forget) -> u32 {
    // SAFETY: the first 16 bytes of the line are the flow, and both are made of words.
    let flow = unsafe { &*(&raw const line.flow).cast::<Flow4>() };
    let Some(element) = FLOWS4.get_ptr_mut(flow) else { return 0 };
    u32::from(claim(element, line.state) && FLOWS4.remove(flow).is_ok())
}

#[inline(always)]
fn remove6(line: &Forget) -> u32 {
    let flow: &Flow6 = &line.flow;
    let Some(element) = FLOWS6.get_ptr_mut(flow) else { return 0 };
    u32::from(claim(element, line.state) && FLOWS6.remove(flow).is_ok())
}
