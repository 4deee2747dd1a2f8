//! Which keys a configuration has, and what stands behind them: the tree into a raw, typed configuration.
//!
//! Keys are strict. A key that is silently ignored is the worst kind of accepted: `deny: […]` that denies
//! nothing. So every mapping has a table of its keys; what is not in it is an error with a guess at what was
//! meant, and keys of later versions are in it as [`Status::Later`], refused by name.
//!
//! Nothing here looks at two values at once; that is [`super::validate`]'s part.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::diagnose::{At, Complaint, Problems, Span, closest, excerpt};
use super::tree::{Entry, Kind, Node};
use super::values;
use crate::model::{BackendState, Forward, Prefix, Protocol, Scheduler, VipAddresses, XdpMode};

/// A mapping's keys.
#[derive(Debug)]
pub struct Table {
    /// How its place is written: `services[].backends[]`; empty at the top.
    pub place: &'static str,
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub status: Status,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Status {
    Built,
    /// Will exist; using it now is an error rather than a surprise. The text says what to do until then.
    Later(&'static str),
}

const fn key(name: &'static str) -> Key {
    Key { name, status: Status::Built }
}

const fn later(name: &'static str, until_then: &'static str) -> Key {
    Key { name, status: Status::Later(until_then) }
}

pub static TOP: Table = Table {
    place: "",
    keys: &[
        key("version"),
        key("node"),
        key("admin"),
        key("hash_key"),
        key("limits"),
        key("defaults"),
        key("services"),
    ],
};
pub static NODE: Table = Table {
    place: "node",
    keys: &[key("interfaces"), key("vip_addresses"), key("bpf_dir"), key("run_dir"), key("tunnel_source")],
};
pub static INTERFACE: Table = Table { place: "node.interfaces[]", keys: &[key("name"), key("xdp")] };
pub static TUNNEL_SOURCE: Table = Table { place: "node.tunnel_source", keys: &[key("ipv4"), key("ipv6")] };
pub static ADMIN: Table = Table { place: "admin", keys: &[key("socket"), key("http")] };
pub static LIMITS: Table = Table { place: "limits", keys: &[key("flows"), key("services"), key("backends")] };
pub static DEFAULTS: Table =
    Table { place: "defaults", keys: &[key("scheduler"), key("forward"), key("timeouts"), key("health")] };
pub static SERVICE: Table = Table {
    place: "services[]",
    keys: &[
        key("name"),
        key("listen"),
        key("protocol"),
        key("scheduler"),
        key("forward"),
        key("timeouts"),
        key("health"),
        key("min_healthy"),
        key("backends"),
        later("limits", "remove it; until it is, limit clients in the firewall"),
        later("deny", "remove it; until it is, deny sources in the firewall of the backends"),
        later("allow", "remove it; until it is, allow sources in the firewall of the backends"),
        later("tracking", "remove it; flows are placed by hash"),
        later("on_backend_down", "remove it; flows of a dead backend go to another one (`reselect`)"),
    ],
};
pub static TIMEOUTS: Table = Table {
    place: "services[].timeouts",
    keys: &[key("tcp_established"), key("tcp_opening"), key("tcp_closing"), key("udp")],
};
pub static HEALTH: Table = Table {
    place: "services[].health",
    keys: &[
        key("tcp"),
        key("http"),
        key("interval"),
        key("timeout"),
        key("rise"),
        key("fall"),
        key("jitter"),
        later("https", "use `tcp`, or `http` on a plain port"),
        later("tls", "use `tcp` meanwhile"),
        later("udp", "use `tcp` or `http` on a port that is up when the backend is"),
        later("dns", "use `tcp` meanwhile: DNS servers answer on TCP too"),
        later("grpc", "use `tcp` meanwhile"),
        later("exec", "use `http` meanwhile"),
    ],
};
/// In `defaults.health` only the timing makes sense: which check fits is each service's own.
pub static HEALTH_DEFAULTS: Table = Table {
    place: "defaults.health",
    keys: &[key("interval"), key("timeout"), key("rise"), key("fall"), key("jitter")],
};
pub static TCP_CHECK: Table = Table { place: "services[].health.tcp", keys: &[key("port")] };
pub static HTTP_CHECK: Table = Table {
    place: "services[].health.http",
    keys: &[key("port"), key("path"), key("method"), key("host"), key("headers"), key("expect")],
};
pub static BACKEND: Table = Table {
    place: "services[].backends[]",
    keys: &[key("name"), key("address"), key("port"), key("weight"), key("state")],
};

/// Every mapping of the schema.
pub static TABLES: [&Table; 14] = [
    &TOP,
    &NODE,
    &INTERFACE,
    &TUNNEL_SOURCE,
    &ADMIN,
    &LIMITS,
    &DEFAULTS,
    &SERVICE,
    &TIMEOUTS,
    &HEALTH,
    &HEALTH_DEFAULTS,
    &TCP_CHECK,
    &HTTP_CHECK,
    &BACKEND,
];

/// What other balancers call our keys. Too far apart for a spelling guess.
const ELSEWHERE: &[(&str, &str)] = &[
    ("addr", "address"),
    ("algorithm", "scheduler"),
    ("balance", "scheduler"),
    ("bind", "listen"),
    ("check", "health"),
    ("code", "expect"),
    ("codes", "expect"),
    ("down", "fall"),
    ("endpoints", "backends"),
    ("frontends", "services"),
    ("healthcheck", "health"),
    ("health_check", "health"),
    ("host", "address"),
    ("ip", "address"),
    ("lb_algo", "scheduler"),
    ("lb_kind", "forward"),
    ("members", "backends"),
    ("mode", "forward"),
    ("pool", "backends"),
    ("real_servers", "backends"),
    ("servers", "backends"),
    ("status", "expect"),
    ("targets", "backends"),
    ("unhealthy_threshold", "fall"),
    ("healthy_threshold", "rise"),
    ("up", "rise"),
    ("upstreams", "backends"),
    ("uri", "path"),
    ("url", "path"),
    ("vip", "listen"),
    ("vips", "listen"),
    ("virtual_servers", "services"),
];

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

/// A list as far as it could be read.
#[derive(Debug)]
pub(super) struct List<T> {
    pub items: Vec<Spanned<T>>,
    /// Nothing was refused, so what is not in here is not in the file either.
    pub complete: bool,
}

/// The file as typed values. `None` is "not in the file" or "refused, and reported".
#[derive(Debug)]
pub(super) struct Raw {
    pub node: RawNode,
    pub admin: RawAdmin,
    pub hash_key: Option<Spanned<PathBuf>>,
    pub limits: RawLimits,
    pub defaults: RawDefaults,
    pub services: Vec<RawService>,
}

#[derive(Debug, Default)]
pub(super) struct RawNode {
    pub interfaces: Vec<(Spanned<String>, XdpMode)>,
    pub vip_addresses: Option<Spanned<VipAddresses>>,
    pub bpf_dir: Option<Spanned<PathBuf>>,
    pub run_dir: Option<Spanned<PathBuf>>,
    pub tunnel_source4: Option<Spanned<Prefix>>,
    pub tunnel_source6: Option<Spanned<Prefix>>,
}

#[derive(Debug, Default)]
pub(super) struct RawAdmin {
    pub socket: Option<Spanned<PathBuf>>,
    /// `Some(None)` is `off`.
    pub http: Option<Spanned<Option<SocketAddr>>>,
}

#[derive(Debug, Default)]
pub(super) struct RawLimits {
    pub flows: Option<Spanned<u32>>,
    pub services: Option<Spanned<u32>>,
    pub backends: Option<Spanned<u32>>,
}

#[derive(Debug, Default)]
pub(super) struct RawDefaults {
    pub scheduler: Option<Spanned<Scheduler>>,
    pub forward: Option<Spanned<Forward>>,
    pub timeouts: RawTimeouts,
    pub health: RawTiming,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RawTimeouts {
    pub tcp_established: Option<Spanned<Duration>>,
    pub tcp_opening: Option<Spanned<Duration>>,
    pub tcp_closing: Option<Spanned<Duration>>,
    pub udp: Option<Spanned<Duration>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RawTiming {
    pub interval: Option<Spanned<Duration>>,
    pub timeout: Option<Spanned<Duration>>,
    pub rise: Option<Spanned<u32>>,
    pub fall: Option<Spanned<u32>>,
    pub jitter: Option<Spanned<f64>>,
}

#[derive(Debug)]
pub(super) struct RawService {
    /// Place in the file's list, from 0.
    pub index: usize,
    pub span: Span,
    pub name: Option<Spanned<String>>,
    pub listen: List<SocketAddr>,
    pub protocols: List<Protocol>,
    pub scheduler: Option<Spanned<Scheduler>>,
    pub forward: Option<Spanned<Forward>>,
    /// False when `forward` stands in the file but could not be read.
    pub forward_known: bool,
    pub timeouts: RawTimeouts,
    pub health: RawHealth,
    pub min_healthy: Option<Spanned<u32>>,
    pub backends: Vec<RawBackend>,
    /// As [`List::complete`].
    pub backends_complete: bool,
    pub backends_span: Span,
}

#[derive(Debug)]
pub(super) enum RawHealth {
    /// No `health` key: the protocols decide.
    Absent,
    /// `health: none`.
    Off,
    Check(Box<RawCheck>),
}

#[derive(Debug)]
pub(super) struct RawCheck {
    pub span: Span,
    /// `None`: only timing was given.
    pub kind: Option<RawCheckKind>,
    pub port: Option<Spanned<u16>>,
    pub timing: RawTiming,
}

#[derive(Debug)]
pub(super) enum RawCheckKind {
    Tcp,
    Http {
        method: Option<String>,
        path: Option<String>,
        host: Option<String>,
        headers: Vec<(String, String)>,
        expect: Vec<(u16, u16)>,
    },
}

#[derive(Debug)]
pub(super) struct RawBackend {
    /// Place in the file's list, from 0.
    pub index: usize,
    pub span: Span,
    pub name: Option<Spanned<String>>,
    pub address: Option<Spanned<IpAddr>>,
    pub port: Option<Spanned<u16>>,
    /// Nothing in it was refused.
    pub complete: bool,
    pub weight: Option<u32>,
    pub state: BackendState,
}

/// Reads the tree. `None` when there is no telling what the file is.
pub(super) fn decode(root: &Node<'_>, problems: &mut Problems<'_>) -> Option<Raw> {
    let mut d = Decoder { problems };
    let at = At::TOP;
    let Kind::Mapping(entries) = &root.kind else {
        let message =
            format!("a configuration is a mapping that starts with `version: 1`, this is {}", root.describe());
        d.problems.add(root.span, &at, message, "start from deploy/config/minimal.yaml");
        return None;
    };
    // A file of another version would only produce noise.
    let version = entries.iter().find(|e| e.key == "version");
    if let Some(entry) = version {
        let at = at.key("version");
        if let Some(v) = d.integer(&entry.value, &at, "1", 0, u32::MAX)
            && v.value != 1
        {
            let message = format!("version {} of the configuration format is unknown to this Sluice", v.value);
            d.problems.add(v.span, &at, message, "this Sluice reads `version: 1`");
            return None;
        }
    }
    let fields = d.fields(root, &at, &TOP)?;
    fields.required(&mut d, "version", "add `version: 1` at the top");
    let node = fields.required(&mut d, "node", "name the interfaces: `node: { interfaces: [eth0] }`");
    let node = d.node(node, &at);
    let admin = d.admin(fields.get("admin"), &at);
    let hash_key = fields.get("hash_key").and_then(|n| d.path(n, &at.key("hash_key")));
    let limits = d.limits(fields.get("limits"), &at);
    let defaults = d.defaults(fields.get("defaults"), &at);
    let services_node = fields.required(&mut d, "services", "list the services; `services: []` for none yet");
    let services_at = at.key("services");
    let mut services = Vec::new();
    if let Some(items) = services_node
        .and_then(|n| d.sequence(n, &services_at, "a list of services", "start each entry with `- name: …`"))
    {
        for (index, item) in items.iter().enumerate() {
            let at = services_at.item(index, peek(item, "name"));
            services.extend(d.service(index, item, &at));
        }
    }
    Some(Raw { node, admin, hash_key, limits, defaults, services })
}

/// The text under `key`, if there is one; for labels only.
fn peek<'n>(node: &'n Node<'_>, key: &str) -> Option<&'n str> {
    let Kind::Mapping(entries) = &node.kind else { return None };
    let entry = entries.iter().find(|e| e.key == key)?;
    match &entry.value.kind {
        Kind::Scalar { text, .. } if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// The entries of one mapping whose keys have been looked at.
struct Fields<'n, 't> {
    node: &'n Node<'t>,
    entries: &'n [Entry<'t>],
    table: &'static Table,
    /// Keys that misspelled ones were probably meant to be.
    guessed: Vec<&'static str>,
    at: At<'n>,
}

impl<'n, 't> Fields<'n, 't> {
    fn get(&self, name: &str) -> Option<&'n Node<'t>> {
        debug_assert!(
            self.table.keys.iter().any(|k| k.name == name && k.status == Status::Built),
            "`{name}` is not in the table of `{}`",
            self.table.place
        );
        self.entries.iter().find(|e| e.key == name).map(|e| &*e.value)
    }

    fn required(&self, d: &mut Decoder<'_, '_>, name: &str, hint: &str) -> Option<&'n Node<'t>> {
        let found = self.get(name);
        if found.is_none() && !self.guessed.contains(&name) {
            let span = Span::point(self.node.span.line, self.node.span.column);
            d.problems.add(span, &self.at, format!("`{name}` is missing"), hint);
        }
        found
    }
}

struct Decoder<'p, 's> {
    problems: &'p mut Problems<'s>,
}

/// One way to write a choice.
enum Choice<T> {
    Is(T),
    /// What to write until it is built.
    Later(&'static str),
}

impl Decoder<'_, '_> {
    // ── building blocks ──

    fn wrong_type(&mut self, node: &Node<'_>, at: &At<'_>, wanted: &str, hint: &str) {
        match node.kind {
            Kind::Null => self.problems.add(node.span, at, format!("no value: {wanted} is needed here"), hint),
            _ => self.problems.add(node.span, at, format!("{wanted} is needed here, not {}", node.describe()), hint),
        }
    }

    /// The mapping at `node`, its keys checked against `table`.
    fn fields<'n, 't>(&mut self, node: &'n Node<'t>, at: &At<'n>, table: &'static Table) -> Option<Fields<'n, 't>> {
        let Kind::Mapping(entries) = &node.kind else {
            let squeezed = match &node.kind {
                Kind::Scalar { text, plain: true } => {
                    text.split_once(':').filter(|(k, _)| built(table).any(|b| b == *k))
                }
                _ => None,
            };
            let hint = match squeezed {
                Some((key, value)) => format!("a colon needs a space after it: `{key}: {}`", excerpt(value)),
                None => {
                    let names: Vec<_> = built(table).take(3).collect();
                    format!("write `key: value` pairs; keys here are `{}` …", names.join("`, `"))
                }
            };
            self.wrong_type(node, at, "a mapping", &hint);
            return None;
        };
        let mut guessed = Vec::new();
        for entry in entries {
            match table.keys.iter().find(|k| k.name == entry.key) {
                Some(Key { status: Status::Built, .. }) => {}
                Some(Key { name, status: Status::Later(until_then) }) => {
                    self.problems.add(entry.key_span, at, format!("`{name}` is not supported yet"), *until_then);
                }
                None => {
                    let message = format!("unknown key `{}`", excerpt(&entry.key));
                    let full = self.problems.is_full();
                    let (guess, hint) = if full { (None, String::new()) } else { unknown_key_hint(&entry.key, table) };
                    guessed.extend(guess);
                    self.problems.add(entry.key_span, at, message, hint);
                }
            }
        }
        Some(Fields { node, entries, table, guessed, at: *at })
    }

    fn sequence<'n, 't>(
        &mut self,
        node: &'n Node<'t>,
        at: &At<'_>,
        wanted: &str,
        hint: &str,
    ) -> Option<&'n [Rc<Node<'t>>]> {
        match &node.kind {
            Kind::Sequence(items) => Some(items),
            _ => {
                self.wrong_type(node, at, wanted, hint);
                None
            }
        }
    }

    /// The text of a scalar, quoted or not.
    fn text<'n>(&mut self, node: &'n Node<'_>, at: &At<'_>, wanted: &str, hint: &str) -> Option<&'n str> {
        match &node.kind {
            Kind::Scalar { text, .. } if text.contains(['\n', '\r']) => {
                let hint = "write it on one line, without `|` or `>`";
                self.problems.add(node.span, at, format!("{wanted} is needed here, not a text of several lines"), hint);
                None
            }
            Kind::Scalar { text, .. } => Some(text),
            _ => {
                self.wrong_type(node, at, wanted, hint);
                None
            }
        }
    }

    /// A scalar put through one of the functions in [`values`].
    fn parsed<T>(
        &mut self,
        node: &Node<'_>,
        at: &At<'_>,
        wanted: &str,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Option<Spanned<T>> {
        let text = self.text(node, at, wanted, hint)?;
        match parse(text) {
            Ok(value) => Some(Spanned { value, span: node.span }),
            Err(complaint) => {
                self.problems.complain(node.span, at, complaint);
                None
            }
        }
    }

    fn integer(&mut self, node: &Node<'_>, at: &At<'_>, example: &str, low: u32, high: u32) -> Option<Spanned<u32>> {
        let hint = format!("write a number such as `{example}`");
        if let Kind::Scalar { text, plain: false } = &node.kind {
            let hint = match values::number(text) {
                Ok(_) => format!("remove the quotes: `{}`", excerpt(text)),
                Err(_) => hint,
            };
            self.wrong_type(node, at, "a whole number", &hint);
            return None;
        }
        let n = self.parsed(node, at, "a whole number", &hint, |text| {
            values::number(text).map_err(|complaint| match text.starts_with(|c: char| c.is_ascii_digit()) {
                true => complaint,
                false => Complaint { hint: hint.clone(), ..complaint },
            })
        })?;
        match u32::try_from(n.value) {
            Ok(value) if (low..=high).contains(&value) => Some(Spanned { value, span: n.span }),
            _ => {
                let text = self.text(node, at, "", "").map(excerpt).unwrap_or_default();
                self.problems.add(n.span, at, format!("`{text}` is out of range"), format!("between {low} and {high}"));
                None
            }
        }
    }

    fn port(&mut self, node: &Node<'_>, at: &At<'_>) -> Option<Spanned<u16>> {
        let port = self.integer(node, at, "8080", 1, u16::MAX.into())?;
        Some(Spanned { value: port.value as u16, span: port.span })
    }

    fn duration(&mut self, node: &Node<'_>, at: &At<'_>) -> Option<Spanned<Duration>> {
        self.parsed(node, at, "a duration", "write it as `500ms`, `2s`, `15m` or `1h`", values::duration)
    }

    fn path(&mut self, node: &Node<'_>, at: &At<'_>) -> Option<Spanned<PathBuf>> {
        let hint = "write a path from the root, such as `/run/sluice`";
        self.parsed(node, at, "a path", hint, |text| {
            if !text.starts_with('/') || text.contains(|c: char| c.is_control()) {
                return Err(Complaint::new(format!("`{}` is not an absolute path", excerpt(text)), hint));
            }
            // PATH_MAX, with its closing NUL.
            if text.len() > 4_095 {
                return Err(Complaint::new("a path has at most 4095 bytes", ""));
            }
            Ok(PathBuf::from(text))
        })
    }

    fn choice<T: Copy>(
        &mut self,
        node: &Node<'_>,
        at: &At<'_>,
        what: &str,
        choices: &[(&str, Choice<T>)],
    ) -> Option<Spanned<T>> {
        let built: Vec<_> = choices.iter().filter(|(_, c)| matches!(c, Choice::Is(_))).map(|(name, _)| *name).collect();
        let list = match built.as_slice() {
            [only] => format!("write `{only}`"),
            _ => format!("write one of `{}`", built.join("`, `")),
        };
        let text = self.text(node, at, what, &list)?;
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, Choice::Is(value))) => return Some(Spanned { value: *value, span: node.span }),
            Some((name, Choice::Later(until_then))) => {
                self.problems.add(node.span, at, format!("`{name}` is not supported yet"), *until_then);
            }
            None => {
                let guess = closest(text, choices.iter().map(|(name, _)| *name));
                let hint = match choices.iter().find(|(name, _)| Some(*name) == guess) {
                    Some((name, Choice::Is(_))) => format!("did you mean `{name}`?"),
                    Some((name, Choice::Later(until_then))) => {
                        format!("if you mean `{name}`, it is not supported yet: {until_then}")
                    }
                    None => list,
                };
                self.problems.add(node.span, at, format!("`{}` is not {what}", excerpt(text)), hint);
            }
        }
        None
    }

    /// One value or a list of them.
    fn one_or_many<T>(
        &mut self,
        node: &Node<'_>,
        at: &At<'_>,
        mut each: impl FnMut(&mut Self, &Node<'_>, &At<'_>) -> Option<Spanned<T>>,
    ) -> List<T> {
        let mut list = List { items: Vec::new(), complete: true };
        match &node.kind {
            Kind::Sequence(items) => {
                if items.is_empty() {
                    self.problems.add(node.span, at, "the list is empty", "put at least one entry in it");
                    list.complete = false;
                }
                for (index, item) in items.iter().enumerate() {
                    match each(self, item, &at.item(index, None)) {
                        Some(value) => list.items.push(value),
                        None => list.complete = false,
                    }
                }
            }
            _ => match each(self, node, at) {
                Some(value) => list.items.push(value),
                None => list.complete = false,
            },
        }
        list
    }

    // ── the mappings, top down ──

    fn node(&mut self, node: Option<&Node<'_>>, parent: &At<'_>) -> RawNode {
        let at = parent.key("node");
        let mut raw = RawNode::default();
        let Some(fields) = node.and_then(|n| self.fields(n, &at, &NODE)) else { return raw };
        let hint = "name the interfaces packets arrive on: `interfaces: [eth0]`";
        if let Some(list) = fields.required(self, "interfaces", hint) {
            let at = at.key("interfaces");
            let list = self.one_or_many(list, &at, |d, n, at| d.interface(n, at));
            raw.interfaces = list.items.into_iter().map(|i| i.value).collect();
        }
        if let Some(n) = fields.get("vip_addresses") {
            let choices =
                [("managed", Choice::Is(VipAddresses::Managed)), ("external", Choice::Is(VipAddresses::External))];
            raw.vip_addresses = self.choice(n, &at.key("vip_addresses"), "a way to manage VIP addresses", &choices);
        }
        raw.bpf_dir = fields.get("bpf_dir").and_then(|n| self.path(n, &at.key("bpf_dir")));
        raw.run_dir = fields.get("run_dir").and_then(|n| self.path(n, &at.key("run_dir")));
        if let Some(n) = fields.get("tunnel_source") {
            let at = at.key("tunnel_source");
            if let Some(fields) = self.fields(n, &at, &TUNNEL_SOURCE) {
                raw.tunnel_source4 = self.tunnel_source(fields.get("ipv4"), &at.key("ipv4"), true);
                raw.tunnel_source6 = self.tunnel_source(fields.get("ipv6"), &at.key("ipv6"), false);
            }
        }
        raw
    }

    fn interface(&mut self, node: &Node<'_>, at: &At<'_>) -> Option<Spanned<(Spanned<String>, XdpMode)>> {
        let hint = "write `eth0` or `{ name: eth0, xdp: auto }`";
        let Kind::Mapping(_) = &node.kind else {
            let name = self.parsed(node, at, "an interface", hint, values::interface)?;
            return Some(Spanned { value: (name, XdpMode::Auto), span: node.span });
        };
        let fields = self.fields(node, at, &INTERFACE)?;
        let name = fields.required(self, "name", hint);
        let name = name.and_then(|n| self.parsed(n, &at.key("name"), "an interface name", hint, values::interface));
        let mut xdp = XdpMode::Auto;
        if let Some(n) = fields.get("xdp") {
            let choices = [
                ("auto", Choice::Is(XdpMode::Auto)),
                ("native", Choice::Is(XdpMode::Native)),
                ("generic", Choice::Is(XdpMode::Generic)),
                ("offload", Choice::Later("use `native`")),
            ];
            xdp = self.choice(n, &at.key("xdp"), "an XDP mode", &choices)?.value;
        }
        Some(Spanned { value: (name?, xdp), span: node.span })
    }

    fn tunnel_source(&mut self, node: Option<&Node<'_>>, at: &At<'_>, v4: bool) -> Option<Spanned<Prefix>> {
        let (example, family) = if v4 { ("192.0.2.0/24", "IPv4") } else { ("2001:db8::/64", "IPv6") };
        let hint = format!("write it as `{example}`");
        let prefix = self.parsed(node?, at, "an address prefix", &hint, values::prefix)?;
        if prefix.value.address.is_ipv4() != v4 {
            self.problems.add(prefix.span, at, format!("this is not an {family} prefix"), hint);
            return None;
        }
        Some(prefix)
    }

    fn admin(&mut self, node: Option<&Node<'_>>, parent: &At<'_>) -> RawAdmin {
        let at = parent.key("admin");
        let mut raw = RawAdmin::default();
        let Some(fields) = node.and_then(|n| self.fields(n, &at, &ADMIN)) else { return raw };
        raw.socket = fields.get("socket").and_then(|n| self.path(n, &at.key("socket")));
        if let Some(n) = fields.get("http") {
            let hint = "write an address and port such as `127.0.0.1:9480`, or `off`";
            raw.http = self.parsed(n, &at.key("http"), "an address and port, or `off`,", hint, |text| {
                if text == "off" {
                    return Ok(None);
                }
                let Ok(address) = text.parse::<SocketAddr>() else {
                    return Err(Complaint::new(format!("`{}` is not an address and port", excerpt(text)), hint));
                };
                if address.port() == 0 {
                    return Err(Complaint::new("port 0 cannot be served", hint));
                }
                Ok(Some(address))
            });
        }
        raw
    }

    fn limits(&mut self, node: Option<&Node<'_>>, parent: &At<'_>) -> RawLimits {
        let at = parent.key("limits");
        let Some(fields) = node.and_then(|n| self.fields(n, &at, &LIMITS)) else { return RawLimits::default() };
        let mut limit = |name, example, low, high| {
            fields.get(name).and_then(|n| self.integer(n, &at.key(name), example, low, high))
        };
        RawLimits {
            // An entry takes about 100 bytes of kernel memory: 64 Mi of them are 6 GiB.
            flows: limit("flows", "1048576", 1_024, 1 << 26),
            services: limit("services", "1024", 1, 65_535),
            // Ids are 16 bits in a ring row, and 0 is "none".
            backends: limit("backends", "8192", 1, lb_common::backend::MAX_BACKENDS - 1),
        }
    }

    fn defaults(&mut self, node: Option<&Node<'_>>, parent: &At<'_>) -> RawDefaults {
        let at = parent.key("defaults");
        let mut raw = RawDefaults::default();
        let Some(fields) = node.and_then(|n| self.fields(n, &at, &DEFAULTS)) else { return raw };
        raw.scheduler = fields.get("scheduler").and_then(|n| self.scheduler(n, &at));
        raw.forward = fields.get("forward").and_then(|n| self.forward(n, &at));
        raw.timeouts = self.timeouts(fields.get("timeouts"), &at);
        if let Some(n) = fields.get("health") {
            let at = at.key("health");
            if let Some(fields) = self.fields(n, &at, &HEALTH_DEFAULTS) {
                raw.health = self.timing(&fields, &at);
            }
        }
        raw
    }

    fn scheduler(&mut self, node: &Node<'_>, parent: &At<'_>) -> Option<Spanned<Scheduler>> {
        const INSTEAD: &str = "use `maglev` meanwhile: consistent hashing by flow, shares by weight";
        let choices = [
            ("maglev", Choice::Is(Scheduler::Maglev)),
            ("round-robin", Choice::Later(INSTEAD)),
            ("random", Choice::Later(INSTEAD)),
            ("source-hash", Choice::Later(INSTEAD)),
            ("least-connections", Choice::Later(INSTEAD)),
            ("least-response-time", Choice::Later(INSTEAD)),
            ("least-bandwidth", Choice::Later(INSTEAD)),
            ("custom", Choice::Later(INSTEAD)),
        ];
        self.choice(node, &parent.key("scheduler"), "a scheduler", &choices)
    }

    fn forward(&mut self, node: &Node<'_>, parent: &At<'_>) -> Option<Spanned<Forward>> {
        const TUNNEL: &str = "use `ipip`, with the decapsulation program or an ipip device on the backends";
        let choices = [
            ("nat", Choice::Is(Forward::Nat)),
            ("ipip", Choice::Is(Forward::Ipip)),
            ("full-nat", Choice::Later("use `nat`, with the backends' replies routed through this node")),
            ("dsr-l2", Choice::Later(TUNNEL)),
            ("gue", Choice::Later(TUNNEL)),
            ("gre", Choice::Later(TUNNEL)),
            ("vxlan", Choice::Later(TUNNEL)),
            ("geneve", Choice::Later(TUNNEL)),
        ];
        self.choice(node, &parent.key("forward"), "a forwarding mode", &choices)
    }

    fn timeouts(&mut self, node: Option<&Node<'_>>, parent: &At<'_>) -> RawTimeouts {
        let at = parent.key("timeouts");
        let Some(fields) = node.and_then(|n| self.fields(n, &at, &TIMEOUTS)) else { return RawTimeouts::default() };
        let mut timeout = |name| {
            let at = at.key(name);
            let value = self.duration(fields.get(name)?, &at)?;
            // The packet path keeps time in whole seconds; past a week a slot is lost, not kept.
            let (low, high) = (Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));
            self.bounded(value, &at, low, high)
        };
        RawTimeouts {
            tcp_established: timeout("tcp_established"),
            tcp_opening: timeout("tcp_opening"),
            tcp_closing: timeout("tcp_closing"),
            udp: timeout("udp"),
        }
    }

