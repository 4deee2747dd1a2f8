//! Reads a large table of flows with two threads, from its beginning and from its middle: reading is waiting for memory,
//! and two wait as long as one.
//!
//! The trap is the seam. The kernel reads whole buckets until a batch is full, so the thread that comes to the middle
//! reads on into what is the other one's, and the entries do not say whose they are. Read from the middle on right
//! after, they do, but for those that were removed meanwhile: an entry may come twice if it is on its way out.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use lb_common::flow::FlowEntry;

use super::error::DataplaneError;
use super::flows::{Key, Readable, read};

/// Batches that are read ahead.
const AHEAD: usize = 8;

type Entries = Vec<(Key, FlowEntry)>;
/// `None`: a thread is through.
type Piece = Result<Option<Entries>, DataplaneError>;

/// A walk over one table.
#[derive(Debug)]
pub(super) struct Halves {
    name: &'static str,
    pieces: Receiver<Piece>,
    reading: usize,
}

impl Halves {
    /// `middle` is a number of buckets; if there are less, one thread reads them all.
    pub(super) fn begin<K: Readable>(name: &'static str, table: BorrowedFd<'_>, middle: u32) -> io::Result<Self> {
        let (send, pieces) = sync_channel(AHEAD);
        let parts: [(Option<u32>, Option<u32>); 2] = [(None, Some(middle)), (Some(middle), None)];
        for (from, to) in parts {
            let (table, send) = (table.try_clone_to_owned()?, send.clone());
            let walk = move || {
                let end = walk::<K>(name, &table, from, to, &send);
                // Nobody listens any more: the walk was given up.
                let _ = send.send(end.map(|()| None));
            };
            thread::Builder::new().name("sweep".to_owned()).spawn(walk)?;
        }
        Ok(Self { name, pieces, reading: parts.len() })
    }

    /// The next entries; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Entries>, DataplaneError> {
        while self.reading > 0 {
            // A walk that ended early would have seen too little.
            let died = |_| DataplaneError::Write { name: self.name, why: "a thread that was reading it died".into() };
            match self.pieces.recv().map_err(died)?? {
                Some(entries) => return Ok(Some(entries)),
                None => self.reading -= 1,
            }
        }
        Ok(None)
    }
}

/// Sends what is in these buckets.
fn walk<K: Readable>(
    name: &'static str,
    table: &OwnedFd,
    mut from: Option<u32>,
    to: Option<u32>,
    send: &SyncSender<Piece>,
) -> Result<(), DataplaneError> {
    loop {
        let (mut entries, next) = read::<K>(name, table.as_fd(), from)?;
        if let Some(to) = to
            && next.is_none_or(|next| next > to)
        {
            let (beyond, _) = read::<K>(name, table.as_fd(), Some(to))?;
            let beyond: HashSet<Key> = beyond.into_iter().map(|(key, _)| key).collect();
            entries.retain(|(key, _)| !beyond.contains(key));
        }
        let given_up = send.send(Ok(Some(entries))).is_err();
        match next {
            Some(next) if to.is_none_or(|to| next < to) && !given_up => from = Some(next),
            _ => return Ok(()),
        }
    }
}
