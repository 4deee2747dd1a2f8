//! Connections never move: long-lived ones by the thousand, through everything an operator does, and not one breaks.
//!
//! Needs root, so a plain `cargo test` leaves these out; `cargo xtask test` runs them, after everything else. Each has a
//! site of its own and the machine for itself: they open thousands of sockets, and what they measure is silence.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lb_tests::lab::connections::scenario::Scenario;

static MACHINE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
#[ignore = "needs root"]
fn nothing_breaks_while_nothing_changes() {
    let _machine = alone();
    let mut run = Scenario::start(1, 10, |_| {}).unwrap();
    run.open(2000).unwrap();
    run.step("nothing", |_| Ok(())).unwrap();
    run.step("the same file again", Scenario::apply).unwrap();
    let verdict = run.verdict().unwrap();
    assert!(verdict.is_clean(), "{verdict}");
    assert!(verdict.connections > 2000 && verdict.answers > 14_000, "{verdict}");
}
