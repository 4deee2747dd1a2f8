//! What may happen to a world, one step at a time; and how steps are drawn.
//!
//! A step that makes no sense where it comes (a FIN of a flow that is closed) does nothing. So any part of a row of
//! steps is a row of steps, which is what shrinking needs.

use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::world::{BACKENDS, FLOWS, RINGS, TCP_FLOWS};

/// A packet as its client means it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sends {
    /// A flow's first packet.
    Open,
    /// The SYN once more, if the first was sent at most four seconds ago.
    Again,
    Middle,
    Finish,
    Reset,
    /// What is still under way when the flow is over.
    StrayMiddle,
    StrayFinish,
    StrayReset,
}

/// The CPU that a packet arrives at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cpu {
    /// While a swap is on, it uses the array that is being swapped out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub old: bool,
    /// Should it want to write a flow down, that is refused.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refuse: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(ms: &u16) -> bool {
    *ms == 0
}

/// A change of owners, as the controller is asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// Which rows get which owner; odd ones change more rows.
    pub seed: u64,
    /// Milliseconds from planning to the swap.
    #[serde(default)]
    pub stall: u16,
    /// Milliseconds for which both arrays are in use.
    #[serde(default)]
    pub window: u8,
    /// Milliseconds from the swap's end to the corrections.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub settle: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Milliseconds.
    Wait(u32),
    /// Until the flow has been silent for its ring's timeout and `offset` milliseconds.
    WaitForSilence {
        flow: u8,
        offset: i32,
    },
    /// Until the row's `until` and `offset` milliseconds.
    WaitForUntil {
        ring: u8,
        row: u8,
        offset: i32,
    },
    Packet {
        flow: u8,
        sends: Sends,
        cpu: Cpu,
    },
    /// Two packets of a flow on two CPUs: the second is decided whole before the `at`-th look that the first takes.
    Race {
        flow: u8,
        first: Sends,
        second: Sends,
        at: u8,
        cpus: (Cpu, Cpu),
    },
    /// The flow's backend answers.
    Reply {
        flow: u8,
        cpu: Cpu,
    },
    /// The client is gone without a word.
    End {
        flow: u8,
    },
    Fail {
        backend: u8,
        ask: Ask,
    },
    Recover {
        backend: u8,
        ask: Ask,
    },
    Drain {
        backend: u8,
        ask: Ask,
    },
    Undrain {
        backend: u8,
        ask: Ask,
    },
    Remove {
        backend: u8,
        ask: Ask,
    },
    /// A backend that is leaving is in the file again.
    Return {
        backend: u8,
        ask: Ask,
    },
    /// A new backend gets an id that is free.
    Add {
        ask: Ask,
    },
    /// One of another service does.
    AddElsewhere,
    Reweigh {
        ask: Ask,
    },
    /// The ring's class grows.
    Grow {
        ring: u8,
        ask: Ask,
    },
    /// One of another size or hash takes its place.
    Migrate {
        ring: u8,
        ask: Ask,
    },
    /// Seconds.
    Timeout {
        ring: u8,
        idle: u8,
    },
    /// A walk over the flow table that takes as many milliseconds.
    Sweep {
        takes: u16,
    },
    Restart,
}

/// How often things happen besides packets.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Of a hundred packets, how many may not be written down.
    pub refuse: usize,
    /// Both arrays may be in use for a while.
    pub windows: bool,
}

