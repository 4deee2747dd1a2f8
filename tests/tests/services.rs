//! Services of many addresses and ports with real clients, and as many services and backends as there is room for.
//!
//! Needs root, so a plain `cargo test` leaves these out; `cargo xtask test` runs them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use lb_tests::lab::config::Config;
use lb_tests::lab::daemon::{Daemon, Launcher};
use lb_tests::lab::servers::HTTP_PORT;
use lb_tests::lab::traffic::{Target, ask_many, failures};
use lb_tests::lab::{Lab, TUNNEL_VIP, VIP};

const PATIENCE: Duration = Duration::from_secs(2);

/// The lab's file up to its services, with VIPs that somebody else announces.
fn head(config: &Config) -> String {
    let yaml = config.yaml();
    let head = yaml.split_once("services:\n").expect("a list of services").0;
    head.replace("node:\n", "node:\n  vip_addresses: external\n")
}

fn backends(yaml: &mut String, lab: &Lab) {
    for lb_tests::lab::Backend { name, address, .. } in &lab.backends {
        let _ = writeln!(yaml, "      - {{ name: {name}, address: {} }}", address.v4);
        let _ = writeln!(yaml, "      - {{ name: {name}-v6, address: \"{}\" }}", address.v6);
    }
}

#[test]
#[ignore = "needs root"]
fn ranges_behind_nat_and_prefixes_in_tunnels_are_answered_and_a_reload_changes_who_has_what() {
    let lab = Lab::new().unwrap();
    lab.direct_return(TUNNEL_VIP).unwrap();
    // Nobody announces them: the client is told that they are behind the lb.
    lab.client
        .ip("route add 198.51.100.100/32 via 198.51.100.2\nroute add 198.51.100.200/30 via 198.51.100.2\n")
        .unwrap();
    lab.client
        .ip6("route add 2001:db8:f::100/128 via 2001:db8:f::2\nroute add 2001:db8:f::200/126 via 2001:db8:f::2\n")
        .unwrap();
    // And the lb that they end there, or it would send what is for no service back, and redirect the client.
    lab.lb.ip("route add local 198.51.100.100/32 dev lo\nroute add local 198.51.100.200/30 dev lo\n").unwrap();
    lab.lb.ip6("route add local 2001:db8:f::100/128 dev lo\nroute add local 2001:db8:f::200/126 dev lo\n").unwrap();
    let launcher = Launcher::beside_us().unwrap();
    let _decap: Vec<_> = lab.backends.iter().map(|b| launcher.decap(&lab, b).unwrap()).collect();
    let config = Config::new(&lab);
    let file = |range: &str, prefix: &str| {
        let mut yaml = head(&config) + "services:\n";
        let health = format!("health: {{ http: {{ port: {HTTP_PORT}, path: /healthz }} }}");
        let _ = writeln!(
            yaml,
            "  - name: range\n    listen: [\"{}:{range}\", \"[{}]:{range}\"]\n    {health}\n    backends:",
            VIP.v4, VIP.v6
        );
        backends(&mut yaml, &lab);
        let _ = writeln!(
            yaml,
            "  - name: net\n    listen: [\"{}/30:{prefix}\", \"[{}]/126:{prefix}\"]\n    forward: ipip\n    {health}\n    \
             backends:",
            TUNNEL_VIP.v4, TUNNEL_VIP.v6
        );
        backends(&mut yaml, &lab);
        yaml
    };
    let mut daemon = Daemon::start(&lab, launcher, &file("8000-8100", "0")).unwrap();
    let targets = |vip: lb_tests::lab::Pair| vip.both().map(|vip| Target::http(vip, HTTP_PORT));
    let answered = |count| {
        for vip in [VIP, TUNNEL_VIP] {
            let outcomes = ask_many("client", &lab.client, &targets(vip), count, PATIENCE).unwrap();
            assert_eq!(failures(&outcomes), [""; 0]);
        }
    };
    answered(60);
    let status = daemon.status().unwrap();
    for (name, replies) in [("range", true), ("net", false)] {
        let service = status.services.iter().find(|s| s.name == name).unwrap();
        assert!(service.forwarded.packets > 60, "{service:?}");
        assert_eq!(service.replies.packets > 60, replies, "{service:?}");
    }
    // Other ranges: groups are new ones.
    daemon.edit(&file("8080-8081", "8000-8999")).unwrap();
    daemon.cli_ok(&["reload"]).unwrap();
    answered(60);
    daemon.edit(&file("7000-7010", "0")).unwrap();
    daemon.cli_ok(&["reload"]).unwrap();
    let outcomes = ask_many("client", &lab.client, &targets(VIP), 4, PATIENCE).unwrap();
    assert!(outcomes.iter().all(|o| o.answer.is_err()), "the port is nobody's any more: {outcomes:?}");
    // A controller that takes over finds the groups as they are.
    daemon.edit(&file("8000-8100", "0")).unwrap();
    daemon.cli_ok(&["reload"]).unwrap();
    daemon.kill();
    answered(20);
    drop(daemon);
    let daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &file("8000-8100", "0")).unwrap();
    answered(60);
    drop(daemon);
}

/// An unoptimised build on a busy machine builds rings for a while.
const LOADED: Duration = Duration::from_secs(300);

const SERVICES: usize = 4096;
const BACKENDS_IN_ALL: usize = 65_000;

