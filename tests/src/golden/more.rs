//! What one packet in a table cannot show: settings, events, the clock, and real wires.

use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use lb_common::counters::DropReason;
use lb_common::event::EVENT_WANT_NEIGHBOUR;

use sluice::model::Packets;

use super::cases::{outer4, outer6};
use super::oracle::{hash4, hash6};
use super::world::*;
use super::{Case, Expect, case, flows};
use crate::packet::{Extension, decode, ethernet, icmp, ipv4, ipv6, raw, tcp, udp};
use crate::progrun::wire::Wire;
use crate::progrun::{Program, Settings, Verdict};

type Test = fn(&mut World) -> Result<()>;

pub const TESTS: [(&str, Test); 10] = [
    ("every combination of load-time settings passes the verifier", every_setting_loads),
    ("what a setting switches off passes untouched", switched_off),
    ("tunnel sources vary with the flow inside the mask", tunnel_sources_vary),
    ("a missing neighbour is told to the controller, once per packet and by address", missing_neighbours_are_told),
    ("whoever waits for events is woken", events_wake),
    ("events are limited to 64 per second", events_are_limited),
    ("seconds are those of the kernel's monotonic clock", seconds_are_the_kernel_s),
    ("every packet is logged once where that is switched on, and none elsewhere", packets_are_logged),
    ("an unreachable client tells the controller nothing", no_route_is_no_event),
    ("what is sent arrives at the other end of the right wire", arrives_on_the_wire),
];

fn every_setting_loads(_: &mut World) -> Result<()> {
    // All ways to forward or none, with whatever else there is in every combination; each alone, with all or none of it.
    let every = [0, 0x7f].into_iter().flat_map(|ways| (0..64).map(move |rest| (ways, rest)));
    let alone = (0..7).flat_map(|way| [(1 << way, 0b00_0011), (1 << way, 0b11_1111)]);
    for (ways, rest) in every.chain(alone) {
        let on = |bit: u32| rest >> bit & 1 == 1;
        let way = |bit: u32| ways >> bit & 1 == 1;
        let settings = Settings {
            ipv4: on(0),
            ipv6: on(1),
            nat: way(0),
            ipip: way(1) || way(2),
            crossing: way(2),
            dsr_l2: way(3),
            gre: way(4),
            gue: way(5),
            overlay: way(6),
            log: on(2),
            test_clock: on(3),
            tracking: on(4),
            packets: if on(2) { Packets::ALL } else { Packets::default() },
            wildcards: on(5),
            tunnel_source_mask4: if way(1) { u32::MAX } else { 0 },
            ..Settings::everything()
        };
        Program::load(&settings).with_context(|| format!("with {settings:?}"))?;
    }
    Ok(())
}

/// A packet is dropped for this reason by a program that something is switched off in.
#[cfg(test)]
pub fn shows(reason: DropReason) -> bool {
    let counter = format!(" drops {}", reason.name());
    without().iter().flat_map(|(_, cases)| cases).any(|case| case.counts.0.keys().any(|name| name.ends_with(&counter)))
}

fn switched_off(_: &mut World) -> Result<()> {
    for (settings, cases) in without() {
        let mut world = World::new(&settings)?;
        for case in cases {
            case.run(&mut world).with_context(|| case.name.clone())?;
        }
    }
    Ok(())
}

