//! What members say of the moment, on its way from the engine's task to those who act on it. The engine never waits: of
//! each member the latest word is kept until it is taken, so that nothing grows and no loss of a member is missed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use certs::id::NodeId;
use membership::{
    engine::Loss,
    statement::{DemandRecord, OutlierRecord, Statement},
};
use tokio::sync::Notify;

use crate::lock::lock;

/// All headings.
#[derive(Debug, Clone, Default)]
pub struct Hearing {
    /// How others' requests fare.
    pub outliers: Arc<News<OutlierRecord>>,
    /// What is asked of others.
    pub demand: Arc<News<DemandRecord>>,
}

/// One heading. One task takes; bounded by the number of members and what a statement may hold.
#[derive(Debug)]
pub struct News<T> {
    waiting: Mutex<BTreeMap<NodeId, Word<T>>>,
    told: Notify,
}

/// What became of one member's statement since it was last taken.
#[derive(Debug)]
pub struct Word<T> {
    /// All that it had said before counts no more; for [`Loss::Dead`], as long as it is out of reach.
    pub lost: Option<Loss>,
    /// What it said last, after any other loss than that it is dead; `None`: nothing new.
    pub said: Option<Vec<Arc<[T]>>>,
}

impl<T> Default for News<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), told: Notify::new() }
    }
}

impl Hearing {
    /// A member says something; it replaces what waits of it.
    pub fn heard(&self, node: NodeId, statement: Statement) {
        match statement {
            Statement::Outliers(parts) => self.outliers.heard(node, parts),
            Statement::Demand(parts) => self.demand.heard(node, parts),
            // For people: the links' table keeps it.
            Statement::Suspicions(_) => {}
        }
    }

    /// A member is gone or has forgotten.
    pub fn lost(&self, node: &NodeId, why: Loss) {
        self.outliers.lost(node.clone(), why);
        self.demand.lost(node.clone(), why);
    }
}

impl<T> News<T> {
    /// All that came since the last call, by member; waits for something. Cancel-safe. For one task.
    pub async fn next(&self) -> BTreeMap<NodeId, Word<T>> {
        loop {
            let taken = std::mem::take(&mut *self.waiting());
            if !taken.is_empty() {
                return taken;
            }
            self.told.notified().await;
        }
    }

    fn heard(&self, node: NodeId, parts: Vec<Arc<[T]>>) {
        self.waiting().entry(node).or_insert(Word { lost: None, said: None }).said = Some(parts);
        self.told.notify_one();
    }

    /// The dead may live elsewhere: what they said last may hold on, so it is not dropped, and a loss that ends it is not forgotten.
    fn lost(&self, node: NodeId, why: Loss) {
        let mut waiting = self.waiting();
        let word = waiting.entry(node).or_insert(Word { lost: None, said: None });
        match why {
            Loss::Dead => word.lost = word.lost.or(Some(why)),
            Loss::Restarted | Loss::Left | Loss::Evicted | Loss::Gone => *word = Word { lost: Some(why), said: None },
        }
        drop(waiting);
        self.told.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<NodeId, Word<T>>> {
        lock(&self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(failures: u32) -> Statement {
        let (node, service) = (NodeId::new("b").unwrap(), "default/reviews".parse().unwrap());
        let record = OutlierRecord { node, service, instance: None, failures, requests: failures, latency_us: 0 };
        Statement::Outliers(vec![vec![record].into()])
    }

    #[tokio::test]
    async fn the_latest_word_waits_and_no_loss_is_missed() {
        let hearing = Hearing::default();
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        hearing.heard(a.clone(), said(1));
        hearing.lost(&a, Loss::Restarted);
        hearing.heard(a.clone(), said(2));
        hearing.heard(a.clone(), said(3));
        hearing.heard(b.clone(), said(4));
        hearing.lost(&b, Loss::Dead);
        let words = hearing.outliers.next().await;
        let failures = |word: &Word<OutlierRecord>| {
            word.said
                .as_ref()
                .map(|parts| parts.iter().flat_map(|part| part.iter()).map(|record| record.failures).sum())
        };
        assert_eq!((words[&a].lost, failures(&words[&a])), (Some(Loss::Restarted), Some(3)));
        assert_eq!((words[&b].lost, failures(&words[&b])), (Some(Loss::Dead), Some(4)));
        let demand = hearing.demand.next().await;
        assert_eq!(
            demand.into_values().filter_map(|word| word.lost).collect::<Vec<_>>(),
            [Loss::Restarted, Loss::Dead]
        );
        let none = tokio::time::timeout(std::time::Duration::from_millis(10), hearing.outliers.next());
        assert!(none.await.is_err(), "taken once");
    }

    /// Else a share or a report would stand for a run that is over.
    #[tokio::test]
    async fn that_a_member_is_dead_hides_no_other_loss() {
        let a = NodeId::new("a").unwrap();
        for why in [Loss::Restarted, Loss::Left, Loss::Evicted, Loss::Gone] {
            let hearing = Hearing::default();
            hearing.heard(a.clone(), said(1));
            hearing.lost(&a, why);
            hearing.lost(&a, Loss::Dead);
            let word = &hearing.outliers.next().await[&a];
            assert_eq!((word.lost, word.said.is_none()), (Some(why), true));
            // Nor what it has said since.
            hearing.lost(&a, why);
            hearing.heard(a.clone(), said(2));
            hearing.lost(&a, Loss::Dead);
            let word = &hearing.outliers.next().await[&a];
            assert_eq!((word.lost, word.said.is_some()), (Some(why), true));
            // But the other way round the end is the last word.
            hearing.heard(a.clone(), said(3));
            hearing.lost(&a, Loss::Dead);
            hearing.lost(&a, why);
            let word = &hearing.outliers.next().await[&a];
            assert_eq!((word.lost, word.said.is_none()), (Some(why), true));
        }
    }
}
