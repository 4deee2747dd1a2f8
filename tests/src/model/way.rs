//! A packet's way (ARCHITECTURE.md): is it for a service, may it be forwarded, which backend, where to.

use std::net::{IpAddr, Ipv6Addr};

use lb_common::counters::DropReason;
use lb_common::service::{FORWARD_DSR_L2, FORWARD_NAT};

use super::flow::{self, Asked, Goes, Signs};
use super::kernel::Answer;
use super::read::{self, Datagram};
use super::rewrite::{self, End};
use super::rows::{Fate, Proof, Question};
use super::state::Wanted;
use super::tunnel::{self, Tunnel};
use super::world::{Backend, Endpoint, Kind, NextHop, Orphans, Reply, Row, Service, Way};
use super::{Arrival, Family, Kernel, Outcome, Path, RowKind, State, Trace, Verdict, World};

/// A frame that is ready to leave, and where to.
struct Ready {
    frame: Vec<u8>,
    verdict: Verdict,
}

/// Who gets a client's packet.
enum Chosen {
    Backend(Backend),
    /// The client itself, as the flow's backend is down.
    Client(Ready),
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

    let at = packet.destination_endpoint();
    let wide = if world.exact(at).is_none() { world.wildcard(at).map(|(_, listen)| listen) } else { None };
    walk.trace.wide = wide;
    let (service, result) = if let Some(service) = world.service(at) {
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
        let tunnel = tunnel::Kind::of(service.forward);
        self.trace.path = match (service.forward, tunnel) {
            (FORWARD_NAT, _) => Path::Nat,
            (FORWARD_DSR_L2, _) => Path::DsrL2,
            (_, Some(tunnel::Kind::IpInIp)) => Path::Ipip,
            (_, Some(_)) => Path::Encapsulated,
            (_, None) => Path::Unknown,
        };
        self.forwardable()?;
        let hash = flow::hash(self.world, &flow::key(&self.packet), service.by_client);
        let backend = match self.choose(service, hash)? {
            Chosen::Backend(backend) => backend,
            Chosen::Client(answer) => return Ok(answer),
        };
        let packet = self.packet;
        let frame = &self.arrival.frame;
        let mut family = packet.family;
        let (out, hop) = match self.trace.path {
            Path::Nat if settings.nat => {
                let hop = self.way_to_backend(&backend, packet.source, packet.length, service.id)?;
                let port = if backend.port == 0 { packet.destination_port } else { backend.port };
                (rewrite::translate(frame, &packet, End::Destination, backend.address, port), hop)
            }
            Path::DsrL2 if settings.dsr_l2 => {
                let hop = self.way_to_backend(&backend, packet.source, packet.length, service.id)?;
                (rewrite::hop(frame, &packet), hop)
            }
            Path::Ipip | Path::Encapsulated if tunnel.is_some_and(|kind| kind.is_on(settings)) => {
                let kind = tunnel.expect("just looked at");
                let source = self.tunnel_source(&backend, hash);
                let tunnel = Tunnel { kind, packet: &packet, source, backend: &backend, hash };
                let hop = self.way_to_backend(&backend, source, packet.length + tunnel.adds(), service.id)?;
                if self.arrival.headroom < tunnel.adds() {
                    return Err(DropReason::NoHeadroom);
                }
                family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
                self.trace.tunnel = Some((kind, family));
                (tunnel.around(&rewrite::hop(frame, &packet)), hop)
            }
            // Not in the tables a controller writes: no program is loaded without what its services need.
            _ => return Err(DropReason::Internal),
        };
        let ready = self.send(out, &hop, family)?;
        self.state.forwarded(service.id, backend.id, packet.length, packet.opens(frame));
        Ok(ready)
    }

