//! Which documents apply to which caller, and what is shared between builds.

use super::*;
use crate::{
    kinds::{Algorithm, Balance},
    route::{Action, Destination, Subset},
    testing::{Mesh, NOW},
};

fn service(name: &str) -> ServiceName {
    name.parse().unwrap()
}

fn virtual_service(namespace: &str, name: &str, host: &str, more: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{hosts: ['{host}'], http: [{{name: {name}, route: [{{destination: {{host: reviews.default.svc.cluster.local, subset: v1}}}}]}}]{more}}}\n"
    )
}

fn rule(namespace: &str, name: &str, host: &str, version: &str, more: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{host: '{host}', trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}, subsets: [{{name: v1, labels: {{version: {version}}}}}]{more}}}\n"
    )
}

fn subset(compiled: &Compiled, client: &str) -> Option<String> {
    let found = compiled.virtual_service(&service("default/reviews"), client).unwrap();
    let (_, route) = found.rules(client).next().unwrap();
    let Action::Forward(destinations) = &route.action else { panic!("forwards") };
    match &destinations[0].common.subset {
        Subset::Labels(labels) => labels.get("version").cloned(),
        Subset::All | Subset::Missing(_) => None,
    }
}

fn applies(compiled: &Compiled, to: &str, client: &str) -> Option<String> {
    compiled.virtual_service(&service(to), client).map(|found| found.id.name.clone())
}

#[test]
fn the_most_specific_then_the_oldest() {
    let text = [
        virtual_service("default", "any", "*.svc.cluster.local", ""),
        virtual_service("default", "ns", "*.default.svc.cluster.local", ""),
        virtual_service("default", "first", "reviews", ""),
        virtual_service("default", "second", "reviews.default.svc.cluster.local", ""),
        virtual_service("prod", "named", "reviews.default.svc.cluster.local", ", exportTo: [prod, web]"),
        virtual_service("prod", "private", "reviews.default.svc.cluster.local", ", exportTo: ['.']"),
        virtual_service("default", "dotted", "ratings.default", ""),
    ]
    .concat();
    let compiled = Compiled::build(&Mesh::new().push(&text), None);
    assert_eq!(applies(&compiled, "default/reviews", "default").as_deref(), Some("first"));
    assert_eq!(applies(&compiled, "default/reviews", "prod").as_deref(), Some("private"));
    assert_eq!(applies(&compiled, "default/reviews", "web").as_deref(), Some("named"));
    assert_eq!(applies(&compiled, "default/ratings", "default").as_deref(), Some("ns"));
    assert_eq!(applies(&compiled, "prod/reviews", "default").as_deref(), Some("any"));
    assert_eq!(compiled.hosts().len(), 7);
}

#[test]
fn destination_rules_by_client_then_service_then_root() {
    let host = "reviews.default.svc.cluster.local";
    let text = [
        virtual_service("default", "vs", "reviews", ""),
        rule("istio-system", "root", "*.svc.cluster.local", "root", ""),
        rule("default", "service", "reviews", "service", ", exportTo: ['.', shop]"),
        rule("prod", "client", "*.default.svc.cluster.local", "client-wild", ""),
        rule("prod", "client-exact", host, "client", ""),
    ]
    .concat();
    let compiled = Compiled::build(&Mesh::new().push(&text), None);
    assert_eq!(subset(&compiled, "prod").as_deref(), Some("client"));
    assert_eq!(subset(&compiled, "default").as_deref(), Some("service"));
    assert_eq!(subset(&compiled, "shop").as_deref(), Some("service"));
    assert_eq!(subset(&compiled, "elsewhere").as_deref(), Some("root"));
    let default = compiled.default_route(&service("default/ratings"), "elsewhere");
    let Action::Forward(destinations) = &default.action else { panic!("forwards") };
    assert_eq!(destinations[0].common.policy(80).load_balancer.algorithm, Algorithm::Simple(Balance::Random));
    assert!(Arc::ptr_eq(&default, &compiled.default_route(&service("default/ratings"), "elsewhere")));
}

#[test]
fn rules_of_one_host_and_namespace_merge() {
    let text = [
        virtual_service("default", "vs", "reviews", ""),
        rule("default", "b", "reviews", "first", ""),
        rule("default", "a", "reviews", "second", ""),
    ]
    .concat();
    let compiled = Compiled::build(&Mesh::new().push(&text), None);
    assert_eq!(subset(&compiled, "default").as_deref(), Some("first"));
}

