//! Complaints and where they point.

use proptest::prelude::*;

use super::*;

fn problems(text: &str) -> Vec<(&'static str, usize, usize, String, String)> {
    let parsed = yaml("f.yaml", text, "default");
    parsed.problems.into_iter().map(|one| (one.code, one.line, one.column, one.field, one.hint)).collect()
}

const GOOD: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  labels: {a: b}
  creationTimestamp: 2020-01-01T00:00:00Z
spec:
  hosts: [reviews]
  http:
  - route:
    - destination:
        host: reviews
status: {anything: goes}
";

#[test]
fn every_complaint_points_at_its_place() {
    let text = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts: [reviews]
  http:
  - name: a
    tiemout: 1s
    timeout: 5
    match:
    - uri: {regex: '('}
    - headers: {x: {exact: 1}}
    retries: {attempts: -1, retryOn: '5xx, reset'}
    headers: {request: {set: {x: '%FILTER_STATE(a)%'}}}
    route:
    - destination: {host: reviews, port: {number: 70000}}
      weight: -1
";
    let found = problems(text);
    let short: Vec<(&str, usize, usize, &str)> =
        found.iter().map(|(code, line, column, field, _)| (*code, *line, *column, field.as_str())).collect();
    assert_eq!(
        short,
        [
            (codes::REGEX, 12, 20, "spec.http[0].match[0].uri.regex"),
            (codes::WRONG_TYPE, 13, 28, "spec.http[0].match[1].headers[x].exact"),
            (codes::RANGE, 17, 51, "spec.http[0].route[0].destination.port.number"),
            (codes::RANGE, 18, 15, "spec.http[0].route[0].weight"),
            (codes::DURATION, 10, 14, "spec.http[0].timeout"),
            (codes::RANGE, 14, 25, "spec.http[0].retries.attempts"),
            (codes::RETRY_ON, 14, 38, "spec.http[0].retries.retryOn"),
            (codes::NOT_SUPPORTED, 15, 34, "spec.http[0].headers.request.set[x]"),
            (codes::UNKNOWN_FIELD, 9, 5, "spec.http[0].tiemout"),
        ]
    );
    assert_eq!(found.last().unwrap().4, "did you mean `timeout`?");
    assert_eq!(found[4].4, "write \"5s\"");
    let parsed = yaml("f.yaml", text, "default");
    assert!(parsed.documents.is_empty());
    assert!(parsed.problems.iter().all(|one| one.document.as_deref() == Some("VirtualService default/reviews")));
}

#[test]
fn a_good_document_is_read_and_signed() {
    let parsed = yaml("f.yaml", &format!("# first\n\n{GOOD}"), "shop");
    assert!(parsed.problems.is_empty(), "{:#?}", parsed.problems);
    let located = &parsed.documents[0];
    assert_eq!(located.document.id, DocumentId::new(Kind::VirtualService, "shop", "reviews"));
    assert_eq!((located.line, located.document.created), (3, Some(1_577_836_800_000)));
    let service = located.document.spec.virtual_service().unwrap();
    assert_eq!(service.hosts, ["reviews.shop.svc.cluster.local"]);
    assert_eq!(service.http[0].line, 12);
    let again = json(&located.document.id, &located.json).unwrap();
    assert_eq!(again.spec.virtual_service().unwrap().http[0].line, 12);
    assert!(serde_json::from_str::<serde_json::Value>(&located.json).unwrap().get("status").is_none());
    let other = yaml("f.yaml", GOOD, "shop").documents.remove(0);
    assert_ne!(other.json, located.json);
    assert_eq!(compact(&other.json), compact(&located.json));
    assert!(same(&other.json, &located.json) && !same(&other.json, &located.json.replace("reviews", "ratings")));
    assert!(!same("no JSON", "neither"));
    assert!(json(&DocumentId::new(Kind::VirtualService, "shop", "other"), &located.json).is_err());
    assert!(json(&DocumentId::new(Kind::VirtualService, "other", "reviews"), &located.json).is_err());
}

