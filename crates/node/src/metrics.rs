//! What the node counts about itself, in one place.
//!
//! Names are `weir_<area>_<thing>_<unit>`, counters end in `_total`; every label comes from a set that is fixed
//! here, never from a client. Handles are plain atomics: whoever does the work bumps them, and `GET /metrics`
//! renders all of them with [`Metrics::render`] in the OpenMetrics text format.
//!
//! What belongs to one stream or one subscription is not here (it would need their names as labels): that is
//! metered into `_weir.usage`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use weir_log::Counters;

/// The content type of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How events leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "variants are label values")]
pub enum Way {
    /// Server-sent events.
    sse,
    /// STREAM frames.
    stream,
    /// One answer to one range read.
    range,
}

/// Where a delivery's turn came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "variants are label values")]
pub enum Origin {
    /// The shared tail in memory.
    tail,
    /// A turn that another delivery had read shortly before.
    shared,
    /// The log.
    log,
}

/// How a publish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "variants are label values")]
pub enum Outcome {
    /// Acknowledged.
    stored,
    /// The request was wrong or not allowed.
    refused,
    /// A limit, a full disk, an unknown outcome.
    failed,
}

/// One label: how events leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByWay {
    /// The label.
    pub way: Way,
}

/// One label: where a turn came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOrigin {
    /// The label.
    pub origin: Origin,
}

/// One label: how a publish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOutcome {
    /// The label.
    pub outcome: Outcome,
}

/// Every metric of the node.
pub struct Metrics {
    registry: Registry,
    /// Connections open now.
    pub connections_open: Gauge,
    /// Connections accepted since start.
    pub connections_accepted: Counter,
    /// Times the accept loop stood still because the bound on connections was reached.
    pub connections_full: Counter,
    /// Connections reset by the node: revoked, expired, or not read for too long.
    pub connections_reset: Counter,
    /// Publish requests by how they ended.
    pub publish_requests: Family<ByOutcome, Counter>,
    /// Events newly stored.
    pub publish_events: Counter,
    /// Bytes of request bodies published.
    pub publish_bytes: Counter,
    /// Events that were stored before.
    pub publish_duplicates: Counter,
    /// Duplicates whose content differs from what is stored.
    pub publish_conflicts: Counter,
    /// Bytes of publishes in memory now.
    pub publish_in_flight: Gauge,
    /// From the whole body received to the acknowledgement.
    pub publish_duration: Histogram,
    /// Deliveries open now.
    pub deliveries_open: Family<ByWay, Gauge>,
    /// Events written to consumers.
    pub deliver_events: Family<ByWay, Counter<u64, AtomicU64>>,
    /// Bytes written to consumers.
    pub deliver_bytes: Family<ByWay, Counter<u64, AtomicU64>>,
    /// Turns by where they came from.
    pub deliver_turns: Family<ByOrigin, Counter>,
    /// Times a consumer was so slow that what was meant for it was dropped from memory, to be read again.
    pub deliver_stalls: Counter,
    /// Bytes of shared tails and turns in memory now.
    pub deliver_shared: Gauge,
}

/// What the log counts, read when it is asked for.
#[derive(Debug)]
struct LogMetrics(Arc<Counters>);

impl Collector for LogMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for counted in self.0.all() {
            let name = counted.name.trim_end_matches("_total");
            let help = counted.help.trim_end_matches('.');
            if counted.gauge {
                let gauge = ConstGauge::new(i64::try_from(counted.value).unwrap_or(i64::MAX));
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
            } else {
                let counter = ConstCounter::new(counted.value);
                counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
            }
        }
        Ok(())
    }
}

impl Metrics {
    /// Registers every metric.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("weir"),
            connections_open: Gauge::default(),
            connections_accepted: Counter::default(),
            connections_full: Counter::default(),
            connections_reset: Counter::default(),
            publish_requests: Family::default(),
            publish_events: Counter::default(),
            publish_bytes: Counter::default(),
            publish_duplicates: Counter::default(),
            publish_conflicts: Counter::default(),
            publish_in_flight: Gauge::default(),
            publish_duration: Histogram::new([
                0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
            ]),
            deliveries_open: Family::default(),
            deliver_events: Family::default(),
            deliver_bytes: Family::default(),
            deliver_turns: Family::default(),
            deliver_stalls: Counter::default(),
            deliver_shared: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    /// Adds what the log counts, under the names that it gives.
    pub fn add_log(&mut self, counters: Arc<Counters>) {
        self.registry.register_collector(Box::new(LogMetrics(counters)));
    }

    /// All metrics as text, in the form that [`CONTENT_TYPE`] names.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(8192);
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn register(&mut self) {
        let to = &mut self.registry;
        to.register("connections_open", "Connections open now", self.connections_open.clone());
        to.register("connections_accepted", "Connections accepted", self.connections_accepted.clone());
        to.register(
            "connections_full",
            "Times the accept loop stood still at the bound",
            self.connections_full.clone(),
        );
        to.register("connections_reset", "Connections reset by the node", self.connections_reset.clone());
        to.register("publish_requests", "Publish requests by how they ended", self.publish_requests.clone());
        to.register("publish_events", "Events newly stored", self.publish_events.clone());
        to.register_with_unit(
            "publish",
            "Bodies of publish requests",
            Unit::Bytes,
            self.publish_bytes.clone(),
        );
        to.register("publish_duplicates", "Events that were stored before", self.publish_duplicates.clone());
        to.register(
            "publish_conflicts",
            "Duplicates whose content differs from what is stored",
            self.publish_conflicts.clone(),
        );
        to.register_with_unit(
            "publish_in_flight",
            "Publishes in memory now",
            Unit::Bytes,
            self.publish_in_flight.clone(),
        );
        to.register_with_unit(
            "publish_duration",
            "From the body received to the acknowledgement",
            Unit::Seconds,
            self.publish_duration.clone(),
        );
        to.register("deliveries_open", "Deliveries open now", self.deliveries_open.clone());
        to.register("deliver_events", "Events written to consumers", self.deliver_events.clone());
        to.register_with_unit("deliver", "Written to consumers", Unit::Bytes, self.deliver_bytes.clone());
        to.register(
            "deliver_turns",
            "Turns of deliveries by where they came from",
            self.deliver_turns.clone(),
        );
        to.register(
            "deliver_stalls",
            "Times a slow consumer's turn was dropped from memory, to be read again",
            self.deliver_stalls.clone(),
        );
        to.register_with_unit(
            "deliver_shared",
            "Shared tails and turns in memory now",
            Unit::Bytes,
            self.deliver_shared.clone(),
        );
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        let metrics = Metrics::new();
        metrics.publish_events.inc_by(3);
        metrics.deliver_events.get_or_create(&ByWay { way: Way::sse }).inc();
        let text = metrics.render();
        assert!(text.contains("weir_publish_events_total 3\n"), "{text}");
        assert!(text.contains("weir_deliver_events_total{way=\"sse\"} 1\n"), "{text}");
        assert!(text.contains("# UNIT weir_publish_bytes bytes\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
