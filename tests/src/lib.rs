//! Sluice's tests of whole things: packets, programs in the kernel, and the lab.

pub mod bench;
pub mod demo;
pub mod features;
pub mod fuzz;
pub mod fuzz_config;
pub mod golden;
pub mod lab;
pub mod model;
pub mod mutants;
pub mod packet;
pub mod progrun;
pub mod rows;
pub mod verifier;
