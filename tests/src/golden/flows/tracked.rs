//! Flows that are tracked: what their table says while their row is steady, and what it learns while it is not.

use super::*;

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
