//! What Istio's simulator and its scenarios ask of connections that are captured: by the address that was dialled, by the server name there,
//! and on to where they meant to go. What a call reaches sends back what it is told; its cluster is told by the node's access log.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use super::{
    capture, nothing_is_left, on,
    place::{HERE_V6, OUTSIDE, OUTSIDE_V6, Place, as_user, curl, said, within},
};
use harness::{
    PATIENCE, bytes,
    cluster::{Cluster, Plan, Service},
    eventually,
    process::Skein,
    simulation::{self, Asked, Call, Case, Expected},
};
use serde_json::Value;

/// Where the machine outside sends everything back, whatever was dialled of [`ANYWHERE`] and of [`NETWORK`].
const BACK: u16 = 9998;
/// An address of nobody in particular: Istio's calls that name none.
pub(super) const ANYWHERE: &str = "1.3.3.7";
/// Where the networks of its ServiceEntries lie.
const NETWORK: &str = "1234::/16";
/// Sends back what comes first and ends.
const ECHO: &str = r#"
import socket, socketserver, sys
class Back(socketserver.BaseRequestHandler):
    def handle(self): self.request.sendall(self.request.recv(65536))
class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6; allow_reuse_address = True; daemon_threads = True; request_queue_size = 128
server = Server(("::", int(sys.argv[1])), Back)
print("ready", flush=True); server.serve_forever()
"#;
/// Says bytes to an address and prints all that comes back, both in hexadecimal.
const SAY: &str = r#"
import socket, sys
try:
    stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20); stream.settimeout(20)
    stream.sendall(bytes.fromhex(sys.argv[3])); came = b""
    while more := stream.recv(65536): came += more
except ConnectionError: came = b""
print(came.hex())
"#;

/// Ports of the ServiceEntry whose calls Istio's test makes by a program.
const PORTS: std::ops::RangeInclusive<u16> = 80..=86;
/// Those of requests among them, and the one that declares nothing.
const OF_REQUESTS: [u16; 3] = [80, 85, 86];
const UNDECLARED: u16 = 81;
const TCP: u16 = 82;

/// What is served to whom is outside.
pub(super) struct Outside(Child);

impl Outside {
    pub(super) fn start(place: &Place) -> Self {
        let to_network = ["-6", "route", "add", NETWORK, "via", OUTSIDE_V6];
        said(Command::new("ip").args(to_network)).expect("a route");
        said(place.outside("ip").args(["-6", "route", "add", "default", "via", HERE_V6])).expect("a route back");
        let rules = format!(
            "table inet back {{ chain in {{ type nat hook prerouting priority dstnat; ip daddr {ANYWHERE} meta l4proto tcp redirect to :{BACK}; ip6 daddr {NETWORK} meta l4proto tcp redirect to :{BACK}; }}; }}"
        );
        said(place.outside("nft").arg(rules)).expect("rules of the machine outside");
        let mut echo = place.outside("/usr/bin/python3");
        let echo = echo.args(["-c", ECHO, &BACK.to_string()]).stdout(Stdio::null()).spawn().expect("python3");
        let outside = Self(echo);
        eventually("it sends back", || match told(ANYWHERE, 80, b"hello") {
            back if back == b"hello" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        outside
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All that comes back to the captured user who says this.
fn told(address: &str, port: u16, words: &[u8]) -> Vec<u8> {
    let hex: String = words.iter().map(|byte| format!("{byte:02x}")).collect();
    let came = as_user("/usr/bin/python3", &["-c", SAY, address, &port.to_string(), &hex]).expect("python3");
    let digits = came.trim().as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("digits"));
    digits.map(|two| u8::from_str_radix(two, 16).expect("a byte")).collect()
}

/// A mesh of one node, whose applications' connections are captured in the name of `caller`.
pub(super) fn captured(caller: &str) -> Cluster {
    let extra = format!("[capture]\nport = 0\nas = \"{caller}\"\n");
    let plan = Plan { extra, ..Plan::with([Service::client(caller)]) };
    let cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), &[("web", plan)]);
    cluster.wait_members(PATIENCE);
    cluster
}

pub(super) fn config(mode: &str) -> String {
    format!(
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{accessLogFile: /dev/stdout, accessLogEncoding: JSON, outboundTrafficPolicy: {{mode: {mode}}}}}\n"
    )
}

