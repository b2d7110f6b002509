//! The bytes of every body, message and record, as they must stay: nodes of neighbouring versions talk to each other, and disks
//! outlive builds. What differs here is a change of the wire. It takes a new section, kind or version, never another meaning of these.

use std::{collections::BTreeMap, fmt::Write as _};

use certs::{
    id::{NodeId, TrustDomain},
    sign::{Digest, SigningKey},
};

use crate::{
    body::{
        Address, Body, Checked, Health, HealthRecord, HealthState, Identity, Policy, PortRecord, ServiceRecord,
        Services, Status, Table,
    },
    message::{Latest, Message},
    record::{Section, SignedRecord},
    statement::{DemandRecord, OutlierRecord},
};

/// A line each: what, and its bytes.
const KEPT: &str = include_str!("golden.txt");
/// A key of this test alone.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\n-----END PRIVATE KEY-----\n";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn latest() -> Latest {
    Latest { node: node("b"), generation: 1 << 40, sequence: 300 }
}

fn bodies() -> Vec<Body> {
    let service = || "shop/cart".parse().unwrap();
    let port = PortRecord { name: "http".into(), number: 9080, protocol: "http".into() };
    let record = ServiceRecord {
        instance: Some("two".into()),
        service: service(),
        account: "shop/default".parse().unwrap(),
        labels: BTreeMap::from([("app".into(), "cart".into())]),
        ports: vec![port],
        weight: 1,
    };
    let address = Address {
        addresses: vec!["10.0.0.1:15008".parse().unwrap(), "[fd00::1]:15008".parse().unwrap()],
        locality: "eu/eu-1a".into(),
        version: "0.1.0".into(),
        wire: (1, 2),
        started: 1_700_000_000_000,
    };
    let state = HealthState { healthy: false, since: 1_700_000_000_000, reason: "refused".into() };
    let policy = Policy {
        digest: Digest([1; 32]),
        count: 7,
        recent: vec![Digest([2; 32])],
        applied: Digest([3; 32]),
        audit: (9, Digest([4; 32])),
    };
    let outlier = OutlierRecord {
        node: node("b"),
        service: service(),
        instance: None,
        failures: 5,
        requests: 70_000,
        latency_us: 1_500,
    };
    let demand = DemandRecord { limit: [5; 16], demand: 1_000_000, given: vec![(node("b"), 250)] };
    vec![
        Body::Identity(Identity { chain: vec![vec![1, 2, 3]] }),
        Body::Address(address),
        Body::Services(Services { services: vec![record] }),
        Body::Health(Health { endpoints: vec![HealthRecord { service: service(), instance: None, state }] }),
        Body::Policy(policy),
        Body::Status(Status::Up),
        Body::Status(Status::Draining),
        Body::Status(Status::Left),
        Body::Outliers(vec![outlier]),
        Body::Demand(vec![demand]),
        Body::Suspicions(vec![latest()]),
    ]
}

/// Its name in the file. A new kind of body needs one here, an example above and a line there.
fn name_of(body: &Body) -> &'static str {
    match body {
        Body::Identity(_) => "identity",
        Body::Address(_) => "address",
        Body::Services(_) => "services",
        Body::Health(_) => "health",
        Body::Policy(_) => "policy",
        Body::Status(Status::Up) => "up",
        Body::Status(Status::Draining) => "draining",
        Body::Status(Status::Left) => "left",
        Body::Outliers(_) => "outliers",
        Body::Demand(_) => "demand",
        Body::Suspicions(_) => "suspicions",
    }
}

