//! Which keys a configuration has, what each may hold, and what it means to leave it out: one table per mapping.
//!
//! The trap is a second list. The loader ([`super::decode`]), the JSON Schema ([`super::json_schema`]) and the tests
//! of docs/configuration.md all read these tables, so a key, a bound or a word of a choice is written here and
//! nowhere else. What takes two values to see ([`super::validate`]) is in no table, and no JSON Schema can say it.
//!
//! Keys are strict. A key that is silently ignored is the worst kind of accepted: `deny: […]` that denies nothing.
//! So what is not in a table is an error with a guess at what was meant, and keys of later versions are in it as
//! [`Status::Later`], refused by name.

use std::time::Duration;

use lb_common::backend::MAX_BACKENDS;

/// A mapping's keys.
#[derive(Debug)]
pub struct Table {
    /// How its place is written: `services[].backends[]`; empty at the top.
    pub place: &'static str,
    pub keys: &'static [Key],
    /// Of these keys one at most may stand.
    pub at_most_one: &'static [&'static str],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub status: Status,
}

#[derive(Debug)]
pub enum Status {
    Built(Entry),
    /// Will exist; using it now is an error rather than a surprise. The text says what to do until then.
    Later(&'static str),
}

/// What stands behind a key.
#[derive(Debug)]
pub struct Entry {
    pub value: Value,
    pub absent: Absent,
    /// The key in docs/configuration.md, links taken off.
    pub about: &'static str,
}

/// What it means that a key is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// An error, with this hint.
    Refused(&'static str),
    /// The same as this value, as it is written in a file.
    Is(&'static str),
    /// It depends, in the words of docs/configuration.md.
    Depends(&'static str),
    /// Nothing, or what the mapping's own keys say.
    Nothing,
}

/// What may stand behind a key.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// `1`.
    Version,
    /// A whole number, both bounds included.
    Integer(u32, u32),
    /// Both bounds included.
    Duration(Duration, Duration),
    /// `10k/s`, both bounds included, per second.
    Rate(u32, u32),
    /// Up to this many hundredths.
    Percent(u32),
    /// An absolute path.
    Path,
    Name,
    /// A name, or what the backend would be called without one.
    BackendName,
    InterfaceName,
    /// One IP address.
    Address,
    /// A VIP and its port.
    Endpoint,
    /// An address and port to serve on.
    Socket,
    /// An Ethernet address of one host.
    Mac,
    /// An address prefix without host bits.
    Prefix4,
    Prefix6,
    Method,
    /// The path of a request, with its query.
    RequestPath,
    HostName,
    /// Header names and their values.
    Headers,
    /// A status code, or a range of them.
    StatusCodes,
    /// A name as a certificate has it: no port, no address.
    ServerName,
    /// What a protocol is called in ALPN (RFC 7301).
    AlpnName,
    /// `true` or `false`.
    Flag,
    /// Any text of one line that is not empty.
    Text,
    /// A regular expression.
    Pattern,
    /// A name in DNS.
    DomainName,
    /// Bytes: a text with escapes such as `\x00`.
    Bytes,
    /// What a gRPC health service calls a service.
    GrpcService,
    /// Where a request goes: `http://…`.
    Url,
    Choice(&'static Choice),
    /// Exactly this text.
    Word(&'static str),
    /// Nothing behind the colon.
    Empty,
    Table(&'static Table),
    /// A list of at least this many.
    List(u32, &'static Value),
    /// One of them, or a list with one at least.
    OneOrMany(&'static Value),
    Either(&'static [Value]),
}

/// A value that is one of a few words.
#[derive(Debug)]
pub struct Choice {
    /// What a word of it is, for messages: "a scheduler".
    pub what: &'static str,
    pub words: &'static [Word],
}

#[derive(Debug)]
pub struct Word {
    pub name: &'static str,
    /// For a word of a later version: what to write until it is built.
    pub until_then: Option<&'static str>,
}

const fn table(place: &'static str, keys: &'static [Key]) -> Table {
    Table { place, keys, at_most_one: &[] }
}

const fn key(name: &'static str, value: Value, absent: Absent, about: &'static str) -> Key {
    Key { name, status: Status::Built(Entry { value, absent, about }) }
}

const fn later(name: &'static str, until_then: &'static str) -> Key {
    Key { name, status: Status::Later(until_then) }
}

const fn word(name: &'static str) -> Word {
    Word { name, until_then: None }
}

const fn later_word(name: &'static str, until_then: &'static str) -> Word {
    Word { name, until_then: Some(until_then) }
}

use Absent::{Depends, Is, Nothing, Refused};
use Value::{Either, Integer, List, OneOrMany};

const PORT: Value = Integer(1, u16::MAX as u32);
/// Ids are 16 bits in a ring row, and 0 is "none".
const MOST_BACKENDS: u32 = MAX_BACKENDS - 1;

const MOST_FLOWS_OF_A_SERVICE: u32 = 1 << 26;
const MOST_FLOWS: Value = Integer(1_024, MOST_FLOWS_OF_A_SERVICE);

// ── words ──

static XDP_MODE: Choice = Choice {
    what: "an XDP mode",
    words: &[word("auto"), word("native"), word("generic"), later_word("offload", "use `native`")],
};
static VIP_ADDRESSES: Choice =
    Choice { what: "a way to manage VIP addresses", words: &[word("managed"), word("external")] };
static ON_EXIT: Choice = Choice { what: "what to do at the end", words: &[word("keep"), word("detach")] };
static BACKEND_STATE: Choice = Choice { what: "a backend's state", words: &[word("active"), word("drain")] };
static ON_BACKEND_DOWN: Choice =
    Choice { what: "an answer to a dead backend", words: &[word("reselect"), word("drop"), word("reset")] };
static UDP_MODE: Choice = Choice { what: "a UDP mode", words: &[word("flow"), word("oneshot")] };
static SWITCH: Choice = Choice { what: "a switch", words: &[word("on"), word("off")] };
static ON_EMPTY: Choice = Choice {
    what: "an answer to a pool without a healthy backend",
    words: &[
        word("drop"),
        word("fail-open"),
        later_word("reset", "use `drop`, or `fail-open`, whose dead backends reset connections themselves if they can"),
    ],
};
static SUBJECT: Choice = Choice { what: "what a hook is told of", words: &[word("backend"), word("service")] };
static AFFINITY: Choice = Choice { what: "an affinity", words: &[word("flow"), word("source")] };
static TRACKING: Choice = Choice { what: "a tracking mode", words: &[word("auto"), word("full"), word("none")] };
static OVER: Choice = Choice { what: "a transport of DNS", words: &[word("udp"), word("tcp")] };
static RECORD_TYPE: Choice = Choice {
    what: "a type of DNS records",
    words: &[
        word("A"),
        word("AAAA"),
        word("CNAME"),
        word("MX"),
        word("NS"),
        word("PTR"),
        word("SOA"),
        word("SRV"),
        word("TXT"),
    ],
};
static RCODE: Choice = Choice {
    what: "a response code of DNS",
    words: &[word("NOERROR"), word("FORMERR"), word("SERVFAIL"), word("NXDOMAIN"), word("NOTIMP"), word("REFUSED")],
};
static HTTP_VERSION: Choice = Choice { what: "an HTTP version", words: &[word("http/1.1"), word("h2")] };
static PROTOCOL: Choice = Choice {
    what: "a protocol",
    words: &[
        word("tcp"),
        word("udp"),
        later_word("sctp", "Sluice balances `tcp` and `udp`"),
        later_word("quic", "use `udp`: connections stay as long as the client's address does"),
    ],
};

const MAGLEV: &str = "use `maglev` meanwhile: consistent hashing by flow, shares by weight";
static SCHEDULER: Choice = Choice {
    what: "a scheduler",
    words: &[
        word("maglev"),
        later_word("round-robin", MAGLEV),
        later_word("random", MAGLEV),
        later_word("source-hash", MAGLEV),
        later_word("least-connections", MAGLEV),
        later_word("least-response-time", MAGLEV),
        later_word("least-bandwidth", MAGLEV),
        later_word("custom", MAGLEV),
    ],
};

static FORWARD: Choice = Choice {
    what: "a forwarding mode",
    words: &[
        word("nat"),
        word("dsr-l2"),
        word("ipip"),
        word("gre"),
        word("gue"),
        word("vxlan"),
        word("geneve"),
        later_word("full-nat", "use `nat`, with the backends' replies routed through this node"),
    ],
};

// ── keys ──

pub static TOP: Table = table(
    "",
    &[
        key("version", Value::Version, Refused("add `version: 1` at the top"), "`1`"),
        key("node", Value::Table(&NODE), Refused("name the interfaces: `node: { interfaces: [eth0] }`"), "this host"),
        key("admin", Value::Table(&ADMIN), Nothing, "the admin API and metrics"),
        key(
            "hash_key",
            Value::Path,
            Is("/etc/sluice/hash.key"),
            "file with the fleet's secret: 64 hexadecimal digits. Made once if it is not there. It decides which \
             backend a flow gets, so it must be the same on every node that serves the same addresses",
        ),
        key("limits", Value::Table(&LIMITS), Nothing, "room in the kernel's maps"),
        key("packets", Value::Table(&PACKETS), Nothing, "kinds of packets to know"),
        key(
            "hooks",
            List(0, &Value::Table(&HOOK)),
            Nothing,
            "list of hooks, which are told of what happens to backends and services",
        ),
        key("defaults", Value::Table(&DEFAULTS), Nothing, "defaults for all services"),
        key(
            "services",
            List(0, &Value::Table(&SERVICE)),
            Refused("list the services; `services: []` for none yet"),
            "list of services; `[]` for none yet",
        ),
    ],
);

pub static NODE: Table = table(
    "node",
    &[
        key(
            "interfaces",
            OneOrMany(&Either(&[Value::InterfaceName, Value::Table(&INTERFACE)])),
            Refused("name the interfaces packets arrive on: `interfaces: [eth0]`"),
            "list of interfaces on which packets for the VIPs, and the backends' replies, arrive; a bare name is \
             `{ name: NAME }`",
        ),
        key(
            "vip_addresses",
            Value::Choice(&VIP_ADDRESSES),
            Is("managed"),
            "`managed`: Sluice adds the VIPs to the host and announces them. `external`: somebody else does; see \
             operations",
        ),
        key(
            "on_exit",
            Value::Choice(&ON_EXIT),
            Is("keep"),
            "`keep`: when Sluice stops, packets are forwarded on by the last good state, and the next start takes over; \
             `sluice detach` ends it. `detach`: stopping removes program, maps and VIPs",
        ),
        key(
            "bpf_dir",
            Value::Path,
            Is("/sys/fs/bpf/sluice"),
            "where programs, links and maps are pinned; on a BPF file system. Its contents are Sluice's: a start takes \
             over or removes what is in it",
        ),
        key(
            "run_dir",
            Value::Path,
            Is("/run/sluice"),
            "the lock, the list of VIPs that were added, and the admin socket",
        ),
        key(
            "tunnel_source",
            Value::Table(&TUNNEL_SOURCE),
            Depends("the address the kernel would use"),
            "source addresses of outer headers",
        ),
        key(
            "min_ring_interval",
            Value::Duration(Duration::ZERO, Duration::from_secs(60)),
            Is("1s"),
            "least time between two changes of rings, 0 s to 60 s: what comes within it is applied together when it is \
             over, and a reload's answer waits for that. A backend's death, a drain and a rollback do not wait",
        ),
        key(
            "weight_hysteresis",
            Value::Percent(50),
            Is("0%"),
            "part of its weight by which each backend's may change before a ring follows, 0 % to 50 %: what is less adds \
             up. For weights that a program writes. Nodes that share traffic need 0 %, or their rings differ",
        ),
    ],
);

pub static INTERFACE: Table = table(
    "node.interfaces[]",
    &[
        key(
            "name",
            Value::InterfaceName,
            Refused("write `eth0` or `{ name: eth0, xdp: auto }`"),
            "the interface. It must exist when Sluice starts",
        ),
        key(
            "xdp",
            Value::Choice(&XDP_MODE),
            Is("auto"),
            "`auto`: native if the driver can, else generic with a warning. `native`: refuse to start otherwise. \
             `generic`: in the network stack; works everywhere, slower",
        ),
    ],
);

pub static TUNNEL_SOURCE: Table = table(
    "node.tunnel_source",
    &[
        key(
            "ipv4",
            Value::Prefix4,
            Depends("the address the kernel would use towards the backend"),
            "prefix, such as `192.0.2.0/24`",
        ),
        key(
            "ipv6",
            Value::Prefix6,
            Depends("the address the kernel would use towards the backend"),
            "prefix, such as `2001:db8::/64`; at most the last 32 bits vary",
        ),
    ],
);

pub static ADMIN: Table = table(
    "admin",
    &[
        key(
            "socket",
            Value::Path,
            Depends("`admin.sock` in `node.run_dir`"),
            "unix socket of the JSON API: for its owner and group, mode 0660",
        ),
        key(
            "http",
            Either(&[Value::Word("off"), Value::Socket]),
            Is("127.0.0.1:9480"),
            "address and port of `/metrics`, `/healthz` and `/readyz`; `off` for none. Read-only, no authentication",
        ),
    ],
);

pub static LIMITS: Table = table(
    "limits",
    &[
        key(
            "flows",
            // An entry takes about 100 bytes of kernel memory: 64 Mi of them are 6 GiB.
            MOST_FLOWS,
            Is("1048576"),
            "flows that can be written down, 1,024 to 67,108,864; the memory is taken at the start. All of them are \
             for flows of rows that move, or half of them where some service has `tracking: full`: the other half is \
             for tracked flows. Where services have both IPv4 and IPv6 VIPs, each family has half of that",
        ),
        key(
            "services",
            Integer(1, 65_535),
            Is("1024"),
            "most services, 1 to 65,535. Each makes room for four VIP endpoints (address, port, protocol) of a \
             family, as many prefixes, and 64 blocks of ports, counted over all services",
        ),
        key(
            "backends",
            Integer(1, MOST_BACKENDS),
            Is("8192"),
            "most backends in all services together, 1 to 65,534; and most NAT backend endpoints of a family, of \
             which a backend has one for each port and protocol",
        ),
    ],
);

pub static PACKETS: Table = table(
    "packets",
    &[
        key(
            "vlan_tags",
            Value::Choice(&SWITCH),
            Is("on"),
            "`on`: frames with one or two VLAN tags (802.1Q, 802.1ad) are looked into, and frames leave with the tags of the \
             VLAN interface that the route names. `off`: tagged frames are the host's",
        ),
        key(
            "extension_headers",
            Value::Choice(&SWITCH),
            Is("on"),
            "`on`: IPv6 hop-by-hop, routing, destination options and fragment headers are stepped over, eight of them or 256 \
             bytes. `off`: packets that have one are the host's",
        ),
        key(
            "fragments",
            Value::Choice(&SWITCH),
            Is("on"),
            "`on`: the later fragments of a packet go where its first one went. `off`: the first is dropped (`fragment`), later \
             ones are the host's",
        ),
        key(
            "icmp_errors",
            Value::Choice(&SWITCH),
            Is("on"),
            "`on`: ICMP errors about a packet of a service (unreachable, too big, time exceeded) go to the backend or the client that \
             sent it. `off`: they are the host's",
        ),
        key(
            "echo",
            Value::Choice(&SWITCH),
            Is("on"),
            "`on`: echo requests (ping) for service addresses are answered. `off`: they are the host's",
        ),
        key(
            "too_big",
            Value::Choice(&SWITCH),
            Is("on"),
            "`on`: who sends a packet that does not fit its way, tunnel and all, is told so (fragmentation needed, packet too big), \
             at most 1,000 times a second by each CPU. `off`: it is dropped without a word",
        ),
    ],
);

pub static HOOK: Table = Table {
    place: "hooks[]",
    keys: &[
        key(
            "on",
            OneOrMany(&Value::Choice(&SUBJECT)),
            Depends("`[backend, service]`"),
            "what it is told of. `backend`: a backend's health, and what an operator or its agent made of it. `service`: a \
             service that is ready for traffic or not any more, panic, fallback",
        ),
        key(
            "exec",
            OneOrMany(&Value::Text),
            Nothing,
            "list of a program, by its absolute path, and its arguments: run for each event, without a shell, as `nobody` and \
             without capabilities, with the event in its environment",
        ),
        key(
            "webhook",
            Value::Url,
            Nothing,
            "`http://` URL that each event is sent to as JSON, by POST; any status from 200 to 299 will do",
        ),
        key(
            "timeout",
            Value::Duration(Duration::from_millis(100), Duration::from_secs(60)),
            Is("5s"),
            "what takes longer is ended, and has failed, 100 ms to 60 s",
        ),
    ],
    at_most_one: &["exec", "webhook"],
};

pub static DEFAULTS: Table = table(
    "defaults",
    &[
        SCHEDULER_KEY,
        FORWARD_KEY,
        TIMEOUTS_KEY,
        ON_BACKEND_DOWN_KEY,
        TRACKING_KEY,
        key(
            "health",
            Value::Table(&HEALTH_DEFAULTS),
            Nothing,
            "the timing of checks; which check fits is each service's own",
        ),
    ],
);

const SCHEDULER_KEY: Key = key(
    "scheduler",
    Value::Choice(&SCHEDULER),
    Is("maglev"),
    "`maglev`: consistent hashing of the 5-tuple, shares by weight",
);
const FORWARD_KEY: Key = key(
    "forward",
    Value::Choice(&FORWARD),
    Is("nat"),
    "`nat`: replies come back through this host and are translated. With all others, backends have the VIP and answer \
     the client directly. `dsr-l2`: they are on the link, and get the packet as it is. `ipip`, `gre`, `gue`, `vxlan`, \
     `geneve`: they get it in a tunnel, over IPv4 or IPv6. See operations",
);
const TIMEOUTS_KEY: Key = key("timeouts", Value::Table(&TIMEOUTS), Nothing, "how long a flow may be silent");
const ON_BACKEND_DOWN_KEY: Key = key(
    "on_backend_down",
    Value::Choice(&ON_BACKEND_DOWN),
    Is("reselect"),
    "what becomes of established TCP flows of a backend that is down. `reselect`: they go to another one, which resets \
     them, so clients learn at once. `drop`: their packets are dropped and counted, so that they go on if it comes \
     back. `reset`: Sluice resets them itself. UDP flows always go to another backend",
);

const TRACKING_KEY: Key = key(
    "tracking",
    Value::Choice(&TRACKING),
    Is("auto"),
    "whether flows are written down whatever their row. `full`: each flow, so that `sluice flows` lists it, at the price of \
     a lookup per packet. `none`: only those of rows that move. `auto`: as the scheduler needs it, which is `none` for \
     `maglev`. Connections stay where they are either way",
);

pub static SERVICE: Table = table(
    "services[]",
    &[
        key(
            "name",
            Value::Name,
            Refused("name it, such as `name: web`"),
            "unique. Metric label, and what `sluice drain SERVICE/BACKEND` takes",
        ),
        key(
            "listen",
            OneOrMany(&Value::Endpoint),
            Refused("write the VIP and port, such as `listen: 203.0.113.10:443`"),
            "VIP endpoint, or a list of them; the port may be a range or `0` for any, the address a prefix: many addresses \
             and ports. No two services share address, port and protocol",
        ),
        key("protocol", OneOrMany(&Value::Choice(&PROTOCOL)), Is("tcp"), "`tcp`, `udp` or `[tcp, udp]`"),
        SCHEDULER_KEY,
        FORWARD_KEY,
        key("tunnel", Value::Table(&TUNNEL), Nothing, "how `gue`, `vxlan` and `geneve` tunnel; refused with others"),
        TIMEOUTS_KEY,
        ON_BACKEND_DOWN_KEY,
        key("udp", Value::Table(&UDP), Nothing, "what a UDP flow is; refused where `protocol` has no `udp`"),
        key(
            "clamp_mss",
            Value::Choice(&SWITCH),
            Depends("`on` with `forward: nat`, else `off`"),
            "`on`: the MSS with which TCP connections open is lowered to what the way takes, tunnel and all, so that nobody sends \
             segments that are too big. With `nat` in both directions; else only what clients say, and so only what backends \
             send, because their answers do not come this way",
        ),
        key(
            "affinity",
            Value::Choice(&AFFINITY),
            Is("flow"),
            "what the flows of one client have in common. `flow`: nothing, each is placed by its 5-tuple. `source`: the \
             backend, they are placed by source and destination address alone",
        ),
        TRACKING_KEY,
        key("limits", Value::Table(&SERVICE_LIMITS), Nothing, "its part of the flow tables"),
        key(
            "health",
            Either(&[Value::Word("none"), Value::Table(&HEALTH)]),
            Depends("a TCP check; none if the service is UDP only"),
            "the health check, or `none`",
        ),
        key(
            "agent",
            Value::Table(&AGENT),
            Depends("backends are not asked"),
            "a program on each backend that says how much traffic it wants",
        ),
        key(
            "min_healthy",
            Integer(0, MOST_BACKENDS),
            Is("1"),
            "with fewer healthy backends the service is reported as degraded, `/readyz` answers 503, and backends with \
             `fallback: true` are used",
        ),
        key(
            "max_ejected",
            Value::Percent(100),
            Is("100%"),
            "part of the backends of an address family that health may take out at once, rounded down, but one at least; 0 % \
             takes out none. Further ones that look dead are kept",
        ),
        key(
            "panic_threshold",
            Value::Percent(100),
            Is("100%"),
            "when more than this part of the backends of an address family look dead at once, the checks are distrusted and \
             all are kept, until no more than that have looked dead for 10 s; 100 %: never",
        ),
        key(
            "on_empty",
            Value::Choice(&ON_EMPTY),
            Is("drop"),
            "what becomes of packets when every backend of an address family looks dead. `drop`: they are dropped as \
             `no_backend`. `fail-open`: they go to all of them, as if they were up",
        ),
        key(
            "backends",
            List(1, &Value::Table(&BACKEND)),
            Refused("list them: `backends: [{ address: 10.0.0.11 }]`"),
            "list of backends; at least one for each address family in `listen`; where packets are tunnelled, backends of \
             the other family serve one that has none of its own",
        ),
        later("deny", "remove it; meanwhile, deny sources in the firewall of the backends"),
        later("allow", "remove it; meanwhile, allow sources in the firewall of the backends"),
    ],
);

pub static AGENT: Table = table(
    "services[].agent",
    &[
        CHECK_ADDRESS,
        key("port", PORT, Refused("write the port it listens on, such as `port: 9999`"), "port to connect to"),
        key("send", Value::Bytes, Nothing, "what to say first, with escapes as in the UDP check"),
        key("interval", PACE, Is("2s"), "time between two questions to a backend, 10 ms to 1 h"),
        key(
            "timeout",
            PACE,
            Depends("`1s`, or the interval if shorter"),
            "how long an answer may take; at most the interval. No answer changes nothing",
        ),
    ],
);

pub static TUNNEL: Table = table(
    "services[].tunnel",
    &[
        key(
            "port",
            PORT,
            Depends("6080 for `gue`, 4789 for `vxlan`, 6081 for `geneve`"),
            "the outer UDP destination port",
        ),
        key(
            "variant",
            Integer(0, 1),
            Is("1"),
            "`gue` only. 1: the packet follows the UDP header, which saves four bytes. 0: behind a GUE header. Linux \
             receives both",
        ),
        key(
            "vni",
            Integer(0, 0xff_ffff),
            Depends("refused without it"),
            "`vxlan`, `geneve`: the virtual network's number",
        ),
        key(
            "inner_mac",
            Value::Mac,
            Nothing,
            "`vxlan`, `geneve`: the MAC address that inner frames are for, where backends name none of their own",
        ),
    ],
);

pub static UDP: Table = table(
    "services[].udp",
    &[key(
        "mode",
        Value::Choice(&UDP_MODE),
        Is("flow"),
        "`flow`: datagrams with one 5-tuple stay together until they are silent for `timeouts.udp`. `oneshot`: each \
         datagram stands alone, as in DNS: nothing is remembered, and a drained backend gets none from that moment on",
    )],
);

pub static SERVICE_LIMITS: Table = table(
    "services[].limits",
    &[
        key(
            "flows",
            Integer(1, MOST_FLOWS_OF_A_SERVICE),
            Depends("half of what there is for all"),
            "flows of this service that can be written down while rows move, at most `limits.flows`, or half of that \
             where some service is tracked",
        ),
        key(
            "new_flows",
            Value::Rate(1, 100_000_000),
            Is("100k/s"),
            "flows of this service that can be written down in a second, `1/s` to `100M/s`; keeps a flood that comes \
             while rows move from taking all the room. Holds for tracked flows, too, which are counted apart",
        ),
        key(
            "tracked_flows",
            Integer(1, MOST_FLOWS_OF_A_SERVICE),
            Depends("an equal part of the table"),
            "flows of this service that can be tracked, of each address family. By default the table is divided among \
             those that track, and no service's flows push out another's; more than that, and they do. Beyond it, flows \
             are placed by hash and not tracked",
        ),
        later("per_client", "remove it; meanwhile, limit clients in the firewall of the backends"),
    ],
);

/// The packet path keeps time in whole seconds; past a week a slot is lost, not kept.
const SILENCE: Value = Value::Duration(Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));

pub static TIMEOUTS: Table = table(
    "services[].timeouts",
    &[
        key("tcp_established", SILENCE, Is("15m"), "an established TCP connection"),
        key("tcp_opening", SILENCE, Is("30s"), "a TCP handshake"),
        key("tcp_closing", SILENCE, Is("10s"), "after FIN"),
        key("udp", SILENCE, Is("30s"), "UDP"),
    ],
);

/// Below 10 ms a check measures the scheduler, not the backend.
const PACE: Value = Value::Duration(Duration::from_millis(10), Duration::from_secs(3600));
const IN_A_ROW: Value = Integer(1, 1_000);

const INTERVAL: Key = key("interval", PACE, Is("2s"), "time between two checks of a backend, 10 ms to 1 h");
const FAST_INTERVAL: Key = key(
    "fast_interval",
    PACE,
    Depends("the interval"),
    "in place of `interval` while a verdict is changing: after a failure of a backend that is up, after a success of one \
     that is down, until `fall` or `rise` is reached or another result ends it; at most the interval",
);
const DOWN_INTERVAL: Key = key(
    "down_interval",
    PACE,
    Depends("the interval"),
    "in place of `interval` while a backend is down; longer spares it, shorter finds it sooner",
);
const TIMEOUT: Key = key(
    "timeout",
    PACE,
    Depends("`1s`, or the interval if shorter"),
    "a check that takes longer has failed; at most the interval. It covers the whole check",
);
const RISE: Key = key(
    "rise",
    IN_A_ROW,
    Is("2"),
    "successes in a row that bring a backend up, 1 to 1,000. The very first check decides alone",
);
const FALL: Key = key("fall", IN_A_ROW, Is("3"), "failures in a row that take it down, 1 to 1,000");
const JITTER: Key = key(
    "jitter",
    Value::Percent(50),
    Is("10%"),
    "part of the interval by which each check is moved at random, 0 % to 50 %",
);

// Without keys of its own, a check may be written as `tcp:`.
const TCP_FORMS: &[Value] = &[Value::Empty, Value::Table(&TCP_CHECK)];
const HTTP_FORMS: &[Value] = &[Value::Empty, Value::Table(&HTTP_CHECK)];
const HTTPS_FORMS: &[Value] = &[Value::Empty, Value::Table(&HTTPS_CHECK)];
const TLS_FORMS: &[Value] = &[Value::Empty, Value::Table(&TLS_CHECK)];
const ICMP_FORMS: &[Value] = &[Value::Empty, Value::Table(&ICMP_CHECK)];
const GRPC_FORMS: &[Value] = &[Value::Empty, Value::Table(&GRPC_CHECK)];
const GRPC_TLS_FORMS: &[Value] = &[Value::Empty, Value::Table(&GRPC_TLS)];

const TCP: Key = key("tcp", Either(TCP_FORMS), Nothing, "TCP check: the handshake completes");
const HTTP: Key = key(
    "http",
    Either(HTTP_FORMS),
    Nothing,
    "HTTP check: the response arrives whole, with an expected status and body",
);
const HTTPS: Key = key("https", Either(HTTPS_FORMS), Nothing, "HTTPS check: the same inside TLS");
const TLS: Key = key(
    "tls",
    Either(TLS_FORMS),
    Nothing,
    "TLS check: the handshake completes, with a certificate that is good for clients",
);
const DNS: Key =
    key("dns", Value::Table(&DNS_CHECK), Nothing, "DNS check: a question is answered, with what is expected");
const UDP_KEY: Key = key("udp", Value::Table(&UDP_CHECK), Nothing, "UDP check: a datagram is answered");
const ICMP: Key = key("icmp", Either(ICMP_FORMS), Nothing, "ICMP check: the host answers a ping");
const GRPC: Key =
    key("grpc", Either(GRPC_FORMS), Nothing, "gRPC check: the standard health service says that it serves");
const EXEC: Key = key("exec", Value::Table(&EXEC_CHECK), Nothing, "a program decides by its exit code");

pub static HEALTH: Table = Table {
    place: "services[].health",
    keys: &[
        TCP,
        HTTP,
        HTTPS,
        TLS,
        DNS,
        UDP_KEY,
        ICMP,
        GRPC,
        EXEC,
        key(
            "all",
            List(1, &Value::Table(&CHECK)),
            Nothing,
            "list of checks that are made together and all have to pass",
        ),
        key(
            "any",
            List(1, &Value::Table(&CHECK)),
            Nothing,
            "list of checks that are made together, of which one has to pass",
        ),
        INTERVAL,
        FAST_INTERVAL,
        DOWN_INTERVAL,
        TIMEOUT,
        RISE,
        FALL,
        JITTER,
    ],
    at_most_one: &["tcp", "http", "https", "tls", "dns", "udp", "icmp", "grpc", "exec", "all", "any"],
};

/// What may stand in a list of checks: one kind each, and the list's timing for all.
pub static CHECK: Table = Table {
    place: "services[].health.all[]",
    keys: &[TCP, HTTP, HTTPS, TLS, DNS, UDP_KEY, ICMP, GRPC, EXEC],
    at_most_one: &["tcp", "http", "https", "tls", "dns", "udp", "icmp", "grpc", "exec"],
};

/// In `defaults.health` only the timing makes sense: which check fits is each service's own.
pub static HEALTH_DEFAULTS: Table =
    table("defaults.health", &[INTERVAL, FAST_INTERVAL, DOWN_INTERVAL, TIMEOUT, RISE, FALL, JITTER]);

const CHECK_ADDRESS: Key =
    key("address", Value::Address, Depends("the backend's `address`"), "IP address to check in place of the backend's");
const CHECK_PORT: Key =
    key("port", PORT, Depends("the backend's `port`, else the first port of `listen`"), "port to connect to");

pub static TCP_CHECK: Table = table("services[].health.tcp", &[CHECK_ADDRESS, CHECK_PORT]);

const REQUEST_PATH: Key = key("path", Value::RequestPath, Is("/"), "request path");
const METHOD: Key = key("method", Value::Method, Is("GET"), "request method");
const HOST: Key = key("host", Value::HostName, Depends("the address checked"), "`Host` header");
const HEADERS: Key = key("headers", Value::Headers, Nothing, "mapping of further headers");
const EXPECT: Key =
    key("expect", OneOrMany(&Value::StatusCodes), Is("200-299"), "status or range of statuses, or a list of them");
const BODY_CONTAINS: Key = key("body_contains", Value::Text, Nothing, "text that the body has to contain");
const BODY_MATCHES: Key = key(
    "body_matches",
    Value::Pattern,
    Nothing,
    "regular expression that has to match somewhere in the body, in the syntax of Rust's `regex`",
);

pub static HTTP_CHECK: Table = table(
    "services[].health.http",
    &[CHECK_ADDRESS, CHECK_PORT, REQUEST_PATH, METHOD, HOST, HEADERS, EXPECT, BODY_CONTAINS, BODY_MATCHES],
);

const SNI: Key = key(
    "sni",
    Value::ServerName,
    Depends("`host` where it is a name, else the address checked"),
    "name to ask for, which the certificate has to be for. For an address, none is sent (SNI)",
);
const CA: Key = key(
    "ca",
    Value::Path,
    Depends("the host's own CAs"),
    "file with the certificates of the CAs to trust, PEM. Read again when it changes",
);
const VERIFY: Key = key(
    "verify",
    Value::Flag,
    Is("true"),
    "whether the certificate has to be valid now, for the name, and of a trusted CA. `false` takes any",
);
const WARN_DAYS: Key = key(
    "warn_days",
    Integer(0, 3_650),
    Is("14"),
    "a certificate that expires within so many days is warned of in the log and in `sluice status`, 0 to 3,650; 0: none is. \
     The backend stays up",
);

pub static HTTPS_CHECK: Table = table(
    "services[].health.https",
    &[
        CHECK_ADDRESS,
        CHECK_PORT,
        REQUEST_PATH,
        METHOD,
        HOST,
        HEADERS,
        EXPECT,
        BODY_CONTAINS,
        BODY_MATCHES,
        key(
            "alpn",
            Value::Choice(&HTTP_VERSION),
            Is("http/1.1"),
            "the HTTP to speak: `http/1.1` or `h2`. With `h2` the backend has to agree to it",
        ),
        SNI,
        CA,
        VERIFY,
        WARN_DAYS,
    ],
);

pub static TLS_CHECK: Table = table(
    "services[].health.tls",
    &[
        CHECK_ADDRESS,
        CHECK_PORT,
        key(
            "alpn",
            OneOrMany(&Value::AlpnName),
            Depends("ALPN is not used"),
            "protocol to offer, or a list of them, such as `[h2, http/1.1]`; the backend has to take one",
        ),
        SNI,
        CA,
        VERIFY,
        WARN_DAYS,
    ],
);

pub static DNS_CHECK: Table = table(
    "services[].health.dns",
    &[
        CHECK_ADDRESS,
        CHECK_PORT,
        key("over", Value::Choice(&OVER), Is("udp"), "`udp` or `tcp`. Over UDP the question is sent once"),
        key(
            "name",
            Value::DomainName,
            Refused("write a name that is always there, such as `name: www.example.com`"),
            "name to ask for",
        ),
        key("type", Value::Choice(&RECORD_TYPE), Is("A"), "type of the records to ask for"),
        key(
            "rcode",
            OneOrMany(&Value::Choice(&RCODE)),
            Is("NOERROR"),
            "response code, or a list of them: `NOERROR`, `NXDOMAIN`, `REFUSED`, `SERVFAIL`, `FORMERR`, `NOTIMP`",
        ),
        key(
            "answer",
            Value::Text,
            Nothing,
            "data that a record of this type must have among the answers, as it is written in a zone: an address, a name, \
             the text of a TXT record",
        ),
    ],
);

pub static UDP_CHECK: Table = table(
    "services[].health.udp",
    &[
        CHECK_ADDRESS,
        CHECK_PORT,
        key(
            "send",
            Value::Bytes,
            Refused("write what the service answers, such as `send: 'ping\\n'`"),
            "the datagram to send. `\\n`, `\\r`, `\\t`, `\\\\` and `\\x00` to `\\xff` stand for bytes; put them into single quotes",
        ),
        key(
            "expect",
            Value::Bytes,
            Depends("any answer will do"),
            "bytes that the answer has to contain, written likewise",
        ),
    ],
);

pub static ICMP_CHECK: Table = table("services[].health.icmp", &[CHECK_ADDRESS]);

pub static GRPC_CHECK: Table = table(
    "services[].health.grpc",
    &[
        CHECK_ADDRESS,
        CHECK_PORT,
        key(
            "service",
            Value::GrpcService,
            Depends("the server as a whole"),
            "name by which the health service knows it, such as `shop.v1.Cart`",
        ),
        key("host", Value::HostName, Depends("the address checked"), "name the request is for (`:authority`)"),
        key("tls", Either(GRPC_TLS_FORMS), Depends("in the clear"), "speak TLS"),
    ],
);

pub static GRPC_TLS: Table = table("services[].health.grpc.tls", &[SNI, CA, VERIFY, WARN_DAYS]);

pub static EXEC_CHECK: Table = table(
    "services[].health.exec",
    &[key(
        "command",
        OneOrMany(&Value::Text),
        Refused("write the program and its arguments: `command: [/usr/local/bin/check, --deep]`"),
        "list of the program, by its absolute path, and its arguments; the path alone where there are none",
    )],
);

pub static BACKEND: Table = table(
    "services[].backends[]",
    &[
        key(
            "name",
            Value::BackendName,
            Depends("the address; `address:port` where that is taken"),
            "unique in the service",
        ),
        key(
            "address",
            Value::Address,
            Refused("write the backend's IP address, such as `address: 10.0.0.11`"),
            "IP address. May be in several services; with `nat`, one endpoint leads back to one VIP and port",
        ),
        key("port", PORT, Depends("the port the client used"), "`nat` only"),
        key(
            "inner_mac",
            Value::Mac,
            Depends("the tunnel's `inner_mac`"),
            "`vxlan`, `geneve`: the MAC address of the backend's device in the virtual network",
        ),
        key(
            "weight",
            // Shares are relative; 65535 keeps the sum over the largest pool within 32 bits.
            Integer(0, 65_535),
            Is("100"),
            "share of new flows relative to the others of its family, 0 to 65,535; 0 takes none",
        ),
        key("state", Value::Choice(&BACKEND_STATE), Is("active"), "`drain`: in the file, checked, but out of the ring"),
        key(
            "fallback",
            Value::Flag,
            Is("false"),
            "`true`: it takes new flows only while fewer others than `min_healthy` are healthy, or none of its address family",
        ),
    ],
);

/// Every mapping of the schema.
pub static TABLES: [&Table; 29] = [
    &TOP,
    &NODE,
    &INTERFACE,
    &TUNNEL_SOURCE,
    &ADMIN,
    &LIMITS,
    &PACKETS,
    &HOOK,
    &DEFAULTS,
    &SERVICE,
    &AGENT,
    &TUNNEL,
    &TIMEOUTS,
    &UDP,
    &SERVICE_LIMITS,
    &HEALTH,
    &HEALTH_DEFAULTS,
    &TCP_CHECK,
    &HTTP_CHECK,
    &HTTPS_CHECK,
    &TLS_CHECK,
    &DNS_CHECK,
    &UDP_CHECK,
    &ICMP_CHECK,
    &GRPC_CHECK,
    &GRPC_TLS,
    &EXEC_CHECK,
    &CHECK,
    &BACKEND,
];

impl Table {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|k| k.name == name)
    }

    /// The keys that can be used today.
    pub fn built(&self) -> impl Iterator<Item = (&'static str, &'static Entry)> + use<> {
        self.keys.iter().filter_map(|k| match &k.status {
            Status::Built(entry) => Some((k.name, entry)),
            Status::Later(_) => None,
        })
    }
}

impl Value {
    /// The words it is one of, or a list of.
    pub fn choice(&self) -> Option<&'static Choice> {
        match self {
            Self::Choice(choice) => Some(choice),
            Self::OneOrMany(each) => each.choice(),
            _ => None,
        }
    }
}

impl Choice {
    /// The words that can be used today.
    pub fn built(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.words.iter().filter(|w| w.until_then.is_none()).map(|w| w.name)
    }
}

/// What other balancers call our keys. Too far apart for a spelling guess.
pub(super) const ELSEWHERE: &[(&str, &str)] = &[
    ("addr", "address"),
    ("algorithm", "scheduler"),
    ("balance", "scheduler"),
    ("bind", "listen"),
    ("check", "health"),
    ("code", "expect"),
    ("codes", "expect"),
    ("down", "fall"),
    ("downinter", "down_interval"),
    ("endpoints", "backends"),
    ("fastinter", "fast_interval"),
    ("frontends", "services"),
    ("healthcheck", "health"),
    ("health_check", "health"),
    ("host", "address"),
    ("inter", "interval"),
    ("ip", "address"),
    ("lb_algo", "scheduler"),
    ("lb_kind", "forward"),
    ("members", "backends"),
    ("mode", "forward"),
    ("mode", "xdp"),
    ("pool", "backends"),
    ("real_servers", "backends"),
    ("servers", "backends"),
    ("status", "expect"),
    ("targets", "backends"),
    ("unhealthy_threshold", "fall"),
    ("healthy_threshold", "rise"),
    ("up", "rise"),
    ("upstreams", "backends"),
    ("agent_check", "agent"),
    ("agent_port", "port"),
    ("backup", "fallback"),
    ("max_ejection_percent", "max_ejected"),
    ("notify", "hooks"),
    ("sorry_server", "fallback"),
    ("uri", "path"),
    ("url", "path"),
    ("vip", "listen"),
    ("vips", "listen"),
    ("virtual_servers", "services"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_foreign_name_leads_to_a_key_that_exists_and_is_not_one_itself() {
        for (theirs, ours) in ELSEWHERE {
            assert!(TABLES.iter().any(|t| t.built().any(|(k, _)| k == *ours)), "{ours}");
            // A key somewhere, and another's name for another key elsewhere.
            let both = ["host", "mode"].contains(theirs);
            assert!(both || TABLES.iter().all(|t| t.keys.iter().all(|k| k.name != *theirs)), "{theirs}");
        }
    }

    #[test]
    fn no_table_names_a_key_twice() {
        for table in TABLES {
            for (i, key) in table.keys.iter().enumerate() {
                assert!(table.keys[..i].iter().all(|k| k.name != key.name), "{}.{}", table.place, key.name);
            }
        }
    }

    /// Every table a value leads to.
    fn reached(value: &Value, found: &mut Vec<&'static str>) {
        match value {
            Value::Table(table) if found.contains(&table.place) => {}
            Value::Table(table) => {
                found.push(table.place);
                table.built().for_each(|(_, entry)| reached(&entry.value, found));
            }
            Value::List(_, each) | Value::OneOrMany(each) => reached(each, found),
            Value::Either(values) => values.iter().for_each(|v| reached(v, found)),
            _ => {}
        }
    }

    #[test]
    fn the_list_of_tables_holds_what_the_top_leads_to_and_nothing_else() {
        let mut found = Vec::new();
        reached(&Value::Table(&TOP), &mut found);
        let mut listed: Vec<_> = TABLES.iter().map(|t| t.place).collect();
        found.sort_unstable();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }
}
