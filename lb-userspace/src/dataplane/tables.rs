//! What the kernel should hold, as plain values. Built by the controller, made true by [`super::maps`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::addr::{Endpoint4, Endpoint6};
use lb_common::backend::Tunnel;
use lb_common::flow::FlowPolicy;
use lb_common::route::{Neighbour4, Neighbour6, NextHop, Vlan};
use lb_common::service::{Reverse4, Reverse6, Service};
use serde::{Deserialize, Serialize};

use crate::model::wildcards::Group;

/// A backend before its next hop has an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    pub addr: [u32; 4],
    /// Network order; 0 keeps the packet's.
    pub port: u16,
    /// `lb_common::backend::BACKEND_*`.
    pub flags: u16,
    pub generation: u32,
    pub tunnel_source: [u32; 4],
    pub tunnel: Tunnel,
    pub next_hop: Option<NextHop>,
}

/// Where replies to a destination prefix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTo {
    /// `None`: the gateway's MAC is not known.
    Gateway(Option<NextHop>),
    /// Neighbours on this interface.
    OnLink(u32),
    AskKernel,
}

/// A ring's place: its class and the slot in that class's outer map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RingPlace {
    pub class: u8,
    pub slot: u32,
}

/// What makes a ring the same one while its size and its slot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId {
    /// The service's id.
    pub service: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
}

/// Backend ids by row, `rows(class)` of them; 0 is nobody. Shared, so that an unchanged ring is recognised without
/// comparing its rows.
pub type RingOwners = Arc<Vec<u16>>;

/// A ring as it should become.
#[derive(Clone, Debug, PartialEq)]
pub struct Ring {
    pub place: RingPlace,
    pub owners: RingOwners,
    /// Seconds a flow may be silent before it is forgotten; 0 where flows need not stay.
    pub idle: u32,
    /// Rows are chosen by the addresses alone.
    pub by_source: bool,
    /// The ring that this one takes the place of: as long as it is there, rows may refer to it.
    pub before: Option<RingPlace>,
}

/// A VIP prefix: its length first, then the address with its host bits zero.
pub type VipPrefix<A> = (u8, A);

/// Service ids by the ports they have.
pub type PortGroup = Arc<Group<u32>>;

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    pub services4: BTreeMap<Endpoint4, Service>,
    pub services6: BTreeMap<Endpoint6, Service>,
    /// What is for no endpoint among these. Services that are found so have a record above by
    /// [`Endpoint4::of_service`].
    pub prefixes4: BTreeMap<VipPrefix<[u8; 4]>, PortGroup>,
    pub prefixes6: BTreeMap<VipPrefix<[u8; 16]>, PortGroup>,
    pub reverse4: BTreeMap<Endpoint4, Reverse4>,
    pub reverse6: BTreeMap<Endpoint6, Reverse6>,
    pub backends: BTreeMap<u16, Backend>,
    pub rings: BTreeMap<RingId, Ring>,
    /// By service id. The word about moving rows is not taken from here: see [`super::Dataplane::set_moving`].
    pub policies: BTreeMap<u32, FlowPolicy>,
    /// Prefix length first, then the address with its host bits zero.
    pub routes4: BTreeMap<(u8, [u8; 4]), RouteTo>,
    pub routes6: BTreeMap<(u8, [u8; 16]), RouteTo>,
    pub neighbours4: BTreeMap<Neighbour4, NextHop>,
    pub neighbours6: BTreeMap<Neighbour6, NextHop>,
    pub local4: BTreeSet<u32>,
    pub local6: BTreeSet<[u32; 4]>,
    /// VIPs whose echo requests are answered → the service they are counted for.
    pub vips4: BTreeMap<u32, u32>,
    pub vips6: BTreeMap<[u32; 4], u32>,
    /// Interfaces that are VLANs.
    pub vlans: BTreeMap<u32, Vlan>,
    /// Interfaces that packets may be redirected to.
    pub devices: BTreeSet<u32>,
}
