//! Whom a host of a ServiceEntry means.

use super::*;
use crate::testing::state_of;

fn text(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn entries(documents: &[String]) -> Entries {
    Entries::new(&state_of(&documents.join("---\n")))
}

fn found<'e>(entries: &'e Entries, host: &str, namespace: &str) -> Option<&'e str> {
    entries.named(host, namespace).map(|made| made.document.name.as_str())
}

/// The one that a TLS connection means which asks for this name.
fn by_server_name<'e>(at: &At<'e>, name: &str) -> Option<&'e Arc<EntryService>> {
    match at {
        At::Host(made) => Some(made),
        At::Named(named) => named.by_name(name, Protocol::Tls).or_else(|| named.otherwise(Some(Protocol::Tls), false)),
    }
}

/// The one that an address alone tells.
fn host(at: At<'_>) -> Option<&Arc<EntryService>> {
    match at {
        At::Host(made) => Some(made),
        At::Named(_) => None,
    }
}

const PORTS: &str = "ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC";

#[test]
fn the_callers_own_goes_before_the_oldest_and_the_host_before_a_wildcard() {
    let entries = entries(&[
        text("wide", "shop", &format!("{{hosts: ['*.example.com'], {PORTS}}}")),
        text("wider", "shop", &format!("{{hosts: ['*.com'], {PORTS}}}")),
        text("old", "shop", &format!("{{hosts: [api.example.com], {PORTS}}}")),
        text("own", "bank", &format!("{{hosts: [api.example.com], {PORTS}}}")),
        text("secret", "bank", &format!("{{hosts: [vault.example.com], exportTo: [.], {PORTS}}}")),
        text("nobodys", "bank", &format!("{{hosts: [nobody.example.org], exportTo: ['~'], {PORTS}}}")),
    ]);
    assert_eq!(found(&entries, "API.example.com.", "web"), Some("old"));
    assert_eq!(found(&entries, "api.example.com", "bank"), Some("own"));
    assert_eq!(found(&entries, "vault.example.com", "bank"), Some("secret"));
    assert_eq!(found(&entries, "vault.example.com", "web"), Some("wide"));
    assert_eq!(found(&entries, "a.b.com", "web"), Some("wider"));
    assert_eq!(found(&entries, "nobody.example.org", "bank"), None);
    assert_eq!(found(&entries, "example.org", "web"), None);
    assert_eq!(entries.all().len(), 6);
}

#[test]
fn addresses_and_short_names_mean_the_host() {
    let entries = entries(&[
        text("vip", "shop", &format!("{{hosts: [a.example, b.example], addresses: [240.0.0.7, 10.0.0.0/8], {PORTS}}}")),
        text("inner", "shop", &format!("{{hosts: [legacy.shop.svc.cluster.local], location: MESH_INTERNAL, {PORTS}}}")),
    ]);
    let host = |host: &str| entries.named(host, "shop").map(|made| &*made.host);
    assert_eq!(host("240.0.0.7"), Some("a.example"));
    assert_eq!(host("10.0.0.1"), None, "a block is for connections whose address is known");
    assert_eq!(host("legacy"), Some("legacy.shop.svc.cluster.local"));
    assert_eq!(host("legacy.shop.mesh"), Some("legacy.shop.svc.cluster.local"));
    assert!(entries.named("legacy", "web").is_none());
}

#[test]
fn ports_speak_as_declared() {
    let entries = entries(&[text(
        "db",
        "shop",
        "{hosts: [db.example], resolution: STATIC, ports: [{number: 3306, name: db}, {number: 80, name: web, protocol: HTTP}, {number: 8080, name: any, protocol: HTTP2}, {number: 443, name: tls, protocol: HTTPS}, {number: 53, name: dns, protocol: UDP}]}",
    )]);
    let made = entries.find("db.example", "shop").unwrap();
    let ports: Vec<_> = made.ports.iter().map(|port| (port.number, port.protocol)).collect();
    assert_eq!(ports, [(3306, Protocol::Tcp), (80, Protocol::Http), (8080, Protocol::Http2), (443, Protocol::Tls)]);
    assert_eq!(
        [None, Some(8080), Some(443)].map(|asked| made.http_port(asked, "shop".into())),
        [Some(80), Some(8080), None]
    );
}

