//! The first comparison after a start. What changed while this node was away, evictions above all, is to be known before anybody is
//! served.

use std::{sync::Arc, time::Duration};

use super::Sync;

/// So long a node that starts waits for a peer to compare with: one that is alone serves what it has.
const PATIENCE: Duration = Duration::from_secs(1);

impl Sync {
    /// Compares with whoever is linked, whatever it said before this node was away, until one has answered.
    pub(super) fn compare_first(self: &Arc<Self>) {
        if *self.state.compared.borrow() {
            return;
        }
        for link in self.links.all() {
            let sync = self.clone();
            self.tasks.detach("policy-first", async move {
                match sync.compare_buckets(&link).await {
                    Ok(_) => drop(sync.state.compared.send_replace(true)),
                    Err(error) => tracing::debug!(peer = %link.peer().node, "not compared yet: {error}"),
                }
            });
        }
    }

    /// Waits for that, but not for long.
    pub async fn compared(&self) {
        let mut compared = self.state.compared.subscribe();
        if tokio::time::timeout(PATIENCE, compared.wait_for(|compared| *compared)).await.is_err() {
            tracing::info!("no peer has shown its policy within {PATIENCE:?}: serving by what is known");
        }
    }
}