#[test]
fn only_what_changed_is_compiled() {
    let mut mesh = Mesh::new();
    let text = virtual_service("default", "a", "reviews", "")
        + &virtual_service("default", "b", "ratings", "").replace("reviews.default", "ratings.default");
    let before = Arc::new(Compiled::build(&mesh.push(&text), None));
    let of = |compiled: &Compiled, name: &str| compiled.virtual_service(&service(name), "default").unwrap().clone();
    let state = mesh.push(&rule("default", "reviews", "reviews", "v1", ""));
    let after = Arc::new(Compiled::build(&state, Some(&before)));
    assert!(!Arc::ptr_eq(&of(&before, "default/reviews"), &of(&after, "default/reviews")));
    assert!(Arc::ptr_eq(&of(&before, "default/ratings"), &of(&after, "default/ratings")));
    assert_eq!(subset(&after, "default").as_deref(), Some("v1"));
    let again = Compiled::build(&mesh.history.state(NOW), Some(&after));
    assert!(Arc::ptr_eq(&of(&again, "default/reviews"), &of(&after, "default/reviews")));
}

fn destination(route: &Route) -> &Destination {
    let Action::Forward(destinations) = &route.action else { panic!("forwards") };
    &destinations[0]
}

fn labels(text: &str) -> BTreeMap<String, String> {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

fn selecting(name: &str, selector: &str, version: &str) -> String {
    rule("default", name, "reviews", version, &format!(", workloadSelector: {{matchLabels: {{{selector}}}}}"))
}

#[test]
fn a_selector_makes_a_rule_of_its_own() {
    let text = [
        virtual_service("default", "vs", "reviews", ""),
        rule("default", "plain", "reviews", "plain", ""),
        selecting("first", "app: web", "first"),
        selecting("second", "'version': v2", "second"),
        // The same selector: merged with the first, whose subset of that name stands.
        selecting("third", "app: web", "third"),
    ]
    .concat();
    let compiled = Compiled::build(&Mesh::new().push(&text), None);
    let seen = |client: &str, who: &str| {
        let found = compiled.virtual_service(&service("default/reviews"), client).unwrap();
        let (_, route) = found.rules(client).next().unwrap();
        match &destination(route).seen_by(&labels(who)).subset {
            Subset::Labels(labels) => labels.get("version").cloned().unwrap_or_default(),
            Subset::All => "all".to_owned(),
            Subset::Missing(_) => "missing".to_owned(),
        }
    };
    assert_eq!(seen("default", "app=web"), "first");
    assert_eq!(seen("default", "app=web,version=v2"), "first");
    assert_eq!(seen("default", "app=other,version=v2"), "second");
    assert_eq!(seen("default", "app=other"), "plain");
    assert_eq!(seen("default", ""), "plain");
    // Callers elsewhere see rules without a selector only, whatever their labels.
    assert_eq!(seen("prod", "app=web"), "plain");
    let only = [virtual_service("default", "vs", "reviews", ""), selecting("first", "app: web", "first")].concat();
    let compiled = Compiled::build(&Mesh::new().push(&only), None);
    let found = compiled.virtual_service(&service("default/reviews"), "default").unwrap();
    let (_, route) = found.rules("default").next().unwrap();
    assert_eq!(destination(route).seen_by(&labels("app=other")).subset, Subset::Missing("v1".into()));
}

#[test]
fn policies_stay_the_same_objects_while_nothing_changes_them() {
    let mut mesh = Mesh::new();
    let text = virtual_service("default", "a", "reviews", "") + &rule("default", "reviews", "reviews", "v1", "");
    let before = Arc::new(Compiled::build(&mesh.push(&text), None));
    let policy = |compiled: &Compiled| {
        let found = compiled.virtual_service(&service("default/reviews"), "default").unwrap();
        destination(found.rules("default").next().unwrap().1).common.policy(80).clone()
    };
    let ratings = |compiled: &Compiled| compiled.default_route(&service("default/ratings"), "default");
    let (first, default) = (policy(&before), ratings(&before));
    // Another route of the VirtualService, and another subset in the rule: new routes with the same policy.
    let text = virtual_service("default", "a", "reviews", "").replace("name: a, route", "name: changed, route");
    let after = Arc::new(Compiled::build(&mesh.push(&text), Some(&before)));
    assert!(Arc::ptr_eq(&first, &policy(&after)));
    let text = rule("default", "reviews", "reviews", "v2", "");
    let after = Arc::new(Compiled::build(&mesh.push(&text), Some(&after)));
    assert!(Arc::ptr_eq(&first, &policy(&after)));
    assert!(Arc::ptr_eq(&default, &ratings(&after)));
    // A rule that changes it: another object. Of the default route, too, once a rule is for its host.
    let text = text.replace("RANDOM", "ROUND_ROBIN") + &rule("default", "ratings", "ratings", "v1", "");
    let after = Arc::new(Compiled::build(&mesh.push(&text), Some(&after)));
    assert!(!Arc::ptr_eq(&first, &policy(&after)));
    assert!(!Arc::ptr_eq(&default, &ratings(&after)));
    assert_eq!(
        destination(&ratings(&after)).common.policy(80).load_balancer.algorithm,
        Algorithm::Simple(Balance::Random)
    );
}

#[test]
fn delegates_are_found_seen_and_compiled_again() {
    let root = |name: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: root, namespace: default}}\nspec: {{hosts: [reviews], http: [{{name: r, match: [{{uri: {{prefix: /a}}}}], delegate: {{name: {name}, namespace: shop}}}}, {{name: rest, redirect: {{uri: /x}}}}]}}\n"
        )
    };
    let part = |more: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: part, namespace: shop}}\nspec: {{http: [{{name: p, route: [{{destination: {{host: carts}}}}]}}]{more}}}\n"
        )
    };
    let mut mesh = Mesh::new();
    let names = |compiled: &Compiled| -> Vec<String> {
        let found = compiled.virtual_service(&service("default/reviews"), "default").unwrap();
        found.rules("default").map(|(_, route)| route.name.clone()).collect()
    };
    let first = Arc::new(Compiled::build(&mesh.push(&root("part")), None));
    assert_eq!(names(&first), ["rest"]);
    let second = Arc::new(Compiled::build(&mesh.push(&part("")), Some(&first)));
    assert_eq!(names(&second), ["r-p", "rest"]);
    let found = second.virtual_service(&service("default/reviews"), "default").unwrap();
    let (conditions, route) = found.rules("default").next().unwrap();
    // Short names are of the namespace in which they were written.
    assert_eq!(destination(route).host, "carts.shop.svc.cluster.local");
    assert_eq!((conditions.len(), route.document.as_ref().map(|id| id.name.as_str())), (1, Some("part")));
    let third = Arc::new(Compiled::build(&mesh.push(&part(", exportTo: ['.']")), Some(&second)));
    assert_eq!(names(&third), ["rest"]);
    // A delegate is nobody's VirtualService.
    assert_eq!(applies(&third, "shop/carts", "shop"), None);
    let fourth = Compiled::build(&mesh.push(&part(", hosts: [carts]")), Some(&third));
    assert_eq!((names(&fourth).len(), applies(&fourth, "shop/carts", "shop").as_deref()), (1, Some("part")));
}

