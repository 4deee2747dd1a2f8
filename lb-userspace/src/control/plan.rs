//! What a reload would change, before anything is written: for `sluice plan`.
//!
//! Pure: two models and the tables that follow from each. Rows and shares are counted, not estimated; a row is a fixed
//! part of the hash, so a part of the rows is the same part of the flows. How many connections are on them is not known,
//! because steady rows keep no list of their flows, and it is not guessed here; where a service tracks its flows, those are
//! counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::addr::{Endpoint4, Endpoint6, words6};

use crate::api::types::{BackendPlan, Break, Change, Plan, RingPlan, ServicePlan};
use crate::model::{Backend, BackendState, Forward, Listen, Model, Protocol, Service, UdpMode};

use super::changes;
use super::desired::{Desired, Ids, View, rings_of};

/// A configuration, and what the kernel holds under it.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    pub model: &'a Model,
    pub view: View<'a>,
    pub desired: &'a Desired,
    pub ids: &'a Ids,
}

/// What the running controller knows of a service's traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets forwarded since the start.
    pub packets: u64,
    /// Flows that are written down.
    pub written_down: u64,
    /// By backend id, where flows are tracked: how many are listed.
    pub tracked: Option<BTreeMap<u16, u64>>,
}

/// Compares what runs with what would run.
pub fn plan(old: Side<'_>, new: Side<'_>, seen: &BTreeMap<String, Seen>) -> Plan {
    let mut out = Plan { changes: changes::describe(old.model, new.model), ..Plan::default() };
    interfaces(old.model, new.model, &mut out);
    let (runs, would) = (by_name(old.model), by_name(new.model));
    let names: BTreeSet<&str> = runs.keys().chain(would.keys()).copied().collect();
    let (mut packets, mut on_moved_rows) = (0, 0.0);
    for name in names {
        let (before, after) = (runs.get(name).copied(), would.get(name).copied());
        let known = seen.get(name).cloned().unwrap_or_default();
        let same_affinity = match (before, after) {
            (Some(before), Some(after)) => before.affinity == after.affinity,
            _ => true,
        };
        let rings = rings(name, same_affinity, &old, &new);
        packets += known.packets;
        on_moved_rows += known.packets as f64 * rings.iter().map(|r| r.share).fold(0.0, f64::max);
        let (change, backends) = match (before, after) {
            (None, Some(after)) => {
                taken(after, None, old.model, &mut out);
                (Change::Added, after.backends.iter().map(added).collect())
            }
            (Some(before), None) => {
                removed_service(before, new.model, &mut out);
                (Change::Removed, Vec::new())
            }
            (Some(before), Some(after)) => {
                changed_service(before, after, &old, &new, &mut out);
                taken(after, Some(before), old.model, &mut out);
                let mut backends = backends(before, after);
                for plan in backends.iter_mut().filter(|plan| plan.change != Change::Added) {
                    let it = |b: &&Backend| (b.address, b.port) == (plan.address, plan.port);
                    let id = before.backends.iter().find(it).and_then(|b| old.ids.backend(before, b));
                    plan.tracked = known.tracked.as_ref().map(|by| id.and_then(|id| by.get(&id)).copied().unwrap_or(0));
                }
                // Rows may move without a word in the file: a verdict that waits for its turn is applied on the way.
                if before == after && rings.iter().all(|r| r.rows_moved == 0) {
                    continue;
                }
                (Change::Changed, backends)
            }
            (None, None) => continue,
        };
        let prefix = format!("service {name}: ");
        let about = |sentence: &&String| sentence.starts_with(&prefix) && !sentence.contains(": backend ");
        let settings = out.changes.iter().filter(about).map(|s| s[prefix.len()..].to_owned()).collect();
        let written_down = known.written_down;
        let tracked = known.tracked.map(|by_backend| by_backend.values().sum());
        out.services.push(ServicePlan {
            name: name.to_owned(),
            change,
            settings,
            backends,
            rings,
            written_down,
            tracked,
        });
    }
    out.traffic_share = (packets > 0).then(|| on_moved_rows / packets as f64);
    out
}

fn interfaces(old: &Model, new: &Model, out: &mut Plan) {
    for gone in old.node.interfaces.iter().filter(|i| new.node.interfaces.iter().all(|n| n.name != i.name)) {
        out.breaks.push(Break {
            service: None,
            connections: format!("those whose packets arrive on {}", gone.name),
            why: "the interface is no longer in the file: its packets pass to this host".to_owned(),
        });
    }
}

fn by_name(model: &Model) -> BTreeMap<&str, &Service> {
    model.services.iter().map(|s| (s.name.as_str(), s)).collect()
}