#[test]
fn json_lists_and_versions() {
    let json = r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"networking.istio.io/v1alpha3","kind":"DestinationRule","metadata":{"name":"a"},"spec":{"host":"a","traffic_policy":{"load_balancer":{"simple":"LEAST_CONN"}}}},
        {"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{}}]}"#;
    let parsed = yaml("f.json", json, "default");
    assert_eq!((parsed.documents.len(), parsed.kubernetes.len()), (1, 1));
    assert_eq!(parsed.problems.iter().map(|one| one.code).collect::<Vec<_>>(), [codes::DEPRECATED]);
}

#[test]
fn kinds_are_refused_by_name() {
    let document =
        |api: &str, kind: &str| format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{}}\n");
    for (api, kind, code) in [
        ("networking.istio.io/v1alpha3", "EnvoyFilter", codes::KIND_REFUSED),
        ("networking.istio.io/v1beta1", "ProxyConfig", codes::KIND_REFUSED),
        ("extensions.istio.io/v1alpha1", "WasmPlugin", codes::KIND_REFUSED),
        ("install.istio.io/v1alpha1", "IstioOperator", codes::KIND_REFUSED),
        ("gateway.networking.k8s.io/v1", "Gateway", codes::KIND_REFUSED),
        ("gateway.networking.k8s.io/v1beta1", "HTTPRoute", codes::KIND_REFUSED),
        ("gateway.networking.k8s.io/v1", "Whatever", codes::KIND_REFUSED),
        ("networking.istio.io/v1", "VirtualServce", codes::UNKNOWN_KIND),
        ("networking.istio.io/v2", "VirtualService", codes::SHAPE),
        ("skein.dev/v1", "VirtualService", codes::SHAPE),
    ] {
        let found = problems(&document(api, kind));
        assert_eq!((found[0].0, found[0].1, found[0].2), (code, 2, 7), "{api} {kind}");
    }
    assert_eq!(problems(&document("networking.istio.io/v1", "VirtualServce"))[0].4, "did you mean VirtualService?");
    let gateway = problems(&document("gateway.networking.k8s.io/v1", "Gateway"));
    assert!(gateway[0].4.contains("write Istio's Gateway and VirtualService"), "{gateway:?}");
    let without = problems(
        "kind: VirtualService\nmetadata: {name: x}\nspec: {hosts: [x], http: [{directResponse: {status: 200}}]}\n",
    );
    assert_eq!(without.iter().map(|one| one.0).collect::<Vec<_>>(), [codes::MISSING], "once is enough");
    assert_eq!(problems("just text")[0].0, codes::WRONG_TYPE);
    assert_eq!(problems("a: [")[0].0, codes::SYNTAX);
    assert!(problems("---\n# nothing\n---\n").is_empty());
}

#[test]
fn mesh_wide_kinds_live_in_the_root_namespace() {
    let grant = "apiVersion: skein.dev/v1\nkind: NodeGrant\nmetadata: {name: web-1}\nspec: {node: web-1, epoch: 1, services: []}\n";
    let parsed = yaml("f.yaml", grant, "shop");
    assert_eq!(parsed.documents[0].document.id.to_string(), "NodeGrant istio-system/web-1");
    let elsewhere = grant.replace("name: web-1}\nspec", "name: web-1, namespace: shop}\nspec");
    assert_eq!(problems(&elsewhere)[0].0, codes::NAME);
    let other = grant.replace("node: web-1", "node: web-2");
    assert_eq!(problems(&other)[0].0, codes::GRANT);
    let set = "apiVersion: skein.dev/v1\nkind: RoleSet\nmetadata: {name: default}\nspec: {keys: [], roles: []}\n";
    assert_eq!(problems(set)[0].0, codes::ROLE);
}

