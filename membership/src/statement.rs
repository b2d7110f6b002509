//! What a node says of the moment: how its requests to others' endpoints fare, what is asked of it. Signed and spread at
//! once like any record, but worthless when old. So the node's table does not list it, nobody fetches, repairs or stores
//! it, and it is no part of the View: who hears it is told by [`Effect::Heard`](crate::engine::Effect::Heard), and by
//! [`Effect::Lost`](crate::engine::Effect::Lost) when its author is gone. A link that comes up brings the latest.
//! Headings that a later build added are passed on unread.

use std::sync::Arc;

use certs::{
    id::{NodeId, ServiceName},
    verify::Authority,
};
use serde::{Deserialize, Serialize};

use crate::{
    body::{Checked, count, text},
    error::RecordError,
    message::Latest,
    record::Section,
};

/// Endpoints that one part of [`Section::OUTLIERS`] names.
pub const OUTLIERS: usize = 128;
/// Limits that one part of [`Section::DEMAND`] names.
pub const DEMANDS: usize = 128;
/// Members that [`Section::SUSPICIONS`] names: it has one part.
pub const SUSPICIONS: usize = 128;
/// Sections of one node under headings that this build does not know.
pub(crate) const UNKNOWN: usize = 32;
/// Nodes to which one [`DemandRecord`] has given.
pub const GIVEN: usize = 256;
/// The largest `demand` and gift: a sum over a thousand nodes stays far below what 64 bits hold.
pub const LARGEST_DEMAND: u64 = 1_000_000_000_000_000;

/// How the author's requests to one endpoint fared in the last seconds. Never believed, only a reason to look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlierRecord {
    /// Where the endpoint is. It need not be a member here.
    pub node: NodeId,
    /// Its service.
    pub service: ServiceName,
    /// Its instance.
    pub instance: Option<String>,
    /// Attempts that failed; none, once, says that it has recovered.
    pub failures: u32,
    /// All attempts.
    pub requests: u32,
    /// How long a failed attempt took, on average, in microseconds.
    pub latency_us: u32,
}

/// What is asked of the author under one limit that holds for the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemandRecord {
    /// Hash of rule and service, and of the key. All zeros: no limit, and `demand` counts the author's statements, so that one
    /// that says the same again is signed and spread again.
    pub limit: [u8; 16],
    /// Millionths of the limit; a reader takes no more than the whole.
    pub demand: u64,
    /// What it has given to others since it began, in millionths of an equal share.
    pub given: Vec<(NodeId, u64)>,
}

/// All that a node says of the moment under one heading; replaces all that it said under it before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// [`Section::OUTLIERS`], by parts.
    Outliers(Vec<Arc<[OutlierRecord]>>),
    /// [`Section::DEMAND`], by parts.
    Demand(Vec<Arc<[DemandRecord]>>),
    /// [`Section::SUSPICIONS`]: members only. The engine has acted on it: this is for people.
    Suspicions(Vec<Arc<[Latest]>>),
}

/// One part of a statement, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Outliers(Arc<[OutlierRecord]>),
    Demand(Arc<[DemandRecord]>),
    Suspicions(Arc<[Latest]>),
    /// Under a heading of a build to come.
    Unknown,
}

impl Part {
    /// Without whom it accuses that nobody granted: they are none of anybody's business, and would be kept.
    pub(crate) fn of_members(self, authority: &Authority) -> Part {
        match self {
            Part::Suspicions(accused) if accused.iter().any(|latest| !authority.grants.contains_key(&latest.node)) => {
                let granted = accused.iter().filter(|latest| authority.grants.contains_key(&latest.node));
                Part::Suspicions(granted.cloned().collect())
            }
            Part::Outliers(_) | Part::Demand(_) | Part::Suspicions(_) | Part::Unknown => self,
        }
    }

    /// Reads what a record of one of these sections holds.
    pub(crate) fn read(section: Section, body: &[u8]) -> Result<Part, RecordError> {
        match section.base() {
            Section::OUTLIERS => Vec::read(body).map(|records| Part::Outliers(records.into())),
            Section::DEMAND => Vec::read(body).map(|records| Part::Demand(records.into())),
            Section::SUSPICIONS => Vec::read(body).map(|records| Part::Suspicions(records.into())),
            _ if section.is_of_the_moment() => Ok(Part::Unknown),
            _ => Err(RecordError::Invalid { field: "section", rule: "one that speaks of the moment" }),
        }
    }
}

impl Statement {
    /// All parts of one section; `None` if there are none.
    pub(crate) fn of<'a>(base: Section, parts: impl Iterator<Item = &'a Part>) -> Option<Statement> {
        let (mut outliers, mut demands, mut suspicions) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            match part {
                Part::Outliers(records) => outliers.push(records.clone()),
                Part::Demand(records) => demands.push(records.clone()),
                Part::Suspicions(records) => suspicions.push(records.clone()),
                Part::Unknown => {}
            }
        }
        match base {
            Section::OUTLIERS if !outliers.is_empty() => Some(Statement::Outliers(outliers)),
            Section::DEMAND if !demands.is_empty() => Some(Statement::Demand(demands)),
            Section::SUSPICIONS if !suspicions.is_empty() => Some(Statement::Suspicions(suspicions)),
            _ => None,
        }
    }
}

