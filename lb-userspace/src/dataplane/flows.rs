//! The flows that are written down: how many there are, and what was counted about them.

use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};

use lb_common::addr::{PROTO_TCP, PROTO_UDP, octets6};
use lb_common::counters::{FlowCounters, TrackedCounters};
use lb_common::flow::{FORGET_AT_ONCE, FORGET_TRACKED, Flow4, Flow6, FlowEntry, FlowUse};
use lb_common::hash;
use lb_common::ring::Row;
use lb_common::rows;

use super::maps::FORGET_WORDS;
use super::tables::RingId;
use super::{Dataplane, DataplaneError, sys};

/// Entries read at once: a tenth of a millisecond of work, and what is made of them stays in memory that the allocator
/// has at hand.
const BATCH: usize = 1024;

/// Which tables, of both families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// Of the flows that rows have written down.
    #[default]
    Rows,
    /// Of those that are written down whatever their row.
    Tracked,
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    V4(Flow4),
    V6(Flow6),
}

impl Key {
    /// The ring of the flow, if it is that service's.
    pub const fn ring(&self, service: u32) -> RingId {
        let (family, protocol) = match self {
            Self::V4(flow) => (4, flow.protocol),
            Self::V6(flow) => (6, flow.protocol),
        };
        RingId { service, protocol: if protocol == PROTO_TCP as u32 { PROTO_TCP } else { PROTO_UDP }, family }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::V4(flow) => bytes(flow),
            Self::V6(flow) => bytes(flow),
        }
    }

    /// Who opened the flow, and to which VIP.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        let (client, vip, ports) = match self {
            Self::V4(Flow4 { source, destination, ports, .. }) => {
                let ip = |word: &u32| IpAddr::from(word.to_ne_bytes());
                (ip(source), ip(destination), ports)
            }
            Self::V6(Flow6 { source, destination, ports, .. }) => {
                let ip = |words: &[u32; 4]| IpAddr::from(octets6(*words));
                (ip(source), ip(destination), ports)
            }
        };
        // As they stand in the packet.
        let [a, b, c, d] = ports.to_ne_bytes();
        let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        (SocketAddr::new(client, from), SocketAddr::new(vip, to))
    }
}

/// How far a walk over all entries of a table has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    table: Table,
    family: Walk,
    from: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Walk {
    #[default]
    V4,
    V6,
    Done,
}

impl Cursor {
    pub fn new(table: Table) -> Self {
        Self { table, ..Self::default() }
    }

    pub const fn table(&self) -> Table {
        self.table
    }

    pub fn is_done(&self) -> bool {
        self.family == Walk::Done
    }

    /// The family whose entries come next, if none of them was read yet.
    pub(super) fn begins(&self) -> Option<u8> {
        match (self.from, self.family) {
            (None, Walk::V4) => Some(4),
            (None, Walk::V6) => Some(6),
            _ => None,
        }
    }

    /// All entries of the family were read.
    pub(super) fn pass(&mut self) {
        self.from = None;
        self.family = if self.family == Walk::V4 { Walk::V6 } else { Walk::Done };
    }
}

impl From<Flow4> for Key {
    fn from(flow: Flow4) -> Self {
        Self::V4(flow)
    }
}

impl From<Flow6> for Key {
    fn from(flow: Flow6) -> Self {
        Self::V6(flow)
    }
}

/// A key as it is in the kernel's table.
pub(super) trait Readable: aya::Pod + Into<Key> {}

impl Readable for Flow4 {}
impl Readable for Flow6 {}

/// Entries, and where the next ones begin; `None` after the last.
type Batch = (Vec<(Key, FlowEntry)>, Option<u32>);

/// The next entries of one family.
pub(super) fn read<K: Readable>(
    name: &'static str,
    map: BorrowedFd<'_>,
    from: Option<u32>,
) -> Result<Batch, DataplaneError> {
    let mut keys = vec![0_u8; BATCH * size_of::<K>()];
    let mut values = vec![0_u8; BATCH * size_of::<FlowEntry>()];
    let (count, next) = sys::lookup_batch(map, from, size_of::<K>(), &mut keys, &mut values)
        .map_err(|e| DataplaneError::Write { name, why: format!("reading it: {e}") })?;
    let keys = keys.chunks_exact(size_of::<K>()).map(|key| pod::<K>(key).into());
    let values = values.chunks_exact(size_of::<FlowEntry>()).map(pod::<FlowEntry>);
    Ok((keys.zip(values).take(count).collect(), next))
}

/// Whether this table is there only because a program names it.
pub(super) fn is_placeholder(map: &aya::maps::MapData) -> bool {
    map.info().is_ok_and(|info| info.max_entries() == 1)
}

