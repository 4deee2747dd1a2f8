//! Tells the neighbours that an address is here: gratuitous ARP and unsolicited neighbour advertisements.
//!
//! Without it, whoever had the address's old MAC keeps sending there until its entry ages out. The traps: ARP
//! announcements are *requests* (RFC 5227 section 3: replies are ignored by some), and a neighbour advertisement
//! carries the *target* link-layer address option and counts only with hop limit 255 (RFC 4861 section 7.1.2).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Error, link};

/// How often each address is announced: networks lose packets. RFC 4861 section 7.2.6 allows three.
const TIMES: u32 = 3;
/// `RetransTimer` (RFC 4861 section 10); RFC 5227 asks for two seconds but for two announcements only.
const APART: Duration = Duration::from_secs(1);

const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ETH_ARP: u16 = 0x0806;
const ETH_IPV6: u16 = 0x86dd;

/// An ARP announcement (RFC 5227 section 3): a request for one's own address, to everyone. A whole frame.
///
/// ```text
/// ff:ff:ff:ff:ff:ff  our MAC  0806 | 0001 0800 06 04 0001 | our MAC  address | 0…0  address
/// ```
pub fn arp_frame(mac: [u8; 6], address: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[0..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETH_ARP.to_be_bytes());
    // Hardware Ethernet, protocol IPv4, their address lengths, operation request.
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    // The target's MAC stays zero: it is not looked at.
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861 section 7.2.6) to all nodes, flag override. A whole frame.
///
/// ```text
/// 33:33:00:00:00:01  our MAC  86dd | IPv6: next header 58, hop limit 255, from the address, to ff02::1
/// 88 00 checksum  20000000  address | option 2 (target link-layer address), length 1: our MAC
/// ```
pub fn advertisement_frame(mac: [u8; 6], address: Ipv6Addr) -> [u8; 86] {
    const ICMP: usize = 54;
    let mut frame = [0; 86];
    frame[0..6].copy_from_slice(&ALL_NODES_MAC);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETH_IPV6.to_be_bytes());
    frame[14] = 6 << 4;
    frame[18..20].copy_from_slice(&32u16.to_be_bytes());
    frame[20] = libc::IPPROTO_ICMPV6 as u8;
    frame[21] = 255;
    frame[22..38].copy_from_slice(&address.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());
    frame[ICMP] = 136;
    // Router 0, solicited 0, override 1.
    frame[ICMP + 4] = 0x20;
    frame[ICMP + 8..ICMP + 24].copy_from_slice(&address.octets());
    frame[ICMP + 24..ICMP + 26].copy_from_slice(&[2, 1]);
    frame[ICMP + 26..ICMP + 32].copy_from_slice(&mac);
    let checksum = icmpv6_checksum(address, ALL_NODES, &frame[ICMP..]);
    frame[ICMP + 2..ICMP + 4].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// RFC 4443 section 2.3: over a pseudo-header of both addresses, the length and the next header 58, and the message
/// with its checksum field zero.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words =
        |bytes: &[u8]| -> u32 { bytes.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum() };
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(message);
    sum += message.len() as u32 + libc::IPPROTO_ICMPV6 as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A socket that sends whole frames.
fn packet_socket() -> io::Result<OwnedFd> {
    // Protocol 0: it receives nothing.
    Ok(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?)
}

fn send(socket: &OwnedFd, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data; all zero is a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = ifindex as i32;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&frame[..6]);
    // SAFETY: both pointers are to live values of the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An address that is here, on this interface.
pub type Announcement = (u32, IpAddr);

/// What is still to be sent, and when. Knows no clock and no socket.
#[derive(Debug, Default)]
struct Schedule {
    /// (When, what, how often still).
    pending: Vec<(Instant, Announcement, u32)>,
}

impl Schedule {
    fn add(&mut self, now: Instant, announcements: BTreeSet<Announcement>) {
        self.cancel(&announcements);
        self.pending.extend(announcements.into_iter().map(|a| (now, a, TIMES)));
    }

    fn cancel(&mut self, announcements: &BTreeSet<Announcement>) {
        self.pending.retain(|(_, a, _)| !announcements.contains(a));
    }

    /// Those to send now.
    fn due(&mut self, now: Instant) -> Vec<Announcement> {
        let mut due = Vec::new();
        for (at, announcement, times) in &mut self.pending {
            if *at <= now {
                due.push(*announcement);
                *at = now + APART;
                *times -= 1;
            }
        }
        self.pending.retain(|(_, _, times)| *times > 0);
        due
    }

