//! Which requests of a workload the access log tells of, and where: MeshConfig, and over it the Telemetries of the mesh, of the
//! namespace and of the workload.

use std::sync::Arc;

use super::telemetry::Levels;
use crate::kinds::{
    AccessLogging, ENVOY, Filter, LineFormat, LogFile, MeshConfig, Side, TelemetryKind, TelemetryProvider,
};

/// The access log of a workload; `None` is off.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logs {
    /// Of the requests that it sends.
    pub client: Option<Arc<LogRule>>,
    /// Of the requests that it gets.
    pub server: Option<Arc<LogRule>>,
}

/// Where lines go, and for which requests.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRule {
    /// To each of them; never empty.
    pub outputs: Vec<LogOutput>,
    /// `None`: for all.
    pub filter: Option<Filter>,
}

/// Where a line goes.
#[derive(Debug, Clone, PartialEq)]
pub enum LogOutput {
    /// A stream of the process, in this form.
    Stream(LogFile, LineFormat),
    /// A collector: one of `envoyOtelAls`.
    Collector(Arc<TelemetryProvider>),
}

/// What one side comes to, as far as it was read.
struct Said<'s> {
    /// Where lines go if there are any; empty as long as nobody named a provider.
    outputs: Vec<LogOutput>,
    on: bool,
    filter: Option<&'s Filter>,
}

/// What a nearer level leaves out is inherited from the farther ones.
pub(super) fn of(levels: &Levels<'_>, mesh: &MeshConfig) -> Logs {
    let entries: Vec<&AccessLogging> = levels.telemetries().flat_map(|telemetry| &telemetry.access_logging).collect();
    let of = |side| {
        let found = side_of(&entries, side, mesh)?;
        Some(Arc::new(found))
    };
    Logs { client: of(Side::Client), server: of(Side::Server) }
}

/// What MeshConfig alone says.
pub(super) fn of_mesh(mesh: &MeshConfig) -> Option<LogRule> {
    side_of(&[], Side::Client, mesh)
}

fn side_of(entries: &[&AccessLogging], wanted: Side, mesh: &MeshConfig) -> Option<LogRule> {
    let outputs = inherited(mesh);
    let mut said = Said { on: !outputs.is_empty(), outputs, filter: None };
    for entry in entries.iter().filter(|entry| entry.side == Side::ClientAndServer || entry.side == wanted) {
        if entry.disabled == Some(true) {
            said.on = false;
            continue;
        }
        let named = !entry.providers.is_empty();
        if named {
            said.outputs = outputs_of(&entry.providers, mesh);
        }
        said.on = !said.outputs.is_empty();
        // Who names a provider says all of it; who does not adds to what is inherited.
        if named || entry.filter.is_some() {
            said.filter = entry.filter.as_ref();
        }
    }
    let Said { outputs, on, filter } = said;
    on.then(|| LogRule { outputs, filter: filter.cloned() })
}

