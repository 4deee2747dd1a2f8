//! The raw configuration into the [`Model`]: defaults filled in, and everything that takes two values to see.
//!
//! The trap is ambiguity that only shows as misdirected packets. NAT replies carry the backend's address and
//! port and nothing else, so (backend, port, protocol) must lead back to one VIP; a VIP that is also a backend
//! sends packets in circles. Both are refused here, because the packet path cannot tell.
//!
//! A check runs only on what was read whole: a list with a refused entry is not "missing a family".

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Host;
use super::decode::{
    Item, Raw, RawAdmin, RawBackend, RawHealth, RawHook, RawNode, RawService, RawTimeouts, RawTiming, Spanned,
};
use super::diagnose::{At, Problems, Span};
use super::values::show_duration;
use crate::dataplane::loader::BLOCKS_PER_SERVICE;
use crate::model::listen::first_of;
use crate::model::{
    Admin, Agent, Backend, Check, CheckKind, Forward, HealthCheck, Hook, Interface, Limits, Listen, Model, Need, Node,
    OnBackendDown, Packets, Ports, Prefix, Protocol, Service, ServiceLimits, Subject, Switch, Timeouts, Tracking,
    Tunnel, VipAddresses, wildcards,
};

/// `sun_path` holds 108 bytes with the closing NUL (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;
/// Room in `services4` and `services6` for each service of `limits.services`.
const ENDPOINTS_PER_SERVICE: usize = 4;
/// The model, or `None` with the reasons in `problems`.
pub(super) fn validate(raw: &Raw, host: Option<&dyn Host>, problems: &mut Problems<'_>) -> Option<Model> {
    let is_its_node = |host: &&dyn Host| raw.node.interfaces.iter().all(|i| host.has_interface(&i.value.0.value));
    let mut v = Validator { problems, node: host.filter(is_its_node) };
    let node = v.node(&raw.node);
    let admin = v.admin(&raw.admin, &node.run_dir);
    let limits = Limits {
        flows: or(&raw.limits.flows, 1_048_576),
        services: or(&raw.limits.services, 1_024),
        backends: or(&raw.limits.backends, 8_192),
    };
    // What does not fit is not looked at closer: the checks below would take as long as the file is hostile.
    if !v.room(raw, limits) {
        return None;
    }
    let hooks: Vec<_> = raw.hooks.iter().map(|h| v.hook(h)).collect();
    let on = |given: &Option<Spanned<Switch>>| or(given, Switch::On) == Switch::On;
    let packets = Packets {
        vlan: on(&raw.packets.vlan_tags),
        extensions: on(&raw.packets.extension_headers),
        fragments: on(&raw.packets.fragments),
        icmp: on(&raw.packets.icmp_errors),
        echo: on(&raw.packets.echo),
        too_big: on(&raw.packets.too_big),
        ..Packets::default()
    };
    let tracked = if raw.services.iter().any(|s| s.tracking(raw) == Tracking::Full) { limits.for_tracked() } else { 0 };
    let services: Vec<_> = raw.services.iter().map(|s| v.service(s, raw, limits, tracked)).collect();
    v.service_names(raw);
    v.overlaps(raw, &admin);
    v.vips_as_backends(raw);
    v.ambiguous_replies(raw);
    v.ambiguous_wildcard_replies(raw);
    v.blocks_fit(raw, limits);
    if !v.problems.is_empty() {
        return None;
    }
    let hash_key = or(&raw.hash_key, PathBuf::from("/etc/sluice/hash.key"));
    let hooks = hooks.into_iter().collect::<Option<_>>()?;
    Some(Model {
        node,
        admin,
        hash_key,
        limits,
        packets,
        hooks,
        services: services.into_iter().collect::<Option<_>>()?,
    })
}

