//! One member under observation. Probes that got no answer count until chance does not explain them, given how many
//! got none while it was alive.

use std::collections::VecDeque;

use rand::{Rng, rngs::StdRng};

use super::{Check, QUESTION_MS, RECONNECT_MS, Verdict};

/// Time between probes of a watched member. All that a node sends while nobody is in doubt goes out on these beats, so that it wakes once
/// for many, and so do their answers.
pub(super) const BEAT_MS: u64 = 250;
/// A probe so soon before a beat stands for the one of that beat.
const LATELY_MS: u64 = 50;
/// Silence over a link that the other end watches: its probes, four a second, have been missing for so long.
const UNWATCHED_MS: u64 = 330;
/// Silence of any other linked member after which it is probed: mostly the other end's probe comes first.
const KEEP_ALIVE_MS: u64 = 1_000;
/// Time between its probes where the other end probes all the time: they measure round trips and losses.
const MEASURE_MS: u64 = 2_000;
/// Time between probes of a member in doubt.
const DOUBT_PROBE_MS: u64 = 50;
/// A probe without an answer is late after three round trips, and not before this time.
const LATE_MS: u64 = 80;
/// The most that a round trip delays this.
const LATE_MOST_MS: u64 = 2_000;
/// A probe without an answer after this time, or twice the round trip, is worth looking at more often.
const OWED_MS: u64 = 40;
/// How long a data connection's failure counts.
const FAILURE_MS: u64 = 3_000;
/// What an accusation leaves a member to refute it.
const REFUTE_MS: u64 = 400;
/// Accusers whose word is enough about a member that this node does not watch: many watch each, and few accuse one that lives.
const ACCUSERS: usize = 3;
/// How long this node looks for itself where fewer accuse, if its dial does not fail before.
const LOOK_MS: u64 = 2_400;
/// Silence after which a member is judged dead although nobody accepts this node's accusations. Two signed tables are due in that time even
/// in a large mesh, and repair brings them.
const UNHEARD_MS: u64 = 150_000;
/// How long a member's return from the dead makes this node more patient with it.
const FLAP_MS: u64 = 60_000;
/// Returns within that time that count: each makes it half as patient again, four times at most.
const FLAPS: usize = 4;
/// A silence without a link that means death, if the check found nothing.
const DEAD_UNLINKED_MS: u64 = 800;
/// The same when this node rather doubts itself.
const DEAD_SELF_DOUBT_MS: u64 = 2_400;
/// Patience with members of whom this node only heard: a link to them may be on its way.
const UNMET_MS: u64 = 2_000;
/// How long a member of whom nobody speaks as alive is not asked in public.
const STRANGE_MS: u64 = 300;
/// Patience with them while there is nobody to ask about them.
const ALONE_MS: u64 = 5_000;
/// Time after which other relays are asked.
const RELAY_MS: u64 = 400;
/// Probes in flight that are remembered.
const PINGS: usize = 64;
/// The share of lost probes that is reckoned with at least, and at most.
const LOSS: (f64, f64) = (0.02, 0.6);
/// Natural logarithm of the chance at which lost probes no longer explain a silence: one in a hundred thousand to
/// suspect, one in a thousand million to call dead.
const SUSPECT_LN: f64 = -11.5;
const DEAD_LN: f64 = -20.7;
/// How long one that answered this node in public is not accused again although its link is silent: where a path is broken and the link
/// has not ended yet, it would be asked all the time.
const HEEDED_MS: u64 = 1_000;
/// How long a member that refuted this node is not accused for a mere missing link, doubled each time.
const CALM_MS: u64 = 10_000;
/// The longest such time.
const CALM_MOST_MS: u64 = 600_000;

pub(super) struct Peer {
    pub(super) linked: bool,
    /// This node dialled it.
    pub(super) dialled: bool,
    /// Was linked once in this run.
    pub(super) met: bool,
    pub(super) verdict: Verdict,
    /// The last sign of life over a link, or when it was first known, linked or unlinked.
    pub(super) heard: u64,
    /// The last sign of life by others: a relay's word, or a newer signature.
    pub(super) vouched: u64,
    /// Relays believed since its last own sign of life.
    pub(super) hearsay: u32,
    /// This node itself found it out of reach: its link was lost, or it could not be dialled.
    pub(super) evidence: bool,
    /// It could not be dialled since its last sign of life.
    pub(super) refused: bool,
    pub(super) failed: Option<u64>,
    pub(super) last_ping: Option<u64>,
    /// Nonces and times of probes without an answer, the oldest first.
    pub(super) pings: VecDeque<(u64, u64)>,
    /// Smoothed, in microseconds.
    rtt: Option<u64>,
    /// The share of probes that got no answer while it was alive.
    loss: f64,
    /// Few are in doubt at a time.
    pub(super) check: Option<Box<Check>>,
    /// Until then its probes are not missed: it has just answered in public.
    heeded_until: u64,
    /// Until then it is not accused for want of a link.
    pub(super) calm_until: u64,
    calm: u64,
    /// When this node last looked at it because others judge otherwise, or because a data connection failed; 0 is never.
    pub(super) questioned: u64,
    /// When it came back from the dead, [`FLAPS`] times at most.
    revived: VecDeque<u64>,
}

