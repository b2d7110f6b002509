//! Captured connections to addresses of ServiceEntries: which of their hosts is meant, by the address and by what is asked for there.

use super::{
    capture, nothing_is_left, on,
    place::within,
    simulation::{ANYWHERE, Outside, asked, captured, config},
};
use harness::simulation::Call;

/// Of several hosts.
const SHARED: &str = "203.0.113.5";
/// In a network of a wildcard.
const WITHIN: &str = "1234::5";

fn entry(name: &str, spec: &str) -> String {
    let ports = "ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]";
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}, {ports}}}\n---\n"
    )
}

/// A request and a TLS connection for a host.
fn calls(address: &str, host: &str) -> [Call; 2] {
    let (address, host) = (address.to_owned(), host.to_owned());
    let request = Call { address, host_header: host.clone(), protocol: "HTTP".to_owned(), port: 80, ..Call::default() };
    let tls = Call { tls: "TLS".to_owned(), sni: host, port: 443, ..request.clone() };
    [request, tls]
}

#[test]
#[ignore = "needs root and nftables"]
fn a_host_is_found_by_its_name_among_those_of_an_address() {
    within("entries::a_host_is_found_by_its_name_among_those_of_an_address", |place| {
        let cluster = captured("shop/web");
        let _outside = Outside::start(place);
        on(&cluster);
        let listed = format!("addresses: [{SHARED}], resolution: STATIC, endpoints: [{{address: {ANYWHERE}}}]");
        let documents = [
            entry("a", &format!("hosts: [a.example, aa.example], {listed}")),
            entry("b", &format!("hosts: [b.example], {listed}")),
            entry("corp", "hosts: ['*.corp.example'], addresses: ['1234::/16']"),
            // A host of the wildcard has rules of its own.
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: wiki, namespace: shop}\nspec:\n  hosts: [wiki.corp.example]\n  http: [{route: [{destination: {host: b.example, port: {number: 80}}}]}]\n  tls: [{match: [{sniHosts: [wiki.corp.example], port: 443}], route: [{destination: {host: b.example, port: {number: 443}}}]}]\n---\n".to_owned(),
            config("ALLOW_ANY"),
        ];
        cluster.push("web", &documents.concat(), &["--wait", "all"]).expect_code(0);
        let leads = |address: &str, host: &str, wanted: &str| {
            for call in calls(address, host) {
                let (found, words, back) = asked(&cluster, host, &call);
                assert_eq!(found, format!("outbound|{}||{wanted}", call.port), "{call:?}");
                // What sends back what it is told gives no answer to a request.
                assert!(back == words || call.tls.is_empty(), "{call:?}: {back:?}");
            }
        };
        for host in ["a.example", "aa.example", "b.example"] {
            leads(SHARED, host, host);
        }
        leads(SHARED, "other.example", "a.example");
        leads(WITHIN, "chat.corp.example", "*.corp.example");
        leads(WITHIN, "wiki.corp.example", "b.example");
        for call in calls(WITHIN, "other.example") {
            let (found, words, back) = asked(&cluster, "passed on", &call);
            assert_eq!((found, back), ("PassthroughCluster".into(), words), "{call:?}");
        }
        cluster.push("web", &config("REGISTRY_ONLY"), &["--wait", "all"]).expect_code(0);
        let [request, tls] = calls(WITHIN, "other.example").map(|call| asked(&cluster, "refused", &call));
        assert!(request.2.starts_with(b"HTTP/1.1 502 "), "{request:?}");
        assert_eq!((tls.0, tls.2), ("BlackHoleCluster".into(), Vec::new()));
        capture(&cluster, &["off", "--now"]).expect_code(0);
        nothing_is_left();
    });
}
