//! What one message does to chitchat by itself, and that it does nothing behind the check: attacks A84 to A91.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use certs::{
    id::{NodeId, TrustDomain},
    sign::SigningKey,
};
use chitchat::{ChitchatHandle, ChitchatMessage, Deserializable};
use tokio::sync::mpsc;

use super::{
    Carrier, Ends, Feed, Gossip, GossipConfig, Known, Outgoing, Wire, check,
    wire::{self, Delta, Held, Id, Message, Value},
};
use crate::{
    brief,
    record::{Section, SignedRecord},
};

const GENERATION: u64 = 9;
const DEADLINE: Duration = Duration::from_secs(20);

/// `n0` is attacked, `n1` is what `n2` speaks of.
struct Scene {
    trust_domain: TrustDomain,
    keys: Vec<SigningKey>,
}

fn node(index: usize) -> NodeId {
    NodeId::new(&format!("n{index}")).expect("valid")
}

impl Scene {
    fn new() -> Scene {
        let keys = (0..3).map(|_| SigningKey::generate()).collect();
        Scene { trust_domain: TrustDomain::new("test.example").expect("valid"), keys }
    }

    fn id(&self, of: usize) -> Id {
        let key = self.keys[of].public();
        Id { name: check::name(&key), generation: GENERATION, address: check::address(&key) }
    }

    fn record(&self, of: usize, sequence: u64) -> Arc<SignedRecord> {
        let (key, mesh) = (&self.keys[of], &self.trust_domain);
        let record = SignedRecord::sign(key, mesh, &node(of), GENERATION, Section::POLICY, sequence, vec![1]);
        Arc::new(record.expect("fits"))
    }

    fn value(&self, of: usize, sequence: u64) -> Value {
        let value = check::value(&self.record(of, sequence));
        Value { key: check::key(Section::POLICY), value, version: sequence, status: 0 }
    }

    fn delta(&self, of: usize, values: Vec<Value>) -> Delta {
        Delta { id: self.id(of), collected: 0, from: 0, values, bare_version: false }
    }

    fn held(&self, of: usize) -> Held {
        Held { id: self.id(of), heartbeat: 5, collected: 0, version: 0 }
    }

    fn feed(&self) -> Feed {
        let known = |index: usize| {
            let records = Arc::new(BTreeMap::from([(Section::POLICY, self.record(index, 3))]));
            Known::new(self.keys[index].public(), GENERATION, true, records)
        };
        let members = (0..3).map(|index| (node(index), known(index))).collect();
        Feed { node: node(0), members, linked: vec![node(1), node(2)] }
    }

    /// The attacked node's chitchat without anything around it; it knows of `n1`.
    async fn bare(&self) -> (ChitchatHandle, mpsc::Sender<(std::net::SocketAddr, ChitchatMessage)>) {
        let (told, inbox) = mpsc::channel(16);
        let (outbox, mut sent) = mpsc::channel(16);
        let gossip =
            GossipConfig { trust_domain: self.trust_domain.clone(), interval: Duration::from_secs(3_600), seed: 1 };
        let config = super::chitchat_config(&gossip, &self.feed()).expect("in its own feed");
        let wire = Wire(std::sync::Mutex::new(Some(Ends { inbox, outbox })));
        let own = vec![("s4".to_owned(), "its own word".to_owned())];
        let handle = chitchat::spawn_chitchat(config, own, &wire).await.expect("starts");
        #[expect(clippy::disallowed_methods, reason = "a test owns its tasks by itself")]
        tokio::spawn(async move { while sent.recv().await.is_some() {} });
        let honest = Message::SynAck { digest: vec![self.held(1)], delta: vec![self.delta(1, vec![self.value(1, 3)])] };
        told.send((check::ANY, read(&honest))).await.expect("runs");
        (handle, told)
    }

    /// What the attacked node's carrier says to a message of `n2`; afterwards it must still learn from it.
    async fn guarded(&self, message: &Message) -> Vec<Outgoing> {
        self.guarded_from(wire::pack(&wire::write(message))).await
    }

