//! What clients and servers say to each other: fixed sizes, so that neither end parses anything.
//!
//! Every answer names the connection *as its server knows it* (backend and serial number of the accept), not only the
//! backend: a client whose bytes reach another accept of the same backend has been moved too.

use std::net::SocketAddr;

/// A client's request: who asks, and for the how-manieth time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The connection's number among the client's, its life long.
    pub connection: u32,
    /// 1, 2, 3, …
    pub sequence: u32,
}

/// The server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked.
    pub request: Request,
    pub server: Server,
}

/// Who accepted a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// The backend's number, see [`super::site::Numbering`].
    pub backend: u16,
    /// Counts the accepts of all backends together.
    pub accept: u32,
}

pub const REQUEST: usize = 12;
pub const ANSWER: usize = 20;

/// Begins both messages, so that bytes of something else are not taken for one.
const MAGIC: [u8; 4] = *b"SLC1";

impl Request {
    pub fn encode(self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.connection.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; REQUEST]) -> Option<Self> {
        let &[a, b, c, d, c0, c1, c2, c3, s0, s1, s2, s3] = bytes;
        ([a, b, c, d] == MAGIC).then_some(Self {
            connection: u32::from_be_bytes([c0, c1, c2, c3]),
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
        })
    }
}

impl Answer {
    pub fn encode(self) -> [u8; ANSWER] {
        let mut bytes = [0; ANSWER];
        bytes[..REQUEST].copy_from_slice(&self.request.encode());
        bytes[12..14].copy_from_slice(&self.server.backend.to_be_bytes());
        bytes[16..].copy_from_slice(&self.server.accept.to_be_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; ANSWER]) -> Option<Self> {
        let request = Request::decode(bytes.first_chunk()?)?;
        let backend = u16::from_be_bytes([bytes[12], bytes[13]]);
        let accept = u32::from_be_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
        Some(Self { request, server: Server { backend, accept } })
    }
}

/// An IPv4 address in IPv6 clothes is the IPv4 address: both ends write the same.
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_were_said() {
        let request = Request { connection: 0x0102_0304, sequence: 0xfefd_fcfb };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        let answer = Answer { request, server: Server { backend: 0xabcd, accept: 7 << 20 } };
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
    }

    #[test]
    fn other_bytes_are_no_message() {
        assert_eq!(Request::decode(b"GET / HTTP/1"), None);
        assert_eq!(Answer::decode(&[0; ANSWER]), None);
    }
}
