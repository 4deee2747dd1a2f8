//! The loaded program in the oracle's small world (`lb_tests_rows`): random histories, judged by what the clients
//! remember, in which every packet also goes through the program, with maps that live as long as the history does.
//!
//! The world goes on by itself, with the product's controller functions. What its controller does is done to the maps: a
//! word is written where it was, an array is put into a slot, an entry is removed by the program that does it for the
//! product. What packets do, the program does. After each packet the program must have sent it where the world did, and
//! have left the same entry, rows, count of entries and refusal behind. So there is nothing to repair before the next
//! one, and a difference is found where it begins.
//!
//! Two things are the world's own. A row of a small ring is several of the kernel's, one for each flow: what a refusal
//! wrote into one of them is copied to its siblings. And while two arrays are in use, the service says which of its
//! slots a packet's CPU sees.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};

use lb_common::addr::{Endpoint4, Endpoint6, PROTO_TCP, PROTO_UDP, words6};
use lb_common::backend::{BACKEND_ALIVE, BACKEND_V6, Backend, BackendRoute, State};
use lb_common::flow::{
    Flow4, Flow6, FlowEntry, FlowPolicy, FlowState, FlowUse, Forget, Life, ORPHAN_DROP, ORPHAN_RESELECT,
};
use lb_common::hash;
use lb_common::ring::{CLASSES, KIND_EXCEPTIONS, KIND_MOVING, Row, filter_bit, row_index};
use lb_common::rows::{BEFORE, Decision, Orphans, Sign};
use lb_common::service::{AFFINITY_SOURCE, BEFORE_SOURCE, FORWARD_NAT, Reverse4, Reverse6, Service, TRACKED};
use lb_tests_rows::History;
use lb_tests_rows::step::{Cpu, Step};
use lb_tests_rows::world::{BACKENDS, FLOWS, Hash, Health, RINGS, TCP_FLOWS, World as Model};

use crate::golden::world::{DC, DC_MAC, HOP_B1, LAN, LAN_MAC, ROUTER_MAC, V6, VIP4, VIP6, World};
use crate::packet::transport::{ACK, FIN, PSH, RST, SYN};
use crate::packet::{Packet, ethernet, ipv4, ipv6, tcp, udp};
use crate::progrun::{Settings, Verdict};

const PORT: u16 = 9200;
/// Of the world's backends, in the program; those of IPv6 are [`V6`] more.
const FIRST: u16 = 30;
/// Rows of the world's largest ring, as bits of a hash.
const BITS: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// Something done wrong on purpose, for the comparison to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Arrays name the owner as who was the owner before.
    ForgetsSettled,
    /// The program is not told that its clock has moved.
    ClockStands,
    /// The program goes by the timeouts of the beginning.
    TimeoutsStay,
    /// A backend that failed is up as far as the program knows.
    FailureUnheard,
    /// An id that is given to somebody new looks like who had it before.
    LivesLookAlike,
    /// The program has no quota to keep.
    QuotaUnknown,
    /// Entries are removed by nobody.
    NothingIsForgotten,
    /// Corrections after a swap are not written.
    NotCorrected,
    /// Services are not told of the ring before theirs.
    BeforeUnknown,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::ForgetsSettled,
        Self::ClockStands,
        Self::TimeoutsStay,
        Self::FailureUnheard,
        Self::LivesLookAlike,
        Self::QuotaUnknown,
        Self::NothingIsForgotten,
        Self::NotCorrected,
        Self::BeforeUnknown,
    ];
}

/// How often what was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub steps: u64,
    pub packets: u64,
    pub replies: u64,
    pub steady: u64,
    pub moving: u64,
    pub exceptions: u64,
    /// On the array that is being swapped out.
    pub on_old: u64,
    pub written: u64,
    pub refused: u64,
    /// Rows that a refusal has pushed.
    pub pushed: u64,
    pub removed: u64,
    pub swaps: u64,
    pub migrations: u64,
    /// On rows that refer to the ring before.
    pub asked_before: u64,
    pub dropped: u64,
}

