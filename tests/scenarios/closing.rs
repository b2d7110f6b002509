//! What is under way ends with what let it be: evictions, revoked accounts, grants that shrink. For each sort of stream, in the middle of it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use harness::{
    bytes::{Echo, connect, say},
    cluster::{Cluster, Plan, Service},
    eventually,
};

use crate::{
    gateway::{at, gateway, ingress, opened, routes},
    skein,
};

const BYTES: u16 = 9000;
const DOOR: u16 = 8080;

fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// An application whose answers do not end: `/ws` becomes an echo, anything else says `first` and waits for its caller to leave.
fn endless() -> SocketAddr {
    let listener = TcpListener::bind(anywhere()).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) | Err(_) => return,
        }
    }
    let upgrades = head.starts_with(b"GET /ws");
    let said: &[u8] = if upgrades {
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    } else {
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    };
    if stream.write_all(said).is_err() {
        return;
    }
    while let Ok(1) = stream.read(&mut byte) {
        if upgrades && stream.write_all(&byte).is_err() {
            return;
        }
    }
}

fn upstream(service: &str) -> String {
    format!("[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"{service}\"\nport = {BYTES}\nas = \"shop/web\"\n")
}

fn bytes(name: &str, target: SocketAddr) -> Service {
    let (ports, protocol) = (vec![BYTES], "tcp".to_owned());
    Service { ports, protocol, target: Some(target), ..Service::version(name, "v1") }
}

/// An enroller that nothing goes through; `edge`, which calls and has a door; `app`, which is called.
struct World {
    cluster: Cluster,
    _echo: Echo,
}

impl World {
    fn start() -> Self {
        let echo = Echo::start(anywhere(), "echo").expect("a free port");
        let web = Service { account: "web".to_owned(), ..Service::client("shop/web") };
        let edge = Plan { extra: upstream("shop/echo"), ..Plan::with([web, ingress()]) };
        let api = Service { target: Some(endless()), ..Service::version("shop/api", "v1") };
        let app = Plan::with([bytes("shop/echo", echo.address), api]);
        let plans = [("first", Plan::default()), ("edge", edge), ("app", app)];
        let cluster = Cluster::start(skein(), &plans);
        cluster.wait_members(harness::PATIENCE);
        for service in ["shop/echo", "shop/api"] {
            cluster.wait_endpoints(service, 1);
        }
        let server = format!("{{port: {{number: {DOOR}, name: http, protocol: HTTP}}, hosts: ['*']}}");
        let door =
            gateway("public", &server) + &routes("api", "public", "'*'", "{route: [{destination: {host: api}}]}");
        cluster.push("first", &door, &["--wait", "all"]).expect_code(0);
        opened(&cluster, DOOR);
        Self { cluster, _echo: echo }
    }

    /// One of each sort, each in the middle.
    fn streams(&self) -> Vec<(&'static str, TcpStream)> {
        let edge = self.cluster.node("edge");
        let mut tunnel = connect(edge.upstream("shop/echo", BYTES)).expect("it listens");
        until(&mut tunnel, "echo\n");
        exchange(&mut tunnel);
        let request = ask(edge.outbound(), "GET /stream HTTP/1.1\r\nhost: api.shop\r\n\r\n", "first");
        let mut socket = ask(
            edge.outbound(),
            "GET /ws HTTP/1.1\r\nhost: api.shop\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
            "\r\n\r\n",
        );
        exchange(&mut socket);
        let door = ask(at(&self.cluster, DOOR), "GET /stream HTTP/1.1\r\nhost: shop.example.com\r\n\r\n", "first");
        vec![("a tunnel", tunnel), ("a request", request), ("a WebSocket", socket), ("a request by a door", door)]
    }

    fn on(&self, words: &[&str]) {
        self.cluster.on("first", words).expect_code(0);
    }
}

fn ask(to: SocketAddr, request: &str, wanted: &str) -> TcpStream {
    let mut stream = connect(to).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it is open");
    until(&mut stream, wanted);
    stream
}

/// Reads until `wanted` has come.
fn until(stream: &mut TcpStream, wanted: &str) {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(wanted.as_bytes()) {
        let read = stream.read(&mut byte);
        assert!(matches!(read, Ok(1)), "{read:?} after {}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
}

fn exchange(stream: &mut TcpStream) {
    stream.write_all(b"ping").expect("it is open");
    until(stream, "ping");
}

/// An end or a reset comes; silence is none.
fn ends(what: &str, mut stream: TcpStream) {
    loop {
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("{what} goes on")
            }
            Err(_) => return,
        }
    }
}

