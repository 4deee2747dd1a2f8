//! Services that listen on more than single endpoints: prefixes of addresses, ranges of ports, any port.
//!
//! Exact endpoints have been looked for already. The controller has decided who gets what where several services could:
//! a group of ports says for each port which service it is, of all whose prefix contains the address.
//!
//! These are functions of their own in the object, because the way of an exact endpoint must not pay for them.

use lb_common::addr::{Endpoint4, Endpoint6, octets6};
use lb_common::service::{Reverse4, Reverse6, Service, ports_key};

use crate::forward::Aligned;
use crate::maps::{PORTS, PREFIXES4, PREFIXES6, REVERSE4, REVERSE6, SERVICES4, SERVICES6};
use crate::settings;

/// The service of this destination.
#[cold]
#[inline(never)]
pub fn v4(address: u32, port: u16, protocol: u8) -> Option<&'static Service> {
    let group = PREFIXES4.get(&Aligned::new(address.to_ne_bytes()).key)?;
    let service = PORTS.get(&Aligned::new(ports_key(*group, protocol, port)).key)?;
    // SAFETY: elements are freed after a grace period; the controller never writes in place.
    unsafe { SERVICES4.get(Endpoint4::of_service(*service, protocol)) }
}

/// As [`v4`].
#[cold]
#[inline(never)]
pub fn v6(address: &[u32; 4], port: u16, protocol: u8) -> Option<&'static Service> {
    let group = PREFIXES6.get(&Aligned::new(octets6(*address)).key)?;
    let service = PORTS.get(&Aligned::new(ports_key(*group, protocol, port)).key)?;
    // SAFETY: as above.
    unsafe { SERVICES6.get(Endpoint6::of_service(*service, protocol)) }
}

/// What a reply from a port of a range is translated back to. Its entry names no port, so that what else the backend sends
/// is told from replies by asking whose the port is at the VIP.
#[cold]
#[inline(never)]
pub fn reverse4(address: u32, port: u16, protocol: u8) -> Option<&'static Reverse4> {
    // SAFETY: as above.
    let reverse = unsafe { REVERSE4.get(Endpoint4::any_port(address, protocol)) }?;
    (asked4(reverse, port, protocol)?.id == reverse.service).then_some(reverse)
}

/// As [`reverse4`].
#[cold]
#[inline(never)]
pub fn reverse6(address: &[u32; 4], port: u16, protocol: u8) -> Option<&'static Reverse6> {
    // SAFETY: as above.
    let reverse = unsafe { REVERSE6.get(Endpoint6::any_port(*address, protocol)) }?;
    (asked6(reverse, port, protocol)?.id == reverse.service).then_some(reverse)
}

/// The service whose flow a reply from this port is of.
#[inline(always)]
pub fn asked4(reverse: &Reverse4, port: u16, protocol: u8) -> Option<&'static Service> {
    let port = reply_port(reverse.port, port);
    // SAFETY: as above.
    match unsafe { SERVICES4.get(Endpoint4::new(reverse.vip, port, protocol)) } {
        None if settings::wildcards() != 0 && reverse.port == 0 => v4(reverse.vip, port, protocol),
        exact => exact,
    }
}

/// As [`asked4`].
#[inline(always)]
pub fn asked6(reverse: &Reverse6, port: u16, protocol: u8) -> Option<&'static Service> {
    let port = reply_port(reverse.port, port);
    // SAFETY: as above.
    match unsafe { SERVICES6.get(Endpoint6::new(reverse.vip, port, protocol)) } {
        None if settings::wildcards() != 0 && reverse.port == 0 => v6(&reverse.vip, port, protocol),
        exact => exact,
    }
}

/// The port that a reply leaves from: the VIP's, or where that is one of many the packet's own.
#[inline(always)]
pub fn reply_port(vip: u16, own: u16) -> u16 {
    if settings::wildcards() != 0 && vip == 0 { own } else { vip }
}
