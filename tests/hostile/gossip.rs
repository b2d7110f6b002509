//! A certified member that lies over real peer links, and strangers at the mesh port (A84-A91; A92-A95 are in `records.rs`): nobody's
//! word suffers but its own.
//! What single messages do to chitchat alone is in `membership::gossip`, what lies do to meshes in virtual time in the crate's tests.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use certs::{
    codec,
    id::{NodeId, ServiceAccount, ServiceName},
    sign::SigningKey,
};
use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service, TRUST_DOMAIN},
    eventually, http,
    process::Skein,
};
use membership::{
    body::{Address, Body, PortRecord, ServiceRecord, Services, Status},
    message::Message,
    record::{Section, SignedRecord},
};
use serde_json::Value;

use crate::{
    chitchat::{self, Delta, Held, Id, packed_bomb, payload, short, syn},
    liar::{Liar, file},
    strangers::wall,
};

pub(crate) const HONEST: [&str; 3] = ["web", "reviews", "ratings"];
pub(crate) const LIAR: &str = "liar";
/// What a hostile message may cost a node in memory.
pub(crate) const MEMORY: u64 = 32 << 20;

pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) liar: Liar,
}

/// Ends what goes on in another thread, also when a test fails.
pub(crate) struct Ending<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Three honest nodes, and a member that is about to lie.
pub(crate) fn scene() -> Scene {
    let client = |name: &str| Plan::with([Service::client(&format!("shop/{name}"))]);
    let plans = [
        ("web", client("web")),
        ("reviews", Plan::with([Service::version("shop/reviews", "v1")])),
        ("ratings", client("ratings")),
    ];
    let mut cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.on("web", &["grant", "reviews", "shop/extra"]).expect_code(0);
    cluster.join(LIAR, &Plan::with([Service::version("shop/liar", "v1")]));
    let liar = Liar::new(&cluster, LIAR);
    let mut scene = Scene { cluster, liar };
    HONEST.iter().for_each(|node| scene.liar.link(&scene.cluster, node));
    scene.liar.introduce(served(&["liar"]));
    for at in HONEST {
        eventually("the liar is a member", || scene.sees(at, LIAR, "alive"));
        eventually("with one service", || scene.serves(at, "shop/liar", 1));
    }
    scene
}

pub(crate) fn served(names: &[&str]) -> Body {
    let record = |name: &&str| {
        let service: ServiceName = format!("shop/{name}").parse().expect("a name");
        ServiceRecord {
            instance: None,
            account: ServiceAccount::default_of(&service),
            service,
            labels: [("app".to_owned(), (*name).to_owned())].into(),
            ports: vec![PortRecord { name: "http".to_owned(), number: 9080, protocol: "http".to_owned() }],
            weight: 1,
        }
    };
    Body::Services(Services { services: names.iter().map(record).collect() })
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a name")
}

/// Whether who died by one of these events is alive by a later one.
fn is_alive_again(death: &Value, events: &Value) -> bool {
    let time = |event: &Value| event["time"].as_str().expect("a time").to_owned();
    let is_rebirth = |event: &Value| event["kind"] == "member_alive" && event["subject"] == death["subject"];
    events.as_array().is_some_and(|all| all.iter().any(|event| is_rebirth(event) && time(event) >= time(death)))
}

