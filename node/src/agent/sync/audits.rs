//! How long each member's audit chain was heard to be: one that is written anew must still hold what was heard.

use std::{collections::BTreeMap, sync::Arc};

use certs::id::NodeId;
use membership::view::{Member, View};

use crate::agent::store::AuditHead;

type ByName = BTreeMap<NodeId, Arc<Member>>;

/// The longest that was heard of each member.
#[derive(Debug, Default)]
pub(super) struct Audits {
    heads: BTreeMap<NodeId, AuditHead>,
    /// What is taken in already.
    seen: Arc<View>,
}

impl Audits {
    /// Takes in what is new in this View. Each word of a member brings one, in which all others are what they were.
    pub(super) fn follow(&mut self, view: &Arc<View>) {
        let seen = std::mem::replace(&mut self.seen, view.clone());
        take_in(&mut self.heads, seen.members(), view.members());
    }

    /// By member.
    pub(super) fn heads(&self) -> &BTreeMap<NodeId, AuditHead> {
        &self.heads
    }
}

/// From members as they were to those of now; gives of how many it took in what they say.
fn take_in(heads: &mut BTreeMap<NodeId, AuditHead>, before: &ByName, now: &ByName) -> usize {
    let mut before = before.iter().peekable();
    let mut taken = 0;
    for (node, member) in now {
        while let Some((gone, _)) = before.next_if(|(known, _)| *known < node) {
            heads.remove(gone);
        }
        if before.next_if(|(known, _)| *known == node).is_none_or(|(_, known)| !Arc::ptr_eq(known, member)) {
            taken += 1;
            take(heads, member);
        }
    }
    for (gone, _) in before {
        heads.remove(gone);
    }
    taken
}

fn take(heads: &mut BTreeMap<NodeId, AuditHead>, member: &Member) {
    let Some((count, digest)) = member.policy.as_ref().map(|policy| policy.audit) else { return };
    let heard = AuditHead { count, digest };
    match heads.get_mut(&member.id) {
        Some(longest) if count > longest.count => *longest = heard,
        Some(_) => {}
        None => drop(heads.insert(member.id.clone(), heard)),
    }
}

#[cfg(test)]
mod tests {
    use certs::sign::Digest;
    use membership::body::Policy;

    use super::*;
    use crate::testing;

    /// A member whose audit chain has so many entries.
    fn member(name: &str, count: u64) -> (NodeId, Arc<Member>) {
        let [digest, applied] = [Digest([0; 32]), Digest([1; 32])];
        let audit = (count, Digest::of(&count.to_be_bytes()));
        let policy = Some(Arc::new(Policy { digest, count, recent: Vec::new(), applied, audit }));
        let member = Member { policy, ..testing::member(name) };
        (member.id.clone(), Arc::new(member))
    }

    #[test]
    fn a_word_of_one_member_costs_a_look_at_one() {
        let mut heads = BTreeMap::new();
        let mut members: ByName = (0..100).map(|number| member(&format!("n{number:03}"), 5)).collect();
        assert_eq!(take_in(&mut heads, &ByName::new(), &members), 100);
        assert_eq!(take_in(&mut heads, &members, &members), 0);
        let of = |heads: &BTreeMap<NodeId, AuditHead>, name: &str| {
            heads.get(&NodeId::new(name).unwrap()).map(|head| head.count)
        };
        for (said, longest) in [(7, 7), (6, 7), (8, 8)] {
            let before = members.clone();
            members.extend([member("n050", said)]);
            assert_eq!(take_in(&mut heads, &before, &members), 1);
            assert_eq!((of(&heads, "n050"), of(&heads, "n051")), (Some(longest), Some(5)));
        }
        // One goes, one comes.
        let before = members.clone();
        members.remove(&NodeId::new("n099").unwrap());
        members.remove(&NodeId::new("n000").unwrap());
        members.extend([member("n0005", 3)]);
        assert_eq!(take_in(&mut heads, &before, &members), 1);
        assert_eq!((of(&heads, "n000"), of(&heads, "n099"), of(&heads, "n0005")), (None, None, Some(3)));
        assert_eq!(heads.len(), members.len());
    }
}
