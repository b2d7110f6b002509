//! What a node asks its enroller to certify: a PKCS#10 request in its name.

use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::{
    certificate::{is_ecdsa_sha256, p256_only, signature_holds},
    error::Error,
    id::NodeId,
    pem,
};

/// Most bytes of a certificate request.
pub const MAX_REQUEST: usize = 2048;

/// Checks a PKCS#10 request (its own signature, P-256, the subject's name, no attributes) and takes its key's SubjectPublicKeyInfo.
///
/// # Errors
/// [`Error::Request`]: it asks for more, or is none, or its signature does not hold.
pub fn requested_key(request: &[u8], node: &NodeId) -> Result<Vec<u8>, Error> {
    let refused = |why: &str| Err(Error::Request(why.into()));
    if request.len() > MAX_REQUEST {
        return refused("more than 2048 bytes");
    }
    let Ok(([], parsed)) = X509CertificationRequest::from_der(request) else {
        return refused("not PKCS#10");
    };
    let info = &parsed.certification_request_info;
    let Some(spki) = p256_only(&info.subject_pki) else {
        return refused("its key is not P-256");
    };
    if !is_ecdsa_sha256(&parsed.signature_algorithm) || !signature_holds(spki, info.raw, &parsed.signature_value.data) {
        return refused("its signature does not hold");
    }
    let mut names = info.subject.iter_attributes();
    let own_name = info.subject.iter_common_name().next().and_then(|name| name.as_str().ok()) == Some(node.as_str());
    if !own_name || names.nth(1).is_some() {
        return refused("its subject is not the node's name");
    }
    if !info.attributes().is_empty() {
        return refused("it asks for more than a key's certification");
    }
    Ok(spki.to_vec())
}

/// A request as a PEM file.
pub fn request_to_pem(request: &[u8]) -> String {
    pem::encode("CERTIFICATE REQUEST", request).to_string()
}

/// The first request of a PEM text.
///
/// # Errors
/// There is none.
pub fn request_from_pem(text: &str) -> Result<Vec<u8>, Error> {
    pem::request(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::CaKey;

    #[test]
    fn requests_prove_the_key() {
        let (key, node) = (CaKey::generate(), NodeId::new("web-1").unwrap());
        assert_eq!(requested_key(&key.request(&node), &node), Ok(key.spki()));
        assert!(requested_key(&key.request(&node), &NodeId::new("web-2").unwrap()).is_err());
    }
}
