//! The place: clients behind a router, one or two Sluice nodes, and a few hosts that are thousands of backends.
//!
//! ```text
//!   c1 ─┐         ┌─ eth0 lb ── eth1 ─┐
//!   c2 ─┴─ rt ────┤                   ├─ h0 … h9
//!      users  │   └─ eth0 lb2 ─ eth1 ─┤
//!             │ front               back
//!             └───────────────────────┘ (the way direct server return takes)
//! ```
//!
//! The router knows the VIPs as routes through the nodes: with two of them it is an ECMP router that chooses by
//! addresses and ports. A host is many backends because a whole prefix is *local* to it (`ip route add local`): it
//! accepts connections to every address in it, which `accept` tells as the local one. The nodes reach the prefix
//! through the host's own address, so thousands of backends are ten neighbours, not a full neighbour table.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::PORT;
use super::sniff::{FIN, RST, SYN};
use crate::lab::capture::Capture;
use crate::lab::home::Home;
use crate::lab::netns::NetNs;
use crate::lab::pass::{Attached, XdpPass};
use crate::lab::{Pair, offload, signals};

/// The service address. Not on any wire: the router has a route to it.
pub const VIP: Pair = Pair::new([203, 0, 113, 100], [0x2001, 0xdb8, 0x5, 0, 0, 0, 0, 0x100]);

/// Hosts on the back wire.
pub const HOSTS: usize = 10;

/// Which number is which backend: they go round the hosts, so that the first ten are on a host each.
#[derive(Clone, Copy, Debug)]
pub struct Numbering;

impl Numbering {
    /// The host a backend is on.
    pub fn host(number: u16) -> usize {
        usize::from(number) % HOSTS
    }

    /// A backend's addresses: the `number / HOSTS + 1`th of its host's prefixes.
    pub fn address(number: u16) -> Pair {
        let (host, index) = (Self::host(number), number / HOSTS as u16 + 1);
        let [high, low] = index.to_be_bytes();
        Pair {
            v4: Ipv4Addr::new(10, 100 + host as u8, high, low),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0xb00 + host as u16, 0, 0, 0, 0, index),
        }
    }

    /// The backend with this address; a host that is spoken to by the VIP (it unwrapped a tunnel) or by its own
    /// address is its first backend.
    pub fn of(host: usize, address: IpAddr) -> u16 {
        let index = match address.to_canonical() {
            IpAddr::V4(ip) if ip.octets()[..2] == [10, 100 + host as u8] => {
                u16::from_be_bytes([ip.octets()[2], ip.octets()[3]])
            }
            IpAddr::V6(ip) if ip.segments()[..3] == [0x2001, 0xdb8, 0xb00 + host as u16] => ip.segments()[7],
            _ => 1,
        };
        (index - 1) * HOSTS as u16 + host as u16
    }

    /// A host's own addresses, on the back wire.
    pub fn host_address(host: usize) -> Pair {
        let low = 10 + host as u8;
        Pair { v4: Ipv4Addr::new(10, 0, 0, low), v6: Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, u16::from(low)) }
    }
}

/// One Sluice node's namespace and its directories.
#[derive(Debug)]
pub struct Node {
    pub ns: NetNs,
    /// Its own: logs, configuration, sockets.
    pub dir: PathBuf,
    /// Its own, on the site's BPF file system.
    pub bpf_dir: PathBuf,
}

/// All of it. Dropping it removes it.
#[derive(Debug)]
pub struct Site {
    // Fields are dropped in this order: what runs inside goes before the place it runs in.
    captures: Vec<Capture>,
    _pass: Vec<Attached>,
    pub clients: [NetNs; 2],
    pub router: NetNs,
    pub nodes: Vec<Node>,
    pub hosts: Vec<NetNs>,
    switch: NetNs,
    home: Home,
}

impl Site {
    /// Builds it with one node or two. Captures hold what opens and ends connections, nothing else, so that they last.
    pub fn new(nodes: usize) -> Result<Self> {
        Self::build(nodes).context("building the site of network namespaces")
    }

