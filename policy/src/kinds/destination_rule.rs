//! `DestinationRule`: subsets and traffic policy of a host.

use std::{collections::BTreeMap, sync::Arc};

use super::ExportTo;

/// `DestinationRule`, with the host expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationRule {
    /// Expanded, lower case; a wildcard only as prefix.
    pub host: String,
    /// Top level policy.
    pub policy: Option<TrafficPolicy>,
    /// Named parts of the host's endpoints.
    pub subsets: Vec<SubsetRule>,
    /// Which callers see it.
    pub export_to: ExportTo,
}

/// `Subset`.
#[derive(Debug, Clone, PartialEq)]
pub struct SubsetRule {
    /// Its name.
    pub name: String,
    /// Endpoints with all these labels; none means all endpoints.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Policy that applies only where a route names the subset.
    pub policy: Option<TrafficPolicy>,
    /// Line in the pushed file, from 1; 0 if unknown.
    pub line: usize,
}

/// `TrafficPolicy`; a field that is absent is not inherited from a port entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrafficPolicy {
    /// `loadBalancer.simple`.
    pub balance: Option<Balance>,
    /// `portLevelSettings`: port and its own `loadBalancer`, which replaces the one above even when absent.
    pub ports: Vec<(u16, Option<Balance>)>,
}

/// How one endpoint is chosen among many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Balance {
    /// Power of two choices by active requests; the default.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
}
