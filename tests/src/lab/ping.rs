//! One echo request and its reply, without the `ping` program.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::netns::NetNs;

/// Sends an echo request (RFC 792, RFC 4443 §4.1) from inside `from` and waits for the reply with the same payload.
pub fn ping(from: &NetNs, to: IpAddr, patience: Duration) -> Result<()> {
    from.sysctl(&[("net/ipv4/ping_group_range", "0 2147483647")])?;
    from.run(|| {
        // The kernel fills in identifier and checksum of such a socket.
        let (domain, protocol, request, reply) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
        };
        let socket: std::net::UdpSocket = Socket::new(domain, Type::DGRAM, Some(protocol))?.into();
        socket.set_read_timeout(Some(patience))?;
        socket.connect(SocketAddr::new(to, 0))?;
        let packet = [&[request, 0, 0, 0, 0, 0, 0, 1][..], b"sluice lab"].concat();
        socket.send(&packet)?;
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).with_context(|| format!("no echo reply from {to} to {}", from.name()))?;
        ensure!(
            length == packet.len() && buffer[0] == reply && buffer[8..length] == packet[8..],
            "a strange echo reply"
        );
        Ok(())
    })?
}
