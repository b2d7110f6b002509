//! A route's destination as one caller sees it: its endpoints now, and what is looked up once per endpoint instead of
//! once per request. Kept per worker until the next snapshot.

use super::{context::Context, failure::Cause, inbound::Caller, outbound::Speaker};
use crate::{
    balance::{self, Candidate, Candidates, Tried},
    mesh::{self, Preface},
    snapshot::{Endpoint, Snapshot},
    telemetry::{Pair, Recorder, Reporter, Security, Workload},
};
use certs::id::SpiffeId;
use policy::{
    hosts::Protocol,
    kinds::{Algorithm, Balance},
    route::{Destination, Route},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// Clusters kept by one worker; beyond that it begins anew.
const LIMIT: usize = 10_000;

/// The clusters that one worker met under one snapshot.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    snapshot: Weak<Snapshot>,
    known: HashMap<Key, Arc<Cluster>>,
}

/// Which destination of which route, for whom. The cluster holds the route, so the address stays taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    speaker: u64,
    destination: usize,
    port: u16,
}

/// A destination and its endpoints.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Keeps the key's address.
    _route: Arc<Route>,
    /// Endpoints that may be chosen: healthy, of the subset, with the port.
    pub(super) members: Vec<Member>,
    balance: Balance,
    turn: AtomicU64,
    /// Where requests are counted that reach no endpoint.
    pub(super) nobody: Arc<Recorder>,
}

/// An endpoint of a cluster.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    /// Whom it must prove to be.
    pub(super) identity: SpiffeId,
    pub(super) preface: Preface,
    pub(super) recorder: Arc<Recorder>,
    /// For an endpoint on this node: the caller as inbound sees it.
    pub(super) caller: OnceLock<Caller>,
}

impl Candidate for Member {
    fn weight(&self) -> u32 {
        self.endpoint.weight
    }

    fn active(&self) -> u32 {
        u32::try_from(self.endpoint.stats.active()).unwrap_or(u32::MAX)
    }

    fn is_out(&self) -> bool {
        self.endpoint.stats.is_out()
    }
}

impl Cluster {
    /// The endpoint for the next attempt.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn pick(&self, tried: &Tried, random: u64) -> Result<usize, Cause> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        balance::pick(&self.members, self.balance, tried, turn, random).ok_or(Cause::NoHealthy)
    }
}

impl Context {
    /// The cluster of a destination.
    ///
    /// # Errors
    /// Nobody defines the destination.
    pub(super) fn cluster(
        &self,
        snapshot: &Arc<Snapshot>,
        speaker: &Speaker,
        route: &Arc<Route>,
        destination: &Destination,
        arrived: u16,
    ) -> Result<Arc<Cluster>, Cause> {
        let port = destination.port(&*snapshot.services, arrived);
        let key = Key { speaker: speaker.id, destination: std::ptr::from_ref(destination).addr(), port };
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(clusters.snapshot.as_ptr(), Arc::as_ptr(snapshot)) || clusters.known.len() >= LIMIT {
            clusters.snapshot = Arc::downgrade(snapshot);
            clusters.known.clear();
        }
        if let Some(cluster) = clusters.known.get(&key) {
            return Ok(Arc::clone(cluster));
        }
        let cluster = Arc::new(self.build(snapshot, speaker, route, destination, port)?);
        clusters.known.insert(key, Arc::clone(&cluster));
        Ok(cluster)
    }

    fn build(
        &self,
        snapshot: &Snapshot,
        speaker: &Speaker,
        route: &Arc<Route>,
        destination: &Destination,
        port: u16,
    ) -> Result<Cluster, Cause> {
        let target = destination.seen_by(&speaker.source.labels);
        let candidates = Candidates::of(&snapshot.services, destination, &target.subset, port).map_err(|why| {
            tracing::debug!(%why, "no such destination");
            Cause::NoCluster
        })?;
        let name = &candidates.service.name;
        let protocol = match candidates.protocol {
            Protocol::Http | Protocol::Sniffed => mesh::Protocol::Http1,
            Protocol::Http2 | Protocol::Grpc => mesh::Protocol::Http2,
            Protocol::Tcp | Protocol::Tls => return Err(Cause::NoCluster),
        };
        let pair = |destination: Workload| Pair {
            reporter: Reporter::Source,
            source: Arc::clone(&speaker.workload),
            destination: Arc::new(destination),
            service: policy::hosts::full_name(name).into(),
            service_name: name.name().into(),
            service_namespace: name.namespace().into(),
            security: Security::Unknown,
        };
        let members = candidates.fit().map(|endpoint| {
            let workload = Workload::of_service(&snapshot.trust_domain, name, &endpoint.account, &endpoint.labels);
            Member {
                endpoint: Arc::clone(endpoint),
                identity: SpiffeId::service(snapshot.trust_domain.clone(), endpoint.account.clone()),
                preface: Preface {
                    service: name.clone(),
                    instance: endpoint.id.instance.as_deref().map(str::to_owned),
                    port,
                    source: Some(speaker.service.clone()),
                    protocol,
                    extensions: Vec::new(),
                },
                recorder: Arc::new(self.telemetry.recorder(self.worker, Arc::new(pair(workload)))),
                caller: OnceLock::new(),
            }
        });
        Ok(Cluster {
            _route: Arc::clone(route),
            members: members.collect(),
            balance: match &target.policy(port).load_balancer.algorithm {
                Algorithm::Simple(balance) => *balance,
                // Refused with the document until they are applied; by chance is what a hash without a key means.
                Algorithm::Passthrough | Algorithm::ConsistentHash(_) => Balance::Random,
            },
            turn: AtomicU64::new(self.random() >> 1),
            nobody: Arc::new(self.telemetry.recorder(self.worker, Arc::new(pair(Workload::unknown())))),
        })
    }
}
