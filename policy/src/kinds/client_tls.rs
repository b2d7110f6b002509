//! `ClientTLSSettings`: TLS of a caller's proxy towards a destination.

use std::net::IpAddr;

use crate::{
    codes,
    decode::{At, Fields},
    hosts,
};

/// `ClientTLSSettings`. Its presence switches automatic mutual TLS off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientTls {
    /// Whether and who shows certificates.
    pub mode: ClientTlsMode,
    /// File with the caller's certificates, PEM.
    pub client_certificate: Option<String>,
    /// File with its key, PEM.
    pub private_key: Option<String>,
    /// File with the roots that the server is verified with, PEM; absent: the system's.
    pub ca_certificates: Option<String>,
    /// File with revoked certificates, PEM.
    pub ca_crl: Option<String>,
    /// Name of a credential in the node's own store, in place of the files.
    pub credential_name: Option<String>,
    /// Names of which the server must have one. None: the `sni` (not for the mesh's own identities).
    pub subject_alt_names: Vec<String>,
    /// Server name of the ClientHello; absent: from the Host header.
    pub sni: Option<String>,
    /// The server is not verified.
    pub insecure_skip_verify: bool,
}

/// `TLSmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientTlsMode {
    /// Plaintext.
    #[default]
    Disable,
    /// The server shows a certificate.
    Simple,
    /// Both do: the caller one of its own.
    Mutual,
    /// Both do: the mesh's identities.
    IstioMutual,
}

impl ClientTls {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let text = |name| fields.get(name).and_then(|at| at.text()).filter(|text| !text.is_empty()).map(str::to_owned);
        let mode = fields.get("mode").and_then(|at| {
            at.word(&[
                ("DISABLE", ClientTlsMode::Disable),
                ("SIMPLE", ClientTlsMode::Simple),
                ("MUTUAL", ClientTlsMode::Mutual),
                ("ISTIO_MUTUAL", ClientTlsMode::IstioMutual),
            ])
        });
        let names = fields.get("subjectAltNames").map(|list| {
            let names = list.text_list();
            names.iter().for_each(|(name, at)| refuse_unbuilt_name(name, at));
            names.into_iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        });
        let decoded = Self {
            mode: mode.unwrap_or_default(),
            client_certificate: text("clientCertificate"),
            private_key: text("privateKey"),
            ca_certificates: text("caCertificates"),
            ca_crl: text("caCrl"),
            credential_name: text("credentialName"),
            subject_alt_names: names.unwrap_or_default(),
            sni: text("sni"),
            insecure_skip_verify: fields.get("insecureSkipVerify").and_then(|at| at.boolean()).unwrap_or(false),
        };
        decoded.check(&fields);
        if decoded.mode == ClientTlsMode::IstioMutual {
            fields.not_supported(&["subjectAltNames", "insecureSkipVerify", "caCrl", "credentialName"]);
            if let Some(sni) = fields.get("sni") {
                let message = "between nodes the server's identity takes the place of its name: `sni` chooses nothing";
                sni.warn(
                    codes::IGNORED,
                    message,
                    "a gateway chooses the server by the request's host; leave `sni` out",
                );
            }
        }
        fields.finish();
        Some(decoded)
    }

    fn check(&self, fields: &Fields<'_>) {
        let refuse = |message: &str| fields.at.error_as_istio(codes::CLIENT_TLS, message, "");
        let own = match self.mode {
            ClientTlsMode::Simple | ClientTlsMode::Mutual => true,
            ClientTlsMode::Disable | ClientTlsMode::IstioMutual => false,
        };
        if own && self.insecure_skip_verify {
            let verifies = self.ca_certificates.is_some() || !self.subject_alt_names.is_empty();
            if self.mode == ClientTlsMode::Simple && (verifies || self.credential_name.is_some()) {
                refuse(
                    "cannot specify CaCertificates or CredentialName or SubjectAltNames when InsecureSkipVerify is set true",
                );
            } else if self.mode == ClientTlsMode::Mutual && verifies {
                refuse("cannot specify CaCertificates or SubjectAltNames when InsecureSkipVerify is set true");
            }
        }
        if own && self.credential_name.is_some() {
            let files = [&self.client_certificate, &self.private_key, &self.ca_certificates, &self.ca_crl];
            if files.iter().any(|file| file.is_some()) {
                refuse("cannot specify client certificates or CA certificate or CA CRL If credentialName is set");
            }
            return;
        }
        if self.mode == ClientTlsMode::Mutual && self.client_certificate.is_none() {
            refuse("client certificate required for mutual tls");
        }
        if self.mode == ClientTlsMode::Mutual && self.private_key.is_none() {
            refuse("private key required for mutual tls");
        }
    }
}

