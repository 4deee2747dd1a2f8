//! One request over HTTP/2, for the checks that speak it.
//!
//! The connection is not a task of its own, as HTTP libraries like it: it is driven here and ends with the exchange, so
//! that a check that ran out of time leaves nothing behind. The trap is flow control: a body that nobody gives credit
//! for stops after 64 KiB, and the check with it.

use std::future::poll_fn;

use futures_util::future::{Either, select};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::http::{Answer, BODY_LIMIT, HEAD_LIMIT};

/// Sends a request, with a body if there is one, and reads as much of the response as is of interest: its body only if
/// the status is `wanted`.
pub(super) async fn exchange<S>(
    stream: S,
    request: Request<()>,
    body: Option<Bytes>,
    wanted: impl Fn(StatusCode) -> bool,
    answer: &mut Answer,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(HEAD_LIMIT as u32);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(|error| in_words(&error))?;
    let exchange = async move {
        let mut sender = sender.ready().await?;
        let (response, mut upload) = sender.send_request(request, body.is_none())?;
        if let Some(body) = body {
            // Small enough for what every peer grants from the start (RFC 9113 §6.9.2).
            upload.send_data(body, true)?;
        }
        let (head, mut body) = response.await?.into_parts();
        answer.status = Some(head.status);
        answer.headers = head.headers;
        if !wanted(head.status) {
            return Ok(());
        }
        while answer.body.len() <= BODY_LIMIT {
            let Some(data) = body.data().await else {
                answer.trailers = poll_fn(|context| body.poll_trailers(context)).await?.unwrap_or_default();
                break;
            };
            let data = data?;
            answer.body.extend_from_slice(&data);
            body.flow_control().release_capacity(data.len())?;
        }
        Ok(())
    };
    let end: Result<(), h2::Error> = match select(std::pin::pin!(exchange), std::pin::pin!(connection)).await {
        Either::Left((end, _)) => end,
        Either::Right((Err(error), _)) => Err(error),
        Either::Right((Ok(()), exchange)) => exchange.await,
    };
    end.map_err(|error| in_words(&error))
}

fn in_words(error: &h2::Error) -> String {
    match error.get_io().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionReset) => "connection reset before a response".into(),
        Some(_) => "connection closed before a response".into(),
        // What the backend complains of comes from remote; what we complain of is how it speaks.
        None if error.is_library() => "the answer is not HTTP/2".into(),
        None => format!("no valid response: {error}"),
    }
}
