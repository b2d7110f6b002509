//! The cases A41 to A52 of the attack list, as far as the decision goes.

use super::*;

fn admin() -> Authorizer {
    of(&[
        "{action: DENY, rules: [{to: [{operation: {paths: [/admin, /admin/*]}}]}]}",
        "{rules: [{to: [{operation: {paths: [/info/*, '/admin*', '/ADMIN', '/%252*', '/x*']}}]}]}",
    ])
}

#[test]
fn a41_to_a48_no_spelling_of_a_denied_path_passes() {
    for path in [
        "/admin",
        "//admin",
        "/./admin",
        "/info/../admin",
        "/admin/",
        "/admin//x",
        "/admin/x",
        "/admin?x",
        "%2Fadmin",
        "/%2Fadmin",
        "/info/%2e%2e/admin",
        "/info/%2E./admin",
        "/%61dmin",
        "\\admin",
        "/info/..\\admin",
        "/info/..%5cadmin",
        "/admin;x=1",
        "/admin;x=1/y",
        "/info;a/../admin;b",
        "/info/..;/admin",
        "/info/.;/../admin",
        "/admin#x",
        "/admin%00",
        "/%c0%afadmin",
        "/info/..%c0%afadmin",
        "/%u002fadmin",
    ] {
        assert!(!ask().path(path).passes(&admin()), "{path}");
    }
    for path in ["/info/x", "/info/a/../b", "/ADMIN", "/admin2", "/admin%23", "/%252e%252e"] {
        assert!(ask().path(path).passes(&admin()), "{path}: {:?}", ask().path(path).decision(&admin()));
    }
}

#[test]
fn a48_letters_beyond_ascii_are_one_however_they_are_written() {
    for pattern in ["/caf\u{e9}", "/caf%C3%A9", "/caf%c3%a9/*", "/caf\u{e9}*"] {
        let denied = of(&[&format!("{{action: DENY, rules: [{{to: [{{operation: {{paths: ['{pattern}']}}}}]}}]}}")]);
        for path in ["/caf\u{e9}/", "/caf%C3%A9/", "/c%61f%c3%a9/"] {
            let path = path.trim_end_matches(if pattern.ends_with("/*") { '|' } else { '/' });
            assert!(!ask().path(path).passes(&denied), "{pattern} {path}");
        }
        assert!(ask().path("/cafe").passes(&denied), "{pattern}");
    }
    let allowed = of(&["{rules: [{to: [{operation: {paths: ['/caf\u{e9}']}}]}]}"]);
    assert!(ask().path("/caf%C3%A9").passes(&allowed) && ask().path("/caf\u{e9}").passes(&allowed));
    // What need not be escaped and is all the same: nearly every application reads it as what it stands for.
    let denied = of(&["{action: DENY, rules: [{to: [{operation: {paths: ['/users/@me']}}]}]}"]);
    assert!(!ask().path("/users/@me").passes(&denied) && !ask().path("/users/%40me").passes(&denied));
    let by_header = "{action: DENY, rules: [{when: [{key: 'request.headers[:path]', values: ['/users/@me?a=1']}]}]}";
    assert!(!ask().path("/users/%40me?a=1").passes(&of(&[by_header])));
    let allowed = of(&["{rules: [{to: [{operation: {paths: ['/users/@me']}}]}]}"]);
    assert!(ask().path("/users/@me").passes(&allowed) && !ask().path("/users/%40me").passes(&allowed));
}

#[test]
fn a45_at_istios_levels_parameters_hide_nothing_either() {
    for path in ["/admin;x=1", "/info/..;/admin", "/info/../admin;x"] {
        assert!(!ask().path(path).level(PathNormalization::Base).passes(&admin()), "{path}");
    }
    // An exception from a permission forbids, so it too looks without parameters.
    let all_but = of(&["{rules: [{to: [{operation: {notPaths: [/admin]}}]}]}"]);
    assert!(!ask().path("/admin;x").passes(&all_but) && ask().path("/b;x").passes(&all_but));
    // What permits one path permits no other that looks like it.
    let only = of(&["{rules: [{to: [{operation: {paths: [/public]}}]}]}"]);
    assert!(ask().path("/public").passes(&only) && !ask().path("/public;x").passes(&only));
}

