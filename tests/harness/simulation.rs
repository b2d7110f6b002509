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
    /// It connects as only captured connections do, which needs root and a network of its own (`tests/capture`): by an address, of which
    /// `policy/src/compile/entries/tests.rs` has the case, or to the ports of Istio's own listeners, which a node has not: what calls a
    /// node's port for captured connections itself, `tests/capture` looks at. The file has these words.
    Capture(&'static str),
}

/// Ports of the Kubernetes Service in front of a gateway, which a node has not.
const TRANSLATION: Because = Because::Kubernetes("disable-gateway-port-translation");
/// The services of a Gateway that was made of one of Kubernetes' own.
const GATEWAY_SERVICE: Because = Because::Kubernetes("internal.istio.io/gateway-service");
const BY_ADDRESS: Because = Because::Capture("address: 1234");
const INGRESS: Because = Because::Kubernetes("kind: Ingress");
const ALIAS: Because = Because::Kubernetes("type: ExternalName");

/// The cases that run.
pub const HERE: &[&str] =
    &["gateway-gatewayconflicts-04", "gateway-gatewayconflicts-08", "gateway-httpgateway-01", "gateway-httpgateway-04"];

/// Every other case, by the name of its file.
pub const NOT_HERE: &[(&str, Because)] = &[
    ("gateway-disableporttranslation-01", TRANSLATION),
    ("gateway-disableporttranslation-02", TRANSLATION),
    ("gateway-gatewayservices-03", GATEWAY_SERVICE),
    ("gateway-gatewayservices-04", GATEWAY_SERVICE),
    ("gateway-gatewayservices-05", GATEWAY_SERVICE),
    ("gateway-gatewayservices-07", Because::NoCalls),
    ("gateway-ingress-01", INGRESS),
    ("gateway-ingress-02", INGRESS),
    ("serviceentry-serviceentry-01", BY_ADDRESS),
    ("serviceentry-serviceentry-03", BY_ADDRESS),
    // Beside its alias it asks nothing.
    ("sidecar-externalnameservices-01", Because::NoCalls),
    ("sidecar-externalnameservices-02", ALIAS),
    ("sidecar-externalnameservices-03", ALIAS),
    ("sidecar-headlessservices-01", Because::NoCalls),
    ("sidecar-loop-01", Because::Capture("port: 15001")),
    ("sidecar-passthroughtraffic-01", Because::NoCalls),
    ("sidecar-passthroughtraffic-02", Because::NoCalls),
];
