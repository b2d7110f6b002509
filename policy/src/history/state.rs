//! What a set of changesets folds to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use certs::{
    codec::Millis,
    grant::NodeGrant,
    id::{NodeId, TrustDomain},
    revoke::Revocations,
    sign::{Digest, PublicKey},
    trust::Trust,
    verify::Authority,
};

use crate::{
    Document, DocumentId, Kind, Problem,
    changeset::ChangesetId,
    document::Spec,
    kinds::{CertificateLifetimes, RoleSet, Verb},
};

/// The policy that holds now. Immutable.
#[derive(Debug, Clone)]
pub struct State {
    /// Every document that was ever pushed and counts, deleted ones included.
    pub documents: BTreeMap<DocumentId, Arc<Live>>,
    /// Whom the mesh trusts.
    pub role_set: Arc<Roles>,
    /// Id of the genesis.
    pub genesis: Digest,
    /// Equal on every node with the same set of changesets (at the same time, where trials and expiries are involved).
    pub digest: Digest,
    /// Documents with several live values, RoleSets with several children, documents that this build cannot read.
    pub conflicts: Vec<Conflict>,
    /// When the fold changes by itself.
    pub changes_at: Option<Millis>,
    /// Bytes of all RoleSets with their approvals: whoever joins is shown them.
    pub role_set_bytes: usize,
    pub(super) grants: HashMap<NodeId, Arc<NodeGrant>>,
    pub(super) revocations: Revocations,
}

/// The live values of one document.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Values that nothing replaces; the winner first. Never empty.
    pub values: Vec<LiveValue>,
    /// The same with the nearest readable ancestors in the place of values that this build cannot read; deletions included, the
    /// winner first. Kinds that [`Kind::unites`] obey all of them.
    pub in_force: Vec<LiveValue>,
    /// Values that this build cannot read and in whose place no document stands: either there never was one, or it was deleted,
    /// had expired, or a rival value replaced it, too. Nobody here can tell what they forbid.
    pub blind: Vec<LiveValue>,
    /// The value that is in effect; `None` if the document is deleted, expired, or readable in no value. Where a kind unites, this
    /// is but the one that is shown first.
    pub effective: Option<LiveValue>,
    /// Values that nothing replaces and that yielded, for they have expired: what comes next replaces them, too, or they stay beside it.
    pub yielded: Vec<ChangesetId>,
    /// Of NodeGrants and Revocations: what all values that count say, replaced ones too; of a Revocation that this build cannot read,
    /// what it can. Epochs and evictions only rise.
    pub counted: Vec<Spec>,
}

impl Live {
    pub(super) fn new(values: Vec<LiveValue>, in_force: Vec<LiveValue>, blind: Vec<LiveValue>) -> Self {
        let effective = in_force.first().filter(|value| value.document.is_ok()).cloned();
        Self { values, in_force, blind, effective, yielded: Vec::new(), counted: Vec::new() }
    }

    /// True if this value of a document of the kind is obeyed: the winner alone, or each where the kind heeds all.
    pub(super) fn holds(&self, kind: Kind, changeset: &ChangesetId) -> bool {
        let obeyed = if kind.heeds_all() { self.in_force.len() } else { 1 };
        self.in_force.iter().take(obeyed).any(|value| value.changeset == *changeset)
    }
}

/// One value of one document.
#[derive(Debug, Clone)]
pub struct LiveValue {
    /// The changeset that set it.
    pub changeset: ChangesetId,
    /// The document, or why there is none.
    pub document: Result<Arc<Document>, Absent>,
    /// The signed body; empty for a deletion.
    pub json: Arc<str>,
    /// Names of the signers' keys.
    pub authors: Vec<String>,
    /// When it was issued.
    pub time: Millis,
    /// Depth along `replaces`, from 1; for display.
    pub version: u64,
    /// True if its signers have no role in the namespace of a host that it speaks of: it acts as `exportTo: ["."]`.
    pub confined: bool,
}

impl LiveValue {
    /// False if this build cannot tell what it says.
    pub fn is_readable(&self) -> bool {
        match &self.document {
            Ok(_) | Err(Absent::Deleted | Absent::Expired) => true,
            Err(Absent::Unreadable(_) | Absent::Forgotten) => false,
        }
    }
}

/// Why a value is no document.
#[derive(Debug, Clone, PartialEq)]
pub enum Absent {
    /// It was deleted.
    Deleted,
    /// [`crate::document::EXPIRES`] passed.
    Expired,
    /// This build cannot read it.
    Unreadable(Arc<[Problem]>),
    /// Its body is not here: it was replaced long ago and lives again, or a peer kept it back. It is being asked for.
    Forgotten,
}

/// The RoleSet in force.
#[derive(Debug, Clone)]
pub struct Roles {
    /// From 1, the genesis's.
    pub number: u64,
    /// Its changeset.
    pub changeset: ChangesetId,
    /// Keys and roles.
    pub set: Arc<RoleSet>,
    /// The roots in force.
    pub trust: Trust,
}

