//! The configuration file a lab's Sluice runs on, as a person would write it.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::servers::{DNS_PORT, HTTP_PORT};
use super::{Lab, Pair, TUNNEL_VIP, VIP};

/// A backend's name, its address and its weight.
#[derive(Clone, Debug)]
struct Row {
    name: &'static str,
    address: Pair,
    weight: u32,
}

/// What to write. Change what a test is about, then [`Self::yaml`].
#[derive(Clone, Debug)]
pub struct Config {
    rows: Vec<Row>,
    bpf_dir: PathBuf,
    dir: PathBuf,
    /// Milliseconds between two checks of a backend.
    pub interval_ms: u64,
    pub rise: u32,
    pub fall: u32,
    /// `auto`, `native` or `generic`.
    pub xdp: &'static str,
    /// Adds services that tunnel to the backends: `tunnel-web` on [`TUNNEL_VIP`].
    pub tunnel: bool,
    /// Appended as it is, to make a file wrong or odd.
    pub appendix: String,
}

impl Config {
    /// Web and DNS on [`VIP`], both families, weights 1:1:2. All state is the lab's own, so that it runs beside an
    /// installed Sluice.
    pub fn new(lab: &Lab) -> Self {
        let weights = [100, 100, 200];
        let rows = lab.backends.iter().zip(weights).map(|(b, weight)| Row { name: b.name, address: b.address, weight });
        Self {
            rows: rows.collect(),
            bpf_dir: lab.bpf_dir(),
            dir: lab.dir().to_owned(),
            interval_ms: 200,
            rise: 2,
            fall: 2,
            xdp: "auto",
            tunnel: false,
            appendix: String::new(),
        }
    }

    pub fn set_weight(&mut self, backend: &str, weight: u32) {
        for row in self.rows.iter_mut().filter(|r| r.name == backend) {
            row.weight = weight;
        }
    }

    /// Name and weight of each backend.
    pub fn weights(&self) -> Vec<(&'static str, u32)> {
        self.rows.iter().map(|r| (r.name, r.weight)).collect()
    }

    /// Each backend's share by weight, leaving out those that are not `up`.
    pub fn shares(&self, up: impl Fn(&str) -> bool) -> Vec<(&'static str, f64)> {
        let weight = |r: &Row| if up(r.name) { f64::from(r.weight) } else { 0.0 };
        let sum: f64 = self.rows.iter().map(weight).sum();
        self.rows.iter().map(|r| (r.name, weight(r) / sum)).collect()
    }

    pub fn yaml(&self) -> String {
        let Self { bpf_dir, dir, interval_ms, rise, fall, xdp, .. } = self;
        let (bpf_dir, dir) = (bpf_dir.display(), dir.display());
        let mut yaml = format!(
            "version: 1\n\
             node:\n\
             \x20 interfaces: [{{ name: eth0, xdp: {xdp} }}, {{ name: eth1, xdp: {xdp} }}]\n\
             \x20 bpf_dir: {bpf_dir}\n\
             \x20 run_dir: {dir}/run\n\
             admin: {{ socket: {dir}/admin.sock, http: 127.0.0.1:9480 }}\n\
             hash_key: {dir}/hash.key\n\
             defaults:\n\
             \x20 health: {{ interval: {interval_ms}ms, timeout: {interval_ms}ms, rise: {rise}, fall: {fall} }}\n\
             services:\n"
        );
        let http = format!("http: {{ port: {HTTP_PORT}, path: /healthz }}");
        self.service(&mut yaml, "web", VIP, 80, "protocol: tcp", &http, Some(HTTP_PORT));
        self.service(
            &mut yaml,
            "dns",
            VIP,
            53,
            "protocol: udp",
            &format!("tcp: {{ port: {DNS_PORT} }}"),
            Some(DNS_PORT),
        );
        if self.tunnel {
            // A tunnel leaves the inner packet as it is, so the port is the one the backends listen on.
            let tunnel = "protocol: tcp\n    forward: ipip";
            self.service(&mut yaml, "tunnel-web", TUNNEL_VIP, HTTP_PORT, tunnel, &http, None);
        }
        yaml + &self.appendix
    }

    fn service(&self, yaml: &mut String, name: &str, vip: Pair, listen: u16, how: &str, check: &str, to: Option<u16>) {
        let Pair { v4, v6 } = vip;
        let port = to.map_or(String::new(), |p| format!(", port: {p}"));
        let _ = write!(
            yaml,
            "  - name: {name}\n    listen: [\"{v4}:{listen}\", \"[{v6}]:{listen}\"]\n    {how}\n\
             \x20   health: {{ {check} }}\n    backends:\n"
        );
        for Row { name, address: Pair { v4, v6 }, weight } in &self.rows {
            let _ = writeln!(yaml, "      - {{ name: {name}, address: {v4}{port}, weight: {weight} }}");
            let _ = writeln!(yaml, "      - {{ name: {name}-v6, address: \"{v6}\"{port}, weight: {weight} }}");
        }
    }
}
