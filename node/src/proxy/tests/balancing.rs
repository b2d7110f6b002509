//! Which endpoint a request goes to, by what a DestinationRule says.

use super::{
    backend::Backend,
    client::{Client, get, with},
    world::{Entry, World, traffic_policy},
};
use std::collections::BTreeMap;

/// Three endpoints, each on a node of its own, in `eu/a`, `eu/b` and `us/c`; the caller is in `eu/a`.
fn three() -> (World, Vec<Backend>) {
    let names = ["v1", "v2", "v3"];
    let backends: Vec<Backend> = names.iter().map(|name| Backend::named(name)).collect();
    let entries = names.iter().zip(&backends).enumerate();
    let entries = entries.map(|(index, (name, backend))| Entry::new(index + 1, "reviews", name, backend));
    (World::new(4, entries.collect()), backends)
}

fn tally(world: &World, count: usize, request: &str) -> BTreeMap<String, usize> {
    let mut client = Client::connect(world.nodes[0].outbound);
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let answer = client.ask(request).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        *seen.entry(answer.body).or_default() += 1;
    }
    seen
}

const PLAIN: &str = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";

#[test]
fn round_robin_takes_turns_by_weight() {
    let (mut world, _backends) = three();
    world.push(&traffic_policy("{loadBalancer: {simple: ROUND_ROBIN}}"));
    assert_eq!(tally(&world, 30, PLAIN).into_values().collect::<Vec<_>>(), [10, 10, 10]);
    world.register(|entries| entries[0].weight = 4);
    assert_eq!(tally(&world, 30, PLAIN).into_values().collect::<Vec<_>>(), [20, 5, 5]);
}

#[test]
fn every_simple_algorithm_reaches_everybody() {
    let (mut world, _backends) = three();
    for word in ["LEAST_REQUEST", "RANDOM"] {
        world.push(&traffic_policy(&format!("{{loadBalancer: {{simple: {word}}}}}")));
        let seen = tally(&world, 120, PLAIN);
        assert!(seen.len() == 3 && seen.values().all(|count| *count >= 10), "{word}: {seen:?}");
    }
}

#[test]
fn a_new_endpoint_warms_up() {
    let (mut world, _backends) = three();
    let rule = "{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 1h, minimumPercent: 10}}}";
    // Two came with the process; one comes an hour from now, so that it stays at its least.
    let hour = 3_600_000;
    let now = crate::clock::uptime();
    for (node, version, at) in [(1, "v1", 0), (2, "v2", 0), (3, "v3", now + hour)] {
        world.arrived(node, "reviews", version, at);
    }
    world.push(&traffic_policy(rule));
    let cold = tally(&world, 300, PLAIN);
    assert!(cold["v1"] + cold["v2"] + cold["v3"] == 300 && cold["v3"] > 50, "all are cold: {cold:?}");
    world.push(&traffic_policy(&rule.replace("1h", "1ms")));
    let two_are_warm = tally(&world, 300, PLAIN);
    // A tenth of its share of a hundred.
    assert!(two_are_warm.get("v3").copied().unwrap_or(0) < 40, "{two_are_warm:?}");
}

#[test]
fn peak_ewma_spares_who_is_slow() {
    let slow = Backend::scripted(|_: &super::backend::Arrived| {
        std::thread::sleep(std::time::Duration::from_millis(150));
        super::backend::ok("slow")
    });
    let fast = Backend::named("fast");
    let entries = vec![Entry::new(1, "reviews", "v1", &slow), Entry::new(1, "reviews", "v2", &fast)];
    let mut world = World::new(2, entries);
    world.push(&traffic_policy("{loadBalancer: {simple: PEAK_EWMA}}"));
    let seen = tally(&world, 100, PLAIN);
    assert!(seen.get("slow").copied().unwrap_or(0) < 40, "{seen:?}");
}

