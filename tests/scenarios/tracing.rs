//! Traces: contexts in headers, decisions, and spans as collectors get them, whichever way they go there.

mod grpc;
mod python;

use std::collections::BTreeMap;

use harness::{
    backend::Backend,
    cluster::{Cluster, Plan, Service},
    collector::{self, Span},
    eventually, http,
};

use crate::{reviews, skein};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn telemetry(spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: mesh, namespace: istio-system}}\nspec: {spec}\n---\n"
    )
}

fn providers(list: &str) -> String {
    format!(
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{extensionProviders: [{list}]}}\n---\n"
    )
}

fn push(cluster: &Cluster, text: &str) {
    cluster.push("web", text, &["--wait", "all"]).expect_code(0);
}

fn get(cluster: &Cluster, path: &str, headers: &[(&str, &str)]) -> u16 {
    http::get_with(cluster.node("web").outbound(), "reviews", path, headers).expect("an answer").status
}

/// A collector that speaks OTLP/HTTP, which is not more than a server that keeps what arrives.
fn collector() -> Backend {
    Backend::start("127.0.0.1:0".parse().expect("an address"), "").expect("a free port")
}

fn spans(collector: &Backend) -> Vec<Span> {
    let arrived = collector.arrivals();
    let exports = arrived.iter().filter(|arrived| arrived.line().starts_with("POST /v1/traces "));
    exports.flat_map(|arrived| collector::spans(&arrived.body)).collect()
}

/// The client's and the server's span about a path.
fn pair(collector: &Backend, path: &str) -> (Span, Span) {
    eventually(&format!("both spans about {path}"), || two(&spans(collector), path))
}

fn two(all: &[Span], path: &str) -> Result<(Span, Span), String> {
    let of = |kind| {
        let is_it = |span: &&Span| span.kind == kind && span.attributes["http.url"].ends_with(path);
        all.iter().find(is_it).cloned()
    };
    of(3).zip(of(2)).ok_or_else(|| format!("{all:#?}"))
}

/// What the application got of a request.
fn arrived(cluster: &Cluster, path: &str, header: &str) -> Option<String> {
    let arrivals = cluster.node("reviews-v1").backends[0].arrivals();
    let found = arrivals.iter().find(|arrived| arrived.line().contains(path)).expect("it arrived");
    found.header(header).map(str::to_owned)
}

