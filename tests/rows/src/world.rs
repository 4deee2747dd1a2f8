//! A small world: two rings of one service, some backends, some flows, and a clock that only steps move.
//!
//! The packet's side is `lb_common::rows` (see [`crate::cpu`]), the controller's `sluice::rows` (see
//! [`crate::controller`]), and [`crate::clients`] remembers where every flow lives. Nothing here knows a rule.

use lb_common::flow::{FlowState, Life, PHASE_OPENING};
use lb_common::ring::{KIND_EXCEPTIONS, Row, filter_bit, row_index};
use lb_common::rows::{BEFORE, Decision, Known, Orphans, Sign, Timeouts, is_expired};
use serde::{Deserialize, Serialize};

use crate::broken::Broken;
use crate::clients::{Client, Violation};
use crate::controller::Controller;
use crate::step::Step;
use crate::tally::Tally;

pub const TCP_FLOWS: usize = 8;
pub const FLOWS: usize = 14;
pub const BACKENDS: usize = 7;
pub const RINGS: usize = 2;
/// Backends 1 to 4 are there from the beginning.
const AT_FIRST: u16 = 4;
const ROWS: usize = 2;
/// Seconds a SYN that nobody answers is remembered.
pub const OPENING: u32 = 6;
pub const IDLE: [u32; RINGS] = [30, 8];
/// How far the program's clock may be behind, in milliseconds.
pub const LATE: u64 = 4;

/// What stays as it is while a world lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Most entries.
    pub quota: usize,
    /// Whether a flow whose backend is down is told so.
    #[serde(with = "tells")]
    pub orphans: Orphans,
    /// The program's clock is [`LATE`]: it ticks, the controller's flows.
    pub late: bool,
    /// A backend may be marked down while both arrays are in use. The product does one thing at a time.
    pub dies_in_swaps: bool,
    /// An entry that is being removed is seen to be so for a while.
    pub slow_removal: bool,
    /// The owners of no other ring change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            quota: 1000,
            orphans: Orphans::Reselect,
            late: false,
            dies_in_swaps: false,
            slow_removal: false,
            only: None,
            broken: None,
        }
    }
}

mod tells {
    use lb_common::rows::Orphans;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub fn serialize<S: Serializer>(orphans: &Orphans, serializer: S) -> Result<S::Ok, S::Error> {
        (*orphans == Orphans::Tell).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Orphans, D::Error> {
        Ok(if bool::deserialize(deserializer)? { Orphans::Tell } else { Orphans::Reselect })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nobody has this id.
    Free,
    Up,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    pub health: Health,
    pub generation: u16,
    /// Gets no new rows.
    pub draining: bool,
    /// Is not in the file any more.
    pub leaving: bool,
    /// The second since which no row is its own, of one that is leaving.
    pub left: Option<u32>,
    /// Belongs to another service.
    pub elsewhere: bool,
    /// Milliseconds.
    pub went_down: u64,
    pub came_up: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    pub tcp: bool,
    pub timeouts: Timeouts,
    pub words: Vec<Row>,
    /// What chooses its rows.
    pub by: Hash,
    /// While a swap is on.
    pub old: Option<Vec<Row>>,
    /// The ring that this one takes the place of.
    pub before: Option<Before>,
    /// Some services still refer to that one.
    pub migrating: bool,
    /// How often another one has taken its place.
    pub turn: u32,
}

/// What a flow's row is chosen by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hash {
    #[default]
    Flow,
    Client,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    pub words: Vec<Row>,
    pub by: Hash,
}

impl Ring {
    /// Two arrays are in use.
    pub const fn is_double(&self) -> bool {
        self.old.is_some() || self.migrating
    }

    /// The array that a CPU uses.
    pub fn words_on(&self, old: bool) -> &[Row] {
        let before = self.before.as_ref().filter(|_| self.migrating).map(|before| &before.words);
        self.old.as_ref().or(before).filter(|_| old).unwrap_or(&self.words)
    }

    pub fn words_on_mut(&mut self, old: bool) -> &mut [Row] {
        let before = self.before.as_mut().filter(|_| self.migrating).map(|before| &mut before.words);
        self.old.as_mut().or(before).filter(|_| old).unwrap_or(&mut self.words)
    }

    /// What chooses the rows of that array.
    pub fn by_on(&self, old: bool) -> Hash {
        self.before.as_ref().filter(|_| old && self.migrating).map_or(self.by, |before| before.by)
    }

    /// The ring that the rows of that array may refer to.
    pub fn before_on(&self, old: bool) -> Option<&Before> {
        self.before.as_ref().filter(|_| !(old && self.migrating))
    }

