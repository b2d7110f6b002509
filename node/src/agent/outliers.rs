//! Outlier data between nodes: what fails here is told to all, what others tell makes this node look for itself. One task
//! carries it between the circuits, the mesh and the owners of endpoints; what a report may cause is decided in
//! [`crate::balance::outlier`].

mod detection;
mod reports;

use std::{sync::Arc, time::Duration};

use certs::codec;
use membership::{body::Body, statement::OutlierRecord};
use policy::kinds::OutlierSharing;

use self::{
    detection::Detection,
    reports::{LISTED, Reports},
};
use super::{
    hearing::{Hearing, Word},
    links::Links,
    local::{Local, Looked},
    members::Members,
    wire::{self, Look},
};
use crate::{
    balance::Key,
    clock,
    mesh::peer::LinkError,
    snapshot::{Circuits, Current, EndpointId, Outlets},
    tasks::Tasks,
};

/// An owner has this long to check an endpoint and answer; less than after which a probe is given up.
const PATIENCE: Duration = Duration::from_secs(4);

/// Everything that the task touches.
pub struct Sharing {
    /// Counts requests and decides.
    pub circuits: Arc<Circuits>,
    /// What they want told and asked.
    pub outlets: Outlets,
    /// What others say.
    pub hearing: Hearing,
    /// The way to say something.
    pub members: Members,
    /// The way to owners.
    pub links: Links,
    /// Endpoints, and whether to share.
    pub current: Current,
    /// The endpoints of this node.
    pub local: Arc<Local>,
    /// Owner of probes.
    pub tasks: Tasks,
}

impl Sharing {
    /// Runs until the process ends.
    pub async fn run(mut self) {
        let mut reports = Reports::default();
        let mut changes = self.current.subscribe();
        let mut shares = self.look_at_policy();
        let mut detection = Detection::default();
        detection.follow(&self.current.load());
        loop {
            let now = clock::uptime();
            let due = reports.due(now).map(|due| Duration::from_millis(due.saturating_sub(now)));
            tokio::select! {
                suspect = self.outlets.suspects.recv() => {
                    let Some(endpoint) = suspect else { return };
                    reports.watch(&endpoint, clock::uptime());
                }
                wanted = self.outlets.probes.recv() => {
                    let Some(endpoint) = wanted else { return };
                    self.probe(endpoint);
                }
                words = self.hearing.outliers.next() => {
                    words.into_iter().for_each(|(node, word)| self.hear(node.as_str().into(), &word, &detection));
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    shares = self.look_at_policy();
                    detection.follow(&self.current.load());
                }
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
                () = self.tasks.stopping() => return,
            }
            let said = if shares { reports.say(clock::uptime()) } else { reports.end() };
            if let Some(records) = said {
                self.members.publish(Body::Outliers(records)).await;
            }
        }
    }

    /// Takes over what MeshConfig says now.
    fn look_at_policy(&self) -> bool {
        let snapshot = self.current.load();
        let shares = snapshot.compiled.config().outlier_sharing == OutlierSharing::Probe;
        self.circuits.share(shares, snapshot.authority.grants.len());
        shares
    }

    /// Takes what a member said; of endpoints that are not there, or of which nobody detects outliers, nothing is kept. However
    /// much it says, no more is looked at than an honest one tells.
    fn hear(&self, reporter: Key, word: &Word<OutlierRecord>, detection: &Detection) {
        let snapshot = self.current.load();
        let records = word.said.iter().flatten().flat_map(|part| part.iter()).take(LISTED);
        let records = records.filter(|record| record.failures > 0);
        let known = |record: &OutlierRecord| {
            let id = reports::id(record);
            let service = snapshot.services.get(&id.service).filter(|service| detection.covers(&service.name))?;
            let found = service.endpoints.binary_search_by(|endpoint| endpoint.id.cmp(&id)).ok()?;
            Some((Key::clone(service.endpoints[found].stats.key()), record.failures))
        };
        let failing: Vec<(Key, u32)> = records.filter_map(known).collect();
        if !failing.is_empty() {
            self.circuits.reported(&reporter, &failing, clock::uptime(), rand::random());
        }
    }

    /// Asks an endpoint's owner to look at it.
    fn probe(&self, endpoint: Key) {
        let Some(id) = self.endpoint(&endpoint) else { return };
        let (circuits, local, links) = (Arc::clone(&self.circuits), Arc::clone(&self.local), self.links.clone());
        let own = self.current.read().node == id.node;
        self.tasks.detach("outlier-probe", async move {
            let looked =
                if own { local.look(&id.service, id.instance.as_deref()).await } else { ask(&links, &id).await };
            circuits.probed(Key::clone(&endpoint), looked != Looked::Failing, clock::uptime(), rand::random());
            tracing::debug!(%endpoint, ?looked, "an endpoint that others report was probed");
        });
    }

    /// The endpoint of a key; `None` if it is gone.
    fn endpoint(&self, key: &Key) -> Option<EndpointId> {
        let mut parts = key.splitn(3, '/').skip(1);
        let (namespace, rest) = (parts.next()?, parts.next()?);
        let name = rest.split_once('/').map_or(rest, |(name, _)| name);
        let service = format!("{namespace}/{name}").parse().ok()?;
        let snapshot = self.current.load();
        let endpoints = &snapshot.services.get(&service)?.endpoints;
        endpoints.iter().find(|endpoint| endpoint.stats.key() == key).map(|endpoint| endpoint.id.clone())
    }
}

/// The owner's word.
async fn ask(links: &Links, id: &EndpointId) -> Looked {
    let Some(link) = links.to(&id.node) else { return Looked::Unknown };
    let look = Look { service: id.service.clone(), instance: id.instance.as_deref().map(str::to_owned) };
    match link.request(wire::LOOK, codec::encode(&look).into(), PATIENCE).await {
        Ok(reply) => wire::reply(&reply).unwrap_or(Looked::Unknown),
        Err(error) => unanswered(&error),
    }
}

/// A build that does not know the question refuses it, and one without a link cannot be asked: neither says anything of the
/// endpoint. Nor does a link that ends meanwhile, as links do when an owner restarts or paths change; whether the owner is
/// dead is judged elsewhere. An owner that is linked and silent does.
const fn unanswered(error: &LinkError) -> Looked {
    match error {
        LinkError::Timeout(_) => Looked::Failing,
        LinkError::Closed(_) | LinkError::Refused | LinkError::Full | LinkError::TooLong(_) => Looked::Unknown,
    }
}

#[cfg(test)]
mod tests;
