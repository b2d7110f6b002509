//! What is let through to chitchat and what is not.

use certs::sign::SigningKey;
use chitchat::{ChitchatMessage, Deserializable};
use proptest::prelude::*;

use super::*;
use crate::brief::first;

mod room;

const GENERATION: u64 = 9;

struct Scene {
    trust_domain: TrustDomain,
    keys: Vec<SigningKey>,
    roster: Roster,
}

/// Node 0 is this one, 1 the victim, 2 the sender.
fn scene() -> Scene {
    let keys: Vec<SigningKey> = (0..3).map(|_| SigningKey::generate()).collect();
    let known = |key: &SigningKey| Known::new(key.public(), GENERATION, true, Arc::default());
    let node = |index: usize| NodeId::new(&format!("n{index}")).expect("valid");
    let members = keys.iter().enumerate().map(|(index, key)| (node(index), known(key))).collect();
    let feed = Feed { node: node(0), members, linked: vec![node(1), node(2)] };
    let trust_domain = TrustDomain::new("test.example").expect("valid");
    Scene { trust_domain, keys, roster: Roster::new(Arc::new(feed)) }
}

impl Scene {
    fn id(&self, of: usize) -> Id {
        let key = self.keys[of].public();
        Id { name: name(&key), generation: GENERATION, address: address(&key) }
    }

    fn sign(&self, of: usize, signer: usize, section: Section, sequence: u64, body: Vec<u8>) -> SignedRecord {
        let node = NodeId::new(&format!("n{of}")).expect("valid");
        let (key, mesh) = (&self.keys[signer], &self.trust_domain);
        SignedRecord::sign(key, mesh, &node, GENERATION, section, sequence, body).expect("fits")
    }

    fn value(&self, of: usize, signer: usize, sequence: u64) -> Value {
        let record = self.sign(of, signer, Section::POLICY, sequence, vec![1]);
        Value { key: key(Section::POLICY), value: value(&record), version: sequence, status: 0 }
    }

    /// This node holds a value of a member's.
    fn holding(mut self, of: usize, sequence: u64) -> Scene {
        let record = self.sign(of, of, Section::POLICY, sequence, vec![1]);
        let mut feed = (*self.roster.feed).clone();
        let node = NodeId::new(&format!("n{of}")).expect("valid");
        let records = Arc::new([(Section::POLICY, Arc::new(record))].into());
        feed.members.insert(node, Known::new(self.keys[of].public(), GENERATION, true, records));
        self.roster = Roster::new(Arc::new(feed));
        self
    }

    fn delta(&self, of: usize, values: Vec<Value>) -> Message {
        let delta = Delta { id: self.id(of), collected: 0, from: 0, values, bare_version: false };
        Message::Ack { delta: vec![delta] }
    }

    /// What a chitchat was given that has just begun.
    fn given(&self) -> Given {
        let mut given = Given::default();
        given.meet(&self.roster);
        given
    }

    fn check(&self, message: &Message) -> Result<Passed, Malformed> {
        self.judge(&self.roster.pack(message.clone(), 7), 50, &mut self.given())
    }

    fn judge(&self, payload: &[u8], beat: u64, given: &mut Given) -> Result<Passed, Malformed> {
        let from = NodeId::new("n2").expect("valid");
        self.roster.check(&self.trust_domain, &from, payload, beat, given)
    }
}

#[test]
fn an_honest_value_passes_and_chitchat_reads_it() {
    let scene = scene();
    let passed = scene.check(&scene.delta(1, vec![scene.value(1, 1, 4)])).expect("honest");
    assert_eq!(passed.learned.len(), 1);
    let message = ChitchatMessage::deserialize(&mut passed.message.as_slice()).expect("readable");
    assert!(matches!(message, ChitchatMessage::Ack { .. }));
}

