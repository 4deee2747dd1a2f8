//! What is not for a VIP, or in no tunnel that Sluice would send.

use std::net::Ipv6Addr;

use super::super::super::world::{CLIENT4, CLIENT6, DC, T1, VIP4, backend6};
use super::super::super::{Case, Sweep, case};
use super::super::outer4;
use super::{FAMILIES, GRE, Tunnel, UDP, V4, V6, from_sluice};
use crate::packet::{Extension, Packet, ipv4, ipv6, raw, tcp, udp};

pub fn cases() -> Vec<Case> {
    [unlisted(), untunnelled(), outer_headers(), inner_headers(), lengths(), ports()].concat()
}

fn unlisted() -> Vec<Case> {
    let mut cases = Vec::new();
    for (inner, outer, families) in FAMILIES {
        for tunnel in Tunnel::plain(inner) {
            cases.push(
                case(format!(
                    "decap, {families} by {}: a packet for an unlisted address is not unwrapped",
                    tunnel.name
                ))
                .enters(DC, tunnel.around(outer, 0, inner.unlisted()))
                .unlisted(),
            );
        }
    }
    let [octet0, octet1, octet2, octet3] = VIP4.octets().map(u16::from);
    let alike = Ipv6Addr::new(octet0 << 8 | octet1, octet2 << 8 | octet3, 0, 0, 0, 0, 0, 0);
    cases.extend([
        case("decap: the inner source does not make a packet listed")
            .enters(DC, from_sluice() / outer4(T1, 0) / ipv4(VIP4, CLIENT4) / tcp(444, 40_000))
            .unlisted(),
        case("decap: an IPv6 address that begins like a listed IPv4 address is another one")
            .enters(DC, from_sluice() / outer4(T1, 0) / ipv6(CLIENT6, alike) / tcp(40_000, 444))
            .unlisted(),
    ]);
    cases
}

fn untunnelled() -> Vec<Case> {
    let protocols = [("TCP", 6), ("ESP", 50), ("Ethernet in IP", 143)];
    let mut cases = Vec::new();
    for (outer, ip) in [(V4, "IPv4"), (V6, "IPv6")] {
        cases.push(
            case(format!("decap: a packet for the VIP that is in no tunnel is the host's, {ip}"))
                .enters(DC, from_sluice() / outer.inner(0))
                .ignored(),
        );
        for (name, protocol) in protocols {
            cases.push(
                case(format!("decap: what {name} over {ip} carries is the host's"))
                    .enters(DC, from_sluice() / outer.outer(protocol, 0) / V4.inner(0))
                    .ignored(),
            );
        }
    }
    cases
}

/// Options, fragments and extension headers, which Sluice does not write, and VLANs.
fn outer_headers() -> Vec<Case> {
    let mut cases = Vec::new();
    for tunnel in Tunnel::plain(V4) {
        let name = tunnel.name;
        let ip = || outer4(T1, 0).protocol(tunnel.protocol);
        for (what, header) in [
            ("an outer header with options", ip().options(&[0x94, 4, 0, 0])),
            ("a first fragment of the outer packet", ip().fragment(0, true)),
            ("a later fragment of the outer packet", ip().fragment(1480, false)),
            ("an outer header of another IP version", ip().with(|ip| ip.version = 6)),
        ] {
            cases.push(
                case(format!("decap by {name}: {what} is left to the host"))
                    .enters(DC, tunnel.below(V4, header, V4.inner(0)))
                    .ignored(),
            );
        }
        let ip = || ipv6(CLIENT6, backend6(T1)).next_header(tunnel.protocol);
        for (what, extension) in [
            ("an outer extension header", Extension::destination_options(6)),
            ("an outer fragment header", Extension::Fragment { offset: 0, more: false, identification: 7 }),
        ] {
            cases.push(
                case(format!("decap by {name}: {what} is left to the host"))
                    .enters(DC, tunnel.below(V6, ip().extension(extension), V4.inner(0)))
                    .ignored(),
            );
        }
    }
    let tagged = from_sluice().vlan(7) / outer4(T1, 0) / V4.inner(0);
    cases.push(case("decap: a tunnel in a VLAN is left to the host").enters(DC, tagged).ignored());
    cases
}

