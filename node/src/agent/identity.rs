//! Who this node is: its CA, the leafs that it issues to itself, and the enroller CA where it has one.

mod handed;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use certs::{
    ca::{CaKey, Enroller, Leaf, NodeCa, life},
    codec::Millis,
    id::{NodeId, ServiceAccount, SpiffeId, Subject, TrustDomain},
    root::{bundle_from_pem, bundle_to_pem},
    sign::{Digest, SigningKey},
    tls::Leafs,
    verify::{Authority, CLOCK_TOLERANCE, describe, verify_ca},
};
pub use handed::NotHanded;
use policy::kinds::CertificateLifetimes;
use rustls::pki_types::CertificateDer;

use super::{
    error::{Error, fail, internal},
    facade::{IdentityFacts, LeafFacts},
    state_dir::{CA_CERTIFICATES, CA_KEY, ENROLLER_CERTIFICATE, ENROLLER_KEY, Owner, RECORD_KEY, StateDir},
};
use crate::lock::lock;

/// The node's keys and certificates.
pub struct Identity {
    trust_domain: TrustDomain,
    node: NodeId,
    record_key: Arc<SigningKey>,
    ca: ArcSwap<NodeCa>,
    enroller: ArcSwapOption<Enroller>,
    held: Mutex<BTreeMap<SpiffeId, Held>>,
    handed: Mutex<handed::Handed>,
    leafs: Arc<ArcSwap<Leafs>>,
}

struct Held {
    leaf: Leaf,
    /// When it was issued, by the clock of then.
    made: Millis,
    renew_at: Millis,
    /// The life that policy gave it.
    life: Millis,
}

/// What a refresh of leafs came to.
#[derive(Debug)]
pub struct Refreshed {
    /// When the next one is due.
    pub due: Millis,
    /// Leafs that could not be issued, and why.
    pub failed: Vec<(SpiffeId, String)>,
}

impl Identity {
    /// Reads what init or join wrote.
    ///
    /// # Errors
    /// `key_permissions`, `storage_failed`.
    pub fn load(dir: &StateDir, owner: &Owner) -> Result<Self, Error> {
        let broken = |name: &str, error: &dyn std::fmt::Display| {
            let message = format!("{}: {error}", dir.path().join(name).display());
            fail("storage_failed", message, "restore it from a backup, or join again with a new token")
        };
        let record_key = SigningKey::from_pem(&dir.must_read(RECORD_KEY)?).map_err(|e| broken(RECORD_KEY, &e))?;
        let ca_key = CaKey::from_pem(&dir.must_read(CA_KEY)?).map_err(|e| broken(CA_KEY, &e))?;
        let chain = bundle_from_pem(&dir.must_read(CA_CERTIFICATES)?).map_err(|e| broken(CA_CERTIFICATES, &e))?;
        let ca = NodeCa::new(&owner.trust_domain, chain, ca_key).map_err(|e| broken(CA_CERTIFICATES, &e))?;
        let enroller = match (dir.read(ENROLLER_KEY)?, dir.read(ENROLLER_CERTIFICATE)?) {
            (Some(key), Some(chain)) => {
                let key = CaKey::from_pem(&key).map_err(|e| broken(ENROLLER_KEY, &e))?;
                let chain = bundle_from_pem(&chain).map_err(|e| broken(ENROLLER_CERTIFICATE, &e))?;
                let enroller = Enroller::new(&owner.trust_domain, chain, key);
                Some(enroller.map_err(|e| broken(ENROLLER_CERTIFICATE, &e))?)
            }
            (_, _) => None,
        };
        Ok(Self {
            trust_domain: owner.trust_domain.clone(),
            node: owner.node.clone(),
            record_key: Arc::new(record_key),
            ca: ArcSwap::from_pointee(ca),
            enroller: ArcSwapOption::from_pointee(enroller),
            held: Mutex::default(),
            handed: Mutex::default(),
            leafs: Arc::new(ArcSwap::from_pointee(Leafs::default())),
        })
    }

    /// The node's own identity.
    pub fn own(&self) -> SpiffeId {
        SpiffeId::node(self.trust_domain.clone(), self.node.clone())
    }

    /// The node's name.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// The mesh.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The key that signs records and receipts.
    pub fn record_key(&self) -> &Arc<SigningKey> {
        &self.record_key
    }

