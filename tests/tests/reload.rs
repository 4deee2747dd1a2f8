//! Reloads as operators make them: looked at before, tried out, confirmed, taken back; and drains that are waited for.
//!
//! Needs root, nginx and dnsmasq, as the other tests of the lab do.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lb_tests::lab::config::Config;
use lb_tests::lab::daemon::{Daemon, Launcher};
use lb_tests::lab::{CLIENT, Lab, VIP};
use sluice::api::types::{DrainProgress, Flow, FlowPhase, FlowTable, Flows, Plan, Status};

const SOON: Duration = Duration::from_secs(10);

fn start() -> (Daemon, Config, Lab) {
    let lab = Lab::new().unwrap();
    let config = Config::new(&lab);
    let daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &config.yaml()).unwrap();
    (daemon, config, lab)
}

fn weight(status: &Status, backend: &str) -> u32 {
    status.services[0].backends.iter().find(|b| b.name == backend).unwrap().weight
}

fn plan(daemon: &Daemon) -> Plan {
    serde_json::from_str(&daemon.cli_ok(&["reload", "--dry-run", "-o", "json"]).unwrap()).unwrap()
}

#[test]
#[ignore = "needs root"]
fn a_plan_says_what_the_reload_then_does() {
    let lab = Lab::new().unwrap();
    let mut config = Config::new(&lab);
    let timeouts = "defaults:\n  timeouts: { tcp_established: 5s, tcp_opening: 5s, udp: 5s }\n";
    let yaml = |config: &Config| config.yaml().replace("defaults:\n", timeouts);
    let mut daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &yaml(&config)).unwrap();
    // Backends come up one after the other.
    let steady = |s: &Status| s.services.iter().flat_map(|s| &s.rings).all(|r| r.rows_steady == r.rows);
    let before = daemon.wait("rows settle after the start", Duration::from_secs(40), steady).unwrap();
    assert_eq!(plan(&daemon).changes, [""; 0]);

    config.set_weight("b3", 50);
    daemon.edit(&yaml(&config)).unwrap();
    assert!(daemon.status().unwrap().config.file_differs);
    let planned = plan(&daemon);
    println!("{}", daemon.cli_ok(&["plan"]).unwrap());
    assert_eq!((planned.generation, planned.breaks.len()), (before.config.generation, 0));
    assert_eq!(planned.services.len(), 2, "web and dns");
    let after = daemon.status().unwrap();
    assert_eq!(after.config.generation, before.config.generation, "a plan changes nothing");
    let fingerprints = |status: &Status| -> Vec<String> {
        status.services.iter().flat_map(|s| &s.rings).map(|r| r.fingerprint.clone()).collect()
    };
    assert_eq!(fingerprints(&after), fingerprints(&before));

    let told = daemon.cli_ok(&["reload"]).unwrap();
    for change in &planned.changes {
        assert!(told.contains(change), "{change} is not in\n{told}");
    }
    let reloaded = daemon.status().unwrap();
    for service in &planned.services {
        let rings = &reloaded.services.iter().find(|s| s.name == service.name).unwrap().rings;
        for ring in &service.rings {
            let is = rings.iter().find(|r| (&r.family, r.protocol) == (&ring.family, ring.protocol)).unwrap();
            // Datagrams that stand alone go with their row at once.
            let moving = if service.name == "dns" { 0 } else { ring.rows_moved };
            assert_eq!((is.rows, is.rows_moving), (ring.rows, moving), "{}: {ring:?}", service.name);
        }
    }
    assert!(!reloaded.config.file_differs);
}

