//! Connections of a machine outside the mesh to the ports of applications: in as PeerAuthentication allows, and what stays alone.

use super::{
    nothing_is_left,
    place::{HERE, HERE_V6, Lasting, OUTSIDE, Place, as_user, curl, said, within},
    server::{self, Server},
    tables,
};
use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    contract::Contract,
    eventually,
    process::{Output, Skein},
};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Where applications are: one that other machines reach, one that they do not, one that comes later.
const WEB: u16 = 8080;
const HIDDEN: u16 = 8082;
const LATE: u16 = 8083;
/// Lines, of no service.
const OTHER: u16 = 7001;
/// Lines, of a service.
const LINES: u16 = 7002;

/// Says what headers came; lines go back as they came.
const APPLICATIONS: &str = r#"
import http.server, socket, socketserver, sys, threading
class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = ("inside\n" + "".join(f"{name.lower()}: {value}\n" for name, value in self.headers.items())).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *words): pass
class Line(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile: self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6; allow_reuse_address = True; daemon_threads = True; request_queue_size = 128
for word in sys.argv[1:]:
    kind, address, port = word.split("/")
    server = Server((address, int(port)), Page if kind == "http" else Line)
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
"#;

/// Sends a line from a port of its choice and prints what comes back.
const FROM: &str = r#"
import socket, sys
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20, ("", int(sys.argv[3])))
stream.sendall(sys.argv[4].encode() + b"\n"); print(stream.makefile().readline().strip())
"#;

struct Applications(Child);

impl Applications {
    fn start(words: &[String]) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        let mut child = command.args(["-c", APPLICATIONS]).args(words).stdout(Stdio::piped()).spawn().expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says that it is ready");
        Self(child)
    }
}

impl Drop for Applications {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn service(name: &str, port: u16, protocol: &str) -> Service {
    Service {
        ports: vec![port],
        protocol: protocol.to_owned(),
        target: format!("127.0.0.1:{port}").parse().ok(),
        ..Service::version(name, "v1")
    }
}

/// The applications, and a node beside them.
fn mesh(more: Vec<Service>) -> (Applications, Cluster) {
    let places = [
        format!("http/::/{WEB}"),
        format!("http/::ffff:127.0.0.1/{HIDDEN}"),
        "line/::/22".to_owned(),
        format!("line/::/{OTHER}"),
        format!("line/::/{LINES}"),
    ];
    let applications = Applications::start(&places);
    let own =
        [service("shop/web", WEB, "http"), service("shop/hidden", HIDDEN, "http"), service("shop/late", LATE, "http")];
    let extra = "[capture]\nport = 0\ninbound_port = 0\nas = \"shop/web\"\n".to_owned();
    let plan = Plan { extra, ..Plan::with(own.into_iter().chain(more)) };
    let cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), &[("here", plan)]);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/web", 1);
    (applications, cluster)
}

fn capture(cluster: &Cluster, words: &[&str]) -> Output {
    cluster.on("here", &[&["capture"], words, &["-o", "json"]].concat())
}

fn on(cluster: &Cluster, words: &[&str]) {
    capture(cluster, &[&["on", "--confirm-within", "5m"], words].concat()).expect_code(0);
    capture(cluster, &["confirm"]).expect_code(0);
}

fn status(cluster: &Cluster) -> Value {
    let status = capture(cluster, &["status"]).expect_code(0).json();
    let complaints = Contract::read().complaints("capture status", &status);
    assert!(complaints.is_empty(), "{complaints:#?}");
    status
}

fn redirected(cluster: &Cluster) -> u64 {
    status(cluster)["inbound"]["redirected"].as_u64().unwrap_or_default()
}

fn push(cluster: &Cluster, kind: &str, spec: &str) {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: own, namespace: shop}}\nspec: {spec}\n"
    );
    cluster.push("here", &text, &[]).expect_code(0);
}

fn web() -> String {
    format!("http://{HERE}:{WEB}/")
}

/// What an unmodified client of the other machine gets: by the node, or from the application itself.
fn comes_by_node(place: &Place) -> Result<bool, String> {
    place.curl(&[&web()]).map(|body| body.contains("x-forwarded-for: 10.9.0.2\n"))
}

fn goes_past(place: &Place) {
    eventually("the application itself answers", || match comes_by_node(place)? {
        false => Ok(()),
        true => Err("by the node".to_owned()),
    });
}

/// An application that comes later is found. While it is started again its port stays aimed at, and one that then listens for this
/// machine only is not opened to others.
fn an_application_is_started_again(place: &Place, cluster: &Cluster) {
    let late = Applications::start(&[format!("http/::/{LATE}")]);
    let of_late = || place.curl(&[&format!("http://{HERE}:{LATE}/")]);
    eventually("it is captured", || match of_late()?.contains("x-forwarded-for") {
        true => Ok(()),
        false => Err("not yet".to_owned()),
    });
    drop(late);
    let is_aimed = || status(cluster)["inbound"]["targets"].to_string().contains(&LATE.to_string());
    for _ in 0..30 {
        assert!(is_aimed(), "whoever calls before the next look would pass by");
        std::thread::sleep(Duration::from_millis(100));
    }
    let before = redirected(cluster);
    assert!(of_late().is_err());
    assert_eq!(redirected(cluster), before + 1);
    let _late = Applications::start(&[format!("http/::ffff:127.0.0.1/{LATE}")]);
    assert!(curl(&[&format!("http://127.0.0.1:{LATE}/")]).is_ok() && of_late().is_err());
    eventually("it is let go of", || if is_aimed() { Err("not yet".to_owned()) } else { Ok(()) });
    assert!(of_late().is_err());
}