/// The lab's own service, and so many more that there are [`SERVICES`] with [`BACKENDS_IN_ALL`] backends behind the lb's
/// default route. One in eight listens on a prefix and a range, too.
fn large(lab: &Lab, weight: u32) -> String {
    let config = &Config::new(lab);
    let limits = format!("limits: {{ flows: 65536, services: {SERVICES}, backends: {BACKENDS_IN_ALL} }}\n");
    let mut yaml = head(config) + &limits + "services:\n";
    let health = format!("health: {{ http: {{ port: {HTTP_PORT}, path: /healthz }} }}");
    let _ = writeln!(
        yaml,
        "  - name: web\n    listen: [\"{}:{HTTP_PORT}\", \"[{}]:{HTTP_PORT}\"]\n    {health}\n    backends:",
        VIP.v4, VIP.v6
    );
    backends(&mut yaml, lab);
    let others = SERVICES - 1;
    let left = BACKENDS_IN_ALL - 2 * lab.backends.len();
    let mut next = 0;
    for i in 0..others {
        let (high, low) = (i >> 8, i & 0xff);
        let net = format!("10.{}.{low}", 96 + high);
        let (forward, more) = match i % 8 {
            0 => ("ipip", format!(", \"{net}.0/24:8000-8100\", \"{net}.7:0\"")),
            _ => ("nat", String::new()),
        };
        let _ = writeln!(
            yaml,
            "  - name: s{i}\n    listen: [\"10.{}.{low}.1:80\"{more}]\n    forward: {forward}\n    health: none\n    backends:",
            64 + high
        );
        let count = left / others + usize::from(i < left % others);
        for _ in 0..count {
            let weight = if next == 0 { weight } else { 100 };
            let (a, b) = (next >> 8, next & 0xff);
            let _ = writeln!(yaml, "      - {{ address: 10.200.{a}.{b}, weight: {weight} }}");
            next += 1;
        }
    }
    assert_eq!(next, left);
    yaml
}

/// A line of `/proc`, in MiB.
fn mib(path: &Path, field: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(field)).unwrap_or_default();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or(0) / 1024
}

/// How long a question takes that is asked until it is answered in time: verdicts that come in are applied first.
fn answered(daemon: &Daemon, arguments: &[&str]) -> Duration {
    let deadline = Instant::now() + LOADED;
    loop {
        let began = Instant::now();
        let output = daemon.cli(arguments).unwrap();
        if output.status.success() {
            return began.elapsed();
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
#[ignore = "needs root"]
fn as_many_services_and_backends_as_there_is_room_for_are_loaded_in_seconds() {
    let lab = Lab::new().unwrap();
    lab.client.ip("route add 198.51.100.100/32 via 198.51.100.2\n").unwrap();
    lab.client.ip6("route add 2001:db8:f::100/128 via 2001:db8:f::2\n").unwrap();
    let yaml = large(&lab, 100);
    let file = lab.dir().join("large.yaml");
    std::fs::write(&file, &yaml).unwrap();
    let mut said = format!("{SERVICES} services, {BACKENDS_IN_ALL} backends, a file of {} KiB\n", yaml.len() / 1024);

    let memory = Path::new("/proc/meminfo");
    let available = mib(memory, "MemAvailable:");
    let began = Instant::now();
    sluice::config::parse("large.yaml", &yaml).unwrap_or_else(|d| panic!("{d}"));
    let _ = writeln!(said, "  checked (this build) in {:.2} s", began.elapsed().as_secs_f32());

    let began = Instant::now();
    let mut daemon = Daemon::spawn(&lab, Launcher::beside_us().unwrap(), &yaml).unwrap();
    let status = daemon
        .wait("it answers", LOADED, |status| status.services.iter().flat_map(|s| &s.backends).all(|b| b.share > 0.0))
        .unwrap();
    let _ = writeln!(said, "  loaded, all backends with their shares, in {:.2} s", began.elapsed().as_secs_f32());
    assert_eq!(status.services.len(), SERVICES);
    assert_eq!(status.services.iter().map(|s| s.backends.len()).sum::<usize>(), BACKENDS_IN_ALL);
    let process = format!("/proc/{}/status", daemon.pid());
    let process = Path::new(&process);
    let (now, most) = (mib(process, "VmRSS:"), mib(process, "VmHWM:"));
    let _ = writeln!(said, "  the controller's memory: {now} MiB, {most} MiB at most");
    let _ = writeln!(said, "  memory taken in all: {} MiB", available.saturating_sub(mib(memory, "MemAvailable:")));

    let ask = |count| {
        let targets = VIP.both().map(|vip| Target::http(vip, HTTP_PORT));
        let outcomes = ask_many("client", &lab.client, &targets, count, PATIENCE).unwrap();
        assert_eq!(failures(&outcomes), [""; 0]);
    };
    ask(100);
    for (what, arguments) in [("status", ["status", "-o", "json"]), ("drops", ["drops", "-o", "json"])] {
        let _ = writeln!(said, "  sluice {what} in {:.2} s", answered(&daemon, &arguments).as_secs_f32());
    }
    daemon.edit(&large(&lab, 50)).unwrap();
    let began = Instant::now();
    daemon.cli_ok(&["plan"]).unwrap();
    let _ = writeln!(said, "  sluice plan of one weight in {:.2} s", began.elapsed().as_secs_f32());
    let began = Instant::now();
    daemon.cli_ok(&["reload"]).unwrap();
    let _ = writeln!(said, "  one weight reloaded in {:.2} s", began.elapsed().as_secs_f32());
    ask(100);

    daemon.kill();
    drop(daemon);
    let began = Instant::now();
    let mut daemon = Daemon::spawn(&lab, Launcher::beside_us().unwrap(), &large(&lab, 50)).unwrap();
    daemon.wait("it answers", LOADED, |status| status.services.len() == SERVICES).unwrap();
    let _ = writeln!(said, "  taken over after a crash in {:.2} s", began.elapsed().as_secs_f32());
    ask(100);
    println!("{said}");
    drop(daemon);
}
