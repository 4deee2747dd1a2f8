//! The `net` module against a real kernel, in network namespaces of its own.
//!
//! Each namespace belongs to one thread that made it with `unshare`; what it runs, and every thread and program
//! started from it, lives there. Nothing has a name, so nothing is left behind: a namespace ends with its thread.
//! This kernel may have no dummy devices; everything is veth.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use sluice::net::announce::{advertisement_frame, arp_frame};
use sluice::net::neigh::{self, Keeper};
use sluice::net::route::{self, Answer};
use sluice::net::state::{NetState, Resolution, RouteView};
use sluice::net::vip::{self, VipManager};
use sluice::net::watch::{self, Watcher};
use sluice::net::{Error, link};
use tokio::sync::watch::Receiver;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, and the thread that is in it.
struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Where `ip link set … netns` finds it.
    path: String,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (made, path) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let outcome = unshare(CloneFlags::CLONE_NEWNET).map(|()| {
                // SAFETY: gettid has no arguments and cannot fail.
                format!("/proc/{}/task/{}/ns/net", std::process::id(), unsafe { libc::gettid() })
            });
            let ok = outcome.is_ok();
            let _ = made.send(outcome);
            if ok {
                ip("link set lo up");
                inbox.into_iter().for_each(|job| job());
            }
        });
        let path = path.recv().expect("the namespace's thread answers");
        let path = path.expect("a network namespace can be made (needs root)");
        Self { jobs: Some(jobs), thread: Some(thread), path }
    }

    /// Runs `f` in the namespace; panics go through.
    fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, outcome) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = answer.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)));
        });
        self.jobs.as_ref().expect("it is not dropped").send(job).expect("the thread runs");
        match outcome.recv().expect("the thread answers") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn ip(&self, commands: &'static str) {
        self.run(move || commands.split(';').map(str::trim).filter(|c| !c.is_empty()).for_each(ip));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `ip` with these arguments, in the calling thread's namespace.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn sysctl(key: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap_or_else(|e| panic!("sysctl {key}: {e}"));
}

const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A host and a peer with a cable between them: `h0` (10.0.0.1/24, fd00:1::1/64) and `p0` (.2, ::2).
fn host_and_peer() -> (Namespace, Namespace) {
    let (host, peer) = (Namespace::new(), Namespace::new());
    cable(&host, &peer, "h0", "p0");
    host.ip("link set h0 address 02:00:00:00:00:01; addr add 10.0.0.1/24 dev h0; addr add fd00:1::1/64 dev h0 nodad");
    peer.ip("link set p0 address 02:00:00:00:00:02; addr add 10.0.0.2/24 dev p0; addr add fd00:1::2/64 dev p0 nodad");
    (host, peer)
}

fn cable(host: &Namespace, peer: &Namespace, here: &'static str, there: &'static str) {
    let path = peer.path.clone();
    host.run(move || {
        // No duplicate address detection: link-local addresses are there at once.
        sysctl("ipv6/conf/default/accept_dad", "0");
        ip(&format!("link add {here} type veth peer name {there} netns {path}"));
    });
    peer.run(move || sysctl("ipv6/conf/default/accept_dad", "0"));
    for (namespace, name) in [(host, here), (peer, there)] {
        namespace.run(move || {
            sysctl(&format!("ipv6/conf/{name}/accept_dad"), "0");
            ip(&format!("link set {name} up"));
        });
    }
}

fn index(name: &str) -> u32 {
    link::by_name(name).expect("the interface exists").index
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is an address"))
}

fn addrs(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|t| addr(t)).collect()
}

fn now() -> NetState {
    watch::snapshot().expect("the state can be read")
}

/// Waits for what should come soon.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(8);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 8 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the watcher's state fulfils something.
fn sees(state: &Receiver<Arc<NetState>>, what: &str, holds: impl Fn(&NetState) -> bool) {
    eventually(what, || holds(&state.borrow().clone()));
}

fn run_dir() -> tempdir::Dir {
    tempdir::Dir::new()
}

mod tempdir {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory that goes away again.
    pub struct Dir(PathBuf);

    impl Dir {
        pub fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("sluice-net-{}-{n}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a temporary directory can be made");
            Self(path)
        }

