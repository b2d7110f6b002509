//! Istio's own scenarios, from outside: the documents are pushed to a small mesh, the requests are sent, and what comes
//! back and what arrives is what Istio says. Read in place; skips with a message where the corpus is absent.

mod applicability;
mod authz;
mod edge;
mod egress;
mod mesh;
mod scenario;
mod sidecar;
mod tables;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http, simulation,
    tokens::Issuer,
};

use self::{
    applicability::{BESIDE, CALLED, LOGGED, OWN_PORTS, is_outside},
    edge::AT_GATEWAYS,
    egress::THROUGH_EGRESS,
    mesh::{APPLICATIONS, CALLER, SERVERS, application},
    scenario::{Call, Connection, Protocol, Scenario},
};
use crate::skein;
use serde_json::json;

/// The files of a folder by name; none where the corpus is absent.
#[expect(clippy::print_stdout, reason = "whoever runs the tests must see that nothing was checked")]
fn files(folder: &str) -> Option<BTreeMap<String, PathBuf>> {
    let Some(root) = harness::corpus::root() else {
        println!("skipped: shared/istio/corpus is not beside the workspace (set SKEIN_CORPUS)");
        return None;
    };
    let directory = std::fs::read_dir(root.join(folder)).expect(folder);
    let named = |path: PathBuf| (path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned(), path);
    Some(directory.map(|entry| named(entry.expect("a file").path())).collect())
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).expect("a text")
}

