//! The VIPs on the host: added so that the kernel answers ARP and neighbour discovery for them, and taken away again.
//!
//! A VIP must never become the source of the host's own connections: replies would come back to the balancer and be
//! forwarded to a backend. So IPv4 VIPs are /32 of scope host, which the kernel skips when it looks for a source that
//! reaches beyond the host, and IPv6 VIPs are /128 and deprecated (preferred lifetime 0), which RFC 6724 rule 3
//! avoids. IPv6 has no way to say "never": a host without any other global address still takes a deprecated one;
//! [`warnings`] tells.
//!
//! IPv4 VIPs go to the first interface: the kernel answers ARP for any of its addresses on every interface
//! (`arp_ignore` 0, the weak host model). IPv6 VIPs go to every interface: neighbour discovery is per interface.
//!
//! What was there before is not ours: it is never touched, and stays when we stop. What we add is written to a file
//! before it is added, so that a start after a crash knows it again; and it carries our mark (`IFA_PROTO`) where the
//! kernel keeps one, so that a file that survived too long does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::addr::{self, Address, SCOPE_HOST};
use super::announce::Announcer;
use super::state::NetState;
use super::{Error, link, rtnl};

/// `IFA_PROTO` of the addresses we add (kernels ≥ 5.18; older ones ignore it): "S". 1 to 3 are the kernel's.
pub const MARK: u8 = b'S';

const FILE: &str = "vips.json";

/// A VIP on an interface.
type Place = (u32, IpAddr);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    addresses: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// The name is checked too: interface numbers are given out again.
    interface: String,
    ifindex: u32,
    address: IpAddr,
}

/// Adds and removes VIPs. Dropping it leaves them in place (fail static); [`VipManager::clear`] removes them.
#[derive(Debug)]
pub struct VipManager {
    file: PathBuf,
    /// What we added, with the interface's name.
    owned: BTreeMap<Place, String>,
    wanted: (Vec<u32>, BTreeSet<IpAddr>),
    /// Interfaces that were running when last looked at.
    running: BTreeSet<u32>,
    socket: rtnl::Socket,
    announcer: Announcer,
}

