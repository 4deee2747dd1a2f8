//! The host's own addresses, and which of them the kernel would use as a source.
//!
//! The trap is to take "the first address of the interface". The kernel skips scopes that do not reach the
//! destination (IPv4) and follows RFC 6724 (IPv6); that is exactly what keeps a VIP from becoming a source: VIPs we
//! add are of scope host (IPv4) or deprecated (IPv6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::rtnl;

/// `RT_SCOPE_*`: the smaller, the further it reaches.
pub const SCOPE_UNIVERSE: u8 = 0;
pub const SCOPE_LINK: u8 = 253;
pub const SCOPE_HOST: u8 = 254;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub ifindex: u32,
    pub ip: IpAddr,
    pub prefix_length: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// IPv4: another address of the same subnet comes first.
    pub secondary: bool,
    /// IPv6: may be used, but not for anything new.
    pub deprecated: bool,
    /// IPv6: not (yet) known to be ours alone; cannot be used.
    pub tentative: bool,
    /// Who added it (`IFA_PROTO`, kernels ≥ 5.18); 0 where nobody said.
    pub protocol: u8,
}

pub(super) fn decode(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let mut protocol = 0;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            // On a point-to-point link this is the peer, and `Local` is us.
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(f) => flags = *f,
            AddressAttribute::Protocol(p) => protocol = u8::from(*p),
            _ => {}
        }
    }
    Some(Address {
        ifindex: message.header.index,
        ip: local.or(address)?,
        prefix_length: message.header.prefix_len,
        scope: message.header.scope.into(),
        secondary: flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
            && !flags.contains(AddressFlags::Optimistic),
        protocol,
    })
}

pub(super) fn dump(socket: &mut rtnl::Socket) -> std::io::Result<Vec<Address>> {
    socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), |m| match m.parse()? {
        RouteNetlinkMessage::NewAddress(message) => decode(&message),
        _ => None,
    })
}

/// What the kernel's `inet_select_addr` would choose for a route through `ifindex`: of the addresses whose scope
/// reaches as far as the route's, the one in the gateway's subnet, else the interface's first, else any.
pub(super) fn source4(addresses: &[Address], ifindex: u32, scope: u8, gateway: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let fits = |a: &&Address| !a.secondary && a.scope <= scope.min(SCOPE_LINK);
    let v4 = |a: &Address| match a.ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    };
    let here = || addresses.iter().filter(|a| a.ifindex == ifindex && a.ip.is_ipv4()).filter(fits);
    let beside = gateway.and_then(|gateway| {
        let shares = |a: &&Address| v4(a).is_some_and(|ip| common4(ip, gateway) >= a.prefix_length);
        here().find(shares)
    });
    let elsewhere = || addresses.iter().filter(|a| a.ip.is_ipv4() && a.scope != SCOPE_LINK).find(fits);
    beside.or_else(|| here().next()).or_else(elsewhere).and_then(v4)
}

/// RFC 6724 section 5, as far as it can be known here: scope, then the outgoing interface, then the longest common
/// prefix. Deprecated addresses are left out altogether where the RFC only prefers others: no source at all can be
/// reported, a VIP as source cannot be undone. (Rule 6, labels, decides only between unique-local and global
/// addresses, and those differ in the first bits, which is rule 8.)
pub(super) fn source6(addresses: &[Address], ifindex: u32, destination: Ipv6Addr) -> Option<Ipv6Addr> {
    let scope = scope6(destination);
    let candidates = addresses.iter().filter_map(|a| match a.ip {
        IpAddr::V6(ip) if !a.deprecated && !a.tentative && !ip.is_loopback() => Some((a, ip)),
        _ => None,
    });
    // A link-local destination means something on its own link only (RFC 4007 section 6).
    let candidates = candidates.filter(|(a, _)| scope != SCOPE_LINK || a.ifindex == ifindex);
    let key = |(a, ip): &(&Address, Ipv6Addr)| {
        // Rule 2: the smallest scope that still reaches the destination, else the largest there is.
        let mine = scope6(*ip);
        let reach = if mine <= scope { (1, mine) } else { (0, u8::MAX - mine) };
        (*ip == destination, reach, a.ifindex == ifindex, common6(*ip, destination).min(a.prefix_length))
    };
    // The first of equals, like the kernel: `max_by_key` would return the last.
    candidates
        .fold(None, |best, c| match best {
            Some(b) if key(&b) >= key(&c) => Some(b),
            _ => Some(c),
        })
        .map(|(_, ip)| ip)
}

