//! DestinationRules.

use super::*;

fn rule(name: &str, host: &str, policy: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{{name}}}\nspec: {{host: {host}, trafficPolicy: {{{policy}}}}}\n"
    )
}

fn strict(namespace: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: all, namespace: {namespace}}}\nspec: {{mtls: {{mode: STRICT}}}}\n"
    )
}

const REVIEWS: &str = "reviews.default.svc.cluster.local";

#[test]
fn a_rule_of_the_root_namespace_comes_last() {
    let root = rule("name: root, namespace: istio-system", REVIEWS, "loadBalancer: {simple: RANDOM}");
    let own = rule("name: own", REVIEWS, "loadBalancer: {simple: RANDOM}");
    assert!(fields(&root, &table(), codes::SHADOWED_RULE).is_empty());
    assert_eq!(fields(&format!("{root}{own}"), &table(), codes::SHADOWED_RULE), ["spec.host"]);
    let private = own.replace("spec: {", "spec: {exportTo: [.], ");
    assert!(fields(&format!("{root}{private}"), &table(), codes::SHADOWED_RULE).is_empty(), "others see the root's");
    let elsewhere = rule("name: own, namespace: web", REVIEWS, "loadBalancer: {simple: RANDOM}");
    assert!(fields(&format!("{root}{elsewhere}"), &table(), codes::SHADOWED_RULE).is_empty());
}

#[test]
fn tls_of_ones_own_in_place_of_the_meshs() {
    let plain = rule("name: a", REVIEWS, "tls: {mode: DISABLE}");
    let severities = |text: &str| -> Vec<Severity> {
        let problems = problems(text, &table());
        problems.into_iter().filter(|one| one.code == codes::MESH_TLS_OFF).map(|one| one.severity).collect()
    };
    assert_eq!(severities(&plain), [Severity::Info]);
    assert_eq!(severities(&format!("{plain}{}", strict("default"))), [Severity::Warning]);
    assert_eq!(severities(&format!("{plain}{}", strict("istio-system"))), [Severity::Warning]);
    assert_eq!(severities(&format!("{plain}{}", strict("web"))), [Severity::Info]);
    assert!(severities(&rule("name: a", REVIEWS, "tls: {mode: ISTIO_MUTUAL}")).is_empty());
    assert!(severities(&rule("name: a", "db.example.com", "tls: {mode: SIMPLE}")).is_empty(), "not of the mesh");
    let port = rule("name: a", REVIEWS, "portLevelSettings: [{port: {number: 9080}, tls: {mode: DISABLE}}]");
    assert_eq!(fields(&port, &table(), codes::MESH_TLS_OFF), ["spec.trafficPolicy.portLevelSettings[0].tls"]);
}

#[test]
fn what_goes_ahead_of_bytes_goes_ahead_of_no_requests() {
    let entry = |port: &str, rest: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: out}}\nspec: {{hosts: [db.example.com], resolution: STATIC, ports: [{{number: 80, name: one, protocol: {port}}}], {rest}}}\n"
        )
    };
    let (listed, selected) = ("endpoints: [{address: 192.0.2.1}]", "workloadSelector: {labels: {app: db}}");
    let (tunnel, proxied) =
        ("tunnel: {protocol: CONNECT, targetHost: a.example, targetPort: 443}", "proxyProtocol: {version: V2}");
    let of = |host: &str, policy: &str| rule("name: a", host, policy);
    for (text, wanted) in [
        (of(REVIEWS, proxied), Some("spec.trafficPolicy.proxyProtocol")),
        (of(REVIEWS, tunnel), Some("spec.trafficPolicy.tunnel")),
        (of("db.example.com", tunnel) + &entry("HTTP", listed), Some("spec.trafficPolicy.tunnel")),
        (of("db.example.com", proxied) + &entry("HTTP", listed), None),
        (of("db.example.com", proxied) + &entry("HTTP2", selected), Some("spec.trafficPolicy.proxyProtocol")),
        (of("db.example.com", proxied) + &entry("TCP", selected), None),
        (of("db.example.com", tunnel) + &entry("TLS", listed), None),
    ] {
        let found = fields(&text, &table(), codes::BYTES_ONLY);
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), Vec::from_iter(wanted), "{text}");
    }
}

#[test]
fn the_systems_roots_are_a_note() {
    let simple = rule("name: a", "db.example.com", "tls: {mode: SIMPLE}");
    assert_eq!(fields(&simple, &Table::default(), codes::SYSTEM_ROOTS), ["spec.trafficPolicy.tls"]);
    for tls in ["mode: SIMPLE, caCertificates: /ca.pem", "mode: SIMPLE, insecureSkipVerify: true", "mode: DISABLE"] {
        assert!(
            fields(
                &rule("name: a", "db.example.com", &format!("tls: {{{tls}}}")),
                &Table::default(),
                codes::SYSTEM_ROOTS
            )
            .is_empty(),
            "{tls}"
        );
    }
}

