//! The product in one configuration: loaded by its own loader, its maps written by its own data plane code.
//!
//! Nothing is pinned for longer than loading takes, and nothing attached: it goes when dropped, however the
//! process ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use aya::programs::ProgramFd;
use aya::programs::xdp::Xdp;
use nix::time::{ClockId, clock_gettime};

use lb_common::addr::{Endpoint4, Endpoint6, PROTO_TCP, PROTO_UDP, words6};
use lb_common::backend::{BACKEND_ALIVE, BACKEND_V6, Tunnel};
use lb_common::flow::FlowPolicy;
use lb_common::hash::HashKey;
use lb_common::ring::{CLASSES, KIND_MOVING, Row};
use lb_common::route::NextHop;
use lb_common::service::{FORWARD_DSR_L2, FORWARD_GUE, FORWARD_IPIP, FORWARD_NAT, Reverse4, Reverse6, Service};
use sluice::dataplane::tables::{Backend, Ring, RingId, RingPlace, RouteTo, Tables};
use sluice::dataplane::{Dataplane, Features, Options, Sizes, Tunables, pins};
use sluice::model::Packets;
use sluice::ring::{self, Member, Seed};

use super::cases::{CLIENT_PORT, CLIENT4};
use super::traffic::{ROUTER, SLUICE};
use super::wrapper;
use crate::golden::oracle;
use crate::packet::Mac;
use crate::progrun::Settings;

/// What the configuration file of a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Config {
    /// One IPv4 service by IP in IP, for TCP and UDP.
    Ipip4,
    /// The same for IPv6.
    Ipip6,
    /// One IPv4 service by NAT.
    Nat4,
    /// The same for IPv6.
    Nat6,
    /// An IPv4 service of each kind.
    Both4,
    /// As [`Config::Ipip4`], by a program that can do all there is.
    Everything4,
    /// One IPv4 service by L2 DSR.
    Dsr4,
    /// One by GUE.
    Gue4,
    /// As [`Config::Nat4`]; one row in a hundred moves, the benchmark's first flow's too.
    Moving4,
    /// As [`Config::Nat4`]; all rows move.
    AllMoving4,
    /// As [`Config::Nat4`]; all rows have exceptions, and none of the flows is one.
    Exceptions4,
}

/// Seconds for which rows move: longer than a benchmark takes.
const MOVING_FOR: u32 = 36_000;

/// Backends of a service, with ids from 1.
pub const BACKENDS: u16 = 100;
/// Rows of their ring: 2^14.
const RING_CLASS: u8 = 2;

pub const SERVICE_PORT: u16 = 443;
pub const BACKEND_PORT: u16 = 8080;
/// Where GUE goes (IANA).
pub const GUE_PORT: u16 = 6080;
/// Of the second service of [`Config::Both4`].
const OTHER_PORT: u16 = 444;

/// The first of the benchmark's flows.
const FIRST4: (Ipv4Addr, u16) = (CLIENT4, CLIENT_PORT);

pub const VIP4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10);
/// The host's own address.
pub const OWN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OWN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x1a, 0, 0, 0, 0, 2);
pub const TUNNEL_SOURCE4: Ipv4Addr = OWN4;
pub const TUNNEL_SOURCE6: Ipv6Addr = OWN6;

/// The service's id; its counters' index.
const SERVICE: u32 = 1;

/// The interface a test run without a context comes in on: the loopback device of any namespace.
const INGRESS: u32 = 1;

pub const fn backend4(id: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, id as u8)
}

pub const fn backend6(id: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xd, 0, 0, 0, 0, id)
}

pub const fn backend_mac(id: u16) -> Mac {
    Mac::local(id as u8)
}

/// What was counted since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Untouched, for the host.
    pub passed: u64,
    /// By the service, and by all backends together: the same number.
    pub forwarded: [u64; 2],
    pub replied: [u64; 2],
    pub syns: u64,
    /// Looked up in the table of flows.
    pub lookups: u64,
    /// Dropped, whatever the reason, or forwarded the slow way, or not written down.
    pub other: u64,
}

