//! What health checks cost, and how fast their verdicts arrive: figures with limits, measured on the running binary.
//!
//! Only where they are asked for, because no suite should depend on how fast a machine is today. The limits are those of a
//! release build:
//!
//! ```sh
//! cargo xtask build && SLUICE_FIGURES=1 SLUICE_BIN=$PWD/target/release/sluice cargo xtask test health_figures
//! ```
//!
//! Otherwise a fiftieth of the load shows that it works, and figures are printed and not looked at. CPU time is the controller's own, but the way of a verdict is time on the wall: measure on a host that has
//! nothing else to do. Needs root, as the other tests of the lab do.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lb_tests::lab::Lab;
use lb_tests::lab::config::Config;
use lb_tests::lab::daemon::{Daemon, Launcher};
use sluice::api::types::{Health, Status};

/// At most this part of one core for 10,000 TCP checks a second …
const CPU: f64 = 0.35;
/// … and this much memory, in MiB.
const MEMORY: f64 = 150.0;
/// From a verdict to the kernel's ring, for 99 of 100.
const APPLIED: f64 = 0.05;

/// Whether figures are asked for.
fn measures() -> bool {
    std::env::var_os("SLUICE_FIGURES").is_some()
}

/// Ports on the loopback of the balancer's host that take every connection and end it.
fn servers(lab: &Lab, ports: std::ops::Range<u16>) {
    for port in ports {
        let listener = lab.lb.run(move || TcpListener::bind(("127.0.0.1", port))).unwrap().unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
}

/// One at a time: they are about the same CPUs.
static ALONE: Mutex<()> = Mutex::new(());

/// A figure of `/proc/PID/status`, in KiB.
fn memory(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").trim().parse().unwrap()
}

/// Seconds of CPU that a process has taken (proc_pid_stat(5), fields 14 and 15).
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).map(|n| n.parse().unwrap()).collect();
    // SAFETY: sysconf takes and gives numbers.
    (ticks[0] + ticks[1]) / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

fn made(status: &Status) -> u64 {
    status.services.iter().map(|s| s.checks.passed + s.checks.failed).sum()
}

#[test]
#[ignore = "needs root"]
fn ten_thousand_tcp_checks_a_second_cost_little() {
    const SERVICES: usize = 10;
    let (each, seconds) = if measures() { (1_000, 20) } else { (20, 5) };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::new().unwrap();
    // Every check leaves a socket in TIME_WAIT.
    lab.lb.sysctl(&[("net/ipv4/ip_local_port_range", "10000 65000"), ("net/ipv4/tcp_tw_reuse", "1")]).unwrap();
    servers(&lab, 7_000..7_000 + SERVICES as u16);
    let mut config = Config::new(&lab);
    for service in 0..SERVICES {
        let port = 7_000 + service;
        config.appendix += &format!(
            "  - name: many-{service}\n    listen: 198.51.100.100:{port}\n    \
             health: {{ tcp: {{ address: 127.0.0.1, port: {port} }}, interval: 1s, timeout: 500ms }}\n    backends:\n"
        );
        for backend in 0..each {
            let (high, low) = (backend / 250, backend % 250 + 1);
            config.appendix += &format!("      - {{ address: 10.{}.{high}.{low}, port: 80 }}\n", 50 + service);
        }
    }
    let yaml = config.yaml().replace("defaults:\n", "limits: { backends: 12000, flows: 65536 }\ndefaults:\n");
    let mut daemon = Daemon::spawn(&lab, Launcher::beside_us().unwrap(), &yaml).unwrap();
    let all_up = |status: &Status| status.services.iter().flat_map(|s| &s.backends).all(|b| b.health == Health::Up);
    daemon.wait("every backend is up", Duration::from_secs(60), all_up).unwrap();
    std::thread::sleep(Duration::from_secs(3));

    let pid = daemon.pid();
    let (before, start, used) = (daemon.status().unwrap(), Instant::now(), cpu(pid));
    std::thread::sleep(Duration::from_secs(seconds));
    let (used, took) = (cpu(pid) - used, start.elapsed().as_secs_f64());
    let after = daemon.status().unwrap();
    let rate = (made(&after) - made(&before)) as f64 / took;
    let (resident, anonymous) = (memory(pid, "VmRSS") / 1024.0, memory(pid, "RssAnon") / 1024.0);
    let late = &after.checks_late;
    let soon = late.buckets.iter().find(|(bound, _)| *bound == 0.005).unwrap().1 as f64 / late.count as f64;
    let part = used / took;
    println!(
        "{rate:.0} TCP checks/s for {took:.0} s: {:.1} % of one core, {resident:.0} MiB resident ({anonymous:.0} anonymous), \
         {:.2} % of checks began within 5 ms of their time",
        part * 100.0,
        soon * 100.0
    );
    assert!(made(&after) > made(&before), "checks go on");
    if !measures() {
        return;
    }
    assert!(rate > 0.95 * (SERVICES * each) as f64, "{rate:.0} checks a second");
    assert!(after.services.iter().all(|s| s.checks.failed == 0), "no server failed");
    assert!(part <= CPU, "{:.1} % of one core, at most {:.0} %", part * 100.0, CPU * 100.0);
    assert!(resident <= MEMORY, "{resident:.0} MiB, at most {MEMORY}");
}

