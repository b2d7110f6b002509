//! The text of `/metrics`: Prometheus' format 0.0.4 or OpenMetrics 1.0.

use super::{
    connections::{self, Totals},
    labels::{Labels, Protocol},
    own::{Kind, Registry},
    requests::{BOUNDS, Counts, Family, Series},
    series::{self, Cells},
};
use std::{collections::HashMap, fmt::Write, sync::Arc};

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

pub(super) fn render(requests: &Family, connections: &connections::Family, own: &Registry, format: Format) -> String {
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
    let series = requests.series();
    counts(&mut text, &series, format);
    histogram(
        &mut text,
        &series,
        ("istio_request_duration_milliseconds", "Time from a request's head to the end of its response"),
        |series| (series.durations(), true),
    );
    histogram(&mut text, &series, ("istio_request_bytes", "Bytes of requests' bodies"), |series| {
        (series.received(), false)
    });
    histogram(&mut text, &series, ("istio_response_bytes", "Bytes of responses' bodies"), |series| {
        (series.sent(), false)
    });
    messages(&mut text, &series, format);
    of_connections(&mut text, &connections.series(), format);
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn counts(text: &mut String, all: &[Arc<Series>], format: Format) {
    const NAME: &str = "istio_requests_total";
    counter(text, all, (NAME, "Requests handled"), format, |series| series.durations().count());
}

/// gRPC messages, of the series that are of gRPC.
fn messages(text: &mut String, all: &[Arc<Series>], format: Format) {
    let grpc = |series: &&Arc<Series>| series.labels.summary.protocol == Protocol::Grpc;
    let all: Vec<Arc<Series>> = all.iter().filter(grpc).cloned().collect();
    let about = ("istio_request_messages_total", "gRPC messages sent by clients");
    counter(text, &all, about, format, |series| series.messages().0);
    let about = ("istio_response_messages_total", "gRPC messages sent by servers");
    counter(text, &all, about, format, |series| series.messages().1);
}

/// One counter.
fn counter<C: Cells>(
    text: &mut String,
    all: &[Arc<series::Series<C>>],
    (name, help): (&str, &str),
    format: Format,
    of: impl Fn(&series::Series<C>) -> u64,
) {
    head(text, format.family(name), help, "counter");
    for (labels, value) in gathered(all, name, of, |all, more| *all = all.wrapping_add(*more)) {
        text.push_str(name);
        text.push_str(&labels);
        line(text, if labels.is_empty() { '{' } else { ',' }, value);
    }
}

/// One histogram; `of` gives its counts, and whether their sum is of thousandths.
fn histogram(
    text: &mut String,
    all: &[Arc<Series>],
    (name, help): (&str, &str),
    of: impl Fn(&Series) -> (Counts, bool),
) {
    head(text, name, help, "histogram");
    for (labels, (counts, thousandths)) in gathered(all, name, of, |all, more| all.0.add(&more.0)) {
        let separator = if labels.is_empty() { '{' } else { ',' };
        let mut below = 0;
        for (bucket, count) in counts.buckets.iter().enumerate() {
            below += count;
            let _ = write!(text, "{name}_bucket{labels}");
            let mut separator = separator;
            match BOUNDS.get(bucket) {
                Some(bound) => label(text, &mut separator, "le", &bound.to_string()),
                None => label(text, &mut separator, "le", "+Inf"),
            }
            line(text, separator, below);
        }
        let _ = write!(text, "{name}_sum{labels}");
        if thousandths {
            line(text, separator, format_args!("{}.{:03}", counts.sum / 1000, counts.sum % 1000));
        } else {
            line(text, separator, counts.sum);
        }
        let _ = write!(text, "{name}_count{labels}");
        line(text, separator, below);
    }
}

/// What series say of a metric, by its labels as text. Series whose labels are the same, because policy takes some away, are one.
fn gathered<C: Cells, T>(
    all: &[Arc<series::Series<C>>],
    metric: &str,
    of: impl Fn(&series::Series<C>) -> T,
    add: impl Fn(&mut T, &T),
) -> Vec<(String, T)> {
    let shaped = all.iter().any(|series| series.labels.shape.is_some());
    let (mut found, mut places) = (Vec::with_capacity(all.len()), HashMap::new());
    for series in all.iter().filter(|series| series.labels.keeps(metric)) {
        let (labels, value) = (labels(&series.labels, metric), of(series));
        if shaped {
            if let Some(place) = places.get(&labels) {
                let (_, all): &mut (String, T) = &mut found[*place];
                add(all, &value);
                continue;
            }
            places.insert(labels.clone(), found.len());
        }
        found.push((labels, value));
    }
    found
}

/// A metric of connections: its name, its help, and what it shows.
type OfConnections = (&'static str, &'static str, fn(&Totals) -> u64);

const OF_CONNECTIONS: [OfConnections; 4] = [
    ("istio_tcp_connections_opened_total", "TCP connections opened", |totals| totals.opened),
    ("istio_tcp_connections_closed_total", "TCP connections closed", |totals| totals.closed),
    ("istio_tcp_sent_bytes_total", "Bytes sent to callers over TCP connections", |totals| totals.sent),
    ("istio_tcp_received_bytes_total", "Bytes received from callers over TCP connections", |totals| totals.received),
];

fn of_connections(text: &mut String, all: &[Arc<connections::Series>], format: Format) {
    for (name, help, of) in OF_CONNECTIONS {
        counter(text, all, (name, help), format, |series| of(&series.sum()));
    }
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The labels of a metric, not closed; empty if it has none.
fn labels(of: &Labels, metric: &str) -> String {
    let (mut text, mut separator) = (String::new(), '{');
    of.each(metric, |name, value| label(&mut text, &mut separator, name, value));
    text
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
    use crate::telemetry::{Flags, Measures, Pair, Reporter, Sample, Security, Summary, Telemetry, Workload};
    use certs::id::{ServiceAccount, ServiceName, TrustDomain};
    use std::{collections::BTreeMap, time::Duration};

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
        let duration = Duration::from_micros(1234);
        let recorder = telemetry.recorder(0, Arc::new(pair));
        recorder.record(summary, &Measures { duration, received: 7, sent: 300, messages: (0, 0) }, None);
        let summary = Summary { protocol: Protocol::Grpc, code: 200, grpc_status: Some(0), flags: Flags::NONE };
        recorder.record(summary, &Measures { duration, messages: (1, 5), ..Measures::default() }, None);
        telemetry
    }

    #[test]
    fn every_label_of_istio_is_there() {
        let text = recorded().render(Format::Prometheus);
        let line = text.lines().find(|line| line.starts_with("istio_requests_total{") && line.contains("503")).unwrap();
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

    /// The value of the line that begins so and holds both.
    fn value(text: &str, start: &str, holds: &[&str]) -> Option<String> {
        let line = text.lines().find(|line| line.starts_with(start) && holds.iter().all(|part| line.contains(part)));
        line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    }

    #[test]
    fn histograms_sum_up() {
        let text = recorded().render(Format::Prometheus);
        for (name, le, below, sum) in [
            ("istio_request_duration_milliseconds", ["1", "5"], "1", "1.234"),
            ("istio_request_bytes", ["5", "10"], "1", "7"),
            ("istio_response_bytes", ["250", "500"], "1", "300"),
        ] {
            let of = |suffix: &str, more: &str| value(&text, &format!("{name}{suffix}{{"), &["\"503\"", more]);
            let le = le.map(|bound| format!("le=\"{bound}\""));
            assert_eq!(
                (of("_bucket", &le[0]), of("_bucket", &le[1])),
                (Some("0".into()), Some(below.into())),
                "{name}"
            );
            assert_eq!(of("_bucket", "le=\"+Inf\""), Some("1".into()));
            assert_eq!((of("_sum", ""), of("_count", "")), (Some(sum.into()), Some("1".into())), "{name}");
        }
    }

    #[test]
    fn messages_are_of_grpc_only() {
        let text = recorded().render(Format::Prometheus);
        assert_eq!(value(&text, "istio_request_messages_total{", &["\"grpc\""]), Some("1".into()));
        assert_eq!(value(&text, "istio_response_messages_total{", &["\"grpc\""]), Some("5".into()));
        assert_eq!(value(&text, "istio_request_messages_total{", &["\"http\""]), None);
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