    /// Where the flow's row is in that array.
    pub fn index_on(&self, old: bool, flow: usize) -> usize {
        place(self.words_on(old), self.by_on(old), flow)
    }
}

impl Before {
    /// The flow's row.
    pub fn row(&self, flow: usize) -> Row {
        self.words[place(&self.words, self.by, flow)]
    }
}

fn place(words: &[Row], by: Hash, flow: usize) -> usize {
    row_index(World::hash_of(flow, by), words.len().trailing_zeros()) as usize
}

#[derive(Clone, Debug)]
pub struct World {
    pub settings: Settings,
    /// Milliseconds.
    pub now: u64,
    /// By id; 0 is nobody.
    pub backends: [Backend; BACKENDS + 1],
    pub rings: [Ring; RINGS],
    /// By flow: the element of the flow table, whatever is in it.
    pub entries: [Option<FlowState>; FLOWS],
    /// The second in which the service last refused to write a flow down.
    pub refused: u32,
    /// The same in milliseconds.
    pub last_refusal: u64,
    /// By flow: when it was refused last; 0 for never.
    pub refused_flows: [u64; FLOWS],
    /// When a backend was marked down while both arrays were in use.
    pub died_in_swap: Option<u64>,
    /// When a controller was killed while both arrays were in use.
    pub killed_in_swap: Option<u64>,
    pub controller: Controller,
    pub clients: [Client; FLOWS],
    pub violations: Vec<Violation>,
    /// The last packet's sign and what was decided about it; nothing was about a reply.
    pub decided: Option<(Sign, Option<Decision>)>,
    pub tally: Tally,
    /// What happened, line by line, if anybody wants to read it.
    pub story: Option<Vec<String>>,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        let nobody = Backend {
            health: Health::Free,
            generation: 0,
            draining: false,
            leaving: false,
            left: None,
            elsewhere: false,
            went_down: 0,
            came_up: 0,
        };
        let mut backends = [nobody; BACKENDS + 1];
        for backend in &mut backends[1..=usize::from(AT_FIRST)] {
            *backend = Backend { health: Health::Up, generation: 1, ..nobody };
        }
        let ring = |index: usize| Ring {
            tcp: index == 0,
            timeouts: Timeouts { opening: if index == 0 { OPENING } else { IDLE[1] }, idle: IDLE[index] },
            words: (0..ROWS as u16).map(|row| Row::steady(1 + row)).collect(),
            by: Hash::Flow,
            old: None,
            before: None,
            migrating: false,
            turn: 0,
        };
        Self {
            settings,
            now: 1_000_000,
            backends,
            rings: [ring(0), ring(1)],
            entries: [None; FLOWS],
            refused: 0,
            last_refusal: 0,
            refused_flows: [0; FLOWS],
            died_in_swap: None,
            killed_in_swap: None,
            controller: Controller::default(),
            clients: [Client::default(); FLOWS],
            violations: Vec::new(),
            decided: None,
            tally: Tally::default(),
            story: None,
        }
    }

    pub fn is(&self, broken: Broken) -> bool {
        self.settings.broken == Some(broken)
    }

    pub const fn ring_of(flow: usize) -> usize {
        if flow < TCP_FLOWS { 0 } else { 1 }
    }

    /// Spread over rows and filters. Each client has two flows.
    pub const fn hash_of(flow: usize, by: Hash) -> u32 {
        let x = match by {
            Hash::Flow => flow,
            Hash::Client => 100 + flow / 2,
        };
        ((x as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) as u32
    }

    pub const fn second(&self) -> u32 {
        (self.now / 1000) as u32
    }

    /// By the program's clock.
    pub const fn its_second(&self) -> u32 {
        ((if self.settings.late { self.now - LATE } else { self.now }) / 1000) as u32
    }

    pub fn known(&self, id: u16) -> Known {
        let Some(backend) = self.backends.get(usize::from(id)).filter(|_| id != 0) else { return Known::default() };
        Known { life: Life::new(id, backend.generation), up: backend.health == Health::Up }
    }

    pub fn is_up(&self, id: u16) -> bool {
        self.known(id).up
    }

    /// Up, and still living this life.
    pub fn is_alive(&self, life: Life) -> bool {
        self.known(life.backend()) == Known { life, up: true }
    }

    pub fn is_full(&self) -> bool {
        self.entries.iter().filter(|entry| entry.is_some()).count() >= self.settings.quota
    }

    pub fn evict_oldest(&mut self) {
        let last = |flow: &usize| self.entries[*flow].map_or(u32::MAX, FlowState::last);
        if let Some(oldest) = (0..FLOWS).filter(|flow| self.entries[*flow].is_some()).min_by_key(last) {
            self.entries[oldest] = None;
        }
    }

    pub fn count_row(&mut self, row: Row, hash: u32, now: u32) {
        self.tally.packets += 1;
        if row.is_steady() {
            self.tally.steady += 1;
        } else if row.is_moving(now) {
            self.tally.moving += 1;
        } else {
            self.tally.exceptions += 1;
            if row.kind() == KIND_EXCEPTIONS && row.filter() & filter_bit(hash) == 0 {
                self.tally.filtered += 1;
            }
        }
    }

    /// How long a flow may be silent, in seconds.
    pub fn patience(&self, flow: usize) -> u32 {
        let timeouts = self.rings[Self::ring_of(flow)].timeouts;
        if self.clients[flow].is_opening() { timeouts.opening } else { timeouts.idle }
    }

    /// The program goes by another timeout from now on. What was silent for longer than the one before is over.
    pub fn set_idle(&mut self, ring: usize, idle: u32) {
        for flow in (0..FLOWS).filter(|flow| Self::ring_of(*flow) == ring) {
            if self.is_silent(flow) {
                self.clients[flow].lost = true;
            }
        }
        self.rings[ring].timeouts.idle = idle;
        if ring == 1 {
            self.rings[ring].timeouts.opening = idle;
        }
    }

    pub fn is_silent(&self, flow: usize) -> bool {
        self.now - self.clients[flow].last + LATE > u64::from(self.patience(flow)) * 1000
    }

    pub fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.story.is_some() {
            let text = format!("{:>9.3}  {}", (self.now as f64 - 1_000_000.0) / 1000.0, line(self));
            self.story.get_or_insert_default().push(text);
        }
    }