#[test]
#[ignore = "needs root"]
fn a_reload_that_nobody_confirms_is_taken_back() {
    let (mut daemon, mut config, _lab) = start();
    config.set_weight("b3", 50);
    daemon.edit(&config.yaml()).unwrap();
    daemon.cli_ok(&["reload", "--confirm", "3s"]).unwrap();
    let status = daemon.status().unwrap();
    assert_eq!((weight(&status, "b3"), status.config.confirm_in_seconds.is_some()), (50, true));
    let refused = daemon.cli(&["reload"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("is to be confirmed first") && told.contains("`sluice confirm` keeps it"), "{told}");

    let status = daemon.wait("it goes back", SOON, |s| s.config.rolled_back).unwrap();
    assert_eq!((weight(&status, "b3"), status.config.confirm_in_seconds), (200, None));
    assert!(status.degraded.iter().any(|d| d.contains("rolled back")), "{:?}", status.degraded);
    let nothing = daemon.cli(&["confirm"]).unwrap();
    assert_eq!(nothing.status.code(), Some(1), "too late");

    // Once more, and this time it stays.
    daemon.cli_ok(&["reload", "--confirm", "2s"]).unwrap();
    daemon.cli_ok(&["confirm"]).unwrap();
    std::thread::sleep(Duration::from_millis(2_500));
    let status = daemon.status().unwrap();
    assert_eq!((weight(&status, "b3"), status.config.rolled_back), (50, false));
    daemon.cli_ok(&["rollback"]).unwrap();
    assert_eq!(weight(&daemon.status().unwrap(), "b3"), 200);
    let end = daemon.cli(&["rollback"]).unwrap();
    assert_eq!(end.status.code(), Some(1), "there is nothing before the first configuration");
}

#[test]
#[ignore = "needs root"]
fn a_reload_within_the_interval_waits_for_its_end_and_a_drain_does_not() {
    let lab = Lab::new().unwrap();
    let mut config = Config::new(&lab);
    let yaml = |config: &Config| config.yaml().replace("  on_exit:", "  min_ring_interval: 3s\n  on_exit:");
    let daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &yaml(&config)).unwrap();
    let mut reload = |weight| {
        config.set_weight("b3", weight);
        daemon.edit(&yaml(&config)).unwrap();
        let began = Instant::now();
        daemon.cli_ok(&["reload"]).unwrap();
        began.elapsed()
    };
    reload(50);
    let waited = reload(60);
    assert!((Duration::from_millis(2_500)..Duration::from_millis(6_000)).contains(&waited), "{waited:?}");
    let began = Instant::now();
    daemon.cli_ok(&["drain", "web/b1"]).unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "the drain took {:?}", began.elapsed());
    assert_eq!(weight(&daemon.status().unwrap(), "b3"), 60);
}

/// A connection that is used every now and then.
struct Held(TcpStream);

impl Held {
    fn open(lab: &Lab) -> Self {
        let vip = SocketAddr::from((VIP.v4, 80));
        let stream = lab.client.run(|| TcpStream::connect_timeout(&vip, SOON)).unwrap().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        Self(stream)
    }

    fn ask(&mut self) -> std::io::Result<usize> {
        self.0.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = [0; 4096];
        match self.0.read(&mut answer)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_drain_waits_for_the_connections_that_are_used_and_breaks_none() {
    let lab = Lab::new().unwrap();
    let config = Config::new(&lab);
    let timeouts = "defaults:\n  timeouts: { tcp_established: 5s, tcp_opening: 5s, tcp_closing: 2s, udp: 5s }\n";
    let yaml = config.yaml().replace("defaults:\n", timeouts);
    let daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &yaml).unwrap();
    let mut connections: Vec<Held> = (0..24).map(|_| Held::open(&lab)).collect();
    for connection in &mut connections {
        connection.ask().unwrap();
    }
    let waiting = std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| daemon.cli(&["drain", "web/b1", "--wait", "--timeout", "90s", "-o", "json"]).unwrap());
        // Longer than the rows move: what is in use is still waited for.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(14) {
            for connection in &mut connections {
                connection.ask().expect("a connection broke");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        let listed = daemon.cli_ok(&["flows", "--service", "web", "--backend", "b1", "-o", "json"]).unwrap();
        let listed: Flows = serde_json::from_str(&listed).unwrap();
        println!("{}", daemon.cli_ok(&["flows", "--client", &CLIENT.v4.to_string(), "--limit", "5"]).unwrap());
        assert!(listed.total > 0 && listed.total == listed.flows.len() as u64, "{listed:?}");
        for flow in &listed.flows {
            let ends = (flow.client.ip(), flow.vip, flow.backend.as_str());
            assert_eq!(ends, (CLIENT.v4.into(), SocketAddr::from((VIP.v4, 80)), "b1"), "{flow:?}");
            assert!(flow.silent_seconds <= 3 && flow.phase == FlowPhase::Established, "{flow:?}");
        }
        assert!(!waiting.is_finished(), "it did not wait for connections in use");
        connections.clear();
        waiting.join().unwrap()
    });
    let (out, err) = (String::from_utf8_lossy(&waiting.stdout), String::from_utf8_lossy(&waiting.stderr));
    assert_eq!(waiting.status.code(), Some(0), "{out}{err}");
    let told: Vec<DrainProgress> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(told.iter().any(|p| p.flows.is_some_and(|n| n > 0) && p.ruled_out_in_seconds == 0), "{out}");
    assert!(told.iter().any(|p| p.ruled_out_in_seconds > 0), "{out}");
    let last = told.last().unwrap();
    assert!(last.done && last.flows == Some(0) && last.ruled_out_in_seconds == 0, "{last:?}");

    // Too short a wait says what is left, and leaves it alone.
    let mut connections: Vec<Held> = (0..24).map(|_| Held::open(&lab)).collect();
    let late = daemon.cli(&["drain", "web/b3", "--wait", "--timeout", "1s"]).unwrap();
    let told = String::from_utf8_lossy(&late.stderr).into_owned();
    assert_eq!(late.status.code(), Some(1), "{told}");
    assert!(told.contains("error: web/b3 after 1s: ") && told.contains("hint: it stays drained"), "{told}");
    for connection in &mut connections {
        connection.ask().expect("a connection broke");
    }
}

