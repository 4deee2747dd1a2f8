//! What the kernel should hold, computed from everything we know: configuration, health, overrides, network.
//!
//! Pure but for the ids it hands out: the same inputs give the same tables. A change of any input computes the
//! whole again — it is thousands of small lookups — and the data plane writes the difference. Only rings are
//! remembered, because building one is not small.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::addr::{Endpoint4, Endpoint6, words6};
use lb_common::backend::{BACKEND_ALIVE, BACKEND_V6, Tunnel};
use lb_common::flow::{FlowPolicy, ORPHAN_DROP, ORPHAN_RESELECT, ORPHAN_RESET};
use lb_common::ring::rows;
use lb_common::route::{Neighbour4, Neighbour6};
use lb_common::service::{
    AFFINITY_SOURCE, BEFORE_SOURCE, CLAMP, FORWARD_DSR_L2, FORWARD_GENEVE, FORWARD_GRE, FORWARD_GUE, FORWARD_GUE0,
    FORWARD_IPIP, FORWARD_NAT, FORWARD_VXLAN, Reverse4, Reverse6, Service as ServiceEntry, TRACKED,
};
use serde::{Deserialize, Serialize};

use crate::dataplane::loader::BLOCKS_PER_SERVICE;
use crate::dataplane::maps::{MAX_LOCAL, MAX_NEIGHBOURS, MAX_ROUTES, MAX_VLANS};
use crate::dataplane::tables::{
    Backend as BackendEntry, Ring as RingEntry, RingId, RingOwners, RingPlace, RouteTo, Tables,
};
use crate::dataplane::{Features, Sizes};
use crate::exit::{Exit, Failure};
use crate::health::agent::Standing;
use crate::model::{
    Affinity, Backend, BackendState, Forward, Listen, Model, OnBackendDown, Packets, Prefix, Protocol, Service,
    UdpMode, wildcards,
};
use crate::net::addr::Address;
use crate::net::{NetState, Resolution, RouteView, route};
use crate::ring::{self, Fingerprint, Member, Seed};

use super::ids::{Exhausted, Pool, Rests, SavedPool};
use super::leaving::Leaving;
use super::safety::Safety;

/// A backend of a service, by the names the configuration gives them.
pub type BackendName = (String, String);

/// An address family, as rings and maps are split by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// What a ring belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RingKey {
    pub service: String,
    pub protocol: Protocol,
    pub family: Family,
}

impl RingKey {
    /// As the data plane knows it.
    pub const fn id(&self, service: u32) -> RingId {
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        RingId { service, protocol: self.protocol.number(), family }
    }
}

/// What makes a backend the same one over reloads: renaming it in the file does not give it another id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct BackendKey {
    service: String,
    address: IpAddr,
    port: Option<u16>,
}

impl BackendKey {
    fn new(service: &Service, backend: &Backend) -> Self {
        Self { service: service.name.clone(), address: backend.address, port: backend.port }
    }
}

/// What became of a ring since it was made: what it is now follows from the file, and from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lineage {
    class: u8,
    /// Its rows are chosen by the addresses alone.
    by_source: bool,
    /// How many rings it has taken the place of without growing out of them; each had a slot of its own.
    turn: u32,
    /// The last of these, as long as rows refer to it.
    before: Option<Former>,
}

/// A ring that another one has taken the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Former {
    place: RingPlace,
    by_source: bool,
}

/// The numbers the kernel knows things by.
#[derive(Clone, Debug)]
pub struct Ids {
    services: Pool<String>,
    backends: Pool<BackendKey>,
    /// How many lives each backend id has had.
    generations: BTreeMap<u32, u32>,
    /// By class. A ring that takes another one's place has a slot of its own: see [`BuiltRing::turn`].
    slots: BTreeMap<u8, Pool<(RingKey, u32)>>,
    lineages: BTreeMap<RingKey, Lineage>,
    last_slot: u32,
    /// Service and backend ids whose counters belong to somebody else's past.
    pub fresh_services: BTreeSet<u32>,
    pub fresh_backends: BTreeSet<u16>,
}

impl Ids {
    pub fn new(sizes: Sizes) -> Self {
        Self {
            services: Pool::new(Rests::TimeAndScan, 1, sizes.services),
            backends: Pool::new(Rests::TimeAndScan, 1, sizes.backends),
            generations: BTreeMap::new(),
            slots: BTreeMap::new(),
            lineages: BTreeMap::new(),
            last_slot: sizes.services * 4 - 1,
            fresh_services: BTreeSet::new(),
            fresh_backends: BTreeSet::new(),
        }
    }

    /// A scan of all rows and entries, begun then, met only the numbers that `services` and `backends` know.
    pub fn scanned(&mut self, began: Instant, services: impl Fn(u32) -> bool, backends: impl Fn(u16) -> bool) {
        self.services.scanned(began, services);
        self.backends.scanned(began, |id| backends(id as u16));
    }

