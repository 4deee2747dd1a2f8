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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// Resolve it now, and keep it resolved where the kernel can (≥ 5.16; older ones ignore that part).
    Keep,
    /// Resolve it now.
    Once,
    /// Do not keep it resolved any more: asking without `NTF_EXT_MANAGED` takes that mark away.
    LetGo,
}

fn ask(socket: &mut rtnl::Socket, ifindex: u32, ip: IpAddr, ask: Ask) -> std::io::Result<()> {
    // The entry may be newer than our picture of it, and asking for a permanent one would damage it.
    let found = match socket.get(RouteNetlinkMessage::GetNeighbour(message(ifindex, ip))) {
        Ok(Some(RouteNetlinkMessage::NewNeighbour(found))) => decode(&found).map(|(_, n)| n),
        // Not there; or a kernel too old to look up just one (< 5.0).
        _ => None,
    };
    let pointless = match found {
        Some(n) => !n.is_ours_to_ask() || ask == Ask::LetGo && !n.managed,
        None => ask == Ask::LetGo,
    };
    if pointless {
        return Ok(());
    }
    let mut message = message(ifindex, ip);
    message.header.flags = NeighbourFlags::Use;
    if ask == Ask::Keep {
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    }
    let flags = if ask == Ask::LetGo { 0 } else { NLM_F_CREATE };
    socket.request(RouteNetlinkMessage::NewNeighbour(message), flags)
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
            let mut each = |keys: Vec<(u32, IpAddr)>, what: Ask| {
                for (ifindex, ip) in keys {
                    if let Err(error) = ask(&mut socket, ifindex, ip, what) {
                        tracing::debug!(ifindex, %ip, ?what, %error, "the kernel refuses a request for a neighbour");
                    }
                }
            };
            loop {
                match changes.recv_timeout(RETRY) {
                    Ok(wanted) => each(plan.want(wanted), Ask::LetGo),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return each(plan.want(BTreeSet::new()), Ask::LetGo),
                }
                let state = state.borrow().clone();
                each(plan.due(Instant::now(), &state), Ask::Keep);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::Link;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn state(entry: Option<Neighbour>) -> NetState {
        let mut state = NetState::default();
        state.insert_link(Link::ethernet(1, "eth0", MAC));
        if let Some(entry) = entry {
            state.insert_neighbour(1, ip(), entry);
        }
        state
    }

    fn ip() -> IpAddr {
        [192, 0, 2, 1].into()
    }

    fn entry(state: u16, managed: bool) -> Option<Neighbour> {
        Some(Neighbour { mac: (state & VALID != 0).then_some(MAC), state, managed, learned: false })
    }

    /// At which seconds of a minute it is asked for, with an entry that stays as it is.
    #[test]
    fn each_state_is_asked_for_as_often_as_it_needs() {
        let every = |n: usize| (0..60).step_by(n).collect::<Vec<u64>>();
        for (what, entry, expected) in [
            ("unknown", None, every(1)),
            ("failed", entry(FAILED, false), every(1)),
            ("failed, though the kernel tries", entry(FAILED, true), every(1)),
            ("being resolved", entry(INCOMPLETE, false), vec![0]),
            ("fresh: once, so that the kernel keeps it", entry(REACHABLE, false), vec![0]),
            ("fresh and kept", entry(REACHABLE, true), vec![]),
            ("stale and kept: the kernel checks it", entry(STALE, true), vec![]),
            ("stale on a kernel that keeps none", entry(STALE, false), every(10)),
            ("set by hand", entry(PERMANENT, false), vec![]),
            ("not resolved on this link", entry(NOARP, false), vec![]),
            ("learned by a control plane", entry(STALE, false).map(|n| Neighbour { learned: true, ..n }), vec![]),
        ] {
            let (start, state) = (Instant::now(), state(entry));
            let mut plan = Plan::default();
            plan.want([(1, ip())].into());
            let asked: Vec<u64> =
                (0..60).filter(|s| !plan.due(start + Duration::from_secs(*s), &state).is_empty()).collect();
            assert_eq!(asked, expected, "{what}");
        }
    }

    #[test]
    fn nothing_is_asked_on_a_link_that_is_down_or_gone() {
        let mut down = state(None);
        down.insert_link(Link { up: false, ..Link::ethernet(1, "eth0", MAC) });
        for state in [down, NetState::default()] {
            let mut plan = Plan::default();
            plan.want([(1, ip())].into());
            assert_eq!(plan.due(Instant::now(), &state), []);
        }
    }

    #[test]
    fn what_is_not_wanted_any_more_is_let_go_once() {
        let mut plan = Plan::default();
        let other: IpAddr = [192, 0, 2, 2].into();
        assert_eq!(plan.want([(1, ip()), (1, other)].into()), []);
        assert_eq!(plan.want([(1, other)].into()), [(1, ip())]);
        assert_eq!(plan.want([(1, other)].into()), []);
    }

    #[test]
    fn a_mac_is_usable_in_the_states_the_kernel_would_send_in() {
        for (state, usable) in [
            (REACHABLE, true),
            (STALE, true),
            (DELAY, true),
            (PROBE, true),
            (PERMANENT, true),
            (NOARP, true),
            (INCOMPLETE, false),
            (FAILED, false),
            (0, false),
        ] {
            let neighbour = Neighbour { mac: Some(MAC), state, managed: false, learned: false };
            assert_eq!(neighbour.usable_mac().is_some(), usable, "state {state:#x}");
        }
    }
}
