//! Whether a changeset is kept: its form, its signatures, its references, and the RoleSet that it names. Nothing folded.
//!
//! Invariant: what is kept stays kept when more arrives, and nothing here asks what is not here. So the order of arrival does not
//! matter: every node that was offered the same keeps the same.

use std::sync::Arc;

use certs::{codec::Millis, id::TrustDomain, sign::PublicKey};

use super::{
    Code, Entry, Refused, Roles,
    roles::{Chain, Charter},
};
use crate::{
    changeset::{self, Approval, Changeset, ChangesetId, Packed, Read, Unread, confirmed},
    document::Kind,
    kinds::{RoleSet, Verb},
};

/// A changeset that may be kept.
pub(super) struct Admitted {
    pub(super) entry: Entry,
    pub(super) charter: Option<Charter>,
    /// Too few keys have signed it so far.
    pub(super) proposal: bool,
}

/// An approval that may be kept.
pub(super) struct Vote {
    pub(super) id: ChangesetId,
    pub(super) bytes: Arc<[u8]>,
    pub(super) about: ChangesetId,
    pub(super) signer: PublicKey,
}

/// Looks a kept changeset up.
pub(super) trait Known {
    fn changeset(&self, id: &ChangesetId) -> Option<&Changeset>;
}

/// Judges a changeset.
pub(super) fn admit(
    trust_domain: &TrustDomain,
    known: &dyn Known,
    chain: &Chain,
    packed: &Packed,
    seen: Millis,
) -> Result<Admitted, Refused> {
    let entry = verify(trust_domain, packed, seen)?;
    references(known, &entry.changeset)?;
    if !entry.whole && entry.changeset.changes.iter().any(|change| change.document.kind.is_mesh_wide()) {
        return Err(Refused::because(Code::WrongBodies, "what concerns the whole mesh keeps its body", ""));
    }
    if entry.changeset.changes.iter().any(|change| change.document.kind == Kind::RoleSet) {
        untimed(&entry.changeset)?;
        let charter = chain.admit(entry.id, &entry.changeset, &entry.signers)?;
        return Ok(Admitted { proposal: charter.is_none(), entry, charter });
    }
    let proposal = roles(known, chain, &entry)? == Standing::Proposed;
    Ok(Admitted { entry, charter: None, proposal })
}

/// True if it has all the signatures that it needs, wherever what it replaces is.
pub(super) fn is_signed_enough(trust_domain: &TrustDomain, known: &dyn Known, chain: &Chain, packed: &Packed) -> bool {
    let entry = verify(trust_domain, packed, 0);
    entry.is_ok_and(|entry| roles(known, chain, &entry).is_ok_and(|standing| standing == Standing::Enough))
}

/// Judges an approval: its key must be one that the changeset can use.
pub(super) fn approval(
    trust_domain: &TrustDomain,
    known: &dyn Known,
    chain: &Chain,
    packed: &Packed,
) -> Result<Vote, Refused> {
    let approval = Approval::read(packed).map_err(unread)?;
    let signers = packed.signed.verify(changeset::APPROVAL).map_err(spoilt)?;
    if signers != [approval.signer] {
        return Err(Refused::because(Code::BadSignature, "it is not signed by exactly the key that it names", ""));
    }
    of_this_mesh(&approval.trust_domain, trust_domain)?;
    let Some(changeset) = known.changeset(&approval.changeset) else {
        return Err(Refused::Missing(vec![approval.changeset]));
    };
    if !takes_part(known, chain, changeset, &approval.signer) {
        let message = format!("the key {} has no role in what {} changes", approval.signer, approval.changeset);
        return Err(Refused::because(Code::RoleMissing, message, "see `skein policy proposals` for who may sign"));
    }
    Ok(Vote {
        id: ChangesetId(packed.id()),
        bytes: changeset::encode(packed).into(),
        about: approval.changeset,
        signer: approval.signer,
    })
}

/// True if the key's signature helps the changeset under the RoleSet that it names.
fn takes_part(known: &dyn Known, chain: &Chain, changeset: &Changeset, key: &PublicKey) -> bool {
    if changeset.changes.iter().any(|change| change.document.kind == Kind::RoleSet) {
        return chain.governs(changeset, key);
    }
    let helps = |roles: &Arc<Roles>| changeset.changes.iter().any(|change| named(known, &roles.set, change, key));
    chain.of_number(changeset.role_set).any(helps)
}

/// True if a role that covers the change names the key.
fn named(known: &dyn Known, set: &RoleSet, change: &changeset::Change, key: &PublicKey) -> bool {
    if let Some(about) = confirmed(change).and_then(|about| known.changeset(&about)) {
        return about.changes.iter().any(|change| confirmed(change).is_none() && named(known, set, change, key));
    }
    let id = &change.document;
    set.names(key, Verb::to_change(id.kind), id.kind, &id.namespace)
}

/// Form and signatures.
fn verify(trust_domain: &TrustDomain, packed: &Packed, seen: Millis) -> Result<Entry, Refused> {
    // The id covers the kind: no copy is another.
    if packed.signed.kind != changeset::KIND {
        let kind: String = packed.signed.kind.chars().take(80).collect();
        return Err(Refused::because(Code::Malformed, format!("`{kind}` is nothing that this build reads"), ""));
    }
    let Read { changeset, signers: named, whole, bodies } = packed.read().map_err(unread)?;
    let mut signers = packed.signed.verify(changeset::KIND).map_err(spoilt)?;
    signers.sort_unstable();
    if signers != named {
        return Err(Refused::because(Code::BadSignature, "it is not signed by exactly the keys that it names", ""));
    }
    of_this_mesh(&changeset.trust_domain, trust_domain)?;
    let bytes = changeset::encode(packed).into();
    Ok(Entry { id: ChangesetId(packed.id()), bytes, changeset: Arc::new(changeset), signers, whole, bodies, seen })
}

