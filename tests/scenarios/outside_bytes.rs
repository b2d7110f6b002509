//! What goes ahead of connections' bytes: the PROXY protocol's header, and the question to a forward proxy.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use harness::{
    bytes::{connect, say},
    cluster::{Cluster, Plan, Service},
    eventually, http,
};

use crate::{
    outside::{document, entry, loopback, mesh, push, upstream},
    skein,
};

/// A forward proxy that answers with a status and then says what it was asked, and all that comes after it.
struct Forward {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    status: Arc<Mutex<String>>,
}

impl Forward {
    fn start() -> Self {
        let listener = TcpListener::bind(loopback()).expect("a free port");
        let (address, asked) = (listener.local_addr().expect("bound"), Arc::<AtomicUsize>::default());
        let status = Arc::new(Mutex::new("200 Connection established".to_owned()));
        let (counter, answer) = (Arc::clone(&asked), Arc::clone(&status));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let status = answer.lock().expect("nobody panics with it").clone();
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || drop(serve(stream, &status, &counter)));
            }
        });
        Self { address, asked, status }
    }

    fn answers(&self, status: &str) {
        status.clone_into(&mut self.status.lock().expect("nobody panics with it"));
    }
}

fn serve(mut stream: TcpStream, status: &str, asked: &AtomicUsize) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    asked.fetch_add(1, SeqCst);
    stream.write_all(format!("HTTP/1.1 {status}\r\nproxy-agent: test\r\n\r\n").as_bytes())?;
    stream.write_all(head.split(|byte| *byte == b'\r').next().unwrap_or_default())?;
    std::io::copy(&mut stream.try_clone()?, &mut stream)?;
    Ok(())
}

#[test]
fn connections_go_through_a_forward_proxy() {
    let cluster = mesh(&[("db.example.com", 5432)]);
    let proxy = Forward::start();
    let port = proxy.address.port();
    let at_proxy = format!(
        "{{hosts: [proxy.example.com], ports: [{{number: 3128, name: tcp, protocol: TCP, targetPort: {port}}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}"
    );
    let text = [
        entry("db", "{hosts: [db.example.com], ports: [{number: 5432, name: db, protocol: TCP}]}"),
        entry("proxy", &at_proxy),
        document(
            "DestinationRule",
            "proxy",
            "{host: proxy.example.com, subsets: [{name: db, trafficPolicy: {tunnel: {protocol: CONNECT, targetHost: db.example.com, targetPort: 5432}}}]}",
        ),
        document(
            "VirtualService",
            "db",
            "{hosts: [db.example.com], tcp: [{match: [{port: 5432}], route: [{destination: {host: proxy.example.com, subset: db, port: {number: 3128}}}]}]}",
        ),
    ];
    push(&cluster, &text.concat());
    let door = cluster.node("web").upstream("db.example.com", 5432);
    assert_eq!(say(door, "hello").as_deref(), Ok("CONNECT db.example.com:5432 HTTP/1.1hello"));
    proxy.answers("403 Forbidden");
    say(door, "hello").unwrap_err();
    assert!(proxy.asked.load(SeqCst) >= 2, "it was asked");
    let by_post = document(
        "DestinationRule",
        "proxy",
        "{host: proxy.example.com, trafficPolicy: {tunnel: {protocol: POST, targetHost: db.example.com, targetPort: 5432}}}",
    );
    let refused = cluster.push("web", &by_post, &[]);
    assert!(refused.code == 2 && refused.err.contains("a tunnel by POST"), "{refused:?}");
}

/// A server that says, escaped, all that came until `ends` was in it. In `reply` stands what goes before that.
fn tells(ends: &'static [u8], reply: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(loopback()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || drop(tell(stream, ends, reply)));
        }
    });
    address
}

fn tell(mut stream: TcpStream, ends: &[u8], reply: &str) -> std::io::Result<()> {
    let (mut came, mut piece) = (Vec::new(), [0; 4_096]);
    while !came.ends_with(ends) {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => came.extend(&piece[..length]),
        }
    }
    let shown = came.escape_ascii().to_string();
    stream.write_all(format!("{}{shown}", reply.replace("LENGTH", &shown.len().to_string())).as_bytes())
}

#[test]
fn servers_are_told_who_calls_by_the_proxy_protocol() {
    let (outside, inside) = (tells(b"hello", ""), tells(b"hello", ""));
    let web = tells(b"\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: LENGTH\r\n\r\n");
    let application = Service {
        ports: vec![9000],
        protocol: "tcp".to_owned(),
        target: Some(inside),
        ..Service::version("shop/db", "v1")
    };
    let to_service =
        "\n[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"shop/db\"\nport = 9000\nas = \"shop/web\"\n";
    let extra = upstream("db.example.com", 5432) + to_service;
    let caller = Plan { extra, ..Plan::with([Service::client("shop/web")]) };
    let cluster = Cluster::start(skein(), &[("web", caller), ("db", Plan::with([application]))]);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/db", 1);
    let ports = format!(
        "[{{number: 5432, name: db, protocol: TCP, targetPort: {}}}, {{number: 80, name: http, protocol: HTTP, targetPort: {}}}]",
        outside.port(),
        web.port()
    );
    let at =
        format!("{{hosts: [db.example.com], ports: {ports}, resolution: STATIC, endpoints: [{{address: 127.0.0.1}}]}}");
    let rule = |name: &str, host: &str, version: &str| {
        let spec = format!("{{host: {host}, trafficPolicy: {{proxyProtocol: {{version: {version}}}}}}}");
        document("DestinationRule", name, &spec)
    };
    let rules = rule("db", "db.example.com", "V1") + &rule("own", "db.shop.svc.cluster.local", "V2");
    push(&cluster, &(entry("db", &at) + &rules));
    let heard = |door: SocketAddr| {
        let told = || {
            let (mut stream, mut answer) = (connect(door)?, String::new());
            let from = stream.local_addr()?;
            stream.write_all(b"hello")?;
            stream.read_to_string(&mut answer)?;
            Ok::<_, std::io::Error>((from.port(), answer))
        };
        told().map_err(|error| error.to_string())
    };
    let door = cluster.node("web").upstream("db.example.com", 5432);
    let (from, answer) = heard(door).expect("an answer");
    assert_eq!(answer, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {}\\r\\nhello", door.port()));
    let (from, answer) =
        eventually("the service of the mesh answers", || heard(cluster.node("web").upstream("shop/db", 9000)));
    let header: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01";
    let wanted = [header, &from.to_be_bytes()].concat().escape_ascii().to_string();
    assert!(answer.starts_with(&wanted) && answer.ends_with("hello"), "{answer:?} begins with {wanted:?}");
    // A connection of requests is its caller's alone.
    let answer = http::get(cluster.node("web").outbound(), "db.example.com", "/").expect("an answer").text();
    assert!(answer.starts_with("PROXY TCP4 127.0.0.1 ") && answer.contains(r"\r\nGET / HTTP/1.1\r\n"), "{answer}");
}
