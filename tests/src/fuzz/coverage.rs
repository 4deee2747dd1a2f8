//! Which verdicts and drop reasons were reached, on whose behalf: a fuzzer that never gets somewhere proves nothing
//! about it.
//!
//! Every cell of (verdict or reason) × (family and path) is one of three: it must be reached, it may be, or it
//! cannot be — and then the reason why not stands here, and reaching it is as wrong as missing one that must be.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lb_common::counters::DropReason;
use lb_common::ring::CLASSES;

use crate::model::checksum::{Judged, audit};
use crate::model::decap::{Content, Inside, Kind};
use crate::model::read::{self, Datagram, ETHERNET, Piece, be16};
use crate::model::rows::{Fate, Proof, Was};
use crate::model::tracked::Told;
use crate::model::tunnel;
use crate::model::{Arrival, Family, Outcome, Path, RowKind, Verdict};

/// A verdict without its interface, or the reason of a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Pass,
    Transmit,
    Redirect,
    Drop(DropReason),
}

impl What {
    fn all() -> impl Iterator<Item = Self> {
        [Self::Pass, Self::Transmit, Self::Redirect].into_iter().chain(DropReason::ALL.map(Self::Drop))
    }

    fn name(self) -> String {
        match self {
            Self::Pass => "pass".into(),
            Self::Transmit => "transmit".into(),
            Self::Redirect => "redirect".into(),
            Self::Drop(reason) => format!("drop {}", reason.name()),
        }
    }
}

impl From<Verdict> for What {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Drop(reason) => Self::Drop(reason),
            Verdict::Transmit => Self::Transmit,
            Verdict::Redirect(_) => Self::Redirect,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Must,
    May,
    /// And why.
    Cannot(&'static str),
}

/// The columns of the table: family and path.
const COLUMNS: [(Family, Path, &str); 20] = [
    (Family::V4, Path::Nat, "4 nat"),
    (Family::V4, Path::Ipip, "4 ipip"),
    (Family::V4, Path::Encapsulated, "4 encap"),
    (Family::V4, Path::DsrL2, "4 dsr"),
    (Family::V4, Path::Reply, "4 reply"),
    (Family::V4, Path::Echo, "4 echo"),
    (Family::V4, Path::Unknown, "4 ?"),
    (Family::V4, Path::Nobody, "4 -"),
    (Family::V6, Path::Nat, "6 nat"),
    (Family::V6, Path::Ipip, "6 ipip"),
    (Family::V6, Path::Encapsulated, "6 encap"),
    (Family::V6, Path::DsrL2, "6 dsr"),
    (Family::V6, Path::Reply, "6 reply"),
    (Family::V6, Path::Echo, "6 echo"),
    (Family::V6, Path::Unknown, "6 ?"),
    (Family::V6, Path::Nobody, "6 -"),
    (Family::Other, Path::Nobody, "other"),
    (Family::V4, Path::Tunnelled, "4 decap"),
    (Family::V6, Path::Tunnelled, "6 decap"),
    (Family::Other, Path::Tunnelled, "decap"),
];

fn need(family: Family, path: Path, what: What) -> Need {
    use DropReason::*;
    match (path, what) {
        (Path::Nobody | Path::Tunnelled, What::Pass) => Need::Must,
        (Path::Tunnelled, _) => Need::Cannot("at a backend host the host gets everything"),
        (Path::Nobody, _) => Need::Cannot("what is for no service passes"),
        (Path::Echo, What::Transmit) => Need::Must,
        (Path::Echo, _) => Need::Cannot("an echo request for a service's address is answered"),
        (Path::Reply, What::Drop(BackendDown)) => Need::Cannot("replies prove their backend up"),
        (_, What::Pass) => Need::Cannot("a service's packet is forwarded or dropped"),
        (Path::Unknown, What::Drop(Internal)) => Need::Must,
        (Path::Unknown, What::Drop(NoBackend | BackendDown | NoRing | Truncated | Fragment | TtlExceeded)) => Need::May,
        (Path::Unknown, What::Transmit) => Need::May,
        (Path::Unknown, _) => Need::Cannot("an unknown way of forwarding ends before a next hop is looked for"),
        (Path::Reply, What::Drop(NoBackend | NoRing)) => Need::Cannot("replies need no ring"),
        (Path::Reply, What::Drop(Internal)) => Need::Cannot("nothing on a reply's way can contradict itself"),
        // Few IPv6 packets are first fragments, and fewer where those are not followed; IPv4's show that it is done.
        (_, What::Drop(Fragment)) if family == Family::V6 => Need::May,
        // Only for VLAN tags.
        (Path::Nat | Path::DsrL2 | Path::Reply, What::Drop(NoHeadroom)) => Need::May,
        _ => Need::Must,
    }
}

/// What marks are told by: a packet, what the model says became of it, and what was in it.
struct Seen<'a> {
    /// Without its VLAN tags, as what is found in it.
    frame: Vec<u8>,
    outcome: &'a Outcome,
    packet: Option<Datagram>,
    /// Of what is sent only: it takes adding up the packet.
    judged: Vec<Judged>,
}

