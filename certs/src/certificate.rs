//! Reading certificates: only the shapes that this mesh issues, byte for byte where a field admits one encoding.

mod constraints;
pub(crate) mod describe;
mod shape;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension, X509Extension},
    oid_registry::{
        OID_SIG_ECDSA_WITH_SHA256, OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS,
        OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
    },
    prelude::FromDer,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Version},
};

use self::constraints::Constraints;
use crate::{
    codec::Millis,
    der,
    grant::Grant,
    id::{SpiffeId, Subject},
    redemption::Redemption,
    sign::Digest,
    template::Validity,
    verify::{Link, VerifyError},
};

/// The private extension of CAs that holds their [`Grant`]. An arc below 2.25 (ITU-T X.667) needs no registration.
pub(crate) const GRANT_OID: [u64; 3] = [2, 25, 5_817_304_912_260_933_847];

/// The same as it stands in DER: an arc has other, longer encodings, which are not ours.
const GRANT_OID_DER: [u8; 10] = [0x69, 0xd0, 0xdd, 0xcd, 0xff, 0xf0, 0xeb, 0xca, 0xd1, 0x57];

/// The private extension of node CAs that holds their [`Redemption`], below the grant's.
pub(crate) const REDEMPTION_OID: [u64; 4] = [GRANT_OID[0], GRANT_OID[1], GRANT_OID[2], 1];

/// The same as it stands in DER.
const REDEMPTION_OID_DER: [u8; 11] = [0x69, 0xd0, 0xdd, 0xcd, 0xff, 0xf0, 0xeb, 0xca, 0xd1, 0x57, 0x01];

/// Key usage `keyCertSign` alone, in DER.
const KEY_CERT_SIGN: [u8; 4] = [0x03, 0x02, 0x02, 0x04];

/// Key usage `digitalSignature` alone, in DER.
const DIGITAL_SIGNATURE: [u8; 4] = [0x03, 0x02, 0x07, 0x80];

/// The algorithm `ecdsa-with-SHA256`, in DER.
const ECDSA_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A SubjectPublicKeyInfo of P-256 up to the 65 bytes of the uncompressed point. No other form is taken, so a key has one digest.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The 65 bytes of the point, if this is a P-256 SubjectPublicKeyInfo.
pub(crate) fn p256_point(spki: &[u8]) -> Option<&[u8]> {
    spki.strip_prefix(&P256_SPKI_PREFIX).filter(|point| point.len() == 65 && point[0] == 0x04)
}

/// The SubjectPublicKeyInfo of an uncompressed P-256 point.
pub(crate) fn p256_spki(point: &[u8]) -> Vec<u8> {
    [&P256_SPKI_PREFIX, point].concat()
}

/// True if the ECDSA P-256 SHA-256 signature holds.
pub(crate) fn signature_holds(spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Some(point) = p256_point(spki) else { return false };
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature).is_ok()
}

/// True for `ecdsa-with-SHA256` without parameters.
pub(crate) fn is_ecdsa_sha256(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256 && algorithm.parameters.is_none()
}

/// The raw SubjectPublicKeyInfo if its key is P-256.
pub(crate) fn p256_only<'a>(spki: &SubjectPublicKeyInfo<'a>) -> Option<&'a [u8]> {
    p256_point(spki.raw).map(|_| spki.raw)
}

/// A certificate whose own shape is right for its place in the path; who signed it is still open.
#[derive(Debug)]
pub(crate) struct Certificate<'a> {
    pub(crate) link: Link,
    parsed: X509Certificate<'a>,
    pub(crate) spki: &'a [u8],
    pub(crate) not_before: Millis,
    pub(crate) not_after: Millis,
    /// Of an enroller or node CA.
    grant: Option<Grant>,
    /// Of a node CA, if it carries one.
    pub(crate) redemption: Option<Redemption>,
    /// Of a leaf.
    id: Option<SpiffeId>,
    /// Of a CA.
    constraints: Constraints,
}

