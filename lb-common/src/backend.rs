//! A backend as the packet path sees it: one cache line, indexed by backend id.
//!
//! The array is memory-mapped and written with 8-byte atomic stores, because a map update by syscall may be
//! seen half done. Each `u64` word below is therefore meaningful alone: a reader may see the new word 2 with
//! the old word 3, never half a word. An id's address words change only after a quarantine in which no row
//! names it; the words that do change in place are `state` and `route`.

/// Ids fit the 16 bits a ring row has for them. 0 means "none", and [`crate::rows::BEFORE`] is no backend either.
pub const MAX_BACKENDS: u32 = 65_535;

use crate::flow::Life;
use crate::rows::Known;

/// The backend takes traffic that belongs to it (being drained is still alive).
pub const BACKEND_ALIVE: u16 = 1;
/// `addr` is an IPv6 address.
pub const BACKEND_V6: u16 = 2;

#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// IPv4 in word 0, or the whole IPv6 address.
    pub addr: [u32; 4],
    pub state: State,
    pub route: BackendRoute,
    /// Outer source address for tunnels; IPv4 in word 0.
    pub tunnel_source: [u32; 4],
    pub tunnel: Tunnel,
}

/// Words 6 and 7: what tunnels other than IP in IP and GRE are told about the backend.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// VXLAN and Geneve: the virtual network's number as the word of the header it lies in, network order.
    pub vni: u32,
    /// The outer destination port of tunnels in UDP, network order.
    pub port: u16,
    pub reserved: u16,
    /// VXLAN and Geneve: whose the inner Ethernet frame is.
    pub inner_mac: [u8; 6],
    pub more: u16,
}

impl Tunnel {
    /// A virtual network's number as [`Self::vni`] holds it.
    pub const fn vni(number: u32) -> u32 {
        (number << 8).to_be()
    }
}

/// Word 2: port, flags and generation change together.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Network order; 0 keeps the packet's port.
    pub port: u16,
    pub flags: u16,
    /// Counts the lives of this id, so that an entry written for an earlier life is recognised. Only the lower 16 bits
    /// are compared.
    pub generation: u32,
}

/// Word 3: where the frame goes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendRoute {
    /// Index into `next_hops`; 0 means unknown, ask the kernel's FIB.
    pub next_hop: u32,
    pub reserved: u32,
}

impl State {
    /// What the row decision wants to know of backend `id`.
    #[inline(always)]
    pub const fn known(self, id: u16) -> Known {
        Known { life: Life::new(id, self.generation as u16), up: self.flags & BACKEND_ALIVE != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_the_first_three_bytes_of_its_word() {
        assert_eq!(Tunnel::vni(0x01_0203).to_ne_bytes(), [1, 2, 3, 0]);
        assert_eq!(Tunnel::vni(0xff_ffff).to_ne_bytes(), [0xff, 0xff, 0xff, 0]);
    }

    #[test]
    fn only_the_flag_says_whether_a_backend_is_up_and_only_half_a_generation_is_compared() {
        for (flags, up) in [
            (0, false),
            (BACKEND_V6, false),
            (BACKEND_ALIVE, true),
            (BACKEND_ALIVE | BACKEND_V6, true),
            (!BACKEND_ALIVE, false),
        ] {
            let state = State { port: 80, flags, generation: 0x9_1234 };
            assert_eq!(state.known(7), Known { life: Life::new(7, 0x1234), up }, "{flags:#x}");
        }
    }
}
