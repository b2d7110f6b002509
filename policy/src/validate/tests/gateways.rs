//! Gateways, and VirtualServices at them.

use super::*;

const GATEWAY: &str = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {app: edge}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.shop.example']}
";

fn service(name: &str, host: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{host}]\n  gateways: [edge]\n  http: [{rules}]\n"
    )
}

const TO: &str = "route: [{destination: {host: reviews}}]";

fn edge() -> Table {
    table().workload("default", &[("app", "edge"), ("zone", "a")], &[])
}

#[test]
fn a_gateway_has_nodes() {
    assert!(found(GATEWAY, &edge()).is_empty());
    let other = table().workload("default", &[("app", "other")], &[]);
    assert_eq!(found(GATEWAY, &other), [(codes::SELECTS_NOBODY, "spec.selector".to_owned(), 6)]);
    assert!(found(GATEWAY, &table()).is_empty(), "nothing is known of workloads");
}

#[test]
fn files_rarely_show_the_edge() {
    let facts = |label: &str| {
        let pod = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{{label}}}}}\n");
        Facts::new(parse::yaml("f", &pod, "default").kubernetes)
    };
    let codes_with = |label: &str| -> Vec<&str> {
        let documents = parse::yaml("f.yaml", GATEWAY, "default").documents;
        between(&documents, &State::nothing(), &facts(label)).iter().map(|one| one.code).collect()
    };
    assert!(codes_with("role: web").is_empty(), "no workload has such a label at all");
    assert_eq!(codes_with("app: web"), [codes::SELECTS_NOBODY]);
    assert!(codes_with("app: edge").is_empty());
}

#[test]
fn servers_do_not_share_what_cannot_be_shared() {
    let second = |selector: &str, server: &str| {
        let gateway = GATEWAY.replace("name: edge}", "name: second}").replace("{app: edge}", selector);
        let server =
            gateway.replace("{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.shop.example']}", server);
        format!("{GATEWAY}{server}")
    };
    let with = |selector: &str, server: &str| fields(&second(selector, server), &edge(), codes::CONFLICTING_GATEWAYS);
    let same = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.shop.example']}";
    assert_eq!(with("{zone: a}", same), ["spec.servers[0].hosts[0]"; 2], "both documents are told");
    assert!(with("{zone: b}", same).is_empty(), "other nodes");
    assert!(with("{app: edge}", "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example]}").is_empty());
    assert!(
        with("{app: edge}", "{port: {number: 81, name: http, protocol: HTTP}, hosts: ['*.shop.example']}").is_empty()
    );
    let tcp = "{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}";
    assert_eq!(with("{app: edge}", tcp), ["spec.servers[0].port"; 2]);
    let bound = "{bind: 10.0.0.1, port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}";
    assert_eq!(with("{app: edge}", bound).len(), 2, "the other one listens everywhere");
    let private = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['web/*.shop.example']}";
    assert_eq!(with("{app: edge}", private).len(), 2);
    let own = GATEWAY.replace(
        "hosts: ['*.shop.example']}",
        "hosts: [a.example]}\n  - {port: {number: 80, name: again, protocol: HTTP}, hosts: [b.example, a.example]}",
    );
    assert_eq!(fields(&own, &edge(), codes::CONFLICTING_GATEWAYS), ["spec.servers[1].hosts[1]"]);
}

#[test]
fn a_virtual_service_attaches_to_gateways_that_are_there_and_serve_it() {
    let rule = format!("{{{TO}}}");
    assert!(found(&format!("{GATEWAY}{}", service("web", "web.shop.example", &rule)), &edge()).is_empty());
    assert_eq!(
        fields(&service("web", "web.shop.example", &rule), &edge(), codes::UNKNOWN_GATEWAY),
        ["spec.gateways[0]"]
    );
    let unserved = format!("{GATEWAY}{}", service("web", "web.other.example", &rule));
    assert_eq!(fields(&unserved, &edge(), codes::HOST_NOT_AT_GATEWAY), ["spec.gateways[0]"]);
    let one_of_two = format!("{GATEWAY}{}", service("web", "web.shop.example, b.example", &rule));
    assert_eq!(fields(&one_of_two, &edge(), codes::HOST_NOT_AT_GATEWAY), ["spec.hosts[1]"]);
    let strange = format!("{{match: [{{gateways: [edge, other], uri: {{prefix: /a}}}}], {TO}}}");
    let strange = format!("{GATEWAY}{}", service("web", "web.shop.example", &strange));
    assert_eq!(fields(&strange, &edge(), codes::STRANGE_GATEWAY), ["spec.http[0].match[0].gateways[1]"]);
}

#[test]
fn rules_that_are_joined_hide_each_other() {
    let with = |older: &str, younger: &str| {
        let text = format!(
            "{GATEWAY}{}{}",
            service("a", "web.shop.example", older),
            service("b", "web.shop.example", younger)
        );
        fields(&text, &edge(), codes::TAKEN_AT_GATEWAY)
    };
    let to = |condition: &str| format!("{{match: [{condition}], {TO}}}");
    let all = format!("{{{TO}}}");
    let (a, ab) = (to("{uri: {prefix: /a}}"), to("{uri: {prefix: /ab}}"));
    assert_eq!(with(&a, &ab), ["spec.http[0]"]);
    assert!(with(&ab, &a).is_empty());
    assert!(with(&all, &ab).is_empty(), "what takes all comes last");
    assert_eq!(with(&all, &format!("{ab}, {all}")), ["spec.http[1]"]);
    let partly = to("{uri: {prefix: /ab}}, {uri: {prefix: /c}}");
    assert!(with(&a, &partly).is_empty());
    let text = format!(
        "{GATEWAY}{}{}",
        service("a", "web.shop.example", &a),
        service("b", "web.shop.example, x.shop.example", &ab)
    );
    assert!(fields(&text, &edge(), codes::TAKEN_AT_GATEWAY).is_empty(), "for the other host it is reached");
}

#[test]
fn rules_for_the_mesh_do_not_apply_at_the_edge() {
    let mesh = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mesh}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}
";
    let text = format!("{GATEWAY}{mesh}---\n{RULE}{}", service("web", "web.shop.example", &format!("{{{TO}}}")));
    assert_eq!(fields(&text, &edge(), codes::MESH_RULES_NOT_AT_GATEWAY), ["spec.http[0].route[0].destination"]);
    let named = text.replace("{destination: {host: reviews}}", "{destination: {host: reviews, subset: v1}}");
    assert!(fields(&named, &edge(), codes::MESH_RULES_NOT_AT_GATEWAY).is_empty());
}

#[test]
fn credentials_are_those_that_are_known() {
    let tls =
        "{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: shop}}";
    let text = GATEWAY.replace("{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.shop.example']}", tls);
    assert!(fields(&text, &edge().names(&[], &["shop"]), codes::UNKNOWN_CREDENTIAL).is_empty());
    let wanted = ["spec.servers[0].tls.credentialName"];
    assert_eq!(fields(&text, &edge().names(&[], &["shops"]), codes::UNKNOWN_CREDENTIAL), wanted);
    assert!(fields(&text, &edge(), codes::UNKNOWN_CREDENTIAL).is_empty(), "nothing is known of credentials");
}
