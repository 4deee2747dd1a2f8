//! The eBPF objects, as built by `build.rs` and embedded into the binary: one file to copy, nothing to look for.
//!
//! Both are little-endian (or big-endian, as the host) BPF ELF objects with BTF. The trap: an ELF parser reads headers
//! in place, so the bytes must be aligned, which `include_bytes!` does not promise.

/// The load balancer: program `sluice` on the node's interfaces.
pub static LOAD_BALANCER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-xdp"));

/// The decapsulator for backend hosts of tunnelling services.
pub static DECAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-decap"));