impl std::ops::AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        let sums = [
            (&mut self.steps, other.steps),
            (&mut self.packets, other.packets),
            (&mut self.replies, other.replies),
            (&mut self.steady, other.steady),
            (&mut self.moving, other.moving),
            (&mut self.exceptions, other.exceptions),
            (&mut self.on_old, other.on_old),
            (&mut self.written, other.written),
            (&mut self.refused, other.refused),
            (&mut self.pushed, other.pushed),
            (&mut self.removed, other.removed),
            (&mut self.swaps, other.swaps),
            (&mut self.migrations, other.migrations),
            (&mut self.asked_before, other.asked_before),
            (&mut self.dropped, other.dropped),
        ];
        sums.into_iter().for_each(|(sum, more)| *sum += more);
    }
}

impl Compared {
    /// Whether each of these happened: a run that did not get somewhere proves nothing about it.
    pub fn is_complete(&self) -> bool {
        let Self { steps: _, packets: _, replies, steady, moving, exceptions, on_old, written, refused, .. } = *self;
        let Self { pushed, removed, swaps, migrations, asked_before, dropped, .. } = *self;
        let often = [replies, steady, moving, exceptions, on_old, written, refused, pushed, removed, swaps, dropped];
        often.iter().all(|count| *count > 20) && migrations > 5 && asked_before > 5
    }
}

/// The ends of a flow by which its row and its place in a filter are what the world has them to be.
#[derive(Clone, Copy, Debug)]
struct Ends {
    client: IpAddr,
    port: u16,
    hash: u32,
    client_hash: u32,
}

/// The program and what its maps hold.
#[derive(Debug)]
pub struct Kernel {
    world: World,
    /// By family and flow.
    ends: [[Ends; FLOWS]; 2],
}

/// One history in one family.
struct Run<'a> {
    kernel: &'a mut Kernel,
    family: Family,
    fault: Option<Fault>,
    /// The service's flows are tracked, where that makes no difference (see [`Kernel::run_tracked`]).
    tracked: bool,
    /// The world that the maps are like.
    shown: Model,
    /// By ring: which of its slots hold its arrays.
    places: [Places; RINGS],
    policy: Option<FlowPolicy>,
    compared: Compared,
}

/// Which of a ring's three slots hold the array in use, the one that is being swapped out, and that of the ring before.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    live: u32,
    old: Option<u32>,
    before: Option<u32>,
}

impl Places {
    /// One that holds none of them.
    fn free(&self) -> u32 {
        let taken = [Some(self.live), self.old, self.before];
        (0..3).find(|slot| !taken.contains(&Some(*slot))).unwrap_or_default()
    }
}

const fn protocol(flow: usize) -> u8 {
    if flow < TCP_FLOWS { PROTO_TCP } else { PROTO_UDP }
}

