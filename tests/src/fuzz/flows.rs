//! Rows that are not steady, and flows that are written down for them, as maps may hold them: what a controller would
//! write after changes that never happened.
//!
//! Most of it is near an edge: rows that began to move a few seconds ago or end in a few, entries that are about to
//! expire. The trap is a world in which everything is far from the moment at which it makes a difference.

use lb_common::addr::PROTO_TCP;
use lb_common::ring::UNTIL_MAX;
use lb_common::rows::{BEFORE, MARGIN};

use super::random::Random;
use super::scenario::Step;
use super::worlds::{MOST_BACKENDS, NO_SUCH_BACKENDS, is_ipv6};
use crate::golden::oracle;
use crate::model::World;
use crate::model::flow::{self, Flow, Key, Phase};
use crate::model::read;
use crate::model::world::{Entry, Kind, Ring, Says, Service};

/// Entries of a family in the beginning, at most.
const MOST_ENTRIES: usize = 8;

/// Somebody of the pool, most of the time; else somebody who is not there, or cannot be.
fn backend(random: &mut Random, world: &World, pool: &[u16]) -> u16 {
    let beyond = random.pick(&NO_SUCH_BACKENDS);
    let absent = (1..=MOST_BACKENDS as u16).find(|id| world.backend(*id).is_none()).unwrap_or(beyond);
    let there = if pool.is_empty() { absent } else { random.pick(pool) };
    random.weighted(&[(88, there), (7, absent), (5, beyond)])
}

/// The idle timeout of one of the services of a ring.
fn idle(random: &mut Random, world: &World, class: u8, slot: u32) -> u32 {
    let of: Vec<&Service> = world.all_services().filter(|s| (s.class, s.slot) == (class, slot)).collect();
    if of.is_empty() {
        return 10;
    }
    let service = random.pick(&of);
    let policy = world.policy(service.id);
    if service.at.protocol == PROTO_TCP { policy.tcp } else { policy.udp }
}

/// What a row may say at this time.
fn kind(random: &mut Random, world: &World, class: u8, slot: u32, now: u64) -> Kind {
    let now = now as u32;
    match random.below(100) {
        0..12 => Kind::Steady,
        12..74 => {
            let pool = world.pool(is_ipv6(slot));
            let somebody = backend(random, world, &pool);
            let settled = random.weighted(&[(65, somebody), (27, BEFORE), (8, 0)]);
            let whole = now + idle(random, world, class, slot) + MARGIN;
            let ago = random.below(12) as u32;
            let until = match random.below(20) {
                0..9 => whole.saturating_sub(ago),
                9 => UNTIL_MAX,
                10..14 => now + random.below(60) as u32,
                14..16 => now + 1 + random.below(3) as u32,
                16 => now,
                17 | 18 => now.saturating_sub(random.below(30) as u32),
                _ => UNTIL_MAX,
            };
            Kind::Moving { settled, until }
        }
        _ => {
            let all = (1 << 46) - 1;
            let some = random.draw() & all;
            Kind::Exceptions { filter: random.weighted(&[(60, all), (35, some), (5, 0)]) }
        }
    }
}

/// What the rows of a ring say, as a pattern that repeats.
pub fn kinds(random: &mut Random, world: &World, ring: &Ring, now: u64) -> Vec<Kind> {
    let length = random.weighted(&[(30, 0), (10, 1), (30, 5), (30, 11)]);
    (0..length).map(|_| kind(random, world, ring.class, ring.slot, now)).collect()
}

/// The flow of a frame, and its service.
pub fn flow<'a>(world: &'a World, frame: &[u8]) -> Option<(Key, &'a Service)> {
    let packet = read::datagram(frame).filter(|p| p.is_complete(frame))?;
    Some((flow::key(&packet), world.service(packet.destination_endpoint())?))
}

/// What is written down of some of the flows that frames belong to.
pub fn entries(random: &mut Random, world: &World, now: u64, frames: &[Vec<u8>]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (flow, service) in frames.iter().filter_map(|frame| flow(world, frame)) {
        let ipv6 = flow.1.is_ipv6();
        let there = entries.iter().filter(|e| e.flow.1.is_ipv6() == ipv6).count();
        if there == MOST_ENTRIES || entries.iter().any(|e| e.flow == flow) || random.percent(30) {
            continue;
        }
        let policy = world.policy(service.id);
        let silent = match random.below(4) {
            0 => random.below(3) as u32,
            1 => (policy.tcp + 1).saturating_sub(random.below(3) as u32),
            2 => (policy.tcp_opening + 1).saturating_sub(random.below(3) as u32),
            _ => random.below(40) as u32,
        };
        let known = Flow {
            backend: backend(random, world, &world.pool(ipv6)),
            life: random.weighted(&[(88, 1), (12, 2)]),
            phase: random.weighted(&[(30, Phase::Opening), (40, Phase::Established), (30, Phase::Closing)]),
            last: (now as u32).saturating_sub(silent),
        };
        let says = random.weighted(&[(78, Says::Flow(known)), (14, Says::Nothing), (8, Says::Leaving)]);
        let other = if random.percent(5) { service.id + 1 } else { service.id };
        entries.push(Entry { flow, service: other, strange: random.percent(5), says });
    }
    entries
}

/// The controller writes a row, most likely that of a flow that was seen.
pub fn row(random: &mut Random, world: &World, now: u64, frames: &[Vec<u8>]) -> Option<Step> {
    let (flow, service) = flow(world, &random.pick(frames))?;
    let ring = world.ring(service.class, service.slot)?;
    let index = oracle::row(flow::hash(world, &flow, service.by_client), ring.log2());
    let (class, slot) = (ring.class, ring.slot);
    let pool = world.pool(is_ipv6(slot));
    let owner = if pool.is_empty() || random.percent(30) { ring.row(index).owner } else { random.pick(&pool) };
    Some(Step::Row { class, slot, row: index, owner, kind: kind(random, world, class, slot, now) })
}
