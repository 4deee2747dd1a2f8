//! The way out: which next hop, and through which interface.
//!
//! The controller mirrors routes and neighbours into maps, so the fast path is an array read. Where it has no
//! answer (a policy rule, a table too large to mirror, a neighbour not resolved), the kernel's own FIB is asked.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup, xdp_action,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::bpf_fib_lookup as ask_fib;
use lb_common::addr::octets6;
use lb_common::counters::DropReason;
use lb_common::event::{EVENT_WANT_NEIGHBOUR, Event};
use lb_common::route::{Neighbour4, Neighbour6, NextHop, ROUTE_GATEWAY, ROUTE_ON_LINK, UNTAGGED};
use lb_ebpf::packet::Packet;

use crate::maps::{
    DEVICES, EVENT_BUDGET, EVENTS, FIB, Fib, NEIGHBOURS4, NEIGHBOURS6, NEXT_HOPS, ROUTES4, ROUTES6, VLANS,
};
use crate::{account, budget, settings};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What the FIB needs to know of the packet as it will leave.
#[derive(Clone, Copy)]
pub struct Outgoing<A> {
    pub source: A,
    pub destination: A,
    pub length: usize,
    /// For the counter of slow lookups.
    pub service: u32,
    pub protocol: u8,
}

/// A trie key whose address starts at a multiple of 8.
#[repr(C, align(8))]
pub struct Aligned<K> {
    pad: u32,
    pub key: Key<K>,
}

impl<K> Aligned<K> {
    #[inline(always)]
    pub fn new(addr: K) -> Self {
        Self { pad: 0, key: Key::new(size_of::<K>() as u32 * 8, addr) }
    }
}

/// A next hop by its index; 0 and empty entries are none.
#[inline(always)]
fn indexed(index: u32) -> Option<&'static NextHop> {
    if index == 0 {
        return None;
    }
    NEXT_HOPS.get(index).filter(|hop| hop.ifindex != 0)
}

/// The next hop towards a backend: the one the controller resolved, else the FIB's.
#[inline(always)]
pub fn to_backend4(packet: Packet, index: u32, out: Outgoing<u32>) -> Result<&'static NextHop, DropReason> {
    match indexed(index) {
        Some(hop) => fits(hop, out.length),
        None => fib4(packet, &out),
    }
}

/// As [`to_backend4`].
#[inline(always)]
pub fn to_backend6(packet: Packet, index: u32, out: Outgoing<[u32; 4]>) -> Result<&'static NextHop, DropReason> {
    match indexed(index) {
        Some(hop) => fits(hop, out.length),
        None => fib6(packet, &out),
    }
}

/// The next hop towards a client: by the mirrored routes, else the FIB's.
#[inline(always)]
pub fn to_client4(packet: Packet, out: Outgoing<u32>) -> Result<&'static NextHop, DropReason> {
    let hop = match ROUTES4.get(&Aligned::new(out.destination.to_ne_bytes()).key) {
        Some(route) if route.kind == ROUTE_GATEWAY => indexed(route.next_hop),
        Some(route) if route.kind == ROUTE_ON_LINK => {
            let key = Neighbour4 { ifindex: route.ifindex, addr: out.destination };
            // SAFETY: the entry may be replaced while it is read; a hash element is freed after a grace period.
            unsafe { NEIGHBOURS4.get(key) }
        }
        _ => None,
    };
    match hop {
        Some(hop) => fits(hop, out.length),
        None => fib4(packet, &out),
    }
}

/// As [`to_client4`].
#[inline(always)]
pub fn to_client6(packet: Packet, out: Outgoing<[u32; 4]>) -> Result<&'static NextHop, DropReason> {
    let hop = match ROUTES6.get(&Aligned::new(octets6(out.destination)).key) {
        Some(route) if route.kind == ROUTE_GATEWAY => indexed(route.next_hop),
        Some(route) if route.kind == ROUTE_ON_LINK => {
            let key = Neighbour6 { addr: out.destination, ifindex: route.ifindex, pad: 0 };
            // SAFETY: as above.
            unsafe { NEIGHBOURS6.get(key) }
        }
        _ => None,
    };
    match hop {
        Some(hop) => fits(hop, out.length),
        None => fib6(packet, &out),
    }
}

#[inline(always)]
fn fits(hop: &'static NextHop, length: usize) -> Result<&'static NextHop, DropReason> {
    if length > hop.mtu as usize { Err(exceeds(length, hop.mtu)) } else { Ok(hop) }
}

/// Remembers by how much, for who tells the sender.
#[cold]
#[inline(never)]
fn exceeds(length: usize, mtu: u32) -> DropReason {
    if let Some(fib) = FIB.get_ptr_mut(0) {
        // SAFETY: per-CPU memory of our own, and XDP is not preempted by XDP on the same CPU.
        unsafe { (*fib).excess = (length as u32).wrapping_sub(mtu) };
    }
    DropReason::TooBig
}

/// By how many bytes the packet was too big that was found to be just now.
#[inline(always)]
pub fn excess() -> u32 {
    // SAFETY: as above.
    FIB.get_ptr_mut(0).map_or(0, |fib| unsafe { (*fib).excess })
}

/// The FIB's answer. The addresses are written here, because they are too many arguments for a call.
#[inline(always)]
fn fib4(packet: Packet, out: &Outgoing<u32>) -> Result<&'static NextHop, DropReason> {
    let fib = FIB.get_ptr_mut(0).ok_or(DropReason::Internal)?;
    // SAFETY: per-CPU memory of our own, and XDP is not preempted by XDP on the same CPU.
    unsafe {
        (*fib).request.__bindgen_anon_3.ipv4_src = out.source;
        (*fib).request.__bindgen_anon_4.ipv4_dst = out.destination;
    }
    ask(packet, AF_INET, out.protocol, out.length as u16, out.service)?;
    // SAFETY: as above.
    Ok(unsafe { &(*fib).answer })
}

