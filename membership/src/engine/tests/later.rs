//! What nodes of later builds say: it is passed on, costs nobody his name, and changes nothing that nodes compare.

use super::{
    accusations::{scene, told},
    *,
};

/// A heading that no build of today knows.
const LATER: Section = Section(0x9001);

/// What peers compare of a member, and what the disk holds.
fn compared(scene: &Scene) -> (Option<Latest>, u128, u64, Vec<u8>) {
    let (engine, liar) = (&scene.engine, &scene.liar.node);
    let known = engine.ledger.known(|_| true).remove(liar).expect("a member");
    (engine.ledger.latest(liar), known.content, known.version, engine.ledger.persist(&scene.own.node))
}

#[test]
fn what_a_later_build_says_of_the_moment_is_passed_on_once_and_kept_nowhere() {
    let (mut scene, ..) = scene();
    let (author, peer) = (scene.liar.node.clone(), scene.other.node.clone());
    scene.event(Event::LinkUp { node: peer.clone(), link: LinkId(2), dialled: None });
    scene.pass(1_000);
    let before = compared(&scene);
    let record = scene.forge(&author, GENERATION, LATER, 900, vec![1, 2, 3]);
    let message = Message::Records(vec![record]);
    let mut effects = scene.tell(&message);
    effects.extend(scene.pass(1_000));
    assert_eq!(told(&effects, &author, LATER), [(900, peer)]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Notice(_) | Effect::Heard { .. })), "{effects:?}");
    assert_eq!(compared(&scene), before);
    let mut effects = scene.tell(&message);
    effects.extend(scene.pass(1_000));
    assert_eq!(told(&effects, &author, LATER), []);
}

#[test]
fn headings_that_nobody_knows_take_only_so_much_room() {
    let (mut scene, mut liar, _) = scene();
    let author = scene.liar.node.clone();
    for number in 0..200 {
        let record =
            scene.forge(&author, GENERATION, Section(0x9000 + number), 900 + u64::from(number), vec![0; 5_000]);
        scene.tell(&Message::Records(vec![record]));
        scene.pass(1_000);
    }
    assert_eq!(scene.engine.ledger.momentary(&author).count(), crate::statement::UNKNOWN);
    // What is known has its own.
    let said = Latest { node: scene.other.node.clone(), generation: GENERATION, sequence: 1 };
    let records = liar.publish(&Body::Suspicions(vec![said])).expect("fits");
    scene.tell(&Message::Records(records.iter().map(|record| record.bytes().to_vec()).collect()));
    assert_eq!(scene.engine.ledger.suspicions(&author).count(), 1);
}

#[test]
fn a_status_of_a_later_build_is_not_simply_up() {
    let (mut scene, ..) = scene();
    let author = scene.liar.node.clone();
    let status = |scene: &Scene| scene.engine.view().member(&author).map(|member| member.status);
    assert_eq!(status(&scene), Some(Status::Up));
    // Another word, and a known one of which more is said.
    for (sequence, body) in [(900, vec![3]), (902, vec![0, 1])] {
        let up = scene.forge(&author, GENERATION, Section::STATUS, sequence, codec::encode(&Status::Up));
        scene.tell(&Message::Records(vec![up]));
        assert_eq!(status(&scene), Some(Status::Up));
        let later = scene.forge(&author, GENERATION, Section::STATUS, sequence + 1, body);
        scene.tell(&Message::Records(vec![later]));
        assert_eq!(status(&scene), Some(Status::Draining));
    }
}
