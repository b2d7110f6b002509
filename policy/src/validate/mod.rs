//! Rules between documents: lint's warnings, of which push refuses some. Rules within a document are its decoder's.

mod authorization;
mod cover;
mod ejection;
mod entries;
mod entry;
mod facts;
mod gateways;
mod names;
mod providers;
mod reach;
mod routing;
mod rules;
mod scopes;
mod sidecars;
mod tokens;
mod workloads;
mod world;

use std::cell::OnceCell;

use certs::{codec::Millis, sign::PublicKey};

use crate::{
    Kind, Problem, Severity, Spec, codes,
    document::{DocumentId, EXPIRES},
    history::State,
    hosts::Registry,
    parse::{Located, Places},
};

pub use crate::codes::{UNKNOWN_HOST, UNKNOWN_SUBSET};
use entry::Entry;
pub use facts::Facts;
use world::World;

/// Other documents of one subject that are looked at, oldest first: work stays bounded where thousands claim the same.
const MAX_RIVALS: usize = 64;
/// Other documents of one subject that are named.
const MAX_NAMED: usize = 3;

/// True if a push with this complaint is refused, whatever is allowed if it is an error, else unless the code is allowed: requests would be refused for want of what is named, or
/// a part of the document has no effect because another document wins, or whoever reads it could pretend to be somebody.
pub fn refuses_push(code: &str, severity: Severity) -> bool {
    const CODES: [&str; 8] = [
        codes::UNKNOWN_HOST,
        codes::UNKNOWN_SUBSET,
        codes::CONFLICTING_VIRTUAL_SERVICES,
        codes::REPEATED_SUBSET,
        codes::OVERRULED_POLICY,
        codes::UNKNOWN_PROVIDER,
        codes::MESH_TLS_OUTSIDE,
        codes::SIGNING_KEYS,
    ];
    severity == Severity::Error || severity == Severity::Warning && CODES.contains(&code)
}

/// Errors about documents whose end has passed at this time: they would take no effect.
pub fn ended(documents: &[Located], now: Millis) -> Vec<Problem> {
    let over = documents.iter().filter(|located| located.document.has_ended(now));
    let problem = |located: &Located| {
        let field = format!("metadata.annotations[{EXPIRES}]");
        let (line, column) = located.places().of(&field);
        Problem {
            code: codes::ENDED,
            severity: Severity::Error,
            document: Some(located.document.id.to_string()),
            file: located.file.clone(),
            line,
            column,
            field,
            message: "the end has passed by this node's clock: the document would take no effect".to_owned(),
            hint: "give it a later end or none".to_owned(),
            istio_message: None,
        }
    };
    over.map(problem).collect()
}

/// Complaints about these documents together with those that live in the mesh: warnings, and notes about other documents. Where
/// nothing is known of services ([`State::nothing`] and an empty registry: lint without a mesh) nothing is said of hosts.
pub fn between(documents: &[Located], state: &State, registry: &dyn Registry) -> Vec<Problem> {
    between_as(documents, state, registry, None)
}

/// As [`between`], with what becomes of the documents because these keys sign them, if that is known.
pub fn between_as(
    documents: &[Located],
    state: &State,
    registry: &dyn Registry,
    signers: Option<&[PublicKey]>,
) -> Vec<Problem> {
    let roles = &state.role_set.set;
    let inventory = registry.inventory();
    let world = World::new(documents, state, (registry, &inventory), &|document| {
        signers.is_some_and(|signers| roles.foreign_host(document, signers).is_some())
    });
    let mut problems: Vec<Problem> = Vec::new();
    for located in documents {
        let Some(entry) = world.entry(&located.document.id) else { continue };
        let mut check = Check { world: &world, located, entry, places: OnceCell::new(), problems: Vec::new() };
        if let Some((host, owner)) = signers.and_then(|signers| roles.foreign_host(&located.document, signers)) {
            check.beyond_role(host, &owner);
        }
        check.document();
        problems.append(&mut check.problems);
    }
    problems
}

/// True if the author of the document that the complaint is about wants to hear nothing of it
/// ([`crate::document::LINT_IGNORE`]).
pub fn is_silenced(problem: &Problem, documents: &[Located]) -> bool {
    let about = |located: &&Located| problem.document.as_ref() == Some(&located.document.id.to_string());
    !problem.refuses() && documents.iter().filter(about).any(|located| located.document.ignores(problem.code))
}

/// One document under examination.
struct Check<'w> {
    world: &'w World<'w>,
    located: &'w Located,
    entry: &'w Entry<'w>,
    places: OnceCell<Places>,
    problems: Vec<Problem>,
}

/// What is said of one field.
struct Finding {
    code: &'static str,
    severity: Severity,
    field: String,
    message: String,
    hint: String,
    istio: Option<&'static str>,
}

impl Finding {
    fn warning(code: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        Self { code, severity: Severity::Warning, field, message, hint: String::new(), istio: None }
    }

