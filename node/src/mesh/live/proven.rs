//! Which live connections are due to be proven anew, and what changes in the table once they are.

use std::{collections::HashMap, fmt, net::SocketAddr, sync::Arc};

use certs::{
    codec::Millis,
    id::{NodeId, SpiffeId},
    verify::Peer,
};
use rustls::pki_types::CertificateDer;
use tokio_rustls::TlsStream;

use super::{Entry, Guard, INBOUND, Live, Relaxed, Retirement, retire_at};
use crate::mesh::{Mesh, ahead::Tls, dial::Target};

/// From when on nothing new begins on a connection, what nobody uses is closed; the rest is proven anew so much later, milliseconds.
const GRACE: Millis = 2_000;
/// Time between two attempts for one connection, milliseconds.
const RETRY: Millis = 5_000;

/// What only the two ends of one connection know.
pub(in crate::mesh) type Secret = [u8; 32];

/// In the place of an answer: the connection is not known, or not the asker's.
pub(in crate::mesh) const REFUSED: Secret = [0; 32];

/// Label of the TLS exporter (RFC 8446, 7.5); the side whose secret it is follows as the context.
const LABEL: &[u8] = b"EXPORTER-skein-reauthentication";

/// Both secrets of one connection: what the side that dialled says of it, and what the other one answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) struct Session {
    pub(in crate::mesh) claim: Secret,
    pub(in crate::mesh) answer: Secret,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    fn of(export: impl Fn(Secret, &[u8]) -> Option<Secret>) -> Option<Session> {
        Some(Session { claim: export([0; 32], b"dialled")?, answer: export([0; 32], b"accepted")? })
    }

    /// `None` while the handshake lasts.
    pub(in crate::mesh) fn of_quic(quic: &quinn::Connection) -> Option<Session> {
        Session::of(|mut secret, side| quic.export_keying_material(&mut secret, LABEL, side).ok().map(|()| secret))
    }

    /// `None` while the handshake lasts.
    pub(in crate::mesh) fn of_tls(tls: &Tls) -> Option<Session> {
        Session::of(|secret, side| {
            let exported = match tls {
                TlsStream::Client(tls) => tls.get_ref().1.export_keying_material(secret, LABEL, Some(side)),
                TlsStream::Server(tls) => tls.get_ref().1.export_keying_material(secret, LABEL, Some(side)),
            };
            exported.ok()
        })
    }
}

/// As whom the other end was dialled, and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::mesh) struct Reach {
    pub(in crate::mesh) own: SpiffeId,
    pub(in crate::mesh) address: SocketAddr,
}

/// What this node shows on a connection that it is about to dial; a leaf that is swapped meanwhile lasts longer.
#[derive(Debug)]
pub(in crate::mesh) struct Shown {
    reach: Reach,
    /// Until when, and DER of the enroller CA that it rests on; none if this node has no such leaf.
    rests: Option<(Millis, Arc<[u8]>)>,
}

impl Shown {
    pub(in crate::mesh) fn on(mesh: &Mesh, target: &Target) -> Shown {
        let reach = Reach { own: target.own.clone(), address: target.address };
        Shown { reach, rests: mesh.shared.tls.leaf_rests(&target.own) }
    }

    /// Until when both certificates count.
    fn until(&self, peer: &Peer) -> Millis {
        self.rests.as_ref().map_or(Millis::MAX, |(ends, _)| *ends).min(peer.not_after)
    }

    fn enroller(&self) -> Option<Arc<[u8]>> {
        self.rests.as_ref().map(|(_, enroller)| enroller.clone())
    }

    pub(in crate::mesh) fn retirement(&self, peer: &Peer) -> Retirement {
        Retirement::before(self.until(peer), self.enroller())
    }

    pub(in crate::mesh) fn into_reach(self) -> Reach {
        self.reach
    }
}

/// When a connection that this node dialled is proven anew, and where.
#[derive(Debug)]
pub(super) struct Again {
    reach: Reach,
    /// By its certificates.
    pub(super) due: Millis,
    /// Not before, whatever is due.
    not_before: Millis,
}

/// Connections as one identity to one identity of one node: one exchange is for all of them.
#[derive(Debug)]
pub(in crate::mesh) struct Round {
    pub(in crate::mesh) reach: Reach,
    pub(in crate::mesh) node: NodeId,
    pub(in crate::mesh) identity: SpiffeId,
    pub(in crate::mesh) standing: Vec<Standing>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(in crate::mesh) struct Standing {
    id: u64,
    pub(in crate::mesh) session: Session,
}

/// What both ends have just shown each other.
#[derive(Debug)]
pub(in crate::mesh) struct Proof {
    pub(in crate::mesh) peer: Arc<Peer>,
    pub(in crate::mesh) chain: Vec<CertificateDer<'static>>,
    pub(in crate::mesh) shown: Shown,
}

/// Another certificate of the same: it may have been renewed, and nothing else.
fn is_same(one: &Peer, other: &Peer) -> bool {
    let whose = |peer: &Peer| (peer.epoch, peer.ca_key);
    one.id == other.id && one.node == other.node && whose(one) == whose(other)
}

impl Guard {
    /// The connection's place in the table.
    pub(in crate::mesh) fn id(&self) -> u64 {
        self.id
    }

