//! What forgotten series counted while others go on that a metric tells with the same labels: documents take some away, or change what
//! other metrics say. Such a metric tells the sum of all, and a sum that falls is one that began anew to Prometheus, which would take all that
//! is left of it for new.

use super::{Cells, Series};
use crate::telemetry::labels::Labels;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

/// See the module. As many sums at most as the series that go on have metrics.
#[derive(Debug)]
pub(in crate::telemetry) struct Forgotten<C: Cells> {
    hasher: RandomState,
    /// By metric and labels, as [`Labels::identity`] tells them from others.
    sums: HashMap<u64, Arc<Series<C>>>,
}

impl<C: Cells> Default for Forgotten<C> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), sums: HashMap::new() }
    }
}

impl<C: Cells> Forgotten<C> {
    pub(in crate::telemetry) fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// What was counted of the metric with the labels that a series has which goes on, if anything.
    pub(in crate::telemetry) fn of(&self, labels: &Labels, metric: &str) -> Option<&Series<C>> {
        if self.is_empty() {
            return None;
        }
        self.sums.get(&self.place(labels, metric)).map(|sum| &**sum)
    }

    /// The same once these are gone, and of those that go on.
    pub(super) fn after(&self, gone: &[Arc<Series<C>>], live: &[Arc<Series<C>>]) -> Self {
        let mut all = self.sums.clone();
        for series in gone {
            // Metrics share it, and it is smaller than what workers counted in.
            let counted = Arc::new(series.with(None));
            for place in self.places(&series.labels) {
                let sum = match all.get(&place) {
                    Some(known) => Arc::new(series.with(Some(known))),
                    None => Arc::clone(&counted),
                };
                all.insert(place, sum);
            }
        }
        let places = live.iter().flat_map(|series| self.places(&series.labels));
        let sums = places.filter_map(|place| all.remove_entry(&place)).collect();
        Self { hasher: self.hasher.clone(), sums }
    }

    fn places<'l>(&'l self, labels: &'l Labels) -> impl Iterator<Item = u64> + 'l {
        C::METRICS.iter().filter(|metric| labels.keeps(metric)).map(|metric| self.place(labels, metric))
    }