impl Scene {
    pub(crate) fn ask(&self, at: &str, path: &str) -> Value {
        let answer = http::get(self.cluster.node(at).address("admin"), "localhost", path).expect("an answer");
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    pub(crate) fn state(&self, at: &str, of: &str) -> Option<String> {
        let members = self.ask(at, "/v1/members?all=true");
        let row = members.as_array()?.iter().find(|row| row["name"] == of)?;
        Some(row["state"].as_str()?.to_owned())
    }

    pub(crate) fn sees(&self, at: &str, of: &str, state: &str) -> Result<(), String> {
        let seen = self.state(at, of);
        if seen.as_deref() == Some(state) { Ok(()) } else { Err(format!("{of} is {seen:?} at {at}")) }
    }

    pub(crate) fn serves(&self, at: &str, service: &str, count: usize) -> Result<(), String> {
        let endpoints = self.ask(at, &format!("/v1/endpoints?service={service}"));
        let seen = endpoints.as_array().map_or(0, Vec::len);
        if seen == count { Ok(()) } else { Err(format!("{at} sees {seen} endpoints of {service}")) }
    }

    pub(crate) fn memory(&self) -> u64 {
        HONEST.iter().map(|at| self.cluster.node(at).resident()).sum()
    }

    /// `reviews` serves something more, as everybody sees.
    pub(crate) fn add(&self) {
        let text = "[[service]]\nname = \"extra\"\nnamespace = \"shop\"\nports = [{ name = \"http\", port = 9080, protocol = \"http\", \
                    target = \"127.0.0.1:9\" }]\n";
        let file = self.cluster.file("extra.toml", text);
        eventually("its grant has arrived", || {
            let added = self.cluster.on("reviews", &["service", "add", file.to_str().expect("UTF-8")]);
            if added.code == 0 { Ok(()) } else { Err(format!("{added:?}")) }
        });
        for at in HONEST {
            eventually("its owner's word arrives", || self.serves(at, "shop/extra", 1));
        }
    }

    /// And does no more.
    pub(crate) fn remove(&self) {
        self.cluster.on("reviews", &["service", "remove", "shop/extra"]).expect_code(0);
        for at in HONEST {
            eventually("it is gone again", || self.serves(at, "shop/extra", 0));
        }
    }

    /// The run of a node by its own word.
    pub(crate) fn generation(&self, of: &str) -> u64 {
        self.ask(of, &format!("/v1/members/{of}"))["generation"].as_u64().expect("a generation")
    }

    fn key(&self, of: &str) -> SigningKey {
        SigningKey::from_pem(&file(&self.cluster, of, "record.key")).expect("a key")
    }

    fn id(&self, of: &str) -> Id {
        Id::of(&self.key(of).public(), self.generation(of))
    }

    /// Says a message of chitchat's to all.
    fn gossip(&self, message: &[u8]) {
        self.liar.tell(&payload(message));
    }

    /// Everybody but the liar is as before, and nothing in their processes broke.
    pub(crate) fn unharmed(&self) {
        for at in HONEST {
            // A machine that is short of time may doubt anybody for a moment.
            for of in HONEST {
                eventually("it is alive as before", || self.sees(at, of, "alive"));
            }
            eventually("it serves as before", || self.serves(at, "shop/reviews", 1));
            let events = self.ask(at, "/v1/events?here=true");
            let harmed = |event: &&Value| {
                let kind = event["kind"].as_str().unwrap_or_default();
                let bad = ["member_left", "member_gone", "member_evicted", "equivocation", "clone"].contains(&kind);
                // A machine that is short of time may take somebody for dead for a moment.
                let dead = kind == "member_dead" && !is_alive_again(event, &events);
                (bad || dead) && HONEST.iter().any(|of| event["subject"] == *of)
            };
            let harmed: Vec<&Value> = events.as_array().expect("a list").iter().filter(harmed).collect();
            assert!(harmed.is_empty(), "at {at}: {harmed:?}");
            let log = self.cluster.log(at);
            for word in ["panicked", "gossip ended"] {
                assert!(!log.contains(word), "at {at}: {log}");
            }
        }
        let answer = http::get(self.cluster.node("web").outbound(), "reviews", "/").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// That its carriers live: what the liar says of itself by chitchat alone arrives everywhere.
    pub(crate) fn carriers_learn(&mut self) {
        let records = self.liar.publish(&served(&[]));
        let mut delta = Delta::default().of(&Id::of(&self.liar.key.public(), self.liar.generation), 0, 0);
        for bytes in &records {
            let record = SignedRecord::decode(bytes).expect("its own");
            let value = base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, bytes);
            delta = delta.value(&format!("s{}", record.section()), &value, record.sequence(), 0);
        }
        for at in HONEST {
            eventually("the carrier brings what is well said", || {
                self.gossip(&delta.ack());
                self.serves(at, "shop/liar", 0)
            });
        }
    }

    /// Says lies, and again while some node has not told of them: one that is short of time may drop what peers gossip.
    fn lie(&self, lies: &[Vec<u8>]) {
        lies.iter().for_each(|lie| self.gossip(lie));
        self.blamed(|| lies.iter().for_each(|lie| self.gossip(lie)));
    }

    /// Everybody tells of the liar, who lies `again` until then.
    pub(crate) fn blamed(&self, again: impl Fn()) {
        for at in HONEST {
            eventually("it is told of", || {
                let log = self.cluster.log(at);
                if log.contains("a peer misbehaved") {
                    return Ok(());
                }
                again();
                std::thread::sleep(Duration::from_millis(200));
                Err(log)
            });
        }
    }
}

#[test]
fn a84_a_datagram_that_kills_chitchat_does_nothing_from_a_stranger_nor_from_a_member() {
    let mut scene = scene();
    let id = scene.id("ratings");
    let deadly = Delta::default().of(&id, 0, 0).value("s4", "forged", 9, 0).version(4).ack();
    // A stranger, as if chitchat listened there itself.
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for at in HONEST {
        let door = scene.cluster.node(at).address("mesh");
        for _ in 0..50 {
            let _ = stranger.send_to(&deadly, door);
        }
        let mut plain = http::Connection::open(door).expect("it listens");
        let _ = plain.send(&deadly);
    }
    scene.unharmed();
    // A member, over its link.
    let forged = Delta::default().of(&id, 0, 0).value("\u{e9}", "forged", u64::MAX, 0).ack();
    scene.lie(&[deadly, forged]);
    scene.carriers_learn();
    scene.unharmed();
}

#[test]
fn a85_a86_nobody_rewrites_what_a_node_says_of_itself_nor_lifts_its_numbers() {
    let mut scene = scene();
    let mut lies = Vec::new();
    for of in HONEST {
        let id = scene.id(of);
        let generation = id.generation;
        let forged = scene.liar.signed(&node(of), generation, Section::SERVICES, u64::MAX, codec::encode(&0_u8));
        let value = base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, &forged);
        lies.push(Delta::default().of(&id, 0, 0).value("s256", &value, u64::MAX, 0).ack());
        lies.push(Delta::default().of(&id, 0, 1).value("s4", "forged", u64::MAX, 1).ack());
        scene.liar.tell(&Message::Records(vec![forged]));
    }
    scene.lie(&lies);
    scene.carriers_learn();
    scene.unharmed();
    // Their own word still counts: the next number of theirs is above all that was claimed.
    scene.add();
    // The highest number of its own: nothing that it says after counts, and that harms itself.
    let last =
        scene.liar.signed(&node(LIAR), scene.liar.generation, Section::STATUS, u64::MAX, codec::encode(&Status::Up));
    scene.liar.tell(&Message::Records(vec![last]));
    let later = scene.liar.publish(&Body::Status(Status::Left));
    scene.liar.tell(&Message::Records(later));
    scene.remove();
    for at in HONEST {
        eventually("its later word is below", || scene.sees(at, LIAR, "alive"));
    }
    scene.unharmed();
}

