//! The ICMP check: an echo request is answered.
//!
//! The kernel has sockets for this that need no privilege ("ping sockets"), if `net.ipv4.ping_group_range` has our
//! group; else a raw socket, which needs CAP_NET_RAW and sees every ICMP packet of the backend: the number and the
//! sequence have to be ours. A host that answers pings may have no service any more, so this is for what has no port.

use std::io;
use std::net::{IpAddr, SocketAddr};

use lb_common::csum;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::timeout_at;

use super::probe::Attempt;
use super::schedule::Random;
use super::{Outcome, reason};

/// Type, code, checksum, number, sequence (RFC 792; RFC 4443 §4.1).
const HEADER: usize = 8;
/// `ping` sends as much by default, and what answers pings answers these.
const PAYLOAD: &[u8; 56] = b"A health check of Sluice: is this host still there?     ";

/// One check; the attempt's port has no meaning.
pub async fn check(attempt: Attempt) -> Outcome {
    let peer = attempt.address.ip();
    let (socket, raw) = match open(peer) {
        Ok(opened) => opened,
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
            let reason = "this host does not let us ping; CAP_NET_RAW or net.ipv4.ping_group_range would".to_owned();
            return Outcome::Skipped { reason };
        }
        Err(error) => return reason::connect_failed(&error, attempt.start.elapsed()),
    };
    let mut random = Random::new();
    let [number, sequence] = [(); 2].map(|()| (random.unit() * 65_536.0) as u16);
    let exchange = async {
        socket.connect(SocketAddr::new(peer, 0)).await?;
        socket.send(&request(peer, number, sequence)).await?;
        let mut packet = [0; 2_048];
        loop {
            let length = socket.recv(&mut packet).await?;
            // A ping socket has its number from the kernel, and hears what is for that one alone.
            let number = raw.then_some(number);
            if is_reply(message(&packet[..length], peer, raw), peer, number, sequence) {
                return Ok::<_, io::Error>(());
            }
        }
    };
    match timeout_at(attempt.deadline(), exchange).await {
        Ok(Ok(())) => attempt.passed("echo reply"),
        Ok(Err(error)) => reason::connect_failed(&error, attempt.start.elapsed()),
        Err(_) => reason::no_answer(attempt.limit),
    }
}

/// A socket for ICMP with `peer`, and whether it is a raw one.
fn open(peer: IpAddr) -> io::Result<(UdpSocket, bool)> {
    let (domain, protocol) = match peer {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let (socket, raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => (socket, false),
        Err(_) => (Socket::new(domain, Type::RAW, Some(protocol))?, true),
    };
    socket.set_nonblocking(true)?;
    // It sends and receives like one for UDP, which is what tokio has a name for.
    Ok((UdpSocket::from_std(socket.into())?, raw))
}

fn request(peer: IpAddr, number: u16, sequence: u16) -> Vec<u8> {
    let kind = if peer.is_ipv4() { 8 } else { 128 };
    let [n0, n1] = number.to_be_bytes();
    let [s0, s1] = sequence.to_be_bytes();
    let mut packet = [[kind, 0, 0, 0, n0, n1, s0, s1].as_slice(), PAYLOAD].concat();
    // Of ICMPv6 the kernel makes it, which knows the addresses it covers (RFC 3542 §3.1).
    if peer.is_ipv4() {
        let words = packet.chunks(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])));
        let sum = !csum::fold(words.sum());
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The ICMP message in what was received: raw sockets of IPv4 see the IP header, the others do not.
fn message(packet: &[u8], peer: IpAddr, raw: bool) -> &[u8] {
    let header = match packet.first() {
        Some(first) if raw && peer.is_ipv4() => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    packet.get(header..).unwrap_or_default()
}

/// Whether it answers our request. `number`: `None` where the kernel looked at it.
fn is_reply(message: &[u8], peer: IpAddr, number: Option<u16>, sequence: u16) -> bool {
    let Some((header, _)) = message.split_first_chunk::<HEADER>() else { return false };
    let kind = if peer.is_ipv4() { 0 } else { 129 };
    let [k, _, _, _, n0, n1, s0, s1] = *header;
    k == kind && number.is_none_or(|n| n == u16::from_be_bytes([n0, n1])) && sequence == u16::from_be_bytes([s0, s1])
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn a_request_has_a_checksum_that_adds_up() {
        let packet = request(V4, 0x1234, 0xfffe);
        let words = packet.chunks(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])));
        assert_eq!(csum::fold(words.sum()), 0xffff);
    }

    #[test]
    fn only_a_reply_to_this_very_request_counts() {
        let reply = |kind, number: u16, sequence: u16| {
            let ([n0, n1], [s0, s1]) = (number.to_be_bytes(), sequence.to_be_bytes());
            [kind, 0, 0, 0, n0, n1, s0, s1]
        };
        assert!(is_reply(&reply(0, 7, 9), V4, Some(7), 9));
        assert!(is_reply(&reply(129, 1, 9), V6, None, 9), "the kernel looked at the number");
        for (what, message, peer, number) in [
            ("our own request", reply(8, 7, 9), V4, Some(7)),
            ("another process's", reply(0, 8, 9), V4, Some(7)),
            ("an earlier one", reply(0, 7, 8), V4, Some(7)),
            ("of the other protocol", reply(0, 7, 9), V6, Some(7)),
        ] {
            assert!(!is_reply(&message, peer, number, 9), "{what}");
        }
        assert!(!is_reply(&[0; 7], V4, None, 0), "cut short");
    }

    #[test]
    fn a_raw_socket_of_ipv4_shows_the_ip_header_first() {
        let mut packet = [0x46u8; 40];
        packet[24] = 8;
        assert_eq!(message(&packet, V4, true)[0], 8);
        assert_eq!(message(&packet, V4, false).len(), 40);
        assert_eq!(message(&packet, V6, true).len(), 40);
        assert_eq!(message(&[0x4f; 10], V4, true), [0u8; 0], "a header that is longer than the packet");
    }
}
