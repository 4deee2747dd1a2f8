//! The validated configuration: types that cannot be wrong, checked once by [`crate::config`].
//!
//! Everything is resolved here — defaults filled in, names given, ports decided — so that nobody downstream
//! asks "what if it is absent". Order is the file's order; nothing may depend on it (rings do not).

pub mod listen;
pub mod wildcards;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lb_common::decap::{DEFAULT_GENEVE_PORT, DEFAULT_GUE_PORT, DEFAULT_VXLAN_PORT};
use serde::{Deserialize, Serialize};

pub use listen::{Listen, Ports};

/// A whole, valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub node: Node,
    pub admin: Admin,
    /// The fleet-wide hash secret; generated once when absent.
    pub hash_key: PathBuf,
    pub limits: Limits,
    pub packets: Packets,
    pub hooks: Vec<Hook>,
    pub services: Vec<Service>,
}

/// What is told of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// One at least, no duplicates.
    pub on: Vec<Subject>,
    pub call: Call,
    /// What takes longer is ended.
    pub timeout: Duration,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    Backend,
    Service,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The program, by its absolute path, and its arguments.
    Exec(Vec<String>),
    /// A request with the event as JSON.
    Webhook(Url),
}

/// Where a request goes, in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// With its query.
    pub path: String,
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, path } = self;
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "http://{open}{host}{close}:{port}{path}")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub interfaces: Vec<Interface>,
    pub vip_addresses: VipAddresses,
    /// What becomes of the program, its maps and the VIPs when Sluice is told to stop.
    pub on_exit: OnExit,
    /// Where programs, links and maps are pinned: `/sys/fs/bpf/sluice`.
    pub bpf_dir: PathBuf,
    /// Lock and runtime state: `/run/sluice`.
    pub run_dir: PathBuf,
    /// Outer source addresses of tunnels: `None` takes the address the kernel would use towards the backend; a
    /// prefix lets the source vary with the flow, so that receivers spread over their queues.
    pub tunnel_source4: Option<Prefix>,
    pub tunnel_source6: Option<Prefix>,
    /// Least time between two changes of rings; a backend's death does not wait.
    pub min_ring_interval: Duration,
    /// Part of its weight by which a backend's may change without another ring: 0.1 for 10 %.
    pub weight_hysteresis: f64,
}

/// An address prefix, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub xdp: XdpMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native where the driver can, else generic with a loud warning.
    #[default]
    Auto,
    Native,
    Generic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VipAddresses {
    /// Sluice adds the VIPs to the host and announces them.
    #[default]
    Managed,
    /// Somebody else does: BGP, keepalived.
    External,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// Packets are forwarded on, by the last good state; the next start takes over.
    #[default]
    Keep,
    /// Everything is removed.
    Detach,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The JSON API: `/run/sluice/admin.sock`.
    pub socket: PathBuf,
    /// `/metrics`, `/healthz`, `/readyz`; `None` serves none.
    pub http: Option<SocketAddr>,
}

/// A word for yes and no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    On,
    Off,
}

impl From<bool> for Switch {
    fn from(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

/// What becomes of packets that are more than TCP or UDP in one piece: `packets` in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Frames with VLAN tags are looked into.
    pub vlan: bool,
    /// IPv6 extension headers are stepped over.
    pub extensions: bool,
    /// Later fragments follow their first one.
    pub fragments: bool,
    /// ICMP errors go to the backend they concern.
    pub icmp: bool,
    /// Echo requests for service addresses are answered.
    pub echo: bool,
    /// Senders of packets that are too big are told.
    pub too_big: bool,
    /// The MSS of TCP connections of some service is lowered to what its way takes.
    pub clamp: bool,
}

impl Packets {
    pub const ALL: Self =
        Self { vlan: true, extensions: true, fragments: true, icmp: true, echo: true, too_big: true, clamp: true };

    /// Those that a file has, by their keys. Whether some MSS is lowered follows from the services.
    pub fn switches(self) -> [(&'static str, Switch); 6] {
        let Self { vlan, extensions, fragments, icmp, echo, too_big, clamp: _ } = self;
        [
            ("vlan_tags", vlan.into()),
            ("extension_headers", extensions.into()),
            ("fragments", fragments.into()),
            ("icmp_errors", icmp.into()),
            ("echo", echo.into()),
            ("too_big", too_big.into()),
        ]
    }
}

impl std::ops::BitOr for Packets {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            vlan: self.vlan | other.vlan,
            extensions: self.extensions | other.extensions,
            fragments: self.fragments | other.fragments,
            icmp: self.icmp | other.icmp,
            echo: self.echo | other.echo,
            too_big: self.too_big | other.too_big,
            clamp: self.clamp | other.clamp,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the flow tables, of both families together: those of rows and, where services ask for them, of
    /// tracked flows.
    pub flows: u32,
    /// Most services the maps have room for.
    pub services: u32,
    /// Most backends the maps have room for.
    pub backends: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => lb_common::addr::PROTO_TCP,
            Self::Udp => lb_common::addr::PROTO_UDP,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forward {
    #[default]
    Nat,
    DsrL2,
    Ipip,
    Gre,
    Gue,
    Vxlan,
    Geneve,
}

impl Forward {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::DsrL2 => "dsr-l2",
            Self::Ipip => "ipip",
            Self::Gre => "gre",
            Self::Gue => "gue",
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }

