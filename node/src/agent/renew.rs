//! Renewal: leafs at half of their life by this node, its CA at half of its by any enroller; at once when a grant widens.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use certs::{
    ca::{Enroller, NodeCa},
    codec::Millis,
    grant::NodeGrant,
    id::NodeId,
    verify::anchor,
};
use membership::body::{Body, Identity as IdentityBody};
use policy::history::State;
use rand::seq::SliceRandom;

use super::{
    addresses::Addresses,
    error::{Error, fail, internal},
    event,
    identity::{is_ahead, millis},
    join::renew_lapsed,
    local::Local,
    state_dir::StateDir,
    sync::Sync,
    wire::{self, Renew, Renewed},
};
use crate::clock;

/// The next attempt after one that failed, at least; doubled each time, up to the longest.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(600);
/// The same where this node is cut off, or soon would be, until it succeeds.
const LONGEST_URGENT: Duration = Duration::from_secs(15);
/// Addresses that one attempt tries.
const ATTEMPTED: usize = 64;
/// Nothing sleeps longer: clocks jump, and a machine that slept has leafs that ended meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// An enroller has this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a link with an enroller may take to come up.
const LINKING: Duration = Duration::from_secs(3);

/// Keeps certificates fresh.
pub struct Renewal {
    /// Identity, policy, links.
    pub sync: Arc<Sync>,
    /// Whose accounts need leafs.
    pub local: Arc<Local>,
    /// Where a renewed CA goes.
    pub dir: Arc<StateDir>,
    /// Where enrollers may be found when nobody is linked.
    pub addresses: Arc<Addresses>,
}

impl Renewal {
    /// Runs until the process ends.
    pub async fn run(self) {
        // Spread over the nodes, the same for one CA's whole life.
        let jitter: f64 = rand::random();
        let mut pace = Pace::default();
        loop {
            let state = self.sync.world.current().load().state.clone();
            if self.local.regrant(&state) {
                self.local.publish().await;
            }
            let now = self.sync.clock.now();
            self.sync.identity.replace_revoked(&state.revocations().keys);
            let accounts = self.local.accounts(state.revocations());
            let refreshed = self.sync.identity.refresh(&accounts, &state.lifetimes(), now, rand::random());
            for (id, why) in &refreshed.failed {
                tracing::warn!(%id, "no leaf: {why}");
            }
            let pause = pace.not_before.saturating_sub(clock::uptime());
            let due = self.ca_due(&state, jitter).saturating_sub(now).max(pause);
            if due == 0 {
                match self.renew(&state).await {
                    Ok(()) => pace.succeeded(clock::uptime()),
                    Err(error) => {
                        let longest = if self.is_urgent(&state) { LONGEST_URGENT } else { LONGEST_RETRY };
                        pace.failed(clock::uptime(), longest, rand::random());
                        tracing::warn!(code = %error.code, "the node CA is not renewed yet: {error}");
                    }
                }
                continue;
            }
            let next = Duration::from_millis(due.min(refreshed.due.saturating_sub(now)));
            tokio::select! {
                () = tokio::time::sleep(next.clamp(Duration::from_millis(10), LONGEST_SLEEP)) => {}
                () = self.sync.renew.notified() => {}
                () = self.sync.tasks.stopping() => return,
            }
        }
    }

    /// Half of the CA's life, or now if the grant allows what the certificate does not, or the root ends, or its time is yet to come.
    fn ca_due(&self, state: &State, jitter: f64) -> Millis {
        if self.is_narrow(state) || self.is_leaving(state) || self.is_early() {
            return 0;
        }
        half_life(&self.sync.identity.ca(), millis(state.lifetimes().node_ca), jitter)
    }

    /// Whether the grant allows what the certificate does not.
    fn is_narrow(&self, state: &State) -> bool {
        let ca = self.sync.identity.ca();
        self.grant(state).is_some_and(|grant| {
            let wanted = grant.certified(self.sync.identity.record_key().public());
            grant.epoch == ca.grant().epoch && wanted.wider_than(ca.grant()).is_some()
        })
    }

    /// Whether no root that stays has certified this node.
    fn is_leaving(&self, state: &State) -> bool {
        self.sync.identity.ca().chain().last().is_some_and(|enroller| state.trust().is_leaving(enroller))
    }

    /// Whether others take the CA for one of the future: it was certified by a clock that was ahead.
    fn is_early(&self) -> bool {
        is_ahead(self.sync.identity.ca().not_before(), self.sync.clock.now())
    }

    /// Whether no link opens by the certificates of now.
    fn is_cut_off(&self, state: &State) -> bool {
        let ca = self.sync.identity.ca();
        let rooted = |enroller: &Vec<u8>| anchor(enroller, &state.trust().roots).is_some();
        let is_over = ca.not_after() <= self.sync.clock.now();
        is_over || self.is_early() || !ca.chain().last().is_some_and(rooted)
    }

