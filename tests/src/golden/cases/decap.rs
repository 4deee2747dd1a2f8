//! The decapsulator on backend hosts: the outer header goes, if the inner packet is for a listed VIP; everything
//! else is the host's, untouched.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::world::{B1_MAC, CLIENT4, CLIENT6, DC, DC_MAC, T1, VIP4, VIP6, backend4, backend6};
use super::super::{Case, case};
use super::{outer4, outer6};
use crate::packet::{Ethernet, Extension, ethernet, ipv4, ipv6, raw, tcp, udp};

/// What the decapsulator in these cases was told to unwrap.
pub const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];

/// Neither VIP nor known to anybody.
const OTHER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x11);

/// The Ethernet header of what Sluice sends.
fn from_sluice() -> Ethernet {
    ethernet(DC_MAC, B1_MAC)
}

pub fn cases() -> Vec<Case> {
    [unwrapped(), congestion(), left_alone()].concat()
}

fn unwrapped() -> Vec<Case> {
    let inner4 = || ipv4(CLIENT4, VIP4).ttl(63) / tcp(40_000, 444) / "hello";
    let inner6 = || ipv6(CLIENT6, VIP6).hop_limit(63) / udp(40_000, 444) / "hello";
    vec![
        case("decap, 4in4: the inner packet arrives as the client sent it, less one hop")
            .enters(DC, from_sluice() / outer4(T1, 0) / inner4())
            .unwrapped(from_sluice() / inner4()),
        case("decap, 6in6: the inner packet arrives as the client sent it, less one hop")
            .enters(DC, from_sluice() / outer6(T1, 0, 0x12345) / inner6())
            .unwrapped(from_sluice() / inner6()),
        case("decap, 4in4: inner options and odd checksums are none of its business")
            .enters(
                DC,
                from_sluice() / outer4(T1, 0) / ipv4(CLIENT4, VIP4).options(&[7, 3, 4]) / udp(1, 2).checksum(0x1234),
            )
            .unwrapped(from_sluice() / ipv4(CLIENT4, VIP4).options(&[7, 3, 4]) / udp(1, 2).checksum(0x1234)),
        case("decap, 4in4: a fragment inside is unwrapped, since the host can put it together")
            .enters(
                DC,
                from_sluice() / outer4(T1, 0) / ipv4(CLIENT4, VIP4).fragment(1480, false).protocol(17) / raw([1; 32]),
            )
            .unwrapped(from_sluice() / ipv4(CLIENT4, VIP4).fragment(1480, false).protocol(17) / raw([1; 32])),
        case("decap: Ethernet padding stays behind the packet")
            .enters(DC, (from_sluice() / outer4(T1, 0) / inner4()).trailer(&[0xa5; 6]))
            .unwrapped((from_sluice() / inner4()).trailer(&[0xa5; 6])),
    ]
}

/// The ECN field after the outer header is gone: RFC 6040 §4.2, figure 4, row by row.
fn congestion() -> Vec<Case> {
    let names = ["not ECN capable", "ECT(1)", "ECT(0)", "CE"];
    // By inner field: what comes of it with an outer field of Not-ECT, ECT(1), ECT(0), CE. `None` is not unwrapped.
    let table: [(u8, [Option<u8>; 4]); 4] = [
        (0, [Some(0), Some(0), Some(0), None]),
        (1, [Some(1), Some(1), Some(1), Some(3)]),
        (2, [Some(2), Some(1), Some(2), Some(3)]),
        (3, [Some(3), Some(3), Some(3), Some(3)]),
    ];
    let mut cases = Vec::new();
    for (inner, results) in table {
        for (outer, result) in (0u8..).zip(results) {
            // With the DSCP above them, which stays the client's.
            let name = format!("{} outside, {} inside", names[usize::from(outer)], names[usize::from(inner)]);
            let inner4 = |ecn| ipv4(CLIENT4, VIP4).tos(0xb8 | ecn) / tcp(40_000, 444) / "hello";
            let inner6 = |ecn| ipv6(CLIENT6, VIP6).traffic_class(0xb8 | ecn) / tcp(40_000, 444) / "hello";
            let four = case(format!("decap, 4in4: {name}"))
                .enters(DC, from_sluice() / outer4(T1, 0x28 | outer) / inner4(inner));
            let six = case(format!("decap, 6in6: {name}"))
                .enters(DC, from_sluice() / outer6(T1, 0x28 | outer, 0x12345) / inner6(inner));
            match result {
                Some(ecn) => {
                    cases.push(four.unwrapped(from_sluice() / inner4(ecn)));
                    cases.push(six.unwrapped(from_sluice() / inner6(ecn)));
                }
                None => cases.extend([four.ignored(), six.ignored()]),
            }
        }
    }
    cases
}