/// Draws `count` steps.
pub fn draw(random: &mut Random, count: usize, habits: Habits) -> Vec<Step> {
    let mut steps = Vec::with_capacity(count + 1);
    while steps.len() < count {
        let flow = random.below(FLOWS) as u8;
        let tcp = (usize::from(flow) % TCP_FLOWS) as u8;
        let cpu = |random: &mut Random| Cpu { old: random.percent(50), refuse: random.percent(habits.refuse) };
        let ask = |random: &mut Random| Ask {
            seed: random.draw() >> 40,
            stall: match random.below(10) {
                0..7 => random.below(20),
                7 => random.below(900),
                _ => random.below(3500),
            } as u16,
            window: if habits.windows { random.below(40) as u8 } else { 0 },
            settle: match random.below(10) {
                8 if habits.windows => random.below(40),
                9 if habits.windows => random.below(900),
                _ => 0,
            } as u16,
        };
        let backend = 1 + random.below(BACKENDS) as u8;
        let ring = random.below(RINGS) as u8;
        let packet = |random: &mut Random, flow, sends| Step::Packet { flow, sends, cpu: cpu(random) };
        let step = match random.below(1000) {
            0..290 => packet(random, flow, Sends::Middle),
            290..370 => packet(random, tcp, Sends::Open),
            370..400 => {
                let pause = random.pick(&[0, 1000, 3000]);
                if pause > 0 {
                    steps.push(Step::Wait(pause));
                }
                packet(random, tcp, Sends::Again)
            }
            400..430 => packet(random, tcp, Sends::Finish),
            430..445 => packet(random, tcp, Sends::Reset),
            445..460 => Step::End { flow },
            460..480 => {
                let sends = random.pick(&[Sends::StrayMiddle, Sends::StrayFinish, Sends::StrayReset]);
                packet(random, tcp, sends)
            }
            480..510 => {
                let cpus = (cpu(random), cpu(random));
                race(random, flow, cpus)
            }
            510..530 => Step::Reply { flow, cpu: cpu(random) },
            530..565 => {
                steps.push(Step::WaitForSilence { flow, offset: -(random.below(2500) as i32) });
                packet(random, flow, Sends::Middle)
            }
            565..572 => {
                steps.push(Step::WaitForSilence { flow, offset: random.below(1500) as i32 });
                packet(random, flow, Sends::Middle)
            }
            572..604 => {
                Step::WaitForUntil { ring, row: random.below(16) as u8, offset: random.below(4000) as i32 - 2500 }
            }
            604..784 => Step::Wait(random.below(60) as u32),
            784..864 => Step::Wait(60 + random.below(1500) as u32),
            864..890 => Step::Wait(1500 + random.below(7000) as u32),
            890..896 => Step::Wait(8000 + random.below(30_000) as u32),
            896..914 => Step::Reweigh { ask: ask(random) },
            914..921 => Step::Fail { backend, ask: ask(random) },
            921..933 => Step::Recover { backend, ask: ask(random) },
            933..939 => Step::Drain { backend, ask: ask(random) },
            939..946 => Step::Undrain { backend, ask: ask(random) },
            946..950 => Step::Remove { backend, ask: ask(random) },
            950..953 => Step::Return { backend, ask: ask(random) },
            953..960 => Step::Add { ask: ask(random) },
            960..962 => Step::Migrate { ring, ask: ask(random) },
            962..964 => Step::AddElsewhere,
            964..966 => Step::Grow { ring, ask: ask(random) },
            966..968 => Step::Timeout { ring, idle: random.pick(if ring == 0 { &[12, 30, 45] } else { &[5, 8, 14] }) },
            968..970 if habits.windows => {
                // Much at once, while both arrays are in use.
                steps.push(Step::Reweigh { ask: Ask { stall: 0, window: 39, ..ask(random) } });
                steps.push(Step::Wait(0));
                for _ in 0..6 {
                    let flow = random.below(FLOWS) as u8;
                    let cpus = (cpu(random), cpu(random));
                    steps.push(race(random, flow, cpus));
                }
                let cpus = (cpu(random), cpu(random));
                race(random, flow, cpus)
            }
            968..997 => Step::Sweep { takes: random.below(800) as u16 },
            _ => Step::Restart,
        };
        steps.push(step);
    }
    steps
}

fn race(random: &mut Random, flow: u8, (one, two): (Cpu, Cpu)) -> Step {
    let pairs = [
        (Sends::Middle, Sends::Middle),
        (Sends::Open, Sends::Again),
        (Sends::Again, Sends::Middle),
        (Sends::Middle, Sends::Finish),
        (Sends::Finish, Sends::Middle),
    ];
    let (first, second) = random.pick(&pairs);
    // The service's gate is open for both or shut for both.
    let two = Cpu { refuse: one.refuse, ..two };
    Step::Race { flow, first, second, at: random.below(8) as u8, cpus: (one, two) }
}
