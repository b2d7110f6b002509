//! Answers that go on: one JSON object a line, at once and then at every change.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::header;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, watch::Receiver},
    time::{Interval, MissedTickBehavior},
};

use super::{Admin, error::Error, look::Look, rfc3339};

/// Changes within this time are told together.
const PACE: Duration = Duration::from_millis(5);
/// How often what is counted is looked at: no change of the world tells of it.
const COUNTED: Duration = Duration::from_secs(1);
/// Fields that change all the time and are no news by themselves.
const RESTLESS: &[&str] =
    &["rtt_ms", "loss", "reaches", "connections", "memory_bytes", "gossip_bytes_per_s", "gossip_lanes"];

/// A watch under way.
struct Watching {
    admin: Admin,
    look: Look,
    changes: Receiver<u64>,
    /// Ejections and returns, which are no change of the world.
    outliers: Receiver<u64>,
    due: Interval,
    told: Option<Value>,
    _slot: OwnedSemaphorePermit,
}

impl Admin {
    /// Answers now and at every change, until the asker goes away or the node stops.
    ///
    /// # Errors
    /// `not_found`, or `too_many_requests`.
    pub(super) async fn watch(&self, look: Look) -> Result<Response, Error> {
        let slot = self.places.watches.clone().try_acquire_owned().map_err(|_| {
            Error::new("too_many_requests", "too many watches are open").hint("end one of them, or ask without --watch")
        })?;
        // A question that cannot be answered now is refused as without a watch.
        self.look(&look).await?;
        let mut changes = self.agent.changes();
        changes.mark_changed();
        let outliers = self.circuits.changes();
        let mut due = tokio::time::interval(COUNTED);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watching = Watching { admin: self.clone(), look, changes, outliers, due, told: None, _slot: slot };
        let lines = futures_util::stream::unfold(watching, |mut watching| async move {
            let line = watching.next().await?;
            Some((Ok::<_, Infallible>(line), watching))
        });
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
    }
}

impl Watching {
    /// The next line; none once the node stops.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                () = self.admin.tasks.stopping() => return None,
                changed = self.changes.changed() => changed.ok()?,
                changed = self.outliers.changed() => changed.ok()?,
                _ = self.due.tick(), if self.look.is_counted() => {}
            }
            let value = self.admin.look(&self.look).await.unwrap_or(Value::Null);
            let calm = calmed(value.clone());
            if self.told.as_ref() == Some(&calm) {
                tokio::time::sleep(PACE).await;
                continue;
            }
            self.told = Some(calm);
            let mut line = observed(self.look.name(), value, &rfc3339(self.admin.agent.now())).to_string();
            line.push('\n');
            return Some(Bytes::from(line));
        }
    }
}

/// An answer with the time at which it was true; a list goes under its name.
fn observed(name: &str, value: Value, at: &str) -> Value {
    let mut line = json!({"observed_at": at});
    match (&mut line, value) {
        (Value::Object(line), Value::Object(fields)) => line.extend(fields),
        (line, other) => line[name] = other,
    }
    line
}

/// The answer without what changes all the time.
fn calmed(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => RESTLESS.iter().for_each(|field| drop(fields.remove(*field))),
        Value::Array(rows) => {
            for fields in rows.iter_mut().filter_map(Value::as_object_mut) {
                RESTLESS.iter().for_each(|field| drop(fields.remove(*field)));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_with_its_time() {
        assert_eq!(observed("status", json!({"node": "a"}), "t"), json!({"observed_at": "t", "node": "a"}));
        assert_eq!(observed("members", json!([1]), "t"), json!({"observed_at": "t", "members": [1]}));
    }

    #[test]
    fn round_trips_are_no_news() {
        let row = |rtt: f64| json!([{"name": "a", "rtt_ms": rtt}]);
        assert_eq!(calmed(row(0.1)), calmed(row(0.2)));
        assert_ne!(calmed(json!([{"name": "a"}])), calmed(json!([{"name": "b"}])));
    }
}
