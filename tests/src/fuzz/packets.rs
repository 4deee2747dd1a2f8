//! Random packets that mean something to a world: for its services, from its backends, nearly so, and not at all —
//! with every header field free to lie.
//!
//! Most fields of most packets are right. A packet with five lies in it is refused for the first; what is
//! interesting is one lie in an otherwise good packet, so each lie has its own small chance.

use std::net::IpAddr;

use lb_common::addr::{PROTO_TCP, PROTO_UDP};

use super::mutate;
use super::network::{BACKENDS, CLIENTS, DC, LAN, OFF, TUNNEL_SOURCES, VIPS, WAN, mac, of_family};
use super::random::Random;
use super::worlds::{PORTS, sources, targets};
use crate::model::World;
use crate::model::checksum::keep_transport;
use crate::model::decap::{GENEVE, GUE, VXLAN};
use crate::model::read::{self, Piece};
use crate::model::world::{Endpoint, Reply};
use crate::packet::{
    Ethernet, Extension, Icmp, Ipv4, Ipv6, Mac, Packet, Tcp, Udp, arp, ethernet, icmp, icmpv6, ipv4, ipv6, raw, tcp,
    udp,
};

/// The kernel runs no shorter frame, and no longer one in one piece (a page, less what it keeps for itself). A longer
/// one is run in pieces, of which the program sees the first: what no driver does to a program that did not ask for it.
pub const SHORTEST: usize = 14;
pub const LONGEST: usize = 3520;

/// A frame, at least [`SHORTEST`] and at most [`LONGEST`] bytes.
pub fn frame(random: &mut Random, world: &World) -> Vec<u8> {
    let mut frame = match random.below(100) {
        0..4 => noise(random),
        4..10 => others(random).bytes(),
        10..14 => echo(random).bytes(),
        14..22 => error(random, world).bytes(),
        _ => {
            let (source, destination) = flow(random, world);
            between(random, world, source, destination).bytes()
        }
    };
    if random.percent(10) {
        let length = random.between(1, 46);
        frame.extend(random.bytes(length));
    }
    if random.percent(10) {
        mutate::mutate(random, &mut frame);
    }
    if random.percent(5) && frame.len() > SHORTEST {
        frame.truncate(random.between(SHORTEST, frame.len()));
    }
    fit(frame)
}

/// Another packet of a flow that was there before: with other flags, if it is TCP's, or of the same client's next one.
pub fn again(random: &mut Random, sent: &[Vec<u8>]) -> Vec<u8> {
    let before = random.pick(sent);
    let mut frame = before.clone();
    if let Some(packet) = read::datagram(&before).filter(|p| p.protocol == PROTO_TCP && p.is_complete(&before)) {
        // SYN, ACK, data, FIN, RST; and what has no ACK, though it should.
        frame[packet.l4 + 13] = random.pick(&[0x02, 0x02, 0x10, 0x10, 0x18, 0x18, 0x11, 0x04, 0x14, 0x08, 0x01]);
        if random.percent(15) {
            // The client's next connection.
            frame[packet.l4..packet.l4 + 2].copy_from_slice(&random.u16().to_be_bytes());
            frame[packet.l4 + 13] = 0x02;
        }
        if random.percent(3) {
            // A header that is too short, or longer than the packet.
            frame[packet.l4 + 12] = random.byte();
        }
        keep_transport(&before, &mut frame);
    }
    frame
}

