//! The benchmark measures what it says it measures. Times are never tested: `cargo xtask bench` judges those.

use lb_tests::bench;

/// Every case runs, on one CPU and on two: the verdict and every byte of the last packet, the counters of all of them,
/// and the reference programs unchanged since their relation to each other was recorded.
#[test]
#[ignore = "needs root"]
fn every_case_of_the_benchmark_does_what_its_name_says() {
    for packets in [1, 1000] {
        bench::check(packets).unwrap_or_else(|why| panic!("{why:#}"));
    }
}
