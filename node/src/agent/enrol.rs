//! The enroller's side of an enrolment. Spent is durable before anything is signed, so that a token counts once whatever
//! crashes; the reply is kept with it, so that a lost one can be asked for again with the same keys.

mod bounds;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use certs::{
    codec::{self, Millis},
    grant::NodeGrant,
    id::NodeId,
    join::{
        Chain, JoinRefusal, JoinReply, JoinRequest, MAX_MESSAGE, MAX_REQUEST_MESSAGE, Message, RenewRequest, Renewal,
        Unread, VERSION,
    },
    sign::{Digest, PublicKey},
    verify::{Authority, KnownKey, VerifyError, verify_ca},
};
use membership::gossip::POOL;
use policy::{
    DocumentId, Kind,
    changeset::Change,
    history::{PUSH_CLOCK, State},
};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};

use self::bounds::Bounds;
use super::{
    book::Book,
    error::internal,
    event,
    exchange::{receive, send, unread},
    identity::{Identity, millis},
    rollback::Rollback,
    store::{Judgement, Spent},
};
use crate::clock::{Clock, Uptime};

/// A joiner's first word comes within this time.
const HELLO_PATIENCE: Duration = Duration::from_secs(3);
/// The same where it will be refused.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);
/// One enrolment takes at most this long.
const PATIENCE: Duration = Duration::from_secs(15);
/// Wrong proofs that burn a token, by whoever holds its secret.
const WRONG_PROOFS: u32 = 5;
/// What [`Enrolment::invite_patience`] is.
const INVITE_PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of policy that a reply carries; the rest comes over peer links.
const REPLY_BYTES: usize = 4 << 20;
/// Bytes of a chain beside what it carries: lengths, the envelope.
const CHAIN_FRAME: usize = 64 << 10;

/// Redeems tokens.
pub struct Enrolment {
    book: Arc<Book>,
    identity: Arc<Identity>,
    clock: Clock,
    bounds: Bounds,
    /// How long an invite that was pushed elsewhere may take to arrive.
    invite_patience: Duration,
    /// Who is to be believed in a renewal: what policy says, and whose keys this node has seen.
    authority: Arc<ArcSwap<Authority>>,
    /// The disk, and whether it is one from a backup; what people may watch.
    rollback: Arc<Rollback>,
    /// One redemption at a time: reading "spent" and writing it belong together.
    redeeming: tokio::sync::Mutex<()>,
}

impl Enrolment {
    /// An enroller's, or that of a node which refuses every joiner by name.
    pub fn new(
        book: Arc<Book>,
        identity: Arc<Identity>,
        authority: Arc<ArcSwap<Authority>>,
        rollback: Arc<Rollback>,
        clock: Clock,
    ) -> Self {
        let (bounds, redeeming) = (Bounds::new(), tokio::sync::Mutex::default());
        Self { book, identity, clock, bounds, invite_patience: INVITE_PATIENCE, authority, rollback, redeeming }
    }

