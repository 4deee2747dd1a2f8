//! Every map, with its key, value, writer, reader, and what happens when it is full.
//!
//! Sizes marked *limits* are the defaults here; the loader overrides them from the configuration.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_fib_lookup};
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use lb_common::addr::{Endpoint4, Endpoint6};
use lb_common::backend::Backend;
use lb_common::counters::{BackendCounters, FlowCounters, ServiceCounters, TrackedCounters};
use lb_common::event::Event;
use lb_common::flow::{FORGET_AT_ONCE, Flow4, Flow6, FlowEntry, FlowPolicy, FlowUse, Forget, Fragments};
use lb_common::route::{Neighbour4, Neighbour6, NextHop, Route, Vlan};
use lb_common::service::{Reverse4, Reverse6, Service};

use crate::lookup::flows::Scratch;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// VIP endpoint → service. Written by the controller, read per packet. Full: the configuration is refused.
/// Size: limits × 4 (a service has several endpoints).
#[btf_map]
pub static SERVICES4: HashMap<Endpoint4, Service, 4096> = HashMap::new();
/// As [`SERVICES4`].
#[btf_map]
pub static SERVICES6: HashMap<Endpoint6, Service, 4096> = HashMap::new();

/// VIP prefix → group of ports, for services that listen on more than single endpoints; their own record in [`SERVICES4`]
/// has a key that no packet has. Written by the controller, read per packet that is for no exact endpoint, in programs
/// with wildcards. Full: the configuration is refused. Size: limits × 4, and one more, because the kernel replaces
/// nothing in a trie that is full.
#[btf_map]
pub static PREFIXES4: LpmTrie<[u8; 4], u32, 4097> = LpmTrie::new();
/// As [`PREFIXES4`].
#[btf_map]
pub static PREFIXES6: LpmTrie<[u8; 16], u32, 4097> = LpmTrie::new();
/// Group, protocol and the first bits of a port → service id. Written by the controller; a group never changes while a
/// prefix names it. Read after a prefix was found. Full: the configuration is refused. Size: limits × 64, twice, because
/// new groups are written before old ones are removed.
#[btf_map]
pub static PORTS: LpmTrie<u64, u32, 131_073> = LpmTrie::new();

/// NAT backend endpoint → VIP endpoint, for replies. Written by the controller, read for packets that are for
/// no service. Full: the configuration is refused. Size: limits.
#[btf_map]
pub static REVERSE4: HashMap<Endpoint4, Reverse4, 8192> = HashMap::new();
/// As [`REVERSE4`].
#[btf_map]
pub static REVERSE6: HashMap<Endpoint6, Reverse6, 8192> = HashMap::new();

/// Backend id → backend. Written by the controller through a mapping, word by word; read per packet. Full: the
/// configuration is refused. Size: limits.
#[btf_map]
pub static BACKENDS: Array<Backend, 8192, MMAPABLE> = Array::new();

/// Next hop index → MACs, MTU, interface. Written by the controller; an entry never changes while referred to.
/// Full: references become 0, and packets take the slow path. Size: limits + 1,024.
#[btf_map]
pub static NEXT_HOPS: Array<NextHop, 9216> = Array::new();

/// A ring of 2^10 rows. Rows are written by the controller through a mapping with 8-byte stores.
pub type Ring10 = Array<u64, 1024, MMAPABLE>;
/// A ring of 2^12 rows.
pub type Ring12 = Array<u64, 4096, MMAPABLE>;
/// A ring of 2^14 rows.
pub type Ring14 = Array<u64, 16384, MMAPABLE>;
/// A ring of 2^17 rows.
pub type Ring17 = Array<u64, 131_072, MMAPABLE>;
/// A ring of 2^20 rows.
pub type Ring20 = Array<u64, 1_048_576, MMAPABLE>;

