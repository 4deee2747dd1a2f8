//! `cargo xtask demo` runs this: Sluice in a lab, with real traffic, told as a story.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lb_tests::demo::{self, Options};
use lb_tests::lab::daemon::Launcher;

/// Runs Sluice between real clients and servers in network namespaces, kills a backend, edits a weight.
#[derive(Debug, Parser)]
struct Arguments {
    /// The sluice binary to run; by default the one beside this program.
    #[arg(long, value_name = "PATH", conflicts_with = "container")]
    sluice: Option<PathBuf>,
    /// Run Sluice from this OCI image, in a privileged container on the lab's network.
    #[arg(long, value_name = "IMAGE")]
    container: Option<String>,
    /// The container engine with the options it needs, separated by spaces.
    #[arg(long, value_name = "COMMAND", default_value = "podman", env = "SLUICE_CONTAINER_ENGINE")]
    engine: String,
    /// Print the result as one JSON object, last, on standard output; the story goes to standard error.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let launcher = match (arguments.container, arguments.sluice) {
        (Some(image), _) => {
            Ok(Launcher::Container { engine: arguments.engine.split_whitespace().map(str::to_owned).collect(), image })
        }
        (None, Some(path)) => Ok(Launcher::Binary(path)),
        (None, None) => Launcher::beside_us(),
    };
    demo::run(launcher, &Options { json: arguments.json })
}
