//! The decision of AuthorizationPolicy for one workload. The proxy and `explain` ask the same code.
//!
//! The order is Istio's: CUSTOM, DENY, ALLOW; AUDIT only marks. CUSTOM has the proxy ask an external authoriser: whom, says
//! [`Authorizer::ask`]; all the rest is [`Authorizer::decide`]. Where Istio leaves a way around, the stricter reading counts: a
//! condition that forbids holds if any spelling of a value meets it, one that permits only if all do.

mod facts;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use certs::id::{ServiceName, SpiffeId, TrustDomain};
use http::HeaderMap;

use crate::{
    document::{DocumentId, ROOT_NAMESPACE},
    kinds::{Action, Attribute, AuthorizationPolicy, Condition, Rule, Target},
    normalize::{NormalHost, NormalPath},
};
use facts::Facts;

/// A document and its live values: usually one. Two pushes on two sides of a partition leave two, until a push names both.
#[derive(Debug, Clone)]
pub struct Live {
    /// Which document.
    pub id: Arc<DocumentId>,
    /// Its values; `None` is a deletion.
    pub values: Vec<Option<Arc<AuthorizationPolicy>>>,
    /// Whom its values may be for that this build cannot read and in whose place no older one stands. They let nobody in.
    pub unreadable: Vec<Target>,
}

impl Live {
    /// True if it may be for a workload with these labels in `namespace`.
    pub fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let own = &self.id.namespace;
        self.values.iter().flatten().any(|value| value.target.selects(own, namespace, labels))
            || self.unreadable.iter().any(|target| target.selects(own, namespace, labels))
    }
}

/// Who is on the other end of a connection, and where it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// From a verified certificate only; `None` on plaintext.
    pub identity: Option<&'a SpiffeId>,
    /// `source.ip`.
    pub address: Option<IpAddr>,
    /// `remote.ip`: the original client, where a trusted peer tells it; else `address` counts.
    pub original_address: Option<IpAddr>,
    /// `connection.sni`.
    pub server_name: Option<&'a str>,
    /// `destination.ip`.
    pub destination: Option<IpAddr>,
    /// `destination.port`: the port on which the workload listens, not its service's.
    pub port: u16,
}

/// What authorization reads of a request.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// As on the wire, whatever headers say.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The authority.
    pub host: &'a NormalHost,
    /// The service that was called and its port, where they are known: what forbids a host means all names of its service.
    pub called: Option<(&'a ServiceName, u16)>,
    /// The path: the one that is forwarded.
    pub path: &'a NormalPath<'a>,
    /// What follows `?`.
    pub query: Option<&'a str>,
    /// As sent.
    pub headers: &'a HeaderMap,
    /// The claims of a token that RequestAuthentication has verified.
    pub token: Option<&'a Token>,
}

/// The claims of a verified token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Token {
    /// The payload.
    pub claims: serde_json::Map<String, serde_json::Value>,
    /// Claims whose text is a list separated by spaces, beside `scope` and `permission`.
    pub space_delimited: Vec<String>,
}

/// What was decided, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What is enforced.
    pub verdict: Verdict,
    /// The rule of an AUDIT policy that matches.
    pub audit: Option<Cause>,
    /// What the policies that are only tried out would have decided among themselves; `None` if there are none.
    pub dry_run: Option<Verdict>,
}

/// Yes or no, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// True if the request may pass.
    pub allowed: bool,
    /// The rule that decided; `None` if none did: there is no ALLOW policy, or none of them matches.
    pub cause: Option<Cause>,
}

/// An external authoriser that must let the request in, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its name in MeshConfig's `extensionProviders`; one that is not there lets nobody in.
    pub provider: Arc<str>,
    /// The rule of a CUSTOM policy that matches.
    pub cause: Cause,
}

