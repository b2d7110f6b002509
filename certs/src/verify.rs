//! Path verification of a peer: closure over the whole chain, both sides of TLS and QUIC use it.
//!
//! The path is fixed: leaf, node CA, enroller CA, root; who redeemed the node's invite stands beside it. Every rule holds at every hop; what a single certificate must look like
//! is in `certificate.rs`, what joins them here. Common verifiers ignore an anchor's expiry and take leafs without extended key
//! usage, with two URIs, or with IP and e-mail names; and DNS name constraints do not bound URIs. This one does not and does.

use std::{collections::HashMap, sync::Arc};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::{
    certificate::Certificate,
    codec::Millis,
    grant::{Grant, NodeGrant},
    id::{NodeId, SpiffeId, Subject, TrustDomain},
    redemption::{Redeemed, vouches},
    revoke::Revocations,
    sign::{Digest, PublicKey},
};

pub use crate::{
    certificate::describe::{Described, describe},
    error::{Link, VerifyError},
    handshake::{Role, judge},
};

/// Most bytes of a chain, leaf included.
pub const MAX_CHAIN: usize = 16 * 1024;

/// How far clocks may differ: certificates count from so long before their begin until so long after their end.
pub const CLOCK_TOLERANCE: Millis = 5 * 60 * 1000;

/// Everything a verifier believes: derived from policy (RoleSet's bundle, NodeGrants, Revocations). Immutable; swapped whole.
#[derive(Debug, Clone)]
pub struct Authority {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// DER of each root that is trusted now.
    pub roots: Vec<Vec<u8>>,
    /// DER of withdrawn roots: see [`verify_lapsed_ca`].
    pub former: Vec<Vec<u8>>,
    /// Live NodeGrants by node.
    pub grants: HashMap<NodeId, Arc<NodeGrant>>,
    /// Evictions, accounts, keys.
    pub revocations: Revocations,
    /// For who knows no NodeGrants (an operator's machine): up to which epoch a node's name was given to another machine, or left. What
    /// it certified as an enroller outlives that, see [`enroller_counts`].
    pub ended: HashMap<NodeId, u64>,
    /// First keys seen of each node in its epoch: others of the same epoch are refused, so that a stolen enroller cannot re-issue a
    /// name that is taken. May be empty.
    pub known_keys: HashMap<NodeId, KnownKey>,
}

/// The keys that a node was first seen with. They belong together: whoever may certify a CA key, which is public, could put a record
/// key of his own beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownKey {
    /// The epoch of the sighting; a higher one takes the name over.
    pub epoch: u64,
    /// SHA-256 of the node CA's SubjectPublicKeyInfo.
    pub ca_key: Digest,
    /// The key that signs the node's records.
    pub record_key: PublicKey,
}

/// A peer whose whole path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The leaf's identity.
    pub id: SpiffeId,
    /// SHA-256 of the leaf.
    pub leaf: Digest,
    /// The node whose CA issued it (for a node identity leaf: that node).
    pub node: NodeId,
    /// Epoch of that node's grant.
    pub epoch: u64,
    /// What the node may have: certificate and NodeGrant intersected.
    pub grant: Grant,
    /// The key that signs the node's records.
    pub record_key: PublicKey,
    /// SHA-256 of the node CA's SubjectPublicKeyInfo.
    pub ca_key: Digest,
    /// Latest begin of a certificate of the path: the mesh's clock is at least there.
    pub not_before: Millis,
    /// End of the first certificate of the path to end; connections are closed [`CLOCK_TOLERANCE`] after it.
    pub not_after: Millis,
}

/// What a node CA's path says, for records' identity section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCaFacts {
    /// The node.
    pub node: NodeId,
    /// Epoch of its grant.
    pub epoch: u64,
    /// The node whose enroller CA certified it.
    pub enroller: NodeId,
    /// Certificate and NodeGrant intersected.
    pub grant: Grant,
    /// The key that signs the node's records.
    pub record_key: PublicKey,
    /// SHA-256 of the node CA's SubjectPublicKeyInfo.
    pub ca_key: Digest,
    /// SHA-256 of the root that it rests on.
    pub root: Digest,
    /// Begin of the node CA.
    pub not_before: Millis,
    /// End of the node CA.
    pub not_after: Millis,
}

