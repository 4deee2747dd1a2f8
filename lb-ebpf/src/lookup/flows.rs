//! Flows that are written down: where the row alone does not say which backend, and where they are tracked.
//! [`lb_common::rows`] and [`lb_common::tracked`] decide; here is what they decide by.
//!
//! These are functions of their own in the object, because a steady row must not pay for them with a register or a
//! byte of stack; together with the stack of `sluice` theirs must fit 512 bytes.
//!
//! The trap is that an element of a preallocated hash map is somebody else's as soon as it is deleted, without a grace
//! period; and one of an LRU map may be deleted by the kernel at any time. What is found is therefore believed only if
//! its hash is the flow's own, read after its state; it is changed by compare-and-swap only; and who deletes
//! ([`crate::forget`]) swaps the state for `LEAVING` first.

use core::arch::asm;
use core::marker::PhantomData;
use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;

use lb_common::addr::PROTO_TCP;
use lb_common::backend::State;
use lb_common::flow::{Flow4, Flow6, FlowEntry, FlowPolicy, FlowState, FlowUse, ORPHAN_RESELECT, ORPHAN_RESET};
use lb_common::hash;
use lb_common::ring::{self, CLASSES, Row};
use lb_common::rows::{self, Decision, Entries, Inserted, Known, Orphans, Question, Sign, Table, Timeouts};
use lb_common::service::{AFFINITY_SOURCE, BEFORE_SOURCE, Reverse4, Reverse6, Service};
use lb_common::tracked::{self, Note, Tracked};

use lb_ebpf::packet::Packet;

use crate::atomic::Word;
use crate::lookup::wildcard;
use crate::maps::{
    BACKENDS, FLOW_POLICIES, FLOW_SCRATCH, FLOW_USES, FLOWS4, FLOWS6, RINGS_10, RINGS_12, RINGS_14, RINGS_17, RINGS_20,
    TRACKED4, TRACKED6,
};
use crate::parse::IP;
use crate::{account, clock, settings};

/// Answers of [`v4`] and [`v6`] that are no backend id: the flow's backend is down, and the client is to be told.
pub const ORPHAN_TO_TELL: u32 = 1 << 16;
/// The flow's backend is down, and the packet is to be dropped.
pub const ORPHAN_TO_DROP: u32 = 2 << 16;
/// A service that the tables by service id have no room for.
pub const CONTRADICTION: u32 = 3 << 16;

/// A flow's key in one of the tables.
trait Key {
    fn is_tcp(&self) -> bool;
    fn find(&self) -> Option<*mut FlowEntry>;
    fn create(&self, entry: &FlowEntry) -> Result<(), i32>;
    /// What the flow is known by in its entry.
    fn hash(&self) -> u32;
    /// What chooses its row where ports do not count.
    fn client_hash(&self) -> u32;
    /// Most entries a service may have in this table.
    fn quota(policy: &FlowPolicy) -> u32;
    /// Where a service's entries in this table are counted, and those of this second.
    fn counts(uses: *mut FlowUse) -> (*mut u64, *mut u64);
}

/// A flow in the table of tracked ones.
#[repr(transparent)]
struct Tracked4(Flow4);

/// As [`Tracked4`].
#[repr(transparent)]
struct Tracked6(Flow6);

macro_rules! key {
    ($key:ty, |$this:ident| $flow:expr, $map:ident, $hash:ident, $client_hash:ident,
     $quota:ident, $entries:ident, $gate:ident) => {
        impl Key for $key {
            #[inline(always)]
            fn is_tcp(&self) -> bool {
                let $this = self;
                $flow.protocol == u32::from(PROTO_TCP)
            }

            #[inline(always)]
            fn find(&self) -> Option<*mut FlowEntry> {
                let $this = self;
                $map.get_ptr_mut(&$flow)
            }

            #[inline(always)]
            fn create(&self, entry: &FlowEntry) -> Result<(), i32> {
                let $this = self;
                $map.insert(&$flow, entry, BPF_NOEXIST)
            }

            #[inline(always)]
            fn hash(&self) -> u32 {
                let $this = self;
                hash::$hash(&settings::LoadedKey, &$flow)
            }

            #[inline(always)]
            fn client_hash(&self) -> u32 {
                let $this = self;
                hash::$client_hash(&settings::LoadedKey, &$flow)
            }

            #[inline(always)]
            fn quota(policy: &FlowPolicy) -> u32 {
                policy.$quota
            }

            #[inline(always)]
            fn counts(uses: *mut FlowUse) -> (*mut u64, *mut u64) {
                // SAFETY: the caller's is a pointer to a whole record.
                unsafe { (&raw mut (*uses).$entries, &raw mut (*uses).$gate) }
            }
        }
    };
}

