//! A flow: its 5-tuple in the words that are hashed, and what is written down about it while its row moves, or always.
//!
//! Keep the order of the words, the ring depends on it.

/// An IPv4 flow as seen from the client: client, VIP, ports. Aligned to 8, as every key that the program builds on its
/// stack: see [`crate::addr::Endpoint6`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow4 {
    pub source: u32,
    pub destination: u32,
    /// Both ports as one word loaded from the first four bytes of the L4 header.
    pub ports: u32,
    pub protocol: u32,
}

/// An IPv6 flow.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow6 {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub ports: u32,
    pub protocol: u32,
}

/// Value of `flows4` and `flows6`: the key is [`Flow4`] or [`Flow6`]. A plain hash map, never LRU: what is written
/// down here is what tells a flow's backend, and nobody may push it out. Value also of `tracked4` and `tracked6`, which
/// are LRU: what those say is welcome, and nothing is promised by it.
///
/// The first word never changes. It is read *after* `state`: an element that is freed may become another flow's at
/// once, and the kernel copies a value from its first byte on, so whoever sees the other flow's state sees its hash.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry {
    /// The flow's hash, by which its row is found again.
    pub hash: u32,
    /// The service's id.
    pub service: u32,
    /// Changed by compare-and-swap only.
    pub state: FlowState,
}

/// Value of `fragments4` and `fragments6`: what the first fragment of a packet told about the others. The key is
/// [`Flow4`] or [`Flow6`] with the packet's identification in place of the ports; the protocol is IPv4's only.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragments {
    /// As [`Self::pack`] makes it.
    pub what: u64,
    /// How long that holds, in nanoseconds on the data plane's clock.
    pub until: u64,
}

/// How long the first fragment is remembered, in nanoseconds: as long as receivers wait for the rest (Linux, `ipfrag_time`).
pub const FRAGMENT_TIME: u64 = 30_000_000_000;

impl Fragments {
    /// Ports as loaded from the L4 header; the protocol, which is not 0; the backend, or 0 for a reply.
    #[inline(always)]
    pub const fn pack(ports: u32, protocol: u8, backend: u16) -> u64 {
        ports as u64 | (backend as u64) << 32 | (protocol as u64) << 48
    }

    #[inline(always)]
    pub const fn ports(what: u64) -> u32 {
        what as u32
    }

    #[inline(always)]
    pub const fn protocol(what: u64) -> u8 {
        (what >> 48) as u8
    }

    #[inline(always)]
    pub const fn backend(what: u64) -> u16 {
        (what >> 32) as u16
    }
}

/// TCP: a SYN was seen, and nothing else.
pub const PHASE_OPENING: u8 = 0;
/// Packets go back and forth. Every UDP flow.
pub const PHASE_ESTABLISHED: u8 = 1;
/// TCP: a FIN or RST was seen. Lives as long as before, but a SYN may start the flow anew.
pub const PHASE_CLOSING: u8 = 2;

/// All there is to know about a written-down flow, in one word, so that one compare-and-swap changes it whole.
///
/// ```text
///  63   62 61                          32 31           16 15            0
/// +-------+------------------------------+---------------+---------------+
/// | phase |             last             |  generation   |    backend    |
/// +-------+------------------------------+---------------+---------------+
/// ```
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowState(pub u64);

impl FlowState {
    /// The place is there and nobody is in it: the same as no entry, and may be claimed.
    pub const VACANT: Self = Self(0);
    /// The entry is being removed: the same as no entry, and may not be claimed.
    pub const LEAVING: Self = Self(u64::MAX);

    #[inline(always)]
    pub const fn new(life: Life, phase: u8, last: u32) -> Self {
        Self(life.0 as u64 | (last as u64 & LAST_MAX) << 32 | (phase as u64) << 62)
    }

    /// The backend, and which of the lives of its id.
    #[inline(always)]
    pub const fn life(self) -> Life {
        Life(self.0 as u32)
    }

    #[inline(always)]
    pub const fn phase(self) -> u8 {
        (self.0 >> 62) as u8
    }

    /// The second of the last packet.
    #[inline(always)]
    pub const fn last(self) -> u32 {
        (self.0 >> 32) as u32 & LAST_MAX as u32
    }

    /// Somebody's, and not about to be removed.
    #[inline(always)]
    pub const fn is_taken(self) -> bool {
        self.0 != Self::VACANT.0 && self.0 != Self::LEAVING.0
    }
}

const LAST_MAX: u64 = (1 << 30) - 1;

/// A backend id, and which of its lives: an id is given to another backend some day.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life(pub u32);

