//! Tests of reading MeshConfig.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{Severity, Spec, parse};

fn read(spec: &str) -> parse::Parsed {
    let text = format!("apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {spec}\n");
    parse::yaml("f", &text, "shop")
}

fn config(spec: &str) -> Arc<MeshConfig> {
    let parsed = read(spec);
    let document = parsed.documents.first().unwrap_or_else(|| panic!("{spec}: {:#?}", parsed.problems));
    let Spec::MeshConfig(config) = &document.document.spec else { panic!() };
    config.clone()
}

fn errors(spec: &str) -> Vec<&'static str> {
    let error = |problem: &&crate::Problem| problem.severity == Severity::Error;
    read(spec).problems.iter().filter(error).map(|problem| problem.code).collect()
}

#[test]
fn what_is_left_out_keeps_its_default() {
    assert_eq!(*config("{}"), MeshConfig::default());
    let limits = config("{limits: {headers: 50}}").limits;
    assert_eq!(limits, Limits { headers: 50, ..Limits::default() });
}

#[test]
fn every_field_is_read() {
    let read = config(
        "{outboundTrafficPolicy: {mode: ALLOW_ANY}, connectTimeout: 3s, defaultHttpRetryPolicy: {attempts: 5}, \
         retryIdempotentOnReset: false, outlierSharing: off, pathNormalization: {normalization: MERGE_SLASHES}, \
         localityLbSetting: {enabled: false}, trustDomainAliases: [old.example], accessLogFile: /dev/stdout, \
         accessLogEncoding: JSON, certificates: {leaf: 30m, nodeCa: 240h}, limits: {headerTimeout: 5s, connections: 100}}",
    );
    assert_eq!(read.outbound, Some(OutboundPolicy::AllowAny));
    assert_eq!((read.connect_timeout, read.retries.attempts), (Duration::from_secs(3), 5));
    assert!(!read.retries.idempotent_reset && read.locality.enabled == Some(false));
    assert_eq!(read.outlier_sharing, OutlierSharing::Off);
    assert_eq!(read.path_normalization, PathNormalization::MergeSlashes);
    assert_eq!(read.trust_domain_aliases[0].as_str(), "old.example");
    assert_eq!((read.access_log.file, read.access_log.json), (Some(LogFile::Stdout), true));
    assert_eq!(read.certificates.leaf, Duration::from_secs(1_800));
    assert_eq!(read.certificates.node_ca, Duration::from_secs(240 * 3_600));
    assert_eq!((read.limits.header_timeout, read.limits.connections), (Duration::from_secs(5), 100));
    let near =
        config("{localityLbSetting: {failover: [{from: eu, to: us}], failoverPriority: [rack]}}").locality.clone();
    assert_eq!((near.enabled, near.failover.len(), near.failover_priority.len()), (Some(true), 1, 1));
    assert_eq!(config("{outboundTrafficPolicy: {}}").outbound, Some(OutboundPolicy::RegistryOnly));
    let detection = |spec| config(spec).protocol_detection_timeout;
    assert_eq!(detection("{protocolDetectionTimeout: 100ms}"), Some(Duration::from_millis(100)));
    assert_eq!((detection("{protocolDetectionTimeout: 0s}"), detection("{}")), (None, None));
}

#[test]
fn what_a_log_format_names_in_vain_is_told() {
    let label = |format: &str| {
        format!(
            "{{extensionProviders: [{{name: a, envoyFileAccessLog: {{logFormat: {{labels: {{b: '{format}'}}}}}}}}]}}"
        )
    };
    for (spec, count) in [
        ("{accessLogFormat: '%RESPONSE_CODE% %UPSTREAM_LOCAL_ADDRESS%'}".to_owned(), 1),
        (label("%UPSTREAM_LOCAL_ADDRESS%"), 1),
        (label("%UPSTREAM_HOST%"), 0),
    ] {
        let problems = read(&spec).problems;
        let vain = problems.iter().filter(|one| one.code == codes::IGNORED && one.severity == Severity::Warning);
        assert_eq!(vain.count(), count, "{spec}: {problems:#?}");
    }
}

