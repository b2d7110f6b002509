//! What runs beside this node: its services, their checks, and what is told of both.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use certs::{
    codec::Millis,
    grant::NodeGrant,
    id::{NodeId, ServiceAccount, ServiceName},
    revoke::Revocations,
};
use membership::body::{Body, Health, HealthRecord, HealthState, PortRecord, ServiceRecord, Services};
use policy::history::State;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::{
    checks::{Changed, Judge, probe},
    error::{Error, fail},
    event::{self, Events},
    members::Members,
};
use crate::{
    clock::{Clock, Uptime, monotonic},
    config::{Check, Service, SpeakerName},
    lock::lock,
    snapshot,
    tasks::Tasks,
};

/// An endpoint is checked this often for others, however many ask; meanwhile they hear the last result.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What one check, made for others, says of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Looked {
    /// The check passed.
    Well,
    /// The check failed.
    Failing,
    /// There is no such endpoint here, or nothing checks it.
    Unknown,
}
/// The reason of endpoints that pass their checks on a node that does not carry their requests.
const STUCK: &str = "a worker or the thread of links of its node is stuck";
/// The reason of an endpoint that nobody has looked at.
const UNCHECKED: &str = "not checked yet";
/// The reason of a service that no operator lets this node run.
pub const NOT_GRANTED: &str = "not granted";

/// The local services; shared by all who add, remove and list them.
pub struct Local {
    node: NodeId,
    members: Members,
    events: Arc<Events>,
    tasks: Tasks,
    clock: Clock,
    running: Mutex<BTreeMap<String, Running>>,
    /// Since when a data worker has been stuck: then no endpoint here is healthy.
    stuck: Mutex<Option<Millis>>,
    /// One publication at a time: services and health belong together.
    publishing: tokio::sync::Mutex<()>,
}

struct Running {
    service: Service,
    /// None before it was judged.
    granted: Option<bool>,
    /// None if nothing is checked: it has no ports.
    health: Option<HealthState>,
    check: Option<AbortHandle>,
    /// The last check for others. Held while one is made: all who ask meanwhile hear its result.
    looked: Arc<tokio::sync::Mutex<Option<(Instant, Looked)>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(check) = &self.check {
            check.abort();
        }
    }
}

impl Local {
    /// No services yet.
    pub fn new(node: NodeId, members: Members, events: Arc<Events>, tasks: Tasks) -> Arc<Self> {
        let (running, stuck, publishing) = Default::default();
        Arc::new(Self { node, members, events, tasks, clock: Clock, running, stuck, publishing })
    }

    /// Replaces all services; what did not change goes on undisturbed.
    pub async fn set(self: &Arc<Self>, services: &[Service], state: &State) {
        {
            let mut running = self.running();
            let mut before = std::mem::take(&mut *running);
            for service in services {
                let key = SpeakerName::of(service).to_string();
                let same = before.remove(&key).filter(|old| old.service == *service);
                let entry = same.unwrap_or_else(|| self.start(&key, service));
                running.insert(key, entry);
            }
            // Those not taken over end here, with their checks.
            drop(before);
        }
        self.regrant(state);
        self.publish().await;
    }

    /// Judges anew which services the node's grant covers. True if that changed.
    pub fn regrant(&self, state: &State) -> bool {
        let grant = state.grants().get(&self.node);
        let mut changed = false;
        for running in self.running().values_mut() {
            let granted = grant.is_some_and(|grant| covers(grant, &running.service));
            if running.granted != Some(granted) {
                changed = true;
                running.granted = Some(granted);
                if !granted {
                    let refused = not_granted(&self.node, &running.service);
                    tracing::error!(hint = refused.hint, "{refused}: nobody else sees it");
                }
            }
        }
        changed
    }

    /// Tells others what this node serves and how it fares.
    pub async fn publish(&self) {
        let _one = self.publishing.lock().await;
        let (mut services, mut health) = (Services::default(), Health::default());
        let stuck = *lock(&self.stuck);
        let stuck = stuck.map(|since| HealthState { healthy: false, since, reason: STUCK.into() });
        for running in self.running().values().filter(|running| running.granted == Some(true)) {
            services.services.push(record(&running.service));
            if let Some(state) = &running.health {
                let Service { name, instance, .. } = &running.service;
                let (service, instance) = (name.clone(), instance.clone());
                let state = stuck.as_ref().filter(|_| state.healthy).unwrap_or(state).clone();
                health.endpoints.push(HealthRecord { service, instance, state });
            }
        }
        // Health first: a service without any counts as healthy.
        self.members.publish_together(vec![Body::Health(health), Body::Services(services)]).await;
    }

    /// Tells others for as long as a data worker of this node is stuck: whatever checks say, some of the requests to what runs here hang.
    pub async fn follow_workers(self: Arc<Self>) {
        let mut workers = self.tasks.stuck();
        loop {
            let names = workers.borrow_and_update().join(", ");
            let (now, is_stuck) = (self.clock.now(), !names.is_empty());
            let was_stuck = {
                let mut stuck = lock(&self.stuck);
                let since = stuck.filter(|_| is_stuck).or(is_stuck.then_some(now));
                std::mem::replace(&mut *stuck, since).is_some()
            };
            if is_stuck || was_stuck {
                let message = if is_stuck { format!("{names} does not turn") } else { "every thread turns".into() };
                self.events.note(now, event::Kind::WorkerStuck, &self.node, message);
                self.publish().await;
            }
            // An error means that the node ends.
            if workers.changed().await.is_err() {
                return;
            }
        }
    }

