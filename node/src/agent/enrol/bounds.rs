//! How much of an enroller strangers get: the port is open to everybody who reaches it, and nobody takes from it what a guest needs.

use crate::lock::lock;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use certs::{codec::Millis, sign::Digest};

use crate::{
    clock::Uptime,
    mesh::crowd::{self, Crowd, Place},
};

/// Enrolments at a time: all, and of one address. Most of each is waiting for the joiner.
const AT_ONCE: usize = 256;
const AT_ONCE_EACH: usize = 8;
/// Enrolments that one address may begin in a minute.
const A_MINUTE_EACH: u32 = 30;
/// Enrolments that all may begin together in a minute, and those who have begun few.
pub(super) const A_MINUTE_ALL: u32 = 300;
const A_MINUTE_FIRST: u32 = 3_000;
/// So many of one address in a minute are few.
const FEW: u32 = 3;

/// Wrong secrets of one address for one invite before it is heard no more of it for a while.
pub(super) const WRONG_SECRETS: u32 = 5;
/// That while, from the last one on, milliseconds. With it an address has 5 guesses of 256 bits in ten minutes.
const DEAF: Millis = 10 * 60_000;

/// One event of a kind tells of all that happens so soon after it, milliseconds.
const UNTOLD: Millis = 60_000;

/// Who may begin an enrolment.
#[derive(Debug)]
pub(super) struct Bounds {
    inside: Arc<Crowd>,
    rate: Mutex<Rate>,
    guesses: Mutex<Guesses>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Rate {
    minute: Millis,
    all: u32,
    each: HashMap<IpAddr, u32>,
}

/// Wrong secrets by invite and address, and when the last one came. The rate bounds how many these can be: those of [`DEAF`].
type Guesses = HashMap<(Digest, IpAddr), (u32, Uptime)>;

/// By kind: when an event told of it, and how much happened since.
type Told = HashMap<&'static str, (Option<Uptime>, u32)>;

impl Bounds {
    pub(super) fn new() -> Bounds {
        let (rate, guesses, told) = Default::default();
        Bounds { inside: Crowd::new(AT_ONCE, AT_ONCE_EACH), rate, guesses, told }
    }

    /// Lets one more in, unless its address or all together have had their share. Who is turned away takes nothing from the share of
    /// others; and while many come often, who comes for the first time is let in beyond what they share.
    pub(super) fn enter(&self, from: IpAddr, now: Uptime) -> Result<Place, &'static str> {
        let (host, minute) = (crowd::host(from), now.0 / 60_000);
        let mut rate = lock(&self.rate);
        if rate.minute != minute {
            *rate = Rate { minute, ..Rate::default() };
        }
        let begun = rate.each.get(&host).copied().unwrap_or_default();
        let all = if begun < FEW { A_MINUTE_FIRST } else { A_MINUTE_ALL };
        if begun >= A_MINUTE_EACH || rate.all >= all {
            return Err("in this minute; try again later");
        }
        let place = self.inside.enter_within(from, AT_ONCE / 2, AT_ONCE_EACH);
        // The other half is for those who have nobody inside.
        let place = place.or_else(|| self.inside.enter_within(from, AT_ONCE, 1));
        let place = place.ok_or("at a time; try again in a few seconds")?;
        rate.all += 1;
        // The table cannot outgrow the limit for all.
        rate.each.insert(host, begun + 1);
        Ok(place)
    }

    /// Whether an event is to tell of a refusal, and how many of its kind none told of: a node remembers few events, and strangers who
    /// come often must not make it forget the others.
    pub(super) fn tells(&self, kind: &'static str, now: Uptime) -> Option<u32> {
        let mut told = lock(&self.told);
        let (last, untold) = told.entry(kind).or_default();
        if last.is_some_and(|last| now.0 < last.0 + UNTOLD) {
            *untold = untold.saturating_add(1);
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(untold))
    }

    /// Whether an address has shown too many wrong secrets for an invite to be heard now.
    pub(super) fn is_deaf(&self, invite: &Digest, from: IpAddr, now: Uptime) -> bool {
        let guesses = lock(&self.guesses);
        let guessed = guesses.get(&(*invite, crowd::host(from)));
        guessed.is_some_and(|(wrong, last)| *wrong >= WRONG_SECRETS && now.0 < last.0 + DEAF)
    }