#[test]
fn a49_every_spelling_of_a_host_is_decided_alike() {
    let deny = of(&["{action: DENY, rules: [{to: [{operation: {hosts: [bank.td]}}]}]}"]);
    let allow = of(&["{rules: [{to: [{operation: {hosts: ['bank.td:80']}}]}]}"]);
    let header = of(&["{action: DENY, rules: [{when: [{key: 'request.headers[Host]', values: [Bank.td]}]}]}"]);
    for host in ["bank.td", "Bank.TD", "bank.td.", "bank.td:80"] {
        assert!(!ask().host(host).passes(&deny) && ask().host(host).passes(&allow), "{host}");
        assert!(!ask().host(host).passes(&header), "{host}");
    }
    assert!(!ask().host("bank.td:8080").passes(&deny) && !ask().host("bank.td:8080").passes(&allow));
    let any_port = of(&["{action: DENY, rules: [{to: [{operation: {hosts: ['bank.td:*']}}]}]}"]);
    assert!(!ask().host("bank.td").passes(&any_port) && !ask().host("bank.td:81").passes(&any_port));
    for host in ["a@bank.td", "bank.td:x", "bank..td", ""] {
        assert!(ask().host(host).decision(&deny).is_err(), "{host}");
    }
}

#[test]
fn a49_no_name_of_a_service_and_no_port_gets_around_a_host_that_is_denied() {
    let spellings = [
        "reviews",
        "reviews:9080",
        "Reviews:80",
        "reviews.shop",
        "reviews.shop.:9080",
        "reviews.shop.svc",
        "reviews.shop.svc.cluster.local",
        "reviews.shop.svc.cluster.local:9080",
        "reviews.shop.mesh:1",
    ];
    for denied in ["reviews", "reviews:9080", "reviews.shop.svc.cluster.local", "reviews.shop:*", "*.cluster.local"] {
        let deny = of(&[&format!("{{action: DENY, rules: [{{to: [{{operation: {{hosts: ['{denied}']}}}}]}}]}}")]);
        let except = of(&[&format!("{{rules: [{{to: [{{operation: {{notHosts: ['{denied}']}}}}]}}]}}")]);
        let key = "request.headers[:authority]";
        let by_key = of(&[&format!("{{action: DENY, rules: [{{when: [{{key: '{key}', values: ['{denied}']}}]}}]}}")]);
        for host in spellings {
            let asked = || ask().host(host).called("shop/reviews", 9080);
            assert!(!asked().passes(&deny) && !asked().passes(&except) && !asked().passes(&by_key), "{denied} {host}");
        }
        for other in ["ratings", "ratings.shop:9080", "reviews.bank", "www.example.com"] {
            let asked = || ask().host(other).called("shop/reviews", 9080);
            assert!(asked().passes(&deny) && asked().passes(&except), "{denied} {other}");
        }
    }
    // What permits is what is written, as in Istio.
    let allow = of(&["{rules: [{to: [{operation: {hosts: [reviews]}}]}]}"]);
    let passes = |host: &'static str| ask().host(host).called("shop/reviews", 9080).passes(&allow);
    assert!(passes("reviews") && !passes("reviews:9080") && !passes("reviews.shop"));
}

