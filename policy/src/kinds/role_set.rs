//! `RoleSet`: whom the mesh trusts: root certificates, operators' keys, what each may do.

use std::{collections::BTreeSet, fmt, str::FromStr};

use certs::{
    sign::{Digest, PublicKey},
    trust::Trust,
};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    codes,
    decode::{At, Fields},
    document::{Document, DocumentId, Kind, ROOT_NAMESPACE, Spec, Word},
    hosts,
};

/// `RoleSet`: replaces its predecessor as a whole, except that absent roots are inherited.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleSet {
    /// The roots; `None` keeps the predecessor's.
    pub trust: Option<Trust>,
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
    /// Look at the mesh over the admin conversation; at requests as they end only in the role's namespaces.
    View,
    /// Push and delete documents.
    Push,
    /// Make, widen and retire NodeGrants.
    Invite,
    /// Evict nodes, revoke accounts and keys.
    Evict,
    /// Sign RoleSets.
    Roles,
    /// One of a later build: it lets nobody do anything here, and stays where it is written.
    Unknown(Word),
}

impl Verb {
    /// Every verb of this build; what `*` stands for.
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
            | Kind::Confirmation
            | Kind::Unknown(_) => Verb::Push,
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::View => "view",
            Self::Push => "push",
            Self::Invite => "invite",
            Self::Evict => "evict",
            Self::Roles => "roles",
            Self::Unknown(word) => word.as_str(),
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
        if let Some(trust) = &self.trust {
            let ders = |ders: &[Vec<u8>]| ders.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>();
            let digests = |digests: &BTreeSet<Digest>| digests.iter().map(ToString::to_string).collect::<Vec<_>>();
            let lists = [
                ("bundle", ders(&trust.roots)),
                ("next", digests(&trust.next)),
                ("retiring", digests(&trust.retiring)),
                ("former", ders(&trust.former)),
            ];
            for (field, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
                spec[field] = list.into();
            }
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

impl RoleSet {
    pub(crate) fn decode(spec: &At<'_>) -> Option<RoleSet> {
        let fields = spec.fields()?;
        let keys = decode_keys(&fields);
        let roles: Vec<Role> = fields
            .get("roles")
            .map(|roles| roles.items().iter().filter_map(|role| Role::decode(role, &keys)).collect())
            .unwrap_or_default();
        let governors = governors(&keys, &roles).count();
        let majority = governors / 2 + 1;
        let threshold = fields.get("threshold").and_then(|threshold| {
            let given = usize::try_from(threshold.integer(1..=64)?).ok()?;
            let possible = (majority..=governors.max(1)).contains(&given);
            if !possible {
                let message =
                    format!("the threshold must be {majority} to {governors}: more than half of the keys that govern");
                threshold.error(codes::ROLE, message);
            }
            possible.then_some(given)
        });
        let trust = decode_trust(spec, &fields);
        let keeps = fields.get("keeps").map(|keeps| decode_digests(&keeps));
        let voids = fields.get("voids").map(|voids| decode_digests(&voids)).unwrap_or_default();
        if governors == 0 && !keys.iter().any(|key| key.recovery) {
            spec.error(codes::ROLE, "nobody could ever change this RoleSet: it names no key");
        }
        fields.finish();
        Some(RoleSet { trust, keys, roles, threshold: threshold.unwrap_or(majority), keeps, voids })
    }

    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&RoleKey> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// True if these signers may replace this RoleSet by another one: the threshold of the keys that govern, or a recovery key.
    pub(crate) fn approves(&self, signers: &[PublicKey]) -> bool {
        let recovery = self.keys.iter().any(|key| key.recovery && signers.contains(&key.key));
        recovery
            || governors(&self.keys, &self.roles).filter(|key| signers.contains(&key.key)).count() >= self.threshold
    }

    /// True if the key's signature helps to replace this RoleSet.
    pub(crate) fn governs(&self, key: &PublicKey) -> bool {
        self.approving().any(|own| own.key == *key) || self.keys.iter().any(|own| own.recovery && own.key == *key)
    }

    /// The keys of which [`RoleSet::threshold`] must sign; any recovery key alone does as well.
    pub(crate) fn approving(&self) -> impl Iterator<Item = &RoleKey> {
        governors(&self.keys, &self.roles)
    }

    /// True if a role that covers this names the key.
    pub(crate) fn names(&self, key: &PublicKey, verb: Verb, kind: Kind, namespace: &str) -> bool {
        let is_key = |name: &String| self.key(name).is_some_and(|own| !own.recovery && own.key == *key);
        self.covering(verb, kind, namespace).any(|role| role.keys.iter().any(is_key))
    }

    /// The roles that let enough of their keys do this.
    pub(crate) fn covering(&self, verb: Verb, kind: Kind, namespace: &str) -> impl Iterator<Item = &Role> {
        self.roles.iter().filter(move |role| role.covers(verb, kind, namespace))
    }

    /// True if these signers together may do this in this namespace ([`crate::document::ROOT_NAMESPACE`] takes a role everywhere).
    pub(crate) fn allows(&self, signers: &[PublicKey], verb: Verb, kind: Kind, namespace: &str) -> bool {
        self.roles.iter().filter(|role| role.covers(verb, kind, namespace)).any(|role| {
            let signed = |name: &&String| self.key(name).is_some_and(|key| !key.recovery && signers.contains(&key.key));
            role.keys.iter().filter(signed).count() >= role.threshold
        })
    }

    /// A host of a document that lives in a namespace where these keys may not push it, and that namespace: such a document counts in
    /// its own namespace only.
    pub(crate) fn foreign_host<'d>(&self, document: &'d Document, signers: &[PublicKey]) -> Option<(&'d str, String)> {
        // A name that is no service's own is whose callers take it first: for the whole mesh only those claim one who rule it.
        let routes = document.spec.virtual_service().is_some_and(|service| service.is_for_mesh())
            || matches!(document.spec, Spec::ServiceEntry(_));
        let owner = |host: &str| match hosts::service_of(host) {
            Some(service) => Some(service.namespace().to_owned()),
            None => (routes || host.starts_with('*')).then(|| ROOT_NAMESPACE.to_owned()),
        };
        // A Gateway opens ports of workloads in every namespace.
        let opens = matches!(document.spec, Spec::Gateway(_)).then(|| ("*", ROOT_NAMESPACE.to_owned()));
        let owned = document.spec.hosts().iter().filter_map(|host| Some((host.as_str(), owner(host)?))).chain(opens);
        let own = &document.id;
        let mut foreign =
            owned.filter(|(_, owner)| *owner != own.namespace && !self.allows(signers, Verb::Push, own.kind, owner));
        foreign.next()
    }

    /// What holds in the place of a RoleSet that follows this one and that this build cannot read: what this one says, without the
    /// keys that the next one, as far as it can be read, takes out and whose changesets it says to keep. So nobody gets a right, and
    /// who was removed does not come back. The threshold stays: where too few of its keys are left, a recovery key or a newer build
    /// goes on.
    pub(crate) fn before_unread(&self, next: Option<&RoleSet>) -> RoleSet {
        let mut set = RoleSet { trust: None, keeps: None, voids: BTreeSet::new(), ..self.clone() };
        if let Some(next) = next.filter(|next| next.keeps.is_some() && !next.keys.is_empty()) {
            set.keys.retain(|own| next.keys.iter().any(|key| key.key == own.key));
            (set.keeps, set.voids) = (next.keeps.clone(), next.voids.clone());
        }
        set
    }

    /// True if whoever was allowed something by `before` is still allowed it: nothing was taken away.
    pub(crate) fn keeps_all_of(&self, before: &RoleSet) -> bool {
        let key_stays = |old: &RoleKey| self.keys.contains(old);
        let role_stays = |old: &Role| {
            self.roles.iter().any(|new| {
                let anywhere = new.namespaces.contains("*") || new.namespaces.is_superset(&old.namespaces);
                let any_kind =
                    new.kinds.as_ref().is_none_or(|new| old.kinds.as_ref().is_some_and(|old| new.is_superset(old)));
                let keys = new.keys.is_superset(&old.keys) && new.threshold <= old.threshold;
                anywhere && any_kind && keys && new.verbs.is_superset(&old.verbs)
            })
        };
        before.keys.iter().all(key_stays) && before.roles.iter().all(role_stays)
    }
}

/// The keys that may change the RoleSet: those with the verb `roles` everywhere, or all if no role has it; never recovery keys,
/// which are counted apart.
fn governors<'k>(keys: &'k [RoleKey], roles: &[Role]) -> impl Iterator<Item = &'k RoleKey> {
    let governing: BTreeSet<String> = roles
        .iter()
        .filter(|role| role.verbs.contains(&Verb::Roles) && role.namespaces.contains("*"))
        .flat_map(|role| role.keys.iter().cloned())
        .collect();
    keys.iter().filter(move |key| !key.recovery && (governing.is_empty() || governing.contains(&key.name)))
}

