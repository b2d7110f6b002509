//! Tests of reading Telemetry.

use std::sync::Arc;

use super::*;
use crate::{Severity, Spec, parse};

fn read(spec: &str) -> parse::Parsed {
    let head = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: a}\n";
    parse::yaml("f", &format!("{head}spec: {spec}\n"), "default")
}

fn telemetry(spec: &str) -> Arc<Telemetry> {
    let parsed = read(spec);
    let document = parsed.documents.first().unwrap_or_else(|| panic!("{spec}: {:#?}", parsed.problems));
    let Spec::Telemetry(telemetry) = &document.document.spec else { panic!() };
    telemetry.clone()
}

#[test]
fn every_field_is_read() {
    let read = telemetry(
        "{selector: {matchLabels: {app: a}}, \
          tracing: [{match: {mode: CLIENT}, providers: [{name: otlp}], randomSamplingPercentage: 54.5, disableSpanReporting: false, \
            customTags: {l: {literal: {value: x}}, e: {environment: {name: E, defaultValue: d}}, h: {header: {name: x-h}}, \
              f: {formatter: {value: '%REQ(a)%'}}}, enableIstioTags: true, useRequestIdForTraceSampling: true, \
            disableContextPropagation: false}], \
          metrics: [{providers: [{name: prometheus}], reportingInterval: 5s, overrides: [{match: {metric: REQUEST_COUNT, mode: SERVER}, \
            disabled: true}, {tagOverrides: {a: {value: request.host}, b: {operation: REMOVE}}}]}], \
          accessLogging: [{match: {mode: SERVER}, providers: [{name: envoy}], disabled: false, \
            filter: {expression: 'response.code >= 400'}}]}",
    );
    let tracing = &read.tracing[0];
    assert_eq!((tracing.side, tracing.sampling_percent), (Side::Client, Some(54.5)));
    let tags = tracing.custom_tags.as_ref().unwrap();
    assert_eq!(tags["e"], CustomTag::Environment { name: "E".into(), default: "d".into() });
    assert_eq!((tags.len(), &tags["l"]), (4, &CustomTag::Literal("x".into())));
    let overrides = &read.metrics[0].overrides;
    assert_eq!((&overrides[0].metric, overrides[0].disabled), (&Metric::Istio("istio_requests_total"), Some(true)));
    assert_eq!((&overrides[1].metric, overrides[1].side), (&Metric::All, Side::ClientAndServer));
    assert_eq!(overrides[1].tags["b"], TagOverride::Remove);
    let TagOverride::Upsert(expression) = &overrides[1].tags["a"] else { panic!() };
    assert_eq!(expression.source(), "request.host");
    let logging = &read.access_logging[0];
    assert_eq!((logging.side, logging.disabled), (Side::Server, Some(false)));
    assert_eq!(logging.filter.as_ref().map(Filter::source), Some("response.code >= 400"));
    assert_eq!(telemetry("{}").metrics, []);
}

#[test]
fn what_is_not_valid_says_so() {
    for (code, spec) in [
        (codes::EMPTY, "{metrics: [{providers: [{name: ''}]}]}"),
        (codes::EMPTY, "{accessLogging: [{providers: [{}]}]}"),
        (codes::RANGE, "{tracing: [{randomSamplingPercentage: 101}]}"),
        (codes::EMPTY, "{tracing: [{customTags: {a: {literal: {value: ''}}}}]}"),
        (codes::EMPTY, "{tracing: [{customTags: {a: {header: {}}}}]}"),
        (codes::HEADER, "{tracing: [{customTags: {a: {header: {name: 'a b'}}}}]}"),
        (codes::NAME, "{tracing: [{customTags: {a: {environment: {name: OTEL_EXPORTER_OTLP_HEADERS}}}}]}"),
        (codes::LOG_FORMAT, "{tracing: [{customTags: {a: {formatter: {value: '50%'}}}}]}"),
        (codes::WRONG_TYPE, "{tracing: [{customTags: {a: null}}]}"),
        (codes::EXCLUSIVE, "{tracing: [{customTags: {a: {literal: {value: b}, header: {name: c}}}}]}"),
        (codes::MISSING, "{metrics: [{overrides: [{tagOverrides: {a: {operation: UPSERT}}}]}]}"),
        (codes::MISSING, "{metrics: [{overrides: [{tagOverrides: {a: {}}}]}]}"),
        (codes::EXCLUSIVE, "{metrics: [{overrides: [{tagOverrides: {a: {operation: REMOVE, value: b}}}]}]}"),
        (codes::WRONG_TYPE, "{metrics: [{overrides: [{tagOverrides: {a: null}}]}]}"),
        (codes::EXPRESSION, "{metrics: [{overrides: [{tagOverrides: {a: {value: 'b +'}}}]}]}"),
        (codes::EMPTY, "{metrics: [{overrides: [{match: {customMetric: ''}}]}]}"),
        (codes::LABEL, "{metrics: [{overrides: [{tagOverrides: {le: {operation: REMOVE}}}]}]}"),
        (codes::LABEL, "{metrics: [{overrides: [{tagOverrides: {a-b: {value: request.host}}}]}]}"),
        (codes::WORD, "{metrics: [{overrides: [{match: {metric: REQUESTS}}]}]}"),
        (codes::EXPRESSION, "{accessLogging: [{filter: {expression: 'response.code >'}}]}"),
        (codes::EXPRESSION, "{accessLogging: [{filter: {expression: ''}}]}"),
        (codes::MISSING, "{accessLogging: [{filter: {}}]}"),
        (codes::UNKNOWN_FIELD, "{logging: []}"),
    ] {
        let parsed = read(spec);
        let error = |problem: &&crate::Problem| problem.severity == Severity::Error;
        let found: Vec<&str> = parsed.problems.iter().filter(error).map(|problem| problem.code).collect();
        assert_eq!(found, [code], "{spec}: {:#?}", parsed.problems);
    }
}

#[test]
fn several_where_one_counts_are_warned_of() {
    let warned = |spec: &str| read(spec).problems.iter().any(|problem| problem.code == codes::ONLY_FIRST);
    assert!(warned("{tracing: [{providers: [{name: a}, {name: b}]}]}"));
    assert!(!warned("{tracing: [{}]}"));
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (named, spec) in [
        ("the metric `foo`", "{metrics: [{overrides: [{match: {customMetric: foo}}]}]}"),
        ("`node.metadata`", "{metrics: [{overrides: [{tagOverrides: {a: {value: \"node.metadata['A']\"}}}]}]}"),
        ("a duration", "{metrics: [{overrides: [{tagOverrides: {a: {value: request.duration}}}]}]}"),
    ] {
        let problems = read(spec).problems;
        let unbuilt = problems.iter().find(|problem| problem.is_unbuilt());
        assert!(unbuilt.is_some_and(|problem| problem.message.contains(named)), "{spec}: {problems:#?}");
    }
}
