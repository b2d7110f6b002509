//! Accusations that members sign: which are passed on, how urgent an answer is, and what the accused and those beside it do.

use std::{collections::BTreeSet, sync::Arc};

use certs::id::NodeId;

use super::{Engine, Lane};
use crate::{
    message::Latest,
    record::{Section, SignedRecord},
    rumor,
    view::MemberState,
};

/// Time between own refutations: half of what an accusation leaves.
const REFUTE_MS: u64 = 200;
/// Time between accusations of one member that are passed on although nobody listens to it.
const VAIN_MS: u64 = 5_000;
/// How long after its death an accusation of a member is passed on: others may not have heard of any.
const LATE_MS: u64 = 5_000;
/// How long the table of one that was accused is as urgent as the accusation.
pub(super) const ANSWER_MS: u64 = 2_000;
/// Bytes a second of one member that are passed on in the most urgent lane, and at once: a newcomer to whom nobody spoke of a
/// thousand members asks them all.
pub(super) const ORIGIN_URGENT: (u64, u64) = (16 << 10, 256 << 10);

impl Engine {
    /// How urgent it is to pass on what lasts. The table of one that stands accused is its answer.
    pub(super) fn urgency(&mut self, record: &SignedRecord) -> Lane {
        let (node, section) = (record.node(), record.section());
        let accused = self.answering.get(node).is_some_and(|at| self.steady.saturating_sub(*at) < ANSWER_MS);
        let lane = if section == Section::TABLE && accused { Lane::Liveness } else { rumor::lane(section) };
        if lane == Lane::Liveness && !self.is_urgent(record) { Lane::Rest } else { lane }
    }

    /// Whether its author may still have so much passed on at once.
    pub(super) fn is_urgent(&mut self, record: &SignedRecord) -> bool {
        let now = self.steady;
        self.sender(record.node()).urgent.take_many(record.bytes().len() as u64, now)
    }

    /// Whether a member's accusations are passed on: those of somebody who may answer, and what it takes back of the `before` that it
    /// accused until now. Where nobody listens to it about any of them, only now and then: the accused still answers it, for its own
    /// judgement.
    pub(super) fn worth_telling(&mut self, accuser: &NodeId, before: usize) -> bool {
        let now = self.steady;
        let accused = self.ledger.suspicions(accuser);
        let mut answerable = accused.iter().filter(|latest| self.may_answer(latest)).peekable();
        if answerable.peek().is_none() {
            return accused.len() < before;
        }
        if answerable.any(|latest| !self.detector.ignores(accuser, &latest.node, now)) {
            return true;
        }
        let sender = self.sender(accuser);
        let due = now >= sender.vain_due;
        if due {
            sender.vain_due = now + VAIN_MS;
        }
        due
    }

    /// Whether an accused member lives, or died only just now, and has signed nothing since.
    fn may_answer(&self, accused: &Latest) -> bool {
        let Some(member) = self.view.member(&accused.node) else { return false };
        let lives = match member.state {
            MemberState::Alive | MemberState::Suspect => true,
            MemberState::Dead => self.wall.saturating_sub(member.since) < LATE_MS,
            MemberState::Left | MemberState::Evicted => false,
        };
        lives && self.ledger.rank(&accused.node) <= Some((accused.generation, accused.sequence))
    }

    /// A member said anew whom it finds silent.
    pub(super) fn accused(&mut self, accuser: &NodeId) {
        let now = self.steady;
        let accused: Vec<Latest> = self.ledger.suspicions(accuser).into_iter().cloned().collect();
        let named: BTreeSet<NodeId> = accused.iter().map(|latest| latest.node.clone()).collect();
        let (mut told, mut unanswered): (Vec<Arc<SignedRecord>>, Vec<NodeId>) = Default::default();
        for Latest { node, generation, sequence } in accused {
            let ignored = self.detector.ignores(accuser, &node, now);
            if node == self.own {
                // Who does not hear this node is told directly, too: a link brings all that it says.
                if !self.links.linked().contains(accuser) && !ignored {
                    self.dialer.demand(accuser, now);
                }
                // Whoever asks is answered with a signature made after the question.
                let due = self.refuted + REFUTE_MS;
                if now >= due {
                    self.refute()
                } else {
                    self.refute_due = Some(due)
                }
                continue;
            }
            let Some(ours) = self.ledger.rank(&node) else { continue };
            if !ignored {
                self.answering.insert(node.clone(), now);
            }
            if ours > (generation, sequence) {
                // It has signed something since: the accuser may not know.
                let held = self.ledger.records(&node).and_then(|held| held.get(&Section::TABLE));
                told.extend(held.cloned());
                continue;
            }
            // Its answer may have come before the question.
            if let Some(table) = self.ledger.table_since(&node, now.saturating_sub(ANSWER_MS)).filter(|_| !ignored) {
                let lane = self.urgency(&table);
                self.rumor.push(table, None, Some(lane));
            }
            unanswered.push(node);
        }
        let begun = self.detector.accused(accuser, &named, &unanswered, now);
        // The accused may not hear the accuser.
        for node in unanswered.iter().filter(|node| self.links.linked().contains(*node)).cloned().collect::<Vec<_>>() {
            if self.sender(accuser).accusations.take(now) || begun.contains(&node) {
                let said: Vec<Arc<SignedRecord>> = self
                    .ledger
                    .momentary(accuser)
                    .filter(|record| record.section().base() == Section::SUSPICIONS)
                    .cloned()
                    .collect();
                for (peer, lane, message) in rumor::messages(&node, &said) {
                    self.send(&peer, lane, &message);
                }
            }
        }
        for (peer, _, message) in rumor::messages(accuser, &told) {
            self.send(&peer, Lane::Liveness, &message);
        }
    }
}
