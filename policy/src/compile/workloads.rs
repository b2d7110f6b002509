//! What documents say of a workload: who may call it, how, and how often. Made when a workload is first asked for; the next state
//! takes it over as long as the documents that select it stay the same.

mod limits;
mod logs;
mod metrics;
mod mutual_tls;
mod telemetry;
mod tokens;
mod traces;
mod unreadable;

pub use limits::WorkloadLimit;
pub use logs::{LogOutput, LogRule, Logs};
pub use metrics::{Counted, MetricRule, MetricShape, TagShape};
pub use mutual_tls::Modes;
pub use traces::{TraceRule, Traces};

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use certs::id::TrustDomain;

use crate::{
    authorize::{self, Authorizer},
    document::{DocumentId, Kind, ROOT_NAMESPACE, Spec},
    history::{Live, LiveValue, State},
    kinds::{AuthorizationPolicy, MeshConfig},
    token::Tokens,
};

/// Workloads that are kept; with more the table begins anew. A node asks for its own, `explain` for those of others.
const MAX_WORKLOADS: usize = 1_000;

/// What the documents in effect say of one workload.
#[derive(Debug)]
pub struct Workload {
    /// Who may call it.
    pub authorizer: Authorizer,
    /// Whose tokens it believes.
    pub tokens: Tokens,
    /// Whether it takes plaintext.
    pub mutual_tls: Modes,
    /// How often it may be called; a request must find room in each that it meets.
    pub limits: Vec<WorkloadLimit>,
    /// What the access log tells of it.
    pub logs: Logs,
    /// How its requests are traced.
    pub traces: Traces,
    /// How its metrics differ from Istio's.
    pub counted: Counted,
    /// What holds in the whole mesh.
    pub config: Arc<MeshConfig>,
    /// The AuthorizationPolicies that select it: the same ones mean the same authorizer.
    authorization: Vec<authorize::Live>,
}

/// Every workload that was asked for, and the documents that may select one.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    config: Arc<MeshConfig>,
    authorization: ByNamespace<authorize::Live>,
    authentication: ByNamespace<mutual_tls::Document>,
    tokens: ByNamespace<tokens::Document>,
    limits: ByNamespace<limits::Document>,
    telemetry: ByNamespace<telemetry::Document>,
    known: RwLock<HashMap<Key, Arc<Workload>>>,
}

/// What documents have observed of requests: where nothing is, nothing need be gathered.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The access log tells of some.
    pub logs: bool,
    /// Metrics of some differ from Istio's.
    pub metrics: bool,
    /// Any of these.
    pub any: bool,
    /// Some are traced, and their spans go to a provider.
    pub traces: bool,
    /// The log of what is no workload's here, as MeshConfig alone says.
    pub log: Option<Arc<[LogRule]>>,
    /// The same of traces.
    pub trace: Option<Arc<TraceRule>>,
}

type ByNamespace<T> = BTreeMap<String, Vec<T>>;

/// All that tells one workload from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    trust_domain: TrustDomain,
    namespace: String,
    labels: BTreeMap<String, String>,
}

impl Workload {
    /// What of it is other than in `before`, in words; nothing if documents say the same of it.
    pub fn differences(&self, before: &Workload) -> Vec<&'static str> {
        let parts = [
            (!same_policies(&before.authorization, &self.authorization), "authorization"),
            (before.mutual_tls != self.mutual_tls, "mutual TLS"),
            (before.tokens != self.tokens, "tokens"),
            (before.limits != self.limits, "rate limits"),
            (before.logs != self.logs, "access log"),
            (before.traces != self.traces, "traces"),
            (before.counted != self.counted, "metrics"),
            (before.config != self.config, "settings of the mesh"),
        ];
        parts.into_iter().filter_map(|(differs, word)| differs.then_some(word)).collect()
    }
}

impl Workloads {
    /// The documents of a state. Workloads that `previous` knew are made at once, so that no request waits for it.
    pub(super) fn new(state: &State, previous: Option<&Workloads>) -> Self {
        let mut workloads = Self { config: config(state), ..Self::default() };
        for (id, live) in &state.documents {
            let namespace = || id.namespace.clone();
            if id.kind == Kind::AuthorizationPolicy {
                workloads.authorization.entry(namespace()).or_default().push(policy_values(id, live));
            } else if id.kind == Kind::PeerAuthentication {
                workloads.authentication.entry(namespace()).or_default().extend(mutual_tls::Document::new(id, live));
            } else if id.kind == Kind::RequestAuthentication {
                workloads.tokens.entry(namespace()).or_default().push(tokens::Document::new(&id.namespace, live));
            } else if id.kind == Kind::RateLimit {
                workloads.limits.entry(namespace()).or_default().extend(limits::Document::new(id, live));
            } else if id.kind == Kind::Telemetry {
                workloads.telemetry.entry(namespace()).or_default().extend(telemetry::Document::new(id, live));
            }
        }
        if let Some(previous) = previous {
            let before = previous.known.read().unwrap_or_else(PoisonError::into_inner);
            let again = before.iter().map(|(key, known)| (key.clone(), workloads.make(key, Some(known))));
            let again = again.collect();
            workloads.known = RwLock::new(again);
        }
        workloads
    }

    pub(super) fn config(&self) -> &Arc<MeshConfig> {
        &self.config
    }

