//! One policy object: its kind, its name and its typed content.

mod word;

use std::{cmp::Ordering, collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use certs::{codec::Millis, grant::NodeGrant};
use serde::{Deserialize, Serialize};

pub use word::Word;

use crate::kinds::{
    AuthorizationPolicy, DestinationRule, Gateway, MeshConfig, PeerAuthentication, RateLimit, RequestAuthentication,
    Revocation, RoleSet, ServiceEntry, Sidecar, Telemetry, VirtualService, WorkloadEntry, WorkloadGroup,
};

/// Istio's root namespace: a routing document there applies mesh-wide, and the kinds that concern the whole mesh live there.
pub const ROOT_NAMESPACE: &str = "istio-system";
/// The namespace of a document that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Annotation with an RFC 3339 time at which this value of the document ends and yields to what it replaced.
pub const EXPIRES: &str = "skein.dev/expires";
/// Annotation with codes, parted by commas, whose warnings lint leaves out for the document. What is an error, what is not
/// supported yet and what push refuses stays.
pub const LINT_IGNORE: &str = "skein.dev/lint-ignore";

/// Annotation of a DestinationRule with an algorithm of Skein's own for all its traffic, where Istio's language has no word for it:
/// `PEAK_EWMA`.
pub const LB: &str = "skein.dev/lb";

/// A kind of policy document; shown and parsed as Istio's word, and ordered by it, so that builds which know more kinds order alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the kind of that name, described in its file under kinds")]
pub enum Kind {
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    WorkloadGroup,
    Gateway,
    Sidecar,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    Telemetry,
    RateLimit,
    MeshConfig,
    RoleSet,
    NodeGrant,
    Revocation,
    /// Ends the trial of a changeset that was pushed with `confirm_by`; the document's name is that changeset's id.
    Confirmation,
    /// One of a later build: its documents are signed, kept and replaced like others, and this build reads none of them.
    Unknown(Word),
}

const KINDS: [Kind; 17] = [
    Kind::VirtualService,
    Kind::DestinationRule,
    Kind::ServiceEntry,
    Kind::WorkloadEntry,
    Kind::WorkloadGroup,
    Kind::Gateway,
    Kind::Sidecar,
    Kind::AuthorizationPolicy,
    Kind::PeerAuthentication,
    Kind::RequestAuthentication,
    Kind::Telemetry,
    Kind::RateLimit,
    Kind::MeshConfig,
    Kind::RoleSet,
    Kind::NodeGrant,
    Kind::Revocation,
    Kind::Confirmation,
];

impl Kind {
    /// Every kind that this build knows, in the order of the design.
    pub fn all() -> impl Iterator<Item = Kind> {
        KINDS.into_iter()
    }

    /// The words of [`Kind::all`].
    pub fn words() -> impl Iterator<Item = &'static str> {
        Self::all().filter_map(Self::known)
    }

    /// The kind that what is signed calls so, also one that this build does not know; `None` if no build could call one so.
    pub fn of_word(word: &str) -> Option<Kind> {
        Self::all().find(|kind| kind.known() == Some(word)).or_else(|| Word::new(word).map(Self::Unknown))
    }

    /// The kind's word.
    pub fn as_str(&self) -> &str {
        if let Self::Unknown(word) = self { word.as_str() } else { self.known().unwrap_or_default() }
    }

    /// The word of a kind that this build knows.
    fn known(self) -> Option<&'static str> {
        Some(match self {
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::WorkloadGroup => "WorkloadGroup",
            Self::Gateway => "Gateway",
            Self::Sidecar => "Sidecar",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::Telemetry => "Telemetry",
            Self::RateLimit => "RateLimit",
            Self::MeshConfig => "MeshConfig",
            Self::RoleSet => "RoleSet",
            Self::NodeGrant => "NodeGrant",
            Self::Revocation => "Revocation",
            Self::Confirmation => "Confirmation",
            Self::Unknown(_) => return None,
        })
    }

    /// True for the kinds of which all live values of a document hold together until a push names them all: what a split mesh
    /// forbade on one side stays forbidden on both.
    pub fn unites(self) -> bool {
        matches!(self, Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication)
    }

    /// True for the kinds of which every live value counts: those that unite, and those that add up to whom the mesh believes.
    pub fn heeds_all(self) -> bool {
        self.unites() || matches!(self, Kind::NodeGrant | Kind::Revocation)
    }

    /// True for the kinds that concern the whole mesh: their namespace is [`ROOT_NAMESPACE`] whatever the default.
    pub fn is_mesh_wide(self) -> bool {
        matches!(self, Kind::RoleSet | Kind::NodeGrant | Kind::Revocation | Kind::Confirmation | Kind::MeshConfig)
    }
}

impl Ord for Kind {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no kind of this build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kind of policy document")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    /// Accepts the word of a known kind in any case, and its plural, as people type it on a command line.
    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        let same = |name: &str| {
            let plural = name.strip_suffix('y').map_or_else(|| format!("{name}s"), |stem| format!("{stem}ies"));
            name.eq_ignore_ascii_case(word) || plural.eq_ignore_ascii_case(word)
        };
        Self::all().find(|kind| same(kind.as_str())).ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Kind {
    /// As [`Kind::of_word`]: whether something signed can be kept must not depend on which kinds a build knows.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Self::of_word(&word).ok_or_else(|| serde::de::Error::custom(UnknownKind(word)))
    }
}

