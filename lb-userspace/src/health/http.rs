//! The HTTP and HTTPS checks: one request, the status it is answered with, and what the body holds.
//!
//! The whole response must arrive within the check's time: a server that sends its status line and then hangs is
//! not healthy. Redirects are codes like any other and are not followed. The traps: a body without end (only
//! [`BODY_LIMIT`] of it is read), and headers that trickle in so slowly that no single read ever times out (one
//! deadline covers everything).

use std::net::SocketAddr;

use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout_at;

use super::probe::Attempt;
use super::tls::{self, Secured, Trust};
use super::{Outcome, h2, tcp};
use crate::model::{HttpCheck, HttpVersion, HttpsCheck};

/// Bytes of body read before we have seen enough. No health page is larger, and what is larger must not cost us.
pub const BODY_LIMIT: usize = 64 * 1024;

/// Bytes of response head accepted.
pub(super) const HEAD_LIMIT: usize = 64 * 1024;

pub(super) const AGENT: HeaderValue = HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION")));

/// One check in the clear.
pub async fn check(attempt: Attempt, http: &HttpCheck) -> Outcome {
    let request = match request(attempt.address, http, Scheme::Http) {
        Ok(request) => request,
        Err(error) => return no_request(&error),
    };
    let stream = match tcp::connect(attempt).await {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    let mut answer = Answer::default();
    let end = timeout_at(attempt.deadline(), over_http1(stream, request, http, &mut answer)).await;
    judge(attempt, http, &answer, end.ok())
}

/// One check inside TLS.
pub async fn check_secure(attempt: Attempt, https: &HttpsCheck, trust: &Trust) -> Outcome {
    let HttpsCheck { http, alpn, tls } = https;
    let (scheme, name) = match alpn {
        HttpVersion::Http1 => (Scheme::Https, "http/1.1"),
        HttpVersion::Http2 => (Scheme::Http2, "h2"),
    };
    let request = match request(attempt.address, http, scheme) {
        Ok(request) => request,
        Err(error) => return no_request(&error),
    };
    let stream = match tcp::connect(attempt).await {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    let Secured { stream, warning } =
        match tls::secure(attempt, stream, http.host.as_deref(), &[name], tls, trust).await {
            Ok(secured) => secured,
            Err(outcome) => return outcome,
        };
    let mut answer = Answer::default();
    let end = match alpn {
        HttpVersion::Http1 => timeout_at(attempt.deadline(), over_http1(stream, request, http, &mut answer)).await,
        HttpVersion::Http2 => {
            let exchange = h2::exchange(stream, request, None, |status| http.is_expected(status), &mut answer);
            timeout_at(attempt.deadline(), exchange).await
        }
    };
    match judge(attempt, http, &answer, end.ok()) {
        Outcome::Passed { reason, latency, .. } => Outcome::Passed { reason, latency, warning },
        other => other,
    }
}

fn no_request(error: &hyper::http::Error) -> Outcome {
    Outcome::Skipped { reason: format!("the check makes no valid request: {error}") }
}

/// As much of a response as arrived, so that it is there when time runs out.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub status: Option<StatusCode>,
    pub headers: HeaderMap,
    /// At most [`BODY_LIMIT`], and whatever came with its last byte.
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl HttpCheck {
    fn is_expected(&self, status: StatusCode) -> bool {
        self.expect.iter().any(|&(low, high)| (low..=high).contains(&status.as_u16()))
    }

    /// What is wrong with a body.
    fn misses_in(&self, body: &[u8]) -> Option<String> {
        let body = &body[..body.len().min(BODY_LIMIT)];
        let within = if body.len() == BODY_LIMIT { " in its first 64 KiB" } else { "" };
        if let Some(text) = &self.body_contains
            && !String::from_utf8_lossy(body).contains(text)
        {
            return Some(format!("its body does not contain `{}`{within}", short(text)));
        }
        let pattern = self.body_matches.as_ref().filter(|pattern| !pattern.is_match(body))?;
        Some(format!("its body does not match `{}`{within}", short(pattern.as_str())))
    }
}

/// The beginning of a text, for a reason.
fn short(text: &str) -> String {
    const ENOUGH: usize = 60;
    let cut = text.chars().count() > ENOUGH;
    if cut { format!("{}…", text.chars().take(ENOUGH).collect::<String>()) } else { text.to_owned() }
}

/// What the answer means. `end` is how the exchange ended, `None` if time ran out before.
fn judge(attempt: Attempt, http: &HttpCheck, answer: &Answer, end: Option<Result<(), String>>) -> Outcome {
    let Some(status) = answer.status else {
        return match end {
            Some(Err(why)) => attempt.failed(why),
            Some(Ok(())) => attempt.failed("connection closed before a response"),
            None => attempt.silent("no response"),
        };
    };
    let code = status.as_u16();
    if !http.is_expected(status) {
        return attempt.failed(format!("status {code}, expected {}", ranges(&http.expect)));
    }
    match end {
        Some(Ok(())) => match http.misses_in(&answer.body) {
            Some(what) => attempt.failed(format!("status {code}, but {what}")),
            None => attempt.passed(format!("status {code}")),
        },
        Some(Err(_)) => {
            attempt.failed(format!("status {code}, but the connection closed before the end of the response"))
        }
        None => attempt.silent(&format!("status {code} was not followed by a whole response")),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    /// Inside TLS, like the other one.
    Http2,
}

fn request(address: SocketAddr, http: &HttpCheck, scheme: Scheme) -> Result<Request<()>, hyper::http::Error> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(http.method.as_bytes())?;
    let usual_port = if scheme == Scheme::Http { 80 } else { 443 };
    let host = http.host.clone().unwrap_or_else(|| authority(address, usual_port));
    let headers = request.headers_mut();
    for (name, value) in &http.headers {
        headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
    }
    headers.entry(USER_AGENT).or_insert(AGENT);
    if scheme == Scheme::Http2 {
        // RFC 9113 §8.3.1: the host is a part of the URI, and §8.2.2: there is no Connection header.
        *request.uri_mut() = Uri::try_from(format!("https://{host}{}", http.path))?;
    } else {
        headers.insert(HOST, HeaderValue::from_str(&host)?);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        *request.uri_mut() = Uri::try_from(http.path.as_str())?;
    }
    Ok(request)
}

/// RFC 9110 §7.2: the port is left out where it is the scheme's own.
pub(super) fn authority(address: SocketAddr, usual_port: u16) -> String {
    match address {
        SocketAddr::V6(v6) if v6.port() == usual_port => format!("[{}]", v6.ip()),
        SocketAddr::V4(v4) if v4.port() == usual_port => v4.ip().to_string(),
        _ => address.to_string(),
    }
}

/// Sends a request and reads as much of the response as is of interest.
async fn over_http1<S>(stream: S, request: Request<()>, http: &HttpCheck, answer: &mut Answer) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = http1::Builder::new()
        // Some small servers take header names literally.
        .title_case_headers(true)
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| in_words(&error))?;
    let exchange = async move {
        let response = sender.send_request(request.map(|()| Empty::<Bytes>::new())).await?;
        answer.status = Some(response.status());
        if !http.is_expected(response.status()) {
            return Ok(());
        }
        let mut body = response.into_body();
        while answer.body.len() <= BODY_LIMIT
            && let Some(frame) = body.frame().await
        {
            answer.body.extend_from_slice(frame?.data_ref().map_or(&[], |data| data));
        }
        Ok(())
    };
    // The connection does the exchange's reading and writing; both end with this function, and the socket too.
    let end = match select(std::pin::pin!(exchange), std::pin::pin!(connection)).await {
        Either::Left((end, _)) => end,
        Either::Right((_, exchange)) => exchange.await,
    };
    end.map_err(|error| in_words(&error))
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
    use crate::model::Pattern;

    fn plain() -> HttpCheck {
        HttpCheck {
            method: "GET".into(),
            path: "/healthz?deep=1".into(),
            host: None,
            headers: vec![],
            expect: vec![(200, 299)],
            body_contains: None,
            body_matches: None,
        }
    }

    #[test]
    fn the_host_header_is_the_address_unless_given() {
        let table = [
            ("10.0.0.1:8080", None, "10.0.0.1:8080"),
            ("10.0.0.1:80", None, "10.0.0.1"),
            ("10.0.0.1:443", None, "10.0.0.1:443"),
            ("[2001:db8::1]:80", None, "[2001:db8::1]"),
            ("[2001:db8::1]:8080", None, "[2001:db8::1]:8080"),
            ("10.0.0.1:8080", Some("a.example"), "a.example"),
        ];
        for (address, host, expected) in table {
            let check = HttpCheck { host: host.map(Into::into), ..plain() };
            let request = request(address.parse().unwrap(), &check, Scheme::Http).unwrap();
            let hosts: Vec<_> = request.headers().get_all(HOST).iter().collect();
            assert_eq!(hosts, [expected], "{address} {host:?}");
            assert_eq!(request.uri(), "/healthz?deep=1");
            assert_eq!(request.headers()[CONNECTION], "close");
        }
        let secure = |scheme| request("10.0.0.1:443".parse().unwrap(), &plain(), scheme).unwrap();
        assert_eq!(secure(Scheme::Https).headers()[HOST], "10.0.0.1");
        assert_eq!(secure(Scheme::Http2).uri(), "https://10.0.0.1/healthz?deep=1");
        assert!(!secure(Scheme::Http2).headers().contains_key(HOST));
    }

    #[test]
    fn a_request_that_cannot_be_sent_says_so() {
        for check in [
            HttpCheck { method: "GET IT".into(), ..plain() },
            HttpCheck { path: "/no spaces here".into(), ..plain() },
            HttpCheck { host: Some("a\r\nb".into()), ..plain() },
            HttpCheck { headers: vec![("bad name".into(), "x".into())], ..plain() },
        ] {
            for scheme in [Scheme::Http, Scheme::Http2] {
                assert!(request("10.0.0.1:80".parse().unwrap(), &check, scheme).is_err(), "{check:?}");
            }
        }
    }

    #[test]
    fn what_a_body_lacks_is_named_and_nothing_beyond_the_limit_is_looked_at() {
        let wants = |contains: Option<&str>, matches: Option<&str>| HttpCheck {
            body_contains: contains.map(Into::into),
            body_matches: matches.map(|pattern| Pattern::new(pattern).unwrap()),
            ..plain()
        };
        let long = [vec![b'x'; BODY_LIMIT], b"up".to_vec()].concat();
        let table: [(_, &[u8], _); 8] = [
            (wants(None, None), b"", None),
            (wants(Some("up"), None), b"I am up", None),
            (wants(Some("up"), None), b"I am down", Some("its body does not contain `up`")),
            (wants(Some("up"), None), b"\xff up", None),
            (wants(None, Some("^(up|ok)$")), b"ok", None),
            (wants(None, Some("^(up|ok)$")), b"ok\n", Some("its body does not match `^(up|ok)$`")),
            (wants(Some("ok"), Some("[0-9]+")), b"ok", Some("its body does not match `[0-9]+`")),
            (wants(Some("up"), None), &long, Some("its body does not contain `up` in its first 64 KiB")),
        ];
        for (check, body, expected) in table {
            assert_eq!(check.misses_in(body).as_deref(), expected, "{check:?}");
        }
    }

    #[test]
    fn expected_codes_read_as_they_are_written() {
        assert_eq!(ranges(&[(200, 299), (404, 404)]), "200-299, 404");
    }
}