    /// How long nothing is to be done; `None` for as long as nothing is added.
    fn idle(&self, now: Instant) -> Option<Duration> {
        self.pending.iter().map(|(at, _, _)| at.saturating_duration_since(now)).min()
    }
}

enum Order {
    Announce(BTreeSet<Announcement>),
    Cancel(BTreeSet<Announcement>),
}

/// Announces addresses from a thread of its own, three times, a second apart.
#[derive(Debug)]
pub struct Announcer {
    orders: mpsc::Sender<Order>,
}

impl Announcer {
    /// Starts in the calling thread's network namespace.
    pub fn start() -> Result<Self, Error> {
        let socket = packet_socket().map_err(Error::kernel("open a packet socket (CAP_NET_RAW)"))?;
        let (orders, inbox) = mpsc::channel();
        std::thread::Builder::new()
            .name("sluice-announce".into())
            .spawn(move || run(&socket, &inbox))
            .map_err(Error::kernel("start the thread that announces addresses"))?;
        Ok(Self { orders })
    }

    /// Announces these, starting now.
    pub fn announce(&self, announcements: BTreeSet<Announcement>) {
        // The thread ends only when this sender is dropped.
        let _ = self.orders.send(Order::Announce(announcements));
    }

    /// Stops announcing these: they are not here any more.
    pub fn cancel(&self, announcements: BTreeSet<Announcement>) {
        let _ = self.orders.send(Order::Cancel(announcements));
    }
}

fn run(socket: &OwnedFd, inbox: &mpsc::Receiver<Order>) {
    let mut schedule = Schedule::default();
    loop {
        let order = match schedule.idle(Instant::now()) {
            Some(idle) => inbox.recv_timeout(idle),
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match order {
            Ok(Order::Announce(announcements)) => schedule.add(Instant::now(), announcements),
            Ok(Order::Cancel(announcements)) => schedule.cancel(&announcements),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let due = schedule.due(Instant::now());
        if due.is_empty() {
            continue;
        }
        // Read anew each time: a bond may have changed its MAC address since.
        let links = link::list().unwrap_or_default();
        for (ifindex, ip) in due {
            // On a link that is not running it is lost anyway; whoever manages the address announces it again.
            let link = links.iter().find(|l| l.index == ifindex && l.is_running());
            let Some(mac) = link.and_then(|l| l.mac) else { continue };
            let sent = match ip {
                IpAddr::V4(ip) => send(socket, ifindex, &arp_frame(mac, ip)),
                IpAddr::V6(ip) => send(socket, ifindex, &advertisement_frame(mac, ip)),
            };
            if let Err(error) = sent {
                tracing::warn!(%ip, ifindex, %error, "cannot announce an address; neighbours may not find it at once");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x2a];

    /// A checksum over a message that contains its checksum sums up to all ones.
    #[test]
    fn an_advertisement_carries_a_correct_checksum() {
        for last in [0u16, 1, 0xff, 0xffff] {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
            let frame = advertisement_frame(MAC, address);
            assert_eq!(icmpv6_checksum(address, ALL_NODES, &frame[54..]), 0, "{address}");
        }
    }

    #[test]
    fn each_address_is_announced_three_times_a_second_apart() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let a: Announcement = (1, IpAddr::from([192, 0, 2, 1]));
        let b: Announcement = (2, IpAddr::from([192, 0, 2, 2]));
        let mut schedule = Schedule::default();
        assert_eq!(schedule.idle(start), None);
        schedule.add(start, [a].into());
        assert_eq!(schedule.idle(start), Some(Duration::ZERO));
        assert_eq!(schedule.due(start), [a]);
        schedule.add(at(500), [b].into());
        assert_eq!(schedule.due(at(500)), [b]);
        assert_eq!(schedule.due(at(999)), []);
        assert_eq!(schedule.idle(at(999)), Some(Duration::from_millis(1)));
        assert_eq!(schedule.due(at(1000)), [a]);
        assert_eq!(schedule.due(at(1500)), [b]);
        // Gone again before its third time.
        schedule.cancel(&[b].into());
        assert_eq!(schedule.due(at(2000)), [a]);
        assert_eq!(schedule.idle(at(2000)), None);
    }

    #[test]
    fn an_address_added_again_starts_anew() {
        let start = Instant::now();
        let a: Announcement = (1, IpAddr::from([192, 0, 2, 1]));
        let mut schedule = Schedule::default();
        schedule.add(start, [a].into());
        schedule.due(start);
        schedule.add(start, [a].into());
        let mut times = 0;
        for second in 0..10 {
            times += schedule.due(start + Duration::from_secs(second)).len();
        }
        assert_eq!(times, 3);
    }
}
