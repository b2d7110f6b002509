//! Services outside the mesh: ServiceEntries and WorkloadEntries, names, TLS, tunnels. Everything outside is a server of the test on loopback.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use harness::{
    backend::Backend,
    bytes::{Echo, say},
    cluster::{Cluster, Plan, Service},
    eventually, http,
    tls_backend::TlsBackend,
};
use serde_json::Value;

use crate::{
    gateway_tls::{Authority, Client, write_pair},
    skein,
};

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

pub(crate) fn backend(name: &str) -> Backend {
    Backend::start(loopback(), name).expect("a free port")
}

pub(crate) fn upstream(host: &str, port: u16) -> String {
    format!("\n[[upstream]]\nlisten = \"127.0.0.1:0\"\nhost = \"{host}\"\nport = {port}\nas = \"shop/web\"\n")
}

/// A caller with explicit ports to hosts outside, and a service of the mesh.
pub(crate) fn mesh(upstreams: &[(&str, u16)]) -> Cluster {
    let extra = upstreams.iter().map(|(host, port)| upstream(host, *port)).collect();
    let web = Plan { extra, ..Plan::with([Service::client("shop/web")]) };
    let cart = Service { account: "cart".to_owned(), ..Service::version("shop/cart", "v1") };
    let cluster = Cluster::start(skein(), &[("web", web), ("cart", Plan::with([cart]))]);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/cart", 1);
    cluster
}

pub(crate) fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

pub(crate) fn entry(name: &str, spec: &str) -> String {
    document("ServiceEntry", name, spec)
}

pub(crate) fn push(cluster: &Cluster, text: &str) {
    cluster.push("web", text, &["--wait", "all"]).expect_code(0);
}

pub(crate) fn get(cluster: &Cluster, host: &str, path: &str) -> http::Answer {
    http::get(cluster.node("web").outbound(), host, path).expect("an answer")
}

/// A host of a ServiceEntry has a page, which names the document.
fn has_a_page(cluster: &Cluster, host: &str) {
    let admin = cluster.node("web").address("admin");
    let page = http::get(admin, &admin.to_string(), &format!("/services/shop/{host}")).expect("an answer");
    assert!(page.status == 200 && page.text().contains("/policy/documents/ServiceEntry/shop/"), "{}", page.text());
}

/// Waits for this answer: names are resolved and files are read beside the requests.
fn answers(cluster: &Cluster, host: &str, status: u16) -> String {
    eventually(&format!("{host} answers {status}"), || {
        let answer = get(cluster, host, "/");
        if answer.status == status { Ok(answer.text()) } else { Err(format!("{answer:?}")) }
    })
}

fn problems(cluster: &Cluster, node: &str) -> Vec<(String, String)> {
    let status = cluster.json(node, &["status"]);
    let all = status["problems"].as_array().cloned().unwrap_or_default();
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    all.iter().map(|one| (text(one, "code"), text(one, "message"))).collect()
}

