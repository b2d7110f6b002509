//! Renewal: leafs at half of their life by this node, its CA at half of its by any enroller; at once when a grant widens.

use std::{sync::Arc, time::Duration};

use certs::{codec::Millis, grant::NodeGrant, id::NodeId};
use membership::body::{Body, Identity as IdentityBody};
use rand::seq::SliceRandom;

use super::{
    error::{Error, fail, internal},
    identity::millis,
    join::renew_lapsed,
    local::Local,
    state_dir::StateDir,
    sync::Sync,
    wire::{self, Renew, Renewed},
};

/// The next attempt after one that failed, at least; doubled each time, up to the longest.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(600);
/// Nothing sleeps longer: clocks jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(300);
/// An enroller has this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps certificates fresh.
pub struct Renewal {
    /// Identity, policy, links.
    pub sync: Arc<Sync>,
    /// Whose accounts need leafs.
    pub local: Arc<Local>,
    /// Where a renewed CA goes.
    pub dir: Arc<StateDir>,
    /// `HOST:PORT`s known from the configuration and from joining: after a month nobody else may be known.
    pub known: Vec<String>,
}

impl Renewal {
    /// Runs until the process ends.
    pub async fn run(self) {
        // Spread over the nodes, the same for one CA's whole life.
        let jitter: f64 = rand::random();
        let (mut failures, mut not_before) = (0, 0);
        loop {
            let state = self.sync.world.current().load().state.clone();
            if self.local.regrant(&state) {
                self.local.publish().await;
            }
            let now = self.sync.clock.now();
            let refreshed = self.sync.identity.refresh(&self.local.accounts(), &state.lifetimes(), now, rand::random());
            for (id, why) in &refreshed.failed {
                tracing::warn!(%id, "no leaf: {why}");
            }
            let due = self.ca_due(&state, jitter).max(not_before);
            if due <= now {
                match self.renew(&state).await {
                    Ok(()) => (failures, not_before) = (0, 0),
                    Err(error) => {
                        failures += 1;
                        let pause = LONGEST_RETRY.min(RETRY * 2u32.saturating_pow(failures - 1));
                        not_before = now + pause.mul_f64(0.75 + 0.5 * rand::random::<f64>()).as_millis() as Millis;
                        tracing::warn!(code = %error.code, "the node CA is not renewed yet: {error}");
                    }
                }
                continue;
            }
            let next = Duration::from_millis(due.min(refreshed.due).saturating_sub(now));
            tokio::select! {
                () = tokio::time::sleep(next.clamp(Duration::from_millis(10), LONGEST_SLEEP)) => {}
                () = self.sync.renew.notified() => {}
                () = self.sync.tasks.stopping() => return,
            }
        }
    }

    /// Half of the CA's life, or now if the grant allows what the certificate does not.
    fn ca_due(&self, state: &policy::history::State, jitter: f64) -> Millis {
        let ca = self.sync.identity.ca();
        let wider = self.grant(state).is_some_and(|grant| {
            let wanted = grant.certified(self.sync.identity.record_key().public());
            grant.epoch == ca.grant().epoch && wanted.wider_than(ca.grant()).is_some()
        });
        if wider {
            return 0;
        }
        // A life that policy shortened counts from the old certificate's begin on.
        let wanted = millis(state.lifetimes().node_ca);
        let life = ca.not_after().saturating_sub(ca.not_before()).min(wanted) as f64;
        ca.not_before() + (life * (0.5 - 0.05 * jitter)) as Millis
    }

    fn grant<'a>(&self, state: &'a policy::history::State) -> Option<&'a Arc<NodeGrant>> {
        state.grants().get(self.sync.node()).filter(|grant| !grant.retired)
    }

    async fn renew(&self, state: &policy::history::State) -> Result<(), Error> {
        let identity = &self.sync.identity;
        let hint = format!("invite this node again: skein invite {} --replace", identity.node());
        let grant =
            self.grant(state).ok_or_else(|| fail("not_granted", format!("{} has no grant", identity.node()), hint))?;
        let now = self.sync.clock.now();
        let chain = match identity.enroller() {
            Some(own) => {
                let grant = grant.certified(identity.record_key().public());
                let life = millis(state.lifetimes().node_ca);
                own.issue_node_for(&identity.ca().key().spki(), &grant, life, now).map_err(internal)?
            }
            None if identity.ca().not_after() > now => self.by_link(state).await?,
            None => self.lapsed(state).await?,
        };
        let (dir, sync, renewed) = (self.dir.clone(), self.sync.clone(), chain.clone());
        let written = tokio::task::spawn_blocking(move || sync.identity.renewed(&dir, renewed)).await;
        written.map_err(internal)??;
        self.sync.members.publish(Body::Identity(IdentityBody { chain })).await;
        let now = self.sync.clock.now();
        self.sync.events.note(now, "identity_renewed", identity.node(), "the node CA was renewed");
        Ok(())
    }

    /// Any enroller with an open link will do.
    async fn by_link(&self, state: &policy::history::State) -> Result<Vec<Vec<u8>>, Error> {
        let identity = &self.sync.identity;
        let request = certs::codec::encode(&Renew { request: identity.ca().key().request(identity.node()) });
        let is_enroller =
            |node: &NodeId| state.grants().get(node).is_some_and(|grant| grant.enroller && !grant.retired);
        let mut links = self.sync.links.all();
        links.retain(|link| is_enroller(&link.peer().node));
        links.shuffle(&mut rand::rng());
        let mut last = fail("unreachable", "no enroller is linked", "start one of the enrollers");
        for link in links {
            let node = &link.peer().node;
            let reply = match link.request(wire::RENEW, request.clone().into(), PATIENCE).await {
                Ok(reply) => reply,
                Err(error) => {
                    last = fail("unreachable", format!("{node}: {error}"), "");
                    continue;
                }
            };
            match wire::reply::<Renewed>(&reply) {
                Ok(Renewed::Chain(chain)) => return Ok(chain),
                Ok(Renewed::Refused(code, message)) => last = fail("refused", format!("{node}: {code}: {message}"), ""),
                Err(error) => last = fail("failed", format!("{node}: {error}"), ""),
            }
        }
        Err(last)
    }

    /// A CA that has ended opens no link; the enrolment port still knows its key.
    async fn lapsed(&self, state: &policy::history::State) -> Result<Vec<Vec<u8>>, Error> {
        let view = self.sync.world.view();
        let mut known = Vec::new();
        for address in &self.known {
            // A name that cannot be resolved now may be known at the next attempt.
            known.extend(tokio::net::lookup_host(address).await.into_iter().flatten());
        }
        let mut last = fail("unreachable", "no enroller's address is known", "start one of the enrollers");
        for (node, grant) in state.grants() {
            if !grant.enroller || grant.retired {
                continue;
            }
            let seen = view.member(node).map(|member| member.addresses.clone()).unwrap_or_default();
            let others = known.iter().filter(|address| !seen.contains(address));
            for address in seen.iter().chain(others) {
                let authority = self.sync.world.authority().load_full();
                match renew_lapsed(&self.sync.identity, node, *address, &authority).await {
                    Ok(chain) => return Ok(chain),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }
}
