//! What Sluice and its tests use of the kernel, tried one by one with the smallest program or map that needs it.
//!
//! A program that is refused names one reason, and the next one shows only when that is gone. Here every feature is asked
//! for alone, so that docs/kernels.md can say which kernel has which. The trap: a refusal may be about the trial itself,
//! so each is seen to succeed on some kernel.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::progrun::netns::enter_private;

const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const LINK_CREATE: libc::c_long = 28;

const ARRAY: u32 = 2;
const LRU_HASH: u32 = 9;
const ARRAY_OF_MAPS: u32 = 12;
const DEVMAP_HASH: u32 = 25;
const RINGBUF: u32 = 27;
const MMAPABLE: u32 = 1 << 10;
const XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const SKB_MODE: u32 = 1 << 1;

/// A feature, who uses it, and how to find out.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    pub name: &'static str,
    pub used: &'static str,
    trial: fn() -> io::Result<()>,
}

impl Feature {
    /// `Ok`, or the kernel's error.
    pub fn tried(self) -> io::Result<()> {
        // Links need an interface to be attached to; nobody else's.
        let trial = std::thread::spawn(move || {
            enter_private().map_err(io::Error::other)?;
            // Kernels before 5.11 count maps as locked memory, of which there is little. Newer ones do not ask.
            let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
            (self.trial)()
        });
        trial.join().unwrap_or_else(|_| Err(io::Error::other("the trial panicked")))
    }
}

pub const FEATURES: [Feature; 8] = [
    Feature {
        name: "ring buffers, device maps by hash, XDP links",
        used: "events, sending, attaching",
        trial: || {
            map(RINGBUF, 0, 0, 4096, 0, None)?;
            map(DEVMAP_HASH, 4, 4, 8, 0, None)?;
            let program = program(&[PASS, EXIT])?;
            let link = [word(program.as_raw_fd() as u32, 1), word(ATTACH_XDP, SKB_MODE)];
            descriptor(LINK_CREATE, &link).map(drop)
        },
    },
    Feature {
        name: "memory-mapped arrays inside an array of maps",
        used: "rings",
        trial: || {
            let inner = map(ARRAY, 4, 8, 1024, MMAPABLE, None)?;
            map(ARRAY_OF_MAPS, 4, 4, 8, 0, Some(&inner)).map(drop)
        },
    },
    Feature { name: "reading an LRU hash in batches", used: "sweeps over flows", trial: read_in_batches },
    Feature {
        name: "the coarse clock",
        used: "flows on rows that move, fragments, what is allowed in a second",
        // call bpf_ktime_get_coarse_ns
        trial: || program(&[instruction(0x85, 0, 0, 0, 160), PASS, EXIT]).map(drop),
    },
    Feature {
        name: "atomic compare-and-exchange, fetch-and-add",
        used: "flows on rows that move",
        trial: || {
            let stack = [instruction(0xb7, 1, 0, 0, 0), instruction(0x7b, 10, 1, -8, 0), instruction(0xb7, 2, 0, 0, 1)];
            let [compare, add] = [0xf1, 0x01].map(|how| instruction(0xdb, 10, 2, -8, how));
            // r0 is what is compared with.
            program(&[&stack[..], &[instruction(0xb7, 0, 0, 0, 0), compare, add, PASS, EXIT]].concat()).map(drop)
        },
    },
    Feature {
        name: "test runs of XDP programs on an interface",
        used: "golden packets, the fuzzer",
        trial: || {
            let program = program(&[PASS, EXIT])?;
            let (frame, context) = ([0_u8; 64], [0_u32, 64, 0, 0, 0, 0]);
            let run = [
                word(program.as_raw_fd() as u32, 0),
                word(64, 0),
                frame.as_ptr() as u64,
                0,
                word(1, 0),
                word(size_of_val(&context) as u32, 0),
                context.as_ptr() as u64,
                0,
            ];
            bpf(PROG_TEST_RUN, &run).map(drop)
        },
    },
    Feature {
        name: "a loop whose end falls into its beginning",
        used: "whatever the compiler makes of a loop",
        // r1 = 0; goto head; body: r1 += 1; head: if r1 != 4 goto body; r0 = XDP_PASS; exit
        trial: || {
            let (start, jump) = (instruction(0xb7, 1, 0, 0, 0), instruction(0x05, 0, 0, 1, 0));
            let (body, head) = (instruction(0x07, 1, 0, 0, 1), instruction(0x55, 1, 0, -2, 4));
            program(&[start, jump, body, head, PASS, EXIT]).map(drop)
        },
    },
    Feature {
        name: "writing many slots of an array of maps at once",
        used: "changes of many rings",
        trial: write_slots,
    },
];

fn read_in_batches() -> io::Result<()> {
    let map = map(LRU_HASH, 16, 16, 1024, 0, None)?;
    let (mut cursor, mut keys, mut values) = ([0_u8; 16], [0_u8; 256], [0_u8; 256]);
    let batch = [
        0,
        cursor.as_mut_ptr() as u64,
        keys.as_mut_ptr() as u64,
        values.as_mut_ptr() as u64,
        word(16, map.as_raw_fd() as u32),
        0,
        0,
    ];
    match bpf(MAP_LOOKUP_BATCH, &batch) {
        // The end of the map, which has nothing in it.
        Err(why) if why.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done.map(drop),
    }
}

fn write_slots() -> io::Result<()> {
    let inner = map(ARRAY, 4, 8, 1024, MMAPABLE, None)?;
    let outer = map(ARRAY_OF_MAPS, 4, 4, 8, 0, Some(&inner))?;
    let (keys, values) = ([0_u32, 1], [inner.as_raw_fd() as u32; 2]);
    let batch = [0, 0, keys.as_ptr() as u64, values.as_ptr() as u64, word(2, outer.as_raw_fd() as u32), 0, 0];
    bpf(MAP_UPDATE_BATCH, &batch).map(drop)
}

const PASS: [u8; 8] = instruction(0xb7, 0, 0, 0, 2);
const EXIT: [u8; 8] = instruction(0x95, 0, 0, 0, 0);

/// `struct bpf_insn`.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> [u8; 8] {
    let (o, i) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
    [code, from << 4 | to, o[0], o[1], i[0], i[1], i[2], i[3]]
}

/// Two neighbouring fields of `union bpf_attr`, the first at the lower address.
fn word(first: u32, second: u32) -> u64 {
    let [a, b] = [first, second].map(u32::to_ne_bytes);
    u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
}

fn map(kind: u32, key: u32, value: u32, entries: u32, flags: u32, inner: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let inner = inner.map_or(0, |inner| inner.as_raw_fd() as u32);
    descriptor(MAP_CREATE, &[word(kind, key), word(value, entries), word(flags, inner)])
}

fn program(instructions: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let attributes =
        [word(XDP, instructions.len() as u32), instructions.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0, 0, 0, 0];
    descriptor(PROG_LOAD, &attributes)
}

fn descriptor(command: libc::c_long, attributes: &[u64]) -> io::Result<OwnedFd> {
    // SAFETY: these commands return a new descriptor that is ours alone.
    bpf(command, attributes).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf(command: libc::c_long, attributes: &[u64]) -> io::Result<i32> {
    // SAFETY: a prefix of `union bpf_attr`; what it points to is the caller's and outlives the call.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) } {
        -1 => Err(io::Error::last_os_error()),
        done => Ok(done as i32),
    }
}
