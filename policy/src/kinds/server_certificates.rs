//! Where a server's certificate comes from: files, or named credentials of the node.

use super::server_tls::{ServerTlsMode, TlsOwner};
use crate::{
    codes,
    decode::{At, Fields},
};

/// Certificates of one server at most: one of RSA, one of ECDSA.
const MAX_CERTIFICATES: usize = 2;

/// What a server shows to clients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ServerCertificates {
    /// Nothing of its own: the mode needs none.
    #[default]
    None,
    /// Files on the node's disk, one for each kind of key.
    Files(Vec<CertificateFiles>),
    /// Names in the node's store of secrets, one for each kind of key; a credential may hold the clients' CA and CRL too.
    Credentials(Vec<String>),
}

/// `TLSCertificate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Path of the certificate with its chain, in PEM.
    pub certificate: String,
    /// Path of its key.
    pub private_key: String,
    /// Path of the authorities of clients for this certificate, if they are others than the server's.
    pub ca_certificates: Option<String>,
}

/// What the document says of certificates, each with its place.
pub(super) struct CertificateSources<'a> {
    mode: ServerTlsMode,
    certificate: Option<(&'a str, At<'a>)>,
    private_key: Option<(&'a str, At<'a>)>,
    authorities: Option<(&'a str, At<'a>)>,
    revoked: Option<(&'a str, At<'a>)>,
    credential: Option<(&'a str, At<'a>)>,
    credentials: Option<(Vec<String>, At<'a>)>,
    pairs: Option<(Vec<CertificateFiles>, At<'a>)>,
}

/// Where a source stands, if it is there.
fn place<'a, T>(source: &Option<(T, At<'a>)>) -> Option<At<'a>> {
    source.as_ref().map(|(_, at)| *at)
}

