//! Accusations that members sign: which are passed on, how urgent an answer is, and what the accused and those beside it do.
//!
//! An accusation names a number of the accused: it says that nothing was heard of it since. So whoever holds a later one knows the
//! answer, whoever holds this one waits for it, and whoever does not hold it yet waits for the number first: one that nobody has
//! ever signed accuses nobody.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::id::NodeId;

use super::{Effect, Engine, Lane, Notice, sender::Origin};
use crate::{
    detector::ACCUSED,
    limit::Bucket,
    message::{Latest, Message},
    record::{Section, SignedRecord},
    rumor,
    view::{Member, MemberState},
};

/// Time between own refutations: half of what an accusation leaves.
const REFUTE_MS: u64 = 200;
/// Answers within [`ANSWERS_MS`] that one accuser gets as soon as it asks: one whose path to this node broke asks three times before
/// its link ends, and three times after, ever more rarely.
const ANSWERS: u32 = 7;
/// See [`ANSWERS`].
const ANSWERS_MS: u64 = 60_000;
/// Time between answers to all who ask for more, and between accusations of one member that are passed on although nobody listens
/// to it about those whom it names.
const VAIN_MS: u64 = 5_000;
/// The same of one that is ignored about everybody.
const UNHEARD_MS: u64 = 20_000;
/// Bytes a second of such accusations that are passed on, and at once: one of the largest.
const VAIN_BYTES: (u64, u64) = (128, 8 << 10);
/// How long after its death an accusation of a member is passed on: others may not have heard of any.
const LATE_MS: u64 = 5_000;
/// How long the table of one that was accused is as urgent as the accusation.
const ANSWER_MS: u64 = 2_000;
/// How long after a table came an accusation of its author goes with it: repair may not have brought it to all.
const YOUNG_MS: u64 = 10_000;
/// Tables that go with one statement.
const BESIDE: usize = 4;
/// How long after somebody appeared accusations are passed on and answered whoever listens: it does not know yet who cries wolf.
const NEWCOMER_MS: u64 = 5_000;
/// How often that may be: somebody may appear all the time.
const NEWCOMERS_MS: u64 = 30_000;
/// Bytes a second of one member that are passed on in the most urgent lane, and at once: a newcomer to whom nobody spoke of a
/// thousand members asks them all.
pub(super) const ORIGIN_URGENT: (u64, u64) = (16 << 10, 256 << 10);

/// A number of a member's records.
type Rank = (u64, u64);

/// What is remembered of accusations and answers. Bounded by the number of members.
pub(super) struct Accusations {
    /// When this node answered last.
    answered: u64,
    /// The last number of its own that it told everybody; tables that it signs between are left to repair.
    public: Rank,
    /// When its next answer is due, if somebody accused this node since the last one.
    answer_due: Option<u64>,
    /// Who was accused, and when: its answer is as urgent as that.
    answering: BTreeMap<NodeId, u64>,
    /// Tables that came and were not passed on, because nobody had asked for them.
    unspread: BTreeMap<NodeId, u64>,
    /// Numbers that accusers name and that are not held, of [`ACCUSED`] members by each.
    awaited: BTreeMap<NodeId, BTreeMap<NodeId, Rank>>,
    /// Who accuses faster than it is judged.
    late: BTreeSet<NodeId>,
    /// Since when each member is seen as it is now, whatever became of the clock.
    judged: BTreeMap<NodeId, u64>,
    /// When somebody appeared, once in [`NEWCOMERS_MS`].
    appeared: u64,
    vain: Bucket,
}

/// Questions of one accuser to this node.
#[derive(Default)]
pub(super) struct Asked {
    claim: Rank,
    count: u32,
    since: u64,
}

impl Default for Accusations {
    fn default() -> Accusations {
        let (answering, unspread, awaited, late, judged) = Default::default();
        let vain = Bucket::new(VAIN_BYTES.0, VAIN_BYTES.1, 0);
        Accusations {
            answered: 0,
            public: (0, 0),
            answer_due: None,
            answering,
            unspread,
            awaited,
            late,
            judged,
            appeared: 0,
            vain,
        }
    }
}

impl Accusations {
    pub(super) fn expire(&mut self, now: u64) {
        self.answering.retain(|_, at| now.saturating_sub(*at) < ANSWER_MS);
        self.unspread.retain(|_, at| now.saturating_sub(*at) < ANSWER_MS);
    }

