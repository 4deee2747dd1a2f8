//! End to end, in the lab: real clients and servers, and the built `sluice` between them.
//!
//! Needs root, nginx and dnsmasq, so a plain `cargo test` leaves these out; `cargo xtask test` runs them. Each test has
//! a lab of its own. A failing one keeps logs, configuration and captures and says where.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use lb_tests::lab::config::{Config, Direct, Over};
use lb_tests::lab::daemon::{Daemon, Launcher};
use lb_tests::lab::netns::NetNs;
use lb_tests::lab::offload;
use lb_tests::lab::pass::XdpPass;
use lb_tests::lab::ping::ping;
use lb_tests::lab::servers::{DNS_PORT, HTTP_PORT};
use lb_tests::lab::traffic::{Outcome, Question, Target, Traffic, ask_many, failures, tally};
use lb_tests::lab::{BACKENDS, CLIENT, LB_FRONT, Lab, Pair, TUNNEL_VIP, VIP};
use nix::sys::signal::Signal;
use sluice::api::types::{BackendStatus, Health, ServiceState, Status};
use sluice::exit::Exit;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a test waits for something that should take a moment.
const SOON: Duration = Duration::from_secs(10);

/// Labs may run side by side, but a test that measures time wants the machine for itself.
static MACHINE: RwLock<()> = RwLock::new(());

/// A lab with Sluice running on its plain configuration, every backend up.
struct Running {
    // Sluice goes before the lab it runs in.
    daemon: Daemon,
    config: Config,
    lab: Lab,
    _machine: Machine,
}

enum Machine {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Machine {
    fn shared() -> Self {
        Self::Shared { _guard: MACHINE.read().unwrap_or_else(PoisonError::into_inner) }
    }