impl Checked for Vec<OutlierRecord> {
    fn check(&self) -> Result<(), RecordError> {
        count("outliers", self.len(), OUTLIERS)?;
        self.iter().try_for_each(OutlierRecord::check)
    }
}

impl Checked for Vec<DemandRecord> {
    fn check(&self) -> Result<(), RecordError> {
        count("demand", self.len(), DEMANDS)?;
        self.iter().try_for_each(DemandRecord::check)
    }
}

impl Checked for Vec<Latest> {
    fn check(&self) -> Result<(), RecordError> {
        count("suspicions", self.len(), SUSPICIONS)
    }
}

impl OutlierRecord {
    pub(crate) fn check(&self) -> Result<(), RecordError> {
        self.instance.iter().try_for_each(|instance| text("instance", instance))?;
        if self.failures > self.requests {
            return Err(RecordError::Invalid { field: "failures", rule: "no more than requests" });
        }
        Ok(())
    }
}

impl DemandRecord {
    pub(crate) fn check(&self) -> Result<(), RecordError> {
        count("given", self.given.len(), GIVEN)?;
        if self.demand > LARGEST_DEMAND || self.given.iter().any(|(_, given)| *given > LARGEST_DEMAND) {
            return Err(RecordError::Invalid { field: "demand", rule: "at most 10^15" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use certs::codec;
    use proptest::prelude::*;

    use super::*;
    use crate::{body::Body, record::BODY_BYTES};

    fn outlier(index: usize, failures: u32, requests: u32) -> OutlierRecord {
        OutlierRecord {
            node: NodeId::new(&format!("n{index}")).expect("valid"),
            service: "default/reviews".parse().expect("valid"),
            instance: None,
            failures,
            requests,
            latency_us: 900,
        }
    }

    fn demand(demand: u64, given: usize) -> DemandRecord {
        let given = (0..given).map(|index| (NodeId::new(&format!("n{index}")).expect("valid"), 1)).collect();
        DemandRecord { limit: [7; 16], demand, given }
    }

    #[test]
    fn many_are_split_and_read_back() {
        let all: Vec<OutlierRecord> = (0..500).map(|index| outlier(index, 1, 2)).collect();
        let parts = Body::Outliers(all.clone()).parts().expect("fits");
        assert!(parts.len() > 1 && parts.iter().all(|(section, _)| section.base() == Section::OUTLIERS));
        let read: Vec<Part> = parts.iter().map(|(section, body)| Part::read(*section, body).expect("own")).collect();
        let Some(Statement::Outliers(read)) = Statement::of(Section::OUTLIERS, read.iter()) else { panic!("{read:?}") };
        assert_eq!(read.iter().flat_map(|part| part.iter().cloned()).collect::<Vec<_>>(), all);
        let tiny: Vec<DemandRecord> = (0..DEMANDS + 1).map(|_| demand(5, 0)).collect();
        assert_eq!(Body::Demand(tiny).parts().expect("fits").len(), 2, "no reader would take one so long");
        let given: Vec<DemandRecord> = (0..40).map(|_| demand(5, 100)).collect();
        let parts = Body::Demand(given).parts().expect("fits");
        assert!(parts.iter().all(|(section, body)| section.base() == Section::DEMAND && body.len() <= BODY_BYTES));
        assert!(Body::Outliers((0..20_000).map(|index| outlier(index, 1, 2)).collect()).parts().is_err());
    }

    #[test]
    fn what_no_honest_node_counts_is_refused() {
        let refused = |body: Vec<u8>, section| Part::read(section, &body).is_err();
        assert!(refused(codec::encode(&vec![outlier(1, 2, 1)]), Section::OUTLIERS));
        assert!(refused(codec::encode(&vec![outlier(1, u32::MAX, 0)]), Section::OUTLIERS));
        assert!(refused(
            codec::encode(&vec![OutlierRecord { instance: Some("\u{7}".into()), ..outlier(1, 1, 1) }]),
            Section::OUTLIERS
        ));
        let tiny = |index: usize| OutlierRecord { latency_us: 0, ..outlier(index % 10, 0, 0) };
        assert!(refused(codec::encode(&(0..=OUTLIERS).map(tiny).collect::<Vec<_>>()), Section::OUTLIERS));
        assert!(refused(codec::encode(&vec![demand(u64::MAX, 0)]), Section::DEMAND));
        let mut greedy = demand(1, 1);
        greedy.given[0].1 = u64::MAX;
        assert!(refused(codec::encode(&vec![greedy]), Section::DEMAND));
        assert!(refused(codec::encode(&vec![demand(1, GIVEN + 1)]), Section::DEMAND));
        assert!(refused(codec::encode(&(0..=DEMANDS).map(|_| demand(1, 0)).collect::<Vec<_>>()), Section::DEMAND));
        assert!(!refused(codec::encode(&vec![outlier(1, u32::MAX, u32::MAX)]), Section::OUTLIERS));
        assert!(!refused(codec::encode(&vec![demand(LARGEST_DEMAND, GIVEN)]), Section::DEMAND));
        assert!(refused(vec![0], Section::HEALTH), "another section");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), part in 0_u16..20) {
            for base in [Section::OUTLIERS, Section::DEMAND] {
                let _ = Part::read(base.part(part), &bytes);
            }
        }
    }
}