    /// A member is none any more.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.answering.remove(node);
        self.unspread.remove(node);
        self.awaited.remove(node);
        self.late.remove(node);
        self.judged.remove(node);
    }

    /// A member is seen otherwise from now on.
    pub(super) fn judged(&mut self, node: &NodeId, now: u64) {
        self.judged.insert(node.clone(), now);
    }

    /// How long a member has been seen as it is now.
    fn seen_so(&self, node: &NodeId, now: u64) -> u64 {
        self.judged.get(node).map_or(u64::MAX, |at| now.saturating_sub(*at))
    }

    /// Somebody is new, or runs anew: it has heard no answers so far.
    pub(super) fn appeared(&mut self, now: u64) {
        if now.saturating_sub(self.appeared) >= NEWCOMERS_MS {
            self.appeared = now;
        }
    }

    fn is_accused(&self, node: &NodeId, now: u64) -> bool {
        self.answering.get(node).is_some_and(|at| now.saturating_sub(*at) < ANSWER_MS)
    }
}

impl Asked {
    /// An accuser asks for something later than this; whether it is answered as soon as may be.
    fn asks(&mut self, claim: Rank, appeared: u64, now: u64) -> bool {
        if self.count == 0 || self.since < appeared || now.saturating_sub(self.since) >= ANSWERS_MS {
            *self = Asked { claim, count: 1, since: now };
        } else if self.claim != claim {
            (self.claim, self.count) = (claim, self.count + 1);
        }
        self.count <= ANSWERS
    }
}

impl Engine {
    /// How urgent it is to pass on what lasts. The table of one that stands accused is its answer.
    pub(super) fn urgency(&mut self, record: &SignedRecord) -> Lane {
        let (node, section) = (record.node(), record.section());
        let answers = section == Section::TABLE && self.accusations.is_accused(node, self.steady);
        let lane = if answers { Lane::Liveness } else { rumor::lane(section) };
        if lane == Lane::Liveness && !self.is_urgent(record) { Lane::Rest } else { lane }
    }

    /// Whether its author may still have so much passed on at once.
    pub(super) fn is_urgent(&mut self, record: &SignedRecord) -> bool {
        let now = self.steady;
        let origin = self.origins.entry(record.node().clone()).or_insert_with(|| Origin::new(now));
        origin.urgent.take_many(record.bytes().len() as u64, now)
    }

    /// A table that says nothing but that its author lives: passed on if somebody asked for that, or if it has been dead until now.
    pub(super) fn sign_of_life(&mut self, record: &Arc<SignedRecord>, from: Option<&NodeId>) {
        let lives = |member: &Arc<Member>| {
            let since = self.accusations.seen_so(&member.id, self.steady);
            member.state == MemberState::Alive && since >= ANSWER_MS
        };
        let is_news = !self.view.member(record.node()).is_some_and(lives);
        if is_news || self.accusations.is_accused(record.node(), self.steady) {
            let lane = self.urgency(record);
            // One answer is enough for all who asked before it.
            self.accusations.answering.remove(record.node());
            self.rumor.push(record.clone(), from.cloned(), Some(lane));
        } else {
            self.accusations.unspread.insert(record.node().clone(), self.steady);
        }
    }

    /// The tables without which a statement says nothing to those who hold older ones.
    pub(super) fn beside(&self, record: &SignedRecord) -> Vec<Arc<SignedRecord>> {
        if record.section().base() != Section::SUSPICIONS {
            return Vec::new();
        }
        let (now, accuser) = (self.steady, record.node());
        let tables =
            self.ledger.suspicions(accuser).filter(|latest| !self.detector.ignores(accuser, &latest.node, now));
        let tables = tables.filter_map(|latest| {
            let table = self.ledger.table_since(&latest.node, now.saturating_sub(YOUNG_MS))?;
            (table.rank() == (latest.generation, latest.sequence)).then_some(table)
        });
        tables.take(BESIDE).collect()
    }

    /// Whom a member accuses, and of each the highest number that it names.
    fn accused_by(&self, accuser: &NodeId) -> BTreeMap<NodeId, Rank> {
        let mut named: BTreeMap<NodeId, Rank> = BTreeMap::new();
        for Latest { node, generation, sequence } in self.ledger.suspicions(accuser) {
            let claim = named.entry(node.clone()).or_default();
            *claim = (*claim).max((*generation, *sequence));
        }
        named
    }

