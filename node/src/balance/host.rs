//! An endpoint as the choice sees it: facts that a table is built from, and the atomics that a choice reads.

use std::{collections::BTreeMap, sync::Arc};

use super::{Key, Load, Locality, outlier::Tally};

/// One endpoint of a cluster.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name; tables order endpoints by it, so that they are alike on all nodes.
    pub id: Key,
    /// Its share relative to the others; 0 takes none.
    pub weight: u32,
    /// Where it is.
    pub locality: Locality,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// What its owner's check says.
    pub healthy: bool,
    /// This node's requests to it.
    pub load: Arc<Load>,
    /// Its errors in a row, where the cluster has `outlierDetection`.
    pub tally: Option<Arc<Tally>>,
}

impl Host {
    /// True if it may be chosen as far as is known while a table is built.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy && !self.is_out()
    }

    /// True if it went out, whatever the table says.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.load.is_out() || self.tally.as_ref().is_some_and(|tally| tally.is_ejected())
    }
}
