//! `ServerTLSSettings`: how a server of a Gateway, or a Sidecar's ingress listener, meets TLS.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{PortProtocol, ServerCertificates, server_certificates::CertificateSources};
use crate::{
    codes,
    decode::{At, Fields},
};

/// `tls` of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Plain HTTP is answered with 301 to https.
    pub https_redirect: bool,
    /// Who ends TLS, and whether clients show a certificate.
    pub mode: ServerTlsMode,
    /// What the server shows.
    pub certificates: ServerCertificates,
    /// Path of the authorities that clients' certificates must come from.
    pub ca_certificates: Option<String>,
    /// Path of the list of clients' certificates that no longer count.
    pub ca_crl: Option<String>,
    /// Name of the secret with the clients' authorities; it goes before the one in the server's credential.
    pub ca_credential: Option<String>,
    /// Names of which a client's certificate must have one; none means any.
    pub subject_alt_names: Vec<String>,
    /// SHA-256 of the public keys that clients may have. A client needs one of these or of `certificate_hashes`, if there are any.
    pub certificate_spki: Vec<[u8; 32]>,
    /// SHA-256 of the certificates that clients may have.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// The newest version that is spoken.
    pub max_version: TlsVersion,
    /// Names and operators as OpenSSL writes them, each once; none means the proxy's own choice.
    pub cipher_suites: Vec<String>,
    /// A client's certificate that does not verify is passed on, not refused.
    pub insecure_skip_verify: bool,
}

/// `TLSmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ServerTlsMode {
    /// TLS is not ended here: its SNI chooses a TLS route; the default.
    #[default]
    Passthrough,
    /// Clients show no certificate.
    Simple,
    /// Clients must show a certificate.
    Mutual,
    /// TLS is not ended here: its SNI names service, subset and port themselves.
    AutoPassthrough,
    /// Both sides show identities of the mesh.
    IstioMutual,
    /// Clients may show a certificate, which must then be good.
    OptionalMutual,
}

const MODES: [(&str, ServerTlsMode); 6] = [
    ("PASSTHROUGH", ServerTlsMode::Passthrough),
    ("SIMPLE", ServerTlsMode::Simple),
    ("MUTUAL", ServerTlsMode::Mutual),
    ("AUTO_PASSTHROUGH", ServerTlsMode::AutoPassthrough),
    ("ISTIO_MUTUAL", ServerTlsMode::IstioMutual),
    ("OPTIONAL_MUTUAL", ServerTlsMode::OptionalMutual),
];

impl ServerTlsMode {
    /// True if TLS passes through and ends elsewhere.
    pub fn is_passthrough(self) -> bool {
        matches!(self, Self::Passthrough | Self::AutoPassthrough)
    }
}

impl fmt::Display for ServerTlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(MODES.iter().find(|(_, mode)| mode == self).map_or("", |(word, _)| word))
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each variant is the version of that number")]
pub enum TlsVersion {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
}

/// Whose settings they are: a Sidecar's allow less.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsOwner {
    Gateway,
    Sidecar,
}

/// Suites that Istio knows by name.
const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

impl ServerTls {
    /// `protocol` is that of a Gateway's port, if it is known; a Sidecar looks after its ports itself.
    pub(super) fn decode(at: &At<'_>, owner: TlsOwner, protocol: Option<PortProtocol>) -> Option<Self> {
        let fields = at.fields()?;
        let mode = fields.get("mode").and_then(|mode| mode.word(&MODES)).unwrap_or_default();
        if let Some(protocol) = protocol.filter(|protocol| !protocol.is_tls()) {
            fits_plain_port(&fields, mode, protocol);
        }
        let flag = |name| fields.get(name).and_then(|flag| flag.boolean()).unwrap_or(false);
        let sources = CertificateSources::read(&fields, mode);
        let ca_credential = fields.filled("caCertCredentialName").map(|(name, _)| name.to_owned());
        let min_version = version(&fields, "minProtocolVersion").unwrap_or(TlsVersion::V1_2);
        let names = fields.get("subjectAltNames");
        let names = names.as_ref().map(At::text_list).unwrap_or_default();
        let tls = Self {
            https_redirect: flag("httpsRedirect"),
            mode,
            certificates: sources.certificates(at, owner),
            ca_certificates: sources.authorities(),
            ca_crl: sources.revoked(),
            ca_credential: ca_credential.filter(|_| !mode.is_passthrough()),
            subject_alt_names: names.into_iter().map(|(name, _)| name.to_owned()).collect(),
            certificate_spki: hashes(&fields, "verifyCertificateSpki", |text| STANDARD.decode(text).ok()),
            certificate_hashes: hashes(&fields, "verifyCertificateHash", hexadecimal),
            min_version,
            max_version: version(&fields, "maxProtocolVersion").unwrap_or(TlsVersion::V1_3),
            cipher_suites: cipher_suites(&fields, min_version),
            insecure_skip_verify: flag("insecureSkipVerify"),
        };
        if owner == TlsOwner::Sidecar {
            fits_sidecar(&fields, &tls);
        } else if !mode.is_passthrough() {
            refuse_unbuilt(&fields, &tls);
        }
        fields.finish();
        Some(tls)
    }
}

