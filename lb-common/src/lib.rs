//! The ABI shared by Sluice's XDP program and its controller, and the arithmetic both must agree on.
//!
//! Everything here is `no_std`, allocates nothing and depends on nothing, so that the very same code runs
//! under the verifier, in the controller, in the reference tests and in exhaustive small worlds.
//!
//! The trap of this crate is implicit padding: a map key with a hole in it compares uninitialised stack
//! bytes. Every struct that crosses the boundary is `repr(C)`, spells out its padding, holds only integers
//! (any bit pattern is valid), and has its size and offsets asserted in [`layout`].
#![no_std]

pub mod addr;
pub mod backend;
pub mod counters;
pub mod csum;
pub mod decap;
pub mod event;
pub mod flow;
pub mod hash;
pub mod layout;
pub mod ring;
pub mod route;
pub mod rows;
pub mod service;
pub mod settings;
pub mod tracked;