fn left_alone() -> Vec<Case> {
    let inner4 = || ipv4(CLIENT4, VIP4) / tcp(40_000, 444);
    let inner6 = || ipv6(CLIENT6, VIP6) / tcp(40_000, 444);
    vec![
        case("decap, 4in4: a packet for an unlisted address is not unwrapped")
            .enters(DC, from_sluice() / outer4(T1, 0) / ipv4(CLIENT4, OTHER4) / tcp(40_000, 444))
            .unlisted(),
        case("decap, 6in6: a packet for an unlisted address is not unwrapped")
            .enters(DC, from_sluice() / outer6(T1, 0, 0) / ipv6(CLIENT6, OTHER6) / tcp(40_000, 444))
            .unlisted(),
        case("decap: the inner source does not make a packet listed")
            .enters(DC, from_sluice() / outer4(T1, 0) / ipv4(VIP4, CLIENT4) / tcp(444, 40_000))
            .unlisted(),
        case("decap: a packet for the VIP that is in no tunnel is the host's")
            .enters(DC, from_sluice() / inner4())
            .ignored(),
        case("decap: 6in4 is somebody else's tunnel").enters(DC, from_sluice() / outer4(T1, 0) / inner6()).ignored(),
        case("decap: 4in6 is somebody else's tunnel").enters(DC, from_sluice() / outer6(T1, 0, 0) / inner4()).ignored(),
        case("decap: GRE is somebody else's tunnel")
            .enters(DC, from_sluice() / outer4(T1, 0).protocol(47) / raw([0, 0, 8, 0]) / inner4())
            .ignored(),
        case("decap, 4in4: an outer header with options is left to the host")
            .enters(DC, from_sluice() / outer4(T1, 0).options(&[0x94, 4, 0, 0]) / inner4())
            .ignored(),
        case("decap, 4in4: a first fragment of the outer packet is left to the host")
            .enters(DC, from_sluice() / outer4(T1, 0).fragment(0, true) / inner4())
            .ignored(),
        case("decap, 4in4: a later fragment of the outer packet is left to the host")
            .enters(DC, from_sluice() / ipv4(CLIENT4, backend4(T1)).fragment(1480, false) / inner4())
            .ignored(),
        case("decap, 6in6: an outer extension header is left to the host")
            .enters(
                DC,
                from_sluice() / ipv6(CLIENT6, backend6(T1)).extension(Extension::destination_options(6)) / inner6(),
            )
            .ignored(),
        case("decap: a tunnel in a VLAN is left to the host")
            .enters(DC, from_sluice().vlan(7) / outer4(T1, 0) / inner4())
            .ignored(),
        case("decap, 4in4: a frame that ends inside the inner header is left to the host")
            .enters_as_bytes(DC, (from_sluice() / outer4(T1, 0) / inner4()).bytes()[..14 + 20 + 19].to_vec())
            .ignored(),
        case("decap, 6in6: a frame that ends inside the inner header is left to the host")
            .enters_as_bytes(DC, (from_sluice() / outer6(T1, 0, 0) / inner6()).bytes()[..14 + 40 + 39].to_vec())
            .ignored(),
        case("decap: a frame that ends inside the outer header is left to the host")
            .enters_as_bytes(DC, (from_sluice() / outer4(T1, 0) / inner4()).bytes()[..14 + 19].to_vec())
            .ignored(),
    ]
}
