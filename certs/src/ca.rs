//! CAs below the root: the enroller's, which certifies node CAs, and each node's own, which issues its leafs.

mod request;

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use rcgen::{CertificateParams, DnType, Issuer, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::{
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use zeroize::{Zeroize, Zeroizing};

pub use request::{MAX_REQUEST, request_from_pem, request_to_pem, requested_key};

use crate::{
    certificate::{Certificate, leaf_life, p256_spki},
    codec::{self, Millis},
    error::Error,
    grant::{Grant, MAX_GRANT, NodeGrant},
    id::{NodeId, SpiffeId, Subject, TrustDomain},
    pem,
    redemption::{Redeemed, Redemption, vouches},
    root::Root,
    sign::{Digest, PublicKey},
    template::{self, Validity},
    verify::{Link, MAX_CHAIN},
};

/// Bytes of a chain that stay free for the leaf.
const LEAF_ROOM: usize = 1536;
/// Bytes by which signatures and serial numbers of one chain may be longer than another's.
const SIGNATURE_SLACK: usize = 64;

/// A P-256 key of a CA; made where it is used and never sent. Zeroized on drop (by aws-lc, which alone holds it).
pub struct CaKey {
    pair: EcdsaKeyPair,
}

impl CaKey {
    /// A fresh key.
    pub fn generate() -> CaKey {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        CaKey { pair: pair.expect("the system's random source works") }
    }

    /// Reads the first PKCS#8 `PRIVATE KEY` of a text.
    ///
    /// # Errors
    /// [`Error::Pem`]: there is none. [`Error::Key`]: it is not P-256.
    pub fn from_pem(text: &str) -> Result<CaKey, Error> {
        let der = pem::private_key(text)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der);
        Ok(CaKey { pair: pair.map_err(|_| Error::Key { expected: "P-256" })? })
    }

    /// The key as a PKCS#8 `PRIVATE KEY`.
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.to_pkcs8())
    }

    /// The key as PKCS#8 in DER.
    fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.pair.to_pkcs8v1().expect("a key that exists can be written").as_ref().to_vec())
    }

    /// The public half as a SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> Vec<u8> {
        p256_spki(self.der_bytes())
    }

    /// A PKCS#10 request in `node`'s name; it proves possession of the key and asks for nothing.
    pub fn request(&self, node: &NodeId) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        params.serialize_request(self).expect("a key that exists signs a well-formed request").der().to_vec()
    }
}

/// A CA that certifies node CAs.
#[derive(Debug)]
pub struct Enroller {
    trust_domain: TrustDomain,
    chain: Vec<Vec<u8>>,
    grant: Grant,
    validity: Validity,
    key: CaKey,
}

impl Enroller {
    /// `chain` is the enroller certificate alone (the root is not part of it); `key` must be its own.
    ///
    /// # Errors
    /// [`Error::Certificate`]: the chain has another length or shape, or the key is another one's.
    pub fn new(trust_domain: &TrustDomain, chain: Vec<Vec<u8>>, key: CaKey) -> Result<Enroller, Error> {
        let [der] = chain.as_slice() else {
            return Err(Error::Certificate("an enroller's chain is one certificate".into()));
        };
        let certificate = Certificate::parse(der, Link::Enroller)?;
        belongs(&certificate, &key)?;
        let (grant, validity) = (certificate.grant().clone(), certificate.validity());
        Ok(Enroller { trust_domain: trust_domain.clone(), chain, grant, validity, key })
    }

    /// The enroller's certificate.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The node that enrols.
    pub fn node(&self) -> &NodeId {
        &self.grant.node
    }

    /// Begin of the enroller's certificate.
    pub fn not_before(&self) -> Millis {
        self.validity.not_before
    }

    /// End of the enroller's certificate.
    pub fn not_after(&self) -> Millis {
        self.validity.not_after
    }

    /// Certifies the keys of a node by the grant that operators signed, for `life` milliseconds, at most 30 days with the backdating,
    /// within the enroller's own validity. Returns node CA, then enroller CA.
    ///
    /// The enroller that the grant names says that these keys redeemed the invite; who calls has seen to that. Any other one passes on
    /// what the node's chain until now, `old`, shows of it.
    ///
    /// # Errors
    /// [`Error::Unredeemed`] if it shows nothing. [`Error::WiderGrant`], [`Error::TooLarge`], [`Error::IssuerNotValid`] at `now`;
    /// [`Error::Key`] if the key is not P-256.
    pub fn certify(
        &self,
        signed: &NodeGrant,
        (spki, record_key): (&[u8], PublicKey),
        old: Option<&[Vec<u8>]>,
        life: Millis,
        now: Millis,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let redemption = if vouches(&self.grant, signed) {
            let (trust_domain, ca_key) = (&self.trust_domain, Digest::of(spki));
            Redeemed { trust_domain, signed, ca_key, record_key: &record_key }.sign(&self.key)?
        } else {
            let (node, redeemer) = (signed.node.clone(), signed.redeemed_by().clone());
            old.and_then(Redemption::shown).ok_or(Error::Unredeemed { node, redeemer })?
        };
        self.issue(spki, &signed.certified(record_key), Some(&redemption), life, now)
    }

