//! Flows that are tracked: what their table says while their row is steady, and what it learns while it is not.

use std::collections::BTreeSet;

use sluice::rows::sweep::Verdict;
use sluice::tracked::{Entry, Evicted, Findings, Memory, Walk};

use super::*;
use crate::progrun::{Counts, Settings};

/// On a steady row, of a tracked service; nothing is known of the flow before and after.
fn steady(name: &'static str, sent: Sent, outcome: Outcome) -> Scene {
    scene(name, Row::steady(OWNER), sent, outcome).with(|s| s.flags = TRACKED)
}

impl Scene {
    /// Of a tracked service.
    fn tracked(mut self) -> Self {
        self.flags |= TRACKED;
        self
    }

    /// There is a tracked flow, and it is what it was afterwards.
    fn knows(mut self, state: FlowState) -> Self {
        self.tracked.entry = Some(FlowEntry { hash: 0, service: ID, state });
        self.tracked.left = Some(state);
        (self.tracked.used, self.tracked.used_left) = (1, 1);
        self
    }

    fn tracks(mut self, state: FlowState) -> Self {
        self.tracked.left = Some(state);
        self.tracked.used_left = 1;
        self
    }

    fn notes(mut self, counts: &'static [&'static str]) -> Self {
        self.tracked.counts = counts;
        self
    }
}

pub(super) fn scenes() -> Vec<Scene> {
    [hits(), misses(), refusals(), orphans(), beside_rows()].concat()
}

fn hits() -> Vec<Scene> {
    const HIT: &[&str] = &["lookups", "hits"];
    vec![
        steady("a tracked flow goes where its entry says, and its second is noted", DATA, To(THIRD))
            .knows(established(THIRD, 5))
            .tracks(established(THIRD, 0))
            .notes(HIT),
        steady("a tracked flow in a tunnel goes where its entry says", DATA, To(THIRD))
            .knows(established(THIRD, 5))
            .tracks(established(THIRD, 0))
            .notes(HIT)
            .with(|s| s.forward = FORWARD_IPIP),
        steady("a tracked flow of this very second is not written again", DATA, To(THIRD))
            .knows(established(THIRD, 0))
            .notes(HIT),
        steady("a segment after the SYN makes a tracked flow established", DATA, To(THIRD))
            .knows(state(THIRD, PHASE_OPENING, 1))
            .tracks(established(THIRD, 0))
            .notes(HIT),
        steady("a SYN of a tracked flow that lives follows it", SYNS, To(THIRD))
            .knows(established(THIRD, 5))
            .tracks(established(THIRD, 0))
            .notes(HIT),
        steady("a FIN makes a tracked flow closing", FINISHES, To(THIRD))
            .knows(established(THIRD, 5))
            .tracks(state(THIRD, PHASE_CLOSING, 0))
            .notes(HIT),
        steady("a RST makes a tracked flow closing", RESETS, To(THIRD))
            .knows(established(THIRD, 5))
            .tracks(state(THIRD, PHASE_CLOSING, 0))
            .notes(HIT),
        steady("a tracked flow silent for exactly the timeout is one still", DATA, To(THIRD))
            .knows(established(THIRD, IDLE))
            .tracks(established(THIRD, 0))
            .notes(HIT),
        steady("a datagram follows its tracked flow", Sent::Query, To(THIRD))
            .knows(established(THIRD, IDLE_UDP))
            .tracks(established(THIRD, 0))
            .notes(HIT),
        steady("a quota that is used up does not keep a tracked flow from its entry", DATA, To(THIRD))
            .knows(established(THIRD, 5))
            .tracks(established(THIRD, 0))
            .notes(HIT)
            .with(|s| (s.tracked.quota, s.gate) = (0, 0)),
        steady("a tracked flow is known by its own ports where the client alone chooses the row", DATA, To(THIRD))
            .knows(established(THIRD, 5))
            .tracks(established(THIRD, 0))
            .notes(HIT)
            .with(|s| s.flags |= AFFINITY_SOURCE),
        steady("a tracked flow stays where it is though nobody owns its row", DATA, To(THIRD))
            .knows(established(THIRD, 5))
            .tracks(established(THIRD, 0))
            .notes(HIT)
            .with(|s| (s.row, s.row_left) = (Row::steady(0), Row::steady(0))),
    ]
}

