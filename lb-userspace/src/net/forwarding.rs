//! Whether the kernel routes for an interface: the `forwarding` switches of IPv4 and IPv6.
//!
//! The packet path asks the kernel's FIB where our mirrored tables have no answer yet — for the first reply to a
//! client that has just appeared on the link, above all. The kernel only answers for interfaces it routes for.
//! Sluice does not turn the switch itself: it makes a router of the host, and that is the operator's to decide.

use std::path::Path;

/// One sentence per interface whose switch is off, with the command that turns it on.
pub fn problems(interfaces: &[&str], ipv4: bool, ipv6: bool) -> Vec<String> {
    let mut out = Vec::new();
    for name in interfaces {
        for (family, wanted) in [("ipv4", ipv4), ("ipv6", ipv6)] {
            let path = Path::new("/proc/sys/net").join(family).join("conf").join(name).join("forwarding");
            let off = std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0");
            if wanted && off {
                out.push(format!(
                    "{name}: {family} forwarding is off, so the first replies to a new neighbour may be dropped \
                     (forwarding_disabled); turn it on: sysctl -w net.{family}.conf.{name}.forwarding=1"
                ));
            }
        }
    }
    out
}
