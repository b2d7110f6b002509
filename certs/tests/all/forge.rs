//! Chains as an attacker would make them: every field of every certificate is open.

use std::{sync::Arc, time::Duration};

use certs::{
    codec::Millis,
    grant::{Grant, Pattern},
    sign::{PublicKey, SigningKey},
    verify::Authority,
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::CertificateDer;

use crate::world::{DAY, HOUR, MINUTE, NOW, node_grant, node_id, trust_domain};

/// The extension's number on the wire.
pub(crate) const GRANT_OID: [u64; 3] = [2, 25, 5_817_304_912_260_933_847];

pub(crate) struct Part {
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
}

/// Leaf, node CA, enroller CA and root, good until edited, and the policy that they meet.
pub(crate) struct Forge {
    pub(crate) leaf: Part,
    pub(crate) node: Part,
    pub(crate) enroller: Part,
    pub(crate) root: Part,
    pub(crate) authority: Authority,
    pub(crate) now: Millis,
}

pub(crate) fn node_ca_grant() -> Grant {
    Grant {
        node: node_id("b"),
        epoch: 3,
        accounts: vec![Pattern::Exact("shop".into(), "reviews".into())],
        services: vec![Pattern::Exact("shop".into(), "reviews".into())],
        record_key: Some(SigningKey::generate().public()),
        enroller: false,
    }
}

impl Forge {
    pub(crate) fn new() -> Forge {
        let mut authority = Authority::new(trust_domain(), Vec::new());
        for grant in [node_grant("a", 1, &[], true), node_grant("b", 3, &["shop/reviews=reviews"], false)] {
            authority.grants.insert(grant.node.clone(), Arc::new(grant));
        }
        let mut node = ca("b", 0, 30 * DAY);
        node.params.grant(&node_ca_grant());
        let mut enroller = ca("a", 1, 365 * DAY);
        enroller.params.grant(&Grant::enroller(node_id("a"), 1));
        Forge { leaf: leaf(), node, enroller, root: ca("root", 2, 3650 * DAY), authority, now: NOW }
    }

    /// Signs everything and trusts the root.
    pub(crate) fn build(mut self) -> (Vec<CertificateDer<'static>>, Authority, Millis) {
        let chain = self.chain();
        let root = self.root.params.self_signed(&self.root.key).unwrap();
        self.authority.roots.push(root.der().to_vec());
        (chain, self.authority, self.now)
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        let signed = |child: &Part, issuer: &Part| {
            let issuer = Issuer::from_params(&issuer.params, &issuer.key);
            child.params.signed_by(&child.key, &issuer).unwrap().der().clone()
        };
        vec![signed(&self.leaf, &self.node), signed(&self.node, &self.enroller), signed(&self.enroller, &self.root)]
    }
}

pub(crate) trait Edit {
    /// Puts this grant in the place of any other.
    fn grant(&mut self, grant: &Grant);
    fn lives(&mut self, not_before: Millis, not_after: Millis);
    fn path_length(&mut self, below: u8);
}

impl Edit for CertificateParams {
    fn grant(&mut self, grant: &Grant) {
        self.custom_extensions = vec![CustomExtension::from_oid_content(&GRANT_OID, grant.to_der())];
    }

    fn lives(&mut self, not_before: Millis, not_after: Millis) {
        let date = |at| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(at);
        (self.not_before, self.not_after) = (date(not_before), date(not_after));
    }

    fn path_length(&mut self, below: u8) {
        self.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    }
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) fn record_key() -> PublicKey {
    SigningKey::generate().public()
}

fn ca(name: &str, below: u8, life: Millis) -> Part {
    let mut params = named(name);
    params.path_length(below);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.lives(NOW - 5 * MINUTE, NOW - 5 * MINUTE + life);
    Part { params, key: key() }
}

fn leaf() -> Part {
    let mut params = named("reviews");
    params.subject_alt_names = vec![
        SanType::URI("spiffe://prod.example/ns/shop/sa/reviews".try_into().unwrap()),
        SanType::DnsName("reviews.shop.prod.example".try_into().unwrap()),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.lives(NOW - 5 * MINUTE, NOW + HOUR);
    Part { params, key: key() }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