#[test]
#[ignore = "needs root and nftables"]
fn callers_of_other_machines_come_in_as_policy_allows() {
    within("inbound::callers_of_other_machines_come_in_as_policy_allows", |place| {
        let server = Server::postgresql_at("0.0.0.0");
        let db_port = server.address.port();
        let (_applications, cluster) = mesh(vec![service("shop/db", db_port, "postgres")]);
        cluster.wait_endpoints("shop/db", 1);
        assert_eq!(comes_by_node(place), Ok(false));
        let hidden = format!("http://{HERE}:{HIDDEN}/");
        assert!(place.curl(&[&hidden]).is_err(), "it listens on loopback");

        let dry = capture(&cluster, &["on", "--inbound-only", "--dry-run"]).expect_code(0).json();
        let rules = dry["rules"].as_str().unwrap_or_default();
        assert!(rules.contains("tcp dport @ports counter redirect") && !rules.contains("output meta"), "{rules}");
        assert_eq!(tables(), "", "only looked at");
        on(&cluster, &["--inbound-only"]);
        let told = status(&cluster);
        assert_eq!(
            (&told["state"], &told["outbound"], &told["inbound"]["captured"]),
            (&json!("on"), &json!(false), &json!(true))
        );
        let mut targets = vec![format!("*:{WEB}"), format!("*:{LATE}"), format!("0.0.0.0:{db_port}")];
        let mut known: Vec<String> = serde_json::from_value(told["inbound"]["targets"].clone()).expect("a list");
        targets.sort();
        known.sort();
        assert_eq!(known, targets, "what others cannot reach is not opened to them");

        // curl, by both families and both versions of HTTP, Python and psql, all as they are.
        assert_eq!(comes_by_node(place), Ok(true));
        assert_eq!(redirected(&cluster), 1);
        let v6 = place.curl(&[&format!("http://[{HERE_V6}]:{WEB}/")]).expect("an answer");
        assert!(v6.contains("x-forwarded-for: fd00:9::2\n"), "{v6}");
        let http2 = place.curl(&["--http2-prior-knowledge", "-H", "x-forwarded-client-cert: me", &web()]);
        assert!(
            http2.as_ref().is_ok_and(|body| body.contains("10.9.0.2") && !body.contains("client-cert")),
            "{http2:?}"
        );
        let python = format!("import urllib.request; print(urllib.request.urlopen('{}').read().decode())", web());
        let python = said(place.outside("/usr/bin/python3").args(["-c", &python])).expect("an answer");
        assert!(python.contains("x-forwarded-for: 10.9.0.2\n"), "{python}");
        let psql = || {
            let words = ["-h", HERE, "-U", "postgres", "-X", "-A", "-t", "-c", "select 41 + 1", "-p"];
            let program = server::program("psql");
            said(place.outside(program.to_str().expect("a path")).args(words).arg(db_port.to_string()))
        };
        assert_eq!(psql().expect("an answer").trim(), "42");

        // Where it meant to go is what policy sees; who it is nobody knows.
        push(
            &cluster,
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {ipBlocks: [10.9.0.2], notPrincipals: ['*']}}], when: [{key: destination.ip, values: [10.9.0.1]}, {key: destination.port, values: ['8080']}]}]}",
        );
        assert_eq!(comes_by_node(place), Ok(true));
        assert!(place.curl(&[&format!("http://[{HERE_V6}]:{WEB}/")]).is_err_and(|error| error.contains("403")));
        assert!(psql().is_err(), "another port");
        push(&cluster, "AuthorizationPolicy", "{rules: [{}]}");

        // Other ports, this machine's own callers, and the node's port itself.
        let before = redirected(&cluster);
        let line = |to: u16, from: u16| {
            let words = [FROM, HERE, &to.to_string(), &from.to_string(), "a line"];
            said(place.outside("/usr/bin/python3").arg("-c").args(words))
        };
        assert_eq!((line(22, 0), line(OTHER, 0)), (Ok("a line\n".to_owned()), Ok("a line\n".to_owned())));
        assert!(curl(&[&web()]).is_ok_and(|body| !body.contains("x-forwarded-for")));
        assert!(place.curl(&[&hidden]).is_err(), "it was shut and is");
        let own = cluster.node("here").address("capture_inbound").port();
        assert!(place.curl(&[&format!("http://{HERE}:{own}/")]).is_err());
        assert_eq!(redirected(&cluster), before);

        // STRICT keeps all of them out, from whatever port they call.
        push(&cluster, "PeerAuthentication", "{mtls: {mode: STRICT}}");
        eventually("it is shut", || comes_by_node(place).map_or(Ok(()), |by| Err(format!("{by}"))));
        assert!(psql().is_err() && line(WEB, 22).is_err(), "SSH's port is no way in for others");
        assert_eq!((line(22, 0), line(OTHER, 0)), (Ok("a line\n".to_owned()), Ok("a line\n".to_owned())));
        assert!(curl(&[&web()]).is_ok(), "this machine is no other one");
        push(&cluster, "PeerAuthentication", "{mtls: {mode: PERMISSIVE}}");
        eventually("it is open", || comes_by_node(place).map(drop));

        an_application_is_started_again(place, &cluster);

        // Networks and ports that are left alone; and both ways at once.
        on(&cluster, &["--inbound-only", "--exclude", "10.9.0.0/24"]);
        assert_eq!(comes_by_node(place), Ok(false));
        on(&cluster, &["--inbound-only", "--exclude-port", &WEB.to_string()]);
        assert_eq!(comes_by_node(place), Ok(false));
        on(&cluster, &["--inbound", "--uid", "65534"]);
        assert_eq!(comes_by_node(place), Ok(true));
        let before = status(&cluster);
        assert_eq!((&before["outbound"], &before["inbound"]["captured"]), (&json!(true), &json!(true)));
        assert!(as_user("curl", &["-sS", &format!("http://{OUTSIDE}/")]).is_ok_and(|body| body == "outside"));
        assert_eq!(status(&cluster)["redirected"].as_u64(), before["redirected"].as_u64().map(|count| count + 1));
        capture(&cluster, &["off"]).expect_code(0);
        nothing_is_left();
        assert_eq!(comes_by_node(place), Ok(false));
    });
}

