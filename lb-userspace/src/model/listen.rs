//! What a service listens on: an address or a prefix of them, and a port, a range of ports or any.
//!
//! Where several contain a packet's destination, one address with one port comes first (the packet path looks no further),
//! then the longest prefix, then the fewest ports. Two services with nothing to tell them apart in this order are refused
//! when the file is read.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Prefix;

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    /// Written as 0. Port 0 itself is in it, though no client uses it.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Those that are in both.
    pub fn common(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self { first, last })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ANY => write!(f, "0"),
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listen {
    /// Of full length for one address.
    pub prefix: Prefix,
    pub ports: Ports,
}

impl Listen {
    pub const fn ip(&self) -> IpAddr {
        self.prefix.address
    }

    pub const fn is_ipv4(&self) -> bool {
        self.prefix.address.is_ipv4()
    }

    pub const fn is_ipv6(&self) -> bool {
        self.prefix.address.is_ipv6()
    }

    /// The one address, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.prefix.is_host().then_some(self.prefix.address)
    }

    /// The one endpoint, if it is one.
    pub fn exact(&self) -> Option<SocketAddr> {
        let one = self.ports.first == self.ports.last;
        self.address().filter(|_| one).map(|ip| SocketAddr::new(ip, self.ports.first))
    }

    /// The lowest port, if it says anything.
    pub fn port(&self) -> Option<u16> {
        (self.ports != Ports::ANY).then_some(self.ports.first)
    }

    pub fn contains(&self, endpoint: SocketAddr) -> bool {
        self.prefix.contains(endpoint.ip()) && self.ports.contains(endpoint.port())
    }

    /// Every packet for the other one could be for this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix.length <= other.prefix.length
            && self.prefix.contains(other.prefix.address)
            && self.ports.common(other.ports) == Some(other.ports)
    }

    /// Some packet could be for either.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.prefix, other.prefix);
        (a.contains(b.address) || b.contains(a.address)) && self.ports.common(other.ports).is_some()
    }

    /// What is lower gets the packets that are for both.
    pub fn rank(&self) -> (bool, u8, u32) {
        (self.exact().is_none(), u8::MAX - self.prefix.length, self.ports.count())
    }
}

impl From<SocketAddr> for Listen {
    fn from(endpoint: SocketAddr) -> Self {
        Self { prefix: Prefix::host(endpoint.ip()), ports: Ports::one(endpoint.port()) }
    }
}

/// As the file has it: `203.0.113.0/24:443`, `[2001:db8:f::]/64:8000-8100`, `203.0.113.10:0`.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.address {
            IpAddr::V4(address) => write!(f, "{address}")?,
            IpAddr::V6(address) => write!(f, "[{address}]")?,
        }
        if !self.prefix.is_host() {
            write!(f, "/{}", self.prefix.length)?;
        }
        write!(f, ":{}", self.ports)
    }
}

impl Prefix {
    /// Of one address.
    pub const fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub const fn is_host(&self) -> bool {
        self.length == if self.address.is_ipv4() { 32 } else { 128 }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(_)) => IpAddr::V4(own) == first_of(address, self.length),
            (IpAddr::V6(own), IpAddr::V6(_)) => IpAddr::V6(own) == first_of(address, self.length),
            _ => false,
        }
    }
}

/// The address with all but its first bits zero.
pub fn first_of(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from_bits(a.to_bits() & mask).into()
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from_bits(a.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(address: &str, length: u8, first: u16, last: u16) -> Listen {
        Listen { prefix: Prefix { address: address.parse().unwrap(), length }, ports: Ports { first, last } }
    }

    #[test]
    fn it_is_shown_as_it_is_written() {
        for (listen, text) in [
            (listen("203.0.113.10", 32, 443, 443), "203.0.113.10:443"),
            (listen("203.0.113.10", 32, 8000, 8100), "203.0.113.10:8000-8100"),
            (listen("203.0.113.0", 24, 0, 65_535), "203.0.113.0/24:0"),
            (listen("2001:db8:f::", 64, 443, 443), "[2001:db8:f::]/64:443"),
            (listen("2001:db8::10", 128, 1, 65_535), "[2001:db8::10]:1-65535"),
        ] {
            assert_eq!(listen.to_string(), text);
        }
    }

    #[test]
    fn one_endpoint_comes_first_then_the_longest_prefix_then_the_fewest_ports() {
        let order = [
            listen("203.0.113.10", 32, 443, 443),
            listen("203.0.113.10", 32, 400, 500),
            listen("203.0.113.10", 32, 0, 65_535),
            listen("203.0.113.0", 28, 443, 443),
            listen("203.0.113.0", 24, 443, 443),
            listen("203.0.113.0", 24, 442, 443),
            listen("0.0.0.0", 1, 0, 65_535),
        ];
        assert!(order.is_sorted_by_key(Listen::rank));
        assert!(order.iter().all(|a| order.iter().all(|b| a == b || a.rank() != b.rank())));
    }

    #[test]
    fn a_prefix_contains_its_first_and_its_last_address_and_no_other_family() {
        let net = listen("203.0.113.64", 26, 80, 90);
        let at = |text: &str| net.contains(text.parse().unwrap());
        assert!(at("203.0.113.64:80") && at("203.0.113.127:90"));
        assert!(!at("203.0.113.63:80") && !at("203.0.113.128:80") && !at("203.0.113.64:79") && !at("203.0.113.64:91"));
        assert!(!at("[2001:db8::1]:80"));
        let wide = Prefix { address: "8000::".parse().unwrap(), length: 1 };
        assert!(wide.contains("ffff::".parse().unwrap()) && !wide.contains("7fff::".parse().unwrap()));
    }

    #[test]
    fn what_overlaps_has_an_address_and_a_port_in_common() {
        let a = listen("203.0.113.0", 24, 80, 90);
        assert!(a.overlaps(&listen("203.0.113.7", 32, 90, 100)) && listen("203.0.113.7", 32, 90, 100).overlaps(&a));
        assert!(!a.overlaps(&listen("203.0.113.7", 32, 91, 100)) && !a.overlaps(&listen("203.0.114.7", 32, 80, 90)));
    }
}