    fn place(&self, labels: &Labels, metric: &str) -> u64 {
        labels.identity(metric, self.hasher.build_hasher())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{
        Flags, Format, Measures, Pair, Protocol, Recorder, Reporter, Security, Shape, Summary, Telemetry, Workload,
        series::{IDLE, testing::rule},
    };
    use certs::codec::Millis;
    use std::time::Duration;

    fn recorder(telemetry: &Telemetry) -> Recorder {
        let unknown = Arc::new(Workload::unknown());
        let pair = Pair {
            reporter: Reporter::Source,
            source: Arc::clone(&unknown),
            destination: unknown,
            service: "web".into(),
            service_name: "web".into(),
            service_namespace: "shop".into(),
            security: Security::Unknown,
        };
        telemetry.recorder(0, Arc::new(pair))
    }

    /// So many requests with these flags, of 7 bytes.
    fn count(recorder: &Recorder, flags: Flags, many: u64, shape: Option<&Shape>) {
        let summary = Summary { protocol: Protocol::Http, code: 503, grpc_status: None, flags };
        let measures = Measures { duration: Duration::from_millis(1), received: 7, ..Measures::default() };
        (0..many).for_each(|_| recorder.record(summary, &measures, shape.cloned()));
    }

    fn sweep(telemetry: &Telemetry, now: Millis) {
        telemetry.requests.sweep(now, |_, _| {});
        telemetry.connections.look(now, |_, _, _| {});
    }

    /// Every line of these metrics that has these labels, without its labels.
    fn told(telemetry: &Telemetry, name: &str, with: &str) -> Vec<u64> {
        let text: String = telemetry.render(Format::Prometheus).collect();
        let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(with));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn a_counter_does_not_fall_when_a_part_of_it_is_forgotten() {
        let (telemetry, rule) = (Telemetry::new(2), rule("{tagOverrides: {response_flags: {operation: REMOVE}}}"));
        let (recorder, shape) = (recorder(&telemetry), Shape { rule, values: Vec::new() });
        count(&recorder, Flags::UH, 5_000, Some(&shape));
        count(&recorder, Flags::URX, 100, Some(&shape));
        sweep(&telemetry, 0);
        let seen = || {
            let of = |name: &str| told(&telemetry, name, "");
            let buckets = told(&telemetry, "istio_request_duration_milliseconds_bucket", "le=\"+Inf\"");
            (of("istio_requests_total"), buckets, of("istio_request_bytes_sum"))
        };
        let all = |requests: u64| (vec![requests], vec![requests], vec![requests * 7]);
        assert_eq!(seen(), all(5_100));
        for now in [IDLE - 1, IDLE, IDLE + 1, IDLE + 2] {
            count(&recorder, Flags::URX, 1, Some(&shape));
            sweep(&telemetry, now);
        }
        assert_eq!(telemetry.requests.length(), 1, "the other is forgotten");
        assert_eq!(seen(), all(5_104));
        // Back, and gone again.
        count(&recorder, Flags::UH, 10, Some(&shape));
        for now in [2 * IDLE, 3 * IDLE, 3 * IDLE + 1] {
            count(&recorder, Flags::URX, 1, Some(&shape));
            sweep(&telemetry, now);
        }
        assert_eq!((telemetry.requests.length(), seen()), (1, all(5_117)));
        for now in [5 * IDLE, 6 * IDLE, 6 * IDLE + 1] {
            sweep(&telemetry, now);
        }
        assert!(seen().0.is_empty());
        count(&recorder, Flags::UH, 3, Some(&shape));
        assert_eq!(seen(), all(3), "nothing is kept of what is wholly gone");
    }

    #[test]
    fn metrics_that_documents_leave_alone_go_on_when_others_change() {
        let (telemetry, rule) = (
            Telemetry::new(1),
            rule("{match: {metric: REQUEST_COUNT}, tagOverrides: {response_flags: {operation: REMOVE}}}"),
        );
        let (recorder, shape) = (recorder(&telemetry), Shape { rule, values: Vec::new() });
        count(&recorder, Flags::UH, 50, None);
        sweep(&telemetry, 0);
        count(&recorder, Flags::UH, 2, Some(&shape));
        let bytes = || told(&telemetry, "istio_request_bytes_count", "response_flags=\"UH\"");
        let requests = || told(&telemetry, "istio_requests_total", "");
        assert_eq!((bytes(), requests().len()), (vec![52], 2));
        for now in [IDLE, IDLE + 1] {
            count(&recorder, Flags::UH, 1, Some(&shape));
            sweep(&telemetry, now);
        }
        assert_eq!(telemetry.requests.length(), 1);
        assert_eq!((bytes(), requests()), (vec![54], vec![4]), "the old labels of the changed one are gone with it");
        // The change is taken back.
        count(&recorder, Flags::UH, 1, None);
        for now in [2 * IDLE, 3 * IDLE, 3 * IDLE + 1] {
            count(&recorder, Flags::UH, 1, None);
            sweep(&telemetry, now);
        }
        assert_eq!((telemetry.requests.length(), bytes(), requests()), (1, vec![58], vec![4]));
    }

    #[test]
    fn a_silent_connection_whose_series_is_kept_elsewhere_is_not_counted_twice() {
        let (telemetry, rule) = (Telemetry::new(1), rule("{tagOverrides: {response_flags: {operation: REMOVE}}}"));
        let (recorder, shape) = (recorder(&telemetry), Shape { rule, values: Vec::new() });
        let silent = recorder.connection(Flags::NONE, Some(&shape));
        silent.opened();
        silent.received(7);
        sweep(&telemetry, 0);
        for now in [IDLE, IDLE + 1] {
            recorder.connection(Flags::UF, Some(&shape)).led_nowhere();
            sweep(&telemetry, now);
        }
        let of = |name: &str| told(&telemetry, name, "reporter");
        let opened = || of("istio_tcp_connections_opened_total");
        assert_eq!((telemetry.connections.length(), opened()), (1, vec![3]));
        silent.received(1);
        silent.closed();
        assert_eq!((opened(), of("istio_tcp_received_bytes_total")), (vec![3], vec![8]));
        assert_eq!(of("istio_tcp_connections_closed_total"), [3]);
    }
}
