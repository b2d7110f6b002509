//! The table of live connections to and from other nodes: what is closed when a node is gone, a peer no longer counts,
//! or a certificate ends.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use certs::{
    codec::Millis,
    id::NodeId,
    sign::Digest,
    tls::Conversation,
    verify::{Authority, Peer, verify},
};
use futures_util::task::AtomicWaker;
use rustls::pki_types::CertificateDer;

use super::{
    MAX_DATA_CONNECTIONS,
    error::{Code, Reset},
    lock,
};

/// All live connections of this node, both directions.
#[derive(Debug, Default)]
pub(super) struct Live {
    entries: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    /// Data connections that this node dialled.
    outbound: AtomicUsize,
    /// Data connections that others dialled, by node.
    inbound: Mutex<HashMap<NodeId, usize>>,
}

#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    chain: Vec<CertificateDer<'static>>,
    kind: Kind,
    handle: Handle,
}

/// Which connections an event concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) conversation: Conversation,
    /// True if this node dialled.
    pub(super) outbound: bool,
}

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
    ) -> Guard {
        let id = self.next.fetch_add(1, Relaxed);
        let counted = kind.outbound && kind.conversation == Conversation::Data;
        if counted {
            self.outbound.fetch_add(1, Relaxed);
        }
        if kind == INBOUND {
            *lock(&self.inbound).entry(peer.node.clone()).or_default() += 1;
        }
        self.lock().insert(id, Entry { peer, chain, kind, handle });
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

    /// Closes the data connections that this node dialled to `node`.
    pub(super) fn close_node(&self, node: &NodeId) -> usize {
        self.close_where(Code::Gone, |entry| {
            entry.kind == Kind { conversation: Conversation::Data, outbound: true } && &entry.peer.node == node
        })
    }

    /// Closes what a certificate's end has reached.
    pub(super) fn expire(&self, now: Millis) -> usize {
        self.close_where(Code::Expired, |entry| entry.peer.not_after <= now)
    }

    /// Closes whatever no longer verifies. Nodes share few chains, so each is judged once.
    pub(super) fn rejudge(&self, authority: &Authority, now: Millis) -> usize {
        let mut verdicts: HashMap<Digest, bool> = HashMap::new();
        self.close_where(Code::Unauthorized, |entry| {
            // The same leaf may stand under more than one CA certificate.
            let chain = Digest::of(&entry.chain.iter().flat_map(|der| der.iter().copied()).collect::<Vec<u8>>());
            !*verdicts.entry(chain).or_insert_with(|| verify(&entry.chain, authority, now).is_ok())
        })
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
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a TLS/TCP stream from outside.
#[derive(Debug, Default)]
pub(super) struct Kill {
    /// A [`Code`], 0 while alive.
    code: AtomicU8,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Kill {
    pub(super) fn kill(&self, code: Code) {
        // An orderly end from outside is still the end of what is under way.
        let code = if code == Code::Done { Code::Aborted } else { code };
        self.code.store(code as u8, Relaxed);
        self.reader.wake();
        self.writer.wake();
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
        sign::PublicKey,
    };

    use super::*;

    #[test]
    fn one_node_opens_so_many_data_connections_here() {
        let (mesh, node) = (TrustDomain::new("t.example").unwrap(), NodeId::new("a").unwrap());
        let peer = Arc::new(Peer {
            id: SpiffeId::node(mesh, node.clone()),
            leaf: Digest([0; 32]),
            node: node.clone(),
            epoch: 1,
            grant: Grant::enroller(node.clone(), 1),
            record_key: PublicKey([0; 32]),
            ca_key: Digest([0; 32]),
            not_before: 0,
            not_after: 0,
        });
        let live = Arc::<Live>::default();
        let add = |kind| live.add(kind, peer.clone(), Vec::new(), Handle::Tcp(Arc::default()));
        let mut guards = vec![add(Kind { outbound: true, ..INBOUND })];
        guards.extend((1..MAX_DATA_CONNECTIONS).map(|_| add(INBOUND)));
        assert!(!live.is_crowded_by(&node));
        guards.push(add(INBOUND));
        assert!(live.is_crowded_by(&node) && !live.is_crowded_by(&NodeId::new("b").unwrap()));
        drop(guards);
        assert!(!live.is_crowded_by(&node) && lock(&live.inbound).is_empty());
    }
}