    fn build(nodes: usize) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a lab needs root: it makes network namespaces and loads XDP programs");
        }
        signals::arm();
        let home = Home::claim()?;
        let make = |role: &str| NetNs::create(format!("{}-{role}", home.name()));
        let (switch, router, c1, c2) = (make("sw")?, make("rt")?, make("c1")?, make("c2")?);
        let mut lbs = Vec::new();
        for name in ["lb", "lb2"].into_iter().take(nodes) {
            let dir = home.dir().join(name);
            std::fs::create_dir_all(&dir)?;
            lbs.push(Node { ns: make(name)?, dir, bpf_dir: home.bpf_root().join(name) });
        }
        let hosts = (0..HOSTS).map(|h| make(&format!("h{h}"))).collect::<Result<Vec<_>>>()?;

        let mut wires = String::new();
        for bridge in ["users", "front", "back"] {
            writeln!(wires, "link add {bridge} type bridge forward_delay 0 mcast_snooping 0\nlink set {bridge} up")?;
        }
        let mut ports: Vec<(String, &str, &NetNs, &str)> = vec![
            ("c1".into(), "users", &c1, "eth0"),
            ("c2".into(), "users", &c2, "eth0"),
            ("rt-users".into(), "users", &router, "eth0"),
            ("rt-front".into(), "front", &router, "eth1"),
            ("rt-back".into(), "back", &router, "eth2"),
        ];
        for (n, node) in (1..).zip(&lbs) {
            ports.push((format!("lb{n}-front"), "front", &node.ns, "eth0"));
            ports.push((format!("lb{n}-back"), "back", &node.ns, "eth1"));
        }
        for (h, host) in hosts.iter().enumerate() {
            ports.push((format!("h{h}"), "back", host, "eth0"));
        }
        for (port, bridge, host, interface) in &ports {
            writeln!(wires, "link add {port} type veth peer name {interface} netns {}", host.name())?;
            writeln!(wires, "link set {port} master {bridge} up")?;
        }
        switch.ip(&wires)?;

        for forwarder in lbs.iter().map(|n| &n.ns).chain([&router]) {
            forwarder.sysctl(&[
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
                // ECMP by addresses and ports: a connection stays on its node.
                ("net/ipv4/fib_multipath_hash_policy", "1"),
                ("net/ipv6/fib_multipath_hash_policy", "1"),
            ])?;
        }
        for (n, client) in (10..).zip([&c1, &c2]) {
            client.ip(&format!(
                "addr add 192.0.2.{n}/24 dev eth0\naddr add 2001:db8:c::{n}/64 dev eth0\nlink set eth0 up\n\
                 route add default via 192.0.2.1\nroute add default via 2001:db8:c::1\n"
            ))?;
        }
        router.ip("addr add 192.0.2.1/24 dev eth0\naddr add 2001:db8:c::1/64 dev eth0\nlink set eth0 up\n\
             addr add 198.51.100.1/24 dev eth1\naddr add 2001:db8:f::1/64 dev eth1\nlink set eth1 up\n\
             addr add 10.0.0.254/24 dev eth2\naddr add 2001:db8:b::fe/64 dev eth2\nlink set eth2 up\n")?;
        for (n, node) in (2..).zip(&lbs) {
            let mut batch = format!(
                "addr add 198.51.100.{n}/24 dev eth0\naddr add 2001:db8:f::{n}/64 dev eth0\nlink set eth0 up\n\
                 addr add 10.0.0.{back}/24 dev eth1\naddr add 2001:db8:b::{back}/64 dev eth1\nlink set eth1 up\n\
                 route add default via 198.51.100.1\nroute add default via 2001:db8:f::1\n",
                back = n - 1
            );
            for h in 0..HOSTS {
                let Pair { v4, v6 } = Numbering::host_address(h);
                writeln!(batch, "route add 10.{}.0.0/16 via {v4}", 100 + h)?;
                writeln!(batch, "route add 2001:db8:{:x}::/64 via {v6}", 0xb00 + h)?;
            }
            node.ns.ip(&batch)?;
        }
        for (h, host) in hosts.iter().enumerate() {
            // It holds tunnelled VIPs on its loopback and must not answer ARP for them on the wire.
            host.sysctl(&[("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")])?;
            let Pair { v4, v6 } = Numbering::host_address(h);
            host.ip(&format!(
                "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0\nlink set eth0 up\n\
                 route add default via 10.0.0.1\nroute add default via 2001:db8:b::1\n\
                 route add local 10.{}.0.0/16 dev lo\n",
                100 + h
            ))?;
            host.ip6(&format!("route add local 2001:db8:{:x}::/64 dev lo\n", 0xb00 + h))?;
        }

        for client in [&c1, &c2].into_iter().chain(&hosts) {
            offload::disable(client, &["eth0"])?;
        }
        for node in &lbs {
            offload::disable(&node.ns, &["eth0", "eth1"])?;
        }
        offload::disable(&router, &["eth0", "eth1", "eth2"])?;
        offload::disable(&switch, &ports.iter().map(|p| p.0.as_str()).collect::<Vec<_>>())?;

        let program = XdpPass::load()?;
        let mut pass = Vec::new();
        for n in 1..=lbs.len() {
            for side in ["front", "back"] {
                pass.push(program.attach(&switch, &format!("lb{n}-{side}"))?);
            }
        }
        let mut captures = Vec::new();
        captures.extend(Capture::filtered(&switch, "rt-users", home.dir(), "ends", &ends())?);
        for n in 1..=lbs.len() {
            for side in ["front", "back"] {
                let interface = format!("lb{n}-{side}");
                captures.extend(Capture::filtered(&switch, &interface, home.dir(), &interface, &ends())?);
            }
        }
        let site = Self { captures, _pass: pass, clients: [c1, c2], router, nodes: lbs, hosts, switch, home };
        site.route(&(0..nodes).collect::<Vec<_>>())?;
        Ok(site)
    }

    /// Has the router send the VIP's packets through these nodes, evenly.
    pub fn route(&self, nodes: &[usize]) -> Result<()> {
        let hops = |prefix: &str| nodes.iter().map(|n| format!(" nexthop via {prefix}{}", n + 2)).collect::<String>();
        let Pair { v4, v6 } = VIP;
        self.router.ip(&format!("route replace {v4}/32{}\n", hops("198.51.100.")))?;
        self.router.ip6(&format!("route replace {v6}/128{}\n", hops("2001:db8:f::")))
    }

    /// Readies every host for direct server return: the VIP is its own, and what it sends from there goes straight to
    /// the router.
    pub fn direct_return(&self) -> Result<()> {
        let Pair { v4, v6 } = VIP;
        for host in &self.hosts {
            host.ip(&format!(
                "addr add {v4}/32 dev lo\nrule add from {v4} lookup 100\nroute add default via 10.0.0.254 table 100\n"
            ))?;
            host.ip6(&format!(
                "addr add {v6}/128 dev lo nodad\nrule add from {v6} lookup 100\n\
                 route add default via 2001:db8:b::fe table 100\n"
            ))?;
        }
        Ok(())
    }

    /// Takes a host off the wire, as a power cut does: nobody is told, and nothing it sends arrives.
    pub fn unplug(&self, host: usize) -> Result<()> {
        self.switch.ip(&format!("link set h{host} down\n"))
    }

    /// Takes a node off both wires.
    pub fn unplug_node(&self, node: usize) -> Result<()> {
        let n = node + 1;
        self.switch.ip(&format!("link set lb{n}-front down\nlink set lb{n}-back down\n"))
    }

    /// Captures every packet of the service that passes the router's users' side; the file appears in the site's
    /// directory.
    pub fn capture_users(&self) -> Result<Option<Capture>> {
        Capture::filtered(&self.switch, "rt-users", self.home.dir(), "users", &format!("tcp port {PORT}"))
    }

    /// Its name, unique on this host.
    pub fn name(&self) -> &str {
        self.home.name()
    }

    /// Its directory: gone when the site is.
    pub fn dir(&self) -> &Path {
        self.home.dir()
    }

    /// Ends the captures, so that their files are whole.
    pub fn finish_captures(&mut self) {
        Capture::finish_all(self.captures.drain(..).collect());
    }

    /// Ends the captures and copies logs, configuration and captures to a directory that stays; its path.
    pub fn keep_evidence(&mut self) -> Result<PathBuf> {
        self.finish_captures();
        let kept = nix::unistd::mkdtemp(&std::env::temp_dir().join(format!("sluice-{}-XXXXXX", self.name())))?;
        let dirs = self.nodes.iter().map(|n| n.dir.clone()).chain([self.home.dir().to_owned()]);
        for dir in dirs {
            let under = kept.join(dir.strip_prefix(self.home.dir())?);
            std::fs::create_dir_all(&under)?;
            for entry in std::fs::read_dir(&dir)?.flatten() {
                if entry.file_type()?.is_file() {
                    std::fs::copy(entry.path(), under.join(entry.file_name()))?;
                }
            }
        }
        Ok(kept)
    }
}

