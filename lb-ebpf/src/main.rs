//! Sluice's XDP program: parse → lookup → rewrite → forward, nothing else. ARCHITECTURE.md, "A packet's way".
//!
//! A packet that is not for a service leaves as it came, whatever is odd about it: nothing is checked, counted
//! or changed on behalf of a service before the service is known.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod account;
mod answer;
mod atomic;
mod budget;
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
mod veil;
mod verdict;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;

use lb_common::backend::Backend;
use lb_common::counters::DropReason;
use lb_common::flow::Fragments;
use lb_common::service::{AFFINITY_SOURCE, Service};
use lb_ebpf::packet::Packet;

use crate::family::{Family, Reverse as _, V4, V6};
use crate::forward::Outgoing;
use crate::lookup::{flows, wildcard};
use crate::mode::Leaving;
use crate::parse::{ERROR, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FIRST, Ip, LATER, WHOLE, icmp, l4};
use crate::rewrite::nat::{End, Side};
use crate::rewrite::{mac, vlan};
use crate::veil::Veil;
use crate::verdict::Stop;

/// The kernel reads the licence; helpers we call are GPL-only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

// Into the entry that the macro makes: a call less for every packet.
#[xdp]
#[inline(always)]
pub fn sluice(ctx: XdpContext) -> u32 {
    let packet = Packet::new(ctx.ctx);
    let Some((ethertype, tags)) = parse::eth::ethertype(packet) else {
        account::passed(packet.len() as u64);
        return xdp_action::XDP_PASS;
    };
    let mut stepped = Veil::new();
    stepped.set(u32::from_ne_bytes([tags, 1, 0, 0]));
    let decision = decide(packet, ethertype);
    let tags = stepped.byte::<0>();
    let stop = match decision {
        Ok(action) => {
            if settings::log() != 0 {
                debug!(&ctx, "interface {}: {} bytes leave, action {}", packet.ingress(), packet.len(), action);
            }
            return action;
        }
        Err(stop) => stop,
    };
    match stop.what() {
        verdict::PASS => {
            if !vlan::step_back(packet, tags) {
                return xdp_action::XDP_ABORTED;
            }
            account::passed(packet.len() as u64);
            if settings::log() != 0 {
                debug!(&ctx, "interface {}: {} bytes passed to the host", packet.ingress(), packet.len());
            }
            xdp_action::XDP_PASS
        }
        verdict::ANSWER => answer(packet, tags),
        verdict::TOO_BIG if settings::too_big() != 0 => {
            let told = match ethertype {
                ETHERTYPE_IPV4 => answer::too_big4(packet, forward::excess()),
                _ => answer::too_big6(packet, forward::excess()),
            };
            if !told {
                return dropped(&ctx, packet, stop);
            }
            account::dropped(stop.service(), stop.reason());
            account::flows(stop.service(), |c| c.too_bigs += 1);
            answer(packet, tags)
        }
        _ => dropped(&ctx, packet, stop),
    }
}

/// The packet goes no further.
#[inline(always)]
fn dropped(ctx: &XdpContext, packet: Packet, stop: Stop) -> u32 {
    account::dropped(stop.service(), stop.reason());
    if settings::log() != 0 {
        debug!(
            ctx,
            "interface {}: {} bytes for service {} dropped, reason {}",
            packet.ingress(),
            packet.len(),
            stop.service(),
            stop.reason()
        );
    }
    xdp_action::XDP_DROP
}

