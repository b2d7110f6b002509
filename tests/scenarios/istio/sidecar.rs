//! What Istio's simulator asks of a sidecar, from outside: what a call reaches is told by the application's answer, and the cluster and the rule
//! by the access log of the caller's node.
//!
//! An address of the simulator stands for a service; here that is a port that leads to one port of the service, as its own loopback address
//! does. What has no address there is asked by its name at the proxy port.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use harness::{
    bytes,
    cluster::{Cluster, Plan, Service},
    eventually, http, simulation,
    simulation::{Asked, Call, Case, Expected},
};
use serde_json::Value;

use super::{files, text};
use crate::skein;

/// Ports of the Services that the cases' objects describe, by what Istio takes from their names.
const PORTS: [(u16, &str); 5] = [(80, "http"), (81, "auto"), (82, "tcp"), (83, "tls"), (84, "https")];
/// The Services, as callers name them; an alias of one is none here.
const SERVICES: [&str; 2] = ["concrete", "headless"];
/// Cases of which Istio's test makes the calls by a program, whose service they reach and by which name they ask for it.
const MADE: [(&str, &str, &str); 2] =
    [("sidecar-externalnameservices-01", "concrete", "alias"), ("sidecar-headlessservices-01", "headless", "headless")];
/// The ports of a sidecar itself, and what the ready line calls a node's.
const OWN: [(u16, &str); 2] = [(15001, "capture"), (15006, "capture_inbound")];
const CALLER: &str = "caller";

/// An application that takes whatever comes: it answers a request with its name, and sends all else back behind it.
fn application(name: String) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let name = name.clone();
            std::thread::spawn(move || answer(stream, &name));
        }
    });
    address
}

fn answer(mut stream: TcpStream, name: &str) {
    let (mut came, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(length) => came.extend_from_slice(&chunk[..length]),
        }
        if !came.starts_with(b"GET ") {
            came.splice(0..0, format!("{name}\n").into_bytes());
            break;
        }
        if came.ends_with(b"\r\n\r\n") {
            came =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{name}", name.len()).into();
            break;
        }
    }
    drop(stream.write_all(&came));
}

fn start() -> Cluster {
    let ports = || SERVICES.iter().flat_map(|name| PORTS.map(|(port, protocol)| (*name, port, protocol)));
    let upstream = |(name, port, _): (&str, u16, &str)| {
        format!(
            "[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"default/{name}\"\nport = {port}\nas = \"default/a\"\n"
        )
    };
    let own = "[capture]\nport = 0\ninbound_port = 0\nas = \"default/a\"\n";
    let extra = ports().map(upstream).chain([own.to_owned()]).collect();
    let caller = Plan { extra, ..Plan::with([Service::client("default/a")]) };
    let service = |(name, port, protocol): (&str, u16, &str)| Service {
        instance: protocol.to_owned(),
        ports: vec![port],
        protocol: protocol.to_owned(),
        target: Some(application(format!("{name} {port}"))),
        ..Service::version(&format!("default/{name}"), "v1")
    };
    let cluster = Cluster::start(skein(), &[(CALLER, caller), ("servers", Plan::with(ports().map(service)))]);
    cluster.wait_members(harness::PATIENCE);
    SERVICES.iter().for_each(|name| cluster.wait_endpoints(&format!("default/{name}"), PORTS.len()));
    let logged = "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {accessLogFile: /dev/stdout, accessLogEncoding: JSON}\n";
    cluster.push(CALLER, logged, &["--wait", "all"]).expect_code(0);
    cluster
}

/// The calls that Istio's test makes: every port by all that it may carry.
fn made(to: &str, asked: &str) -> Vec<Asked> {
    let full = format!("{asked}.default.svc.cluster.local");
    let short = format!("{asked}.default");
    let calls = [
        (80, "HTTP", "", &full),
        (81, "HTTP", "", &full),
        (81, "HTTP", "TLS", &full),
        (81, "TCP", "", &full),
        (82, "TCP", "", &full),
        (83, "TCP", "TLS", &short),
        (84, "HTTP", "TLS", &short),
    ];
    let call = |(port, protocol, tls, host): (u16, &str, &str, &String)| Asked {
        name: format!("{protocol} {tls} {port}"),
        call: Call {
            address: "1.2.3.4".to_owned(),
            port,
            protocol: protocol.to_owned(),
            tls: tls.to_owned(),
            host_header: host.clone(),
            ..Call::default()
        },
        expect: Expected {
            cluster_matched: Some(format!("outbound|{port}||{to}.default.svc.cluster.local")),
            ..Expected::default()
        },
    };
    calls.map(call).into()
}

