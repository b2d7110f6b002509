//! One contract for both carriers: chitchat and its in-memory twin.

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use certs::{
    codec,
    id::{NodeId, TrustDomain},
};
use membership::{
    body::{Body, Identity, Services},
    gossip::{Carrier, Feed, Gossip, GossipConfig, Known, Outgoing},
    notary::Certificates,
    record::{Section, SignedRecord},
    sim::twin::Twin,
};
use support::{
    sim::service,
    world::{Citizen, World},
};
use tokio::sync::mpsc;

const INTERVAL: Duration = Duration::from_millis(50);

/// Either carrier, and what it has said since it was last asked.
enum Subject {
    Chitchat(Gossip, mpsc::Receiver<Outgoing>),
    Twin(Box<Twin>),
}

impl Subject {
    fn chitchat(trust_domain: &TrustDomain, seed: u64) -> Subject {
        let config = GossipConfig { trust_domain: trust_domain.clone(), interval: INTERVAL, seed };
        let (gossip, said, run) = Gossip::start(config);
        #[expect(clippy::disallowed_methods, reason = "a test owns its tasks by itself")]
        tokio::spawn(run);
        Subject::Chitchat(gossip, said)
    }

    fn feed(&mut self, feed: Arc<Feed>) {
        match self {
            Subject::Chitchat(gossip, _) => gossip.feed(feed),
            Subject::Twin(twin) => twin.feed(feed),
        }
    }

    fn deliver(&mut self, from: &NodeId, bytes: &[u8]) {
        match self {
            Subject::Chitchat(gossip, _) => gossip.deliver(from, bytes),
            Subject::Twin(twin) => {
                twin.deliver(from, bytes);
            }
        }
    }

    fn said(&mut self) -> Vec<Outgoing> {
        match self {
            Subject::Chitchat(_, said) => std::iter::from_fn(|| said.try_recv().ok()).collect(),
            Subject::Twin(twin) => {
                twin.round();
                twin.drain()
            }
        }
    }
}

/// Carriers of one mesh, with links between all but those that are cut.
struct Net {
    world: World,
    citizens: Vec<Citizen>,
    subjects: Vec<Subject>,
    /// What each node holds: itself, and what its carrier taught it.
    held: Vec<BTreeMap<NodeId, BTreeMap<Section, Arc<SignedRecord>>>>,
    cut: Vec<(usize, usize)>,
    /// At whom a node is not known.
    hidden: Option<(usize, usize)>,
    hostile: Vec<&'static str>,
    unknown: usize,
}

const GENERATION: u64 = 77;

impl Net {
    fn new(count: usize, make: impl Fn(&World, u64) -> Subject) -> Net {
        let mut world = World::new();
        let citizens: Vec<Citizen> = (0..count).map(|index| world.citizen(&format!("n{index}"), 1)).collect();
        let subjects = (0..).take(count).map(|seed| make(&world, seed)).collect();
        let held = vec![BTreeMap::new(); count];
        let (cut, hostile, hidden) = Default::default();
        let mut net = Net { world, citizens, subjects, held, cut, hidden, hostile, unknown: 0 };
        (0..count).for_each(|index| net.publish(index, 1, b"first"));
        net
    }

    fn record(&self, of: usize, sequence: u64, body: &[u8]) -> Arc<SignedRecord> {
        let citizen = &self.citizens[of];
        let (td, key, node) = (&self.world.trust_domain, &citizen.record_key, &citizen.node);
        Arc::new(SignedRecord::sign(key, td, node, GENERATION, Section::POLICY, sequence, body.to_vec()).expect("fits"))
    }

    fn publish(&mut self, of: usize, sequence: u64, body: &[u8]) {
        let record = self.record(of, sequence, body);
        let node = self.citizens[of].node.clone();
        self.held[of].entry(node).or_default().insert(Section::POLICY, record);
    }

    fn linked(&self, one: usize, other: usize) -> bool {
        one != other && !self.cut.contains(&(one, other)) && !self.cut.contains(&(other, one))
    }

    fn index(&self, node: &NodeId) -> usize {
        self.citizens.iter().position(|citizen| citizen.node == *node).expect("known")
    }

