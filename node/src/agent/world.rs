//! The one writer of the snapshot: policy and members come in, the newest world goes out.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use certs::{
    id::{NodeId, TrustDomain},
    verify::{Authority, KnownKey, Peer},
};
use membership::{
    engine::Change,
    view::{Member, View},
};
use policy::{compile::Compiled, history::State};
use tokio::sync::watch;

use super::{
    error::{Error, fail},
    fold::{self, Before},
    outside,
};
use crate::{
    balance::rate::Limits,
    clock,
    lock::lock,
    snapshot::{Current, ForeignServices, Services, Snapshot, StatsTable, Trouble},
    tasks::Tasks,
};

/// What the snapshot is made of, and who may read it.
pub struct World {
    trust_domain: TrustDomain,
    node: NodeId,
    current: Current,
    view: ArcSwap<View>,
    /// Shared with TLS: whom to believe, swapped before the snapshot says so.
    authority: Arc<ArcSwap<Authority>>,
    stats: Arc<StatsTable>,
    /// What was last folded of members; nothing while it is folded, so that after a panic all is folded anew. Held for each change of the
    /// snapshot, and by nobody who compiles: membership waits for it.
    folding: Mutex<Before>,
    /// Taken while `folding` is held.
    outside: Mutex<Outside>,
    changes: watch::Sender<u64>,
    fatal: Mutex<Option<Error>>,
    keys: Mutex<Keys>,
}

/// What endpoints of ServiceEntries are made of, and what is not as their documents say.
#[derive(Default)]
struct Outside {
    /// Where this node listens beside its data plane.
    listeners: Vec<SocketAddr>,
    facts: outside::Facts,
    troubles: Vec<Trouble>,
}

/// Keys by node, as first seen in each epoch.
#[derive(Default)]
struct Keys {
    /// Nobody is forgotten: who goes away and comes back in the same epoch must show the same keys, and so must whoever holds its name
    /// after a `policy revert`. Bounded by the names that operators granted, for a path holds beside a NodeGrant only; the head of that
    /// changeset stays for ever as well, and is larger.
    known: HashMap<NodeId, KnownKey>,
    news: bool,
}

impl World {
    /// Begins with the policy and the keys of nodes that the store holds.
    pub fn new(trust_domain: &TrustDomain, node: &NodeId, state: Arc<State>, known: HashMap<NodeId, KnownKey>) -> Self {
        let authority = Arc::new(Authority { known_keys: known.clone(), ..state.authority(trust_domain) });
        let first = Snapshot {
            trust_domain: trust_domain.clone(),
            node: node.clone(),
            compiled: Arc::new(Compiled::build(&state, None)),
            services: Arc::new(Services::default()),
            foreign: Arc::default(),
            state,
            authority: authority.clone(),
            limits: Arc::new(Limits::new(rand::random())),
            token_keys: Arc::default(),
        };
        let world = Self {
            trust_domain: trust_domain.clone(),
            node: node.clone(),
            current: Current::new(first),
            view: ArcSwap::from_pointee(View::default()),
            authority: Arc::new(ArcSwap::new(authority)),
            stats: Arc::default(),
            folding: Mutex::default(),
            outside: Mutex::default(),
            changes: watch::Sender::new(0),
            fatal: Mutex::default(),
            keys: Mutex::new(Keys { known, news: false }),
        };
        world.refold();
        world
    }

    /// Notes the keys of a peer whose path holds: within an epoch the first ones stay, and others are believed no more,
    /// so that a stolen enroller cannot take a name that is in use.
    pub fn saw(&self, peer: &Peer) {
        clock::observe(peer.not_before);
        let Peer { epoch, ca_key, record_key, .. } = *peer;
        self.heard(&peer.node, KnownKey { epoch, ca_key, record_key });
    }

    /// Notes the keys of a node whose path holds, whoever it was that showed it.
    fn heard(&self, node: &NodeId, key: KnownKey) {
        let mut keys = self.keys();
        if keys.known.get(node).is_none_or(|known| known.epoch < key.epoch) {
            keys.known.insert(node.clone(), key);
            keys.news = true;
        }
    }