    /// Certifies whatever it is told, for 30 days and with no word on who redeemed an invite: for tests, and for what a thief could do.
    ///
    /// # Errors
    /// As [`Enroller::certify`], but for the invite; [`Error::Certificate`] for a grant that is no node CA's.
    pub fn issue_node_unchecked(&self, spki: &[u8], grant: &Grant, now: Millis) -> Result<Vec<Vec<u8>>, Error> {
        self.issue(spki, grant, None, Link::NodeCa.longest_life(), now)
    }

    fn issue(
        &self,
        spki: &[u8],
        grant: &Grant,
        redemption: Option<&Redemption>,
        life: Millis,
        now: Millis,
    ) -> Result<Vec<Vec<u8>>, Error> {
        if let Some(pattern) = grant.wider_than(&self.grant) {
            return Err(Error::WiderGrant(pattern.clone()));
        }
        if grant.enroller || grant.record_key.is_none() {
            return Err(Error::Certificate("a node CA has a record key and does not enrol".into()));
        }
        let bytes = codec::encode(grant).len();
        if bytes > MAX_GRANT {
            return Err(Error::TooLarge { bytes, limit: MAX_GRANT });
        }
        let validity = Validity::lasting(now, life, Link::NodeCa.longest_life()).within(self.validity, now)?;
        let own = CertificateDer::from(self.chain[0].as_slice());
        let issuer = Issuer::from_ca_cert_der(&own, &self.key).map_err(Error::issue)?;
        let params = template::node(&self.trust_domain, grant, redemption, validity);
        let node = params.signed_by(&template::public_key(spki)?, &issuer).map_err(Error::issue)?;
        let chain = vec![node.der().to_vec(), self.chain[0].clone()];
        // Another enroller adds the redeemer's certificate when it renews.
        let redeemer = redemption.and_then(Redemption::redeemer).map_or(self.chain[0].len(), |_| 0);
        let bytes = chain.iter().map(Vec::len).sum::<usize>() + redeemer + LEAF_ROOM;
        if bytes > MAX_CHAIN {
            return Err(Error::TooLarge { bytes, limit: MAX_CHAIN });
        }
        Ok(chain)
    }
}

impl NodeGrant {
    /// Whether any enroller of the mesh can certify all of it: it takes a certificate for granted that nobody holds, by an enroller whose
    /// name is as long as names get.
    ///
    /// # Errors
    /// [`Error::TooLarge`]: it names more services or accounts than a certificate holds.
    pub fn fits(&self, trust_domain: &TrustDomain) -> Result<(), Error> {
        // Nothing of this leaves here, so any time will do.
        const NOW: Millis = 1_800_000_000_000;
        let (root, key, guest) = (Root::generate(trust_domain, NOW), CaKey::generate(), CaKey::generate());
        let redeemer = NodeId::new(&"e".repeat(63)).expect("a name as long as they get");
        let certificate = root.issue_enroller(&redeemer, u64::MAX, &key.spki(), NOW)?;
        let enroller = Enroller::new(trust_domain, vec![certificate], key)?;
        let signed = NodeGrant { redeemer: Some(redeemer), epoch: u64::MAX, ..self.clone() };
        let chain =
            enroller.certify(&signed, (&guest.spki(), PublicKey([0; 32])), None, Link::NodeCa.longest_life(), NOW)?;
        let bytes = chain[0].len() + 2 * chain[1].len() + LEAF_ROOM + SIGNATURE_SLACK;
        if bytes > MAX_CHAIN { Err(Error::TooLarge { bytes, limit: MAX_CHAIN }) } else { Ok(()) }
    }
}

/// How long a certificate of this mesh lives from its issue on: what lies before, for clocks that are behind, is nobody's life.
#[must_use]
pub fn life(not_before: Millis, not_after: Millis) -> Millis {
    not_after.saturating_sub(not_before.saturating_add(template::BACKDATING))
}

