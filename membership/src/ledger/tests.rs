//! The laws of merging, and what a ledger takes.

use certs::sign::Digest;
use proptest::prelude::*;

use super::*;
use crate::{
    author::Author,
    body::{Body, Policy, SECTIONS, Services, Status},
    testing::{Citizen, START, World, service},
};

const NOW: Now = Now { wall: START + 1_000, steady: 1 };

fn empty(world: &World) -> Ledger {
    Ledger::new(Arc::new(world.authority.clone()), Arc::new(crate::notary::Certificates))
}

fn take(ledger: &mut Ledger, record: &Arc<SignedRecord>) -> Offered {
    ledger.offer(record, &mut Bucket::new(0, 1_000, 0), NOW)
}

fn author(world: &World, citizen: &Citizen, generation: u64) -> Author {
    Author::new(world.trust_domain.clone(), citizen.node.clone(), citizen.record_key.clone(), generation)
}

/// What two nodes say over two runs each, in the order of saying.
fn history(world: &mut World) -> Vec<Arc<SignedRecord>> {
    let mut records = Vec::new();
    for name in ["a", "b"] {
        let citizen = world.citizen(name, 1);
        for generation in [1 << 24, 2 << 24] {
            let mut author = author(world, &citizen, generation);
            let mut say = |body: Body| records.extend(author.publish(&body).expect("fits"));
            say(Body::Identity(Identity { chain: citizen.chain.clone() }));
            say(Body::Services(Services { services: vec![service(name), service("shared")] }));
            say(Body::Status(Status::Draining));
            say(Body::Services(Services { services: vec![service("shared")] }));
        }
    }
    records
}

type Holding = (BTreeMap<NodeId, Arc<Said>>, Vec<Vec<u8>>);

fn holding(ledger: &Ledger) -> Holding {
    let said = ledger.nodes.iter().map(|(name, node)| (name.clone(), node.said.clone())).collect();
    let records = ledger.nodes.values().flat_map(|node| node.records.values());
    (said, records.map(|record| record.bytes().to_vec()).collect())
}

/// Offers all until nothing is new: identities may have been missing, tables too.
fn ledger(world: &World, records: &[Arc<SignedRecord>]) -> Ledger {
    let mut ledger = empty(world);
    for _ in 0..3 {
        records.iter().for_each(|record| drop(take(&mut ledger, record)));
    }
    ledger
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn merging_is_commutative_associative_and_idempotent(seed in any::<u64>(), cut in 0_usize..100) {
        use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
        let mut world = World::new();
        let mut records = history(&mut world);
        let straight = holding(&ledger(&world, &records));
        records.shuffle(&mut StdRng::seed_from_u64(seed));
        prop_assert_eq!(&holding(&ledger(&world, &records)), &straight);
        // Two halves, each folded by itself and then into one another, either way round.
        let (left, right) = records.split_at(cut.min(records.len()));
        let held = |of: &[Arc<SignedRecord>]| -> Vec<Arc<SignedRecord>> {
            ledger(&world, of).nodes.into_values().flat_map(|node| Arc::unwrap_or_clone(node.records).into_values().chain(node.waiting.into_values())).collect()
        };
        let (left, right) = (held(left), held(right));
        // A half without an identity kept nothing: the other's owner would be asked again, as here.
        let both: Vec<_> = left.iter().chain(&right).chain(&records).cloned().collect();
        let turned: Vec<_> = right.iter().chain(&left).chain(&records).cloned().collect();
        prop_assert_eq!(&holding(&ledger(&world, &both)), &straight);
        prop_assert_eq!(&holding(&ledger(&world, &turned)), &straight);
    }
}

/// All that a ledger holds, as a peer would tell it.
fn told(ledger: &Ledger) -> Vec<Arc<SignedRecord>> {
    let nodes = ledger.nodes.values();
    nodes.flat_map(|node| node.records.values().chain(node.waiting.values()).cloned()).collect()
}

