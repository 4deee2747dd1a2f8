//! `cargo xtask demo`: everything missing is set up and built, then the demo itself takes over this process.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::process::is_root;
use crate::setup::{self, Group};
use crate::{image, workspace};

#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Print the result as one JSON object, last, on stdout
    #[arg(long)]
    json: bool,
    /// Run Sluice from its OCI image, in a privileged container on the lab's network
    #[arg(long)]
    container: bool,
}

impl Demo {
    pub fn run(self) -> Result<ExitCode> {
        // Before minutes of building, not after.
        if !is_root() {
            bail!(
                "the demo makes network namespaces and loads an XDP program, which only root may do\n\
                 hint: sudo -E env \"PATH=$PATH\" cargo xtask demo"
            );
        }
        setup::ensure(&[Group::Build, Group::Lab])?;
        workspace::build_release(if self.container { &["demo"] } else { &["sluice", "demo"] })?;
        let release = workspace::target_dir()?.join("release");
        let mut demo = Command::new(release.join("demo"));
        if self.container {
            image::build()?;
            demo.args(["--container", image::NAME, "--engine", image::ENGINE]);
        } else {
            demo.arg("--sluice").arg(release.join("sluice"));
        }
        if self.json {
            demo.arg("--json");
        }
        // Replaced, not waited for: Ctrl-C and the exit code are the demo's own.
        Err(demo.exec()).with_context(|| format!("cannot run {}", demo.get_program().display()))
    }
}