/// A body of the same kind, read from bytes.
fn reread(body: &Body, bytes: &[u8]) -> Body {
    match body {
        Body::Identity(_) => Body::Identity(Identity::read(bytes).unwrap()),
        Body::Address(_) => Body::Address(Address::read(bytes).unwrap()),
        Body::Services(_) => Body::Services(Services { services: Checked::read(bytes).unwrap() }),
        Body::Health(_) => Body::Health(Health { endpoints: Checked::read(bytes).unwrap() }),
        Body::Policy(_) => Body::Policy(Policy::read(bytes).unwrap()),
        Body::Status(_) => Body::Status(Status::read(bytes).unwrap()),
        Body::Outliers(_) => Body::Outliers(Checked::read(bytes).unwrap()),
        Body::Demand(_) => Body::Demand(Checked::read(bytes).unwrap()),
        Body::Suspicions(_) => Body::Suspicions(Checked::read(bytes).unwrap()),
    }
}

fn messages() -> Vec<Message> {
    vec![
        Message::Records(vec![vec![1, 2], vec![3]]),
        Message::Summary(vec![(latest(), true)]),
        Message::Pull(vec![(node("b"), vec![Section::ADDRESS, Section::SERVICES])]),
        Message::Ping(70_000),
        Message::Ack(1),
        Message::Probe { nonce: 2, target: node("b") },
        Message::Probed { nonce: 2, target: node("b"), reached: true },
        Message::Have(vec![latest()]),
        Message::Parting,
        Message::Carrier(vec![9, 8]),
        Message::Proof(vec![1], vec![2]),
    ]
}

/// Its name in the file. A new message needs one here, an example above and a line there.
fn name_of_message(message: &Message) -> &'static str {
    match message {
        Message::Records(_) => "records",
        Message::Summary(_) => "summary",
        Message::Pull(_) => "pull",
        Message::Ping(_) => "ping",
        Message::Ack(_) => "ack",
        Message::Probe { .. } => "probe",
        Message::Probed { .. } => "probed",
        Message::Have(_) => "have",
        Message::Parting => "parting",
        Message::Carrier(_) => "carrier",
        Message::Proof(..) => "proof",
    }
}

fn table() -> Table {
    Table { entries: BTreeMap::from([(Section::IDENTITY, 1), (Section::SERVICES, 300)]) }
}

fn record(key: &SigningKey) -> SignedRecord {
    let domain = TrustDomain::new("t.example").unwrap();
    SignedRecord::sign(key, &domain, &node("a"), 1 << 40, Section::STATUS, 300, vec![0]).unwrap()
}

#[test]
fn what_travels_and_is_kept_stays_as_it_is() {
    let key = SigningKey::from_pem(KEY).unwrap();
    let mut made = Vec::new();
    for body in bodies() {
        for (section, bytes) in body.parts().unwrap() {
            made.push(format!("body {} {} {}", name_of(&body), section.0, hex(&bytes)));
        }
    }
    made.push(format!("table {}", hex(&certs::codec::encode(&table()))));
    let line = |message: &Message| format!("message {} {}", name_of_message(message), hex(&message.encode()));
    made.extend(messages().iter().map(line));
    made.push(format!("record {}", hex(record(&key).bytes())));
    let kept: Vec<&str> = KEPT.lines().collect();
    assert!(kept == made, "membership/src/golden.txt has other bytes than this build makes:\n{}", made.join("\n"));
}

#[test]
fn what_was_written_once_is_read() {
    let find = |what: &str| KEPT.lines().find_map(|line| line.strip_prefix(what)).map(bytes).unwrap();
    for body in bodies() {
        for (section, _) in body.parts().unwrap() {
            let name = name_of(&body);
            assert_eq!(reread(&body, &find(&format!("body {name} {} ", section.0))), body, "{name}");
        }
    }
    assert_eq!(Table::read(&find("table ")).unwrap(), table());
    for message in messages() {
        let name = name_of_message(&message);
        assert_eq!(Message::decode(&find(&format!("message {name} "))).unwrap(), Some(message), "{name}");
    }
    let key = SigningKey::from_pem(KEY).unwrap();
    let read = SignedRecord::decode(&find("record ")).unwrap();
    read.verify(&TrustDomain::new("t.example").unwrap(), &key.public()).unwrap();
    assert_eq!(read.bytes(), record(&key).bytes());
}
