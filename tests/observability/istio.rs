//! What Istio's mesh, service and workload dashboards and Kiali ask for: the same metrics, selectors and groupings, panel by panel.

use std::collections::BTreeMap;

use crate::world;

type Groups = BTreeMap<String, Vec<String>>;

/// The labels of every metric of requests.
pub(crate) const LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_canonical_service",
    "destination_canonical_revision",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

const NO_GRPC: &[&str] = &["grpc_response_status"];
const OF_BYTES: &[&str] = &["response_code", "grpc_response_status"];

/// Every metric, and which labels it does without.
pub(crate) fn labels() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("istio_requests_total{request_protocol=\"http\"}", NO_GRPC),
        ("istio_requests_total{request_protocol=\"grpc\", response_code=\"200\"}", &[]),
        ("istio_request_duration_milliseconds_bucket", NO_GRPC),
        ("istio_request_duration_milliseconds_sum", NO_GRPC),
        ("istio_request_duration_milliseconds_count", NO_GRPC),
        ("istio_request_bytes_bucket", NO_GRPC),
        ("istio_request_bytes_sum", NO_GRPC),
        ("istio_request_bytes_count", NO_GRPC),
        ("istio_response_bytes_bucket", NO_GRPC),
        ("istio_response_bytes_sum", NO_GRPC),
        ("istio_response_bytes_count", NO_GRPC),
        ("istio_request_messages_total{request_protocol=\"grpc\"}", &[]),
        ("istio_response_messages_total{request_protocol=\"grpc\"}", &[]),
        ("istio_tcp_sent_bytes_total", OF_BYTES),
        ("istio_tcp_received_bytes_total", OF_BYTES),
        ("istio_tcp_connections_opened_total", OF_BYTES),
        ("istio_tcp_connections_closed_total", OF_BYTES),
    ]
}

/// A panel draws what came with mutual TLS beside what came without, and what callers report says neither: their expressions are named
/// alike, so that they are one group.
pub(crate) fn with_mutual_tls(expression: &str) -> String {
    let text: String = expression.split_whitespace().collect();
    let text = text.replace("connection_security_policy!=", "connection_security_policy=");
    text.replace("destination_principal!~", "destination_principal=~")
}

fn rate(metric: &str, selector: &str) -> String {
    format!("irate({metric}{{{selector}}}[30s])")
}

fn volume(selector: &str, by: &str) -> String {
    format!("round(sum({}) by ({by}), 0.001)", rate("istio_requests_total", selector))
}

fn success(selector: &str, by: &str) -> String {
    let good = rate("istio_requests_total", &format!("{selector},response_code!~\"5.*\""));
    format!("sum({good}) by ({by}) / sum({}) by ({by})", rate("istio_requests_total", selector))
}

fn quantile(of: &str, metric: &str, selector: &str, by: &str) -> String {
    let by = if by.is_empty() { "le".to_owned() } else { format!("{by}, le") };
    format!("histogram_quantile({of}, sum({}) by ({by}))", rate(&format!("{metric}_bucket"), selector))
}

fn bytes(metric: &str, selector: &str, by: &str) -> String {
    format!("round(sum({}) by ({by}), 0.001)", rate(metric, selector))
}

/// The numbers at the head of a dashboard.
fn head(groups: &mut Groups, name: &str, selector: &str) {
    let mut put = |what: &str, expression: String| {
        groups.entry(format!("{name}: {what}")).or_default().push(expression);
    };
    put("volume", volume(selector, ""));
    put("success", success(selector, ""));
    for of in ["0.50", "0.90", "0.99"] {
        put(of, quantile(of, "istio_request_duration_milliseconds", selector, ""));
    }
}

/// Seven panels, grouped.
fn panels(groups: &mut Groups, name: &str, selector: &str, by: &str) {
    for tls in ["connection_security_policy=\"mutual_tls\"", "connection_security_policy!=\"mutual_tls\""] {
        let selector = format!("{tls},{selector}");
        let mut put = |what: &str, expression: String| {
            groups.entry(format!("{name}: {what}")).or_default().push(expression);
        };
        put("volume", volume(&selector, &format!("{by}, response_code")));
        put("success", success(&selector, by));
        for metric in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
            for of in ["0.50", "0.90", "0.95", "0.99"] {
                put(&format!("{metric} {of}"), quantile(of, metric, &selector, by));
            }
        }
        for metric in ["istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"] {
            put(metric, bytes(metric, &selector, by));
        }
    }
}

