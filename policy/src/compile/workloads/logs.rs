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
    /// Of the requests that it sends; never empty.
    pub client: Option<Arc<[LogRule]>>,
    /// Of the requests that it gets; never empty.
    pub server: Option<Arc<[LogRule]>>,
}

/// Where lines go, and for which requests.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRule {
    /// Where they go.
    pub output: LogOutput,
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

/// What one side comes to of one provider, as far as it was read.
struct Said<'s> {
    provider: &'s str,
    output: LogOutput,
    on: bool,
    filter: Option<&'s Filter>,
}

/// What a nearer level leaves out is inherited from the farther ones.
pub(super) fn of(levels: &Levels<'_>, mesh: &MeshConfig) -> Logs {
    let levels: Vec<&[AccessLogging]> = levels.telemetries().map(|telemetry| &*telemetry.access_logging).collect();
    Logs { client: side_of(&levels, Side::Client, mesh), server: side_of(&levels, Side::Server, mesh) }
}

/// What MeshConfig alone says.
pub(super) fn of_mesh(mesh: &MeshConfig) -> Option<Arc<[LogRule]>> {
    side_of(&[], Side::Client, mesh)
}

fn side_of(levels: &[&[AccessLogging]], wanted: Side, mesh: &MeshConfig) -> Option<Arc<[LogRule]>> {
    let mut said = inherited(mesh);
    for entries in levels {
        let fits = |entry: &&AccessLogging| entry.side == Side::ClientAndServer || entry.side == wanted;
        level(&mut said, &entries.iter().filter(fits).collect::<Vec<_>>(), mesh);
    }
    let mut rules: Vec<LogRule> = Vec::new();
    for one in said.into_iter().filter(|one| one.on) {
        let rule = LogRule { output: one.output, filter: one.filter.cloned() };
        // Two names may stand for one stream.
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    (!rules.is_empty()).then(|| rules.into())
}

/// The entries of one level, in their order.
fn level<'s>(said: &mut Vec<Said<'s>>, entries: &[&'s AccessLogging], mesh: &'s MeshConfig) {
    // As in Istio, a level that names providers says all of them, and what was inherited goes; one that only takes some away does not.
    if entries.iter().any(|entry| entry.disabled != Some(true) && !entry.providers.is_empty()) {
        said.clear();
    }
    for entry in entries {
        let (off, filter) = (entry.disabled == Some(true), entry.filter.as_ref());
        if entry.providers.is_empty() {
            for one in said.iter_mut() {
                one.on = !off;
                one.filter = filter.filter(|_| !off).or(one.filter);
            }
            continue;
        }
        for provider in &entry.providers {
            said.retain(|one| one.provider != provider);
            if !off {
                said.extend(output_of(provider, mesh).map(|output| Said { provider, output, on: true, filter }));
            }
        }
    }
}

/// As in Istio, `accessLogFile` is a provider, too: whoever takes `envoy` away takes it away.
fn inherited(mesh: &MeshConfig) -> Vec<Said<'_>> {
    let said = |provider, output| Said { provider, output, on: true, filter: None };
    let stream = mesh.access_log.file.map(|file| LogOutput::Stream(file, LineFormat::default()));
    let mut all: Vec<Said<'_>> = stream.into_iter().map(|output| said(ENVOY, output)).collect();
    for provider in &mesh.default_providers.access_logging {
        all.extend(output_of(provider, mesh).map(|output| said(provider, output)));
    }
    all
}

