//! The TCP check: the handshake completes.
//!
//! The trap is the goodbye. Closing a socket while the peer still sends (a mail server's greeting) makes the
//! kernel answer with RST, and the backend's log fills with "connection reset". So we say FIN first, wait a
//! little for the peer's, and drop what it sends meanwhile.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};

use super::probe::Attempt;
use super::{Outcome, reason};

/// How long we wait for the peer's FIN after ours. Servers that read see ours at once; the others lose nothing
/// by a RST.
const GOODBYE: Duration = Duration::from_millis(200);

/// One check.
pub async fn check(attempt: Attempt) -> Outcome {
    match connect(attempt).await {
        Ok(stream) => {
            let outcome = attempt.passed("connected");
            tokio::spawn(say_goodbye(stream));
            outcome
        }
        Err(outcome) => outcome,
    }
}

/// A connection, made in time.
pub(super) async fn connect(attempt: Attempt) -> Result<TcpStream, Outcome> {
    let Attempt { address, start, limit } = attempt;
    match timeout_at(attempt.deadline(), TcpStream::connect(address)).await {
        // Nobody listens on a port of this very host in the ephemeral range, and the kernel has just chosen the
        // same as our source: TCP's simultaneous open connects the socket to itself.
        Ok(Ok(stream)) if stream.local_addr().is_ok_and(|local| local == address) => {
            let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
            Err(reason::connect_failed(&refused, start.elapsed()))
        }
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(reason::connect_failed(&error, start.elapsed())),
        Err(_) => Err(reason::no_answer(limit)),
    }
}

/// Ends a connection without RST where the peer lets us.
pub(super) async fn say_goodbye(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let goodbye = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut ignored = [0; 512];
        while matches!(stream.read(&mut ignored).await, Ok(n) if n > 0) {}
    };
    // Out of time is as good as closed: the socket goes either way.
    let _ = timeout(GOODBYE, goodbye).await;
}
