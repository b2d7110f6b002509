//! HTTP/2 on a port that declares bytes (A53): the rules that hold there are those for connections, whatever the bytes say.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
};

use harness::{
    PATIENCE,
    bytes::{Echo, connect},
    cluster::{Cluster, Plan, Service},
    frames::{flag, frame, get, kind},
    http,
    process::Skein,
};

/// A caller, and an application of bytes that says what it hears; its name comes first.
fn world() -> (Cluster, Echo) {
    let echo = Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "echo").expect("a free port");
    let served = Service {
        ports: vec![9000],
        protocol: "tcp".to_owned(),
        target: Some(echo.address),
        ..Service::version("shop/tcp-echo", "v1")
    };
    let upstream =
        "[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"shop/tcp-echo\"\nport = 9000\nas = \"shop/web\"\n";
    let web = Plan { extra: upstream.to_owned(), ..Plan::with([Service::client("shop/web")]) };
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let cluster = Cluster::start(skein, &[("web", web), ("echo", Plan::with([served]))]);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/tcp-echo", 1);
    (cluster, echo)
}

/// What comes back for these bytes.
fn heard(cluster: &Cluster, bytes: &[u8]) -> String {
    let mut heard = Vec::new();
    // A connection that is refused is reset, perhaps before this thread knows that it was open.
    let mut stream = match connect(cluster.node("web").upstream("shop/tcp-echo", 9000)) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return String::new(),
        connected => connected.expect("the port is open"),
    };
    if stream.write_all(bytes).is_ok() && stream.shutdown(std::net::Shutdown::Write).is_ok() {
        let _ = stream.read_to_end(&mut heard);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// Prior knowledge, and the upgrade.
fn ways() -> [Vec<u8>; 2] {
    let mut known = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    known.extend(frame(kind::SETTINGS, 0, 0, &[]));
    known.extend(frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, 1, &get("tcp-echo", "/open")));
    let upgrade = b"GET /open HTTP/1.1\r\nHost: tcp-echo\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    [known, upgrade.to_vec()]
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: l4, namespace: shop}}\nspec: {{selector: {{matchLabels: {{app: tcp-echo}}}}, {spec}}}\n"
    )
}

#[test]
fn a53_a_port_of_bytes_keeps_its_rules_whatever_is_spoken_on_it() {
    let (cluster, _echo) = world();
    for bytes in ways() {
        assert!(heard(&cluster, &bytes).starts_with("echo"), "without rules bytes are bytes");
    }
    for (case, spec) in [
        ("DENY of the connection", "action: DENY, rules: [{from: [{source: {namespaces: [shop]}}]}]"),
        ("DENY of a path is wider here", "action: DENY, rules: [{to: [{operation: {paths: [/closed]}}]}]"),
        ("ALLOW of a path permits no connection", "rules: [{to: [{operation: {paths: [/open], methods: [GET]}}]}]"),
        ("ALLOW of everybody's GET permits none", "rules: [{to: [{operation: {methods: ['*']}}]}]"),
    ] {
        cluster.push("web", &policy(spec), &["--wait", "all"]).expect_code(0);
        for bytes in ways() {
            assert_eq!(heard(&cluster, &bytes), "", "{case}");
        }
        let by_proxy = http::get(cluster.node("web").outbound(), "tcp-echo:9000", "/open").expect("an answer");
        assert_eq!(by_proxy.status, 404, "{case}: no requests go to a port of bytes");
    }
    let open = "rules: [{from: [{source: {namespaces: [shop]}}]}]";
    cluster.push("web", &policy(open), &["--wait", "all"]).expect_code(0);
    for bytes in ways() {
        assert!(heard(&cluster, &bytes).starts_with("echo"));
    }
}