impl VipManager {
    /// Takes over what an earlier run left on the host, according to its file in `run_dir`. The next
    /// [`VipManager::set`] keeps or removes it.
    pub fn open(run_dir: &Path) -> Result<Self, Error> {
        let file = run_dir.join(FILE);
        let record = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "the list of VIPs added earlier is damaged; starting without");
                Record::default()
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(source) => return Err(Error::StateFile { what: "read", path: file, source }),
        };
        let mut manager = Self {
            file,
            owned: BTreeMap::new(),
            wanted: Default::default(),
            running: BTreeSet::new(),
            socket: rtnl::Socket::open().map_err(Error::kernel("open a netlink socket"))?,
            announcer: Announcer::start()?,
        };
        if !record.addresses.is_empty() {
            let links = link::dump(&mut manager.socket).map_err(Error::kernel("list the network interfaces"))?;
            let present = manager.present()?;
            for entry in record.addresses {
                let here = links.iter().any(|l| l.index == entry.ifindex && l.name == entry.interface);
                let ours = present.iter().any(|a| a.ifindex == entry.ifindex && a.ip == entry.address && is_ours(a));
                if here && ours {
                    manager.owned.insert((entry.ifindex, entry.address), entry.interface);
                }
            }
        }
        Ok(manager)
    }

    /// The addresses we added (or took over), with the interface they are on.
    pub fn owned(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        self.owned.keys().copied()
    }

    fn present(&mut self) -> Result<Vec<Address>, Error> {
        addr::dump(&mut self.socket).map_err(Error::kernel("list the host's addresses"))
    }

    /// Makes the host have exactly these VIPs of ours on these interfaces. New ones are announced. When one cannot be
    /// added, those this call added are taken away again and everything stays as it was.
    pub fn set(&mut self, interfaces: &[u32], vips: BTreeSet<IpAddr>) -> Result<(), Error> {
        let links = link::dump(&mut self.socket).map_err(Error::kernel("list the network interfaces"))?;
        let present = self.present()?;
        self.owned
            .retain(|(ifindex, ip), _| present.iter().any(|a| a.ifindex == *ifindex && a.ip == *ip && is_ours(a)));

        let mut wanted = BTreeMap::new();
        for ip in &vips {
            let places = match ip {
                IpAddr::V4(_) => &interfaces[..interfaces.len().min(1)],
                IpAddr::V6(_) => interfaces,
            };
            for ifindex in places {
                let Some(link) = links.iter().find(|l| l.index == *ifindex) else {
                    let gone = io::Error::from_raw_os_error(libc::ENODEV);
                    return Err(Error::kernel(format!("add {ip} to interface {ifindex}"))(gone));
                };
                // Already there from somebody else: for IPv4 on any interface (weak host model), for IPv6 on this one.
                let foreign = present.iter().any(|a| {
                    a.ip == *ip
                        && !self.owned.contains_key(&(a.ifindex, a.ip))
                        && (ip.is_ipv4() || a.ifindex == *ifindex)
                });
                if !foreign {
                    wanted.insert((*ifindex, *ip), link.name.clone());
                }
            }
        }

        let missing: BTreeMap<Place, String> =
            wanted.iter().filter(|(p, _)| !self.owned.contains_key(p)).map(|(p, n)| (*p, n.clone())).collect();
        if !missing.is_empty() {
            // Before adding: a crash in between leaves a line too many in the file, never an address too many.
            let all = self.owned.iter().chain(&missing);
            self.write(all.map(|(p, n)| (*p, n.clone())).collect())?;
        }
        let mut added = BTreeSet::new();
        for ((ifindex, ip), name) in &missing {
            match self
                .socket
                .request(RouteNetlinkMessage::NewAddress(message(*ifindex, *ip)), NLM_F_CREATE | NLM_F_EXCL)
            {
                Ok(()) => _ = added.insert((*ifindex, *ip)),
                // Somebody was quicker: it is theirs.
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                Err(source) => {
                    for place in &added {
                        self.remove(*place)?;
                    }
                    self.write(self.owned.clone())?;
                    return Err(Error::kernel(format!("add the VIP {ip} to {name}"))(source));
                }
            }
        }
        let gone: Vec<Place> = self.owned.keys().filter(|p| !wanted.contains_key(p)).copied().collect();
        self.announcer.cancel(gone.iter().copied().collect());
        for place in &gone {
            self.remove(*place)?;
            self.owned.remove(place);
        }
        self.owned.extend(missing.into_iter().filter(|(p, _)| added.contains(p)));
        self.write(self.owned.clone())?;
        self.running = links.iter().filter(|l| l.is_running()).map(|l| l.index).collect();
        self.announcer.announce(added);
        self.wanted = (interfaces.to_vec(), vips);
        Ok(())
    }

    /// Call when the network has changed: adds VIPs again that somebody removed (setting an interface down drops its
    /// IPv6 addresses), and announces those of interfaces that came back. Does nothing and costs nothing otherwise.
    pub fn refresh(&mut self, state: &NetState) -> Result<(), Error> {
        let present: BTreeSet<Place> = state.addresses().iter().map(|a| (a.ifindex, a.ip)).collect();
        let running: BTreeSet<u32> = state.links().filter(|l| l.is_running()).map(|l| l.index).collect();
        let came_back = |ifindex: &u32| running.contains(ifindex) && !self.running.contains(ifindex);
        let announce: BTreeSet<Place> = self.owned.keys().filter(|(i, _)| came_back(i)).copied().collect();
        if !announce.is_empty() {
            self.announcer.announce(announce);
        }
        self.running = running;
        // An IPv6 address cannot be added to an interface that is down: it would be dropped again.
        let addable = |ifindex: &u32| state.link(*ifindex).is_some_and(|l| l.up);
        let lost = self.owned.keys().any(|place| !present.contains(place) && addable(&place.0));
        if lost {
            let (interfaces, vips) = self.wanted.clone();
            self.set(&interfaces, vips)?;
        }
        Ok(())
    }

    /// Removes everything we added.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.set(&[], BTreeSet::new())
    }

    fn remove(&mut self, (ifindex, ip): Place) -> Result<(), Error> {
        match self.socket.request(RouteNetlinkMessage::DelAddress(message(ifindex, ip)), 0) {
            Ok(()) => Ok(()),
            // Gone already, or with its interface.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
            Err(source) => Err(Error::kernel(format!("remove the VIP {ip} from interface {ifindex}"))(source)),
        }
    }

    /// Replaces the file in one step, so that a crash leaves the old one or the new one.
    fn write(&self, owned: BTreeMap<Place, String>) -> Result<(), Error> {
        let failed = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| Error::StateFile { what, path, source }
        };
        if owned.is_empty() {
            return match std::fs::remove_file(&self.file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.file)(e)),
                _ => Ok(()),
            };
        }
        let addresses =
            owned.into_iter().map(|((ifindex, address), interface)| Entry { interface, ifindex, address }).collect();
        let bytes = serde_json::to_vec_pretty(&Record { addresses }).map_err(io::Error::from);
        let new = self.file.with_extension("json.new");
        bytes.and_then(|b| std::fs::write(&new, b)).map_err(failed("write", &new))?;
        std::fs::rename(&new, &self.file).map_err(failed("write", &self.file))
    }
}