/// What an end of a link does at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It probes all the time.
    Probes,
    /// The other end does, and this one notices when the probes are missing.
    Awaits,
    /// Now and then one of both probes.
    Idle,
}

/// What holds for all members at a tick.
pub(super) struct Setting {
    /// Most members have no link with this node.
    pub(super) sparse: bool,
    /// Nobody is linked.
    pub(super) alone: bool,
    /// Most are silent.
    pub(super) doubts_itself: bool,
    /// How slow this process lately was.
    pub(super) health: u32,
    /// The share of probes that got no answer, over all links: what others say gets lost as often.
    pub(super) loss: f64,
    /// When in each [`BEAT_MS`] this node's beat is.
    pub(super) phase: u64,
}

impl Setting {
    /// This node's first beat at this time or after it.
    fn beat(&self, time: u64) -> u64 {
        time.saturating_sub(self.phase).div_ceil(BEAT_MS) * BEAT_MS + self.phase
    }

    fn widened(&self, milliseconds: u64) -> u64 {
        milliseconds + milliseconds * u64::from(self.health) / 2
    }

    /// What a question and its answer over several links may take where messages get lost.
    fn patient(&self, milliseconds: u64) -> u64 {
        let permille = (0_u32..1_000).find(|permille| f64::from(*permille) >= self.loss * 1_000.0).unwrap_or(1_000);
        milliseconds + milliseconds * u64::from(permille) / 200
    }
}

/// Whether what this node says in public of a member is passed on, so that it may answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Heard {
    Always,
    /// It was wrong about this one too often: now and then.
    Seldom {
        /// It has not asked so lately.
        may_ask: bool,
    },
    /// It was wrong about too many.
    Never,
}

#[derive(Default)]
pub(super) struct Judged {
    /// Tell everyone.
    pub(super) announce: bool,
    /// There is a reason to tell everyone, and it is too soon.
    pub(super) waits: bool,
    /// Dial it, to see for oneself.
    pub(super) look: bool,
    pub(super) verdict: Option<Verdict>,
}

impl Peer {
    pub(super) fn new(now: u64, verdict: Verdict) -> Peer {
        let (linked, dialled, met, vouched, hearsay, evidence, refused, failed, last_ping) = Default::default();
        let (pings, rtt, check, revived) = (VecDeque::new(), None, None, VecDeque::new());
        let (loss, calm_until, calm) = (0.0, 0, CALM_MS);
        Peer {
            linked,
            dialled,
            met,
            verdict,
            heard: now,
            vouched,
            hearsay,
            evidence,
            refused,
            failed,
            last_ping,
            pings,
            rtt,
            loss,
            check,
            heeded_until: 0,
            calm_until,
            calm,
            questioned: 0,
            revived,
        }
    }

    /// The share of probes that got no answer while it was alive.
    pub(super) fn loss(&self) -> f64 {
        self.loss
    }

    /// Smoothed round trip in microseconds, and that share.
    pub(super) fn path(&self) -> Option<(u64, f64)> {
        Some((self.rtt?, self.loss))
    }

