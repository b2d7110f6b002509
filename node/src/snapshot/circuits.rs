//! What outlives snapshots for each cluster that a service of this node calls (its circuit): requests under way, errors
//! in a row, who is ejected. And the tables of the choice, built once for all workers and kept while nothing that they read
//! has changed.
//!
//! As in Istio all of it belongs to one caller, which is a service beside this node, and to one host, port and subset.

mod connection;
mod sharing;

use crate::lock::lock;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use connection::Connection;
pub use sharing::Outlets;

use certs::codec::Millis;
use dashmap::DashMap;
use policy::route::{Addressed, ClusterPolicy};
use tokio::sync::{Notify, mpsc, watch};

use super::{Endpoint, Instance};
use crate::balance::{
    Algorithm, BalancePolicy, Client, Host, Key, LoadBalancer, Locality, LocalityPolicy, Pool, PoolLimits,
    outlier::{Effect, Ejection, Event, OutlierPolicy, Outliers, Spared, Why},
};
use connection::Reached;

/// A circuit that nobody used for this long is forgotten: longer than any ejection lasts without a base above it.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// The circuits of a node.
#[derive(Debug)]
pub struct Circuits {
    by_key: DashMap<Key, Arc<Circuit>>,
    /// A request takes it where its table is built anew and where it is the one that has an endpoint ejected. Everybody else holds it for
    /// moments: one look through all of it, at sweeps and where people ask who is out, or one thing that another node says.
    outliers: Mutex<Outliers>,
    ejections: AtomicU64,
    spared: AtomicU64,
    news: Notify,
    changes: watch::Sender<u64>,
    /// Whether errors are watched for reports to other nodes.
    shares: AtomicBool,
    suspects: mpsc::Sender<Arc<Endpoint>>,
    probes: mpsc::Sender<Key>,
}

/// One caller's traffic to one cluster.
#[derive(Debug)]
pub struct Circuit {
    key: Key,
    /// Who calls: `NAMESPACE/NAME[/INSTANCE]`.
    pub caller: String,
    /// What is called.
    pub called: Addressed,
    /// Envoy's name of the cluster: `outbound|PORT|SUBSET|HOST`.
    pub cluster: String,
    /// What is under way.
    pub pool: Arc<Pool>,
    /// Tells those who wait for a connection that one ended.
    pub freed: Notify,
    reached: Reached,
    /// Grows with every ejection and return: tables of another epoch are built anew.
    epoch: AtomicU64,
    used: AtomicU64,
    newest: Mutex<Option<Arc<Table>>>,
}

/// What a policy comes to for the members of a cluster.
#[derive(Debug)]
pub struct Table {
    /// The policy.
    pub policy: Arc<ClusterPolicy>,
    /// The choice.
    pub balancer: LoadBalancer,
    /// What may be under way; `None`: anything.
    pub limits: Option<PoolLimits>,
    /// What counts as an error, where outliers are detected.
    pub outliers: Option<Arc<OutlierPolicy>>,
    /// True if the choice reads how long requests take.
    pub times_requests: bool,
    members: Box<[Instance]>,
    client: Client,
    epoch: u64,
}

/// An endpoint that is out, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Who does without it.
    pub caller: String,
    /// What is called.
    pub called: Addressed,
    /// In which cluster.
    pub cluster: String,
    /// The endpoint and why it is out.
    pub ejection: Ejection,
    /// Nodes that report it, too.
    pub witnesses: Vec<Key>,
}

/// An endpoint that fails and is used all the same, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaysIn {
    /// Who uses it.
    pub caller: String,
    /// What is called.
    pub called: Addressed,
    /// In which cluster.
    pub cluster: String,
    /// The endpoint and why it stays in.
    pub spared: Spared,
    /// Nodes that report it, too.
    pub witnesses: Vec<Key>,
}

impl Default for Circuits {
    /// Without other nodes.
    fn default() -> Self {
        Self::new().0
    }
}

impl Circuits {
    /// The circuit of a caller and a cluster, begun if need be.
    #[must_use]
    pub fn of(&self, caller: &str, called: impl Into<Addressed>, cluster: String) -> Arc<Circuit> {
        let key: Key = format!("{caller} {cluster}").into();
        if let Some(circuit) = self.by_key.get(&key) {
            return Arc::clone(&circuit);
        }
        let begin = || {
            Arc::new(Circuit {
                key: Key::clone(&key),
                caller: caller.to_owned(),
                called: called.into(),
                cluster,
                pool: Arc::default(),
                freed: Notify::new(),
                reached: Reached::default(),
                epoch: AtomicU64::new(0),
                used: AtomicU64::new(0),
                newest: Mutex::default(),
            })
        };
        Arc::clone(&self.by_key.entry(Key::clone(&key)).or_insert_with(begin))
    }

