//! The loaded program against the reference model. Needs root (or CAP_BPF and CAP_NET_ADMIN).
//!
//! A slice of the fuzzer, about a minute, with one seed and one number of packets for all, so that a failure is about a
//! change and not about luck; what longer runs with other seeds found is replayed from `fixtures/fuzz`.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::ring::UNTIL_MAX;
use lb_tests::fuzz::random::Random;
use lb_tests::fuzz::rig::Rig;
use lb_tests::fuzz::scenario::Step;
use lb_tests::fuzz::scenario::{self, Scenario};
use lb_tests::fuzz::{Ending, MANY, Options, fixture, network, run};
use lb_tests::model::World;
use lb_tests::model::world::{Kind, Listen, Orphans, Policy, Prefix, Says, Service, Way};

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
fn program_and_model_agree_about_random_packets_that_reach_everything() {
    let options = Options { seed: 1, time: None, packets: Some(MANY) };
    let ending = run(&options).expect("the program runs");
    assert!(matches!(ending, Ending::Agreed), "{ending:?}: see above");
}

/// One thing changed in the program's world and not in the model's: a wrong program, as far as packets can tell.
type Change = (&'static str, fn(&mut World));

const CHANGES: [Change; 42] = [
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
    ("rows that are all steady", |w| w.rings.iter_mut().for_each(|r| r.kinds.clear())),
    ("rows that nobody had before", |w| kinds(w, |kind| with_moving(kind, |settled, _| *settled = 0))),
    ("rows that move for a second longer", |w| {
        kinds(w, |kind| with_moving(kind, |_, until| *until += u32::from(*until < UNTIL_MAX)))
    }),
    ("rows that move for a second less", |w| kinds(w, |kind| with_moving(kind, |_, until| *until -= 1))),
    ("filters that know nobody", |w| {
        kinds(w, |kind| {
            if let Kind::Exceptions { filter } = kind {
                *filter = 0;
            }
        });
    }),
    ("entries of backends' other lives", |w| {
        for entry in &mut w.entries {
            if let Says::Flow(flow) = &mut entry.says {
                flow.life += 1;
            }
        }
    }),
    ("no entries", |w| w.entries.clear()),
    ("a longer timeout of TCP", |w| policies(w, |p| p.tcp += 1)),
    ("a longer timeout of flows that open", |w| policies(w, |p| p.tcp_opening += 1)),
    ("a longer timeout of UDP", |w| policies(w, |p| p.udp += 1)),
    ("a larger quota", |w| policies(w, |p| p.quota += 1)),
    ("a wider gate", |w| policies(w, |p| p.new_per_second += 1)),
    ("orphans dropped without a word", |w| {
        policies(w, |p| p.orphans = if p.orphans == Orphans::Reset { Orphans::Drop } else { p.orphans });
    }),
    ("replies that nobody looks at", |w| policies(w, |p| p.in_motion = false)),
    ("rows chosen by flows", |w| services(w, |s| s.by_client = false)),
    ("no rings before", |w| services(w, |s| s.before = None)),
    ("rings before chosen by something else", |w| {
        services(w, |s| s.before.iter_mut().for_each(|before| before.by_client = !before.by_client));
    }),
    ("no services of many endpoints", |w| w.settings.wildcards = false),
    ("ranges that end a port earlier", |w| listens(w, |l| l.last = l.last.saturating_sub(1).max(l.first))),
    ("half of each prefix", |w| listens(w, |l| l.prefix.length = (l.prefix.length + 1).min(whole(&l.prefix)))),
    ("no replies from ranges", |w| w.replies.retain(|r| !r.wide)),
    // As many as there are from the beginning on, at most.
    ("room for eight flows", |w| w.settings.room = 8),
];

fn kinds(world: &mut World, change: fn(&mut Kind)) {
    world.rings.iter_mut().flat_map(|ring| &mut ring.kinds).for_each(change);
}

fn with_moving(kind: &mut Kind, change: fn(&mut u16, &mut u32)) {
    if let Kind::Moving { settled, until } = kind {
        change(settled, until);
    }
}

fn policies(world: &mut World, change: fn(&mut Policy)) {
    world.policies.iter_mut().for_each(change);
}

fn listens(world: &mut World, change: fn(&mut Listen)) {
    world.wide.iter_mut().flat_map(|w| &mut w.listens).for_each(change);
}

fn whole(prefix: &Prefix) -> u8 {
    if prefix.address.is_ipv4() { 32 } else { 128 }
}

fn services(world: &mut World, change: fn(&mut Service)) {
    world.services.iter_mut().for_each(change);
}

/// Something that happened to the model's world and not to the program's: this became of the step there.
type Missed = (&'static str, fn(&Step) -> Option<Step>);

const MISSED: [Missed; 5] = [
    ("a failure", |step| match *step {
        Step::Backend { id, up: false, life } => Some(Step::Backend { id, up: true, life }),
        _ => None,
    }),
    ("a recovery", |step| match *step {
        Step::Backend { id, up: true, life } => Some(Step::Backend { id, up: false, life }),
        _ => None,
    }),
    ("another life", |step| match *step {
        Step::Backend { id, up, life: 2 } => Some(Step::Backend { id, up, life: 1 }),
        _ => None,
    }),
    ("a second", |step| match *step {
        Step::Clock(second) => Some(Step::Clock(second - 1)),
        _ => None,
    }),
    ("that rows move", |step| match *step {
        Step::Row { class, slot, row, owner, kind: Kind::Moving { .. } } => {
            Some(Step::Row { class, slot, row, owner, kind: Kind::Steady })
        }
        _ => None,
    }),
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
            && w.settings.tracking
            && w.settings.wildcards
            && w.wide.len() > 2
            && w.replies.iter().any(|r| r.wide)
            && w.rings.iter().filter(|r| r.kinds.len() > 1).count() > 2
            && s.steps.iter().filter(|step| matches!(step, Step::Clock(_))).count() > 20
    };
    let kernel = network::kernel();
    let scenarios: Vec<Scenario> =
        (0..).map(|seed| scenario::generate(&mut Random::new(seed), &kernel, 3_000)).filter(full).take(18).collect();
    for (what, change) in CHANGES {
        let found = scenarios.iter().any(|scenario| {
            let mut wrong = scenario.clone();
            change(&mut wrong.world);
            rig.check_against(&wrong, scenario).expect("the program runs").is_some()
        });
        assert!(found, "a program with {what} passes for right");
    }
    for (what, instead) in MISSED {
        let found = scenarios.iter().any(|scenario| {
            let mut wrong = scenario.clone();
            wrong.steps.iter_mut().for_each(|step| *step = instead(step).unwrap_or_else(|| step.clone()));
            rig.check_against(&wrong, scenario).expect("the program runs").is_some()
        });
        assert!(found, "a program that was not told of {what} passes for right");
    }
    for scenario in &scenarios {
        let difference = rig.check(scenario).expect("the program runs");
        assert!(difference.is_none(), "{}", difference.unwrap_or_default());
    }
}
