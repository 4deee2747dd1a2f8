//! Programs stay as cheap to verify and as small as they are recorded to be.

use lb_tests::verifier::Costs;

#[test]
#[ignore = "needs root"]
fn no_program_costs_the_verifier_more_than_is_recorded() {
    let (now, recorded) = (Costs::measure().unwrap(), Costs::read().unwrap());
    if !now.same_kernel(&recorded) {
        eprintln!("recorded on {}, not on {}: compared loosely", recorded.kernel, now.kernel);
    }
    let worse = now.worse_than(&recorded);
    assert!(worse.is_empty(), "{}\nif that is meant: cargo xtask verifier --bless", worse.join("\n"));
}
