//! The text of `/metrics`: Prometheus' format 0.0.4 or OpenMetrics 1.0.

use super::{
    connections,
    labels::{Labels, Protocol},
    own::{Kind, Registry, Shown},
    requests::{self, BOUNDS, Counts, Family, Series},
    series::{self, Cells},
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Write,
    iter,
    sync::Arc,
};

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

/// Bytes of a piece of the text; that which brings it there goes beyond by the lines of one series.
const PIECE: usize = 64 * 1024;

/// The text in pieces, each made when it is asked for: of 10,000 series it is hundreds of megabytes, and nobody holds all of it.
pub(super) fn pieces(
    requests: &Family,
    connections: &connections::Family,
    own: &Registry,
    format: Format,
) -> impl Iterator<Item = String> + Send + use<> {
    let own = own.shown().into_iter().map(move |metric| of_own(&metric, format));
    let (all, connected) = (All::of(requests), All::of(connections));
    // The overflow holds what is of any protocol.
    let grpc = |series: &&Arc<Series>| {
        series.labels.summary.protocol == Protocol::Grpc || series.messages() != Default::default()
    };
    let messages = All { series: all.series.iter().filter(grpc).cloned().collect(), ..all.clone() };
    let histograms = {
        let all = all.clone();
        HISTOGRAMS.into_iter().flat_map(move |about| histogram(&all, about))
    };
    let counted = counter(all, REQUESTS, format);
    let messages = MESSAGES.into_iter().flat_map(move |about| counter(messages.clone(), about, format));
    let connected = OF_CONNECTIONS.into_iter().flat_map(move |about| counter(connected.clone(), about, format));
    let end = (format == Format::OpenMetrics).then(|| "# EOF\n".to_owned());
    let mut texts = own.chain(counted).chain(histograms).chain(messages).chain(connected).chain(end);
    iter::from_fn(move || {
        let mut piece = texts.next()?;
        while piece.len() < PIECE {
            let Some(text) = texts.next() else { break };
            piece.push_str(&text);
        }
        Some(piece)
    })
}

/// What several metrics tell of.
struct All<C: Cells> {
    series: Arc<[Arc<series::Series<C>>]>,
    /// What those that are gone add to those that are there.
    forgotten: Arc<series::Forgotten<C>>,
}

impl<C: Cells> All<C> {
    fn of(family: &series::Family<C>) -> Self {
        let (series, forgotten) = family.told();
        Self { series: series.into(), forgotten }
    }
}

impl<C: Cells> Clone for All<C> {
    fn clone(&self) -> Self {
        Self { series: Arc::clone(&self.series), forgotten: Arc::clone(&self.forgotten) }
    }
}

/// A metric of Skein's own.
fn of_own(metric: &Shown, format: Format) -> String {
    let kind = match metric.kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
    };
    let mut text = head(format.family(metric.name), metric.help, kind);
    for (suffix, labels, value) in &metric.lines {
        text.push_str(metric.name);
        text.push_str(suffix);
        let mut separator = '{';
        for (name, value) in labels {
            label(&mut text, &mut separator, name, value);
        }
        line(&mut text, separator, value);
    }
    text
}

/// A counter of series: its name, its help, and what it shows.
type Count<C> = (&'static str, &'static str, fn(&series::Series<C>) -> u64);

const REQUESTS: Count<requests::Cells> =
    ("istio_requests_total", "Requests handled", |series| series.durations().count());

/// gRPC messages, of the series that are of gRPC.
const MESSAGES: [Count<requests::Cells>; 2] = [
    ("istio_request_messages_total", "gRPC messages sent by clients", |series| series.messages().0),
    ("istio_response_messages_total", "gRPC messages sent by servers", |series| series.messages().1),
];

/// One counter.
fn counter<C: Cells>(all: All<C>, (name, help, of): Count<C>, format: Format) -> impl Iterator<Item = String> + Send {
    let add = |all: &mut u64, more: &u64| *all = all.wrapping_add(*more);
    let lines = gathered(all, name, of, add).map(move |(labels, value)| {
        let mut text = format!("{name}{labels}");
        line(&mut text, if labels.is_empty() { '{' } else { ',' }, value);
        text
    });
    iter::once(head(format.family(name), help, "counter")).chain(lines)
}

