//! The first changeset of a mesh, and signing in one step.

use std::collections::BTreeSet;

use certs::{
    codec::Millis,
    id::TrustDomain,
    sign::{PublicKey, SigningKey},
    trust::Trust,
};

use crate::{
    changeset::{Change, Changeset, encode},
    document::ROOT_NAMESPACE,
    kinds::{Role, RoleKey, RoleSet, Verb},
};

/// The first changeset of a mesh: RoleSet number 1. The non-recovery keys get the role `admin`: everything, everywhere.
/// Sign it by all the non-recovery keys.
pub fn genesis(
    trust_domain: &TrustDomain,
    roots: &[Vec<u8>],
    keys: &[(String, PublicKey, bool)],
    now: Millis,
) -> Changeset {
    let operators: BTreeSet<String> =
        keys.iter().filter(|(_, _, recovery)| !recovery).map(|(name, _, _)| name.clone()).collect();
    let admin = Role {
        name: "admin".into(),
        threshold: 1,
        namespaces: BTreeSet::from(["*".to_owned()]),
        kinds: None,
        verbs: Verb::ALL.into_iter().collect(),
        keys: operators,
    };
    let set = RoleSet {
        trust: Some(Trust::of(roots.to_vec())),
        threshold: admin.keys.len() / 2 + 1,
        keys: keys
            .iter()
            .map(|(name, key, recovery)| RoleKey { name: name.clone(), key: *key, recovery: *recovery })
            .collect(),
        roles: vec![admin],
        keeps: None,
        voids: BTreeSet::new(),
    };
    let (document, content) = set.body();
    debug_assert_eq!(document.namespace, ROOT_NAMESPACE);
    Changeset {
        trust_domain: trust_domain.clone(),
        role_set: 1,
        issued_at: now,
        message: "genesis".into(),
        confirm_by: None,
        nonce: [0; 16],
        changes: vec![Change { document, content: Some(content), replaces: Vec::new() }],
    }
}

/// The bytes of a changeset signed by these keys.
pub fn signed(changeset: &Changeset, keys: &[&SigningKey]) -> Vec<u8> {
    encode(&changeset.sign(keys))
}
