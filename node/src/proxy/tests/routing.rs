//! VirtualServices and DestinationRules as callers and applications see them.

use super::{
    backend::{Arrived, Backend, ok},
    client::{Client, get, with},
    world::{Entry, World},
};
use crate::clock::monotonic;
use std::time::Duration;

/// A VirtualService for `reviews` with these `http` rules, indented by two.
fn reviews(rules: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews, namespace: default}}\n\
         spec:\n  hosts: [reviews]\n  http:\n{rules}\n"
    )
}

const SUBSETS: &str = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v9, labels: {version: v9}}
";

fn two_versions() -> (World, Backend, Backend) {
    let (one, two) = (Backend::named("v1"), Backend::named("v2"));
    let world = World::new(3, vec![Entry::new(1, "reviews", "v1", &one), Entry::new(2, "reviews", "v2", &two)]);
    (world, one, two)
}

#[test]
fn traffic_splits_ninety_to_ten() {
    let (mut world, _one, _two) = two_versions();
    let split = "  - route:\n    - {destination: {host: reviews, subset: v1}, weight: 90}\n    \
                 - {destination: {host: reviews, subset: v2}, weight: 10}\n";
    world.push(&(reviews(split) + SUBSETS));
    let mut client = Client::connect(world.nodes[0].outbound);
    let ones =
        (0..2000).filter(|_| client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().body == "v1").count();
    // Six standard deviations of 2000 draws at 0.9 are 80.
    assert!((1720..1880).contains(&ones), "{ones} of 2000");
}

#[test]
fn a_name_that_is_no_service_stands_before_several() {
    let (cart, web) = (Backend::named("cart"), Backend::named("web"));
    let entries = vec![Entry::new(1, "ratings", "v1", &cart), Entry::new(0, "reviews", "v1", &web)];
    let mut world = World::new(2, entries);
    let outbound = world.nodes[0].outbound;
    assert_eq!(get(outbound, "shop.internal", "/").status, 404);
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: shop}\nspec:\n  hosts: [shop.internal]\n  http:\n  \
         - match: [{uri: {prefix: /cart}}]\n    route: [{destination: {host: ratings}}]\n  \
         - match: [{uri: {prefix: /old}}]\n    redirect: {uri: /new}\n  \
         - route: [{destination: {host: reviews}}]\n",
    );
    assert_eq!(get(outbound, "shop.internal", "/cart/1").body, "cart");
    assert_eq!(get(outbound, "shop.internal", "/").body, "web");
    assert_eq!(cart.last().header("host"), Some("shop.internal"), "the name is forwarded as it came");
    let absolute = "GET http://Shop.Internal/cart HTTP/1.1\r\nHost: shop.internal\r\n\r\n";
    assert_eq!(Client::connect(outbound).ask(absolute).unwrap().body, "cart");
    assert_eq!(get(outbound, "shop.internal:8080", "/").status, 404);
    assert_eq!(get(outbound, "ratings", "/").body, "cart", "services keep their names");
    assert_eq!(get(outbound, "shop.internal", "/old").header("location"), Some("http://shop.internal/new"));
    let metrics = world.metrics(0);
    let of_name = |line: &&str| line.contains("destination_service=\"shop.internal\"");
    assert!(metrics.lines().filter(of_name).all(|line| line.contains("destination_service_namespace=\"unknown\"")));
    assert!(metrics.lines().any(|line| of_name(&line)), "what the route answers itself counts for the name");
}

#[test]
fn headers_choose_and_a_change_takes_effect_at_once() {
    let (mut world, _one, _two) = two_versions();
    let rules = "  - match: [{headers: {end-user: {exact: jason}}}]\n    route: [{destination: {host: reviews, subset: v2}}]\n  \
                 - route: [{destination: {host: reviews, subset: v1}}]\n";
    world.push(&(reviews(rules) + SUBSETS));
    let outbound = world.nodes[0].outbound;
    assert_eq!(with(outbound, "reviews", "/", "End-User: jason\r\n").body, "v2");
    let mut client = Client::connect(outbound);
    let plain = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";
    assert_eq!(client.ask(plain).unwrap().body, "v1");
    world.push(&reviews("  - route: [{destination: {host: reviews, subset: v2}}]\n"));
    assert_eq!(client.ask(plain).unwrap().body, "v2", "the same connection follows");
}