    /// The tables for these members, which are all that the cluster has, healthy or not. The newest are given again, to
    /// other workers and under later snapshots, while members, policy and ejections are the same.
    #[must_use]
    pub fn table(
        &self,
        circuit: &Circuit,
        members: &[Instance],
        policy: &Arc<ClusterPolicy>,
        client: &Client,
        now: Millis,
        random: u64,
    ) -> Arc<Table> {
        circuit.used.store(now, Relaxed);
        let mut newest = lock(&circuit.newest);
        // Read before the tallies are: an ejection in between leads to new tables.
        let epoch = circuit.epoch.load(Relaxed);
        if let Some(table) = newest.as_ref().filter(|table| table.is_for(members, policy, client, epoch)) {
            return Arc::clone(table);
        }
        let outliers = policy.outlier_detection.as_ref().map(|detection| Arc::new(OutlierPolicy::from(detection)));
        let mut hosts: Vec<Host> = members.iter().map(host).collect();
        match &outliers {
            Some(outliers) => {
                let names: Vec<Key> = hosts.iter().map(|host| Key::clone(&host.id)).collect();
                let tallies = lock(&self.outliers).set_cluster(&circuit.key, Arc::clone(outliers), &names, now);
                for (host, tally) in hosts.iter_mut().zip(tallies) {
                    host.tally = Some(tally);
                }
                if newest.as_ref().is_none_or(|before| before.outliers.as_ref() != Some(outliers)) {
                    self.news.notify_one();
                }
            }
            None => lock(&self.outliers).remove_cluster(&circuit.key),
        }
        let table = Arc::new(Table::new((members, hosts), policy, (outliers, epoch), client, random));
        *newest = Some(Arc::clone(&table));
        table
    }

    /// As [`Circuits::table`], of members that one caller brought by itself: others of the cluster have other ones, so the table is kept by
    /// who asks, and nobody is ejected. What may be under way is the whole cluster's.
    #[must_use]
    pub fn table_apart(
        circuit: &Circuit,
        members: &[Instance],
        policy: &Arc<ClusterPolicy>,
        client: &Client,
        now: Millis,
        random: u64,
    ) -> Arc<Table> {
        circuit.used.store(now, Relaxed);
        let (hosts, epoch) = (members.iter().map(host).collect(), circuit.epoch.load(Relaxed));
        Arc::new(Table::new((members, hosts), policy, (None, epoch), client, random))
    }

    /// An endpoint met a limit of its policy: it goes out, unless too many are.
    pub fn tripped(&self, circuit: &Circuit, endpoint: &Key, why: Why, now: Millis, random: u64) {
        let event = Event::Tripped { cluster: Key::clone(&circuit.key), endpoint: Key::clone(endpoint), why };
        let effects = lock(&self.outliers).handle(event, now, random);
        self.apply(effects);
    }

    /// Lets those return whose time is over and forgets what is no longer used. Says when to come again.
    pub fn sweep(&self, now: Millis, random: u64) -> Option<Millis> {
        let (effects, due, forgives) = {
            let mut outliers = lock(&self.outliers);
            let effects = outliers.handle(Event::Tick, now, random);
            (effects, outliers.due(), outliers.has_forgiven())
        };
        self.apply(effects);
        if forgives {
            self.changes.send_modify(|count| *count += 1);
        }
        self.forget_unused(now);
        due
    }

    /// Who comes back between the two steps has tables of a cluster that the second one ends, and would be judged by nobody:
    /// its circuit begins another epoch, so that the next request sets the cluster anew.
    fn forget_unused(&self, now: Millis) {
        let patience = Millis::try_from(FORGOTTEN.as_millis()).unwrap_or(Millis::MAX);
        let mut gone = Vec::new();
        self.by_key.retain(|key, circuit| {
            let stays = Arc::strong_count(circuit) > 1 || now.saturating_sub(circuit.used.load(Relaxed)) < patience;
            if !stays {
                gone.push(Key::clone(key));
            }
            stays
        });
        for key in gone {
            self.end(&key);
        }
    }

    fn end(&self, key: &Key) {
        lock(&self.outliers).remove_cluster(key);
        if self.by_key.contains_key(key) {
            self.renew(key);
        }
    }

    /// Waits until a cluster came that may want a sweep before the others.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Wakes whenever an endpoint goes out or returns.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// All endpoints that are out, by caller, cluster and endpoint.
    #[must_use]
    pub fn ejected(&self) -> Vec<Standing> {
        let outliers = lock(&self.outliers);
        let standing = |ejection: Ejection| {
            let circuit = self.by_key.get(&ejection.cluster)?;
            let witnesses = outliers.witnesses(&ejection.endpoint).cloned().collect();
            let (caller, cluster) = (circuit.caller.clone(), circuit.cluster.clone());
            Some(Standing { caller, called: circuit.called.clone(), cluster, ejection, witnesses })
        };
        outliers.ejections().filter_map(standing).collect()
    }

