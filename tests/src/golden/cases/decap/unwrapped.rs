//! What is for a VIP, in every kind of tunnel.

use super::super::super::world::{CLIENT4, DC, VIP4};
use super::super::super::{Case, case};
use super::{FAMILIES, Tunnel, UDP, V4, V6, from_sluice};
use crate::packet::{ipv4, raw, udp};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (inner, outer, families) in FAMILIES {
        for tunnel in Tunnel::plain(inner) {
            let name = tunnel.name;
            cases.push(
                case(format!(
                    "decap, {families} by {name}: the inner packet arrives as the client sent it, less one hop"
                ))
                .enters(DC, tunnel.around(outer, 0, inner.inner(0)))
                .unwrapped(from_sluice() / inner.inner(0)),
            );
        }
    }
    cases.extend(checksums());
    cases.extend(reserved());
    let [ip, ..] = Tunnel::plain(V4);
    let odd = || ipv4(CLIENT4, VIP4).options(&[7, 3, 4]) / udp(1, 2).checksum(0x1234);
    let fragment = || ipv4(CLIENT4, VIP4).fragment(1480, false).protocol(UDP) / raw([1; 32]);
    cases.extend([
        case("decap, 4in4: inner options and odd checksums are none of its business")
            .enters(DC, ip.around(V4, 0, odd()))
            .unwrapped(from_sluice() / odd()),
        case("decap, 4in4: a fragment inside is unwrapped, since the host can put it together")
            .enters(DC, ip.around(V4, 0, fragment()))
            .unwrapped(from_sluice() / fragment()),
    ]);
    for name in ["IP in IP", "VXLAN"] {
        cases.push(
            case(format!("decap by {name}: Ethernet padding stays behind the packet"))
                .enters(DC, Tunnel::named(name, V4).around(V4, 0, V4.inner(0)).trailer(&[0xa5; 6]))
                .unwrapped((from_sluice() / V4.inner(0)).trailer(&[0xa5; 6])),
        );
    }
    cases
}

/// Tunnels over UDP may go without a checksum, also over IPv6 (RFC 6935 §5).
fn checksums() -> Vec<Case> {
    let mut cases = Vec::new();
    for outer in [V4, V6] {
        for (what, checksum) in [("no", Some(0)), ("the right", None), ("a wrong", Some(0x1234))] {
            let mut udp = udp(0xc123, 4789);
            udp.checksum = checksum;
            let Tunnel { header, .. } = Tunnel::named("VXLAN", V4);
            let frame = from_sluice() / outer.outer(UDP, 0) / udp / raw(header) / V4.inner(0);
            let over = if outer == V4 { "IPv4" } else { "IPv6" };
            cases.push(
                case(format!("decap: UDP over {over} with {what} checksum is unwrapped"))
                    .enters(DC, frame)
                    .unwrapped(from_sluice() / V4.inner(0)),
            );
        }
    }
    cases
}

/// Receivers ignore what is reserved (RFC 7348 §5, RFC 8926 §3.4).
fn reserved() -> Vec<Case> {
    let fields = [("VXLAN", 1), ("VXLAN", 3), ("VXLAN", 7), ("Geneve", 7), ("Geneve with Ethernet", 7)];
    let whole = fields.map(|(name, byte)| (name, byte, 0xff));
    let cases = whole.into_iter().chain([("Geneve", 1, 0x3f), ("Geneve with Ethernet", 1, 0x3f)]);
    let cases = cases.map(|(name, byte, bits)| {
        let mut tunnel = Tunnel::named(name, V4);
        tunnel.header[byte] |= bits;
        case(format!("decap by {name}: reserved bits in byte {byte} are ignored"))
            .enters(DC, tunnel.around(V4, 0, V4.inner(0)))
            .unwrapped(from_sluice() / V4.inner(0))
    });
    cases.collect()
}

/// On other ports, and of one network, which is that of the plain tunnels.
pub fn elsewhere() -> Vec<Case> {
    let mut cases = Vec::new();
    for inner in [V4, V6] {
        for tunnel in Tunnel::plain(inner) {
            let port = tunnel.port.map(|port| match port {
                6080 => 5555,
                4789 => 8472,
                _ => 6082,
            });
            let tunnel = Tunnel { port, ..tunnel };
            let (name, ip) = (tunnel.name, if inner == V4 { "IPv4" } else { "IPv6" });
            cases.push(
                case(format!("decap elsewhere, {ip} by {name}: ports and network are those that were named"))
                    .enters(DC, tunnel.around(V6, 0, inner.inner(0)))
                    .unwrapped(from_sluice() / inner.inner(0)),
            );
        }
    }
    cases
}
