//! What accusations cost this node, and what it makes of them.

use super::*;

/// A liar that everybody knows, and somebody else of whom it brought what it says.
pub(super) fn scene() -> (Scene, Author, Author) {
    let mut scene = Scene::new();
    let (mut liar, mut other) = (scene.author(&scene.liar), scene.author(&scene.other));
    for (author, citizen) in [(&mut liar, scene.liar.clone()), (&mut other, scene.other.clone())] {
        scene.bring(author, &Body::Identity(Identity { chain: citizen.chain }));
        scene.bring(author, &Body::Status(Status::Up));
    }
    (scene, liar, other)
}

impl Scene {
    fn rank(&self, of: &NodeId) -> (u64, u64) {
        self.engine.ledger.rank(of).expect("held")
    }

    /// Whether somebody's word put a member under check here.
    pub(super) fn checks(&self, of: &Citizen) -> bool {
        self.engine.detector.is_accused(&of.node)
    }
}

/// An accusation of a member, `beyond` what it signed last.
pub(super) fn accusation(scene: &Scene, of: &NodeId, beyond: u64) -> Latest {
    let (generation, sequence) = scene.rank(of);
    Latest { node: of.clone(), generation, sequence: sequence + beyond }
}

/// One of nobody: what is said over and over is signed anew.
fn restless(number: u64) -> Latest {
    Latest { node: NodeId::new("nobody").expect("valid"), generation: GENERATION, sequence: number }
}

/// Messages of records in which one of a member's is, to whomever.
pub(super) fn told(effects: &[Effect], of: &NodeId, section: Section) -> Vec<(u64, NodeId)> {
    let records = effects.iter().filter_map(|effect| {
        let Effect::Send { to, bytes, .. } = effect else { return None };
        let Ok(Some(Message::Records(records))) = Message::decode(bytes) else { return None };
        Some((to, records))
    });
    let read = records.flat_map(|(to, records)| records.into_iter().map(move |bytes| (to, bytes)));
    let read = read.filter_map(|(to, bytes)| Some((to, SignedRecord::decode(&bytes).ok()?)));
    let wanted = read.filter(|(_, record)| record.node() == of && record.section() == section);
    wanted.map(|(to, record)| (record.sequence(), to.clone())).collect()
}

fn bytes(effects: &[Effect]) -> usize {
    let sent = effects.iter().map(|effect| if let Effect::Send { bytes, .. } = effect { bytes.len() } else { 0 });
    sent.sum()
}

#[test]
fn one_that_accuses_this_node_all_the_time_is_answered_now_and_then() {
    for beyond in [0, 1, 1 << 40] {
        let (mut scene, mut liar, _) = scene();
        let own = scene.own.node.clone();
        let mut answers = BTreeSet::new();
        for round in 0..300 {
            let said = accusation(&scene, &own, beyond);
            let (mut effects, _) = scene.bring(&mut liar, &Body::Suspicions(vec![said, restless(round)]));
            effects.extend(scene.pass(200));
            answers.extend(told(&effects, &own, Section::TABLE));
        }
        let least = if beyond == 0 { 10 } else { 0 };
        assert!((least..=20).contains(&answers.len()), "{} tables for a claim {beyond} beyond", answers.len());
    }
}

#[test]
fn somebody_new_is_answered_whatever_others_asked_before() {
    let (mut scene, mut liar, _) = scene();
    let own = scene.own.node.clone();
    let ask = |scene: &mut Scene, liar: &mut Author| {
        let now = scene.now;
        let said = accusation(scene, &own, 0);
        let (mut effects, _) = scene.bring(liar, &Body::Suspicions(vec![said, restless(now)]));
        effects.extend(scene.pass(200));
        told(&effects, &own, Section::TABLE).len()
    };
    scene.pass(40_000);
    let asked: Vec<usize> = (0..12).map(|_| ask(&mut scene, &mut liar)).collect();
    assert!(asked[11] == 0, "{asked:?}");
    // It runs anew.
    let mut other = Author::new(
        scene.world.trust_domain.clone(),
        scene.other.node.clone(),
        scene.other.record_key.clone(),
        GENERATION + (1 << 24),
    );
    scene.bring(&mut other, &Body::Identity(Identity { chain: scene.other.chain.clone() }));
    scene.bring(&mut other, &Body::Status(Status::Up));
    scene.pass(200);
    assert!(ask(&mut scene, &mut liar) > 0);
}