impl<'a> Certificate<'a> {
    /// Reads a certificate and checks all that concerns it alone.
    pub(crate) fn parse(der: &'a [u8], link: Link) -> Result<Certificate<'a>, VerifyError> {
        let malformed = |what| VerifyError::Malformed { link, what };
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| malformed("no X.509 certificate"))?;
        let tbs = &parsed.tbs_certificate;
        if tbs.version != X509Version::V3 {
            return Err(malformed("not version 3"));
        }
        if !is_ecdsa_sha256(&tbs.signature) || !is_ecdsa_sha256(&parsed.signature_algorithm) {
            return Err(VerifyError::SignatureAlgorithm { link });
        }
        if !rest.is_empty() || envelope(tbs.as_ref(), &parsed.signature_value.data) != der {
            return Err(malformed("more than one reading of what the signature does not cover"));
        }
        if !der::is_strict(der) || !shape::is_whole(tbs.as_ref()) {
            return Err(malformed("not DER throughout, or more than a certificate's parts"));
        }
        if !is_serial(tbs.raw_serial()) {
            return Err(malformed("its serial number is not positive, or longer than 20 bytes"));
        }
        if link != Link::Leaf && tbs.subject.as_raw() == [der::SEQUENCE, 0] {
            return Err(malformed("a CA without a name"));
        }
        let spki = p256_only(&tbs.subject_pki).ok_or(VerifyError::KeyType { link })?;
        let not_before = millis(tbs.validity.not_before.timestamp()).ok_or(malformed("begin of validity"))?;
        let not_after = millis(tbs.validity.not_after.timestamp()).ok_or(malformed("end of validity"))?;
        let life = not_after.checked_sub(not_before).ok_or(malformed("ends before it begins"))?;
        if life > link.longest_life() {
            return Err(VerifyError::Life { link, hours: life / 3_600_000, limit: link.longest_life() / 3_600_000 });
        }
        let extensions = Extensions::read(tbs.extensions(), link)?;
        let grant = extensions.grant(link)?;
        let redemption = extensions.redemption(link)?;
        let id = extensions.identity(link)?;
        let constraints = Constraints::read(extensions.name_constraints, link)?;
        Ok(Certificate { link, spki, not_before, not_after, grant, redemption, id, constraints, parsed })
    }

    /// True if `issuer`'s name and key signed this certificate.
    pub(crate) fn is_signed_by(&self, issuer: &Certificate<'_>) -> bool {
        let tbs = &self.parsed.tbs_certificate;
        tbs.issuer.as_raw() == issuer.parsed.tbs_certificate.subject.as_raw()
            && signature_holds(issuer.spki, tbs.as_ref(), &self.parsed.signature_value.data)
    }

    /// Whether this CA's name constraints let anybody below it bear `dns_name`.
    pub(crate) fn permits(&self, dns_name: &str) -> Result<(), VerifyError> {
        if self.constraints.permit(dns_name) {
            Ok(())
        } else {
            Err(VerifyError::NameConstraints { link: self.link, name: dns_name.to_owned() })
        }
    }

    pub(crate) fn validity(&self) -> Validity {
        Validity { not_before: self.not_before, not_after: self.not_after }
    }

    /// The subject's organization, where its name has one.
    pub(crate) fn organization(&self) -> Option<String> {
        let subject = &self.parsed.tbs_certificate.subject;
        subject.iter_organization().next()?.as_str().ok().map(str::to_owned)
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub(crate) fn key(&self) -> Digest {
        Digest::of(self.spki)
    }

    /// The grant of an enroller or node CA.
    pub(crate) fn grant(&self) -> &Grant {
        self.grant.as_ref().expect("parse() demands a grant of every CA below the root")
    }

    /// The identity of a leaf.
    pub(crate) fn id(&self) -> &SpiffeId {
        self.id.as_ref().expect("parse() demands an identity of every leaf")
    }
}

/// The one encoding of a certificate with these signed parts: the parser takes others too.
fn envelope(tbs: &[u8], signature: &[u8]) -> Vec<u8> {
    let bits = der::element(der::BIT_STRING, &[&[0], signature].concat());
    der::element(der::SEQUENCE, &[tbs, &ECDSA_SHA256, &bits].concat())
}

/// RFC 5280, section 4.1.2.2.
fn is_serial(content: &[u8]) -> bool {
    content.len() <= 20
        && content.first().is_some_and(|first| first & 0x80 == 0)
        && content.iter().any(|byte| *byte != 0)
}

/// Unix seconds to milliseconds; `None` before 1970.
fn millis(seconds: i64) -> Option<Millis> {
    u64::try_from(seconds).ok()?.checked_mul(1000)
}

/// The extensions that matter, each at most once.
#[derive(Default)]
struct Extensions<'p, 'a> {
    basic_constraints: Option<&'p X509Extension<'a>>,
    key_usage: Option<&'p X509Extension<'a>>,
    extended_key_usage: Option<&'p X509Extension<'a>>,
    alternative_name: Option<&'p X509Extension<'a>>,
    name_constraints: Option<&'p X509Extension<'a>>,
    grant: Option<&'p X509Extension<'a>>,
    redemption: Option<&'p X509Extension<'a>>,
}

impl<'p, 'a> Extensions<'p, 'a> {
    /// Sorts the extensions and checks those that the place in the path prescribes.
    fn read(extensions: &'p [X509Extension<'a>], link: Link) -> Result<Extensions<'p, 'a>, VerifyError> {
        let mut found = Extensions::default();
        for (index, extension) in extensions.iter().enumerate() {
            let refused = |why| VerifyError::Extension { link, oid: extension.oid.to_id_string(), why };
            if extensions[..index].iter().any(|earlier| earlier.oid == extension.oid) {
                return Err(refused("twice"));
            }
            let known = found.take(extension);
            if !known && extension.critical {
                return Err(refused("critical and unknown"));
            }
            if known && !der::is_strict(extension.value) {
                return Err(refused("not DER"));
            }
        }
        found.check(link)?;
        Ok(found)
    }