/// `None` if the provider is not there.
fn output_of(name: &str, mesh: &MeshConfig) -> Option<LogOutput> {
    let Some(provider) = mesh.telemetry_provider(name) else {
        return (name == ENVOY).then(|| LogOutput::Stream(LogFile::Stdout, LineFormat::default()));
    };
    match &provider.kind {
        TelemetryKind::LogStream(file, format) => Some(LogOutput::Stream(*file, format.clone())),
        TelemetryKind::LogCollector(_) => Some(LogOutput::Collector(Arc::clone(provider))),
        TelemetryKind::Spans(_) | TelemetryKind::Prometheus => None,
    }
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
        [found.client, found.server].map(|rules| {
            let of = |rule: &LogRule| rule.filter.as_ref().map_or("all", |filter| filter.source()).to_owned();
            rules.map_or("-".to_owned(), |rules| rules.iter().map(of).collect::<Vec<_>>().join(", "))
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
            found.map(|rules| rules.iter().map(|rule| name(&rule.output)).collect::<Vec<_>>())
        };
        assert_eq!(outputs(&[]), Some(vec!["Stderr 0".to_owned(), "otel".to_owned(), "Stdout 0".to_owned()]));
        let named =
            document("shop", "a", 1, "{accessLogging: [{providers: [{name: file}, {name: otel}, {name: gone}]}]}");
        assert_eq!(outputs(&[named]), Some(vec!["Stderr 1".to_owned(), "otel".to_owned()]));
        let gone = document("shop", "a", 1, "{accessLogging: [{providers: [{name: gone}]}]}");
        assert_eq!(outputs(&[gone]), None);
    }

    #[test]
    fn providers_of_one_level_are_a_union_each_with_its_own_filter() {
        let config = config(
            "{accessLogFile: /dev/stderr, defaultProviders: {accessLogging: [otel]}, extensionProviders: [\
             {name: otel, envoyOtelAls: {service: localhost, port: 4317}}, \
             {name: file, envoyFileAccessLog: {path: /dev/stderr, logFormat: {labels: {code: '%RESPONSE_CODE%'}}}}]}",
        );
        let told = |entries: &[&str]| {
            let named = entries.iter().enumerate().map(|(level, entries)| {
                document(["istio-system", "shop"][level], "a", 1, &format!("{{accessLogging: [{entries}]}}"))
            });
            let named: Vec<Document> = named.collect();
            let found = of(&Levels::of(named.iter(), "shop", &BTreeMap::new()), &config);
            [found.client, found.server].map(|rules| {
                let of = |rule: &LogRule| {
                    let name = match &rule.output {
                        LogOutput::Stream(_, format) if format.labels.is_empty() => "envoy",
                        LogOutput::Stream(..) => "file",
                        LogOutput::Collector(_) => "otel",
                    };
                    format!("{name} {}", rule.filter.as_ref().map_or("all", |filter| filter.source()))
                };
                rules.map_or("-".to_owned(), |rules| rules.iter().map(of).collect::<Vec<_>>().join(", "))
            })
        };
        let errors = "{providers: [{name: envoy}], filter: {expression: 'response.code >= 500'}}";
        for (entries, client, server) in [
            (&[][..], "envoy all, otel all", "envoy all, otel all"),
            // Each keeps its own filter, and none says anything of another.
            (
                &[&*format!("{errors}, {{providers: [{{name: otel}}]}}")],
                "envoy response.code >= 500, otel all",
                "envoy response.code >= 500, otel all",
            ),
            // One of them for one side alone.
            (
                &[&*format!("{errors}, {{match: {{mode: SERVER}}, providers: [{{name: file}}]}}")],
                "envoy response.code >= 500",
                "envoy response.code >= 500, file all",
            ),
            // Who is named twice has the last filter.
            (
                &[&*format!("{{providers: [{{name: envoy}}]}}, {errors}")],
                "envoy response.code >= 500",
                "envoy response.code >= 500",
            ),
            // Only those that are named are taken away, on the same level and on a nearer one.
            (
                &[
                    "{providers: [{name: envoy}, {name: otel}]}, {match: {mode: CLIENT}, providers: [{name: otel}], disabled: true}",
                ],
                "envoy all",
                "envoy all, otel all",
            ),
            (&["{providers: [{name: otel}], disabled: true}"], "envoy all", "envoy all"),
            (&["{providers: [{name: envoy}], disabled: true}"], "otel all", "otel all"),
            // What was taken away by its name is not among those of whom the next entry speaks.
            (
                &["{providers: [{name: otel}], disabled: true}, {filter: {expression: 'true'}}"],
                "envoy true",
                "envoy true",
            ),
            (
                &["{providers: [{name: envoy}, {name: file}]}", "{providers: [{name: file}], disabled: true}"],
                "envoy all",
                "envoy all",
            ),
            // A nearer level that names some says all of them; one that names none speaks of all that are inherited.
            (&[errors, "{providers: [{name: otel}]}"], "otel all", "otel all"),
            (
                &[&*format!("{errors}, {{providers: [{{name: otel}}]}}"), "{filter: {expression: 'true'}}"],
                "envoy true, otel true",
                "envoy true, otel true",
            ),
            (&[&*format!("{errors}, {{providers: [{{name: otel}}]}}"), "{disabled: true}"], "-", "-"),
        ] {
            assert_eq!(told(entries), [client, server], "{entries:?}");
        }
    }
}
