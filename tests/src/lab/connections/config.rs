//! The configuration of a site's nodes: one service with any number of backends, written as a person would.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::site::{Node, Numbering, VIP};
use super::{PORT, PROBE_PORT};
use crate::lab::Pair;

/// The service's name.
pub const SERVICE: &str = "echo";

/// What a backend's line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub weight: u32,
    pub drain: bool,
}

/// What to write. Change what a step is about, then [`Self::yaml`].
#[derive(Clone, Debug)]
pub struct Config {
    /// By number, see [`Numbering`].
    pub backends: BTreeMap<u16, Line>,
    /// Backends from this number on have no IPv6 address.
    pub dual_stack: u16,
    /// `nat` or `ipip`.
    pub forward: &'static str,
    /// How long a TCP connection may be silent; the default if `None`.
    pub timeout: Option<Duration>,
    pub interval: Duration,
    pub fall: u32,
    /// `managed` or `external`.
    pub vip_addresses: &'static str,
    pub min_ring_interval: Duration,
    /// The service's part of the flow tables; the default if `None`.
    pub flows: Option<u32>,
    /// `auto`, `full` or `none`.
    pub tracking: &'static str,
    /// `flow` or `source`.
    pub affinity: &'static str,
    /// The fleet's secret: nodes of a site share it.
    pub hash_key: PathBuf,
}

impl Config {
    /// Backends 0 to `count` - 1, all alike.
    pub fn new(site_dir: &Path, count: u16) -> Self {
        let mut config = Self {
            backends: BTreeMap::new(),
            dual_stack: 200,
            forward: "nat",
            timeout: None,
            interval: Duration::from_secs(2),
            fall: 3,
            vip_addresses: "managed",
            min_ring_interval: Duration::from_secs(1),
            flows: None,
            tracking: "auto",
            affinity: "flow",
            hash_key: site_dir.join("hash.key"),
        };
        config.add(0..count);
        config
    }

    pub fn add(&mut self, numbers: impl IntoIterator<Item = u16>) {
        self.backends.extend(numbers.into_iter().map(|n| (n, Line { weight: 100, drain: false })));
    }

    /// The line of a backend that is there.
    pub fn line(&mut self, number: u16) -> &mut Line {
        self.backends.get_mut(&number).unwrap_or_else(|| panic!("no backend {number} is configured"))
    }

    /// A backend's names, of its IPv4 and its IPv6 entry.
    pub fn names(number: u16) -> [String; 2] {
        [format!("n{number}"), format!("n{number}-v6")]
    }

    /// A backend's addresses. In a tunnel the inner packet keeps the VIP, so the host itself is the backend.
    pub fn address(&self, number: u16) -> Pair {
        if self.forward == "nat" { Numbering::address(number) } else { Numbering::host_address(number.into()) }
    }

    pub fn yaml(&self, node: &Node) -> String {
        let Self { forward, fall, vip_addresses, hash_key, interval, affinity, tracking, .. } = self;
        let (bpf_dir, dir) = (node.bpf_dir.display(), node.dir.display());
        let interval = interval.as_millis();
        let Pair { v4, v6 } = VIP;
        let mut yaml = format!(
            "version: 1\n\
             node:\n\
             \x20 interfaces: [eth0, eth1]\n\
             \x20 vip_addresses: {vip_addresses}\n\
             \x20 min_ring_interval: {}ms\n\
             \x20 bpf_dir: {bpf_dir}\n\
             \x20 run_dir: {dir}/run\n\
             admin: {{ socket: {dir}/admin.sock, http: 127.0.0.1:9480 }}\n\
             hash_key: {}\n\
             services:\n\
             \x20 - name: {SERVICE}\n\
             \x20   listen: [\"{v4}:{PORT}\", \"[{v6}]:{PORT}\"]\n\
             \x20   protocol: tcp\n\
             \x20   forward: {forward}\n\
             \x20   affinity: {affinity}\n\
             \x20   tracking: {tracking}\n\
             \x20   health: {{ tcp: {{ port: {PROBE_PORT} }}, interval: {interval}ms, timeout: {}ms, fall: {fall} }}\n",
            self.min_ring_interval.as_millis(),
            hash_key.display(),
            interval.min(1000),
        );
        if let Some(timeout) = self.timeout {
            // Opening and closing last no longer, so that this one is what a row waits for.
            let seconds = timeout.as_secs();
            let _ = writeln!(
                yaml,
                "    timeouts: {{ tcp_established: {seconds}s, tcp_opening: {0}s, tcp_closing: {0}s }}",
                seconds.min(10)
            );
        }
        if let Some(flows) = self.flows {
            let _ = writeln!(yaml, "    limits: {{ flows: {flows} }}");
        }
        yaml += "    backends:\n";
        for (&number, &Line { weight, drain }) in &self.backends {
            let Pair { v4, v6 } = self.address(number);
            let state = if drain { "drain" } else { "active" };
            let [name4, name6] = Self::names(number);
            let _ = writeln!(yaml, "      - {{ name: {name4}, address: {v4}, weight: {weight}, state: {state} }}");
            if number < self.dual_stack {
                let _ =
                    writeln!(yaml, "      - {{ name: {name6}, address: \"{v6}\", weight: {weight}, state: {state} }}");
            }
        }
        yaml
    }
}
