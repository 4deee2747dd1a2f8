//! Clients: real HTTP/1.1 requests and DNS queries from inside a namespace, each with its outcome.
//!
//! Every request is a new flow: a new TCP connection, or a new UDP source port. Load is open-loop — a request leaves
//! when its time has come, whether or not earlier ones were answered — because a client that waits for a slow answer
//! stops measuring exactly when it matters.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UdpSocket};

use super::netns::NetNs;
use super::servers::{BIG, WHO};
use super::{Pair, dns, slowness};

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// `GET /` over HTTP/1.1.
    Http,
    /// `GET /big` over HTTP/1.1: a megabyte of zeroes.
    Download,
    /// TXT over UDP.
    Dns,
}

/// A question to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub question: Question,
    pub to: SocketAddr,
}

impl Target {
    pub fn http(address: impl Into<IpAddr>, port: u16) -> Self {
        Self { question: Question::Http, to: SocketAddr::new(address.into(), port) }
    }

    pub fn download(address: impl Into<IpAddr>, port: u16) -> Self {
        Self { question: Question::Download, to: SocketAddr::new(address.into(), port) }
    }

    pub fn dns(address: impl Into<IpAddr>, port: u16) -> Self {
        Self { question: Question::Dns, to: SocketAddr::new(address.into(), port) }
    }

    /// HTTP on port 80 and DNS on port 53 of a VIP, both families.
    pub fn all(vip: Pair) -> [Self; 4] {
        [Self::http(vip.v4, 80), Self::http(vip.v6, 80), Self::dns(vip.v4, 53), Self::dns(vip.v6, 53)]
    }

    /// `http/ipv4` and so on: how results are grouped.
    pub fn kind(&self) -> &'static str {
        match (self.question, self.to.is_ipv4()) {
            (Question::Http, true) => "http/ipv4",
            (Question::Http, false) => "http/ipv6",
            (Question::Download, true) => "download/ipv4",
            (Question::Download, false) => "download/ipv6",
            (Question::Dns, true) => "dns/ipv4",
            (Question::Dns, false) => "dns/ipv6",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.question {
            Question::Http => write!(f, "http://{}/", self.to),
            Question::Download => write!(f, "http://{}/big", self.to),
            Question::Dns => write!(f, "dns to {}", self.to),
        }
    }
}

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which client asked.
    pub client: &'static str,
    pub target: Target,
    pub started: Instant,
    /// From the first packet to the last byte of the answer, or to giving up.
    pub latency: Duration,
    /// The backend's name, or what went wrong.
    pub answer: Result<String, String>,
}

/// Asks once.
async fn ask(client: &'static str, target: Target, timeout: Duration) -> Outcome {
    let timeout = timeout * slowness();
    let started = Instant::now();
    let asking = async {
        match target.question {
            Question::Http => http(target.to, "/").await,
            Question::Download => http(target.to, "/big").await,
            Question::Dns => query(target.to).await,
        }
    };
    let answer = match tokio::time::timeout(timeout, asking).await {
        Ok(Ok(name)) => Ok(name),
        Ok(Err(e)) => Err(format!("{e:#}")),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    };
    Outcome { client, target, started, latency: started.elapsed(), answer }
}

async fn http(to: SocketAddr, path: &str) -> Result<String> {
    let stream = TcpStream::connect(to).await.context("connecting")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::task::spawn_local(connection);
    let request = hyper::Request::get(path)
        .header("host", to.to_string())
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("sending the request")?;
    anyhow::ensure!(response.status() == 200, "status {}", response.status());
    let name = response.headers().get("x-backend").and_then(|name| name.to_str().ok()).map(str::to_owned);
    let name = name.context("the answer does not name its backend")?;
    let body = response.into_body().collect().await.context("reading the answer")?.to_bytes();
    driver.await?.context("closing")?;
    match path {
        "/" => anyhow::ensure!(body.trim_ascii() == name.as_bytes(), "{name} answers {body:?}"),
        _ => anyhow::ensure!(
            body.len() == BIG && body.iter().all(|b| *b == b'0'),
            "{} bytes came from {name}",
            body.len()
        ),
    }
    Ok(name)
}

