//! Sluice's controller: everything that is not the packet path.
//!
//! Data flows one way: YAML → raw config → validated [`model`] → plan → map writes. Health is the only other
//! writer, and it writes through the same plan.

pub mod api;
pub mod control;
pub mod exit;
pub mod model;
