//! What the kernel of a virtual machine starts from: a few modules, busybox, and two scripts.
//!
//! `/init` puts the host's root, read-only, below a file system in memory and makes that the root; `/run.sh` then does the
//! work. The trap: modules come compressed and busybox cannot read that, so they are unpacked here.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::kernels::Unpacked;
use crate::process::find_program;

/// What it takes to see the host's root and to be heard. Some kernels have some of it built in.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// The names of the two file systems that the host shares, as [`super::machine`] gives them.
pub const ROOT_TAG: &str = "root";
pub const KEPT_TAG: &str = "kept";

const INIT: &str = r#"#!/bin/sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /host /memory /root
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 ROOT /host
$b mount -t tmpfs tmpfs /memory
$b mkdir /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root
cd /root
$b mount -t proc proc proc
$b mount -t sysfs sysfs sys
$b mount -t devtmpfs devtmpfs dev
$b mkdir -p dev/pts dev/shm
$b mount -t devpts devpts dev/pts
for directory in dev/shm run tmp var/tmp; do $b mount -t tmpfs tmpfs $directory; done
$b mount -t bpf bpf sys/fs/bpf
$b mount -t tracefs tracefs sys/kernel/tracing
$b mkdir -p usr/lib/modules run/kept
$b mount --bind /host'MODULES' usr/lib/modules
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 KEPT run/kept
$b cp /run.sh run/run.sh
exec $b switch_root /root /bin/sh /run/run.sh
"#;

/// The archive for `kernel`, with `script` as its work.
pub fn archive(kernel: &Unpacked, script: &str) -> Result<Vec<u8>> {
    let busybox = find_program("busybox").context("no busybox (Debian: busybox-static)")?;
    let init = INIT.replace("ROOT", ROOT_TAG).replace("KEPT", KEPT_TAG);
    let init = init.replace("MODULES", kernel.modules.to_str().context("the target directory's name is not text")?);
    let mut archive = Archive::default();
    archive.directory("bin");
    archive.file("bin/busybox", 0o755, &fs::read(busybox)?);
    archive.link("bin/sh", "busybox");
    archive.file("init", 0o755, init.as_bytes());
    archive.file("run.sh", 0o644, script.as_bytes());
    archive.directory("modules");
    let dir = kernel.modules.join(&kernel.version);
    let index = fs::read_to_string(dir.join("modules.dep")).context("no modules.dep")?;
    let mut order = String::new();
    for path in in_order(&index, &MODULES) {
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".xz");
        archive.file(&format!("modules/{name}"), 0o644, &module(&dir.join(path))?);
        order += name;
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}

/// Paths of modules and of what they need, in an order in which they can be inserted; those the kernel has built in are
/// not in `modules.dep`.
fn in_order<'a>(index: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let mut needs: HashMap<&str, (&str, Vec<&str>)> = HashMap::new();
    for (path, needed) in index.lines().filter_map(|line| line.split_once(':')) {
        let name = path.rsplit('/').next().unwrap_or(path).split('.').next().unwrap_or(path);
        needs.insert(name, (path, needed.split_whitespace().collect()));
    }
    let mut order = Vec::new();
    for (path, needed) in wanted.iter().filter_map(|name| needs.get(name)) {
        // depmod lists what a module needs with what that needs behind it.
        for path in needed.iter().rev().chain([path]) {
            if !order.contains(path) {
                order.push(*path);
            }
        }
    }
    order
}

fn module(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        Some("xz") => {
            let done = Command::new("xz").arg("-dc").arg(path).output().context("xz unpacks modules")?;
            if !done.status.success() {
                bail!("{}: {}", path.display(), String::from_utf8_lossy(&done.stderr));
            }
            Ok(done.stdout)
        }
        _ => bail!("{} is packed in a way that is not known here", path.display()),
    }
}

/// A cpio archive in the form the kernel reads (`newc`: every number in eight hexadecimal digits, everything padded to
/// four bytes; Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, b"");
    }

    fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | permissions, content);
    }

    fn link(&mut self, name: &str, to: &str) {
        self.entry(name, 0o120_777, to.as_bytes());
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        self.bytes.extend_from_slice(b"070701");
        // Inode, mode, owner, group, links, time, size, four device numbers, size of the name, no checksum.
        for number in [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            self.bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, in_order};

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let index = "kernel/net/9p/9pnet.ko.xz:\nkernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs.ko.xz\n\
                     kernel/fs/netfs.ko.xz:\nkernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz\n";
        let expected = [
            "kernel/net/9p/9pnet.ko.xz",
            "kernel/net/9p/9pnet_virtio.ko.xz",
            "kernel/fs/netfs.ko.xz",
            "kernel/fs/9p/9p.ko.xz",
        ];
        assert_eq!(in_order(index, &["built_in", "9pnet_virtio", "9p"]), expected);
    }

    #[test]
    fn entries_are_padded_to_four_bytes() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"12345");
        let bytes = archive.finish();
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[110..120], b"a\x0012345\0\0\0");
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[120..126], b"070701");
    }
}