/// As in Istio, `accessLogFile` is a provider, too.
fn inherited(mesh: &MeshConfig) -> Vec<LogOutput> {
    let stream = mesh.access_log.file.map(|file| LogOutput::Stream(file, LineFormat::default()));
    let mut outputs: Vec<LogOutput> = stream.into_iter().collect();
    for output in outputs_of(&mesh.default_providers.access_logging, mesh) {
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    outputs
}

/// Those of the providers that are there.
fn outputs_of(names: &[String], mesh: &MeshConfig) -> Vec<LogOutput> {
    let output = |name: &String| {
        let Some(provider) = mesh.telemetry_provider(name) else {
            return (name == ENVOY).then(|| LogOutput::Stream(LogFile::Stdout, LineFormat::default()));
        };
        match &provider.kind {
            TelemetryKind::LogStream(file, format) => Some(LogOutput::Stream(*file, format.clone())),
            TelemetryKind::LogCollector(_) => Some(LogOutput::Collector(Arc::clone(provider))),
            TelemetryKind::Spans(_) | TelemetryKind::Prometheus => None,
        }
    };
    names.iter().filter_map(output).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::telemetry::{
            Document,
            testing::{config, document},
        },
        *,
    };
    use std::collections::BTreeMap;

    /// Client and server: `-` off, `all`, or the filter.
    fn logs(documents: &[Document], mesh: Option<LogFile>) -> [String; 2] {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let mut config = MeshConfig::default();
        config.access_log.file = mesh;
        let found = of(&Levels::of(documents.iter(), "shop", &labels), &config);
        [found.client, found.server].map(|rule| {
            rule.map_or("-".to_owned(), |rule| {
                rule.filter.as_ref().map_or("all".to_owned(), |filter| filter.source().to_owned())
            })
        })
    }

    const ENVOY: &str = "{accessLogging: [{providers: [{name: envoy}]}]}";

    #[test]
    fn mesh_config_is_for_both_sides_and_a_telemetry_turns_it_off() {
        assert_eq!(logs(&[], None), ["-", "-"]);
        assert_eq!(logs(&[], Some(LogFile::Stderr)), ["all", "all"]);
        let off = document("shop", "a", 1, "{accessLogging: [{disabled: true}]}");
        assert_eq!(logs(&[off], Some(LogFile::Stdout)), ["-", "-"]);
        let client = document("shop", "a", 1, "{accessLogging: [{match: {mode: CLIENT}, disabled: true}]}");
        assert_eq!(logs(&[client], Some(LogFile::Stdout)), ["-", "all"]);
    }

    #[test]
    fn a_provider_turns_it_on() {
        assert_eq!(logs(&[document("istio-system", "a", 1, ENVOY)], None), ["all", "all"]);
        let server = "{accessLogging: [{match: {mode: SERVER}, providers: [{name: envoy}], filter: {expression: 'response.code >= 400'}}]}";
        assert_eq!(logs(&[document("shop", "a", 1, server)], None), ["-", "response.code >= 400"]);
        // Nobody named one.
        assert_eq!(logs(&[document("shop", "a", 1, "{accessLogging: [{disabled: false}]}")], None), ["-", "-"]);
        assert_eq!(logs(&[document("bank", "a", 1, ENVOY)], None), ["-", "-"], "another namespace");
    }

    #[test]
    fn the_nearer_level_says_over_the_farther_what_it_sets() {
        let mesh = || document("istio-system", "a", 1, ENVOY);
        let off = || document("shop", "b", 2, "{accessLogging: [{disabled: true}]}");
        let selected = |entry: &str| format!("{{selector: {{matchLabels: {{app: web}}}}, accessLogging: [{entry}]}}");
        assert_eq!(logs(&[mesh(), off()], None), ["-", "-"]);
        let again = document("shop", "c", 3, &selected("{filter: {expression: 'true'}}"));
        assert_eq!(logs(&[again, off(), mesh()], None), ["true", "true"]);
        // What names a provider says all, what does not keeps the filter.
        let filtered = || document("shop", "b", 2, "{accessLogging: [{filter: {expression: 'false'}}]}");
        assert_eq!(logs(&[mesh(), filtered()], None), ["false", "false"]);
        let kept = document("shop", "c", 3, &selected("{disabled: false}"));
        assert_eq!(logs(&[mesh(), filtered(), kept], None), ["false", "false"]);
        let all = document("shop", "c", 3, &selected("{providers: [{name: envoy}]}"));
        assert_eq!(logs(&[mesh(), filtered(), all], None), ["all", "all"]);
    }

    #[test]
    fn on_a_level_the_oldest_counts_and_a_selector_in_the_root_namespace_does_not() {
        let off = document("shop", "young", 9, "{accessLogging: [{disabled: true}]}");
        assert_eq!(logs(&[off, document("shop", "old", 1, ENVOY)], None), ["all", "all"]);
        let selected = "{selector: {matchLabels: {app: web}}, accessLogging: [{providers: [{name: envoy}]}]}";
        assert_eq!(logs(&[document("istio-system", "a", 1, selected)], None), ["-", "-"]);
    }

    #[test]
    fn lines_go_to_every_provider_that_is_named_and_there() {
        let config = config(
            "{accessLogFile: /dev/stderr, defaultProviders: {accessLogging: [otel, envoy]}, extensionProviders: [\
             {name: otel, envoyOtelAls: {service: localhost, port: 4317}}, \
             {name: file, envoyFileAccessLog: {path: /dev/stderr, logFormat: {labels: {code: '%RESPONSE_CODE%'}}}}]}",
        );
        let outputs = |documents: &[Document]| {
            let found = of(&Levels::of(documents.iter(), "shop", &BTreeMap::new()), &config).client;
            let name = |output: &LogOutput| match output {
                LogOutput::Stream(file, format) => format!("{file:?} {}", format.labels.len()),
                LogOutput::Collector(provider) => provider.name.to_string(),
            };
            found.map(|rule| rule.outputs.iter().map(name).collect::<Vec<_>>())
        };
        assert_eq!(outputs(&[]), Some(vec!["Stderr 0".to_owned(), "otel".to_owned(), "Stdout 0".to_owned()]));
        let named =
            document("shop", "a", 1, "{accessLogging: [{providers: [{name: file}, {name: otel}, {name: gone}]}]}");
        assert_eq!(outputs(&[named]), Some(vec!["Stderr 1".to_owned(), "otel".to_owned()]));
        let gone = document("shop", "a", 1, "{accessLogging: [{providers: [{name: gone}]}]}");
        assert_eq!(outputs(&[gone]), None);
    }
}