    /// The keys seen, if there are new ones since the last call.
    pub fn new_keys(&self) -> Option<HashMap<NodeId, KnownKey>> {
        let mut keys = self.keys();
        std::mem::take(&mut keys.news).then(|| keys.known.clone())
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, Keys> {
        lock(&self.keys)
    }

    /// The place that requests read.
    pub fn current(&self) -> &Current {
        &self.current
    }

    /// Members as last seen.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Whom TLS believes.
    pub fn authority(&self) -> &Arc<ArcSwap<Authority>> {
        &self.authority
    }

    /// Counters of endpoints.
    pub fn stats(&self) -> &Arc<StatsTable> {
        &self.stats
    }

    /// Wakes on every change of policy or members, those that requests do not see included.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes a new View; requests get a new snapshot only if endpoints changed.
    pub fn view_changed(&self, view: Arc<View>, changes: &[Change]) {
        self.view.store(view.clone());
        // Of most nodes of a large mesh records are all that is ever seen.
        for change in changes {
            if let Change::Alive(node) | Change::Member(node) = change
                && let Some(member) = view.member(node)
            {
                let Member { epoch, ca_key, record_key, .. } = **member;
                self.heard(node, KnownKey { epoch, ca_key, record_key });
            }
        }
        if changes.iter().any(concerns_requests) {
            let mut folding = lock(&self.folding);
            let mut before = std::mem::take(&mut *folding);
            let services = fold::services(&view, &self.node, &self.stats, clock::uptime(), &mut before);
            *folding = before;
            let last = self.current.load();
            let foreign = self.foreign(&last.compiled, &services, Some(&last.foreign));
            self.current.store(Arc::new(Snapshot { services, foreign, ..Snapshot::clone(&last) }));
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// Shows a View in which at most round trips are new: nobody acts on them, and they are no change.
    pub fn show(&self, view: &Arc<View>) {
        if !Arc::ptr_eq(&self.view.load(), view) {
            self.view.store(view.clone());
        }
    }

    /// Takes the policy that `fold` gives, as [`Self::state_changed`] does. To fold and to compile a large mesh's takes seconds: both happen
    /// beside the runtime.
    pub async fn follow(
        self: &Arc<Self>,
        tasks: &Tasks,
        fold: impl FnOnce() -> Arc<State> + Send + 'static,
    ) -> Option<Arc<Authority>> {
        let world = self.clone();
        tasks.blocking(move || world.state_changed(fold())).await.expect("no code panics while it folds or compiles")
    }

    /// Takes new policy; the caller has one at a time. Gives the authority if it changed: then live connections are to be judged anew.
    pub(super) fn state_changed(&self, state: Arc<State>) -> Option<Arc<Authority>> {
        let last = self.current.load();
        // Who is evicted is let in no more from here on: to compile takes its time.
        let known_keys = self.keys().known.clone();
        let authority = Authority { known_keys, ..state.authority(&self.trust_domain) };
        let changed = authority.known_keys != last.authority.known_keys
            || authority.roots != last.authority.roots
            || authority.grants != last.authority.grants
            || authority.revocations != last.authority.revocations;
        let authority = if changed { Arc::new(authority) } else { last.authority.clone() };
        if changed {
            self.authority.store(authority.clone());
        }
        // Nobody else changes what is compiled, so that it need not be locked: members come and go meanwhile.
        let compiled = if Arc::ptr_eq(&state, &last.state) {
            last.compiled.clone()
        } else {
            Arc::new(Compiled::build(&state, Some(&last.compiled)))
        };
        let _one = lock(&self.folding);
        let last = self.current.load();
        let foreign = self.foreign(&compiled, &last.services, None);
        let next = Snapshot { compiled, foreign, state, authority: authority.clone(), ..Snapshot::clone(&last) };
        self.current.store(Arc::new(next));
        self.changes.send_modify(|count| *count += 1);
        changed.then_some(authority)
    }

    /// Takes what a name resolves to, or why it does not.
    pub(super) fn resolved(&self, name: &Arc<str>, result: Result<Vec<IpAddr>, String>) {
        let changed = {
            let mut outside = self.outside();
            let answer = outside.facts.answers.entry(name.clone()).or_default();
            let before = answer.clone();
            match result {
                Ok(addresses) => *answer = outside::Answer { addresses, failure: None },
                Err(failure) => answer.failure = Some(failure),
            }
            before != *answer
        };
        if changed {
            self.refold();
        }
    }

    /// Takes where this node listens beside its data plane: nobody is led there.
    pub fn set_listeners(&self, listeners: Vec<SocketAddr>) {
        self.outside().listeners = listeners;
        self.look_at_own_ports();
    }

    /// Looks where this node listens now and which addresses its machine has: gateways open their ports at any time.
    pub(super) fn look_at_own_ports(&self) {
        let changed = {
            let mut outside = self.outside();
            let doors = self.current.doors();
            let mut listeners = outside.listeners.clone();
            listeners.extend(doors.open.iter().map(|door| door.listen));
            let captures = self.current.captures();
            listeners.extend(captures.listen.iter().chain(&captures.incoming).chain(self.current.local_ports().iter()));
            let services = self.current.names().iter().map(|(_, address)| address.into()).collect();
            let own = outside::OwnPorts::of(listeners, services);
            let changed = outside.facts.own != own;
            outside.facts.own = own;
            changed
        };
        if changed {
            let own = self.own_ports();
            self.current.lookups().judge(|wanted, address| !own.contains((address, wanted.port).into()));
            self.refold();
        }
    }

    /// Where nobody is led.
    pub(super) fn own_ports(&self) -> outside::OwnPorts {
        self.outside().facts.own.clone()
    }

    /// What is not as ServiceEntries say.
    pub(super) fn outside_troubles(&self) -> Vec<Trouble> {
        self.outside().troubles.clone()
    }

    /// Makes a snapshot of what is known, where any document speaks of endpoints outside.
    fn refold(&self) {
        let _one = lock(&self.folding);
        let last = self.current.load();
        if last.compiled.entries().all().is_empty() {
            return;
        }
        let foreign = self.foreign(&last.compiled, &last.services, None);
        self.current.store(Arc::new(Snapshot { foreign, ..Snapshot::clone(&last) }));
        self.changes.send_modify(|count| *count += 1);
    }

    /// The services of ServiceEntries; `before` stands where only members changed, and no selector looks at them.
    fn foreign(
        &self,
        compiled: &Compiled,
        services: &Services,
        before: Option<&Arc<ForeignServices>>,
    ) -> Arc<ForeignServices> {
        let entries = compiled.entries();
        let looks = entries.all().iter().any(|made| made.entry.selector.is_some());
        if let Some(before) = before.filter(|_| !looks) {
            return before.clone();
        }
        let mut outside = self.outside();
        let names = outside::wanted(entries, services, &self.node);
        outside.facts.answers.retain(|name, _| names.contains_key(name));
        let (foreign, troubles) = outside::foreign(entries, services, &outside.facts, &self.stats, clock::uptime());
        outside.troubles = troubles;
        self.stats.keep_outside();
        Arc::new(foreign)
    }

    fn outside(&self) -> std::sync::MutexGuard<'_, Outside> {
        lock(&self.outside)
    }

    /// What policy says that a node takes.
    pub fn limits(&self) -> policy::kinds::Limits {
        self.current.read().compiled.config().limits
    }

    /// Notes why the process must end.
    pub fn fail(&self, code: &'static str, message: &str, hint: &str) {
        let mut fatal = lock(&self.fatal);
        fatal.get_or_insert_with(|| fail(code, message, hint));
    }

    /// Why the process must end, if so.
    pub fn fatal(&self) -> Option<Error> {
        lock(&self.fatal).clone()
    }
}

fn concerns_requests(change: &Change) -> bool {
    match change {
        Change::Suspect(_) | Change::Policy(_) => false,
        Change::Alive(_)
        | Change::Dead(_)
        | Change::Left(_)
        | Change::Evicted(_)
        | Change::Gone(_)
        | Change::Member(_)
        | Change::Status(_)
        | Change::Services(_)
        | Change::Health(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use certs::{grant::Grant, id::SpiffeId, sign::SigningKey};

    use super::*;
    use crate::testing;

    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

    fn world() -> (World, Arc<State>) {
        let state = testing::state("");
        (World::new(&testing::trust_domain(), &NodeId::new("a").unwrap(), state.clone(), HashMap::new()), state)
    }

    fn peer(epoch: u64, key: &[u8]) -> Peer {
        let node = NodeId::new("b").unwrap();
        Peer {
            id: SpiffeId::node(testing::trust_domain(), node.clone()),
            leaf: certs::sign::Digest([0; 32]),
            grant: Grant::enroller(node.clone(), epoch),
            node,
            epoch,
            record_key: SigningKey::generate().public(),
            ca_key: certs::sign::Digest::of(key),
            not_before: 0,
            not_after: 1,
        }
    }

    #[test]
    fn the_first_key_of_an_epoch_stays_and_a_higher_epoch_takes_over() {
        let (world, state) = world();
        assert!(world.new_keys().is_none() && world.state_changed(state.clone()).is_none());
        world.saw(&peer(1, b"first"));
        world.saw(&peer(1, b"second"));
        let other_record_key = Peer { record_key: SigningKey::generate().public(), ..peer(1, b"first") };
        world.saw(&other_record_key);
        let known = |keys: &HashMap<NodeId, KnownKey>| keys[&NodeId::new("b").unwrap()];
        let first = known(&world.new_keys().unwrap());
        assert_eq!((first.epoch, first.ca_key), (1, certs::sign::Digest::of(b"first")));
        assert_ne!(first.record_key, other_record_key.record_key);
        let authority = world.state_changed(state.clone()).unwrap();
        assert_eq!(known(&authority.known_keys).ca_key, first.ca_key);
        assert!(world.new_keys().is_none() && world.state_changed(state).is_none());
        world.saw(&peer(2, b"third"));
        assert_eq!(known(&world.new_keys().unwrap()).epoch, 2);
    }

    #[tokio::test]
    async fn members_come_and_go_while_policy_is_folded() {
        let (world, state) = world();
        let (world, tasks) = (Arc::new(world), Tasks::new());
        let (told, heard) = std::sync::mpsc::sync_channel(1);
        let fold = move || {
            heard.recv_timeout(PATIENCE).expect("the only thread of the runtime is held up");
            state
        };
        let members = async {
            world.view_changed(Arc::default(), &[Change::Gone(NodeId::new("b").unwrap())]);
            told.send(()).unwrap();
        };
        tokio::join!(world.follow(&tasks, fold), members);
    }

    #[test]
    fn members_come_and_go_while_policy_is_compiled() {
        let (world, before) = world();
        let next = testing::state("");
        let state = || world.current.load().state.clone();
        std::thread::scope(|scope| {
            let membership = lock(&world.folding);
            let taken = scope.spawn(|| world.state_changed(next.clone()));
            // The first that others see of it: who is let in, before anything is compiled.
            let (begun, roots) = (clock::monotonic(), state().authority(&world.trust_domain).roots);
            while world.authority.load().roots == roots {
                assert!(begun.elapsed() < PATIENCE, "who compiles waits for membership, and membership for it");
                std::thread::yield_now();
            }
            assert!(Arc::ptr_eq(&state(), &before));
            drop(membership);
            assert!(taken.join().unwrap().is_some());
        });
        assert!(Arc::ptr_eq(&state(), &next));
        let compiled = world.current.load().compiled.clone();
        assert!(world.state_changed(next).is_none());
        assert!(Arc::ptr_eq(&compiled, &world.current.load().compiled), "it is not compiled again");
    }

    #[test]
    fn the_first_reason_to_end_stays() {
        let (world, _) = world();
        assert_eq!(world.fatal(), None);
        world.fail("clone", "first", "");
        world.fail("clone", "second", "");
        assert_eq!(world.fatal().unwrap().message, "first");
    }
}
