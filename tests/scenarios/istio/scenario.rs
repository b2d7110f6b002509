//! The form of a scenario's file. What this runner does not know is an error, so that nothing is left out unseen.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One file.
#[derive(Debug, Deserialize)]
pub(super) struct Scenario {
    pub(super) name: String,
    #[serde(default)]
    setup: String,
    pub(super) config: String,
    pub(super) calls: Vec<Call>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    pub(super) request: Asked,
    pub(super) expect: Expected,
}

/// What is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// HTTP where it says nothing.
    pub(super) protocol: Option<Protocol>,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    #[serde(default = "get")]
    pub(super) method: String,
    #[serde(default = "root")]
    pub(super) path: String,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default = "once")]
    pub(super) repeat: usize,
    #[serde(default)]
    pub(super) follow_redirects: bool,
    pub(super) after: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    pub(super) status: Option<u16>,
    /// Of each repetition.
    #[serde(default)]
    pub(super) statuses_in_order: Vec<u16>,
    #[serde(default)]
    pub(super) response_headers_on_429: BTreeMap<String, String>,
    pub(super) body_contains: Option<String>,
    pub(super) connection: Option<Connection>,
    pub(super) location: Option<String>,
    pub(super) location_path_and_query: Option<String>,
    pub(super) upstream_reached: Option<bool>,
    pub(super) upstream_path: Option<String>,
    pub(super) upstream_host_header: Option<String>,
    #[serde(default)]
    pub(super) upstream_request_headers: BTreeMap<String, String>,
    pub(super) served_by: Option<String>,
    #[serde(default)]
    pub(super) distribution_percent: BTreeMap<String, f64>,
    #[serde(default)]
    pub(super) tolerance_percent: f64,
    #[serde(default)]
    pub(super) mirrored_to: BTreeMap<String, f64>,
    pub(super) mirrored_host_header: Option<String>,
    pub(super) elapsed_between_s: Option<(f64, f64)>,
}

/// What is spoken beside HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    Tcp,
}

/// What becomes of a connection that gets no answer of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Connection {
    Ok,
    Reset,
}

fn root() -> String {
    "/".to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

const fn once() -> usize {
    1
}

impl Scenario {
    /// A file's text, with the caller and the service written into each call that leaves them to the setup.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut scenario: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if scenario.setup.starts_with("workload httpbin (labels app=httpbin, ns foo), client sleep in ns foo") {
            for call in &mut scenario.calls {
                call.request.from.get_or_insert_with(|| "sleep.foo".to_owned());
                call.request.to.get_or_insert_with(|| "httpbin.foo".to_owned());
            }
        }
        Ok(scenario)
    }
}

impl Call {
    /// Where shares are drawn, ten times as many as the scenario has: its tolerance is twice their deviation, and now six
    /// times.
    pub(super) fn repeats(&self) -> usize {
        if self.expect.distribution_percent.is_empty() { self.request.repeat } else { self.request.repeat * 10 }
    }
}
