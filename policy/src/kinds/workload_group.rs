//! `WorkloadGroup`: what services of a kind have in common, and how they are asked whether they are ready. Nodes' services that name
//! the group take it from there.

use std::collections::BTreeMap;

use super::{Endpoint, Probe, endpoint::Within};
use crate::{codes, decode::At};

/// Labels and annotations of a group at most, as in Istio.
const MAX_LABELS: usize = 256;

/// `WorkloadGroup`.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadGroup {
    /// Labels of every endpoint of the group, beside those of the template.
    pub labels: BTreeMap<String, String>,
    /// What the endpoints have in common; each brings its own address.
    pub template: Endpoint,
    /// Whether an endpoint is ready; without one it is.
    pub probe: Option<Probe>,
}

impl WorkloadGroup {
    pub(crate) fn decode(spec: &At<'_>) -> Option<Self> {
        let fields = spec.fields()?;
        let labels = fields.get("metadata").and_then(|at| decode_metadata(&at)).unwrap_or_default();
        let template = fields.required("template").and_then(|at| Endpoint::decode(&at, Within::Template));
        let probe = fields.get("probe").and_then(|at| Probe::decode(&at));
        fields.finish();
        Some(Self { labels, template: template?, probe })
    }
}

/// Services have no annotations: those of a group mean nothing.
fn decode_metadata(at: &At<'_>) -> Option<BTreeMap<String, String>> {
    let fields = at.fields()?;
    let labels = fields.get("labels");
    if let Some(annotations) = fields.get("annotations") {
        annotations.limit(MAX_LABELS);
        annotations.texts();
        annotations.warn(codes::IGNORED, "`annotations` have no meaning in this mesh", "");
    }
    fields.finish();
    if let Some(labels) = &labels {
        labels.limit(MAX_LABELS);
    }
    Some(labels.map(|labels| labels.labels()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        Spec,
        kinds::ProbeMethod,
        testing::{found, spec_of},
    };

    fn group(spec: &str) -> Arc<WorkloadGroup> {
        let Spec::WorkloadGroup(group) = spec_of("WorkloadGroup", spec) else { panic!("another kind") };
        group
    }

    fn probe(probe: &str) -> Probe {
        group(&format!("{{template: {{}}, probe: {probe}}}")).probe.clone().unwrap()
    }

    #[test]
    fn a_group_describes_its_endpoints() {
        let group = group(
            "{metadata: {labels: {app: db}, annotations: {note: 'any text'}},
              template: {serviceAccount: db, weight: 3, labels: {version: v1}}}",
        );
        assert_eq!((group.labels["app"].as_str(), group.template.labels["version"].as_str()), ("db", "v1"));
        assert_eq!((group.template.address.clone(), group.template.weight), (None, 3));
        assert_eq!((group.template.service_account.as_str(), &group.probe), ("db", &None));
    }

    #[test]
    fn probes_have_defaults() {
        let tcp = probe("{tcpSocket: {port: 3306}}");
        let seconds = [tcp.initial_delay, tcp.timeout, tcp.period].map(|one| one.as_secs());
        assert_eq!((seconds, tcp.success_threshold, tcp.failure_threshold), ([0, 1, 10], 1, 3));
        assert_eq!(tcp.method, ProbeMethod::Tcp { host: None, port: 3_306 });
        let http = probe(
            "{initialDelaySeconds: 5, timeoutSeconds: 0, failure_threshold: 9,
              httpGet: {path: /ready, port: 80, scheme: HTTPS, httpHeaders: [{name: Host, value: a.b}, {name: X-A}]}}",
        );
        assert_eq!((http.initial_delay, http.timeout), (Duration::from_secs(5), Duration::from_secs(1)));
        assert_eq!(http.failure_threshold, 9);
        let headers = vec![("Host".to_owned(), "a.b".to_owned()), ("X-A".to_owned(), String::new())];
        let expected = ProbeMethod::Http { path: "/ready".into(), port: 80, host: None, https: true, headers };
        assert_eq!(http.method, expected);
        let grpc = probe("{grpc: {port: 50051, service: shop.Cart}}").method;
        assert_eq!(grpc, ProbeMethod::Grpc { port: 50_051, service: "shop.Cart".into() });
        let exec = probe("{exec: {command: [/bin/check, --fast]}}").method;
        assert_eq!(exec, ProbeMethod::Exec { command: vec!["/bin/check".into(), "--fast".into()] });
    }

    #[test]
    fn rules_of_groups_and_probes() {
        for (spec, codes) in [
            ("{}", &[codes::MISSING][..]),
            ("{template: {address: 10.0.0.1}}", &[codes::IGNORED]),
            ("{template: {}, metadata: {labels: {'a b': c}}}", &[codes::LABEL]),
            ("{template: {}, metadata: {name: x}}", &[codes::UNKNOWN_FIELD]),
            ("{template: {}, probe: {}}", &[codes::MISSING]),
            ("{template: {}, probe: {periodSeconds: -1, exec: {command: [a]}}}", &[codes::RANGE]),
            ("{template: {}, probe: {exec: {command: [a]}, grpc: {port: 1}}}", &[codes::EXCLUSIVE]),
            ("{template: {}, probe: {exec: {}}}", &[codes::MISSING]),
            ("{template: {}, probe: {exec: {command: ['']}}}", &[codes::EMPTY]),
            ("{template: {}, probe: {tcpSocket: {port: 0}}}", &[codes::RANGE]),
            ("{template: {}, probe: {grpc: {}}}", &[codes::MISSING]),
            ("{template: {}, probe: {httpGet: {}}}", &[codes::MISSING]),
            ("{template: {}, probe: {httpGet: {port: 80, path: ready}}}", &[codes::WORD]),
            ("{template: {}, probe: {httpGet: {port: 80, scheme: https}}}", &[codes::WORD]),
            ("{template: {}, probe: {httpGet: {port: 80, httpHeaders: [{name: a_b}]}}}", &[codes::HEADER]),
            ("{template: {}, probe: {httpGet: {port: 80, httpHeaders: [{value: b}]}}}", &[codes::HEADER]),
        ] {
            let found = found("WorkloadGroup", spec);
            let found: Vec<&str> = found.iter().filter(|one| !one.is_unbuilt()).map(|one| one.code).collect();
            assert_eq!(found, codes, "{spec}");
        }
        let negative =
            found("WorkloadGroup", "\n  template: {}\n  probe:\n    grpc: {port: 1}\n    timeoutSeconds: -5");
        let one = &negative[0];
        assert_eq!((one.line, one.column, one.field.as_str()), (8, 21, "spec.probe.timeoutSeconds"));
        assert_eq!(one.istio_message.as_deref(), Some("timeoutSeconds must be non-negative"));
    }

    #[test]
    fn what_a_machine_decides_by_itself_is_refused_by_name() {
        for (spec, fields) in [
            ("{template: {labels: {a: b}}, probe: {httpGet: {port: 80}}}", &[][..]),
            ("{template: {ports: {http: 80}, locality: eu}}", &["spec.template.locality", "spec.template.ports"]),
            ("{template: {}, probe: {exec: {command: [rm]}}}", &["spec.probe.exec"]),
            (
                "{template: {}, probe: {httpGet: {port: 80, host: a.b, scheme: HTTPS, httpHeaders: [{name: a, value: b}]}}}",
                &["spec.probe.httpGet.host", "spec.probe.httpGet.httpHeaders", "spec.probe.httpGet.scheme"],
            ),
            ("{template: {}, probe: {tcpSocket: {port: 80, host: a.b}}}", &["spec.probe.tcpSocket.host"]),
        ] {
            let found = found("WorkloadGroup", spec);
            let unbuilt = found.iter().filter(|one| one.is_unbuilt()).map(|one| one.field.as_str());
            let mut unbuilt: Vec<&str> = unbuilt.collect();
            unbuilt.sort_unstable();
            assert_eq!(unbuilt, fields, "{spec}");
        }
    }
}