/// The rest of a packet whose first fragment was sent before, if one was; some a little off.
pub fn rest(random: &mut Random, sent: &[Vec<u8>]) -> Option<Vec<u8>> {
    let first = |frame: &&Vec<u8>| read::datagram(&read::untagged(frame).0).is_some_and(|p| p.piece == Piece::First);
    let firsts: Vec<&Vec<u8>> = sent.iter().filter(first).collect();
    if firsts.is_empty() {
        return None;
    }
    let (first, _) = read::untagged(random.pick::<&Vec<u8>>(&firsts));
    let packet = read::datagram(&first)?;
    let length = random.below(80);
    let data = random.bytes(length);
    let (offset, more) = (random.between(1, 180) * 8, random.percent(50));
    let wrong = random.percent(10);
    let id = if wrong && random.percent(40) { random.u32() } else { packet.identification };
    let link = link(random);
    let hops = hops(random);
    let rest = match (packet.source, packet.destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let protocol = if wrong { random.pick(&[1, 6, 17, 0]) } else { packet.protocol };
            let ip = ipv4(s, d).protocol(protocol).ttl(hops).fragment(offset as u16, more);
            link / ip.with(|ip| ip.identification = id as u16) / raw(data)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            // What it says is behind it is nobody's business.
            let fragment = Extension::Fragment { offset: offset as u16, more, identification: id };
            let ip = ipv6(s, d).hop_limit(hops);
            let ip = if random.percent(15) { ip.extension(Extension::hop_by_hop()) } else { ip };
            let any = random.byte();
            link / ip.extension(fragment).next_header(random.pick(&[packet.protocol, 60, any])) / raw(data)
        }
        _ => unreachable!("both ends are of one family"),
    };
    let mut frame = rest.bytes();
    if wrong && random.percent(50) {
        mutate::mutate(random, &mut frame);
    }
    Some(fit(frame))
}

/// What some backend answers to a packet of a flow that was there before.
pub fn answer(random: &mut Random, world: &World, sent: &[Vec<u8>]) -> Vec<u8> {
    let asked = read::datagram(&random.pick(sent));
    let theirs = |reply: &&Reply| {
        asked.is_some_and(|p| {
            let port = reply.port(p.destination_port);
            (reply.vip, port, reply.from.protocol) == (p.destination, p.destination_port, p.protocol)
        })
    };
    let replies: Vec<&Reply> = world.replies.iter().filter(theirs).collect();
    match asked {
        Some(packet) if !replies.is_empty() => {
            let reply = random.pick(&replies);
            let from =
                Endpoint { port: if reply.wide { packet.destination_port } else { reply.from.port }, ..reply.from };
            fit(between(random, world, from, packet.source_endpoint()).bytes())
        }
        _ => frame(random, world),
    }
}

/// A good packet for a service or from a backend, to be cut at every byte.
pub fn whole(random: &mut Random, world: &World) -> Vec<u8> {
    let (source, destination) = flow(random, world);
    fit(between(random, world, source, destination).bytes())
}

/// A frame for a backend host: most of them packets in a tunnel of Sluice's kind, with an ECN field of its own.
pub fn tunnelled(random: &mut Random, world: &World) -> Vec<u8> {
    let (source, destination) = flow(random, world);
    let inner = between(random, world, source, destination).bytes();
    let (header, protocol, port) = tunnel(random, destination.address.is_ipv6());
    let mut body = Packet::from([&header, &inner[SHORTEST..]].concat());
    if let Some(port) = port {
        let source = random.u16();
        let mut header = udp_header(random, source, port);
        if random.percent(50) {
            header = header.checksum(0);
        }
        body = header / body;
    }
    let is_ipv6 = random.percent(50);
    let host = random.pick(&of_family(&BACKENDS, is_ipv6));
    let tunnel = match (random.pick(&of_family(&TUNNEL_SOURCES, is_ipv6)), host) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let mut outer = ipv4(s, d).protocol(protocol).tos(random.byte()).dont_fragment();
            if random.percent(15) {
                outer = ipv4_header(random, outer, 20);
            }
            link(random) / outer / body
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let mut outer = ipv6(s, d).next_header(protocol).traffic_class(random.byte()).flow_label(random.u32());
            if random.percent(15) {
                outer = ipv6_header(random, outer, 40);
            }
            link(random) / outer / body
        }
        _ => unreachable!("both ends are of one family"),
    };
    let mut frame = tunnel.bytes();
    if random.percent(10) {
        mutate::mutate(random, &mut frame);
    }
    if random.percent(10) && frame.len() > SHORTEST {
        frame.truncate(random.between(SHORTEST, frame.len()));
    }
    fit(frame)
}