#[test]
fn what_istio_promises_to_callers_holds() {
    let Some(mut files) = files("scenarios") else { return };
    let elsewhere = |name: &str| AT_GATEWAYS.contains(&name) || THROUGH_EGRESS.contains(&name);
    files.retain(|name, _| !elsewhere(name));
    let issuer = Issuer::default();
    let read = |(name, file): (&String, &PathBuf)| {
        Scenario::read(&signed(&text(file), &issuer)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let mut scenarios: Vec<Scenario> = files.iter().map(read).collect();
    for (name, called) in CALLED {
        let calls =
            scenarios.iter_mut().filter(|scenario| scenario.name == *name).flat_map(|scenario| &mut scenario.calls);
        calls.for_each(|call| call.request.to = Some((*called).to_owned()));
    }
    // The one that takes applications down comes last.
    scenarios.sort_by_key(|scenario| {
        (scenario.calls.iter().any(|call| call.request.after.is_some()), scenario.name.clone())
    });
    let (mut cluster, _echoes) = mesh::start();
    let left_out: usize = scenarios.iter().map(|scenario| run(&mut cluster, scenario)).sum();
    println!("{} of Istio's scenarios ran, without {left_out} of their calls, which leave the mesh", scenarios.len());
}

/// Every case of Istio's simulator runs in one of the rooms, or its objects are refused by name.
#[test]
fn what_istio_simulates_runs_but_for_objects_of_kubernetes() {
    let Some(files) = files("simulation") else { return };
    let cluster = Cluster::start(skein(), &[(CALLER, Plan::with([Service::client("default/a")]))]);
    let rooms = [simulation::AT_GATEWAYS, simulation::AT_PORTS, simulation::CAPTURED];
    let elsewhere = simulation::NOT_HERE.iter().map(|(name, _)| *name);
    let mut listed: Vec<&str> = elsewhere.chain(rooms.concat()).collect();
    listed.sort_unstable();
    assert_eq!(files.keys().map(String::as_str).collect::<Vec<_>>(), listed, "each case has its place");
    for (name, words) in simulation::NOT_HERE {
        let case: simulation::Case = serde_saphyr::from_str(&text(&files[*name])).expect(name);
        let refused = cluster.push(CALLER, &case.kube_config, &[]);
        assert!(refused.code == 2 && refused.err.contains(words), "{name}: {refused:?}");
        println!("simulation {name}: not here: {}", refused.err);
    }
    for (name, called, why) in simulation::LEFT_OUT {
        let case: simulation::Case = serde_saphyr::from_str(&text(&files[*name])).expect(name);
        assert!(case.calls.iter().any(|asked| asked.name == *called), "{name} has no `{called}`");
        println!("simulation {name}: `{called}` is left out: {why}");
    }
    println!("{} of {} simulations run", listed.len() - simulation::NOT_HERE.len(), listed.len());
}

/// A scenario's text with the keys and tokens that its setup speaks of.
fn signed(text: &str, issuer: &Issuer) -> String {
    let demo = json!({"iss": "testing@secure.istio.io", "sub": "testing@secure.istio.io", "foo": "bar"});
    let keys = issuer.keys().replace('"', "\\\"");
    text.replace("\"<JWKS_UNDER_TEST>\"", &format!("\"{keys}\""))
        .replace("<DEMO>", &issuer.token(&demo))
        .replace("<INVALID>", "garbage")
}

/// Runs one, and says how many of its calls were left out.
fn run(cluster: &mut Cluster, scenario: &Scenario) -> usize {
    let name = scenario.name.as_str();
    let beside = BESIDE.iter().filter(|(of, _)| *of == name).map(|(_, document)| *document);
    let mut documents = std::iter::once(scenario.config.as_str()).chain(beside).collect::<Vec<_>>().join("\n---\n");
    for (_, written, of) in OWN_PORTS.iter().filter(|(of, _, _)| *of == name) {
        let port = application(cluster, of).expect("it runs").address.port();
        assert!(documents.contains(written), "{name}");
        documents = documents.replace(written, &written.replace("80", &port.to_string()));
    }
    // One begins without a document.
    let pushed = match documents.contains("kind:") {
        true => cluster.push(CALLER, &documents, &["--wait", "all"]).expect_code(0).json(),
        false => serde_json::Value::Null,
    };
    let (leaving, within): (Vec<&Call>, Vec<&Call>) =
        scenario.calls.iter().partition(|call| call.request.to.as_deref().is_some_and(is_outside));
    within.into_iter().for_each(|call| check(cluster, name, call));
    for Call { request, .. } in leaving.iter().filter(|call| !call.request.from.as_deref().is_some_and(is_outside)) {
        let answer = mesh::ask(cluster, request).unwrap_or_else(|error| panic!("{name}: {request:?}: {error}"));
        assert_eq!(answer.status, 404, "{name}: {request:?}: the mesh does not know the host: {answer:?}");
    }
    for words in LOGGED.iter().filter(|(of, _)| *of == name).flat_map(|(_, words)| *words) {
        let log = || cluster.log(SERVERS);
        eventually(&format!("{name}: {words} is logged"), || if log().contains(words) { Ok(()) } else { Err(log()) });
    }
    for document in pushed["documents"].as_array().into_iter().flatten() {
        let field = |field: &str| document[field].as_str().unwrap_or_default();
        let words = ["policy", "delete", field("kind"), field("name"), "-n", field("namespace"), "--wait", "all"];
        cluster.on(CALLER, &words).expect_code(0);
    }
    leaving.len()
}

fn check(cluster: &mut Cluster, name: &str, call: &Call) {
    if let Some(down) = &call.request.after {
        mesh::take_down(cluster, down);
    }
    if call.request.protocol == Some(Protocol::Tcp) {
        let expected = call.expect.connection.expect("what becomes of it");
        return mesh::check_connection(cluster, name, &call.request, expected);
    }
    let running = || APPLICATIONS.iter().filter_map(|(known, _, _)| application(cluster, known));
    running().for_each(harness::backend::Backend::forget);
    let asked = &call.request;
    let mut refused = 0;
    for turn in 0..call.repeats() {
        let started = harness::now();
        let answer = mesh::ask(cluster, asked);
        let elapsed = started.elapsed();
        if call.expect.connection == Some(Connection::Reset) {
            assert!(answer.is_err(), "{name}: {asked:?}: {answer:?}");
            refused += 1;
            continue;
        }
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {asked:?}: {error}"));
        refused += usize::from(matches!(answer.status, 403 | 429));
        check_answer(name, call, turn, &answer);
        // Only from below: a busy machine may take longer.
        if let Some((least, _)) = call.expect.elapsed_between_s {
            assert!(elapsed >= Duration::from_secs_f64(least), "{name}: after {elapsed:?}");
        }
    }
    if refused > 0 {
        let arrived: usize = running().map(|backend| backend.arrivals().len()).sum();
        assert_eq!(arrived, call.repeats() - refused, "{name}: {asked:?}: what is refused reaches no application");
    }
    check_arrivals(cluster, name, call);
}

fn check_answer(name: &str, call: &Call, turn: usize, answer: &http::Answer) {
    let (asked, expected) = (&call.request, &call.expect);
    if let Some(status) = expected.status {
        assert_eq!(answer.status, status, "{name}: {asked:?}: {answer:?}");
    }
    if !expected.statuses_in_order.is_empty() {
        assert_eq!(Some(&answer.status), expected.statuses_in_order.get(turn), "{name}: request {turn}: {answer:?}");
    }
    let on_429 = expected.response_headers_on_429.iter().filter(|_| answer.status == 429);
    for (header, value) in on_429 {
        assert_eq!(answer.header(header), Some(value.as_str()), "{name}: {answer:?}");
    }
    if let Some(text) = &expected.body_contains {
        assert!(answer.text().contains(text), "{name}: {asked:?}: {answer:?}");
    }
    if let Some(location) = &expected.location {
        assert_eq!(answer.header("location"), Some(location.as_str()), "{name}: {asked:?}");
    }
    if let Some(path) = &expected.location_path_and_query {
        let location = answer.header("location").unwrap_or_default();
        assert!(location.starts_with("http://") && location.ends_with(path), "{name}: {location}");
    }
}

fn check_arrivals(cluster: &Cluster, name: &str, call: &Call) {
    let (asked, expected) = (&call.request, &call.expect);
    let arrivals = |name: &str| application(cluster, name).map(harness::backend::Backend::arrivals).unwrap_or_default();
    let count = |application: &str| u32::try_from(arrivals(application).len()).expect("a small number");
    let percent = |count: u32| f64::from(count) * 100.0 / f64::from(u32::try_from(call.repeats()).expect("few"));
    for (application, share) in &expected.distribution_percent {
        let found = percent(count(application));
        assert!((found - share).abs() <= expected.tolerance_percent, "{name}: {application} got {found} %");
    }
    if let Some(by) = &expected.served_by {
        assert_eq!(percent(count(by)), 100.0, "{name}: {asked:?} is served by {by}");
    }
    // Of a request that is not routed elsewhere: the application that was asked has it.
    if let Some(to) = asked.to.as_ref().filter(|_| expected.status == Some(200)) {
        assert_eq!(percent(count(to)), 100.0, "{name}: {asked:?} is served by {to}");
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
        assert_eq!(reached.len(), call.repeats(), "{name}");
    }
    for (key, value) in &expected.upstream_request_headers {
        assert_eq!(header(key).as_ref(), Some(value), "{name}: {key}");
    }
    if let Some(path) = &expected.upstream_path {
        let line = last.map(|arrival| arrival.line().to_owned());
        assert_eq!(line, Some(format!("GET {path} HTTP/1.1")), "{name}");
    }
}
