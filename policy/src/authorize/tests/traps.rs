//! What a naive implementation gets wrong.

use super::*;

#[test]
fn an_empty_policy_denies_and_an_empty_rule_allows() {
    assert!(ask().passes(&of(&[])) && of(&[]).is_open());
    let nothing = of(&["{}"]);
    assert!(!ask().passes(&nothing) && !ask().connects(&nothing) && !nothing.is_open());
    assert!(ask().passes(&of(&["{rules: [{}]}"])));
    assert!(!ask().passes(&of(&["{action: DENY, rules: [{}]}"])));
    // AUDIT changes nothing, and makes no implicit deny.
    let audit = of(&["{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}"]);
    let decision = ask().decision(&audit).unwrap();
    assert!(decision.allowed());
    assert_eq!(decision.audit.unwrap().document.name, "d0");
    assert_eq!(ask().method("PUT").decision(&audit).unwrap().audit, None);
}

#[test]
fn deny_comes_before_allow_and_all_documents_add_up() {
    let both = of(&["{rules: [{}]}", "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}"]);
    assert!(ask().passes(&both) && !ask().path("/admin").passes(&both));
    let two = of(&[
        "{rules: [{to: [{operation: {paths: [/a]}}]}]}",
        "{rules: [{to: [{operation: {paths: [/b]}}]}, {to: [{operation: {paths: [/c]}}]}]}",
    ]);
    assert!(ask().path("/a").passes(&two) && ask().path("/b").passes(&two) && !ask().path("/d").passes(&two));
    let decision = ask().path("/c").decision(&two).unwrap();
    let cause = decision.verdict.cause.clone().unwrap();
    assert_eq!((cause.document.name.as_str(), cause.rule, cause.line), ("d1", 1, 9));
    assert_eq!(decision.details(), None);
    assert_eq!(
        ask().path("/d").decision(&two).unwrap().details().as_deref(),
        Some("rbac_access_denied_matched_policy[none]")
    );
    assert_eq!(
        ask().path("/admin").decision(&both).unwrap().details().as_deref(),
        Some("rbac_access_denied_matched_policy[ns[shop]-policy[d1]-rule[0]]")
    );
}

#[test]
fn the_root_namespace_and_selectors_choose_workloads() {
    let deny = "{action: DENY, rules: [{}]}";
    let elsewhere = document("a", deny).replace("namespace: shop", "namespace: bank");
    assert!(ask().passes(&authorizer(&live(&elsewhere))));
    let everywhere = document("a", deny).replace("namespace: shop", "namespace: istio-system");
    assert!(!ask().passes(&authorizer(&live(&everywhere))));
    assert!(ask().passes(&of(&["{selector: {matchLabels: {app: db}}, action: DENY, rules: [{}]}"])));
    assert!(!ask().passes(&of(&["{selector: {matchLabels: {app: web}}, action: DENY, rules: [{}]}"])));
    // Objects of the Gateway API are no workloads here.
    assert!(ask().passes(&of(&["{targetRef: {kind: Service, name: web}, action: DENY, rules: [{}]}"])));
}

#[test]
fn on_tcp_an_allow_rule_vanishes_and_a_deny_rule_widens() {
    let allow = of(&["{rules: [{from: [{source: {requestPrincipals: ['*']}}, {source: {namespaces: [shop]}}]}]}"]);
    assert!(ask().passes(&allow) && !ask().connects(&allow));
    let by_port = of(&["{rules: [{to: [{operation: {ports: ['9000', '9001']}}]}]}"]);
    assert!(ask().port(9000).connects(&by_port) && !ask().port(9002).connects(&by_port));
    let http_only = of(&["{action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}"]);
    assert!(ask().passes(&http_only) && !ask().connects(&http_only));
    let with_port = of(&["{action: DENY, rules: [{to: [{operation: {methods: [PUT], ports: ['9000']}}]}]}"]);
    assert!(!ask().port(9000).connects(&with_port) && ask().port(9001).connects(&with_port));
    let when = of(&["{action: DENY, rules: [{when: [{key: 'request.headers[a]', notValues: [b]}]}]}"]);
    assert!(!ask().connects(&when));
}