/// A node's own CA.
#[derive(Debug)]
pub struct NodeCa {
    trust_domain: TrustDomain,
    chain: Vec<Vec<u8>>,
    grant: Grant,
    enroller: NodeId,
    validity: Validity,
    key: CaKey,
}

/// A leaf certificate with its private key, which lives in memory only.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Whose it is.
    pub id: SpiffeId,
    /// Leaf, node CA, enroller CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// Chain and key in the form that rustls wants.
    pub key: Arc<CertifiedKey>,
    /// Begin of validity.
    pub not_before: Millis,
    /// End of validity.
    pub not_after: Millis,
}

/// A leaf certificate whose private key goes to an application. Zeroized on drop.
pub struct Svid {
    /// Whose it is.
    pub id: SpiffeId,
    /// Leaf, node CA, enroller CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key, PKCS#8 in DER.
    pub key: Zeroizing<Vec<u8>>,
    /// Begin of validity.
    pub not_before: Millis,
    /// End of validity.
    pub not_after: Millis,
}

impl NodeCa {
    /// `chain` is node CA, then enroller CA; `key` must be the first one's.
    ///
    /// # Errors
    /// [`Error::Certificate`]: the chain has another length or shape, or does not hold together, or the key is another one's.
    pub fn new(trust_domain: &TrustDomain, chain: Vec<Vec<u8>>, key: CaKey) -> Result<NodeCa, Error> {
        let [node, enroller] = chain.as_slice() else {
            return Err(Error::Certificate("a node's chain is node CA, enroller CA".into()));
        };
        let certificate = Certificate::parse(node, Link::NodeCa)?;
        belongs(&certificate, &key)?;
        let enroller = Certificate::parse(enroller, Link::Enroller)?;
        if !certificate.is_signed_by(&enroller) {
            return Err(Error::Certificate("the enroller CA did not sign the node CA".into()));
        }
        let (grant, validity) = (certificate.grant().clone(), certificate.validity());
        let enroller = enroller.grant().node.clone();
        Ok(NodeCa { trust_domain: trust_domain.clone(), chain, grant, enroller, validity, key })
    }

    /// What the certificate allows; the NodeGrant may allow less.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The node whose enroller CA certified this one. Who verifies this node needs that one's NodeGrant too.
    pub fn enroller(&self) -> &NodeId {
        &self.enroller
    }

    /// Node CA, enroller CA.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// Begin of the CA's validity.
    pub fn not_before(&self) -> Millis {
        self.validity.not_before
    }

    /// When the CA was certified, by its begin: that lies before for clocks that are behind.
    pub fn issued(&self) -> Millis {
        self.validity.not_after - life(self.validity.not_before, self.validity.not_after)
    }

    /// End of the CA's validity.
    pub fn not_after(&self) -> Millis {
        self.validity.not_after
    }

    /// The key, for renewal requests.
    pub fn key(&self) -> &CaKey {
        &self.key
    }

    /// As [`NodeCa::leaf_for`]: 1 h for a service, 24 h with the backdating for the node itself.
    ///
    /// # Errors
    /// As [`NodeCa::leaf_for`].
    pub fn leaf(&self, id: &SpiffeId, now: Millis) -> Result<Leaf, Error> {
        self.leaf_for(id, leaf_life(&id.subject), now)
    }

    /// Issues a leaf with a fresh key that lasts `life` milliseconds from now on, at most 24 h with the backdating of 5 min, within
    /// the CA's validity.
    ///
    /// # Errors
    /// [`Error::OutsideGrant`]: this CA may not give the identity. [`Error::IssuerNotValid`]: it is not valid `now`.
    pub fn leaf_for(&self, id: &SpiffeId, life: Millis, now: Millis) -> Result<Leaf, Error> {
        let (chain, key, Validity { not_before, not_after }) = self.certify(id, life, now)?;
        let key = Arc::new(CertifiedKey::new(chain.clone(), key.into_rustls()));
        Ok(Leaf { id: id.clone(), chain, key, not_before, not_after })
    }

    /// As [`NodeCa::leaf_for`], for an application that holds the key itself.
    ///
    /// # Errors
    /// As [`NodeCa::leaf_for`].
    pub fn svid_for(&self, id: &SpiffeId, life: Millis, now: Millis) -> Result<Svid, Error> {
        let (chain, key, Validity { not_before, not_after }) = self.certify(id, life, now)?;
        Ok(Svid { id: id.clone(), chain, key: key.to_pkcs8(), not_before, not_after })
    }

