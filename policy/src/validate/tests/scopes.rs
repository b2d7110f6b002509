//! Documents of which one counts, Sidecars, and ServiceEntries.

use super::*;

fn document(api: &str, kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: {api}.istio.io/v1\nkind: {kind}\nmetadata: {{{name}}}\nspec: {{{spec}}}\n")
}

fn web() -> Table {
    table().workload("default", &[("app", "web"), ("tier", "front")], &[])
}

#[test]
fn one_default_counts_in_a_namespace() {
    for (api, kind, spec) in [
        ("networking", "Sidecar", "egress: [{hosts: ['./*']}]"),
        ("telemetry", "Telemetry", "accessLogging: [{disabled: true}]"),
        ("security", "PeerAuthentication", "mtls: {mode: STRICT}"),
    ] {
        let (a, b) = (document(api, kind, "name: a", spec), document(api, kind, "name: b", spec));
        let both = format!("{a}{b}");
        assert_eq!(fields(&both, &web(), codes::SEVERAL_DEFAULTS), ["spec"; 2], "{kind}");
        let found = problems(&both, &web());
        let severities: Vec<Severity> = found.iter().map(|one| one.severity).collect();
        assert_eq!(severities, [Severity::Info, Severity::Warning], "{kind}: the oldest is used");
        let apart = format!("{a}{}", document(api, kind, "name: b, namespace: shop", spec));
        assert!(fields(&apart, &table(), codes::SEVERAL_DEFAULTS).is_empty(), "{kind}");
    }
}

#[test]
fn one_document_counts_for_a_workload() {
    for (api, kind, field, spec) in [
        ("networking", "Sidecar", "spec.workloadSelector", "egress: [{hosts: ['./*']}], workloadSelector: {labels: "),
        ("telemetry", "Telemetry", "spec.selector", "accessLogging: [{disabled: true}], selector: {matchLabels: "),
        ("security", "PeerAuthentication", "spec.selector", "mtls: {mode: STRICT}, selector: {matchLabels: "),
    ] {
        let with = |one: &str, other: &str, table: &Table| {
            let text = |name: &str, labels: &str| document(api, kind, name, &format!("{spec}{labels}}}"));
            fields(&format!("{}{}", text("name: a", one), text("name: b", other)), table, codes::SEVERAL_FOR_WORKLOAD)
        };
        assert_eq!(with("{app: web}", "{tier: front}", &web()), [field; 2], "{kind}");
        assert!(with("{app: web}", "{app: api}", &web()).is_empty(), "{kind}");
        assert!(with("{app: web}", "{tier: front}", &table()).is_empty(), "{kind}: nothing is known of workloads");
        assert_eq!(with("{app: web}", "{app: web}", &table()), [field; 2], "{kind}");
    }
}

#[test]
fn what_a_sidecar_imports_is_there() {
    let with = |hosts: &str| {
        let text = document("networking", "Sidecar", "name: a", &format!("egress: [{{hosts: [{hosts}]}}]"));
        fields(&text, &web(), codes::IMPORTS_NOTHING)
    };
    assert!(with("./*, istio-system/*, ./reviews.default.svc.cluster.local, ~/nobody.example").is_empty());
    assert_eq!(with("./*, ./reveiws.default.svc.cluster.local"), ["spec.egress[0].hosts[1]"]);
    assert_eq!(with("shop/reviews.default.svc.cluster.local"), ["spec.egress[0].hosts[0]"], "of another namespace");
}