    fn bounded(
        &mut self,
        value: Spanned<Duration>,
        at: &At<'_>,
        low: Duration,
        high: Duration,
    ) -> Option<Spanned<Duration>> {
        if (low..=high).contains(&value.value) {
            return Some(value);
        }
        let message = format!("`{}` is out of range", values::show_duration(value.value));
        let hint = format!("between {} and {}", values::show_duration(low), values::show_duration(high));
        self.problems.add(value.span, at, message, hint);
        None
    }

    fn timing(&mut self, fields: &Fields<'_, '_>, at: &At<'_>) -> RawTiming {
        let mut duration = |name| {
            let at = at.key(name);
            let value = self.duration(fields.get(name)?, &at)?;
            // Below 10 ms a check measures the scheduler, not the backend.
            self.bounded(value, &at, Duration::from_millis(10), Duration::from_secs(3600))
        };
        let (interval, timeout) = (duration("interval"), duration("timeout"));
        let mut count = |name| fields.get(name).and_then(|n| self.integer(n, &at.key(name), "3", 1, 1_000));
        let (rise, fall) = (count("rise"), count("fall"));
        let jitter = fields.get("jitter").and_then(|n| {
            let at = at.key("jitter");
            let hint = "write it as `10%`, between 0% and 50%";
            let jitter = self.parsed(n, &at, "a percentage", hint, values::percent)?;
            if jitter.value > 0.5 {
                self.problems.add(jitter.span, &at, "more than half of the interval", hint);
                return None;
            }
            Some(jitter)
        });
        RawTiming { interval, timeout, rise, fall, jitter }
    }

