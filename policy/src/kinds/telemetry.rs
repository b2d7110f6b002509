//! `Telemetry`: metrics, logs and traces.

mod expression;
mod filter;
mod metrics;
mod tracing;

pub use filter::{Facts, Filter, Message, NumberFact, TagValue, TextFact};
pub use metrics::{Metric, MetricOverride, Metrics, TagOverride, metric_names};
pub use tracing::{CustomTag, Tracing};

use super::target::{Target, refuse_dry_run};
use crate::{
    codes,
    decode::{At, Fields},
    document::ROOT_NAMESPACE,
    parse::Metadata,
};

/// `Telemetry`. The root namespace's, the namespace's and the workload's are laid over one another: what a lower one sets, counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// Which workloads.
    pub target: Target,
    /// In order; what a later one says, counts.
    pub tracing: Vec<Tracing>,
    /// In order; what a later one says, counts.
    pub metrics: Vec<Metrics>,
    /// In order; what a later one says, counts.
    pub access_logging: Vec<AccessLogging>,
}

/// `AccessLogging`.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogging {
    /// Whose requests.
    pub side: Side,
    /// Names of providers; none keeps the inherited ones. `envoy` is standard output.
    pub providers: Vec<String>,
    /// `None` keeps what is inherited.
    pub disabled: Option<bool>,
    /// Only what it is true for is logged.
    pub filter: Option<Filter>,
}

/// `WorkloadMode`: in which role of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// Both.
    #[default]
    ClientAndServer,
    /// As the caller.
    Client,
    /// As the called.
    Server,
}

impl Telemetry {
    pub(crate) fn decode(spec: &At<'_>, metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        let target = Target::decode(&fields);
        let tracing = list(&fields, "tracing", Tracing::decode);
        let metrics = list(&fields, "metrics", Metrics::decode);
        let access_logging = list(&fields, "accessLogging", AccessLogging::decode);
        fields.finish();
        refuse_dry_run(spec, metadata);
        if metadata.id.namespace == ROOT_NAMESPACE && !target.labels.is_empty() {
            let message = format!("a Telemetry in {ROOT_NAMESPACE} with a selector has no effect");
            spec.warn(codes::WITHOUT_EFFECT, message, "put it into the namespace of the workload");
        }
        Some(Self { target, tracing, metrics, access_logging })
    }
}

impl AccessLogging {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let logging = Self {
            side: fields.get("match").map(|matched| decode_match(&matched)).unwrap_or_default(),
            providers: decode_providers(&fields),
            disabled: fields.get("disabled").and_then(|disabled| disabled.boolean()),
            filter: fields.get("filter").and_then(|filter| decode_filter(&filter)),
        };
        fields.finish();
        Some(logging)
    }
}

fn list<T>(fields: &Fields<'_>, name: &'static str, decode: impl Fn(&At<'_>) -> Option<T>) -> Vec<T> {
    let list = fields.get(name);
    list.as_ref().map(At::items).unwrap_or_default().iter().filter_map(decode).collect()
}

fn decode_filter(at: &At<'_>) -> Option<Filter> {
    let fields = at.fields()?;
    let expression = fields.get("expression");
    fields.finish();
    match expression {
        Some(expression) => Filter::decode(&expression),
        None => {
            at.error(codes::MISSING, "`expression` is required");
            None
        }
    }
}

/// `match` with `mode` alone.
fn decode_match(at: &At<'_>) -> Side {
    let Some(fields) = at.fields() else { return Side::default() };
    let side = decode_side(&fields);
    fields.finish();
    side
}

fn decode_side(fields: &Fields<'_>) -> Side {
    let words = [("CLIENT_AND_SERVER", Side::ClientAndServer), ("CLIENT", Side::Client), ("SERVER", Side::Server)];
    fields.get("mode").and_then(|mode| mode.word(&words)).unwrap_or_default()
}

fn decode_providers(fields: &Fields<'_>) -> Vec<String> {
    list(fields, "providers", |item| {
        let inner = item.fields()?;
        let name = inner.get("name").and_then(|name| name.text().map(str::to_owned)).unwrap_or_default();
        inner.finish();
        if name.is_empty() {
            item.error_as_istio(codes::EMPTY, "providers.name may not be empty", "");
        }
        Some(name)
    })
}

/// Complains of a variable that is a setting of the node: what those hold is for nobody to read elsewhere.
pub(super) fn check_variable(at: &At<'_>, name: &str) {
    if name.starts_with("OTEL_") || name.starts_with("SKEIN_") {
        let message = format!("`{name}` is a setting of the node");
        at.error_hint(codes::NAME, message, "name a variable that neither OpenTelemetry nor the node itself reads");
    }
}

#[cfg(test)]
mod tests;