    /// A packet from a backend endpoint to somebody who is not this host.
    fn reply(&mut self, reply: &Reply) -> Result<Ready, DropReason> {
        self.trace.path = Path::Reply;
        self.trace.backend = Some(reply.backend);
        self.forwardable()?;
        let packet = self.packet;
        self.prove(reply);
        let hop = self.way_to_client(reply)?;
        let out =
            rewrite::translate(&self.arrival.frame, &packet, End::Source, reply.vip, reply.port(packet.source_port));
        self.trace.wide_reply = reply.wide;
        let ready = self.send(out, &hop, packet.family)?;
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

    /// The owner of the flow's row, or whoever else the flow has.
    fn choose(&mut self, service: &Service, hash: u32) -> Result<Chosen, DropReason> {
        let signs = Signs::of(&self.packet, &self.arrival.frame);
        let State { standing, rows, tracked, .. } = &mut *self.state;
        let asked = Asked::of(self.world, standing, self.now, service.id, flow::key(&self.packet), signs);
        let question = rows.question(asked, service).ok_or(DropReason::NoRing)?;
        let Question { place, row, .. } = question;
        (self.trace.ring_class, self.trace.row) = (Some(place.0), Some(place.2));
        (self.trace.kind, self.trace.by_client) = (Some(kind(row, asked.now)), service.by_client);
        let is_tracked = self.world.settings.tracking && service.tracked;
        let goes = if row.decides_alone(hash) {
            self.trace.fate = (row.kind != Kind::Steady).then_some(Fate::Unasked);
            if is_tracked {
                let (told, goes) = tracked.answer(&asked, row.owner);
                self.trace.tracked = Some(told);
                goes
            } else {
                Goes::To(row.owner)
            }
        } else {
            let (fate, notes, goes) = rows.answer(&question);
            (self.trace.fate, self.trace.notes) = (Some(fate), notes);
            if is_tracked && let Goes::To(backend @ 1..) = goes {
                self.trace.tracked = Some(tracked.note(&asked, backend));
            }
            goes
        };
        match goes {
            Goes::Orphan => {
                // A RST is never answered with one.
                let tells = asked.policy.orphans == Orphans::Reset && !signs.resets;
                self.orphan(service, tells).map(Chosen::Client)
            }
            Goes::To(0) => Err(DropReason::NoBackend),
            Goes::To(id) => {
                self.trace.backend = Some(id);
                // A row that names a backend there is none of: the maps contradict themselves.
                self.world.backend(id).cloned().map(Chosen::Backend).ok_or(DropReason::Internal)
            }
        }
    }

    /// The flow's backend is down, and no other is to have its packets: the client is told, or nobody.
    fn orphan(&mut self, service: &Service, tells: bool) -> Result<Ready, DropReason> {
        let answer = rewrite::reset(&self.arrival.frame, &self.packet).filter(|_| tells);
        self.trace.unanswerable = tells && answer.is_none();
        let frame = answer.ok_or(DropReason::BackendDown)?;
        self.trace.answered = true;
        self.state.rows.answered(service.id);
        Ok(Ready { frame, verdict: Verdict::Transmit })
    }

    /// What a reply shows of its flow's row, while rows of its service move.
    fn prove(&mut self, reply: &Reply) {
        let Datagram { destination, destination_port, protocol, source_port, .. } = self.packet;
        let port = reply.port(source_port);
        let vip = Endpoint { address: reply.vip, port, protocol };
        // Other entries are those of single endpoints.
        let service = if reply.wide { self.world.service(vip) } else { self.world.exact(vip) };
        let Some(service) = service else { return };
        if !self.world.policy(reply.service).in_motion {
            self.trace.proof = Some(Proof::Unlooked);
            return;
        }
        let flow = (destination, reply.vip, destination_port, port, protocol);
        let State { standing, rows, .. } = &mut *self.state;
        let asked = Asked::of(self.world, standing, self.now, service.id, flow, Signs::default());
        if let Some(question) = rows.question(asked, service) {
            self.trace.proof = Some(rows.prove(&question, reply.backend));
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
    fn send(&self, mut frame: Vec<u8>, hop: &NextHop, family: Family) -> Result<Ready, DropReason> {
        rewrite::address(&mut frame, hop, family);
        if hop.interface == self.arrival.interface {
            Ok(Ready { frame, verdict: Verdict::Transmit })
        } else if self.world.devices.contains(&hop.interface) {
            Ok(Ready { frame, verdict: Verdict::Redirect(hop.interface) })
        } else {
            Err(DropReason::NotRedirectable)
        }
    }
}

fn kind(row: Row, now: u32) -> RowKind {
    match row.kind {
        Kind::Steady => RowKind::Steady,
        Kind::Moving { .. } if row.moves(now) => RowKind::Moving,
        Kind::Moving { .. } => RowKind::Over,
        Kind::Exceptions { .. } => RowKind::Exceptions,
    }
}

fn fits(hop: NextHop, length: usize) -> Result<NextHop, DropReason> {
    if length > hop.mtu as usize { Err(DropReason::TooBig) } else { Ok(hop) }
}