#[test]
fn workloads_are_selected_in_the_namespace() {
    let workload = |name: &str, namespace: &str, app: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{address: 10.0.0.1, labels: {{app: {app}}}}}\n"
        )
    };
    let selecting =
        format!("{{hosts: [db.example], {PORTS}, location: MESH_INTERNAL, workloadSelector: {{labels: {{app: db}}}}}}");
    let entries = entries(&[
        text("db", "shop", &selecting),
        workload("two", "shop", "db"),
        workload("one", "shop", "db"),
        workload("other", "shop", "web"),
        workload("elsewhere", "bank", "db"),
    ]);
    let made = entries.find("db.example", "shop").unwrap();
    let names: Vec<&str> = made.workloads.iter().map(|(id, _)| id.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
}

#[test]
fn an_address_means_whose_it_is_then_whose_network_it_lies_in_then_who_takes_the_port() {
    let ports = "ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: STATIC";
    let entries = entries(&[
        text("network", "shop", &format!("{{hosts: [network.example.com], addresses: [10.0.0.0/8], {ports}}}")),
        text("single", "shop", &format!("{{hosts: [single.example.com], addresses: [10.0.0.7], {ports}}}")),
        text("wide", "shop", &format!("{{hosts: [wide.example.com], addresses: [10.0.0.0/7, 10.1.0.0/24], {ports}}}")),
        text("near", "shop", &format!("{{hosts: [near.example.com], addresses: [10.1.0.0/16], {ports}}}")),
        text("own", "bank", &format!("{{hosts: [own.example.com], addresses: [10.0.0.0/8], exportTo: [.], {ports}}}")),
        text(
            "port",
            "shop",
            "{hosts: [port.example.com], ports: [{number: 25, name: smtp, protocol: TCP}], resolution: DNS}",
        ),
        text(
            "web",
            "shop",
            "{hosts: [web.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}",
        ),
    ]);
    let at = |address: &str, port: u16, namespace: &str| {
        entries
            .at(address.parse().unwrap(), port, namespace, |_| false)
            .and_then(host)
            .map(|made| made.document.name.clone())
    };
    assert_eq!(at("10.0.0.7", 5432, "web").as_deref(), Some("single"));
    assert_eq!(at("10.0.0.8", 5432, "web").as_deref(), Some("network"));
    assert_eq!(at("10.0.0.8", 5432, "bank").as_deref(), Some("own"));
    assert_eq!(at("10.1.9.9", 5432, "web").as_deref(), Some("near"), "of networks the smallest");
    assert_eq!(at("10.1.0.9", 5432, "web").as_deref(), Some("wide"), "of all of an entry's");
    assert_eq!(at("10.1.9.9", 5432, "bank").as_deref(), Some("own"), "the callers' own before others'");
    assert_eq!(at("10.0.0.7", 5433, "web"), None, "no such port");
    assert_eq!(at("192.0.2.1", 5432, "web"), None);
    assert_eq!(at("192.0.2.1", 25, "web").as_deref(), Some("port"), "all of a TCP port that has no addresses");
    assert_eq!(at("192.0.2.1", 80, "web"), None, "HTTP is told by its host");
}

#[test]
fn of_two_that_take_all_of_a_port_the_one_with_the_endpoint_is_meant() {
    let one = |name: &str| {
        let ports = "ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: STATIC";
        text(name, "shop", &format!("{{hosts: [{name}.example.com], {ports}}}"))
    };
    let address = "192.0.2.1".parse().unwrap();
    let name = |made: &Arc<EntryService>| made.document.name.clone();
    let both = entries(&[one("a"), one("b")]);
    let at = |has: &str| both.at(address, 5432, "shop", |made| made.document.name == has).and_then(host).map(name);
    assert_eq!((at("a").as_deref(), at("b").as_deref()), (Some("a"), Some("b")));
    assert_eq!(at("none"), None, "nobody guesses which database is meant");
    assert_eq!(
        entries(&[one("a")]).at(address, 5432, "shop", |_| false).and_then(host).map(name).as_deref(),
        Some("a")
    );
}

