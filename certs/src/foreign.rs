//! Certificates of authorities outside the mesh, as clients of gateways show them and gateways show clients: what they say, for whoever
//! has verified them or only wants to tell people of them.

use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    objects::{oid_registry, oid2abbrev},
    prelude::FromDer,
    x509::X509Name,
};

use crate::{codec::Millis, sign::Digest};

/// What a certificate says. Nothing of it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its subject as RFC 2253 writes it, `CN=a,O=b`; empty if it has none.
    pub subject: String,
    /// URIs among its alternative names.
    pub uris: Vec<String>,
    /// DNS names among them.
    pub dns_names: Vec<String>,
    /// E-mail and IP addresses among them.
    pub addresses: Vec<String>,
    /// SHA-256 of it.
    pub fingerprint: Digest,
    /// SHA-256 of its public key, with algorithm.
    pub public_key: Digest,
    /// When it begins to count.
    pub not_before: Millis,
    /// When it ends.
    pub not_after: Millis,
}

/// It is no X.509 certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate")]
pub struct NotACertificate;

impl Foreign {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// It is none, or something follows it.
    pub fn parse(der: &[u8]) -> Result<Self, NotACertificate> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| NotACertificate)?;
        if !rest.is_empty() {
            return Err(NotACertificate);
        }
        let mut foreign = Self {
            subject: subject(certificate.subject()),
            uris: Vec::new(),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            fingerprint: Digest::of(der),
            public_key: Digest::of(certificate.public_key().raw),
            not_before: millis(certificate.validity().not_before.timestamp()),
            not_after: millis(certificate.validity().not_after.timestamp()),
        };
        let names = certificate.subject_alternative_name().map_err(|_| NotACertificate)?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => foreign.uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => foreign.dns_names.push((*name).to_owned()),
                GeneralName::RFC822Name(address) => foreign.addresses.push((*address).to_owned()),
                GeneralName::IPAddress(bytes) => foreign.addresses.extend(address(bytes)),
                GeneralName::OtherName(..)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::RegisteredID(_)
                | GeneralName::Invalid(..) => {}
            }
        }
        Ok(foreign)
    }

    /// True if one of its alternative names is this one, exactly.
    pub fn is_called(&self, name: &str) -> bool {
        self.uris.iter().chain(&self.dns_names).chain(&self.addresses).any(|own| own == name)
    }
}

fn millis(seconds: i64) -> Millis {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000)
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string());
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string());
    v4().or_else(v6)
}

/// The last part first, as RFC 2253 has it.
fn subject(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name
        .iter()
        .map(|set| {
            let attributes = set.iter().map(|attribute| {
                let oid = attribute.attr_type();
                let key = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
                let value = match attribute.as_str() {
                    Ok(text) => escaped(text),
                    Err(_) => format!("#{}", hex::encode(attribute.attr_value().data)),
                };
                format!("{key}={value}")
            });
            attributes.collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn escaped(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(text.len());
    for (place, char) in text.chars().enumerate() {
        let at_edge = (place == 0 && matches!(char, ' ' | '#')) || (place == last && char == ' ');
        if at_edge || matches!(char, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(char);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Shop, Inc");
        params.distinguished_name.push(DnType::CommonName, "client");
        params.subject_alt_names.push(SanType::URI("spiffe://a/b".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 1].into()));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_who_it_is_of() {
        let der = certificate();
        let read = Foreign::parse(&der).unwrap();
        assert_eq!(read.subject, "CN=client,O=Shop\\, Inc");
        assert_eq!(
            (&*read.dns_names[0], &*read.uris[0], &*read.addresses[0]),
            ("client.example", "spiffe://a/b", "192.0.2.1")
        );
        assert!(read.is_called("client.example") && read.is_called("spiffe://a/b") && read.is_called("192.0.2.1"));
        assert!(!read.is_called("client.exampl") && !read.is_called("Client.example"));
        assert_eq!(read.fingerprint, Digest::of(&der));
        assert!(read.not_before < read.not_after);
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let mut der = certificate();
        der.push(0);
        assert_eq!(Foreign::parse(&der), Err(NotACertificate));
        der.truncate(100);
        assert_eq!(Foreign::parse(&der), Err(NotACertificate));
        assert_eq!(Foreign::parse(b""), Err(NotACertificate));
    }
}
