//! Neighbours: which MAC address an IP address has on a link, and keeping the ones we need known.
//!
//! The packet path sends past the kernel, so the kernel sees no traffic to our backends, lets their entries go stale
//! and in the end forgets them. That is why those we need are kept by asking, not by traffic.
//!
//! The trap: `NTF_USE` on an entry somebody set by hand makes it an ordinary one (the kernel clears
//! `NUD_PERMANENT`), and clears the mark of entries a control plane has learned. Those are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::watch;

use super::state::NetState;
use super::{Error, rtnl};

/// `NUD_*` bits (linux/neighbour.h).
const INCOMPLETE: u16 = 0x01;
const REACHABLE: u16 = 0x02;
const STALE: u16 = 0x04;
const DELAY: u16 = 0x08;
const PROBE: u16 = 0x10;
const FAILED: u16 = 0x20;
const NOARP: u16 = 0x40;
const PERMANENT: u16 = 0x80;
/// The kernel itself sends to a neighbour in any of these states; stale only means "check it when next used".
const VALID: u16 = PERMANENT | NOARP | REACHABLE | PROBE | STALE | DELAY;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub mac: Option<[u8; 6]>,
    /// `NUD_*`.
    pub state: u16,
    /// The kernel keeps it resolved (`NTF_EXT_MANAGED`).
    pub managed: bool,
    /// A control plane put it there (`NTF_EXT_LEARNED`).
    pub learned: bool,
}

impl Neighbour {
    /// One that answers.
    pub fn reachable(mac: [u8; 6]) -> Self {
        Self { mac: Some(mac), state: REACHABLE, managed: false, learned: false }
    }

    /// One that was asked for and did not answer.
    pub fn failed() -> Self {
        Self { mac: None, state: FAILED, managed: false, learned: false }
    }

    /// The MAC address, in the states in which the kernel would send to it.
    pub fn usable_mac(&self) -> Option<[u8; 6]> {
        self.mac.filter(|_| self.state & VALID != 0)
    }

    pub fn is_failed(&self) -> bool {
        self.state & FAILED != 0
    }

    /// Ours to ask for: not set by hand and not put there by a control plane.
    fn is_ours_to_ask(&self) -> bool {
        self.state & (PERMANENT | NOARP) == 0 && !self.learned
    }
}

pub(super) fn decode(message: &NeighbourMessage) -> Option<((u32, IpAddr), Neighbour)> {
    // Bridges report their forwarding tables here as well, and proxies are addresses we answer for.
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || message.header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let mut ip = None;
    let mut neighbour = Neighbour {
        mac: None,
        state: message.header.state.into(),
        managed: false,
        learned: message.header.flags.contains(NeighbourFlags::ExtLearned),
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => ip = Some(IpAddr::from(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => ip = Some(IpAddr::from(*a)),
            NeighbourAttribute::LinkLayerAddress(mac) => neighbour.mac = mac.as_slice().try_into().ok(),
            NeighbourAttribute::ExtFlags(flags) => neighbour.managed = flags.contains(NeighbourExtFlags::Managed),
            _ => {}
        }
    }
    let ip = ip.filter(|ip| !ip.is_multicast())?;
    Some(((message.header.ifindex, ip), neighbour))
}

pub(super) fn dump(socket: &mut rtnl::Socket) -> std::io::Result<BTreeMap<(u32, IpAddr), Neighbour>> {
    let all = socket.dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), |m| match m.parse()? {
        RouteNetlinkMessage::NewNeighbour(message) => decode(&message),
        _ => None,
    })?;
    Ok(all.into_iter().collect())
}

fn message(ifindex: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    let (family, address) = match ip {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}

/// What to tell the kernel about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    /// Resolve it now, and keep it resolved where the kernel can (≥ 5.16; older ones ignore that part).
    Keep,
    /// Resolve it now.
    Once,
}

fn ask(socket: &mut rtnl::Socket, ifindex: u32, ip: IpAddr, ask: Ask) -> std::io::Result<()> {
    // The entry may be newer than our picture of it, and asking for a permanent one would damage it.
    if let Ok(Some(RouteNetlinkMessage::NewNeighbour(found))) =
        socket.get(RouteNetlinkMessage::GetNeighbour(message(ifindex, ip)))
        && decode(&found).is_some_and(|(_, n)| !n.is_ours_to_ask())
    {
        return Ok(());
    }
    let mut message = message(ifindex, ip);
    message.header.flags = NeighbourFlags::Use;
    if ask == Ask::Keep {
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    }
    socket.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
}

