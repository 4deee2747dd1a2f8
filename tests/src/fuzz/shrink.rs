//! A finding made small: the fewest steps, the emptiest world and the plainest packets that still show it.
//!
//! Everything here is "try without; keep it if the difference is still there". Steps go first, because every later
//! try replays them; then the world, a table at a time, then by halves; then what is left is made ordinary.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::network::LAN;
use super::scenario::{HEADROOM, Scenario, Step};
use crate::model::checksum::{keep_ipv4, keep_transport};
use crate::model::read::{self, ETHERNET, be16};
use crate::model::{Arrival, Family, World};
use lb_common::addr::PROTO_UDP;

/// Whether a scenario still shows the difference that is being shrunk.
type Test<'a> = &'a mut dyn FnMut(&Scenario) -> Result<bool>;

/// The smallest scenario found within `patience`.
pub fn shrink(scenario: Scenario, patience: Duration, test: Test<'_>) -> Result<Scenario> {
    let mut shrinker = Shrinker { best: scenario, deadline: Instant::now() + patience, test };
    loop {
        let before = shrinker.best.clone();
        shrinker.steps()?;
        shrinker.tables()?;
        shrinker.details()?;
        shrinker.packets()?;
        if shrinker.best == before || Instant::now() > shrinker.deadline {
            return Ok(shrinker.best);
        }
    }
}

struct Shrinker<'a> {
    best: Scenario,
    deadline: Instant,
    test: Test<'a>,
}

/// One of a scenario's lists, to be shortened: how long it is, and how to cut a range out.
struct List {
    length: fn(&Scenario) -> usize,
    cut: fn(&mut Scenario, std::ops::Range<usize>),
}

macro_rules! list {
    ($($field:ident).+) => {
        List { length: |s| s.$($field).+.len(), cut: |s, range| drop(s.$($field).+.drain(range)) }
    };
}

const STEPS: List = list!(steps);
const TABLES: [List; 13] = [
    list!(world.neighbours),
    list!(world.routes),
    list!(world.replies),
    list!(world.own),
    list!(world.services),
    list!(world.wide),
    list!(world.rings),
    list!(world.next_hops),
    list!(world.backends),
    list!(world.devices),
    list!(world.policies),
    list!(world.entries),
    list!(world.unwrapped),
];

