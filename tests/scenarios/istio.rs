//! Istio's own scenarios, from outside: the documents are pushed to a small mesh, the requests are sent, and what comes
//! back and what arrives is what Istio says. Read in place; skips with a message where the corpus is absent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http,
};
use serde::Deserialize;

use crate::skein;

/// Scenarios that say nothing of a caller's side, and why. The others run.
const NOT_HERE: &[(&str, &str)] = &[
    ("authz-allow-nothing", AUTHORIZATION),
    ("authz-bookinfo-chain", AUTHORIZATION),
    ("authz-deny-then-allow", AUTHORIZATION),
    ("authz-dry-run", AUTHORIZATION),
    ("authz-path-precedence", AUTHORIZATION),
    ("authz-path-template", AUTHORIZATION),
    ("authz-tcp-allow-ports", "TCP"),
    ("authz-tcp-deny-http-and-port", "TCP"),
    ("authz-tcp-deny-http-only", "TCP"),
    ("authz-tcp-none", "TCP"),
    ("egress-gateway-http", "a gateway"),
    ("gw-h1", "a gateway"),
    ("gw-https-redirect-vs443", "a gateway"),
    ("ingress-passthrough", "a gateway"),
    ("ingress-tls-mutual", "a gateway"),
    ("ingress-tls-simple", "a gateway"),
    ("jwt-deny-missing", "tokens"),
    ("jwt-deny-missing-path", "tokens"),
    ("mtls-mesh-strict", "callers outside the mesh"),
    ("mtls-port-disable", "callers outside the mesh"),
    ("mtls-workload-strict", "callers outside the mesh"),
    ("ratelimit-local", "a limit that Istio's own documents cannot say"),
];

const AUTHORIZATION: &str = "authorization, which the destination decides";

/// One file.
#[derive(Debug, Deserialize)]
struct Scenario {
    name: String,
    config: String,
    calls: Vec<Call>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    request: Asked,
    expect: Expected,
}

/// What is sent. A field that this runner does not know is an error, so that nothing is left out unseen.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    from: Option<String>,
    to: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default = "once")]
    repeat: usize,
    #[serde(default)]
    follow_redirects: bool,
    after: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    status: Option<u16>,
    location: Option<String>,
    location_path_and_query: Option<String>,
    upstream_reached: Option<bool>,
    upstream_path: Option<String>,
    upstream_host_header: Option<String>,
    #[serde(default)]
    upstream_request_headers: BTreeMap<String, String>,
    served_by: Option<String>,
    #[serde(default)]
    distribution_percent: BTreeMap<String, f64>,
    #[serde(default)]
    tolerance_percent: f64,
    #[serde(default)]
    mirrored_to: BTreeMap<String, f64>,
    mirrored_host_header: Option<String>,
    elapsed_between_s: Option<(f64, f64)>,
}

fn root() -> String {
    "/".to_owned()
}

const fn once() -> usize {
    1
}

/// The callers' node, and the node with everything but what is elsewhere.
const CALLER: &str = "caller";
const SERVERS: &str = "servers";

/// What a scenario calls by these names: node and place among its applications.
const APPLICATIONS: &[(&str, &str, usize)] = &[
    ("reviews", SERVERS, 0),
    ("ratings", SERVERS, 1),
    ("b", SERVERS, 2),
    ("c", SERVERS, 3),
    ("d", SERVERS, 4),
    ("v1", SERVERS, 5),
    ("v2", SERVERS, 6),
    ("region1.zone1", SERVERS, 7),
    ("region1.zone2", "zone2", 0),
    ("region2.zone3", "zone3", 0),
    ("region3.zone4", "zone4", 0),
];