fn misses() -> Vec<Scene> {
    const NEW: &[&str] = &["lookups", "written"];
    const FELL_BACK: &[&str] = &["lookups", "fallbacks", "written"];
    const REPLACED: &[&str] = &["lookups", "fallbacks", "replaced"];
    vec![
        steady("a SYN of a tracked service goes to the owner and is tracked", SYNS, To(OWNER))
            .tracks(state(OWNER, PHASE_OPENING, 0))
            .notes(NEW),
        steady("a tracked flow that nobody knows falls back to its row", DATA, To(OWNER))
            .tracks(established(OWNER, 0))
            .notes(FELL_BACK),
        steady("a tracked flow met at its FIN is tracked as closing", FINISHES, To(OWNER))
            .tracks(state(OWNER, PHASE_CLOSING, 0))
            .notes(FELL_BACK),
        steady("a tracked flow met at its RST is not tracked", RESETS, To(OWNER)).notes(&["lookups", "fallbacks"]),
        steady("a datagram of a tracked service is tracked, and is no fallback", Sent::Query, To(OWNER))
            .tracks(established(OWNER, 0))
            .notes(NEW),
        steady("a tracked service without a backend drops", SYNS, Drops(DropReason::NoBackend))
            .notes(&["lookups"])
            .with(|s| (s.row, s.row_left) = (Row::steady(0), Row::steady(0))),
        steady("a tracked flow silent for longer than the timeout is the owner's", DATA, To(OWNER))
            .knows(established(THIRD, IDLE + 1))
            .tracks(established(OWNER, 0))
            .notes(REPLACED),
        steady("a datagram of a tracked flow silent for longer is the owner's", Sent::Query, To(OWNER))
            .knows(established(THIRD, IDLE_UDP + 1))
            .tracks(established(OWNER, 0))
            .notes(&["lookups", "replaced"]),
        steady("a SYN on a tracked flow that is closing begins a new one", SYNS, To(OWNER))
            .knows(state(THIRD, PHASE_CLOSING, 5))
            .tracks(state(OWNER, PHASE_OPENING, 0))
            .notes(&["lookups", "replaced"]),
        steady("a tracked flow of a backend that is down is the owner's", DATA, To(OWNER))
            .knows(established(DOWN, 5))
            .tracks(established(OWNER, 0))
            .notes(REPLACED),
        steady("a tracked flow of an earlier life of a backend is the owner's", DATA, To(OWNER))
            .knows(FlowState::new(Life::new(THIRD, 7), PHASE_ESTABLISHED, NOW))
            .tracks(established(OWNER, 0))
            .notes(REPLACED),
        steady("an element that has become another tracked flow's is let alone", DATA, To(OWNER))
            .knows(established(THIRD, 5))
            .notes(&["lookups", "fallbacks", "refused_race"])
            .with(|s| s.tracked.entry = s.tracked.entry.map(|entry| FlowEntry { hash: 1, ..entry })),
        steady("a tracked flow that is being removed is let alone", DATA, To(OWNER))
            .knows(FlowState::LEAVING)
            .notes(&["lookups", "fallbacks", "refused_race"]),
        scene(
            "a tracked flow that the filter does not know is asked for, though its row is not steady",
            exceptions(false),
            DATA,
            To(THIRD),
        )
        .tracked()
        .knows(established(THIRD, 5))
        .tracks(established(THIRD, 0))
        .notes(&["lookups", "hits"]),
    ]
}

