//! Limits that all nodes of a service keep together: one task hears what is asked of the others, closes the windows of this
//! node's shares, and says what is asked of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use certs::id::NodeId;
use membership::{
    body::Body,
    engine::Loss,
    statement::DemandRecord,
    view::{MemberState, View},
};
use policy::compile::{Compiled, WorkloadLimit};
use tokio::time::MissedTickBehavior;

use super::{
    hearing::{News, Word},
    members::Members,
    world::World,
};
use crate::{
    balance::{
        Key,
        rate::{LimitId, MeshRule, Said, Shares as Core, Statement, WINDOW_MS},
    },
    clock,
    snapshot::{Endpoint, Service, Services, Snapshot},
};

/// See the module.
pub struct Shares {
    world: Arc<World>,
    members: Members,
    demand: Arc<News<DemandRecord>>,
    core: Core,
    /// Of what the rules were made.
    seen: Option<(Arc<Compiled>, Arc<Services>)>,
    /// Statements so far.
    said: u64,
}

impl Shares {
    /// No rules yet.
    pub fn new(world: Arc<World>, members: Members, demand: Arc<News<DemandRecord>>) -> Self {
        let core = Core::new(name(&world.current().read().node));
        Self { world, members, demand, core, seen: None, said: 0 }
    }

    /// Runs as long as the node. Sleeps while no limit holds for the whole mesh.
    pub async fn run(mut self) {
        let mut changes = self.world.changes();
        let mut window = tokio::time::interval(Duration::from_millis(WINDOW_MS));
        window.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let demand = self.demand.clone();
        self.follow();
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => self.follow(),
                    Err(_) => return,
                },
                words = demand.next() => self.hear(words),
                _ = window.tick(), if !self.core.is_empty() => self.close_window().await,
            }
        }
    }

    /// Takes what policy and members have become.
    fn follow(&mut self) {
        let snapshot = self.world.current().load();
        let same = |(compiled, services): &(Arc<Compiled>, Arc<Services>)| {
            Arc::ptr_eq(compiled, &snapshot.compiled) && Arc::ptr_eq(services, &snapshot.services)
        };
        if self.seen.as_ref().is_some_and(same) {
            return;
        }
        self.core.set_rules(rules(&snapshot, &self.world.view()), clock::uptime());
        snapshot.limits.tidy_mesh();
        self.seen = Some((snapshot.compiled.clone(), snapshot.services.clone()));
    }

    fn hear(&mut self, words: BTreeMap<NodeId, Word<DemandRecord>>) {
        for (node, word) in words {
            let statement = match (word.said, word.lost) {
                (Some(parts), _) => parts.iter().flat_map(|part| part.iter()).map(read).collect(),
                // Out of reach: perhaps it serves on, so it keeps its share.
                (None, Some(Loss::Dead) | None) => continue,
                (None, Some(Loss::Left | Loss::Evicted | Loss::Gone | Loss::Restarted)) => Statement::new(),
            };
            self.core.heard(&name(&node), statement, clock::uptime());
        }
    }

    async fn close_window(&mut self) {
        if let Some(statement) = self.core.close_window(clock::uptime()) {
            self.said += 1;
            let count = DemandRecord { limit: [0; 16], demand: self.said, given: Vec::new() };
            let records = std::iter::once(count).chain(statement.into_iter().map(write)).collect();
            self.members.publish(Body::Demand(records)).await;
        }
    }
}

/// The limits that this node keeps together with others, and with whom: nodes that have an endpoint of the same service which
/// the same document selects, except those that said they stop and those without rights. The dead may live elsewhere.
fn rules(snapshot: &Snapshot, view: &View) -> Vec<(Arc<MeshRule>, BTreeSet<Key>)> {
    let mut found: BTreeMap<u64, (Arc<MeshRule>, BTreeSet<Key>)> = BTreeMap::new();
    for service in snapshot.services.iter().filter(|service| service.endpoints.iter().any(|one| one.local)) {
        for limit in own_limits(snapshot, service) {
            let nodes = sharers(snapshot, view, service, &limit);
            if let Some(rule) = snapshot.limits.mesh(&limit, &service.name, nodes.len()) {
                found.insert(rule.number(), (rule, nodes));
            }
        }
    }
    found.into_values().collect()
}

fn own_limits(snapshot: &Snapshot, service: &Service) -> Vec<WorkloadLimit> {
    let own = service.endpoints.iter().filter(|endpoint| endpoint.local);
    let workload = |endpoint: &Endpoint| {
        let namespace = endpoint.id.service.namespace();
        snapshot.compiled.workload(&snapshot.trust_domain, namespace, &endpoint.labels)
    };
    own.flat_map(|endpoint| workload(endpoint).limits.clone()).collect()
}

fn sharers(snapshot: &Snapshot, view: &View, service: &Service, limit: &WorkloadLimit) -> BTreeSet<Key> {
    let stays = |endpoint: &&Arc<Endpoint>| {
        view.member(&endpoint.id.node).is_some_and(|member| match member.state {
            MemberState::Alive | MemberState::Suspect | MemberState::Dead => true,
            MemberState::Left | MemberState::Evicted => false,
        })
    };
    let shares = |endpoint: &&Arc<Endpoint>| {
        snapshot.compiled.is_limited_by(&limit.document, endpoint.id.service.namespace(), &endpoint.labels)
    };
    let endpoints = service.endpoints.iter().filter(stays).filter(shares);
    endpoints.map(|endpoint| name(&endpoint.id.node)).collect()
}

fn name(node: &NodeId) -> Key {
    node.as_str().into()
}

fn read(record: &DemandRecord) -> (LimitId, Said) {
    let given = record.given.iter().map(|(node, given)| (name(node), *given)).collect();
    (LimitId::of(record.limit), Said { demand: record.demand, given })
}

fn write((id, said): (LimitId, Said)) -> DemandRecord {
    // Names of members came as such.
    let given = said.given.iter().filter_map(|(node, given)| Some((NodeId::new(node).ok()?, *given))).collect();
    DemandRecord { limit: id.bytes(), demand: said.demand, given }
}