/// How the kernel shows an address that we added. One that lacks our mark on a kernel that keeps marks is not ours,
/// but old kernels keep none.
fn is_ours(a: &Address) -> bool {
    let marked = matches!(a.protocol, MARK | 0);
    marked
        && match a.ip {
            IpAddr::V4(_) => a.prefix_length == 32 && a.scope == SCOPE_HOST,
            IpAddr::V6(_) => a.prefix_length == 128 && a.deprecated,
        }
}

fn message(ifindex: u32, ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    match ip {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = 32;
            message.header.scope = AddressScope::Host;
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.prefix_len = 128;
            // Duplicate address detection would hold it back for a second, and a standby that has it too is on
            // purpose. No prefix route: a /128 needs none.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_valid = u32::MAX;
            lifetimes.ifa_preferred = 0;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
    }
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    message.attributes.push(AddressAttribute::Protocol(MARK.into()));
    message
}

/// What on this host keeps managed VIPs from working as they should, one sentence each.
pub fn warnings(interfaces: &[u32], vips: &BTreeSet<IpAddr>, state: &NetState) -> Vec<String> {
    let mut out = Vec::new();
    let links = || interfaces.iter().filter_map(|i| state.link(*i));
    // The kernel takes the larger of "all" and the interface's own.
    let setting = |link: &str, key: &str| {
        let read = |who: &str| -> u32 {
            let path = format!("/proc/sys/net/ipv4/conf/{who}/{key}");
            std::fs::read_to_string(path).ok().and_then(|s| s.trim().parse().ok()).unwrap_or(0)
        };
        read("all").max(read(link))
    };
    if vips.iter().any(IpAddr::is_ipv4) {
        for (position, link) in links().enumerate() {
            let name = &link.name;
            match setting(name, "arp_ignore") {
                0 => {}
                1 | 2 if position == 0 => {}
                n => out.push(format!(
                    "net.ipv4.conf.{name}.arp_ignore is {n}: {name} will not answer ARP for the VIPs; set it to 0"
                )),
            }
            if position == 0 && setting(name, "route_localnet") != 0 {
                out.push(format!(
                    "net.ipv4.conf.{name}.route_localnet is set: the kernel may use a VIP as source address of its own \
                     connections; set it to 0"
                ));
            }
        }
    }
    if vips.iter().any(IpAddr::is_ipv6) {
        let global = |a: &Address| match a.ip {
            IpAddr::V6(ip) => !vips.contains(&a.ip) && !a.deprecated && is_global(ip),
            IpAddr::V4(_) => false,
        };
        if !state.addresses().iter().any(global) {
            out.push(
                "this host has no global IPv6 address of its own: the kernel will use a VIP as source address of its \
                 own connections; add an address"
                    .to_owned(),
            );
        }
    }
    out
}

fn is_global(ip: Ipv6Addr) -> bool {
    !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_multicast()
}