fn text(source: &Option<(&str, At<'_>)>) -> Option<String> {
    source.as_ref().map(|(text, _)| (*text).to_owned())
}

impl<'a> CertificateSources<'a> {
    pub(super) fn read(fields: &Fields<'a>, mode: ServerTlsMode) -> Self {
        let list = |name| fields.get(name).filter(|_| fields.is_set(name));
        let credentials = list("credentialNames").map(|at| {
            let names = at.text_list().iter().map(|(name, _)| (*name).to_owned()).collect();
            (names, at)
        });
        let pairs = list("tlsCertificates").map(|at| {
            let pairs = at.items().iter().filter_map(|pair| decode_pair(pair, mode)).collect();
            (pairs, at)
        });
        Self {
            mode,
            certificate: fields.filled("serverCertificate"),
            private_key: fields.filled("privateKey"),
            authorities: fields.filled("caCertificates"),
            revoked: fields.filled("caCrl"),
            credential: fields.filled("credentialName"),
            credentials,
            pairs,
        }
    }

    /// Path of the authorities that clients' certificates must come from.
    pub(super) fn authorities(&self) -> Option<String> {
        text(&self.authorities).filter(|_| !self.mode.is_passthrough())
    }

    /// Path of the list of clients' certificates that no longer count; a credential holds its own.
    pub(super) fn revoked(&self) -> Option<String> {
        let in_credential = self.credential.is_some() || self.credentials.is_some();
        text(&self.revoked).filter(|_| !self.mode.is_passthrough() && !in_credential)
    }

    /// What the server shows, with a complaint of whatever does not fit its mode.
    pub(super) fn certificates(&self, at: &At<'_>, owner: TlsOwner) -> ServerCertificates {
        if owner == TlsOwner::Sidecar {
            self.are_files();
        }
        match self.mode {
            ServerTlsMode::IstioMutual => {
                self.are_absent();
                ServerCertificates::None
            }
            ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
                self.are_one(at);
                self.are_unused(at);
                ServerCertificates::None
            }
            ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
                self.are_one(at);
                self.shown(at)
            }
        }
    }

    /// Istio knows no secrets at sidecars.
    fn are_files(&self) {
        for (name, at) in [
            ("credentialName", place(&self.credential)),
            ("credentialNames", place(&self.credentials)),
            ("tls_certificates", place(&self.pairs)),
        ] {
            if let Some(at) = at {
                let message = format!("sidecar: {name} is not currently supported");
                at.error_as_istio(codes::SERVER_TLS, message, "write serverCertificate and privateKey");
            }
        }
    }

    /// The mesh's own identity is what the server shows.
    fn are_absent(&self) {
        for (name, at) in [
            ("server certificate", place(&self.certificate)),
            ("private key", place(&self.private_key)),
            ("CA bundle", place(&self.authorities)),
            ("tlsCertificates", place(&self.pairs)),
            ("credentialName", place(&self.credential)),
            ("credentialNames", place(&self.credentials)),
        ] {
            if let Some(at) = at {
                let message = format!("ISTIO_MUTUAL TLS cannot have associated {name}");
                at.error_as_istio(codes::SERVER_TLS, message, "the mesh's own identity is used");
            }
        }
    }

    fn are_one(&self, at: &At<'_>) {
        let files = self.certificate.is_some() && self.private_key.is_some();
        let given = [files, self.credential.is_some(), self.credentials.is_some(), self.pairs.is_some()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            let message = "only one of credential_name, credential_names, server_certificate/private_key, \
                           tls_certificates should be specified";
            at.error_as_istio(codes::EXCLUSIVE, message, "");
        }
    }

    fn are_unused(&self, at: &At<'_>) {
        let texts = [&self.certificate, &self.private_key, &self.authorities, &self.revoked, &self.credential];
        if texts.iter().any(|text| text.is_some()) || self.credentials.is_some() || self.pairs.is_some() {
            let message = format!("{} mode does not use certificates, they will be ignored", self.mode);
            at.warn(codes::IGNORED, message, "write `mode: SIMPLE` to end TLS here");
        }
        if let (Some((_, at)), Some(_)) = (&self.revoked, &self.credential) {
            let message = "CRL is not supported with credentialName. CRL has to be specified in the credential";
            at.error_as_istio(codes::SERVER_TLS, message, "");
        }
    }

    /// What a server that ends TLS itself shows.
    fn shown(&self, at: &At<'_>) -> ServerCertificates {
        let names = self.credentials.iter().flat_map(|(names, _)| names.iter().cloned());
        let names: Vec<String> = text(&self.credential).into_iter().chain(names).collect();
        if let Some((names, at)) = &self.credentials {
            at_most_two(at, names.len());
        }
        if !names.is_empty() {
            if let Some((_, at)) = &self.revoked {
                at.warn(codes::IGNORED, "`caCrl` has no meaning beside a credential, which holds its own", "");
            }
            return ServerCertificates::Credentials(names);
        }
        if self.mode != ServerTlsMode::Simple && self.authorities.is_none() {
            let message = "MUTUAL TLS requires a client CA bundle";
            at.error_as_istio(codes::SERVER_TLS, message, "write `caCertificates`");
        }
        if let (Some((_, at)), ServerTlsMode::Simple) = (&self.revoked, self.mode) {
            let message = "CRL is not supported with SIMPLE TLS";
            at.error_as_istio(codes::SERVER_TLS, message, "clients show a certificate in MUTUAL mode only");
        }
        let Some((pairs, place)) = &self.pairs else {
            let pair = (text(&self.certificate), text(&self.private_key), None);
            return ServerCertificates::Files(complete(at, self.mode, pair).into_iter().collect());
        };
        at_most_two(place, pairs.len());
        ServerCertificates::Files(pairs.clone())
    }
}

fn at_most_two(at: &At<'_>, count: usize) {
    if count > MAX_CERTIFICATES {
        let message = format!("{count} server certificates, {MAX_CERTIFICATES} are used: one of RSA and one of ECDSA");
        at.warn(codes::IGNORED, message, "");
    }
}

fn decode_pair(at: &At<'_>, mode: ServerTlsMode) -> Option<CertificateFiles> {
    let fields = at.fields()?;
    let text = |name| fields.filled(name).map(|(text, _)| text.to_owned());
    let pair = (text("serverCertificate"), text("privateKey"), text("caCertificates"));
    fields.finish();
    complete(at, mode, pair)
}

/// Certificate, key and authorities.
type Pair = (Option<String>, Option<String>, Option<String>);

/// Certificate and key must both be there where the mode uses them.
fn complete(
    at: &At<'_>,
    mode: ServerTlsMode,
    (certificate, private_key, authorities): Pair,
) -> Option<CertificateFiles> {
    let kind = match mode {
        ServerTlsMode::Simple => Some("SIMPLE TLS"),
        ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => Some("MUTUAL TLS"),
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough | ServerTlsMode::IstioMutual => None,
    };
    for (name, text) in [("server certificate", &certificate), ("private key", &private_key)] {
        if let (Some(kind), None) = (kind, text) {
            at.error_as_istio(codes::SERVER_TLS, format!("{kind} requires a {name}"), "");
        }
    }
    Some(CertificateFiles { certificate: certificate?, private_key: private_key?, ca_certificates: authorities })
}