    fn service(&mut self, index: usize, node: &Node<'_>, at: &At<'_>) -> Option<RawService> {
        let fields = self.fields(node, at, &SERVICE)?;
        let name = fields.required(self, "name", "name it, such as `name: web`");
        let name = name.and_then(|n| self.parsed(n, &at.key("name"), "a name", "such as `web`", values::name));

        let form = "such as `listen: 203.0.113.10:443`";
        let mut listen = List { items: Vec::new(), complete: false };
        if let Some(n) = fields.required(self, "listen", form) {
            let at = at.key("listen");
            listen = self.one_or_many(n, &at, |d, n, at| {
                if let Some(text) = unquoted_v6(n) {
                    let message = "square brackets start a list in YAML, so an IPv6 endpoint needs quotes";
                    d.problems.add(n.span, at, message, format!("write \"{text}\""));
                    return None;
                }
                d.parsed(n, at, "an address and port", form, values::endpoint)
            });
        }

        let protocols = match fields.get("protocol") {
            None => List { items: vec![Spanned { value: Protocol::Tcp, span: node.span }], complete: true },
            Some(n) => self.one_or_many(n, &at.key("protocol"), |d, n, at| {
                let choices = [
                    ("tcp", Choice::Is(Protocol::Tcp)),
                    ("udp", Choice::Is(Protocol::Udp)),
                    ("sctp", Choice::Later("balance TCP or UDP")),
                    ("quic", Choice::Later("use `udp`: connections stay as long as the client's address does")),
                ];
                d.choice(n, at, "a protocol", &choices)
            }),
        };

        let scheduler = fields.get("scheduler").and_then(|n| self.scheduler(n, at));
        let forward_node = fields.get("forward");
        let forward = forward_node.and_then(|n| self.forward(n, at));
        let forward_known = forward_node.is_none() || forward.is_some();
        let timeouts = self.timeouts(fields.get("timeouts"), at);
        let health = fields.get("health").map_or(RawHealth::Absent, |n| self.health(n, at));
        let min_healthy = fields
            .get("min_healthy")
            .and_then(|n| self.integer(n, &at.key("min_healthy"), "1", 0, lb_common::backend::MAX_BACKENDS - 1));

        let mut backends = Vec::new();
        let mut backends_complete = true;
        let mut backends_span = node.span;
        let hint = "list them: `backends: [{ address: 10.0.0.11 }]`";
        if let Some(n) = fields.required(self, "backends", hint) {
            let at = at.key("backends");
            backends_span = n.span;
            match self.sequence(n, &at, "a list of backends", "start each entry with `- address: …`") {
                None => backends_complete = false,
                Some(items) => {
                    for (index, item) in items.iter().enumerate() {
                        let at = at.item(index, peek(item, "name").or_else(|| peek(item, "address")));
                        match self.backend(index, item, &at) {
                            Some(backend) => {
                                backends_complete &= backend.complete;
                                backends.push(backend);
                            }
                            None => backends_complete = false,
                        }
                    }
                }
            }
        } else {
            backends_complete = false;
        }

        Some(RawService {
            index,
            span: node.span,
            name,
            listen,
            protocols,
            scheduler,
            forward,
            forward_known,
            timeouts,
            health,
            min_healthy,
            backends,
            backends_complete,
            backends_span,
        })
    }