/// Copies the flows that are not there already from one table to another, unless nobody wants them there.
pub(super) fn copy(
    name: &'static str,
    from: &aya::maps::MapData,
    to: &aya::maps::MapData,
) -> Result<(), DataplaneError> {
    if is_placeholder(to) {
        return Ok(());
    }
    match name {
        "TRACKED4" => copy_all::<Flow4>(name, from, to),
        _ => copy_all::<Flow6>(name, from, to),
    }
}

fn copy_all<K: Readable>(
    name: &'static str,
    from: &aya::maps::MapData,
    to: &aya::maps::MapData,
) -> Result<(), DataplaneError> {
    let mut place = None;
    loop {
        let (entries, next) = read::<K>(name, from.fd().as_fd(), place)?;
        for (key, entry) in entries {
            match sys::update(to.fd().as_fd(), &key.bytes(), &bytes(&entry), sys::NOEXIST) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(DataplaneError::Write { name, why: format!("carrying flows over: {e}") });
                }
                _ => {}
            }
        }
        place = next;
        if place.is_none() {
            return Ok(());
        }
    }
}

/// The bytes of a value.
pub(super) fn bytes<T: aya::Pod>(value: &T) -> Vec<u8> {
    // SAFETY: a `Pod` is plain bytes; this one is alive for the call.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }.to_vec()
}

/// A value from its bytes.
pub(super) fn pod<T: aya::Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>());
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: any bytes are a value of a `Pod`, and there are as many as it has.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), bytes.len());
        value.assume_init()
    }
}

impl Dataplane {
    /// The next entries of a walk; `cursor` says whether there are more.
    pub fn read_flows(&self, cursor: &mut Cursor) -> Result<Vec<(Key, FlowEntry)>, DataplaneError> {
        let (entries, next) = match cursor.family {
            Walk::V4 => {
                let (name, map) = self.maps.flow_table(cursor.table, 4);
                read::<Flow4>(name, map.fd().as_fd(), cursor.from)?
            }
            Walk::V6 => {
                let (name, map) = self.maps.flow_table(cursor.table, 6);
                read::<Flow6>(name, map.fd().as_fd(), cursor.from)?
            }
            Walk::Done => (Vec::new(), None),
        };
        match next {
            Some(_) => cursor.from = next,
            None => cursor.pass(),
        }
        Ok(entries)
    }

    /// The hash that chooses a flow's row. The entry has the flow's own; a ring may go by the client's.
    pub(super) fn place_of(&self, key: &Key, entry: &FlowEntry) -> u32 {
        let secret = &self.options.tunables.hash_key;
        match (key, self.maps.rings.is_by_source(key.ring(entry.service))) {
            (_, false) => entry.hash,
            (Key::V4(flow), true) => hash::client4(secret, flow),
            (Key::V6(flow), true) => hash::client6(secret, flow),
        }
    }

    /// The row of a flow, as it is now; `None` if its ring is gone.
    pub fn row_of(&self, key: &Key, entry: &FlowEntry) -> Option<Row> {
        self.maps.rings.row(key.ring(entry.service), self.place_of(key, entry))
    }

    /// Whether a tracked flow is one that its row has written down, too.
    pub fn is_written_down(&self, key: &Key, entry: &FlowEntry) -> Result<bool, DataplaneError> {
        let asks = |row| rows::by_row_alone(row, self.place_of(key, entry)).is_none();
        if !self.row_of(key, entry).is_some_and(asks) {
            return Ok(false);
        }
        Ok(self.maps.flow(Table::Rows, key)?.is_some_and(|entry| entry.state.is_taken()))
    }

    /// Removes those of these entries whose state is what is said here; which of them are gone.
    pub fn forget(&mut self, table: Table, entries: &[(Key, FlowEntry)]) -> Result<Vec<bool>, DataplaneError> {
        let mut gone = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(FORGET_AT_ONCE) {
            let lines = &self.maps.forget;
            for (line, (key, entry)) in chunk.iter().enumerate() {
                let (flow, family) = match key {
                    Key::V4(Flow4 { source, destination, ports, protocol }) => {
                        ([*source, *destination, *ports, *protocol, 0, 0, 0, 0, 0, 0], 4)
                    }
                    Key::V6(Flow6 { source: [a, b, c, d], destination: [e, f, g, h], ports, protocol }) => {
                        ([*a, *b, *c, *d, *e, *f, *g, *h, *ports, *protocol], 6)
                    }
                };
                let base = line * FORGET_WORDS;
                for (word, pair) in flow.chunks_exact(2).enumerate() {
                    lines.store(base + word, u64::from(pair[0]) | u64::from(pair[1]) << 32);
                }
                lines.store(base + 5, entry.state.0);
                let family = if table == Table::Tracked { FORGET_TRACKED + family } else { family };
                lines.store(base + 6, u64::from(family));
            }
            if chunk.len() < FORGET_AT_ONCE {
                lines.store(chunk.len() * FORGET_WORDS + 6, 0);
            }
            self.program.forget()?;
            let lines = &self.maps.forget;
            gone.extend((0..chunk.len()).map(|line| lines.load(line * FORGET_WORDS + 6) >> 32 == 1));
        }
        Ok(gone)
    }

