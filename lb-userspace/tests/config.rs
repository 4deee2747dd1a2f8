//! The configuration file as operators meet it: what a good one means, and what a bad one is told.
//!
//! `config-corpus/NAME.yaml` is refused with exactly `config-corpus/NAME.txt`. After changing a message, run with
//! `BLESS=1` and read the diff: those texts are the product.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use serde_json::Value as Json;
use sluice::config::schema::{self, Absent, Table, Value};
use sluice::config::{self, Diagnostics};
use sluice::exit::{Exit, Failure};
use sluice::model::{
    Admin, Affinity, Agent, Backend, BackendState, Call, Check, CheckKind, DnsCheck, ExecCheck, Forward, GrpcCheck,
    HealthCheck, Hook, HttpCheck, HttpVersion, Interface, Limits, Mac, Model, Need, Node, OnBackendDown, OnEmpty,
    OnExit, Packets, Prefix, Protocol, Rcode, RecordType, Scheduler, Service, ServiceLimits, Subject, Timeouts,
    TlsOptions, Tracking, Tunnel, UdpCheck, UdpMode, Url, VipAddresses, XdpMode,
};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config-corpus")
}

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<_> = std::fs::read_dir(corpus())
        .expect("the corpus is there")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    cases.sort();
    cases
}

/// A file with the one service whose keys are `body`, one per line.
fn with_service(body: &str) -> String {
    let body: String = body.lines().map(|l| format!("    {}\n", l.trim())).collect();
    format!("version: 1\nnode: {{ interfaces: [eth0] }}\nservices:\n  - name: web\n{body}")
}

fn minimal() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/minimal.yaml");
    std::fs::read_to_string(path).unwrap()
}

fn start_of(text: &str) -> String {
    text.chars().take(2_000).collect()
}

fn good(text: &str) -> Model {
    config::parse("test.yaml", text).unwrap_or_else(|d| panic!("{d}\n{}", start_of(text)))
}

fn bad(text: &str) -> Diagnostics {
    match config::parse("test.yaml", text) {
        Ok(_) => panic!("accepted:\n{}", start_of(text)),
        Err(diagnostics) => diagnostics,
    }
}

fn service(body: &str) -> Service {
    good(&with_service(body)).services.remove(0)
}

// ── bad files ──

