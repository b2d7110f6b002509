//! How much of the audit chain refusals get. The chain is kept for ever, so whoever errs or lies without end must not make it grow
//! without one: what finds no room is counted, and an entry an hour says how much that was, and whose.

use std::collections::BTreeMap;

use certs::sign::Digest;

use crate::{agent::store::Judgement, clock::Uptime};

/// Refusals that one minute adds.
pub(super) const A_MINUTE: usize = 60;
/// Refusals that one day adds.
pub(super) const A_DAY: usize = 256;
/// Of these what one source has, so that others' are still told one by one.
pub(super) const A_DAY_EACH: usize = 64;
/// Sources that are told apart.
const SOURCES: usize = 1_024;
/// Sources that an entry names.
const NAMED: usize = 4;
/// Who stands for all that are not told apart.
const OTHERS: &str = "others";

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Which minute, and what it has added.
    minute: (u64, usize),
    /// Which day, and what it has added by source.
    day: (u64, BTreeMap<String, usize>),
    /// What found no room since the last entry about that, by source.
    untold: BTreeMap<String, u64>,
    /// When the first of these came.
    since: Option<Uptime>,
}

impl Refusals {
    /// Which of these go into the chain; the others are counted.
    pub(super) fn admit(&mut self, judgements: Vec<Judgement>, now: Uptime) -> Vec<Judgement> {
        if self.minute.0 != now.0 / MINUTE {
            self.minute = (now.0 / MINUTE, 0);
        }
        if self.day.0 != now.0 / DAY {
            self.day = (now.0 / DAY, BTreeMap::new());
        }
        let mut admitted = Vec::new();
        let mut today: usize = self.day.1.values().sum();
        for judgement in judgements {
            let own = self.day.1.get(&judgement.from).copied().unwrap_or_default();
            if self.minute.1 < A_MINUTE && today < A_DAY && own < A_DAY_EACH {
                self.minute.1 += 1;
                today += 1;
                *self.day.1.entry(judgement.from.clone()).or_default() += 1;
                admitted.push(judgement);
                continue;
            }
            let is_known = self.untold.contains_key(&judgement.from) || self.untold.len() < SOURCES;
            let source = if is_known { judgement.from } else { OTHERS.to_owned() };
            *self.untold.entry(source).or_default() += 1;
            self.since.get_or_insert(now);
        }
        admitted
    }

    /// The entry about what found no room, once an hour.
    pub(super) fn summary(&mut self, now: Uptime, at: u64) -> Option<Judgement> {
        self.since.take_if(|since| now.0.saturating_sub(since.0) >= HOUR)?;
        let untold = std::mem::take(&mut self.untold);
        let (all, sources): (u64, usize) = (untold.values().sum(), untold.len());
        let mut most: Vec<(String, u64)> = untold.into_iter().collect();
        most.sort_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        let named: Vec<String> = most.iter().take(NAMED).map(|(from, count)| format!("{count} from {from}")).collect();
        let more = if sources > NAMED { format!(", and of {} more", sources - NAMED) } else { String::new() };
        let what = format!("refusals_counted: {all} refusals that are not told one by one: {}{more}", named.join(", "));
        let from = most.into_iter().next()?.0;
        Some(Judgement { at, subject: Digest::of(what.as_bytes()), from, refused: Some(what) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(from: &str, count: usize) -> Vec<Judgement> {
        let refused = Some("bad_signature: x".to_owned());
        let one = Judgement { at: 1, subject: Digest::of(b"x"), from: from.to_owned(), refused };
        vec![one; count]
    }

    #[test]
    fn a_day_adds_so_much_and_what_finds_no_room_is_counted() {
        let mut refusals = Refusals::default();
        let mut added = 0;
        // Ten days of rubbish without end, from one and from very many.
        for minute in 0..10 * DAY / MINUTE {
            let now = Uptime(minute * MINUTE);
            added += refusals.admit(refused("mallory", 100), now).len();
            added += refusals.admit(refused(&format!("m{}", minute % 5_000), 10), now).len();
            added += refusals.summary(now, minute).iter().count();
            assert!(refusals.untold.len() <= SOURCES + 1);
        }
        let most = 10 * (A_DAY + 24);
        assert!((10 * A_DAY..=most).contains(&added), "{added}, {most} at most");
    }

    #[test]
    fn one_source_leaves_room_for_others_and_an_entry_says_what_it_sent() {
        let mut refusals = Refusals::default();
        for minute in 0..10 {
            refusals.admit(refused("mallory", 1_000), Uptime(minute * MINUTE));
        }
        assert_eq!(refusals.admit(refused("push", 1), Uptime(10 * MINUTE)).len(), 1, "an operator's own is told");
        assert_eq!(refusals.summary(Uptime(HOUR - 1), 7), None);
        let told = refusals.summary(Uptime(HOUR), 7).unwrap();
        assert_eq!((told.at, &*told.from), (7, "mallory"));
        let what = told.refused.unwrap();
        assert!(what.contains("9936 refusals") && what.contains("9936 from mallory"), "{what}");
        assert_eq!(refusals.summary(Uptime(9 * HOUR), 7), None, "once");
        assert_eq!(refusals.admit(refused("mallory", 1), Uptime(DAY)).len(), 1, "another day");
    }
}
