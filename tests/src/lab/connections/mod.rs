//! Connections never move: thousands of long-lived ones through whatever an operator does, with a record at both ends.
//!
//! [`site`] is the place, [`servers`] and [`fleet`] are the two ends, [`scenario`] is the script, [`check`] is the judge.
//! The trap in proving that nothing happened is a harness that would not have noticed: so each end writes down what it
//! sees without asking the other, the wire is a third witness, and the judge's own tests break every
//! agreement once.

pub mod check;
pub mod config;
pub mod fleet;
pub mod kernel;
pub mod log;
pub mod placement;
pub mod scenario;
pub mod servers;
pub mod site;
pub mod sniff;
pub mod wire;

/// Where the service is and where its backends listen.
pub const PORT: u16 = 7000;
/// Where backends answer health checks, apart from the connections that are counted.
pub const PROBE_PORT: u16 = 7001;