#[expect(clippy::print_stdout, reason = "whoever runs the tests must see that nothing was checked")]
fn text(folder: &str, name: &str) -> Option<String> {
    let root = harness::corpus::root();
    if root.is_none() {
        println!("skipped: shared/istio/corpus is not beside the workspace (set SKEIN_CORPUS)");
    }
    Some(fs::read_to_string(root?.join(folder).join(format!("{name}.yaml"))).expect(name))
}

/// The calls that Istio's test makes: at every port what speaks HTTP, TLS and neither, none of it meant for the ServiceEntry.
fn made() -> Vec<Asked> {
    let call = |port: u16, (protocol, tls): (&str, &str)| Asked {
        name: format!("{protocol} {tls} {port}"),
        call: Call {
            port,
            protocol: protocol.to_owned(),
            tls: tls.to_owned(),
            host_header: "foo".to_owned(),
            ..Call::default()
        },
        expect: Expected::default(),
    };
    let spoken = [("HTTP", ""), ("HTTP", "TLS"), ("HTTP/1.1", "TLS"), ("TCP", ""), ("HTTP2", "TLS")];
    PORTS.flat_map(|port| spoken.map(|spoken| call(port, spoken))).collect()
}

/// Without an address the ServiceEntry takes all of its TCP port, and Istio's test asks nothing of that.
fn is_asked(name: &str, call: &Call) -> bool {
    let takes_all = call.port == TCP || call.port == UNDECLARED && call.protocol == "TCP";
    name != "sidecar-passthroughtraffic-02" || !takes_all
}

/// What a client of a call says first. The end of the connection ends the answer: a node that answers by itself would keep it open.
fn first_words(call: &Call) -> Vec<u8> {
    let protocols: &[&str] = match call.protocol.as_str() {
        "HTTP2" => &["h2"],
        "HTTP/1.1" => &["http/1.1"],
        _ => &[],
    };
    match (call.server_name(), call.protocol.as_str()) {
        (Some(name), _) => bytes::client_hello(name, protocols),
        (None, "HTTP") => {
            let (path, host) = (call.path(), &call.host_header);
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").into_bytes()
        }
        (None, _) => b"hello".to_vec(),
    }
}

/// The cluster of the connection that is asked now, and what came back.
pub(super) fn asked(cluster: &Cluster, name: &str, call: &Call) -> (Value, Vec<u8>, Vec<u8>) {
    let before = cluster.node("web").output().len();
    let words = first_words(call);
    let address = if call.address.is_empty() { ANYWHERE } else { &call.address };
    let back = told(address, call.port, &words);
    let line: Value =
        eventually(&format!("{name}: a line about {call:?}"), || match cluster.node("web").output().get(before..) {
            Some([line]) => serde_json::from_str(line).map_err(|error| error.to_string()),
            other => Err(format!("{other:?}")),
        });
    (line["upstream_cluster"].clone(), words, back)
}

#[test]
#[ignore = "needs root and nftables"]
fn what_istio_simulates_of_captured_connections_holds() {
    within("simulation::what_istio_simulates_of_captured_connections_holds", |place| {
        let Some(_) = text("simulation", simulation::CAPTURED[0]) else { return };
        let cluster = captured("shop/web");
        let _outside = Outside::start(place);
        on(&cluster);
        let (mut ran, mut left_out) = (0, 0);
        for name in simulation::CAPTURED {
            let case: Case = serde_saphyr::from_str(&text("simulation", name).expect("it is there")).expect(name);
            for mode in ["ALLOW_ANY", "REGISTRY_ONLY"] {
                let documents = format!("{}---\n{}", case.config, config(mode));
                let pushed = cluster.push("web", &documents, &["--wait", "all"]).expect_code(0).json();
                for Asked { call, expect, .. } in &case.calls {
                    follows(&cluster, name, mode, call, expect);
                    ran += 1;
                }
                let generated = if case.calls.is_empty() { made() } else { Vec::new() };
                for Asked { call, .. } in &generated {
                    if is_asked(name, call) {
                        passes(&cluster, name, mode, call);
                        ran += 1;
                    } else {
                        left_out += 1;
                    }
                }
                for document in pushed["documents"].as_array().into_iter().flatten() {
                    let field = |field: &str| document[field].as_str().unwrap_or_default();
                    let words = ["policy", "delete", field("kind"), field("name"), "-n", field("namespace")];
                    cluster.on("web", &[&words[..], &["--wait", "all"]].concat()).expect_code(0);
                }
            }
        }
        println!(
            "{ran} calls of {} simulations of captured connections ran; {left_out} were left out, of which Istio's test asks nothing",
            simulation::CAPTURED.len()
        );
        capture(&cluster, &["off", "--now"]).expect_code(0);
        nothing_is_left();
    });
}