#[test]
fn what_chitchat_would_believe_is_refused() {
    let scene = scene();
    let good = scene.value(1, 1, 4);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        scene.delta(1, vec![value])
    };
    let mut bare = scene.delta(1, vec![good.clone()]);
    let mut collected = bare.clone();
    if let Message::Ack { delta } = &mut bare {
        delta[0].bare_version = true;
    }
    if let Message::Ack { delta } = &mut collected {
        delta[0].collected = u64::MAX;
    }
    let hostile = [
        ("signed by another", scene.delta(1, vec![scene.value(1, 2, 4)])),
        ("under another's name", scene.delta(1, vec![scene.value(2, 2, 4)])),
        ("version raised", changed(&|value| value.version = u64::MAX)),
        ("key moved", changed(&|value| value.key = "s7".to_owned())),
        ("key not ASCII", changed(&|value| value.key = "\u{e9}".to_owned())),
        ("deleted", changed(&|value| value.status = 1)),
        ("deleted later", changed(&|value| value.status = 2)),
        ("unknown status", changed(&|value| value.status = 200)),
        ("no record", changed(&|value| value.value = "AAAA".to_owned())),
        ("versions fall", scene.delta(1, vec![good.clone(), scene.value(1, 1, 3)])),
        ("bare version below the last value", bare),
        ("collection of deletions", collected),
    ];
    for (what, message) in hostile {
        assert!(scene.check(&message).is_err(), "{what} passed");
    }
}

#[test]
fn news_about_this_node_and_strangers_is_left_out() {
    let scene = scene();
    // The sender knows a stranger, and itself in another run.
    let mut feed = (*scene.roster.feed).clone();
    let known = |key: &SigningKey, generation: u64| Known::new(key.public(), generation, true, Arc::default());
    let (stranger, sender) = (NodeId::new("n9").expect("valid"), NodeId::new("n2").expect("valid"));
    feed.members.insert(stranger, known(&SigningKey::generate(), GENERATION));
    feed.members.insert(sender, known(&scene.keys[2], GENERATION - 1));
    let theirs = Roster::new(Arc::new(feed));
    let own = Delta { id: scene.id(0), collected: 0, from: 0, values: vec![scene.value(0, 0, 7)], bare_version: false };
    let held = |known: &Known| Held { id: id(known), heartbeat: u64::MAX, collected: 0, version: u64::MAX };
    let digest = theirs.feed.members.values().map(held).collect();
    let told = theirs.pack(Message::SynAck { digest, delta: vec![own] }, 7);
    let passed = scene.judge(&told, 50, &mut scene.given()).expect("no blame");
    assert!(passed.unknown && passed.learned.is_empty());
    let Ok(Message::SynAck { digest, delta }) = wire::read(&passed.message) else { panic!("a SynAck") };
    assert!(delta.is_empty());
    let heartbeats: Vec<u64> = digest.iter().map(|held| held.heartbeat).collect();
    assert_eq!(heartbeats, [50, 50], "this node's judgement instead of the sender's");
}

/// chitchat's own digests say sixty bytes of a member where nine will do, and things that nobody needs to believe.
#[test]
fn messages_that_no_member_writes_are_refused() {
    let scene = scene();
    let held = |of: usize| Held { id: scene.id(of), heartbeat: 1, collected: 0, version: 9 };
    let refused = [
        Message::Syn { cluster: "test.example".to_owned(), digest: vec![held(1)] },
        Message::SynAck { digest: vec![held(1)], delta: Vec::new() },
        Message::BadCluster,
    ];
    for message in refused {
        assert!(scene.judge(&wire::pack(&wire::write(&message)), 1, &mut scene.given()).is_err(), "{message:?}");
    }
}

#[test]
fn earlier_runs_and_former_members_are_not_sent() {
    let scene = scene();
    let mut stranger = scene.id(1);
    stranger.name = "stranger".to_owned();
    let mut old = scene.id(2);
    old.generation -= 1;
    let held = |id: Id| Held { id, heartbeat: 1, collected: 0, version: 1 };
    let news = |id: Id| Delta { id, collected: 0, from: 0, values: Vec::new(), bare_version: true };
    let message = |ids: &[Id]| Message::SynAck {
        digest: ids.iter().cloned().map(held).collect(),
        delta: ids.iter().cloned().map(news).collect(),
    };
    let whole = wire::write(&message(&[scene.id(0), stranger, scene.id(1), old]));
    let sent = scene.roster.trim(&whole, &mut scene.given()).expect("chitchat's own");
    assert_eq!(sent, message(&[scene.id(0), scene.id(1)]));
}