fn unread(error: Unread) -> Refused {
    let code = match &error {
        Unread::Malformed(_) => Code::Malformed,
        Unread::Bodies(_) => Code::WrongBodies,
    };
    Refused::because(code, error.to_string(), "")
}

fn spoilt(error: certs::sign::SignError) -> Refused {
    Refused::because(Code::BadSignature, error.to_string(), "")
}

fn of_this_mesh(named: &TrustDomain, own: &TrustDomain) -> Result<(), Refused> {
    if named == own {
        return Ok(());
    }
    let message = format!("it is for {named}, this mesh is {own}");
    Err(Refused::because(Code::WrongTrustDomain, message, "sign it with the operator directory of this mesh"))
}

/// What it replaces must be here and must speak of the same document.
fn references(known: &dyn Known, changeset: &Changeset) -> Result<(), Refused> {
    let confirmed = changeset.changes.iter().filter_map(confirmed);
    let mut missing: Vec<ChangesetId> =
        changeset.references().copied().chain(confirmed).filter(|id| known.changeset(id).is_none()).collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        return Err(Refused::Missing(missing));
    }
    for change in &changeset.changes {
        let speaks =
            |id: &&ChangesetId| known.changeset(id).is_some_and(|other| other.change(&change.document).is_some());
        if !change.replaces.iter().all(|id| speaks(&id)) {
            let message = format!("something that it replaces is no value of {}", change.document);
            return Err(Refused::because(Code::InvalidReference, message, ""));
        }
    }
    Ok(())
}

/// RoleSets, grants, revocations and confirmations cannot be on trial.
fn untimed(changeset: &Changeset) -> Result<(), Refused> {
    if changeset.confirm_by.is_some() {
        let message = "a RoleSet, NodeGrant, Revocation or confirmation cannot be on trial";
        return Err(Refused::because(Code::NotSupported, message, "push it without --confirm-within"));
    }
    Ok(())
}

/// What the signatures under a changeset are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Enough,
    /// Some role lets its signers make every change, with others.
    Proposed,
}

/// Some RoleSet of the number that it names must let its signers make every change, alone or with others.
fn roles(known: &dyn Known, chain: &Chain, entry: &Entry) -> Result<Standing, Refused> {
    let changeset = &entry.changeset;
    for change in &changeset.changes {
        if change.document.kind.is_mesh_wide() {
            untimed(changeset)?;
        }
        if change.document.kind == Kind::Confirmation && confirmed(change).is_none() {
            return Err(Refused::because(
                Code::InvalidDocument,
                "the name of a confirmation is the id of a changeset",
                "",
            ));
        }
        // What is on trial holds documents that take a role, never confirmations alone: else these would take none.
        let about = confirmed(change).and_then(|id| known.changeset(&id));
        if about.is_some_and(|about| about.confirm_by.is_none()) {
            return Err(Refused::because(Code::InvalidReference, "that changeset is not on trial", ""));
        }
    }
    if chain.genesis().is_none() {
        return Err(Refused::because(
            Code::NotInitialised,
            "there is no RoleSet yet",
            "the first changeset is the genesis",
        ));
    }
    let (mut proposed, mut denial) = (false, None);
    for named in chain.of_number(changeset.role_set) {
        match first_denied(known, named, changeset, &entry.signers) {
            None => return Ok(Standing::Enough),
            Some(denied) => {
                proposed |= proposes(known, &named.set, changeset, &entry.signers);
                denial = Some(denied);
            }
        }
    }
    if proposed {
        return Ok(Standing::Proposed);
    }
    Err(denial.unwrap_or_else(|| {
        let message = format!("RoleSet {} is not here", changeset.role_set);
        Refused::because(Code::RoleSetUnknown, message, "push again when the node has caught up")
    }))
}

/// True if each change has a signer whose role covers it.
fn proposes(known: &dyn Known, set: &RoleSet, changeset: &Changeset, signers: &[PublicKey]) -> bool {
    changeset.changes.iter().all(|change| signers.iter().any(|key| named(known, set, change, key)))
}

/// True if this RoleSet lets these signers make every change.
pub(super) fn allowed(known: &dyn Known, roles: &Roles, changeset: &Changeset, signers: &[PublicKey]) -> bool {
    first_denied(known, roles, changeset, signers).is_none()
}

fn first_denied(known: &dyn Known, roles: &Roles, changeset: &Changeset, signers: &[PublicKey]) -> Option<Refused> {
    changeset.changes.iter().find_map(|change| {
        if let Some(about) = confirmed(change) {
            // Whoever may push it may confirm it. A confirmation cannot be on trial, so this ends after one step.
            return match known.changeset(&about).filter(|about| about.confirm_by.is_some()) {
                Some(about) => first_denied(known, roles, about, signers),
                None => Some(Refused::because(Code::InvalidReference, "that changeset is not on trial", "")),
            };
        }
        let id = &change.document;
        let verb = Verb::to_change(id.kind);
        if roles.set.allows(signers, verb, id.kind, &id.namespace) {
            return None;
        }
        let message = format!("no role lets the signers {verb} {} in {}", id.kind, id.namespace);
        Some(Refused::because(Code::RoleMissing, message, "ask an operator with the verb `roles`"))
    })
}
