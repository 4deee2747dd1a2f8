//! What is valid and still worth a second look. Printed, never refused.

use crate::model::{BackendState, Model, Tracking, XdpMode};

/// One sentence each; empty when there is nothing to say.
pub fn warnings(model: &Model) -> Vec<String> {
    let mut out = Vec::new();
    if model.services.is_empty() {
        out.push("the configuration has no services: all packets pass untouched".to_owned());
    }
    for interface in model.node.interfaces.iter().filter(|i| i.xdp == XdpMode::Generic) {
        out.push(format!(
            "interface {}: generic XDP works everywhere and is several times slower than native",
            interface.name
        ));
    }
    for service in &model.services {
        let name = &service.name;
        for v4 in [true, false] {
            let mut family = service.backends.iter().filter(|b| b.address.is_ipv4() == v4).peekable();
            if family.peek().is_some() && family.all(|b| b.weight == 0 || b.state == BackendState::Drain) {
                let ip = if v4 { "IPv4" } else { "IPv6" };
                out.push(format!(
                    "service {name}: every {ip} backend is drained or has weight 0; new {ip} flows have nowhere to go"
                ));
            }
        }
        if service.health.is_none() {
            out.push(format!("service {name}: no health check, so a dead backend keeps its share of the traffic"));
        }
    }
    let room = model.tracked_room();
    for (family, ip) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let quotas: u64 = model.services.iter().map(|s| u64::from(model.tracked_quota(s)[family])).sum();
        if quotas > u64::from(room[family]) {
            out.push(format!(
                "the quotas of tracked {ip} flows add up to {quotas}, and there is room for {}: services can push out each \
                 other's",
                room[family]
            ));
        }
    }
    for service in model.services.iter().filter(|s| s.tracking == Tracking::Full) {
        if !service.protocols.iter().any(|p| service.tracks(*p)) {
            out.push(format!(
                "service {}: tracking is full, but datagrams that stand alone (udp.mode: oneshot) are no flows",
                service.name
            ));
        }
    }
    let tunnels = model.services.iter().any(|s| s.forward.is_tunnel());
    if !tunnels && (model.node.tunnel_source4.is_some() || model.node.tunnel_source6.is_some()) {
        out.push("node.tunnel_source is set, but no service uses a tunnel".to_owned());
    }
    out
}
