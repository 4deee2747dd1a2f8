//! The ABI's sizes and offsets, asserted at compile time on both sides of the boundary.

use core::mem::{align_of, offset_of, size_of};

use crate::addr::{Endpoint4, Endpoint6};
use crate::backend::{Backend, BackendRoute, State};
use crate::counters::{BackendCounters, ServiceCounters};
use crate::event::Event;
use crate::flow::{Flow4, Flow6, FlowEntry, FlowPolicy, FlowState, FlowUse, Life};
use crate::hash::HashKey;
use crate::ring::Row;
use crate::route::{Neighbour4, Neighbour6, NextHop, Route};
use crate::service::{Reverse4, Reverse6, Service};

/// Changes whenever a struct here, a map's shape or a constant's meaning does.
pub const ABI_VERSION: u32 = 2;

const _: () = {
    assert!(size_of::<Endpoint4>() == 8);
    assert!(offset_of!(Endpoint4, port) == 4);
    assert!(size_of::<Endpoint6>() == 24);
    assert!(offset_of!(Endpoint6, port) == 16);
    assert!(size_of::<Service>() == 16);
    assert!(size_of::<Reverse4>() == 16);
    assert!(size_of::<Reverse6>() == 24);
    assert!(size_of::<Backend>() == 64);
    assert!(align_of::<Backend>() == 64);
    assert!(offset_of!(Backend, state) == 16);
    assert!(offset_of!(Backend, route) == 24);
    assert!(offset_of!(Backend, tunnel_source) == 32);
    assert!(size_of::<State>() == 8);
    assert!(size_of::<BackendRoute>() == 8);
    assert!(size_of::<NextHop>() == 24);
    assert!(size_of::<Route>() == 16);
    assert!(size_of::<Neighbour4>() == 8);
    assert!(size_of::<Neighbour6>() == 24);
    assert!(size_of::<Row>() == 8);
    assert!(size_of::<Flow4>() == 16);
    assert!(size_of::<Flow6>() == 40);
    assert!(size_of::<FlowEntry>() == 16);
    assert!(offset_of!(FlowEntry, state) == 8);
    assert!(size_of::<FlowState>() == 8);
    assert!(size_of::<Life>() == 4);
    assert!(size_of::<FlowPolicy>() == 32);
    assert!(offset_of!(FlowPolicy, quota) == 16);
    assert!(size_of::<FlowUse>() == 32);
    assert!(offset_of!(FlowUse, refused) == 16);
    assert!(size_of::<ServiceCounters>() == 256);
    assert!(size_of::<BackendCounters>() == 32);
    assert!(size_of::<Event>() == 32);
    assert!(size_of::<HashKey>() == 96);
};

/// Marks the ABI structs as plain bytes for the controller's map library.
#[cfg(feature = "user")]
mod pod {
    use super::*;

    macro_rules! pod {
        ($($t:ty),* $(,)?) => {$(
            // SAFETY: `repr(C)` (or transparent) over integers only, padding explicit, asserted above.
            unsafe impl aya::Pod for $t {}
        )*};
    }

    pod!(
        Endpoint4,
        Endpoint6,
        Service,
        Reverse4,
        Reverse6,
        Backend,
        NextHop,
        Route,
        Neighbour4,
        Neighbour6,
        Row,
        Flow4,
        Flow6,
        FlowEntry,
        FlowState,
        FlowPolicy,
        FlowUse,
        ServiceCounters,
        BackendCounters,
        Event,
        HashKey,
    );
}
