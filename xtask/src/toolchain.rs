//! Finds a compiler that can build for `bpfel-unknown-none`, and builds packages of eBPF programs with it.
//!
//! The one place for this: build scripts include this file by path (`embed.rs`), so `cargo build` and `cargo xtask`
//! cannot disagree. The trap: the BPF target has no prebuilt `core`. Building one needs the library sources of **the
//! same** compiler, and bpf-linker must read that compiler's bitcode, so compiler, sources and libLLVM are chosen as
//! one [`Toolchain`], never separately.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

/// The linker every object of this project is made with. 0.10 carries no LLVM of its own: it borrows the compiler's
/// `libLLVM` at run time, which installs in a minute and can never be of another version than the bitcode.
pub const BPF_LINKER_VERSION: &str = "0.10.3";

/// `rust-version` of the workspace: an older compiler refuses lb-ebpf.
const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// The LLVM major bpf-linker 0.10 was written for; a compiler that has it is preferred.
const LLVM_MAJOR: u32 = 22;

/// A compiler, its cargo, its library sources and its libLLVM.
#[derive(Debug)]
pub struct Toolchain {
    /// What to call it when talking to people: a rustup toolchain's name or the compiler's path.
    pub name: String,
    rustc: PathBuf,
    cargo: PathBuf,
    llvm: PathBuf,
    llvm_major: u32,
    /// Not a nightly, so `-Z build-std` has to be unlocked.
    stable: bool,
}

/// Every usable toolchain has been looked at in a fixed order, so the same machine always picks the same one:
/// LLVM of the wanted major first, then rustup's before the system's, then nightlies, then by name.
pub fn find() -> Result<Toolchain> {
    let mut found = Vec::new();
    let mut refused = Vec::new();
    for (name, bin) in candidates() {
        match inspect(&name, &bin) {
            Ok(toolchain) => found.push(toolchain),
            Err(why) => refused.push(format!("  {name}: {why:#}")),
        }
    }
    found.sort_by_key(|t| t.llvm_major != LLVM_MAJOR);
    if !found.is_empty() {
        return Ok(found.remove(0));
    }
    let looked = if refused.is_empty() { "  (no Rust compiler at all)".to_owned() } else { refused.join("\n") };
    Err(anyhow!("no Rust toolchain here can build for BPF:\n{looked}"))
}

/// Places that may hold `rustc` and `cargo` side by side.
fn candidates() -> Vec<(String, PathBuf)> {
    let rustup = env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".rustup")));
    let mut names: Vec<(String, PathBuf)> = rustup
        .and_then(|home| fs::read_dir(home.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path().join("bin")))
        .collect();
    names.sort_by(|(a, _), (b, _)| (!a.starts_with("nightly"), a).cmp(&(!b.starts_with("nightly"), b)));
    names.push(("/usr/bin/rustc".to_owned(), PathBuf::from("/usr/bin")));
    names
}

fn inspect(name: &str, bin: &Path) -> Result<Toolchain> {
    let (rustc, cargo) = (bin.join("rustc"), bin.join("cargo"));
    if !rustc.exists() || !cargo.exists() {
        bail!("rustc or cargo is missing");
    }
    // rustup's and the system's compilers both have `bin/` directly in their sysroot.
    if !sources(&rustc).join("library/core/Cargo.toml").exists() {
        bail!("no library sources (rust-src)");
    }
    let version = output(Command::new(&rustc).arg("-vV"))?;
    let field = |key: &str| version.lines().find_map(|l| l.strip_prefix(key)).map(str::trim).unwrap_or_default();
    let release = field("release:");
    if !is_new_enough(release) {
        bail!("rustc {release} is older than {}.{}", OLDEST_RUSTC.0, OLDEST_RUSTC.1);
    }
    let llvm_major = field("LLVM version:").split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    // What the loader would give this rustc: the name and place of libLLVM differ between rustup and distributions.
    let libraries = output(Command::new("ldd").arg(&rustc))?;
    let llvm = libraries
        .lines()
        .filter_map(|l| l.trim().strip_prefix("libLLVM")?.split_once("=> ")?.1.split(" (").next())
        .map(PathBuf::from)
        .find(|path| path.exists())
        .ok_or_else(|| anyhow!("rustc {release} has LLVM built in, so bpf-linker cannot borrow it"))?;
    Ok(Toolchain { name: name.to_owned(), rustc, cargo, llvm, llvm_major, stable: !release.contains("nightly") })
}

