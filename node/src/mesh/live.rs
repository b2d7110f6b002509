//! The table of live connections to and from other nodes: what is closed when a node is gone, a peer no longer counts,
//! or a certificate ends.

use crate::lock::lock;
use std::{
    collections::{BTreeSet, HashMap},
    future::poll_fn,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use certs::{
    codec::Millis,
    id::{NodeId, ServiceAccount},
    tls::Conversation,
    verify::{Authority, CLOCK_TOLERANCE, Peer, verify},
};
use futures_util::task::AtomicWaker;
use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;

use super::{
    MAX_DATA_CONNECTIONS, Mesh,
    error::{Code, Reset},
};
use crate::clock;
use proven::{Again, Session};

pub(super) mod proven;

/// All live connections of this node, both directions.
#[derive(Debug, Default)]
pub(super) struct Live {
    entries: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    /// Data connections that this node dialled.
    outbound: AtomicUsize,
    dialled: Notify,
    /// Data connections that others dialled, by node.
    inbound: Mutex<HashMap<NodeId, usize>>,
}

/// Leaf, node CA, enroller CA.
type Chain = Arc<[CertificateDer<'static>]>;

#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    chain: Chain,
    kind: Kind,
    handle: Handle,
    retirement: Retirement,
    /// The last minute of the peer's certificate begins, or the last third of a shorter one.
    ends_soon: Millis,
    session: Option<Session>,
    /// Of a data connection that this node dialled.
    again: Option<Again>,
}

/// From when on nothing new begins on a connection; what is under way goes on.
#[derive(Debug, Clone)]
pub(super) struct Retirement {
    /// Wall time.
    at: Arc<AtomicU64>,
    /// DER of the enroller CA under which this node showed itself, where it dialled.
    own: Option<Arc<[u8]>>,
}

impl Retirement {
    /// Of a connection whose certificates, its own among them, hold until `ends`.
    pub(super) fn before(ends: Millis, own: Option<Arc<[u8]>>) -> Retirement {
        Retirement { at: Arc::new(AtomicU64::new(retire_at(ends))), own }
    }

    /// Of a peer link, to which nothing new is ever put off: it ends where it is closed.
    pub(super) fn of_link(mesh: &Mesh) -> Retirement {
        let own = mesh.shared.tls.leaf_rests(&mesh.shared.own).map(|(_, enroller)| enroller);
        Retirement { at: Arc::new(AtomicU64::new(Millis::MAX)), own }
    }

    pub(super) fn has_come(&self, wall: Millis) -> bool {
        self.at.load(Relaxed) <= wall
    }

    /// True for that of the same connection.
    pub(super) fn is(&self, other: &Retirement) -> bool {
        Arc::ptr_eq(&self.at, &other.at)
    }

    /// It has come.
    fn now(&self) {
        self.at.store(0, Relaxed);
    }
}

/// New requests avoid a connection for this long before one of its two certificates ends, milliseconds; for a third of what is
/// left where that is less.
const RETIRE_BEFORE: Millis = 60_000;

/// From when on nothing new begins on a connection whose certificates hold until `ends`: what is under way has the rest. A certificate
/// that was let in although it has ended by this node's clock, which may be wrong, has the tolerance in the place of its life.
fn retire_at(ends: Millis) -> Millis {
    let now = clock::wall();
    let ends = if ends > now { ends } else { ends.saturating_add(CLOCK_TOLERANCE) };
    ends.saturating_sub(RETIRE_BEFORE.min(ends.saturating_sub(now) / 3))
}

/// Which connections an event concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) conversation: Conversation,
    /// True if this node dialled.
    pub(super) outbound: bool,
}

/// A data connection that this node dialled.
pub(super) const OUTBOUND: Kind = Kind { conversation: Conversation::Data, outbound: true };
/// A data connection that another node dialled.
const INBOUND: Kind = Kind { conversation: Conversation::Data, outbound: false };

