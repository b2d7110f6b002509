//! The joiner's side of an enrolment: one token in, a state directory with an identity out. Where the new machine reaches no enroller,
//! its request and the reply travel as files, and whoever holds the token redeems it elsewhere.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use certs::{
    ca::{CaKey, NodeCa},
    codec::Millis,
    id::{NodeId, SpiffeId, TrustDomain},
    join::{Chain, Hello, JoinReply, JoinRequest, MAX_MESSAGE, Message, RenewRequest, Token, Unread, VERSION},
    root::bundle_to_pem,
    sign::{Digest, PublicKey, SigningKey},
    tls::{self, EXPORTER_JOIN},
    verify::{Authority, verify, verify_ca},
};
use policy::history::History;
use rustls::pki_types::CertificateDer;

use super::{
    error::{Error, fail},
    exchange::{receive, send, unread},
    identity::Identity,
    init::check_free,
    state_dir::{CA_CERTIFICATES, CA_KEY, Owner, RECORD_KEY, StateDir},
    store::{Judgement, Store},
    whereabouts::{takes, way},
};
use crate::{
    clock::Clock,
    mesh::{Conversed, connect},
};

/// One step of the exchange takes at most this long; the enroller may wait for the invite to arrive.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a joining node brings.
#[derive(Debug, Clone)]
pub struct Join<'a> {
    /// What `skein invite` printed.
    pub token: &'a Token,
    /// `[mesh] listen` of the node: its port is what others will dial.
    pub listen: SocketAddr,
    /// `[mesh] advertise`, if the configuration names it.
    pub advertise: Option<SocketAddr>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The node.
    pub node: NodeId,
    /// Its mesh.
    pub trust_domain: TrustDomain,
    /// Where others will find it; port 0 if the port is known only when it runs.
    pub address: SocketAddr,
}

/// What a new node asks to have certified; public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its name.
    pub node: NodeId,
    /// PKCS#10 request of its CA key.
    pub request: Vec<u8>,
    /// The key that will sign its records.
    pub record_key: PublicKey,
}

/// What a redeemed token came to; public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemed {
    /// The node.
    pub node: NodeId,
    /// Its mesh.
    pub trust_domain: TrustDomain,
    /// The genesis RoleSet's changeset.
    pub genesis: Digest,
    /// Certificates and policy.
    pub reply: JoinReply,
    /// Where the enroller was reached: the first node that the new one knows.
    pub enroller: SocketAddr,
}

/// Redeems a token for this machine. Keys are made and kept first, so that a lost reply can be asked for again with the same ones;
/// the directory has an owner only once certificates and policy are durable. No token is kept.
///
/// # Errors
/// `already_exists`, `unreachable`, `unverified_node`, `token_spent`, `token_expired`, `token_invalid`, storage.
pub async fn join(dir: &StateDir, join: &Join<'_>) -> Result<Joined, Error> {
    let redeemed = redeem(join.token, &ask(dir, &join.token.node)?).await?;
    settle(dir, redeemed, join.listen, join.advertise)
}

/// What a node of this name asks for with the keys of the directory, which are made and kept at the first call.
///
/// # Errors
/// `already_exists`, storage.
pub fn ask(dir: &StateDir, node: &NodeId) -> Result<Asked, Error> {
    check_free(dir)?;
    let keys = Keys::of(dir)?;
    Ok(Asked { node: node.clone(), request: keys.ca.request(node), record_key: keys.record.public() })
}

/// Redeems a token for whoever holds the keys of what is asked. Nothing is kept here.
///
/// # Errors
/// `unreachable`, `unverified_node`, `token_spent`, `token_expired`, `token_invalid`.
pub async fn redeem(token: &Token, asked: &Asked) -> Result<Redeemed, Error> {
    // One that has expired is shown, too: it may have been redeemed in time, and the reply was lost.
    let (mut stream, enroller) = reach(token).await?;
    let hello = Message::Hello(Hello { version: VERSION });
    let answer = step(&mut stream, &hello, token).await?;
    let Message::Chain(chain) = answer else { return Err(unexpected(&answer, token)) };
    believe(&chain, token, &stream, Clock.now())?;
    let exporter = stream.exporter(EXPORTER_JOIN).map_err(|e| unreachable(token, &e))?;
    let request = JoinRequest::new(token, &exporter, asked.request.clone(), asked.record_key);
    let answer = step(&mut stream, &Message::Prove(request), token).await?;
    let Message::Reply(reply) = answer else { return Err(unexpected(&answer, token)) };
    let (node, trust_domain) = (token.node.clone(), token.trust_domain.clone());
    Ok(Redeemed { node, trust_domain, genesis: token.genesis, reply, enroller })
}