/// A histogram: its name, its help, its counts, and whether their sum is of thousandths.
type Histogram = (&'static str, &'static str, fn(&Series) -> Counts, bool);

const HISTOGRAMS: [Histogram; 3] = [
    (
        "istio_request_duration_milliseconds",
        "Time from a request's head to the end of its response",
        |series| series.durations(),
        true,
    ),
    ("istio_request_bytes", "Bytes of requests' bodies", |series| series.received(), false),
    ("istio_response_bytes", "Bytes of responses' bodies", |series| series.sent(), false),
];

/// One histogram.
fn histogram(
    all: &All<requests::Cells>,
    (name, help, of, thousandths): Histogram,
) -> impl Iterator<Item = String> + Send + use<> {
    let lines = gathered(all.clone(), name, of, Counts::add).map(move |(labels, counts)| {
        let (mut text, mut below) = (String::new(), 0);
        let separator = if labels.is_empty() { '{' } else { ',' };
        for (bucket, count) in counts.buckets.iter().enumerate() {
            below += count;
            let _ = write!(text, "{name}_bucket{labels}");
            let mut separator = separator;
            match BOUNDS.get(bucket) {
                Some(bound) => label(&mut text, &mut separator, "le", &bound.to_string()),
                None => label(&mut text, &mut separator, "le", "+Inf"),
            }
            line(&mut text, separator, below);
        }
        let _ = write!(text, "{name}_sum{labels}");
        if thousandths {
            line(&mut text, separator, format_args!("{}.{:03}", counts.sum / 1000, counts.sum % 1000));
        } else {
            line(&mut text, separator, counts.sum);
        }
        let _ = write!(text, "{name}_count{labels}");
        line(&mut text, separator, below);
        text
    });
    iter::once(head(name, help, "histogram")).chain(lines)
}

/// What series say of a metric, by its labels as text. Series whose labels are the same, because policy takes some away, are one: then
/// the labels of all of them are held while the metric is told.
fn gathered<C: Cells, T: Send + 'static>(
    All { series, forgotten }: All<C>,
    metric: &'static str,
    of: fn(&series::Series<C>) -> T,
    add: fn(&mut T, &T),
) -> Box<dyn Iterator<Item = (String, T)> + Send> {
    let merged = !forgotten.is_empty() || series.iter().any(|series| series.labels.shape.is_some());
    if !merged {
        return Box::new((0..series.len()).filter_map(move |place| {
            let series = &series[place];
            series.labels.keeps(metric).then(|| (labels(&series.labels, metric), of(series)))
        }));
    }
    let mut sums: BTreeMap<String, T> = BTreeMap::new();
    for series in series.iter().filter(|series| series.labels.keeps(metric)) {
        let mut value = of(series);
        match sums.entry(labels(&series.labels, metric)) {
            Entry::Occupied(mut sum) => add(sum.get_mut(), &value),
            Entry::Vacant(free) => {
                if let Some(gone) = forgotten.of(&series.labels, metric) {
                    add(&mut value, &of(gone));
                }
                free.insert(value);
            }
        }
    }
    Box::new(sums.into_iter())
}

const OF_CONNECTIONS: [Count<connections::Cells>; 4] = [
    ("istio_tcp_connections_opened_total", "TCP connections opened", |series| series.sum().opened),
    ("istio_tcp_connections_closed_total", "TCP connections closed", |series| series.sum().closed),
    ("istio_tcp_sent_bytes_total", "Bytes sent to callers over TCP connections", |series| series.sum().sent),
    ("istio_tcp_received_bytes_total", "Bytes received from callers over TCP connections", |series| {
        series.sum().received
    }),
];

