//! Spellings of one request that policy must judge as one (A41-A52), and a policy that is deleted behind a partition (A54).

use harness::{
    cluster::{Cluster, SERVICE_PORT},
    eventually,
    http::{self, Connection},
};

use crate::pair;

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

/// `/admin` and below is denied, the rest is allowed.
const NO_ADMIN: &str = "{action: DENY, rules: [{to: [{operation: {paths: [/admin, '/admin/*']}}]}]}";

fn protected(spec: &str) -> Cluster {
    let cluster = pair();
    cluster.push("web", &policy("p", spec), &["--wait", "all"]).expect_code(0);
    cluster
}

/// The status of one request, and the request line that the application saw.
fn send(cluster: &Cluster, method: &[u8], target: &[u8], host: &str, headers: &[u8]) -> (u16, Option<String>) {
    let backend = &cluster.node("reviews").backends[0];
    backend.forget();
    let mut connection = Connection::open(cluster.node("web").outbound()).expect("the proxy listens");
    let bytes = [method, b" ", target, b" HTTP/1.1\r\nHost: ", host.as_bytes(), b"\r\n", headers, b"\r\n"].concat();
    connection.send(&bytes).expect("it takes bytes");
    let answer = connection.answer(false).expect("an answer");
    (answer.status, backend.arrivals().last().map(|arrived| arrived.line().to_owned()))
}

fn get(cluster: &Cluster, path: &str) -> (u16, Option<String>) {
    send(cluster, b"GET", path.as_bytes(), "reviews", b"")
}

fn refused(cluster: &Cluster, path: &str, statuses: &[u16]) {
    let (status, arrived) = get(cluster, path);
    assert!(statuses.contains(&status) && arrived.is_none(), "{path}: {status}, the application saw {arrived:?}");
}

#[test]
fn a41_to_a48_paths_in_every_spelling() {
    let cluster = protected(NO_ADMIN);
    for (path, statuses) in [
        // A41
        ("//admin", &[403][..]),
        ("/./admin", &[403]),
        ("/info/../admin", &[403]),
        ("/admin/", &[403]),
        ("/admin//x", &[403]),
        // A42
        ("/%2Fadmin", &[400]),
        ("%2Fadmin", &[400]),
        ("/info/%2e%2e/admin", &[403]),
        ("/%61dmin", &[403]),
        // A44
        ("/\\admin", &[400]),
        ("/info\\..\\admin", &[400]),
        ("/info/%5c../admin", &[400]),
        // A45
        ("/admin;x=1", &[403]),
        ("/info/..;/admin", &[400]),
        ("/info/.;/../admin", &[400]),
        // A46, A47
        ("/admin#x", &[400]),
        ("/admin?x", &[403]),
        // A48
        ("/admin%00", &[400]),
        ("/admin%c0%af", &[400]),
        ("/%u002fadmin", &[400]),
    ] {
        refused(&cluster, path, statuses);
    }
    // What is let in is forwarded in the form in which it was judged: A43 decoded once only, A46, A47 case counts.
    for (path, line) in [
        ("/a/%252e%252e/admin", "GET /a/%252e%252e/admin HTTP/1.1"),
        ("/admin%23", "GET /admin%23 HTTP/1.1"),
        ("/ADMIN", "GET /ADMIN HTTP/1.1"),
        ("/x//y/../%7e?q=/../%2F", "GET /x/~?q=/../%2F HTTP/1.1"),
    ] {
        assert_eq!(get(&cluster, path), (200, Some(line.to_owned())), "{path}");
    }
}

