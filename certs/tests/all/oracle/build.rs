//! From a case in words to certificates and the verifier's authority.

use std::{sync::Arc, time::Duration};

use certs::{
    codec,
    grant::{Grant, NodeGrant, Pattern},
    id::{NodeId, ServiceAccount, ServiceName, TrustDomain},
    sign::{Digest, SigningKey},
    verify::{Authority, KnownKey},
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType, SigningKey as _,
};
use rustls::pki_types::CertificateDer;

use super::case::{
    self, ACCOUNTS, Basic, Case, Cert, Extended, Extension, KEYS, NAMESPACES, NODES, P256_KEYS, TRUST_DOMAIN, Unknown,
    Usage,
};

/// The keys that cases speak of by number, made once.
pub(super) struct Keys {
    pairs: Vec<KeyPair>,
    record: SigningKey,
    other_record: SigningKey,
}

impl Keys {
    pub(super) fn generate() -> Keys {
        let sort = |number: usize| match number {
            0..P256_KEYS => &rcgen::PKCS_ECDSA_P256_SHA256,
            P256_KEYS => &rcgen::PKCS_ECDSA_P384_SHA384,
            _ => &rcgen::PKCS_ED25519,
        };
        let pairs = (0..KEYS).map(|number| KeyPair::generate_for(sort(number)).unwrap()).collect();
        Keys { pairs, record: SigningKey::generate(), other_record: SigningKey::generate() }
    }

    pub(super) fn digest(&self, number: usize) -> Digest {
        Digest::of(&self.pairs[number].subject_public_key_info())
    }

    fn sign(&self, cert: &Cert, all: &[Cert]) -> CertificateDer<'static> {
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = named(cert.issuer);
        let issuer = Issuer::from_params(&issuer, &self.pairs[cert.signer]);
        self.params(cert, all).signed_by(&self.pairs[cert.key], &issuer).unwrap().der().clone()
    }

    fn params(&self, cert: &Cert, all: &[Cert]) -> CertificateParams {
        let date = |at: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at.unsigned_abs());
        let mut params = CertificateParams::default();
        params.distinguished_name = named(cert.subject);
        (params.not_before, params.not_after) = (date(cert.from), date(cert.until));
        params.key_usages = cert.usages.iter().map(usage).collect();
        params.extended_key_usages = cert.extended.iter().map(extended).collect();
        params.is_ca = match cert.basic {
            Basic::Absent => IsCa::NoCa,
            Basic::NoCa => IsCa::ExplicitNoCa,
            Basic::Ca(None) => IsCa::Ca(BasicConstraints::Unconstrained),
            Basic::Ca(Some(below)) => IsCa::Ca(BasicConstraints::Constrained(below)),
        };
        let uris = cert.uris.iter().map(|text| SanType::URI(text.as_str().try_into().unwrap()));
        let names = cert.dns.iter().map(|text| SanType::DnsName(text.as_str().try_into().unwrap()));
        params.subject_alt_names = uris.chain(names).collect();
        if cert.address {
            params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
        }
        if cert.mail {
            params.subject_alt_names.push(SanType::Rfc822Name("a@b.example".try_into().unwrap()));
        }
        params.custom_extensions = self.extensions(cert);
        if let Some(redemption) = &cert.redemption {
            let oid = [2, 25, 5_817_304_912_260_933_847, 1];
            let content = octet_string(&self.redemption(redemption, all));
            params.custom_extensions.push(CustomExtension::from_oid_content(&oid, content));
        }
        if let (Some(trees), Basic::Ca(_)) = (&cert.permitted, cert.basic) {
            let permitted_subtrees = trees.iter().cloned().map(GeneralSubtree::DnsName).collect();
            params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        }
        params
    }

    fn extensions(&self, cert: &Cert) -> Vec<CustomExtension> {
        let mut extensions = Vec::new();
        let grant = match &cert.grant {
            Extension::Absent => None,
            Extension::Garbage => Some(vec![4, 2, 0xff, 0xff]),
            Extension::Grant(grant) => Some(self.grant(grant).to_der()),
        };
        let oid = [2, 25, 5_817_304_912_260_933_847];
        extensions.extend(grant.map(|der| CustomExtension::from_oid_content(&oid, der)));
        if cert.unknown != Unknown::Absent {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(cert.unknown == Unknown::Critical);
            extensions.push(extension);
        }
        if cert.ballast > 0 {
            extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, 5], vec![7; cert.ballast]));
        }
        // rcgen writes name constraints into CAs only.
        if let (Some(_), Basic::Absent | Basic::NoCa) = (&cert.permitted, cert.basic) {
            let value = vec![0x30, 7, 0xa0, 5, 0x30, 3, 0x82, 1, b'x'];
            extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 30], value));
        }
        extensions
    }

    fn redemption(&self, redemption: &case::Redemption, all: &[Cert]) -> Vec<u8> {
        let record = if redemption.record_key { &self.record } else { &self.other_record };
        let (node, epoch) = (NODES[redemption.node].as_bytes(), redemption.epoch.to_le_bytes());
        let (key, record) = (self.digest(redemption.key).0, record.public().0);
        let kind: &[u8] = b"skein.redemption/1";
        let mut message = Vec::new();
        // No invite of these cases has a token.
        for part in [kind, TRUST_DOMAIN.as_bytes(), node, &epoch, &[], &key, &record] {
            message.extend((part.len() as u64).to_le_bytes());
            message.extend(part);
        }
        let signature = self.pairs[redemption.by].sign(&message).unwrap();
        codec::encode(&(signature, redemption.shown.map(|number| self.sign(&all[number], all).to_vec())))
    }

    fn grant(&self, grant: &case::Grant) -> Grant {
        let patterns = |all: &[case::Pattern]| all.iter().map(pattern).collect();
        Grant {
            node: node(grant.node),
            epoch: grant.epoch,
            accounts: patterns(&grant.accounts),
            services: patterns(&grant.services),
            record_key: grant.record_key.then(|| self.record.public()),
            enroller: grant.enroller,
        }
    }

    /// What is shown, what it meets.
    pub(super) fn build(&self, case: &Case) -> (Vec<CertificateDer<'static>>, Authority) {
        let chain = case.shown.iter().map(|index| self.sign(&case.certs[*index], &case.certs)).collect();
        let roots = case.roots.iter().map(|root| self.sign(root, &case.certs).to_vec()).collect();
        let mut authority = Authority::new(TrustDomain::new(TRUST_DOMAIN).unwrap(), roots);
        let policy = &case.policy;
        for signed in &policy.grants {
            authority.grants.insert(node(signed.node), Arc::new(node_grant(signed)));
        }
        for (evicted, epoch) in &policy.evicted {
            authority.revocations.evict(node(*evicted), *epoch);
        }
        authority.revocations.accounts.extend(policy.accounts.iter().map(|pair| account(*pair)));
        authority.revocations.keys.extend(policy.keys.iter().map(|key| self.digest(*key)));
        for (known, epoch, key) in &policy.known {
            let (ca_key, record_key) = (self.digest(*key), self.record.public());
            authority.known_keys.insert(node(*known), KnownKey { epoch: *epoch, ca_key, record_key });
        }
        (chain, authority)
    }
}

