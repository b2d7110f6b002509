//! Hosts outside that nobody can list: what a request names is looked up when it comes.

use harness::{http, tls_backend::TlsBackend};

use crate::{
    gateway_tls::{Authority, Client},
    outside::{backend, document, entry, get, loopback, mesh, push},
};

#[test]
fn what_a_request_names_is_looked_up_when_it_comes() {
    let cluster = mesh(&[("localhost", 80)]);
    let (one, authority) = (backend("one"), Authority::new());
    let issued = authority.issue("localhost", None);
    let secure = TlsBackend::start(loopback(), &issued.cert, &issued.key, None).expect("a free port");
    let admin = cluster.node("web").address("admin");
    let wide = |resolution: &str| {
        let port = |number: u16, protocol: &str, target: u16| {
            format!("{{number: {number}, name: p{number}, protocol: {protocol}, targetPort: {target}}}")
        };
        let ports = [
            port(80, "HTTP", one.address.port()),
            port(81, "HTTP", admin.port()),
            port(443, "TLS", secure.address.port()),
        ];
        entry("wide", &format!("{{hosts: ['*localhost'], ports: [{}]{resolution}}}", ports.join(", ")))
    };
    for resolution in [", resolution: DYNAMIC_DNS", ""] {
        push(&cluster, &wide(resolution));
        assert_eq!(get(&cluster, "localhost", "/").text(), "one", "{resolution}");
        assert_eq!(get(&cluster, "LOCALHOST.:80", "/").text(), "one");
        let door = cluster.node("web").upstream("localhost", 80);
        assert_eq!(http::get(door, "whatever.example", "/").expect("an answer").text(), "one");
        let client = Client::new(cluster.node("web").outbound(), &authority).through("localhost:443");
        assert_eq!(client.get("localhost", "localhost", "/").expect("an answer").names(), ["localhost"]);
        let failed = get(&cluster, "nosuchlocalhost", "/");
        assert_eq!((failed.status, failed.text().as_str()), (503, "DNS resolution failure"));
        assert_eq!(get(&cluster, "localhost:81", "/v1/status").status, 503, "the node's own port");
        assert_eq!(get(&cluster, "localhost:82", "/").status, 404);
        assert_eq!(get(&cluster, "elsewhere.example", "/").status, 404);
    }
    // Rules are those of the wildcard.
    let rules = document(
        "VirtualService",
        "wide",
        "{hosts: ['*localhost'], http: [{match: [{uri: {prefix: /old}}], rewrite: {uri: /new}, route: [{destination: {host: '*localhost', port: {number: 80}}}]}, {route: [{destination: {host: cart}}], match: [{uri: {prefix: /cart}}], rewrite: {authority: cart}}]}",
    );
    push(&cluster, &rules);
    one.forget();
    assert_eq!(get(&cluster, "localhost", "/old/x").text(), "one");
    assert_eq!(one.arrivals()[0].line(), "GET /new/x HTTP/1.1");
    assert_eq!(get(&cluster, "localhost", "/cart").text(), "cart shop/cart");
    let explained = cluster.json("web", &["explain", "http://localhost/old"]);
    assert_eq!(explained["cluster"], "outbound|80||*localhost");
    assert!(explained["answer"].is_null(), "{explained:#}");
    let services = cluster.json("web", &["services"]);
    let row = services.as_array().expect("rows").iter().find(|row| row["name"] == "*localhost").expect("the host");
    assert_eq!(row["by_name"], true);
}

#[test]
fn tls_asks_for_the_name_that_was_looked_up() {
    let cluster = mesh(&[("localhost", 5432), ("localhost", 80)]);
    let authority = Authority::new();
    let issued = authority.issue("localhost", None);
    let secure = TlsBackend::start(loopback(), &issued.cert, &issued.key, None).expect("a free port");
    let ca = cluster.file("ca.pem", &authority.pem()).to_string_lossy().into_owned();
    let port = |number: u16, protocol: &str| {
        let target = secure.address.port();
        format!("{{number: {number}, name: p{number}, protocol: {protocol}, targetPort: {target}}}")
    };
    let ports = [port(5432, "TCP"), port(80, "HTTP")].join(", ");
    let wide = entry("wide", &format!("{{hosts: ['*localhost'], ports: [{ports}]}}"));
    let tls = format!("{{host: '*localhost', trafficPolicy: {{tls: {{mode: SIMPLE, caCertificates: {ca}}}}}}}");
    push(&cluster, &(wide + &document("DestinationRule", "wide", &tls)));
    // The application believes that it speaks to a port of its own machine.
    for port in [5432, 80] {
        let door = cluster.node("web").upstream("localhost", port);
        let answer = http::get(door, "127.0.0.1:9000", "/").expect("an answer");
        assert_eq!(answer.text(), "sni=localhost client=no host=127.0.0.1:9000", "{port}: {answer:?}");
    }
}

#[test]
fn whoever_lets_any_name_be_brought_has_not_named_this_machine() {
    let cluster = mesh(&[]);
    let here = backend("here");
    let port = here.address.port();
    let wide = |host: &str| {
        entry(
            "wide",
            &format!(
                "{{hosts: ['{host}'], ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}], resolution: DYNAMIC_DNS}}"
            ),
        )
    };
    push(&cluster, &wide("*.localhost"));
    assert_eq!(get(&cluster, "app.localhost", "/").text(), "here");
    push(&cluster, &wide("*t"));
    let failed = get(&cluster, "app.localhost", "/");
    assert_eq!((failed.status, failed.text().as_str()), (503, "DNS resolution failure"));
}
