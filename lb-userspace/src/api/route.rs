//! The routes of the admin API, for the server and the client alike.
//!
//! A backend's name may hold anything a path may not (`[2001:db8::1]:80`, a slash), so names are percent-encoded
//! (RFC 3986 §2.1), and a path is split before it is decoded.

use hyper::Method;

use crate::model::BackendState;

/// A request to the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Status,
    /// What happened to backends since the event of that number.
    Events {
        after: u64,
    },
    Reload {
        /// Go back unless confirmed within so many seconds.
        confirm: Option<u64>,
    },
    Rollback,
    Confirm,
    /// With a [`super::types::PlanRequest`] as its body, or without one for the running configuration's own file.
    Plan,
    SetBackendState {
        service: String,
        backend: String,
        state: BackendState,
    },
    /// How far a drain has come; flows that are silent for `idle` seconds count as gone.
    DrainProgress {
        service: String,
        backend: String,
        idle: Option<u64>,
    },
    /// With a [`super::types::FlowFilter`] as its body: a question, and too much for a path.
    Flows,
    /// Takes a drained backend's UDP flows away.
    EvictUdp {
        service: String,
        backend: String,
    },
}

/// Why a request is none of the above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    Unknown,
    /// The path exists, with this method.
    WrongMethod(&'static str),
    /// A name is not percent-encoded UTF-8.
    BadName,
    /// What stands behind the `?` is nothing this path knows.
    BadQuery,
}

/// What the API offers, for error messages.
pub const OFFERED: &str = "GET /v1/status, GET /v1/events (?after=NUMBER), POST /v1/reload (?confirm=SECONDS), POST /v1/rollback, POST /v1/confirm, POST /v1/plan, POST /v1/flows, POST /v1/services/SERVICE/backends/BACKEND/drain or .../undrain or .../evict-udp, \
     GET /v1/services/SERVICE/backends/BACKEND/drain (?idle=SECONDS)";

/// How long a configuration may wait to be confirmed, in seconds.
pub const CONFIRM: std::ops::RangeInclusive<u64> = 1..=86_400;

impl Route {
    pub fn method(&self) -> Method {
        match self {
            Self::Status | Self::Events { .. } | Self::DrainProgress { .. } => Method::GET,
            Self::Reload { .. }
            | Self::Rollback
            | Self::Confirm
            | Self::Plan
            | Self::Flows
            | Self::SetBackendState { .. }
            | Self::EvictUdp { .. } => Method::POST,
        }
    }

    pub fn path(&self) -> String {
        match self {
            Self::Status => "/v1/status".to_owned(),
            Self::Events { after: 0 } => "/v1/events".to_owned(),
            Self::Events { after } => format!("/v1/events?after={after}"),
            Self::Reload { confirm: None } => "/v1/reload".to_owned(),
            Self::Reload { confirm: Some(seconds) } => format!("/v1/reload?confirm={seconds}"),
            Self::Rollback => "/v1/rollback".to_owned(),
            Self::Confirm => "/v1/confirm".to_owned(),
            Self::Plan => "/v1/plan".to_owned(),
            Self::Flows => "/v1/flows".to_owned(),
            Self::SetBackendState { service, backend, state } => {
                let verb = match state {
                    BackendState::Drain => "drain",
                    BackendState::Active => "undrain",
                };
                format!("/v1/services/{}/backends/{}/{verb}", encode(service), encode(backend))
            }
            Self::DrainProgress { service, backend, idle } => {
                let query = idle.map_or(String::new(), |seconds| format!("?idle={seconds}"));
                format!("/v1/services/{}/backends/{}/drain{query}", encode(service), encode(backend))
            }
            Self::EvictUdp { service, backend } => {
                format!("/v1/services/{}/backends/{}/evict-udp", encode(service), encode(backend))
            }
        }
    }

