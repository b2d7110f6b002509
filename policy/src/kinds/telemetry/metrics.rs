//! `Metrics`: which metrics are kept, and what labels they have.

use std::collections::BTreeMap;

use super::{Side, TagValue, decode_providers, decode_side, list};
use crate::{codes, decode::At, tree::Value};

/// `Metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Names of providers; none keeps the inherited ones.
    pub providers: Vec<String>,
    /// In order; what a later one says, counts.
    pub overrides: Vec<MetricOverride>,
}

/// `MetricsOverrides`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricOverride {
    /// Which metric.
    pub metric: Metric,
    /// In which role of the workload.
    pub side: Side,
    /// `None` keeps what is inherited.
    pub disabled: Option<bool>,
    /// By label.
    pub tags: BTreeMap<String, TagOverride>,
}

/// Which metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metric {
    /// All of Istio's.
    All,
    /// One of Istio's, by its name in Prometheus.
    Istio(&'static str),
}

/// What happens to a label.
#[derive(Debug, Clone, PartialEq)]
pub enum TagOverride {
    /// It says this.
    Upsert(TagValue),
    /// It goes.
    Remove,
}

/// Labels of one override at most.
const MAX_TAGS: usize = 32;

/// Istio's words and Prometheus' names.
const METRICS: [(&str, &str); 10] = [
    ("REQUEST_COUNT", "istio_requests_total"),
    ("REQUEST_DURATION", "istio_request_duration_milliseconds"),
    ("REQUEST_SIZE", "istio_request_bytes"),
    ("RESPONSE_SIZE", "istio_response_bytes"),
    ("TCP_OPENED_CONNECTIONS", "istio_tcp_connections_opened_total"),
    ("TCP_CLOSED_CONNECTIONS", "istio_tcp_connections_closed_total"),
    ("TCP_SENT_BYTES", "istio_tcp_sent_bytes_total"),
    ("TCP_RECEIVED_BYTES", "istio_tcp_received_bytes_total"),
    ("GRPC_REQUEST_MESSAGES", "istio_request_messages_total"),
    ("GRPC_RESPONSE_MESSAGES", "istio_response_messages_total"),
];

/// Istio's metrics, by their names in Prometheus.
pub fn metric_names() -> impl Iterator<Item = &'static str> {
    METRICS.into_iter().map(|(_, name)| name)
}

impl Metrics {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let metrics = Self {
            providers: decode_providers(&fields),
            overrides: list(&fields, "overrides", MetricOverride::decode),
        };
        // Bytes are counted as they go: what is scraped is never older than the scrape.
        if let Some(interval) = fields.get("reportingInterval") {
            let _checked = interval.duration();
            interval.warn(
                codes::IGNORED,
                "`reportingInterval` has no meaning in this mesh",
                "bytes are counted as they go",
            );
        }
        fields.finish();
        Some(metrics)
    }
}

impl MetricOverride {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let (metric, side) = match fields.get("match") {
            Some(matched) => decode_selector(&matched)?,
            None => (Metric::All, Side::default()),
        };
        let decoded = Self {
            metric,
            side,
            disabled: fields.get("disabled").and_then(|disabled| disabled.boolean()),
            tags: fields.get("tagOverrides").map(|tags| decode_tags(&tags)).unwrap_or_default(),
        };
        fields.finish();
        Some(decoded)
    }
}

fn decode_selector(at: &At<'_>) -> Option<(Metric, Side)> {
    let fields = at.fields()?;
    let (metric, custom, side) = (fields.get("metric"), fields.get("customMetric"), decode_side(&fields));
    fields.finish();
    if metric.is_some() && custom.is_some() {
        at.error(codes::EXCLUSIVE, "only one of metric and customMetric may be set");
    }
    let metric = match (custom, metric) {
        (Some(custom), _) => {
            let name = custom.text()?;
            if name.is_empty() {
                custom.error_as_istio(codes::EMPTY, "customMetric may not be empty", "");
            } else {
                custom.unbuilt(format!("the metric `{name}` (there are Istio's alone)"));
            }
            return None;
        }
        (None, Some(metric)) => {
            let words: Vec<(&'static str, &'static str)> = [("ALL_METRICS", "")].into_iter().chain(METRICS).collect();
            match metric.word(&words)? {
                "" => Metric::All,
                name => Metric::Istio(name),
            }
        }
        (None, None) => Metric::All,
    };
    Some((metric, side))
}

fn decode_tags(at: &At<'_>) -> BTreeMap<String, TagOverride> {
    let mut tags = BTreeMap::new();
    at.limit(MAX_TAGS);
    for (name, tag) in at.entries() {
        if name.is_empty() {
            tag.warn(codes::WITHOUT_EFFECT, "tagOverrides.name may not be empty", "");
            continue;
        }
        let label = label(name);
        if label == "le" || label.starts_with("__") {
            tag.anything();
            tag.unbuilt(format!("the label `{label}`, which is Prometheus' own,"));
            continue;
        }
        if tag.node.value == Value::Null {
            tag.error_as_istio(codes::WRONG_TYPE, "tagOverrides may not be null", "");
            continue;
        }
        if let Some(tag) = decode_tag(&tag) {
            tags.insert(label, tag);
        }
    }
    tags
}

fn decode_tag(at: &At<'_>) -> Option<TagOverride> {
    let fields = at.fields()?;
    let operation = fields.get("operation");
    let value = fields.given("value");
    fields.finish();
    let removes = operation.map_or(Some(false), |word| word.word(&[("UPSERT", false), ("REMOVE", true)]))?;
    match (removes, value?) {
        (true, None) => Some(TagOverride::Remove),
        (true, Some(_)) => {
            let message = "tagOverrides.value may only be set when operation is UPSERT";
            at.error_as_istio(codes::EXCLUSIVE, message, "");
            None
        }
        (false, None) => {
            at.error_as_istio(codes::MISSING, "tagOverrides.value must be set when operation is UPSERT", "");
            None
        }
        (false, Some((_, value))) => TagValue::decode(&value).map(TagOverride::Upsert),
    }
}

/// The label as Prometheus has it: of letters, digits and `_`, and no digit first.
fn label(name: &str) -> String {
    let fits = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    let label: String = name.chars().map(fits).collect();
    if label.starts_with(|first: char| first.is_ascii_digit()) { format!("_{label}") } else { label }
}
