//! Finds what the other verbs need and installs what is missing, so that a fresh machine needs one command.
//!
//! The traps: a Debian package may start a server when it is installed (nginx takes port 80), apt may be busy or its
//! lists old, rustup's servers may not answer for minutes. And this runs before every verb, so when everything is
//! there it must cost nothing and say nothing.

use std::env;
use std::fs::File;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::apt::{self, Archive, Installed, Suite};
use crate::process::{as_root, find_program, is_root, say, step};
use crate::toolchain::{self, Toolchain};
use crate::workspace;

/// What a verb needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// A compiler for BPF and its linker: every build.
    Build,
    /// Servers and network tools: the demo and the tests.
    Lab,
    /// Building and running the image.
    Container,
    /// Other kernels in virtual machines. Only for who asks for that: it is large.
    Vm,
}

impl Group {
    /// What everybody needs.
    pub const ALL: [Self; 3] = [Self::Build, Self::Lab, Self::Container];
}

/// A program, the Debian package that has it, and who needs it.
const PROGRAMS: &[(&str, &str, Group)] = &[
    ("ip", "iproute2", Group::Lab),
    ("nginx", "nginx-light", Group::Lab),
    ("dnsmasq", "dnsmasq-base", Group::Lab),
    ("tcpdump", "tcpdump", Group::Lab),
    ("ethtool", "ethtool", Group::Lab),
    ("bpftool", "bpftool", Group::Lab),
    ("systemd-analyze", "systemd", Group::Lab),
    ("buildah", "buildah", Group::Container),
    ("podman", "podman", Group::Container),
    ("runc", "runc", Group::Container),
    ("qemu-system-x86_64", "qemu-system-x86", Group::Vm),
    ("busybox", "busybox-static", Group::Vm),
    ("depmod", "kmod", Group::Vm),
    ("xz", "xz-utils", Group::Vm),
];

/// A nightly known to carry the LLVM bpf-linker wants. Dated, so that every machine that needs one gets the same bytes.
const NIGHTLY: &str = "nightly-2026-05-20";

