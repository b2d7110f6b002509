//! How far this machine's clock is from the mesh's: against the times that peers sign, and against certificates that verified.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use certs::{
    codec::{self, Millis},
    verify::{VerifyError, verify},
};
use futures_util::future::join_all;
use rand::seq::SliceRandom as _;
use rustls::pki_types::CertificateDer;

use super::{
    error::{Error, fail},
    receipt::{Receipt, Standing},
    state_dir::{CLOCK, StateDir},
    sync::Sync,
    wire::{self, Answer, Ask},
};
use crate::{clock, mesh::peer::PeerLink};

/// From this drift on, in milliseconds, the node reports itself.
pub const BOUND: u64 = 60_000;
/// Time between two rounds of questions.
const INTERVAL: Duration = Duration::from_secs(30);
/// Time to the first round, and to the next one while nobody has answered.
const SOON: Duration = Duration::from_secs(2);
/// Peers that are asked in one round.
const ASKED: usize = 15;
/// A peer has this long.
const PATIENCE: Duration = Duration::from_secs(3);
/// The mark is written when it has moved so far, milliseconds.
const MARK_STEP: Millis = 60_000;

/// What was measured last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// This machine's clock minus the median of the peers', milliseconds.
    pub ahead: i64,
    /// Peers that the median is of.
    pub peers: usize,
    /// This machine's clock minus the median of all, its own among them: where two differ, both mean the same one by it.
    pub ahead_of_all: i64,
}

/// The drift, as last known.
#[derive(Debug, Default)]
pub struct Drift {
    measured: ArcSwapOption<Measured>,
    /// Milliseconds by which this machine's clock is behind the begin of a certificate that holds otherwise; while nobody is linked.
    behind: ArcSwapOption<Millis>,
}

impl Drift {
    /// Against peers' signed times; none before one has answered.
    pub fn measured(&self) -> Option<Measured> {
        self.measured.load().as_deref().copied()
    }

    /// What an operator should know of the clock.
    pub fn trouble(&self) -> Option<Error> {
        let hint = "set the clock, and keep it right by NTP; the node goes on by itself";
        let past = "set the clock, and keep it right by NTP. If it is right, it was ahead before, for hours: stop the node, remove the file \
                    `clock` in its data_dir, start it";
        if let Some(behind) = self.behind.load_full() {
            let message = format!(
                "this machine's clock is at least {} s behind the certificates of other nodes: no connection opens",
                *behind / 1_000
            );
            return Some(fail("clock_behind", message, hint));
        }
        let floor = clock::behind();
        if floor > certs::verify::CLOCK_TOLERANCE {
            let message = format!(
                "this machine's clock is {} s behind what certificates of other nodes have proven: the node goes by those",
                floor / 1_000
            );
            return Some(fail("clock_behind", message, past));
        }
        let measured = self.measured().filter(|measured| measured.ahead.unsigned_abs() > BOUND)?;
        let (seconds, side) =
            (measured.ahead.unsigned_abs() / 1_000, if measured.ahead > 0 { "ahead of" } else { "behind" });
        let message = format!(
            "this machine's clock is {seconds} s {side} the median of {} peers: from 300 s on certificates are refused",
            measured.peers
        );
        Some(fail("clock_drift", message, hint))
    }
}

/// Runs until the process ends.
pub async fn run(sync: Arc<Sync>, dir: Arc<StateDir>) {
    let (mut pause, mut written) = (SOON, clock::mark());
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = sync.tasks.stopping() => return,
        }
        let measured = measure(&sync).await;
        pause = if measured.is_some() { INTERVAL } else { SOON };
        if measured.is_some() {
            sync.drift.behind.store(None);
        }
        if let Some(measured) = measured {
            sync.events.set_ahead(measured.ahead_of_all);
        }
        sync.drift.measured.store(measured.map(Arc::new));
        clock::settle();
        let mark = clock::mark();
        if mark > written + MARK_STEP || (written == 0 && mark > 0) {
            written = mark;
            keep(dir.clone(), mark).await;
        }
    }
}

/// Lets the clock begin no earlier than what an earlier run knew for certain.
///
/// # Errors
/// The file cannot be read.
pub fn resume(dir: &StateDir) -> Result<(), Error> {
    if let Some(mark) = dir.read(CLOCK)?.and_then(|text| text.trim().parse().ok()) {
        clock::resume(mark);
    }
    Ok(())
}

