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
mod family;
mod forget;
mod forward;
mod lookup;
mod maps;
mod mode;
mod parse;
mod rewrite;
mod settings;
mod verdict;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;

use lb_common::counters::DropReason;
use lb_common::service::{AFFINITY_SOURCE, Service};
use lb_ebpf::packet::Packet;

use crate::family::{Family, Reverse as _, V4, V6};
use crate::forward::Outgoing;
use crate::lookup::{Found, flows, wildcard};
use crate::mode::Leaving;
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ip, l4};
use crate::rewrite::mac;
use crate::rewrite::nat::{End, Side};
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
        Some(ETHERTYPE_IPV4) if settings::ipv4() != 0 => {
            route::<V4>(packet, &parse::ipv4::parse(packet).ok_or(Stop::Pass)?)
        }
        Some(ETHERTYPE_IPV6) if settings::ipv6() != 0 => {
            route::<V6>(packet, &parse::ipv6::parse(packet).ok_or(Stop::Pass)?)
        }
        _ => Err(Stop::Pass),
    }
}

#[inline(always)]
fn route<F: Family>(packet: Packet, ip: &Ip<F::Address>) -> Result<u32, Stop> {
    let service = match F::service(ip.destination, ip.ports.destination, ip.protocol) {
        None if settings::wildcards() != 0 => F::wildcard(ip.destination, ip.ports.destination, ip.protocol),
        exact => exact,
    };
    if let Some(service) = service {
        return client::<F>(packet, ip, service).map_err(|reason| Stop::Drop(service.id, reason));
    }
    if settings::nat() != 0
        && let Some(reverse) = match F::reverse(ip.source, ip.ports.source, ip.protocol) {
            None if settings::wildcards() != 0 => F::reverse_wildcard(ip.source, ip.ports.source, ip.protocol),
            exact => exact,
        }
        // What a backend sends to the node itself (answers to health checks above all) is not a reply.
        && !F::is_local(ip.destination)
    {
        return reply::<F>(packet, ip, reverse).map_err(|reason| Stop::Drop(reverse.service(), reason));
    }
    Err(Stop::Pass)
}

/// A packet for a VIP.
#[inline(always)]
fn client<F: Family>(packet: Packet, ip: &Ip<F::Address>, service: &Service) -> Result<u32, DropReason> {
    forwardable(packet, ip)?;
    let hash = F::hash(ip, hashed_ports(service, ip.ports.word));
    let place = u64::from(hash) | (ip.l4 as u64) << 32;
    let look_up = |alone: Option<u16>, row| match alone {
        Some(owner) => F::look_up_tracked(packet, service, owner, place),
        None => {
            let answer = F::look_up(packet, service, row, place);
            if lookup::is_tracked(service) {
                F::record(service, answer);
            }
            answer
        }
    };
    let (id, backend) = match lookup::backend(service, hash, look_up)? {
        Found::Backend(id, backend) => (id, backend),
        Found::Orphan if F::reset(packet, ip.l4, ip.length) => {
            account::flows(service.id, |c| c.resets += 1);
            return Ok(xdp_action::XDP_TX);
        }
        Found::Orphan => return Err(DropReason::BackendDown),
    };
    let opens = l4::opens(packet, ip.protocol, ip.l4);
    let Leaving { hop, ethertype } = mode::carry::<F>(packet, ip, service, backend, hash)?;
    if !mac::write(packet, hop, ethertype) {
        return Err(DropReason::Internal);
    }
    let action = forward::send(packet, hop)?;
    account::forwarded(service.id, id, ip.length as u64, opens);
    Ok(action)
}

/// A packet from a NAT backend's endpoint.
#[inline(always)]
fn reply<F: Family>(packet: Packet, ip: &Ip<F::Address>, reverse: &F::Reverse) -> Result<u32, DropReason> {
    forwardable(packet, ip)?;
    if flows::in_motion(reverse.service()) {
        F::prove(packet, reverse, ip.l4);
    }
    let out = Outgoing {
        source: reverse.vip(),
        destination: ip.destination,
        protocol: ip.protocol,
        length: ip.length,
        service: reverse.service(),
    };
    let hop = F::to_client(packet, out)?;
    let old = Side { addr: ip.source, port: ip.ports.source };
    let new = Side { addr: reverse.vip(), port: wildcard::reply_port(reverse.port(), ip.ports.source) };
    if !F::translate(packet, ip, End::Source, old, new) || !mac::write(packet, hop, F::ETHERTYPE) {
        return Err(DropReason::Internal);
    }
    let action = forward::send(packet, hop)?;
    account::replied(reverse.service(), reverse.backend(), ip.length as u64);
    Ok(action)
}

/// The checks every packet of a service passes before it is touched.
#[inline(always)]
fn forwardable<A>(packet: Packet, ip: &Ip<A>) -> Result<(), DropReason> {
    if !ip.complete(packet) {
        return Err(DropReason::Truncated);
    }
    // Only the first fragment has ports; forwarding it alone would leave the receiver waiting for the rest.
    if ip.fragmented {
        return Err(DropReason::Fragment);
    }
    // RFC 1812 §5.3.1: a router must not forward what would arrive with a TTL of zero. This also ends loops.
    if ip.hops <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    Ok(())
}

/// The ports, as far as they choose the row: as 0 they add nothing to the hash.
#[inline(always)]
fn hashed_ports(service: &Service, ports: u32) -> u32 {
    if service.flags & AFFINITY_SOURCE != 0 { 0 } else { ports }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