    /// Notes how the connection can be told from every other one.
    pub(in crate::mesh) fn tells(&self, session: Option<Session>) {
        if let Some(entry) = self.live.lock().get_mut(&self.id) {
            entry.session = session;
        }
    }

    /// Lets the connection, which this node dialled, be proven anew before its certificates end.
    pub(in crate::mesh) fn lasts(&self, reach: Reach) {
        if let Some(entry) = self.live.lock().get_mut(&self.id) {
            let due = entry.retirement.at.load(Relaxed).saturating_add(GRACE);
            entry.again = Some(Again { reach, due, not_before: 0 });
        }
    }
}

impl Live {
    /// Waits until a data connection stands that this node dialled: no other is ever due.
    pub(in crate::mesh) async fn dialled(&self) {
        while self.outbound() == 0 {
            self.dialled.notified().await;
        }
    }

    /// What is due, not to be due again for a moment whatever comes of it.
    pub(in crate::mesh) fn due(&self, now: Millis) -> Vec<Round> {
        let mut rounds: HashMap<(Reach, NodeId, SpiffeId), Vec<Standing>> = HashMap::new();
        for (id, entry) in self.lock().iter_mut() {
            let (Some(again), Some(session)) = (&mut entry.again, entry.session) else { continue };
            if again.due.max(again.not_before) <= now {
                again.not_before = now.saturating_add(RETRY);
                let whom = (again.reach.clone(), entry.peer.node.clone(), entry.peer.id.clone());
                rounds.entry(whom).or_default().push(Standing { id: *id, session });
            }
        }
        let round = |((reach, node, identity), standing)| Round { reach, node, identity, standing };
        rounds.into_iter().map(round).collect()
    }

    /// The side that was dialled: the peer of connection `by`, whose certificates are of now, claims connections as its own. Those that
    /// are last as long as `by` does. Gives the answers, in the order of the claims.
    pub(in crate::mesh) fn claimed(&self, by: u64, claims: &[Secret]) -> Vec<Secret> {
        let mut entries = self.lock();
        let Some((peer, chain)) = entries.get(&by).map(|entry| (entry.peer.clone(), entry.chain.clone())) else {
            return vec![REFUSED; claims.len()];
        };
        let own = entries.values_mut().filter(|entry| entry.kind == INBOUND && is_same(&entry.peer, &peer));
        let mut own: HashMap<Secret, (Secret, &mut Entry)> =
            own.filter_map(|entry| entry.session.map(|session| (session.claim, (session.answer, entry)))).collect();
        let answer = |claim: &Secret| {
            let Some((answer, entry)) = own.get_mut(claim) else { return REFUSED };
            (entry.peer, entry.chain) = (peer.clone(), chain.clone());
            *answer
        };
        claims.iter().map(answer).collect()
    }

