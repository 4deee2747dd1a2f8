//! The loaded program and its maps.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::{fmt, io};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::xdp::Xdp;
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions};
use aya::{Ebpf, EbpfLoader, Pod};

use super::{Counts, objects};
use lb_common::addr::words6;
use lb_common::counters::{BackendCounters, FlowCounters, ServiceCounters, TrackedCounters};
use lb_common::decap::Vip;
use lb_common::event::Event;
use lb_common::flow::Forget;
use lb_common::hash::{HashKey, KEY_WORDS};
use lb_common::ring::{CLASSES, Row, rows};
use lb_common::settings;
use sluice::dataplane::decap::Tunnels;
use sluice::model::Packets;

/// Map sizes of test programs: enough for every table here, small enough to read counters whole.
const SERVICES: u32 = 112;
const BACKENDS: u32 = 96;
const NEXT_HOPS: u32 = 64;
const RING_SLOTS: u32 = 128;

/// Inner maps must have the flags of the template the program was built with.
pub(super) const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Values of the load-time constants.
#[derive(Clone, Debug)]
pub struct Settings {
    pub ipv4: bool,
    pub ipv6: bool,
    pub nat: bool,
    pub ipip: bool,
    pub dsr_l2: bool,
    pub gre: bool,
    pub gue: bool,
    pub overlay: bool,
    pub crossing: bool,
    pub tracking: bool,
    pub packets: Packets,
    pub wildcards: bool,
    pub log: bool,
    pub test_clock: bool,
    /// Of each table of flows whose rows are not steady, and of tracked ones.
    pub room_for_flows: u32,
    pub room_for_tracked: u32,
    pub hash_key: HashKey,
    /// Network order, as [`settings::TUNNEL_SOURCE_MASK4`].
    pub tunnel_source_mask4: u32,
    pub tunnel_source_mask6: u32,
}

impl Settings {
    /// Everything on but the log, time owned by the test, and a fixed key.
    pub fn everything() -> Self {
        let mut x = 0x5109_1ce0_u64;
        let key: [u64; KEY_WORDS] = std::array::from_fn(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            x ^ (x >> 29)
        });
        Self {
            ipv4: true,
            ipv6: true,
            nat: true,
            ipip: true,
            dsr_l2: true,
            gre: true,
            gue: true,
            overlay: true,
            crossing: true,
            tracking: true,
            packets: Packets::ALL,
            wildcards: true,
            log: false,
            test_clock: true,
            room_for_flows: Program::FLOWS,
            room_for_tracked: 4096,
            hash_key: HashKey(key),
            tunnel_source_mask4: 0,
            tunnel_source_mask6: 0,
        }
    }
}

/// What an XDP program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
    Unknown(u32),
}

impl From<u32> for Verdict {
    fn from(action: u32) -> Self {
        match action {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            other => Self::Unknown(other),
        }
    }
}

/// One run: what the program said, and the frame as it left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
}

/// The kernel's `struct xdp_md`, as test runs take it.
#[repr(C)]
struct Context {
    /// Bytes of metadata before the frame.
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

impl Context {
    fn bytes(&self) -> [u8; 24] {
        let words =
            [self.data, self.data_end, self.data_meta, self.ingress_ifindex, self.rx_queue_index, self.egress_ifindex];
        let mut bytes = [0; 24];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The outer ring map of a class.
pub(super) fn outer(class: usize) -> String {
    format!("RINGS_{}", CLASSES[class])
}

/// The verifier did not let a program in.
#[derive(Debug, thiserror::Error)]
#[error("the verifier refused `{entry}`: {io_error}\n{tail}")]
pub struct Refused {
    entry: &'static str,
    io_error: io::Error,
    /// The end of the verifier's log.
    tail: String,
}

/// One of the objects, loaded.
pub struct Program {
    pub(super) ebpf: Ebpf,
    /// The program's name in it.
    entry: &'static str,
    /// By class and slot: the rings that were put there one by one.
    rings: BTreeMap<(usize, u32), Array<MapData, u64>>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("entry", &self.entry).finish_non_exhaustive()
    }
}

impl Program {
    /// Room for flows, in each of the tables, if nothing else is said.
    pub const FLOWS: u32 = 64;

