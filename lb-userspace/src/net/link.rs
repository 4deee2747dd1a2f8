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
    /// It is a VLAN on another interface.
    pub vlan: Option<Vlan>,
}

/// What makes an interface a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The interface whose frames with this tag are its own.
    pub on: u32,
    pub id: u16,
    /// The tag is a service provider's (IEEE 802.1ad).
    pub service: bool,
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
            vlan: None,
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
const IFLA_LINK: u16 = libc::IFLA_LINK;
/// The interface that it is on is in another network namespace, where indices are others.
const IFLA_LINK_NETNSID: u16 = libc::IFLA_LINK_NETNSID;
const IFLA_INFO_DATA: u16 = libc::IFLA_INFO_DATA;
/// `IFLA_VLAN_ID` and `IFLA_VLAN_PROTOCOL` (linux/if_link.h), and the one protocol that is not 802.1Q's.
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
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
        vlan: None,
    };
    let (mut on, mut elsewhere) = (None, false);
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
                let data = NlasIterator::new(value).flatten().find(|a| a.kind() == IFLA_INFO_DATA);
                if link.kind.as_deref() == Some("vlan") {
                    link.vlan = data.and_then(|data| vlan(data.value()));
                }
            }
            IFLA_LINK_NETNSID => elsewhere = true,
            IFLA_LINK => on = value.first_chunk().map(|c| u32::from_ne_bytes(*c)),
            _ => {}
        }
    }
    // Attributes come in any order.
    link.vlan = link.vlan.filter(|_| !elsewhere).and_then(|vlan| Some(Vlan { on: on?, ..vlan }));
    (!link.name.is_empty()).then_some(link)
}

/// From a VLAN's own attributes; what it is on is not among them.
fn vlan(data: &[u8]) -> Option<Vlan> {
    let of = |kind| NlasIterator::new(data).flatten().find(|a| a.kind() == kind);
    let id = u16::from_ne_bytes(*of(IFLA_VLAN_ID)?.value().first_chunk()?);
    let protocol = of(IFLA_VLAN_PROTOCOL).and_then(|a| a.value().first_chunk().map(|c| u16::from_be_bytes(*c)));
    Some(Vlan { on: 0, id, service: protocol == Some(ETHERTYPE_SERVICE_VLAN) })
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

    /// A link message: index 7, Ethernet, up, with these attributes.
    fn message(attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut message = vec![0u8; IFINFOMSG];
        message[2..4].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
        message[4..8].copy_from_slice(&7u32.to_ne_bytes());
        message.extend(nested(attributes));
        message
    }

    fn nested(attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in attributes {
            bytes.extend((value.len() as u16 + 4).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn a_vlan_is_told_by_its_kind_and_says_its_number_its_protocol_and_what_it_is_on() {
        let on = (IFLA_LINK, 2u32.to_ne_bytes().to_vec());
        let name = (IFLA_IFNAME, b"eth0.100\0".to_vec());
        let info = |kind: &[u8], data: &[(u16, Vec<u8>)]| {
            (IFLA_LINKINFO, nested(&[(IFLA_INFO_KIND, kind.to_vec()), (IFLA_INFO_DATA, nested(data))]))
        };
        let id = (IFLA_VLAN_ID, 100u16.to_ne_bytes().to_vec());
        let protocol = |protocol: u16| (IFLA_VLAN_PROTOCOL, protocol.to_be_bytes().to_vec());
        for (attributes, expected) in [
            (vec![name.clone(), on.clone(), info(b"vlan\0", &[id.clone(), protocol(0x8100)])], Some((2, 100, false))),
            (vec![name.clone(), info(b"vlan\0", &[protocol(0x88a8), id.clone()]), on.clone()], Some((2, 100, true))),
            (vec![name.clone(), on.clone(), info(b"vlan\0", std::slice::from_ref(&id))], Some((2, 100, false))),
            (vec![name.clone(), on.clone(), info(b"vlan\0", &[])], None),
            (vec![name.clone(), info(b"vlan\0", std::slice::from_ref(&id))], None),
            // A macvlan has a link below and attributes of its own, too.
            (vec![name.clone(), on.clone(), info(b"macvlan\0", std::slice::from_ref(&id))], None),
            (vec![name.clone(), on.clone()], None),
            (
                vec![
                    name.clone(),
                    (IFLA_LINK_NETNSID, vec![0; 4]),
                    on.clone(),
                    info(b"vlan\0", std::slice::from_ref(&id)),
                ],
                None,
            ),
        ] {
            let link = decode(&message(&attributes)).expect("a link");
            let vlan = expected.map(|(on, id, service)| Vlan { on, id, service });
            assert_eq!((link.index, link.vlan), (7, vlan), "{attributes:?}");
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
