//! What peers say. A link's peer is verified; what it says is not.

use std::{collections::BTreeSet, sync::Arc};

use certs::id::NodeId;

use super::{
    DIFFERED_MS, Effect, Engine, Lane, LinkId, Notice, PERSIST_MS,
    sender::{Origin, Sender},
};
use crate::{
    body::Checked as _,
    detector::Look,
    gossip::Outgoing,
    ledger::{Offered, Quarantine},
    message::{Latest, Message},
    record::{Section, SignedRecord},
    rumor,
    statement::SUSPICIONS,
    view::MemberState,
};

/// An identity is so many of them: its certificates are checked, too.
const IDENTITY_RECORDS: u64 = 4;
/// Time between summaries to one peer, in milliseconds.
const SUMMARY_MS: u64 = 1_000;
/// Time between notices about one peer.
const NOTICE_MS: u64 = 60_000;
/// Members that this node looks at because one summary judges otherwise of them.
const LOOKS: usize = 16;
/// Members that it asks in public because the first summary over a link calls them alive: it may have been cut off from all.
const FIRST_LOOKS: usize = SUSPICIONS;
/// Entries of a summary or a pull that are read.
const ENTRIES: usize = 2_048;
/// A number of a member's records.
type Rank = (u64, u64);

/// Bytes of records that one pull is answered.
const PULL_BYTES: usize = 1 << 20;

/// How a record came.
#[derive(Debug, Clone, Copy)]
struct Heard {
    /// As something fresh, not to show what somebody knew when it accused its author.
    told: bool,
    /// As a word of one who only follows policy.
    follows: bool,
}

/// A quarantine as it travels: the accused's identity, for who does not know it, and the proof.
pub(super) fn proof(quarantine: &Quarantine) -> [Message; 2] {
    let Quarantine { identity, proof: (one, other), .. } = quarantine;
    let identity = Message::Records(vec![identity.bytes().to_vec()]);
    [identity, Message::Proof(one.bytes().to_vec(), other.bytes().to_vec())]
}

/// Numbers that accusations name which came in the same message: a table of such a number is what the accuser knew.
fn claimed(records: &[Arc<SignedRecord>]) -> BTreeSet<(NodeId, (u64, u64))> {
    if !records.iter().any(|record| record.section() == Section::TABLE) {
        return BTreeSet::new();
    }
    let statements = records.iter().filter(|record| record.section().base() == Section::SUSPICIONS);
    let read = statements.filter_map(|record| Vec::<Latest>::read(record.body()).ok());
    read.flatten().map(|latest| (latest.node, (latest.generation, latest.sequence))).collect()
}

impl Engine {
    pub(super) fn receive(&mut self, from: &NodeId, link: LinkId, bytes: &[u8]) {
        if !self.links.linked().contains(from) {
            return;
        }
        self.links.heard(from, link, self.steady);
        let orders = self.detector.heard(from, self.steady);
        self.obey(orders);
        // Reading costs more than sending.
        let now = self.steady;
        if !self.sender(from).reads(bytes.len(), now) {
            return self.misbehaved(from, "says more than is read");
        }
        match Message::decode(bytes) {
            Ok(Some(message)) => self.message(from, link, message),
            Ok(None) => {}
            Err(_) => self.misbehaved(from, "sent what is no message"),
        }
    }

    fn message(&mut self, from: &NodeId, link: LinkId, message: Message) {
        match message {
            Message::Records(records) => self.records(from, &records),
            Message::Summary(entries) => self.summary(from, entries),
            Message::Pull(wants) => self.pulled(from, &wants),
            Message::Ping(nonce) => self.send(from, Lane::Liveness, &Message::Ack(nonce)),
            Message::Ack(nonce) => {
                let orders = self.detector.acked(from, nonce, self.steady);
                self.obey(orders);
            }
            Message::Probe { nonce, target } => {
                let orders = self.detector.asked(from, &target, nonce, self.steady);
                self.obey(orders);
            }
            Message::Probed { target, reached, .. } => {
                let orders = self.detector.answered(from, &target, reached, self.steady);
                self.obey(orders);
            }
            Message::Have(entries) => self.announced(from, entries),
            Message::Parting => self.links.parting(from, link),
            Message::Carrier(bytes) => {
                let now = self.steady;
                if self.sender(from).payloads.take(now) {
                    self.out.push(Effect::Deliver { from: from.clone(), bytes });
                }
            }
            Message::Proof(one, other) => self.proved(from, &one, &other),
        }
    }