key!(Flow4, |flow| *flow, FLOWS4, flow4, client4, quota, entries, gate);
key!(Flow6, |flow| *flow, FLOWS6, flow6, client6, quota, entries, gate);
key!(Tracked4, |flow| flow.0, TRACKED4, flow4, client4, tracked_quota4, tracked4, tracked_gate);
key!(Tracked6, |flow| flow.0, TRACKED6, flow6, client6, tracked_quota6, tracked6, tracked_gate);

/// `bpf_map_update_elem` of linux/bpf.h: only if there is none.
const BPF_NOEXIST: u64 = 1;
const EEXIST: i32 = -17;

/// Why a flow was not written down.
const REFUSED_RACE: u8 = 0;
const REFUSED_QUOTA: u8 = 1;
const REFUSED_GATE: u8 = 2;
const REFUSED_FULL: u8 = 3;

/// What is remembered while a row's question is answered. In a map, because the stack is `sluice`'s.
#[repr(C, align(8))]
pub struct Scratch {
    /// A [`Flow4`] or [`Flow6`].
    key: [u64; 5],
    /// As it is inserted.
    entry: FlowEntry,
    /// What the table said last, or [`FlowState::VACANT`].
    found: FlowState,
    row: Row,
    /// What chose the row.
    hash: u32,
    /// [`Service::before`], and what chose the row there.
    before: u32,
    before_hash: u32,
    now: u32,
    opening: u32,
    idle: u32,
    quota: u32,
    new_per_second: u32,
    tcp: bool,
    sign: Sign,
    orphans: Orphans,
    refusal: u8,
    refused: bool,
    written: bool,
    replaced: bool,
    /// [`Note`]s, each a bit.
    noted: u8,
}

/// A service's [`FlowUse`], as every CPU works on it.
struct Uses {
    entries: Word,
    gate: Word,
    refused: Word,
}

impl Uses {
    #[inline(always)]
    fn of<K: Key>(service: u32) -> Option<Self> {
        let uses = FLOW_USES.get_ptr_mut(service)?;
        let (entries, gate) = K::counts(uses);
        // SAFETY: array elements live as long as the program, are aligned, and everybody changes them atomically.
        unsafe {
            Some(Self {
                entries: Word::new(entries),
                gate: Word::new(gate),
                refused: Word::new(&raw mut (*uses).refused),
            })
        }
    }

    /// Takes one of the entries that may be written in this second.
    #[inline(always)]
    fn pass_gate(&self, now: u32, most: u32) -> bool {
        let used = self.gate.load();
        if used >> 32 != u64::from(now) {
            if most == 0 {
                return false;
            }
            // The first of a second; who loses counts on in what the winner wrote.
            if self.gate.swap(used, u64::from(now) << 32 | 1) {
                return true;
            }
        } else if used as u32 >= most {
            return false;
        }
        (self.gate.add(1) as u32) < most
    }

    /// Takes one of the entries that the service may have.
    #[inline(always)]
    fn take_entry(&self, most: u32) -> bool {
        if self.entries.load() >= u64::from(most) {
            return false;
        }
        if self.entries.add(1) >= u64::from(most) {
            self.give_entry_back();
            return false;
        }
        true
    }

    #[inline(always)]
    fn give_entry_back(&self) {
        self.entries.add(u64::MAX);
    }
}

/// One flow's place in a table.
struct Place<K> {
    scratch: *mut Scratch,
    /// Of the flow's element, if there is one and it is not about to be removed.
    state: Option<Word>,
    table: PhantomData<K>,
}

/// That, and everything else its row may ask for.
struct Flows<K> {
    place: Place<K>,
    /// The row's own word.
    row: Word,
}

/// A field of the scratch memory, read or written where it is named: kept in a register it would end up on the stack.
macro_rules! scratch {
    ($scratch:expr, $field:ident) => {{
        let scratch = $scratch;
        // SAFETY: per-CPU memory of our own, and XDP is not preempted by XDP on the same CPU.
        unsafe { core::ptr::read_volatile(&raw const (*scratch).$field) }
    }};
    ($scratch:expr, $field:ident = $value:expr) => {{
        let (scratch, value) = ($scratch, $value);
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*scratch).$field, value) }
    }};
}

