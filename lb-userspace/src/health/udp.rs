//! The UDP check: a datagram goes out, and one comes back that contains what it should.
//!
//! The trap is silence. A backend that does not answer looks like one that lost the datagram, so what is sent has to be
//! something the service answers. A closed port is told at once: its host says so by ICMP, which the kernel hands to a
//! connected socket. But hosts do not say it often (Linux: once a second to each peer), so it may be silence, too.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;
use tokio::time::timeout_at;

use super::probe::Attempt;
use super::{Outcome, reason};
use crate::model::UdpCheck;

/// One check.
pub async fn check(attempt: Attempt, check: &UdpCheck) -> Outcome {
    let socket = match connect(attempt).await {
        Ok(socket) => socket,
        Err(outcome) => return outcome,
    };
    let mut datagram = vec![0; usize::from(u16::MAX)];
    let exchange = async {
        socket.send(&check.send).await?;
        socket.recv(&mut datagram).await
    };
    let length = match timeout_at(attempt.deadline(), exchange).await {
        Ok(Ok(length)) => length,
        Ok(Err(error)) => return reason::connect_failed(&error, attempt.start.elapsed()),
        Err(_) => return reason::no_answer(attempt.limit),
    };
    let answer = &datagram[..length];
    if check.expect.is_empty() || answer.windows(check.expect.len()).any(|window| window == check.expect) {
        return attempt.passed(format!("answered with {length} bytes"));
    }
    attempt.failed(format!("answered, but not with `{}`", check.expect.escape_ascii()))
}

/// A socket that hears the attempt's address alone.
pub(super) async fn connect(attempt: Attempt) -> Result<UdpSocket, Outcome> {
    let any: SocketAddr = match attempt.address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let connect = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(attempt.address).await?;
        Ok(socket)
    };
    connect.await.map_err(|error| reason::connect_failed(&error, attempt.start.elapsed()))
}