#[test]
fn a_rule_for_nobody() {
    let text = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: reviews, workloadSelector: {matchLabels: {app: web}}}
";
    let web = |namespace: &str| table().workload(namespace, &[("app", "web")], &[]);
    assert!(fields(text, &web("default"), codes::SELECTS_NOBODY).is_empty());
    assert_eq!(fields(text, &web("other"), codes::SELECTS_NOBODY), ["spec.workloadSelector"]);
}

#[test]
fn rules_for_different_callers_are_not_merged() {
    let selecting = |name: &str, app: &str| {
        let text = rule(name, REVIEWS, "loadBalancer: {simple: RANDOM}");
        text.replace("spec: {", &format!("spec: {{workloadSelector: {{matchLabels: {{app: {app}}}}}, "))
    };
    let apart = format!("{}{}", selecting("name: a", "web"), selecting("name: b", "batch"));
    assert!(fields(&apart, &table(), codes::OVERRULED_POLICY).is_empty());
    let same = format!("{}{}", selecting("name: a", "web"), selecting("name: b", "web"));
    assert_eq!(fields(&same, &table(), codes::OVERRULED_POLICY).len(), 2);
}

#[test]
fn names_that_look_like_services_are_services() {
    for (host, told) in [("shop.internal", false), ("'*.internal'", false), ("reviews", false), ("revews", true)] {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec: {{hosts: [{host}], http: [{{route: [{{destination: {{host: reviews}}}}]}}]}}\n"
        );
        assert_eq!(!fields(&text, &table(), codes::RULE_WITHOUT_HOST).is_empty(), told, "{host}");
    }
}

#[test]
fn a_wildcard_covers_some_service() {
    for (host, idle) in
        [("'*.default.svc.cluster.local'", false), ("'*.shop.svc.cluster.local'", true), ("'*.local'", false)]
    {
        let text = rule("name: a", host, "loadBalancer: {simple: RANDOM}");
        assert_eq!(!fields(&text, &table(), codes::RULE_WITHOUT_HOST).is_empty(), idle, "{host}");
    }
}

#[test]
fn a_share_that_is_less_than_one_endpoint_ejects_nobody() {
    let of = |policy: &str| fields(&rule("name: a", REVIEWS, policy), &table(), codes::EJECTS_NOBODY);
    let place = ["spec.trafficPolicy.outlierDetection"];
    assert_eq!(of("outlierDetection: {}"), place);
    assert_eq!(of("outlierDetection: {maxEjectionPercent: 20}"), place, "of as few as there are");
    assert!(of("outlierDetection: {maxEjectionPercent: 100}").is_empty());
    let port = of("portLevelSettings: [{port: {number: 9080}, outlierDetection: {}}]");
    assert_eq!(port, ["spec.trafficPolicy.portLevelSettings[0].outlierDetection"]);
    let entry = |endpoints: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: bank}}\nspec: {{hosts: [bank.example], resolution: STATIC, \
             ports: [{{name: http, number: 80, protocol: HTTP}}], endpoints: [{endpoints}]}}\n"
        )
    };
    let bank = |detection: &str, endpoints: &str| {
        let text = format!(
            "{}{}",
            rule("name: a", "bank.example", &format!("outlierDetection: {detection}")),
            entry(endpoints)
        );
        fields(&text, &table(), codes::EJECTS_NOBODY).len()
    };
    let (few, many): (Vec<_>, Vec<_>) =
        (1..=20).map(|last| format!("{{address: 10.0.0.{last}}}")).partition(|one| one.len() < 20);
    let (few, all) = (few.join(", "), [few.clone(), many].concat().join(", "));
    assert_eq!((bank("{}", &few), bank("{}", &all)), (1, 0), "ten of a hundred, of nine and of twenty");
    assert_eq!(bank("{maxEjectionPercent: 12}", &few), 0);
    assert_eq!(bank("{maxEjectionPercent: 5}", &few), 1);
    // Of what nobody knows only what is left out is spoken of.
    let unknown = |policy: &str| fields(&rule("name: a", "'*.example'", policy), &table(), codes::EJECTS_NOBODY).len();
    assert_eq!((unknown("outlierDetection: {}"), unknown("outlierDetection: {maxEjectionPercent: 10}")), (1, 0));
}
