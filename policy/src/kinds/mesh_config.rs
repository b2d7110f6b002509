//! `MeshConfig`: defaults of the whole mesh. One document, called `default`; what it leaves out keeps its default.

mod certificates;
mod limits;
mod log_format;
mod providers;
mod telemetry_providers;
mod topology;

pub use certificates::CertificateLifetimes;
pub use limits::Limits;
pub use log_format::{GrpcForm, HeaderOrPseudo, LogFact, LogFormat, LogPart, LogWord};
pub use providers::{BodyInCheck, CheckProtocol, ExtensionProvider, HttpCheck};
pub use telemetry_providers::{
    Collector, CollectorPlace, DefaultProviders, ENVOY, ExportHeader, ExportProtocol, HeaderSource, LineFormat,
    LogCollector, PROMETHEUS, SpanCollector, TelemetryKind, TelemetryProvider,
};
pub use topology::{Balancers, ForwardClientCert, GatewayTopology};

use std::{sync::Arc, time::Duration};

use certs::id::TrustDomain;

use super::{LocalityLb, target::refuse_dry_run};
use crate::{
    codes,
    decode::{At, Fields},
    parse::Metadata,
    retry::Retries,
    tree::Value,
};

/// `MeshConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshConfig {
    /// What happens to requests for hosts that the mesh does not know. `None`: by the way they came, refused at an explicit
    /// proxy port, passed on where they were captured.
    pub outbound: Option<OutboundPolicy>,
    /// How long a connection to an endpoint may take to open. 10 s.
    pub connect_timeout: Duration,
    /// How long an application may be silent at a port of whose protocol nothing is declared, before what it carries counts as bytes.
    /// `None`: for as long as it likes.
    pub protocol_detection_timeout: Option<Duration>,
    /// Routes without `retries`. Istio's: 2 retries on `connect-failure,refused-stream,unavailable,cancelled`; and, by
    /// `retryIdempotentOnReset` (true), GET, HEAD and OPTIONS again after a reset.
    pub retries: Retries,
    /// Whether reports of other nodes make a node probe an endpoint. Probe.
    pub outlier_sharing: OutlierSharing,
    /// The form in which paths are matched by authorization. Strict.
    pub path_normalization: PathNormalization,
    /// Locality failover and distribution where no DestinationRule says anything of them. Enabled, without settings.
    pub locality: Arc<LocalityLb>,
    /// Former or other names of this mesh's trust domain, the same as its own in principals. None.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Where requests are logged. Off.
    pub access_log: AccessLog,
    /// How long certificates live.
    pub certificates: CertificateLifetimes,
    /// What a node takes.
    pub limits: Limits,
    /// What stands before gateways. Nothing.
    pub gateways: GatewayTopology,
    /// Services that policies may have asked about requests. None.
    pub extension_providers: Vec<Arc<ExtensionProvider>>,
    /// Where spans and lines of the access log can go. Nowhere.
    pub telemetry_providers: Vec<Arc<TelemetryProvider>>,
    /// Which of them count where no Telemetry names one. None.
    pub default_providers: DefaultProviders,
}

/// Requests for hosts that the mesh does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboundPolicy {
    /// Passed on.
    AllowAny,
    /// HTTP 502, TCP reset.
    RegistryOnly,
}

/// What a report of an outlier by another node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutlierSharing {
    /// Nothing.
    Off,
    /// The node has the endpoint checked by its owner and lowers its own threshold for a while.
    #[default]
    Probe,
}

/// The form in which authorization matches paths; see [`crate::normalize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum PathNormalization {
    /// Dot segments and slashes resolved; what servers read in two ways is refused. Skein's default.
    #[default]
    Strict,
    /// As sent; only escapes of letters that need none are undone, as at every level.
    None,
    /// Dot segments and backslashes resolved. Istio's default.
    Base,
    /// Also runs of slashes.
    MergeSlashes,
    /// Also escaped slashes and backslashes.
    DecodeAndMergeSlashes,
}