/// Sends the frame, which has become an answer, to who sent it.
#[inline(always)]
fn answer(packet: Packet, tags: u8) -> u32 {
    if vlan::step_back(packet, tags) && mac::swap(packet) { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

#[inline(always)]
fn decide(packet: Packet, ethertype: u16) -> Result<u32, Stop> {
    let mut veil = Veil::new();
    match ethertype {
        ETHERTYPE_IPV4 if settings::ipv4() != 0 => route_or_answer::<V4>(packet, parse::ipv4::parse(packet, &mut veil)),
        ETHERTYPE_IPV6 if settings::ipv6() != 0 => route_or_answer::<V6>(packet, parse::ipv6::parse(packet, &mut veil)),
        _ => Err(Stop::PASS),
    }
}

#[inline(always)]
fn route_or_answer<F: Family>(packet: Packet, ip: Option<Ip<'_, F::Address>>) -> Result<u32, Stop> {
    match ip {
        Some(ip) => route::<F>(packet, ip),
        None if settings::echo() != 0 => match F::echo(packet) {
            0 => Err(Stop::PASS),
            service => {
                account::flows(service, |c| c.echoes += 1);
                Err(Stop::ANSWER)
            }
        },
        None => Err(Stop::PASS),
    }
}

#[inline(always)]
fn route<F: Family>(packet: Packet, ip: Ip<'_, F::Address>) -> Result<u32, Stop> {
    let ip = if ip.piece.is(LATER) && settings::fragments() != 0 { follow::<F>(packet, ip)? } else { ip };
    let service = match F::service(ip.destination, ip.ports.destination(), ip.protocol) {
        None if settings::wildcards() != 0 => F::wildcard(ip.destination, ip.ports.destination(), ip.protocol),
        exact => exact,
    };
    if let Some(service) = service {
        return client::<F>(packet, &ip, service);
    }
    if settings::nat() != 0
        && let Some(reverse) = match F::reverse(ip.source, ip.ports.source(), ip.protocol) {
            None if settings::wildcards() != 0 => F::reverse_wildcard(ip.source, ip.ports.source(), ip.protocol),
            exact => exact,
        }
        // What a backend sends to the node itself (answers to health checks above all) is not a reply.
        && !F::is_local(ip.destination)
    {
        return reply::<F>(packet, &ip, reverse);
    }
    Err(Stop::PASS)
}

/// A later fragment with the ports of its first one.
#[inline(always)]
fn follow<'v, F: Family>(packet: Packet, ip: Ip<'v, F::Address>) -> Result<Ip<'v, F::Address>, Stop> {
    match F::first(packet, ip.id) {
        0 => {
            account::fragment(0);
            Err(Stop::PASS)
        }
        what => Ok(Ip {
            ports: l4::Ports(Fragments::ports(what)),
            protocol: Fragments::protocol(what),
            follows: Fragments::backend(what),
            ..ip
        }),
    }
}

/// A packet for a VIP.
#[inline(always)]
fn client<F: Family>(packet: Packet, ip: &Ip<'_, F::Address>, service: &Service) -> Result<u32, Stop> {
    let stop = |reason| Stop::drop(service.id, reason);
    forwardable(packet, ip).map_err(stop)?;
    let hash = F::hash(ip, hashed_ports(service, ip.ports.0));
    let id = match backend::<F>(packet, ip, service, hash).map_err(stop)? {
        flows::ORPHAN_TO_TELL if ip.piece.is(WHOLE) && F::reset(packet, ip.l4, ip.length) => {
            account::flows(service.id, |c| c.resets += 1);
            return Err(Stop::ANSWER);
        }
        flows::ORPHAN_TO_TELL => return Err(stop(DropReason::BackendDown)),
        id => id,
    };
    let backend = lookup::by_id(id).map_err(stop)?;
    let id = id as u16;
    if settings::fragments() != 0 && ip.piece.is(FIRST) {
        F::teach(packet, ip.id, Fragments::pack(ip.ports.0, ip.protocol, id));
    }
    let opens = ip.piece.has_header() && l4::opens(packet, ip.protocol, ip.l4);
    let action = out::<F>(packet, ip, service, backend, hash, opens).map_err(|why| refused(ip, service.id, why))?;
    account::forwarded(service.id, id, ip.length as u64, opens);
    account_piece(ip, service.id);
    Ok(action)
}

/// A packet that cannot be forwarded, though there is somebody to forward it to.
#[inline(always)]
fn refused<A>(ip: &Ip<'_, A>, service: u32, why: DropReason) -> Stop {
    // Nobody is told of an error, or of later fragments.
    if settings::too_big() != 0 && matches!(why, DropReason::TooBig) && ip.piece.has_header() {
        return Stop::too_big(service);
    }
    Stop::drop(service, why)
}

/// What is on its way, if it is no packet in one piece.
#[inline(always)]
fn account_piece<A>(ip: &Ip<'_, A>, service: u32) {
    if settings::fragments() != 0 && ip.piece.is(LATER) {
        account::fragment(service);
    }
    if settings::icmp() != 0 && ip.piece.is(ERROR) {
        account::icmp_error(service);
    }
}

