//! The servers: one on a unix socket for operators, one on TCP for metrics and probes.
//!
//! Binding and serving are two steps, so that an address in use stops the start before anything was loaded. Nothing a
//! peer does may grow without bound: connections, request heads, bodies and lifetimes all have limits here.
//!
//! The trap with unix sockets: the file outlives its process. A file nobody answers on is removed; one that answers
//! belongs to a running daemon and is left alone, and so is anything that is not a socket.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::api::{admin, probes};
use crate::control::handle::Handle;
use crate::exit::{Exit, Failure};

/// Connections served at once, per listener; more wait in the kernel's backlog. A scraper or two, a few probes.
const CONNECTIONS: usize = 64;
/// A request head is a path with two names; the largest that makes sense is well below this.
const HEAD_BYTES: usize = 16 * 1024;
/// Most requests need no body at all.
const BODY_BYTES: usize = 4 * 1024;
/// A plan is asked for with a whole file, some of its characters escaped.
const FILE_BYTES: usize = 24 * 1024 * 1024;
/// How long a peer may take to send its request, or stay silent between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// No connection lives longer than this, so that a peer that never reads its answer gives its slot back.
const LIFETIME: Duration = Duration::from_secs(120);
/// How long answers under way may take once the end of the connection was decided.
const GRACE: Duration = Duration::from_secs(5);

/// The mode of the admin socket: its owner and group may drain and reload, others may not even look.
const SOCKET_MODE: u32 = 0o660;

/// A listener that is bound but not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: Listener,
    /// Held until the end, for its `Drop`.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// The socket's file, removed with the listener if it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device_and_inode: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have put its own socket there.
        if self.device_and_inode.is_some() && identity(&self.path) == self.device_and_inode {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Binds the admin socket. Must be called within a Tokio runtime.
pub fn bind_unix(path: &Path) -> Result<Bound, Failure> {
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("cannot {what} the admin socket {}: {e}", path.display()))
            .hint("set `admin.socket` in the file to a path this process may write")
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|e| failed("make the directory of", &e))?;
    }
    remove_stale(path)?;

    // The mode is set on the socket before it has a name: the kernel takes it over, and there is no moment in which
    // others could connect. The umask still applies, hence again afterwards.
    let socket =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).map_err(|e| failed("create", &e))?;
    nix::sys::stat::fchmod(&socket, nix::sys::stat::Mode::from_bits_truncate(SOCKET_MODE))
        .map_err(|e| failed("protect", &e))?;
    let address = socket2::SockAddr::unix(path)
        .map_err(|e| failed("name", &e).hint("set `admin.socket` to a path of at most 107 bytes (unix(7))"))?;
    socket.bind(&address).map_err(|e| failed("bind", &e))?;
    let file = SocketFile { path: path.to_owned(), device_and_inode: identity(path) };
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(|e| failed("protect", &e))?;
    socket.listen(128).map_err(|e| failed("listen on", &e))?;
    socket.set_nonblocking(true).map_err(|e| failed("listen on", &e))?;
    let listener =
        UnixListener::from_std(std::os::unix::net::UnixListener::from(socket)).map_err(|e| failed("listen on", &e))?;
    Ok(Bound { listener: Listener::Unix(listener), _file: Some(file) })
}

/// Removes the socket file of a daemon that is gone.
fn remove_stale(path: &Path) -> Result<(), Failure> {
    let Ok(file) = fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        return Err(Failure::new(Exit::Failed, format!("the admin socket {} exists and is no socket", path.display()))
            .hint("move the file away, or set `admin.socket` to another path"));
    }
    match answers(path) {
        Ok(true) => {
            Err(Failure::new(Exit::Failed, format!("another daemon answers on the admin socket {}", path.display()))
                .hint("one Sluice per host: stop the other one, or use `sluice reload` to change its configuration"))
        }
        Ok(false) => {
            tracing::info!("removing the admin socket {} of a daemon that is gone", path.display());
            fs::remove_file(path).map_err(|e| {
                Failure::new(Exit::Failed, format!("cannot remove the stale admin socket {}: {e}", path.display()))
                    .hint("remove it by hand, or set `admin.socket` to another path")
            })
        }
        Err(e) => {
            Err(Failure::new(Exit::Failed, format!("cannot tell who owns the admin socket {}: {e}", path.display()))
                .hint("remove it by hand if no Sluice runs, or set `admin.socket` to another path"))
        }
    }
}

