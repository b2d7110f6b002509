//! What is passed on of members that say which policy they hold.

use super::{accusations::told, *};
use crate::{body::Address, view::MemberState};

/// A sparse mesh in which all are known, and who signs for one of them.
struct Mesh {
    scene: Scene,
    author: Author,
    of: NodeId,
}

/// A node holds so many changesets, the last of which is this.
fn policy(count: u64, last: &[u8]) -> Policy {
    let (digest, none) = (Digest::of(&[last, &count.to_be_bytes()].concat()), Digest([0; 32]));
    Policy { digest, count, recent: vec![Digest::of(last)], applied: none, audit: (0, none) }
}

fn address(number: u8) -> Body {
    Body::Address(Address {
        addresses: vec![([10, 0, 0, number], 15008).into()],
        locality: String::new(),
        version: String::new(),
        wire: (1, 1),
        started: START,
    })
}

fn mesh() -> Mesh {
    let mut scene = Scene::with(40);
    let citizen = scene.other.clone();
    let mut author = scene.author(&citizen);
    let mut crowd: Vec<(Author, Citizen)> =
        scene.crowd.iter().map(|citizen| (scene.author(citizen), citizen.clone())).collect();
    let everybody = crowd.iter_mut().map(|(author, citizen)| (author, &*citizen)).chain([(&mut author, &citizen)]);
    for (number, (author, citizen)) in (1..).zip(everybody) {
        scene.bring(author, &Body::Identity(Identity { chain: citizen.chain.clone() }));
        scene.bring(author, &address(number));
        scene.pass(TICK_MS);
    }
    for (number, (_, peer)) in (2..).zip(crowd.into_iter().take(10)) {
        scene.event(Event::LinkUp { node: peer.node, link: LinkId(number), dialled: None });
    }
    scene.bring(&mut author, &Body::Policy(policy(1, b"first")));
    scene.event(Event::Publish(vec![Body::Policy(policy(2, b"second"))]));
    assert!(scene.engine.dialer.is_sparse());
    Mesh { scene, author, of: citizen.node }
}

impl Mesh {
    /// To how many peers each section goes on that the member signs by this.
    fn passed_on(&mut self, body: &Body) -> [usize; 3] {
        let (mut effects, _) = self.scene.bring(&mut self.author, body);
        effects.extend(self.scene.pass(TICK_MS));
        [Section::POLICY, Section::TABLE, Section::ADDRESS].map(|section| told(&effects, &self.of, section).len())
    }

    fn member(&self) -> Option<(MemberState, u64)> {
        let member = self.scene.engine.view().member(&self.of)?;
        Some((member.state, member.policy.as_ref()?.count))
    }
}

#[test]
fn that_a_member_follows_is_no_news_beyond_its_peers() {
    let mut mesh = mesh();
    // Repair would bring it anyway; that it lives is known for long.
    mesh.scene.pass(5_000);
    let [policies, tables, _] = mesh.passed_on(&Body::Policy(policy(3, b"third")));
    assert!(policies > 0 && policies == tables, "it names what is not held here: {policies} and {tables}");
    mesh.scene.event(Event::Publish(vec![Body::Policy(policy(3, b"third"))]));
    assert_eq!(mesh.passed_on(&Body::Policy(policy(2, b"third"))), [0, 0, 0], "all that it names is held here");
    assert_eq!(mesh.member().map(|(_, count)| count), Some(2), "and noted");
    let same = Policy { audit: (9, Digest::of(b"audit")), ..policy(3, b"third") };
    assert_eq!(mesh.passed_on(&Body::Policy(same)), [0, 0, 0], "the same policy");
    // Whatever else it says goes on, and so does its table.
    let [policies, tables, addresses] = mesh.passed_on(&address(2));
    assert!(policies == 0 && tables > 0 && tables == addresses, "{tables} and {addresses}");
    let [policies, tables, _] = mesh.passed_on(&Body::Policy(policy(4, b"fourth")));
    assert!(policies > 0 && policies == tables, "news again: {policies} and {tables}");
}
