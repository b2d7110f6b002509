//! What lint finds between documents.

use super::*;
use crate::{
    parse,
    testing::{Mesh, Table, state_of},
};

const VIRTUAL_SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v1}
      weight: 1
    - destination: {host: ratngs}
      weight: 1
    - destination: {host: ratings.default}
      weight: 1
    - destination: {host: multi}
      weight: 1
    - destination: {host: multi, port: {number: 7}}
      weight: 1
";

const RULE: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v9, labels: {version: v9}}]}
";

fn table() -> Table {
    Table::new(&[("default/reviews", &[9080]), ("default/ratings", &[9080]), ("default/multi", &[80, 81])])
        .labelled("default/reviews", &[("version", "v1")])
}

fn codes_of(text: &str, state: &State) -> Vec<(&'static str, usize, String)> {
    let parsed = parse::yaml("f.yaml", text, "default");
    assert!(parsed.is_valid(), "{:#?}", parsed.problems);
    between(&parsed.documents, state, &table())
        .into_iter()
        .map(|problem| (problem.code, problem.line, problem.hint))
        .collect()
}

#[test]
fn destinations() {
    let found = codes_of(VIRTUAL_SERVICE, &state_of(""));
    let short: Vec<(&str, usize)> = found.iter().map(|(code, line, _)| (*code, *line)).collect();
    let expected = [
        (codes::UNKNOWN_SUBSET, 8),
        (codes::UNKNOWN_HOST, 10),
        (codes::UNKNOWN_HOST, 12),
        (codes::PORT_REQUIRED, 14),
        (codes::UNKNOWN_PORT, 16),
    ];
    assert_eq!(short, expected);
    assert_eq!(found[1].2, "did you mean `ratings.default.svc.cluster.local`?");
    assert!(found[2].2.contains("write ratings.default.svc.cluster.local"));
}

#[test]
fn the_push_and_the_mesh_define_subsets() {
    let state = state_of(RULE);
    assert!(codes_of(VIRTUAL_SERVICE, &state).iter().all(|(code, _, _)| *code != codes::UNKNOWN_SUBSET));
    let both = format!("{VIRTUAL_SERVICE}---\n{RULE}");
    let found = codes_of(&both, &state_of(""));
    assert!(found.iter().all(|(code, _, _)| *code != codes::UNKNOWN_SUBSET));
    assert!(found.iter().any(|(code, line, _)| (*code, *line) == (codes::SUBSET_WITHOUT_ENDPOINTS, 22)));
    // A push that takes the subset away from the mesh's rule.
    let without = format!("{VIRTUAL_SERVICE}---\n{}", RULE.replace("name: v1", "name: v2"));
    assert!(codes_of(&without, &state).iter().any(|(code, _, _)| *code == codes::UNKNOWN_SUBSET));
}

#[test]
fn conflicts_between_documents() {
    let mut mesh = Mesh::new();
    let state = mesh.push(&format!("{}---\n{RULE}", VIRTUAL_SERVICE.replace("name: reviews}", "name: older}")));
    let found = codes_of(VIRTUAL_SERVICE, &state);
    assert!(found.iter().any(|(code, _, _)| *code == codes::CONFLICTING_VIRTUAL_SERVICES));
    let found = codes_of(&RULE.replace("name: reviews}", "name: newer}"), &state);
    assert!(found.iter().any(|(code, _, _)| *code == codes::REPEATED_SUBSET));
    let apart = VIRTUAL_SERVICE.replace("name: reviews}", "name: apart, namespace: shop}");
    assert!(codes_of(&apart, &state).iter().all(|(code, _, _)| *code != codes::CONFLICTING_VIRTUAL_SERVICES));
    // An update of the older document is no mistake: the younger one has been without effect all along.
    let mut mesh = Mesh::new();
    let older = VIRTUAL_SERVICE.replace("name: reviews}", "name: older}");
    mesh.push(&older);
    let state = mesh.push(VIRTUAL_SERVICE);
    let severities = |text: &str| {
        let parsed = parse::yaml("f.yaml", text, "default");
        let problems = between(&parsed.documents, &state, &table()).into_iter();
        problems
            .filter(|problem| problem.code == codes::CONFLICTING_VIRTUAL_SERVICES)
            .map(|problem| (problem.severity, problem.message))
            .collect::<Vec<_>>()
    };
    assert!(matches!(&severities(&older)[..], [(Severity::Info, _)]));
    let younger = severities(VIRTUAL_SERVICE);
    assert!(
        matches!(&younger[..], [(Severity::Warning, text)] if text.contains("default/older (pushed by ann, changeset"))
    );
    // A private document wins in its own namespace, whatever its age; elsewhere the older one does.
    let private = VIRTUAL_SERVICE.replace("spec:", "spec:\n  exportTo: [.]");
    assert!(matches!(&severities(&private)[..], [(Severity::Info, _)]));
    let shown = severities(&VIRTUAL_SERVICE.replace("spec:", "spec:\n  exportTo: [., shop]"));
    assert!(matches!(&shown[..], [(Severity::Info, _)]), "named beats public: {shown:?}");
    let alien = RULE.replace("host: reviews", "host: nobody");
    assert_eq!(codes_of(&alien, &state)[0].0, codes::RULE_WITHOUT_HOST);
}