fn or<T: Clone>(given: &Option<Spanned<T>>, default: T) -> T {
    given.as_ref().map_or(default, |g| g.value.clone())
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

impl RawService {
    /// What people know it by.
    fn called(&self) -> String {
        match &self.name {
            Some(name) => format!("`{}`", name.value),
            None => format!("services[{}]", self.index),
        }
    }

    fn with_at<R>(&self, f: impl FnOnce(&At<'_>) -> R) -> R {
        f(&At::TOP.key("services").item(self.index, self.name.as_ref().map(|n| n.value.as_str())))
    }

    /// The forwarding mode, unless it could not be read.
    fn forward(&self, raw: &Raw) -> Option<Forward> {
        let given = self.forward.as_ref().or(raw.defaults.forward.as_ref());
        self.forward_known.then(|| given.map_or(Forward::default(), |f| f.value))
    }

    fn tracking(&self, raw: &Raw) -> Tracking {
        or(&self.tracking, or(&raw.defaults.tracking, Default::default()))
    }

    fn endpoints(&self) -> impl Iterator<Item = (&Item<Listen>, Protocol)> {
        self.listen.items.iter().flat_map(|l| self.protocols.items.iter().map(move |p| (l, p.value)))
    }
}

impl RawBackend {
    fn with_at<R>(&self, service: &RawService, f: impl FnOnce(&At<'_>) -> R) -> R {
        let address = self.address.as_ref().map(|a| a.value.to_string());
        let label = self.name.as_ref().map(|n| n.value.as_str()).or(address.as_deref());
        service.with_at(|at| f(&at.key("backends").item(self.index, label)))
    }
}

/// Two VIP endpoints whose replies cannot be told apart.
struct Ambiguity {
    span: Span,
    /// Place of the second one in its list.
    listen: Option<usize>,
    backend: usize,
    /// Example of an endpoint both forward to.
    endpoint: SocketAddr,
    protocol: Protocol,
    endpoints: usize,
}

struct Validator<'p, 's> {
    problems: &'p mut Problems<'s>,
    /// The node that the file is for, if it can be asked.
    node: Option<&'p dyn Host>,
}

impl Validator<'_, '_> {
    fn node(&mut self, raw: &RawNode) -> Node {
        let at = At::TOP.key("node");
        let mut first: HashMap<&str, u32> = HashMap::new();
        let list = at.key("interfaces");
        for Item { value: (name, _), index, .. } in &raw.interfaces {
            if let Some(line) = first.insert(&name.value, name.span.line) {
                let message = format!("interface `{}` is listed twice, first on line {line}", name.value);
                self.problems.add(name.span, &list.entry(*index), message, "keep one of the two");
            }
        }
        for (prefix, key) in [(&raw.tunnel_source4, "ipv4"), (&raw.tunnel_source6, "ipv6")] {
            if let Some(prefix) = prefix
                && let Some(why) = unusable(prefix.value.address)
            {
                let message = format!("tunnels cannot come from {}: {why}", show_prefix(prefix.value));
                let at = at.key("tunnel_source");
                self.problems.add(prefix.span, &at.key(key), message, "take a prefix routed to this node, or none");
            }
        }
        Node {
            interfaces: raw
                .interfaces
                .iter()
                .map(|Item { value: (name, xdp), .. }| Interface { name: name.value.clone(), xdp: *xdp })
                .collect(),
            vip_addresses: or(&raw.vip_addresses, Default::default()),
            on_exit: or(&raw.on_exit, Default::default()),
            bpf_dir: or(&raw.bpf_dir, PathBuf::from("/sys/fs/bpf/sluice")),
            run_dir: or(&raw.run_dir, PathBuf::from("/run/sluice")),
            tunnel_source4: raw.tunnel_source4.as_ref().map(|p| p.value),
            tunnel_source6: raw.tunnel_source6.as_ref().map(|p| p.value),
            min_ring_interval: or(&raw.min_ring_interval, Duration::from_secs(1)),
            weight_hysteresis: or(&raw.weight_hysteresis, 0.0),
        }
    }

    fn admin(&mut self, raw: &RawAdmin, run_dir: &Path) -> Admin {
        let socket = or(&raw.socket, run_dir.join("admin.sock"));
        if let Some(given) = &raw.socket
            && given.value.as_os_str().len() > SOCKET_PATH_LIMIT
        {
            let message = format!("a socket's path has at most {SOCKET_PATH_LIMIT} bytes");
            self.problems.add(given.span, &At::TOP.key("admin").key("socket"), message, "take a shorter one");
        }
        let http = or(&raw.http, Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9480))));
        Admin { socket, http }
    }

    fn hook(&mut self, raw: &RawHook) -> Option<Hook> {
        let at = At::TOP.key("hooks");
        let at = at.item(raw.index, None);
        if !raw.named {
            let hint = "add `exec: [/usr/local/bin/on-change]`, or `webhook: http://127.0.0.1:9000/sluice`";
            self.problems.add(raw.span, &at, "the hook does not say what to call", hint);
        }
        let on = match &raw.on {
            None => vec![Subject::Backend, Subject::Service],
            Some(list) => {
                let place = at.key("on");
                let mut on: Vec<Subject> = Vec::new();
                for item in &list.items {
                    if on.contains(&item.value) {
                        self.problems.add(
                            item.span,
                            &place.entry(item.index),
                            "it is listed twice",
                            "keep one of the two",
                        );
                    }
                    on.push(item.value);
                }
                on
            }
        };
        Some(Hook { on, call: raw.call.clone()?, timeout: or(&raw.timeout, Duration::from_secs(5)) })
    }

    /// `tracked`: the part of the flows that is for tracked ones.
    fn service(&mut self, s: &RawService, raw: &Raw, limits: Limits, tracked: u32) -> Option<Service> {
        s.with_at(|at| {
            self.listens(s, at);
            self.prefixes_and_ranges(s, raw, at);
            self.only_for_a_protocol(s, at);
            let limits = self.service_limits(s, raw, limits, tracked, at);
            self.backends(s, raw, at);
            let tunnel = self.tunnel(s, raw, at);
            let backends = self.named(s, tunnel);
            let timeouts = timeouts(&s.timeouts, &raw.defaults.timeouts);
            let health = self.health(s, &raw.defaults.health, at);
            if let Some(wanted) = &s.min_healthy
                && s.backends_complete
                && wanted.value as usize > s.backends.len()
            {
                let there = match s.backends.len() {
                    1 => "there is only 1".to_owned(),
                    n => format!("there are only {n}"),
                };
                let message = format!("{} healthy backends are wanted, and {there}", wanted.value);
                let hint = "the service would always be degraded: lower it, or add backends";
                self.problems.add(wanted.span, &at.key("min_healthy"), message, hint);
            }
            self.safety(s, health.is_some(), at);
            let agent = self.agent(s, at);
            Some(Service {
                name: s.name.as_ref()?.value.clone(),
                listen: s.listen.items.iter().map(|l| l.value).collect(),
                protocols: s.protocols.items.iter().map(|p| p.value).collect(),
                scheduler: or(&s.scheduler, or(&raw.defaults.scheduler, Default::default())),
                forward: s.forward(raw)?,
                tunnel,
                timeouts,
                // It is about TCP; a default for all services says nothing of one that has none.
                on_backend_down: match s.protocols.items.iter().any(|p| p.value == Protocol::Tcp) {
                    true => or(&s.on_backend_down, or(&raw.defaults.on_backend_down, Default::default())),
                    false => OnBackendDown::default(),
                },
                udp: s.udp.as_ref().map_or(Default::default(), |udp| or(&udp.mode, Default::default())),
                affinity: or(&s.affinity, Default::default()),
                clamp_mss: or(&s.clamp_mss, Switch::from(s.forward(raw)? == Forward::Nat)) == Switch::On,
                tracking: s.tracking(raw),
                limits,
                health,
                agent: if s.agent.is_some() { Some(agent?) } else { None },
                min_healthy: or(&s.min_healthy, 1),
                max_ejected: or(&s.max_ejected, 1.0),
                panic_threshold: or(&s.panic_threshold, 1.0),
                on_empty: or(&s.on_empty, Default::default()),
                backends: backends?,
            })
        })
    }

    /// What holds health back has a meaning only where there is a check; and fallback, where there is something to fall
    /// back from.
    fn safety(&mut self, s: &RawService, checked: bool, at: &At<'_>) {
        let keys = [
            (s.max_ejected.as_ref().map(|v| v.span), "max_ejected"),
            (s.panic_threshold.as_ref().map(|v| v.span), "panic_threshold"),
            (s.on_empty.as_ref().map(|v| v.span), "on_empty"),
        ];
        for (span, key) in keys.into_iter().filter_map(|(span, key)| Some((span?, key))).filter(|_| !checked) {
            let message =
                format!("`{key}` has no meaning here: the service has no health check that could take backends out");
            self.problems.add(span, &at.key(key), message, "remove it, or add a `health` check");
        }
        let fallback = |b: &RawBackend| b.fallback.as_ref().is_some_and(|f| f.value);
        if let Some(given) = s.backends.first().and_then(|b| b.fallback.as_ref())
            && s.backends_complete
            && s.backends.iter().all(fallback)
        {
            let message = "every backend is a fallback, and there is none to fall back from";
            self.problems.add(
                given.span,
                &at.key("backends"),
                message,
                "leave `fallback` out where traffic goes first",
            );
        }
    }

    fn agent(&mut self, s: &RawService, at: &At<'_>) -> Option<Agent> {
        let raw = s.agent.as_ref()?;
        let interval = or(&raw.interval, Duration::from_secs(2));
        let timeout = or(&raw.timeout, interval.min(Duration::from_secs(1)));
        if let Some(given) = raw.timeout.as_ref().filter(|given| given.value > interval) {
            let (timeout, interval) = (show_duration(given.value), show_duration(interval));
            let message = format!(
                "an answer may take {timeout} (`timeout`), but the next is asked for after {interval} (`interval`)"
            );
            let hint = format!("lower `timeout` to at most {interval}, or raise `interval`");
            self.problems.add(given.span, &at.key("agent").key("timeout"), message, hint);
        }
        Some(Agent {
            address: raw.address.as_ref().map(|a| a.value),
            port: raw.port.as_ref()?.value,
            send: raw.send.clone().unwrap_or_default(),
            interval,
            timeout,
        })
    }

    fn listens(&mut self, s: &RawService, at: &At<'_>) {
        let list = at.key("listen");
        let mut seen = HashSet::new();
        for l in &s.listen.items {
            if let Some(why) = unusable(l.value.ip()) {
                let message = format!("`{}` cannot be a VIP: {why}", l.value.ip());
                let hint = "a VIP is one unicast address that clients reach";
                self.problems.add(l.span, &list.entry(l.index), message, hint);
            } else if let Some(bad) = UNUSABLE.iter().find(|bad| l.value.prefix.contains(**bad)) {
                let why = unusable(*bad).unwrap_or("it is no host's");
                let message = format!("`{}` cannot be a VIP: {bad} is in it, and {why}", show_prefix(l.value.prefix));
                self.problems.add(l.span, &list.entry(l.index), message, "list longer prefixes that leave it out");
            }
            if !seen.insert(l.value) {
                let message = format!("`{}` is listed twice", l.value);
                self.problems.add(l.span, &list.entry(l.index), message, "keep one of the two");
            }
        }
        let list = at.key("protocol");
        let mut seen = HashSet::new();
        for p in &s.protocols.items {
            if !seen.insert(p.value) {
                let message = format!("`{}` is listed twice", p.value.name());
                self.problems.add(p.span, &list.entry(p.index), message, "keep one of the two");
            }
        }
    }

    /// What goes with single endpoints only.
    fn prefixes_and_ranges(&mut self, s: &RawService, raw: &Raw, at: &At<'_>) {
        let list = at.key("listen");
        let managed = or(&raw.node.vip_addresses, VipAddresses::default()) == VipAddresses::Managed;
        let nat = s.forward(raw) == Some(Forward::Nat);
        for l in s.listen.items.iter().filter(|l| l.value.exact().is_none()) {
            let listen = l.value;
            if listen.address().is_none() && managed {
                let message = format!("{listen}: single addresses are added to this host, prefixes are not");
                let hint = format!(
                    "set `node: {{ vip_addresses: external }}`, route {} to this host, and here to the host itself \
                     (`ip route add local {0} dev lo`)",
                    show_prefix(listen.prefix)
                );
                self.problems.add(l.span, &list.entry(l.index), message, hint);
            }
            if listen.address().is_none() && nat {
                let message = format!("{listen} cannot be behind NAT: replies do not say which address they are for");
                let hint = "list single addresses, each with backends of its own, or use `forward: ipip` or `dsr-l2`";
                self.problems.add(l.span, &list.entry(l.index), message, hint);
            } else if let Some(b) = s.backends.iter().find(|b| b.port.is_some()).filter(|_| nat)
                && let Some(port) = &b.port
            {
                let message = format!("the ports of {listen} cannot all be port {} of a backend", port.value);
                let hint = "remove `port`: behind NAT, backends of a range of ports get the port that the client used";
                b.with_at(s, |at| self.problems.add(port.span, &at.key("port"), message, hint));
            }
        }
    }

    /// Keys that would do nothing.
    fn only_for_a_protocol(&mut self, s: &RawService, at: &At<'_>) {
        let has = |protocol| !s.protocols.complete || s.protocols.items.iter().any(|p| p.value == protocol);
        if let Some(udp) = &s.udp
            && !has(Protocol::Udp)
        {
            let message = "`udp` has no meaning here: the service has no UDP";
            let hint = "remove it, or add `udp` to `protocol`";
            self.problems.add(udp.span, &at.key("udp"), message, hint);
        }
        if let Some(given) = &s.on_backend_down
            && given.value != OnBackendDown::Reselect
            && !has(Protocol::Tcp)
        {
            let message = "`on_backend_down` is about TCP, and the service has none";
            let hint = "remove it: UDP flows of a dead backend always go to another one";
            self.problems.add(given.span, &at.key("on_backend_down"), message, hint);
        }
    }

    fn service_limits(
        &mut self,
        s: &RawService,
        raw: &Raw,
        limits: Limits,
        tracked: u32,
        at: &At<'_>,
    ) -> ServiceLimits {
        let room = limits.flows - tracked;
        let at = at.key("limits");
        for (given, key, room) in
            [(&s.limits.flows, "flows", room), (&s.limits.tracked_flows, "tracked_flows", tracked)]
        {
            let Some(given) = given else { continue };
            if key == "tracked_flows" && s.tracking(raw) != Tracking::Full {
                let message = "`tracked_flows` has no meaning: the service tracks no flows";
                self.problems.add(given.span, &at.key(key), message, "remove it, or add `tracking: full`");
            } else if given.value > room {
                let message = format!("{} flows, and there is room for {room} in all", given.value);
                let hint = if tracked == 0 {
                    "lower it, or raise `limits.flows` at the top"
                } else {
                    "lower it, or raise `limits.flows` at the top, of which tracked flows have half"
                };
                self.problems.add(given.span, &at.key(key), message, hint);
            }
        }
        ServiceLimits {
            // Half of the room each: one service alone cannot take it all from the others.
            flows: or(&s.limits.flows, room / 2),
            new_flows: or(&s.limits.new_flows, 100_000),
            tracked_flows: s.limits.tracked_flows.as_ref().map(|given| given.value),
        }
    }

    fn backends(&mut self, s: &RawService, raw: &Raw, at: &At<'_>) {
        let forward = s.forward(raw);
        // Listen ports by family; a backend without a port takes each of them.
        let mut ports = [BTreeSet::new(), BTreeSet::new()];
        for l in &s.listen.items {
            // One stands for a range: with it, backends have no ports of their own.
            ports[usize::from(l.value.is_ipv6())].insert(l.value.ports.first);
        }
        let mut first: HashMap<SocketAddr, (Option<u16>, u32)> = HashMap::new();
        for b in &s.backends {
            let Some(address) = &b.address else { continue };
            b.with_at(s, |at| {
                if let Some(why) = unusable(address.value) {
                    let message = format!("`{}` cannot be a backend: {why}", address.value);
                    self.problems.add(
                        address.span,
                        &at.key("address"),
                        message,
                        "write the address packets are sent to",
                    );
                }
                if let (Some(forward), Some(port)) = (forward.filter(|f| *f != Forward::Nat), &b.port) {
                    let name = forward.name();
                    let message = format!("`port` has no meaning with `forward: {name}`: the packet is not changed");
                    let hint = "remove it, and let the backend listen on the VIP and its port; \
                                a check's port is `health: { tcp: { port: … } }`";
                    self.problems.add(port.span, &at.key("port"), message, hint);
                }
                if forward == Some(Forward::DsrL2)
                    && let Some(gateway) = self.node.and_then(|node| node.gateway(address.value))
                {
                    let message = format!(
                        "with `forward: dsr-l2` a backend must be on a link of this host, and {} is behind {gateway}",
                        address.value
                    );
                    let hint = "write its address on that link, or use a tunnel: `forward: ipip`";
                    self.problems.add(address.span, &at.key("address"), message, hint);
                }
                let ports = &ports[usize::from(address.value.is_ipv6())];
                if s.listen.complete && ports.is_empty() && !forward.is_none_or(Forward::is_tunnel) {
                    let family = family(address.value);
                    let message = format!("{family} backend, but the service listens on no {family} address");
                    let hint = format!("add an {family} VIP to `listen`, or remove the backend");
                    self.problems.add(address.span, &at.key("address"), message, hint);
                    return;
                }
                // Two backends are one when any listen port leads to the same endpoint of both.
                let own = b.port.as_ref().map(|p| p.value);
                // Outside NAT the port is the client's, so the address alone says it; one port stands for all.
                let one = own.is_some() || forward != Some(Forward::Nat);
                for port in ports.iter().map(|listen| own.unwrap_or(*listen)).take(if one { 1 } else { usize::MAX }) {
                    let endpoint = SocketAddr::new(address.value, port);
                    let Some((first_port, line)) = first.get(&endpoint) else {
                        first.insert(endpoint, (own, address.span.line));
                        continue;
                    };
                    let shown = if port == 0 { endpoint.ip().to_string() } else { endpoint.to_string() };
                    let mut message = format!("duplicate backend {shown}, first on line {line}");
                    if *first_port != own {
                        message.push_str(" (without `port` it is the port of `listen`)");
                    }
                    self.problems.add(address.span, at, message, "add their weights and keep one");
                    return;
                }
            });
        }
        if s.backends.is_empty() && s.backends_complete {
            let hint = "add one: `- address: 10.0.0.11`";
            self.problems.add(s.backends_span, &at.key("backends"), "the service has no backends", hint);
            return;
        }
        if !s.backends_complete {
            return;
        }
        for v4 in [true, false] {
            let Some(l) = s.listen.items.iter().find(|l| l.value.is_ipv4() == v4) else { continue };
            if s.backends.iter().any(|b| b.address.as_ref().is_some_and(|a| a.value.is_ipv4() == v4))
                || forward.is_none_or(Forward::is_tunnel)
            {
                continue;
            }
            let family = family(l.value.ip());
            let message = format!("the service listens on {family}, but has no {family} backend");
            let hint = format!(
                "add an {family} backend, or remove this VIP; address families are not translated, but tunnels \
                 (`forward: ipip` and others) go over either"
            );
            self.problems.add(l.span, &at.key("listen").entry(l.index), message, hint);
        }
    }

    /// What tunnels need to be told, and nothing that they do not.
    fn tunnel(&mut self, s: &RawService, raw: &Raw, at: &At<'_>) -> Tunnel {
        let Some(forward) = s.forward(raw) else { return Tunnel::default() };
        let name = forward.name();
        let overlay = forward.is_overlay();
        let here = at.key("tunnel");
        if let Some(tunnel) = &s.tunnel {
            let means_nothing = |key: &str| format!("`{key}` has no meaning with `forward: {name}`");
            if forward.tunnel_port().is_none() {
                let message = means_nothing("tunnel");
                self.problems.add(tunnel.span, &here, message, "remove it: only `gue`, `vxlan` and `geneve` have it");
                return Tunnel::default();
            }
            if let Some(variant) = tunnel.variant.as_ref().filter(|_| forward != Forward::Gue) {
                let message = means_nothing("variant");
                self.problems.add(variant.span, &here.key("variant"), message, "remove it: it is GUE's");
            }
            let ethernet = "remove it: only `vxlan` and `geneve` carry Ethernet frames of a virtual network";
            if let Some(vni) = tunnel.vni.as_ref().filter(|_| !overlay) {
                self.problems.add(vni.span, &here.key("vni"), means_nothing("vni"), ethernet);
            }
            if let Some(mac) = tunnel.inner_mac.as_ref().filter(|_| !overlay) {
                self.problems.add(mac.span, &here.key("inner_mac"), means_nothing("inner_mac"), ethernet);
            }
        }
        for b in &s.backends {
            let Some(address) = &b.address else { continue };
            let mac = b.inner_mac.as_ref();
            let shared = s.tunnel.as_ref().is_some_and(|t| t.inner_mac_known);
            match mac {
                Some(mac) if !overlay => b.with_at(s, |at| {
                    let message = format!("`inner_mac` has no meaning with `forward: {name}`");
                    let hint = "remove it: only `vxlan` and `geneve` carry Ethernet frames";
                    self.problems.add(mac.span, &at.key("inner_mac"), message, hint);
                }),
                None if overlay && !shared && b.complete => b.with_at(s, |at| {
                    let message = format!("`forward: {name}` needs the MAC address that inner frames are for");
                    let hint = "add `inner_mac` here, that of the backend's device in the virtual network; or give \
                                these devices one MAC address, and write `tunnel: { inner_mac: … }`";
                    self.problems.add(address.span, at, message, hint);
                }),
                _ => {}
            }
        }
        let given = s.tunnel.as_ref();
        let vni = given.and_then(|t| t.vni.as_ref());
        if overlay && vni.is_none() && !given.is_some_and(|t| t.vni_known) {
            let span = given.map_or(s.span, |t| t.span);
            let message = format!("`forward: {name}` needs the number of the virtual network");
            self.problems.add(span, &here, message, "add `tunnel: { vni: … }`");
        }
        Tunnel {
            port: given.and_then(|t| t.port.as_ref()).map(|p| p.value).or(forward.tunnel_port()).unwrap_or(0),
            vni: vni.map_or(0, |vni| vni.value),
            variant: match forward {
                Forward::Gue => given.and_then(|t| t.variant.as_ref()).map_or(1, |v| v.value as u8),
                _ => 0,
            },
            inner_mac: given.and_then(|t| t.inner_mac.as_ref()).map(|mac| mac.value),
        }
    }

    /// The backends with a name each. Where the file gives none it is the address, or `address:port` where
    /// several backends share the address — whatever their order.
    fn named(&mut self, s: &RawService, tunnel: Tunnel) -> Option<Vec<Backend>> {
        let mut holders: HashMap<IpAddr, usize> = HashMap::new();
        let mut given: HashMap<&str, u32> = HashMap::new();
        for b in &s.backends {
            match (&b.name, &b.address) {
                (Some(name), _) => {
                    if let Some(line) = given.insert(&name.value, name.span.line) {
                        let message = format!("duplicate backend name `{}`, first on line {line}", name.value);
                        b.with_at(s, |at| self.problems.add(name.span, at, message, "rename one of the two"));
                    }
                }
                (None, Some(address)) => *holders.entry(address.value).or_default() += 1,
                (None, None) => {}
            }
        }
        let mut backends = Vec::with_capacity(s.backends.len());
        for b in &s.backends {
            let address = b.address.as_ref()?;
            let port = b.port.as_ref().map(|p| p.value);
            let name = match &b.name {
                Some(name) => name.value.clone(),
                None => {
                    let short = address.value.to_string();
                    let shared = holders[&address.value] > 1 || given.contains_key(short.as_str());
                    let name = match port {
                        Some(port) if shared => SocketAddr::new(address.value, port).to_string(),
                        _ => short,
                    };
                    // Two that share address and port are told as duplicates, not by name.
                    if given.contains_key(name.as_str()) {
                        let message = format!("the name `{name}` this backend would have is taken");
                        b.with_at(s, |at| self.problems.add(address.span, at, message, "give it a `name`"));
                    }
                    name
                }
            };
            let weight = b.weight.unwrap_or(100);
            let inner_mac = b.inner_mac.as_ref().map(|mac| mac.value).or(tunnel.inner_mac);
            let fallback = or(&b.fallback, false);
            backends.push(Backend { name, address: address.value, port, inner_mac, weight, state: b.state, fallback });
        }
        Some(backends)
    }

    fn health(&mut self, s: &RawService, defaults: &RawTiming, at: &At<'_>) -> Option<HealthCheck> {
        let at = at.key("health");
        let tcp = s.protocols.items.iter().any(|p| p.value == Protocol::Tcp);
        let none = RawTiming::default();
        let handshake = || vec![Check { kind: CheckKind::Tcp, address: None, port: None }];
        let (checks, need, timing) = match &s.health {
            RawHealth::Off => return None,
            RawHealth::Absent if tcp => (handshake(), Need::All, &none),
            RawHealth::Absent => return None,
            RawHealth::Checks(given) => {
                let checks = if given.named { given.checks.clone() } else { handshake() };
                if !given.named && !tcp && s.protocols.complete {
                    let message = "this says how often to check, but not what";
                    let hint = "add `udp: { send: … }`, `dns: { name: … }` or `tcp: { port: … }`: no UDP port answers just anything";
                    self.problems.add(given.span, &at, message, hint);
                }
                (checks, given.need, &given.timing)
            }
        };
        self.port_to_check(s, &checks, &at);
        let (interval, fast_interval, timeout) = self.timing_fits(timing, defaults, &at);
        let pick =
            |own: &Option<Spanned<u32>>, default: &Option<Spanned<u32>>, built_in| or(own, or(default, built_in));
        Some(HealthCheck {
            checks,
            need,
            interval,
            fast_interval,
            down_interval: or(&timing.down_interval, or(&defaults.down_interval, interval)),
            timeout,
            rise: pick(&timing.rise, &defaults.rise, 2),
            fall: pick(&timing.fall, &defaults.fall, 3),
            jitter: or(&timing.jitter, or(&defaults.jitter, 0.1)),
        })
    }

    /// Any port is no port to check.
    fn port_to_check(&mut self, s: &RawService, checks: &[Check], at: &At<'_>) {
        let portless = |c: &&Check| c.port.is_none() && !matches!(c.kind, CheckKind::Icmp | CheckKind::Exec(_));
        let Some(check) = checks.iter().find(portless) else { return };
        let known = !s.listen.complete || s.listen.items.iter().any(|l| l.value.port().is_some());
        if known || !s.backends_complete || s.backends.iter().all(|b| b.port.is_some()) {
            return;
        }
        let span = match &s.health {
            RawHealth::Checks(given) => given.span,
            _ => s.listen.items.first().map_or(s.span, |l| l.span),
        };
        let name = check.kind.name();
        let message = "the service listens on any port, so there is none to check";
        let hint = format!("say which: `health: {{ {name}: {{ port: 443 }} }}`, or `health: none`");
        self.problems.add(span, at, message, hint);
    }

    /// Interval, fast interval and timeout as they apply, the latter two no longer than the first: a check that may
    /// outlast its interval would overlap the next one, and a fast interval that is longer would slow down.
    fn timing_fits(&mut self, own: &RawTiming, defaults: &RawTiming, at: &At<'_>) -> (Duration, Duration, Duration) {
        let interval = or(&own.interval, or(&defaults.interval, Duration::from_secs(2)));
        let mut fits = |key: &'static str, own_value, default_value, built_in, says: fn(&str, &str) -> String| {
            let given: Option<&Spanned<Duration>> = Option::or(own_value, default_value);
            let value = given.map_or(built_in, |given| given.value);
            let top = At::TOP.key("defaults");
            let defaults_at = top.key("health");
            let (span, at) = match (own_value, &own.interval, default_value) {
                _ if value <= interval => return value,
                (Some(v), ..) => (v.span, at.key(key)),
                (None, Some(i), _) => (i.span, at.key("interval")),
                // Told once, however many services take it from there.
                (None, None, Some(v)) => (v.span, defaults_at.key(key)),
                (None, None, None) => return value,
            };
            let (value_text, interval) = (show_duration(value), show_duration(interval));
            let hint = format!("lower `{key}` to at most {interval}, or raise `interval`");
            self.problems.add(span, &at, says(&value_text, &interval), hint);
            value
        };
        let fast = (own.fast_interval.as_ref(), defaults.fast_interval.as_ref());
        let fast = fits("fast_interval", fast.0, fast.1, interval, |fast, interval| {
            format!("the fast interval, {fast} (`fast_interval`), is longer than {interval} (`interval`)")
        });
        let timeout = (own.timeout.as_ref(), defaults.timeout.as_ref());
        let timeout =
            fits("timeout", timeout.0, timeout.1, interval.min(Duration::from_secs(1)), |timeout, interval| {
                format!("a check may take {timeout} (`timeout`), but the next starts after {interval} (`interval`)")
            });
        (interval, fast, timeout)
    }

    fn service_names(&mut self, raw: &Raw) {
        let mut first: HashMap<&str, u32> = HashMap::new();
        for s in &raw.services {
            let Some(name) = &s.name else { continue };
            match first.get(name.value.as_str()) {
                None => drop(first.insert(&name.value, name.span.line)),
                Some(line) => {
                    let message = format!("duplicate service name `{}`, first on line {line}", name.value);
                    s.with_at(|at| self.problems.add(name.span, &at.key("name"), message, "rename one of the two"));
                }
            }
        }
    }

    /// Of two services' that contain a packet's destination, one has to come first ([`Listen::rank`]). Those that do not are
    /// of one prefix and as many ports, so they are found among their neighbours there.
    fn overlaps(&mut self, raw: &Raw, admin: &Admin) {
        let mut owners: BTreeMap<(Prefix, Protocol, u32, u16), (usize, u32)> = BTreeMap::new();
        for (position, s) in raw.services.iter().enumerate() {
            for (l, protocol) in s.endpoints() {
                let listen = l.value;
                let Ports { first, .. } = listen.ports;
                let key = |port| (listen.prefix, protocol, listen.ports.count(), port);
                let near = owners.range(..=key(first)).next_back().into_iter().chain(owners.range(key(first)..).next());
                let taken = near
                    .filter(|((prefix, p, count, _), _)| (*prefix, *p, *count, first) == key(first))
                    // Twice in one service is said there.
                    .filter(|(_, (owner, _))| *owner != position)
                    .map(|((.., port), (owner, line))| (*port, *owner, *line))
                    .find(|(port, ..)| u32::from(port.abs_diff(first)) < listen.ports.count());
                let Some((port, owner, line)) = taken else {
                    owners.entry(key(first)).or_insert((position, l.span.line));
                    continue;
                };
                let owner = raw.services[owner].called();
                let (message, hint) = if port == first {
                    let message =
                        format!("{listen}/{} belongs to service {owner} already (line {line})", protocol.name());
                    (message, "take another port or address, or put the backends into one service")
                } else {
                    let last = (u32::from(port) + listen.ports.count() - 1) as u16;
                    let other = Listen { ports: Ports { first: port, last }, ..listen };
                    let message = format!(
                        "{listen} and {other}/{} of service {owner} (line {line}) have ports in common, and neither is \
                         narrower",
                        protocol.name()
                    );
                    (message, "of ranges that overlap the narrower one gets the packets: make them differ in size")
                };
                s.with_at(|at| self.problems.add(l.span, &at.key("listen").entry(l.index), message, hint));
            }
        }
        if let (Some(http), Some(given)) = (admin.http, &raw.admin.http) {
            let all = raw.services.iter().flat_map(|s| s.endpoints().map(move |(l, protocol)| (s, l, protocol)));
            let taken = all.filter(|(_, l, protocol)| *protocol == Protocol::Tcp && l.value.contains(http));
            let Some((owner, l, _)) = taken.min_by_key(|(_, l, _)| l.value.rank()) else { return };
            let (owner, line) = (owner.called(), l.span.line);
            let message = match l.value.exact() {
                Some(_) => format!("{http} is the VIP and port of service {owner} (line {line})"),
                None => format!("{http} is in {} of service {owner} (line {line})", l.value),
            };
            let hint = "packets for it go to the backends, not to this node: take another port";
            self.problems.add(given.span, &At::TOP.key("admin").key("http"), message, hint);
        }
    }

    fn vips_as_backends(&mut self, raw: &Raw) {
        let mut vips: HashMap<Prefix, (usize, u32)> = HashMap::new();
        let mut lengths = BTreeSet::new();
        for (position, s) in raw.services.iter().enumerate() {
            for l in &s.listen.items {
                vips.entry(l.value.prefix).or_insert((position, l.span.line));
                lengths.insert((l.value.is_ipv6(), l.value.prefix.length));
            }
        }
        for s in &raw.services {
            for b in &s.backends {
                let Some(address) = &b.address else { continue };
                let own = lengths.iter().rev().filter(|(v6, _)| *v6 == address.value.is_ipv6());
                let prefixes =
                    own.map(|(_, length)| Prefix { address: first_of(address.value, *length), length: *length });
                let Some((prefix, (owner, line))) = prefixes.filter_map(|p| Some((p, vips.get(&p)?))).next() else {
                    continue;
                };
                let owner = raw.services[*owner].called();
                let message = if prefix.is_host() {
                    format!("backend {} is the VIP of service {owner} (line {line})", address.value)
                } else {
                    let prefix = show_prefix(prefix);
                    format!("backend {} is among the VIPs {prefix} of service {owner} (line {line})", address.value)
                };
                let hint = "packets would come back here: write the backend's own address";
                b.with_at(s, |at| self.problems.add(address.span, &at.key("address"), message, hint));
            }
        }
    }

    /// NAT replies are found by (backend, port, protocol); each may lead to one VIP and port only.
    fn ambiguous_replies(&mut self, raw: &Raw) {
        let mut claims: HashMap<(SocketAddr, Protocol), (usize, SocketAddr)> = HashMap::new();
        // One report for a pair of VIP endpoints, however many backends they share.
        let mut found: HashMap<(usize, SocketAddr, usize, SocketAddr), Ambiguity> = HashMap::new();
        for (position, s) in raw.services.iter().enumerate() {
            if s.forward(raw) != Some(Forward::Nat) {
                continue;
            }
            for (l, protocol) in s.endpoints() {
                let Some(listen) = l.value.exact() else { continue };
                for (index, b) in s.backends.iter().enumerate().filter(|(_, b)| b.complete) {
                    let Some(address) = &b.address else { continue };
                    if address.value.is_ipv4() != listen.is_ipv4() {
                        continue;
                    }
                    let port = b.port.as_ref().map_or(listen.port(), |p| p.value);
                    let endpoint = SocketAddr::new(address.value, port);
                    let (owner, vip) = *claims.entry((endpoint, protocol)).or_insert((position, listen));
                    if vip == listen {
                        continue;
                    }
                    let span =
                        if owner == position { l.span } else { b.port.as_ref().map_or(address.span, |p| p.span) };
                    found.entry((owner, vip, position, listen)).and_modify(|a| a.endpoints += 1).or_insert(Ambiguity {
                        span,
                        listen: l.index,
                        backend: index,
                        endpoint,
                        protocol,
                        endpoints: 1,
                    });
                }
            }
        }
        for ((owner, vip, position, listen), a) in found {
            let s = &raw.services[position];
            let others = if a.endpoints > 1 { format!(" (and {} more)", a.endpoints - 1) } else { String::new() };
            let endpoint = format!("{}/{}{others}", a.endpoint, a.protocol.name());
            if owner == position {
                let message = format!("replies from {endpoint} could be for {vip} or for {listen}");
                let hint = "NAT translates replies back by the backend's address and port: give each VIP and port \
                            a service with backend ports of its own, or use `forward: ipip`";
                s.with_at(|at| self.problems.add(a.span, &at.key("listen").entry(a.listen), message, hint));
            } else {
                let message = format!(
                    "replies from {endpoint} could be for {vip} (service {}) or for {listen} (service {})",
                    raw.services[owner].called(),
                    s.called()
                );
                let hint = "NAT translates replies back by the backend's address and port: let the backend listen on \
                            another port for one of the two, or use `forward: ipip`";
                s.backends[a.backend].with_at(s, |at| self.problems.add(a.span, at, message, hint));
            }
        }
    }

    /// Replies from whatever port a range of ports leads to are found by (backend, protocol): they may lead to one VIP of
    /// one service, and to no other that a reply from a single port could be for.
    fn ambiguous_wildcard_replies(&mut self, raw: &Raw) {
        let nat = || raw.services.iter().enumerate().filter(|(_, s)| s.forward(raw) == Some(Forward::Nat));
        let mut claims: HashMap<(IpAddr, Protocol), (usize, IpAddr, Vec<Ports>)> = HashMap::new();
        let hint = "NAT translates replies to a range of ports back by the backend's address alone: give it another one for \
                    this, or use `forward: ipip`";
        for (position, s) in nat() {
            // Once for a service and a backend.
            let mut told = HashSet::new();
            for (l, protocol) in s.endpoints().filter(|(l, _)| l.value.exact().is_none()) {
                let Some(vip) = l.value.address() else { continue };
                for b in s.backends.iter().filter(|b| b.complete) {
                    let Some(address) = b.address.as_ref().filter(|a| a.value.is_ipv4() == vip.is_ipv4()) else {
                        continue;
                    };
                    let new = || (position, vip, Vec::new());
                    let (owner, known, ports) = claims.entry((address.value, protocol)).or_insert_with(new);
                    if (*owner, *known) == (position, vip) {
                        ports.push(l.value.ports);
                    } else if told.insert(address.value) {
                        let message = format!(
                            "replies from {}/{} could be for {known} (service {}) or for {}",
                            address.value,
                            protocol.name(),
                            raw.services[*owner].called(),
                            l.value
                        );
                        b.with_at(s, |at| self.problems.add(address.span, at, message, hint));
                    }
                }
            }
        }
        if claims.is_empty() {
            return;
        }
        for (_, s) in nat() {
            let mut told = HashSet::new();
            for (l, protocol) in s.endpoints() {
                let Some(listen) = l.value.exact() else { continue };
                for b in s.backends.iter().filter(|b| b.complete) {
                    let Some(address) = b.address.as_ref().filter(|a| a.value.is_ipv4() == listen.is_ipv4()) else {
                        continue;
                    };
                    let port = b.port.as_ref().map_or(listen.port(), |p| p.value);
                    let Some((owner, vip, ranges)) = claims.get(&(address.value, protocol)) else { continue };
                    let own = SocketAddr::new(*vip, port) == listen;
                    if own || !ranges.iter().any(|ports| ports.contains(port)) || !told.insert(address.value) {
                        continue;
                    }
                    let message = format!(
                        "replies from {}/{} could be for {} (service {}) or for {listen}",
                        SocketAddr::new(address.value, port),
                        protocol.name(),
                        SocketAddr::new(*vip, port),
                        raw.services[*owner].called(),
                    );
                    b.with_at(s, |at| self.problems.add(address.span, at, message, hint));
                }
            }
        }
    }

    /// The map that says whose a port of a prefix is. Looked at when nothing else is wrong: services that overlap have no
    /// order.
    fn blocks_fit(&mut self, raw: &Raw, limits: Limits) {
        let all = || raw.services.iter().enumerate().flat_map(|(i, s)| s.endpoints().map(move |(l, p)| (i, s, l, p)));
        let wanted = || all().filter(|(_, _, l, _)| l.value.exact().is_none());
        let Some((_, s, l, _)) = wanted().next().filter(|_| self.problems.is_empty()) else { return };
        let room = limits.services as usize * BLOCKS_PER_SERVICE as usize;
        if wildcards::groups(wanted().map(|(i, _, l, protocol)| (l.value, protocol, i)), room).is_err() {
            let message = format!("the ranges and prefixes in `listen` take more than {room} blocks of ports in all");
            let hint = format!(
                "raise `limits.services`, each makes room for {BLOCKS_PER_SERVICE}: a range of ports takes up to 30, fewer \
                 where it begins at a multiple of its size; a prefix in another one takes the outer one's, too"
            );
            s.with_at(|at| self.problems.add(l.span, &at.key("listen").entry(l.index), message, hint));
        }
    }

    /// Whether the configuration fits the kernel's maps, whose sizes follow `limits`.
    fn room(&mut self, raw: &Raw, limits: Limits) -> bool {
        let mut fits = true;
        if let Some(s) = raw.services.get(limits.services as usize) {
            let message = format!("{} services, and room for {}", raw.services.len(), limits.services);
            s.with_at(|at| self.problems.add(s.span, at, message, "raise `limits.services` (at most 65535)"));
            fits = false;
        }
        let total: usize = raw.services.iter().map(|s| s.backends.len()).sum();
        let mut before = 0;
        for s in &raw.services {
            if let Some(b) = (limits.backends as usize).checked_sub(before).and_then(|i| s.backends.get(i)) {
                let message = format!("{total} backends in all services, and room for {}", limits.backends);
                b.with_at(s, |at| self.problems.add(b.span, at, message, "raise `limits.backends` (at most 65534)"));
                return false;
            }
            before += s.backends.len();
        }
        for v4 in [true, false] {
            fits &= self.endpoints_fit(raw, limits, v4);
        }
        fits
    }

    /// The maps that hold VIP endpoints and NAT replies, of one address family.
    fn endpoints_fit(&mut self, raw: &Raw, limits: Limits, v4: bool) -> bool {
        let family = if v4 { "IPv4" } else { "IPv6" };
        let endpoint_room = limits.services as usize * ENDPOINTS_PER_SERVICE;
        let reply_room = limits.backends as usize;
        let (mut endpoints, mut replies, mut prefixes) = (0usize, 0usize, HashSet::new());
        for s in &raw.services {
            let protocols = s.protocols.items.len();
            let listens = s.listen.items.iter().filter(|l| l.value.is_ipv4() == v4);
            let exact = listens.clone().filter(|l| l.value.exact().is_some()).count();
            // With prefixes and ranges, a service needs a place of its own.
            let wide: Vec<Prefix> =
                listens.clone().filter(|l| l.value.exact().is_none()).map(|l| l.value.prefix).collect();
            endpoints += (exact + usize::from(!wide.is_empty())) * protocols;
            prefixes.extend(wide);
            if prefixes.len() > endpoint_room {
                let message = format!("more than {endpoint_room} {family} prefixes and addresses with ranges of ports");
                let hint = format!("raise `limits.services`: each makes room for {ENDPOINTS_PER_SERVICE}");
                s.with_at(|at| self.problems.add(s.span, &at.key("listen"), message, hint));
                return false;
            }
            if endpoints > endpoint_room {
                let message =
                    format!("more than {endpoint_room} {family} VIP endpoints (address, port, protocol) in all");
                let hint = format!("raise `limits.services`: each makes room for {ENDPOINTS_PER_SERVICE}");
                s.with_at(|at| self.problems.add(s.span, &at.key("listen"), message, hint));
                return false;
            }
            if s.forward(raw) == Some(Forward::Nat) {
                // Those of any range have one together.
                let ports: HashSet<Option<u16>> = listens.map(|l| l.value.exact().map(|e| e.port())).collect();
                let own = s.backends.iter().filter(|b| b.address.as_ref().is_some_and(|a| a.value.is_ipv4() == v4));
                let entries: usize = own.map(|b| if b.port.is_some() { 1 } else { ports.len() }).sum();
                replies += entries * protocols;
            }
            if replies > reply_room {
                let message =
                    format!("more than {reply_room} {family} backend endpoints (address, port, protocol) behind NAT");
                let hint = "a NAT backend takes one for each port and protocol: raise `limits.backends` (at most 65534), \
                            or use `forward: ipip`";
                s.with_at(|at| self.problems.add(s.span, &at.key("backends"), message, hint));
                return false;
            }
        }
        true
    }
}

