//! Istio's analysis of its own documents, compared with lint's between documents: file, Istio's code, document.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use policy::{
    Problem, Severity, codes,
    history::State,
    parse,
    validate::{self, Facts},
};

use crate::corpus;

/// What Istio's analysis finds in every case: the workload and the Service of its ingress gateway.
const INSTALLATION: &str = "apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec: {selector: {istio: ingressgateway}, ports: [{name: http2, port: 80}, {name: https, port: 443}]}
---
apiVersion: v1
kind: Pod
metadata: {name: istio-ingressgateway, namespace: istio-system, labels: {istio: ingressgateway}}
";

/// Istio's messages with their codes, and ours that say the same.
const MESSAGES: &[(&str, &str, &[&str])] = &[
    (
        "ReferencedResourceNotFound",
        "IST0101",
        &[
            codes::UNKNOWN_HOST,
            codes::UNKNOWN_PORT,
            codes::UNKNOWN_SUBSET,
            codes::UNKNOWN_GATEWAY,
            codes::SELECTS_NOBODY,
            codes::UNKNOWN_NAMESPACE,
        ],
    ),
    ("ConflictingMeshGatewayVirtualServiceHosts", "IST0109", &[codes::CONFLICTING_VIRTUAL_SERVICES]),
    ("MultipleSidecarsWithoutWorkloadSelectors", "IST0111", &[codes::SEVERAL_DEFAULTS]),
    ("VirtualServiceDestinationPortSelectorRequired", "IST0112", &[codes::PORT_REQUIRED]),
    ("NoMatchingWorkloadsFound", "IST0127", &[codes::SELECTS_NOBODY]),
    ("NoServerCertificateVerificationDestinationLevel", "IST0128", &[codes::SYSTEM_ROOTS]),
    ("NoServerCertificateVerificationPortLevel", "IST0129", &[codes::SYSTEM_ROOTS]),
    ("VirtualServiceHostNotFoundInGateway", "IST0132", &[codes::HOST_NOT_AT_GATEWAY]),
    ("IngressRouteRulesNotAffected", "IST0140", &[codes::MESH_RULES_NOT_AT_GATEWAY]),
    ("ConflictingGateways", "IST0145", &[codes::CONFLICTING_GATEWAYS]),
    ("MultipleTelemetriesWithoutWorkloadSelectors", "IST0160", &[codes::SEVERAL_DEFAULTS]),
    ("DestinationRuleSubsetNotSelectPods", "IST0173", &[codes::SUBSET_WITHOUT_ENDPOINTS]),
    ("UnknownDestinationRuleHost", "IST0174", &[codes::RULE_WITHOUT_HOST]),
];

/// Of which kind of document and which of our codes an analyser of Istio's speaks: what others say of the file does not count for it.
const ANALYSERS: &[(&str, &str, &[&str])] = &[
    ("gateway.IngressGatewayPortAnalyzer", "Gateway", &[codes::SELECTS_NOBODY]),
    ("gateway.ConflictingGatewayAnalyzer", "Gateway", &[codes::CONFLICTING_GATEWAYS]),
    (
        "sidecar.SelectorAnalyzer",
        "Sidecar",
        &[codes::SELECTS_NOBODY, codes::SEVERAL_DEFAULTS, codes::SEVERAL_FOR_WORKLOAD],
    ),
    ("virtualservice.ConflictingMeshGatewayHostsAnalyzer", "VirtualService", &[codes::CONFLICTING_VIRTUAL_SERVICES]),
    (
        "virtualservice.DestinationHostAnalyzer",
        "VirtualService",
        &[codes::UNKNOWN_HOST, codes::UNKNOWN_PORT, codes::PORT_REQUIRED, codes::MESH_RULES_NOT_AT_GATEWAY],
    ),
    ("virtualservice.DestinationRuleAnalyzer", "VirtualService", &[codes::UNKNOWN_SUBSET]),
    ("virtualservice.GatewayAnalyzer", "VirtualService", &[codes::UNKNOWN_GATEWAY, codes::HOST_NOT_AT_GATEWAY]),
    ("authz.AuthorizationPoliciesAnalyzer", "AuthorizationPolicy", &[codes::SELECTS_NOBODY, codes::UNKNOWN_NAMESPACE]),
    ("authn.BlockedCIDRsAnalyzer", "RequestAuthentication", &[]),
    ("destinationrule.CaCertificateAnalyzer", "DestinationRule", &[codes::SYSTEM_ROOTS]),
    ("telemetry.ProviderAnalyzer", "Telemetry", &[]),
    ("telemetry.DefaultSelectorAnalyzer", "Telemetry", &[codes::SEVERAL_DEFAULTS]),
    (
        "destinationrule.PodNotSelectedAnalyzer",
        "DestinationRule",
        &[codes::RULE_WITHOUT_HOST, codes::SUBSET_WITHOUT_ENDPOINTS],
    ),
];