/// The flow in the scratch memory, written by one of the functions below.
#[inline(always)]
fn key<'a, K: Key>(scratch: *mut Scratch) -> &'a K {
    // SAFETY: as above; it is large enough and aligned, and any bytes are a key.
    unsafe { &*(&raw const (*scratch).key).cast::<K>() }
}

/// Four words of an IPv6 header, to a field of a [`Flow6`] in scratch memory.
macro_rules! copy6 {
    ($header:ident.$field:ident => $flow:ident.$to:ident) => {
        (*$flow).$to[0] = $header.u32::<{ offset_of!(Ipv6Hdr, $field) }>();
        (*$flow).$to[1] = $header.u32::<{ offset_of!(Ipv6Hdr, $field) + 4 }>();
        (*$flow).$to[2] = $header.u32::<{ offset_of!(Ipv6Hdr, $field) + 8 }>();
        (*$flow).$to[3] = $header.u32::<{ offset_of!(Ipv6Hdr, $field) + 12 }>();
    };
}

/// What the scratch memory holds is what is asked.
struct Asked(*mut Scratch);

impl Question for Asked {
    #[inline(always)]
    fn row(&self) -> Row {
        scratch!(self.0, row)
    }

    #[inline(always)]
    fn packet(&self) -> rows::Packet {
        rows::Packet { hash: scratch!(self.0, hash), sign: scratch!(self.0, sign), tcp: scratch!(self.0, tcp) }
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        scratch!(self.0, now)
    }

    #[inline(always)]
    fn timeouts(&self) -> Timeouts {
        Timeouts { opening: scratch!(self.0, opening), idle: scratch!(self.0, idle) }
    }

    #[inline(always)]
    fn orphans(&self) -> Orphans {
        scratch!(self.0, orphans)
    }
}

impl<K: Key> Place<K> {
    #[inline(always)]
    fn new(scratch: *mut Scratch, hash: u32, service: &Service, policy: &FlowPolicy, row: Row) -> Self {
        let by_source = |flag: u16| service.flags & flag != 0;
        let own = if by_source(AFFINITY_SOURCE) { key::<K>(scratch).hash() } else { hash };
        scratch!(scratch, entry = FlowEntry { hash: own, service: service.id, state: FlowState::VACANT });
        scratch!(scratch, hash = hash);
        scratch!(scratch, before = service.before);
        if service.before != 0 {
            let before = if by_source(BEFORE_SOURCE) { key::<K>(scratch).client_hash() } else { own };
            scratch!(scratch, before_hash = before);
        }
        scratch!(scratch, found = FlowState::VACANT);
        scratch!(scratch, row = row);
        scratch!(scratch, now = clock::seconds());
        Self::again(scratch, policy)
    }

    /// The flow of whom everything else is known.
    #[inline(always)]
    fn again(scratch: *mut Scratch, policy: &FlowPolicy) -> Self {
        scratch!(scratch, quota = K::quota(policy));
        scratch!(scratch, new_per_second = policy.new_per_second);
        scratch!(scratch, refusal = REFUSED_RACE);
        scratch!(scratch, refused = false);
        scratch!(scratch, written = false);
        scratch!(scratch, replaced = false);
        Self { scratch, state: None, table: PhantomData }
    }

    #[inline(always)]
    fn key(&self) -> &K {
        key(self.scratch)
    }

    #[inline(always)]
    fn uses(&self) -> Option<Uses> {
        Uses::of::<K>(scratch!(self.scratch, entry).service)
    }

    #[inline(always)]
    fn refuse_for(&mut self, why: u8) -> Inserted {
        scratch!(self.scratch, refusal = why);
        Inserted::Refused
    }
}

