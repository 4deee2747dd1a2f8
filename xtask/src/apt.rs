//! Packages of other suites, by apt directories of our own: the host's sources and lists stay as they are.
//!
//! Everything is fetched from where the host fetches: its mirror is asked for the other suite, too. The traps: the host's
//! pins would hide what is asked for, and a mirror that lags has lists whose date has passed, which apt refuses unless told
//! otherwise (what they say is still signed).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::{find_program, output, step};

/// Long enough for a slow line and a hundred megabytes.
const LIMIT: Duration = Duration::from_secs(900);
/// Debian signs its suites with these keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The servers a suite may be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    Main,
    Security,
}

/// A suite of Debian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    pub name: String,
    pub archive: Archive,
}

/// Which packages apt takes to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// The host's: for installing more of them.
    Host,
    /// None: for looking at what there is.
    Nothing,
}

/// apt with directories, sources and lists of its own.
#[derive(Debug)]
pub struct Apt {
    config: PathBuf,
}

impl Apt {
    /// Makes the directories below `dir`. With [`Installed::Host`] the host's own suites are among the sources.
    pub fn new(dir: &Path, installed: Installed, suites: &[Suite]) -> Result<Self> {
        if find_program("apt-get").is_none() {
            bail!("there is no apt here");
        }
        let targets = output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ]))?;
        let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let mut sources = String::new();
        for suite in suites {
            sources += &format!("deb {signed}{} {} main\n", mirror(&targets, suite.archive), suite.name);
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
        }
        let at = |name: &str| dir.join(name).display().to_string();
        fs::write(dir.join("sources.list"), sources)?;
        fs::write(dir.join("status"), "")?;
        let mut config = format!(
            "Dir::State::Lists \"{}\";\nDir::Cache \"{}\";\nDir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\nAcquire::Check-Valid-Until \"false\";\nAPT::Sandbox::User \"root\";\n",
            at("lists"),
            at("cache"),
        );
        config += &match installed {
            // A suite beside the host's own.
            Installed::Host => {
                let _ = fs::remove_file(dir.join("parts/ours.list"));
                fs::create_dir_all(dir.join("parts"))?;
                copy_sources(&dir.join("parts"))?;
                fs::copy(dir.join("sources.list"), dir.join("parts/ours.list"))?;
                format!("Dir::Etc::sourceparts \"{}\";\n", at("parts"))
            }
            Installed::Nothing => format!(
                "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\nDir::State::status \"{}\";\n",
                at("sources.list"),
                at("status"),
            ),
        };
        let path = dir.join("apt.conf");
        fs::write(&path, config)?;
        Ok(Self { config: path })
    }

    /// The assignment for `env` that makes any apt program use these directories.
    pub fn variable(&self) -> String {
        format!("APT_CONFIG={}", self.config.display())
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    /// Fetches the lists.
    pub fn update(&self, what: &str) -> Result<()> {
        // Otherwise a suite that cannot be fetched is only warned of.
        let mut update = self.program("apt-get");
        step(&format!("looking for {what}"), update.args(["update", "-o", "APT::Update::Error-Mode=any"]), LIMIT)
    }

    /// Names of packages that match a regular expression.
    pub fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let found = output(self.program("apt-cache").args(["search", "--names-only", pattern]))?;
        Ok(found.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// What a package depends on, by name.
    pub fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let said = output(self.program("apt-cache").args(["depends", "--important", package]))?;
        Ok(said.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// Downloads packages and unpacks them below `root`. Nothing is installed.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let debs = self.config.with_file_name("debs");
        let _ = fs::remove_dir_all(&debs);
        fs::create_dir_all(&debs)?;
        let mut download = self.program("apt-get");
        download.current_dir(&debs).arg("download").args(packages);
        step(&format!("downloading {}", packages.join(" ")), &mut download, LIMIT)?;
        fs::create_dir_all(root)?;
        for deb in fs::read_dir(&debs)? {
            step("unpacking it", Command::new("dpkg-deb").arg("-x").arg(deb?.path()).arg(root), LIMIT)?;
        }
        fs::remove_dir_all(&debs)?;
        Ok(())
    }
}

/// The host's own mirror of an archive, as apt's index targets tell it (`URI RELEASE COMPONENT`); Debian's where the host
/// is of another kind.
fn mirror(targets: &str, archive: Archive) -> &str {
    let is_debian = |release: &str| {
        let release = release.split('-').next().unwrap_or(release);
        ["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"]
            .contains(&release)
    };
    let own = targets.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (uri, release) = (words.next()?, words.next()?);
        let security = release.ends_with("-security");
        (is_debian(release) && words.next() == Some("main") && security == (archive == Archive::Security))
            .then_some(uri)
    });
    own.unwrap_or(match archive {
        Archive::Main => "http://deb.debian.org/debian",
        Archive::Security => "http://security.debian.org/debian-security",
    })
}

/// The host's files of sources, beside which one of ours is put.
fn copy_sources(to: &Path) -> Result<()> {
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Archive, mirror};

    #[test]
    fn other_suites_are_asked_for_where_the_host_asks_for_its_own() {
        let debian = "http://deb.example/debian/ bookworm-updates contrib\nhttp://deb.example/debian/ bookworm main\n\
                      http://sec.example/debian-security/ bookworm-security main\n";
        let other = "http://tools.example/apt cloud-sdk main\nhttp://archive.example/ubuntu/ noble main\n";
        for (targets, archive, expected) in [
            (debian, Archive::Main, "http://deb.example/debian/"),
            (debian, Archive::Security, "http://sec.example/debian-security/"),
            (other, Archive::Main, "http://deb.debian.org/debian"),
            (other, Archive::Security, "http://security.debian.org/debian-security"),
            ("", Archive::Main, "http://deb.debian.org/debian"),
        ] {
            assert_eq!(mirror(targets, archive), expected);
        }
    }
}