fn mesh() -> Cluster {
    let on = |ports: &[u16], service: Service| Service { ports: ports.to_vec(), ..service };
    let instance = |name: &str| Service { instance: name.to_owned(), ..Service::version("default/httpbin", name) };
    let hello = || on(&[5000], Service::version("sample/helloworld", "v1"));
    let servers = [
        Service::version("default/reviews", "v2"),
        Service::version("default/ratings", "v1"),
        on(&[80, 85], Service::version("default/b", "v1")),
        on(&[80], Service::version("default/c", "v1")),
        on(&[80], Service::version("default/d", "v1")),
        on(&[8000], instance("v1")),
        on(&[8000], instance("v2")),
        hello(),
    ];
    // A caller in Istio reaches the ports of `b` by their number; here each has a local port of its own.
    let upstream = |port: u16| {
        format!(
            "\n[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"default/b\"\nport = {port}\nas = \"default/a\"\n"
        )
    };
    let at = |locality: &str, plan: Plan| Plan { locality: locality.to_owned(), ..plan };
    let caller = Plan { extra: upstream(80) + &upstream(85), ..Plan::with([Service::client("default/a")]) };
    let plans = [
        (CALLER, at("region1/zone1", caller)),
        (SERVERS, at("region1/zone1", Plan::with(servers))),
        ("zone2", at("region1/zone2", Plan::with([hello()]))),
        ("zone3", at("region2/zone3", Plan::with([hello()]))),
        ("zone4", at("region3/zone4", Plan::with([hello()]))),
    ];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("sample/helloworld", 4);
    // One row for each port.
    cluster.wait_endpoints("default/b", 2);
    cluster.wait_endpoints("default/httpbin", 2);
    cluster.wait_endpoints("default/reviews", 1);
    // Reviews calls ratings through its own node's proxy port.
    let servers = cluster.node(SERVERS);
    servers.backends[0].call_on(servers.outbound(), "ratings");
    cluster
}

#[test]
fn what_istio_promises_to_callers_holds() {
    let Some(root) = harness::corpus::root() else {
        println!("skipped: shared/istio/corpus is not beside the workspace (set SKEIN_CORPUS)");
        return;
    };
    let mut scenarios: Vec<Scenario> = Vec::new();
    let mut listed: BTreeSet<&str> = NOT_HERE.iter().map(|(name, _)| *name).collect();
    for entry in std::fs::read_dir(root.join("scenarios")).expect("scenarios") {
        let file = entry.expect("a file").path();
        let name = file.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        if listed.remove(name.as_str()) {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a text");
        scenarios.push(serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}")));
    }
    assert!(listed.is_empty(), "no such scenarios: {listed:?}");
    // The one that takes applications down comes last.
    scenarios.sort_by_key(|scenario| {
        (scenario.calls.iter().any(|call| call.request.after.is_some()), scenario.name.clone())
    });
    let mut cluster = mesh();
    for scenario in &scenarios {
        run(&mut cluster, scenario);
    }
    println!("{} of Istio's scenarios ran; {} say nothing of callers:", scenarios.len(), NOT_HERE.len());
    NOT_HERE.iter().for_each(|(name, why)| println!("  {name}: {why}"));
}

fn run(cluster: &mut Cluster, scenario: &Scenario) {
    let name = &scenario.name;
    let pushed = cluster.push(CALLER, &scenario.config, &["--wait", "all"]).expect_code(0).json();
    for call in &scenario.calls {
        check(cluster, name, call);
    }
    for document in pushed["documents"].as_array().into_iter().flatten() {
        let field = |field: &str| document[field].as_str().unwrap_or_default();
        let words = ["policy", "delete", field("kind"), field("name"), "-n", field("namespace"), "--wait", "all"];
        cluster.on(CALLER, &words).expect_code(0);
    }
}

fn check(cluster: &mut Cluster, name: &str, call: &Call) {
    if let Some(down) = &call.request.after {
        take_down(cluster, down);
    }
    for (_, node, place) in APPLICATIONS {
        cluster.node(node).backends.get(*place).inspect(|backend| backend.forget());
    }
    let (asked, expected) = (&call.request, &call.expect);
    for _ in 0..repeats(call) {
        let started = harness::now();
        let answer = ask(cluster, asked);
        let elapsed = started.elapsed();
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {asked:?}: {error}"));
        if let Some(status) = expected.status {
            assert_eq!(answer.status, status, "{name}: {asked:?}: {answer:?}");
        }
        if let Some(location) = &expected.location {
            assert_eq!(answer.header("location"), Some(location.as_str()), "{name}: {asked:?}");
        }
        if let Some(path) = &expected.location_path_and_query {
            let location = answer.header("location").unwrap_or_default();
            assert!(location.starts_with("http://") && location.ends_with(path), "{name}: {location}");
        }
        // Only from below: a busy machine may take longer.
        if let Some((least, _)) = expected.elapsed_between_s {
            assert!(elapsed >= Duration::from_secs_f64(least), "{name}: after {elapsed:?}");
        }
    }
    check_arrivals(cluster, name, call);
}

/// Where shares are drawn, ten times as many as the scenario has: its tolerance is twice their deviation, and now six times.
fn repeats(call: &Call) -> usize {
    if call.expect.distribution_percent.is_empty() { call.request.repeat } else { call.request.repeat * 10 }
}

fn check_arrivals(cluster: &Cluster, name: &str, call: &Call) {
    let (asked, expected) = (&call.request, &call.expect);
    let arrivals = |application: &str| {
        let (_, node, place) = place(application);
        let backend = cluster.node(node).backends.get(*place);
        backend.map(harness::backend::Backend::arrivals).unwrap_or_default()
    };
    let count = |application: &str| u32::try_from(arrivals(application).len()).expect("a small number");
    let percent = |count: u32| f64::from(count) * 100.0 / f64::from(u32::try_from(repeats(call)).expect("few"));
    for (application, share) in &expected.distribution_percent {
        let found = percent(count(application));
        assert!((found - share).abs() <= expected.tolerance_percent, "{name}: {application} got {found} %");
    }
    if let Some(by) = &expected.served_by {
        assert_eq!(percent(count(by)), 100.0, "{name}: {asked:?} is served by {by}");
    }
    for (mirror, share) in &expected.mirrored_to {
        let due = share * 100.0;
        let copies = || if percent(count(mirror)) == due { Ok(()) } else { Err(format!("{} arrived", count(mirror))) };
        eventually(&format!("{name}: copies reach {mirror}"), copies);
        if let Some(host) = &expected.mirrored_host_header {
            assert!(arrivals(mirror).iter().all(|copy| copy.header("host") == Some(host)), "{name}");
        }
    }
    let reached = arrivals("b");
    if let Some(wanted) = expected.upstream_reached {
        assert_eq!(!reached.is_empty(), wanted, "{name}: {reached:?}");
    }
    let last = reached.last();
    let header = |header: &str| last.and_then(|arrival| arrival.header(header)).map(str::to_owned);
    if let Some(host) = &expected.upstream_host_header {
        assert!(reached.iter().all(|arrival| arrival.header("host") == Some(host)), "{name}: {reached:?}");
        assert_eq!(reached.len(), repeats(call), "{name}");
    }
    for (key, value) in &expected.upstream_request_headers {
        assert_eq!(header(key).as_ref(), Some(value), "{name}: {key}");
    }
    if let Some(path) = &expected.upstream_path {
        let line = last.map(|arrival| arrival.line().to_owned());
        assert_eq!(line, Some(format!("GET {path} HTTP/1.1")), "{name}");
    }
}

fn place(application: &str) -> &'static (&'static str, &'static str, usize) {
    let found = APPLICATIONS.iter().find(|(known, _, _)| *known == application);
    found.unwrap_or_else(|| panic!("the mesh has no {application}"))
}