/// A rule that matched, or a policy that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The policy.
    pub document: Arc<DocumentId>,
    /// True if this build cannot read the policy: it refuses every request, and there is no rule to name.
    pub unreadable: bool,
    /// Index of the rule, from 0.
    pub rule: usize,
    /// Line of the rule in the pushed file, from 1; 0 if unknown.
    pub line: usize,
}

impl Decision {
    /// True if the request may pass.
    pub fn allowed(&self) -> bool {
        self.verdict.allowed
    }

    /// Envoy's `response_code_details` of a refusal; `None` if the request may pass. A policy that cannot be read is named as such.
    pub fn details(&self) -> Option<String> {
        let matched = match &self.verdict {
            Verdict { allowed: true, .. } => return None,
            Verdict { cause: None, .. } => "none".to_owned(),
            Verdict { cause: Some(Cause { document, unreadable: true, .. }), .. } => {
                return Some(format!("skein_unreadable_policy[ns[{}]-policy[{}]]", document.namespace, document.name));
            }
            Verdict { cause: Some(Cause { document, rule, .. }), .. } => {
                format!("ns[{}]-policy[{}]-rule[{rule}]", document.namespace, document.name)
            }
        };
        Some(format!("rbac_access_denied_matched_policy[{matched}]"))
    }
}

/// The policies of one workload, ready to decide. Made once per policy and workload; shared behind an `Arc`.
#[derive(Debug, Clone, Default)]
pub struct Authorizer {
    /// A policy that may be for the workload and that nobody here can read: it refuses whatever the others say.
    unreadable: Option<Arc<DocumentId>>,
    /// CUSTOM.
    asking: Vec<Policy>,
    enforced: Policies,
    tried: Policies,
    audit: Vec<Policy>,
    /// This mesh's trust domain, `cluster.local` and the aliases: one and the same in a principal.
    trust_domains: Vec<String>,
    /// Some rule looks at paths.
    paths: bool,
}

/// What together says yes or no.
#[derive(Debug, Clone, Default)]
struct Policies {
    /// DENY: a match refuses.
    refusing: Vec<Policy>,
    allowing: Vec<Policy>,
}

/// The values of a document that select the workload and have one action.
#[derive(Debug, Clone)]
struct Policy {
    id: Arc<DocumentId>,
    values: Vec<Arc<AuthorizationPolicy>>,
    /// True if these are all live values. An ALLOW document matches only if every live value does: never, if this is false.
    whole: bool,
}

/// Which way a wrong guess would be safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Posture {
    /// A match permits.
    Permits,
    /// A match forbids or marks.
    Forbids,
}

/// The name that Istio's YAML gives the mesh's own trust domain.
const STOCK_TRUST_DOMAIN: &str = "cluster.local";

