//! Addresses and endpoints as map keys.
//!
//! Byte order: every address and port in this crate is in **network order as loaded from the packet** —
//! `u32::from_ne_bytes(octets)`, `u16::from_ne_bytes(port_bytes)`. Nothing on the packet path swaps bytes
//! to look something up. Only the controller converts, through the constructors here.

/// TCP's IP protocol number.
pub const PROTO_TCP: u8 = 6;
/// UDP's IP protocol number.
pub const PROTO_UDP: u8 = 17;

/// An IPv4 transport endpoint: a service's VIP and port, or a backend's address and port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint4 {
    pub addr: u32,
    pub port: u16,
    pub protocol: u8,
    pub pad: u8,
}

impl Endpoint4 {
    pub const fn new(addr: u32, port: u16, protocol: u8) -> Self {
        Self { addr, port, protocol, pad: 0 }
    }

    /// From host-side values: octets as written, port in host order.
    pub const fn from_host(octets: [u8; 4], port: u16, protocol: u8) -> Self {
        Self::new(u32::from_ne_bytes(octets), port.to_be(), protocol)
    }

    /// No endpoint, but the key that a service itself has where it is found by a prefix or a range of ports: see
    /// [`crate::service::ports_key`]. Looked up are only TCP and UDP, so no packet's endpoint has protocol 0.
    pub const fn of_service(id: u32, protocol: u8) -> Self {
        Self { addr: id, port: 0, protocol: 0, pad: protocol }
    }

    /// No endpoint either, but a backend's key for replies from whatever port it was asked at.
    pub const fn any_port(addr: u32, protocol: u8) -> Self {
        Self { addr, port: 0, protocol, pad: 1 }
    }

    /// Service and protocol of a key made by [`Self::of_service`].
    pub const fn as_service(&self) -> Option<(u32, u8)> {
        if self.protocol == 0 { Some((self.addr, self.pad)) } else { None }
    }
}

/// An IPv6 transport endpoint. Aligned to 8, because the program builds it on its stack, where the verifier
/// wants every 8-byte store aligned, and the compiler joins 4-byte stores into 8-byte ones.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint6 {
    pub addr: [u32; 4],
    pub port: u16,
    pub protocol: u8,
    pub pad: [u8; 5],
}

impl Endpoint6 {
    pub const fn new(addr: [u32; 4], port: u16, protocol: u8) -> Self {
        Self { addr, port, protocol, pad: [0; 5] }
    }

    /// From host-side values: octets as written, port in host order.
    pub const fn from_host(octets: [u8; 16], port: u16, protocol: u8) -> Self {
        Self::new(words6(octets), port.to_be(), protocol)
    }

    /// As [`Endpoint4::of_service`].
    pub const fn of_service(id: u32, protocol: u8) -> Self {
        Self { addr: [id, 0, 0, 0], port: 0, protocol: 0, pad: [protocol, 0, 0, 0, 0] }
    }

    /// As [`Endpoint4::any_port`].
    pub const fn any_port(addr: [u32; 4], protocol: u8) -> Self {
        Self { addr, port: 0, protocol, pad: [1, 0, 0, 0, 0] }
    }

    /// As [`Endpoint4::as_service`].
    pub const fn as_service(&self) -> Option<(u32, u8)> {
        if self.protocol == 0 { Some((self.addr[0], self.pad[0])) } else { None }
    }
}

/// An IPv6 address as the four words the packet path loads.
pub const fn words6(o: [u8; 16]) -> [u32; 4] {
    [
        u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
        u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
        u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
        u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
    ]
}

/// The inverse of [`words6`].
pub const fn octets6(w: [u32; 4]) -> [u8; 16] {
    let (a, b, c, d) = (w[0].to_ne_bytes(), w[1].to_ne_bytes(), w[2].to_ne_bytes(), w[3].to_ne_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCTETS: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

    #[test]
    fn an_ipv6_address_is_its_bytes_in_their_order_four_to_a_word() {
        let words = words6(OCTETS);
        for (word, bytes) in words.iter().zip(OCTETS.chunks(4)) {
            assert_eq!(word.to_ne_bytes(), bytes);
        }
        assert_eq!(octets6(words), OCTETS);
    }

    /// A key is compared byte by byte by the kernel, so the bytes are what counts.
    #[test]
    fn an_endpoint_lies_in_memory_as_in_the_packet_and_its_padding_is_zero() {
        let endpoint = Endpoint4::from_host([203, 0, 113, 10], 0x1234, PROTO_UDP);
        assert_eq!(endpoint.addr.to_ne_bytes(), [203, 0, 113, 10]);
        assert_eq!(endpoint.port.to_ne_bytes(), [0x12, 0x34]);
        assert_eq!((endpoint.protocol, endpoint.pad), (17, 0));
        let endpoint = Endpoint6::from_host(OCTETS, 0x1234, PROTO_TCP);
        assert_eq!(octets6(endpoint.addr), OCTETS);
        assert_eq!(endpoint.port.to_ne_bytes(), [0x12, 0x34]);
        assert_eq!((endpoint.protocol, endpoint.pad), (6, [0; 5]));
    }

    #[test]
    fn a_service_s_own_key_is_nobody_s_endpoint() {
        let (v4, v6) = (Endpoint4::of_service(7, PROTO_UDP), Endpoint6::of_service(7, PROTO_UDP));
        assert_eq!((v4.as_service(), v6.as_service()), (Some((7, PROTO_UDP)), Some((7, PROTO_UDP))));
        assert_ne!(v4, Endpoint4::of_service(7, PROTO_TCP));
        assert_ne!(Endpoint4::any_port(7, PROTO_TCP), Endpoint4::new(7, 0, PROTO_TCP));
        assert_ne!(Endpoint6::any_port([7; 4], PROTO_TCP), Endpoint6::new([7; 4], 0, PROTO_TCP));
        assert_eq!(Endpoint4::from_host([0, 0, 0, 7], 0, PROTO_TCP).as_service(), None);
        assert_eq!(Endpoint6::from_host(OCTETS, 0, PROTO_UDP).as_service(), None);
    }
}
