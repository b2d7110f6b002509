//! Which endpoint is left out after which answers: each row has a service of its own, whose only endpoint answers so.

use harness::http;
use serde_json::Value;

use super::{EDGE, Mesh, Seen, Tables, text};

const TABLE: &str = "outlier";

fn name(number: usize) -> String {
    format!("failing-{number}")
}

/// The services of all rows.
pub(super) fn services(tables: &Tables) -> Vec<String> {
    (0..tables.rows(TABLE).len()).map(|number| format!("default/{}", name(number))).collect()
}

/// Their rules. The rows say nothing of the cap, which would keep the only endpoint: all may be left out.
pub(super) fn documents(tables: &Tables) -> String {
    let rule = |(number, row): (usize, &Value)| {
        let name = name(number);
        let mut detection = row["cfg"].clone();
        detection["maxEjectionPercent"] = 100.into();
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: default}}\nspec: {{host: {name}, trafficPolicy: {{outlierDetection: {detection}}}}}\n---\n"
        )
    };
    tables.rows(TABLE).iter().enumerate().map(rule).collect()
}

/// `5 consecutive 500` or `2x503, 1x500`.
fn statuses(events: &str) -> Vec<&str> {
    let parts = events.split(", ").filter_map(|part| part.split_once(" consecutive ").or(part.split_once('x')));
    parts.flat_map(|(count, status)| vec![status; count.parse().expect("a number")]).collect()
}

/// Sends the requests of each row, one after the other, and asks the caller's node who is left out.
pub(super) fn check(mesh: &Mesh, tables: &Tables, seen: &mut Seen) {
    for (number, row) in tables.rows(TABLE).iter().enumerate() {
        let statuses = statuses(text(row, "events"));
        assert!(!statuses.is_empty(), "{row}");
        for status in &statuses {
            let answer = http::get(mesh.outbound(), &format!("{}.default", name(number)), &format!("/status/{status}"));
            assert_eq!(answer.expect("an answer").status.to_string(), *status, "{row}");
        }
        // It is left out before the next request is routed; what is shown of it may be later by a moment, and lasts for longer.
        let (service, wanted) = (format!("default/{}", name(number)), row["ejected"] == true);
        let found = || {
            let rows = mesh.cluster.json(EDGE, &["outliers"]);
            let of_service = |one: &Value| one["service"] == service && one["state"] == "ejected";
            rows.as_array().is_some_and(|rows| rows.iter().any(of_service))
        };
        if wanted {
            harness::eventually(&format!("{row}: it is left out"), || {
                if found() { Ok(()) } else { Err("not yet".to_owned()) }
            });
        }
        seen.row(TABLE, row, wanted || !found(), "left out");
    }
}