    fn records(&mut self, from: &NodeId, records: &[Vec<u8>]) {
        let decoded: Result<Vec<_>, _> = records.iter().map(|bytes| self.ledger.read(bytes)).collect();
        let Ok(mut records) = decoded else {
            return self.misbehaved(from, "sent what is no record");
        };
        records.sort_by_key(|record| (record.section() != Section::IDENTITY, record.section() != Section::TABLE));
        let (claimed, followers) = (claimed(&records), self.followers(&records));
        let mut touched = BTreeSet::new();
        for record in records {
            let now = self.steady;
            let cost = if record.section() == Section::IDENTITY { IDENTITY_RECORDS } else { 1 };
            if self.ledger.news(&record) && self.sender(from).records.take_many(cost, now) {
                if !record.section().is_of_the_moment() {
                    touched.insert(record.node().clone());
                }
                let told = !claimed.contains(&(record.node().clone(), record.rank()));
                let follows = followers.contains(record.node());
                self.take_record(&record, Some(from), Heard { told, follows });
            } else if *record.node() == self.own {
                // No news of itself, but maybe of what its disk has lost.
                if self.says_more(&record).is_some() && self.sender(from).records.take(now) {
                    self.remember(&record);
                }
            } else if !claimed.contains(&(record.node().clone(), record.rank())) {
                self.told_again(record.node(), record.rank(), from);
            }
        }
        self.after_records(&touched, Some(from));
    }

    /// What `from` brought, or the carrier.
    fn take_record(&mut self, record: &Arc<SignedRecord>, from: Option<&NodeId>, heard: Heard) {
        let Heard { told, follows } = heard;
        let node = record.node();
        if *node == self.own {
            return self.own_record(record);
        }
        let latest = self.ledger.rank(node);
        // Announced as fresh before, whoever was faster than those who did.
        let told = told || self.fetch.expects(node, record.rank());
        // What was not asked for is told because it is fresh.
        if told && !self.fetch.wants(node) && self.is_granted(node) {
            self.spoken(node, record.rank());
        }
        let now = self.now();
        let origin = self.origins.entry(node.clone()).or_insert_with(|| Origin::new(now.steady));
        match self.ledger.offer(record, &mut origin.records, now) {
            Offered::Fresh => {
                // Where two machines run as one node, each over links of its own, the earlier one hears of the later one.
                if latest.is_some_and(|(generation, _)| generation < record.generation()) {
                    let bytes: Arc<[u8]> = Message::Records(vec![record.bytes().to_vec()]).encode().into();
                    for link in self.links.all(node) {
                        let (to, bytes) = (node.clone(), bytes.clone());
                        self.out.push(Effect::Send { to, link, lane: Lane::Rest, bytes });
                    }
                }
                // What the carrier brought, the carrier spreads, and what is news to nobody but the author's own peers.
                if follows && !record.section().is_of_the_moment() {
                    if record.section() == Section::TABLE {
                        self.sign_of_life(record, from);
                    }
                } else if from.is_some() {
                    let lane = self.urgency(record);
                    self.rumor.push(record.clone(), from.cloned(), Some(lane));
                }
                if latest < Some(record.rank()) {
                    self.signed(node, record.rank(), told);
                }
                if latest.is_none() {
                    self.persist_by(self.steady + PERSIST_MS);
                } else if record.section() != Section::TABLE && record.section().is_stored() {
                    self.persist_soon();
                }
                self.feed_soon();
            }
            Offered::Again => {
                if from.is_some() || told {
                    self.sign_of_life(record, from);
                }
                self.signed(node, record.rank(), told);
                self.feed_soon();
            }
            Offered::OfTheMoment => {
                let base = record.section().base();
                self.heard.insert((node.clone(), base));
                let worth = base != Section::SUSPICIONS || self.worth_telling(record) && self.is_urgent(record);
                if from.is_some() && worth {
                    let beside = self.beside(record);
                    self.rumor.push_with(record.clone(), beside, from.cloned(), None);
                }
            }
            Offered::NoIdentity => self.fetch.want(node, from, self.steady),
            Offered::Equivocation => self.quarantined(node),
            Offered::Refused(_) => {
                if let Some(from) = from {
                    self.misbehaved(from, "sent a record that does not hold");
                }
            }
            Offered::Unknown => {
                self.origins.remove(node);
            }
            Offered::Known | Offered::Waiting | Offered::Limited => {}
        }
    }