    /// Packets get an outer header, so the way to a backend may be of another address family than they are.
    pub const fn is_tunnel(self) -> bool {
        !matches!(self, Self::Nat | Self::DsrL2)
    }

    /// What backends are sent is Ethernet in a virtual network.
    pub const fn is_overlay(self) -> bool {
        matches!(self, Self::Vxlan | Self::Geneve)
    }

    /// The port that tunnels of this kind are known by, where they are in UDP.
    pub const fn tunnel_port(self) -> Option<u16> {
        match self {
            Self::Gue => Some(DEFAULT_GUE_PORT),
            Self::Vxlan => Some(DEFAULT_VXLAN_PORT),
            Self::Geneve => Some(DEFAULT_GENEVE_PORT),
            Self::Nat | Self::DsrL2 | Self::Ipip | Self::Gre => None,
        }
    }
}

/// What tunnels of a service look like, beyond the outer IP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// The outer destination port; 0 where there is none.
    pub port: u16,
    /// The virtual network's number; 0 where there is none.
    pub vni: u32,
    /// GUE: 1 puts the packet behind the UDP header, 0 behind a header of its own.
    pub variant: u8,
    /// Whose the inner Ethernet frames are, for backends that the file says no other of.
    pub inner_mac: Option<Mac>,
}

/// An Ethernet address, as six pairs of hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    #[default]
    Maglev,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Unique.
    pub name: String,
    /// At least one; of two services' that contain a packet's destination, one comes first ([`Listen::rank`]).
    pub listen: Vec<Listen>,
    /// At least one, no duplicates.
    pub protocols: Vec<Protocol>,
    pub scheduler: Scheduler,
    pub forward: Forward,
    pub tunnel: Tunnel,
    pub timeouts: Timeouts,
    pub on_backend_down: OnBackendDown,
    /// What a UDP flow is; without meaning where the service has no UDP.
    pub udp: UdpMode,
    pub affinity: Affinity,
    /// The MSS of its connections is lowered to what their way takes.
    pub clamp_mss: bool,
    pub tracking: Tracking,
    pub limits: ServiceLimits,
    /// `None`: backends count as up.
    pub health: Option<HealthCheck>,
    /// `None`: backends are not asked.
    pub agent: Option<Agent>,
    /// With fewer healthy backends than this the service is reported degraded, and fallback backends are used.
    pub min_healthy: u32,
    /// Part of the backends that health may take out at once, 0 to 1.
    pub max_ejected: f64,
    /// When more than this part of them look dead, the checks are distrusted; 1: never.
    pub panic_threshold: f64,
    pub on_empty: OnEmpty,
    /// At least one per address family that `listen` has, or of whatever family where packets are tunnelled.
    pub backends: Vec<Backend>,
}

/// What becomes of traffic when every backend looks dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnEmpty {
    /// It is dropped and counted.
    #[default]
    Drop,
    /// It goes to all of them as if they were up.
    FailOpen,
}

/// A program on each backend that says how much traffic it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// `None`: the backend's own address.
    pub address: Option<IpAddr>,
    pub port: u16,
    /// What it is told first.
    pub send: Vec<u8>,
    pub interval: Duration,
    /// Never longer than `interval`.
    pub timeout: Duration,
}

/// What becomes of a TCP flow in the middle whose backend is down. UDP flows always go to another backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBackendDown {
    /// It goes to another backend, which answers with RST: the client learns within a round trip.
    #[default]
    Reselect,
    /// Its packets are dropped and counted.
    Drop,
    /// Sluice answers its packets with RST.
    Reset,
}

/// What belongs together in UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UdpMode {
    /// Datagrams of one 5-tuple, until they are silent for the timeout.
    #[default]
    Flow,
    /// Nothing: each datagram stands alone, and none is remembered.
    Oneshot,
}

/// What a client's flows have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// Nothing: each is placed by its own 5-tuple.
    #[default]
    Flow,
    /// Their backend: they are placed by source and destination address alone.
    Source,
}

