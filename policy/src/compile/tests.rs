//! Which documents apply to which caller, and what is shared between builds.

use super::*;
use crate::{
    kinds::{Algorithm, Balance},
    route::{Action, Subset},
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