/// What two hold together.
fn merged(world: &World, one: &Ledger, other: &Ledger) -> Ledger {
    ledger(world, &[told(one), told(other)].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn merging_in_any_groups_gives_the_same(parts in proptest::collection::vec(0_usize..3, 80), contradicts in any::<bool>()) {
        let mut world = World::new();
        let mut records = history(&mut world);
        let identities: Vec<_> = records.iter().filter(|record| record.section() == Section::IDENTITY).cloned().collect();
        let liar = world.citizen("liar", 1);
        let mut author = author(&world, &liar, 1 << 24);
        let identity = author.publish(&Body::Identity(Identity { chain: liar.chain.clone() })).expect("fits");
        records.extend(identity.iter().cloned());
        let sign = |section: Section, body: Vec<u8>| {
            let (key, mesh) = (&liar.record_key, &world.trust_domain);
            Arc::new(SignedRecord::sign(key, mesh, &liar.node, 1 << 24, section, 90, body).expect("fits"))
        };
        records.push(sign(Section::STATUS, certs::codec::encode(&Status::Draining)));
        if contradicts {
            records.push(sign(Section::POLICY, vec![0]));
        }
        // Each part holds who its members are: of one whose identity is missing nothing is kept.
        let part = |number: usize| {
            let own = records.iter().zip(parts.iter().cycle()).filter(|(_, part)| **part == number);
            let own: Vec<_> = own.map(|(record, _)| record.clone()).collect();
            ledger(&world, &[identities.clone(), identity.clone(), own].concat())
        };
        let (a, b, c) = (part(0), part(1), part(2));
        let whole = ledger(&world, &records);
        prop_assert_eq!(whole.quarantined(&liar.node), contradicts);
        let left = merged(&world, &merged(&world, &a, &b), &c);
        let right = merged(&world, &a, &merged(&world, &b, &c));
        let turned = merged(&world, &merged(&world, &c, &a), &b);
        for ledger in [&left, &right, &turned] {
            // Two of one number that meet in one part convict their author there, and it tells the proof.
            let convicted = [&a, &b, &c, ledger].iter().any(|ledger| ledger.quarantined(&liar.node));
            prop_assert!(!contradicts || convicted || ledger.nodes.contains_key(&liar.node));
            let others = |of: &Ledger| {
                let (mut said, records) = holding(of);
                said.remove(&liar.node);
                let records: Vec<_> = records.into_iter().filter(|bytes| {
                    SignedRecord::decode(bytes).expect("held").node() != &liar.node
                }).collect();
                (said, records)
            };
            prop_assert_eq!(others(ledger), others(&whole));
        }
    }
}

#[test]
fn a_stale_table_makes_changes_wait_for_the_next() {
    let mut world = World::new();
    let citizen = world.citizen("a", 1);
    let mut author = author(&world, &citizen, 1 << 24);
    let mut ledger = empty(&world);
    let mut records = author.publish(&Body::Identity(Identity { chain: citizen.chain })).expect("fits");
    records.extend(author.publish(&Body::Services(Services { services: vec![service("a")] })).expect("fits"));
    records.iter().for_each(|record| drop(take(&mut ledger, record)));
    assert_eq!(ledger.said(&citizen.node).expect("known").services.len(), 1);
    let later = Now { steady: NOW.steady + 31_000, ..NOW };
    let mut budget = Bucket::new(0, 100, 0);
    let change = author.publish(&Body::Services(Services { services: vec![] })).expect("fits");
    assert_eq!((ledger.speaking(NOW).count(), ledger.speaking(later).count()), (1, 0));
    assert!(matches!(ledger.offer(&change[0], &mut budget, later), Offered::Waiting));
    assert_eq!(ledger.said(&citizen.node).expect("known").services.len(), 1);
    assert!(matches!(ledger.offer(&change[1], &mut budget, later), Offered::Fresh));
    assert!(ledger.said(&citizen.node).expect("known").services.is_empty());
    assert!(ledger.lacking(&citizen.node).is_empty());
    assert_eq!(ledger.speaking(later).collect::<Vec<_>>(), [&citizen.node]);
    // A table without the policy that it names: whoever passes it on keeps that back.
    let nothing = Digest([0; 32]);
    let policy = Policy { digest: nothing, count: 1, recent: Vec::new(), applied: nothing, audit: (0, nothing) };
    let policy = author.publish(&Body::Policy(policy)).expect("fits");
    assert!(matches!(ledger.offer(&policy[1], &mut budget, later), Offered::Fresh));
    assert_eq!(ledger.speaking(later).count(), 0);
}

#[test]
fn a_table_tells_what_is_lacking() {
    let mut world = World::new();
    let citizen = world.citizen("a", 1);
    let mut author = author(&world, &citizen, 1 << 24);
    let mut ledger = empty(&world);
    let identity = author.publish(&Body::Identity(Identity { chain: citizen.chain })).expect("fits");
    let services = author.publish(&Body::Services(Services { services: vec![service("a")] })).expect("fits");
    take(&mut ledger, &identity[0]);
    take(&mut ledger, &services[1]);
    assert_eq!(ledger.lacking(&citizen.node), [Section::SERVICES]);
    take(&mut ledger, &services[0]);
    assert!(ledger.lacking(&citizen.node).is_empty());
}

#[test]
fn the_disk_brings_back_what_still_counts() {
    let mut world = World::new();
    let records = history(&mut world);
    let full = ledger(&world, &records);
    let own = NodeId::new("nobody").expect("valid");
    let bytes = full.persist(&own);
    let mut restored = empty(&world);
    restored.restore(&bytes, NOW);
    assert_eq!(holding(&restored), holding(&full));
    world.authority.revocations.evict(NodeId::new("a").expect("valid"), 1);
    let mut narrowed = empty(&world);
    narrowed.restore(&bytes, NOW);
    assert_eq!(narrowed.nodes().map(NodeId::as_str).collect::<Vec<_>>(), ["b"]);
    narrowed.restore(&[0xff; 64], NOW);
}

#[test]
fn the_disk_takes_no_more_than_can_be_read_and_what_matters_first() {
    let mut world = World::new();
    let own = NodeId::new("nobody").expect("valid");
    let mut full = empty(&world);
    for name in ["a", "b"] {
        let citizen = world.citizen(name, 1);
        full.rejudge(Arc::new(world.authority.clone()), NOW);
        let mut author = author(&world, &citizen, 1 << 24);
        let mut say =
            |body: &Body| author.publish(body).expect("fits").iter().for_each(|record| drop(take(&mut full, record)));
        say(&Body::Identity(Identity { chain: citizen.chain.clone() }));
        say(&Body::Status(Status::Draining));
        for number in 0..20 {
            let health = crate::body::HealthState { healthy: true, since: number, reason: "y".repeat(250) };
            let endpoint = crate::body::HealthRecord {
                service: format!("default/{name}").parse().expect("valid"),
                instance: None,
                state: health,
            };
            say(&Body::Health(crate::body::Health { endpoints: vec![endpoint] }));
        }
        for number in 0..10 {
            let (key, mesh) = (&citizen.record_key, &world.trust_domain);
            let record = SignedRecord::sign(
                key,
                mesh,
                &citizen.node,
                1 << 24,
                Section(7_000 + number),
                900 + u64::from(number),
                vec![0; 5_000],
            );
            take(&mut full, &Arc::new(record.expect("fits")));
        }
    }
    for most in [0, 3_000, 20_000, 1 << 20] {
        let bytes = full.persist_within(most, &own);
        assert!(bytes.len() <= most.max(16), "{} of {most}", bytes.len());
        let mut again = Ledger::new(Arc::new(world.authority.clone()), Arc::new(crate::notary::Certificates));
        again.restore(&bytes, NOW);
        let drains = |name: &NodeId| again.said(name).is_some_and(|said| said.status == Status::Draining);
        assert_eq!(again.nodes().filter(|name| drains(name)).count(), if most < 10_000 { 0 } else { 2 }, "{most}");
        assert!(again.nodes.values().all(|node| node.records.keys().all(|section| section.base() != Section::HEALTH)));
    }
}

#[test]
fn the_first_key_of_an_epoch_stays_and_a_higher_epoch_takes_over() {
    let mut world = World::new();
    let (first, second) = (world.citizen("a", 1), world.citizen("a", 1));
    let say = |world: &World, citizen: &Citizen| {
        let identity = Body::Identity(Identity { chain: citizen.chain.clone() });
        author(world, citizen, 5 << 24).publish(&identity).expect("fits")[0].clone()
    };
    let mut ledger = empty(&world);
    assert!(matches!(take(&mut ledger, &say(&world, &first)), Offered::Fresh));
    assert!(matches!(take(&mut ledger, &say(&world, &second)), Offered::Known));
    assert_eq!(ledger.key(&first.node), Some(first.record_key.public()));
    let third = world.citizen("a", 2);
    ledger.rejudge(Arc::new(world.authority.clone()), NOW);
    assert!(matches!(take(&mut ledger, &say(&world, &third)), Offered::Fresh));
    assert_eq!(ledger.key(&first.node), Some(third.record_key.public()));
}

#[test]
fn what_waits_for_a_table_is_bounded_too() {
    let mut world = World::new();
    let citizen = world.citizen("a", 1);
    let mut ledger = empty(&world);
    let mut author = author(&world, &citizen, 1 << 24);
    let identity = author.publish(&Body::Identity(Identity { chain: citizen.chain.clone() })).expect("fits");
    let identity = identity.into_iter().find(|record| record.section() == Section::IDENTITY).expect("said");
    assert!(matches!(take(&mut ledger, &identity), Offered::Fresh));
    for number in 0..200 {
        let sign = |sequence| {
            let (key, mesh, node) = (&citizen.record_key, &world.trust_domain, &citizen.node);
            SignedRecord::sign(key, mesh, node, 1 << 24, Section(10_000 + number), sequence, vec![0; 5_000])
        };
        let record = Arc::new(sign(100 + u64::from(number)).expect("fits"));
        let offered = take(&mut ledger, &record);
        let fits = usize::from(number) + 1 < SECTIONS;
        assert!(matches!(offered, Offered::Waiting) == fits, "{number}: {offered:?}");
    }
    assert_eq!(ledger.nodes[&citizen.node].waiting.len(), SECTIONS - 1);
}

/// Counts the paths that are checked.
#[derive(Debug, Default)]
struct Counting(std::sync::atomic::AtomicUsize);

impl Notary for Counting {
    fn read(&self, bytes: &[u8]) -> Result<Arc<SignedRecord>, RecordError> {
        crate::notary::Certificates.read(bytes)
    }

    fn signed(&self, record: &SignedRecord, mesh: &certs::id::TrustDomain, key: &PublicKey) -> Result<(), RecordError> {
        crate::notary::Certificates.signed(record, mesh, key)
    }

    fn certified(
        &self,
        node: &NodeId,
        chain: Vec<Vec<u8>>,
        authority: &Authority,
        now: Millis,
    ) -> Result<Arc<NodeCaFacts>, RecordError> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        crate::notary::Certificates.certified(node, chain, authority, now)
    }
}

