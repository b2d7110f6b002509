//! Whether a changeset is kept: its form, its signatures, its references, and the RoleSet that it names. Nothing folded.

use std::sync::Arc;

use certs::{id::TrustDomain, sign::PublicKey};

use super::{
    Code, Entry, Refused, Roles,
    roles::{Chain, Charter},
};
use crate::{
    changeset::{self, Changeset, ChangesetId, confirmed},
    document::Kind,
    kinds::{RoleSet, Verb},
};

/// What an admitted changeset brings.
pub(super) struct Admitted {
    pub(super) entry: Entry,
    pub(super) charter: Option<Charter>,
}

/// Looks a kept changeset up.
pub(super) trait Known {
    fn changeset(&self, id: &ChangesetId) -> Option<&Changeset>;
}

/// Judges bytes.
pub(super) fn admit(
    trust_domain: &TrustDomain,
    known: &dyn Known,
    chain: &Chain,
    bytes: &[u8],
) -> Result<Admitted, Refused> {
    let entry = verify(trust_domain, bytes)?;
    references(known, &entry.changeset)?;
    let is_role_set = entry.changeset.changes.iter().any(|change| change.document.kind == Kind::RoleSet);
    let charter = if is_role_set {
        untimed(&entry.changeset)?;
        Some(chain.admit(entry.id, &entry.changeset, &entry.signers)?)
    } else {
        roles(known, chain, &entry)?;
        None
    };
    Ok(Admitted { entry, charter })
}

/// Form and signatures.
fn verify(trust_domain: &TrustDomain, bytes: &[u8]) -> Result<Entry, Refused> {
    let malformed = |error: changeset::Malformed| Refused::because(Code::Malformed, error.to_string(), "");
    let signed = changeset::decode(bytes).map_err(malformed)?;
    let mut signers =
        signed.verify(changeset::KIND).map_err(|error| Refused::because(Code::BadSignature, error.to_string(), ""))?;
    signers.sort_unstable();
    let (changeset, named) = Changeset::read(&signed).map_err(malformed)?;
    if signers != named {
        return Err(Refused::because(Code::BadSignature, "it is not signed by exactly the keys that it names", ""));
    }
    if changeset.trust_domain != *trust_domain {
        let message = format!("it is for {}, this mesh is {trust_domain}", changeset.trust_domain);
        return Err(Refused::because(
            Code::WrongTrustDomain,
            message,
            "sign it with the operator directory of this mesh",
        ));
    }
    Ok(Entry { id: ChangesetId(signed.id()), bytes: bytes.into(), changeset: Arc::new(changeset), signers })
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

/// Some RoleSet of the number that it names must allow every change.
fn roles(known: &dyn Known, chain: &Chain, entry: &Entry) -> Result<(), Refused> {
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
    let mut denial = None;
    for named in chain.of_number(changeset.role_set) {
        match first_denied(known, named, changeset, &entry.signers) {
            None => return Ok(()),
            Some(denied) => denial = Some(denied),
        }
    }
    Err(denial.unwrap_or_else(|| {
        let message = format!("RoleSet {} is not here", changeset.role_set);
        Refused::because(Code::RoleSetUnknown, message, "push again when the node has caught up")
    }))
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
        Some(denied(&roles.set, signers, verb, id.kind, &id.namespace))
    })
}

fn denied(set: &RoleSet, signers: &[PublicKey], verb: Verb, kind: Kind, namespace: &str) -> Refused {
    let some_role = set
        .roles
        .iter()
        .filter(|role| role.covers(verb, kind, namespace))
        .any(|role| role.keys.iter().filter_map(|name| set.key(name)).any(|key| signers.contains(&key.key)));
    if some_role {
        let message = format!("too few keys signed to {verb} {kind} in {namespace}");
        let hint = "sign with all needed keys at once: proposals are not supported yet";
        return Refused::because(Code::ThresholdMissing, message, hint);
    }
    let message = format!("no role lets the signers {verb} {kind} in {namespace}");
    Refused::because(Code::RoleMissing, message, "ask an operator with the verb `roles`")
}
