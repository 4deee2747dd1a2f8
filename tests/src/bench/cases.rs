//! What is measured: every case by its name, with its limit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::node::{
    BACKEND_PORT, Config, GUE_PORT, Node, OWN4, SERVICE_PORT, TUNNEL_SOURCE4, TUNNEL_SOURCE6, VIP4, VIP6, backend_mac,
    backend4, backend6,
};
use super::traffic::{L4, ROUTER, SLUICE, Traffic};
use crate::golden::oracle;
use crate::packet::{Mac, Packet, ethernet, ipv4, ipv6, udp};
use crate::progrun::{Outcome, Verdict};

/// The references, in the object `reference`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// Without the wrapper: what the kernel's test loop costs.
    Drop,
    Noop,
    Grow,
    Lru,
}

impl Reference {
    pub const fn program(self) -> &'static str {
        match self {
            Self::Drop => "reference_drop",
            Self::Noop => "reference_noop",
            Self::Grow => "reference_grow",
            Self::Lru => "reference_lru",
        }
    }
}

/// What the product does to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From a client to a backend, as the configuration's service forwards.
    Forward,
    /// From a backend to a client.
    Reply,
    /// For no service.
    Pass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Reference(Reference),
    Product(Config, Way),
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub subject: Subject,
    pub l4: L4,
    /// The case's flows are as many as there are in a benchmark: about a million. Else one.
    pub many: bool,
    /// Frames come with a VLAN tag, and leave without.
    pub tagged: bool,
    /// Most that `net_ratio` may be.
    pub limit: Option<f64>,
}

const fn reference(name: &'static str, reference: Reference) -> Case {
    Case { name, subject: Subject::Reference(reference), l4: L4::Tcp, many: false, tagged: false, limit: None }
}

const fn product(name: &'static str, config: Config, way: Way, limit: Option<f64>) -> Case {
    Case { name, subject: Subject::Product(config, way), l4: L4::Tcp, many: false, tagged: false, limit }
}

impl Case {
    const fn many(mut self) -> Self {
        self.many = true;
        self
    }

    const fn tagged(mut self) -> Self {
        self.tagged = true;
        self
    }

    const fn l4(mut self, l4: L4) -> Self {
        self.l4 = l4;
        self
    }
}

/// The program that is nearest to nothing; every net figure is above it.
pub const NOOP: &str = "ref/noop";
/// What net figures are divided by.
pub const UNIT: &str = "ref/lru/1";
/// What the unit is divided by to see whether a run was disturbed.
pub const FLOOR: &str = "ref/drop";

/// Measured in every run.
pub const REFERENCES: [Case; 5] = [
    reference(FLOOR, Reference::Drop),
    reference(NOOP, Reference::Noop),
    reference("ref/grow", Reference::Grow),
    reference(UNIT, Reference::Lru),
    reference("ref/lru/1M", Reference::Lru).many(),
];

/// The product, on one CPU. Each has a twin on two.
pub const CASES: [Case; 20] = [
    product("ipip4/tcp/1", Config::Ipip4, Way::Forward, Some(1.45)),
    product("ipip4/tcp/1M", Config::Ipip4, Way::Forward, Some(1.6)).many(),
    product("ipip4/syn/1M", Config::Ipip4, Way::Forward, Some(1.6)).l4(L4::Syn).many(),
    product("ipip4/udp/1", Config::Ipip4, Way::Forward, None).l4(L4::Udp),
    product("all/ipip4/tcp/1", Config::Everything4, Way::Forward, Some(2.0)),
    product("vlan/ipip4", Config::Ipip4, Way::Forward, Some(1.2)).tagged(),
    product("frag", Config::Ipip4, Way::Forward, Some(1.2)).l4(L4::Later),
    product("gue4/tcp/1", Config::Gue4, Way::Forward, Some(1.2)),
    product("dsr4/tcp/1", Config::Dsr4, Way::Forward, Some(1.1)),
    product("ipip6/tcp/1", Config::Ipip6, Way::Forward, Some(1.7)),
    product("ipip6/tcp/1M", Config::Ipip6, Way::Forward, None).many(),
    product("nat4/tcp/1", Config::Nat4, Way::Forward, Some(1.5)),
    product("nat4/tcp/1M", Config::Nat4, Way::Forward, None).many(),
    product("nat4/reply/1", Config::Nat4, Way::Reply, Some(1.6)),
    product("nat6/tcp/1", Config::Nat6, Way::Forward, None),
    product("moving4/tcp/1", Config::Moving4, Way::Forward, Some(2.4)),
    product("moving4/tcp/1M", Config::Moving4, Way::Forward, Some(1.9)).many(),
    product("moving4/all/1", Config::AllMoving4, Way::Forward, Some(2.6)),
    product("exceptions4/miss/1", Config::Exceptions4, Way::Forward, Some(1.8)),
    product("pass/1", Config::Both4, Way::Pass, Some(0.6)),
];

/// A twin may cost this much of what its case costs on one CPU.
pub const TWIN_LIMIT: f64 = 1.1;

/// The name of a case's twin on two CPUs.
pub fn twin(name: &str) -> String {
    format!("2cpu/{name}")
}

/// The network tests and benchmarks may call their own (RFC 2544 §C.2.2), and documentation's (RFC 3849).
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0);
/// A multiple of 16: the flow is in its last four bits.
pub const CLIENT_PORT: u16 = 40_000;

/// The VLAN of clients whose frames have one.
const VLAN: u16 = 100;

/// Sends replies.
const REPLYING: u16 = 42;

/// What `ref/lru` sends its packets to.
pub const LRU_BACKEND: u16 = 7;

