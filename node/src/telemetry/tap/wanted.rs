//! Which requests a tap wants.

use super::{Wanted, statuses};
use crate::telemetry::{Entry, Pair, Protocol, Redaction, Summary};
use std::time::Duration;

impl Wanted {
    /// Of its path what may be told: else who may ask for paths would find out, letter by letter, what is kept back of them.
    pub(super) fn takes(
        &self,
        redaction: &Redaction,
        entry: &Entry,
        summary: &Summary,
        duration: Duration,
        pair: Option<&Pair>,
    ) -> bool {
        let status = self.status.as_deref().and_then(statuses);
        let is_of = |service: &String| {
            let Some((namespace, name)) = service.split_once('/') else { return false };
            pair.is_some_and(|pair| {
                let called = &*pair.service_namespace == namespace && &*pair.service_name == name;
                let source = &*pair.source;
                called || &*source.namespace == namespace && is_workload_of(&source.workload, &source.version, name)
            })
        };
        summary.protocol != Protocol::Tcp
            && status.is_none_or(|(least, most)| (least..=most).contains(&summary.code))
            && self.slower_ms.is_none_or(|millis| duration >= Duration::from_millis(millis))
            && self.service.as_ref().is_none_or(is_of)
            && self.path.as_ref().is_none_or(|path| redaction.text(&entry.path).starts_with(path.as_str()))
    }
}

/// `NAME-VERSION`, or `NAME`.
fn is_workload_of(workload: &str, version: &str, name: &str) -> bool {
    workload == name || workload.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')) == Some(version)
}
