//! A [`Model`] as a configuration file: every default filled in.
//!
//! What comes out is a file that means the same model again. So `defaults` is not in it (each service carries what
//! it takes from there), and a key is left out only where its absence means something no value can say: `port` of a
//! backend that takes the client's, `host` of a check that takes the backend's address, `ca` of one that trusts the host's, `tracked_flows` of a service
//! that takes its part.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::values::{show_bytes, show_duration, show_percent, show_rate};
use crate::model::{
    Agent, Backend, Call, Check, CheckKind, Forward, HealthCheck, Hook, HttpCheck, Mac, Model, Need, Prefix, Protocol,
    Service, Switch, TlsOptions,
};

/// The file, its keys in the order of the documentation.
pub fn show(model: &Model) -> Value {
    let node = &model.node;
    let prefix = |p: &Option<Prefix>| p.map(|p| json!(format!("{}/{}", p.address, p.length)));
    let sources = mapping([("ipv4", prefix(&node.tunnel_source4)), ("ipv6", prefix(&node.tunnel_source6))]);
    let interfaces = node.interfaces.iter().map(|i| json!({ "name": i.name, "xdp": i.xdp }));
    json!({
        "version": 1,
        "node": mapping([
            ("interfaces", Some(interfaces.collect())),
            ("vip_addresses", word(node.vip_addresses)),
            ("on_exit", word(node.on_exit)),
            ("bpf_dir", word(&node.bpf_dir)),
            ("run_dir", word(&node.run_dir)),
            ("tunnel_source", Some(sources).filter(|s| s.as_object().is_some_and(|s| !s.is_empty()))),
            ("min_ring_interval", word(show_duration(node.min_ring_interval))),
            ("weight_hysteresis", word(show_percent(node.weight_hysteresis))),
        ]),
        "admin": {
            "socket": model.admin.socket,
            "http": model.admin.http.map_or_else(|| "off".to_owned(), |http| http.to_string()),
        },
        "hash_key": model.hash_key,
        "limits": {
            "flows": model.limits.flows,
            "services": model.limits.services,
            "backends": model.limits.backends,
        },
        "packets": mapping(model.packets.switches().map(|(key, switch)| (key, word(switch)))),
        "hooks": model.hooks.iter().map(hook).collect::<Vec<_>>(),
        "services": model.services.iter().map(service).collect::<Vec<_>>(),
    })
}

/// Keys whose value is there.
fn mapping<'k>(entries: impl IntoIterator<Item = (&'k str, Option<Value>)>) -> Value {
    let there = entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(there.collect::<Map<_, _>>())
}

fn word(value: impl Serialize) -> Option<Value> {
    Some(json!(value))
}

fn service(s: &Service) -> Value {
    let listen: Vec<_> = s.listen.iter().map(ToString::to_string).collect();
    let timeouts = json!({
        "tcp_established": show_duration(s.timeouts.tcp_established),
        "tcp_opening": show_duration(s.timeouts.tcp_opening),
        "tcp_closing": show_duration(s.timeouts.tcp_closing),
        "udp": show_duration(s.timeouts.udp),
    });
    let limits = mapping([
        ("flows", word(s.limits.flows)),
        ("new_flows", word(show_rate(s.limits.new_flows))),
        ("tracked_flows", s.limits.tracked_flows.map(|flows| json!(flows))),
    ]);
    // Each is refused where its protocol is not there.
    let has = |protocol| s.protocols.contains(&protocol);
    let checked = s.health.is_some();
    mapping([
        ("name", word(&s.name)),
        ("listen", word(listen)),
        ("protocol", word(&s.protocols)),
        ("scheduler", word(s.scheduler)),
        ("forward", word(s.forward)),
        ("tunnel", tunnel(s)),
        ("timeouts", Some(timeouts)),
        ("on_backend_down", word(s.on_backend_down).filter(|_| has(Protocol::Tcp))),
        ("udp", Some(json!({ "mode": s.udp })).filter(|_| has(Protocol::Udp))),
        ("affinity", word(s.affinity)),
        ("clamp_mss", word(Switch::from(s.clamp_mss)).filter(|_| has(Protocol::Tcp))),
        ("tracking", word(s.tracking)),
        ("limits", Some(limits)),
        ("health", Some(s.health.as_ref().map_or_else(|| json!("none"), health))),
        ("agent", s.agent.as_ref().map(agent)),
        ("min_healthy", word(s.min_healthy)),
        ("max_ejected", word(show_percent(s.max_ejected)).filter(|_| checked)),
        ("panic_threshold", word(show_percent(s.panic_threshold)).filter(|_| checked)),
        ("on_empty", word(s.on_empty).filter(|_| checked)),
        ("backends", Some(s.backends.iter().map(backend).collect())),
    ])
}

fn hook(h: &Hook) -> Value {
    let (exec, webhook) = match &h.call {
        Call::Exec(command) => (word(command), None),
        Call::Webhook(url) => (None, word(url.to_string())),
    };
    mapping([("on", word(&h.on)), ("exec", exec), ("webhook", webhook), ("timeout", word(show_duration(h.timeout)))])
}

