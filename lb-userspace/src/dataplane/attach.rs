//! The program on interfaces: attach, replace in place, detach.
//!
//! Replacing goes through the link: the interface never runs without a program, and drivers that reset the link
//! when XDP comes or goes do not notice. Links are pinned, so the program stays when the controller goes, and the next
//! controller finds it.
//!
//! The trap: a link without an interface is still a link. When the interface goes, its pin stays behind, and says
//! interface 0.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode as AyaMode};

use crate::model::XdpMode;
use crate::net;

use super::error::DataplaneError;
use super::loader::{chain, explain_program};
use super::{pins, sys};

const PROGRAM: &str = "sluice";
/// Removes entries of flows; attached to nothing.
const FORGET: &str = "forget";

/// How a program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel allocates anything.
    Native,
    /// In the network stack: correct, but slow.
    Generic,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// One interface the program runs on.
#[derive(Debug)]
pub struct Attached {
    pub name: String,
    pub ifindex: u32,
    pub mode: Mode,
    /// Why it is generic although native was tried first.
    pub fallback: Option<String>,
    link: Link,
}

impl Attached {
    /// The kernel's id of the program in its link.
    pub(super) fn program(&self) -> Result<u32, DataplaneError> {
        let state = sys::link_state(self.link.fd.as_fd())?;
        Ok(state.map_or(0, |state| state.program))
    }

    /// What the configuration says of an interface that is attached already. The mode stays: changing it would take the
    /// program off for a moment.
    pub(super) fn rename(&mut self, name: &str, wanted: XdpMode) {
        name.clone_into(&mut self.name);
        if self.mode == Mode::Generic && wanted != XdpMode::Generic && self.fallback.is_none() {
            self.fallback = Some(
                "it ran so before this start; to try native mode again, stop sluice, run `sluice detach`, and start"
                    .to_owned(),
            );
        }
    }
}

/// A link and its pin. Dropping it changes nothing: the pin holds the program on the interface.
#[derive(Debug)]
struct Link {
    fd: OwnedFd,
    pin: PathBuf,
}

impl Link {
    /// By interface number: names may have dots, which a bpffs does not take.
    fn path(bpf_dir: &Path, ifindex: u32) -> PathBuf {
        bpf_dir.join(pins::LINKS).join(ifindex.to_string())
    }

    /// Takes the program off, at once, and removes the pin.
    fn detach(self) -> std::io::Result<()> {
        let detached = sys::link_detach(self.fd.as_fd());
        match std::fs::remove_file(&self.pin) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => detached.and(Err(e)),
            _ => detached,
        }
    }
}

/// A loaded, verified variant.
#[derive(Debug)]
pub struct Program {
    object: Ebpf,
    id: u32,
}

impl Program {
    /// Hands the program to the verifier.
    pub(super) fn new(mut object: Ebpf) -> Result<Self, DataplaneError> {
        xdp(&mut object, FORGET)?.load().map_err(|e| explain_program(&e))?;
        let xdp = xdp(&mut object, PROGRAM)?;
        xdp.load().map_err(|e| explain_program(&e))?;
        let id = xdp.info().map_err(|e| explain_program(&e))?.id();
        Ok(Self { object, id })
    }