#[test]
fn what_is_not_valid_says_so() {
    for (code, spec) in [
        (codes::RANGE, "{limits: {headers: 0}}"),
        (codes::RANGE, "{limits: {headerTimeout: 48h}}"),
        (codes::NEVER_VALID, "{limits: {headerBytes: 2048, uriBytes: 4096}}"),
        (codes::RANGE, "{certificates: {leaf: 48h}}"),
        (codes::RANGE, "{certificates: {leaf: 9s}}"),
        (codes::RANGE, "{certificates: {nodeIdentity: 25h}}"),
        (codes::RANGE, "{certificates: {nodeCa: 721h}}"),
        (codes::NEVER_VALID, "{certificates: {nodeCa: 720h, enrollerCa: 240h}}"),
        (codes::NAME, "{trustDomainAliases: [A.b]}"),
        (codes::WORD, "{accessLogFile: /etc/passwd}"),
        (codes::WORD, "{outlierSharing: gossip}"),
        (codes::LOCALITY, "{localityLbSetting: {distribute: [{from: a, to: {b: 99}}]}}"),
        (codes::EXCLUSIVE, "{accessLogEncoding: JSON, accessLogFormat: '%START_TIME%'}"),
        (codes::LOG_FORMAT, "{accessLogFormat: '%START_TIME'}"),
        (codes::DURATION, "{connectTimeout: 0s}"),
        (codes::UNKNOWN_FIELD, "{limit: {}}"),
    ] {
        assert_eq!(errors(spec), [code], "{spec}");
    }
}

#[test]
fn a_balancer_before_gateways_may_speak_the_proxy_protocol() {
    assert!(config("{}").gateways.proxy_protocol.is_none());
    let of = |proxied: &str| format!("{{defaultConfig: {{gatewayTopology: {{proxyProtocol: {proxied}}}}}}}");
    let trusts = |proxied: &str, from: &str| {
        config(&of(proxied))
            .gateways
            .proxy_protocol
            .as_ref()
            .is_some_and(|balancers| balancers.trusts(from.parse().unwrap()))
    };
    assert!(trusts("{}", "10.0.0.1") && trusts("{}", "::1"));
    let some = "{trustedIpBlocks: [10.0.0.0/8, 2001:db8::1]}";
    for (from, is_trusted) in [
        ("10.9.9.9", true),
        ("::ffff:10.9.9.9", true),
        ("2001:db8::1", true),
        ("2001:db8::2", false),
        ("11.0.0.1", false),
    ] {
        assert_eq!(trusts(some, from), is_trusted, "{from}");
    }
    assert_eq!(errors(&of("{trustedIpBlocks: []}")), [codes::EMPTY]);
    let unknown = "{defaultConfig: {gatewayTopology: {proxyProtocol: {version: 2}}}}";
    assert_eq!(errors(unknown), [codes::UNKNOWN_FIELD]);
}

#[test]
fn what_is_not_applied_may_only_say_its_default() {
    let unbuilt = |spec: &str| read(spec).problems.iter().filter(|problem| problem.is_unbuilt()).count();
    let applied = "{certificates: {leaf: 10s, nodeIdentity: 30m, nodeCa: 24h, enrollerCa: 240h}, connectTimeout: 9s, outlierSharing: off, localityLbSetting: {enabled: false}, limits: {headerBytes: 16384, headers: 99, \
                   uriBytes: 4096, streams: 7, pendingResets: 9, resets: 9, headerTimeout: 1s, requestBodyIdle: 1s, \
                   streamIdle: 1s, tlsHandshakeTimeout: 1s, connections: 99, connectionsPerAddress: 1000, pendingHandshakes: 9}}";
    assert_eq!(unbuilt(applied), 0);
    assert_eq!(unbuilt("{limits: {connectionsPerAddress: 9}}"), 0);
    // Istio's default, written out: pushed, with a word on what it does not open.
    let allow_any = read("{outboundTrafficPolicy: {mode: ALLOW_ANY}}");
    let told: Vec<_> = allow_any.problems.iter().map(|problem| (problem.code, problem.refuses())).collect();
    assert_eq!(told, [(codes::IGNORED, false)]);
    assert_eq!(unbuilt("{accessLogFormat: '%FILTER_STATE(a)%'}"), 1);
}

const HTTP: &str = "{extensionProviders: [{name: opa, envoyExtAuthzHttp: {service: foo/authz.foo.svc.cluster.local, \
    port: 8000, timeout: 2s, pathPrefix: /check, failOpen: true, statusOnError: '503', clearRouteCache: false, \
    includeRequestHeadersInCheck: [X-User, 'x-a*', '*-b'], includeAdditionalHeadersInCheck: {X-From: mesh}, \
    headersToUpstreamOnAllow: [x-who], headersToDownstreamOnDeny: [set-cookie], headersToDownstreamOnAllow: [x-seen], \
    includeRequestBodyInCheck: {maxRequestBytes: 1024, allowPartialMessage: true}}}, \
    {name: by-grpc, envoyExtAuthzGrpc: {service: authz.foo.svc.cluster.local, port: 9000}}]}";