impl<'a> Seen<'a> {
    fn new(arrival: &Arrival, outcome: &'a Outcome) -> Self {
        let (frame, _) = read::untagged(&arrival.frame);
        let sent = outcome.verdict.is_sent();
        let judged = if sent { audit(&frame) } else { Vec::new() };
        let packet = read::datagram(&frame).filter(|_| sent);
        Self { frame, outcome, packet, judged }
    }

    fn family(&self, family: Family) -> bool {
        self.outcome.trace.family == family
    }

    fn translated(&self) -> bool {
        matches!(self.outcome.trace.path, Path::Nat | Path::Reply) && self.packet.is_some()
    }

    /// The checksum of TCP or UDP as it left.
    fn sum(&self) -> Option<u16> {
        be16(&read::untagged(&self.outcome.frame).0, self.packet?.checksum_at())
    }

    /// Its service listens on more addresses than the packet's.
    fn prefix(&self) -> bool {
        self.outcome.trace.wide.is_some_and(|l| l.prefix.length != if l.prefix.address.is_ipv4() { 32 } else { 128 })
    }

    /// Its service listens on more ports than the packet's.
    fn range(&self) -> bool {
        self.outcome.trace.wide.is_some_and(|l| l.first != l.last)
    }

    fn wide_reply(&self) -> bool {
        self.outcome.trace.wide_reply
    }

    fn found(&self, content: Content) -> bool {
        self.outcome.trace.content == Some(content)
    }

    fn tracked(&self, told: Told) -> bool {
        self.outcome.trace.tracked == Some(told)
    }

    fn proof(&self, proof: Proof) -> bool {
        self.outcome.trace.proof == Some(proof)
    }

    fn before(&self, was: Was) -> bool {
        self.outcome.trace.notes.before == Some(was)
    }

    fn sent(&self) -> bool {
        self.outcome.verdict.is_sent()
    }

    fn clamped(&self, reply: bool) -> bool {
        self.outcome.trace.clamped && self.sent() && (self.outcome.trace.path == Path::Reply) == reply
    }

    fn error(&self, path: Path) -> bool {
        self.piece(Piece::Error) && self.sent() && self.outcome.trace.path == path
    }

    fn piece(&self, piece: Piece) -> bool {
        self.outcome.trace.piece == Some(piece)
    }

    fn refused(&self) -> bool {
        use Fate::*;
        matches!(self.outcome.trace.fate, Some(OverQuota | OverGate | TableFull | InTheWay))
    }

    fn answered(&self, family: Family, acknowledges: bool) -> bool {
        let flags = if family == Family::V4 { ETHERNET + 20 + 13 } else { ETHERNET + 40 + 13 };
        let trace = &self.outcome.trace;
        trace.answered
            && !trace.echoed
            && !trace.told_too_big
            && self.family(family)
            && self.outcome.frame.get(flags).is_some_and(|flags| (flags & 0x10 != 0) == acknowledges)
    }