    /// The kernel's id of the program.
    pub fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn object_mut(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    /// The program, for test runs.
    pub fn xdp(&mut self) -> Result<&mut Xdp, DataplaneError> {
        xdp(&mut self.object, PROGRAM)
    }

    /// Has the kernel remove what is listed in the map for it.
    pub(super) fn forget(&mut self) -> Result<(), DataplaneError> {
        let options = TestRunOptions { data_in: Some(&[0; 14]), ..TestRunOptions::new() };
        xdp(&mut self.object, FORGET)?.test_run(options).map(drop).map_err(|e| explain_program(&e))
    }

    pub(super) fn attach(
        &mut self,
        bpf_dir: &Path,
        name: &str,
        ifindex: u32,
        mode: XdpMode,
    ) -> Result<Attached, DataplaneError> {
        let xdp = self.xdp()?;
        let (mode, id, fallback) = if mode == XdpMode::Generic {
            let id = xdp.attach_to_if_index(ifindex, AyaMode::Skb).map_err(|e| attach_error(name, &e))?;
            (Mode::Generic, id, None)
        } else {
            match xdp.attach_to_if_index(ifindex, AyaMode::Driver) {
                Ok(id) => (Mode::Native, id, None),
                Err(error) => {
                    let why = match attach_error(name, &error) {
                        DataplaneError::Attach { why, .. } => why,
                        other => return Err(other),
                    };
                    if mode == XdpMode::Native {
                        return Err(DataplaneError::NotNative { interface: name.to_owned(), why });
                    }
                    let id = xdp.attach_to_if_index(ifindex, AyaMode::Skb).map_err(|e| attach_error(name, &e))?;
                    (Mode::Generic, id, Some(why))
                }
            }
        };
        let failed = |why: String| DataplaneError::Attach { interface: name.to_owned(), why };
        let link = xdp.take_link(id).map_err(|e| failed(chain(&e)))?;
        let link = FdLink::try_from(link)
            .map_err(|_| failed("the kernel has no links for XDP (Linux 5.9 and newer have)".into()))?;
        let pin = Link::path(bpf_dir, ifindex);
        // From here on the program stays on the interface when this process ends.
        let _pinned = link.pin(&pin).map_err(|e| failed(format!("pinning the link: {}", chain(&e))))?;
        let fd = sys::pinned(&pin).map_err(|e| failed(format!("opening the pinned link: {e}")))?;
        Ok(Attached { name: name.to_owned(), ifindex, mode, fallback, link: Link { fd, pin } })
    }

    /// Puts this program into an attached link.
    fn replace_in(&mut self, attached: &Attached) -> Result<(), DataplaneError> {
        let failed = |why: String| DataplaneError::Attach { interface: attached.name.clone(), why };
        let program = self.xdp()?.fd().map_err(|e| explain_program(&e))?;
        sys::link_update(attached.link.fd.as_fd(), program.as_fd())
            .map_err(|e| failed(format!("replacing the program: {e}")))
    }

    /// Puts this program into every link.
    pub(super) fn replace_in_all(&mut self, attached: &BTreeMap<u32, Attached>) -> Result<(), DataplaneError> {
        attached.values().try_for_each(|entry| self.replace_in(entry))
    }

    /// Pins the program beside its links, for people who look.
    pub(super) fn pin(&mut self, bpf_dir: &Path) -> Result<(), DataplaneError> {
        let dir = bpf_dir.join(pins::PROGRAMS);
        let fd = self.xdp()?.fd().map_err(|e| explain_program(&e))?;
        let (fresh, path) = (dir.join("new"), dir.join(PROGRAM));
        pins::replace(fd.as_fd(), &fresh, &path)
    }
}

pub(super) fn detach(attached: Attached) -> Result<(), DataplaneError> {
    let Attached { name, link, .. } = attached;
    link.detach().map_err(|e| DataplaneError::Attach { interface: name, why: format!("detaching: {e}") })
}

/// What the links pinned under `bpf_dir` hold, by interface. Those of interfaces that are gone are removed.
pub(super) fn inherited(bpf_dir: &Path) -> Result<BTreeMap<u32, Attached>, DataplaneError> {
    let mut found = BTreeMap::new();
    let pins = pins::entries(&bpf_dir.join(pins::LINKS))?;
    if pins.is_empty() {
        return Ok(found);
    }
    let interfaces = net::link::list().map_err(|e| DataplaneError::Directory {
        path: bpf_dir.to_owned(),
        why: format!("the interfaces of its links cannot be told: {e}"),
    })?;
    for pin in pins {
        let failed = |why: String| DataplaneError::Directory { path: pin.clone(), why };
        let fd = sys::pinned(&pin).map_err(|e| failed(format!("opening it: {e}")))?;
        let state = sys::link_state(fd.as_fd()).map_err(|e| failed(format!("asking about it: {e}")))?;
        let Some(state) = state.filter(|state| state.ifindex != 0) else {
            std::fs::remove_file(&pin).map_err(|e| failed(format!("removing it: {e}")))?;
            continue;
        };
        // Interface numbers mean nothing in another network namespace, so the program must be the same, too.
        let here = interfaces.iter().find(|i| i.index == state.ifindex && i.xdp_program == Some(state.program));
        let Some(interface) = here else {
            return Err(failed(
                "it holds a program on an interface of another network namespace; every namespace needs a node.bpf_dir \
                 of its own"
                    .into(),
            ));
        };
        let mode = if interface.xdp_generic { Mode::Generic } else { Mode::Native };
        let entry = Attached {
            name: interface.name.clone(),
            ifindex: state.ifindex,
            mode,
            fallback: None,
            link: Link { fd, pin },
        };
        found.insert(state.ifindex, entry);
    }
    Ok(found)
}

fn xdp<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, DataplaneError> {
    let program = object
        .program_mut(name)
        .ok_or_else(|| DataplaneError::Refused(format!("the object has no program called {name}")))?;
    program.try_into().map_err(|e: ProgramError| explain_program(&e))
}

pub(super) fn attach_error(interface: &str, error: &ProgramError) -> DataplaneError {
    let io = match error {
        ProgramError::SyscallError(e) => Some(&e.io_error),
        _ => None,
    };
    if let ProgramError::UnknownInterface { name } = error {
        return DataplaneError::NoInterface(name.clone());
    }
    match io.and_then(std::io::Error::raw_os_error) {
        Some(libc::EPERM | libc::EACCES) => DataplaneError::NotPermitted,
        Some(libc::EBUSY | libc::EEXIST) => {
            DataplaneError::Occupied { interface: interface.to_owned(), holder: holder(interface) }
        }
        Some(libc::ENODEV) => DataplaneError::NoInterface(interface.to_owned()),
        _ => DataplaneError::Attach { interface: interface.to_owned(), why: chain(error) },
    }
}

/// Which program it is, as far as the kernel tells: `: dropper (id 42)`.
fn holder(interface: &str) -> String {
    let Some(id) = crate::net::link::by_name(interface).ok().and_then(|link| link.xdp_program) else {
        return String::new();
    };
    let named = aya::programs::loaded_programs().flatten().find(|program| program.id() == id);
    match named.as_ref().and_then(|program| program.name_as_str()).filter(|name| !name.is_empty()) {
        Some(name) => format!(": {name} (id {id})"),
        None => format!(": program id {id}"),
    }
}
