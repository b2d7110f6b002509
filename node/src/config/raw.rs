//! The text's shape: what TOML says, before any of it is believed.

use std::{collections::BTreeMap, ops::Range};

use serde::Deserialize;
use toml::Spanned;

type Text = Spanned<String>;

/// `skein.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) node: Node,
    #[serde(default)]
    pub(super) runtime: Runtime,
    #[serde(default)]
    pub(super) mesh: Mesh,
    #[serde(default)]
    pub(super) admin: Admin,
    #[serde(default)]
    pub(super) metrics: Metrics,
    pub(super) workload: Option<Workload>,
    #[serde(default)]
    pub(super) gateway: Gateway,
    pub(super) secrets: Option<Secrets>,
    pub(super) dns: Option<Spanned<Dns>>,
    pub(super) capture: Option<Spanned<Capture>>,
    #[serde(default)]
    pub(super) outbound: Vec<Outbound>,
    #[serde(default)]
    pub(super) service: Vec<Service>,
    #[serde(default)]
    pub(super) upstream: Vec<Upstream>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gateway {
    pub(super) listen: Option<Text>,
    #[serde(default)]
    pub(super) ports: BTreeMap<String, Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Secrets {
    pub(super) files: BTreeMap<String, Vec<Text>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dns {
    pub(super) listen: Option<Text>,
    pub(super) addresses: Option<Text>,
    pub(super) upstreams: Option<Spanned<Vec<Text>>>,
    #[serde(default)]
    pub(super) exclude_ports: Vec<Spanned<i64>>,
    #[serde(default)]
    pub(super) any_host: bool,
    #[serde(rename = "as")]
    pub(super) speaker: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Capture {
    pub(super) port: Option<Spanned<i64>>,
    pub(super) inbound_port: Option<Spanned<i64>>,
    #[serde(rename = "as")]
    pub(super) speaker: Option<Text>,
}

/// A file of `services.d`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fragment {
    #[serde(default)]
    pub(super) outbound: Vec<Outbound>,
    #[serde(default)]
    pub(super) service: Vec<Service>,
    #[serde(default)]
    pub(super) upstream: Vec<Upstream>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: Text,
    pub(super) trust_domain: Text,
    pub(super) locality: Option<Text>,
    pub(super) data_dir: Option<std::path::PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Runtime {
    pub(super) workers: Option<Spanned<i64>>,
    pub(super) drain: Option<Text>,
    pub(super) farewell: Option<Text>,
    pub(super) log: Option<Text>,
    pub(super) format: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mesh {
    pub(super) listen: Option<Text>,
    pub(super) advertise: Option<Text>,
    #[serde(default)]
    pub(super) peers: Vec<Text>,
    pub(super) transport: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) listen: Option<Text>,
    pub(super) socket: Option<std::path::PathBuf>,
    #[serde(default)]
    pub(super) allow: Vec<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Workload {
    pub(super) socket: Option<std::path::PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Outbound {
    pub(super) http: Text,
    #[serde(rename = "as")]
    pub(super) speaker: Option<Text>,
    pub(super) uids: Option<Spanned<toml::Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) name: Text,
    pub(super) namespace: Option<Text>,
    pub(super) instance: Option<Text>,
    pub(super) account: Option<Text>,
    pub(super) group: Option<Text>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, Text>,
    #[serde(default)]
    pub(super) ports: Vec<Port>,
    pub(super) check: Option<Spanned<Check>>,
    pub(super) outbound: Option<Text>,
    pub(super) uids: Option<Spanned<Vec<Spanned<i64>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, as in `ports = [{ port = 80 }]`")]
pub(super) struct Port {
    pub(super) name: Option<Text>,
    pub(super) port: Spanned<i64>,
    pub(super) protocol: Option<Text>,
    pub(super) target: Option<Text>,
    pub(super) plaintext: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, as in `check = { http = \"/health\" }`")]
pub(super) struct Check {
    pub(super) http: Option<Text>,
    pub(super) grpc: Option<Text>,
    pub(super) tcp: Option<Spanned<bool>>,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) target: Option<Text>,
    pub(super) timeout: Option<Text>,
    pub(super) interval: Option<Text>,
    pub(super) rise: Option<Spanned<i64>>,
    pub(super) fall: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upstream {
    pub(super) listen: Text,
    pub(super) service: Option<Text>,
    pub(super) host: Option<Text>,
    pub(super) port: Spanned<i64>,
    #[serde(rename = "as")]
    pub(super) speaker: Option<Text>,
    pub(super) uids: Option<Spanned<toml::Value>>,
}

/// A value with its place, whatever carried it.
pub(super) fn place(text: &Text) -> (&str, Range<usize>) {
    (text.get_ref(), text.span())
}