/// Messages (file, message, document; empty: every one) that mean nothing in this mesh, and why.
const NOT_APPLICABLE: &[(&str, &str, &str, &str)] = &[
    ("", "GatewayPortNotDefinedOnService", "", "no Service stands before a gateway: its node opens the port itself"),
    (
        "",
        "InvalidGatewayCredential",
        "",
        "what a Secret of Kubernetes holds is not read: a node looks into its own store",
    ),
    ("", "IneffectivePolicy", "", "ambient mode is Kubernetes' own"),
    ("", "IneffectiveSelector", "", "about workloads of the Gateway API, which is Kubernetes' own"),
    ("", "EnvoyFilterUsesAddOperationIncorrectly", "", "there is no Envoy"),
    ("", "EnvoyFilterUsesRelativeOperation", "", "there is no Envoy"),
    ("", "EnvoyFilterUsesRemoveOperationIncorrectly", "", "there is no Envoy"),
    (
        "analysis/virtualservice_kubernetes_gateways.yaml",
        "",
        "",
        "about a Gateway of the Gateway API, which is Kubernetes' own: here no such Gateway exists",
    ),
    (
        "analysis/virtualservice_destinationhosts.yaml",
        "ReferencedResourceNotFound",
        "VirtualService istio-system/cross-namespace-details",
        "an annotation of Kubernetes Services hides one from a namespace; registered services are seen by all",
    ),
    (
        "analysis/virtualservice_destinationhosts.yaml",
        "ReferencedResourceNotFound",
        "VirtualService hello/hello-export-to-bogus",
        "an annotation of Kubernetes Services hides one from a namespace; registered services are seen by all",
    ),
    (
        "analysis/virtualservice_host_not_found_gateway.yaml",
        "",
        "VirtualService default/testing-service-01-test-04",
        "it names a Gateway that is refused, as by Istio's own validation: two of its ports have one name",
    ),
    (
        "analysis/virtualservice_host_not_found_gateway.yaml",
        "",
        "VirtualService default/testing-service-02-test-04",
        "it names a Gateway that is refused, as by Istio's own validation: two of its ports have one name",
    ),
    (
        "analysis/virtualservice_host_not_found_gateway.yaml",
        "",
        "VirtualService default/testing-service-03-test-04",
        "it names a Gateway that is refused, as by Istio's own validation: two of its ports have one name",
    ),
];

/// Disagreements (file, message, document), and why they stay.
const ACCEPTED: &[(&str, &str, &str, &str)] = &[];

/// `KIND NAMESPACE/NAME` of what the table calls a document.
fn full_name(document: &str) -> String {
    match document.split_once(' ') {
        Some((kind, name)) if !name.contains('/') => format!("{kind} default/{name}"),
        Some(_) | None => document.to_owned(),
    }
}

/// What lint says of a file, with what Istio's analysis knows besides.
fn lint(root: &Path, file: &str) -> (parse::Parsed, Vec<Problem>) {
    let text = std::fs::read_to_string(root.join(file)).unwrap();
    let parsed = parse::yaml(file, &text, "default");
    let installation = parse::yaml("installation", INSTALLATION, "default").kubernetes;
    let facts = Facts::new(parsed.kubernetes.iter().cloned().chain(installation));
    let problems = validate::between(&parsed.documents, &State::nothing(), &facts);
    (parsed, problems)
}

/// One row of the table.
struct Row<'t> {
    file: &'t str,
    analyser: &'t str,
    /// Message and document, each as often as it is expected.
    expected: Vec<(&'t str, String)>,
}

fn rows(table: &str) -> impl Iterator<Item = Row<'_>> {
    table.lines().skip(1).map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let messages = columns[3].split(" | ").filter_map(|message| message.split_once(" @ "));
        let expected = messages.map(|(message, document)| (message.trim(), full_name(document.trim()))).collect();
        Row { file: columns[0], analyser: columns[2], expected }
    })
}

fn listed(list: &[(&str, &str, &str, &str)], file: &str, message: &str, document: &str) -> bool {
    let is = |wanted: &str, given: &str| wanted.is_empty() || wanted == given;
    list.iter().any(|(f, m, d, _)| is(f, file) && is(m, message) && is(d, document))
}

/// How often each message about each document is expected, less how often it is said.
type Balance<'t> = BTreeMap<(&'t str, String), i32>;

