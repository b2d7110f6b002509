//! Who only follows policy. With each push every member says that it holds it now: that matters to its own peers, who hear it first-hand
//! and may fetch from it. Passed on by all to all it would be as many records as the mesh has members, times the links that each tells,
//! before anything that is news. So in a sparse mesh such a word is left to repair, like a table that says nothing new.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::id::NodeId;

use super::Engine;
use crate::{
    body::{Policy, Table},
    record::{Section, SignedRecord},
    said::Part,
};

impl Engine {
    /// Of whom a message brings nothing but that it holds policy which is known here.
    pub(super) fn followers(&self, records: &[Arc<SignedRecord>]) -> BTreeSet<NodeId> {
        let mut said: BTreeMap<&NodeId, Vec<&SignedRecord>> = BTreeMap::new();
        if self.dialer.is_sparse() {
            for record in records.iter().filter(|record| !record.section().is_of_the_moment()) {
                said.entry(record.node()).or_default().push(record);
            }
        }
        let follow = said.into_iter().filter(|(node, said)| self.only_follows(node, said));
        follow.map(|(node, _)| node.clone()).collect()
    }

    fn only_follows(&self, node: &NodeId, said: &[&SignedRecord]) -> bool {
        let of = |section: Section| said.iter().find(|record| record.section() == section);
        let (Some(policy), Some(table), 2) = (of(Section::POLICY), of(Section::TABLE), said.len()) else {
            return false;
        };
        let held = self.ledger.records(node).and_then(|held| held.get(&Section::TABLE));
        let Some(held) = held.filter(|held| held.generation() == table.generation()) else { return false };
        let (Part::Policy(theirs), Part::Table(lists), Part::Table(listed)) =
            (policy.said(), table.said(), held.said())
        else {
            return false;
        };
        let is_its_own = lists.entries.get(&Section::POLICY) == Some(&policy.sequence());
        is_its_own && differ_in_policy_alone(lists, listed) && self.holds(theirs)
    }

    /// Whether this node holds whatever this names, as far as both say.
    fn holds(&self, theirs: &Policy) -> bool {
        let own = self.author.records().find(|record| record.section() == Section::POLICY);
        let Some(Part::Policy(own)) = own.map(|record| record.said()) else { return false };
        let knows_latest = || theirs.recent.first().is_some_and(|latest| own.recent.contains(latest));
        theirs.digest == own.digest || (theirs.count <= own.count && knows_latest())
    }
}

fn differ_in_policy_alone(one: &Table, other: &Table) -> bool {
    let rest = |table: &Table| -> Vec<_> {
        let entries = table.entries.iter().filter(|(section, _)| **section != Section::POLICY);
        entries.map(|(section, sequence)| (*section, *sequence)).collect()
    };
    rest(one) == rest(other)
}
