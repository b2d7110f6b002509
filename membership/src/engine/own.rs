//! What this node says of itself, and what it hears of that.

use std::sync::Arc;

use rand::Rng;

use super::{Effect, Engine, Notice};
use crate::{
    body::{Body, Checked as _, Policy, Status},
    ledger::Offered,
    limit::Bucket,
    record::{Section, SignedRecord, next_generation, plausible_generation},
};

/// A higher generation of its own that a node hears of within this time after its first link is that of an earlier run, whose disk
/// or clock was another. Later it is a copy's, which runs now.
const EARLIER_MS: u64 = 10_000;

impl Engine {
    pub(super) fn publish(&mut self, body: &Body) {
        match self.author.publish(body) {
            Ok(fresh) => self.own_news(fresh),
            Err(error) => self.out.push(Effect::Notice(Notice::Refused(error))),
        }
    }

    fn own_news(&mut self, fresh: Vec<Arc<SignedRecord>>) {
        let lasts = fresh.iter().any(|record| !record.section().is_of_the_moment());
        let certified = fresh.iter().any(|record| record.section() == Section::IDENTITY);
        for record in fresh {
            self.offer_own(&record);
            let beside = self.beside(&record);
            self.rumor.push_with(record, beside, None, None);
        }
        if certified {
            // What was said while the old certificate had ended counted for nothing here.
            for record in self.author.records().cloned().collect::<Vec<_>>() {
                self.offer_own(&record);
            }
        }
        if lasts {
            self.told_all();
            let own = self.own.clone();
            self.refresh(&own);
            self.feed_soon();
        }
    }

    /// An unchanged table travels by repair only.
    pub(super) fn own_table(&mut self) {
        match self.author.table() {
            Ok(table) => self.offer_own(&table),
            Err(error) => self.out.push(Effect::Notice(Notice::Refused(error))),
        }
        self.feed_soon();
    }

    /// An earlier run of this node had a higher generation: what this one says counts for nothing until it goes on above that.
    fn rerun(&mut self, seen: u64) {
        self.reran = true;
        let generation = next_generation(self.author.generation(), seen, self.wall, self.random.random());
        match self.author.rerun(generation) {
            Ok(fresh) => {
                self.out.push(Effect::Generation(generation));
                self.own_news(fresh);
                self.rumor.hasten();
            }
            Err(error) => self.out.push(Effect::Notice(Notice::Refused(error))),
        }
    }

    pub(super) fn offer_own(&mut self, record: &Arc<SignedRecord>) {
        let now = self.now();
        let mut unlimited = Bucket::new(1, 1, self.steady);
        match self.ledger.offer(record, &mut unlimited, now) {
            Offered::Refused(error) => self.out.push(Effect::Notice(Notice::Refused(error))),
            Offered::Fresh | Offered::Again => {
                let own = self.own.clone();
                self.claim_met(&own);
            }
            Offered::OfTheMoment
            | Offered::Known
            | Offered::Waiting
            | Offered::Unknown
            | Offered::NoIdentity
            | Offered::Equivocation
            | Offered::Limited => {}
        }
    }

    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.publish(&Body::Status(Status::Left));
        self.rumor.hasten();
        self.persist();
    }

    /// Somebody holds a record of this very node: no news, unless an earlier run or a copy of this node signed it.
    pub(super) fn own_record(&mut self, record: &Arc<SignedRecord>) {
        let own = self.own.clone();
        self.fetch.have(&own, None);
        self.remember(record);
        let later = record.generation() > self.author.generation();
        if !later || !self.ledger.signed(record, &self.author.key()) {
            return;
        }
        let earlier = !self.reran && self.met.is_none_or(|met| self.steady < met + EARLIER_MS);
        if earlier && plausible_generation(record.generation(), self.wall) {
            self.rerun(record.generation());
        } else {
            self.out.push(Effect::Notice(Notice::Clone { generation: record.generation() }));
        }
    }

    /// What a record says of this node's policy in another run, if that is more than is known: only then its signature is worth a
    /// check.
    pub(super) fn says_more(&self, record: &SignedRecord) -> Option<Policy> {
        if record.section() != Section::POLICY || record.generation() == self.author.generation() {
            return None;
        }
        Policy::read(record.body()).ok().filter(|policy| policy.audit.0 > self.remembered)
    }

    /// A peer shows what this node said of its policy in another run.
    pub(super) fn remember(&mut self, record: &SignedRecord) {
        if let Some(policy) = self.says_more(record).filter(|_| self.ledger.signed(record, &self.author.key())) {
            self.remembered = policy.audit.0;
            self.out.push(Effect::Remembered(policy));
        }
    }
}
