//! The HTTP check: one HTTP/1.1 request, and the status it is answered with.
//!
//! The whole response must arrive within the check's time: a server that sends its status line and then hangs is
//! not healthy. Redirects are codes like any other and are not followed. The traps: a body without end (only
//! [`BODY_LIMIT`] of it is read), and headers that trickle in so slowly that no single read ever times out (one
//! deadline covers everything).

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::{Outcome, tcp};
use crate::model::HttpCheck;

/// Bytes of body read before we have seen enough. No health page is larger, and what is larger must not cost us.
pub const BODY_LIMIT: usize = 64 * 1024;

/// Bytes of response head accepted.
const HEAD_LIMIT: usize = 64 * 1024;

/// One check of `address`, decided within `limit`.
pub async fn check(address: SocketAddr, http: &HttpCheck, limit: Duration) -> Outcome {
    let start = Instant::now();
    let request = match request(address, http) {
        Ok(request) => request,
        Err(error) => return Outcome::Skipped { reason: format!("the check makes no valid request: {error}") },
    };
    let stream = match tcp::connect(address, start, limit).await {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    let deadline = start + limit;
    let failed = |reason: String| Outcome::Failed { reason, latency: Some(start.elapsed()) };
    let silent =
        |what: &str| Outcome::Failed { reason: format!("connected, but {what} within {limit:?}"), latency: None };

    let handshake = http1::Builder::new()
        // Some small servers take header names literally.
        .title_case_headers(true)
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = match handshake.await {
        Ok(parts) => parts,
        Err(error) => return failed(in_words(&error)),
    };
    let exchange = async move {
        let response = match timeout_at(deadline, sender.send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return failed(in_words(&error)),
            Err(_) => return silent("no response"),
        };
        let status = response.status().as_u16();
        if !http.expect.iter().any(|&(low, high)| (low..=high).contains(&status)) {
            return failed(format!("status {status}, expected {}", ranges(&http.expect)));
        }
        match timeout_at(deadline, read_body(response)).await {
            Ok(Ok(())) => Outcome::Passed { reason: format!("status {status}"), latency: start.elapsed() },
            Ok(Err(_)) => failed(format!("status {status}, but the connection closed before the end of the response")),
            Err(_) => silent(&format!("status {status} was not followed by a whole response")),
        }
    };
    // The connection does the exchange's reading and writing; both end with this function, and the socket too.
    match select(std::pin::pin!(exchange), std::pin::pin!(connection)).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right((_, exchange)) => exchange.await,
    }
}

fn request(address: SocketAddr, http: &HttpCheck) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::from_bytes(http.method.as_bytes())?;
    *request.uri_mut() = Uri::try_from(http.path.as_str())?;
    let headers = request.headers_mut();
    for (name, value) in &http.headers {
        headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
    }
    if let Some(host) = &http.host {
        headers.insert(HOST, HeaderValue::from_str(host)?);
    } else if !headers.contains_key(HOST) {
        // RFC 9110 §7.2: the port is left out where it is the scheme's own.
        let host = match (address.port(), address) {
            (80, SocketAddr::V6(v6)) => format!("[{}]", v6.ip()),
            (80, _) => address.ip().to_string(),
            _ => address.to_string(),
        };
        headers.insert(HOST, HeaderValue::from_str(&host)?);
    }
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// Reads to the end of the body, or to [`BODY_LIMIT`].
async fn read_body(response: Response<Incoming>) -> hyper::Result<()> {
    let mut body = response.into_body();
    let mut seen = 0;
    while seen <= BODY_LIMIT {
        match body.frame().await {
            Some(frame) => seen += frame?.data_ref().map_or(0, Bytes::len),
            None => break,
        }
    }
    Ok(())
}

fn in_words(error: &hyper::Error) -> String {
    if error.is_parse() {
        return "the answer is not HTTP/1".into();
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                std::io::ErrorKind::ConnectionReset => "connection reset before a response".into(),
                std::io::ErrorKind::BrokenPipe => "connection closed before a response".into(),
                _ => format!("connection failed before a response: {io}"),
            };
        }
        source = cause.source();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "connection closed before a response".into();
    }
    format!("no valid response: {error}")
}

/// "200-299, 404".
fn ranges(expect: &[(u16, u16)]) -> String {
    let each = expect.iter().map(|&(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> HttpCheck {
        HttpCheck {
            method: "GET".into(),
            path: "/healthz?deep=1".into(),
            host: None,
            headers: vec![],
            expect: vec![(200, 299)],
        }
    }

    #[test]
    fn the_host_header_is_the_address_unless_given() {
        let table = [
            ("10.0.0.1:8080", None, None, "10.0.0.1:8080"),
            ("10.0.0.1:80", None, None, "10.0.0.1"),
            ("[2001:db8::1]:80", None, None, "[2001:db8::1]"),
            ("[2001:db8::1]:8080", None, None, "[2001:db8::1]:8080"),
            ("10.0.0.1:8080", Some("a.example"), None, "a.example"),
            ("10.0.0.1:8080", None, Some("b.example"), "b.example"),
        ];
        for (address, host, header, expected) in table {
            let check = HttpCheck {
                host: host.map(Into::into),
                headers: header.map(|h: &str| ("host".into(), h.into())).into_iter().collect(),
                ..plain()
            };
            let request = request(address.parse().unwrap(), &check).unwrap();
            let hosts: Vec<_> = request.headers().get_all(HOST).iter().collect();
            assert_eq!(hosts, [expected], "{address} {host:?} {header:?}");
            assert_eq!(request.uri(), "/healthz?deep=1");
            assert_eq!(request.headers()[CONNECTION], "close");
        }
    }

    #[test]
    fn a_request_that_cannot_be_sent_says_so() {
        for check in [
            HttpCheck { method: "GET IT".into(), ..plain() },
            HttpCheck { path: "no slash here".into(), ..plain() },
            HttpCheck { host: Some("a\r\nb".into()), ..plain() },
            HttpCheck { headers: vec![("bad name".into(), "x".into())], ..plain() },
        ] {
            assert!(request("10.0.0.1:80".parse().unwrap(), &check).is_err(), "{check:?}");
        }
    }

    #[test]
    fn expected_codes_read_as_they_are_written() {
        assert_eq!(ranges(&[(200, 299), (404, 404)]), "200-299, 404");
    }
}
