//! Which metrics are kept of a workload, and what labels they have: the overrides of the Telemetries of the mesh, of the namespace and
//! of the workload, in this order.

use std::{collections::BTreeMap, sync::Arc};

use super::telemetry::Levels;
use crate::kinds::{Facts, Metric, MetricOverride, Side, TagOverride, TagValue, metric_names};

/// What documents say of a workload's metrics; `None` leaves them as they are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counted {
    /// As the caller's side reports them.
    pub client: Option<Arc<MetricRule>>,
    /// As the called side reports them.
    pub server: Option<Arc<MetricRule>>,
}

/// How metrics differ from Istio's.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricRule {
    shapes: BTreeMap<&'static str, MetricShape>,
    values: Vec<TagValue>,
    /// Every metric is disabled.
    off: bool,
}

/// How one metric does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricShape {
    /// It is not offered.
    pub disabled: bool,
    /// By label: what it says, or that it goes.
    pub tags: BTreeMap<String, TagShape>,
}

/// What happens to a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagShape {
    /// It says the value of this number of [`MetricRule::values`].
    Says(usize),
    /// It goes.
    Goes,
}

impl MetricRule {
    /// How the metric of this name differs.
    pub fn shape(&self, metric: &str) -> Option<&MetricShape> {
        self.shapes.get(metric)
    }

    /// True if any metric is offered.
    pub fn offers(&self) -> bool {
        !self.off
    }

    /// True if labels say what only a request tells, and any metric is offered that has them.
    pub fn asks(&self) -> bool {
        !self.off && !self.values.is_empty()
    }

    /// What labels say of a request that is over; `unknown` where that cannot be told, as with Istio.
    pub fn values(&self, facts: &dyn Facts) -> Vec<String> {
        let value = |value: &TagValue| value.text(facts).unwrap_or_else(|| "unknown".to_owned());
        self.values.iter().map(value).collect()
    }

    fn apply(&mut self, said: &MetricOverride) {
        let names: Vec<&'static str> = match &said.metric {
            Metric::All => metric_names().collect(),
            Metric::Istio(name) => vec![name],
        };
        for name in names {
            for (label, tag) in &said.tags {
                let shape = match tag {
                    TagOverride::Remove => TagShape::Goes,
                    TagOverride::Upsert(value) => TagShape::Says(self.place(value)),
                };
                self.shapes.entry(name).or_default().tags.insert(label.clone(), shape);
            }
            if let Some(disabled) = said.disabled {
                self.shapes.entry(name).or_default().disabled = disabled;
            }
        }
    }

    fn place(&mut self, value: &TagValue) -> usize {
        self.values.iter().position(|known| known == value).unwrap_or_else(|| {
            self.values.push(value.clone());
            self.values.len() - 1
        })
    }
}

/// What a nearer level leaves out is inherited from the farther ones.
pub(super) fn of(levels: &Levels<'_>) -> Counted {
    let overrides: Vec<&MetricOverride> =
        levels.telemetries().flat_map(|telemetry| &telemetry.metrics).flat_map(|metrics| &metrics.overrides).collect();
    let of = |side| {
        let mut rule = MetricRule::default();
        overrides
            .iter()
            .filter(|one| one.side == Side::ClientAndServer || one.side == side)
            .for_each(|one| rule.apply(one));
        rule.off = metric_names().all(|name| rule.shape(name).is_some_and(|shape| shape.disabled));
        let differs = |shape: &MetricShape| shape.disabled || !shape.tags.is_empty();
        rule.shapes.values().any(differs).then(|| Arc::new(rule))
    };
    Counted { client: of(Side::Client), server: of(Side::Server) }
}

#[cfg(test)]
mod tests {
    use super::{
        super::telemetry::{Document, testing::document},
        *,
    };

    fn counted(documents: &[Document]) -> Counted {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        of(&Levels::of(documents.iter(), "shop", &labels))
    }

    #[test]
    fn nothing_differs_where_nobody_says_so() {
        assert_eq!(counted(&[]), Counted::default());
        let back = document(
            "shop",
            "a",
            1,
            "{metrics: [{providers: [{name: prometheus}], overrides: [{disabled: true}, {disabled: false}]}]}",
        );
        assert_eq!(counted(&[back]), Counted::default());
    }

    #[test]
    fn what_comes_later_counts_metric_by_metric_and_label_by_label() {
        let mesh = document(
            "istio-system",
            "mesh",
            1,
            "{metrics: [{overrides: [{match: {mode: SERVER}, tagOverrides: {a: {value: request.host}, response_flags: {operation: REMOVE}}}]}]}",
        );
        let own = document(
            "shop",
            "web",
            2,
            "{selector: {matchLabels: {app: web}}, metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, disabled: true, \
              tagOverrides: {a: {value: request.method}, b: {value: request.method}}}]}]}",
        );
        let counted = counted(&[own, mesh]);
        let (client, server) = (counted.client.unwrap(), counted.server.unwrap());
        assert!(
            client.shape("istio_requests_total").unwrap().disabled && client.shape("istio_request_bytes").is_none()
        );
        assert_eq!((client.values.len(), server.values.len()), (1, 2), "equal values are told once");
        let tags = |metric: &str| server.shape(metric).unwrap().tags.clone();
        assert_eq!(tags("istio_requests_total")["a"], TagShape::Says(1));
        assert_eq!(tags("istio_requests_total")["response_flags"], TagShape::Goes);
        assert_eq!(tags("istio_tcp_sent_bytes_total")["a"], TagShape::Says(0));
        assert!(!server.shape("istio_request_bytes").unwrap().disabled);
    }

    #[test]
    fn nothing_is_offered_where_every_metric_is_disabled() {
        let all = "{match: {metric: ALL_METRICS}, disabled: true, tagOverrides: {a: {value: request.host}}}";
        for (overrides, offers) in [
            (all.to_owned(), [false, false]),
            ("{disabled: true}".to_owned(), [false, false]),
            (format!("{all}, {{match: {{metric: REQUEST_COUNT, mode: SERVER}}, disabled: false}}"), [false, true]),
            ("{match: {metric: REQUEST_COUNT}, disabled: true}".to_owned(), [true, true]),
        ] {
            let counted = counted(&[document("shop", "a", 1, &format!("{{metrics: [{{overrides: [{overrides}]}}]}}"))]);
            let rules = [counted.client.unwrap(), counted.server.unwrap()];
            assert_eq!(rules.each_ref().map(|rule| rule.offers()), offers, "{overrides}");
            assert!(rules.iter().all(|rule| rule.offers() || !rule.asks()), "{overrides}: nobody sees what labels say");
        }
    }
}
