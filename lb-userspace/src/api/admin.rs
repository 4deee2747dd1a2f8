//! The admin API's answers. It knows nothing of maps or checks: every question goes to the controller.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;

use crate::api::route::{NoRoute, OFFERED, Route};
use crate::api::server::typed;
use crate::api::types::{ApiError, FlowFilter, PlanRequest};
use crate::control::handle::Handle;
use crate::exit::{Exit, Failure};
use crate::model::BackendState;

type Answer = Response<Full<Bytes>>;

/// Answers one request of `peer`, who is named in the log when something changes.
pub(super) async fn answer(handle: &Handle, method: &Method, path: &str, body: &[u8], peer: &str) -> Answer {
    let route = match Route::parse(method, path) {
        Ok(route) => route,
        Err(NoRoute::Unknown) => {
            let refused = Failure::new(Exit::Usage, format!("there is no {path} in the admin API"))
                .hint(format!("it offers {OFFERED}"));
            return error(StatusCode::NOT_FOUND, &refused);
        }
        Err(NoRoute::BadName) => {
            let refused = Failure::new(Exit::Usage, "a name in the path is empty or not percent-encoded UTF-8")
                .hint("encode `[`, `]`, `/` and `%` in the names of services and backends");
            return error(StatusCode::BAD_REQUEST, &refused);
        }
        Err(NoRoute::BadQuery) => {
            let refused = Failure::new(Exit::Usage, "nothing here knows what stands behind the `?`").hint(
                "a reload knows `?confirm=SECONDS`, the progress of a drain `?idle=SECONDS`, events `?after=NUMBER`",
            );
            return error(StatusCode::BAD_REQUEST, &refused);
        }
        Err(NoRoute::WrongMethod(allowed)) => {
            let refused = Failure::new(Exit::Usage, format!("{path} wants {allowed}, not {method}"));
            let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &refused);
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return answer;
        }
    };
    match &route {
        Route::Status | Route::Events { .. } | Route::Plan | Route::Flows | Route::DrainProgress { .. } => {}
        Route::EvictUdp { service, backend } => {
            tracing::info!("eviction of the UDP flows of {service}/{backend} asked for by {peer}");
        }
        Route::Reload { .. } => tracing::info!("reload asked for by {peer}"),
        Route::Rollback => tracing::info!("rollback asked for by {peer}"),
        Route::Confirm => tracing::info!("confirmed by {peer}"),
        Route::SetBackendState { service, backend, state } => {
            let verb = if *state == BackendState::Drain { "drain" } else { "undrain" };
            tracing::info!("{verb} of {service}/{backend} asked for by {peer}");
        }
    }
    let names = matches!(route, Route::SetBackendState { .. } | Route::DrainProgress { .. } | Route::EvictUdp { .. });
    let outcome = match route {
        Route::Status => handle.status().await.map(|status| json(StatusCode::OK, &status)),
        Route::Events { after } => handle.events(after).await.map(|events| json(StatusCode::OK, &events)),
        Route::Reload { confirm } => {
            let confirm = confirm.map(Duration::from_secs);
            handle.reload(confirm).await.map(|applied| json(StatusCode::OK, &applied))
        }
        Route::DrainProgress { service, backend, idle } => {
            let idle = idle.map(Duration::from_secs);
            handle.drain_progress(service, backend, idle).await.map(|progress| json(StatusCode::OK, &progress))
        }
        Route::EvictUdp { service, backend } => {
            handle.evict_udp(service, backend).await.map(|evicted| json(StatusCode::OK, &evicted))
        }
        Route::Flows => match filter(body) {
            Ok(filter) => handle.flows(filter).await.map(|flows| json(StatusCode::OK, &flows)),
            Err(failure) => Err(failure),
        },
        Route::Rollback => handle.roll_back().await.map(|applied| json(StatusCode::OK, &applied)),
        Route::Confirm => handle.confirm().await.map(|confirmed| json(StatusCode::OK, &confirmed)),
        Route::Plan => match file(body) {
            Ok(file) => handle.plan(file).await.map(|plan| json(StatusCode::OK, &plan)),
            Err(failure) => Err(failure),
        },
        Route::SetBackendState { service, backend, state } => {
            handle.set_backend_state(service, backend, state).await.map(|changed| json(StatusCode::OK, &changed))
        }
    };
    outcome.unwrap_or_else(|failure| error(status_code(failure.exit, names), &failure))
}

/// Whether a request comes with a whole file.
pub(super) fn takes_a_file(method: &Method, path: &str) -> bool {
    matches!(Route::parse(method, path), Ok(Route::Plan))
}

fn file(body: &[u8]) -> Result<Option<PlanRequest>, Failure> {
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(body).map(Some).map_err(|e| {
        Failure::new(Exit::Usage, format!("the body is no JSON object with `file` and `text`: {e}"))
            .hint("send the file as `{ \"file\": NAME, \"text\": YAML }`, or no body for the daemon's own file")
    })
}

/// Without a body, the first flows of all.
fn filter(body: &[u8]) -> Result<FlowFilter, Failure> {
    if body.is_empty() {
        return Ok(FlowFilter { service: None, client: None, backend: None, limit: 1_000 });
    }
    serde_json::from_slice(body).map_err(|e| {
        Failure::new(Exit::Usage, format!("the body is no filter: {e}"))
            .hint("such as `{ \"service\": \"web\", \"limit\": 1000 }`; it knows `client` and `backend`, too")
    })
}

/// The HTTP status of a failure. `names`: the path named something, which may not exist.
fn status_code(exit: Exit, names: bool) -> StatusCode {
    match exit {
        Exit::Usage if names => StatusCode::NOT_FOUND,
        Exit::Usage => StatusCode::BAD_REQUEST,
        Exit::ConfigInvalid => StatusCode::UNPROCESSABLE_ENTITY,
        Exit::DaemonUnreachable => StatusCode::SERVICE_UNAVAILABLE,
        Exit::Degraded => StatusCode::CONFLICT,
        Exit::Ok | Exit::Failed | Exit::HostUnsupported => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A failure as an answer.
pub(super) fn error(status: StatusCode, failure: &Failure) -> Answer {
    let body = ApiError { error: failure.message.clone(), hint: failure.hint.clone(), exit: failure.exit as u8 };
    json(status, &body)
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    match serde_json::to_string(value) {
        Ok(body) => typed(status, "application/json", body + "\n"),
        Err(e) => typed(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", format!("{e}\n")),
    }
}
