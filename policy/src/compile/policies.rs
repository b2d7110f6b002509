//! DestinationRules' traffic policies -> the one that applies to a destination and port, shared as long as it stays the same.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    kinds::{PolicyBlocks, TrafficPolicy},
    route::{ClusterPolicies, ClusterPolicy},
};

/// Which policy: of a host, of a subset (empty: none), of ports without an entry or of this one.
type Key = (String, String, Option<u16>);

/// Every policy in use: one for each key and content, so that equal ones are the same.
#[derive(Debug, Default)]
pub(super) struct Table {
    known: RwLock<HashMap<Key, Vec<Arc<ClusterPolicy>>>>,
}

impl Table {
    /// The policies of a destination; those that are as they were are the same ones.
    pub(super) fn policies(
        &self,
        host: &str,
        subset: &str,
        top: Option<&TrafficPolicy>,
        own: Option<&TrafficPolicy>,
    ) -> ClusterPolicies {
        let ports: BTreeSet<u16> =
            [top, own].into_iter().flatten().flat_map(|policy| policy.ports.iter().map(|(port, _)| *port)).collect();
        let shared =
            |port: Option<u16>| self.share((host.to_owned(), subset.to_owned(), port), effective(top, own, port));
        ClusterPolicies {
            common: shared(None),
            ports: ports.into_iter().map(|port| (port, shared(Some(port)))).collect(),
        }
    }

    /// Lets go of what no route holds any more.
    pub(super) fn forget_unused(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, list| {
            list.retain(|policy| Arc::strong_count(policy) > 1);
            !list.is_empty()
        });
    }

    fn share(&self, key: Key, policy: ClusterPolicy) -> Arc<ClusterPolicy> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let list = known.entry(key).or_default();
        if let Some(same) = list.iter().find(|same| ***same == policy) {
            return Arc::clone(same);
        }
        let shared = Arc::new(policy);
        list.push(Arc::clone(&shared));
        shared
    }
}

/// Istio's merge of a host's policy and a subset's own for a port (`None`: one that neither has an entry for). Blocks replace each
/// other as a whole. A port's entry stands in place of all four blocks of its policy, so that one that it lacks is not inherited
/// from them; what no entry can hold (tunnel, PROXY protocol, retry budget) stays.
fn effective(top: Option<&TrafficPolicy>, own: Option<&TrafficPolicy>, port: Option<u16>) -> ClusterPolicy {
    let entry = |policy: &'_ TrafficPolicy| port.and_then(|port| policy.on_port(port).cloned());
    let base = top.map(|top| entry(top).unwrap_or_else(|| top.blocks.clone())).unwrap_or_default();
    let blocks = match own {
        None => base,
        Some(own) => entry(own).unwrap_or_else(|| PolicyBlocks {
            load_balancer: own.blocks.load_balancer.clone().or(base.load_balancer),
            connection_pool: own.blocks.connection_pool.clone().or(base.connection_pool),
            outlier_detection: own.blocks.outlier_detection.clone().or(base.outlier_detection),
            tls: own.blocks.tls.clone().or(base.tls),
        }),
    };
    let first = || [own, top].into_iter().flatten();
    ClusterPolicy {
        load_balancer: blocks.load_balancer.unwrap_or_default(),
        connection_pool: blocks.connection_pool.unwrap_or_default(),
        outlier_detection: blocks.outlier_detection,
        tls: blocks.tls,
        tunnel: first().find_map(|policy| policy.tunnel.clone()),
        proxy_protocol: first().find_map(|policy| policy.proxy_protocol),
        retry_budget: first().find_map(|policy| policy.retry_budget),
    }
}

#[cfg(test)]
mod tests;