    /// A member signed something newer; `told` by a peer, who tells or announces what is fresh, or brought by the carrier. Where an
    /// accusation goes round, only what is told answers it: what the carrier brings may have been signed before.
    fn signed(&mut self, node: &NodeId, rank: Rank, told: bool) {
        if told {
            self.carried.remove(node);
        } else {
            self.carried.insert(node.clone(), (rank, self.steady));
            if self.dialer.is_sparse() && self.detector.is_accused(node) {
                return;
            }
        }
        if self.view.member(node).is_some_and(|member| member.generation < rank.0) {
            self.detector.reran(node);
        }
        let orders = self.detector.vouched(node, told, self.steady);
        self.obey(orders);
    }

    /// A peer tells or announces what is held already. If the carrier was faster it is news nevertheless: of an accused member it is the
    /// answer, for others who wait for it, too.
    fn told_again(&mut self, node: &NodeId, rank: Rank, from: &NodeId) {
        if self.carried.get(node).is_none_or(|(carried, _)| *carried != rank) {
            return;
        }
        let held = self.ledger.records(node).and_then(|held| held.get(&Section::TABLE));
        if let Some(table) = held.filter(|table| table.rank() == rank).cloned() {
            self.sign_of_life(&table, Some(from));
        }
        self.signed(node, rank, true);
    }

    fn is_granted(&self, node: &NodeId) -> bool {
        self.ledger.authority().grants.contains_key(node)
    }

    /// A peer speaks of a member as alive, or has news of it, up to this number.
    fn spoken(&mut self, node: &NodeId, rank: (u64, u64)) {
        // Who claims more than is held takes nothing from the word of one who does not.
        if self.ledger.rank(node) >= Some(rank) || !self.is_spoken_of(node) {
            self.spoken.insert(node.clone(), (rank, self.steady));
        }
    }

    /// Whether a peer spoke so of a member, and what it spoke of is held: who claims more than it can show is not believed.
    fn is_spoken_of(&self, node: &NodeId) -> bool {
        self.spoken.get(node).is_some_and(|(claimed, _)| self.ledger.rank(node) >= Some(*claimed))
    }

    fn after_records(&mut self, touched: &BTreeSet<NodeId>, from: Option<&NodeId>) {
        for node in touched {
            if *node == self.own {
                continue;
            }
            self.refresh(node);
            self.claim_met(node);
            if self.ledger.key(node).is_none() {
                continue;
            }
            if self.is_spoken_of(node) {
                let orders = self.detector.spoken(node, self.steady);
                self.obey(orders);
            }
            if self.ledger.lacking(node).is_empty() {
                self.fetch.have(node, from);
            } else {
                self.fetch.want(node, from, self.steady);
            }
        }
        while let Some((node, base)) = self.heard.pop_first() {
            if base == Section::SUSPICIONS {
                self.accuses(&node);
            }
            self.tell_statement(&node, base);
        }
    }