#[test]
fn only_whom_a_change_concerns_is_judged_anew() {
    let mut world = World::new();
    let citizens: Vec<Citizen> = ["a", "b", "c"].map(|name| world.citizen(name, 1)).into();
    let notary = Arc::new(Counting::default());
    let mut ledger = Ledger::new(Arc::new(world.authority.clone()), notary.clone());
    for citizen in &citizens {
        let identity = Body::Identity(Identity { chain: citizen.chain.clone() });
        let records = author(&world, citizen, 1 << 24).publish(&identity).expect("fits");
        records.iter().for_each(|record| drop(take(&mut ledger, record)));
    }
    let judged = |ledger: &mut Ledger, world: &World, now: Now| {
        notary.0.store(0, std::sync::atomic::Ordering::Relaxed);
        let (_, gone) = ledger.rejudge(Arc::new(world.authority.clone()), now);
        (notary.0.load(std::sync::atomic::Ordering::Relaxed), gone.len())
    };
    assert_eq!(judged(&mut ledger, &world, NOW), (0, 0), "nothing changed");
    // The key of one is seen for the first time: it is its own; then another's is believed to be.
    let seen = |world: &mut World, node: &NodeId, key: &[u8]| {
        let record_key = certs::sign::SigningKey::generate().public();
        let known = certs::verify::KnownKey { epoch: 1, ca_key: certs::sign::Digest::of(key), record_key };
        world.authority.known_keys.insert(node.clone(), known);
    };
    let NodeCaFacts { epoch, ca_key, record_key, .. } = *ledger.nodes[&citizens[0].node].facts;
    let known = certs::verify::KnownKey { epoch, ca_key, record_key };
    world.authority.known_keys.insert(citizens[0].node.clone(), known);
    assert_eq!(judged(&mut ledger, &world, NOW), (1, 0));
    seen(&mut world, &citizens[1].node, b"another");
    assert_eq!(judged(&mut ledger, &world, NOW), (1, 1), "this is not the key that was seen first");
    // A stranger is invited; then the enroller of all is one no more; then it is again.
    world.citizen("d", 1);
    assert_eq!(judged(&mut ledger, &world, NOW), (0, 0));
    let enroller = NodeId::new("enroller").expect("valid");
    let grant = world.authority.grants.remove(&enroller).expect("granted");
    assert_eq!(judged(&mut ledger, &world, NOW), (2, 2), "both that are left");
    world.authority.grants.insert(enroller, grant);
    let identity = Body::Identity(Identity { chain: citizens[2].chain.clone() });
    let records = author(&world, &citizens[2], 2 << 24).publish(&identity).expect("fits");
    ledger.rejudge(Arc::new(world.authority.clone()), NOW);
    records.iter().for_each(|record| drop(take(&mut ledger, record)));
    world.authority.revocations.evict(NodeId::new("d").expect("valid"), 1);
    assert_eq!(judged(&mut ledger, &world, NOW), (1, 0), "revocations concern all");
    let end = Now { wall: START + 400 * 86_400_000, steady: 2 };
    assert_eq!(judged(&mut ledger, &world, end), (1, 1), "it has ended");
}

