//! What a reload changes, in sentences for the operator who asked for it.

use std::collections::BTreeMap;

use crate::model::{Model, Service};

/// One sentence per change; empty when both are the same to the operator.
pub fn describe(old: &Model, new: &Model) -> Vec<String> {
    let mut out = Vec::new();
    if old.node.interfaces != new.node.interfaces {
        let names = |m: &Model| m.node.interfaces.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ");
        out.push(format!("interfaces: {} → {}", names(old), names(new)));
    }
    if old.node.vip_addresses != new.node.vip_addresses {
        out.push(format!("vip_addresses: {:?} → {:?}", old.node.vip_addresses, new.node.vip_addresses).to_lowercase());
    }
    if old.node.min_ring_interval != new.node.min_ring_interval {
        let (from, to) = (old.node.min_ring_interval, new.node.min_ring_interval);
        out.push(format!("min_ring_interval: {from:?} → {to:?}"));
    }
    if old.node.weight_hysteresis != new.node.weight_hysteresis {
        let percent = |m: &Model| m.node.weight_hysteresis * 100.0;
        out.push(format!("weight_hysteresis: {} % → {} %", percent(old), percent(new)));
    }
    if old.node.on_exit != new.node.on_exit {
        out.push(format!("on_exit: {:?} → {:?}", old.node.on_exit, new.node.on_exit).to_lowercase());
    }
    for ((key, from), (_, to)) in old.packets.switches().into_iter().zip(new.packets.switches()) {
        if from != to {
            out.push(format!("packets.{key}: {from:?} → {to:?}").to_lowercase());
        }
    }
    if old.hooks != new.hooks {
        out.push(format!("hooks: {} → {}", old.hooks.len(), new.hooks.len()));
    }
    let by_name =
        |m: &Model| -> BTreeMap<String, Service> { m.services.iter().map(|s| (s.name.clone(), s.clone())).collect() };
    let (before, after) = (by_name(old), by_name(new));
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        out.push(format!("service {name} removed"));
    }
    for (name, service) in &after {
        match before.get(name) {
            None => out.push(format!("service {name} added with {} backends", service.backends.len())),
            Some(old) => service_changes(old, service, &mut out),
        }
    }
    out
}

fn service_changes(old: &Service, new: &Service, out: &mut Vec<String>) {
    let name = &new.name;
    let mut field = |what: &str, changed: bool| {
        if changed {
            out.push(format!("service {name}: {what} changed"));
        }
    };
    field("listen", old.listen != new.listen);
    field("protocol", old.protocols != new.protocols);
    field("scheduler", old.scheduler != new.scheduler);
    field("forward", old.forward != new.forward);
    field("tunnel", old.tunnel != new.tunnel);
    field("timeouts", old.timeouts != new.timeouts);
    field("on_backend_down", old.on_backend_down != new.on_backend_down);
    field("udp.mode", old.udp != new.udp);
    field("affinity", old.affinity != new.affinity);
    field("clamp_mss", old.clamp_mss != new.clamp_mss);
    field("tracking", old.tracking != new.tracking);
    field("limits", old.limits != new.limits);
    field("health", old.health != new.health);
    field("agent", old.agent != new.agent);
    field("min_healthy", old.min_healthy != new.min_healthy);
    field("max_ejected", old.max_ejected != new.max_ejected);
    field("panic_threshold", old.panic_threshold != new.panic_threshold);
    field("on_empty", old.on_empty != new.on_empty);
    for gone in old.backends.iter().filter(|b| !new.backends.iter().any(|n| n.name == b.name)) {
        out.push(format!("service {name}: backend {} removed", gone.name));
    }
    for backend in &new.backends {
        let Some(before) = old.backends.iter().find(|b| b.name == backend.name) else {
            out.push(format!("service {name}: backend {} added", backend.name));
            continue;
        };
        if before.weight != backend.weight {
            out.push(format!("service {name}: backend {} weight {} → {}", backend.name, before.weight, backend.weight));
        }
        if before.state != backend.state {
            out.push(
                format!("service {name}: backend {} {:?} → {:?}", backend.name, before.state, backend.state)
                    .to_lowercase(),
            );
        }
        if before.fallback != backend.fallback {
            let what = if backend.fallback { "is a fallback now" } else { "is no fallback any more" };
            out.push(format!("service {name}: backend {} {what}", backend.name));
        }
        if (before.address, before.port) != (backend.address, backend.port) {
            out.push(format!("service {name}: backend {} has another address or port", backend.name));
        }
    }
}
