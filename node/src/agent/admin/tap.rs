//! Taps: one JSON object a line for each request that ends, until the asker goes away or the node stops.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use certs::sign::{Digest, PublicKey};
use http::header;
use policy::{Kind, document::Spec, history::State};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, watch::Receiver},
    time::{Interval, MissedTickBehavior},
};

use super::{Admin, error::Error, rfc3339};
use crate::mesh::crowd::Place;
use crate::telemetry::{Losses, Namespaces, Redaction, Tapped, Tapping, Wanted};

/// How often it is told how many requests were left out, where no request follows that tells it.
const LOSSES: Duration = Duration::from_secs(1);

impl Admin {
    /// Tells of requests as they end. Only the local socket and operators are offered this: what requests say is nobody else's. An
    /// operator is told of the namespaces of their roles.
    ///
    /// # Errors
    /// `usage`, `role_missing`, or `too_many_requests`.
    pub(super) fn tap(&self, wanted: Wanted, operator: Option<PublicKey>) -> Result<Response, Error> {
        wanted.check().map_err(|why| Error::new("usage", why))?;
        // Before its roles are read, so that a policy that comes between is seen as a change.
        let hidden = self.hide_tokens();
        let namespaces = self.tappable(operator).ok_or_else(|| {
            let why = "requests are shown to operators with the verb `view`; a recovery key signs RoleSets only";
            Error::new("role_missing", why).hint("`skein operator list` shows the roles")
        })?;
        let busy = |why: String| Error::new("too_many_requests", why).hint("`skein tap` ends with Ctrl-C");
        let slot = self
            .places
            .watches
            .clone()
            .try_acquire_owned()
            .map_err(|_| busy("too many watches are open".to_owned()))?;
        let place = operator.map(|key| {
            self.tappers.enter_as(key).ok_or_else(|| busy("operators have too many taps open at this node".to_owned()))
        });
        let place = place.transpose()?;
        let tapping = self.telemetry.taps().open(wanted, namespaces).map_err(busy)?;
        let mut due = tokio::time::interval(LOSSES);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let changes = self.agent.changes();
        let is_limited = tapping.namespaces().is_some();
        let telling = Telling {
            admin: self.clone(),
            operator,
            tapping,
            changes,
            hidden,
            due,
            lost: 0,
            is_limited,
            _slot: slot,
            _place: place,
        };
        let lines = futures_util::stream::unfold(telling, |mut telling| async move {
            let line = telling.next().await?;
            Some((Ok::<_, Infallible>(line), telling))
        });
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
    }
}

impl Admin {
    /// The namespaces of which someone may be told, the socket's user without a key of all; `None` if of nothing.
    fn tappable(&self, operator: Option<PublicKey>) -> Option<Namespaces> {
        let Some(key) = operator else { return Some(None) };
        let namespaces = self.agent.state().views(&key);
        if namespaces.contains("*") {
            return Some(None);
        }
        (!namespaces.is_empty()).then_some(Some(namespaces))
    }

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
    /// Who looks; none is whoever may open the socket.
    operator: Option<PublicKey>,
    tapping: Tapping,
    changes: Receiver<u64>,
    /// The policy whose tokens are hidden.
    hidden: Digest,
    due: Interval,
    /// What was told of requests that were left out.
    lost: u64,
    /// It is still to be said that it tells of some namespaces only.
    is_limited: bool,
    _slot: OwnedSemaphorePermit,
    _place: Option<Place<PublicKey>>,
}

impl Telling {
    /// The next line; none once the node stops.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.hidden != self.admin.agent.state().digest {
                self.hidden = self.admin.hide_tokens();
                // A role may have got other namespaces.
                self.tapping.limit(self.admin.tappable(self.operator)?);
            }
            if std::mem::take(&mut self.is_limited) && self.tapping.tells_losses() {
                return self.told(0);
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
        self.told(left_out)
    }

    fn told(&self, left_out: u64) -> Option<Bytes> {
        let (observed_at, node) = (rfc3339(self.admin.agent.now()), self.admin.node().to_string());
        line(&Losses { observed_at, node, left_out, namespaces: self.tapping.namespaces() })
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