    fn health(&mut self, node: &Node<'_>, parent: &At<'_>) -> RawHealth {
        let at = parent.key("health");
        let forms = "write `{ tcp: {} }`, `{ http: { path: /healthz } }` or `none`";
        if let Kind::Scalar { text, .. } = &node.kind {
            match &**text {
                "none" => return RawHealth::Off,
                kind @ ("tcp" | "http") => {
                    let message = format!("`{kind}` is a mapping of its own");
                    self.problems.add(node.span, &at, message, format!("write `health: {{ {kind}: {{}} }}`"));
                }
                "off" | "false" | "no" => {
                    let message = format!("`{text}` is not a health check");
                    self.problems.add(node.span, &at, message, "write `health: none` to check nothing");
                }
                _ => self.wrong_type(node, &at, "a health check", forms),
            }
            return RawHealth::Absent;
        }
        if matches!(node.kind, Kind::Null) {
            self.wrong_type(node, &at, "a health check", forms);
            return RawHealth::Absent;
        }
        let Some(fields) = self.fields(node, &at, &HEALTH) else { return RawHealth::Absent };
        let timing = self.timing(&fields, &at);
        let (tcp, http) = (fields.get("tcp"), fields.get("http"));
        if let (Some(_), Some(http)) = (tcp, http) {
            let message = "a service has one health check, `tcp` or `http`";
            self.problems.add(http.span, &at, message, "keep `http`: it fails whenever `tcp` would");
        }
        let mut port = None;
        let mut kind = None;
        if let Some(n) = tcp {
            kind = Some(RawCheckKind::Tcp);
            let at = at.key("tcp");
            if !matches!(n.kind, Kind::Null)
                && let Some(fields) = self.fields(n, &at, &TCP_CHECK)
            {
                port = fields.get("port").and_then(|n| self.port(n, &at.key("port")));
            }
        }
        if let Some(n) = http {
            let at = at.key("http");
            let (check, http_port) = self.http_check(n, &at);
            kind = Some(check);
            port = http_port;
        }
        RawHealth::Check(Box::new(RawCheck { span: node.span, kind, port, timing }))
    }

