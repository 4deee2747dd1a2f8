//! The admin API as the command line calls it: one connection per request, over the unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{HOST, SERVER};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::route::Route;
use crate::api::types::{
    ApiError, Applied, Confirmed, DrainAnswer, DrainProgress, Events, Evicted, FlowFilter, Flows, Plan, PlanRequest,
    Status,
};
use crate::exit::{Exit, Failure};
use crate::model::BackendState;

/// A status with thousands of backends is some megabytes.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// How long the daemon may take to answer a question.
const QUESTION: Duration = Duration::from_secs(10);
/// How long it may take to change something: a reload may load another program, and wait for `node.min_ring_interval`
/// before that.
const CHANGE: Duration = Duration::from_secs(110);

/// Talks to the daemon at one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub async fn status(&self) -> Result<Status, Failure> {
        self.call(Route::Status, Bytes::new(), QUESTION).await
    }

    /// What happened to backends since the event of this number.
    pub async fn events(&self, after: u64) -> Result<Events, Failure> {
        self.call(Route::Events { after }, Bytes::new(), QUESTION).await
    }

    pub async fn reload(&self, confirm: Option<Duration>) -> Result<Applied, Failure> {
        self.call(Route::Reload { confirm: confirm.map(|patience| patience.as_secs()) }, Bytes::new(), CHANGE).await
    }

    pub async fn roll_back(&self) -> Result<Applied, Failure> {
        self.call(Route::Rollback, Bytes::new(), CHANGE).await
    }

    pub async fn confirm(&self) -> Result<Confirmed, Failure> {
        self.call(Route::Confirm, Bytes::new(), QUESTION).await
    }

    /// What a reload would change: with this file, or with the daemon's own.
    pub async fn plan(&self, what: Option<&PlanRequest>) -> Result<Plan, Failure> {
        let body = what.map(serde_json::to_vec).transpose();
        let body = body.map_err(|e| Failure::new(Exit::Failed, format!("cannot send the file: {e}")))?;
        self.call(Route::Plan, body.unwrap_or_default().into(), CHANGE).await
    }

    pub async fn set_backend_state(
        &self,
        service: String,
        backend: String,
        state: BackendState,
    ) -> Result<DrainAnswer, Failure> {
        self.call(Route::SetBackendState { service, backend, state }, Bytes::new(), CHANGE).await
    }

    /// How far a drain has come. Flows that are silent for `idle` count as gone.
    pub async fn drain_progress(
        &self,
        service: String,
        backend: String,
        idle: Option<Duration>,
    ) -> Result<DrainProgress, Failure> {
        let idle = idle.map(|idle| idle.as_secs());
        self.call(Route::DrainProgress { service, backend, idle }, Bytes::new(), QUESTION).await
    }

    pub async fn flows(&self, filter: &FlowFilter) -> Result<Flows, Failure> {
        let body = serde_json::to_vec(filter);
        let body = body.map_err(|e| Failure::new(Exit::Failed, format!("cannot ask: {e}")))?;
        self.call(Route::Flows, body.into(), CHANGE).await
    }

    /// Takes a drained backend's UDP flows away.
    pub async fn evict_udp(&self, service: String, backend: String) -> Result<Evicted, Failure> {
        self.call(Route::EvictUdp { service, backend }, Bytes::new(), CHANGE).await
    }

    async fn call<T: DeserializeOwned>(&self, route: Route, body: Bytes, patience: Duration) -> Result<T, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        match tokio::time::timeout(patience, exchange(stream, &route, body)).await {
            Ok(Ok(answer)) => answer.understand(),
            Ok(Err(e)) => Err(Failure::new(
                Exit::DaemonUnreachable,
                format!("the daemon at {} hung up: {e}", self.socket.display()),
            )
            .hint("is it stopping? its log says why: `journalctl -u sluice`")),
            Err(_) => Err(Failure::new(
                Exit::Failed,
                format!("the daemon at {} took the request but did not answer in {patience:?}", self.socket.display()),
            )
            .hint("it may still do what was asked; its log says more: `journalctl -u sluice`")),
        }
    }

    /// What to do about a socket nobody answers on.
    fn unreachable(&self, e: &io::Error) -> Failure {
        let hint = match e.kind() {
            io::ErrorKind::NotFound => {
                "is the daemon running? start it with `sluice run -c FILE`; if its `admin.socket` is elsewhere, give --socket PATH or set SLUICE_SOCKET"
            }
            io::ErrorKind::ConnectionRefused => {
                "the socket is there but nobody listens: the daemon is gone; start it with `sluice run -c FILE`"
            }
            io::ErrorKind::PermissionDenied => "use sudo, or join the group that owns the socket (mode 0660)",
            _ => "give the daemon's socket with --socket PATH or SLUICE_SOCKET",
        };
        Failure::new(Exit::DaemonUnreachable, format!("cannot reach the daemon at {}: {e}", self.socket.display()))
            .hint(hint)
    }
}

struct Answer {
    success: bool,
    code: u16,
    server: String,
    body: Bytes,
}

async fn exchange(
    stream: UnixStream,
    route: &Route,
    body: Bytes,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request =
        Request::builder().method(route.method()).uri(route.path()).header(HOST, "sluice").body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
    driver.abort();
    Ok(Answer {
        success: head.status.is_success(),
        code: head.status.as_u16(),
        server: head.headers.get(SERVER).and_then(|name| name.to_str().ok()).unwrap_or("an unknown server").to_owned(),
        body,
    })
}

impl Answer {
    fn understand<T: DeserializeOwned>(self) -> Result<T, Failure> {
        if !self.success {
            return Err(match serde_json::from_slice::<ApiError>(&self.body) {
                // An error is never exit 0, whatever the other side says.
                Ok(e) if e.exit == 0 => Failure { exit: Exit::Failed, message: e.error, hint: e.hint },
                Ok(e) => Failure { exit: Exit::from_code(e.exit), message: e.error, hint: e.hint },
                Err(_) => self.strange(&format!("HTTP {}", self.code)),
            });
        }
        serde_json::from_slice(&self.body).map_err(|e| self.strange(&e.to_string()))
    }

    fn strange(&self, what: &str) -> Failure {
        Failure::new(Exit::Failed, format!("cannot understand the daemon's answer: {what}")).hint(format!(
            "the daemon says it is {}, this command is sluice/{}; use the command of the daemon's version",
            self.server,
            env!("CARGO_PKG_VERSION")
        ))
    }
}