#[test]
fn spans_of_both_sides_are_one_trace_and_say_what_istios_say() {
    let (cluster, collector) = (reviews(&["v1"]), collector());
    let port = collector.address.port();
    let http = format!(
        "{{name: otel, opentelemetry: {{service: 127.0.0.1, port: {port}, http: {{path: /v1/traces, headers: [{{name: x-tenant, value: shop}}]}}}}}}"
    );
    let all = "{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100, customTags: {team: {literal: {value: a}}, agent: {header: {name: user-agent}}}}]}";
    push(&cluster, &(providers(&http) + &telemetry(all)));
    assert_eq!(get(&cluster, "/first", &[("user-agent", "curl")]), 200);
    let (client, server) = pair(&collector, "/first");
    assert_eq!((&client.trace, &client.parent, &server.parent), (&server.trace, &String::new(), &client.id));
    assert_eq!(client.name, "reviews.shop.svc.cluster.local:9080/*");
    assert_eq!(server.name, client.name);
    let said = |span: &Span, wanted: &[(&str, &str)]| {
        for (key, value) in wanted {
            assert_eq!(span.attributes.get(*key).map(String::as_str), Some(*value), "{key}: {span:#?}");
        }
    };
    let both = [
        ("http.method", "GET"),
        ("http.status_code", "200"),
        ("http.url", "http://reviews/first"),
        ("response_flags", "-"),
        ("component", "proxy"),
        ("team", "a"),
        ("agent", "curl"),
        ("istio.mesh_id", "test.example"),
        ("istio.namespace", "shop"),
    ];
    said(&client, &both);
    said(&client, &[("upstream_cluster", "outbound|9080||reviews.shop.svc.cluster.local"), ("node_id", "web")]);
    said(&client, &[("istio.canonical_service", "web")]);
    said(&server, &[("upstream_cluster", "inbound|9080||"), ("istio.canonical_service", "reviews")]);
    said(&server, &[("istio.canonical_revision", "v1"), ("node_id", "reviews-v1")]);
    assert_eq!(server.resource.get("service.name").map(String::as_str), Some("reviews.shop"));
    assert!(client.time.0 <= server.time.0 && client.time.0 < client.time.1, "{client:#?} {server:#?}");
    assert_eq!(client.attributes["guid:x-request-id"], server.attributes["guid:x-request-id"]);
    assert_eq!(client.attributes["guid:x-request-id"].as_bytes()[14], b'9', "the id says that it is sampled");
    let told = arrived(&cluster, "/first", "traceparent");
    assert_eq!(told, Some(format!("00-{}-{}-01", server.trace, server.id)), "the application is the server's child");
    assert!(collector.arrivals().iter().all(|export| export.header("x-tenant") == Some("shop")));

    // What a caller decided holds, whatever the share; and the refusal of the application is an error of the client's span.
    cluster.node("reviews-v1").backends[0].answer_path_with("/gone", 404);
    let came =
        [("traceparent", PARENT), ("tracestate", "k=v"), ("x-b3-traceid", TRACE), ("x-b3-spanid", "b7ad6b7169203331")];
    assert_eq!(get(&cluster, "/gone", &came), 404);
    let (client, server) = pair(&collector, "/gone");
    assert_eq!((client.trace.as_str(), client.parent.as_str()), (TRACE, "b7ad6b7169203331"));
    assert_eq!((client.status, server.status), (2, 0));
    assert_eq!(arrived(&cluster, "/gone", "tracestate").as_deref(), Some("k=v"));
    assert_eq!(arrived(&cluster, "/gone", "x-b3-spanid"), Some(server.id));
    let unsampled = PARENT.replace("-01", "-00");
    assert_eq!(get(&cluster, "/unsampled", &[("traceparent", &unsampled)]), 200);
    assert_eq!(arrived(&cluster, "/unsampled", "traceparent"), Some(unsampled));
    // Spans go in order: one that came later shows that the one before was not sent.
    assert_eq!(get(&cluster, "/last", &[]), 200);
    pair(&collector, "/last");
    assert!(!spans(&collector).iter().any(|span| span.attributes["http.url"].ends_with("/unsampled")));
}

#[test]
fn nearer_telemetries_say_over_farther_ones_and_nobody_is_sampled_by_chance() {
    let (cluster, collector) = (reviews(&["v1"]), collector());
    let port = collector.address.port();
    let http =
        format!("{{name: otel, opentelemetry: {{service: localhost, port: {port}, http: {{path: /v1/traces}}}}}}");
    let mesh = telemetry("{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 0}]}");
    let own = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: reviews, namespace: shop}\nspec: {selector: {matchLabels: {app: reviews}}, tracing: [{match: {mode: SERVER}, disableSpanReporting: true}]}\n";
    push(&cluster, &(providers(&http) + &mesh + own));
    assert_eq!(get(&cluster, "/none", &[]), 200);
    assert!(arrived(&cluster, "/none", "traceparent").is_some_and(|told| told.ends_with("-00")));
    let forced = [("x-envoy-force-trace", "true"), ("x-request-id", "12345678-1234-4234-8234-123456789abc")];
    assert_eq!(get(&cluster, "/forced", &forced), 200);
    let client = eventually("the client's span", || {
        spans(&collector).into_iter().find(|span| span.kind == 3).ok_or_else(|| "none yet".to_owned())
    });
    assert!(client.attributes["http.url"].ends_with("/forced"), "{client:#?}");
    assert_eq!(arrived(&cluster, "/forced", "x-request-id").as_deref(), Some("12345678-1234-a234-8234-123456789abc"));
    let told = arrived(&cluster, "/forced", "traceparent");
    assert_eq!(told, Some(format!("00-{}-{}-01", client.trace, client.id)), "who reports nothing is no parent");
    assert!(spans(&collector).iter().all(|span| span.kind == 3));
}