fn refusals() -> Vec<Scene> {
    let quota = |used, quota| {
        move |s: &mut Scene| {
            (s.tracked.used, s.tracked.used_left, s.tracked.quota) = (used, used, quota);
        }
    };
    vec![
        steady("a flow beyond the quota of tracked ones goes to the owner", SYNS, To(OWNER))
            .notes(&["lookups", "refused_quota"])
            .with(quota(3, 3)),
        steady("the last one of a quota is tracked", SYNS, To(OWNER))
            .tracks(state(OWNER, PHASE_OPENING, 0))
            .notes(&["lookups", "written"])
            .with(|s| (s.tracked.used, s.tracked.used_left, s.tracked.quota) = (2, 3, 3)),
        steady("a tracked flow that falls back and is refused goes to the owner", DATA, To(OWNER))
            .notes(&["lookups", "fallbacks", "refused_quota"])
            .with(quota(0, 0)),
        steady("a flow beyond this second's number of tracked ones goes to the owner", SYNS, To(OWNER))
            .notes(&["lookups", "refused_gate"])
            .with(|s| (s.gate, s.tracked.gate) = (5, u64::from(NOW) << 32 | 5)),
        steady("the last one of this second's number is tracked", SYNS, To(OWNER))
            .tracks(state(OWNER, PHASE_OPENING, 0))
            .notes(&["lookups", "written"])
            .with(|s| (s.gate, s.tracked.gate) = (5, u64::from(NOW) << 32 | 4)),
        steady("what rows have written down in this second leaves the gate of tracked flows open", SYNS, To(OWNER))
            .tracks(state(OWNER, PHASE_OPENING, 0))
            .notes(&["lookups", "written"])
            .with(|s| (s.gate, s.used.gate) = (5, u64::from(NOW) << 32 | 5)),
        steady("an entry that is overwritten needs no quota", DATA, To(OWNER))
            .knows(established(DOWN, 5))
            .tracks(established(OWNER, 0))
            .notes(&["lookups", "fallbacks", "replaced"])
            .with(|s| s.tracked.quota = 0),
    ]
}

fn orphans() -> Vec<Scene> {
    vec![
        steady("a tracked orphan is dropped where that is wanted", DATA, Drops(DropReason::BackendDown))
            .knows(established(DOWN, 5))
            .orphans(ORPHAN_DROP)
            .notes(&["lookups"]),
        steady(
            "a tracked orphan is answered with RST where that is wanted",
            DATA,
            Outcome::Resets { acknowledges: false },
        )
        .knows(established(DOWN, 5))
        .orphans(ORPHAN_RESET)
        .counts(&["resets"])
        .notes(&["lookups"]),
        steady("a tracked flow silent for longer than the timeout is no orphan", DATA, To(OWNER))
            .knows(established(DOWN, IDLE + 1))
            .orphans(ORPHAN_DROP)
            .tracks(established(OWNER, 0))
            .notes(&["lookups", "fallbacks", "replaced"]),
        steady("a SYN on a tracked flow of a backend that is down is no orphan", SYNS, To(OWNER))
            .knows(established(DOWN, 5))
            .orphans(ORPHAN_DROP)
            .tracks(state(OWNER, PHASE_OPENING, 0))
            .notes(&["lookups", "replaced"]),
    ]
}

