//! What NodeGrants and Revocations come to, also where they were pushed apart: nothing that one side took away comes back.

use std::sync::Arc;

use certs::grant::NodeGrant;

use super::{
    Absent, Live, LiveValue, State,
    fold::{Folded, Folder},
};
use crate::{
    changeset::ChangesetId,
    document::{DocumentId, Kind, Spec},
    kinds::Revocation,
    parse,
};

impl Folder<'_> {
    /// Adds what the document says of nodes, accounts and keys.
    pub(super) fn note_authority(&self, state: &mut State, id: &DocumentId, live: &Live) {
        if id.kind == Kind::NodeGrant {
            if let Some(grant) = self.grant(id, live) {
                state.grants.insert(grant.node.clone(), grant);
            }
        } else if id.kind == Kind::Revocation {
            note_revocation(state, live);
        }
    }

    /// The highest epoch that ever counted owns the name. Of several live values of one epoch all hold: what each of them lets the node
    /// serve; retired as soon as one says so. The token is that of the one that wins.
    fn grant(&self, id: &DocumentId, live: &Live) -> Option<Arc<NodeGrant>> {
        live.effective.as_ref()?;
        let said =
            |value: &LiveValue| Some((value.changeset, value.document.as_ref().ok()?.spec.node_grant()?.clone()));
        // The winner first.
        let mut all: Vec<(ChangesetId, Arc<NodeGrant>)> = live.in_force.iter().filter_map(said).collect();
        let epoch = all.iter().map(|(_, grant)| grant.epoch).max()?;
        let highest = live.counted.iter().filter_map(Spec::node_grant);
        if let Some(highest) = highest.max_by_key(|grant| grant.epoch).filter(|highest| highest.epoch > epoch) {
            return Some(highest.clone());
        }
        all.retain(|(_, grant)| grant.epoch == epoch);
        let (first, others) = all.split_first()?;
        if others.is_empty() {
            return Some(first.1.clone());
        }
        let mut grant = NodeGrant::clone(&first.1);
        grant.services.retain(|service| others.iter().all(|(_, other)| other.services.contains(service)));
        grant.retired = all.iter().any(|(_, grant)| grant.retired);
        // One that says no took the right away only if it was there before: whoever did not know of a promotion did not.
        let demotes =
            |(by, grant): &(ChangesetId, Arc<NodeGrant>)| !grant.enroller && self.enrolled_before(id, by, epoch);
        grant.enroller = all.iter().any(|(_, grant)| grant.enroller) && !all.iter().any(demotes);
        Some(Arc::new(grant))
    }

    /// Whether a value of this epoch that the changeset replaces, directly or not, called the node an enroller.
    fn enrolled_before(&self, id: &DocumentId, by: &ChangesetId, epoch: u64) -> bool {
        let mut untold = Folded::default();
        self.kept.ancestors(id, std::iter::once(by)).iter().filter(|ancestor| self.counts_by_roles(ancestor)).any(
            |ancestor| {
                let document = self.value(id, ancestor, &mut untold).and_then(|value| value.document.ok());
                let grant = document.as_ref().and_then(|document| document.spec.node_grant());
                grant.is_some_and(|grant| grant.epoch == epoch && grant.enroller)
            },
        )
    }
}

/// What a value of a document of this kind says. Of a Revocation that this build cannot read, what it can: it only forbids.
pub(super) fn told(kind: Kind, value: &LiveValue) -> Option<Spec> {
    match &value.document {
        Ok(document) => Some(document.spec.clone()),
        Err(Absent::Unreadable(_)) if kind == Kind::Revocation => {
            parse::as_far_as(&value.json, Revocation::decode).map(|revocation| Spec::Revocation(Arc::new(revocation)))
        }
        Err(Absent::Deleted | Absent::Expired | Absent::Unreadable(_) | Absent::Forgotten) => None,
    }
}

/// All live ones add up, and no eviction ends. What stands in for one that cannot be read holds beside it.
fn note_revocation(state: &mut State, live: &Live) {
    let told = live.values.iter().chain(&live.in_force).filter_map(|value| told(Kind::Revocation, value));
    for spec in told {
        let Some(revocation) = spec.revocation() else { continue };
        state.revocations.accounts.extend(revocation.accounts.iter().cloned());
        state.revocations.keys.extend(revocation.keys.iter().copied());
    }
    for revocation in live.counted.iter().filter_map(Spec::revocation) {
        revocation.nodes.iter().for_each(|(node, epoch)| state.revocations.evict(node.clone(), *epoch));
    }
}
