//! What is served over TCP: `/metrics`, `/healthz` and `/readyz`. It only ever reads, so it may be open to a network.
//!
//! The trap: `/healthz` answers as long as the process does, whatever the backends do. A supervisor that restarts
//! Sluice because a backend is down makes things worse; `/readyz` is the one that looks at services.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Response, StatusCode};

use crate::api::server::{text, typed};
use crate::api::types::{ServiceState, Status};
use crate::control::handle::Handle;
use crate::metrics;

/// How long the controller may take; probes and scrapers give up after some ten seconds themselves, and without a
/// reason.
const PATIENCE: Duration = Duration::from_secs(5);

const INDEX: &str = "\
sluice
  /metrics  Prometheus metrics
  /healthz  200 while the process is alive
  /readyz   200 while every service has enough healthy backends, and has had them for a while; else 503 and the reasons
";

pub(super) async fn answer(handle: &Handle, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(path, "/" | "/metrics" | "/healthz" | "/readyz") {
        return text(StatusCode::NOT_FOUND, format!("nothing here; there is:\n{INDEX}"));
    }
    if !matches!(method, &Method::GET | &Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET here; changes go through the admin socket\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        "/" => return text(StatusCode::OK, INDEX),
        "/healthz" => return text(StatusCode::OK, "alive\n"),
        _ => {}
    }
    let status = match tokio::time::timeout(PATIENCE, handle.status()).await {
        Ok(Ok(status)) => status,
        Ok(Err(e)) => return text(StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n")),
        Err(_) => return text(StatusCode::SERVICE_UNAVAILABLE, "the controller does not answer\n"),
    };
    if path == "/metrics" {
        return typed(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(&status));
    }
    let reasons = not_ready(&status);
    if reasons.is_empty() { text(StatusCode::OK, "ready\n") } else { text(StatusCode::SERVICE_UNAVAILABLE, reasons) }
}

/// Why traffic should not be sent here, one line per service; empty when it should.
fn not_ready(status: &Status) -> String {
    let mut reasons = String::new();
    for service in status.services.iter().filter(|service| !service.ready) {
        let up = service.backends.iter().filter(|backend| backend.health.takes_traffic()).count();
        reasons.push_str(&format!("service {}: {up} of {} backends up", service.name, service.backends.len()));
        if service.state == ServiceState::Up {
            reasons.push_str(", but not for long enough yet");
        }
        for backend in &service.backends {
            if let (false, Some(reason)) = (backend.health.takes_traffic(), &backend.reason) {
                reasons.push_str(&format!("; {}: {reason}", backend.name));
            }
        }
        reasons.push('\n');
    }
    reasons
}
