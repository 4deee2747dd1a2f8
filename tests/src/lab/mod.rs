//! The lab: real clients and servers in network namespaces, with Sluice between them.
//!
//! ```text
//!   away ── gw ──────────┐ (gw: the lb's default route; also the way direct server return takes)
//!   branch ── branchrt ──┤ (branchrt: the lb has a specific route through it)
//!   client ──────────────┤
//!   b3 ──────────────────┤ front (bridge)            back (bridge)
//!                        └──────────── eth0 lb eth1 ──────┬─ b1
//!                                         gw eth2 ────────┴─ b2
//! ```
//!
//! Clients reach VIPs on the front wire. b1 and b2 are behind the lb's other interface, so packets to them are
//! redirected; b3 is on the same wire as the clients, so packets to it leave where they came in (XDP_TX). Every
//! backend's default route is the lb, as destination NAT wants. A wrong next hop is a failed request: gw knows no way
//! to `branch`, and branchrt none to `away`.
//!
//! The traps are in [`pass`], [`offload`], [`netns`] and [`process`].

pub mod capture;
pub mod config;
pub mod connections;
pub mod daemon;
pub mod devices;
pub mod dns;
pub mod home;
pub mod netns;
pub mod offload;
pub mod pass;
pub mod ping;
pub mod process;
pub mod servers;
pub mod signals;
pub mod traffic;
pub mod upload;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use capture::Capture;
use home::Home;
use netns::NetNs;
use pass::{Attached, XdpPass};
use process::Process;