#[test]
fn mirrors_and_cors_are_part_of_the_route() {
    let spec = crate::testing::spec_of(
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a}}], corsPolicy: {allowOrigins: [{exact: x}]}, timeout: 0s,
            mirrors: [{destination: {host: b, subset: v9}, percentage: {value: 25}}, {destination: {host: c, port: {number: 7}}}]}]}",
    );
    let http = spec.virtual_service().unwrap().http[0].clone();
    let document = DocumentId::new(crate::Kind::VirtualService, "shop", "d");
    let (rules, policies) = (rules::Rules::default(), policies::Table::default());
    let retries = crate::retry::Retries::default();
    let maker = Maker { rules: &rules, client: "shop", retries: &retries, policies: &policies };
    let route = maker.route(&delegate::Rule { document, index: 3, http }).unwrap();
    assert_eq!((route.rule, route.timeout), (3, None));
    assert!(route.cors.as_ref().is_some_and(|cors| cors.allows("x")));
    let [b, c] = route.mirrors.as_slice() else { panic!("two mirrors") };
    assert_eq!(b.destination.common.subset, Subset::Missing("v9".into()));
    assert_eq!((b.takes(249_999), b.takes(250_000), c.takes(999_999)), (true, false, true));
    assert_eq!(
        (c.destination.cluster(7).as_str(), c.destination.port),
        ("outbound|7||c.shop.svc.cluster.local", Some(7))
    );
}
