//! What a run consists of: a world, and what happens in it one after the other.
//!
//! A finding is a scenario, however it was found: it is what is shrunk, saved and replayed. Whatever changes while
//! packets flow — rows that move, backends that die — is a kind of [`Step`].

use serde::{Deserialize, Serialize};

use super::random::Random;
use super::{corners, flows, packets, worlds};
use crate::model::world::Kind;
use crate::model::{Arrival, Kernel, World};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    pub world: World,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// From now on it is this second.
    Clock(u64),
    Packet(Arrival),
    /// A frame arrives at a backend host.
    AtBackend(Arrival),
    /// A backend goes down or comes up, or its id is another one's from now on.
    Backend {
        id: u16,
        up: bool,
        life: u16,
    },
    /// The controller writes a row.
    Row {
        class: u8,
        slot: u32,
        row: u32,
        owner: u16,
        kind: Kind,
    },
}

impl Scenario {
    /// See [`World::holds_together`].
    pub fn holds_together(&self) -> bool {
        let may_own = |step: &Step| if let Step::Row { owner, .. } = step { self.world.may_own(*owner) } else { true };
        self.world.holds_together() && self.steps.iter().all(may_own)
    }
}

impl Step {
    /// The frame of the step, if it has one.
    pub fn arrival(&self) -> Option<&Arrival> {
        match self {
            Self::Clock(_) | Self::Backend { .. } | Self::Row { .. } => None,
            Self::Packet(arrival) | Self::AtBackend(arrival) => Some(arrival),
        }
    }
}

/// Frames of which another one of the same flow may come.
const MOST_SENT: usize = 48;

/// Flows that come again all the time, at most.
const MOST_REGULARS: usize = 32;

/// Room in front of a frame as most drivers leave it, and as test runs can take it away.
pub const HEADROOM: usize = 216;

/// A random world and this many packets in it.
pub fn generate(random: &mut Random, kernel: &Kernel, packets: usize) -> Scenario {
    let mut now = random.between(100, 1000) as u64;
    let mut world = worlds::world(random, now);
    // Some flows are older than the first packet, and come again and again.
    let mut regulars: Vec<Vec<u8>> = (0..MOST_REGULARS).map(|_| packets::whole(random, &world)).collect();
    regulars.retain(|frame| flows::flow(&world, frame).is_some());
    world.entries = flows::entries(random, &world, now, &regulars);
    let mut sent = regulars.clone();
    let mut steps = Vec::with_capacity(packets);
    steps.push(Step::Clock(now));
    // Where time stands still, the budget for events is spent.
    let hurry = random.pick(&[0, 0, 1, 3, 8]);
    let mut left = packets;
    while left > 0 {
        if random.below(100) < hurry {
            now += random.between(1, 3) as u64;
            steps.push(Step::Clock(now));
        }
        if random.below(1000) < 9 {
            let backend = random.pick(&world.backends).id;
            steps.push(Step::Backend {
                id: backend,
                up: random.percent(60),
                life: random.weighted(&[(80, 1), (20, 2)]),
            });
        }
        if random.below(1000) < 20 && !regulars.is_empty() {
            steps.extend(flows::row(random, &world, now, &regulars));
        }
        // One packet, or one packet cut at every byte.
        let frames = if !regulars.is_empty() && random.percent(33) {
            vec![packets::again(random, &regulars)]
        } else if !sent.is_empty() && random.percent(20) {
            vec![packets::again(random, &sent)]
        } else if !sent.is_empty() && random.percent(6) {
            vec![packets::answer(random, &world, &sent)]
        } else if random.percent(5)
            && let Some(rest) = packets::rest(random, &sent)
        {
            vec![rest]
        } else if random.below(2000) < 1 {
            let frame = packets::whole(random, &world);
            let end = frame.len().min(120);
            (packets::SHORTEST..=end).map(|length| frame[..length].to_vec()).collect()
        } else {
            vec![packets::frame(random, &world)]
        };
        if sent.len() == MOST_SENT {
            sent.swap_remove(random.below(MOST_SENT));
        }
        sent.extend(frames.last().cloned());
        let interface = packets::ingress(random);
        for frame in frames.into_iter().take(left) {
            let headroom = if random.percent(92) { HEADROOM } else { random.below(HEADROOM / 4) * 4 };
            let mut arrival = Arrival { interface, headroom, frame };
            if random.percent(8) {
                corners::steer(random, &world, kernel, &mut arrival);
            }
            steps.push(Step::Packet(arrival));
            left -= 1;
        }
        if left > 0 && random.percent(4) {
            let frame = packets::tunnelled(random, &world);
            steps.push(Step::AtBackend(Arrival { interface, headroom: HEADROOM, frame }));
            left -= 1;
        }
    }
    Scenario { world, steps }
}
