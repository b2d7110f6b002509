//! Asks every node how it sees the mesh, often enough to tell milliseconds.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::Client;
use super::machine::Machine;
use crate::clock::monotonic;

/// Between two questions to one node.
const STEP: Duration = Duration::from_millis(5);
/// How long a node may take for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// One node's admin port.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) name: &'static str,
    admin: SocketAddr,
    client: Client,
}

/// What `members` says, as far as it is read here.
#[derive(Debug, Deserialize)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) state: String,
}

/// What `endpoints` says, as far as it is read here.
#[derive(Debug, Deserialize)]
pub(super) struct Endpoint {
    pub(super) node: String,
    pub(super) health: String,
}

#[derive(Debug, Deserialize)]
struct Status {
    policy: Policy,
}

#[derive(Debug, Deserialize)]
struct Policy {
    digest: String,
}

impl Watcher {
    /// Watches the node of a machine.
    pub(super) fn new(machine: &Machine) -> Self {
        Self { name: machine.name(), admin: machine.admin, client: Client::new(machine.admin) }
    }

    /// Who is a member, as this node sees it.
    ///
    /// # Errors
    /// The node does not answer.
    pub(super) async fn members(&self) -> anyhow::Result<Vec<Member>> {
        self.get("/v1/members").await
    }

    /// Where services are, as this node sees it.
    ///
    /// # Errors
    /// The node does not answer.
    pub(super) async fn endpoints(&self) -> anyhow::Result<Vec<Endpoint>> {
        self.get("/v1/endpoints").await
    }

    /// Digest of the policy that this node has.
    ///
    /// # Errors
    /// The node does not answer.
    pub(super) async fn policy(&self) -> anyhow::Result<String> {
        Ok(self.get::<Status>("/v1/status").await?.policy.digest)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = Request::get(path).header(header::HOST, self.admin.to_string()).body(Empty::<Bytes>::new())?;
        let answer = self.client.send(request, PATIENCE).await;
        let (head, body) = answer.with_context(|| format!("{} does not answer", self.name))?.into_parts();
        if head.status != StatusCode::OK {
            let body = String::from_utf8_lossy(&body);
            bail!("{} answers {} for {path}: {}", self.name, head.status, body.trim());
        }
        serde_json::from_slice(&body).with_context(|| format!("{} answers something else for {path}", self.name))
    }
}

/// Asks all until they have one policy, and another one than `before`; gives the time that took.
///
/// # Errors
/// A node does not answer, or `limit` passed first.
pub(super) async fn agree(watchers: &[&Watcher], before: &str, limit: Duration) -> anyhow::Result<Duration> {
    let started = monotonic();
    loop {
        let digests = try_join_all(watchers.iter().map(|watcher| watcher.policy())).await?;
        let first = digests.first().map_or("", String::as_str);
        if first != before && digests.iter().all(|digest| digest == first) {
            return Ok(started.elapsed());
        }
        if started.elapsed() > limit {
            let names = watchers.iter().zip(&digests).filter(|(_, digest)| *digest != first);
            let names: Vec<_> = names.map(|(watcher, _)| watcher.name).collect();
            bail!("after {} ms not all nodes have the same new policy ({})", limit.as_millis(), names.join(", "));
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Asks all until each one's answer passes; gives the time until the last one's did.
///
/// # Errors
/// `limit` passed first; says what is still amiss.
pub(super) async fn until<'a, F>(
    what: &str,
    watchers: &'a [&'a Watcher],
    limit: Duration,
    passes: impl Fn(&'a Watcher) -> F,
) -> anyhow::Result<Duration>
where
    F: Future<Output = anyhow::Result<bool>>,
{
    let started = monotonic();
    let one = |watcher| {
        let passes = &passes;
        async move {
            loop {
                let amiss = match passes(watcher).await {
                    Ok(true) => return Ok(started.elapsed()),
                    Ok(false) => format!("{}: {what} does not hold", watcher.name),
                    Err(error) => format!("{error:#}"),
                };
                if started.elapsed() > limit {
                    return Err(amiss);
                }
                tokio::time::sleep(STEP).await;
            }
        }
    };
    let mut longest = Duration::ZERO;
    for result in join_all(watchers.iter().map(|watcher| one(*watcher))).await {
        match result {
            Ok(time) => longest = longest.max(time),
            Err(amiss) => bail!("after {} ms still not: {what} ({amiss})", limit.as_millis()),
        }
    }
    Ok(longest)
}
