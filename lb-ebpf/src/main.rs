//! Sluice's XDP program: parse → lookup → rewrite → forward, nothing else. ARCHITECTURE.md, "A packet's way".
//!
//! A packet that is not for a service leaves as it came, whatever is odd about it: nothing is checked, counted
//! or changed on behalf of a service before the service is known.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod account;
mod atomic;
mod clock;
mod forget;
mod forward;
mod lookup;
mod maps;
mod parse;
mod rewrite;
mod settings;
mod verdict;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;

use lb_common::addr::{Endpoint4, Endpoint6};
use lb_common::counters::DropReason;
use lb_common::flow::{Flow4, Flow6};
use lb_common::hash;
use lb_common::service::{AFFINITY_SOURCE, FORWARD_IPIP, FORWARD_NAT, Reverse4, Reverse6, Service};
use lb_ebpf::packet::Packet;

use crate::forward::Outgoing;
use crate::lookup::{Found, flows};
use crate::parse::ipv4::Ipv4;
use crate::parse::ipv6::{self, Ipv6};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, l4};
use crate::rewrite::nat::{End, Side};
use crate::rewrite::{encap, mac, nat, reset};
use crate::verdict::Stop;

/// The kernel reads the licence; helpers we call are GPL-only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[xdp]
pub fn sluice(ctx: XdpContext) -> u32 {
    let packet = Packet::new(ctx.ctx);
    match decide(packet) {
        Ok(action) => {
            if settings::log() != 0 {
                debug!(&ctx, "interface {}: {} bytes leave, action {}", packet.ingress(), packet.len(), action);
            }
            action
        }
        Err(Stop::Pass) => {
            account::passed(packet.len() as u64);
            if settings::log() != 0 {
                debug!(&ctx, "interface {}: {} bytes passed to the host", packet.ingress(), packet.len());
            }
            xdp_action::XDP_PASS
        }
        Err(Stop::Drop(service, reason)) => {
            account::dropped(service, reason);
            if settings::log() != 0 {
                debug!(
                    &ctx,
                    "interface {}: {} bytes for service {} dropped, reason {}",
                    packet.ingress(),
                    packet.len(),
                    service,
                    reason as u32
                );
            }
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn decide(packet: Packet) -> Result<u32, Stop> {
    match parse::ethertype(packet) {
        Some(ETHERTYPE_IPV4) if settings::ipv4() != 0 => ipv4(packet, &parse::ipv4::parse(packet).ok_or(Stop::Pass)?),
        Some(ETHERTYPE_IPV6) if settings::ipv6() != 0 => ipv6(packet, &parse::ipv6::parse(packet).ok_or(Stop::Pass)?),
        _ => Err(Stop::Pass),
    }
}

#[inline(always)]
fn ipv4(packet: Packet, ip: &Ipv4) -> Result<u32, Stop> {
    let vip = Endpoint4::new(ip.destination, ip.ports.destination, ip.protocol);
    // SAFETY: elements are freed after a grace period; the controller never writes in place.
    if let Some(service) = unsafe { maps::SERVICES4.get(vip) } {
        return client4(packet, ip, service).map_err(|reason| Stop::Drop(service.id, reason));
    }
    if settings::nat() != 0 {
        let backend = Endpoint4::new(ip.source, ip.ports.source, ip.protocol);
        // SAFETY: as above.
        if let Some(reverse) = unsafe { maps::REVERSE4.get(backend) } {
            // What a backend sends to the node itself (answers to health checks above all) is not a reply.
            // SAFETY: as above.
            if unsafe { maps::LOCAL4.get(ip.destination) }.is_none() {
                return reply4(packet, ip, reverse).map_err(|reason| Stop::Drop(reverse.service, reason));
            }
        }
    }
    Err(Stop::Pass)
}

#[inline(always)]
fn client4(packet: Packet, ip: &Ipv4, service: &Service) -> Result<u32, DropReason> {
    forwardable(ip.complete(packet), ip.fragmented, ip.ttl)?;
    let flow = Flow4 {
        source: ip.source,
        destination: ip.destination,
        ports: hashed_ports(service, ip.ports.word),
        protocol: u32::from(ip.protocol),
    };
    let hash = hash::flow4(&settings::LoadedKey, &flow);
    let place = u64::from(hash) | (ip.l4 as u64) << 32;
    let look_up = |alone: Option<u16>, row| match alone {
        Some(owner) => flows::tracked4(packet, service, owner, place),
        None => {
            let answer = flows::v4(packet, service, row, place);
            if lookup::is_tracked(service) {
                flows::record4(service, answer);
            }
            answer
        }
    };
    let (id, backend) = match lookup::backend(service, hash, look_up)? {
        Found::Backend(id, backend) => (id, backend),
        Found::Orphan if reset::ipv4(packet, ip.l4, ip.length) => {
            account::flows(service.id, |c| c.resets += 1);
            return Ok(xdp_action::XDP_TX);
        }
        Found::Orphan => return Err(DropReason::BackendDown),
    };
    let opens = l4::opens(packet, ip.protocol, ip.l4);
    let destination = backend.addr[0];
    let mut out =
        Outgoing { source: ip.source, destination, protocol: ip.protocol, length: ip.length, service: service.id };

    let hop = if settings::ipip() != 0 && service.forward == FORWARD_IPIP {
        out.source = backend.tunnel_source[0] | (hash & settings::tunnel_source_mask4());
        out.length += 20;
        let hop = forward::to_backend4(packet, backend.route.next_hop, out)?;
        if !encap::ipv4(packet, out.source, destination, ip.tos, ip.length) {
            return Err(DropReason::NoHeadroom);
        }
        hop
    } else if settings::nat() != 0 && service.forward == FORWARD_NAT {
        let hop = forward::to_backend4(packet, backend.route.next_hop, out)?;
        let old = Side { addr: ip.destination, port: ip.ports.destination };
        let new = Side { addr: destination, port: backend_port(backend.state.port, ip.ports.destination) };
        if !nat::ipv4(packet, ip.l4, ip.protocol, End::Destination, old, new) {
            return Err(DropReason::Internal);
        }
        hop
    } else {
        return Err(DropReason::Internal);
    };
    if !mac::write(packet, hop, ETHERTYPE_IPV4) {
        return Err(DropReason::Internal);
    }
    let action = forward::send(packet, hop)?;
    account::forwarded(service.id, id, ip.length as u64, opens);
    Ok(action)
}

#[inline(always)]
fn reply4(packet: Packet, ip: &Ipv4, reverse: &Reverse4) -> Result<u32, DropReason> {
    forwardable(ip.complete(packet), ip.fragmented, ip.ttl)?;
    if flows::in_motion(reverse.service) {
        flows::prove4(packet, reverse, ip.l4);
    }
    let out = Outgoing {
        source: reverse.vip,
        destination: ip.destination,
        protocol: ip.protocol,
        length: ip.length,
        service: reverse.service,
    };
    let hop = forward::to_client4(packet, out)?;
    let old = Side { addr: ip.source, port: ip.ports.source };
    let new = Side { addr: reverse.vip, port: reverse.port };
    if !nat::ipv4(packet, ip.l4, ip.protocol, End::Source, old, new) || !mac::write(packet, hop, ETHERTYPE_IPV4) {
        return Err(DropReason::Internal);
    }
    let action = forward::send(packet, hop)?;
    account::replied(reverse.service, reverse.backend, ip.length as u64);
    Ok(action)
}

#[inline(always)]
fn ipv6(packet: Packet, ip: &Ipv6) -> Result<u32, Stop> {
    let vip = Endpoint6::new(ip.destination, ip.ports.destination, ip.protocol);
    // SAFETY: as in `ipv4`.
    if let Some(service) = unsafe { maps::SERVICES6.get(vip) } {
        return client6(packet, ip, service).map_err(|reason| Stop::Drop(service.id, reason));
    }
    if settings::nat() != 0 {
        let backend = Endpoint6::new(ip.source, ip.ports.source, ip.protocol);
        // SAFETY: as above.
        if let Some(reverse) = unsafe { maps::REVERSE6.get(backend) } {
            // SAFETY: as above.
            if unsafe { maps::LOCAL6.get(ip.destination) }.is_none() {
                return reply6(packet, ip, reverse).map_err(|reason| Stop::Drop(reverse.service, reason));
            }
        }
    }
    Err(Stop::Pass)
}

#[inline(always)]
fn client6(packet: Packet, ip: &Ipv6, service: &Service) -> Result<u32, DropReason> {
    forwardable(ip.complete(packet), false, ip.hop_limit)?;
    let flow = Flow6 {
        source: ip.source,
        destination: ip.destination,
        ports: hashed_ports(service, ip.ports.word),
        protocol: u32::from(ip.protocol),
    };
    let hash = hash::flow6(&settings::LoadedKey, &flow);
    let place = u64::from(hash) | (ipv6::L4 as u64) << 32;
    let look_up = |alone: Option<u16>, row| match alone {
        Some(owner) => flows::tracked6(packet, service, owner, place),
        None => {
            let answer = flows::v6(packet, service, row, place);
            if lookup::is_tracked(service) {
                flows::record6(service, answer);
            }
            answer
        }
    };
    let (id, backend) = match lookup::backend(service, hash, look_up)? {
        Found::Backend(id, backend) => (id, backend),
        Found::Orphan if reset::ipv6(packet, ipv6::L4, ip.length) => {
            account::flows(service.id, |c| c.resets += 1);
            return Ok(xdp_action::XDP_TX);
        }
        Found::Orphan => return Err(DropReason::BackendDown),
    };
    let opens = l4::opens(packet, ip.protocol, ipv6::L4);
    let destination = backend.addr;
    let mut out =
        Outgoing { source: ip.source, destination, protocol: ip.protocol, length: ip.length, service: service.id };

    let hop = if settings::ipip() != 0 && service.forward == FORWARD_IPIP {
        out.source = backend.tunnel_source;
        out.source[3] |= hash & settings::tunnel_source_mask6();
        out.length += 40;
        let hop = forward::to_backend6(packet, backend.route.next_hop, out)?;
        if !encap::ipv6(packet, out.source, destination, ip.first_word, ip.length, hash) {
            return Err(DropReason::NoHeadroom);
        }
        hop
    } else if settings::nat() != 0 && service.forward == FORWARD_NAT {
        let hop = forward::to_backend6(packet, backend.route.next_hop, out)?;
        let old = Side { addr: ip.destination, port: ip.ports.destination };
        let new = Side { addr: destination, port: backend_port(backend.state.port, ip.ports.destination) };
        if !nat::ipv6(packet, ipv6::L4, ip.protocol, End::Destination, old, new) {
            return Err(DropReason::Internal);
        }
        hop
    } else {
        return Err(DropReason::Internal);
    };
    if !mac::write(packet, hop, ETHERTYPE_IPV6) {
        return Err(DropReason::Internal);
    }
    let action = forward::send(packet, hop)?;
    account::forwarded(service.id, id, ip.length as u64, opens);
    Ok(action)
}

#[inline(always)]
fn reply6(packet: Packet, ip: &Ipv6, reverse: &Reverse6) -> Result<u32, DropReason> {
    forwardable(ip.complete(packet), false, ip.hop_limit)?;
    if flows::in_motion(reverse.service) {
        flows::prove6(packet, reverse, ipv6::L4);
    }
    let out = Outgoing {
        source: reverse.vip,
        destination: ip.destination,
        protocol: ip.protocol,
        length: ip.length,
        service: reverse.service,
    };
    let hop = forward::to_client6(packet, out)?;
    let old = Side { addr: ip.source, port: ip.ports.source };
    let new = Side { addr: reverse.vip, port: reverse.port };
    if !nat::ipv6(packet, ipv6::L4, ip.protocol, End::Source, old, new) || !mac::write(packet, hop, ETHERTYPE_IPV6) {
        return Err(DropReason::Internal);
    }
    let action = forward::send(packet, hop)?;
    account::replied(reverse.service, reverse.backend, ip.length as u64);
    Ok(action)
}

/// The checks every packet of a service passes before it is touched.
#[inline(always)]
fn forwardable(complete: bool, fragmented: bool, ttl: u8) -> Result<(), DropReason> {
    if !complete {
        return Err(DropReason::Truncated);
    }
    // Only the first fragment has ports; forwarding it alone would leave the receiver waiting for the rest.
    if fragmented {
        return Err(DropReason::Fragment);
    }
    // RFC 1812 §5.3.1: a router must not forward what would arrive with a TTL of zero. This also ends loops.
    if ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    Ok(())
}

/// The ports, as far as they choose the row: as 0 they add nothing to the hash.
#[inline(always)]
fn hashed_ports(service: &Service, ports: u32) -> u32 {
    if service.flags & AFFINITY_SOURCE != 0 { 0 } else { ports }
}

/// The backend's own port, or the one the client asked for.
#[inline(always)]
fn backend_port(configured: u16, asked: u16) -> u16 {
    if configured == 0 { asked } else { configured }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
