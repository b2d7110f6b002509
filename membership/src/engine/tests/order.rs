//! What comes in any order gives one View, and what others say of a member that answers is nothing.

use proptest::prelude::*;
use rand::seq::SliceRandom;

use super::*;
use crate::{
    body::{Address, Services},
    testing::service,
    view::MemberState,
};

/// What members say, as the View shows it, without this node's own judgements.
fn shown(engine: &Engine) -> Vec<String> {
    let members = engine.view().members().values();
    let said = members.map(|member| {
        format!("{} {} {:?} {:?} {:?}", member.id, member.generation, member.status, member.addresses, member.services)
    });
    said.collect()
}

/// What two members say over two runs each.
fn history(scene: &Scene) -> Vec<Arc<SignedRecord>> {
    let mut records = Vec::new();
    for (citizen, port) in [(&scene.liar, 1), (&scene.other, 2)] {
        for run in [GENERATION, GENERATION + (1 << 24)] {
            let (mesh, node) = (scene.world.trust_domain.clone(), citizen.node.clone());
            let mut author = Author::new(mesh, node.clone(), citizen.record_key.clone(), run);
            let address = Address {
                addresses: vec![([10, 0, 0, 9], port).into()],
                locality: String::new(),
                version: run.to_string(),
                wire: (1, 1),
                started: START,
            };
            for body in [
                Body::Identity(Identity { chain: citizen.chain.clone() }),
                Body::Services(Services { services: vec![service(node.as_str()), service("shared")] }),
                Body::Address(address),
                Body::Status(Status::Draining),
                Body::Services(Services { services: vec![service("shared")] }),
            ] {
                records.extend(author.publish(&body).expect("fits"));
            }
        }
    }
    records
}

/// Whom a node asks of its peer.
fn pulled(effects: &[Effect]) -> BTreeSet<NodeId> {
    let messages = effects.iter().filter_map(|effect| {
        let Effect::Send { bytes, .. } = effect else { return None };
        Message::decode(bytes).ok().flatten()
    });
    let pulls = messages.filter_map(|message| if let Message::Pull(wants) = message { Some(wants) } else { None });
    pulls.flatten().map(|(node, _)| node).collect()
}

/// One whom a peer brings records in this order, and what it asks for then.
fn told(scene: &mut Scene, records: &[Arc<SignedRecord>]) {
    let mut effects = Vec::new();
    for record in records {
        effects.extend(scene.tell(&Message::Records(vec![record.bytes().to_vec()])));
    }
    for _ in 0..20 {
        for node in pulled(&effects) {
            let held = records.iter().filter(|record| *record.node() == node);
            scene.tell(&Message::Records(held.map(|record| record.bytes().to_vec()).collect()));
        }
        effects = scene.pass(500);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_view_does_not_depend_on_the_order_in_which_records_come(seed in any::<u64>(), twice in 0_usize..20) {
        let mut scene = Scene::new();
        let mut records = history(&scene);
        let mut fresh = scene.again();
        told(&mut scene, &records);
        let straight = shown(&scene.engine);
        prop_assert!(straight.len() == 3 && straight.iter().filter(|member| member.contains("shared")).count() == 2);
        records.extend_from_within(..twice);
        records.shuffle(&mut StdRng::seed_from_u64(seed));
        told(&mut fresh, &records);
        prop_assert_eq!(shown(&fresh.engine), straight);
    }
}

/// However many accuse a member, each by its own signature: over a link it answers probes; without one it signs that it lives.
#[test]
fn no_number_of_accusers_makes_a_member_dead_to_one_that_it_answers() {
    for (accusers, linked) in [(1, true), (3, true), (20, true), (60, true), (1, false), (3, false), (60, false)] {
        let mut scene = Scene::with(accusers);
        let (other, link) = (scene.other.clone(), LinkId(2));
        let mut author = scene.author(&other);
        scene.bring(&mut author, &Body::Identity(Identity { chain: other.chain.clone() }));
        scene.bring(&mut author, &Body::Status(Status::Up));
        if linked {
            scene.event(Event::LinkUp { node: other.node.clone(), link, dialled: None });
        }
        let crowd = scene.crowd.clone();
        let mut crowd: Vec<Author> = crowd
            .iter()
            .map(|accuser| {
                let mut author = scene.author(accuser);
                scene.bring(&mut author, &Body::Identity(Identity { chain: accuser.chain.clone() }));
                author
            })
            .collect();
        let mut effects = Vec::new();
        for round in 0..100 {
            if round % 5 == 0 {
                let (generation, sequence) = scene.engine.ledger.rank(&other.node).expect("held");
                let accused = Latest { node: other.node.clone(), generation, sequence };
                for accuser in &mut crowd {
                    // Said anew each time: beside it stands one that nobody knows.
                    let nobody = NodeId::new("nobody").expect("valid");
                    let restless = Latest { node: nobody, generation, sequence: round };
                    effects.extend(scene.bring(accuser, &Body::Suspicions(vec![accused.clone(), restless])).0);
                }
                if !linked {
                    let table = author.table().expect("fits");
                    effects.extend(scene.tell(&Message::Records(vec![table.bytes().to_vec()])));
                }
            }
            for effect in std::mem::take(&mut effects) {
                let Effect::Send { to, bytes, .. } = effect else { continue };
                if let Ok(Some(Message::Ping(nonce))) = Message::decode(&bytes)
                    && (linked || to != other.node)
                {
                    let (from, link) = if to == other.node { (to, link) } else { (to, LinkId(1)) };
                    let bytes = Message::Ack(nonce).encode();
                    effects.extend(scene.event(Event::Message { from, link, bytes }));
                }
            }
            effects.extend(scene.pass(TICK_MS));
            let state = scene.engine.view().member(&other.node).map(|member| member.state);
            assert_ne!(state, Some(MemberState::Dead), "{accusers} accusers, linked {linked}, round {round}");
        }
    }
}
