//! The cases of Istio's simulator (`simulation` of the corpus): where each runs against real nodes, and which do not, with the reason and with
//! what shows that it still holds.

use serde::Deserialize;

/// At a gateway's ports (`tests/scenarios/istio/edge.rs`).
pub const AT_GATEWAYS: &[&str] = &[
    "gateway-disableporttranslation-01",
    "gateway-disableporttranslation-02",
    "gateway-gatewayconflicts-04",
    "gateway-gatewayconflicts-08",
    "gateway-gatewayservices-03",
    "gateway-gatewayservices-04",
    "gateway-gatewayservices-05",
    "gateway-gatewayservices-07",
    "gateway-httpgateway-01",
    "gateway-httpgateway-04",
];

/// At the ports that applications have of their node (`tests/scenarios/istio/sidecar.rs`).
pub const AT_PORTS: &[&str] = &[
    "sidecar-externalnameservices-01",
    "sidecar-externalnameservices-02",
    "sidecar-externalnameservices-03",
    "sidecar-headlessservices-01",
    "sidecar-loop-01",
];

/// By connections that the kernel captures, which needs root and a network of its own (`tests/capture/simulation.rs`).
pub const CAPTURED: &[&str] = &[
    "serviceentry-serviceentry-01",
    "serviceentry-serviceentry-03",
    "sidecar-passthroughtraffic-01",
    "sidecar-passthroughtraffic-02",
];

/// Those that run nowhere, with the words of the refusal of their objects. An Ingress is a kind of Kubernetes, and the rule that is asked for is
/// its own: whose certificate counts of two that want one host. A Gateway and a VirtualService say the rest of it here, and whose server
/// counts of two that want one host is asked in `tests/scenarios/gateway_conflicts.rs`.
pub const NOT_HERE: &[(&str, &str)] = &[
    ("gateway-ingress-01", "write it as a Gateway and a VirtualService"),
    ("gateway-ingress-02", "write it as a Gateway and a VirtualService"),
];

/// Calls that no node can be asked, by case and name, and why.
pub const LEFT_OUT: &[(&str, &str, &str)] = &[(
    "gateway-gatewayservices-03",
    "no service match",
    "no Service stands before a gateway and leaves some of its ports out: a node opens every port that documents name",
)];

/// One case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    /// Istio's documents; may be empty.
    pub config: String,
    /// Objects of Kubernetes; may be empty.
    pub kube_config: String,
    /// In their order. None where Istio's test makes them by a program.
    pub calls: Vec<Asked>,
}

/// A call, and what becomes of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Asked {
    /// What Istio calls it.
    pub name: String,
    /// What is sent.
    pub call: Call,
    /// What becomes of it.
    pub expect: Expected,
}

/// What is sent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Call {
    /// The address that is dialled; none where any will do.
    #[serde(default)]
    pub address: String,
    /// Its port.
    pub port: u16,
    /// `HTTP` or `TCP`; empty is TCP.
    #[serde(default)]
    pub protocol: String,
    /// `TLS`, or empty.
    #[serde(default, rename = "tLS")]
    pub tls: String,
    /// The server name that TLS asks for; the host's where it is empty.
    #[serde(default)]
    pub sni: String,
    /// The host that a request asks for.
    #[serde(default)]
    pub host_header: String,
    /// Its path; empty is `/`.
    #[serde(default)]
    pub path: String,
}

/// What becomes of a call. Names of listeners, route tables and virtual hosts are Envoy's, and what they mean is seen by where the call ends.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expected {
    /// The cluster.
    pub cluster_matched: Option<String>,
    /// The rule's name.
    pub route_matched: Option<String>,
    /// Istio's name of the failure.
    pub error: Option<String>,
}

impl Call {
    /// The path, never empty.
    pub fn path(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// The server name that TLS asks for; `None` without TLS.
    pub fn server_name(&self) -> Option<&str> {
        let name = if self.sni.is_empty() { &self.host_header } else { &self.sni };
        (self.tls == "TLS" || !self.sni.is_empty()).then_some(name)
    }
}

/// Why a call of a case is left out, if it is.
pub fn left_out(case: &str, call: &str) -> Option<&'static str> {
    LEFT_OUT.iter().find(|(of, name, _)| (*of, *name) == (case, call)).map(|(_, _, why)| *why)
}