impl<K: Key> Entries for Place<K> {
    #[inline(always)]
    fn find(&mut self) -> Option<FlowState> {
        self.state = None;
        scratch!(self.scratch, found = FlowState::VACANT);
        let element = self.key().find()?;
        // SAFETY: elements are part of the map's memory for as long as the map lives, and aligned to 8.
        let state = unsafe { Word::new(&raw mut (*element).state.0) };
        let word = FlowState(state.load());
        let mut owner = element.cast_const().cast::<u64>();
        // The hash must be read after the state (see `FlowEntry`). On machines that reorder loads, only an address
        // that depends on the first one keeps them in order: plus nothing, but made of the state.
        // SAFETY: adds 0 to the pointer.
        unsafe {
            asm!("{state} &= 0", "{owner} += {state}", state = inout(reg) word.0 => _, owner = inout(reg) owner,
                 options(nomem, nostack));
        }
        let FlowEntry { hash, service, .. } = scratch!(self.scratch, entry);
        // SAFETY: hash and service are the element's first 8 bytes; volatile, because the element may change owners.
        let owner = unsafe { core::ptr::read_volatile(owner) };
        if owner != u64::from(hash) | u64::from(service) << 32 || word == FlowState::LEAVING {
            return None;
        }
        self.state = Some(state);
        scratch!(self.scratch, found = word);
        if word == FlowState::VACANT { None } else { Some(word) }
    }

    #[inline(always)]
    fn insert(&mut self, state: FlowState) -> Inserted {
        let Some(uses) = self.uses() else { return Inserted::Refused };
        if !uses.pass_gate(scratch!(self.scratch, now), scratch!(self.scratch, new_per_second)) {
            return self.refuse_for(REFUSED_GATE);
        }
        if self.state.is_some() {
            // What was found was vacant.
            return if self.replace(FlowState::VACANT, state) { Inserted::Done } else { Inserted::Exists };
        }
        if !uses.take_entry(scratch!(self.scratch, quota)) {
            return self.refuse_for(REFUSED_QUOTA);
        }
        let entry = FlowEntry { state, ..scratch!(self.scratch, entry) };
        scratch!(self.scratch, entry = entry);
        // SAFETY: as above.
        match self.key().create(unsafe { &(*self.scratch).entry }) {
            Ok(()) => {
                scratch!(self.scratch, written = true);
                Inserted::Done
            }
            Err(why) => {
                if let Some(uses) = self.uses() {
                    uses.give_entry_back();
                }
                if why == EEXIST { Inserted::Exists } else { self.refuse_for(REFUSED_FULL) }
            }
        }
    }

    #[inline(always)]
    fn replace(&mut self, from: FlowState, to: FlowState) -> bool {
        let Some(state) = self.state else { return false };
        let done = state.swap(from.0, to.0);
        if done && from == FlowState::VACANT {
            scratch!(self.scratch, written = true);
        } else if done && to.life() != from.life() {
            scratch!(self.scratch, replaced = true);
        }
        done
    }

    #[inline(always)]
    fn backend(&mut self, id: u16) -> Known {
        let Some(backend) = BACKENDS.get_ptr_mut(u32::from(id)) else { return Known::default() };
        // One load: port, flags and generation change together.
        // SAFETY: `State` is one aligned word of plain integers.
        let state: State = unsafe { core::mem::transmute(Word::new((&raw mut (*backend).state).cast()).load()) };
        state.known(id)
    }
}

impl<K: Key> Tracked for Place<K> {
    #[inline(always)]
    fn note(&mut self, what: Note) {
        scratch!(self.scratch, noted = scratch!(self.scratch, noted) | what as u8);
    }
}

impl<K: Key> Entries for Flows<K> {
    #[inline(always)]
    fn find(&mut self) -> Option<FlowState> {
        self.place.find()
    }

    #[inline(always)]
    fn insert(&mut self, state: FlowState) -> Inserted {
        self.place.insert(state)
    }

    #[inline(always)]
    fn replace(&mut self, from: FlowState, to: FlowState) -> bool {
        self.place.replace(from, to)
    }

    #[inline(always)]
    fn backend(&mut self, id: u16) -> Known {
        self.place.backend(id)
    }
}

impl<K: Key> Table for Flows<K> {
    #[inline(always)]
    fn refused(&mut self) -> u32 {
        self.place.uses().map_or(0, |uses| uses.refused.load() as u32)
    }

    #[inline(always)]
    fn refuse(&mut self, until: u32) {
        scratch!(self.place.scratch, refused = true);
        let now = scratch!(self.place.scratch, now);
        if let Some(uses) = self.place.uses()
            && uses.refused.load() < u64::from(now)
        {
            uses.refused.store(u64::from(now));
        }
        // Who is in the way wants the same as we do, or is the controller, once.
        for _ in 0..4 {
            let row = Row(self.row.load());
            if !row.is_moving(now) || row.until() >= until || self.row.swap(row.0, row.with_until(until).0) {
                return;
            }
        }
    }

