//! The controller: what the product's functions say, written into the world, with time passing in between.
//!
//! As in the product, one thing at a time: while a change is under way, others wait for it.

use std::hash::Hasher as _;

use lb_common::flow::{FlowState, Life, PHASE_CLOSING};
use lb_common::ring::{KIND_MOVING, Row};
use lb_common::rows::Timeouts;
use sluice::rows::migration;
use sluice::rows::plan::{Change, Fate, plan};
use sluice::rows::recovery::{adopted, recovered};
use sluice::rows::sweep::{Entry, Present, Ring as Swept, Scan, Verdict};
use sluice::rows::timeout::{may_lower, raise, raised};
use sluice::rows::{Correction, Facts, Rewrite, Standing};

use crate::broken::Broken;
use crate::clients::Violation;
use crate::exhaustive::Mix;
use crate::step::{Ask, Step};
use crate::world::{Backend, Before, FLOWS, Hash, Health, OPENING, RINGS, Ring, World};

const LARGEST: usize = 16;
const SMALLEST: usize = 2;
/// The service's id, in entries.
const SERVICE: u32 = 1;
/// More than this many plans for one change, and it does not get done.
const PATIENCE: u32 = 8;

#[derive(Clone, Debug, Default)]
pub struct Controller {
    work: Work,
    /// What was asked for meanwhile.
    queued: Option<Ask>,
    /// Plans for the present change so far.
    tries: u32,
    sweep: Option<Sweep>,
    /// Rings to be grown by the next change.
    grow: [bool; RINGS],
    /// Shorter timeouts that wait until no row moves.
    lower: [Option<u32>; RINGS],
}

#[derive(Clone, Debug, Default)]
enum Work {
    #[default]
    Idle,
    /// Arrays are built and wait for their swap.
    Built { changes: Vec<Change>, ask: Ask, built_at: u64, swap_at: u64 },
    /// Both are in use.
    Window { changes: Vec<Change>, ends_at: u64, settle: u64 },
    /// The array of a ring that will take the place of another one is there, and no service refers to it.
    Published { ring: usize, words: Vec<Row>, by: Hash, ask: Ask, at: u64 },
    /// Some services refer to it.
    Following { ring: usize, ends_at: u64, settle: u64 },
    /// All of them do; the rows are to be corrected.
    Followed { ring: usize, returned: u32, ends_at: u64 },
    /// The swap has returned, and `old` is what its arrays say for good; they are to be corrected.
    Settling { changes: Vec<Change>, old: [Option<Vec<Row>>; RINGS], returned: u32, ends_at: u64 },
}

impl Work {
    /// When a swap that was begun is settled.
    const fn swapped_until(&self) -> Option<u64> {
        match self {
            Self::Window { ends_at, settle, .. } | Self::Following { ends_at, settle, .. } => Some(*ends_at + *settle),
            Self::Settling { ends_at, .. } | Self::Followed { ends_at, .. } => Some(*ends_at),
            Self::Idle | Self::Built { .. } | Self::Published { .. } => None,
        }
    }
}

/// A walk over the table in two parts; each is read, then removed from.
#[derive(Clone, Debug)]
struct Sweep {
    scan: Scan,
    began: u64,
    takes: u64,
    stage: u8,
    candidates: Vec<(usize, Entry)>,
    sizes: [usize; RINGS],
    timeouts: [Timeouts; RINGS],
    /// What the scan began with.
    words: Vec<Row>,
    seen: [Option<FlowState>; FLOWS],
}

const STAGES: u8 = 7;

impl Sweep {
    fn due(&self) -> u64 {
        self.began + self.takes * u64::from(self.stage) / u64::from(STAGES - 1)
    }
}

/// The world as the scan asks about it.
struct Now<'a> {
    world: &'a World,
    sizes: [usize; RINGS],
    timeouts: [Timeouts; RINGS],
}

impl Present for Now<'_> {
    fn word(&self, ring: usize, row: usize) -> Option<Row> {
        let words = &self.world.rings[ring].words;
        (words.len() == self.sizes[ring]).then(|| words[row])
    }

    fn life(&self, id: u16) -> Option<Life> {
        (self.world.backends[usize::from(id)].health != Health::Free).then(|| self.world.known(id).life)
    }

    fn timeouts(&self, ring: usize) -> Timeouts {
        let old = self.world.is(Broken::ScansByOldTimeouts);
        let mut timeouts = if old { self.timeouts[ring] } else { self.world.rings[ring].timeouts };
        timeouts.idle -= u32::from(self.world.is(Broken::ExpiredEarly));
        timeouts
    }
}