#[test]
fn a49_hosts_in_every_spelling() {
    let cluster = protected("{action: DENY, rules: [{to: [{operation: {hosts: [reviews.shop, 'reviews.shop:*']}}]}]}");
    for host in ["reviews.shop", "Reviews.SHOP", "reviews.shop.", "reviews.shop:9080"] {
        let (status, arrived) = send(&cluster, b"GET", b"/", host, b"");
        assert_eq!((status, arrived), (403, None), "{host}");
    }
    let (status, arrived) = send(&cluster, b"GET", b"/", "a@reviews.shop", b"");
    assert_eq!((status, arrived), (400, None));
    drop(cluster);
    // One name means all of the service's, with whatever port: that is how its callers write it.
    let cluster = protected("{action: DENY, rules: [{to: [{operation: {hosts: [reviews]}}]}]}");
    for host in ["reviews", "reviews:9080", "reviews.shop:9080", "reviews.shop.svc.cluster.local", "reviews.shop.mesh"]
    {
        let (status, arrived) = send(&cluster, b"GET", b"/", host, b"");
        assert_eq!((status, arrived), (403, None), "{host}");
    }
    cluster
        .push(
            "web",
            &policy("p", "{action: DENY, rules: [{to: [{operation: {hosts: [ratings]}}]}]}"),
            &["--wait", "all"],
        )
        .expect_code(0);
    assert_eq!(send(&cluster, b"GET", b"/", "reviews:9080", b"").0, 200, "another service is not meant");
}

#[test]
fn a50_headers_with_several_values() {
    let cluster = protected("{action: DENY, rules: [{when: [{key: 'request.headers[role]', values: [admin]}]}]}");
    for headers in [
        &b"role: admin\r\n"[..],
        b"Role: user\r\nROLE: admin\r\n",
        b"role: user,admin\r\n",
        b"role: admin , user\r\n",
        b"role: admin\xff\r\n",
    ] {
        let (status, arrived) = send(&cluster, b"GET", b"/", "reviews", headers);
        assert_eq!((status, arrived), (403, None), "{}", String::from_utf8_lossy(headers));
    }
    assert_eq!(send(&cluster, b"GET", b"/", "reviews", b"role: user\r\n").0, 200);
}

#[test]
fn a51_dots_are_dots_and_stars_do_not_cross_where_they_must_not() {
    let rule = "{rules: [{to: [{operation: {hosts: [reviews.shop]}}, {operation: {paths: ['/x/{*}/y']}}]}]}";
    let cluster = protected(rule);
    assert_eq!(send(&cluster, b"GET", b"/", "reviews.shop", b"").0, 200);
    assert_eq!(send(&cluster, b"GET", b"/", "reviews", b"").0, 403);
    assert_eq!((get(&cluster, "/x/a/y").0, get(&cluster, "/x/a/b/y").0), (200, 403));
}

#[test]
fn a52_the_method_is_that_of_the_wire() {
    let cluster = protected("{rules: [{to: [{operation: {methods: [GET]}}]}]}");
    assert_eq!(send(&cluster, b"GET", b"/", "reviews", b"X-HTTP-Method-Override: DELETE\r\n").0, 200);
    for headers in [&b""[..], b"X-HTTP-Method-Override: GET\r\n"] {
        let (status, arrived) = send(&cluster, b"ADMIN", b"/", "reviews", headers);
        assert_eq!((status, arrived), (403, None));
    }
}

#[test]
fn a54_what_is_deleted_elsewhere_holds_until_it_is_known() {
    let mut cluster = protected(NO_ADMIN);
    assert_eq!(get(&cluster, "/admin").0, 403);
    // The endpoint's node is away while the policy goes, and comes back with what its disk knows.
    cluster.kill("reviews");
    cluster
        .on("web", &["policy", "delete", "AuthorizationPolicy", "p", "-n", "shop", "--wait", "local"])
        .expect_code(0);
    cluster.kill("web");
    cluster.run("reviews");
    let explained = cluster.json("reviews", &["explain", "http://reviews.shop/admin", "--from", "shop/default"]);
    assert_eq!(explained["authorization"]["verdict"], "deny", "{explained}");
    // A caller outside the mesh, as nobody else is there.
    let door = cluster.node("reviews").plaintext("shop/reviews", SERVICE_PORT);
    let asked = |path: &str| http::get(door, "reviews.shop", path).map(|answer| answer.status);
    assert_eq!((asked("/admin"), asked("/")), (Ok(403), Ok(200)), "it holds");
    cluster.run("web");
    eventually("the deletion arrives", || match get(&cluster, "/admin").0 {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
}