fn scope6(ip: Ipv6Addr) -> u8 {
    match ip.segments()[0] & 0xffc0 {
        _ if ip.is_loopback() => SCOPE_HOST,
        0xfe80 => SCOPE_LINK,
        _ => SCOPE_UNIVERSE,
    }
}

fn common4(a: Ipv4Addr, b: Ipv4Addr) -> u8 {
    (a.to_bits() ^ b.to_bits()).leading_zeros() as u8
}

fn common6(a: Ipv6Addr, b: Ipv6Addr) -> u8 {
    (a.to_bits() ^ b.to_bits()).leading_zeros() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ifindex: u32, text: &str) -> Address {
        let (ip, length) = text.split_once('/').expect("an address with its prefix length");
        Address {
            ifindex,
            ip: ip.parse().expect("an address"),
            prefix_length: length.parse().expect("a number"),
            scope: SCOPE_UNIVERSE,
            secondary: false,
            deprecated: false,
            tentative: false,
            protocol: 0,
        }
    }

    fn ip4(text: &str) -> Ipv4Addr {
        text.parse().expect("an IPv4 address")
    }

    fn ip6(text: &str) -> Ipv6Addr {
        text.parse().expect("an IPv6 address")
    }

    #[test]
    fn an_ipv4_source_reaches_as_far_as_the_route_and_shares_the_gateways_subnet() {
        let addresses = [
            Address { scope: SCOPE_HOST, ..address(1, "203.0.113.10/32") },
            Address { scope: SCOPE_LINK, ..address(1, "169.254.0.1/16") },
            address(1, "10.0.0.1/24"),
            address(1, "10.1.0.1/24"),
            Address { secondary: true, ..address(1, "10.2.0.1/24") },
            address(2, "10.3.0.1/24"),
            Address { scope: SCOPE_HOST, ..address(3, "203.0.113.11/32") },
        ];
        for (ifindex, scope, gateway, expected) in [
            (1, SCOPE_UNIVERSE, None, "10.0.0.1"),
            (1, SCOPE_UNIVERSE, Some("10.1.0.9"), "10.1.0.1"),
            // A secondary address is not chosen, even next to its gateway.
            (1, SCOPE_UNIVERSE, Some("10.2.0.9"), "10.0.0.1"),
            (1, SCOPE_UNIVERSE, Some("10.9.0.9"), "10.0.0.1"),
            (1, SCOPE_LINK, None, "169.254.0.1"),
            (2, SCOPE_UNIVERSE, None, "10.3.0.1"),
            // Only a VIP here: another interface's address, as on an unnumbered link.
            (3, SCOPE_UNIVERSE, None, "10.0.0.1"),
            (3, SCOPE_LINK, None, "10.0.0.1"),
        ] {
            let source = source4(&addresses, ifindex, scope, gateway.map(ip4));
            assert_eq!(source, Some(ip4(expected)), "interface {ifindex}, scope {scope}, gateway {gateway:?}");
        }
        assert_eq!(source4(&addresses[..1], 1, SCOPE_UNIVERSE, None), None, "no source rather than a VIP");
    }

    #[test]
    fn an_ipv6_source_follows_rfc_6724_and_is_never_deprecated() {
        let addresses = [
            address(1, "fe80::1/64"),
            address(2, "fe80::2/64"),
            Address { deprecated: true, ..address(1, "2001:db8:5::ff/128") },
            address(1, "2001:db8:1::1/64"),
            address(1, "fd00::1/64"),
            address(2, "2001:db8:2::1/64"),
            Address { tentative: true, ..address(2, "2001:db8:2:1::1/64") },
        ];
        for (ifindex, destination, expected, why) in [
            (1, "2001:db8:5::fe", "2001:db8:1::1", "the VIP shares more, but is deprecated"),
            (1, "2a00::1", "2001:db8:1::1", "link-local does not reach there"),
            (2, "2a00::1", "2001:db8:2::1", "rule 5: the interface it leaves by"),
            (1, "2001:db8:2::9", "2001:db8:1::1", "rule 5 comes before the common prefix"),
            (1, "fd00::9", "fd00::1", "the common prefix"),
            (2, "2001:db8:2:1::9", "2001:db8:2::1", "a tentative address is none"),
            (1, "fe80::9", "fe80::1", "link-local on its link"),
            (2, "fe80::9", "fe80::2", "link-local on its link"),
            (1, "2001:db8:2::1", "2001:db8:2::1", "rule 1: ourselves"),
        ] {
            assert_eq!(source6(&addresses, ifindex, ip6(destination)), Some(ip6(expected)), "{destination}: {why}");
        }
        assert_eq!(source6(&addresses[2..3], 1, ip6("2a00::1")), None, "no source rather than a VIP");
    }
}
