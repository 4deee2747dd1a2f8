//! What went wrong, in an operator's words — and whose fault it was.
//!
//! The kernel's own texts ("os error 113") say little, and some errors are about this host, not the backend.

use std::io;
use std::time::Duration;

use super::Outcome;

/// A failure to connect, `took` after the start.
pub fn connect_failed(error: &io::Error, took: Duration) -> Outcome {
    let reason = match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "connection refused",
        Some(libc::ECONNRESET) => "connection reset by the backend",
        Some(libc::EHOSTUNREACH) => "no route to host",
        Some(libc::ENETUNREACH) => "no route to its network",
        Some(libc::ETIMEDOUT) => return Outcome::Failed { reason: "no answer".into(), latency: None },
        Some(libc::EPERM | libc::EACCES) => "forbidden by this host's own firewall",
        Some(code) if is_local(code) => return Outcome::Skipped { reason: local(code, error) },
        _ => return Outcome::Failed { reason: format!("cannot connect: {error}"), latency: Some(took) },
    };
    Outcome::Failed { reason: reason.into(), latency: Some(took) }
}

/// Nobody answered the handshake.
pub fn no_answer(timeout: Duration) -> Outcome {
    Outcome::Failed { reason: format!("no answer within {timeout:?}"), latency: None }
}

/// Errors for want of something on this host.
fn is_local(code: i32) -> bool {
    matches!(code, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL | libc::EAGAIN)
}

fn local(code: i32, error: &io::Error) -> String {
    match code {
        libc::EMFILE => "too many open files in this process; raise its limit (LimitNOFILE=)".into(),
        libc::ENFILE => "too many open files on this host; raise fs.file-max".into(),
        libc::EADDRNOTAVAIL | libc::EAGAIN => {
            "no free local port or source address; see net.ipv4.ip_local_port_range and `ip addr`".into()
        }
        _ => format!("this host is out of memory for sockets: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_words_and_a_culprit() {
        let backend = [
            (libc::ECONNREFUSED, "connection refused"),
            (libc::ECONNRESET, "connection reset by the backend"),
            (libc::EHOSTUNREACH, "no route to host"),
            (libc::ENETUNREACH, "no route to its network"),
            (libc::ETIMEDOUT, "no answer"),
            (libc::EPERM, "forbidden by this host's own firewall"),
            (libc::EPROTO, "cannot connect: Protocol error (os error 71)"),
        ];
        for (code, words) in backend {
            let outcome = connect_failed(&io::Error::from_raw_os_error(code), Duration::ZERO);
            assert!(matches!(&outcome, Outcome::Failed { .. }), "{outcome:?}");
            assert_eq!(outcome.reason(), words);
        }
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL, libc::EAGAIN] {
            let outcome = connect_failed(&io::Error::from_raw_os_error(code), Duration::ZERO);
            assert!(matches!(&outcome, Outcome::Skipped { .. }), "{outcome:?}");
        }
        assert_eq!(no_answer(Duration::from_millis(1500)).reason(), "no answer within 1.5s");
    }
}