    fn certify(
        &self,
        id: &SpiffeId,
        life: Millis,
        now: Millis,
    ) -> Result<(Vec<CertificateDer<'static>>, CaKey, Validity), Error> {
        let granted = match &id.subject {
            Subject::Service(account) => self.grant.allows_account(account),
            Subject::Node(node) => *node == self.grant.node,
        };
        if !granted || id.trust_domain != self.trust_domain {
            return Err(Error::OutsideGrant(id.clone()));
        }
        let validity = Validity::lasting(now, life, Link::Leaf.longest_life()).within(self.validity, now)?;
        let own = CertificateDer::from(self.chain[0].as_slice());
        let issuer = Issuer::from_ca_cert_der(&own, &self.key).map_err(Error::issue)?;
        let key = CaKey::generate();
        let certificate = template::leaf(id, validity).signed_by(&key, &issuer).map_err(Error::issue)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().map(|der| CertificateDer::from(der.clone())));
        Ok((chain, key, validity))
    }
}

fn belongs(certificate: &Certificate<'_>, key: &CaKey) -> Result<(), Error> {
    if certificate.spki == key.spki() {
        Ok(())
    } else {
        Err(Error::Certificate(format!("{}: the key is another one's", certificate.link)))
    }
}

impl CaKey {
    /// The key in the hands of rustls; the copy in between is wiped.
    fn into_rustls(self) -> Arc<dyn rustls::sign::SigningKey> {
        let document = self.pair.to_pkcs8v1().expect("a key that exists can be written");
        let mut der = PrivateKeyDer::Pkcs8(document.as_ref().to_vec().into());
        let key = any_ecdsa_type(&der).expect("rustls signs with P-256");
        der.zeroize();
        key
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        signature.map(|s| s.as_ref().to_vec()).map_err(|_| rcgen::Error::RingUnspecified)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Svid({}, {} to {})", self.id, self.not_before, self.not_after)
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaKey({})", Digest::of(&self.spki()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(services: usize, account: impl Fn(usize) -> String) -> NodeGrant {
        let service = |n| format!("shop/service-number-{n}={}", account(n)).parse().unwrap();
        NodeGrant {
            node: NodeId::new("web-1").unwrap(),
            epoch: 1,
            services: (0..services).map(service).collect(),
            token_hash: None,
            redeemer: None,
            token_expires: None,
            enroller: false,
            retired: false,
        }
    }

    #[test]
    fn what_no_certificate_holds_does_not_fit() {
        let mesh = TrustDomain::new("prod.example").unwrap();
        let (own, one) = (|n| format!("account-number-{n}"), |_| "default".to_owned());
        granted(40, own).fits(&mesh).unwrap();
        granted(140, one).fits(&mesh).unwrap();
        for grant in [granted(300, own), granted(1_000, one)] {
            let error = grant.fits(&mesh).unwrap_err();
            assert!(matches!(error, Error::TooLarge { .. }) && error.to_string().contains("the limit is"), "{error}");
        }
    }

    /// What fits is certified, whoever does it and however names and signatures turn out; and a verifier can read it.
    #[test]
    fn what_fits_is_certified_and_read() {
        let mesh = TrustDomain::new("prod.example").unwrap();
        let own = |n| format!("account-number-{n}");
        let most = (40..300).take_while(|n| granted(*n, own).fits(&mesh).is_ok()).last().unwrap();
        let now = 1_800_000_000_000;
        let (root, key, guest) = (Root::generate(&mesh, now), CaKey::generate(), CaKey::generate());
        let first = NodeId::new("first").unwrap();
        let certificate = root.issue_enroller(&first, 1, &key.spki(), now).unwrap();
        let enroller = Enroller::new(&mesh, vec![certificate], key).unwrap();
        let signed = NodeGrant { redeemer: Some(first), ..granted(most, own) };
        let keys = (guest.spki(), PublicKey([0; 32]));
        let chain = enroller.certify(&signed, (&keys.0, keys.1), None, Link::NodeCa.longest_life(), now).unwrap();
        NodeCa::new(&mesh, chain, guest).unwrap();
    }

    #[test]
    fn keys_survive_their_pem_files() {
        let key = CaKey::generate();
        let read = CaKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(read.spki(), key.spki());
        let other_sort = crate::sign::SigningKey::generate().to_pem();
        assert_eq!(CaKey::from_pem(&other_sort).unwrap_err(), Error::Key { expected: "P-256" });
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        assert_eq!(CaKey::from_pem(&p384).unwrap_err(), Error::Key { expected: "P-256" });
        assert_eq!(format!("{key:?}"), format!("CaKey({})", Digest::of(&key.spki())));
    }
}
