//! The program and its maps on this machine's kernel: every variant passes the verifier, tables come and go.

use std::path::PathBuf;

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
    let variants = (0..16u8).map(|bits| Features {
        ipv4: bits & 1 != 0,
        ipv6: bits & 2 != 0,
        nat: bits & 4 != 0,
        ipip: bits & 8 != 0,
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
