//! Proposals and the audit chain, as this node holds them.

use axum::{
    Json,
    extract::{Query, State},
};
use policy::{changeset::ChangesetId, history};
use serde::Deserialize;

use super::{Admin, api, error::Error, rfc3339};

/// Entries of one answer: some hundred bytes each.
const ENTRIES: usize = 5_000;

/// Where the asked part of the chain begins.
#[derive(Debug, Default, Deserialize)]
pub(super) struct From {
    #[serde(default)]
    from: u64,
}

impl Admin {
    /// `GET /v1/policy/proposals`, oldest first.
    pub(crate) async fn proposals(State(admin): State<Self>) -> Json<Vec<api::Proposal>> {
        let now = admin.agent.now();
        Json(admin.agent.history(move |history| history.proposals(now)).await.into_iter().map(proposal).collect())
    }

    /// The proposal that a changeset is, or that an approval was given to; none if it counts.
    pub(super) async fn proposed(&self, id: &ChangesetId) -> Option<api::Proposal> {
        let (id, now) = (*id, self.agent.now());
        let waiting = move |history: &history::History| history.proposal(&history.approves(&id).unwrap_or(id), now);
        self.agent.history(waiting).await.map(proposal)
    }

    /// `GET /v1/policy/audit?from=N`.
    pub(super) async fn audit(
        State(admin): State<Self>,
        Query(From { from }): Query<From>,
    ) -> Result<Json<api::Audit>, Error> {
        let (entries, noted) = admin.agent.audit(from, ENTRIES).await?;
        Ok(Json(api::Audit { node: admin.agent.node().clone(), noted, entries }))
    }

    /// `GET /v1/policy/audit/heads`.
    pub(super) fn audit_heads(&self) -> Vec<api::HeardHead> {
        let heads = self.agent.audit_heads().into_iter();
        heads.map(|(node, head)| api::HeardHead { node, count: head.count, digest: head.digest }).collect()
    }
}

fn proposal(proposal: history::Proposal) -> api::Proposal {
    let documents =
        proposal.documents.iter().map(|(id, deleted)| if *deleted { format!("-{id}") } else { id.to_string() });
    let missing = proposal.missing.into_iter().map(|missing| api::Missing { count: missing.count, of: missing.of });
    api::Proposal {
        changeset: proposal.changeset.to_string(),
        documents: documents.collect(),
        signed: proposal.signed,
        missing: missing.collect(),
        time: rfc3339(proposal.time),
        until: rfc3339(proposal.until),
        message: proposal.message,
        stale: proposal.stale,
    }
}
