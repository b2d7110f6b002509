//! Copies of requests to mirrors.

use super::{
    backend::{Arrived, Backend, Buffered, ok},
    client::{Client, eventually, get, with},
    world::{Entry, World},
};
use std::{
    io::{ErrorKind, Write as _},
    time::Duration,
};

/// How long a mirror waits at most; then the caller has waited for it, and has given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// `v1` is called, `v2` is its mirror.
fn mirrored(mirror: &str, more: &str, shadow: Backend) -> (World, Backend, Backend) {
    let called = Backend::named("v1");
    let entries = vec![Entry::new(1, "reviews", "v1", &called), Entry::new(1, "reviews", "v2", &shadow)];
    let mut world = World::new(2, entries);
    world.push(&format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec:\n  hosts: [reviews]\n  \
         http:\n  - route: [{{destination: {{host: reviews, subset: v1}}}}]\n    {mirror}\n{more}---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\nspec:\n  host: reviews\n  \
         subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]\n"
    ));
    (world, called, shadow)
}

fn wait_for(backend: &Backend, count: usize) -> Vec<Arrived> {
    for _ in 0..6_000 {
        if backend.arrived().len() >= count {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    backend.arrived()
}

#[test]
fn a_mirror_gets_the_same_request_under_a_shadows_name() {
    let (answered, wait) = std::sync::mpsc::sync_channel::<()>(0);
    let wait = std::sync::Mutex::new(wait);
    let shadow = Backend::scripted(move |_: &Arrived| {
        let _answered_first = wait.lock().unwrap().recv_timeout(PATIENCE);
        b"HTTP/1.1 500 x\r\nContent-Length: 3\r\n\r\nbad".to_vec()
    });
    let (world, called, shadow) = mirrored("mirror: {host: reviews, subset: v2}", "", shadow);
    let mut client = Client::connect(world.nodes[0].outbound);
    let answer =
        client.ask("POST /x?q=1 HTTP/1.1\r\nHost: reviews:9080\r\nX-Own: 1\r\nContent-Length: 4\r\n\r\nbody").unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "v1"));
    // The mirror answers only now: nobody waited for it.
    drop(answered);
    let copy = wait_for(&shadow, 1).remove(0);
    assert_eq!((copy.line(), copy.header("host")), ("POST /x?q=1 HTTP/1.1", Some("reviews-shadow:9080")));
    assert_eq!((copy.header("x-own"), copy.body.as_slice()), (Some("1"), &b"body"[..]));
    assert_eq!(called.last().header("host"), Some("reviews:9080"));
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").body, "v1");
    assert_eq!(wait_for(&shadow, 2)[1].header("host"), Some("reviews-shadow"));
    let metrics = world.metrics(0);
    let counted = |line: &&str| line.starts_with("istio_requests_total") && line.contains("reporter=\"source\"");
    let total: Vec<&str> = metrics.lines().filter(counted).collect();
    assert!(total.len() == 1 && total[0].ends_with(" 2"), "copies are not the route's requests: {total:?}");
}

#[test]
fn shares_of_mirrors_are_drawn_one_by_one_and_missing_ones_do_not_matter() {
    let mirrors = "mirrors: [{destination: {host: reviews, subset: v2}, percentage: {value: 50}}, {destination: {host: nobody}}, \
                   {destination: {host: reviews, subset: v7}}]";
    let (world, called, shadow) = mirrored(mirrors, "", Backend::named("v2"));
    let mut client = Client::connect(world.nodes[0].outbound);
    for _ in 0..200 {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().body, "v1");
    }
    std::thread::sleep(Duration::from_millis(300));
    let copies = shadow.arrived().len();
    // Six standard deviations of 200 draws at 0.5 are 43.
    assert!((57..=143).contains(&copies), "{copies} of 200");
    assert_eq!(called.arrived().len(), 200);
}

#[test]
fn retries_and_faults_make_no_copies() {
    let more = "    retries: {attempts: 2, retryOn: '200', backoff: 1ms}\n";
    let (mut world, called, shadow) = mirrored("mirror: {host: reviews, subset: v2}", more, Backend::named("v2"));
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200);
    assert_eq!((called.arrived().len(), wait_for(&shadow, 1).len()), (3, 1));
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [reviews]\n  http:\n  \
         - route: [{destination: {host: reviews, subset: v1}}]\n    mirror: {host: reviews, subset: v2}\n    \
         fault: {abort: {httpStatus: 418, percentage: {value: 100}}}\n",
    );
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 418);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(shadow.arrived().len(), 1);
}

#[test]
fn what_is_too_long_is_not_copied_and_passes_all_the_same() {
    let called = Backend::scripted(|arrived: &Arrived| ok(&arrived.body.len().to_string()));
    let shadow = Backend::named("v2");
    let entries = vec![Entry::new(1, "reviews", "v1", &called), Entry::new(1, "ratings", "v1", &shadow)];
    let mut world = World::new(2, entries);
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [reviews]\n  \
         http: [{route: [{destination: {host: reviews}}], mirror: {host: ratings}}]\n",
    );
    let post = |length: usize| {
        let head = format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {length}\r\n\r\n");
        let mut client = Client::connect(world.nodes[0].outbound);
        client.ask([head.into_bytes(), vec![b'x'; length]].concat()).unwrap().body
    };
    assert_eq!(post(1_000_000), "1000000");
    assert_eq!(post(200_000), "200000");
    let copies = wait_for(&shadow, 1);
    assert_eq!(copies.iter().map(|copy| copy.body.len()).collect::<Vec<_>>(), [200_000]);
    assert!(world.metrics(0).contains("skein_mirrored_requests_skipped_total{reason=\"body\"} 1"));
}