    fn quarantined(&mut self, node: &NodeId) {
        self.out.push(Effect::Notice(Notice::Equivocation { node: node.clone() }));
        self.follow_quarantine();
        let messages: Vec<Message> =
            self.ledger.proofs().filter(|quarantine| quarantine.identity.node() == node).flat_map(proof).collect();
        for message in &messages {
            self.broadcast(Lane::Liveness, message);
        }
        self.refresh(node);
        self.expel(node);
        self.persist_by(self.steady);
    }

    fn proved(&mut self, from: &NodeId, one: &[u8], other: &[u8]) {
        let (Ok(one), Ok(other)) = (self.ledger.read(one), self.ledger.read(other)) else {
            return self.misbehaved(from, "sent a proof that is none");
        };
        let now = self.steady;
        let node = one.node().clone();
        let found = (one, other);
        if node != self.own && self.sender(from).records.take(now) && self.ledger.prove(&found) {
            self.quarantined(&node);
        }
    }

    /// What came to a peer just now and should come here by itself.
    fn announced(&mut self, from: &NodeId, entries: Vec<Latest>) {
        let now = self.steady;
        if !self.sender(from).announced.take_many(entries.len().min(ENTRIES) as u64, now) {
            return;
        }
        for entry in entries.into_iter().take(ENTRIES) {
            let theirs = (entry.generation, entry.sequence);
            if !self.is_granted(&entry.node) || entry.node == self.own {
                continue;
            }
            let is_later = self.ledger.rank(&entry.node) < Some(theirs);
            if is_later {
                self.spoken(&entry.node, theirs);
            } else {
                self.told_again(&entry.node, theirs, from);
            }
            // A later table may have come without what it lists.
            if is_later || self.fetch.wants(&entry.node) {
                let urgent = self.detector.is_accused(&entry.node);
                self.fetch.expect(&entry, from, urgent, self.steady);
            }
        }
    }

    fn summary(&mut self, from: &NodeId, entries: Vec<(Latest, bool)>) {
        let now = self.steady;
        if !self.sender(from).summaries.take(now) {
            return;
        }
        let most = if std::mem::replace(&mut self.sender(from).summarised, true) { LOOKS } else { FIRST_LOOKS };
        let (mut told, mut looks) = (BTreeSet::new(), 0);
        for (entry, alive) in entries.into_iter().take(ENTRIES) {
            let theirs = Some((entry.generation, entry.sequence));
            let ours = self.ledger.rank(&entry.node);
            if self.dialer.is_sparse() && entry.node != self.own {
                self.hearsay(&entry, alive);
                let most = if alive { most } else { LOOKS };
                looks += usize::from(looks < most && self.looks(&entry, alive));
            }
            if ours <= theirs {
                told.insert(entry.node.clone());
            }
            let copied = entry.node == self.own && theirs > Some(self.author.rank());
            if copied || self.is_granted(&entry.node) && entry.node != self.own && ours < theirs {
                self.fetch.claimed(&entry.node, from, self.steady);
            }
        }
        if self.ledger.nodes().any(|node| !told.contains(node) && node != from) {
            self.summarise(from, false);
        }
    }

    /// A peer calls a member alive: what is held of it here, too, makes that count, now or once it comes.
    fn hearsay(&mut self, theirs: &Latest, alive: bool) {
        let node = &theirs.node;
        if alive && self.is_granted(node) {
            self.spoken(node, (theirs.generation, theirs.sequence));
            if self.is_spoken_of(node) {
                let orders = self.detector.spoken(node, self.steady);
                self.obey(orders);
            }
        }
    }

    /// A peer's judgement beside one's own: where they differ, the member itself is asked, or dialled. True if so.
    fn looks(&mut self, theirs: &Latest, alive: bool) -> bool {
        let (now, node) = (self.steady, &theirs.node);
        // Who knows less than this node judges by less.
        if self.ledger.rank(node) != Some((theirs.generation, theirs.sequence)) {
            return false;
        }
        match self.detector.differs(node, alive, now) {
            Some(Look::Ask) => self.suspicions_due = Some(now),
            Some(Look::Dial) => self.dialer.demand(node, now),
            None => return false,
        }
        true
    }