fn word(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// The ports as they stand in the packet.
fn ports(port: u16) -> u32 {
    let ([a, b], [c, d]) = (port.to_be_bytes(), PORT.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

impl Ends {
    fn key4(&self, protocol: u8) -> Option<Flow4> {
        let IpAddr::V4(client) = self.client else { return None };
        let (source, destination) = (word(client), word(VIP4));
        Some(Flow4 { source, destination, ports: ports(self.port), protocol: protocol.into() })
    }

    fn key6(&self, protocol: u8) -> Option<Flow6> {
        let IpAddr::V6(client) = self.client else { return None };
        let (source, destination) = (words6(client.octets()), words6(VIP6.octets()));
        Some(Flow6 { source, destination, ports: ports(self.port), protocol: protocol.into() })
    }

    /// The client first, which has a hash of its own, then its port.
    fn find(family: Family, flow: usize, settings: &Settings) -> Option<Self> {
        let alike = |hash: u32, by: Hash| {
            let wanted = Model::hash_of(flow, by);
            row_index(hash, BITS) == row_index(wanted, BITS) && filter_bit(hash) == filter_bit(wanted)
        };
        let hashed = |client: IpAddr, port: u16| {
            let ends = Self { client, port, hash: 0, client_hash: 0 };
            let key = &settings.hash_key;
            let (hash, client_hash) = match (ends.key4(protocol(flow)), ends.key6(protocol(flow))) {
                (Some(flow), _) => (hash::flow4(key, &flow), hash::client4(key, &flow)),
                (None, Some(flow)) => (hash::flow6(key, &flow), hash::client6(key, &flow)),
                (None, None) => (0, 0),
            };
            Self { hash, client_hash, ..ends }
        };
        let mut clients = (0..=u16::MAX).map(|n| -> IpAddr {
            let [high, low] = n.to_be_bytes();
            match family {
                Family::V4 => Ipv4Addr::new(100, 70 + flow as u8, high, low).into(),
                Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 1 + flow as u16, n).into(),
            }
        });
        let client = clients.find(|client| alike(hashed(*client, 1).client_hash, Hash::Client))?;
        let mut ends = (1024..u16::MAX).map(|port| hashed(client, port));
        ends.find(|ends| alike(ends.hash, Hash::Flow))
    }

    /// Its row in the kernel's ring.
    fn row(&self, by: Hash) -> u32 {
        let hash = match by {
            Hash::Flow => self.hash,
            Hash::Client => self.client_hash,
        };
        row_index(hash, CLASSES[0])
    }
}

impl Kernel {
    /// In a network namespace of the calling thread's own.
    pub fn new() -> Result<Self> {
        let settings = Settings::everything();
        let nobody = Ends { client: VIP4.into(), port: 0, hash: 0, client_hash: 0 };
        let mut kernel = Self { world: World::furnished(&settings)?, ends: [[nobody; FLOWS]; 2] };
        for family in [Family::V4, Family::V6] {
            for flow in 0..FLOWS {
                kernel.ends[family as usize][flow] =
                    Ends::find(family, flow, &settings).context("no port gives such a hash")?;
            }
            kernel.reverse(family)?;
        }
        Ok(kernel)
    }

    /// Whose replies are whose.
    fn reverse(&mut self, family: Family) -> Result<()> {
        let program = &mut self.world.program;
        for protocol in [PROTO_TCP, PROTO_UDP] {
            for backend in 1..=BACKENDS as u16 {
                let (id, service) = (family.id(backend), family.service());
                match family.address(backend) {
                    IpAddr::V4(address) => program.insert(
                        "REVERSE4",
                        Endpoint4::from_host(address.octets(), PORT, protocol),
                        Reverse4 { vip: word(VIP4), port: PORT.to_be(), backend: id, service, reserved: 0 },
                    )?,
                    IpAddr::V6(address) => program.insert(
                        "REVERSE6",
                        Endpoint6::from_host(address.octets(), PORT, protocol),
                        Reverse6 { vip: words6(VIP6.octets()), port: PORT.to_be(), backend: id, service },
                    )?,
                }
            }
        }
        Ok(())
    }

    /// Goes through a history; what the program does otherwise, and what clients complain of, is an error. Races are run
    /// one packet after the other: there is one CPU.
    pub fn run(&mut self, history: &History, family: Family, fault: Option<Fault>) -> Result<Compared> {
        self.go_through(history, family, fault, false)
    }

    /// As [`Kernel::run`], with a service whose flows are tracked. Everything must be the same: where their row is steady
    /// it says what their entries say, and elsewhere it alone decides.
    ///
    /// Three things are left out, in which an entry knows more than its row: flows whose backend is down, where the service
    /// tells them from others; the array that is being swapped out; and a timeout that is raised after a row has settled.
    pub fn run_tracked(&mut self, history: &History, family: Family) -> Result<Compared> {
        let mut history = history.clone();
        history.settings.orphans = Orphans::Reselect;
        history.steps.retain(|step| !matches!(step, Step::Timeout { .. }));
        self.go_through(&history, family, None, true)
    }

    fn go_through(
        &mut self,
        history: &History,
        family: Family,
        fault: Option<Fault>,
        tracked: bool,
    ) -> Result<Compared> {
        let mut settings = history.settings;
        // The kernel takes an element out of the table in one step.
        settings.slow_removal = false;
        let shown = Model::new(settings);
        let places = [Places::default(); RINGS];
        let compared = Compared::default();
        let mut run = Run { kernel: self, family, fault, tracked, shown, places, policy: None, compared };
        run.begin()?;
        let mut model = run.shown.clone();
        for (index, step) in history.steps.iter().enumerate() {
            run.compared.steps += 1;
            let packets = match *step {
                Step::Race { flow, first, second, cpus, .. } => {
                    let packet = |sends, cpu| Some(Step::Packet { flow, sends, cpu });
                    [packet(first, cpus.0), packet(second, cpus.1)]
                }
                Step::Packet { .. } | Step::Reply { .. } => [Some(*step), None],
                _ => {
                    model.step(*step);
                    continue;
                }
            };
            for step in packets.into_iter().flatten() {
                run.packet(&mut model, step).with_context(|| format!("step {index}, {step:?}"))?;
                ensure!(model.violations.is_empty(), "step {index}, {step:?}: {:?}", model.violations);
            }
        }
        Ok(run.compared)
    }
}

impl Family {
    /// Of a backend, in the program.
    const fn id(self, backend: u16) -> u16 {
        match self {
            _ if backend == 0 || backend == BEFORE => backend,
            Self::V4 => FIRST + backend,
            Self::V6 => FIRST + backend + V6,
        }
    }

    const fn address(self, backend: u16) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, 170 + backend as u8)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xd, 0, 0, 0, 7, backend)),
        }
    }

    const fn service(self) -> u32 {
        45 + self as u32
    }

    const fn slot(self, ring: usize, place: u32) -> u32 {
        110 + self as u32 * 6 + ring as u32 * 3 + place
    }

    fn row(self, row: Row) -> Row {
        match row.kind() {
            KIND_MOVING => Row::moving(self.id(row.owner()), self.id(row.settled()), row.until()),
            KIND_EXCEPTIONS => Row::exceptions(self.id(row.owner()), row.filter()),
            _ => Row::steady(self.id(row.owner())),
        }
    }

    fn state(self, state: FlowState) -> FlowState {
        if !state.is_taken() {
            return state;
        }
        let life = Life::new(self.id(state.life().backend()), state.life().generation());
        FlowState::new(life, state.phase(), state.last())
    }
}