/// Debian's names for a compiler with its library sources, newest first.
const DEBIAN_COMPILERS: [[&str; 3]; 2] = [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

/// Long enough for a slow line, short enough that nobody thinks it hangs.
const DOWNLOAD: Duration = Duration::from_secs(300);
/// Waiting for another apt is part of it.
const APT: Duration = Duration::from_secs(900);

/// Makes everything in `groups` available or says exactly what is missing.
pub fn ensure(groups: &[Group]) -> Result<()> {
    let missing = Missing::look(groups);
    if missing.is_nothing() {
        return Ok(());
    }
    // Two checkouts may set up at once; the second then finds everything done.
    let tools = toolchain::tools_dir()?;
    std::fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
    let lock = File::create(tools.join("setup.lock"))?;
    if lock.try_lock().is_err() {
        say("another setup is running; waiting for it");
        lock.lock()?;
    }
    Missing::look(groups).install()
}

#[derive(Debug)]
struct Missing {
    compiler: bool,
    linker: bool,
    /// Programs and their packages.
    programs: Vec<(&'static str, &'static str)>,
}

impl Missing {
    fn look(groups: &[Group]) -> Self {
        let build = groups.contains(&Group::Build);
        Self {
            compiler: build && toolchain::find().is_err(),
            linker: build && toolchain::bpf_linker().is_err(),
            programs: PROGRAMS
                .iter()
                .filter(|(program, _, group)| groups.contains(group) && find_program(program).is_none())
                .map(|&(program, package, _)| (program, package))
                .collect(),
        }
    }

    fn is_nothing(&self) -> bool {
        !self.compiler && !self.linker && self.programs.is_empty()
    }

    /// Installs each part even if another cannot be, and names at once everything that is left to do by hand.
    fn install(self) -> Result<()> {
        let mut apt = Apt::default();
        let mut left = Vec::new();
        if self.compiler {
            match install_compiler(&mut apt) {
                Ok(compiler) => say(&format!("eBPF programs will be built with {}", compiler.name)),
                Err(why) => left.push(why),
            }
        }
        if self.linker {
            left.extend(install_linker().err());
        }
        if !self.programs.is_empty() {
            left.extend(install_programs(&mut apt, &self.programs).err());
        }
        if left.is_empty() {
            return Ok(());
        }
        let left: Vec<String> = left.iter().map(|why| format!("{why:#}")).collect();
        bail!("{}\n\nThen run `cargo xtask setup` again.", left.join("\n\n"))
    }
}

fn install_programs(apt: &mut Apt, missing: &[(&str, &str)]) -> Result<()> {
    let (programs, packages): (Vec<&str>, Vec<&str>) = missing.iter().copied().unzip();
    apt.install(&packages)
        .and_then(|()| match programs.iter().find(|program| find_program(program).is_none()) {
            Some(program) => bail!("{program} is still missing after its package was installed"),
            None => Ok(()),
        })
        .map_err(|why| {
            anyhow!(
                "missing programs: {}\n- {why:#}\nInstall them with your package manager; on Debian:\n  apt-get install \
                 --no-install-recommends {}",
                programs.join(", "),
                packages.join(" "),
            )
        })
}

/// First rustup, which most people have; then the distribution's compiler.
fn install_compiler(apt: &mut Apt) -> Result<Toolchain> {
    let mut tried = Vec::new();
    if find_program("rustup").is_some() {
        match rustup_server() {
            Err(why) => tried.push(format!("rustup: {why:#}")),
            Ok(()) => {
                // A nightly that is already there needs 3 MB of sources, a new one 100 MB in all.
                let attempts: [&[&str]; 2] = [
                    &["component", "add", "rust-src", "--toolchain", "nightly"],
                    &["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"],
                ];
                let mut nightly = Command::new("rustup");
                nightly.args(["which", "rustc", "--toolchain", "nightly"]);
                let attempts = if succeeds(&mut nightly) { &attempts[..] } else { &attempts[1..] };
                for &words in attempts {
                    let said = format!("rustup {}", words.join(" "));
                    match step(&said, Command::new("rustup").args(words), DOWNLOAD) {
                        Err(why) => tried.push(format!("{why:#}")),
                        Ok(()) => match toolchain::find() {
                            Ok(found) => return Ok(found),
                            Err(why) => tried.push(format!("{why:#}")),
                        },
                    }
                }
            }
        }
        say("rustup cannot provide a compiler for BPF here; trying the distribution's");
    } else {
        tried.push("rustup is not installed".to_owned());
    }
    match apt.newest(&DEBIAN_COMPILERS) {
        Err(why) => tried.push(format!("{why:#}")),
        Ok(packages) => match apt.install(packages).and_then(|()| toolchain::find()) {
            Ok(found) => return Ok(found),
            Err(why) => tried.push(format!("apt: {why:#}")),
        },
    }
    bail!(
        "no compiler for BPF could be installed:\n- {}\nInstall one of these:\n  \
         rustup (https://rustup.rs), then: rustup toolchain install {NIGHTLY} --profile minimal --component rust-src\n  \
         your distribution's rustc and cargo, 1.95 or newer, with the library sources; on Debian: apt-get install {}",
        tried.join("\n- "),
        DEBIAN_COMPILERS[0].join(" "),
    )
}

fn install_linker() -> Result<()> {
    let version = toolchain::BPF_LINKER_VERSION;
    let root = toolchain::bpf_linker_root()?;
    // Built aside and renamed: an interrupted install must not look finished.
    let aside = root.with_extension(format!("{}.part", std::process::id()));
    let mut install = workspace::cargo("install");
    // Not in the workspace: its settings are not the linker's.
    install.current_dir("/").args(["bpf-linker", "--version", version, "--locked", "--root"]).arg(&aside);
    let built = step(&format!("installing bpf-linker {version} (about a minute)"), &mut install, 4 * DOWNLOAD);
    if let Err(why) = built {
        let _ = std::fs::remove_dir_all(&aside);
        bail!(
            "bpf-linker could not be installed:\n- {why:#}\nInstall it, into a directory on your PATH:\n  \
             cargo install bpf-linker --version {version} --locked"
        );
    }
    let _ = std::fs::remove_dir_all(&root);
    std::fs::rename(&aside, &root).with_context(|| format!("cannot move bpf-linker to {}", root.display()))?;
    toolchain::bpf_linker().map(drop)
}

/// The target triple of a static binary for this machine.
pub fn musl_triple() -> String {
    format!("{}-unknown-linux-musl", env::consts::ARCH)
}

/// Whether the compiler of the cargo that runs us has a standard library for musl, or could be given one.
pub fn musl_target() -> bool {
    let has = || {
        let cargo = env::var_os("CARGO").map(PathBuf::from).unwrap_or_default();
        let sysroot = cargo.ancestors().nth(2).map(|sysroot| sysroot.join("lib/rustlib"));
        sysroot.is_some_and(|libraries| libraries.join(musl_triple()).join("lib").is_dir())
    };
    // rustup sets this for what it runs; without it the compiler is not rustup's to extend.
    if has() || env::var_os("RUSTUP_TOOLCHAIN").is_none() {
        return has();
    }
    let words = ["target", "add", &musl_triple()];
    let add = || step(&format!("rustup {}", words.join(" ")), Command::new("rustup").args(words), DOWNLOAD);
    if let Err(why) = rustup_server().and_then(|()| add()) {
        say(&format!("no musl target from rustup: {why:#}"));
    }
    has()
}

/// Whether rustup's server (or the proxy before it) takes a connection. rustup itself would retry for minutes.
fn rustup_server() -> Result<()> {
    let server = env::var("RUSTUP_DIST_SERVER").unwrap_or_else(|_| "https://static.rust-lang.org".to_owned());
    let proxy = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].iter().find_map(|name| env::var(name).ok());
    let url = proxy.as_ref().unwrap_or(&server);
    let (host, port) = host_and_port(url).with_context(|| format!("{url} is not a URL"))?;
    let mut addresses = (host, port).to_socket_addrs().with_context(|| format!("{host} is unknown here"))?;
    let answers = addresses.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok());
    if !answers {
        bail!("{host} does not answer");
    }
    Ok(())
}