/// Where and how requests are logged, unless a Telemetry says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessLog {
    /// `None` is off.
    pub file: Option<LogFile>,
    /// JSON objects instead of text.
    pub json: bool,
    /// Envoy's format string for text; `None` is Istio's default.
    pub format: Option<LogFormat>,
}

/// A stream of the process: policy names no files of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFile {
    /// `/dev/stdout`.
    Stdout,
    /// `/dev/stderr`.
    Stderr,
}

/// Characters of a log format at most.
const MAX_FORMAT: usize = 4_096;
/// Aliases at most.
const MAX_ALIASES: usize = 16;

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            outbound: None,
            connect_timeout: Duration::from_secs(10),
            protocol_detection_timeout: None,
            retries: Retries::default(),
            outlier_sharing: OutlierSharing::default(),
            path_normalization: PathNormalization::default(),
            locality: Arc::new(LocalityLb { enabled: Some(true), ..LocalityLb::default() }),
            trust_domain_aliases: Vec::new(),
            access_log: AccessLog::default(),
            certificates: CertificateLifetimes::default(),
            limits: Limits::default(),
            gateways: GatewayTopology::default(),
            extension_providers: Vec::new(),
            telemetry_providers: Vec::new(),
            default_providers: DefaultProviders::default(),
        }
    }
}

impl MeshConfig {
    pub(crate) fn decode(spec: &At<'_>, metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        if metadata.id.name != "default" {
            spec.error(codes::NAME, "there is one MeshConfig; it is called `default`");
        }
        let default = Self::default();
        let (extension_providers, telemetry_providers) =
            fields.get("extensionProviders").map(|list| providers::decode(&list)).unwrap_or_default();
        let default_providers = fields
            .get("defaultProviders")
            .map(|named| DefaultProviders::decode(&named, &telemetry_providers))
            .unwrap_or_default();
        let config = Self {
            outbound: fields.get("outboundTrafficPolicy").and_then(|policy| decode_outbound(&policy)),
            connect_timeout: fields
                .get("connectTimeout")
                .and_then(|timeout| timeout.duration())
                .unwrap_or(default.connect_timeout),
            protocol_detection_timeout: fields
                .get("protocolDetectionTimeout")
                .and_then(|timeout| timeout.duration_or_zero())
                .filter(|timeout| !timeout.is_zero()),
            retries: decode_retries(&fields),
            outlier_sharing: fields
                .get("outlierSharing")
                .and_then(|sharing| decode_sharing(&sharing))
                .unwrap_or_default(),
            path_normalization: fields
                .get("pathNormalization")
                .and_then(|level| decode_normalization(&level))
                .unwrap_or_default(),
            locality: fields
                .get("localityLbSetting")
                .and_then(|setting| decode_locality(&setting))
                .unwrap_or(default.locality),
            trust_domain_aliases: fields
                .get("trustDomainAliases")
                .map(|list| decode_aliases(&list))
                .unwrap_or_default(),
            access_log: AccessLog::decode(&fields),
            certificates: fields
                .get("certificates")
                .and_then(|lifetimes| CertificateLifetimes::decode(&lifetimes))
                .unwrap_or_default(),
            limits: fields.get("limits").and_then(|limits| Limits::decode(&limits)).unwrap_or_default(),
            gateways: GatewayTopology::decode(&fields),
            extension_providers,
            telemetry_providers,
            default_providers,
        };
        // Captured connections pass unless it is REGISTRY_ONLY; nothing passes at a proxy port, whatever it says.
        if let Some(at) =
            fields.get("outboundTrafficPolicy").filter(|_| config.outbound == Some(OutboundPolicy::AllowAny))
        {
            let message = "ALLOW_ANY is for captured connections: proxy ports lead to nothing that no document names";
            at.warn(codes::IGNORED, message, "name what is outside the mesh by a ServiceEntry");
        }
        fields.finish();
        refuse_dry_run(spec, metadata);
        Some(config)
    }

    /// The provider of telemetry of this name.
    pub fn telemetry_provider(&self, name: &str) -> Option<&Arc<TelemetryProvider>> {
        self.telemetry_providers.iter().find(|provider| *provider.name == *name)
    }

    /// The provider of this name.
    pub fn provider(&self, name: &str) -> Option<&Arc<ExtensionProvider>> {
        self.extension_providers.iter().find(|provider| *provider.name == *name)
    }
}

