//! What one caller is told: at once, and again whenever something of it changes.

use std::{sync::Arc, time::Duration};

use certs::{
    codec::Millis,
    id::{ServiceName, SpiffeId},
    verify::{Authority, verify},
};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{
    grpc::{Code, Status},
    message,
};
use crate::{
    agent::{
        Agent,
        identity::{NotHanded, is_ahead},
    },
    clock,
    mesh::crowd::Place,
    tasks::Tasks,
};

/// The next attempt after one that failed.
const RETRY: Millis = 5_000;
/// Nothing sleeps longer: clocks jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// `FetchX509SVID`.
    Svids,
    /// `FetchX509Bundles`.
    Bundles,
}

/// One stream of answers.
pub(super) struct Feed {
    agent: Agent,
    tasks: Tasks,
    uid: u32,
    wants: Wants,
    told: Option<Told>,
    /// By whom what was told is judged to count: members come and go more often than that changes.
    judged_by: Option<Arc<Authority>>,
    /// No further attempt before, uptime; 0 if none failed.
    retry: Millis,
    changes: watch::Receiver<u64>,
    reloads: watch::Receiver<u64>,
    _place: Place<u32>,
}

/// What the caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    identities: Vec<(SpiffeId, ServiceName)>,
    roots: Vec<Vec<u8>>,
    /// When, by the clock of then.
    at: Millis,
    /// The life that policy gives leafs.
    life: Millis,
    leafs: Leafs,
}

/// Leafs of one message; bundles come without any.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leafs {
    /// Each with its path.
    chains: Vec<Vec<CertificateDer<'static>>>,
    /// When they are due; never without any.
    renew_at: Millis,
    /// When the first of them ends.
    ends: Millis,
}

impl Leafs {
    fn count(&self, authority: &Authority, now: Millis) -> bool {
        self.chains.iter().all(|chain| verify(chain, authority, now).is_ok())
    }
}

impl Told {
    /// Whether this is still what the caller should know: a life that policy shortened counts at once, and leafs that a clock made which was
    /// ahead are from the future once it is set back.
    fn holds(&self, identities: &[(SpiffeId, ServiceName)], roots: &[Vec<u8>], life: Millis, now: Millis) -> bool {
        let (same, due) = (self.identities == identities && self.roots == roots, self.leafs.renew_at);
        same && now < due && ((self.life <= life && !is_ahead(self.at, now)) || due == Millis::MAX)
    }
}

impl Feed {
    pub(super) fn new(agent: Agent, tasks: Tasks, uid: u32, wants: Wants, place: Place<u32>) -> Self {
        let (changes, reloads) = (agent.changes(), agent.reloads());
        Self { agent, tasks, uid, wants, told: None, judged_by: None, retry: 0, changes, reloads, _place: place }
    }

    /// The next message, as soon as there is something new to say.
    ///
    /// # Errors
    /// How the stream ends: the caller has no identity, or none that it could use; the node stops.
    pub(super) async fn next(&mut self) -> Result<Zeroizing<Vec<u8>>, Status> {
        loop {
            // Seen before the look, so that what changes meanwhile wakes.
            self.changes.mark_unchanged();
            self.reloads.mark_unchanged();
            if let Some(message) = self.look()? {
                return Ok(message);
            }
            let due = self.told.as_ref().map_or(0, |told| told.leafs.renew_at).saturating_sub(self.agent.now());
            let pause = Duration::from_millis(due.max(self.retry.saturating_sub(clock::uptime())));
            let gone = tokio::select! {
                changed = self.changes.changed() => changed.is_err(),
                reloaded = self.reloads.changed() => reloaded.is_err(),
                () = tokio::time::sleep(pause.min(LONGEST_SLEEP)) => false,
                () = self.tasks.stopping() => true,
            };
            if gone {
                return Err(Status::new(Code::Unavailable, "the node stops"));
            }
        }
    }