    /// The side that dialled: a connection lasts as long as what was just shown. False if it is gone, or another's.
    pub(in crate::mesh) fn proven(&self, standing: &Standing, proof: &Proof) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&standing.id).filter(|entry| is_same(&entry.peer, &proof.peer)) else {
            return false;
        };
        (entry.peer, entry.chain) = (proof.peer.clone(), proof.chain.as_slice().into());
        // Nothing new begins on it all the same: whoever begins something shakes hands.
        entry.retirement.own = proof.shown.enroller();
        if let Some(again) = &mut entry.again {
            again.due = retire_at(proof.shown.until(&proof.peer));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use certs::{
        grant::Grant,
        id::TrustDomain,
        sign::{Digest, PublicKey},
        verify::CLOCK_TOLERANCE,
    };

    use super::*;
    use crate::{
        clock::wall,
        mesh::live::{Handle, Kill, Kind, OUTBOUND},
    };

    const HOUR: Millis = 3_600_000;

    fn peer(account: &str, node: &str, (epoch, key): (u64, u8), not_after: Millis) -> Arc<Peer> {
        let (mesh, node) = (TrustDomain::new("t.example").unwrap(), NodeId::new(node).unwrap());
        Arc::new(Peer {
            id: SpiffeId::service(mesh, account.parse().unwrap()),
            leaf: Digest([0; 32]),
            node: node.clone(),
            epoch,
            grant: Grant::enroller(node, epoch),
            record_key: PublicKey([0; 32]),
            ca_key: Digest([key; 32]),
            not_before: 0,
            not_after,
        })
    }

    fn session(number: u8) -> Session {
        Session { claim: [number; 32], answer: [number + 100; 32] }
    }

    fn reach() -> Reach {
        let own = SpiffeId::service(TrustDomain::new("t.example").unwrap(), "shop/web".parse().unwrap());
        Reach { own, address: "127.0.0.1:1".parse().unwrap() }
    }

    /// A connection in the table, told by this number.
    fn add(live: &Arc<Live>, kind: Kind, peer: Arc<Peer>, number: u8) -> (Guard, Arc<Kill>) {
        let (kill, retirement) = (Arc::<Kill>::default(), Retirement::before(peer.not_after, None));
        let guard = live.add(kind, peer, Vec::new(), Handle::Tcp(kill.clone()), retirement);
        guard.tells(Some(session(number)));
        (guard, kill)
    }

    #[test]
    fn a_claim_prolongs_what_is_the_claimers_own_and_nothing_else() {
        let (live, now) = (Arc::<Live>::default(), wall());
        let (old, new) = (now + 1_000, now + HOUR);
        let others = [
            ("shop/cart", "a", (1, 1)),
            ("shop/web", "b", (1, 1)),
            ("shop/web", "a", (2, 1)),
            ("shop/web", "a", (1, 2)),
        ];
        let mut kept = vec![add(&live, INBOUND, peer("shop/web", "a", (1, 1), old), 1)];
        // One that was not named, and others': of another account, another node, another epoch, another key.
        kept.push(add(&live, INBOUND, peer("shop/web", "a", (1, 1), old), 2));
        for (number, (account, node, whose)) in (3..).zip(others) {
            kept.push(add(&live, INBOUND, peer(account, node, whose, old), number));
        }
        // One that this node dialled is not the peer's to prolong.
        kept.push(add(&live, OUTBOUND, peer("shop/web", "a", (1, 1), old), 7));
        let fresh = add(&live, INBOUND, peer("shop/web", "a", (1, 1), new), 8);
        let claims = [1, 3, 4, 5, 6, 7, 99, 0].map(|number| [number; 32]);
        let mut answers = vec![REFUSED; claims.len()];
        answers[0] = session(1).answer;
        assert_eq!(live.claimed(fresh.0.id(), &claims), answers);
        assert_eq!(live.expire(old + CLOCK_TOLERANCE), kept.len() - 1);
        assert!(kept[0].1.killed().is_none() && kept[1..].iter().all(|(_, kill)| kill.killed().is_some()));
        assert_eq!(
            live.claimed(u64::MAX, &claims),
            vec![REFUSED; claims.len()],
            "a connection that is gone claims nothing"
        );
    }

    #[test]
    fn what_this_node_dialled_is_due_before_it_ends_and_lasts_only_by_the_same_node() {
        let (live, now) = (Arc::<Live>::default(), wall());
        let (old, new) = (now + HOUR, now + 2 * HOUR);
        let dialled = [1, 2].map(|number| add(&live, OUTBOUND, peer("shop/api", "b", (1, 1), old), number));
        dialled.iter().for_each(|(guard, _)| guard.lasts(reach()));
        // Nobody proves what somebody else dialled.
        let _inbound = add(&live, INBOUND, peer("shop/api", "b", (1, 1), old), 3);
        assert!(live.due(now).is_empty());
        let rounds = live.due(old);
        assert_eq!((rounds.len(), rounds[0].standing.len()), (1, 2), "one exchange for both");
        assert!(live.due(old).is_empty(), "not again at once");
        assert_eq!(live.due(old + RETRY).len(), 1);
        let proof = |whose, ends| {
            let shown = Shown { reach: reach(), rests: Some((Millis::MAX, b"enroller"[..].into())) };
            Proof { peer: peer("shop/api", "b", whose, ends), chain: Vec::new(), shown }
        };
        let standing = rounds[0].standing[0];
        assert!(!live.proven(&standing, &proof((2, 1), new)) && !live.proven(&standing, &proof((1, 2), new)));
        assert!(live.proven(&standing, &proof((1, 1), new)));
        let due = live.due(old + 2 * RETRY);
        assert_eq!(due.iter().map(|round| round.standing.len()).sum::<usize>(), 1, "the other one still is");
        // A root that leaves makes it due at once.
        assert_eq!(live.retire(|enroller| enroller == b"enroller", false), 1);
        assert_eq!(live.due(old + 4 * RETRY).iter().map(|round| round.standing.len()).sum::<usize>(), 2);
        assert_eq!(live.expire(old + CLOCK_TOLERANCE), 2, "what was proven lasts, the rest ends: {dialled:?}");
    }
}