/// Ring slot → ring, one outer map per size class, because the kernel inlines the lookup only when all inner
/// maps have one size. Written by the controller: a slot is swapped whole. Full: the configuration is refused.
/// Size: limits × 4 (two protocols, two address families).
#[btf_map]
pub static RINGS_10: ArrayOfMaps<Ring10, 4096> = ArrayOfMaps::new();
/// As [`RINGS_10`].
#[btf_map]
pub static RINGS_12: ArrayOfMaps<Ring12, 4096> = ArrayOfMaps::new();
/// As [`RINGS_10`].
#[btf_map]
pub static RINGS_14: ArrayOfMaps<Ring14, 4096> = ArrayOfMaps::new();
/// As [`RINGS_10`].
#[btf_map]
pub static RINGS_17: ArrayOfMaps<Ring17, 4096> = ArrayOfMaps::new();
/// As [`RINGS_10`].
#[btf_map]
pub static RINGS_20: ArrayOfMaps<Ring20, 4096> = ArrayOfMaps::new();

/// Flow → its entry, while its row is not steady. Written here; `forget` removes, on the controller's behalf. Never LRU:
/// see [`FlowEntry`]. Full: the flow is not written down, and its row moves for longer. Size: limits.
#[btf_map]
pub static FLOWS4: HashMap<Flow4, FlowEntry, 65536> = HashMap::new();
/// As [`FLOWS4`].
#[btf_map]
pub static FLOWS6: HashMap<Flow6, FlowEntry, 65536> = HashMap::new();

/// Flow → its entry, for tracked services whatever the row. Written here; `forget` removes, on the controller's behalf.
/// LRU: nothing is promised by it. Full: the kernel takes out somebody who was not looked up lately. Size: limits, and 1
/// where no service is tracked.
#[btf_map]
pub static TRACKED4: LruHashMap<Flow4, FlowEntry, 1024> = LruHashMap::new();
/// As [`TRACKED4`].
#[btf_map]
pub static TRACKED6: LruHashMap<Flow6, FlowEntry, 1024> = LruHashMap::new();

/// Addresses, protocol and identification of a packet in fragments → what its first one told. Written and read here. LRU:
/// nothing is promised by it. Full: the kernel takes out a packet that was not looked up lately, whose later fragments pass.
#[btf_map]
pub static FRAGMENTS4: LruHashMap<Flow4, Fragments, 8192> = LruHashMap::new();
/// As [`FRAGMENTS4`].
#[btf_map]
pub static FRAGMENTS6: LruHashMap<Flow6, Fragments, 8192> = LruHashMap::new();

/// Service id → how its flows are written down. Written by the controller through a mapping, word by word; read for
/// packets of rows that are not steady or of tracked flows, and for replies. Size: limits + 1.
#[btf_map]
pub static FLOW_POLICIES: Array<FlowPolicy, 1025, MMAPABLE> = Array::new();

/// Service id → what it has used of that. Written here with atomic operations, and put right by the sweep through a
/// mapping. Size: limits + 1.
#[btf_map]
pub static FLOW_USES: Array<FlowUse, 1025, MMAPABLE> = Array::new();

/// What `forget` is to remove. Written by the controller through a mapping before it runs it, and by `forget`.
#[btf_map]
pub static FORGET: Array<Forget, FORGET_AT_ONCE, MMAPABLE> = Array::new();

/// What is remembered while a row that is not steady, or a table of tracked flows, is asked. Written and read within one packet.
#[btf_map]
pub static FLOW_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Destination prefix → route, for replies to clients. Written by the controller from netlink, read per reply.
/// Full: the controller writes one default route that asks the kernel.
#[btf_map]
pub static ROUTES4: LpmTrie<[u8; 4], Route, 4096> = LpmTrie::new();
/// As [`ROUTES4`].
#[btf_map]
pub static ROUTES6: LpmTrie<[u8; 16], Route, 4096> = LpmTrie::new();

