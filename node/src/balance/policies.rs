//! What a DestinationRule comes to, as the choice, the detector and the pool read it.

use std::time::Duration;

use policy::{
    kinds::{self, Balance, HashAlgorithm, LoadBalancer, LocalityLb, OutlierDetection},
    route::ClusterPolicy,
};

use super::{
    Algorithm, BalancePolicy, Distribute, Failover, LARGEST_MAGLEV, LARGEST_RING, LocalityPolicy, Millis, PoolLimits,
    RetryLimit, Warmup, outlier::OutlierPolicy,
};

impl From<&ClusterPolicy> for BalancePolicy {
    fn from(policy: &ClusterPolicy) -> BalancePolicy {
        let (balancer, detection) = (&policy.load_balancer, policy.outlier_detection.as_ref());
        BalancePolicy {
            algorithm: algorithm(balancer),
            warmup: balancer.warmup.as_ref().map(warmup),
            locality: balancer.locality.as_ref().map(LocalityPolicy::from).unwrap_or_default(),
            detects_outliers: detection.is_some(),
            min_health_percent: detection.map_or(0, |detection| percent(detection.min_health_percent)),
        }
    }
}

fn algorithm(balancer: &LoadBalancer) -> Algorithm {
    match &balancer.algorithm {
        kinds::Algorithm::Simple(Balance::LeastRequest) => Algorithm::LeastRequest,
        kinds::Algorithm::Simple(Balance::RoundRobin) => Algorithm::RoundRobin,
        kinds::Algorithm::Simple(Balance::Random) => Algorithm::Random,
        kinds::Algorithm::Simple(Balance::PeakEwma) => Algorithm::PeakEwma,
        // Refused with the document: nobody's connection comes with an address that it meant to reach.
        kinds::Algorithm::Passthrough => Algorithm::Random,
        kinds::Algorithm::ConsistentHash(hash) => match hash.algorithm {
            HashAlgorithm::RingHash { minimum_ring_size } => {
                Algorithm::RingHash { minimum_size: at_most(minimum_ring_size, LARGEST_RING) }
            }
            HashAlgorithm::Maglev { table_size } => {
                Algorithm::Maglev { table_size: at_most(table_size, LARGEST_MAGLEV) }
            }
        },
    }
}

fn at_most(size: u64, largest: u32) -> u32 {
    u32::try_from(size).unwrap_or(largest).min(largest)
}

fn warmup(warmup: &kinds::Warmup) -> Warmup {
    let minimum = percent(warmup.min_per_million.div_ceil(10_000));
    Warmup { duration: millis(warmup.duration), minimum_percent: minimum, aggression: warmup.aggression }
}

impl From<&LocalityLb> for LocalityPolicy {
    /// Istio's `enabled: false` switches the whole setting off, `distribute` included.
    fn from(setting: &LocalityLb) -> LocalityPolicy {
        if setting.enabled == Some(false) {
            return LocalityPolicy { enabled: false, ..LocalityPolicy::default() };
        }
        let distribute = setting.distribute.iter().map(|entry| Distribute {
            from: entry.from.to_string(),
            to: entry.to.iter().map(|(pattern, percent)| (pattern.to_string(), *percent)).collect(),
        });
        let failover = setting.failover.iter().map(|(from, to)| Failover { from: from.clone(), to: to.clone() });
        let label = |label: &kinds::PriorityLabel| match &label.value {
            Some(value) => format!("{}={value}", label.key),
            None => label.key.clone(),
        };
        LocalityPolicy {
            enabled: true,
            distribute: distribute.collect(),
            failover: failover.collect(),
            failover_priority: setting.failover_priority.iter().map(label).collect(),
        }
    }
}

impl From<&OutlierDetection> for OutlierPolicy {
    fn from(detection: &OutlierDetection) -> OutlierPolicy {
        let default = OutlierPolicy::default();
        OutlierPolicy {
            consecutive_errors: detection.consecutive_5xx,
            consecutive_gateway_errors: detection.consecutive_gateway,
            consecutive_local_origin: detection.consecutive_local_origin,
            split_local_origin: detection.split,
            interval: millis(detection.interval),
            base_ejection: millis(detection.base_ejection_time),
            max_ejection_percent: percent(detection.max_ejection_percent),
            error_statuses: match detection.error_codes.as_slice() {
                [] => default.error_statuses,
                codes => codes.iter().copied().collect(),
            },
        }
    }
}

impl From<&ClusterPolicy> for PoolLimits {
    fn from(policy: &ClusterPolicy) -> PoolLimits {
        let (tcp, http) = (&policy.connection_pool.tcp, &policy.connection_pool.http);
        let limit = |limit: Option<u32>| limit.unwrap_or(u32::MAX);
        PoolLimits {
            connections: limit(tcp.max_connections),
            pending: limit(http.max_pending_requests),
            requests: limit(http.max_requests),
            streams_per_connection: limit(http.max_concurrent_streams),
            retries: match &policy.retry_budget {
                Some(budget) => RetryLimit::Budget {
                    percent: f64::from(budget.per_million) / 10_000.0,
                    minimum: budget.min_retry_concurrency,
                    interval: millis(budget.budget_interval),
                },
                None => RetryLimit::Count(limit(http.max_retries)),
            },
        }
    }
}