fn head(name: &str, help: &str, kind: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
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

    fn text(telemetry: &Telemetry, format: Format) -> String {
        telemetry.render(format).collect()
    }

    #[test]
    fn what_is_held_at_a_time_does_not_grow_with_the_series() {
        let telemetry = recorded();
        let seen = |telemetry: &Telemetry| {
            let sizes: Vec<usize> = telemetry.render(Format::OpenMetrics).map(|piece| piece.len()).collect();
            (sizes.iter().sum::<usize>(), sizes.into_iter().max().unwrap())
        };
        let summary = Summary { protocol: Protocol::Http, code: 200, grpc_status: None, flags: Flags::NONE };
        for number in 0..200 {
            let pair = Pair {
                reporter: Reporter::Destination,
                source: Arc::new(Workload::unknown()),
                destination: Arc::new(reviews()),
                service: format!("s{number}.default.svc.cluster.local").into(),
                service_name: format!("s{number}").into(),
                service_namespace: "default".into(),
                security: Security::MutualTls,
            };
            telemetry.recorder(0, Arc::new(pair)).record(summary, &Measures::default(), None);
        }
        let (all, largest) = seen(&telemetry);
        assert!(all > 100 * PIECE / 2 && largest < 2 * PIECE, "{all} bytes, {largest} at a time");
        assert_eq!(text(&telemetry, Format::OpenMetrics).len(), all);
    }

    #[test]
    fn every_label_of_istio_is_there() {
        let text = text(&recorded(), Format::Prometheus);
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
        let text = text(&recorded(), Format::Prometheus);
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
    fn what_is_told_is_what_is_remembered_of_forgotten_series() {
        let of_requests =
            [REQUESTS.0].into_iter().chain(HISTOGRAMS.map(|about| about.0)).chain(MESSAGES.map(|of| of.0));
        assert!(of_requests.eq(requests::Cells::METRICS.iter().copied()));
        assert!(OF_CONNECTIONS.iter().map(|about| about.0).eq(connections::Cells::METRICS.iter().copied()));
    }

    #[test]
    fn messages_are_of_grpc_only() {
        let text = text(&recorded(), Format::Prometheus);
        assert_eq!(value(&text, "istio_request_messages_total{", &["\"grpc\""]), Some("1".into()));
        assert_eq!(value(&text, "istio_response_messages_total{", &["\"grpc\""]), Some("5".into()));
        assert_eq!(value(&text, "istio_request_messages_total{", &["\"http\""]), None);
    }

    #[test]
    fn durations_of_our_own_are_a_histogram_in_seconds() {
        let (telemetry, took) = (recorded(), crate::telemetry::Histogram::default());
        telemetry.histogram("skein_policy_apply_seconds", "Time", took.clone());
        took.observe(Duration::from_millis(30));
        took.observe(Duration::from_secs(60));
        let text = text(&telemetry, Format::Prometheus);
        assert!(text.contains("# TYPE skein_policy_apply_seconds histogram\n"));
        let of = |suffix: &str, le: &str| value(&text, &format!("skein_policy_apply_seconds{suffix}"), &[le]);
        let buckets = ["\"0.025\"", "\"0.05\"", "\"10\"", "\"+Inf\""].map(|le| of("_bucket", le).unwrap());
        assert_eq!(buckets, ["0", "1", "1", "2"]);
        assert_eq!((of("_sum", ""), of("_count", "")), (Some("60.03".into()), Some("2".into())));
    }

    #[test]
    fn open_metrics_has_its_own_names_and_end() {
        let telemetry = recorded();
        telemetry.counter("skein_pushes_total", "Pushes", &[]).add(3);
        telemetry.collect("skein_members", "Members", Kind::Gauge, || {
            vec![Sample { labels: vec![("state", "a\"b".to_owned())], value: 2.0 }]
        });
        let text = text(&telemetry, Format::OpenMetrics);
        assert!(text.contains("# TYPE istio_requests counter\n"));
        assert!(text.contains("# TYPE skein_pushes counter\nskein_pushes_total 3\n"));
        assert!(text.contains("skein_members{state=\"a\\\"b\"} 2\n"));
        assert!(text.contains("istio_build{component=\"proxy\",tag=\""));
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(Format::accepted(Some("application/openmetrics-text;version=1.0.0")), Format::OpenMetrics);
        assert_eq!(Format::accepted(None), Format::Prometheus);
    }
}
