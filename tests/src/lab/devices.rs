//! Tunnel devices of the kernel, in place of `sluice decap`: receivers written by nobody here.
//!
//! They take what is for one of the backend's own addresses from any sender, because Sluice varies its source. The
//! trap: a kernel without the module refuses the device, so ask [`Receiver::lacking`] before a lab is built around it.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::netns::NetNs;
use super::{Backend, Lab, Pair};
use crate::progrun::netns::{enter_private, ip, ip6};

/// Of VXLAN and Geneve.
pub const VNI: u32 = 66051;
/// The MAC address that inner frames are for.
pub const INNER_MAC: &str = "02:00:00:00:00:0a";

/// What stands in front of the tunnel's IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// `ipip`, `sit` and `ip6tnl`: all four of IP in IP.
    IpInIp,
    Gre,
    /// IP in IP behind a UDP port that takes GUE of either variant off.
    Gue,
    /// IP in IP behind a UDP port that takes nothing but UDP off; this is what is below, by protocol number. It is GUE
    /// variant 1 for packets of one family.
    Fou(u8),
    Vxlan,
    Geneve,
}

/// `ip` commands: for both families, and for IPv6 alone.
#[derive(Debug, Default)]
struct Script {
    both: String,
    v6: String,
}

impl Receiver {
    /// What to make on a host that has these addresses on `interface`.
    fn script(self, address: Pair, interface: &str) -> Script {
        let Pair { v4, v6 } = address;
        let mut script = Script::default();
        match self {
            Self::IpInIp | Self::Gue | Self::Fou(_) => {
                script.both += &format!(
                    "link add tun44 type ipip local {v4} remote any\nlink add tun64 type sit local {v4} remote any\n\
                     link add tunx6 type ip6tnl mode any local {v6} remote any\n"
                );
            }
            Self::Gre => {
                script.both += &format!(
                    "link add tunx4 type gre local {v4} remote any\nlink add tunx6 type ip6gre local {v6} remote any\n"
                );
            }
            // Learning would send what is for the client's inner MAC address back into the tunnel.
            Self::Vxlan => {
                for (name, local) in [("tunx4", v4.to_string()), ("tunx6", v6.to_string())] {
                    let _ = writeln!(
                        script.both,
                        "link add {name} address {INNER_MAC} type vxlan id {VNI} dstport 4789 local {local} dev \
                         {interface} nolearning"
                    );
                }
            }
            // One that is bound to no sender takes both families.
            Self::Geneve => {
                script.both += &format!("link add tunxx address {INNER_MAC} type geneve external dstport 6081\n");
            }
        }
        let port = match self {
            Self::Gue => "fou add port 6080 gue\n".to_owned(),
            Self::Fou(protocol) => format!("fou add port 6080 ipproto {protocol}\n"),
            _ => String::new(),
        };
        script.both += &port;
        script.v6 += &port;
        for name in self.names() {
            let _ = writeln!(script.both, "link set {name} up");
        }
        script
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::IpInIp | Self::Gue | Self::Fou(_) => &["tun44", "tun64", "tunx6"],
            Self::Gre | Self::Vxlan => &["tunx4", "tunx6"],
            Self::Geneve => &["tunxx"],
        }
    }

    /// What this kernel says if it cannot have these devices; found out in a namespace that is thrown away.
    pub fn lacking(self) -> Option<String> {
        if matches!(self, Self::Gue | Self::Fou(_)) {
            // The kernel loads modules of devices when asked for one; this one it does not. It may be built in.
            let _ = Command::new("modprobe").args(["-q", "-a", "fou", "fou6"]).status();
        }
        let trial = std::thread::spawn(move || -> Result<()> {
            enter_private()?;
            let address = Pair { v4: [10, 0, 0, 1].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into() };
            ip(&format!("addr add {}/8 dev lo\naddr add {}/64 dev lo\nlink set lo up\n", address.v4, address.v6))?;
            let script = self.script(address, "lo");
            ip(&script.both)?;
            if script.v6.is_empty() { Ok(()) } else { ip6(&script.v6) }
        });
        let said = match trial.join() {
            Ok(Ok(())) => return None,
            Ok(Err(why)) => format!("{why:#}"),
            Err(_) => "the trial panicked".to_owned(),
        };
        // `ip` repeats what it was given.
        Some(said.split("\nin\n").next().unwrap_or(&said).lines().collect::<Vec<_>>().join("; "))
    }

    /// Makes the devices on a backend.
    pub fn make(self, backend: &Backend) -> Result<()> {
        let script = self.script(backend.address, "eth0");
        backend.ns.ip(&script.both)?;
        if !script.v6.is_empty() {
            backend.ns.ip6(&script.v6)?;
        }
        Ok(())
    }

    /// What the devices of all backends have counted so far.
    pub fn counted(self, lab: &Lab) -> Result<Counted> {
        let mut counted = Counted::default();
        for backend in &lab.backends {
            let links: Value = serde_json::from_str(&backend.ns.ip_show("-j -s link show")?)?;
            for link in links.as_array().context("`ip -j` prints no list")? {
                if self.names().iter().any(|name| link["ifname"] == *name) {
                    let rx = &link["stats64"]["rx"];
                    counted.taken += rx["packets"].as_u64().context("no packets")?;
                    counted.refused += rx["errors"].as_u64().unwrap_or(0) + rx["dropped"].as_u64().unwrap_or(0);
                }
            }
        }
        Ok(counted)
    }
}

/// Packets that came to devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub taken: u64,
    pub refused: u64,
}

/// Room for outer headers between the balancer and the backends, so that clients may send full-size segments.
pub fn widen(lab: &Lab) -> Result<()> {
    const WIDE: u32 = 1600;
    let wide = |ns: &NetNs, names: &[&str]| {
        ns.ip(&names.iter().map(|name| format!("link set {name} mtu {WIDE}\n")).collect::<String>())
    };
    wide(&lab.lb, &["eth0", "eth1"])?;
    wide(&lab.switch, &["lb-front", "lb-back", "b1", "b2", "b3"])?;
    lab.backends.iter().try_for_each(|backend| wide(&backend.ns, &["eth0"]))
}
