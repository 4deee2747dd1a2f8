//! `sluice decap`: the program for backend hosts that receive tunnelled packets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::decap::{DEFAULT_GENEVE_PORT, DEFAULT_GUE_PORT, DEFAULT_VXLAN_PORT};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};

use crate::cli::{Ended, run};
use crate::dataplane::{self, decap::Tunnels};
use crate::exit::{Exit, Failure};
use crate::logging;
use crate::model::XdpMode;

/// Take off the outer headers of tunnelled packets, on a backend host
///
/// Tunnelling services send packets inside others: IP in IP, GRE, GUE, VXLAN or Geneve, over IPv4 or IPv6, with a packet
/// of either family inside. This attaches an XDP program to the backend's interface that removes what is around it, so
/// that the real server sees the client's packet and answers the client directly. The backend has the VIP on a loopback
/// or dummy device and must not answer ARP for it. Only packets for VIPs are unwrapped: a host that unwraps anything
/// lets outsiders past its address filters. Runs until told to stop.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    ip addr add 203.0.113.10/32 dev lo && sudo sluice decap --interface eth0\n  \
    sudo sluice decap --interface eth0 --vip 203.0.113.10 --vip 2001:db8::10\n  \
    sudo sluice decap --interface eth0 --vxlan-port 8472 --vni 42")]
pub struct Decap {
    /// The interface on which tunnelled packets arrive
    #[arg(short, long, value_name = "IF")]
    interface: String,
    /// An address whose packets are unwrapped; may be repeated. Without it: this host's /32 and /128 addresses on
    /// other interfaces, at the moment of the start
    #[arg(long = "vip", value_name = "ADDRESS")]
    vips: Vec<IpAddr>,
    /// The UDP port on which GUE arrives
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_GUE_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    gue_port: u16,
    /// The UDP port on which VXLAN arrives
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_VXLAN_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    vxlan_port: u16,
    /// The UDP port on which Geneve arrives
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_GENEVE_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    geneve_port: u16,
    /// Of VXLAN and Geneve, unwrap the packets of this network only
    #[arg(long, value_name = "VNI", value_parser = clap::value_parser!(u32).range(..1 << 24))]
    vni: Option<u32>,
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
        let tunnels = self.tunnels()?;
        let vips = if self.vips.is_empty() { local_vips(&self.interface)? } else { self.vips };
        let options = dataplane::decap::Options { interface: self.interface, xdp: self.xdp, tunnels, vips };
        run::runtime()?.block_on(dataplane::decap::run(options))?;
        Ok(Exit::Ok)
    }

    /// What arrives on a port can be one thing only.
    fn tunnels(&self) -> Result<Tunnels, Failure> {
        let Self { gue_port, vxlan_port, geneve_port, vni, .. } = *self;
        let named = [("--gue-port", gue_port), ("--vxlan-port", vxlan_port), ("--geneve-port", geneve_port)];
        for (i, (one, port)) in named.into_iter().enumerate() {
            if let Some((other, _)) = named[i + 1..].iter().find(|(_, other)| *other == port) {
                return Err(Failure::new(Exit::Usage, format!("{one} and {other} are both {port}"))
                    .hint("give the one that does not arrive here a port that nobody sends to"));
            }
        }
        Ok(Tunnels { gue_port, vxlan_port, geneve_port, vni })
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
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        decap: Decap,
    }

    fn tunnels(arguments: &str) -> Result<Tunnels, Failure> {
        let words = ["decap", "--interface", "eth0"].into_iter().chain(arguments.split_whitespace());
        Line::try_parse_from(words).unwrap().decap.tunnels()
    }

    #[test]
    fn ports_are_the_assigned_ones_unless_named_and_no_two_the_same() {
        let usual = Tunnels { gue_port: 6080, vxlan_port: 4789, geneve_port: 6081, vni: None };
        assert_eq!(tunnels("").unwrap(), usual);
        let moved = Tunnels { gue_port: 4789, vxlan_port: 8472, geneve_port: 1, vni: Some(0xff_ffff) };
        let arguments = "--gue-port 4789 --vxlan-port 8472 --geneve-port 1 --vni 16777215";
        assert_eq!(tunnels(arguments).unwrap(), moved);
        for (arguments, told) in [
            ("--gue-port 4789", "--gue-port and --vxlan-port are both 4789"),
            ("--gue-port 6081", "--gue-port and --geneve-port are both 6081"),
            ("--vxlan-port 6081", "--vxlan-port and --geneve-port are both 6081"),
        ] {
            let failure = tunnels(arguments).unwrap_err();
            assert_eq!((failure.exit, failure.message.as_str()), (Exit::Usage, told));
        }
    }

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