    /// What came out of its tunnel.
    fn unwrapped(&self) -> Option<Inside> {
        match self.outcome.trace.content {
            Some(Content::Ours(inside)) => Some(inside),
            _ => None,
        }
    }

    /// A packet of this family came out of its tunnel with another ECN field than it had in there.
    fn remarked(&self, family: Family) -> bool {
        let changed = |inside: Inside| be16(&self.frame, inside.at) != be16(&self.outcome.frame, ETHERNET);
        self.unwrapped().is_some_and(|inside| inside.family == family && changed(inside))
    }
}

/// Something beside a verdict that must have happened: its name, and how it is told.
type Mark = (&'static str, fn(&Seen<'_>) -> bool);

const MARKS: [Mark; 97] = [
    ("next hop by the kernel, IPv4", |s| s.packet.is_some() && s.outcome.trace.asked && s.family(Family::V4)),
    ("next hop by the kernel, IPv6", |s| s.packet.is_some() && s.outcome.trace.asked && s.family(Family::V6)),
    ("event told", |s| s.outcome.trace.told == Some(true)),
    ("event withheld, the budget is spent", |s| s.outcome.trace.told == Some(false)),
    ("a frame too short for an IPv4 header", |s| s.family(Family::V4) && s.frame.len() < ETHERNET + 20),
    ("a frame too short for an IPv6 header", |s| s.family(Family::V6) && s.frame.len() < ETHERNET + 40),
    ("a frame of more than 2,000 bytes", |s| s.frame.len() > 2000),
    ("UDP without a checksum translated", |s| s.translated() && s.judged.contains(&Judged::None)),
    ("a sum left as 0x0000", |s| s.translated() && s.sum() == Some(0) && !s.judged.contains(&Judged::None)),
    ("a sum left as 0xffff", |s| s.translated() && s.sum() == Some(0xffff)),
    ("a wrong checksum forwarded", |s| {
        s.judged.iter().any(|j| matches!(j, Judged::Ipv4(false) | Judged::Transport(false)))
    }),
    ("IPv4 options forwarded", |s| s.family(Family::V4) && s.packet.is_some_and(|p| p.l4 > ETHERNET + 20)),
    ("padding forwarded", |s| s.packet.is_some_and(|p| s.frame.len() > ETHERNET + p.length)),
    ("a TCP packet that opens a connection forwarded", |s| s.packet.is_some_and(|p| p.opens(&s.frame))),
    ("a packet unwrapped, congestion carried inside, 4in4", |s| s.family(Family::V4) && s.remarked(Family::V4)),
    ("a packet unwrapped, congestion carried inside, 6in6", |s| s.family(Family::V6) && s.remarked(Family::V6)),
    ("a packet unwrapped, congestion carried inside, 4in6", |s| s.family(Family::V6) && s.remarked(Family::V4)),
    ("a packet unwrapped, congestion carried inside, 6in4", |s| s.family(Family::V4) && s.remarked(Family::V6)),
    ("a packet unwrapped as it was", |s| s.unwrapped().is_some() && !s.remarked(Family::V4) && !s.remarked(Family::V6)),
    ("a tunnelled packet for somebody else", |s| s.found(Content::Unlisted)),
    ("congestion marked where no ECN is", |s| s.found(Content::Mismarked)),
    ("a tracked flow followed, IPv4", |s| s.tracked(Told::Followed) && s.family(Family::V4)),
    ("a tracked flow followed, IPv6", |s| s.tracked(Told::Followed) && s.family(Family::V6)),
    ("a flow tracked from now on", |s| s.tracked(Told::Written)),
    ("a tracked flow that had said something else", |s| s.tracked(Told::Replaced)),
    ("an unknown tracked flow that ends", |s| s.tracked(Told::Ended)),
    ("a flow beyond the quota of tracked ones", |s| s.tracked(Told::OverQuota)),
    ("a flow beyond a second's number of tracked ones", |s| s.tracked(Told::OverGate)),
    ("a tracked flow whose row nobody owns", |s| s.tracked(Told::NoBackend)),
    ("a tracked flow whose backend is down, and no other's", |s| s.tracked(Told::Orphan)),
    ("a tracked flow noted as its moving row had decided", |s| s.tracked(Told::Noted)),
    ("a tracked flow of which nothing new was to be noted", |s| s.tracked(Told::Known)),
    ("an answer of RST, IPv4", |s| s.answered(Family::V4, false)),
    ("an answer of RST and ACK, IPv4", |s| s.answered(Family::V4, true)),
    ("an answer of RST, IPv6", |s| s.answered(Family::V6, false)),
    ("an answer of RST and ACK, IPv6", |s| s.answered(Family::V6, true)),
    ("a tracked flow's orphan answered", |s| s.tracked(Told::Orphan) && s.outcome.trace.answered),
    ("an orphan that cannot be answered, for its header's length", |s| s.outcome.trace.unanswerable),
    ("a row that moves for longer, as a flow was refused", |s| s.outcome.trace.notes.pushed),
    ("a row that moves for long enough when a flow is refused", |s| s.refused() && !s.outcome.trace.notes.pushed),
    ("a refused flow that went to the owner", |s| s.refused() && s.outcome.trace.notes.without_settled),
    ("a refused flow that went to `settled`", |s| s.refused() && !s.outcome.trace.notes.without_settled),
    ("an orphan by looks that may have been refused", |s| s.outcome.trace.notes.spared),
    ("the ring before asked: nobody's", |s| s.before(Was::Nobodys)),
    ("the ring before asked: the owner's", |s| s.before(Was::Owners)),
    ("the ring before asked: `settled`'s", |s| s.before(Was::Settleds)),
    ("the ring before asked, and its backend is down", |s| {
        s.before(Was::Owners) && s.outcome.trace.notes.without_settled
    }),
    ("a row that a client alone chose, not steady", |s| s.outcome.trace.by_client && s.outcome.trace.fate.is_some()),
    ("a reply that proved whose its flow is, IPv4", |s| s.proof(Proof::Written) && s.family(Family::V4)),
    ("a reply that proved whose its flow is, IPv6", |s| s.proof(Proof::Written) && s.family(Family::V6)),
    ("a reply of a flow that was known", |s| s.proof(Proof::Known)),
    ("a reply whose row does not move", |s| s.proof(Proof::AtRest)),
    ("a reply of a backend that is down", |s| s.proof(Proof::Down)),
    ("a reply that could not be written down", |s| s.proof(Proof::Refused)),
    ("a reply that nobody looked at", |s| s.proof(Proof::Unlooked)),
    ("a packet from a VLAN forwarded", |s| s.sent() && s.outcome.trace.tags == 1),
    ("a packet from a VLAN in a VLAN forwarded", |s| s.sent() && s.outcome.trace.tags == 2),
    ("a packet from a VLAN passed", |s| s.outcome.verdict == Verdict::Pass && s.outcome.trace.tags > 0),
    ("an answer into a VLAN", |s| s.outcome.trace.answered && s.outcome.trace.tags > 0),
    ("a packet sent into a VLAN", |s| s.sent() && s.outcome.trace.tagged == 1),
    ("a packet sent into a VLAN in a VLAN", |s| s.sent() && s.outcome.trace.tagged == 2),
    ("a tunnelled packet sent into a VLAN", |s| s.outcome.trace.tunnel.is_some() && s.outcome.trace.tagged > 0),
    ("a packet with IPv6 extension headers translated", |s| s.translated() && s.outcome.trace.extensions),
    ("a packet with IPv6 extension headers tunnelled", |s| {
        s.outcome.trace.tunnel.is_some() && s.outcome.trace.extensions
    }),
    ("a first fragment sent, IPv4", |s| s.piece(Piece::First) && s.sent() && s.family(Family::V4)),
    ("a first fragment sent, IPv6", |s| s.piece(Piece::First) && s.sent() && s.family(Family::V6)),
    ("a later fragment sent, IPv4", |s| s.piece(Piece::Later) && s.sent() && s.family(Family::V4)),
    ("a later fragment sent, IPv6", |s| s.piece(Piece::Later) && s.sent() && s.family(Family::V6)),
    ("a later fragment of a reply", |s| s.piece(Piece::Later) && s.sent() && s.outcome.trace.path == Path::Reply),
    ("a later fragment tunnelled", |s| s.piece(Piece::Later) && s.outcome.trace.tunnel.is_some()),
    ("a later fragment without a first one", |s| s.outcome.trace.followed == Some(false)),
    ("an error to a NAT backend, IPv4", |s| s.error(Path::Nat) && s.family(Family::V4)),
    ("an error to a NAT backend, IPv6", |s| s.error(Path::Nat) && s.family(Family::V6)),
    ("an error from a NAT backend, IPv4", |s| s.error(Path::Reply) && s.family(Family::V4)),
    ("an error from a NAT backend, IPv6", |s| s.error(Path::Reply) && s.family(Family::V6)),
    ("an error to a backend on the link", |s| s.error(Path::DsrL2)),
    ("an error by IP in IP", |s| s.error(Path::Ipip)),
    ("an error by another tunnel", |s| s.error(Path::Encapsulated)),
    ("an error about a flow whose row is not steady", |s| {
        s.piece(Piece::Error) && s.sent() && s.outcome.trace.kind.is_some_and(|kind| kind != RowKind::Steady)
    }),
    ("an error that quotes too little", |s| {
        s.piece(Piece::Error) && s.outcome.verdict == Verdict::Drop(DropReason::Truncated)
    }),
    ("an MSS lowered towards a backend, IPv4", |s| s.clamped(false) && s.family(Family::V4)),
    ("an MSS lowered towards a backend, IPv6", |s| s.clamped(false) && s.family(Family::V6)),
    ("an MSS lowered towards a client", |s| s.clamped(true)),
    ("an MSS lowered in a tunnel", |s| s.clamped(false) && s.outcome.trace.tunnel.is_some()),
    ("an echo answered, IPv4", |s| s.outcome.trace.echoed && s.family(Family::V4)),
    ("an echo answered, IPv6", |s| s.outcome.trace.echoed && s.family(Family::V6)),
    ("a sender told that its packet is too big, IPv4", |s| s.outcome.trace.told_too_big && s.family(Family::V4)),
    ("a sender told that its packet is too big, IPv6", |s| s.outcome.trace.told_too_big && s.family(Family::V6)),
    ("a packet for one of many addresses, IPv4", |s| s.packet.is_some() && s.prefix() && s.family(Family::V4)),
    ("a packet for one of many addresses, IPv6", |s| s.packet.is_some() && s.prefix() && s.family(Family::V6)),
    ("a packet for one of many ports, IPv4", |s| s.packet.is_some() && s.range() && s.family(Family::V4)),
    ("a packet for one of many ports, IPv6", |s| s.packet.is_some() && s.range() && s.family(Family::V6)),
    ("a packet for one of many, dropped", |s| s.outcome.trace.wide.is_some() && !s.outcome.verdict.is_sent()),
    ("a reply from one of many ports, IPv4", |s| s.packet.is_some() && s.wide_reply() && s.family(Family::V4)),
    ("a reply from one of many ports, IPv6", |s| s.packet.is_some() && s.wide_reply() && s.family(Family::V6)),
    ("a reply from one of many ports that proved whose its flow is", |s| s.wide_reply() && s.proof(Proof::Written)),
    ("a tracked flow to one of many endpoints", |s| s.outcome.trace.wide.is_some() && s.tracked(Told::Followed)),
];

