//! A packet's way (ARCHITECTURE.md): is it for a service, may it be forwarded, which backend, where to.

use std::net::{IpAddr, Ipv6Addr};

use lb_common::addr::PROTO_TCP;
use lb_common::counters::DropReason;
use lb_common::service::{FORWARD_DSR_L2, FORWARD_NAT};

use super::flow::{self, Asked, Goes, Signs};
use super::fragments::First;
use super::kernel::Answer;
use super::read::{self, Datagram, Piece};
use super::rewrite::{self, End};
use super::rows::{Fate, Proof, Question};
use super::state::Wanted;
use super::tunnel::{self, Tunnel};
use super::world::{Backend, Endpoint, Kind, NextHop, Orphans, Packets, Reply, Row, Service, Tag, Way};
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
    /// Who got the first fragment, if this is a later one.
    follows: u16,
    /// That of the way that the packet was too big for, less what is put in front of it.
    mtu: usize,
    trace: Trace,
}

/// What becomes of a packet, and of the state. `now` is in seconds.
///
/// VLAN tags are not part of a packet's way: it goes without those it came with, and gets those of its way out. What passes
/// is untouched, and an answer goes back with the tags of what is answered.
pub fn process(world: &World, kernel: &Kernel, state: &mut State, now: u64, arrival: &Arrival) -> Outcome {
    let (frame, tags) = match world.settings.packets.vlan {
        true => read::untagged(&arrival.frame),
        false => (arrival.frame.clone(), 0),
    };
    let bare = Arrival { headroom: arrival.headroom + 4 * tags, frame, ..arrival.clone() };
    let mut outcome = untagged(world, kernel, state, now, &bare);
    outcome.trace.tags = tags;
    if outcome.verdict == Verdict::Pass {
        state.passed(arrival.frame.len());
        outcome.frame.clone_from(&arrival.frame);
    } else if outcome.trace.answered {
        outcome.frame = [&outcome.frame[..12], &arrival.frame[12..12 + 4 * tags], &outcome.frame[12..]].concat();
    }
    outcome
}

fn untagged(world: &World, kernel: &Kernel, state: &mut State, now: u64, arrival: &Arrival) -> Outcome {
    let frame = &arrival.frame;
    let trace = Trace { family: read::family(frame), ..Trace::default() };
    let balanced = match trace.family {
        Family::V4 => world.settings.ipv4,
        Family::V6 => world.settings.ipv6,
        Family::Other => false,
    };
    let stepped_over = |packet: &Datagram| world.settings.packets.extensions || !packet.has_extensions();
    let Packets { icmp, extensions, echo, too_big, .. } = world.settings.packets;
    let part = || read::part(frame).filter(stepped_over);
    let error = || read::error(frame, extensions).filter(|_| icmp);
    let Some(packet) = part().or_else(error).filter(|_| balanced) else {
        let asked = read::echo(frame).filter(|_| balanced && echo);
        let Some((_, service)) = asked.and_then(|to| world.vips.iter().find(|(vip, _)| *vip == to)) else {
            return pass(arrival, trace);
        };
        state.rows.echoed(*service);
        let trace = Trace { path: Path::Echo, echoed: true, answered: true, service: Some(*service), ..trace };
        return Outcome { verdict: Verdict::Transmit, frame: rewrite::echo(frame), trace };
    };
    let trace = Trace { piece: Some(packet.piece), extensions: packet.has_extensions(), ..trace };
    let mut walk = Walk { world, kernel, state, now, arrival, packet, follows: 0, mtu: 0, trace };
    if packet.piece == Piece::Later && !walk.follow() {
        let trace = walk.trace;
        return pass(arrival, trace);
    }

    let packet = walk.packet;
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
        let trace = walk.trace;
        return pass(arrival, trace);
    };
    let (mtu, mut trace) = (walk.mtu, Trace { service: Some(service), ..walk.trace });
    match result {
        Ok(Ready { frame, verdict }) => {
            match packet.piece {
                Piece::Later => state.fragment(service),
                Piece::Error => state.icmp_error(service),
                Piece::Whole | Piece::First => {}
            }
            Outcome { verdict, frame, trace }
        }
        Err(reason) => {
            state.dropped(service, reason);
            // Nobody is told of an error, or of later fragments (RFC 1122 §3.2.2).
            let tells = too_big && reason == DropReason::TooBig && matches!(packet.piece, Piece::Whole | Piece::First);
            if tells
                && let Some(answer) = rewrite::too_big(frame, &packet, mtu)
                && state.may_tell(now)
            {
                state.rows.told(service);
                (trace.answered, trace.told_too_big) = (true, true);
                return Outcome { verdict: Verdict::Transmit, frame: answer, trace };
            }
            Outcome { verdict: Verdict::Drop(reason), frame: frame.clone(), trace }
        }
    }
}