    /// Tells a peer what is held, so that it can ask for what it lacks, or tell what this node lacks. What comes too
    /// soon after the last one is `owed`, or left out: answers to answers would never end.
    pub(super) fn summarise(&mut self, to: &NodeId, owed: bool) {
        let now = self.steady;
        let sender = self.sender(to);
        if now < sender.summary_due {
            if owed {
                self.owed.insert(to.clone());
            }
            return;
        }
        sender.summary_due = now + SUMMARY_MS;
        let alive = |node: &NodeId| self.view.member(node).is_some_and(|member| member.state == MemberState::Alive);
        let entries = self.ledger.nodes().filter_map(|node| Some((self.ledger.latest(node)?, alive(node)))).collect();
        self.send(to, Lane::Rest, &Message::Summary(entries));
    }

    pub(super) fn owed_summaries(&mut self) {
        for peer in std::mem::take(&mut self.owed) {
            if self.links.linked().contains(&peer) {
                self.summarise(&peer, true);
            }
        }
    }

    fn pulled(&mut self, from: &NodeId, wants: &[(NodeId, Vec<Section>)]) {
        let now = self.steady;
        if !self.sender(from).pulls.take(now) {
            return;
        }
        let (mut records, mut size, mut named) = (Vec::new(), 0, BTreeSet::new());
        for (node, sections) in wants.iter().take(ENTRIES).filter(|(node, _)| named.insert(node)) {
            // A table without what it lists, or the reverse, would be asked for again.
            let asked =
                |section: Section| sections.is_empty() || section == Section::TABLE || sections.contains(&section);
            let held = self.ledger.records(node).into_iter().flat_map(|held| held.iter());
            let lasting = held.filter(|(section, _)| asked(**section)).map(|(_, record)| record);
            // An accusation of which the accused has long known asks for nothing.
            let momentary = self.ledger.momentary(node).filter(|_| sections.is_empty());
            let momentary = momentary.filter(|record| record.section().base() != Section::SUSPICIONS);
            for record in lasting.chain(momentary) {
                size += record.bytes().len();
                if size <= PULL_BYTES {
                    records.push(record.clone());
                }
            }
        }
        let size: usize = records.iter().map(|record| record.bytes().len()).sum();
        if !self.sender(from).pulled.take_many(size as u64, now) {
            return;
        }
        for (peer, lane, bytes) in rumor::messages(from, &records) {
            self.send_bytes(&peer, lane.max(Lane::Services), bytes);
        }
    }

    pub(super) fn gossip(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Send { to, bytes } => self.send(&to, Lane::Rest, &Message::Carrier(bytes)),
            Outgoing::Learned(records) => {
                let news: Vec<_> = records.iter().filter(|record| self.ledger.news(record)).collect();
                let touched = news.iter().map(|record| record.node().clone()).collect();
                for record in news {
                    self.take_record(record, None, Heard { told: false, follows: false });
                }
                self.after_records(&touched, None);
            }
            Outgoing::Unknown { from } => self.summarise(&from, false),
            Outgoing::Differs { from, node } => {
                let now = self.steady;
                let lately = self.differed.get(&node).is_some_and(|at| now < at + DIFFERED_MS);
                if !lately && node != self.own {
                    self.differed.insert(node.clone(), now);
                    self.fetch.want(&node, Some(&from), now);
                }
            }
            Outgoing::Hostile { from, what } => self.misbehaved(&from, what),
        }
    }

    fn misbehaved(&mut self, node: &NodeId, what: &'static str) {
        let now = self.steady;
        let sender = self.sender(node);
        if now >= sender.notice_due {
            sender.notice_due = now + NOTICE_MS;
            self.out.push(Effect::Notice(Notice::Misbehaved { node: node.clone(), what }));
        }
    }

    pub(super) fn sender(&mut self, node: &NodeId) -> &mut Sender {
        let now = self.steady;
        self.senders.entry(node.clone()).or_insert_with(|| Sender::new(now))
    }
}
