//! Every metric's name, once: for the exporter, the docs and whoever draws a dashboard.
//!
//! Base units (seconds, bytes, ratios), `_total` on counters, and no label whose values grow with traffic.

/// What Prometheus should make of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    /// Buckets with a label `le`, and their sum and count.
    Histogram,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric family.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

macro_rules! metrics {
    ($($konst:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub const $konst: Metric = Metric { name: $name, kind: Kind::$kind, help: $help, labels: &[$($label),*] };)*

        /// All of them, in the order in which they are exported and documented.
        pub const ALL: &[Metric] = &[$($konst),*];
    };
}

metrics! {
    BUILD_INFO = Gauge "sluice_build_info" ["version"]
        "Always 1; the version of the running daemon is a label.";
    UPTIME = Gauge "sluice_uptime_seconds" []
        "Time since the daemon started.";
    DEGRADED = Gauge "sluice_degraded_conditions" []
        "How many things are not as configured; `sluice status` says which. 0 when all is well.";
    CONFIG_GENERATION = Gauge "sluice_config_generation" []
        "Configurations applied since the daemon started.";
    CONFIG_APPLIED = Gauge "sluice_config_applied_timestamp_seconds" []
        "When the running configuration was applied, in seconds since the Unix epoch.";
    CONFIG_RELOAD_SUCCESS = Gauge "sluice_config_last_reload_success" []
        "1 if the last reload was applied, 0 if it was refused and the configuration before it is still in force.";
    HOOK_EVENTS = Counter "sluice_hook_events_total" ["hook", "result"]
        "Events that hooks were to be told: done, failed, and lost, for which the hook was too slow.";
    INTERFACE_XDP_MODE = Gauge "sluice_interface_xdp_mode" ["interface", "mode"]
        "1 for the mode the program is attached in, 0 for the other; generic is several times slower than native.";
    PASSED_PACKETS = Counter "sluice_passed_packets_total" []
        "Packets that are for no service, left to the host untouched.";
    PASSED_BYTES = Counter "sluice_passed_bytes_total" []
        "Bytes of frames that are for no service, link header included.";
    PASSED_FRAGMENTS = Counter "sluice_passed_fragments_total" []
        "Of the passed packets, later fragments whose packet's first one did not come before them.";
    SERVICE_UP = Gauge "sluice_service_up" ["service"]
        "1 if the service has at least min_healthy backends up, else 0.";
    SERVICE_READY = Gauge "sluice_service_ready" ["service"]
        "1 if traffic should be sent here, as /readyz has it: enough backends up, and for long enough.";
    SERVICE_PANIC = Gauge "sluice_service_panic" ["service"]
        "1 if more backends look dead than panic_threshold, or all with on_empty: fail-open: the dead are used.";
    SERVICE_FALLBACK = Gauge "sluice_service_fallback" ["service"]
        "1 if fallback backends are used.";
    SERVICE_KEPT = Gauge "sluice_service_kept_backends" ["service"]
        "Backends that look dead and take traffic all the same.";
    SERVICE_PACKETS = Counter "sluice_service_packets_total" ["service"]
        "Packets from clients forwarded to a backend.";
    SERVICE_BYTES = Counter "sluice_service_bytes_total" ["service"]
        "Bytes of IP packets from clients forwarded to a backend.";
    SERVICE_REPLY_PACKETS = Counter "sluice_service_reply_packets_total" ["service"]
        "Packets from backends translated back to the client (forward: nat only).";
    SERVICE_REPLY_BYTES = Counter "sluice_service_reply_bytes_total" ["service"]
        "Bytes of IP packets from backends translated back to the client (forward: nat only).";
    SERVICE_SYNS = Counter "sluice_service_syns_total" ["service"]
        "TCP connection attempts forwarded: packets with SYN and without ACK, retransmissions included.";
    SERVICE_FIB_LOOKUPS = Counter "sluice_service_fib_lookups_total" ["service"]
        "Packets whose next hop was asked of the kernel (the slow path); many per second mean a missing neighbour.";
    SERVICE_FRAGMENTS = Counter "sluice_service_fragments_total" ["service"]
        "Later fragments, in both directions, that went where their packet's first one went.";
    SERVICE_ICMP_ERRORS = Counter "sluice_service_icmp_errors_total" ["service"]
        "ICMP errors, in both directions, that went to whom they concern.";
    SERVICE_ECHOES = Counter "sluice_service_echoes_total" ["service"]
        "Echo requests for the service's addresses answered; counted for the first service that has the address.";
    SERVICE_TOO_BIG_ANSWERS = Counter "sluice_service_too_big_answers_total" ["service"]
        "Packets too big for their way whose senders were told (fragmentation needed, packet too big).";
    SERVICE_DROPS = Counter "sluice_service_drops_total" ["service", "reason"]
        "Packets dropped, by reason; the reasons are listed below.";
    SERVICE_FLOWS = Gauge "sluice_service_flows" ["service"]
        "Flows that are written down: those on rows that have not settled.";
    SERVICE_FLOW_LOOKUPS = Counter "sluice_service_flow_lookups_total" ["service"]
        "Packets from clients whose flow was looked up, because its row has not settled.";
    SERVICE_FLOW_HITS = Counter "sluice_service_flow_hits_total" ["service"]
        "Packets of these that went where their flow's entry says.";
    SERVICE_FLOWS_WRITTEN = Counter "sluice_service_flows_written_total" ["service"]
        "Flows written down, because of a client's packet or a backend's reply.";
    SERVICE_FLOWS_REPLACED = Counter "sluice_service_flows_replaced_total" ["service"]
        "Entries that said nothing any more (backend down, silent for too long, closed), and were vacated or overwritten with another backend.";
    SERVICE_FLOWS_REFUSED = Counter "sluice_service_flows_refused_total" ["service", "reason"]
        "Flows not written down: quota (the service has as many as it may), gate (as many new ones in this \
         second), full (the table), race (other CPUs were faster).";
    SERVICE_TRACKED = Gauge "sluice_service_tracked_flows" ["service", "family"]
        "Flows that are tracked, of services that ask for it.";
    SERVICE_TRACKED_QUOTA = Gauge "sluice_service_tracked_flows_quota" ["service", "family"]
        "How many there may be.";
    SERVICE_TRACKED_LOOKUPS = Counter "sluice_service_tracked_lookups_total" ["service"]
        "Packets from clients whose flow was looked up, because it may be tracked and its row has settled.";
    SERVICE_TRACKED_HITS = Counter "sluice_service_tracked_hits_total" ["service"]
        "Packets of these that went where their flow's entry says.";
    SERVICE_TRACKED_FALLBACKS = Counter "sluice_service_tracked_fallbacks_total" ["service"]
        "Packets of these in the middle of a TCP connection that nobody knew: they went where the ring says.";
    SERVICE_TRACKED_WRITTEN = Counter "sluice_service_tracked_flows_written_total" ["service"]
        "Flows that came to be tracked.";
    SERVICE_TRACKED_REPLACED = Counter "sluice_service_tracked_flows_replaced_total" ["service"]
        "Entries that said nothing any more (backend down, silent for too long, closed), or something else than the \
         row, and were overwritten.";
    SERVICE_TRACKED_REFUSED = Counter "sluice_service_tracked_flows_refused_total" ["service", "reason"]
        "Flows not tracked: quota, gate, full and race as above; they go where the ring says.";
    SERVICE_TRACKED_EVICTED = Counter "sluice_service_tracked_flows_evicted_total" ["service"]
        "Tracked flows that the kernel pushed out because the table was full, as far as sweeps have found out.";
    SERVICE_TRACKED_YOUNGEST = Gauge "sluice_service_tracked_youngest_evicted_age_seconds" ["service"]
        "When some were pushed out last: how long the youngest of them had been silent, at most. A short time means \
         that limits.flows is too low.";
    SERVICE_RESETS = Counter "sluice_service_resets_total" ["service"]
        "Packets answered with RST because their connection's backend is down (on_backend_down: reset).";
    SERVICE_CHECKS = Counter "sluice_health_checks_total" ["service", "result"]
        "Health checks made: passed, failed, and skipped, which this host could not make.";
    SERVICE_CHECK_DURATION = Histogram "sluice_health_check_duration_seconds" ["service"]
        "How long health checks took, those that failed or ran out of time included.";
    SERVICE_EJECTIONS = Counter "sluice_service_ejections_total" ["service"]
        "How often health took a backend out; one that looks dead from the start counts, too.";
    CHECKS_LATE = Histogram "sluice_health_scheduler_lag_seconds" []
        "How late health checks began; more than some milliseconds mean that this host is too busy for them.";
    DEATHS_APPLIED = Histogram "sluice_health_apply_seconds" []
        "How long it took from a check that found a backend dead until the kernel's rings were without it.";
    RING_ROWS = Gauge "sluice_ring_rows" ["service", "family", "protocol"]
        "Rows in the ring, over which flows are spread.";
    RING_ROWS_MOVING = Gauge "sluice_ring_rows_moving" ["service", "family", "protocol"]
        "Rows that changed their owner less than one idle timeout ago; packets on them look their flow up.";
    RING_ROWS_EXCEPTIONS = Gauge "sluice_ring_rows_exceptions" ["service", "family", "protocol"]
        "Rows with flows that belong to another backend than the owner; these flows are looked up.";
    RING_INFO = Gauge "sluice_ring_info" ["service", "family", "protocol", "fingerprint"]
        "Always 1; the fingerprint is the same on every node with the same backends, weights and key.";
    BACKEND_INFO = Gauge "sluice_backend_info" ["service", "backend", "address"]
        "Always 1; the backend's address is a label.";
    BACKEND_UP = Gauge "sluice_backend_up" ["service", "backend"]
        "1 if the backend passes its health check or has none, 0 if it fails or was not checked yet.";
    BACKEND_DRAINING = Gauge "sluice_backend_draining" ["service", "backend"]
        "1 if the backend is being drained, by the file or by an operator.";
    BACKEND_WEIGHT = Gauge "sluice_backend_weight" ["service", "backend"]
        "Weight in force.";
    BACKEND_SHARE = Gauge "sluice_backend_share_ratio" ["service", "backend"]
        "Expected share of new flows, 0 to 1: the share of ring rows the backend owns.";
    BACKEND_PACKETS = Counter "sluice_backend_packets_total" ["service", "backend"]
        "Packets forwarded to the backend.";
    BACKEND_BYTES = Counter "sluice_backend_bytes_total" ["service", "backend"]
        "Bytes of IP packets forwarded to the backend.";
    BACKEND_REPLY_PACKETS = Counter "sluice_backend_reply_packets_total" ["service", "backend"]
        "Packets from the backend translated back to the client (forward: nat only).";
    BACKEND_REPLY_BYTES = Counter "sluice_backend_reply_bytes_total" ["service", "backend"]
        "Bytes of IP packets from the backend translated back to the client (forward: nat only).";
    BACKEND_CHECK_LATENCY = Gauge "sluice_backend_check_latency_seconds" ["service", "backend"]
        "How long the last successful health check took; absent before the first.";
    BACKEND_TRANSITIONS = Counter "sluice_backend_transitions_total" ["service", "backend"]
        "How often the backend's health changed since the daemon checks it.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_prometheus_users_rely_on() {
        for (i, metric) in ALL.iter().enumerate() {
            let name = metric.name;
            assert!(name.starts_with("sluice_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert!(!name.contains("millis") && !name.contains("percent"), "{name} is not in base units");
            assert!(metric.help.ends_with('.'), "{name}: the help is no sentence");
            assert!(ALL[..i].iter().all(|earlier| earlier.name != name), "{name} is there twice");
        }
    }
}