    /// `path` with its query, if there is one.
    pub fn parse(method: &Method, path: &str) -> Result<Self, NoRoute> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let parts: Vec<&str> = path.strip_prefix('/').ok_or(NoRoute::Unknown)?.split('/').collect();
        let route = match parts[..] {
            ["v1", "status"] => Self::Status,
            ["v1", "events"] => Self::Events { after: 0 },
            ["v1", "reload"] => Self::Reload { confirm: None },
            ["v1", "rollback"] => Self::Rollback,
            ["v1", "confirm"] => Self::Confirm,
            ["v1", "plan"] => Self::Plan,
            ["v1", "flows"] => Self::Flows,
            ["v1", "services", service, "backends", backend, "drain"]
                if matches!(*method, Method::GET | Method::HEAD) =>
            {
                Self::DrainProgress {
                    service: decode(service).ok_or(NoRoute::BadName)?,
                    backend: decode(backend).ok_or(NoRoute::BadName)?,
                    idle: None,
                }
            }
            ["v1", "services", service, "backends", backend, "evict-udp"] => Self::EvictUdp {
                service: decode(service).ok_or(NoRoute::BadName)?,
                backend: decode(backend).ok_or(NoRoute::BadName)?,
            },
            ["v1", "services", service, "backends", backend, verb @ ("drain" | "undrain")] => Self::SetBackendState {
                service: decode(service).ok_or(NoRoute::BadName)?,
                backend: decode(backend).ok_or(NoRoute::BadName)?,
                state: if verb == "drain" { BackendState::Drain } else { BackendState::Active },
            },
            _ => return Err(NoRoute::Unknown),
        };
        let route = match (route, query) {
            (route, None) => route,
            (Self::DrainProgress { service, backend, .. }, Some(query)) => {
                let seconds = query.strip_prefix("idle=").and_then(|s| s.parse().ok());
                Self::DrainProgress { service, backend, idle: Some(seconds.ok_or(NoRoute::BadQuery)?) }
            }
            (Self::Events { .. }, Some(query)) => {
                let after = query.strip_prefix("after=").and_then(|number| number.parse().ok());
                Self::Events { after: after.ok_or(NoRoute::BadQuery)? }
            }
            (Self::Reload { .. }, Some(query)) => {
                let seconds = query.strip_prefix("confirm=").and_then(|s| s.parse().ok());
                Self::Reload { confirm: Some(seconds.filter(|s| CONFIRM.contains(s)).ok_or(NoRoute::BadQuery)?) }
            }
            _ => return Err(NoRoute::BadQuery),
        };
        match (route.method(), method) {
            (Method::GET, &Method::GET | &Method::HEAD) | (Method::POST, &Method::POST) => Ok(route),
            (Method::GET, _) => Err(NoRoute::WrongMethod("GET")),
            _ => Err(NoRoute::WrongMethod("POST")),
        }
    }
}

fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn decode(part: &str) -> Option<String> {
    let mut out = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push((digit()? * 16 + digit()?) as u8);
    }
    String::from_utf8(out).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_understood_as_it_was_meant() {
        let mut routes = vec![Route::Status, Route::Plan, Route::Flows, Route::Rollback, Route::Confirm];
        routes.extend([0, 1, u64::MAX].map(|after| Route::Events { after }));
        routes.extend([None, Some(1), Some(86_400)].map(|confirm| Route::Reload { confirm }));
        for name in ["10.0.0.11", "[2001:db8::1]:80", "a/b?c#d%20", "ünïcode name"] {
            for state in [BackendState::Drain, BackendState::Active] {
                let (service, backend) = ("web".to_owned(), name.to_owned());
                routes.push(Route::SetBackendState { service, backend, state });
            }
            let (service, backend) = ("web".to_owned(), name.to_owned());
            routes.push(Route::EvictUdp { service: service.clone(), backend: backend.clone() });
            for idle in [None, Some(0), Some(30)] {
                routes.push(Route::DrainProgress { service: service.clone(), backend: backend.clone(), idle });
            }
        }
        for route in routes {
            let path = route.path();
            assert!(path.parse::<hyper::Uri>().is_ok(), "{path} is no URI");
            assert_eq!(Route::parse(&route.method(), &path), Ok(route));
        }
    }

    #[test]
    fn everything_else_is_refused_for_its_reason() {
        let table = [
            (Method::GET, "/", NoRoute::Unknown),
            (Method::GET, "/v2/status", NoRoute::Unknown),
            (Method::GET, "/v1/status/", NoRoute::Unknown),
            (Method::POST, "/v1/status", NoRoute::WrongMethod("GET")),
            (Method::GET, "/v1/reload", NoRoute::WrongMethod("POST")),
            (Method::GET, "/v1/rollback", NoRoute::WrongMethod("POST")),
            (Method::GET, "/v1/confirm", NoRoute::WrongMethod("POST")),
            (Method::POST, "/v1/reload?confirm=", NoRoute::BadQuery),
            (Method::POST, "/v1/reload?confirm=0", NoRoute::BadQuery),
            (Method::POST, "/v1/reload?confirm=-1", NoRoute::BadQuery),
            (Method::POST, "/v1/reload?confirm=86401", NoRoute::BadQuery),
            (Method::POST, "/v1/reload?cofirm=60", NoRoute::BadQuery),
            (Method::GET, "/v1/status?all", NoRoute::BadQuery),
            (Method::GET, "/v1/events?after=-1", NoRoute::BadQuery),
            (Method::POST, "/v1/events", NoRoute::WrongMethod("GET")),
            (Method::GET, "/v1/services/web/backends/b/drain?idle=long", NoRoute::BadQuery),
            (Method::GET, "/v1/services/web/backends/b/evict-udp", NoRoute::WrongMethod("POST")),
            (Method::HEAD, "/v1/reload", NoRoute::WrongMethod("POST")),
            (Method::DELETE, "/v1/services/web/backends/b/drain", NoRoute::WrongMethod("POST")),
            (Method::POST, "/v1/services/web/backends/b/delete", NoRoute::Unknown),
            (Method::POST, "/v1/services//backends/b/drain", NoRoute::BadName),
            (Method::POST, "/v1/services/web/backends/%zz/drain", NoRoute::BadName),
            (Method::POST, "/v1/services/web/backends/%f/drain", NoRoute::BadName),
            (Method::POST, "/v1/services/web/backends/%ff/drain", NoRoute::BadName),
        ];
        for (method, path, reason) in table {
            assert_eq!(Route::parse(&method, path), Err(reason), "{method} {path}");
        }
    }
}
