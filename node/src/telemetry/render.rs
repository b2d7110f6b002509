//! The text of `/metrics`: Prometheus' format 0.0.4 or OpenMetrics 1.0.

use super::{
    Families,
    connections::Totals,
    own::{Kind, Registry},
    requests::{BOUNDS_MS, Cells},
    series::{Family, Series},
};
use std::fmt::Write;

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format.
    Prometheus,
    /// OpenMetrics' text format.
    OpenMetrics,
}

impl Format {
    /// What a scraper with this `Accept` header wants.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            Some(_) | None => Self::Prometheus,
        }
    }

    /// The `Content-Type` of the text.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// OpenMetrics names a counter's family without `_total`.
    fn family(self, name: &str) -> &str {
        match self {
            Self::Prometheus => name,
            Self::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
        }
    }
}

pub(super) fn render(families: &Families, own: &Registry, format: Format) -> String {
    let mut text = String::new();
    for metric in own.shown() {
        let kind = match metric.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        head(&mut text, format.family(metric.name), metric.help, kind);
        for (labels, value) in metric.values {
            text.push_str(metric.name);
            let mut separator = '{';
            for (name, value) in &labels {
                label(&mut text, &mut separator, name, value);
            }
            line(&mut text, separator, value);
        }
    }
    counts(&mut text, &families.requests, format);
    durations(&mut text, &families.requests);
    connections(&mut text, families, format);
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn counts(text: &mut String, requests: &Family<Cells>, format: Format) {
    const NAME: &str = "istio_requests_total";
    head(text, format.family(NAME), "Requests handled", "counter");
    for series in requests.series() {
        text.push_str(NAME);
        let separator = labels(text, series);
        line(text, separator, series.totals().0.iter().sum::<u64>());
    }
}

fn durations(text: &mut String, requests: &Family<Cells>) {
    const NAME: &str = "istio_request_duration_milliseconds";
    head(text, NAME, "Time from a request's head to the end of its response", "histogram");
    for series in requests.series() {
        let (buckets, sum_micros) = series.totals();
        let mut below = 0;
        for (bucket, count) in buckets.iter().enumerate() {
            below += count;
            let _ = write!(text, "{NAME}_bucket");
            let mut separator = labels(text, series);
            match BOUNDS_MS.get(bucket) {
                Some(bound) => label(text, &mut separator, "le", &bound.to_string()),
                None => label(text, &mut separator, "le", "+Inf"),
            }
            line(text, separator, below);
        }
        let _ = write!(text, "{NAME}_sum");
        let separator = labels(text, series);
        line(text, separator, format_args!("{}.{:03}", sum_micros / 1000, sum_micros % 1000));
        let _ = write!(text, "{NAME}_count");
        let separator = labels(text, series);
        line(text, separator, below);
    }
}

/// A metric of connections: its name, its help, and what it shows.
type OfConnections = (&'static str, &'static str, fn(&Totals) -> u64);

const OF_CONNECTIONS: [OfConnections; 4] = [
    ("istio_tcp_connections_opened_total", "TCP connections opened", |totals| totals.opened),
    ("istio_tcp_connections_closed_total", "TCP connections closed", |totals| totals.closed),
    ("istio_tcp_sent_bytes_total", "Bytes sent to callers over TCP connections", |totals| totals.sent),
    ("istio_tcp_received_bytes_total", "Bytes received from callers over TCP connections", |totals| totals.received),
];

fn connections(text: &mut String, families: &Families, format: Format) {
    for (name, help, of) in OF_CONNECTIONS {
        head(text, format.family(name), help, "counter");
        for series in families.connections.series() {
            text.push_str(name);
            let separator = labels(text, series);
            line(text, separator, of(&series.totals()));
        }
    }
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn labels<C>(text: &mut String, series: &Series<C>) -> char {
    let mut separator = '{';
    series.labels.each(|name, value| label(text, &mut separator, name, value));
    separator
}

fn label(text: &mut String, separator: &mut char, name: &str, value: &str) {
    text.push(*separator);
    *separator = ',';
    text.push_str(name);
    text.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text.push('"');
}

/// Closes the labels, if there were any, and writes the value.
fn line(text: &mut String, separator: char, value: impl std::fmt::Display) {
    if separator == ',' {
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Flags, Pair, Protocol, Reporter, Sample, Security, Summary, Telemetry, Workload};
    use certs::id::{ServiceAccount, ServiceName, TrustDomain};
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    fn reviews() -> Workload {
        let labels =
            BTreeMap::from([("app".to_owned(), "reviews".to_owned()), ("version".to_owned(), "v1".to_owned())]);
        Workload::of_service(
            &TrustDomain::new("prod.example").unwrap(),
            &ServiceName::new("default", "reviews").unwrap(),
            &ServiceAccount::new("default", "bookinfo-reviews").unwrap(),
            &labels,
        )
    }

    fn recorded() -> Telemetry {
        let telemetry = Telemetry::new(1);
        let pair = Pair {
            reporter: Reporter::Source,
            source: Arc::new(Workload::unknown()),
            destination: Arc::new(reviews()),
            service: "reviews.default.svc.cluster.local".into(),
            service_name: "reviews".into(),
            service_namespace: "default".into(),
            security: Security::Unknown,
        };
        let summary = Summary { protocol: Protocol::Http, code: 503, grpc_status: None, flags: Flags::UF };
        telemetry.recorder(0, Arc::new(pair)).record(summary, Duration::from_micros(1234));
        telemetry
    }

    #[test]
    fn every_label_of_istio_is_there() {
        let text = recorded().render(Format::Prometheus);
        let line = text.lines().find(|line| line.starts_with("istio_requests_total{")).unwrap();
        assert_eq!(
            line,
            "istio_requests_total{reporter=\"source\",source_workload=\"unknown\",source_workload_namespace=\"unknown\",\
             source_principal=\"unknown\",source_app=\"unknown\",source_version=\"unknown\",source_cluster=\"unknown\",\
             source_canonical_service=\"unknown\",source_canonical_revision=\"unknown\",\
             destination_workload=\"reviews-v1\",destination_workload_namespace=\"default\",\
             destination_principal=\"spiffe://prod.example/ns/default/sa/bookinfo-reviews\",destination_app=\"reviews\",\
             destination_version=\"v1\",destination_cluster=\"prod.example\",\
             destination_service=\"reviews.default.svc.cluster.local\",destination_service_name=\"reviews\",\
             destination_service_namespace=\"default\",destination_canonical_service=\"reviews\",\
             destination_canonical_revision=\"v1\",request_protocol=\"http\",response_code=\"503\",\
             grpc_response_status=\"\",response_flags=\"UF\",connection_security_policy=\"unknown\"} 1"
        );
    }

    #[test]
    fn histograms_sum_up() {
        let text = recorded().render(Format::Prometheus);
        let value = |start: &str, le: &str| {
            let line = text.lines().find(|line| line.starts_with(start) && line.contains(le));
            line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
        };
        let name = "istio_request_duration_milliseconds";
        assert_eq!(value(&format!("{name}_bucket"), "le=\"1\""), Some("0".into()));
        assert_eq!(value(&format!("{name}_bucket"), "le=\"5\""), Some("1".into()));
        assert_eq!(value(&format!("{name}_bucket"), "le=\"+Inf\""), Some("1".into()));
        assert_eq!(value(&format!("{name}_sum"), ""), Some("1.234".into()));
        assert_eq!(value(&format!("{name}_count"), ""), Some("1".into()));
    }

    #[test]
    fn open_metrics_has_its_own_names_and_end() {
        let telemetry = recorded();
        telemetry.counter("skein_pushes_total", "Pushes", &[]).add(3);
        telemetry.collect("skein_members", "Members", Kind::Gauge, || {
            vec![Sample { labels: vec![("state", "a\"b".to_owned())], value: 2.0 }]
        });
        let text = telemetry.render(Format::OpenMetrics);
        assert!(text.contains("# TYPE istio_requests counter\n"));
        assert!(text.contains("# TYPE skein_pushes counter\nskein_pushes_total 3\n"));
        assert!(text.contains("skein_members{state=\"a\\\"b\"} 2\n"));
        assert!(text.contains("istio_build{component=\"proxy\",tag=\""));
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(Format::accepted(Some("application/openmetrics-text;version=1.0.0")), Format::OpenMetrics);
        assert_eq!(Format::accepted(None), Format::Prometheus);
    }
}