    #[inline(always)]
    fn before(&mut self) -> u16 {
        let scratch = self.place.scratch;
        let service = Service { before: scratch!(scratch, before), ..Service::default() };
        let Some((class, slot)) = service.before() else { return 0 };
        let row = row_before(u32::from(class), slot, scratch!(scratch, before_hash));
        rows::unwritten(row, scratch!(scratch, now), self)
    }
}

/// Writes the packet's flow to the scratch memory.
#[inline(always)]
fn fill4(scratch: *mut Scratch, packet: Packet, l4: usize) -> bool {
    let Some(ip) = packet.header::<Ipv4Hdr>(IP) else { return false };
    let Some(ports) = packet.header::<[u8; 4]>(l4) else { return false };
    // SAFETY: as above.
    unsafe {
        let flow = (&raw mut (*scratch).key).cast::<Flow4>();
        (*flow).source = ip.u32::<{ offset_of!(Ipv4Hdr, src_addr) }>();
        (*flow).destination = ip.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>();
        (*flow).ports = ports.u32::<0>();
        (*flow).protocol = u32::from(ip.u8::<{ offset_of!(Ipv4Hdr, proto) }>());
    }
    true
}

/// Where a packet's flow is read: its hash, above that the offset of the L4 header, above that its protocol.
#[inline(always)]
pub fn place(hash: u32, l4: usize, protocol: u8) -> u64 {
    u64::from(hash) | (l4 as u64) << 32 | u64::from(protocol) << 48
}

#[inline(always)]
fn l4(place: u64) -> usize {
    usize::from((place >> 32) as u16)
}

#[inline(always)]
fn protocol(place: u64) -> u8 {
    (place >> 48) as u8
}

/// The backend id of a flow whose row asks for the table, or one of the constants above. `place` as of [`place`].
#[cold]
#[inline(never)]
pub fn v4(packet: Packet, service: &Service, row: Word, place: u64) -> u32 {
    let Some(scratch) = FLOW_SCRATCH.get_ptr_mut(0) else { return CONTRADICTION };
    if !fill4(scratch, packet, l4(place)) {
        return CONTRADICTION;
    }
    decide::<Flow4>(packet, scratch, service, row, place)
}

/// Writes the packet's flow to the scratch memory.
#[inline(always)]
fn fill6(scratch: *mut Scratch, packet: Packet, place: u64) -> bool {
    let Some(ip) = packet.header::<Ipv6Hdr>(IP) else { return false };
    let Some(ports) = packet.header::<[u8; 4]>(l4(place)) else { return false };
    // SAFETY: as above.
    unsafe {
        let flow = (&raw mut (*scratch).key).cast::<Flow6>();
        copy6!(ip.src_addr => flow.source);
        copy6!(ip.dst_addr => flow.destination);
        (*flow).ports = ports.u32::<0>();
        (*flow).protocol = u32::from(protocol(place));
    }
    true
}

/// As [`v4`].
#[cold]
#[inline(never)]
pub fn v6(packet: Packet, service: &Service, row: Word, place: u64) -> u32 {
    let Some(scratch) = FLOW_SCRATCH.get_ptr_mut(0) else { return CONTRADICTION };
    if !fill6(scratch, packet, place) {
        return CONTRADICTION;
    }
    decide::<Flow6>(packet, scratch, service, row, place)
}

/// A tracked flow whose row says by its word alone that it is the owner's. `place` and answers as of [`v4`].
#[cold]
#[inline(never)]
pub fn tracked4(packet: Packet, service: &Service, owner: u16, place: u64) -> u32 {
    let Some(scratch) = FLOW_SCRATCH.get_ptr_mut(0) else { return CONTRADICTION };
    if !fill4(scratch, packet, l4(place)) {
        return CONTRADICTION;
    }
    decide_tracked::<Tracked4>(packet, scratch, service, owner, place)
}

/// As [`tracked4`].
#[cold]
#[inline(never)]
pub fn tracked6(packet: Packet, service: &Service, owner: u16, place: u64) -> u32 {
    let Some(scratch) = FLOW_SCRATCH.get_ptr_mut(0) else { return CONTRADICTION };
    if !fill6(scratch, packet, place) {
        return CONTRADICTION;
    }
    decide_tracked::<Tracked6>(packet, scratch, service, owner, place)
}

/// Notes what [`v4`] has just answered about a tracked flow.
#[cold]
#[inline(never)]
pub fn record4(service: &Service, answer: u32) {
    record::<Tracked4>(service, answer);
}