/// Istio's filter chains: the smallest network that has the port, and of its hosts the one whose name is asked for. Who asks for the name
/// of a host with a larger network there means nobody.
#[test]
fn tls_in_a_network_means_the_host_whose_name_it_asks_for() {
    let one = |name: &str, hosts: &str, addresses: &str| {
        let ports = "ports: [{number: 443, name: tls, protocol: TLS}]";
        text(name, "shop", &format!("{{hosts: [{hosts}], addresses: [{addresses}], {ports}}}"))
    };
    let entries = entries(&[
        one("wide", "'*.corp.example', wide.example", "10.0.0.0/8, 10.0.0.9"),
        one("narrow", "narrow.example", "10.1.0.0/16"),
        one("beside", "a.corp.example", "10.0.0.0/8"),
    ]);
    let at = |address: &str, name: &str| {
        let at = entries.at(address.parse().unwrap(), 443, "shop", |_| false)?;
        by_server_name(&at, name).map(|made| made.host.to_string())
    };
    assert_eq!(at("10.2.0.1", "wide.example").as_deref(), Some("wide.example"), "the entry's second host");
    assert_eq!(at("10.2.0.1", "B.corp.example.").as_deref(), Some("*.corp.example"));
    assert_eq!(at("10.2.0.1", "a.corp.example").as_deref(), Some("a.corp.example"), "the host before the wildcard");
    assert_eq!(at("10.2.0.1", "narrow.example"), None, "it is not there");
    assert_eq!(at("10.1.0.1", "narrow.example").as_deref(), Some("narrow.example"));
    assert_eq!(at("10.1.0.1", "wide.example"), None, "the smaller network is another's");
    assert_eq!(at("192.0.2.1", "wide.example"), None);
    // An address of its own is its first host's, where none of its hosts is asked for.
    assert_eq!(at("10.0.0.9", "wide.example").as_deref(), Some("wide.example"));
    assert_eq!(at("10.0.0.9", "narrow.example").as_deref(), Some("*.corp.example"));
    assert!(entries.at("10.2.0.1".parse().unwrap(), 443, "shop", |_| false).and_then(host).is_none());
}

