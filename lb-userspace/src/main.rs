//! The `sluice` binary; everything is in the library.

fn main() {}
