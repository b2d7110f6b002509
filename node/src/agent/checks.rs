//! Health checks of local services: the probe, and the judgement that rises, falls and damps flapping.

mod probe;

use std::{collections::VecDeque, time::Duration};

use certs::codec::Millis;

use crate::{clock::Uptime, config::Check};

pub use probe::probe;

/// Changes within this window count as flapping.
const FLAP_WINDOW_MS: Millis = 60_000;
/// Changes within the window that are nobody's business yet.
const FLAPS_FREE: usize = 3;
/// Most that flapping multiplies `rise` by.
const MOST_DAMPING: u32 = 8;
/// A probe takes at most this long, and never longer than three intervals, unless its check says more.
const LONGEST_PROBE: Duration = Duration::from_secs(2);

/// What the checks of one endpoint make of it. Pure: one result in, a change of state out.
#[derive(Debug, Clone)]
pub struct Judge {
    rise: u32,
    fall: u32,
    state: State,
    /// When the state changed last, oldest first.
    changes: VecDeque<Uptime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No result yet: the first one decides at once.
    Unknown,
    Healthy {
        failures: u32,
    },
    Unhealthy {
        successes: u32,
    },
}

/// A change of an endpoint's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// May receive requests.
    pub healthy: bool,
    /// Why, for people.
    pub reason: String,
}

impl Judge {
    /// A judge that has seen nothing.
    pub fn new(check: &Check) -> Self {
        Self { rise: check.rise, fall: check.fall, state: State::Unknown, changes: VecDeque::new() }
    }

    /// Takes one result; gives the new state if it changed.
    pub fn observe(&mut self, result: &Result<(), String>, now: Uptime) -> Option<Changed> {
        let next = match (self.state, result) {
            (State::Unknown, Ok(())) => return self.change(State::Healthy { failures: 0 }, "first check passed", now),
            (State::Unknown, Err(why)) => return self.change(State::Unhealthy { successes: 0 }, why, now),
            (State::Healthy { .. }, Ok(())) => State::Healthy { failures: 0 },
            (State::Healthy { failures }, Err(why)) if failures + 1 >= self.fall => {
                return self.change(State::Unhealthy { successes: 0 }, why, now);
            }
            (State::Healthy { failures }, Err(_)) => State::Healthy { failures: failures + 1 },
            (State::Unhealthy { successes }, Ok(())) if successes + 1 >= self.rise_needed(now) => {
                return self.change(State::Healthy { failures: 0 }, "checks pass again", now);
            }
            (State::Unhealthy { successes }, Ok(())) => State::Unhealthy { successes: successes + 1 },
            (State::Unhealthy { .. }, Err(_)) => State::Unhealthy { successes: 0 },
        };
        self.state = next;
        None
    }

    /// Falling stays as quick as it is; who flaps must hold longer before it counts as risen.
    fn rise_needed(&self, now: Uptime) -> u32 {
        let recent = self.changes.iter().filter(|at| at.0 + FLAP_WINDOW_MS > now.0).count();
        let factor = u32::try_from(recent.saturating_sub(FLAPS_FREE)).unwrap_or(MOST_DAMPING) + 1;
        self.rise.saturating_mul(factor.min(MOST_DAMPING))
    }

    fn change(&mut self, state: State, reason: &str, now: Uptime) -> Option<Changed> {
        self.state = state;
        self.changes.push_back(now);
        if self.changes.len() > FLAPS_FREE + MOST_DAMPING as usize {
            self.changes.pop_front();
        }
        let mut reason = reason.replace(char::is_control, " ");
        reason.truncate(reason.floor_char_boundary(200));
        Some(Changed { healthy: matches!(state, State::Healthy { .. }), reason })
    }
}

/// How long one probe of `check` may take.
pub fn patience(check: &Check) -> Duration {
    check.timeout.unwrap_or_else(|| LONGEST_PROBE.min(check.interval * 3).max(Duration::from_millis(200)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Probe;

    fn judge(rise: u32, fall: u32) -> Judge {
        let target = ([127, 0, 0, 1], 1).into();
        let protocol = crate::config::Protocol::Http;
        let (interval, delay) = (Duration::from_secs(1), Duration::ZERO);
        Judge::new(&Check { probe: Probe::Tcp, target, protocol, interval, rise, fall, delay, timeout: None })
    }

    fn bad() -> Result<(), String> {
        Err("connection\nrefused".into())
    }

    #[test]
    fn the_first_result_decides() {
        assert!(judge(3, 3).observe(&Ok(()), Uptime(1)).unwrap().healthy);
        let fallen = judge(3, 3).observe(&bad(), Uptime(1)).unwrap();
        assert_eq!(fallen, Changed { healthy: false, reason: "connection refused".into() });
    }

    #[test]
    fn it_falls_after_fall_and_rises_after_rise_in_a_row() {
        let mut judge = judge(2, 3);
        assert!(judge.observe(&Ok(()), Uptime(0)).is_some());
        assert!(judge.observe(&bad(), Uptime(0)).is_none());
        assert!(judge.observe(&bad(), Uptime(0)).is_none());
        assert!(judge.observe(&Ok(()), Uptime(0)).is_none());
        assert!(judge.observe(&bad(), Uptime(0)).is_none());
        assert!(judge.observe(&bad(), Uptime(0)).is_none());
        assert!(!judge.observe(&bad(), Uptime(0)).unwrap().healthy);
        assert!(judge.observe(&Ok(()), Uptime(0)).is_none());
        assert!(judge.observe(&bad(), Uptime(0)).is_none());
        assert!(judge.observe(&Ok(()), Uptime(0)).is_none());
        assert!(judge.observe(&Ok(()), Uptime(0)).unwrap().healthy);
    }

    #[test]
    fn who_flaps_must_hold_longer_until_a_quiet_minute_has_passed() {
        let mut judge = judge(1, 1);
        for turn in 0..10 {
            judge.observe(&if turn % 2 == 0 { Ok(()) } else { bad() }, Uptime(turn));
        }
        assert!(judge.rise_needed(Uptime(10)) > 1);
        assert_eq!(judge.rise_needed(Uptime(10 + FLAP_WINDOW_MS)), 1);
    }

    proptest! {
        #[test]
        fn changes_alternate_and_damping_is_bounded(results in proptest::collection::vec(any::<bool>(), 0..300)) {
            let mut judge = judge(2, 2);
            let mut last = None;
            for (at, good) in results.into_iter().enumerate() {
                let result = if good { Ok(()) } else { bad() };
                if let Some(changed) = judge.observe(&result, Uptime(at as Millis)) {
                    prop_assert_ne!(Some(changed.healthy), last);
                    last = Some(changed.healthy);
                }
                prop_assert!(judge.rise_needed(Uptime(at as Millis)) <= 2 * MOST_DAMPING);
            }
        }
    }
}
