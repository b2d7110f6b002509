//! Limits of what is under way to a cluster.

use super::{
    backend::{Arrived, Backend, ok},
    client::{Answer, Client, get, with},
    http2,
    world::{Entry, World, mesh_config, traffic_policy},
};
use crate::{balance::Resource, config::Protocol, mesh::Transport, tasks::Tasks};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// Answers only once it is opened.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn pass(&self) {
        let open = self.0.lock().unwrap();
        drop(self.1.wait_timeout_while(open, Duration::from_secs(60), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

fn gated() -> (Backend, Arc<Gate>) {
    let gate = Arc::<Gate>::default();
    let waits = Arc::clone(&gate);
    let backend = Backend::scripted(move |_: &Arrived| {
        waits.pass();
        ok("late")
    });
    (backend, gate)
}

fn world(policy: &str, backend: &Backend) -> World {
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", backend)]);
    world.push(&traffic_policy(policy));
    world
}

/// Requests that wait for their answer, begun one after the other.
fn waiting(world: &World, count: usize, resource: Resource) -> Vec<std::thread::JoinHandle<Answer>> {
    let outbound = world.nodes[0].outbound;
    (0..count)
        .map(|index| {
            let thread = std::thread::spawn(move || get(outbound, "reviews", "/"));
            until(|| count_of(world, resource) > u32::try_from(index).unwrap());
            thread
        })
        .collect()
}

fn count_of(world: &World, resource: Resource) -> u32 {
    world.circuits[0].all().iter().map(|circuit| circuit.pool.count(resource)).sum()
}

fn until(done: impl Fn() -> bool) {
    for _ in 0..6_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not happen");
}

#[test]
fn requests_beyond_the_limit_fail_at_once_and_are_not_counted_against_anybody() {
    let (backend, gate) = gated();
    let policy = "{connectionPool: {http: {http2MaxRequests: 2}}, outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}}";
    let world = world(policy, &backend);
    let under_way = waiting(&world, 2, Resource::Requests);
    let refused = get(world.nodes[0].outbound, "reviews", "/");
    assert_eq!((refused.status, refused.header("x-envoy-overloaded")), (503, Some("true")));
    assert!(refused.body.ends_with("overflow"), "{refused:?}");
    gate.open();
    assert!(under_way.into_iter().all(|thread| thread.join().unwrap().status == 200));
    until(|| count_of(&world, Resource::Requests) == 0);
    assert_eq!(backend.arrived().len(), 2, "what was refused was not retried");
    assert!(world.circuits[0].ejected().is_empty());
    let metrics = world.metrics(0);
    assert!(metrics.contains("response_flags=\"UO\"") && metrics.contains("limit=\"requests\""), "{metrics}");
}

#[test]
fn a_request_waits_for_a_connection_as_long_as_few_do() {
    let (backend, gate) = gated();
    let world = world("{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}", &backend);
    let mut under_way = waiting(&world, 1, Resource::Connections);
    until(|| backend.arrived().len() == 1);
    under_way.extend(waiting(&world, 1, Resource::Pending));
    let refused = get(world.nodes[0].outbound, "reviews", "/");
    assert_eq!((refused.status, refused.header("x-envoy-overloaded")), (503, Some("true")));
    assert_eq!(backend.arrived().len(), 1, "the second waits here, not there");
    gate.open();
    assert!(under_way.into_iter().all(|thread| thread.join().unwrap().status == 200));
    assert_eq!(backend.arrived().len(), 2);
}

#[test]
fn what_waits_for_room_is_denied_by_rules_that_come_meanwhile() {
    let (backend, gate) = gated();
    let mut world = World::new(3, vec![Entry::new(2, "reviews", "v1", &backend)]);
    world.push(&traffic_policy("{connectionPool: {tcp: {maxConnections: 1}}}"));
    let circuits = Arc::clone(&world.circuits[2]);
    let waiting = || circuits.all().iter().map(|circuit| circuit.pool.count(Resource::Pending)).sum::<u32>();
    // Each of its own node: where they are called they wait for one connection.
    let outbounds = [0, 1, 2].map(|node: usize| world.nodes[node].outbound);
    let ask = |node: usize, path: &'static str| std::thread::spawn(move || get(outbounds[node], "reviews", path));
    let first = ask(0, "/first");
    until(|| backend.arrived().len() == 1);
    let second = ask(1, "/second");
    until(|| waiting() == 1);
    world.push(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny}\nspec: {action: DENY, rules: [{to: [{operation: {paths: [/second]}}]}]}\n",
    );
    assert_eq!(ask(2, "/second").join().unwrap().status, 403, "it comes to know of the rule");
    gate.open();
    assert_eq!((first.join().unwrap().status, second.join().unwrap().status), (200, 403));
    assert_eq!(backend.arrived().len(), 1, "it never reaches the application");
}

#[test]
fn connections_of_http2_carry_so_many_streams() {
    let (runtime, tasks) = (http2::runtime(), Tasks::new());
    let (release, released) = tokio::sync::watch::channel(false);
    let arrived = Arc::<AtomicUsize>::default();
    let address = runtime.block_on(http2::held(tasks, Arc::clone(&arrived), released));
    let mut entry = Entry::new(1, "reviews", "v1", &Backend::named(""));
    (entry.target, entry.protocol) = (address, Protocol::Http2);
    let mut world = World::new(2, vec![entry]);
    world.push(&traffic_policy(
        "{connectionPool: {tcp: {maxConnections: 2}, http: {maxConcurrentStreams: 2, http1MaxPendingRequests: 1}}}",
    ));
    let outbound = world.nodes[0].outbound;
    let begin = |index: usize| {
        let thread = std::thread::spawn(move || get(outbound, "reviews", "/"));
        until(|| arrived.load(Relaxed) > index);
        thread
    };
    let mut under_way: Vec<_> = (0..4).map(begin).collect();
    under_way.extend(waiting(&world, 1, Resource::Pending));
    let refused = get(world.nodes[0].outbound, "reviews", "/");
    assert_eq!((refused.status, refused.header("x-envoy-overloaded")), (503, Some("true")));
    assert_eq!((arrived.load(Relaxed), count_of(&world, Resource::Requests)), (4, 4));
    release.send_replace(true);
    assert!(under_way.into_iter().all(|thread| thread.join().unwrap().status == 200));
}

#[test]
fn an_endpoint_without_a_connection_is_reached_past_the_limit() {
    let ((one, gate), two) = (gated(), Backend::named("v2"));
    let mut world = World::new(3, vec![Entry::new(1, "reviews", "v1", &one), Entry::new(2, "reviews", "v2", &two)]);
    world.push(&traffic_policy("{connectionPool: {tcp: {maxConnections: 1}}, loadBalancer: {simple: ROUND_ROBIN}}"));
    let outbound = world.nodes[0].outbound;
    let both: Vec<_> = (0..2).map(|_| std::thread::spawn(move || get(outbound, "reviews", "/"))).collect();
    until(|| one.arrived().len() + two.arrived().len() == 2);
    gate.open();
    assert!(both.into_iter().all(|thread| thread.join().unwrap().status == 200));
}

#[test]
fn an_endpoint_past_the_limit_serves_one_after_the_other_whoever_else_waits() {
    // Requests stay where their user leads; those for `/long` wait there.
    let gates = [Arc::<Gate>::default(), Arc::default()];
    let backends = gates.each_ref().map(|gate| {
        let waits = Arc::clone(gate);
        Backend::scripted(move |arrived: &Arrived| {
            if arrived.line().contains("/long") {
                waits.pass();
            }
            ok("done")
        })
    });
    let [one, two] = &backends;
    let mut world = World::new(3, vec![Entry::new(1, "reviews", "v1", one), Entry::new(2, "reviews", "v2", two)]);
    world.push(&traffic_policy(
        "{connectionPool: {tcp: {maxConnections: 1, connectTimeout: 60s}}, loadBalancer: {consistentHash: {httpHeaderName: x-user}}}",
    ));
    let outbound = world.nodes[0].outbound;
    let ask = move |path: &'static str, user: usize| {
        std::thread::spawn(move || with(outbound, "reviews", path, &format!("x-user: {user}\r\n")).status)
    };
    let users = backends.each_ref().map(|backend| {
        let leads_there = |user: &usize| {
            let before = backend.arrived().len();
            assert_eq!(ask("/", *user).join().unwrap(), 200);
            backend.arrived().len() > before
        };
        (0..1_000).find(leads_there).expect("each has users")
    });
    let waiting = |count: u32| until(|| count_of(&world, Resource::Pending) == count);
    let mut at_one = vec![ask("/long", users[0])];
    until(|| one.last().line().contains("/long"));
    let first = ask("/long", users[1]);
    until(|| two.last().line().contains("/long"));
    // Its word shall not be the only one that is heard.
    at_one.push(ask("/", users[0]));
    waiting(1);
    let behind: Vec<_> = (0..2).map(|_| ask("/", users[1])).collect();
    waiting(3);
    gates[1].open();
    assert_eq!(first.join().unwrap(), 200);
    assert!(behind.into_iter().all(|asked| asked.join().unwrap() == 200));
    assert_eq!(ask("/", users[1]).join().unwrap(), 200, "and a newcomer");
    assert!(at_one.iter().all(|asked| !asked.is_finished()));
    gates[0].open();
    assert!(at_one.into_iter().all(|asked| asked.join().unwrap() == 200));
}

