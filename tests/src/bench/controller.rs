//! What the controller takes for its own work: building rings, and bringing a changed file into the kernel.
//!
//! Times of a whole, not of a packet, so they are held to limits in milliseconds. The best of a few runs counts: what
//! else the machine does can only add.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use aya::maps::{Map, MapData};

use lb_common::addr::PROTO_TCP;
use lb_common::backend::BACKEND_ALIVE;
use lb_common::flow::{FORGET_AT_ONCE, Flow4, FlowEntry, FlowPolicy, FlowState, Life, PHASE_ESTABLISHED};
use lb_common::hash::flow4;
use lb_common::ring::{CLASSES, rows};
use sluice::control::desired::{self, Ids, Rings, View};
use sluice::control::leaving::Leaving;
use sluice::control::safety::Safety;
use sluice::dataplane::clock;
use sluice::dataplane::flows::{Key, Table};
use sluice::dataplane::tables::{self, RingId, RingPlace, Tables};
use sluice::dataplane::{Dataplane, Features, Options, Sizes, Tunables, pins};
use sluice::model::Model;
use sluice::net::NetState;
use sluice::ring::{self, Member, Seed};

use super::wrapper;
use crate::progrun::Settings;

/// One figure.
#[derive(Clone, Debug)]
pub struct Cost {
    pub case: &'static str,
    pub took: Duration,
    pub limit: Duration,
}

const RUNS: usize = 5;

fn best(mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let times: Vec<Duration> = (0..RUNS).map(|_| run()).collect::<Result<_>>()?;
    times.into_iter().min().context("nothing was timed")
}

pub fn measure() -> Result<Vec<Cost>> {
    let ms = Duration::from_millis;
    Ok([
        Cost { case: "ring/100x16384", took: best(|| build(100, 14))?, limit: ms(5) },
        Cost { case: "ring/1000x131072", took: best(|| build(1_000, 17))?, limit: ms(300) },
        Cost { case: "reload/200x20", took: reload()?, limit: ms(1_000) },
    ]
    .into_iter()
    .chain(sweep()?)
    .collect())
}

/// Flows that are swept away.
const FLOWS: u32 = 1 << 20;
/// Of the one service they belong to.
const SERVICE: u32 = 1;

/// Walks over a full table: one whose entries all live, then one whose entries have all expired and are removed. And the
/// longest time that packets of one CPU waited meanwhile: one run of the program that removes.
fn sweep() -> Result<[Cost; 3]> {
    let settings = Settings::everything();
    let options = Options {
        bpf_dir: Path::new("/sys/fs/bpf").join(format!("sluice-bench-sweep-{}", std::process::id())),
        sizes: Sizes { flows4: FLOWS, flows6: 1, ..Sizes::default() },
        tunables: Tunables { hash_key: settings.hash_key, tunnel_source_mask4: 0, tunnel_source_mask6: 0 },
    };
    let opened = Dataplane::open(options.clone(), Features { ipv4: true, nat: true, ..Features::default() });
    pins::remove(&options.bpf_dir)?;
    let mut dataplane = opened.context("cannot load the product's program; are you root?")?;
    // All rows move, from one backend to the other: whatever has not expired stays.
    const IDLE: u32 = 30;
    let id = RingId { service: SERVICE, protocol: PROTO_TCP, family: 4 };
    let alive = tables::Backend { flags: BACKEND_ALIVE, generation: 1, ..tables::Backend::default() };
    let owned_by = |owner: u16| {
        let policy = FlowPolicy { tcp_opening: IDLE, tcp: IDLE, udp: IDLE, quota: FLOWS, ..FlowPolicy::default() };
        let place = RingPlace { class: 2, slot: 0 };
        let owners = Arc::new(vec![owner; rows(usize::from(place.class)) as usize]);
        let ring = tables::Ring { place, owners, idle: IDLE, by_source: false, before: None };
        Tables {
            policies: [(SERVICE, policy)].into(),
            backends: [(1, alive), (2, alive)].into(),
            rings: [(id, ring)].into(),
            ..Tables::default()
        }
    };
    dataplane.apply(owned_by(1))?;
    dataplane.apply(owned_by(2))?;

    let flow = |i: u32| Flow4 { source: i, destination: !i, ports: i.rotate_left(16), protocol: u32::from(PROTO_TCP) };
    let last = |second: u32| FlowState::new(Life::new(1, 1), PHASE_ESTABLISHED, second);
    let expired = last(1);
    let mut table: aya::maps::HashMap<MapData, Flow4, FlowEntry> =
        Map::HashMap(wrapper::map(dataplane.program_mut().xdp()?, "FLOWS4")?).try_into()?;
    let mut fill = |state: FlowState| -> Result<()> {
        for i in 0..FLOWS {
            let key = flow(i);
            table.insert(key, FlowEntry { hash: flow4(&settings.hash_key, &key), service: SERVICE, state }, 0)?;
        }
        Ok(())
    };
    let walk = |dataplane: &mut Dataplane, left: u64| -> Result<Duration> {
        let start = Instant::now();
        let mut sweep = dataplane.begin_sweep(Vec::new());
        while dataplane.continue_sweep(&mut sweep)? {}
        dataplane.end_sweep(sweep);
        let took = start.elapsed();
        let counted = dataplane.flow_use(SERVICE).entries;
        ensure!(counted == left, "the service is said to have {counted} entries, not {left}");
        Ok(took)
    };
    fill(last(clock::seconds()))?;
    dataplane.correct_flow_entries(SERVICE, i64::from(FLOWS));
    let kept = walk(&mut dataplane, u64::from(FLOWS))?;
    fill(expired)?;
    let removed = walk(&mut dataplane, 0)?;
    ensure!(table.keys().next().is_none(), "the sweep left entries");

    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let entries: Vec<(Key, FlowEntry)> = (0..FORGET_AT_ONCE as u32)
            .map(|i| (Key::V4(flow(i)), FlowEntry { hash: 0, service: SERVICE, state: expired }))
            .collect();
        for (key, entry) in &entries {
            let Key::V4(key) = key else { unreachable!("made above") };
            table.insert(key, entry, 0)?;
        }
        let start = Instant::now();
        let gone = dataplane.forget(Table::Rows, &entries)?;
        longest = longest.max(start.elapsed());
        ensure!(gone.iter().all(|gone| *gone), "the program left entries");
    }
    let ms = Duration::from_millis;
    Ok([
        Cost { case: "sweep/1M", took: kept, limit: ms(250) },
        Cost { case: "sweep/1M/expired", took: removed, limit: ms(500) },
        Cost { case: "sweep/chunk", took: longest, limit: ms(1) },
    ])
}