pub(super) fn node(number: usize) -> NodeId {
    NodeId::new(NODES[number]).unwrap()
}

pub(super) fn account((namespace, account): (usize, usize)) -> ServiceAccount {
    ServiceAccount::new(NAMESPACES[namespace], ACCOUNTS[account]).unwrap()
}

pub(super) fn service((namespace, name): (usize, usize)) -> ServiceName {
    ServiceName::new(NAMESPACES[namespace], ACCOUNTS[name]).unwrap()
}

fn node_grant(signed: &case::NodeGrant) -> NodeGrant {
    let services = signed
        .services
        .iter()
        .map(|pair| certs::grant::GrantedService { service: service(*pair), account: account(*pair) });
    NodeGrant {
        node: node(signed.node),
        epoch: signed.epoch,
        services: services.collect(),
        token_hash: None,
        redeemer: signed.redeemer.map(node),
        token_expires: None,
        enroller: signed.enroller,
        retired: signed.retired,
    }
}

fn pattern(pattern: &case::Pattern) -> Pattern {
    match *pattern {
        case::Pattern::All => Pattern::All,
        case::Pattern::Namespace(namespace) => Pattern::Namespace(NAMESPACES[namespace].into()),
        case::Pattern::Exact(namespace, name) => Pattern::Exact(NAMESPACES[namespace].into(), ACCOUNTS[name].into()),
    }
}

fn octet_string(content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let mut der = match content.len() {
        0..128 => vec![4, low],
        128..256 => vec![4, 0x81, low],
        _ => vec![4, 0x82, high, low],
    };
    der.extend(content);
    der
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn usage(usage: &Usage) -> KeyUsagePurpose {
    match usage {
        Usage::DigitalSignature => KeyUsagePurpose::DigitalSignature,
        Usage::KeyCertSign => KeyUsagePurpose::KeyCertSign,
        Usage::CrlSign => KeyUsagePurpose::CrlSign,
        Usage::KeyAgreement => KeyUsagePurpose::KeyAgreement,
    }
}

fn extended(usage: &Extended) -> ExtendedKeyUsagePurpose {
    match usage {
        Extended::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Extended::Client => ExtendedKeyUsagePurpose::ClientAuth,
        Extended::CodeSigning => ExtendedKeyUsagePurpose::CodeSigning,
        Extended::Any => ExtendedKeyUsagePurpose::Any,
    }
}