impl Authority {
    /// An authority that knows roots and nothing else: no node counts yet.
    pub fn new(trust_domain: TrustDomain, roots: Vec<Vec<u8>>) -> Authority {
        let (former, grants, revocations, ended, known_keys) = Default::default();
        Authority { trust_domain, roots, former, grants, revocations, ended, known_keys }
    }
}

/// Verifies leaf, node CA and enroller CA (in this order, no root) under `authority`.
///
/// # Errors
/// The first reason why it does not count. Some pass: [`VerifyError::Expired`] and [`VerifyError::NotYetValid`] when a clock is set,
/// [`VerifyError::NoNodeGrant`], [`VerifyError::Epoch`] and [`VerifyError::UntrustedRoot`] when policy arrives that is under way.
pub fn verify(chain: &[CertificateDer<'_>], authority: &Authority, now: Millis) -> Result<Peer, VerifyError> {
    verify_leaf(chain, authority, now, Scope::Policy)
}

/// The same rules for node CA and enroller CA without a leaf.
///
/// # Errors
/// As [`verify`], but for those of leafs.
pub fn verify_ca(chain: &[CertificateDer<'_>], authority: &Authority, now: Millis) -> Result<NodeCaFacts, VerifyError> {
    let [node, enroller] = exactly(chain)?;
    Ok(verify_path([node, enroller], None, authority, now, Scope::Policy)?.1)
}

/// As [`verify_ca`], by roots and who is known to be out: for an operator's machine, which need not know NodeGrants and asks only whose
/// key signed something.
///
/// # Errors
/// As [`verify_ca`], but for those of NodeGrants; [`VerifyError::Ended`] and [`VerifyError::Evicted`] for who is known to be out.
pub fn verify_ca_by_roots(
    chain: &[CertificateDer<'_>],
    authority: &Authority,
    now: Millis,
) -> Result<NodeCaFacts, VerifyError> {
    let [node, enroller] = exactly(chain)?;
    Ok(verify_path([node, enroller], None, authority, now, Scope::Roots)?.1)
}

/// As [`verify_ca`], for renewal: a node CA that has ended is judged at its end, however long ago, by the policy of today.
/// One that has ended, or is under a root that was withdrawn, will do only if this verifier has seen its keys before: whoever holds
/// the key of a root or an enroller whose time is over can still certify any other, dated back.
///
/// # Errors
/// As [`verify_ca`], but for the end that has passed; [`VerifyError::UnseenKey`] where its keys must have been seen and were not.
pub fn verify_lapsed_ca(
    chain: &[CertificateDer<'_>],
    authority: &Authority,
    now: Millis,
) -> Result<NodeCaFacts, VerifyError> {
    let [node, enroller] = exactly(chain)?;
    let end = Certificate::parse(node, Link::NodeCa)?.not_after;
    let judged = |authority| verify_path([node, enroller], None, authority, now.min(end), Scope::Policy);
    let (facts, is_withdrawn) = match judged(authority) {
        Err(VerifyError::UntrustedRoot) if anchor(enroller, &authority.former).is_some() => {
            (judged(&Authority { roots: authority.former.clone(), ..authority.clone() })?.1, true)
        }
        verdict => (verdict?.1, false),
    };
    let NodeCaFacts { epoch, ca_key, record_key, .. } = facts;
    let is_seen = authority.known_keys.get(&facts.node) == Some(&KnownKey { epoch, ca_key, record_key });
    if (is_withdrawn || end <= now) && !is_seen {
        return Err(VerifyError::UnseenKey(facts.node));
    }
    Ok(facts)
}

/// An enroller CA's certificate by itself: for the node that is to use it. Returns the node, its grant's epoch and the end.
///
/// # Errors
/// As [`verify_ca`], but for those of node CAs; [`VerifyError::NotEnroller`]: operators do not let the node enrol.
pub fn verify_enroller(
    certificate: &[u8],
    authority: &Authority,
    now: Millis,
) -> Result<(NodeId, u64, Millis), VerifyError> {
    let enroller = Certificate::parse(certificate, Link::Enroller)?;
    joins_root(&enroller, None, authority, now)?;
    let grant = enroller.grant();
    if !grant.enroller || grant.record_key.is_some() {
        return Err(VerifyError::GrantSort { link: Link::Enroller });
    }
    enroller_counts(grant, authority)?;
    not_revoked(&enroller, authority)?;
    Ok((grant.node.clone(), grant.epoch, enroller.not_after))
}

/// The first of these roots that signed an enroller CA, whether either is valid now or not.
pub fn anchor<'r>(enroller: &[u8], roots: &'r [Vec<u8>]) -> Option<&'r Vec<u8>> {
    let enroller = Certificate::parse(enroller, Link::Enroller).ok()?;
    roots.iter().find(|der| Certificate::parse(der, Link::Root).is_ok_and(|root| enroller.is_signed_by(&root)))
}

/// Whether policy has a say, or the certificates alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// NodeGrants, revocations and known keys count.
    Policy,
    /// Roots, and who is known to be out (evictions, keys, [`Authority::ended`]): for one who cannot know policy yet and believes nothing
    /// else by it.
    Roots,
}

pub(crate) fn verify_leaf(
    chain: &[CertificateDer<'_>],
    authority: &Authority,
    now: Millis,
    scope: Scope,
) -> Result<Peer, VerifyError> {
    let [leaf, node, enroller] = exactly(chain)?;
    let digest = Digest::of(leaf);
    let leaf = Certificate::parse(leaf, Link::Leaf)?;
    let id = leaf.id().clone();
    if id.trust_domain != authority.trust_domain {
        return Err(VerifyError::TrustDomain(id));
    }
    let (ca, facts) = verify_path([node, enroller], Some(&id.dns_name()), authority, now, scope)?;
    joins(&leaf, &ca, now)?;
    // First what the certificate bounds, then what operators say today.
    for grant in [ca.grant(), &facts.grant] {
        let inside = match &id.subject {
            Subject::Service(account) => grant.allows_account(account),
            Subject::Node(node) => *node == grant.node,
        };
        if !inside {
            return Err(VerifyError::OutsideGrant(id, facts.node));
        }
    }
    if let Some(account) = id.account().filter(|a| authority.revocations.account_revoked(a)) {
        return Err(VerifyError::RevokedAccount(account.clone()));
    }
    not_revoked(&leaf, authority)?;
    let NodeCaFacts { node, epoch, grant, record_key, ca_key, .. } = facts;
    // Validity is nested, so the leaf's is the path's.
    let (not_before, not_after) = (leaf.not_before, leaf.not_after);
    Ok(Peer { id, leaf: digest, node, epoch, grant, record_key, ca_key, not_before, not_after })
}

fn exactly<'c, const N: usize>(chain: &'c [CertificateDer<'_>]) -> Result<[&'c [u8]; N], VerifyError> {
    let bytes = chain.iter().map(|der| der.len()).sum();
    if bytes > MAX_CHAIN {
        return Err(VerifyError::TooLarge(bytes));
    }
    let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
    chain.try_into().map_err(|chain: Vec<_>| VerifyError::Length { found: chain.len(), expected: N })
}

/// Node CA, enroller CA, root; `below` is the DNS name of the leaf that they must permit.
fn verify_path<'c>(
    [node, enroller]: [&'c [u8]; 2],
    below: Option<&str>,
    authority: &Authority,
    now: Millis,
    scope: Scope,
) -> Result<(Certificate<'c>, NodeCaFacts), VerifyError> {
    let node = Certificate::parse(node, Link::NodeCa)?;
    let enroller = Certificate::parse(enroller, Link::Enroller)?;
    let root = joins_root(&enroller, below, authority, now)?;
    joins(&node, &enroller, now)?;
    permitted(below, &[&node, &enroller])?;
    let (own, parent) = (node.grant(), enroller.grant());
    if !parent.enroller || parent.record_key.is_some() {
        return Err(VerifyError::GrantSort { link: Link::Enroller });
    }
    if let Some(pattern) = own.wider_than(parent) {
        return Err(VerifyError::WiderGrant(pattern.clone()));
    }
    let sort = VerifyError::GrantSort { link: Link::NodeCa };
    let record_key = own.record_key.filter(|_| own.is_subset_of(parent) && !own.enroller).ok_or(sort)?;
    let grant = match scope {
        Scope::Roots => {
            not_evicted(parent, authority)?;
            not_evicted(own, authority)?;
            if authority.ended.get(&own.node).is_some_and(|epoch| own.epoch <= *epoch) {
                return Err(VerifyError::Ended(own.node.clone(), own.epoch));
            }
            own.clone()
        }
        Scope::Policy => {
            enroller_counts(parent, authority)?;
            node_counts(&node, parent, authority)?
        }
    };
    not_revoked(&enroller, authority)?;
    not_revoked(&node, authority)?;
    let facts = NodeCaFacts {
        node: own.node.clone(),
        epoch: own.epoch,
        enroller: parent.node.clone(),
        grant,
        record_key,
        ca_key: node.key(),
        root,
        not_before: node.not_before,
        not_after: node.not_after,
    };
    Ok((node, facts))
}

/// The enroller CA under one of the roots, all of whose own rules hold too. Gives that root's SHA-256.
fn joins_root(
    enroller: &Certificate<'_>,
    below: Option<&str>,
    authority: &Authority,
    now: Millis,
) -> Result<Digest, VerifyError> {
    let mut refusal = VerifyError::UntrustedRoot;
    for der in &authority.roots {
        // A root that is unusable does not spoil the others.
        let Ok(root) = Certificate::parse(der, Link::Root) else { continue };
        if !enroller.is_signed_by(&root) {
            continue;
        }
        let joined = valid(&root, now).and_then(|()| joins(enroller, &root, now));
        let holds = joined.and_then(|()| permitted(below, &[&root]));
        match holds.and_then(|()| not_revoked(&root, authority)) {
            Ok(()) => return Ok(Digest::of(der)),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// Whether all of these CAs permit the name.
fn permitted(below: Option<&str>, cas: &[&Certificate<'_>]) -> Result<(), VerifyError> {
    below.map_or(Ok(()), |name| cas.iter().try_for_each(|ca| ca.permits(name)))
}

/// What ties a certificate to its issuer, and to now.
fn joins(child: &Certificate<'_>, issuer: &Certificate<'_>, now: Millis) -> Result<(), VerifyError> {
    let link = child.link;
    if !child.is_signed_by(issuer) {
        return Err(VerifyError::Signature { link });
    }
    if !is_nested(child, issuer) {
        return Err(VerifyError::Nesting { link });
    }
    valid(child, now)
}

fn is_nested(child: &Certificate<'_>, issuer: &Certificate<'_>) -> bool {
    child.not_before >= issuer.not_before && child.not_after <= issuer.not_after
}

fn valid(certificate: &Certificate<'_>, now: Millis) -> Result<(), VerifyError> {
    let Certificate { link, not_before, not_after, .. } = *certificate;
    if not_before > now.saturating_add(CLOCK_TOLERANCE) {
        return Err(VerifyError::NotYetValid { link, not_before, now });
    }
    if not_after.saturating_add(CLOCK_TOLERANCE) <= now {
        return Err(VerifyError::Expired { link, not_after, now });
    }
    Ok(())
}

fn not_revoked(certificate: &Certificate<'_>, authority: &Authority) -> Result<(), VerifyError> {
    if authority.revocations.key_revoked(&certificate.key()) {
        return Err(VerifyError::RevokedKey { link: certificate.link });
    }
    Ok(())
}

/// An enroller CA counts while operators call its node an enroller. What it certified outlives its retirement and its
/// replacement under a higher epoch (else one machine's end would take others down); eviction is what ends it.
fn enroller_counts(grant: &Grant, authority: &Authority) -> Result<(), VerifyError> {
    let node = &grant.node;
    let signed = authority.grants.get(node).ok_or_else(|| VerifyError::NoNodeGrant(node.clone()))?;
    if !signed.enroller {
        return Err(VerifyError::NotEnroller(node.clone()));
    }
    if grant.epoch > signed.epoch {
        return Err(VerifyError::Epoch { node: node.clone(), certificate: grant.epoch, current: signed.epoch });
    }
    not_evicted(grant, authority)
}

/// A node CA counts only with the NodeGrant of its very epoch, and with the keys that redeemed its invite. Returns what certificate and
/// NodeGrant both allow.
fn node_counts(certificate: &Certificate<'_>, issuer: &Grant, authority: &Authority) -> Result<Grant, VerifyError> {
    let (grant, ca_key) = (certificate.grant(), certificate.key());
    let node = &grant.node;
    not_evicted(grant, authority)?;
    let signed = authority.grants.get(node).ok_or_else(|| VerifyError::NoNodeGrant(node.clone()))?;
    if grant.epoch != signed.epoch {
        return Err(VerifyError::Epoch { node: node.clone(), certificate: grant.epoch, current: signed.epoch });
    }
    if signed.retired {
        return Err(VerifyError::Retired(node.clone()));
    }
    let is_other = |known: &KnownKey| known.ca_key != ca_key || Some(known.record_key) != grant.record_key;
    if authority.known_keys.get(node).is_some_and(|known| known.epoch == grant.epoch && is_other(known)) {
        return Err(VerifyError::OtherKey(node.clone()));
    }
    if !vouches(issuer, signed) && !is_redeemed(certificate, signed, authority) {
        let (node, redeemer, enroller) = (node.clone(), signed.redeemed_by().clone(), issuer.node.clone());
        return Err(VerifyError::Unredeemed { node, redeemer, enroller });
    }
    Ok(signed.effective(grant))
}

/// Whether the certificate carries the word of an enroller that counts for this grant, by a key that a root of this mesh has certified.
/// When the token was redeemed is long past: neither the redeemer's end, nor its eviction, nor that its root was withdrawn takes the
/// word back, but that its key was revoked does.
fn is_redeemed(certificate: &Certificate<'_>, signed: &NodeGrant, authority: &Authority) -> bool {
    let (Some(redemption), Some(record_key)) = (&certificate.redemption, &certificate.grant().record_key) else {
        return false;
    };
    let redeemer = redemption.redeemer().and_then(|der| Certificate::parse(der, Link::Enroller).ok());
    let Some(redeemer) = redeemer else { return false };
    let of_mesh = |der: &Vec<u8>| {
        Certificate::parse(der, Link::Root).is_ok_and(|root| {
            redeemer.is_signed_by(&root) && is_nested(&redeemer, &root) && not_revoked(&root, authority).is_ok()
        })
    };
    let grant = redeemer.grant();
    let enrols = grant.enroller && grant.record_key.is_none() && vouches(grant, signed);
    let (trust_domain, ca_key) = (&authority.trust_domain, certificate.key());
    enrols
        && not_revoked(&redeemer, authority).is_ok()
        && authority.roots.iter().chain(&authority.former).any(of_mesh)
        && Redeemed { trust_domain, signed, ca_key, record_key }.holds(redemption, &redeemer)
}

fn not_evicted(grant: &Grant, authority: &Authority) -> Result<(), VerifyError> {
    if authority.revocations.evicted(&grant.node, grant.epoch) {
        return Err(VerifyError::Evicted(grant.node.clone(), grant.epoch));
    }
    Ok(())
}
