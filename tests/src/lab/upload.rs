//! What clients send, in segments as large as the way allows: the direction in which Sluice makes packets longer.
//!
//! Requests fit into one small packet; whether a tunnel carries a full one shows only when somebody sends many bytes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use super::netns::NetNs;
use super::slowness;

/// Where backends take uploads.
pub const UPLOAD_PORT: u16 = 7007;
/// Some hundred full segments.
const WORDS: u64 = 32 * 1024;
/// Long enough for what goes to a megabyte, short enough for a test that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A backend's server: it takes all that a client sends and answers its name, if that was what clients send.
#[derive(Debug)]
pub struct Sink {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    pub fn start(ns: &NetNs, name: &'static str) -> Result<Self> {
        let any: IpAddr = [0; 16].into();
        let listener = ns.run(|| TcpListener::bind(SocketAddr::new(any, UPLOAD_PORT)))?.context("listening")?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A health check opens a connection and says nothing, which is no reason to say anything.
                    Ok((stream, _)) => drop(std::thread::spawn(move || take(stream, name))),
                    Err(why) if why.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(2)),
                    Err(_) => {}
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn content() -> Vec<u8> {
    (0..WORDS).flat_map(u64::to_be_bytes).collect()
}

fn take(mut stream: TcpStream, name: &str) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE * slowness()))?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    if all == content() {
        stream.write_all(name.as_bytes())?;
    }
    Ok(())
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Who has it.
    pub to: String,
    /// Bytes in a full segment.
    pub segment: u32,
}

/// Sends a quarter of a megabyte from inside `ns`.
pub fn upload(ns: &NetNs, to: IpAddr) -> Result<Uploaded> {
    ns.run(|| {
        let patience = PATIENCE * slowness();
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::new(to, UPLOAD_PORT), patience).context("connecting")?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.write_all(&content()).context("sending")?;
        let segment = SockRef::from(&stream).tcp_mss()?;
        stream.shutdown(Shutdown::Write)?;
        let mut to = String::new();
        stream.read_to_string(&mut to).context("waiting for the answer")?;
        ensure!(!to.is_empty(), "something else arrived than was sent");
        Ok(Uploaded { to, segment })
    })?
}