async fn query(to: SocketAddr) -> Result<String> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // A connected socket takes answers only from the address it asked: an untranslated reply does not count.
    socket.connect(to).await?;
    let packet = dns::query(socket.local_addr()?.port(), WHO);
    socket.send(&packet).await?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.context("waiting for the answer")?;
    dns::text(&packet, &buffer[..length])
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

/// Asks each target in turn until `count` requests are done, at most 16 at once; from inside `ns`.
pub fn ask_many(
    client: &'static str,
    ns: &NetNs,
    targets: &[Target],
    count: usize,
    timeout: Duration,
) -> Result<Vec<Outcome>> {
    ns.run(|| {
        block_on(async {
            let mut running = tokio::task::JoinSet::new();
            let mut outcomes = Vec::with_capacity(count);
            for target in targets.iter().cycle().take(count) {
                if running.len() == 16
                    && let Some(done) = running.join_next().await
                {
                    outcomes.push(done?);
                }
                running.spawn_local(ask(client, *target, timeout));
            }
            while let Some(done) = running.join_next().await {
                outcomes.push(done?);
            }
            Ok(outcomes)
        })
    })??
}

/// Load that runs until told to stop.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    outcomes: mpsc::Receiver<Outcome>,
}

impl Traffic {
    /// From each client, one request every `pace`, going round the targets.
    pub fn start(
        clients: &[(&'static str, &NetNs)],
        targets: &[Target],
        pace: Duration,
        timeout: Duration,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, outcomes) = mpsc::channel();
        let mut threads = Vec::new();
        for (index, (client, ns)) in clients.iter().enumerate() {
            let (ns, client, stop, sender) = (ns.handle()?, *client, Arc::clone(&stop), sender.clone());
            // Clients start at different targets and moments, so that the whole is even.
            let mut targets = targets.to_vec();
            let shift = index % targets.len().max(1);
            targets.rotate_left(shift);
            let offset = pace * index as u32 / clients.len() as u32;
            threads.push(std::thread::Builder::new().name(format!("client-{client}")).spawn(move || {
                ns.enter()?;
                block_on(generate(client, targets, pace, offset, timeout, stop, sender))
            })?);
        }
        Ok(Self { stop, threads, outcomes })
    }

    /// What has finished since the last call.
    pub fn finished(&self) -> impl Iterator<Item = Outcome> + '_ {
        self.outcomes.try_iter()
    }

    /// Starts no more requests, waits for those under way, and gives back what was not fetched yet.
    pub fn stop(self) -> Result<Vec<Outcome>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a client thread panicked"))??;
        }
        Ok(self.outcomes.try_iter().collect())
    }
}

async fn generate(
    client: &'static str,
    targets: Vec<Target>,
    pace: Duration,
    offset: Duration,
    timeout: Duration,
    stop: Arc<AtomicBool>,
    sender: mpsc::Sender<Outcome>,
) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + offset, pace);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut running = tokio::task::JoinSet::new();
    let mut targets = targets.into_iter().cycle();
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let Some(target) = targets.next() else { return };
        let sender = sender.clone();
        running.spawn_local(async move {
            let _ = sender.send(ask(client, target, timeout).await);
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

/// How many answers each backend gave.
pub fn tally(outcomes: &[Outcome]) -> std::collections::BTreeMap<&str, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for answer in outcomes.iter().filter_map(|o| o.answer.as_deref().ok()) {
        *counts.entry(answer).or_default() += 1;
    }
    counts
}

/// The failures among them: one line for each client, target and complaint, with how often.
pub fn failures(outcomes: &[Outcome]) -> Vec<String> {
    let mut lines = std::collections::BTreeMap::<String, usize>::new();
    for outcome in outcomes {
        if let Err(e) = &outcome.answer {
            *lines.entry(format!("{} → {}: {e}", outcome.client, outcome.target)).or_default() += 1;
        }
    }
    lines.into_iter().map(|(line, count)| format!("{count} × {line}")).collect()
}