fn timeouts(own: &RawTimeouts, defaults: &RawTimeouts) -> Timeouts {
    let pick = |own, default, seconds| or(own, or(default, Duration::from_secs(seconds)));
    Timeouts {
        tcp_established: pick(&own.tcp_established, &defaults.tcp_established, 15 * 60),
        tcp_opening: pick(&own.tcp_opening, &defaults.tcp_opening, 30),
        tcp_closing: pick(&own.tcp_closing, &defaults.tcp_closing, 10),
        udp: pick(&own.udp, &defaults.udp, 30),
    }
}

fn show_prefix(prefix: Prefix) -> String {
    format!("{}/{}", prefix.address, prefix.length)
}

/// What no prefix of VIPs may contain.
const UNUSABLE: [IpAddr; 8] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::BROADCAST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
];

/// Why no packet on a network between hosts is from or for this address.
fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        a if a.is_unspecified() => Some("it is the unspecified address"),
        a if a.is_multicast() => Some("it is a multicast address"),
        a if a.is_loopback() => Some("it is a loopback address, which never leaves a host"),
        IpAddr::V4(a) if a.is_broadcast() => Some("it is the broadcast address"),
        // RFC 1122 §3.2.1.3: 0.0.0.0/8 is "this network", a source during boot and never a destination.
        IpAddr::V4(a) if a.octets()[0] == 0 => Some("0.0.0.0/8 is never a destination"),
        IpAddr::V4(a) if a.is_link_local() => Some("it is a link-local address"),
        IpAddr::V6(a) if a.is_unicast_link_local() => Some("it is a link-local address, which needs a zone"),
        _ => None,
    }
}