/// What closes a connection from outside.
#[derive(Debug, Clone)]
pub(super) enum Handle {
    Quic(quinn::Connection),
    Tcp(Arc<Kill>),
}

impl Handle {
    pub(super) fn close(&self, code: Code) {
        match self {
            Handle::Quic(connection) => connection.close(code.varint(), b""),
            Handle::Tcp(kill) => kill.kill(code),
        }
    }
}

/// Keeps a connection in the table.
#[derive(Debug)]
pub(super) struct Guard {
    live: Arc<Live>,
    id: u64,
    counted: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let entry = self.live.lock().remove(&self.id);
        if self.counted {
            self.live.outbound.fetch_sub(1, Relaxed);
        }
        if let Some(entry) = entry.as_ref().filter(|entry| entry.kind == INBOUND) {
            let mut inbound = lock(&self.live.inbound);
            if let Some(open) = inbound.get_mut(&entry.peer.node) {
                *open -= 1;
                if *open == 0 {
                    inbound.remove(&entry.peer.node);
                }
            }
        }
        // Dropped outside the lock: closing may call back.
        drop(entry);
    }
}

impl Live {
    pub(super) fn add(
        self: &Arc<Self>,
        kind: Kind,
        peer: Arc<Peer>,
        chain: Vec<CertificateDer<'static>>,
        handle: Handle,
        retirement: Retirement,
    ) -> Guard {
        let id = self.next.fetch_add(1, Relaxed);
        let counted = kind.outbound && kind.conversation == Conversation::Data;
        if counted {
            self.outbound.fetch_add(1, Relaxed);
            self.dialled.notify_one();
        }
        if kind == INBOUND {
            *lock(&self.inbound).entry(peer.node.clone()).or_default() += 1;
        }
        let session = match &handle {
            Handle::Quic(quic) => Session::of_quic(quic),
            // Whoever has the stream knows.
            Handle::Tcp(_) => None,
        };
        let (ends_soon, chain) = (retire_at(peer.not_after), chain.into());
        let entry = Entry { peer, chain, kind, handle, retirement, ends_soon, session, again: None };
        self.lock().insert(id, entry);
        Guard { live: self.clone(), id, counted }
    }

    /// True if a node has as many data connections to this one as an honest node dials to all.
    pub(super) fn is_crowded_by(&self, node: &NodeId) -> bool {
        lock(&self.inbound).get(node).is_some_and(|open| *open >= MAX_DATA_CONNECTIONS)
    }

    /// Data connections that this node dialled.
    pub(super) fn outbound(&self) -> usize {
        self.outbound.load(Relaxed)
    }

    /// All that are open, whoever they are with.
    pub(super) fn open(&self) -> Vec<(Arc<Peer>, Kind, Handle)> {
        // Counted by whoever asks: nobody who opens or ends a connection waits for that.
        self.lock().values().map(|entry| (entry.peer.clone(), entry.kind, entry.handle.clone())).collect()
    }

    /// Closes the data connections that this node dialled to `node`.
    pub(super) fn close_node(&self, node: &NodeId) -> usize {
        self.close_where(Code::Gone, |entry| entry.kind == OUTBOUND && &entry.peer.node == node)
    }

    /// Of the data connections that this node dialled to `node` closes those to identities of these accounts.
    pub(super) fn close_accounts(&self, node: &NodeId, accounts: &BTreeSet<ServiceAccount>) -> usize {
        self.close_where(Code::Unauthorized, |entry| {
            entry.kind == OUTBOUND
                && &entry.peer.node == node
                && entry.peer.id.account().is_some_and(|account| accounts.contains(account))
        })
    }

    /// Closes what a certificate's end has reached, with the tolerance that handshakes have: what one would let in again is not closed.
    pub(super) fn expire(&self, now: Millis) -> usize {
        self.close_where(Code::Expired, |entry| entry.peer.not_after.saturating_add(CLOCK_TOLERANCE) <= now)
    }