impl Shrinker<'_> {
    /// Takes the change over if the difference is still there.
    fn attempt(&mut self, change: impl FnOnce(&mut Scenario)) -> Result<bool> {
        // First, because a long scenario takes a while only to be copied.
        if Instant::now() > self.deadline {
            return Ok(false);
        }
        let mut candidate = self.best.clone();
        change(&mut candidate);
        // A world that contradicts itself in a way of its own would be another finding.
        if candidate == self.best || !candidate.holds_together() || !(self.test)(&candidate)? {
            return Ok(false);
        }
        self.best = candidate;
        Ok(true)
    }

    /// Cuts ranges out of a list: all of it, then halves, down to single entries.
    fn shorten(&mut self, list: &List) -> Result<()> {
        let mut size = (list.length)(&self.best);
        while size > 0 {
            let mut start = 0;
            while start < (list.length)(&self.best) {
                let end = (start + size).min((list.length)(&self.best));
                if !self.attempt(|s| (list.cut)(s, start..end))? {
                    start = end;
                }
            }
            size /= 2;
        }
        Ok(())
    }

    fn steps(&mut self) -> Result<()> {
        // Most differences need no past.
        self.attempt(|s| drop(s.steps.drain(..s.steps.len().saturating_sub(1))))?;
        self.shorten(&STEPS)
    }

    fn tables(&mut self) -> Result<()> {
        TABLES.iter().try_for_each(|list| self.shorten(list))
    }

    /// Makes what is left of the world ordinary.
    fn details(&mut self) -> Result<()> {
        self.attempt(|s| s.world.settings.log = false)?;
        self.attempt(|s| s.world.settings.tunnel_mask4 = Ipv4Addr::UNSPECIFIED)?;
        self.attempt(|s| s.world.settings.tunnel_mask6 = Ipv4Addr::UNSPECIFIED)?;
        self.attempt(|s| s.world.settings.hash_key = std::array::from_fn(|i| i as u64 + 1))?;
        self.attempt(|s| {
            let settings = &mut s.world.settings;
            (settings.ipv4, settings.ipv6, settings.nat, settings.ipip) = (true, true, true, true);
        })?;
        for i in 0..self.best.world.rings.len() {
            let mut owners = self.best.world.rings[i].owners.clone();
            owners.sort_unstable();
            owners.dedup();
            for owner in owners {
                if self.attempt(|s| s.world.rings[i].owners = vec![owner])? {
                    break;
                }
            }
            let mut kinds = vec![None];
            kinds.extend(self.best.world.rings[i].kinds.iter().copied().map(Some));
            for kind in kinds {
                if self.attempt(|s| s.world.rings[i].kinds = kind.into_iter().collect())? {
                    break;
                }
            }
            let Some(ring) = self.best.world.rings.get(i).map(|r| (r.class, r.slot)) else { break };
            self.attempt(|s| {
                s.world.rings[i].class = 0;
                let wide = s.world.wide.iter_mut().map(|w| &mut w.service);
                for service in s.world.services.iter_mut().chain(wide) {
                    if (service.class, service.slot) == ring {
                        service.class = 0;
                    }
                }
            })?;
        }
        for i in 0..self.best.world.next_hops.len() {
            self.attempt(|s| s.world.next_hops[i].hop.mtu = 1500)?;
        }
        for i in 0..self.best.world.backends.len() {
            self.attempt(|s| s.world.backends[i].port = 0)?;
        }
        for i in 0..self.best.world.services.len() {
            self.attempt(|s| s.world.services[i].tracked = false)?;
            self.attempt(|s| s.world.services[i].by_client = false)?;
            self.attempt(|s| s.world.services[i].before = None)?;
        }
        for i in 0..self.best.world.wide.len() {
            self.attempt(|s| s.world.wide[i].service.tracked = false)?;
            self.attempt(|s| s.world.wide[i].service.by_client = false)?;
            self.attempt(|s| s.world.wide[i].service.before = None)?;
            for l in (0..self.best.world.wide[i].listens.len()).rev() {
                self.attempt(|s| s.world.wide[i].listens.truncate(l))?;
            }
        }
        Ok(())
    }

    fn packets(&mut self) -> Result<()> {
        for i in 0..self.best.steps.len() {
            let Some(Arrival { frame, .. }) = self.best.steps.get(i).and_then(Step::arrival) else { continue };
            let whole = frame.len();
            let change = |shrinker: &mut Self, change: &dyn Fn(&mut Arrival)| {
                shrinker.attempt(|s| {
                    if let Some(Step::Packet(arrival) | Step::AtBackend(arrival)) = s.steps.get_mut(i) {
                        change(arrival);
                    }
                })
            };
            change(self, &|a| a.headroom = HEADROOM)?;
            change(self, &|a| a.interface = LAN)?;
            // Padding, then payload with everything that counts it, then whatever is at the end.
            change(self, &|a| a.frame.truncate(read::datagram(&a.frame).map_or(whole, |p| ETHERNET + p.length)))?;
            let mut size = whole;
            while size > 0 {
                while change(self, &|a| shorten_payload(&mut a.frame, size))? {}
                while change(self, &|a| a.frame.truncate(a.frame.len().saturating_sub(size).max(ETHERNET)))? {}
                size /= 2;
            }
            for size in [64, 16, 4, 1] {
                for start in (0..whole).step_by(size) {
                    change(self, &|a| erase(&mut a.frame, start..start + size))?;
                }
            }
        }
        Ok(())
    }
}

/// Makes bytes that do not matter zero. Headers, which people read, are left alone, and a checksum that was right
/// stays so.
fn erase(frame: &mut [u8], range: std::ops::Range<usize>) {
    let before = frame.to_vec();
    let packet = read::datagram(&before).filter(|p| p.is_complete(&before));
    let headers = packet.map_or(0..0, |p| ETHERNET - 2..p.l4 + if p.protocol == PROTO_UDP { 8 } else { 20 });
    for (at, byte) in frame.iter_mut().enumerate().take(range.end).skip(range.start) {
        if !headers.contains(&at) {
            *byte = 0;
        }
    }
    if packet.is_some() {
        keep_transport(&before, frame);
    }
}