fn decode_keys(fields: &Fields<'_>) -> Vec<RoleKey> {
    let mut keys: Vec<RoleKey> = Vec::new();
    let Some(list) = fields.required("keys") else { return keys };
    for item in list.items() {
        let Some(own) = item.fields() else { continue };
        let name = own.required("name").and_then(|name| Some(name.filled_text()?.to_owned()));
        let key = own.required("publicKey").and_then(|at| {
            let key = at.text()?.parse::<PublicKey>();
            if key.is_err() {
                at.error_hint(
                    codes::ROLE,
                    "not a public key",
                    "write it as `skein operator list` shows it: ed25519:...",
                );
            }
            key.ok()
        });
        let recovery = own.get("recovery").and_then(|recovery| recovery.boolean()).unwrap_or(false);
        own.finish();
        let (Some(name), Some(key)) = (name, key) else { continue };
        if keys.iter().any(|other| other.name == name || other.key == key) {
            item.error(codes::DUPLICATE, format!("the name or the key of `{name}` stands twice"));
        } else {
            keys.push(RoleKey { name, key, recovery });
        }
    }
    keys
}

impl Role {
    fn decode(at: &At<'_>, keys: &[RoleKey]) -> Option<Role> {
        let fields = at.fields()?;
        let name = fields.required("name").and_then(|name| Some(name.filled_text()?.to_owned()));
        let own = fields.required("keys").map(|list| {
            let known = |(name, at): &(&str, At<'_>)| {
                let known = keys.iter().any(|key| key.name == *name && !key.recovery);
                if !known {
                    at.error(codes::ROLE, format!("`{name}` is not a key of this RoleSet, or one for recovery only"));
                }
                known
            };
            list.text_list()
                .iter()
                .filter(|item| known(item))
                .map(|(name, _)| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        });
        let own = own.unwrap_or_default();
        let threshold = fields.get("threshold").and_then(|threshold| threshold.integer(1..=64)).unwrap_or(1);
        let threshold = usize::try_from(threshold).unwrap_or(usize::MAX);
        if threshold > own.len() {
            at.error(codes::ROLE, format!("the threshold is {threshold} and the role has {} keys", own.len()));
        }
        let namespaces = fields.required("namespaces").map(|list| texts(&list)).unwrap_or_default();
        let kinds = fields.required("kinds").map(|list| decode_kinds(&list)).unwrap_or_default();
        let verbs = fields.required("verbs").map(|list| decode_verbs(&list)).unwrap_or_default();
        fields.finish();
        Some(Role { name: name?, keys: own, threshold, namespaces, kinds, verbs })
    }

    /// True if the role is about this.
    pub(crate) fn covers(&self, verb: Verb, kind: Kind, namespace: &str) -> bool {
        self.verbs.contains(&verb)
            && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
            && (self.namespaces.contains("*")
                || (namespace != crate::document::ROOT_NAMESPACE && self.namespaces.contains(namespace)))
    }
}

fn texts(list: &At<'_>) -> BTreeSet<String> {
    list.text_list().iter().map(|(text, _)| (*text).to_owned()).collect()
}

fn decode_kinds(list: &At<'_>) -> Option<BTreeSet<Kind>> {
    let words = list.text_list();
    if words.iter().any(|(word, _)| *word == "*") {
        return None;
    }
    let kind = |(word, at): &(&str, At<'_>)| {
        let kind = word.parse().ok().or_else(|| Kind::of_word(word).filter(|_| at.out.signed));
        if kind.is_none() {
            at.error(codes::WORD, format!("`{word}` is not a kind"));
        }
        kind
    };
    Some(words.iter().filter_map(kind).collect())
}

fn decode_verbs(list: &At<'_>) -> BTreeSet<Verb> {
    let mut verbs = BTreeSet::new();
    for (word, at) in list.text_list() {
        let later = || Word::new(word).filter(|_| at.out.signed).map(Verb::Unknown);
        match word.parse().ok().or_else(later) {
            _ if word == "*" => verbs.extend(Verb::ALL),
            Some(verb) => {
                verbs.insert(verb);
            }
            None => {
                at.error_hint(codes::WORD, format!("`{word}` is not a verb"), "view, push, invite, evict, roles or *")
            }
        }
    }
    verbs
}

/// The roots, and where a change of them stands.
fn decode_trust(spec: &At<'_>, fields: &Fields<'_>) -> Option<Trust> {
    let ders = |list: At<'_>| list.text_list().iter().filter_map(|(text, at)| decode_der(text, at)).collect();
    let roots: Option<Vec<Vec<u8>>> = fields.get("bundle").map(|bundle| {
        if bundle.items().is_empty() {
            bundle.error(codes::EMPTY, "a trust bundle has at least one root");
        }
        ders(bundle)
    });
    let digests = |name| fields.get(name).map(|list| decode_digests(&list));
    let (next, retiring, former) = (digests("next"), digests("retiring"), fields.get("former").map(ders));
    let Some(roots) = roots else {
        if next.is_some() || retiring.is_some() || former.is_some() {
            spec.error(codes::ROLE, "`next`, `retiring` and `former` say something of a `bundle`, and there is none");
        }
        return None;
    };
    let (next, retiring, former) = (next.unwrap_or_default(), retiring.unwrap_or_default(), former.unwrap_or_default());
    let trust = Trust { roots, next, retiring, former };
    if let Err(wrong) = trust.check() {
        spec.error(codes::ROLE, wrong.to_string());
    }
    Some(trust)
}

fn decode_der(text: &str, at: &At<'_>) -> Option<Vec<u8>> {
    let der = STANDARD.decode(text).ok().filter(|der| !der.is_empty() && der.len() <= 16 * 1024);
    if der.is_none() {
        at.error(codes::ROLE, "not a certificate (DER in base64)");
    }
    der
}

fn decode_digests(list: &At<'_>) -> BTreeSet<Digest> {
    let digest = |(text, at): &(&str, At<'_>)| {
        let digest = text.parse().ok();
        if digest.is_none() {
            at.error(codes::ROLE, "not a changeset id");
        }
        digest
    };
    list.text_list().iter().filter_map(digest).collect()
}
