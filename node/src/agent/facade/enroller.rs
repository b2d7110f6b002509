//! This node as an enroller: how its CA is asked for, taken into use, and missed.

use std::time::Duration;

use certs::{
    codec::Millis,
    id::NodeId,
    root::ends,
    trust::{Phase, Standing},
    verify::anchor,
};

use super::Agent;
use crate::agent::{
    error::{Error, fail, internal},
    event,
};

/// Below this, the end of an enroller CA is near: longer than the node CAs live that it still has to renew. Where policy gives it less than
/// half a year, the last third of its life.
const ENROLLER_WARNING: Millis = 60 * 24 * 3_600_000;

/// Below this, the end of the root is near: enroller CAs live for a year and end with it.
const ROOT_WARNING: Millis = 365 * 24 * 3_600_000;

/// The problem of an enroller whose CA is under a root from which nothing is issued yet.
pub const ENROLLER_EARLY: &str = "enroller_early";

/// What to do where no enroller lives.
pub const NO_ENROLLER: &str = "start one: `skein members --all` marks enrollers; if all are lost for good, `skein ca promote NODE` with root.key \
     makes another";

/// What the root's holder needs to know to certify an enroller CA.
#[derive(Debug, Clone)]
pub struct EnrollerRequest {
    /// The node.
    pub node: NodeId,
    /// Of its grant.
    pub epoch: u64,
    /// How long the certificate is to live.
    pub life: Duration,
    /// PKCS#10.
    pub request: Vec<u8>,
}

impl Agent {
    /// A request for this node's enroller CA, the epoch that its certificate must name, and how long it is to live.
    ///
    /// # Errors
    /// `not_granted` without a grant; `storage_failed`, `storage_full`.
    pub async fn enroller_request(&self) -> Result<EnrollerRequest, Error> {
        let state = self.inner.sync.book.state(self.now()).await;
        let grant = state.grants().get(self.node()).filter(|grant| !grant.retired);
        let no_grant = || fail("not_granted", format!("{} has no grant", self.node()), "invite it again");
        let epoch = grant.ok_or_else(no_grant)?.epoch;
        let (sync, dir) = (self.inner.sync.clone(), self.inner.dir.clone());
        let made = tokio::task::spawn_blocking(move || sync.identity.enroller_request(&dir)).await;
        let request = made.map_err(internal)??;
        Ok(EnrollerRequest { node: self.node().clone(), epoch, life: state.lifetimes().enroller_ca, request })
    }

    /// Takes a certificate of this node's enroller CA into use, by the policy of now. Gives its end.
    ///
    /// # Errors
    /// `refused` if it does not hold here, `bad_request` if it is for another key; `storage_failed`, `storage_full`.
    pub async fn enrols(&self, certificate: Vec<u8>) -> Result<Millis, Error> {
        let (sync, now) = (&self.inner.sync, self.now());
        let authority = sync.book.state(now).await.authority(self.trust_domain());
        let hint = "was it signed by this mesh's root, for the epoch that the grant has now? make a new request";
        let (_, _, end) = certs::verify::verify_enroller(&certificate, &authority, now)
            .map_err(|error| fail("refused", format!("the certificate does not hold here: {error}"), hint))?;
        let (theirs, dir) = (sync.clone(), self.inner.dir.clone());
        let taken = tokio::task::spawn_blocking(move || {
            theirs.identity.enrols(&dir, certificate)?;
            // What ended with the old one is due, also if who brought the new one has gone.
            theirs.renew.notify_one();
            Ok::<(), Error>(())
        });
        taken.await.map_err(internal)??;
        sync.events.note(now, event::Kind::EnrollerRenewed, self.node(), "the enroller CA has a new certificate");
        Ok(end)
    }

    /// A certificate that rests on a root which was withdrawn.
    pub(super) fn withdrawn(&self, chain: &[Vec<u8>]) -> Option<Error> {
        let rooted = chain.last().is_some_and(|enroller| anchor(enroller, &self.state().trust().roots).is_some());
        (!rooted).then(|| {
            let hint = format!(
                "start an enroller that has seen this node before: it renews by itself; else skein invite {} --replace",
                self.node()
            );
            fail(
                "certificate_withdrawn",
                "the root of this node's certificate was withdrawn: no connection opens",
                hint,
            )
        })
    }