/// The header of some tunnel in front of a packet of this family, the IP protocol it is told by, and the UDP port.
fn tunnel(random: &mut Random, is_ipv6: bool) -> (Vec<u8>, u8, Option<u16>) {
    let (protocol, ethertype): (u8, [u8; 2]) = if is_ipv6 { (41, [0x86, 0xdd]) } else { (4, [0x08, 0x00]) };
    let (mut header, (protocol, port)) = match random.below(7) {
        0 => (Vec::new(), (protocol, None)),
        1 => ([&[0, 0], &ethertype[..]].concat(), (47, None)),
        2 => (vec![0, protocol, 0, 0], (PROTO_UDP, Some(GUE))),
        3 => (Vec::new(), (PROTO_UDP, Some(GUE))),
        kind => {
            let network = random.bytes(3);
            let (flags, port) = match kind {
                4 => ([0x08, 0, 0, 0], VXLAN),
                5 => ([0, 0, 0x65, 0x58], GENEVE),
                _ => ([0, 0, ethertype[0], ethertype[1]], GENEVE),
            };
            let mut header = [&flags[..], &network, &[0]].concat();
            if kind < 6 {
                header.extend((link(random) / raw([])).bytes()[..12].to_vec());
                header.extend(ethertype);
            }
            (header, (PROTO_UDP, Some(port)))
        }
    };
    // A bit that asks for what nobody here does, or one that is reserved.
    if random.percent(10) && !header.is_empty() {
        let at = random.below(header.len().min(8));
        header[at] ^= 1 << random.below(8);
    }
    // A tag, most likely.
    if random.percent(3) && header.len() > 8 {
        let at = random.pick(&[header.len() - 2, header.len() - 1]);
        header[at] = random.byte();
    }
    let any = random.u16();
    (header, protocol, port.map(|port| random.weighted(&[(94, port), (3, any), (3, GUE)])))
}

pub fn fit(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().clamp(SHORTEST, LONGEST), 0);
    frame
}

/// Nothing but bytes, half of them with an EtherType that gets them looked at.
fn noise(random: &mut Random) -> Vec<u8> {
    let length = random.between(SHORTEST, 120);
    let mut bytes = random.bytes(length);
    if random.percent(60) {
        let ethertype = random.pick(&[[0x08, 0x00], [0x86, 0xdd]]);
        bytes[12..14].copy_from_slice(&ethertype);
        if let Some(version) = bytes.get_mut(14).filter(|_| random.percent(70)) {
            *version = random.pick(&[0x45, 0x46, 0x60, 0x65, 0x4f]);
        }
    }
    bytes
}

/// A client that nobody chose.
fn client(random: &mut Random, is_ipv6: bool) -> Endpoint {
    let address = match random.below(10) {
        0..7 => random.pick(&of_family(&CLIENTS, is_ipv6)),
        _ if is_ipv6 => IpAddr::V6((u128::from(random.draw()) << 64 | u128::from(random.draw())).into()),
        _ => IpAddr::V4(random.u32().into()),
    };
    let port = if random.percent(10) { random.pick(&PORTS) } else { random.u16() };
    Endpoint { address, port, protocol: random.pick(&[PROTO_TCP, PROTO_UDP]) }
}