    /// Some number can be given to somebody else only after a scan.
    pub fn wait_for_scan(&self) -> bool {
        self.services.waits_for_scan() || self.backends.waits_for_scan()
    }

    /// Rows of these rings do not refer to the one before any more.
    pub fn forget_before(&mut self, done: &[RingId]) {
        let Self { lineages, services, .. } = self;
        for (key, lineage) in lineages {
            if services.get(&key.service).is_some_and(|service| done.contains(&key.id(service))) {
                lineage.before = None;
            }
        }
    }

    pub fn service(&self, name: &str) -> Option<u32> {
        self.services.get(&name.to_owned())
    }

    pub fn backend(&self, service: &Service, backend: &Backend) -> Option<u16> {
        self.backends.get(&BackendKey::new(service, backend)).map(|id| id as u16)
    }
}

/// [`Ids`] as they are saved.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedIds {
    services: SavedPool<String>,
    backends: SavedPool<BackendKey>,
    /// Of each backend id.
    generations: Vec<(u32, u32)>,
    /// Of each class.
    slots: Vec<(u8, SavedPool<(RingKey, u32)>)>,
    lineages: Vec<(RingKey, Lineage)>,
}

impl Ids {
    pub fn save(&self) -> SavedIds {
        SavedIds {
            services: self.services.save(),
            backends: self.backends.save(),
            generations: self.generations.iter().map(|(id, n)| (*id, *n)).collect(),
            slots: self.slots.iter().map(|(class, pool)| (*class, pool.save())).collect(),
            lineages: self.lineages.iter().map(|(key, lineage)| (key.clone(), *lineage)).collect(),
        }
    }

    /// As they were saved; what rested begins its rest anew.
    pub fn restore(sizes: Sizes, saved: &SavedIds, now: Instant) -> Self {
        let mut ids = Self::new(sizes);
        ids.services.restore(&saved.services, now);
        ids.backends.restore(&saved.backends, now);
        ids.generations = saved.generations.iter().copied().collect();
        for (class, slots) in &saved.slots {
            let mut pool = Pool::new(Rests::Time, 0, ids.last_slot);
            pool.restore(slots, now);
            ids.slots.insert(*class, pool);
        }
        ids.lineages = saved.lineages.iter().cloned().collect();
        ids
    }
}

/// What is known of backends beyond the file.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The checks' verdicts; absent means not checked yet.
    pub verdicts: &'a HashMap<BackendName, bool>,
    /// What an operator set at run time.
    pub overrides: &'a BTreeMap<BackendName, BackendState>,
    /// Backends that the file has no more, as long as some flow may be theirs.
    pub leaving: &'a Leaving,
    /// Who takes traffic although it looks dead, and which fallbacks are not used.
    pub safety: &'a Safety,
    /// What backends' agents said; absent means nothing yet.
    pub agents: &'a BTreeMap<BackendName, Standing>,
}

impl View<'_> {
    /// Whether a backend may take traffic, as far as health goes: checked and up, or not checked at all, or kept.
    pub fn is_up(&self, service: &Service, backend: &Backend) -> bool {
        let looks_up = service.health.is_none()
            || self.verdicts.get(&(service.name.clone(), backend.name.clone())).copied().unwrap_or(false)
            || self.safety.keeps(&service.name, backend);
        looks_up && !self.is_down_by_agent(service, backend)
    }

    /// It says itself that it is down.
    pub fn is_down_by_agent(&self, service: &Service, backend: &Backend) -> bool {
        self.agent(service, backend).is_some_and(|standing| standing.down().is_some())
    }

    /// What its agent said.
    pub fn agent(&self, service: &Service, backend: &Backend) -> Option<&Standing> {
        // Nearly no service has any.
        if self.agents.is_empty() || service.agent.is_none() {
            return None;
        }
        self.agents.get(&(service.name.clone(), backend.name.clone()))
    }

    /// The weight in force.
    pub fn weight(&self, service: &Service, backend: &Backend) -> u32 {
        self.agent(service, backend).map_or(backend.weight, |standing| standing.weight(backend.weight))
    }

    /// Whether it would take traffic if checks found it up.
    pub fn is_wanted(&self, service: &Service, backend: &Backend) -> bool {
        self.weight(service, backend) > 0
            && self.state(service, backend) == BackendState::Active
            && !self.is_down_by_agent(service, backend)
    }

    /// Whether it takes new flows: up, active, and no fallback that is not used. The flows of a fallback stay where they are.
    pub fn takes_flows(&self, service: &Service, backend: &Backend) -> bool {
        self.is_up(service, backend)
            && self.state(service, backend) == BackendState::Active
            && !self.safety.holds_back(&service.name, backend)
    }

    /// A service's backends, and then those that are leaving it.
    pub fn backends<'m>(&self, service: &'m Service) -> impl Iterator<Item = &'m Backend>
    where
        Self: 'm,
    {
        service.backends.iter().chain(self.leaving.of(service))
    }

    /// Whether its first check is over, or there is none to wait for.
    fn is_checked(&self, service: &Service, backend: &Backend) -> bool {
        service.health.is_none() || self.verdicts.contains_key(&(service.name.clone(), backend.name.clone()))
    }

    /// The state in force: an operator's word counts for more than the agent's, and that for more than the file's.
    pub fn state(&self, service: &Service, backend: &Backend) -> BackendState {
        let overridden = || match self.overrides.is_empty() {
            // As a rule: nothing is to be allocated for each backend.
            true => None,
            false => self.overrides.get(&(service.name.clone(), backend.name.clone())).copied(),
        };
        let by_agent = || self.agent(service, backend).filter(|standing| standing.is_draining());
        let otherwise = || by_agent().map_or(backend.state, |_| BackendState::Drain);
        overridden().unwrap_or_else(otherwise)
    }
}

