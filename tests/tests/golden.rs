//! Golden packets, byte for byte through the real program. Needs root (or CAP_BPF and CAP_NET_ADMIN).
//!
//! Every row of the table is a test of its own: `cargo test -p lb-tests --test golden -- checksum` runs those
//! whose sentence says "checksum". They share one loaded program and its counters, so they run one by one.

use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};

use lb_tests::golden;
use lb_tests::golden::world::World;
use lb_tests::progrun::Settings;

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let settings = Settings::everything();
    let root = nix::unistd::geteuid().is_root();
    let world = if arguments.list || !root { None } else { Some(World::furnished(&settings)?) };
    if !root && !arguments.list {
        eprintln!("golden packets run in the kernel: run them as root, or by `cargo xtask test`");
    }
    let world = Arc::new(Mutex::new(world));
    let trial = |test: golden::Test| {
        let world = Arc::clone(&world);
        Trial::test(test.name, move || {
            let mut world = world.lock().map_err(|_| Failed::from("an earlier test panicked"))?;
            let world = world.as_mut().ok_or("no world")?;
            (test.run)(world).map_err(|why| Failed::from(format!("{why:#}")))
        })
        .with_ignored_flag(!root)
    };
    libtest_mimic::run(&arguments, golden::all(&settings).into_iter().map(trial).collect()).exit()
}