/// As [`record4`], after [`v6`].
#[cold]
#[inline(never)]
pub fn record6(service: &Service, answer: u32) {
    record::<Tracked6>(service, answer);
}

/// What the packet and its service say, into the scratch memory. `None`: the packet ends too early.
#[inline(always)]
fn ask<K: Key>(packet: Packet, scratch: *mut Scratch, policy: &FlowPolicy, l4: usize) -> Option<()> {
    let tcp = key::<K>(scratch).is_tcp();
    let sign = if tcp {
        const FLAGS: usize = 13;
        Sign::of_tcp(packet.header::<TcpHdr>(l4)?.u8::<FLAGS>())
    } else {
        Sign::Middle
    };
    scratch!(scratch, tcp = tcp);
    scratch!(scratch, sign = sign);
    scratch!(scratch, opening = if tcp { policy.tcp_opening } else { policy.udp });
    scratch!(scratch, idle = if tcp { policy.tcp } else { policy.udp });
    scratch!(scratch, orphans = if policy.orphans == ORPHAN_RESELECT { Orphans::Reselect } else { Orphans::Tell });
    Some(())
}

#[inline(always)]
fn answer(decision: Decision, scratch: *mut Scratch, policy: &FlowPolicy) -> u32 {
    match decision {
        Decision::Backend(id) => u32::from(id),
        Decision::NoBackend => 0,
        // A RST is never answered with one.
        Decision::Orphan if policy.orphans == ORPHAN_RESET && scratch!(scratch, sign) != Sign::Resets => ORPHAN_TO_TELL,
        Decision::Orphan => ORPHAN_TO_DROP,
    }
}

#[inline(always)]
fn decide<K: Key>(packet: Packet, scratch: *mut Scratch, service: &Service, row: Word, place: u64) -> u32 {
    let Some(policy) = FLOW_POLICIES.get(service.id) else { return CONTRADICTION };
    if ask::<K>(packet, scratch, policy, l4(place)).is_none() {
        return CONTRADICTION;
    }
    let mut flows = Flows { place: Place::<K>::new(scratch, place as u32, service, policy, Row(row.load())), row };
    let answer = answer(rows::answer(&Asked(scratch), &mut flows), scratch, policy);

    let found = scratch!(scratch, found);
    let replaced = scratch!(scratch, replaced);
    let hit = !replaced && found != FlowState::VACANT && u32::from(found.life().backend()) == answer;
    account::flows(scratch!(scratch, entry).service, |c| {
        c.lookups += 1;
        c.hits += u64::from(hit);
        c.written += u64::from(scratch!(scratch, written));
        c.replaced += u64::from(replaced);
        if scratch!(scratch, refused) {
            let why = scratch!(scratch, refusal);
            c.refused_race += u64::from(why == REFUSED_RACE);
            c.refused_quota += u64::from(why == REFUSED_QUOTA);
            c.refused_gate += u64::from(why == REFUSED_GATE);
            c.refused_full += u64::from(why == REFUSED_FULL);
        }
    });
    answer
}

#[inline(always)]
fn decide_tracked<K: Key>(packet: Packet, scratch: *mut Scratch, service: &Service, owner: u16, place: u64) -> u32 {
    let Some(policy) = FLOW_POLICIES.get(service.id) else { return CONTRADICTION };
    if ask::<K>(packet, scratch, policy, l4(place)).is_none() {
        return CONTRADICTION;
    }
    let mut flow = Place::<K>::new(scratch, place as u32, service, policy, Row::steady(owner));
    scratch!(scratch, noted = 0);
    let answer = answer(tracked::answer(&Asked(scratch), &mut flow), scratch, policy);
    account_tracked(scratch, true);
    answer
}

#[inline(always)]
fn record<K: Key>(service: &Service, answer: u32) {
    // Nobody's, or one of the constants.
    if answer == 0 || answer > u32::from(u16::MAX) {
        return;
    }
    let Some(scratch) = FLOW_SCRATCH.get_ptr_mut(0) else { return };
    let Some(policy) = FLOW_POLICIES.get(service.id) else { return };
    let mut flow = Place::<K>::again(scratch, policy);
    scratch!(scratch, noted = 0);
    tracked::record(&Asked(scratch), answer as u16, &mut flow);
    account_tracked(scratch, false);
}