#[test]
fn a_sidecar_hides_virtual_services() {
    let service = document(
        "networking",
        "VirtualService",
        "name: reviews",
        "hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]",
    );
    let hiding = document("networking", "Sidecar", "name: a", "egress: [{hosts: [istio-system/*]}]");
    let severities = |text: &str| -> Vec<Severity> {
        problems(text, &table())
            .iter()
            .filter(|one| one.code == codes::OUTSIDE_SIDECAR)
            .map(|one| one.severity)
            .collect()
    };
    assert_eq!(severities(&format!("{service}{hiding}")), [Severity::Info], "others may see it");
    let private = service.replace("spec: {", "spec: {exportTo: [.], ");
    assert_eq!(severities(&format!("{private}{hiding}")), [Severity::Warning]);
    let root = hiding.replace("name: a}", "name: a, namespace: istio-system}");
    assert_eq!(severities(&format!("{private}{root}")), [Severity::Warning]);
    for open in [
        "egress: [{hosts: ['./*']}]",
        "egress: [{hosts: ['*/reviews.default.svc.cluster.local']}]",
        "outboundTrafficPolicy: {}",
    ] {
        assert!(
            severities(&format!("{private}{}", document("networking", "Sidecar", "name: a", open))).is_empty(),
            "{open}"
        );
    }
    let some = document(
        "networking",
        "Sidecar",
        "name: b",
        "workloadSelector: {labels: {app: web}}, egress: [{hosts: ['./*']}]",
    );
    assert!(severities(&format!("{private}{hiding}{some}")).is_empty(), "some workloads see it");
}

fn entry(name: &str, spec: &str) -> String {
    document("networking", "ServiceEntry", name, spec)
}

#[test]
fn a_host_has_one_owner() {
    let a =
        entry("name: a", "hosts: [db.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS");
    let b = a.replace("name: a}", "name: b}");
    assert_eq!(fields(&format!("{a}{b}"), &table(), codes::HOST_CLAIMED_TWICE), ["spec.hosts[0]"; 2]);
    let hidden = |namespace: &str| {
        a.replace("name: a}", &format!("name: a, namespace: {namespace}}}"))
            .replace("spec: {", "spec: {exportTo: [.], ")
    };
    assert!(fields(&format!("{}{}", hidden("web"), hidden("api")), &table(), codes::HOST_CLAIMED_TWICE).is_empty());
    let taken = a.replace("db.example.com", "reviews.default.svc.cluster.local");
    assert_eq!(fields(&taken, &table(), codes::HOST_OF_SERVICE), ["spec.hosts[0]"]);
    assert!(fields(&a, &table(), codes::HOST_OF_SERVICE).is_empty());
}

#[test]
fn addresses_lead_to_one_service() {
    let with = |name: &str, host: &str, address: &str, port: &str| {
        entry(
            &format!("name: {name}"),
            &format!(
                "hosts: [{host}], addresses: [{address}], ports: [{port}], resolution: STATIC, endpoints: [{{address: 10.9.0.1}}]"
            ),
        )
    };
    let tcp = "{number: 3306, name: db, protocol: MYSQL}";
    let first = with("a", "a.example", "10.1.0.1", tcp);
    let shared = |second: &str| fields(&format!("{first}{second}"), &table(), codes::ADDRESS_CLAIMED_TWICE);
    assert_eq!(shared(&with("b", "b.example", "10.1.0.1", tcp)), ["spec.addresses[0]"; 2]);
    assert!(shared(&with("b", "b.example", "10.1.0.2", tcp)).is_empty());
    assert!(shared(&with("b", "b.example", "10.1.0.1", "{number: 3307, name: db, protocol: MYSQL}")).is_empty());
    assert!(shared(&with("b", "b.example", "10.1.0.1", "{number: 3306, name: web, protocol: HTTP}")).is_empty());
}

