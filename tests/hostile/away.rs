//! Evictions that a node did not hear of when they were made (A60): the evicted one was off, or another one slept.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};

use harness::{
    PATIENCE,
    bytes::connect,
    cluster::{Cluster, Plan, Service},
    eventually, http,
    process::Skein,
};
use nix::sys::signal::Signal;

fn start(plans: &[(&str, Plan)]) -> Cluster {
    let cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), plans);
    cluster.wait_members(PATIENCE);
    cluster
}

fn state(cluster: &Cluster, by: &str, of: &str) -> String {
    let members = cluster.json(by, &["members", "--all"]);
    let found = members.as_array().into_iter().flatten().find(|member| member["name"] == of);
    found.and_then(|member| member["state"].as_str()).unwrap_or_default().to_owned()
}

fn signal(cluster: &Cluster, node: &str, signal: Signal) {
    cluster.node(node).running.as_ref().expect("it runs").signal(signal);
}

/// A60: a machine that was off when its node was evicted comes back, believes that it is somebody still, and is nobody.
#[test]
fn a60_a_node_that_was_off_while_it_was_evicted_comes_back_as_nobody() {
    let served = |name: &str| Plan::with([Service::version(name, "v1")]);
    let mut cluster =
        start(&[("web", served("shop/web")), ("third", served("shop/third")), ("gone", served("shop/gone"))]);
    for name in ["shop/web", "shop/third", "shop/gone"] {
        cluster.wait_endpoints(name, 1);
    }
    let call = |cluster: &Cluster, from: &str, to: &str| {
        http::get(cluster.node(from).outbound(), to, "/").map(|answer| answer.status).map_err(|error| error.to_string())
    };
    for to in ["web", "third"] {
        assert_eq!(call(&cluster, "gone", to), Ok(200));
    }
    cluster.terminate("gone");
    cluster.on("web", &["evict", "gone"]).expect_code(0);
    let seen = |cluster: &Cluster| ["web", "third"].map(|node| cluster.node(node).backends[0].arrivals().len());
    let before = seen(&cluster);
    // It has its keys, its policy of then, and everybody's address.
    let _ = cluster.try_run("gone");
    eventually("it hears that it is out", || {
        let told = cluster.on("gone", &["status"]);
        let said = format!("{}{}{}", told.out, told.err, cluster.log("gone"));
        if said.contains("evicted") { Ok(()) } else { Err(said) }
    });
    for to in ["web", "third"] {
        assert_ne!(call(&cluster, "gone", to), Ok(200), "{to}");
    }
    assert_eq!(seen(&cluster), before, "no request of it reaches an application");
    for node in ["web", "third"] {
        assert_eq!(cluster.healthy(node, "shop/gone"), 0);
        assert_eq!(state(&cluster, node, "gone"), "evicted");
        assert_ne!(call(&cluster, node, "gone"), Ok(200));
    }
}

/// An application that says when a connection begins to speak and when it ends.
struct Door {
    address: SocketAddr,
    told: mpsc::Receiver<&'static str>,
}

impl Door {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (tell, told) = mpsc::sync_channel(64);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let tell = tell.clone();
                std::thread::spawn(move || watch(stream, &tell));
            }
        });
        Self { address, told }
    }

    fn says(&self, wanted: &str) {
        assert_eq!(self.told.recv_timeout(PATIENCE), Ok(wanted));
    }
}

/// Checks of its health say nothing, and nothing is told of them.
fn watch(mut stream: TcpStream, tell: &mpsc::SyncSender<&'static str>) {
    let mut buffer = [0; 64];
    if stream.read(&mut buffer).is_ok_and(|length| length > 0) {
        let _ = tell.send("open");
        let _ = stream.write_all(b"hello");
        while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
        let _ = tell.send("closed");
    }
}

/// A60: a node slept when another one was evicted; what the evicted one has open to it, and would open, is nothing from when it wakes.
#[test]
fn a60_a_node_that_slept_during_an_eviction_closes_what_the_evicted_one_has() {
    let door = Door::open();
    let served = Service {
        ports: vec![9000],
        protocol: "tcp".to_owned(),
        target: Some(door.address),
        ..Service::version("shop/door", "v1")
    };
    let upstream =
        "[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"shop/door\"\nport = 9000\nas = \"shop/thief\"\n";
    let thief = Plan { extra: upstream.to_owned(), ..Plan::with([Service::client("shop/thief")]) };
    let plans = [
        ("web", Plan::with([Service::client("shop/web")])),
        ("sleeper", Plan::with([served, Service::version("shop/pages", "v1")])),
        ("thief", thief),
    ];
    let cluster = start(&plans);
    cluster.wait_endpoints("shop/door", 1);
    cluster.wait_endpoints("shop/pages", 1);
    let mut live = connect(cluster.node("thief").upstream("shop/door", 9000)).expect("it listens");
    live.write_all(b"x").expect("it is open");
    live.read_exact(&mut [0; 5]).expect("an answer");
    door.says("open");
    let page = || http::get(cluster.node("thief").outbound(), "pages", "/").map(|answer| answer.status);
    assert_eq!(page().ok(), Some(200));
    // Neither hears of what happens now.
    for node in ["sleeper", "thief"] {
        signal(&cluster, node, Signal::SIGSTOP);
    }
    eventually("both are gone for the third", || {
        let states = ["sleeper", "thief"].map(|node| state(&cluster, "web", node));
        if states.iter().all(|state| state == "dead") { Ok(()) } else { Err(format!("{states:?}")) }
    });
    cluster.on("web", &["evict", "thief", "--wait", "local"]).expect_code(0);
    assert!(door.told.recv_timeout(Duration::from_millis(200)).is_err(), "it sleeps");
    signal(&cluster, "sleeper", Signal::SIGCONT);
    // The thief's own process does nothing for it: it still stands.
    door.says("closed");
    let before = cluster.node("sleeper").backends[0].arrivals().len();
    signal(&cluster, "thief", Signal::SIGCONT);
    let ended = live.write_all(b"y").and_then(|()| live.read_exact(&mut [0; 1]));
    assert!(ended.is_err(), "the thief hears of the end");
    assert_ne!(page().ok(), Some(200));
    assert_eq!(cluster.node("sleeper").backends[0].arrivals().len(), before);
    eventually("everybody knows", || match state(&cluster, "sleeper", "thief").as_str() {
        "evicted" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert!(door.told.try_recv().is_err(), "nothing new began");
}