#[test]
fn a_second_traffic_policy_for_a_host_has_no_effect() {
    let with = |name: &str| {
        RULE.replace("name: reviews}", name)
            .replace("spec: {", "spec: {trafficPolicy: {loadBalancer: {simple: RANDOM}}, ")
    };
    let state = state_of(&with("name: older}"));
    let parsed = parse::yaml("f.yaml", &with("name: newer}"), "default");
    let found = between(&parsed.documents, &state, &table());
    let overruled: Vec<_> = found.iter().filter(|problem| problem.code == codes::OVERRULED_POLICY).collect();
    assert!(matches!(&overruled[..], [one] if refuses_push(one.code, one.severity)), "{found:#?}");
    let parsed = parse::yaml("f.yaml", &with("name: older}"), "default");
    assert!(between(&parsed.documents, &state, &table()).iter().all(|problem| problem.code != codes::OVERRULED_POLICY));
}

#[test]
fn an_author_silences_what_is_between_documents() {
    let text =
        VIRTUAL_SERVICE.replace("name: reviews}", "name: reviews, annotations: {skein.dev/lint-ignore: SKN0302}}");
    let documents = parse::yaml("f.yaml", &text, "default").documents;
    let problems = between(&documents, &state_of(""), &table());
    let loud: Vec<_> = problems.iter().filter(|problem| !is_silenced(problem, &documents)).collect();
    assert_eq!(loud.len() + 1, problems.len());
    assert!(loud.iter().all(|problem| problem.code != codes::UNKNOWN_SUBSET));
}

#[test]
fn without_a_mesh_nothing_is_said_of_hosts() {
    let parsed = parse::yaml("f.yaml", VIRTUAL_SERVICE, "default");
    let found = between(&parsed.documents, &State::nothing(), &Table::default());
    assert!(found.iter().all(|problem| problem.code == codes::UNKNOWN_SUBSET));
    let found = between(&parsed.documents, &state_of(""), &Table::default());
    assert_eq!(found.iter().filter(|problem| problem.code == codes::UNKNOWN_HOST).count(), 5);
}

#[test]
fn delegates_exist_and_are_seen() {
    let root = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root}
spec:
  hosts: [reviews]
  http:
  - delegate: {name: part, namespace: shop}
";
    let part = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: part, namespace: shop}
spec: {http: [{route: [{destination: {host: reviews.default.svc.cluster.local}}]}]}
";
    let messages = |text: &str| -> Vec<String> {
        let parsed = parse::yaml("f.yaml", text, "default");
        assert!(parsed.is_valid(), "{:#?}", parsed.problems);
        let found = between(&parsed.documents, &state_of(""), &table());
        let missing = found.into_iter().filter(|problem| problem.code == codes::DELEGATE_MISSING);
        missing.map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
    };
    assert!(messages(&format!("{root}{part}")).is_empty());
    assert!(messages(root)[0].starts_with("spec.http[0].delegate: no VirtualService is called shop/part"));
    let hidden = part.replace("spec: {", "spec: {exportTo: ['.'], ");
    assert!(messages(&format!("{root}{hidden}"))[0].contains("is not exported here"));
    let hosts = part.replace("spec: {", "spec: {hosts: [reviews], ");
    assert!(messages(&format!("{root}{hosts}"))[0].contains("has hosts of its own"));
}