/// Traffic to services of the mesh goes over mutual TLS with the mesh's identities, whatever a document says: complains of every `tls`
/// of a traffic policy that says something else.
pub(super) fn refuse_for_mesh(policy: &At<'_>) {
    let Some(fields) = policy.fields() else { return };
    let ports = fields.get("portLevelSettings");
    let ports = ports.as_ref().map(At::items).unwrap_or_default();
    let of_ports: Vec<Fields<'_>> = ports.iter().filter_map(At::fields).collect();
    for tls in of_ports.iter().chain([&fields]).filter_map(|fields| fields.get("tls")) {
        let mode = tls.fields().and_then(|fields| fields.get("mode")?.text().map(str::to_owned));
        if mode.as_deref() != Some("ISTIO_MUTUAL") {
            tls.unbuilt("another tls mode than ISTIO_MUTUAL (between nodes there is only the mesh's own mutual TLS)");
        }
    }
}

/// Certificates of servers are compared by DNS names and addresses.
pub(super) fn refuse_unbuilt_name(name: &str, at: &At<'_>) {
    // TLS knows names with underscores.
    let is_name = || hosts::is_dns_name(&name.replace('_', "a")) || name.parse::<IpAddr>().is_ok();
    if name.contains("://") {
        at.unbuilt("a URI among the names of a server's certificate");
    } else if name.contains('*') {
        at.unbuilt("a wildcard among the names of a server's certificate");
    } else if !is_name() {
        at.error_hint(codes::ADDRESS, format!("`{name}` is no name of a server"), "a DNS name or an IP address");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{complaints, spec_of};

    fn rule(text: &str) -> String {
        format!("{{host: a, trafficPolicy: {{tls: {text}}}}}")
    }

    #[test]
    fn settings() {
        let spec = spec_of(
            "DestinationRule",
            &rule(
                "{mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /r, caCrl: /l, sni: a.example, subjectAltNames: [b], credentialName: ''}",
            ),
        );
        let tls = spec.destination_rule().unwrap().policy.clone().unwrap().blocks.tls.unwrap();
        assert_eq!(
            (tls.mode, tls.sni.as_deref(), tls.credential_name),
            (ClientTlsMode::Mutual, Some("a.example"), None)
        );
        assert_eq!(tls.subject_alt_names, ["b"]);
    }

    #[test]
    fn the_mesh_knows_servers_by_their_identities() {
        let found = complaints("DestinationRule", &rule("{mode: ISTIO_MUTUAL, sni: a.example, subjectAltNames: [b]}"));
        let place = |field: &str| format!("spec.trafficPolicy.tls.{field}");
        assert!(found.contains(&(codes::IGNORED, place("sni"))), "{found:?}");
        assert!(found.contains(&(codes::NOT_SUPPORTED, place("subjectAltNames"))), "{found:?}");
    }

    #[test]
    fn certificates_fit_the_mode() {
        for (text, valid) in [
            ("{}", true),
            ("{mode: ISTIO_MUTUAL}", true),
            ("{mode: SIMPLE}", true),
            ("{mode: SIMPLE, credentialName: c}", true),
            ("{mode: SIMPLE, credentialName: c, caCrl: /l}", false),
            ("{mode: MUTUAL}", false),
            ("{mode: MUTUAL, credentialName: c}", true),
            ("{mode: MUTUAL, privateKey: /k}", false),
            ("{mode: SIMPLE, insecureSkipVerify: true}", true),
            ("{mode: SIMPLE, insecureSkipVerify: true, credentialName: c}", false),
            ("{mode: MUTUAL, insecureSkipVerify: true, credentialName: c}", true),
            ("{mode: MUTUAL, insecureSkipVerify: true, credentialName: c, subjectAltNames: [a]}", false),
            ("{mode: SIMPLE, insecureSkipVerify: false, subjectAltNames: [a]}", true),
        ] {
            let found = complaints("DestinationRule", &rule(text));
            assert_eq!(found.iter().all(|(code, _)| *code != codes::CLIENT_TLS), valid, "{text}: {found:?}");
        }
    }
}