/// Takes `count` bytes off the end of the packet's payload; lengths and checksums that were right stay so.
fn shorten_payload(frame: &mut Vec<u8>, count: usize) {
    let before = frame.clone();
    let Some(packet) = read::datagram(&before).filter(|p| p.is_complete(&before)) else { return };
    let end = ETHERNET + packet.length;
    let header = if packet.protocol == PROTO_UDP { 8 } else { 20 };
    if end - count.min(end) < packet.l4 + header {
        return;
    }
    frame.drain(end - count..end);
    let reduce = |frame: &mut Vec<u8>, at: usize| {
        let value = be16(frame, at).unwrap_or_default().wrapping_sub(count as u16);
        frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    };
    reduce(frame, if packet.family == Family::V4 { ETHERNET + 2 } else { ETHERNET + 4 });
    if packet.protocol == PROTO_UDP {
        reduce(frame, packet.l4 + 4);
    }
    if packet.family == Family::V4 {
        keep_ipv4(&before, frame);
    }
    keep_transport(&before, frame);
}

/// A sentence about a shrunk scenario: what is left of it.
pub fn summary(scenario: &Scenario) -> String {
    let World {
        services, wide, rings, backends, replies, next_hops, routes, neighbours, own, devices, entries, ..
    } = &scenario.world;
    let family = |address: IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        "{} steps; services {:?}, {} by prefixes and ranges, {} rings, {} backends, {} replies, {} next hops, {} routes, {} neighbours, \
         {} own addresses, {} entries, devices {devices:?}",
        scenario.steps.len(),
        services.iter().map(|s| family(s.at.address)).collect::<Vec<_>>(),
        wide.len(),
        rings.len(),
        backends.len(),
        replies.len(),
        next_hops.len(),
        routes.len(),
        neighbours.len(),
        own.len(),
        entries.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::super::{network, scenario};
    use super::*;

    /// A made-up bug: packets for one VIP with a TTL of 64 are wrong if the first ring is large.
    #[test]
    fn what_does_not_matter_goes_and_what_does_stays() {
        let kernel = network::kernel();
        let (found, scenario) = (0..50)
            .find_map(|seed| {
                let scenario = scenario::generate(&mut Random::new(seed), &kernel, 400);
                guilty(&scenario).map(|vip| (vip, scenario))
            })
            .expect("a packet for a service in fifty worlds");
        let small =
            shrink(scenario, Duration::from_secs(60), &mut |s| Ok(guilty(s) == Some(found))).expect("nothing fails");
        assert_eq!(guilty(&small), Some(found));
        assert_eq!((small.steps.len(), small.world.services.len()), (1, 1), "{}", summary(&small));
        assert!(small.world.backends.is_empty() && small.world.neighbours.is_empty(), "{}", summary(&small));
        let Step::Packet(arrival) = &small.steps[0] else { panic!("{:?}", small.steps) };
        assert_eq!(arrival.headroom, HEADROOM);
        // Headers and no payload: options are part of what a packet is.
        assert!(arrival.frame.len() <= ETHERNET + 60 + 8, "{} bytes", arrival.frame.len());
    }

    fn guilty(scenario: &Scenario) -> Option<IpAddr> {
        scenario.steps.iter().find_map(|step| {
            let Step::Packet(Arrival { frame, .. }) = step else { return None };
            let packet = read::datagram(frame).filter(|p| p.hops == 64 && p.protocol == PROTO_UDP)?;
            let service = scenario.world.services.iter().find(|s| s.at == packet.destination_endpoint())?;
            Some(service.at.address)
        })
    }

    #[test]
    fn a_shorter_payload_keeps_a_packet_as_right_as_it_was() {
        let (client, vip) = (Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(203, 0, 113, 10));
        use crate::packet::{Mac, ethernet, ipv4, udp};
        let frame =
            |data: &str| (ethernet(Mac::local(1), Mac::local(2)) / ipv4(client, vip) / udp(1, 2) / data).bytes();
        let mut short = frame("payload");
        shorten_payload(&mut short, 3);
        assert_eq!(short, frame("payl"));
        shorten_payload(&mut short, 5);
        assert_eq!(short, frame("payl"), "nothing is taken from the header");
    }
}
