//! The loaded program against the reference model. Needs root (or CAP_BPF and CAP_NET_ADMIN).
//!
//! A minute of the fuzzer with one seed for all, so that a failure is about a change and not about luck; what longer
//! runs with other seeds found is replayed from `fixtures/fuzz`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lb_tests::fuzz::random::Random;
use lb_tests::fuzz::rig::Rig;
use lb_tests::fuzz::scenario::{self, Scenario};
use lb_tests::fuzz::{Ending, Options, fixture, network, run};
use lb_tests::model::World;
use lb_tests::model::world::Way;

#[test]
#[ignore = "needs root"]
fn program_and_model_agree_about_everything_that_once_told_them_apart() {
    let mut rig = Rig::new().expect("a namespace and a CPU");
    let mut failed = Vec::new();
    for (name, fixture) in fixture::all().expect("fixtures") {
        if let Some(difference) = rig.locate(&fixture.scenario).expect("the program runs") {
            println!("{name}, found as {:?}:\n{difference}", fixture.found);
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "program and model differ again: {failed:?}");
}

#[test]
#[ignore = "needs root"]
fn program_and_model_agree_for_a_minute_of_random_packets_that_reach_everything() {
    let options = Options { seed: 1, time: Some(Duration::from_secs(60)), packets: None };
    let ending = run(&options).expect("the program runs");
    assert!(matches!(ending, Ending::Agreed), "{ending:?}: see above");
}

/// One thing changed in the program's world and not in the model's: a wrong program, as far as packets can tell.
type Change = (&'static str, fn(&mut World));

const CHANGES: [Change; 20] = [
    ("another hash key", |w| w.settings.hash_key[3] ^= 1),
    ("IPv6 switched off", |w| w.settings.ipv6 = false),
    ("IPv4 tunnel sources that do not vary", |w| w.settings.tunnel_mask4 = Ipv4Addr::UNSPECIFIED),
    ("IPv6 tunnel sources that do not vary", |w| w.settings.tunnel_mask6 = Ipv4Addr::UNSPECIFIED),
    ("a next hop with another MAC address", |w| w.next_hops.iter_mut().for_each(|n| n.hop.destination.0[5] ^= 1)),
    ("a source MAC address of another interface", |w| w.next_hops.iter_mut().for_each(|n| n.hop.source.0[5] ^= 1)),
    ("an MTU of one less", |w| w.next_hops.iter_mut().for_each(|n| n.hop.mtu = n.hop.mtu.saturating_sub(1))),
    ("rows that are off by one", |w| w.rings.iter_mut().for_each(|r| r.owners.rotate_left(1))),
    ("backends on another port", |w| w.backends.iter_mut().for_each(|b| b.port ^= 1)),
    ("no next hops for backends", |w| w.backends.iter_mut().for_each(|b| b.next_hop = 0)),
    ("replies from another port", |w| w.replies.iter_mut().for_each(|r| r.port ^= 1)),
    ("replies counted for another service", |w| w.replies.iter_mut().for_each(|r| r.service ^= 1)),
    ("no addresses of its own", |w| w.own.clear()),
    ("all clients behind the kernel's routes", |w| w.routes.iter_mut().for_each(|r| r.way = Way::AskKernel)),
    ("a route less", |w| w.routes.truncate(w.routes.len() - 1)),
    ("no neighbours", |w| w.neighbours.clear()),
    ("a device less", |w| w.devices.truncate(w.devices.len() - 1)),
    ("no VIPs at backend hosts", |w| w.unwrapped.clear()),
    ("services that track no flows", |w| w.services.iter_mut().for_each(|s| s.tracked = false)),
    ("no room for tracked flows", |w| w.policies.iter_mut().for_each(|p| p.quotas = [0, 0])),
];

#[test]
#[ignore = "needs root"]
fn a_program_that_is_wrong_in_any_one_thing_is_found_out() {
    let mut rig = Rig::new().expect("a namespace and a CPU");
    let full = |s: &Scenario| {
        let (w, settings) = (&s.world, &s.world.settings);
        let varies = |mask: Ipv4Addr| !mask.is_unspecified();
        settings.ipv4
            && settings.ipv6
            && settings.nat
            && settings.ipip
            && varies(settings.tunnel_mask4)
            && varies(settings.tunnel_mask6)
            && w.devices.len() > 1
            && w.routes.iter().any(|r| r.prefix.length == 0 && matches!(r.way, Way::Gateway(_)))
            && w.routes.iter().any(|r| matches!(r.way, Way::OnLink(_)))
            && w.own.iter().any(IpAddr::is_ipv4)
            && w.policies.iter().any(|p| p.quotas.iter().all(|quota| *quota > 5) && p.new_per_second > 3)
    };
    let kernel = network::kernel();
    let scenarios: Vec<Scenario> =
        (0..).map(|seed| scenario::generate(&mut Random::new(seed), &kernel, 3_000)).filter(full).take(6).collect();
    for (what, change) in CHANGES {
        let found = scenarios.iter().any(|scenario| {
            let mut wrong = scenario.clone();
            change(&mut wrong.world);
            rig.check_against(&wrong, scenario).expect("the program runs").is_some()
        });
        assert!(found, "a program with {what} passes for right");
    }
    for scenario in &scenarios {
        let difference = rig.check(scenario).expect("the program runs");
        assert!(difference.is_none(), "{}", difference.unwrap_or_default());
    }
}
