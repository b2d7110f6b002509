//! Connections that one worker keeps to other nodes, and the virtual connections kept on them.
//!
//! A group is what one source identity has open to one destination identity on one node. Everything is made when it is
//! first needed, bounded, and let go when idle.

mod eviction;

use crate::lock::lock;
use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use certs::{
    codec::Millis,
    id::{NodeId, SpiffeId},
};
use foldhash::fast::RandomState;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::{
    data::Call,
    error::{Code, Error, Limit},
    lease::Link,
    live::{Guard, Retirement},
    occupancy::Occupancy,
    preface::Preface,
    quic::MAX_STREAMS,
    secure::Secure,
};
use crate::clock::{self, Uptime};

/// QUIC connections per worker and group.
const MAX_CONNECTIONS: usize = 4;
/// Streams in use on every connection of a group, from which on another connection is dialled.
const GROW_AT: usize = 128;
/// Requests under way per group: what its connections carry.
const MAX_UNDER_WAY: usize = MAX_CONNECTIONS * MAX_STREAMS as usize;
/// TCP dials under way per group.
const MAX_TCP_DIALS: usize = 32;
/// Requests that wait per group.
const MAX_WAITING: usize = 1_024;
/// How long an unused virtual connection is kept on QUIC.
const STREAM_IDLE: Duration = Duration::from_secs(10);
/// How long an unused connection is kept: on TCP that is the virtual connection itself.
pub(super) const CONNECTION_IDLE: Duration = Duration::from_secs(55);
/// TLS connections that nobody uses, per group.
const MAX_UNCLAIMED: usize = 64;

/// All groups of one worker.
#[derive(Debug, Default)]
pub(super) struct Pool {
    groups: Mutex<HashMap<Key, Arc<Group>, RandomState>>,
    /// Told of each new group.
    grown: Notify,
}

/// Which group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    source: SpiffeId,
    node: NodeId,
    identity: SpiffeId,
}

/// A key's parts, so that looking one up copies nothing: the names are shared by all workers.
trait Parts {
    fn parts(&self) -> (&SpiffeId, &NodeId, &SpiffeId);
}

impl Parts for Key {
    fn parts(&self) -> (&SpiffeId, &NodeId, &SpiffeId) {
        (&self.source, &self.node, &self.identity)
    }
}

impl Parts for Call<'_> {
    fn parts(&self) -> (&SpiffeId, &NodeId, &SpiffeId) {
        (self.source, self.node, self.identity)
    }
}

impl Hash for dyn Parts + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn Parts + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Parts + '_ {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl<'a> Borrow<dyn Parts + 'a> for Key {
    fn borrow(&self) -> &(dyn Parts + 'a) {
        self
    }
}

impl Pool {
    /// The group of a call, made if need be.
    pub(super) fn group(&self, call: &Call<'_>) -> Arc<Group> {
        let mut groups = lock(&self.groups);
        if let Some(group) = groups.get(call as &dyn Parts) {
            return group.clone();
        }
        let key = Key { source: call.source.clone(), node: call.node.clone(), identity: call.identity.clone() };
        let group = Arc::new(Group::default());
        groups.insert(key, group.clone());
        self.grown.notify_one();
        group
    }

    /// Waits until there is something to sweep.
    pub(super) async fn used(&self) {
        while lock(&self.groups).is_empty() {
            self.grown.notified().await;
        }
    }

    /// QUIC connections that are open.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        let groups = lock(&self.groups);
        groups.values().map(|group| lock(&group.state).connections.iter().filter(|c| c.is_open()).count()).sum()
    }

    /// Lets go what was unused for too long.
    pub(super) fn sweep(&self, now: Uptime) {
        let wall = clock::wall();
        // A group that somebody holds is about to be used.
        lock(&self.groups).retain(|_, group| !group.sweep(now, wall) || Arc::strong_count(group) > 1);
    }
}

/// The connections of all workers, whose number is limited together.
#[derive(Debug, Default)]
pub(super) struct Pools(Mutex<Vec<Weak<Pool>>>);

impl Pools {
    /// A further worker's.
    pub(super) fn add(&self) -> Arc<Pool> {
        let pool = Arc::new(Pool::default());
        lock(&self.0).push(Arc::downgrade(&pool));
        pool
    }

    /// What each group has under way, by its node.
    pub(super) fn occupancy(&self) -> Vec<(NodeId, Occupancy)> {
        let pools: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        let mut all = Vec::new();
        for pool in pools {
            let groups = lock(&pool.groups);
            all.extend(groups.iter().map(|(key, group)| (key.node.clone(), group.occupancy())));
        }
        all
    }
}

