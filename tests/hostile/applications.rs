//! Applications that break HTTP's rules, and callers who hope for one (A12, A14-A17, A22-A24): real nodes stand between them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    http::{Answer, Connection},
    process::Skein,
};

/// What it answers to a path; to any other `fine`.
const ANSWERS: [(&str, &str); 9] = [
    ("/early", "HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n"),
    ("/no", "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"),
    ("/chat", "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"),
    ("/both", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("/lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("/twice", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
    ("/head", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nleak"),
    ("/204", "HTTP/1.1 204 None\r\n\r\nleak"),
    ("/304", "HTTP/1.1 304 Same\r\n\r\nleak"),
];

/// What came, and on which connection.
type Seen = Arc<Mutex<Vec<(usize, String)>>>;

struct World {
    cluster: Cluster,
    seen: Seen,
}

impl World {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let seen = Seen::default();
        let told = seen.clone();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let told = told.clone();
                std::thread::spawn(move || Reader { stream, buffer: Vec::new() }.serve(number, &told));
            }
        });
        let served = Service { target: Some(address), ..Service::version("shop/reviews", "v1") };
        let plans = [("web", Plan::with([Service::client("shop/web")])), ("reviews", Plan::with([served]))];
        let cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), &plans);
        cluster.wait_members(PATIENCE);
        cluster.wait_endpoints("shop/reviews", 1);
        Self { cluster, seen }
    }

    fn door(&self) -> SocketAddr {
        self.cluster.node("web").outbound()
    }

    fn connect(&self) -> Connection {
        Connection::open(self.door()).expect("the proxy listens")
    }

    fn seen(&self) -> Vec<(usize, String)> {
        self.seen.lock().expect("nobody panics with it").clone()
    }

    /// On no connection that led to such a request came another one after it.
    fn is_last(&self, request: &str) {
        let seen = self.seen();
        for (at, (connection, _)) in seen.iter().enumerate().filter(|(_, (_, head))| head.starts_with(request)) {
            let after: Vec<_> = seen[at + 1..].iter().filter(|(other, _)| other == connection).collect();
            assert!(after.is_empty(), "after {request} came {after:?}");
        }
        assert!(seen.iter().any(|(_, head)| head.starts_with(request)), "{request} in {seen:?}");
    }
}

struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Reader {
    fn serve(mut self, number: usize, seen: &Seen) {
        let note = |text: String| seen.lock().expect("nobody panics with it").push((number, text));
        while let Some(head) = self.until("\r\n\r\n") {
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let body = if path == "/early" { Some(String::new()) } else { self.body(&head.to_ascii_lowercase()) };
            let Some(body) = body else { return };
            note(head + &body);
            let answer = ANSWERS.iter().find(|(known, _)| *known == path);
            let answer = answer.map_or("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine", |(_, answer)| answer);
            if self.stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
            if path == "/chat" {
                return note(self.until("more").unwrap_or_default());
            }
        }
    }

    /// What comes until the end of this, which it includes.
    fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|bytes| bytes == end.as_bytes()) {
                let whole: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return Some(String::from_utf8_lossy(&whole).into_owned());
            }
            let mut chunk = [0; 4096];
            let length = self.stream.read(&mut chunk).ok().filter(|length| *length > 0)?;
            self.buffer.extend_from_slice(&chunk[..length]);
        }
    }

    fn body(&mut self, head: &str) -> Option<String> {
        if head.contains("transfer-encoding: chunked") {
            let mut body = String::new();
            loop {
                let size = self.until("\r\n")?;
                let last = size.trim_end() == "0";
                body.push_str(&size);
                let mut line = self.until("\r\n")?;
                while last && line != "\r\n" {
                    body.push_str(&line);
                    line = self.until("\r\n")?;
                }
                body.push_str(&line);
                if last {
                    return Some(body);
                }
            }
        }
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let mut body = String::new();
        while body.len() < length.unwrap_or(0) {
            if self.buffer.is_empty() {
                let mut chunk = [0; 4096];
                let read = self.stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
                self.buffer.extend_from_slice(&chunk[..read]);
            }
            body.push(char::from(self.buffer.remove(0)));
        }
        Some(body)
    }
}

fn ask(connection: &mut Connection, request: &str) -> Answer {
    connection.send(request.as_bytes()).expect("it is open");
    connection.answer(request.starts_with("HEAD ")).expect("an answer")
}

