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
use sluice::net::route::{self, Answer, Table};
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
    /// `None`, said aloud, where we may not make one.
    fn new() -> Option<Self> {
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
        match path.recv().expect("the namespace's thread answers") {
            Ok(path) => Some(Self { jobs: Some(jobs), thread: Some(thread), path }),
            Err(error) => {
                // Straight to stderr: the test harness would swallow what the macros print.
                let name = std::thread::current().name().unwrap_or("test").to_owned();
                let _ = writeln!(std::io::stderr(), "SKIPPED {name}: cannot make a network namespace ({error}); run as root");
                None
            }
        }
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
fn host_and_peer() -> Option<(Namespace, Namespace)> {
    let (host, peer) = (Namespace::new()?, Namespace::new()?);
    cable(&host, &peer, "h0", "p0");
    host.ip("link set h0 address 02:00:00:00:00:01; addr add 10.0.0.1/24 dev h0; addr add fd00:1::1/64 dev h0 nodad");
    peer.ip("link set p0 address 02:00:00:00:00:02; addr add 10.0.0.2/24 dev p0; addr add fd00:1::2/64 dev p0 nodad");
    Some((host, peer))
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
fn a_vip_is_never_chosen_as_source() {
    let Some((host, peer)) = host_and_peer() else { return };
    // A client that shares a longer prefix with the VIP than with the host's own address: RFC 6724 rule 8 would
    // prefer the VIP.
    peer.ip("addr add fd00:1::fe/64 dev p0 nodad; route add default via 10.0.0.1; route add default via fd00:1::1");
    host.ip("route add default via 10.0.0.2; route add default via fd00:1::2");
    let dir = run_dir();
    let path = dir.path();
    let vips = addrs(&["203.0.113.10", "10.0.0.100", "2001:db8::10", "fd00:1::ff"]);
    let wanted = vips.clone();
    let _manager = host.run(move || {
        let mut manager = VipManager::open(&path).expect("it opens");
        manager.set(&[index("h0")], wanted).expect("the VIPs can be added");
        manager
    });
    let listener = peer.run(|| TcpListener::bind("[::]:8080").expect("a listener"));
    host.run(move || {
        let state = now();
        for destination in ["10.0.0.2", "10.0.0.99", "8.8.8.8", "203.0.113.11"] {
            let destination = addr(destination);
            assert_eq!(source_of_socket(destination), addr("10.0.0.1"), "to {destination}");
            assert_eq!(state.source_for(destination), Some(addr("10.0.0.1")), "to {destination}");
        }
        for destination in ["fd00:1::2", "fd00:1::fe", "2001:db8::11", "2001:db8:1::1"] {
            let destination = addr(destination);
            assert_eq!(source_of_socket(destination), addr("fd00:1::1"), "to {destination}");
            assert_eq!(state.source_for(destination), Some(addr("fd00:1::1")), "to {destination}");
        }
        for vip in &vips {
            assert!(state.local_addresses().any(|ip| ip == *vip), "{vip} is on the host");
            assert_eq!(state.resolve(*vip), Resolution::Local, "{vip}");
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
