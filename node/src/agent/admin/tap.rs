//! Taps: one JSON object a line for each request that ends, until the asker goes away or the node stops.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use certs::sign::Digest;
use http::header;
use policy::{Kind, document::Spec, history::State};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, watch::Receiver},
    time::{Interval, MissedTickBehavior},
};

use super::{Admin, error::Error, rfc3339};
use crate::telemetry::{Losses, Redaction, Tapped, Tapping, Wanted};

/// How often it is told how many requests were left out, where no request follows that tells it.
const LOSSES: Duration = Duration::from_secs(1);

impl Admin {
    /// Tells of requests as they end. Only the local socket and operators are offered this: what requests say is nobody else's.
    ///
    /// # Errors
    /// `usage`, or `too_many_requests`.
    pub(super) fn tap(&self, wanted: Wanted) -> Result<Response, Error> {
        wanted.check().map_err(|why| Error::new("usage", why))?;
        let busy = |why: String| Error::new("too_many_requests", why).hint("`skein tap` ends with Ctrl-C");
        let slot =
            self.watches.clone().try_acquire_owned().map_err(|_| busy("too many watches are open".to_owned()))?;
        let hidden = self.hide_tokens();
        let tapping = self.telemetry.taps().open(wanted).map_err(busy)?;
        let mut due = tokio::time::interval(LOSSES);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let changes = self.agent.changes();
        let telling = Telling { admin: self.clone(), tapping, changes, hidden, due, lost: 0, _slot: slot };
        let lines = futures_util::stream::unfold(telling, |mut telling| async move {
            let line = telling.next().await?;
            Some((Ok::<_, Infallible>(line), telling))
        });
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
    }
}

impl Admin {
    /// Has taps tell nothing of where policy says that tokens are; by which policy.
    fn hide_tokens(&self) -> Digest {
        let state = self.agent.state();
        self.telemetry.taps().redact(Redaction::of(token_places(&state)));
        state.digest
    }
}

/// A tap under way.
struct Telling {
    admin: Admin,
    tapping: Tapping,
    changes: Receiver<u64>,
    /// The policy whose tokens are hidden.
    hidden: Digest,
    due: Interval,
    /// What was told of requests that were left out.
    lost: u64,
    _slot: OwnedSemaphorePermit,
}

impl Telling {
    /// The next line; none once the node stops.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.hidden != self.admin.agent.state().digest {
                self.hidden = self.admin.hide_tokens();
            }
            tokio::select! {
                // What no line has told yet of requests that were left out is told, where that was asked for.
                () = self.admin.tasks.stopping() => return self.losses(),
                changed = self.changes.changed() => changed.ok()?,
                tapped = self.tapping.next() => {
                    let tapped: Tapped = tapped?;
                    self.lost = tapped.left_out;
                    return line(&tapped);
                }
                _ = self.due.tick() => if let Some(losses) = self.losses() { return Some(losses) },
            }
        }
    }

    /// What no request has told of requests that were left out; none if there is nothing to say, or nobody asked.
    fn losses(&mut self) -> Option<Bytes> {
        let left_out = self.tapping.left_out().filter(|count| self.tapping.tells_losses() && *count > self.lost)?;
        self.lost = left_out;
        let (observed_at, node) = (rfc3339(self.admin.agent.now()), self.admin.node().to_string());
        line(&Losses { observed_at, node, left_out })
    }
}

fn line(of: &impl Serialize) -> Option<Bytes> {
    let mut line = serde_json::to_string(of).ok()?;
    line.push('\n');
    Some(Bytes::from(line))
}

/// Names of headers and parameters that hold tokens, by all live values of all documents: which of them counts for a request is not asked.
fn token_places(state: &State) -> Vec<String> {
    let live = state.documents.iter().filter(|(id, _)| id.kind == Kind::RequestAuthentication);
    let documents = live.flat_map(|(_, live)| live.in_force.iter()).filter_map(|value| value.document.as_ref().ok());
    let mut names = Vec::new();
    for document in documents {
        let Spec::RequestAuthentication(value) = &document.spec else { continue };
        for rule in &value.rules {
            names.extend(rule.from_headers.iter().map(|(name, _)| name.to_string()));
            names.extend(rule.from_params.iter().cloned());
            names.extend(rule.output_payload.iter().map(ToString::to_string));
        }
    }
    names
}
