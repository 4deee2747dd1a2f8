//! The loaded program against the reference model. Needs root (or CAP_BPF and CAP_NET_ADMIN).
//!
//! A minute of the fuzzer with one seed for all, so that a failure is about a change and not about luck; what longer
//! runs with other seeds found is replayed from `fixtures/fuzz`.

use std::time::Duration;

use lb_tests::fuzz::rig::Rig;
use lb_tests::fuzz::{Ending, Options, fixture, run};

#[test]
#[ignore = "needs root"]
fn program_and_model_agree_about_everything_that_once_told_them_apart() {
    let mut rig = Rig::new().expect("a namespace and a CPU");
    let mut failed = Vec::new();
    for (name, fixture) in fixture::all().expect("fixtures") {
        if let Some(difference) = rig.locate(&fixture.scenario).expect("the program runs") {
            println!("{name}, found as {:?}:\n{difference}", fixture.found);
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "program and model differ again: {failed:?}");
}

#[test]
#[ignore = "needs root"]
fn program_and_model_agree_for_a_minute_of_random_packets_that_reach_everything() {
    let options = Options { seed: 1, time: Some(Duration::from_secs(60)), packets: None };
    let ending = run(&options).expect("the program runs");
    assert!(matches!(ending, Ending::Agreed), "{ending:?}: see above");
}