#[test]
fn a87_a88_a89_digests_that_reset_revive_or_invent_members_change_nothing() {
    let mut scene = scene();
    let before = scene.memory();
    let victim = scene.id("ratings");
    let told = |heartbeat: u64, collected: u64| Held { id: victim.clone(), heartbeat, collected, version: u64::MAX };
    scene.lie(&[
        syn(TRUST_DOMAIN, &[told(1, u64::MAX - 1)]),
        Delta::default().of(&victim, u64::MAX - 1, 0).version(u64::MAX).ack(),
        syn(TRUST_DOMAIN, &[told(u64::MAX, 0)]),
    ]);
    // 54,000 names that nobody granted, as records too.
    for part in 0..54_u32 {
        let fake = |number: u32| {
            let id = Id {
                name: format!("x{part}-{number}"),
                generation: 1,
                address: chitchat::Address::V4([127, 0, 0, 1], 9),
            };
            Held { id, heartbeat: 1, collected: 0, version: 1 }
        };
        let digest: Vec<Held> = (0..1_000).map(fake).collect();
        scene.gossip(&syn(TRUST_DOMAIN, &digest));
        let records = (0..20).map(|number| {
            let name = node(&format!("ghost-{part}-{number}"));
            scene.liar.signed(&name, scene.liar.generation, Section::STATUS, 1, codec::encode(&Status::Up))
        });
        scene.liar.tell(&Message::Records(records.collect()));
        // And as members' digests name them.
        let ghosts = (0..1_000_u64).map(|number| {
            let [_, _, run @ ..] = (u64::from(part) * 1_000 + number).to_be_bytes();
            (run, u64::MAX, 1)
        });
        scene.gossip(&short(TRUST_DOMAIN, &ghosts.collect::<Vec<_>>()));
    }
    let run = chitchat::run(&scene.key("ratings").public(), scene.generation("ratings"));
    scene.gossip(&short(TRUST_DOMAIN, &[(run, u64::MAX, 1)]));
    scene.gossip(&short(TRUST_DOMAIN, &[(run, 1, 1), (run, 1, 1)]));
    scene.gossip(&short("another.example", &[(run, 1, 1)]));
    scene.carriers_learn();
    scene.unharmed();
    for at in HONEST {
        let members = scene.ask(at, "/v1/members?all=true");
        assert_eq!(members.as_array().map(Vec::len), Some(HONEST.len() + 1), "{members}");
    }
    let after = scene.memory();
    assert!(after < before + MEMORY, "from {before} to {after} bytes");
    // A heartbeat keeps nobody alive: who is killed is dead, whatever is said of it.
    scene.cluster.kill("ratings");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut heartbeat = u64::MAX - 10_000;
            while !ended.load(Ordering::Relaxed) {
                heartbeat += 1;
                scene.gossip(&syn(TRUST_DOMAIN, &[told(heartbeat, 0)]));
                scene.liar.tell(&Message::Probed { nonce: heartbeat, target: node("ratings"), reached: true });
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let _ending = Ending(&ended);
        for at in ["web", "reviews"] {
            eventually("it is dead", || scene.sees(at, "ratings", "dead"));
        }
    });
}