impl Roles {
    /// The RoleSet of a history without genesis: nobody may do anything.
    fn nobody() -> Self {
        let set = RoleSet {
            trust: None,
            keys: Vec::new(),
            roles: Vec::new(),
            threshold: 1,
            keeps: None,
            voids: Default::default(),
        };
        Self { number: 0, changeset: ChangesetId(Digest([0; 32])), set: Arc::new(set), trust: Trust::default() }
    }
}

/// Something that an operator should settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// Several values of a document are live, the winner first.
    Values(DocumentId, Vec<Claim>),
    /// Several children of the RoleSet in force: none counts until a child names them all.
    RoleSets(Vec<ChangesetId>),
    /// A live value cannot be read by this build, or its body is not here: an ancestor is in effect instead, or nothing.
    Unreadable(DocumentId, ChangesetId),
}

/// One of several live values of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The changeset that set it.
    pub changeset: ChangesetId,
    /// Who signed that.
    pub authors: Vec<String>,
    /// False for a loser.
    pub in_effect: bool,
}

impl State {
    /// The state of no mesh at all: no document, no RoleSet. For lint without a mesh.
    pub fn nothing() -> State {
        State {
            documents: BTreeMap::new(),
            role_set: Arc::new(Roles::nobody()),
            genesis: Digest([0; 32]),
            digest: Digest([0; 32]),
            conflicts: Vec::new(),
            changes_at: None,
            role_set_bytes: 0,
            grants: HashMap::new(),
            revocations: Revocations::default(),
        }
    }

    /// What a verifier believes; the caller adds the keys that it has seen.
    pub fn authority(&self, trust_domain: &TrustDomain) -> Authority {
        Authority {
            grants: self.grants.clone(),
            revocations: self.revocations.clone(),
            former: self.trust().former.clone(),
            ..Authority::new(trust_domain.clone(), self.trust().roots.clone())
        }
    }

    /// The roots that the mesh believes.
    pub fn trust(&self) -> &Trust {
        &self.role_set.trust
    }

    /// The NodeGrants in effect.
    pub fn grants(&self) -> &HashMap<NodeId, Arc<NodeGrant>> {
        &self.grants
    }

    /// Evictions and revocations, all live ones together.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// The value of this document, RoleSets included, that this build cannot read: what follows it would take back what it says.
    pub fn unread(&self, id: &DocumentId) -> Option<ChangesetId> {
        let values = self.documents.get(id)?.values.iter();
        values.filter(|value| !value.is_readable()).map(|value| value.changeset).next()
    }

    /// The document in effect.
    pub fn document(&self, id: &DocumentId) -> Option<&Arc<Document>> {
        self.documents.get(id)?.effective.as_ref()?.document.as_ref().ok()
    }

    /// How long certificates are to live: what the MeshConfig in effect says, or the defaults.
    pub fn lifetimes(&self) -> CertificateLifetimes {
        let id = DocumentId::mesh_wide(Kind::MeshConfig, "default");
        match self.document(&id).map(|document| &document.spec) {
            Some(Spec::MeshConfig(config)) => config.certificates,
            Some(_) | None => CertificateLifetimes::default(),
        }
    }

    /// Every document in effect, with its value.
    pub fn effective(&self) -> impl Iterator<Item = (&DocumentId, &LiveValue)> {
        self.documents.iter().filter_map(|(id, live)| Some((id, live.effective.as_ref()?)))
    }

    /// What a change of this document must replace.
    pub fn heads(&self, id: &DocumentId) -> Vec<ChangesetId> {
        let Some(live) = self.documents.get(id) else { return Vec::new() };
        live.values.iter().map(|value| value.changeset).chain(live.yielded.iter().copied()).collect()
    }

    /// True if this key alone may do this now.
    pub fn may(&self, key: &PublicKey, verb: Verb, kind: Kind, namespace: &str) -> bool {
        let set = &self.role_set.set;
        if kind == Kind::RoleSet && verb == Verb::Roles {
            return set.approves(&[*key]);
        }
        set.allows(&[*key], verb, kind, namespace)
    }

    /// True if the key has this verb anywhere, alone or with others: the admin conversation's gate. A recovery key has `view` and
    /// `roles`.
    pub fn has_verb(&self, key: &PublicKey, verb: Verb) -> bool {
        let set = &self.role_set.set;
        let Some(own) = set.keys.iter().find(|own| own.key == *key) else { return false };
        if own.recovery {
            return matches!(verb, Verb::View | Verb::Roles);
        }
        set.roles.iter().any(|role| role.keys.contains(&own.name) && role.verbs.contains(&verb))
    }

    /// Where the key has the verb `view`, alone or with others; `*` is everywhere. A recovery key has it nowhere: what it may look at is
    /// what signing a RoleSet takes.
    pub fn views(&self, key: &PublicKey) -> BTreeSet<String> {
        let set = &self.role_set.set;
        let own = set.keys.iter().find(|own| own.key == *key && !own.recovery);
        let roles = own.into_iter().flat_map(|own| set.roles.iter().filter(|role| role.keys.contains(&own.name)));
        roles.filter(|role| role.verbs.contains(&Verb::View)).flat_map(|role| role.namespaces.iter().cloned()).collect()
    }
}
