//! Sluice's controller: everything that is not the packet path.
//!
//! Data flows one way: YAML → raw config → validated [`model`] → plan → map writes. Health is the only other
//! writer, and it writes through the same plan.

pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod exit;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod net;
pub mod ring;
pub mod rows;
pub mod systemd;
pub mod tracked;

#[cfg(test)]
mod snapshot;