#[test]
fn a90_what_unpacks_to_more_than_a_message_is_refused_and_costs_no_memory() {
    let mut scene = scene();
    let before = scene.memory();
    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 1).expect("it packs");
    let inner = packed_bomb(4_000);
    for _ in 0..20 {
        scene.liar.tell(&Message::Carrier(codec::encode(&bomb)));
        scene.gossip(&inner);
    }
    scene.blamed(|| scene.gossip(&inner));
    scene.carriers_learn();
    scene.unharmed();
    let after = scene.memory();
    assert!(after < before + MEMORY, "from {before} to {after} bytes");
}

#[test]
fn a91_no_packet_goes_to_an_address_that_somebody_names_for_another() {
    let mut scene = scene();
    let web = scene.cluster.node("web").address("mesh");
    let SocketAddr::V4(door) = web else { panic!("{web}") };
    let [a, b, c, _] = door.ip().octets();
    let third: SocketAddr = (std::net::Ipv4Addr::new(a, b, c, 200), 0).into();
    let udp = UdpSocket::bind(third).expect("a socket");
    let named = udp.local_addr().expect("an address");
    let tcp = TcpListener::bind(named).expect("the same number");
    (udp.set_nonblocking(true), tcp.set_nonblocking(true)).0.expect("it does");
    let SocketAddr::V4(ip) = named else { panic!("{named}") };
    let address = chitchat::Address::V4(ip.ip().octets(), ip.port());
    for of in HONEST {
        let id = Id { address, ..scene.id(of) };
        let stranger = Id { name: format!("x-{of}"), ..id.clone() };
        for id in [id, stranger] {
            scene.gossip(&syn(TRUST_DOMAIN, &[Held { id: id.clone(), heartbeat: 9, collected: 0, version: 9 }]));
            scene.gossip(&Delta::default().of(&id, 0, 0).value("s2", "forged", 9, 0).ack());
        }
        // The same as a record that its owner never signed.
        let body = Address {
            addresses: vec![named],
            locality: String::new(),
            version: String::new(),
            wire: (1, 1),
            started: wall(),
        };
        let forged = scene.liar.signed(&node(of), scene.generation(of) + 1, Section::ADDRESS, 1, codec::encode(&body));
        scene.liar.tell(&Message::Records(vec![forged]));
    }
    scene.carriers_learn();
    // Several rounds of gossip, and the time in which a member is dialled anew.
    std::thread::sleep(Duration::from_secs(4));
    scene.unharmed();
    assert!(udp.recv_from(&mut [0; 2_048]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    assert!(tcp.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}
