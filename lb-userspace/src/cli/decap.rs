//! `sluice decap`: the program for backend hosts that receive tunnelled packets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};

use crate::cli::{Ended, run};
use crate::dataplane;
use crate::exit::{Exit, Failure};
use crate::logging;
use crate::model::XdpMode;

/// Take off the outer header of tunnelled packets, on a backend host
///
/// Services with `forward: ipip` send packets inside another IP header. This attaches an XDP program to the backend's
/// interface that removes it, so that the real server sees the client's packet and answers the client directly. The
/// backend has the VIP on a loopback or dummy device and must not answer ARP for it. Only packets for VIPs are
/// unwrapped: a host that unwraps anything lets outsiders past its address filters. Runs until told to stop.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    ip addr add 203.0.113.10/32 dev lo && sudo sluice decap --interface eth0\n  \
    sudo sluice decap --interface eth0 --vip 203.0.113.10 --vip 2001:db8::10")]
pub struct Decap {
    /// The interface on which tunnelled packets arrive
    #[arg(short, long, value_name = "IF")]
    interface: String,
    /// An address whose packets are unwrapped; may be repeated. Without it: this host's /32 and /128 addresses on
    /// other interfaces, at the moment of the start
    #[arg(long = "vip", value_name = "ADDRESS")]
    vips: Vec<IpAddr>,
    /// How to attach: auto, native or generic
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = xdp_mode)]
    xdp: XdpMode,
    /// error, warn, info, debug, trace, or `tracing` directives
    #[arg(long, value_name = "LEVEL", env = "SLUICE_LOG", hide_env_values = true, default_value = "info")]
    log_level: logging::Filter,
    /// How log lines look on stderr
    #[arg(long, value_name = "FORMAT", env = "SLUICE_LOG_FORMAT", hide_env_values = true, default_value = "text")]
    log_format: logging::Format,
}

impl Decap {
    pub fn execute(self) -> Ended {
        logging::init(&self.log_level, self.log_format);
        let vips = if self.vips.is_empty() { local_vips(&self.interface)? } else { self.vips };
        let options = dataplane::decap::Options { interface: self.interface, xdp: self.xdp, vips };
        run::runtime()?.block_on(dataplane::decap::run(options))?;
        Ok(Exit::Ok)
    }
}

fn xdp_mode(text: &str) -> Result<XdpMode, String> {
    serde_json::from_value(text.into()).map_err(|_| "use auto, native or generic".to_owned())
}

/// The VIPs this host holds, if nobody names them.
fn local_vips(interface: &str) -> Result<Vec<IpAddr>, Failure> {
    let addresses = getifaddrs()
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot list the host's addresses: {e}")))?
        .filter_map(|entry| Some((entry.interface_name.clone(), address(&entry)?)));
    let vips: BTreeSet<IpAddr> =
        addresses.filter(|(name, (ip, length))| is_vip(interface, name, *ip, *length)).map(|(_, (ip, _))| ip).collect();
    if vips.is_empty() {
        return Err(Failure::new(Exit::Failed, "this host has no VIP whose packets could be unwrapped")
            .hint("put it on the loopback device (ip addr add VIP/32 dev lo), or name it with --vip"));
    }
    Ok(vips.into_iter().collect())
}

/// An entry's address and prefix length.
fn address(entry: &InterfaceAddress) -> Option<(IpAddr, u32)> {
    let (ip, mask) = (entry.address.as_ref()?, entry.netmask.as_ref()?);
    if let (Some(ip), Some(mask)) = (ip.as_sockaddr_in(), mask.as_sockaddr_in()) {
        return Some((ip.ip().into(), mask.ip().to_bits().leading_ones()));
    }
    let (ip, mask) = (ip.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
    Some((ip.ip().into(), mask.ip().to_bits().leading_ones()))
}

/// A VIP stands alone, on another interface than the one packets come in by: in clouds that one's own address is a
/// /32, too.
fn is_vip(incoming: &str, interface: &str, ip: IpAddr, length: u32) -> bool {
    let (alone, local) = match ip {
        IpAddr::V4(ip) => (length == 32, ip.is_loopback() || ip.is_link_local()),
        IpAddr::V6(ip) => (length == 128, ip.is_loopback() || ip.is_unicast_link_local()),
    };
    alone && !local && interface != incoming
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vips_stand_alone_and_elsewhere() {
        let table = [
            ("lo", "203.0.113.10", 32, true),
            ("dummy0", "2001:db8::10", 128, true),
            ("lo", "127.0.0.1", 8, false),
            ("lo", "127.0.0.53", 32, false),
            ("lo", "::1", 128, false),
            ("eth0", "10.0.0.11", 32, false),
            ("eth1", "192.0.2.7", 24, false),
            ("eth1", "fe80::1", 128, false),
            ("eth1", "2001:db8:1::7", 64, false),
        ];
        for (interface, ip, length, wanted) in table {
            assert_eq!(is_vip("eth0", interface, ip.parse().unwrap(), length), wanted, "{ip}/{length} on {interface}");
        }
    }
}
