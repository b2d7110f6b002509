//! chitchat behind a trait: the repair path of records. It is not believed, and its liveness is not used. The only
//! room that names it.
//!
//! It sees synthetic addresses made of the members' keys, one magic seed that stands for any open link, and messages
//! that passed [`check`]. A record's sequence is its chitchat version: the signature binds it, so nobody can lift a
//! victim's version out of reach, and a chitchat that starts anew says the same as before.

mod check;
#[cfg(test)]
mod hostile_tests;
mod wire;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use certs::{
    id::{NodeId, TrustDomain},
    sign::PublicKey,
};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, DeletionStatus, Deserializable, FailureDetectorConfig,
    Serializable, VersionedValue,
    transport::{Socket, Transport},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::sync::{mpsc, watch};

use crate::{
    brief,
    record::{Section, SignedRecord},
};
pub use check::POOL;
use check::{Given, Roster};

/// Payloads in and out that wait; what overflows is dropped, the next round says it again.
const QUEUE: usize = 256;
/// How long a silent member's state is kept in chitchat.
const GRACE: Duration = Duration::from_secs(15 * 60);
/// Heartbeats of a member that chitchat remembers, 8 bytes each, for a judgement that nobody asks for.
const HEARTBEATS: usize = 8;
/// Pause before a chitchat that failed is started anew.
const RESTART: Duration = Duration::from_secs(1);
/// The least that a chitchat lives which has no room for present runs beside all former ones, in [`REFRESH`]: what it is not given is
/// learned all the same, and said by who signed it.
const FULL_FOR: u32 = 60;
/// Members of whom one payload may say that the peer holds something else.
pub(crate) const DIFFERING: usize = 4;
/// How soon after news a round of its own begins: what it brought is chitchat's own by then.
pub(crate) const NEWS: Duration = Duration::from_millis(5);
/// The least time between two such rounds.
pub(crate) const NEWS_EACH: Duration = Duration::from_millis(250);
/// Peers of such a round.
pub(crate) const NEWS_PEERS: usize = 2;
/// How often peers' signatures are worth checking again.
const REFRESH: Duration = Duration::from_secs(1);

/// Everything that a carrier must know: the engine's words, replaced whole on change.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// This node.
    pub node: NodeId,
    /// All members that may be spoken of, this node included.
    pub members: BTreeMap<NodeId, Known>,
    /// Peers with an open link.
    pub linked: Vec<NodeId>,
}

impl Feed {
    /// The run of this node itself, if it may be spoken of.
    fn own_run(&self) -> Option<brief::Run> {
        self.members.get(&self.node).map(|known| known.run)
    }
}

/// A member as a carrier sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Signs its records.
    pub record_key: PublicKey,
    /// Its run.
    pub generation: u64,
    /// Not known to be dead or gone.
    pub alive: bool,
    /// Its records as held now.
    pub records: Arc<BTreeMap<Section, Arc<SignedRecord>>>,
    /// Its run, in short.
    pub(crate) run: brief::Run,
    /// A hash of what the records of this run say.
    pub(crate) content: u128,
    /// The highest sequence of its run.
    pub(crate) version: u64,
}

impl Known {
    /// A member of this key in this run.
    #[must_use]
    pub fn new(
        record_key: PublicKey,
        generation: u64,
        alive: bool,
        records: Arc<BTreeMap<Section, Arc<SignedRecord>>>,
    ) -> Known {
        let (run, content) = (brief::Run::of(&record_key, generation), brief::content(&records, generation));
        let current = records.values().filter(|record| record.generation() == generation);
        let version = current.map(|record| record.sequence()).max().unwrap_or_default();
        Known { record_key, generation, alive, records, run, content, version }
    }
}