/// Settings with something switched off, and what must come of it.
fn without() -> [(Settings, Vec<Case>); 9] {
    let on = Settings::everything;
    let from_router = || ethernet(ROUTER_MAC, LAN_MAC);
    let service4 = || from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 443);
    let service6 = || from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 443);
    let reply4 = || ethernet(B1_MAC, DC_MAC) / ipv4(backend4(B1), CLIENT4) / tcp(443, 40_000);
    let reply6 = || ethernet(B1_MAC, DC_MAC) / ipv6(backend6(B1), CLIENT6) / tcp(443, 40_000);
    let forwarded4 = || {
        case("IPv4 still works")
            .enters(LAN, service4())
            .leaves(DC, ethernet(DC_MAC, B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / tcp(40_000, 443))
            .forwarded(WEB.id, B1)
    };
    let forwarded6 = || {
        case("IPv6 still works")
            .enters(LAN, service6())
            .leaves(DC, ethernet(DC_MAC, B1_MAC) / ipv6(CLIENT6, backend6(B1)).hop_limit(63) / tcp(40_000, 443))
            .forwarded(WEB.id + ID6, B1 + V6)
    };
    let less = |change: fn(&mut Packets)| {
        let mut packets = Packets::ALL;
        change(&mut packets);
        Settings { packets, ..on() }
    };
    let part = |offset, more| ipv4(CLIENT4, VIP4).fragment(offset, more).protocol(17);
    let asks = || from_router() / ipv4(CLIENT4, VIP4) / icmp(8, 0) / "ping";
    let error = || {
        let mut quoted = (ipv4(VIP4, CLIENT4) / tcp(443, 40_000)).bytes();
        quoted.truncate(28);
        from_router() / ipv4(CLIENT4, VIP4) / icmp(3, 1) / raw(quoted)
    };
    let behind_options = || from_router() / ipv6(CLIENT6, VIP6).extension(Extension::hop_by_hop()) / tcp(40_000, 443);
    let too_big = || from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 9008) / vec![0x5a; NARROW_MTU];
    [
        (
            Settings { ipv4: false, ..on() },
            vec![
                case("without IPv4 a service's packet passes").enters(LAN, service4()),
                case("without IPv4 a reply passes").enters(DC, reply4()),
                forwarded6(),
            ],
        ),
        (
            Settings { ipv6: false, ..on() },
            vec![
                case("without IPv6 a service's packet passes").enters(LAN, service6()),
                case("without IPv6 a reply passes").enters(DC, reply6()),
                forwarded4(),
            ],
        ),
        (
            Settings { nat: false, ..on() },
            vec![
                case("without NAT nobody looks for replies").enters(DC, reply4()),
                case("without NAT nobody looks for IPv6 replies").enters(DC, reply6()),
            ],
        ),
        (
            less(|packets| packets.vlan = false),
            vec![
                case("without VLANs a tagged packet passes")
                    .enters(LAN, from_router().vlan(7) / ipv4(CLIENT4, VIP4) / tcp(40_000, 443)),
                forwarded4(),
            ],
        ),
        (
            less(|packets| packets.extensions = false),
            vec![case("without extension headers their packets pass").enters(LAN, behind_options()), forwarded6()],
        ),
        (
            less(|packets| packets.fragments = false),
            vec![
                case("without fragments the first one drops as fragment")
                    .enters(LAN, from_router() / part(0, true) / udp(40_000, 53).checksum(1) / vec![1; 1440])
                    .dropped(DNS.id, DropReason::Fragment),
                case("without fragments a later one passes")
                    .enters(LAN, from_router() / part(1448, false) / raw([7; 16])),
                forwarded4(),
            ],
        ),
        (
            less(|packets| packets.icmp = false),
            vec![case("without ICMP an error about a service's packet passes").enters(LAN, error()), forwarded4()],
        ),
        (
            less(|packets| packets.echo = false),
            vec![case("without echo a request for the VIP passes").enters(LAN, asks()), forwarded4()],
        ),
        (
            less(|packets| packets.too_big = false),
            vec![
                case("without answers who sends too much is not told")
                    .enters(LAN, too_big())
                    .dropped(TIGHT.id + ID6, DropReason::TooBig),
                forwarded6(),
            ],
        ),
    ]
}

fn tunnel_sources_vary(_: &mut World) -> Result<()> {
    // 10.200.0.0 with 16 host bits, and the last 32 bits of the IPv6 source.
    let (mask4, mask6) = (u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::MAX);
    let settings = Settings { tunnel_source_mask4: mask4, tunnel_source_mask6: mask6, ..Settings::everything() };
    let mut world = World::new(&settings)?;
    let mut sources = std::collections::BTreeSet::new();
    for client in 40_000..40_032 {
        let hash = hash4(&world.key, (CLIENT4, client), (VIP4, 444));
        let [a, b, c, d] = (u32::from_ne_bytes(TUNNEL_SOURCE4.octets()) | (hash & mask4)).to_ne_bytes();
        let inner = |ttl| ipv4(CLIENT4, VIP4).ttl(ttl) / udp(client, 444);
        let outer = ipv4([a, b, c, d].into(), backend4(T1)).identification(0).dont_fragment();
        sources.insert([a, b, c, d]);
        case(format!("4in4 from port {client}"))
            .enters(LAN, ethernet(ROUTER_MAC, LAN_MAC) / inner(64))
            .leaves(DC, ethernet(DC_MAC, B1_MAC) / outer / inner(63))
            .forwarded(TUNNEL_UDP.id, T1)
            .run(&mut world)?;

        let hash = hash6(&world.key, (CLIENT6, client), (VIP6, 444));
        let mut source = TUNNEL_SOURCE6.octets();
        for (octet, byte) in source[12..].iter_mut().zip((hash & mask6).to_ne_bytes()) {
            *octet |= byte;
        }
        let inner = |limit| ipv6(CLIENT6, VIP6).hop_limit(limit) / udp(client, 444);
        let outer = ipv6(source.into(), backend6(T1)).flow_label(hash & 0xf_ffff);
        case(format!("6in6 from port {client}"))
            .enters(LAN, ethernet(ROUTER_MAC, LAN_MAC) / inner(64))
            .leaves(DC, ethernet(DC_MAC, B1_MAC) / outer / inner(63))
            .forwarded(TUNNEL_UDP.id + ID6, T1 + V6)
            .run(&mut world)?;
    }
    ensure!(sources.len() > 28, "32 flows share {} sources", sources.len());
    Ok(())
}