fn get(connection: &mut Connection, path: &str) -> Answer {
    ask(connection, &format!("GET {path} HTTP/1.1\r\nHost: reviews\r\n\r\n"))
}

#[test]
fn a12_trailers_change_nothing_of_what_was_judged() {
    let world = World::start();
    let request = "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\nTrailer: host, authorization\r\n\r\n\
                   2\r\nab\r\n0\r\nHost: evil\r\nAuthorization: evil\r\nContent-Length: 7\r\n\r\n";
    let mut connection = world.connect();
    assert_eq!(ask(&mut connection, request).status, 200);
    assert_eq!(get(&mut connection, "/").text(), "fine", "and what follows is a request");
    let seen = format!("{:?}", world.seen());
    assert!(seen.contains("ab") && !seen.contains("evil") && !seen.contains("Content-Length: 7"), "{seen}");
}

#[test]
fn a14_a_connection_with_an_unread_body_serves_nobody_else() {
    let world = World::start();
    let mut early = world.connect();
    let request = "POST /early HTTP/1.1\r\nHost: reviews\r\nContent-Length: 100000\r\n\r\nabc";
    assert_eq!(ask(&mut early, request).status, 413);
    for _ in 0..10 {
        assert_eq!(get(&mut world.connect(), "/").text(), "fine");
    }
    world.is_last("POST /early");
}

#[test]
fn a15_an_expectation_that_fails_leaves_the_connection_in_step() {
    let world = World::start();
    let mut connection = world.connect();
    let head = "POST /no HTTP/1.1\r\nHost: reviews\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let first = ask(&mut connection, head);
    if first.status == 100 {
        assert_eq!(ask(&mut connection, "ab").status, 417);
    } else {
        assert_eq!(first.status, 417);
    }
    assert_eq!(get(&mut connection, "/").text(), "fine");
    assert!(!format!("{:?}", world.seen()).to_ascii_lowercase().contains("expect"), "it ends at the proxy");
}

const UPGRADE: &str = "Host: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn a16_an_upgrade_that_is_not_taken_is_a_plain_answer() {
    let world = World::start();
    let mut connection = world.connect();
    let answer = ask(&mut connection, &format!("GET / HTTP/1.1\r\n{UPGRADE}\x01\x02 poison\r\n\r\n"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
    assert_eq!(connection.answer(false).expect("an answer").status, 400, "what follows is no request");
    let seen = format!("{:?}", world.seen());
    assert!(!seen.contains("poison"), "{seen}");
}

#[test]
fn a17_what_comes_before_101_is_no_request() {
    let world = World::start();
    let mut connection = world.connect();
    let early = "GET /poison HTTP/1.1\r\nHost: reviews\r\n\r\n";
    let answer = ask(&mut connection, &format!("GET /chat HTTP/1.1\r\n{UPGRADE}{early}"));
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    connection.send(b"and more").expect("it is a tunnel");
    assert_eq!(connection.rest(), b"hello");
    let seen = world.seen();
    assert!(seen.iter().any(|(_, text)| *text == format!("{early}and more")), "{seen:?}");
    assert!(!seen.iter().any(|(_, text)| text.starts_with("GET /poison") && !text.ends_with("more")), "{seen:?}");
}

#[test]
fn a22_a23_a24_answers_that_can_be_read_twice_reach_nobody_twice() {
    let world = World::start();
    let mut connection = world.connect();
    for path in ["/both", "/lengths"] {
        assert_eq!(get(&mut connection, path).status, 502, "{path}");
        assert_eq!(get(&mut connection, "/").text(), "fine", "after {path}");
        world.is_last(&format!("GET {path} "));
    }
    let answer = get(&mut connection, "/twice");
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    for _ in 0..5 {
        assert_eq!(get(&mut connection, "/").text(), "fine", "a second answer is nobody's");
    }
    world.is_last("GET /twice ");
    for (request, status) in [("HEAD /head", 200), ("GET /204", 204), ("GET /304", 304)] {
        let answer = ask(&mut connection, &format!("{request} HTTP/1.1\r\nHost: reviews\r\n\r\n"));
        assert_eq!((answer.status, answer.text().as_str()), (status, ""), "{request}");
        assert_eq!(get(&mut connection, "/").text(), "fine", "after {request}");
        world.is_last(request);
    }
}
