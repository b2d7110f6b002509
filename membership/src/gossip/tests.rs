//! The carrier and its chitchat together.

use certs::sign::SigningKey;

use super::*;
use wire::{Held, Id, Message};

const PATIENCE: Duration = Duration::from_secs(180);

fn node(index: usize) -> NodeId {
    NodeId::new(&format!("n{index:03}")).expect("valid")
}

fn feed(trust_domain: &TrustDomain, keys: &[SigningKey], generation: u64) -> Feed {
    let known = |index: usize, key: &SigningKey| {
        let record = SignedRecord::sign(key, trust_domain, &node(index), generation, Section::POLICY, 3, vec![7]);
        let records = Arc::new([(Section::POLICY, Arc::new(record.expect("fits")))].into());
        Known::new(key.public(), generation, true, records)
    };
    let members = keys.iter().enumerate().map(|(index, key)| (node(index), known(index, key))).collect();
    Feed { node: node(0), members, linked: vec![node(1)] }
}

/// As many members as a pool has restart once: chitchat keeps both runs of each, more than its digest can name.
#[tokio::test(start_paused = true)]
async fn former_runs_of_many_members_end_nothing_and_lose_nothing() {
    let trust_domain = TrustDomain::new("test.example").expect("valid");
    let keys: Vec<SigningKey> = (0..check::POOL).map(|_| SigningKey::generate()).collect();
    let config = GossipConfig { trust_domain: trust_domain.clone(), interval: Duration::from_secs(1), seed: 1 };
    let (gossip, mut said, run) = Gossip::start(config);
    #[expect(clippy::disallowed_methods, reason = "a test owns its tasks by itself")]
    tokio::spawn(run);
    for generation in [10, 11] {
        // This node runs on.
        let mut feed = feed(&trust_domain, &keys, generation);
        let own = feed.members[&node(0)].clone();
        feed.members.insert(node(0), Known::new(own.record_key, 10, true, own.records));
        let roster = Roster::new(Arc::new(feed.clone()));
        gossip.feed(Arc::new(feed));
        let held = |key: &SigningKey| {
            let id = Id { name: check::name(&key.public()), generation, address: check::address(&key.public()) };
            Held { id, heartbeat: 1, collected: 0, version: 3 }
        };
        let syn = Message::Syn { cluster: trust_domain.to_string(), digest: keys[1..].iter().map(held).collect() };
        let syn = roster.pack(syn, 1);
        let known = |bytes: &[u8]| {
            let short = wire::Short::read(&wire::unpack(bytes).expect("own")).expect("own");
            short.filter(|short| short.cluster.is_none()).map_or(0, |short| short.digest.len())
        };
        let answered = async {
            loop {
                gossip.deliver(&node(1), &syn);
                tokio::time::sleep(Duration::from_secs(1)).await;
                while let Ok(outgoing) = said.try_recv() {
                    let bytes = match outgoing {
                        Outgoing::Send { bytes, .. } => bytes,
                        // The feed came after the payload.
                        Outgoing::Unknown { .. } => continue,
                        Outgoing::Learned(_) | Outgoing::Differs { .. } | Outgoing::Hostile { .. } => {
                            panic!("{outgoing:?}")
                        }
                    };
                    if known(&bytes) >= check::POOL - 1 {
                        return;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.expect("it answers, and holds what the feed holds");
    }
}

/// chitchat panics when it tells two values of one version, and would each time that it starts anew.
#[tokio::test]
async fn two_records_under_one_number_end_nothing() {
    let trust_domain = TrustDomain::new("test.example").expect("valid");
    let keys: Vec<SigningKey> = (0..3).map(|_| SigningKey::generate()).collect();
    let config = GossipConfig { trust_domain: trust_domain.clone(), interval: Duration::from_millis(50), seed: 1 };
    let (gossip, mut said, run) = Gossip::start(config);
    #[expect(clippy::disallowed_methods, reason = "a test owns its tasks by itself")]
    tokio::spawn(run);
    let peer = feed(&trust_domain, &keys, 10);
    let mut own = peer.clone();
    let liar = own.members.get_mut(&node(2)).expect("a member");
    let signed = [Section::POLICY, Section::STATUS].map(|section| {
        let record = SignedRecord::sign(&keys[2], &trust_domain, &node(2), 10, section, 5, vec![7]);
        (section, Arc::new(record.expect("fits")))
    });
    *liar = Known::new(liar.record_key, 10, true, Arc::new(signed.into()));
    gossip.feed(Arc::new(own));
    let digest = brief::Index::new(&peer).brief(1);
    let syn = wire::pack(&wire::Short::new(Some(trust_domain.to_string()), digest, Vec::new()).write());
    let tells = |bytes: &[u8]| {
        let short = wire::Short::read(&wire::unpack(bytes).expect("own")).expect("own");
        let news = short.filter(|short| short.cluster.is_none()).map(|short| short.news().expect("own"));
        news.is_some_and(|news| news.iter().any(|delta| delta.id.name == check::name(&keys[2].public())))
    };
    let answered = async {
        loop {
            gossip.deliver(&node(1), &syn);
            tokio::time::sleep(Duration::from_millis(50)).await;
            while let Ok(outgoing) = said.try_recv() {
                if matches!(&outgoing, Outgoing::Send { bytes, .. } if tells(bytes)) {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answered).await.expect("it tells the peer what it lacks");
}
