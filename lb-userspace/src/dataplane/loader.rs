//! Loads a variant of the program: the object with its load-time constants set and its maps sized.
//!
//! All variants share one set of maps. aya reopens a pinned map by name, so every map is pinned and the second
//! variant finds the first one's. It does not compare them, which is why [`super::resume`] does before anything is
//! loaded on maps of an earlier controller.

use aya::programs::ProgramError;
use aya::{Ebpf, EbpfError, EbpfLoader};

use lb_common::hash::HashKey;
use lb_common::settings;

use super::error::DataplaneError;
use super::maps::NAMES;
use super::{Options, object};
use crate::model::{Limits, Model, Packets};

/// What the configuration uses; the rest is compiled out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub ipv4: bool,
    pub ipv6: bool,
    pub nat: bool,
    pub ipip: bool,
    pub dsr_l2: bool,
    pub gre: bool,
    pub gue: bool,
    /// VXLAN or Geneve.
    pub overlay: bool,
    /// Tunnels through the other address family.
    pub crossing: bool,
    /// Flows of some service are tracked.
    pub tracking: bool,
    /// What kinds of packets it knows how to handle.
    pub packets: Packets,
    /// Some service listens on a prefix or on a range of ports.
    pub wildcards: bool,
    /// Log every decision. For debugging in a lab.
    pub log: bool,
    /// Time comes from a map that a test owns.
    pub test_clock: bool,
}

impl std::ops::BitOr for Features {
    type Output = Self;

    /// What either needs.
    fn bitor(self, other: Self) -> Self {
        Self {
            ipv4: self.ipv4 | other.ipv4,
            ipv6: self.ipv6 | other.ipv6,
            nat: self.nat | other.nat,
            ipip: self.ipip | other.ipip,
            dsr_l2: self.dsr_l2 | other.dsr_l2,
            gre: self.gre | other.gre,
            gue: self.gue | other.gue,
            overlay: self.overlay | other.overlay,
            crossing: self.crossing | other.crossing,
            tracking: self.tracking | other.tracking,
            packets: self.packets | other.packets,
            wildcards: self.wildcards | other.wildcards,
            log: self.log | other.log,
            test_clock: self.test_clock | other.test_clock,
        }
    }
}

impl Features {
    /// Each by its load-time constant.
    fn switches(self) -> [(&'static str, bool); 20] {
        let Self {
            ipv4,
            ipv6,
            nat,
            ipip,
            dsr_l2,
            gre,
            gue,
            overlay,
            crossing,
            tracking,
            packets,
            wildcards,
            log,
            test_clock,
        } = self;
        let Packets { vlan, extensions, fragments, icmp, echo, too_big, clamp } = packets;
        [
            (settings::IPV4, ipv4),
            (settings::IPV6, ipv6),
            (settings::NAT, nat),
            (settings::IPIP, ipip),
            (settings::DSR_L2, dsr_l2),
            (settings::GRE, gre),
            (settings::GUE, gue),
            (settings::OVERLAY, overlay),
            (settings::CROSSING, crossing),
            (settings::TRACKING, tracking),
            (settings::VLAN, vlan),
            (settings::EXTENSIONS, extensions),
            (settings::FRAGMENTS, fragments),
            (settings::ICMP, icmp),
            (settings::ECHO, echo),
            (settings::TOO_BIG, too_big),
            (settings::CLAMP, clamp),
            (settings::WILDCARDS, wildcards),
            (settings::LOG, log),
            (settings::TEST_CLOCK, test_clock),
        ]
    }
}

/// Blocks of ports that each service makes room for: see [`crate::model::wildcards`].
pub const BLOCKS_PER_SERVICE: u32 = 64;

/// How many entries the maps have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub services: u32,
    pub backends: u32,
    /// Flows that can be written down, by address family.
    pub flows4: u32,
    pub flows6: u32,
    /// Flows that can be tracked; 1 where none is, because a map has one entry at least.
    pub tracked4: u32,
    pub tracked6: u32,
}

/// Free elements of an LRU map that the kernel keeps at hand for each CPU (`LOCAL_FREE_TARGET`), and gives to no other
/// one before it pushes somebody out. With so many more than quotas add up to it pushes out nobody.
fn spare() -> u32 {
    const AT_HAND: u32 = 128;
    AT_HAND * aya::util::nr_cpus().map_or(1, |cpus| cpus as u32)
}

impl Sizes {
    /// What the configuration asks for. The budget of flows goes to the families that are used.
    pub fn new(model: &Model, features: Features) -> Self {
        let Limits { flows, services, backends } = model.limits;
        let tracked = model.tracked_room();
        let flows = flows - tracked.iter().sum::<u32>();
        let (flows4, flows6) = match (features.ipv4, features.ipv6) {
            (true, true) => (flows - flows / 2, flows / 2),
            (false, true) => (1, flows),
            (_, false) => (flows, 1),
        };
        // A map has one entry at least.
        let [tracked4, tracked6] = tracked.map(|room| if room == 0 { 1 } else { room + spare() });
        Self { services, backends, flows4: flows4.max(1), flows6: flows6.max(1), tracked4, tracked6 }
    }

