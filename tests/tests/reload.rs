//! Reloads as operators make them: looked at before, tried out, confirmed, taken back; and drains that are waited for.
//!
//! Needs root, nginx and dnsmasq, as the other tests of the lab do.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lb_tests::lab::config::Config;
use lb_tests::lab::daemon::{Daemon, Launcher};
use lb_tests::lab::{CLIENT, Lab, VIP};
use sluice::api::types::{DrainProgress, FlowPhase, Flows, Plan, Status};

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