fn has_problem(cluster: &Cluster, code: &str, words: &str) {
    eventually(&format!("{code}: {words}"), || {
        let found = problems(cluster, "web");
        let is = |(own, message): &(String, String)| own == code && message.contains(words);
        if found.iter().any(is) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

fn metric(cluster: &Cluster, with: &[&str]) -> f64 {
    let admin = cluster.node("web").address("admin");
    let metrics = http::get(admin, &admin.to_string(), "/metrics").expect("metrics").text();
    let lines = metrics.lines().filter(|line| with.iter().all(|part| line.contains(part)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn hosts_of_entries_are_routed_balanced_and_told_of() {
    let cluster = mesh(&[("api.example.com", 80)]);
    let (one, two) = (backend("one"), backend("two"));
    assert_eq!(get(&cluster, "api.example.com", "/").status, 404, "nobody knows the host yet");
    let endpoint = |backend: &Backend, version: &str| {
        format!("{{address: 127.0.0.1, ports: {{http: {}}}, labels: {{version: {version}}}}}", backend.address.port())
    };
    let api = format!(
        "{{hosts: [api.example.com], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{}, {}]}}",
        endpoint(&one, "v1"),
        endpoint(&two, "v2")
    );
    push(&cluster, &entry("api", &api));
    let served = |count: usize| -> BTreeSet<String> {
        (0..count).map(|_| get(&cluster, "api.example.com", "/x").text()).collect()
    };
    assert_eq!(served(20), BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    let arrived = one.arrivals().pop().expect("it came here, too");
    assert_eq!(arrived.header("host"), Some("api.example.com"));
    assert!(
        !arrived.head.to_ascii_lowercase().contains("x-skein") && arrived.header("x-forwarded-client-cert").is_none()
    );
    // The other ways in: a port of the authority, the absolute form, an explicit port.
    has_a_page(&cluster, "api.example.com");
    for host in ["api.example.com:80", "API.example.com."] {
        assert_eq!(get(&cluster, host, "/").status, 200, "{host}");
    }
    assert_eq!(get(&cluster, "api.example.com:81", "/").status, 404);
    let mut absolute = http::Connection::open(cluster.node("web").outbound()).expect("it listens");
    let answer = absolute.request("GET", "api.example.com", "http://api.example.com/y", &[], b"").expect("an answer");
    assert_eq!(answer.status, 200);
    let door = cluster.node("web").upstream("api.example.com", 80);
    assert_eq!(http::get(door, "whatever.example", "/").expect("an answer").status, 200);

    // Subsets, rewrites and a route of a service of the mesh to the host.
    let routes = document(
        "DestinationRule",
        "api",
        "{host: api.example.com, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}",
    ) + &document(
        "VirtualService",
        "api",
        "{hosts: [api.example.com], http: [{match: [{uri: {prefix: /old}}], rewrite: {uri: /new}, route: [{destination: {host: api.example.com, subset: v1}}]}, {route: [{destination: {host: api.example.com, subset: v2}}]}]}",
    ) + &document(
        "VirtualService",
        "cart",
        "{hosts: [cart], http: [{match: [{uri: {prefix: /api}}], rewrite: {authority: api.example.com}, route: [{destination: {host: api.example.com, subset: v1, port: {number: 80}}}]}, {route: [{destination: {host: cart}}]}]}",
    );
    push(&cluster, &routes);
    assert_eq!(served(10), BTreeSet::from(["two".to_owned()]));
    one.forget();
    assert_eq!(get(&cluster, "api.example.com", "/old/x").text(), "one");
    assert_eq!(one.arrivals()[0].line(), "GET /new/x HTTP/1.1");
    one.forget();
    assert_eq!(get(&cluster, "cart", "/api").text(), "one", "from inside out");
    assert_eq!(one.arrivals()[0].header("host"), Some("api.example.com"));
    assert_eq!(get(&cluster, "cart", "/").text(), "cart shop/cart");

    let explained = cluster.json("web", &["explain", "http://api.example.com/"]);
    assert_eq!(explained["service"], "api.example.com");
    assert_eq!(explained["cluster"], "outbound|80|v2|api.example.com");
    assert_eq!(explained["document"], "VirtualService shop/api");
    let candidates = explained["endpoints"].as_array().expect("endpoints");
    let wanted = format!("127.0.0.1:{}", two.address.port());
    let chosen: Vec<&Value> = candidates.iter().filter(|one| one["candidate"] == true).collect();
    assert!(
        chosen.len() == 1 && chosen[0]["address"] == wanted.as_str() && chosen[0]["node"].is_null(),
        "{explained:#}"
    );
    let services = cluster.json("web", &["services"]);
    let row = services.as_array().expect("rows").iter().find(|row| row["name"] == "api.example.com").expect("the host");
    assert!(row["entry"] == "ServiceEntry shop/api" && row["endpoints"] == 2, "{row}");
    assert_eq!(cluster.healthy("web", "shop/api.example.com"), 2);
    let labels = [
        "istio_requests_total",
        "reporter=\"source\"",
        "destination_service=\"api.example.com\"",
        "destination_service_namespace=\"shop\"",
        "destination_workload=\"unknown\"",
        "response_code=\"200\"",
    ];
    assert!(metric(&cluster, &labels) > 20.0);

    // One that takes no connection is left out by outlier detection; without any left it is 503.
    drop(two);
    let detecting = document(
        "DestinationRule",
        "api",
        "{host: api.example.com, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 300s, maxEjectionPercent: 100}}}",
    ) + &document(
        "VirtualService",
        "api",
        "{hosts: [api.example.com], http: [{retries: {attempts: 0}, route: [{destination: {host: api.example.com}}]}]}",
    );
    push(&cluster, &detecting);
    eventually("the dead endpoint is out", || {
        get(&cluster, "api.example.com", "/");
        let outliers = cluster.json("web", &["outliers"]);
        if outliers.as_array().is_some_and(|all| !all.is_empty()) { Ok(()) } else { Err(outliers.to_string()) }
    });
    assert_eq!(served(10), BTreeSet::from(["one".to_owned()]));
    for (kind, name) in [("VirtualService", "api"), ("DestinationRule", "api"), ("ServiceEntry", "api")] {
        cluster.on("web", &["policy", "delete", kind, name, "-n", "shop", "--wait", "all"]).expect_code(0);
    }
    assert_eq!(get(&cluster, "api.example.com", "/").status, 404);
    assert_eq!(get(&cluster, "cart", "/api").status, 503, "a route to what is gone");
}

#[test]
fn names_are_resolved_and_what_cannot_be_is_told() {
    let cluster = mesh(&[]);
    let one = backend("one");
    let port = one.address.port();
    let ports = |target: u16| format!("ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {target}}}]");
    push(
        &cluster,
        &[
            entry(
                "named",
                &format!(
                    "{{hosts: [named.example.com], {}, resolution: DNS, endpoints: [{{address: localhost}}]}}",
                    ports(port)
                ),
            ),
            entry("itself", &format!("{{hosts: [app.localhost], {}, resolution: DNS_ROUND_ROBIN}}", ports(port))),
            entry("default", &format!("{{hosts: [localhost], {}}}", ports(port))),
            entry("nowhere", &format!("{{hosts: [no-such-name.invalid], {}, resolution: DNS}}", ports(port))),
        ]
        .concat(),
    );
    assert_eq!(answers(&cluster, "named.example.com", 200), "one");
    assert_eq!(
        answers(&cluster, "localhost", 200),
        "one",
        "what names no address is resolved in the application's place"
    );
    has_problem(&cluster, "name_unresolved", "no-such-name.invalid");
    let failed = get(&cluster, "no-such-name.invalid", "/");
    assert_eq!((failed.status, failed.text().as_str()), (503, "no healthy upstream"));
    // The node's own ports are nobody's endpoint.
    let admin = cluster.node("web").address("admin");
    let own = format!(
        "{{hosts: [admin.example.com], {}, resolution: STATIC, endpoints: [{{address: {}}}]}}",
        ports(admin.port()),
        admin.ip()
    );
    push(&cluster, &entry("admin", &own));
    has_problem(&cluster, "address_refused", &admin.to_string());
    assert_eq!(get(&cluster, "admin.example.com", "/v1/status").status, 503);
}

#[test]
fn tls_towards_the_outside_follows_destination_rules_files_and_secrets() {
    let cluster = mesh(&[("db.example.com", 5432)]);
    let (authority, stranger) = (Authority::new(), Authority::new());
    let issued = authority.issue("secure.example.com", None);
    let server = TlsBackend::start(loopback(), &issued.cert, &issued.key, None).expect("a free port");
    let picky = TlsBackend::start(loopback(), &issued.cert, &issued.key, Some(&authority.pem())).expect("a free port");
    let ca = cluster.file("ca.pem", &authority.pem()).to_string_lossy().into_owned();
    let wrong = cluster.file("wrong.pem", &stranger.pem()).to_string_lossy().into_owned();
    let at = |name: &str, host: &str, server: &TlsBackend| {
        entry(
            name,
            &format!(
                "{{hosts: [{host}], ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {}}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}",
                server.address.port()
            ),
        )
    };
    let tls = |name: &str, host: &str, tls: &str| {
        document("DestinationRule", name, &format!("{{host: {host}, trafficPolicy: {{tls: {tls}}}}}"))
    };
    let (simple, missing) = (format!("{{mode: SIMPLE, caCertificates: {ca}}}"), cluster.path().join("later.pem"));
    push(&cluster, &(at("secure", "secure.example.com", &server) + &tls("secure", "secure.example.com", &simple)));
    assert_eq!(
        answers(&cluster, "secure.example.com", 200),
        "sni=secure.example.com client=no host=secure.example.com"
    );
    push(
        &cluster,
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {accessLogFile: /dev/stdout, accessLogEncoding: JSON}\n",
    );
    // The log says what the server showed that it should not have.
    let refused = |rule: &str, why: &str, reasons: &[&str]| {
        push(&cluster, &tls("secure", "secure.example.com", rule));
        let path = format!("/{}", why.replace(' ', "-"));
        eventually(why, || {
            let answer = get(&cluster, "secure.example.com", &path);
            let lines = cluster.node("web").output();
            let of = lines.iter().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let mut said = of
                .filter(|line| line["path"] == path)
                .filter_map(|line| line["upstream_transport_failure_reason"].as_str().map(str::to_owned));
            let said = said.next().unwrap_or_default();
            if answer.status == 503 && reasons.iter().any(|reason| said.contains(reason)) {
                Ok(())
            } else {
                Err(format!("{answer:?} {said}"))
            }
        });
    };
    refused(&format!("{{mode: SIMPLE, caCertificates: {wrong}}}"), "another authority", &["invalid peer certificate"]);
    let named = format!("{{mode: SIMPLE, caCertificates: {ca}, subjectAltNames: [other.example.com]}}");
    refused(&named, "another name", &["not valid for"]);
    // A machine without any refuses, too.
    refused("{mode: SIMPLE}", "the authorities of the system", &["invalid peer certificate", "TLS error"]);
    let absent = format!("{{mode: SIMPLE, caCertificates: {}}}", missing.display());
    refused(&absent, "a file that is not there", &["TLS error"]);
    has_problem(&cluster, "client_tls", "later.pem");
    std::fs::write(&missing, authority.pem()).expect("writable");
    answers(&cluster, "secure.example.com", 200);
    push(
        &cluster,
        &tls("secure", "secure.example.com", "{mode: SIMPLE, insecureSkipVerify: true, sni: another.example.com}"),
    );
    eventually("the name that the rule gives", || {
        let text = get(&cluster, "secure.example.com", "/").text();
        if text.starts_with("sni=another.example.com") { Ok(()) } else { Err(text) }
    });

    // Both sides show a certificate: from the node's secrets.
    push(
        &cluster,
        &(at("picky", "picky.example.com", &picky)
            + &tls("picky", "picky.example.com", "{mode: MUTUAL, credentialName: to-picky, sni: secure.example.com}")),
    );
    has_problem(&cluster, "client_tls", "no secret `to-picky`");
    assert_eq!(get(&cluster, "picky.example.com", "/").status, 503);
    let (cert, key) = write_pair(cluster.path(), "client", &authority.issue("web", None));
    let words = ["secret", "put", "to-picky", "-n", "shop", "--cert", &cert, "--key", &key, "--ca", &ca];
    cluster.on("web", &words).expect_code(0);
    assert_eq!(answers(&cluster, "picky.example.com", 200), "sni=secure.example.com client=yes host=picky.example.com");

    // A database behind TLS, for an application that speaks none.
    let echo = Echo::start(loopback(), "db").expect("a free port");
    let plain = format!(
        "{{hosts: [db.example.com], ports: [{{number: 5432, name: db, protocol: TCP, targetPort: {}}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}",
        echo.address.port()
    );
    push(&cluster, &entry("db", &plain));
    let door = cluster.node("web").upstream("db.example.com", 5432);
    assert_eq!(say(door, "hello").as_deref(), Ok("db\nhello"));
    push(&cluster, &tls("db", "db.example.com", &simple));
    assert!(say(door, "hello").is_err(), "the server speaks no TLS");

    // The mesh's own identities mean nothing there, and nothing else than them between nodes.
    let mesh_tls = cluster.push("web", &tls("db", "db.example.com", "{mode: ISTIO_MUTUAL}"), &[]);
    assert!(mesh_tls.code == 2 && mesh_tls.err.contains("nobody has an identity of it"), "{mesh_tls:?}");
    let inside = cluster.push("web", &tls("cart", "cart", "{mode: SIMPLE}"), &[]);
    assert!(inside.code == 2 && inside.err.contains("ISTIO_MUTUAL"), "{inside:?}");
}

#[test]
fn tunnels_lead_to_ports_of_bytes_and_nowhere_else() {
    let cluster = mesh(&[]);
    let authority = Authority::new();
    let issued = |name: &str| authority.issue(name, None);
    let (one, two) = (issued("one.example.com"), issued("two.example.com"));
    let first = TlsBackend::start(loopback(), &one.cert, &one.key, None).expect("a free port");
    let second = TlsBackend::start(loopback(), &two.cert, &two.key, None).expect("a free port");
    let echo = Echo::start(loopback(), "db").expect("a free port");
    let at = |name: &str, port: u16, protocol: &str, target: u16| {
        entry(
            name,
            &format!(
                "{{hosts: ['{name}.example.com'], ports: [{{number: {port}, name: p, protocol: {protocol}, targetPort: {target}}}, {{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}"
            ),
        )
    };
    push(
        &cluster,
        &(at("one", 443, "TLS", first.address.port())
            + &at("two", 443, "HTTPS", second.address.port())
            + &at("db", 5432, "TCP", echo.address.port())),
    );
    let via = cluster.node("web").outbound();
    let secure = |name: &str| Client::new(via, &authority).through(&format!("{name}:443")).get(name, name, "/");
    assert_eq!(secure("one.example.com").expect("an answer").names(), ["one.example.com"]);
    assert_eq!(secure("two.example.com").expect("an answer").names(), ["two.example.com"]);
    // By the name that the client asks for inside.
    push(
        &cluster,
        &document(
            "VirtualService",
            "one",
            "{hosts: [one.example.com, two.example.com], tls: [{match: [{sniHosts: [two.example.com]}], route: [{destination: {host: two.example.com, port: {number: 443}}}]}]}",
        ),
    );
    let crossed =
        Client::new(via, &authority).through("one.example.com:443").get("two.example.com", "two.example.com", "/");
    assert_eq!(crossed.expect("an answer").names(), ["two.example.com"]);

    let connect = |target: &str, host: &str| {
        let mut connection = http::Connection::open(via).expect("it listens");
        connection.send(format!("CONNECT {target} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).expect("it is open");
        (connection.answer(true).map(|answer| answer.status), connection)
    };
    let (status, mut tunnel) = connect("db.example.com:5432", "db.example.com:5432");
    assert_eq!(status, Ok(200));
    tunnel.send(b"ping").expect("it is open");
    assert_eq!(tunnel.take(7).as_deref(), Ok(&b"db\nping"[..]));
    for (target, refused) in [
        ("unknown.example.com:443", 404),
        ("db.example.com:80", 404),
        ("db.example.com:5433", 404),
        ("cart.shop:9080", 404),
        ("127.0.0.1:5432", 404),
    ] {
        assert_eq!(connect(target, target).0, Ok(refused), "{target}");
    }
    for host in ["db.example.com", "DB.example.com.:5432"] {
        assert_eq!(connect("db.example.com:5432", host).0, Ok(200), "{host}");
    }
    for host in ["other.example.com:5432", "other.example.com", "db.example.com:443"] {
        assert_eq!(connect("db.example.com:5432", host).0, Ok(400), "{host}");
    }
    drop(echo);
    eventually("a tunnel to nobody", || match connect("db.example.com:5432", "db.example.com:5432").0 {
        Ok(503) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn workloads_with_and_without_a_node_serve_one_host() {
    let cluster = mesh(&[]);
    let old = backend("old machine");
    let legacy = "{hosts: [legacy.example.com], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}], workloadSelector: {labels: {app: cart}}}";
    let machine =
        format!("{{address: 127.0.0.1, ports: {{http: {}}}, labels: {{app: cart, version: v0}}}}", old.address.port());
    push(&cluster, &(entry("legacy", legacy) + &document("WorkloadEntry", "old", &machine)));
    let served: BTreeSet<String> = (0..30).map(|_| get(&cluster, "legacy.example.com", "/").text()).collect();
    assert_eq!(served, BTreeSet::from(["cart shop/cart".to_owned(), "old machine".to_owned()]));
    let explained = cluster.json("web", &["explain", "http://legacy.example.com/"]);
    let nodes: BTreeSet<Option<&str>> =
        explained["endpoints"].as_array().expect("endpoints").iter().map(|one| one["node"].as_str()).collect();
    assert_eq!(nodes, BTreeSet::from([None, Some("cart")]));
    // What its node's policy says holds for the one that has a node, and it is reached as the identity that it has.
    let denied = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: cart, namespace: shop}\nspec: {action: DENY, selector: {matchLabels: {app: cart}}, rules: [{to: [{operation: {paths: [/secret]}}]}]}\n";
    push(&cluster, denied);
    let statuses: BTreeSet<u16> = (0..30).map(|_| get(&cluster, "legacy.example.com", "/secret").status).collect();
    assert_eq!(statuses, BTreeSet::from([200, 403]));
    cluster.on("web", &["policy", "delete", "WorkloadEntry", "old", "-n", "shop", "--wait", "all"]).expect_code(0);
    let served: BTreeSet<String> = (0..10).map(|_| get(&cluster, "legacy.example.com", "/").text()).collect();
    assert_eq!(served, BTreeSet::from(["cart shop/cart".to_owned()]));
}

#[test]
fn requests_for_which_tls_is_spoken_go_where_it_is_taken() {
    let cluster = mesh(&[]);
    let authority = Authority::new();
    let issued = authority.issue("legacy.example.com", None);
    let secure = TlsBackend::start(loopback(), &issued.cert, &issued.key, None).expect("a free port");
    let ca = cluster.file("ca.pem", &authority.pem()).to_string_lossy().into_owned();
    let legacy = "{hosts: [legacy.example.com], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}, {number: 443, name: tls, protocol: TLS, targetPort: 9080}], workloadSelector: {labels: {app: cart}}}";
    let machine = format!("{{address: 127.0.0.1, ports: {{tls: {}}}, labels: {{app: cart}}}}", secure.address.port());
    let rule = |more: &str| {
        let policy = format!("tls: {{mode: SIMPLE, caCertificates: {ca}}}{more}");
        document("DestinationRule", "legacy", &format!("{{host: legacy.example.com, trafficPolicy: {{{policy}}}}}"))
    };
    let to_tls = "{hosts: [legacy.example.com], http: [{route: [{destination: {host: legacy.example.com, port: {number: 443}}}]}]}";
    let documents =
        [document("WorkloadEntry", "old", &machine), document("VirtualService", "legacy", to_tls), rule("")];
    push(&cluster, &(entry("legacy", legacy) + &documents.concat()));
    // The node's application takes TLS there, and requests would come to it in clear.
    for _ in 0..10 {
        let answer = get(&cluster, "legacy.example.com", "/");
        assert_eq!(answer.text(), "sni=legacy.example.com client=no host=legacy.example.com", "{answer:?}");
    }
    push(&cluster, &rule(", connectionPool: {http: {h2UpgradePolicy: UPGRADE}}"));
    eventually("HTTP/2 is asked for, which the machine does not speak", || {
        let answer = get(&cluster, "legacy.example.com", "/");
        if answer.status == 503 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

#[test]
fn what_has_no_meaning_here_is_refused_by_name() {
    let cluster = mesh(&[]);
    let of = |spec: &str| entry("a", &format!("{{hosts: [a.example.com], {spec}}}"));
    let socket = "ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 'unix:///run/a'}]";
    for (text, words) in [
        (of(socket), "Unix socket"),
        (of("ports: [{number: 80, name: web, protocol: GRPC-WEB}], resolution: DNS"), "GRPC-WEB"),
        (document("WorkloadGroup", "a", "{template: {ports: {http: 80}}}"), "`ports`"),
        (
            document("WorkloadEntry", "a", "{address: 10.0.0.1, labels: {security.istio.io/tlsMode: istio}}"),
            "mutual TLS of the mesh",
        ),
    ] {
        let refused = cluster.push("web", &text, &[]);
        assert!(refused.code == 2 && refused.err.contains(words), "{words}: {refused:?}");
    }
}