    /// Closes one of the peer links whose certificates end soon, so that it is dialled again by those of now: nodes that began together
    /// would otherwise lose all their links at once, a day later.
    pub(super) fn turn_over(&self, now: Millis) {
        let due = |entry: &&Entry| entry.kind.conversation == Conversation::Peer && entry.ends_soon <= now;
        let first =
            self.lock().values().filter(due).min_by_key(|entry| entry.peer.not_after).map(|entry| entry.handle.clone());
        if let Some(link) = first {
            link.close(Code::Expired);
        }
    }

    /// Closes whatever no longer verifies. Nodes share few chains, so each is judged once, and nobody who opens or ends a connection
    /// waits for that.
    pub(super) fn rejudge(&self, authority: &Authority, now: Millis) -> usize {
        let mut verdicts: HashMap<Chain, bool> = HashMap::new();
        verdicts.extend(self.lock().values().map(|entry| (entry.chain.clone(), true)));
        for (chain, holds) in &mut verdicts {
            *holds = verify(chain, authority, now).is_ok();
        }
        // What came meanwhile is judged at the next look.
        self.close_where(Code::Unauthorized, |entry| verdicts.get(&entry.chain) == Some(&false))
    }

    /// Lets nothing new begin on data connections that rest on an enroller CA which is `leaving`. Closes one of the peer links on which
    /// this node showed such a CA, so that it is dialled again; with `theirs` also one where the peer did. Gives how many connections
    /// still rest on one.
    pub(super) fn retire(&self, mut leaving: impl FnMut(&[u8]) -> bool, theirs: bool) -> usize {
        let mut verdicts: HashMap<Vec<u8>, bool> = HashMap::new();
        let mut judged = |enroller: &[u8]| match verdicts.get(enroller) {
            Some(verdict) => *verdict,
            None => *verdicts.entry(enroller.to_vec()).or_insert(leaving(enroller)),
        };
        let (mut resting, mut link) = (0, None);
        for entry in self.lock().values_mut() {
            let own = entry.retirement.own.as_ref().is_some_and(|own| judged(own));
            if own || entry.chain.last().is_some_and(|enroller| judged(enroller)) {
                resting += 1;
                entry.retirement.now();
                if let Some(again) = &mut entry.again {
                    again.due = 0;
                }
                if entry.kind.conversation == Conversation::Peer && (own || theirs) {
                    link.get_or_insert_with(|| entry.handle.clone());
                }
            }
        }
        if let Some(link) = link {
            link.close(Code::Expired);
        }
        resting
    }

    /// Lets nothing new begin on the data connections that this node dialled to `node`: what is under way goes on as long as it can.
    pub(super) fn retire_node(&self, node: &NodeId) -> usize {
        let entries = self.lock();
        let to_node = entries.values().filter(|entry| entry.kind == OUTBOUND && &entry.peer.node == node);
        to_node.inspect(|entry| entry.retirement.now()).count()
    }

    /// Closes everything.
    pub(super) fn close_all(&self, code: Code) {
        self.close_where(code, |_| true);
    }

    fn close_where(&self, code: Code, mut doomed: impl FnMut(&Entry) -> bool) -> usize {
        let handles: Vec<Handle> =
            self.lock().values().filter(|entry| doomed(entry)).map(|entry| entry.handle.clone()).collect();
        for handle in &handles {
            handle.close(code);
        }
        handles.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        // The table is whole after every statement, so a panic elsewhere does not spoil it.
        lock(&self.entries)
    }
}

/// Ends a TLS/TCP stream from outside.
#[derive(Debug, Default)]
pub(super) struct Kill {
    /// A [`Code`], 0 while alive.
    code: AtomicU8,
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// Of those who wait for it and neither read nor write.
    others: Notify,
}

impl Kill {
    pub(super) fn kill(&self, code: Code) {
        // An orderly end from outside is still the end of what is under way.
        let code = if code == Code::Done { Code::Aborted } else { code };
        self.code.store(code as u8, Relaxed);
        self.reader.wake();
        self.writer.wake();
        self.others.notify_waiters();
    }