    fn alone() -> Self {
        Self::Alone { _guard: MACHINE.write().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Running {
    fn new() -> Self {
        Self::with(Machine::shared(), |_| {})
    }

    fn with(machine: Machine, change: impl FnOnce(&mut Config)) -> Self {
        let lab = Lab::new().unwrap();
        let mut config = Config::new(&lab);
        change(&mut config);
        let daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &config.yaml()).unwrap();
        Self { daemon, config, lab, _machine: machine }
    }

    fn clients(&self) -> [(&'static str, &NetNs); 3] {
        [("client", &self.lab.client), ("away", &self.lab.away), ("branch", &self.lab.branch)]
    }

    /// `count` requests from the client on the front wire, all answered.
    fn ask(&self, targets: &[Target], count: usize) -> Vec<Outcome> {
        answered("client", &self.lab.client, targets, count)
    }

    /// Every request was answered; if not, what Sluice and the kernel counted says where they went.
    fn lost_nothing(&self, outcomes: &[Outcome]) {
        let failures = failures(outcomes);
        if failures.is_empty() {
            return;
        }
        let services = self.daemon.status().unwrap().services;
        let drops: Vec<_> = services.iter().map(|s| (&s.name, &s.drops)).collect();
        let counted = |ns: &NetNs| ns.ip_show("-s -s link").unwrap_or_default();
        let wires = counted(&self.lab.lb);
        let queues = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
        let log = self.daemon.log(60);
        panic!(
            "{failures:#?}\ndrops: {drops:?}\nthe balancer's links:\n{wires}\nthe CPUs' queues (second: dropped since the \
             machine started):\n{queues}\nits log:\n{log}"
        );
    }

    fn wait(&mut self, what: &str, wished: impl Fn(&Status) -> bool) -> Status {
        self.daemon.wait(what, SOON, wished).unwrap()
    }
}

/// A change of the ring is everybody's when no SYN can be the second try of one that another backend has seen.
fn until_it_bites() {
    std::thread::sleep(Duration::from_secs(u64::from(lb_common::rows::GRACE) + 2));
}

/// `count` requests that all have to be answered.
fn answered(client: &'static str, ns: &NetNs, targets: &[Target], count: usize) -> Vec<Outcome> {
    let outcomes = ask_many(client, ns, targets, count, PATIENCE).unwrap();
    assert_eq!(failures(&outcomes), [""; 0]);
    outcomes
}

/// Asserts that each backend answered its share, as far as chance allows: four standard deviations and one point.
fn assert_shares(outcomes: &[Outcome], expected: &[(&'static str, f64)]) {
    let counts = tally(outcomes);
    let all: usize = counts.values().sum();
    for &(name, share) in expected {
        let measured = counts.get(name).copied().unwrap_or(0) as f64 / all as f64;
        let deviation = (share * (1.0 - share) / all as f64).sqrt();
        let tolerance = if share == 0.0 { 0.0 } else { 0.01 + 4.0 * deviation };
        assert!(
            (measured - share).abs() <= tolerance,
            "{name} answered {measured:.3} of {all} requests, its weight promises {share:.3}: {counts:?}"
        );
    }
    assert_eq!(counts.keys().filter(|name| !expected.iter().any(|(n, _)| n == *name)).count(), 0, "{counts:?}");
}

/// The entries of one backend host in every service and family.
fn of<'s>(status: &'s Status, host: &'static str) -> impl Iterator<Item = &'s BackendStatus> {
    let all = status.services.iter().flat_map(|s| &s.backends);
    all.filter(move |b| b.name.split('-').next() == Some(host))
}

fn exit_code(output: &std::process::Output) -> Option<i32> {
    output.status.code()
}

fn all_kinds() -> [Target; 4] {
    Target::all(VIP)
}

#[test]
#[ignore = "needs root"]
fn without_sluice_backends_answer_directly_and_the_vip_does_not() {
    let _machine = Machine::shared();
    let lab = Lab::new().unwrap();
    for backend in &lab.backends {
        let targets: Vec<Target> = backend
            .address
            .both()
            .into_iter()
            .flat_map(|a| [Target::http(a, HTTP_PORT), Target::dns(a, DNS_PORT)])
            .collect();
        for (client, ns) in [("lb", &lab.lb), ("client", &lab.client), ("away", &lab.away), ("branch", &lab.branch)] {
            let outcomes = answered(client, ns, &targets, 8);
            assert_eq!(tally(&outcomes).into_iter().collect::<Vec<_>>(), [(backend.name, 8)]);
        }
    }
    let outcomes = ask_many("client", &lab.client, &all_kinds(), 4, Duration::from_millis(200)).unwrap();
    assert_eq!(failures(&outcomes).len(), 4);
}

#[test]
#[ignore = "needs root"]
fn every_kind_of_request_reaches_the_backends_by_weight() {
    let run = Running::new();
    for target in all_kinds() {
        let outcomes = run.ask(&[target], 600);
        assert_shares(&outcomes, &run.config.shares(|_| true));
    }
    // Forwarding is the program's work, not the kernel's: it counted what was asked.
    let status = run.daemon.status().unwrap();
    for service in &status.services {
        assert!(service.forwarded.packets >= 1200 && service.replies.packets >= 1200, "{service:?}");
        assert_eq!(service.drops, BTreeMap::new(), "{}", service.name);
    }
}

#[test]
#[ignore = "needs root"]
fn replies_find_clients_on_link_behind_the_default_gateway_and_behind_a_specific_route() {
    let run = Running::new();
    for (client, ns) in run.clients() {
        for target in all_kinds() {
            let outcomes = answered(client, ns, &[target], 48);
            // b3 is on the clients' wire, b1 and b2 are behind the other interface: both ways out are taken.
            assert_eq!(tally(&outcomes).len(), 3, "{client} {target}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_megabyte_arrives_whole_from_every_backend() {
    // Thousands of packets at once overrun the queue that each CPU has for all namespaces (net.core.netdev_max_backlog),
    // and another lab's UDP would be lost in it.
    let run = Running::with(Machine::alone(), |_| {});
    for (client, ns) in run.clients() {
        for vip in VIP.both() {
            let outcomes = answered(client, ns, &[Target::download(vip, 80)], 24);
            assert_eq!(tally(&outcomes).len(), 3, "{client} {vip}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_killed_backend_is_out_within_its_checks_and_comes_back() {
    let mut run = Running::with(Machine::alone(), |_| {});
    let limit = Duration::from_millis(run.config.interval_ms) * (run.config.fall + 1);
    let traffic =
        Traffic::start(&run.clients(), &all_kinds(), Duration::from_millis(10), Duration::from_secs(1)).unwrap();
    std::thread::sleep(Duration::from_secs(1));

    let killed = Instant::now();
    run.lab.backend_mut("b2").kill_servers();
    run.wait("b2 is out", |s| of(s, "b2").all(|b| b.health == Health::Down && b.share == 0.0));
    let out = Instant::now();
    assert!(out - killed <= limit, "the failover took {:?}, the limit is {limit:?}", out - killed);
    std::thread::sleep(Duration::from_secs(2));

    let revived = Instant::now();
    run.lab.revive("b2").unwrap();
    run.wait("b2 is back", |s| of(s, "b2").all(|b| b.health == Health::Up && b.share > 0.0));
    until_it_bites();
    let back = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let outcomes = traffic.stop().unwrap();

    let began = |from: Instant, to: Option<Instant>| -> Vec<Outcome> {
        outcomes.iter().filter(|o| o.started >= from && to.is_none_or(|to| o.started < to)).cloned().collect()
    };
    let before: Vec<Outcome> = outcomes.iter().filter(|o| o.started + o.latency < killed).cloned().collect();
    let (dead, after) = (began(out, Some(revived)), began(back, None));
    assert!(before.len() > 100 && dead.len() > 300 && after.len() > 300, "the load was too light to tell");
    assert_eq!(failures(&before), [""; 0]);
    assert_eq!(failures(&began(out, None)), [""; 0], "no connection moves when the backend returns");
    assert_shares(&dead, &run.config.shares(|name| name != "b2"));
    assert_shares(&after, &run.config.shares(|_| true));
}

#[test]
#[ignore = "needs root"]
fn a_reload_with_new_weights_changes_the_shares() {
    let mut run = Running::new();
    for (ask_for_it, weight) in [("command", 20), ("signal", 900)] {
        run.config.set_weight("b3", weight);
        run.daemon.edit(&run.config.yaml()).unwrap();
        let generation = run.daemon.status().unwrap().config.generation;
        match ask_for_it {
            "command" => drop(run.daemon.cli_ok(&["reload"]).unwrap()),
            _ => run.daemon.signal(Signal::SIGHUP),
        }
        run.wait("the new file is applied", |s| s.config.generation > generation);
        until_it_bites();
        let outcomes = run.ask(&all_kinds(), 800);
        assert_shares(&outcomes, &run.config.shares(|_| true));
    }
}

#[test]
#[ignore = "needs root"]
fn a_backend_removed_by_a_reload_gets_no_more_requests_and_one_added_gets_its_share() {
    let run = Running::new();
    let whole = run.config.yaml();
    let without: String = whole.lines().filter(|line| !line.contains("name: b1")).map(|l| format!("{l}\n")).collect();
    run.daemon.edit(&without).unwrap();
    run.daemon.cli_ok(&["reload"]).unwrap();
    until_it_bites();
    assert_shares(&run.ask(&all_kinds(), 600), &run.config.shares(|name| name != "b1"));

    run.daemon.edit(&whole).unwrap();
    run.daemon.cli_ok(&["reload"]).unwrap();
    let mut run = run;
    run.wait("b1 is up", |s| of(s, "b1").count() == 4 && of(s, "b1").all(|b| b.health == Health::Up && b.share > 0.0));
    until_it_bites();
    assert_shares(&run.ask(&all_kinds(), 600), &run.config.shares(|_| true));
}

/// The kernel's ids of the links a program is attached by.
fn links_of(program: u32) -> BTreeSet<u64> {
    let output = Command::new("bpftool").args(["-j", "link", "show"]).output().expect("bpftool runs");
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).expect("bpftool prints JSON");
    let links = links.as_array().cloned().unwrap_or_default();
    links.iter().filter(|l| l["prog_id"] == program).filter_map(|l| l["id"].as_u64()).collect()
}

#[test]
#[ignore = "needs root"]
fn a_reload_that_needs_a_feature_replaces_the_program_inside_its_links() {
    let mut run = Running::new();
    let program = |run: &Running| run.daemon.status().unwrap().interfaces[0].program_id;
    let before = program(&run);
    let links = links_of(before);
    assert_eq!(links.len(), 2, "one link for each interface");

    let traffic = Traffic::start(&run.clients(), &all_kinds(), Duration::from_millis(5), PATIENCE).unwrap();
    for tunnel in [Some(Direct::IPIP), None] {
        let old = program(&run);
        run.config.tunnel = tunnel;
        run.daemon.edit(&run.config.yaml()).unwrap();
        run.daemon.cli_ok(&["reload"]).unwrap();
        let new = program(&run);
        assert_ne!(new, old, "another variant runs");
        assert_eq!(links_of(new), links, "in the same links, which were never detached");
        assert_eq!(links_of(old).len(), 0);
        std::thread::sleep(Duration::from_millis(300));
    }
    run.lost_nothing(&traffic.stop().unwrap());
}

#[test]
#[ignore = "needs root"]
fn a_bad_reload_is_refused_whole_and_traffic_goes_on() {
    let mut run = Running::new();
    let traffic = Traffic::start(&run.clients(), &all_kinds(), Duration::from_millis(10), PATIENCE).unwrap();
    run.config.set_weight("b3", 0);
    run.config.appendix = "no_such_key: 1\n".to_owned();
    run.daemon.edit(&run.config.yaml()).unwrap();
    let output = run.daemon.cli(&["reload"]).unwrap();
    assert_eq!(exit_code(&output), Some(Exit::ConfigInvalid as i32), "{output:?}");
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(says.contains("no_such_key") && says.contains("sluice.yaml"), "{says}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let status = run.daemon.status().unwrap();
    assert!(status.config.last_error.is_some());
    std::thread::sleep(Duration::from_millis(500));
    run.lost_nothing(&traffic.stop().unwrap());
    // b3's new weight of zero was in the same file, and is not applied.
    let old = Config::new(&run.lab);
    assert_shares(&run.ask(&all_kinds(), 600), &old.shares(|_| true));
}

#[test]
#[ignore = "needs root"]
fn the_nodes_own_requests_to_backends_are_never_translated() {
    let run = Running::new();
    for backend in &run.lab.backends {
        for address in backend.address.both() {
            let outcomes = answered("lb", &run.lab.lb, &[Target::http(address, HTTP_PORT)], 16);
            assert_eq!(tally(&outcomes).into_iter().collect::<Vec<_>>(), [(backend.name, 16)]);
            let outcomes = answered("lb", &run.lab.lb, &[Target::dns(address, DNS_PORT)], 16);
            assert_eq!(tally(&outcomes).into_iter().collect::<Vec<_>>(), [(backend.name, 16)]);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn what_is_for_no_service_passes_untouched() {
    let run = Running::new();
    // To the node itself: echo requests, and TCP to a port that is no service's, on its own addresses and on the VIP.
    for address in LB_FRONT.both().into_iter().chain(VIP.both()) {
        ping(&run.lab.client, address, PATIENCE).unwrap();
        connects(&run.lab.client, &run.lab.lb, SocketAddr::new(address, 2222));
    }
    // Through the node: another protocol on a service's backend port, and a port nobody balances.
    for backend in &run.lab.backends {
        for address in backend.address.both() {
            ping(&run.lab.client, address, PATIENCE).unwrap();
            let tcp = SocketAddr::new(address, DNS_PORT);
            let peer = run.lab.client.run(|| TcpStream::connect_timeout(&tcp, PATIENCE)).unwrap();
            peer.unwrap_or_else(|e| panic!("client → {tcp}: {e}"));
            connects(&run.lab.client, &backend.ns, SocketAddr::new(address, 2222));
        }
    }
    // From the node, out into the world.
    for address in CLIENT.both() {
        ping(&run.lab.lb, address, PATIENCE).unwrap();
        connects(&run.lab.lb, &run.lab.client, SocketAddr::new(address, 2222));
    }
    let passed = run.daemon.status().unwrap().passed;
    assert!(passed.packets > 20, "{passed:?}");
}

/// Opens a TCP connection to a listener made for it, and sees the client's own address there.
fn connects(from: &NetNs, to: &NetNs, address: SocketAddr) {
    let listener = to.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let stream = from.run(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
    let stream = stream.unwrap_or_else(|e| panic!("{} → {address}: {e}", from.name()));
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer, stream.local_addr().unwrap());
}

#[test]
#[ignore = "needs root"]
fn tunnelled_requests_are_unwrapped_by_decap_and_answered_directly() {
    let _machine = Machine::shared();
    let lab = Lab::new().unwrap();
    lab.direct_return(TUNNEL_VIP).unwrap();
    let launcher = Launcher::beside_us().unwrap();
    let _decap: Vec<_> = lab.backends.iter().map(|b| launcher.decap(&lab, b).unwrap()).collect();
    let mut config = Config::new(&lab);
    config.tunnel = Some(Direct::IPIP);
    let daemon = Daemon::start(&lab, launcher, &config.yaml()).unwrap();
    for (client, ns) in [("client", &lab.client), ("away", &lab.away)] {
        for vip in TUNNEL_VIP.both() {
            let outcomes = answered(client, ns, &[Target::http(vip, HTTP_PORT)], 300);
            assert_shares(&outcomes, &config.shares(|_| true));
        }
    }
    let status = daemon.status().unwrap();
    let tunnel = status.services.iter().find(|s| s.name == "tunnel-web").unwrap();
    assert!(tunnel.forwarded.packets > 2400, "{tunnel:?}");
    assert_eq!(tunnel.replies.packets, 0, "replies go directly");
    // The other modes work beside it, in the same program, to backends that also unwrap.
    answered("client", &lab.client, &all_kinds(), 100);
}

/// The kernel's own VXLAN is a sender that was not written by whoever wrote the receiver.
/// Every way to a backend that answers directly, one after the other, in one running node.
#[test]
#[ignore = "needs root"]
fn backends_are_reached_in_every_way_that_leaves_answering_to_them() {
    let _machine = Machine::shared();
    let lab = Lab::new().unwrap();
    lab.direct_return(TUNNEL_VIP).unwrap();
    let launcher = Launcher::beside_us().unwrap();
    let decap: Vec<_> = lab.backends.iter().map(|b| launcher.decap(&lab, b).unwrap()).collect();
    let mut config = Config::new(&lab);
    let mut daemon = Daemon::start(&lab, launcher, &config.yaml()).unwrap();
    let geneve = "forward: geneve\n    tunnel: { vni: 77, inner_mac: 02:00:00:00:00:0a }";
    let vxlan = "forward: vxlan\n    tunnel: { vni: 66051, inner_mac: 02:00:00:00:00:0a }";
    let header = "forward: gue\n    tunnel: { variant: 0 }";
    for (forward, over) in [
        ("forward: dsr-l2", Over::Own),
        ("forward: gre", Over::Own),
        ("forward: gre", Over::V4),
        ("forward: gre", Over::V6),
        ("forward: gue", Over::V6),
        ("forward: gue", Over::Own),
        (header, Over::V4),
        (header, Over::V6),
        (geneve, Over::V4),
        (geneve, Over::V6),
        (vxlan, Over::Own),
        ("forward: ipip", Over::V4),
        ("forward: ipip", Over::V6),
    ] {
        config.tunnel = Some(Direct { forward, over });
        daemon.edit(&config.yaml()).unwrap();
        daemon.cli_ok(&["reload"]).unwrap();
        let ready = |s: &Status| s.services.iter().all(|s| s.state == ServiceState::Up);
        daemon.wait(&format!("{forward} over {over:?}"), SOON, ready).unwrap();
        for (client, ns) in [("client", &lab.client), ("away", &lab.away)] {
            for vip in TUNNEL_VIP.both() {
                let outcomes = answered(client, ns, &[Target::http(vip, HTTP_PORT)], 24);
                assert!(tally(&outcomes).len() > 1, "{forward} over {over:?}: {:?}", tally(&outcomes));
            }
        }
        let status = daemon.status().unwrap();
        let direct = status.services.iter().find(|s| s.name == "tunnel-web").unwrap();
        assert_eq!(direct.replies.packets, 0, "{forward}: replies go directly");
    }
    for mut decap in decap {
        decap.stop(SOON).unwrap();
        let log = decap.tail(1);
        assert!(log.contains("unwrapped ") && !log.contains("unwrapped 0 "), "{log}");
    }
    // The other modes work beside it all the while.
    answered("client", &lab.client, &all_kinds(), 50);
}

/// Linux takes off what Sluice puts on, and verifies the outer checksum that there is over IPv6.
#[test]
#[ignore = "needs root"]
fn what_sluice_sends_by_vxlan_is_taken_off_by_the_kernels_own_device() {
    let _machine = Machine::shared();
    let lab = Lab::new().unwrap();
    lab.direct_return(TUNNEL_VIP).unwrap();
    for backend in &lab.backends {
        for (local, device) in backend.address.both().into_iter().zip(["vxlan4", "vxlan6"]) {
            let link = format!("link add {device} address 02:00:00:00:00:0a type vxlan id 66051 dstport 4789");
            backend.ns.ip(&format!("{link} local {local} dev eth0 nolearning\nlink set {device} up\n")).unwrap();
            backend.ns.sysctl(&[(&format!("net/ipv4/conf/{device}/rp_filter"), "0")]).unwrap();
        }
        backend.ns.sysctl(&[("net/ipv4/conf/all/rp_filter", "0")]).unwrap();
    }
    let launcher = Launcher::beside_us().unwrap();
    let mut config = Config::new(&lab);
    let mut daemon = Daemon::start(&lab, launcher, &config.yaml()).unwrap();
    for over in [Over::Own, Over::V4, Over::V6] {
        let forward = "forward: vxlan\n    tunnel: { vni: 66051, inner_mac: 02:00:00:00:00:0a }";
        config.tunnel = Some(Direct { forward, over });
        daemon.edit(&config.yaml()).unwrap();
        daemon.cli_ok(&["reload"]).unwrap();
        let ready = |s: &Status| s.services.iter().all(|s| s.state == ServiceState::Up);
        daemon.wait(&format!("VXLAN over {over:?}"), SOON, ready).unwrap();
        for vip in TUNNEL_VIP.both() {
            let outcomes = answered("client", &lab.client, &[Target::http(vip, HTTP_PORT)], 60);
            assert_eq!(tally(&outcomes).len(), 3, "{over:?}: {:?}", tally(&outcomes));
        }
    }
}

#[test]
#[ignore = "needs root"]
fn what_the_kernel_sends_by_vxlan_is_unwrapped_by_decap_and_answered_directly() {
    let _machine = Machine::shared();
    let lab = Lab::new().unwrap();
    lab.direct_return(TUNNEL_VIP).unwrap();
    let backend = lab.backend("b1");
    let mut decap = Launcher::beside_us().unwrap().decap(&lab, backend).unwrap();
    let Pair { v4: vip4, v6: vip6 } = TUNNEL_VIP;
    for (outer, id) in backend.address.both().into_iter().zip([42, 43]) {
        let device = format!("vxlan{id}");
        // No ARP through the tunnel: the frame inside is for any MAC address, as Sluice's are.
        let link = format!("link add {device} type vxlan id {id} dstport 4789 remote {outer} dev eth0");
        lab.client.ip(&format!("{link}\nlink set {device} up\n")).unwrap();
        offload::disable(&lab.client, &[&device]).unwrap();
        for (vip, length, source) in [(IpAddr::V4(vip4), 32, CLIENT.both()[0]), (vip6.into(), 128, CLIENT.both()[1])] {
            let neighbour = format!("neigh add {vip} lladdr 02:00:00:00:00:01 dev {device}");
            lab.client.ip(&format!("{neighbour}\nroute replace {vip}/{length} dev {device} src {source}\n")).unwrap();
        }
        for vip in TUNNEL_VIP.both() {
            answered("client", &lab.client, &[Target::http(vip, HTTP_PORT)], 20);
        }
        lab.client.ip(&format!("link del {device}\n")).unwrap();
    }
    decap.stop(SOON).unwrap();
    let log = decap.tail(1);
    assert!(log.contains("unwrapped ") && !log.contains("unwrapped 0 "), "{log}");
}

#[test]
#[ignore = "needs root"]
fn a_drained_backend_gets_no_new_flows_until_undrained() {
    let run = Running::new();
    let each = ["web/b3", "web/b3-v6", "dns/b3", "dns/b3-v6"];
    for backend in each {
        run.daemon.cli_ok(&["drain", backend]).unwrap();
    }
    until_it_bites();
    assert_shares(&run.ask(&all_kinds(), 600), &run.config.shares(|name| name != "b3"));
    // An operator's word outlives a reload, and is shown as an override.
    run.daemon.cli_ok(&["reload"]).unwrap();
    assert!(of(&run.daemon.status().unwrap(), "b3").all(|b| b.overridden && b.share == 0.0));
    assert_shares(&run.ask(&all_kinds(), 600), &run.config.shares(|name| name != "b3"));
    for backend in each {
        run.daemon.cli_ok(&["undrain", backend]).unwrap();
    }
    until_it_bites();
    assert_shares(&run.ask(&all_kinds(), 600), &run.config.shares(|_| true));
}

#[test]
#[ignore = "needs root"]
fn a_second_run_on_the_same_host_is_refused_and_the_first_goes_on() {
    let run = Running::new();
    let config = run.daemon.config();
    let output = launch(&run.lab, &config);
    assert_ne!(exit_code(&output), Some(0));
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(says.contains(&run.daemon.pid().to_string()) || says.contains("already"), "{says}");
    answered("client", &run.lab.client, &all_kinds(), 100);
}

/// Runs `sluice run` in the lab's lb to its end, which has to come by itself.
fn launch(lab: &Lab, config: &Path) -> std::process::Output {
    let Launcher::Binary(sluice) = Launcher::beside_us().unwrap() else { panic!("a binary") };
    let mut command = lab.lb.command("timeout").unwrap();
    command.arg("--signal=KILL").arg("20").arg(sluice).arg("run").arg("-c").arg(config);
    command.output().unwrap()
}

#[test]
#[ignore = "needs root"]
fn a_start_that_cannot_work_says_why_and_leaves_nothing_behind() {
    let _machine = Machine::shared();
    let lab = Lab::new().unwrap();
    let good = Config::new(&lab).yaml();
    let file = lab.dir().join("sluice.yaml");
    let foreign = XdpPass::load().unwrap();
    for (what, yaml, foreign_on, code, says) in [
        ("a missing interface", good.replace("name: eth1", "name: eth7"), None, Exit::HostUnsupported, "eth7"),
        ("another program's interface", good.clone(), Some("eth1"), Exit::Failed, "eth1"),
        ("an unknown key", format!("{good}colour: blue\n"), None, Exit::ConfigInvalid, "colour"),
    ] {
        std::fs::write(&file, yaml).unwrap();
        let _held = foreign_on.map(|interface| foreign.attach(&lab.lb, interface).unwrap());
        let output = launch(&lab, &file);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(exit_code(&output), Some(code as i32), "{what}: {stderr}");
        assert!(stderr.contains(says) && stderr.contains("hint"), "{what}: {stderr}");
        drop(_held);
        assert_clean(&lab, what);
    }
}

#[test]
#[ignore = "needs root"]
fn check_knows_on_the_node_that_a_backend_for_dsr_l2_is_behind_a_router() {
    let _machine = Machine::shared();
    let lab = Lab::new().unwrap();
    let file = lab.dir().join("sluice.yaml");
    let on_link = BACKENDS[0].1.v4.to_string();
    let Launcher::Binary(sluice) = Launcher::beside_us().unwrap() else { panic!("a binary") };
    let check = |host: &NetNs, backend: &str| {
        let mut config = Config::new(&lab);
        config.appendix = format!(
            "  - {{ name: direct, listen: '203.0.113.77:443', forward: dsr-l2, health: none, backends: [{{ address: {backend} }}] }}\n"
        );
        std::fs::write(&file, config.yaml()).unwrap();
        let output = host.command(&sluice).unwrap().arg("check").arg("-c").arg(&file).output().unwrap();
        (exit_code(&output), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, told) = check(&lab.lb, "198.18.7.7");
    assert_eq!(code, Some(Exit::ConfigInvalid as i32), "{told}");
    assert!(told.contains("198.18.7.7 is behind ") && told.contains("hint"), "{told}");
    assert_eq!(check(&lab.lb, &on_link).0, Some(0));
    // A host without the file's interfaces is not the one that the file is for.
    assert_eq!(check(&lab.client, "198.18.7.7").0, Some(0));
}

#[test]
#[ignore = "needs root"]
fn a_stop_with_on_exit_detach_removes_programs_addresses_and_pins() {
    let mut run = Running::with(Machine::shared(), |config| config.on_exit = "detach");
    let addresses = run.lab.lb.ip_show("addr show").unwrap();
    assert!(addresses.contains(&format!("{}/32", VIP.v4)) && addresses.contains(&format!("{}/128", VIP.v6)));
    assert!(run.lab.lb.ip_show("link show dev eth0").unwrap().contains("xdp"));
    let status = run.daemon.stop().unwrap();
    assert_eq!(status.code(), Some(0), "{}", run.daemon.log(30));
    assert_clean(&run.lab, "after a stop");
}

/// Nothing of Sluice is left in the lab's lb.
fn assert_clean(lab: &Lab, when: &str) {
    for interface in ["eth0", "eth1"] {
        let link = lab.lb.ip_show(&format!("link show dev {interface}")).unwrap();
        assert!(!link.contains("xdp"), "{when}: {link}");
    }
    let addresses = lab.lb.ip_show("addr show").unwrap();
    for vip in VIP.both() {
        assert!(!addresses.contains(&format!("{vip}/")), "{when}: {addresses}");
    }
    let pins: Vec<_> = files(&lab.bpf_dir());
    assert_eq!(pins, [""; 0], "{when}");
    assert!(!lab.dir().join("admin.sock").exists(), "{when}");
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .flat_map(|e| if e.path().is_dir() { files(&e.path()) } else { vec![e.path().display().to_string()] })
        .collect()
}

#[test]
#[ignore = "needs root"]
fn generic_xdp_serves_the_same_and_is_reported_as_what_it_is() {
    let run = Running::with(Machine::shared(), |config| config.xdp = "generic");
    for (client, ns) in run.clients() {
        answered(client, ns, &all_kinds(), 100);
    }
    let status = run.daemon.status().unwrap();
    assert!(status.interfaces.iter().all(|i| i.xdp_mode == "generic"), "{:?}", status.interfaces);
}

#[test]
#[ignore = "needs root"]
fn the_vips_are_never_a_source_address_of_the_node() {
    let run = Running::new();
    for (peer, vip) in CLIENT.both().into_iter().zip(VIP.both()) {
        let source = source_towards(&run.lab.lb, peer);
        assert_ne!(source, vip, "towards {peer}");
    }
    let Pair { v4, v6 } = LB_FRONT;
    let sources = CLIENT.both().map(|peer| source_towards(&run.lab.lb, peer));
    assert_eq!(sources, [IpAddr::from(v4), IpAddr::from(v6)]);
}

/// The source address the node's kernel chooses towards `peer`.
fn source_towards(node: &NetNs, peer: IpAddr) -> IpAddr {
    let any: IpAddr = if peer.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let local = node.run(|| {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect((peer, 9))?;
        socket.local_addr()
    });
    local.unwrap().unwrap().ip()
}

#[test]
#[ignore = "needs root"]
fn forgotten_neighbours_are_found_again_within_a_second() {
    let run = Running::new();
    let traffic = Traffic::start(&run.clients(), &all_kinds(), Duration::from_millis(10), PATIENCE).unwrap();
    let flushes: Vec<Instant> = (0..3)
        .map(|_| {
            std::thread::sleep(Duration::from_secs(2));
            run.lab.lb.ip("neigh flush all\n").unwrap();
            Instant::now()
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    let (near, far): (Vec<_>, Vec<_>) = traffic.stop().unwrap().into_iter().partition(|o| {
        let second = Duration::from_secs(1);
        flushes.iter().any(|flush| o.started + o.latency >= *flush && o.started <= *flush + second)
    });
    assert!(near.len() > 300 && far.len() > 300);
    assert_eq!(failures(&far), [""; 0]);
    // Meanwhile TCP sends again, and what was lost has its reason.
    let tcp: Vec<Outcome> = near.iter().filter(|o| o.target.question == Question::Http).cloned().collect();
    assert_eq!(failures(&tcp), [""; 0]);
    let status = run.daemon.status().unwrap();
    for service in &status.services {
        assert!(service.drops.keys().all(|reason| reason == "no_neighbour"), "{:?}", service.drops);
        assert_eq!(service.state, ServiceState::Up);
    }
}

#[test]
#[ignore = "needs root"]
fn status_and_metrics_count_what_happened() {
    let run = Running::new();
    run.ask(&all_kinds(), 400);
    let status: Status = serde_json::from_str(&run.daemon.cli_ok(&["status", "-o", "json"]).unwrap()).unwrap();
    assert!(status.interfaces.iter().all(|i| i.xdp_mode == "native" && i.program_id > 0), "{:?}", status.interfaces);
    assert_eq!((status.pid, status.degraded.len()), (run.daemon.pid(), 0));
    let web = status.services.iter().find(|s| s.name == "web").unwrap();
    // 200 connections over two families; a retransmitted SYN is a SYN.
    assert!(web.syns >= 200 && web.syns < 220, "{web:?}");
    for (name, share) in run.config.shares(|_| true) {
        for backend in of(&status, name) {
            assert!((backend.share - share).abs() < 0.01, "{backend:?} should have {share}");
            assert!(backend.forwarded.packets > 0 && backend.replies.packets > 0, "{backend:?}");
        }
    }

    let metrics = run.lab.lb.run(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9480")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    let metrics = metrics.unwrap().unwrap();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
    };
    assert!(value("sluice_service_syns_total{service=\"web\"}") >= 200.0);
    assert!(value("sluice_service_packets_total{service=\"dns\"}") >= 200.0);
    assert_eq!(value("sluice_backend_up{service=\"web\",backend=\"b3-v6\"}"), 1.0);
    assert_eq!(value("sluice_config_last_reload_success"), 1.0);
}

#[test]
#[ignore = "needs root"]
fn dropped_packets_are_listed_with_their_reason() {
    let mut run = Running::new();
    let dns = |status: &Status| status.services.iter().find(|service| service.name == "dns").unwrap().clone();
    let nothing = run.daemon.cli(&["drops", "--service", "dns"]).unwrap();
    assert_eq!((nothing.status.code(), nothing.stdout.len()), (Some(0), 0));
    assert_eq!(String::from_utf8_lossy(&nothing.stderr), "no packet was dropped\n");

    for backend in dns(&run.daemon.status().unwrap()).backends {
        run.daemon.cli_ok(&["drain", &format!("dns/{}", backend.name)]).unwrap();
    }
    let empty = |status: &Status| dns(status).backends.iter().all(|backend| backend.share == 0.0);
    run.daemon.wait("no backend takes new flows", SOON, empty).unwrap();
    let sent = run.lab.client.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        (0..5).try_for_each(|_| socket.send_to(b"anybody?", (VIP.v4, 53)).map(drop))
    });
    sent.unwrap().unwrap();
    let counted = |status: &Status| dns(status).drops.get("no_backend") == Some(&5);
    run.daemon.wait("five packets were dropped", SOON, counted).unwrap();
    let drops = run.daemon.cli_ok(&["drops", "-o", "json"]).unwrap();
    let drops: serde_json::Value = serde_json::from_str(&drops).unwrap();
    let [drop] = drops["drops"].as_array().unwrap().as_slice() else { panic!("{drops}") };
    assert_eq!((&drop["service"], &drop["reason"], &drop["packets"]), (&"dns".into(), &"no_backend".into(), &5.into()));
    let table = run.daemon.cli_ok(&["drops", "--service", "dns"]).unwrap();
    assert!(table.contains("dns      no_backend        5  no backend of the service is up"), "{table}");
}