#[inline(always)]
fn account_tracked(scratch: *mut Scratch, asked: bool) {
    account::tracked(scratch!(scratch, entry).service, |c| {
        let noted = scratch!(scratch, noted);
        let is = |note: Note| noted & note as u8 != 0;
        let hit = is(Note::Hit);
        if asked {
            c.lookups += 1;
            c.hits += u64::from(hit);
            let midway = scratch!(scratch, tcp) && scratch!(scratch, sign) != Sign::Opens;
            c.fallbacks += u64::from(midway && is(Note::Missed) && !hit);
        }
        c.written += u64::from(scratch!(scratch, written));
        c.replaced += u64::from(scratch!(scratch, replaced));
        if is(Note::Lost) {
            let why = scratch!(scratch, refusal);
            c.refused_race += u64::from(why == REFUSED_RACE);
            c.refused_quota += u64::from(why == REFUSED_QUOTA);
            c.refused_gate += u64::from(why == REFUSED_GATE);
            c.refused_full += u64::from(why == REFUSED_FULL);
        }
    });
}

/// The MSS in replies of the service is lowered.
#[inline(always)]
pub fn clamps(service: u32) -> bool {
    FLOW_POLICIES.get(service).is_some_and(|policy| policy.clamp != 0)
}

macro_rules! quoted {
    ($fill:ident, $peek:ident, $peek_tracked:ident, $flow:ty, $tracked:ty) => {
        /// Whose a flow is that an ICMP error is about, by its row and what is written down; nothing is written. `place` as of
        /// [`place`], with the quoted packet's L4 header, whose IP header is at `ip`.
        #[cold]
        #[inline(never)]
        pub fn $peek(packet: Packet, service: &Service, row: Word, place: u64, ip: u32) -> u32 {
            let Some(scratch) = FLOW_SCRATCH.get_ptr_mut(0) else { return CONTRADICTION };
            let Some(policy) = FLOW_POLICIES.get(service.id) else { return CONTRADICTION };
            if !$fill(scratch, packet, place, ip as usize) {
                return CONTRADICTION;
            }
            let mut flows =
                Flows { place: Place::<$flow>::new(scratch, place as u32, service, policy, Row(row.load())), row };
            u32::from(rows::peek(scratch!(scratch, row), scratch!(scratch, now), &mut flows))
        }

        /// As the other one, for a tracked flow whose row says by its word alone that it is the owner's.
        #[cold]
        #[inline(never)]
        pub fn $peek_tracked(packet: Packet, service: &Service, owner: u16, place: u64, ip: u32) -> u32 {
            let Some(scratch) = FLOW_SCRATCH.get_ptr_mut(0) else { return CONTRADICTION };
            let Some(policy) = FLOW_POLICIES.get(service.id) else { return CONTRADICTION };
            if !$fill(scratch, packet, place, ip as usize) {
                return CONTRADICTION;
            }
            let mut flow = Place::<$tracked>::new(scratch, place as u32, service, policy, Row::steady(owner));
            u32::from(rows::written(&mut flow).unwrap_or(owner))
        }
    };
}

quoted!(fill_quoted4, peek4, peek_tracked4, Flow4, Tracked4);
quoted!(fill_quoted6, peek6, peek_tracked6, Flow6, Tracked6);

/// Writes the flow of a quoted packet, which was from the service to the client, to the scratch memory.
#[inline(always)]
fn fill_quoted4(scratch: *mut Scratch, packet: Packet, place: u64, ip: usize) -> bool {
    let Some(ip) = packet.header::<Ipv4Hdr>(ip & 0x1ff) else { return false };
    let Some(ports) = packet.header::<[u8; 4]>(l4(place)) else { return false };
    // SAFETY: as above.
    unsafe {
        let flow = (&raw mut (*scratch).key).cast::<Flow4>();
        (*flow).source = ip.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>();
        (*flow).destination = ip.u32::<{ offset_of!(Ipv4Hdr, src_addr) }>();
        (*flow).ports = ports.u32::<0>().rotate_left(16);
        (*flow).protocol = u32::from(protocol(place));
    }
    true
}

/// As [`fill_quoted4`].
#[inline(always)]
fn fill_quoted6(scratch: *mut Scratch, packet: Packet, place: u64, ip: usize) -> bool {
    let Some(ip) = packet.header::<Ipv6Hdr>(ip & 0x1ff) else { return false };
    let Some(ports) = packet.header::<[u8; 4]>(l4(place)) else { return false };
    // SAFETY: as above.
    unsafe {
        let flow = (&raw mut (*scratch).key).cast::<Flow6>();
        copy6!(ip.dst_addr => flow.source);
        copy6!(ip.src_addr => flow.destination);
        (*flow).ports = ports.u32::<0>().rotate_left(16);
        (*flow).protocol = u32::from(protocol(place));
    }
    true
}