/// What the three dashboards ask for.
pub(crate) fn expressions() -> Groups {
    let mut groups = Groups::new();
    mesh(&mut groups);
    let (sources, destinations) =
        ("source_workload, source_workload_namespace", "destination_workload, destination_workload_namespace");
    let all = "source_workload=~\".*\",source_workload_namespace=~\".*\"";
    // A service speaks HTTP or not: each panel has data of one of them.
    for service in world::SERVICES {
        let of = format!("destination_service=\"{service}\"");
        let (both, server) =
            (format!("reporter=~\"source|destination\",{of}"), format!("reporter=\"destination\",{of}"));
        head(&mut groups, "service, as callers see it", &both);
        head(&mut groups, "service, as it sees itself", &server);
        panels(&mut groups, "service, by caller", &format!("{both},{all}"), sources);
        let workloads =
            "destination_cluster=~\".*\",destination_workload=~\".*\",destination_workload_namespace=~\".*\"";
        panels(&mut groups, "service, by workload", &format!("{server},{workloads}"), destinations);
    }
    let workload = "destination_workload_namespace=~\"shop\",destination_workload=~\".*\"";
    let both = format!("reporter=~\"source|destination\",{workload}");
    head(&mut groups, "workload", &both);
    panels(&mut groups, "workload, by caller", &format!("{both},{all}"), sources);
    let out =
        "reporter=\"source\",source_workload_namespace=~\"shop\",source_workload=~\".*\",destination_service=~\".*\"";
    panels(&mut groups, "workload, what it calls", out, "destination_service");
    for (name, known) in [("known", "=~"), ("strange", "!~")] {
        let expression =
            volume(&format!("destination_principal{known}\"spiffe.*\",{out}"), "destination_service, response_code");
        groups.insert(format!("workload, what it calls: {name}"), vec![expression]);
    }
    groups
}

fn mesh(groups: &mut Groups) {
    let source = "reporter=~\"source|waypoint\"";
    let by = "destination_workload,destination_workload_namespace,destination_service";
    let joined = |expression: String| {
        format!(
            "label_join({expression}, \"var\", \".\", \"destination_workload\", \"destination_workload_namespace\")"
        )
    };
    let mut put = |what: &str, expression: String| groups.insert(format!("mesh: {what}"), vec![expression]);
    put("volume", volume(source, ""));
    put("success", success(source, ""));
    for code in ["4..", "5.."] {
        put(code, volume(&format!("{source},response_code=~\"{code}\""), ""));
    }
    put("requests", joined(volume(source, by)));
    put("successes", joined(success(source, "destination_workload,destination_workload_namespace")));
    for of in ["0.5", "0.9", "0.99"] {
        put(of, joined(quantile(of, "istio_request_duration_milliseconds", source, by)));
    }
    for metric in ["istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"] {
        put(metric, joined(bytes(metric, source, by)));
    }
    put("versions", "sum(istio_build) by (component, tag)".to_owned());
}

/// What Kiali's graph is made of: edges by both reporters, with all that it groups by.
pub(crate) fn kiali() -> Groups {
    let nodes = LABELS.iter().filter(|label| !label.ends_with("_app") && !label.ends_with("_version"));
    let by = nodes.copied().filter(|label| *label != "reporter").collect::<Vec<_>>().join(",");
    let counters = [
        "istio_requests_total",
        "istio_request_messages_total",
        "istio_response_messages_total",
        "istio_tcp_sent_bytes_total",
        "istio_tcp_received_bytes_total",
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
    ];
    let mut groups = Groups::new();
    for metric in counters {
        for reporter in ["source", "destination"] {
            let selector = format!("reporter=\"{reporter}\",destination_service=~\"^.+\\\\.shop\\\\..+$\"");
            let expression = format!("sum(rate({metric}{{{selector}}}[30s])) by ({by}) > 0");
            groups.insert(format!("kiali: {metric} by {reporter}"), vec![expression]);
        }
    }
    let lost = "sum(rate(istio_requests_total{reporter=\"source\",destination_workload=\"unknown\"}[30s])) by (destination_service_name) > 0";
    groups.insert("kiali: egress".to_owned(), vec![lost.to_owned()]);
    groups
}
