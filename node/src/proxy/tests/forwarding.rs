//! Requests find their way, over the mesh and on one node, and failures are hidden or told as Envoy tells them.

use super::{
    backend::{Arrived, Backend, Buffered, ok},
    client::{Client, eventually, get, with},
    world::{Entry, World},
};
use crate::{config::Protocol, mesh::Transport, proxy::ApplyError};
use std::{
    collections::BTreeMap,
    io::Write,
    net::TcpListener,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn a_request_reaches_an_endpoint_on_another_node() {
    let backend = Backend::named("v1");
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let answer = get(world.nodes[0].outbound, "reviews:9080", "/x?y=z");
    assert_eq!((answer.status, answer.body.as_str()), (200, "v1"));
    let arrived = backend.last();
    assert_eq!(arrived.line(), "GET /x?y=z HTTP/1.1");
    assert_eq!(arrived.header("host"), Some("reviews:9080"));
    assert_eq!(arrived.header("x-envoy-attempt-count"), Some("1"));
    assert_eq!(arrived.header("x-forwarded-proto"), Some("http"));
    assert_eq!(arrived.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(arrived.header("x-request-id").map(str::len), Some(36));
    let identity = "spiffe://test.example/ns/default/sa";
    let shown = arrived.header("x-forwarded-client-cert").unwrap();
    let hash = shown.strip_prefix(&format!("By={identity}/reviews;Hash=")).unwrap();
    let (hash, rest) = hash.split_once(';').unwrap();
    assert!(
        hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "SHA-256 of the certificate: {shown}"
    );
    assert_eq!(rest, format!("Subject=\"\";URI={identity}/web"));
}

#[test]
fn a_request_reaches_an_endpoint_on_this_node_through_the_same_door() {
    let backend = Backend::named("here");
    let world = World::new(1, vec![Entry::new(0, "reviews", "v1", &backend)]);
    let answer = get(world.nodes[0].outbound, "reviews", "/");
    assert_eq!((answer.status, answer.body.as_str()), (200, "here"));
    assert!(
        backend
            .last()
            .header("x-forwarded-client-cert")
            .unwrap()
            .ends_with("URI=spiffe://test.example/ns/default/sa/web")
    );
    let metrics = world.metrics(0);
    assert!(metrics.contains("reporter=\"source\"") && metrics.contains("reporter=\"destination\""));
}

#[test]
fn every_form_of_the_name_reaches_the_service() {
    let backend = Backend::named("v1");
    let world = World::new(1, vec![Entry::new(0, "reviews", "v1", &backend)]);
    for host in [
        "reviews",
        "REVIEWS:9080",
        "reviews.default",
        "reviews.default.svc",
        "reviews.default.svc.cluster.local:9080",
        "reviews.default.mesh",
    ] {
        assert_eq!(get(world.nodes[0].outbound, host, "/").status, 200, "{host}");
        assert_eq!(backend.last().header("host"), Some(host), "the Host is forwarded as sent");
    }
    let absolute = "GET http://reviews:9080/x HTTP/1.1\r\nHost: reviews:9080\r\n\r\n";
    let answer = Client::connect(world.nodes[0].outbound).ask(absolute).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(backend.last().line(), "GET /x HTTP/1.1");
}

#[test]
fn an_explicit_port_leads_to_its_service_whatever_the_host() {
    let backend = Backend::named("v1");
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let answer = get(world.nodes[0].upstream, "localhost:7", "/");
    assert_eq!((answer.status, answer.body.as_str()), (200, "v1"));
    assert_eq!(backend.last().header("host"), Some("localhost:7"));
}

#[test]
fn bodies_stream_both_ways_on_kept_connections() {
    let backend =
        Backend::scripted(|arrived| ok(&format!("{}", arrived.body.iter().map(|b| u64::from(*b)).sum::<u64>())));
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let mut client = Client::connect(world.nodes[0].outbound);
    for size in [0, 1, 5_000, 100_000, 5_000_000] {
        client.write(format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {size}\r\n\r\n"));
        client.write(vec![1; size]);
        let answer = client.answer(false).unwrap();
        assert_eq!((answer.status, answer.body), (200, size.to_string()));
    }
    let chunked = "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\x01\x01\x01\r\n2\r\n\x01\x01\r\n0\r\n\r\n";
    assert_eq!(client.ask(chunked).unwrap().body, "5");
    assert_eq!(backend.arrived().iter().map(|arrived| arrived.connection).max(), Some(0), "one connection was reused");
}

#[test]
fn large_and_chunked_responses_arrive_whole() {
    let backend = Backend::scripted(|arrived| {
        if arrived.line().contains("chunked") {
            let chunk = "b".repeat(70_000);
            let size = chunk.len();
            return format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{chunk}\r\n0\r\n\r\n")
                .into();
        }
        ok(&"a".repeat(3_000_000))
    });
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let mut client = Client::connect(world.nodes[0].outbound);
    for _ in 0..2 {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().body.len(), 3_000_000);
        assert_eq!(client.ask("GET /chunked HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().body.len(), 70_000);
    }
}

#[test]
fn a_closed_node_is_hidden_by_retries() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let mut world = World::new(3, vec![Entry::new(1, "reviews", "v1", &one), Entry::new(2, "reviews", "v2", &two)]);
    let both: Vec<_> = (0..20).map(|_| get(world.nodes[0].outbound, "reviews", "/").body).collect();
    assert!(both.contains(&"one".to_owned()) && both.contains(&"two".to_owned()));
    world.kill(1);
    for _ in 0..20 {
        let answer = get(world.nodes[0].outbound, "reviews", "/");
        assert_eq!((answer.status, answer.body.as_str()), (200, "two"));
    }
    let failed = world.nodes[0].failures.try_recv().expect("the agent is told");
    assert_eq!(failed, world.nodes[1].id);
}

#[test]
fn a_dead_application_is_hidden_by_retries_even_for_posts() {
    let live = Backend::named("live");
    let mut gone = Entry::new(1, "reviews", "v1", &live);
    gone.target = NOBODY.parse().unwrap();
    let world = World::new(3, vec![gone, Entry::new(2, "reviews", "v2", &live)]);
    for _ in 0..20 {
        let mut client = Client::connect(world.nodes[0].outbound);
        let answer = client.ask("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "live"));
    }
    assert!(live.arrived().iter().all(|arrived| arrived.body == b"hello"));
    assert!(live.arrived().iter().any(|arrived| arrived.header("x-envoy-attempt-count") == Some("2")));
}

#[test]
fn a_reset_is_retried_for_get_and_told_for_post() {
    let backend =
        Backend::scripted(
            |arrived| {
                if arrived.header("x-envoy-attempt-count") == Some("1") { Vec::new() } else { ok("second") }
            },
        );
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").body, "second");
    let post = "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 1\r\n\r\nx";
    let answer = Client::connect(world.nodes[0].outbound).ask(post).unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body,
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
    );
    assert_eq!(answer.header("x-skein-outcome"), None, "what nodes tell each other stays between them");
    assert!(world.metrics(0).contains("response_flags=\"UC\""));
}

#[test]
fn an_answer_that_breaks_off_is_a_failure_on_both_sides() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (target, (cut, cuts)) = (listener.local_addr().unwrap(), mpsc::sync_channel::<()>(2));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = Buffered::new(stream.unwrap());
            stream.head().unwrap();
            stream.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").unwrap();
            cuts.recv().unwrap();
        }
    });
    for nodes in [1, 2] {
        let world = World::new(nodes, vec![Entry::at(nodes - 1, "reviews", "v1", target, Protocol::Http)]);
        let mut client = Client::connect(world.nodes[0].outbound);
        client.write("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
        assert!(client.wait_for("half"));
        cut.send(()).unwrap();
        assert!(client.ended(), "its caller sees it break off");
        for node in [0, nodes - 1] {
            eventually("pages tell of it", || {
                let pairs = world.nodes[node].telemetry.exchanged().pairs;
                !pairs.is_empty() && pairs.iter().all(|pair| pair.failures.get("200 UC") == Some(&1))
            });
        }
    }
}