/// What opens and ends the service's connections, and every other RST, as tcpdump says it. Its `tcp[…]` looks into
/// IPv4 only.
fn ends() -> String {
    let any = |flags: u8| format!("(ip and tcp[13] & {flags} != 0) or (ip6 and ip6[6] = 6 and ip6[53] & {flags} != 0)");
    format!("(tcp port {PORT} and ({})) or {}", any(FIN | SYN | RST), any(RST))
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(kept) = self.keep_evidence()
        {
            eprintln!("logs and captures of the site: {}", kept.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_known_by_either_of_its_addresses() {
        for number in [0, 1, 9, 10, 11, 1999, 2559, 2560, 19_999] {
            let (host, address) = (Numbering::host(number), Numbering::address(number));
            for address in address.both() {
                assert_eq!(Numbering::of(host, address), number, "{address}");
            }
        }
        assert_eq!(Numbering::address(0).v4, Ipv4Addr::new(10, 100, 0, 1));
        assert_eq!(Numbering::address(2559).v4, Ipv4Addr::new(10, 109, 1, 0));
    }

    #[test]
    fn whoever_unwraps_tunnels_is_the_hosts_first_backend() {
        for address in VIP.both().into_iter().chain(Numbering::host_address(7).both()) {
            assert_eq!(Numbering::of(7, address), 7);
        }
    }
}
