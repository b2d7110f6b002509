//! The one task that owns the membership engine: links in and out, records told and heard, judgements acted on.

mod queue;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use certs::id::NodeId;
use membership::{
    engine::{Change, Effect, Engine, Event, LinkId, Notice},
    gossip::{Carrier, Gossip, Outgoing},
    statement::Statement,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, mpsc, watch},
};

pub use queue::{Input, Members, QUEUE};

use super::{
    event::{self, Events},
    hearing::Hearing,
    links::Links,
    store::Store,
    sync::Requests,
    world::World,
};
use crate::{
    clock::{self, Clock, Uptime},
    mesh::{
        Error, Mesh,
        peer::{PeerLink, PeerNetwork},
    },
    tasks::Tasks,
};

/// Links with one node at a time: one is enough, a second stands for a moment where both dial, a third until it is noticed that its process
/// is gone. Beyond that the one whose peer has been silent for longest ends. Each may hold 40 MiB of what its peer says or does not read.
const LINKS_EACH: usize = 3;
/// Why links with a node end that contradicted itself: by this word it knows.
const CONTRADICTED: &str = "it signed two different truths: it is ignored until it is invited anew";
/// Dials under way at a time.
const DIALS: usize = 64;

/// Everything that the engine's task touches.
pub struct Task {
    /// The engine.
    pub engine: Engine,
    /// Its queue.
    pub inputs: mpsc::Receiver<Input>,
    /// The way back to it.
    pub members: Members,
    /// The repair path and what it says.
    pub gossip: (Gossip, mpsc::Receiver<Outgoing>),
    /// Where links come from.
    pub network: PeerNetwork,
    /// Whose data connections are closed.
    pub mesh: Mesh,
    /// Open links.
    pub links: Links,
    /// What the View is folded into.
    pub world: Arc<World>,
    /// Answers peers' requests.
    pub requests: Requests,
    /// Where last-known members go.
    pub store: Arc<Store>,
    /// Told when a peer's policy changed.
    pub policy: Arc<Notify>,
    /// Where statements of the moment go.
    pub hearing: Hearing,
    /// What people may watch.
    pub events: Arc<Events>,
    /// Whom this process has seen alive.
    pub met: Met,
    /// Owner of the tasks of links.
    pub tasks: Tasks,
    /// Where peers' requests are answered: links and members do not wait for it.
    pub control: Handle,
    /// The clock.
    pub clock: Clock,
}

/// Whom this process has seen alive, and nothing worse since than doubt.
#[derive(Debug, Default)]
pub struct Met(BTreeSet<NodeId>);

impl Met {
    /// Takes in a change; true if its node had been seen alive before it.
    fn follow(&mut self, change: &Change) -> bool {
        match change {
            Change::Alive(node) => !self.0.insert(node.clone()),
            Change::Dead(node) | Change::Left(node) | Change::Evicted(node) | Change::Gone(node) => self.0.remove(node),
            Change::Suspect(node) => self.0.contains(node),
            Change::Policy(_) | Change::Member(_) | Change::Status(_) | Change::Services(_) | Change::Health(_) => {
                false
            }
        }
    }
}

impl Task {
    /// Runs until the process ends.
    pub async fn run(mut self) {
        let (persist, persisted) = watch::channel(Vec::new());
        self.tasks.critical("members-disk", keep_members(self.store.clone(), persisted, self.tasks.clone()));
        let dials = Arc::new(Semaphore::new(DIALS));
        self.step(Event::Tick, &persist, &dials);
        let mut beat = Beat::default();
        loop {
            let pause = self.engine.pause();
            match beat.or_tick(pause, self.next()).await {
                None => {
                    // It judges by what has come, not by what was read: much of what waits is a sign of life. What comes meanwhile does
                    // not put it off.
                    for _ in 0..self.inputs.len() {
                        let Ok(input) = self.inputs.try_recv() else { break };
                        self.take(input, &persist, &dials);
                        tokio::task::consume_budget().await;
                    }
                    self.step(Event::Tick, &persist, &dials);
                }
                Some(Came::Input(Some(input))) => self.take(input, &persist, &dials),
                Some(Came::Link(Some(link))) => self.linked(link, None, &persist, &dials),
                Some(Came::Said(said)) => self.step(Event::Gossip(said), &persist, &dials),
                Some(Came::Input(None)) => return,
                Some(Came::Link(None)) => return self.tasks.stopping().await,
            }
        }
    }