    /// Tables of tracked flows that have another size in `before`.
    pub(super) fn changed_tables(self, before: Self) -> Vec<&'static str> {
        let tables = [("TRACKED4", self.tracked4, before.tracked4), ("TRACKED6", self.tracked6, before.tracked6)];
        tables.into_iter().filter(|(_, now, then)| now != then).map(|(name, ..)| name).collect()
    }

    /// Of the map called `name`; `None` where the object's own figure holds.
    pub fn entries(self, name: &str) -> Option<u32> {
        match name {
            // A service has several endpoints, and a ring per protocol and address family.
            "SERVICES4" | "SERVICES6" | "VIPS4" | "VIPS6" => Some(self.services.saturating_mul(4)),
            ring if ring.starts_with("RINGS_") => Some(self.services.saturating_mul(4)),
            // One more, because the kernel replaces nothing in a trie that is full.
            "PREFIXES4" | "PREFIXES6" => Some(self.services.saturating_mul(4).saturating_add(1)),
            // New groups are written before old ones are removed.
            "PORTS" => Some(self.services.saturating_mul(2 * BLOCKS_PER_SERVICE).saturating_add(1)),
            "REVERSE4" | "REVERSE6" => Some(self.backends),
            // Id 0 is "none".
            "BACKENDS" | "BACKEND_COUNTERS" => Some(self.backends.saturating_add(1)),
            "NEXT_HOPS" => Some(self.backends.saturating_add(1024)),
            "FLOWS4" => Some(self.flows4),
            "FLOWS6" => Some(self.flows6),
            "TRACKED4" => Some(self.tracked4),
            "TRACKED6" => Some(self.tracked6),
            // Id 0 is for packets of no service.
            "SERVICE_COUNTERS" | "FLOW_COUNTERS" | "TRACKED_COUNTERS" | "FLOW_POLICIES" | "FLOW_USES" => {
                Some(self.services.saturating_add(1))
            }
            _ => None,
        }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self { services: 1024, backends: 8192, flows4: 65_536, flows6: 65_536, tracked4: 1, tracked6: 1 }
    }
}

/// Constants that are not switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunables {
    pub hash_key: HashKey,
    /// Network order; see [`settings::TUNNEL_SOURCE_MASK4`].
    pub tunnel_source_mask4: u32,
    pub tunnel_source_mask6: u32,
}

/// Loads the object on the maps pinned in the directory `maps` below ours, making those that are missing; its programs
/// are not verified yet.
pub(super) fn load(options: &Options, maps: &str, features: Features) -> Result<Ebpf, DataplaneError> {
    let switches = features.switches().map(|(name, on)| (name, u8::from(on)));
    let key = options.tunables.hash_key;

    let mut loader = EbpfLoader::new();
    for (name, on) in &switches {
        loader.override_global(name, on, true);
    }
    loader
        .override_global(settings::HASH_KEY, &key, true)
        .override_global(settings::TUNNEL_SOURCE_MASK4, &options.tunables.tunnel_source_mask4, true)
        .override_global(settings::TUNNEL_SOURCE_MASK6, &options.tunables.tunnel_source_mask6, true);
    for name in NAMES {
        if let Some(entries) = options.sizes.entries(name) {
            loader.map_max_entries(name, entries);
        }
        loader.map_pin_path(name, options.bpf_dir.join(maps).join(name));
    }
    loader.load(object::LOAD_BALANCER).map_err(|error| explain(&error))
}

/// The loader's error in our words.
pub(super) fn explain(error: &EbpfError) -> DataplaneError {
    if denied(error) {
        return DataplaneError::NotPermitted;
    }
    match error {
        EbpfError::MapError(e) => DataplaneError::Map { name: "of the program".into(), why: chain(e) },
        other => DataplaneError::Refused(chain(other)),
    }
    .or_too_old()
}

/// As [`explain`], for loading and attaching programs.
pub(super) fn explain_program(error: &ProgramError) -> DataplaneError {
    if denied(error) {
        return DataplaneError::NotPermitted;
    }
    match error {
        // The log's last lines say where; the whole of it helps nobody at a terminal.
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            DataplaneError::Refused(format!("{io_error}\n{}", tail.join("\n")))
        }
        other => DataplaneError::Refused(chain(other)),
    }
    .or_too_old()
}

/// An error and its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The kernel says EPERM to those who may not; EACCES is the verifier's no.
fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.raw_os_error() == Some(libc::EPERM)
        {
            return true;
        }
        next = error.source();
    }
    false
}