impl Case {
    pub fn traffic(&self, many: u32) -> Traffic {
        let flows = if self.many { many } else { 1 };
        let client = match self.subject {
            Subject::Product(Config::Ipip6 | Config::Nat6, _) => (IpAddr::V6(CLIENT6), CLIENT_PORT),
            _ => (IpAddr::V4(CLIENT4), CLIENT_PORT),
        };
        let (source, destination) = match self.subject {
            Subject::Product(_, Way::Reply) => ((backend4(REPLYING).into(), BACKEND_PORT), client),
            Subject::Product(_, Way::Pass) => (client, (OWN4.into(), 22)),
            _ if client.0.is_ipv6() => (client, (VIP6.into(), SERVICE_PORT)),
            _ => (client, (VIP4.into(), SERVICE_PORT)),
        };
        Traffic { source, destination, l4: self.l4, flows, vlan: self.tagged.then_some(VLAN) }
    }
}

/// What must become of a flow's packet, written by the builders; `node` is the product's where it is the subject.
pub fn expected(case: &Case, traffic: &Traffic, node: Option<&Node>, flow: u32) -> Outcome {
    let sender = traffic.sender(flow);
    let frame = |packet: Packet| Outcome { verdict: Verdict::Tx, frame: packet.bytes() };
    let to = |mac: Mac| ethernet(SLUICE, mac);
    let (ports_in, nat_ports) = ([sender.port, SERVICE_PORT], [sender.port, BACKEND_PORT]);
    let (config, way) = match (case.subject, sender.address) {
        (Subject::Reference(Reference::Drop), _) => {
            return Outcome { verdict: Verdict::Drop, frame: traffic.frame(flow) };
        }
        (Subject::Reference(Reference::Noop), _) => {
            return Outcome { verdict: Verdict::Tx, frame: traffic.frame(flow) };
        }
        (Subject::Reference(Reference::Grow), _) => {
            // Room for a header, and nothing written into it: what the wrapper left there last time.
            return Outcome { verdict: Verdict::Tx, frame: traffic.frame(flow) };
        }
        (Subject::Reference(Reference::Lru), IpAddr::V4(client)) => {
            let inner = traffic.v4_with(&sender, client, backend4(LRU_BACKEND), nat_ports, |ip| ip.ttl(63));
            return frame(to(backend_mac(LRU_BACKEND)) / inner);
        }
        (Subject::Product(config, way), _) => (config, way),
        (Subject::Reference(_), IpAddr::V6(_)) => unreachable!("references are IPv4"),
    };
    match (config, way, sender.address, node) {
        (_, Way::Pass, ..) => Outcome { verdict: Verdict::Pass, frame: traffic.frame(flow) },
        (_, Way::Reply, IpAddr::V4(_), _) => {
            let reply = traffic.v4_with(&sender, VIP4, CLIENT4, [SERVICE_PORT, CLIENT_PORT], |ip| ip.ttl(63));
            frame(to(ROUTER) / reply)
        }
        (Config::Ipip4 | Config::Everything4, _, IpAddr::V4(client), Some(node)) => {
            let owner = node.owner4((client, sender.port), (VIP4, SERVICE_PORT));
            let outer = ipv4(TUNNEL_SOURCE4, backend4(owner)).identification(0).dont_fragment();
            let inner = traffic.v4_with(&sender, client, VIP4, ports_in, |ip| ip.ttl(63));
            frame(to(backend_mac(owner)) / outer / inner)
        }
        (Config::Dsr4, _, IpAddr::V4(client), Some(node)) => {
            let owner = node.owner4((client, sender.port), (VIP4, SERVICE_PORT));
            frame(to(backend_mac(owner)) / traffic.v4_with(&sender, client, VIP4, ports_in, |ip| ip.ttl(63)))
        }
        (Config::Gue4, _, IpAddr::V4(client), Some(node)) => {
            let hash = oracle::hash4(&node.key(), (client, sender.port), (VIP4, SERVICE_PORT));
            let owner = node.owner(hash);
            let outer = ipv4(TUNNEL_SOURCE4, backend4(owner)).identification(0).dont_fragment();
            let port = 0xc000 | hash as u16 & 0x3fff;
            let inner = traffic.v4_with(&sender, client, VIP4, ports_in, |ip| ip.ttl(63));
            frame(to(backend_mac(owner)) / outer / udp(port, GUE_PORT).checksum(0) / inner)
        }
        (Config::Ipip6, _, IpAddr::V6(client), Some(node)) => {
            let hash = node.hash6((client, sender.port), (VIP6, SERVICE_PORT));
            let owner = node.owner(hash);
            let outer = ipv6(TUNNEL_SOURCE6, backend6(owner)).flow_label(hash & 0xf_ffff);
            let inner = traffic.v6_with(&sender, client, VIP6, ports_in, |ip| ip.hop_limit(63));
            frame(to(backend_mac(owner)) / outer / inner)
        }
        (
            Config::Nat4 | Config::Moving4 | Config::AllMoving4 | Config::Exceptions4,
            _,
            IpAddr::V4(client),
            Some(node),
        ) => {
            let owner = node.owner4((client, sender.port), (VIP4, SERVICE_PORT));
            let inner = traffic.v4_with(&sender, client, backend4(owner), nat_ports, |ip| ip.ttl(63));
            frame(to(backend_mac(owner)) / inner)
        }
        (Config::Nat6, _, IpAddr::V6(client), Some(node)) => {
            let owner = node.owner(node.hash6((client, sender.port), (VIP6, SERVICE_PORT)));
            let inner = traffic.v6_with(&sender, client, backend6(owner), nat_ports, |ip| ip.hop_limit(63));
            frame(to(backend_mac(owner)) / inner)
        }
        _ => unreachable!("{} has no expectation", case.name),
    }
}