/// Some row of the service may be moving, so its replies prove something.
#[inline(always)]
pub fn in_motion(service: u32) -> bool {
    FLOW_POLICIES.get(service).is_some_and(|policy| policy.moving != 0)
}

/// A backend's reply shows whose flow it is.
#[cold]
#[inline(never)]
pub fn prove4(packet: Packet, reverse: &Reverse4, place: u64) {
    let Some(scratch) = FLOW_SCRATCH.get_ptr_mut(0) else { return };
    let Some(ip) = packet.header::<Ipv4Hdr>(IP) else { return };
    let Some(ports) = packet.header::<[u8; 4]>(l4(place)) else { return };
    let (protocol, own) = (protocol(place), ports.u16::<0>());
    // SAFETY: as above.
    unsafe {
        let flow = (&raw mut (*scratch).key).cast::<Flow4>();
        (*flow).source = ip.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>();
        (*flow).destination = reverse.vip;
        (*flow).ports = u32::from(ports.u16::<2>()) | u32::from(wildcard::reply_port(reverse.port, own)) << 16;
        (*flow).protocol = u32::from(protocol);
    }
    if let Some(service) = wildcard::asked4(reverse, own, protocol) {
        prove::<Flow4>(scratch, service, reverse.backend);
    }
}

/// As [`prove4`].
#[cold]
#[inline(never)]
pub fn prove6(packet: Packet, reverse: &Reverse6, place: u64) {
    let Some(scratch) = FLOW_SCRATCH.get_ptr_mut(0) else { return };
    let Some(ip) = packet.header::<Ipv6Hdr>(IP) else { return };
    let Some(ports) = packet.header::<[u8; 4]>(l4(place)) else { return };
    let (protocol, own) = (protocol(place), ports.u16::<0>());
    // SAFETY: as above.
    unsafe {
        let flow = (&raw mut (*scratch).key).cast::<Flow6>();
        copy6!(ip.dst_addr => flow.source);
        (*flow).destination = reverse.vip;
        (*flow).ports = u32::from(ports.u16::<2>()) | u32::from(wildcard::reply_port(reverse.port, own)) << 16;
        (*flow).protocol = u32::from(protocol);
    }
    if let Some(service) = wildcard::asked6(reverse, own, protocol) {
        prove::<Flow6>(scratch, service, reverse.backend);
    }
}

/// The word of a row. As [`super::row`], where time does not matter; and its empty instructions, twice in one function,
/// make line information that the kernel refuses.
#[inline(always)]
fn row(class: u32, slot: u32, hash: u32) -> Option<Word> {
    macro_rules! ring {
        ($map:ident, $class:literal) => {
            $map.get_value_ptr_mut(slot, &ring::row_index(hash, CLASSES[$class]))?
        };
    }
    let word = match class {
        0 => ring!(RINGS_10, 0),
        1 => ring!(RINGS_12, 1),
        2 => ring!(RINGS_14, 2),
        3 => ring!(RINGS_17, 3),
        4 => ring!(RINGS_20, 4),
        _ => return None,
    };
    // SAFETY: inner arrays are freed after a grace period; rows are words that everybody changes atomically.
    Some(unsafe { Word::new(word) })
}

/// What the ring says of whom another one has taken the place; nobody's row where there is none.
#[cold]
#[inline(never)]
fn row_before(class: u32, slot: u32, hash: u32) -> Row {
    Row(row(class, slot, hash).map_or(0, Word::load))
}

#[inline(always)]
fn prove<K: Key>(scratch: *mut Scratch, service: &Service, backend: u16) {
    let flow = key::<K>(scratch);
    let hash = if service.flags & AFFINITY_SOURCE != 0 { flow.client_hash() } else { flow.hash() };
    let Some(policy) = FLOW_POLICIES.get(service.id) else { return };
    let Some(row) = row(u32::from(service.class), service.ring, hash) else { return };
    let mut flows = Flows { place: Place::<K>::new(scratch, hash, service, policy, Row(row.load())), row };
    rows::prove(scratch!(scratch, row), backend, scratch!(scratch, now), &mut flows);
    if scratch!(scratch, written) {
        account::flows(service.id, |c| c.proved += 1);
    }
}
