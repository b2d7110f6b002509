//! Which Sidecar applies, and what is seen by it.

use super::*;
use crate::testing::state_of;

fn document(name: &str, namespace: &str, year: u32, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}, \
         creationTimestamp: '{year}-01-01T00:00:00Z'}}\nspec: {{{spec}}}\n"
    )
}

fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned())])
}

/// A mesh with this one Sidecar of `shop`.
fn only(spec: &str) -> Compiled {
    Compiled::build(&state_of(&document("default", "shop", 2020, spec)), None)
}

fn shop(compiled: &Compiled) -> Scope<'_> {
    compiled.scope_of("shop", &BTreeMap::new())
}

#[test]
fn one_sidecar_applies_to_a_workload() {
    let plain = "outboundTrafficPolicy: {}";
    let web = "workloadSelector: {labels: {app: web}}, outboundTrafficPolicy: {}";
    let all = [
        ("root", ROOT_NAMESPACE, 2020, plain),
        ("root-web", ROOT_NAMESPACE, 2019, web),
        ("young", "shop", 2022, plain),
        ("old", "shop", 2021, plain),
        ("young-web", "shop", 2024, web),
        ("old-web", "shop", 2023, web),
        ("only-web", "web", 2020, web),
    ];
    let text: String = all.iter().map(|(name, namespace, year, spec)| document(name, namespace, *year, spec)).collect();
    let compiled = Compiled::build(&state_of(&text), None);
    let of = |namespace: &str, app: &str| {
        compiled.scope_of(namespace, &labels(app)).sidecar.map(|(id, _)| id.name.clone()).unwrap_or_default()
    };
    assert_eq!(of("shop", "web"), "old-web");
    assert_eq!(of("shop", "db"), "old");
    assert_eq!(of("web", "db"), "root");
    assert_eq!(of("other", "web"), "root");
    assert_eq!(of(ROOT_NAMESPACE, "web"), "root-web");
    let nothing = only("outboundTrafficPolicy: {}");
    assert!(nothing.scope_of("other", &BTreeMap::new()).sidecar.is_none());
    assert!(shop(&nothing).imports("a.b", "x"), "one that says nothing of imports leaves all in sight");
}

#[test]
fn imports_are_of_namespaces_and_hosts() {
    let seen = |hosts: &str, host: &str, namespace: &str| {
        shop(&only(&format!("egress: [{{hosts: [{hosts}]}}]"))).imports(host, namespace)
    };
    let (own, other) = (("cart.shop.svc.cluster.local", "shop"), ("pay.bank.svc.cluster.local", "bank"));
    for (hosts, sees_own, sees_other) in [
        ("'*/*'", true, true),
        ("'./*'", true, false),
        ("bank/*", false, true),
        ("'bank/*', './*'", true, true),
        ("'~/*'", false, false),
        ("'./cart.shop.svc.cluster.local'", true, false),
        ("'*/*.bank.svc.cluster.local'", false, true),
        ("bank/cart.shop.svc.cluster.local", false, false),
        ("'*/*', '~bank/*'", true, false),
        ("'*/*', '~/cart.shop.svc.cluster.local'", false, true),
    ] {
        assert_eq!(seen(hosts, own.0, own.1), sees_own, "{hosts}");
        assert_eq!(seen(hosts, other.0, other.1), sees_other, "{hosts}");
    }
}

#[test]
fn the_root_namespaces_own_is_each_workloads() {
    let text = document("default", ROOT_NAMESPACE, 2020, "egress: [{hosts: ['./*', '~./secret.example.com']}]");
    let compiled = Compiled::build(&state_of(&text), None);
    let nobody = BTreeMap::new();
    let sees = |client: &str, host: &str, namespace: &str| compiled.scope_of(client, &nobody).imports(host, namespace);
    assert!(sees("shop", "cart.shop.svc.cluster.local", "shop") && sees("bank", "pay.bank.svc.cluster.local", "bank"));
    assert!(!sees("shop", "pay.bank.svc.cluster.local", "bank") && !sees("shop", "a.b", ROOT_NAMESPACE));
    assert!(!sees("shop", "secret.example.com", "shop"));
    let heeds =
        |client: &str, namespace: &str| compiled.scope_of(client, &nobody).heeds(namespace, ["x.y"].into_iter());
    assert!(heeds("shop", "shop") && !heeds("shop", "bank"));
}

#[test]
fn a_listener_with_a_port_stands_alone_there() {
    let compiled = only("egress: [{port: {number: 80}, hosts: ['./*']}, {hosts: ['bank/*']}]");
    let (cart, pay) = (ServiceName::new("shop", "cart").unwrap(), ServiceName::new("bank", "pay").unwrap());
    let at = |service, port| shop(&compiled).imported_at(service)(port);
    assert_eq!([at(&cart, 80), at(&cart, 81), at(&pay, 80), at(&pay, 81)], [true, false, false, true]);
    let without_rest = only("egress: [{port: {number: 80}, hosts: ['*/*']}]");
    assert!(!shop(&without_rest).imported_at(&cart)(81), "no listener takes it");
}

#[test]
fn rules_come_from_namespaces_that_are_imported() {
    let compiled = only("egress: [{hosts: [bank/*.bank.svc.cluster.local, '~bank/secret.bank.svc.cluster.local']}]");
    let heeds = |namespace: &str, host: &str| shop(&compiled).heeds(namespace, [host].into_iter());
    assert!(heeds("bank", "pay.bank.svc.cluster.local"));
    assert!(heeds("bank", "*"), "a part of it is imported");
    assert!(!heeds("shop", "pay.bank.svc.cluster.local"), "the rules are of another namespace");
    assert!(!heeds("bank", "cart.shop.svc.cluster.local"));
    assert!(!heeds("bank", "secret.bank.svc.cluster.local"));
}

#[test]
fn the_nearer_word_on_the_unknown_and_on_limits_counts() {
    let (inside, open) = (Some(OutboundPolicy::RegistryOnly), Some(OutboundPolicy::AllowAny));
    for (spec, mesh, wanted) in [
        ("outboundTrafficPolicy: {}", None, inside),
        ("outboundTrafficPolicy: {mode: ALLOW_ANY}", inside, open),
        ("egress: [{hosts: ['*/*']}]", inside, inside),
        ("egress: [{hosts: ['*/*']}]", None, None),
    ] {
        assert_eq!(shop(&only(spec)).outbound(mesh), wanted, "{spec}");
    }
    let pools = only(
        "ingress: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: 1}}}, {port: {number: 81}}], \
         inboundConnectionPool: {tcp: {maxConnections: 2}}",
    );
    let limit = |port| shop(&pools).inbound_pool(port).and_then(|pool| pool.tcp.max_connections);
    assert_eq!([limit(80), limit(81), limit(82)], [Some(1), Some(2), Some(2)]);
    assert_eq!(Scope::from("shop").inbound_pool(80), None);
}
