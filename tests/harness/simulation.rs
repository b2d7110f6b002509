//! The cases of Istio's simulator (`simulation` of the corpus): those that run, and those that are not of what a node does today. Each of these with its
//! reason, and with what shows that the reason still holds; whoever builds what is missing moves a case from here to where it runs.

/// Why a case does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// A push of its documents is refused, and the refusal has these words.
    Refused(&'static str),
    /// It needs an object of Kubernetes for which a mesh without it has nothing; the file has these words.
    Kubernetes(&'static str),
    /// It asks for nothing: Istio's test looks at what is generated.
    NoCalls,
    /// It connects to a port at which Istio captures connections; here applications name a proxy port. The file has these words.
    Capture(&'static str),
}

const PASSTHROUGH: Because = Because::Refused("a server in TLS mode PASSTHROUGH is not supported yet");
const SERVICE_ENTRY: Because = Because::Refused("kind: ServiceEntry is not supported yet");
const INGRESS: Because = Because::Kubernetes("kind: Ingress");
const ALIAS: Because = Because::Kubernetes("type: ExternalName");

/// The cases that run.
pub const HERE: &[&str] = &["gateway-gatewayconflicts-08", "gateway-httpgateway-01", "gateway-httpgateway-04"];

/// Every other case, by the name of its file.
pub const NOT_HERE: &[(&str, Because)] = &[
    ("gateway-disableporttranslation-01", SERVICE_ENTRY),
    ("gateway-disableporttranslation-02", SERVICE_ENTRY),
    ("gateway-gatewayconflicts-04", PASSTHROUGH),
    ("gateway-gatewayservices-03", SERVICE_ENTRY),
    ("gateway-gatewayservices-04", SERVICE_ENTRY),
    ("gateway-gatewayservices-05", SERVICE_ENTRY),
    ("gateway-gatewayservices-07", SERVICE_ENTRY),
    ("gateway-ingress-01", INGRESS),
    ("gateway-ingress-02", INGRESS),
    ("serviceentry-serviceentry-01", SERVICE_ENTRY),
    ("serviceentry-serviceentry-03", SERVICE_ENTRY),
    // Beside its alias it asks nothing.
    ("sidecar-externalnameservices-01", Because::NoCalls),
    ("sidecar-externalnameservices-02", ALIAS),
    ("sidecar-externalnameservices-03", ALIAS),
    ("sidecar-headlessservices-01", Because::NoCalls),
    ("sidecar-loop-01", Because::Capture("port: 15001")),
    ("sidecar-passthroughtraffic-01", SERVICE_ENTRY),
    ("sidecar-passthroughtraffic-02", SERVICE_ENTRY),
];
