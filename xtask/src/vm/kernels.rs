//! Kernels to run on: packages of Debian, unpacked into the target directory and never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::apt::{Apt, Archive, Installed, Suite};
use crate::process::step;

/// A kernel somebody may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As in `--kernel 6.1`.
    pub name: &'static str,
    suite: &'static str,
    archive: Archive,
    /// How names of its packages begin.
    prefix: &'static str,
    /// It is too old for Sluice (`OLDEST` in lb-userspace/src/dataplane/kernel.rs), which has to say so.
    pub too_old: bool,
}

/// The oldest that can be had, those of the releases people run, and the newest.
pub const KERNELS: [Kernel; 5] = [
    Kernel {
        name: "5.10",
        suite: "bullseye-security",
        archive: Archive::Security,
        prefix: "linux-image-5.10.",
        too_old: true,
    },
    Kernel { name: "6.1", suite: "bookworm", archive: Archive::Main, prefix: "linux-image-6.1.", too_old: true },
    Kernel { name: "6.12", suite: "trixie", archive: Archive::Main, prefix: "linux-image-6.12.", too_old: false },
    Kernel {
        name: "6.18",
        suite: "trixie-backports",
        archive: Archive::Main,
        prefix: "linux-image-6.18.",
        too_old: false,
    },
    Kernel { name: "newest", suite: "sid", archive: Archive::Main, prefix: "linux-image-", too_old: false },
];

impl std::str::FromStr for Kernel {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = KERNELS.map(|kernel| kernel.name).join(", ");
        KERNELS.into_iter().find(|kernel| kernel.name == name).ok_or(format!("the kernels are {names}"))
    }
}

/// A kernel on this machine's disk.
#[derive(Debug)]
pub struct Unpacked {
    /// As `uname -r` will say.
    pub version: String,
    pub image: PathBuf,
    /// The directory that holds a directory of this version, as `/lib/modules` does.
    pub modules: PathBuf,
}

impl Kernel {
    /// What an earlier run unpacked into `dir`, unless it shall be looked for again; else from the mirror.
    pub fn unpacked(self, dir: &Path, again: bool) -> Result<Unpacked> {
        let root = dir.join("root");
        if again || !root.exists() {
            self.fetch(dir, &root).with_context(|| {
                let name = self.name;
                format!("it could not be downloaded; once that works, `cargo xtask vm --kernel {name}` runs it alone")
            })?;
        }
        find(&root).with_context(|| format!("{} holds no kernel; remove it and try again", root.display()))
    }

    fn fetch(self, dir: &Path, root: &Path) -> Result<()> {
        let suite = Suite { name: self.suite.to_owned(), archive: self.archive };
        let apt = Apt::new(&dir.join("apt"), Installed::Nothing, &[suite])?;
        apt.update(&format!("Linux {} in Debian's {}", self.name, self.suite))?;
        let found = apt.names("^linux-image-[0-9].*-amd64$")?;
        let Some(image) = newest(found.iter().map(String::as_str), self.prefix) else {
            bail!("{} has no package {}*-amd64", self.suite, self.prefix)
        };
        // In one package until 7.2, in three since.
        let mut packages = vec![image.to_owned()];
        let parts = apt.dependencies(image)?;
        packages
            .extend(parts.into_iter().filter(|p| p.starts_with("linux-binary-") || p.starts_with("linux-modules-")));
        // Unpacked aside and renamed: an interrupted download must not look finished.
        let aside = dir.join("root.part");
        let _ = fs::remove_dir_all(&aside);
        apt.unpack(&packages, &aside)?;
        if !aside.join("lib").exists() {
            // depmod looks below lib/modules.
            std::os::unix::fs::symlink("usr/lib", aside.join("lib"))?;
        }
        let Unpacked { version, .. } = find(&aside).context("the packages hold no kernel")?;
        let mut depmod = Command::new("depmod");
        step("indexing its modules", depmod.arg("-b").arg(&aside).arg(version), Duration::from_secs(300))?;
        let _ = fs::remove_dir_all(root);
        fs::rename(&aside, root)?;
        Ok(())
    }
}

fn find(root: &Path) -> Option<Unpacked> {
    let modules = root.join("lib/modules").canonicalize().ok()?;
    let version = fs::read_dir(&modules).ok()?.flatten().next()?.file_name().to_str()?.to_owned();
    let places = [root.join(format!("boot/vmlinuz-{version}")), modules.join(&version).join("vmlinuz")];
    let image = places.into_iter().find(|path| path.exists())?;
    Some(Unpacked { version, image, modules })
}

/// The package with the highest version whose name begins so, of the plain flavour.
fn newest<'a>(names: impl Iterator<Item = &'a str>, prefix: &str) -> Option<&'a str> {
    let other = ["cloud", "rt", "unsigned", "dbg"];
    names
        .filter(|name| name.starts_with(prefix) && !name.split('-').any(|word| other.contains(&word)))
        // `linux-image-amd64` is only a pointer to one.
        .filter(|name| name["linux-image-".len()..].starts_with(|c: char| c.is_ascii_digit()))
        .max_by_key(|name| numbers(name))
}

/// `linux-image-6.12.117+deb13-amd64` as its numbers, which compare as versions do.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_package_of_the_plain_flavour_is_taken() {
        let names = [
            "linux-image-6.12.107+deb13-amd64",
            "linux-image-6.12.117+deb13-amd64",
            "linux-image-6.12.117+deb13-cloud-amd64",
            "linux-image-6.12.200+deb13-rt-amd64",
            "linux-image-6.1.0-50-amd64",
            "linux-image-6.1.0-9-amd64",
            "linux-image-amd64",
        ];
        for (prefix, expected) in [
            ("linux-image-6.12.", Some("linux-image-6.12.117+deb13-amd64")),
            ("linux-image-6.1.", Some("linux-image-6.1.0-50-amd64")),
            ("linux-image-", Some("linux-image-6.12.117+deb13-amd64")),
            ("linux-image-5.10.", None),
        ] {
            assert_eq!(newest(names.into_iter(), prefix), expected, "{prefix}");
        }
    }
}
