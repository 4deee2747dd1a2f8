//! The far end of a link: what really arrives there.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Listens on the interface; frames that arrive from now on are kept.
    pub fn listen(ifindex: u32) -> Result<Self> {
        let every_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers.
        let fd =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(every_protocol)) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("cannot open a packet socket");
        }
        // SAFETY: a new descriptor of ours.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: integers and bytes only; all zeroes is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every_protocol;
        address.sll_ifindex = ifindex as i32;
        let size = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the address is ours and of the size given.
        if unsafe { libc::bind(fd, (&raw const address).cast(), size) } < 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("cannot listen on interface {ifindex}"));
        }
        Ok(Self { socket })
    }

    /// The next frame, or `None` when the time is over.
    fn next(&self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() as i32;
        let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, ours.
        if unsafe { libc::poll(&raw mut poll, 1, left) } <= 0 {
            return Ok(None);
        }
        let mut frame = vec![0; 65_536];
        // SAFETY: the buffer is ours and of the size given.
        let length = unsafe { libc::recv(poll.fd, frame.as_mut_ptr().cast(), frame.len(), 0) };
        if length < 0 {
            return Err(io::Error::last_os_error()).context("cannot read from the packet socket");
        }
        frame.truncate(length as usize);
        Ok(Some(frame))
    }

    /// All frames that arrive until `enough` says so of one, or the time is over.
    pub fn until(&self, patience: Duration, enough: impl Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + patience;
        let mut frames = Vec::new();
        while let Some(frame) = self.next(deadline)? {
            let last = enough(&frame);
            frames.push(frame);
            if last {
                break;
            }
        }
        Ok(frames)
    }
}