/// Kinds of tunnel, by what is outside and inside, or as somebody else writes them: all but plain IP in IP must be seen
/// in every way.
fn tunnels() -> impl Iterator<Item = (Kind, Option<(Family, Family)>, String)> {
    let families = [(Family::V4, "4"), (Family::V6, "6")];
    let ways = families.map(|inner| families.map(|outer| (inner, outer)));
    Kind::ALL.into_iter().flat_map(move |(kind, name)| {
        let ours = ways.as_flattened().to_vec().into_iter().map(move |((inner, i), (outer, o))| {
            (kind, Some((outer, inner)), format!("a packet unwrapped, {i}in{o} by {name}"))
        });
        let foreign = (kind != Kind::IpInIp).then(|| (kind, None, format!("{name}, but not as Sluice writes it")));
        ours.chain(foreign)
    })
}

/// Every kind of tunnel that packets are put into, over and through both families.
fn entered() -> impl Iterator<Item = ((tunnel::Kind, Family, Family), String)> {
    let families = [(Family::V4, "4"), (Family::V6, "6")];
    tunnel::Kind::ALL.into_iter().flat_map(move |(kind, name)| {
        families.into_iter().flat_map(move |(outer, o)| {
            families.map(|(inner, i)| ((kind, outer, inner), format!("a packet sent, {i}in{o} by {name}")))
        })
    })
}

