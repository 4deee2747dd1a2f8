//! The clients: thousands of TCP connections that stay, and some that come and go, each asking at a steady pace.
//!
//! A request is only sent when its predecessor was answered, so a stalled connection is silent while TCP retransmits
//! and shows as one slow answer; after [`Plan::patience`] it counts as broken. What the clients know is written here
//! and nowhere else: what servers know of the same connections is theirs ([`super::servers`]).

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::wire::{ANSWER, Answer, Request, Server, plain};
use crate::lab::netns::NetNs;

/// What the fleet does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the services are; connections go round them.
    pub targets: Vec<SocketAddr>,
    /// Connections that open at the start and stay until the end.
    pub connections: u32,
    /// Time between two requests of a connection.
    pub pace: Duration,
    /// Connections a second that open later, and close again after up to [`Plan::visit`].
    pub visitors: u32,
    pub visitor_pace: Duration,
    pub visit: Duration,
    /// An answer that takes longer does not come.
    pub patience: Duration,
}

impl Plan {
    /// `connections` to these targets, a request a second each, and 40 visitors a second who ask eight times as fast.
    pub fn new(connections: u32, targets: Vec<SocketAddr>) -> Self {
        Self {
            targets,
            connections,
            pace: Duration::from_secs(1),
            visitors: 40,
            visitor_pace: Duration::from_millis(125),
            visit: Duration::from_secs(8),
            patience: Duration::from_secs(8),
        }
    }
}

/// One connection, as its client saw it.
#[derive(Clone, Debug)]
pub struct Connection {
    pub number: u32,
    /// One of those that open later and close soon.
    pub visitor: bool,
    /// Our end; `None` if it never opened.
    pub local: Option<SocketAddr>,
    pub target: SocketAddr,
    pub started: Instant,
    /// Who answered first.
    pub server: Option<Server>,
    pub sent: u32,
    pub answered: u32,
    pub last_sent: Option<Instant>,
    pub last_answer: Option<Instant>,
    pub slowest: Duration,
    /// Answers by somebody other than who answered first: who, and when.
    pub moved: Vec<(Server, Instant)>,
    pub end: Option<(Instant, End)>,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By us, and the server agreed.
    InOrder,
    /// Without our asking.
    Broken(Why),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// What the kernel said.
    Error(Errno),
    /// The server said that it was done.
    Eof,
    /// No answer within the patience.
    Silence,
    /// No answer to our SYN, or not the one we hoped for.
    Unopened(Option<Errno>),
    /// Bytes that answer something else.
    Garbled(String),
    /// We closed, and the server did not.
    Unclosed,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(errno) => write!(f, "{errno:?} ({})", errno.desc()),
            Self::Eof => f.write_str("end of stream, not asked for"),
            Self::Silence => f.write_str("no answer"),
            Self::Unopened(Some(errno)) => write!(f, "not opened: {errno:?} ({})", errno.desc()),
            Self::Unopened(None) => f.write_str("not opened: no answer to the SYN"),
            Self::Garbled(what) => write!(f, "not the answer: {what}"),
            Self::Unclosed => f.write_str("closed by us, never by the server"),
        }
    }
}

/// Counters since the fleet started, and the slowest answer since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were started.
    pub connections: u32,
    /// Of those that stay, how many were answered once at least.
    pub settled: u32,
    pub answers: u64,
    pub broken: u32,
    /// Answers by another server than the first.
    pub moved: u32,
    pub slowest: Duration,
}