#[test]
fn an_unreachable_application_is_told_when_retries_are_used_up() {
    let mut gone = Entry::new(1, "reviews", "v1", &Backend::named(""));
    gone.target = NOBODY.parse().unwrap();
    let world = World::new(2, vec![gone]);
    let answer = get(world.nodes[0].outbound, "reviews", "/");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("remote connection failure"), "{}", answer.body);
    assert!(world.metrics(0).contains("response_flags=\"UF,URX\""));
    assert!(world.metrics(1).contains("response_flags=\"UF\""));
}

#[test]
fn unknown_names_and_unhealthy_endpoints_are_told_as_envoy_tells_them() {
    let backend = Backend::named("v1");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let answer = get(world.nodes[0].outbound, "nobody", "/");
    assert_eq!((answer.status, answer.body.as_str()), (404, ""));
    assert_eq!(get(world.nodes[0].outbound, "reviews:81", "/").status, 404);
    world.register(|entries| entries[0].healthy = false);
    let answer = get(world.nodes[0].outbound, "reviews", "/");
    assert_eq!((answer.status, answer.body.as_str()), (503, "no healthy upstream"));
    let metrics = world.metrics(0);
    assert!(metrics.contains("response_flags=\"NR\"") && metrics.contains("response_flags=\"UH\""));
    let grpc = with(world.nodes[0].outbound, "reviews", "/", "Content-Type: application/grpc\r\n");
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")));
}