    /// Accounts whose leafs the node needs: granted, and not revoked.
    pub fn accounts(&self, revocations: &Revocations) -> BTreeSet<ServiceAccount> {
        let running = self.running();
        let granted = running.values().filter(|running| running.granted == Some(true));
        let accounts = granted.map(|running| &running.service.account);
        accounts.filter(|account| !revocations.account_revoked(account)).cloned().collect()
    }

    /// Services with their health: healthy or why not.
    pub fn list(&self) -> Vec<(Service, bool, String)> {
        let row = |running: &Running| match &running.health {
            _ if running.granted != Some(true) => (running.service.clone(), false, NOT_GRANTED.to_owned()),
            Some(health) => (running.service.clone(), health.healthy, health.reason.clone()),
            None => (running.service.clone(), true, String::new()),
        };
        self.running().values().map(row).collect()
    }

    /// True once requests find what runs beside this node, each service as its check has judged it.
    pub fn is_seen_in(&self, services: &snapshot::Services) -> bool {
        let is_seen = |running: &Running| {
            let (name, instance) = (&running.service.name, running.service.instance.as_deref());
            let endpoints = services.get(name).map(|service| service.endpoints.iter()).into_iter().flatten();
            let own = endpoints.filter(|own| own.local && own.id.instance.as_deref() == instance);
            match &running.health {
                Some(health) if health.reason == UNCHECKED => false,
                Some(health) => own.map(|own| own.healthy).any(|healthy| healthy == health.healthy),
                None => own.count() > 0,
            }
        };
        // What has no port is nobody's endpoint.
        let offered = |running: &&Running| running.granted == Some(true) && !running.service.ports.is_empty();
        self.running().values().filter(offered).all(is_seen)
    }

    /// Services that this node may not offer.
    pub fn not_granted(&self) -> Vec<Error> {
        let lacking = self.running();
        lacking
            .values()
            .filter(|running| running.granted == Some(false))
            .map(|r| not_granted(&self.node, &r.service))
            .collect()
    }

    /// Checks an endpoint now, for others: by its own check, once within [`LOOK_PAUSE`] for all who ask. It changes nothing
    /// of the health that is published.
    pub async fn look(&self, service: &ServiceName, instance: Option<&str>) -> Looked {
        let found = {
            let running = self.running();
            let mut granted = running.values().filter(|running| running.granted == Some(true));
            let of = |running: &&Running| {
                running.service.name == *service && running.service.instance.as_deref() == instance
            };
            granted.find(of).and_then(|running| Some((running.service.check.clone()?, running.looked.clone())))
        };
        let Some((check, looked)) = found else { return Looked::Unknown };
        let mut looked = looked.lock().await;
        if let Some((at, result)) = *looked
            && monotonic().duration_since(at) < LOOK_PAUSE
        {
            return result;
        }
        let result = if probe(&check).await.is_ok() { Looked::Well } else { Looked::Failing };
        *looked = Some((monotonic(), result));
        result
    }

    /// Runs a service as if it were granted.
    #[cfg(test)]
    pub(super) fn serve_for_test(self: &Arc<Self>, service: Service) {
        let key = SpeakerName::of(&service).to_string();
        let mut running = self.start(&key, &service);
        running.granted = Some(true);
        self.running().insert(key, running);
    }

    fn start(self: &Arc<Self>, key: &str, service: &Service) -> Running {
        let pending = |_: &Check| HealthState { healthy: false, since: self.clock.now(), reason: UNCHECKED.into() };
        let run = |check: &Check| {
            let (local, key, check) = (self.clone(), key.to_string(), check.clone());
            self.tasks.kept("check", move || local.clone().check(key.clone(), check.clone()))
        };
        Running {
            granted: None,
            health: service.check.as_ref().map(pending),
            check: service.check.as_ref().map(run),
            looked: Arc::default(),
            service: service.clone(),
        }
    }

    async fn check(self: Arc<Self>, key: String, check: Check) {
        let mut judge = Judge::new(&check);
        tokio::time::sleep(check.delay).await;
        let mut due = tokio::time::interval(check.interval);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let result = probe(&check).await;
            if let Some(changed) = judge.observe(&result, Uptime::now()) {
                self.changed(&key, changed).await;
            }
        }
    }

    async fn changed(&self, key: &str, changed: Changed) {
        let now = self.clock.now();
        let word = if changed.healthy { "healthy" } else { "unhealthy" };
        self.events.note(now, event::Kind::Health, key, format!("{key} is {word}: {}", changed.reason));
        {
            let mut running = self.running();
            let Some(running) = running.get_mut(key) else { return };
            let reason = if changed.healthy { String::new() } else { changed.reason };
            running.health = Some(HealthState { healthy: changed.healthy, since: now, reason });
        }
        self.publish().await;
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Running>> {
        lock(&self.running)
    }
}

/// Whether a grant lets a node register this service under its account.
pub fn covers(grant: &NodeGrant, service: &Service) -> bool {
    grant.pairs(&service.name, &service.account)
}

/// The refusal that names the command which grants it.
pub fn not_granted(node: &NodeId, service: &Service) -> Error {
    let name = format!("{}={}", service.name, service.account.account());
    fail("not_granted", format!("{node} may not register {name}"), format!("skein grant {node} {name}"))
}

fn record(service: &Service) -> ServiceRecord {
    let port = |port: &crate::config::Port| PortRecord {
        name: port.name.clone(),
        number: port.number,
        protocol: port.protocol.as_str().to_string(),
    };
    ServiceRecord {
        instance: service.instance.clone(),
        service: service.name.clone(),
        account: service.account.clone(),
        labels: service.labels.clone(),
        ports: service.ports.iter().map(port).collect(),
        weight: service.weight,
    }
}