impl Authorizer {
    /// The policies of the workload with these labels in `namespace`, from all documents of the mesh, in a stable order.
    pub fn new<'a>(
        documents: impl IntoIterator<Item = &'a Live>,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        trust_domain: &TrustDomain,
        aliases: &[TrustDomain],
    ) -> Self {
        let mut authorizer = Self::default();
        let own = [trust_domain.as_str(), STOCK_TRUST_DOMAIN].into_iter();
        for name in own.chain(aliases.iter().map(TrustDomain::as_str)) {
            if !authorizer.trust_domains.iter().any(|known| known == name) {
                authorizer.trust_domains.push(name.to_owned());
            }
        }
        let here = |live: &&Live| live.id.namespace == namespace || live.id.namespace == ROOT_NAMESPACE;
        let mut documents: Vec<&Live> = documents.into_iter().filter(here).collect();
        documents.sort_by(|a, b| a.id.cmp(&b.id));
        let blind =
            |live: &&&Live| live.unreadable.iter().any(|one| one.selects(&live.id.namespace, namespace, labels));
        authorizer.unreadable = documents.iter().find(blind).map(|live| live.id.clone());
        for action in [Action::Custom, Action::Deny, Action::Allow, Action::Audit] {
            for (live, dry_run) in documents.iter().flat_map(|live| [(live, false), (live, true)]) {
                let chosen = |value: &&Arc<AuthorizationPolicy>| {
                    value.action == action
                        && value.dry_run == dry_run
                        && value.target.selects(&live.id.namespace, namespace, labels)
                };
                let values: Vec<_> = live.values.iter().flatten().filter(chosen).cloned().collect();
                if values.is_empty() {
                    continue;
                }
                let whole = values.len() == live.values.len();
                let policies = if dry_run { &mut authorizer.tried } else { &mut authorizer.enforced };
                let list = match action {
                    Action::Custom => &mut authorizer.asking,
                    Action::Deny => &mut policies.refusing,
                    Action::Allow => &mut policies.allowing,
                    Action::Audit => &mut authorizer.audit,
                };
                list.push(Policy { id: live.id.clone(), values, whole });
            }
        }
        let is_path = |attribute: &Attribute| {
            matches!(attribute, Attribute::Path) || matches!(attribute, Attribute::Header(name) if name == ":path")
        };
        let paths = authorizer.attributes().any(is_path);
        authorizer.paths = paths;
        authorizer
    }

    /// True if every request is allowed without a look.
    pub fn is_open(&self) -> bool {
        self.unreadable.is_none()
            && self.asking.is_empty()
            && self.enforced.is_empty()
            && self.tried.is_empty()
            && self.audit.is_empty()
    }

    /// True if some rule looks at paths: then a path without a normal form is refused with 400 instead of forwarded. Otherwise the
    /// path goes on as it came, and [`PathNormalization::None`](crate::kinds::PathNormalization::None) gives the head its form.
    pub const fn looks_at_paths(&self) -> bool {
        self.paths
    }

    /// True if some rule looks at the caller's address, or at the application's port.
    pub fn looks_at_addresses(&self) -> bool {
        let is_it = |attribute: &Attribute| {
            [Attribute::SourceIp, Attribute::RemoteIp, Attribute::DestinationPort].contains(attribute)
        };
        self.attributes().any(is_it)
    }

    /// The ALLOW policies: if there are some, what none of them lets in is denied.
    pub fn allowing(&self) -> impl Iterator<Item = &DocumentId> {
        self.enforced.allowing.iter().map(|policy| &*policy.id)
    }

    fn attributes(&self) -> impl Iterator<Item = &Attribute> {
        let lists =
            [&self.enforced, &self.tried].into_iter().flat_map(|policies| [&policies.refusing, &policies.allowing]);
        let values = lists.flatten().chain(&self.asking).chain(&self.audit).flat_map(|policy| &policy.values);
        values.flat_map(|value| &value.rules).flat_map(Rule::conditions).map(|condition| &condition.attribute)
    }

    /// True if some request must be asked about ([`Authorizer::ask`]).
    pub fn asks(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Whom to ask about the request, beside those that were asked already: all that this gives, one after the other, must let it in,
    /// and so must [`Authorizer::decide`] afterwards, on the head as they changed it. None where that refuses whatever they say.
    pub fn ask(&self, peer: &Peer<'_>, head: &Head<'_>, asked: &[Arc<str>]) -> Option<Ask> {
        if self.unreadable.is_some() {
            return None;
        }
        let facts = Facts::new(peer, Some(head), &self.trust_domains);
        let all = self.asking.iter().flat_map(|policy| policy.values.iter().map(move |value| (policy, value)));
        { all }.find_map(|(policy, value)| {
            // Without a name it has no rules.
            let provider = value.provider.as_ref().filter(|provider| !asked.contains(provider))?;
            let cause = policy.matching(value, &facts, Posture::Forbids)?;
            Some(Ask { provider: Arc::clone(provider), cause })
        })
    }

    /// Decides about a request, but for what external authorisers say.
    pub fn decide(&self, peer: &Peer<'_>, head: &Head<'_>) -> Decision {
        self.weigh(&Facts::new(peer, Some(head), &self.trust_domains))
    }

    /// Decides about a connection that is not HTTP. An ALLOW rule that looks at HTTP never matches; a DENY rule loses what it says
    /// of HTTP, and so forbids more. Nobody is asked about a connection: where a CUSTOM rule matches, it is refused.
    pub fn decide_connection(&self, peer: &Peer<'_>) -> Decision {
        self.weigh(&Facts::new(peer, None, &self.trust_domains))
    }

    fn refusal(&self) -> Option<Verdict> {
        let document = self.unreadable.clone()?;
        Some(Verdict { allowed: false, cause: Some(Cause { document, unreadable: true, rule: 0, line: 0 }) })
    }

    fn weigh(&self, facts: &Facts<'_>) -> Decision {
        let unasked = || {
            let cause = if facts.is_http() { None } else { first_match(&self.asking, facts) };
            cause.map(|cause| Verdict { allowed: false, cause: Some(cause) })
        };
        Decision {
            verdict: self.refusal().or_else(unasked).unwrap_or_else(|| self.enforced.decide(facts)),
            audit: first_match(&self.audit, facts),
            dry_run: (!self.tried.is_empty()).then(|| self.tried.decide(facts)),
        }
    }
}

