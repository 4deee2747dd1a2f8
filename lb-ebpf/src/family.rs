//! IPv4 and IPv6: all that differs between them on a packet's way, so that the way itself is written once.
//!
//! The trap: the kernel inlines a lookup only where the program names the map. So a family is a set of functions that
//! each name their own maps, and nothing here takes a map as a parameter.

use lb_common::addr::{Endpoint4, Endpoint6};
use lb_common::backend::Backend;
use lb_common::counters::DropReason;
use lb_common::flow::{Flow4, Flow6};
use lb_common::hash;
use lb_common::route::NextHop;
use lb_common::service::{Reverse4, Reverse6, Service};
use lb_ebpf::packet::Packet;

use crate::atomic::Word;
use crate::forward::{self, Outgoing};
use crate::lookup::{flows, fragments, wildcard};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ip};
use crate::rewrite::encap::{self, Outer};
use crate::rewrite::nat::{self, End, Side};
use crate::rewrite::{icmp, reset, ttl, udp};
use crate::{answer, maps, settings};

/// What a backend's reply is translated back to. In network order.
pub trait Reverse<A> {
    fn vip(&self) -> A;
    fn port(&self) -> u16;
    fn backend(&self) -> u16;
    fn service(&self) -> u32;
}

/// An address family.
pub trait Family {
    /// In network order as loaded from the packet.
    type Address: Copy + 'static;
    type Reverse: Reverse<Self::Address> + 'static;
    /// The one that packets of this one may be tunnelled through, too.
    type Other: Family;

    const ETHERTYPE: u16;
    /// As a payload of another header.
    const PROTOCOL: u8;
    const IS_V6: bool;
    /// Bytes of a header without options or extension headers.
    const HEADER: usize;

    fn service(address: Self::Address, port: u16, protocol: u8) -> Option<&'static Service>;
    /// The service of an endpoint that is no service's own: see [`wildcard`].
    fn wildcard(address: Self::Address, port: u16, protocol: u8) -> Option<&'static Service>;
    fn reverse(address: Self::Address, port: u16, protocol: u8) -> Option<&'static Self::Reverse>;
    /// As [`Family::reverse`], for replies from a port of a range: see [`wildcard`].
    fn reverse_wildcard(address: Self::Address, port: u16, protocol: u8) -> Option<&'static Self::Reverse>;
    /// An address of this host's own.
    fn is_local(address: Self::Address) -> bool;