/// How long a new ring waits for the first checks of all its backends.
const FIRST_CHECKS: Duration = Duration::from_secs(2);

/// A ring as last built, with what it was built from.
#[derive(Clone, Debug)]
pub struct BuiltRing {
    pub place: RingPlace,
    pub fingerprint: Option<Fingerprint>,
    /// Rows by backend id.
    pub rows_of: BTreeMap<u16, u32>,
    lineage: Lineage,
    members: Vec<(Member, u16)>,
    owners: RingOwners,
    /// Whether it may have owners at all: every backend's first check is over, or was waited for long enough. Verdicts
    /// come one by one; flows that began on half a ring would be on rows that move, here and on no other node.
    whole: bool,
    /// When it was made.
    since: Instant,
}

impl BuiltRing {
    /// Whether it has nobody only because checks are waited for.
    pub const fn waits(&self) -> bool {
        !self.whole
    }

    /// Rows in the ring.
    pub fn len(&self) -> u32 {
        rows(usize::from(self.place.class))
    }

    pub fn is_empty(&self) -> bool {
        self.rows_of.is_empty()
    }

    /// Rows that another backend owned before, which may have flows. A ring that grew is the old one with each row
    /// split; it does not shrink.
    pub fn moved_since(&self, old: &Self) -> u32 {
        if Arc::ptr_eq(&self.owners, &old.owners) {
            return 0;
        }
        let children = self.owners.len() / old.owners.len().max(1);
        let parents = old.owners.iter().flat_map(|owner| std::iter::repeat_n(owner, children));
        self.owners.iter().zip(parents).filter(|(new, old)| **old != 0 && new != old).count() as u32
    }
}

pub type Rings = BTreeMap<RingKey, BuiltRing>;

/// Those of one service: thousands of services each ask for their own.
pub fn rings_of<'a>(rings: &'a Rings, service: &str) -> impl Iterator<Item = (&'a RingKey, &'a BuiltRing)> {
    let first = RingKey { service: service.to_owned(), protocol: Protocol::Tcp, family: Family::V4 };
    let service = first.service.clone();
    rings.range(first..).take_while(move |(key, _)| key.service == service)
}

/// The result.
#[derive(Debug)]
pub struct Desired {
    pub tables: Tables,
    pub rings: Rings,
    /// Neighbours whose MAC addresses are needed, as (interface, address).
    pub neighbours: BTreeSet<(u32, IpAddr)>,
    /// What could not be done as configured, one sentence each.
    pub problems: Vec<String>,
}

/// What the program must be able to do for this configuration, and for backends that are leaving it.
pub fn features(model: &Model, leaving: &Leaving) -> Features {
    let listens = || model.services.iter().flat_map(|s| &s.listen);
    let forwards = |forward| model.services.iter().any(|s| s.forward == forward);
    let crosses = |s: &Service| {
        s.listen.iter().any(|l| {
            let other = |b: &Backend| b.address.is_ipv6() != l.is_ipv6();
            s.backends_for(l.is_ipv6()).any(other) || leaving.of(s).any(other)
        })
    };
    Features {
        ipv4: listens().any(Listen::is_ipv4),
        ipv6: listens().any(Listen::is_ipv6),
        nat: forwards(Forward::Nat),
        ipip: forwards(Forward::Ipip),
        dsr_l2: forwards(Forward::DsrL2),
        gre: forwards(Forward::Gre),
        gue: forwards(Forward::Gue),
        overlay: forwards(Forward::Vxlan) || forwards(Forward::Geneve),
        crossing: model.services.iter().any(|s| s.forward.is_tunnel() && crosses(s)),
        tracking: model.tracked_room() != [0; 2],
        packets: Packets { clamp: model.services.iter().any(Service::clamps), ..model.packets },
        wildcards: listens().any(|l| l.exact().is_none()),
        ..Features::default()
    }
}