/// Whether flows are written down whatever their row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tracking {
    /// As the scheduler needs it: consistent hashing needs none.
    #[default]
    Auto,
    Full,
    None,
}

impl Limits {
    /// The part of the flows that is for tracked ones, where some service asks for it.
    pub const fn for_tracked(&self) -> u32 {
        self.flows / 2
    }
}

impl Service {
    /// The backends that VIPs of a family are balanced over: those of the same family, and where there are none, those
    /// of the other one if packets are tunnelled.
    pub fn backends_for(&self, v6: bool) -> impl Iterator<Item = &Backend> {
        let is_own = move |b: &&Backend| b.address.is_ipv6() == v6;
        let crosses = self.forward.is_tunnel() && !self.backends.iter().any(|b| is_own(&b));
        self.backends.iter().filter(move |b| crosses || is_own(b))
    }

    /// The port of a backend that is checked if nothing says otherwise; 0 where the service listens on any.
    pub fn port_to_check(&self, backend: &Backend) -> u16 {
        let of_family = |v6| self.listen.iter().filter(move |l| l.is_ipv6() == v6).find_map(Listen::port);
        let v6 = backend.address.is_ipv6();
        backend.port.or_else(|| of_family(v6)).or_else(|| of_family(!v6)).unwrap_or(0)
    }

    /// Whether packets for one of its VIPs could be for a backend with this address.
    pub fn could_use(&self, address: IpAddr) -> bool {
        self.forward.is_tunnel() || self.listen.iter().any(|l| l.is_ipv6() == address.is_ipv6())
    }

    /// Whether it has connections whose MSS is lowered.
    pub fn clamps(&self) -> bool {
        self.clamp_mss && self.protocols.contains(&Protocol::Tcp)
    }

    /// Whether its flows are tracked. Datagrams that stand alone are no flow.
    pub fn tracks(&self, protocol: Protocol) -> bool {
        let flows = protocol == Protocol::Tcp || self.udp == UdpMode::Flow;
        flows && self.tracking == Tracking::Full && self.protocols.contains(&protocol)
    }

    /// Whether it has tracked flows of this address family.
    pub fn tracks_family(&self, v6: bool) -> bool {
        self.listen.iter().any(|l| l.is_ipv6() == v6) && self.protocols.iter().any(|p| self.tracks(*p))
    }
}

impl Model {
    /// Room for tracked flows: IPv4's and IPv6's.
    pub fn tracked_room(&self) -> [u32; 2] {
        let wanted = [false, true].map(|v6| self.services.iter().any(|s| s.tracks_family(v6)));
        let all = self.limits.for_tracked();
        match wanted {
            [true, true] => [all - all / 2, all / 2],
            [v4, v6] => [u32::from(v4) * all, u32::from(v6) * all],
        }
    }

    /// Most tracked flows that a service may have: of IPv4 and of IPv6. An equal part of the room each, unless the file
    /// says otherwise: together they are no more than there is room for, so that nobody's flows push out another's.
    pub fn tracked_quota(&self, service: &Service) -> [u32; 2] {
        // Said first, because what follows looks at all services, and is asked for each of them.
        if service.tracking != Tracking::Full {
            return [0; 2];
        }
        let room = self.tracked_room();
        [0, 1].map(|family| {
            let v6 = family == 1;
            if !service.tracks_family(v6) {
                return 0;
            }
            let services = self.services.iter().filter(|s| s.tracks_family(v6)).count() as u32;
            let part = (room[family] / services).max(1);
            service.limits.tracked_flows.map_or(part, |given| given.min(room[family]))
        })
    }
}

/// A service's part of the flow tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Most entries it may have, of both families together.
    pub flows: u32,
    /// Most entries it may add in a second, in the table of rows and in the one of tracked flows.
    pub new_flows: u32,
    /// Most tracked flows it may have of each address family; `None`: an equal part of the table.
    pub tracked_flows: Option<u32>,
}

/// How long each phase may be silent before a connection table would forget it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_established: Duration,
    pub tcp_opening: Duration,
    pub tcp_closing: Duration,
    pub udp: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique within the service; the address where the file gives no name, `address:port` where that is taken.
    pub name: String,
    pub address: IpAddr,
    /// `None`: the port the client used (and the only choice outside NAT).
    pub port: Option<u16>,
    /// Whose the inner Ethernet frames are, where tunnels carry such.
    pub inner_mac: Option<Mac>,
    /// Share of new flows relative to the others; 0 takes none.
    pub weight: u32,
    pub state: BackendState,
    /// Used only while the others are too few.
    pub fallback: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    #[default]
    Active,
    /// Known and checked, but not in the ring.
    Drain,
}

impl BackendState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Drain => "drain",
        }
    }
}