#[test]
fn of_a_port_without_addresses_one_service_takes_all() {
    let with = |name: &str, more: &str| {
        let spec = format!("hosts: [{name}.example], {more} resolution: DNS");
        entry(&format!("name: {name}"), &spec)
    };
    let tcp = "ports: [{number: 80, name: web, protocol: HTTP}, {number: 5432, name: db, protocol: TCP}],";
    let shared = |other: &str| {
        fields(&format!("{}{}", with("a", tcp), with("b", other)), &table(), codes::ADDRESS_CLAIMED_TWICE)
    };
    assert_eq!(shared(tcp), ["spec.ports[1]"; 2]);
    assert!(shared(&format!("addresses: [10.0.0.1], {tcp}")).is_empty());
    assert!(shared("ports: [{number: 5432, name: db, protocol: HTTP}],").is_empty());
    assert_eq!(shared("ports: [{number: 5432, name: db, protocol: MONGO}],"), ["spec.ports[1]", "spec.ports[0]"]);
}

#[test]
fn endpoints_can_be_reached() {
    let with = |endpoints: &str| {
        entry(
            "name: a",
            &format!(
                "hosts: [a.example], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{endpoints}]"
            ),
        )
    };
    let text = with("{address: 10.0.0.1}, {address: 127.0.0.1}, {address: 0.0.0.0}");
    let wanted = ["spec.endpoints[1].address", "spec.endpoints[2].address"];
    assert_eq!(fields(&text, &table(), codes::ENDPOINT_ADDRESS), wanted);
    let twice = with("{address: 10.0.0.1}, {address: 10.0.0.2}, {address: 10.0.0.1}");
    assert_eq!(fields(&twice, &table(), codes::REPEATED_ENDPOINT), ["spec.endpoints[2].address"]);
    let ports = with("{address: 10.0.0.1, ports: {http: 81}}, {address: 10.0.0.1, ports: {http: 82}}");
    assert!(fields(&ports, &table(), codes::REPEATED_ENDPOINT).is_empty());
    let subsets = with("{address: 10.0.0.1, labels: {v: a}}, {address: 10.0.0.1, labels: {v: b}}");
    assert!(fields(&subsets, &table(), codes::REPEATED_ENDPOINT).is_empty());
    let alone = document("networking", "WorkloadEntry", "name: w", "address: '::'");
    assert_eq!(fields(&alone, &table(), codes::ENDPOINT_ADDRESS), ["spec.address"]);
}

#[test]
fn a_selector_finds_endpoints() {
    let text = entry(
        "name: a",
        "hosts: [a.example], location: MESH_INTERNAL, ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, workloadSelector: {labels: {app: vm}}",
    );
    let machine = document("networking", "WorkloadEntry", "name: w", "address: 10.0.0.1, labels: {app: vm}");
    assert_eq!(fields(&text, &web(), codes::SELECTS_NOBODY), ["spec.workloadSelector"]);
    assert!(fields(&format!("{text}{machine}"), &web(), codes::SELECTS_NOBODY).is_empty());
    assert!(fields(&text.replace("app: vm", "app: web"), &web(), codes::SELECTS_NOBODY).is_empty());
}

#[test]
fn a_service_entry_makes_hosts() {
    let to = |host: &str| {
        document(
            "networking",
            "VirtualService",
            "name: v",
            &format!("hosts: [reviews], http: [{{route: [{{destination: {{host: {host}}}}}]}}]"),
        )
    };
    let made = entry(
        "name: a, namespace: shop",
        "exportTo: [default], hosts: [db.example, '*.eu.example'], ports: [{number: 443, name: tls, protocol: TLS}], resolution: NONE",
    );
    let unknown =
        |host: &str, entry: &str| fields(&format!("{}{entry}", to(host)), &table(), codes::UNKNOWN_HOST).len();
    assert_eq!(unknown("db.example", ""), 1);
    for host in ["db.example", "a.eu.example", "'*.eu.example'"] {
        assert_eq!(unknown(host, &made), 0, "{host}");
    }
    assert_eq!(unknown("db.example", &made.replace("[default]", "[.]")), 1, "not exported to the caller");
    let port = to("db.example").replace("{host: db.example}", "{host: db.example, port: {number: 80}}");
    assert_eq!(fields(&format!("{port}{made}"), &table(), codes::UNKNOWN_PORT).len(), 1);
}
