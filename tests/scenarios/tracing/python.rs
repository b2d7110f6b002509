//! A collector in another language, by published packages.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use harness::eventually;
use serde_json::Value;

use super::{get, providers, push, telemetry};
use crate::reviews;

/// Ends with the value.
struct Collector {
    child: Child,
    told: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    fn start() -> Self {
        let python = std::env::var("SKEIN_PYTHON").expect("SKEIN_PYTHON names an interpreter with the packages");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/tracing/collector.py");
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter runs");
        let out = BufReader::new(child.stdout.take().expect("piped above"));
        let told = Arc::<Mutex<Vec<Value>>>::default();
        let kept = told.clone();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                kept.lock().expect("no panic holds it").extend(serde_json::from_str::<Value>(&line));
            }
        });
        Self { child, told }
    }

    /// The ports of OTLP/gRPC and of OTLP/HTTP.
    fn ports(&self) -> (u64, u64) {
        eventually("it listens", || {
            let ready = self.all("ready").pop().ok_or_else(|| "not yet".to_owned())?;
            ready["port"].as_u64().zip(ready["http"].as_u64()).ok_or_else(|| ready.to_string())
        })
    }

    fn all(&self, kind: &str) -> Vec<Value> {
        self.told.lock().expect("no panic holds it").iter().filter(|told| told["is"] == kind).cloned().collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs Python with `grpcio` and `opentelemetry-proto`: python3 -m venv V && V/bin/pip install grpcio opentelemetry-proto && SKEIN_PYTHON=V/bin/python cargo test -p tests --test scenarios tracing::python -- --ignored"]
fn a_collector_in_python_reads_spans_and_records() {
    let (cluster, collector) = (reviews(&["v1"]), Collector::start());
    let (port, by_http) = collector.ports();
    let list = format!(
        "{{name: otel, opentelemetry: {{service: localhost, port: {port}, grpc: {{initialMetadata: [{{name: x-tenant, value: shop}}]}}}}}}, \
         {{name: lines, envoyOtelAls: {{service: localhost, port: {port}, logFormat: {{text: '%REQ(:PATH)%'}}}}}}"
    );
    let spec = "{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}], accessLogging: [{match: {mode: SERVER}, providers: [{name: lines}]}]}";
    push(&cluster, &(providers(&list) + &telemetry(spec)));
    assert_eq!(get(&cluster, "/python", &[]), 200);
    let server = one_trace(&collector, "grpc", "/python");
    let record = eventually("a record", || collector.all("record").pop().ok_or_else(|| "none yet".to_owned()));
    assert_eq!((&record["body"], &record["trace"]), (&Value::from("/python"), &server["trace"]));

    // The same by OTLP/HTTP.
    let list = format!(
        "{{name: otel, opentelemetry: {{service: localhost, port: {by_http}, http: {{path: /v1/traces, headers: [{{name: x-tenant, value: shop}}]}}}}}}"
    );
    let spec = "{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}]}";
    push(&cluster, &(providers(&list) + &telemetry(spec)));
    assert_eq!(get(&cluster, "/by-http", &[]), 200);
    one_trace(&collector, "http", "/by-http");
}

/// Both sides' spans about a path, as they came this way, say what they should; gives the server's.
fn one_trace(collector: &Collector, way: &str, path: &str) -> Value {
    let of = |kind: u64| {
        eventually("a span", || {
            let all = collector.all("span");
            let about = |span: &&Value| span["attributes"]["http.url"].as_str().is_some_and(|url| url.ends_with(path));
            let found = all.iter().filter(about).find(|span| span["kind"] == kind && span["way"] == way).cloned();
            found.ok_or_else(|| format!("{all:#?}"))
        })
    };
    let (client, server) = (of(3), of(2));
    assert_eq!((&client["trace"], &client["id"]), (&server["trace"], &server["parent"]));
    assert_eq!(
        (&client["metadata"], &server["resource"]["service.name"]),
        (&Value::from("shop"), &Value::from("reviews.shop"))
    );
    assert!(client["nanos"].as_u64() > Some(0) && client["attributes"]["http.status_code"] == "200", "{client}");
    server
}