    /// True if the extension is one that we know.
    fn take(&mut self, extension: &'p X509Extension<'a>) -> bool {
        let oid = &extension.oid;
        if *oid == OID_X509_EXT_BASIC_CONSTRAINTS {
            self.basic_constraints = Some(extension);
        } else if *oid == OID_X509_EXT_KEY_USAGE {
            self.key_usage = Some(extension);
        } else if *oid == OID_X509_EXT_EXTENDED_KEY_USAGE {
            self.extended_key_usage = Some(extension);
        } else if *oid == OID_X509_EXT_SUBJECT_ALT_NAME {
            self.alternative_name = Some(extension);
        } else if oid.as_bytes() == GRANT_OID_DER {
            self.grant = Some(extension);
        } else if oid.as_bytes() == REDEMPTION_OID_DER {
            self.redemption = Some(extension);
        } else if *oid == OID_X509_EXT_NAME_CONSTRAINTS {
            self.name_constraints = Some(extension);
        } else {
            // Hints for those who build paths; ours is given. RFC 5280 forbids that they are critical.
            return !extension.critical
                && (*oid == OID_X509_EXT_SUBJECT_KEY_IDENTIFIER || *oid == OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER);
        }
        true
    }

    fn check(&self, link: Link) -> Result<(), VerifyError> {
        let exactly = |extension: Option<&X509Extension<'_>>, critical: bool, der: &[u8]| {
            extension.is_some_and(|e| e.value == der && (e.critical || !critical))
        };
        let Some(path_length) = link.path_length() else {
            let usage = exactly(self.key_usage, true, &DIGITAL_SIGNATURE);
            // An empty sequence is an explicit "no CA".
            let no_ca = self.basic_constraints.is_none_or(|e| e.value == [0x30, 0x00]);
            return match (usage, no_ca) {
                (false, _) => Err(VerifyError::KeyUsage { link }),
                (_, false) => Err(VerifyError::BasicConstraints { link }),
                (true, true) => self.check_extended_usage(link),
            };
        };
        if !exactly(self.key_usage, true, &KEY_CERT_SIGN) {
            return Err(VerifyError::KeyUsage { link });
        }
        if !exactly(self.basic_constraints, true, &[0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, path_length]) {
            return Err(VerifyError::BasicConstraints { link });
        }
        if self.extended_key_usage.is_some() {
            return Err(VerifyError::ExtendedKeyUsage { link });
        }
        if self.alternative_name.is_some() {
            return Err(VerifyError::Names { link, what: "a CA has no alternative names" });
        }
        Ok(())
    }

    /// Server and client authentication, both and nothing else.
    fn check_extended_usage(&self, link: Link) -> Result<(), VerifyError> {
        match self.extended_key_usage.map(X509Extension::parsed_extension) {
            Some(ParsedExtension::ExtendedKeyUsage(usage))
                if usage.server_auth
                    && usage.client_auth
                    && !(usage.any || usage.code_signing || usage.email_protection)
                    && !(usage.time_stamping || usage.ocsp_signing)
                    && usage.other.is_empty() =>
            {
                Ok(())
            }
            _ => Err(VerifyError::ExtendedKeyUsage { link }),
        }
    }

    fn grant(&self, link: Link) -> Result<Option<Grant>, VerifyError> {
        match (link, self.grant) {
            (Link::Leaf | Link::Root, None) => Ok(None),
            (Link::Leaf | Link::Root, Some(_)) => {
                Err(VerifyError::Malformed { link, what: "a grant has no place here" })
            }
            (Link::NodeCa | Link::Enroller, None) => Err(VerifyError::NoGrant { link }),
            (Link::NodeCa | Link::Enroller, Some(extension)) => {
                // One reading and one writing: an encoding that is longer than need be is another certificate's.
                let grant = Grant::from_der(extension.value).ok().filter(|grant| grant.to_der() == extension.value);
                grant.map(Some).ok_or(VerifyError::Malformed { link, what: "its grant cannot be read" })
            }
        }
    }

    fn redemption(&self, link: Link) -> Result<Option<Redemption>, VerifyError> {
        let Some(extension) = self.redemption else { return Ok(None) };
        if link != Link::NodeCa {
            return Err(VerifyError::Malformed { link, what: "a redemption has no place here" });
        }
        let redemption = Redemption::from_der(extension.value).ok().filter(|read| read.to_der() == extension.value);
        redemption.map(Some).ok_or(VerifyError::Malformed { link, what: "its redemption cannot be read" })
    }

    /// Exactly one URI, the identity, and beside it its DNS image.
    fn identity(&self, link: Link) -> Result<Option<SpiffeId>, VerifyError> {
        if link != Link::Leaf {
            return Ok(None);
        }
        let names = |what| VerifyError::Names { link, what };
        let general_names = match self.alternative_name.map(X509Extension::parsed_extension) {
            Some(ParsedExtension::SubjectAlternativeName(san)) => &san.general_names,
            _ => return Err(names("no alternative names")),
        };
        let (mut uri, mut dns) = (None, None);
        for name in general_names {
            let (place, text) = match name {
                GeneralName::URI(text) => (&mut uri, *text),
                GeneralName::DNSName(text) => (&mut dns, *text),
                GeneralName::IPAddress(_) => return Err(names("an IP address")),
                GeneralName::RFC822Name(_) => return Err(names("an e-mail address")),
                GeneralName::OtherName(..)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::RegisteredID(_)
                | GeneralName::Invalid(..) => return Err(names("a name that is neither URI nor DNS")),
            };
            if place.replace(text).is_some() {
                return Err(names("more than one URI or DNS name"));
            }
        }
        let id = SpiffeId::from_uri(uri.ok_or(names("no URI"))?).map_err(VerifyError::Identity)?;
        if dns != Some(id.dns_name().as_str()) {
            return Err(names("the DNS name is not the image of the URI"));
        }
        Ok(Some(id))
    }
}