impl Hits {
    pub fn since(self, before: Self) -> Self {
        let pair = |now: [u64; 2], then: [u64; 2]| [now[0] - then[0], now[1] - then[1]];
        Self {
            passed: self.passed - before.passed,
            forwarded: pair(self.forwarded, before.forwarded),
            replied: pair(self.replied, before.replied),
            syns: self.syns - before.syns,
            lookups: self.lookups - before.lookups,
            other: self.other - before.other,
        }
    }
}

#[derive(Debug)]
pub struct Node {
    pub config: Config,
    dataplane: Dataplane,
    key: HashKey,
    /// Backend id by row.
    owners: Vec<u16>,
    /// By row: the word of those that are not steady.
    words: Vec<Option<Row>>,
}

impl Node {
    pub fn open(config: Config) -> Result<Self> {
        let key = Settings::everything().hash_key;
        let options = Options {
            bpf_dir: Path::new("/sys/fs/bpf").join(format!("sluice-bench-{}", std::process::id())),
            sizes: Sizes::default(),
            tunables: Tunables { hash_key: key, tunnel_source_mask4: 0, tunnel_source_mask6: 0 },
        };
        let opened = Dataplane::open(options.clone(), config.features());
        // The descriptors are enough; without pins nothing is left behind, however this process ends.
        pins::remove(&options.bpf_dir)?;
        let mut dataplane = opened.context("cannot load the product's program; are you root?")?;
        let owners = config.ring(&key)?;
        dataplane.apply(config.tables(&owners))?;
        let mut node = Self { config, dataplane, key, words: vec![None; owners.len()], owners };
        node.unsettle()?;
        Ok(node)
    }

    /// Writes the rows that are not steady, as the controller would have in the course of changes.
    fn unsettle(&mut self) -> Result<()> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec() as u32;
        let first =
            oracle::row(oracle::hash4(&self.key, FIRST4, (VIP4, SERVICE_PORT)), CLASSES[usize::from(RING_CLASS)]);
        for (row, (owner, word)) in self.owners.iter().zip(&mut self.words).enumerate() {
            let moving = Row::moving(*owner, owner % BACKENDS + 1, now + MOVING_FOR);
            *word = match self.config {
                Config::Moving4 if row % 100 == 50 || row == first as usize => Some(moving),
                Config::AllMoving4 => Some(moving),
                Config::Exceptions4 => Some(Row::exceptions(*owner, 0)),
                _ => None,
            };
        }
        if self.words.iter().all(Option::is_none) {
            return Ok(());
        }
        // The data plane hands out no rows.
        let map =
            wrapper::map(self.dataplane.program_mut().xdp()?, &format!("RINGS_{}", CLASSES[usize::from(RING_CLASS)]))?;
        let outer: ArrayOfMaps<MapData, Array<MapData, u64>> = Map::ArrayOfMaps(map).try_into()?;
        let mut ring = outer.get(&0, 0)?;
        for (row, word) in (0u32..).zip(&self.words) {
            if let Some(word) = word {
                ring.set(row, word.0, 0)?;
            }
        }
        Ok(())
    }

    pub fn program(&mut self) -> Result<ProgramFd> {
        Ok(self.xdp()?.fd()?.try_clone()?)
    }

    pub fn xdp(&mut self) -> Result<&Xdp> {
        Ok(self.dataplane.program_mut().xdp()?)
    }

    pub const fn key(&self) -> HashKey {
        self.key
    }

    /// The backend of a flow, as the definition of the hash says.
    pub fn owner4(&self, client: (Ipv4Addr, u16), vip: (Ipv4Addr, u16)) -> u16 {
        self.owner(oracle::hash4(&self.key, client, vip))
    }

    pub fn hash6(&self, client: (Ipv6Addr, u16), vip: (Ipv6Addr, u16)) -> u32 {
        oracle::hash6(&self.key, client, vip)
    }

    /// The backend of a flow that was there before its row moved, if it does.
    pub fn owner(&self, hash: u32) -> u16 {
        let row = oracle::row(hash, CLASSES[usize::from(RING_CLASS)]) as usize;
        match self.words[row] {
            Some(word) if word.kind() == KIND_MOVING => word.settled(),
            _ => self.owners[row],
        }
    }

    pub fn hits(&self) -> Result<Hits> {
        let host = self.dataplane.service_counters(0)?;
        let service = self.dataplane.service_counters(SERVICE)?;
        let flows = self.dataplane.flow_counters(SERVICE)?;
        let refused = flows.refused_quota + flows.refused_gate + flows.refused_full + flows.refused_race;
        let mut hits = Hits {
            passed: host.packets,
            forwarded: [service.packets, 0],
            replied: [service.reply_packets, 0],
            syns: service.syns,
            lookups: flows.lookups,
            other: refused + service.fib_lookups + service.drops.iter().chain(&host.drops).sum::<u64>(),
        };
        for id in 1..=BACKENDS {
            let backend = self.dataplane.backend_counters(id)?;
            hits.forwarded[1] += backend.packets;
            hits.replied[1] += backend.reply_packets;
        }
        Ok(hits)
    }
}