/// Both ends of a packet: for a service, from a backend, one detail beside either, or neither.
fn flow(random: &mut Random, world: &World) -> (Endpoint, Endpoint) {
    // A family with something to find, if there is one.
    let is_ipv6 = match [false, true].map(|family| world.all_services().any(|s| s.at.address.is_ipv6() == family)) {
        [true, false] => false,
        [false, true] => true,
        _ => random.percent(50),
    };
    let anybody = client(random, is_ipv6);
    let near = |random: &mut Random, end: Endpoint| match random.below(3) {
        0 => Endpoint { port: random.pick(&PORTS), ..end },
        1 => Endpoint { protocol: PROTO_TCP + PROTO_UDP - end.protocol, ..end },
        _ => Endpoint { address: random.pick(&of_family(&[&VIPS[..], &BACKENDS[..]].concat(), is_ipv6)), ..end },
    };
    let services: Vec<Endpoint> =
        targets(random, world).into_iter().filter(|e| e.address.is_ipv6() == is_ipv6).collect();
    let replies: Vec<Endpoint> =
        sources(random, world).into_iter().filter(|e| e.address.is_ipv6() == is_ipv6).collect();
    let (mut source, mut destination) = match random.below(100) {
        0..60 if !services.is_empty() => (anybody, random.pick(&services)),
        60..84 if !replies.is_empty() => (random.pick(&replies), anybody),
        84..87 if !replies.is_empty() && !services.is_empty() => (random.pick(&replies), random.pick(&services)),
        87..90 if !replies.is_empty() => {
            // To the node itself: answers to health checks.
            let own: Vec<IpAddr> = of_family(&world.own, is_ipv6);
            let address = if own.is_empty() { anybody.address } else { random.pick(&own) };
            (random.pick(&replies), Endpoint { address, ..anybody })
        }
        90..94 if !services.is_empty() => {
            let service = random.pick(&services);
            (anybody, near(random, service))
        }
        94..98 if !replies.is_empty() => {
            let reply = random.pick(&replies);
            (near(random, reply), anybody)
        }
        _ => (anybody, client(random, is_ipv6)),
    };
    // One packet has one protocol: that of the end that was looked up.
    let known = |end: &Endpoint| services.contains(end) || replies.contains(end);
    if known(&destination) {
        source.protocol = destination.protocol;
    } else {
        destination.protocol = source.protocol;
    }
    (source, destination)
}

/// A packet from one endpoint to another, with lies.
fn between(random: &mut Random, world: &World, source: Endpoint, destination: Endpoint) -> Packet {
    let l4 = match source.protocol {
        PROTO_TCP => Packet::from(tcp_header(random, source.port, destination.port)),
        _ => Packet::from(udp_header(random, source.port, destination.port)),
    };
    let header = if source.protocol == PROTO_TCP { 20 } else { 8 };
    match (source.address, destination.address) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let payload = payload(random, world, 20 + header);
            let ip = ipv4_header(random, ipv4(s, d), 20 + header + payload.len());
            link(random) / ip / l4 / raw(payload)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let payload = payload(random, world, 40 + header);
            let ip = ipv6_header(random, ipv6(s, d), header + payload.len());
            link(random) / ip / l4 / raw(payload)
        }
        _ => unreachable!("both ends are of one family"),
    }
}

fn link(random: &mut Random) -> Ethernet {
    let any = Mac::local(random.byte());
    let destination = random.weighted(&[(90, mac(LAN)), (5, Mac::BROADCAST), (5, any)]);
    let mut link = ethernet(Mac::local(random.byte()), destination);
    if random.percent(9) {
        link = link.vlan(random.u16());
        while random.percent(35) {
            link = if random.percent(60) { link.service_vlan(random.u16()) } else { link.vlan(random.u16()) };
        }
    }
    if random.percent(1) {
        link = link.ethertype(random.pick(&[0x0806, 0x86dd, 0x0800, 0x8847, 0x05dc, 0xffff]));
    }
    link
}

/// A length around what is right: most lies in practice are near it or at the ends.
fn length(random: &mut Random, right: usize) -> u16 {
    let right = right as u16;
    match random.below(6) {
        0 => right.wrapping_add(1),
        1 => right.wrapping_sub(1),
        2 => random.below(70) as u16,
        3 => random.pick(&[0, 0xffff, 0x8000]),
        4 => right.wrapping_sub(random.below(48) as u16),
        _ => random.u16(),
    }
}

/// TTL or hop limit.
fn hops(random: &mut Random) -> u8 {
    let any = random.byte();
    random.weighted(&[(80, 64), (3, 0), (4, 1), (4, 2), (4, 255), (5, any)])
}