/// Headers in between that ask for more than to be taken off, each by its bytes.
fn inner_headers() -> Vec<Case> {
    let frame = |ethertype: &[u8]| [&[2, 0, 0, 0, 0xee, 1, 2, 0, 0, 0, 0xee, 2][..], ethertype].concat();
    let (plain, tagged) = (frame(&[0x08, 0]), frame(&[0x81, 0, 0, 7, 0x08, 0]));
    let gre = |name, bytes: &[u8]| Tunnel::new(name, GRE, None, &[bytes]);
    let gue = |name, bytes: &[u8]| Tunnel::new(name, UDP, Some(6080), &[bytes]);
    let vxlan = |name, bytes: &[u8], frame: &[u8]| Tunnel::new(name, UDP, Some(4789), &[bytes, &[0, 0, 42, 0], frame]);
    let geneve = |name, bytes: &[u8], rest: &[u8]| Tunnel::new(name, UDP, Some(6081), &[bytes, &[0, 0, 42, 0], rest]);
    let tunnels = [
        // RFC 2784 §2.1, RFC 2890 §2.
        gre("GRE with a checksum", &[0x80, 0, 8, 0, 0xff, 0xff, 0, 0]),
        gre("GRE with a key", &[0x20, 0, 8, 0, 0, 0, 0, 42]),
        gre("GRE with a sequence number", &[0x10, 0, 8, 0, 0, 0, 0, 1]),
        gre("GRE with a reserved bit", &[0x04, 0, 8, 0]),
        gre("GRE of version 1", &[0, 1, 8, 0]),
        gre("GRE with an Ethernet frame", &[&[0, 0, 0x65, 0x58][..], &plain].concat()),
        gre("GRE with MPLS", &[0, 0, 0x88, 0x47]),
        // draft-ietf-intarea-gue §3.2.
        gue("GUE with a control message", &[0x20, 4, 0, 0]),
        gue("GUE with private fields", &[0x01, 4, 0, 1, 0, 0, 0, 42]),
        gue("GUE with a longer header", &[0x01, 4, 0, 0, 0, 0, 0, 0]),
        gue("GUE with private flags", &[0, 4, 0, 1]),
        gue("GUE with flags of a group", &[0, 4, 0x80, 0]),
        gue("GUE with TCP", &[0, 6, 0, 0]),
        gue("GUE with GRE", &[0, 47, 0, 0, 0, 0, 8, 0]),
        gue("GUE of variant 1 and IP version 5", &[0x50, 0, 0, 0]),
        gue("GUE of variant 1 and IP version 7", &[0x70, 0, 0, 0]),
        gue("GUE of variant 2", &[0x80, 4, 0, 0]),
        gue("GUE of variant 3", &[0xc0, 4, 0, 0]),
        // RFC 7348 §5.
        vxlan("VXLAN without the I flag", &[0, 0, 0, 0], &plain),
        vxlan("VXLAN with a group policy", &[0x88, 0, 0, 1], &plain),
        vxlan("VXLAN with another protocol", &[0x0c, 0, 0, 1], &[]),
        vxlan("VXLAN with a tagged frame", &[8, 0, 0, 0], &tagged),
        vxlan("VXLAN with ARP", &[8, 0, 0, 0], &frame(&[0x08, 6])),
        vxlan("VXLAN with IP and no frame", &[8, 0, 0, 0], &[]),
        // RFC 8926 §3.4.
        geneve("Geneve of version 1", &[0x40, 0, 8, 0], &[]),
        geneve("Geneve with options", &[1, 0, 8, 0], &[1, 2, 3, 0]),
        geneve("Geneve of a control packet", &[0, 0x80, 8, 0], &[]),
        geneve("Geneve with critical options", &[1, 0x40, 8, 0], &[1, 2, 0x83, 0]),
        geneve("Geneve with the C bit alone", &[0, 0x40, 8, 0], &[]),
        geneve("Geneve with options before a frame", &[1, 0, 0x65, 0x58], &[&[1, 2, 3, 0][..], &plain].concat()),
        geneve("Geneve with a tagged frame", &[0, 0, 0x65, 0x58], &tagged),
        geneve("Geneve with ARP", &[0, 0, 0x65, 0x58], &frame(&[0x08, 6])),
        geneve("Geneve with MPLS", &[0, 0, 0x88, 0x47], &[]),
    ];
    let mut cases = Vec::new();
    for tunnel in tunnels {
        for (outer, ip) in [(V4, "IPv4"), (V6, "IPv6")] {
            cases.push(
                case(format!("decap: {} over {ip} is left to the host", tunnel.name))
                    .enters(DC, tunnel.around(outer, 0, V4.inner(0)))
                    .ignored(),
            );
        }
    }
    cases
}

