//! How a gateway meets TLS: certificates from files or from the node's secrets, and what clients must show.

use crate::{
    clock,
    secrets::{self, Key, Secret, SecretError, Secrets},
};
use certs::foreign::Foreign;
use policy::{
    compile::{Behind, TlsServer},
    kinds::{CertificateFiles, SPOKEN_SUITES, ServerCertificates, ServerTls, ServerTlsMode, TlsVersion},
};
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs::default_provider},
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use std::sync::{Arc, atomic::AtomicBool};

/// What was read for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Material {
    /// Certificate and key, at most one of each kind of key.
    pairs: Vec<Pair>,
    /// Clients' authorities.
    ca: Option<String>,
    crl: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    cert: String,
    key: Key,
}

/// A server as handshakes find it.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) config: Arc<ServerConfig>,
    /// What it was made of.
    settings: ServerTls,
    /// Requests come out, and not bytes.
    pub(super) requests: bool,
    pub(super) material: Material,
    /// When its first certificate ends, wall time.
    pub(super) not_after: u64,
    pub(super) end: Arc<End>,
}

/// How those end who were let in by a server that is there no more.
#[derive(Debug, Default)]
pub(super) struct End {
    /// What clients must show is another now: whoever was let in goes, after the requests that are under way.
    pub(super) replaced: AtomicBool,
    /// For so long that requests under way end, too.
    pub(super) over: AtomicBool,
}

impl Configured {
    pub(super) fn new(server: &TlsServer, material: Material) -> Result<Self, String> {
        let (mut config, not_after) = configure(&server.tls, &material)?;
        let requests = has_requests(server);
        if requests {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let (settings, end) = (server.tls.clone(), Arc::default());
        Ok(Self { config: Arc::new(config), settings, requests, material, not_after, end })
    }

    /// True if it is as the documents want the server.
    pub(super) fn is_of(&self, server: &TlsServer) -> bool {
        self.settings == server.tls && self.requests == has_requests(server)
    }

    /// True if whoever it let in is let in by the server that the documents want, which may show another certificate.
    pub(super) fn admits_for(&self, server: &TlsServer) -> bool {
        self.requests == has_requests(server) && asked(&self.settings) == asked(&server.tls)
    }

    /// True if the server asks clients for certificates that this one did not ask for.
    pub(super) fn asks_less_than(&self, server: &TlsServer) -> bool {
        // What is passed on is asked by whoever ends its TLS.
        let wanted = asked(&server.tls).filter(|_| !server.tls.mode.is_passthrough());
        wanted.is_some() && wanted != asked(&self.settings)
    }

    /// True if whoever this one let in would be let in by the other.
    pub(super) fn admits_as(&self, other: &Self) -> bool {
        (asked(&self.settings), self.requests) == (asked(&other.settings), other.requests)
            && (&self.material.ca, &self.material.crl) == (&other.material.ca, &other.material.crl)
    }
}

/// What a server asks of its clients' certificates.
#[derive(PartialEq, Eq)]
struct Asked<'a> {
    is_optional: bool,
    /// Where the authorities are.
    ca: (Option<&'a str>, Option<&'a str>),
    crl: Option<&'a str>,
    /// Where its own certificate is, if the authorities are beside that.
    beside: Option<&'a ServerCertificates>,
    names: &'a [String],
    public_keys: &'a [[u8; 32]],
    certificates: &'a [[u8; 32]],
    unverified: bool,
}

/// `None`: they show none.
fn asked(tls: &ServerTls) -> Option<Asked<'_>> {
    let ca = (tls.ca_certificates.as_deref(), tls.ca_credential.as_deref());
    (tls.mode != ServerTlsMode::Simple).then(|| Asked {
        is_optional: tls.mode == ServerTlsMode::OptionalMutual,
        ca,
        crl: tls.ca_crl.as_deref(),
        beside: (ca == (None, None)).then_some(&tls.certificates),
        names: &tls.subject_alt_names,
        public_keys: &tls.certificate_spki,
        certificates: &tls.certificate_hashes,
        unverified: tls.insecure_skip_verify,
    })
}

/// True if requests come out of its TLS here.
pub(super) fn has_requests(server: &TlsServer) -> bool {
    matches!(server.behind, Behind::Requests(_))
}

