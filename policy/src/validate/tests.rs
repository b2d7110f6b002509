//! What lint finds between documents.

mod authorization;
mod gateways;
mod providers;
mod rules;
mod scopes;

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

/// What is said of documents that join an empty mesh.
fn problems(text: &str, table: &Table) -> Vec<Problem> {
    let parsed = parse::yaml("f.yaml", text, "default");
    assert!(parsed.is_valid(), "{:#?}", parsed.problems);
    between(&parsed.documents, &state_of(""), table)
}

/// Code, field and line of all of it.
fn found(text: &str, table: &Table) -> Vec<(&'static str, String, usize)> {
    problems(text, table).into_iter().map(|one| (one.code, one.field, one.line)).collect()
}

/// The fields of which something with this code is said.
fn fields(text: &str, table: &Table, code: &str) -> Vec<String> {
    found(text, table).into_iter().filter(|(found, _, _)| *found == code).map(|(_, field, _)| field).collect()
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

#[test]
fn a_wider_wildcard_is_a_note() {
    let with = |name: &str, host: &str| {
        VIRTUAL_SERVICE.replace("name: reviews}", name).replace("hosts: [reviews]", &format!("hosts: ['{host}']"))
    };
    let text = format!("{}---\n{}", with("name: a}", "*.shop.example"), with("name: b}", "*.example"));
    let about: Vec<Problem> = problems(&text, &table());
    let about: Vec<&Problem> = about.iter().filter(|one| one.code == codes::CONFLICTING_VIRTUAL_SERVICES).collect();
    assert!(matches!(&about[..], [a, b] if a.severity == Severity::Info && b.severity == Severity::Info), "{about:#?}");
    assert!(
        about[0].message.ends_with("this document applies alone")
            && about[1].message.ends_with("that document applies alone")
    );
}

#[test]
fn rules_that_no_request_reaches() {
    let with = |rules: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec: {{hosts: [reviews], http: [{rules}]}}\n"
        )
    };
    let to = |condition: &str| format!("{{match: [{condition}], route: [{{destination: {{host: reviews}}}}]}}");
    let of = |rules: &[String]| fields(&with(&rules.join(", ")), &table(), codes::UNREACHABLE_RULE);
    let (a, ab, get) =
        (to("{uri: {prefix: /a}}"), to("{uri: {prefix: /ab}}"), to("{uri: {prefix: /ab}, method: {exact: GET}}"));
    assert_eq!(of(&[a.clone(), ab.clone()]), ["spec.http[1]"]);
    assert_eq!(of(&[ab.clone(), get.clone(), a.clone()]), ["spec.http[1]"]);
    assert!(of(&[get.clone(), ab.clone(), a.clone()]).is_empty());
    let two = to("{uri: {exact: /abc}}, {uri: {exact: /b}}");
    assert!(of(&[a.clone(), two.clone()]).is_empty());
    let hidden = fields(&with(&format!("{a}, {two}")), &table(), codes::DUPLICATE_MATCH);
    assert_eq!(hidden, ["spec.http[1].match[0]"]);
    assert_eq!(of(&[a.clone(), to("{uri: {exact: /b}}"), two]), ["spec.http[2]"]);
    let delegate = "{match: [{uri: {prefix: /a}}], delegate: {name: part}}".to_owned();
    assert!(of(&[delegate, ab]).is_empty(), "what the delegate leaves goes on");
}

#[test]
fn without_a_role_at_the_hosts_owner_a_document_is_private() {
    let key = certs::sign::SigningKey::generate().public();
    let text = RULE.replace("host: reviews", "host: reviews.shop.svc.cluster.local");
    let documents = parse::yaml("f.yaml", &text, "default").documents;
    let state = state_of("");
    let table = Table::new(&[("shop/reviews", &[9080])]).labelled("shop/reviews", &[("version", "v1")]);
    let beyond = |signers: Option<&[PublicKey]>| {
        let found = between_as(&documents, &state, &table, signers);
        found.into_iter().filter(|one| one.code == codes::BEYOND_ROLE).map(|one| one.message).collect::<Vec<_>>()
    };
    assert!(beyond(None).is_empty(), "who signs is not known");
    assert!(beyond(Some(&[key]))[0].starts_with("the signer has no role in shop"));
    let operator = state.role_set.set.keys[0].key;
    assert!(beyond(Some(&[operator])).is_empty(), "the operator may do everything");
}

/// Work stays bounded where thousands of documents are about one host, one Gateway, one namespace. No time is asserted: it ends.
#[test]
fn thousands_of_documents_are_judged() {
    let mut text = String::new();
    for index in 0..2_500 {
        let own = if index % 2 == 0 { "shared".to_owned() } else { format!("svc-{index}") };
        text.push_str(&format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{index}}}\nspec: {{hosts: [{own}], gateways: [mesh, edge], http: [{{match: [{{uri: {{prefix: /{index}}}}}], route: [{{destination: {{host: {own}, subset: v1}}}}]}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d{index}}}\nspec: {{host: {own}, subsets: [{{name: v1, labels: {{version: v{index}}}}}]}}\n"
        ));
    }
    let problems = problems(&text, &table());
    let named = |code: &str| problems.iter().filter(|one| one.code == code).count();
    assert_eq!(named(codes::CONFLICTING_VIRTUAL_SERVICES), 1_250 * MAX_NAMED);
    assert_eq!(named(codes::REPEATED_SUBSET), 1_250 * MAX_NAMED);
    assert_eq!(named(codes::UNKNOWN_HOST), 2_500);
}

#[test]
fn thousands_of_policies_are_judged() {
    let mut text = String::new();
    for index in 0..1_000 {
        let action = if index % 2 == 0 { "DENY" } else { "ALLOW" };
        text.push_str(&format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a{index}}}\nspec: {{action: {action}, selector: {{matchLabels: {{app: a{index}}}}}, rules: [{{to: [{{operation: {{paths: [/{index}]}}}}]}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s{index}}}\nspec: {{workloadSelector: {{labels: {{app: a{index}}}}}, egress: [{{hosts: ['./*']}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g{index}}}\nspec: {{selector: {{app: a0}}, servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [h{index}.example]}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e{index}}}\nspec: {{hosts: [shared.example], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS}}\n"
        ));
    }
    let problems = problems(&text, &table().workload("default", &[("app", "a0")], &[]));
    let named = |code: &str| problems.iter().filter(|one| one.code == code).count();
    assert_eq!(named(codes::SELECTS_NOBODY), 2 * 999);
    assert_eq!(named(codes::HOST_CLAIMED_TWICE), 1_000 * MAX_NAMED);
    assert_eq!(named(codes::CONFLICTING_GATEWAYS), 0);
}

#[test]
fn keys_that_can_sign_are_refused_unless_allowed() {
    let users = |keys: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: users}}\n\
             spec: {{jwtRules: [{{issuer: a, jwks: '{{\"keys\": []}}'}}, {{issuer: b, jwks: '{{\"keys\": [{keys}]}}'}}]}}\n"
        )
    };
    let shared = r#"{"kty": "oct", "k": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"}"#;
    assert_eq!(fields(&users(shared), &table(), codes::SIGNING_KEYS), ["spec.jwtRules[1].jwks"]);
    assert!(refuses_push(codes::SIGNING_KEYS, Severity::Warning));
    let public = r#"{"kty": "OKP", "crv": "Ed25519", "x": "AQ"}"#;
    assert!(fields(&users(public), &table(), codes::SIGNING_KEYS).is_empty());
}