/// One front end under several names, the usual case.
#[test]
fn of_several_at_one_address_the_one_is_meant_that_is_asked_for() {
    let ports = "{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}";
    let any = "{number: 9, name: any}";
    let one = |name: &str, namespace: &str, hosts: &str, ports: &str| {
        text(
            name,
            namespace,
            &format!("{{hosts: [{hosts}], addresses: [203.0.113.5], ports: [{ports}], resolution: DNS}}"),
        )
    };
    let entries = entries(&[
        // The oldest, with another port there.
        one("admin", "shop", "admin.example", "{number: 8080, name: http, protocol: HTTP}"),
        one("a", "shop", "a.example, aa.example", ports),
        one("b", "bank", "b.example", &format!("{ports}, {any}")),
        one("c", "shop", "c.example", "{number: 8443, name: tls, protocol: TLS}"),
        one("d", "shop", "d.example", any),
    ]);
    let at = |port: u16, spoken: Option<Protocol>, name: &str, namespace: &str| {
        match entries.at("203.0.113.5".parse().unwrap(), port, namespace, |_| false)? {
            At::Host(made) => Some(made),
            At::Named(named) => {
                let by_name = spoken.and_then(|spoken| named.by_name(name, spoken));
                by_name.or_else(|| named.otherwise(spoken, false))
            }
        }
        .map(|made| &*made.host)
    };
    let (http, tls) = (Some(Protocol::Http), Some(Protocol::Tls));
    for namespace in ["shop", "bank", "web"] {
        for (port, spoken) in [(80, http), (443, tls)] {
            for name in ["a.example", "aa.example", "b.example"] {
                assert_eq!(at(port, spoken, name, namespace), Some(name), "{port} {namespace}");
            }
        }
        for (spoken, name) in [(http, "b.example"), (http, "d.example"), (tls, "b.example"), (tls, "d.example")] {
            assert_eq!(at(9, spoken, name, namespace), Some(name), "{namespace}");
        }
    }
    for (port, spoken, first) in
        [(80, http, "a.example"), (443, tls, "a.example"), (9, tls, "b.example"), (9, None, "b.example")]
    {
        assert_eq!(at(port, spoken, "other.example", "web"), Some(first), "{port}: else the oldest");
        assert_eq!(at(port, spoken, "other.example", "bank"), Some("b.example"), "{port}: or the callers' own");
    }
    assert_eq!(at(8443, tls, "a.example", "web"), Some("c.example"), "whose port it alone is");
    assert_eq!(at(8080, http, "a.example", "web"), Some("admin.example"));
    assert_eq!(at(8081, http, "a.example", "web"), None);
    // Whoever is told the address is led to whom it was told for: what is undeclared may ask for no host.
    let leads = |host: &str, namespace: &str| {
        let made = entries.find(host, namespace).expect("it is there");
        entries.leads(made, "203.0.113.5".parse().unwrap(), namespace)
    };
    for host in ["admin.example", "a.example", "aa.example", "c.example"] {
        assert!(leads(host, "shop") && leads(host, "bank"), "{host}");
    }
    assert!(leads("d.example", "shop") && !leads("d.example", "bank"));
    assert!(leads("b.example", "bank") && !leads("b.example", "shop"));
    // At a proxy port a request names the address.
    let port = |host: &str, port| {
        entries.named_with(host, "shop".into(), |made| made.http_port(Some(port), "shop".into()).is_some())
    };
    let named = [80, 8080, 8081].map(|asked| port("203.0.113.5", asked).map(|made| &*made.host));
    assert_eq!(named, [Some("a.example"), Some("admin.example"), Some("admin.example")]);
}

/// A block is no name of its entry's, so that a request there must ask for a host of it, or for no host.
#[test]
fn http_in_a_network_means_the_host_that_it_asks_for() {
    let one = |name: &str, ports: &str| {
        text(name, "shop", &format!("{{hosts: [{name}.example], addresses: [10.0.0.0/8], ports: [{ports}]}}"))
    };
    let (http, any) = ("{number: 80, name: http, protocol: HTTP}", "{number: 9, name: any}");
    let entries = entries(&[
        one("a", &format!("{http}, {any}")),
        one("b", http),
        one("c", "{number: 80, name: tcp, protocol: TCP}"),
    ]);
    let at = |port| match entries.at("10.1.2.3".parse().unwrap(), port, "shop", |_| false) {
        Some(At::Named(named)) => named,
        other => panic!("{other:?}"),
    };
    let name = |made: Option<&Arc<EntryService>>| made.map(|made| made.document.name.clone());
    let spoken = Protocol::Http;
    assert_eq!(name(at(80).by_name("b.example", spoken)).as_deref(), Some("b"));
    assert_eq!(name(at(80).by_name("c.example", spoken)), None, "which has bytes there");
    assert_eq!(name(at(80).otherwise(Some(spoken), false)), None);
    assert_eq!(name(at(80).otherwise(Some(spoken), true)).as_deref(), Some("a"), "the address itself");
    // What is undeclared there and names no host is the entry's, as all bytes are.
    assert_eq!(name(at(9).otherwise(Some(spoken), false)), None);
    for spoken in [Some(Protocol::Tls), None] {
        assert_eq!(name(at(9).otherwise(spoken, false)).as_deref(), Some("a"), "{spoken:?}");
    }
}