#[test]
fn a_short_digest_says_what_a_whole_one_does() {
    let scene = scene().holding(1, 9);
    let held = |of: usize, version: u64| Held { id: scene.id(of), heartbeat: 1, collected: 0, version };
    let message = Message::SynAck {
        digest: vec![held(0, 3), held(1, 9), held(2, 0)],
        delta: vec![Delta {
            id: scene.id(2),
            collected: 0,
            from: 0,
            values: vec![scene.value(2, 2, 4)],
            bare_version: false,
        }],
    };
    let payload = scene.roster.pack(message.clone(), 7);
    let passed = scene.judge(&payload, 1, &mut scene.given()).expect("honest");
    assert_eq!((passed.learned.len(), passed.unknown, passed.differ), (1, false, Vec::new()));
    let parts = |message: Message| {
        let Message::SynAck { mut digest, delta } = message else { panic!("a SynAck") };
        digest.sort_by(|one, other| one.id.name.cmp(&other.id.name));
        (digest, delta)
    };
    let long = wire::write(&message).len();
    assert_eq!(parts(wire::read(&passed.message).expect("own")), parts(message));
    assert!(payload.len() < long);
    let syn = |cluster: &str| Message::Syn { cluster: cluster.to_owned(), digest: vec![held(1, 9)] };
    assert!(scene.judge(&scene.roster.pack(syn("test.example"), 7), 50, &mut scene.given()).is_ok());
    assert!(scene.judge(&scene.roster.pack(syn("two.example"), 7), 50, &mut scene.given()).is_err());
}

#[test]
fn who_holds_something_else_under_the_same_number_is_told_of() {
    let ours = scene().holding(1, 9);
    let key = ours.keys[1].public();
    let other = ours.sign(1, 1, Section::POLICY, 9, vec![2]);
    let mut feed = (*ours.roster.feed).clone();
    let records = Arc::new([(Section::POLICY, Arc::new(other))].into());
    feed.members.insert(NodeId::new("n1").expect("valid"), Known::new(key, GENERATION, true, records));
    let theirs = Roster::new(Arc::new(feed));
    let syn = || Message::Syn {
        cluster: "test.example".to_owned(),
        digest: vec![Held { id: ours.id(1), heartbeat: 1, collected: 0, version: 9 }],
    };
    let found = (0_u128..20).filter(|salt| {
        let salt = first(&Digest::of(&salt.to_be_bytes()));
        let passed = ours.judge(&theirs.pack(syn(), salt), 50, &mut ours.given()).expect("honest");
        let same = ours.judge(&ours.roster.pack(syn(), salt), 50, &mut ours.given()).expect("honest");
        assert!(same.differ.is_empty());
        passed.differ == [NodeId::new("n1").expect("valid")]
    });
    assert!(found.count() >= 18);
}

#[test]
fn a_digest_of_many_fakes_costs_nothing() {
    let scene = scene();
    let fakes = (0..1_000_u64).map(|number| (brief::Run::of(&scene.keys[1].public(), number << 24), 1));
    let digest = Index::default().brief_of(fakes, 7);
    let payload = wire::pack(&Short::new(Some("test.example".to_owned()), digest, Vec::new()).write());
    let passed = scene.judge(&payload, 1, &mut scene.given()).expect("no blame");
    assert!(passed.message.len() < 100 && passed.unknown);
}

#[test]
fn bombs_do_not_unpack() {
    let scene = scene();
    let zeros = vec![0_u8; 50 << 20];
    let outer = wire::pack(&zeros);
    assert!(outer.len() < 100_000);
    assert!(scene.judge(&outer, 1, &mut scene.given()).is_err());
    // Many blocks, each small when packed and 64 KiB when not.
    let block = zstd::bulk::compress(&zeros[..60_000], 1).expect("packs");
    let mut bytes = vec![0x53, 0xb0, 0, 2];
    for _ in 0..1_000 {
        bytes.push(1);
        bytes.extend(u16::try_from(block.len()).expect("small").to_le_bytes());
        bytes.extend(&block);
    }
    bytes.push(0);
    assert!(scene.judge(&wire::pack(&bytes), 1, &mut scene.given()).is_err());
}

