//! The backends: one thread that accepts for thousands of them and keeps its own record of every connection.
//!
//! It listens on every host's wildcard address. Which backend a connection is for is its local address, which the
//! kernel knows from the packet that opened it: nothing the clients say can change it. The record is made here from
//! what arrives, and the clients' is made there; [`super::check`] holds them against each other.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::wire::{Answer, REQUEST, Request, Server, plain};
use super::{PORT, PROBE_PORT};
use crate::lab::connections::site::Numbering;
use crate::lab::netns::NetNs;

/// One accepted connection, as the server saw it.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub server: Server,
    pub client: SocketAddr,
    pub at: Instant,
    /// Whose it is by its requests; `None` before the first.
    pub connection: Option<u32>,
    /// First and last sequence number.
    pub first: u32,
    pub last: u32,
    pub requests: u32,
    /// Requests that were not the one after the last, or said to be another connection's.
    pub out_of_order: u32,
    pub ended: Option<Ended>,
}

/// How a server's connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client said that it was done, and so did we.
    InOrder,
    /// What the kernel said, or what was wrong with what came.
    Broken(String),
}

/// The running servers of all hosts.
#[derive(Debug)]
pub struct Servers {
    records: Arc<Mutex<Vec<Accepted>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Servers {
    pub fn start(hosts: &[NetNs]) -> Result<Self> {
        let mut listeners = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            for port in [PORT, PROBE_PORT] {
                let listener = host.run(|| listen(port))?;
                listeners.push((number, port, listener.with_context(|| format!("listening on {}", host.name()))?));
            }
        }
        let records = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let kept = Arc::clone(&records);
        let thread = std::thread::Builder::new().name("backends".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                for (host, port, listener) in listeners {
                    let listener = TcpListener::from_std(listener)?;
                    if port == PORT {
                        tokio::spawn(serve(host, listener, Arc::clone(&kept)));
                    } else {
                        tokio::spawn(be_there(listener));
                    }
                }
                let _ = stopped.await;
                Ok(())
            })
        })?;
        Ok(Self { records, stop: Some(stop), thread: Some(thread) })
    }

    /// Every connection so far.
    pub fn records(&self) -> Vec<Accepted> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A listener on the wildcard address of both families.
fn listen(port: u16) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(IpAddr::from([0; 16]), port).into())?;
    // Thousands may open within a second.
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Health checks ask whether somebody is there. They are to hang up first: whoever does may meet a last segment with a
/// RST, and the hosts' RSTs are counted.
async fn be_there(listener: TcpListener) {
    loop {
        if let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move { stream.read(&mut [0]).await });
        } else {
            tokio::task::yield_now().await;
        }
    }
}

async fn serve(host: usize, listener: TcpListener, records: Arc<Mutex<Vec<Accepted>>>) {
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            // It was gone before we looked; nobody was answered.
            tokio::task::yield_now().await;
            continue;
        };
        let Ok(local) = stream.local_addr() else { continue };
        let at = Instant::now();
        let server = {
            let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
            let server = Server { backend: Numbering::of(host, local.ip()), accept: records.len() as u32 };
            records.push(Accepted {
                server,
                client: plain(client),
                at,
                connection: None,
                first: 0,
                last: 0,
                requests: 0,
                out_of_order: 0,
                ended: None,
            });
            server
        };
        let records = Arc::clone(&records);
        tokio::spawn(async move {
            let ended = answer(stream, server, &records).await;
            let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
            records[server.accept as usize].ended = Some(ended);
        });
    }
}

/// Answers until the client is done, writing down what is asked.
async fn answer(mut stream: TcpStream, server: Server, records: &Mutex<Vec<Accepted>>) -> Ended {
    let broken = |e: std::io::Error| Ended::Broken(e.to_string());
    if let Err(e) = stream.set_nodelay(true) {
        return broken(e);
    }
    let mut bytes = [0; REQUEST];
    loop {
        match stream.read(&mut bytes[..1]).await {
            Ok(0) => return Ended::InOrder,
            Ok(_) => {}
            Err(e) => return broken(e),
        }
        if let Err(e) = stream.read_exact(&mut bytes[1..]).await {
            return broken(e);
        }
        let Some(request) = Request::decode(&bytes) else {
            return Ended::Broken(format!("bytes that are no request: {bytes:02x?}"));
        };
        {
            let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
            let record = &mut records[server.accept as usize];
            record.requests += 1;
            let whose = *record.connection.get_or_insert(request.connection);
            if record.requests == 1 {
                record.first = request.sequence;
            } else if whose != request.connection || request.sequence != record.last + 1 {
                record.out_of_order += 1;
            }
            record.last = request.sequence;
        }
        if let Err(e) = stream.write_all(&Answer { request, server }.encode()).await {
            return broken(e);
        }
    }
}