/// Reads what a server needs; `namespace` is that of the gateway's service, whose secrets are meant. Blocks.
///
/// # Errors
/// What is missing, in words.
pub(super) fn load(tls: &ServerTls, namespace: &str, secrets: &Secrets) -> Result<Material, String> {
    let wants_ca = tls.mode != ServerTlsMode::Simple;
    let material = match &tls.certificates {
        ServerCertificates::Files(files) => load_files(tls, files, namespace, secrets, wants_ca)?,
        ServerCertificates::Credentials(names) => load_secrets(tls, names, namespace, secrets, wants_ca)?,
        ServerCertificates::None => return Err("the server names no certificate".to_owned()),
    };
    if wants_ca && material.ca.is_none() {
        return Err(format!("mode {} needs the authorities of clients: none are given", tls.mode));
    }
    Ok(material)
}

fn load_files(
    tls: &ServerTls,
    files: &[CertificateFiles],
    namespace: &str,
    secrets: &Secrets,
    wants_ca: bool,
) -> Result<Material, String> {
    let mut pairs = Vec::new();
    for pair in files {
        let cert = secrets.named_file(namespace, &pair.certificate)?;
        pairs.push(Pair { cert, key: secrets.named_key(namespace, &pair.private_key)? });
    }
    let own = files.iter().filter_map(|pair| pair.ca_certificates.as_ref()).collect::<Vec<_>>();
    let ca = match (&tls.ca_certificates, own.as_slice()) {
        _ if !wants_ca => None,
        (Some(path), []) => Some(path),
        (None, [path]) if files.len() == 1 => Some(*path),
        (None, []) => None,
        (Some(_) | None, _) => {
            return Err("authorities of clients for one certificate of several are not supported: name them once, in \
                        caCertificates of the server"
                .to_owned());
        }
    };
    let read = |path: &String| secrets.named_file(namespace, path);
    Ok(Material { pairs, ca: ca.map(read).transpose()?, crl: tls.ca_crl.as_ref().map(read).transpose()? })
}

fn load_secrets(
    tls: &ServerTls,
    names: &[String],
    namespace: &str,
    secrets: &Secrets,
    wants_ca: bool,
) -> Result<Material, String> {
    let get = |name: &str| {
        let plain = plain(name);
        secrets.get(namespace, plain).map_err(|error| match error {
            SecretError::NotFound(_) => {
                format!("no secret `{plain}` in {namespace} at this node: `skein secret put {plain} -n {namespace}`")
            }
            SecretError::Invalid(_) | SecretError::Disk(_, _) => error.to_string(),
        })
    };
    let mut pairs = Vec::new();
    let mut authorities: Option<Secret> = None;
    for name in names {
        let secret = get(name)?;
        let (Some(cert), Some(key)) = (secret.cert.clone(), secret.key.clone()) else {
            return Err(format!("the secret `{name}` holds no certificate with its key"));
        };
        pairs.push(Pair { cert, key });
        if secret.ca.is_some() {
            authorities.get_or_insert(secret);
        }
    }
    if wants_ca {
        let own = match (&tls.ca_credential, names.first()) {
            (Some(name), _) => Some(get(name)?),
            (None, Some(name)) => secrets.authorities_of(namespace, plain(name)).map_err(|error| error.to_string())?,
            (None, None) => None,
        };
        authorities = own.or(authorities);
    }
    let authorities = authorities.filter(|_| wants_ca).unwrap_or_default();
    Ok(Material { pairs, ca: authorities.ca.clone(), crl: authorities.crl.clone() })
}

fn plain(name: &str) -> &str {
    name.strip_prefix("kubernetes://").unwrap_or(name)
}

fn configure(tls: &ServerTls, material: &Material) -> Result<(ServerConfig, u64), String> {
    let keys = material.pairs.iter().map(|pair| secrets::certified_key(&pair.cert, pair.key.pem()));
    let keys: Vec<Arc<CertifiedKey>> = keys.map(|key| key.map(Arc::new)).collect::<Result<_, _>>()?;
    let first = keys.first().and_then(|key| key.cert.first()).and_then(|der| Foreign::parse(der).ok());
    let provider = Arc::new(provider(&tls.cipher_suites));
    let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(clock::Clock))
        .with_protocol_versions(&versions(tls))
        .map_err(|error| error.to_string())?;
    let builder = match clients(tls, material, &provider)? {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Shown(keys)));
    config.ignore_client_order = true;
    if tls.mode != ServerTlsMode::Simple {
        // Who resumes shows no certificate, so a list of revoked ones would not be asked.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok((config, first.map_or(u64::MAX, |first| first.not_after)))
}