#[test]
fn what_nobody_defines_is_503_and_what_no_rule_matches_is_404() {
    let (mut world, _one, _two) = two_versions();
    let rules = "  - match: [{uri: {prefix: /none}}]\n    route: [{destination: {host: nobody}}]\n  \
                 - match: [{uri: {prefix: /subset}}]\n    route: [{destination: {host: reviews, subset: v7}}]\n  \
                 - match: [{uri: {prefix: /empty}}]\n    route: [{destination: {host: reviews, subset: v9}}]\n";
    world.push(&(reviews(rules) + SUBSETS));
    let ask = |path: &str| {
        let answer = get(world.nodes[0].outbound, "reviews", path);
        (answer.status, answer.body)
    };
    assert_eq!(ask("/none"), (503, String::new()));
    assert_eq!(ask("/subset"), (503, String::new()));
    assert_eq!(ask("/empty"), (503, "no healthy upstream".to_owned()));
    assert_eq!(ask("/other"), (404, String::new()));
    let metrics = world.metrics(0);
    for flag in ["NC", "UH", "NR"] {
        assert!(metrics.contains(&format!("response_flags=\"{flag}\"")), "{flag}");
    }
    // Whoever looks at the service sees that its callers have no route.
    let counted = |metrics: &str, service: &str| {
        let of = |line: &&str| line.contains("response_flags=\"NR\"") && line.contains(service);
        metrics.lines().filter(|line| line.starts_with("istio_requests_total")).filter(of).count()
    };
    assert_eq!(counted(&metrics, "destination_service_name=\"reviews\""), 1, "{metrics}");
    assert_eq!(get(world.nodes[0].outbound, "nobody", "/").status, 404);
    assert_eq!(counted(&world.metrics(0), "destination_service_name=\"BlackHoleCluster\""), 1);
}

#[test]
fn header_operations_apply_to_requests_and_responses() {
    let backend = Backend::scripted(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Gone: 1\r\nX-Kept: a\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"
            .to_vec()
    });
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let rules = "  - route:\n    - destination: {host: reviews}\n      headers: {request: {add: {x-way: destination}, set: {x-env: canary}, remove: [x-gone]}, \
                 response: {set: {x-new: '2'}}}\n    \
                 headers:\n      request: {set: {x-env: default, x-gone: '1', x-set: 'now %REQ(x-other)%%REQ(x-old)%', x-old: '%REQ(x-old)%'}, add: {x-way: route}, remove: [x-old]}\n      \
                 response: {set: {x-new: '1'}, add: {x-kept: b}, remove: [x-gone]}\n";
    world.push(&reviews(rules));
    let answer = with(world.nodes[0].outbound, "reviews", "/", "X-Old: gone\r\nX-Other: then\r\n");
    let arrived = backend.last();
    assert_eq!((arrived.header("x-set"), arrived.header("x-old")), (Some("now then"), None));
    let ways: Vec<_> = arrived.head.lines().filter(|line| line.starts_with("x-way")).collect();
    assert_eq!(ways, ["x-way: route", "x-way: destination"], "an only destination comes after its route");
    assert_eq!((arrived.header("x-env"), arrived.header("x-gone")), (Some("canary"), Some("1")));
    assert_eq!((answer.header("x-new"), answer.header("x-gone"), answer.header("x-hop")), (Some("2"), None, None));
    assert!(answer.head.contains("x-kept: a\r\n") && answer.head.contains("x-kept: b\r\n"), "{}", answer.head);
    assert!(answer.header("x-envoy-upstream-service-time").is_some());
}

#[test]
fn header_operations_apply_to_what_the_proxy_answers_itself() {
    let backend =
        Backend::scripted(|arrived: &Arrived| if arrived.line().contains("/never") { Vec::new() } else { ok("v1") });
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let headers = "headers: {response: {set: {cache-control: no-store, x-of: '%REQ(:PATH)% %RESPONSE_CODE%'}}}";
    let to =
        "route: [{destination: {host: reviews}, headers: {response: {set: {x-way: destination}, add: {x-of: there}}}}]";
    let fault = "fault: {abort: {httpStatus: 555, percentage: {value: 100}}}";
    world.push(&reviews(&format!(
        "  - {{match: [{{uri: {{exact: /abort}}}}], {fault}, {headers}, {to}}}\n  \
         - {{match: [{{uri: {{exact: /none}}}}], {headers}, route: [{{destination: {{host: reviews, subset: none}}}}]}}\n  \
         - {{rewrite: {{uri: /never/}}, retries: {{attempts: 0}}, {headers}, {to}}}\n"
    )));
    let outbound = world.nodes[0].outbound;
    for (path, status, way) in [("/abort", 555, true), ("/none", 503, false), ("/gone", 503, true)] {
        let answer = get(outbound, "reviews", path);
        assert_eq!((answer.status, answer.header("cache-control")), (status, Some("no-store")), "{path}");
        assert_eq!(answer.header("x-way").is_some(), way, "{path}");
        assert!(answer.head.contains(&format!("x-of: {path} {status}\r\n")), "{}", answer.head);
    }
    world.register(|entries| entries[0].healthy = false);
    let nobody = get(outbound, "reviews", "/");
    assert_eq!((nobody.status, nobody.header("cache-control")), (503, Some("no-store")), "no endpoint");
    assert_eq!(nobody.header("x-way"), Some("destination"));
}