/// Suites of TLS 1.2 that this build speaks: those with forward secrecy and authenticated encryption.
pub const SPOKEN_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// What TLS this build does not speak. The suites of TLS 1.3 are not for documents to choose, as in Istio.
fn refuse_unbuilt(fields: &Fields<'_>, tls: &ServerTls) {
    let place = |name| fields.get(name).unwrap_or(*fields.at);
    if tls.mode == ServerTlsMode::IstioMutual {
        let names = ["subjectAltNames", "verifyCertificateSpki", "verifyCertificateHash", "insecureSkipVerify"];
        let why = "callers show identities of the mesh: an AuthorizationPolicy says which are let in";
        fields.not_supported_because(&names, why);
        if tls.max_version < TlsVersion::V1_3 {
            place("maxProtocolVersion").unbuilt("TLS older than 1.3 between nodes");
        }
    }
    if tls.min_version < TlsVersion::V1_2 {
        place("minProtocolVersion").unbuilt("TLS older than 1.2");
    }
    if tls.max_version < TlsVersion::V1_2 {
        place("maxProtocolVersion").unbuilt("TLS no newer than 1.1");
    }
    let (spoken, others): (Vec<&str>, Vec<&str>) =
        tls.cipher_suites.iter().map(String::as_str).partition(|suite| SPOKEN_SUITES.contains(suite));
    match others.first() {
        Some(first) if spoken.is_empty() || !CIPHER_SUITES.contains(first) => {
            place("cipherSuites").unbuilt(format!("the cipher suite `{first}`"));
        }
        Some(first) => {
            let message =
                format!("the cipher suite `{first}` is not spoken: it has no forward secrecy, or is not authenticated");
            place("cipherSuites").warn(codes::CIPHER_SUITES, message, "leave it out");
        }
        None => {}
    }
}

/// Ports that speak no TLS have no settings for it, but for the redirect of plain HTTP at a Gateway.
fn fits_plain_port(fields: &Fields<'_>, mode: ServerTlsMode, protocol: PortProtocol) {
    if !protocol.is_http() {
        let message = "server cannot have TLS settings for non HTTPS/TLS ports";
        fields.at.error_as_istio(codes::SERVER_TLS, message, "write `protocol: HTTPS` or TLS");
        return;
    }
    let files = ["caCertificates", "privateKey", "serverCertificate"];
    if !mode.is_passthrough() || files.iter().any(|name| fields.is_set(name)) {
        let message = "server cannot have TLS settings for plain text HTTP ports";
        fields.at.error_as_istio(codes::SERVER_TLS, message, "write `protocol: HTTPS`, or httpsRedirect alone");
    }
}

/// A Sidecar's listener ends TLS with files, and believes whom the CA believes.
fn fits_sidecar(fields: &Fields<'_>, tls: &ServerTls) {
    let place = |name| fields.get(name).unwrap_or(*fields.at);
    if !tls.subject_alt_names.is_empty() {
        let message = "sidecar: subjectAltNames is not supported in ingress tls";
        place("subjectAltNames").error_as_istio(codes::SERVER_TLS, message, "use an AuthorizationPolicy");
    }
    if tls.https_redirect {
        place("httpsRedirect").error_as_istio(codes::SERVER_TLS, "sidecar: httpsRedirect is not supported", "");
    }
    if matches!(tls.mode, ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough) {
        let message = format!("configuration is invalid: cannot set mode to {} in sidecar ingress tls", tls.mode);
        place("mode").error_as_istio(codes::SERVER_TLS, message, "SIMPLE or MUTUAL");
    }
}

/// A version that is asked for; `None` leaves it to the proxy.
fn version(fields: &Fields<'_>, name: &'static str) -> Option<TlsVersion> {
    let words = [
        ("TLS_AUTO", None),
        ("TLSV1_0", Some(TlsVersion::V1_0)),
        ("TLSV1_1", Some(TlsVersion::V1_1)),
        ("TLSV1_2", Some(TlsVersion::V1_2)),
        ("TLSV1_3", Some(TlsVersion::V1_3)),
    ];
    fields.get(name).and_then(|word| word.word(&words)).flatten()
}

/// SHA-256 hashes. One that is none could never match, and a list of such would shut everybody out.
fn hashes(fields: &Fields<'_>, name: &'static str, read: fn(&str) -> Option<Vec<u8>>) -> Vec<[u8; 32]> {
    let Some(list) = fields.get(name) else { return Vec::new() };
    let mut hashes = Vec::new();
    for (text, at) in list.text_list() {
        match read(text).and_then(|bytes| bytes.try_into().ok()) {
            Some(hash) => hashes.push(hash),
            None => at.error_hint(codes::SERVER_TLS, format!("`{text}` is not a SHA-256 hash"), "32 bytes"),
        }
    }
    hashes
}

/// Bytes in hexadecimal, with or without colons between them.
fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

/// The suites that are known, each once. Operators such as `-` and `+` pass as they are.
fn cipher_suites(fields: &Fields<'_>, min_version: TlsVersion) -> Vec<String> {
    let list = fields.get("cipherSuites");
    let items = list.as_ref().map(At::text_list).unwrap_or_default();
    if items.is_empty()
        && min_version < TlsVersion::V1_2
        && let Some(at) = fields.get("minProtocolVersion")
    {
        let message = "TLS version below TLSV1_2 require setting compatible ciphers";
        at.warn(codes::CIPHER_SUITES, message, "name them in `cipherSuites`");
    }
    let mut suites: Vec<String> = Vec::new();
    for (text, at) in items {
        let operator = !text.starts_with(char::is_alphanumeric);
        if !operator && text != "ALL" && !CIPHER_SUITES.contains(&text) {
            let near = crate::decode::nearest(text, CIPHER_SUITES.into_iter());
            let hint = near.map(|near| format!("did you mean `{near}`?")).unwrap_or_default();
            at.warn(codes::CIPHER_SUITES, format!("ignoring invalid cipher suite {text}"), hint);
        } else if suites.iter().any(|suite| suite == text) {
            at.warn(codes::CIPHER_SUITES, format!("ignoring duplicate cipher suite {text}"), "");
        } else if !text.is_empty() {
            suites.push(text.to_owned());
        }
    }
    suites
}
