//! `TrafficPolicy`: how traffic to a destination is spread, limited, guarded and wrapped.

use std::{net::IpAddr, time::Duration};

use super::{ClientTls, ConnectionPool, LoadBalancer, OutlierDetection, destination::decode_port};
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
};

/// `TrafficPolicy` as it is written; [`crate::route::ClusterPolicy`] is what it comes to for one port.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrafficPolicy {
    /// For ports without an entry of their own.
    pub blocks: PolicyBlocks,
    /// `portLevelSettings`: for these ports the blocks are replaced as a whole, also by absent ones. The first of a port counts.
    pub ports: Vec<(u16, PolicyBlocks)>,
    /// `tunnel`.
    pub tunnel: Option<Tunnel>,
    /// `proxyProtocol`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `retryBudget`.
    pub retry_budget: Option<RetryBudget>,
}

/// The blocks that a port may have of its own. They replace each other as a whole: nothing within them is merged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PolicyBlocks {
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`; empty, it turns ejection on with all defaults.
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`; any switches automatic mutual TLS off for this traffic.
    pub tls: Option<ClientTls>,
}

/// `TunnelSettings`: connections go through an HTTP proxy at the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// How the proxy is asked.
    pub protocol: TunnelProtocol,
    /// Where the proxy shall connect to: a name or an address.
    pub target_host: String,
    /// And on which port.
    pub target_port: u16,
}

/// How an HTTP proxy is asked for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TunnelProtocol {
    /// By CONNECT.
    #[default]
    Connect,
    /// By POST.
    Post,
}

/// `ProxyProtocol`: the client's address goes ahead of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProxyProtocol {
    /// As a line of text.
    #[default]
    V1,
    /// In binary.
    V2,
}

/// `RetryBudget`: how many retries may be under way at once; stands in place of `maxRetries`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Share of the requests that are active or wait, in parts of a million.
    pub per_million: u32,
    /// At least this many, whatever the share.
    pub min_retry_concurrency: u32,
    /// How long a request counts after it ended; zero: not at all.
    pub budget_interval: Duration,
}

impl RetryBudget {
    /// Retries that may be under way beside this many requests.
    pub fn limit(&self, requests: u32) -> u32 {
        let share = u64::from(requests) * u64::from(self.per_million) / 1_000_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(self.min_retry_concurrency)
    }
}

/// One of them must be there; the first four are what a port may have.
const FIELDS: [&str; 8] = [
    "loadBalancer",
    "connectionPool",
    "outlierDetection",
    "tls",
    "portLevelSettings",
    "tunnel",
    "proxyProtocol",
    "retryBudget",
];

impl TrafficPolicy {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        if !FIELDS.iter().any(|name| fields.has(name)) {
            at.error_as_istio(codes::EMPTY, "traffic policy must have at least one field", "");
        }
        let blocks = PolicyBlocks::read(&fields);
        let list = fields.get("portLevelSettings");
        let ports = list.as_ref().map(At::items).unwrap_or_default();
        let ports = ports.iter().filter_map(decode_port_policy).collect();
        let tunnel = fields.get("tunnel").map(|at| Tunnel::decode(&at));
        let proxy_protocol = fields.get("proxyProtocol").map(|at| ProxyProtocol::decode(&at));
        if tunnel.is_some() && proxy_protocol.is_some() {
            at.error_as_istio(codes::EXCLUSIVE, "tunnel and proxyProtocol must not be set together", "");
        }
        let retry_budget = fields.get("retryBudget").map(|at| RetryBudget::decode(&at));
        fields.finish();
        Some(Self {
            blocks,
            ports,
            tunnel: tunnel.flatten(),
            proxy_protocol: proxy_protocol.flatten(),
            retry_budget: retry_budget.flatten(),
        })
    }

    /// The blocks of a port's own entry, if it has one.
    pub fn on_port(&self, port: u16) -> Option<&PolicyBlocks> {
        self.ports.iter().find(|(own, _)| *own == port).map(|(_, blocks)| blocks)
    }
}

/// An entry of `portLevelSettings`.
fn decode_port_policy(at: &At<'_>) -> Option<(u16, PolicyBlocks)> {
    let fields = at.fields()?;
    let port = fields.get("port");
    if port.is_none() {
        at.error_as_istio(codes::MISSING, "portTrafficPolicy must have valid port", "write port: {number: ...}");
    }
    let port = port.and_then(|port| decode_port(&port));
    if !FIELDS[..4].iter().any(|name| fields.has(name)) {
        at.error_as_istio(codes::EMPTY, "port traffic policy must have at least one field", "");
    }
    let blocks = PolicyBlocks::read(&fields);
    fields.finish();
    Some((port?, blocks))
}

impl PolicyBlocks {
    fn read(fields: &Fields<'_>) -> Self {
        let outlier_detection = fields.get("outlierDetection").map(|at| OutlierDetection::decode(&at));
        let load_balancer =
            fields.get("loadBalancer").and_then(|at| LoadBalancer::decode(&at, outlier_detection.is_some()));
        let connection_pool = fields.get("connectionPool").and_then(|at| ConnectionPool::decode(&at));
        let tls = fields.get("tls").and_then(|at| ClientTls::decode(&at));
        Self { load_balancer, connection_pool, outlier_detection: outlier_detection.flatten(), tls }
    }
}