fn missing_neighbours_are_told(world: &mut World) -> Result<()> {
    world.program.set_clock(1_000)?;
    world.program.events()?;
    let v4 = ethernet(ROUTER_MAC, LAN_MAC) / ipv4(CLIENT4, VIP4) / tcp(40_000, WAITING.port);
    world.program.run(&v4.bytes(), LAN)?;
    let v6 = ethernet(ROUTER_MAC, LAN_MAC) / ipv6(CLIENT6, VIP6) / tcp(40_000, WAITING.port);
    world.program.run(&v6.bytes(), LAN)?;
    let events = world.program.events()?;
    ensure!(events.len() == 2, "two packets, {events:?}");
    let word = u32::from_ne_bytes(backend4(SILENT).octets());
    for (event, family, addr) in
        [(events[0], 4, [word, 0, 0, 0]), (events[1], 6, lb_common::addr::words6(backend6(SILENT).octets()))]
    {
        ensure!(event.kind == EVENT_WANT_NEIGHBOUR && event.family == family, "{event:?}");
        ensure!(event.ifindex == DC && event.addr == addr && event.reserved == 0, "{event:?}");
    }
    Ok(())
}

fn events_wake(world: &mut World) -> Result<()> {
    world.program.set_clock(1_500)?;
    world.program.events()?;
    let ring = world.program.event_ring()?;
    let waiting = std::thread::spawn(move || {
        let mut wanted = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
        poll(&mut wanted, PollTimeout::from(2_000_u16))
    });
    // It should be waiting by now; a slow start makes the test lenient, not wrong.
    std::thread::sleep(Duration::from_millis(200));
    let packet = ethernet(ROUTER_MAC, LAN_MAC) / ipv4(CLIENT4, VIP4) / tcp(40_000, WAITING.port);
    world.program.run(&packet.bytes(), LAN)?;
    let woken = waiting.join().map_err(|_| anyhow!("the thread that waits panicked"))??;
    ensure!(woken == 1, "nobody was woken for two seconds");
    world.program.events()?;
    Ok(())
}

fn events_are_limited(world: &mut World) -> Result<()> {
    let packet = (ethernet(ROUTER_MAC, LAN_MAC) / ipv4(CLIENT4, VIP4) / tcp(40_000, WAITING.port)).bytes();
    // The budget is each CPU's own: stay on one.
    let cpu = nix::sched::sched_getcpu()?;
    let mut only = nix::sched::CpuSet::new();
    only.set(cpu)?;
    let before = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &only)?;
    let counts: Result<Vec<usize>> = [2_000, 2_001, 2_001]
        .into_iter()
        .map(|second| {
            world.program.set_clock(second)?;
            for _ in 0..100 {
                world.program.run(&packet, LAN)?;
            }
            Ok(world.program.events()?.len())
        })
        .collect();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &before)?;
    let counts = counts?;
    ensure!(counts == [64, 64, 0], "events in two seconds, and later in the second: {counts:?}");
    Ok(())
}

fn seconds_are_the_kernel_s(_: &mut World) -> Result<()> {
    let mut world = World::new(&Settings { test_clock: false, ..Settings::everything() })?;
    // Nobody looks at the test's clock.
    world.program.set_clock(u64::MAX)?;
    // A tick behind at most, as the program's is.
    let now = || -> Result<u64> {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)?;
        Ok(u64::try_from(now.tv_sec())?)
    };
    let packet = ethernet(ROUTER_MAC, LAN_MAC) / ipv4(CLIENT4, VIP4) / tcp(40_000, WAITING.port);
    let before = now()?;
    world.program.run(&packet.bytes(), LAN)?;
    let after = now()?;
    let budgets = world.program.budgets()?;
    let used: Vec<u64> = budgets.iter().filter(|[_, sent]| *sent == 1).map(|[second, _]| *second).collect();
    ensure!(
        matches!(used[..], [second] if (before..=after).contains(&second)),
        "between {before} and {after} one event was sent: {budgets:?}"
    );

    let before = now()?;
    let second = u64::from(flows::second_written(&mut world)?);
    let after = now()?;
    ensure!((before..=after).contains(&second), "between {before} and {after} a flow is written down in {second}");

    world.program.set_devices(&DEVICES)?;
    let first =
        ethernet(ROUTER_MAC, LAN_MAC) / ipv4(CLIENT4, VIP4).fragment(0, true) / tcp(40_000, WEB.port) / vec![1; 1444];
    let later = ethernet(ROUTER_MAC, LAN_MAC) / ipv4(CLIENT4, VIP4).fragment(1464, false).protocol(6) / vec![1; 64];
    for (what, frame) in [("first", first), ("later", later)] {
        let outcome = world.program.run(&frame.bytes(), LAN)?;
        ensure!(outcome.verdict == Verdict::Redirect, "the {what} fragment: {:?}", outcome.verdict);
    }
    Ok(())
}

