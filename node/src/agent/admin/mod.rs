//! What the socket, loopback and operators are offered: one set of questions, behind doors that differ in who may come
//! in and what may be changed.
//!
//! The local socket answers everybody who may open it; what changes policy or members carries an operator's signature in
//! itself. Loopback and the scrapers' port only answer. `skein-admin/1` lets in whoever proves a key with a role.

pub mod api;
pub mod error;
pub mod greeting;

mod act;
mod action;
mod authority;
mod documents;
mod explain;
mod guard;
mod history;
mod limits;
mod look;
mod members;
mod mesh;
mod outliers;
mod past;
mod preview;
mod push;
mod router;
mod routes;
mod secrets;
mod serve;
mod status;
mod watch;

use std::sync::Arc;

use certs::sign::PublicKey;
use tokio::sync::Semaphore;

pub use serve::SOCKET_MODE;

use super::Agent;
use crate::{
    config::Cidr,
    snapshot::Circuits,
    tasks::Tasks,
    telemetry::{Kind, Sample, Telemetry},
};

/// Watches of one node at the same time.
const WATCHES: usize = 64;

/// The admin interface of one node. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    agent: Agent,
    telemetry: Telemetry,
    tasks: Tasks,
    circuits: Arc<Circuits>,
    watches: Arc<Semaphore>,
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
        let asked = agent.clone();
        let help = "Bytes sent to other nodes for membership, by urgency";
        telemetry.collect("skein_gossip_bytes_total", help, Kind::Counter, move || {
            let sample =
                |(lane, bytes): (&str, u64)| Sample { labels: vec![("lane", lane.to_owned())], value: bytes as f64 };
            asked.gossip_bytes().into_iter().map(sample).collect()
        });
        Self { agent, telemetry, tasks, circuits, watches: Arc::new(Semaphore::new(WATCHES)) }
    }
}

/// A time as everybody writes it: RFC 3339 in UTC, with milliseconds.
pub fn rfc3339(time: certs::codec::Millis) -> String {
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
