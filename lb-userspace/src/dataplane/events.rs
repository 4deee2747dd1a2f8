//! What the program says through its ring buffer.

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;

use lb_common::event::Event;

/// The reading end.
pub struct Events(RingBuf<MapData>);

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// Makes it pollable; must be called on a tokio runtime.
    pub fn listen(self) -> std::io::Result<Listener> {
        // SAFETY: the ring buffer owns its file descriptor and keeps it open and the same until it is dropped.
        Ok(Listener(unsafe { AsyncFd::register_with_interest(self.0, tokio::io::Interest::READABLE) }?))
    }
}

/// Waits for events.
pub struct Listener(AsyncFd<RingBuf<MapData>>);

impl Listener {
    /// The events that are there, waiting until there is one. Cancel safe: an event is taken only when returned.
    pub async fn next(&mut self) -> std::io::Result<Vec<Event>> {
        loop {
            let mut guard = self.0.readable_mut().await?;
            let ring = guard.get_inner_mut();
            let mut events = Vec::new();
            while let Some(item) = ring.next() {
                if item.len() == size_of::<Event>() {
                    // SAFETY: the length is right, every bit pattern is a valid Event, and it is read unaligned.
                    events.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
                }
            }
            guard.clear_ready();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}
