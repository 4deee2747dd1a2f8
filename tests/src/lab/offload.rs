//! Turns transmit offloads off, as `ethtool -K IF tx off tso off gso off` does.
//!
//! A veth hands packets over with their checksum unfinished and several segments glued together, trusting hardware
//! that is not there. An XDP program sees those frames as they are: checksums it updates would stay wrong.

use anyhow::{Context as _, Result, bail};

use super::netns::NetNs;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// The part of `struct ifreq` that SIOCETHTOOL reads, padded to its full size.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut Value,
    padding: [u8; 16],
}

/// Turns checksum, TCP and generic segmentation offload off on interfaces of a namespace.
pub fn disable(ns: &NetNs, interfaces: &[&str]) -> Result<()> {
    ns.run(|| {
        let socket = std::net::UdpSocket::bind("[::]:0").context("opening a socket for ioctls")?;
        for interface in interfaces {
            for command in [ETHTOOL_SGSO, ETHTOOL_STSO, ETHTOOL_STXCSUM] {
                set(&socket, interface, command)
                    .with_context(|| format!("turning offloads off on {interface} in {}", ns.name()))?;
            }
        }
        Ok(())
    })?
}

fn set(socket: &std::net::UdpSocket, interface: &str, command: u32) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let mut value = Value { command, data: 0 };
    let mut request = Request { name: [0; libc::IFNAMSIZ], value: &raw mut value, padding: [0; 16] };
    if interface.len() >= libc::IFNAMSIZ {
        bail!("interface name {interface} is too long");
    }
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    // SAFETY: `request` is laid out as `struct ifreq` and its pointer leads to a live `struct ethtool_value`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}
