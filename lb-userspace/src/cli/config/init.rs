//! `sluice config init`: a file to start from.
//!
//! The trap is a helpful command that destroys work: an existing file is never touched without `--force`, and then
//! replaced whole, so that a full disk leaves the old one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::cli::{Ended, output};
use crate::exit::{Exit, Failure};
use crate::net::watch;

/// The commented file in the repository, checked by the tests.
const STARTER: &str = include_str!("../../../../deploy/config/minimal.yaml");
/// The interface it names.
const INTERFACE: &str = "interfaces: [eth0]";

/// Write a commented configuration file to start from
///
/// The file is valid and names every key. Its interface is that of this host's default route; its addresses are
/// examples to be replaced.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice config init                                on stdout\n  \
    sudo sluice config init /etc/sluice/sluice.yaml\n  \
    sluice config init sluice.yaml --force            replace what is there")]
pub struct Init {
    /// Where to write it; `-` or nothing for stdout
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

impl Init {
    pub fn execute(self) -> Ended {
        let guess = watch::snapshot().ok().and_then(|net| Some(net.default_route()?.name.clone()));
        let text = starter(guess.as_deref());
        let Some(file) = self.file.filter(|file| file != Path::new("-")) else {
            let _seen = output::write(&text)?;
            return Ok(Exit::Ok);
        };
        write(&file, &text, self.force)?;
        let interface = match guess {
            Some(name) => format!("interface {name}, which has the default route"),
            None => "interface eth0, a guess: this host has no default route".to_owned(),
        };
        let file = file.display();
        output::talk(&format!("wrote {file} ({interface})"));
        output::talk(&format!("next: put in your addresses, then `sluice check -c {file}`"));
        Ok(Exit::Ok)
    }
}

/// The file, with this interface in it.
fn starter(interface: Option<&str>) -> String {
    let Some(name) = interface else { return STARTER.to_owned() };
    // A JSON text is a YAML text; the kernel allows names that YAML reads as something else.
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        && !name.eq_ignore_ascii_case("null");
    let name = if plain { name.to_owned() } else { serde_json::json!(name).to_string() };
    STARTER.replacen(INTERFACE, &format!("interfaces: [{name}]"), 1)
}

fn write(file: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let created = OpenOptions::new().write(true).create_new(true).open(file);
    let written = match created {
        Ok(new) => fill(new, text).inspect_err(|_| drop(fs::remove_file(file))),
        Err(e) if e.kind() == ErrorKind::AlreadyExists && force => replace(file, text),
        Err(e) => Err(e),
    };
    written.map_err(|error| {
        let failure = |message: String| Failure::new(Exit::Failed, message);
        let file = file.display();
        match error.kind() {
            ErrorKind::AlreadyExists => failure(format!("{file} exists; it was not touched"))
                .hint("name another file, or replace it with --force"),
            ErrorKind::NotFound => failure(format!("cannot write {file}: its directory does not exist"))
                .hint("make the directory first, or leave out the file to print to stdout"),
            ErrorKind::PermissionDenied => failure(format!("cannot write {file}: {error}"))
                .hint("run as a user who may write there, or leave out the file to print to stdout"),
            _ => failure(format!("cannot write {file}: {error}")),
        }
    })
}

fn fill(mut file: File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The new file stands beside the old one before it takes its place; the old one's mode stays.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    // Where a link leads, not the link.
    let file = fs::canonicalize(file)?;
    let metadata = fs::metadata(&file)?;
    if !metadata.is_file() {
        // A device or a pipe is written to as it is; a directory says what it is.
        return fill(OpenOptions::new().write(true).open(&file)?, text).or_else(|e| match e.raw_os_error() {
            // Not everything that can be written to can be synced (fsync(2)).
            Some(libc::EINVAL) => Ok(()),
            _ => Err(e),
        });
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = file.with_file_name(name);
    let written = File::create(&new)
        .and_then(|f| fill(f, text))
        .and_then(|()| fs::set_permissions(&new, metadata.permissions()))
        .and_then(|()| fs::rename(&new, &file));
    written.inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn whatever_the_kernel_calls_its_interface_the_file_is_valid_and_names_it() {
        for name in [
            "eth0",
            "enp3s0f1",
            "bond0.100",
            "wg-home",
            "null",
            "~",
            "7",
            "0x1f",
            "a,b",
            "[x",
            "#",
            "a\"b",
            "-",
            "&a",
            "veth@if",
        ] {
            let text = starter(Some(name));
            let model = config::parse("init", &text).unwrap_or_else(|d| panic!("{d}"));
            assert_eq!(model.node.interfaces[0].name, name);
        }
        let model = config::parse("init", &starter(None)).unwrap_or_else(|d| panic!("{d}"));
        assert_eq!(model.node.interfaces[0].name, "eth0");
    }
}
