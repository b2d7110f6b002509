//! Whom members find silent in public, and since when: for people. The engine acts by itself.

use std::collections::BTreeMap;

use certs::{codec::Millis, id::NodeId};
use membership::message::Latest;

/// By accuser whom it accuses: up to which number of the accused, and since when. Bounded by the number of members and what a statement
/// may hold.
#[derive(Debug, Default)]
pub(super) struct Accusations(BTreeMap<NodeId, BTreeMap<NodeId, (Rank, Millis)>>);

/// Generation and sequence of a record.
type Rank = (u64, u64);

impl Accusations {
    /// All that a member says of others from now on.
    pub(super) fn heard<'a>(&mut self, by: NodeId, accused: impl Iterator<Item = &'a Latest>, now: Millis) {
        let before = self.0.remove(&by).unwrap_or_default();
        let mut said: BTreeMap<NodeId, (Rank, Millis)> = BTreeMap::new();
        for Latest { node, generation, sequence } in accused {
            let since = before.get(node).map_or(now, |(_, since)| *since);
            let (rank, _) = said.entry(node.clone()).or_insert((Rank::default(), since));
            *rank = (*rank).max((*generation, *sequence));
        }
        if !said.is_empty() {
            self.0.insert(by, said);
        }
    }

    /// What a member said counts no more.
    pub(super) fn lost(&mut self, by: &NodeId) {
        self.0.remove(by);
    }

    /// Forgets whom this node holds something of that was signed after what an accuser names. In a mesh of more than 32 nodes what it
    /// takes back reaches few others.
    pub(super) fn answered(&mut self, held: impl Fn(&NodeId) -> Option<Latest>) {
        let later = |held: Latest, claim: Rank| (held.generation, held.sequence) > claim;
        self.0.retain(|_, accused| {
            accused.retain(|node, (claim, _)| !held(node).is_some_and(|held| later(held, *claim)));
            !accused.is_empty()
        });
    }

    /// Who finds this one silent, and since when.
    pub(super) fn of(&self, node: &NodeId) -> Vec<(NodeId, Millis)> {
        self.0.iter().filter_map(|(by, accused)| Some((by.clone(), accused.get(node)?.1))).collect()
    }
}

#[cfg(test)]
mod tests {
    use membership::{
        body::Body,
        engine::Event,
        sim::{
            network::Network,
            population::{Citizen, Population},
        },
        view::MemberState,
    };

    use super::*;

    fn latest(node: &str, sequence: u64) -> Latest {
        Latest { node: NodeId::new(node).unwrap(), generation: 1, sequence }
    }

    #[test]
    fn who_goes_on_accusing_has_done_so_since_it_began_and_who_was_answered_begins_anew() {
        let [a, b, c] = ["a", "b", "c"].map(|name| NodeId::new(name).unwrap());
        let mut accusations = Accusations::default();
        accusations.heard(a.clone(), [latest("b", 5), latest("c", 5)].iter(), 10);
        accusations.heard(a.clone(), [latest("b", 5), latest("b", 6)].iter(), 20);
        assert_eq!((accusations.of(&b), accusations.of(&c)), (vec![(a.clone(), 10)], vec![]));
        accusations.answered(|_| Some(latest("b", 6)));
        assert_eq!(accusations.of(&b), [(a.clone(), 10)], "nothing came after what it names");
        accusations.answered(|_| Some(latest("b", 7)));
        assert_eq!(accusations.of(&b), []);
        accusations.heard(a.clone(), [latest("b", 7)].iter(), 30);
        assert_eq!(accusations.of(&b), [(a.clone(), 30)]);
        accusations.lost(&a);
        assert_eq!(accusations.of(&b), []);
    }

    /// A mesh in which most members have no link with most: what one takes back most others never hear.
    #[test]
    fn one_that_answered_stands_accused_nowhere_in_a_mesh_of_forty() {
        let Population { citizens, authority, notary } = Population::new(40, 3);
        let mut network = Network::with_notary(authority, notary, 3);
        let names: Vec<NodeId> = citizens.iter().map(|Citizen { node, .. }| node.clone()).collect();
        network.start(&citizens[0], &[], Vec::new());
        let first = [network.address(&names[0])];
        citizens[1..].iter().for_each(|citizen| network.start(citizen, &first, Vec::new()));
        network.run(15_000);
        let (accuser, accused) = (&names[7], &names[20]);
        let claim = network.nodes[accused].engine.latest(accused).unwrap();
        network.event(accuser, Event::Publish(vec![Body::Suspicions(vec![claim])]));
        network.run(5_000);
        network.event(accuser, Event::Publish(vec![Body::Suspicions(Vec::new())]));
        network.run(5_000);
        let (mut unaware, mut shown) = (0, Vec::new());
        for at in names.iter().filter(|at| *at != accuser) {
            let host = &network.nodes[at];
            assert_eq!(network.state(at, accused), Some(MemberState::Alive));
            let mut accusations = Accusations::default();
            for (by, said) in &host.accusing {
                accusations.heard(by.clone(), said.iter(), network.now);
            }
            unaware += accusations.of(accused).len();
            accusations.answered(|node| host.engine.latest(node));
            shown.extend(accusations.of(accused).into_iter().map(|(by, _)| (at, by)));
        }
        assert!(unaware > 0, "everybody heard that it is over");
        assert_eq!(shown, []);
    }
}
