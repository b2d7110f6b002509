//! What one chitchat is given of members that start anew.

use super::*;

/// Somebody signs a record under a new generation over and over, and each time brings large values of that run by the carrier.
#[test]
fn what_is_kept_of_one_member_is_bounded_over_all_its_runs() {
    let scene = scene();
    let node = NodeId::new("n1").expect("valid");
    let (mut given, mut kept) = (scene.given(), 0);
    for generation in GENERATION..GENERATION + 40 {
        let mut feed = (*scene.roster.feed).clone();
        feed.members.insert(node.clone(), Known::new(scene.keys[1].public(), generation, true, Arc::default()));
        let roster = Roster::new(Arc::new(feed));
        given.meet(&roster);
        let values = (0..20).map(|part| {
            let (key, mesh, section) = (&scene.keys[1], &scene.trust_domain, Section::SERVICES.part(part));
            let sequence = u64::from(part) + 1;
            let record = SignedRecord::sign(key, mesh, &node, generation, section, sequence, vec![0; 5_000]);
            let record = record.expect("fits");
            Value { key: super::key(section), value: value(&record), version: sequence, status: 0 }
        });
        let id = Id { generation, ..scene.id(1) };
        let delta = Delta { id, collected: 0, from: 0, values: values.collect(), bare_version: false };
        let payload = wire::pack(&wire::write(&Message::Ack { delta: vec![delta] }));
        let from = NodeId::new("n2").expect("valid");
        let passed = roster.check(&scene.trust_domain, &from, &payload, 1, &mut given).expect("no blame");
        assert_eq!(passed.learned.len(), 20, "what chitchat is not given is known nevertheless");
        let Ok(Message::Ack { delta }) = wire::read(&passed.message) else { panic!("an Ack") };
        kept += delta.iter().flat_map(|news| &news.values).map(|value| value.value.len()).sum::<usize>();
        given.refresh();
    }
    assert!(kept <= MEMBER_BYTES && given.runs <= 3 + FORMER_RUNS, "{kept} bytes");
    assert!(!given.is_full(), "no reason to begin anew for everybody");
    let other = wire::pack(&wire::write(&scene.delta(2, vec![scene.value(2, 2, 1)])));
    let passed = scene.judge(&other, 1, &mut given).expect("no blame");
    assert_ne!(wire::read(&passed.message), Ok(Message::Ack { delta: Vec::new() }), "others pay nothing for it");
}

/// One that starts anew all the time: what chitchat has no room for is not asked for every round, and has room again some time later.
#[test]
fn a_member_without_room_is_claimed_as_known_until_its_former_runs_are_forgotten() {
    let scene = scene();
    let node = NodeId::new("n1").expect("valid");
    let (mut given, mut roster) = (scene.given(), None);
    for generation in GENERATION..=GENERATION + FORMER_RUNS as u64 + 1 {
        let (key, mesh) = (&scene.keys[1], &scene.trust_domain);
        let record = SignedRecord::sign(key, mesh, &node, generation, Section::POLICY, 7, vec![1]).expect("fits");
        let mut feed = (*scene.roster.feed).clone();
        let records = Arc::new([(Section::POLICY, Arc::new(record))].into());
        feed.members.insert(node.clone(), Known::new(key.public(), generation, true, records));
        given.meet(roster.insert(Roster::new(Arc::new(feed))));
    }
    let roster = roster.expect("ran");
    let present = Id { generation: GENERATION + FORMER_RUNS as u64 + 1, ..scene.id(1) };
    let own = wire::write(&Message::Syn { cluster: "test.example".to_owned(), digest: Vec::new() });
    let claimed = |given: &mut Given| {
        let Ok(Message::Syn { digest, .. }) = roster.trim(&own, given) else { panic!("a Syn") };
        digest.into_iter().map(|held| (held.id, held.version)).collect::<Vec<_>>()
    };
    assert_eq!(claimed(&mut given), [(present.clone(), 7)]);
    assert!(!given.takes(&present, Section::POLICY, 10));
    let room = (0..=KEPT_MS / 1_000).filter(|_| given.refresh()).count();
    assert_eq!(room, 1);
    given.meet(&roster);
    assert_eq!(claimed(&mut given), []);
    assert!(given.takes(&present, Section::POLICY, 10));
}

#[test]
fn former_runs_of_a_thousand_members_never_exceed_what_one_chitchat_can_name() {
    let keys: Vec<SigningKey> = (0..POOL).map(|_| SigningKey::generate()).collect();
    let known = |index: usize, generation: u64| Known::new(keys[index].public(), generation, true, Arc::default());
    let node = |index: usize| NodeId::new(&format!("n{index}")).expect("valid");
    let members = (0..POOL).map(|index| (node(index), known(index, GENERATION))).collect();
    let mut feed = Feed { node: node(0), members, linked: vec![node(1)] };
    let mut given = Given::default();
    given.meet(&Roster::new(Arc::new(feed.clone())));
    assert!(!given.is_full() && given.runs == POOL);
    for restarted in (1..POOL).collect::<Vec<_>>().chunks(50) {
        feed.members.extend(restarted.iter().map(|index| (node(*index), known(*index, GENERATION + 1))));
        given.meet(&Roster::new(Arc::new(feed.clone())));
        assert!(given.runs <= RUNS && given.is_full());
    }
    let mut next = Given::default();
    next.meet(&Roster::new(Arc::new(feed)));
    assert!(!next.is_full() && next.runs == POOL);
}
