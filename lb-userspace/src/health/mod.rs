//! Health checks: is a backend fit to take traffic?
//!
//! [`state`] counts results into a verdict and [`schedule`] says when to look next; both are sans-io, `now` is a
//! parameter. [`probe`] makes a target's checks, each kind in a file of its own; [`reason`] puts a failure into an
//! operator's words; [`Checker`] runs them all, and [`stats`] counts what they took.
//! [`agent`] asks backends how much traffic they want, which is no check.
//!
//! Two traps. A failure must be counted against consecutive ones only, or a long life of rare hiccups adds up to
//! an outage. And a check that failed for want of something on *this* host (file descriptors, ports, memory)
//! says nothing about the backend: it is [`Outcome::Skipped`], or one full table takes every backend down.

pub mod agent;
pub mod checker;
pub mod dns;
pub mod exec;
pub mod grpc;
mod h2;
pub mod http;
pub mod icmp;
pub mod probe;
pub mod reason;
pub mod schedule;
pub mod state;
pub mod stats;
pub mod tcp;
pub mod tls;
pub mod udp;

pub use checker::{Checker, Key, Snapshot, Target, Transition};
pub use state::Outcome;

#[cfg(test)]
mod tests;
