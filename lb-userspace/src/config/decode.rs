//! The tree into a raw, typed configuration, as the tables of [`super::schema`] say.
//!
//! The trap is to stop early: a mapping with a misspelled key still has its other keys, and a list with a bad entry
//! its other entries. Everything that can be read is read; what cannot is `None` here and a problem there.
//!
//! Nothing here looks at two values at once; that is [`super::validate`]'s part.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde::de::value::Error as WordError;
use serde::de::{DeserializeOwned, IntoDeserializer};

use super::STARTER;
use super::diagnose::{At, Complaint, Problems, Span, closest, excerpt, quote};
use super::schema::{self, Absent, ELSEWHERE, Entry, Key, Status, TABLES, Table, Value};
use super::tree::{self, Kind, Node};
use super::values;
use crate::model::{
    Affinity, BackendState, Call, Check, CheckKind, DnsCheck, ExecCheck, Forward, GrpcCheck, HttpCheck, HttpsCheck,
    Listen, Mac, Need, OnBackendDown, OnEmpty, OnExit, Prefix, Protocol, Rcode, Scheduler, Subject, Switch, TlsCheck,
    TlsOptions, Tracking, UdpCheck, UdpMode, VipAddresses, XdpMode,
};

/// Most checks of a service: each is made for each backend.
const MOST_CHECKS: usize = 16;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

/// An entry of a list.
#[derive(Debug)]
pub(super) struct Item<T> {
    pub value: T,
    pub span: Span,
    /// Place in the list, from 0; `None` for a single value that stands for a list of one.
    pub index: Option<usize>,
}

/// A list as far as it could be read.
#[derive(Debug)]
pub(super) struct List<T> {
    pub items: Vec<Item<T>>,
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
    pub packets: RawPackets,
    pub hooks: Vec<RawHook>,
    pub defaults: RawDefaults,
    pub services: Vec<RawService>,
}

#[derive(Debug, Default)]
pub(super) struct RawPackets {
    pub vlan_tags: Option<Spanned<Switch>>,
    pub extension_headers: Option<Spanned<Switch>>,
    pub fragments: Option<Spanned<Switch>>,
    pub icmp_errors: Option<Spanned<Switch>>,
    pub echo: Option<Spanned<Switch>>,
    pub too_big: Option<Spanned<Switch>>,
}