#[test]
fn every_bad_file_is_refused_with_exactly_its_message() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 100, "{} cases: is the corpus gone?", cases.len());
    for path in cases {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let told = match config::parse_bytes(name, &bytes) {
            Ok(_) => panic!("{name} was accepted"),
            Err(diagnostics) => format!("{diagnostics}\n"),
        };
        let golden = path.with_extension("txt");
        if bless {
            std::fs::write(&golden, &told).unwrap();
        } else if std::fs::read_to_string(&golden).ok().as_deref() != Some(&told) {
            wrong.push(format!("── {name} is told\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "messages changed (BLESS=1 accepts them):\n{}", wrong.join("\n"));
}

#[test]
fn every_problem_points_at_text_that_exists_and_says_something() {
    for path in cases() {
        let Err(diagnostics) = config::parse_bytes("f", &std::fs::read(&path).unwrap()) else { unreachable!() };
        assert!(diagnostics.count() > 0, "{path:?}");
        for d in &diagnostics.list {
            assert!(!d.message.is_empty() && !d.message.contains('\n'), "{path:?}: {d:?}");
            let Some(p) = &d.position else { continue };
            assert!(p.line >= 1 && p.column >= 1 && p.width >= 1, "{path:?}: {d:?}");
            let end = (p.caret + p.width) as usize;
            assert!(end <= p.source.chars().count() + 1, "{path:?}: the underline leaves its line: {d:?}");
        }
    }
}

#[test]
fn a_refusal_is_one_failure_with_the_exit_code_for_configurations() {
    let failure = Failure::from(bad("version: 1\n"));
    assert_eq!(failure.exit, Exit::ConfigInvalid);
    assert!(failure.message.contains("nothing was changed"), "{failure}");
    assert!(failure.message.contains("test.yaml:1:1: error: `node` is missing"), "{failure}");
    assert!(failure.message.ends_with("2 errors in test.yaml"), "{failure}");
}

#[test]
fn scripts_get_the_same_as_json() {
    let text = with_service("listen: 203.0.113.10:443\nbackends: [{ adress: 10.0.0.11 }]");
    let json = bad(&text).to_json();
    let expected = serde_json::json!({
        "file": "test.yaml",
        "count": 1,
        "errors": [{
            "line": 6,
            "column": 18,
            "path": "services[0] (web) · backends[0]",
            "message": "unknown key `adress`",
            "hint": "did you mean `address`?",
            "source": "    backends: [{ adress: 10.0.0.11 }]",
        }],
    });
    assert_eq!(json, expected);
    let about_the_file = config::load(Path::new("/nonexistent/sluice.yaml")).unwrap_err().to_json();
    assert_eq!(about_the_file["errors"][0]["line"], serde_json::Value::Null);
}

#[test]
fn a_file_that_cannot_be_read_is_a_diagnostic_too() {
    let told = |path: &Path| config::load(path).unwrap_err().to_string();
    let missing = told(Path::new("/nonexistent/sluice.yaml"));
    assert!(missing.starts_with("/nonexistent/sluice.yaml: error: the file cannot be read: No such file"), "{missing}");
    assert!(missing.contains("hint: check the path"), "{missing}");
    let directory = told(&corpus());
    assert!(directory.contains("Is a directory") && directory.contains("hint: name the file in it"), "{directory}");
    // Endless, and still an answer.
    let endless = told(Path::new("/dev/zero"));
    assert!(endless.contains("larger than 16 MiB"), "{endless}");
    let not_text = config::load(Path::new("/proc/self/exe")).unwrap_err();
    assert!(not_text.count() > 0);
}

/// A host with these interfaces, and everything but 10.0.0.0/24 behind a router.
struct Routed(&'static [&'static str]);

impl config::Host for Routed {
    fn has_interface(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    fn gateway(&self, destination: std::net::IpAddr) -> Option<std::net::IpAddr> {
        (!destination.to_string().starts_with("10.0.0.")).then(|| "10.0.0.1".parse().unwrap())
    }
}

#[test]
fn a_backend_for_dsr_l2_must_be_on_a_link_of_the_node() {
    let parse = |forward: &str, host: &Routed| {
        let text = with_service(&format!(
            "listen: 203.0.113.10:443\nforward: {forward}\nbackends: [{{ address: 10.0.0.11 }}, {{ address: 10.9.0.12 }}]"
        ));
        config::parse_for("test.yaml", text.as_bytes(), Some(host))
    };
    let told = parse("dsr-l2", &Routed(&["lo", "eth0"])).unwrap_err().to_json();
    assert_eq!(told["count"], 1, "{told}");
    let error = &told["errors"][0];
    assert_eq!((&error["line"], &error["column"]), (&7.into(), &51.into()), "{told}");
    assert_eq!(error["path"], "services[0] (web) · backends[1] (10.9.0.12) · address");
    assert_eq!(
        error["message"],
        "with `forward: dsr-l2` a backend must be on a link of this host, and 10.9.0.12 is behind 10.0.0.1"
    );
    // Other modes go through routers, and a host without the file's interfaces is not the one it is for.
    parse("ipip", &Routed(&["lo", "eth0"])).unwrap();
    parse("dsr-l2", &Routed(&["lo", "eth1"])).unwrap();
}

// ── good files ──

/// The example of ARCHITECTURE.md, without the keys that are refused for now.
const EXAMPLE: &str = r#"
version: 1
node:
  interfaces: [{ name: eth0, xdp: auto }]        # auto | native | generic; falling back warns loudly
  vip_addresses: managed                         # managed (add to the host, announce by ARP/ND) | external (BGP, keepalived)
admin: { socket: /run/sluice/admin.sock, http: 127.0.0.1:9480 }
hash_key: /etc/sluice/hash.key                  # fleet-wide; generated once when absent
limits: { flows: 1048576 }
defaults:
  scheduler: maglev
  forward: nat
  timeouts: { tcp_established: 15m, tcp_opening: 30s, tcp_closing: 10s, udp: 30s }
  health: { interval: 2s, timeout: 1s, rise: 2, fall: 3, jitter: 10% }
services:
  - name: web
    listen: 203.0.113.10:443                     # or a list; "[2001:db8::10]:443"
    protocol: tcp                                # tcp | udp | [tcp, udp]
    health: { http: { port: 8080, path: /healthz, expect: 200-299 } }
    min_healthy: 1
    backends:
      - { address: 10.0.0.11, weight: 100 }
      - { name: canary, address: 10.0.0.13, port: 8443, weight: 5 }
      - { address: 10.0.0.14, state: drain }
"#;

fn example() -> Model {
    let backend = |name: &str, address: &str, port, weight, state| Backend {
        name: name.to_owned(),
        address: address.parse().unwrap(),
        port,
        inner_mac: None,
        weight,
        state,
        fallback: false,
    };
    let seconds = Duration::from_secs;
    Model {
        node: Node {
            interfaces: vec![Interface { name: "eth0".to_owned(), xdp: XdpMode::Auto }],
            vip_addresses: VipAddresses::Managed,
            on_exit: OnExit::Keep,
            bpf_dir: "/sys/fs/bpf/sluice".into(),
            run_dir: "/run/sluice".into(),
            tunnel_source4: None,
            tunnel_source6: None,
            min_ring_interval: seconds(1),
            weight_hysteresis: 0.0,
        },
        admin: Admin { socket: "/run/sluice/admin.sock".into(), http: Some("127.0.0.1:9480".parse().unwrap()) },
        hash_key: "/etc/sluice/hash.key".into(),
        limits: Limits { flows: 1_048_576, services: 1_024, backends: 8_192 },
        packets: Packets { clamp: false, ..Packets::ALL },
        hooks: vec![],
        services: vec![Service {
            name: "web".to_owned(),
            listen: vec!["203.0.113.10:443".parse::<std::net::SocketAddr>().unwrap().into()],
            protocols: vec![Protocol::Tcp],
            scheduler: Scheduler::Maglev,
            forward: Forward::Nat,
            tunnel: Tunnel::default(),
            timeouts: Timeouts {
                tcp_established: seconds(900),
                tcp_opening: seconds(30),
                tcp_closing: seconds(10),
                udp: seconds(30),
            },
            on_backend_down: OnBackendDown::Reselect,
            udp: UdpMode::Flow,
            affinity: Affinity::Flow,
            clamp_mss: true,
            tracking: Tracking::Auto,
            limits: ServiceLimits { flows: 524_288, new_flows: 100_000, tracked_flows: None },
            health: Some(HealthCheck {
                checks: vec![Check {
                    kind: CheckKind::Http(HttpCheck {
                        method: "GET".to_owned(),
                        path: "/healthz".to_owned(),
                        host: None,
                        headers: vec![],
                        expect: vec![(200, 299)],
                        body_contains: None,
                        body_matches: None,
                    }),
                    address: None,
                    port: Some(8080),
                }],
                need: Need::All,
                interval: seconds(2),
                fast_interval: seconds(2),
                down_interval: seconds(2),
                timeout: seconds(1),
                rise: 2,
                fall: 3,
                jitter: 0.1,
            }),
            agent: None,
            min_healthy: 1,
            max_ejected: 1.0,
            panic_threshold: 1.0,
            on_empty: OnEmpty::Drop,
            backends: vec![
                backend("10.0.0.11", "10.0.0.11", None, 100, BackendState::Active),
                backend("canary", "10.0.0.13", Some(8443), 5, BackendState::Active),
                backend("10.0.0.14", "10.0.0.14", None, 100, BackendState::Drain),
            ],
        }],
    }
}

#[test]
fn the_example_means_what_the_architecture_says() {
    assert_eq!(good(EXAMPLE), example());
}

#[test]
fn the_example_with_what_is_not_built_yet_is_refused_by_name() {
    let text = EXAMPLE.replace(
        "    min_healthy: 1\n",
        "    min_healthy: 1\n    limits: { per_client: { new_connections: 100/s, burst: 200 } }\n    deny: [198.51.100.0/24]\n",
    );
    let told: Vec<_> = bad(&text).list.into_iter().map(|d| d.message).collect();
    assert_eq!(told, ["`per_client` is not supported yet", "`deny` is not supported yet"]);
}

#[test]
fn what_the_example_spells_out_are_the_defaults() {
    let mut short = example();
    let body = "listen: 203.0.113.10:443
        health: { http: { port: 8080, path: /healthz } }
        backends: [{ address: 10.0.0.11 }, { name: canary, address: 10.0.0.13, port: 8443, weight: 5 }, { address: 10.0.0.14, state: drain }]";
    assert_eq!(good(&with_service(body)), short);
    short.services.clear();
    assert_eq!(good("{version: 1, node: {interfaces: eth0}, services: []}"), short);
}

#[test]
fn the_minimal_file_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/minimal.yaml");
    let model = config::load(&path).unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(model.services.len(), 1);
    assert_eq!(config::warnings(&model), Vec::<String>::new());
}

/// The file with what is commented out put in: `# key: …` and `# - {…}`. Other comments are prose.
fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        let example = rest.strip_prefix("# ").filter(|rest| {
            let word = rest.trim_start();
            let key = word.split_once(':').map_or("", |(key, _)| key);
            word.starts_with("- {")
                || (!key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b"_".contains(&b)))
        });
        format!("{indent}{}\n", example.unwrap_or(rest))
    });
    lines.collect()
}