#[test]
fn a_header_keeps_requests_together_and_its_absence_does_not() {
    let (mut world, _backends) = three();
    for algorithm in ["ringHash: {minimumRingSize: 512}", "maglev: {tableSize: 251}"] {
        let rule = format!("{{loadBalancer: {{consistentHash: {{httpHeaderName: x-user, {algorithm}}}}}}}");
        world.push(&traffic_policy(&rule));
        let of = |user: usize| format!("GET / HTTP/1.1\r\nHost: reviews\r\nX-User: {user}\r\n\r\n");
        let homes: Vec<_> = (0..30).map(|user| tally(&world, 4, &of(user))).collect();
        assert!(homes.iter().all(|home| home.len() == 1), "{algorithm}: {homes:?}");
        let all: BTreeMap<_, _> = homes.into_iter().flatten().collect();
        assert_eq!(all.len(), 3, "{algorithm}: users are spread");
        assert_eq!(tally(&world, 60, PLAIN).len(), 3, "{algorithm}: by chance without the header");
    }
}

#[test]
fn a_key_counts_as_it_came_whatever_the_route_makes_of_it() {
    let (mut world, _backends) = three();
    for (key, route) in [
        ("httpHeaderName: x-user", "headers: {request: {remove: [x-user]}}"),
        ("httpHeaderName: x-user", "headers: {request: {set: {x-user: all}}}"),
        ("httpQueryParameterName: id", "rewrite: {uriRegexRewrite: {match: '^.*$', rewrite: /plain}}"),
        ("httpHeaderName: ':authority'", "rewrite: {authority: all}"),
    ] {
        world.push(&format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec:\n  hosts: [reviews]\n  \
             http: [{{{route}, route: [{{destination: {{host: reviews}}}}]}}]\n---\n{}",
            traffic_policy(&format!("{{loadBalancer: {{consistentHash: {{{key}}}}}}}")),
        ));
        let hosts = ["reviews", "reviews.default", "reviews.default.svc", "reviews.default.mesh"];
        let of = |user: usize| {
            let host = if key.contains("authority") { hosts[user % hosts.len()] } else { "reviews" };
            format!("GET /?id={user} HTTP/1.1\r\nHost: {host}\r\nX-User: {user}\r\n\r\n")
        };
        let homes: Vec<_> = (0..20).map(|user| tally(&world, 3, &of(user))).collect();
        assert!(homes.iter().all(|home| home.len() == 1), "{key}: {homes:?}");
        let all: BTreeMap<_, _> = homes.into_iter().flatten().collect();
        assert!(all.len() > 1, "{key}: they are spread");
    }
}

#[test]
fn retries_of_a_key_stay_with_its_endpoint() {
    let fails = |_: &super::backend::Arrived| b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n".to_vec();
    let (one, two) = (Backend::scripted(fails), Backend::scripted(fails));
    let entries = vec![Entry::new(1, "reviews", "v1", &one), Entry::new(2, "reviews", "v2", &two)];
    let mut world = World::new(3, entries);
    let retries = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [reviews]\n  \
                   http:\n  - retries: {attempts: 3, retryOn: '503', backoff: 1ms}\n    route: [{destination: {host: reviews}}]\n---\n";
    world.push(&(retries.to_owned() + &traffic_policy("{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}")));
    assert_eq!(with(world.nodes[0].outbound, "reviews", "/", "X-User: ann\r\n").status, 503);
    let mut counts = [one.arrived().len(), two.arrived().len()];
    counts.sort_unstable();
    assert_eq!(counts, [0, 4]);
    world.push(&traffic_policy("{loadBalancer: {simple: RANDOM}}"));
    assert_eq!(with(world.nodes[0].outbound, "reviews", "/", "").status, 503);
    assert!(!one.arrived().is_empty() && !two.arrived().is_empty(), "without a key others are tried first");
}