    fn http_check(&mut self, node: &Node<'_>, at: &At<'_>) -> (RawCheckKind, Option<Spanned<u16>>) {
        let mut port = None;
        let (mut method, mut path, mut host, mut headers, mut expect) = (None, None, None, Vec::new(), Vec::new());
        let fields = if matches!(node.kind, Kind::Null) { None } else { self.fields(node, at, &HTTP_CHECK) };
        if let Some(fields) = fields {
            port = fields.get("port").and_then(|n| self.port(n, &at.key("port")));
            method = fields.get("method").and_then(|n| {
                self.parsed(n, &at.key("method"), "an HTTP method", "such as `GET`", |text| {
                    let upper = text.to_ascii_uppercase();
                    if values::is_token(text) && upper == text {
                        return Ok(upper);
                    }
                    let hint =
                        if values::is_token(text) { format!("write `{}`", excerpt(&upper)) } else { String::new() };
                    Err(Complaint::new(format!("`{}` is not an HTTP method", excerpt(text)), hint))
                })
            });
            path = fields.get("path").and_then(|n| {
                self.parsed(n, &at.key("path"), "a path", "such as `/healthz`", |text| {
                    let wrong = |hint| Complaint::new(format!("`{}` is not a request path", excerpt(text)), hint);
                    if text.contains("://") {
                        return Err(wrong("write the path alone, and the name under `host`"));
                    }
                    if !text.starts_with('/') {
                        return Err(wrong("start it with `/`"));
                    }
                    // It goes into the request line as it is (RFC 9112 §3.2).
                    if !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains('#') {
                        return Err(wrong("percent-encode what is not plain ASCII, spaces and `#`"));
                    }
                    Ok(text.to_owned())
                })
            });
            host = fields.get("host").and_then(|n| {
                self.parsed(n, &at.key("host"), "a host name", "such as `www.example.com`", |text| {
                    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"/@?#".contains(&b)) {
                        return Ok(text.to_owned());
                    }
                    let hint = "write the name alone, such as `www.example.com`";
                    Err(Complaint::new(format!("`{}` is not a host name", excerpt(text)), hint))
                })
            });
            if let Some(n) = fields.get("headers") {
                headers = self.headers(n, &at.key("headers"));
            }
            if let Some(n) = fields.get("expect") {
                let hint = "write `200-299`, `200`, or a list such as `[200, 204, 300-399]`";
                let list = self.one_or_many(n, &at.key("expect"), |d, n, at| {
                    d.parsed(n, at, "a range of HTTP status codes", hint, values::status_range)
                });
                expect = list.items.into_iter().map(|r| r.value).collect();
            }
        }
        (
            RawCheckKind::Http {
                method: method.map(|m| m.value),
                path: path.map(|p| p.value),
                host: host.map(|h| h.value),
                headers,
                expect,
            },
            port.map(|p| Spanned { value: p.value, span: p.span }),
        )
    }

    fn headers(&mut self, node: &Node<'_>, at: &At<'_>) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut seen = HashSet::new();
        let hint = "write `Name: value` pairs";
        let Kind::Mapping(entries) = &node.kind else {
            self.wrong_type(node, at, "a mapping", hint);
            return headers;
        };
        for Entry { key, key_span, value } in entries {
            let name = excerpt(key);
            let refusal = match key.to_ascii_lowercase().as_str() {
                _ if !values::is_token(key) => Some((format!("`{name}` is not a header name"), "")),
                "host" => Some((format!("`{name}` is set by its own key"), "use `host:` beside `headers`")),
                "connection" | "content-length" | "transfer-encoding" => {
                    Some((format!("`{name}` belongs to the check itself"), "remove it"))
                }
                lower if !seen.insert(lower.to_owned()) => {
                    Some((format!("the header `{name}` is set twice"), "case does not matter in header names"))
                }
                _ => None,
            };
            if let Some((message, hint)) = refusal {
                self.problems.add(*key_span, at, message, hint);
                continue;
            }
            let at = at.key(key);
            let Some(text) = self.text(value, &at, "a header value", hint) else { continue };
            if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') || text.trim() != text {
                let message = format!("`{}` is not a header value", excerpt(text));
                self.problems.add(value.span, &at, message, "printable ASCII only, on one line");
                continue;
            }
            headers.push((key.to_string(), text.to_owned()));
        }
        headers
    }

    fn backend(&mut self, index: usize, node: &Node<'_>, at: &At<'_>) -> Option<RawBackend> {
        if let Kind::Scalar { text, .. } = &node.kind {
            let hint = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
                (Ok(ip), _) => format!("write `- address: {ip}`"),
                (_, Ok(e)) => format!("write `- {{ address: {}, port: {} }}`", e.ip(), e.port()),
                _ => "write `- address: 10.0.0.11`".to_owned(),
            };
            self.wrong_type(node, at, "a mapping", &hint);
            return None;
        }
        let fields = self.fields(node, at, &BACKEND)?;
        let mut complete = true;
        let name_node = fields.get("name");
        let name = name_node.and_then(|n| self.parsed(n, &at.key("name"), "a name", "such as `canary`", values::name));
        let form = "such as `address: 10.0.0.11`";
        let address = fields.required(self, "address", form);
        let address = address.and_then(|n| self.parsed(n, &at.key("address"), "an IP address", form, values::address));
        let port_node = fields.get("port");
        let port = port_node.and_then(|n| self.port(n, &at.key("port")));
        complete &= name_node.is_some() == name.is_some() && address.is_some() && port_node.is_some() == port.is_some();
        // Shares are relative; 65535 keeps the sum over the largest pool within 32 bits.
        let weight = fields.get("weight").and_then(|n| self.integer(n, &at.key("weight"), "100", 0, 65_535));
        let mut state = BackendState::Active;
        if let Some(n) = fields.get("state") {
            let choices = [("active", Choice::Is(BackendState::Active)), ("drain", Choice::Is(BackendState::Drain))];
            if let Some(s) = self.choice(n, &at.key("state"), "a backend's state", &choices) {
                state = s.value;
            }
        }
        Some(RawBackend {
            index,
            span: node.span,
            name,
            address,
            port,
            complete,
            weight: weight.map(|w| w.value),
            state,
        })
    }
}

