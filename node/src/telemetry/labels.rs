//! The labels of Istio's request metrics, and what they are on a machine without Kubernetes.

use super::Flags;
use certs::id::{ServiceAccount, ServiceName, TrustDomain};
use policy::compile::{MetricRule, TagShape};
use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// The value of a label about which nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

/// Whose proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The caller's.
    Source,
    /// The server's.
    Destination,
}

/// How the request came, as the destination knows it; the source reports `unknown` as Istio does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// Not this reporter's to say.
    Unknown,
    /// Over an authenticated connection.
    MutualTls,
    /// In clear.
    Plain,
}

/// One side of a request. Missing facts are `unknown`, never an empty label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Workload {
    /// `SERVICE-VERSION`, or `SERVICE` without a version label.
    pub workload: Arc<str>,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The SPIFFE id.
    pub principal: Arc<str>,
    /// Label `app`.
    pub app: Arc<str>,
    /// Label `version`.
    pub version: Arc<str>,
    /// The mesh: its trust domain.
    pub cluster: Arc<str>,
    /// `service.istio.io/canonical-name`, or what stands in for it.
    pub canonical_service: Arc<str>,
    /// `service.istio.io/canonical-revision`, or what stands in for it.
    pub canonical_revision: Arc<str>,
}

impl Workload {
    /// Nothing is known.
    #[must_use]
    pub fn unknown() -> Self {
        let unknown: Arc<str> = Arc::from(UNKNOWN);
        Self {
            workload: Arc::clone(&unknown),
            namespace: Arc::clone(&unknown),
            principal: Arc::clone(&unknown),
            app: Arc::clone(&unknown),
            version: Arc::clone(&unknown),
            cluster: Arc::clone(&unknown),
            canonical_service: Arc::clone(&unknown),
            canonical_revision: unknown,
        }
    }

    /// Only the identity is known.
    #[must_use]
    pub fn of_account(trust_domain: &TrustDomain, account: &ServiceAccount) -> Self {
        Self {
            namespace: Arc::from(account.namespace()),
            principal: principal(trust_domain, account),
            cluster: Arc::from(trust_domain.as_str()),
            ..Self::unknown()
        }
    }

    /// An endpoint of a service.
    #[must_use]
    pub fn of_service(
        trust_domain: &TrustDomain,
        service: &ServiceName,
        account: &ServiceAccount,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let label = |name: &str| labels.get(name).filter(|value| !value.is_empty()).map(String::as_str);
        let workload = match label("version") {
            Some(version) => format!("{}-{version}", service.name()),
            None => service.name().to_owned(),
        };
        let canonical_service = label("service.istio.io/canonical-name")
            .or_else(|| label("app.kubernetes.io/name"))
            .or_else(|| label("app"))
            .unwrap_or(&workload);
        let canonical_revision = label("service.istio.io/canonical-revision")
            .or_else(|| label("app.kubernetes.io/version"))
            .or_else(|| label("version"))
            .unwrap_or("latest");
        Self {
            namespace: Arc::from(service.namespace()),
            principal: principal(trust_domain, account),
            app: Arc::from(label("app").unwrap_or(UNKNOWN)),
            version: Arc::from(label("version").unwrap_or(UNKNOWN)),
            cluster: Arc::from(trust_domain.as_str()),
            canonical_service: Arc::from(canonical_service),
            canonical_revision: Arc::from(canonical_revision),
            workload: Arc::from(workload.as_str()),
        }
    }
}

fn principal(trust_domain: &TrustDomain, account: &ServiceAccount) -> Arc<str> {
    Arc::from(certs::id::SpiffeId::service(trust_domain.clone(), account.clone()).uri().as_str())
}

/// Who calls whom, as one reporter sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Whose proxy speaks.
    pub reporter: Reporter,
    /// The caller.
    pub source: Arc<Workload>,
    /// The server.
    pub destination: Arc<Workload>,
    /// The addressed service's FQDN, or the Host of an unknown one.
    pub service: Arc<str>,
    /// Its short name.
    pub service_name: Arc<str>,
    /// Its namespace.
    pub service_namespace: Arc<str>,
    /// How it came.
    pub security: Security,
}

/// `request_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP of any version.
    Http,
    /// gRPC.
    Grpc,
    /// Bytes: what is counted are connections.
    Tcp,
}

/// How a request, or a connection of bytes, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Summary {
    /// What it speaks.
    pub protocol: Protocol,
    /// The status, 0 when the caller went away before one.
    pub code: u16,
    /// `grpc-status`, where there was one.
    pub grpc_status: Option<u8>,
    /// What the proxy had to do with it.
    pub flags: Flags,
}