fn host_and_port(url: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split('/').next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let default = if scheme == "https" { 443 } else { 80 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some((host, port))
}

/// apt, used as little and as carefully as possible.
#[derive(Debug, Default)]
struct Apt {
    lists_are_fresh: bool,
}

impl Apt {
    fn usable() -> Result<()> {
        if find_program("apt-get").is_none() {
            bail!("there is no apt here");
        }
        if !is_root() && find_program("sudo").is_none() {
            bail!("installing packages needs root, and there is no sudo");
        }
        Ok(())
    }

    fn command(sources: Option<&apt::Apt>) -> Command {
        let mut command = as_root("env");
        // Through env: sudo drops variables. The lock is often held by the system's own updates.
        command.args(sources.map(apt::Apt::variable));
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-o", "DPkg::Lock::Timeout=300"]);
        command
    }

    fn update(&mut self) -> Result<()> {
        Self::usable()?;
        if !self.lists_are_fresh {
            step("apt-get update", Self::command(None).arg("update"), APT)?;
            self.lists_are_fresh = true;
        }
        Ok(())
    }

    /// The first set whose compiler is new enough for lb-ebpf.
    fn newest<'a>(&mut self, sets: &'a [[&'a str; 3]]) -> Result<&'a [&'a str; 3]> {
        self.update()?;
        let mut seen = Vec::new();
        for set in sets {
            let policy = Command::new("apt-cache").args(["policy", set[0]]).env("LC_ALL", "C").output()?;
            let policy = String::from_utf8_lossy(&policy.stdout).into_owned();
            let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: ")).unwrap_or("(none)");
            if toolchain::is_new_enough(candidate) {
                return Ok(set);
            }
            seen.push(format!("{} {candidate}", set[0]));
        }
        bail!("apt has no compiler that is new enough: {}", seen.join(", "))
    }

    fn install(&mut self, packages: &[&str]) -> Result<()> {
        self.update()?;
        let _quiet = packages.contains(&"nginx-light").then(NoServers::begin);
        let install = |command: &mut Command, more: &str| {
            // --no-remove: never trade something the user has for something we want.
            command.args(["install", "--no-install-recommends", "--no-remove"]).args(packages);
            step(&format!("apt-get install {}{more}", packages.join(" ")), command, APT)
        };
        let Err(why) = install(&mut Self::command(None), "") else { return Ok(()) };
        // Parts of QEMU are of one version. Where some are there from backports, the rest is to be had only there.
        if !packages.contains(&"qemu-system-x86") {
            return Err(why);
        }
        let (Some(suite), Ok(dir)) = (backports(), toolchain::tools_dir()) else { return Err(why) };
        let apt = apt::Apt::new(&dir.join("apt"), Installed::Host, std::slice::from_ref(&suite))?;
        apt.update(&format!("{} in {}", packages.join(" "), suite.name))?;
        let mut command = Self::command(Some(&apt));
        command.args(["-t", &suite.name]);
        install(&mut command, &format!(" from {}", suite.name)).with_context(|| format!("{why:#}"))
    }
}

/// The suite that has newer packages for the host's release of Debian.
fn backports() -> Option<Suite> {
    let release = std::fs::read_to_string("/etc/os-release").ok()?;
    let value =
        |key: &str| release.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches('"'));
    (value("ID=") == Some("debian"))
        .then(|| Some(Suite { name: format!("{}-backports", value("VERSION_CODENAME=")?), archive: Archive::Main }))?
}

/// While this lives, packages do not start their servers; when it ends, the ones just installed stay off at boot.
struct NoServers {
    policy: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServers {
    fn begin() -> Self {
        // The administrator's own policy stays.
        let policy = !Path::new(POLICY).exists();
        if policy {
            let script = format!("printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}");
            let _ = as_root("sh").args(["-c", &script]).status();
        }
        Self { policy }
    }
}

impl Drop for NoServers {
    fn drop(&mut self) {
        if self.policy {
            let _ = as_root("rm").args(["-f", POLICY]).status();
        }
        // The lab starts its own nginx, in its own namespaces; the package's service would take port 80 at next boot.
        // Debian's tool for every kind of init, also in a container that has none.
        let mut disable = as_root("update-rc.d");
        let _ = disable.args(["nginx", "disable"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn server_and_proxy_urls_give_a_host_and_a_port() {
        for (url, expected) in [
            ("https://static.rust-lang.org", Some(("static.rust-lang.org", 443))),
            ("https://mirror.example/rust/", Some(("mirror.example", 443))),
            ("http://proxy.example:3128", Some(("proxy.example", 3128))),
            ("http://user:secret@proxy.example:3128/", Some(("proxy.example", 3128))),
            ("proxy.example:8080", Some(("proxy.example", 8080))),
            ("http://[2001:db8::1]:3128", Some(("2001:db8::1", 3128))),
            ("http://[2001:db8::1]", Some(("2001:db8::1", 80))),
            ("https://", None),
            ("http://host:port", None),
        ] {
            assert_eq!(host_and_port(url), expected, "{url}");
        }
    }
}
