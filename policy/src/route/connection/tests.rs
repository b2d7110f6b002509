//! Which rule a connection takes.

use std::collections::BTreeMap;

use super::*;
use crate::testing::spec_of;

/// The hosts that connections go to under one VirtualService for `db`.
struct World(Compiled);

impl World {
    fn new(rules: &str) -> Self {
        let spec = spec_of("VirtualService", &format!("{{hosts: [db, '*.db.example'], {rules}}}"));
        Self(Compiled::of_one("shop", spec.virtual_service().unwrap()))
    }

    fn with<T>(&self, port: u16, address: &str, app: &str, then: impl FnOnce(&Compiled, &Connection<'_>) -> T) -> T {
        let source = Source {
            namespace: "shop".into(),
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            account: "shop/web".parse().unwrap(),
        };
        let called = Called::Service("shop/db".parse().unwrap());
        then(&self.0, &Connection { called: &called, port, source: &source, address: address.parse().ok() })
    }

    fn tcp(&self, port: u16, address: &str, app: &str) -> String {
        self.with(port, address, app, |compiled, connection| first(&route_tcp(compiled, connection)))
    }

    fn tls(&self, server_name: &str, app: &str) -> String {
        self.with(443, "", app, |compiled, connection| first(&route_tls(compiled, connection, server_name)))
    }
}

fn first(route: &Route) -> String {
    let host = &route.choose(|| 0).unwrap().host;
    host.split('.').next().unwrap_or_default().to_owned()
}

fn to(host: &str) -> String {
    format!("route: [{{destination: {{host: {host}}}}}]")
}

#[test]
fn bytes_take_the_first_rule_that_holds() {
    let world = World::new(&format!(
        "tcp: [{{match: [{{port: 1}}, {{sourceLabels: {{app: admin}}, sourceNamespace: shop}}], {}}}, {{match: [{{sourceNamespace: other}}, {{port: 2, gateways: [edge]}}], {}}}, {{match: [{{port: 3}}], {}}}]",
        to("a"),
        to("b"),
        to("c")
    ));
    assert_eq!(world.tcp(1, "", "web"), "a");
    assert_eq!(world.tcp(9, "", "admin"), "a");
    assert_eq!(world.tcp(2, "", "web"), "db");
    assert_eq!(world.tcp(3, "", "web"), "c");
}

#[test]
fn the_longest_prefix_wins_up_to_a_rule_without() {
    let world = World::new(&format!(
        "tcp: [{{match: [{{destinationSubnets: [10.0.0.0/8]}}], {}}}, {{match: [{{destinationSubnets: [10.1.0.0/16, 192.0.2.1]}}], {}}}, {{{}}}, {{match: [{{destinationSubnets: [10.1.1.1]}}], {}}}]",
        to("wide"),
        to("narrow"),
        to("any"),
        to("never")
    ));
    assert_eq!(world.tcp(1, "10.9.9.9", ""), "wide");
    assert_eq!(world.tcp(1, "10.1.1.1", ""), "narrow");
    assert_eq!(world.tcp(1, "192.0.2.1", ""), "narrow");
    assert_eq!(world.tcp(1, "203.0.113.1", ""), "any");
    assert_eq!(world.tcp(1, "", ""), "any");
}

#[test]
fn tls_takes_the_most_specific_name() {
    let names =
        |names: &str, more: &str, host: &str| format!("{{match: [{{sniHosts: [{names}]{more}}}], {}}}", to(host));
    let world = World::new(&format!(
        "tls: [{}, {}, {}, {}, {}]",
        names("'*.db.example'", "", "wide"),
        names("'*.eu.db.example'", "", "narrow"),
        names("A.eu.db.example", "", "exact"),
        names("a.eu.db.example", "", "later"),
        names("b.eu.db.example", ", sourceLabels: {app: admin}", "admin"),
    ));
    assert_eq!(world.tls("x.db.example", ""), "wide");
    assert_eq!(world.tls("x.eu.db.example", ""), "narrow");
    assert_eq!(world.tls("a.EU.db.example", ""), "exact");
    assert_eq!(world.tls("b.eu.db.example", "admin"), "admin");
    assert_eq!(world.tls("b.eu.db.example", "web"), "narrow");
    assert_eq!(world.tls("elsewhere.example", ""), "db");
}

#[test]
fn the_smallest_network_goes_before_the_most_specific_name() {
    let rule = |name: &str, subnets: &str, host: &str| {
        format!("{{match: [{{sniHosts: ['{name}'], destinationSubnets: [{subnets}]}}], {}}}", to(host))
    };
    let rules = [
        rule("a.db.example", "10.0.0.0/8", "exact"),
        rule("*.db.example", "10.1.0.0/16", "near"),
        rule("*.db.example", "", "anywhere"),
    ];
    let world = World::new(&format!("tls: [{}]", rules.join(", ")));
    let tls = |address: &str| {
        world.with(443, address, "", |compiled, connection| first(&route_tls(compiled, connection, "a.db.example")))
    };
    assert_eq!(["10.1.2.3", "10.2.2.3", "192.0.2.1"].map(tls), ["near", "exact", "anywhere"]);
}

#[test]
fn tls_that_no_name_takes_is_bytes() {
    let world = World::new(&format!(
        "tls: [{{match: [{{sniHosts: [a.db.example]}}], {}}}], tcp: [{{match: [{{port: 443}}], {}}}]",
        to("named"),
        to("bytes")
    ));
    assert_eq!(world.tls("a.db.example", ""), "named");
    assert_eq!(world.tls("b.db.example", ""), "bytes");
    assert_eq!(world.tls("", ""), "bytes");
}
