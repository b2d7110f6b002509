//! What this node says of itself, and what it hears of that.

use std::sync::Arc;

use rand::Rng;

use super::{Effect, Engine, Notice};
use crate::{
    body::{Body, Checked as _, Policy, Status},
    error::RecordError,
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
            // Its offer may have shown that this run needs another generation, under which all is said again.
            if record.generation() == self.author.generation() {
                let beside = self.beside(&record);
                self.rumor.push_with(record, beside, None, None);
            }
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
        if self.ledger.said(&self.own).is_none() {
            self.offer_own_again();
        }
        self.feed_soon();
    }

    /// This node's own certificates did not hold by its clock, which may be right by now. That they do not was said once.
    fn offer_own_again(&mut self) {
        let records: Vec<Arc<SignedRecord>> = self.author.records().cloned().collect();
        if self.ledger.offer_all(&records, self.now()) {
            let own = self.own.clone();
            self.refresh(&own);
        }
    }

    /// What this run says counts for nothing under its generation, or less than what was said under it before: it goes on under another,
    /// above the one that was `seen`.
    fn rerun(&mut self, seen: u64) {
        let before = self.author.generation();
        let generation = next_generation(before, seen, self.wall, self.random.random());
        match self.author.rerun(generation) {
            Ok(fresh) => {
                if generation < before {
                    // What it said by a clock that was ahead would stay above all that comes.
                    self.ledger.forget(&self.own);
                }
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
            Offered::Refused(RecordError::Generation(_)) => {
                // The clock was far ahead when this run began, and was set right.
                if record.generation() == self.author.generation() {
                    self.rerun(0);
                }
            }
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

    /// Somebody holds a record of this very node: no news, unless an earlier run or a copy of this node signed it, or this run before
    /// its memory was put back to an earlier state. In that case what it signs now would contradict what it signed then. A second one that
    /// runs on from the same memory does the same, and hears of the other's generation then.
    pub(super) fn own_record(&mut self, record: &Arc<SignedRecord>) {
        let own = self.own.clone();
        self.fetch.have(&own, None);
        self.remember(record);
        // One of the far future nobody believes, so that it is no copy's worth the name: a run signed it whose clock was wrong.
        let counts = plausible_generation(record.generation(), self.wall) && self.author.is_outdone_by(record);
        if !counts || !self.ledger.signed(record, &self.author.key()) {
            return;
        }
        if record.generation() == self.author.generation() {
            return self.rerun(record.generation());
        }
        if !self.reran && self.met.is_none_or(|met| self.steady < met + EARLIER_MS) {
            self.reran = true;
            self.rerun(record.generation());
        } else {
            self.out.push(Effect::Notice(Notice::Clone { generation: record.generation() }));
        }
    }

    /// What a record says of this node's policy that this run did not say, if that is more than is known: only then its signature is
    /// worth a check.
    pub(super) fn says_more(&self, record: &SignedRecord) -> Option<Policy> {
        let is_of_this_run = record.generation() == self.author.generation() && !self.author.is_outdone_by(record);
        if record.section() != Section::POLICY || is_of_this_run {
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