/// What a carrier gives to the engine, by [`crate::engine::Event::Gossip`].
#[derive(Debug, Clone, PartialEq)]
pub enum Outgoing {
    /// A payload for a peer.
    Send {
        /// The peer.
        to: NodeId,
        /// The payload.
        bytes: Vec<u8>,
    },
    /// Records whose signatures hold and that the feed lacked.
    Learned(Vec<Arc<SignedRecord>>),
    /// A peer speaks of members, or of runs of theirs, that the feed does not know.
    Unknown {
        /// The peer.
        from: NodeId,
    },
    /// A peer holds something else of a member under the same number: a part is missing here or there, or the member contradicts
    /// itself.
    Differs {
        /// The peer.
        from: NodeId,
        /// The member.
        node: NodeId,
    },
    /// A peer sent what no honest peer sends; it was dropped whole.
    Hostile {
        /// The peer.
        from: NodeId,
        /// What it was.
        what: &'static str,
    },
}

/// Carries records between members, eventually: whatever gets lost on faster paths.
pub trait Carrier {
    /// The world changed.
    fn feed(&self, feed: Arc<Feed>);
    /// A payload came from a peer over its link.
    fn deliver(&self, from: &NodeId, bytes: &[u8]);
}

/// How chitchat is set up.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// The mesh; messages of another are dropped.
    pub trust_domain: TrustDomain,
    /// Time between rounds; 1 s.
    pub interval: Duration,
    /// Chooses among open links.
    pub seed: u64,
}

/// The handle to a running chitchat. Dropping it ends the future.
#[derive(Debug)]
pub struct Gossip {
    feed: watch::Sender<Option<Arc<Feed>>>,
    incoming: mpsc::Sender<(NodeId, Vec<u8>)>,
}

impl Gossip {
    /// Gives the handle, what it says (a bounded queue: what overflows is dropped), and the future to run: critical,
    /// it starts chitchat anew whenever that ends or panics, and returns once the handle is dropped.
    pub fn start(config: GossipConfig) -> (Gossip, mpsc::Receiver<Outgoing>, impl Future<Output = ()> + Send + use<>) {
        let (feed, feeds) = watch::channel(None);
        let (incoming, payloads) = mpsc::channel(QUEUE);
        let (outgoing, said) = mpsc::channel(QUEUE);
        let random = StdRng::seed_from_u64(config.seed);
        let run = Run { config, feeds, payloads, outgoing, random, beat: 1 };
        (Gossip { feed, incoming }, said, run.supervise())
    }
}

impl Carrier for Gossip {
    fn feed(&self, feed: Arc<Feed>) {
        self.feed.send_replace(Some(feed));
    }

    fn deliver(&self, from: &NodeId, bytes: &[u8]) {
        if self.incoming.try_send((from.clone(), bytes.to_vec())).is_err() {
            tracing::debug!(node = %from, "gossip queue is full, payload dropped");
        }
    }
}

struct Run {
    config: GossipConfig,
    feeds: watch::Receiver<Option<Arc<Feed>>>,
    payloads: mpsc::Receiver<(NodeId, Vec<u8>)>,
    outgoing: mpsc::Sender<Outgoing>,
    random: StdRng,
    /// Stands in for every living member's heartbeat.
    beat: u64,
}

/// Why one chitchat ended.
enum Ended {
    /// The handle was dropped.
    Closed,
    /// It has known as many former runs of members as it can for a while.
    Full,
    /// This node goes on under another generation.
    Rerun,
    /// It failed or panicked.
    Failed(String),
}

impl Run {
    async fn supervise(mut self) {
        loop {
            let first = self.feeds.wait_for(Option::is_some).await.ok().and_then(|feed| feed.clone());
            let Some(feed) = first else { return };
            match self.once(feed).await {
                Ended::Closed => return,
                Ended::Full => tracing::debug!("gossip knows too many former runs, starting it anew"),
                Ended::Rerun => tracing::debug!("gossip starts anew under a new generation of this node"),
                Ended::Failed(error) => {
                    tracing::warn!(%error, "gossip ended, starting it anew");
                    tokio::time::sleep(RESTART).await;
                }
            }
        }
    }

