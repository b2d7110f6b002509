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

/// What stands in the document, each with its place.
struct Sources<'a> {
    certificate: Option<(&'a str, At<'a>)>,
    private_key: Option<(&'a str, At<'a>)>,
    authorities: Option<(&'a str, At<'a>)>,
    revoked: Option<(&'a str, At<'a>)>,
    credential: Option<(&'a str, At<'a>)>,
    credentials: Option<At<'a>>,
    pairs: Option<At<'a>>,
}

/// Where a field stands that is there.
fn place<'a>(source: Option<&(&str, At<'a>)>) -> Option<At<'a>> {
    source.map(|(_, at)| *at)
}

/// A list that holds something.
fn list<'a>(fields: &Fields<'a>, name: &'static str) -> Option<At<'a>> {
    fields.get(name).filter(|list| !list.items().is_empty())
}

impl ServerCertificates {
    pub(super) fn decode(fields: &Fields<'_>, mode: ServerTlsMode, owner: TlsOwner) -> Self {
        let sources = Sources {
            certificate: fields.filled("serverCertificate"),
            private_key: fields.filled("privateKey"),
            authorities: fields.filled("caCertificates"),
            revoked: fields.filled("caCrl"),
            credential: fields.filled("credentialName"),
            credentials: list(fields, "credentialNames"),
            pairs: list(fields, "tlsCertificates"),
        };
        if owner == TlsOwner::Sidecar {
            sources.are_files();
        }
        if mode == ServerTlsMode::IstioMutual {
            sources.are_absent();
            return Self::None;
        }
        sources.are_one(fields.at);
        match mode {
            ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
                sources.are_unused(fields, mode);
                Self::None
            }
            ServerTlsMode::Simple
            | ServerTlsMode::Mutual
            | ServerTlsMode::OptionalMutual
            | ServerTlsMode::IstioMutual => sources.read(fields, mode),
        }
    }
}

impl Sources<'_> {
    /// Istio knows no secrets at sidecars.
    fn are_files(&self) {
        for (name, at) in [
            ("credentialName", place(self.credential.as_ref())),
            ("credentialNames", self.credentials),
            ("tls_certificates", self.pairs),
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
            ("server certificate", place(self.certificate.as_ref())),
            ("private key", place(self.private_key.as_ref())),
            ("CA bundle", place(self.authorities.as_ref())),
            ("tlsCertificates", self.pairs),
            ("credentialName", place(self.credential.as_ref())),
            ("credentialNames", self.credentials),
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

    fn are_unused(&self, fields: &Fields<'_>, mode: ServerTlsMode) {
        let texts = [&self.certificate, &self.private_key, &self.authorities, &self.revoked, &self.credential];
        if texts.iter().any(|text| text.is_some()) || self.credentials.is_some() || self.pairs.is_some() {
            let message = format!("{mode} mode does not use certificates, they will be ignored");
            fields.at.warn(codes::IGNORED, message, "write `mode: SIMPLE` to end TLS here");
        }
        if let (Some((_, at)), Some(_)) = (&self.revoked, &self.credential) {
            let message = "CRL is not supported with credentialName. CRL has to be specified in the credential";
            at.error_as_istio(codes::SERVER_TLS, message, "");
        }
    }

    /// What a server that ends TLS itself shows.
    fn read(&self, fields: &Fields<'_>, mode: ServerTlsMode) -> ServerCertificates {
        let credential = self.credential.as_ref().map(|(name, _)| (*name).to_owned());
        let names = self.credentials.as_ref().map(At::text_list).unwrap_or_default();
        let names: Vec<String> =
            credential.into_iter().chain(names.iter().map(|(name, _)| (*name).to_owned())).collect();
        if let Some(at) = &self.credentials {
            at_most_two(at, names.len());
        }
        if !names.is_empty() {
            if let Some((_, at)) = &self.revoked {
                let message = "`caCrl` has no meaning beside a credential, which holds its own";
                at.warn(codes::IGNORED, message, "");
            }
            return ServerCertificates::Credentials(names);
        }
        let kind = if mode == ServerTlsMode::Simple { "SIMPLE TLS" } else { "MUTUAL TLS" };
        if mode != ServerTlsMode::Simple && self.authorities.is_none() {
            let message = format!("{kind} requires a client CA bundle");
            fields.at.error_as_istio(codes::SERVER_TLS, message, "write `caCertificates`");
        }
        if let (Some((_, at)), ServerTlsMode::Simple) = (&self.revoked, mode) {
            let message = "CRL is not supported with SIMPLE TLS";
            at.error_as_istio(codes::SERVER_TLS, message, "clients show a certificate in MUTUAL mode only");
        }
        let Some(pairs) = &self.pairs else {
            let text = |source: &Option<(&str, At<'_>)>| source.as_ref().map(|(text, _)| (*text).to_owned());
            let pair = (text(&self.certificate), text(&self.private_key), None);
            return ServerCertificates::Files(complete(fields.at, kind, pair).into_iter().collect());
        };
        at_most_two(pairs, pairs.items().len());
        ServerCertificates::Files(pairs.items().iter().filter_map(|pair| decode_pair(pair, kind)).collect())
    }
}

fn at_most_two(at: &At<'_>, count: usize) {
    if count > MAX_CERTIFICATES {
        let message = format!("{count} server certificates, {MAX_CERTIFICATES} are used: one of RSA and one of ECDSA");
        at.warn(codes::IGNORED, message, "");
    }
}

fn decode_pair(at: &At<'_>, kind: &str) -> Option<CertificateFiles> {
    let fields = at.fields()?;
    let text = |name| fields.filled(name).map(|(text, _)| text.to_owned());
    let pair = (text("serverCertificate"), text("privateKey"), text("caCertificates"));
    fields.finish();
    complete(at, kind, pair)
}

/// Certificate, key and authorities, of which the first two must be there.
type Pair = (Option<String>, Option<String>, Option<String>);

fn complete(at: &At<'_>, kind: &str, (certificate, private_key, ca_certificates): Pair) -> Option<CertificateFiles> {
    for (name, text) in [("server certificate", &certificate), ("private key", &private_key)] {
        if text.is_none() {
            at.error_as_istio(codes::SERVER_TLS, format!("{kind} requires a {name}"), "");
        }
    }
    Some(CertificateFiles { certificate: certificate?, private_key: private_key?, ca_certificates })
}