    pub(super) fn killed(&self) -> Option<Code> {
        match self.code.load(Relaxed) {
            0 => None,
            code => Some(Code::from_number(u64::from(code))),
        }
    }

    /// Fails once it was killed; wakes the reader then.
    pub(super) fn check_reader(&self, cx: &Context<'_>) -> io::Result<()> {
        self.reader.register(cx.waker());
        self.check()
    }

    /// Fails once it was killed; wakes the writer then.
    pub(super) fn check_writer(&self, cx: &Context<'_>) -> io::Result<()> {
        self.writer.register(cx.waker());
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        self.killed().map_or(Ok(()), |code| Err(Reset { by: "this node", code }.into()))
    }

    /// Waits for it beside reader and writer.
    pub(super) async fn over(&self) {
        let mut told = std::pin::pin!(self.others.notified());
        // From here on it is not missed.
        told.as_mut().enable();
        if self.killed().is_none() {
            told.await;
        }
    }

    /// Waits for it as the reader.
    pub(super) async fn awaited(&self) {
        poll_fn(|cx| if self.check_reader(cx).is_ok() { Poll::Pending } else { Poll::Ready(()) }).await;
    }
}

#[cfg(test)]
mod tests {
    use certs::{
        grant::Grant,
        id::{SpiffeId, TrustDomain},
        sign::{Digest, PublicKey},
    };
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_node_opens_so_many_data_connections_here() {
        let (node, peer) = (NodeId::new("a").unwrap(), peer("a"));
        let live = Arc::<Live>::default();
        let retirement = Retirement::before(0, None);
        let add = |kind| live.add(kind, peer.clone(), Vec::new(), Handle::Tcp(Arc::default()), retirement.clone());
        assert!(live.dialled().now_or_never().is_none(), "nothing is looked after while nothing is dialled");
        let mut guards = vec![add(Kind { outbound: true, ..INBOUND })];
        assert!(live.dialled().now_or_never().is_some());
        guards.extend((1..MAX_DATA_CONNECTIONS).map(|_| add(INBOUND)));
        assert!(!live.is_crowded_by(&node));
        guards.push(add(INBOUND));
        assert!(live.is_crowded_by(&node) && !live.is_crowded_by(&NodeId::new("b").unwrap()));
        drop(guards);
        assert!(
            !live.is_crowded_by(&node) && lock(&live.inbound).is_empty() && live.dialled().now_or_never().is_none()
        );
    }

    #[test]
    fn nothing_begins_in_the_last_minute_or_the_last_third() {
        let now = clock::wall();
        let before = |ends: Millis| ends - retire_at(ends);
        assert_eq!(before(now + 3_600_000), RETIRE_BEFORE);
        let short = before(now + 10_000);
        assert!((2_500..=3_334).contains(&short), "{short}");
        // Let in by the tolerance: not at once, or every request would dial anew.
        let ended = now - 1_000;
        assert!((now + 60_000..now + CLOCK_TOLERANCE).contains(&retire_at(ended)));
        assert!(retire_at(now - CLOCK_TOLERANCE - 1) <= now);
    }

    #[test]
    fn links_whose_certificates_end_together_are_dialled_again_one_by_one() {
        let live = Arc::<Live>::default();
        let now = clock::wall();
        let add = |conversation, ends| {
            let (kill, kind) = (Arc::<Kill>::default(), Kind { conversation, outbound: false });
            let peer = Arc::new(Peer { not_after: ends, ..Peer::clone(&peer("b")) });
            let retirement = Retirement::before(Millis::MAX, None);
            (live.add(kind, peer, Vec::new(), Handle::Tcp(kill.clone()), retirement), kill)
        };
        let day = 24 * 3_600_000;
        let mut links: Vec<_> = (0..3).map(|_| add(Conversation::Peer, now + day)).collect();
        let others = [add(Conversation::Peer, now + 2 * day), add(Conversation::Data, now + day)];
        let closed = |links: &[(Guard, Arc<Kill>)]| links.iter().filter(|(_, kill)| kill.killed().is_some()).count();
        live.turn_over(now + day - RETIRE_BEFORE - 1);
        assert_eq!(closed(&links), 0);
        for left in (0..3).rev() {
            live.turn_over(now + day - RETIRE_BEFORE);
            assert_eq!(closed(&links), 1);
            links.retain(|(_, kill)| kill.killed().is_none());
            assert_eq!(links.len(), left);
        }
        live.turn_over(now + day - RETIRE_BEFORE);
        assert_eq!(closed(&others), 0);
    }