#[derive(Debug, Default)]
pub(super) struct RawNode {
    pub interfaces: Vec<Item<(Spanned<String>, XdpMode)>>,
    pub vip_addresses: Option<Spanned<VipAddresses>>,
    pub on_exit: Option<Spanned<OnExit>>,
    pub bpf_dir: Option<Spanned<PathBuf>>,
    pub run_dir: Option<Spanned<PathBuf>>,
    pub tunnel_source4: Option<Spanned<Prefix>>,
    pub tunnel_source6: Option<Spanned<Prefix>>,
    pub min_ring_interval: Option<Spanned<Duration>>,
    pub weight_hysteresis: Option<Spanned<f64>>,
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

#[derive(Debug)]
pub(super) struct RawHook {
    pub index: usize,
    pub span: Span,
    pub on: Option<List<Subject>>,
    /// `None` also where it was refused.
    pub call: Option<Call>,
    /// Whether the file says what to call.
    pub named: bool,
    pub timeout: Option<Spanned<Duration>>,
}

#[derive(Debug, Default)]
pub(super) struct RawDefaults {
    pub scheduler: Option<Spanned<Scheduler>>,
    pub forward: Option<Spanned<Forward>>,
    pub timeouts: RawTimeouts,
    pub on_backend_down: Option<Spanned<OnBackendDown>>,
    pub tracking: Option<Spanned<Tracking>>,
    pub health: RawTiming,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RawTimeouts {
    pub tcp_established: Option<Spanned<Duration>>,
    pub tcp_opening: Option<Spanned<Duration>>,
    pub tcp_closing: Option<Spanned<Duration>>,
    pub udp: Option<Spanned<Duration>>,
}

#[derive(Clone, Debug)]
pub(super) struct RawTunnel {
    pub span: Span,
    pub port: Option<Spanned<u16>>,
    pub variant: Option<Spanned<u32>>,
    pub vni: Option<Spanned<u32>>,
    /// False when `vni` stands in the file but could not be read.
    pub vni_known: bool,
    pub inner_mac: Option<Spanned<Mac>>,
    /// The same of `inner_mac`.
    pub inner_mac_known: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RawTiming {
    pub interval: Option<Spanned<Duration>>,
    pub fast_interval: Option<Spanned<Duration>>,
    pub down_interval: Option<Spanned<Duration>>,
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
    pub listen: List<Listen>,
    pub protocols: List<Protocol>,
    pub scheduler: Option<Spanned<Scheduler>>,
    pub forward: Option<Spanned<Forward>>,
    /// False when `forward` stands in the file but could not be read.
    pub forward_known: bool,
    pub tunnel: Option<RawTunnel>,
    pub timeouts: RawTimeouts,
    pub on_backend_down: Option<Spanned<OnBackendDown>>,
    pub udp: Option<RawUdp>,
    pub affinity: Option<Spanned<Affinity>>,
    pub clamp_mss: Option<Spanned<Switch>>,
    pub tracking: Option<Spanned<Tracking>>,
    pub limits: RawServiceLimits,
    pub health: RawHealth,
    pub agent: Option<RawAgent>,
    pub min_healthy: Option<Spanned<u32>>,
    pub max_ejected: Option<Spanned<f64>>,
    pub panic_threshold: Option<Spanned<f64>>,
    pub on_empty: Option<Spanned<OnEmpty>>,
    pub backends: Vec<RawBackend>,
    /// As [`List::complete`].
    pub backends_complete: bool,
    pub backends_span: Span,
}

#[derive(Debug)]
pub(super) struct RawAgent {
    pub address: Option<Spanned<IpAddr>>,
    pub port: Option<Spanned<u16>>,
    pub send: Option<Vec<u8>>,
    pub interval: Option<Spanned<Duration>>,
    pub timeout: Option<Spanned<Duration>>,
}

#[derive(Debug)]
pub(super) struct RawUdp {
    pub span: Span,
    pub mode: Option<Spanned<UdpMode>>,
}

#[derive(Debug, Default)]
pub(super) struct RawServiceLimits {
    pub flows: Option<Spanned<u32>>,
    pub new_flows: Option<Spanned<u32>>,
    pub tracked_flows: Option<Spanned<u32>>,
}

#[derive(Debug)]
pub(super) enum RawHealth {
    /// No `health` key: the protocols decide.
    Absent,
    /// `health: none`.
    Off,
    Checks(Box<RawChecks>),
}

#[derive(Debug)]
pub(super) struct RawChecks {
    pub span: Span,
    /// Whether the file says what to check; if not, it says only how often.
    pub named: bool,
    pub checks: Vec<Check>,
    pub need: Need,
    pub timing: RawTiming,
}

#[derive(Debug)]
pub(super) struct RawBackend {
    /// Place in the file's list, from 0.
    pub index: usize,
    pub span: Span,
    pub name: Option<Spanned<String>>,
    pub address: Option<Spanned<IpAddr>>,
    pub port: Option<Spanned<u16>>,
    pub inner_mac: Option<Spanned<Mac>>,
    /// Nothing in it was refused.
    pub complete: bool,
    pub weight: Option<u32>,
    pub state: BackendState,
    pub fallback: Option<Spanned<bool>>,
}

/// Reads the tree. `None` when there is no telling what the file is.
pub(super) fn decode(root: &Node<'_>, problems: &mut Problems<'_>) -> Option<Raw> {
    let mut d = Decoder { problems };
    let at = At::TOP;
    let Kind::Mapping(entries) = &root.kind else {
        let message =
            format!("a configuration is a mapping that starts with `version: 1`, this is {}", root.describe());
        d.problems.add(root.span, &at, message, STARTER);
        return None;
    };
    // A file of another version would only produce noise.
    if let Some(entry) = entries.iter().find(|e| e.key == "version") {
        let at = at.key("version");
        let hint = "this Sluice reads `version: 1`";
        if let Some(v) = d.whole_number(&entry.value, &at, hint)
            && v.value != 1
        {
            let text = peek(root, "version").map(excerpt).unwrap_or_default();
            let message = format!("version {text} of the configuration format is unknown to this Sluice");
            d.problems.add(v.span, &at, message, hint);
            return None;
        }
    }
    let fields = d.fields(root, &at, &schema::TOP)?;
    let node = fields.get("node").map_or_else(RawNode::default, |f| d.node(&f));
    let admin = fields.get("admin").map_or_else(RawAdmin::default, |f| d.admin(&f));
    let hash_key = fields.get("hash_key").and_then(|f| d.path(&f));
    let limits = fields.get("limits").map_or_else(RawLimits::default, |f| d.limits(&f));
    let packets = fields.get("packets").map_or_else(RawPackets::default, |f| d.packets(&f));
    let mut hooks = Vec::new();
    if let Some(f) = fields.get("hooks")
        && let Some(items) = d.sequence(&f, "a list of hooks", "start each entry with `- exec: …` or `- webhook: …`")
    {
        for (index, item) in items.iter().enumerate() {
            hooks.extend(d.hook(index, item, &f.at.item(index, None)));
        }
    }
    let defaults = fields.get("defaults").map_or_else(RawDefaults::default, |f| d.defaults(&f));
    let mut services = Vec::new();
    if let Some(f) = fields.get("services")
        && let Some(items) = d.sequence(&f, "a list of services", "start each entry with `- name: …`")
    {
        for (index, item) in items.iter().enumerate() {
            services.extend(d.service(index, item, &f.at.item(index, peek(item, "name"))));
        }
    }
    Some(Raw { node, admin, hash_key, limits, packets, hooks, defaults, services })
}

/// The text under `key`, if there is one; for labels only.
fn peek<'n>(node: &'n Node<'_>, key: &str) -> Option<&'n str> {
    let Kind::Mapping(entries) = &node.kind else { return None };
    tree::label(entries, key)
}

/// The entries of one mapping whose keys have been looked at.
struct Fields<'n, 't> {
    entries: &'n [tree::Entry<'t>],
    table: &'static Table,
    at: At<'n>,
}

/// One value, its place, and what the tables say about it.
struct Field<'f, 't> {
    node: &'f Node<'t>,
    at: At<'f>,
    entry: &'static Entry,
}

impl<'n, 't> Fields<'n, 't> {
    fn get(&self, name: &'static str) -> Option<Field<'_, 't>> {
        let Some(Key { status: Status::Built(entry), .. }) = self.table.key(name) else {
            unreachable!("`{name}` is not in the table of `{}`", self.table.place);
        };
        let node = &self.entries.iter().find(|e| e.key == name)?.value;
        Some(Field { node, at: self.at.key(name), entry })
    }
}

struct Decoder<'p, 's> {
    problems: &'p mut Problems<'s>,
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
                    text.split_once(':').filter(|(k, _)| table.built().any(|(name, _)| name == *k))
                }
                _ => None,
            };
            let hint = match squeezed {
                Some((key, value)) => format!("a colon needs a space after it: `{key}: {}`", excerpt(value)),
                None => {
                    let names: Vec<_> = table.built().map(|(name, _)| name).take(4).collect();
                    let (names, more) = if names.len() > 3 { (&names[..3], " …") } else { (&names[..], "") };
                    format!("write `key: value` pairs; keys here are `{}`{more}", names.join("`, `"))
                }
            };
            self.wrong_type(node, at, "a mapping", &hint);
            return None;
        };
        // Keys that misspelled ones were probably meant to be; they are not missing on top of that.
        let mut guessed = Vec::new();
        for entry in entries {
            match table.key(&entry.key) {
                Some(Key { status: Status::Built(_), .. }) => {}
                Some(Key { name, status: Status::Later(until_then) }) => {
                    self.problems.add(entry.key_span, at, format!("`{name}` is not supported yet"), *until_then);
                }
                None => {
                    let message = format!("unknown key {}", quote(&entry.key));
                    let full = self.problems.is_full();
                    let (guess, hint) = if full { (None, String::new()) } else { unknown_key_hint(&entry.key, table) };
                    guessed.extend(guess);
                    self.problems.add(entry.key_span, at, message, hint);
                }
            }
        }
        for (name, entry) in table.built() {
            if let Absent::Refused(hint) = entry.absent
                && !guessed.contains(&name)
                && !entries.iter().any(|e| e.key == name)
            {
                let span = Span::point(node.span.line, node.span.column);
                self.problems.add(span, at, format!("`{name}` is missing"), hint);
            }
        }
        Some(Fields { entries, table, at: *at })
    }

    fn sequence<'f, 't>(&mut self, f: &Field<'f, 't>, wanted: &str, hint: &str) -> Option<&'f [Rc<Node<'t>>]> {
        match &f.node.kind {
            Kind::Sequence(items) => Some(items),
            _ => {
                self.wrong_type(f.node, &f.at, wanted, hint);
                None
            }
        }
    }

    /// The text of a scalar, quoted or not.
    fn text<'n>(&mut self, node: &'n Node<'_>, at: &At<'_>, wanted: &str, hint: &str) -> Option<&'n str> {
        match &node.kind {
            Kind::Scalar { text, .. } if text.contains(['\n', '\r']) => {
                let hint = "write it on one line: no `|` or `>` blocks, no `\\n` in quotes";
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
            Err(mut complaint) => {
                if text.starts_with(['“', '”', '„', '‘', '’', '«']) {
                    complaint.hint = "these quotes are for prose: write `\"`".to_owned();
                }
                self.problems.complain(node.span, at, complaint);
                None
            }
        }
    }

    fn whole_number(&mut self, node: &Node<'_>, at: &At<'_>, hint: &str) -> Option<Spanned<i128>> {
        if let Kind::Scalar { text, plain: false } = &node.kind {
            let hint = match values::number(text) {
                Ok(_) => format!("remove the quotes: `{}`", excerpt(text)),
                Err(_) => hint.to_owned(),
            };
            self.wrong_type(node, at, "a whole number", &hint);
            return None;
        }
        self.parsed(node, at, "a whole number", hint, |text| {
            values::number(text).map_err(|complaint| match text.starts_with(|c: char| c.is_ascii_digit()) {
                true => complaint,
                false => Complaint { hint: hint.to_owned(), ..complaint },
            })
        })
    }

    fn out_of_range(&mut self, node: &Node<'_>, at: &At<'_>, range: &str) {
        let text = match &node.kind {
            Kind::Scalar { text, .. } => quote(text),
            _ => node.describe(),
        };
        self.problems.add(node.span, at, format!("{text} is out of range"), format!("write {range}"));
    }

    fn integer(&mut self, f: &Field<'_, '_>) -> Option<Spanned<u32>> {
        let Value::Integer(low, high) = f.entry.value else { unreachable!("{} is no number in its table", f.at) };
        let range = format!("a number from {low} to {high}");
        let n = self.whole_number(f.node, &f.at, &format!("write {range}"))?;
        match u32::try_from(n.value) {
            Ok(value) if (low..=high).contains(&value) => Some(Spanned { value, span: n.span }),
            _ => {
                self.out_of_range(f.node, &f.at, &range);
                None
            }
        }
    }

    fn port(&mut self, f: &Field<'_, '_>) -> Option<Spanned<u16>> {
        let port = self.integer(f)?;
        Some(Spanned { value: port.value as u16, span: port.span })
    }

    fn duration(&mut self, f: &Field<'_, '_>) -> Option<Spanned<Duration>> {
        let Value::Duration(low, high) = f.entry.value else { unreachable!("{} is no duration in its table", f.at) };
        let hint = "write it as `500ms`, `2s`, `15m` or `1h`";
        let value = self.parsed(f.node, &f.at, "a duration", hint, values::duration)?;
        if (low..=high).contains(&value.value) {
            return Some(value);
        }
        let (low, high) = (values::show_duration(low), values::show_duration(high));
        self.out_of_range(f.node, &f.at, &format!("a duration from {low} to {high}"));
        None
    }

    fn rate(&mut self, f: &Field<'_, '_>) -> Option<Spanned<u32>> {
        let Value::Rate(low, high) = f.entry.value else { unreachable!("{} is no rate in its table", f.at) };
        let rate = self.parsed(f.node, &f.at, "a rate", "write it as `500/s`, `10k/s` or `2M/s`", values::rate)?;
        match u32::try_from(rate.value) {
            Ok(value) if (low..=high).contains(&value) => Some(Spanned { value, span: rate.span }),
            _ => {
                let (low, high) = (values::show_rate(low), values::show_rate(high));
                self.out_of_range(f.node, &f.at, &format!("a rate from {low} to {high}"));
                None
            }
        }
    }

    fn percent(&mut self, f: &Field<'_, '_>) -> Option<Spanned<f64>> {
        let Value::Percent(most) = f.entry.value else { unreachable!("{} is no percentage in its table", f.at) };
        let value = self.parsed(f.node, &f.at, "a percentage", "write it as `10%`", values::percent)?;
        if value.value > f64::from(most) / 100.0 {
            self.out_of_range(f.node, &f.at, &format!("a percentage from 0% to {most}%"));
            return None;
        }
        Some(value)
    }

    fn path(&mut self, f: &Field<'_, '_>) -> Option<Spanned<PathBuf>> {
        let example = match f.entry.absent {
            Absent::Is(path) => path,
            _ => "/run/sluice/admin.sock",
        };
        self.path_like(f, example)
    }

    fn path_like(&mut self, f: &Field<'_, '_>, example: &str) -> Option<Spanned<PathBuf>> {
        let hint = format!("write a path from the root, such as `{example}`");
        self.parsed(f.node, &f.at, "a path", &hint, |text| {
            if !text.starts_with('/') || text.contains(|c: char| c.is_control()) {
                return Err(Complaint::new(format!("{} is not an absolute path", quote(text)), hint.clone()));
            }
            // PATH_MAX, with its closing NUL.
            if text.len() > 4_095 {
                return Err(Complaint::new("a path has at most 4095 bytes", "take a shorter one"));
            }
            Ok(PathBuf::from(text))
        })
    }

    fn choice<T: DeserializeOwned>(&mut self, f: &Field<'_, '_>) -> Option<Spanned<T>> {
        let Some(choice) = f.entry.value.choice() else { unreachable!("{} is no choice in its table", f.at) };
        let built: Vec<_> = choice.built().collect();
        let list = match built.as_slice() {
            [only] => format!("write `{only}`"),
            _ => format!("write one of `{}`", built.join("`, `")),
        };
        let text = self.text(f.node, &f.at, choice.what, &list)?;
        let (message, hint) = match choice.words.iter().find(|w| w.name == text) {
            Some(schema::Word { name, until_then: None }) => {
                let value = T::deserialize(IntoDeserializer::<WordError>::into_deserializer(*name));
                // Tested word by word: `every_word_that_is_built_can_be_read`.
                return Some(Spanned { value: value.expect("a word is its variant's name"), span: f.node.span });
            }
            Some(schema::Word { name, until_then: Some(until_then) }) => {
                (format!("`{name}` is not supported yet"), (*until_then).to_owned())
            }
            None => {
                let guess = closest(text, choice.words.iter().map(|w| w.name));
                let hint = match choice.words.iter().find(|w| Some(w.name) == guess) {
                    Some(schema::Word { name, until_then: None }) => format!("did you mean `{name}`?"),
                    Some(schema::Word { name, until_then: Some(until_then) }) => {
                        format!("if you mean `{name}`, it is not supported yet: {until_then}")
                    }
                    None => list,
                };
                (format!("{} is not {}", quote(text), choice.what), hint)
            }
        };
        self.problems.add(f.node.span, &f.at, message, hint);
        None
    }

    /// One value or a list of them.
    fn one_or_many<T>(
        &mut self,
        f: &Field<'_, '_>,
        mut each: impl FnMut(&mut Self, &Field<'_, '_>) -> Option<Spanned<T>>,
    ) -> List<T> {
        let mut list = List { items: Vec::new(), complete: true };
        match &f.node.kind {
            Kind::Sequence(items) => {
                if items.is_empty() {
                    self.problems.add(f.node.span, &f.at, "the list is empty", "put at least one entry in it");
                    list.complete = false;
                }
                for (index, node) in items.iter().enumerate() {
                    let item = Field { node, at: f.at.item(index, peek(node, "name")), entry: f.entry };
                    match each(self, &item) {
                        Some(Spanned { value, span }) => list.items.push(Item { value, span, index: Some(index) }),
                        None => list.complete = false,
                    }
                }
            }
            Kind::Scalar { text, .. } if text.contains(',') => {
                let hint = format!("write `[{}]`", as_list(text));
                self.problems.add(f.node.span, &f.at, format!("{} is one text, not a list", quote(text)), hint);
                list.complete = false;
            }
            _ => match each(self, f) {
                Some(Spanned { value, span }) => list.items.push(Item { value, span, index: None }),
                None => list.complete = false,
            },
        }
        list
    }

    // ── the mappings, top down ──

    fn node(&mut self, f: &Field<'_, '_>) -> RawNode {
        let mut raw = RawNode::default();
        let Some(fields) = self.fields(f.node, &f.at, &schema::NODE) else { return raw };
        if let Some(f) = fields.get("interfaces") {
            raw.interfaces = self.one_or_many(&f, |d, f| d.interface(f)).items;
        }
        raw.vip_addresses = fields.get("vip_addresses").and_then(|f| self.choice::<VipAddresses>(&f));
        raw.on_exit = fields.get("on_exit").and_then(|f| self.choice::<OnExit>(&f));
        raw.bpf_dir = fields.get("bpf_dir").and_then(|f| self.path(&f));
        raw.run_dir = fields.get("run_dir").and_then(|f| self.path(&f));
        if let Some(f) = fields.get("tunnel_source")
            && let Some(fields) = self.fields(f.node, &f.at, &schema::TUNNEL_SOURCE)
        {
            raw.tunnel_source4 = fields.get("ipv4").and_then(|f| self.tunnel_source(&f));
            raw.tunnel_source6 = fields.get("ipv6").and_then(|f| self.tunnel_source(&f));
        }
        raw.min_ring_interval = fields.get("min_ring_interval").and_then(|f| self.duration(&f));
        raw.weight_hysteresis = fields.get("weight_hysteresis").and_then(|f| self.percent(&f));
        raw
    }

    fn interface(&mut self, f: &Field<'_, '_>) -> Option<Spanned<(Spanned<String>, XdpMode)>> {
        let hint = "write `eth0` or `{ name: eth0, xdp: auto }`";
        let Kind::Mapping(_) = &f.node.kind else {
            let name = self.parsed(f.node, &f.at, "an interface", hint, values::interface)?;
            return Some(Spanned { value: (name, XdpMode::Auto), span: f.node.span });
        };
        let fields = self.fields(f.node, &f.at, &schema::INTERFACE)?;
        let name = fields.get("name");
        let name = name.and_then(|f| self.parsed(f.node, &f.at, "an interface name", hint, values::interface));
        let xdp = match fields.get("xdp") {
            None => XdpMode::Auto,
            Some(f) => self.choice(&f)?.value,
        };
        Some(Spanned { value: (name?, xdp), span: f.node.span })
    }

    fn tunnel_source(&mut self, f: &Field<'_, '_>) -> Option<Spanned<Prefix>> {
        let v4 = matches!(f.entry.value, Value::Prefix4);
        let (example, family) = if v4 { ("192.0.2.0/24", "IPv4") } else { ("2001:db8::/64", "IPv6") };
        let hint = format!("write it as `{example}`");
        let prefix = self.parsed(f.node, &f.at, "an address prefix", &hint, values::prefix)?;
        if prefix.value.address.is_ipv4() != v4 {
            self.problems.add(prefix.span, &f.at, format!("this is not an {family} prefix"), hint);
            return None;
        }
        Some(prefix)
    }

    fn admin(&mut self, f: &Field<'_, '_>) -> RawAdmin {
        let mut raw = RawAdmin::default();
        let Some(fields) = self.fields(f.node, &f.at, &schema::ADMIN) else { return raw };
        raw.socket = fields.get("socket").and_then(|f| self.path(&f));
        if let Some(f) = fields.get("http") {
            let hint = "write an address and port such as `127.0.0.1:9480`, or `off`";
            raw.http = self.parsed(f.node, &f.at, "an address and port, or `off`,", hint, |text| {
                if text == "off" {
                    return Ok(None);
                }
                let Ok(address) = text.parse::<SocketAddr>() else {
                    return Err(Complaint::new(format!("{} is not an address and port", quote(text)), hint));
                };
                if address.port() == 0 {
                    return Err(Complaint::new("port 0 cannot be served", hint));
                }
                Ok(Some(address))
            });
        }
        raw
    }

    fn limits(&mut self, f: &Field<'_, '_>) -> RawLimits {
        let Some(fields) = self.fields(f.node, &f.at, &schema::LIMITS) else { return RawLimits::default() };
        let mut limit = |name| fields.get(name).and_then(|f| self.integer(&f));
        RawLimits { flows: limit("flows"), services: limit("services"), backends: limit("backends") }
    }

    fn packets(&mut self, f: &Field<'_, '_>) -> RawPackets {
        let Some(fields) = self.fields(f.node, &f.at, &schema::PACKETS) else { return RawPackets::default() };
        let mut switch = |name| fields.get(name).and_then(|f| self.choice::<Switch>(&f));
        RawPackets {
            vlan_tags: switch("vlan_tags"),
            extension_headers: switch("extension_headers"),
            fragments: switch("fragments"),
            icmp_errors: switch("icmp_errors"),
            echo: switch("echo"),
            too_big: switch("too_big"),
        }
    }

    fn defaults(&mut self, f: &Field<'_, '_>) -> RawDefaults {
        let mut raw = RawDefaults::default();
        let Some(fields) = self.fields(f.node, &f.at, &schema::DEFAULTS) else { return raw };
        raw.scheduler = fields.get("scheduler").and_then(|f| self.choice::<Scheduler>(&f));
        raw.forward = fields.get("forward").and_then(|f| self.choice::<Forward>(&f));
        raw.timeouts = fields.get("timeouts").map_or_else(RawTimeouts::default, |f| self.timeouts(&f));
        raw.on_backend_down = fields.get("on_backend_down").and_then(|f| self.choice::<OnBackendDown>(&f));
        raw.tracking = fields.get("tracking").and_then(|f| self.choice::<Tracking>(&f));
        if let Some(f) = fields.get("health")
            && let Some(fields) = self.fields(f.node, &f.at, &schema::HEALTH_DEFAULTS)
        {
            raw.health = self.timing(&fields);
        }
        raw
    }

    fn timeouts(&mut self, f: &Field<'_, '_>) -> RawTimeouts {
        let Some(fields) = self.fields(f.node, &f.at, &schema::TIMEOUTS) else { return RawTimeouts::default() };
        let mut timeout = |name| fields.get(name).and_then(|f| self.duration(&f));
        RawTimeouts {
            tcp_established: timeout("tcp_established"),
            tcp_opening: timeout("tcp_opening"),
            tcp_closing: timeout("tcp_closing"),
            udp: timeout("udp"),
        }
    }

    fn timing(&mut self, fields: &Fields<'_, '_>) -> RawTiming {
        RawTiming {
            interval: fields.get("interval").and_then(|f| self.duration(&f)),
            fast_interval: fields.get("fast_interval").and_then(|f| self.duration(&f)),
            down_interval: fields.get("down_interval").and_then(|f| self.duration(&f)),
            timeout: fields.get("timeout").and_then(|f| self.duration(&f)),
            rise: fields.get("rise").and_then(|f| self.integer(&f)),
            fall: fields.get("fall").and_then(|f| self.integer(&f)),
            jitter: fields.get("jitter").and_then(|f| self.percent(&f)),
        }
    }

    fn service(&mut self, index: usize, node: &Node<'_>, at: &At<'_>) -> Option<RawService> {
        let fields = self.fields(node, at, &schema::SERVICE)?;
        let name = fields.get("name");
        let name = name.and_then(|f| self.parsed(f.node, &f.at, "a name", "such as `web`", values::name));

        let mut listen = List { items: Vec::new(), complete: false };
        if let Some(f) = fields.get("listen") {
            let hint = "write the VIP and port, such as `203.0.113.10:443`";
            listen = self.one_or_many(&f, |d, f| {
                if let Some(text) = unquoted_v6(f.node) {
                    let message = "square brackets start a list in YAML, so an IPv6 endpoint needs quotes";
                    d.problems.add(f.node.span, &f.at, message, format!("write \"{text}\""));
                    return None;
                }
                d.parsed(f.node, &f.at, "an address and port", hint, values::listen)
            });
        }

        let protocols = match fields.get("protocol") {
            None => List { items: vec![Item { value: Protocol::Tcp, span: node.span, index: None }], complete: true },
            Some(f) => self.one_or_many(&f, |d, f| d.choice(f)),
        };

        let scheduler = fields.get("scheduler").and_then(|f| self.choice(&f));
        let forward_field = fields.get("forward");
        let forward = forward_field.as_ref().and_then(|f| self.choice(f));
        let forward_known = forward_field.is_none() || forward.is_some();
        let tunnel = fields.get("tunnel").and_then(|f| self.tunnel(&f));
        let timeouts = fields.get("timeouts").map_or_else(RawTimeouts::default, |f| self.timeouts(&f));
        let on_backend_down = fields.get("on_backend_down").and_then(|f| self.choice::<OnBackendDown>(&f));
        let udp = fields.get("udp").and_then(|f| {
            let fields = self.fields(f.node, &f.at, &schema::UDP)?;
            let mode = fields.get("mode").and_then(|f| self.choice::<UdpMode>(&f));
            Some(RawUdp { span: f.node.span, mode })
        });
        let clamp_mss = fields.get("clamp_mss").and_then(|f| self.choice::<Switch>(&f));
        let affinity = fields.get("affinity").and_then(|f| self.choice::<Affinity>(&f));
        let tracking = fields.get("tracking").and_then(|f| self.choice::<Tracking>(&f));
        let limits = fields.get("limits").and_then(|f| {
            let fields = self.fields(f.node, &f.at, &schema::SERVICE_LIMITS)?;
            Some(RawServiceLimits {
                flows: fields.get("flows").and_then(|f| self.integer(&f)),
                new_flows: fields.get("new_flows").and_then(|f| self.rate(&f)),
                tracked_flows: fields.get("tracked_flows").and_then(|f| self.integer(&f)),
            })
        });
        let health = fields.get("health").map_or(RawHealth::Absent, |f| self.health(&f));
        let agent = fields.get("agent").and_then(|f| self.agent(&f));
        let min_healthy = fields.get("min_healthy").and_then(|f| self.integer(&f));
        let max_ejected = fields.get("max_ejected").and_then(|f| self.percent(&f));
        let panic_threshold = fields.get("panic_threshold").and_then(|f| self.percent(&f));
        let on_empty = fields.get("on_empty").and_then(|f| self.choice::<OnEmpty>(&f));

        let mut backends = Vec::new();
        let mut backends_complete = false;
        let mut backends_span = node.span;
        if let Some(f) = fields.get("backends") {
            backends_span = f.node.span;
            if let Some(items) = self.sequence(&f, "a list of backends", "start each entry with `- address: …`") {
                backends_complete = true;
                for (index, item) in items.iter().enumerate() {
                    let at = f.at.item(index, peek(item, "name").or_else(|| peek(item, "address")));
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

        Some(RawService {
            index,
            span: node.span,
            name,
            listen,
            protocols,
            scheduler,
            forward,
            forward_known,
            tunnel,
            timeouts,
            on_backend_down,
            udp,
            affinity,
            clamp_mss,
            tracking,
            limits: limits.unwrap_or_default(),
            health,
            agent,
            min_healthy,
            max_ejected,
            panic_threshold,
            on_empty,
            backends,
            backends_complete,
            backends_span,
        })
    }

    fn hook(&mut self, index: usize, node: &Node<'_>, at: &At<'_>) -> Option<RawHook> {
        let fields = self.fields(node, at, &schema::HOOK)?;
        self.at_most_one(&fields, "a hook is one call", "make two hooks of them");
        let on = fields.get("on").map(|f| self.one_or_many(&f, |d, f| d.choice::<Subject>(f)));
        let exec = self.command(&fields, "exec").map(Call::Exec);
        let hint = "such as `http://127.0.0.1:9000/sluice`";
        let webhook = self.value(&fields, "webhook", "a URL", hint, values::url).map(Call::Webhook);
        let named = fields.get("exec").is_some() || fields.get("webhook").is_some();
        let timeout = fields.get("timeout").and_then(|f| self.duration(&f));
        Some(RawHook { index, span: node.span, on, call: exec.or(webhook), named, timeout })
    }

    fn agent(&mut self, f: &Field<'_, '_>) -> Option<RawAgent> {
        let fields = self.fields(f.node, &f.at, &schema::AGENT)?;
        let address = fields
            .get("address")
            .and_then(|f| self.parsed(f.node, &f.at, "an IP address", "such as `10.0.0.11`", values::address));
        Some(RawAgent {
            address,
            port: fields.get("port").and_then(|f| self.port(&f)),
            send: self.bytes(&fields, "send"),
            interval: fields.get("interval").and_then(|f| self.duration(&f)),
            timeout: fields.get("timeout").and_then(|f| self.duration(&f)),
        })
    }

    fn tunnel(&mut self, f: &Field<'_, '_>) -> Option<RawTunnel> {
        let fields = self.fields(f.node, &f.at, &schema::TUNNEL)?;
        let vni = fields.get("vni");
        let inner_mac = fields.get("inner_mac");
        Some(RawTunnel {
            span: f.node.span,
            port: fields.get("port").and_then(|f| self.port(&f)),
            variant: fields.get("variant").and_then(|f| self.integer(&f)),
            vni: vni.as_ref().and_then(|f| self.integer(f)),
            vni_known: vni.is_some(),
            inner_mac: inner_mac.as_ref().and_then(|f| self.mac(f)),
            inner_mac_known: inner_mac.is_some(),
        })
    }

    fn mac(&mut self, f: &Field<'_, '_>) -> Option<Spanned<Mac>> {
        self.parsed(f.node, &f.at, "a MAC address", "such as `02:00:00:00:00:0a`", values::mac)
    }

    fn health(&mut self, f: &Field<'_, '_>) -> RawHealth {
        let forms = "write `{ tcp: {} }`, `{ http: { path: /healthz } }` or `none`";
        if let Kind::Scalar { text, .. } = &f.node.kind {
            match &**text {
                "none" => return RawHealth::Off,
                kind if schema::CHECK.built().any(|(name, _)| name == kind) => {
                    self.wrong_type(f.node, &f.at, "a mapping", &format!("write `health: {{ {kind}: {{}} }}`"));
                }
                "off" | "false" | "no" => {
                    let message = format!("`{text}` is not a health check");
                    self.problems.add(f.node.span, &f.at, message, "write `health: none` to check nothing");
                }
                _ => self.wrong_type(f.node, &f.at, "a health check", forms),
            }
            return RawHealth::Absent;
        }
        if matches!(f.node.kind, Kind::Null) {
            self.wrong_type(f.node, &f.at, "a health check", forms);
            return RawHealth::Absent;
        }
        let Some(fields) = self.fields(f.node, &f.at, &schema::HEALTH) else { return RawHealth::Absent };
        let timing = self.timing(&fields);
        let hint = "keep one, or list them: `all: [{ tcp: {} }, { http: {} }]`";
        self.at_most_one(&fields, "a service has one health check", hint);
        let mut checks: Vec<_> = self.check(&fields).into_iter().collect();
        let mut need = Need::All;
        for (key, of_these) in [("all", Need::All), ("any", Need::Any)] {
            let Some(f) = fields.get(key) else { continue };
            checks.extend(self.checks(&f));
            // Of one, all and any are the same.
            need = if checks.len() > 1 { of_these } else { Need::All };
        }
        let named = schema::HEALTH.at_most_one.iter().any(|name| fields.get(name).is_some());
        RawHealth::Checks(Box::new(RawChecks { span: f.node.span, named, checks, need, timing }))
    }

    /// A list of checks.
    fn checks(&mut self, f: &Field<'_, '_>) -> Vec<Check> {
        let hint = "write a list of checks, such as `[{ tcp: {} }, { http: { path: /healthz } }]`";
        let Some(items) = self.sequence(f, "a list of checks", hint) else { return Vec::new() };
        if items.is_empty() {
            self.problems.add(f.node.span, &f.at, "the list is empty", "put at least one check in it");
        }
        if let Some(one_too_many) = items.get(MOST_CHECKS) {
            let message = format!("{} checks, and a service has at most {MOST_CHECKS}", items.len());
            self.problems.add(one_too_many.span, &f.at, message, "each of them is made for each backend");
            return Vec::new();
        }
        let mut checks = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let at = f.at.item(index, None);
            if let Kind::Scalar { text, .. } = &item.kind
                && schema::CHECK.built().any(|(name, _)| name == text)
            {
                self.wrong_type(item, &at, "a mapping", &format!("write `{{ {text}: {{}} }}`"));
                continue;
            }
            let Some(fields) = self.fields(item, &at, &schema::CHECK) else { continue };
            self.at_most_one(&fields, "an entry is one check", "make two entries of them");
            match self.check(&fields) {
                Some(check) => checks.push(check),
                // What is not one of the kinds has been told already.
                None if fields.entries.is_empty() => {
                    let hint = "write one such as `tcp: {}` or `http: { path: /healthz }`";
                    self.problems.add(item.span, &at, "this does not say what to check", hint);
                }
                None => {}
            }
        }
        checks
    }

    fn at_most_one(&mut self, fields: &Fields<'_, '_>, message: &str, hint: &str) {
        let there: Vec<_> = fields.table.at_most_one.iter().filter(|name| fields.get(name).is_some()).collect();
        if let [.., before, last] = there.as_slice()
            && let Some(f) = fields.get(last)
        {
            let message = format!("{message}, and this is `{before}` and `{last}`");
            self.problems.add(f.node.span, &fields.at, message, hint);
        }
    }

    /// The check among `fields`, as far as it can be read: it is used only if nothing was refused.
    fn check(&mut self, fields: &Fields<'_, '_>) -> Option<Check> {
        let (name, _) = schema::CHECK.built().find(|(name, _)| fields.get(name).is_some())?;
        let f = fields.get(name)?;
        let table: &'static Table = match f.entry.value {
            Value::Table(table) | Value::Either(&[_, Value::Table(table)]) => table,
            _ => unreachable!("{} is no check in its table", f.at),
        };
        let inner = match &f.node.kind {
            Kind::Null if matches!(f.entry.value, Value::Either(_)) => Fields { entries: &[], table, at: f.at },
            Kind::Scalar { text, .. } if text.starts_with('/') && name == "exec" => {
                let hint = format!("write `exec: {{ command: [{}] }}`", excerpt(text));
                self.wrong_type(f.node, &f.at, "a mapping", &hint);
                return None;
            }
            Kind::Scalar { text, .. } if text.starts_with('/') && table.key("path").is_some() => {
                let hint = format!("write `{name}: {{ path: {} }}`", excerpt(text));
                self.wrong_type(f.node, &f.at, "a mapping", &hint);
                return None;
            }
            _ => self.fields(f.node, &f.at, table)?,
        };
        // Not every kind has them.
        let endpoint = |key| table.key(key).and_then(|_| inner.get(key));
        let address = endpoint("address")
            .and_then(|f| self.parsed(f.node, &f.at, "an IP address", "such as `10.0.0.11`", values::address));
        let port = endpoint("port").and_then(|f| self.port(&f));
        let kind = match name {
            "tcp" => CheckKind::Tcp,
            "http" => CheckKind::Http(self.http(&inner)),
            "https" => {
                let http = self.http(&inner);
                let alpn = inner.get("alpn").and_then(|f| self.choice(&f));
                let tls = self.tls(&inner);
                CheckKind::Https(HttpsCheck { http, alpn: alpn.map(|a| a.value).unwrap_or_default(), tls })
            }
            "tls" => {
                let alpn = inner.get("alpn").map(|f| {
                    let hint = "write one such as `h2`, or a list";
                    self.one_or_many(&f, |d, f| d.parsed(f.node, &f.at, "a protocol's name", hint, values::alpn_name))
                });
                let alpn = alpn.map_or_else(Vec::new, |list| list.items.into_iter().map(|a| a.value).collect());
                CheckKind::Tls(TlsCheck { tls: self.tls(&inner), alpn })
            }
            "dns" => CheckKind::Dns(self.dns(&inner)?),
            "udp" => {
                let (send, expect) = (self.bytes(&inner, "send"), self.bytes(&inner, "expect"));
                CheckKind::Udp(UdpCheck { send: send?, expect: expect.unwrap_or_default() })
            }
            "icmp" => CheckKind::Icmp,
            "grpc" => {
                let hint = "such as `shop.v1.Cart`";
                let service = self.value(&inner, "service", "a gRPC service", hint, values::grpc_service);
                let host = self.value(&inner, "host", "a host name", "such as `www.example.com`", values::host);
                let tls = inner.get("tls").and_then(|f| {
                    let fields = match f.node.kind {
                        Kind::Null => Fields { entries: &[], table: &schema::GRPC_TLS, at: f.at },
                        _ => self.fields(f.node, &f.at, &schema::GRPC_TLS)?,
                    };
                    Some(self.tls(&fields))
                });
                CheckKind::Grpc(GrpcCheck { service: service.unwrap_or_default(), host, tls })
            }
            "exec" => CheckKind::Exec(ExecCheck { command: self.command(&inner, "command")? }),
            other => unreachable!("`{other}` is a check nobody reads"),
        };
        Some(Check { kind, address: address.map(|a| a.value), port: port.map(|p| p.value) })
    }

    /// A text with escapes of its own.
    fn bytes(&mut self, fields: &Fields<'_, '_>, name: &'static str) -> Option<Vec<u8>> {
        let f = fields.get(name)?;
        if matches!(&f.node.kind, Kind::Scalar { text, plain: false } if text.contains(['\n', '\r'])) {
            let message = "in double quotes, YAML makes a line break of `\\n` before Sluice sees it";
            self.problems.add(f.node.span, &f.at, message, "use single quotes, as in `'ping\\n'`");
            return None;
        }
        Some(self.parsed(f.node, &f.at, "a text", "such as `'ping\\n'`", values::bytes)?.value)
    }

    fn dns(&mut self, fields: &Fields<'_, '_>) -> Option<DnsCheck> {
        let over = fields.get("over").and_then(|f| self.choice(&f));
        let record = fields.get("type").and_then(|f| self.choice(&f));
        let rcode = fields.get("rcode").map(|f| self.one_or_many(&f, |d, f| d.choice(f)));
        let rcode = rcode.map(|list| list.items.into_iter().map(|rcode| rcode.value).collect());
        let answer = self.value(fields, "answer", "a text", "such as `10.0.0.80`", values::text);
        let name = self.value(fields, "name", "a name in DNS", "such as `www.example.com`", values::domain_name);
        Some(DnsCheck {
            over: over.map_or(Protocol::Udp, |over| over.value),
            name: name?,
            record: record.map(|record| record.value).unwrap_or_default(),
            rcode: rcode.unwrap_or_else(|| vec![Rcode::default()]),
            answer,
        })
    }

    /// A program and its arguments.
    fn command(&mut self, fields: &Fields<'_, '_>, name: &'static str) -> Option<Vec<String>> {
        let f = fields.get(name)?;
        let hint = "write the program by its path, and its arguments: `[/usr/local/bin/check, --deep]`";
        let list = self.one_or_many(&f, |d, f| d.parsed(f.node, &f.at, "a text", hint, values::text));
        let first = list.items.first()?;
        if !first.value.starts_with('/') {
            let message = format!("{} is not an absolute path", quote(&first.value));
            self.problems.add(first.span, &f.at.entry(first.index), message, hint);
        } else if first.index.is_none() && first.value.contains(' ') {
            let message = format!("{} is one path: there is no shell to take it apart", quote(&first.value));
            let words: Vec<&str> = first.value.split_whitespace().collect();
            let hint = format!("write `[{}]`", excerpt(&words.join(", ")));
            self.problems.add(first.span, &f.at, message, hint);
        }
        Some(list.items.into_iter().map(|word| word.value).collect())
    }

    /// One text of a mapping, put through one of the functions in [`values`].
    fn value<T>(
        &mut self,
        fields: &Fields<'_, '_>,
        name: &'static str,
        wanted: &str,
        hint: &str,
        parse: fn(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        let f = fields.get(name)?;
        Some(self.parsed(f.node, &f.at, wanted, hint, parse)?.value)
    }

    /// The keys that `http` and `https` share.
    fn http(&mut self, fields: &Fields<'_, '_>) -> HttpCheck {
        let method = self.value(fields, "method", "an HTTP method", "such as `GET`", values::method);
        let path = self.value(fields, "path", "a path", "such as `/healthz`", values::request_path);
        let host = self.value(fields, "host", "a host name", "such as `www.example.com`", values::host);
        let headers = fields.get("headers").map_or_else(Vec::new, |f| self.headers(&f));
        let expect = fields.get("expect").map(|f| {
            let hint = "write `200-299`, `200`, or a list such as `[200, 204, 300-399]`";
            let list = self.one_or_many(&f, |d, f| {
                d.parsed(f.node, &f.at, "a range of HTTP status codes", hint, values::status_range)
            });
            list.items.into_iter().map(|r| r.value).collect()
        });
        let body_contains = self.value(fields, "body_contains", "a text", "such as `ok`", values::text);
        let hint = "such as `'^ok$'`";
        let body_matches = self.value(fields, "body_matches", "a regular expression", hint, values::pattern);
        HttpCheck {
            method: method.unwrap_or_else(|| "GET".to_owned()),
            path: path.unwrap_or_else(|| "/".to_owned()),
            host,
            headers,
            expect: expect.unwrap_or_else(|| vec![(200, 299)]),
            body_contains,
            body_matches,
        }
    }

    /// The keys that say whom to take for the backend behind TLS.
    fn tls(&mut self, fields: &Fields<'_, '_>) -> TlsOptions {
        let hint = "such as `www.example.com`";
        let verify = self.value(fields, "verify", "true or false", "write `true` or `false`", values::flag);
        TlsOptions {
            sni: self.value(fields, "sni", "a server's name", hint, values::server_name),
            ca: fields.get("ca").and_then(|f| self.path_like(&f, "/etc/sluice/ca.pem")).map(|ca| ca.value),
            verify: verify.unwrap_or(true),
            warn_days: fields.get("warn_days").and_then(|f| self.integer(&f)).map_or(14, |days| days.value),
        }
    }

    fn headers(&mut self, f: &Field<'_, '_>) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut seen = HashSet::new();
        let hint = "write `Name: value` pairs";
        let Kind::Mapping(entries) = &f.node.kind else {
            self.wrong_type(f.node, &f.at, "a mapping", hint);
            return headers;
        };
        for tree::Entry { key, key_span, value } in entries {
            let name = quote(key);
            let refusal = match key.to_ascii_lowercase().as_str() {
                _ if !values::is_token(key) => {
                    Some((format!("{name} is not a header name"), "use letters, digits and `-`, such as `X-Probe`"))
                }
                "host" => Some((format!("{name} is set by its own key"), "use `host:` beside `headers`")),
                "connection" | "content-length" | "transfer-encoding" => {
                    Some((format!("{name} belongs to the check itself"), "remove it"))
                }
                lower if !seen.insert(lower.to_owned()) => {
                    let hint = "keep one of the two: case does not matter in header names";
                    Some((format!("the header {name} is set twice"), hint))
                }
                _ => None,
            };
            if let Some((message, hint)) = refusal {
                self.problems.add(*key_span, &f.at, message, hint);
                continue;
            }
            let at = f.at.key(key);
            let Some(text) = self.text(value, &at, "a header value", hint) else { continue };
            if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') || text.trim() != text {
                let message = format!("{} is not a header value", quote(text));
                self.problems.add(value.span, &at, message, "write printable ASCII, without spaces around it");
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
        let fields = self.fields(node, at, &schema::BACKEND)?;
        let address_field = fields.get("address");
        let address = address_field
            .and_then(|f| self.parsed(f.node, &f.at, "an IP address", "such as `10.0.0.11`", values::address));
        let port_field = fields.get("port");
        let port = port_field.as_ref().and_then(|f| self.port(f));
        let name_field = fields.get("name");
        let name = name_field.as_ref().and_then(|f| {
            self.parsed(f.node, &f.at, "a name", "such as `canary`", |text| {
                // What it would be called anyway may be written out, colons and all.
                let own = address.as_ref().is_some_and(|a| {
                    let with_port = port.as_ref().map(|p| SocketAddr::new(a.value, p.value).to_string());
                    a.value.to_string() == text || with_port.is_some_and(|name| name == text)
                });
                if own { Ok(text.to_owned()) } else { values::name(text) }
            })
        });
        let mac_field = fields.get("inner_mac");
        let inner_mac = mac_field.as_ref().and_then(|f| self.mac(f));
        let complete = name_field.is_some() == name.is_some()
            && address.is_some()
            && port_field.is_some() == port.is_some()
            && mac_field.is_some() == inner_mac.is_some();
        let weight = fields.get("weight").and_then(|f| self.integer(&f));
        let state = fields.get("state").and_then(|f| self.choice::<BackendState>(&f));
        let fallback = fields
            .get("fallback")
            .and_then(|f| self.parsed(f.node, &f.at, "true or false", "write `true` or `false`", values::flag));
        Some(RawBackend {
            index,
            span: node.span,
            name,
            address,
            port,
            inner_mac,
            complete,
            weight: weight.map(|w| w.value),
            state: state.map(|s| s.value).unwrap_or_default(),
            fallback,
        })
    }
}

/// What was meant by values with commas between them.
fn as_list(text: &str) -> String {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let quoted = items.map(|item| if item.starts_with('[') { format!("\"{item}\"") } else { item.to_owned() });
    excerpt(&quoted.collect::<Vec<_>>().join(", "))
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

/// The key of this table that was probably meant, and what to say about it.
fn unknown_key_hint(word: &str, table: &'static Table) -> (Option<&'static str>, String) {
    let here = || table.keys.iter().map(|k| k.name);
    let folded = word.to_ascii_lowercase().replace('-', "_");
    if let Some((_, ours)) = ELSEWHERE.iter().find(|(theirs, ours)| *theirs == folded && here().any(|k| k == *ours)) {
        return (Some(ours), format!("Sluice calls it `{ours}`"));
    }
    if let Some(guess) = closest(word, here()) {
        let later = if table.built().any(|(k, _)| k == guess) { "" } else { " It is not supported yet" };
        return (Some(guess), format!("did you mean `{guess}`?{later}"));
    }
    let mut owners: Vec<_> = TABLES.iter().filter(|t| t.built().any(|(k, _)| k == word)).collect();
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
        [first, second, _, _, ..] => format!("it belongs to {first}, {second} and others"),
        [] => format!("keys here are `{}`", table.built().map(|(name, _)| name).collect::<Vec<_>>().join("`, `")),
        names => format!("it belongs to {}", names.join(" or ")),
    };
    (None, hint)
}

#[cfg(test)]
mod tests {
    use super::super::diagnose::Source;
    use super::*;
    use crate::model::{HttpVersion, RecordType};

    /// The choices are in the tables as words and in the model as variants; serde knows both.
    #[test]
    fn every_word_that_is_built_can_be_read() {
        let at = At::TOP;
        let source = Source::new("f", "");
        let mut problems = Problems::new(&source);
        let mut d = Decoder { problems: &mut problems };
        let mut read = 0;
        for table in TABLES {
            for (name, entry) in table.built() {
                let Some(choice) = entry.value.choice() else { continue };
                for word in choice.built() {
                    let node = tree::text(word);
                    let f = Field { node: &node, at, entry };
                    let known = match name {
                        "vip_addresses" => d.choice::<VipAddresses>(&f).is_some(),
                        "on_exit" => d.choice::<OnExit>(&f).is_some(),
                        "xdp" => d.choice::<XdpMode>(&f).is_some(),
                        "scheduler" => d.choice::<Scheduler>(&f).is_some(),
                        "forward" => d.choice::<Forward>(&f).is_some(),
                        "protocol" => d.choice::<Protocol>(&f).is_some(),
                        "state" => d.choice::<BackendState>(&f).is_some(),
                        "on_backend_down" => d.choice::<OnBackendDown>(&f).is_some(),
                        "on_empty" => d.choice::<OnEmpty>(&f).is_some(),
                        "on" => d.choice::<Subject>(&f).is_some(),
                        "over" => d.choice::<Protocol>(&f).is_some(),
                        "type" => d.choice::<RecordType>(&f).is_some(),
                        "rcode" => d.choice::<Rcode>(&f).is_some(),
                        "alpn" => d.choice::<HttpVersion>(&f).is_some(),
                        "mode" => d.choice::<UdpMode>(&f).is_some(),
                        "affinity" => d.choice::<Affinity>(&f).is_some(),
                        "tracking" => d.choice::<Tracking>(&f).is_some(),
                        "clamp_mss" | "vlan_tags" | "extension_headers" | "fragments" | "icmp_errors" | "echo"
                        | "too_big" => d.choice::<Switch>(&f).is_some(),
                        other => panic!("which type does `{other}` choose from?"),
                    };
                    assert!(known, "{name}: {word}");
                    read += 1;
                }
            }
        }
        assert!(read >= 10, "{read} words");
    }
}