    async fn guarded_from(&self, payload: Vec<u8>) -> Vec<Outgoing> {
        let config =
            GossipConfig { trust_domain: self.trust_domain.clone(), interval: Duration::from_millis(50), seed: 1 };
        let (gossip, mut said, run) = Gossip::start(config);
        #[expect(clippy::disallowed_methods, reason = "a test owns its tasks by itself")]
        tokio::spawn(run);
        gossip.feed(Arc::new(self.feed()));
        gossip.deliver(&node(2), &payload);
        let honest = Message::Ack { delta: vec![self.delta(2, vec![self.value(2, 7)])] };
        gossip.deliver(&node(2), &wire::pack(&wire::write(&honest)));
        let mut heard = Vec::new();
        let learns = async {
            while let Some(outgoing) = said.recv().await {
                let learned = matches!(&outgoing, Outgoing::Learned(records) if records[0].sequence() == 7);
                heard.push(outgoing);
                if learned {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, learns).await.expect("the carrier lives and learns");
        heard
    }
}

fn read(message: &Message) -> ChitchatMessage {
    ChitchatMessage::deserialize(&mut wire::write(message).as_slice()).expect("chitchat reads it")
}

async fn dies(handle: &ChitchatHandle) -> bool {
    tokio::time::timeout(DEADLINE, handle.termination_watcher()).await.is_ok_and(|ended| ended.is_err())
}

fn blamed(heard: &[Outgoing]) -> bool {
    heard.iter().any(|outgoing| matches!(outgoing, Outgoing::Hostile { from, .. } if *from == node(2)))
}

#[tokio::test]
async fn a84_a_version_below_the_last_value_kills_chitchat_and_is_refused_here() {
    let scene = Scene::new();
    // The version that `bare_version` writes is the highest; below the value's it is what kills.
    let delta = Delta { bare_version: true, ..scene.delta(1, vec![scene.value(1, 9)]) };
    let mut bytes = wire::write(&Message::Ack { delta: vec![delta.clone()] });
    let place = bytes.windows(8).rposition(|window| window == u64::MAX.to_le_bytes()).expect("written");
    bytes[place..place + 8].copy_from_slice(&4_u64.to_le_bytes());
    let (handle, told) = scene.bare().await;
    let message = ChitchatMessage::deserialize(&mut bytes.as_slice()).expect("chitchat reads it");
    told.send((check::ANY, message)).await.expect("runs");
    assert!(dies(&handle).await);
    assert!(blamed(&scene.guarded(&Message::Ack { delta: vec![delta] }).await));
}

#[tokio::test]
async fn a84_a_key_that_is_not_ascii_kills_chitchat_too_and_is_refused_here() {
    let scene = Scene::new();
    let value = Value { key: "\u{e9}".to_owned(), ..scene.value(1, 9) };
    let message = Message::Ack { delta: vec![scene.delta(1, vec![value])] };
    let (handle, told) = scene.bare().await;
    told.send((check::ANY, read(&message))).await.expect("runs");
    assert!(dies(&handle).await);
    assert!(blamed(&scene.guarded(&message).await));
}

#[tokio::test]
async fn a85_a86_chitchat_lets_others_rewrite_what_a_node_says_of_itself() {
    let scene = Scene::new();
    let forged = Value { key: "s4".to_owned(), value: "forged".to_owned(), version: u64::MAX, status: 0 };
    let message = Message::Ack { delta: vec![Delta { from: 1, ..scene.delta(0, vec![forged]) }] };
    let (handle, told) = scene.bare().await;
    told.send((check::ANY, read(&message))).await.expect("runs");
    let rewritten = async {
        loop {
            let own = handle.with_chitchat(|chitchat| chitchat.self_node_state().get("s4").map(str::to_owned)).await;
            if own.as_deref() == Some("forged") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, rewritten).await.expect("chitchat believes it");
    // Above the highest number there is none: the next word of its own panics, by the overflow where these are checked, else by the
    // assertion that versions rise, which the version that wrapped to 0 meets.
    let again = handle.with_chitchat(|chitchat| {
        let set = std::panic::AssertUnwindSafe(|| chitchat.self_node_state().set("s4", "its own word again"));
        std::panic::catch_unwind(set).is_err()
    });
    assert!(again.await);
    let heard = scene.guarded(&message).await;
    assert!(blamed(&heard), "{heard:?}");
}

#[tokio::test]
async fn a87_a_collection_of_deletions_makes_chitchat_forget_and_is_refused_here() {
    let scene = Scene::new();
    let reset = Delta { collected: u64::MAX - 1, ..scene.delta(1, Vec::new()) };
    let message = Message::Ack { delta: vec![Delta { bare_version: true, ..reset }] };
    let (handle, told) = scene.bare().await;
    told.send((check::ANY, read(&message))).await.expect("runs");
    let forgotten = async {
        loop {
            let known = handle.with_chitchat(|chitchat| {
                let states = chitchat.node_states().iter();
                states.filter(|(id, _)| *id.node_id == *scene.id(1).name).any(|(_, state)| state.get("s4").is_some())
            });
            if !known.await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, forgotten).await.expect("chitchat forgets it");
    assert!(blamed(&scene.guarded(&message).await));
}

#[tokio::test]
async fn a88_a_heartbeat_of_others_counts_for_nothing_here() {
    let scene = Scene::new();
    let digest = vec![Held { heartbeat: u64::MAX, ..scene.held(1) }];
    let (handle, told) = scene.bare().await;
    let syn = Message::Syn { cluster: "test.example".to_owned(), digest: digest.clone() };
    told.send((check::ANY, read(&syn))).await.expect("runs");
    let lifted = async {
        loop {
            let states = handle.with_chitchat(|chitchat| format!("{:?}", chitchat.node_states()));
            if states.await.contains(&u64::MAX.to_string()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, lifted).await.expect("chitchat believes it, and no true heartbeat after it");
    let heard = scene.guarded(&Message::Syn { cluster: "test.example".to_owned(), digest }).await;
    assert!(blamed(&heard), "members' digests have no heartbeats");
}

#[tokio::test]
async fn a89_chitchat_keeps_every_name_it_hears_and_this_node_none() {
    let scene = Scene::new();
    let fake = |index: u16| Held {
        id: Id { name: format!("x{index}"), generation: 1, address: check::ANY },
        heartbeat: 1,
        collected: 0,
        version: 1,
    };
    let message = Message::Syn { cluster: "test.example".to_owned(), digest: (0..500).map(fake).collect() };
    let (handle, told) = scene.bare().await;
    told.send((check::ANY, read(&message))).await.expect("runs");
    let grown = async {
        while handle.with_chitchat(|chitchat| chitchat.node_states().len()).await < 500 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, grown).await.expect("chitchat takes them all in");
    assert!(blamed(&scene.guarded(&message).await));
    // The same as members say it.
    let fakes = (0..500).map(|number| (brief::Run::of(&scene.keys[1].public(), number), 1));
    let digest = brief::Index::default().brief_of(fakes, 1);
    let short = wire::Short::new(Some("test.example".to_owned()), digest, Vec::new()).write();
    let heard = scene.guarded_from(wire::pack(&short)).await;
    assert!(heard.iter().any(|outgoing| matches!(outgoing, Outgoing::Unknown { .. })) && !blamed(&heard));
}

/// Of so many names chitchat makes a digest that leaves an answer less than the hundred bytes that it asserts; of more, what is left
/// falls below zero, and only builds that check overflows notice.
#[tokio::test]
async fn a89_a_digest_of_too_many_names_kills_chitchat_and_is_refused_here() {
    const NAMES: u16 = 1_127;
    let scene = Scene::new();
    let fake = |index: u16| Held {
        id: Id { name: format!("x{index:04}"), generation: 1, address: check::ANY },
        heartbeat: 1,
        collected: 0,
        version: 1,
    };
    let message = Message::Syn { cluster: "test.example".to_owned(), digest: (0..NAMES).map(fake).collect() };
    let (handle, told) = scene.bare().await;
    // The first makes it know them all, and the answer to the second is its digest of them.
    for _ in 0..2 {
        told.send((check::ANY, read(&message))).await.expect("runs");
    }
    assert!(dies(&handle).await);
    assert!(blamed(&scene.guarded(&message).await));
    // As members say it, it is read, and none of them is kept.
    let fakes = (0..NAMES.into()).map(|number| (brief::Run::of(&scene.keys[1].public(), number), 1));
    let digest = brief::Index::default().brief_of(fakes, 1);
    let short = wire::Short::new(Some("test.example".to_owned()), digest, Vec::new()).write();
    let heard = scene.guarded_from(wire::pack(&short)).await;
    assert!(heard.iter().any(|outgoing| matches!(outgoing, Outgoing::Unknown { .. })) && !blamed(&heard));
}

#[tokio::test]
async fn a90_chitchat_unpacks_whatever_a_message_holds_and_this_node_a_message() {
    let scene = Scene::new();
    // Values of one letter: two hundred times 60 kB travel as a few.
    let values = (0..200).map(|number| Value {
        key: format!("s{number}"),
        value: "a".repeat(60_000),
        version: 10 + number,
        status: 0,
    });
    let mut operations = Vec::new();
    wire::write_operations(&[scene.delta(1, values.collect())], &mut operations);
    let mut bytes = wire::write(&Message::Ack { delta: Vec::new() });
    assert_eq!(bytes.pop(), Some(0), "no blocks");
    for block in operations.chunks(60_000) {
        let packed = zstd::bulk::compress(block, 19).expect("it packs");
        bytes.push(1);
        bytes.extend(u16::try_from(packed.len()).expect("small").to_le_bytes());
        bytes.extend(packed);
    }
    bytes.push(0);
    assert!(bytes.len() < 65_507, "{} bytes are one datagram", bytes.len());
    let (handle, told) = scene.bare().await;
    let message = ChitchatMessage::deserialize(&mut bytes.as_slice()).expect("chitchat reads it");
    told.send((check::ANY, message)).await.expect("runs");
    let grown = async {
        loop {
            let held = handle.with_chitchat(|chitchat| {
                let states = chitchat.node_states().values();
                states.flat_map(|state| state.key_values()).map(|(_, value)| value.len()).sum::<usize>()
            });
            if held.await >= 200 * 60_000 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, grown).await.expect("chitchat keeps it all");
    // Packed inside, packed outside, and both.
    let zeros = zstd::bulk::compress(&vec![0; 64 << 20], 1).expect("it packs");
    for payload in [wire::pack(&bytes), certs::codec::encode(&zeros), wire::pack(&zeros)] {
        assert!(blamed(&scene.guarded_from(payload).await));
    }
}

#[tokio::test]
async fn a91_no_address_that_a_peer_names_is_ever_sent_to() {
    let scene = Scene::new();
    let third = "192.0.2.7:53".parse().expect("an address");
    let digest = vec![Held { id: Id { address: third, ..scene.id(1) }, ..scene.held(1) }];
    let heard = scene.guarded(&Message::Syn { cluster: "test.example".to_owned(), digest }).await;
    for outgoing in heard {
        if let Outgoing::Send { to, .. } = outgoing {
            assert!([node(1), node(2)].contains(&to), "only linked members are sent to");
        }
    }
}