#[test]
fn a_tunnel_is_under_way_until_it_ends() {
    let backend = Backend::scripted(|arrived: &Arrived| match arrived.header("upgrade") {
        Some(_) => b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        None => ok("plain"),
    });
    let world = world("{connectionPool: {http: {http2MaxRequests: 1}}}", &backend);
    let mut tunnel = Client::connect(world.nodes[0].outbound);
    let asked = "GET / HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(tunnel.ask(asked).unwrap().status, 101);
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 503);
    drop(tunnel);
    until(|| count_of(&world, Resource::Requests) == 0);
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200);
}

#[test]
fn connections_end_after_so_many_requests() {
    let backend = Backend::named("v1");
    for (limit, connections) in [(1, 6), (3, 2), (0, 1)] {
        // Over TCP each virtual connection is one that the other node accepts.
        let mut world = World::over(Transport::Tcp, 2, vec![Entry::new(1, "reviews", "v1", &backend)]);
        world.push(&traffic_policy(&format!("{{connectionPool: {{http: {{maxRequestsPerConnection: {limit}}}}}}}")));
        let mut client = Client::connect(world.nodes[0].outbound);
        for _ in 0..6 {
            assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().status, 200);
        }
        assert_eq!(world.nodes[1].mesh.counters().accepted.load(Relaxed), connections, "limit {limit}");
    }
}