    /// Something worth knowing that may well be meant.
    fn note(code: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Info, ..Self::warning(code, field, message) }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// What Istio's analysis calls it.
    fn said_by_istio(self, message: &'static str) -> Self {
        Self { istio: Some(message), ..self }
    }
}

/// Several documents that say something of one thing, of which one counts.
struct Overlap<'o> {
    code: &'static str,
    field: String,
    /// `VERB WHAT`: what both do.
    does: String,
    /// What helps, before the name of the other.
    cure: &'o str,
    istio: Option<&'static str>,
}

impl<'w> Check<'w> {
    fn id(&self) -> &'w DocumentId {
        &self.located.document.id
    }

    fn say(&mut self, finding: Finding) {
        let (line, column) = self.places.get_or_init(|| self.located.places()).of(&finding.field);
        self.problems.push(Problem {
            code: finding.code,
            severity: finding.severity,
            document: Some(self.id().to_string()),
            file: self.located.file.clone(),
            line,
            column,
            field: finding.field,
            message: finding.message,
            hint: finding.hint,
            istio_message: finding.istio.map(str::to_owned),
        });
    }

    fn document(&mut self) {
        match &self.located.document.spec {
            Spec::VirtualService(service) => {
                self.virtual_service(service);
                self.at_gateways(service);
                self.reach(service);
                self.scope(service);
            }
            Spec::DestinationRule(rule) => self.destination_rule(rule),
            Spec::ServiceEntry(entry) => self.service_entry(entry),
            Spec::WorkloadEntry(entry) => self.endpoint(&entry.endpoint, "spec"),
            Spec::Gateway(gateway) => self.gateway(gateway),
            Spec::Sidecar(sidecar) => {
                self.one_counts();
                self.sidecar(sidecar);
            }
            Spec::AuthorizationPolicy(policy) => {
                self.selects_someone(&policy.target);
                self.authorization_policy(policy);
                self.provider(policy);
            }
            Spec::PeerAuthentication(policy) => {
                self.selects_someone(&policy.target);
                self.one_counts();
            }
            Spec::RequestAuthentication(policy) => {
                self.selects_someone(&policy.target);
                self.token_keys(policy);
            }
            Spec::Telemetry(telemetry) => {
                self.selects_someone(&telemetry.target);
                self.one_counts();
                self.telemetry_providers(telemetry);
            }
            Spec::RateLimit(limit) => self.selects_someone(&limit.target),
            Spec::MeshConfig(config) => self.providers(config),
            Spec::WorkloadGroup(_)
            | Spec::RoleSet(_)
            | Spec::NodeGrant(_)
            | Spec::Revocation(_)
            | Spec::Confirmation => {}
        }
    }

    fn beyond_role(&mut self, host: &str, owner: &str) {
        let field = if self.id().kind == Kind::DestinationRule { "spec.host" } else { "spec.hosts" };
        let own = &self.id().namespace;
        if self.id().kind == Kind::Gateway {
            let message =
                format!("the signer has no role in {owner}: the document opens ports of workloads in {own} only");
            let hint = format!("let someone sign it who has a role in {owner}, if workloads elsewhere are meant");
            return self.say(Finding::warning(codes::BEYOND_ROLE, "spec.selector", message).hint(hint));
        }
        let message = format!(
            "the signer has no role in {owner}, where `{host}` lives: the document counts for callers in {own} only, as with \
             `exportTo: [\".\"]`"
        );
        let hint =
            format!("let someone sign it who has a role in {owner}, or write `exportTo: [\".\"]` if that is meant");
        self.say(Finding::warning(codes::BEYOND_ROLE, field, message).hint(hint));
    }

    /// Says which of two documents has no effect. `wins`: the other one has, somewhere. Where it is the other one that has none, that
    /// is no fault of this document.
    fn overlaps(&mut self, about: &Overlap<'_>, rivals: impl Iterator<Item = (&'w Entry<'w>, bool)>) {
        let mut rivals: Vec<(&Entry<'_>, bool)> = rivals.collect();
        rivals.sort_by_key(|(_, wins)| !wins);
        for (rival, wins) in rivals.into_iter().take(MAX_NAMED) {
            let (name, id, does) = (rival.name(), rival.id(), &about.does);
            let mut finding = if wins {
                let message = format!("{name} {does} too and wins: what this document says of it has no effect");
                let hint = format!("{} {id}, or delete that one", about.cure);
                Finding::warning(about.code, about.field.clone(), message).hint(hint)
            } else {
                let message = format!("{name} {does} too: what it says of it has no effect beside this document");
                let hint = format!("delete what has no effect in {id}");
                Finding::note(about.code, about.field.clone(), message).hint(hint)
            };
            finding.istio = about.istio;
            self.say(finding);
        }
    }
}

#[cfg(test)]
mod tests;