impl Policies {
    fn is_empty(&self) -> bool {
        self.refusing.is_empty() && self.allowing.is_empty()
    }

    fn decide(&self, facts: &Facts<'_>) -> Verdict {
        if let Some(cause) = first_match(&self.refusing, facts) {
            return Verdict { allowed: false, cause: Some(cause) };
        }
        let cause = self.allowing.iter().find_map(|policy| policy.permits(facts));
        Verdict { allowed: cause.is_some() || self.allowing.is_empty(), cause }
    }
}

/// The first rule that forbids or marks.
fn first_match(policies: &[Policy], facts: &Facts<'_>) -> Option<Cause> {
    policies
        .iter()
        .find_map(|policy| policy.values.iter().find_map(|value| policy.matching(value, facts, Posture::Forbids)))
}

impl Policy {
    /// The rule that permits; every live value must have one.
    fn permits(&self, facts: &Facts<'_>) -> Option<Cause> {
        let mut causes = self.values.iter().map(|value| self.matching(value, facts, Posture::Permits));
        let first = causes.next().flatten().filter(|_| self.whole)?;
        causes.all(|cause| cause.is_some()).then_some(first)
    }

    fn matching(&self, value: &AuthorizationPolicy, facts: &Facts<'_>, posture: Posture) -> Option<Cause> {
        let rule = value.rules.iter().position(|rule| holds(rule, facts, posture))?;
        Some(Cause { document: self.id.clone(), unreadable: false, rule, line: value.rules[rule].line })
    }
}

fn holds(rule: &Rule, facts: &Facts<'_>, posture: Posture) -> bool {
    // Istio leaves out the whole rule, also where the HTTP field stands in one of several sources.
    if posture == Posture::Permits && !facts.is_http() && rule.conditions().any(|one| one.attribute.is_http()) {
        return false;
    }
    let all = |conditions: &[Condition]| conditions.iter().all(|one| condition_holds(one, facts, posture));
    let any = |list: &[Vec<Condition>]| list.is_empty() || list.iter().any(|conditions| all(conditions));
    any(&rule.from) && any(&rule.to) && all(&rule.when)
}

fn condition_holds(condition: &Condition, facts: &Facts<'_>, posture: Posture) -> bool {
    let Condition { attribute, values, not_values } = condition;
    if attribute.is_http() && !facts.is_http() {
        return posture == Posture::Forbids;
    }
    match posture {
        Posture::Permits => {
            (values.is_empty() || facts.surely(attribute, values)) && !facts.perhaps(attribute, not_values)
        }
        Posture::Forbids => {
            (values.is_empty() || facts.perhaps(attribute, values))
                && (not_values.is_empty() || !facts.surely(attribute, not_values))
        }
    }
}

#[cfg(test)]
mod tests;