fn ipv4_header(random: &mut Random, ip: Ipv4, right: usize) -> Ipv4 {
    ip.with(|ip| {
        ip.identification = random.u16();
        ip.dont_fragment = random.percent(50);
        ip.reserved_flag = random.percent(1);
        if random.percent(35) {
            ip.tos = random.byte();
        }
        ip.ttl = hops(random);
        if random.percent(8) {
            let words = random.between(1, 10);
            let any = random.bytes(words * 4);
            ip.options = random.pick(&[vec![1; words * 4], any, vec![0x94, 4, 0, 0]]);
        }
        let right = right + ip.options.len();
        if random.percent(2) {
            ip.header_length = Some(random.byte() & 0x0f);
        }
        if random.percent(1) {
            ip.version = random.byte() & 0x0f;
        }
        if random.percent(6) {
            ip.total_length = Some(length(random, right));
        }
        if random.percent(7) {
            ip.more_fragments = true;
        }
        if random.percent(2) {
            let any = random.u16() & 0x1fff;
            ip.fragment_offset = random.weighted(&[(1, 1), (1, 0x1fff), (2, any)]);
        }
        if random.percent(2) {
            let any = random.byte();
            ip.protocol = Some(random.weighted(&[(1, 1), (1, 4), (1, 6), (1, 17), (1, 47), (3, any)]));
        }
        if random.percent(6) {
            ip.checksum = Some(checksum(random));
        }
    })
}

fn ipv6_header(random: &mut Random, mut ip: Ipv6, right: usize) -> Ipv6 {
    let mut right = right;
    if random.percent(18) {
        let headers = random.weighted(&[(60, 1), (20, 2), (10, 3), (4, 7), (3, 8), (3, 9)]);
        for _ in 0..headers {
            let (extension, length) = match random.weighted(&[(16, 0), (16, 1), (16, 2), (40, 3), (6, 4), (6, 5)]) {
                0 => (Extension::hop_by_hop(), 8),
                1 => (Extension::destination_options(14), 16),
                2 => {
                    let left = random.weighted(&[(9, 0), (1, 1)]);
                    (Extension::Options { kind: 43, data: vec![0, left, 0, 0, 0, 0] }, 8)
                }
                // Few, or more than are stepped over.
                5 => {
                    let words = random.weighted(&[(2, 2), (2, 14), (1, 30), (1, 31), (1, 32), (1, 200)]);
                    let mut bytes = vec![0; words * 8];
                    bytes[1] = (words - 1) as u8;
                    (Extension::Raw { kind: 60, bytes }, words * 8)
                }
                3 => {
                    let (offset, more) = (random.u16() & 0xfff8, random.percent(50));
                    let offset = random.pick(&[0, offset]);
                    (Extension::Fragment { offset, more, identification: random.u32() }, 8)
                }
                _ => (Extension::Raw { kind: random.byte(), bytes: random.bytes(8) }, 8),
            };
            ip = ip.extension(extension);
            right += length;
        }
    }
    ip.with(|ip| {
        if random.percent(35) {
            ip.traffic_class = random.byte();
        }
        if random.percent(50) {
            ip.flow_label = random.u32() & 0xf_ffff;
        }
        ip.hop_limit = hops(random);
        if random.percent(1) {
            ip.version = random.byte() & 0x0f;
        }
        if random.percent(6) {
            ip.payload_length = Some(length(random, right));
        }
        if random.percent(2) {
            let any = random.byte();
            ip.next_header = Some(random.weighted(&[(1, 58), (1, 59), (1, 6), (1, 17), (1, 41), (3, any)]));
        }
    })
}

fn checksum(random: &mut Random) -> u16 {
    let any = random.u16();
    random.weighted(&[(2, 0), (2, 0xffff), (3, any)])
}