    /// Loads the load balancer with empty maps. Nothing is pinned and nothing attached: it goes when dropped.
    pub fn load(settings: &Settings) -> Result<Self> {
        let flags = [
            (settings::IPV4, u8::from(settings.ipv4)),
            (settings::IPV6, u8::from(settings.ipv6)),
            (settings::NAT, u8::from(settings.nat)),
            (settings::IPIP, u8::from(settings.ipip)),
            (settings::DSR_L2, u8::from(settings.dsr_l2)),
            (settings::GRE, u8::from(settings.gre)),
            (settings::GUE, u8::from(settings.gue)),
            (settings::OVERLAY, u8::from(settings.overlay)),
            (settings::CROSSING, u8::from(settings.crossing)),
            (settings::TRACKING, u8::from(settings.tracking)),
            (settings::VLAN, u8::from(settings.packets.vlan)),
            (settings::EXTENSIONS, u8::from(settings.packets.extensions)),
            (settings::FRAGMENTS, u8::from(settings.packets.fragments)),
            (settings::ICMP, u8::from(settings.packets.icmp)),
            (settings::ECHO, u8::from(settings.packets.echo)),
            (settings::TOO_BIG, u8::from(settings.packets.too_big)),
            (settings::CLAMP, u8::from(settings.packets.clamp)),
            (settings::WILDCARDS, u8::from(settings.wildcards)),
            (settings::LOG, u8::from(settings.log)),
            (settings::TEST_CLOCK, u8::from(settings.test_clock)),
        ];
        let mut loader = EbpfLoader::new();
        for (name, value) in &flags {
            loader.override_global(name, value, true);
        }
        loader
            .override_global(settings::HASH_KEY, &settings.hash_key, true)
            .override_global(settings::TUNNEL_SOURCE_MASK4, &settings.tunnel_source_mask4, true)
            .override_global(settings::TUNNEL_SOURCE_MASK6, &settings.tunnel_source_mask6, true)
            .map_max_entries("SERVICE_COUNTERS", SERVICES)
            .map_max_entries("FLOW_COUNTERS", SERVICES)
            .map_max_entries("TRACKED_COUNTERS", SERVICES)
            .map_max_entries("FLOW_POLICIES", SERVICES)
            .map_max_entries("FLOW_USES", SERVICES)
            .map_max_entries("FLOWS4", settings.room_for_flows)
            .map_max_entries("FLOWS6", settings.room_for_flows)
            .map_max_entries("TRACKED4", settings.room_for_tracked)
            .map_max_entries("TRACKED6", settings.room_for_tracked)
            .map_max_entries("BACKEND_COUNTERS", BACKENDS)
            .map_max_entries("BACKENDS", BACKENDS)
            .map_max_entries("NEXT_HOPS", NEXT_HOPS);
        let outers: Vec<String> = (0..CLASSES.len()).map(outer).collect();
        for name in &outers {
            loader.map_max_entries(name, RING_SLOTS);
        }
        let ebpf = loader.load(objects::load_balancer()).context("cannot load the XDP object; are you root?")?;
        Self::verify(ebpf, "sluice")
    }

    /// Loads the decapsulator of backend hosts, with the usual ports and for any network.
    pub fn load_decap(vips: &[IpAddr]) -> Result<Self> {
        let ebpf = EbpfLoader::new().load(objects::decap()).context("cannot load the XDP object; are you root?")?;
        Self::listing(ebpf, vips)
    }

    /// As [`Program::load_decap`], as the command loads it.
    pub fn load_decap_with(vips: &[IpAddr], tunnels: &Tunnels) -> Result<Self> {
        let ebpf = tunnels.load(objects::decap()).context("cannot load the XDP object; are you root?")?;
        Self::listing(ebpf, vips)
    }

    fn listing(ebpf: Ebpf, vips: &[IpAddr]) -> Result<Self> {
        let mut program = Self::verify(ebpf, "sluice_decap")?;
        for vip in vips {
            let key = match vip {
                IpAddr::V4(a) => Vip::v4(u32::from_ne_bytes(a.octets())),
                IpAddr::V6(a) => Vip::v6(words6(a.octets())),
            };
            program.insert("DECAP_VIPS", key, 1u32)?;
        }
        Ok(program)
    }

    fn verify(mut ebpf: Ebpf, entry: &'static str) -> Result<Self> {
        let program: &mut Xdp = ebpf.program_mut(entry).with_context(|| format!("no program `{entry}`"))?.try_into()?;
        match program.load() {
            Ok(()) => Ok(Self { ebpf, entry, rings: BTreeMap::new() }),
            // What matters is at the end of a log of thousands of lines.
            Err(ProgramError::LoadError { io_error, verifier_log }) => {
                let log = verifier_log.to_string();
                let tail = log.lines().rev().take(40).fold(String::new(), |tail, line| format!("{line}\n{tail}"));
                Err(Refused { entry, io_error, tail }.into())
            }
            Err(why) => Err(why).with_context(|| format!("cannot load `{entry}`")),
        }
    }

    pub(super) fn map<'a, T: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>>(
        &'a mut self,
        name: &str,
    ) -> Result<T> {
        let map = self.ebpf.map_mut(name).ok_or_else(|| anyhow!("no map `{name}` in the object"))?;
        T::try_from(map).with_context(|| format!("map `{name}`"))
    }