#[test]
fn what_the_minimal_file_comments_out_are_the_defaults_and_examples_that_are_valid() {
    let (short, long) = (good(&minimal()), good(&uncommented(&minimal())));
    assert_eq!((&long.admin, &long.hash_key, long.limits), (&short.admin, &short.hash_key, short.limits));
    assert_eq!((long.node.vip_addresses, &long.node.bpf_dir), (short.node.vip_addresses, &short.node.bpf_dir));
    assert_eq!(long.node.run_dir, short.node.run_dir);
    let (long, short) = (&long.services[0], &short.services[0]);
    assert_eq!((&long.protocols, long.scheduler), (&short.protocols, short.scheduler));
    assert_eq!((long.forward, long.timeouts, long.min_healthy), (short.forward, short.timeouts, short.min_healthy));
    let check = |s: &Service| s.health.clone().unwrap();
    assert_eq!(check(long).jitter, check(short).jitter);
    let http = |s: &Service| match &check(s).checks[0].kind {
        CheckKind::Http(http) => (http.method.clone(), http.expect.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(http(long), http(short));
    assert_eq!(check(long).checks[0].port, short.backends[0].port, "the backend's own");
    assert_eq!(long.backends[2].state, BackendState::Drain);
}

#[test]
fn the_minimal_file_names_every_key_there_is() {
    let text = minimal();
    for table in schema::TABLES {
        for (name, _) in table.built() {
            assert!(text.contains(&format!("{name}:")), "`{name}` of `{}` is not in it", table.place);
        }
    }
}

const KINDS: [&str; 9] = ["tcp", "http", "https", "tls", "dns", "udp", "icmp", "grpc", "exec"];

/// Every key, most of them with a value that is not the default.
const EVERYTHING: &str = r#"
version: 1
node:
  interfaces: [eth0, { name: eth1, xdp: native }, { name: bond0.7, xdp: generic }]
  vip_addresses: external
  on_exit: detach
  bpf_dir: /sys/fs/bpf/lb
  run_dir: /run/lb
  tunnel_source: { ipv4: 192.0.2.0/24, ipv6: "2001:db8:f::/64" }
  min_ring_interval: 250ms
  weight_hysteresis: 5%
admin: { http: off }
hash_key: /etc/lb/key
limits: { flows: 2048, services: 13, backends: 65534 }
hooks:
  - { on: service, exec: [/usr/local/bin/withdraw, --fast], timeout: 500ms }
  - { webhook: "http://[2001:db8::9]:9000/sluice?node=a" }
defaults: { scheduler: maglev, forward: ipip, timeouts: { udp: 1m }, on_backend_down: drop, tracking: full, health: { fall: 5, jitter: 0%, down_interval: 5s } }
services:
  - name: dns
    listen: [203.0.113.10:53, "[2001:db8::10]:53"]
    protocol: [tcp, udp]
    scheduler: maglev
    forward: nat
    timeouts: { tcp_established: 1h, tcp_opening: 5s, tcp_closing: 1s }
    on_backend_down: reset
    udp: { mode: oneshot }
    affinity: source
    tracking: none
    limits: { flows: 1024, new_flows: 1500/s }
    health: { tcp: { address: 10.0.9.9, port: 5353 }, interval: 500ms, fast_interval: 100ms, down_interval: 1h, timeout: 100ms, rise: 1 }
    agent: { address: 10.0.9.9, port: 9999, send: 'who\n', interval: 5s, timeout: 250ms }
    min_healthy: 2
    max_ejected: 50%
    panic_threshold: 66.5%
    on_empty: fail-open
    backends:
      - { address: 10.0.0.11, port: 5353, weight: 0, state: active }
      - { address: 10.0.0.12, port: 5353, fallback: true }
      - { address: 2001:db8:1::11, port: 5353, weight: 65535 }
  - name: web
    listen: 203.0.113.10:80
    limits: { tracked_flows: 700 }
    health:
      http:
        port: 8080
        method: HEAD
        path: /live?full=1
        host: www.example.com:8080
        headers: { X-Probe: sluice, Accept: "*/*" }
        expect: [200, 204, 300-399]
        body_contains: "ok: yes"
        body_matches: 'up [0-9]+ days?$'
        address: 2001:db8:9::9
    backends: [{ address: 10.0.0.11 }]
  - name: far
    listen: ["203.0.113.10:181", "[2001:db8::10]:181"]
    forward: geneve
    tunnel: { port: 6000, vni: 77, inner_mac: 02:00:00:00:00:0a }
    backends: [{ address: 10.0.0.11 }, { address: 10.0.0.12, inner_mac: "02:00:00:00:00:0B" }]
  - name: farther
    listen: 203.0.113.10:182
    forward: gue
    tunnel: { variant: 0 }
    backends: [{ address: 2001:db8:1::11 }]
  - name: secure
    listen: 203.0.113.10:443
    health:
      https:
        address: 10.0.9.9
        port: 8443
        path: /secure
        method: GET
        host: www.example.com
        headers: { X-Probe: sluice }
        expect: 200
        body_contains: ok
        body_matches: ok
        alpn: h2
        sni: a.example
        ca: /etc/ca.pem
        verify: true
        warn_days: 30
    backends: [{ address: 10.0.0.12 }]
  - name: mail
    listen: 203.0.113.10:465
    health: { tls: { address: 10.0.9.9, port: 465, sni: mx.example, ca: /etc/ca.pem, alpn: smtp, verify: false, warn_days: 0 } }
    backends: [{ address: 10.0.0.13 }]
  - name: both
    listen: 203.0.113.10:81
    health:
      all:
        - { tcp: }
        - { http: { path: /up } }
        - { https: { port: 443 } }
        - { tls: { alpn: [h2, http/1.1] } }
        - { dns: { name: a.example } }
        - { udp: { send: '\x00\\' } }
        - { icmp: }
        - { grpc: { port: 50051 } }
        - { exec: { command: /usr/bin/true } }
      interval: 5s
    backends: [{ address: 10.0.0.14 }]
  - name: either
    listen: 203.0.113.10:82
    health: { any: [{ tcp: { port: 83 } }, { http: {} }] }
    backends: [{ address: 10.0.0.15 }]
  - name: names
    listen: 203.0.113.10:54
    protocol: udp
    health: { dns: { address: 10.0.9.9, port: 53, over: tcp, name: a.example, type: TXT, rcode: [NOERROR, NXDOMAIN], answer: v=1 } }
    backends: [{ address: 10.0.0.16 }]
  - name: game
    listen: 203.0.113.10:55
    protocol: udp
    health: { udp: { address: 10.0.9.9, port: 56, send: 'ping\r\n', expect: 'p\x6fng' } }
    backends: [{ address: 10.0.0.17 }]
  - name: pinged
    listen: 203.0.113.10:57
    protocol: udp
    health: { icmp: { address: 2001:db8:9::9 } }
    backends: [{ address: 10.0.0.18 }]
  - name: cart
    listen: 203.0.113.10:58
    health:
      grpc:
        address: 10.0.9.9
        port: 50051
        service: shop.v1.Cart
        host: cart.example
        tls: { sni: cart.example, ca: /etc/ca.pem, verify: true, warn_days: 7 }
    backends: [{ address: 10.0.0.19 }]
  - name: program
    listen: 203.0.113.10:59
    health: { exec: { command: [/usr/local/bin/check, --deep, "80"] } }
    backends: [{ address: 10.0.0.20 }]
"#;

#[test]
fn every_key_there_is_can_be_set() {
    let model = good(EVERYTHING);
    let mode = |i: usize| model.node.interfaces[i].xdp;
    assert_eq!([mode(0), mode(1), mode(2)], [XdpMode::Auto, XdpMode::Native, XdpMode::Generic]);
    assert_eq!(model.node.vip_addresses, VipAddresses::External);
    assert_eq!(model.node.on_exit, OnExit::Detach);
    assert_eq!(model.node.tunnel_source4, Some(Prefix { address: "192.0.2.0".parse().unwrap(), length: 24 }));
    assert_eq!(model.node.tunnel_source6, Some(Prefix { address: "2001:db8:f::".parse().unwrap(), length: 64 }));
    assert_eq!(model.admin, Admin { socket: "/run/lb/admin.sock".into(), http: None });
    assert_eq!(model.limits, Limits { flows: 2_048, services: 13, backends: 65_534 });
    let [dns, web, far, farther, secure, mail, both, either, others @ ..] = model.services.as_slice() else { panic!() };
    assert_eq!((dns.forward, web.forward), (Forward::Nat, Forward::Ipip));
    assert_eq!((far.forward, farther.forward), (Forward::Geneve, Forward::Gue));
    let mac = |last| Some(Mac([2, 0, 0, 0, 0, last]));
    assert_eq!(far.tunnel, Tunnel { port: 6000, vni: 77, variant: 0, inner_mac: mac(10) });
    assert_eq!(farther.tunnel, Tunnel { port: 6080, ..Tunnel::default() });
    assert_eq!([far.backends[0].inner_mac, far.backends[1].inner_mac], [mac(10), mac(11)]);
    // Tunnels reach backends of the other family, where there are none of their own.
    assert_eq!([false, true].map(|v6| far.backends_for(v6).count()), [2, 2]);
    assert_eq!([false, true].map(|v6| farther.backends_for(v6).count()), [1, 1]);
    assert_eq!([false, true].map(|v6| dns.backends_for(v6).count()), [2, 1]);
    assert_eq!([false, true].map(|v6| web.backends_for(v6).count()), [1, 1]);
    assert_eq!(dns.protocols, [Protocol::Tcp, Protocol::Udp]);
    assert_eq!(dns.timeouts.tcp_established, Duration::from_secs(3600));
    assert_eq!((dns.timeouts.udp, web.timeouts.udp), (Duration::from_secs(60), Duration::from_secs(60)));
    assert_eq!((dns.on_backend_down, web.on_backend_down), (OnBackendDown::Reset, OnBackendDown::Drop));
    assert_eq!((dns.udp, web.udp), (UdpMode::Oneshot, UdpMode::Flow));
    assert_eq!((dns.affinity, web.affinity), (Affinity::Source, Affinity::Flow));
    assert_eq!((dns.tracking, web.tracking), (Tracking::None, Tracking::Full));
    assert_eq!(dns.limits, ServiceLimits { flows: 1_024, new_flows: 1_500, tracked_flows: None });
    let limits = ServiceLimits { flows: 512, new_flows: 100_000, tracked_flows: Some(700) };
    assert_eq!(web.limits, limits, "half of what there is without the tracked ones");
    assert_eq!((model.node.min_ring_interval, model.node.weight_hysteresis), (Duration::from_millis(250), 0.05));
    let agent = Agent {
        address: Some("10.0.9.9".parse().unwrap()),
        port: 9999,
        send: b"who\n".into(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_millis(250),
    };
    assert_eq!((dns.agent.as_ref(), web.agent.as_ref()), (Some(&agent), None));
    assert_eq!((dns.max_ejected, dns.panic_threshold, dns.on_empty), (0.5, 0.665, OnEmpty::FailOpen));
    assert_eq!((web.max_ejected, web.panic_threshold, web.on_empty), (1.0, 1.0, OnEmpty::Drop));
    assert_eq!(dns.backends.iter().map(|b| b.fallback).collect::<Vec<_>>(), [false, true, false]);
    let command = ["/usr/local/bin/withdraw", "--fast"].map(Into::into).into();
    let url = Url { host: "2001:db8::9".into(), port: 9000, path: "/sluice?node=a".into() };
    let withdraw = Hook { on: vec![Subject::Service], call: Call::Exec(command), timeout: Duration::from_millis(500) };
    let post = Hook {
        on: vec![Subject::Backend, Subject::Service],
        call: Call::Webhook(url),
        timeout: Duration::from_secs(5),
    };
    assert_eq!(model.hooks, [withdraw, post]);
    let check = dns.health.as_ref().unwrap();
    let handshake = Check { kind: CheckKind::Tcp, address: Some("10.0.9.9".parse().unwrap()), port: Some(5353) };
    assert_eq!((check.checks.as_slice(), check.rise, check.fall), ([handshake].as_slice(), 1, 5));
    assert_eq!(
        (check.interval, check.timeout, check.jitter),
        (Duration::from_millis(500), Duration::from_millis(100), 0.0)
    );
    let intervals = [&check.fast_interval, &check.down_interval, &web.health.as_ref().unwrap().down_interval];
    assert_eq!(intervals.map(Duration::as_millis), [100, 3_600_000, 5_000]);
    let checks = |service: &Service| service.health.as_ref().unwrap().checks.clone();
    let CheckKind::Http(http) = &checks(web)[0].kind else { panic!() };
    assert_eq!((http.method.as_str(), http.path.as_str()), ("HEAD", "/live?full=1"));
    assert_eq!(http.host.as_deref(), Some("www.example.com:8080"));
    assert_eq!(http.headers, [("X-Probe".into(), "sluice".into()), ("Accept".into(), "*/*".into())]);
    assert_eq!(http.expect, [(200, 200), (204, 204), (300, 399)]);
    assert_eq!(http.body_contains.as_deref(), Some("ok: yes"));
    assert!(http.body_matches.as_ref().unwrap().is_match(b"up 7 days"));
    let CheckKind::Https(https) = &checks(secure)[0].kind else { panic!() };
    assert_eq!((https.alpn, https.http.path.as_str()), (HttpVersion::Http2, "/secure"));
    let options =
        TlsOptions { sni: Some("a.example".into()), ca: Some("/etc/ca.pem".into()), verify: true, warn_days: 30 };
    assert_eq!(https.tls, options);
    let CheckKind::Tls(tls) = &checks(mail)[0].kind else { panic!() };
    assert_eq!((tls.alpn.clone(), tls.tls.verify, tls.tls.warn_days), (vec!["smtp".to_owned()], false, 0));
    let names = |service: &Service| checks(service).iter().map(|check| check.kind.name()).collect::<Vec<_>>();
    assert_eq!((names(both), both.health.as_ref().unwrap().need), (KINDS.to_vec(), Need::All));
    assert_eq!((names(either), either.health.as_ref().unwrap().need), (vec!["tcp", "http"], Need::Any));
    let options = TlsOptions { sni: Some("cart.example".into()), warn_days: 7, ..options };
    let expected = [
        CheckKind::Dns(DnsCheck {
            over: Protocol::Tcp,
            name: "a.example".into(),
            record: RecordType::TXT,
            rcode: vec![Rcode::NOERROR, Rcode::NXDOMAIN],
            answer: Some("v=1".into()),
        }),
        CheckKind::Udp(UdpCheck { send: b"ping\r\n".into(), expect: b"pong".into() }),
        CheckKind::Icmp,
        CheckKind::Grpc(GrpcCheck {
            service: "shop.v1.Cart".into(),
            host: Some("cart.example".into()),
            tls: Some(options),
        }),
        CheckKind::Exec(ExecCheck { command: ["/usr/local/bin/check", "--deep", "80"].map(Into::into).into() }),
    ];
    assert_eq!(others.iter().map(|service| checks(service)[0].kind.clone()).collect::<Vec<_>>(), expected);
}

#[test]
fn a_service_without_a_health_key_is_checked_by_tcp_if_it_has_tcp() {
    let kind = |rest: &str| {
        let s = service(&format!("listen: 203.0.113.10:53\nbackends: [{{ address: 10.0.0.11 }}]\n{rest}"));
        s.health.map(|h| h.checks[0].kind.clone())
    };
    assert_eq!(kind(""), Some(CheckKind::Tcp));
    assert_eq!(kind("protocol: [udp, tcp]"), Some(CheckKind::Tcp));
    assert_eq!(kind("protocol: udp"), None);
    assert_eq!(kind("health: none"), None);
    assert_eq!(kind("health: { interval: 5s }"), Some(CheckKind::Tcp));
    assert_eq!(kind("protocol: udp\nhealth: { tcp: }"), Some(CheckKind::Tcp));
}

#[test]
fn a_timeout_nobody_set_fits_into_a_short_interval() {
    let s = service("listen: 203.0.113.10:53\nbackends: [{ address: 10.0.0.11 }]\nhealth: { interval: 200ms }");
    assert_eq!(s.health.unwrap().timeout, Duration::from_millis(200));
}

#[test]
fn unnamed_backends_are_called_by_address_and_by_port_where_that_is_shared() {
    let names = |backends: &str| -> Vec<String> {
        let text = format!(
            "listen: [203.0.113.10:80, \"[2001:db8::10]:80\"]\nbackends: [{backends}, {{ address: 10.9.9.9 }}, {{ name: z, address: 2001:db8::9 }}]"
        );
        service(&text).backends.into_iter().map(|b| b.name).filter(|n| n != "10.9.9.9" && n != "z").collect()
    };
    assert_eq!(names("{ address: 10.0.0.1, port: 81 }"), ["10.0.0.1"]);
    assert_eq!(names("{ address: 10.0.0.1, port: 81 }, { address: 10.0.0.1 }"), ["10.0.0.1:81", "10.0.0.1"]);
    assert_eq!(names("{ address: 10.0.0.1 }, { address: 10.0.0.1, port: 81 }"), ["10.0.0.1", "10.0.0.1:81"]);
    assert_eq!(names("{ address: 2001:DB8:0::1 }"), ["2001:db8::1"]);
    assert_eq!(
        names("{ address: 2001:db8::1, port: 1 }, { address: 2001:db8::1, port: 2 }"),
        ["[2001:db8::1]:1", "[2001:db8::1]:2"]
    );
    assert_eq!(
        names("{ name: 10.0.0.2, address: 10.0.0.1 }, { address: 10.0.0.2, port: 81 }"),
        ["10.0.0.2", "10.0.0.2:81"]
    );
}

#[test]
fn nat_backends_may_be_shared_where_replies_stay_unambiguous() {
    for body in [
        // A port of its own for each VIP port.
        "listen: [203.0.113.10:80, 203.0.113.10:443]\nbackends: [{ address: 10.0.0.11 }]",
        // TCP and UDP are told apart.
        "listen: 203.0.113.10:53\nprotocol: [tcp, udp]\nbackends: [{ address: 10.0.0.11, port: 5353 }]",
        // Families too.
        "listen: [203.0.113.10:80, \"[2001:db8::10]:80\"]\nbackends: [{ address: 10.0.0.11, port: 81 }, { address: 2001:db8::11, port: 81 }]",
        // Ports of a range and one beside it.
        "listen: [203.0.113.10:8000-8100, 203.0.113.10:9000-9100, 203.0.113.10:443]\nbackends: [{ address: 10.0.0.11 }]",
        // Tunnelled packets keep their VIP.
        "forward: ipip\nlisten: [203.0.113.10:80, 203.0.113.11:80]\nbackends: [{ address: 10.0.0.11 }]",
    ] {
        service(body);
    }
}

/// What is overlapped has an order, so nothing here is refused, and it is shown as it was written.
#[test]
fn services_may_listen_on_many_addresses_and_ports() {
    let listens =
        ["203.0.113.0/24:443", "203.0.113.0/25:443", "203.0.113.10:0", "203.0.113.10:400-500", "203.0.113.10:443"];
    let mut text = "version: 1\nnode: { interfaces: [eth0], vip_addresses: external }\nservices:\n".to_owned();
    for (i, listen) in listens.into_iter().chain(["'[2001:db8:f::]/64:1-65535'"]).enumerate() {
        let family = if i < listens.len() { "10.0.0.11" } else { "2001:db8::11" };
        let _ = writeln!(
            text,
            "  - {{ name: s{i}, listen: {listen}, protocol: [tcp, udp], forward: ipip, health: none, backends: [{{ address: {family} }}] }}"
        );
    }
    let model = good(&text);
    let shown: Vec<String> = model.services.iter().flat_map(|s| &s.listen).map(ToString::to_string).collect();
    assert_eq!(shown[..listens.len()], listens);
    assert_eq!(shown.last().unwrap(), "[2001:db8:f::]/64:1-65535");
    assert_eq!(good(&config::show(&model).to_string()), model);
    assert!(validator().is_valid(&as_an_editor_reads(&text).unwrap()));
}

/// Where nothing else says it, the lowest port of the first entry that has one is checked.
#[test]
fn any_port_is_no_port_to_check() {
    for (listen, port) in
        [("203.0.113.10:8000-8100", 8000), ("[203.0.113.10:0, 203.0.113.10:443]", 443), ("203.0.113.10:443", 443)]
    {
        let s = service(&format!("listen: {listen}\nbackends: [{{ address: 10.0.0.11 }}]"));
        assert_eq!(s.port_to_check(&s.backends[0]), port, "{listen}");
    }
    service("listen: 203.0.113.10:0\nhealth: { tcp: { port: 22 } }\nbackends: [{ address: 10.0.0.11 }]");
    service("listen: 203.0.113.10:0\nhealth: { icmp: {} }\nbackends: [{ address: 10.0.0.11 }]");
    service("listen: 203.0.113.10:0\nprotocol: udp\nbackends: [{ address: 10.0.0.11 }]");
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_yaml() {
    let windows = EXAMPLE.replace('\n', "\r\n");
    assert_eq!(good(&windows), example());
    assert_eq!(good(&format!("\u{feff}{windows}")), example());
    assert_eq!(good(&format!("%YAML 1.2\n---{EXAMPLE}...\n")), example());
}

#[test]
fn anchors_share_what_services_have_in_common() {
    let model = good(
        "version: 1\nnode: { interfaces: [eth0] }\nservices:
  - { name: a, listen: 203.0.113.10:80, forward: ipip, health: &check { http: { path: /up } }, backends: &pool [{ address: 10.0.0.11 }] }
  - { name: b, listen: 203.0.113.11:80, forward: ipip, health: *check, backends: *pool }\n",
    );
    let [a, b] = model.services.as_slice() else { panic!() };
    assert_eq!((&a.health, &a.backends), (&b.health, &b.backends));
}

#[test]
fn advice_is_about_what_is_valid_and_still_surprising() {
    let advice = |text: &str| config::warnings(&good(text)).join("\n");
    assert!(
        advice("{version: 1, node: {interfaces: [{name: eth0, xdp: generic}]}, services: []}").contains("no services")
    );
    assert!(advice("{version: 1, node: {interfaces: [{name: eth0, xdp: generic}]}, services: []}").contains("eth0"));
    let drained =
        "listen: 203.0.113.10:80\nbackends: [{ address: 10.0.0.11, state: drain }, { address: 10.0.0.12, weight: 0 }]";
    assert!(advice(&with_service(drained)).contains("nowhere to go"));
    let unchecked = "listen: 203.0.113.10:53\nprotocol: udp\nbackends: [{ address: 10.0.0.11 }]";
    assert!(advice(&with_service(unchecked)).contains("no health check"));

    let quotas = |first: u32, second: u32| {
        let service = |n: u32, quota: u32| {
            format!(
                "  - {{ name: s{n}, listen: '203.0.113.{n}:80', tracking: full, limits: {{ tracked_flows: {quota} }}, \
                 backends: [{{ address: 10.0.0.{n} }}] }}\n"
            )
        };
        let (first, second) = (service(1, first), service(2, second));
        advice(&format!(
            "version: 1\nnode: {{ interfaces: eth0 }}\nlimits: {{ flows: 2000 }}\nservices:\n{first}{second}"
        ))
    };
    assert_eq!(quotas(600, 400), "");
    assert!(quotas(600, 401).contains("tracked IPv4 flows add up to 1001, and there is room for 1000"));
    let alone = "listen: 203.0.113.10:53\nprotocol: udp\nudp: { mode: oneshot }\ntracking: full\nbackends: [{ address: 10.0.0.11 }]";
    assert!(advice(&with_service(alone)).contains("are no flows"));
}

// ── the file written back ──

/// The configuration as `sluice config show` prints it, and what that means.
fn shown(model: &Model) -> (Json, Model) {
    let file = config::show(model);
    let text = serde_yaml::to_string(&file).unwrap();
    let read = config::parse("shown.yaml", &text).unwrap_or_else(|d| panic!("{d}\n{}", start_of(&text)));
    (file, read)
}

#[test]
fn what_is_shown_means_the_same() {
    for text in [EXAMPLE, EVERYTHING, &minimal(), "{version: 1, node: {interfaces: eth0}, services: []}"] {
        let model = good(text);
        let (file, read) = shown(&model);
        assert_eq!(read, model, "{file:#}");
        assert_eq!(good(&file.to_string()), model, "as JSON");
        assert_eq!(config::show(&read), file);
    }
}

#[test]
fn names_that_were_not_given_are_shown_and_may_be_written_out() {
    let model = good(&with_service(
        "listen: [203.0.113.10:80, \"[2001:db8::10]:80\"]
        backends: [{ address: 10.0.0.11 }, { address: 2001:db8::11, port: 80 }, { address: 2001:db8::11, port: 81 }]",
    ));
    let (file, read) = shown(&model);
    let names: Vec<_> = (0..3).map(|i| file["services"][0]["backends"][i]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["10.0.0.11", "[2001:db8::11]:80", "[2001:db8::11]:81"]);
    assert_eq!(read, model);
    let other = with_service("listen: 203.0.113.10:80\nbackends: [{ address: 10.0.0.11, name: \"2001:db8::11\" }]");
    assert_eq!(bad(&other).list[0].message, "the name `2001:db8::11` contains `:`", "another backend's");
}

/// The values of the keys of `table`, wherever in `file` such a mapping stands.
fn places<'f>(file: &'f Json, table: &Table) -> Vec<&'f Json> {
    let mut here = vec![file];
    for step in table.place.split('.').filter(|step| !step.is_empty()) {
        let (key, list) = step.strip_suffix("[]").map_or((step, false), |key| (key, true));
        here = here.into_iter().filter_map(|place| place.get(key)).collect();
        if list {
            here = here.into_iter().flat_map(|place| place.as_array().unwrap()).collect();
        }
    }
    here
}

/// One list of keys: what is shown has them all, but for `defaults`, which are filled in.
#[test]
fn every_key_there_is_is_shown_and_what_is_absent_means_what_the_tables_say() {
    let full = shown(&good(EVERYTHING)).0;
    let bare = |check: &str| {
        let text = with_service(&format!(
            "listen: 203.0.113.10:80\nhealth: {{ {check} }}\nbackends: [{{ address: 10.0.0.11 }}]"
        ));
        shown(&good(&text)).0
    };
    let bare = ["http: {}", "https: {}", "tls: {}", "dns: { name: a.example }", "grpc: { tls: {} }"].map(bare);
    let mut defaults = 0;
    for table in schema::TABLES.iter().filter(|table| !table.place.starts_with("defaults")) {
        for (name, entry) in table.built().filter(|(name, _)| *name != "defaults") {
            let key = format!("{}.{name}", table.place);
            assert!(places(&full, table).iter().any(|place| place.get(name).is_some()), "{key} is not shown");
            let Absent::Is(default) = entry.absent else { continue };
            for place in bare.iter().flat_map(|file| places(file, table)) {
                // A list of one may be written without its brackets, and here it is not.
                let value = if let Json::Array(one) = &place[name] { &one[0] } else { &place[name] };
                let written = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                assert_eq!(written, default, "{key}");
                defaults += 1;
            }
        }
    }
    assert!(defaults > 20, "{defaults} defaults compared");
}

// ── the JSON Schema ──

fn validator() -> jsonschema::Validator {
    jsonschema::draft202012::new(&config::json_schema::generate()).expect("the schema is one")
}

/// As an editor reads the file: YAML's own numbers and truth values, not Sluice's.
fn as_an_editor_reads(text: &str) -> Option<Json> {
    serde_yaml::from_str(text).ok()
}

#[test]
fn the_schema_is_the_one_that_is_checked_in() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/sluice.schema.json");
    let text = config::json_schema::text();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = checked_in.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(
        checked_in == text,
        "sluice.schema.json differs from line {} on; write it again:\n\
         cargo run -p lb-userspace -- config schema > deploy/config/sluice.schema.json",
        differs.unwrap_or_default() + 1
    );
}

#[test]
fn the_schema_is_valid_by_the_rules_of_its_draft() {
    let schema = config::json_schema::generate();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    if let Err(wrong) = jsonschema::draft202012::meta::validate(&schema) {
        panic!("{wrong}");
    }
}

#[test]
fn good_files_satisfy_the_schema() {
    let odd = with_service(
        "name: 7\nlisten: 203.0.113.10:080\nhealth: { tcp: , jitter: 50% }\nbackends: [{ name: true, address: 10.0.0.11 }]",
    )
    .replace("- name: web\n", "-\n");
    let validator = validator();
    for text in [EXAMPLE, EVERYTHING, &minimal(), &odd, "{version: 1, node: {interfaces: 7}, services: []}"] {
        let model = good(text);
        for file in [as_an_editor_reads(text).unwrap(), config::show(&model)] {
            let wrong: Vec<_> = validator.iter_errors(&file).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert_eq!(wrong, Vec::<String>::new(), "{file:#}");
        }
    }
}

/// Bad files whose mistakes no schema can see, because they are between two values, or in how the YAML is written.
const BEYOND_A_SCHEMA: &[&str] = &[
    // Two values.
    "admin-http-on-a-vip",
    "backends-dsr-families",
    "backends-duplicate",
    "backends-families",
    "backends-ipip-port",
    "backends-is-a-vip",
    "backends-in-a-prefix",
    "admin-http-in-a-prefix",
    "limits-too-many-blocks",
    "limits-too-many-prefixes",
    "nat-ranges-one-backend",
    "service-listen-prefix-managed",
    "service-listen-wide",
    "service-overlap-ranges",
    "limits-too-many",
    "limits-too-many-endpoints",
    "limits-too-many-nat-replies",
    "nat-one-service-two-ports",
    "nat-one-service-two-vips",
    "nat-two-services-one-backend",
    "service-health-defaults-do-not-fit",
    "service-health-udp-timing-only",
    "service-limits-too-many-flows",
    "service-limits-tracked-flows",
    "service-listen-twice",
    "service-min-healthy",
    "service-only-for-a-protocol",
    "service-overlap",
    // Addresses of the right form that no packet is for.
    "backends-addresses",
    "node-tunnel-source-loopback",
    "service-listen-addresses",
    // Gone by the time the file is data.
    "file-bom-inside",
    "yaml-duplicate-keys",
];

#[test]
fn bad_files_violate_the_schema_but_for_what_it_cannot_see() {
    let validator = validator();
    let (mut refused, mut accepted) = (0, Vec::new());
    for path in cases() {
        // An editor has no use for a schema before the file is YAML.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let Some(file) = as_an_editor_reads(&text) else { continue };
        match validator.is_valid(&file) {
            true => accepted.push(path.file_stem().unwrap().to_str().unwrap().to_owned()),
            false => refused += 1,
        }
    }
    let mut beyond = BEYOND_A_SCHEMA.to_vec();
    beyond.sort_unstable();
    accepted.sort_unstable();
    assert_eq!(accepted, beyond, "accepted by the schema");
    assert!(refused >= 40, "{refused} refused");
}

/// A value at the edge of what a key takes, and one beyond it, told by the loader and by the schema alike.
#[test]
fn the_schema_and_the_loader_agree_on_every_bound_and_word() {
    let validator = validator();
    let mut compared = 0;
    for table in schema::TABLES {
        for (name, entry) in table.built() {
            let values: Vec<(String, bool)> = match entry.value {
                Value::Integer(low, high) => vec![
                    (low.to_string(), true),
                    (high.to_string(), true),
                    ((i64::from(low) - 1).to_string(), false),
                    ((i64::from(high) + 1).to_string(), false),
                ],
                Value::Percent(most) => {
                    vec![("0%".into(), true), (format!("{most}%"), true), (format!("{most}.5%"), false)]
                }
                Value::Choice(choice) => choice.words.iter().map(|w| (w.name.into(), w.until_then.is_none())).collect(),
                Value::OneOrMany(Value::Choice(choice)) => {
                    choice.words.iter().map(|w| (format!("[{}]", w.name), w.until_then.is_none())).collect()
                }
                Value::Path => vec![("/a b/é".into(), true), ("a/b".into(), false), ("\"\"".into(), false)],
                _ => continue,
            };
            for (value, valid) in values {
                let text = with_key(table.place, name, &value);
                let schema = validator.is_valid(&as_an_editor_reads(&text).unwrap());
                assert_eq!(schema, valid, "the schema on\n{text}");
                // What takes two values to see is not looked at: whether the key itself is complained of.
                let place = |d: &config::Diagnostic| d.path.ends_with(name) || d.path.contains(&format!("{name}["));
                let told = config::parse("f", &text).err().map(|d| d.list).unwrap_or_default();
                let two_values = [
                    "healthy backends are wanted",
                    "flows, and there is room for",
                    "tracks no flows",
                    "no meaning with",
                ];
                let refused =
                    told.iter().any(|d| place(d) && two_values.iter().all(|words| !d.message.contains(words)));
                assert_eq!(!refused, valid, "the loader on\n{text}\n{told:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 60, "{compared} values compared");
}

/// A file that is right but for `value` under `name` at `place`, as [`Table::place`] writes it.
fn with_key(place: &str, name: &str, value: &str) -> String {
    let key = format!("{name}: {value}");
    let node = match place {
        "node" => format!("{{ interfaces: [eth0], {key} }}"),
        "node.interfaces[]" => format!("{{ interfaces: [{{ name: eth0, {key} }}] }}"),
        _ => "{ interfaces: [eth0] }".to_owned(),
    };
    let top = match place {
        "" => key.clone(),
        "admin" | "limits" | "defaults" => format!("{place}: {{ {key} }}"),
        "hooks[]" => format!("hooks: [{{ exec: [/bin/true], {key} }}]"),
        "defaults.health" => format!("defaults: {{ health: {{ {key} }} }}"),
        _ => String::new(),
    };
    let service = match place {
        "services[]" => key.clone(),
        "services[].timeouts" => format!("timeouts: {{ {key} }}"),
        "services[].limits" => format!("limits: {{ {key} }}"),
        "services[].tunnel" => format!("forward: gue\n    tunnel: {{ {key} }}"),
        "services[].agent" if name == "port" => format!("agent: {{ {key} }}"),
        "services[].agent" => format!("agent: {{ port: 9999, {key} }}"),
        "services[].udp" => format!("protocol: udp\n    udp: {{ {key} }}"),
        "services[].health" => format!("health: {{ {key} }}"),
        "services[].health.all[]" => format!("health: {{ all: [{{ {key} }}] }}"),
        _ => match place.strip_prefix("services[].health.") {
            Some(kind) => {
                // What such a check cannot do without.
                let required = match kind {
                    "dns" => "name: a.example",
                    "udp" => "send: ping",
                    "exec" => "command: /bin/true",
                    _ => "",
                };
                let alone = required.is_empty() || required.starts_with(name);
                let keys = if alone { key.clone() } else { format!("{required}, {key}") };
                let check = kind.rsplit('.').fold(keys, |inside, key| format!("{key}: {{ {inside} }}"));
                format!("health: {{ {check} }}")
            }
            None => String::new(),
        },
    };
    let backend = if place == "services[].backends[]" { format!(", {key}") } else { String::new() };
    format!(
        "version: 1\nnode: {node}\n{top}\nservices:\n  - name: web\n    listen: 203.0.113.10:80\n    {service}\n    \
         backends: [{{ address: 10.0.0.11{backend} }}]\n"
    )
}

// ── size and hostility ──

/// Reorders what a terminal shows; must not come through.
const HIDING: char = '\u{202e}';

/// Processor time, so that a busy machine does not matter; generous, because debug builds are slow. What it
/// guards against (work that grows with the square of the file) takes minutes.
const PATIENCE: Duration = Duration::from_secs(30);

fn timed<T>(what: &str, f: impl FnOnce() -> T) -> T {
    let clock = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("threads have a clock"));
    let start = clock();
    let result = f();
    let took = clock() - start;
    assert!(took < PATIENCE, "{what} took {took:?}");
    result
}

#[test]
fn the_largest_pool_is_read_in_reasonable_time() {
    let mut text = "limits: { backends: 65534 }\n".to_owned() + &with_service("listen: 203.0.113.10:80\nbackends:");
    for i in 0..65_534u32 {
        let [_, _, c, d] = i.to_be_bytes();
        let _ = writeln!(text, "      - {{ name: b{i}, address: 10.0.{c}.{d}, port: 8080, weight: 7, state: active }}");
    }
    let model = timed("the largest pool", || good(&text));
    assert_eq!(model.services[0].backends.len(), 65_534);
}

#[test]
fn hostile_files_are_answered_in_reasonable_time() {
    let head = "version: 1\nnode: { interfaces: [eth0] }\n";
    let many = |unit: &str, n: usize| unit.repeat(n);
    let numbered = |n: usize, f: fn(usize) -> String| (0..n).map(f).collect::<String>();
    let files: Vec<(&str, String)> = vec![
        ("brackets", many("[", 1 << 19)),
        ("braces", many("{", 1 << 19)),
        ("dashes", many("- ", 1 << 19)),
        ("question marks", many("? ", 1 << 19)),
        ("colons", many(": ", 1 << 19)),
        ("one key", format!("{}: 1", many("x", 2 << 20))),
        ("one explicit key", format!("? {}\n: 1", many("x", 2 << 20))),
        ("one quoted text", format!("{head}hash_key: \"{}\"\nservices: []", many("\\n", 1 << 20))),
        ("one long value", format!("{head}hash_key: {}\nservices: []", many("/x", 1 << 20))),
        ("line ends", many("\n", 2 << 20)),
        ("comments", many("# x\n", 1 << 19)),
        ("spaces", many(" ", 2 << 20)),
        ("open quote", format!("\"{}", many("x\n", 1 << 19))),
        ("anchors", numbered(100_000, |i| format!("- &a{i} x\n"))),
        ("tags", many("- !x y\n", 150_000)),
        ("unknown keys", format!("{head}services: []\n{}", numbered(100_000, |i| format!("k{i}: 1\n")))),
        ("duplicate keys", format!("{head}services: []\n{}", many("k: 1\n", 100_000))),
        ("services", format!("{head}services:\n{}", numbered(100_000, |i| format!("  - {{ name: s{i} }}\n")))),
        ("listens", format!("{head}services:\n  - name: a\n    listen:\n{}", many("      - 1.2.3.4:5\n", 150_000))),
        (
            "backends",
            format!("{head}services:\n  - name: a\n    backends:\n{}", many("      - address: 1.2.3.4\n", 100_000)),
        ),
        ("interfaces", format!("version: 1\nservices: []\nnode:\n  interfaces:\n{}", many("    - eth0\n", 100_000))),
        ("documents", many("---\n", 1 << 19)),
        ("not ASCII", format!("{head}services: [{}", many("ä, ", 250_000))),
    ];
    for (what, text) in files {
        let diagnostics = timed(what, || bad(&text));
        let told = timed(what, || diagnostics.to_string());
        assert!(told.len() < 200_000, "{what} is told {} bytes", told.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Err(diagnostics) = config::parse_bytes("f", &bytes) {
            prop_assert!(!diagnostics.to_string().is_empty());
            prop_assert!(diagnostics.to_json().is_object());
        }
    }

    #[test]
    fn random_yaml_like_text_never_panics(text in "([ \t\n:,\\[\\]{}\"'#&*!|>%@?-]|[a-c0-9é]|::|\\]:|version: 1\n|services:\n|  - ){0,80}") {
        if let Err(diagnostics) = config::parse("f", &text) {
            prop_assert!(!diagnostics.to_string().is_empty());
        }
    }

    #[test]
    fn a_mutated_file_is_either_valid_or_refused_with_reasons(
        file in 0..200usize,
        edits in proptest::collection::vec((any::<u16>(), 0..4u8, "[ -~éä\u{202e}\n\t\r]{0,6}"), 1..6),
    ) {
        static FILES: LazyLock<Vec<Vec<u8>>> =
            LazyLock::new(|| cases().iter().map(|path| std::fs::read(path).unwrap()).collect());
        let mut bytes = FILES.get(file).cloned().unwrap_or_else(|| EXAMPLE.as_bytes().to_vec());
        for (place, what, text) in &edits {
            let place = usize::from(*place) % (bytes.len() + 1);
            let until = (place + text.len() * usize::from(*what)).min(bytes.len());
            match what {
                0 => drop(bytes.splice(place..place, text.bytes())),
                1 => drop(bytes.splice(place..until, text.bytes())),
                2 => drop(bytes.drain(place..until)),
                _ => bytes.truncate(bytes.len() - place / 8),
            }
        }
        match config::parse_bytes("f", &bytes) {
            Ok(model) => {
                drop(config::warnings(&model));
                let (file, read) = shown(&model);
                prop_assert_eq!(read, model);
                static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(validator);
                prop_assert!(VALIDATOR.is_valid(&file), "{:#}", file);
            }
            Err(diagnostics) => {
                prop_assert!(diagnostics.count() > 0);
                let told = diagnostics.to_string();
                prop_assert!(!told.contains(HIDING), "{}", told);
            }
        }
    }

    #[test]
    fn spaces_around_it_do_not_change_what_a_file_means(
        before in "(\n|# c\n|  \n){0,4}",
        after in "(\n|# c\n|  \n){0,4}",
        end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
    ) {
        let text = format!("{before}{}{after}", EXAMPLE.trim_start()).replace('\n', end);
        prop_assert_eq!(config::parse("f", &text).ok(), Some(example()));
    }

    #[test]
    fn the_place_is_right_whatever_stands_before_it(
        pad in "[a-zé漢 ]{0,120}",
        lines in 0..50usize,
        end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
    ) {
        let before = format!("node: {{ interfaces: [eth0], \"{pad}?\": 1, ");
        let text = format!("{}version: 1\nservices: []\n{before}oops: 2 }}\n", "# é\n\n".repeat(lines));
        let diagnostics = bad(&text.replace('\n', end));
        prop_assert_eq!(diagnostics.count(), 2);
        let position = diagnostics.list[1].position.clone().unwrap();
        prop_assert_eq!(position.line as usize, 2 * lines + 3);
        prop_assert_eq!(position.column as usize, before.chars().count() + 1);
        let marked: String =
            position.source.chars().skip(position.caret as usize).take(position.width as usize).collect();
        prop_assert_eq!(marked, "oops");
    }
}