#[test]
fn a_service_that_moved_away_is_looked_for_elsewhere() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let mut world = World::new(3, vec![Entry::new(2, "reviews", "v2", &two)]);
    // The registry speaks of an endpoint that node 1 does not serve.
    world.register(|entries| entries.push(Entry::new(1, "reviews", "v1", &one)));
    for _ in 0..10 {
        assert_eq!(get(world.nodes[0].outbound, "reviews", "/").body, "two");
    }
    assert!(one.arrived().is_empty());
}

#[test]
fn load_spreads_over_endpoints_by_weight() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let mut heavy = Entry::new(1, "reviews", "v1", &one);
    heavy.weight = 3;
    let world = World::new(2, vec![heavy, Entry::new(1, "reviews", "v2", &two)]);
    let mut client = Client::connect(world.nodes[0].outbound);
    let mut counts = BTreeMap::new();
    for _ in 0..400 {
        *counts.entry(client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().body).or_insert(0) += 1;
    }
    assert!((250..350).contains(&counts["one"]), "{counts:?}");
}

#[test]
fn requests_travel_over_tls_on_tcp_too() {
    let backend = Backend::named("v1");
    let world = World::over(Transport::Tcp, 2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let mut client = Client::connect(world.nodes[0].outbound);
    for _ in 0..20 {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().body, "v1");
    }
}

#[test]
fn a_node_that_announces_its_end_fails_no_request() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let mut world = World::new(3, vec![Entry::new(1, "reviews", "v1", &one), Entry::new(2, "reviews", "v2", &two)]);
    let outbound = world.nodes[0].outbound;
    let callers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(outbound);
                let post = "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 2\r\n\r\nhi";
                (0..500).filter(|_| client.ask(post).is_none_or(|answer| answer.status != 200)).count()
            })
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(50));
    world.register(|entries| entries.retain(|entry| entry.node != 1));
    std::thread::sleep(std::time::Duration::from_millis(50));
    world.stop(1);
    let failed: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    assert_eq!(failed, 0, "of 2000");
    assert!(one.arrived().len() < 1000 && two.arrived().len() > 1000);
}

