//! What is valid and still worth a second look. Printed, never refused.

use crate::model::{BackendState, Forward, Model, XdpMode};

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
    let tunnels = model.services.iter().any(|s| s.forward == Forward::Ipip);
    if !tunnels && (model.node.tunnel_source4.is_some() || model.node.tunnel_source6.is_some()) {
        out.push("node.tunnel_source is set, but no service uses a tunnel".to_owned());
    }
    out
}
