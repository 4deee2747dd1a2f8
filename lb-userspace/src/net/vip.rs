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
use super::announce::{Announcement, Announcer};
use super::link::{self, Link};
use super::state::NetState;
use super::{Error, rtnl};

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
    /// What the file says.
    written: BTreeMap<Place, String>,
    interfaces: Vec<u32>,
    vips: BTreeSet<IpAddr>,
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
        let failed = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| Error::StateFile { what, path, source }
        };
        std::fs::create_dir_all(run_dir).map_err(failed("create", run_dir))?;
        let record = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let file = file.display();
                tracing::warn!(%file, %error, "the list of VIPs added by an earlier run is damaged; check `ip address`");
                Record::default()
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(source) => return Err(failed("read", &file)(source)),
        };
        let mut manager = Self {
            file,
            owned: BTreeMap::new(),
            written: record.addresses.into_iter().map(|e| ((e.ifindex, e.address), e.interface)).collect(),
            interfaces: Vec::new(),
            vips: BTreeSet::new(),
            running: BTreeSet::new(),
            socket: rtnl::Socket::open().map_err(Error::kernel("open a netlink socket"))?,
            announcer: Announcer::start()?,
        };
        if !manager.written.is_empty() {
            let links = manager.links()?;
            let present = Present::read(&mut manager.socket)?;
            let same =
                |(ifindex, _): &Place, name: &String| links.iter().any(|l| l.index == *ifindex && l.name == *name);
            manager.owned = manager.written.clone();
            manager.owned.retain(|place, name| same(place, name) && present.is_ours(place));
        }
        Ok(manager)
    }

    /// The addresses we added (or took over), with the interface they are on.
    pub fn owned(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        self.owned.keys().copied()
    }

    fn links(&mut self) -> Result<Vec<Link>, Error> {
        link::dump(&mut self.socket).map_err(Error::kernel("list the network interfaces"))
    }

    /// Makes the host have exactly these VIPs of ours on these interfaces. New ones are announced. When one cannot be
    /// added, those this call added are taken away again and everything stays as it was.
    pub fn set(&mut self, interfaces: &[u32], vips: BTreeSet<IpAddr>) -> Result<(), Error> {
        let links = self.links()?;
        let present = Present::read(&mut self.socket)?;
        self.owned.retain(|place, _| present.is_ours(place));

        let mut wanted = BTreeMap::new();
        for ip in &vips {
            let places = match ip {
                IpAddr::V4(_) => &interfaces[..interfaces.len().min(1)],
                IpAddr::V6(_) => interfaces,
            };
            for ifindex in places {
                let Some(link) = links.iter().find(|l| l.index == *ifindex) else {
                    let gone = io::Error::from_raw_os_error(libc::ENODEV);
                    return Err(Error::kernel(format!("add the VIP {ip} to interface {ifindex}"))(gone));
                };
                // Already there from somebody else: for IPv4 on any interface (weak host model), for IPv6 on this one.
                let foreign = present.addresses.iter().any(|a| {
                    a.ip == *ip
                        && !self.owned.contains_key(&(a.ifindex, a.ip))
                        && (ip.is_ipv4() || a.ifindex == *ifindex)
                });
                if !foreign {
                    wanted.insert((*ifindex, *ip), link.name.clone());
                }
            }
        }

        let mut missing = wanted.clone();
        missing.retain(|place, _| !self.owned.contains_key(place));
        // Before adding: a crash in between leaves a line too many in the file, never an address too many.
        let mut all = self.owned.clone();
        all.extend(missing.clone());
        self.write(all)?;
        let mut added = BTreeMap::new();
        for (place @ (ifindex, ip), name) in missing {
            let message = RouteNetlinkMessage::NewAddress(message(ifindex, ip));
            match self.socket.request(message, NLM_F_CREATE | NLM_F_EXCL) {
                Ok(()) => _ = added.insert(place, name),
                // Somebody was quicker: it is theirs.
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                Err(source) => {
                    let error = Error::kernel(format!("add the VIP {ip} to {name}"))(source);
                    self.owned.extend(added.clone());
                    self.remove(added.into_keys().collect())?;
                    return Err(error);
                }
            }
        }
        let new: BTreeSet<IpAddr> = added.keys().map(|(_, ip)| *ip).collect();
        let gone: Vec<Place> = self.owned.keys().filter(|p| !wanted.contains_key(p)).copied().collect();
        let leaving = announcements(&self.interfaces, gone.iter().map(|(_, ip)| *ip));
        self.owned.extend(added);
        self.interfaces = interfaces.to_vec();
        self.vips = vips;
        self.running = running(links.iter());
        self.announcer.cancel(leaving);
        self.announcer.announce(announcements(interfaces, new));
        self.remove(gone)
    }

    /// Call when the network has changed: adds VIPs again that somebody removed (setting an interface down drops its
    /// IPv6 addresses), and announces those of interfaces that came back. Does nothing and costs little otherwise.
    pub fn refresh(&mut self, state: &NetState) -> Result<(), Error> {
        let now = running(state.links());
        let back: Vec<u32> =
            self.interfaces.iter().filter(|i| now.contains(i) && !self.running.contains(i)).copied().collect();
        if !back.is_empty() {
            self.announcer.announce(announcements(&back, self.owned.keys().map(|(_, ip)| *ip)));
        }
        self.running = now;
        let present: BTreeSet<Place> = state.addresses().iter().map(|a| (a.ifindex, a.ip)).collect();
        // An IPv6 address added to an interface that is down is dropped again.
        let lost =
            |(ifindex, ip): &Place| !present.contains(&(*ifindex, *ip)) && state.link(*ifindex).is_some_and(|l| l.up);
        if self.owned.keys().any(lost) {
            let (interfaces, vips) = (self.interfaces.clone(), self.vips.clone());
            self.set(&interfaces, vips)?;
        }
        Ok(())
    }

    /// Removes everything we added.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.set(&[], BTreeSet::new())
    }

    /// Removes all it can; the first failure is reported.
    fn remove(&mut self, places: Vec<Place>) -> Result<(), Error> {
        let mut outcome = Ok(());
        for (ifindex, ip) in places {
            match self.socket.request(RouteNetlinkMessage::DelAddress(message(ifindex, ip)), 0) {
                Ok(()) => {}
                // Gone already, or with its interface.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {}
                Err(source) => {
                    let error = Error::kernel(format!("remove the VIP {ip} from interface {ifindex}"))(source);
                    outcome = outcome.and(Err(error));
                    continue;
                }
            }
            self.owned.remove(&(ifindex, ip));
        }
        outcome.and(self.write(self.owned.clone()))
    }

    /// Replaces the file in one step, so that a crash leaves the old one or the new one.
    fn write(&mut self, owned: BTreeMap<Place, String>) -> Result<(), Error> {
        if owned == self.written {
            return Ok(());
        }
        let failed = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| Error::StateFile { what, path, source }
        };
        if owned.is_empty() {
            match std::fs::remove_file(&self.file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &self.file)(e)),
                _ => {}
            }
        } else {
            let entry = |((ifindex, address), interface): (&Place, &String)| Entry {
                interface: interface.clone(),
                ifindex: *ifindex,
                address: *address,
            };
            let record = Record { addresses: owned.iter().map(entry).collect() };
            let new = self.file.with_extension("json.new");
            let bytes = serde_json::to_vec_pretty(&record).map_err(io::Error::from);
            bytes.and_then(|b| std::fs::write(&new, b)).map_err(failed("write", &new))?;
            std::fs::rename(&new, &self.file).map_err(failed("replace", &self.file))?;
        }
        self.written = owned;
        Ok(())
    }
}