#[test]
fn connections_end_when_they_are_idle_or_old() {
    let backend = Backend::named("v1");
    for pool in ["{http: {idleTimeout: 50ms}}", "{tcp: {idleTimeout: 50ms}}", "{tcp: {maxConnectionDuration: 50ms}}"] {
        let mut world = World::over(Transport::Tcp, 2, vec![Entry::new(1, "reviews", "v1", &backend)]);
        world.push(&traffic_policy(&format!("{{connectionPool: {pool}}}")));
        let mut client = Client::connect(world.nodes[0].outbound);
        for _ in 0..3 {
            assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().status, 200);
            std::thread::sleep(Duration::from_millis(80));
        }
        let accepted = world.nodes[1].mesh.counters().accepted.load(Relaxed);
        assert!(accepted >= 2, "{pool}: {accepted}");
    }
}

#[test]
fn connections_take_no_longer_to_open_than_the_policy_says() {
    // Takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = Backend::named("v1");
    let entry = Entry { address: silent.local_addr().ok(), ..Entry::new(1, "reviews", "v1", &backend) };
    let mut world = World::over(Transport::Tcp, 2, vec![entry]);
    world.push(&traffic_policy("{connectionPool: {tcp: {connectTimeout: 50ms}}}"));
    // The mesh itself would try for 10 s, three times, and the client gives up after ten.
    let answer = get(world.nodes[0].outbound, "reviews", "/");
    assert!(answer.status == 503 && answer.body.ends_with("remote connection failure"), "{answer:?}");
    assert!(world.metrics(0).contains("response_flags=\"UF,URX\""));
}