    /// Gives a backend's UDP flows to the owners of their rows, busy or not; how many were written down.
    pub fn evict_udp(&mut self, backend: u16) -> Result<u64, DataplaneError> {
        self.tracking.disturb();
        // Rows first: who is not written down any more must not come back by way of them, nor by a late reply.
        for service in self.maps.rings.unsettle(backend, |id| !id.is_tcp()) {
            self.maps.set_moving(service, false);
        }
        let rows = self.evict_udp_from(Table::Rows, backend)?;
        // Then those that rows do not ask for. One that both know is counted once, or a few times if it is busy.
        let tracked = self.evict_udp_from(Table::Tracked, backend)?;
        Ok(rows.max(tracked))
    }

    fn evict_udp_from(&mut self, table: Table, backend: u16) -> Result<u64, DataplaneError> {
        let (mut cursor, mut count) = (Cursor::new(table), 0);
        while !cursor.is_done() {
            let entries = self.read_flows(&mut cursor)?;
            let mut theirs: Vec<(Key, FlowEntry)> = entries
                .into_iter()
                .filter(|(key, entry)| !key.ring(entry.service).is_tcp() && entry.state.life().backend() == backend)
                .collect();
            // A busy flow is touched once a second: the second try finds it as it is.
            for _ in 0..3 {
                let gone = self.forget(table, &theirs)?;
                count += gone.iter().filter(|gone| **gone).count() as u64;
                let mut gone = gone.into_iter();
                theirs.retain(|_| !gone.next().unwrap_or(true));
                for (key, entry) in &mut theirs {
                    if let Some(now) = self.maps.flow(table, key)? {
                        entry.state = now.state;
                    }
                }
                theirs.retain(|(_, entry)| entry.state.life().backend() == backend);
                if theirs.is_empty() {
                    break;
                }
            }
        }
        Ok(count)
    }

    /// What the tables of flows did for a service, summed over CPUs.
    pub fn flow_counters(&self, service: u32) -> Result<FlowCounters, DataplaneError> {
        self.maps.flow_counters(service)
    }

    /// Starts counting from zero for an id that is given to somebody new.
    pub fn reset_flow_counters(&mut self, service: u32) -> Result<(), DataplaneError> {
        self.maps.reset_flow_counters(service)
    }

    /// What the tables of tracked flows did for a service, summed over CPUs.
    pub fn tracked_counters(&self, service: u32) -> Result<TrackedCounters, DataplaneError> {
        self.maps.tracked_counters(service)
    }

    /// As [`Self::reset_flow_counters`].
    pub fn reset_tracked_counters(&mut self, service: u32) -> Result<(), DataplaneError> {
        self.tracking.forget(service);
        self.maps.reset_tracked_counters(service)
    }

    /// How much a service has used of its policy.
    pub fn flow_use(&self, service: u32) -> FlowUse {
        self.maps.flow_use(service)
    }

    /// Adds to the number of entries a service is said to have: the sweep counted them.
    pub fn correct_flow_entries(&self, service: u32, by: i64) {
        self.maps.correct_entries(service, by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flows_ends_are_read_as_they_stand_in_the_packet() {
        let ports = u32::from_ne_bytes([0xd4, 0x31, 0x01, 0xbb]);
        let word = |ip: [u8; 4]| u32::from_ne_bytes(ip);
        let (source, destination) = (word([192, 0, 2, 7]), word([203, 0, 113, 10]));
        let v4 = Key::V4(Flow4 { source, destination, ports, protocol: 6 });
        assert_eq!(v4.ends(), ("192.0.2.7:54321".parse().unwrap(), "203.0.113.10:443".parse().unwrap()));
        let words = |ip: &str| lb_common::addr::words6(ip.parse::<std::net::Ipv6Addr>().unwrap().octets());
        let (source, destination) = (words("2001:db8::7"), words("2001:db8::10"));
        let v6 = Key::V6(Flow6 { source, destination, ports, protocol: 17 });
        assert_eq!(v6.ends(), ("[2001:db8::7]:54321".parse().unwrap(), "[2001:db8::10]:443".parse().unwrap()));
    }
}