/// `listen: [[2001:db8::10]:443]` is a list that holds a list or a mapping by the time it gets here.
fn unquoted_v6(node: &Node<'_>) -> Option<String> {
    let text = |n: &Node<'_>| match &n.kind {
        Kind::Scalar { text, .. } => Some(text.to_string()),
        _ => None,
    };
    match &node.kind {
        Kind::Sequence(items) => match items.as_slice() {
            [one] => text(one).filter(|t| t.parse::<std::net::Ipv6Addr>().is_ok()).map(|t| format!("[{t}]:443")),
            _ => None,
        },
        _ => None,
    }
}

fn built(table: &'static Table) -> impl Iterator<Item = &'static str> {
    table.keys.iter().filter(|k| k.status == Status::Built).map(|k| k.name)
}

/// The key of this table that was probably meant, and what to say about it.
fn unknown_key_hint(word: &str, table: &'static Table) -> (Option<&'static str>, String) {
    let here = || table.keys.iter().map(|k| k.name);
    let folded = word.to_ascii_lowercase().replace('-', "_");
    if let Some((_, ours)) = ELSEWHERE.iter().find(|(theirs, ours)| *theirs == folded && here().any(|k| k == *ours)) {
        return (Some(ours), format!("Sluice calls it `{ours}`"));
    }
    if let Some(guess) = closest(word, here()) {
        let later = if built(table).any(|k| k == guess) { "" } else { " It is not supported yet" };
        return (Some(guess), format!("did you mean `{guess}`?{later}"));
    }
    let mut owners: Vec<_> = TABLES.iter().filter(|t| built(t).any(|k| k == word)).collect();
    // A key that slipped one level up or down is nearer than its namesakes elsewhere.
    let near =
        |t: &Table| !t.place.is_empty() && (t.place.starts_with(table.place) || table.place.starts_with(t.place));
    if owners.iter().any(|t| near(t)) {
        owners.retain(|t| near(t));
    }
    let names: Vec<_> = owners
        .iter()
        .map(|t| if t.place.is_empty() { "the top level".to_owned() } else { format!("`{}`", t.place) })
        .collect();
    let hint = match names.as_slice() {
        [] => format!("keys here are `{}`", built(table).collect::<Vec<_>>().join("`, `")),
        names => format!("it belongs to {}", names.join(" or ")),
    };
    (None, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_foreign_name_leads_to_a_key_that_exists_and_is_not_one_itself() {
        for (theirs, ours) in ELSEWHERE {
            assert!(TABLES.iter().any(|t| built(t).any(|k| k == *ours)), "{ours}");
            assert!(TABLES.iter().all(|t| t.keys.iter().all(|k| k.name != *theirs || *theirs == "host")), "{theirs}");
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
}