/// While its row is not steady, a flow's row decides, and its table of tracked flows learns.
fn beside_rows() -> Vec<Scene> {
    const WRITTEN: &[&str] = &["lookups", "written"];
    vec![
        scene("what a moving row says of a flow it does not know is tracked", moving(10), DATA, To(SETTLED))
            .tracked()
            .left(established(SETTLED, 0))
            .counts(WRITTEN)
            .tracks(established(SETTLED, 0))
            .notes(&["written"]),
        scene("what a tunnel's moving row says is tracked", moving(10), SYNS, To(OWNER))
            .tracked()
            .left(state(OWNER, PHASE_OPENING, 0))
            .counts(WRITTEN)
            .tracks(state(OWNER, PHASE_OPENING, 0))
            .notes(&["written"])
            .with(|s| s.forward = FORWARD_IPIP),
        scene(
            "a moving row's entry is right, and a tracked flow that says otherwise is corrected",
            moving(10),
            DATA,
            To(THIRD),
        )
        .tracked()
        .entry(established(THIRD, 5))
        .left(established(THIRD, 0))
        .counts(&["lookups", "hits"])
        .knows(established(OWNER, 3))
        .tracks(established(THIRD, 0))
        .notes(&["replaced"]),
        scene("a moving row does not ask a tracked flow", moving(10), DATA, To(SETTLED))
            .tracked()
            .left(established(SETTLED, 0))
            .counts(WRITTEN)
            .knows(established(THIRD, 5))
            .tracks(established(SETTLED, 0))
            .notes(&["replaced"]),
        scene("a tracked flow on a moving row is kept up to date", moving(10), FINISHES, To(THIRD))
            .tracked()
            .entry(established(THIRD, 5))
            .left(state(THIRD, PHASE_CLOSING, 0))
            .counts(&["lookups", "hits"])
            .knows(established(THIRD, 5))
            .tracks(state(THIRD, PHASE_CLOSING, 0)),
        scene("a flow met at its RST on a moving row is not tracked", moving(10), RESETS, To(SETTLED))
            .tracked()
            .counts(&["lookups"]),
        scene("a flow whom a moving row could not write down is tracked", moving(100), DATA, To(SETTLED))
            .tracked()
            .counts(&["lookups", "refused_quota"])
            .refused(NOW + IDLE + MARGIN)
            .tracks(established(SETTLED, 0))
            .notes(&["written"])
            .with(|s| s.quota = 0),
        scene("a flow on a moving row that cannot be tracked goes all the same", moving(10), DATA, To(SETTLED))
            .tracked()
            .left(established(SETTLED, 0))
            .counts(WRITTEN)
            .notes(&["refused_quota"])
            .with(|s| s.tracked.quota = 0),
        scene("an exception's tracked flow is kept up to date", exceptions(true), DATA, To(THIRD))
            .tracked()
            .entry(established(THIRD, 5))
            .left(established(THIRD, 0))
            .counts(&["lookups", "hits"])
            .tracks(established(THIRD, 0))
            .notes(&["written"]),
        scene("an orphan on a moving row is not tracked", moving(10), DATA, Drops(DropReason::BackendDown))
            .tracked()
            .entry(established(DOWN, 5))
            .orphans(ORPHAN_DROP)
            .counts(&["lookups"]),
        scene(
            "nobody's flow on a moving row is not tracked",
            Row::moving(0, 0, NOW + IDLE),
            DATA,
            Drops(DropReason::NoBackend),
        )
        .tracked()
        .counts(&["lookups"]),
        scene(
            "a flow of a service that is not tracked is not, whatever the table says",
            Row::steady(OWNER),
            DATA,
            To(OWNER),
        )
        .knows(established(THIRD, 5)),
    ]
}

/// A table of its own that is deliberately small, and services with tracked flows in it.
struct Small {
    world: World,
    before: Counts,
}

/// Services of [`Small`]: ids and ports are one apart.
const FIRST: u16 = 0;
const SECOND: u16 = 1;

impl Small {
    fn new(room: u32, quota: u32, new_per_second: u32) -> Result<Self> {
        let mut world = World::new(&Settings { room_for_tracked: room, ..Settings::everything() })?;
        world.backend(OWNER, IpAddr::V4(backend4(OWNER)), 0, HOP_B1)?;
        for n in [FIRST, SECOND] {
            let id = ID + u32::from(n);
            let flags = TRACKED;
            let service = Service { id, ring: id, class: 0, forward: FORWARD_NAT, flags, before: 0 };
            world.program.set_ring(0, id, (0..1 << CLASSES[0]).map(|row| (row, Row::steady(OWNER))))?;
            let policy = FlowPolicy { tracked_quota4: quota, new_per_second, ..policy() };
            world.program.set("FLOW_POLICIES", id, policy)?;
            let vip = Endpoint4::from_host(VIP4.octets(), PORT + n, PROTO_TCP);
            world.program.insert("SERVICES4", vip, service)?;
        }
        let before = world.program.counters()?;
        Ok(Self { world, before })
    }

