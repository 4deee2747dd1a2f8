//! `docs/metrics.md`, made from the tables the exporter uses.

use lb_common::counters::DropReason;

use crate::metrics::names;

/// The whole page.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         <!-- Made from lb-userspace/src/metrics/names.rs; a test compares. To rewrite this page after a change:\n     \
         SLUICE_BLESS=1 cargo test -p lb-userspace metrics -->\n\n\
         `GET /metrics` on `admin.http` (default `127.0.0.1:9480`) answers in Prometheus' text format 0.0.4. Units are \
         base units: seconds, bytes, ratios from 0 to 1. Packet and byte counters are the kernel's own, summed over its \
         CPUs; `rate()` copes with those that begin again.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in names::ALL {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            metric.name,
            metric.kind.name(),
            labels.join(", "),
            metric.help.replace('|', r"\|")
        ));
    }
    page.push_str(
        "\n## Drop reasons\n\nThe values of `reason`, and what to look at.\n\n| reason | meaning |\n|---|---|\n",
    );
    for reason in DropReason::ALL {
        page.push_str(&format!("| `{}` | {} |\n", reason.name(), reason.help().replace('|', r"\|")));
    }
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_up_to_date() {
        crate::snapshot::check(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md"), &super::markdown());
    }
}
