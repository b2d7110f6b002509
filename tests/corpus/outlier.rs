//! Istio's `outlierDetection` by the corpus's table of events and verdicts.

use std::sync::Arc;

use node::balance::{
    Key,
    outlier::{Effect, Event, Outcome, OutlierPolicy, Outliers},
};
use serde_json::Value;

/// The rows say nothing of the cap, so all may go out.
fn policy(row: &Value) -> OutlierPolicy {
    let default = OutlierPolicy::default();
    let number = |name: &str, absent: u32| {
        row["cfg"].get(name).map_or(absent, |value| u32::try_from(value.as_u64().unwrap()).unwrap())
    };
    let statuses = row["cfg"].get("outlierDetectionHttpErrorCodes").and_then(Value::as_array);
    OutlierPolicy {
        consecutive_errors: number("consecutive5xxErrors", default.consecutive_errors),
        consecutive_gateway_errors: number("consecutiveGatewayErrors", default.consecutive_gateway_errors),
        max_ejection_percent: 100,
        error_statuses: statuses.map_or(default.error_statuses, |statuses| {
            statuses.iter().map(|status| u16::try_from(status.as_u64().unwrap()).unwrap()).collect()
        }),
        ..default
    }
}

/// `5 consecutive 500` or `2x503, 1x500`.
fn statuses(events: &str) -> Vec<u16> {
    let parts = events.split(", ").map(|part| part.split_once(" consecutive ").or(part.split_once('x')).unwrap());
    parts.flat_map(|(count, status)| vec![status.parse().unwrap(); count.parse().unwrap()]).collect()
}

#[test]
fn ejections_follow_the_table() {
    let Some(root) = super::corpus() else { return };
    let text = std::fs::read_to_string(root.join("tables/outlier.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(rows.len() >= 6);
    for row in rows {
        let policy = Arc::new(policy(&row));
        let (cluster, endpoint): (Key, Key) = ("c".into(), "e".into());
        let mut outliers = Outliers::default();
        let tally = outliers.set_cluster(&cluster, Arc::clone(&policy), &[Arc::clone(&endpoint)], 0).remove(0);
        let mut ejected = false;
        for status in statuses(row["events"].as_str().unwrap()) {
            let Some(why) = tally.note(Outcome::Status(status), &policy, 0) else { continue };
            let event = Event::Tripped { cluster: Arc::clone(&cluster), endpoint: Arc::clone(&endpoint), why };
            ejected |= outliers.handle(event, 0, 0).iter().any(|effect| matches!(effect, Effect::Ejected(_)));
        }
        assert_eq!(Some(ejected), row["ejected"].as_bool(), "{row}");
        assert_eq!(ejected, tally.is_ejected());
    }
}