#[test]
#[ignore = "needs root"]
fn a_verdict_is_in_the_kernels_ring_at_once() {
    let backends: u16 = if measures() { 200 } else { 20 };
    let deaths = usize::from(backends) * 3 / 4;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::new().unwrap();
    let ports = 7_000..7_000 + backends;
    let bind = |port: u16| {
        let listener = lab.lb.run(move || TcpListener::bind(("127.0.0.1", port))).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    let listeners: Vec<Option<TcpListener>> = ports.clone().map(|port| Some(bind(port))).collect();
    let listeners = Arc::new(Mutex::new(listeners));
    let served = Arc::clone(&listeners);
    std::thread::spawn(move || {
        loop {
            for listener in served.lock().unwrap().iter().flatten() {
                while listener.accept().is_ok() {}
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let mut config = Config::new(&lab);
    config.appendix = format!(
        "  - name: pool\n    listen: 198.51.100.100:7000\n    health: {{ tcp: {{ address: 127.0.0.1 }}, interval: 100ms, timeout: 100ms, rise: 1, \
         fall: 1 }}\n    backends:\n{}",
        ports.map(|port| format!("      - {{ address: 10.50.0.1, port: {port} }}\n")).collect::<String>()
    );
    let mut daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &config.yaml()).unwrap();
    // One after the other, so that each is a change of its own.
    for i in 0..deaths {
        listeners.lock().unwrap()[i] = None;
        std::thread::sleep(Duration::from_millis(110));
    }
    let dead = |status: &Status| {
        let pool = status.services.iter().find(|s| s.name == "pool").unwrap();
        pool.backends.iter().filter(|b| b.health == Health::Down && b.share == 0.0).count() >= deaths
    };
    let status = daemon.wait("they are out", Duration::from_secs(60), dead).unwrap();
    let applied = &status.deaths_applied;
    let within =
        |bound: f64| applied.buckets.iter().find(|(b, _)| *b == bound).unwrap().1 as f64 / applied.count as f64;
    println!(
        "{} deaths of {backends} backends: {:.2} ms from verdict to ring on average, {:.1} % within 10 ms, {:.1} % within 50 ms",
        applied.count,
        applied.sum_seconds / applied.count as f64 * 1e3,
        within(0.01) * 100.0,
        within(APPLIED) * 100.0
    );
    assert!(applied.count >= deaths as u64);
    assert!(!measures() || within(APPLIED) >= 0.99, "{applied:?}");
}