/// Istio's simulator: serviceentry-serviceentry-01.
#[test]
fn of_two_with_the_same_network_the_first_counts() {
    let one = |name: &str, address: &str| {
        let ports = "ports: [{number: 9999, name: port-9999, protocol: TCP}]";
        text(name, "shop", &format!("{{hosts: [{name}.example.com], addresses: ['{address}/32'], {ports}}}"))
    };
    let entries = entries(&[
        one("se1", "1234:1f1:123:123:f816:3eff:feb8:2287"),
        one("se2", "1234:1f1:123:123:f816:3eff:febf:57ce"),
    ]);
    let at = |address: &str| {
        entries
            .at(address.parse().unwrap(), 9999, "shop", |_| false)
            .and_then(host)
            .map(|made| made.document.name.clone())
    };
    assert_eq!(at("1234:1f1:1:1:1:1:1:1").as_deref(), Some("se1"));
    assert_eq!(at("1235:1f1:1:1:1:1:1:1"), None);
}

#[test]
fn names_are_looked_up_where_no_host_is_known_beforehand() {
    let ports = "ports: [{number: 443, name: tls, protocol: TLS}]";
    let entries = entries(&[
        text("dynamic", "shop", &format!("{{hosts: ['*.a.example'], {ports}, resolution: DYNAMIC_DNS}}")),
        text("dialled", "shop", &format!("{{hosts: ['*.b.example'], addresses: [10.0.0.0/8], {ports}}}")),
        text("static", "shop", &format!("{{hosts: ['*.c.example'], {ports}, resolution: STATIC}}")),
        text("one", "shop", &format!("{{hosts: [d.example], {ports}}}")),
    ]);
    let by_name: Vec<&str> =
        entries.all().iter().filter(|made| made.is_by_name()).map(|made| made.document.name.as_str()).collect();
    assert!(entries.any_by_name() && by_name == ["dynamic", "dialled"], "{by_name:?}");
    let made = entries.find("x.a.example", "shop").expect("the wildcard");
    let name = |host: &str| made.name(host).map(std::borrow::Cow::into_owned);
    assert_eq!(name("X.A.example."), Some("x.a.example".to_owned()));
    for host in ["a.example", "x.b.example", "*.a.example", "a b.a.example", "x.a.example:443", ".a.example", ""] {
        assert_eq!(name(host), None, "{host}");
    }
    // Where a connection goes whose caller dialled needs no name.
    let at = |address: &str| {
        let at = entries.at(address.parse().unwrap(), 443, "shop", |_| false)?;
        by_server_name(&at, "x.b.example").map(|made| &*made.host)
    };
    assert_eq!((at("10.1.2.3"), at("11.1.2.3")), (Some("*.b.example"), None));
}

#[test]
fn a_service_entry_looks_at_workloads_of_its_namespace_alone() {
    let mut documents = Vec::new();
    for namespace in ["bank", "shop", "web"] {
        for number in 0..4 {
            let spec = "{address: 10.0.0.7, labels: {app: db}}";
            documents.push(format!(
                "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: w{number}, namespace: {namespace}}}\nspec: {spec}\n"
            ));
        }
        let spec =
            format!("{{hosts: [db.{namespace}.example.com], workloadSelector: {{labels: {{app: db}}}}, {PORTS}}}");
        documents.push(text("db", namespace, &spec));
    }
    let state = state_of(&documents.join("---\n"));
    let looked_at = || counted::LOOKED_AT.with(std::cell::Cell::get);
    let before = looked_at();
    let entries = Entries::new(&state);
    assert_eq!(looked_at() - before, 3 * 4, "three of four each, and not of twelve");
    let selected = |made: &Arc<EntryService>| made.workloads.iter().map(|(id, _)| id.name.clone()).collect::<Vec<_>>();
    assert!(entries.all().iter().all(|made| selected(made) == ["w0", "w1", "w2", "w3"]));
}