#[test]
fn a_negation_holds_where_the_attribute_is_missing() {
    let deny = |source: &str| of(&[&format!("{{action: DENY, rules: [{{from: [{{source: {{{source}}}}}]}}]}}")]);
    for source in
        ["notPrincipals: ['*']", "notNamespaces: ['*']", "notServiceAccounts: [cart]", "notTrustDomains: ['*']"]
    {
        assert!(!ask().from(None).passes(&deny(source)), "{source}");
        assert!(ask().passes(&deny(source)), "{source}");
    }
    for source in ["principals: ['*']", "namespaces: ['*']", "serviceAccounts: [cart]", "trustDomains: ['*']"] {
        assert!(ask().from(None).passes(&deny(source)), "{source}");
        assert!(!ask().passes(&deny(source)), "{source}");
    }
    let token = deny("notRequestPrincipals: ['*']");
    assert!(!ask().passes(&token));
    assert!(ask().token(r#"{"iss": "a", "sub": "b"}"#).passes(&token));
    let header = of(&["{action: DENY, rules: [{when: [{key: 'request.headers[x-token]', notValues: [admin]}]}]}"]);
    assert!(!ask().passes(&header));
    assert!(ask().header("x-token", b"admin").passes(&header));
}

#[test]
fn request_principals_split_at_the_last_slash() {
    let allow =
        |pattern: &str| of(&[&format!("{{rules: [{{from: [{{source: {{requestPrincipals: ['{pattern}']}}}}]}}]}}")]);
    let token = |issuer: &str, subject: &str| ask().token(&format!(r#"{{"iss": "{issuer}", "sub": "{subject}"}}"#));
    assert!(token("https://iss/x", "sub1").passes(&allow("https://iss/x/sub1")));
    assert!(!token("https://iss", "x/sub1").passes(&allow("https://iss/x/sub1")));
    assert!(token("https://iss", "anything").passes(&allow("https://iss/*")));
    assert!(token("i", "s").passes(&allow("*")) && !ask().passes(&allow("*")));
    assert!(!ask().token(r#"{"iss": "i"}"#).passes(&allow("*")));
}

#[test]
fn claims_are_strings_or_lists() {
    let allow =
        |key: &str, value: &str| of(&[&format!("{{rules: [{{when: [{{key: '{key}', values: ['{value}']}}]}}]}}")]);
    let token = ask().token(
        r#"{"iss": "i", "sub": "s", "aud": ["a", "b"], "azp": "p", "groups": ["g1", "g2"], "n": {"m": "x"},
            "scope": "read write", "roles": "r1 r2", "text": "t1 t2", "number": 5}"#,
    );
    for (key, value, expected) in [
        ("request.auth.audiences", "b", true),
        ("request.auth.audiences", "c", false),
        ("request.auth.presenter", "p", true),
        ("request.auth.claims[groups]", "g2", true),
        ("request.auth.claims[groups]", "g*", true),
        ("request.auth.claims[groups]", "g3", false),
        ("request.auth.claims[n][m]", "x", true),
        ("request.auth.claims[n]", "*", false),
        ("request.auth.claims[scope]", "write", true),
        ("request.auth.claims[roles]", "r2", true),
        ("request.auth.claims[text]", "t2", false),
        ("request.auth.claims[text]", "t1 t2", true),
        ("request.auth.claims[number]", "5", false),
        ("request.auth.claims[none]", "*", false),
    ] {
        assert_eq!(token.passes(&allow(key, value)), expected, "{key} {value}");
    }
}

#[test]
fn a_trust_domain_has_several_names() {
    let allow =
        |principal: &str| of(&[&format!("{{rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]}}")]);
    for pattern in [
        "prod.example/ns/shop/sa/cart",
        "cluster.local/ns/shop/sa/cart",
        "old.example/ns/shop/sa/cart",
        "cluster.local/ns/shop/*",
        "*/ns/shop/sa/cart",
        "*",
    ] {
        assert!(ask().passes(&allow(pattern)), "{pattern}");
        assert!(ask().from(Some("spiffe://old.example/ns/shop/sa/cart")).passes(&allow(pattern)), "{pattern}");
    }
    for pattern in
        ["prod.example/ns/shop/sa/car", "other.example/ns/shop/sa/cart", "spiffe://prod.example/ns/shop/sa/cart"]
    {
        assert!(!ask().passes(&allow(pattern)), "{pattern}");
    }
    let foreign = ask().from(Some("spiffe://other.example/ns/shop/sa/cart"));
    assert!(!foreign.passes(&allow("cluster.local/ns/shop/sa/cart")));
    assert!(foreign.passes(&allow("other.example/ns/shop/sa/cart")));
    let ours = of(&["{action: DENY, rules: [{from: [{source: {notTrustDomains: [cluster.local]}}]}]}"]);
    assert!(ask().passes(&ours) && !foreign.passes(&ours));
    let account = of(&["{rules: [{from: [{source: {serviceAccounts: [cart, bank/teller]}}]}]}"]);
    assert!(ask().passes(&account));
    assert!(ask().from(Some("spiffe://prod.example/ns/bank/sa/teller")).passes(&account));
    assert!(!ask().from(Some("spiffe://prod.example/ns/bank/sa/cart")).passes(&account));
    assert!(!ask().from(Some("spiffe://prod.example/mesh/node/cart")).passes(&account));
}

#[test]
fn addresses_are_the_peers_unless_a_trusted_peer_tells_another() {
    let allow =
        |field: &str, range: &str| of(&[&format!("{{rules: [{{from: [{{source: {{{field}: ['{range}']}}}}]}}]}}")]);
    assert!(ask().passes(&allow("ipBlocks", "10.1.0.0/16")) && !ask().passes(&allow("ipBlocks", "10.2.0.0/16")));
    assert!(ask().passes(&allow("remoteIpBlocks", "10.1.2.3")));
    let policy = allow("remoteIpBlocks", "192.0.2.0/24");
    let ask = ask();
    let peer = Peer { original_address: Some("192.0.2.7".parse().unwrap()), ..ask.peer() };
    assert!(policy.decide_connection(&peer).allowed() && !policy.decide_connection(&ask.peer()).allowed());
    let destination = of(&[
        "{rules: [{when: [{key: destination.ip, values: [10.9.9.9]}, {key: destination.port, values: ['8080']}]}]}",
    ]);
    assert!(ask.passes(&destination) && !ask.port(81).passes(&destination));
}

#[test]
fn a_trial_is_reported_and_not_enforced() {
    let trial = |spec: &str| {
        document("trial", spec).replace("namespace: shop}", "namespace: shop, annotations: {istio.io/dry-run: 'true'}}")
    };
    let deny = authorizer(&live(&trial("{action: DENY, rules: [{to: [{operation: {paths: [/headers]}}]}]}")));
    let decision = ask().path("/headers").decision(&deny).unwrap();
    assert!(decision.allowed());
    let verdict = decision.dry_run.unwrap();
    assert!(!verdict.allowed && verdict.cause.unwrap().document.name == "trial");
    assert!(ask().decision(&deny).unwrap().dry_run.unwrap().allowed);
    // No implicit deny comes from a trial.
    let allow = authorizer(&live(&trial("{rules: [{to: [{operation: {paths: [/allow]}}]}]}")));
    let decision = ask().path("/other").decision(&allow).unwrap();
    assert!(decision.allowed() && !decision.dry_run.unwrap().allowed);
}

#[test]
fn authorisers_are_asked_one_after_the_other_before_all_else() {
    let custom = |provider: &str, path: &str| {
        format!(
            "{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{paths: ['{path}']}}}}]}}]}}"
        )
    };
    let (both, again, one) = (custom("p", "/a*"), custom("p", "/a"), custom("q", "/a/b"));
    let authorizer = of(&[&both, &again, &one, "{action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}"]);
    assert!(authorizer.asks() && !authorizer.is_open() && authorizer.looks_at_paths());
    let asked = |path: &'static str, before: &[&str]| {
        let before: Vec<Arc<str>> = before.iter().map(|name| Arc::from(*name)).collect();
        ask().path(path).asks(&authorizer, &before)
    };
    let first = asked("/a/b", &[]).expect("it is asked about");
    assert_eq!((&*first.provider, first.cause.document.name.as_str(), first.cause.rule), ("p", "d0", 0));
    assert_eq!(asked("/a/b", &["p"]).map(|ask| ask.provider.to_string()).as_deref(), Some("q"));
    assert_eq!((asked("/a/b", &["q", "p"]), asked("/a", &["p"]), asked("/b", &[])), (None, None, None));
    // What they say changes nothing of the rest.
    assert!(ask().path("/a").passes(&authorizer) && !ask().method("PUT").path("/a").passes(&authorizer));
    assert!(!of(&["{rules: [{}]}"]).asks());
}

#[test]
fn nobody_is_asked_about_a_connection() {
    let custom = of(&["{action: CUSTOM, provider: {name: p}, rules: [{to: [{operation: {ports: ['9000']}}]}]}"]);
    assert!(!ask().port(9000).connects(&custom) && ask().port(9001).connects(&custom));
    let path = of(&["{action: CUSTOM, provider: {name: p}, rules: [{to: [{operation: {paths: [/a]}}]}]}"]);
    assert!(!ask().connects(&path), "there its condition does not count");
}

#[test]
fn conditions_on_paths_are_known() {
    assert!(of(&["{rules: [{to: [{operation: {notPaths: [/a]}}]}]}"]).looks_at_paths());
    assert!(of(&["{rules: [{when: [{key: 'request.headers[:path]', values: [/a]}]}]}"]).looks_at_paths());
    assert!(!of(&["{rules: [{to: [{operation: {methods: [GET]}}]}]}"]).looks_at_paths());
}
