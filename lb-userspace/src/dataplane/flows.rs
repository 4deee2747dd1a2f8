//! The flows that are written down: how many there are, and what was counted about them.

use lb_common::counters::FlowCounters;
use lb_common::flow::FlowUse;

use super::{Dataplane, DataplaneError};

impl Dataplane {
    /// What the tables of flows did for a service, summed over CPUs.
    pub fn flow_counters(&self, service: u32) -> Result<FlowCounters, DataplaneError> {
        self.maps.flow_counters(service)
    }

    /// Starts counting from zero for an id that is given to somebody new.
    pub fn reset_flow_counters(&mut self, service: u32) -> Result<(), DataplaneError> {
        self.maps.reset_flow_counters(service)
    }

    /// How much a service has used of its policy.
    pub fn flow_use(&self, service: u32) -> FlowUse {
        self.maps.flow_use(service)
    }

    /// Adds to the number of entries a service is said to have: the sweep counted them.
    pub fn correct_flow_entries(&self, service: u32, by: i64) {
        self.maps.correct_entries(service, by);
    }

    /// Whether replies of a service are looked at: from before one of its rows moves until after the last one does.
    pub fn set_moving(&self, service: u32, moving: bool) {
        self.maps.set_moving(service, moving);
    }
}
