//! Runs whose clock was wrong when they began, and a run that is put back to an earlier state with its memory.

use super::*;

const DAY: Millis = 86_400_000;

/// An engine that begins at this time, with this generation.
fn begun(generation: u64, now: Millis) -> Scene {
    let mut scene = Scene::new();
    let config = Config { trust_domain: scene.world.trust_domain.clone(), peers: Vec::new(), last_known: Vec::new() };
    let own = Own {
        node: scene.own.node.clone(),
        record_key: scene.own.record_key.clone(),
        generation,
        identity: scene.own.chain.clone(),
    };
    let authority = Arc::new(scene.world.authority.clone());
    scene.engine = Engine::with_notary(config, own, authority, scene.notary.clone(), 1, now);
    scene.now = now;
    scene
}

fn generations(effects: &[Effect]) -> Vec<u64> {
    let generation =
        |effect: &Effect| if let Effect::Generation(generation) = effect { Some(*generation) } else { None };
    effects.iter().filter_map(generation).collect()
}

fn remembered(effects: &[Effect]) -> Vec<u64> {
    let count = |effect: &Effect| if let Effect::Remembered(policy) = effect { Some(policy.audit.0) } else { None };
    effects.iter().filter_map(count).collect()
}

fn is_clone(effect: &Effect) -> bool {
    matches!(effect, Effect::Notice(Notice::Clone { .. }))
}

fn policy(entries: u64) -> Body {
    let digest = Digest::of(&entries.to_be_bytes());
    Body::Policy(Policy { digest, count: 1, recent: Vec::new(), applied: digest, audit: (entries, digest) })
}

/// What this node says is believed by itself, under this generation.
fn says(scene: &Scene, generation: u64) -> bool {
    let said = scene.engine.ledger.said(&scene.own.node);
    said.is_some_and(|said| said.generation == generation) && scene.engine.view().member(&scene.own.node).is_some()
}

#[test]
fn a_run_that_began_years_ahead_takes_another_generation_once_the_clock_is_right() {
    let ahead = next(0, START + 400 * DAY);
    let mut scene = begun(ahead, START + 400 * DAY);
    let (own, liar) = (scene.own.node.clone(), scene.liar.node.clone());
    scene.pass(1_000);
    let kept: Vec<Arc<SignedRecord>> = scene.engine.author.records().cloned().collect();
    scene.now = START;
    let drawn = generations(&scene.pass(60_000));
    assert_eq!(drawn.len(), 1, "{drawn:?}");
    assert!(drawn[0] < ahead && says(&scene, drawn[0]));
    // Peers hear of it under that one.
    let effects = scene.event(Event::LinkUp { node: liar, link: LinkId(1), dialled: None });
    let told =
        effects.iter().filter_map(|effect| if let Effect::Send { bytes, .. } = effect { Some(bytes) } else { None });
    let told =
        told.filter_map(
            |bytes| if let Ok(Some(Message::Records(all))) = Message::decode(bytes) { Some(all) } else { None },
        );
    let told: Vec<_> = told.flatten().map(|bytes| SignedRecord::decode(&bytes).expect("a record")).collect();
    assert!(told.iter().any(|record| *record.node() == own));
    assert!(told.iter().all(|record| record.generation() == drawn[0]), "{told:?}");
    // Who kept what it said then stops it by that no more than anybody else.
    for record in kept {
        let effects = scene.tell(&Message::Records(vec![record.bytes().to_vec()]));
        assert!(generations(&effects).is_empty() && !effects.iter().any(is_clone), "{effects:?}");
    }
}

#[test]
fn a_run_that_began_in_the_past_is_a_member_once_the_clock_is_right() {
    let mut scene = begun(next(0, START - 400 * DAY), START - 400 * DAY);
    scene.pass(1_000);
    assert!(scene.engine.view().member(&scene.own.node).is_none(), "its certificates begin later");
    scene.now = START;
    scene.pass(60_000);
    assert!(says(&scene, scene.engine.author.generation()));
    let services = scene.engine.ledger.lacking(&scene.own.node);
    assert!(services.is_empty(), "{services:?}");
}