    async fn next(&mut self) -> Came {
        tokio::select! {
            input = self.inputs.recv() => Came::Input(input),
            link = self.network.accept() => Came::Link(link),
            Some(said) = self.gossip.1.recv() => Came::Said(said),
        }
    }

    fn take(&mut self, input: Input, persist: &watch::Sender<Vec<u8>>, dials: &Arc<Semaphore>) {
        match input {
            Input::Event(event) => self.step(event, persist, dials),
            Input::Said(event, share, came) => {
                // What waited here may be somebody's sign of life: its silence was this node's.
                self.engine.waited(clock::monotonic().duration_since(came));
                self.step(event, persist, dials);
                drop(share);
            }
            Input::Linked(link, dialled) => self.linked(link, dialled, persist, dials),
            Input::Speaking(told) => drop(told.send(self.engine.speaking().cloned().collect())),
        }
    }

    fn linked(
        &mut self,
        link: PeerLink,
        dialled: Option<SocketAddr>,
        persist: &watch::Sender<Vec<u8>>,
        dials: &Arc<Semaphore>,
    ) {
        let (id, node) = (self.links.number(), link.peer().node.clone());
        let mut standing = self.links.of(&node);
        standing.retain(|link| !link.is_closed());
        standing.sort_by_key(PeerLink::silence);
        standing.iter().skip(LINKS_EACH - 1).for_each(|link| link.close("another link takes its place"));
        tracing::debug!(peer = %node, remote = %link.remote(), carrier = link.carrier(), "linked");
        self.world.saw(link.peer());
        self.policy.notify_one();
        self.links.insert(id, link.clone());
        self.tasks.detach("peer-link", hear(link.clone(), id, self.members.clone(), self.links.clone()));
        let there = self.control.enter();
        self.tasks.detach("peer-requests", self.requests.clone().serve(link));
        drop(there);
        self.step(Event::LinkUp { node, link: id, dialled }, persist, dials);
    }