#[test]
fn warnings_do_not_refuse() {
    let text = GOOD.replace("  - route:", "  - fault: {abort: {httpStatus: 500}}\n    route:");
    let parsed = yaml("f.yaml", &text, "default");
    assert_eq!((parsed.documents.len(), parsed.is_valid()), (1, true));
    let codes: Vec<&str> = parsed.problems.iter().map(|one| one.code).collect();
    assert_eq!(codes, [codes::FAULT_WITHOUT_EFFECT, codes::FAULT_WITHOUT_EXPIRY]);
    let twins = yaml("f.yaml", &format!("{GOOD}---\n{GOOD}"), "default");
    let [problem] = &twins.problems[..] else { panic!("one problem: {:#?}", twins.problems) };
    assert_eq!((problem.code, problem.severity), (codes::DUPLICATE_DOCUMENT, Severity::Error), "no push takes both");
    assert!(problem.message.ends_with("stands twice, before on line 1") && problem.line > 1, "{problem:?}");
    let after = GOOD.replace("status:", "  - redirect: {uri: /x}\nstatus:");
    assert_eq!(problems(&after)[0].0, codes::UNREACHABLE_RULE);
}

#[test]
fn sizes_are_limited() {
    let long = GOOD.replace("labels: {a: b}", &format!("annotations: {{a: \"{}\"}}", "x".repeat(300 * 1024)));
    assert_eq!(problems(&long)[0].0, codes::TOO_LARGE);
    let document = yaml("f.yaml", GOOD, "default").documents.remove(0);
    let padded = format!("{}{}", document.json, " ".repeat(300 * 1024));
    assert!(json(&document.document.id, &padded).is_err());
    let deep = format!("{}{}", "{\"a\":".repeat(1_000), "1");
    assert!(json(&document.document.id, &deep).is_err());
}

#[test]
fn a_problem_serialises_as_lint_shows_it() {
    let parsed = yaml("f.yaml", &GOOD.replace("hosts: [reviews]", "hosts: ['*']"), "default");
    let shown = serde_json::to_value(&parsed.problems[0]).unwrap();
    assert_eq!(
        (shown["severity"].as_str(), shown["line"].as_u64(), shown["code"].as_str()),
        (Some("error"), Some(8), Some("SKN0109"))
    );
    assert!(shown["istio_message"].as_str().unwrap().contains("wildcard host"));
}

/// Documents with a token per word, so that a test may put another in its place.
const NETWORKING: [&str; 5] = [
    "kind: ServiceEntry
metadata: { name: x }
spec:
  hosts: [ a.b , '*.c.d' ]
  addresses: [ 10.0.0.0/8 ]
  ports: [ { number: 80 , name: web , protocol: HTTP , targetPort: 8080 } ]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints: [ { address: 10.0.0.1 , ports: { web: 81 } , labels: { a: b } , locality: r/z , weight: 2 } ]
  exportTo: [ '.' ]
  subjectAltNames: [ a.b ]
",
    "kind: WorkloadEntry
metadata: { name: x }
spec: { address: 'unix:///a' , network: n1 , serviceAccount: sa , weight: 1 , labels: { a: b } }
",
    "kind: WorkloadGroup
metadata: { name: x }
spec:
  metadata: { labels: { a: b } , annotations: { c: d } }
  template: { ports: { web: 80 } }
  probe: { periodSeconds: 5 , httpGet: { path: / , port: 80 , httpHeaders: [ { name: a , value: b } ] } }
",
    "kind: Gateway
metadata: { name: x }
spec:
  selector: { a: b }
  servers:
  - port: { number: 443 , name: web , protocol: HTTPS }
    bind: 10.0.0.1
    hosts: [ ns/a.b , '*' ]
    tls: { mode: MUTUAL , serverCertificate: c , privateKey: k , caCertificates: a , caCrl: r , cipherSuites: [ ALL ] }
  - port: { number: 444 , name: tls , protocol: TLS }
    hosts: [ '*' ]
    tls: { mode: SIMPLE , tlsCertificates: [ { serverCertificate: c , privateKey: k } ] , credentialNames: [ s ] }
",
    "kind: Sidecar
metadata: { name: x }
spec:
  workloadSelector: { labels: { a: b } }
  ingress:
  - port: { number: 443 , protocol: HTTPS , name: web }
    defaultEndpoint: 127.0.0.1:80
    captureMode: NONE
    tls: { mode: SIMPLE , serverCertificate: c , privateKey: k }
    connectionPool: { tcp: { maxConnections: 1 } , http: { maxRetries: 1 } }
  egress:
  - port: { number: 0 , protocol: HTTP }
    bind: 'unix://@a'
    hosts: [ './*' , ~ns/a.b ]
  - hosts: [ '*/*' ]
  outboundTrafficPolicy: { mode: ALLOW_ANY , egressProxy: { host: a.b , port: { number: 80 } } }
",
];

