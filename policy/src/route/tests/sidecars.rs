//! Requests and connections of callers whose Sidecar does not import everything.

use super::*;

const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: api, namespace: prod}\nspec: {hosts: [api.example.com], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: more, protocol: HTTP}]}\n---\n";

fn sidecar(egress: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default}}\nspec: {{egress: [{egress}]}}\n---\n"
    )
}

fn found(world: &World, authority: &str) -> String {
    world.with(&get("/").to(authority), |routed, _| match routed {
        Ok(routed) => format!("{}:{} {}", routed.host, routed.port, routed.route.name),
        Err(refused) => refused.to_string(),
    })
}

#[test]
fn services_and_entries_are_seen_where_they_are_imported() {
    let own = World::new(&(ENTRY.to_owned() + &sidecar("{hosts: ['./*']}")));
    assert_eq!(found(&own, "reviews"), "default/reviews:9080 default");
    for hidden in ["reviews.prod", "api.example.com"] {
        assert_eq!(found(&own, hidden), format!("Sidecar default/default does not import `{hidden}`"));
    }
    assert_eq!(found(&own, "nobody"), "no service is called `nobody`");
    let prod = World::new(&(ENTRY.to_owned() + &sidecar("{hosts: ['prod/*']}")));
    assert_eq!(found(&prod, "reviews.prod"), "prod/reviews:80 default");
    assert!(found(&prod, "reviews").contains("does not import"));
    assert!(
        found(&prod, "api.example.com").contains("several HTTP ports")
            || found(&prod, "api.example.com").ends_with(":80 default")
    );
    // Another namespace has a view of its own.
    assert_eq!(own.takes(&get("/").to("reviews.prod").from("prod")), "default");
}

#[test]
fn a_port_is_seen_by_the_listener_that_names_it() {
    let world = World::new(
        &(ENTRY.to_owned()
            + &sidecar("{port: {number: 8080}, hosts: ['*/*']}, {port: {number: 81}, hosts: ['prod/*']}")),
    );
    assert_eq!(found(&world, "multi"), "default/multi:8080 default", "its only port in sight");
    assert!(found(&world, "multi:80").contains("no HTTP port 80"));
    assert!(found(&world, "reviews").contains("does not import"));
    assert_eq!(found(&world, "api.example.com"), "api.example.com:81 default");
    let fixed = |service: &str, port| {
        let (call, uri) = (get("/"), Uri::from_static("/"));
        let request = Request {
            method: &call.method,
            uri: &uri,
            authority: "any",
            scheme: "http",
            headers: &call.headers,
            source: &call.source,
            fixed: Some((Called::Service(service.parse().unwrap()), port)),
            token: None,
            own_port: None,
        };
        route(&world.compiled, &world.table, &request).is_ok()
    };
    assert!(fixed("default/multi", 8080) && !fixed("default/multi", 80));
}

#[test]
fn rules_hold_if_their_namespace_is_imported_and_lead_anywhere() {
    let rules = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r, namespace: prod}\nspec: {hosts: [reviews.default.svc.cluster.local], http: [{name: ruled, route: [{destination: {host: reviews}}]}]}\n---\n";
    let named = |egress: &str| World::new(&(rules.to_owned() + &sidecar(egress))).takes(&get("/"));
    assert_eq!(named("{hosts: ['*/*']}"), "ruled");
    assert_eq!(named("{hosts: ['./*']}"), "default", "the service is imported, rules of prod are not");
    let world =
        World::new(&(rules.to_owned() + &sidecar("{hosts: ['./*', 'prod/reviews.default.svc.cluster.local']}")));
    assert_eq!(world.takes(&get("/")), "ruled");
    assert_eq!(world.destination(&get("/"), 0).host, "reviews.prod.svc.cluster.local", "not imported by itself");
}

#[test]
fn what_is_called_by_name_is_what_is_seen() {
    let world = World::new(&(ENTRY.to_owned() + &sidecar("{hosts: ['./*', 'prod/api.example.com']}")));
    let source = get("/").source;
    let meant =
        |host: &str| called(&world.compiled, &world.table, &source, (host, None)).map(|called| called.to_string());
    assert_eq!(meant("reviews").as_deref(), Some("default/reviews"));
    assert_eq!(meant("API.example.com.").as_deref(), Some("api.example.com"));
    assert_eq!(meant("reviews.prod"), None);
}
