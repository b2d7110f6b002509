//! What the socket, loopback and operators are offered: one set of questions, behind doors that differ in who may come
//! in and what may be changed.
//!
//! The local socket answers everybody who may open it; what changes policy or members carries an operator's signature in
//! itself. Loopback and the scrapers' port only answer. `skein-admin/1` lets in whoever proves a key with a role.

pub mod api;
pub mod greeting;

mod act;
mod action;
mod answers;
mod authority;
mod captures;
mod concerns;
mod connections;
mod documents;
mod events;
mod explain;
mod fresh;
pub(crate) mod guard;
mod history;
mod limits;
mod look;
mod members;
mod mesh;
mod metrics;
mod outliers;
mod own_metrics;
mod past;
mod patience;
mod preview;
pub mod problems;
mod push;
mod router;
mod routes;
mod secrets;
mod serve;
mod status;
mod tap;
mod targets;
mod traffic;
mod watch;
mod withheld;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use certs::{
    codec::Millis,
    id::{NodeId, TrustDomain},
    sign::PublicKey,
};
use tokio::sync::Semaphore;

pub(crate) use events::{OTHER_VERSION, SILENT, Told, UNASKED};
pub(crate) use look::KindName;
pub(crate) use past::{LogFilter, When};
pub use serve::SOCKET_MODE;

use self::{error::Error, fresh::Fresh};
use super::{Agent, error};
use crate::{
    config::Cidr,
    mesh::crowd::Crowd,
    snapshot::Circuits,
    tasks::Tasks,
    telemetry::{Kind, Sample, Telemetry},
};

/// Pages that take long to reckon, at a time.
const HEAVY: usize = 2;
/// Watches at the same time through doors of one kind.
const WATCHES: usize = 64;
/// Taps of operators at the same time, all and of one key: fewer than a node has, so that its socket has some left.
const TAPS: (usize, usize) = (6, 3);

/// The admin interface of one node. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    agent: Agent,
    telemetry: Telemetry,
    tasks: Tasks,
    circuits: Arc<Circuits>,
    /// Those of the door that is served.
    places: Places,
    doors: Arc<Doors>,
    scrapes: Arc<Semaphore>,
    /// Operators that tap.
    tappers: Arc<Crowd<PublicKey>>,
    traffic: Arc<Fresh<Arc<api::Traffic>>>,
    targets: Arc<Fresh<BTreeMap<NodeId, SocketAddr>>>,
    timeline: Arc<Fresh<Arc<Told>>>,
    matrix: Arc<Fresh<Vec<api::Member>>>,
    concerns: Arc<Fresh<Arc<api::Concerns>>>,
}

/// What may be under way at a time for those who come through doors of one kind: none can keep others from theirs.
#[derive(Debug, Clone)]
struct Places {
    watches: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
    /// KiB of long answers.
    answers: Arc<Semaphore>,
    /// Every local user may come: documents are shown without what signs.
    is_public: bool,
}

/// The places of each kind.
#[derive(Debug)]
struct Doors {
    socket: Places,
    loopback: Places,
    operators: Places,
}

impl Places {
    fn new(is_public: bool) -> Self {
        let [watches, heavy, answers] = [WATCHES, HEAVY, answers::ROOM].map(|places| Arc::new(Semaphore::new(places)));
        Self { watches, heavy, answers, is_public }
    }
}

/// Where a question comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// The local socket: whoever the file system lets in.
    Socket,
    /// The loopback port: GET only; remote addresses beside loopback are those of `admin.allow`.
    Loopback(Arc<[Cidr]>),
    /// The scrapers' port: metrics and health only.
    Metrics,
    /// `skein-admin/1`: an operator that proved this key.
    Operator(PublicKey),
    /// The same, by a key that is no operator's yet: a RoleSet that operators made waits for its signature.
    Candidate(PublicKey),
}

impl Admin {
    /// The interface of an agent; `circuits` is what the data plane knows of the clusters that it calls.
    pub fn new(agent: Agent, telemetry: Telemetry, tasks: Tasks, circuits: Arc<Circuits>) -> Self {
        let by_lane = |name, help, count: fn(&Agent) -> Vec<(&'static str, u64)>| {
            let asked = agent.clone();
            telemetry.collect(name, help, Kind::Counter, move || {
                let sample = |(lane, count): (&str, u64)| Sample {
                    labels: vec![("lane", lane.to_owned())],
                    value: count as f64,
                };
                count(&asked).into_iter().map(sample).collect()
            });
        };
        let help = "Bytes sent to other nodes for membership, by urgency";
        by_lane("skein_gossip_bytes_total", help, Agent::gossip_bytes);
        let help =
            "Messages for membership that a slow peer's full queue did not take, by urgency; repair makes up for them";
        by_lane("skein_gossip_dropped_total", help, Agent::gossip_dropped);
        let scrapes = Arc::new(Semaphore::new(metrics::AT_ONCE));
        let tappers = Crowd::new(TAPS.0, TAPS.1);
        let [socket, loopback, operators] = [false, true, false].map(Places::new);
        let places = socket.clone();
        let doors = Arc::new(Doors { socket, loopback, operators });
        let (traffic, targets, timeline, matrix, concerns) = Default::default();
        let admin = Self {
            agent,
            telemetry,
            tasks,
            circuits,
            places,
            doors,
            scrapes,
            tappers,
            traffic,
            targets,
            timeline,
            matrix,
            concerns,
        };
        admin.register();
        admin
    }

    /// The clock.
    pub(crate) fn now(&self) -> Millis {
        self.agent.now()
    }

    /// What takes long to reckon: beside everything else, and little of it at a time.
    ///
    /// # Errors
    /// The node stops.
    pub(crate) async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let stops = || Error::new("failed", "the node stops");
        let _turn = self.places.heavy.acquire().await.map_err(|_| stops())?;
        self.tasks.blocking(work).await.map_err(|_| stops())
    }

    /// The interface as a door has it.
    fn at(&self, door: &Door) -> Self {
        let places = match door {
            Door::Socket => &self.doors.socket,
            Door::Loopback(_) | Door::Metrics => &self.doors.loopback,
            Door::Operator(_) | Door::Candidate(_) => &self.doors.operators,
        };
        Self { places: places.clone(), ..self.clone() }
    }

    /// This node.
    pub(crate) fn node(&self) -> &NodeId {
        self.agent.node()
    }

    /// The mesh.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        self.agent.trust_domain()
    }

    /// Where rules of documents send requests.
    pub(crate) fn routes(&self) -> Vec<api::Route> {
        routes::rows(&self.agent.state())
    }
}

/// A time as everybody writes it: RFC 3339 in UTC, with milliseconds.
pub fn rfc3339(time: Millis) -> String {
    let time = i64::try_from(time).ok().and_then(|time| jiff::Timestamp::from_millisecond(time).ok());
    time.map_or_else(String::new, |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_have_milliseconds() {
        assert_eq!(super::rfc3339(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
        assert_eq!(super::rfc3339(u64::MAX), "");
    }
}
