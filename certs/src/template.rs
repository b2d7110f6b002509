//! What the certificates of each place in the path look like when we issue them; `certificate.rs` reads the same shapes.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};

use crate::{
    certificate::{GRANT_OID, REDEMPTION_OID, p256_point},
    codec::Millis,
    error::Error,
    grant::{Grant, Pattern},
    id::{NodeId, SpiffeId, Subject, TrustDomain},
    redemption::Redemption,
    verify::Link,
};

/// How long before its issue a certificate begins, for clocks that are behind.
pub(crate) const BACKDATING: Millis = 5 * 60 * 1000;

/// Begin and end of a certificate, in Unix milliseconds; whole seconds, as X.509 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: Millis,
    pub(crate) not_after: Millis,
}

impl Validity {
    /// `life` from [`BACKDATING`] before `now`.
    pub(crate) fn fresh(now: Millis, life: Millis) -> Validity {
        let not_before = now.saturating_sub(BACKDATING) / 1000 * 1000;
        Validity { not_before, not_after: not_before + life }
    }

    /// `life` from `now` on, with what is [`BACKDATING`] at most `longest`.
    pub(crate) fn lasting(now: Millis, life: Millis, longest: Millis) -> Validity {
        Validity::fresh(now, life.saturating_add(BACKDATING).min(longest))
    }

    /// The part of it within the issuer's validity; an error if `now` is not in that.
    pub(crate) fn within(self, issuer: Validity, now: Millis) -> Result<Validity, Error> {
        let Validity { not_before, not_after } = issuer;
        if now < not_before || now >= not_after {
            return Err(Error::IssuerNotValid { not_before, not_after });
        }
        Ok(Validity { not_before: self.not_before.max(not_before), not_after: self.not_after.min(not_after) })
    }
}

pub(crate) fn root(trust_domain: &TrustDomain, key: &str, validity: Validity) -> CertificateParams {
    // Two roots of one mesh differ in name, so that chains find theirs at once.
    ca(Link::Root, &format!("Skein root {key}"), &organization(trust_domain), validity)
}

pub(crate) fn enroller(trust_domain: &TrustDomain, node: &NodeId, epoch: u64, validity: Validity) -> CertificateParams {
    let mut params = ca(Link::Enroller, node.as_str(), "Skein enroller CA", validity);
    params.name_constraints = Some(names_below(vec![trust_domain.to_string()]));
    params.custom_extensions = vec![extension(&Grant::enroller(node.clone(), epoch))];
    params
}

pub(crate) fn node(
    trust_domain: &TrustDomain,
    grant: &Grant,
    redemption: Option<&Redemption>,
    validity: Validity,
) -> CertificateParams {
    let mut params = ca(Link::NodeCa, grant.node.as_str(), "Skein node CA", validity);
    let mut names = vec![SpiffeId::node(trust_domain.clone(), grant.node.clone()).dns_name()];
    names.extend(grant.accounts.iter().map(|pattern| match pattern {
        Pattern::All => trust_domain.to_string(),
        Pattern::Namespace(namespace) => format!("{namespace}.{trust_domain}"),
        Pattern::Exact(namespace, account) => format!("{account}.{namespace}.{trust_domain}"),
    }));
    params.name_constraints = Some(names_below(names));
    params.custom_extensions = vec![extension(grant)];
    let redeemed = redemption.map(|word| CustomExtension::from_oid_content(&REDEMPTION_OID, word.to_der()));
    params.custom_extensions.extend(redeemed);
    params
}

pub(crate) fn leaf(id: &SpiffeId, validity: Validity) -> CertificateParams {
    let common_name = match &id.subject {
        Subject::Service(account) => account.account(),
        Subject::Node(node) => node.as_str(),
    };
    let mut params = any(common_name, "Skein identity", validity);
    let ascii = "names follow a grammar within ASCII";
    params.subject_alt_names =
        vec![SanType::URI(id.uri().try_into().expect(ascii)), SanType::DnsName(id.dns_name().try_into().expect(ascii))];
    // Foreign SPIFFE libraries refuse a leaf that is silent about it.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// The P-256 key of a SubjectPublicKeyInfo in the form that rcgen certifies.
pub(crate) fn public_key(spki: &[u8]) -> Result<SubjectPublicKeyInfo, Error> {
    let bad = Error::Key { expected: "P-256" };
    p256_point(spki).ok_or(bad.clone())?;
    SubjectPublicKeyInfo::from_der(spki).map_err(|_| bad)
}

fn ca(link: Link, common_name: &str, organization: &str, validity: Validity) -> CertificateParams {
    let mut params = any(common_name, organization, validity);
    let below = link.path_length().expect("leafs are not made here");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn any(common_name: &str, organization: &str, validity: Validity) -> CertificateParams {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).expect("the system's random source works");
    // Positive and of full length, whatever was drawn.
    serial[0] = serial[0] & 0x3f | 0x40;
    let date = |at: Millis| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(at);
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date(validity.not_before);
    params.not_after = date(validity.not_after);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params
}

/// Characters that X.520 gives an organization.
pub(crate) const ORGANIZATION: usize = 64;

fn organization(trust_domain: &TrustDomain) -> String {
    trust_domain.as_str().chars().take(ORGANIZATION).collect()
}

fn extension(grant: &Grant) -> CustomExtension {
    // Not critical: foreign stacks need not know it, our verifier demands it.
    CustomExtension::from_oid_content(&GRANT_OID, grant.to_der())
}

/// What foreign TLS stacks hold a CA to: these DNS names and what lies below them, no IP address.
fn names_below(permitted: Vec<String>) -> NameConstraints {
    NameConstraints {
        permitted_subtrees: permitted.into_iter().map(GeneralSubtree::DnsName).collect(),
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([0; 4], 0)),
            GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix([0; 16], 0)),
        ],
    }
}
