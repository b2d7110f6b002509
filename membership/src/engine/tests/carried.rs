//! The answer of an accused that the gossip carrier brings before anybody tells it.

use super::{
    accusations::{accusation, scene, told},
    *,
};
use crate::{body::Address, gossip::Outgoing, view::MemberState};

/// A sparse mesh in which so many accuse somebody, its answer, and who signs for the crowd.
struct Accused {
    scene: Scene,
    other: Citizen,
    table: Arc<SignedRecord>,
    authors: Vec<Author>,
}

fn accused(accusers: usize) -> Accused {
    let mut scene = Scene::with(40);
    let other = scene.other.clone();
    let citizens: Vec<Citizen> = scene.crowd.iter().chain([&other]).cloned().collect();
    let mut authors: Vec<Author> = citizens.iter().map(|citizen| scene.author(citizen)).collect();
    for (number, (author, citizen)) in (1..).zip(authors.iter_mut().zip(&citizens)) {
        let address = Address {
            addresses: vec![([10, 0, 0, number], 15008).into()],
            locality: String::new(),
            version: String::new(),
            wire: (1, 1),
            started: START,
        };
        scene.bring(author, &Body::Identity(Identity { chain: citizen.chain.clone() }));
        scene.bring(author, &Body::Address(address));
        scene.pass(TICK_MS);
    }
    assert!(scene.engine.dialer.is_sparse());
    let said = accusation(&scene, &other.node, 0);
    for accuser in &mut authors[1..=accusers] {
        scene.bring(accuser, &Body::Suspicions(vec![said.clone()]));
    }
    assert!(scene.checks(&other));
    let table = authors.last_mut().expect("of the accused").table().expect("fits");
    Accused { scene, other, table, authors }
}

fn have(table: &SignedRecord) -> Message {
    let (generation, sequence) = table.rank();
    Message::Have(vec![Latest { node: table.node().clone(), generation, sequence }])
}

#[test]
fn what_the_carrier_alone_brings_is_no_answer_and_what_a_peer_tells_or_announces_is() {
    let carried = |table: &Arc<SignedRecord>| Event::Gossip(Outgoing::Learned(vec![table.clone()]));
    let whole = |table: &Arc<SignedRecord>| Message::Records(vec![table.bytes().to_vec()]);
    for later in [have as fn(&SignedRecord) -> Message, |table| Message::Records(vec![table.bytes().to_vec()])] {
        let Accused { mut scene, other, table, .. } = accused(1);
        scene.event(carried(&table));
        assert!(scene.checks(&other), "it may have been signed before");
        scene.tell(&later(&table));
        assert!(!scene.checks(&other));
        // Once it counted it does not count again.
        scene.tell(&whole(&table));
    }
    let Accused { mut scene, other, table, .. } = accused(1);
    scene.tell(&have(&table));
    assert!(scene.checks(&other), "only announced");
    scene.event(carried(&table));
    assert!(!scene.checks(&other));
}

/// Whoever accuses a member anew, by the number of its answer and with it, does not hide that it answered the others.
#[test]
fn an_answer_that_was_announced_counts_though_an_accuser_brings_it() {
    let Accused { mut scene, other, table, mut authors } = accused(3);
    scene.pass(300);
    scene.tell(&have(&table));
    let (generation, sequence) = table.rank();
    let said = Latest { node: other.node.clone(), generation, sequence };
    let statement = authors[0].publish(&Body::Suspicions(vec![said])).expect("fits");
    let records = [&table].into_iter().chain(&statement).map(|record| record.bytes().to_vec());
    scene.tell(&Message::Records(records.collect()));
    assert!(scene.checks(&other), "anew");
    scene.pass(300);
    let state = scene.engine.view().member(&other.node).map(|member| member.state);
    assert_ne!(state, Some(MemberState::Dead));
}

#[test]
fn an_answer_that_the_carrier_brought_first_goes_on_to_those_who_wait_for_it() {
    for asked_first in [true, false] {
        let (mut scene, mut liar, mut other) = scene();
        let of = scene.other.node.clone();
        let third = scene.world.citizen("d", 1);
        scene.event(Event::Authority(Arc::new(scene.world.authority.clone())));
        scene.event(Event::LinkUp { node: third.node.clone(), link: LinkId(2), dialled: None });
        let mut link = scene.event(Event::LinkUp { node: of.clone(), link: LinkId(3), dialled: None });
        for _ in 0..100 {
            let bytes = Message::Ping(1).encode();
            scene.event(Event::Message { from: of.clone(), link: LinkId(3), bytes });
            link.extend(scene.pass(TICK_MS));
        }
        let said = accusation(&scene, &of, 0);
        let table = other.table().expect("fits");
        if asked_first {
            scene.bring(&mut liar, &Body::Suspicions(vec![said.clone()]));
        }
        let carried = Event::Gossip(Outgoing::Learned(vec![table.clone()]));
        let mut effects = scene.event(carried);
        if !asked_first {
            scene.bring(&mut liar, &Body::Suspicions(vec![said]));
        }
        effects.extend(scene.pass(TICK_MS));
        let is_told = |effects: &[Effect]| told(effects, &of, Section::TABLE).iter().any(|(_, to)| *to == third.node);
        assert!(!is_told(&effects), "the carrier spreads it");
        let mut effects = scene.tell(&Message::Records(vec![table.bytes().to_vec()]));
        effects.extend(scene.pass(TICK_MS));
        assert!(is_told(&effects), "asked first: {asked_first}");
    }
}

/// A table came from one that gives nothing more, and the news that it lists are announced by another.
#[test]
fn what_is_announced_and_lies_beneath_a_later_table_is_asked_of_who_announced_it() {
    let (mut scene, _, mut other) = scene();
    let third = scene.world.citizen("d", 1);
    scene.event(Event::Authority(Arc::new(scene.world.authority.clone())));
    scene.event(Event::LinkUp { node: third.node.clone(), link: LinkId(2), dialled: None });
    let records = other.publish(&Body::Status(Status::Draining)).expect("fits");
    let news = records.iter().find(|record| record.section() == Section::STATUS).expect("a status").clone();
    let table = other.table().expect("fits");
    let asked = |effects: &[Effect]| -> Vec<NodeId> {
        let pulls = effects.iter().filter_map(|effect| {
            let Effect::Send { to, bytes, .. } = effect else { return None };
            matches!(Message::decode(bytes), Ok(Some(Message::Pull(_)))).then(|| to.clone())
        });
        pulls.collect()
    };
    let effects = scene.tell(&Message::Records(vec![table.bytes().to_vec()]));
    assert_eq!(asked(&effects), [scene.liar.node.clone()]);
    let bytes = have(&news).encode();
    let mut effects = scene.event(Event::Message { from: third.node.clone(), link: LinkId(2), bytes });
    effects.extend(scene.pass(2 * TICK_MS));
    assert_eq!(asked(&effects), [third.node]);
}