#[test]
fn copies_of_one_key_go_to_one_endpoint() {
    let (called, shadows) = (Backend::named("v1"), [Backend::named("a"), Backend::named("b")]);
    let mut entries = vec![Entry::new(1, "reviews", "v1", &called)];
    entries
        .extend(["v1", "v2"].iter().zip(&shadows).map(|(version, shadow)| Entry::new(1, "ratings", version, shadow)));
    let mut world = World::new(2, entries);
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [reviews]\n  \
         http: [{route: [{destination: {host: reviews}}], mirror: {host: ratings}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: ratings}\nspec: {host: ratings, \
         trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}\n",
    );
    for _ in 0..12 {
        assert_eq!(with(world.nodes[0].outbound, "reviews", "/", "x-user: ann\r\n").body, "v1");
    }
    let copies = || shadows.iter().map(|shadow| shadow.arrived().len()).collect::<Vec<_>>();
    eventually("all are copied", || copies().iter().sum::<usize>() == 12);
    assert!(copies().contains(&12), "{:?}", copies());
}

#[test]
fn requests_that_do_not_end_keep_no_copies_of_others_back() {
    let (world, called, shadow) = mirrored("mirror: {host: reviews, subset: v2}", "", Backend::named("v2"));
    let unfinished: Vec<Client> = (0..crate::proxy::outbound::Mirrors::COPIES)
        .map(|_| {
            let mut client = Client::connect(world.nodes[0].outbound);
            client.write("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 9\r\n\r\nbegin");
            client
        })
        .collect();
    let under_way = || {
        let snapshot = world.seen_by(0);
        let service = snapshot.services.get(&"default/reviews".parse().unwrap()).unwrap();
        service.endpoints.iter().map(|endpoint| endpoint.stats.active()).sum::<u32>() as usize
    };
    eventually("all are under way", || under_way() == unfinished.len());
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200);
    assert_eq!(wait_for(&shadow, 1).len(), 1);
    assert_eq!(called.arrived().len(), 1);
}

#[test]
fn a_stream_that_goes_on_keeps_nothing_of_the_world_that_it_began_in() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    // It answers at once, and neither side ends.
    std::thread::spawn(move || {
        let mut stream = Buffered::new(listener.accept().unwrap().0);
        stream.head().unwrap();
        stream.stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n").unwrap();
        stream.ended()
    });
    let shadow = Backend::named("v2");
    let entries = vec![
        Entry::at(1, "reviews", "v1", target, crate::config::Protocol::Http),
        Entry::new(1, "ratings", "v1", &shadow),
    ];
    let mut world = World::new(2, entries);
    let route = |timeout: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec:\n  hosts: [reviews]\n  \
             http: [{{route: [{{destination: {{host: reviews}}}}], mirror: {{host: ratings}}, timeout: {timeout}}}]\n"
        )
    };
    world.push(&route("10m"));
    let began_in = std::sync::Arc::downgrade(&world.seen_by(0));
    let mut client = Buffered::new(std::net::TcpStream::connect(world.nodes[0].outbound).unwrap());
    client.stream.write_all(b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 9\r\n\r\nbegin").unwrap();
    assert!(client.wait_for(b"begun"));
    world.push(&route("20m"));
    eventually("the world that it began in is gone", || began_in.upgrade().is_none());
    assert!(shadow.arrived().is_empty());
    client.stream.write_all(b"rest").unwrap();
    assert_eq!(wait_for(&shadow, 1)[0].body, b"beginrest", "its copy goes by the world that there is now");
}

#[test]
fn copies_without_a_place_are_left_out_and_counted() {
    let (answered, wait) = std::sync::mpsc::sync_channel::<()>(0);
    let wait = std::sync::Mutex::new(wait);
    let shadow = Backend::scripted(move |_: &Arrived| {
        let _answered_last = wait.lock().unwrap().recv_timeout(PATIENCE);
        ok("v2")
    });
    // A copy waits for as long as the route does.
    let (world, called, shadow) = mirrored("mirror: {host: reviews, subset: v2}\n    timeout: 10m", "", shadow);
    let places = crate::proxy::outbound::Mirrors::COPIES;
    let mut client = Client::connect(world.nodes[0].outbound);
    let mut ask = || client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().body;
    (0..places).for_each(|_| assert_eq!(ask(), "v1"));
    eventually("all places are taken", || shadow.arrived().len() == places);
    assert_eq!(ask(), "v1");
    let skipped = "skein_mirrored_requests_skipped_total{reason=\"full\"} 1";
    eventually("the next one is left out", || world.metrics(0).contains(skipped));
    assert_eq!((called.arrived().len(), shadow.arrived().len()), (places + 1, places));
    drop(answered);
}

#[test]
fn of_a_mirrors_answer_only_the_beginning_is_read() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let shadow = std::thread::spawn(move || {
        let mut stream = Buffered::new(listener.accept().unwrap().0);
        stream.head().unwrap();
        stream.stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
        stream.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        loop {
            if let Err(error) = stream.stream.write_all(chunk.as_bytes()) {
                return error.kind();
            }
        }
    });
    let called = Backend::named("v1");
    let mut world = World::new(
        2,
        vec![
            Entry::new(1, "reviews", "v1", &called),
            Entry::at(1, "ratings", "v1", target, crate::config::Protocol::Http),
        ],
    );
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [reviews]\n  \
         http: [{route: [{destination: {host: reviews}}], mirror: {host: ratings}, timeout: 10m}]\n",
    );
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").body, "v1");
    let kind = shadow.join().unwrap();
    assert!(!matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{kind:?}");
}
