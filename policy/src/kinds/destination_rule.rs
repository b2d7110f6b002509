//! `DestinationRule`: subsets and traffic policy of a host.

use std::{collections::BTreeMap, sync::Arc};

use super::ExportTo;
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
};

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
    /// Column, from 1; in the signed body where that was read.
    pub column: usize,
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

impl DestinationRule {
    pub(crate) fn decode(spec: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = spec.fields()?;
        let host = fields.required("host").and_then(|at| decode_host(&at, namespace));
        let policy = fields.get("trafficPolicy").and_then(|policy| TrafficPolicy::decode(&policy));
        let mut subsets: Vec<SubsetRule> = Vec::new();
        let list = fields.get("subsets");
        for item in list.as_ref().map(At::items).unwrap_or_default() {
            let Some(subset) = SubsetRule::decode(&item) else { continue };
            if subsets.iter().any(|other| other.name == subset.name) {
                item.error_as_istio(codes::DUPLICATE, format!("duplicate subset: {}", subset.name), "");
            }
            subsets.push(subset);
        }
        let export_to = ExportTo::decode(&fields, namespace);
        fields.not_supported(&["workloadSelector"]);
        fields.finish();
        Some(Self { host: host?, policy, subsets, export_to })
    }

    /// The subset of this name.
    pub fn subset(&self, name: &str) -> Option<&SubsetRule> {
        self.subsets.iter().find(|subset| subset.name == name)
    }
}

fn decode_host(at: &At<'_>, namespace: &str) -> Option<String> {
    let host = at.filled_text()?;
    if !hosts::is_wildcard_name(host) {
        at.error(codes::HOST, format!("`{host}` is not a host name"));
        return None;
    }
    Some(hosts::expand(host, namespace))
}

impl SubsetRule {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let name = fields.required("name").and_then(|at| {
            let name = at.filled_text()?;
            if !hosts::is_dns_label(name) {
                at.error(codes::NAME, format!("subset name is invalid: `{name}` is not a DNS label"));
                return None;
            }
            Some(name.to_owned())
        });
        let labels = fields.get("labels").map(|labels| labels.labels()).unwrap_or_default();
        let policy = fields.get("trafficPolicy").and_then(|policy| TrafficPolicy::decode(&policy));
        fields.finish();
        Some(Self { name: name?, labels: Arc::new(labels), policy, line: at.line(), column: at.column() })
    }
}

/// Fields of a traffic policy that this build does not apply.
const POLICY_NOT_BUILT: [&str; 6] =
    ["connectionPool", "outlierDetection", "tls", "tunnel", "proxyProtocol", "retryBudget"];
/// Fields of a load balancer that this build does not apply.
const BALANCER_NOT_BUILT: [&str; 5] =
    ["consistentHash", "localityLbSetting", "zoneAwareLbSetting", "warmup", "warmupDurationSecs"];

impl TrafficPolicy {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        not_empty(&fields, &["loadBalancer", "portLevelSettings"], &POLICY_NOT_BUILT);
        let balance = fields.get("loadBalancer").and_then(|balancer| decode_balancer(&balancer));
        let list = fields.get("portLevelSettings");
        let ports = list.as_ref().map(At::items).unwrap_or_default();
        let ports = ports.iter().filter_map(decode_port).collect();
        fields.not_supported(&POLICY_NOT_BUILT);
        fields.finish();
        Some(Self { balance, ports })
    }

    /// How an endpoint is chosen on a port: a port's entry replaces the policy's own even when it names none.
    pub fn balance_on(&self, port: u16) -> Option<Balance> {
        self.ports.iter().find(|(own, _)| *own == port).map_or(self.balance, |(_, balance)| *balance)
    }
}

fn not_empty(fields: &Fields<'_>, built: &[&'static str], not_built: &[&'static str]) {
    if !built.iter().chain(not_built).any(|name| fields.has(name)) {
        fields.at.error_as_istio(codes::EMPTY, "traffic policy must have at least one field", "");
    }
}

fn decode_balancer(at: &At<'_>) -> Option<Balance> {
    let fields = at.fields()?;
    let simple = fields.get("simple").and_then(|simple| {
        if simple.is_word("PASSTHROUGH") {
            simple.unbuilt("`PASSTHROUGH`");
            return None;
        }
        simple.word(&[
            ("UNSPECIFIED", Balance::LeastRequest),
            ("LEAST_REQUEST", Balance::LeastRequest),
            ("LEAST_CONN", Balance::LeastRequest),
            ("ROUND_ROBIN", Balance::RoundRobin),
            ("RANDOM", Balance::Random),
        ])
    });
    if let Some(at) = fields.get("simple").filter(|at| at.is_word("LEAST_CONN")) {
        at.warn(codes::DEPRECATED, "LEAST_CONN is deprecated", "write LEAST_REQUEST");
    }
    fields.not_supported(&BALANCER_NOT_BUILT);
    fields.finish();
    Some(simple.unwrap_or_default())
}

fn decode_port(at: &At<'_>) -> Option<(u16, Option<Balance>)> {
    let fields = at.fields()?;
    let number = fields.required("port").and_then(|port| {
        let selector = port.fields()?;
        let number = selector.required("number").and_then(|number| number.port());
        selector.finish();
        number
    });
    let balance = fields.get("loadBalancer").and_then(|balancer| decode_balancer(&balancer));
    fields.not_supported(&POLICY_NOT_BUILT);
    fields.finish();
    Some((number?, balance))
}