impl Life {
    #[inline(always)]
    pub const fn new(backend: u16, generation: u16) -> Self {
        Self(backend as u32 | (generation as u32) << 16)
    }

    #[inline(always)]
    pub const fn backend(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub const fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// How a service's flows are written down. Value of `flow_policies`, by service id; written by the controller a word
/// at a time, through a mapping.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowPolicy {
    /// Seconds a TCP flow that is opening may be silent.
    pub tcp_opening: u32,
    /// Seconds any other TCP flow may be silent: the idle timeout of the service's TCP rows.
    pub tcp: u32,
    /// Seconds a UDP flow may be silent: the idle timeout of the service's UDP rows.
    pub udp: u32,
    /// One of the `ORPHAN_*` constants: what becomes of a TCP flow in the middle whose backend is down.
    pub orphans: u32,
    /// Most entries the service may have.
    pub quota: u32,
    /// Most entries the service may write in a second.
    pub new_per_second: u32,
    /// Not 0 while any row of the service may be moving: whether replies are looked at (see [`crate::rows::prove`]).
    /// In a word of its own: set before a ring with moving rows is shown to anybody, cleared after the last one is gone.
    pub moving: u32,
    pub reserved: u32,
    /// Most flows the service may have in each of `tracked4` and `tracked6`; [`FlowPolicy::new_per_second`] holds for
    /// them, too.
    pub tracked_quota4: u32,
    pub tracked_quota6: u32,
    /// Not 0: the MSS in replies that open a TCP connection is lowered to what the way to the client takes.
    pub clamp: u32,
    pub pad: u32,
    pub more: [u64; 2],
}

/// They go to the row's owner, who answers with RST: the client learns within a round trip.
pub const ORPHAN_RESELECT: u32 = 0;
/// They are dropped and counted.
pub const ORPHAN_DROP: u32 = 1;
/// Sluice answers them with RST.
pub const ORPHAN_RESET: u32 = 2;

/// How much of its policy a service has used. Value of `flow_uses`, by service id; written by the program with atomic
/// operations on its words. The sweep puts the numbers of entries right.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowUse {
    /// Entries in the tables, tombstones too.
    pub entries: u64,
    /// The second in its upper half, and how many were written in it in the lower.
    pub gate: u64,
    /// The second in which an entry was last refused; 0 for never.
    pub refused: u64,
    /// Flows in `tracked4` and in `tracked6`. Who is pushed out tells nobody, so they are too many until a sweep.
    pub tracked4: u64,
    pub tracked6: u64,
    /// As `gate`, for both of these.
    pub tracked_gate: u64,
    pub reserved: [u64; 2],
}

/// An entry to be removed, in the hands of the program that does it. Value of `forget`, by position: the controller writes
/// [`FORGET_AT_ONCE`] of them at most, and after the last one a line with `family` 0.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// IPv4 flows in the first 16 bytes.
    pub flow: Flow6,
    /// The state it must still have.
    pub state: FlowState,
    /// 4 or 6; [`FORGET_TRACKED`] more in a table of tracked flows.
    pub family: u32,
    /// Written by the program: 1 if it is gone.
    pub gone: u32,
    pub reserved: u64,
}

/// How many entries one run removes at most: packets of that CPU wait so long.
pub const FORGET_AT_ONCE: usize = 256;
/// See [`Forget::family`].
pub const FORGET_TRACKED: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_first_fragment_told_is_what_was_packed() {
        let what = Fragments::pack(0x1234_5678, 17, 0xfedc);
        assert_eq!(
            (Fragments::ports(what), Fragments::protocol(what), Fragments::backend(what)),
            (0x1234_5678, 17, 0xfedc)
        );
        let what = Fragments::pack(u32::MAX, 6, 0);
        assert_eq!((Fragments::ports(what), Fragments::protocol(what), Fragments::backend(what)), (u32::MAX, 6, 0));
    }

    #[test]
    fn a_state_keeps_its_parts_apart() {
        for (backend, generation, phase, last) in [
            (1, 0, PHASE_OPENING, 0),
            (0xfffe, 0xffff, PHASE_CLOSING, (1 << 30) - 1),
            (7, 9, PHASE_ESTABLISHED, 1 << 29),
        ] {
            let state = FlowState::new(Life::new(backend, generation), phase, last);
            assert_eq!((state.life().backend(), state.life().generation()), (backend, generation));
            assert_eq!((state.phase(), state.last()), (phase, last));
            assert!(state.is_taken());
        }
        assert!(!FlowState::VACANT.is_taken() && !FlowState::LEAVING.is_taken());
    }
}
