//! Policy on its way between nodes: a fresh changeset is announced by the POLICY record, fetched at once from whoever
//! has it, verified, stored, folded; what announcements missed, bucket digests find.

mod answer;
mod audits;
mod bodies;
mod claims;
mod ends;
pub mod everybody;
mod fetch;
mod first;
mod freshness;
mod noted;
mod pace;
pub mod paths;
mod push;
mod share;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use certs::{
    codec,
    grant::NodeGrant,
    id::{NodeId, ServiceAccount},
    sign::Digest,
};
use membership::body::{Body, Policy, RECENT};
use tokio::sync::{Notify, oneshot, watch};

pub use answer::Requests;
use audits::Audits;
use claims::Claims;
pub use freshness::{Freshness, SILENCE};
use pace::{Brought, Pace};

use super::{
    book::Book,
    drift::Drift,
    error::Error,
    event::Events,
    identity::Identity,
    links::Links,
    members::Members,
    rollback::Rollback,
    rotation::Resting,
    wire::{self, Bucket, Buckets, Ids},
    world::World,
};
use crate::{
    agent::concerns::Concerns,
    clock::{Clock, Uptime, monotonic},
    lock::lock,
    mesh::{
        Mesh,
        peer::{LinkError, PeerLink},
    },
    tasks::Tasks,
    telemetry::Histogram,
};

/// Peers are compared this often while something differs or nothing is heard.
const INTERVAL: Duration = Duration::from_secs(2);
/// Pause after a comparison that failed.
const AGAIN: Duration = Duration::from_millis(250);
/// A peer has this long for one reply, and from each piece of it for the next.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one task's fetching keeps other peers from being asked for the same.
const CLAIM: Duration = Duration::from_secs(1);
/// How often such a time begins anew for a peer that gives something new.
const RENEWALS: usize = 4;

/// Replicates policy; shared by all who push, fetch and answer.
pub struct Sync {
    /// The set of changesets.
    pub book: Arc<Book>,
    /// Where folded policy goes.
    pub world: Arc<World>,
    /// Open links.
    pub links: Links,
    /// The way to announce.
    pub members: Members,
    /// Signs receipts.
    pub identity: Arc<Identity>,
    /// Whose connections are judged anew.
    pub mesh: Mesh,
    /// What people may watch.
    pub events: Arc<Events>,
    /// How far the machine's clock is from the mesh's.
    pub drift: Drift,
    /// What still rests on a root that retires.
    pub resting: Resting,
    /// Whether the disk is older than what this node did.
    pub rollback: Arc<Rollback>,
    /// Told when a grant changed.
    pub renew: Arc<Notify>,
    /// Told when a peer's policy changed.
    pub wake: Arc<Notify>,
    /// Owner of comparisons.
    pub tasks: Tasks,
    /// The clock.
    pub clock: Clock,
    state: Shared,
}

struct Shared {
    /// One fold at a time, in order.
    applying: tokio::sync::Mutex<()>,
    /// Digest of the set of changesets that the last fold covers, once traffic follows it: who waits for one looks again.
    applied: watch::Sender<Option<Digest>>,
    /// Peers that are being compared with.
    busy: Mutex<BTreeSet<NodeId>>,
    /// Who was asked in vain.
    pace: Mutex<Pace>,
    /// Changesets that are being fetched.
    fetching: Mutex<Claims>,
    /// How long ago most of the mesh was heard.
    freshness: Mutex<Freshness>,
    /// Where scrapers find each node, as it last said.
    scraped: Mutex<BTreeMap<NodeId, SocketAddr>>,
    /// Where they find this one.
    own_scraped: OnceLock<SocketAddr>,
    /// Who says what of this node needs attention.
    concerns: OnceLock<Box<dyn Fn() -> Concerns + Send + std::marker::Sync>>,
    /// Whether some peer's policy was looked at since the start, or there is no other node.
    compared: watch::Sender<bool>,
    /// The longest audit chain that each member was heard to have.
    audits: Mutex<Audits>,
    /// From the arrival of a changeset to the world that has it.
    latency: Histogram,
}

