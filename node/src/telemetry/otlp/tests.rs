//! Tests of the exporter's bounds.

use super::{
    testing::{request, sinks},
    *,
};
use certs::id::ServiceName;
use policy::{
    compile::{LogOutput, LogRule},
    kinds::{Collector, CollectorPlace, ExportProtocol, LineFormat, LogCollector, TelemetryKind, TelemetryProvider},
};

fn environment(port: u16) -> Environment {
    Environment::read(|name| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(format!("http://127.0.0.1:{port}")),
        "OTEL_SERVICE_NAME" => Some("mine".to_owned()),
        _ => None,
    })
    .unwrap()
}

#[tokio::test]
async fn a_collector_that_is_gone_costs_spans_and_nothing_else() {
    // Nobody listens there.
    let (sinks, _telemetry, tasks) = sinks(environment(1));
    for _ in 0..3 {
        sinks.exporter.take(request(&sinks));
    }
    tasks.stop();
    sinks.exporter.sent(Duration::from_secs(60)).await;
    let counters = &sinks.exporter.0.counters;
    assert_eq!((of(&counters.failed, Signal::Traces).value(), counters.lost()), (3, 3));
    assert_eq!(sinks.exporter.0.waiting.load(Relaxed), 0);
}

#[test]
fn what_finds_no_room_is_dropped_and_counted() {
    let (sinks, _telemetry, _tasks) = sinks(environment(1));
    // A thread that takes nothing.
    let (sender, queue) = mpsc::channel(2);
    sinks.exporter.0.queue.set(Some(sender)).unwrap();
    for _ in 0..5 {
        sinks.exporter.take(request(&sinks));
    }
    let counters = &sinks.exporter.0.counters;
    assert_eq!(of(&counters.full, Signal::Traces).value(), 3);
    let waiting = sinks.exporter.0.waiting.load(Relaxed);
    drop(queue);
    let mut large = request(&sinks);
    large.observed.entry.path = "x".repeat(BYTES);
    sinks.exporter.take(large);
    assert_eq!((of(&counters.full, Signal::Traces).value(), sinks.exporter.0.waiting.load(Relaxed)), (4, waiting));
}

#[tokio::test]
async fn a_lane_takes_no_more_than_its_limit_while_an_export_is_under_way() {
    let (sinks, _telemetry, tasks) = sinks(environment(1));
    let shared = &sinks.exporter.0;
    let (errands, _) = mpsc::channel(1);
    let mut lanes = Lanes::new(
        ("web-1".to_owned(), Arc::clone(&shared.environment)),
        (shared.counters.clone(), Arc::clone(&shared.waiting)),
        (errands, tasks),
    );
    let add = |lanes: &mut Lanes| {
        shared.waiting.fetch_add(1, Relaxed);
        lanes.add(Queued { finished: request(&sinks), size: 1 });
    };
    add(&mut lanes);
    assert!(lanes.full().is_empty());
    let under_way = lanes.all();
    assert_eq!(under_way.len(), 1);
    for _ in 0..2_050 {
        add(&mut lanes);
    }
    assert!(lanes.full().is_empty(), "one at a time");
    assert_eq!(of(&shared.counters.full, Signal::Traces).value(), 2);
}

#[test]
fn a_collector_in_the_mesh_is_not_told_of_what_tells_it() {
    let (sinks, _telemetry, _tasks) = sinks(Environment::default());
    let (sender, mut queue) = mpsc::channel(8);
    sinks.exporter.0.queue.set(Some(sender)).unwrap();
    let mut told = |service: &str, path: &str| {
        let to = Collector {
            place: CollectorPlace::Service(ServiceName::new("default", service).unwrap()),
            port: 4_317,
            protocol: ExportProtocol::Grpc,
            timeout: Duration::from_secs(10),
            headers: Vec::new(),
        };
        let kind = TelemetryKind::LogCollector(LogCollector { to, name: String::new(), format: LineFormat::default() });
        let provider = Arc::new(TelemetryProvider { name: "otel".into(), index: 0, kind });
        let mut finished = request(&sinks);
        finished.observed.log = Some(Arc::new([LogRule { output: LogOutput::Collector(provider), filter: None }]));
        finished.observed.span = None;
        finished.observed.entry.path = path.to_owned();
        finished.observed.end(finished.summary, finished.duration, finished.pair);
        queue.try_recv().map_or(0, |queued| queued.finished.lines.len())
    };
    assert_eq!(told("reviews", LOGS_EXPORT), 0, "reviews is the called service");
    assert_eq!((told("reviews", "/a"), told("other", LOGS_EXPORT)), (1, 1));
}