#[derive(Debug, Default)]
struct Ledger {
    connections: Vec<Connection>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Shared {
    ledger: Mutex<Ledger>,
    stop: AtomicBool,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn started(&self, target: SocketAddr, visitor: bool) -> u32 {
        let mut ledger = self.ledger();
        let number = ledger.connections.len() as u32;
        ledger.counts.connections += 1;
        ledger.connections.push(Connection {
            number,
            visitor,
            local: None,
            target,
            started: Instant::now(),
            server: None,
            sent: 0,
            answered: 0,
            last_sent: None,
            last_answer: None,
            slowest: Duration::ZERO,
            moved: Vec::new(),
            end: None,
        });
        number
    }

    fn with<T>(&self, number: u32, change: impl FnOnce(&mut Connection) -> T) -> T {
        change(&mut self.ledger().connections[number as usize])
    }

    fn sent(&self, number: u32) -> u32 {
        self.with(number, |c| {
            c.sent += 1;
            c.last_sent = Some(Instant::now());
            c.sent
        })
    }

    fn answered(&self, number: u32, server: Server, after: Duration) {
        let mut ledger = self.ledger();
        let Ledger { connections, counts } = &mut *ledger;
        let connection = &mut connections[number as usize];
        let now = Instant::now();
        connection.answered += 1;
        connection.last_answer = Some(now);
        connection.slowest = connection.slowest.max(after);
        counts.answers += 1;
        counts.slowest = counts.slowest.max(after);
        match connection.server {
            None => {
                connection.server = Some(server);
                counts.settled += u32::from(!connection.visitor);
            }
            Some(first) if first != server => {
                connection.moved.push((server, now));
                counts.moved += 1;
            }
            Some(_) => {}
        }
    }

    fn ended(&self, number: u32, end: End) {
        let mut ledger = self.ledger();
        ledger.counts.broken += u32::from(end != End::InOrder);
        ledger.connections[number as usize].end = Some((Instant::now(), end));
    }
}

/// Running clients.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
    plan: Plan,
}

impl Fleet {
    /// Opens the connections, one after the other over two seconds, from the namespaces in turn.
    pub fn start(clients: &[NetNs], plan: Plan) -> Result<Self> {
        raise_file_limit(plan.connections)?;
        let shared = Arc::new(Shared::default());
        let clients = clients.iter().map(NetNs::handle).collect::<Result<Vec<_>>>()?;
        let (ours, theirs) = (Arc::clone(&shared), plan.clone());
        let thread = std::thread::Builder::new().name("clients".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(clients, theirs, ours))
        })?;
        Ok(Self { shared, thread: Some(thread), plan })
    }

    /// Starts one, and waits until every connection that stays was answered, or one is broken.
    pub fn settle(clients: &[NetNs], plan: Plan) -> Result<Self> {
        let patience = OPENING + plan.patience;
        let fleet = Self::start(clients, plan)?;
        let deadline = Instant::now() + patience;
        loop {
            let counts = fleet.counts();
            if counts.settled == fleet.plan.connections || counts.broken > 0 {
                return Ok(fleet);
            }
            anyhow::ensure!(Instant::now() < deadline, "connections do not open: {counts:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn counts(&self) -> Counts {
        self.shared.ledger().counts
    }

    /// As [`Self::counts`]; the slowest answer is looked for anew from now on.
    pub fn lap(&self) -> Counts {
        let mut ledger = self.shared.ledger();
        let counts = ledger.counts;
        ledger.counts.slowest = Duration::ZERO;
        counts
    }

    /// Every connection so far.
    pub fn connections(&self) -> Vec<Connection> {
        self.shared.ledger().connections.clone()
    }

    /// Closes every connection in order, and gives back what became of them.
    pub fn stop(mut self) -> Result<Vec<Connection>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow::anyhow!("the clients' thread panicked"))??;
        }
        Ok(std::mem::take(&mut self.shared.ledger().connections))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Sockets of a thread that goes on would keep their namespaces alive.
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How long the connections that stay take to open, altogether.
const OPENING: Duration = Duration::from_secs(2);

/// Both ends are ours: two descriptors for each connection, and some for everything else.
fn raise_file_limit(connections: u32) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = u64::from(connections) * 2 + 4096;
    if soft < wanted {
        let enough = hard.max(wanted);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, enough)
            .with_context(|| format!("{wanted} open files are needed, {hard} are allowed (ulimit -Hn)"))?;
    }
    Ok(())
}

