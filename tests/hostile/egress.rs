//! Applications that want their node to lead them where nothing is meant to be: literal addresses in every spelling, names that mean the
//! node itself or a cloud's metadata service, ports that no document names (A107).

use std::net::{Ipv4Addr, SocketAddr};

use harness::{
    PATIENCE,
    backend::Backend,
    cluster::{Cluster, Plan, Service},
    eventually, http,
    process::Skein,
};

/// A caller, and documents that name one host outside.
fn node() -> (Cluster, Backend) {
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let cluster = Cluster::start(skein, &[("web", Plan::with([Service::client("shop/web")]))]);
    cluster.wait_members(PATIENCE);
    let backend = Backend::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "outside").expect("a free port");
    let target = backend.address.port();
    let entry = |name: &str, hosts: &str, rest: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{hosts: [{hosts}], ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {target}}}, {{number: 443, name: tls, protocol: TLS, targetPort: {target}}}], {rest}}}\n---\n"
        )
    };
    let text = entry("api", "api.example.com", "resolution: STATIC, endpoints: [{address: 127.0.0.1}]")
        + &entry("wide", "'*.wide.example.com'", "resolution: STATIC, endpoints: [{address: 127.0.0.1}]");
    cluster.push("web", &text, &["--wait", "all"]).expect_code(0);
    eventually("the host is served", || {
        match http::get(cluster.node("web").outbound(), "api.example.com", "/").map(|answer| answer.status) {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    backend.forget();
    (cluster, backend)
}

/// The status of a CONNECT, or of none.
fn connect(cluster: &Cluster, target: &str) -> Result<u16, String> {
    let mut connection = http::Connection::open(cluster.node("web").outbound()).expect("it listens");
    connection.send(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n").as_bytes()).expect("it is open");
    connection.answer(true).map(|answer| answer.status)
}

#[test]
fn a107_no_spelling_of_an_address_leads_anywhere() {
    let (cluster, backend) = node();
    let (via, admin) = (cluster.node("web").outbound(), cluster.node("web").address("admin"));
    let port = backend.address.port();
    for host in [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[fd00:ec2::254]",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "localhost",
        "metadata.google.internal",
    ] {
        for port in [80, port, admin.port()] {
            let target = format!("{host}:{port}");
            let answer = http::get(via, &target, "/").expect("an answer");
            assert!(matches!(answer.status, 400 | 403 | 404), "{target}: {answer:?}");
            let mut absolute = http::Connection::open(via).expect("it listens");
            let answer = absolute.request("GET", &target, &format!("http://{target}/"), &[], b"").expect("an answer");
            assert!(matches!(answer.status, 400 | 403 | 404), "http://{target}/: {answer:?}");
            let status = connect(&cluster, &target).expect("an answer");
            assert!(matches!(status, 400 | 403 | 404), "CONNECT {target}: {status}");
        }
    }
    assert!(backend.arrivals().is_empty(), "{:?}", backend.arrivals());
}

#[test]
fn a107_a_tunnel_leads_to_ports_that_documents_name_and_to_no_other() {
    let (cluster, backend) = node();
    for target in [
        "api.example.com:80",
        "api.example.com:22",
        "api.example.com.evil.example:443",
        "wide.example.com:443",
        "a.wide.example.com:22",
        "*.wide.example.com:22",
    ] {
        assert!(matches!(connect(&cluster, target), Ok(400 | 404)), "{target}");
    }
    for (head, status) in [
        ("CONNECT api.example.com HTTP/1.1\r\nhost: api.example.com\r\n\r\n", 400),
        ("CONNECT api.example.com:443 HTTP/1.1\r\nhost: other.example.com:443\r\n\r\n", 400),
        ("CONNECT api.example.com:443 HTTP/1.1\r\n\r\n", 400),
        ("CONNECT api.example.com:443 HTTP/1.1\r\nhost: api.example.com:443\r\nhost: api.example.com:443\r\n\r\n", 400),
        ("CONNECT api.example.com:443 HTTP/1.1\r\nhost: api.example.com:443\r\ncontent-length: 4\r\n\r\nGET ", 400),
        ("CONNECT user@api.example.com:443 HTTP/1.1\r\nhost: user@api.example.com:443\r\n\r\n", 400),
        ("CONNECT /path HTTP/1.1\r\nhost: api.example.com:443\r\n\r\n", 400),
    ] {
        let mut connection = http::Connection::open(cluster.node("web").outbound()).expect("it listens");
        connection.send(head.as_bytes()).expect("it is open");
        let answer = connection.answer(true);
        assert!(
            answer.as_ref().is_ok_and(|answer| answer.status == status || answer.status == 404),
            "{head:?}: {answer:?}"
        );
    }
    assert!(backend.arrivals().is_empty(), "{:?}", backend.arrivals());
}

#[test]
fn a107_a_server_outside_says_nothing_of_this_mesh() {
    let (cluster, backend) = node();
    backend.answer_with_headers("x-skein-outcome: denied\r\nx-skein-source: shop/admin\r\n");
    let answer = http::get(cluster.node("web").outbound(), "api.example.com", "/").expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("x-skein")), "{answer:?}");
}