/// Interfaces that packets can be redirected to; some less than the map holds, because new ones are written before old
/// ones are removed. A redirect to any other is refused.
const MOST_DEVICES: usize = 250;

/// Computes it all.
pub fn compute(
    model: &Model,
    view: View<'_>,
    net: &NetState,
    seed: &Seed,
    ids: &mut Ids,
    known: &Rings,
    now: Instant,
) -> Result<Desired, Failure> {
    allocate(model, view, ids, now)?;
    let mut out =
        Desired { tables: Tables::default(), rings: Rings::new(), neighbours: BTreeSet::new(), problems: Vec::new() };
    for service in &model.services {
        let service_id = ids.service(&service.name).unwrap_or(0);
        out.tables.policies.insert(service_id, policy(model, service));
        // Backends that packets have no way to.
        let mut blocked = BTreeSet::new();
        for backend in view.backends(service) {
            let id = ids.backend(service, backend).unwrap_or(0);
            let entry = backend_entry(model, service, backend, id, view, net, ids, |why| {
                out.problems.push(format!("service {}: {} gets no traffic: {why}", service.name, backend.name));
                blocked.insert(id);
            });
            out.tables.backends.insert(id, entry);
            match net.resolve(backend.address) {
                Resolution::OnLink { ifindex } => out.neighbours.insert((ifindex, backend.address)),
                Resolution::Gateway { ifindex, gateway } => out.neighbours.insert((ifindex, gateway)),
                _ => false,
            };
        }
        let families: BTreeSet<Family> = service.listen.iter().map(|l| Family::of(l.ip())).collect();
        for family in families {
            for protocol in &service.protocols {
                let key = RingKey { service: service.name.clone(), protocol: *protocol, family };
                let least = model.node.weight_hysteresis;
                let ring = ring_for(service, &key, view, &blocked, seed, ids, known.get(&key), least, now)?;
                let id = key.id(service_id);
                let entry = RingEntry {
                    place: ring.place,
                    owners: Arc::clone(&ring.owners),
                    idle: idle(service, *protocol),
                    by_source: ring.lineage.by_source,
                    before: ring.lineage.before.map(|former| former.place),
                };
                out.tables.rings.insert(id, entry);
                service_entries(service, service_id, &key, &ring, &mut out.tables);
                out.rings.insert(key, ring);
            }
        }
    }
    wide(model, ids, net, &mut out)?;
    // The file's backends come first: what one that leaves had may be another's now.
    for leaves in [false, true] {
        for service in model.services.iter().filter(|s| s.forward == Forward::Nat) {
            let service_id = ids.service(&service.name).unwrap_or(0);
            let backends: Vec<&Backend> =
                if leaves { view.leaving.of(service).collect() } else { service.backends.iter().collect() };
            for backend in backends {
                let id = ids.backend(service, backend).unwrap_or(0);
                reverse_entries(service, service_id, backend, id, &mut out.tables);
            }
        }
    }
    network(model, net, &mut out);
    other_devices(net, &mut out.tables.devices);
    Ok(out)
}

