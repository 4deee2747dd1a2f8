//! The program on interfaces: attach, replace in place, detach.
//!
//! Replacing goes through the link: the interface never runs without a program, and drivers that reset the link
//! when XDP comes or goes do not notice.

use std::collections::BTreeMap;
use std::path::Path;

use aya::Ebpf;
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode};

use crate::model::XdpMode;

use super::error::DataplaneError;
use super::loader::{chain, explain_program};

const PROGRAM: &str = "sluice";

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
    /// `None` only while it moves from one variant to the next.
    link: Option<XdpLinkId>,
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
        let xdp = xdp(&mut object)?;
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
        xdp(&mut self.object)
    }

    pub(super) fn attach(&mut self, name: &str, ifindex: u32, mode: XdpMode) -> Result<Attached, DataplaneError> {
        let done = |mode, link, fallback| Attached { name: name.to_owned(), ifindex, mode, fallback, link: Some(link) };
        let xdp = self.xdp()?;
        if mode != XdpMode::Generic {
            match xdp.attach_to_if_index(ifindex, AyaMode::Driver) {
                Ok(link) => return Ok(done(Mode::Native, link, None)),
                Err(error) => {
                    let why = match attach_error(name, &error) {
                        DataplaneError::Attach { why, .. } => why,
                        other => return Err(other),
                    };
                    if mode == XdpMode::Native {
                        return Err(DataplaneError::NotNative { interface: name.to_owned(), why });
                    }
                    let link = xdp.attach_to_if_index(ifindex, AyaMode::Skb).map_err(|e| attach_error(name, &e))?;
                    return Ok(done(Mode::Generic, link, Some(why)));
                }
            }
        }
        let link = xdp.attach_to_if_index(ifindex, AyaMode::Skb).map_err(|e| attach_error(name, &e))?;
        Ok(done(Mode::Generic, link, None))
    }

    pub(super) fn detach(&mut self, attached: Attached) -> Result<(), DataplaneError> {
        // An interface that is gone took its link along.
        let alive = Path::new("/sys/class/net").join(&attached.name).exists();
        let Some(link) = attached.link else { return Ok(()) };
        match self.xdp()?.detach(link) {
            Err(e) if alive => {
                Err(DataplaneError::Attach { interface: attached.name, why: format!("detaching: {}", chain(&e)) })
            }
            _ => Ok(()),
        }
    }

    /// Moves every link to `next`, which becomes this program.
    pub(super) fn replace_with(
        &mut self,
        mut next: Self,
        attached: &mut BTreeMap<u32, Attached>,
    ) -> Result<(), DataplaneError> {
        let (old, new) = (xdp(&mut self.object)?, xdp(&mut next.object)?);
        for entry in attached.values_mut() {
            let failed = |e: ProgramError| DataplaneError::Attach { interface: entry.name.clone(), why: chain(&e) };
            let Some(id) = entry.link.take() else { continue };
            let link = old.take_link(id).map_err(failed)?;
            entry.link = Some(new.attach_to_link(link).map_err(failed)?);
        }
        *self = next;
        Ok(())
    }
}

fn xdp(object: &mut Ebpf) -> Result<&mut Xdp, DataplaneError> {
    let program = object
        .program_mut(PROGRAM)
        .ok_or_else(|| DataplaneError::Refused(format!("the object has no program called {PROGRAM}")))?;
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