    /// Writes an entry of a hash map.
    pub fn insert<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) -> Result<()> {
        self.map::<HashMap<_, K, V>>(map)?.insert(key, value, 0).with_context(|| format!("map `{map}`"))
    }

    /// Writes an element of an array.
    pub fn set<V: Pod>(&mut self, map: &str, index: u32, value: V) -> Result<()> {
        self.map::<Array<_, V>>(map)?.set(index, value, 0).with_context(|| format!("map `{map}`, index {index}"))
    }

    /// Writes a prefix of a longest-prefix trie; `prefix` in network order.
    pub fn insert_prefix<K: Pod, V: Pod>(&mut self, map: &str, length: u32, prefix: K, value: V) -> Result<()> {
        let key = Key::new(length, prefix);
        self.map::<LpmTrie<_, K, V>>(map)?.insert(&key, value, 0).with_context(|| format!("map `{map}`"))
    }

    /// Puts a ring into a slot: a new inner map, its given rows written, the others owned by nobody.
    pub fn set_ring(&mut self, class: usize, slot: u32, ring: impl IntoIterator<Item = (u32, Row)>) -> Result<()> {
        let mut inner: Array<MapData, u64> = Array::create(rows(class), BPF_F_MMAPABLE)?;
        for (index, row) in ring {
            inner.set(index, row.0, 0)?;
        }
        let name = outer(class);
        self.map::<ArrayOfMaps<_, Array<MapData, u64>>>(&name)?.set(slot, &inner, 0).with_context(|| name)?;
        self.rings.insert((class, slot), inner);
        Ok(())
    }

    /// Writes one row of such a ring.
    pub fn set_row(&mut self, class: usize, slot: u32, index: u32, row: Row) -> Result<()> {
        Ok(self.rings.get_mut(&(class, slot)).context("no such ring")?.set(index, row.0, 0)?)
    }

    /// The word of a row of a ring that [`Program::set_ring`] put there.
    pub fn row(&self, class: usize, slot: u32, index: u32) -> Result<Row> {
        Ok(Row(self.rings.get(&(class, slot)).context("no such ring")?.get(&index, 0)?))
    }

    /// An element of an array.
    pub fn get<V: Pod>(&mut self, map: &str, index: u32) -> Result<V> {
        self.map::<Array<_, V>>(map)?.get(&index, 0).with_context(|| format!("map `{map}`, index {index}"))
    }