    /// Serves one joiner. `exporter` is this session's.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S, exporter: &[u8], remote: SocketAddr) {
        let visit = match self.bounds.enter(remote.ip(), Uptime::now()) {
            Ok(visit) => visit,
            Err(when) => {
                let busy = JoinRefusal::new("too_many_requests", format!("too many enrolments {when}"));
                // Bytes that nobody read would reset the connection before the refusal is read.
                let refused = async {
                    receive(&mut stream, MAX_REQUEST_MESSAGE).await?;
                    send(&mut stream, &Message::Refusal(busy)).await
                };
                let _ = tokio::time::timeout(REFUSAL_PATIENCE, refused).await;
                return;
            }
        };
        match tokio::time::timeout(PATIENCE, self.converse(&mut stream, exporter, remote)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%remote, "an enrolment ended early: {error}"),
            Err(_) => tracing::debug!(%remote, "an enrolment took longer than {PATIENCE:?}"),
        }
        drop(visit);
    }

    async fn converse<S>(&self, stream: &mut S, exporter: &[u8], remote: SocketAddr) -> std::io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let hello = match tokio::time::timeout(HELLO_PATIENCE, self.said(stream)).await?? {
            Ok(Message::Hello(hello)) if hello.version == VERSION => Ok(()),
            Ok(Message::Hello(hello)) => Err(self.cannot_read(&Unread::Version(hello.version))),
            Ok(_) => Err(JoinRefusal::new("bad_request", "an enrolment begins with hello")),
            Err(refused) => Err(refused),
        };
        if let Err(refused) = hello {
            return send(stream, &Message::Refusal(refused)).await;
        }
        let chain = self.chain().await;
        if let Some(refused) = too_large(&chain) {
            self.note(
                event::Kind::TokenRefused,
                self.identity.node(),
                &format!("{} asks to join", remote.ip()),
                &refused,
            );
            return send(stream, &Message::Refusal(refused)).await;
        }
        send(stream, &Message::Chain(chain)).await?;
        let answer = match self.said(stream).await? {
            Ok(Message::Prove(request)) => {
                let redeemed = self.redeem(&request, exporter, remote).await;
                redeemed.inspect_err(|refused| {
                    let kind = if refused.code == "token_spent" {
                        event::Kind::TokenReused
                    } else {
                        event::Kind::TokenRefused
                    };
                    self.note(
                        kind,
                        &request.node,
                        &format!("{} asks to join as {}", remote.ip(), request.node),
                        refused,
                    );
                })
            }
            Ok(Message::Renew(request)) => {
                let renewed = self.renew(&request, exporter).await;
                renewed.inspect_err(|refused| {
                    let node = request.claims().map_or_else(|| "nobody".to_owned(), |node| node.to_string());
                    self.note(
                        event::Kind::RenewalRefused,
                        &node,
                        &format!("{} asks to renew {node}", remote.ip()),
                        refused,
                    );
                })
            }
            Ok(Message::Hello(_) | Message::Chain(_) | Message::Reply(_) | Message::Refusal(_)) => {
                Err(JoinRefusal::new("bad_request", "not a step of an enrolment"))
            }
            Err(refused) => Err(refused),
        };
        let answer = answer.map_or_else(Message::Refusal, Message::Reply);
        send(stream, &answer).await?;
        tokio::io::AsyncWriteExt::shutdown(stream).await
    }

    /// What a joiner says next, or how it is refused where it says that in another way than this build reads.
    async fn said(&self, stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Result<Message, JoinRefusal>> {
        match receive(stream, MAX_REQUEST_MESSAGE).await {
            Ok(message) => Ok(Ok(message)),
            Err(error) => match unread(&error) {
                Some(unread) => Ok(Err(self.cannot_read(unread))),
                None => Err(error),
            },
        }
    }

    fn cannot_read(&self, unread: &Unread) -> JoinRefusal {
        let code = match unread {
            Unread::Damaged(_) => "bad_request",
            Unread::Version(_) | Unread::Kind(_) => "not_supported",
        };
        let build = env!("CARGO_PKG_VERSION");
        JoinRefusal::new(code, format!("{} runs skein {build}, and got {unread}", self.identity.node()))
    }

    /// What makes this node believable: RoleSets, its own NodeGrant, and that of the enroller which certified it.
    async fn chain(&self) -> Chain {
        let role_sets = self.book.look(|history| history.role_set_chain()).await;
        let ca = self.identity.ca();
        let path = [self.identity.node().as_str(), ca.enroller().as_str()];
        let concerns = |change: &Change| {
            let document = &change.document;
            document.kind == Kind::Revocation
                || (document.kind == Kind::NodeGrant && path.contains(&document.name.as_str()))
        };
        let grants = match self.book.closure(|changeset| changeset.changes.iter().any(concerns), REPLY_BYTES).await {
            Some(all) => all,
            // As much as says whether the path counts.
            None => {
                let kinds = [Kind::NodeGrant, Kind::Revocation];
                self.proof(path.iter().flat_map(|node| kinds.map(|kind| DocumentId::mesh_wide(kind, node)))).await
            }
        };
        Chain { role_sets: role_sets.iter().map(|bytes| bytes.to_vec()).collect(), grants }
    }

    /// Says for people that somebody was refused. Whoever reaches the port can have this said, so it is not said for each try.
    fn note(&self, kind: event::Kind, node: impl ToString, who: &str, refused: &JoinRefusal) {
        let now = self.clock.now();
        if let Some(more) = self.bounds.tells(kind.word(), Uptime::now()) {
            let more = if more == 0 { String::new() } else { format!(" ({more} more since the last one)") };
            self.rollback.events.note(now, kind, node, format!("{who}: {}{more}", refused.message));
        }
    }

    async fn redeem(
        &self,
        request: &JoinRequest,
        exporter: &[u8],
        remote: SocketAddr,
    ) -> Result<JoinReply, JoinRefusal> {
        // Strangers wait here as well, so nobody waits for them.
        let grant = self.invite(request).await?;
        let _one = self.redeeming.lock().await;
        let Some(hash) = grant.token_hash else {
            return Err(JoinRefusal::new("token_invalid", format!("{} was not invited by a token", grant.node)));
        };
        let now = self.clock.now();
        self.hear(request, (&grant.node, &hash), remote.ip())?;
        let spent = self.token(hash).await?;
        let wrong = match &spent {
            Some(Spent::Burnt) => {
                return Err(JoinRefusal::new("token_spent", "the token was burnt by wrong proofs; invite again"));
            }
            Some(Spent::WrongProofs(wrong)) => *wrong,
            Some(Spent::Redeemed { .. }) | None => 0,
        };
        let spki = match request.check(&grant, self.identity.node(), exporter) {
            Ok(spki) => spki,
            // Who shows it holds the secret.
            Err(refused) if refused.code == "bad_proof" && !matches!(spent, Some(Spent::Redeemed { .. })) => {
                let next = if wrong + 1 >= WRONG_PROOFS { Spent::Burnt } else { Spent::WrongProofs(wrong + 1) };
                tracing::warn!(node = %grant.node, %remote, "a wrong proof for an invite: {refused}");
                let is_burnt = next == Spent::Burnt;
                self.set_token(hash, spent, next, None).await?;
                if is_burnt {
                    let what = format!(
                        "{WRONG_PROOFS} wrong proofs by its secret, the last from {}: the token of {} is burnt",
                        remote.ip(),
                        grant.node
                    );
                    self.rollback.events.note(now, event::Kind::TokenBurnt, &grant.node, what);
                }
                return Err(refused);
            }
            Err(refused) => return Err(refused),
        };
        let keys = Digest::of(&[spki.as_slice(), &request.record_key.0].concat());
        let state = self.book.state(now).await;
        if let Some(Spent::Redeemed { keys: first, reply }) = &spent {
            if *first != keys {
                tracing::warn!(node = %grant.node, %remote, "a spent token was shown with another key");
                return Err(JoinRefusal::new(
                    "token_spent",
                    format!("the token of {} was redeemed already", grant.node),
                ));
            }
            let chain: Vec<Vec<u8>> = codec::decode::<_, { 1 << 20 }>(reply).map_err(failed)?;
            // Else its root was withdrawn since, or it ended: the same keys get one that counts now.
            if self.judge(&chain, &state, now).is_ok() {
                return Ok(self.reply(chain, &grant.node).await);
            }
        } else {
            request.is_in_time(&grant, now)?;
            // A store from a backup knows less than this node did, and than what was seen since on the wire.
            self.rollback.settled().await;
            self.refuse_older(&grant, &hash, &spent).await?;
            let seen = self.authority.load().known_keys.get(&grant.node).copied();
            let shown = KnownKey { epoch: grant.epoch, ca_key: Digest::of(&spki), record_key: request.record_key };
            if seen.is_some_and(|seen| seen.epoch == shown.epoch && seen != shown) {
                tracing::warn!(node = %grant.node, %remote, "a token was shown of which another key came");
                let message = format!("the token of {} was redeemed already: it runs with another key", grant.node);
                return Err(JoinRefusal::new("token_spent", message));
            }
        }
        // Signing has no effect outside before the reply is sent, and that waits for the disk.
        let chain = self.certify(&grant, (&spki, request.record_key), &state, now)?;
        let judgement =
            Judgement { at: now, subject: hash, from: format!("redeemed by {}", grant.node), refused: None };
        let redeemed = Spent::Redeemed { keys, reply: codec::encode(&chain) };
        self.set_token(hash, spent, redeemed, Some(judgement)).await?;
        // Peers know before the joiner does.
        self.rollback.grown.notify_one();
        tracing::info!(node = %grant.node, %remote, "enrolled");
        Ok(self.reply(chain, &grant.node).await)
    }

    /// A node CA for keys that an invite is redeemed with, judged as its node and all others will: no token is spent on one that would not
    /// count.
    fn certify(
        &self,
        grant: &NodeGrant,
        keys: (&[u8], PublicKey),
        state: &State,
        now: Millis,
    ) -> Result<Vec<Vec<u8>>, JoinRefusal> {
        let node = self.identity.node();
        let Some(enroller) = self.identity.enroller() else {
            return Err(JoinRefusal::new("not_an_enroller", "this node is no enroller"));
        };
        let unfit = |error: &dyn std::fmt::Display| {
            let message =
                format!("{node} certifies nothing that counts: {error}; with the root's key: skein ca renew {node}");
            JoinRefusal::new("not_an_enroller", message)
        };
        let life = millis(state.lifetimes().node_ca);
        let chain = enroller.certify(grant, keys, None, life, now).map_err(|error| unfit(&error))?;
        self.judge(&chain, state, now).map_err(|error| unfit(&error))?;
        Ok(chain)
    }

    /// Whether a node CA counts by what policy says this very moment, and by the keys that were seen.
    fn judge(&self, chain: &[Vec<u8>], state: &State, now: Millis) -> Result<(), VerifyError> {
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
        verify_ca(&chain, &self.authority_by(state), now).map(drop)
    }

    fn authority_by(&self, state: &State) -> Authority {
        let known_keys = self.authority.load().known_keys.clone();
        Authority { known_keys, ..state.authority(self.identity.trust_domain()) }
    }

    /// Refuses a token from before this node's disk was found to be one from a backup: it may have been redeemed, by whom nobody knows.
    async fn refuse_older(&self, grant: &NodeGrant, hash: &Digest, spent: &Option<Spent>) -> Result<(), JoinRefusal> {
        let rollback = self.rollback.clone();
        let found = tokio::task::spawn_blocking(move || rollback.found()).await;
        let Some(found) = found.map_err(internal).and_then(|found| found).map_err(failed)? else { return Ok(()) };
        let (document, _) = policy::kinds::node_grant_body(grant);
        let invited = self.book.look(|history| history.first_said(&document, &hash.to_string())).await;
        // Dates of operators' machines are within this of a node's.
        if invited.is_some_and(|at| at > found.saturating_add(PUSH_CLOCK)) {
            return Ok(());
        }
        self.set_token(*hash, spent.clone(), Spent::Burnt, None).await?;
        let what = format!("the token of {} is older than a backup of this enroller's disk: it is burnt", grant.node);
        self.rollback.events.note(self.clock.now(), event::Kind::TokenBurnt, &grant.node, what);
        Err(JoinRefusal::new(
            "token_spent",
            format!("{} lost what it knew of the token; invite again in half a minute", self.identity.node()),
        ))
    }

    /// Refuses who does not hold the secret of an invite. That is a stranger's word: it is held against its address alone, for else
    /// anybody who reaches this port could take an invite away from its guest.
    fn hear(&self, request: &JoinRequest, (node, invite): (&NodeId, &Digest), from: IpAddr) -> Result<(), JoinRefusal> {
        if self.bounds.is_deaf(invite, from, Uptime::now()) {
            let message = format!("too many wrong tokens for {node} came from this address; try again in ten minutes");
            return Err(JoinRefusal::new("too_many_requests", message));
        }
        if request.holds(invite) {
            return Ok(());
        }
        tracing::warn!(%node, %from, "somebody without its token asks for an invite");
        self.bounds.guessed(invite, from, Uptime::now());
        Err(JoinRefusal::new("token_invalid", format!("not the latest token of {node}")))
    }

    /// The live invite of a name; one that was just pushed to another node gets a moment to arrive.
    async fn invite(&self, request: &JoinRequest) -> Result<Arc<NodeGrant>, JoinRefusal> {
        let hash = request.secret.hash();
        let (mut found, mut live, mut is_out) = (None, 0, false);
        for _ in 0..self.invite_patience.as_millis() / 100 {
            let state = self.book.state(self.clock.now()).await;
            let counts =
                |grant: &&Arc<NodeGrant>| !grant.retired && !state.revocations().evicted(&grant.node, grant.epoch);
            live = state.grants().values().filter(counts).count();
            found = state.grants().get(&request.node).cloned();
            is_out = found.as_ref().is_some_and(|grant| !counts(&grant));
            if found.as_ref().is_some_and(|grant| grant.token_hash == Some(hash)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        match found {
            Some(grant) if is_out => {
                let what = if grant.retired { "retired" } else { "evicted" };
                Err(JoinRefusal::new("not_granted", format!("{} is {what}", request.node)))
            }
            Some(_) if live > POOL => Err(JoinRefusal::new(
                "mesh_full",
                format!("{live} nodes are granted and one mesh takes {POOL}: retire or evict nodes that are gone"),
            )),
            Some(grant) => Ok(grant),
            None => Err(JoinRefusal::new("token_invalid", format!("nobody invited {}", request.node))),
        }
    }

    async fn reply(&self, chain: Vec<Vec<u8>>, node: &NodeId) -> JoinReply {
        JoinReply { chain, changesets: self.changesets(node, REPLY_BYTES).await }
    }

    /// All policy if it fits; else what a node needs to know its peers; else what it needs to know this one. The rest comes
    /// over peer links.
    async fn changesets(&self, node: &NodeId, limit: usize) -> Vec<Vec<u8>> {
        if let Some(all) = self.book.closure(|_| true, limit).await {
            return all;
        }
        let mesh_wide = |change: &Change| change.document.kind.is_mesh_wide();
        if let Some(some) = self.book.closure(|changeset| changeset.changes.iter().any(mesh_wide), limit).await {
            return some;
        }
        let ca = self.identity.ca();
        let path = [self.identity.node(), ca.enroller(), node];
        self.proof(path.map(|node| DocumentId::mesh_wide(Kind::NodeGrant, node.as_str())).into_iter()).await
    }

    /// Changesets that prove how these documents stand.
    async fn proof(&self, documents: impl Iterator<Item = DocumentId>) -> Vec<Vec<u8>> {
        let documents: Vec<DocumentId> = documents.collect();
        let proof = self.book.look(|history| history.proof(documents.iter())).await;
        proof.iter().map(|bytes| bytes.to_vec()).collect()
    }

    async fn renew(&self, request: &RenewRequest, exporter: &[u8]) -> Result<JoinReply, JoinRefusal> {
        let Some(enroller) = self.identity.enroller() else {
            return Err(JoinRefusal::new("not_an_enroller", "this node is no enroller"));
        };
        let now = self.clock.now();
        // What policy says this very moment; and a key that another enroller put beside the first one is not renewed.
        let state = self.book.state(now).await;
        let Renewal { spki, record_key, signed } = request.check(&self.authority_by(&state), exporter, now)?;
        let life = millis(state.lifetimes().node_ca);
        let chain = enroller.certify(&signed, (&spki, record_key), Some(&request.chain), life, now).map_err(failed)?;
        Ok(self.reply(chain, &signed.node).await)
    }

    async fn token(&self, hash: Digest) -> Result<Option<Spent>, JoinRefusal> {
        let store = self.rollback.store.clone();
        let read = tokio::task::spawn_blocking(move || store.token(&hash)).await;
        read.map_err(internal).and_then(|r| r).map_err(failed)
    }

    /// Writes what becomes of a token of which `before` was read. A joiner that goes away takes the lock with it, and what is being
    /// written then still is; so the store looks once more whether it stands as it was read.
    async fn set_token(
        &self,
        hash: Digest,
        before: Option<Spent>,
        spent: Spent,
        judgement: Option<Judgement>,
    ) -> Result<(), JoinRefusal> {
        let store = self.rollback.store.clone();
        let written =
            tokio::task::spawn_blocking(move || store.set_token(&hash, before.as_ref(), &spent, judgement)).await;
        written.map_err(internal).and_then(|r| r).map_err(|e| JoinRefusal::new(&e.code, e.message))
    }
}

/// What a joiner would take for an enroller that does not answer.
fn too_large(chain: &Chain) -> Option<JoinRefusal> {
    let bytes: usize = chain.role_sets.iter().chain(&chain.grants).map(Vec::len).sum();
    (bytes + CHAIN_FRAME > MAX_MESSAGE).then(|| {
        let message = format!(
            "the RoleSets and grants that a joiner is shown have {bytes} bytes, of {MAX_MESSAGE} at most: nobody can join"
        );
        JoinRefusal::new("too_large", message)
    })
}

fn failed(error: impl std::fmt::Display) -> JoinRefusal {
    JoinRefusal::new("failed", error.to_string())
}

#[cfg(test)]
mod tests;