#[test]
fn a_member_has_as_many_values_as_a_node_has_sections() {
    let scene = scene();
    let section = |number: u16| {
        let section = [Section::SERVICES, Section::HEALTH, Section::POLICY, Section::ADDRESS][usize::from(number / 32)];
        let record = scene.sign(1, 1, section.part(number % 32), u64::from(number) + 1, Vec::new());
        Value { key: key(record.section()), value: value(&record), version: record.sequence(), status: 0 }
    };
    let mut given = scene.given();
    let mut passed = 0;
    for numbers in [0..40, 40..80, 80..120] {
        let message = scene.delta(1, numbers.map(section).collect());
        let judged = scene.judge(&wire::pack(&wire::write(&message)), 1, &mut given).expect("no blame");
        let Ok(Message::Ack { delta }) = wire::read(&judged.message) else { panic!("an Ack") };
        passed += delta.iter().map(|news| news.values.len()).sum::<usize>();
        assert!(judged.learned.len() <= SECTIONS);
    }
    assert_eq!(passed, SECTIONS);
}

#[test]
fn signatures_of_one_peer_are_checked_up_to_a_limit_and_others_go_on() {
    let scene = scene();
    let many = |of: usize, from: u64| (from..from + 250).map(|sequence| scene.value(of, of, sequence)).collect();
    let mut given = scene.given();
    let mut learned = |of: usize, sequence: u64, from: &str, refresh: bool| {
        if refresh {
            given.refresh();
        }
        let message = scene.delta(of, many(of, sequence));
        let (from, payload) = (NodeId::new(from).expect("valid"), wire::pack(&wire::write(&message)));
        scene.roster.check(&scene.trust_domain, &from, &payload, 1, &mut given).expect("no blame").learned.len()
    };
    let limit = usize::try_from(CHECKS).expect("small");
    assert_eq!(learned(1, 1, "n2", false), 250);
    assert_eq!(learned(2, 1, "n2", false), limit - 250);
    assert_eq!(learned(2, 251, "n2", false), 0);
    // Of one author as many as the ledger takes, whoever brings them.
    assert_eq!(learned(2, 251, "n1", false), 50);
    assert_eq!(learned(2, 301, "n1", false), 0);
    assert_eq!(learned(2, 301, "n2", true), 50);
}

#[test]
fn what_somebody_makes_up_is_not_counted_to_the_author_in_whose_name_it_stands() {
    let scene = scene();
    let mut given = scene.given();
    let mut tell = |value: Value| {
        let payload = wire::pack(&wire::write(&scene.delta(1, vec![value])));
        scene.judge(&payload, 1, &mut given).map(|passed| passed.learned.len())
    };
    for sequence in 1..=400 {
        assert!(tell(scene.value(1, 2, sequence)).is_err(), "a forged one passed");
    }
    assert_eq!(tell(scene.value(1, 1, 401)).expect("no blame"), 1);
}

#[test]
fn what_is_held_newer_is_neither_checked_nor_kept() {
    let scene = scene().holding(1, 9);
    let older = scene.value(1, 2, 4);
    let passed =
        scene.check(&scene.delta(1, vec![older, scene.value(1, 1, 9), scene.value(1, 1, 10)])).expect("no blame");
    assert_eq!(passed.learned.len(), 1, "the tenth alone is new");
    let Ok(Message::Ack { delta }) = wire::read(&passed.message) else { panic!("an Ack") };
    let versions: Vec<u64> = delta[0].values.iter().map(|value| value.version).collect();
    assert_eq!(versions, [9, 10]);
}

#[test]
fn another_truth_under_the_number_of_one_held_is_told_and_not_kept() {
    let scene = scene().holding(1, 9);
    let other = scene.sign(1, 1, Section::POLICY, 9, vec![2]);
    let value = Value { key: key(Section::POLICY), value: value(&other), version: 9, status: 0 };
    let passed = scene.check(&scene.delta(1, vec![value])).expect("no blame");
    assert_eq!(passed.learned.len(), 1);
    assert_eq!(wire::read(&passed.message), Ok(Message::Ack { delta: Vec::new() }));
}