/// A call whose cluster the case names. Where nothing may leave the mesh, what Istio passes on is refused.
fn follows(cluster: &Cluster, name: &str, mode: &str, call: &Call, expect: &Expected) {
    let matched = expect.cluster_matched.as_deref().expect("a cluster");
    let refused = mode == "REGISTRY_ONLY" && matched == "PassthroughCluster";
    let (found, words, back) = asked(cluster, name, call);
    assert_eq!(found, if refused { "BlackHoleCluster" } else { matched }, "{name}: {mode}: {call:?}");
    assert_eq!(back == words, !refused, "{name}: {mode}: {call:?}: {back:?}");
}

/// A call that no document means: it goes where it meant to go, or nowhere. A request is told so where ports are of requests.
fn passes(cluster: &Cluster, name: &str, mode: &str, call: &Call) {
    let (found, words, back) = asked(cluster, name, call);
    if mode == "ALLOW_ANY" {
        assert_eq!(found, "PassthroughCluster", "{name}: {call:?}");
        return assert_eq!(back, words, "{name}: {call:?}");
    }
    let is_told = back.starts_with(b"HTTP/1.1 502 ");
    assert!(is_told || found == "BlackHoleCluster" && back.is_empty(), "{name}: {call:?}: {found} {back:?}");
    if call.protocol == "HTTP" && call.tls.is_empty() && OF_REQUESTS.contains(&call.port) {
        assert!(is_told, "{name}: {call:?}: {back:?}");
    }
}

/// Scenarios that have a namespace without proxies: who is in the mesh calls who is not, whatever the mesh asks of its own.
#[test]
#[ignore = "needs root and nftables"]
fn what_istio_promises_of_servers_without_a_proxy_holds() {
    within("simulation::what_istio_promises_of_servers_without_a_proxy_holds", |_| {
        let scenarios = ["mtls-mesh-strict", "mtls-port-disable", "mtls-workload-strict"];
        let Some(texts) = scenarios.iter().map(|name| text("scenarios", name)).collect::<Option<Vec<_>>>() else {
            return;
        };
        let mut ran = 0;
        for caller in ["sleep.foo", "sleep.bar"] {
            let (service, namespace) = caller.split_once('.').expect("NAME.NAMESPACE");
            let cluster = captured(&format!("{namespace}/{service}"));
            on(&cluster);
            for (name, text) in scenarios.iter().zip(&texts) {
                let scenario: Value = serde_saphyr::from_str(text).expect(name);
                let documents = scenario["config"].as_str().expect("documents");
                cluster.push("web", documents, &["--wait", "all"]).expect_code(0);
                let calls = scenario["calls"].as_array().into_iter().flatten();
                let leaving = calls
                    .filter(|call| call["request"]["from"] == caller && call["request"]["to"] == "httpbin.legacy")
                    .collect::<Vec<_>>();
                assert_eq!(leaving.len(), 1, "{name}");
                for call in leaving {
                    assert_eq!(call["expect"]["status"], 200, "{name}");
                    let path = call["request"]["path"].as_str().expect("a path");
                    let to = format!("http://{OUTSIDE}{path}");
                    // `--fail`: what is no success is an error.
                    assert_eq!(curl(&["-H", "Host: httpbin.legacy", &to]).as_deref(), Ok("outside"), "{name}");
                    ran += 1;
                }
            }
            capture(&cluster, &["off", "--now"]).expect_code(0);
            nothing_is_left();
        }
        println!("{ran} calls of {} scenarios to a namespace without proxies ran", scenarios.len());
    });
}