    /// A root that has ended, or soon will.
    pub(super) fn root_trouble(&self, now: Millis) -> Option<Error> {
        let end = self.state().trust().issuing().filter_map(|root| ends(root)).max()?;
        if end <= now {
            let hint = "on the machine of an enroller: skein ca rotate start --offline";
            return Some(fail("root_expired", "the root has ended: no certificate counts any more", hint));
        }
        let days = (end - now) / 86_400_000;
        (end - now < ROOT_WARNING)
            .then(|| fail("root_old", format!("the root ends in {days} days"), "skein ca rotate start"))
    }

    /// What the root of this node's enroller CA is good for, where it has one.
    pub fn enroller_root(&self) -> Option<Standing> {
        let state = self.state();
        let own = self.inner.sync.identity.enroller()?;
        let certificate = own.chain().first()?;
        let root = anchor(certificate, &state.trust().roots);
        Some(root.map_or(Standing::Withdrawn, |root| state.trust().standing(root)))
    }

    /// An enroller that cannot enrol, or soon cannot; with the end and the life of its CA.
    pub(super) fn enroller_trouble(&self, ends: Option<(Millis, Millis)>, now: Millis) -> Option<Error> {
        let state = self.state();
        let granted = state.grants().get(self.node()).is_some_and(|grant| grant.enroller && !grant.retired);
        let renew = format!("with the root's key: skein ca renew {}", self.node());
        let identity = &self.inner.sync.identity;
        let certificate = identity.enroller().and_then(|own| own.chain().first().cloned()).filter(|_| granted);
        if let Some(certificate) = certificate {
            let Some(root) = anchor(&certificate, &state.trust().roots) else {
                let message = "the root of this node's enroller CA was withdrawn: nobody can join by it";
                return Some(fail("enroller_withdrawn", message, renew));
            };
            if state.trust().standing(root) == Standing::Next {
                let message = "the root of this node's enroller CA is not in use yet: a change of the root broke off";
                let hint =
                    format!("skein ca rotate advance; or, to give the change up, skein ca renew {}", self.node());
                return Some(fail(ENROLLER_EARLY, message, hint));
            }
            if state.trust().phase() == Phase::Issuing && state.trust().is_leaving(&certificate) {
                let message = "the root of this node's enroller CA retires: nobody is certified anew by it";
                return Some(fail("enroller_retiring", message, renew));
            }
        }
        match ends.filter(|_| granted) {
            None if granted => {
                let message = "operators let this node enrol others, and it has no certificate for that";
                Some(fail("enroller_uncertified", message, renew))
            }
            Some((end, _)) if end <= now => {
                let message = "the enroller CA has ended: nobody can join by this node, and no node CA is renewed";
                Some(fail("enroller_expired", message, renew))
            }
            Some((end, life)) if is_near(end, life, now) => {
                let hours = (end - now) / 3_600_000;
                let left = if hours < 48 { format!("{hours} hours") } else { format!("{} days", hours / 24) };
                Some(fail("enroller_old", format!("the enroller CA ends in {left}"), renew))
            }
            Some(_) | None => None,
        }
    }
}

/// Whether people should renew an enroller CA that lives so long.
fn is_near(end: Millis, life: Millis, now: Millis) -> bool {
    end.saturating_sub(now) < ENROLLER_WARNING.min(life / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_life_is_not_near_its_end_from_the_beginning() {
        const DAY: Millis = 86_400_000;
        for (life, told) in [(365 * DAY, 60 * DAY), (90 * DAY, 30 * DAY), (DAY, DAY / 3)] {
            assert!(!is_near(life, life, 0) && !is_near(life, life, life - told), "{life}");
            assert!(is_near(life, life, life - told + 1), "{life}");
        }
    }
}
