//! What the programs of tests and benchmarks share.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod frame;