impl Config {
    const fn is_ipv6(self) -> bool {
        matches!(self, Self::Ipip6 | Self::Nat6)
    }

    /// How the first service forwards.
    const fn forward(self) -> u8 {
        match self {
            Self::Ipip4 | Self::Ipip6 | Self::Everything4 => FORWARD_IPIP,
            Self::Dsr4 => FORWARD_DSR_L2,
            Self::Gue4 => FORWARD_GUE,
            Self::Nat4 | Self::Nat6 | Self::Both4 | Self::Moving4 | Self::AllMoving4 | Self::Exceptions4 => FORWARD_NAT,
        }
    }

    /// What the controller asks for with such a configuration (`control::desired::features`).
    fn features(self) -> Features {
        // Kinds of packets are all on unless a file says otherwise.
        let packets = Packets::ALL;
        let family = Features { ipv4: !self.is_ipv6(), ipv6: self.is_ipv6(), packets, ..Features::default() };
        match self {
            Self::Ipip4 | Self::Ipip6 => Features { ipip: true, ..family },
            Self::Nat4 | Self::Nat6 | Self::Moving4 | Self::AllMoving4 | Self::Exceptions4 => {
                Features { nat: true, ..family }
            }
            Self::Both4 => Features { nat: true, ipip: true, ..family },
            Self::Dsr4 => Features { dsr_l2: true, ..family },
            Self::Gue4 => Features { gue: true, ..family },
            Self::Everything4 => Features {
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
                test_clock: false,
            },
        }
    }

    fn backend(self, id: u16) -> IpAddr {
        if self.is_ipv6() { backend6(id).into() } else { backend4(id).into() }
    }

    /// The service's ring, built as the controller builds it.
    fn ring(self, key: &HashKey) -> Result<Vec<u16>> {
        let members: Vec<Member> = (1..=BACKENDS).map(|id| Member::new(self.backend(id), 0, 1)).collect();
        let class = ring::class_for(&members);
        ensure!(class == usize::from(RING_CLASS), "{BACKENDS} backends have a ring of class {class}");
        let built = ring::build(&Seed::from(key), class, &members).context("a pool of equals has no ring")?;
        Ok(built.into_iter().map(|member| member + 1).collect())
    }