#[test]
fn providers_are_read_and_found_by_their_names() {
    let config = config(HTTP);
    let http = config.provider("opa").unwrap();
    assert_eq!((http.service.to_string().as_str(), http.port), ("foo/authz", 8_000));
    assert_eq!((http.timeout, http.fail_open, http.status_on_error), (Duration::from_secs(2), true, 503));
    assert_eq!(http.body.map(|body| (body.max_bytes, body.allow_partial, body.as_bytes)), Some((1_024, true, false)));
    let CheckProtocol::Http(check) = &http.protocol else { panic!("asked by HTTP") };
    assert_eq!(check.path_prefix, "/check");
    let told = |name: &str| check.request_headers.iter().any(|pattern| pattern.is_match(name));
    assert!(told("x-user") && told("x-abc") && told("y-b") && !told("user"));
    assert_eq!(check.additional_headers[0].0, "x-from");
    assert!(check.to_upstream_on_allow[0].is_match("x-who") && check.to_downstream_on_allow[0].is_match("x-seen"));
    let grpc = config.provider("by-grpc").unwrap();
    assert_eq!((&grpc.protocol, grpc.timeout.as_secs(), grpc.fail_open), (&CheckProtocol::Grpc, 600, false));
    assert_eq!((grpc.status_on_error, grpc.body), (403, None));
    assert!(config.provider("other").is_none());
}

#[test]
fn providers_that_cannot_be() {
    let http = |fields: &str| {
        format!(
            "{{extensionProviders: [{{name: a, envoyExtAuthzHttp: {{service: a.b.svc.cluster.local, port: 80{fields}}}}}]}}"
        )
    };
    for (code, spec) in [
        (codes::MISSING, "{extensionProviders: [{name: a}]}".to_owned()),
        (codes::MISSING, "{extensionProviders: [{name: a, envoyExtAuthzHttp: {port: 80}}]}".to_owned()),
        (codes::MISSING, HTTP.replace("name: opa, ", "")),
        (codes::DUPLICATE, HTTP.replace("by-grpc", "opa")),
        (codes::EXCLUSIVE, HTTP.replace("}}}, {name: by-grpc, ", "}}, ")),
        (codes::HOST, HTTP.replace("foo/authz", "bar/authz")),
        (codes::HOST, HTTP.replace("authz.foo.svc.cluster.local", "authz")),
        (codes::RANGE, http(", statusOnError: 200")),
        (codes::RANGE, http(", timeout: 48h")),
        (codes::URL, http(", pathPrefix: check")),
        (codes::URL, http(", pathPrefix: '/check?a'")),
        (codes::HEADER, http(", includeRequestHeadersInCheck: ['*']")),
        (codes::HEADER, http(", headersToUpstreamOnAllow: ['a*b']")),
        (codes::HEADER, http(", includeAdditionalHeadersInCheck: {Host: a}")),
        (codes::MISSING, http(", includeRequestBodyInCheck: {}")),
        (codes::RANGE, http(", includeRequestBodyInCheck: {maxRequestBytes: 10000000}")),
        (codes::UNKNOWN_FIELD, http(", failopen: true")),
    ] {
        assert!(errors(&spec).contains(&code), "{spec}: {:?}", errors(&spec));
    }
    for outside in [
        HTTP.replace("foo/authz.foo.svc.cluster.local", "authz.example.com"),
        "{extensionProviders: [{name: a, zipkin: {service: z, port: 1}}]}".to_owned(),
    ] {
        let parsed = read(&outside);
        assert!(parsed.problems.iter().any(crate::Problem::is_unbuilt), "{outside}: {:#?}", parsed.problems);
    }
}

#[test]
fn there_is_one_document() {
    let text = "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: other}\nspec: {}\n";
    assert!(parse::yaml("f", text, "shop").problems.iter().any(|problem| problem.code == codes::NAME));
    assert_eq!(read("{}").documents[0].document.id.namespace, "istio-system");
}

#[test]
fn what_stands_before_gateways_is_said_as_in_istio() {
    let topology = |spec: &str| {
        let mut parsed = read(spec);
        assert!(parsed.is_valid(), "{spec}: {:?}", parsed.problems);
        let crate::Spec::MeshConfig(config) = parsed.documents.remove(0).document.spec else { panic!("a MeshConfig") };
        config.gateways.clone()
    };
    let text = "{defaultConfig: {gatewayTopology: {numTrustedProxies: 2, forwardClientCertDetails: APPEND_FORWARD}}}";
    let said =
        GatewayTopology { trusted_proxies: 2, client_cert: ForwardClientCert::AppendForward, proxy_protocol: None };
    assert_eq!(topology(text), said);
    assert_eq!(topology("{}").client_cert, ForwardClientCert::SanitizeSet);
    let codes = |spec: &str| read(spec).problems.into_iter().map(|problem| problem.code).collect::<Vec<_>>();
    assert_eq!(codes("{defaultConfig: {gatewayTopology: {numTrustedProxies: 17}}}"), [codes::RANGE]);
    assert_eq!(codes("{defaultConfig: {concurrency: 2}}"), [codes::UNKNOWN_FIELD]);
}

