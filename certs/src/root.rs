//! The mesh's root: a key that signs enroller CAs, and nothing else.

use std::fmt;

use rcgen::Issuer;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::{
    ca::CaKey,
    certificate::Certificate,
    codec::Millis,
    error::Error,
    id::{NodeId, TrustDomain},
    pem,
    sign::Digest,
    template::{self, Validity},
    verify::Link,
};

/// A root certificate with its private key.
pub struct Root {
    trust_domain: TrustDomain,
    certificate: CertificateDer<'static>,
    validity: Validity,
    key: CaKey,
}

impl Root {
    /// A fresh root, valid for 10 years from five minutes before `now`.
    pub fn generate(trust_domain: &TrustDomain, now: Millis) -> Root {
        let key = CaKey::generate();
        let validity = Validity::fresh(now, Link::Root.longest_life());
        let short = &Digest::of(&key.spki()).to_string()[..16];
        let certificate = template::root(trust_domain, short, validity).self_signed(&key);
        let certificate = certificate.expect("a fresh key signs a well-formed template").der().clone();
        Root { trust_domain: trust_domain.clone(), certificate, validity, key }
    }

    /// Reads certificate and key, as [`Root::to_pem`] wrote them.
    pub fn from_pem(trust_domain: &TrustDomain, text: &str) -> Result<Root, Error> {
        let der = pem::certificates(text)?.swap_remove(0);
        let key = CaKey::from_pem(text)?;
        let certificate = Certificate::parse(&der, Link::Root)?;
        if certificate.spki != key.spki() {
            return Err(Error::Certificate("the key is another one's".into()));
        }
        let validity = certificate.validity();
        Ok(Root { trust_domain: trust_domain.clone(), certificate: der.into(), validity, key })
    }

    /// `CERTIFICATE`, then `PRIVATE KEY`.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let (certificate, key) = (pem::encode("CERTIFICATE", &self.certificate), self.key.to_pem());
        let mut text = Zeroizing::new(String::with_capacity(certificate.len() + key.len()));
        text.push_str(&certificate);
        text.push_str(&key);
        text
    }

    /// The certificate in DER: what a trust bundle holds.
    pub fn certificate(&self) -> Vec<u8> {
        self.certificate.to_vec()
    }

    /// End of validity.
    pub fn not_after(&self) -> Millis {
        self.validity.not_after
    }

    /// As [`Root::issue_enroller_for`], for the longest life: a year.
    pub fn issue_enroller(&self, node: &NodeId, epoch: u64, spki: &[u8], now: Millis) -> Result<Vec<u8>, Error> {
        self.issue_enroller_for(node, epoch, spki, Link::Enroller.longest_life(), now)
    }

    /// Certifies the enroller CA of `node` for `life` milliseconds, at most a year: `spki` is its CA key, `epoch` that of its
    /// NodeGrant.
    pub fn issue_enroller_for(
        &self,
        node: &NodeId,
        epoch: u64,
        spki: &[u8],
        life: Millis,
        now: Millis,
    ) -> Result<Vec<u8>, Error> {
        let validity = Validity::lasting(now, life, Link::Enroller.longest_life()).within(self.validity, now)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(Error::issue)?;
        let params = template::enroller(&self.trust_domain, node, epoch, validity);
        let certificate = params.signed_by(&template::public_key(spki)?, &issuer).map_err(Error::issue)?;
        Ok(certificate.der().to_vec())
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({}, {:?})", self.trust_domain, self.key)
    }
}

/// When a root's certificate ends; none if it is no root's.
pub fn ends(root: &[u8]) -> Option<Millis> {
    Certificate::parse(root, Link::Root).ok().map(|root| root.not_after)
}

/// SHA-256 of a root's SubjectPublicKeyInfo, as a revocation names it; none if it is no root's.
pub fn root_key(root: &[u8]) -> Option<Digest> {
    Certificate::parse(root, Link::Root).ok().map(|root| root.key())
}

/// The mesh that a root's certificate names. None if it is no root's, or the name is so long that the certificate holds its beginning only.
pub fn trust_domain_of(root: &[u8]) -> Option<TrustDomain> {
    let organization = Certificate::parse(root, Link::Root).ok()?.organization()?;
    TrustDomain::new(&organization).ok().filter(|name| name.as_str().len() < template::ORGANIZATION)
}

/// Writes certificates as PEM, e.g. `bundle.pem`.
pub fn bundle_to_pem(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect()
}

/// Reads the certificates of a PEM text; at least one.
pub fn bundle_from_pem(text: &str) -> Result<Vec<Vec<u8>>, Error> {
    pem::certificates(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_800_000_000_000;

    #[test]
    fn a_root_survives_its_pem_file() {
        let trust_domain = TrustDomain::new("prod.example").expect("a good name");
        let root = Root::generate(&trust_domain, NOW);
        let text = root.to_pem();
        let read = Root::from_pem(&trust_domain, &text).unwrap();
        assert_eq!((read.certificate(), read.not_after()), (root.certificate(), root.not_after()));
        let node = NodeId::new("a").unwrap();
        assert!(read.issue_enroller(&node, 1, &CaKey::generate().spki(), NOW).is_ok());
        // The key of one with the certificate of the other.
        let other = Root::generate(&trust_domain, NOW);
        let mixed = format!("{}{}", bundle_to_pem(&[root.certificate()]), *other.key.to_pem());
        assert!(matches!(Root::from_pem(&trust_domain, &mixed), Err(Error::Certificate(_))));
        assert!(Root::from_pem(&trust_domain, &bundle_to_pem(&[root.certificate()])).is_err());
        assert!(!format!("{root:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_root_names_its_mesh() {
        let named = |length: usize| {
            let label = format!("{}.example", "a".repeat(length - ".example".len()));
            let trust_domain = TrustDomain::new(&label).unwrap();
            trust_domain_of(&Root::generate(&trust_domain, NOW).certificate()).map(|found| found == trust_domain)
        };
        assert_eq!([12, 63, 64, 70].map(named), [Some(true), Some(true), None, None]);
        assert_eq!(trust_domain_of(b"no certificate"), None);
    }

    #[test]
    fn bundles_survive_their_pem_files() {
        let trust_domain = TrustDomain::new("prod.example").unwrap();
        let bundle = [0, 1].map(|_| Root::generate(&trust_domain, NOW).certificate()).to_vec();
        assert_eq!(bundle_from_pem(&bundle_to_pem(&bundle)), Ok(bundle));
        assert_eq!(bundle_from_pem(""), Err(Error::Pem { expected: "certificate" }));
    }

    #[test]
    fn a_root_issues_within_its_own_years() {
        let root = Root::generate(&TrustDomain::new("prod.example").unwrap(), NOW);
        let node = NodeId::new("a").unwrap();
        let issue = |spki: &[u8], now| root.issue_enroller(&node, 1, spki, now);
        let spki = CaKey::generate().spki();
        assert!(matches!(issue(&spki, root.not_after()), Err(Error::IssuerNotValid { .. })));
        assert!(matches!(issue(&spki, NOW - 86_400_000), Err(Error::IssuerNotValid { .. })));
        let last = issue(&spki, root.not_after() - 1000).unwrap();
        assert_eq!(Certificate::parse(&last, Link::Enroller).unwrap().not_after, root.not_after());
        assert!(matches!(issue(&[], NOW), Err(Error::Key { .. })));
    }
}