    /// All endpoints that fail and stay in, by caller, cluster and endpoint.
    #[must_use]
    pub fn spared(&self) -> Vec<StaysIn> {
        let outliers = lock(&self.outliers);
        let stays = |spared: Spared| {
            let circuit = self.by_key.get(&spared.cluster)?;
            let witnesses = outliers.witnesses(&spared.endpoint).cloned().collect();
            let (caller, cluster) = (circuit.caller.clone(), circuit.cluster.clone());
            Some(StaysIn { caller, called: circuit.called.clone(), cluster, spared, witnesses })
        };
        outliers.spared().filter_map(stays).collect()
    }

    /// The circuits whose requests go to all endpoints, healthy or not, because too few are healthy.
    #[must_use]
    pub fn panicking(&self) -> Vec<Arc<Circuit>> {
        self.by_key.iter().filter(|circuit| circuit.panics()).map(|circuit| Arc::clone(&circuit)).collect()
    }

    /// Every circuit that is in use.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Circuit>> {
        self.by_key.iter().map(|circuit| Arc::clone(&circuit)).collect()
    }

    /// Ejections since the node started, and those that a cap prevented.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.ejections.load(Relaxed), self.spared.load(Relaxed))
    }

    fn apply(&self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Ejected(ejection) => {
                    let Ejection { cluster, endpoint, why, times, until: _ } = &ejection;
                    tracing::info!(%cluster, %endpoint, ?why, times, "an endpoint is ejected");
                    self.ejections.fetch_add(1, Relaxed);
                    self.renew(cluster);
                }
                Effect::Returned { cluster, endpoint } => {
                    tracing::info!(%cluster, %endpoint, "an ejected endpoint returns");
                    self.renew(&cluster);
                }
                Effect::Spared { cluster, endpoint, why, again } => {
                    tracing::debug!(%cluster, %endpoint, ?why, "an endpoint stays in: no further one may be out");
                    self.spared.fetch_add(1, Relaxed);
                    if !again {
                        self.changes.send_modify(|count| *count += 1);
                    }
                }
                // One that finds no room is given up like one that has no answer.
                Effect::Probe { endpoint } => drop(self.probes.try_send(endpoint)),
            }
        }
    }

    fn renew(&self, key: &Key) {
        if let Some(circuit) = self.by_key.get(key) {
            circuit.epoch.fetch_add(1, Relaxed);
        }
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Circuit {
    /// True if so few endpoints are healthy that all are used.
    fn panics(&self) -> bool {
        lock(&self.newest).as_ref().is_some_and(|table| table.balancer.panics())
    }

    /// False if an endpoint went out or returned since the table was built.
    #[must_use]
    pub fn is_current(&self, table: &Table) -> bool {
        self.epoch.load(Relaxed) == table.epoch
    }
}

impl Table {
    fn new(
        (members, hosts): (&[Instance], Vec<Host>),
        policy: &Arc<ClusterPolicy>,
        (outliers, epoch): (Option<Arc<OutlierPolicy>>, u64),
        client: &Client,
        random: u64,
    ) -> Self {
        let mut balance = BalancePolicy::from(&**policy);
        if policy.load_balancer.locality.is_none() {
            balance.locality = LocalityPolicy::from(&*client.setting);
        }
        let limits = PoolLimits::from(&**policy);
        Self {
            policy: Arc::clone(policy),
            balancer: LoadBalancer::new(hosts, &balance, client, random),
            limits: (limits != PoolLimits::default()).then_some(limits),
            outliers,
            times_requests: balance.algorithm == Algorithm::PeakEwma,
            members: members.into(),
            client: client.clone(),
            epoch,
        }
    }

    fn is_for(&self, members: &[Instance], policy: &Arc<ClusterPolicy>, client: &Client, epoch: u64) -> bool {
        self.epoch == epoch
            && Arc::ptr_eq(&self.policy, policy)
            && self.client == *client
            && self.members.len() == members.len()
            && self.members.iter().zip(members).all(|(a, b)| are_alike(a, b))
    }
}

/// True if a table is the same for both: of one endpoint in two snapshots, for all that the choice reads.
fn are_alike(a: &Instance, b: &Instance) -> bool {
    a.is(b)
        || Arc::ptr_eq(a.stats(), b.stats())
            && (a.weight(), a.is_healthy()) == (b.weight(), b.is_healthy())
            && a.locality() == b.locality()
            && (Arc::ptr_eq(a.labels(), b.labels()) || a.labels() == b.labels())
}

fn host(instance: &Instance) -> Host {
    Host {
        id: Key::clone(instance.stats().key()),
        weight: instance.weight(),
        locality: Locality::new(instance.locality()),
        labels: Arc::clone(instance.labels()),
        healthy: instance.is_healthy(),
        load: Arc::clone(instance.stats().load()),
        tally: None,
    }
}

#[cfg(test)]
mod tests;
