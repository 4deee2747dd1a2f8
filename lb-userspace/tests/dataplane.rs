//! The program and its maps on this machine's kernel: every variant passes the verifier, tables come and go.

use std::path::PathBuf;

use aya::maps::{HashMap, IterableMap as _, Map, MapData};

use lb_common::flow::{Flow4, FlowEntry, FlowState, Life};
use lb_common::hash::HashKey;
use sluice::dataplane::{Dataplane, Features, Options, Sizes, Tunables};

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
