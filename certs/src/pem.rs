//! PEM around keys and certificates, and the one piece of DER that we write ourselves.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
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

/// All certificates of a PEM text, e.g. `bundle.pem`; at least one.
pub(crate) fn certificates(text: &str) -> Result<Vec<Vec<u8>>, Error> {
    let bad = Error::Pem { expected: "certificate" };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let ders: Vec<Vec<u8>> = read.map_err(|_| bad.clone())?.into_iter().map(|c| c.as_ref().to_vec()).collect();
    if ders.is_empty() { Err(bad) } else { Ok(ders) }
}

/// A DER OCTET STRING.
pub(crate) fn octet_string(content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|b| **b == 0).count().min(length.len() - 1)..];
    let mut der = vec![0x04];
    if content.len() >= 0x80 {
        der.push(0x80 | length.len() as u8);
    }
    der.extend_from_slice(length);
    der.extend_from_slice(content);
    der
}

/// The content of a DER OCTET STRING that fills all of `der`; only the shortest form of the length is taken.
pub(crate) fn from_octet_string(der: &[u8]) -> Option<&[u8]> {
    let header = der.len().checked_sub(content_length(der)?)?;
    let content = &der[header..];
    (octet_string(content).len() == der.len() && der.starts_with(&octet_string(content)[..header])).then_some(content)
}

fn content_length(der: &[u8]) -> Option<usize> {
    match der {
        [0x04, short, ..] if *short < 0x80 => Some(usize::from(*short)),
        [0x04, 0x81, length, ..] => Some(usize::from(*length)),
        [0x04, 0x82, high, low, ..] => Some(usize::from(*high) << 8 | usize::from(*low)),
        _ => None,
    }
}