/// What whoever listens there shows of policy: RoleSets from the first on, its grants, revocations. Nothing of it is verified, and
/// all of it proves itself.
///
/// # Errors
/// `unreachable`.
pub async fn shown_policy(trust_domain: &TrustDomain, address: SocketAddr) -> Result<(Conversed, Chain), Error> {
    let failed = |e: &dyn std::fmt::Display| fail("unreachable", format!("{address}: {e}"), NO_ENROLLER_THERE);
    let exchanged = async {
        let name = tls::server_name(None, trust_domain);
        let mut stream = connect(address, tls::joiner(Arc::new(Clock)), name).await.map_err(|e| failed(&e))?;
        send(&mut stream, &Message::Hello(Hello { version: VERSION })).await.map_err(|e| failed(&e))?;
        match receive(&mut stream, MAX_MESSAGE).await.map_err(|e| failed(&e))? {
            Message::Chain(chain) => Ok((stream, chain)),
            Message::Refusal(refusal) => Err(failed(&refusal)),
            Message::Hello(_) | Message::Prove(_) | Message::Renew(_) | Message::Reply(_) => {
                Err(failed(&"an answer out of turn"))
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchanged).await.unwrap_or_else(|_| Err(failed(&"no answer")))
}

/// Renews a node CA that has ended or whose root was withdrawn, over the enrolment conversation: the old chain, its key and the record
/// key prove the node. `learn` takes in the policy that the enroller shows and gives whom to believe then: a node that was away knows
/// neither enrollers nor roots that came meanwhile.
///
/// # Errors
/// `unreachable`, `unverified_node`, or the enroller's refusal.
pub async fn renew_lapsed(
    identity: &Identity,
    address: SocketAddr,
    learn: impl AsyncFnOnce(Chain) -> Arc<Authority>,
) -> Result<Vec<Vec<u8>>, Error> {
    let failed = |e: &dyn std::fmt::Display| fail("unreachable", format!("{address}: {e}"), NO_ENROLLER_THERE);
    let (mut stream, chain) = shown_policy(identity.trust_domain(), address).await?;
    let authority = learn(chain).await;
    let exchanged = async {
        let peer = verify(stream.certificates(), &authority, Clock.now());
        let peer =
            peer.map_err(|e| fail("unverified_node", format!("{address} shows no valid identity: {e}"), OTHER_MESH))?;
        let enrols = authority.grants.get(&peer.node).is_some_and(|grant| grant.enroller && !grant.retired);
        if !enrols || peer.id != SpiffeId::node(identity.trust_domain().clone(), peer.node.clone()) {
            let message = format!("{address} is {}, which enrols nobody", peer.id);
            return Err(fail(
                "not_an_enroller",
                message,
                "name an enroller in [mesh] peers: `skein members` marks them; if all are lost for good, `skein ca promote NODE` \
                 with root.key makes another",
            ));
        }
        let exporter = stream.exporter(EXPORTER_JOIN).map_err(|e| failed(&e))?;
        let ca = identity.ca();
        let keys = (ca.key(), &**identity.record_key());
        let renew = RenewRequest::new(identity.node(), ca.chain().to_vec(), keys, &exporter);
        send(&mut stream, &Message::Renew(renew)).await.map_err(|e| failed(&e))?;
        match receive(&mut stream, MAX_MESSAGE).await.map_err(|e| failed(&e))? {
            Message::Reply(reply) => Ok(reply.chain),
            Message::Refusal(refusal) => {
                let hint = if refusal.code == "not_supported" {
                    SAME_VERSION.to_owned()
                } else {
                    format!("invite it anew from another node: skein invite {} --replace", identity.node())
                };
                Err(fail("refused", format!("{}: {refusal}", peer.node), hint))
            }
            Message::Hello(_) | Message::Chain(_) | Message::Prove(_) | Message::Renew(_) => {
                Err(fail("failed", format!("{} answered out of turn", peer.node), OTHER_VERSION))
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchanged).await.unwrap_or_else(|_| Err(failed(&"no answer")))
}

/// What to do where no enroller answers.
const NO_ENROLLER_THERE: &str =
    "does an enroller run there, and is its mesh port open for TCP? another one may answer: [mesh] peers";
/// What to do about one that this mesh does not know.
const OTHER_MESH: &str = "is it a node of this mesh, and is this machine's clock right?";
/// What to do where the other side speaks otherwise.
const OTHER_VERSION: &str = "do both run neighbouring versions? `skein members` shows them";
/// What to do where it says that it does.
const SAME_VERSION: &str = "run the enroller's version of skein here, or this one there: `skein members` shows it";

/// What to do where the RoleSets of a mesh are more than one message holds.
const NOBODY_JOINS: &str = "`role_sets_large` in `skein status` of the enroller says whether its mesh can take anybody";

/// The keys of this and every earlier attempt.
struct Keys {
    ca: CaKey,
    record: SigningKey,
}

impl Keys {
    fn of(dir: &StateDir) -> Result<Self, Error> {
        let ca = match dir.read(CA_KEY)?.and_then(|pem| CaKey::from_pem(&pem).ok()) {
            Some(key) => key,
            None => {
                let key = CaKey::generate();
                dir.write(CA_KEY, key.to_pem().as_bytes())?;
                key
            }
        };
        let record = match dir.read(RECORD_KEY)?.and_then(|pem| SigningKey::from_pem(&pem).ok()) {
            Some(key) => key,
            None => {
                let key = SigningKey::generate();
                dir.write(RECORD_KEY, key.to_pem().as_bytes())?;
                key
            }
        };
        Ok(Self { ca, record })
    }
}

async fn reach(token: &Token) -> Result<(Conversed, SocketAddr), Error> {
    let expected = SpiffeId::node(token.trust_domain.clone(), token.enroller.clone());
    let name = tls::server_name(Some(&expected), &token.trust_domain);
    let mut last = String::from("the token names no address");
    for text in &token.addresses {
        let resolved = match tokio::net::lookup_host(text).await {
            Ok(resolved) => resolved,
            Err(error) => {
                last = format!("{text}: {error}");
                continue;
            }
        };
        for address in resolved {
            match connect(address, tls::joiner(Arc::new(Clock)), name.clone()).await {
                Ok(stream) => return Ok((stream, address)),
                Err(error) => last = format!("{address}: {error}"),
            }
        }
    }
    Err(unreachable(token, &last))
}

async fn step(stream: &mut Conversed, message: &Message, token: &Token) -> Result<Message, Error> {
    let exchanged = async {
        send(stream, message).await?;
        receive(stream, MAX_MESSAGE).await
    };
    match tokio::time::timeout(PATIENCE, exchanged).await {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(error)) if matches!(unread(&error), Some(Unread::Version(_) | Unread::Kind(_))) => {
            let own = env!("CARGO_PKG_VERSION");
            let message = format!("this is skein {own}, and the enroller {} answers {error}", token.enroller);
            Err(fail("not_supported", message, format!("{SAME_VERSION}; the token is good still")))
        }
        // It answers, and an older one may show more than fits.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            let message = format!("the enroller {} answers {error}", token.enroller);
            Err(fail("failed", message, format!("{OTHER_VERSION}; {NOBODY_JOINS}")))
        }
        Ok(Err(error)) => Err(unreachable(token, &error)),
        Err(_) => Err(unreachable(token, &format!("no answer within {PATIENCE:?}"))),
    }
}

/// Whether the enroller is the one that the token names, under the RoleSets that the token names.
fn believe(chain: &Chain, token: &Token, stream: &Conversed, now: Millis) -> Result<(), Error> {
    let refused = |message: String| {
        fail("unverified_node", message, "someone else may answer there; nothing was sent to it. Ask for a new token")
    };
    let authority = authority(chain, token, now).map_err(refused)?;
    let peer = token.verify_enroller(stream.certificates(), &authority, now);
    peer.map(drop).map_err(|e| refused(format!("{} does not prove to be {}: {e}", stream.remote(), token.enroller)))
}

fn authority(chain: &Chain, token: &Token, now: Millis) -> Result<Authority, String> {
    let mut history = History::new(token.trust_domain.clone());
    history
        .insert_all(chain.role_sets.iter().chain(&chain.grants).map(Vec::as_slice), now)
        .map_err(|refused| format!("the policy that the enroller shows does not hold: {refused}"))?;
    let state = history.state(now);
    if state.genesis != token.genesis {
        return Err(format!("the enroller shows the mesh {}, the token is of {}", state.genesis, token.genesis));
    }
    if state.role_set.number < token.role_set {
        let (shown, wanted) = (state.role_set.number, token.role_set);
        return Err(format!("the enroller shows RoleSet {shown}, the token is of {wanted}"));
    }
    Ok(state.authority(&token.trust_domain))
}

/// Writes what came of it for the node whose keys lie in the directory; the owner last. Listens and advertises as the configuration
/// says.
///
/// # Errors
/// `already_exists`, `failed` if it is not for these keys or does not hold, storage.
pub fn settle(
    dir: &StateDir,
    redeemed: Redeemed,
    listen: SocketAddr,
    advertise: Option<SocketAddr>,
) -> Result<Joined, Error> {
    check_free(dir)?;
    let bad = |what: String| fail("failed", format!("the enroller's reply cannot be used: {what}"), "try again");
    let Redeemed { node, trust_domain, genesis, reply, enroller } = redeemed;
    let (keys, now) = (Keys::of(dir)?, Clock.now());
    let mut history = History::new(trust_domain.clone());
    history.insert_all(reply.changesets.iter().map(Vec::as_slice), now).map_err(|refused| bad(refused.to_string()))?;
    let state = history.state(now);
    if state.genesis != genesis {
        return Err(bad("it is of another mesh".into()));
    }
    let der: Vec<_> = reply.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    verify_ca(&der, &state.authority(&trust_domain), now).map_err(|e| bad(e.to_string()))?;
    let record_key = keys.record.public();
    let pem = bundle_to_pem(&reply.chain);
    let ca = NodeCa::new(&trust_domain, reply.chain, keys.ca).map_err(|e| bad(e.to_string()))?;
    if ca.grant().node != node || ca.grant().record_key != Some(record_key) {
        return Err(bad(format!("it certifies {}", ca.grant().node)));
    }
    dir.write(CA_CERTIFICATES, pem.as_bytes())?;
    // Leftovers of an attempt that did not come to its end.
    let _ = std::fs::remove_file(dir.store());
    let from = ca.enroller().to_string();
    let judge = |bytes: &Vec<u8>| Judgement { at: now, subject: Digest::of(bytes), from: from.clone(), refused: None };
    let judgements: Vec<_> = reply.changesets.iter().map(judge).collect();
    let slices: Vec<&[u8]> = reply.changesets.iter().map(Vec::as_slice).collect();
    Store::open(&dir.store())?.append(&slices, &judgements)?;
    let address = advertise.unwrap_or_else(|| towards(enroller, listen));
    let (owner, home) = (node.clone(), trust_domain.clone());
    dir.own(&Owner {
        node: owner,
        trust_domain: home,
        address: Some(address),
        enroller: Some(enroller),
        found: None,
        later: serde_json::Map::default(),
    })?;
    Ok(Joined { node, trust_domain, address })
}

/// The address by which this machine speaks to `remote`, with the port that the node listens on.
fn towards(remote: SocketAddr, listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    // Without a way there the node finds its address when it runs.
    let ip = way(remote).filter(|ip| takes(listen, ip));
    SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), listen.port())
}