    async fn once(&mut self, feed: Arc<Feed>) -> Ended {
        let (to_chitchat, inbox) = mpsc::channel(QUEUE);
        let (outbox, mut from_chitchat) = mpsc::channel(QUEUE);
        let wire = Wire(Mutex::new(Some(Ends { inbox, outbox })));
        let Some(chitchat) = chitchat_config(&self.config, &feed) else {
            return Ended::Failed("this node is not in its own feed".to_owned());
        };
        let handle = match chitchat::spawn_chitchat(chitchat, Vec::new(), &wire).await {
            Ok(handle) => Running(handle),
            Err(error) => return Ended::Failed(error.to_string()),
        };
        let run = feed.own_run();
        let (mut roster, mut given) = (Roster::new(feed), Given::default());
        given.meet(&roster);
        remind(&handle.0, &roster, &mut given).await;
        say(&handle.0, &roster).await;
        let (mut news, mut each) = (false, tokio::time::interval(NEWS_EACH));
        each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut refresh, mut age) = (tokio::time::interval(REFRESH), 0_u32);
        let ended = handle.0.termination_watcher();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                result = &mut ended => {
                    return Ended::Failed(result.err().map_or_else(|| "stopped".to_owned(), |error| error.to_string()));
                }
                changed = self.feeds.changed() => {
                    if changed.is_err() {
                        return Ended::Closed;
                    }
                    if let Some(feed) = self.feeds.borrow_and_update().clone() {
                        if feed.own_run() != run {
                            return Ended::Rerun;
                        }
                        roster = Roster::new(feed);
                        given.meet(&roster);
                    }
                    news |= say(&handle.0, &roster).await;
                }
                payload = self.payloads.recv() => {
                    let Some((from, bytes)) = payload else { return Ended::Closed };
                    news |= self.receive(&roster, &mut given, &from, &bytes, &to_chitchat);
                }
                // Begins anew with whatever else happens: who is told more than that has no need of haste.
                () = async { tokio::time::sleep(NEWS).await; each.tick().await; }, if news => {
                    news = false;
                    // Whoever ended chitchat is noticed above.
                    (0..NEWS_PEERS).for_each(|_| drop(handle.0.gossip(check::ANY)));
                }
                Some((to, bytes)) = from_chitchat.recv() => self.send(&roster, &mut given, to, &bytes),
                _ = refresh.tick() => {
                    if given.refresh() {
                        given.meet(&roster);
                    }
                    age = age.saturating_add(1);
                    if given.is_full() && age >= FULL_FOR {
                        return Ended::Full;
                    }
                }
            }
        }
    }

    /// True if it brought news beyond signs of life: others shall have them before the next round.
    fn receive(
        &mut self,
        roster: &Roster,
        given: &mut Given,
        from: &NodeId,
        bytes: &[u8],
        chitchat: &mpsc::Sender<(SocketAddr, ChitchatMessage)>,
    ) -> bool {
        let Some(address) = roster.address_of(from) else {
            self.tell(Outgoing::Unknown { from: from.clone() });
            return false;
        };
        self.beat += 1;
        let passed = match roster.check(&self.config.trust_domain, from, bytes, self.beat, given) {
            Ok(passed) => passed,
            Err(what) => {
                self.tell(Outgoing::Hostile { from: from.clone(), what });
                return false;
            }
        };
        let news = passed.learned.iter().any(|record| record.section() != Section::TABLE);
        if !passed.learned.is_empty() {
            self.tell(Outgoing::Learned(passed.learned));
        }
        if passed.unknown {
            self.tell(Outgoing::Unknown { from: from.clone() });
        }
        for node in passed.differ.into_iter().take(DIFFERING) {
            self.tell(Outgoing::Differs { from: from.clone(), node });
        }
        match ChitchatMessage::deserialize(&mut passed.message.as_slice()) {
            // A full queue drops the message: the next round says it again.
            Ok(message) => drop(chitchat.try_send((address, message))),
            Err(error) => tracing::warn!(%error, "a checked gossip message was not readable"),
        }
        news
    }

    fn send(&mut self, roster: &Roster, given: &mut Given, to: SocketAddr, message: &[u8]) {
        // In a sparse mesh chitchat mostly picks members without a link: any other will do to begin with.
        let any = to == check::ANY || wire::opens(message) && roster.at(&to).is_none();
        let peer = if any { roster.feed.linked.choose(&mut self.random) } else { roster.at(&to) };
        let Some(peer) = peer else { return };
        let (peer, salt) = (peer.clone(), self.random.random());
        match roster.trim(message, given) {
            Ok(message) => self.tell(Outgoing::Send { to: peer, bytes: roster.pack(message, salt) }),
            Err(error) => tracing::warn!(error, "a gossip message of this node was not readable"),
        }
    }

    fn tell(&self, outgoing: Outgoing) {
        if self.outgoing.try_send(outgoing).is_err() {
            tracing::debug!("gossip's queue to the engine is full, dropped");
        }
    }
}