#[test]
#[ignore = "needs root and nftables"]
fn an_inbound_capture_ends_whoever_dies() {
    within("inbound::an_inbound_capture_ends_whoever_dies", |place| {
        let (_applications, mut cluster) = mesh(Vec::new());
        // Nobody confirms.
        capture(&cluster, &["on", "--inbound-only", "--confirm-within", "3s"]).expect_code(0);
        assert_eq!(status(&cluster)["state"], "unconfirmed");
        nothing_is_left();
        goes_past(place);
        // The node is killed.
        on(&cluster, &["--inbound-only"]);
        assert_eq!(comes_by_node(place), Ok(true));
        cluster.kill("here");
        nothing_is_left();
        goes_past(place);
        // It stops in order.
        cluster.run("here");
        cluster.wait_endpoints("shop/web", 1);
        on(&cluster, &["--inbound-only"]);
        assert_eq!(comes_by_node(place), Ok(true));
        cluster.terminate("here");
        nothing_is_left();
        goes_past(place);
        // Its guard is killed, and the kernel lets go by itself.
        cluster.run("here");
        cluster.wait_endpoints("shop/web", 1);
        on(&cluster, &["--inbound-only"]);
        assert_eq!(comes_by_node(place), Ok(true));
        let of = format!("{} capture guard", cluster.node("here").config().display());
        let guard = said(Command::new("pgrep").args(["-f", &of])).expect("a guard");
        said(Command::new("kill").args(["-9", guard.trim()])).expect("it is ours");
        eventually("the kernel lets go", || match status(&cluster)["state"].as_str() {
            Some("ending") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        goes_past(place);
        capture(&cluster, &["off"]).expect_code(0);
        nothing_is_left();
    });
}

#[test]
#[ignore = "needs root and nftables"]
fn switched_on_and_off_no_connection_of_another_machine_breaks() {
    within("inbound::switched_on_and_off_no_connection_of_another_machine_breaks", |place| {
        let (_applications, cluster) = mesh(vec![service("shop/lines", LINES, "tcp")]);
        cluster.wait_endpoints("shop/lines", 1);
        let mut before = Lasting::from_outside(place, HERE, LINES);
        assert_eq!(before.say("before"), "before");
        on(&cluster, &["--inbound-only"]);
        let mut captured = Lasting::from_outside(place, HERE, LINES);
        assert_eq!((captured.say("captured"), redirected(&cluster)), ("captured".to_owned(), 1));
        for round in 0..20 {
            let line = format!("round {round}");
            let said = capture(&cluster, &["off"]).expect_code(0).json();
            assert_eq!((&said["state"], &said["connections"]), (&json!("ending"), &json!(1)));
            assert_eq!((before.say(&line), captured.say(&line)), (line.clone(), line.clone()));
            assert_eq!(comes_by_node(place), Ok(false));
            on(&cluster, &["--inbound-only"]);
            assert_eq!((before.say(&line), captured.say(&line)), (line.clone(), line));
            assert_eq!(comes_by_node(place), Ok(true));
        }
        // Policy reaches what the kernel brought, and not what it never saw.
        push(&cluster, "PeerAuthentication", "{mtls: {mode: STRICT}}");
        assert_ne!(captured.say("still there?"), "still there?");
        assert_eq!(before.say("still there?"), "still there?");
        capture(&cluster, &["off"]).expect_code(0);
        nothing_is_left();
    });
}