/// Asks the kernel to resolve a neighbour. It sends ARP or a neighbour solicitation and returns at once; the answer
/// shows up in the next [`NetState`].
pub fn resolve_soon(ifindex: u32, ip: IpAddr) -> Result<(), Error> {
    let what = || format!("ask for the MAC address of {ip} on interface {ifindex}");
    let mut socket = rtnl::Socket::open().map_err(Error::kernel(what()))?;
    ask(&mut socket, ifindex, ip, Ask::Once).map_err(Error::kernel(what()))
}

/// Asked for again after this long while it is not known. ARP itself gives up after three seconds.
const RETRY: Duration = Duration::from_secs(1);
/// Stale entries the kernel does not keep for us are checked this often; a fresh one goes stale after 15 to 45 s.
const RECHECK: Duration = Duration::from_secs(10);

/// Which neighbours to ask for, and when. Knows no clock and no kernel.
#[derive(Debug, Default)]
struct Plan {
    wanted: BTreeSet<(u32, IpAddr)>,
    asked: BTreeMap<(u32, IpAddr), Instant>,
}

impl Plan {
    /// Takes a new set; returns those that are not wanted any more.
    fn want(&mut self, wanted: BTreeSet<(u32, IpAddr)>) -> Vec<(u32, IpAddr)> {
        let gone = self.wanted.difference(&wanted).copied().collect();
        self.asked.retain(|key, _| wanted.contains(key));
        self.wanted = wanted;
        gone
    }

    /// Those to ask for now.
    fn due(&mut self, now: Instant, state: &NetState) -> Vec<(u32, IpAddr)> {
        let mut due = Vec::new();
        for key @ (ifindex, ip) in &self.wanted {
            if !state.link(*ifindex).is_some_and(|l| l.up && !l.no_arp) {
                continue;
            }
            let neighbour = state.neighbour(*ifindex, *ip);
            let asked = self.asked.get(key).copied();
            let pause = match neighbour {
                Some(n) if !n.is_ours_to_ask() => continue,
                // Being resolved, or just checked.
                Some(n) if n.managed && !n.is_failed() => continue,
                Some(n) if n.state & (INCOMPLETE | REACHABLE | DELAY | PROBE) != 0 && asked.is_some() => continue,
                Some(n) if n.state & STALE != 0 => RECHECK,
                _ => RETRY,
            };
            if asked.is_none_or(|at| now.duration_since(at) >= pause) {
                self.asked.insert(*key, now);
                due.push(*key);
            }
        }
        due
    }
}

/// Keeps a set of neighbours resolved, in a thread of its own. Dropping it lets go of them.
#[derive(Debug)]
pub struct Keeper {
    wanted: mpsc::Sender<BTreeSet<(u32, IpAddr)>>,
}

impl Keeper {
    /// Starts in the calling thread's network namespace.
    pub fn start(state: watch::Receiver<Arc<NetState>>) -> Result<Self, Error> {
        let mut socket = rtnl::Socket::open().map_err(Error::kernel("open a netlink socket"))?;
        let (wanted, changes) = mpsc::channel();
        let run = move || {
            let mut plan = Plan::default();
            loop {
                let gone = match changes.recv_timeout(RETRY) {
                    Ok(wanted) => plan.want(wanted),
                    Err(RecvTimeoutError::Timeout) => Vec::new(),
                    Err(RecvTimeoutError::Disconnected) => {
                        let rest = plan.want(BTreeSet::new());
                        let state = state.borrow().clone();
                        return let_go(&mut socket, &state, &rest);
                    }
                };
                let state = state.borrow().clone();
                let_go(&mut socket, &state, &gone);
                for (ifindex, ip) in plan.due(Instant::now(), &state) {
                    if let Err(error) = ask(&mut socket, ifindex, ip, Ask::Keep) {
                        tracing::debug!(ifindex, %ip, %error, "the kernel would not resolve a neighbour");
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("sluice-neigh".into())
            .spawn(run)
            .map_err(Error::kernel("start the thread that keeps neighbours"))?;
        Ok(Self { wanted })
    }

    /// The neighbours to keep from now on, as (interface, address).
    pub fn want(&self, wanted: BTreeSet<(u32, IpAddr)>) {
        // The thread ends only when this sender is dropped.
        let _ = self.wanted.send(wanted);
    }
}

/// Asking once without `NTF_EXT_MANAGED` is what takes that mark away.
fn let_go(socket: &mut rtnl::Socket, state: &NetState, gone: &[(u32, IpAddr)]) {
    for (ifindex, ip) in gone {
        if state.neighbour(*ifindex, *ip).is_some_and(|n| n.managed)
            && let Err(error) = ask(socket, *ifindex, *ip, Ask::Once)
        {
            tracing::debug!(ifindex, %ip, %error, "the kernel still keeps a neighbour nobody wants");
        }
    }
}
