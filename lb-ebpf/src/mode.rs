//! What each way of forwarding does to a client's packet, once it is known which backend gets it.
//!
//! The way out is asked for before a byte changes, because a packet that is dropped is dropped as it came, and because
//! a packet that grows must fit the link.
//!
//! The trap: what a service says is known per packet, what was loaded is known to the verifier. So the switch is asked
//! before the service, or comparisons stay in programs that can do nothing else.

use network_types::tcp::TcpHdr;

use lb_common::backend::{BACKEND_V6, Backend};
use lb_common::counters::DropReason;
use lb_common::route::NextHop;
use lb_common::service::{CLAMP, FORWARD_DSR_L2, FORWARD_IPIP, FORWARD_NAT, Service};
use lb_ebpf::packet::Packet;

use crate::family::Family;
use crate::forward::Outgoing;
use crate::parse::{ERROR, Ip, WHOLE};
use crate::rewrite::encap::Outer;
use crate::rewrite::mss;
use crate::rewrite::nat::{End, Side};
use crate::rewrite::shim::Shim;
use crate::settings;

/// A packet that has its outermost IP header, and no Ethernet header yet.
pub struct Leaving {
    pub hop: &'static NextHop,
    pub ethertype: u16,
}

/// Makes the client's packet one for the backend.
#[inline(always)]
pub fn carry<F: Family>(
    packet: Packet,
    ip: &Ip<'_, F::Address>,
    service: &Service,
    backend: &'static Backend,
    hash: u32,
    opens: bool,
) -> Result<Leaving, DropReason> {
    let clamps = opens && service.flags & CLAMP != 0 && settings::clamp() != 0;
    if settings::nat() != 0 && service.forward == FORWARD_NAT {
        let hop = way_to::<F>(packet, ip, service, backend, clamps)?;
        let port = backend_port(backend.state.port, ip.ports.destination());
        if settings::icmp() != 0 && ip.piece.is(ERROR) {
            return leaving::<F>(F::translate_error(packet, ip, End::Destination, F::address_of(backend), port), hop);
        }
        let old = Side { addr: ip.destination, port: ip.ports.destination() };
        let new = Side { addr: F::address(backend), port };
        return leaving::<F>(F::translate(packet, ip, End::Destination, old, new), hop);
    }
    if settings::ipip() != 0 && service.forward == FORWARD_IPIP {
        return enter::<F>(packet, ip, service, backend, hash, Shim::NONE, clamps);
    }
    if settings::dsr_l2() != 0 && service.forward == FORWARD_DSR_L2 {
        let hop = way_to::<F>(packet, ip, service, backend, clamps)?;
        // A hop like any other: without it, two nodes that take each other for a backend would never stop.
        return leaving::<F>(F::hop(packet), hop);
    }
    match Shim::of(service.forward) {
        Some(shim) => enter::<F>(packet, ip, service, backend, hash, shim, clamps),
        None => Err(DropReason::Internal),
    }
}

/// The way of a packet that keeps its size and its source.
#[inline(always)]
fn way_to<F: Family>(
    packet: Packet,
    ip: &Ip<'_, F::Address>,
    service: &Service,
    backend: &Backend,
    clamps: bool,
) -> Result<&'static NextHop, DropReason> {
    let Ip { source, protocol, length, .. } = *ip;
    let out = Outgoing { source, destination: F::address(backend), protocol, length, service: service.id };
    let hop = F::to_backend(packet, backend.route.next_hop, out)?;
    if clamps {
        clamp::<F>(packet, ip, hop, 0);
    }
    Ok(hop)
}

/// Lowers the MSS of a SYN to what the way to a next hop takes, with so many bytes in front of each packet.
#[inline(always)]
pub fn clamp<F: Family>(packet: Packet, ip: &Ip<'_, F::Address>, hop: &NextHop, in_front: usize) {
    let headers = (in_front + F::HEADER + TcpHdr::LEN) as u32;
    // An MTU that is not known is larger than any MSS can say.
    if hop.mtu < 0xffff {
        mss::clamp(packet, ip.l4, hop.mtu.saturating_sub(headers));
    }
}

#[inline(always)]
fn leaving<F: Family>(written: bool, hop: &'static NextHop) -> Result<Leaving, DropReason> {
    if written { Ok(Leaving { hop, ethertype: F::ETHERTYPE }) } else { Err(DropReason::Internal) }
}

/// Puts the packet into a tunnel of the backend's family.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined; a tunnel is told apart by all of them")]
fn enter<F: Family>(
    packet: Packet,
    ip: &Ip<'_, F::Address>,
    service: &Service,
    backend: &Backend,
    hash: u32,
    shim: Shim,
    clamps: bool,
) -> Result<Leaving, DropReason> {
    if settings::crossing() != 0 && (backend.state.flags & BACKEND_V6 != 0) != F::IS_V6 {
        return tunnel::<F, F::Other>(packet, ip, service, backend, hash, shim, clamps);
    }
    tunnel::<F, F>(packet, ip, service, backend, hash, shim, clamps)
}

/// Puts the packet, of family `I`, into a tunnel of family `O`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "as above")]
fn tunnel<I: Family, O: Family>(
    packet: Packet,
    ip: &Ip<'_, I::Address>,
    service: &Service,
    backend: &Backend,
    hash: u32,
    shim: Shim,
    clamps: bool,
) -> Result<Leaving, DropReason> {
    let outer = Outer {
        source: O::tunnel_source(backend, hash),
        destination: O::address(backend),
        class: ip.class,
        protocol: shim.protocol::<I>(),
        payload: shim.length + ip.length,
        hash,
    };
    let out = Outgoing {
        source: outer.source,
        destination: outer.destination,
        protocol: outer.protocol,
        length: O::HEADER + outer.payload,
        service: service.id,
    };
    let hop = O::to_backend(packet, backend.route.next_hop, out)?;
    if clamps {
        clamp::<I>(packet, ip, hop, O::HEADER + shim.length);
    }
    if !I::hop(packet) {
        return Err(DropReason::Internal);
    }
    // What a fragment adds up to, nobody knows; and an error is not worth adding up.
    let sum = if shim.is_udp() && ip.piece.is(WHOLE) { I::sum(packet, ip) } else { None };
    if !packet.move_head(-((O::HEADER + shim.length) as i32)) {
        return Err(DropReason::NoHeadroom);
    }
    leaving::<O>(O::outer(packet, &outer) && shim.write::<I, O>(packet, &outer, &backend.tunnel, sum), hop)
}

/// The backend's own port, or the one the client asked for.
#[inline(always)]
fn backend_port(configured: u16, asked: u16) -> u16 {
    if configured == 0 { asked } else { configured }
}