/// All are over soon after the change has arrived: 5 s are promised, and a busy machine may take several times as much, but less than
/// what is silent may last.
fn all_end(streams: Vec<(&'static str, TcpStream)>) {
    for (what, stream) in streams {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        ends(what, stream);
    }
}

#[test]
fn what_an_evicted_caller_has_under_way_ends() {
    let world = World::start();
    let streams = world.streams();
    world.on(&["evict", "edge"]);
    all_end(streams);
}

#[test]
fn what_an_evicted_server_has_under_way_ends() {
    let world = World::start();
    let streams = world.streams();
    world.on(&["evict", "app"]);
    all_end(streams);
}

#[test]
fn what_a_revoked_account_has_under_way_ends() {
    let world = World::start();
    let mut streams = world.streams();
    let door = streams.pop().expect("the last one").1;
    let revoked = world.cluster.json("first", &["revoke", "shop/web", "--wait", "all"]);
    assert_eq!(revoked["documents"][0]["name"], "shop.web", "{revoked}");
    all_end(streams);
    // Another account of the same node goes on, and a new stream of the revoked one gets nowhere.
    door.set_nonblocking(true).expect("a socket");
    let silent = door.peek(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(silent, Ok(1..) | Err(ErrorKind::WouldBlock)), "{silent:?}");
    door.set_nonblocking(false).expect("a socket");
    assert!(say(world.cluster.node("edge").upstream("shop/echo", BYTES), "x").is_err());
    let wrong = world.cluster.on("first", &["revoke", "shop/web", "--key", &"ab".repeat(32), "-o", "json"]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
    world.on(&["revoke", "istio-system/default"]);
    ends("a request by a door", door);
    // What was revoked by mistake is taken back.
    world.on(&["policy", "delete", "Revocation", "shop.web"]);
    eventually("the account counts again", || {
        say(world.cluster.node("edge").upstream("shop/echo", BYTES), "x").map(drop)
    });
}

#[test]
fn what_a_revoked_key_has_under_way_ends_and_a_new_key_begins() {
    let world = World::start();
    let streams = world.streams();
    let key = |cluster: &Cluster| {
        let shown = cluster.json("app", &["identity", "show", "shop/default"]);
        assert_eq!(shown["certificates"][0]["public_key"], shown["public_key"], "{shown}");
        shown["public_key"].as_str().expect("a hash").to_owned()
    };
    let before = key(&world.cluster);
    world.on(&["revoke", "--key", &before]);
    all_end(streams);
    // The node makes a new one by itself.
    eventually("another key", || {
        let now = key(&world.cluster);
        if now == before { Err(now) } else { Ok(()) }
    });
    eventually("it is served again", || say(world.cluster.node("edge").upstream("shop/echo", BYTES), "x").map(drop));
}

/// Two services share an account, so that the node's identity holds on: what lived by the pair ends all the same, on other nodes and
/// beside the node itself.
#[test]
fn a_tunnel_ends_with_the_grant_of_its_service_and_not_with_that_of_its_account() {
    let echoes = ["one", "two"].map(|name| Echo::start(anywhere(), name).expect("a free port"));
    let served = [bytes("shop/one", echoes[0].address), bytes("shop/two", echoes[1].address)];
    let caller = || Plan {
        extra: upstream("shop/one") + &upstream("shop/two"),
        ..Plan::with([Service { account: "web".to_owned(), ..Service::client("shop/web") }])
    };
    let mut both = caller();
    both.services.extend(served);
    let cluster = Cluster::start(skein(), &[("first", caller()), ("second", both)]);
    cluster.wait_members(harness::PATIENCE);
    let tunnels = |service: &str| {
        cluster.wait_endpoints(&format!("shop/{service}"), 1);
        ["first", "second"].map(|node| {
            let mut tunnel =
                connect(cluster.node(node).upstream(&format!("shop/{service}"), BYTES)).expect("it listens");
            until(&mut tunnel, &format!("{service}\n"));
            exchange(&mut tunnel);
            tunnel
        })
    };
    let (one, _two) = (tunnels("one"), tunnels("two"));
    cluster.on("first", &["grant", "second", "--remove", "shop/one"]).expect_code(0);
    let [there, here] = one;
    ends("a tunnel from another node", there);
    ends("a tunnel from beside it", here);
    // The other service has its account, and is served.
    for node in ["first", "second"] {
        let answer = say(cluster.node(node).upstream("shop/two", BYTES), "x").expect("it is served");
        assert_eq!(answer, "two\nx");
        assert!(say(cluster.node(node).upstream("shop/one", BYTES), "x").is_err(), "{node}");
    }
}

/// The application takes nothing and the caller sends all the same: nobody reads what comes between the nodes, and its end is seen.
#[test]
fn a_tunnel_that_stands_still_ends_too() {
    let listener = TcpListener::bind(anywhere()).expect("a free port");
    let target = listener.local_addr().expect("it is bound");
    let taken = Arc::new(Mutex::new(Vec::new()));
    let keep = taken.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_nonblocking(true).expect("a socket");
            keep.lock().expect("nobody panics with it").push(stream);
        }
    });
    let edge = Plan { extra: upstream("shop/deaf"), ..Plan::with([Service::client("shop/web")]) };
    let plans = [("first", Plan::default()), ("edge", edge), ("app", Plan::with([bytes("shop/deaf", target)]))];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/deaf", 1);
    let mut tunnel = connect(cluster.node("edge").upstream("shop/deaf", BYTES)).expect("it listens");
    tunnel.set_write_timeout(Some(Duration::from_secs(3))).expect("a socket");
    while tunnel.write_all(&[7; 64 << 10]).is_ok() {}
    // Those of checks have sent nothing.
    let application = eventually("the tunnel reaches it", || {
        let mut taken = taken.lock().expect("nobody panics with it");
        let place = taken.iter().position(|stream| matches!(stream.peek(&mut [0]), Ok(1)));
        place.map(|place| taken.swap_remove(place)).ok_or_else(|| format!("{} connections", taken.len()))
    });
    cluster.on("first", &["evict", "edge"]).expect_code(0);
    // What it has not read it could read still; the reset is told beside that.
    eventually("the application's connection is reset", || match application.take_error() {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
