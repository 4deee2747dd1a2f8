//! Tunnel devices of the kernel take off what Sluice puts on: real connections, full-size segments, both families.
//!
//! Each test needs devices that many kernels lack; then it says so and counts as ignored, with the kernel's words. In the
//! virtual machines of `cargo xtask vm`, where the kernels have them all, that is a failure (`SLUICE_DEVICES=required`).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use lb_tests::lab::config::{Config, Direct, Over};
use lb_tests::lab::daemon::{Daemon, Launcher};
use lb_tests::lab::devices::{Counted, Receiver, widen};
use lb_tests::lab::servers::HTTP_PORT;
use lb_tests::lab::traffic::{Target, ask_many, failures, tally};
use lb_tests::lab::upload::{Sink, upload};
use lb_tests::lab::{Lab, TUNNEL_VIP};
use sluice::api::types::{ServiceStatus, Status};

/// Uploads to each VIP: enough to meet more than one backend.
const UPLOADS: usize = 4;

/// One kind of device, and what Sluice sends to it.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// On the backends; none where nothing is to be taken off.
    receiver: Option<Receiver>,
    forward: &'static str,
    /// Through which family, one after the other.
    over: &'static [Over],
    vips: fn(&IpAddr) -> bool,
}

const BOTH: fn(&IpAddr) -> bool = |_| true;
/// Each outer family with both inside.
const EACH: &[Over] = &[Over::V4, Over::V6];

const CASES: [Case; 9] = [
    Case {
        name: "ipip, sit and ip6tnl devices take IP in IP of every kind",
        receiver: Some(Receiver::IpInIp),
        forward: "forward: ipip",
        over: EACH,
        vips: BOTH,
    },
    Case {
        name: "gre and ip6gre devices take GRE",
        receiver: Some(Receiver::Gre),
        forward: "forward: gre",
        over: EACH,
        vips: BOTH,
    },
    Case {
        name: "a GUE port takes variant 0",
        receiver: Some(Receiver::Gue),
        forward: "forward: gue\n    tunnel: { variant: 0 }",
        over: EACH,
        vips: BOTH,
    },
    Case {
        name: "a GUE port takes variant 1",
        receiver: Some(Receiver::Gue),
        forward: "forward: gue",
        over: EACH,
        vips: BOTH,
    },
    Case {
        name: "a FOU port for IPv4 takes GUE variant 1",
        receiver: Some(Receiver::Fou(4)),
        forward: "forward: gue",
        over: EACH,
        vips: IpAddr::is_ipv4,
    },
    Case {
        name: "a FOU port for IPv6 takes GUE variant 1",
        receiver: Some(Receiver::Fou(41)),
        forward: "forward: gue",
        over: EACH,
        vips: IpAddr::is_ipv6,
    },
    Case {
        name: "vxlan devices take VXLAN",
        receiver: Some(Receiver::Vxlan),
        forward: "forward: vxlan\n    tunnel: { vni: 66051, inner_mac: 02:00:00:00:00:0a }",
        over: EACH,
        vips: BOTH,
    },
    Case {
        name: "a geneve device takes Geneve",
        receiver: Some(Receiver::Geneve),
        forward: "forward: geneve\n    tunnel: { vni: 66051, inner_mac: 02:00:00:00:00:0a }",
        over: EACH,
        vips: BOTH,
    },
    Case {
        name: "without a tunnel full-size segments arrive, too",
        receiver: None,
        forward: "forward: dsr-l2",
        over: &[Over::Own],
        vips: BOTH,
    },
];

fn main() {
    let mut arguments = Arguments::from_args();
    // Thousands of packets at once overrun the queue that each CPU has for all namespaces.
    arguments.test_threads = Some(1);
    let root = nix::unistd::geteuid().is_root();
    let trial = |case: Case| Trial::ignorable_test(case.name, move || run(case)).with_ignored_flag(!root);
    libtest_mimic::run(&arguments, CASES.into_iter().map(trial).collect()).exit()
}