#[test]
fn findings_are_istios() {
    let Some(root) = corpus() else { return };
    let table = std::fs::read_to_string(root.join("analysis/expected.tsv")).unwrap();
    let (mut agreed, mut refused, mut foreign, mut wrong) = (0, 0, 0, Vec::new());
    for row in rows(&table) {
        let (parsed, problems) = lint(&root, row.file);
        let is_refused = |document: &str| {
            let about = parsed.problems.iter().filter(|one| one.document.as_deref() == Some(document));
            about.into_iter().any(|one| one.severity == Severity::Error)
        };
        let mut balance: Balance<'_> = BTreeMap::new();
        for (message, document) in row.expected {
            if listed(NOT_APPLICABLE, row.file, message, &document) {
                foreign += 1;
            } else if is_refused(&document) {
                // More than a warning: nothing that could be compared.
                refused += 1;
            } else {
                *balance.entry((message, document)).or_default() += 1;
            }
        }
        let expected = balance.values().sum::<i32>();
        let Some((_, kind, ours)) = ANALYSERS.iter().find(|(analyser, _, _)| *analyser == row.analyser) else {
            assert_eq!(expected, 0, "{} is compared with nothing", row.analyser);
            continue;
        };
        for problem in problems.iter().filter(|one| ours.contains(&one.code)) {
            let document = problem.document.clone().unwrap();
            let text = problem.istio_message.as_deref().unwrap_or_default();
            let message = MESSAGES.iter().find(|(_, code, own)| text.contains(code) && own.contains(&problem.code));
            let message = message.map_or(problem.code, |(message, _, _)| message);
            if document.starts_with(kind) && !listed(NOT_APPLICABLE, row.file, message, &document) {
                *balance.entry((message, document)).or_default() -= 1;
            }
        }
        let off = balance.into_iter().filter(|(_, count)| *count != 0);
        let off: Vec<_> =
            off.filter(|((message, document), _)| !listed(ACCEPTED, row.file, message, document)).collect();
        // A file of which Istio says nothing is one agreement.
        agreed += expected.max(1) - i32::try_from(off.len()).unwrap().min(expected.max(1));
        wrong.extend(off.into_iter().map(|what| format!("{}: {what:?}", row.file)));
    }
    println!("{agreed} agreed, {} accepted, {refused} refused outright, {foreign} not applicable", ACCEPTED.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(agreed > 30 && ACCEPTED.len() * 100 <= usize::try_from(agreed).unwrap());
}

/// Services and workloads of Bookinfo, which its documents are about.
fn bookinfo() -> String {
    let services = [
        ("productpage", &["v1"][..]),
        ("details", &["v1", "v2"]),
        ("ratings", &["v1", "v2"]),
        ("reviews", &["v1", "v2", "v3"]),
    ];
    let mut text = String::new();
    for (name, versions) in services {
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 9080}}]}}\n"
        ));
        for version in versions {
            text.push_str(&format!(
                "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}-{version}}}\nspec: {{template: {{metadata: {{labels: {{app: {name}, version: {version}}}}}}}}}\n"
            ));
        }
    }
    text
}

/// Warnings between documents (beginning of the file's name, code) that are right, and why.
const RIGHT: &[(&str, &str, &str)] = &[
    (
        "samples/bookinfo-networking-virtual-service-",
        codes::UNKNOWN_SUBSET,
        "the file alone would give 503: destination-rule-all.yaml must be pushed with it",
    ),
    (
        "samples/bookinfo-networking-destination-rule-all",
        codes::SUBSET_WITHOUT_ENDPOINTS,
        "v2-mysql and v2-mysql-vm run only where their own platform files are applied",
    ),
    ("reference/virtual_service-", codes::UNKNOWN_SUBSET, "the page shows the DestinationRule apart from it"),
    ("reference/virtual_service-07", codes::DELEGATE_MISSING, "the page shows the delegates apart from it"),
    ("reference/virtual_service-07", codes::UNKNOWN_GATEWAY, "the page shows no Gateway of that name"),
    (
        "reference/destination_rule-08",
        codes::EJECTS_NOBODY,
        "without maxEjectionPercent it ejects nobody of fewer than ten, in Istio as here",
    ),
];

#[test]
fn real_documents_raise_no_false_alarm() {
    let Some(root) = corpus() else { return };
    let (mut judged, mut wrong, mut used) = (0, Vec::new(), BTreeSet::new());
    for folder in ["samples", "reference"] {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for path in files {
            let file = format!("{folder}/{}", path.file_name().unwrap().to_string_lossy());
            let parsed = parse::yaml(&file, &std::fs::read_to_string(&path).unwrap(), "default");
            let beside = if file.contains("bookinfo") { bookinfo() } else { String::new() };
            let beside = parse::yaml("bookinfo", &beside, "default").kubernetes;
            let facts = Facts::new(parsed.kubernetes.into_iter().chain(beside));
            judged += parsed.documents.len();
            for problem in validate::between(&parsed.documents, &State::nothing(), &facts) {
                let right = RIGHT.iter().position(|(own, code, _)| file.starts_with(own) && *code == problem.code);
                used.extend(right);
                if problem.severity == Severity::Warning && right.is_none() {
                    wrong.push(problem.to_string());
                }
            }
        }
    }
    println!("{judged} documents judged, {} kinds of warnings are right", RIGHT.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(used.len(), RIGHT.len(), "some are listed in vain");
    assert!(judged > 70);
}