/// What is for no service is never touched, whatever is odd about it.
fn pass(arrival: &Arrival, trace: Trace) -> Outcome {
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
        let backend = match self.packet.piece {
            Piece::Later => self.known_backend(self.follows)?,
            _ => match self.choose(service, hash)? {
                Chosen::Backend(backend) => backend,
                Chosen::Client(answer) => return Ok(answer),
            },
        };
        let packet = self.packet;
        if packet.piece == Piece::First {
            self.state.fragments.teach(&packet, backend.id, self.now);
        }
        let opens = packet.opens(&self.arrival.frame);
        let clamps = opens && service.clamps;
        let mut family = packet.family;
        let (out, hop) = match self.trace.path {
            Path::Nat if settings.nat => {
                let hop = self.way_to_backend(&backend, packet.source, packet.length, service.id)?;
                let frame = &self.clamped(clamps, &hop, 0);
                let port = if backend.port == 0 { packet.destination_port } else { backend.port };
                let translate =
                    if packet.piece == Piece::Error { rewrite::translate_error } else { rewrite::translate };
                (translate(frame, &packet, End::Destination, backend.address, port), hop)
            }
            Path::DsrL2 if settings.dsr_l2 => {
                let hop = self.way_to_backend(&backend, packet.source, packet.length, service.id)?;
                let frame = &self.clamped(clamps, &hop, 0);
                (rewrite::hop(frame, &packet), hop)
            }
            Path::Ipip | Path::Encapsulated if tunnel.is_some_and(|kind| kind.is_on(settings)) => {
                let kind = tunnel.expect("just looked at");
                let source = self.tunnel_source(&backend, hash);
                let tunnel = Tunnel { kind, packet: &packet, source, backend: &backend, hash };
                let hop = self.way_to_backend(&backend, source, packet.length + tunnel.adds(), service.id)?;
                let frame = &self.clamped(clamps, &hop, tunnel.adds());
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
        self.state.forwarded(service.id, backend.id, packet.length, opens);
        Ok(ready)
    }

    /// A packet from a backend endpoint to somebody who is not this host.
    fn reply(&mut self, reply: &Reply) -> Result<Ready, DropReason> {
        self.trace.path = Path::Reply;
        self.trace.backend = Some(reply.backend);
        self.forwardable()?;
        let packet = self.packet;
        if matches!(packet.piece, Piece::Whole | Piece::First) {
            self.prove(reply);
        }
        if packet.piece == Piece::First {
            self.state.fragments.teach(&packet, 0, self.now);
        }
        let hop = self.way_to_client(reply)?;
        let translate = if packet.piece == Piece::Error { rewrite::translate_error } else { rewrite::translate };
        // SYN, alone or with ACK.
        let opens = matches!(packet.piece, Piece::Whole | Piece::First)
            && packet.protocol == PROTO_TCP
            && self.arrival.frame[packet.l4 + 13] & 0x02 != 0;
        let frame = self.clamped(opens && self.world.policy(reply.service).clamps, &hop, 0);
        let out = translate(&frame, &packet, End::Source, reply.vip, reply.port(packet.source_port));
        self.trace.wide_reply = reply.wide;
        let ready = self.send(out, &hop, packet.family)?;
        self.state.replied(reply.service, reply.backend, packet.length);
        Ok(ready)
    }

    /// The checks every packet of a service passes before it is touched, in this order.
    fn forwardable(&self) -> Result<(), DropReason> {
        if !self.packet.is_complete(&self.arrival.frame) {
            Err(DropReason::Truncated)
        } else if self.packet.piece == Piece::First && !self.world.settings.packets.fragments {
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
        if self.packet.piece == Piece::Error {
            let goes = match row.decides_alone(hash) {
                true if is_tracked => tracked.peek(&asked, row.owner),
                true => row.owner,
                false => rows.peek(&question),
            };
            return self.known_backend(goes).map(Chosen::Backend);
        }
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
            Goes::To(id) => self.known_backend(id).map(Chosen::Backend),
        }
    }

    fn known_backend(&mut self, id: u16) -> Result<Backend, DropReason> {
        if id == 0 {
            return Err(DropReason::NoBackend);
        }
        self.trace.backend = Some(id);
        // A row that names a backend there is none of: the maps contradict themselves.
        self.world.backend(id).cloned().ok_or(DropReason::Internal)
    }

    /// Takes a later fragment for what its first one was, if that came lately.
    fn follow(&mut self) -> bool {
        if !self.world.settings.packets.fragments {
            return false;
        }
        let first = self.state.fragments.find(&self.packet, self.now);
        self.trace.followed = Some(first.is_some());
        let Some(First { protocol, source_port, destination_port, backend, .. }) = first else {
            self.state.fragment(0);
            return false;
        };
        self.packet = Datagram { protocol, source_port, destination_port, ..self.packet };
        self.follows = backend;
        true
    }

    /// The flow's backend is down, and no other is to have its packets: the client is told, or nobody.
    fn orphan(&mut self, service: &Service, tells: bool) -> Result<Ready, DropReason> {
        let whole = self.packet.piece == Piece::Whole;
        let answer = rewrite::reset(&self.arrival.frame, &self.packet).filter(|_| tells && whole);
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
            Some(hop) => self.fits(hop, length),
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
            Some(hop) => self.fits(hop, self.packet.length),
            None => self.ask(reply.vip, destination, self.packet.length, reply.service),
        }
    }

    /// The slow path.
    fn ask(&mut self, source: IpAddr, destination: IpAddr, length: usize, service: u32) -> Result<NextHop, DropReason> {
        self.trace.asked = true;
        self.state.asked(service);
        match self.kernel.ask(self.arrival.interface, source, destination, length) {
            Answer::Hop(hop) => {
                let vlan = self.world.vlans.iter().find(|vlan| vlan.interface == hop.interface);
                match vlan.filter(|_| self.world.settings.packets.vlan) {
                    Some(vlan) => Ok(NextHop { interface: vlan.on, tags: vlan.tags, ..hop }),
                    None => Ok(hop),
                }
            }
            Answer::NoNeighbour { interface, address } => {
                self.trace.told = Some(self.state.want(Wanted { interface, address }, self.now));
                Err(DropReason::NoNeighbour)
            }
            Answer::NoRoute => Err(DropReason::NoRoute),
            Answer::TooBig(mtu) => Err(self.too_big(length, mtu)),
            Answer::Disabled => Err(DropReason::ForwardingDisabled),
        }
    }

    /// The frame, its MSS lowered to what the way takes with so many bytes in front of each packet, if it is to be.
    fn clamped(&mut self, clamps: bool, hop: &NextHop, in_front: usize) -> Vec<u8> {
        let frame = &self.arrival.frame;
        // A way that takes more than any MSS says takes all.
        if !clamps || !self.world.settings.packets.clamp || hop.mtu >= 0xffff {
            return frame.clone();
        }
        let header = if self.packet.family == Family::V4 { 20 } else { 40 };
        let most = (hop.mtu as usize).saturating_sub(in_front + header + 20);
        match rewrite::clamp(frame, &self.packet, most) {
            Some(clamped) => {
                self.trace.clamped = true;
                clamped
            }
            None => frame.clone(),
        }
    }

    fn fits(&mut self, hop: NextHop, length: usize) -> Result<NextHop, DropReason> {
        if length > hop.mtu as usize { Err(self.too_big(length, hop.mtu)) } else { Ok(hop) }
    }

    /// With so many bytes, tunnel and all, the packet does not go where only so many do.
    fn too_big(&mut self, length: usize, mtu: u32) -> DropReason {
        self.mtu = (self.packet.length + mtu as usize).saturating_sub(length);
        DropReason::TooBig
    }

    /// Writes the Ethernet header and picks the way out.
    fn send(&mut self, mut frame: Vec<u8>, hop: &NextHop, family: Family) -> Result<Ready, DropReason> {
        rewrite::address(&mut frame, hop, family);
        let tags: Vec<Tag> = match hop.tags[0] {
            Some(_) if self.world.settings.packets.vlan => hop.tags.into_iter().flatten().collect(),
            _ => Vec::new(),
        };
        let left = (self.arrival.headroom + self.arrival.frame.len()).saturating_sub(frame.len());
        if left < 4 * tags.len() {
            return Err(DropReason::NoHeadroom);
        }
        self.trace.tagged = tags.len();
        let frame = rewrite::tagged(&frame, tags);
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
