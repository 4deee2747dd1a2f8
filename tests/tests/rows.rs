//! The loaded program in the oracle's world. Needs root (or CAP_BPF and CAP_NET_ADMIN).

use lb_tests::rows::{Compared, Family, Fault, Kernel};
use lb_tests_rows::History;

const SEED: u64 = 30;

#[test]
#[ignore = "needs root"]
fn the_program_does_what_the_oracle_expects_in_random_histories() {
    let mut kernel = Kernel::new().expect("a namespace and a program");
    for (family, worlds) in [(Family::V4, 0..8), (Family::V6, 8..16)] {
        let mut sum = Compared::default();
        for world in worlds {
            let history = History::draw(SEED, world, None);
            sum +=
                kernel.run(&history, family, None).unwrap_or_else(|why| panic!("{family:?}, world {world}: {why:#}"));
        }
        println!("{family:?}: {sum:?}");
        assert!(sum.is_complete() && sum.packets > 5_000, "{family:?}: {sum:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn flows_go_the_same_ways_when_they_are_tracked() {
    let mut kernel = Kernel::new().expect("a namespace and a program");
    let mut sum = Compared::default();
    for (family, worlds) in [(Family::V4, 0..6), (Family::V6, 6..12)] {
        for world in worlds {
            let history = History::draw(SEED + 1, world, None);
            sum +=
                kernel.run_tracked(&history, family).unwrap_or_else(|why| panic!("{family:?}, world {world}: {why:#}"));
        }
    }
    println!("{sum:?}");
    assert!(sum.is_complete() && sum.packets > 5_000, "{sum:?}");
}

#[test]
#[ignore = "needs root"]
fn whatever_is_done_wrong_on_purpose_is_noticed() {
    let mut kernel = Kernel::new().expect("a namespace and a program");
    for fault in Fault::ALL {
        let mut noticed = (0..8).filter_map(|world| {
            let history = History::draw(SEED, world, None);
            let why = kernel.run(&history, Family::V4, Some(fault)).err()?;
            Some(format!("{fault:?}, world {world}: {why:#}"))
        });
        println!("{}", noticed.next().unwrap_or_else(|| panic!("{fault:?} is not noticed")));
    }
}