    /// Whether a member's accusations are passed on: those of somebody who may answer, and what it takes back that stands by its word
    /// here. Where nobody listens to it about any of them, only now and then: the accused still answers it, for its own judgement.
    pub(super) fn worth_telling(&mut self, record: &SignedRecord) -> bool {
        let (now, accuser) = (self.steady, record.node());
        if !self.detector.ignores_all(accuser, now) {
            let named = self.accused_by(accuser);
            if self.detector.frees(accuser, |node| named.contains_key(node)) {
                return true;
            }
            let mut answerable = named.iter().filter(|(node, claim)| self.may_answer(node, **claim)).peekable();
            if answerable.peek().is_none() {
                return false;
            }
            if self.has_newcomers() || answerable.any(|(node, _)| !self.detector.ignores(accuser, node, now)) {
                return true;
            }
        }
        self.is_vain_due(record)
    }

    /// Whether what nobody listens to is passed on once more: more rarely, and all of it in little room, if the accuser is ignored about
    /// everybody.
    fn is_vain_due(&mut self, record: &SignedRecord) -> bool {
        let (now, accuser) = (self.steady, record.node());
        let newcomers = self.has_newcomers();
        if now < self.sender(accuser).vain_due && !newcomers {
            return false;
        }
        let answers = |latest: &Latest| self.may_answer(&latest.node, (latest.generation, latest.sequence));
        let answerable = self.ledger.suspicions(accuser).any(answers);
        let unheard = self.detector.ignores_all(accuser, now);
        let size = record.bytes().len() as u64;
        let due = answerable && (newcomers || !unheard || self.accusations.vain.take_many(size, now));
        if due {
            self.sender(accuser).vain_due = now + if unheard { UNHEARD_MS } else { VAIN_MS };
        }
        due
    }

    fn has_newcomers(&self) -> bool {
        self.steady.saturating_sub(self.accusations.appeared) < NEWCOMER_MS
    }

    /// Whether an accused member lives, or died only just now, and has signed nothing since this number.
    fn may_answer(&self, accused: &NodeId, claim: Rank) -> bool {
        let Some(member) = self.view.member(accused) else { return false };
        let lives = match member.state {
            MemberState::Alive | MemberState::Suspect => true,
            MemberState::Dead => self.accusations.seen_so(accused, self.steady) < LATE_MS,
            MemberState::Left | MemberState::Evicted => false,
        };
        lives && self.ledger.rank(accused) == Some(claim)
    }

    /// A member said anew whom it finds silent. One that says so all the time is judged later, by what it says then.
    pub(super) fn accuses(&mut self, accuser: &NodeId) {
        let now = self.steady;
        if self.sender(accuser).statements.take(now) {
            self.accused(accuser);
        } else {
            self.accusations.late.insert(accuser.clone());
        }
    }

    /// What is due by the time: answers, and what was said too fast.
    pub(super) fn accusations_due(&mut self) {
        if self.accusations.answer_due.is_some_and(|due| self.steady >= due) {
            self.answer();
        }
        for accuser in std::mem::take(&mut self.accusations.late) {
            self.accuses(&accuser);
        }
    }

    /// A later number of a member came: whoever named it is heard again.
    pub(super) fn claim_met(&mut self, node: &NodeId) {
        let ours = self.ledger.rank(node);
        let awaited = self.accusations.awaited.iter();
        let met = awaited.filter(|(_, claims)| claims.get(node).is_some_and(|claim| Some(*claim) <= ours));
        let met: Vec<NodeId> = met.map(|(accuser, _)| accuser.clone()).collect();
        for accuser in met {
            self.accused(&accuser);
        }
    }

    fn accused(&mut self, accuser: &NodeId) {
        let (now, own) = (self.steady, self.own.clone());
        self.accusations.awaited.remove(accuser);
        let unheard = self.detector.ignores_all(accuser, now);
        if unheard && !self.has_newcomers() {
            let claims = self.ledger.suspicions(accuser).filter(|latest| latest.node == own);
            if let Some(claim) = claims.map(|latest| (latest.generation, latest.sequence)).max() {
                self.accused_oneself(accuser, claim);
            }
            return;
        }
        let mut named = self.accused_by(accuser);
        if let Some(claim) = named.remove(&own) {
            self.accused_oneself(accuser, claim);
        }
        let (mut told, mut unanswered): (Vec<Arc<SignedRecord>>, Vec<NodeId>) = Default::default();
        for (node, claim) in &named {
            let Some(ours) = self.ledger.rank(node) else { continue };
            let ignored = unheard || self.detector.ignores(accuser, node, now);
            match claim.cmp(&ours) {
                // Also where nobody listens to it: for its own judgement.
                Ordering::Equal => {
                    self.accusations.answering.insert(node.clone(), now);
                    unanswered.push(node.clone());
                }
                Ordering::Less => {
                    self.spread_answer(node);
                    if !ignored && self.sender(accuser).told.take(now) {
                        // It has signed something since: the accuser may not know.
                        let held = self.ledger.records(node).and_then(|held| held.get(&Section::TABLE));
                        told.extend(held.cloned());
                    }
                }
                Ordering::Greater if !ignored => self.awaits(accuser, node, *claim),
                Ordering::Greater => {}
            }
        }
        let begun = self.detector.accused(accuser, &named.into_keys().collect(), &unanswered, now);
        // The accused may not hear the accuser.
        for node in unanswered.iter().filter(|node| self.links.linked().contains(*node)).cloned().collect::<Vec<_>>() {
            if begun.contains(&node) || self.sender(accuser).accusations.take(now) {
                let said: Vec<Arc<SignedRecord>> = self.ledger.accusing(accuser, &node).cloned().collect();
                for (peer, lane, bytes) in rumor::messages(&node, &said) {
                    self.send_bytes(&peer, lane, bytes);
                }
            }
        }
        for (peer, _, bytes) in rumor::messages(accuser, &told) {
            self.send_bytes(&peer, Lane::Rest, bytes);
        }
    }