fn percent(percent: u32) -> u8 {
    u8::try_from(percent.min(100)).unwrap_or(100)
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use policy::{Spec, parse};

    use super::*;

    fn read(policy: &str) -> ClusterPolicy {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: x}}\nspec: {{host: a, trafficPolicy: {policy}}}\n"
        );
        let mut parsed = parse::yaml("f.yaml", &text, "default");
        assert!(parsed.is_valid(), "{:#?}", parsed.problems);
        let Spec::DestinationRule(rule) = parsed.documents.remove(0).document.spec else { panic!("another kind") };
        let policy = rule.policy.clone().unwrap();
        ClusterPolicy {
            load_balancer: policy.blocks.load_balancer.unwrap_or_default(),
            connection_pool: policy.blocks.connection_pool.unwrap_or_default(),
            outlier_detection: policy.blocks.outlier_detection,
            retry_budget: policy.retry_budget,
            ..ClusterPolicy::default()
        }
    }

    #[test]
    fn without_a_rule_everything_is_default() {
        let none = ClusterPolicy::default();
        assert_eq!(BalancePolicy::from(&none), BalancePolicy::default());
        assert_eq!(PoolLimits::from(&none), PoolLimits::default());
        let empty = read("{outlierDetection: {}}");
        assert_eq!(OutlierPolicy::from(empty.outlier_detection.as_ref().unwrap()), OutlierPolicy::default());
        assert!(BalancePolicy::from(&empty).detects_outliers);
    }

    #[test]
    fn algorithms_and_warm_up() {
        let of = |text: &str| BalancePolicy::from(&read(&format!("{{loadBalancer: {text}}}"))).algorithm;
        assert_eq!(of("{simple: LEAST_CONN}"), Algorithm::LeastRequest);
        assert_eq!(of("{simple: ROUND_ROBIN}"), Algorithm::RoundRobin);
        assert_eq!(of("{simple: PEAK_EWMA}"), Algorithm::PeakEwma);
        assert_eq!(of("{consistentHash: {useSourceIp: true}}"), Algorithm::RingHash { minimum_size: 1_024 });
        let huge = of("{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 99999999999}}}");
        assert_eq!(huge, Algorithm::RingHash { minimum_size: LARGEST_RING });
        let maglev = of("{consistentHash: {useSourceIp: true, maglev: {tableSize: 251}}}");
        assert_eq!(maglev, Algorithm::Maglev { table_size: 251 });
        let policy = read("{loadBalancer: {warmup: {duration: 5m, minimumPercent: 2.5, aggression: 1.5}}}");
        let warmup = Warmup { duration: 300_000, minimum_percent: 3, aggression: 1.5 };
        assert_eq!(BalancePolicy::from(&policy).warmup, Some(warmup));
    }

    #[test]
    fn localities() {
        let of = |text: &str| {
            BalancePolicy::from(&read(&format!(
                "{{outlierDetection: {{minHealthPercent: 30}}, loadBalancer: {{localityLbSetting: {text}}}}}"
            )))
        };
        let spread = of("{distribute: [{from: 'eu/*', to: {'eu/a': 80, '*': 20}}]}");
        let to = vec![("eu/a".to_owned(), 80), ("*".to_owned(), 20)];
        assert_eq!(spread.locality.distribute, [Distribute { from: "eu/*".to_owned(), to }]);
        assert_eq!(spread.min_health_percent, 30);
        let over = of("{failover: [{from: eu, to: us}], failoverPriority: [rack, version=v1]}").locality;
        assert_eq!(over.failover, [Failover { from: "eu".to_owned(), to: "us".to_owned() }]);
        assert_eq!(over.failover_priority, ["rack", "version=v1"]);
        let off = of("{enabled: false, distribute: [{from: 'eu/*', to: {'eu/a': 100}}]}").locality;
        assert_eq!((off.enabled, off.distribute.len()), (false, 0));
    }

    #[test]
    fn limits_and_detection() {
        let policy = read(
            "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 2, http2MaxRequests: 3,
                maxRequestsPerConnection: 4, maxRetries: 5, maxConcurrentStreams: 6}},
              outlierDetection: {consecutive5xxErrors: 1, interval: 1s, outlierDetectionHttpErrorCodes: [429]}}",
        );
        let limits = PoolLimits::from(&policy);
        assert_eq!((limits.connections, limits.pending, limits.requests), (1, 2, 3));
        assert_eq!((limits.streams_per_connection, limits.retries), (6, RetryLimit::Count(5)));
        let own_age = read("{connectionPool: {http: {maxRequestsPerConnection: 4}}}");
        assert_eq!(PoolLimits::from(&own_age), PoolLimits::default(), "each connection counts its own, nobody else");
        let detection = OutlierPolicy::from(policy.outlier_detection.as_ref().unwrap());
        assert_eq!((detection.consecutive_errors, detection.interval), (1, 1_000));
        assert!(detection.error_statuses.contains(429) && !detection.error_statuses.contains(500));
        let budget = ClusterPolicy { retry_budget: Some(kinds::RetryBudget::default()), ..policy };
        assert_eq!(PoolLimits::from(&budget).retries, RetryLimit::Budget { percent: 20.0, minimum: 3, interval: 0 });
    }
}