    fn step(&mut self, event: Event, persist: &watch::Sender<Vec<u8>>, dials: &Arc<Semaphore>) {
        if let Event::LinkDown { node, link } = &event
            && let Some(ended) = self.links.remove(*link, self.clock.now())
            && ended.is_lost()
        {
            self.mesh.retire_node(node);
        }
        if let Event::Tick = &event {
            self.links.sweep(Uptime::now(), |node| self.engine.latest(node));
        }
        let effects = self.engine.handle(event, self.clock.now());
        let mut changed = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { link, lane, bytes, .. } => self.links.send(link, lane, &bytes),
                Effect::Dial { node, address } => self.dial(node, address, dials.clone()),
                Effect::CloseLink { link, .. } => {
                    if let Some(link) = self.links.remove(link, self.clock.now()) {
                        link.close("superfluous");
                    }
                }
                Effect::Close { node } => {
                    self.mesh.close_node(&node);
                    let why = if self.is_quarantined(&node) { CONTRADICTED } else { "no longer a member" };
                    self.links.of(&node).iter().for_each(|link| link.close(why));
                }
                Effect::Changed(change) => changed.push(change),
                Effect::Persist(bytes) => drop(persist.send(bytes)),
                Effect::Generation(generation) => {
                    if !self.rerun(generation) {
                        return;
                    }
                }
                Effect::Remembered(policy) => self.requests.sync.rollback.remembered(&policy),
                Effect::Deliver { from, bytes } => self.gossip.0.deliver(&from, &bytes),
                Effect::Feed => self.gossip.0.feed(Arc::new(self.engine.feed())),
                Effect::Heard { node, statement: Statement::Suspicions(parts) } => {
                    let accused = parts.iter().flat_map(|part| part.iter());
                    self.links.accusations().heard(node, accused, self.clock.now());
                }
                Effect::Heard { node, statement } => self.hearing.heard(node, statement),
                Effect::Lost { node, why } => {
                    self.links.accusations().lost(&node);
                    self.hearing.lost(&node, why);
                }
                Effect::Notice(notice) => self.notice(notice),
            }
        }
        if changed.is_empty() {
            self.world.show(self.engine.view());
        } else {
            self.world.view_changed(self.engine.view().clone(), &changed);
            changed.into_iter().for_each(|change| self.act(change));
        }
    }

    /// What a change of the View asks for beyond the snapshot, which has it already.
    fn act(&mut self, change: Change) {
        let was_met = self.met.follow(&change);
        let now = self.clock.now();
        let note = |kind, node: &NodeId, what: &str| self.events.note(now, kind, node, format!("{node} {what}"));
        match change {
            Change::Alive(node) if node == *self.requests.sync.node() => {}
            Change::Alive(node) => note(event::Kind::MemberAlive, &node, "is alive"),
            Change::Suspect(node) if was_met => note(event::Kind::MemberSuspect, &node, "is being checked"),
            // Remembered or heard of, and not checked yet: nothing is amiss.
            Change::Suspect(_) => {}
            Change::Dead(node) => {
                self.mesh.close_node(&node);
                note(event::Kind::MemberDead, &node, "is dead");
            }
            // It finishes what it has; its own end closes the connections.
            Change::Left(node) if node == *self.requests.sync.node() => {}
            Change::Left(node) => note(event::Kind::MemberLeft, &node, "left"),
            Change::Evicted(node) => {
                self.mesh.close_node(&node);
                note(event::Kind::MemberEvicted, &node, "was evicted");
            }
            Change::Gone(node) => {
                self.mesh.close_node(&node);
                // Of one that contradicted itself the notice says more.
                if !self.is_quarantined(&node) {
                    note(event::Kind::MemberGone, &node, "is no member any more");
                }
            }
            Change::Policy(_) => self.policy.notify_one(),
            Change::Member(_) | Change::Status(_) | Change::Services(_) | Change::Health(_) => {}
        }
    }

    fn is_quarantined(&self, node: &NodeId) -> bool {
        self.engine.view().quarantined().contains_key(node)
    }

    fn dial(&self, node: Option<NodeId>, address: SocketAddr, dials: Arc<Semaphore>) {
        let (network, members) = (self.network.clone(), self.members.clone());
        let links = self.links.clone();
        self.tasks.detach("dial", async move {
            let Ok(_slot) = dials.acquire().await else { return };
            let input = match network.dial(node.as_ref(), address).await {
                Ok(link) => Input::Linked(link, Some(address)),
                Err(error) => {
                    // Once, until it lets this node in again: it is dialled for as long as it is a member.
                    if let Error::Unwelcome { node, .. } = &error
                        && links.refused(node, Uptime::now())
                    {
                        tracing::warn!("{error}");
                    }
                    tracing::debug!(%address, node = node.as_ref().map(NodeId::as_str), "no link: {error}");
                    Input::Event(Event::DialFailed { node, address })
                }
            };
            members.bring(input).await;
        });
    }

    /// Goes on under another generation once that is on disk; false if it cannot be.
    fn rerun(&self, generation: u64) -> bool {
        let what = "this node goes on under another generation: what it said under the last one does not count";
        self.events.note(self.clock.now(), event::Kind::Generation, generation, what);
        tracing::warn!(generation, "{what}: was its data directory or its machine restored, or its clock set back?");
        let stored = self.store.set_generation(generation);
        if let Err(error) = &stored {
            self.world.fail(
                "storage_failed",
                &format!("the generation is not on disk: {error}"),
                "the disk must take it",
            );
            self.tasks.stop();
        }
        stored.is_ok()
    }

    fn notice(&self, notice: Notice) {
        let now = self.clock.now();
        match notice {
            Notice::Clone { generation } => {
                let message = "another process runs with this node's identity; this one stops";
                self.events.note(now, event::Kind::Clone, generation, message);
                self.world.fail("clone", message, "run one copy; invite the other machine under its own name");
                self.tasks.stop();
            }
            Notice::Equivocation { node } => {
                let what = format!("{node} signed two different truths; it is ignored until it is invited anew");
                self.events.note(now, event::Kind::Equivocation, &node, what);
            }
            Notice::Quarantined { node } => {
                let what = format!("{node} signed two different truths before this node started; it is still ignored");
                self.events.note(now, event::Kind::Equivocation, &node, what);
            }
            Notice::Refused(error) => tracing::error!("this node cannot say something of itself: {error}"),
            Notice::Misbehaved { node, what } => tracing::warn!(peer = %node, "a peer misbehaved: {what}"),
        }
    }
}