fn rings(service: &str, same_affinity: bool, old: &Side<'_>, new: &Side<'_>) -> Vec<RingPlan> {
    let of_service = rings_of(&new.desired.rings, service);
    let changed = of_service.filter_map(|(key, ring)| {
        let before = old.desired.rings.get(key);
        // Placed by another hash, every flow may meet another row, and is asked for in the ring before.
        let all = before.is_some() && !same_affinity;
        let moved = if all { ring.len() } else { before.map_or(0, |before| ring.moved_since(before)) };
        let grows = before.is_some_and(|before| before.len() != ring.len());
        (moved > 0 || grows || before.is_none()).then(|| RingPlan {
            family: key.family.name().to_owned(),
            protocol: key.protocol,
            rows: ring.len(),
            rows_before: before.map_or(0, |before| before.len()),
            rows_moved: moved,
            share: f64::from(moved) / f64::from(ring.len()),
        })
    });
    changed.collect()
}

fn called(backend: &Backend) -> BackendPlan {
    BackendPlan {
        name: backend.name.clone(),
        address: backend.address,
        port: backend.port,
        change: Change::Changed,
        what: Vec::new(),
        tracked: None,
    }
}

fn added(backend: &Backend) -> BackendPlan {
    let mut what = vec![format!("weight {}", backend.weight)];
    if backend.state == BackendState::Drain {
        what.push("drained: gets no flows".to_owned());
    }
    BackendPlan { change: Change::Added, what, ..called(backend) }
}

fn same_endpoint(a: &Backend, b: &Backend) -> bool {
    (a.address, a.port) == (b.address, b.port)
}

/// By address and port, as the controller knows them: a backend with another name is the same one.
fn backends(before: &Service, after: &Service) -> Vec<BackendPlan> {
    let mut out: Vec<BackendPlan> = Vec::new();
    for gone in before.backends.iter().filter(|b| !after.backends.iter().any(|a| same_endpoint(a, b))) {
        out.push(BackendPlan { change: Change::Removed, ..called(gone) });
    }
    for backend in &after.backends {
        let Some(was) = before.backends.iter().find(|b| same_endpoint(backend, b)) else {
            out.push(added(backend));
            continue;
        };
        let mut what = Vec::new();
        if was.name != backend.name {
            what.push(format!("was called {}", was.name));
        }
        if was.weight != backend.weight {
            what.push(format!("weight {} → {}", was.weight, backend.weight));
        }
        match (was.state, backend.state) {
            (BackendState::Active, BackendState::Drain) => what.push("drained: gets no new flows".to_owned()),
            (BackendState::Drain, BackendState::Active) => what.push("gets new flows again".to_owned()),
            _ => {}
        }
        if !what.is_empty() {
            out.push(BackendPlan { what, ..called(backend) });
        }
    }
    out
}

type Endpoint = (Listen, Protocol);

fn endpoints(service: &Service) -> impl Iterator<Item = Endpoint> {
    service.listen.iter().flat_map(|l| service.protocols.iter().map(move |p| (*l, *p)))
}

/// Where packets for an endpoint go once its service does not want them any more.
fn destiny(endpoint: Endpoint, without: &str, model: &Model) -> String {
    let (listen, protocol) = endpoint;
    let others = model.services.iter().filter(|s| s.name != without);
    let heirs = others.flat_map(|s| endpoints(s).map(move |(l, p)| (s, l, p)));
    let heirs = heirs.filter(|(_, l, p)| *p == protocol && l.overlaps(&listen));
    match heirs.min_by_key(|(_, l, _)| l.rank()) {
        Some((heir, l, _)) if l.covers(&listen) => {
            format!("goes to service {}, which knows nothing of them", heir.name)
        }
        Some((heir, l, _)) => {
            format!("is in part that of service {} now ({l}), which knows nothing of them", heir.name)
        }
        None => "is nobody's: its packets pass to this host".to_owned(),
    }
}

/// Packets that a new endpoint of a service takes from another one, whose wider one they were in.
fn taken(after: &Service, before: Option<&Service>, old: &Model, out: &mut Plan) {
    let known: BTreeSet<Endpoint> = before.into_iter().flat_map(endpoints).collect();
    for (listen, protocol) in endpoints(after).filter(|e| !known.contains(e)) {
        for losing in old.services.iter().filter(|s| s.name != after.name) {
            let wider = |(l, p): &Endpoint| {
                *p == protocol && l.exact().is_none() && l.rank() > listen.rank() && l.overlaps(&listen)
            };
            let Some((wider, _)) = endpoints(losing).find(wider) else { continue };
            // What came before it then was the service's own.
            let own = |(l, p): &Endpoint| *p == protocol && l.covers(&listen) && l.rank() < wider.rank();
            if known.iter().any(own) {
                continue;
            }
            out.breaks.push(Break {
                service: Some(losing.name.clone()),
                connections: format!("those to {listen}/{}", protocol.name()),
                why: format!("service {} listens there now, and it comes before {wider}", after.name),
            });
        }
    }
}

