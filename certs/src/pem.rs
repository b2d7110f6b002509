//! PEM around keys and certificates.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::{Zeroize, Zeroizing};

use crate::error::Error;

/// One PEM block.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    // Sized at once: a string that grows leaves copies of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(base64.len() * 65 / 64 + 2 * label.len() + 40));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// The first PKCS#8 `PRIVATE KEY` of a text.
pub(crate) fn private_key(text: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut key =
        PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| Error::Pem { expected: "private key" })?;
    let der = Zeroizing::new(key.secret_pkcs8_der().to_vec());
    key.zeroize();
    Ok(der)
}

/// The first PKCS#10 `CERTIFICATE REQUEST` of a text.
pub(crate) fn request(text: &str) -> Result<Vec<u8>, Error> {
    let request = CertificateSigningRequestDer::from_pem_slice(text.as_bytes());
    request.map(|request| request.as_ref().to_vec()).map_err(|_| Error::Pem { expected: "certificate request" })
}

/// All certificates of a PEM text, e.g. `bundle.pem`; at least one.
pub(crate) fn certificates(text: &str) -> Result<Vec<Vec<u8>>, Error> {
    let bad = Error::Pem { expected: "certificate" };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let ders: Vec<Vec<u8>> = read.map_err(|_| bad.clone())?.into_iter().map(|c| c.as_ref().to_vec()).collect();
    if ders.is_empty() { Err(bad) } else { Ok(ders) }
}
