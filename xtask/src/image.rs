//! The OCI image: the static binary and nothing else, built without a registry.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process::{as_root, step};
use crate::setup::{self, Group};
use crate::{dist, workspace};

/// What the image is called locally.
pub const NAME: &str = "localhost/sluice:latest";

/// podman with what it needs where there is no systemd session; runc, because crun wants cgroups to itself.
pub const ENGINE: &str = "podman --cgroup-manager=cgroupfs --runtime runc";

/// Builds `deploy/docker/Dockerfile` around the binary of `dist`.
pub fn build() -> Result<()> {
    setup::ensure(&[Group::Container])?;
    let binary = dist::build()?;
    let context = binary.parent().context("the binary has no directory")?;
    // As root, like the demo: every user has a store of images of their own.
    let mut build = as_root("buildah");
    // chroot isolation: nothing runs in the build, so it needs no namespaces and works inside containers too.
    build.args(["bud", "--isolation", "chroot", "--tag", NAME, "--file"]);
    build.arg(workspace::root().join("deploy/docker/Dockerfile")).arg(context);
    step(&format!("building {NAME}"), &mut build, Duration::from_secs(300))
}