#[test]
fn a_number_that_nobody_signed_yet_accuses_nobody_before_it_comes_and_then_it_does() {
    let (mut scene, mut liar, mut other) = scene();
    let of = scene.other.clone();
    let said = accusation(&scene, &of.node, 2);
    scene.bring(&mut liar, &Body::Suspicions(vec![said.clone()]));
    assert!(!scene.checks(&of));
    // It signs a record and a table: the number that was named.
    scene.bring(&mut other, &Body::Status(Status::Draining));
    assert_eq!(scene.rank(&of.node), (said.generation, said.sequence));
    assert!(scene.checks(&of));
    scene.bring(&mut other, &Body::Status(Status::Up));
    assert!(!scene.checks(&of), "it answered");
}

#[test]
fn this_node_goes_beyond_a_number_that_was_named_before_it_signed_it() {
    let (mut scene, mut liar, _) = scene();
    let own = scene.own.node.clone();
    scene.pass(1_000);
    let said = accusation(&scene, &own, 2);
    let (effects, _) = scene.bring(&mut liar, &Body::Suspicions(vec![said.clone()]));
    assert!(told(&effects, &own, Section::TABLE).is_empty(), "nobody believes it yet");
    scene.event(Event::Publish(vec![Body::Status(Status::Draining)]));
    scene.pass(200);
    assert!(scene.rank(&own) > (said.generation, said.sequence));
}

#[test]
fn what_this_node_signed_and_told_nobody_answers_nobody() {
    let (mut scene, mut liar, _) = scene();
    let own = scene.own.node.clone();
    let said = accusation(&scene, &own, 0);
    scene.pass(12_000);
    let signed = scene.rank(&own);
    assert!(signed > (said.generation, said.sequence), "a table, for repair");
    scene.bring(&mut liar, &Body::Suspicions(vec![said.clone()]));
    assert!(scene.rank(&own) > signed);
    // What it told everybody does.
    let answered = scene.rank(&own);
    scene.bring(&mut liar, &Body::Suspicions(vec![said, restless(1)]));
    scene.pass(1_000);
    assert_eq!(scene.rank(&own), answered);
}

#[test]
fn what_the_accuser_knew_is_no_sign_of_life() {
    let (mut scene, mut liar, mut other) = scene();
    let of = scene.other.clone();
    let said = accusation(&scene, &of.node, 0);
    scene.bring(&mut liar, &Body::Suspicions(vec![said]));
    let table = other.table().expect("fits");
    let said = Latest { node: of.node.clone(), generation: GENERATION, sequence: table.sequence() };
    let statement = liar.publish(&Body::Suspicions(vec![said])).expect("fits");
    let records = statement.iter().chain([&table]).map(|record| record.bytes().to_vec()).collect();
    scene.tell(&Message::Records(records));
    assert_eq!(scene.rank(&of.node), (GENERATION, table.sequence()));
    assert!(scene.checks(&of));
    // Nor does it go on by itself, whoever may come to know it.
    let table = other.table().expect("fits");
    scene.tell(&Message::Records(vec![table.bytes().to_vec()]));
    assert!(!scene.checks(&of), "this is one");
}

#[test]
fn a_table_without_news_is_passed_on_if_somebody_asked_for_it() {
    let (mut scene, mut liar, mut other) = scene();
    let of = scene.other.node.clone();
    let third = scene.world.citizen("d", 1);
    scene.event(Event::Authority(Arc::new(scene.world.authority.clone())));
    scene.event(Event::LinkUp { node: third.node.clone(), link: LinkId(2), dialled: None });
    scene.event(Event::LinkUp { node: of.clone(), link: LinkId(3), dialled: None });
    // It lives, and says so over its own link.
    let pass = |scene: &mut Scene, milliseconds: u64| {
        let bytes = Message::Ping(1).encode();
        (0..milliseconds / TICK_MS).for_each(|_| {
            scene.event(Event::Message { from: scene.other.node.clone(), link: LinkId(3), bytes: bytes.clone() });
            scene.pass(TICK_MS);
        });
    };
    pass(&mut scene, 10_000);
    let mut bring = |scene: &mut Scene| {
        let table = other.table().expect("fits");
        let mut effects = scene.tell(&Message::Records(vec![table.bytes().to_vec()]));
        effects.extend(scene.pass(TICK_MS));
        told(&effects, &of, Section::TABLE).len()
    };
    assert_eq!(bring(&mut scene), 0);
    // Nor if the clock is set back.
    scene.now -= 30_000;
    assert_eq!(bring(&mut scene), 0);
    let said = accusation(&scene, &of, 0);
    scene.bring(&mut liar, &Body::Suspicions(vec![said.clone()]));
    assert_eq!(bring(&mut scene), 1);
    // The answer may come before the question.
    pass(&mut scene, 5_000);
    let said = accusation(&scene, &of, 0);
    assert_eq!(bring(&mut scene), 0);
    let (mut effects, _) = scene.bring(&mut liar, &Body::Suspicions(vec![said]));
    effects.extend(scene.pass(TICK_MS));
    assert!(told(&effects, &of, Section::TABLE).iter().any(|(_, to)| *to == third.node));
}