fn running<'a>(links: impl Iterator<Item = &'a Link>) -> BTreeSet<u32> {
    links.filter(|l| l.is_running()).map(|l| l.index).collect()
}

/// Neighbours on every interface may have known these addresses elsewhere, whichever interface has the address.
fn announcements(interfaces: &[u32], ips: impl IntoIterator<Item = IpAddr>) -> BTreeSet<Announcement> {
    ips.into_iter().flat_map(|ip| interfaces.iter().map(move |i| (*i, ip))).collect()
}

/// The addresses on the host, whoever added them.
struct Present {
    addresses: Vec<Address>,
    /// The kernel keeps `IFA_PROTO` (≥ 5.18): it marks its own loopback addresses then.
    keeps_marks: bool,
}

impl Present {
    fn read(socket: &mut rtnl::Socket) -> Result<Self, Error> {
        let addresses = addr::dump(socket).map_err(Error::kernel("list the host's addresses"))?;
        let keeps_marks = addresses.iter().any(|a| a.protocol != 0);
        Ok(Self { addresses, keeps_marks })
    }

    /// Whether this looks as only our addresses do.
    fn is_ours(&self, (ifindex, ip): &Place) -> bool {
        let shaped = |a: &&Address| match a.ip {
            IpAddr::V4(_) => a.prefix_length == 32 && a.scope == SCOPE_HOST,
            IpAddr::V6(_) => a.prefix_length == 128 && a.deprecated,
        };
        let marked = |a: &&Address| a.protocol == MARK || !self.keeps_marks;
        self.addresses.iter().filter(|a| a.ifindex == *ifindex && a.ip == *ip).filter(marked).any(|a| shaped(&a))
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