impl Shared {
    fn new(now: Instant, alone: bool) -> Self {
        let compared = watch::Sender::new(alone);
        let (applying, applied, busy, pace, fetching, scraped, own_scraped, audits, latency) = Default::default();
        let concerns = OnceLock::new();
        let freshness = Mutex::new(Freshness::new(now));
        Self {
            applying,
            applied,
            busy,
            pace,
            fetching,
            freshness,
            scraped,
            own_scraped,
            concerns,
            compared,
            audits,
            latency,
        }
    }
}

/// What a [`Sync`] works with.
pub struct Parts {
    /// See [`Sync`].
    pub book: Arc<Book>,
    /// See [`Sync`].
    pub world: Arc<World>,
    /// See [`Sync`].
    pub links: Links,
    /// See [`Sync`].
    pub members: Members,
    /// See [`Sync`].
    pub identity: Arc<Identity>,
    /// See [`Sync`].
    pub mesh: Mesh,
    /// See [`Sync`].
    pub events: Arc<Events>,
    /// See [`Sync`].
    pub tasks: Tasks,
}

impl Sync {
    /// Nothing is under way yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { book, world, links, members, identity, mesh, events, tasks } = parts;
        let is_other = |grant: &&Arc<NodeGrant>| !grant.retired && grant.node != *identity.node();
        let alone = !world.current().read().state.grants().values().any(|grant| is_other(&grant));
        let rollback = Rollback::new(book.store().clone(), events.clone(), alone);
        Arc::new(Self {
            book,
            world,
            links,
            members,
            identity,
            mesh,
            events,
            drift: Drift::default(),
            resting: Resting::default(),
            rollback,
            renew: Arc::default(),
            wake: Arc::default(),
            tasks,
            clock: Clock,
            state: Shared::new(monotonic(), alone),
        })
    }

    /// Runs until the process ends: applies and announces what the store held, then follows peers and the clock.
    pub async fn run(self: Arc<Self>) {
        let mut ends = ends::Ends::since(&self.book, self.clock.now()).await;
        self.apply().await;
        let mut upkeep = bodies::Upkeep::default();
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.rollback.grown.notified() => self.announce().await,
                () = tokio::time::sleep(ends.pause(self.clock.now())) => {}
                () = self.tasks.stopping() => return,
            }
            let fresh_keys = self.world.new_keys();
            let look = ends.look(&self.book, &self.world, self.clock.now()).await;
            if fresh_keys.is_some() || look.is_behind {
                self.apply().await;
            }
            if let Some((since, now)) = look.ended {
                self.note_reverted(since, now).await;
            }
            if let Some(keys) = fresh_keys {
                self.book.keep_known_keys(keys).await;
            }
            self.compare_first();
            self.compare_all().await;
            self.note_audits();
            // With a push every member gives word, which wakes this loop each time: what goes over all of them has its own pace.
            if upkeep.is_due(monotonic()) {
                self.keep_up(&mut upkeep).await;
            }
        }
    }

    /// Folds what the book holds, swaps the world, announces: to the end, also if the caller goes away. Gives when requests began to
    /// follow it.
    pub async fn apply(self: &Arc<Self>) -> Instant {
        let sync = self.clone();
        let (told, applied) = oneshot::channel();
        self.tasks.detach("apply", async move {
            let _ = told.send(sync.apply_next().await);
        });
        applied.await.expect("no code panics while it applies")
    }

    async fn apply_next(&self) -> Instant {
        let _one = self.state.applying.lock().await;
        let covered = self.book.look(|history| history.digest()).await;
        let before = self.world.current().load();
        let (book, clock) = (self.book.clone(), self.clock);
        let fold = move || book.look_aside(|history| history.state(clock.now()));
        let changed = self.world.follow(&self.tasks, fold).await;
        let swapped = monotonic();
        let state = self.world.current().load().state.clone();
        if before.state.lifetimes() != state.lifetimes() || before.state.trust() != state.trust() {
            self.renew.notify_one();
        }
        let limits = self.world.limits();
        self.mesh.limit_handshakes(limits.tls_handshake_timeout, limits.pending_handshakes);
        if let Some(authority) = changed {
            self.members.tell(membership::engine::Event::Authority(authority.clone())).await;
            let mut closed = self.mesh.rejudge(&authority);
            for (node, accounts) in narrowed(&before.authority.grants, &authority.grants) {
                closed += self.mesh.close_accounts(&node, &accounts);
            }
            if closed > 0 {
                tracing::info!(closed, "connections ended whose peer no longer counts");
            }
            self.renew.notify_one();
        }
        self.announce().await;
        self.state.applied.send_replace(Some(covered));
        swapped
    }

    /// Folds what came and notes how long it was on its way to where requests follow it.
    pub(super) async fn apply_arrived(self: &Arc<Self>, arrived: Instant) {
        let swapped = self.apply().await;
        self.state.latency.observe(swapped.saturating_duration_since(arrived));
    }

    /// How long changesets took from their arrival to where requests follow them.
    pub fn latency(&self) -> Histogram {
        self.state.latency.clone()
    }

    /// Nothing rests on a root that retires any more: who waits for that looks again.
    pub(super) fn settled(&self) {
        self.state.applied.send_modify(|_| {});
    }

    /// Says what this node holds.
    async fn announce(&self) {
        let digest_and_count = self.book.look(|history| (history.digest(), history.ids().count() as u64)).await;
        let recent = self.book.latest(RECENT).await;
        let (digest, count) = digest_and_count;
        let applied = self.world.current().load().state.digest;
        let head = self.book.audit_head().await;
        let audit = (head.count, head.digest);
        self.members.publish(Body::Policy(Policy { digest, count, recent, applied, audit })).await;
    }

    /// Starts a comparison with every linked peer that holds another set.
    async fn compare_all(self: &Arc<Self>) {
        let own = self.book.look(|history| history.digest()).await;
        let view = self.world.view();
        for link in self.links.all() {
            let node = link.peer().node.clone();
            let differs = view.member(&node).and_then(|member| member.policy.clone()).filter(|p| p.digest != own);
            let Some(theirs) = differs else { continue };
            if !self.busy().insert(node.clone()) {
                continue;
            }
            let sync = self.clone();
            self.tasks.detach("policy-sync", async move {
                let guard = Busy { sync: &sync, node: &node };
                let pause = match sync.compare(&link, &theirs).await {
                    Ok(brought) => lock(&sync.state.pace).ended(&node, brought),
                    Err(error) => {
                        tracing::debug!(peer = %node, "policy could not be compared: {error}");
                        match error {
                            // The way may be too slow for what was asked.
                            SyncError::Link(LinkError::Timeout(_)) => {
                                lock(&sync.state.pace).ended(&node, Brought::InVain)
                            }
                            // Who refused for now is not asked again at once.
                            SyncError::Link(_) | SyncError::Codec(_) | SyncError::Store(_) => AGAIN,
                        }
                    }
                };
                tokio::time::sleep(pause).await;
                drop(guard);
                // Something may have been announced meanwhile.
                if sync.announced_unknown(&node).await {
                    sync.wake.notify_one();
                }
            });
        }
    }

    async fn announced_unknown(&self, node: &NodeId) -> bool {
        let Some(policy) = self.world.view().member(node).and_then(|member| member.policy.clone()) else {
            return false;
        };
        !self.lacking(&policy.recent, node).await.is_empty()
    }

    /// What was announced is fetched at once; without any such, bucket digests tell what is missing.
    async fn compare(self: &Arc<Self>, link: &PeerLink, theirs: &Policy) -> Result<Brought, SyncError> {
        let peer = &link.peer().node;
        let announced = self.lacking(&theirs.recent, peer).await;
        let mut brought = Brought::Whole;
        if !announced.is_empty() {
            brought = self.fetch(link, announced).await?;
            if self.book.look(|history| history.digest()).await == theirs.digest {
                return Ok(brought);
            }
        }
        // All that it holds was announced and is here: it is the peer who lacks something, and asks by itself.
        if theirs.count <= theirs.recent.len() as u64 && self.lacking(&theirs.recent, peer).await.is_empty() {
            return Ok(brought);
        }
        Ok(brought.max(self.compare_buckets(link).await?))
    }

    /// Digests of parts of the set tell what is missing, whatever was announced.
    async fn compare_buckets(self: &Arc<Self>, link: &PeerLink) -> Result<Brought, SyncError> {
        let buckets: Buckets = self.ask(link, wire::BUCKETS, &()).await?;
        let own = self.book.look(|history| history.bucket_digests().to_vec()).await;
        let differing = (0..=u8::MAX).zip(own.iter().zip(&buckets.digests)).filter(|(_, (a, b))| a != b);
        let buckets: Vec<u8> = differing.map(|(bucket, _)| bucket).collect();
        if buckets.is_empty() {
            return Ok(Brought::Whole);
        }
        let ids: Ids = self.ask(link, wire::BUCKET, &Bucket { buckets }).await?;
        let missing = self.lacking(&ids.ids, &link.peer().node).await;
        if missing.is_empty() { Ok(Brought::Whole) } else { self.fetch(link, missing).await }
    }

    /// Which of these the book lacks and would take from that peer.
    pub(super) async fn lacking(&self, ids: &[Digest], from: &NodeId) -> Vec<Digest> {
        self.book.lacking(ids, from, Uptime::now()).await
    }

    async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &self,
        link: &PeerLink,
        kind: u16,
        question: &Q,
    ) -> Result<A, SyncError> {
        let reply = link.request_long(kind, codec::encode(question).into(), PATIENCE).await?;
        Ok(wire::reply(&reply)?)
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, BTreeSet<NodeId>> {
        lock(&self.state.busy)
    }

    fn fetching(&self) -> std::sync::MutexGuard<'_, Claims> {
        lock(&self.state.fetching)
    }
}