fn run(case: Case) -> Result<Completion, Failed> {
    if let Some(why) = case.receiver.and_then(Receiver::lacking) {
        return match std::env::var_os("SLUICE_DEVICES") {
            Some(_) => Err(format!("the devices have to be there: {why}").into()),
            None => Ok(Completion::ignored_with(format!("this kernel has no such devices: {why}"))),
        };
    }
    check(case);
    Ok(Completion::Completed)
}

fn check(Case { receiver, forward, over, vips, .. }: Case) {
    let started = Instant::now();
    let lab = Lab::new().unwrap();
    widen(&lab).unwrap();
    lab.direct_return(TUNNEL_VIP).unwrap();
    for backend in &lab.backends {
        receiver.map_or(Ok(()), |receiver| receiver.make(backend)).unwrap();
    }
    let _sinks: Vec<Sink> = lab.backends.iter().map(|b| Sink::start(&b.ns, b.name).unwrap()).collect();
    let mut config = Config::new(&lab);
    config.uploads = true;
    let mut daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &config.yaml()).unwrap();
    eprintln!("  Sluice runs ({} s)", started.elapsed().as_secs());
    let counted = || receiver.map_or(Counted::default(), |receiver| receiver.counted(&lab).unwrap());
    for over in over.iter().copied() {
        config.tunnel = Some(Direct { forward, over });
        daemon.edit(&config.yaml()).unwrap();
        daemon.cli_ok(&["reload"]).unwrap();
        // A service is up before its rings are written: each gives all of itself to backends. Those that were removed are
        // there while they have flows.
        let rings = if over == Over::Own { 2.0 } else { 1.0 };
        let shared = |s: &ServiceStatus| s.backends.iter().map(|b| b.share).sum::<f64>() > rings - 0.01;
        let ready = |s: &Status| s.services.iter().all(shared);
        daemon.wait(&format!("{forward} over {over:?}"), Duration::from_secs(30), ready).unwrap();
        for vip in TUNNEL_VIP.both().into_iter().filter(vips) {
            let before = counted();
            let what = format!("{} over {over:?} to {vip}", forward.split_whitespace().collect::<Vec<_>>().join(" "));
            let asked = ask_many("client", &lab.client, &[Target::http(vip, HTTP_PORT)], 24, Duration::from_secs(10));
            let outcomes = asked.unwrap();
            assert_eq!(failures(&outcomes), [""; 0], "{what}");
            assert_eq!(tally(&outcomes).len(), 3, "{what}: {:?}", tally(&outcomes));
            let mut uploads = Vec::new();
            // Chance may send some to one backend alone, b3 most of all, and that proves little.
            while uploads.len() < UPLOADS || (uploads.iter().all(|to| *to == uploads[0]) && uploads.len() < 8 * UPLOADS)
            {
                let uploaded = upload(&lab.client, vip).unwrap_or_else(|why| panic!("{what}: {why:#}"));
                // What an Ethernet frame holds, without the headers and their timestamps.
                let full = if vip.is_ipv4() { 1500 - 20 - 32 } else { 1500 - 40 - 32 };
                assert_eq!(uploaded.segment, full, "{what}");
                uploads.push(uploaded.to);
            }
            assert!(uploads.iter().any(|to| *to != uploads[0]), "{what}: all to {}", uploads[0]);
            let through = counted().taken - before.taken;
            // A quarter of a megabyte in full segments, each.
            let expected = if receiver.is_some() { 180 * UPLOADS as u64 } else { 0 };
            assert!(through >= expected, "{what}: {through} packets went through the devices");
            // Minutes may pass on a translated CPU, and whoever waits wants to see where.
            eprintln!("  {what}: {through} packets through devices ({} s)", started.elapsed().as_secs());
        }
    }
    let status = daemon.status().unwrap();
    for service in status.services.iter().filter(|s| s.name == "tunnel-web" || s.name == "uploads") {
        assert!(service.drops.is_empty(), "{}: {:?}", service.name, service.drops);
        assert_eq!(service.replies.packets, 0, "replies go directly");
    }
    assert_eq!(counted().refused, 0);
}