fn packets_are_logged(_: &mut World) -> Result<()> {
    let packet = |port| (ethernet(ROUTER_MAC, LAN_MAC) / ipv4(CLIENT4, VIP4) / tcp(40_000, port)).bytes();
    for log in [false, true] {
        let mut world = World::new(&Settings { log, ..Settings::everything() })?;
        world.program.set_devices(&DEVICES)?;
        for (what, frame, verdict) in [
            ("forwarded", packet(WEB.port), Verdict::Redirect),
            ("dropped", packet(WAITING.port), Verdict::Drop),
            ("passed", packet(1), Verdict::Pass),
        ] {
            let outcome = world.program.run(&frame, LAN)?;
            ensure!(outcome.verdict == verdict, "{what}: {:?}", outcome.verdict);
            let records = world.program.logged()?;
            ensure!(records == usize::from(log), "log {log}: a packet that is {what} is logged {records} times");
        }
    }
    Ok(())
}

fn no_route_is_no_event(world: &mut World) -> Result<()> {
    world.program.set_clock(3_000)?;
    world.program.events()?;
    let packet = ethernet(ROUTER_MAC, LAN_MAC) / ipv4(CLIENT4, VIP4) / tcp(40_000, CUT_OFF.port);
    world.program.run(&packet.bytes(), LAN)?;
    let events = world.program.events()?;
    ensure!(events.is_empty(), "{events:?}");
    Ok(())
}

/// Test runs give a verdict and bytes; these frames are really sent, through the device map and the drivers.
fn arrives_on_the_wire(world: &mut World) -> Result<()> {
    world.program.set_devices(&DEVICES)?;
    let from_router = || ethernet(ROUTER_MAC, LAN_MAC);
    let from_b2 = || ethernet(B2_MAC, DC_MAC);
    let hash = hash6(&world.key, (CLIENT6, 40_000), (VIP6, 444));
    let cases = [
        case("NAT to another link")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 80) / "over the wire")
            .leaves(
                DC,
                ethernet(DC_MAC, B2_MAC) / ipv4(CLIENT4, backend4(B2)).ttl(63) / tcp(40_000, 8080) / "over the wire",
            ),
        case("NAT back to the same link")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 8443) / "over the wire")
            .leaves(
                LAN,
                ethernet(LAN_MAC, ARM_MAC)
                    / ipv6(CLIENT6, backend6(ARM)).hop_limit(63)
                    / udp(40_000, 8443)
                    / "over the wire",
            ),
        case("a reply")
            .enters(DC, from_b2() / ipv4(backend4(B2), NEAR_CLIENT4) / tcp(8080, 40_000) / "and back")
            .leaves(
                LAN,
                ethernet(LAN_MAC, NEAR_CLIENT_MAC) / ipv4(VIP4, NEAR_CLIENT4).ttl(63) / tcp(80, 40_000) / "and back",
            ),
        case("4in4").enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 444) / "in a tunnel").leaves(
            DC,
            ethernet(DC_MAC, B1_MAC) / outer4(T1, 0) / ipv4(CLIENT4, VIP4).ttl(63) / tcp(40_000, 444) / "in a tunnel",
        ),
        case("6in6").enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 444) / "in a tunnel").leaves(
            DC,
            ethernet(DC_MAC, B1_MAC)
                / outer6(T1, 0, hash)
                / ipv6(CLIENT6, VIP6).hop_limit(63)
                / tcp(40_000, 444)
                / "in a tunnel",
        ),
    ];
    for case in cases {
        let Expect::Send(interface, expected) = &case.expect else { bail!("{} sends nothing", case.name) };
        let wires = [LAN, DC].map(|near| Wire::listen(near + 1).map(|wire| (near, wire)));
        world.program.run_live(&case.frame, case.ingress)?;
        for wire in wires {
            let (near, wire) = wire?;
            let (right, patience) = if near == *interface { (true, 2_000) } else { (false, 50) };
            let frames = wire.until(Duration::from_millis(patience), |frame| right && frame == expected)?;
            let arrived = frames.iter().filter(|frame| *frame == expected).count();
            ensure!(
                arrived == usize::from(right),
                "{}: arrived {arrived} times at the end of {near}, wanted on {interface}; there came:\n{}",
                case.name,
                frames.iter().map(|f| decode::text(f)).collect::<Vec<_>>().join("\n\n"),
            );
        }
    }
    Ok(())
}
