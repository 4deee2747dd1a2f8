//! A packet's way (ARCHITECTURE.md): is it for a service, may it be forwarded, which backend, where to.

use std::net::{IpAddr, Ipv6Addr};

use lb_common::counters::DropReason;
use lb_common::hash::HashKey;
use lb_common::service::{FORWARD_IPIP, FORWARD_NAT};

use super::kernel::Answer;
use super::read::{self, Datagram};
use super::rewrite::{self, End};
use super::state::Wanted;
use super::tracked::{Asked, Signs};
use super::world::{Backend, NextHop, Reply, Service, Way};
use super::{Arrival, Family, Kernel, Outcome, Path, State, Trace, Verdict, World};
use crate::golden::oracle;

/// A frame that is ready to leave, and where to.
struct Ready {
    frame: Vec<u8>,
    verdict: Verdict,
}

/// One packet on its way.
struct Walk<'a> {
    world: &'a World,
    kernel: &'a Kernel,
    state: &'a mut State,
    now: u64,
    arrival: &'a Arrival,
    packet: Datagram,
    trace: Trace,
}

/// What becomes of a packet, and of the state. `now` is in seconds.
pub fn process(world: &World, kernel: &Kernel, state: &mut State, now: u64, arrival: &Arrival) -> Outcome {
    let frame = &arrival.frame;
    let trace = Trace { family: read::family(frame), ..Trace::default() };
    let balanced = match trace.family {
        Family::V4 => world.settings.ipv4,
        Family::V6 => world.settings.ipv6,
        Family::Other => false,
    };
    let Some(packet) = read::datagram(frame).filter(|_| balanced) else { return pass(state, arrival, trace) };
    let mut walk = Walk { world, kernel, state, now, arrival, packet, trace };

    let (service, result) = if let Some(service) = world.service(packet.destination_endpoint()) {
        (service.id, walk.client(service))
    } else if let Some(reply) = world.reply(packet.source_endpoint())
        && world.settings.nat
        && !world.own.contains(&packet.destination)
    {
        (reply.service, walk.reply(reply))
    } else {
        return pass(state, arrival, trace);
    };
    let trace = Trace { service: Some(service), ..walk.trace };
    match result {
        Ok(Ready { frame, verdict }) => Outcome { verdict, frame, trace },
        Err(reason) => {
            state.dropped(service, reason);
            Outcome { verdict: Verdict::Drop(reason), frame: frame.clone(), trace }
        }
    }
}

/// What is for no service is never touched, whatever is odd about it.
fn pass(state: &mut State, arrival: &Arrival, trace: Trace) -> Outcome {
    state.passed(arrival.frame.len());
    Outcome { verdict: Verdict::Pass, frame: arrival.frame.clone(), trace }
}