impl World {
    /// When the controller goes on.
    pub fn due(&self) -> Option<u64> {
        let work = match &self.controller.work {
            Work::Idle => None,
            Work::Built { swap_at, .. } => Some(*swap_at),
            Work::Published { at, .. } => Some(*at),
            Work::Window { ends_at, .. }
            | Work::Settling { ends_at, .. }
            | Work::Following { ends_at, .. }
            | Work::Followed { ends_at, .. } => Some(*ends_at),
        };
        let sweep = self.controller.sweep.as_ref().map(Sweep::due);
        match (work, sweep) {
            (Some(work), Some(sweep)) => Some(work.min(sweep)),
            (due, None) | (None, due) => due,
        }
    }

    /// No change is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.controller.work, Work::Idle)
    }

    /// A swap is on, or not settled yet.
    pub fn is_swapping(&self) -> bool {
        self.controller.work.swapped_until().is_some()
    }

    /// What the controller has in mind, for [`crate::exhaustive`].
    pub fn digest_controller(
        &self,
        hash: &mut Mix,
        flows: [usize; 2],
        row: &mut dyn FnMut(&mut Mix, Row),
        entry: &mut dyn FnMut(&mut Mix, Option<FlowState>),
    ) {
        let Controller { work, queued, tries, sweep, .. } = &self.controller;
        let changes = match work {
            Work::Idle => &[][..],
            Work::Built { changes, built_at, swap_at, ask } => {
                hash.write_u64(1 + swap_at - self.now);
                hash.write_u64(self.now - built_at);
                hash.write_u64(ask.seed);
                changes
            }
            Work::Window { changes, ends_at, settle } => {
                hash.write_u64(10_000 + ends_at - self.now);
                hash.write_u64(*settle);
                changes
            }
            Work::Published { ring, words, by, ask, at } => {
                hash.write_u64(30_000 + at - self.now);
                hash.write_u64(ask.seed << 2 | (*ring as u64) << 1 | *by as u64);
                words.iter().for_each(|word| row(hash, *word));
                &[]
            }
            Work::Following { ring, ends_at, settle } => {
                hash.write_u64(40_000 + ends_at - self.now);
                hash.write_u64(*settle << 1 | *ring as u64);
                &[]
            }
            Work::Followed { ring, returned, ends_at } => {
                hash.write_u64(50_000 + ends_at - self.now);
                hash.write_u64(u64::from(self.second() - returned) << 1 | *ring as u64);
                &[]
            }
            Work::Settling { changes, old, returned, ends_at } => {
                hash.write_u64(20_000 + ends_at - self.now);
                hash.write_u32(self.second() - returned);
                old.iter().flatten().flatten().for_each(|word| row(hash, *word));
                changes
            }
        };
        for change in changes {
            change.words.iter().for_each(|word| row(hash, *word));
            change.fates.iter().for_each(|fate| hash.write_u8(*fate as u8));
        }
        hash.write_u64(queued.map_or(u64::MAX, |ask| ask.seed));
        hash.write_u32(*tries);
        if let Some(sweep) = sweep {
            hash.write_u64(u64::from(sweep.stage) << 32 | (self.now - sweep.began));
            sweep.words.iter().for_each(|word| row(hash, *word));
            flows.iter().for_each(|flow| entry(hash, sweep.seen[*flow]));
        }
    }

    /// Does what is due.
    pub fn proceed(&mut self) {
        match &self.controller.work {
            Work::Window { ends_at, .. } if *ends_at <= self.now => self.swap_ends(),
            Work::Settling { ends_at, .. } if *ends_at <= self.now => self.settle(),
            Work::Built { swap_at, .. } if *swap_at <= self.now => self.swap_begins(),
            Work::Published { at, .. } if *at <= self.now => self.services_follow(),
            Work::Following { ends_at, .. } if *ends_at <= self.now => self.services_have_followed(),
            Work::Followed { ends_at, .. } if *ends_at <= self.now => self.settle_migration(),
            _ => self.sweep_on(),
        }
    }

    pub fn control(&mut self, step: Step) {
        match step {
            Step::Fail { backend, ask } => {
                if let Some(ends_at) = self.controller.work.swapped_until() {
                    if self.settings.dies_in_swaps {
                        self.died_in_swap = Some(self.now);
                    } else {
                        self.wait_until(ends_at);
                    }
                }
                let now = self.now;
                if let Some(b) = self.backend_if(backend, |b| b.health == Health::Up) {
                    (b.health, b.went_down) = (Health::Down, now);
                    self.tell(|_| format!("{} fails", Self::name(backend.into())));
                    self.ask(Ask { seed: ask.seed & !1, ..ask });
                }
            }
            Step::Recover { backend, ask } => {
                if self.backend_if(backend, |b| b.health == Health::Down).is_some() {
                    self.recover(backend);
                    self.ask(Ask { seed: ask.seed | 1, ..ask });
                }
            }
            Step::Drain { backend, ask } => {
                if let Some(b) = self.backend_if(backend, |b| !b.draining && !b.elsewhere) {
                    b.draining = true;
                    self.tell(|_| format!("{} drains", Self::name(backend.into())));
                    self.ask(ask);
                }
            }
            Step::Undrain { backend, ask } => {
                if let Some(b) = self.backend_if(backend, |b| b.draining) {
                    b.draining = false;
                    self.tell(|_| format!("{} drains no more", Self::name(backend.into())));
                    self.ask(ask);
                }
            }
            Step::Remove { backend, ask } => {
                if let Some(b) = self.backend_if(backend, |b| !b.leaving) {
                    (b.leaving, b.left) = (true, None);
                    self.tally.removed += 1;
                    self.tell(|_| format!("{} is removed", Self::name(backend.into())));
                    if self.is(Broken::NoQuarantine) {
                        self.backends[usize::from(backend)].health = Health::Free;
                    }
                    self.ask(Ask { seed: ask.seed & !1, ..ask });
                }
            }
            Step::Return { backend, ask } => {
                if let Some(b) = self.backend_if(backend, |b| b.leaving) {
                    b.leaving = false;
                    self.tell(|_| format!("{} is back", Self::name(backend.into())));
                    self.ask(ask);
                }
            }
            Step::Add { ask } => {
                if self.add(false) {
                    self.ask(Ask { seed: ask.seed | 1, ..ask });
                }
            }
            Step::AddElsewhere => drop(self.add(true)),
            Step::Reweigh { ask } => self.ask(Ask { seed: ask.seed | 1, ..ask }),
            Step::Grow { ring, ask } => {
                if self.rings[usize::from(ring)].words.len() < LARGEST {
                    self.controller.grow[usize::from(ring)] = true;
                    self.ask(ask);
                }
            }
            Step::Migrate { ring, ask } => self.migrate(ring.into(), ask),
            Step::Timeout { ring, idle } => self.retime(ring.into(), idle.into()),
            Step::Sweep { takes } => self.sweep(takes.into()),
            Step::Restart => self.restart(),
            _ => unreachable!("a packet is no business of the controller's"),
        }
    }

    /// A backend that there is, and that fits.
    fn backend_if(&mut self, id: u8, fits: impl Fn(&Backend) -> bool) -> Option<&mut Backend> {
        self.backends.get_mut(usize::from(id)).filter(|b| b.health != Health::Free && fits(b))
    }

    fn add(&mut self, elsewhere: bool) -> bool {
        let Some(id) = (1..self.backends.len()).find(|id| self.backends[*id].health == Health::Free) else {
            return false;
        };
        let generation = self.backends[id].generation + 1;
        self.backends[id] = Backend {
            health: Health::Up,
            generation,
            draining: false,
            leaving: false,
            left: None,
            elsewhere,
            went_down: 0,
            came_up: self.now,
        };
        let whose = if elsewhere { " to another service" } else { "" };
        self.tell(|_| format!("{} is added{whose}", Self::name(id as u16)));
        true
    }

    fn standing(&self, id: u16) -> Standing {
        match self.backends[usize::from(id)].health {
            Health::Free => Standing::Unknown,
            Health::Down => Standing::Down,
            Health::Up => Standing::Up,
        }
    }

    // A change of owners.

    fn ask(&mut self, ask: Ask) {
        if matches!(self.controller.work, Work::Idle) {
            self.controller.tries = 0;
            self.build(ask);
        } else {
            self.controller.queued = Some(ask);
        }
    }

    /// Who shall own the rows of a ring: who owns them now, if it may and chance does not want it otherwise.
    pub fn wanted(&self, index: usize, seed: u64) -> Vec<u16> {
        let able = self.able();
        let words = &self.rings[index].words;
        let children = if self.controller.grow[index] { 2 } else { 1 };
        let rows = words.len() * children;
        let stands = self.settings.only.is_some_and(|only| usize::from(only) != index);
        let owner = |row: usize| {
            let owner = words[row / children].owner();
            if stands {
                return owner;
            }
            let chance = mix(seed ^ ((index * 97 + row * 13) as u64));
            let stays = if seed & 1 == 1 { !chance.is_multiple_of(3) } else { !chance.is_multiple_of(5) };
            if able.is_empty() {
                0
            } else if stays && able.contains(&owner) {
                owner
            } else {
                able[(chance / 16) as usize % able.len()]
            }
        };
        (0..rows).map(owner).collect()
    }

    /// Backends that may own rows.
    fn able(&self) -> Vec<u16> {
        let able = |b: &Backend| b.health == Health::Up && !b.draining && !b.leaving && !b.elsewhere;
        (1..self.backends.len()).filter(|id| able(&self.backends[*id])).map(|id| id as u16).collect()
    }

    /// Who shall own as many rows of a ring that is built anew.
    fn drawn(&self, index: usize, rows: usize, seed: u64) -> Vec<u16> {
        let able = self.able();
        let chance = |row: usize| mix(seed ^ ((index * 89 + row * 17) as u64)) as usize;
        (0..rows).map(|row| if able.is_empty() { 0 } else { able[chance(row) % able.len()] }).collect()
    }

    fn build(&mut self, ask: Ask) {
        let now = self.second();
        let mut changes = Vec::new();
        for index in 0..RINGS {
            let owners = self.wanted(index, ask.seed);
            let change = self.plan(index, &owners, now);
            for extension in &change.extensions {
                self.tally.extended += 1;
                if !self.is(Broken::NotExtended) {
                    self.rewrite(index, *extension);
                }
            }
            changes.push(change);
        }
        let grows = (0..RINGS).any(|index| self.controller.grow[index]);
        if !grows && changes.iter().all(Change::is_empty) {
            self.controller.tries = 0;
            self.note_leavers();
            return;
        }
        let swap_at = self.now + u64::from(ask.stall.min(3500));
        self.controller.work = Work::Built { changes, ask, built_at: self.now, swap_at };
    }

    fn plan(&self, index: usize, owners: &[u16], now: u32) -> Change {
        let ring = &self.rings[index];
        let standing = |id: u16| self.standing(id);
        let mut facts = Facts { idle: ring.timeouts.idle, refused: self.refused, standing: &standing };
        if self.is(Broken::KeepsTheRefused) {
            facts.refused = 0;
        }
        if self.is(Broken::ShortestTimeout) {
            facts.idle = OPENING;
        }
        let mut change = plan(&ring.words, owners, &facts, now);
        let children = owners.len() / ring.words.len();
        for (row, word) in change.words.iter_mut().enumerate() {
            let live = ring.words[row / children];
            match (self.settings.broken, change.fates[row]) {
                (Some(Broken::NoMargin), Fate::Moved) => *word = word.with_until(now + facts.idle),
                (Some(Broken::BeginsAnew), Fate::Kept | Fate::Returned) => {
                    *word = Row::moving(word.owner(), live.owner(), now + facts.idle + 5);
                }
                (Some(Broken::ReturnsAtOnce), Fate::Returned) => *word = word.with_until(now),
                (Some(Broken::TwoOwners), Fate::Kept) => {
                    *word = Row::moving(word.owner(), live.settled(), word.until());
                }
                (Some(Broken::NotExtended), Fate::Kept) => *word = word.with_until(live.until()),
                (Some(Broken::LeavesMovingEarly), Fate::Kept) => *word = word.with_until(now),
                (Some(Broken::GrowsAnew), _) if children > 1 => *word = Row::steady(word.owner()),
                _ => {}
            }
        }
        change
    }

    /// What is asked before the swap, where the rule that is broken is not about not asking.
    fn still_good(&self, changes: &[Change]) -> bool {
        let careless = [
            Broken::BeginsAnew,
            Broken::NotExtended,
            Broken::ReturnsAtOnce,
            Broken::TwoOwners,
            Broken::LeavesMovingEarly,
            Broken::KeepsTheRefused,
            Broken::ShortestTimeout,
            Broken::GrowsAnew,
        ];
        if self.settings.broken.is_some_and(|broken| careless.contains(&broken)) {
            return true;
        }
        let standing = |id: u16| self.standing(id);
        changes.iter().zip(&self.rings).all(|(change, ring)| {
            let facts = Facts { idle: ring.timeouts.idle, refused: self.refused, standing: &standing };
            change.still_good(&ring.words, &facts, self.second())
        })
    }

    fn swap_begins(&mut self) {
        let Work::Built { changes, ask, .. } = std::mem::take(&mut self.controller.work) else { return };
        if !self.still_good(&changes) {
            self.tally.replanned += 1;
            self.controller.tries += 1;
            if self.controller.tries > PATIENCE {
                self.complain(Violation::Stuck);
                return;
            }
            self.tell(|_| "the plan is out of date".to_owned());
            return self.build(Ask { stall: 5, ..ask });
        }
        self.tally.changes += 1;
        for (index, change) in changes.iter().enumerate() {
            self.tally.moved += change.count(Fate::Moved) as u64;
            self.tally.kept += change.count(Fate::Kept) as u64;
            self.tally.returned += change.count(Fate::Returned) as u64;
            let ring = &mut self.rings[index];
            self.tally.grown += u64::from(ring.words.len() < change.words.len());
            ring.old = Some(std::mem::replace(&mut ring.words, change.words.clone()));
            self.controller.grow[index] = false;
        }
        self.tell(|world| {
            let ring =
                |index: usize| world.rings[index].words.iter().map(|word| world.describe(*word)).collect::<Vec<_>>();
            format!("swap, both arrays for {} ms: {:?} {:?}", ask.window, ring(0), ring(1))
        });
        let ends_at = self.now + u64::from(ask.window);
        self.controller.work = Work::Window { changes, ends_at, settle: ask.settle.into() };
        if ask.window == 0 {
            self.swap_ends();
        }
    }

    /// The swap has returned.
    fn swap_ends(&mut self) {
        let Work::Window { changes, settle, .. } = std::mem::take(&mut self.controller.work) else { return };
        let old = std::array::from_fn(|index| self.rings[index].old.take());
        let ends_at = self.now + settle;
        self.controller.work = Work::Settling { changes, old, returned: self.second(), ends_at };
        if settle == 0 {
            self.settle();
        }
    }

    /// Rows get what could not be known before the swap had returned.
    fn settle(&mut self) {
        let Work::Settling { changes, old, returned, .. } = std::mem::take(&mut self.controller.work) else { return };
        for (index, (change, old)) in changes.iter().zip(old).enumerate() {
            let Some(old) = old else { continue };
            let settle = change.settle(&old, self.refused, returned);
            for correction in settle.into_iter().chain(change.settle_again(self.refused, returned)) {
                if self.is(Broken::NoMargin) && change.fates[correction.row] == Fate::Moved {
                    continue;
                }
                if self.is(Broken::LeavesMovingEarly) && change.fates[correction.row] == Fate::Kept {
                    continue;
                }
                self.correct(index, correction);
            }
        }
        self.is_done();
    }

    // A ring takes another one's place.

    /// Builds its array, of another size or chosen by another hash. One at a time, as in the product.
    fn migrate(&mut self, ring: usize, ask: Ask) {
        if !self.is_idle() || self.rings[ring].before.is_some() || self.controller.grow[ring] {
            return;
        }
        let Ring { words, by, timeouts, .. } = &self.rings[ring];
        let other = if *by == Hash::Flow { Hash::Client } else { Hash::Flow };
        let smaller = words.len() / 2;
        let (rows, by) = match ask.seed % 4 {
            0 if smaller >= SMALLEST => (smaller, *by),
            1 => ((words.len() * 2).min(LARGEST), other),
            _ => (words.len(), other),
        };
        let owners = self.drawn(ring, rows, ask.seed);
        let idle = timeouts.idle;
        for extension in migration::extensions(words, self.second()) {
            self.tally.extended += 1;
            self.rewrite(ring, extension);
        }
        let anew = self.is(Broken::MigratesAnew);
        let words = migration::begin(&owners, if anew { 0 } else { idle }, self.second());
        let at = self.now + u64::from(ask.stall.min(900));
        self.tell(|_| format!("another ring {ring} of {rows} rows is there"));
        self.controller.work = Work::Published { ring, words, by, ask, at };
    }

    fn services_follow(&mut self) {
        let Work::Published { ring: index, words, by, ask, .. } = std::mem::take(&mut self.controller.work) else {
            return;
        };
        let ring = &mut self.rings[index];
        let before = Before { words: std::mem::replace(&mut ring.words, words), by: ring.by };
        (ring.by, ring.before, ring.migrating) = (by, Some(before), true);
        ring.turn += 1;
        self.tally.migrated += 1;
        self.tell(|world| {
            let words: Vec<String> = world.rings[index].words.iter().map(|word| world.describe(*word)).collect();
            format!("services follow to the other ring {index} for {} ms: {words:?}", ask.window)
        });
        let ends_at = self.now + u64::from(ask.window);
        self.controller.work = Work::Following { ring: index, ends_at, settle: ask.settle.into() };
        if ask.window == 0 {
            self.services_have_followed();
        }
    }

    fn services_have_followed(&mut self) {
        let Work::Following { ring, settle, .. } = std::mem::take(&mut self.controller.work) else { return };
        self.rings[ring].migrating = false;
        self.controller.work = Work::Followed { ring, returned: self.second(), ends_at: self.now + settle };
        if settle == 0 {
            self.settle_migration();
        }
    }

    fn settle_migration(&mut self) {
        let Work::Followed { ring, returned, .. } = std::mem::take(&mut self.controller.work) else { return };
        let words = &self.rings[ring].words;
        for correction in migration::settle(words, self.rings[ring].timeouts.idle, self.refused, returned) {
            self.correct(ring, correction);
        }
        self.hold();
        self.is_done();
    }

    /// What moves in rings before goes on to move.
    fn hold(&mut self) {
        if self.is(Broken::BeforeEnds) {
            return;
        }
        let now = self.second();
        for before in self.rings.iter_mut().filter_map(|ring| ring.before.as_mut()) {
            for correction in migration::hold(&before.words, now) {
                let word = &mut before.words[correction.row];
                *word = correction.apply(*word).unwrap_or(*word);
            }
        }
    }

    fn correct(&mut self, ring: usize, correction: Correction) {
        let word = &mut self.rings[ring].words[correction.row];
        if let Some(corrected) = correction.apply(*word) {
            *word = corrected;
            self.tally.corrected += 1;
        }
    }

    /// A change is made; what was asked for meanwhile is next.
    fn is_done(&mut self) {
        self.note_leavers();
        self.controller.tries = 0;
        if let Some(ask) = self.controller.queued.take() {
            self.build(ask);
        }
    }

    /// Compare-and-swap in the live array.
    fn rewrite(&mut self, ring: usize, rewrite: Rewrite) -> bool {
        let word = &mut self.rings[ring].words[rewrite.row];
        let same = *word == rewrite.from;
        if same {
            *word = rewrite.to;
        }
        same
    }

    /// Lets a change that is under way come to its end first.
    fn finish_work(&mut self) {
        while !self.is_idle() {
            let Some(due) = self.due() else { return };
            self.now = self.now.max(due);
            self.proceed();
        }
    }

    // Everything that is written in place.

    fn recover(&mut self, backend: u8) {
        // In the product, the thread that would do this waits for the swap.
        if let Some(ends_at) = self.controller.work.swapped_until() {
            self.wait_until(ends_at);
        }
        let (id, down) = (u16::from(backend), (self.backends[usize::from(backend)].went_down / 1000) as u32);
        if !self.is(Broken::ComesBackToTheRefused) {
            for ring in 0..RINGS {
                for rewrite in recovered(&self.rings[ring].words, id, self.refused, down) {
                    self.tally.recovered += 1;
                    self.rewrite(ring, rewrite);
                }
                if let Some(before) = &mut self.rings[ring].before {
                    let remembers = self.settings.broken == Some(Broken::BeforeRemembers);
                    let forget = if remembers { recovered } else { migration::forget };
                    for rewrite in forget(&before.words, id, self.refused, down) {
                        before.words[rewrite.row] = rewrite.to;
                        self.tally.recovered += 1;
                    }
                }
            }
        }
        let b = &mut self.backends[usize::from(backend)];
        (b.health, b.came_up) = (Health::Up, self.now);
        self.tell(|_| format!("{} recovers", Self::name(id)));
    }

    fn retime(&mut self, ring: usize, idle: u32) {
        self.finish_work();
        let from = self.rings[ring].timeouts.idle;
        self.controller.lower[ring] = (idle < from).then_some(idle);
        if idle > from {
            let since = self.second();
            for rewrite in raise(&self.rings[ring].words, from, idle, since) {
                if !self.is(Broken::RaiseForgets) {
                    self.rewrite(ring, rewrite);
                }
            }
            self.set_idle(ring, idle);
            for correction in raised(&self.rings[ring].words, idle, self.refused, since, self.second()) {
                let word = &mut self.rings[ring].words[correction.row];
                *word = correction.apply(*word).unwrap_or(*word);
            }
            self.tally.raised += 1;
            self.tell(|_| format!("timeout of ring {ring} is {idle} s"));
        }
    }

    /// What waits for a quiet moment.
    pub fn settle_down(&mut self) {
        for ring in 0..RINGS {
            if let (Some(idle), Work::Idle) = (self.controller.lower[ring], &self.controller.work)
                && may_lower(&self.rings[ring].words, self.second())
            {
                self.controller.lower[ring] = None;
                self.set_idle(ring, idle);
                self.tally.lowered += 1;
                self.tell(|_| format!("timeout of ring {ring} is {idle} s"));
            }
        }
    }

    fn restart(&mut self) {
        self.tally.restarts += 1;
        self.tell(|_| "the controller is killed and starts".to_owned());
        if let Some(sweep) = self.controller.sweep.take() {
            self.drop_leaving(&sweep.candidates);
        }
        // The kernel completes a swap that was begun; nobody is left to correct it.
        if let Work::Window { ends_at, .. } = self.controller.work {
            self.now = self.now.max(ends_at);
            self.rings.iter_mut().for_each(|ring| ring.old = None);
        }
        // The next one makes the other services follow.
        if let Work::Following { ring, ends_at, .. } = self.controller.work {
            self.now = self.now.max(ends_at);
            self.rings[ring].migrating = false;
        }
        if self.controller.work.swapped_until().is_some() {
            self.killed_in_swap = Some(self.now);
            self.note_leavers();
        }
        let Controller { lower, .. } = std::mem::take(&mut self.controller);
        self.controller.lower = lower;
        if self.is(Broken::RestartForgets) {
            for word in self.rings.iter_mut().flat_map(|ring| &mut ring.words) {
                *word = Row::steady(word.owner());
            }
        }
        for backend in &mut self.backends {
            backend.left = None;
        }
        if !self.is(Broken::RestartForgetsRefusals) {
            let now = self.second();
            for ring in &mut self.rings {
                for correction in adopted(&ring.words, ring.timeouts.idle, self.refused, now) {
                    let word = &mut ring.words[correction.row];
                    *word = correction.apply(*word).unwrap_or(*word);
                }
            }
        }
        self.hold();
        // It reads the file, and finds what has changed meanwhile.
        self.ask(Ask { seed: 2, stall: 5, ..Ask::default() });
    }

    // Backends that leave.

    /// Which of those that are leaving have no row any more.
    fn note_leavers(&mut self) {
        let now = self.second();
        for id in 1..self.backends.len() {
            let b = self.backends[id];
            let owns = self.rings.iter().any(|ring| ring.words.iter().any(|word| usize::from(word.owner()) == id));
            if b.leaving && b.left.is_none() && !owns {
                self.backends[id].left = Some(now);
            } else if !b.leaving {
                self.backends[id].left = None;
            }
        }
    }

    // The sweep.

    fn sweep(&mut self, takes: u64) {
        if self.controller.sweep.is_some() {
            return;
        }
        self.tally.sweeps += 1;
        let rings: Vec<Swept<'_>> = self.rings.iter().map(|ring| Swept { words: &ring.words, tcp: ring.tcp }).collect();
        let scan = Scan::begin(&rings, 2, Vec::new(), self.second());
        let words = self.rings.iter().flat_map(|ring| ring.words.iter().copied()).collect();
        let sizes = std::array::from_fn(|ring| self.rings[ring].words.len());
        self.controller.sweep = Some(Sweep {
            scan,
            began: self.now,
            takes,
            stage: 0,
            candidates: Vec::new(),
            sizes,
            timeouts: std::array::from_fn(|ring| self.rings[ring].timeouts),
            words,
            seen: [None; FLOWS],
        });
        self.tell(|_| "a sweep begins".to_owned());
        self.wait_until(self.now);
    }

    fn sweep_on(&mut self) {
        let Some(mut sweep) = self.controller.sweep.take() else { return };
        match sweep.stage {
            0 | 3 => self.sweep_looks(&mut sweep),
            1 | 4 => self.sweep_claims(&mut sweep),
            2 | 5 => {
                self.drop_leaving(&sweep.candidates);
                for (flow, entry) in std::mem::take(&mut sweep.candidates) {
                    self.tally.forgotten += u64::from(self.entries[flow].is_none());
                    sweep.scan.outcome(&entry, true);
                }
            }
            _ => return self.sweep_ends(sweep),
        }
        sweep.stage += 1;
        self.controller.sweep = Some(sweep);
    }

    fn sweep_looks(&mut self, sweep: &mut Sweep) {
        for flow in (0..FLOWS).filter(|flow| flow % 2 == usize::from(sweep.stage / 3)) {
            let Some(state) = self.entries[flow] else { continue };
            sweep.seen[flow] = Some(state);
            let ring = Self::ring_of(flow);
            let entry =
                Entry { ring: Some(ring), hash: Self::hash_of(flow, self.rings[ring].by), service: SERVICE, state };
            let mut verdict = sweep.scan.see(
                &entry,
                &Now { world: self, sizes: sweep.sizes, timeouts: sweep.timeouts },
                self.second(),
            );
            if verdict == Verdict::Keep && self.also_removes(flow, state) {
                verdict = Verdict::Remove;
                // The scan has counted it; that it will be gone is the fault of whoever broke the rule.
                self.entries[flow] = None;
            }
            if verdict == Verdict::Remove && self.entries[flow].is_some() {
                sweep.candidates.push((flow, entry));
            }
        }
    }

    /// What a broken sweep removes besides.
    fn also_removes(&self, flow: usize, state: FlowState) -> bool {
        let word = self.row_of(flow, false);
        match self.settings.broken {
            Some(Broken::ClosingDiesYoung) => {
                state.is_taken() && state.phase() == PHASE_CLOSING && self.second() > state.last() + 3
            }
            Some(Broken::RemovesTheOwners) => state.is_taken() && state.life().backend() == word.owner(),
            _ => false,
        }
    }

    fn sweep_claims(&mut self, sweep: &mut Sweep) {
        let unseen = self.is(Broken::RemovesUnseen);
        let mut claimed = Vec::new();
        for (flow, entry) in std::mem::take(&mut sweep.candidates) {
            if self.entries[flow] == Some(entry.state) || unseen && self.entries[flow].is_some() {
                self.entries[flow] = Some(FlowState::LEAVING);
                claimed.push((flow, entry));
            } else {
                self.tally.lost += 1;
                sweep.scan.outcome(&entry, false);
            }
        }
        sweep.candidates = claimed;
        if !self.settings.slow_removal {
            self.drop_leaving(&sweep.candidates);
        }
    }

    fn drop_leaving(&mut self, candidates: &[(usize, Entry)]) {
        for (flow, _) in candidates {
            if self.entries[*flow] == Some(FlowState::LEAVING) {
                self.entries[*flow] = None;
            }
        }
    }

    fn sweep_ends(&mut self, sweep: Sweep) {
        let busy = !matches!(self.controller.work, Work::Idle);
        let began = sweep.began;
        let found = {
            let live: Vec<Option<&[Row]>> = self
                .rings
                .iter()
                .zip(sweep.sizes)
                .map(|(ring, size)| (ring.words.len() == size).then_some(&ring.words[..]))
                .collect();
            sweep.scan.end(&live, busy)
        };
        if sweep.takes == 0 && found.entries[SERVICE as usize] != self.entries.iter().flatten().count() as u64 {
            self.complain(Violation::Miscounted);
        }
        for (ring, rewrite) in &found.rewrites {
            if self.rewrite(*ring, *rewrite) {
                self.tally.steadied += u64::from(rewrite.to.is_steady());
                self.tally.sieved += u64::from(!rewrite.to.is_steady());
                self.tell(|world| format!("row {ring}.{} becomes {}", rewrite.row, world.describe(rewrite.to)));
            }
        }
        if self.is(Broken::ScanTrustsItself) {
            self.trust_the_scan(began);
        }
        for id in 1..self.backends.len() {
            if let Some(left) = self.backends[id].left
                && self.backends[id].leaving
                && found.is_unnamed(id as u16, left)
                && !self.is_named_before(id as u16)
            {
                let b = &mut self.backends[id];
                (b.health, b.leaving, b.left) = (Health::Free, false, None);
                self.tally.rested += 1;
                self.tell(|_| format!("the id of {} is free", Self::name(id as u16)));
            }
        }
        // The service is told that its rows do not refer to the ring before any more.
        let now = self.second();
        for ring in self.rings.iter_mut().filter(|ring| !ring.migrating && !migration::refers(&ring.words, now)) {
            ring.before = None;
        }
        self.tell(|_| "the sweep ends".to_owned());
    }

    /// Some row of a ring before names the backend.
    fn is_named_before(&self, id: u16) -> bool {
        let rows = self.rings.iter().filter_map(|ring| ring.before.as_ref()).flat_map(|before| &before.words);
        rows.into_iter().any(|row| row.owner() == id || row.kind() == KIND_MOVING && row.settled() == id)
    }

    /// Rows without an exception that the scan saw are steady, whatever happened since it began.
    fn trust_the_scan(&mut self, began: u64) {
        let now = self.second();
        for ring in 0..RINGS {
            for row in 0..self.rings[ring].words.len() {
                let word = self.rings[ring].words[row];
                let seen = |flow: &usize| {
                    Self::ring_of(*flow) == ring
                        && self.rings[ring].index_on(false, *flow) == row
                        && self.entries[*flow].is_some_and(|state| {
                            state.life().backend() != word.owner() && u64::from(state.last()) * 1000 < began
                        })
                };
                if word.kind() == KIND_MOVING && !word.is_moving(now) && !(0..FLOWS).any(|flow| seen(&flow)) {
                    self.rings[ring].words[row] = Row::steady(word.owner());
                }
            }
        }
    }
}

/// SplitMix64's finaliser.
const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