fn versions(tls: &ServerTls) -> Vec<&'static SupportedProtocolVersion> {
    let spoken = [(TlsVersion::V1_3, &TLS13), (TlsVersion::V1_2, &TLS12)];
    let wanted = spoken.iter().filter(|(version, _)| (tls.min_version..=tls.max_version).contains(version));
    wanted.map(|(_, version)| *version).collect()
}

/// Documents choose among the suites of TLS 1.2 only, as in Istio. Of those of TLS 1.3 AES-128 comes first, as it does between nodes
/// ([decision 117](../../../decisions/0117-aes-128-first-at-gateways.md)).
fn provider(chosen: &[String]) -> CryptoProvider {
    let mut provider = default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    if !chosen.is_empty() {
        provider.cipher_suites.retain(|suite| match suite {
            SupportedCipherSuite::Tls13(_) => true,
            SupportedCipherSuite::Tls12(suite) => {
                openssl_name(suite.common.suite).is_some_and(|name| chosen.iter().any(|own| own == name))
            }
        });
    }
    provider
}

fn openssl_name(suite: CipherSuite) -> Option<&'static str> {
    let suites = [
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    suites.iter().zip(SPOKEN_SUITES).find(|(known, _)| **known == suite).map(|(_, name)| name)
}

fn clients(
    tls: &ServerTls,
    material: &Material,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let Some(ca) = &material.ca else { return Ok(None) };
    let roots = Arc::new(secrets::authorities(ca)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    if let Some(crl) = &material.crl {
        builder = builder.with_crls(secrets::revoked(crl)?);
    }
    if tls.mode == ServerTlsMode::OptionalMutual {
        builder = builder.allow_unauthenticated();
    }
    let verified = builder.build().map_err(|error| format!("the authorities of clients cannot be used: {error}"))?;
    let listed = [&tls.certificate_spki, &tls.certificate_hashes].into_iter().flatten().copied().collect();
    let names = tls.subject_alt_names.clone();
    Ok(Some(Arc::new(Clients { verified, names, listed, unverified: tls.insecure_skip_verify })))
}

/// What clients' certificates must be, beside of the right authority.
#[derive(Debug)]
struct Clients {
    verified: Arc<dyn ClientCertVerifier>,
    /// Alternative names of which one is needed, if there are any.
    names: Vec<String>,
    /// SHA-256 of certificates or public keys of which one is needed, if there are any.
    listed: Vec<[u8; 32]>,
    /// Where it comes from is not looked at.
    unverified: bool,
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.verified.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verified.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verified.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.unverified {
            self.verified.verify_client_cert(leaf, chain, now)?;
        }
        let refused = || Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure);
        let read =
            Foreign::parse(leaf).map_err(|_| Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        let named = self.names.is_empty() || self.names.iter().any(|name| read.is_called(name));
        let known = |one: &[u8; 32]| *one == read.fingerprint.0 || *one == read.public_key.0;
        let listed = self.listed.is_empty() || self.listed.iter().any(known);
        if named && listed { Ok(ClientCertVerified::assertion()) } else { Err(refused()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verified.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verified.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verified.supported_verify_schemes()
    }
}

/// The certificate of the kind that the client can verify.
#[derive(Debug)]
struct Shown(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        self.0.iter().find(fits).or_else(|| self.0.first()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_prefers_aes_128_and_speaks_all_else_that_it_spoke() {
        let suites = |chosen: &[String]| -> Vec<CipherSuite> {
            provider(chosen).cipher_suites.iter().map(SupportedCipherSuite::suite).collect()
        };
        let (all, known) = (suites(&[]), default_provider().cipher_suites);
        assert_eq!(all[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert!(all.len() == known.len() && known.iter().all(|suite| all.contains(&suite.suite())));
        let of_12 =
            |all: &[CipherSuite]| all.iter().copied().filter(|one| openssl_name(*one).is_some()).collect::<Vec<_>>();
        let known: Vec<CipherSuite> = known.iter().map(SupportedCipherSuite::suite).collect();
        assert_eq!(of_12(&all), of_12(&known), "the order of TLS 1.2 is what it was");
        let some = suites(&["ECDHE-RSA-AES256-GCM-SHA384".to_owned()]);
        assert_eq!((some[0], of_12(&some)), (all[0], vec![CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]));
    }
}