    /// An answer: those before it that got none are lost.
    pub(super) fn acked(&mut self, nonce: u64, now: u64) {
        let Some(place) = self.pings.iter().position(|(known, _)| *known == nonce) else { return };
        let (wait, mut took) = (self.wait(), 0);
        for (_, sent) in self.pings.drain(..=place) {
            took = now.saturating_sub(sent);
            self.loss += (f64::from(u8::from(took >= wait)) - self.loss) / 16.0;
        }
        // One answer that is late says little of the path; if all are, it has become longer.
        let most = self.rtt.map_or(LATE_MOST_MS * 1_000, |rtt| (rtt * 2).max(LATE_MS * 1_000));
        let sample = (took * 1_000).min(most);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// How long an answer may take, in milliseconds.
    fn wait(&self) -> u64 {
        self.rtt.map_or(LATE_MS, |rtt| (rtt * 3 / 1_000).clamp(LATE_MS, LATE_MOST_MS))
    }

    pub(super) fn failed(&mut self, now: u64) {
        if self.failed.is_none_or(|failed| now.saturating_sub(failed) >= BEAT_MS) {
            self.failed = Some(now);
            self.last_ping = None;
        }
    }

    /// Whether this node looked at it lately.
    pub(super) fn was_questioned(&self, now: u64) -> bool {
        self.questioned != 0 && now < self.questioned + QUESTION_MS
    }

    /// It answered an accusation; who has no link leaves it in peace for longer each time.
    pub(super) fn refuted(&mut self, now: u64) {
        let asked = self.check.as_ref().is_some_and(|check| check.announced.is_some());
        if asked {
            self.heeded_until = now + HEEDED_MS;
        }
        if self.evidence && asked {
            self.calm_until = now + self.calm;
            self.calm = (self.calm * 2).min(CALM_MOST_MS);
        }
        (self.evidence, self.refused) = (false, false);
    }

    /// It was dead and is not: one that does so all the time is given more time.
    pub(super) fn revived(&mut self, now: u64) {
        if self.revived.len() >= FLAPS {
            self.revived.pop_front();
        }
        self.revived.push_back(now);
    }

    /// A time, or a number of probes, that this node leaves the member, longer if it came back from the dead lately.
    fn damped(&self, measure: u64, now: u64) -> u64 {
        let lately = self.revived.iter().filter(|at| now.saturating_sub(**at) < FLAP_MS);
        lately.fold(measure, |measure, _| measure + measure / 2).min(measure * 4)
    }

    /// This node itself has a reason to look.
    pub(super) fn doubt(&mut self, now: u64) {
        let check = self.check.get_or_insert_with(|| Box::new(Check::own(now)));
        if !check.first_hand {
            (check.first_hand, check.since) = (true, now);
        }
    }

    /// Whether it has one already.
    pub(super) fn is_doubted(&self) -> bool {
        self.check.as_ref().is_some_and(|check| check.first_hand)
    }

    /// Whether this node looks for itself because others accuse it: what it finds is an answer to them, and needs no question.
    pub(super) fn is_looked_at(&self) -> bool {
        self.check.as_ref().is_some_and(|check| check.looked.is_some())
    }

    pub(super) fn probe(&mut self, end: End, setting: &Setting, random: &mut StdRng, now: u64) -> Option<u64> {
        let waits = self.pings.back().is_some_and(|(_, sent)| *sent >= self.heard);
        let missed = end == End::Awaits && now.saturating_sub(self.heard) >= UNWATCHED_MS;
        let doubted = self.check.is_some() || self.failed_lately(now) || self.late(setting.health, now) > 0;
        let due = |last: u64| match (doubted, end == End::Probes || waits || missed) {
            (true, _) => last + DOUBT_PROBE_MS,
            (false, true) => setting.beat(last + LATELY_MS),
            // The beat that is nearest.
            (false, false) => setting.beat((last + MEASURE_MS).min(last.max(self.heard) + KEEP_ALIVE_MS) - BEAT_MS / 2),
        };
        if !self.linked || self.last_ping.is_some_and(|last| now < due(last)) {
            return None;
        }
        let nonce = random.random();
        if self.pings.len() >= PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back((nonce, now));
        self.last_ping = Some(now);
        Some(nonce)
    }

    /// Whether an answer of it is overdue, though not late.
    pub(super) fn owes(&self, now: u64) -> bool {
        let wait = self.rtt.map_or(OWED_MS, |rtt| (rtt * 2 / 1_000).clamp(OWED_MS, LATE_MOST_MS));
        self.linked && self.pings.iter().any(|(_, sent)| *sent >= self.heard && now >= sent + wait)
    }

    /// Probes since its last sign of life that are late.
    fn late(&self, health: u32, now: u64) -> usize {
        let wait = self.wait() + self.wait() * u64::from(health) / 2;
        self.pings
            .iter()
            .rev()
            .take_while(|(_, sent)| *sent >= self.heard)
            .filter(|(_, sent)| now >= sent + wait)
            .count()
    }

    /// Late probes that chance explains no better than this.
    fn needed(&self, chance_ln: f64, now: u64) -> usize {
        let count = (chance_ln / self.loss.clamp(LOSS.0, LOSS.1).ln()).ceil();
        let count = (1..PINGS).find(|number| *number as f64 >= count).unwrap_or(PINGS);
        usize::try_from(self.damped(count as u64, now)).map_or(PINGS, |count| count.min(PINGS))
    }

    pub(super) fn is_late(&self, now: u64) -> bool {
        self.unexplained(self.late(0, now), SUSPECT_LN, now)
    }

    /// Whether so many late probes are more than chance explains.
    fn unexplained(&self, late: usize, chance_ln: f64, now: u64) -> bool {
        late > 0 && late >= self.needed(chance_ln, now)
    }

    fn silence(&self, now: u64) -> u64 {
        now.saturating_sub(self.heard.max(self.vouched))
    }

    fn failed_lately(&self, now: u64) -> bool {
        self.failed.is_some_and(|failed| now.saturating_sub(failed) <= FAILURE_MS)
    }

    pub(super) fn suspicious(&self, setting: &Setting, now: u64) -> bool {
        if now < self.heeded_until {
            return false;
        }
        let over_relays = !setting.sparse && !self.linked && self.silence(now) >= KEEP_ALIVE_MS;
        self.verdict != Verdict::Dead
            && (over_relays || self.linked && self.unexplained(self.late(setting.health, now), SUSPECT_LN, now))
    }

    /// Whether relays are to be asked now; forgets those asked before.
    pub(super) fn asks(&mut self, setting: &Setting, now: u64) -> bool {
        let first_hand = !setting.sparse || self.linked || self.evidence;
        let Some(check) = &mut self.check else { return false };
        if !first_hand || check.asked != 0 && now.saturating_sub(check.asked) < RELAY_MS {
            return false;
        }
        check.asked = now.max(1);
        check.waiting.clear();
        true
    }

    /// How long it may be silent without a link before it is dead.
    fn patience(&self, setting: &Setting, now: u64) -> u64 {
        if !self.met && self.vouched == 0 && !self.failed_lately(now) {
            return if setting.alone { ALONE_MS } else { UNMET_MS };
        }
        if setting.doubts_itself { DEAD_SELF_DOUBT_MS } else { DEAD_UNLINKED_MS }
    }

    /// Where this node is not heard, that the member does not answer tells nothing; where it seldom is, not at once.
    pub(super) fn judge(&mut self, setting: &Setting, heard: Heard, now: u64) -> Judged {
        let mut judged = Judged::default();
        if self.check.is_none() {
            return judged;
        }
        let (silence, patience) = (self.silence(now), setting.widened(self.patience(setting, now)));
        let late = self.late(setting.health, now);
        let (linked, evidence) = (self.linked, self.evidence || !setting.sparse);
        let (suspect, dead) = (self.unexplained(late, SUSPECT_LN, now), self.unexplained(late, DEAD_LN, now));
        let refute = setting.patient(setting.widened(self.damped(REFUTE_MS, now)));
        let refute = if setting.doubts_itself { DEAD_SELF_DOUBT_MS.max(refute) } else { refute };
        let look = setting.patient(setting.widened(self.damped(LOOK_MS, now)));
        let unmet = !self.met && self.vouched == 0 && !self.evidence;
        let Some(check) = &mut self.check else { return judged };
        let checked = now.saturating_sub(check.since);
        // Of whom nobody speaks as alive is asked itself.
        let strange = setting.sparse && unmet && !setting.alone && checked >= STRANGE_MS;
        let may_ask = match heard {
            Heard::Always => true,
            Heard::Seldom { may_ask } => may_ask || check.announced.is_some(),
            Heard::Never => false,
        };
        let reason = if linked { suspect } else { strange || evidence && checked >= RECONNECT_MS };
        judged.waits = reason && check.first_hand && matches!(heard, Heard::Seldom { .. }) && !may_ask;
        let own = may_ask && reason;
        if own && check.first_hand && check.announced.is_none() {
            check.announced = Some(now);
            judged.announce = true;
        }
        if own && self.verdict == Verdict::Alive {
            self.verdict = Verdict::Suspect;
            judged.verdict = Some(Verdict::Suspect);
        }
        let unrefuted = check.told().is_some_and(|told| now.saturating_sub(told) >= refute);
        // Relays were asked all the while, and the question may have been passed on.
        let asked = check.announced.is_some_and(|asked| now.saturating_sub(asked) >= look);
        let in_vain = unrefuted && check.others() >= ACCUSERS || silence >= UNHEARD_MS;
        let is_dead = match (linked, setting.sparse) {
            _ if matches!(heard, Heard::Never) && !setting.alone => in_vain,
            _ if matches!(heard, Heard::Seldom { .. }) && !setting.alone => {
                // A link's end alone is as well a mere reconnection: a dial tells.
                if asked && !linked && !self.refused && check.looked.is_none() {
                    check.looked = Some(now);
                    judged.look = true;
                }
                in_vain || asked && if linked { dead } else { self.refused }
            }
            (true, _) => unrefuted && dead,
            (false, false) => unrefuted && silence >= patience,
            (false, true) if setting.alone => silence >= patience,
            (false, true) if self.evidence || check.is_weighty(ACCUSERS) => unrefuted,
            // Few say so, and it may not have heard them.
            (false, true) if unrefuted => {
                judged.look = check.looked.is_none();
                now.saturating_sub(*check.looked.get_or_insert(now)) >= LOOK_MS
            }
            (false, true) => false,
        };
        if is_dead {
            self.verdict = Verdict::Dead;
            self.check = None;
            judged.verdict = Some(Verdict::Dead);
        }
        judged
    }
}