/// Whether a compiler of this version (`1.96.0`, `1.97.0-nightly`, Debian's `1.96.0+dfsg1-1`) takes lb-ebpf.
pub fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= OLDEST_RUSTC
}

/// Where the library sources of a compiler are, if it has them.
fn sources(rustc: &Path) -> PathBuf {
    rustc.ancestors().nth(2).unwrap_or(Path::new("/")).join("lib/rustlib/src/rust")
}

/// Where `cargo xtask setup` puts tools: one directory per tool and version, shared by all checkouts.
pub fn tools_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("SLUICE_TOOLS") {
        return Ok(dir.into());
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cache")));
    Ok(cache.ok_or_else(|| anyhow!("no HOME: set SLUICE_TOOLS to a directory for tools"))?.join("sluice"))
}

/// Where bpf-linker is installed for us; the binary is in `bin/`.
pub fn bpf_linker_root() -> Result<PathBuf> {
    Ok(tools_dir()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}")))
}

/// The directory of a bpf-linker of exactly our version: in the tool cache, else on the path.
pub fn bpf_linker() -> Result<PathBuf> {
    let ours = bpf_linker_root()?.join("bin");
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let wanted = format!("bpf-linker {BPF_LINKER_VERSION}");
    std::iter::once(ours)
        .chain(on_path)
        .filter(|dir| dir.join("bpf-linker").exists())
        .find(|dir| {
            output(Command::new(dir.join("bpf-linker")).arg("--version")).is_ok_and(|said| said.trim() == wanted)
        })
        .ok_or_else(|| anyhow!("bpf-linker {BPF_LINKER_VERSION} is not installed"))
}

/// What to build for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub little_endian: bool,
    /// The architecture of the machine that will load the programs, as Rust spells it.
    pub arch: &'a str,
}

