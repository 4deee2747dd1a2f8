//! One rtnetlink socket: requests with an answer, whole dumps, and multicast events.
//!
//! Three traps. A dump that changed while it was read is marked `NLM_F_DUMP_INTR` and may miss entries: read it
//! again. A multicast socket that overflows answers `ENOBUFS` once and has lost events: dump everything again.
//! And one message our parser cannot read must not hide the others, so they are decoded one by one.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// Larger than any message the kernel builds (it fills at most 32 KiB per read).
const BUFFER: usize = 64 * 1024;

/// How long an answer may take: the kernel answers at once unless someone holds the rtnl lock.
const PATIENCE: TimeVal = TimeVal::new(10, 0);

/// Most datagrams read in one go, so that a flood of events does not keep us from publishing any.
const READS: usize = 4096;

/// How often a dump that was disturbed is read again before its last reading is taken as it is.
const DUMP_ATTEMPTS: u32 = 8;

const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;

/// A message as it came: its type (`RTM_*`), its header's flags, and the bytes after the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The bytes after the netlink header.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The message as the library reads it; `None` where it cannot.
    pub fn parse(&self) -> Option<RouteNetlinkMessage> {
        let mut header = NetlinkHeader::default();
        header.message_type = self.kind;
        header.flags = self.flags;
        match RouteNetlinkMessage::deserialize(&header, self.payload) {
            Ok(message) => Some(message),
            Err(error) => {
                tracing::debug!(kind = self.kind, %error, "skipping a netlink message that cannot be read");
                None
            }
        }
    }
}

/// Calls `f` for every message in a datagram.
fn each<'a>(datagram: &'a [u8], mut f: impl FnMut(Message<'a>)) {
    let mut rest = datagram;
    while let Ok(buffer) = NetlinkBuffer::new_checked(rest) {
        let length = buffer.length() as usize;
        f(Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            payload: &rest[16..length],
        });
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
}

fn receive(socket: &netlink_sys::Socket, buffer: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match recv(socket.as_raw_fd(), buffer, flags | MsgFlags::MSG_TRUNC) {
            Ok(n) if n > buffer.len() => return Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
            Ok(n) => return Ok(n),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// A socket for requests, one at a time.
pub(super) struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        Ok(self.sequence)
    }

    /// Reads until the answer with this sequence number is complete.
    fn answer(&mut self, sequence: u32, mut f: impl FnMut(Message<'_>)) -> io::Result<()> {
        let mut outcome = None;
        while outcome.is_none() {
            let n = receive(&self.socket, &mut self.buffer, MsgFlags::empty()).map_err(|e| match e.kind() {
                io::ErrorKind::WouldBlock => {
                    io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer in time")
                }
                _ => e,
            })?;
            each(&self.buffer[..n], |message| {
                if message.sequence != sequence || outcome.is_some() {
                    return;
                }
                match message.kind {
                    // Both carry a negative errno first, 0 for success.
                    NLMSG_ERROR | NLMSG_DONE => {
                        let code = message.payload.first_chunk::<4>().map_or(0, |c| i32::from_ne_bytes(*c));
                        outcome = Some(if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) });
                    }
                    _ => f(message),
                }
            });
        }
        outcome.unwrap_or(Ok(()))
    }

    /// Asks for a change and waits for the kernel's verdict. `flags` are the `NLM_F_*` besides request and ack.
    pub fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let sequence = self.send(message, flags | NLM_F_ACK)?;
        self.answer(sequence, |_| {})
    }

    /// Asks for one object.
    pub fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let sequence = self.send(message, NLM_F_ACK)?;
        let mut found = None;
        self.answer(sequence, |m| found = found.take().or_else(|| m.parse()))?;
        Ok(found)
    }

    /// Reads everything `message` asks for. `decode` returns `None` for what is of no interest.
    pub fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        mut decode: impl FnMut(Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for attempt in 1.. {
            let sequence = self.send(message.clone(), NLM_F_DUMP)?;
            let mut all = Vec::new();
            let mut disturbed = false;
            self.answer(sequence, |m| {
                disturbed |= m.flags & NLM_F_DUMP_INTR != 0;
                all.extend(decode(m));
            })?;
            if !disturbed || attempt == DUMP_ATTEMPTS {
                return Ok(all);
            }
        }
        unreachable!("the loop ends at its last attempt")
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("rtnl::Socket").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// What reading events came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Nothing was lost.
    Complete,
    /// The kernel had to throw events away; what is known is out of date.
    Overrun,
}

/// A socket that hears what changes.
pub(super) struct Events {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
}

impl Events {
    /// Subscribes to multicast groups (`RTNLGRP_*` numbers), with room for `receive_buffer` bytes of unread events.
    pub fn subscribe(groups: &[u32], receive_buffer: usize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // Beyond net.core.rmem_max only with CAP_NET_ADMIN; without it, as much as is allowed.
        if setsockopt(&socket, sockopt::RcvBufForce, &receive_buffer).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &receive_buffer)?;
        }
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// Sleeps until there is something to read, at most `timeout`. True when there is.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, timeout) {
            Ok(n) => Ok(n > 0),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads what is queued, up to a limit.
    pub fn read(&mut self, mut f: impl FnMut(Message<'_>)) -> io::Result<Reading> {
        let mut reading = Reading::Complete;
        for _ in 0..READS {
            match receive(&self.socket, &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(n) => each(&self.buffer[..n], &mut f),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::EMSGSIZE)) => {
                    reading = Reading::Overrun;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(reading)
    }
}