#[test]
fn who_contradicted_itself_is_no_member_after_a_restart() {
    let mut world = World::new();
    let citizen = world.citizen("a", 1);
    let own = NodeId::new("own").expect("valid");
    let mut author = author(&world, &citizen, 1 << 24);
    let mut ledger = empty(&world);
    let identity = author.publish(&Body::Identity(Identity { chain: citizen.chain })).expect("fits");
    identity.iter().for_each(|record| drop(take(&mut ledger, record)));
    let sign = |body: Vec<u8>| {
        let (key, td, section) = (&citizen.record_key, &world.trust_domain, Section::SERVICES);
        Arc::new(SignedRecord::sign(key, td, &citizen.node, 1 << 24, section, 90, body).expect("fits"))
    };
    take(&mut ledger, &sign(vec![0]));
    assert!(matches!(take(&mut ledger, &sign(vec![1, 2])), Offered::Equivocation | Offered::Refused(_)));
    assert!(ledger.quarantined(&citizen.node));
    let mut again = empty(&world);
    again.restore(&ledger.persist(&own), NOW);
    assert!(again.quarantined(&citizen.node), "its links are refused before any peer's proof comes");
    assert!(identity.iter().all(|record| !matches!(take(&mut again, record), Offered::Fresh)));
}

#[test]
fn one_number_for_two_sections_is_a_contradiction_too() {
    let mut world = World::new();
    let citizen = world.citizen("a", 1);
    let mut author = author(&world, &citizen, 1 << 24);
    let identity = author.publish(&Body::Identity(Identity { chain: citizen.chain.clone() })).expect("fits");
    let sign = |section: Section, body: Vec<u8>| {
        let (key, mesh) = (&citizen.record_key, &world.trust_domain);
        Arc::new(SignedRecord::sign(key, mesh, &citizen.node, 1 << 24, section, 90, body).expect("fits"))
    };
    let status = sign(Section::STATUS, certs::codec::encode(&Status::Up));
    let others = [
        sign(Section::SERVICES, vec![0]),
        sign(Section::SUSPICIONS, vec![0]),
        sign(Section::TABLE, vec![0]),
        sign(Section::IDENTITY, identity[0].body().to_vec()),
    ];
    for other in &others {
        for (first, second) in [(&status, other), (other, &status)] {
            let mut ledger = empty(&world);
            identity.iter().for_each(|record| drop(take(&mut ledger, record)));
            assert!(!matches!(take(&mut ledger, first), Offered::Refused(_) | Offered::Equivocation), "{first:?}");
            assert!(ledger.news(second), "{second:?}");
            assert!(matches!(take(&mut ledger, second), Offered::Equivocation), "{first:?}, then {second:?}");
            assert!(ledger.quarantined(&citizen.node));
        }
        let mut told = empty(&world);
        identity.iter().for_each(|record| drop(take(&mut told, record)));
        assert!(told.prove(&(status.clone(), other.clone())), "{other:?}");
    }
}