proptest! {
    #[test]
    fn whatever_stands_for_a_word_is_complained_of_once(
        text in prop::sample::select(&NETWORKING[..]),
        place in any::<prop::sample::Index>(),
        with in prop::sample::select(&["null", "[]", "[ null ]", "{}", "1", "-1", "true", "''", "a", "*", "~", "unix://"][..]),
    ) {
        let words: Vec<(usize, &str)> = text.match_indices(|letter: char| !letter.is_whitespace())
            .filter(|(at, _)| *at == 0 || text.as_bytes()[at - 1].is_ascii_whitespace())
            .collect();
        let (start, _) = words[place.index(words.len())];
        let end = text[start..].find(char::is_whitespace).map_or(text.len(), |length| start + length);
        let changed = format!("apiVersion: networking.istio.io/v1\n{}{with}{}", &text[..start], &text[end..]);
        let mut found = problems(&changed);
        let count = found.len();
        found.sort();
        found.dedup();
        prop_assert_eq!(found.len(), count, "{}", changed);
    }

    #[test]
    fn no_text_panics(text in "(apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: \\{name: x\\}\nspec:\n)?[ \\-\\[\\]{}:,a-z0-9*&\"'\n]{0,120}") {
        let _ = yaml("f", &text, "default");
    }

    #[test]
    fn no_mutation_of_a_body_panics(at in 0..500_usize, with in any::<u8>()) {
        let document = yaml("f.yaml", GOOD, "default").documents.remove(0);
        let mut bytes = document.json.into_bytes();
        let place = at % bytes.len();
        bytes[place] = with;
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = json(&document.document.id, &text);
        }
    }
}

#[test]
fn an_author_silences_warnings_and_nothing_else() {
    let text = |codes: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: a\n  annotations: {{skein.dev/lint-ignore: \"{codes}\"}}\nspec:\n  hosts: [a]\n  http:\n  - fault: {{abort: {{httpStatus: 500, percentage: {{value: 1}}}}}}\n    route: [{{destination: {{host: a}}}}]\n    headers: {{request: {{set: {{x: '%FILTER_STATE(a)%'}}}}}}\n"
        )
    };
    let codes_of = |text: &str| yaml("f", text, "default").problems.iter().map(|one| one.code).collect::<Vec<_>>();
    assert_eq!(codes_of(&text("")), [codes::NOT_SUPPORTED, codes::FAULT_WITHOUT_EXPIRY]);
    assert_eq!(codes_of(&text("SKN0305, SKN0203")), [codes::NOT_SUPPORTED]);
    assert_eq!(codes_of(&text("SKN0203,SKN0102")), [codes::NOT_SUPPORTED], "what a push refuses stays");
    assert_eq!(codes_of(&text("SKN0203,SKN9999")), [codes::ANNOTATION, codes::NOT_SUPPORTED]);
    let invalid = text("SKN0203,SKN0101").replace("set:", "sett:");
    assert_eq!(codes_of(&invalid), [codes::UNKNOWN_FIELD], "errors stay");
}

#[test]
fn a_role_set_may_name_what_stays_of_a_long_history() {
    let set = |count: u32| {
        let key = certs::sign::SigningKey::generate().public();
        let keeps = (0..count).map(|number| certs::sign::Digest::of(&number.to_le_bytes())).collect();
        crate::kinds::RoleSet {
            trust: None,
            keys: vec![crate::kinds::RoleKey { name: "ann".into(), key, recovery: false }],
            roles: Vec::new(),
            threshold: 1,
            keeps: Some(keeps),
            voids: Default::default(),
        }
        .body()
    };
    let (id, body) = set(15_000);
    assert!(body.len() > crate::changeset::MAX_DOCUMENT);
    assert!(json(&id, &body).is_ok());
    let (id, body) = set(16_000);
    assert!(json(&id, &body).is_err(), "{}", body.len());
}