/// Who gets a client's packet: see [`lookup::backend`].
#[inline(always)]
fn backend<F: Family>(
    packet: Packet,
    ip: &Ip<'_, F::Address>,
    service: &Service,
    hash: u32,
) -> Result<u32, DropReason> {
    if settings::fragments() != 0 && ip.piece.is(LATER) {
        return Ok(u32::from(ip.follows));
    }
    let place = flows::place(hash, ip.l4, ip.protocol);
    let look_up = |alone: Option<u16>, row| match alone {
        Some(owner) if settings::icmp() != 0 && ip.piece.is(ERROR) => {
            F::peek_tracked(packet, service, owner, place, ip.id + icmp::HEADER as u32)
        }
        None if settings::icmp() != 0 && ip.piece.is(ERROR) => {
            F::peek(packet, service, row, place, ip.id + icmp::HEADER as u32)
        }
        Some(owner) => F::look_up_tracked(packet, service, owner, place),
        None => {
            let answer = F::look_up(packet, service, row, place);
            if lookup::is_tracked(service) {
                F::record(service, answer);
            }
            answer
        }
    };
    lookup::backend(service, hash, look_up)
}

/// Sends a client's packet to its backend.
#[inline(always)]
fn out<F: Family>(
    packet: Packet,
    ip: &Ip<'_, F::Address>,
    service: &Service,
    backend: &'static Backend,
    hash: u32,
    opens: bool,
) -> Result<u32, DropReason> {
    let Leaving { hop, ethertype } = mode::carry::<F>(packet, ip, service, backend, hash, opens)?;
    mac::write(packet, hop, ethertype)?;
    forward::send(packet, hop)
}

/// A packet from a NAT backend's endpoint.
#[inline(always)]
fn reply<F: Family>(packet: Packet, ip: &Ip<'_, F::Address>, reverse: &'static F::Reverse) -> Result<u32, Stop> {
    let service = reverse.service();
    forwardable(packet, ip).map_err(|reason| Stop::drop(service, reason))?;
    if ip.piece.has_header() && flows::in_motion(service) {
        F::prove(packet, reverse, flows::place(0, ip.l4, ip.protocol));
    }
    if settings::fragments() != 0 && ip.piece.is(FIRST) {
        F::teach(packet, ip.id, Fragments::pack(ip.ports.0, ip.protocol, 0));
    }
    let action = back::<F>(packet, ip, reverse).map_err(|why| refused(ip, service, why))?;
    account::replied(service, reverse.backend(), ip.length as u64);
    account_piece(ip, service);
    Ok(action)
}

/// Sends a backend's packet to its client.
#[inline(always)]
fn back<F: Family>(packet: Packet, ip: &Ip<'_, F::Address>, reverse: &'static F::Reverse) -> Result<u32, DropReason> {
    let out = Outgoing {
        source: reverse.vip(),
        destination: ip.destination,
        protocol: ip.protocol,
        length: ip.length,
        service: reverse.service(),
    };
    let hop = F::to_client(packet, out)?;
    if settings::clamp() != 0
        && ip.piece.has_header()
        && l4::synchronizes(packet, ip.protocol, ip.l4)
        && flows::clamps(reverse.service())
    {
        mode::clamp::<F>(packet, ip, hop, 0);
    }
    let port = wildcard::reply_port(reverse.port(), ip.ports.source());
    let translated = if settings::icmp() != 0 && ip.piece.is(ERROR) {
        F::translate_error(packet, ip, End::Source, F::vip_of(reverse), port)
    } else {
        let old = Side { addr: ip.source, port: ip.ports.source() };
        let new = Side { addr: reverse.vip(), port };
        F::translate(packet, ip, End::Source, old, new)
    };
    if !translated {
        return Err(DropReason::Internal);
    }
    mac::write(packet, hop, F::ETHERTYPE)?;
    forward::send(packet, hop)
}

/// The checks every packet of a service passes before it is touched.
#[inline(always)]
fn forwardable<A>(packet: Packet, ip: &Ip<'_, A>) -> Result<(), DropReason> {
    if !ip.complete(packet) {
        return Err(DropReason::Truncated);
    }
    // Forwarding the first fragment alone would leave the receiver waiting for the rest.
    if settings::fragments() == 0 && ip.piece.is(FIRST) {
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