#[test]
fn one_of_several_destinations_comes_before_its_route() {
    let backend = Backend::named("v1");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let one = "- {destination: {host: reviews}, weight: 50, headers: {request: {set: {x-env: canary}, add: {x-way: destination}}}}";
    world.push(&reviews(&format!(
        "  - headers: {{request: {{set: {{x-env: default}}, add: {{x-way: route}}}}}}\n    route:\n    {one}\n    {one}\n"
    )));
    get(world.nodes[0].outbound, "reviews", "/");
    let arrived = backend.last();
    assert_eq!(arrived.header("x-env"), Some("default"));
    let ways: Vec<_> = arrived.head.lines().filter(|line| line.starts_with("x-way")).collect();
    assert_eq!(ways, ["x-way: destination", "x-way: route"]);
}

#[test]
fn a_rewrite_that_makes_no_path_is_the_policys_fault() {
    let backend = Backend::named("v1");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    world.push(&reviews(
        "  - rewrite: {uriRegexRewrite: {match: '^/old/', rewrite: 'new '}}\n    route: [{destination: {host: reviews}}]\n",
    ));
    let mut client = Client::connect(world.nodes[0].outbound);
    let answer = client.ask("GET /old/x HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap();
    assert_eq!((answer.status, answer.header("connection")), (500, None), "{}", answer.head);
    assert_eq!(client.ask("GET /x HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().status, 200);
}

#[test]
fn rewrites_keep_the_query_and_tell_the_original() {
    let backend = Backend::named("v1");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let rules = "  - match: [{uri: {prefix: /old}}]\n    rewrite: {uri: /new, authority: other.example}\n    \
                 route: [{destination: {host: reviews}}]\n";
    world.push(&reviews(rules));
    get(world.nodes[0].outbound, "reviews", "/old/x?q=1");
    let arrived = backend.last();
    assert_eq!(arrived.line(), "GET /new/x?q=1 HTTP/1.1");
    assert_eq!(arrived.header("host"), Some("other.example"));
    assert_eq!(arrived.header("x-envoy-original-path"), Some("/old/x?q=1"));
}

#[test]
fn redirects_and_direct_responses_answer_here() {
    let (mut world, one, _two) = two_versions();
    let rules = "  - match: [{uri: {exact: /away}}]\n    redirect: {uri: /there, authority: other.example, redirectCode: 302}\n  \
                 - match: [{uri: {exact: /tea}}]\n    directResponse: {status: 418, body: {string: short and stout}}\n    \
                 headers: {response: {set: {x-pot: '1'}}}\n  \
                 - match: [{uri: {exact: /nothing}}]\n    directResponse: {status: 204, body: {string: nothing}}\n  \
                 - match: [{uri: {exact: /same}}]\n    fault: {abort: {httpStatus: 304, percentage: {value: 100}}}\n    \
                 route: [{destination: {host: reviews}}]\n  - route: [{destination: {host: reviews}}]\n";
    world.push(&reviews(rules));
    let outbound = world.nodes[0].outbound;
    let away = get(outbound, "reviews", "/away");
    assert_eq!((away.status, away.header("location")), (302, Some("http://other.example/there")));
    let tea = get(outbound, "reviews", "/tea");
    assert_eq!((tea.status, tea.body.as_str(), tea.header("x-pot")), (418, "short and stout", Some("1")));
    assert_eq!(tea.header("content-type"), Some("text/plain"));
    let mut client = Client::connect(outbound);
    client.write("HEAD /tea HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert_eq!(client.answer(true).unwrap().status, 418);
    assert_eq!(client.ask("GET /away HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().status, 302);
    // What has no body by its status has come to its end all the same.
    for (path, status) in [("/nothing", 204), ("/same", 304)] {
        assert_eq!(client.ask(format!("GET {path} HTTP/1.1\r\nHost: reviews\r\n\r\n")).unwrap().status, status);
    }
    drop(client);
    let metrics = world.metrics(0);
    assert!(metrics.contains("response_code=\"204\"") && metrics.contains("response_code=\"304\""), "{metrics}");
    assert!(!metrics.contains("DC"), "{metrics}");
    assert!(one.arrived().is_empty());
}

#[test]
fn faults_delay_and_abort_before_everything_else() {
    let (mut world, one, two) = two_versions();
    let rules = "  - match: [{uri: {exact: /abort}}]\n    timeout: 50ms\n    \
                 fault: {abort: {httpStatus: 555, percentage: {value: 100}}}\n    route: [{destination: {host: reviews}}]\n  \
                 - match: [{uri: {exact: /delay}}]\n    timeout: 1s\n    \
                 fault: {delay: {fixedDelay: 1200ms, percentage: {value: 100}}}\n    route: [{destination: {host: reviews}}]\n  \
                 - match: [{uri: {exact: /half}}]\n    \
                 fault: {abort: {httpStatus: 500, percentage: {value: 50}}}\n    route: [{destination: {host: reviews}}]\n  \
                 - match: [{uri: {exact: /absent}}]\n    \
                 fault: {abort: {httpStatus: 500}}\n    route: [{destination: {host: reviews}}]\n";
    world.push(&reviews(rules));
    let outbound = world.nodes[0].outbound;
    let abort = get(outbound, "reviews", "/abort");
    assert_eq!((abort.status, abort.body.as_str()), (555, "fault filter abort"));
    assert!(one.arrived().is_empty() && two.arrived().is_empty(), "an abort is not retried");
    let began = monotonic();
    assert_eq!(get(outbound, "reviews", "/delay").status, 200, "the timeout does not see the delay");
    assert!(began.elapsed() >= Duration::from_millis(1200));
    let mut client = Client::connect(outbound);
    let aborted =
        (0..400).filter(|_| client.ask("GET /half HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().status == 500).count();
    assert!((140..260).contains(&aborted), "{aborted} of 400");
    assert_eq!(get(outbound, "reviews", "/absent").status, 200, "no percentage is none");
    let metrics = world.metrics(0);
    assert!(metrics.contains("response_flags=\"FI\"") && metrics.contains("response_flags=\"DI\""));
}

/// Longer than the timeouts of these tests by more than a busy machine loses.
const SLOW: Duration = Duration::from_secs(4);

fn slow(arrived: &Arrived) -> Vec<u8> {
    let first = arrived.header("x-envoy-attempt-count") == Some("1");
    if first || arrived.line().contains("always") {
        std::thread::sleep(SLOW);
    }
    ok("slow")
}

#[test]
fn timeouts_end_requests_and_attempts() {
    let backend = Backend::scripted(slow);
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let rules = "  - match: [{uri: {prefix: /try}}]\n    retries: {attempts: 2, perTryTimeout: 700ms, retryOn: 5xx}\n    \
                 route: [{destination: {host: reviews}}]\n  \
                 - timeout: 700ms\n    route: [{destination: {host: reviews}}]\n";
    world.push(&reviews(rules));
    let outbound = world.nodes[0].outbound;
    let began = monotonic();
    let late = get(outbound, "reviews", "/always");
    assert_eq!((late.status, late.body.as_str()), (504, "upstream request timeout"));
    assert!(began.elapsed() < SLOW, "nobody waited for the answer");
    assert_eq!(get(outbound, "reviews", "/try").body, "slow", "the second attempt is fast");
    assert_eq!(get(outbound, "reviews", "/try/always").status, 504);
    let metrics = world.metrics(0);
    assert!(metrics.contains("response_flags=\"UT\"") && metrics.contains("response_flags=\"UT,URX\""));
}

#[test]
fn a_timeout_counts_from_the_end_of_the_request() {
    let backend = Backend::named("v1");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    world.push(&reviews("  - timeout: 1s\n    route: [{destination: {host: reviews}}]\n"));
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 4\r\n\r\nab");
    std::thread::sleep(Duration::from_millis(1200));
    client.write("cd");
    assert_eq!(client.answer(false).unwrap().status, 200);
}

#[test]
fn statuses_are_retried_only_where_asked() {
    let fails_once = |arrived: &Arrived| {
        if arrived.header("x-envoy-attempt-count") == Some("1") {
            return b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy".to_vec();
        }
        ok(&String::from_utf8_lossy(&arrived.body))
    };
    let backend = Backend::scripted(fails_once);
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let outbound = world.nodes[0].outbound;
    let post = |path: &str, body: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nHost: reviews\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = Client::connect(outbound).ask(head + body).unwrap();
        (answer.status, answer.body)
    };
    assert_eq!(post("/", "x"), (503, "busy".to_owned()), "the default does not retry 503");
    let rules = "  - match: [{uri: {prefix: /off}}]\n    retries: {attempts: 0}\n    route: [{destination: {host: reviews}}]\n  \
                 - retries: {attempts: 2, retryOn: '503'}\n    route: [{destination: {host: reviews}}]\n";
    world.push(&reviews(rules));
    assert_eq!(post("/", "again"), (200, "again".to_owned()), "the body is sent again");
    let large = "b".repeat(100_000);
    assert_eq!(post("/", &large).0, 503, "a body beyond 64 KiB is not kept");
    assert_eq!(post("/off", "x").0, 503);
}

#[test]
fn header_operations_see_the_request_as_it_came() {
    let backend = Backend::scripted(|_: &Arrived| {
        std::thread::sleep(Duration::from_millis(30));
        ok("v1")
    });
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    world.push(&reviews(
        "  - rewrite: {uri: /new, authority: other}\n    headers:\n      request: {set: {x-m: '%REQ(:METHOD)%', x-p: '%REQ(:PATH)%', \
         x-a: '%REQ(:AUTHORITY)%', x-h: '%REQ(HOST)%', x-o: '%REQ(X-NONE?:PATH):4%', x-s: '%REQ(:SCHEME)%', x-time: '%START_TIME%', x-t: 't=%START_TIME(%Y)%', \
         x-l: '%DOWNSTREAM_LOCAL_ADDRESS%', x-i: '%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%'}}\n      \
         response: {set: {x-p: '%REQ(:PATH)%', x-a: '%REQ(:AUTHORITY)%', x-time: '%START_TIME%'}}\n    \
         route: [{destination: {host: reviews}}]\n",
    ));
    // The speaker listens on one address of this host; a caller reaches it there whatever its own address is.
    let (outbound, from) = (world.nodes[0].outbound, "127.0.0.3:0");
    let mut client = Client::connect_from(from.parse().unwrap(), outbound);
    let answer = client.ask("GET /old?q HTTP/1.1\r\nHost: reviews:9080\r\n\r\n").expect("an answer");
    let came = backend.last();
    let header = |name: &str| came.header(name).unwrap_or_default().to_owned();
    assert_eq!([header("x-m"), header("x-p"), header("x-o"), header("x-s")], ["GET", "/old?q", "/old", "http"]);
    assert_eq!([header("x-a"), header("x-h"), header("host")], ["reviews:9080", "reviews:9080", "other"]);
    assert_eq!([header("x-l"), header("x-i")], [outbound.to_string(), outbound.ip().to_string()]);
    assert_eq!(header("x-t"), format!("t={}", &header("x-time")[..4]));
    assert_eq!((answer.header("x-p"), answer.header("x-a")), (Some("/old?q"), Some("reviews:9080")));
    assert_eq!(answer.header("x-time"), Some(header("x-time").as_str()), "the time at which the request came");
}

#[test]
fn a_path_in_whatever_spelling_is_routed_as_it_is_forwarded() {
    let backend = Backend::named("v1");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    world.push(&reviews(
        "  - {match: [{uri: {prefix: /admin}}], directResponse: {status: 418}}\n  - {route: [{destination: {host: reviews}}]}",
    ));
    let status = |path: &str| get(world.nodes[0].outbound, "reviews", path).status;
    for path in ["/admin", "/x/../admin", "/%61dmin", "/x/%2e%2E/admin", "/./admin/./x", "/x%2fy/../admin"] {
        assert_eq!(status(path), 418, "{path}");
    }
    assert_eq!(status("/.;/../admin"), 400, "what servers read in two ways");
    assert!(backend.arrived().is_empty());
    for (path, forwarded) in
        [("/a/./b/../c%2fd?x=/../y", "/a/c%2fd?x=/../y"), ("/fetch/https://a.example", "/fetch/https://a.example")]
    {
        assert_eq!((status(path), backend.last().line()), (200, &*format!("GET {forwarded} HTTP/1.1")));
    }
}