/// On-link neighbour → its next hop, by value: a hash map update replaces the entry as a whole. Written by the
/// controller from netlink, read per reply to an on-link client. Full: such replies take the slow path.
#[btf_map]
pub static NEIGHBOURS4: HashMap<Neighbour4, NextHop, 16384, NO_PREALLOC> = HashMap::new();
/// As [`NEIGHBOURS4`].
#[btf_map]
pub static NEIGHBOURS6: HashMap<Neighbour6, NextHop, 16384, NO_PREALLOC> = HashMap::new();

/// The host's own addresses: packets from backends to these are the node's own traffic. Written by the
/// controller from netlink, read per reply. Full: the change is refused.
#[btf_map]
pub static LOCAL4: HashMap<u32, u32, 4096, NO_PREALLOC> = HashMap::new();
/// As [`LOCAL4`].
#[btf_map]
pub static LOCAL6: HashMap<[u32; 4], u32, 4096, NO_PREALLOC> = HashMap::new();

/// Interface index → device, for redirects. Written by the controller, read per redirected packet. Full: the
/// packet is dropped as `not_redirectable`.
#[btf_map]
pub static DEVICES: DevMapHash<256> = DevMapHash::new();

/// Service id → counters. Written here, read by the controller. Size: limits + 1.
#[btf_map]
pub static SERVICE_COUNTERS: PerCpuArray<ServiceCounters, 1025> = PerCpuArray::new();
/// Backend id → counters. Written here, read by the controller. Size: limits.
#[btf_map]
pub static BACKEND_COUNTERS: PerCpuArray<BackendCounters, 8192> = PerCpuArray::new();

/// Service id → what the tables of flows did for it. Written here, read by the controller. Size: limits + 1.
#[btf_map]
pub static FLOW_COUNTERS: PerCpuArray<FlowCounters, 1025> = PerCpuArray::new();

/// Service id → what the tables of tracked flows did for it. Written here, read by the controller. Size: limits + 1.
#[btf_map]
pub static TRACKED_COUNTERS: PerCpuArray<TrackedCounters, 1025> = PerCpuArray::new();

/// What the controller should know now. Written here, read by the controller. Full: the event is lost, and the
/// next packet tells again.
#[btf_map]
pub static EVENTS: RingBuf<Event, 65536> = RingBuf::new();

/// This CPU's event budget: the second it is for, and how many were sent in it.
#[btf_map]
pub static EVENT_BUDGET: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

/// This CPU's budget for errors that Sluice sends: the second it is for, and how many were sent in it.
#[btf_map]
pub static ANSWER_BUDGET: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

/// VIP → the first service that has it. Written by the controller, read for echo requests. Full: the change is refused.
/// Size: limits × 4.
#[btf_map]
pub static VIPS4: HashMap<u32, u32, 4096, NO_PREALLOC> = HashMap::new();
/// As [`VIPS4`].
#[btf_map]
pub static VIPS6: HashMap<[u32; 4], u32, 4096, NO_PREALLOC> = HashMap::new();

/// The slow path's question to the kernel's FIB, and the next hop made of the answer.
#[repr(C)]
pub struct Fib {
    pub request: bpf_fib_lookup,
    pub answer: NextHop,
    /// By how many bytes the last packet was too big for its way.
    pub excess: u32,
}

/// Where the slow path asks. Written and read within one packet.
#[btf_map]
pub static FIB: PerCpuArray<Fib, 1> = PerCpuArray::new();

/// The first bytes of a frame whose start was moved past its VLAN tags. Written and read within one packet.
#[btf_map]
pub static FRONT: PerCpuArray<[u32; 2], 1> = PerCpuArray::new();

/// Interface index of a VLAN → where its frames leave, and with which tags. Written by the controller from netlink, read
/// when the slow path's answer is such an interface. Full: packets that way are dropped as `not_redirectable`.
#[btf_map]
pub static VLANS: HashMap<u32, Vlan, 1024, NO_PREALLOC> = HashMap::new();

/// The time in seconds when [`lb_common::settings::TEST_CLOCK`] is set. Written by tests, read by `clock`.
#[btf_map]
pub static CLOCK: Array<u64, 1> = Array::new();