/// A UDP length that is not what the IP header says.
fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for outer in [V4, V6] {
        for tunnel in Tunnel::plain(V6).into_iter().filter(|tunnel| tunnel.protocol == UDP) {
            let (name, ip) = (tunnel.name, if outer == V4 { "IPv4" } else { "IPv6" });
            let payload = Packet::from(tunnel.header.clone()) / V6.inner(0);
            let right = (8 + payload.bytes().len()) as u16;
            for (what, length) in [("short", right - 1), ("long", right + 1), ("nothing", 0)] {
                let udp = udp(0xc123, tunnel.port.unwrap_or(0)).length(length);
                cases.push(
                    case(format!("decap by {name} over {ip}: a UDP length that is {what} is left to the host"))
                        .enters(DC, from_sluice() / outer.outer(UDP, 0) / udp / payload.clone())
                        .ignored(),
                );
            }
        }
    }
    // 19 bytes less a header of 20 are no length: not 65,535 either.
    let udp = udp(0xc123, 6080).length(0xffff);
    cases.push(
        case("decap: a total length that is shorter than its own header agrees with no UDP length")
            .enters(DC, from_sluice() / outer4(T1, 0).protocol(UDP).total_length(19) / udp / V4.inner(0))
            .ignored(),
    );
    cases
}

/// What is one kind of tunnel on its own port is nothing on others.
fn ports() -> Vec<Case> {
    let mut cases = Vec::new();
    for tunnel in Tunnel::plain(V4) {
        let Some(right) = tunnel.port else { continue };
        for port in [6079, 6080, 6081, 6082, 4788, 4789, 4790, 53] {
            if port == right {
                continue;
            }
            let name = tunnel.name;
            let tunnel = Tunnel { port: Some(port), ..tunnel.clone() };
            cases.push(
                case(format!("decap by {name}: on port {port} it is left to the host"))
                    .enters(DC, tunnel.around(V4, 0, V4.inner(0)))
                    .ignored(),
            );
        }
        let back = udp(right, 0xc123).checksum(0);
        cases.push(
            case(format!("decap by {}: the source port does not tell", tunnel.name))
                .enters(
                    DC,
                    from_sluice() / outer4(T1, 0).protocol(UDP) / back / raw(tunnel.header.clone()) / V4.inner(0),
                )
                .ignored(),
        );
    }
    cases
}

/// Every kind cut after every byte: left alone until the inner IP header is whole, unwrapped from there on.
pub fn sweeps() -> Vec<Sweep> {
    let mut sweeps = Vec::new();
    for (inner, outer, families) in FAMILIES {
        for tunnel in Tunnel::plain(inner) {
            let name = tunnel.name;
            let whole = tunnel.around(outer, 0, inner.inner(0)).bytes();
            let bare = (from_sluice() / inner.inner(0)).bytes();
            let (around, header) = (whole.len() - bare.len(), if inner == V4 { 20 } else { 40 });
            let cut = |length: usize| {
                let case = case(format!("after {length} bytes")).enters_as_bytes(DC, whole[..length].to_vec());
                match length.checked_sub(around) {
                    Some(left) if left >= 14 + header => case.unwrapped(bare[..left].to_vec()),
                    _ => case.ignored(),
                }
            };
            sweeps.push(Sweep {
                name: format!(
                    "decap, {families} by {name}: cut anywhere, it is unwrapped if its inner header is whole"
                ),
                cases: (14..=whole.len()).map(cut).collect(),
            });
        }
    }
    sweeps
}

/// On the usual ports, and of another network than the one that was named.
pub fn elsewhere() -> Vec<Case> {
    let mut cases = Vec::new();
    for tunnel in Tunnel::plain(V4).into_iter().filter(|tunnel| tunnel.port.is_some()) {
        cases.push(
            case(format!("decap elsewhere, {}: on the usual port it is left to the host", tunnel.name))
                .enters(DC, tunnel.around(V4, 0, V4.inner(0)))
                .ignored(),
        );
    }
    for (name, port) in [("VXLAN", 8472), ("Geneve", 6082), ("Geneve with Ethernet", 6082)] {
        for byte in 4..7 {
            let mut tunnel = Tunnel { port: Some(port), ..Tunnel::named(name, V4) };
            tunnel.header[byte] ^= 0x40;
            cases.push(
                case(format!(
                    "decap elsewhere, {name}: of a network that differs in byte {byte} it is left to the host"
                ))
                .enters(DC, tunnel.around(V4, 0, V4.inner(0)))
                .ignored(),
            );
        }
    }
    cases
}