fn allocate(model: &Model, view: View<'_>, ids: &mut Ids, now: Instant) -> Result<(), Failure> {
    let full = |what: &str, limit: &str| {
        Failure::new(Exit::Failed, format!("no {what} id is free (ids of removed ones rest for a minute)"))
            .hint(format!("wait a minute and reload, or raise limits.{limit} and restart"))
    };
    let services: BTreeSet<&String> = model.services.iter().map(|s| &s.name).collect();
    ids.services.retain(|name| services.contains(name), now);
    let backends: BTreeSet<BackendKey> =
        model.services.iter().flat_map(|s| view.backends(s).map(|b| BackendKey::new(s, b))).collect();
    ids.backends.retain(|key| backends.contains(key), now);
    for name in services {
        let given = ids.services.give(name, now).map_err(|Exhausted| full("service", "services"))?;
        if given.fresh {
            ids.fresh_services.insert(given.number);
        }
    }
    for key in &backends {
        let given = ids.backends.give(key, now).map_err(|Exhausted| full("backend", "backends"))?;
        if given.fresh {
            ids.fresh_backends.insert(given.number as u16);
            *ids.generations.entry(given.number).or_default() += 1;
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "one record is made of all there is to know about a backend")]
fn backend_entry(
    model: &Model,
    service: &Service,
    backend: &Backend,
    id: u16,
    view: View<'_>,
    net: &NetState,
    ids: &Ids,
    mut blocked: impl FnMut(&str),
) -> BackendEntry {
    let mut entry = BackendEntry {
        addr: words(backend.address),
        port: backend.port.unwrap_or(0).to_be(),
        flags: if backend.address.is_ipv6() { BACKEND_V6 } else { 0 },
        generation: ids.generations.get(&u32::from(id)).copied().unwrap_or(0),
        next_hop: net.next_hop(backend.address),
        ..BackendEntry::default()
    };
    if view.is_up(service, backend) {
        entry.flags |= BACKEND_ALIVE;
    }
    if service.forward.is_tunnel() {
        entry.tunnel = Tunnel {
            vni: Tunnel::vni(service.tunnel.vni),
            port: service.tunnel.port.to_be(),
            inner_mac: backend.inner_mac.map_or([0; 6], |mac| mac.0),
            ..Tunnel::default()
        };
        let configured = match backend.address {
            IpAddr::V4(_) => model.node.tunnel_source4,
            IpAddr::V6(_) => model.node.tunnel_source6,
        };
        let source = configured.map(|p| p.address).or_else(|| host_source(model, backend.address, net));
        match source {
            Some(source) => entry.tunnel_source = words(source),
            None => blocked("this host has no address to send tunnelled packets from"),
        }
    }
    if service.forward == Forward::DsrL2 && matches!(net.resolve(backend.address), Resolution::Gateway { .. }) {
        blocked("with `forward: dsr-l2` a backend must be on a link of this host, and this one is behind a gateway");
    }
    entry
}

/// The address this host would send to `destination` from; never a VIP, which an IPv6 host without another global
/// address would choose.
fn host_source(model: &Model, destination: IpAddr, net: &NetState) -> Option<IpAddr> {
    if net.resolve(destination) != Resolution::AskKernel {
        return net.source_for(destination);
    }
    match route::ask_kernel(destination) {
        Ok(route::Answer::Via { source, .. }) => {
            source.filter(|source| !model.services.iter().any(|s| s.listen.iter().any(|l| l.prefix.contains(*source))))
        }
        _ => None,
    }
}

/// An address as the packet path holds it: IPv4 in the first word.
fn words(ip: IpAddr) -> [u32; 4] {
    match ip {
        IpAddr::V4(a) => [u32::from_ne_bytes(a.octets()), 0, 0, 0],
        IpAddr::V6(a) => words6(a.octets()),
    }
}

/// The bits of a tunnel source prefix that vary with the flow, as the program wants them: network order, of the
/// whole IPv4 address or the last word of the IPv6 one.
pub fn host_mask(prefix: Option<Prefix>) -> u32 {
    let Some(prefix) = prefix else { return 0 };
    let width = if prefix.address.is_ipv4() { 32 } else { 128 };
    let host_bits = width - u32::from(prefix.length);
    let mask = if host_bits >= 32 { u32::MAX } else { (1 << host_bits) - 1 };
    mask.to_be()
}

fn reverse_entries(service: &Service, service_id: u32, backend: &Backend, id: u16, tables: &mut Tables) {
    for protocol in &service.protocols {
        for listen in &service.listen {
            // Behind a range of ports, backends have no port of their own: both keep what the client chose.
            let port = listen.exact().map(|exact| exact.port());
            let own = port.map(|port| backend.port.unwrap_or(port));
            match (backend.address, listen.ip()) {
                (IpAddr::V4(address), IpAddr::V4(vip)) => {
                    let key = match own {
                        Some(port) => Endpoint4::from_host(address.octets(), port, protocol.number()),
                        None => Endpoint4::any_port(u32::from_ne_bytes(address.octets()), protocol.number()),
                    };
                    let value = Reverse4 {
                        vip: u32::from_ne_bytes(vip.octets()),
                        port: port.unwrap_or(0).to_be(),
                        backend: id,
                        service: service_id,
                        reserved: 0,
                    };
                    tables.reverse4.entry(key).or_insert(value);
                }
                (IpAddr::V6(address), IpAddr::V6(vip)) => {
                    let key = match own {
                        Some(port) => Endpoint6::from_host(address.octets(), port, protocol.number()),
                        None => Endpoint6::any_port(words6(address.octets()), protocol.number()),
                    };
                    let value = Reverse6 {
                        vip: words6(vip.octets()),
                        port: port.unwrap_or(0).to_be(),
                        backend: id,
                        service: service_id,
                    };
                    tables.reverse6.entry(key).or_insert(value);
                }
                _ => {}
            }
        }
    }
}

fn service_entries(service: &Service, service_id: u32, key: &RingKey, ring: &BuiltRing, tables: &mut Tables) {
    let (place, Lineage { by_source, before, .. }) = (ring.place, ring.lineage);
    let mut flags = 0;
    if by_source {
        flags |= AFFINITY_SOURCE;
    }
    if before.is_some_and(|former| former.by_source) {
        flags |= BEFORE_SOURCE;
    }
    if service.tracks(key.protocol) {
        flags |= TRACKED;
    }
    if service.clamps() && key.protocol == Protocol::Tcp {
        flags |= CLAMP;
    }
    let entry = ServiceEntry {
        id: service_id,
        ring: place.slot,
        class: place.class,
        forward: match service.forward {
            Forward::Nat => FORWARD_NAT,
            Forward::DsrL2 => FORWARD_DSR_L2,
            Forward::Ipip => FORWARD_IPIP,
            Forward::Gre => FORWARD_GRE,
            Forward::Gue if service.tunnel.variant == 0 => FORWARD_GUE0,
            Forward::Gue => FORWARD_GUE,
            Forward::Vxlan => FORWARD_VXLAN,
            Forward::Geneve => FORWARD_GENEVE,
        },
        flags,
        before: before.map_or(0, |former| ServiceEntry::pack_before(former.place.class, former.place.slot)),
    };
    for listen in service.listen.iter().filter(|l| Family::of(l.ip()) == key.family) {
        let protocol = key.protocol.number();
        // Several services may have one address, and one of them is first.
        match (listen.ip(), listen.prefix.length) {
            (IpAddr::V4(ip), 32) => {
                let first = tables.vips4.entry(u32::from_ne_bytes(ip.octets())).or_insert(service_id);
                *first = service_id.min(*first);
            }
            (IpAddr::V6(ip), 128) => {
                let first = tables.vips6.entry(words6(ip.octets())).or_insert(service_id);
                *first = service_id.min(*first);
            }
            _ => {}
        }
        // Where it is found by a prefix or a range, it has a key of its own, once.
        let port = listen.exact().map(|exact| exact.port());
        match (listen.ip(), port) {
            (IpAddr::V4(ip), Some(port)) => {
                tables.services4.insert(Endpoint4::from_host(ip.octets(), port, protocol), entry);
            }
            (IpAddr::V6(ip), Some(port)) => {
                tables.services6.insert(Endpoint6::from_host(ip.octets(), port, protocol), entry);
            }
            (IpAddr::V4(_), None) => drop(tables.services4.insert(Endpoint4::of_service(service_id, protocol), entry)),
            (IpAddr::V6(_), None) => drop(tables.services6.insert(Endpoint6::of_service(service_id, protocol), entry)),
        }
    }
}

/// Who is found by the prefixes and ranges that services listen on.
fn wide(model: &Model, ids: &Ids, net: &NetState, out: &mut Desired) -> Result<(), Failure> {
    let all = model.services.iter().flat_map(|s| {
        let id = ids.service(&s.name).unwrap_or(0);
        s.listen.iter().flat_map(move |l| s.protocols.iter().map(move |p| (*l, *p, id)))
    });
    let wanted = all.filter(|(listen, ..)| listen.exact().is_none());
    let room = model.limits.services as usize * BLOCKS_PER_SERVICE as usize;
    let groups = wildcards::groups(wanted, room).map_err(|wildcards::TooMany| {
        // The file was refused if it is so.
        Failure::new(Exit::Failed, "the ranges and prefixes that services listen on take too many blocks of ports")
    })?;
    let outwards = |a: &&Address| net.link(a.ifindex).is_some_and(|link| !link.loopback);
    for (prefix, group) in groups {
        if let Some(own) = net.addresses().iter().filter(outwards).find(|a| !prefix.is_host() && prefix.contains(a.ip))
        {
            out.problems.push(format!(
                "{} is this host's own address and in {}/{}, on which services listen: packets for their ports go to \
                 backends",
                own.ip, prefix.address, prefix.length
            ));
        }
        match prefix.address {
            IpAddr::V4(a) => drop(out.tables.prefixes4.insert((prefix.length, a.octets()), group)),
            IpAddr::V6(a) => drop(out.tables.prefixes6.insert((prefix.length, a.octets()), group)),
        }
    }
    Ok(())
}

/// The idle timeout of a service's rows for this protocol: the longest a flow of it may be silent, or 0 where there are
/// no flows, only datagrams.
fn idle(service: &Service, protocol: Protocol) -> u32 {
    let timeouts = &service.timeouts;
    match protocol {
        Protocol::Tcp => seconds(timeouts.tcp_established.max(timeouts.tcp_opening)),
        Protocol::Udp if service.udp == UdpMode::Oneshot => 0,
        Protocol::Udp => seconds(timeouts.udp),
    }
}

/// How a service's flows are written down.
fn policy(model: &Model, service: &Service) -> FlowPolicy {
    let [tracked_quota4, tracked_quota6] = model.tracked_quota(service);
    FlowPolicy {
        tcp_opening: seconds(service.timeouts.tcp_opening),
        tcp: idle(service, Protocol::Tcp),
        udp: idle(service, Protocol::Udp),
        orphans: match service.on_backend_down {
            OnBackendDown::Reselect => ORPHAN_RESELECT,
            OnBackendDown::Drop => ORPHAN_DROP,
            OnBackendDown::Reset => ORPHAN_RESET,
        },
        quota: service.limits.flows,
        new_per_second: service.limits.new_flows,
        tracked_quota4,
        tracked_quota6,
        clamp: u32::from(service.clamps()),
        ..FlowPolicy::default()
    }
}

/// Whole seconds, rounded up: the data plane's clock knows no others.
fn seconds(duration: Duration) -> u32 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u32::try_from(whole).unwrap_or(u32::MAX)
}