    /// The keyed hash that chooses the flow's row; `ports` as far as they count.
    fn hash(ip: &Ip<'_, Self::Address>, ports: u32) -> u32;
    /// The backend id of a flow whose row asks for the table: see [`flows::v4`].
    fn look_up(packet: Packet, service: &Service, row: Word, place: u64) -> u32;
    /// Notes what [`Family::look_up`] has just answered about a tracked flow.
    fn record(service: &Service, answer: u32);
    /// The backend id of a tracked flow that is `owner`'s by its row's word: see [`flows::tracked4`].
    fn look_up_tracked(packet: Packet, service: &Service, owner: u16, place: u64) -> u32;
    /// A backend's reply shows whose flow it is. `place` as of [`flows::v4`], without a hash.
    fn prove(packet: Packet, reverse: &Self::Reverse, place: u64);
    /// The backend id of a flow that an ICMP error is about: see [`flows::peek4`].
    fn peek(packet: Packet, service: &Service, row: Word, place: u64, ip: u32) -> u32;
    /// The same of a tracked flow that is `owner`'s by its row's word: see [`flows::peek_tracked4`].
    fn peek_tracked(packet: Packet, service: &Service, owner: u16, place: u64, ip: u32) -> u32;
    /// Writes down what a first fragment told: see [`fragments::teach4`].
    fn teach(packet: Packet, id: u32, what: u64);
    /// What a later fragment's first one told, or 0.
    fn first(packet: Packet, id: u32) -> u64;

    fn address(backend: &Backend) -> Self::Address;
    /// The same where it is, in a map's memory.
    fn address_of(backend: &'static Backend) -> &'static Self::Address;
    fn vip_of(reverse: &'static Self::Reverse) -> &'static Self::Address;
    /// Where tunnelled packets to the backend come from, its host bits varied with the flow.
    fn tunnel_source(backend: &Backend, hash: u32) -> Self::Address;
    fn to_backend(packet: Packet, next_hop: u32, out: Outgoing<Self::Address>) -> Result<&'static NextHop, DropReason>;
    fn to_client(packet: Packet, out: Outgoing<Self::Address>) -> Result<&'static NextHop, DropReason>;

    /// Takes one from the TTL or hop limit, which must be above 1.
    fn hop(packet: Packet) -> bool;
    /// Translates one end of a packet and takes one from its TTL or hop limit.
    fn translate(
        packet: Packet,
        ip: &Ip<'_, Self::Address>,
        end: End,
        old: Side<Self::Address>,
        new: Side<Self::Address>,
    ) -> bool;
    /// Puts an address and a port in place of those at one end of the packet that an ICMP error quotes, addresses the error
    /// to whom that concerns, and takes one from its TTL or hop limit.
    fn translate_error(
        packet: Packet,
        ip: &Ip<'_, Self::Address>,
        end: End,
        new: &'static Self::Address,
        port: u16,
    ) -> bool;
    /// Turns an echo request for a service address into its answer: the service's id, or 0.
    fn echo(packet: Packet) -> u32;
    /// Writes an outer header of this family behind the Ethernet header.
    fn outer(packet: Packet, outer: &Outer<Self::Address>) -> bool;
    /// The checksum of an outer UDP header, given the sum of all that follows the IP header.
    fn outer_checksum(outer: &Outer<Self::Address>, sum: u64) -> u16;
    /// What a packet that is about to be put into a tunnel adds up to.
    fn sum(packet: Packet, ip: &Ip<'_, Self::Address>) -> Option<u64>;
    /// Turns the frame into the RST that answers its segment.
    fn reset(packet: Packet, l4: usize, length: usize) -> bool;
}

pub struct V4;
pub struct V6;

macro_rules! family {
    ($family:ident, $address:ty, other $other:ident, $ethertype:ident, protocol $protocol:literal, header $header:literal, v6 $is_v6:literal,
     $endpoint:ident $services:ident, $reverse:ident $reverses:ident, $local:ident,
     $flow:ident $hash:ident $look_up:ident $record:ident $look_up_tracked:ident $prove:ident $teach:ident $find:ident $peek:ident $peek_tracked:ident,
     $echo:ident $reverse_look_up:ident,
     $to_backend:ident $to_client:ident, $module:ident, $outer_checksum:ident $sum:ident,
     |$by:ident| $pass:expr,
     |$backend:ident, $bits:ident| $backend_address:expr, $tunnel_source:expr) => {
        impl Reverse<$address> for $reverse {
            #[inline(always)]
            fn vip(&self) -> $address {
                self.vip
            }

            #[inline(always)]
            fn port(&self) -> u16 {
                self.port
            }

            #[inline(always)]
            fn backend(&self) -> u16 {
                self.backend
            }

            #[inline(always)]
            fn service(&self) -> u32 {
                self.service
            }
        }

        impl Family for $family {
            type Address = $address;
            type Reverse = $reverse;
            type Other = $other;
            const ETHERTYPE: u16 = $ethertype;
            const PROTOCOL: u8 = $protocol;
            const IS_V6: bool = $is_v6;
            const HEADER: usize = $header;

            #[inline(always)]
            fn service(address: $address, port: u16, protocol: u8) -> Option<&'static Service> {
                // SAFETY: elements are freed after a grace period; the controller never writes in place.
                unsafe { maps::$services.get($endpoint::new(address, port, protocol)) }
            }

            #[inline(always)]
            fn wildcard(address: $address, port: u16, protocol: u8) -> Option<&'static Service> {
                let $by = address;
                wildcard::$look_up($pass, port, protocol)
            }

            #[inline(always)]
            fn reverse(address: $address, port: u16, protocol: u8) -> Option<&'static $reverse> {
                // SAFETY: as above.
                unsafe { maps::$reverses.get($endpoint::new(address, port, protocol)) }
            }

            #[inline(always)]
            fn reverse_wildcard(address: $address, port: u16, protocol: u8) -> Option<&'static $reverse> {
                let $by = address;
                wildcard::$reverse_look_up($pass, port, protocol)
            }

            #[inline(always)]
            fn is_local(address: $address) -> bool {
                // SAFETY: as above.
                unsafe { maps::$local.get(address) }.is_some()
            }

            #[inline(always)]
            fn hash(ip: &Ip<'_, $address>, ports: u32) -> u32 {
                let Ip { source, destination, protocol, .. } = *ip;
                hash::$hash(&settings::LoadedKey, &$flow { source, destination, ports, protocol: u32::from(protocol) })
            }

            #[inline(always)]
            fn look_up(packet: Packet, service: &Service, row: Word, place: u64) -> u32 {
                flows::$look_up(packet, service, row, place)
            }

            #[inline(always)]
            fn record(service: &Service, answer: u32) {
                flows::$record(service, answer);
            }

            #[inline(always)]
            fn look_up_tracked(packet: Packet, service: &Service, owner: u16, place: u64) -> u32 {
                flows::$look_up_tracked(packet, service, owner, place)
            }

            #[inline(always)]
            fn prove(packet: Packet, reverse: &$reverse, place: u64) {
                flows::$prove(packet, reverse, place);
            }

            #[inline(always)]
            fn peek(packet: Packet, service: &Service, row: Word, place: u64, ip: u32) -> u32 {
                flows::$peek(packet, service, row, place, ip)
            }

            #[inline(always)]
            fn peek_tracked(packet: Packet, service: &Service, owner: u16, place: u64, ip: u32) -> u32 {
                flows::$peek_tracked(packet, service, owner, place, ip)
            }

            #[inline(always)]
            fn teach(packet: Packet, id: u32, what: u64) {
                fragments::$teach(packet, id, what);
            }

            #[inline(always)]
            fn first(packet: Packet, id: u32) -> u64 {
                fragments::$find(packet, id)
            }

            #[inline(always)]
            fn address($backend: &Backend) -> $address {
                $backend_address
            }

            #[inline(always)]
            fn address_of(backend: &'static Backend) -> &'static $address {
                // SAFETY: an address of either family begins where IPv6's does.
                unsafe { &*(&raw const backend.addr).cast::<$address>() }
            }

            #[inline(always)]
            fn vip_of(reverse: &'static $reverse) -> &'static $address {
                &reverse.vip
            }

            #[inline(always)]
            fn tunnel_source($backend: &Backend, $bits: u32) -> $address {
                $tunnel_source
            }

            #[inline(always)]
            fn to_backend(packet: Packet, hop: u32, out: Outgoing<$address>) -> Result<&'static NextHop, DropReason> {
                forward::$to_backend(packet, hop, out)
            }

            #[inline(always)]
            fn to_client(packet: Packet, out: Outgoing<$address>) -> Result<&'static NextHop, DropReason> {
                forward::$to_client(packet, out)
            }

            #[inline(always)]
            fn hop(packet: Packet) -> bool {
                ttl::$module(packet)
            }

            #[inline(always)]
            fn translate(
                packet: Packet,
                ip: &Ip<'_, $address>,
                end: End,
                old: Side<$address>,
                new: Side<$address>,
            ) -> bool {
                nat::$module(packet, ip, end, old, new)
            }

            #[inline(always)]
            fn translate_error(
                packet: Packet,
                ip: &Ip<'_, $address>,
                end: End,
                new: &'static $address,
                port: u16,
            ) -> bool {
                let around = icmp::place(ip.id as usize, ip.l4, ip.length, ip.protocol, end);
                icmp::$module(packet, around, new, port)
            }

            #[inline(always)]
            fn echo(packet: Packet) -> u32 {
                answer::$echo(packet)
            }

            #[inline(always)]
            fn outer(packet: Packet, outer: &Outer<$address>) -> bool {
                encap::$module(packet, outer)
            }

            #[inline(always)]
            fn outer_checksum(outer: &Outer<$address>, sum: u64) -> u16 {
                udp::$outer_checksum(outer, sum)
            }

            #[inline(always)]
            fn sum(packet: Packet, ip: &Ip<'_, $address>) -> Option<u64> {
                udp::$sum(packet, ip)
            }

            #[inline(always)]
            fn reset(packet: Packet, l4: usize, length: usize) -> bool {
                reset::$module(packet, l4, length)
            }
        }
    };
}

family!(
    V4, u32, other V6, ETHERTYPE_IPV4, protocol 4, header 20, v6 false,
    Endpoint4 SERVICES4, Reverse4 REVERSE4, LOCAL4,
    Flow4 flow4 v4 record4 tracked4 prove4 teach4 find4 peek4 peek_tracked4,
    echo4 reverse4,
    to_backend4 to_client4, ipv4, checksum4 sum4,
    |address| address,
    |backend, bits| backend.addr[0], backend.tunnel_source[0] | (bits & settings::tunnel_source_mask4())
);
family!(
    V6, [u32; 4], other V4, ETHERTYPE_IPV6, protocol 41, header 40, v6 true,
    Endpoint6 SERVICES6, Reverse6 REVERSE6, LOCAL6,
    Flow6 flow6 v6 record6 tracked6 prove6 teach6 find6 peek6 peek_tracked6,
    echo6 reverse6,
    to_backend6 to_client6, ipv6, checksum6 sum6,
    |address| &address,
    |backend, bits| backend.addr, {
        let [a, b, c, d] = backend.tunnel_source;
        [a, b, c, d | (bits & settings::tunnel_source_mask6())]
    }
);