#[test]
fn a50_no_way_of_writing_a_header_passes_a_denial() {
    let deny = of(&["{action: DENY, rules: [{when: [{key: 'request.headers[role]', values: [admin]}]}]}"]);
    let except = of(&["{rules: [{when: [{key: 'request.headers[role]', notValues: [admin]}]}]}"]);
    for lines in [
        &[&b"admin"[..]][..],
        &[b"user", b"admin"],
        &[b"user,admin"],
        &[b"user , admin"],
        &[b"user, admin", b"other"],
        &[b"admin\xff"],
        &[b"user", b"\xff"],
    ] {
        let asked = lines.iter().fold(ask(), |ask, line| ask.header("role", line));
        assert!(!asked.passes(&deny) && !asked.passes(&except), "{lines:?}");
    }
    for policy in [&deny, &except] {
        assert!(ask().passes(policy) && ask().header("role", b"user").passes(policy));
    }
    let allow = of(&["{rules: [{when: [{key: 'request.headers[role]', values: [admin, user]}]}]}"]);
    assert!(ask().header("role", b"admin").passes(&allow));
    for lines in [&[&b"admin"[..], b"guest"][..], &[b"admin", b"user"], &[b"admin,guest"], &[b"\xff"], &[]] {
        let asked = lines.iter().fold(ask(), |ask, line| ask.header("role", line));
        assert!(!asked.passes(&allow), "{lines:?}");
    }
    let present = of(&["{rules: [{when: [{key: 'request.headers[role]', values: ['*']}]}]}"]);
    assert!(ask().header("role", b"").passes(&present) && !ask().passes(&present));
}

#[test]
fn a51_a_dot_is_a_dot_and_a_star_stays_at_its_end() {
    let allow = of(&["{rules: [{from: [{source: {namespaces: [cert-manager.io, 'a*z']}}]}]}"]);
    assert!(!ask().from(Some("spiffe://prod.example/ns/cert-managerxio/sa/a")).passes(&allow));
    assert!(ask().from(Some("spiffe://prod.example/ns/abz/sa/a")).passes(&allow));
    // Istio's expression for a namespace would run on into the account; this one does not.
    let suffix = of(&["{rules: [{from: [{source: {namespaces: ['*sa']}}]}]}"]);
    assert!(!ask().passes(&suffix));
    let literal = of(&["{rules: [{to: [{operation: {paths: ['/a*b', '/{*}/x']}}]}]}"]);
    assert!(!ask().path("/axxb").passes(&literal) && ask().path("/a*b").passes(&literal));
    assert!(ask().path("/q/x").passes(&literal) && !ask().path("/q/r/x").passes(&literal));
}

#[test]
fn a52_the_method_is_the_one_on_the_wire() {
    let allow = of(&["{rules: [{to: [{operation: {methods: [GET]}}]}]}"]);
    assert!(!ask().method("ADMIN").passes(&allow) && !ask().method("get").passes(&allow));
    assert!(!ask().method("DELETE").header("x-http-method-override", b"GET").passes(&allow));
    let deny = of(&["{action: DENY, rules: [{when: [{key: 'request.headers[:method]', values: [DELETE]}]}]}"]);
    assert!(!ask().method("DELETE").header("x-http-method-override", b"GET").passes(&deny) && ask().passes(&deny));
}

#[test]
fn what_nobody_can_know_forbids() {
    let key = "experimental.envoy.filters.a[b]";
    let deny = of(&[&format!("{{action: DENY, rules: [{{when: [{{key: '{key}', values: [x]}}]}}]}}")]);
    let allow = of(&[&format!("{{rules: [{{when: [{{key: '{key}', notValues: [x]}}]}}]}}")]);
    assert!(!ask().passes(&deny) && !ask().passes(&allow));
}

#[test]
fn a45_parameters_do_not_make_a_path_one_that_is_allowed() {
    let allow = of(&["{rules: [{to: [{operation: {paths: ['*.css', '/public/*', '/m;v=1']}}]}]}"]);
    let passes = |path: &'static str| ask().path(path).passes(&allow);
    assert!(passes("/a.css") && passes("/public/x;v=1") && passes("/m;v=1"));
    assert!(!passes("/admin;x.css") && !passes("/m;v=2"));
    let by_header = of(&["{rules: [{when: [{key: 'request.headers[:path]', values: ['*.css']}]}]}"]);
    assert!(ask().path("/a.css").passes(&by_header) && !ask().path("/admin;x.css").passes(&by_header));
}