/// What one source identity has open to one destination identity on one node.
#[derive(Debug)]
pub(super) struct Group {
    state: Mutex<State>,
    permits: Arc<Semaphore>,
    /// Leave to dial by TCP: many at once would meet the other end's limit on handshakes.
    dials: Semaphore,
    waiting: AtomicUsize,
    /// Virtual connections that a request holds.
    pub(super) leased: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<Arc<Connection>>,
    /// Few: a group has as many prefaces as its services have ports.
    idle: Vec<(Arc<Preface>, Vec<Link>)>,
    /// TLS connections that nobody uses, and since when: a race's winners, and what ended tunnels gave back.
    unclaimed: Vec<(Secure, Uptime)>,
    dialling: Option<Dialling>,
    /// Connections dialled so far: spreads them over the peer's workers.
    ordinal: u8,
}

/// A dial under way, which many may wait for.
pub(super) type Dialling = Shared<BoxFuture<'static, Result<(), Error>>>;

/// A QUIC connection of a group.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) quic: quinn::Connection,
    streams: AtomicUsize,
    used: AtomicU64,
    pub(super) retirement: Retirement,
    _guard: Guard,
}

impl Connection {
    pub(super) fn new(quic: quinn::Connection, retirement: Retirement, guard: Guard) -> Arc<Connection> {
        let used = AtomicU64::new(clock::uptime());
        Arc::new(Connection { quic, streams: AtomicUsize::new(0), used, retirement, _guard: guard })
    }

    fn is_open(&self) -> bool {
        self.quic.close_reason().is_none()
    }
}

/// One of a connection's streams, for as long as it is open.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) connection: Arc<Connection>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.used.store(clock::uptime(), Relaxed);
        self.connection.streams.fetch_sub(1, Relaxed);
    }
}

/// What to do for a stream.
pub(super) enum Step {
    /// Open it on this connection.
    Open(Slot),
    /// Wait for this dial, then ask again.
    Wait(Dialling),
    /// Take this TLS connection.
    Claim(Secure),
    /// Every connection is full.
    Full,
}

impl Default for Group {
    fn default() -> Group {
        let (permits, dials) = (Arc::new(Semaphore::new(MAX_UNDER_WAY)), Semaphore::new(MAX_TCP_DIALS));
        let (state, waiting, leased) = Default::default();
        Group { state, permits, dials, waiting, leased }
    }
}

