//! The controller: one task that owns the desired state and every map.

pub mod handle;
