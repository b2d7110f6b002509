//! `RoleSet`: whom the mesh trusts: root certificates, operators' keys, what each may do.

use std::{collections::BTreeSet, fmt, str::FromStr};

use certs::sign::{Digest, PublicKey};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::document::{DocumentId, Kind};

/// `RoleSet`: replaces its predecessor as a whole, except that an absent bundle is inherited.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleSet {
    /// DER of each trusted root; `None` keeps the predecessor's.
    pub bundle: Option<Vec<Vec<u8>>>,
    /// Who may sign.
    pub keys: Vec<RoleKey>,
    /// What they may do.
    pub roles: Vec<Role>,
    /// How many governing keys a change of the RoleSet needs: more than half of them.
    pub threshold: usize,
    /// Where this RoleSet takes something away: what was signed under it still counts if one of these changesets descends from it.
    pub keeps: Option<BTreeSet<Digest>>,
    /// Never counts, although an ancestor of `keeps`.
    pub voids: BTreeSet<Digest>,
}

/// An operator's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleKey {
    /// How people call it; unique.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// May sign RoleSets only, and each alone suffices for that.
    pub recovery: bool,
}

/// What some keys may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// How people call it.
    pub name: String,
    /// Names of keys.
    pub keys: BTreeSet<String>,
    /// How many of them must sign one changeset.
    pub threshold: usize,
    /// Where; `*` is everywhere.
    pub namespaces: BTreeSet<String>,
    /// Which kinds; `None` is all.
    pub kinds: Option<BTreeSet<Kind>>,
    /// What.
    pub verbs: BTreeSet<Verb>,
}

/// What a role lets its keys do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read everything over the admin conversation.
    View,
    /// Push and delete documents.
    Push,
    /// Make, widen and retire NodeGrants.
    Invite,
    /// Evict nodes, revoke accounts and keys.
    Evict,
    /// Sign RoleSets.
    Roles,
}

impl Verb {
    /// Every verb; what `*` stands for.
    pub const ALL: [Verb; 5] = [Verb::View, Verb::Push, Verb::Invite, Verb::Evict, Verb::Roles];

    /// The verb that a change of a document of this kind takes.
    pub fn to_change(kind: Kind) -> Verb {
        match kind {
            Kind::RoleSet => Verb::Roles,
            Kind::NodeGrant => Verb::Invite,
            Kind::Revocation => Verb::Evict,
            Kind::VirtualService
            | Kind::DestinationRule
            | Kind::ServiceEntry
            | Kind::WorkloadEntry
            | Kind::WorkloadGroup
            | Kind::Gateway
            | Kind::Sidecar
            | Kind::AuthorizationPolicy
            | Kind::PeerAuthentication
            | Kind::RequestAuthentication
            | Kind::Telemetry
            | Kind::RateLimit
            | Kind::MeshConfig
            | Kind::Confirmation => Verb::Push,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Push => "push",
            Self::Invite => "invite",
            Self::Evict => "evict",
            Self::Roles => "roles",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verb {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == word).ok_or(())
    }
}

impl RoleSet {
    /// The document that holds the RoleSet, and its body.
    pub fn body(&self) -> (DocumentId, String) {
        let id = DocumentId::role_set();
        let keys: Vec<_> = self
            .keys
            .iter()
            .map(
                |key| serde_json::json!({"name": key.name, "publicKey": key.key.to_string(), "recovery": key.recovery}),
            )
            .collect();
        let mut spec = serde_json::json!({
            "keys": keys,
            "roles": self.roles.iter().map(Role::to_json).collect::<Vec<_>>(),
            "threshold": self.threshold,
        });
        if let Some(bundle) = &self.bundle {
            spec["bundle"] = bundle.iter().map(|der| STANDARD.encode(der)).collect();
        }
        if let Some(keeps) = &self.keeps {
            spec["keeps"] = keeps.iter().map(ToString::to_string).collect();
        }
        if !self.voids.is_empty() {
            spec["voids"] = self.voids.iter().map(ToString::to_string).collect();
        }
        let body = super::body(&id, spec);
        (id, body)
    }
}

impl Role {
    fn to_json(&self) -> serde_json::Value {
        let kinds: Vec<_> = match &self.kinds {
            None => vec!["*".to_owned()],
            Some(kinds) => kinds.iter().map(ToString::to_string).collect(),
        };
        serde_json::json!({
            "name": self.name,
            "keys": self.keys,
            "threshold": self.threshold,
            "namespaces": self.namespaces,
            "kinds": kinds,
            "verbs": self.verbs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}
