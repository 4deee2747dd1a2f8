//! What Sluice's XDP programs share.
#![no_std]
#![feature(asm_experimental_arch)]

pub mod packet;
