//! What this kernel has of what Sluice uses, and what Sluice says where it cannot run.
//!
//! Only an old kernel can show the latter, so on others that test counts as ignored; `cargo xtask vm` runs it where it
//! matters. What is printed is what docs/kernels.md is written from.

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use lb_tests::features::FEATURES;
use lb_tests::lab::Lab;
use lb_tests::lab::config::Config;
use lb_tests::lab::daemon::Launcher;
use sluice::dataplane::kernel::{OLDEST, too_old};
use sluice::exit::Exit;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let root = nix::unistd::geteuid().is_root();
    let trials = vec![
        Trial::test("a kernel that is new enough has all that Sluice uses", features).with_ignored_flag(!root),
        Trial::ignorable_test(
            "a kernel that is too old is named, with the oldest that will do, by exit code 6",
            refused,
        )
        .with_ignored_flag(!root),
    ];
    libtest_mimic::run(&arguments, trials).exit()
}

fn features() -> Result<(), Failed> {
    let mut missing = Vec::new();
    println!();
    for feature in FEATURES {
        match feature.tried() {
            Ok(()) => println!("  has    {} ({})", feature.name, feature.used),
            Err(why) => {
                println!("  LACKS  {} ({}): {why}", feature.name, feature.used);
                missing.push(feature.name);
            }
        }
    }
    if !missing.is_empty() && too_old().is_none() {
        return Err(format!("this kernel counts as new enough, and lacks {}", missing.join(", ")).into());
    }
    Ok(())
}

fn refused() -> Result<Completion, Failed> {
    let Some(release) = too_old() else { return Ok(Completion::ignored_with("this kernel is new enough")) };
    let lab = Lab::new()?;
    let Launcher::Binary(sluice) = Launcher::beside_us()? else { return Err("not a binary".into()) };
    let config = lab.dir().join("sluice.yaml");
    std::fs::write(&config, Config::new(&lab).yaml())?;
    let mut command = lab.lb.command("timeout")?;
    let output = command.arg("--signal=KILL").arg("60").arg(sluice).arg("run").arg("-c").arg(&config).output()?;
    let says = String::from_utf8_lossy(&output.stderr);
    // The words of the kernel are for docs/kernels.md.
    println!("{says}");
    let expected = format!("Linux {release} is too old, {}.{} or newer is needed", OLDEST.0, OLDEST.1);
    if output.status.code() != Some(Exit::HostUnsupported as i32) || !says.contains(&expected) {
        return Err(format!("{}; expected: {expected}", output.status).into());
    }
    let link = lab.lb.ip_show("link show")?;
    if link.contains("xdp") {
        return Err(format!("something is attached: {link}").into());
    }
    Ok(Completion::Completed)
}