    fn awaits(&mut self, accuser: &NodeId, node: &NodeId, claim: Rank) {
        let claims = self.accusations.awaited.entry(accuser.clone()).or_default();
        if claims.len() < ACCUSED {
            claims.insert(node.clone(), claim);
        }
    }

    /// The answer of an accused came before the question, and was not passed on.
    fn spread_answer(&mut self, node: &NodeId) {
        let now = self.steady;
        let lately = |at: u64| now.saturating_sub(at) < ANSWER_MS;
        let came = self.accusations.unspread.remove(node).is_some_and(lately);
        if self.carried.get(node).is_some_and(|(_, at)| lately(*at)) {
            // The carrier was faster than both. Once it is told it is passed on.
            self.accusations.answering.insert(node.clone(), now);
        }
        let held = self.ledger.records(node).and_then(|held| held.get(&Section::TABLE));
        if let Some(table) = held.filter(|_| came).cloned() {
            self.accusations.answering.insert(node.clone(), now);
            let lane = self.urgency(&table);
            self.rumor.push(table, None, Some(lane));
        }
    }

    /// A member finds this node silent. What it names and this node has not signed yet waits until then; what it has gone beyond is
    /// answered.
    fn accused_oneself(&mut self, accuser: &NodeId, claim: Rank) {
        let (now, own) = (self.steady, self.own.clone());
        let Some(ours) = self.ledger.rank(&own) else { return };
        if claim > ours {
            return self.awaits(accuser, &own, claim);
        }
        let linked = self.links.linked().contains(accuser);
        // Who does not hear this node is told directly, too: a link brings all that it says.
        if !linked && !self.detector.ignores(accuser, &own, now) {
            self.dialer.demand(accuser, now);
        }
        if claim < self.accusations.public {
            let table = self.ledger.records(&own).and_then(|held| held.get(&Section::TABLE)).cloned();
            if let Some(table) = table.filter(|_| linked && self.sender(accuser).told.take(now)) {
                self.send(accuser, Lane::Liveness, &Message::Records(vec![table.bytes().to_vec()]));
            }
            return;
        }
        // Whoever asks is answered with a signature made after the question.
        let appeared = self.accusations.appeared;
        let counted = self.sender(accuser).asked.asks(claim, appeared, now);
        // Where all are linked with all, one that has no link lacks a path, and asks as long as it does.
        let soon = counted || !linked && !self.dialer.is_sparse();
        let due = self.accusations.answered + if soon { REFUTE_MS } else { VAIN_MS };
        if now >= due {
            self.answer();
        } else {
            let earlier = self.accusations.answer_due;
            self.accusations.answer_due = Some(earlier.map_or(due, |earlier| earlier.min(due)));
        }
    }

    /// What this node has signed so far goes to everybody.
    pub(super) fn told_all(&mut self) {
        self.accusations.public = self.ledger.rank(&self.own).unwrap_or_default();
    }

    /// Signs that this node lives, for all.
    fn answer(&mut self) {
        (self.accusations.answered, self.accusations.answer_due) = (self.steady, None);
        match self.author.table() {
            Ok(table) => {
                self.offer_own(&table);
                self.told_all();
                self.broadcast(Lane::Liveness, &Message::Records(vec![table.bytes().to_vec()]));
                self.feed_soon();
            }
            Err(error) => self.out.push(Effect::Notice(Notice::Refused(error))),
        }
    }
}