/// Codes of what is said of a VirtualService with this one rule.
fn of_rule(rule: &str) -> Vec<&'static str> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r}}\nspec:\n  hosts: [r]\n  http:\n  - {rule}\n"
    );
    problems(&text).into_iter().map(|(code, ..)| code).collect()
}

#[test]
fn targets_that_no_request_can_have_are_told() {
    let to = "route: [{destination: {host: r}}]";
    for (action, code) in [
        (format!("{{rewrite: {{uri: '/a b'}}, {to}}}"), Some(codes::TARGET)),
        (format!("{{rewrite: {{uri: '/a#b'}}, {to}}}"), Some(codes::TARGET)),
        (format!("{{rewrite: {{uri: '/\u{e9}'}}, {to}}}"), Some(codes::TARGET)),
        (format!("{{rewrite: {{authority: 'a b'}}, {to}}}"), Some(codes::TARGET)),
        (format!("{{rewrite: {{authority: 'a:0'}}, {to}}}"), Some(codes::TARGET)),
        (format!("{{rewrite: {{uri: v1}}, {to}}}"), Some(codes::PATH_WITHOUT_SLASH)),
        (format!("{{rewrite: {{uri: '/v1?a=b', authority: 'a.b:80'}}, {to}}}"), None),
        (format!("{{rewrite: {{uri: '/v%201', authority: '[::1]:80'}}, {to}}}"), None),
        ("{redirect: {uri: 'x y'}}".to_owned(), Some(codes::TARGET)),
        ("{redirect: {authority: 'x/y'}}".to_owned(), Some(codes::TARGET)),
        ("{redirect: {uri: x}}".to_owned(), Some(codes::PATH_WITHOUT_SLASH)),
        ("{redirect: {uri: /x, authority: z}}".to_owned(), None),
    ] {
        assert_eq!(of_rule(&action), Vec::from_iter(code), "{action}");
    }
}

#[test]
fn conditions_that_nothing_meets_are_told() {
    for (condition, vain) in [
        ("uri: {exact: '/a?b=c'}", true),
        ("uri: {prefix: '/a#'}", true),
        ("uri: {exact: a}", true),
        ("uri: {exact: /a/../b}", true),
        ("uri: {exact: /a/.}", true),
        ("uri: {prefix: '/%7euser'}", true),
        ("uri: {prefix: /./a}", true),
        ("uri: {prefix: /.}", false),
        ("uri: {prefix: /a/..}", false),
        ("uri: {prefix: ''}", false),
        ("uri: {exact: '/a//b%2Fc'}", false),
        ("uri: {exact: /.well-known/x.y}", false),
        ("uri: {regex: 'a.*'}", false),
        ("method: {exact: get}", true),
        ("method: {exact: GET}", false),
        ("method: {regex: '(?i)get'}", false),
    ] {
        let rule = format!("{{match: [{{{condition}}}], directResponse: {{status: 200}}}}");
        let expected = if vain { vec![codes::WITHOUT_EFFECT] } else { Vec::new() };
        assert_eq!(of_rule(&rule), expected, "{condition}");
    }
}

#[test]
fn a_slip_is_told_once_and_with_what_to_write() {
    let told = |rule: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r}}\nspec:\n  hosts: [r]\n  http:\n  - {rule}\n"
        );
        problems(&text).into_iter().map(|(code, .., hint)| (code, hint)).collect::<Vec<_>>()
    };
    let one = |code, hint: &str| vec![(code, hint.to_owned())];
    let near = |name: &str| one(codes::UNKNOWN_FIELD, &format!("did you mean `{name}`?"));
    assert_eq!(told("rout: [{destination: {host: r}}]"), near("route"));
    assert_eq!(told("route: [{destination: {hots: r}}]"), near("host"));
    let number = one(codes::WRONG_TYPE, "write {number: 80}");
    assert_eq!(told("route: [{destination: {host: r, port: 80}}]"), number);
    let list = problems(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec: {hosts: cart, http: [{directResponse: {status: 200}}]}\n",
    );
    assert_eq!(list[0].4, "write it as a list: [\"cart\"]");
}