/// Whether a process holds the socket. Does not wait: a daemon that is stuck must not make its successor hang.
fn answers(path: &Path) -> io::Result<bool> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM.nonblocking(), None)?;
    match socket.connect(&socket2::SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        // A full backlog.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(e) => Err(e),
    }
}

/// Binds the listener of metrics and probes.
pub async fn bind_http(address: SocketAddr) -> Result<Bound, Failure> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        let hint = match e.kind() {
            io::ErrorKind::AddrInUse => {
                format!("`ss -ltnp sport = :{}` shows who has it; set `admin.http` to a free port", address.port())
            }
            io::ErrorKind::AddrNotAvailable => {
                format!(
                    "{} is no address of this host; set `admin.http` to one that is, such as 127.0.0.1",
                    address.ip()
                )
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE; set `admin.http` to a higher one".to_owned()
            }
            _ => "set `admin.http` to an address and port of this host".to_owned(),
        };
        Failure::new(Exit::Failed, format!("cannot serve metrics on {address}: {e}")).hint(hint)
    })?;
    Ok(Bound { listener: Listener::Tcp(listener), _file: None })
}

impl Bound {
    /// The TCP address, with the port the kernel chose if 0 was asked for; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Unix(_) => None,
            Listener::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    /// Serves until `shutdown` is true or its sender is gone, then lets answers under way finish.
    pub async fn serve(self, handle: Handle, shutdown: watch::Receiver<bool>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut stop = shutdown.clone();
        loop {
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, self.listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                next = next => next,
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, site)) => {
                    let (handle, stop) = (handle.clone(), shutdown.clone());
                    connections.spawn(async move {
                        match stream {
                            Stream::Unix(stream) => connection(stream, site, handle, stop).await,
                            Stream::Tcp(stream) => connection(stream, site, handle, stop).await,
                        }
                        drop(slot);
                    });
                }
                Err(e) => {
                    // Out of descriptors, or a peer that left at once: either way trying again at once would spin.
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // No new peers; the file goes before the last answer does.
        drop(self);
        let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// What is served, and to whom.
#[derive(Clone, Debug)]
enum Site {
    /// The admin API, to a peer the kernel vouches for.
    Admin(String),
    Probes,
}

impl Listener {
    async fn accept(&self) -> io::Result<(Stream, Site)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = match stream.peer_cred() {
                    Ok(who) => format!("uid {} pid {}", who.uid(), who.pid().unwrap_or(0)),
                    Err(_) => "unknown".to_owned(),
                };
                Ok((Stream::Unix(stream), Site::Admin(peer)))
            }
            Self::Tcp(listener) => Ok((Stream::Tcp(listener.accept().await?.0), Site::Probes)),
        }
    }
}

/// Serves one connection until either side has enough of it.
async fn connection<S>(stream: S, site: Site, handle: Handle, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| {
        let (site, handle) = (site.clone(), handle.clone());
        async move { Ok::<_, Infallible>(respond(site, handle, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    // Errors here are peers that left or stuttered; they know.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stop.wait_for(|stop| *stop) => {}
        () = tokio::time::sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}

async fn respond(site: Site, handle: Handle, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let limit = match site {
        Site::Admin(_) if admin::takes_a_file(&head.method, path) => FILE_BYTES,
        _ => BODY_BYTES,
    };
    // One that nobody asked for is read too: that keeps the connection in step. A large one is refused.
    let body = tokio::time::timeout(HEAD_TIMEOUT, Limited::new(body, limit).collect()).await;
    let mut response = match body {
        Err(_) => refuse(&site, StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time"),
        Ok(Err(_)) => refuse(&site, StatusCode::PAYLOAD_TOO_LARGE, "no request here needs a body of that size"),
        Ok(Ok(body)) => match &site {
            Site::Admin(peer) => admin::answer(&handle, &head.method, path, &body.to_bytes(), peer).await,
            Site::Probes => probes::answer(&handle, &head.method, head.uri.path()).await,
        },
    };
    // The command line compares versions when it does not understand an answer.
    response.headers_mut().insert(SERVER, HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION"))));
    if matches!(response.status(), StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An answer to what never became a request, in the words of the site.
fn refuse(site: &Site, status: StatusCode, reason: &'static str) -> Response<Full<Bytes>> {
    match site {
        Site::Admin(_) => admin::error(status, &Failure::new(Exit::Usage, reason)),
        Site::Probes => text(status, reason),
    }
}

/// A plain answer.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

/// An answer of some content type.
pub(super) fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