const TELEMETRY: &str = "{defaultProviders: {tracing: [otel], accessLogging: [logs, envoy], metrics: [prometheus]}, extensionProviders: [\
    {name: otel, opentelemetry: {service: observe/otel.observe.svc.cluster.local, port: 4317, maxTagLength: 512, \
      grpc: {timeout: 3s, initialMetadata: [{name: X-Tenant, value: shop}]}, resourceDetectors: {environment: {}}}}, \
    {name: outside, opentelemetry: {service: collector.example.com, port: 4318, http: {path: /otlp/v1/traces, timeout: 2s, \
      headers: [{name: authorization, envName: COLLECTOR_TOKEN}]}}}, \
    {name: logs, envoyOtelAls: {service: 127.0.0.1, port: 4317, logName: access, logFormat: {text: '%REQ(:PATH)%', \
      labels: {code: '%RESPONSE_CODE%'}}}}, \
    {name: lines, envoyFileAccessLog: {path: /dev/stderr, logFormat: {labels: {code: '%RESPONSE_CODE%'}}}}]}";

#[test]
fn providers_of_telemetry_are_read() {
    let config = config(TELEMETRY);
    let kind = |name: &str| &config.telemetry_provider(name).unwrap().kind;
    let TelemetryKind::Spans(otel) = kind("otel") else { panic!("spans") };
    assert!(matches!(&otel.to.place, CollectorPlace::Service(service) if service.to_string() == "observe/otel"));
    assert_eq!((otel.max_path, otel.reads_environment, otel.to.port), (512, true, 4_317));
    assert_eq!((&otel.to.protocol, otel.to.timeout), (&ExportProtocol::Grpc, Duration::from_secs(3)));
    assert_eq!(otel.to.headers[0].name, "x-tenant");
    let TelemetryKind::Spans(outside) = kind("outside") else { panic!("spans") };
    assert_eq!(outside.to.place, CollectorPlace::Host("collector.example.com".to_owned()));
    assert_eq!(outside.to.protocol, ExportProtocol::Http("/otlp/v1/traces".to_owned()));
    assert_eq!(outside.to.headers[0].value, HeaderSource::Variable("COLLECTOR_TOKEN".to_owned()));
    let TelemetryKind::LogCollector(logs) = kind("logs") else { panic!("logs") };
    assert_eq!((logs.name.as_str(), logs.format.text.is_some(), logs.format.labels.len()), ("access", true, 1));
    assert!(matches!(kind("lines"), TelemetryKind::LogStream(LogFile::Stderr, format) if format.labels.len() == 1));
    assert_eq!(config.default_providers.access_logging, ["logs", "envoy"]);
}

#[test]
fn providers_of_telemetry_that_cannot_be() {
    for (code, spec) in [
        (codes::UNKNOWN_PROVIDER, TELEMETRY.replace("tracing: [otel]", "tracing: [logs]")),
        (codes::UNKNOWN_PROVIDER, TELEMETRY.replace("accessLogging: [logs", "accessLogging: [gone")),
        (codes::MISSING, TELEMETRY.replace("port: 4318, ", "")),
        (codes::HOST, TELEMETRY.replace("collector.example.com", "collector")),
        (codes::HEADER, TELEMETRY.replace("name: X-Tenant", "name: TraceParent")),
        (codes::NAME, TELEMETRY.replace("COLLECTOR_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS")),
        (codes::EXCLUSIVE, TELEMETRY.replace("value: shop", "value: shop, envName: SHOP")),
        (codes::URL, TELEMETRY.replace("path: /otlp", "path: otlp")),
        (codes::RANGE, TELEMETRY.replace("timeout: 3s", "timeout: 300s")),
        (codes::WORD, TELEMETRY.replace("path: /dev/stderr", "path: /var/log/a")),
        (codes::EXCLUSIVE, TELEMETRY.replace("/dev/stderr, logFormat: {", "/dev/stderr, logFormat: {text: a, ")),
        (codes::EXCLUSIVE, TELEMETRY.replace("grpc: {timeout", "http: {}, grpc: {timeout")),
        (codes::DUPLICATE, TELEMETRY.replace("name: outside", "name: otel")),
    ] {
        assert!(errors(&spec).contains(&code), "{code} {spec}: {:?}", errors(&spec));
    }
}