    fn feed(&self, at: usize) -> Feed {
        let known = |citizen: &Citizen| {
            let records = Arc::new(self.held[at].get(&citizen.node).cloned().unwrap_or_default());
            Known::new(citizen.record_key.public(), GENERATION, true, records)
        };
        let shown = self.citizens.iter().enumerate().filter(|(of, _)| self.hidden != Some((at, *of)));
        let members = shown.map(|(_, citizen)| (citizen.node.clone(), known(citizen))).collect();
        let links = (0..self.subjects.len()).filter(|other| self.linked(at, *other));
        let linked = links.map(|other| self.citizens[other].node.clone()).collect();
        Feed { node: self.citizens[at].node.clone(), members, linked }
    }

    /// Carries payloads for one interval.
    async fn round(&mut self) {
        for at in 0..self.subjects.len() {
            let feed = Arc::new(self.feed(at));
            self.subjects[at].feed(feed);
        }
        for at in 0..self.subjects.len() {
            for outgoing in self.subjects[at].said() {
                match outgoing {
                    Outgoing::Send { to, bytes } => {
                        let to = self.index(&to);
                        if self.linked(at, to) {
                            let from = self.citizens[at].node.clone();
                            self.subjects[to].deliver(&from, &bytes);
                        }
                    }
                    Outgoing::Learned(records) => {
                        for record in records {
                            self.held[at].entry(record.node().clone()).or_default().insert(record.section(), record);
                        }
                    }
                    Outgoing::Unknown { .. } => self.unknown += 1,
                    // Parts that are on their way.
                    Outgoing::Differs { .. } => {}
                    Outgoing::Hostile { what, .. } => self.hostile.push(what),
                }
            }
        }
        tokio::time::sleep(INTERVAL / 5).await;
    }

    async fn until(&mut self, done: impl Fn(&Net) -> bool) -> bool {
        for _ in 0..1_000 {
            if done(self) {
                return true;
            }
            self.round().await;
        }
        false
    }

    /// The body that `at` holds of `of`.
    fn body(&self, at: usize, of: usize) -> Option<&[u8]> {
        Some(self.held[at].get(&self.citizens[of].node)?.get(&Section::POLICY)?.body())
    }

    fn everywhere(&self, of: usize, body: &[u8]) -> bool {
        (0..self.citizens.len()).all(|at| self.body(at, of) == Some(body))
    }
}

async fn contract(make: fn(&World, u64) -> Subject) {
    everything_arrives_everywhere(Net::new(4, make)).await;
    what_was_parted_comes_together(Net::new(4, make)).await;
    a_path_of_links_is_enough(Net::new(3, make)).await;
    garbage_stops_nothing(Net::new(3, make)).await;
}

async fn everything_arrives_everywhere(mut net: Net) {
    assert!(net.until(|net| (0..4).all(|of| net.everywhere(of, b"first"))).await);
    for sequence in 2..6 {
        net.publish(2, sequence, &[u8::try_from(sequence).expect("small")]);
        assert!(net.until(|net| net.everywhere(2, &[u8::try_from(sequence).expect("small")])).await);
    }
    assert!(net.hostile.is_empty(), "{:?}", net.hostile);
}

async fn what_was_parted_comes_together(mut net: Net) {
    net.cut = vec![(0, 2), (0, 3), (1, 2), (1, 3)];
    assert!(net.until(|net| net.body(1, 0) == Some(b"first") && net.body(3, 2) == Some(b"first")).await);
    net.publish(0, 2, b"left");
    net.publish(3, 2, b"right");
    for _ in 0..20 {
        net.round().await;
    }
    assert_eq!(net.body(2, 0), None);
    net.cut.clear();
    assert!(net.until(|net| net.everywhere(0, b"left") && net.everywhere(3, b"right")).await);
}

async fn a_path_of_links_is_enough(mut net: Net) {
    net.cut = vec![(0, 2)];
    net.publish(0, 2, b"far");
    assert!(net.until(|net| net.everywhere(0, b"far")).await);
}