#[test]
fn the_nodes_environment_names_its_own_collector() {
    let collector = collector();
    let endpoint = format!("http://{}", collector.address);
    let environment = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20token".to_owned()),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test".to_owned()),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_on".to_owned()),
    ];
    let web = Plan { environment, ..Plan::with([Service::client("shop/web")]) };
    let mut cluster =
        Cluster::start(skein(), &[("web", web), ("reviews-v1", Plan::with([Service::version("shop/reviews", "v1")]))]);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    assert_eq!(get(&cluster, "/own", &[]), 200);
    let span = eventually("a span", || spans(&collector).pop().ok_or_else(|| "none yet".to_owned()));
    assert_eq!((span.kind, span.resource["deployment.environment"].as_str()), (3, "test"));
    let authorized = |export: &harness::backend::Arrival| export.header("authorization") == Some("Bearer token");
    assert!(collector.arrivals().iter().all(authorized));
    assert!(arrived(&cluster, "/own", "traceparent").is_some_and(|told| told.contains(&span.id)));
    // The last spans are sent before the node ends.
    assert_eq!(get(&cluster, "/last", &[]), 200);
    cluster.terminate("web");
    assert!(spans(&collector).iter().any(|span| span.attributes["http.url"].ends_with("/last")));
}

#[test]
fn a_service_of_the_mesh_takes_spans_by_mutual_tls_and_a_dead_one_harms_nothing() {
    let plan = |services: &[Service]| Plan::with(services.to_vec());
    let collector = Service { ports: vec![4318], ..Service::version("observe/otel", "v1") };
    let mut cluster = Cluster::start(
        skein(),
        &[
            ("web", plan(&[Service::client("shop/web")])),
            ("reviews-v1", plan(&[Service::version("shop/reviews", "v1")])),
            ("otel", plan(&[collector])),
        ],
    );
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.wait_endpoints("observe/otel", 1);
    let http =
        "{name: otel, opentelemetry: {service: otel.observe.svc.cluster.local, port: 4318, http: {path: /v1/traces}}}";
    let all = "{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}]}";
    let only = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: otel, namespace: observe}\nspec: {rules: [{from: [{source: {namespaces: [shop]}}]}]}\n";
    push(&cluster, &(providers(http) + &telemetry(all) + only));
    assert_eq!(get(&cluster, "/through", &[]), 200);
    let backend = &cluster.node("otel").backends[0];
    let (client, server) = pair(backend, "/through");
    assert_eq!(client.trace, server.trace);
    let exports = backend.arrivals();
    let callers: BTreeMap<String, u32> = exports
        .iter()
        .filter_map(|export| {
            let told = export.header("x-forwarded-client-cert")?;
            Some((told.split("URI=").nth(1)?.to_owned(), 1))
        })
        .collect();
    assert_eq!(callers.keys().collect::<Vec<_>>(), ["spiffe://test.example/ns/shop/sa/default"]);
    assert!(
        spans(backend).iter().all(|span| !span.attributes["http.url"].contains("/v1/traces")),
        "exports are not traced"
    );

    // A node that stops sends its last spans while it still has a mesh to send them through.
    assert_eq!(get(&cluster, "/last", &[]), 200);
    assert!(cluster.terminate("web").is_some_and(|status| status.success()), "{}", cluster.log("web"));
    eventually("the last span of both comes", || two(&spans(&cluster.node("otel").backends[0]), "/last").map(drop));
    cluster.run("web");
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("observe/otel", 1);

    cluster.kill("otel");
    for _ in 0..50 {
        assert_eq!(get(&cluster, "/dead", &[]), 200);
    }
    let address = cluster.node("web").address("admin");
    eventually("the loss is counted", || {
        let metrics = http::get(address, &address.to_string(), "/metrics")?.text();
        let lost = metrics.lines().find(|line| {
            line.starts_with("skein_otlp_dropped_total{signal=\"traces\",reason=\"failed\"}") && !line.ends_with(" 0")
        });
        lost.map(drop)
            .ok_or_else(|| metrics.lines().filter(|line| line.contains("otlp")).collect::<Vec<_>>().join("\n"))
    });
    assert_eq!(get(&cluster, "/after", &[]), 200);
}

#[test]
fn providers_that_are_not_there_are_refused_at_push() {
    let cluster = reviews(&["v1"]);
    for spec in ["{tracing: [{providers: [{name: otel}]}]}", "{accessLogging: [{providers: [{name: otel}]}]}"] {
        let refused = cluster.push("web", &telemetry(spec), &[]);
        assert!(refused.code == 2 && refused.err.contains("`otel`"), "{spec}: {refused:?}");
    }
    let unknown = providers("{name: z, zipkin: {service: z.b.svc.cluster.local, port: 1}}");
    let refused = cluster.push("web", &unknown, &[]);
    assert!(refused.code == 2 && refused.err.contains("`zipkin`"), "{refused:?}");
}