/// Gives a new chitchat what the feed holds of the others, so that its peers need not say it again.
async fn remind(handle: &ChitchatHandle, roster: &Roster, given: &mut Given) {
    handle
        .with_chitchat(|chitchat| {
            for (id, known) in roster.others() {
                let current = known.records.values().filter(|record| record.generation() == id.generation);
                // Two under one number are a lie that the ledger finds; chitchat would panic of it.
                let current: BTreeMap<u64, _> = current.map(|record| (record.sequence(), record)).collect();
                let values = current.into_iter().map(|(version, record)| {
                    let value = VersionedValue { value: check::value(record), version, status: DeletionStatus::Set };
                    (record.section(), value)
                });
                let taken = values.filter(|(section, value)| given.takes(&id, *section, value.value.len()));
                let values: Vec<_> = taken.map(|(section, value)| (check::key(section), value)).collect();
                let Some(highest) = values.last().map(|(_, value)| value.version) else { continue };
                let id = ChitchatId::new(id.name, id.generation, id.address);
                chitchat.reset_node_state_if_update(&id, values.into_iter(), highest, 0);
            }
        })
        .await;
}

fn chitchat_config(config: &GossipConfig, feed: &Feed) -> Option<ChitchatConfig> {
    let own = feed.members.get(&feed.node)?;
    let address = check::address(&own.record_key);
    let failure_detector_config = FailureDetectorConfig {
        dead_node_grace_period: GRACE,
        sampling_window_size: HEARTBEATS,
        ..FailureDetectorConfig::default()
    };
    Some(ChitchatConfig {
        chitchat_id: ChitchatId::new(check::name(&own.record_key), own.generation, address),
        cluster_id: config.trust_domain.to_string(),
        gossip_interval: config.interval,
        listen_addr: address,
        seed_nodes: vec![check::ANY.to_string()],
        failure_detector_config,
        marked_for_deletion_grace_period: GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
    })
}

/// Says what the feed holds of this node, in the order of its sequences, each under its own as version. True if that is more than a sign
/// of life.
async fn say(handle: &ChitchatHandle, roster: &Roster) -> bool {
    let Some(own) = roster.feed.members.get(&roster.feed.node) else { return false };
    let mut records: Vec<&Arc<SignedRecord>> = own.records.values().collect();
    records.sort_by_key(|record| record.sequence());
    handle
        .with_chitchat(|chitchat| {
            let state = chitchat.self_node_state();
            let mut news = false;
            for record in &records {
                if record.generation() == own.generation && record.sequence() > state.max_version() {
                    news |= record.section() != Section::TABLE;
                    state.set_max_version(record.sequence() - 1);
                    state.set(check::key(record.section()), check::value(record));
                }
            }
            news
        })
        .await
}

/// Ends a chitchat together with the one who runs it.
struct Running(ChitchatHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// chitchat's transport: it only enqueues, because a slow send would stall all of chitchat.
struct Wire(Mutex<Option<Ends>>);

struct Ends {
    inbox: mpsc::Receiver<(SocketAddr, ChitchatMessage)>,
    outbox: mpsc::Sender<(SocketAddr, Vec<u8>)>,
}

#[async_trait::async_trait]
impl Transport for Wire {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        ends.map(|ends| Box::new(ends) as Box<dyn Socket>).ok_or_else(|| anyhow::anyhow!("opened twice"))
    }
}

#[async_trait::async_trait]
impl Socket for Ends {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        // Written here, in chitchat's task: should its writer panic, its supervisor sees it.
        drop(self.outbox.try_send((to, message.serialize_to_vec())));
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        self.inbox.recv().await.ok_or_else(|| anyhow::anyhow!("gossip was stopped"))
    }
}

#[cfg(test)]
mod tests;