#[test]
fn nodes_that_stop_unannounced_fail_no_request_either() {
    let backends: Vec<Backend> = (1..=3).map(|_| Backend::named("one")).collect();
    let entries = (1..).zip(&backends).map(|(node, backend)| Entry::new(node, "reviews", "v1", backend)).collect();
    let world = World::new(4, entries);
    let outbound = world.nodes[0].outbound;
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(outbound);
                    let post = "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 2\r\n\r\nhi";
                    let mut statuses = Vec::new();
                    while !end.load(Ordering::Relaxed) {
                        statuses.push(client.ask(post).map(|answer| answer.status));
                    }
                    statuses
                })
            })
            .collect();
        for node in 1..=2 {
            let before = backends[node - 1].arrived().len();
            while backends[node - 1].arrived().len() < before + 50 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            world.stop(node);
        }
        end.store(true, Ordering::Relaxed);
        for caller in callers {
            let statuses = caller.join().unwrap();
            assert!(statuses.iter().all(|status| *status == Some(200)), "{statuses:?}");
        }
    });
}

#[test]
fn a_draining_data_plane_finishes_what_it_began() {
    let backend = Backend::scripted(|_| {
        std::thread::sleep(std::time::Duration::from_millis(300));
        ok("late")
    });
    let world = World::new(1, vec![Entry::new(0, "reviews", "v1", &backend)]);
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    eventually("it arrives", || backend.arrived().len() == 1);
    world.nodes[0].plane.drain();
    assert_eq!(client.answer(false).unwrap().body, "late");
    assert!(client.is_closed());
    assert!(std::net::TcpStream::connect(world.nodes[0].outbound).is_err());
}

#[test]
fn a_caller_that_goes_away_is_counted_and_leaves_nothing_behind() {
    let backend = Backend::scripted(|_| {
        std::thread::sleep(std::time::Duration::from_millis(500));
        ok("late")
    });
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    eventually("it arrives", || backend.arrived().len() == 1);
    drop(client);
    let gone = "response_code=\"0\",grpc_response_status=\"\",response_flags=\"DC\"";
    eventually("it is counted, and gone", || {
        let metrics = world.metrics(0);
        metrics.contains(gone) && metrics.contains("skein_application_connections 0")
    });
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200);
}

#[test]
fn both_reporters_know_both_sides() {
    let backend = Backend::named("v1");
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    get(world.nodes[0].outbound, "reviews", "/");
    for (node, reporter, security) in [(0, "source", "unknown"), (1, "destination", "mutual_tls")] {
        let metrics = world.metrics(node);
        let line =
            metrics.lines().find(|line| line.starts_with("istio_requests_total")).expect("one series").to_owned();
        assert_eq!(
            line,
            format!(
                "istio_requests_total{{reporter=\"{reporter}\",source_workload=\"web-v1\",\
                 source_workload_namespace=\"default\",source_principal=\"spiffe://test.example/ns/default/sa/web\",\
                 source_app=\"web\",source_version=\"v1\",source_cluster=\"test.example\",\
                 source_canonical_service=\"web\",source_canonical_revision=\"v1\",\
                 destination_workload=\"reviews-v1\",destination_workload_namespace=\"default\",\
                 destination_principal=\"spiffe://test.example/ns/default/sa/reviews\",destination_app=\"reviews\",\
                 destination_version=\"v1\",destination_cluster=\"test.example\",\
                 destination_service=\"reviews.default.svc.cluster.local\",destination_service_name=\"reviews\",\
                 destination_service_namespace=\"default\",destination_canonical_service=\"reviews\",\
                 destination_canonical_revision=\"v1\",request_protocol=\"http\",response_code=\"200\",\
                 grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"{security}\"}} 1"
            )
        );
    }
}