impl Summary {
    /// True if an answer that had begun was broken off by its server, on the way or by a timeout.
    pub(super) fn is_cut(&self) -> bool {
        self.code != 0 && self.grpc_status.is_none() && self.flags.has_any(Flags::UC.with(Flags::UT))
    }

    /// True if an answer to gRPC says no status, and its caller did not leave. 401 and 403 gRPC's clients read as statuses of who may not.
    pub(super) fn lacks_status(&self) -> bool {
        let is_told = self.grpc_status.is_some() || matches!(self.code, 0 | 401 | 403);
        self.protocol == Protocol::Grpc && !is_told && !self.flags.has_any(Flags::DC)
    }
}

/// How policy has the metrics of a request differ from Istio's.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Which metrics and labels.
    pub rule: Arc<MetricRule>,
    /// What labels say of this request.
    pub values: Vec<String>,
}

/// Equal rules are one, so that counters go on when policy is compiled anew.
impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values && (Arc::ptr_eq(&self.rule, &other.rule) || self.rule == other.rule)
    }
}

impl Eq for Shape {}

impl Hash for Shape {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.values.hash(state);
    }
}

/// A pair and a result: one series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Labels {
    pub(super) pair: Arc<Pair>,
    pub(super) summary: Summary,
    /// `None`: as Istio's.
    pub(super) shape: Option<Shape>,
}

impl Labels {
    /// True if policy has this metric kept of the series.
    pub(super) fn keeps(&self, metric: &str) -> bool {
        let shape = self.shape.as_ref().and_then(|shape| shape.rule.shape(metric));
        !shape.is_some_and(|shape| shape.disabled)
    }

    /// True if policy has any metric kept of the series.
    pub(super) fn is_offered(&self) -> bool {
        self.shape.as_ref().is_none_or(|shape| shape.rule.offers())
    }

    /// What the metric and the labels that it has come to in a hash: by 64 bits, of which two of some ten thousand are hardly ever the same.
    pub(super) fn identity(&self, metric: &str, mut hasher: impl Hasher) -> u64 {
        metric.hash(&mut hasher);
        self.each(metric, |name, value| (name, value).hash(&mut hasher));
        hasher.finish()
    }

    /// Calls `each` with every label that the metric has, in order.
    pub(super) fn each(&self, metric: &str, mut each: impl FnMut(&str, &str)) {
        let Some(shape) = &self.shape else { return self.istios(each) };
        let Some(differs) = shape.rule.shape(metric) else { return self.istios(each) };
        self.istios(|name, value| {
            if !differs.tags.contains_key(name) {
                each(name, value);
            }
        });
        for (name, tag) in &differs.tags {
            if let TagShape::Says(place) = tag {
                each(name, shape.values.get(*place).map_or(UNKNOWN, String::as_str));
            }
        }
    }

    fn istios(&self, mut each: impl FnMut(&'static str, &str)) {
        let pair = &*self.pair;
        each(
            "reporter",
            match pair.reporter {
                Reporter::Source => "source",
                Reporter::Destination => "destination",
            },
        );
        let source = &*pair.source;
        each("source_workload", &source.workload);
        each("source_workload_namespace", &source.namespace);
        each("source_principal", &source.principal);
        each("source_app", &source.app);
        each("source_version", &source.version);
        each("source_cluster", &source.cluster);
        each("source_canonical_service", &source.canonical_service);
        each("source_canonical_revision", &source.canonical_revision);
        let destination = &*pair.destination;
        each("destination_workload", &destination.workload);
        each("destination_workload_namespace", &destination.namespace);
        each("destination_principal", &destination.principal);
        each("destination_app", &destination.app);
        each("destination_version", &destination.version);
        each("destination_cluster", &destination.cluster);
        each("destination_service", &pair.service);
        each("destination_service_name", &pair.service_name);
        each("destination_service_namespace", &pair.service_namespace);
        each("destination_canonical_service", &destination.canonical_service);
        each("destination_canonical_revision", &destination.canonical_revision);
        each(
            "request_protocol",
            match self.summary.protocol {
                Protocol::Http => "http",
                Protocol::Grpc => "grpc",
                Protocol::Tcp => "tcp",
            },
        );
        if self.summary.protocol != Protocol::Tcp {
            each("response_code", &self.summary.code.to_string());
            let status = self.summary.grpc_status.map(|status| status.to_string());
            each("grpc_response_status", &status.unwrap_or_default());
        }
        each("response_flags", &self.summary.flags.to_string());
        each(
            "connection_security_policy",
            match pair.security {
                Security::Unknown => UNKNOWN,
                Security::MutualTls => "mutual_tls",
                Security::Plain => "none",
            },
        );
    }
}
