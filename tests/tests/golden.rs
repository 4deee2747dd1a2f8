//! Golden packets, byte for byte through the real program. Needs root (or CAP_BPF and CAP_NET_ADMIN).
//!
//! Every row of the table is a test of its own: `cargo test -p lb-tests --test golden -- checksum` runs those
//! whose sentence says "checksum". They share one loaded program and its counters, so they run one by one.

use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};

use lb_common::ring::CLASSES;
use lb_tests::golden::cases::{self, needle_rows};
use lb_tests::golden::world::{self, World};
use lb_tests::golden::{more, weighted_ring_shares};
use lb_tests::progrun::{Program, Settings, netns};

type Run = Box<dyn FnOnce(&mut World) -> anyhow::Result<()> + Send>;

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let settings = Settings::everything();
    let root = nix::unistd::geteuid().is_root();
    let world = if arguments.list || !root { None } else { Some(new_world(&settings)?) };
    if !root && !arguments.list {
        eprintln!("golden packets run in the kernel: run them as root, or by `cargo xtask test`");
    }
    let world = Arc::new(Mutex::new(world));

    let trial = |name: String, run: Run| {
        let world = Arc::clone(&world);
        Trial::test(name, move || {
            let mut world = world.lock().map_err(|_| Failed::from("an earlier test panicked"))?;
            let world = world.as_mut().ok_or("no world")?;
            run(world).map_err(|why| Failed::from(format!("{why:#}")))
        })
        .with_ignored_flag(!root)
    };
    let mut trials: Vec<Trial> = cases::all(&settings.hash_key)
        .into_iter()
        .map(|case| trial(case.name.clone(), Box::new(move |world| case.run(world))))
        .collect();
    for sweep in cases::sweeps() {
        trials.push(trial(sweep.name.clone(), Box::new(move |world| sweep.run(world))));
    }
    for case in cases::decap::cases() {
        let load = || Program::load_decap(&cases::decap::VIPS);
        trials.push(trial(case.name.clone(), Box::new(move |_| case.run_by(&mut load()?))));
    }
    for (name, run) in more::TESTS {
        trials.push(trial(name.to_owned(), Box::new(run)));
    }
    trials.push(trial(
        "a ring of weights 10 and 1 shares 200,000 random flows 90.9 % to 9.1 %".to_owned(),
        Box::new(|world| weighted_ring_shares(world, 200_000)),
    ));
    libtest_mimic::run(&arguments, trials).exit()
}

fn new_world(settings: &Settings) -> anyhow::Result<World> {
    netns::enter_private()?;
    world::network()?;
    let mut world = World::new(settings)?;
    for class in 0..CLASSES.len() {
        let (row4, row6) = needle_rows(&settings.hash_key, class);
        world.needle(class, row4, row6)?;
    }
    Ok(world)
}
