//! Keeps a [`NetState`] current: dumps everything once, then follows the kernel's events.
//!
//! Three traps. Subscribe before dumping, or what changes in between is lost. The kernel says nothing when IPv4
//! routes vanish with their link or source address, so those events mean "read the tables again". And a host with a
//! full routing table must not keep a core busy: publishing is paced by what the last one cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::watch;

use super::route::{RouteEvent, RouteTable};
use super::rtnl::{Events, Message, Reading, Socket};
use super::state::NetState;
use super::{Error, addr, link, neigh, route};

/// Events that come together are published together.
const COALESCE: Duration = Duration::from_millis(30);
/// The first event after a quiet time is not kept waiting: it is often the neighbour that the next packet goes to.
const SETTLE: Duration = Duration::from_millis(1);
/// A publication may cost at most this part of the time: one in five.
const PACE: u32 = 4;
/// Everything is read again this often, whatever the events said; less often where reading takes more than a
/// hundredth of that.
const RESYNC: Duration = Duration::from_secs(30);
/// How often to look whether anybody still listens.
const IDLE: Duration = Duration::from_secs(1);
/// Room for unread events: about 20,000 neighbour changes.
const RECEIVE_BUFFER: usize = 8 << 20;

/// `RTNLGRP_*` (linux/rtnetlink.h): link, neigh, IPv4 address, route and rule, IPv6 address, route and rule, next hop.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];

const RTM_NEWLINK: u16 = libc::RTM_NEWLINK;
const RTM_DELLINK: u16 = libc::RTM_DELLINK;
const RTM_NEWNEIGH: u16 = libc::RTM_NEWNEIGH;
const RTM_DELNEIGH: u16 = libc::RTM_DELNEIGH;
const RTM_NEWROUTE: u16 = libc::RTM_NEWROUTE;
const RTM_DELROUTE: u16 = libc::RTM_DELROUTE;

/// Watches the host's network from a thread of its own.
#[derive(Debug)]
pub struct Watcher;

impl Watcher {
    /// Reads everything, then follows changes, in the calling thread's network namespace. Ends when the last receiver
    /// is gone.
    pub fn start() -> Result<watch::Receiver<Arc<NetState>>, Error> {
        Self::start_with("sluice-net", RECEIVE_BUFFER)
    }

    /// [`Self::start`] with a name for the thread and room for `receive_buffer` bytes of unread events.
    pub fn start_with(name: &str, receive_buffer: usize) -> Result<watch::Receiver<Arc<NetState>>, Error> {
        let mut follower = Follower {
            events: Events::subscribe(&GROUPS, receive_buffer)
                .map_err(Error::kernel("subscribe to changes of the network"))?,
            socket: Socket::open().map_err(Error::kernel("open a netlink socket"))?,
            state: NetState::default(),
            stale: false,
        };
        follower.dump().map_err(Error::kernel("read the host's network configuration"))?;
        let (sender, receiver) = watch::channel(Arc::new(follower.state.clone()));
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || follower.run(&sender))
            .map_err(Error::kernel("start the thread that watches the network"))?;
        Ok(receiver)
    }
}

struct Follower {
    events: Events,
    socket: Socket,
    state: NetState,
    /// The events so far do not tell what the kernel's tables look like now.
    stale: bool,
}

impl Follower {
    fn run(mut self, sender: &watch::Sender<Arc<NetState>>) {
        let mut dumped = Instant::now();
        let mut resync = RESYNC;
        let mut pause = COALESCE;
        let mut published = dumped;
        // When to publish what has changed.
        let mut publish: Option<Instant> = None;
        while !sender.is_closed() {
            let wait = publish.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
            match self.follow(wait) {
                Ok(true) => _ = publish.get_or_insert((Instant::now() + SETTLE).max(published + pause)),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot read the kernel's network events; reading everything again");
                    self.stale = true;
                    publish.get_or_insert(Instant::now() + IDLE);
                    std::thread::sleep(COALESCE);
                }
            }
            if dumped.elapsed() >= resync {
                self.stale = true;
                publish.get_or_insert_with(Instant::now);
            }
            if publish.is_none_or(|at| Instant::now() < at) {
                continue;
            }
            publish = None;
            let started = Instant::now();
            if self.stale {
                match self.dump() {
                    Ok(()) => (dumped, resync) = (Instant::now(), RESYNC.max(started.elapsed() * 100)),
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the host's network configuration; trying again");
                        publish = Some(Instant::now() + IDLE);
                        continue;
                    }
                }
            }
            sender.send_if_modified(|current| {
                let changed = **current != self.state;
                if changed {
                    *current = Arc::new(self.state.clone());
                }
                changed
            });
            published = Instant::now();
            pause = COALESCE.max((published - started) * PACE);
        }
    }

    /// Waits for events and takes them over. True when there were any that matter.
    fn follow(&mut self, wait: Duration) -> std::io::Result<bool> {
        if !self.events.wait(wait)? {
            return Ok(false);
        }
        let Self { events, state, stale, .. } = self;
        let mut matters = false;
        let reading = events.read(|message| match apply(state, message) {
            Effect::None => {}
            Effect::Applied => matters = true,
            Effect::ReadAgain => (matters, *stale) = (true, true),
        })?;
        if reading == Reading::Overrun {
            tracing::info!("the kernel's network events came faster than they could be read; reading everything again");
            (matters, *stale) = (true, true);
        }
        Ok(matters)
    }

    fn dump(&mut self) -> std::io::Result<()> {
        self.state = read(&mut self.socket)?;
        self.stale = false;
        Ok(())
    }
}