/// How the health of a service's backends is found out.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// One at least.
    pub checks: Vec<Check>,
    /// With several checks: how many have to pass.
    pub need: Need,
    pub interval: Duration,
    /// In place of `interval` while results contradict the verdict; never longer.
    pub fast_interval: Duration,
    /// In place of `interval` while the backend is down.
    pub down_interval: Duration,
    /// Never longer than `interval`.
    pub timeout: Duration,
    /// Consecutive successes that bring a backend up.
    pub rise: u32,
    /// Consecutive failures that take it down.
    pub fall: u32,
    /// Fraction of the interval by which each check is moved at random, 0 to 0.5.
    pub jitter: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    #[default]
    All,
    Any,
}

/// One check, run against each backend of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub kind: CheckKind,
    /// `None`: the backend's own address.
    pub address: Option<IpAddr>,
    /// `None`: the backend's own port, else the service's first listen port. Without meaning for
    /// some kinds.
    pub port: Option<u16>,
}

impl Check {
    /// Where it goes, for a backend at `backend`.
    pub fn endpoint(&self, backend: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(backend.ip()), self.port.unwrap_or(backend.port()))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// The handshake completes.
    Tcp,
    Http(HttpCheck),
    Https(HttpsCheck),
    /// The TLS handshake completes.
    Tls(TlsCheck),
    Dns(DnsCheck),
    Udp(UdpCheck),
    /// An echo request is answered.
    Icmp,
    Grpc(GrpcCheck),
    Exec(ExecCheck),
}

impl CheckKind {
    /// Its key in the file.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Https(_) => "https",
            Self::Tls(_) => "tls",
            Self::Dns(_) => "dns",
            Self::Udp(_) => "udp",
            Self::Icmp => "icmp",
            Self::Grpc(_) => "grpc",
            Self::Exec(_) => "exec",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpCheck {
    pub method: String,
    pub path: String,
    /// `Host:` header; `None` is the address checked.
    pub host: Option<String>,
    pub headers: Vec<(String, String)>,
    /// Inclusive ranges of accepted status codes.
    pub expect: Vec<(u16, u16)>,
    /// What the body has to contain.
    pub body_contains: Option<String>,
    /// What the body has to match somewhere.
    pub body_matches: Option<Pattern>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpsCheck {
    pub http: HttpCheck,
    pub alpn: HttpVersion,
    pub tls: TlsOptions,
}

/// Which HTTP is spoken, by the name TLS knows it by (ALPN).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpVersion {
    #[default]
    #[serde(rename = "http/1.1")]
    Http1,
    #[serde(rename = "h2")]
    Http2,
}

/// Whom to take for the backend behind TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// The name that is asked for (SNI), and that the certificate has to be for; `None`: a check's host, else the
    /// address, for which no SNI is sent.
    pub sni: Option<String>,
    /// Certificates of the CAs to trust; `None`: the host's own.
    pub ca: Option<PathBuf>,
    /// Whether the certificate has to be valid for the name, now, and of a CA that is trusted.
    pub verify: bool,
    /// A certificate that has no more days than this is warned of; 0: none is.
    pub warn_days: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsCheck {
    pub tls: TlsOptions,
    /// Protocols to offer by ALPN, of which the backend has to take one; empty: the question is not asked.
    pub alpn: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsCheck {
    pub over: Protocol,
    pub name: String,
    pub record: RecordType,
    /// Response codes that are accepted.
    pub rcode: Vec<Rcode>,
    /// The data of a record that has to be among the answers, as it is written in a zone; of TXT records the text.
    pub answer: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordType {
    #[default]
    A,
    AAAA,
    CNAME,
    MX,
    NS,
    PTR,
    SOA,
    SRV,
    TXT,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rcode {
    #[default]
    NOERROR,
    FORMERR,
    SERVFAIL,
    NXDOMAIN,
    NOTIMP,
    REFUSED,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpCheck {
    pub send: Vec<u8>,
    /// What the answer has to contain; empty: any answer will do.
    pub expect: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcCheck {
    /// The name the health service knows it by; empty: the server as a whole.
    pub service: String,
    /// `:authority`; `None` is the address checked.
    pub host: Option<String>,
    /// `None`: in the clear.
    pub tls: Option<TlsOptions>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCheck {
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
}

/// A regular expression that compiled.
#[derive(Clone, Debug)]
pub struct Pattern(regex::bytes::Regex);

impl Pattern {
    /// # Errors
    /// When it is no regular expression, or one that takes too much memory.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        regex::bytes::RegexBuilder::new(text).size_limit(1 << 20).build().map(Self)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn is_match(&self, bytes: &[u8]) -> bool {
        self.0.is_match(bytes)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
