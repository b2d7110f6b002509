//! What happened: as this node noted it, and as all did.

use std::sync::Arc;

use certs::codec::Millis;
use http::{HeaderMap, HeaderName, HeaderValue};
use membership::view::MemberState;
use serde::Deserialize;

use super::{Admin, api, error::Error, past::time, rfc3339};
use crate::agent::{Unheard, timeline};

/// Of an answer: nodes that live and did not tell, with commas between them.
pub(crate) const SILENT: HeaderName = HeaderName::from_static("skein-silent");
/// Of an answer: nodes that live and cannot tell because they run another version, with commas between them.
pub(crate) const OTHER_VERSION: HeaderName = HeaderName::from_static("skein-other-version");
/// Of an answer: how many nodes that live were not asked.
pub(crate) const UNASKED: HeaderName = HeaderName::from_static("skein-unasked");

/// `GET /v1/events`: which ones.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Filter {
    /// Not before, RFC 3339.
    since: Option<String>,
    /// Only what this node noted itself.
    #[serde(default)]
    here: bool,
}

/// What all nodes say that happened.
#[derive(Debug)]
pub(crate) struct Told {
    /// Oldest first.
    pub(crate) events: Vec<api::Event>,
    /// How many of them told, this one among them.
    pub(crate) heard: usize,
    /// Who lives and did not answer, or was not asked.
    pub(crate) unheard: Unheard,
    /// What is older was not asked for.
    since: Millis,
}

impl Admin {
    /// What this node noted, oldest first.
    pub(crate) fn events(&self) -> Vec<api::Event> {
        let (node, own) = (self.node().clone(), self.agent.recent_events());
        rows(timeline::merge([(node.clone(), vec![(node.clone(), own)])], &node, self.now()))
    }

    /// What the nodes that answer noted or keep of others, oldest first; and who did not answer. Asked for again within a moment, the
    /// same answer.
    pub(crate) async fn all_events(&self) -> Arc<Told> {
        self.events_since(0).await
    }

    /// The same of those since then. All nodes are asked twice a moment at most, whatever is asked here: the second time for everything.
    async fn events_since(&self, since: Millis) -> Arc<Told> {
        let ask = async |again: bool| Arc::new(self.ask_events(if again { 0 } else { since }).await);
        self.timeline.get_fitting(|told| told.since <= since, ask).await
    }

    async fn ask_events(&self, since: Millis) -> Told {
        let alive = self.agent.view().members().values().filter(|member| member.state == MemberState::Alive).count();
        let (merged, unheard) = self.agent.timeline(since).await;
        let heard = alive.saturating_sub(unheard.silent.len() + unheard.other_version.len() + unheard.unasked).max(1);
        Told { events: rows(merged), heard, unheard, since }
    }

    /// What is asked for.
    ///
    /// # Errors
    /// `bad_request` for what is no time.
    pub(super) async fn timeline(&self, filter: &Filter) -> Result<(Vec<api::Event>, Unheard), Error> {
        let since = filter.since.as_deref().map(time).transpose()?.unwrap_or(0);
        let (mut events, unheard) = if filter.here {
            (self.events(), Unheard::default())
        } else {
            let told = self.events_since(since).await;
            (told.events.clone(), told.unheard.clone())
        };
        let since = rfc3339(since);
        // Of one form, so that they compare as text.
        events.retain(|event| event.time >= since);
        Ok((events, unheard))
    }
}

/// Headers beside a list of events: who did not tell, and how many were not asked.
pub(super) fn headers(unheard: &Unheard) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (header, nodes) in [(SILENT, &unheard.silent), (OTHER_VERSION, &unheard.other_version)] {
        let names = nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        // What names of nodes are made of may stand in a header.
        if let Ok(names) = HeaderValue::from_str(&names)
            && !names.is_empty()
        {
            headers.insert(header, names);
        }
    }
    if unheard.unasked > 0 {
        headers.insert(UNASKED, unheard.unasked.into());
    }
    headers
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

#[cfg(test)]
mod tests {
    use super::*;
    use certs::id::NodeId;

    #[test]
    fn beside_events_stands_who_did_not_tell() {
        let [silent, other_version] =
            [["n1", "n2"], ["n3", "n4"]].map(|names| names.map(|name| NodeId::new(name).unwrap()).into());
        let told = headers(&Unheard { silent, other_version, unasked: 7 });
        assert_eq!([SILENT, OTHER_VERSION, UNASKED].map(|name| &told[name]), ["n1,n2", "n3,n4", "7"]);
        assert!(headers(&Unheard::default()).is_empty());
    }
}