/// A ring of equals.
fn build(members: u16, log2: u32) -> Result<Duration> {
    let class = CLASSES.iter().position(|k| *k == log2).context("no class has so many rows")?;
    let members: Vec<Member> =
        (1..=members).map(|i| Member::new(Ipv4Addr::from(0x0a00_0000 + u32::from(i)).into(), 8080, 100)).collect();
    let seed = Seed::from(&Settings::everything().hash_key);
    let start = Instant::now();
    let built = ring::build(&seed, class, &members).context("a pool of equals has no ring")?;
    let took = start.elapsed();
    ensure!(built.len() == rows(class) as usize, "the ring has {} rows", built.len());
    Ok(took)
}

/// 200 services with 20 backends each, the first of which has `weight`.
fn model(weight: u32) -> Result<Model> {
    let mut text = "version: 1\nnode: { interfaces: [lo] }\nservices:\n".to_owned();
    for service in 0..200 {
        writeln!(text, "  - name: s{service}\n    listen: 203.0.{}.{}:80", service / 100, service % 100)?;
        writeln!(text, "    health: none\n    backends:")?;
        for backend in 0..20 {
            let weight = if backend == 0 { weight } else { 100 };
            writeln!(text, "      - {{ address: 10.1.{service}.{backend}, port: 8080, weight: {weight} }}")?;
        }
    }
    sluice::config::parse("reload.yaml", &text).map_err(|problems| anyhow::anyhow!("{problems}"))
}

/// From a valid model to the last write, for a change of weight in every service: the slowest of the runs, because a
/// reload that must wait is the one people meet.
fn reload() -> Result<Duration> {
    let settings = Settings::everything();
    let key = settings.hash_key;
    let first = model(100)?;
    let features = desired::features(&first, &Leaving::default());
    let options = Options {
        bpf_dir: Path::new("/sys/fs/bpf").join(format!("sluice-bench-reload-{}", std::process::id())),
        sizes: Sizes::new(&first, features),
        tunables: Tunables { hash_key: key, tunnel_source_mask4: 0, tunnel_source_mask6: 0 },
    };
    let opened = Dataplane::open(options.clone(), features);
    pins::remove(&options.bpf_dir)?;
    let mut dataplane = opened.context("cannot load the product's program; are you root?")?;
    let (verdicts, overrides, leaving) = (HashMap::new(), BTreeMap::new(), Leaving::default());
    let (safety, agents) = (Safety::default(), BTreeMap::new());
    let view = View { verdicts: &verdicts, overrides: &overrides, leaving: &leaving, safety: &safety, agents: &agents };
    let (net, seed) = (NetState::default(), Seed::from(&key));
    let (mut ids, mut rings) = (Ids::new(options.sizes), Rings::new());
    let mut slowest = Duration::ZERO;
    for run in 0..=RUNS {
        let next = model(100 - 10 * run as u32)?;
        let start = Instant::now();
        let desired = desired::compute(&next, view, &net, &seed, &mut ids, &rings, start)
            .map_err(|failure| anyhow::anyhow!("{failure}"))?;
        dataplane.apply(desired.tables)?;
        desired::release_slots(&mut ids, &desired.rings, start);
        rings = desired.rings;
        // The first one makes everything.
        if run > 0 {
            slowest = slowest.max(start.elapsed());
        }
    }
    Ok(slowest)
}