impl Walk<'_> {
    /// A packet for a VIP endpoint.
    fn client(&mut self, service: &Service) -> Result<Ready, DropReason> {
        let settings = &self.world.settings;
        self.trace.path = match service.forward {
            FORWARD_NAT => Path::Nat,
            FORWARD_IPIP => Path::Ipip,
            _ => Path::Unknown,
        };
        self.forwardable()?;
        let hash = self.hash();
        let backend = self.choose(service, hash)?;
        let packet = self.packet;
        let frame = &self.arrival.frame;
        let (out, hop) = match self.trace.path {
            Path::Nat if settings.nat => {
                let hop = self.way_to_backend(&backend, packet.source, packet.length, service.id)?;
                let port = if backend.port == 0 { packet.destination_port } else { backend.port };
                (rewrite::translate(frame, &packet, End::Destination, backend.address, port), hop)
            }
            Path::Ipip if settings.ipip => {
                let header = if packet.family == Family::V4 { 20 } else { 40 };
                let source = self.tunnel_source(&backend, hash);
                let hop = self.way_to_backend(&backend, source, packet.length + header, service.id)?;
                if self.arrival.headroom < header {
                    return Err(DropReason::NoHeadroom);
                }
                (rewrite::encapsulate(frame, &packet, source, backend.address, hash), hop)
            }
            // Not in the tables a controller writes: no program is loaded without what its services need.
            _ => return Err(DropReason::Internal),
        };
        let ready = self.send(out, &hop)?;
        self.state.forwarded(service.id, backend.id, packet.length, packet.opens(frame));
        Ok(ready)
    }

    /// A packet from a backend endpoint to somebody who is not this host.
    fn reply(&mut self, reply: &Reply) -> Result<Ready, DropReason> {
        self.trace.path = Path::Reply;
        self.trace.backend = Some(reply.backend);
        self.forwardable()?;
        let packet = self.packet;
        let hop = self.way_to_client(reply)?;
        let out = rewrite::translate(&self.arrival.frame, &packet, End::Source, reply.vip, reply.port);
        let ready = self.send(out, &hop)?;
        self.state.replied(reply.service, reply.backend, packet.length);
        Ok(ready)
    }

    /// The checks every packet of a service passes before it is touched, in this order.
    fn forwardable(&self) -> Result<(), DropReason> {
        if !self.packet.is_complete(&self.arrival.frame) {
            Err(DropReason::Truncated)
        } else if self.packet.fragmented {
            Err(DropReason::Fragment)
        } else if self.packet.hops <= 1 {
            // RFC 1812 §5.3.1, RFC 8200 §3.
            Err(DropReason::TtlExceeded)
        } else {
            Ok(())
        }
    }

    /// The flow's keyed hash: both addresses and both ports as they lie in the packet.
    fn hash(&self) -> u32 {
        let key = HashKey(self.world.settings.hash_key);
        let Datagram { source, destination, source_port, destination_port, .. } = self.packet;
        match (source, destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => oracle::hash4(&key, (s, source_port), (d, destination_port)),
            (IpAddr::V6(s), IpAddr::V6(d)) => oracle::hash6(&key, (s, source_port), (d, destination_port)),
            _ => unreachable!("one packet has one family"),
        }
    }

    /// The owner of the flow's row, or whoever a tracked flow has.
    fn choose(&mut self, service: &Service, hash: u32) -> Result<Backend, DropReason> {
        let ring = self.world.ring(service).ok_or(DropReason::NoRing)?;
        let row = oracle::row(hash, ring.log2());
        (self.trace.ring_class, self.trace.row) = (Some(ring.class), Some(row));
        let mut chosen = ring.owner(row);
        if self.world.settings.tracking && service.tracked {
            let asked = Asked { world: self.world, now: self.now as u32, service, packet: &self.packet };
            let signs = Signs::of(&self.packet, &self.arrival.frame);
            let (told, backend) = asked.answer(signs, chosen, &self.state.standing, &mut self.state.tracked);
            self.trace.tracked = Some(told);
            chosen = backend.ok_or(DropReason::BackendDown)?;
        }
        match chosen {
            0 => Err(DropReason::NoBackend),
            id => {
                self.trace.backend = Some(id);
                // A row that names a backend there is none of: the maps contradict themselves.
                self.world.backend(id).cloned().ok_or(DropReason::Internal)
            }
        }
    }

    /// The backend's tunnel source, its host bits varied with the flow.
    fn tunnel_source(&self, backend: &Backend, hash: u32) -> IpAddr {
        let varied = |octets: &mut [u8], mask: [u8; 4]| {
            for ((octet, hash), mask) in octets.iter_mut().zip(hash.to_le_bytes()).zip(mask) {
                *octet |= hash & mask;
            }
        };
        match backend.tunnel_source {
            IpAddr::V4(source) => {
                let mut octets = source.octets();
                varied(&mut octets, self.world.settings.tunnel_mask4.octets());
                octets.into()
            }
            IpAddr::V6(source) => {
                let mut octets = source.octets();
                varied(&mut octets[12..], self.world.settings.tunnel_mask6.octets());
                Ipv6Addr::from(octets).into()
            }
        }
    }

    /// The next hop towards a backend: the one its record names, else the kernel's.
    fn way_to_backend(
        &mut self,
        backend: &Backend,
        source: IpAddr,
        length: usize,
        service: u32,
    ) -> Result<NextHop, DropReason> {
        match self.world.next_hop(backend.next_hop) {
            Some(hop) => fits(hop, length),
            None => self.ask(source, backend.address, length, service),
        }
    }

    /// The next hop towards a client: by the mirrored routes, else the kernel's.
    fn way_to_client(&mut self, reply: &Reply) -> Result<NextHop, DropReason> {
        let destination = self.packet.destination;
        let hop = match self.world.route(destination).map(|route| route.way) {
            Some(Way::Gateway(index)) => self.world.next_hop(index),
            Some(Way::OnLink(interface)) => self.world.neighbour(interface, destination),
            Some(Way::AskKernel) | None => None,
        };
        match hop {
            Some(hop) => fits(hop, self.packet.length),
            None => self.ask(reply.vip, destination, self.packet.length, reply.service),
        }
    }

    /// The slow path.
    fn ask(&mut self, source: IpAddr, destination: IpAddr, length: usize, service: u32) -> Result<NextHop, DropReason> {
        self.trace.asked = true;
        self.state.asked(service);
        match self.kernel.ask(self.arrival.interface, source, destination, length) {
            Answer::Hop(hop) => Ok(hop),
            Answer::NoNeighbour { interface, address } => {
                self.trace.told = Some(self.state.want(Wanted { interface, address }, self.now));
                Err(DropReason::NoNeighbour)
            }
            Answer::NoRoute => Err(DropReason::NoRoute),
            Answer::TooBig => Err(DropReason::TooBig),
            Answer::Disabled => Err(DropReason::ForwardingDisabled),
        }
    }

    /// Writes the Ethernet header and picks the way out.
    fn send(&self, mut frame: Vec<u8>, hop: &NextHop) -> Result<Ready, DropReason> {
        rewrite::address(&mut frame, hop, self.packet.family);
        if hop.interface == self.arrival.interface {
            Ok(Ready { frame, verdict: Verdict::Transmit })
        } else if self.world.devices.contains(&hop.interface) {
            Ok(Ready { frame, verdict: Verdict::Redirect(hop.interface) })
        } else {
            Err(DropReason::NotRedirectable)
        }
    }
}

fn fits(hop: NextHop, length: usize) -> Result<NextHop, DropReason> {
    if length > hop.mtu as usize { Err(DropReason::TooBig) } else { Ok(hop) }
}
