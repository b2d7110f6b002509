//! `RoleSet`: whom the mesh trusts: root certificates, operators' keys, what each may do.

use std::{collections::BTreeSet, fmt, str::FromStr};

use certs::sign::{Digest, PublicKey};

use super::super::document::Kind;

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
