//! What the engine reports of the View: everything that changed, and nothing else.

use super::{
    accusations::{accusation, scene, told},
    *,
};
use crate::{
    body::{Address, Health, HealthRecord, HealthState, Services},
    statement::Statement,
    testing::service,
    view::MemberState,
};

fn changes(effects: &[Effect], of: &NodeId) -> Vec<Change> {
    let changed =
        effects.iter().filter_map(|effect| if let Effect::Changed(change) = effect { Some(change) } else { None });
    let about = |change: &&Change| match change {
        Change::Alive(node)
        | Change::Suspect(node)
        | Change::Dead(node)
        | Change::Left(node)
        | Change::Evicted(node)
        | Change::Gone(node)
        | Change::Member(node)
        | Change::Status(node)
        | Change::Services(node)
        | Change::Health(node)
        | Change::Policy(node) => node == of,
    };
    changed.filter(about).cloned().collect()
}

fn address(port: u16) -> Body {
    Body::Address(Address {
        addresses: vec![([10, 0, 0, 9], port).into()],
        locality: String::new(),
        version: "1".to_owned(),
        wire: (1, 1),
        started: START,
    })
}

fn health(healthy: bool) -> Body {
    let state = HealthState { healthy, since: START, reason: "refused".to_owned() };
    let service = service("c").service;
    Body::Health(Health { endpoints: vec![HealthRecord { service, instance: None, state }] })
}

fn policy(count: u64) -> Body {
    let digest = Digest::of(&count.to_be_bytes());
    Body::Policy(Policy { digest, count, recent: vec![digest], applied: digest, audit: (0, digest) })
}

#[test]
fn each_section_is_reported_when_it_says_something_new_and_not_when_it_says_the_same() {
    let (mut scene, _, mut other) = scene();
    let of = scene.other.node.clone();
    let services = Body::Services(Services { services: vec![service("c")] });
    for (body, reported) in [
        (services.clone(), vec![Change::Services(of.clone())]),
        (services, vec![]),
        (health(false), vec![Change::Health(of.clone())]),
        (health(false), vec![]),
        (address(1), vec![Change::Member(of.clone())]),
        (address(1), vec![]),
        (policy(1), vec![Change::Policy(of.clone())]),
        (policy(1), vec![]),
        (Body::Status(Status::Draining), vec![Change::Status(of.clone())]),
        (Body::Services(Services { services: Vec::new() }), vec![Change::Services(of.clone())]),
    ] {
        let (effects, _) = scene.bring(&mut other, &body);
        assert_eq!(changes(&effects, &of), reported, "{body:?}");
    }
    let member = scene.engine.view().member(&of).expect("a member").clone();
    assert!(member.services.is_empty() && member.addresses == [([10, 0, 0, 9], 1).into()]);
    assert_eq!(member.policy.as_ref().map(|policy| policy.count), Some(1));
}

#[test]
fn judgements_runs_and_ends_are_reported_once() {
    let mut scene = Scene::new();
    let (of, key, chain) = (scene.other.node.clone(), scene.other.record_key.clone(), scene.other.chain.clone());
    let mut other = scene.author(&scene.other);
    let identity = Body::Identity(Identity { chain });
    let (effects, _) = scene.bring(&mut other, &identity);
    let all = |of: &NodeId| [Change::Member(of.clone()), Change::Status(of.clone()), Change::Services(of.clone())];
    let first = changes(&effects, &of);
    assert!(first.contains(&Change::Suspect(of.clone())) && all(&of).iter().all(|change| first.contains(change)));
    // A link shows that it lives, a second one nothing more.
    let up = |link: u64| Event::LinkUp { node: of.clone(), link: LinkId(link), dialled: None };
    let effects = scene.event(up(2));
    assert_eq!(changes(&effects, &of), [Change::Alive(of.clone())]);
    let effects = scene.event(up(3));
    assert_eq!(changes(&effects, &of), []);
    // It runs anew: its links are of the run before, and show that it lives.
    let mut later = Author::new(scene.world.trust_domain.clone(), of.clone(), key, GENERATION + (1 << 24));
    let (effects, _) = scene.bring(&mut later, &identity);
    assert_eq!(changes(&effects, &of), [Change::Member(of.clone())]);
    let (effects, _) = scene.bring(&mut later, &Body::Status(Status::Left));
    assert_eq!(changes(&effects, &of), [Change::Left(of.clone()), Change::Status(of.clone())]);
    assert_eq!(changes(&scene.pass(5_000), &of), []);
    // Its grant ends.
    scene.world.authority.grants.remove(&of);
    let effects = scene.event(Event::Authority(Arc::new(scene.world.authority.clone())));
    assert_eq!(changes(&effects, &of), [Change::Gone(of.clone())]);
    assert!(scene.engine.view().member(&of).is_none());
}