async fn garbage_stops_nothing(mut net: Net) {
    for round in 0..50_u8 {
        let from = net.citizens[2].node.clone();
        net.subjects[0].deliver(&from, &[round; 100]);
        net.subjects[0].deliver(&from, &codec::encode(&vec![round; 100]));
        net.round().await;
    }
    net.publish(1, 2, b"after");
    assert!(net.until(|net| net.everywhere(1, b"after")).await);
    assert!(!net.hostile.is_empty());
}

#[tokio::test]
async fn the_in_memory_twin_keeps_the_contract() {
    contract(|world, seed| {
        Subject::Twin(Box::new(Twin::new(world.trust_domain.clone(), Arc::new(Certificates), seed)))
    })
    .await;
}

#[tokio::test]
async fn chitchat_keeps_the_contract() {
    contract(|world, seed| Subject::chitchat(&world.trust_domain, seed)).await;
}

#[tokio::test]
async fn a_chitchat_that_starts_anew_says_the_same() {
    let mut net = Net::new(3, |world, seed| Subject::chitchat(&world.trust_domain, seed));
    assert!(net.until(|net| (0..3).all(|of| net.everywhere(of, b"first"))).await);
    net.subjects[1] = Subject::chitchat(&net.world.trust_domain, 9);
    net.held[1].retain(|node, _| *node == net.citizens[1].node);
    assert!(net.until(|net| (0..3).all(|of| net.everywhere(of, b"first"))).await);
    net.publish(1, 2, b"again");
    assert!(net.until(|net| net.everywhere(1, b"again")).await);
    assert!(net.hostile.is_empty(), "{:?}", net.hostile);
}

/// Far more than one message holds, with certificates that share most of their bytes.
#[tokio::test]
async fn one_that_joins_a_hundred_learns_all_by_repair_alone() {
    const COUNT: usize = 100;
    let mut net = Net::new(COUNT, |world, seed| Subject::chitchat(&world.trust_domain, seed));
    net.subjects.truncate(3);
    for of in 0..COUNT {
        let citizen = &net.citizens[of];
        let identity = Body::Identity(Identity { chain: citizen.chain.clone() });
        let services = (0..60).map(|index| service(&format!("{}-{index}", citizen.node))).collect();
        let bodies = [identity, Body::Services(Services { services })];
        let mut all = net.held[of].remove(&citizen.node).expect("its first");
        for (sequence, (section, body)) in (2..).zip(bodies.iter().flat_map(|body| body.parts().expect("fits"))) {
            let (td, key, node) = (&net.world.trust_domain, &citizen.record_key, &citizen.node);
            let record = SignedRecord::sign(key, td, node, GENERATION, section, sequence, body).expect("fits");
            all.insert(section, Arc::new(record));
        }
        let node = net.citizens[of].node.clone();
        (0..2).for_each(|at| drop(net.held[at].insert(node.clone(), all.clone())));
        if of == 2 {
            net.held[2].insert(node, all);
        }
    }
    let all: usize = net.held[0].values().map(BTreeMap::len).sum();
    let holds = |net: &Net| net.held[2].values().map(BTreeMap::len).sum::<usize>() == all;
    let bytes: usize = net.held[0].values().flat_map(BTreeMap::values).map(|record| record.bytes().len()).sum();
    assert!(bytes > 400_000, "{bytes}");
    assert!(net.until(holds).await, "what the others hold reaches it");
    assert!(net.hostile.is_empty(), "{:?}", net.hostile);
}

#[tokio::test]
async fn members_unknown_to_the_feed_are_left_out_and_reported() {
    let mut net = Net::new(3, |world, seed| Subject::chitchat(&world.trust_domain, seed));
    (net.cut, net.hidden) = (vec![(0, 2)], Some((0, 2)));
    let known = |net: &Net| net.everywhere(1, b"first") && net.body(1, 2) == Some(b"first");
    assert!(net.until(|net| known(net) && net.unknown > 0).await);
    assert_eq!(net.body(0, 2), None);
    net.hidden = None;
    assert!(net.until(|net| net.everywhere(2, b"first")).await);
    assert!(net.hostile.is_empty(), "{:?}", net.hostile);
}
