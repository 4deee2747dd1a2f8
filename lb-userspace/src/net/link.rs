//! Network interfaces: what they are called, their MAC address and MTU, and whether they are up.
//!
//! Up has two meanings. `up` is what the administrator asked for; `carrier` is what the wire says. The kernel keeps
//! the routes of an interface that lost its carrier, and drops those of one that was set down.

use netlink_packet_core::NlasIterator;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;

use super::{Error, rtnl};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `None` where frames have no MAC addresses (tunnels).
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet it takes.
    pub mtu: u32,
    /// Set up by the administrator.
    pub up: bool,
    /// The wire, or the peer, is there.
    pub carrier: bool,
    /// RFC 2863's operational state, `IF_OPER_*`. Follows the carrier by up to a second, and only then the kernel
    /// marks the routes.
    pub operstate: u8,
    pub loopback: bool,
    /// Neighbours are not resolved here (`IFF_NOARP`).
    pub no_arp: bool,
    /// The kernel's id of the XDP program that runs on it.
    pub xdp_program: Option<u32>,
    /// That program runs in the network stack, not in the driver.
    pub xdp_generic: bool,
    /// The driver's kind where the kernel names one: `veth`, `bond`, `vlan`, …; physical cards have none.
    pub kind: Option<String>,
}

impl Link {
    /// An Ethernet interface that is up, with an MTU of 1500.
    pub fn ethernet(index: u32, name: &str, mac: [u8; 6]) -> Self {
        Self {
            index,
            name: name.to_owned(),
            mac: Some(mac),
            mtu: 1500,
            up: true,
            carrier: true,
            operstate: 6,
            loopback: false,
            no_arp: false,
            xdp_program: None,
            xdp_generic: false,
            kind: None,
        }
    }

    /// Frames leave through it.
    pub fn is_running(&self) -> bool {
        self.up && self.carrier
    }
}

const IFLA_ADDRESS: u16 = libc::IFLA_ADDRESS;
const IFLA_IFNAME: u16 = libc::IFLA_IFNAME;
const IFLA_MTU: u16 = libc::IFLA_MTU;
const IFLA_OPERSTATE: u16 = libc::IFLA_OPERSTATE;
const IFLA_LINKINFO: u16 = libc::IFLA_LINKINFO;
const IFLA_INFO_KIND: u16 = libc::IFLA_INFO_KIND;
const IFLA_XDP: u16 = libc::IFLA_XDP;
/// `IFLA_XDP_ATTACHED`, `IFLA_XDP_PROG_ID` and `XDP_ATTACHED_SKB` (linux/if_link.h).
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const XDP_ATTACHED_SKB: u8 = 2;
/// `struct ifinfomsg`: family, pad, type u16, index i32, flags u32, change mask u32.
const IFINFOMSG: usize = 16;

/// Reads the few attributes we need from a link message's payload.
///
/// Not with the library's parser: a link carries dozens of attributes that change with the kernel, and one it
/// cannot read would hide the whole interface.
pub(super) fn decode(payload: &[u8]) -> Option<Link> {
    // A port's bridge settings come as a link message too, of family AF_BRIDGE.
    if payload.len() < IFINFOMSG || i32::from(payload[0]) != libc::AF_UNSPEC {
        return None;
    }
    let (header, attributes) = payload.split_at(IFINFOMSG);
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let hardware = u16::from_ne_bytes([header[2], header[3]]);
    let flags = word(8);
    let has = |flag: i32| flags & flag as u32 != 0;
    let mut link = Link {
        index: word(4),
        name: String::new(),
        mac: None,
        mtu: 0,
        up: has(libc::IFF_UP),
        carrier: has(libc::IFF_LOWER_UP),
        operstate: 0,
        loopback: has(libc::IFF_LOOPBACK),
        no_arp: has(libc::IFF_NOARP),
        xdp_program: None,
        xdp_generic: false,
        kind: None,
    };
    for attribute in NlasIterator::new(attributes).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = value.first_chunk().map_or(0, |c| u32::from_ne_bytes(*c)),
            IFLA_OPERSTATE => link.operstate = value.first().copied().unwrap_or(0),
            // A tunnel's "address" may have six bytes too, or an IP address's four.
            IFLA_ADDRESS if hardware == libc::ARPHRD_ETHER => link.mac = value.try_into().ok(),
            IFLA_XDP => {
                let of = |kind| NlasIterator::new(value).flatten().find(|a| a.kind() == kind);
                let id = of(IFLA_XDP_PROG_ID);
                link.xdp_program = id.and_then(|id| id.value().first_chunk().map(|c| u32::from_ne_bytes(*c)));
                link.xdp_generic = of(IFLA_XDP_ATTACHED).is_some_and(|a| a.value().first() == Some(&XDP_ATTACHED_SKB));
            }
            IFLA_LINKINFO => {
                let kind = NlasIterator::new(value).flatten().find(|a| a.kind() == IFLA_INFO_KIND);
                link.kind = kind.map(|k| text(k.value()));
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(super) fn dump(socket: &mut rtnl::Socket) -> std::io::Result<Vec<Link>> {
    socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), |m| decode(m.payload()))
}

/// Every interface of the calling thread's network namespace.
pub fn list() -> Result<Vec<Link>, Error> {
    let mut socket = rtnl::Socket::open().map_err(Error::kernel("open a netlink socket"))?;
    dump(&mut socket).map_err(Error::kernel("list the network interfaces"))
}

/// The interface of this name; the error names those that exist.
pub fn by_name(name: &str) -> Result<Link, Error> {
    let mut links = list()?;
    match links.iter().position(|l| l.name == name) {
        Some(at) => Ok(links.swap_remove(at)),
        None => Err(no_such(name, links.into_iter().map(|l| l.name).collect())),
    }
}

pub(super) fn no_such(name: &str, exist: Vec<String>) -> Error {
    let similar = exist
        .iter()
        .map(|e| (distance(name, e), e))
        .min()
        // One slip in short names, two in long ones: beyond that it is another interface.
        .filter(|(d, _)| *d <= 1 + name.len() / 6)
        .map(|(_, e)| e.clone());
    Error::NoSuchInterface { name: name.to_owned(), exist, similar }
}

/// Edits (insert, delete, replace) between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_names_those_that_exist_and_the_likely_one() {
        let exist = || ["lo", "eth0", "enp3s0f1"].map(str::to_owned).to_vec();
        for (asked, similar) in [
            ("eht0", None), // two edits in four letters is as far as any other name
            ("eth1", Some("eth0")),
            ("eth", Some("eth0")),
            ("enp3s0f0", Some("enp3s0f1")),
            ("enp3f0", None),
            ("wlan0", None),
        ] {
            let error = no_such(asked, exist());
            let Error::NoSuchInterface { similar: found, .. } = &error else { panic!("{error:?}") };
            assert_eq!(found.as_deref(), similar, "{asked}");
            assert!(error.to_string().contains("lo, eth0, enp3s0f1"), "{error}");
        }
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, d) in [("", "", 0), ("a", "", 1), ("eth0", "eth0", 0), ("eth0", "eth1", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn a_bridge_ports_settings_are_no_link() {
        let mut payload = [0u8; 64];
        payload[0] = libc::AF_BRIDGE as u8;
        assert_eq!(decode(&payload), None);
        assert_eq!(decode(&payload[..8]), None);
    }
}