fn boolean(fields: &Fields<'_>, name: &'static str, default: bool) -> bool {
    fields.get(name).and_then(|at| at.boolean()).unwrap_or(default)
}

fn decode_retries(fields: &Fields<'_>) -> Retries {
    let given = fields.get("defaultHttpRetryPolicy").and_then(|retries| Retries::decode(&retries));
    let idempotent_reset = boolean(fields, "retryIdempotentOnReset", true);
    Retries { idempotent_reset, ..given.unwrap_or_default() }
}

/// As in Istio, the block without a mode is REGISTRY_ONLY.
fn decode_outbound(at: &At<'_>) -> Option<OutboundPolicy> {
    let fields = at.fields()?;
    let words = [("ALLOW_ANY", OutboundPolicy::AllowAny), ("REGISTRY_ONLY", OutboundPolicy::RegistryOnly)];
    let mode = fields.get("mode").map_or(Some(OutboundPolicy::RegistryOnly), |mode| mode.word(&words));
    fields.finish();
    mode
}

/// `off` without quotes is a boolean in YAML.
fn decode_sharing(at: &At<'_>) -> Option<OutlierSharing> {
    if at.node.value == Value::Bool(false) {
        return Some(OutlierSharing::Off);
    }
    at.word(&[("off", OutlierSharing::Off), ("probe", OutlierSharing::Probe)])
}

fn decode_normalization(at: &At<'_>) -> Option<PathNormalization> {
    let fields = at.fields()?;
    let words = [
        ("DEFAULT", PathNormalization::Strict),
        ("STRICT", PathNormalization::Strict),
        ("NONE", PathNormalization::None),
        ("BASE", PathNormalization::Base),
        ("MERGE_SLASHES", PathNormalization::MergeSlashes),
        ("DECODE_AND_MERGE_SLASHES", PathNormalization::DecodeAndMergeSlashes),
    ];
    let level = fields.get("normalization").map_or(Some(PathNormalization::Strict), |level| level.word(&words));
    fields.finish();
    level
}

/// Without outlier detection nothing fails over; which rules have it is not known here.
fn decode_locality(at: &At<'_>) -> Option<Arc<LocalityLb>> {
    let setting = LocalityLb::decode(at, true)?;
    Some(Arc::new(LocalityLb { enabled: Some(setting.enabled.unwrap_or(true)), ..setting }))
}

fn decode_aliases(list: &At<'_>) -> Vec<TrustDomain> {
    let items = list.text_list();
    if items.len() > MAX_ALIASES {
        list.error(codes::RANGE, format!("at most {MAX_ALIASES} aliases"));
    }
    let read = |(text, at): &(&str, At<'_>)| {
        TrustDomain::new(text).map_err(|error| at.error(codes::NAME, error.to_string())).ok()
    };
    items.iter().filter_map(read).collect()
}

impl AccessLog {
    fn decode(fields: &Fields<'_>) -> Self {
        let files = [("", None), ("/dev/stdout", Some(LogFile::Stdout)), ("/dev/stderr", Some(LogFile::Stderr))];
        let file = fields.get("accessLogFile").and_then(|file| file.word(&files)).flatten();
        let json = fields
            .get("accessLogEncoding")
            .and_then(|encoding| encoding.word(&[("TEXT", false), ("JSON", true)]))
            .unwrap_or_default();
        let format = fields.get("accessLogFormat").and_then(|format| {
            let text = format.text()?;
            if text.len() > MAX_FORMAT {
                format.error(codes::RANGE, format!("a log format has at most {MAX_FORMAT} bytes"));
            }
            if json && !text.is_empty() {
                format.error(codes::EXCLUSIVE, "a format string is for TEXT; JSON has fixed keys");
            }
            if text.is_empty() { None } else { LogFormat::decode(&format) }
        });
        Self { file, json, format }
    }
}

#[cfg(test)]
mod tests;