fn removed_service(service: &Service, new: &Model, out: &mut Plan) {
    for endpoint in endpoints(service) {
        out.breaks.push(Break {
            service: Some(service.name.clone()),
            connections: format!("all to {}/{}", endpoint.0, endpoint.1.name()),
            why: format!("the service is removed, and its address {}", destiny(endpoint, &service.name, new)),
        });
    }
}

fn changed_service(before: &Service, after: &Service, old: &Side<'_>, new: &Side<'_>, out: &mut Plan) {
    let service = || Some(after.name.clone());
    let wanted: BTreeSet<Endpoint> = endpoints(after).collect();
    let kept = |(listen, protocol): &Endpoint| wanted.iter().any(|(l, p)| p == protocol && l.covers(listen));
    for endpoint in endpoints(before).filter(|e| !kept(e)) {
        let (listen, protocol) = endpoint;
        let in_part = wanted.iter().any(|(l, p)| *p == protocol && l.overlaps(&listen));
        out.breaks.push(Break {
            service: service(),
            connections: match in_part {
                true => format!("those to {listen}/{} that it has no more", protocol.name()),
                false => format!("all to {listen}/{}", protocol.name()),
            },
            why: format!(
                "it is no longer in `listen` or `protocol`, and {}",
                destiny(endpoint, &after.name, new.model)
            ),
        });
    }
    if before.forward != after.forward {
        let (from, to) = (before.forward.name(), after.forward.name());
        out.breaks.push(Break {
            service: service(),
            connections: "all".to_owned(),
            why: format!("`forward` changes from {from} to {to}: backends get other packets than before"),
        });
    }
    if before.forward == after.forward && before.tunnel != after.tunnel {
        out.breaks.push(Break {
            service: service(),
            connections: "all".to_owned(),
            why: "`tunnel` changes: backends get other packets than before".to_owned(),
        });
    }
    if (before.udp, after.udp) == (UdpMode::Flow, UdpMode::Oneshot) && after.protocols.contains(&Protocol::Udp) {
        out.breaks.push(Break {
            service: service(),
            connections: "UDP flows on rows that have not settled".to_owned(),
            why: "`udp.mode` becomes oneshot: they go to the rows' owners".to_owned(),
        });
    }
    for gone in before.backends.iter().filter(|b| !after.backends.iter().any(|a| same_endpoint(a, b))) {
        if !old.view.is_up(before, gone) {
            out.breaks.push(Break {
                service: service(),
                connections: format!("what is left of those on {}", gone.name),
                why: "the backend is removed while it is down: they go to others, which reset them".to_owned(),
            });
        }
    }
    // Those that leave, and those that left earlier.
    for leaver in new.view.backends(after).skip(after.backends.len()).filter(|_| after.forward == Forward::Nat) {
        let id = new.ids.backend(after, leaver);
        for (endpoint, protocol) in replies(after, leaver) {
            if id.is_some() && owner_of_replies(new.desired, endpoint, protocol) != id {
                out.breaks.push(Break {
                    service: service(),
                    connections: format!("those on {}", leaver.name),
                    why: format!("replies from {endpoint}/{} belong to another service now", protocol.name()),
                });
            }
        }
    }
}

/// From where a NAT backend answers; port 0 for those of any range.
fn replies(service: &Service, backend: &Backend) -> BTreeSet<(SocketAddr, Protocol)> {
    let family = service.listen.iter().filter(|l| l.is_ipv4() == backend.address.is_ipv4());
    let ports = family.map(|l| l.exact().map_or(0, |exact| backend.port.unwrap_or(exact.port())));
    let all = ports.flat_map(|port| {
        service.protocols.iter().map(move |p| (SocketAddr::new(backend.address, port), *p)).collect::<Vec<_>>()
    });
    all.collect()
}

fn owner_of_replies(desired: &Desired, from: SocketAddr, protocol: Protocol) -> Option<u16> {
    let tables = &desired.tables;
    match from.ip() {
        IpAddr::V4(ip) => {
            let key = match from.port() {
                0 => Endpoint4::any_port(u32::from_ne_bytes(ip.octets()), protocol.number()),
                port => Endpoint4::from_host(ip.octets(), port, protocol.number()),
            };
            tables.reverse4.get(&key).map(|r| r.backend)
        }
        IpAddr::V6(ip) => {
            let key = match from.port() {
                0 => Endpoint6::any_port(words6(ip.octets()), protocol.number()),
                port => Endpoint6::from_host(ip.octets(), port, protocol.number()),
            };
            tables.reverse6.get(&key).map(|r| r.backend)
        }
    }
}

#[cfg(test)]
mod tests;