/// What came from outside the task; nothing where it ended.
enum Came {
    Input(Option<Input>),
    Link(Option<PeerLink>),
    Said(Outgoing),
}

/// When the engine ticks next. What comes in meanwhile may bring that forward, and never puts it off: whoever always has something to say
/// is read between probes and judgements, not in their place.
#[derive(Debug, Default)]
struct Beat(Option<Instant>);

impl Beat {
    /// What comes before the tick of an engine that asks for one after `pause` milliseconds, or nothing: the tick is due.
    async fn or_tick<T>(&mut self, pause: u64, input: impl Future<Output = T>) -> Option<T> {
        let now = clock::monotonic();
        let due = self.due(now, pause);
        if now < due {
            tokio::select! {
                input = input => return Some(input),
                () = tokio::time::sleep_until(due.into()) => {}
            }
        }
        self.0 = None;
        None
    }

    fn due(&mut self, now: Instant, pause: u64) -> Instant {
        let asked = now + Duration::from_millis(pause);
        *self.0.insert(self.0.map_or(asked, |due| due.min(asked)))
    }
}

/// Brings a link's messages, then its end, to the engine.
async fn hear(link: PeerLink, id: LinkId, members: Members, links: Links) {
    let node = link.peer().node.clone();
    while let Some(bytes) = link.recv().await {
        members.said(node.clone(), id, bytes.to_vec()).await;
    }
    let why = link.closed().await;
    tracing::debug!(peer = %node, "link closed: {why}");
    if why == CONTRADICTED && links.ignored(&node, Uptime::now()) {
        tracing::warn!("{node} ignores this node: {why}");
    }
    members.tell(Event::LinkDown { node, link: id }).await;
}

/// Writes last-known members, the newest only.
async fn keep_members(store: Arc<Store>, mut bytes: watch::Receiver<Vec<u8>>, tasks: Tasks) {
    loop {
        let last = tokio::select! {
            changed = bytes.changed() => changed.is_err(),
            () = tasks.stopping() => true,
        };
        // At the end too: what the engine said last is what a lonely start finds.
        if bytes.has_changed().unwrap_or(true) || !last {
            let newest = bytes.borrow_and_update().clone();
            let store = store.clone();
            let written = tokio::task::spawn_blocking(move || store.set_members(&newest)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!("members are not on disk: {error}");
            }
        }
        if last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_never_seen_alive_is_not_suspected() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let mut met = Met::default();
        assert!(!met.follow(&Change::Suspect(node("a"))), "as remembered from an earlier run");
        assert!(!met.follow(&Change::Alive(node("a"))));
        assert!(met.follow(&Change::Suspect(node("a"))), "it was silent");
        assert!(!met.follow(&Change::Suspect(node("b"))), "of whom others tell");
        met.follow(&Change::Left(node("a")));
        assert!(!met.follow(&Change::Suspect(node("a"))), "it comes back");
    }

    #[tokio::test]
    async fn an_engine_ticks_however_much_comes_in() {
        let (mut beat, mut ticks, begin) = (Beat::default(), 0, clock::monotonic());
        while ticks < 10 && begin.elapsed() < Duration::from_secs(20) {
            // It is overdue, and asks anew after each message.
            ticks += usize::from(beat.or_tick(1, std::future::ready(())).await.is_none());
        }
        assert_eq!(ticks, 10);
    }

    #[test]
    fn what_comes_in_never_puts_a_tick_off() {
        let begin = clock::monotonic();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut beat = Beat::default();
        assert_eq!(beat.due(begin, 50), at(50));
        // An engine that is overdue asks for a tick in a millisecond, after each message anew.
        assert!((1..60).map(|now| beat.due(at(now), 50_u64.saturating_sub(now).max(1))).all(|due| due == at(50)));
        // After the tick; something that is due earlier comes in.
        let mut beat = Beat::default();
        assert_eq!((beat.due(at(60), 50), beat.due(at(70), 10), beat.due(at(75), 35)), (at(110), at(80), at(80)));
    }
}