fn agent(a: &Agent) -> Value {
    mapping([
        ("address", a.address.map(|a| json!(a))),
        ("port", word(a.port)),
        ("send", Some(json!(show_bytes(&a.send))).filter(|_| !a.send.is_empty())),
        ("interval", word(show_duration(a.interval))),
        ("timeout", word(show_duration(a.timeout))),
    ])
}

fn tunnel(s: &Service) -> Option<Value> {
    s.forward.tunnel_port()?;
    Some(mapping([
        ("port", word(s.tunnel.port)),
        ("variant", word(s.tunnel.variant).filter(|_| s.forward == Forward::Gue)),
        ("vni", word(s.tunnel.vni).filter(|_| s.forward.is_overlay())),
        ("inner_mac", s.tunnel.inner_mac.map(mac)),
    ]))
}

fn mac(mac: Mac) -> Value {
    json!(mac.to_string())
}

fn health(h: &HealthCheck) -> Value {
    let (key, what) = match (h.checks.as_slice(), h.need) {
        ([only], _) => (only.kind.name(), check(only)),
        (several, need) => {
            let list = several.iter().map(|c| json!({ c.kind.name(): check(c) }));
            (if need == Need::All { "all" } else { "any" }, list.collect())
        }
    };
    json!({
        key: what,
        "interval": show_duration(h.interval),
        "fast_interval": show_duration(h.fast_interval),
        "down_interval": show_duration(h.down_interval),
        "timeout": show_duration(h.timeout),
        "rise": h.rise,
        "fall": h.fall,
        "jitter": show_percent(h.jitter),
    })
}

/// What stands behind a check's kind.
fn check(c: &Check) -> Value {
    let endpoint = [("address", c.address.map(|a| json!(a))), ("port", c.port.map(|p| json!(p)))];
    let keys: Vec<(&str, Option<Value>)> = match &c.kind {
        CheckKind::Tcp => vec![],
        CheckKind::Http(h) => http(h).into(),
        CheckKind::Https(h) => [http(&h.http).as_slice(), &[("alpn", word(h.alpn))], &tls(&h.tls)].concat(),
        CheckKind::Tls(t) => {
            let alpn = Some(&t.alpn).filter(|alpn| !alpn.is_empty());
            [[("alpn", alpn.map(|alpn| json!(alpn)))].as_slice(), &tls(&t.tls)].concat()
        }
        CheckKind::Dns(d) => vec![
            ("over", word(d.over)),
            ("name", word(&d.name)),
            ("type", word(d.record)),
            ("rcode", word(&d.rcode)),
            ("answer", d.answer.as_ref().map(|answer| json!(answer))),
        ],
        CheckKind::Udp(u) => {
            let expect = Some(&u.expect).filter(|expect| !expect.is_empty());
            vec![("send", word(show_bytes(&u.send))), ("expect", expect.map(|expect| json!(show_bytes(expect))))]
        }
        CheckKind::Icmp => vec![],
        CheckKind::Grpc(g) => vec![
            ("service", Some(json!(g.service)).filter(|_| !g.service.is_empty())),
            ("host", g.host.as_ref().map(|host| json!(host))),
            ("tls", g.tls.as_ref().map(|t| mapping(tls(t)))),
        ],
        CheckKind::Exec(e) => vec![("command", word(&e.command))],
    };
    mapping(endpoint.into_iter().chain(keys))
}

fn http(h: &HttpCheck) -> [(&'static str, Option<Value>); 7] {
    let headers: Map<_, _> = h.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let expect = h.expect.iter().map(|(low, high)| match low == high {
        true => json!(low),
        false => json!(format!("{low}-{high}")),
    });
    [
        ("path", word(&h.path)),
        ("method", word(&h.method)),
        ("host", h.host.as_ref().map(|host| json!(host))),
        ("headers", Some(headers).filter(|h| !h.is_empty()).map(Value::Object)),
        ("expect", Some(expect.collect())),
        ("body_contains", h.body_contains.as_ref().map(|text| json!(text))),
        ("body_matches", h.body_matches.as_ref().map(|pattern| json!(pattern.as_str()))),
    ]
}

fn tls(t: &TlsOptions) -> [(&'static str, Option<Value>); 4] {
    [
        ("sni", t.sni.as_ref().map(|name| json!(name))),
        ("ca", t.ca.as_ref().map(|path| json!(path))),
        ("verify", word(t.verify)),
        ("warn_days", word(t.warn_days)),
    ]
}

fn backend(b: &Backend) -> Value {
    mapping([
        ("name", word(&b.name)),
        ("address", word(b.address)),
        ("port", b.port.map(|port| json!(port))),
        ("inner_mac", b.inner_mac.map(mac)),
        ("weight", word(b.weight)),
        ("state", word(b.state)),
        ("fallback", word(b.fallback)),
    ])
}