#[test]
fn a_cookie_is_made_once_and_leads_back() {
    let (mut world, _backends) = three();
    let rule = "{loadBalancer: {consistentHash: {httpCookie: {name: user, path: /, ttl: 60s}}}}";
    world.push(&traffic_policy(rule));
    let outbound = world.nodes[0].outbound;
    let mut homes = BTreeMap::new();
    for _ in 0..20 {
        let first = get(outbound, "reviews", "/");
        let made = first.header("set-cookie").expect("a cookie").to_owned();
        assert!(made.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{made}");
        let cookie = made.split(';').next().unwrap();
        let second = with(outbound, "reviews", "/", &format!("Cookie: {cookie}\r\n"));
        assert_eq!((second.body.as_str(), second.header("set-cookie")), (first.body.as_str(), None));
        homes.insert(first.body, ());
    }
    assert!(homes.len() > 1);
}

#[test]
fn the_source_and_a_parameter_are_keys_too() {
    let (mut world, _backends) = three();
    world.push(&traffic_policy("{loadBalancer: {consistentHash: {useSourceIp: true}}}"));
    assert_eq!(tally(&world, 20, PLAIN).len(), 1);
    world.push(&traffic_policy("{loadBalancer: {consistentHash: {httpQueryParameterName: id}}}"));
    let of = |id: usize| format!("GET /?id={id} HTTP/1.1\r\nHost: reviews\r\n\r\n");
    let homes: Vec<_> = (0..20).map(|id| tally(&world, 3, &of(id))).collect();
    assert!(homes.iter().all(|home| home.len() == 1), "{homes:?}");
}

#[test]
fn near_endpoints_come_first_and_far_ones_stand_in() {
    let (mut world, _backends) = three();
    let all = |world: &World| tally(world, 30, PLAIN).into_keys().collect::<Vec<_>>();
    world.push(&traffic_policy("{loadBalancer: {localityLbSetting: {enabled: true}}}"));
    assert_eq!(all(&world), ["v1", "v2", "v3"], "without outlier detection nothing fails over");
    world.push(&traffic_policy("{outlierDetection: {}}"));
    assert_eq!(all(&world), ["v1"], "with it the mesh's default does");
    world.register(|entries| entries[0].healthy = false);
    assert_eq!(all(&world), ["v2"]);
    world.register(|entries| entries[1].healthy = false);
    assert_eq!(all(&world), ["v3"]);
    world.push(&traffic_policy("{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}"));
    world.register(|entries| entries.iter_mut().for_each(|entry| entry.healthy = true));
    assert_eq!(all(&world), ["v1", "v2", "v3"]);
}

#[test]
fn localities_get_the_shares_that_are_asked_for() {
    let (mut world, _backends) = three();
    let rule = "{loadBalancer: {localityLbSetting: {distribute: [{from: 'eu/a', to: {'eu/*': 80, 'us/*': 20}}]}}}";
    world.push(&traffic_policy(rule));
    let seen = tally(&world, 1_000, PLAIN);
    let far = seen.get("v3").copied().unwrap_or(0);
    // Six standard deviations of 1000 draws at 0.2 are 76.
    assert!((124..276).contains(&far), "{seen:?}");
}

#[test]
fn too_few_healthy_endpoints_are_a_panic() {
    let (mut world, _backends) = three();
    world.push(&traffic_policy(
        "{outlierDetection: {minHealthPercent: 50}, loadBalancer: {localityLbSetting: {enabled: false}}}",
    ));
    world.register(|entries| entries[1..].iter_mut().for_each(|entry| entry.healthy = false));
    assert_eq!(tally(&world, 60, PLAIN).len(), 3, "all are used, healthy or not");
    let reviews = certs::id::ServiceName::new("default", "reviews").unwrap();
    assert!(world.circuits[0].panicking().iter().any(|circuit| circuit.called.service() == Some(&reviews)));
    let metrics = world.metrics(0);
    let told = metrics.lines().find(|line| line.starts_with("skein_panicking_clusters{")).expect("a row");
    assert!(told.contains("outbound|9080||reviews.default.svc.cluster.local") && told.ends_with(" 1"), "{told}");
    world.push(&traffic_policy("{outlierDetection: {}}"));
    assert_eq!(tally(&world, 10, PLAIN).len(), 1);
}

#[test]
fn who_answers_429_gets_less_for_a_while() {
    let busy =
        |_: &super::backend::Arrived| b"HTTP/1.1 429 Too Many\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n".to_vec();
    let (one, two) = (Backend::scripted(busy), Backend::named("v2"));
    let mut world = World::new(3, vec![Entry::new(1, "reviews", "v1", &one), Entry::new(2, "reviews", "v2", &two)]);
    world.push(&traffic_policy("{outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}, loadBalancer: {simple: RANDOM, localityLbSetting: {enabled: false}}}"));
    let mut client = Client::connect(world.nodes[0].outbound);
    for _ in 0..400 {
        client.ask(PLAIN).unwrap();
    }
    let asked = one.arrived().len();
    // A tenth of its weight; half would be 200.
    assert!((5..110).contains(&asked), "{asked} of 400");
    assert!(world.circuits[0].ejected().is_empty());
}