    /// A segment from each of these ports.
    fn send(&mut self, service: u16, ports: impl Iterator<Item = u16>, flags: u8, second: u32) -> Result<()> {
        self.world.program.set_clock(u64::from(second))?;
        for port in ports {
            let link = ethernet(ROUTER_MAC, LAN_MAC);
            let packet: Packet = link / ipv4(CLIENT4, VIP4) / tcp(port, PORT + service).flags(flags) / "data";
            let outcome = self.world.program.run(&packet.bytes(), LAN)?;
            ensure!(outcome.verdict == crate::progrun::Verdict::Redirect, "from port {port}: {:?}", outcome.verdict);
        }
        Ok(())
    }

    /// Ports whose flow is tracked.
    fn there(&mut self, service: u16) -> Result<BTreeSet<u16>> {
        let flows = self.world.program.entries::<Flow4, FlowEntry>("TRACKED4")?;
        let theirs = flows.into_iter().filter(|(_, entry)| entry.service == ID + u32::from(service));
        Ok(theirs.map(|(flow, _)| port_of(&flow)).collect())
    }

    /// How often the first service counted that since it began.
    fn counted(&mut self, service: u16, what: &str) -> Result<u64> {
        let counts = self.world.program.counters()?.since(&self.before);
        Ok(counts.get(&format!("service {} tracked {what}", ID + u32::from(service))))
    }

    /// A walk as the controller does it, of which nobody is removed; the counts are put right.
    fn walk(&mut self, before: Option<Memory>, now: u32) -> Result<Findings> {
        let services = (0..ID + 2).map(|id| self.world.program.get::<FlowUse>("FLOW_USES", id));
        let uses: Vec<FlowUse> = services.collect::<Result<_>>()?;
        let words: Vec<_> = uses.iter().map(|uses| [uses.tracked4, uses.tracked6]).collect();
        let mut walk = Walk::begin(words.clone(), Vec::new(), before, true, now);
        for (flow, entry) in self.world.program.entries::<Flow4, FlowEntry>("TRACKED4")? {
            let entry = Entry {
                key: u64::from(port_of(&flow)) << 32 | u64::from(entry.service),
                service: entry.service,
                family: 0,
                tcp: true,
                timeouts: Some(lb_common::rows::Timeouts { opening: OPENING, idle: IDLE }),
                twice: false,
                state: entry.state,
            };
            let life = |id| Some(Life::new(id, 1));
            ensure!(walk.see(&entry, life, now) == Verdict::Keep, "nobody is over");
        }
        let found = walk.end(&words, now);
        for (service, family, by) in &found.corrections {
            ensure!(*family == 0, "IPv6 is counted");
            let mut uses = uses[*service as usize];
            uses.tracked4 = uses.tracked4.wrapping_add_signed(*by);
            self.world.program.set("FLOW_USES", *service, uses)?;
        }
        Ok(found)
    }
}

fn port_of(flow: &Flow4) -> u16 {
    let [a, b, ..] = flow.ports.to_ne_bytes();
    u16::from_be_bytes([a, b])
}

