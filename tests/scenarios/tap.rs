//! `skein tap`: requests as they end, at all nodes, for those who may look.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, http,
    telling::Telling,
};
use serde_json::{Value, json};

use crate::{proposals::second_operator, reviews, written};

/// A tap that runs; it ends with the value.
struct Tap(Telling);

impl Tap {
    fn start(cluster: &Cluster, words: &[&str]) -> Self {
        let words: Vec<&str> = ["tap", "-o", "json"].into_iter().chain(words.iter().copied()).collect();
        Self(Telling::start(cluster, "web", &words))
    }

    fn lines(&self) -> Vec<Value> {
        self.0.out().iter().map(|line| serde_json::from_str(line).unwrap_or(Value::String(line.clone()))).collect()
    }
}

fn get(cluster: &Cluster, path: &str) -> u16 {
    let headers = [
        ("authorization", "Bearer t0p"),
        ("cookie", "a=t0p"),
        ("x-mine", "seen"),
        ("x-badge", "t0p"),
        ("referer", "http://a/?token=t0p"),
    ];
    http::get_with(cluster.node("web").outbound(), "reviews", path, &headers).expect("an answer").status
}

#[test]
fn both_sides_are_seen_without_secrets_and_only_what_was_asked_for() {
    let cluster = reviews(&["v1"]);
    cluster.node("reviews-v1").backends[0].answer_path_with("/bad", 503);
    // Of another namespace: it judges none of these requests, and says where tokens may be.
    let tokens = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: badges, namespace: other}\n\
                  spec: {jwtRules: [{issuer: a, jwksUri: 'https://a.example/keys', fromHeaders: [{name: x-badge}], \
                  fromParams: [ticket]}]}\n";
    cluster.push("web", tokens, &["--wait", "all"]).expect_code(0);
    let tap = Tap::start(&cluster, &["--status", "5xx", "--path", "/bad", "--service", "shop/reviews"]);
    // Requests go on until the taps of both nodes are open.
    eventually("both sides tell", || {
        assert_eq!((get(&cluster, "/bad?token=t0p&page=2&ticket=t0p"), get(&cluster, "/good")), (503, 200));
        let lines = tap.lines();
        let side = |side: &str| lines.iter().any(|line| line["side"] == side);
        if side("client") && side("server") { Ok(()) } else { Err(format!("{lines:#?}")) }
    });
    let lines = tap.lines();
    let text = format!("{lines:?}");
    assert!(!text.contains("t0p") && !text.contains("/good"), "{text}");
    let of = |side: &str| lines.iter().find(|line| line["side"] == side).expect("seen above");
    let (client, server) = (of("client"), of("server"));
    assert_eq!((&client["node"], &server["node"]), (&json!("web"), &json!("reviews-v1")));
    for line in [client, server] {
        written("tap", line);
        assert_eq!(
            (&line["status"], &line["method"], &line["headers"]["x-mine"]),
            (&json!(503), &json!("GET"), &json!("seen"))
        );
        assert_eq!((&line["source"], &line["destination"]), (&json!("shop/web"), &json!("shop/reviews-v1")));
        assert_eq!(line["headers"]["authorization"], json!("[redacted]"));
        assert_eq!(line["path"], json!("/bad?token=[redacted]&page=2&ticket=[redacted]"));
    }
    let explain = client["explain"].as_str().expect("a command");
    let words: Vec<&str> = explain.split(' ').skip(1).filter(|word| *word != "--node" && *word != "web").collect();
    let explained = cluster.on("web", &words).expect_code(0);
    assert!(explained.out.contains("reviews"), "{explained:?}");

    let mut limited = Tap::start(&cluster, &["--limit", "1", "--here"]);
    eventually("a tap with a limit ends", || {
        get(&cluster, "/one");
        if limited.0.has_ended() { Ok(()) } else { Err("it runs".to_owned()) }
    });
    eventually("its line is read", || match limited.lines().len() {
        1 => Ok(()),
        count => Err(format!("{count} lines")),
    });
}