    /// An address has shown a wrong secret for an invite.
    pub(super) fn guessed(&self, invite: &Digest, from: IpAddr, now: Uptime) {
        let mut guesses = lock(&self.guesses);
        guesses.retain(|_, (_, last)| now.0 < last.0 + DEAF);
        let (wrong, last) = guesses.entry((*invite, crowd::host(from))).or_insert((0, now));
        (*wrong, *last) = (*wrong + 1, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Uptime = Uptime(60_000);

    fn after(time: Millis) -> Uptime {
        Uptime(NOW.0 + time)
    }

    fn host(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn one_address_gets_so_many_tries_a_minute_and_takes_none_from_others() {
        let bounds = Bounds::new();
        let admitted = (0..3 * A_MINUTE_ALL).filter(|_| bounds.enter(host(9), NOW).is_ok()).count();
        assert_eq!(admitted, A_MINUTE_EACH as usize);
        assert!(bounds.enter(host(8), NOW).is_ok());
        assert!(bounds.enter(host(9), after(60_000)).is_ok());
    }

    #[test]
    fn what_comes_often_is_told_once_in_a_while() {
        let bounds = Bounds::new();
        assert_eq!(bounds.tells("guest", Uptime(0)), Some(0), "right after the start, too");
        assert_eq!(bounds.tells("token_refused", NOW), Some(0));
        assert!((0..1_000).all(|n| bounds.tells("token_refused", after(n)).is_none()));
        assert_eq!(bounds.tells("token_reused", after(1)), Some(0), "another kind");
        assert_eq!(bounds.tells("token_refused", after(UNTOLD)), Some(1_000));
    }

    #[test]
    fn many_addresses_that_come_often_keep_no_newcomer_out() {
        let bounds = Bounds::new();
        for address in 0..100 {
            for _ in 0..A_MINUTE_EACH {
                let _ = bounds.enter(host(address), NOW);
            }
        }
        assert!(bounds.enter(host(1_000), NOW).is_ok());
        // As many newcomers as a minute can have.
        let newcomers = (2_000..10_000).filter(|number| bounds.enter(host(*number), NOW).is_ok()).count();
        assert!((1_000..=A_MINUTE_FIRST as usize).contains(&newcomers), "{newcomers}");
        assert!(bounds.enter(host(20_000), after(60_000)).is_ok());
    }

    #[test]
    fn one_address_holds_so_many_places_and_several_leave_some() {
        let bounds = Bounds::new();
        let address = |net: u16, last: u16| IpAddr::from([0x2001, 0xdb8, 0, net, 0, 0, 0, last]);
        let visits: Vec<_> =
            (0..2 * AT_ONCE_EACH as u16).filter_map(|last| bounds.enter(address(1, last), NOW).ok()).collect();
        assert_eq!(visits.len(), AT_ONCE_EACH);
        let others = (2..100).flat_map(|net| (0..AT_ONCE_EACH as u16).map(move |last| address(net, last)));
        let others: Vec<_> = others.filter_map(|from| bounds.enter(from, NOW).ok()).collect();
        assert!(others.len() < AT_ONCE - AT_ONCE_EACH, "{}", others.len());
        assert!(bounds.enter(host(8), NOW).is_ok(), "who has nobody inside is let in");
        drop(visits);
        assert!(bounds.enter(address(1, 99), NOW).is_ok());
    }

    #[test]
    fn guesses_are_counted_by_invite_and_address_and_forgotten() {
        let (bounds, invite, other) = (Bounds::new(), Digest::of(b"one"), Digest::of(b"other"));
        for _ in 0..WRONG_SECRETS {
            assert!(!bounds.is_deaf(&invite, host(1), NOW));
            bounds.guessed(&invite, host(1), NOW);
        }
        assert!(bounds.is_deaf(&invite, host(1), after(DEAF - 1)));
        assert!(!bounds.is_deaf(&invite, host(2), NOW) && !bounds.is_deaf(&other, host(1), NOW));
        assert!(!bounds.is_deaf(&invite, host(1), after(DEAF)));
        bounds.guessed(&other, host(2), after(DEAF));
        assert_eq!(lock(&bounds.guesses).len(), 1);
    }
}