    /// Lets time pass, and what the controller has begun go on.
    pub fn wait_until(&mut self, then: u64) {
        while let Some(due) = self.due().filter(|due| *due <= then) {
            self.now = self.now.max(due);
            self.proceed();
        }
        self.now = self.now.max(then);
    }

    /// Takes a step; one that makes no sense here does nothing.
    pub fn step(&mut self, step: Step) {
        self.tally.steps += 1;
        match step {
            Step::Wait(ms) => self.wait_until(self.now + u64::from(ms)),
            Step::WaitForSilence { flow, offset } => {
                let silent = self.clients[usize::from(flow)].last
                    + u64::from(self.rings[Self::ring_of(usize::from(flow))].timeouts.idle) * 1000;
                self.wait_near(silent.saturating_add_signed(offset.into()));
            }
            Step::WaitForUntil { ring, row, offset } => {
                let words = &self.rings[usize::from(ring)].words;
                let word = words[usize::from(row) % words.len()];
                if word.kind() == lb_common::ring::KIND_MOVING {
                    self.wait_near((u64::from(word.until()) * 1000).saturating_add_signed(offset.into()));
                }
            }
            Step::Packet { flow, sends, cpu } => self.packet(flow.into(), sends, cpu),
            Step::Race { flow, first, second, at, cpus } => self.race(flow.into(), (first, second), at, cpus),
            Step::Reply { flow, cpu } => self.reply(flow.into(), cpu),
            Step::End { flow } => self.end(flow.into()),
            other => self.control(other),
        }
        self.settle_down();
    }

    /// What is further away than a minute is not worth the wait.
    fn wait_near(&mut self, then: u64) {
        if then < self.now + 60_000 {
            self.wait_until(then.max(self.now));
        }
    }

    // What follows is for people who read stories.

    pub fn name(id: u16) -> String {
        match id {
            0 => "nobody".to_owned(),
            BEFORE => "before".to_owned(),
            id => char::from_u32(u32::from(b'A') + u32::from(id) - 1).unwrap_or('?').to_string(),
        }
    }

    pub fn describe(&self, row: Row) -> String {
        let owner = Self::name(row.owner());
        if row.is_steady() {
            owner
        } else if row.kind() == KIND_EXCEPTIONS {
            format!("{owner} but {:#x}", row.filter())
        } else {
            let over = if row.is_moving(self.second()) { "" } else { ", over" };
            let until = i64::from(row.until()) - 1000;
            format!("{owner} ({} until {until}{over})", Self::name(row.settled()))
        }
    }

    pub fn describe_entry(&self, flow: usize) -> String {
        match self.entries[flow] {
            None => "no entry".to_owned(),
            Some(FlowState::VACANT) => "vacant".to_owned(),
            Some(FlowState::LEAVING) => "leaving".to_owned(),
            Some(state) => {
                let phase = ["opening", "open", "closing", "?"][usize::from(state.phase())];
                let ring = &self.rings[Self::ring_of(flow)];
                let expired = is_expired(state, ring.tcp, self.second(), ring.timeouts);
                let mark = if expired { ", expired" } else { "" };
                format!("{} {phase}, {}{mark}", Self::name(state.life().backend()), i64::from(state.last()) - 1000)
            }
        }
    }

    pub fn row_of(&self, flow: usize, old: bool) -> Row {
        let ring = &self.rings[Self::ring_of(flow)];
        ring.words_on(old)[ring.index_on(old, flow)]
    }

    pub fn describe_row(&self, flow: usize, old: bool) -> String {
        let ring = &self.rings[Self::ring_of(flow)];
        let index = ring.index_on(old, flow);
        let which = if old && ring.is_double() { "old row" } else { "row" };
        let word = ring.words_on(old)[index];
        let before = ring.before_on(old).filter(|_| word.settled() == BEFORE);
        let before = before.map(|before| format!(", before: {}", self.describe(before.row(flow)))).unwrap_or_default();
        format!("{which} {}.{index} {}{before}", Self::ring_of(flow), self.describe(word))
    }

    /// A new entry in the phase that a SYN leaves behind would be this.
    pub const fn is_opening(state: FlowState) -> bool {
        state.phase() == PHASE_OPENING
    }
}
