//! The program and its maps on this machine's kernel: every variant passes the verifier, tables come and go.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{HashMap, IterableMap as _, Map, MapData};

use lb_common::backend::BACKEND_ALIVE;
use lb_common::flow::{Flow4, FlowEntry, FlowPolicy, FlowState, Life, PHASE_ESTABLISHED};
use lb_common::hash::HashKey;
use sluice::dataplane::tables::{Backend, Ring, RingId, RingPlace, Tables};
use sluice::dataplane::{Dataplane, Features, Options, Sizes, Tunables, clock, pins};

/// Removes a test's pins however it ends, and first those of runs that were killed.
struct Pins(PathBuf);

impl Pins {
    fn of(options: &Options) -> Self {
        for left in std::fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten() {
            let name = left.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with("sluice-test-")) else { continue };
            let lives = name.rsplit('-').next().is_some_and(|pid| Path::new("/proc").join(pid).exists());
            if !lives {
                let _ = pins::remove(&left.path());
            }
        }
        Self(options.bpf_dir.clone())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = pins::remove(&self.0);
    }
}

fn options(name: &str) -> Options {
    Options {
        bpf_dir: PathBuf::from(format!("/sys/fs/bpf/sluice-test-{name}-{}", std::process::id())),
        sizes: Sizes { services: 64, backends: 256, flows4: 1024, flows6: 1024, tracked4: 1024, tracked6: 1024 },
        tunables: Tunables { hash_key: HashKey([7; 12]), tunnel_source_mask4: 0, tunnel_source_mask6: 0 },
    }
}

#[test]
fn every_variant_passes_the_verifier_and_replaces_the_one_before() {
    let variants = (0..32u8).map(|bits| Features {
        ipv4: bits & 1 != 0,
        ipv6: bits & 2 != 0,
        nat: bits & 4 != 0,
        ipip: bits & 8 != 0,
        tracking: bits & 16 != 0,
        ..Features::default()
    });
    let options = options("variants");
    let _pins = Pins::of(&options);
    let dir = options.bpf_dir.clone();
    let mut dataplane =
        Dataplane::open(options, Features { log: true, test_clock: true, ipv4: true, ..Features::default() })
            .unwrap_or_else(|e| panic!("{e}"));
    for features in variants {
        let before = dataplane.program_id();
        assert!(dataplane.set_features(features).unwrap_or_else(|e| panic!("{features:?}: {e}")));
        assert_ne!(dataplane.program_id(), before);
    }
    dataplane.close().expect("closing removes the pins");
    assert!(!dir.exists());
}

/// The pinned table of tracked IPv4 flows.
fn tracked(dir: &std::path::Path) -> HashMap<MapData, Flow4, FlowEntry> {
    let map = MapData::from_pin(dir.join("maps/TRACKED4")).expect("it is pinned");
    Map::LruHashMap(map).try_into().expect("flows to entries")
}

#[test]
fn a_table_of_tracked_flows_grows_with_its_flows_and_goes_when_nobody_needs_it() {
    let options = options("tracked");
    let _pins = Pins::of(&options);
    let (dir, sizes) = (options.bpf_dir.clone(), options.sizes);
    let features = Features { ipv4: true, nat: true, tracking: true, ..Features::default() };
    let mut dataplane = Dataplane::open(options, features).unwrap_or_else(|e| panic!("{e}"));
    let flow = |i: u32| Flow4 { source: i, destination: 1, ports: 2, protocol: 6 };
    let entry = |i: u32| FlowEntry { hash: i, service: 1, state: FlowState::new(Life::new(1, 1), 1, i) };
    let mut table = tracked(&dir);
    (0..500).for_each(|i| table.insert(flow(i), entry(i), 0).expect("there is room"));
    let before = dataplane.program_id();

    assert!(!dataplane.make_room(features, Sizes { tracked4: 512, ..sizes }).unwrap(), "there is more than that");
    assert!(dataplane.make_room(features, Sizes { tracked4: 8192, ..sizes }).unwrap());
    assert_ne!(dataplane.program_id(), before, "a program works with the maps it was loaded with");
    let table = tracked(&dir);
    assert_eq!(table.map().info().unwrap().max_entries(), 8192);
    assert!((0..500).all(|i| table.get(&flow(i), 0).is_ok_and(|found| found == entry(i))), "with its flows");
    assert!(!dir.join("maps/TRACKED4-old").exists());

    assert!(!dataplane.give_room_back(features, Sizes { tracked4: 512, ..sizes }).unwrap(), "a larger one is as good");
    let untracked = Features { tracking: false, ..features };
    assert!(dataplane.give_room_back(untracked, Sizes { tracked4: 1, tracked6: 1, ..sizes }).unwrap());
    assert_eq!(tracked(&dir).map().info().unwrap().max_entries(), 1);
    dataplane.close().expect("closing removes the pins");
    assert!(!dir.exists());
}

