//! The real XDP program, loaded and run on single packets by `BPF_PROG_TEST_RUN`.
//!
//! [`Program`] loads the very object the controller embeds, with settings and map contents of the test's choice;
//! [`netns`] gives it a private network to live in; [`counters`] reads what it counted.
//!
//! Traps. A run without a context comes in on the loopback device; [`Program::run`] always names the interface.
//! The kernel runs no frame shorter than an Ethernet header. And `XDP_REDIRECT` from such a run says only that
//! the device map knew the target: run it with one device in the map ([`Program::set_devices`]) to prove which.

mod bulk;
pub mod counters;
pub mod netns;
pub mod objects;
mod program;
pub mod wide;
pub mod wire;

pub use bulk::Mapped;
pub use counters::{Counts, counted};
pub use program::{Outcome, Program, Refused, Settings, Verdict};