#[test]
fn what_istio_simulates_of_a_sidecar_holds() {
    let Some(files) = files("simulation") else { return };
    let cluster = start();
    let mut ran = 0;
    for name in simulation::AT_PORTS {
        let case: Case = serde_saphyr::from_str(&text(&files[*name])).expect(name);
        // Istio's test reads documents without their schema, by which a rule of bytes has no name.
        let config = case.config.replace("- name: \"route1\"\n    route:", "- route:");
        let pushed = config.contains("kind:").then(|| super::edge::push(&cluster, CALLER, name, &config));
        let of = MADE.iter().find(|(of, _, _)| of == name);
        let calls = of.map_or(case.calls, |(_, to, asked)| made(to, asked));
        assert!(!calls.is_empty(), "{name}");
        for asked in &calls {
            assert!(simulation::left_out(name, &asked.name).is_none());
            match OWN.iter().find(|(port, _)| *port == asked.call.port) {
                Some((_, own)) => goes_nowhere(cluster.node(CALLER).address(own), name, asked),
                None => reaches(&cluster, name, asked),
            }
            ran += 1;
        }
        if let Some(pushed) = pushed {
            super::edge::take_back(&cluster, CALLER, &pushed);
        }
    }
    println!("{ran} calls of {} simulations of sidecars ran", simulation::AT_PORTS.len());
}

/// Who calls a port for captured connections itself is brought nowhere, and in no circle.
fn goes_nowhere(port: SocketAddr, name: &str, Asked { call, expect, .. }: &Asked) {
    assert_eq!(expect.cluster_matched.as_deref(), Some("BlackHoleCluster"), "{name}: {call:?}");
    let said = bytes::say(port, "hello");
    assert!(said.is_err(), "{name}: {call:?}: {said:?}");
}

fn reaches(cluster: &Cluster, name: &str, Asked { call, expect, .. }: &Asked) {
    let matched = expect.cluster_matched.as_deref().expect("a cluster");
    let [_, port, _, host] = matched.split('|').collect::<Vec<_>>()[..] else { panic!("{name}: {matched}") };
    let service = host.split('.').next().expect("a name");
    let node = cluster.node(CALLER);
    let before = node.output().len();
    let rule = expect.route_matched.as_deref();
    // A rule of a name that is no service is found by the name.
    let via = match rule {
        None | Some("default") => node.upstream(&format!("default/{service}"), call.port),
        Some(_) => node.outbound(),
    };
    let answer = match (call.server_name(), call.protocol.as_str()) {
        (Some(asked), _) => said_back(via, &bytes::client_hello(asked, &[])),
        (None, "HTTP") => http::get(via, &call.host_header, call.path()).expect("an answer").text(),
        (None, _) => said_back(via, b"hello"),
    };
    assert_eq!(answer, format!("{service} {port}"), "{name}: {call:?}");
    let line: Value = eventually("its line", || match node.output().get(before..) {
        Some([line]) => serde_json::from_str(line).map_err(|error| error.to_string()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(line["upstream_cluster"], matched, "{name}: {call:?}: {line}");
    if let Some(rule) = rule {
        assert_eq!(line["route_name"], rule, "{name}: {call:?}: {line}");
    }
}

/// The name of the application that sent back what it was told.
fn said_back(via: SocketAddr, said: &[u8]) -> String {
    let mut stream = bytes::connect(via).expect("it listens");
    let mut answer = Vec::new();
    stream.write_all(said).and_then(|()| stream.read_to_end(&mut answer)).expect("an answer");
    let name = answer.strip_suffix(said).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&answer)));
    String::from_utf8_lossy(name).trim_end().to_owned()
}
