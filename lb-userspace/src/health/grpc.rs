//! The gRPC check: the standard health service (grpc.health.v1) says that it serves.
//!
//! Its two messages have one field each, so they are written and read here by hand. The trap: a failed call is an HTTP
//! response of status 200, and what is wrong stands in the trailers, or in the headers where there is no message.

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout_at;

use super::http::{AGENT, Answer, authority};
use super::probe::Attempt;
use super::tls::{self, Secured, Trust};
use super::{Outcome, h2, tcp};
use crate::model::GrpcCheck;

/// One check.
pub async fn check(attempt: Attempt, check: &GrpcCheck, trust: &Trust) -> Outcome {
    let request = match request(attempt, check) {
        Ok(request) => request,
        Err(error) => return Outcome::Skipped { reason: format!("the check makes no valid request: {error}") },
    };
    let stream = match tcp::connect(attempt).await {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    let Some(options) = &check.tls else { return call(attempt, check, stream, request).await };
    let host = check.host.as_deref();
    let Secured { stream, warning: expires } = match tls::secure(attempt, stream, host, &["h2"], options, trust).await {
        Ok(secured) => secured,
        Err(outcome) => return outcome,
    };
    match call(attempt, check, stream, request).await {
        Outcome::Passed { reason, latency, .. } => Outcome::Passed { reason, latency, warning: expires },
        other => other,
    }
}

fn request(attempt: Attempt, check: &GrpcCheck) -> Result<Request<()>, hyper::http::Error> {
    let (scheme, usual_port) = if check.tls.is_some() { ("https", 443) } else { ("http", 80) };
    let host = check.host.clone().unwrap_or_else(|| authority(attempt.address, usual_port));
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::try_from(format!("{scheme}://{host}/grpc.health.v1.Health/Check"))?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, AGENT);
    Ok(request)
}

async fn call<S>(attempt: Attempt, check: &GrpcCheck, stream: S, request: Request<()>) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut answer = Answer::default();
    let message = Bytes::from(question(&check.service));
    let exchange = h2::exchange(stream, request, Some(message), |status| status == StatusCode::OK, &mut answer);
    match timeout_at(attempt.deadline(), exchange).await {
        Ok(Ok(())) => judge(attempt, check, &answer),
        Ok(Err(why)) => attempt.failed(why),
        Err(_) => attempt.silent("no response"),
    }
}

fn judge(attempt: Attempt, check: &GrpcCheck, answer: &Answer) -> Outcome {
    if let Some(status) = answer.status.filter(|status| *status != StatusCode::OK) {
        return attempt.failed(format!("the answer is not gRPC: status {}", status.as_u16()));
    }
    let code = grpc_status(&answer.trailers).or_else(|| grpc_status(&answer.headers));
    let which = if check.service.is_empty() { "the server" } else { &check.service };
    match code.as_deref() {
        Some("0") => match serving(&answer.body) {
            Some("SERVING") => attempt.passed(format!("{which} is SERVING")),
            Some(other) => attempt.failed(format!("{which} is {other}")),
            None => attempt.failed("the answer is not one of the health service"),
        },
        Some("5") => attempt.failed(format!("the health service does not know {which}")),
        Some("12") => attempt.failed("the server has no health service (grpc.health.v1)"),
        Some("16" | "7") => attempt.failed("the health service wants credentials, and checks have none"),
        Some(other) => attempt.failed(format!("the health service answered with gRPC status {other}")),
        None => attempt.failed("the answer is not gRPC: no grpc-status"),
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("grpc-status")?.to_str().ok()?.to_owned())
}

/// `HealthCheckRequest { string service = 1; }` as the one message of a call: not compressed, its length, itself.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    // What is empty is left out (proto3). Names are short: at most 127 bytes, the length of one byte.
    if !service.is_empty() {
        message.extend([0x0a, service.len() as u8]);
        message.extend(service.as_bytes());
    }
    let length = (message.len() as u32).to_be_bytes();
    [[0].as_slice(), &length, &message].concat()
}

/// `HealthCheckResponse { ServingStatus status = 1; }`, by the name of the status.
fn serving(body: &[u8]) -> Option<&'static str> {
    let (head, message) = body.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *head;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return None;
    }
    match message {
        [] | [0x08, 0] => Some("UNKNOWN"),
        [0x08, 1] => Some("SERVING"),
        [0x08, 2] => Some("NOT_SERVING"),
        [0x08, 3] => Some("SERVICE_UNKNOWN"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_are_as_protobuf_has_them() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        for (body, status) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some("SERVING")),
            (&[0, 0, 0, 0, 2, 8, 2], Some("NOT_SERVING")),
            (&[0, 0, 0, 0, 0], Some("UNKNOWN")),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 2, 8, 9], None),
            (b"<html>", None),
            (b"", None),
        ] {
            assert_eq!(serving(body), status, "{body:?}");
        }
    }
}
