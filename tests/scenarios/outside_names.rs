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
        entry("wide", &format!("{{hosts: ['*ocalhost'], ports: [{}]{resolution}}}", ports.join(", ")))
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
        "{hosts: ['*ocalhost'], http: [{match: [{uri: {prefix: /old}}], rewrite: {uri: /new}, route: [{destination: {host: '*ocalhost', port: {number: 80}}}]}, {route: [{destination: {host: cart}}], match: [{uri: {prefix: /cart}}], rewrite: {authority: cart}}]}",
    );
    push(&cluster, &rules);
    one.forget();
    assert_eq!(get(&cluster, "localhost", "/old/x").text(), "one");
    assert_eq!(one.arrivals()[0].line(), "GET /new/x HTTP/1.1");
    assert_eq!(get(&cluster, "localhost", "/cart").text(), "cart shop/cart");
    let explained = cluster.json("web", &["explain", "http://localhost/old"]);
    assert_eq!(explained["cluster"], "outbound|80||*ocalhost");
    assert!(explained["answer"].is_null(), "{explained:#}");
    let services = cluster.json("web", &["services"]);
    let row = services.as_array().expect("rows").iter().find(|row| row["name"] == "*ocalhost").expect("the host");
    assert_eq!(row["by_name"], true);
}