impl Tunnel {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let protocol = fields.get("protocol").and_then(|at| match at.text()? {
            "" | "CONNECT" => Some(TunnelProtocol::Connect),
            "POST" => {
                at.unbuilt("a tunnel by POST, which few forward proxies know (CONNECT is what they all do),");
                Some(TunnelProtocol::Post)
            }
            _ => {
                at.error_as_istio(codes::WORD, "tunnel protocol must be \"CONNECT\" or \"POST\"", "");
                None
            }
        });
        let target_host = fields.required("targetHost").and_then(|at| {
            let host = at.filled_text()?;
            if !hosts::is_dns_name(host) && host.parse::<IpAddr>().is_err() {
                at.error_as_istio(codes::HOST, "tunnel target host must be valid FQDN or IP address", "");
            }
            Some(host.to_owned())
        });
        let target_port = fields.required("targetPort").and_then(|at| at.port());
        fields.finish();
        Some(Self { protocol: protocol.unwrap_or_default(), target_host: target_host?, target_port: target_port? })
    }
}

impl ProxyProtocol {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let version = fields.get("version").map_or(Some(Self::V1), |at| at.word(&[("V1", Self::V1), ("V2", Self::V2)]));
        fields.finish();
        version
    }
}

impl Default for RetryBudget {
    /// 20 %, and at least 3.
    fn default() -> Self {
        Self { per_million: 200_000, min_retry_concurrency: 3, budget_interval: Duration::ZERO }
    }
}

impl RetryBudget {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let default = Self::default();
        let per_million = fields.get("percent").map_or(Some(default.per_million), |at| plain_percent(&at));
        let concurrency = fields.get("minRetryConcurrency").and_then(|at| at.integer(0..=i64::from(u32::MAX)));
        let concurrency = concurrency.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
        let budget_interval = fields.get("budgetInterval").and_then(|at| at.duration_or_zero());
        fields.finish();
        Some(Self {
            per_million: per_million?,
            min_retry_concurrency: concurrency.unwrap_or(default.min_retry_concurrency),
            budget_interval: budget_interval.unwrap_or_default(),
        })
    }
}

/// A share that is written as a number of percent, in parts of a million.
pub(super) fn plain_percent(at: &At<'_>) -> Option<u32> {
    let percent = at.number()?;
    if !(0.0..=100.0).contains(&percent) {
        at.error(codes::RANGE, format!("{percent} is not within 0 to 100"));
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 0 to 1,000,000 as just checked"
    )]
    Some((percent * 10_000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{complaints, spec_of};

    fn rule(text: &str) -> String {
        format!("{{host: a, trafficPolicy: {text}}}")
    }

    #[test]
    fn wrapping_and_budget() {
        let policy =
            |text: &str| spec_of("DestinationRule", &rule(text)).destination_rule().unwrap().policy.clone().unwrap();
        let tunnel = policy("{tunnel: {protocol: POST, targetHost: 192.0.2.1, targetPort: 443}}").tunnel.unwrap();
        assert_eq!((tunnel.protocol, tunnel.target_host.as_str()), (TunnelProtocol::Post, "192.0.2.1"));
        assert_eq!(policy("{proxyProtocol: {}}").proxy_protocol, Some(ProxyProtocol::V1));
        let budget = policy("{retryBudget: {}}").retry_budget.unwrap();
        assert_eq!(budget, RetryBudget::default());
        assert_eq!((budget.limit(0), budget.limit(10), budget.limit(100)), (3, 3, 20));
        let own =
            policy("{retryBudget: {percent: 0, minRetryConcurrency: 1, budgetInterval: 10s}}").retry_budget.unwrap();
        assert_eq!((own.limit(u32::MAX), own.budget_interval), (1, Duration::from_secs(10)));
    }

    #[test]
    fn what_a_policy_cannot_be() {
        for (text, code) in [
            ("{}", codes::EMPTY),
            ("{tunnel: {targetHost: a, targetPort: 1}, proxyProtocol: {version: V2}}", codes::EXCLUSIVE),
            ("{tunnel: {targetHost: a, targetPort: 0}}", codes::RANGE),
            ("{tunnel: {targetHost: 'a b', targetPort: 1}}", codes::HOST),
            ("{tunnel: {protocol: GET, targetHost: a, targetPort: 1}}", codes::WORD),
            ("{proxyProtocol: {version: V3}}", codes::WORD),
            ("{retryBudget: {percent: 101}}", codes::RANGE),
            ("{portLevelSettings: [{tls: {mode: DISABLE}}]}", codes::MISSING),
            ("{portLevelSettings: [{port: {number: 80}}]}", codes::EMPTY),
            ("{portLevelSettings: [{port: {number: 80}, tunnel: {}}]}", codes::UNKNOWN_FIELD),
        ] {
            let found = complaints("DestinationRule", &rule(text));
            assert!(found.iter().any(|(found, _)| *found == code), "{text}: {found:?}");
        }
    }

    #[test]
    fn what_is_not_applied_is_named() {
        let text = "{connectionPool: {tcp: {}}, outlierDetection: {}, tls: {}, tunnel: {protocol: POST, targetHost: a, targetPort: 1},
            portLevelSettings: [{port: {number: 1}, tls: {mode: SIMPLE}}, {port: {number: 2}, tls: {mode: ISTIO_MUTUAL}}]}";
        let found = complaints("DestinationRule", &rule(text));
        let named = |field: &str| found.contains(&(codes::NOT_SUPPORTED, format!("spec.trafficPolicy.{field}")));
        let fields = ["tls", "tunnel.protocol", "portLevelSettings[0].tls"];
        assert!(fields.into_iter().all(named), "{found:?}");
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