/// Builds the programs of `package` and returns the directory they are in. `root` is the workspace; `target_dir` is
/// cargo's output directory for the BPF build, kept apart from the outer build's because cargo locks it.
///
/// Diagnostics of the compiler are handed to `diagnostic`, line by line; with `loud`, cargo's progress too.
pub fn build(
    package: &str,
    root: &Path,
    target_dir: &Path,
    target: Target<'_>,
    loud: bool,
    diagnostic: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let toolchain = find()?;
    let linker = bpf_linker()?;
    let triple = if target.little_endian { "bpfel-unknown-none" } else { "bpfeb-unknown-none" };

    // bpf-linker takes the first libLLVM* it finds along LD_LIBRARY_PATH. Give it a directory with only the right one,
    // under a name nobody else resolves.
    let llvm_dir = target_dir.join("llvm");
    fs::create_dir_all(&llvm_dir).with_context(|| format!("cannot create {}", llvm_dir.display()))?;
    let link = llvm_dir.join("libLLVM-of-rustc.so");
    if fs::read_link(&link).ok().as_ref() != Some(&toolchain.llvm) {
        let fresh = llvm_dir.join(format!(".{}", std::process::id()));
        let _ = fs::remove_file(&fresh);
        std::os::unix::fs::symlink(&toolchain.llvm, &fresh)?;
        fs::rename(&fresh, &link)?;
    }

    let mut command = Command::new(&toolchain.cargo);
    // A build script's environment describes the outer build; inherited, it would describe ours, wrongly.
    for (key, _) in env::vars_os() {
        if describes_outer_build(&key.to_string_lossy()) {
            command.env_remove(key);
        }
    }
    let tool_dirs = [linker.as_path(), toolchain.rustc.parent().unwrap_or(Path::new("/"))];
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(tool_dirs.into_iter().map(Path::to_owned).chain(env::split_paths(&path)))?;
    command.env("PATH", path).env("LD_LIBRARY_PATH", &llvm_dir).env("RUSTC", &toolchain.rustc);
    if toolchain.stable {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", rustflags(root, &toolchain, target.arch));
    command.current_dir(root);
    command.args(["build", "--locked", "--package", package, "--bins", "--release", "-Zbuild-std=core"]);
    command.args(["--target", triple, "--target-dir"]).arg(target_dir);
    if !loud {
        command.arg("--quiet");
    }

    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {}", toolchain.cargo.display()))?;
    let mut said = Vec::new();
    for line in BufReader::new(child.stderr.take().context("no stderr")?).lines() {
        let line = line?;
        // Cargo's count of what it has just said.
        if line.is_empty() || (line.starts_with("warning: `") && line.contains(" generated ")) {
            continue;
        }
        diagnostic(&line);
        said.push(line);
    }
    let status = child.wait()?;
    if !status.success() {
        // Said again: cargo hides what a build script printed as warnings when the script fails.
        let said = if loud { String::new() } else { format!(":\n{}", said.join("\n")) };
        bail!("the eBPF programs of {package} do not build ({}, {status}){said}", toolchain.name);
    }
    Ok(target_dir.join(triple).join("release"))
}

/// The same sources give the same bytes wherever the checkout, cargo's home and the compiler are.
fn rustflags(root: &Path, toolchain: &Toolchain, arch: &str) -> OsString {
    let mut flags = vec![
        OsString::from("-Cdebuginfo=2"),
        OsString::from("-Clink-arg=--btf"),
        OsString::from(format!("--cfg=bpf_target_arch=\"{arch}\"")),
    ];
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cargo")));
    let sources = sources(&toolchain.rustc);
    // Debian's is a link, and the compiler records both names.
    let linked = sources.canonicalize().ok();
    let remapped =
        [(Some(root.to_owned()), "/sluice"), (cargo_home, "/cargo"), (Some(sources), "/rust"), (linked, "/rust")];
    for (from, to) in remapped {
        let Some(from) = from else { continue };
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(&from);
        flag.push(format!("={to}"));
        flags.push(flag);
    }
    flags.join(OsStr::new("\x1f"))
}

fn describes_outer_build(key: &str) -> bool {
    const EXACT: [&str; 17] = [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_PRIMARY_PACKAGE",
        "DEBUG",
        "HOST",
        "LD_LIBRARY_PATH",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTC",
        "RUSTC_LINKER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
    ];
    const PREFIXES: [&str; 9] = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "DEP_",
        "RUSTC_W",
    ];
    EXACT.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME").map(PathBuf::from)
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    let done = done.with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !done.status.success() {
        bail!("{} {}", command.get_program().display(), done.status);
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{describes_outer_build, is_new_enough};

    #[test]
    fn versions_of_every_origin_are_compared_as_numbers() {
        for (version, enough) in [
            ("1.95.0", true),
            ("1.100.2", true),
            ("2.0.0", true),
            ("1.97.0-nightly", true),
            ("1.96.0+dfsg1-1~deb12u2", true),
            ("1.94.1", false),
            ("1.85.0+dfsg3-1~deb12u3", false),
            ("1.9.0", false),
            ("(none)", false),
            ("", false),
        ] {
            assert_eq!(is_new_enough(version), enough, "{version:?}");
        }
    }

    #[test]
    fn the_user_s_settings_reach_the_nested_build_and_the_outer_build_s_do_not() {
        for theirs in ["CARGO_HOME", "RUSTUP_HOME", "CARGO_HTTP_CAINFO", "CARGO_NET_OFFLINE", "CARGO_MAKEFLAGS", "HOME"]
        {
            assert!(!describes_outer_build(theirs), "{theirs}");
        }
        for outer in [
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CARGO_CFG_TARGET_FEATURE",
            "CARGO_PKG_VERSION",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "TARGET",
        ] {
            assert!(describes_outer_build(outer), "{outer}");
        }
    }
}
