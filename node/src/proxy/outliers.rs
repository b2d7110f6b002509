//! The sweeps of outlier detection: one task of the node lets endpoints return when their time is over.

use crate::{clock, snapshot::Circuits};
use std::{sync::Arc, time::Duration};

/// Shortest time between two sweeps, however short the intervals that documents ask for.
const SHORTEST: Duration = Duration::from_millis(10);
/// Longest time between two sweeps, which also forget what nobody uses.
const LONGEST: Duration = Duration::from_secs(60);

/// Sweeps for ever.
pub async fn sweep_outliers(circuits: Arc<Circuits>) {
    loop {
        let now = clock::uptime();
        let due = circuits.sweep(now, rand::random());
        let pause = due.map_or(LONGEST, |due| Duration::from_millis(due.saturating_sub(now)));
        // At once where a new cluster may be due before the others, yet never faster than the shortest.
        tokio::time::sleep(SHORTEST).await;
        tokio::select! {
            () = tokio::time::sleep(pause.clamp(SHORTEST, LONGEST) - SHORTEST) => {}
            () = circuits.news() => {}
        }
    }
}
