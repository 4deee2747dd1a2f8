//! The configuration file a lab's Sluice runs on, as a person would write it.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::servers::{DNS_PORT, HTTP_PORT};
use super::upload::UPLOAD_PORT;
use super::{BACKENDS, Lab, Pair, TUNNEL_VIP, VIP, slowness};

/// A backend's name, its address and its weight.
#[derive(Clone, Debug)]
struct Row {
    name: &'static str,
    address: Pair,
    weight: u32,
}

/// A service whose backends answer clients themselves.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    /// Lines of the file: `forward: …`.
    pub forward: &'static str,
    pub over: Over,
}

impl Direct {
    pub const IPIP: Self = Self { forward: "forward: ipip", over: Over::Own };
}

/// By which addresses backends are in the file: a VIP that has none of its own family is served through the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Own,
    V4,
    V6,
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
    /// More interfaces than the lab's two: `, eth9`.
    pub interfaces: &'static str,
    /// Adds a service whose backends answer directly: `tunnel-web` on [`TUNNEL_VIP`].
    pub tunnel: Option<Direct>,
    /// With [`Self::tunnel`], another service of its kind: `uploads` on [`UPLOAD_PORT`].
    pub uploads: bool,
    /// `keep` or `detach`.
    pub on_exit: &'static str,
    /// Appended as it is, to make a file wrong or odd.
    pub appendix: String,
}

impl Config {
    /// Web and DNS on [`VIP`], both families, weights 1:1:2. All state is the lab's own, so that it runs beside an
    /// installed Sluice.
    pub fn new(lab: &Lab) -> Self {
        Self::at(lab.dir().to_owned(), lab.bpf_dir())
    }

    pub(crate) fn at(dir: PathBuf, bpf_dir: PathBuf) -> Self {
        let weights = [100, 100, 200];
        let rows = BACKENDS.into_iter().zip(weights).map(|((name, address), weight)| Row { name, address, weight });
        Self {
            rows: rows.collect(),
            bpf_dir,
            dir,
            interval_ms: 200 * u64::from(slowness()),
            rise: 2,
            fall: 2,
            xdp: "auto",
            interfaces: "",
            tunnel: None,
            uploads: false,
            on_exit: "keep",
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
        let Self { bpf_dir, dir, interval_ms, rise, fall, xdp, interfaces, on_exit, .. } = self;
        let (bpf_dir, dir) = (bpf_dir.display(), dir.display());
        let mut yaml = format!(
            "version: 1\n\
             node:\n\
             \x20 interfaces: [{{ name: eth0, xdp: {xdp} }}, {{ name: eth1, xdp: {xdp} }}{interfaces}]\n\
             \x20 on_exit: {on_exit}\n\
             \x20 bpf_dir: {bpf_dir}\n\
             \x20 run_dir: {dir}/run\n\
             admin: {{ socket: {dir}/admin.sock, http: 127.0.0.1:9480 }}\n\
             hash_key: {dir}/hash.key\n\
             defaults:\n\
             \x20 health: {{ interval: {interval_ms}ms, timeout: {interval_ms}ms, rise: {rise}, fall: {fall} }}\n\
             services:\n"
        );
        let http = format!("{{ http: {{ port: {HTTP_PORT}, path: /healthz }} }}");
        let dns = format!("{{ tcp: {{ port: {DNS_PORT} }} }}");
        let nat = |port: u16| format!(", port: {port}");
        yaml += &head("web", VIP, 80, "protocol: tcp", &http);
        yaml += &self.backends(&nat(HTTP_PORT));
        yaml += &head("dns", VIP, 53, "protocol: udp\n    udp: { mode: oneshot }", &dns);
        yaml += &self.backends(&nat(DNS_PORT));
        if let Some(Direct { forward, over }) = self.tunnel {
            // The packet stays as it is, so the port is the one the backends listen on.
            yaml += &head("tunnel-web", TUNNEL_VIP, HTTP_PORT, &format!("protocol: tcp\n    {forward}"), &http);
            yaml += &self.backends_of("", over);
            if self.uploads {
                let health = format!("{{ tcp: {{ port: {UPLOAD_PORT} }} }}");
                yaml += &head("uploads", TUNNEL_VIP, UPLOAD_PORT, &format!("protocol: tcp\n    {forward}"), &health);
                yaml += &self.backends_of("", over);
            }
        }
        yaml + &self.appendix
    }

    /// A service's backends, each with its IPv4 and its IPv6 address.
    fn backends(&self, port: &str) -> String {
        self.backends_of(port, Over::Own)
    }

    fn backends_of(&self, port: &str, over: Over) -> String {
        let mut yaml = String::new();
        for Row { name, address: Pair { v4, v6 }, weight } in &self.rows {
            if over != Over::V6 {
                let _ = writeln!(yaml, "      - {{ name: {name}, address: {v4}{port}, weight: {weight} }}");
            }
            if over != Over::V4 {
                let _ = writeln!(yaml, "      - {{ name: {name}-v6, address: \"{v6}\"{port}, weight: {weight} }}");
            }
        }
        yaml
    }
}

/// A service up to its list of backends.
fn head(name: &str, vip: Pair, port: u16, how: &str, health: &str) -> String {
    let Pair { v4, v6 } = vip;
    format!(
        "  - name: {name}\n    listen: [\"{v4}:{port}\", \"[{v6}]:{port}\"]\n    {how}\n    health: {health}\n    backends:\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labs_files_are_valid_and_nothing_in_them_deserves_a_warning() {
        for tunnel in [None, Some(Direct::IPIP)] {
            let mut config = Config::at("/run/lab".into(), "/run/lab/bpf/sluice".into());
            config.tunnel = tunnel;
            let model = sluice::config::parse("sluice.yaml", &config.yaml()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(model.services.len(), 2 + usize::from(tunnel.is_some()));
            assert!(model.services.iter().all(|s| s.backends.len() == 6 && s.health.is_some()));
            assert_eq!(sluice::config::warnings(&model), [""; 0]);
        }
    }
}