/// As [`fib4`].
#[inline(always)]
fn fib6(packet: Packet, out: &Outgoing<[u32; 4]>) -> Result<&'static NextHop, DropReason> {
    let fib = FIB.get_ptr_mut(0).ok_or(DropReason::Internal)?;
    // SAFETY: as above.
    unsafe {
        (*fib).request.__bindgen_anon_3.ipv6_src = out.source;
        (*fib).request.__bindgen_anon_4.ipv6_dst = out.destination;
    }
    ask(packet, AF_INET6, out.protocol, out.length as u16, out.service)?;
    // SAFETY: as above.
    Ok(unsafe { &(*fib).answer })
}

/// Asks the kernel's FIB; the addresses are in the request already, the next hop is in the answer after. A function
/// of its own in the object too: it is the slow path, and must cost the fast one no register and no stack.
#[cold]
#[inline(never)]
fn ask(packet: Packet, family: u8, protocol: u8, length: u16, service: u32) -> Result<(), DropReason> {
    let fib = FIB.get_ptr_mut(0).ok_or(DropReason::Internal)?;
    // SAFETY: as above; callers hold no reference while this runs.
    let Fib { request, answer, excess } = unsafe { &mut *fib };
    account::fib_lookup(service);
    request.family = family;
    request.l4_protocol = protocol;
    request.__bindgen_anon_1.tot_len = length;
    request.ifindex = packet.ingress();
    // The kernel answered here last time. Ports stay 0, as they are in fragments; nobody ever writes them.
    request.__bindgen_anon_2.flowinfo = 0;
    // SAFETY: the context is the kernel's, the request is ours and of the size given.
    let code = unsafe { ask_fib(packet.context().cast(), request, size_of::<bpf_fib_lookup>() as i32, 0) } as u32;
    match code {
        BPF_FIB_LKUP_RET_SUCCESS => {
            // The lookup compared the length with the route's MTU, and put that in the length's place; kernels before 5.13 do
            // not tell.
            // SAFETY: both are one integer.
            let mtu = match unsafe { request.__bindgen_anon_1.mtu_result } {
                told if told == length => u32::MAX,
                mtu => u32::from(mtu),
            };
            *answer = NextHop {
                destination_mac: request.dmac,
                source_mac: request.smac,
                mtu,
                ifindex: request.ifindex,
                tags: [UNTAGGED; 2],
            };
            if settings::vlan() != 0
                // SAFETY: elements are freed after a grace period; the controller never writes in place.
                && let Some(vlan) = unsafe { VLANS.get(answer.ifindex) }
            {
                answer.ifindex = vlan.ifindex;
                answer.tags = vlan.tags;
            }
            Ok(())
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => {
            want_neighbour(request);
            Err(DropReason::NoNeighbour)
        }
        BPF_FIB_LKUP_RET_FWD_DISABLED => Err(DropReason::ForwardingDisabled),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: as above. The kernel has put the MTU here.
            let mtu = unsafe { request.__bindgen_anon_1.mtu_result };
            *excess = u32::from(length).wrapping_sub(u32::from(mtu));
            Err(DropReason::TooBig)
        }
        _ => Err(DropReason::NoRoute),
    }
}

/// Most events one CPU sends per second: enough to learn every neighbour of a small network at once, too few
/// for a flood of made-up addresses to occupy the controller.
const EVENTS_PER_SECOND: u64 = 64;

/// Tells the controller which neighbour is missing. On this answer the kernel has set the out interface and
/// replaced the destination by the gateway's address where there is one.
#[inline(always)]
fn want_neighbour(request: &bpf_fib_lookup) {
    if !budget::spend(EVENT_BUDGET.get_ptr_mut(0), EVENTS_PER_SECOND) {
        return;
    }
    // SAFETY: both union members are plain integers.
    let (family, addr) = unsafe {
        if request.family == AF_INET6 {
            (6, request.__bindgen_anon_4.ipv6_dst)
        } else {
            (4, [request.__bindgen_anon_4.ipv4_dst, 0, 0, 0])
        }
    };
    let event = Event { kind: EVENT_WANT_NEIGHBOUR, family, ifindex: request.ifindex, reserved: 0, addr };
    // A full ring buffer loses this one; the next packet tells again.
    let _ = EVENTS.output(event, 0);
}

/// Sends the frame, already written: back out of the interface it came in on, or redirected to another.
#[inline(always)]
pub fn send(packet: Packet, hop: &NextHop) -> Result<u32, DropReason> {
    if hop.ifindex == packet.ingress() {
        return Ok(xdp_action::XDP_TX);
    }
    DEVICES.redirect(hop.ifindex, 0).map_err(|_| DropReason::NotRedirectable)
}