fn unreachable(token: &Token, error: &dyn std::fmt::Display) -> Error {
    let message = format!("the enroller {} cannot be reached: {error}", token.enroller);
    let next = if Clock.now() < token.expires {
        "then try again with the same token".to_owned()
    } else {
        format!("and ask for a new token, this one has expired: skein invite {}", token.node)
    };
    let (enroller, at) = (&token.enroller, token.addresses.join(", "));
    let hint = format!(
        "see that it runs and that its mesh port is open; {next}. If this machine does not reach it at {at} (NAT, loopback), write an \
         address that it reaches into [mesh] advertise at {enroller}, restart that, and make a new token: skein invite {}",
        token.node
    );
    fail("unreachable", message, hint)
}

fn unexpected(message: &Message, token: &Token) -> Error {
    let Message::Refusal(refusal) = message else {
        return fail("failed", "the enroller answered out of turn", "see that both run the same version");
    };
    let known = super::error::CODES.iter().find(|row| row.0 == refusal.code).map(|row| row.0);
    let code = match refusal.code.as_str() {
        "wrong_enroller" | "bad_proof" => "token_invalid",
        _ => known.unwrap_or("refused"),
    };
    let hint = match refusal.code.as_str() {
        "too_many_requests" => "the token is good still".to_owned(),
        "too_large" => format!("the token is good still; {NOBODY_JOINS}"),
        "not_supported" => format!("{SAME_VERSION}; the token is good still"),
        "mesh_full" => "make room, then try again with the same token".to_owned(),
        "not_an_enroller" => format!("the token is good still, once {} enrols again", token.enroller),
        _ => format!("ask for a new token: skein invite {}", token.node),
    };
    fail(code, refusal.message.clone(), hint)
}