    /// A message, if the caller does not know what it should.
    fn look(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, Status> {
        let (now, uid) = (self.agent.now(), self.uid);
        let identities = self.agent.identities_of(uid);
        if identities.is_empty() {
            let message = format!("no identity for user {uid}: no granted [[service]] here names it in `uids`");
            return Err(Status::new(Code::PermissionDenied, message));
        }
        let (roots, life) = (self.agent.roots(), self.agent.leaf_life());
        // What operators revoked since is taken away, or another put in its place.
        let authority = self.agent.authority();
        let is_judged = self.judged_by.as_ref().is_some_and(|before| Arc::ptr_eq(before, &authority));
        let counts = |told: &Told| is_judged || told.leafs.count(&authority, now);
        let told = self.told.as_ref();
        if clock::uptime() < self.retry {
            return Ok(None);
        }
        if told.is_some_and(|told| told.holds(&identities, &roots, life, now) && counts(told)) {
            self.judged_by = Some(authority);
            return Ok(None);
        }
        match self.write(&identities, &roots, now) {
            Ok((message, leafs)) => {
                (self.retry, self.judged_by) = (0, Some(authority));
                self.told = Some(Told { identities, roots, at: now, life, leafs });
                Ok(Some(message))
            }
            // What it has serves it for a while yet.
            Err(status) if status.code == Code::Unavailable && told.is_some_and(|told| told.leafs.ends > now) => {
                tracing::warn!(uid, "no new leaf for an application yet: {}", status.message);
                self.retry = clock::uptime() + RETRY;
                Ok(None)
            }
            Err(status) => Err(status),
        }
    }

    /// The message, and the leafs in it.
    fn write(
        &self,
        identities: &[(SpiffeId, ServiceName)],
        roots: &[Vec<u8>],
        now: Millis,
    ) -> Result<(Zeroizing<Vec<u8>>, Leafs), Status> {
        if self.wants == Wants::Bundles {
            let trust_domain = format!("spiffe://{}", self.agent.trust_domain());
            let none = Leafs { chains: Vec::new(), renew_at: Millis::MAX, ends: Millis::MAX };
            return Ok((message::bundles(&trust_domain, roots), none));
        }
        let mut svids = Vec::with_capacity(identities.len());
        for (id, service) in identities {
            let svid = self.agent.hand_out(id, self.uid).map_err(|error| refused(id, &error))?;
            tracing::info!(uid = self.uid, %id, not_after = svid.not_after, "an application got an identity");
            svids.push((svid, service.to_string()));
        }
        let ends = svids.iter().map(|(svid, _)| svid.not_after).min().unwrap_or(now);
        // Half of the life, spread over the streams.
        let half = ends.saturating_sub(now) as f64 * (0.45 + 0.1 * rand::random::<f64>());
        let chains = svids.iter().map(|(svid, _)| svid.chain.clone()).collect();
        Ok((message::svids(&svids, roots), Leafs { chains, renew_at: now + half as Millis, ends }))
    }
}

/// Whether trying again may help.
fn refused(id: &SpiffeId, error: &NotHanded) -> Status {
    use certs::verify::VerifyError::{Evicted, Retired, RevokedAccount, RevokedKey};
    let code = match error {
        NotHanded::DoesNotHold(Evicted(..) | Retired(_) | RevokedAccount(_) | RevokedKey { .. }) => {
            Code::PermissionDenied
        }
        NotHanded::DoesNotHold(_) | NotHanded::NotIssued(_) => Code::Unavailable,
    };
    Status::new(code, format!("no certificate for {id}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_told_again_of_whatever_changed() {
        let identity = |account: &str| {
            let id = format!("spiffe://t.example/ns/shop/sa/{account}").parse().unwrap();
            (id, format!("shop/{account}").parse().unwrap())
        };
        let (web, other, roots) = (vec![identity("web")], vec![identity("other")], vec![vec![1, 2], vec![3]]);
        let leafs = Leafs { chains: Vec::new(), renew_at: 500, ends: 1_000 };
        let told = Told { identities: web.clone(), roots: roots.clone(), at: 0, life: 1_000, leafs };
        assert!(told.holds(&web, &roots, 1_000, 499));
        assert!(told.holds(&web, &roots, 9_000, 499), "a longer life counts from the next renewal on");
        assert!(!told.holds(&web, &roots, 1_000, 500), "half of its life is over");
        assert!(!told.holds(&web, &roots, 900, 0), "a shorter life counts at once");
        assert!(!told.holds(&web, &roots[..1], 1_000, 0), "a root went");
        assert!(!told.holds(&other, &roots, 1_000, 0));
        let ahead = Told { at: 3_600_000, leafs: Leafs { renew_at: 5_400_000, ..told.leafs.clone() }, ..told.clone() };
        assert!(
            ahead.holds(&web, &roots, 1_000, 3_500_000) && !ahead.holds(&web, &roots, 1_000, 0),
            "the clock is set back"
        );
        assert!(!told.holds(&[web.clone(), other].concat(), &roots, 1_000, 0));
        // Bundles know no life.
        let bundles = Told { leafs: Leafs { renew_at: Millis::MAX, ends: Millis::MAX, ..told.leafs }, ..told };
        assert!(bundles.holds(&web, &roots, 1, 1 << 40));
        assert!(!bundles.holds(&web, &[], 1, 0));
    }

    #[test]
    fn only_what_operators_took_away_is_denied() {
        let id: SpiffeId = "spiffe://t.example/ns/shop/sa/web".parse().unwrap();
        let (node, account) = (certs::id::NodeId::new("a").unwrap(), id.account().unwrap().clone());
        use certs::verify::VerifyError::{Evicted, OutsideGrant, Retired, RevokedAccount};
        for gone in [Evicted(node.clone(), 1), Retired(node.clone()), RevokedAccount(account)] {
            assert_eq!(refused(&id, &gone.into()).code, Code::PermissionDenied);
        }
        let later = [OutsideGrant(id.clone(), node).into(), certs::error::Error::OutsideGrant(id.clone()).into()];
        assert!(later.iter().all(|error| refused(&id, error).code == Code::Unavailable));
    }
}
