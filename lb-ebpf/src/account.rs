//! Counting: one service line and one backend line per packet, both this CPU's own.

use lb_common::counters::{BackendCounters, FlowCounters, ServiceCounters, TrackedCounters};

use crate::maps::{BACKEND_COUNTERS, FLOW_COUNTERS, SERVICE_COUNTERS, TRACKED_COUNTERS};

#[inline(always)]
fn service(id: u32, count: impl FnOnce(&mut ServiceCounters)) {
    if let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(id) {
        // SAFETY: per-CPU memory, and XDP is not preempted by XDP on the same CPU.
        count(unsafe { &mut *counters });
    }
}

#[inline(always)]
fn backend(id: u16, count: impl FnOnce(&mut BackendCounters)) {
    if let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(u32::from(id)) {
        // SAFETY: as above.
        count(unsafe { &mut *counters });
    }
}

/// A packet from a client is on its way to a backend. `bytes` is the IP packet's length as it came.
#[inline(always)]
pub fn forwarded(service_id: u32, backend_id: u16, bytes: u64, syn: bool) {
    service(service_id, |c| {
        c.packets += 1;
        c.bytes += bytes;
        c.syns += u64::from(syn);
    });
    backend(backend_id, |c| {
        c.packets += 1;
        c.bytes += bytes;
    });
}

/// A backend's reply is on its way to the client.
#[inline(always)]
pub fn replied(service_id: u32, backend_id: u16, bytes: u64) {
    service(service_id, |c| {
        c.reply_packets += 1;
        c.reply_bytes += bytes;
    });
    backend(backend_id, |c| {
        c.reply_packets += 1;
        c.reply_bytes += bytes;
    });
}

/// A later fragment found its first one, or, for service 0, did not.
#[inline(always)]
pub fn fragment(service_id: u32) {
    service(service_id, |c| c.fragments += 1);
}

/// An ICMP error about a service's packet is on its way.
#[inline(always)]
pub fn icmp_error(service_id: u32) {
    service(service_id, |c| c.icmp_errors += 1);
}

/// The kernel's FIB was asked on behalf of a service.
#[inline(always)]
pub fn fib_lookup(service_id: u32) {
    service(service_id, |c| c.fib_lookups += 1);
}

#[inline(always)]
pub fn dropped(service_id: u32, reason: u32) {
    let index = reason as usize;
    service(service_id, |c| {
        if let Some(count) = c.drops.get_mut(index) {
            *count += 1;
        }
    });
}

/// The packet is the host's: counted in line 0, with the whole frame's length.
#[inline(always)]
pub fn passed(bytes: u64) {
    service(0, |c| {
        c.packets += 1;
        c.bytes += bytes;
    });
}

/// What the table of flows did for a service.
#[inline(always)]
pub fn flows(service_id: u32, count: impl FnOnce(&mut FlowCounters)) {
    if let Some(counters) = FLOW_COUNTERS.get_ptr_mut(service_id) {
        // SAFETY: as above.
        count(unsafe { &mut *counters });
    }
}

/// What the tables of tracked flows did for a service.
#[inline(always)]
pub fn tracked(service_id: u32, count: impl FnOnce(&mut TrackedCounters)) {
    if let Some(counters) = TRACKED_COUNTERS.get_ptr_mut(service_id) {
        // SAFETY: as above.
        count(unsafe { &mut *counters });
    }
}