impl Group {
    /// Leave to have one more request under way, if it can be had at once.
    pub(super) fn free_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Leave to have one more request under way; waits in a bounded queue.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        if let Some(permit) = self.free_permit() {
            return Ok(permit);
        }
        let _waiting = Waiting::enter(&self.waiting).ok_or(Error::Overflow(Limit::Waiting))?;
        self.permits.clone().acquire_owned().await.map_err(|_| Error::Stopping)
    }

    /// Leave to dial by TCP, held until the dial has ended.
    pub(super) async fn dial_permit(&self) -> Result<SemaphorePermit<'_>, Error> {
        if let Ok(permit) = self.dials.try_acquire() {
            return Ok(permit);
        }
        let _waiting = Waiting::enter(&self.waiting).ok_or(Error::Overflow(Limit::Waiting))?;
        self.dials.acquire().await.map_err(|_| Error::Stopping)
    }

    fn occupancy(&self) -> Occupancy {
        let streams = lock(&self.state).connections.iter().map(|connection| connection.streams.load(Relaxed)).sum();
        Occupancy { requests: self.leased.load(Relaxed), waiting: self.waiting.load(Relaxed), streams }
    }

    /// A kept virtual connection that takes a request now.
    pub(super) async fn take_ready(&self, preface: &Preface) -> Option<Link> {
        while let Some(mut link) = self.take(preface) {
            if link.ready().await {
                return Some(link);
            }
        }
        None
    }

    /// A kept virtual connection, the most recently used first.
    pub(super) fn take(&self, preface: &Preface) -> Option<Link> {
        let mut state = lock(&self.state);
        let State { connections, idle, .. } = &mut *state;
        let connections = &*connections;
        let over_quic = || serves(connections);
        let (_, links) = idle.iter_mut().find(|(known, _)| **known == *preface)?;
        while let Some(mut link) = links.pop() {
            // Once UDP works again, what it replaced is let go.
            if !link.is_stale() && !link.is_retired() && (link.is_quic || !over_quic()) && link.is_usable() {
                return Some(link);
            }
        }
        None
    }

    /// Begins a dial that nobody waits for, unless one is under way or not needed.
    pub(super) fn try_quic(&self, dial: impl FnOnce(u8) -> Dialling) {
        let mut state = lock(&self.state);
        if !serves(&state.connections) && state.dialling.is_none() {
            state.dialling = Some(dial(state.ordinal));
            state.ordinal = state.ordinal.wrapping_add(1);
        }
    }

    /// Keeps a virtual connection.
    pub(super) fn give_back(&self, mut link: Link) {
        link.since = Uptime::now();
        let mut state = lock(&self.state);
        match state.idle.iter_mut().find(|(known, _)| *known == link.preface) {
            Some((_, links)) => links.push(link),
            None => state.idle.push((link.preface.clone(), vec![link])),
        }
    }

    /// True if a QUIC connection is open, and something new may begin on it.
    pub(super) fn has_connection(&self) -> bool {
        serves(&lock(&self.state).connections)
    }

    /// What to do for a stream; `dial` begins a dial with the connection's ordinal.
    pub(super) fn step(&self, dial: impl FnOnce(u8) -> Dialling) -> Step {
        let wall = clock::wall();
        let mut state = lock(&self.state);
        if let Some(secure) = state.claim() {
            return Step::Claim(secure);
        }
        // It died without a word.
        drop(state.dialling.take_if(|dialling| dialling.peek().is_some()));
        state.connections.retain(|connection| connection.is_open());
        let usable = state.connections.iter().filter(|c| !c.retirement.has_come(wall));
        let best = usable.clone().min_by_key(|connection| connection.streams.load(Relaxed)).cloned();
        let load = best.as_ref().map_or(usize::MAX, |connection| connection.streams.load(Relaxed));
        if load >= GROW_AT && usable.count() < MAX_CONNECTIONS && state.dialling.is_none() {
            state.dialling = Some(dial(state.ordinal));
            state.ordinal = state.ordinal.wrapping_add(1);
        }
        match (best, &state.dialling) {
            (Some(connection), _) if load < MAX_STREAMS as usize => {
                connection.streams.fetch_add(1, Relaxed);
                Step::Open(Slot { connection })
            }
            (_, Some(dialling)) => Step::Wait(dialling.clone()),
            // All are full, some perhaps of virtual connections kept for other ports.
            (_, None) => {
                let oldest = state.idle.iter_mut().map(|(_, links)| links).filter(|links| !links.is_empty());
                if let Some(links) = oldest.min_by_key(|links| links[0].since) {
                    links.remove(0);
                }
                Step::Full
            }
        }
    }

    /// A dial has ended.
    pub(super) fn dialled(&self, connection: Option<Arc<Connection>>) {
        let mut state = lock(&self.state);
        state.dialling = None;
        state.connections.extend(connection);
    }

    /// A TLS connection that nobody uses.
    pub(super) fn claim(&self) -> Option<Secure> {
        lock(&self.state).claim()
    }

    /// Keeps a TLS connection that nobody uses.
    pub(super) fn unclaimed(&self, secure: Secure) {
        let mut state = lock(&self.state);
        if state.unclaimed.len() < MAX_UNCLAIMED {
            state.unclaimed.push((secure, Uptime::now()));
        }
    }

    /// Lets go what was unused for too long; true if nothing is left.
    fn sweep(&self, now: Uptime, wall: Millis) -> bool {
        let mut state = lock(&self.state);
        for (_, links) in &mut state.idle {
            links.retain_mut(|link| {
                let kept = if link.is_quic { STREAM_IDLE } else { CONNECTION_IDLE };
                let young = !link.is_retired() && now.since(link.since) < kept.min(link.idle);
                young && link.is_usable()
            });
        }
        state.idle.retain(|(_, links)| !links.is_empty());
        state.unclaimed.retain_mut(|(secure, since)| now.since(*since) < CONNECTION_IDLE && secure.is_quiet());
        state.connections.retain(|connection| {
            let unused = connection.streams.load(Relaxed) == 0;
            let idle = now.since(Uptime(connection.used.load(Relaxed))) >= CONNECTION_IDLE;
            if unused && (idle || connection.retirement.has_come(wall)) {
                connection.quic.close(Code::Done.varint(), b"");
            }
            connection.is_open()
        });
        state.connections.is_empty() && state.idle.is_empty() && state.unclaimed.is_empty() && state.dialling.is_none()
    }
}

impl State {
    fn claim(&mut self) -> Option<Secure> {
        while let Some((mut secure, _)) = self.unclaimed.pop() {
            if secure.is_quiet() {
                return Some(secure);
            }
        }
        None
    }
}

/// True if something new may begin on one of them.
fn serves(connections: &[Arc<Connection>]) -> bool {
    let wall = clock::wall();
    connections.iter().any(|connection| connection.is_open() && !connection.retirement.has_come(wall))
}

/// A place in the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(waiting: &'a AtomicUsize) -> Option<Waiting<'a>> {
        if waiting.fetch_add(1, Relaxed) >= MAX_WAITING {
            waiting.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Waiting(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