#[test]
fn answers_to_an_accuser_are_no_lever() {
    let (mut scene, mut liar, mut other) = scene();
    let of = scene.other.node.clone();
    let old = Latest { sequence: 1, ..accusation(&scene, &of, 0) };
    let (mut heard, mut said) = (0, 0);
    for round in 0..500 {
        // Over and over, in one statement and in many.
        let (effects, bytes_in) = scene.bring(&mut liar, &Body::Suspicions(vec![old.clone(); 1 + round % 100]));
        heard += bytes_in;
        said += bytes(&effects) + bytes(&scene.pass(50));
        if round % 100 == 0 {
            scene.bring(&mut other, &Body::Status(if round % 200 == 0 { Status::Draining } else { Status::Up }));
        }
    }
    assert!(said <= heard * 4, "{said} bytes for {heard}");
}

#[test]
fn who_accuses_faster_than_it_is_judged_is_judged_by_what_it_said_last() {
    let (mut scene, mut liar, _) = scene();
    let of = scene.other.clone();
    for round in 0..200 {
        let said = if round % 2 == 0 { vec![accusation(&scene, &of.node, 0)] } else { Vec::new() };
        scene.bring(&mut liar, &Body::Suspicions(said));
    }
    let said = accusation(&scene, &of.node, 0);
    scene.bring(&mut liar, &Body::Suspicions(vec![said]));
    assert!(!scene.checks(&of), "too fast");
    scene.pass(200);
    assert!(scene.checks(&of));
}

#[test]
fn what_one_peer_says_is_read_up_to_a_limit() {
    let (mut scene, _, mut other) = scene();
    // Long messages, and then shorter ones for what is left.
    for length in [1_000_000, 100_000, 10_000, 1_000, 100, 10] {
        let noise = Message::Carrier(vec![0; length]);
        (0..100).for_each(|_| drop(scene.tell(&noise)));
    }
    let table = other.table().expect("fits");
    scene.tell(&Message::Records(vec![table.bytes().to_vec(); 10]));
    assert!(scene.rank(&scene.other.node) < (GENERATION, table.sequence()), "it was read");
    // Whoever says too much has its probes answered: it would take this node for dead.
    let answered = scene.tell(&Message::Ping(7));
    let answers =
        |effect: &Effect| matches!(effect, Effect::Send { bytes, .. } if **bytes == *Message::Ack(7).encode());
    assert!(answered.iter().any(answers), "{answered:?}");
    scene.pass(5_000);
    scene.tell(&Message::Records(vec![table.bytes().to_vec()]));
    assert_eq!(scene.rank(&scene.other.node), (GENERATION, table.sequence()));
    // Numbers of many, of which one is known.
    let of = Latest { node: scene.other.node.clone(), generation: GENERATION, sequence: table.sequence() + 1 };
    let nobody = Latest { node: NodeId::new("nobody").expect("valid"), ..of.clone() };
    (0..10).for_each(|_| drop(scene.tell(&Message::Have(vec![nobody.clone(); 2_048]))));
    scene.tell(&Message::Have(vec![of.clone()]));
    assert!(!scene.engine.fetch.wants(&of.node), "it was looked up");
    scene.pass(5_000);
    scene.tell(&Message::Have(vec![of.clone()]));
    assert!(scene.engine.fetch.expects(&of.node, (of.generation, of.sequence)));
}

#[test]
fn pulls_are_answered_by_their_bytes() {
    let (mut scene, _, mut other) = scene();
    let of = scene.other.node.clone();
    let service = |number: usize| {
        let mut record = crate::testing::service("c");
        record.labels.extend((0..20).map(|label| (format!("label-{number}-{label}"), "x".repeat(60))));
        record
    };
    let services = crate::body::Services { services: (0..30).map(service).collect() };
    scene.bring(&mut other, &Body::Services(services));
    let mut said = 0;
    for _ in 0..1_000 {
        let effects = scene.tell(&Message::Pull(vec![(of.clone(), Vec::new()); 1_000]));
        said += bytes(&effects) + bytes(&scene.pass(TICK_MS));
    }
    assert!(said < (16 << 20) + 50 * (2 << 20) + (1 << 20), "{said} bytes in 50 s");
    let once = bytes(&scene.tell(&Message::Pull(vec![(of.clone(), Vec::new()); 1_000])));
    assert!(once < 100_000, "{once} bytes, each record once");
}