type Table = (&'static str, fn(&mut World) -> Result<()>);

pub(super) fn tables() -> [Table; 3] {
    [
        ("a full table of tracked flows pushes out the silent ones, and walks tell how many and how old", pushes_out),
        ("a service that is flooded does not push out another one's tracked flows", quotas_hold),
        ("a flood of new flows is let through the gate a second's number at a time", the_gate_holds),
    ]
}

fn pushes_out(_: &mut World) -> Result<()> {
    const ROOM: u32 = 512;
    let mut small = Small::new(ROOM, 100_000, 100_000)?;
    let (old, busy, new) = (1..=300, 1..=50, 1_001..=1_600);
    small.send(FIRST, old.clone(), ACK, NOW)?;
    let first = small.walk(None, NOW + 10)?;
    ensure!(first.present[ID as usize] == [300, 0] && first.evicted.is_empty(), "{first:?}");

    small.send(FIRST, busy.clone(), ACK, NOW + 20)?;
    small.send(FIRST, new.clone(), SYN, NOW + 20)?;
    ensure!(
        small.counted(FIRST, "written")? == 900 && small.counted(FIRST, "refused_full")? == 0,
        "somebody was refused"
    );
    let there = small.there(FIRST)?;
    ensure!(there.len() < ROOM as usize + 1, "{} flows in a table for {ROOM}", there.len());
    let gone = old.clone().chain(new.clone()).filter(|port| !there.contains(port)).count() as u64;
    let stayed = |ports: std::ops::RangeInclusive<u16>| ports.filter(|port| there.contains(port)).count();
    ensure!(
        stayed(busy) > 45 && stayed(51..=300) < 150,
        "{} busy ones stayed, {} silent ones",
        stayed(1..=50),
        stayed(51..=300)
    );

    let second = small.walk(first.memory, NOW + 25)?;
    let [Evicted { service: ID, flows, youngest: Some(youngest) }] = second.evicted[..] else {
        anyhow::bail!("{:?}", second.evicted);
    };
    ensure!(flows == gone, "{gone} are gone, and {flows} are said to be");
    // Those of which the first walk knows were silent for 25 s. If there are more, they came and went in the 15 s between.
    let known = old.clone().filter(|port| !there.contains(port)).count() as u64;
    ensure!(youngest == if gone > known { 15 } else { 25 }, "{youngest} s, {known} of {gone}");
    let uses: FlowUse = small.world.program.get("FLOW_USES", ID)?;
    ensure!(uses.tracked4 == there.len() as u64, "{} are there, and {} are said to be", there.len(), uses.tracked4);
    let third = small.walk(second.memory, NOW + 26)?;
    ensure!(third.evicted.is_empty(), "they are counted once: {:?}", third.evicted);

    // Whoever is gone goes on by the ring.
    let Some(one) = old.clone().find(|port| !there.contains(port)) else { anyhow::bail!("nobody is gone") };
    small.send(FIRST, one..=one, ACK, NOW + 26)?;
    ensure!(small.counted(FIRST, "fallbacks")? == 300 + 1, "{} fallbacks", small.counted(FIRST, "fallbacks")?);
    Ok(())
}

fn quotas_hold(_: &mut World) -> Result<()> {
    const QUOTA: u32 = 100;
    // As the controller makes it: the quotas, and what the kernel keeps at hand for each CPU.
    let cpus = aya::util::nr_cpus().map_err(|(_, e)| e)? as u32;
    let mut small = Small::new(2 * QUOTA + 128 * cpus, QUOTA, 100_000)?;
    small.send(FIRST, 1..=100, ACK, NOW)?;
    small.send(SECOND, 1..=5_000, SYN, NOW + 1)?;
    ensure!(small.counted(SECOND, "written")? == 100 && small.counted(SECOND, "refused_quota")? == 4_900, "the quota");
    ensure!(small.there(FIRST)? == (1..=100).collect(), "{:?} are left", small.there(FIRST)?);
    ensure!(small.there(SECOND)? == (1..=100).collect(), "who came first stays");
    let found = small.walk(None, NOW + 2)?;
    ensure!(found.evicted.is_empty() && found.corrections.is_empty(), "{found:?}");
    // The first one's are at home still.
    small.send(FIRST, 1..=100, ACK, NOW + 3)?;
    ensure!(small.counted(FIRST, "hits")? == 100 && small.counted(FIRST, "fallbacks")? == 100, "hits");
    Ok(())
}

fn the_gate_holds(_: &mut World) -> Result<()> {
    let mut small = Small::new(4096, 100_000, 50)?;
    small.send(FIRST, 1..=200, SYN, NOW)?;
    small.send(SECOND, 1..=10, SYN, NOW)?;
    let counts =
        [small.counted(FIRST, "written")?, small.counted(FIRST, "refused_gate")?, small.counted(SECOND, "written")?];
    ensure!(counts == [50, 150, 10], "{counts:?}");
    small.send(FIRST, 1..=200, ACK, NOW + 1)?;
    let counts =
        [small.counted(FIRST, "written")?, small.counted(FIRST, "refused_gate")?, small.counted(FIRST, "hits")?];
    ensure!(counts == [100, 250, 50], "{counts:?}");
    Ok(())
}