impl Run<'_> {
    fn ends(&self, flow: usize) -> Ends {
        self.kernel.ends[self.family as usize][flow]
    }

    /// The flows of a ring.
    fn flows_of(ring: usize) -> impl Iterator<Item = usize> {
        (0..FLOWS).filter(move |flow| Model::ring_of(*flow) == ring)
    }

    /// Maps like a new world.
    fn begin(&mut self) -> Result<()> {
        let program = &mut self.kernel.world.program;
        program.clear::<Flow4, FlowEntry>("FLOWS4")?;
        program.clear::<Flow6, FlowEntry>("FLOWS6")?;
        program.clear::<Flow4, FlowEntry>("TRACKED4")?;
        program.clear::<Flow6, FlowEntry>("TRACKED6")?;
        program.set("FLOW_USES", self.family.service(), FlowUse::default())?;
        for ring in 0..RINGS {
            let words = self.shown.rings[ring].words.clone();
            self.install(ring, 0, &words, Hash::Flow)?;
        }
        for backend in 1..=BACKENDS {
            self.write_backend(&self.shown.clone(), backend)?;
        }
        Ok(())
    }

    /// An array of these words, in that slot of the ring's.
    fn install(&mut self, ring: usize, place: u32, words: &[Row], by: Hash) -> Result<()> {
        let rows: Vec<(u32, Row)> = Self::flows_of(ring)
            .map(|flow| (self.ends(flow).row(by), self.written(Self::word(words, by, flow))))
            .collect();
        self.kernel.world.program.set_ring(0, self.family.slot(ring, place), rows)
    }

    /// A flow's word.
    fn word(words: &[Row], by: Hash, flow: usize) -> Row {
        words[row_index(Model::hash_of(flow, by), words.len().trailing_zeros()) as usize]
    }

    /// A word as the controller writes it.
    fn written(&self, word: Row) -> Row {
        let word = self.family.row(word);
        if self.fault == Some(Fault::ForgetsSettled) && word.kind() == KIND_MOVING {
            return Row::moving(word.owner(), word.owner(), word.until());
        }
        word
    }

    fn write_backend(&mut self, model: &Model, backend: usize) -> Result<()> {
        let known = model.backends[backend];
        let up =
            known.health == Health::Up || self.fault == Some(Fault::FailureUnheard) && known.health == Health::Down;
        let address = self.family.address(backend as u16);
        let (addr, family) = match address {
            IpAddr::V4(address) => ([word(address), 0, 0, 0], 0),
            IpAddr::V6(address) => (words6(address.octets()), BACKEND_V6),
        };
        let generation = if self.fault == Some(Fault::LivesLookAlike) { 1 } else { known.generation };
        let record = Backend {
            addr,
            state: State { port: 0, flags: family | if up { BACKEND_ALIVE } else { 0 }, generation: generation.into() },
            route: BackendRoute { next_hop: HOP_B1, reserved: 0 },
            ..Backend::default()
        };
        self.kernel.world.program.set("BACKENDS", self.family.id(backend as u16).into(), record)
    }

    /// Does to the maps what the controller has done to the world since they were alike.
    fn follow(&mut self, model: &Model) -> Result<()> {
        for flow in 0..FLOWS {
            let (Some(was), now) = (self.shown.entries[flow], model.entries[flow]) else { continue };
            if now == Some(was) || self.fault == Some(Fault::NothingIsForgotten) {
                continue;
            }
            ensure!(now.is_none(), "a controller wrote {now:x?} over {was:x?}");
            self.compared.removed += 1;
            ensure!(self.remove(flow, self.family.state(was))?, "flow {flow} is not as it was and not removed");
        }
        for backend in 1..=BACKENDS {
            if self.shown.backends[backend] != model.backends[backend] {
                self.write_backend(model, backend)?;
            }
        }
        for ring in 0..RINGS {
            self.follow_ring(model, ring)?;
        }
        self.shown = model.clone();
        Ok(())
    }

    fn follow_ring(&mut self, model: &Model, ring: usize) -> Result<()> {
        let swapped = self.shown.tally.changes < model.tally.changes;
        let (was, now) = (self.shown.rings[ring].clone(), &model.rings[ring]);
        let mut places = self.places[ring];
        places.old = places.old.filter(|_| now.old.is_some());
        places.before = places.before.filter(|_| now.before.is_some());
        let migrated = was.turn != now.turn;
        if migrated {
            self.compared.migrations += 1;
            places = Places { live: places.live, old: None, before: now.before.as_ref().map(|_| places.live) };
        }
        if let (Some(before), Some(place)) = (&now.before, places.before) {
            self.rewrite(ring, place, before.by, None, &before.words)?;
        }
        if swapped || migrated {
            self.compared.swaps += u64::from(swapped);
            if let Some(old) = now.old.as_ref().filter(|_| swapped) {
                if migrated {
                    let place = places.free();
                    places.old = Some(place);
                    self.install(ring, place, old, now.by)?;
                } else {
                    places.old = Some(places.live);
                    // It was corrected before it was swapped out.
                    self.rewrite(ring, places.live, now.by, None, old)?;
                }
            }
            places.live = places.free();
            self.install(ring, places.live, &now.words, now.by)?;
        } else if was.words != now.words && self.fault != Some(Fault::NotCorrected) {
            self.rewrite(ring, places.live, now.by, Some(&was.words), &now.words)?;
        }
        self.places[ring] = places;
        Ok(())
    }

    /// Changes an array in place. `was` is what it must say now.
    fn rewrite(&mut self, ring: usize, place: u32, by: Hash, was: Option<&[Row]>, now: &[Row]) -> Result<()> {
        let slot = self.family.slot(ring, place);
        for flow in Self::flows_of(ring) {
            let row = self.ends(flow).row(by);
            let to = self.written(Self::word(now, by, flow));
            let there = self.kernel.world.program.row(0, slot, row)?;
            if let Some(was) = was {
                let expected = self.written(Self::word(was, by, flow));
                // Two flows may share a row.
                ensure!(there == expected || there == to, "a row is {there:x?} and not {expected:x?}");
            }
            if there != to {
                self.kernel.world.program.set_row(0, slot, row, to)?;
            }
        }
        Ok(())
    }

    /// The place of the array that a CPU uses.
    fn place_on(&self, ring: usize, old: bool) -> u32 {
        let (places, model) = (self.places[ring], &self.shown.rings[ring]);
        match (places.old, places.before) {
            (Some(place), _) if old => place,
            (None, Some(place)) if old && model.migrating => place,
            _ => places.live,
        }
    }

    fn remove(&mut self, flow: usize, state: FlowState) -> Result<bool> {
        let ends = self.ends(flow);
        let empty = Flow6 { source: [0; 4], destination: [0; 4], ports: 0, protocol: 0 };
        let line = |flow, family| Forget { flow, state, family, gone: 0, reserved: 0 };
        let line = match (ends.key4(protocol(flow)), ends.key6(protocol(flow))) {
            (Some(Flow4 { source, destination, ports, protocol }), _) => {
                line(Flow6 { source: [source, destination, ports, protocol], ..empty }, 4)
            }
            (None, key) => line(key.unwrap_or(empty), 6),
        };
        self.kernel.world.program.remove_flow(line)
    }

    fn entry(&mut self, flow: usize) -> Result<Option<FlowEntry>> {
        let ends = self.ends(flow);
        let program = &mut self.kernel.world.program;
        match (ends.key4(protocol(flow)), ends.key6(protocol(flow))) {
            (Some(key), _) => program.find("FLOWS4", &key),
            (None, Some(key)) => program.find("FLOWS6", &key),
            (None, None) => Ok(None),
        }
    }

    /// A packet or a reply, in the world and through the program.
    fn packet(&mut self, model: &mut Model, step: Step) -> Result<()> {
        let (Step::Packet { flow, cpu, .. } | Step::Reply { flow, cpu }) = step else { return Ok(()) };
        let flow = usize::from(flow);
        self.follow(model)?;
        model.decided = None;
        model.step(step);
        let Some((sign, decision)) = model.decided else { return Ok(()) };
        self.prepare(flow, cpu)?;
        let before = self.shown.clone();
        let told = || {
            let (row, entry) = (before.describe_row(flow, cpu.old), before.describe_entry(flow));
            format!("{row}, {entry} before, {} after", model.describe_entry(flow))
        };
        match decision {
            Some(decision) => self.send(flow, sign, decision).with_context(told)?,
            None => self.answer(flow).with_context(told)?,
        }
        self.compare(&before, model, flow, cpu).with_context(told)?;
        self.shown = model.clone();
        Ok(())
    }

    /// What only this packet sees: its CPU's array, the second, whether it may write its flow down.
    fn prepare(&mut self, flow: usize, cpu: Cpu) -> Result<()> {
        let model = &self.shown;
        let ring = Model::ring_of(flow);
        let old = cpu.old && model.rings[ring].is_double();
        self.compared.on_old += u64::from(old);
        let mut service = Service {
            id: self.family.service(),
            ring: self.family.slot(ring, self.place_on(ring, old)),
            class: 0,
            forward: FORWARD_NAT,
            flags: if model.rings[ring].by_on(old) == Hash::Client { AFFINITY_SOURCE } else { 0 },
            before: 0,
        };
        if self.tracked && !old {
            service.flags |= TRACKED;
        }
        if let (Some(before), Some(place)) = (model.rings[ring].before_on(old), self.places[ring].before)
            && self.fault != Some(Fault::BeforeUnknown)
        {
            service.before = Service::pack_before(0, self.family.slot(ring, place));
            service.flags |= if before.by == Hash::Client { BEFORE_SOURCE } else { 0 };
        }
        let stays = self.fault == Some(Fault::TimeoutsStay);
        let idle = |ring: usize| if stays { lb_tests_rows::world::IDLE[ring] } else { model.rings[ring].timeouts.idle };
        let quota = match self.fault {
            Some(Fault::QuotaUnknown) => 1000,
            _ if cpu.refuse => 0,
            _ => model.settings.quota as u32,
        };
        let policy = FlowPolicy {
            tcp_opening: model.rings[0].timeouts.opening,
            tcp: idle(0),
            udp: idle(1),
            orphans: if model.settings.orphans == Orphans::Tell { ORPHAN_DROP } else { ORPHAN_RESELECT },
            quota,
            new_per_second: 1_000_000,
            moving: 1,
            tracked_quota4: FLOWS as u32,
            tracked_quota6: FLOWS as u32,
            ..FlowPolicy::default()
        };
        let second = u64::from(model.its_second());
        let program = &mut self.kernel.world.program;
        match self.family {
            Family::V4 => {
                program.insert("SERVICES4", Endpoint4::from_host(VIP4.octets(), PORT, protocol(flow)), service)?;
            }
            Family::V6 => {
                program.insert("SERVICES6", Endpoint6::from_host(VIP6.octets(), PORT, protocol(flow)), service)?;
            }
        }
        if self.policy != Some(policy) {
            program.set("FLOW_POLICIES", self.family.service(), policy)?;
            self.policy = Some(policy);
        }
        if self.fault != Some(Fault::ClockStands) {
            program.set_clock(second)?;
        }
        Ok(())
    }

    /// A packet of the client's.
    fn send(&mut self, flow: usize, sign: Sign, decision: Decision) -> Result<()> {
        self.compared.packets += 1;
        let ends = self.ends(flow);
        let link = ethernet(ROUTER_MAC, LAN_MAC);
        let packet: Packet = match ends.client {
            IpAddr::V4(client) => link / ipv4(client, VIP4),
            IpAddr::V6(client) => link / ipv6(client, VIP6),
        };
        let frame = if flow < TCP_FLOWS {
            let flags = match sign {
                Sign::Opens => SYN,
                Sign::Middle => ACK | PSH,
                Sign::Finishes => FIN | ACK,
                Sign::Resets => RST | ACK,
            };
            (packet / tcp(ends.port, PORT).flags(flags) / "data").bytes()
        } else {
            (packet / udp(ends.port, PORT) / "query").bytes()
        };
        let outcome = self.kernel.world.program.run(&frame, LAN)?;
        let to: Option<IpAddr> = match self.family {
            Family::V4 => outcome.frame.get(30..34).and_then(|a| <[u8; 4]>::try_from(a).ok()).map(IpAddr::from),
            Family::V6 => outcome.frame.get(38..54).and_then(|a| <[u8; 16]>::try_from(a).ok()).map(IpAddr::from),
        };
        let expected = match decision {
            Decision::Backend(backend) => Some(self.family.address(backend)),
            Decision::NoBackend | Decision::Orphan => None,
        };
        self.compared.dropped += u64::from(expected.is_none());
        let went = (outcome.verdict == Verdict::Redirect).then_some(to).flatten();
        let fits = if expected.is_none() { outcome.verdict == Verdict::Drop } else { went == expected };
        ensure!(fits, "{decision:?}, {expected:?}; the program: {:?}, {to:?}", outcome.verdict);
        Ok(())
    }

    /// A packet of its backend's.
    fn answer(&mut self, flow: usize) -> Result<()> {
        self.compared.replies += 1;
        let ends = self.ends(flow);
        let home = self.shown.clients[flow].home().context("nobody answers")?.backend();
        let link = ethernet(ROUTER_MAC, DC_MAC);
        let packet: Packet = match (self.family.address(home), ends.client) {
            (IpAddr::V4(backend), IpAddr::V4(client)) => link / ipv4(backend, client),
            (IpAddr::V6(backend), IpAddr::V6(client)) => link / ipv6(backend, client),
            mixed => anyhow::bail!("no packet has {mixed:?}"),
        };
        let frame = if flow < TCP_FLOWS {
            (packet / tcp(PORT, ends.port).flags(ACK) / "reply").bytes()
        } else {
            (packet / udp(PORT, ends.port) / "reply").bytes()
        };
        let outcome = self.kernel.world.program.run(&frame, DC)?;
        ensure!(outcome.verdict == Verdict::Redirect, "a reply is {:?}", outcome.verdict);
        Ok(())
    }

    /// What is left behind.
    fn compare(&mut self, before: &Model, after: &Model, flow: usize, cpu: Cpu) -> Result<()> {
        let found = self.entry(flow)?;
        let expected = after.entries[flow].map(|state| self.family.state(state));
        let state = found.map(|entry| entry.state);
        ensure!(state == expected, "the entry is {state:x?}, not {expected:x?}");
        if let Some(FlowEntry { hash, service, .. }) = found {
            let whose = (self.ends(flow).hash, self.family.service());
            ensure!((hash, service) == whose, "the entry is not the flow's");
        }
        let ring = Model::ring_of(flow);
        let (place, by) = (self.place_on(ring, cpu.old), before.rings[ring].by_on(cpu.old));
        let slot = self.family.slot(ring, place);
        let word = self.kernel.world.program.row(0, slot, self.ends(flow).row(by))?;
        let (was, is) = (before.row_of(flow, cpu.old), after.row_of(flow, cpu.old));
        let expected = self.written(is);
        ensure!(word == expected, "the row is {word:x?}, not {expected:x?}");
        let used: FlowUse = self.kernel.world.program.get("FLOW_USES", self.family.service())?;
        let entries = after.entries.iter().flatten().count() as u64;
        ensure!(used.entries == entries, "{} entries are counted, not {entries}", used.entries);
        ensure!(used.refused == u64::from(after.refused), "refused in {}, not {}", used.refused, after.refused);
        if was != is {
            self.compared.pushed += 1;
            let words = after.rings[ring].words_on(cpu.old).to_vec();
            self.rewrite(ring, place, by, None, &words)?;
        }
        let now = before.its_second();
        self.compared.steady += u64::from(was.is_steady());
        self.compared.moving += u64::from(was.is_moving(now));
        self.compared.asked_before += u64::from(was.is_moving(now) && was.settled() == BEFORE);
        self.compared.exceptions += u64::from(!was.is_steady() && !was.is_moving(now));
        self.compared.written += u64::from(before.entries[flow].is_none() && after.entries[flow].is_some());
        self.compared.refused += after.tally.refused - before.tally.refused;
        Ok(())
    }
}