/// Kinds of rows that a flow is looked up for.
const KINDS: [(RowKind, &str); 3] =
    [(RowKind::Moving, "moving"), (RowKind::Over, "over"), (RowKind::Exceptions, "exceptions")];

/// What becomes of flows there, and whether it can on a row that moves, and on one that does not.
const FATES: [(Fate, bool, bool, &str); 23] = [
    (Fate::Followed, true, true, "followed"),
    (Fate::Owners, false, true, "not written down, so the owner's"),
    (Fate::MetMidway, true, false, "met midway and written down"),
    (Fate::Opened, true, false, "opened with the owner"),
    (Fate::OpenedAfterChange, true, false, "opened with `settled`, just after a change"),
    (Fate::OpenedAfterRefusal, true, false, "opened with `settled`, just after a refusal"),
    (Fate::Claimed, true, false, "written down where nothing was said"),
    (Fate::OverDead, true, false, "written over an entry that was dead"),
    (Fate::OverSilent, true, false, "written over an entry that was silent for too long"),
    (Fate::OverClosing, true, false, "written over an entry that was closing"),
    (Fate::VacatedDead, false, true, "an entry that was dead made vacant"),
    (Fate::VacatedSilent, false, true, "an entry that was silent made vacant"),
    (Fate::VacatedClosing, false, true, "an entry that was closing made vacant"),
    (Fate::Kept, true, true, "an entry kept, as nobody gets the packet"),
    (Fate::Unheard, true, false, "not written down, as nobody gets the packet"),
    (Fate::Ended, true, false, "not written down, as it ends"),
    (Fate::Nobodys, true, true, "nobody's"),
    (Fate::OrphanOfEntry, true, true, "an orphan by its entry"),
    (Fate::OrphanOfSettled, true, false, "an orphan, as `settled` is down"),
    (Fate::OverQuota, true, false, "beyond the quota"),
    (Fate::OverGate, true, false, "beyond a second's number"),
    (Fate::TableFull, true, false, "no room"),
    (Fate::InTheWay, true, false, "another's element in its place"),
];