    /// What documents have observed of requests.
    pub(super) fn observed(&self) -> Observed {
        let said = || self.telemetry.values().flatten().map(telemetry::Document::telemetry);
        let (log, trace) = (logs::of_mesh(&self.config), traces::of_mesh(&self.config));
        let mut observed = Observed {
            any: false,
            logs: log.is_some() || said().any(|telemetry| !telemetry.access_logging.is_empty()),
            traces: trace.as_ref().is_some_and(|rule| rule.provider.is_some())
                || said().any(|telemetry| telemetry.tracing.iter().any(|tracing| !tracing.providers.is_empty())),
            metrics: said().any(|telemetry| telemetry.metrics.iter().any(|metrics| !metrics.overrides.is_empty())),
            log,
            trace: trace.map(Arc::new),
        };
        observed.any = observed.logs || observed.traces || observed.metrics;
        observed
    }

    pub(super) fn get(
        &self,
        trust_domain: &TrustDomain,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Arc<Workload> {
        let key = Key { trust_domain: trust_domain.clone(), namespace: namespace.to_owned(), labels: labels.clone() };
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let made = self.make(&key, None);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_WORKLOADS {
            known.clear();
        }
        known.entry(key).or_insert(made).clone()
    }

    /// Whether this RateLimit selects the workload. Makes no workload, for it is asked of those of all nodes.
    pub(super) fn is_limited_by(
        &self,
        document: &DocumentId,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        let documents = self.limits.get(&document.namespace).into_iter().flatten();
        documents.filter(|one| one.id() == document).any(|one| one.selects(namespace, labels))
    }

    fn make(&self, key: &Key, before: Option<&Arc<Workload>>) -> Arc<Workload> {
        let authorization: Vec<authorize::Live> = self
            .here(&self.authorization, key)
            .filter(|live| live.selects(&key.namespace, &key.labels))
            .cloned()
            .collect();
        let (namespace, labels) = (&key.namespace, &key.labels);
        let mutual_tls = Modes::of(self.here(&self.authentication, key), namespace, labels);
        let tokens = tokens::of(self.here(&self.tokens, key), namespace, labels);
        let limits = limits::of(self.here(&self.limits, key), namespace, labels);
        let levels = telemetry::Levels::of(self.here(&self.telemetry, key), namespace, labels);
        let (logs, traces) = (logs::of(&levels, &self.config), traces::of(&levels, &self.config));
        let counted = metrics::of(&levels);
        let is_same = |before: &&Arc<Workload>| {
            before.mutual_tls == mutual_tls
                && before.tokens == tokens
                && before.limits == limits
                && before.logs == logs
                && before.traces == traces
                && before.counted == counted
                && self.decides_alike(before, &authorization)
        };
        if let Some(before) = before.filter(is_same) {
            return before.clone();
        }
        let aliases = &self.config.trust_domain_aliases;
        let authorizer = Authorizer::new(&authorization, namespace, labels, &key.trust_domain, aliases);
        let config = self.config.clone();
        Arc::new(Workload { authorizer, tokens, mutual_tls, limits, logs, traces, counted, config, authorization })
    }

    /// True if the authorizer of a workload that was made before would come out the same.
    fn decides_alike(&self, before: &Workload, authorization: &[authorize::Live]) -> bool {
        *before.config == *self.config && same_policies(&before.authorization, authorization)
    }

    /// What stands where it may select the workload: in its own namespace and in the root namespace.
    fn here<'t, T>(&self, table: &'t ByNamespace<T>, key: &Key) -> impl Iterator<Item = &'t T> {
        let own = Some(key.namespace.as_str()).filter(|own| *own != ROOT_NAMESPACE);
        [Some(ROOT_NAMESPACE), own].into_iter().flatten().filter_map(|namespace| table.get(namespace)).flatten()
    }
}

type Value = Option<Arc<AuthorizationPolicy>>;

/// True if these are the very same policies.
fn same_policies(before: &[authorize::Live], after: &[authorize::Live]) -> bool {
    let same_values = |(old, new): (&Value, &Value)| match (old, new) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (old, new) => old.is_none() && new.is_none(),
    };
    let same = |(old, new): (&authorize::Live, &authorize::Live)| {
        old.id == new.id
            && old.unreadable == new.unreadable
            && old.values.len() == new.values.len()
            && old.values.iter().zip(&new.values).all(same_values)
    };
    before.len() == after.len() && before.iter().zip(after).all(same)
}

/// The one MeshConfig; its defaults where there is none.
fn config(state: &State) -> Arc<MeshConfig> {
    let document = state.document(&DocumentId::mesh_wide(Kind::MeshConfig, "default"));
    match document.map(|document| &document.spec) {
        Some(Spec::MeshConfig(config)) => config.clone(),
        Some(_) | None => Arc::default(),
    }
}

/// Every value of an AuthorizationPolicy that is in force; a deletion beside others is a value that permits nothing. What cannot be
/// read refuses, unless it can be told that it never does.
fn policy_values(id: &DocumentId, live: &Live) -> authorize::Live {
    let spec = |value: &LiveValue| match value.document.as_ref().map(|document| &document.spec) {
        Ok(Spec::AuthorizationPolicy(policy)) => Some(policy.clone()),
        Ok(_) | Err(_) => None,
    };
    let blind = live.blind.iter().filter(|value| !unreadable::never_refuses(&value.json));
    authorize::Live {
        id: Arc::new(id.clone()),
        values: live.in_force.iter().map(spec).collect(),
        unreadable: blind.map(|value| unreadable::target(&value.json)).collect(),
    }
}

#[cfg(test)]
mod tests;