fn tcp_header(random: &mut Random, source: u16, destination: u16) -> Tcp {
    let header = tcp(source, destination);
    let header = if random.percent(25) { header.syn() } else { header };
    header.with(|tcp| {
        tcp.sequence = random.u32();
        tcp.acknowledgment = random.u32();
        tcp.window = random.u16();
        if random.percent(25) {
            tcp.flags = random.byte();
        }
        if random.percent(10) {
            tcp.urgent = random.u16();
        }
        if random.percent(10) {
            let words = random.between(1, 10);
            tcp.options = random.bytes(words * 4);
        } else if random.percent(if tcp.flags & 0x02 != 0 { 75 } else { 5 }) {
            tcp.options = options(random);
        }
        if random.percent(3) {
            tcp.data_offset = Some(random.byte() & 0x0f);
        }
        if random.percent(8) {
            tcp.checksum = Some(checksum(random));
        }
    })
}

/// As hosts send them: an MSS, with others around it that may shift it by a byte.
fn options(random: &mut Random) -> Vec<u8> {
    let mut options = Vec::new();
    for _ in 0..random.below(3) {
        options.extend(random.pick(&[vec![1], vec![3, 3, 7], vec![4, 2], vec![8, 10, 1, 2, 3, 4, 5, 6, 7, 8]]));
    }
    let any = random.u16();
    let mss = random.weighted(&[(40, 1460), (20, 1440), (10, 8960), (10, 536), (20, any)]);
    options.extend([2, 4]);
    options.extend(mss.to_be_bytes());
    options.extend(vec![random.pick(&[0, 1]); options.len().next_multiple_of(4) - options.len()]);
    options
}

fn udp_header(random: &mut Random, source: u16, destination: u16) -> Udp {
    let mut header = udp(source, destination);
    if random.percent(5) {
        let length = length(random, 8);
        header = header.length(length);
    }
    if random.percent(18) {
        header = header.checksum(checksum(random));
    }
    header
}

/// `before` bytes of headers are in front of it.
fn payload(random: &mut Random, world: &World, before: usize) -> Vec<u8> {
    let length = match random.below(100) {
        0..70 => random.below(40),
        70..88 => {
            // Around the MTU of a way out, with or without an outer header.
            let mut mtus: Vec<usize> = world.next_hops.iter().map(|n| n.hop.mtu as usize).collect();
            mtus.extend([1300, 1500, 2000]);
            let whole = (random.pick(&mtus) + 1).saturating_sub(random.below(3));
            whole.saturating_sub(before + random.pick(&[0, 20, 40]))
        }
        88..97 => random.below(1500),
        _ => random.below(LONGEST),
    };
    let length = length.min(LONGEST - before);
    match random.below(4) {
        0 => vec![0; length],
        1 => vec![0xff; length],
        _ => random.bytes(length),
    }
}

/// Any identifier, and sometimes a wrong checksum.
fn message(random: &mut Random, message: Icmp) -> Icmp {
    let mut message = message.rest(random.u32().to_be_bytes());
    message.checksum = random.percent(10).then(|| checksum(random));
    message
}

/// An echo request for a service's address, most likely.
fn echo(random: &mut Random) -> Packet {
    let is_ipv6 = random.percent(50);
    let (source, destination) = (client(random, is_ipv6).address, random.pick(&of_family(&VIPS, is_ipv6)));
    let length = random.below(80);
    let data = raw(random.bytes(length));
    let code = random.weighted(&[(95, 0), (5, 1)]);
    let link = link(random);
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let kind = random.weighted(&[(95, 8), (5, 13)]);
            let message = message(random, icmp(kind, code));
            link / ipv4_header(random, ipv4(s, d), 28 + length) / message / data
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let kind = random.weighted(&[(95, 128), (5, 129)]);
            let message = message(random, icmpv6(kind, code));
            link / ipv6_header(random, ipv6(s, d), 8 + length) / message / data
        }
        _ => unreachable!("both ends are of one family"),
    }
}