/// It is the filter that does not ask.
const UNASKED: &str = "not known to the filter of its row";

#[derive(Clone, Debug, Default)]
pub struct Coverage {
    pub packets: u64,
    cells: BTreeMap<(Family, Path, What), u64>,
    marks: BTreeMap<&'static str, u64>,
    tunnels: BTreeMap<(Kind, Option<(Family, Family)>), u64>,
    /// What packets were put into, by family outside and inside.
    entered: BTreeMap<(tunnel::Kind, Family, Family), u64>,
    fates: BTreeMap<(RowKind, Fate, Family), u64>,
    classes: [u64; CLASSES.len()],
}

impl Coverage {
    /// Counts what the model says became of a packet.
    pub fn packet(&mut self, arrival: &Arrival, outcome: &Outcome) {
        self.packets += 1;
        let trace = &outcome.trace;
        *self.cells.entry((trace.family, trace.path, outcome.verdict.into())).or_default() += 1;
        if let Some(class) = trace.ring_class {
            self.classes[usize::from(class)] += 1;
        }
        match trace.content {
            Some(Content::Ours(Inside { kind, family, .. })) => {
                *self.tunnels.entry((kind, Some((trace.family, family)))).or_default() += 1;
            }
            Some(Content::Foreign(kind)) => *self.tunnels.entry((kind, None)).or_default() += 1,
            _ => {}
        }
        if let Some((kind, outer)) = trace.tunnel.filter(|_| outcome.verdict.is_sent()) {
            *self.entered.entry((kind, outer, trace.family)).or_default() += 1;
        }
        if let (Some(kind), Some(fate)) = (trace.kind, trace.fate) {
            *self.fates.entry((kind, fate, trace.family)).or_default() += 1;
        }
        let seen = Seen::new(arrival, outcome);
        for (mark, happened) in MARKS {
            *self.marks.entry(mark).or_default() += u64::from(happened(&seen));
        }
    }