#[test]
fn retries_have_limits_of_their_own() {
    let fails = Backend::scripted(|_: &Arrived| b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n".to_vec());
    let retries = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [reviews]\n  \
                   http:\n  - retries: {attempts: 2, retryOn: '503', backoff: 100ms}\n    route: [{destination: {host: reviews}}]\n";
    for policy in ["{connectionPool: {http: {maxRetries: 1}}}", "{retryBudget: {percent: 0, minRetryConcurrency: 1}}"] {
        let mut world = world(policy, &fails);
        world.push(retries);
        let outbound = world.nodes[0].outbound;
        let many: Vec<_> = (0..12).map(|_| std::thread::spawn(move || get(outbound, "reviews", "/"))).collect();
        assert!(many.into_iter().all(|thread| thread.join().unwrap().status == 503));
        let overflows: u64 =
            world.circuits[0].all().iter().map(|circuit| circuit.pool.overflows(Resource::Retries)).sum();
        assert!(overflows > 0, "{policy}");
        let metrics = world.metrics(0);
        let flags: BTreeSet<&str> = metrics
            .lines()
            .filter(|line| line.starts_with("istio_requests_total") && line.contains("reporter=\"source\""))
            .filter_map(|line| line.split("response_flags=\"").nth(1)?.split('"').next())
            .collect();
        assert!(flags.contains("UO"), "{policy}: {flags:?}");
        assert_eq!(count_of(&world, Resource::Retries), 0);
    }
}

#[test]
fn the_application_has_the_limit_once_for_all_callers_together() {
    let (backend, gate) = gated();
    let world = world("{connectionPool: {http: {http2MaxRequests: 1}}}", &backend);
    let under_way = waiting(&world, 1, Resource::Requests);
    until(|| backend.arrived().len() == 1);
    // This caller has nothing under way.
    let refused = get(world.nodes[1].outbound, "reviews", "/");
    assert_eq!((refused.status, refused.header("x-envoy-overloaded")), (503, Some("true")));
    let metrics = world.metrics(1);
    let inbound = |line: &&str| line.contains("cluster=\"inbound|9080||\"") && line.contains("limit=\"requests\"");
    assert!(metrics.lines().any(|line| inbound(&line)), "{metrics}");
    gate.open();
    assert!(under_way.into_iter().all(|thread| thread.join().unwrap().status == 200));
    until(|| get(world.nodes[1].outbound, "reviews", "/").status == 200);
}

#[test]
fn connections_to_the_application_carry_as_many_requests_as_policy_says() {
    let backend = Backend::named("v1");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let connections = |world: &World| {
        let before = backend.arrived().len();
        (0..4).for_each(|_| assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200));
        let arrived = backend.arrived().split_off(before);
        arrived.iter().map(|arrived| arrived.connection).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(connections(&world), 1);
    world.push(&traffic_policy("{connectionPool: {http: {maxRequestsPerConnection: 1}}}"));
    assert!(connections(&world) >= 3, "one that was kept before may carry one more");
}

#[test]
fn an_upgrade_lets_requests_share_connections_between_nodes() {
    let (backend, gate) = gated();
    let policy =
        "{connectionPool: {tcp: {maxConnections: 1}, http: {maxConcurrentStreams: 2, h2UpgradePolicy: UPGRADE}}}";
    let world = world(policy, &backend);
    // Both have their stream: by HTTP/1.1 the second would wait for the first.
    let under_way = waiting(&world, 2, Resource::Requests);
    gate.open();
    assert!(under_way.into_iter().all(|thread| thread.join().unwrap().status == 200));
    assert!(backend.arrived().iter().all(|arrived| arrived.line() == "GET / HTTP/1.1"));
}

#[test]
fn the_callers_version_is_kept_where_policy_says_so() {
    let backend = Backend::named("v1");
    let mut entry = Entry::new(1, "reviews", "v1", &backend);
    entry.protocol = Protocol::Http2;
    let mut world = World::new(2, vec![entry]);
    let status = |world: &World| get(world.nodes[0].outbound, "reviews", "/").status;
    assert_ne!(status(&world), 200, "it does not speak HTTP/2");
    world.push(&traffic_policy("{connectionPool: {http: {useClientProtocol: true}}}"));
    assert_eq!(status(&world), 200);
    assert_eq!(backend.last().line(), "GET / HTTP/1.1");
}

#[test]
fn a_response_that_an_http2_caller_does_not_read_gives_its_place_back() {
    let (runtime, tasks) = (http2::runtime(), Tasks::new());
    // More than a stream takes unread, less than a connection.
    let backend = Backend::scripted(|arrived| {
        ok(&"x".repeat(if arrived.line() == "GET /long HTTP/1.1" { 4_000_000 } else { 1 }))
    });
    let mut world = world("{connectionPool: {http: {http2MaxRequests: 100}}}", &backend);
    world.push(&mesh_config("{limits: {streamIdle: 1s}}"));
    let count = || count_of(&world, Resource::Requests);
    runtime.block_on(async {
        let mut sender = http2::connect(world.nodes[0].outbound, &tasks).await;
        let ask = |path: &str| http::Request::get(format!("http://reviews{path}")).body(http2::full("")).unwrap();
        let unread = sender.send_request(ask("/long")).await.unwrap();
        assert_eq!((unread.status().as_u16(), count()), (200, 1));
        // Others go on, so the connection is not idle.
        for _ in 0..1_000 {
            assert_eq!(sender.send_request(ask("/short")).await.unwrap().status(), 200);
            if count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it still has its place");
    });
}