    /// An entry of a hash map.
    pub fn find<K: Pod, V: Pod>(&mut self, map: &str, key: &K) -> Result<Option<V>> {
        match self.map::<HashMap<_, K, V>>(map)?.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(why) => Err(why).with_context(|| format!("map `{map}`")),
        }
    }

    /// All entries of a hash map.
    pub fn entries<K: Pod, V: Pod>(&mut self, map: &str) -> Result<Vec<(K, V)>> {
        Ok(self.map::<HashMap<_, K, V>>(map)?.iter().collect::<Result<_, _>>()?)
    }

    /// Empties a hash map.
    pub fn clear<K: Pod, V: Pod>(&mut self, map: &str) -> Result<()> {
        let mut entries: HashMap<_, K, V> = self.map(map)?;
        let keys: Vec<K> = entries.keys().collect::<Result<_, _>>()?;
        for key in keys {
            entries.remove(&key)?;
        }
        Ok(())
    }

    /// Makes exactly these interfaces targets of redirects.
    pub fn set_devices(&mut self, interfaces: &[u32]) -> Result<()> {
        let mut devices: DevMapHash<_> = self.map("DEVICES")?;
        let old: Vec<u32> = devices.keys().collect::<Result<_, _>>()?;
        for ifindex in old {
            devices.remove(ifindex)?;
        }
        for &ifindex in interfaces {
            devices.insert(ifindex, ifindex, None, 0)?;
        }
        Ok(())
    }

    /// Sets the program's clock, in seconds.
    pub fn set_clock(&mut self, seconds: u64) -> Result<()> {
        self.set("CLOCK", 0, seconds)
    }

    /// A descriptor that is readable when there are events.
    pub fn event_ring(&mut self) -> Result<OwnedFd> {
        let ring: RingBuf<_> = self.map("EVENTS")?;
        // SAFETY: it is the ring's own, which lives until the end of this function.
        Ok(unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned()?)
    }

    /// All events the program has sent since the last call.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let mut ring: RingBuf<_> = self.map("EVENTS")?;
        let mut events = Vec::new();
        while let Some(bytes) = ring.next() {
            ensure!(bytes.len() == size_of::<Event>(), "an event of {} bytes", bytes.len());
            // SAFETY: `Event` is plain integers, any bytes are one; the length was checked, alignment is not needed.
            events.push(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<Event>()) });
        }
        Ok(events)
    }

    /// Every counter, summed over CPUs.
    pub fn counters(&mut self) -> Result<Counts> {
        let mut counts = Counts::default();
        if self.entry == "sluice_decap" {
            let counters: PerCpuArray<_, [u64; 2]> = self.map("DECAP_COUNTERS")?;
            for [unwrapped, unlisted] in counters.get(&0, 0)?.iter() {
                counts.add("decap unwrapped".into(), *unwrapped);
                counts.add("decap unlisted".into(), *unlisted);
            }
            return Ok(counts);
        }
        let services: PerCpuArray<_, ServiceCounters> = self.map("SERVICE_COUNTERS")?;
        for id in 0..services.len() {
            let mut sum = ServiceCounters::default();
            services.get(&id, 0)?.iter().for_each(|cpu| sum.add(cpu));
            counts.service(id, &sum);
        }
        let flows: PerCpuArray<_, FlowCounters> = self.map("FLOW_COUNTERS")?;
        for id in 0..flows.len() {
            let mut sum = FlowCounters::default();
            flows.get(&id, 0)?.iter().for_each(|cpu| sum.add(cpu));
            counts.flows(id, &sum);
        }
        let tracked: PerCpuArray<_, TrackedCounters> = self.map("TRACKED_COUNTERS")?;
        for id in 0..tracked.len() {
            let mut sum = TrackedCounters::default();
            tracked.get(&id, 0)?.iter().for_each(|cpu| sum.add(cpu));
            counts.tracked(id, &sum);
        }
        let backends: PerCpuArray<_, BackendCounters> = self.map("BACKEND_COUNTERS")?;
        for id in 0..backends.len() {
            let mut sum = BackendCounters::default();
            backends.get(&id, 0)?.iter().for_each(|cpu| sum.add(cpu));
            counts.backend(id, &sum);
        }
        Ok(counts)
    }

    /// Has the other program of the object remove an entry, if its state still is what is said here.
    pub fn remove_flow(&mut self, flow: Forget) -> Result<bool> {
        Ok(self.remove_flows(&[flow, Forget { family: 0, ..flow }])?[0] == 1)
    }

    /// Hands it these lines; what it wrote about each.
    pub fn remove_flows(&mut self, flows: &[Forget]) -> Result<Vec<u32>> {
        let mut lines: Array<_, Forget> = self.map("FORGET")?;
        for (i, flow) in (0..).zip(flows) {
            lines.set(i, flow, 0)?;
        }
        let program: &mut Xdp = self.ebpf.program_mut("forget").context("no program `forget`")?.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        program.test_run(TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::new() })?;
        (0..flows.len() as u32).map(|i| Ok(self.get::<Forget>("FORGET", i)?.gone)).collect()
    }

    fn program(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program(self.entry).context("the program is gone")?.try_into()?)
    }

    /// Runs one frame that came in on `ingress`. At least 14 bytes; the kernel runs no less.
    pub fn run(&self, frame: &[u8], ingress: u32) -> Result<Outcome> {
        self.run_behind(frame, ingress, 0)
    }

    /// As [`Program::run`], with `metadata` bytes (a multiple of 4, at most 216) taken from the headroom before
    /// the frame, as a driver with little room would.
    pub fn run_behind(&self, frame: &[u8], ingress: u32, metadata: usize) -> Result<Outcome> {
        let input = [vec![0; metadata], frame.to_vec()].concat();
        let context = Context {
            data: metadata as u32,
            data_end: input.len() as u32,
            data_meta: 0,
            ingress_ifindex: ingress,
            rx_queue_index: 0,
            egress_ifindex: 0,
        };
        let mut output = vec![0; input.len() + 256];
        let result = self.program()?.test_run(TestRunOptions {
            data_in: Some(&input),
            data_out: Some(&mut output),
            ctx_in: Some(&context.bytes()),
            ..TestRunOptions::new()
        });
        let result = result.with_context(|| format!("BPF_PROG_TEST_RUN of {} bytes on {ingress}", frame.len()))?;
        output.truncate(result.data_size_out as usize);
        output.drain(..metadata.min(output.len()));
        Ok(Outcome { verdict: Verdict::from(result.return_value), frame: output })
    }

    /// Runs one frame for real: what the program sends goes out on the wire.
    pub fn run_live(&self, frame: &[u8], ingress: u32) -> Result<()> {
        let context = Context {
            data: 0,
            data_end: frame.len() as u32,
            data_meta: 0,
            ingress_ifindex: ingress,
            rx_queue_index: 0,
            egress_ifindex: 0,
        };
        self.program()?
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context.bytes()),
                attrs: TestRunAttrs::new().xdp_live_frames(1),
                ..TestRunOptions::new()
            })
            .with_context(|| format!("live BPF_PROG_TEST_RUN of {} bytes on {ingress}", frame.len()))?;
        Ok(())
    }
}