/// Reads everything from the kernel.
fn read(socket: &mut Socket) -> std::io::Result<NetState> {
    let links = link::dump(socket)?.into_iter().map(|l| (l.index, l)).collect();
    let addresses = addr::dump(socket)?;
    let mut tables = <[[RouteTable; 3]; 2]>::default();
    for (table, prefix, route) in route::dump(socket)? {
        tables[usize::from(prefix.address.is_ipv6())][table as usize].insert(prefix, route);
    }
    Ok(NetState {
        links: Arc::new(links),
        addresses: Arc::new(addresses),
        tables: Arc::new(tables),
        neighbours: Arc::new(neigh::dump(socket)?),
        policy_rules: [policy_rules(socket, AddressFamily::Inet)?, policy_rules(socket, AddressFamily::Inet6)?],
    })
}

/// The state as it is now, for commands that look once.
pub fn snapshot() -> Result<NetState, Error> {
    let mut socket = Socket::open().map_err(Error::kernel("open a netlink socket"))?;
    read(&mut socket).map_err(Error::kernel("read the host's network configuration"))
}

/// What one event did to the state.
enum Effect {
    None,
    Applied,
    ReadAgain,
}

fn apply(state: &mut NetState, message: Message<'_>) -> Effect {
    match message.kind {
        // Cards report much that is nothing to us, some of it every second.
        RTM_NEWLINK => match link::decode(message.payload()) {
            Some(link) if state.link(link.index) == Some(&link) => Effect::None,
            Some(_) => Effect::ReadAgain,
            None => Effect::None,
        },
        // A bridge port that leaves is reported like a link that is gone, in family AF_BRIDGE.
        RTM_DELLINK => match link::decode(message.payload()) {
            Some(_) => Effect::ReadAgain,
            None => Effect::None,
        },
        RTM_NEWNEIGH | RTM_DELNEIGH => match message.parse() {
            Some(RouteNetlinkMessage::NewNeighbour(m)) => neigh::decode(&m).map_or(Effect::None, |(key, neighbour)| {
                if state.neighbour(key.0, key.1) == Some(&neighbour) {
                    return Effect::None;
                }
                state.insert_neighbour(key.0, key.1, neighbour);
                Effect::Applied
            }),
            Some(RouteNetlinkMessage::DelNeighbour(m)) => {
                neigh::decode(&m).map_or(Effect::None, |(key, _)| match state.neighbours.contains_key(&key) {
                    true => {
                        Arc::make_mut(&mut state.neighbours).remove(&key);
                        Effect::Applied
                    }
                    false => Effect::None,
                })
            }
            _ => Effect::ReadAgain,
        },
        RTM_NEWROUTE | RTM_DELROUTE => {
            let event = match message.parse() {
                Some(RouteNetlinkMessage::NewRoute(m)) => route::decode_event(false, message.flags, &m),
                Some(RouteNetlinkMessage::DelRoute(m)) => route::decode_event(true, message.flags, &m),
                _ => return Effect::ReadAgain,
            };
            event.map_or(Effect::None, |event| apply_route(state, &event))
        }
        // Addresses: IPv4 routes that prefer one as their source go with it, in silence, and order matters. Rules and
        // next hop objects: rare, and they touch everything.
        _ => Effect::ReadAgain,
    }
}

fn apply_route(state: &mut NetState, event: &RouteEvent) -> Effect {
    let family = usize::from(event.prefix.address.is_ipv6());
    match Arc::make_mut(&mut state.tables)[family][event.table as usize].apply(event) {
        true => Effect::Applied,
        false => Effect::ReadAgain,
    }
}

/// Whether a family has policy rules besides the kernel's own.
fn policy_rules(socket: &mut Socket, family: AddressFamily) -> std::io::Result<bool> {
    let standard: &[(u32, u32)] = match family {
        AddressFamily::Inet => &[(0, 255), (32766, 254), (32767, 253)],
        _ => &[(0, 255), (32766, 254)],
    };
    let mut request = RuleMessage::default();
    request.header.family = family;
    let rules = socket.dump(&RouteNetlinkMessage::GetRule(request), |m| {
        Some(match m.parse() {
            Some(RouteNetlinkMessage::NewRule(rule)) => plain_rule(&rule),
            _ => None,
        })
    });
    let rules = match rules {
        Ok(rules) => rules,
        // A kernel without policy routing, or without this family, has no rules to list.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => return Ok(false),
        Err(e) => return Err(e),
    };
    let mut plain: Vec<(u32, u32)> = rules.iter().copied().flatten().collect();
    plain.sort_unstable();
    Ok(rules.len() != plain.len() || plain != standard)
}

/// (Priority, table) of a rule that sends everything to one table; `None` for any other.
fn plain_rule(rule: &RuleMessage) -> Option<(u32, u32)> {
    let header = &rule.header;
    let unconditional = header.src_len == 0 && header.dst_len == 0 && header.tos == 0;
    if !unconditional || header.action != RuleAction::ToTable || header.flags.contains(RuleFlags::Invert) {
        return None;
    }
    let (mut priority, mut table) = (0, u32::from(header.table));
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(p) => priority = *p,
            RuleAttribute::Table(t) => table = *t,
            RuleAttribute::Protocol(_) => {}
            // All ones: nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            _ => return None,
        }
    }
    Some((priority, table))
}
