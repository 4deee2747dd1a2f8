//! What Sluice's XDP programs share.
#![no_std]
// Only the BPF target needs it, and clippy looks at this library for the host with a stable compiler.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod packet;