    fn count(&self, family: Family, path: Path, what: What) -> u64 {
        self.cells.get(&(family, path, what)).copied().unwrap_or(0)
    }

    /// Lines about flows on rows that are not steady: what, whether it can be, and how often it was, by family.
    fn flows(&self) -> Vec<(String, bool, [u64; 2])> {
        let by_family = |kind, fate| {
            [Family::V4, Family::V6].map(|family| self.fates.get(&(kind, fate, family)).copied().unwrap_or(0))
        };
        let mut lines = Vec::new();
        for (kind, name) in KINDS {
            for (fate, moving, at_rest, what) in FATES {
                let can = if kind == RowKind::Moving { moving } else { at_rest };
                lines.push((format!("{name}: {what}"), can, by_family(kind, fate)));
            }
            let can = kind == RowKind::Exceptions;
            lines.push((format!("{name}: {UNASKED}"), can, by_family(kind, Fate::Unasked)));
        }
        lines
    }

    /// What is missing, and what was reached that cannot be.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (family, path, column) in COLUMNS {
            for what in What::all() {
                match (need(family, path, what), self.count(family, path, what)) {
                    (Need::Must, 0) => complaints.push(format!("never reached: {} ({column})", what.name())),
                    (Need::Cannot(why), n @ 1..) => {
                        complaints.push(format!("reached {n} times: {} ({column}), though {why}", what.name()));
                    }
                    _ => {}
                }
            }
        }
        for (mark, _) in MARKS {
            if self.marks.get(mark).is_none_or(|n| *n == 0) {
                complaints.push(format!("never happened: {mark}"));
            }
        }
        for (way, name) in entered() {
            if !self.entered.contains_key(&way) {
                complaints.push(format!("never happened: {name}"));
            }
        }
        for (kind, way, name) in tunnels() {
            if !self.tunnels.contains_key(&(kind, way)) {
                complaints.push(format!("never happened: {name}"));
            }
        }
        for (what, can, [v4, v6]) in self.flows() {
            match (can, v4.min(v6)) {
                (true, 0) => complaints.push(format!("never happened in both families: a flow on a row, {what}")),
                (false, _) if v4 + v6 > 0 => complaints.push(format!("happened: a flow on a row, {what}")),
                _ => {}
            }
        }
        for (class, log2) in CLASSES.iter().enumerate() {
            if self.classes[class] == 0 {
                complaints.push(format!("never used: a ring of 2^{log2} rows"));
            }
        }
        complaints
    }

    /// The table: `.` for what cannot be, `-` for what was not reached but may be, `MISSING` for what must be.
    pub fn table(&self) -> String {
        let mut text = format!("{:26}", "");
        for (.., column) in COLUMNS {
            let _ = write!(text, "{column:>9}");
        }
        for what in What::all() {
            let _ = write!(text, "\n{:26}", what.name());
            for (family, path, _) in COLUMNS {
                let cell = match (need(family, path, what), self.count(family, path, what)) {
                    (Need::Cannot(_), 0) => ".".to_owned(),
                    (Need::May, 0) => "-".to_owned(),
                    (Need::Must, 0) => "MISSING".to_owned(),
                    (_, n) => n.to_string(),
                };
                let _ = write!(text, "{cell:>9}");
            }
        }
        text.push('\n');
        for (mark, _) in MARKS {
            let _ = write!(text, "\n{mark:55}{:>9}", self.marks.get(mark).copied().unwrap_or(0));
        }
        for (way, name) in entered() {
            let _ = write!(text, "\n{name:55}{:>9}", self.entered.get(&way).copied().unwrap_or(0));
        }
        for (kind, way, name) in tunnels() {
            let _ = write!(text, "\n{name:55}{:>9}", self.tunnels.get(&(kind, way)).copied().unwrap_or(0));
        }
        for (what, _, [v4, v6]) in self.flows().into_iter().filter(|(_, can, _)| *can) {
            let _ = write!(text, "\n{what:55}{v4:>9}{v6:>9}");
        }
        for (log2, n) in CLASSES.iter().zip(self.classes) {
            let _ = write!(text, "\n{:55}{n:>9}", format!("a row of 2^{log2}"));
        }
        text
    }

    /// Why some cells are `.`, each reason once.
    pub fn excuses() -> Vec<&'static str> {
        let mut excuses: Vec<&str> = COLUMNS
            .iter()
            .flat_map(|(family, path, _)| What::all().map(|what| need(*family, *path, what)))
            .filter_map(|need| if let Need::Cannot(why) = need { Some(why) } else { None })
            .collect();
        excuses.sort_unstable();
        excuses.dedup();
        excuses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Trace;

    #[test]
    fn what_was_never_reached_and_what_cannot_be_are_both_complained_of() {
        let arrival = Arrival { interface: 10, headroom: 216, frame: vec![0; 60] };
        let outcome = |family, path, verdict| Outcome {
            verdict,
            frame: vec![0; 60],
            trace: Trace { family, path, ..Trace::default() },
        };
        let mut coverage = Coverage::default();
        let all = coverage.complaints();
        assert!(all.contains(&"never reached: drop too_big (6 reply)".to_owned()), "{all:?}");
        assert!(!all.iter().any(|c| c.contains("no_ring (6 reply)")), "{all:?}");

        coverage.packet(&arrival, &outcome(Family::V6, Path::Reply, Verdict::Drop(DropReason::TooBig)));
        assert!(!coverage.complaints().contains(&"never reached: drop too_big (6 reply)".to_owned()));
        coverage.packet(&arrival, &outcome(Family::V6, Path::Reply, Verdict::Drop(DropReason::NoRing)));
        let expected = "reached 1 times: drop no_ring (6 reply), though replies need no ring";
        assert!(coverage.complaints().contains(&expected.to_owned()));
    }

    #[test]
    fn what_becomes_of_flows_is_to_be_reached_in_both_families_and_only_where_it_can_be() {
        let arrival = Arrival { interface: 10, headroom: 216, frame: vec![0; 60] };
        let met = |family, kind, fate| {
            let trace = Trace { family, path: Path::Nat, kind: Some(kind), fate: Some(fate), ..Trace::default() };
            Outcome { verdict: Verdict::Transmit, frame: vec![0; 60], trace }
        };
        let mut coverage = Coverage::default();
        let missing = "never happened in both families: a flow on a row, over: followed".to_owned();
        coverage.packet(&arrival, &met(Family::V4, RowKind::Over, Fate::Followed));
        assert!(coverage.complaints().contains(&missing));
        coverage.packet(&arrival, &met(Family::V6, RowKind::Over, Fate::Followed));
        assert!(!coverage.complaints().contains(&missing));
        coverage.packet(&arrival, &met(Family::V6, RowKind::Over, Fate::MetMidway));
        let expected = "happened: a flow on a row, over: met midway and written down".to_owned();
        assert!(coverage.complaints().contains(&expected));
    }
}