#[test]
fn a_new_configuration_moves_listeners_and_a_bad_one_changes_nothing() {
    let backend = Backend::named("v1");
    let world = World::new(1, vec![Entry::new(0, "reviews", "v1", &backend)]);
    let old = world.nodes[0].outbound;
    // Of an address where nobody else looks for a port.
    let occupied = std::net::TcpListener::bind("127.20.0.4:0").unwrap();
    let taken = occupied.local_addr().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    assert!(matches!(world.configure(0, &[(taken, "web")]), Err(ApplyError::Listen { .. })));
    assert!(matches!(world.configure(0, &[(any, "nobody")]), Err(ApplyError::UnknownSpeaker { .. })));
    assert_eq!(get(old, "reviews", "/").status, 200);
    drop(occupied);
    let mut kept = Client::connect(old);
    assert_eq!(kept.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().status, 200);
    let bound = world.configure(0, &[(taken, "web")]).unwrap();
    assert_eq!(bound.outbounds[0].0, taken);
    assert_eq!(get(taken, "reviews", "/").status, 200);
    assert_eq!(kept.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().status, 200, "open connections go on");
    eventually("the old one is shut", || std::net::TcpStream::connect(old).is_err());
}

#[test]
fn a_request_with_a_body_becomes_no_tunnel() {
    let backend = Backend::scripted(|arrived: &Arrived| match arrived.header("upgrade") {
        Some(_) => b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        None => ok("plain"),
    });
    for nodes in [2, 1] {
        let world = World::new(nodes, vec![Entry::new(nodes - 1, "reviews", "v1", &backend)]);
        let mut client = Client::connect(world.nodes[0].outbound);
        let asked = "GET / HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\nbody";
        for _ in 0..2 {
            assert_eq!(client.ask(asked).expect("an answer").body, "plain");
        }
    }
}

#[test]
fn what_routes_write_of_clients_is_believed_of_gateways_only() {
    let backend = Backend::named("v1");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec: {hosts: [reviews], http: [{headers: {request: {set: {x-real-ip: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%', forwarded: for=a, x-forwarded-for: 10.9.9.9}}}, route: [{destination: {host: reviews}}]}]}\n",
    );
    let told = |world: &World| {
        let forged = "x-real-ip: 10.1.1.1\r\nforwarded: for=b\r\n";
        assert_eq!(with(world.nodes[0].outbound, "reviews", "/", forged).status, 200);
        let arrived = backend.last();
        ["x-real-ip", "forwarded", "x-forwarded-for"].map(|name| arrived.header(name).map(str::to_owned))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(told(&world), [None, None, some("127.0.0.1")], "any caller could write it");
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {app: web}, servers: [{port: {number: 9999, name: http, protocol: HTTP}, hosts: ['a.example']}]}\n",
    );
    assert_eq!(told(&world), [some("127.0.0.1"), some("for=a"), some("10.9.9.9")]);
}

#[test]
fn a_body_that_is_too_long_or_in_too_many_pieces_is_not_tried_again() {
    let backend = Backend::scripted(|arrived: &Arrived| {
        if arrived.header("x-envoy-attempt-count") == Some("1") {
            return Vec::new();
        }
        ok(&arrived.body.len().to_string())
    });
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec: {hosts: [reviews], http: [{retries: {attempts: 1, retryOn: reset}, route: [{destination: {host: reviews}}]}]}\n",
    );
    let post = |pieces: usize| {
        let chunks = "1\r\nx\r\n".repeat(pieces);
        let head = "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = Client::connect(world.nodes[0].outbound).ask(format!("{head}{chunks}0\r\n\r\n")).unwrap();
        (answer.status, answer.body)
    };
    assert_eq!(post(1_024), (200, "1024".to_owned()));
    assert_eq!(post(1_025).0, 503);
    let post = |bytes: usize| {
        let head = format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {bytes}\r\n\r\n");
        let body = "x".repeat(bytes);
        let answer = Client::connect(world.nodes[0].outbound).ask(head + &body).unwrap();
        (answer.status, answer.body)
    };
    assert_eq!(post(64 * 1024), (200, "65536".to_owned()));
    assert_eq!(post(64 * 1024 + 1).0, 503, "nor one that is too long");
}