async fn keep(dir: Arc<StateDir>, mark: Millis) {
    let written = tokio::task::spawn_blocking(move || dir.write(CLOCK, mark.to_string().as_bytes())).await;
    if let Ok(Err(error)) = written {
        tracing::warn!(code = %error.code, "the mark of time is not on disk: {error}");
    }
}

/// Asks some peers for their time; none if nobody answers.
async fn measure(sync: &Sync) -> Option<Measured> {
    let changeset = sync.world.current().load().state.role_set.changeset.0;
    let mut links = sync.links.all();
    links.shuffle(&mut rand::rng());
    links.truncate(ASKED);
    let ask = codec::encode(&Ask { changeset, standing: Standing::Durable, patience_ms: 0 });
    let answers = join_all(links.iter().map(|link| ahead_of(link, ask.clone()))).await;
    Measured::of(answers.into_iter().flatten().collect())
}

/// How far this machine is ahead of a peer, half of the way there and back taken off.
async fn ahead_of(link: &PeerLink, ask: Vec<u8>) -> Option<i64> {
    let sent = clock::machine();
    let reply = link.request(wire::RECEIPT, ask.into(), PATIENCE).await.ok()?;
    let got = clock::machine();
    let signed = wire::reply::<Answer>(&reply).ok()?.receipt?;
    let receipt = Receipt::verify(&signed, Some(&link.peer().record_key))?;
    let own = sent.midpoint(got);
    Some(own.cast_signed().saturating_sub(receipt.at.cast_signed()))
}

impl Measured {
    fn of(mut ahead: Vec<i64>) -> Option<Self> {
        let (peers, of_peers) = (ahead.len(), median(&mut ahead)?);
        ahead.push(0);
        Some(Self { ahead: of_peers, peers, ahead_of_all: median(&mut ahead)? })
    }
}

/// The lower of the two middle ones: fewer than half of all cannot move it beyond what the others say.
fn median(all: &mut [i64]) -> Option<i64> {
    all.sort_unstable();
    all.get(all.len().checked_sub(1)? / 2).copied()
}

impl Sync {
    /// Looks at the certificates of somebody who cannot be linked: whether they would hold if this machine's clock were later.
    pub(super) fn judge_clock(&self, chain: &[CertificateDer<'_>]) {
        let (authority, now) = (self.world.authority().load_full(), self.clock.now());
        let behind = match verify(chain, &authority, now) {
            Err(VerifyError::NotYetValid { not_before, .. }) if verify(chain, &authority, not_before).is_ok() => {
                Some(Arc::new(not_before.saturating_sub(now)))
            }
            Ok(_) | Err(_) => None,
        };
        self.drift.behind.store(behind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_than_half_do_not_move_the_median() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [7]), Some(7));
        assert_eq!(median(&mut [i64::MAX, 3, 2, i64::MAX, 1]), Some(3));
        assert_eq!(median(&mut [i64::MIN, 3, 2, i64::MIN, 1]), Some(1));
    }

    #[test]
    fn all_nodes_mean_the_same_clock() {
        let clocks = |all: &[i64]| -> Vec<i64> {
            let of = |own: usize| {
                let others = all.iter().enumerate().filter(|(at, _)| *at != own).map(|(_, clock)| all[own] - clock);
                all[own] - Measured::of(others.collect()).unwrap().ahead_of_all
            };
            (0..all.len()).map(of).collect()
        };
        assert_eq!(clocks(&[40_000, 0]), [40_000, 40_000]);
        assert_eq!(clocks(&[40_000, 0, 7]), [7, 7, 7]);
        assert_eq!(clocks(&[1, 2, 3, 90_000]), [3; 4]);
    }

    #[test]
    fn small_drift_is_nobodys_trouble() {
        let drift = Drift::default();
        let told = |ahead| {
            drift.measured.store(Some(Arc::new(Measured { ahead, peers: 3, ahead_of_all: ahead })));
            drift.trouble().map(|error| error.message)
        };
        assert_eq!((told(59_999), told(-60_000)), (None, None));
        assert!(told(120_000).unwrap().contains("120 s ahead of the median of 3 peers"));
        assert!(told(-120_000).unwrap().contains("120 s behind the median"));
    }
}