    /// The leafs that TLS shows.
    pub fn leafs(&self) -> &Arc<ArcSwap<Leafs>> {
        &self.leafs
    }

    /// The node CA in use.
    pub fn ca(&self) -> Arc<NodeCa> {
        self.ca.load_full()
    }

    /// The enroller CA, on enrollers.
    pub fn enroller(&self) -> Option<Arc<Enroller>> {
        self.enroller.load_full()
    }

    /// A request for the certificate of this node's enroller CA, whose key is made and kept here at the first one.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn enroller_request(&self, dir: &StateDir) -> Result<Vec<u8>, Error> {
        Ok(enroller_key(dir)?.request(&self.node))
    }

    /// Takes an enroller CA's certificate into use, on disk first.
    ///
    /// # Errors
    /// `bad_request` if it is not for this node's enroller key; or the disk refuses.
    pub fn enrols(&self, dir: &StateDir, certificate: Vec<u8>) -> Result<(), Error> {
        let pem = bundle_to_pem(std::slice::from_ref(&certificate));
        let key = enroller_key(dir)?;
        let enroller = Enroller::new(&self.trust_domain, vec![certificate], key).map_err(|error| {
            let hint = "make a new request here: skein ca csr";
            fail("bad_request", format!("not a certificate of this node's enroller CA: {error}"), hint)
        })?;
        if *enroller.node() != self.node {
            return Err(fail("bad_request", format!("it certifies {}", enroller.node()), "install it at that node"));
        }
        dir.write(ENROLLER_CERTIFICATE, pem.as_bytes())?;
        self.enroller.store(Some(Arc::new(enroller)));
        Ok(())
    }

    /// A secret of this node alone that survives restarts, for `purpose`.
    pub fn secret(&self, purpose: &str) -> [u8; 32] {
        let mut bytes = purpose.as_bytes().to_vec();
        bytes.push(0);
        let key = self.record_key.to_pem();
        bytes.extend_from_slice(key.as_bytes());
        let digest = Digest::of(&bytes);
        zeroize::Zeroize::zeroize(&mut bytes);
        digest.0
    }

    /// Takes a renewed node CA into use, on disk first. Leafs follow at the next refresh.
    ///
    /// # Errors
    /// It is not this node's, does not hold under `authority` at `now`, or the disk refuses: the old one stays.
    pub fn renewed(
        &self,
        dir: &StateDir,
        chain: Vec<Vec<u8>>,
        authority: &Authority,
        now: Millis,
    ) -> Result<(), Error> {
        let der: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let unfit =
            |what: &str| fail("failed", what, "is this clock right? another enroller is asked next; its log says more");
        verify_ca(&der, authority, now)
            .map_err(|e| unfit(&format!("the renewed certificate does not hold here: {e}")))?;
        let key = CaKey::from_pem(&self.ca.load().key().to_pem()).map_err(internal)?;
        let pem = bundle_to_pem(&chain);
        let ca = NodeCa::new(&self.trust_domain, chain, key)
            .map_err(|e| unfit(&format!("the enroller sent no usable certificate: {e}")))?;
        if ca.grant().node != self.node || ca.grant().record_key != Some(self.record_key.public()) {
            return Err(unfit("the enroller certified somebody else"));
        }
        dir.write(CA_CERTIFICATES, pem.as_bytes())?;
        self.ca.store(Arc::new(ca));
        // Every leaf of the old CA is due: it may end with it, or lack what was granted since.
        for held in lock(&self.held).values_mut() {
            held.renew_at = 0;
        }
        Ok(())
    }

    /// Issues the leafs that `accounts` and the node need and that are missing or past half of their life; drops others.
    /// `jitter` in 0..1 spreads the next renewal.
    pub fn refresh(
        &self,
        accounts: &BTreeSet<ServiceAccount>,
        lifetimes: &CertificateLifetimes,
        now: Millis,
        jitter: f64,
    ) -> Refreshed {
        let ca = self.ca.load();
        let service = |account: &ServiceAccount| SpiffeId::service(self.trust_domain.clone(), account.clone());
        let wanted: BTreeSet<SpiffeId> = accounts.iter().map(service).chain([self.own()]).collect();
        let mut held = lock(&self.held);
        let (mut failed, mut changed) = (Vec::new(), false);
        held.retain(|id, _| {
            let keep = wanted.contains(id);
            changed |= !keep;
            keep
        });
        for id in wanted {
            let life = millis(match &id.subject {
                Subject::Service(_) => lifetimes.leaf,
                Subject::Node(_) => lifetimes.node_identity,
            });
            // What shall live shorter does so from now on; a clock that was ahead when it was made has been set back.
            let stands = |held: &Held| held.renew_at > now && held.life <= life && !is_ahead(held.made, now);
            if held.get(&id).is_some_and(stands) {
                continue;
            }
            match ca.leaf_for(&id, life, now) {
                Ok(leaf) => {
                    changed = true;
                    let half = leaf.not_after.saturating_sub(now) as f64 * (0.45 + 0.1 * jitter);
                    held.insert(id, Held { made: now, renew_at: now + half as Millis, leaf, life });
                }
                Err(error) => failed.push((id, error.to_string())),
            }
        }
        if changed {
            let mut leafs = Leafs::default();
            held.values().for_each(|held| leafs.insert(&held.leaf));
            self.leafs.store(Arc::new(leafs));
        }
        // What failed is tried again soon: the CA may be renewed meanwhile.
        let due = held.values().map(|held| held.renew_at).min().unwrap_or(Millis::MAX);
        Refreshed { due: if failed.is_empty() { due } else { due.clamp(now + 1_000, now + 30_000) }, failed }
    }

    /// Makes leafs due whose keys operators revoked: a new one gets a new key.
    pub fn replace_revoked(&self, keys: &HashSet<Digest>) {
        if keys.is_empty() {
            return;
        }
        for held in lock(&self.held).values_mut() {
            let leaf = held.leaf.chain.first().map(|der| der.to_vec());
            let described = leaf.and_then(|leaf| describe(&[leaf]).ok()?.pop());
            if described.is_some_and(|leaf| keys.contains(&leaf.key)) {
                held.renew_at = 0;
            }
        }
    }

    /// Whether every leaf rests on this enroller CA.
    pub fn shows_only(&self, enroller: Option<CertificateDer<'_>>) -> bool {
        let held = lock(&self.held);
        held.values().all(|held| held.leaf.chain.last() == enroller.as_ref())
    }

    /// Certificates for those who ask at `now`.
    pub fn facts(&self, now: Millis) -> IdentityFacts {
        let ca = self.ca.load();
        let held = lock(&self.held);
        let leaf = |held: &Held| LeafFacts {
            id: held.leaf.id.clone(),
            chain: held.leaf.chain.iter().map(|der| der.to_vec()).collect(),
            not_before: held.leaf.not_before,
            not_after: held.leaf.not_after,
            uid: None,
        };
        let handed = lock(&self.handed);
        let enroller = self.enroller.load();
        IdentityFacts {
            id: self.own(),
            ca_chain: ca.chain().to_vec(),
            ca_not_before: ca.not_before(),
            ca_not_after: ca.not_after(),
            leafs: held.values().map(leaf).collect(),
            handed: handed.facts(now).collect(),
            enroller: enroller.as_ref().map(|enroller| enroller.not_after()),
            enroller_life: enroller.as_ref().map(|enroller| life(enroller.not_before(), enroller.not_after())),
        }
    }
}

/// Whether a time of the past is one of the future, beyond what others tolerate: the clock was ahead then, and has been set back.
pub(super) fn is_ahead(past: Millis, now: Millis) -> bool {
    past > now.saturating_add(CLOCK_TOLERANCE)
}

/// Milliseconds.
pub(super) fn millis(life: Duration) -> Millis {
    Millis::try_from(life.as_millis()).unwrap_or(Millis::MAX)
}

fn enroller_key(dir: &StateDir) -> Result<CaKey, Error> {
    if let Some(pem) = dir.read(ENROLLER_KEY)? {
        let broken = |error| {
            let message = format!("{}: {error}", dir.path().join(ENROLLER_KEY).display());
            fail("storage_failed", message, "restore it from a backup, or remove it to have a new one made")
        };
        return CaKey::from_pem(&pem).map_err(broken);
    }
    let key = CaKey::generate();
    dir.write(ENROLLER_KEY, key.to_pem().as_bytes())?;
    Ok(key)
}

#[cfg(test)]
mod tests;