/// The service's flows that are listed, by client.
fn listed(daemon: &Daemon) -> BTreeMap<SocketAddr, Flow> {
    let listed = daemon.cli_ok(&["flows", "--service", "web", "-o", "json"]).unwrap();
    let listed: Flows = serde_json::from_str(&listed).unwrap();
    let count = listed.flows.len();
    let flows: BTreeMap<_, _> = listed.flows.into_iter().map(|flow| (flow.client, flow)).collect();
    assert_eq!((listed.total, count), (flows.len() as u64, flows.len()), "a flow is listed twice");
    flows
}

fn backends(flows: &BTreeMap<SocketAddr, Flow>) -> BTreeMap<SocketAddr, &str> {
    flows.iter().map(|(client, flow)| (*client, flow.backend.as_str())).collect()
}

#[test]
#[ignore = "needs root"]
fn tracked_flows_are_listed_one_and_all_through_reloads_crashes_and_drains() {
    let lab = Lab::new().unwrap();
    let config = Config::new(&lab);
    let limits = "limits: { flows: 4096 }\ndefaults:\n  timeouts: { tcp_established: 60s, tcp_opening: 5s, udp: 5s }\n";
    let plain = config.yaml().replace("defaults:\n", limits);
    let full = plain.replace("defaults:\n", "defaults:\n  tracking: full\n");
    let mut daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &plain).unwrap();
    assert!(daemon.status().unwrap().services.iter().all(|s| s.tracked.is_none()));
    let mut connections: Vec<Held> = (0..24).map(|_| Held::open(&lab)).collect();
    let clients: Vec<SocketAddr> = connections.iter().map(|c| c.0.local_addr().unwrap()).collect();
    let mut ask = |when: &str| {
        for connection in &mut connections {
            connection.ask().unwrap_or_else(|e| panic!("a connection broke {when}: {e}"));
        }
    };
    ask("at first");

    daemon.edit(&full).unwrap();
    daemon.cli_ok(&["reload"]).unwrap();
    ask("when tracking was turned on");
    let first = listed(&daemon);
    assert!(clients.iter().all(|client| first.contains_key(client)), "{clients:?} are not all in {first:?}");
    assert!(clients.iter().all(|client| first[client].phase == FlowPhase::Established), "{first:?}");
    assert!(first.values().any(|flow| flow.table == FlowTable::Tracked), "{first:?}");
    let status = daemon.status().unwrap();
    let web = status.services.iter().find(|s| s.name == "web").unwrap().tracked.clone().expect("it is tracked");
    let quotas: Vec<u32> = web.families.values().map(|family| family.quota).collect();
    assert_eq!(quotas, [1024, 1024], "half of the room for each family");
    assert!(web.families["ipv4"].entries >= 24 && web.written >= 24, "{web:?}");
    assert!(status.services.iter().any(|s| s.name == "dns" && s.tracked.is_none()), "its datagrams stand alone");

    daemon.kill();
    ask("without a controller");
    daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &full).unwrap();
    let before: BTreeMap<_, _> = backends(&first).into_iter().map(|(c, b)| (c, b.to_owned())).collect();
    let second = listed(&daemon);
    let after = backends(&second);
    for client in &clients {
        assert_eq!(after.get(client), Some(&before[client].as_str()), "{client} after the restart");
    }

    let on_b1 = clients.iter().filter(|client| before[client] == "b1").count() as u64;
    assert!(on_b1 > 0, "{before:?}");
    daemon.cli_ok(&["drain", "web/b1"]).unwrap();
    ask("when a backend was drained");
    let third = listed(&daemon);
    assert!(clients.iter().all(|client| third[client].backend == before[client]), "{third:?}");
    assert!(third.values().any(|flow| flow.table == FlowTable::Row), "rows have written some of them down: {third:?}");
    let late = daemon.cli(&["drain", "web/b1", "--wait", "--timeout", "5s", "-o", "json"]).unwrap();
    let out = String::from_utf8_lossy(&late.stdout);
    let told: Vec<DrainProgress> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.last().and_then(|p| p.flows), Some(on_b1), "each is counted once: {out}");

    daemon.edit(&plain).unwrap();
    daemon.cli_ok(&["reload"]).unwrap();
    ask("when tracking was turned off");
    assert!(daemon.status().unwrap().services.iter().all(|s| s.tracked.is_none()));
    assert!(listed(&daemon).values().all(|flow| flow.table == FlowTable::Row));
    daemon.edit(&full).unwrap();
    daemon.cli_ok(&["reload"]).unwrap();
    ask("when tracking was turned on again");
    let last = listed(&daemon);
    assert!(clients.iter().all(|client| last[client].backend == before[client]), "{last:?}");
}