/// The same backends, with weights of which none has changed by more than this part of what it was. The ring keeps the
/// weights it was built with, so that small changes add up. Weight 0 is near nothing else.
fn is_near(known: &[(Member, u16)], members: &[(Member, u16)], least: f64) -> bool {
    let near = |was: &(Member, u16), is: &(Member, u16)| {
        let part = f64::from(was.0.weight.abs_diff(is.0.weight)) / f64::from(was.0.weight.max(1));
        was.0.identity == is.0.identity
            && was.1 == is.1
            && (was.0.weight == is.0.weight || part <= least && was.0.weight.min(is.0.weight) > 0)
    };
    known.len() == members.len() && known.iter().zip(members).all(|(was, is)| near(was, is))
}

#[expect(clippy::too_many_arguments, reason = "a ring follows from the file, health, overrides, entries and ids")]
fn ring_for(
    service: &Service,
    key: &RingKey,
    view: View<'_>,
    blocked: &BTreeSet<u16>,
    seed: &Seed,
    ids: &mut Ids,
    known: Option<&BuiltRing>,
    least: f64,
    now: Instant,
) -> Result<BuiltRing, Failure> {
    let of_family = || service.backends_for(key.family == Family::V6);
    let member = |b: &Backend| Member::new(b.address, b.port.unwrap_or(0), b.weight);

    // The size follows the file, not the health: a backend that dies must not resize the ring.
    let configured: Vec<Member> = of_family().map(member).collect();
    let by_source = service.affinity == Affinity::Source;
    let wanted = ring::class_for(&configured);
    // A ring that an earlier controller has left is in use.
    let adopted = known.is_none() && ids.lineages.contains_key(key);
    let mut lineage =
        ids.lineages.get(key).copied().unwrap_or(Lineage { class: wanted as u8, by_source, turn: 0, before: None });
    // It grows by splitting rows, which moves nobody. Another ring altogether takes the place of the one there is, one
    // at a time.
    if lineage.by_source != by_source && lineage.before.is_some() {
        return Err(Failure::new(
            Exit::Failed,
            format!("service {}: its connections are still on their way from one ring to the next", service.name),
        )
        .hint("reload again when that is over: it takes as long as the longest timeout of the service"));
    }
    if lineage.by_source != by_source || wanted < usize::from(lineage.class) && lineage.before.is_none() {
        let slot = ids.slots.get(&lineage.class).and_then(|pool| pool.get(&(key.clone(), lineage.turn)));
        let place = slot.map(|slot| RingPlace { class: lineage.class, slot });
        lineage = Lineage {
            class: wanted as u8,
            by_source,
            turn: lineage.turn + 1,
            before: place.map(|place| Former { place, by_source: lineage.by_source }),
        };
    }
    lineage.class = lineage.class.max(wanted as u8);
    ids.lineages.insert(key.clone(), lineage);
    let (class, turn) = (usize::from(lineage.class), lineage.turn);
    let last_slot = ids.last_slot;
    let slots = ids.slots.entry(class as u8).or_insert_with(|| Pool::new(Rests::Time, 0, last_slot));
    let slot = slots.give(&(key.clone(), turn), now).map_err(|Exhausted| {
        Failure::new(Exit::Failed, "no ring slot is free").hint("raise limits.services and restart")
    })?;
    let place = RingPlace { class: class as u8, slot: slot.number };

    let since = known.map_or(now, |ring| ring.since);
    let whole = known.map_or(adopted, |ring| ring.whole)
        || now.duration_since(since) >= FIRST_CHECKS
        || of_family().all(|b| view.is_checked(service, b));
    let mut members: Vec<(Member, u16)> = of_family()
        .filter(|b| whole && view.takes_flows(service, b))
        .map(|b| {
            let member = Member::new(b.address, b.port.unwrap_or(0), view.weight(service, b));
            (member, ids.backend(service, b).unwrap_or(0))
        })
        .filter(|(_, id)| !blocked.contains(id))
        .collect();
    // The ring does not depend on their order; recognising an unchanged one does.
    members.sort_by_key(|(m, _)| m.identity);

    if let Some(known) = known
        && known.place == place
        && is_near(&known.members, &members, least)
    {
        return Ok(BuiltRing { lineage, whole, ..known.clone() });
    }
    let pool: Vec<Member> = members.iter().map(|(m, _)| *m).collect();
    let built = ring::build(seed, class, &pool);
    let owners: Vec<u16> = match &built {
        Some(owners) => owners.iter().map(|&owner| members[usize::from(owner)].1).collect(),
        None => vec![0; rows(class) as usize],
    };
    let mut rows_of = BTreeMap::new();
    for owner in built.iter().flatten() {
        *rows_of.entry(members[usize::from(*owner)].1).or_default() += 1;
    }
    Ok(BuiltRing {
        place,
        fingerprint: built.as_ref().map(|owners| ring::fingerprint(owners, &pool)),
        rows_of,
        lineage,
        members,
        owners: Arc::new(owners),
        whole,
        since,
    })
}