/// Whose roles are of one namespace sees what that sends or gets, at any node; a recovery key, which signs RoleSets, sees no requests.
#[test]
fn an_operator_of_one_namespace_sees_its_requests_alone() {
    let plans = [
        ("web", Plan::with([Service::client("shop/web")])),
        ("reviews-v1", Plan::with([Service::version("shop/reviews", "v1")])),
        ("ledger", Plan::with([Service::version("bank/ledger", "v1")])),
    ];
    let cluster = Cluster::start(crate::skein(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.wait_endpoints("bank/ledger", 1);
    let (bob_dir, bob_key) = second_operator(&cluster);
    let mut set = cluster.json("web", &["policy", "get", "RoleSet", "default", "-n", "istio-system"]);
    set["spec"].as_object_mut().expect("a spec").remove("bundle");
    set["spec"]["keys"].as_array_mut().expect("keys").push(json!({"name": "bob", "publicKey": bob_key}));
    set["spec"]["roles"].as_array_mut().expect("roles").push(json!(
        {"name": "bank", "keys": ["bob"], "threshold": 1, "namespaces": ["bank"], "kinds": ["*"], "verbs": ["view", "push"]}
    ));
    cluster.push("web", &set.to_string(), &["--wait", "all"]).expect_code(0);
    let words = ["tap", "-o", "json", "--node", "web", "--operator", &bob_dir];
    let tap = Telling::start(&cluster, "ledger", &words);
    let lines = || -> Vec<Value> { tap.out().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect() };
    eventually("both sides of what the bank gets are seen", || {
        assert_eq!(get(&cluster, "/private"), 200);
        let asked = http::get(cluster.node("web").outbound(), "ledger.bank", "/balance").expect("an answer");
        assert_eq!(asked.status, 200);
        let seen = lines();
        let of = |node: &str| seen.iter().any(|line| line["node"] == node);
        if of("web") && of("ledger") { Ok(()) } else { Err(format!("{seen:#?}")) }
    });
    assert!(lines().iter().all(|line| line["path"] == "/balance"), "{:#?}", lines());
    tap.until_err("it says so", |said| said.iter().any(|line| line.ends_with("is shown, as your roles say: bank")));
    // A recovery key in the operator's place.
    let recovery = cluster.operator().join("recovery.key");
    std::fs::copy(recovery, std::path::Path::new(&bob_dir).join("operator.key")).expect("copied");
    let refused = cluster.on("ledger", &[&words[..], &["--here"]].concat());
    assert_eq!((refused.code, &refused.error()["error"]["code"]), (5, &json!("role_missing")), "{refused:?}");
}

#[test]
fn what_was_left_out_is_told_although_no_request_follows() {
    let cluster = reviews(&["v1"]);
    let words = ["tap", "--here", "--rate", "1", "-o", "json"];
    let tap = Telling::start(&cluster, "web", &words);
    eventually("it looks", || {
        get(&cluster, "/first");
        if tap.out().is_empty() { Err("nothing yet".to_owned()) } else { Ok(()) }
    });
    for _ in 0..50 {
        get(&cluster, "/many");
    }
    // Nobody asks for anything any more.
    tap.until_err("it says what it left out", |said| said.iter().any(|line| line.contains("has left out")));
    tap.interrupt();
    tap.until_err("it says so at its end", |said| {
        let last = said.iter().find_map(|line| line.strip_prefix("note: requests were left out: "));
        let count = last.and_then(|last| last.split(' ').next()).and_then(|count| count.parse::<u32>().ok());
        count.is_some_and(|count| count > 0)
    });
    assert!(tap.out().iter().all(|line| line.contains("\"method\"")), "only requests are results: {:?}", tap.out());
}

#[test]
fn the_loopback_port_tells_nothing_and_what_cannot_be_is_refused() {
    let cluster = reviews(&["v1"]);
    let address = cluster.node("web").address("admin");
    let answer = http::get(address, &address.to_string(), "/v1/tap").expect("an answer");
    assert_eq!(answer.status, 404, "{}", answer.text());
    let refused = cluster.on("web", &["tap", "--status", "6xx", "--here"]);
    assert!(refused.code == 2 && refused.err.contains("6xx"), "{refused:?}");
}

#[test]
fn a_browser_sees_requests_and_why_at_a_path_that_only_the_command_names() {
    let cluster = reviews(&["v1"]);
    cluster.node("reviews-v1").backends[0].answer_path_with("/bad", 503);
    let tap = Tap::start(&cluster, &["--page"]);
    let url = eventually("the page has an address", || {
        let lines = tap.lines();
        let url = lines.first().and_then(|line| line["url"].as_str()).map(str::to_owned);
        url.ok_or_else(|| format!("{lines:?}"))
    });
    let rest = url.strip_prefix("http://").expect("a page of plain HTTP");
    let (address, path) = rest.split_at(rest.find('/').expect("a path"));
    let address: std::net::SocketAddr = address.parse().expect("an address");
    assert!(address.ip().is_loopback() && path.len() > 30, "{url}");
    let host = address.to_string();
    let page = |path: &str| http::get(address, &host, path).expect("an answer");
    // Requests go on until the taps of both nodes are open.
    eventually("both sides are shown", || {
        assert_eq!(get(&cluster, "/bad?token=t0p"), 503);
        let list = page(path).text();
        let both = list.contains("web as client") && list.contains("reviews-v1 as server");
        if both { Ok(()) } else { Err(list) }
    });
    let list = page(&format!("{path}?status=5xx&q=%2Fbad")).text();
    assert!(list.contains("/bad?token=[redacted]") && !list.contains("t0p"), "{list}");
    assert!(page(&format!("{path}?q=nobody")).text().contains("Nothing was seen yet"));
    let row = list.split("<tr>").find(|row| row.contains("as client")).expect("seen above");
    let (_, link) = row.split_once("href=\"").expect("a link");
    let one = page(link.split('"').next().expect("its end")).text();
    for word in ["What becomes of it", "shop/reviews", "x-mine", "The other side", "reviews-v1 as server", "shop/web"] {
        assert!(one.contains(word), "{word}: {one}");
    }
    assert!(!one.contains("Bearer") && !one.contains("=t0p"), "{one}");
    assert_eq!(page(&format!("{path}assets/skein.css")).status, 200);
    assert_eq!(page(&format!("{path}requests/999999")).status, 404);
    for elsewhere in ["/", "/requests/1", "/v1/tap", &format!("/{}/", "0".repeat(32))] {
        assert_eq!(page(elsewhere).status, 404, "{elsewhere}");
    }
    let rebound = http::get(address, "evil.example", path).expect("an answer");
    assert_eq!(rebound.status, 403, "{}", rebound.text());
    let taken = cluster.on("web", &["tap", "--page", &address.port().to_string()]);
    assert!(taken.code == 1 && taken.err.contains(&host), "{taken:?}");
}
