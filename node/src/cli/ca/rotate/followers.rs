//! Which nodes have followed a step, by their own signatures.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certs::{codec::Millis, id::NodeId};
use serde::Serialize;

use super::Change;
use crate::{
    agent::{
        admin::api::{Mesh, Pushed},
        receipt::{Receipt, Standing},
    },
    cli::{
        context::Context,
        directory::Known,
        error::{Error, Result},
        progress::Line,
    },
    clock,
};

/// How long one question to all nodes may take; then they are asked again.
const ROUND: Duration = Duration::from_secs(3);
/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(300);

/// By which roots the chain under a node's word must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Under {
    /// Any that is trusted now.
    AnyRoot,
    /// Those that stay.
    StayingRoots,
}

/// Where each node stands.
#[derive(Debug, Default)]
pub(super) struct Followers(BTreeMap<NodeId, Follower>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Follower {
    /// It signed that it has.
    Followed,
    /// It lives and has not, with the reason.
    Waiting(String),
    /// It has, and something of it still hangs on nodes that have not, or on what is under way.
    Busy(String),
    /// It is not reached.
    Away,
}

/// A live node that has not followed.
#[derive(Debug, Serialize)]
pub(super) struct Waiting {
    node: NodeId,
    why: String,
}

impl Change {
    /// Asks until every live node has followed, at most --timeout.
    pub(super) async fn followers(&mut self, ctx: &Context, under: Under) -> Result<Followers> {
        let deadline = clock::monotonic() + ctx.globals.timeout;
        let mut line = Line::here();
        loop {
            let followers = self.followers_now(under).await?;
            if followers.waiting().is_empty() || clock::monotonic() >= deadline {
                return Ok(followers);
            }
            if let Some(line) = &mut line {
                line.show(&followers.words());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks once.
    pub(super) async fn followers_now(&mut self, under: Under) -> Result<Followers> {
        let path = format!("/v1/ca/settled?timeout_ms={}", ROUND.as_millis());
        let said: Pushed = self.client.get(&path).await?;
        let mesh: Mesh = self.client.get("/v1/mesh").await?;
        let role_set = self.state.role_set.changeset.to_string();
        if said.changeset != role_set {
            let message = format!("{} follows another RoleSet than {}", self.client.reached(), &role_set[..12]);
            return Err(
                Error::new("stale_parent", message).hint("somebody signed one meanwhile: give the command again")
            );
        }
        let trust = self.trust();
        let roots = match under {
            Under::AnyRoot => trust.roots.clone(),
            Under::StayingRoots => trust.staying(),
        };
        let judge = Judge { role_set, roots, every: trust.roots.clone(), known: self.operator.directory.known()? };
        Ok(judge.followers(&said, &mesh, clock::wall()))
    }
}

/// What a word must bear.
struct Judge {
    role_set: String,
    /// Those under which the word must hold.
    roots: Vec<Vec<u8>>,
    /// All that are trusted.
    every: Vec<Vec<u8>>,
    known: Known,
}

impl Judge {
    fn followers(&self, said: &Pushed, mesh: &Mesh, now: Millis) -> Followers {
        let mut all: BTreeMap<NodeId, Follower> = BTreeMap::new();
        for node in &said.unreachable {
            let alive = mesh.nodes.iter().any(|known| known.name == *node && known.alive);
            let waiting = || Follower::Waiting("it lives, and the node that was asked has no link to it".to_owned());
            all.insert(node.clone(), if alive { waiting() } else { Follower::Away });
        }
        for node in said.pending.iter().chain(&said.durable) {
            all.insert(node.clone(), Follower::Waiting("nothing was heard from it".to_owned()));
        }
        let [any_root, staying] = [&self.every, &self.roots].map(|roots| self.known.authority(roots.clone()));
        for bytes in said.receipts.iter().filter_map(|text| STANDARD.decode(text).ok()) {
            let Some(any) = Receipt::prove(&bytes, &any_root, now) else { continue };
            if any.changeset().to_string() != self.role_set {
                continue;
            }
            let moved = Receipt::prove(&bytes, &staying, now).is_some();
            all.insert(
                any.node,
                match (any.standing, moved) {
                    (Standing::Settled, true) => Follower::Followed,
                    (Standing::Applied | Standing::Settled, false) => {
                        Follower::Waiting("its CA is not renewed under the new root yet".to_owned())
                    }
                    (Standing::Applied, true) => Follower::Busy(
                        "connections, an enroller CA or what it heard of others still rest on the old root".to_owned(),
                    ),
                    (Standing::Unreadable, _) => {
                        Follower::Waiting("its version of skein cannot read the RoleSet".to_owned())
                    }
                    (Standing::Durable | Standing::Proposed | Standing::Superseded | Standing::Conflicted, _) => {
                        Follower::Waiting("the RoleSet is not in effect there yet".to_owned())
                    }
                },
            );
        }
        Followers(all)
    }
}

impl Followers {
    /// Nodes that have followed.
    pub(super) fn followed(&self) -> Vec<NodeId> {
        self.which(|follower| *follower == Follower::Followed)
    }

    /// Nodes that nobody reaches.
    pub(super) fn away(&self) -> Vec<NodeId> {
        self.which(|follower| *follower == Follower::Away)
    }

    /// Live nodes that have not followed.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let waiting = self.0.iter().filter_map(|(node, follower)| match follower {
            Follower::Waiting(why) | Follower::Busy(why) => Some(Waiting { node: node.clone(), why: why.clone() }),
            Follower::Followed | Follower::Away => None,
        });
        waiting.collect()
    }

    /// Live nodes whose connections are cut if nobody waits for them.
    pub(super) fn busy(&self) -> Vec<NodeId> {
        self.which(|follower| matches!(follower, Follower::Busy(_)))
    }

    /// Live nodes that are left behind; none unless that is wanted.
    pub(super) fn left_behind(&self, force: bool, what: &str) -> Result<Vec<NodeId>> {
        let waiting = self.waiting();
        if waiting.is_empty() || force {
            return Ok(self.which(|follower| matches!(follower, Follower::Waiting(_))));
        }
        let each: Vec<_> = waiting.iter().map(|waiting| format!("{}: {}", waiting.node, waiting.why)).collect();
        let message = format!("{} live nodes {what}: {}", waiting.len(), each.join("; "));
        Err(Error::new("not_acknowledged", message)
            .hint("give the command again, with a longer --timeout; --force leaves them behind"))
    }

    /// How far it is, for one who waits.
    fn words(&self) -> String {
        let (waiting, away) = (self.waiting(), self.away().len());
        let followed = self.followed().len();
        let mut text = format!("{followed} of {} nodes have followed", followed + waiting.len());
        if let Some(first) = waiting.first() {
            let more = if waiting.len() > 1 { format!(" ({} more wait)", waiting.len() - 1) } else { String::new() };
            text += &format!("; {}: {}{more}", first.node, first.why);
        }
        if away > 0 {
            text += &format!("; {away} away");
        }
        text
    }

    /// One line each.
    pub(super) fn text(&self) -> String {
        let line = |(node, follower): (&NodeId, &Follower)| match follower {
            Follower::Followed => format!("followed  {node}\n"),
            Follower::Waiting(why) | Follower::Busy(why) => format!("waiting   {node}: {why}\n"),
            Follower::Away => format!("away      {node}: it renews by its key when it returns\n"),
        };
        self.0.iter().map(line).collect()
    }

    fn which(&self, wanted: impl Fn(&Follower) -> bool) -> Vec<NodeId> {
        self.0.iter().filter(|(_, follower)| wanted(follower)).map(|(node, _)| node.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use certs::{
        ca::{CaKey, Enroller},
        grant::NodeGrant,
        id::TrustDomain,
        root::Root,
        sign::{Digest, SigningKey},
    };

    use super::*;
    use crate::agent::admin::api::Out;

    const NOW: Millis = 1_800_000_000_000;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    /// A receipt of a node that was certified under the root.
    fn receipt(root: &Root, mesh: &TrustDomain, name: &str, standing: Standing) -> String {
        let (enroller_key, ca_key, record) = (CaKey::generate(), CaKey::generate(), SigningKey::generate());
        let certificate = root.issue_enroller(&node("e"), 1, &enroller_key.spki(), NOW).unwrap();
        let enroller = Enroller::new(mesh, vec![certificate], enroller_key).unwrap();
        let grant = NodeGrant {
            node: node(name),
            epoch: 1,
            services: Vec::new(),
            token_hash: None,
            redeemer: None,
            token_expires: None,
            enroller: false,
            retired: false,
        };
        let chain = enroller.issue_node_unchecked(&ca_key.spki(), &grant.certified(record.public()), NOW).unwrap();
        let (trust_domain, changeset) = (mesh.clone(), Digest([7; 32]));
        let receipt = Receipt { trust_domain, node: node(name), changeset, standing, at: NOW, extensions: Vec::new() };
        STANDARD.encode(receipt.sign(&record, &chain))
    }

    #[test]
    fn a_word_counts_only_under_a_root_that_stays() {
        let mesh = TrustDomain::new("t.example").unwrap();
        let [old, new, foreign] = [0, 1, 2].map(|_| Root::generate(&mesh, NOW));
        let said = Pushed {
            changeset: String::new(),
            durable: ["moved", "old", "busy", "liar", "replaced"].map(node).to_vec(),
            applied: Vec::new(),
            unreadable: Vec::new(),
            pending: vec![node("silent")],
            unreachable: vec![node("off"), node("apart")],
            complete: false,
            elapsed_ms: 1,
            receipts: vec![
                receipt(&new, &mesh, "moved", Standing::Settled),
                receipt(&old, &mesh, "old", Standing::Settled),
                receipt(&new, &mesh, "busy", Standing::Applied),
                receipt(&foreign, &mesh, "liar", Standing::Settled),
                receipt(&new, &mesh, "replaced", Standing::Settled),
            ],
            proposal: None,
        };
        let known = |name: &str, alive| crate::agent::admin::api::KnownNode {
            name: node(name),
            addresses: Vec::new(),
            enroller: false,
            alive,
        };
        let seen = Mesh {
            out: Out::default(),
            trust_domain: mesh.clone(),
            node: node("moved"),
            genesis: Digest([7; 32]),
            role_set: 3,
            keys: Vec::new(),
            bundle: String::new(),
            nodes: vec![known("off", false), known("apart", true)],
            joined: Vec::new(),
        };
        let (role_set, roots) = (Digest([7; 32]).to_string(), vec![new.certificate()]);
        // The name of one has another machine since.
        let ended = BTreeMap::from([(node("replaced"), 1)]);
        let known = Known {
            trust_domain: mesh,
            genesis: Digest([7; 32]),
            role_set: 3,
            out: Out { ended, ..Out::default() },
            nodes: Vec::new(),
            later: toml::Table::new(),
        };
        let judge = Judge { role_set, roots, every: vec![old.certificate(), new.certificate()], known };
        let followers = judge.followers(&said, &seen, NOW);
        assert_eq!((followers.followed(), followers.away()), (vec![node("moved")], vec![node("off")]));
        let waiting: Vec<_> = followers.waiting().into_iter().map(|waiting| waiting.node.to_string()).collect();
        assert_eq!(waiting, ["apart", "busy", "liar", "old", "replaced", "silent"]);
        let refused = followers.left_behind(false, "lag").unwrap_err();
        assert_eq!((&*refused.code, refused.class().exit_code()), ("not_acknowledged", 4));
        assert!(refused.message.contains("busy: connections"), "{}", refused.message);
        assert_eq!(
            followers.left_behind(true, "lag").unwrap(),
            ["apart", "liar", "old", "replaced", "silent"].map(node)
        );
        assert_eq!(followers.busy(), [node("busy")]);
        let words = followers.words();
        assert!(words.starts_with("1 of 7 nodes have followed; apart: it lives"), "{words}");
        assert!(words.ends_with(" (5 more wait); 1 away"), "{words}");
        // A word about another RoleSet is none.
        let other = Judge { role_set: String::new(), ..judge };
        assert!(other.followers(&said, &seen, NOW).followed().is_empty());
    }
}