/// Nodes that serve less than before, by the accounts of what they served. Their identities still hold where another service has them.
fn narrowed(
    before: &HashMap<NodeId, Arc<NodeGrant>>,
    now: &HashMap<NodeId, Arc<NodeGrant>>,
) -> Vec<(NodeId, BTreeSet<ServiceAccount>)> {
    let lost = |(node, grant): (&NodeId, &Arc<NodeGrant>)| Some((node.clone(), before.get(node)?.lost(grant)));
    now.iter().filter_map(lost).filter(|(_, accounts)| !accounts.is_empty()).collect()
}

struct Busy<'a> {
    sync: &'a Sync,
    node: &'a NodeId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.sync.busy().remove(self.node);
    }
}

/// Why a comparison ended early; nothing is lost, the next one goes on.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Link(#[from] crate::mesh::peer::LinkError),
    #[error(transparent)]
    Codec(#[from] certs::codec::CodecError),
    #[error(transparent)]
    Store(#[from] Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_keeps_others_back_for_a_moment_only() {
        let (id, other, now) = (Digest::of(b"1"), Digest::of(b"2"), monotonic());
        let mut claims = Claims::default();
        assert_eq!(claims.take(vec![id], now), [id]);
        assert_eq!(claims.take(vec![id, other], now), [other]);
        assert_eq!(claims.take(vec![id], now + CLAIM), [id]);
        assert_eq!(claims.take(vec![id], now + CLAIM), []);
        claims.release(&[id], now);
        assert_eq!(claims.take(vec![id], now + CLAIM), []);
        claims.release(&[id], now + CLAIM);
        assert_eq!(claims.take(vec![id], now + CLAIM), [id]);
    }
}