#[test]
fn a_sweep_sees_every_flow_of_a_large_table_once_and_removes_what_has_expired() {
    const FLOWS: u32 = 150_000;
    const SERVICE: u32 = 1;
    const IDLE: u32 = 30;
    let mut options = options("sweep");
    let _pins = Pins::of(&options);
    options.sizes.flows4 = 1 << 18;
    let dir = options.bpf_dir.clone();
    let features = Features { ipv4: true, nat: true, ..Features::default() };
    let mut dataplane = Dataplane::open(options, features).unwrap_or_else(|e| panic!("{e}"));
    // All rows move from one backend to the other, so that whoever lives stays.
    let owned_by = |owner: u16| {
        let policy = FlowPolicy { tcp_opening: IDLE, tcp: IDLE, udp: IDLE, quota: FLOWS, ..FlowPolicy::default() };
        let backend = Backend { flags: BACKEND_ALIVE, generation: 1, ..Backend::default() };
        let (place, owners) = (RingPlace { class: 0, slot: 0 }, Arc::new(vec![owner; 1024]));
        let ring = Ring { place, owners, idle: IDLE, by_source: false, before: None };
        Tables {
            policies: [(SERVICE, policy)].into(),
            backends: [(1, backend), (2, backend)].into(),
            rings: [(RingId { service: SERVICE, protocol: 6, family: 4 }, ring)].into(),
            ..Tables::default()
        }
    };
    dataplane.apply(owned_by(1)).unwrap();
    dataplane.apply(owned_by(2)).unwrap();
    let map = Map::HashMap(MapData::from_pin(dir.join("maps/FLOWS4")).expect("it is pinned"));
    let mut table: HashMap<MapData, Flow4, FlowEntry> = map.try_into().expect("flows to entries");
    let flow = |i: u32| Flow4 { source: i, destination: 1, ports: 2, protocol: 6 };
    for i in 0..FLOWS {
        let last = if i % 3 == 0 { 0 } else { clock::seconds() };
        let state = FlowState::new(Life::new(1, 1), PHASE_ESTABLISHED, last);
        table
            .insert(flow(i), FlowEntry { hash: i.rotate_left(20), service: SERVICE, state }, 0)
            .expect("there is room");
    }
    dataplane.correct_flow_entries(SERVICE, i64::from(FLOWS));

    let mut sweep = dataplane.begin_sweep(Vec::new());
    while dataplane.continue_sweep(&mut sweep).unwrap() {}
    let left = u64::from(FLOWS) / 3 * 2;
    assert_eq!(dataplane.end_sweep(sweep).entries(SERVICE), left);
    assert_eq!(dataplane.flow_use(SERVICE).entries, left);
    let keys: Vec<u32> = table.keys().map(|key| key.unwrap().source).collect();
    assert_eq!(keys.len() as u64, left);
    assert!(keys.iter().all(|i| i % 3 != 0), "who lives stays");
    dataplane.close().expect("closing removes the pins");
}
