//! The bytes of every body, message and record, as they must stay: nodes of neighbouring versions talk to each other, and disks
//! outlive builds. What differs here is a change of the wire. It takes a new section, kind or version, never another meaning of these.

use std::{collections::BTreeMap, fmt::Write as _};

use certs::{
    id::{NodeId, TrustDomain},
    sign::{Digest, SigningKey},
};

use crate::{
    body::{
        Address, Body, Health, HealthRecord, HealthState, Identity, Policy, PortRecord, ServiceRecord, Services,
        Status, Table,
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

fn bodies() -> Vec<(&'static str, Body)> {
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
        ("identity", Body::Identity(Identity { chain: vec![vec![1, 2, 3]] })),
        ("address", Body::Address(address)),
        ("services", Body::Services(Services { services: vec![record] })),
        (
            "health",
            Body::Health(Health { endpoints: vec![HealthRecord { service: service(), instance: None, state }] }),
        ),
        ("policy", Body::Policy(policy)),
        ("up", Body::Status(Status::Up)),
        ("draining", Body::Status(Status::Draining)),
        ("left", Body::Status(Status::Left)),
        ("outliers", Body::Outliers(vec![outlier])),
        ("demand", Body::Demand(vec![demand])),
        ("suspicions", Body::Suspicions(vec![latest()])),
    ]
}

fn messages() -> Vec<(&'static str, Message)> {
    vec![
        ("records", Message::Records(vec![vec![1, 2], vec![3]])),
        ("summary", Message::Summary(vec![(latest(), true)])),
        ("pull", Message::Pull(vec![(node("b"), vec![Section::ADDRESS, Section::SERVICES])])),
        ("ping", Message::Ping(70_000)),
        ("ack", Message::Ack(1)),
        ("probe", Message::Probe { nonce: 2, target: node("b") }),
        ("probed", Message::Probed { nonce: 2, target: node("b"), reached: true }),
        ("have", Message::Have(vec![latest()])),
        ("parting", Message::Parting),
        ("carrier", Message::Carrier(vec![9, 8])),
        ("proof", Message::Proof(vec![1], vec![2])),
    ]
}

fn record(key: &SigningKey) -> SignedRecord {
    let domain = TrustDomain::new("t.example").unwrap();
    SignedRecord::sign(key, &domain, &node("a"), 1 << 40, Section::STATUS, 300, vec![0]).unwrap()
}

#[test]
fn what_travels_and_is_kept_stays_as_it_is() {
    let key = SigningKey::from_pem(KEY).unwrap();
    let mut made = Vec::new();
    for (name, body) in bodies() {
        for (section, bytes) in body.parts().unwrap() {
            made.push(format!("body {name} {} {}", section.0, hex(&bytes)));
        }
    }
    let table = Table { entries: BTreeMap::from([(Section::IDENTITY, 1), (Section::SERVICES, 300)]) };
    made.push(format!("table {}", hex(&certs::codec::encode(&table))));
    made.extend(messages().iter().map(|(name, message)| format!("message {name} {}", hex(&message.encode()))));
    made.push(format!("record {}", hex(record(&key).bytes())));
    let kept: Vec<&str> = KEPT.lines().collect();
    assert!(kept == made, "membership/src/golden.txt has other bytes than this build makes:\n{}", made.join("\n"));
}

#[test]
fn what_was_written_once_is_read() {
    let find = |what: &str| KEPT.lines().find_map(|line| line.strip_prefix(what)).map(bytes).unwrap();
    for (name, message) in messages() {
        assert_eq!(Message::decode(&find(&format!("message {name} "))).unwrap(), Some(message), "{name}");
    }
    let key = SigningKey::from_pem(KEY).unwrap();
    let read = SignedRecord::decode(&find("record ")).unwrap();
    read.verify(&TrustDomain::new("t.example").unwrap(), &key.public()).unwrap();
    assert_eq!(read.bytes(), record(&key).bytes());
}