    fn tables(self, owners: &[u16]) -> Tables {
        let mut tables = Tables::default();
        let owners = Arc::new(owners.to_vec());
        for id in 1..=BACKENDS {
            tables.backends.insert(id, self.backend_entry(id));
        }
        let first = self.forward();
        let mut services = vec![(SERVICE, SERVICE_PORT, PROTO_TCP, first), (SERVICE, SERVICE_PORT, PROTO_UDP, first)];
        if self == Self::Both4 {
            services.push((SERVICE + 1, OTHER_PORT, PROTO_TCP, FORWARD_IPIP));
        }
        for (slot, (id, port, protocol, forward)) in (0..).zip(services) {
            let place = RingPlace { class: RING_CLASS, slot };
            let family = if self.is_ipv6() { 6 } else { 4 };
            let ring = Ring { place, owners: Arc::clone(&owners), idle: 900, by_source: false, before: None };
            tables.rings.insert(RingId { service: id, protocol, family }, ring);
            let service = Service { id, ring: slot, class: RING_CLASS, forward, ..Service::default() };
            if self.is_ipv6() {
                tables.services6.insert(Endpoint6::from_host(VIP6.octets(), port, protocol), service);
            } else {
                tables.services4.insert(Endpoint4::from_host(VIP4.octets(), port, protocol), service);
            }
            if forward == FORWARD_NAT {
                self.reverse_entries(protocol, &mut tables);
            }
        }
        if self.features().nat {
            self.routes(&mut tables);
        }
        tables.devices.insert(INGRESS);
        let seconds = 900;
        let policy = FlowPolicy {
            tcp_opening: 60,
            tcp: seconds,
            udp: seconds,
            quota: 60_000,
            new_per_second: 60_000,
            ..FlowPolicy::default()
        };
        tables.policies.insert(SERVICE, policy);
        tables
    }

    fn backend_entry(self, id: u16) -> Backend {
        let (addr, flags, tunnel_source) = match self.backend(id) {
            IpAddr::V4(a) => ([word(a), 0, 0, 0], BACKEND_ALIVE, [word(TUNNEL_SOURCE4), 0, 0, 0]),
            IpAddr::V6(a) => (words6(a.octets()), BACKEND_ALIVE | BACKEND_V6, words6(TUNNEL_SOURCE6.octets())),
        };
        let port = if self.forward() == FORWARD_NAT { BACKEND_PORT.to_be() } else { 0 };
        let tunnel = Tunnel { port: GUE_PORT.to_be(), ..Tunnel::default() };
        Backend { addr, port, flags, generation: 1, tunnel_source, tunnel, next_hop: Some(hop(backend_mac(id))) }
    }

    fn reverse_entries(self, protocol: u8, tables: &mut Tables) {
        let port = SERVICE_PORT.to_be();
        for backend in 1..=BACKENDS {
            if self.is_ipv6() {
                let key = Endpoint6::from_host(backend6(backend).octets(), BACKEND_PORT, protocol);
                let vip = words6(VIP6.octets());
                tables.reverse6.insert(key, Reverse6 { vip, port, backend, service: SERVICE });
            } else {
                let key = Endpoint4::from_host(backend4(backend).octets(), BACKEND_PORT, protocol);
                let vip = word(VIP4);
                tables.reverse4.insert(key, Reverse4 { vip, port, backend, service: SERVICE, reserved: 0 });
            }
        }
    }

    /// A host with one link to its backends and one default route.
    fn routes(self, tables: &mut Tables) {
        let router = RouteTo::Gateway(Some(hop(ROUTER)));
        if self.is_ipv6() {
            tables.routes6.insert((0, [0; 16]), router);
            tables.local6.extend([OWN6, VIP6].map(|a| words6(a.octets())));
        } else {
            tables.routes4.insert((0, [0; 4]), router);
            tables.routes4.insert((24, [10, 0, 0, 0]), RouteTo::OnLink(INGRESS));
            tables.local4.extend([OWN4, VIP4].map(word));
        }
    }
}

fn word(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn hop(destination: Mac) -> NextHop {
    NextHop { destination_mac: destination.0, source_mac: SLUICE.0, mtu: 1500, ifindex: INGRESS, ..NextHop::default() }
}