/// How many CAs may stand below, and how long a certificate may live, in each place of the path.
impl Link {
    pub(crate) const fn path_length(self) -> Option<u8> {
        match self {
            Link::Leaf => None,
            Link::NodeCa => Some(0),
            Link::Enroller => Some(1),
            Link::Root => Some(2),
        }
    }

    pub(crate) const fn longest_life(self) -> Millis {
        const DAY: Millis = 24 * 3_600_000;
        match self {
            Link::Leaf => DAY,
            Link::NodeCa => 30 * DAY,
            Link::Enroller => 365 * DAY,
            Link::Root => 3650 * DAY,
        }
    }
}

/// How long an identity's leaf lasts from its issue on, where nobody says otherwise.
pub(crate) const fn leaf_life(subject: &Subject) -> Millis {
    match subject {
        Subject::Service(_) => 3_600_000,
        Subject::Node(_) => Link::Leaf.longest_life(),
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::oid_registry::Oid;

    use super::*;

    #[test]
    fn the_two_spellings_of_our_numbers_agree() {
        assert_eq!(Oid::from(&GRANT_OID).unwrap().as_bytes(), GRANT_OID_DER);
        assert_eq!(Oid::from(&REDEMPTION_OID).unwrap().as_bytes(), REDEMPTION_OID_DER);
    }

    #[test]
    fn keys_have_one_form() {
        let spki = crate::ca::CaKey::generate().spki();
        assert_eq!(p256_spki(p256_point(&spki).unwrap()), spki);
        assert_eq!(p256_point(&spki[..90]), None);
        assert_eq!(p256_point(&[spki.as_slice(), &[0]].concat()), None);
        let mut compressed = spki.clone();
        compressed[26] = 0x02;
        assert_eq!(p256_point(&compressed), None);
        // The right shape, off the curve: no signature holds.
        let mut off = spki;
        off[90] ^= 1;
        assert!(!signature_holds(&off, b"message", &[0x30, 0x06, 2, 1, 1, 2, 1, 1]));
    }
}