/// Sends one request as the scenario's client would.
fn ask(cluster: &Cluster, asked: &Asked) -> Result<http::Answer, String> {
    assert!(asked.from.as_deref().is_none_or(|from| from == "productpage"), "{asked:?}");
    let host = asked.host.clone().or_else(|| asked.to.clone()).unwrap_or_else(|| "b".to_owned());
    let host = if host == "helloworld" { "helloworld.sample".to_owned() } else { host };
    let caller = cluster.node(CALLER);
    let is_b = host == "b" || host.starts_with("b:");
    let via = if is_b { upstream(caller, asked.port.unwrap_or(80)) } else { caller.outbound() };
    let headers: Vec<(&str, &str)> =
        asked.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut answer = http::get_with(via, &host, &asked.path, &headers)?;
    while asked.follow_redirects && (300..400).contains(&answer.status) {
        let location = answer.header("location").ok_or("no Location")?.to_owned();
        let rest = location.strip_prefix("http://").ok_or_else(|| location.clone())?;
        let (host, path) = rest.split_once('/').ok_or_else(|| location.clone())?;
        answer = http::get_with(via, host, &format!("/{path}"), &headers)?;
    }
    Ok(answer)
}

fn upstream(caller: &harness::cluster::Node, port: u16) -> SocketAddr {
    let ready = &caller.running.as_ref().expect("it runs").ready;
    let all = ready["upstream"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|row| row["port"] == port).and_then(|row| row["listen"].as_str()?.parse().ok());
    found.unwrap_or_else(|| panic!("no upstream for port {port} in {ready}"))
}

/// `region1.zone1 instance down`, `region1.zone2 also down`: the application goes, and everybody has heard of it.
fn take_down(cluster: &mut Cluster, what: &str) {
    let name = what.split(' ').next().expect("a word");
    let (_, node, place) = place(name);
    let before = cluster.healthy(CALLER, "sample/helloworld");
    let backends = &mut cluster.nodes.get_mut(*node).expect("it exists").backends;
    // It is the last of its node, so that the places of the others stay.
    assert_eq!(backends.len(), place + 1, "{what}");
    drop(backends.pop());
    cluster.wait_endpoints("sample/helloworld", before - 1);
}
