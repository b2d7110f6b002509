//! `PeerAuthentication`: whether a workload takes plaintext.

use std::collections::BTreeMap;

use super::target::{Target, refuse_dry_run};
use crate::{codes, decode::At, document::ROOT_NAMESPACE, parse::Metadata};

/// `PeerAuthentication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Which workloads.
    pub target: Target,
    /// `None` inherits: from the namespace, then from the mesh, then PERMISSIVE.
    pub mode: Option<MutualTls>,
    /// Ports of the workload (where it listens, not the service's) with a mode of their own; `None` inherits `mode`.
    pub ports: BTreeMap<u16, Option<MutualTls>>,
}

/// What a workload takes on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MutualTls {
    /// Plaintext only in Istio; here peers show who they are all the same.
    Disable,
    /// Plaintext and mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// Istio's words; UNSET inherits.
const MODES: [(&str, Option<MutualTls>); 4] = [
    ("UNSET", None),
    ("DISABLE", Some(MutualTls::Disable)),
    ("PERMISSIVE", Some(MutualTls::Permissive)),
    ("STRICT", Some(MutualTls::Strict)),
];

impl MutualTls {
    /// Istio's word.
    pub fn as_str(self) -> &'static str {
        MODES.iter().find(|(_, mode)| *mode == Some(self)).map_or("", |(word, _)| word)
    }
}

impl PeerAuthentication {
    pub(crate) fn decode(spec: &At<'_>, metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        let target = Target::decode_selector(&fields);
        let mode = fields.get("mtls").and_then(|mtls| decode_mode(&mtls));
        let ports = fields.get("portLevelMtls").map(|ports| decode_ports(&ports, &target)).unwrap_or_default();
        fields.finish();
        refuse_dry_run(spec, metadata);
        if metadata.id.namespace == ROOT_NAMESPACE && !target.labels.is_empty() {
            let message = format!("a PeerAuthentication in {ROOT_NAMESPACE} with a selector has no effect");
            spec.warn(codes::WITHOUT_EFFECT, message, "put it into the namespace of the workload");
        }
        Some(Self { target, mode, ports })
    }

    /// True if the document counts at all: one with a selector in the root namespace does not, as in Istio.
    pub fn counts(&self, namespace: &str) -> bool {
        namespace != ROOT_NAMESPACE || self.target.labels.is_empty()
    }
}

fn decode_mode(at: &At<'_>) -> Option<MutualTls> {
    let fields = at.fields()?;
    let at = fields.get("mode");
    let mode = at.as_ref().and_then(|mode| mode.word(&MODES)).flatten();
    if let (Some(at), Some(MutualTls::Disable)) = (&at, mode) {
        let message =
            "DISABLE lets callers outside the mesh in, as PERMISSIVE does: traffic between nodes is always mutual TLS";
        at.warn(codes::WITHOUT_EFFECT, message, "write PERMISSIVE, unless the document must stay as Istio has it");
    }
    fields.finish();
    mode
}

fn decode_ports(at: &At<'_>, target: &Target) -> BTreeMap<u16, Option<MutualTls>> {
    let entries = at.entries();
    if entries.is_empty() {
        let message = "port level mTLS, if defined, must have at least one element";
        at.error_as_istio(codes::PORT_LEVEL, message, "leave portLevelMtls out");
    } else if target.labels.is_empty() {
        let message = "mesh/namespace peer authentication cannot have port level mTLS";
        at.error_as_istio(codes::PORT_LEVEL, message, "add a selector");
    }
    let mut ports = BTreeMap::new();
    for (key, mode) in entries {
        match key.parse::<u16>() {
            Ok(port) if port > 0 => {
                ports.insert(port, decode_mode(&mode));
            }
            Ok(_) | Err(_) => mode.error(codes::RANGE, format!("`{key}` is not a port: port must be between 1-65535")),
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use crate::{Spec, codes, parse};

    fn read(namespace: &str, spec: &str) -> parse::Parsed {
        let head = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n";
        parse::yaml("f", &format!("{head}metadata: {{name: a, namespace: {namespace}}}\nspec: {spec}\n"), "default")
    }

    fn codes_of(parsed: &parse::Parsed) -> Vec<&'static str> {
        parsed.problems.iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn modes_and_ports_are_read() {
        let parsed = read(
            "shop",
            "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: DISABLE}, 81: {mode: UNSET}}}",
        );
        assert_eq!(codes_of(&parsed), [codes::WITHOUT_EFFECT], "DISABLE is told what it means here");
        let Spec::PeerAuthentication(peer) = &parsed.documents[0].document.spec else { panic!() };
        assert_eq!(peer.mode, Some(super::MutualTls::Strict));
        assert_eq!(Vec::from_iter(&peer.ports), [(&80, &Some(super::MutualTls::Disable)), (&81, &None)]);
    }

    #[test]
    fn ports_need_a_selector_and_numbers() {
        assert_eq!(codes_of(&read("shop", "{portLevelMtls: {80: {mode: STRICT}}}")), [codes::PORT_LEVEL]);
        let selected =
            |ports: &str| read("shop", &format!("{{selector: {{matchLabels: {{a: b}}}}, portLevelMtls: {ports}}}"));
        assert_eq!(codes_of(&selected("{}")), [codes::PORT_LEVEL]);
        assert_eq!(codes_of(&selected("{'0': {mode: STRICT}}")), [codes::RANGE]);
        assert_eq!(codes_of(&selected("{http: {mode: STRICT}}")), [codes::RANGE]);
        assert_eq!(codes_of(&read("shop", "{mtls: {mode: BAD}}")), [codes::WORD]);
    }

    #[test]
    fn a_selector_in_the_root_namespace_has_no_effect() {
        let parsed = read("istio-system", "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}}");
        assert_eq!(codes_of(&parsed), [codes::WITHOUT_EFFECT]);
        let Spec::PeerAuthentication(peer) = &parsed.documents[0].document.spec else { panic!() };
        assert!(!peer.counts("istio-system") && peer.counts("shop"));
    }
}