/// A virtual machine is put back to a snapshot, with its memory. It said more before than it knows of now.
#[test]
fn a_run_that_is_put_back_goes_on_under_another_generation_and_learns_what_it_knew() {
    let mut scene = Scene::new();
    scene.event(Event::Publish(vec![policy(5)]));
    scene.pass(20_000);
    // What it says from here on, another engine of the same state says, too.
    let mut lost = scene.author(&scene.own);
    lost.publish(&policy(5)).expect("fits");
    for entries in 6..60 {
        lost.publish(&policy(entries)).expect("fits");
    }
    let before = scene.engine.author.generation();
    let shown: Vec<Arc<SignedRecord>> = lost.records().cloned().collect();
    assert!(shown.iter().all(|record| record.rank() > scene.engine.author.rank()));
    // A peer says back what it holds of this node's policy.
    let last = shown.iter().find(|record| record.section() == Section::POLICY).expect("it was said");
    let effects = scene.tell(&Message::Records(vec![last.bytes().to_vec()]));
    let drawn = generations(&effects);
    assert!(drawn.len() == 1 && drawn[0] > before && says(&scene, drawn[0]), "{drawn:?}");
    assert_eq!(remembered(&effects), [59]);
    assert!(!effects.iter().any(is_clone));
    // Once, whoever shows what of it; and what it says now is nothing of that kind.
    let again = scene.tell(&Message::Records(shown.iter().map(|record| record.bytes().to_vec()).collect()));
    assert!(generations(&again).is_empty() && remembered(&again).is_empty() && !again.iter().any(is_clone));
    let own: Vec<Vec<u8>> = scene.engine.author.records().map(|record| record.bytes().to_vec()).collect();
    let again = scene.tell(&Message::Records(own));
    assert!(generations(&again).is_empty() && remembered(&again).is_empty());
}

#[test]
fn a_peer_that_knows_a_higher_number_of_this_run_is_asked_for_it() {
    let mut scene = Scene::new();
    scene.pass(2_000);
    let (own, liar) = (scene.own.node.clone(), scene.liar.node.clone());
    let (generation, sequence) = scene.engine.author.rank();
    let asked = |effects: &[Effect]| {
        let asks = |effect: &&Effect| {
            let Effect::Send { to, bytes, .. } = effect else { return false };
            let is_pull = matches!(Message::decode(bytes), Ok(Some(Message::Pull(wants))) if wants.iter().any(|(node, _)| *node == own));
            *to == liar && is_pull
        };
        effects.iter().filter(asks).count()
    };
    let entry = |sequence| vec![(Latest { node: own.clone(), generation, sequence }, true)];
    let mut effects = scene.tell(&Message::Summary(entry(sequence)));
    effects.extend(scene.pass(1_000));
    assert_eq!(asked(&effects), 0, "that is what it says itself");
    let mut effects = scene.tell(&Message::Summary(entry(sequence + 1_000)));
    effects.extend(scene.pass(1_000));
    assert!(asked(&effects) > 0);
}

fn next(stored: u64, now: Millis) -> u64 {
    crate::record::next_generation(stored, 0, now, 7)
}

/// Two that run on from the same memory: the one goes on under another generation, and the other hears of that.
#[test]
fn a_record_of_this_run_that_it_did_not_sign_is_noticed_whatever_its_number() {
    let mut scene = Scene::new();
    for entries in 1..9 {
        scene.event(Event::Publish(vec![policy(entries)]));
    }
    let (generation, _) = scene.engine.author.rank();
    let held = scene.engine.author.records().find(|record| record.section() == Section::POLICY).cloned();
    let sequence = held.expect("it was said").sequence();
    let record = |sequence: u64| {
        let (key, mesh) = (&scene.own.record_key, &scene.world.trust_domain);
        let Body::Policy(other) = policy(3) else { unreachable!("it is one") };
        let body = codec::encode(&other);
        SignedRecord::sign(key, mesh, &scene.own.node, generation, Section::POLICY, sequence, body).expect("fits")
    };
    let (older, same) = (record(sequence - 1), record(sequence));
    let effects = scene.tell(&Message::Records(vec![older.bytes().to_vec()]));
    assert!(generations(&effects).is_empty(), "it may have said so");
    let effects = scene.tell(&Message::Records(vec![same.bytes().to_vec()]));
    assert_eq!(generations(&effects).len(), 1);
    // From somebody who has no key of this node's it is nothing.
    let forged = scene.forge(&scene.own.node, scene.engine.author.generation(), Section::POLICY, 1_000, vec![]);
    let effects = scene.tell(&Message::Records(vec![forged]));
    assert!(generations(&effects).is_empty());
}
