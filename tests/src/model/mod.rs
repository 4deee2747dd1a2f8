//! The reference model of the data plane: what must become of a packet, written from ARCHITECTURE.md and the RFCs.
//!
//! `(world, kernel, time, state, packet) → (outcome, state)`. A [`World`] is what the program's maps and load-time
//! constants hold, a [`Kernel`] the part of the host that the slow path asks, a [`State`] what packets leave behind
//! (counters, what is written down of flows, events, the event budget), and [`process`] the way of one packet. Nothing here runs in the kernel and
//! nothing touches it; `fuzz` holds the loaded program to what this says.
//!
//! The trap of a reference is to become a copy. The model shares constants with the data plane — numbers and names
//! of drop reasons, protocol numbers, the layout of counters — and no code: packets are read byte by byte as the
//! RFCs draw them, tables are lists that are searched from the front, checksums are summed from zero over whole
//! packets, a route is the longest of all prefixes that match. Where the program is clever, this is plain.
//!
//! To change what the data plane does, change this first: `way` decides, `rewrite` and `tunnel` write bytes, `read` takes packets
//! apart, `rows` and `tracked` know flows, `world` says what tables may hold. The fuzzer then fails until the program follows. The program for backend
//! hosts has a model of its own, [`decap`].

pub mod checksum;
pub mod decap;
pub mod flow;
pub mod fragments;
pub mod kernel;
pub mod read;
pub mod rewrite;
pub mod rows;
pub mod state;
pub mod tracked;
pub mod tunnel;
mod way;
pub mod world;

use serde::{Deserialize, Serialize};

use lb_common::counters::DropReason;

pub use kernel::Kernel;
pub use state::State;
pub use way::process;
pub use world::World;

/// A frame as the driver hands it to the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Index of the interface it came in by.
    pub interface: u32,
    /// Bytes of room in front of the frame.
    pub headroom: usize,
    #[serde(with = "hexadecimal")]
    pub frame: Vec<u8>,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The host gets it byte for byte.
    Pass,
    Drop(DropReason),
    /// It leaves by the interface it came in by.
    Transmit,
    /// It leaves by this interface.
    Redirect(u32),
}

impl Verdict {
    /// The frame leaves, so its bytes matter.
    pub fn is_sent(self) -> bool {
        matches!(self, Self::Transmit | Self::Redirect(_))
    }
}

/// The verdict, the frame as it is handed on, and how the model came to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// As it came for what passes. Of no interest for what is dropped.
    pub frame: Vec<u8>,
    pub trace: Trace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
    /// Neither by EtherType.
    #[default]
    Other,
}

/// On whose behalf the packet is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// No service's.
    #[default]
    Nobody,
    /// From a client to a service that forwards by NAT.
    Nat,
    /// From a client to a service that forwards by IP in IP.
    Ipip,
    /// From a client to a service that forwards by L2 DSR.
    DsrL2,
    /// From a client to a service that forwards by another tunnel.
    Encapsulated,
    /// From a client to a service whose way of forwarding the program does not know.
    Unknown,
    /// From a backend to a client, by NAT.
    Reply,
    /// An echo request for a service's address.
    Echo,
    /// Not at the balancer: at a backend host, where tunnels end.
    Tunnelled,
}

/// What a row is when a packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKind {
    Steady,
    Moving,
    /// It moved, and its time has come.
    Over,
    Exceptions,
}

/// The decisions on a packet's way: for coverage, and for people who read a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    pub family: Family,
    /// VLAN tags it came with, and those it leaves with.
    pub tags: usize,
    pub tagged: usize,
    /// How much of a packet it is, if it is of one with ports.
    pub piece: Option<read::Piece>,
    /// There are IPv6 extension headers in front of its ports.
    pub extensions: bool,
    /// A later fragment found its first one, or did not.
    pub followed: Option<bool>,
    pub path: Path,
    pub service: Option<u32>,
    /// How the service was found, if not by its very endpoint.
    pub wide: Option<world::Listen>,
    /// What a reply from one of many ports was.
    pub wide_reply: bool,
    pub ring_class: Option<u8>,
    pub row: Option<u32>,
    pub backend: Option<u16>,
    /// The tunnel it was put into, and the family of what is outside.
    pub tunnel: Option<(tunnel::Kind, Family)>,
    /// The kernel's FIB was asked for the next hop.
    pub asked: bool,
    /// A neighbour was missing, and the controller was told (`true`) or the budget was spent (`false`).
    pub told: Option<bool>,
    /// What kind of row it is, and what became of the packet's flow there, if it is not steady.
    pub kind: Option<RowKind>,
    /// A client alone chose it.
    pub by_client: bool,
    pub fate: Option<rows::Fate>,
    pub notes: rows::Notes,
    /// What a reply has shown.
    pub proof: Option<rows::Proof>,
    /// The packet is an answer to the client: RST. Or it should be, and has no header to answer to.
    pub answered: bool,
    pub unanswerable: bool,
    /// Its MSS was lowered.
    pub clamped: bool,
    /// It is an answer to an echo request, or to a packet that was too big.
    pub echoed: bool,
    pub told_too_big: bool,
    /// What became of the packet's flow, where flows are tracked.
    pub tracked: Option<tracked::Told>,
    /// At a backend host, what was in the frame.
    pub content: Option<decap::Content>,
}

/// Frames in files: two digits per byte.
mod hexadecimal {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::packet::decode::hex(bytes, bytes.len()))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
        text.as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(|| D::Error::custom("a frame is two hexadecimal digits per byte"))
    }
}
