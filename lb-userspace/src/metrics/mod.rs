//! Prometheus metrics: a [`Status`] in, the text format out.
//!
//! The exporter keeps no state of its own: counters live in the kernel's maps. A trap of the format: all samples of
//! a family must stand together under one HELP and TYPE, so this walks metrics first and services second.

pub mod docs;
pub mod names;

use std::fmt::Write as _;

use lb_common::counters::DropReason;

use crate::api::types::{
    BackendStatus, Histogram, RingStatus, ServiceState, ServiceStatus, Status, TrackedFamily, TrackedStatus,
};
use crate::model::BackendState;
use names::Metric;

/// Of the text exposition format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every metric of the daemon at one moment.
pub fn render(status: &Status) -> String {
    let mut out = Exporter::default();

    out.family(&names::BUILD_INFO).sample(&[&status.version], 1.0);
    out.family(&names::UPTIME).sample(&[], status.uptime_seconds as f64);
    out.family(&names::DEGRADED).sample(&[], status.degraded.len() as f64);
    out.family(&names::CONFIG_GENERATION).count(&[], status.config.generation);
    out.family(&names::CONFIG_APPLIED).count(&[], status.config.applied_at);
    out.family(&names::CONFIG_RELOAD_SUCCESS).flag(&[], status.config.last_error.is_none());

    out.family(&names::HOOK_EVENTS);
    for hook in &status.hooks {
        for (result, count) in [("done", hook.done), ("failed", hook.failed), ("lost", hook.lost)] {
            out.count(&[&hook.hook, result], count);
        }
    }
    out.family(&names::INTERFACE_XDP_MODE);
    for interface in &status.interfaces {
        for mode in ["native", "generic"] {
            out.flag(&[&interface.name, mode], interface.xdp_mode == mode);
        }
    }
    out.family(&names::PASSED_PACKETS).count(&[], status.passed.packets);
    out.family(&names::PASSED_BYTES).count(&[], status.passed.bytes);
    out.family(&names::PASSED_FRAGMENTS).count(&[], status.passed_fragments);

    let services = &status.services;
    out.family(&names::SERVICE_UP);
    for service in services {
        out.flag(&[&service.name], service.state == ServiceState::Up);
    }
    let gauges: [(&'static Metric, OfService); 4] = [
        (&names::SERVICE_READY, |s| s.ready.into()),
        (&names::SERVICE_PANIC, |s| (s.panic || s.fail_open).into()),
        (&names::SERVICE_FALLBACK, |s| s.fallback.into()),
        (&names::SERVICE_KEPT, |s| s.backends.iter().filter(|b| b.kept).count() as u64),
    ];
    for (metric, value) in gauges {
        out.family(metric);
        for service in services {
            out.count(&[&service.name], value(service));
        }
    }
    type OfService = fn(&ServiceStatus) -> u64;
    let counters: [(&'static Metric, OfService); 10] = [
        (&names::SERVICE_PACKETS, |s| s.forwarded.packets),
        (&names::SERVICE_BYTES, |s| s.forwarded.bytes),
        (&names::SERVICE_REPLY_PACKETS, |s| s.replies.packets),
        (&names::SERVICE_REPLY_BYTES, |s| s.replies.bytes),
        (&names::SERVICE_SYNS, |s| s.syns),
        (&names::SERVICE_FIB_LOOKUPS, |s| s.fib_lookups),
        (&names::SERVICE_FRAGMENTS, |s| s.fragments),
        (&names::SERVICE_ICMP_ERRORS, |s| s.icmp_errors),
        (&names::SERVICE_ECHOES, |s| s.answers.echoes),
        (&names::SERVICE_TOO_BIG_ANSWERS, |s| s.answers.too_big),
    ];
    for (metric, value) in counters {
        out.family(metric);
        for service in services {
            out.count(&[&service.name], value(service));
        }
    }
    out.family(&names::SERVICE_DROPS);
    for service in services {
        // All reasons, also those that never happened: `rate()` misses the first drop of a series that begins with it.
        for reason in DropReason::ALL {
            let count = service.drops.get(reason.name()).copied().unwrap_or(0);
            out.count(&[&service.name, reason.name()], count);
        }
    }

    let flows: [(&'static Metric, OfService); 5] = [
        (&names::SERVICE_FLOWS, |s| s.flows.entries),
        (&names::SERVICE_FLOW_LOOKUPS, |s| s.flows.lookups),
        (&names::SERVICE_FLOW_HITS, |s| s.flows.hits),
        (&names::SERVICE_FLOWS_WRITTEN, |s| s.flows.written),
        (&names::SERVICE_FLOWS_REPLACED, |s| s.flows.replaced),
    ];
    for (metric, value) in flows {
        out.family(metric);
        for service in services {
            out.count(&[&service.name], value(service));
        }
    }
    out.family(&names::SERVICE_FLOWS_REFUSED);
    for service in services {
        let f = &service.flows;
        for (reason, count) in
            [("quota", f.refused_quota), ("gate", f.refused_gate), ("full", f.refused_full), ("race", f.refused_race)]
        {
            out.count(&[&service.name, reason], count);
        }
    }
    tracked(&mut out, services);
    out.family(&names::SERVICE_RESETS);
    for service in services {
        out.count(&[&service.name], service.flows.resets);
    }

    checks(&mut out, status);

    let rings = || services.iter().flat_map(|service| service.rings.iter().map(move |ring| (service, ring)));
    type OfRing = fn(&RingStatus) -> u32;
    let of_rings: [(&'static Metric, OfRing); 3] = [
        (&names::RING_ROWS, |r| r.rows),
        (&names::RING_ROWS_MOVING, |r| r.rows_moving),
        (&names::RING_ROWS_EXCEPTIONS, |r| r.rows_exceptions),
    ];
    for (metric, value) in of_rings {
        out.family(metric);
        for (service, ring) in rings() {
            out.count(&[&service.name, &ring.family, ring.protocol.name()], u64::from(value(ring)));
        }
    }
    out.family(&names::RING_INFO);
    for (service, RingStatus { family, protocol, fingerprint, .. }) in rings() {
        out.count(&[&service.name, family, protocol.name(), fingerprint], 1);
    }

    let backends = || services.iter().flat_map(|service| service.backends.iter().map(move |b| (&*service.name, b)));
    out.family(&names::BACKEND_INFO);
    for (service, backend) in backends() {
        let address = match (backend.port, backend.address.contains(':')) {
            (None, _) => backend.address.clone(),
            (Some(port), false) => format!("{}:{port}", backend.address),
            (Some(port), true) => format!("[{}]:{port}", backend.address),
        };
        out.count(&[service, &backend.name, &address], 1);
    }
    type OfBackend = fn(&BackendStatus) -> Option<f64>;
    let values: [(&'static Metric, OfBackend); 10] = [
        (&names::BACKEND_UP, |b| Some(f64::from(u8::from(b.health.takes_traffic())))),
        (&names::BACKEND_DRAINING, |b| Some(f64::from(u8::from(b.state == BackendState::Drain)))),
        (&names::BACKEND_WEIGHT, |b| Some(f64::from(b.weight))),
        (&names::BACKEND_SHARE, |b| Some(b.share)),
        (&names::BACKEND_PACKETS, |b| Some(b.forwarded.packets as f64)),
        (&names::BACKEND_BYTES, |b| Some(b.forwarded.bytes as f64)),
        (&names::BACKEND_REPLY_PACKETS, |b| Some(b.replies.packets as f64)),
        (&names::BACKEND_REPLY_BYTES, |b| Some(b.replies.bytes as f64)),
        (&names::BACKEND_CHECK_LATENCY, |b| b.latency_ms.map(|ms| ms / 1e3)),
        (&names::BACKEND_TRANSITIONS, |b| Some(b.transitions as f64)),
    ];
    for (metric, value) in values {
        out.family(metric);
        for (service, backend) in backends() {
            if let Some(value) = value(backend) {
                out.sample(&[service, &backend.name], value);
            }
        }
    }
    out.text
}

/// Of health checks.
fn checks(out: &mut Exporter, status: &Status) {
    let services = &status.services;
    out.family(&names::SERVICE_CHECKS);
    for service in services {
        let c = &service.checks;
        for (result, count) in [("passed", c.passed), ("failed", c.failed), ("skipped", c.skipped)] {
            out.count(&[&service.name, result], count);
        }
    }
    out.family(&names::SERVICE_CHECK_DURATION);
    for service in services {
        out.histogram(&[&service.name], &service.checks.took);
    }
    out.family(&names::SERVICE_EJECTIONS);
    for service in services {
        out.count(&[&service.name], service.checks.ejections);
    }
    out.family(&names::CHECKS_LATE).histogram(&[], &status.checks_late);
    out.family(&names::DEATHS_APPLIED).histogram(&[], &status.deaths_applied);
}

/// Of the services that track flows.
fn tracked(out: &mut Exporter, services: &[ServiceStatus]) {
    let tracking = || services.iter().filter_map(|service| Some((&*service.name, service.tracked.as_ref()?)));
    type OfFamily = fn(&TrackedFamily) -> u64;
    let families: [(&'static Metric, OfFamily); 2] =
        [(&names::SERVICE_TRACKED, |f| f.entries), (&names::SERVICE_TRACKED_QUOTA, |f| u64::from(f.quota))];
    for (metric, value) in families {
        out.family(metric);
        for (service, tracked) in tracking() {
            for (family, status) in &tracked.families {
                out.count(&[service, family], value(status));
            }
        }
    }
    type OfTracked = fn(&TrackedStatus) -> u64;
    let counters: [(&'static Metric, OfTracked); 5] = [
        (&names::SERVICE_TRACKED_LOOKUPS, |t| t.lookups),
        (&names::SERVICE_TRACKED_HITS, |t| t.hits),
        (&names::SERVICE_TRACKED_FALLBACKS, |t| t.fallbacks),
        (&names::SERVICE_TRACKED_WRITTEN, |t| t.written),
        (&names::SERVICE_TRACKED_REPLACED, |t| t.replaced),
    ];
    for (metric, value) in counters {
        out.family(metric);
        for (service, tracked) in tracking() {
            out.count(&[service], value(tracked));
        }
    }
    out.family(&names::SERVICE_TRACKED_REFUSED);
    for (service, t) in tracking() {
        for (reason, count) in
            [("quota", t.refused_quota), ("gate", t.refused_gate), ("full", t.refused_full), ("race", t.refused_race)]
        {
            out.count(&[service, reason], count);
        }
    }
    out.family(&names::SERVICE_TRACKED_EVICTED);
    for (service, tracked) in tracking() {
        out.count(&[service], tracked.evicted);
    }
    out.family(&names::SERVICE_TRACKED_YOUNGEST);
    for (service, tracked) in tracking() {
        if let Some(seconds) = tracked.youngest_evicted_seconds {
            out.count(&[service], u64::from(seconds));
        }
    }
}

/// Writes families, and samples of the family begun last.
#[derive(Default)]
struct Exporter {
    text: String,
    family: Option<&'static Metric>,
}

impl Exporter {
    fn family(&mut self, metric: &'static Metric) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {} {}", metric.name, escape(metric.help, false));
        let _ = writeln!(self.text, "# TYPE {} {}", metric.name, metric.kind.name());
        self.family = Some(metric);
        self
    }

    fn flag(&mut self, values: &[&str], value: bool) {
        self.count(values, u64::from(value));
    }

    fn count(&mut self, values: &[&str], value: u64) {
        self.put(values, &value);
    }

    fn sample(&mut self, values: &[&str], value: f64) {
        self.put(values, &value);
    }

    /// With the bucket of all, which the format wants last.
    fn histogram(&mut self, values: &[&str], histogram: &Histogram) {
        for (bound, count) in &histogram.buckets {
            self.line("_bucket", values, Some(&bound.to_string()), count);
        }
        self.line("_bucket", values, Some("+Inf"), &histogram.count);
        self.line("_sum", values, None, &histogram.sum_seconds);
        self.line("_count", values, None, &histogram.count);
    }

    fn put(&mut self, values: &[&str], value: &dyn std::fmt::Display) {
        self.line("", values, None, value);
    }

    fn line(&mut self, suffix: &str, values: &[&str], bound: Option<&str>, value: &dyn std::fmt::Display) {
        let Some(metric) = self.family else { return };
        debug_assert_eq!(values.len(), metric.labels.len(), "{}", metric.name);
        self.text.push_str(metric.name);
        self.text.push_str(suffix);
        let labels = metric.labels.iter().copied().zip(values.iter().copied()).chain(bound.map(|bound| ("le", bound)));
        let mut some = false;
        for (label, text) in labels {
            let _ = write!(self.text, "{}{label}=\"{}\"", if some { ',' } else { '{' }, escape(text, true));
            some = true;
        }
        let _ = writeln!(self.text, "{} {value}", if some { "}" } else { "" });
    }
}

/// Escapes a label value, or a help text, which may hold quotes.
fn escape(text: &str, quotes: bool) -> String {
    let mut out = text.replace('\\', r"\\").replace('\n', r"\n");
    if quotes {
        out = out.replace('"', r#"\""#);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::api::types::fixture;

    /// One sample: its labels and its value.
    type Sample = (BTreeMap<String, String>, f64);

    /// A strict reader of the text format, as strict as Prometheus and stricter about order.
    fn read(text: &str) -> BTreeMap<String, Vec<Sample>> {
        let mut families: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let (name, help) = line.strip_prefix("# HELP ").expect(line).split_once(' ').expect(line);
            assert!(!help.is_empty(), "{line}");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).expect("TYPE after HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{name} is a {kind}");
            let mut samples = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let rest = line.strip_prefix(name).unwrap_or_else(|| panic!("{line:?} is not in family {name}"));
                let (suffix, rest) = rest.split_at(rest.find(['{', ' ']).unwrap());
                assert!(suffix.is_empty() || kind == "histogram", "{line:?} is not in family {name}");
                let (mut labels, value) = labels(rest);
                if kind == "histogram" {
                    labels.insert("of".to_owned(), suffix.to_owned());
                }
                samples.push((labels, value.parse().unwrap_or_else(|_| panic!("{line:?} has no number"))));
            }
            let distinct: BTreeSet<_> = samples.iter().map(|(labels, _)| labels.clone()).collect();
            assert_eq!(distinct.len(), samples.len(), "{name} has the same labels twice");
            assert!(families.insert(name.to_owned(), samples).is_none(), "family {name} is there twice");
        }
        families
    }

    /// Splits `{a="b",…} 1` or ` 1`.
    fn labels(text: &str) -> (BTreeMap<String, String>, &str) {
        let Some(mut rest) = text.strip_prefix('{') else {
            return (BTreeMap::new(), text.strip_prefix(' ').unwrap());
        };
        let mut labels = BTreeMap::new();
        loop {
            let (name, after) = rest.split_once("=\"").unwrap();
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().expect("label without an end") {
                    (_, '\\') => value.push(match characters.next().unwrap().1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("\\{c} is no escape"),
                    }),
                    (i, '"') => break i,
                    (_, c) => value.push(c),
                }
            };
            labels.insert(name.to_owned(), value);
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => return (labels, rest.strip_prefix("} ").unwrap()),
            }
        }
    }

    fn value(families: &BTreeMap<String, Vec<Sample>>, name: &str, wanted: &[(&str, &str)]) -> Option<f64> {
        let matches = |labels: &BTreeMap<String, String>| {
            wanted.iter().all(|(label, value)| labels.get(*label).is_some_and(|found| found == value))
        };
        let found: Vec<f64> =
            families[name].iter().filter(|(labels, _)| matches(labels)).map(|(_, value)| *value).collect();
        assert!(found.len() <= 1, "{name} {wanted:?} is ambiguous");
        found.first().copied()
    }

    #[test]
    fn every_metric_of_the_table_is_exported_once_and_nothing_else() {
        let families = read(&render(&fixture::status()));
        let exported: BTreeSet<&str> = families.keys().map(String::as_str).collect();
        assert_eq!(exported, names::ALL.iter().map(|metric| metric.name).collect());
        for metric in names::ALL {
            let samples = &families[metric.name];
            assert!(!samples.is_empty(), "the fixture shows no {}", metric.name);
            for (labels, _) in samples {
                let own = |label: &&String| !["of", "le"].contains(&label.as_str());
                let labels: Vec<&String> = match metric.kind {
                    names::Kind::Histogram => labels.keys().filter(own).collect(),
                    _ => labels.keys().collect(),
                };
                assert!(labels.iter().all(|label| metric.labels.contains(&label.as_str())), "{}", metric.name);
                assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
            }
        }
    }

    #[test]
    fn values_are_those_of_the_status_in_base_units() {
        let families = read(&render(&fixture::status()));
        type Labels = &'static [(&'static str, &'static str)];
        let table: [(&str, Labels, Option<f64>); 37] = [
            ("sluice_build_info", &[("version", "0.1.0")], Some(1.0)),
            ("sluice_config_last_reload_success", &[], Some(0.0)),
            ("sluice_interface_xdp_mode", &[("interface", "eth0"), ("mode", "native")], Some(1.0)),
            ("sluice_interface_xdp_mode", &[("interface", "eth1"), ("mode", "native")], Some(0.0)),
            ("sluice_interface_xdp_mode", &[("interface", "eth1"), ("mode", "generic")], Some(1.0)),
            ("sluice_service_up", &[("service", "web")], Some(1.0)),
            ("sluice_service_up", &[("service", "dns")], Some(0.0)),
            ("sluice_service_ready", &[("service", "web")], Some(1.0)),
            ("sluice_service_fallback", &[("service", "web")], Some(0.0)),
            ("sluice_service_panic", &[("service", "dns")], Some(0.0)),
            ("sluice_service_kept_backends", &[("service", "web")], Some(0.0)),
            ("sluice_hook_events_total", &[("hook", "/usr/local/bin/withdraw-vip"), ("result", "lost")], Some(1.0)),
            ("sluice_service_drops_total", &[("service", "web"), ("reason", "no_neighbour")], Some(12.0)),
            ("sluice_service_drops_total", &[("service", "web"), ("reason", "internal")], Some(0.0)),
            ("sluice_ring_rows", &[("service", "web"), ("family", "ipv6")], Some(16384.0)),
            ("sluice_backend_up", &[("service", "web"), ("backend", "10.0.0.11")], Some(1.0)),
            ("sluice_backend_up", &[("service", "web"), ("backend", "10.0.0.12")], Some(0.0)),
            ("sluice_backend_draining", &[("service", "web"), ("backend", "canary")], Some(1.0)),
            ("sluice_backend_share_ratio", &[("service", "web"), ("backend", "10.0.0.11")], Some(0.9091)),
            ("sluice_backend_check_latency_seconds", &[("service", "web"), ("backend", "10.0.0.11")], Some(0.00125)),
            ("sluice_backend_check_latency_seconds", &[("service", "web"), ("backend", "10.0.0.12")], None),
            ("sluice_backend_info", &[("backend", "six")], Some(1.0)),
            ("sluice_backend_transitions_total", &[("service", "web"), ("backend", "10.0.0.12")], Some(3.0)),
            ("sluice_service_ejections_total", &[("service", "web")], Some(2.0)),
            ("sluice_health_checks_total", &[("service", "web"), ("result", "failed")], Some(40.0)),
            ("sluice_health_check_duration_seconds", &[("service", "web"), ("le", "0.001")], Some(120.0)),
            ("sluice_health_check_duration_seconds", &[("service", "web"), ("le", "1")], Some(990.0)),
            ("sluice_health_check_duration_seconds", &[("service", "web"), ("le", "+Inf")], Some(1000.0)),
            ("sluice_health_check_duration_seconds", &[("service", "web"), ("of", "_count")], Some(1000.0)),
            ("sluice_health_check_duration_seconds", &[("service", "web"), ("of", "_sum")], Some(9.75)),
            ("sluice_health_apply_seconds", &[("of", "_count")], Some(2.0)),
            ("sluice_health_scheduler_lag_seconds", &[("le", "0.005")], Some(1995.0)),
            ("sluice_service_tracked_flows", &[("service", "web"), ("family", "ipv6")], Some(815.0)),
            ("sluice_service_tracked_flows", &[("service", "dns"), ("family", "ipv4")], None),
            ("sluice_service_tracked_flows_refused_total", &[("service", "web"), ("reason", "gate")], Some(2.0)),
            ("sluice_service_tracked_flows_evicted_total", &[("service", "web")], Some(5.0)),
            ("sluice_service_tracked_youngest_evicted_age_seconds", &[("service", "web")], Some(140.0)),
        ];
        for (name, labels, wanted) in table {
            assert_eq!(value(&families, name, labels), wanted, "{name} {labels:?}");
        }
        let addresses: Vec<&str> =
            families["sluice_backend_info"].iter().map(|(labels, _)| labels["address"].as_str()).collect();
        assert!(addresses.contains(&"[2001:db8:1::11]:8080"), "{addresses:?}");
    }

    #[test]
    fn names_may_hold_whatever_they_like() {
        let mut status = fixture::status();
        let name = "quote\" back\\slash\nnew line, comma={} ünïcode";
        status.services[0].name = name.to_owned();
        let families = read(&render(&status));
        assert_eq!(value(&families, "sluice_service_up", &[("service", name)]), Some(1.0));
    }
}