#[test]
fn who_lapsed_by_a_wrong_clock_is_back_when_it_is_set_right() {
    let mut world = World::new();
    let citizen = world.citizen("a", 1);
    let own = NodeId::new("own").expect("valid");
    let mut author = author(&world, &citizen, 1 << 24);
    let mut ledger = empty(&world);
    let mut records = author.publish(&Body::Identity(Identity { chain: citizen.chain.clone() })).expect("fits");
    records.extend(author.publish(&Body::Status(Status::Draining)).expect("fits"));
    records.iter().for_each(|record| drop(take(&mut ledger, record)));
    let authority = ledger.authority().clone();
    let wrong = Now { wall: START + 400 * 86_400_000, steady: 2 };
    assert!(ledger.expired(wrong.wall));
    assert_eq!(ledger.rejudge(authority.clone(), wrong).1, std::slice::from_ref(&citizen.node));
    assert!(ledger.said(&citizen.node).is_none() && !ledger.expired(wrong.wall));
    // It restarts before anybody looks at the clock.
    let mut again = empty(&world);
    again.restore(&ledger.persist(&own), wrong);
    let disk = again.persist(&own);
    assert!(again.said(&citizen.node).is_none());
    for mut ledger in [ledger, again] {
        assert!(ledger.expired(NOW.wall));
        assert_eq!(ledger.rejudge(authority.clone(), NOW).0, std::slice::from_ref(&citizen.node));
        assert_eq!(ledger.said(&citizen.node).map(|said| said.status), Some(Status::Draining));
        assert!(!ledger.expired(NOW.wall));
    }
    // The same of one that starts with a clock from before the certificates.
    let past = Now { wall: START - 400 * 86_400_000, steady: 2 };
    let mut early = empty(&world);
    early.restore(&disk, past);
    assert!(early.said(&citizen.node).is_none() && !early.expired(past.wall) && early.expired(NOW.wall));
    assert_eq!(early.rejudge(authority.clone(), NOW).0, std::slice::from_ref(&citizen.node));
    assert_eq!(early.said(&citizen.node).map(|said| said.status), Some(Status::Draining));
    // Who does not come back at another time is not judged all the time.
    let mut ended = empty(&world);
    ended.restore(&disk, wrong);
    let later = Now { wall: wrong.wall + 2 * 86_400_000, steady: 3 };
    assert!(ended.expired(later.wall) && ended.rejudge(authority.clone(), later).0.is_empty());
    assert!(!ended.expired(later.wall + 60_000));
    // Without its grant nothing of it is kept.
    let mut without = Authority::clone(&authority);
    without.grants.clear();
    let mut third = Ledger::new(Arc::new(without), Arc::new(crate::notary::Certificates));
    third.restore(&disk, wrong);
    assert!(third.lapsed.is_empty() && third.quarantined.is_empty());
}
