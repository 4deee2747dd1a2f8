//! The ABI's sizes and offsets, asserted at compile time on both sides of the boundary.

use core::mem::{align_of, offset_of, size_of};

use crate::addr::{Endpoint4, Endpoint6};
use crate::backend::{Backend, BackendRoute, State, Tunnel};
use crate::counters::{BackendCounters, FlowCounters, ServiceCounters, TrackedCounters};
use crate::decap::Vip;
use crate::event::Event;
use crate::flow::{Flow4, Flow6, FlowEntry, FlowPolicy, FlowState, FlowUse, Forget, Life};
use crate::hash::HashKey;
use crate::ring::Row;
use crate::route::{Neighbour4, Neighbour6, NextHop, Route};
use crate::service::{Reverse4, Reverse6, Service};

/// Changes whenever a struct here, a map's shape or a constant's meaning does.
pub const ABI_VERSION: u32 = 4;

/// Changes whenever ring words, backend ids in them, flow keys or flow entries mean something else. While this stays
/// and [`ABI_VERSION`] changes, an upgrade carries rings and entries over into new maps.
pub const ROWS_VERSION: u32 = 1;

const _: () = {
    assert!(size_of::<Endpoint4>() == 8);
    assert!(offset_of!(Endpoint4, port) == 4);
    assert!(size_of::<Endpoint6>() == 24);
    assert!(offset_of!(Endpoint6, port) == 16);
    assert!(size_of::<Vip>() == 24);
    assert!(offset_of!(Vip, family) == 16);
    assert!(size_of::<Service>() == 16);
    assert!(size_of::<Reverse4>() == 16);
    assert!(size_of::<Reverse6>() == 24);
    assert!(size_of::<Backend>() == 64);
    assert!(align_of::<Backend>() == 64);
    assert!(offset_of!(Backend, state) == 16);
    assert!(offset_of!(Backend, route) == 24);
    assert!(offset_of!(Backend, tunnel_source) == 32);
    assert!(offset_of!(Backend, tunnel) == 48);
    assert!(size_of::<Tunnel>() == 16);
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
    assert!(size_of::<FlowPolicy>() == 64);
    assert!(offset_of!(FlowPolicy, quota) == 16);
    assert!(offset_of!(FlowPolicy, moving) == 24);
    assert!(offset_of!(FlowPolicy, tracked_quota4) == 32);
    assert!(size_of::<FlowUse>() == 64);
    assert!(size_of::<Forget>() == 64);
    assert!(offset_of!(Forget, state) == 40);
    assert!(offset_of!(Forget, family) == 48);
    assert!(offset_of!(FlowUse, refused) == 16);
    assert!(offset_of!(FlowUse, tracked4) == 24);
    assert!(offset_of!(FlowUse, tracked6) == 32);
    assert!(size_of::<ServiceCounters>() == 256);
    assert!(size_of::<BackendCounters>() == 32);
    assert!(size_of::<FlowCounters>() == 128);
    assert!(size_of::<TrackedCounters>() == 128);
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
        Vip,
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
        Forget,
        ServiceCounters,
        BackendCounters,
        FlowCounters,
        TrackedCounters,
        Event,
        HashKey,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{BACKEND_ALIVE, BACKEND_V6, MAX_BACKENDS};
    use crate::event::EVENT_WANT_NEIGHBOUR;
    use crate::flow::{
        FORGET_AT_ONCE, FORGET_TRACKED, FlowState, ORPHAN_DROP, ORPHAN_RESELECT, ORPHAN_RESET, PHASE_CLOSING,
        PHASE_ESTABLISHED, PHASE_OPENING,
    };
    use crate::ring::{CLASSES, KIND_EXCEPTIONS, KIND_MOVING, KIND_STEADY};
    use crate::route::{ROUTE_ASK_KERNEL, ROUTE_GATEWAY, ROUTE_ON_LINK};
    use crate::rows::{BEFORE, GRACE, MARGIN};
    use crate::service::{AFFINITY_SOURCE, BEFORE_SOURCE, FORWARD_IPIP, FORWARD_NAT, Service, TRACKED};

    /// A program that is attached and a controller that is newer must mean the same by them: another number here is
    /// another version.
    #[test]
    fn the_numbers_in_maps_are_those_of_this_version() {
        assert_eq!((ABI_VERSION, ROWS_VERSION), (4, 1));
        assert_eq!((BACKEND_ALIVE, BACKEND_V6, MAX_BACKENDS, BEFORE), (1, 2, 65_535, 0xffff));
        assert_eq!((FORWARD_NAT, FORWARD_IPIP), (1, 2));
        assert_eq!((AFFINITY_SOURCE, BEFORE_SOURCE, TRACKED), (1, 2, 4));
        assert_eq!(Service::pack_before(2, 7), 0x0200_0008);
        assert_eq!((ROUTE_GATEWAY, ROUTE_ON_LINK, ROUTE_ASK_KERNEL), (1, 2, 3));
        assert_eq!((KIND_STEADY, KIND_MOVING, KIND_EXCEPTIONS), (0, 1, 2));
        assert_eq!((PHASE_OPENING, PHASE_ESTABLISHED, PHASE_CLOSING), (0, 1, 2));
        assert_eq!((FlowState::VACANT.0, FlowState::LEAVING.0), (0, u64::MAX));
        assert_eq!((ORPHAN_RESELECT, ORPHAN_DROP, ORPHAN_RESET), (0, 1, 2));
        assert_eq!(EVENT_WANT_NEIGHBOUR, 1);
        assert_eq!(CLASSES, [10, 12, 14, 17, 20]);
        assert_eq!((FORGET_AT_ONCE, FORGET_TRACKED), (256, 16));
        // Rows were written for these.
        assert_eq!((GRACE, MARGIN), (4, 2));
    }
}