/// Which document: two with the same id are versions of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocumentId {
    /// The kind.
    pub kind: Kind,
    /// The namespace; [`ROOT_NAMESPACE`] for kinds that concern the whole mesh.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl DocumentId {
    /// A document of a namespace; for a mesh-wide kind the namespace is [`ROOT_NAMESPACE`] whatever is given.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.is_mesh_wide() { ROOT_NAMESPACE } else { namespace };
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// A document of a mesh-wide kind.
    pub fn mesh_wide(kind: Kind, name: &str) -> Self {
        Self::new(kind, ROOT_NAMESPACE, name)
    }

    /// The one RoleSet document.
    pub fn role_set() -> Self {
        Self::mesh_wide(Kind::RoleSet, "default")
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// One policy object, read strictly.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Which document.
    pub id: DocumentId,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.creationTimestamp`; in a folded state, else the time of the first version's changeset. Breaks ties: oldest wins.
    pub created: Option<Millis>,
    /// From [`EXPIRES`].
    pub expires: Option<Millis>,
    /// Line of the document in the file that was pushed, from 1; 0 if unknown.
    pub line: usize,
    /// The content.
    pub spec: Spec,
}

impl Document {
    /// True if its end has passed at this time.
    pub fn has_ended(&self, now: Millis) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    /// True if its author wants to hear nothing of this code, by [`LINT_IGNORE`].
    pub fn ignores(&self, code: &str) -> bool {
        ignored_codes(&self.annotations).any(|ignored| ignored == code)
    }
}

/// The codes of [`LINT_IGNORE`].
pub(crate) fn ignored_codes(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    let text = annotations.get(LINT_IGNORE).map(String::as_str).unwrap_or_default();
    text.split(',').map(str::trim).filter(|code| !code.is_empty())
}

/// The typed content of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// Routes.
    VirtualService(Arc<VirtualService>),
    /// Subsets and traffic policy of a host.
    DestinationRule(Arc<DestinationRule>),
    /// Services outside the mesh's own registry.
    ServiceEntry(Arc<ServiceEntry>),
    /// An endpoint of a ServiceEntry.
    WorkloadEntry(Arc<WorkloadEntry>),
    /// What endpoints of a kind have in common.
    WorkloadGroup(Arc<WorkloadGroup>),
    /// Listeners at the edge.
    Gateway(Arc<Gateway>),
    /// What a caller may see.
    Sidecar(Arc<Sidecar>),
    /// Who may do what at a workload.
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// Whether a workload takes plaintext.
    PeerAuthentication(Arc<PeerAuthentication>),
    /// Whose tokens a workload believes.
    RequestAuthentication(Arc<RequestAuthentication>),
    /// Metrics, logs and traces.
    Telemetry(Arc<Telemetry>),
    /// How many requests a workload takes.
    RateLimit(Arc<RateLimit>),
    /// Defaults of the whole mesh.
    MeshConfig(Arc<MeshConfig>),
    /// Trust bundle, keys and roles.
    RoleSet(Arc<RoleSet>),
    /// What a node may be.
    NodeGrant(Arc<NodeGrant>),
    /// Evictions and revocations.
    Revocation(Arc<Revocation>),
    /// Ends the trial of a changeset.
    Confirmation,
}

impl Spec {
    /// The grant, if it is one.
    pub fn node_grant(&self) -> Option<&Arc<NodeGrant>> {
        if let Self::NodeGrant(grant) = self { Some(grant) } else { None }
    }

    /// The revocation, if it is one.
    pub fn revocation(&self) -> Option<&Arc<Revocation>> {
        if let Self::Revocation(revocation) = self { Some(revocation) } else { None }
    }

    /// The VirtualService, if it is one.
    pub fn virtual_service(&self) -> Option<&Arc<VirtualService>> {
        if let Self::VirtualService(service) = self { Some(service) } else { None }
    }

    /// The DestinationRule, if it is one.
    pub fn destination_rule(&self) -> Option<&Arc<DestinationRule>> {
        if let Self::DestinationRule(rule) = self { Some(rule) } else { None }
    }

    /// The hosts that it speaks of, as they are written; other kinds than these three name none.
    pub(crate) fn hosts(&self) -> &[String] {
        match self {
            Self::VirtualService(service) => &service.hosts,
            Self::DestinationRule(rule) => std::slice::from_ref(&rule.host),
            Self::ServiceEntry(entry) => &entry.hosts,
            Self::WorkloadEntry(_)
            | Self::WorkloadGroup(_)
            | Self::Gateway(_)
            | Self::Sidecar(_)
            | Self::AuthorizationPolicy(_)
            | Self::PeerAuthentication(_)
            | Self::RequestAuthentication(_)
            | Self::Telemetry(_)
            | Self::RateLimit(_)
            | Self::MeshConfig(_)
            | Self::RoleSet(_)
            | Self::NodeGrant(_)
            | Self::Revocation(_)
            | Self::Confirmation => &[],
        }
    }

    /// The RoleSet, if it is one.
    pub fn role_set(&self) -> Option<&Arc<RoleSet>> {
        if let Self::RoleSet(set) = self { Some(set) } else { None }
    }
}