#[test]
fn silence_is_reported_as_doubt_and_then_as_death_and_a_round_trip_never() {
    let (mut scene, _, _) = scene();
    let of = scene.other.node.clone();
    let link = LinkId(2);
    scene.event(Event::LinkUp { node: of.clone(), link, dialled: None });
    let answer = |scene: &mut Scene, effects: Vec<Effect>| -> Vec<Effect> {
        let pings = effects.into_iter().filter_map(|effect| {
            let Effect::Send { to, bytes, link, .. } = effect else { return None };
            let Ok(Some(Message::Ping(nonce))) = Message::decode(&bytes) else { return None };
            Some((to, link, nonce))
        });
        let pings: Vec<_> = pings.collect();
        let answers = pings.into_iter().flat_map(|(from, link, nonce)| {
            scene.event(Event::Message { from, link, bytes: Message::Ack(nonce).encode() })
        });
        answers.collect()
    };
    for _ in 0..100 {
        let effects = scene.pass(TICK_MS);
        let answered = answer(&mut scene, effects);
        assert_eq!(changes(&answered, &of), []);
    }
    assert!(scene.engine.view().member(&of).is_some_and(|member| member.rtt.is_some()));
    let effects = scene.pass(3_000);
    assert_eq!(changes(&effects, &of), [Change::Suspect(of.clone()), Change::Dead(of.clone())]);
    assert_eq!(scene.engine.view().member(&of).map(|member| member.state), Some(MemberState::Dead));
}

/// Evicted members stay in the View, and readers wait for as long as the size of the mesh says.
#[test]
fn tables_come_by_the_number_of_those_that_are_members() {
    let mut scene = Scene::with(110);
    let authority = Arc::new(scene.world.authority.clone());
    scene.event(Event::Authority(authority));
    for citizen in scene.crowd.clone() {
        let mut author = scene.author(&citizen);
        scene.bring(&mut author, &Body::Identity(Identity { chain: citizen.chain }));
    }
    assert!(scene.engine.view().members().len() > 100);
    for citizen in &scene.crowd {
        scene.world.authority.revocations.evict(citizen.node.clone(), 1);
        scene.world.authority.grants.remove(&citizen.node);
    }
    let authority = Arc::new(scene.world.authority.clone());
    scene.event(Event::Authority(authority));
    scene.pass(61_000);
    let own = scene.own.node.clone();
    let before = scene.engine.ledger.rank(&own);
    scene.pass(11_000);
    assert!(scene.engine.ledger.rank(&own) > before);
}

#[test]
fn whom_it_accuses_counts_again_once_a_member_is_back() {
    let (mut scene, mut liar, _) = scene();
    let (node, said) = (scene.liar.node.clone(), accusation(&scene, &scene.other.node, 0));
    let told = |effects: &[Effect]| {
        let said =
            effects.iter().filter(|effect| matches!(effect, Effect::Heard { statement: Statement::Suspicions(_), .. }));
        said.count()
    };
    let (effects, _) = scene.bring(&mut liar, &Body::Suspicions(vec![said]));
    assert_eq!(told(&effects), 1);
    scene.event(Event::LinkDown { node: node.clone(), link: LinkId(1) });
    let effects = scene.pass(8_000);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Lost { why: Loss::Dead, .. })));
    let effects = scene.event(Event::LinkUp { node, link: LinkId(2), dialled: None });
    assert_eq!(told(&effects), 1);
}

#[test]
fn what_is_said_in_one_event_goes_out_at_once() {
    let (mut scene, ..) = scene();
    let own = scene.own.node.clone();
    scene.pass(1_000);
    let state = HealthState { healthy: false, since: START, reason: "not looked at yet".to_owned() };
    let web = service("web");
    let health = HealthRecord { service: web.service.clone(), instance: None, state };
    let bodies =
        vec![Body::Health(Health { endpoints: vec![health] }), Body::Services(Services { services: vec![web] })];
    let effects = scene.event(Event::Publish(bodies));
    assert!(!told(&effects, &own, Section::HEALTH).is_empty());
    assert!(!told(&effects, &own, Section::SERVICES).is_empty(), "it does not wait for what follows");
}