async fn run(clients: Vec<NetNs>, plan: Plan, shared: Arc<Shared>) -> Result<()> {
    let mut running = tokio::task::JoinSet::new();
    let gap = OPENING / plan.connections.max(1);
    let begin = tokio::time::Instant::now();
    let mut which = (0usize.., clients.iter().cycle());
    let mut next = |visitor| -> Result<(u32, TcpSocket)> {
        let (Some(turn), Some(ns)) = (which.0.next(), which.1.next()) else { anyhow::bail!("no clients") };
        // Each namespace reaches every target.
        let target = plan.targets[turn / clients.len() % plan.targets.len()];
        let number = shared.started(target, visitor);
        // A socket belongs to the namespace its thread was in when it was made.
        ns.enter()?;
        Ok((number, socket(target).context("making a socket")?))
    };
    for n in 0..plan.connections {
        tokio::time::sleep_until(begin + gap * n).await;
        let (number, socket) = next(false)?;
        running.spawn(live(socket, number, plan.pace, None, plan.patience, Arc::clone(&shared)));
        if shared.stopping() {
            break;
        }
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / plan.visitors.max(1));
    while !shared.stopping() {
        ticks.tick().await;
        if plan.visitors > 0 {
            // Knuth's constants; how long visitors stay has to vary, not to be unpredictable.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let stay = plan.visit.mul_f64((random >> 40) as f64 / f64::from(1 << 24));
            let (number, socket) = next(true)?;
            running.spawn(live(socket, number, plan.visitor_pace, Some(stay), plan.patience, Arc::clone(&shared)));
        }
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
    Ok(())
}

fn socket(target: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// One connection, from its SYN to its end.
async fn live(
    socket: TcpSocket,
    number: u32,
    pace: Duration,
    stay: Option<Duration>,
    patience: Duration,
    shared: Arc<Shared>,
) {
    let target = shared.with(number, |c| c.target);
    let mut stream = match tokio::time::timeout(patience, socket.connect(target)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return shared.ended(number, End::Broken(Why::Unopened(e.raw_os_error().map(Errno::from_raw)))),
        Err(_) => return shared.ended(number, End::Broken(Why::Unopened(None))),
    };
    let local = stream.local_addr().map(plain).ok();
    shared.with(number, |c| c.local = local);
    let leaves = stay.map(|stay| tokio::time::Instant::now() + stay);
    let mut ticks = tokio::time::interval(pace);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let end = loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Nothing was asked, so nothing may come: a reset is seen when it happens, not a second later.
            unasked = readable(&stream) => break End::Broken(unasked),
        }
        // Whoever came asks once at least, else no server knows whose connection it accepted.
        let known = shared.with(number, |c| c.answered > 0);
        if known && (shared.stopping() || leaves.is_some_and(|at| at <= tokio::time::Instant::now())) {
            break close(stream, patience).await;
        }
        let asked = Instant::now();
        let sequence = shared.sent(number);
        let request = Request { connection: number, sequence };
        match tokio::time::timeout(patience, ask(&mut stream, request)).await {
            Ok(Ok(server)) => shared.answered(number, server, asked.elapsed()),
            Ok(Err(why)) => break End::Broken(why),
            Err(_) => break End::Broken(Why::Silence),
        }
    };
    shared.ended(number, end);
}

fn error(e: &std::io::Error) -> Why {
    match e.raw_os_error() {
        Some(code) => Why::Error(Errno::from_raw(code)),
        None if e.kind() == std::io::ErrorKind::UnexpectedEof => Why::Eof,
        None => Why::Garbled(e.to_string()),
    }
}

async fn ask(stream: &mut TcpStream, request: Request) -> Result<Server, Why> {
    stream.write_all(&request.encode()).await.map_err(|e| error(&e))?;
    let mut bytes = [0; ANSWER];
    stream.read_exact(&mut bytes).await.map_err(|e| error(&e))?;
    match Answer::decode(&bytes) {
        Some(answer) if answer.request == request => Ok(answer.server),
        Some(answer) => Err(Why::Garbled(format!("asked {request:?}, answered {:?}", answer.request))),
        None => Err(Why::Garbled(format!("{bytes:02x?}"))),
    }
}

/// Waits for something that should not come.
async fn readable(stream: &TcpStream) -> Why {
    let mut byte = [0];
    loop {
        if let Err(e) = stream.readable().await {
            return error(&e);
        }
        match stream.try_read(&mut byte) {
            Ok(0) => return Why::Eof,
            Ok(_) => return Why::Garbled("bytes nobody asked for".into()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return error(&e),
        }
    }
}

/// Says goodbye and waits for the server's.
async fn close(mut stream: TcpStream, patience: Duration) -> End {
    if let Err(e) = stream.shutdown().await {
        return End::Broken(error(&e));
    }
    let mut byte = [0];
    match tokio::time::timeout(patience, stream.read(&mut byte)).await {
        Ok(Ok(0)) => End::InOrder,
        Ok(Ok(_)) => End::Broken(Why::Garbled("bytes after the end".into())),
        Ok(Err(e)) => End::Broken(error(&e)),
        Err(_) => End::Broken(Why::Unclosed),
    }
}