/// As chitchat packs it: blocks of 16 KiB, budgeted by what they pack to.
fn packed(operations: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x53, 0xb0, 0, 2];
    for block in operations.chunks(16_384) {
        let packed = zstd::bulk::compress(block, 0).expect("packs");
        bytes.push(1);
        bytes.extend(u16::try_from(packed.len()).expect("small").to_le_bytes());
        bytes.extend(packed);
    }
    bytes.push(0);
    bytes
}

#[test]
fn a_delta_that_unpacks_to_much_is_cut_and_the_rest_follows() {
    let scene = scene();
    let value = |sequence: u64| {
        let record = scene.sign(1, 1, Section::POLICY, sequence, vec![0; 5_000]);
        Value { key: key(Section::POLICY), value: value(&record), version: sequence, status: 0 }
    };
    let values: Vec<Value> = (1..=300).map(value).collect();
    let mut operations = Vec::new();
    wire::write_operations(
        &[Delta { id: scene.id(1), collected: 0, from: 0, values: values.clone(), bare_version: false }],
        &mut operations,
    );
    assert!(operations.len() > 1 << 20);
    let message = packed(&operations);
    assert!(message.len() < 65_507);
    let sent = scene.roster.trim(&message, &mut scene.given()).expect("chitchat's own");
    let passed = scene.judge(&scene.roster.pack(sent, 7), 1, &mut scene.given()).expect("no blame");
    let Ok(Message::Ack { delta }) = wire::read(&passed.message) else { panic!("an Ack") };
    assert!(delta[0].values.len() > 10);
    assert_eq!(delta[0].values, values[..delta[0].values.len()], "the first ones, in order");
}

#[test]
fn who_filled_a_message_is_passed_over_for_a_while() {
    let scene = scene();
    let mut noise = 1_u64;
    let mut value = |sequence: u64| {
        let body = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            noise.to_le_bytes()[7]
        });
        let record = scene.sign(1, 1, Section::POLICY, sequence, body.take(5_000).collect());
        Value { key: key(Section::POLICY), value: value(&record), version: sequence, status: 0 }
    };
    let values: Vec<Value> = (1..=12).map(&mut value).collect();
    let mut given = scene.given();
    let full = wire::write(&scene.delta(1, values));
    assert!(full.len() > FULL_BYTES);
    scene.roster.trim(&full, &mut given).expect("chitchat's own");
    let held = |of: usize| Held { id: scene.id(of), heartbeat: 1, collected: 0, version: 5 };
    let syn = Message::Syn { cluster: "test.example".to_owned(), digest: vec![held(1), held(2)] };
    let mut seen = || {
        let passed = scene.judge(&scene.roster.pack(syn.clone(), 7), 1, &mut given).expect("no blame");
        let Ok(Message::Syn { digest, .. }) = wire::read(&passed.message) else { panic!("a Syn") };
        let of = |index: usize| digest.iter().find(|held| held.id == scene.id(index)).map(|held| held.version);
        (of(1), of(2))
    };
    assert_eq!(seen(), (Some(u64::MAX), Some(5)));
    let later = (0..20).map(|_| seen()).last();
    assert_eq!(later, Some((Some(5), Some(5))));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0_u8..5) {
        let scene = scene();
        let _ = scene.judge(&bytes, 1, &mut scene.given());
        let _ = scene.judge(&wire::pack(&bytes), 1, &mut scene.given());
        let mut framed = vec![0x53, 0xb0, 0, kind];
        framed.extend(bytes);
        if let Ok(passed) = scene.judge(&wire::pack(&framed), 1, &mut scene.given()) {
            prop_assert!(ChitchatMessage::deserialize(&mut passed.message.as_slice()).is_ok());
        }
    }

    #[test]
    fn what_is_written_is_read(version in any::<u64>(), heartbeat in any::<u64>(), text in "\\PC{0,40}") {
        let scene = scene();
        let digest = vec![Held { id: scene.id(1), heartbeat, collected: version, version }];
        let values = vec![Value { key: text.clone(), value: text, version, status: 1 }; 3];
        let delta = vec![Delta { id: scene.id(2), collected: 1, from: version, values, bare_version: false }];
        let message = Message::SynAck { digest, delta };
        prop_assert_eq!(wire::read(&wire::write(&message)), Ok(message));
    }
}