    fn is_urgent(&self, state: &State) -> bool {
        self.is_leaving(state) || self.is_cut_off(state)
    }

    /// Whether a renewed chain is worth having: one under a root that ends, too, is only if the one of now is old.
    fn is_better(&self, state: &State, chain: &[Vec<u8>]) -> bool {
        let moved = chain.last().is_some_and(|enroller| !state.trust().is_leaving(enroller));
        let half = half_life(&self.sync.identity.ca(), millis(state.lifetimes().node_ca), 0.0);
        moved || !self.is_leaving(state) || half <= self.sync.clock.now()
    }

    fn grant<'a>(&self, state: &'a State) -> Option<&'a Arc<NodeGrant>> {
        state.grants().get(self.sync.node()).filter(|grant| !grant.retired)
    }

    async fn renew(&self, state: &State) -> Result<(), Error> {
        let identity = &self.sync.identity;
        let hint = format!("invite this node again: skein invite {} --replace", identity.node());
        let grant =
            self.grant(state).ok_or_else(|| fail("not_granted", format!("{} has no grant", identity.node()), hint))?;
        let (now, life) = (self.sync.clock.now(), millis(state.lifetimes().node_ca));
        let by_others = async {
            let chain = if self.is_cut_off(state) { self.lapsed(state).await } else { self.by_link(state).await };
            self.take(chain?).await
        };
        let own = identity.enroller().map(|own| {
            let lasts = own.not_after() >= now.saturating_add(life / 2);
            let by_itself = async move {
                let ended = |error: &dyn std::fmt::Display| {
                    let hint = format!("with the root's key: skein ca renew {}", identity.node());
                    fail("enroller_expired", format!("this node's enroller CA does not serve: {error}"), hint)
                };
                let ca = identity.ca();
                if !gains(&ca, &own) && !self.is_narrow(state) && !self.is_early() {
                    return Err(ended(&"the node CA lasts as long as it already"));
                }
                let keys = (&ca.key().spki()[..], identity.record_key().public());
                let chain = own.certify(grant, keys, Some(ca.chain()), life, now).map_err(|error| ended(&error))?;
                if !self.is_better(state, &chain) {
                    return Err(ended(&"it is under a root that retires"));
                }
                self.take(chain).await
            };
            (lasts, by_itself)
        });
        by_either(own, by_others).await
    }

    /// Takes a renewed chain into use if it holds here, and tells everybody.
    async fn take(&self, chain: Vec<Vec<u8>>) -> Result<(), Error> {
        let (dir, sync, renewed) = (self.dir.clone(), self.sync.clone(), chain.clone());
        let written = tokio::task::spawn_blocking(move || {
            let authority = sync.world.authority().load_full();
            sync.identity.renewed(&dir, renewed, &authority, sync.clock.now())
        });
        written.await.map_err(internal)??;
        self.sync.members.publish(Body::Identity(IdentityBody { chain })).await;
        let (now, node) = (self.sync.clock.now(), self.sync.identity.node());
        self.sync.events.note(now, event::Kind::IdentityRenewed, node, "the node CA was renewed");
        Ok(())
    }

    /// Any enroller with an open link will do.
    async fn by_link(&self, state: &State) -> Result<Vec<Vec<u8>>, Error> {
        let identity = &self.sync.identity;
        let ca = identity.ca();
        let renew = Renew { request: ca.key().request(identity.node()), chain: ca.chain().to_vec() };
        let request = certs::codec::encode(&renew);
        let is_enroller =
            |node: &NodeId| state.grants().get(node).is_some_and(|grant| grant.enroller && !grant.retired);
        // In a large mesh none of them need be linked.
        let view = self.sync.world.view();
        let able = view.members().values().filter(|member| member.usable() && is_enroller(&member.id));
        for member in able.filter(|member| member.id != *self.sync.node()) {
            self.sync.members.want(&member.id).await;
        }
        let is_linked = || self.sync.links.all().iter().any(|link| is_enroller(&link.peer().node));
        let linked = async {
            while !is_linked() {
                tokio::time::sleep(LINKING / 20).await;
            }
        };
        // Without one the answer says so.
        let _ = tokio::time::timeout(LINKING, linked).await;
        let mut links = self.sync.links.all();
        links.retain(|link| is_enroller(&link.peer().node));
        links.shuffle(&mut rand::rng());
        // Who redeemed this node's invite says so anew, by its certificate of now.
        let redeemer = self.grant(state).map(|grant| grant.redeemed_by().clone());
        links.sort_by_key(|link| Some(&link.peer().node) != redeemer.as_ref());
        let mut last = fail("unreachable", "no enroller is linked", "start one of the enrollers");
        for link in links {
            let node = &link.peer().node;
            let reply = match link.request(wire::RENEW, request.clone().into(), PATIENCE).await {
                Ok(reply) => reply,
                Err(error) => {
                    last = fail("unreachable", format!("{node}: {error}"), format!("is it well? `skein ping {node}`"));
                    continue;
                }
            };
            match wire::reply::<Renewed>(&reply) {
                Ok(Renewed::Chain(chain)) if self.is_better(state, &chain) => return Ok(chain),
                Ok(Renewed::Chain(_)) => {
                    let message = format!("the enroller CA of {node} is under a root that retires, too");
                    last = fail("refused", message, format!("with the new root's key: skein ca renew {node}"));
                }
                Ok(Renewed::Refused(code, message)) => {
                    let hint = "is this node's grant as it should be? `skein status` at the enroller; `skein invite NODE --replace` begins anew";
                    last = fail("refused", format!("{node}: {code}: {message}"), hint);
                }
                Err(error) => {
                    let hint = "do both run neighbouring versions? `skein members` shows them";
                    last = fail("failed", format!("{node}: {error}"), hint);
                }
            }
        }
        Err(last)
    }

    /// Certificates that count no more open no link; the enrolment port still knows the key.
    async fn lapsed(&self, state: &State) -> Result<Vec<Vec<u8>>, Error> {
        let enrols = |node: &NodeId| state.grants().get(node).is_some_and(|grant| grant.enroller && !grant.retired);
        let view = self.sync.world.view();
        let members = view.members().values().filter(|member| member.id != *self.sync.node() && enrols(&member.id));
        let mut asked: Vec<SocketAddr> = members.flat_map(|member| member.addresses.iter().copied()).collect();
        for address in self.addresses.all(enrols).await {
            if !asked.contains(&address) {
                asked.push(address);
            }
        }
        let mut last = fail("unreachable", "no enroller's address is known", "start one of the enrollers");
        for address in asked.into_iter().take(ATTEMPTED) {
            let learn = async |chain| self.sync.learn_shown(chain, &address.to_string()).await;
            match renew_lapsed(&self.sync.identity, address, learn).await {
                Ok(chain) => return Ok(chain),
                // What an enroller says tells more than that others are none.
                Err(error) if error.code == "refused" || last.code != "refused" => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    }
}

/// When the next attempt may be: whatever is due, renewal never spins.
#[derive(Debug, Default)]
struct Pace {
    failures: u32,
    /// Uptime: wall time may be set back by months.
    not_before: Millis,
}

impl Pace {
    /// What was renewed may be due again at once: the enroller does not know a wider grant yet, or soon ends itself.
    fn succeeded(&mut self, now: Millis) {
        *self = Self { failures: 0, not_before: now.saturating_add(millis(RETRY)) };
    }

    /// `jitter` in 0..1 spreads the nodes.
    fn failed(&mut self, now: Millis, longest: Duration, jitter: f64) {
        let pause = longest.min(RETRY * 2u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.saturating_add(millis(pause.mul_f64(0.75 + 0.5 * jitter)));
    }
}

/// Whether this node's own enroller CA can certify what lasts longer than what the node has, or stems from elsewhere.
fn gains(ca: &NodeCa, own: &Enroller) -> bool {
    ca.chain().last() != own.chain().first() || ca.not_after() < own.not_after()
}

/// Half of the CA's life, a little earlier by `jitter` in 0..1. A life that policy shortened counts from the issue of the old
/// certificate on; the time before, for clocks that are behind, is nobody's life.
fn half_life(ca: &NodeCa, wanted: Millis, jitter: f64) -> Millis {
    let life = ca.not_after().saturating_sub(ca.issued()).min(wanted) as f64;
    ca.issued() + (life * (0.5 - 0.05 * jitter)) as Millis
}

/// Renews by this node's own enroller CA and by other enrollers, the one that gives more first, the other where that fails. `own`
/// says whether the enroller CA lasts long enough to give a life's half; absent on nodes that have none. An enroller hears what its own
/// CA lacks: nobody else may be there to ask.
async fn by_either(
    own: Option<(bool, impl Future<Output = Result<(), Error>>)>,
    others: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let Some((lasts, own)) = own else { return others.await };
    let (mine, theirs) = if lasts {
        let Err(mine) = own.await else { return Ok(()) };
        let Err(theirs) = others.await else { return Ok(()) };
        (mine, theirs)
    } else {
        let Err(theirs) = others.await else { return Ok(()) };
        let Err(mine) = own.await else { return Ok(()) };
        (mine, theirs)
    };
    tracing::debug!("no other enroller renews the node CA: {theirs}");
    Err(mine)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use certs::{ca::CaKey, id::TrustDomain, root::Root, sign::SigningKey};

    use super::*;

    const NOW: Millis = 1_800_000_000_000;
    const MINUTE: Millis = 60_000;

    /// A node CA that was issued at `NOW` to live so long, by an enroller CA that ends so much later.
    fn ca(life: Millis, enroller_ends: Millis) -> NodeCa {
        certified(life, enroller_ends).0
    }

    /// The same with that enroller CA.
    fn certified(life: Millis, enroller_ends: Millis) -> (NodeCa, Enroller) {
        let (mesh, node) = (TrustDomain::new("t.example").unwrap(), NodeId::new("a").unwrap());
        let (root, key, own) = (Root::generate(&mesh, NOW), CaKey::generate(), CaKey::generate());
        let certificate = root.issue_enroller_for(&node, 1, &key.spki(), enroller_ends, NOW).unwrap();
        let enroller = Enroller::new(&mesh, vec![certificate], key).unwrap();
        let grant = NodeGrant {
            node,
            epoch: 1,
            services: Vec::new(),
            token_hash: None,
            redeemer: None,
            token_expires: None,
            enroller: true,
            retired: false,
        };
        let keys = (own.spki(), SigningKey::generate().public());
        let chain = enroller.certify(&grant, (&keys.0, keys.1), None, life, NOW).unwrap();
        (NodeCa::new(&mesh, chain, own).unwrap(), enroller)
    }

    #[test]
    fn what_was_just_renewed_is_not_due() {
        for (life, ends) in [(10, 60 * 24), (10, 7), (30 * 24 * 60, 3), (30 * 24 * 60, 400 * 24)] {
            for jitter in [0.0, 1.0] {
                let ca = ca(life * MINUTE, ends * MINUTE);
                let left = ca.not_after() - NOW;
                let due = half_life(&ca, life * MINUTE, jitter);
                // Whole seconds, as X.509 has it.
                assert!(due + 1_000 > NOW + left * 2 / 5 && due < NOW + left, "{life} {ends}: {due} of {left}");
            }
        }
        // Shortened to what has passed: due at once, and no sooner than its issue.
        let due = half_life(&ca(60 * MINUTE, 600 * MINUTE), 10 * MINUTE, 0.0);
        assert!(due.abs_diff(NOW + 5 * MINUTE) < 1_001, "{due}");
    }

    #[test]
    fn an_enroller_does_not_renew_what_ends_with_its_own_ca() {
        for (life, ends, more) in [(10, 60, true), (30 * 24 * 60, 60, false), (60, 60, false)] {
            let (ca, own) = certified(life * MINUTE, ends * MINUTE);
            assert_eq!(gains(&ca, &own), more, "{life} {ends}");
            let (_, renewed) = certified(life * MINUTE, ends * MINUTE);
            assert!(
                gains(&ca, &renewed),
                "another certificate of the enroller CA: a renewed one, or one of another root"
            );
        }
    }

    #[test]
    fn after_every_attempt_there_is_a_pause() {
        let mut pace = Pace::default();
        assert_eq!(pace.not_before, 0);
        pace.succeeded(NOW);
        assert_eq!(pace.not_before, NOW + 5_000);
        let mut before = 0;
        for _ in 0..7 {
            pace.failed(NOW, LONGEST_RETRY, 0.5);
            assert!(pace.not_before - NOW > before, "{pace:?}");
            before = pace.not_before - NOW;
        }
        for _ in 0..100 {
            pace.failed(NOW, LONGEST_RETRY, 1.0);
        }
        assert_eq!(pace.not_before, NOW + 750_000);
        pace.succeeded(NOW);
        assert_eq!((pace.failures, pace.not_before), (0, NOW + 5_000));
    }

    #[tokio::test]
    async fn an_enroller_asks_others_where_its_own_ca_does_not_serve() {
        let asked = RefCell::new(String::new());
        let way = |name: &'static str, holds: bool| {
            let asked = &asked;
            async move {
                asked.borrow_mut().push_str(name);
                if holds { Ok(()) } else { Err(fail("failed", name, "")) }
            }
        };
        for (lasts, own, others, order, outcome) in [
            (true, true, true, "o", Ok(())),
            (true, false, true, "ox", Ok(())),
            (true, false, false, "ox", Err("o")),
            (false, true, true, "x", Ok(())),
            (false, true, false, "xo", Ok(())),
            (false, false, false, "xo", Err("o")),
        ] {
            asked.borrow_mut().clear();
            let done = by_either(Some((lasts, way("o", own))), way("x", others)).await;
            assert_eq!(done.map_err(|error| error.message), outcome.map_err(str::to_owned), "{lasts} {own} {others}");
            assert_eq!(*asked.borrow(), order);
        }
        asked.borrow_mut().clear();
        let none = Some((true, way("o", true))).filter(|_| false);
        assert!(by_either(none, way("x", false)).await.is_err());
        assert_eq!(*asked.borrow(), "x");
    }
}
