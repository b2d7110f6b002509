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

    /// Certifies the enroller CA of `node` for a year: `spki` is its CA key, `epoch` that of its NodeGrant.
    pub fn issue_enroller(&self, node: &NodeId, epoch: u64, spki: &[u8], now: Millis) -> Result<Vec<u8>, Error> {
        let validity = Validity::fresh(now, Link::Enroller.longest_life()).within(self.validity, now)?;
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

/// Writes certificates as PEM, e.g. `bundle.pem`.
pub fn bundle_to_pem(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect()
}

/// Reads the certificates of a PEM text; at least one.
pub fn bundle_from_pem(text: &str) -> Result<Vec<Vec<u8>>, Error> {
    pem::certificates(text)
}
