//! What happened: as this node noted it, and as all did.

use certs::codec::Millis;
use serde::Deserialize;

use super::{Admin, api, error::Error, past::time, rfc3339};
use crate::agent::timeline;

/// `GET /v1/events`: which ones.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Filter {
    /// Not before, RFC 3339.
    since: Option<String>,
    /// Only what this node noted itself.
    #[serde(default)]
    here: bool,
}

impl Admin {
    /// What this node noted, oldest first.
    pub(crate) fn events(&self) -> Vec<api::Event> {
        let (node, own) = (self.node().clone(), self.agent.recent_events());
        rows(timeline::merge([(node.clone(), vec![(node.clone(), own)])], &node))
    }

    /// What the nodes that answer noted or keep of others, oldest first.
    pub(crate) async fn all_events(&self, since: Millis) -> Vec<api::Event> {
        rows(self.agent.timeline(since).await)
    }

    /// What is asked for.
    ///
    /// # Errors
    /// `bad_request` for what is no time.
    pub(super) async fn timeline(&self, filter: &Filter) -> Result<Vec<api::Event>, Error> {
        let since = filter.since.as_deref().map(time).transpose()?.unwrap_or(0);
        let mut events = if filter.here { self.events() } else { self.all_events(since).await };
        let since = rfc3339(since);
        // Of one form, so that they compare as text.
        events.retain(|event| event.time >= since);
        Ok(events)
    }
}

fn rows(merged: Vec<timeline::Merged>) -> Vec<api::Event> {
    let row = |merged: timeline::Merged| api::Event {
        time: rfc3339(merged.noted.at),
        kind: merged.noted.kind,
        subject: merged.noted.subject,
        message: merged.noted.message,
        seen_by: merged.seen_by,
        kept_by: merged.kept_by,
    };
    merged.into_iter().map(row).collect()
}
