//! The smallest XDP program, `return XDP_PASS`, for the far ends of Sluice's veths.
//!
//! A veth delivers what its peer sends with XDP_TX or XDP_REDIRECT only if it runs an XDP program itself; without
//! one the frames are counted as sent and are gone. Two instructions need no compiler, so they are written out here.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use super::netns::NetNs;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `r0 = 2 (XDP_PASS); exit`, as `struct bpf_insn`: opcode, registers, offset (2 bytes), immediate (4 bytes).
static PROGRAM: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// `union bpf_attr` as BPF_PROG_LOAD reads it; fields left out at the end count as zero.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// `union bpf_attr` as BPF_LINK_CREATE reads it.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The loaded program.
#[derive(Debug)]
pub struct XdpPass(OwnedFd);

/// Keeps the program on its interface until dropped.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

impl XdpPass {
    pub fn load() -> Result<Self> {
        let mut prog_name = [0; 16];
        prog_name[..8].copy_from_slice(b"lab_pass");
        let attr = ProgLoad {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: PROGRAM.len() as u32,
            insns: PROGRAM.as_ptr() as u64,
            license: c"Dual MIT/GPL".as_ptr() as u64,
            prog_name,
            ..Default::default()
        };
        bpf(BPF_PROG_LOAD, &attr).map(Self).context("loading the lab's XDP_PASS program")
    }

    /// Attaches natively to an interface of a namespace.
    pub fn attach(&self, ns: &NetNs, interface: &str) -> Result<Attached> {
        ns.run(|| {
            let name = CString::new(interface)?;
            // SAFETY: `name` is a NUL-terminated string that outlives the call.
            let target_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
            anyhow::ensure!(target_ifindex != 0, "{} has no interface {interface}", ns.name());
            let attr = LinkCreate {
                prog_fd: self.0.as_raw_fd().cast_unsigned(),
                target_ifindex,
                attach_type: BPF_XDP,
                flags: XDP_FLAGS_DRV_MODE,
            };
            let link = bpf(BPF_LINK_CREATE, &attr)
                .with_context(|| format!("attaching XDP_PASS to {interface} in {}", ns.name()))?;
            Ok(Attached { _link: link })
        })?
    }
}

/// The bpf system call, for commands that answer with a file descriptor.
fn bpf<T>(command: libc::c_long, attr: &T) -> std::io::Result<OwnedFd> {
    // SAFETY: `attr` is a repr(C) prefix of `union bpf_attr` for this command, its size is passed along, and the
    // pointers inside it (static data) outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