/// Slots of rings that are no longer there are given back once the tables without them are applied.
pub fn release_slots(ids: &mut Ids, rings: &Rings, now: Instant) {
    ids.lineages.retain(|key, _| rings.contains_key(key));
    for (class, pool) in &mut ids.slots {
        pool.retain(
            |(key, turn)| {
                rings.get(key).is_some_and(|BuiltRing { lineage, .. }| {
                    let former = |former: Former| former.place.class == *class && lineage.turn == *turn + 1;
                    lineage.class == *class && lineage.turn == *turn || lineage.before.is_some_and(former)
                })
            },
            now,
        );
    }
}

/// Routes, neighbours, own addresses and devices, as far as the packet path needs them.
fn network(model: &Model, net: &NetState, out: &mut Desired) {
    let tables = &mut out.tables;
    tables.vlans = net.vlans().take(MAX_VLANS).collect();
    tables.devices.extend(tables.backends.values().filter_map(|b| b.next_hop).map(|hop| hop.ifindex));
    // Only NAT sees replies, and only replies are routed by destination.
    if !model.services.iter().any(|s| s.forward == Forward::Nat) {
        return;
    }
    for ip in net.local_addresses() {
        match ip {
            IpAddr::V4(a) if tables.local4.len() < MAX_LOCAL => tables.local4.insert(u32::from_ne_bytes(a.octets())),
            IpAddr::V6(a) if tables.local6.len() < MAX_LOCAL => tables.local6.insert(words6(a.octets())),
            _ => continue,
        };
    }
    if tables.local4.len().max(tables.local6.len()) == MAX_LOCAL {
        out.problems.push(format!(
            "this host has {MAX_LOCAL} addresses or more, the most that are told apart from clients': answers of \
             backends to the others are taken for replies"
        ));
    }
    let routes = net.routes_for_dataplane(MAX_ROUTES - 1);
    for (family, count) in ["IPv4", "IPv6"].into_iter().zip(routes.over_limit) {
        if let Some(count) = count {
            out.problems.push(format!(
                "this host has {count} {family} routes, more than the {MAX_ROUTES} that are mirrored: replies take the slow path"
            ));
        }
    }
    for (prefix, view) in routes.routes {
        let to = match view {
            RouteView::Gateway { ifindex, gateway } => {
                out.neighbours.insert((ifindex, gateway));
                RouteTo::Gateway(net.hop(ifindex, gateway))
            }
            RouteView::OnLink { ifindex } => {
                tables.devices.insert(tables.vlans.get(&ifindex).map_or(ifindex, |vlan| vlan.ifindex));
                RouteTo::OnLink(ifindex)
            }
            RouteView::AskKernel => RouteTo::AskKernel,
        };
        if let RouteTo::Gateway(Some(hop)) = to {
            tables.devices.insert(hop.ifindex);
        }
        match prefix.address {
            IpAddr::V4(a) => tables.routes4.insert((prefix.length, a.octets()), to),
            IpAddr::V6(a) => tables.routes6.insert((prefix.length, a.octets()), to),
        };
    }
    for (ifindex, ip, _) in net.neighbours() {
        let Some(hop) = net.hop(ifindex, ip) else { continue };
        match ip {
            IpAddr::V4(a) if tables.neighbours4.len() < MAX_NEIGHBOURS => {
                tables.neighbours4.insert(Neighbour4 { ifindex, addr: u32::from_ne_bytes(a.octets()) }, hop);
            }
            IpAddr::V6(a) if tables.neighbours6.len() < MAX_NEIGHBOURS => {
                tables.neighbours6.insert(Neighbour6 { addr: words6(a.octets()), ifindex, pad: 0 }, hop);
            }
            _ => {}
        }
    }
}

/// Devices beyond those that our own tables name. The kernel's FIB, where it is asked, may name any of them: with
/// policy rules it is asked about everything.
fn other_devices(net: &NetState, devices: &mut BTreeSet<u32>) {
    while devices.len() > MOST_DEVICES {
        devices.pop_last();
    }
    let ethernet = net.links().filter(|l| l.up && l.mac.is_some() && l.vlan.is_none() && !l.loopback && !l.no_arp);
    for link in ethernet {
        if devices.len() == MOST_DEVICES {
            break;
        }
        devices.insert(link.index);
    }
}

#[cfg(test)]
mod tests;
