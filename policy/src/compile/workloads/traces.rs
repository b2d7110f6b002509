//! Which requests of a workload are traced, what their spans say and where they go: MeshConfig's default provider, and over it the
//! Telemetries of the mesh, of the namespace and of the workload.

use std::sync::Arc;

use super::telemetry::Levels;
use crate::kinds::{CustomTag, MeshConfig, Side, TelemetryKind, TelemetryProvider, Tracing};

/// The tracing of a workload; `None` leaves the headers of traces alone.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Traces {
    /// Of the requests that it sends.
    pub client: Option<Arc<TraceRule>>,
    /// Of the requests that it gets.
    pub server: Option<Arc<TraceRule>>,
}

/// How requests are traced.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceRule {
    /// Where spans go, one of `opentelemetry`. `None`: nobody named a provider, so that the node's own collector takes them, if it has one.
    pub provider: Option<Arc<TelemetryProvider>>,
    /// Of requests on which nobody has decided before, 0 to 100. `None`: the node's own default.
    pub sampling_percent: Option<f64>,
    /// Spans go out.
    pub reports: bool,
    /// Tags of every span, by name.
    pub tags: Vec<(String, CustomTag)>,
    /// Spans also say where in the mesh they come from.
    pub istio_tags: bool,
    /// The decision is read from and written into `x-request-id`.
    pub by_request_id: bool,
    /// The context goes on with the request.
    pub propagates: bool,
}

/// What a nearer level leaves out is inherited from the farther ones.
pub(super) fn of(levels: &Levels<'_>, mesh: &MeshConfig) -> Traces {
    let entries: Vec<&Tracing> = levels.telemetries().flat_map(|telemetry| &telemetry.tracing).collect();
    let of = |side| side_of(&entries, side, mesh).map(Arc::new);
    Traces { client: of(Side::Client), server: of(Side::Server) }
}

/// What MeshConfig alone says.
pub(super) fn of_mesh(mesh: &MeshConfig) -> Option<TraceRule> {
    side_of(&[], Side::Server, mesh)
}

fn side_of(entries: &[&Tracing], wanted: Side, mesh: &MeshConfig) -> Option<TraceRule> {
    let mut provider = mesh.default_providers.tracing.first();
    let mut rule = TraceRule {
        provider: None,
        sampling_percent: None,
        reports: true,
        tags: Vec::new(),
        istio_tags: true,
        by_request_id: true,
        propagates: true,
    };
    for entry in entries.iter().filter(|entry| entry.side == Side::ClientAndServer || entry.side == wanted) {
        provider = entry.providers.first().or(provider);
        rule.sampling_percent = entry.sampling_percent.or(rule.sampling_percent);
        rule.reports = entry.disable_spans.map_or(rule.reports, |disabled| !disabled);
        if let Some(tags) = &entry.custom_tags {
            rule.tags = tags.iter().map(|(name, tag)| (name.clone(), tag.clone())).collect();
        }
        rule.istio_tags = entry.istio_tags.unwrap_or(rule.istio_tags);
        rule.by_request_id = entry.request_id_sampling.unwrap_or(rule.by_request_id);
        rule.propagates = entry.disable_propagation.map_or(rule.propagates, |disabled| !disabled);
    }
    // As in Istio, a provider that is not there is none at all.
    if let Some(name) = provider {
        let found = mesh.telemetry_provider(name)?;
        matches!(found.kind, TelemetryKind::Spans(_)).then(|| rule.provider = Some(Arc::clone(found)))?;
    }
    Some(rule)
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

    const MESH: &str = "{defaultProviders: {tracing: [otel]}, extensionProviders: [\
        {name: otel, opentelemetry: {service: otel.observe.svc.cluster.local, port: 4317}}, \
        {name: other, opentelemetry: {service: localhost, port: 4318, http: {path: /v1/traces}}}, \
        {name: log, envoyFileAccessLog: {}}]}";

    fn traces(documents: &[Document], mesh: &str) -> Traces {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        of(&Levels::of(documents.iter(), "shop", &labels), &config(mesh))
    }

    fn provider(rule: Option<&Arc<TraceRule>>) -> &str {
        rule.map_or("-", |rule| rule.provider.as_ref().map_or("node", |provider| &provider.name))
    }

    #[test]
    fn without_a_provider_it_is_the_nodes_own() {
        let found = traces(&[], "{}");
        assert_eq!((provider(found.client.as_ref()), provider(found.server.as_ref())), ("node", "node"));
        assert_eq!(provider(traces(&[], MESH).client.as_ref()), "otel");
        for name in ["gone", "log"] {
            let named = document("shop", "a", 1, &format!("{{tracing: [{{providers: [{{name: {name}}}]}}]}}"));
            assert_eq!(provider(traces(&[named], MESH).client.as_ref()), "-", "{name}");
        }
    }

    #[test]
    fn the_nearer_level_says_over_the_farther_what_it_sets() {
        let mesh = document(
            "istio-system",
            "mesh",
            1,
            "{tracing: [{randomSamplingPercentage: 10, customTags: {a: {literal: {value: b}}}, enableIstioTags: false}]}",
        );
        let namespace = document("shop", "shop", 2, "{tracing: [{disableSpanReporting: true}]}");
        let workload = document(
            "shop",
            "web",
            3,
            "{selector: {matchLabels: {app: web}}, tracing: [{match: {mode: CLIENT}, providers: [{name: other}], \
              randomSamplingPercentage: 0.5, customTags: {c: {header: {name: X-C}}}}, \
              {match: {mode: SERVER}, disableSpanReporting: false, disableContextPropagation: true}]}",
        );
        let found = traces(&[workload, mesh, namespace], MESH);
        let (client, server) = (found.client.unwrap(), found.server.unwrap());
        assert_eq!((provider(Some(&client)), provider(Some(&server))), ("other", "otel"));
        assert_eq!((client.sampling_percent, server.sampling_percent), (Some(0.5), Some(10.0)));
        assert_eq!((client.reports, server.reports), (false, true));
        assert_eq!((client.propagates, server.propagates), (true, false));
        assert_eq!((client.tags[0].0.as_str(), client.tags.len(), server.tags[0].0.as_str()), ("c", 1, "a"));
        assert!(!client.istio_tags && client.by_request_id);
    }
}