/// An error about a packet that a service had sent to a client, or a client to a backend; from who was to get it, or from
/// somebody on the way.
fn error(random: &mut Random, world: &World) -> Packet {
    let (one, other) = flow(random, world);
    let (receiver, sender) = if random.percent(97) { (one, other) } else { (other, one) };
    let is_ipv6 = sender.address.is_ipv6();
    let from = if random.percent(50) { receiver.address } else { client(random, is_ipv6).address };
    let to = if random.percent(96) { sender.address } else { client(random, is_ipv6).address };
    let length = random.below(60);
    let data = raw(random.bytes(length));
    let l4 = match sender.protocol {
        PROTO_TCP => Packet::from(tcp_header(random, sender.port, receiver.port)),
        _ => Packet::from(udp_header(random, sender.port, receiver.port)),
    };
    let header = if sender.protocol == PROTO_TCP { 20 } else { 8 };
    let (quoted, least) = match (sender.address, receiver.address) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let ip =
                if random.percent(30) { ipv4_header(random, ipv4(s, d), 20 + header + length) } else { ipv4(s, d) };
            (Packet::from(ip) / l4 / data, 28)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let ip = if random.percent(40) { ipv6_header(random, ipv6(s, d), header + length) } else { ipv6(s, d) };
            (Packet::from(ip) / l4 / data, 48)
        }
        _ => unreachable!("both ends are of one family"),
    };
    let mut quoted = quoted.bytes();
    // The eight bytes that have to be there, a little more or less, or all.
    let whole = quoted.len();
    let around = random.between(least - 4, least + 24);
    quoted.truncate(random.weighted(&[(40, least), (40, around), (20, whole)]));
    let code = random.below(5) as u8;
    let link = link(random);
    match (from, to) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let kind = random.weighted(&[(60, 3), (20, 11), (10, 12), (4, 5), (4, 4), (2, 0)]);
            let message = message(random, icmp(kind, code));
            link / ipv4_header(random, ipv4(s, d), 28 + quoted.len()) / message / raw(quoted)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let kind = random.weighted(&[(30, 1), (40, 2), (20, 3), (10, 4), (3, 5), (2, 0)]);
            let message = message(random, icmpv6(kind, code));
            link / ipv6_header(random, ipv6(s, d), 8 + quoted.len()) / message / raw(quoted)
        }
        _ => unreachable!("both ends are of one family"),
    }
}

/// Packets without ports.
fn others(random: &mut Random) -> Packet {
    let link = link(random);
    let is_ipv6 = random.percent(50);
    let (source, destination) = (client(random, is_ipv6).address, random.pick(&of_family(&VIPS, is_ipv6)));
    let length = random.below(64);
    let data = random.bytes(length);
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => match random.below(4) {
            0 => link / arp(Mac::local(1), s, d),
            1 => {
                let message: Icmp = icmp(random.pick(&[0, 3, 8, 11]), random.byte() & 0x0f);
                link / ipv4(s, d) / message / raw(data)
            }
            2 => link / ipv4(s, d) / ipv4(d, s) / udp(random.pick(&PORTS), random.pick(&PORTS)) / raw(data),
            _ => link / ipv4(s, d).protocol(random.pick(&[2, 41, 47, 50, 132, 255])) / raw(data),
        },
        (IpAddr::V6(s), IpAddr::V6(d)) => match random.below(3) {
            0 => link / ipv6(s, d).hop_limit(255) / icmpv6(random.pick(&[1, 2, 128, 135, 136]), 0) / raw(data),
            1 => link / ipv6(s, d) / ipv6(d, s) / udp(random.pick(&PORTS), random.pick(&PORTS)) / raw(data),
            _ => link / ipv6(s, d).next_header(random.pick(&[4, 47, 50, 59, 132, 255])) / raw(data),
        },
        _ => unreachable!("both ends are of one family"),
    }
}

/// The interface a packet comes in by.
pub fn ingress(random: &mut Random) -> u32 {
    random.weighted(&[(45, LAN), (30, DC), (19, WAN), (6, OFF)])
}
