//! Shares of a weighted ring, measured: many random flows through the real program, counted where they arrive.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use lb_common::addr::{Endpoint4, Endpoint6, PROTO_TCP};
use lb_common::ring::Row;
use lb_common::service::{FORWARD_NAT, Service};
use sluice::ring::{Member, Seed, build, class_for};

use super::world::{B1, B1_MAC, B2, B2_MAC, DC, LAN, LAN_MAC, ROUTER_MAC, V6, VIP4, VIP6, World, backend4, backend6};
use crate::packet::{Packet, ethernet, ipv4, ipv6, tcp};
use crate::progrun::Verdict;

const PORT: u16 = 9100;
const SERVICE: u32 = 48;
const SERVICE6: u32 = 49;

/// A small deterministic generator: the test's flows are the same on every run, so it cannot fail by chance.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = (self.0 ^ self.0 >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x ^ x >> 33
    }
}

/// Sends `flows` flows of random clients at a ring built for weights 10 and 1, half over IPv4 and half over IPv6,
/// and compares the shares with 10/11 and 1/11. Chi-square with one degree of freedom exceeds 10.83 once in a
/// thousand times if the shares are right.
pub fn weighted_ring_shares(world: &mut World, flows: u32) -> Result<()> {
    for family in [4, 6] {
        let (service, heavy, light) = if family == 4 { (SERVICE, B1, B2) } else { (SERVICE6, B1 + V6, B2 + V6) };
        let address = |id: u16| match family {
            4 => IpAddr::V4(backend4(id)),
            _ => IpAddr::V6(backend6(id - V6)),
        };
        let ids = [heavy, light];
        let pool = [Member::new(address(heavy), 0, 10), Member::new(address(light), 0, 1)];
        let class = class_for(&pool);
        let ring = build(&Seed::from(&world.key), class, &pool).context("a pool of two has a ring")?;
        let rows = (0u32..).zip(ring.iter().map(|&owner| Row::steady(ids[usize::from(owner)])));
        world.program.set_ring(class, service, rows)?;
        let value =
            Service { id: service, ring: service, class: class as u8, forward: FORWARD_NAT, ..Service::default() };
        if family == 4 {
            world.program.insert("SERVICES4", Endpoint4::from_host(VIP4.octets(), PORT, PROTO_TCP), value)?;
        } else {
            world.program.insert("SERVICES6", Endpoint6::from_host(VIP6.octets(), PORT, PROTO_TCP), value)?;
        }

        let mut random = Random(u64::from(service));
        let before = world.program.counters()?;
        let mut arrived = [0u32; 2];
        for _ in 0..flows / 2 {
            let (a, b) = (random.next(), random.next());
            let l4 = tcp(b as u16 | 1024, PORT).syn();
            let packet: Packet = if family == 4 {
                ethernet(ROUTER_MAC, LAN_MAC) / ipv4((a as u32).into(), VIP4) / l4
            } else {
                let client = u128::from(a) << 64 | u128::from(b >> 16);
                ethernet(ROUTER_MAC, LAN_MAC) / ipv6(client.into(), VIP6) / l4
            };
            let outcome = world.program.run(&packet.bytes(), LAN)?;
            ensure!(outcome.verdict == Verdict::Redirect, "{:?} to {DC}", outcome.verdict);
            match &outcome.frame[..6] {
                mac if mac == B1_MAC.0 => arrived[0] += 1,
                mac if mac == B2_MAC.0 => arrived[1] += 1,
                mac => anyhow::bail!("a packet for {mac:02x?}"),
            }
        }
        let counts = world.program.counters()?.since(&before);
        let counted = ids.map(|id| counts.get(&format!("backend {id} packets")));
        ensure!(counted == arrived.map(u64::from), "counted {counted:?}, arrived {arrived:?}");

        let total = f64::from(arrived[0] + arrived[1]);
        let expected = [total * 10.0 / 11.0, total / 11.0];
        let chi: f64 = arrived.iter().zip(expected).map(|(n, e)| (f64::from(*n) - e).powi(2) / e).sum();
        let share = 100.0 * f64::from(arrived[0]) / total;
        ensure!(chi < 10.83, "IPv{family}: {share:.2} % of {total} flows to weight 10 of 11, chi-square {chi:.2}");
    }
    Ok(())
}