    #[test]
    fn a_connection_lives_as_long_as_a_handshake_would_let_it_in() {
        let live = Arc::<Live>::default();
        let ended = Arc::new(Peer { not_after: clock::wall(), ..Peer::clone(&peer("b")) });
        let kill = Arc::<Kill>::default();
        let retirement = Retirement::before(ended.not_after, None);
        let _guard = live.add(INBOUND, ended.clone(), Vec::new(), Handle::Tcp(kill.clone()), retirement);
        assert_eq!((live.expire(ended.not_after + CLOCK_TOLERANCE - 1), kill.killed()), (0, None));
        let closed = live.expire(ended.not_after + CLOCK_TOLERANCE);
        assert_eq!((closed, kill.killed()), (1, Some(Code::Expired)));
    }

    fn peer(node: &str) -> Arc<Peer> {
        let (mesh, node) = (TrustDomain::new("t.example").unwrap(), NodeId::new(node).unwrap());
        Arc::new(Peer {
            id: SpiffeId::node(mesh, node.clone()),
            leaf: Digest([0; 32]),
            node: node.clone(),
            epoch: 1,
            grant: Grant::enroller(node, 1),
            record_key: PublicKey([0; 32]),
            ca_key: Digest([0; 32]),
            not_before: 0,
            not_after: Millis::MAX,
        })
    }

    #[test]
    fn what_rests_on_a_ca_that_leaves_takes_nothing_new_and_links_end_one_by_one() {
        let live = Arc::<Live>::default();
        let add = |conversation, theirs: &'static [u8], own: Option<&'static [u8]>| {
            let (kill, kind) = (Arc::<Kill>::default(), Kind { conversation, outbound: own.is_some() });
            let retirement = Retirement::before(Millis::MAX, own.map(Into::into));
            let chain = vec![CertificateDer::from(&b"leaf"[..]), CertificateDer::from(theirs)];
            let guard = live.add(kind, peer("b"), chain, Handle::Tcp(kill.clone()), retirement.clone());
            (guard, kill, retirement)
        };
        let data = [(&b"new"[..], Some(&b"new"[..])), (b"old", Some(b"new")), (b"new", Some(b"old")), (b"old", None)];
        let data: Vec<_> = data.into_iter().map(|(theirs, own)| add(Conversation::Data, theirs, own)).collect();
        let links: Vec<_> = [b"old", b"new"].map(|theirs| add(Conversation::Peer, theirs, Some(b"old"))).into();
        let late = add(Conversation::Peer, b"old", Some(b"new"));
        let leaving = |enroller: &[u8]| enroller == b"old";
        assert_eq!(live.retire(leaving, false), 6);
        let begun = |kept: &(Guard, Arc<Kill>, Retirement)| !kept.2.has_come(clock::wall());
        assert_eq!(data.iter().map(begun).collect::<Vec<_>>(), [true, false, false, false]);
        assert!(data.iter().all(|kept| kept.1.killed().is_none()), "what is under way goes on");
        let closed = || links.iter().filter(|kept| kept.1.killed().is_some()).count();
        assert_eq!((closed(), late.1.killed()), (1, None));
        drop((data, links));
        assert_eq!((live.retire(leaving, false), late.1.killed()), (1, None), "the other node is late, not this one");
        assert_eq!((live.retire(leaving, true), late.1.killed()), (1, Some(Code::Expired)));
        drop(late);
        assert_eq!(live.retire(leaving, true), 0);
    }
}