        pub fn path(&self) -> PathBuf {
            self.0.clone()
        }
    }

    impl AsRef<Path> for Dir {
        fn as_ref(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// The source the kernel puts on a connection, by making one.
fn source_of_socket(destination: IpAddr) -> IpAddr {
    let any: SocketAddr = if destination.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("an address");
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.connect((destination, 9)).expect("there is a route");
    socket.local_addr().expect("a connected socket has an address").ip()
}

#[test]
#[ignore = "needs root"]
fn the_interface_of_the_default_route_is_found() {
    let ns = Namespace::new();
    let name = || watch::snapshot().expect("the network is read").default_route().map(|link| link.name.clone());
    assert_eq!(ns.run(name), None);
    ns.ip("link add wan0 type veth peer name wan1; link set wan0 up; link set wan1 up; addr add 192.0.2.2/24 dev wan0");
    assert_eq!(ns.run(name), None, "a link is no default route");
    ns.ip("route add default via 192.0.2.1");
    assert_eq!(ns.run(name).as_deref(), Some("wan0"));
}

#[test]
#[ignore = "needs root"]
fn a_vip_is_never_chosen_as_source() {
    let (host, peer) = host_and_peer();
    // A client that shares a longer prefix with the VIP than with the host's own address: RFC 6724 rule 8 would
    // prefer the VIP.
    peer.ip("addr add fd00:1::fe/64 dev p0 nodad; route add default via 10.0.0.1; route add default via fd00:1::1");
    // And a link without addresses of its own but for the VIPs: an address of wider scope would be taken from there.
    cable(&host, &peer, "h1", "p1");
    host.ip("route add default via 10.0.0.2; route add default via fd00:1::2; route add 192.0.2.0/24 dev h1;
         -6 route add 2001:db8:2::/48 dev h1");
    let dir = run_dir();
    let path = dir.path();
    let vips = addrs(&["203.0.113.10", "10.0.0.100", "2001:db8::10", "fd00:1::ff"]);
    let wanted = vips.clone();
    let _manager = host.run(move || {
        let mut manager = VipManager::open(&path).expect("it opens");
        manager.set(&[index("h1"), index("h0")], wanted).expect("the VIPs can be added");
        manager
    });
    let listener = peer.run(|| TcpListener::bind("[::]:8080").expect("a listener"));
    host.run(move || {
        let state = now();
        for destination in ["10.0.0.2", "10.0.0.99", "8.8.8.8", "203.0.113.11", "192.0.2.1"] {
            let destination = addr(destination);
            assert_eq!(source_of_socket(destination), addr("10.0.0.1"), "to {destination}");
            assert_eq!(state.source_for(destination), Some(addr("10.0.0.1")), "to {destination}");
        }
        for destination in ["fd00:1::2", "fd00:1::fe", "2001:db8::11", "2001:db8:1::1", "2001:db8:2::1"] {
            let destination = addr(destination);
            assert_eq!(source_of_socket(destination), addr("fd00:1::1"), "to {destination}");
            assert_eq!(state.source_for(destination), Some(addr("fd00:1::1")), "to {destination}");
        }
        for vip in &vips {
            assert!(state.local_addresses().any(|ip| ip == *vip), "{vip} is on the host");
            // The kernel adds an IPv6 address's local route from a work queue.
            eventually("the VIP is local", || now().resolve(*vip) == Resolution::Local);
        }
        // Real connections, as the peer sees them.
        for destination in ["10.0.0.2", "fd00:1::fe"] {
            let _client = TcpStream::connect((addr(destination), 8080)).expect("the peer accepts");
            let (_, from) = listener.accept().expect("a connection arrives");
            let from = from.ip().to_canonical();
            assert!(!vips.contains(&from), "the peer was reached from {from}");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn neighbours_ask_for_a_vip_and_are_answered_on_every_interface() {
    let (host, peer) = host_and_peer();
    // A second cable; the IPv4 VIP is on the first interface only.
    cable(&host, &peer, "h1", "p1");
    host.ip("link set h1 address 02:00:00:00:01:01; addr add 10.0.1.1/24 dev h1");
    peer.ip("addr add 10.0.1.2/24 dev p1");
    let dir = run_dir();
    let path = dir.path();
    let _manager = host.run(move || {
        let mut manager = VipManager::open(&path).expect("it opens");
        manager.set(&[index("h0"), index("h1")], addrs(&["203.0.113.10", "2001:db8::10"])).expect("they can be added");
        manager
    });
    host.run(|| {
        let state = now();
        let on = |vip: &str| -> Vec<u32> {
            state.addresses().iter().filter(|a| a.ip == addr(vip)).map(|a| a.ifindex).collect()
        };
        assert_eq!(on("203.0.113.10"), [index("h0")], "IPv4 on the first interface");
        assert_eq!(on("2001:db8::10"), [index("h0"), index("h1")], "IPv6 on each");
    });
    peer.run(|| {
        let state = Watcher::start().expect("it starts");
        for (name, mac) in [("p0", HOST_MAC), ("p1", [2, 0, 0, 0, 1, 1])] {
            for vip in ["203.0.113.10", "2001:db8::10"] {
                let (ifindex, vip) = (index(name), addr(vip));
                // The announcements may have told already; this asks again.
                ip(&format!("neigh flush dev {name}"));
                neigh::resolve_soon(ifindex, vip).expect("the kernel takes the request");
                sees(&state, &format!("{vip} answers on {name}"), |s| {
                    s.neighbour(ifindex, vip).and_then(|n| n.usable_mac()) == Some(mac)
                });
            }
        }
    });
}

/// Frames as they arrive in the calling thread's namespace, with when.
fn capture(
    duration: Duration,
    ready: &mpsc::Sender<()>,
    interesting: impl Fn(&[u8]) -> bool,
) -> Vec<(Duration, Vec<u8>)> {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;

    let tap =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll).expect("CAP_NET_RAW");
    setsockopt(&tap, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(0, 20_000)).expect("a timeout");
    // Frames wait in the socket from now on.
    ready.send(()).expect("the test waits");
    let start = Instant::now();
    let mut frames = Vec::new();
    let mut buffer = [0; 2048];
    while start.elapsed() < duration {
        if let Ok(n) = recv(tap.as_raw_fd(), &mut buffer, MsgFlags::empty())
            && interesting(&buffer[..n])
        {
            frames.push((start.elapsed(), buffer[..n].to_vec()));
        }
    }
    frames
}

#[test]
#[ignore = "needs root"]
fn a_new_vip_is_announced_three_times() {
    let (host, peer) = host_and_peer();
    let (ready, go) = mpsc::channel();
    let dir = run_dir();
    let path = dir.path();
    let frames = std::thread::scope(|scope| {
        let tap = scope.spawn(|| {
            peer.run(move || {
                // Sent by the host, and ARP or an advertisement: the two kernels talk about other things as well.
                capture(Duration::from_millis(3500), &ready, |f| {
                    f[6..12] == HOST_MAC
                        && (f[12..14] == [8, 6] || f[12..14] == [0x86, 0xdd] && f[20] == 58 && f[54] == 136)
                })
            })
        });
        go.recv().expect("the capture starts");
        std::thread::sleep(Duration::from_millis(100));
        host.run(move || {
            let started = Instant::now();
            let mut manager = VipManager::open(&path).expect("it opens");
            let wanted = addrs(&["203.0.113.10", "2001:db8::10"]);
            manager.set(&[index("h0")], wanted.clone()).expect("they can be added");
            assert!(started.elapsed() < Duration::from_millis(900), "announcing does not hold anybody up");
            // Setting what is there already announces nothing.
            manager.set(&[index("h0")], wanted).expect("nothing is to be done");
            std::thread::sleep(Duration::from_secs(3));
        });
        tap.join().expect("the capture ends")
    });

    // RFC 5227 section 3 and RFC 4861 section 7.2.6, written out.
    let arp: &[u8] = &[
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, // broadcast, from us, ARP
        0, 1, 8, 0, 6, 4, 0, 1, // Ethernet, IPv4, request
        2, 0, 0, 0, 0, 1, 203, 0, 113, 10, // sender
        0, 0, 0, 0, 0, 0, 203, 0, 113, 10, // target
    ];
    let advertisement: &[u8] = &[
        0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, // all nodes, from us, IPv6
        0x60, 0, 0, 0, 0, 32, 58, 255, // 32 bytes of ICMPv6, hop limit 255
        0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, // from the VIP
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // to ff02::1
        136, 0, 0xf9, 0x0c, 0x20, 0, 0, 0, // advertisement, checksum, override
        0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, // target
        2, 1, 2, 0, 0, 0, 0, 1, // target link-layer address
    ];
    for (what, expected) in [("ARP", arp), ("advertisement", advertisement)] {
        let seen: Vec<_> = frames.iter().filter(|(_, f)| f.starts_with(&expected[..14])).collect();
        assert_eq!(seen.len(), 3, "{what}: {seen:02x?}");
        for (_, frame) in &seen {
            assert_eq!(frame, expected, "{what}:\n got {frame:02x?}\nwant {expected:02x?}");
        }
        for pair in seen.windows(2) {
            let apart = pair[1].0 - pair[0].0;
            assert!(
                (Duration::from_millis(800)..Duration::from_millis(1600)).contains(&apart),
                "{what}: {apart:?} apart"
            );
        }
    }
}

fn on_host(state: &NetState) -> BTreeSet<IpAddr> {
    state.local_addresses().collect()
}

#[test]
#[ignore = "needs root"]
fn only_what_we_added_is_ever_removed() {
    let (host, _peer) = host_and_peer();
    // Two VIPs that somebody configured already, one of them looking much like ours.
    host.ip("addr add 203.0.113.10/32 dev lo; addr add 2001:db8::10/128 dev h0 nodad");
    let dir = run_dir();
    let path = dir.path();
    host.run(move || {
        let before = on_host(&now());
        let mut manager = VipManager::open(&path).expect("it opens");
        let h0 = index("h0");
        let vips = addrs(&["203.0.113.10", "203.0.113.11", "2001:db8::10", "2001:db8::11"]);
        manager.set(&[h0], vips).expect("they can be added");
        let owned: BTreeSet<IpAddr> = manager.owned().map(|(_, ip)| ip).collect();
        assert_eq!(owned, addrs(&["203.0.113.11", "2001:db8::11"]), "what was there is not ours");
        // One VIP less.
        manager.set(&[h0], addrs(&["203.0.113.10", "203.0.113.11", "2001:db8::10"])).expect("one can be removed");
        assert!(!on_host(&now()).contains(&addr("2001:db8::11")));
        manager.clear().expect("the rest can be removed");
        assert_eq!(on_host(&now()), before);
        assert!(!path.join("vips.json").exists(), "nothing is remembered");
    });
}

#[test]
#[ignore = "needs root"]
fn a_start_after_a_crash_knows_its_addresses_again() {
    let (host, _peer) = host_and_peer();
    let dir = run_dir();
    let path = dir.path();
    host.run(move || {
        let h0 = index("h0");
        let mut manager = VipManager::open(&path).expect("it opens");
        let vips = addrs(&["203.0.113.10", "203.0.113.11", "203.0.113.12", "2001:db8::10"]);
        manager.set(&[h0], vips).expect("they can be added");
        // Killed: nothing is cleaned up, and meanwhile the administrator replaces two VIPs by addresses of his own.
        drop(manager);
        ip("addr del 203.0.113.11/32 dev h0");
        ip("addr add 203.0.113.11/24 dev h0");
        ip("addr del 203.0.113.12/32 dev h0");
        ip("addr add 203.0.113.12/32 dev h0 scope host");
        assert!(on_host(&now()).contains(&addr("203.0.113.10")), "the VIPs stay while nobody runs");

        let mut manager = VipManager::open(&path).expect("it opens again");
        let owned: BTreeSet<IpAddr> = manager.owned().map(|(_, ip)| ip).collect();
        assert_eq!(owned, addrs(&["203.0.113.10", "2001:db8::10"]), "the others are not ours any more");
        manager.set(&[h0], addrs(&["203.0.113.10"])).expect("one leftover is removed");
        let present = on_host(&now());
        assert!(present.contains(&addr("203.0.113.10")) && !present.contains(&addr("2001:db8::10")));
        manager.clear().expect("all are removed");
        let present = on_host(&now());
        assert!(
            !present.contains(&addr("203.0.113.10")) && present.is_superset(&addrs(&["203.0.113.11", "203.0.113.12"]))
        );
    });
}

#[test]
#[ignore = "needs root"]
fn a_vip_that_cannot_be_added_leaves_everything_as_it_was() {
    let (host, _peer) = host_and_peer();
    let dir = run_dir();
    let path = dir.path();
    host.run(move || {
        let h0 = index("h0");
        let mut manager = VipManager::open(&path).expect("it opens");
        manager.set(&[h0], addrs(&["203.0.113.10"])).expect("it can be added");
        sysctl("ipv6/conf/h0/disable_ipv6", "1");
        let before = on_host(&now());
        let error = manager.set(&[h0], addrs(&["203.0.113.11", "2001:db8::10"])).expect_err("there is no IPv6 here");
        let text = error.to_string();
        assert!(text.contains("2001:db8::10") && text.contains("h0") && text.contains("disable_ipv6"), "{text}");
        assert_eq!(on_host(&now()), before);
        manager.clear().expect("what is ours is still known");
        assert!(!on_host(&now()).contains(&addr("203.0.113.10")));

        let error = manager.set(&[9999], addrs(&["203.0.113.10"])).expect_err("there is no such interface");
        assert_eq!(error.errno(), Some(libc::ENODEV), "{error}");
    });
}

#[test]
#[ignore = "needs root"]
fn vips_that_go_with_their_interface_come_back_with_it() {
    let (host, _peer) = host_and_peer();
    let dir = run_dir();
    let path = dir.path();
    host.run(move || {
        let h0 = index("h0");
        let state = Watcher::start().expect("it starts");
        let mut manager = VipManager::open(&path).expect("it opens");
        let vips = addrs(&["203.0.113.10", "2001:db8::10"]);
        manager.set(&[h0], vips.clone()).expect("they can be added");
        ip("link set h0 down");
        sees(&state, "the IPv6 VIP goes", |s| !on_host(s).contains(&addr("2001:db8::10")));
        manager.refresh(&state.borrow().clone()).expect("nothing can be done, and nothing is wrong");
        ip("link set h0 up");
        sees(&state, "the link comes back", |s| s.link(h0).is_some_and(|l| l.up));
        manager.refresh(&state.borrow().clone()).expect("it can be added again");
        assert!(on_host(&now()).is_superset(&vips));
        let owned: BTreeSet<IpAddr> = manager.owned().map(|(_, ip)| ip).collect();
        assert_eq!(owned, vips);
    });
}

#[test]
#[ignore = "needs root"]
fn vips_are_announced_on_every_interface_and_again_when_one_comes_back() {
    let (host, peer) = host_and_peer();
    cable(&host, &peer, "h1", "p1");
    host.ip("link set h1 address 02:00:00:00:01:01");
    let (ready, go) = mpsc::channel();
    let dir = run_dir();
    let path = dir.path();
    let frames = std::thread::scope(|scope| {
        let tap = scope.spawn(|| {
            peer.run(move || {
                // ARP requests in which the VIP asks for itself.
                let vip: &[u8] = &[203, 0, 113, 10];
                capture(Duration::from_secs(6), &ready, |f| {
                    f[12..14] == [8, 6] && f[28..32] == *vip && f[38..42] == *vip
                })
            })
        });
        go.recv().expect("the capture starts");
        let manager = host.run(move || {
            let state = Watcher::start().expect("it starts");
            let mut manager = VipManager::open(&path).expect("it opens");
            let (h0, h1) = (index("h0"), index("h1"));
            manager.set(&[h0, h1], addrs(&["203.0.113.10"])).expect("it can be added");
            std::thread::sleep(Duration::from_millis(300));
            ip("link set h1 down");
            sees(&state, "the link goes", |s| !s.link(h1).is_some_and(|l| l.is_running()));
            manager.refresh(&state.borrow().clone()).expect("nothing is to be done");
            // The first round is over by then.
            std::thread::sleep(Duration::from_millis(2500));
            ip("link set h1 up");
            sees(&state, "the link comes back", |s| s.link(h1).is_some_and(|l| l.is_running()));
            manager.refresh(&state.borrow().clone()).expect("it is announced again");
            manager
        });
        let frames = tap.join().expect("the capture ends");
        drop(manager);
        frames
    });
    let from = |mac: [u8; 6]| frames.iter().filter(|(_, f)| f[6..12] == mac).map(|(at, _)| *at).collect::<Vec<_>>();
    assert_eq!(from(HOST_MAC).len(), 3, "on the first interface: {frames:02x?}");
    let second = from([2, 0, 0, 0, 1, 1]);
    assert!(second.first().is_some_and(|at| *at < Duration::from_secs(1)), "on the second interface: {second:?}");
    let again = second.iter().filter(|at| **at > Duration::from_millis(2300)).count();
    assert_eq!(again, 3, "when it came back: {second:?}");
}

#[test]
#[ignore = "needs root"]
fn what_keeps_vips_from_working_is_said() {
    let (host, _peer) = host_and_peer();
    host.run(|| {
        let h0 = index("h0");
        let vips = addrs(&["203.0.113.10", "2001:db8::10"]);
        let said = || vip::warnings(&[h0], &vips, &now());
        assert_eq!(said(), Vec::<String>::new());
        sysctl("ipv4/conf/h0/arp_ignore", "8");
        assert!(said()[0].contains("net.ipv4.conf.h0.arp_ignore is 8"), "{:?}", said());
        sysctl("ipv4/conf/h0/arp_ignore", "0");
        sysctl("ipv4/conf/h0/route_localnet", "1");
        assert!(said()[0].contains("route_localnet"), "{:?}", said());
        sysctl("ipv4/conf/h0/route_localnet", "0");
        ip("addr del fd00:1::1/64 dev h0");
        assert!(said()[0].contains("no global IPv6 address"), "{:?}", said());
    });
}

#[test]
#[ignore = "needs root"]
fn the_watcher_sees_what_changes() {
    let (host, peer) = host_and_peer();
    cable(&host, &peer, "h1", "p1");
    host.run(|| {
        let (h0, h1) = (index("h0"), index("h1"));
        let state = Watcher::start().expect("it starts");
        let gateway = |ifindex, gateway: &str| Resolution::Gateway { ifindex, gateway: addr(gateway) };
        {
            let s = state.borrow();
            let link = s.link_by_name("h0").expect("it is there");
            assert_eq!((link.mac, link.mtu, link.up, link.carrier), (Some(HOST_MAC), 1500, true, true));
            assert_eq!(link.kind.as_deref(), Some("veth"));
            assert_eq!(s.resolve(addr("198.51.100.1")), Resolution::Unreachable);
        }

        ip("route add 198.51.100.0/24 via 10.0.0.2");
        sees(&state, "a route", |s| s.resolve(addr("198.51.100.1")) == gateway(h0, "10.0.0.2"));
        ip("route replace 198.51.100.0/24 via 10.0.0.3");
        sees(&state, "a replaced route", |s| s.resolve(addr("198.51.100.1")) == gateway(h0, "10.0.0.3"));
        ip("route append 198.51.100.0/24 via 10.0.0.4");
        ip("route del 198.51.100.0/24 via 10.0.0.3");
        sees(&state, "the second of two equal routes", |s| s.resolve(addr("198.51.100.1")) == gateway(h0, "10.0.0.4"));
        ip("route del 198.51.100.0/24");
        sees(&state, "a route that went", |s| s.resolve(addr("198.51.100.1")) == Resolution::Unreachable);
        ip("-6 route add 2001:db8:5::/48 via fd00:1::2");
        sees(&state, "an IPv6 route", |s| s.resolve(addr("2001:db8:5::1")) == gateway(h0, "fd00:1::2"));

        ip("neigh add 10.0.0.77 lladdr 02:00:00:00:00:77 dev h0");
        let mac = |s: &NetState| s.next_hop(addr("10.0.0.77")).map(|n| (n.destination_mac, n.source_mac, n.mtu));
        sees(&state, "a neighbour", |s| mac(s) == Some(([2, 0, 0, 0, 0, 0x77], HOST_MAC, 1500)));
        ip("neigh replace 10.0.0.77 lladdr 02:00:00:00:00:78 dev h0");
        sees(&state, "a neighbour's new MAC", |s| mac(s) == Some(([2, 0, 0, 0, 0, 0x78], HOST_MAC, 1500)));
        ip("link set h0 mtu 1400");
        sees(&state, "an MTU", |s| mac(s).is_some_and(|(_, _, mtu)| mtu == 1400));
        ip("neigh del 10.0.0.77 dev h0");
        sees(&state, "a neighbour that went", |s| {
            s.missing_neighbour(addr("10.0.0.77")) == Some((h0, addr("10.0.0.77")))
        });

        // The kernel does not say that these routes went.
        ip("addr add 10.0.1.1/24 dev h1");
        ip("route add 192.0.2.0/24 via 10.0.1.2");
        sees(&state, "a route through the second link", |s| s.resolve(addr("192.0.2.1")) == gateway(h1, "10.0.1.2"));
        ip("link set h1 down");
        sees(&state, "a link that went down", |s| {
            !s.link(h1).is_some_and(|l| l.up) && s.resolve(addr("192.0.2.1")) == Resolution::Unreachable
        });
        ip("addr add 10.0.0.50/24 dev h0");
        ip("route add 192.0.2.0/24 via 10.0.0.2 src 10.0.0.50");
        sees(&state, "a preferred source", |s| s.source_for(addr("192.0.2.1")) == Some(addr("10.0.0.50")));
        ip("addr del 10.0.0.50/24 dev h0");
        sees(&state, "a route that went with its source", |s| s.resolve(addr("192.0.2.1")) == Resolution::Unreachable);

        ip("link del h1");
        sees(&state, "a link that is gone", |s| s.link(h1).is_none());
        ip("rule add from 10.9.9.9 table 100");
        sees(&state, "a policy rule", |s| s.resolve(addr("10.0.0.2")) == Resolution::AskKernel);
        assert_eq!(state.borrow().policy_rules(), [true, false], "IPv6 has none");
        ip("rule del from 10.9.9.9 table 100");
        sees(&state, "the rule is gone", |s| s.resolve(addr("10.0.0.2")) == Resolution::OnLink { ifindex: h0 });
    });
}

#[test]
#[ignore = "needs root"]
fn changes_that_come_together_are_told_once() {
    let (host, _peer) = host_and_peer();
    host.run(|| {
        let mut state = Watcher::start().expect("it starts");
        state.mark_unchanged();
        let batch: String =
            (0..500).map(|i| format!("route add 198.18.{}.{}/32 via 10.0.0.2\n", i / 250, i % 250)).collect();
        ip_batch(&batch);
        let mut told = 0;
        let deadline = Instant::now() + Duration::from_secs(8);
        while state.borrow_and_update().routes_for_dataplane(10_000).routes.len() < 500 {
            assert!(Instant::now() < deadline, "not all routes were seen");
            std::thread::sleep(Duration::from_millis(5));
            told += u32::from(state.has_changed().expect("the watcher runs"));
        }
        assert!((1..100).contains(&told), "500 routes were told in {told} pieces");
        // More than the packet path has room for: said, and left to the kernel.
        let limited = state.borrow().routes_for_dataplane(100);
        assert!(limited.over_limit[0].is_some_and(|n| n >= 500), "{:?}", limited.over_limit);
        assert_eq!(limited.routes[0], (route::prefix(addr("0.0.0.0"), 0), RouteView::AskKernel));
        assert!(limited.routes[1..].iter().all(|(p, _)| p.address.is_ipv6()));
    });
}

/// Many commands in one `ip` process.
fn ip_batch(commands: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("iproute2 is installed");
    child.stdin.take().expect("piped").write_all(commands.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success());
}

#[test]
#[ignore = "needs root"]
fn an_overrun_of_events_is_made_up_for() {
    let (host, _peer) = host_and_peer();
    host.run(|| {
        // Room for a handful of events.
        let state = Watcher::start_with("sluice-net-2k", 2048).expect("it starts");
        let h0 = index("h0");
        let add: String = (0..2000)
            .map(|i| format!("neigh add 10.0.{}.{} lladdr 02:00:00:00:01:01 dev h0\n", 1 + i / 250, i % 250))
            .collect();
        ip_batch(&add);
        let known = |s: &NetState| s.neighbours().filter(|(i, _, n)| *i == h0 && n.usable_mac().is_some()).count();
        sees(&state, "all 2,000 neighbours", |s| known(s) == 2000);
        ip("neigh flush dev h0 nud permanent");
        sees(&state, "that they are gone", |s| known(s) == 0);
    });
}

#[test]
#[ignore = "needs root"]
fn the_watcher_ends_with_its_last_receiver() {
    let (host, _peer) = host_and_peer();
    let threads = || {
        let named = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == "sluice-net-test")
        };
        std::fs::read_dir("/proc/self/task").expect("procfs").flatten().filter(named).count()
    };
    host.run(move || {
        let state = Watcher::start_with("sluice-net-test", 1 << 16).expect("it starts");
        eventually("the thread runs", || threads() == 1);
        drop(state);
        eventually("the thread ends", || threads() == 0);
    });
}

#[test]
#[ignore = "needs root"]
fn a_neighbour_is_resolved_when_asked_for() {
    let (host, _peer) = host_and_peer();
    host.run(|| {
        let h0 = index("h0");
        let state = Watcher::start().expect("it starts");
        for destination in ["10.0.0.2", "fd00:1::2"] {
            let destination = addr(destination);
            ip("neigh flush dev h0");
            sees(&state, "it is unknown", |s| s.missing_neighbour(destination) == Some((h0, destination)));
            neigh::resolve_soon(h0, destination).expect("the kernel takes the request");
            sees(&state, "it is known", |s| s.next_hop(destination).is_some_and(|n| n.destination_mac == PEER_MAC));
        }
        // One that nobody has: it fails, and is not mistaken for one that is there.
        neigh::resolve_soon(h0, addr("10.0.0.200")).expect("the kernel takes the request");
        sees(&state, "it failed", |s| s.neighbour(h0, addr("10.0.0.200")).is_some_and(|n| n.is_failed()));
        assert_eq!(state.borrow().next_hop(addr("10.0.0.200")), None);
        // One that was set by hand stays as it is.
        ip("neigh add 10.0.0.201 lladdr 02:00:00:00:02:01 dev h0 nud permanent");
        neigh::resolve_soon(h0, addr("10.0.0.201")).expect("nothing is done");
        let entry = Command::new("ip").args(["neigh", "show", "10.0.0.201"]).output().expect("iproute2 is installed");
        assert!(String::from_utf8_lossy(&entry.stdout).contains("PERMANENT"), "{entry:?}");
    });
}

#[test]
#[ignore = "needs root"]
fn wanted_neighbours_are_kept_and_let_go() {
    let (host, peer) = host_and_peer();
    let (state, keeper) = host.run(|| {
        let state = Watcher::start().expect("it starts");
        let keeper = Keeper::start(state.clone()).expect("it starts");
        (state, keeper)
    });
    let h0 = host.run(|| index("h0"));
    let late = addr("10.0.0.3");
    let wanted = [(h0, addr("10.0.0.2")), (h0, addr("fd00:1::2")), (h0, late)];
    keeper.want(wanted.into());
    let usable = |s: &NetState, ip| s.neighbour(h0, ip).and_then(|n| n.usable_mac()) == Some(PEER_MAC);
    for ip in ["10.0.0.2", "fd00:1::2"] {
        sees(&state, "a wanted neighbour", |s| usable(s, addr(ip)));
    }
    sees(&state, "one that does not answer fails", |s| s.neighbour(h0, late).is_some_and(|n| n.is_failed()));
    peer.ip("addr add 10.0.0.3/24 dev p0");
    sees(&state, "it is asked for until it answers", |s| usable(s, late));
    host.ip("neigh flush dev h0");
    sees(&state, "forgotten ones are asked for again", |s| wanted.iter().all(|(_, ip)| usable(s, *ip)));
    let managed = |s: &NetState| s.neighbours().filter(|(_, _, n)| n.managed).count();
    sees(&state, "the kernel keeps them", |s| managed(s) == 3);
    keeper.want([(h0, late)].into());
    sees(&state, "those not wanted are let go", |s| managed(s) == 1);
    drop(keeper);
    sees(&state, "all are let go", |s| managed(s) == 0);
}

/// What we say, in the kernel's terms.
fn agrees(state: &NetState, destination: IpAddr) -> Result<(), String> {
    let ours = state.resolve(destination);
    let kernel = route::ask_kernel(destination).expect("the kernel answers");
    let ours_as_answer = match ours {
        Resolution::Local => Answer::Local,
        Resolution::OnLink { ifindex } => Answer::Via { ifindex, gateway: None, source: state.source_for(destination) },
        Resolution::Gateway { ifindex, gateway } => {
            Answer::Via { ifindex, gateway: Some(gateway), source: state.source_for(destination) }
        }
        Resolution::Unreachable => Answer::Unreachable,
        Resolution::AskKernel => return Err(format!("{destination}: ask the kernel, which says {kernel:?}")),
    };
    match ours_as_answer == kernel {
        true => Ok(()),
        false => Err(format!("{destination}: we say {ours_as_answer:?}, the kernel {kernel:?}")),
    }
}

#[test]
#[ignore = "needs root"]
fn routes_resolve_as_the_kernel_resolves_them() {
    let (host, peer) = host_and_peer();
    cable(&host, &peer, "h1", "p1");
    cable(&host, &peer, "h2", "p2");
    host.ip(
        "addr add 10.0.1.1/24 dev h1; addr add 10.0.1.9/24 dev h1; addr add 10.0.2.1/32 dev h1;
         addr add 172.16.0.1/12 dev h1 scope link; addr add fd00:2::1/64 dev h1 nodad; addr add fd00:2::9/64 dev h1 nodad;
         route add default via 10.0.0.2 metric 200; route add default via 10.0.1.2 metric 100;
         route add 192.0.2.0/24 via 10.0.0.2; route add 192.0.2.128/25 via 10.0.1.2; route add 192.0.2.200/32 via 10.0.0.3;
         route add 192.0.2.201/32 dev h1; route add 192.0.2.202/32 via 10.0.0.2 src 10.0.1.9;
         route add blackhole 198.51.100.0/24; route add unreachable 198.51.101.0/24; route add prohibit 198.51.102.0/24;
         route add 198.51.100.128/25 via 10.0.1.2; route add throw 198.51.103.0/24;
         route add 198.18.0.0/15 via inet6 fe80::2 dev h1; route add 198.18.1.0/24 via inet6 fd00:1::2 dev h0;
         route add 203.0.113.0/24 via 10.0.1.2; route append 203.0.113.0/24 via 10.0.0.2;
         route add 100.64.0.0/10 dev h2 metric 50; route add 100.64.0.0/10 via 10.0.0.2 metric 60;
         route add local 100.100.0.0/16 dev lo; route add 10.0.3.0/24 via 10.0.0.9 onlink dev h1;
         route add 198.19.7.0/24 via 172.16.0.9;
         route add 198.19.8.0/24 via 10.0.1.77 mtu 1280;
         addr add 2001:db8:aaaa::1/64 dev h1 nodad; addr add 2a00::ff/128 dev h1 nodad preferred_lft 0;
         addr add 2a00::fe/128 dev h0 nodad preferred_lft 0; -6 route add 2a00:1::/32 dev h0; -6 route add 2a00:2::/32 via fe80::7 dev h2;
         -6 route add default via fd00:1::2 metric 1024; -6 route add default via fd00:2::2 metric 512;
         -6 route add 2001:db8:1::/48 via fe80::2 dev h1; -6 route add 2001:db8:1:2::/64 dev h0;
         -6 route add 2001:db8:1::5/128 via fd00:2::5 src fd00:1::1;
         -6 route add blackhole 2001:db8:2::/48; -6 route add unreachable 2001:db8:3::/48;
         -6 route add prohibit 2001:db8:4::/48; -6 route add 2001:db8:2:1::/64 via fd00:1::9",
    );
    host.run(|| {
        let destinations = [
            "10.0.0.2",
            "10.0.0.1",
            "10.0.0.200",
            "10.0.1.7",
            "10.0.1.9",
            "10.0.2.1",
            "10.0.3.3",
            "127.0.0.1",
            "127.9.9.9",
            "172.16.0.1",
            "172.16.7.7",
            "8.8.8.8",
            "192.0.2.1",
            "192.0.2.129",
            "192.0.2.200",
            "192.0.2.201",
            "192.0.2.202",
            "198.51.100.1",
            "198.51.100.129",
            "198.51.101.1",
            "198.51.102.1",
            "198.51.103.1",
            "198.18.0.1",
            "198.18.1.1",
            "198.19.7.1",
            "198.19.8.1",
            "203.0.113.1",
            "100.64.0.1",
            "100.100.3.4",
            "fd00:1::1",
            "fd00:1::2",
            "fd00:2::77",
            "fd00:2::9",
            "2a00::1",
            "2001:db8:1::1",
            "2001:db8:1:2::1",
            "2001:db8:1::5",
            "2001:db8:2::1",
            "2001:db8:2:1::1",
            "2001:db8:3::1",
            "2001:db8:4::1",
            "2a00:1::1",
            "2a00:2::1",
            "2001:db8:aaaa::7",
            "2a00::fd",
            "::1",
        ];
        let all = |when: &str| {
            let state = now();
            let wrong: Vec<String> = destinations.iter().filter_map(|d| agrees(&state, addr(d)).err()).collect();
            assert!(wrong.is_empty(), "{when}:\n{}", wrong.join("\n"));
        };
        all("at first");
        // The kernel's table, whole: 40 destinations that resolve to nothing would agree as well.
        let state = now();
        let (h0, h1, h2) = (index("h0"), index("h1"), index("h2"));
        let gateway = |ifindex, gateway| Resolution::Gateway { ifindex, gateway: addr(gateway) };
        for (destination, resolution) in [
            ("8.8.8.8", gateway(h1, "10.0.1.2")),
            ("192.0.2.200", gateway(h0, "10.0.0.3")),
            ("192.0.2.201", Resolution::OnLink { ifindex: h1 }),
            ("198.51.100.1", Resolution::Unreachable),
            ("198.51.103.1", Resolution::Unreachable),
            ("198.18.0.1", gateway(h1, "fe80::2")),
            ("100.64.0.1", Resolution::OnLink { ifindex: h2 }),
            ("100.100.3.4", Resolution::Local),
            ("2a00::1", gateway(h1, "fd00:2::2")),
            ("2001:db8:1:2::1", Resolution::OnLink { ifindex: h0 }),
        ] {
            assert_eq!(state.resolve(addr(destination)), resolution, "{destination}");
        }

        ip("link set h2 down");
        all("with one link down");
        assert_eq!(now().resolve(addr("100.64.0.1")), gateway(h0, "10.0.0.2"));
        ip("route del default via 10.0.1.2");
        ip("-6 route del default via fd00:2::2");
        all("with the better default gone");
        assert_eq!(now().resolve(addr("8.8.8.8")), gateway(h0, "10.0.0.2"));
        ip("route del default");
        ip("-6 route del default");
        all("without a default");
        assert_eq!(now().resolve(addr("8.8.8.8")), Resolution::Unreachable);
        ip("route add default via 10.0.0.2 table default");
        assert_eq!(now().resolve(addr("8.8.8.8")), gateway(h0, "10.0.0.2"), "table default is the last resort");
        assert_eq!(now().resolve(addr("198.51.103.1")), gateway(h0, "10.0.0.2"), "thrown out of main");
        all("with a default in its own table");
    });
}

#[test]
#[ignore = "needs root"]
fn a_link_without_carrier_counts_as_the_kernel_says() {
    let (host, peer) = host_and_peer();
    cable(&host, &peer, "h1", "p1");
    host.ip("addr add 10.0.1.1/24 dev h1; route add 192.0.2.0/24 via 10.0.1.2 metric 1; route add 192.0.2.0/24 via 10.0.0.2 metric 2");
    host.run(move || {
        let state = Watcher::start().expect("it starts");
        let (h0, h1) = (index("h0"), index("h1"));
        let destination = addr("192.0.2.1");
        let first = Resolution::Gateway { ifindex: h1, gateway: addr("10.0.1.2") };
        let second = Resolution::Gateway { ifindex: h0, gateway: addr("10.0.0.2") };
        /// `IF_OPER_DOWN` (and up).
        const DOWN: u8 = 2;
        const UP: u8 = 6;
        peer.ip("link set p1 down");
        sees(&state, "the carrier is gone", |s| s.link(h1).is_some_and(|l| l.up && !l.carrier && l.operstate == DOWN));
        assert_eq!(now().resolve(destination), first, "the kernel still uses it");
        agrees(&now(), destination).expect("as the kernel does");
        sysctl("ipv4/conf/h1/ignore_routes_with_linkdown", "1");
        assert_eq!(now().resolve(destination), second, "now it does not");
        agrees(&now(), destination).expect("as the kernel does");
        peer.ip("link set p1 up");
        sees(&state, "the carrier is back", |s| s.link(h1).is_some_and(|l| l.operstate == UP));
        sees(&state, "and the route with it", |s| s.resolve(destination) == first);
        peer.ip("link set p1 down");
        sees(&state, "both are gone", |s| s.resolve(destination) == second);
    });
}

#[test]
#[ignore = "needs root"]
fn what_depends_on_the_packet_is_left_to_the_kernel() {
    let (host, _peer) = host_and_peer();
    host.ip(
        "route add 192.0.2.0/24 nexthop via 10.0.0.2 nexthop via 10.0.0.3; route add 198.51.100.0/24 via 10.0.0.2 tos 0x10;
         route add 198.51.100.0/24 via 10.0.0.3; route add 203.0.113.0/24 via 10.0.0.2; route add blackhole 203.0.113.128/25;
         -6 route add 2001:db8:1::/48 nexthop via fd00:1::2 nexthop via fd00:1::3;
         -6 route add 2001:db8:2::/48 from fd00:1::/64 via fd00:1::2; neigh add 10.0.0.3 lladdr 02:00:00:00:00:03 dev h0",
    );
    host.run(|| {
        let state = now();
        let h0 = index("h0");
        let hop = state.resolve(addr("192.0.2.1"));
        assert!(
            ["10.0.0.2", "10.0.0.3"].map(|g| Resolution::Gateway { ifindex: h0, gateway: addr(g) }).contains(&hop),
            "one of its two next hops will do for a backend: {hop:?}"
        );
        assert_eq!(state.resolve(addr("198.51.100.1")), Resolution::AskKernel);
        assert_eq!(state.resolve(addr("2001:db8:2::1")), Resolution::AskKernel);
        let views = state.routes_for_dataplane(1000).routes;
        let view = |prefix: &str, length| {
            let prefix = route::prefix(addr(prefix), length);
            views.iter().find(|(p, _)| *p == prefix).map(|(_, v)| *v)
        };
        assert_eq!(view("192.0.2.0", 24), Some(RouteView::AskKernel), "replies spread over both");
        assert_eq!(view("198.51.100.0", 24), Some(RouteView::AskKernel));
        assert_eq!(view("2001:db8:1::", 48), Some(RouteView::AskKernel));
        assert_eq!(view("2001:db8:2::", 48), Some(RouteView::AskKernel));
        assert_eq!(view("203.0.113.0", 24), Some(RouteView::Gateway { ifindex: h0, gateway: addr("10.0.0.2") }));
        assert_eq!(view("203.0.113.128", 25), Some(RouteView::AskKernel), "a hole in it is not lost");
        assert_eq!(view("10.0.0.0", 24), Some(RouteView::OnLink { ifindex: h0 }));
        assert_eq!(view("fd00:1::", 64), Some(RouteView::OnLink { ifindex: h0 }));
        assert_eq!(view("ff00::", 8), None);
        assert_eq!(view("10.0.0.1", 32), None, "our own addresses are in table local");
    });
}

#[test]
#[ignore = "needs root"]
fn nexthop_objects_are_followed() {
    let (host, _peer) = host_and_peer();
    host.run(|| {
        let h0 = index("h0");
        let state = Watcher::start().expect("it starts");
        ip("nexthop add id 7 via 10.0.0.2 dev h0");
        ip("route add 192.0.2.0/24 nhid 7");
        let gateway = |gateway| Resolution::Gateway { ifindex: h0, gateway: addr(gateway) };
        sees(&state, "the object's gateway", |s| s.resolve(addr("192.0.2.1")) == gateway("10.0.0.2"));
        ip("nexthop replace id 7 via 10.0.0.3 dev h0");
        sees(&state, "the object's new gateway", |s| s.resolve(addr("192.0.2.1")) == gateway("10.0.0.3"));
        ip("nexthop del id 7");
        sees(&state, "the route goes with it", |s| s.resolve(addr("192.0.2.1")) == Resolution::Unreachable);
    });
}

#[test]
#[ignore = "needs root"]
fn a_missing_interface_names_those_that_exist() {
    let (host, _peer) = host_and_peer();
    host.run(|| {
        let error = link::by_name("h9").expect_err("it does not exist");
        assert!(matches!(error, Error::NoSuchInterface { .. }));
        let text = error.to_string();
        assert!(text.contains("\"h9\"") && text.contains("did you mean \"h0\"?") && text.contains("lo, h0"), "{text}");
        assert_eq!(now().link_by_name("h9").expect_err("nor here").to_string(), text);
    });
}

#[test]
fn the_announcement_builders_are_what_is_sent() {
    // The frames of `a_new_vip_is_announced_three_times` come from these; this holds where no namespace can be made.
    let arp = arp_frame(PEER_MAC, [192, 0, 2, 1].into());
    assert_eq!(arp[28..32], arp[38..42]);
    assert_eq!(advertisement_frame(PEER_MAC, "2001:db8::1".parse().expect("an address"))[21], 255);
}