/// How many times as long as on hardware things may take here: where every instruction is translated, a health check that
/// is answered in a millisecond elsewhere takes a second (`SLUICE_SLOW`, set in virtual machines).
pub fn slowness() -> u32 {
    std::env::var("SLUICE_SLOW").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// An IPv4 and an IPv6 address of the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Pair {
    const fn new(v4: [u8; 4], v6: [u16; 8]) -> Self {
        let [a, b, c, d] = v4;
        let [e, f, g, h, i, j, k, l] = v6;
        Self { v4: Ipv4Addr::new(a, b, c, d), v6: Ipv6Addr::new(e, f, g, h, i, j, k, l) }
    }

    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// The service addresses the lab's configurations use; on the front wire, /32 and /128.
pub const VIP: Pair = Pair::new([198, 51, 100, 100], [0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x100]);
/// A second one, for tunnelled services.
pub const TUNNEL_VIP: Pair = Pair::new([198, 51, 100, 200], [0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x200]);
/// The lb's own address on the front wire.
pub const LB_FRONT: Pair = Pair::new([198, 51, 100, 2], [0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 2]);
/// The client on the front wire.
pub const CLIENT: Pair = Pair::new([198, 51, 100, 10], [0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10]);
/// The client behind the lb's default gateway.
pub const AWAY: Pair = Pair::new([203, 0, 113, 10], [0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x10]);
/// The client behind a specific route.
pub const BRANCH: Pair = Pair::new([192, 0, 2, 10], [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x10]);

pub const BACKENDS: [(&str, Pair); 3] = [
    ("b1", Pair::new([10, 0, 0, 11], [0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0x11])),
    ("b2", Pair::new([10, 0, 0, 12], [0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0x12])),
    ("b3", Pair::new([10, 0, 3, 13], [0x2001, 0xdb8, 0xb3, 0, 0, 0, 0, 0x13])),
];

/// A host with servers.
#[derive(Debug)]
pub struct Backend {
    pub name: &'static str,
    pub address: Pair,
    pub ns: NetNs,
    http: Option<Process>,
    dns: Option<Process>,
}

impl Backend {
    /// Ends its servers by their process ids, as a crash would.
    pub fn kill_servers(&mut self) {
        for mut server in [self.http.take(), self.dns.take()].into_iter().flatten() {
            server.end();
        }
    }

    /// The process id of its HTTP server, while it runs.
    pub fn http_pid(&self) -> Option<u32> {
        self.http.as_ref().map(Process::pid)
    }
}

/// All of it. Dropping it removes it; if the thread is panicking, logs and captures are kept first.
#[derive(Debug)]
pub struct Lab {
    // Fields are dropped in this order: what runs inside goes before the place it runs in.
    captures: Vec<Capture>,
    pub backends: Vec<Backend>,
    _pass: Vec<Attached>,
    pub client: NetNs,
    pub away: NetNs,
    pub branch: NetNs,
    pub lb: NetNs,
    /// The wires: bridges, with one port for each host.
    pub switch: NetNs,
    _routers: [NetNs; 2],
    home: Home,
}

impl Lab {
    /// Builds the namespaces and wires; starts servers and captures.
    pub fn new() -> Result<Self> {
        Self::build().context("building the lab of network namespaces")
    }

    fn build() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a lab needs root: it makes network namespaces and loads XDP programs");
        }
        signals::arm();
        let home = Home::claim()?;
        let make = |role: &str| NetNs::create(format!("{}-{role}", home.name()));
        let [sw, lb, client, gw, away, branchrt, branch] =
            ["sw", "lb", "client", "gw", "away", "branchrt", "branch"].map(make);
        let (sw, lb, client, gw, away, branchrt, branch) = (sw?, lb?, client?, gw?, away?, branchrt?, branch?);
        let mut backends = Vec::new();
        for (name, address) in BACKENDS {
            backends.push(Backend { name, address, ns: make(name)?, http: None, dns: None });
        }
        let [b1, b2, b3] = &backends[..] else { bail!("three backends") };

        // Wires: bridges for the two segments, one port per host, named after it.
        let mut wires = String::new();
        for bridge in ["front", "back"] {
            writeln!(wires, "link add {bridge} type bridge forward_delay 0 mcast_snooping 0\nlink set {bridge} up")?;
        }
        let ports: [(&str, &str, &NetNs, &str); 9] = [
            ("lb-front", "front", &lb, "eth0"),
            ("client", "front", &client, "eth0"),
            ("gw-front", "front", &gw, "eth0"),
            ("branchrt", "front", &branchrt, "eth0"),
            ("b3", "front", &b3.ns, "eth0"),
            ("lb-back", "back", &lb, "eth1"),
            ("b1", "back", &b1.ns, "eth0"),
            ("b2", "back", &b2.ns, "eth0"),
            ("gw-back", "back", &gw, "eth2"),
        ];
        for (port, bridge, host, interface) in ports {
            writeln!(wires, "link add {port} type veth peer name {interface} netns {}", host.name())?;
            writeln!(wires, "link set {port} master {bridge} up")?;
        }
        sw.ip(&wires)?;
        gw.ip(&format!("link add eth1 type veth peer name eth0 netns {}\n", away.name()))?;
        branchrt.ip(&format!("link add eth1 type veth peer name eth0 netns {}\n", branch.name()))?;

        for router in [&lb, &gw, &branchrt] {
            router.sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        }
        // A backend holds tunnel VIPs on its loopback and must not answer ARP for them on the wire.
        for backend in &backends {
            backend.ns.sysctl(&[("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")])?;
        }

        lb.ip(&host(
            &[
                ("eth0", &["198.51.100.2/24", "2001:db8:f::2/64", "10.0.3.1/24", "2001:db8:b3::1/64"]),
                ("eth1", &["10.0.0.1/24", "2001:db8:b::1/64"]),
            ],
            &[
                ("default", "198.51.100.1"),
                ("default", "2001:db8:f::1"),
                ("192.0.2.0/24", "198.51.100.3"),
                ("2001:db8:c::/64", "2001:db8:f::3"),
            ],
        ))?;
        client.ip(&host(
            &[("eth0", &["198.51.100.10/24", "2001:db8:f::10/64"])],
            &[("default", "198.51.100.2"), ("default", "2001:db8:f::2")],
        ))?;
        gw.ip(&host(
            &[
                ("eth0", &["198.51.100.1/24", "2001:db8:f::1/64", "10.0.3.254/24", "2001:db8:b3::fe/64"]),
                ("eth1", &["203.0.113.1/24", "2001:db8:a::1/64"]),
                ("eth2", &["10.0.0.254/24", "2001:db8:b::fe/64"]),
            ],
            &[],
        ))?;
        branchrt.ip(&host(
            &[("eth0", &["198.51.100.3/24", "2001:db8:f::3/64"]), ("eth1", &["192.0.2.1/24", "2001:db8:c::1/64"])],
            &[
                ("10.0.0.0/16", "198.51.100.2"),
                ("2001:db8:b::/64", "2001:db8:f::2"),
                ("2001:db8:b3::/64", "2001:db8:f::2"),
            ],
        ))?;
        away.ip(&host(
            &[("eth0", &["203.0.113.10/24", "2001:db8:a::10/64"])],
            &[("default", "203.0.113.1"), ("default", "2001:db8:a::1")],
        ))?;
        branch.ip(&host(
            &[("eth0", &["192.0.2.10/24", "2001:db8:c::10/64"])],
            &[("default", "192.0.2.1"), ("default", "2001:db8:c::1")],
        ))?;
        for backend in &backends {
            let on_front = backend.name == "b3";
            let gateways = if on_front { ["10.0.3.1", "2001:db8:b3::1"] } else { ["10.0.0.1", "2001:db8:b::1"] };
            let addresses = [format!("{}/24", backend.address.v4), format!("{}/64", backend.address.v6)];
            backend.ns.ip(&host(
                &[("eth0", &[&addresses[0], &addresses[1]])],
                &[("default", gateways[0]), ("default", gateways[1])],
            ))?;
        }

        for ns in [&client, &away, &branch, &b1.ns, &b2.ns, &b3.ns] {
            offload::disable(ns, &["eth0"])?;
        }
        offload::disable(&lb, &["eth0", "eth1"])?;
        offload::disable(&branchrt, &["eth0", "eth1"])?;
        offload::disable(&gw, &["eth0", "eth1", "eth2"])?;
        offload::disable(&sw, &ports.map(|p| p.0))?;

        let pass = XdpPass::load()?;
        let pass = vec![pass.attach(&sw, "lb-front")?, pass.attach(&sw, "lb-back")?];

        for backend in &mut backends {
            backend.http = Some(servers::http(&backend.ns, backend.name, home.dir())?);
            backend.dns = Some(servers::dns(&backend.ns, backend.name, home.dir())?);
        }
        let mut captures = Vec::new();
        for (interface, name) in [("lb-front", "front"), ("lb-back", "back")] {
            captures.extend(Capture::start(&sw, interface, home.dir(), name)?);
        }
        Ok(Self {
            captures,
            backends,
            _pass: pass,
            client,
            away,
            branch,
            lb,
            switch: sw,
            _routers: [gw, branchrt],
            home,
        })
    }

    /// Its name, unique on this host.
    pub fn name(&self) -> &str {
        self.home.name()
    }

    /// Its directory: logs, configuration, sockets. Gone when the lab is.
    pub fn dir(&self) -> &Path {
        self.home.dir()
    }

    /// Where Sluice may pin: a directory on a BPF file system of the lab's own.
    pub fn bpf_dir(&self) -> PathBuf {
        self.home.bpf_root().join("sluice")
    }

    pub fn backend(&self, name: &str) -> &Backend {
        self.backends.iter().find(|b| b.name == name).unwrap_or_else(|| panic!("the lab has no backend {name}"))
    }

    pub fn backend_mut(&mut self, name: &str) -> &mut Backend {
        self.backends.iter_mut().find(|b| b.name == name).unwrap_or_else(|| panic!("the lab has no backend {name}"))
    }

    /// Starts a killed backend's servers again.
    pub fn revive(&mut self, name: &str) -> Result<()> {
        let dir = self.home.dir().to_owned();
        let backend = self.backend_mut(name);
        backend.http = Some(servers::http(&backend.ns, backend.name, &dir)?);
        backend.dns = Some(servers::dns(&backend.ns, backend.name, &dir)?);
        Ok(())
    }

    /// Readies every backend for direct server return: it owns `vip` on its loopback, and what it sends from there
    /// goes straight to the gateway instead of back through the lb.
    pub fn direct_return(&self, vip: Pair) -> Result<()> {
        for backend in &self.backends {
            let (gw4, gw6) =
                if backend.name == "b3" { ("10.0.3.254", "2001:db8:b3::fe") } else { ("10.0.0.254", "2001:db8:b::fe") };
            let Pair { v4, v6 } = vip;
            backend.ns.ip(&format!(
                "addr add {v4}/32 dev lo\nrule add from {v4} lookup 100\nroute add default via {gw4} table 100\n"
            ))?;
            backend.ns.ip6(&format!(
                "addr add {v6}/128 dev lo nodad\nrule add from {v6} lookup 100\nroute add default via {gw6} table 100\n"
            ))?;
        }
        Ok(())
    }

    /// Ends the captures and copies logs, configuration and captures to a directory that stays; its path.
    pub fn keep_evidence(&mut self) -> Result<PathBuf> {
        Capture::finish_all(self.captures.drain(..).collect());
        let kept = nix::unistd::mkdtemp(&std::env::temp_dir().join(format!("sluice-{}-XXXXXX", self.name())))?;
        for entry in std::fs::read_dir(self.home.dir())?.flatten() {
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
            }
        }
        Ok(kept)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(kept) = self.keep_evidence()
        {
            eprintln!("logs and captures of the lab: {}", kept.display());
        }
    }
}

/// `ip` commands that give a host its addresses and routes.
fn host(interfaces: &[(&str, &[&str])], routes: &[(&str, &str)]) -> String {
    let mut batch = String::new();
    for (interface, addresses) in interfaces {
        for address in *addresses {
            let _ = writeln!(batch, "addr add {address} dev {interface}");
        }
        let _ = writeln!(batch, "link set {interface} up");
    }
    for (to, via) in routes {
        let _ = writeln!(batch, "route add {to} via {via}");
    }
    batch
}
